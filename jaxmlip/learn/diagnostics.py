"""How far averages and gradients from sampling are to be trusted (host)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.frames import evaluate, is_static
from jaxmlip.learn.mixture import Mixture, log_weights
from jaxmlip.learn.reweight import reduced_values
from jaxmlip.observables.statistics import Estimate, pooled_inefficiency, split_rhat


class Expectation(NamedTuple):
    """Averages and their standard errors, in the shapes of the observables, and the effective number of frames."""

    value: PyTree
    stderr: PyTree
    effective: float


def estimate(observables: PyTree, energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> Expectation:
    r"""Averages as `expectation` gives them, with errors.

    To first order an average deviates by $\sum_n w_n \psi_n$, the $w_n \psi_n$ being its derivatives by the logarithms
    of the weights; the variance of this sum follows from its statistical inefficiency over the replicas. Errors of the
    free energies between sets are not in it.
    """
    changes, values = evaluate(energy, observables, mixture.frames, chunk=chunk)
    logs = log_weights(changes, mixture)

    value, influence = _influence(observables, values, logs, mixture.conditions)
    stderr = jax.tree.map(lambda x: np.sqrt(_variance(np.asarray(x, np.float64), mixture.layout)), influence)
    weights = jax.nn.softmax(logs)
    return Expectation(value, stderr, 1.0 / float(jnp.sum(weights**2)))


def rhats(observables: PyTree, energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> dict[str, float]:
    """The largest `split_rhat` of the potential energy and of what frames contribute to each observable.

    Replicas of one set are compared, set by set. Names are the paths of the observables; a value beyond 1.1 says that
    replicas are in different states (half of them frozen, say), or too short: then gradients may have the wrong sign
    while all else looks well.

    **Raises:** `ValueError` where there is only one replica with fewer than four frames.
    """

    changes, values = evaluate(energy, observables, mixture.frames, chunk=chunk)
    del changes
    paths = jax.tree_util.tree_leaves_with_path(observables, is_leaf=is_static)
    named = {"potential energy": mixture.origins}
    for (path, observable), value in zip(paths, values, strict=True):
        named[jax.tree_util.keystr(path) or type(observable).__name__] = value
    return {name: _worst(value, mixture.layout) for name, value in named.items()}


class GradientNoise(NamedTuple):
    """Mean of gradients from replicas, its standard error, and the `ratio` of their norms."""

    mean: PyTree
    stderr: PyTree
    ratio: float


def gradient_noise(gradients: Sequence[PyTree], scale: PyTree | None = None) -> GradientNoise:
    """Signal and noise of gradients from replicas; `ratio` below 1 asks for more frames before any step.

    Norms are of gradients times `scale`, typical sizes of the parameters, where they differ in unit.

    **Raises:** `ValueError` for fewer than two gradients.
    """
    if len(gradients) < 2:
        raise ValueError(f"Noise needs gradients of at least two replicas; got {len(gradients)}.")
    mean = jax.tree.map(lambda *g: np.mean(np.asarray(g, np.float64), axis=0), *gradients)
    stderr = jax.tree.map(lambda *g: np.std(np.asarray(g, np.float64), axis=0, ddof=1) / np.sqrt(len(g)), *gradients)
    ones = jax.tree.map(np.ones_like, mean) if scale is None else scale

    def norm(tree):
        parts = jax.tree.map(lambda x, s: np.sum((x * np.asarray(s, np.float64)) ** 2), tree, ones)
        return np.sqrt(sum(jax.tree.leaves(parts)))

    noise = norm(stderr)
    return GradientNoise(mean, stderr, float(norm(mean) / noise) if noise > 0 else float("inf"))


class Linearity(NamedTuple):
    """Predicted and realised change of an observable in a step, and by how many standard errors they differ."""

    predicted: float
    realised: Estimate
    sigmas: float


def linearity(gradient: PyTree, step: PyTree, before: Estimate, after: Estimate) -> Linearity:
    """What a gradient said that a `step` of the parameters would change, and what it did, from independent samples."""
    predicted = along(gradient, step)
    realised = Estimate(after.value - before.value, float(np.hypot(after.stderr, before.stderr)))
    return Linearity(predicted, realised, sigmas(predicted - realised.value, realised.stderr))


def along(gradient: PyTree, direction: PyTree) -> float:
    """The derivative along a direction, in float64."""
    pairs = jax.tree.map(
        lambda g, d: np.sum(np.asarray(g, np.float64) * np.asarray(d, np.float64)), gradient, direction
    )
    return float(sum(jax.tree.leaves(pairs)))


def sigmas(difference: float, stderr: float) -> float:
    """A difference in standard errors; infinite where there is one and no error."""
    if stderr > 0:
        return abs(difference) / stderr
    return 0.0 if difference == 0 else float("inf")


@eqx.filter_jit
def _influence(observables, values, logs, conditions) -> tuple[PyTree, PyTree]:
    """Averages and their derivatives by the logarithms of the weights."""

    def averages(logs):
        return reduced_values(observables, values, jax.nn.softmax(logs), conditions)

    return averages(logs), jax.jacrev(averages)(logs)


def _series(values: np.ndarray, layout: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
    """A leading axis of frames as [replicas frames] for each set."""
    found, start = [], 0
    for replicas, frames in layout:
        piece = values[start : start + replicas * frames]
        found.append(piece.reshape(replicas, frames, *values.shape[1:]))
        start += replicas * frames
    return found


def _variance(influence: np.ndarray, layout: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Variance of a sum over frames (last axis) of correlated terms."""
    total = 0.0
    for series in _series(np.moveaxis(influence, -1, 0), layout):
        centered = series - series.mean(axis=(0, 1), keepdims=True)
        count = series.shape[0] * series.shape[1]
        spread = np.sum(centered**2, axis=(0, 1)) * count / max(count - 1, 1)
        total = total + spread * pooled_inefficiency(series)
    return np.asarray(total)


def _worst(values: PyTree, layout: tuple[tuple[int, int], ...]) -> float:
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(values)]
    return float(max(np.max(split_rhat(series)) for x in leaves for series in _series(x, layout)))
