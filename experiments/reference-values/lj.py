"""Lennard-Jones in reduced units (epsilon = sigma = 1): NIST configurations."""

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from rows import printed, worst

from jaxmlip.energy import LennardJones, energy_forces_virial
from jaxmlip.graph import batch
from jaxmlip.system import System, make_system

# https://www.nist.gov/mml/csd/chemical-informatics-group/lennard-jones-fluid-reference-calculations-cuboid-cell:
# configuration, cutoff, energy and virial (sum over pairs of r . f) as printed.
PRINTED = (
    (1, 3.0, "-4.3515E+03", "-5.6867E+02"),
    (1, 4.0, "-4.4675E+03", "-1.2639E+03"),
    (2, 3.0, "-6.9000E+02", "-5.6846E+02"),
    (2, 4.0, "-7.0460E+02", "-6.5599E+02"),
    (3, 3.0, "-1.1467E+03", "-1.1649E+03"),
    (3, 4.0, "-1.1754E+03", "-1.3371E+03"),
    (4, 3.0, "-1.6790E+01", "-4.6249E+01"),
    (4, 4.0, "-1.7060E+01", "-4.7869E+01"),
)

virial = eqx.filter_jit(energy_forces_virial)


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    nist = [] if data is None else nist_rows(data / "reference" / "nist_srsw")
    return {"nist_lj_max_rel": worst(nist) if nist else None}, nist


def nist_rows(folder: Path) -> list[dict]:
    rows = []
    for number, cutoff, energy, trace in PRINTED:
        graph = batch(cuboid(folder, number), cutoff, atoms=800, neighbors=300)
        total, _, tensor = virial(LennardJones(1.0, 1.0, cutoff, onset=1.0), graph)
        rows.append(printed(f"NIST {number}, cut at {cutoff:.0f}: energy", total[0], energy))
        rows.append(printed(f"NIST {number}, cut at {cutoff:.0f}: virial", jnp.trace(tensor[0]), trace))
    return rows


def cuboid(folder: Path, number: int) -> System:
    """One of NIST's four configurations."""
    lines = (folder / f"lj_sample_config_periodic{number}.txt").read_text().splitlines()
    positions = np.array([[float(x) for x in line.split()[1:4]] for line in lines[2:]])
    return make_system(positions, [18] * len(positions), cell=[float(x) for x in lines[0].split()])
