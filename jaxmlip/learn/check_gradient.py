"""Any estimate of a gradient against finite differences, in random directions and with error bars (host)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.diagnostics import along, sigmas
from jaxmlip.observables.statistics import Estimate


class Check(NamedTuple):
    """The derivative along one direction, by the gradient and by finite differences, and how many standard errors
    they are apart."""

    name: str
    gradient: Estimate
    difference: Estimate
    sigmas: float

    @property
    def relative_stderr(self) -> float:
        """Standard error of the gradient as a part of the derivative."""
        scale = max(abs(self.gradient.value), abs(self.difference.value))
        return self.gradient.stderr / scale if scale > 0 else float("inf")


def check_gradient(
    value: Callable[[AbstractEnergy, PRNGKeyArray], Estimate],
    gradient: Callable[[AbstractEnergy, PRNGKeyArray], Sequence[PyTree]],
    energy: AbstractEnergy,
    *,
    key: PRNGKeyArray,
    directions: int | dict[str, PyTree] = 3,
    step: float = 1e-2,
) -> list[Check]:
    """Compare `gradient` with central differences of `value`, each with independent random numbers.

    `value(energy, key)` is a number with its standard error (0 where it is exact); `gradient(energy, key)` gives the
    gradients by the inexact leaves of `energy` from one or more independent replicas, whose scatter is their error.
    Random directions change every parameter by a normally distributed multiple of its size (of the mean size of its
    array, where it is zero); the difference is taken `step` to either side, in units of the direction. Named
    directions may be given instead, as pytrees like the gradient.

    **Raises:** `ValueError` for a step that is not positive, and gradients without a replica.
    """
    if not step > 0:
        raise ValueError(f"`step` must be positive; got {step}.")
    begin, key = jax.random.split(key)
    chosen = directions if isinstance(directions, dict) else _random_directions(energy, directions, begin)
    found = list(gradient(energy, key))
    if not found:
        raise ValueError("`gradient` must return the gradient of one replica at least; got none.")
    checks = []
    for index, (name, direction) in enumerate(chosen.items()):
        slopes = np.array([along(g, direction) for g in found])
        error = float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else 0.0
        mine = Estimate(float(slopes.mean()), error)
        ends = []
        for side in (1, -1):
            draw = jax.random.fold_in(key, 2 * index + (side > 0))
            ends.append(value(moved(energy, direction, side * step), draw))
        plus, minus = ends
        slope = (plus.value - minus.value) / (2.0 * step)
        theirs = Estimate(slope, float(np.hypot(plus.stderr, minus.stderr) / (2.0 * step)))
        off = sigmas(mine.value - theirs.value, float(np.hypot(mine.stderr, theirs.stderr)))
        checks.append(Check(name, mine, theirs, off))
    return checks


def moved(energy: AbstractEnergy, direction: PyTree, size: float) -> AbstractEnergy:
    """The energy with its parameters moved along a direction."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda x, d: x + size * d.astype(x.dtype), learned, direction), rest)


def table(checks: Sequence[Check]) -> str:
    """The checks as lines of text."""
    lines = [f"{'direction':<20} {'gradient':>24} {'finite difference':>24} {'sigmas':>7}"]
    for check in checks:
        both = (f"{e.value:.5g} +- {e.stderr:.2g}" for e in (check.gradient, check.difference))
        lines.append(f"{check.name:<20} " + " ".join(f"{text:>24}" for text in both) + f" {check.sigmas:>7.2f}")
    return "\n".join(lines)


def _random_directions(energy: AbstractEnergy, count: int, key: PRNGKeyArray) -> dict[str, PyTree]:
    learned = eqx.filter(energy, eqx.is_inexact_array)
    leaves, form = jax.tree.flatten(learned)
    if not leaves:
        raise ValueError("This energy has no parameters to differentiate by.")
    chosen = {}
    for index, draw in enumerate(jax.random.split(key, count)):
        keys = jax.random.split(draw, len(leaves))
        parts = [_sizes(x) * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
        chosen[f"random {index}"] = jax.tree.unflatten(form, parts)
    return chosen


def _sizes(x: jax.Array) -> jax.Array:
    size = abs(x)
    typical = size.mean()
    return jax.numpy.where(size > 0, size, jax.numpy.where(typical > 0, typical, jax.numpy.ones_like(typical)))
