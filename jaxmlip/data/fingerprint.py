"""Numbers that say what a structure is, whatever its orientation, origin, cell and order of atoms."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import Record

CUTOFF = 5.0  # Å
_WIDTHS = 8  # functions of distance in it
SAME = 1e-5  # relative difference of fingerprints that rounding makes
_FAR = 13.0  # Å, for fragments that do not see each other in the fingerprint


def fingerprint(record: Record) -> Float[np.ndarray, "features"]:
    """Numbers that say what a structure is, whatever its orientation, origin, cell and order of atoms: means over the
    atoms of smooth sums over their neighbors within 5 Å, and of products of these."""
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, CUTOFF)
    vectors = record.positions[senders] + shifts @ record.cell - record.positions[receivers]
    lengths = np.linalg.norm(vectors, axis=1)
    waves = np.sin(np.pi * np.arange(1, _WIDTHS + 1)[:, None] * lengths / CUTOFF) / np.maximum(lengths, 1e-6)
    waves = waves * (1.0 - (lengths / CUTOFF) ** 2) ** 2
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


def same_distances(a: Record, b: Record) -> bool:
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


def equal_structures(records: Sequence[Record], fingerprints: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of frames that are one structure, whatever its orientation, origin, cell and order of atoms."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, r in enumerate(records):
        groups[len(fingerprints[i]), tuple(np.unique(r.numbers))].append(i)
    for members in groups.values():
        x = np.array([fingerprints[i] / np.linalg.norm(fingerprints[i]) for i in members])
        for a, b in sorted(KDTree(x).query_pairs(SAME)):
            i, j = members[a], members[b]
            if same_distances(records[i], records[j]):
                yield i, j
