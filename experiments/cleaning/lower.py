"""Labels of frames of the silicon set at a lower cutoff or k density: the fault that a mixed-up input file makes.

python experiments/cleaning/lower.py [--frames 40] [--share 0/1] writes lower.json (needs pw.x; a minute of one core for
each few frames). The frames are the first of a random order, so that a longer run extends a shorter one.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from ase import Atoms

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "silicon-dft"))
import qe  # noqa: E402

from jaxmlip.data import read_dataset  # noqa: E402

SILICON = HERE.parents[1] / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"
LOWER = {
    "cutoff": {"ecutwfc_Ry": 14.0, "ecutrho_Ry": 56.0},
    "kpoints": {"kspacing_1_A": 0.9, "kshift": 0.0},
}
MOST_ATOMS = 16


def chosen(frames: int) -> list[int]:
    """Indices of frames in the shipped file."""
    data = read_dataset(SILICON)
    small = [i for i, r in enumerate(data) if 2 <= len(r) <= MOST_ATOMS and all(r.pbc)]
    return [int(i) for i in np.random.default_rng(0).permutation(small)[:frames]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40)
    options = parser.parse_args()
    data, found = read_dataset(SILICON), {}
    for number, index in enumerate(chosen(options.frames)):
        record = data[index]
        atoms = Atoms(numbers=record.numbers, positions=record.positions, cell=record.cell, pbc=True)
        kind = list(LOWER)[number % 2]
        label = qe.label(atoms, {**qe.SETTINGS, **LOWER[kind]})
        shift = 1e3 * (label["energy"] - record.energy) / len(record)
        spread = 1e3 * float(np.sqrt(np.mean((np.array(label["forces"]) - record.forces) ** 2)))
        found[str(index)] = {"kind": kind, **{k: label[k] for k in ("energy", "forces", "stress")}}
        print(
            f"{number + 1}: frame {index}, {len(record)} atoms, {kind}: {shift:+.1f} meV/atom, {spread:.0f} meV/A RMS"
        )
        (HERE / "lower.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
