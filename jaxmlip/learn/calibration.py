r"""Do predicted standard deviations mean what they say? Scores, ways to put them right, and the picture.

With the residuals $r$ of labels that were not learned from, and the deviation $s$ that was predicted for each:

- `nll`: mean negative logarithm of the Gaussian density, $\frac{1}{2} (r^2 / s^2 + \ln 2 \pi s^2)$;
- `ence`: over bins of equal counts in $s$, the mean of $|\mathrm{RMS}(s) - \mathrm{RMS}(r)| / \mathrm{RMS}(s)$;
- `miscalibration_area`: between the share of labels inside central intervals and the share that was promised;
- `coverage`: that share at some levels;
- `spearman`: rank correlation of $s$ with $|r|$. Even perfect deviations reach about 0.4 to 0.6 only where they
  themselves vary little, since one residual says little of its own distribution.

Three ways to put them right by labels set aside: `scaling` by one factor, `isotonic` (any increasing map), and
`conformal`, which promises no distribution but intervals that hold a new label with a given probability, whatever the
distribution, if it is exchangeable with the calibration labels.

**Reference:** Levi et al., Sensors 22, 5540 (2022), doi:10.3390/s22155540 (ENCE); Tran et al., Mach. Learn.: Sci.
Technol. 1, 025006 (2020), doi:10.1088/2632-2153/ab7e1a (miscalibration area); Kuleshov, Fenner & Ermon, ICML (2018),
arXiv:1807.00263 (isotonic); Angelopoulos & Bates, Found. Trends Mach. Learn. 16, 494 (2023), doi:10.1561/2200000101.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from jaxmlip.errors import UserError

LEVELS = (0.5, 0.68, 0.9, 0.95)
LEAST = 10  # labels that anything is calibrated with
_FLOOR = 0.01  # of the median deviation: what all members know by symmetry is not known better than its label

Values = Float[np.ndarray, "..."]


def deviations_at_level(level: float) -> float:
    """How many standard deviations hold this share of a Gaussian."""
    return float(special.ndtri(0.5 * (1.0 + level)))


class Recalibration(abc.ABC):
    """Deviations put right: what they become, and the half width of an interval at some level."""

    @abc.abstractmethod
    def __call__(self, deviations: Values) -> Values:
        """The deviations, put right."""

    def half_width(self, deviations: Values, level: float) -> Values:
        """Half the central interval that holds a label with this probability."""
        return deviations_at_level(level) * self(deviations)


@dataclasses.dataclass(frozen=True)
class Scaling(Recalibration):
    """All deviations times one factor: that of the greatest likelihood."""

    factor: float = 1.0

    def __call__(self, deviations: Values) -> Values:
        return self.factor * deviations


@dataclasses.dataclass(frozen=True, eq=False)
class Isotonic(Recalibration):
    """The increasing map of squared deviations that fits squared residuals best; constant beyond what was seen."""

    knots: Values
    values: Values

    def __call__(self, deviations: Values) -> Values:
        return np.sqrt(np.interp(deviations**2, self.knots, self.values))


@dataclasses.dataclass(frozen=True, eq=False)
class Conformal(Recalibration):
    """Intervals whose half width is a quantile of `sizes`, the sorted $|r| / s$ of the calibration labels, times $s$;
    as a deviation, the one with which a Gaussian has the same interval at 0.68."""

    sizes: Values

    def __call__(self, deviations: Values) -> Values:
        return self.half_width(deviations, 0.68) / deviations_at_level(0.68)

    def half_width(self, deviations: Values, level: float) -> Values:
        """The interval that holds a new label with at least this probability.

        **Raises:** `UserError` where there are too few calibration labels for the level.
        """
        if not 0.0 < level < 1.0:
            raise UserError(f"A level of confidence is between 0 and 1; got {level}.")
        rank = math.ceil(level * (len(self.sizes) + 1))
        if rank > len(self.sizes):
            least = math.ceil(level / (1.0 - level))
            raise UserError(f"An interval at {level} needs {least} calibration labels; there are {len(self.sizes)}.")
        return float(self.sizes[rank - 1]) * deviations


def scaling(residuals: Values, deviations: Values) -> Scaling:
    """The factor from residuals of labels set aside. **Raises:** `UserError` for too few, or none of any use."""
    residuals, deviations = checked(residuals, deviations)
    return Scaling(float(np.sqrt(np.mean((residuals / deviations) ** 2))))


def isotonic(residuals: Values, deviations: Values) -> Isotonic:
    """The increasing map. **Raises:** `UserError` for too few labels, or none of any use."""
    residuals, deviations = checked(residuals, deviations)
    order = np.argsort(deviations, kind="stable")
    knots = deviations[order] ** 2
    fitted = optimize.isotonic_regression(residuals[order] ** 2).x
    blocks = np.concatenate([[0], np.flatnonzero(np.diff(fitted)) + 1, [len(fitted)]])
    centers = np.array([knots[a:b].mean() for a, b in zip(blocks[:-1], blocks[1:], strict=True)])
    values = fitted[blocks[:-1]]
    least = _FLOOR**2 * float(np.mean(residuals**2))  # a first block of residuals that happen to be zero
    return Isotonic(centers, np.maximum(values, max(least, np.finfo(float).tiny)))


def conformal(residuals: Values, deviations: Values) -> Conformal:
    """Intervals without a distribution. **Raises:** `UserError` for too few labels, or none of any use."""
    residuals, deviations = checked(residuals, deviations)
    return Conformal(np.sort(np.abs(residuals) / deviations))


@dataclasses.dataclass(frozen=True)
class Scores:
    """How good predicted deviations are; see the head of this file. `labels` is how many were judged by."""

    nll: float
    ence: float
    miscalibration_area: float
    coverage: Mapping[float, float]
    spearman: float
    labels: int


def score(
    residuals: Values, deviations: Values, recalibration: Recalibration | None = None, *, bins: int = 10
) -> Scores:
    """Scores of deviations, put right where a `recalibration` is given, by labels that it has not seen.

    **Raises:** `UserError` for fewer than ten labels, or values that are not finite.
    """
    residuals, deviations = checked(residuals, deviations)
    rule = Scaling() if recalibration is None else recalibration
    s = rule(deviations)
    bins = max(1, min(bins, len(s) // LEAST))
    parts = np.array_split(np.argsort(s, kind="stable"), bins)
    said = np.array([np.sqrt(np.mean(s[p] ** 2)) for p in parts])
    true = np.array([np.sqrt(np.mean(residuals[p] ** 2)) for p in parts])
    promised = np.linspace(0.01, 0.99, 99)
    held = [_held(residuals, deviations, rule, p) for p in promised]
    known = np.array([h is not None for h in held])
    gap = np.abs(np.array([h for h in held if h is not None]) - promised[known])
    return Scores(
        nll=float(np.mean(0.5 * (residuals**2 / s**2 + np.log(2.0 * np.pi * s**2)))),
        ence=float(np.mean(np.abs(said - true) / said)),
        miscalibration_area=float(np.mean(gap)),
        coverage={level: h for level in LEVELS if (h := _held(residuals, deviations, rule, level)) is not None},
        spearman=rank_correlation(np.abs(residuals), s),
        labels=len(residuals),
    )


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's; zero where one of them is constant."""
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def reliability(path: Path, curves: Mapping[str, tuple[Values, Values]], *, unit: str, bins: int = 10) -> None:
    """A picture of residuals and deviations by name: what was said against what was found, and intervals."""
    from jaxmlip.learn.figures import panels, save

    figure, (left, right) = panels(2)
    promised = np.linspace(0.0, 1.0, 51)[1:-1]
    ends: list[float] = []
    for name, (residuals, deviations) in curves.items():
        residuals, deviations = checked(residuals, deviations)
        parts = np.array_split(np.argsort(deviations, kind="stable"), max(1, min(bins, len(residuals) // LEAST)))
        said = [float(np.sqrt(np.mean(deviations[p] ** 2))) for p in parts]
        true = [float(np.sqrt(np.mean(residuals[p] ** 2))) for p in parts]
        ends += [x for x in (*said, *true) if x > 0.0]
        left.loglog(said, true, marker="o", ms=3, lw=1, label=name)
        held = [np.mean(np.abs(residuals) <= deviations_at_level(p) * deviations) for p in promised]
        right.plot(promised, held, lw=1.2, label=name)
    if ends:
        left.loglog([min(ends), max(ends)], [min(ends), max(ends)], color="#6b7280", lw=1)
    right.plot([0, 1], [0, 1], color="#6b7280", lw=1)
    left.set(xlabel=f"predicted deviation [{unit}]", ylabel=f"RMS residual [{unit}]")
    right.set(xlabel="level of the interval", ylabel="labels inside")
    right.legend(fontsize=7, frameon=False)
    save(figure, path)


def checked(residuals: Values, deviations: Values) -> tuple[Values, Values]:
    """Both as vectors of float64, deviations below a hundredth of their median (zero by symmetry) raised to it.

    **Raises:** `UserError` for fewer than ten, of different number, not finite, negative, or all zero.
    """
    residuals, deviations = (np.ravel(np.asarray(x, np.float64)) for x in (residuals, deviations))
    if len(residuals) != len(deviations):
        raise UserError(f"There are {len(residuals)} residuals for {len(deviations)} deviations; give as many.")
    if len(residuals) < LEAST:
        raise UserError(f"{len(residuals)} labels are too few to judge deviations by; give {LEAST} at least.")
    if not (np.isfinite(residuals).all() and np.isfinite(deviations).all()) or (deviations < 0.0).any():
        raise UserError("Residuals must be finite, and deviations finite and not negative: look for missing labels.")
    positive = deviations[deviations > 0.0]
    if len(positive) == 0:
        raise UserError("All deviations are zero: the members of the committee are the same. Train them apart.")
    return residuals, np.maximum(deviations, _FLOOR * float(np.median(positive)))


def _held(residuals: Values, deviations: Values, rule: Recalibration, level: float) -> float | None:
    """The share of labels inside the interval; `None` where the rule cannot say one at this level."""
    try:
        return float(np.mean(np.abs(residuals) <= rule.half_width(deviations, level)))
    except UserError:
        return None
