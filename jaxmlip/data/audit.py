r"""What is wrong with a set of labels, as far as the labels themselves can tell: no model is asked.

One level of theory per set; labels that are there, are not copied and fit the structure; forces without a net force or
torque; energies that follow from forces and stress between frames that are close,

$E_j - E_i \approx -\frac{1}{2} (F_i + F_j) \cdot \Delta x + \frac{1}{2} (V_i \sigma_i + V_j \sigma_j) : \epsilon$,

so that a wrong sign, unit or order of components shows as a slope; frames that are there twice, also turned, shifted or
with their atoms in another order; energies that stand out from those of similar structures.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from jaxmlip.data.dataset import Dataset
from jaxmlip.data.finding import ERROR, NOTE, WARNING, Finding
from jaxmlip.data.fingerprint import CUTOFF, SAME, equal_structures, fingerprint
from jaxmlip.data.statistics import find_references, reference_energy
from jaxmlip.data.work import check_work
from jaxmlip.elements import COVALENT_RADII, SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import Record

THEORY: Mapping[str, tuple[str, ...]] = {
    "functional": ("functional", "xc", "dft_functional", "xc_functional"),
    "pseudopotential": ("pseudopotential", "pseudopotential_sha256", "potcar", "paw", "basis", "basis_set"),
    "plane-wave cutoff": ("ecutwfc_ry", "ecutwfc", "encut", "ecut", "cut_off_energy", "cutoff_ev", "cutoff_ry"),
    "density cutoff": ("ecutrho_ry", "ecutrho"),
    "k spacing": ("kspacing_1_a", "kspacing", "kpoint_spacing", "kpoints_spacing"),
    "smearing": ("smearing", "occupations", "ismear"),
    "smearing width": ("degauss_ry", "degauss", "sigma_ev", "smearing_width"),
    "spin": ("spin", "nspin", "ispin", "spin_polarized", "magnetic"),
    "program": ("program", "code", "dft_code"),
}
_CLOSE = 0.5  # of the sum of covalent radii
_NET_FORCE = 0.02  # eV/Å for each root of an atom
_NET_TORQUE = 0.05  # of the sum of moments
_LARGE_FORCE = 100.0  # eV/Å
_TELLING = 0.05  # eV/Å: equal forces smaller than that may be equal by symmetry
_NEIGHBORS = 6  # structures that a frame is compared with
_MAGNITUDE = 8.0  # times larger forces
_ALONE = 1.5  # frames whose nearest structure is this times further than usual are not judged


@dataclasses.dataclass(frozen=True)
class Audit:
    """All findings, and facts about the set: what was checked and what it covers."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Errors and warnings."""
        return tuple(f for f in self.findings if f.level != NOTE)


def audit(parts: Mapping[str, Dataset]) -> Audit:
    """Checks the labels of the parts of a data set, `{"train": ..., "test": ...}`; see the module.

    **Raises:** `UserError` where there are no frames.
    """
    if not any(len(part) for part in parts.values()):
        raise UserError("There are no frames to audit.")
    whole = Dataset([record for part in parts.values() for record in part])
    fingerprints = [fingerprint(record) for record in whole]
    findings: list[Finding] = []
    for check in (_theory, _labels, _forces, _distances):
        findings += check(whole)
    findings += [Finding("rare elements", NOTE, text) for text in whole.rare_elements()]
    work, facts = check_work(whole)
    findings += work
    findings += _twice(parts, whole, fingerprints)
    findings += _strangers(whole, fingerprints)
    return Audit(tuple(sorted(findings, key=lambda f: (ERROR, WARNING, NOTE).index(f.level))), _facts(whole) | facts)


# --- level of theory, labels, forces, distances ---------------------------------------------------------------------


