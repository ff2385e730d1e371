"""Charges: NIST SPC/E water term by term, Madelung constants, Wigner crystals, independence of the splitting."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rows import printed, row, worst
from scipy.special import erf, erfc

from jaxmlip import units
from jaxmlip.energy import Ewald, EwaldPlan, ExcludedCoulomb, LennardJones, SpeciesCharges, plan_ewald
from jaxmlip.graph import batch
from jaxmlip.system import System, make_system

KELVIN_ANGSTROM = 167100.95663229248  # e² / (4 pi eps0 kB), CODATA 2010, as in the NIST tables
KJ_ANGSTROM = units.coulomb / units.kJ_per_mol
SIGMA, EPSILON_K, EPSILON_KJ = 3.16555789, 78.19743111, 0.650169581
HYDROGEN, OXYGEN = 1, 8
TERMS = ("Edisp", "Elrc", "Ereal", "Efour", "Eself", "Eintra")
# https://www.nist.gov/mml/csd/chemical-informatics-group/spce-water-reference-calculations-10a-cutoff, in K.
PRINTED = {
    1: ("9.95387E+04", "-8.23715E+02", "-5.58889E+05", "6.27009E+03", "-2.84469E+06", "2.80999E+06"),
    2: ("1.93712E+05", "-3.29486E+03", "-1.19295E+06", "6.03495E+03", "-5.68938E+06", "5.61998E+06"),
    3: ("3.54344E+05", "-7.41343E+03", "-1.96297E+06", "5.24461E+03", "-8.53407E+06", "8.42998E+06"),
    4: ("4.48593E+05", "-1.37286E+04", "-3.57226E+06", "7.58785E+03", "-1.42235E+07", "1.41483E+07"),
}
# FEASST (NIST), plugin/charge/test/ewald.cpp, in kJ/mol: dispersion, tail, Fourier, real, intra, self.
NOT_CUBOID = {
    "spce_triclinic_sample_periodic1.xyz": (931.15451, -34.16569, 371.46525, -6046.43627, 95078.89447, -96297.75579),
    "spce_monoclinic_sample_periodic4.xyz": (
        208.07025846554663, -1.35601402285723, 185.60955025935957, -1425.6143894337906, 23769.71831128121,
        -24074.443366236523,
    ),
}  # fmt: skip
# Converged Coulomb energies in K, by an independent NumPy sum that does not depend on its splitting to 1e-15.
CONVERGED = {1: -587317.229120956, 2: -1256314.674275176}

FCC = 0.5 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
BCC = 0.5 * np.array([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
HEXAGONAL = np.array([[1.0, 0.0, 0.0], [-0.5, np.sqrt(0.75), 0.0], [0.0, 0.0, np.sqrt(8.0 / 3.0)]])
ZERO, HALF, FOURTH = [0.0] * 3, [0.5] * 3, [0.25] * 3
# cell, sites, numbers, charges, nearest distance and formula units; constant for a formula unit and that distance.
CRYSTALS = {
    "NaCl": (FCC, [ZERO, HALF], [11, 17], {11: 1.0, 17: -1.0}, 0.5, 1, 1.7475645946331828),
    "CsCl": (np.eye(3), [ZERO, HALF], [55, 17], {55: 1.0, 17: -1.0}, np.sqrt(0.75), 1, 1.7626747730709884),
    "ZnS": (FCC, [ZERO, FOURTH], [30, 16], {30: 1.0, 16: -1.0}, np.sqrt(3) / 4, 1, 1.6380550533887897),
    "CaF2": (FCC, [ZERO, FOURTH, [-0.25] * 3], [20, 9, 9], {20: 2.0, 9: -1.0}, np.sqrt(3) / 4, 1, 5.038784879848566),
    "wurtzite": (
        HEXAGONAL,
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]],
        [30, 30, 16, 16],
        {30: 1.0, 16: -1.0},
        np.sqrt(3 / 8),
        2,
        1.6413216273719495,
    ),
}
# E r_s / q² with the radius r_s of a sphere for each charge.
WIGNER = {"sc": (np.eye(3), -0.8800594421117162), "fcc": (FCC, -0.8958736151951087), "bcc": (BCC, -0.8959292556817655)}

# A few evaluations each: compiling well would cost more than it gains.
QUICKLY = {"xla_backend_optimization_level": 0}


def _parts(energy, graph):
    charges = energy.charges(graph)
    return jax.tree.map(lambda p: 0.5 * jnp.sum(charges * p), energy.potentials(graph, charges))


parts = jax.jit(_parts, compiler_options=QUICKLY)
total = jax.jit(lambda energy, graph: jnp.sum(energy(graph)), compiler_options=QUICKLY)


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    folder = None if data is None else data / "reference" / "nist_srsw"
    water, full, other, spread = [], [], [], []
    if folder is not None and folder.is_dir():
        golden = json.loads((folder / "golden.json").read_text())["spce"]
        for number in (1,) if quick else PRINTED:
            more = water_rows(folder, number, golden[number - 1])
            water, full = water + more[0], full + more[1]
        other = [] if quick else [r for name in NOT_CUBOID for r in sheared_rows(folder, name)]
        spread = spread_rows(folder, (1,) if quick else tuple(CONVERGED))
    madelung = madelung_rows(1 if quick else 2)
    wigner = wigner_rows()
    keys = {
        "nist_spce_max_rel": worst(water + other) if water else None,
        "nist_spce_full_max_rel": worst(full) if full else None,
        "madelung_max_rel": worst(madelung),
        "wigner_max_rel": worst(wigner),
        "alpha_spread_rel": worst(spread) if spread else None,
    }
    return keys, water + full + other + madelung + wigner + spread


def water_rows(folder: Path, number: int, golden: dict) -> tuple[list[dict], list[dict]]:
    """Six terms against the digits that NIST prints, and against the same sums in float64 by another program."""
    system = cuboid(folder, number)
    side = float(system.cell[0, 0])
    # alpha = 5.6 / L, waves with n² < 27, both sums cut bluntly
    plan = EwaldPlan(10.0, 5.6 / side, 2.0 * np.pi * np.sqrt(27.0 - 1e-9) / side, (5, 5, 5), onset=1.0)
    ours = water_terms(system, 0.4238, plan, KELVIN_ANGSTROM, EPSILON_K)
    name = f"SPC/E {number}"
    texts = zip(TERMS, PRINTED[number], strict=True)
    return (
        [printed(f"{name} {term}", ours[term], text) for term, text in texts],
        [row(f"{name} {term} (float64)", ours[term], golden[term], 1e-10) for term in TERMS],
    )


def sheared_rows(folder: Path, name: str) -> list[dict]:
    """Cells that are no cuboids, with the waves of FEASST: |n| <= 7 and k² below the largest of (2 pi 7 / l)²."""
    lines = (folder / name).read_text().splitlines()
    lx, ly, lz, xy, xz, yz = (float(x) for x in lines[1].split()[1:])
    rows = np.array([[float(x) for x in line.split()] for line in lines[2:]])
    cell = np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]])
    system = make_system(rows[:, 1:], np.where(rows[:, 0] == 0, OXYGEN, HYDROGEN), cell=cell)
    plan = EwaldPlan(10.0, 0.285, 2.0 * np.pi * (7.0 - 1e-9) / min(lx, ly, lz), (7, 7, 7), onset=1.0, complete=False)
    ours = water_terms(system, 0.4238, plan, KJ_ANGSTROM, EPSILON_KJ)
    expected = dict(zip(("Edisp", "Elrc", "Efour", "Ereal", "Eintra", "Eself"), NOT_CUBOID[name], strict=True))
    # Positions and constants carry seven digits or so: 1e-5 of a term is what can be asked.
    return [row(f"{name.split('_sample')[0]} {term}", ours[term], expected[term], 1e-5) for term in TERMS]


def water_terms(system: System, charge: float, plan: EwaldPlan, coulomb: float, epsilon: float) -> dict[str, float]:
    """The terms of the tables. Pairs within a molecule are left out of the real sum and taken out of the waves'."""
    graph = batch(system, plan.cutoff)
    charges = SpeciesCharges({"H": charge, "O": -2.0 * charge})
    terms = parts(Ewald(charges, plan), graph)
    first, second, r = bonds(system)
    q = np.where(np.asarray(system.numbers) == OXYGEN, -2.0 * charge, charge)
    product = q[first] * q[second] / r
    oxygen = np.asarray(system.numbers) == OXYGEN
    sites = make_system(
        np.asarray(system.positions)[oxygen], [OXYGEN] * int(oxygen.sum()), cell=np.asarray(system.cell)
    )
    atoms, volume = int(oxygen.sum()), float(system.volume())
    third = (SIGMA / plan.cutoff) ** 3
    cut = LennardJones(epsilon, SIGMA, plan.cutoff, truncation="cut")
    return {
        "Edisp": float(total(cut, batch(sites, plan.cutoff))),
        "Elrc": 8.0 / 3.0 * np.pi * atoms**2 / volume * epsilon * SIGMA**3 * (third**3 / 3.0 - third),
        "Ereal": coulomb * (float(terms.real) - np.sum(product * erfc(plan.alpha * r))),
        "Efour": coulomb * float(terms.reciprocal),
        "Eself": coulomb * float(terms.self),
        "Eintra": -coulomb * np.sum(product * erf(plan.alpha * r)),
    }


