r"""Influence of frames on a fit: leverage, exact leave-one-out residuals, and which labels look wrong.

For a fit whose parameters have the posterior precision $A = \Lambda + \sum_B X_B^T W_B X_B$ (rows in units of the
noise, W how often each label counts), the hat matrix of frame B is $H_B = W_B^{1/2} X_B A^{-1} X_B^T W_B^{1/2}$, and
what is left of its labels when the frame is taken out of the fit is, exactly and without a refit,

$e_B = (I - H_B)^{-1} r_B$.

All labels of a frame leave at once: row by row, $r_i / (1 - h_{ii})$ is several per cent wrong, for the labels of a
frame tell of each other. The prediction without the frame has the variance $1 + x A_{-B}^{-1} x^T$, which is what
studentised residuals divide by. Everything here is NumPy on blocks of rows, of whatever model.

**Reference:** Belsley, Kuh & Welsch, *Regression Diagnostics* (1980), doi:10.1002/0471725153; Cook, Technometrics 19,
15 (1977), doi:10.1080/00401706.1977.10489493.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

ENERGY, FORCE, STRESS = range(3)  # kinds of rows
_WORST_ATOMS = 2  # a fault may sit on two atoms of a frame
_MOST_ATOMS = 64  # whose exchange is tried: those with the largest residuals
_FLOOR = 0.6  # of the median of all frames: residuals far below it are all the same
_SHRINK = 5.0  # a group of so many frames is compared half with itself and half with all
_LEAST_SPREAD = 0.15
_HEAD_START = 2.0  # of statistics that the bulk of sound frames has none of


@dataclasses.dataclass(frozen=True)
class Influence:
    """What one frame does to a fit, and what the others think of its labels (in units of the noise).

    - `leverage` of each label; their sum over all frames is the number of parameters that the data determine.
    - `residuals` with the frame in the fit, `left_out` without it, `studentised` the latter over their own error.
    - `kind` of each label; `cook`: how far the fit moves when the frame leaves, in units of its own uncertainty.
    - `exchanged`, `flipped`: how much the squared studentised residuals would fall if the forces of the best pair of
      atoms (`pair`) were exchanged, or the sign of the stress turned; at least 0.
    """

    frame: int
    kind: np.ndarray
    leverage: np.ndarray
    residuals: np.ndarray
    left_out: np.ndarray
    studentised: np.ndarray
    cook: float
    exchanged: float
    pair: tuple[int, int]
    flipped: float


def influence(
    frame: int,
    rows: Float[np.ndarray, "labels columns"],
    targets: Float[np.ndarray, "labels"],
    residuals: Float[np.ndarray, "labels"],
    weight: Float[np.ndarray, "labels"],
    kind: np.ndarray,
    factor: Float[np.ndarray, "columns columns"],
) -> Influence:
    """The influence of one frame; `factor` is the lower Cholesky factor of the posterior precision, frame included.
    Forces are ordered atom by atom.

    **Raises:** `ValueError` where the fit has no information but this frame's on some direction, which has no answer.
    """
    root = np.sqrt(weight)
    half = linalg.solve_triangular(factor, (rows * root[:, None]).T, lower=True, check_finite=False)
    hat = half.T @ half
    rest = np.eye(len(hat)) - hat
    try:
        cholesky = linalg.cho_factor(rest, lower=True)
    except linalg.LinAlgError:
        raise ValueError(
            f"Frame {frame} alone determines a part of the fit: leave it out, or regularise more."
        ) from None
    left_out = linalg.cho_solve(cholesky, root * residuals)
    inverse = linalg.cho_solve(cholesky, np.eye(len(hat)))
    variance = 1.0 + (np.diag(inverse) - 1.0) / np.maximum(weight, 1e-300)
    without = left_out / root
    here = kind == FORCE
    exchanged, pair = _exchanged(*(x[here].reshape(-1, 3) for x in (targets, without, variance)))
    return Influence(
        frame=frame,
        kind=kind,
        leverage=np.diag(hat).copy(),
        residuals=residuals,
        left_out=without,
        studentised=without / np.sqrt(variance),
        cook=float(left_out @ hat @ left_out),
        exchanged=exchanged,
        pair=pair,
        flipped=_flipped(*(x[kind == STRESS] for x in (targets, without, variance))),
    )


def _exchanged(
    targets: Float[np.ndarray, "atoms 3"],
    left_out: Float[np.ndarray, "atoms 3"],
    variance: Float[np.ndarray, "atoms 3"],
) -> tuple[float, tuple[int, int]]:
    """What the best exchange of the forces of two atoms takes off the squared studentised residuals; which atoms."""
    worst = np.argsort(-np.sum(left_out**2 / variance, axis=1), kind="stable")[:_MOST_ATOMS]
    y, e, v = targets[worst], left_out[worst], variance[worst]
    change = y[None, :] - y[:, None]
    gain = -np.sum((2.0 * e[:, None] + change) * change / v[:, None], axis=2)
    gain = gain + gain.T
    if len(worst) < 2 or not gain.max() > 0.0:
        return 0.0, (0, 0)
    a, b = np.unravel_index(int(gain.argmax()), gain.shape)
    return float(gain.max()), (int(worst[a]), int(worst[b]))


def _flipped(targets: np.ndarray, left_out: np.ndarray, variance: np.ndarray) -> float:
    """What the other sign of the stress takes off the squared studentised residuals; 0 for one or two components, of
    which every other residual would do."""
    if len(targets) < 3:
        return 0.0
    return max(float(np.sum((left_out**2 - (left_out - 2.0 * targets) ** 2) / variance)), 0.0)


def statistics_of(found: Influence) -> np.ndarray:
    """In the order of `REASONS`: studentised residual of the energy, of the worst atoms' forces, of all forces, and of
    the stress; what an exchange of forces or the other sign of the stress would take off them. Root mean squares, NaN
    where there is no label."""
    t = found.studentised
    forces = t[found.kind == FORCE].reshape(-1, 3)
    atoms = np.sort(np.sqrt(np.mean(forces**2, axis=1)))[::-1]

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(x**2))) if x.size else np.nan

    stress = t[found.kind == STRESS]
    gains = [np.sqrt(found.exchanged / (3.0 * _WORST_ATOMS)) if len(forces) else np.nan]
    gains += [np.sqrt(found.flipped / stress.size) if stress.size else np.nan]
    return np.array([rms(t[found.kind == ENERGY]), rms(atoms[:_WORST_ATOMS]), rms(forces), rms(stress), *gains])


def suspicion(
    statistics: Float[np.ndarray, "frames statistics"], groups: Sequence[str] = ()
) -> Float[np.ndarray, "frames statistics"]:
    """How far each statistic lies above the bulk, in units of the bulk's upper spread, on a log scale.

    Median and 84th percentile are those of all frames, so that a few wrong ones do not hide themselves, and no noise
    model has to be right: a statistic is compared with itself in the other frames. With `groups` (a name for each
    frame) the medians are those of its group, drawn towards that of all where the group is small. What an exchange of
    forces or of a sign would explain is compared with the residuals that it would explain away.
    """
    logs = np.log(np.hypot(statistics[:, :4], _FLOOR * _median(statistics[:, :4])))
    middle = np.broadcast_to(_median(logs), logs.shape).copy()
    names = np.asarray(groups if len(groups) else ["all"] * len(logs))
    for name in set(names.tolist()):
        mine = names == name
        share = mine.sum() / (mine.sum() + _SHRINK)
        own = _median(logs[mine])
        middle[mine] += np.where(np.isfinite(own), share * (own - middle[mine]), 0.0)
    above = logs - middle
    spread = np.maximum(_percentile(above, 84.0) - _median(above), _LEAST_SPREAD)
    with np.errstate(divide="ignore"):
        explained = np.log(statistics[:, 4:]) - middle[:, _EXPLAINS]
    scores = np.concatenate([above / spread, explained / spread[_EXPLAINS] + _HEAD_START], axis=1)
    return np.where(np.isfinite(scores), scores, -np.inf)


def _median(x: np.ndarray) -> np.ndarray:
    return _percentile(x, 50.0)


def _percentile(x: np.ndarray, percent: float) -> np.ndarray:
    """Of each column, where it has any number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanpercentile(x, percent, axis=0)


REASONS = (
    "energy",
    "forces of single atoms",
    "forces",
    "stress",
    "forces of two atoms exchanged",
    "stress of the other sign",
)
_EXPLAINS = [1, 3]  # the statistics that the last two would explain away


def ranked(found: Sequence[Influence], groups: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Scores [frames], the largest suspicion of each frame, and which of `REASONS` it is."""
    scores = suspicion(np.stack([statistics_of(f) for f in found]), groups)
    return scores.max(axis=1), scores.argmax(axis=1)
