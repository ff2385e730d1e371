"""The shipped file: build it from the finished frames, and verify it without pw.x."""

import hashlib
import io
import lzma
from collections import Counter, defaultdict
from pathlib import Path

import generate
import numpy as np
import qe
from ase import Atoms
from ase.io import read, write
from ase.neighborlist import neighbor_list
from ase.units import GPa

SHIPPED = Path(__file__).parents[2] / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"
COMMON = (
    "functional", "pseudopotential", "pseudopotential_sha256", "ecutwfc_Ry", "ecutrho_Ry",
    "kspacing_1_A", "smearing", "degauss_Ry", "conv_thr_Ry_atom", "spin", "symmetry", "program",
)  # fmt: skip


def splits(frames: list[Atoms]) -> None:
    """Set `split` inside every config_type by the hash of the tag, about 80/8/12."""
    groups = defaultdict(list)
    for atoms in frames:
        groups[atoms.info["config_type"]].append(atoms)
    for group in groups.values():
        group.sort(key=lambda a: hashlib.sha256(a.info["tag"].encode()).hexdigest())
        n = len(group)
        test = max(1, round(0.12 * n)) if n >= 3 else 0
        valid = max(1, round(0.08 * n)) if n >= 4 else 0
        for m, atoms in enumerate(group):
            atoms.info["split"] = "test" if m < test else "valid" if m < test + valid else "train"


def build(folder: Path) -> None:
    """Collect `folder` in the order of the plan and write the compressed file."""
    order = [f"{tag}-{m:02d}" for _, tag, m, _, _ in generate.plan()]
    frames = [read(folder / f"{t}.extxyz") for t in order if (folder / f"{t}.extxyz").exists()]
    settings = {k: qe.SETTINGS[k] for k in COMMON if k in qe.SETTINGS}
    settings["pseudopotential_sha256"] = qe.pseudo_sha256(qe.SETTINGS["pseudopotential"])
    settings |= {"spin": "none", "symmetry": "none"}
    splits(frames)
    for atoms in frames:
        atoms.info = {k: v for k, v in atoms.info.items() if k != "seconds"} | settings
        atoms.info["conv_thr_Ry"] = qe.SETTINGS["conv_thr_Ry_atom"] * len(atoms)
    text = io.StringIO()
    write(text, frames, format="extxyz", columns=["symbols", "positions", "REF_forces"])
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    SHIPPED.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))


def fingerprint(atoms: Atoms) -> np.ndarray:
    """Smeared pair distances per atom, blind to the order of atoms, the origin and the cell."""
    d = neighbor_list("d", atoms, 6.0)
    grid = np.arange(1.5, 6.0, 0.02)
    return np.exp(-(((grid[:, None] - d) / 0.04) ** 2)).sum(1) / len(atoms)


def closest(frames: list[Atoms]) -> dict:
    """The two most similar frames overall and across splits, as a fraction of the fingerprint."""
    many = [a for a in frames if a.info["config_type"] != "isolated_atom"]
    prints = np.array([fingerprint(a) for a in many])
    size = np.linalg.norm(prints, axis=1)
    gap = np.linalg.norm(prints[:, None] - prints[None], axis=-1) / np.minimum.outer(size, size)
    np.fill_diagonal(gap, np.inf)
    split = np.array([a.info["split"] for a in many])
    across = np.where(split[:, None] != split[None], gap, np.inf)
    i, j = np.unravel_index(across.argmin(), across.shape)
    pair = f"{many[i].info['tag']} {many[j].info['tag']}"
    return {"overall": float(gap.min()), "across_splits": float(across.min()), "pair": pair}