def _theory(dataset: Dataset) -> Iterator[Finding]:
    """Settings that are not the same in all frames."""
    for name, keys in THEORY.items():
        for key in keys:
            known = [(r, r.info[key]) for r in dataset if key in r.info]
            counts = Counter(str(value) for _, value in known)
            if len(counts) > 1:
                usual, times = counts.most_common(1)[0]
                others = ", ".join(f"{v} in {n}" for v, n in counts.most_common()[1:4])
                odd = tuple(r.where for r, value in known if str(value) != usual)
                yield Finding("level of theory", ERROR, f"{name} ({key}) is {usual} in {times} frames, {others}", odd)
            lacking = tuple(r.where for r in dataset if key not in r.info)
            if known and lacking:
                yield Finding(
                    "level of theory", WARNING, f"{len(lacking)} frames do not say their {name} ({key})", lacking
                )
    yield from _k_density(dataset)


def _k_density(dataset: Dataset) -> Iterator[Finding]:
    """Grids of k points whose spacing differs by more than 1.6 from the median of the set."""
    spacing = {}
    for r in dataset:
        grid = r.info.get("kpoints", r.info.get("kgrid", r.info.get("kpts")))
        if grid is None or np.shape(grid) != (3,) or not all(r.pbc) or r.is_isolated_atom:
            continue
        reciprocal = 2.0 * np.pi * np.linalg.norm(np.linalg.inv(r.cell).T, axis=1)
        spacing[r.where] = float(np.max(reciprocal / np.maximum(np.asarray(grid, float), 1.0)))
    if spacing:
        middle = float(np.median(list(spacing.values())))
        coarse = tuple(where for where, x in spacing.items() if x > 1.6 * middle)
        if coarse:
            yield Finding("level of theory", ERROR, f"k points further apart than the usual {middle:.2f} 1/Å", coarse)


def _labels(dataset: Dataset) -> Iterator[Finding]:
    """Labels that are missing in some frames, zero in all, or copied from one structure to another."""
    if not any(r.has(label) for r in dataset for label in ("energy", "forces", "stress")):
        yield Finding("labels", NOTE, "no frame has a label: only the structures were checked")
    for label in ("energy", "forces", "stress"):
        asked = [r for r in dataset if not (label == "forces" and len(r) == 1) and (label != "stress" or all(r.pbc))]
        having = [r for r in asked if r.has(label)]
        lacking = tuple(r.where for r in asked if not r.has(label))
        if having and lacking:
            yield Finding("labels", WARNING, f"{len(lacking)} of {len(asked)} frames have no {label}", lacking)
        if label != "energy" and len(having) > 1 and not any(np.any(getattr(r, label)) for r in having):
            yield Finding("labels", ERROR, f"the {label} of all {len(having)} frames is exactly zero")
        keys = Counter(r.keys.get(label, "") for r in having)
        if len(keys) > 1:
            text = ", ".join(f"{k or 'memory'} ({n})" for k, n in keys.most_common())
            yield Finding("labels", WARNING, f"{label} comes from different keys: {text}")
    seen: dict[bytes, Record] = {}
    copied = []
    for r in dataset:
        if r.forces is None or np.abs(r.forces).max() < _TELLING or np.count_nonzero(r.forces) < 4:
            continue
        first = seen.setdefault(np.sort(np.abs(r.forces), axis=None).tobytes(), r)
        if first is not r and _moved(first, r):
            copied.append(f"{r.where} as {first.where}")
    if copied:
        yield Finding("labels", ERROR, f"{len(copied)} frames have the forces of another structure", tuple(copied))


def _moved(a: Record, b: Record) -> bool:
    """Whether two frames are different structures."""
    x, y = fingerprint(a), fingerprint(b)
    return bool(x.shape != y.shape or np.linalg.norm(x - y) > 10.0 * SAME * np.linalg.norm(x))


