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
from jaxtyping import Float
from scipy.linalg import polar
from scipy.spatial import KDTree

from jaxmlip import units
from jaxmlip.data.dataset import Dataset
from jaxmlip.data.statistics import find_references, reference_energy
from jaxmlip.elements import COVALENT_RADII, SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import Record

ERROR, WARNING, NOTE = "error", "warning", "note"
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
_UNITS = {
    units.hartree / units.bohr: "Hartree/Bohr",
    units.rydberg / units.bohr: "Rydberg/Bohr",
    units.kcal_per_mol: "kcal/mol/Å",
    units.kJ_per_mol: "kJ/mol/Å",
}
_STRESS_UNITS = {units.GPa: "GPa", units.kbar: "kbar", 1e-3 * units.kbar: "bar"}
_SHEAR_ORDERS = [p for p in itertools.permutations(range(3)) if p != (0, 1, 2)]
_CUTOFF = 5.0  # Å of the fingerprint
_WIDTHS = 8  # functions of distance in it
_FAR = 13.0  # Å, for fragments that do not see each other in the fingerprint
_SAME = 1e-5  # relative difference of fingerprints that rounding makes
_CLOSE = 0.5  # of the sum of covalent radii
_NET_FORCE = 0.02  # eV/Å for each root of an atom
_NET_TORQUE = 0.05  # of the sum of moments
_LARGE_FORCE = 100.0  # eV/Å
_TELLING = 0.05  # eV/Å: equal forces smaller than that may be equal by symmetry
_NEIGHBORS = 6  # structures that a frame is compared with
_MAGNITUDE = 8.0  # times larger forces
_ALONE = 1.5  # frames whose nearest structure is this times further than usual are not judged
_LEAST_PAIRS = 5  # that a slope is believed from
_MOST_PAIRS = 4000  # of frames of one kind whose energies are compared


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found: `check` names it, `level` is error, warning or note, `frames` are where."""

    check: str
    level: str
    text: str
    frames: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = "; ".join(self.frames[:5]) + (f"; and {len(self.frames) - 5} more" if len(self.frames) > 5 else "")
        return f"{self.level}: {self.check}: {self.text}" + (f" [{shown}]" if shown else "")


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
    work, facts = _work(whole)
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
    return bool(x.shape != y.shape or np.linalg.norm(x - y) > 10.0 * _SAME * np.linalg.norm(x))


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


# --- energies against forces and stress -----------------------------------------------------------------------------


def _work(dataset: Dataset) -> tuple[list[Finding], dict[str, Any]]:
    """Energy differences against the work of forces and stress between frames that are close, for each kind."""
    kinds: dict[tuple, list[Record]] = defaultdict(list)
    for r in dataset:
        if r.energy is not None and (r.forces is not None or r.stress is not None):
            kinds[r.path, r.config_type, r.numbers.tobytes(), r.pbc].append(r)
    by_batch: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for (path, config_type, _, _), records in kinds.items():
        for a, b in _pairs(len(records)):
            row = _pair_work(records[a], records[b])
            if row is not None:
                by_batch[path, config_type].append(row)
    findings, checked = [], {}
    for (path, config_type), rows in by_batch.items():
        where = f"{path} ({config_type})"
        table = np.array(rows)
        for number, what in ((1, "forces"), (2, "stress")):
            found = _slope(table, number)
            if found is not None:
                checked[f"{what} of {where}"] = {
                    "slope": round(found[0], 3),
                    "error": round(found[1], 3),
                    "pairs": found[2],
                }
                findings += _judge_slope(what, where, *found)
        findings += _judge_order(table, where)
    return findings, {"energy differences over work": checked}


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    """All pairs of a few frames; of many, those that follow each other."""
    if count * (count - 1) // 2 <= _MOST_PAIRS:
        yield from itertools.combinations(range(count), 2)
        return
    for step in (1, 2, 3):
        yield from ((i, i + step) for i in range(0, count - step, max(1, count // _MOST_PAIRS)))


def _pair_work(a: Record, b: Record) -> np.ndarray | None:
    """Energy difference, work of forces and of stress [eV], and the three parts of the latter's shear with the six
    permutations that it takes; `None` where the frames are too far apart for it, or too close."""
    assert a.energy is not None and b.energy is not None
    gain = b.energy - a.energy
    forces_a = np.zeros_like(a.positions) if a.forces is None else a.forces
    forces_b = np.zeros_like(b.positions) if b.forces is None else b.forces
    strain = np.zeros((3, 3))
    if any(a.pbc):
        turn, stretch = polar(np.linalg.solve(a.cell, b.cell), side="left")  # cell_b = cell_a stretch turn
        strain = stretch - np.eye(3)
        if np.linalg.det(turn) < 0.0 or np.abs(strain).max() > 0.04:
            return None
        b = _rotate(b, turn.T)
        forces_b = forces_b @ turn.T
        frac = np.linalg.solve(b.cell.T, b.positions.T).T - np.linalg.solve(a.cell.T, a.positions.T).T
        frac -= np.where(a.pbc, np.round(frac), 0.0)
        frac -= frac.mean(axis=0) - np.round(frac.mean(axis=0))
        moves = frac @ (0.5 * (a.cell + b.cell))
    else:
        x, y = a.positions - a.positions.mean(axis=0), b.positions - b.positions.mean(axis=0)
        turn = _turn(y, x)
        moves, forces_b = y @ turn - x, forces_b @ turn
    size = float(np.sqrt(np.mean(np.sum(moves**2, axis=1))))
    if size > 0.12 or np.linalg.norm(moves, axis=1).max() > 0.4:
        return None
    work = -0.5 * float(np.sum((forces_a + forces_b) * moves))
    if np.any(strain) and (a.stress is None or b.stress is None):
        return None
    parts = np.zeros((3, 3))
    if a.stress is not None and b.stress is not None and all(a.pbc):
        volume = abs(np.linalg.det(a.cell)), abs(np.linalg.det(b.cell))
        parts = 0.5 * (volume[0] * a.stress + volume[1] * b.stress)
    done = float(np.sum(parts * strain))
    if max(abs(work), abs(done)) < 1e-3 * np.sqrt(len(a)):
        return None  # no more than what a calculation leaves undecided
    shear_of_stress = np.array([parts[1, 2], parts[0, 2], parts[0, 1]])
    shear = 2.0 * np.array([strain[1, 2], strain[0, 2], strain[0, 1]])
    turned = [float(np.sum(shear_of_stress[list(p)] * shear)) for p in ((0, 1, 2), *_SHEAR_ORDERS)]
    return np.array([gain, work, done, *turned]) / np.sqrt(len(a))


def _rotate(record: Record, turn: Float[np.ndarray, "3 3"]) -> Record:
    """The same frame with every row vector times `turn`; forces as they were."""
    return dataclasses.replace(
        record,
        positions=record.positions @ turn,
        cell=record.cell @ turn,
        stress=None if record.stress is None else turn.T @ record.stress @ turn,
    )


def _turn(y: Float[np.ndarray, "atoms 3"], x: Float[np.ndarray, "atoms 3"]) -> np.ndarray:
    """The rotation that lays y upon x (Kabsch, Acta Cryst. A 32, 922 (1976), doi:10.1107/S0567739476001873)."""
    u, _, vt = np.linalg.svd(y.T @ x)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def _slope(table: np.ndarray, number: int) -> tuple[float, float, int] | None:
    """Energy differences over one of the works, where the other is small: median slope, its error, pairs."""
    energy, work, other = table[:, 0], table[:, number], table[:, 3 - number]
    here = np.abs(work) > 3.0 * np.abs(other)
    if here.sum() < 4:
        return None
    ratio, weight = (energy - other)[here] / work[here], np.abs(work[here])
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    low, middle, high = (float(ratio[order][np.searchsorted(share, q)]) for q in (0.16, 0.5, 0.84))
    error = 0.5 * (high - low) / np.sqrt(here.sum() / 2.0)
    return round(middle, 4), round(float(error), 4), int(here.sum())


def _judge_slope(what: str, where: str, slope: float, error: float, pairs: int) -> Iterator[Finding]:
    """What a slope away from 1 may mean."""
    if abs(slope - 1.0) <= max(0.3, 4.0 * error):
        return
    found = (
        f"energy differences are {slope:.3g} ± {error:.1g} times what the {what} say ({pairs} pairs of close frames)"
    )
    spread = error * np.sqrt(pairs / 2.0)
    if 0.5 < slope < 2.0 or spread > 0.3 * abs(slope) or pairs < _LEAST_PAIRS:
        reason = (
            "too few, or too unlike, to tell" if spread > 0.3 * abs(slope) else "an incomplete basis (Pulay stress)?"
        )
        yield Finding(f"energy and {what}", NOTE, f"{found}: {reason}", (where,))
        return
    known = _UNITS if what == "forces" else _STRESS_UNITS
    hint = ": another unit, or another calculation?"
    for unit, name in known.items():
        for factor, text in ((unit, f"{what} in {name}?"), (1.0 / unit, f"{what} divided by {name}?")):
            if abs(abs(slope) / factor - 1.0) < 0.15:
                hint = f": {text}"
    sign = ", of the other sign" if slope < 0.0 else ""
    hint = "" if -1.4 < slope < -0.7 else hint
    yield Finding(f"energy and {what}", ERROR, found + sign + hint, (where,))


def _judge_order(table: np.ndarray, where: str) -> Iterator[Finding]:
    """Whether another order of the shear components explains energies that this one does not."""
    energy, work, done, identity, turned = table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4:]
    here = np.ptp(table[:, 3:], axis=1) > 0.2 * np.abs(energy)
    if here.sum() < 4:
        return
    rest = (energy - work - done + identity)[here]
    misfit = np.median(np.abs(rest - identity[here]))
    others = np.median(np.abs(rest[:, None] - turned[here]), axis=0)
    best = int(others.argmin())
    if others[best] < 0.3 * misfit:
        names = np.array(["yz", "xz", "xy"])
        order = " ".join(names[list(_SHEAR_ORDERS[best])])
        text = f"shear components fit energies in the order {order}, not yz xz xy ({here.sum()} pairs of close frames)"
        yield Finding("order of stress", ERROR, text, (where,))


# --- frames that are there twice, or unlike the others --------------------------------------------------------------


def fingerprint(record: Record) -> Float[np.ndarray, "features"]:
    """Numbers that say what a structure is, whatever its orientation, origin, cell and order of atoms: means over the
    atoms of smooth sums over their neighbors within 5 Å, and of products of these."""
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, _CUTOFF)
    vectors = record.positions[senders] + shifts @ record.cell - record.positions[receivers]
    lengths = np.linalg.norm(vectors, axis=1)
    waves = np.sin(np.pi * np.arange(1, _WIDTHS + 1)[:, None] * lengths / _CUTOFF) / np.maximum(lengths, 1e-6)
    waves = waves * (1.0 - (lengths / _CUTOFF) ** 2) ** 2
    elements = np.unique(record.numbers)
    sums = np.zeros((len(elements), _WIDTHS, len(record)))
    dipoles = np.zeros((_WIDTHS, 3, len(record)))
    for kind, element in enumerate(elements):
        mine = record.numbers[senders] == element
        for k in range(_WIDTHS):
            sums[kind, k] = np.bincount(receivers[mine], waves[k, mine], minlength=len(record))
    for k, axis in itertools.product(range(_WIDTHS), range(3)):
        along = waves[k] * vectors[:, axis] / np.maximum(lengths, 1e-6) * record.numbers[senders]
        dipoles[k, axis] = np.bincount(receivers, along, minlength=len(record))
    features = [len(record)]
    for element in elements:
        here = record.numbers == element
        each = sums[:, :, here].reshape(-1, here.sum())
        features += [element, here.sum() / len(record), *each.mean(axis=1), *(each**2).mean(axis=1)]
        features += [*np.sum(dipoles[:, :, here] ** 2, axis=1).mean(axis=1)]
    return np.array(features, float)


def _twice(parts: Mapping[str, Dataset], whole: Dataset, fingerprints: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Structures that are there twice: with other labels, in two parts, or merely twice."""
    part_of = [name for name, part in parts.items() for _ in part]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, r in enumerate(whole):
        groups[len(fingerprints[i]), tuple(np.unique(r.numbers))].append(i)
    differing, leaking, same = [], [], []
    for members in groups.values():
        x = np.array([fingerprints[i] / np.linalg.norm(fingerprints[i]) for i in members])
        for a, b in sorted(KDTree(x).query_pairs(_SAME)):
            i, j = members[a], members[b]
            r, s = whole[i], whole[j]
            if not _equal(r, s):
                continue
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


def _equal(a: Record, b: Record) -> bool:
    """Whether two frames of equal fingerprints also have the same distances further out."""
    lengths = []
    for r in (a, b):
        receivers, senders, shifts = neighbor_pairs(r.positions, r.cell, r.pbc, _FAR)
        lengths.append(np.sort(np.linalg.norm(r.positions[senders] + shifts @ r.cell - r.positions[receivers], axis=1)))
    if abs(len(lengths[0]) - len(lengths[1])) > 0.01 * len(lengths[0]):
        return False
    least = min(map(len, lengths))
    return bool(np.all(np.abs(lengths[0][: least // 2] - lengths[1][: least // 2]) < 1e-3)) and bool(
        abs(lengths[0][:least].mean() - lengths[1][:least].mean()) < 1e-4
    )


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
        receivers, senders, shifts = neighbor_pairs(r.positions, r.cell, r.pbc, _CUTOFF)
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
