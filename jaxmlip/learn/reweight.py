"""Ensemble averages under parameters other than those that were sampled with, and their gradients.

Frames of one or several sample sets are weighted as a mixture (multistate Bennett acceptance ratio). Sampling is never
differentiated: what depends on the parameters are the weights, and the observable itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree
from scipy.special import logsumexp

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph import Graph
from jaxmlip.learn.sampler import Frames, Samples, fitted, frame_graph
from jaxmlip.observables.static import AbstractStatic, Conditions


class Mixture(eqx.Module):
    r"""Frames of all sample sets, and what their weights need.

    With reduced potentials $u_k = \beta_k (U_k + P_k V)$, the frames are drawn from the mixture
    $\sum_k N_k e^{f_k - u_k}$; `log_mixture` is its logarithm, up to one constant, at each frame. Energies in it count
    from those of the parameters that sampled the frame; `origins` [eV] are these, and `volumes` [Å³], less their means.
    `layout` has replicas and frames of each for every set. `conditions` are those of the averages, by default those of
    the last set.
    """

    frames: Frames
    log_mixture: Float[Array, "frames"]
    origins: Float[Array, "frames"]
    volumes: Float[Array, "frames"]
    conditions: Conditions
    layout: tuple[tuple[int, int], ...] = eqx.field(static=True)
    free_energies: tuple[float, ...] = eqx.field(static=True)

    def blocks(self) -> list[tuple[int, int, int]]:
        """Of each uninterrupted piece of a trajectory its replica, its first frame and its length."""
        found, start = [], 0
        for replicas, frames in self.layout:
            found += [(replica, start + replica * frames, frames) for replica in range(replicas)]
            start += replicas * frames
        return found


class Weights(NamedTuple):
    """Weights of the frames, whose sum is 1, and the number of independent frames they are worth (Kish),
    $1 / \\sum w^2$."""

    weights: Float[Array, "frames"]
    effective: Float[Array, ""]


def mix(samples: Sequence[Samples], *, reach: float | None = None, conditions: Conditions | None = None) -> Mixture:
    """The mixture of sample sets of one system (host); `reach` [Å] is how far observables look, if farther than the
    energy.

    **Raises:** `ValueError` where there is no set, or they are of different systems.

    **Reference:** Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008), doi:10.1063/1.2978177; for one set: Torrie &
    Valleau, J. Comput. Phys. 23, 187 (1977), doi:10.1016/0021-9991(77)90121-8.
    """
    samples = list(samples)
    _check_sets(samples)
    system, near = samples[-1].frames.system, samples[-1].frames.near
    positions, cells, atom_energies = (
        jnp.concatenate([getattr(s.frames, name) for s in samples]) for name in ("positions", "cells", "atom_energies")
    )
    if len(samples) > 1:
        near, _ = fitted(samples[-1].energy, system, positions, cells, start=near)
    far = None
    if reach is not None and reach > near.cutoff:
        far, _ = fitted(samples[-1].energy, system, positions, cells, cutoff=reach)
    frames = Frames(system, positions, cells, atom_energies, near, far)
    origins = np.sum(np.asarray(atom_energies, np.float64), axis=1)
    volumes = np.abs(np.linalg.det(np.asarray(cells, np.float64)))
    origins, volumes = origins - origins.mean(), volumes - volumes.mean()
    reduced = np.stack([_reduced(s, frames, origins, volumes, len(samples) > 1) for s in samples])
    counts = np.array([len(s.frames) for s in samples])
    free, log_mixture = multistate(reduced, counts)
    dtype = _accumulator(positions.dtype)
    return Mixture(
        frames=frames,
        log_mixture=jnp.asarray(log_mixture, dtype),
        origins=jnp.asarray(origins, dtype),
        volumes=jnp.asarray(volumes, dtype),
        conditions=samples[-1].conditions if conditions is None else conditions,
        layout=tuple((s.replicas, len(s.frames) // s.replicas) for s in samples),
        free_energies=tuple(float(f) for f in free),
    )


def multistate(
    reduced: Float[np.ndarray, "sets frames"], counts: np.ndarray
) -> tuple[Float[np.ndarray, "sets"], Float[np.ndarray, "frames"]]:
    r"""Free energies $f_k$ [kT], the first 0, and $\ln \sum_k N_k e^{f_k - u_k}$ at each frame, self-consistently.

    `reduced` potentials $u_k$ of all frames in each state; of `counts` frames each state has drawn.
    """
    free, logs = np.zeros(len(counts)), np.log(counts)

    def mixed(free: np.ndarray) -> np.ndarray:
        return np.asarray(logsumexp((logs + free)[:, None] - reduced, axis=0))

    for _ in range(10_000):
        after = -np.asarray(logsumexp(-reduced - mixed(free)[None], axis=1))
        after = after - after[0]
        close = np.max(np.abs(after - free)) < 1e-12 * (1.0 + np.max(np.abs(after)))
        free = after
        if close:
            break
    return free, mixed(free)


def reweight(energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> Weights:
    """Weights of the frames under `energy`; differentiable, `chunk` frames at a time."""
    changes, _ = evaluate(energy, (), mixture.frames, chunk=chunk)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    return Weights(weights, 1.0 / jnp.sum(weights**2))


def log_weights(changes: Float[Array, "frames"], mixture: Mixture) -> Float[Array, "frames"]:
    """Logarithms of the weights, not normalized, from the `changes` [eV] of the energies."""
    beta = 1.0 / mixture.conditions.kT.astype(changes.dtype)
    held = changes + mixture.origins.astype(changes.dtype)
    if mixture.conditions.pressure is not None:
        held = held + mixture.conditions.pressure.astype(changes.dtype) * mixture.volumes.astype(changes.dtype)
    return -beta * held - mixture.log_mixture.astype(changes.dtype)


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
    changes, slopes = _compiled(_along, energy, direction, mixture.frames, chunk)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    squares = weights**2 / jnp.sum(weights**2)
    slopes = -slopes / mixture.conditions.kT.astype(slopes.dtype)
    mean = jnp.sum(weights * slopes)
    curvature = jnp.sum(weights * (slopes - mean) ** 2)
    if not isinstance(curvature, Tracer) and not float(curvature) > 0:
        raise ValueError("`direction` changes no energy differences between frames: any step along it would do.")
    drift = jnp.sum(squares * slopes) - mean
    frames = len(mixture.frames) / len(mixture.layout)
    left = -jnp.log(jnp.sum(weights**2) * ess * frames)
    step = (-drift + jnp.sqrt(jnp.maximum(drift**2 + curvature * left, 0.0))) / curvature
    return jnp.where(left > 0, step, jnp.zeros_like(step))


def _along(energy, direction, frames: Frames, chunk: int):
    """Changes of the energies and their slopes along a direction."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    direction = jax.tree.map(lambda x, d: d.astype(x.dtype), learned, direction)

    def changes(learned):
        return _forward(eqx.combine(learned, rest), [], frames, chunk)[0]

    return jax.jvp(changes, (learned,), (direction,))


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
    parts = _leaves(observables)

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
            cotangent = given[replica]
            begin = jnp.asarray(start, jnp.int32)
            gradient = _compiled(_grouped_backward, energy, parts, mixture.frames, chunk, cotangent, size, begin)
            found[replica].append(gradient)
        return [jax.tree.map(lambda *g: sum(g), *gradients) for gradients in found]

    alone = gradients([of(np.where(owner == replica, 0.0, -np.inf)) for replica in range(count)])
    whole = gradients([of(np.zeros(len(owner)))] * count)
    shift = jax.tree.map(lambda *g: sum(g), *whole)
    shift = jax.tree.map(lambda w, *g: w - sum(g) / count, shift, *alone)
    return [jax.tree.map(jnp.add, gradient, shift) for gradient in alone]


