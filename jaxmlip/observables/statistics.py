"""Averages of correlated samples, and how far to trust them (host, NumPy, float64)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float


def block_average(values: Float[np.ndarray, "steps"], blocks: int = 20) -> Estimate:
    """Mean of a stationary series, with the standard error from the scatter of the means of `blocks` blocks.

    Right where a block is much longer than the correlation time (`statistical_inefficiency`); samples that do not fill
    the last block are dropped from the front.

    **Raises:** `ValueError` for fewer than two blocks, or fewer samples than blocks.

    **Reference:** Flyvbjerg & Petersen, J. Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480.
    """
    means = _block_means(values, blocks)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(blocks)))


def statistical_inefficiency(values: Float[np.ndarray, "steps"]) -> float:
    r"""How many samples make one independent one, $g = 1 + 2 \sum_t (1 - t/n) C(t)$; the sum ends where $C \le 0$.

    **Reference:** Chodera et al., J. Chem. Theory Comput. 3, 26 (2007), doi:10.1021/ct0502864.
    """
    x = np.asarray(values, np.float64)
    x = x - x.mean()
    n = len(x)
    if n < 3 or not x.any():
        return 1.0
    spectrum = np.fft.rfft(x, 2 * n)
    correlation = np.fft.irfft(spectrum * spectrum.conj())[:n] / (np.arange(n, 0, -1) * x.var())
    below = np.flatnonzero(correlation[1:] <= 0)
    end = 1 + (below[0] if len(below) else n - 1)
    t = np.arange(1, end)
    return float(max(1.0, 1.0 + 2.0 * np.sum((1.0 - t / n) * correlation[1:end])))


def average(values: Float[np.ndarray, "steps"]) -> Estimate:
    """Mean of a stationary series, with the standard error corrected for its statistical inefficiency."""
    x = np.asarray(values, np.float64)
    return Estimate(float(x.mean()), float(np.sqrt(x.var(ddof=1) * statistical_inefficiency(x) / len(x))))


def pooled_inefficiency(series: Float[np.ndarray, "replicas steps *any"]) -> Float[np.ndarray, "*any"]:
    """`statistical_inefficiency` of several replicas of a series about their common mean.

    Replicas that disagree look like one endless correlation, as they should.
    """
    x = np.asarray(series, np.float64)
    x = x - x.mean(axis=(0, 1), keepdims=True)
    steps = x.shape[1]
    variance = np.mean(x * x, axis=(0, 1))
    if steps < 3:
        return np.ones(x.shape[2:])
    spectrum = np.fft.rfft(x, 2 * steps, axis=1)
    sums = np.fft.irfft(spectrum * spectrum.conj(), axis=1)[:, :steps].mean(axis=0)
    shape = (-1,) + (1,) * variance.ndim
    correlation = sums / np.arange(steps, 0, -1).reshape(shape) / np.where(variance > 0, variance, 1.0)
    t = np.arange(1, steps).reshape(shape)
    going = np.logical_and.accumulate(correlation[1:] > 0, axis=0)
    slow = 1.0 + 2.0 * np.sum(np.where(going, (1.0 - t / steps) * correlation[1:], 0.0), axis=0)
    return np.asarray(np.maximum(1.0, slow))


def split_rhat(series: Float[np.ndarray, "replicas steps *any"]) -> Float[np.ndarray, "*any"]:
    r"""How far replicas, each cut in halves, disagree: $\sqrt{1 + \frac{B}{W} - \frac1n}$, near 1 where all sample
    one distribution.

    $B$ is the variance of the means of the halves, $W$ the mean of their variances, $n$ their length. Beyond 1.1 no
    average is to be trusted. 1 for what does not vary.

    **Raises:** `ValueError` for fewer than four steps.

    **Reference:** Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.4; Vehtari et al., Bayesian Anal.
    16, 667 (2021), doi:10.1214/20-BA1221 (there with ranks).
    """
    x = np.asarray(series, np.float64)
    half = x.shape[1] // 2
    if half < 2:
        raise ValueError(f"Replicas need at least four steps each to be cut in halves; got {x.shape[1]}.")
    halves = np.concatenate([x[:, :half], x[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    constant = within <= 1e-20 * np.max(np.abs(x), axis=(0, 1), initial=0.0) ** 2
    ratio = np.where(constant, 0.0, between / np.where(constant, 1.0, within))
    stuck = constant & (between > 1e-20 * np.max(np.abs(x), axis=(0, 1), initial=0.0) ** 2)
    return np.where(stuck, np.inf, np.where(constant, 1.0, np.sqrt(1.0 - 1.0 / half + ratio)))


def drift(times: Float[np.ndarray, "steps"], values: Float[np.ndarray, "steps"], blocks: int = 80) -> Estimate:
    r"""Slope of a series, by least squares through `blocks` block means, with an honest standard error.

    The residuals are taken for white noise of variance $s^2$ plus a random walk of variance $r^2$ a block, such as
    rounding errors make. Both follow from the residuals' increments over one and over $L$ blocks, whose variances are
    $2 s^2 + r^2$ and $2 s^2 + L r^2$; the variance of the slope is at most $6 (2 s^2 + r^2) / B^3 + 6 r^2 / 5 B$ (block
    length 1).

    **Raises:** `ValueError` for fewer than eight blocks, or fewer samples than blocks.
    """
    if blocks < 8:
        raise ValueError(f"`blocks` must be at least 8; got {blocks}.")
    t, y = _block_means(times, blocks), _block_means(values, blocks)
    length = (t[-1] - t[0]) / (blocks - 1)
    index = np.arange(blocks) - 0.5 * (blocks - 1)
    slope = np.sum(index * y) / np.sum(index**2)
    rest = y - y.mean() - slope * index
    lag = max(2, blocks // 16)
    short, long = (float(np.mean((rest[n:] - rest[:-n]) ** 2)) for n in (1, lag))
    walk = max(0.0, (long - short) / (lag - 1))
    variance = 6.0 * short / blocks**3 + 1.2 * walk / blocks
    return Estimate(float(slope / length), float(np.sqrt(variance) / length))


def _block_means(values: Float[np.ndarray, "steps"], blocks: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if blocks < 2 or len(values) < blocks:
        raise ValueError(f"`blocks` must lie between 2 and the number of samples; got {blocks} for {len(values)}.")
    size = len(values) // blocks
    return values[len(values) - size * blocks :].reshape(blocks, size).mean(axis=1)