def spread_rows(folder: Path, numbers: tuple[int, ...]) -> list[dict]:
    """The whole Coulomb energy, molecules excluded, with three splittings: against each other and a converged sum."""
    rows = []
    for number in numbers:
        system = cuboid(folder, number)
        charges = SpeciesCharges({"H": 0.4238, "O": -0.8476})
        values = []
        for cutoff in (7.0, 8.0, 9.0):
            energy = Ewald(charges, plan_ewald(system, cutoff=cutoff, accuracy=1e-12, margin=1.0, method="waves"))
            energy = energy + ExcludedCoulomb(charges, np.stack(bonds(system)[:2], axis=1))
            values.append(float(total(energy, batch(system, cutoff))) / units.coulomb * KELVIN_ANGSTROM)
        rows.append(row(f"SPC/E {number} converged", values[-1], CONVERGED[number], 1e-10))
        rows += [row(f"SPC/E {number} alpha", value, values[-1], 1e-9) for value in values[:-1]]
    return rows


def madelung_rows(repeats: int) -> list[dict]:
    """Primitive cells and, where `repeats` is 2, supercells; the lattice constant is 4 Å."""
    rows = []
    for name, (cell, sites, numbers, charges, nearest, formulas, constant) in CRYSTALS.items():
        for n in range(1, repeats + 1):
            system = crystal(cell, sites, numbers, n)
            plan = plan_ewald(system, cutoff=5.0, accuracy=1e-13, margin=1.0)
            energy = float(total(Ewald(SpeciesCharges(charges), plan), batch(system, 5.0)))
            rows.append(
                row(f"{name} {n}³", -4.0 * nearest * energy / units.coulomb / (formulas * n**3), constant, 1e-9)
            )
    return rows