def reduced_values(observables: PyTree, values: PyTree, weights: Float[Array, "frames"], conditions: Conditions):
    """Each observable from its values and the weights of the frames."""
    parts, form = jax.tree.flatten(observables, is_leaf=_is_static)
    return jax.tree.unflatten(form, [o.reduce(v, weights, conditions) for o, v in zip(parts, values, strict=True)])


def evaluate(
    energy: AbstractEnergy, observables: PyTree, frames: Frames, *, chunk: int = 1
) -> tuple[Float[Array, "frames"], list[PyTree]]:
    """Of each frame the change of its energy [eV] since it was sampled, and what it contributes to each observable.

    The backward pass goes over the frames once more, `chunk` at a time, and keeps nothing of the first.
    """
    parts = _leaves(observables)
    for observable in parts:
        _check_reach(observable, frames)
    return _stream(energy, parts, frames, chunk)


@eqx.filter_custom_vjp
def _stream(energy, parts, frames: Frames, chunk: int):
    return _compiled(_forward, energy, parts, frames, chunk)


@_stream.def_fwd
def _stream_fwd(perturbed, energy, parts, frames, chunk):
    del perturbed
    return _compiled(_forward, energy, parts, frames, chunk), None


@_stream.def_bwd
def _stream_bwd(residuals, cotangents, perturbed, energy, parts, frames, chunk):
    del residuals, perturbed
    return _compiled(_backward, energy, parts, frames, chunk, cotangents)


