"""Lennard-Jones in reduced units (epsilon = sigma = 1): NIST configurations, fcc lattice sums, the LAMMPS melt."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rows import printed, row, worst

from jaxmlip.energy import LennardJones, energy_forces_stress, energy_forces_virial, system_energies
from jaxmlip.graph import batch
from jaxmlip.system import System, make_system

# https://www.nist.gov/mml/csd/chemical-informatics-group/lennard-jones-fluid-reference-calculations-cuboid-cell, as
# printed: configuration; energy, virial (sum over pairs of r . f) and tail at a cutoff of 3, the same at 4; energy and
# virial with a linear force shift at 3.
PRINTED = {
    1: ("-4.3515E+03 -5.6867E+02 -1.9849E+02", "-4.4675E+03 -1.2639E+03 -8.3769E+01", "-3.8709E+03 3.1754E+02"),
    2: ("-6.9000E+02 -5.6846E+02 -2.4230E+01", "-7.0460E+02 -6.5599E+02 -1.0226E+01", "-6.2012E+02 -4.4533E+02"),
    3: ("-1.1467E+03 -1.1649E+03 -4.9622E+01", "-1.1754E+03 -1.3371E+03 -2.0942E+01", "-1.0210E+03 -9.3578E+02"),
    4: ("-1.6790E+01 -4.6249E+01 -5.4517E-01", "-1.7060E+01 -4.7869E+01 -2.3008E-01", "-1.5001E+01 -4.3096E+01"),
}
FCC = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]) / np.sqrt(2.0)  # nearest neighbors at 1

# A few evaluations each: compiling well would cost more than it gains.
QUICKLY = {"xla_backend_optimization_level": 0}
virial = jax.jit(energy_forces_virial, compiler_options=QUICKLY)
stress = jax.jit(energy_forces_stress, compiler_options=QUICKLY)
energies = jax.jit(system_energies, compiler_options=QUICKLY)


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    folder = None if data is None else data / "reference" / "nist_srsw"
    nist, golden = ([], []) if folder is None or not folder.is_dir() else nist_rows(folder)
    sums, melt = lattice_rows(), melt_rows()
    keys = {
        "nist_lj_max_rel": worst(nist) if nist else None,
        "nist_lj_full_max_rel": worst(golden) if golden else None,
        "lattice_sum_max_rel": worst(sums),
        "melt_max_rel": worst(melt),
    }
    return keys, nist + golden + sums + melt


def nist_rows(folder: Path) -> tuple[list[dict], list[dict]]:
    """Against the digits that NIST prints, and against `golden.json`: the same sums in float64 by another program."""
    text, full = [], []
    golden = json.loads((folder / "golden.json").read_text())
    for number in PRINTED:
        values = golden["lj"][number - 1]
        for cutoff, shifted, numbers in zip((3.0, 4.0, 3.0), (False, False, True), PRINTED[number], strict=True):
            graph = batch(cuboid(folder, number), cutoff, atoms=800, neighbors=300)
            how = "force shift" if shifted else "cut"
            energy = LennardJones(1.0, 1.0, cutoff, truncation="force_shift" if shifted else "cut")
            total, _, tensor = virial(energy, graph)
            ours = [total[0], jnp.trace(tensor[0])]
            if not shifted:
                ours.append(energies(LennardJones(1.0, 1.0, cutoff, truncation="cut", tail=True), graph)[0] - total[0])
            names = ("U_lfs", "W_lfs") if shifted else [f"{x}_rc{cutoff:.0f}" for x in ("U", "W", "Ulrc")]
            for what, value, digits, name in zip(
                ("energy", "virial", "tail"), ours, numbers.split(), names, strict=False
            ):
                label = f"NIST {number}, {how} at {cutoff:.0f}: {what}"
                text.append(printed(label, value, digits))
                full.append(row(f"{label}, in full", value, values[name], 1e-11))
    values, system = golden["lj_triclinic3"], triclinic(folder, golden["lj_triclinic3"]["H"])
    graph = batch(system, 3.0, atoms=800, neighbors=300)
    cut, tail = (energies(LennardJones(1.0, 1.0, 3.0, truncation="cut", tail=t), graph)[0] for t in (False, True))
    full.append(row("NIST triclinic 3: energy", cut, -505.78567945268463, 1e-12))  # as FEASST has it
    full.append(row("NIST triclinic 3: tail", tail - cut, values["Ulrc"], 1e-11))
    return text, full


def cuboid(folder: Path, number: int) -> System:
    """One of NIST's four configurations."""
    lines = (folder / f"lj_sample_config_periodic{number}.txt").read_text().splitlines()
    positions = np.array([[float(x) for x in line.split()[1:4]] for line in lines[2:]])
    return make_system(positions, [18] * len(positions), cell=[float(x) for x in lines[0].split()])


