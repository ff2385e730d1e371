r"""Which structures to label: no two alike, and those that say most.

*Farthest point*: one after the other, the frame farthest from all that were chosen, in the space of its descriptors.
*D-optimal*: the frame whose rows X add most to $\ln \det A$, $A = \lambda + \sum X^T X$: to what a linear model of
these rows would know of its weights. The gain $\ln \det (1 + X A^{-1} X^T)$ of a frame never grows while others are
chosen, so a queue of old gains finds the best one exactly without asking all (Minoux).

**Reference:** Gonzalez, Theor. Comput. Sci. 38, 293 (1985), doi:10.1016/0304-3975(85)90224-5; Fedorov, *Theory of
Optimal Experiments*, Academic Press (1972); Minoux, in *Optimization Techniques*, Springer (1978), 234,
doi:10.1007/BFb0006528.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg
from scipy.spatial import KDTree

from jaxmlip.data.fingerprint import fingerprint, same_distances
from jaxmlip.errors import UserError
from jaxmlip.io import Record

_SAME = 1e-5  # relative difference of fingerprints that rounding makes
_RIDGE = 1e-3


def distinct(records: Sequence[Record], *, tolerance: float = _SAME) -> tuple[np.ndarray, dict[int, int]]:
    """Indices of the frames that are left when of equal ones, also rotated, shifted, in another cell or order, only the
    first is kept; and for each that is left out the one it equals. `tolerance`: relative difference of fingerprints."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    prints = [fingerprint(r) for r in records]
    for i, r in enumerate(records):
        groups[len(prints[i]), tuple(np.unique(r.numbers))].append(i)
    twin: dict[int, int] = {}
    for members in groups.values():
        x = np.array([prints[i] / np.linalg.norm(prints[i]) for i in members])
        for a, b in sorted(KDTree(x).query_pairs(tolerance)):
            i, j = members[a], members[b]
            if i not in twin and j not in twin and (tolerance > _SAME or same_distances(records[i], records[j])):
                twin[j] = i
    return np.array([i for i in range(len(records)) if i not in twin], int), twin


def farthest_points(
    points: Float[np.ndarray, "frames features"],
    count: int,
    *,
    chosen: Float[np.ndarray, "others features"] | None = None,
) -> np.ndarray:
    """Indices of `count` points, each the farthest from the ones before it and from those `chosen` already; where none
    are, the first is the one farthest from the mean. Points on top of chosen ones come last.

    **Raises:** `UserError` where there are fewer points, or some are not finite.
    """
    check_rows(points, count)
    if chosen is not None and len(chosen):
        distances = KDTree(chosen).query(points)[0]
    else:
        distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
    found: list[int] = []
    for step in range(count):
        best = int(np.argmax(np.where(np.isin(np.arange(len(points)), found), -1.0, distances)))
        found.append(best)
        new = np.linalg.norm(points - points[best], axis=1)
        distances = new if step == 0 and (chosen is None or not len(chosen)) else np.minimum(distances, new)
    return np.array(found, int)


class DOptimal:
    """The information of the frames chosen so far, and the choice of more; `scale` are the units of the features."""

    def __init__(self, scale: Float[np.ndarray, "features"], *, ridge: float = _RIDGE):
        if not ridge > 0.0:
            raise UserError(f"`ridge` must be positive: without it few frames determine nothing; got {ridge}.")
        self.scale = np.where(np.isfinite(scale) & (scale > 1e-12), scale, np.inf)
        self.precision = ridge * np.eye(len(scale))

    def add(self, rows: Float[np.ndarray, "rows features"]) -> None:
        """Counts a frame as chosen."""
        x = rows / self.scale
        self.precision = self.precision + x.T @ x

    def gain(self, rows: Float[np.ndarray, "rows features"]) -> float:
        """What a frame would add to the logarithm of the determinant."""
        x = linalg.solve_triangular(linalg.cholesky(self.precision, lower=True), (rows / self.scale).T, lower=True)
        return _log_det(np.eye(x.shape[1]) + x.T @ x) if x.shape[1] <= len(x) else _log_det(np.eye(len(x)) + x @ x.T)

    def choose(self, frames: Sequence[np.ndarray], count: int) -> np.ndarray:
        """Indices of `count` frames (the rows of each [rows features]), the one that adds most each time, counted as
        chosen from then on; ties go to the first.

        **Raises:** `UserError` where there are fewer frames, or rows are not finite.
        """
        if not 0 <= count <= len(frames):
            raise UserError(f"Cannot choose {count} of {len(frames)} frames.")
        for rows in frames:
            check_rows(rows, 0)
        queue = [(-np.inf, i, -1) for i in range(len(frames))]
        found: list[int] = []
        while len(found) < count:
            factor = linalg.cholesky(self.precision, lower=True)
            while queue[0][2] != len(found):  # the best gain is an old one: ask again
                _, i, _ = heapq.heappop(queue)
                x = linalg.solve_triangular(factor, (frames[i] / self.scale).T, lower=True)
                small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
                heapq.heappush(queue, (-_log_det(np.eye(len(small)) + small), i, len(found)))
            best = heapq.heappop(queue)[1]
            found.append(best)
            self.add(frames[best])
        return np.array(found, int)


def spread(frames: Sequence[np.ndarray]) -> Float[np.ndarray, "features"]:
    """Root mean square of each feature over all rows [rows features] of the frames: the units of a design."""
    total = sum(np.sum(np.asarray(x, float) ** 2, axis=0) for x in frames)
    return np.sqrt(total / max(sum(len(x) for x in frames), 1))


def check_rows(rows: Float[np.ndarray, "rows features"], count: int) -> None:
    """Refuse descriptors that cannot be chosen from.

    **Raises:** `UserError` where they are not finite, or fewer than `count`.
    """
    if not np.all(np.isfinite(rows)):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise UserError(f"Descriptors must be finite; rows {bad[:5].tolist()} are not. Do atoms overlap there?")
    if count > len(rows) or count < 0:
        raise UserError(f"Cannot choose {count} of {len(rows)} frames.")


def _log_det(matrix: np.ndarray) -> float:
    return 2.0 * float(np.sum(np.log(np.diag(linalg.cholesky(matrix, lower=True)))))
