r"""Learning curves: how errors fall with the number of frames, and what more frames would bring.

Test errors of many learners fall as a power of the number of examples, $e(n) = a\, n^{-b} + c$, over decades; $c$ is
what the model, or the noise of the labels, leaves. A small $b$ or an $n$ where $c$ dominates means that more frames of
the same kind do not help.

**Reference:** Cortes, Jackel, Solla, Vapnik & Denker, Adv. Neural Inf. Process. Syst. 6 (1993); Viering & Loog,
IEEE Trans. Pattern Anal. Mach. Intell. 45, 7799 (2023), doi:10.1109/TPAMI.2022.3220744.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from jaxmlip.errors import UserError

_RESAMPLES = 200
_LEAST_SIZES = 4  # for a floor: three parameters need more than three sizes


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """$e(n) = a\\, n^{-b}$ through a learning curve: `prefactor` a, `exponent` b and its standard error; beside it the
    `floor` c of a fit with one, and its standard error (`None` below four sizes, or without repeats)."""

    prefactor: float
    exponent: float
    exponent_error: float
    floor: float | None
    floor_error: float | None

    def error_at(self, frames: int | float) -> float:
        """The error that the law without floor has for so many frames."""
        return self.prefactor * frames**-self.exponent

    @property
    def gain_of_doubling(self) -> float:
        """By which part twice as many frames lower the error, where there is no floor."""
        return 1.0 - 2.0**-self.exponent


def fit_exponent(
    sizes: Sequence[int] | np.ndarray, errors: Float[np.ndarray, "seeds sizes"], *, seed: int = 0
) -> PowerLaw:
    """The power law through the errors of training sets of `sizes` frames, drawn anew for each seed.

    The exponent is the mean of those of the seeds, each by least squares of the logarithms, and its standard error is
    that of this mean (with one seed: of the regression). The floor is fitted to the mean logarithms, with resampled
    seeds for its error.

    **Raises:** `UserError` for fewer than two different sizes, and for errors that are not positive numbers.
    """
    sizes = np.asarray(sizes, float)
    if len(np.unique(sizes)) < 2:
        raise UserError(f"An exponent needs at least two sizes of the training set; got {sizes.astype(int).tolist()}.")
    if not (np.all(np.isfinite(errors)) and np.all(errors > 0.0)):
        raise UserError("A learning curve needs errors that are positive numbers at every size and seed.")
    x, y = np.log(sizes), np.log(errors)
    centered = x - x.mean()
    slopes = y @ centered / np.sum(centered**2)
    level = float(np.mean(y) + np.mean(slopes) * -x.mean())
    if len(y) > 1:
        error = float(np.std(slopes, ddof=1) / np.sqrt(len(y)))
    else:
        rest = y[0] - y[0].mean() - slopes[0] * centered
        error = float(np.sqrt(np.sum(rest**2) / max(len(x) - 2, 1) / np.sum(centered**2)))
    floor = floor_error = None
    if len(np.unique(sizes)) >= _LEAST_SIZES and len(y) > 1:
        rng = np.random.default_rng(seed)
        floor = _floor(sizes, y.mean(axis=0))
        draws = [_floor(sizes, y[rng.integers(len(y), size=len(y))].mean(axis=0)) for _ in range(_RESAMPLES)]
        floor_error = float(np.std(draws, ddof=1))
    return PowerLaw(
        prefactor=float(np.exp(level)),
        exponent=float(-np.mean(slopes)),
        exponent_error=error,
        floor=floor,
        floor_error=floor_error,
    )


def _floor(sizes: np.ndarray, logs: np.ndarray) -> float:
    """c of $a n^{-b} + c$, between 0 and the smallest error, by least squares of the logarithms."""
    x, top = np.log(sizes), float(np.exp(logs.min()))
    slope = -float(np.polyfit(x, logs, 1)[0])

    def misfit(p: np.ndarray) -> np.ndarray:
        return np.log(np.exp(p[0] - p[1] * x) + p[2] * top) - logs

    bounds = ([-np.inf, 0.0, 0.0], [np.inf, 5.0, 1.0])
    starts = [(float(logs[0] + slope * x[0]), min(max(slope, 0.01), 4.9), 0.01), (float(logs[0] + x[0]), 1.0, 0.5)]
    found = [least_squares(misfit, start, bounds=bounds) for start in starts]
    return float(min(found, key=lambda f: f.cost).x[2] * top)
