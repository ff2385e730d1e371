r"""Energies against forces and stress: between frames that are close, the energy changes by the work that is done,

$E_j - E_i \approx -\frac{1}{2} (F_i + F_j) \cdot \Delta x + \frac{1}{2} (V_i \sigma_i + V_j \sigma_j) : \epsilon$.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import polar

from jaxmlip import units
from jaxmlip.data.dataset import Dataset
from jaxmlip.data.finding import ERROR, NOTE, Finding
from jaxmlip.io import Record

_UNITS = {
    units.hartree / units.bohr: "Hartree/Bohr",
    units.rydberg / units.bohr: "Rydberg/Bohr",
    units.kcal_per_mol: "kcal/mol/Å",
    units.kJ_per_mol: "kJ/mol/Å",
}
_STRESS_UNITS = {units.GPa: "GPa", units.kbar: "kbar", 1e-3 * units.kbar: "bar"}
_SHEAR_ORDERS = [p for p in itertools.permutations(range(3)) if p != (0, 1, 2)]
_LEAST_PAIRS = 5  # that a slope is believed from
_MOST_PAIRS = 4000  # of frames of one kind whose energies are compared


def check_work(dataset: Dataset) -> tuple[list[Finding], dict[str, Any]]:
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
