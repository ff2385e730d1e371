"""Stillinger-Weber and Tersoff silicon against stored LAMMPS numbers; key `manybody_max_rel` <= 1e-9.

Energy, every force (relative to the largest) and the virial of 8 atoms in a cell smaller than two cutoffs, of 64 atoms,
and of 64 in a triclinic cell.
"""

import json
from pathlib import Path

import equinox as eqx
import numpy as np
from rows import row, worst

from jaxmlip.energy import StillingerWeber, Tersoff, energy_forces_virial
from jaxmlip.graph import batch
from jaxmlip.system import make_system

TOLERANCE = 1e-9
BAR = 1.0 / 1.6021765e6  # eV/Å^3, the constant that LAMMPS converts with in units `metal`
derivatives = eqx.filter_jit(energy_forces_virial)


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    """All eight configurations, quick or not; nothing without the reference data."""
    folder = None if data is None else data / "reference"
    if folder is None or not (folder / "lammps_sw_tersoff_Si.json").is_file():
        return {"manybody_max_rel": None}, []
    energies = {
        "sw": StillingerWeber.from_file(folder / "Si.sw"),
        "tersoff": Tersoff.from_file(folder / "Si.tersoff"),
    }
    rows = []
    for name, case in json.loads((folder / "lammps_sw_tersoff_Si.json").read_text()).items():
        rows += compare(name, energies[name.partition("_")[0]], case)
    return {"manybody_max_rel": worst(rows)}, rows


def compare(name: str, energy, case: dict) -> list[dict]:
    """Energy per atom, forces and virial of one configuration."""
    atoms = case["natoms"]
    system = make_system(case["positions"], [14] * atoms, cell=case["cell"])
    total, forces, virial = derivatives(energy, batch(system, energy.cutoff, neighbors=32))
    theirs = np.asarray(case["forces"])
    pressures = np.asarray(case["virial_pressure_bar_xx_yy_zz_xy_xz_yz"]) * BAR * float(system.volume())
    ours = np.asarray(virial[0])[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    # A perfect crystal has neither forces nor, at its lattice constant, a virial to be relative to: to 1 eV/Å and 1 eV.
    scale, size = max(1.0, np.abs(theirs).max()), max(1.0, np.abs(pressures).max())
    return [
        row(f"{name}, energy [eV/atom]", total[0] / atoms, case["pe_eV"] / atoms, TOLERANCE),
        row(f"{name}, forces", 1.0 + np.abs(forces - theirs).max() / scale, 1.0, TOLERANCE),
        row(f"{name}, virial", 1.0 + np.abs(ours - pressures).max() / size, 1.0, TOLERANCE),
    ]
