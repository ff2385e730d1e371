"""The structures that are compared, and the peak memory of a process: what both sides share."""

from pathlib import Path

import ase.build
import numpy as np
from ase import Atoms


def structures() -> dict[str, Atoms]:
    """Six of them, all periodic (the slab and the molecule in vacuum), so that one batch holds them."""
    generator = np.random.default_rng(0)
    triclinic = Atoms(
        "TiOSrFe2P",
        scaled_positions=generator.random((6, 3)) * 0.1
        + [[0, 0, 0], [0.5, 0.4, 0], [0.5, 0.1, 0.5], [0, 0.5, 0.5], [0.3, 0.8, 0.3], [0.8, 0.7, 0.8]],
        cell=[[5.1, 0.2, -0.3], [0.9, 4.8, 0.1], [-0.4, 1.1, 5.6]],
        pbc=True,
    )
    molecule = ase.build.molecule("CH3CH2OH")
    molecule.set_cell([16.0, 16.0, 16.0])
    molecule.center()
    slab = ase.build.fcc111("Pt", (1, 2, 3), vacuum=7.0, orthogonal=True)
    ase.build.add_adsorbate(slab, "O", 1.3)
    result = {
        "fcc copper, 1 atom": ase.build.bulk("Cu"),
        "rock salt": ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True),
        "triclinic": triclinic,
        "slab with adsorbate": slab,
        "ethanol": molecule,
        "silicon, 64 atoms": silicon(),
    }
    for atoms in result.values():
        atoms.rattle(0.05 if len(atoms) > 1 else 0.0, rng=generator)
        atoms.pbc = True
    return result


def silicon() -> Atoms:
    """64 silicon atoms, rattled: the system of all timings."""
    atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def peak_megabytes() -> float:
    """Largest resident memory of this process [MB], from /proc: `ru_maxrss` would count what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
