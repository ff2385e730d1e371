"""Files and `ase.Atoms` to systems, and back. The one door to ASE's file formats."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.cell import Cell

from jaxmlip.system import System, make_system


def from_ase(atoms: ase.Atoms, *, dtype: Any = None) -> System:
    """A `System` from `ase.Atoms`; the total charge is read from `atoms.info["charge"]` where it is given."""
    return make_system(
        atoms.get_positions(),
        atoms.get_atomic_numbers(),
        cell=np.asarray(atoms.cell),
        pbc=tuple(bool(p) for p in atoms.pbc),
        masses=atoms.get_masses(),
        charge=float(atoms.info.get("charge", 0.0)),
        dtype=dtype,
    )


def to_ase(system: System, **info: Any) -> ase.Atoms:
    """`ase.Atoms` from a `System`; `info` goes to `atoms.info`."""
    return ase.Atoms(
        numbers=np.asarray(system.numbers),
        positions=np.asarray(system.positions, np.float64),
        cell=Cell(np.asarray(system.cell, np.float64)),
        pbc=system.pbc,
        masses=np.asarray(system.masses, np.float64),
        info=info,
    )
