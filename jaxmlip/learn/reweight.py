"""Ensemble averages under parameters other than those that were sampled with, and their gradients.

Frames of one or several sample sets are weighted as a mixture (multistate Bennett acceptance ratio). Sampling is never
differentiated: what depends on the parameters are the weights, and the observable itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.frames import evaluate, is_static, pull_back, pull_back_rows, slopes
from jaxmlip.learn.mixture import Mixture, log_weights, mix
from jaxmlip.learn.sampler import Samples, StatePoint, sample
from jaxmlip.observables.static import Conditions


class Weights(NamedTuple):
    """Weights of the frames, whose sum is 1, and the number of independent frames they are worth (Kish),
    $1 / \\sum w^2$."""

    weights: Float[Array, "frames"]
    effective: Float[Array, ""]


def reweight(energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> Weights:
    """Weights of the frames under `energy`; differentiable, `chunk` frames at a time."""
    changes, _ = evaluate(energy, (), mixture.frames, chunk=chunk)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    return Weights(weights, 1.0 / jnp.sum(weights**2))


def expectation(observables: PyTree, energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> PyTree:
    r"""Averages of one observable, or of a dict or list of them, under `energy`.

    Gradients by the parameters are exact for the given frames:
    $\nabla \langle A \rangle = \langle \nabla A \rangle - \beta \, \mathrm{cov}(A, \nabla U)$. They take a second pass
    with one backward pass for each `chunk` of frames, so that memory is that of one chunk (and a few numbers for each
    frame), however many frames there are.

    **Raises:** `ValueError` where an observable looks farther than the neighbor lists of the mixture.

    **Reference:** Thaler & Zavadlav, Nat. Commun. 12, 6884 (2021), doi:10.1038/s41467-021-27241-4.
    """
    changes, values = evaluate(energy, observables, mixture.frames, chunk=chunk)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    return reduced_values(observables, values, weights, mixture.conditions)


def max_step(
    energy: AbstractEnergy, direction: PyTree, mixture: Mixture, *, ess: float = 0.5, chunk: int = 1
) -> Float[Array, ""]:
    r"""How far the parameters may go along `direction` (a pytree as the gradient of `energy`) until the effective
    number of frames has fallen to `ess` times the frames of a set; 0 where it has already. One forward-mode pass.

    For one set that was sampled with `energy` it is $\sqrt{-\ln \mathrm{ess}} / \mathrm{std}(\beta \, dU)$, from
    $\mathrm{ESS} / N = e^{-\mathrm{var}(\beta \, dU)}$ for normally distributed changes $dU$; a displacement that was
    made before counts too.

    **Raises:** `ValueError` unless 0 < `ess` < 1, and where `direction` changes no energy.
    """
    if not 0.0 < ess < 1.0:
        raise ValueError(f"`ess` must lie between 0 and 1; got {ess}.")
    changes, rises = slopes(energy, direction, mixture.frames, chunk=chunk)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    squares = weights**2 / jnp.sum(weights**2)
    rises = -rises / mixture.conditions.kT.astype(rises.dtype)
    mean = jnp.sum(weights * rises)
    curvature = jnp.sum(weights * (rises - mean) ** 2)
    if not isinstance(curvature, Tracer) and not float(curvature) > 0:
        raise ValueError("`direction` changes no energy differences between frames: any step along it would do.")
    drift = jnp.sum(squares * rises) - mean
    frames = len(mixture.frames) / len(mixture.layout)
    left = -jnp.log(jnp.sum(weights**2) * ess * frames)
    step = (-drift + jnp.sqrt(jnp.maximum(drift**2 + curvature * left, 0.0))) / curvature
    return jnp.where(left > 0, step, jnp.zeros_like(step))


def replica_gradients(
    objective: Callable[[PyTree], Float[Array, ""]],
    observables: PyTree,
    energy: AbstractEnergy,
    mixture: Mixture,
    *,
    chunk: int = 1,
) -> list[PyTree]:
    """Gradients of an `objective` of the averages, from the frames of one replica at a time (host).

    All are shifted so that their mean is the gradient from all frames: the covariances of few frames come out too
    small. Three passes over all frames.
    """
    changes, values = evaluate(energy, observables, mixture.frames, chunk=chunk)

    @eqx.filter_jit
    def cotangents(observables, mixture, changes, values, offsets):
        def loss(changes, values):
            weights = jax.nn.softmax(log_weights(changes, mixture) + offsets)
            return objective(reduced_values(observables, values, weights, mixture.conditions))

        return jax.grad(loss, argnums=(0, 1))(changes, values)

    def of(offsets):
        return cotangents(observables, mixture, changes, values, jnp.asarray(offsets, changes.dtype))

    blocks = mixture.blocks()
    owner = np.concatenate([np.full(size, replica) for replica, _, size in blocks])
    count = 1 + int(owner.max())

    def gradients(given: Sequence[PyTree]) -> list[PyTree]:
        found: list[list[PyTree]] = [[] for _ in range(count)]
        for replica, start, size in blocks:
            part = {"start": start, "size": size, "chunk": chunk}
            found[replica].append(pull_back(energy, observables, mixture.frames, given[replica], **part))
        return [jax.tree.map(lambda *g: sum(g), *gradients) for gradients in found]

    alone = gradients([of(np.where(owner == replica, 0.0, -np.inf)) for replica in range(count)])
    whole = gradients([of(np.zeros(len(owner)))] * count)
    shift = jax.tree.map(lambda *g: sum(g), *whole)
    shift = jax.tree.map(lambda w, *g: w - sum(g) / count, shift, *alone)
    return [jax.tree.map(jnp.add, gradient, shift) for gradient in alone]


def replica_rows(observables: PyTree, energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> list[PyTree]:
    """What the frames of each replica add to the derivatives of all averages (host): gradients by the parameters, with
    one row for each value, in the order of the observables; their sum over the replicas is the derivative.

    What they scatter by is the noise of the sum, to first order.
    """
    changes, values = evaluate(energy, observables, mixture.frames, chunk=chunk)
    cotangents = _cotangents(observables, mixture, changes, values)
    blocks = mixture.blocks()
    found: list[PyTree] = [None] * (1 + max(replica for replica, _, _ in blocks))
    for replica, start, size in blocks:
        part = pull_back_rows(energy, observables, mixture.frames, cotangents, start=start, size=size, chunk=chunk)
        found[replica] = part if found[replica] is None else jax.tree.map(jnp.add, found[replica], part)
    return found


@eqx.filter_jit
def _cotangents(observables, mixture, changes, values):
    """Derivatives of all values by what the frames contribute, one row each."""

    def flat(changes, values):
        weights = jax.nn.softmax(log_weights(changes, mixture))
        found = reduced_values(observables, values, weights, mixture.conditions)
        parts = [jnp.ravel(x).astype(changes.dtype) for x in jax.tree.leaves(found)]
        return jnp.concatenate(parts)

    return jax.jacrev(flat, argnums=(0, 1))(changes, values)


def reduced_values(observables: PyTree, values: PyTree, weights: Float[Array, "frames"], conditions: Conditions):
    """Each observable from its values and the weights of the frames."""
    parts, form = jax.tree.flatten(observables, is_leaf=is_static)
    return jax.tree.unflatten(form, [o.reduce(v, weights, conditions) for o, v in zip(parts, values, strict=True)])


def refresh(
    energy: AbstractEnergy,
    point: StatePoint,
    samples: Sequence[Samples],
    *,
    key: PRNGKeyArray,
    ess: float = 0.5,
    keep: int = 4,
    reach: float | None = None,
) -> list[Samples]:
    """The sample sets to use under `energy` (host): those given, or, where they are worth fewer than `ess` times the
    frames of a set, the last `keep` with a new one, which goes on from where the last ended. Without any, the first.

    **Raises:** `ValueError` unless 0 < `ess` <= 1 and `keep` is at least 1; what `sample` raises.
    """
    if not 0.0 < ess <= 1.0 or keep < 1:
        raise ValueError(f"`ess` must lie within 0 and 1, `keep` be at least 1; got {ess} and {keep}.")
    samples = list(samples)
    if not samples:
        return [sample(energy, point, key=key)]
    if float(reweight(energy, mix(samples, reach=reach)).effective) >= ess * len(samples[-1].frames):
        return samples
    states = samples[-1].states or None
    return [*samples, sample(energy, point, key=key, states=states)][-keep:]