def _forces(dataset: Dataset) -> Iterator[Finding]:
    """Net force, net torque, forces beyond all reason."""
    net, torque, large = [], [], []
    for r in dataset:
        if r.forces is None or len(r) < 2:
            continue
        total = float(np.linalg.norm(r.forces.sum(axis=0)))
        if total > _NET_FORCE * np.sqrt(len(r)):
            net.append((total, r.where))
        if not any(r.pbc):
            arms = r.positions - r.positions.mean(axis=0)
            moment = float(np.linalg.norm(np.cross(arms, r.forces - r.forces.mean(axis=0)).sum(axis=0)))
            scale = float(np.sum(np.linalg.norm(arms, axis=1) * np.linalg.norm(r.forces, axis=1)))
            if moment > _NET_TORQUE * scale + 0.02:
                torque.append((moment, r.where))
        most = float(np.linalg.norm(r.forces, axis=1).max())
        if most > _LARGE_FORCE:
            large.append((most, r.where))
    for found, check, unit in (
        (net, "net force", "eV/Å"),
        (torque, "net torque", "eV"),
        (large, "large force", "eV/Å"),
    ):
        if found:
            found.sort(reverse=True)
            text = f"{len(found)} frames, up to {found[0][0]:.3g} {unit}"
            yield Finding(check, WARNING, text, tuple(where for _, where in found))


def _distances(dataset: Dataset) -> Iterator[Finding]:
    """Atoms that are far closer than any bond."""
    close = []
    radii = np.asarray(COVALENT_RADII)
    for r in dataset:
        reach = 2.0 * _CLOSE * float(radii[r.numbers].max())
        receivers, senders, shifts = neighbor_pairs(r.positions, r.cell, r.pbc, reach)
        lengths = np.linalg.norm(r.positions[senders] + shifts @ r.cell - r.positions[receivers], axis=1)
        bonds = radii[r.numbers[senders]] + radii[r.numbers[receivers]]
        if np.any(lengths < _CLOSE * bonds):
            worst = int(np.argmin(lengths / bonds))
            pair = "-".join(SYMBOLS[int(r.numbers[atoms[worst]])] for atoms in (receivers, senders))
            close.append(f"{r.where} ({pair} {lengths[worst]:.2f} Å)")
    if close:
        yield Finding("close atoms", WARNING, f"{len(close)} frames with atoms at half of a bond length", tuple(close))


# --- frames that are there twice, or unlike the others --------------------------------------------------------------


def _twice(parts: Mapping[str, Dataset], whole: Dataset, fingerprints: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Structures that are there twice: with other labels, in two parts, or merely twice."""
    part_of = [name for name, part in parts.items() for _ in part]
    differing, leaking, same = [], [], []
    for i, j in equal_structures(whole.records, fingerprints):
        r, s = whole[i], whole[j]
        pair = f"{r.where} and {s.where}"
        if r.energy is not None and s.energy is not None and abs(r.energy - s.energy) > 2e-3 * len(r):
            differing.append(f"{pair} ({1e3 * (s.energy - r.energy) / len(r):+.1f} meV/atom)")
        elif part_of[i] != part_of[j]:
            leaking.append(pair)
        else:
            same.append(pair)
    if differing:
        yield Finding("duplicates", ERROR, f"{len(differing)} equal structures with other energies", tuple(differing))
    if leaking:
        names = " and ".join(parts)
        yield Finding("leakage", ERROR, f"{len(leaking)} structures are in two of {names}", tuple(leaking))
    if same:
        yield Finding("duplicates", NOTE, f"{len(same)} equal structures with equal energies", tuple(same))


def _strangers(dataset: Dataset, fingerprints: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Frames whose energy, or size of forces, is nothing like that of the frames with the most similar structures."""
    try:
        references = find_references(dataset, "least_squares")[0]
    except UserError:
        return
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, r in enumerate(dataset):
        if r.energy is not None and not r.is_isolated_atom:
            groups[tuple(np.unique(r.numbers))].append(i)
    for members in groups.values():
        if len(members) < 12:
            continue
        x = np.array([fingerprints[i][1:] for i in members])
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9 + 1e-6 * np.abs(x).max(axis=0))
        found = KDTree(x).query(x, k=_NEIGHBORS + 1)
        nearest, near = np.asarray(found[0])[:, 1:].mean(axis=1), np.asarray(found[1])[:, 1:]
        judged = nearest <= _ALONE * np.median(nearest)
        energy = np.array([_per_atom(dataset[i], references) for i in members])
        away = energy - np.clip(energy, energy[near].min(axis=1), energy[near].max(axis=1))
        limit = max(0.3, 12.0 * float(np.median(np.abs(energy - np.median(energy[near], axis=1)))))
        odd = np.flatnonzero(judged & (np.abs(away) > limit))
        shown = tuple(f"{dataset[members[i]].where} ({away[i]:+.2f} eV/atom)" for i in odd)
        if 0 < len(odd) <= len(members) // 2:
            text = (
                f"energies of {len(odd)} frames are more than {limit:.2f} eV/atom away from those of similar structures"
            )
            yield Finding("energy", ERROR, text, shown)
        yield from _odd_forces([dataset[i] for i in members], near, judged)