def equation_of_state(frames: list[Atoms]) -> dict:
    """Diamond: E(V) fitted in V^(-2/3); its slope against the stresses gives sign and residual."""
    cold = [a for a in frames if a.info["tag"].startswith("diamond")]
    v = np.array([a.get_volume() / len(a) for a in cold])
    e = np.array([a.info["REF_energy"] / len(a) for a in cold])
    trace = np.array([np.trace(np.reshape(a.info["REF_stress"], (3, 3))) / 3 for a in cold])
    fit = np.polynomial.Polynomial.fit(v ** (-2 / 3), e, 4)
    slope, curve = fit.deriv(), fit.deriv(2)
    dedv = slope(v ** (-2 / 3)) * (-2 / 3) * v ** (-5 / 3)  # tension positive: dE/dV
    roots = [r.real for r in slope.roots() if abs(r.imag) < 1e-9]
    x0 = min(roots, key=lambda x: abs(x ** (-3 / 2) - 20.5))
    v0 = x0 ** (-3 / 2)
    bulk_modulus = v0 * curve(x0) * (-2 / 3 * v0 ** (-5 / 3)) ** 2 / GPa
    gap = trace - dedv
    return {
        "points": len(cold),
        "lattice_constant_A": float((8 * v0) ** (1 / 3)),
        "bulk_modulus_GPa": float(bulk_modulus),
        "energy_eV_atom": float(fit(x0)),
        "fit_rms_meV_atom": float(1e3 * np.sqrt(np.mean((fit(v ** (-2 / 3)) - e) ** 2))),
        "stress_range_GPa": [float(trace.min() / GPa), float(trace.max() / GPa)],
        "stress_minus_dEdV_GPa": [float(gap.min() / GPa), float(gap.max() / GPa)],
        "stress_fd_max_rel": float(np.abs(gap).max() / np.abs(trace).max()),
        "sign_agrees": bool(np.corrcoef(trace, dedv)[0, 1] > 0.99),
    }


def census(frames: list[Atoms], bulk_energy: float) -> dict:
    table = {}
    for kind in sorted({a.info["config_type"] for a in frames}):
        group = [a for a in frames if a.info["config_type"] == kind]
        force = np.concatenate([a.arrays["REF_forces"] for a in group])
        energy = [a.info["REF_energy"] / len(a) - bulk_energy for a in group]
        table[kind] = {
            "frames": len(group),
            **{s: sum(a.info["split"] == s for a in group) for s in ("train", "valid", "test")},
            "atoms": sum(map(len, group)),
            "sizes": sorted({len(a) for a in group}),
            "force_rms_eV_A": float(np.sqrt(np.mean(force**2))),
            "energy_above_diamond_eV_atom": [float(min(energy)), float(max(energy))],
            "min_distance_A": float(min(min(generate.min_distance(a) for a in group), 99.0)),
        }
    return table


def verify() -> tuple[dict, list[str]]:
    """Figures of the shipped file and the list of what is wrong with it."""
    frames = read(SHIPPED, ":")
    eos = equation_of_state(frames)
    table = census(frames, eos["energy_eV_atom"])
    near = closest(frames)
    rule = [
        list(a.info["kpoints"]) == qe.kgrid(a, a.info["kspacing_1_A"]) and a.info["kshift"] == qe.SETTINGS["kshift"]
        for a in frames
        if a.info["config_type"] != "isolated_atom"
    ]
    settings = {tuple(str(a.info[k]) for k in COMMON) for a in frames}
    net = max(float(np.abs(a.arrays["REF_forces"].sum(0)).max()) for a in frames)
    numbers = np.concatenate([np.ravel(a.info["REF_stress"]) for a in frames])
    figures = {
        "frames": len(frames),
        "atoms": sum(map(len, frames)),
        "frames_by_type": {k: v["frames"] for k, v in table.items()},
        "frames_by_split": dict(Counter(a.info["split"] for a in frames)),
        "isolated_atom_eV": next(
            float(a.info["REF_energy"]) for a in frames if a.info["config_type"] == "isolated_atom"
        ),
        "max_net_force_eV_A": net,
        "max_stress_asymmetry_GPa": max(
            float(np.abs(s - s.T).max() / GPa) for s in (np.reshape(a.info["REF_stress"], (3, 3)) for a in frames)
        ),
        "stress_fd_max_rel": eos["stress_fd_max_rel"],
        "closest_pair": near,
        "eos": eos,
        "census": table,
        "file_bytes": SHIPPED.stat().st_size,
    }
    wrong = {
        "settings differ between frames": len(settings) != 1,
        "a k grid breaks the rule": not all(rule),
        "net force above 1e-4 eV/A": net > 1e-4,
        "stress and dE/dV differ in sign": not eos["sign_agrees"],
        "stress and dE/dV differ by more than 5 %": eos["stress_fd_max_rel"] > 0.05,
        "two frames are the same": near["overall"] < 1e-3,
        "a number is not finite": not np.all(np.isfinite(numbers)),
        "a split is missing": set(figures["frames_by_split"]) != {"train", "valid", "test"},
        "the file is above 3 MB": figures["file_bytes"] > 3_000_000,
    }
    return figures, [what for what, bad in wrong.items() if bad]