def _forward(energy, parts, frames: Frames, chunk: int):
    return lax.map(
        lambda frame: _of_frame(energy, parts, frames, *frame),
        (frames.positions, frames.cells, frames.atom_energies),
        batch_size=chunk,
    )


def _backward(energy, parts, frames: Frames, chunk: int, cotangents):
    """Gradient of the inner product of everything with its cotangent."""
    return _grouped_backward(energy, parts, frames, chunk, cotangents, len(frames), jnp.zeros((), jnp.int32))


def _grouped_backward(energy, parts, frames: Frames, chunk: int, cotangents, size: int, start):
    """The same from `size` frames, beginning at `start`; one backward pass for each chunk."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    found, given = (frames.positions, frames.cells, frames.atom_energies), _inexact(cotangents)

    def product(learned, rows, exist):
        """The inner product over some rows; those that do not exist count nothing."""
        many = jax.tree.map(lambda x: x[rows], found)
        values = jax.vmap(lambda *frame: _of_frame(eqx.combine(learned, rest), parts, frames, *frame))(*many)
        total = 0.0
        for cotangent, value in zip(given, _inexact(values), strict=True):
            each = cotangent[rows] * value.astype(cotangent.dtype)
            total = total + jnp.sum(jnp.where(exist.reshape(-1, *(1,) * (each.ndim - 1)), each, 0.0))
        return total

    def one(total, first):
        rows = first + jnp.arange(chunk, dtype=jnp.int32)
        exist = rows < size
        gradient = jax.grad(product)(learned, start + jnp.where(exist, rows, 0), exist)
        return jax.tree.map(jnp.add, total, gradient), None

    return lax.scan(one, jax.tree.map(jnp.zeros_like, learned), jnp.arange(0, size, chunk, dtype=jnp.int32))[0]


def _inexact(tree: PyTree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]


def _of_frame(energy, parts, frames: Frames, positions, cell, before):
    """Change of the energy and values of one frame."""
    graph = frame_graph(frames.near, frames.system, positions, cell)
    wide = None if frames.far is None else frame_graph(frames.far, frames.system, positions, cell)
    changes = energy(graph).astype(before.dtype) - before
    change = graph.sum_atoms(changes.astype(_accumulator(before.dtype)))[0]
    return change, [o.frame(energy, _chosen(o, graph, wide)) for o in parts]


def _chosen(observable: AbstractStatic, near: Graph, far: Graph | None) -> Graph:
    if far is not None and observable.cutoff is not None and observable.cutoff > near.cutoff:
        return far
    return near


def _accumulator(dtype: Any) -> Any:
    """The type that sums over many atoms and frames are made in: float64 where JAX has it."""
    return np.promote_types(dtype, jnp.result_type(float))


def _compiled(function, *args):
    """A compiled call; within another compiled function, the function itself."""
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(args)):
        return function(*args)
    return _PROGRAMS[function](*args)


_PROGRAMS = {function: Compiled(function) for function in (_forward, _backward, _grouped_backward, _along)}


def _reduced(samples: Samples, frames: Frames, origins, volumes, several: bool) -> Float[np.ndarray, "frames"]:
    """Reduced potentials of all frames in the state of one set, in float64."""
    changes = np.zeros(len(frames))
    if several:
        changes = np.asarray(evaluate(samples.energy, (), frames)[0], np.float64)
    held = changes + origins
    if samples.conditions.pressure is not None:
        held = held + float(samples.conditions.pressure) * volumes
    return held / float(samples.conditions.kT)


def _check_sets(samples: list[Samples]) -> None:
    if not samples:
        raise ValueError("A mixture needs at least one set of samples; got none.")
    first = samples[0].frames
    for other in samples[1:]:
        same = np.array_equal(np.asarray(first.system.numbers), np.asarray(other.frames.system.numbers))
        if not same or first.system.pbc != other.frames.system.pbc:
            raise ValueError("All sets of a mixture must be of the same system: other elements or periodicity found.")
        if first.near.cutoff != other.frames.near.cutoff:
            raise ValueError("All energies of a mixture must have the same cutoff.")


def _check_reach(observable: AbstractStatic, frames: Frames) -> None:
    widest = frames.near.cutoff if frames.far is None else frames.far.cutoff
    if observable.cutoff is not None and observable.cutoff > widest + 1e-9:
        raise ValueError(
            f"{type(observable).__name__} looks {observable.cutoff} Å far, the neighbor lists only {widest} Å: "
            f"make the mixture with `reach={observable.cutoff}`."
        )


def _leaves(observables: PyTree) -> list[AbstractStatic]:
    return jax.tree.leaves(observables, is_leaf=_is_static)


def _is_static(x: Any) -> bool:
    return isinstance(x, AbstractStatic)
