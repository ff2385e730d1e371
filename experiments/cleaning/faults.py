"""Faults to plant into sound labels, and how well they are found again."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.io import Record

LOWER = json.loads((Path(__file__).resolve().parent / "lower.json").read_text())
KINDS = ("energy", "swap", "lower", "stress", "moved")
SHARE = 0.05  # of the frames
LEAST_DIFFERENCE = 0.25  # eV/Å between two forces; exchanging equal ones is no fault
LEAST_STRESS = 0.5 * units.GPa  # RMS


def planted(kind: str, record: Record, lower: dict | None, rng: np.random.Generator) -> Record | None:
    """The frame with a fault of this kind, or `None` where it cannot have one."""
    if kind == "energy":
        return (
            None if record.is_isolated_atom else dataclasses.replace(record, energy=record.energy + 0.03 * len(record))
        )
    if kind == "swap":
        forces = np.array(record.forces)
        for _ in range(20):
            a, b = rng.choice(len(record), 2, replace=False) if len(record) > 1 else (0, 0)
            if np.linalg.norm(forces[a] - forces[b]) >= LEAST_DIFFERENCE:
                forces[[a, b]] = forces[[b, a]]
                return dataclasses.replace(record, forces=forces)
        return None
    if kind == "lower":
        if lower is None:
            return None
        stress = np.array(lower["stress"])
        return dataclasses.replace(
            record, energy=lower["energy"], forces=np.array(lower["forces"]), stress=0.5 * (stress + stress.T)
        )
    if kind == "stress":
        if record.stress is None or np.sqrt(np.mean(record.stress[record.stress_mask] ** 2)) < LEAST_STRESS:
            return None
        return dataclasses.replace(record, stress=-record.stress)
    moves = rng.normal(size=(len(record), 3))
    moves *= 0.1 / np.linalg.norm(moves, axis=1, keepdims=True)
    return None if len(record) == 1 else dataclasses.replace(record, positions=record.positions + moves)


def plant(dataset: Dataset, seed: int, *, shipped: bool) -> tuple[Dataset, dict[int, str]]:
    """Faults in 5 % of the frames, the kinds in turn; `shipped`: it is the set that `lower.json` belongs to."""
    rng = np.random.default_rng(seed)
    kinds = [k for k in KINDS if shipped or k != "lower"]
    count, records, found = max(round(SHARE * len(dataset)), len(kinds)), list(dataset), {}
    free = [int(i) for i in rng.permutation(len(dataset))]
    start = int(rng.integers(len(kinds)))
    for number in range(count):
        kind = kinds[(start + number) % len(kinds)]
        for i in free:
            lower = LOWER.get(str(records[i].index)) if shipped else None
            faulty = planted(kind, records[i], lower, rng)
            if faulty is not None:
                records[i], found[i] = faulty, kind
                free.remove(i)
                break
    return Dataset(records), found


def auc(scores: np.ndarray, faulty: set[int]) -> float:
    """Probability that a faulty frame is more suspicious than a sound one."""
    bad = np.isin(np.arange(len(scores)), list(faulty))
    above = scores[bad][:, None] - scores[~bad][None]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def recalls(scores: np.ndarray, found: dict[int, str], share: float = 0.1) -> dict[str, list[bool]]:
    """Of each kind: whether each fault is among the most suspicious tenth."""
    top = set(np.argsort(-scores, kind="stable")[: round(share * len(scores))].tolist())
    hits: dict[str, list[bool]] = {}
    for frame, kind in found.items():
        hits.setdefault(kind, []).append(frame in top)
    return hits