def triclinic(folder: Path, cell: list[list[float]]) -> System:
    lines = (folder / "lj_triclinic_sample_config_periodic3.xyz").read_text().splitlines()[2:]
    positions = np.array([[float(x) for x in line.split()[1:4]] for line in lines])
    return make_system(positions, [18] * len(positions), cell=cell)


def lattice_rows() -> list[dict]:
    """Sums over the whole fcc crystal: a switch wide enough, and the tail for the rest, leave 1e-8.

    A12 and A6: Kittel, Introduction to Solid State Physics, 8th ed., ch. 3, with more digits; the bulk modulus follows
    from them, C12 = C44 is Cauchy's relation. C11 and C44 are those of a direct sum that ends at 40 neighbor distances,
    whose own bulk modulus is off by 9e-6.
    """
    twelve, six = 12.131880196545, 14.453920996986
    reach = 16.0
    crystal = batch(make_system(np.zeros((1, 3)), [18], cell=FCC), reach)
    one, half = (
        float(energies(LennardJones(1.0, s, reach, onset=0.6, tail=True), crystal)[0]) for s in (1.0, 0.5 ** (1 / 6))
    )  # E = 2 (A12 s^12 - A6 s^6)
    distance = (2.0 * twelve / six) ** (1.0 / 6.0)
    least = 2.0 * (twelve / distance**12 - six / distance**6)
    bulk = distance**2 * 2.0 * (156.0 * twelve / distance**14 - 42.0 * six / distance**8) / 9.0
    bulk = bulk / (distance**3 / np.sqrt(2.0))
    energy = LennardJones(1.0, 1.0, reach * distance, onset=0.6, tail=True)
    relaxed = batch(make_system(np.zeros((1, 3)), [18], cell=distance * FCC), reach * distance)
    elastic = stiffness(energy, relaxed)
    return [
        row("fcc: A12", one - 2.0 * half, twelve, 1e-8),
        row("fcc: A6", 0.5 * one - 2.0 * half, six, 1e-8),
        row("fcc: energy at the minimum", energies(energy, relaxed)[0], least, 1e-8),
        row(
            "fcc: stress at the minimum, over the bulk modulus",
            stress(energy, relaxed).stress[0, 0, 0] / bulk,
            0.0,
            1e-7,
        ),
        row("fcc: bulk modulus", (elastic[0, 0] + 2.0 * elastic[0, 1]) / 3.0, bulk, 1e-6),
        row("fcc: C12 / C44", elastic[0, 1] / elastic[2, 2], 1.0, 1e-6),
        row("fcc: C11", elastic[0, 0], 105.183228652, 2e-5),
        row("fcc: C44", elastic[2, 2], 60.187058780, 2e-5),
    ]


def stiffness(energy: LennardJones, graph) -> np.ndarray:
    """Second derivatives of the energy density by the strains xx, yy and yz (engineering), at no stress."""

    def density(strain):
        xx, yy, yz = strain
        zero = jnp.zeros_like(xx)
        tensor = jnp.stack(
            [jnp.stack([xx, zero, zero]), jnp.stack([zero, yy, 0.5 * yz]), jnp.stack([zero, 0.5 * yz, zero])]
        )
        return jnp.sum(system_energies(energy, graph.strained(tensor[None]))) / graph.volume()[0]

    return np.asarray(jax.jit(jax.hessian(density), compiler_options=QUICKLY)(jnp.zeros(3)))


def melt_rows() -> list[dict]:
    """fcc at density 0.8442, cut at 2.5: `bench/in.lj` (T = 1.44) and `examples/melt` (T = 3) of LAMMPS at step 0."""
    density = 0.8442
    side = (4.0 / density) ** (1.0 / 3.0)
    crystal = batch(make_system(np.zeros((1, 3)), [18], cell=side / np.sqrt(2.0) * FCC), 2.5)
    result = stress(LennardJones(1.0, 1.0, 2.5, truncation="cut"), crystal)
    static = -jnp.trace(result.stress[0]) / 3.0
    rows = [row("LAMMPS melt: energy", result.energy[0], -6.773368053252955, 1e-13)]
    for atoms, temperature, text in ((32000, 1.44, "-5.0197073"), (4000, 3.0, "-3.7033504")):
        kinetic = density * temperature * (atoms - 1) / atoms
        rows.append(printed(f"LAMMPS melt: pressure at T = {temperature:g}", static + kinetic, text))
    return rows