def wigner_rows() -> list[dict]:
    rows = []
    for name, (cell, constant) in WIGNER.items():
        system = crystal(cell, [ZERO], [11], 1)
        plan = plan_ewald(system, cutoff=5.0, accuracy=1e-13, margin=1.0)
        energy = Ewald(SpeciesCharges({"Na": 1.0}), plan, background=True)
        radius = (3.0 * float(system.volume()) / (4.0 * np.pi)) ** (1.0 / 3.0)
        value = float(total(energy, batch(system, 5.0))) * radius / units.coulomb
        rows.append(row(f"Wigner {name}", value, constant, 1e-9))
    return rows


def crystal(cell: np.ndarray, sites: list, numbers: list[int], repeats: int) -> System:
    shifts = np.array(list(itertools.product(range(repeats), repeat=3)), float)
    all_sites = (shifts[:, None] + np.asarray(sites)[None]).reshape(-1, 3)
    return make_system(all_sites @ (4.0 * cell), np.tile(numbers, repeats**3), cell=repeats * 4.0 * cell)


def cuboid(folder: Path, number: int) -> System:
    lines = (folder / f"spce_sample_config_periodic{number}.txt").read_text().splitlines()
    rows = [line.split() for line in lines[2:]]
    positions = np.array([[float(x) for x in r[1:4]] for r in rows])
    numbers = [{"O": OXYGEN, "H": HYDROGEN}[r[4]] for r in rows]
    return make_system(positions, numbers, cell=[float(x) for x in lines[0].split()])


def bonds(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three pairs of each molecule (its atoms follow each other) and their distances [Å]."""
    positions, cell = np.asarray(system.positions), np.asarray(system.cell)
    start = 3 * np.arange(len(positions) // 3)
    first, second = (np.concatenate([start + k for k in which]) for which in ((0, 0, 1), (1, 2, 2)))
    vectors = positions[second] - positions[first]
    vectors -= np.round(vectors @ np.linalg.inv(cell)) @ cell
    return first, second, np.linalg.norm(vectors, axis=1)
