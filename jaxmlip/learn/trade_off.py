r"""Bias against variance: what errors of many fits say of a model.

For fits $f_m$ to training sets that were drawn alike, the mean squared error at a label y is

$\langle (y - f_m)^2 \rangle = (y - \bar f)^2 + \langle (f_m - \bar f)^2 \rangle$:

squared bias (with the noise of the label in it) and variance. Too small a model has the bias, too large a one the
variance; more data lowers the variance only.

**Reference:** Geman, Bienenstock & Doursat, Neural Comput. 4, 1 (1992), doi:10.1162/neco.1992.4.1.1; Hastie,
Tibshirani & Friedman, *The Elements of Statistical Learning* (2009), doi:10.1007/978-0-387-84858-7, 7.3; Belkin et al.,
Proc. Natl. Acad. Sci. 116, 15849 (2019), doi:10.1073/pnas.1903070116 (double descent).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxmlip.errors import UserError
from jaxmlip.learn.evidence import KINDS
from jaxmlip.learn.splits import Point

SHAPES = ("flat", "falling", "rising", "U-shaped", "double descent")
_NOTICEABLE = 0.01  # relative differences below are none, however certain
_CERTAIN = 2.0  # standard errors


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """Mean squares over labels and fits: `error` = `bias` + `variance` + `noise`, the last as it was given."""

    error: float
    bias: float
    variance: float
    noise: float


def decompose(
    predictions: Float[np.ndarray, "fits labels"], labels: Float[np.ndarray, "labels"], *, noise: float = 0.0
) -> Decomposition:
    """Squared bias and variance of fits to training sets that were drawn alike, at the same test labels.

    The variance is the unbiased one, over fits - 1, and the bias is freed from what few fits add to it; it may come out
    below zero where there is none. `noise` is the known variance of the labels, in the square of their unit; where it
    is not known it stays in the bias.

    **Raises:** `UserError` for fewer than two fits, and without labels.
    """
    if len(predictions) < 2 or len(labels) == 0:
        raise UserError(f"Bias and variance need at least two fits and one label; got {predictions.shape}.")
    mean = predictions.mean(axis=0)
    variance = float(np.mean(np.var(predictions, axis=0, ddof=1)))
    bias = float(np.mean((labels - mean) ** 2)) - variance / len(predictions) - noise
    error = float(np.mean((labels - predictions) ** 2))
    return Decomposition(error=error, bias=bias, variance=variance, noise=noise)


def shape(errors: Float[np.ndarray, "seeds rungs"]) -> str:
    """One of `SHAPES`: how errors go along a ladder of capacities (or of regularisations).

    One rung is higher than another where the mean over the seeds of the logarithm of their ratio is above 1 %, and
    above twice its standard error. *Falling*: the first rung is higher than the best one, the last is not. *Rising*:
    the last alone. *U-shaped*: both. *Double descent*: some rung is higher than an earlier one, and than a later one.
    """
    logs = np.log(errors)
    rungs = range(logs.shape[1])
    best = int(logs.mean(axis=0).argmin())
    for peak in rungs[1:-1]:
        before, after = (any(_higher(logs[:, peak], logs[:, i]) for i in part) for part in (rungs[:peak], rungs[peak:]))
        if before and after:
            return "double descent"
    falls, rises = (_higher(logs[:, end], logs[:, best]) for end in (0, -1))
    return {(0, 0): "flat", (1, 0): "falling", (0, 1): "rising", (1, 1): "U-shaped"}[int(falls), int(rises)]


def _higher(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether logarithms of errors are higher, by more than what seeds do."""
    d = a - b
    error = float(np.std(d, ddof=1) / np.sqrt(len(d))) if len(d) > 1 else 0.0
    return bool(d.mean() > max(_NOTICEABLE, _CERTAIN * error))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting in all folds: mean errors of each kind in `train` and `test`, standard errors of the latter in
    `spread`, the `score` that settings are compared by in each fold (the geometric mean of energy and force errors, as
    far as there are labels), and `effective` parameters."""

    capacity: str
    weights: int
    regularisation: float
    train: Mapping[str, float]
    test: Mapping[str, float]
    spread: Mapping[str, float]
    scores: tuple[float, ...]
    effective: float | None

    @property
    def score(self) -> float:
        return float(np.mean(self.scores))

    @property
    def score_error(self) -> float:
        """Standard error of the mean over the folds."""
        return standard_error(np.array(self.scores))


def summarize(points: Sequence[Point]) -> list[Cell]:
    """One cell for each capacity and regularisation, in their order.

    **Raises:** `UserError` where no point has an error to compare.
    """
    groups: dict[tuple[int, str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.weights, point.capacity, point.regularisation), []).append(point)
    cells = []
    for (weights, capacity, regularisation), members in sorted(groups.items()):
        scores = [s for s in map(_score, members) if s is not None]
        if scores:
            effective = [p.effective for p in members if p.effective is not None]
            cells.append(
                Cell(
                    capacity=capacity,
                    weights=weights,
                    regularisation=regularisation,
                    train={k: float(np.mean(x)) for k, x in _by_kind([p.train for p in members]).items()},
                    test={k: float(np.mean(x)) for k, x in _by_kind([p.test for p in members]).items()},
                    spread={k: standard_error(x) for k, x in _by_kind([p.test for p in members]).items()},
                    scores=tuple(scores),
                    effective=float(np.mean(effective)) if effective else None,
                )
            )
    if not cells:
        raise UserError("No fit has a test error to compare: the held-out frames have no label that was learned from.")
    return cells


def _by_kind(errors: Sequence[Mapping[str, float | None]]) -> dict[str, np.ndarray]:
    """The errors that there are, by kind of label."""
    found = {k: np.array([e[k] for e in errors if e[k] is not None], float) for k in KINDS}
    return {k: x for k, x in found.items() if len(x)}


def _score(point: Point) -> float | None:
    """The geometric mean of energy and force errors, of whichever there are; virials where there is neither."""
    errors = [point.test[k] for k in ("energy", "force")]
    known = [e for e in errors if e is not None] or [e for e in (point.test["virial"],) if e is not None]
    return float(np.exp(np.mean(np.log(np.maximum(known, 1e-12))))) if known else None


def standard_error(x: np.ndarray) -> float:
    """Of the mean of independent values; 0 for one."""
    return float(np.std(x, ddof=1) / np.sqrt(len(x))) if len(x) > 1 else 0.0


def along(cells: Sequence[Cell], axis: str) -> list[Cell]:
    """The cells with the best score at each value of `axis` (`weights` or `regularisation`), in order."""
    best: dict[float, Cell] = {}
    for cell in cells:
        value = getattr(cell, axis)
        if value not in best or cell.score < best[value].score:
            best[value] = cell
    return [best[value] for value in sorted(best)]
