"""D3(BJ) energies, forces and virials by simple-dftd3, without the three-body term: writes d3_reference.json.

    python -m venv d3 && d3/bin/pip install dftd3 && d3/bin/python -P make_d3.py

`tests/energy/test_dispersion.py` compares with them.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from dftd3.interface import DispersionModel, RationalDampingParam

HARTREE, BOHR = 27.211386245988, 0.529177210903  # eV, Å
PBE = {"s6": 1.0, "s8": 0.7875, "a1": 0.4289, "a2": 4.4407}  # Grimme, Ehrlich & Goerigk (2011)
B3LYP = {"s6": 1.0, "s8": 1.9889, "a1": 0.3981, "a2": 4.4211}


def molecules():
    """A bent water dimer, methane beside benzene, and heavy atoms at many coordination numbers."""
    water = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.05, -0.757, -0.471]])
    yield "water dimer", [8, 1, 1, 8, 1, 1], np.concatenate([water, water @ np.diag([1.0, -1, 1]) + [0.3, 0.2, 2.9]])
    angle = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angle), np.sin(angle), 0.0 * angle], axis=1)
    methane = 0.629 * np.array([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    yield (
        "methane and benzene",
        [6] * 6 + [1] * 6 + [6] + [1] * 4,
        np.concatenate([1.39 * ring, 2.48 * ring, methane + [0.1, 0.2, 3.7]]),
    )
    random = np.random.default_rng(1)
    sites = np.array(list(np.ndindex(3, 3, 2))) * 2.3 + random.uniform(-0.3, 0.3, (18, 3))
    yield "cluster of metals", [79, 29, 14, 47, 26, 8] * 3, sites


def crystals():
    """Distorted sodium chloride, and silicon carbide in a triclinic cell."""
    random = np.random.default_rng(2)
    sites = np.array([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cell = 5.6 * np.eye(3)
    rock = np.concatenate([sites, sites + [0.5, 0, 0]])
    yield "sodium chloride", [11] * 4 + [17] * 4, rock @ cell + random.uniform(-0.1, 0.1, (8, 3)), cell
    cell = 4.4 * np.array([[1.0, 0.1, 0.0], [0.2, 0.95, -0.1], [-0.1, 0.15, 1.05]])
    zinc = np.concatenate([sites, sites + 0.25])
    yield "silicon carbide", [14] * 4 + [6] * 4, zinc @ cell + random.uniform(-0.1, 0.1, (8, 3)), cell


def main():
    cases = []
    for name, numbers, positions, *rest in [*molecules(), *crystals()]:
        cell = np.round(rest[0], 9) if rest else None
        positions = np.round(positions, 9)
        for functional, damping in (("PBE", PBE), ("B3LYP", B3LYP)):
            lattice = None if cell is None else cell / BOHR
            model = DispersionModel(
                np.array(numbers), positions / BOHR, lattice, None if cell is None else np.ones(3, bool)
            )
            found = model.get_dispersion(RationalDampingParam(**damping, s9=0.0), grad=True)
            cases.append(
                {
                    "name": f"{name}, {functional}",
                    "damping": damping,
                    "numbers": numbers,
                    "positions": positions.tolist(),
                    "cell": None if cell is None else cell.tolist(),
                    "energy": float(found["energy"]) * HARTREE,
                    "forces": (-found["gradient"] * HARTREE / BOHR).tolist(),
                    "virial": (-found["virial"] * HARTREE).tolist(),  # -dE/dstrain, as in jaxmlip
                }
            )
    result = {"dftd3": version("dftd3"), "cases": cases}
    text = json.dumps(result).replace('{"name"', '\n{"name"')
    Path(__file__).with_name("d3_reference.json").write_text(text + "\n")
    print(*(f"{case['name']:28} {case['energy']:.9f} eV" for case in cases), sep="\n")


if __name__ == "__main__":
    main()
