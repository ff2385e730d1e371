"""Convergence of cutoff and k points, and finite differences, at and around the chosen settings."""

import json

import matplotlib

matplotlib.use("Agg")
import generate
import matplotlib.pyplot as plt
import numpy as np
import qe
from ase import Atoms
from ase.units import GPa

CUTOFFS = (14.0, 18.0, 22.0, 27.0, 35.0)
GRIDS = (2, 3, 4)


def cells() -> dict[str, Atoms]:
    """Three 8-atom cells: a warm crystal, a very hot one, a melt."""
    rng = np.random.default_rng(7)
    return {
        "600 K": generate.rattled(rng, generate.conventional(8), generate.thermal_std(600)),
        "1500 K": generate.rattled(rng, generate.conventional(8), generate.thermal_std(1500)),
        "melt": generate.molten(rng, 8, 4000.0, 2.55),
    }


def change(result: dict, reference: dict) -> dict:
    """Energy in meV/atom, forces in meV/A, stress in GPa, each against the reference."""
    force = 1e3 * (np.array(result["forces"]) - reference["forces"])
    stress = (np.array(result["stress"]) - reference["stress"]) / GPa
    return {
        "energy": 1e3 * (result["energy"] - reference["energy"]) / len(force),
        "force_rms": float(np.sqrt(np.mean(force**2))),
        "force_max": float(np.abs(force).max()),
        "stress_max": float(np.abs(stress).max()),
        "seconds": result["seconds"],
    }


def study() -> dict:
    table = {}
    coarse = {"kgrid": [2, 2, 2]}
    for name, atoms in cells().items():
        if name != "1500 K":  # a cutoff converges alike for all
            row = {c: {"ecutwfc_Ry": c, "ecutrho_Ry": 4 * c} for c in CUTOFFS}
            got = {c: qe.label(atoms, qe.SETTINGS | coarse | s) for c, s in row.items()}
            table[f"cutoff, {name}"] = {c: change(r, got[CUTOFFS[-1]]) for c, r in got.items()}
        thin = {"ecutwfc_Ry": 18.0, "ecutrho_Ry": 72.0}
        got = {n: qe.label(atoms, qe.SETTINGS | thin | {"kgrid": [n] * 3}) for n in GRIDS}
        table[f"k points, {name}"] = {n: change(r, got[GRIDS[-1]]) for n, r in got.items()}
    perfect = [generate.lattice("diamond", generate.A0**3 / 8), generate.conventional(8)]
    perfect.append(generate.conventional(16))
    energy = [qe.label(a)["energy"] / len(a) for a in perfect]
    table["same crystal, meV/atom above 8 atoms"] = {
        len(a): 1e3 * (e - energy[1]) for a, e in zip(perfect, energy, strict=True)
    }
    return table


def finite_differences() -> dict:
    """Energy differences against forces and stress: the 4-atom cell of one strained frame."""
    rng = np.random.default_rng(11)
    atoms = generate.strained(rng, generate.lattice("diamond", generate.A0**3 / 8), 0.03, 0.06)
    settings = qe.SETTINGS | {"kgrid": qe.kgrid(atoms, qe.SETTINGS["kspacing_1_A"])}
    base = qe.label(atoms, settings)
    forces, stress = np.array(base["forces"]), np.array(base["stress"])

    def slope(make, h):
        high, low = (qe.label(make(x), settings)["energy"] for x in (h, -h))
        return (high - low) / (2 * h)

    def moved(i, axis):
        def make(h):
            new = atoms.copy()
            new.positions[i, axis] += h
            new.positions -= new.positions.mean(0) - atoms.positions.mean(0)
            return new

        return make

    def deformed(i, j):
        def make(h):
            e = np.zeros((3, 3))
            e[i, j] += h / 2
            e[j, i] += h / 2
            new = atoms.copy()
            new.set_cell(atoms.cell @ (np.eye(3) + e), scale_atoms=True)
            return new

        return make

    out = {}
    for i, axis in ((0, 0), (2, 1)):
        value = -slope(moved(i, axis), 0.01)
        out[f"force {i}{'xyz'[axis]}, eV/A"] = [float(forces[i, axis]), float(value)]
    for i, j in ((0, 0), (0, 1)):
        value = slope(deformed(i, j), 0.004) / atoms.get_volume()
        out[f"stress {'xyz'[i]}{'xyz'[j]}, GPa"] = [float(stress[i, j] / GPa), float(value / GPa)]
    return out


def picture(table: dict, path) -> None:
    panels = [
        ("cutoff", "energy", "|energy error| (meV/atom)", "cutoff (Ry)"),
        ("cutoff", "force_rms", "force error, rms (meV/Å)", "cutoff (Ry)"),
        ("k points", "energy", "|energy error| (meV/atom)", "grid n x n x n, 8 atoms"),
        ("k points", "force_rms", "force error, rms (meV/Å)", "grid n x n x n, 8 atoms"),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    for axis, (kind, key, label, x_label) in zip(axes, panels, strict=True):
        for name, row in table.items():
            if not name.startswith(kind):
                continue
            x = [float(v) for v in row][:-1]
            y = [abs(r[key]) for r in row.values()][:-1]
            cell = name.split(", ")[1]
            color = {"600 K": "C0", "1500 K": "C1", "melt": "C3"}[cell]
            axis.semilogy(x, y, "o-", color=color, label=cell)
        chosen = qe.SETTINGS["ecutwfc_Ry"] if kind == "cutoff" else 3
        axis.axvline(chosen, color="0.7", lw=6, alpha=0.5, zorder=0)
        axis.set(xlabel=x_label, ylabel=label)
        if kind == "k points":
            axis.set(xticks=GRIDS[:-1], xlim=(1.7, 3.3))
    axes[0].legend(frameon=False)
    axes[2].legend(frameon=False)
    n = GRIDS[-1]
    title = f"Error against {CUTOFFS[-1]:g} Ry (left) and {n} x {n} x {n} (right); grey: chosen"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


def run() -> dict:
    """All of the above, cached label by label; returned as plain JSON."""
    table = study()
    spin = qe.label(
        Atoms("Si", cell=[12.0, 12.5, 13.0], pbc=True),
        qe.SETTINGS | {"kgrid": [1, 1, 1], "kshift": 0.0},
        magnetic=0.5,
    )
    result = {
        "table": table,
        "finite_differences": finite_differences(),
        "isolated_atom_spin_polarised_eV": spin.get("energy"),
    }
    return json.loads(json.dumps(result))