def _odd_forces(records: Sequence[Record], near: np.ndarray, judged: np.ndarray) -> Iterator[Finding]:
    """Frames whose forces are far larger. Small ones are no fault: symmetry and relaxation do that."""
    rms = np.array([np.nan if r.forces is None else np.sqrt(np.mean(r.forces**2)) for r in records])
    if not np.isfinite(rms).all() or not rms.any():
        return
    floor = float(np.median(rms))
    ratio = np.asarray(rms / np.maximum(rms[near].max(axis=1), max(floor, 1e-12)))
    odd = np.flatnonzero(judged & (ratio > _MAGNITUDE)).tolist()
    if 0 < len(odd) <= len(records) // 2:
        shown = tuple(f"{records[i].where} ({ratio[i]:.2g} times)" for i in odd)
        text = f"forces of {len(odd)} frames are beyond {_MAGNITUDE:g} times those of similar structures"
        yield Finding("forces", ERROR, text, shown)


def _per_atom(record: Record, references: Mapping[int, float]) -> float:
    assert record.energy is not None
    return (record.energy - reference_energy(record.numbers, references)) / len(record)


def _facts(dataset: Dataset) -> dict[str, Any]:
    """What the set holds and covers."""
    volumes = [abs(np.linalg.det(r.cell)) / len(r) for r in dataset if all(r.pbc)]
    nearest: dict[str, float] = {}
    for r in dataset:
        receivers, senders, shifts = neighbor_pairs(r.positions, r.cell, r.pbc, CUTOFF)
        lengths = np.linalg.norm(r.positions[senders] + shifts @ r.cell - r.positions[receivers], axis=1)
        codes = np.minimum(r.numbers[senders], r.numbers[receivers]) * 1000 + np.maximum(
            r.numbers[senders], r.numbers[receivers]
        )
        for code in np.unique(codes):
            name = f"{SYMBOLS[code // 1000]}-{SYMBOLS[code % 1000]}"
            nearest[name] = min(nearest.get(name, np.inf), float(lengths[codes == code].min()))
    names = [SYMBOLS[n] for n in dataset.elements]
    pairs = [f"{a}-{b}" for a, b in itertools.combinations_with_replacement(names, 2)]
    return {
        "frames": len(dataset),
        "atoms": sum(len(r) for r in dataset),
        "elements": names,
        "config_types": dataset.config_types(),
        "nearest distance of pairs [Å]": {k: round(v, 3) for k, v in sorted(nearest.items())},
        "pairs that never meet": [p for p in pairs if p not in nearest],
        "volume per atom [Å³]": [round(min(volumes), 3), round(max(volumes), 3)] if volumes else None,
        "largest force [eV/Å]": round(
            max((float(np.linalg.norm(r.forces, axis=1).max()) for r in dataset if r.forces is not None), default=0.0),
            3,
        ),
    }
