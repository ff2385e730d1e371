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
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

ENERGY, FORCE, STRESS = range(3)  # kinds of rows
_WORST_ATOMS = 2  # a fault may sit on two atoms of a frame


@dataclasses.dataclass(frozen=True)
class Influence:
    """What one frame does to a fit, and what the others think of its labels (in units of the noise).

    - `leverage` of each label; their sum over all frames is the number of parameters that the data determine.
    - `residuals` with the frame in the fit, `left_out` without it, `studentised` the latter over their own error.
    - `kind` of each label; `cook`: how far the fit moves when the frame leaves, in units of its own uncertainty.
    """

    frame: int
    kind: np.ndarray
    leverage: np.ndarray
    residuals: np.ndarray
    left_out: np.ndarray
    studentised: np.ndarray
    cook: float


def influence(
    frame: int,
    rows: Float[np.ndarray, "labels columns"],
    residuals: Float[np.ndarray, "labels"],
    weight: Float[np.ndarray, "labels"],
    kind: np.ndarray,
    factor: Float[np.ndarray, "columns columns"],
) -> Influence:
    """The influence of one frame; `factor` is the lower Cholesky factor of the posterior precision, frame included.

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
    return Influence(
        frame=frame,
        kind=kind,
        leverage=np.diag(hat).copy(),
        residuals=residuals,
        left_out=left_out / root,
        studentised=left_out / root / np.sqrt(variance),
        cook=float(left_out @ hat @ left_out),
    )


def statistics_of(found: Influence) -> np.ndarray:
    """Studentised residual of the energy, of the worst atoms' forces, of all forces, and of the stress: root mean
    squares, NaN where there is no label."""
    t = found.studentised
    forces = t[found.kind == FORCE].reshape(-1, 3)
    atoms = np.sort(np.sqrt(np.mean(forces**2, axis=1)))[::-1]

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(x**2))) if x.size else np.nan

    return np.array(
        [rms(t[found.kind == ENERGY]), rms(atoms[:_WORST_ATOMS]), rms(forces), rms(t[found.kind == STRESS])]
    )


def suspicion(statistics: Float[np.ndarray, "frames statistics"]) -> Float[np.ndarray, "frames statistics"]:
    """How far each statistic lies above the bulk of the data, in units of the bulk's upper spread, on a log scale.

    Median and 84th percentile are those of all frames, so that a few wrong ones do not hide themselves, and no noise
    model has to be right: a statistic is compared with itself in the other frames.
    """
    logs = np.log(np.maximum(statistics, 1e-12))
    with np.errstate(all="ignore"):
        middle = np.nanmedian(logs, axis=0)
        spread = np.nanpercentile(logs, 84.0, axis=0) - middle
    score = (logs - middle) / np.maximum(spread, 1e-3)
    return np.where(np.isfinite(score), score, -np.inf)


REASONS = ("energy", "forces of single atoms", "forces", "stress")


def ranked(found: Sequence[Influence]) -> tuple[np.ndarray, np.ndarray]:
    """Scores [frames], the largest suspicion of each frame, and which of `REASONS` it is."""
    scores = suspicion(np.stack([statistics_of(f) for f in found]))
    return scores.max(axis=1), scores.argmax(axis=1)
