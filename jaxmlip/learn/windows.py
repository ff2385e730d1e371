r"""Time correlations under an energy, and their gradients: along the paths, and of where these start.

With starts from the canonical ensemble, $\langle A \rangle = \int e^{-\beta H(x_0)} A(x_0) dx_0 / Z$ depends on the
parameters by the window of dynamics that A is a function of, and by the weights of the starts,
$\nabla \langle A \rangle = \langle \nabla A \rangle - \beta \, \mathrm{cov}(A, \nabla U(x_0))$. The first term
takes an adjoint and has little noise while windows are short; the second takes forward windows only, but many.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, system_energies
from jaxmlip.graph import Graph
from jaxmlip.graph.neighbors import Neighbors, allocate, grow
from jaxmlip.learn.adjoint import (
    AbstractAdjoint,
    Checkpoint,
    Flags,
    Forward,
    Start,
    Window,
    flagged,
    follow,
)
from jaxmlip.learn.frames import Frames, frame_graph, traced
from jaxmlip.learn.reweight import Mixture, evaluate, log_weights, mix
from jaxmlip.learn.sampler import Samples
from jaxmlip.observables.correlations import AbstractDynamic
from jaxmlip.simulate.lyapunov import lyapunov, lyapunov_time
from jaxmlip.simulate.nve import NVE
from jaxmlip.simulate.state import thermal_momenta, with_cell, without_drift
from jaxmlip.system import System

MOST_LYAPUNOV_TIMES = 4.0
_STARTS_A_PATH = 10  # for liquid argon the noise of a start is 6 to 12 times that of a path


class Starts(eqx.Module):
    """Phase points from which windows start: the frames of a mixture, with momenta.

    `exponent` is the largest Lyapunov exponent [1/time unit]; `neighbors` is a list for the first start, enlarged where
    windows need more.
    """

    mixture: Mixture
    momenta: Float[Array, "starts atoms 3"]
    neighbors: Neighbors
    window: Window
    exponent: Float[Array, ""]

    def __len__(self) -> int:
        return self.momenta.shape[0]


def make_starts(
    energy: AbstractEnergy,
    samples: Sequence[Samples] | Mixture,
    window: Window,
    *,
    key: PRNGKeyArray,
    skin: float = 1.5,
    exponent: float | None = None,
    allow_chaotic: bool = False,
) -> Starts:
    r"""Starts of windows at the frames of samples (host), with momenta drawn at their temperature and without drift.

    Windows reach `window.reach` from their start. Changes of the parameters grow over it as $e^{\lambda t}$, and so
    does the noise of gradients; $\lambda$ is measured by one tangent run unless `exponent` [1/time unit] is given.
    `skin` [Å] is that of the neighbor list, enlarged where it is used up before the list is made anew.

    **Raises:** `ValueError` where windows are longer than four Lyapunov times, unless `allow_chaotic`.
    """
    mixture = samples if isinstance(samples, Mixture) else mix(samples)
    frames, first, momenta_key = mixture.frames, _system(mixture.frames, 0), jax.random.fold_in(key, 0)
    masses, kelvin = first.masses, mixture.conditions.temperature

    def draw(key):
        return without_drift(thermal_momenta(key, masses, kelvin), masses)

    momenta = jax.vmap(draw)(jax.random.split(momenta_key, len(frames)))
    if exponent is None:
        state = NVE(window.timestep).init(energy, first, key=key, momenta=momenta[0])
        exponent = lyapunov(energy, state, timestep=window.timestep, key=jax.random.fold_in(key, 1)).value
    check_length(window, exponent, allow_chaotic=allow_chaotic)
    neighbors = allocate(first, energy.cutoff or 1.0, skin=skin)
    return Starts(mixture, momenta, neighbors, window, jnp.asarray(exponent, momenta.dtype))


def check_length(window: Window, exponent: float, *, allow_chaotic: bool = False) -> None:
    r"""Refuse windows over which gradients would be noise (host).

    **Raises:** `ValueError` where `window.reach` is longer than four Lyapunov times, unless `allow_chaotic`.
    """
    times = float(window.reach) * exponent
    if times > MOST_LYAPUNOV_TIMES and not allow_chaotic:
        most = int(MOST_LYAPUNOV_TIMES / exponent / float(window.timestep))
        centered = "" if window.both_ways else " `both_ways=True` makes correlations twice as long with the same steps."
        raise ValueError(
            f"The windows reach {times:.1f} Lyapunov times ({lyapunov_time(exponent):.2f} ps each) from their starts, "
            f"and the noise of gradients grows by e in each; {MOST_LYAPUNOV_TIMES:.0f} are allowed. Use at most "
            f"{most} `steps`, or `allow_chaotic=True`.{centered}"
        )


def window_expectation(
    observables: PyTree,
    energy: AbstractEnergy,
    starts: Starts,
    *,
    adjoint: AbstractAdjoint | None = None,
    paths: int | None = None,
    chunk: int = 1,
) -> PyTree:
    r"""Means over windows of one dynamic observable, or of a dict or list of them, under `energy`.

    Differentiable by the energy: the gradient along the path is taken, by `adjoint` (`Checkpoint()`), through `paths`
    of the windows, evenly chosen (`None`: a tenth of them, as this term has the least noise), that of the weights
    through all. `chunk` windows run at a time. Where a neighbor list fails it is enlarged and the windows run again;
    inside another compiled function the result is NaN instead.

    **Raises:** `ValueError` for windows that are too short for an observable, an energy that lacks what it needs.
    """
    parts, form = _parts(observables)
    _check(parts, energy, starts, paths)
    paths = max(1, len(starts) // _STARTS_A_PATH) if paths is None else paths
    values = _values(energy, parts, starts, adjoint or Checkpoint(), paths, chunk)
    changes, _ = evaluate(energy, (), starts.mixture.frames, chunk=chunk)
    weights = jax.nn.softmax(log_weights(changes, starts.mixture))
    means = jax.tree.map(lambda x: jnp.tensordot(weights.astype(x.dtype), x, axes=1), values)
    return jax.tree.unflatten(form, means)


def path_expectation(
    observables: PyTree,
    energy: AbstractEnergy,
    starts: Starts,
    *,
    adjoint: AbstractAdjoint | None = None,
    chunk: int = 1,
) -> PyTree:
    """Means over windows whose gradient is that along the path alone: plain backpropagation through time. It warns.

    Right where the starts do not depend on the energy (paths from given states). For averages at equilibrium it is
    biased: starts stay where the old parameters put them.

    **Raises:** `ValueError` as `window_expectation`.
    """
    length = starts.window.reach * starts.exponent
    times = "" if isinstance(length, Tracer) else f"of {float(length):.1f} Lyapunov times "
    warnings.warn(
        f"This gradient follows paths {times}and leaves the starts where they are. For averages at equilibrium it is "
        "biased (the pressure of liquid argon: by 40 to 80 %), and beyond five Lyapunov times it is noise. "
        "`window_expectation` and `expectation` are right there.",
        UserWarning,
        stacklevel=2,
    )
    parts, form = _parts(observables)
    _check(parts, energy, starts)
    values = _values(energy, parts, starts, adjoint or Checkpoint(), len(starts), chunk)
    return jax.tree.unflatten(form, jax.tree.map(lambda x: jnp.mean(x, axis=0), values))


class WindowGradient(NamedTuple):
    """An observable of windows with its gradient, and the standard error of each.

    Gradients are pytrees as the parameters of the energy, their leaves with the axes of `value` in front; `gradient` is
    the sum of `path` (along the window) and `start` (weights of the starts).
    """

    value: np.ndarray
    stderr: np.ndarray
    gradient: PyTree
    gradient_stderr: PyTree
    path: PyTree
    path_stderr: PyTree
    start: PyTree
    start_stderr: PyTree


def window_gradient(
    observables: PyTree,
    energy: AbstractEnergy,
    starts: Starts,
    *,
    of: Callable[[PyTree], Float[Array, "*shape"]] = lambda means: means,
    adjoint: AbstractAdjoint | None = None,
    paths: int | None = None,
    blocks: int = 16,
    chunk: int = 1,
) -> WindowGradient:
    """Value, gradient and standard errors of a function `of` the means over windows (host).

    Arguments are those of `window_expectation`; `of` gives an array of any shape from the means, by default the mean
    of a single observable. Errors are those of the means of `blocks` runs of consecutive starts, which must be longer
    than what starts remember: where errors grow with fewer blocks, take frames further apart. Starts that fill no
    block are left out.

    **Raises:** `ValueError` for fewer than two blocks, or more than starts or paths, and as `window_expectation`.
    """
    parts, form = _parts(observables)
    _check(parts, energy, starts)
    cuts = _cuts(len(starts), blocks, max(blocks, len(starts) // _STARTS_A_PATH) if paths is None else paths)
    used = np.concatenate([cut.all for cut in cuts])
    values, neighbors = _enlarged(energy, parts, starts, chunk)
    weights = _weights(energy, starts.mixture, used, chunk)
    means = jax.tree.map(lambda x: jnp.tensordot(jnp.asarray(weights, x.dtype), x, axes=1), values)
    means, unravel = ravel_pytree(means)

    def result(means):
        return of(jax.tree.unflatten(form, unravel(means)))

    value = np.asarray(result(means), np.float64)
    slopes = np.asarray(jax.jacrev(result)(means), np.float64).reshape(-1, len(means))
    leaves = [np.asarray(x, np.float64).reshape(len(starts), -1) for x in jax.tree.leaves(values)]
    each = np.concatenate(leaves, axis=1) @ slopes.T
    influence = blocks * weights[:, None] * (each - weights @ each)  # [starts results]
    adjoint = Checkpoint() if adjoint is None else adjoint
    path = [_of_paths(energy, parts, starts, neighbors, adjoint, cut, blocks * weights, slopes, chunk) for cut in cuts]
    start = _of_starts(energy, starts.mixture, cuts, influence, blocks * weights)
    (path, path_stderr), (start, start_stderr) = (_mean_error(x, value.shape) for x in (path, start))
    return WindowGradient(
        value=value,
        stderr=_mean_error([np.sum(influence[cut.all], axis=0) for cut in cuts], value.shape)[1],
        gradient=jax.tree.map(np.add, path, start),
        gradient_stderr=jax.tree.map(np.hypot, path_stderr, start_stderr),
        path=path,
        path_stderr=path_stderr,
        start=start,
        start_stderr=start_stderr,
    )


def window_estimate(
    observables: PyTree, energy: AbstractEnergy, starts: Starts, *, blocks: int = 16, chunk: int = 1
) -> tuple[PyTree, PyTree]:
    """Means over windows and their standard errors, from the means of `blocks` runs of consecutive starts (host).

    **Raises:** `ValueError` as `window_gradient`.
    """
    parts, form = _parts(observables)
    _check(parts, energy, starts)
    cuts = _cuts(len(starts), blocks, blocks)
    used = np.concatenate([cut.all for cut in cuts])
    values, _ = _enlarged(energy, parts, starts, chunk)
    weights = _weights(energy, starts.mixture, used, chunk)

    def of(values):
        values = np.asarray(values, np.float64)
        mean = np.tensordot(weights, values, axes=1)
        away = [blocks * np.tensordot(weights[cut.all], values[cut.all] - mean, axes=1) for cut in cuts]
        return mean, np.std(away, axis=0, ddof=1) / np.sqrt(blocks)

    found = [of(x) for x in jax.tree.leaves(values)]
    shape = jax.tree.structure(values)
    mean, stderr = (jax.tree.unflatten(shape, list(x)) for x in zip(*found, strict=True))
    return jax.tree.unflatten(form, mean), jax.tree.unflatten(form, stderr)


def window_values(observables: PyTree, energy: AbstractEnergy, starts: Starts, *, chunk: int = 1) -> PyTree:
    """The observables of each window (leading axis: starts), forward only (host).

    **Raises:** `ValueError` as `window_expectation`.
    """
    parts, form = _parts(observables)
    _check(parts, energy, starts)
    return jax.tree.unflatten(form, _enlarged(energy, parts, starts, chunk)[0])


class _Cut(NamedTuple):
    """Starts of one block: `all`, and `some` whose paths are differentiated."""

    all: np.ndarray
    some: np.ndarray


class _Moments(eqx.Module):
    """What the observables see of a moment."""

    parts: list[AbstractDynamic]

    def __call__(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> list[PyTree]:
        return [part.moment(energy, graph, momenta, masses) for part in self.parts]


@eqx.filter_custom_vjp
def _values(energy, parts, starts: Starts, adjoint: AbstractAdjoint, paths: int, chunk: int):
    """Values of all windows; backwards only so many `paths` are followed, and stand for all."""
    return _whole(energy, parts, starts, chunk)[0]


@_values.def_fwd
def _values_fwd(perturbed, energy, parts, starts, adjoint, paths, chunk):
    del perturbed
    return _whole(energy, parts, starts, chunk)


@_values.def_bwd
def _values_bwd(neighbors, cotangents, perturbed, energy, parts, starts, adjoint, paths, chunk):
    del perturbed
    some = _spread(len(starts), paths)
    rows = jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(cotangents)], axis=1)
    rows = rows[some][:, None] * (len(starts) / paths)
    pulled = _compiled(_pulled, energy, parts, starts, neighbors, adjoint, *_padded(some, rows, chunk))
    return jax.tree.map(lambda x: x[0], pulled)


def _whole(energy, parts, starts: Starts, chunk: int) -> tuple[list[PyTree], Neighbors]:
    """Values of all windows and the neighbor list that served; NaN where it failed and cannot be enlarged."""
    if not traced((energy, parts, starts)):
        return _enlarged(energy, parts, starts, chunk)
    values, flags = _forward(energy, parts, starts, starts.neighbors, chunk)
    return jax.tree.map(lambda x: jnp.where(flags.failed, jnp.asarray(jnp.nan, x.dtype), x), values), starts.neighbors


def _enlarged(energy, parts, starts: Starts, chunk: int) -> tuple[list[PyTree], Neighbors]:
    """Values of all windows, by neighbor lists that are enlarged until they last (host)."""
    neighbors = starts.neighbors
    while True:
        values, flags = _PROGRAMS[_forward](energy, parts, starts, neighbors, chunk)
        if not bool(flags.failed):
            return values, neighbors
        neighbors = grow(flagged(neighbors, flags), _system(starts.mixture.frames, 0))


def _forward(energy, parts, starts: Starts, neighbors: Neighbors, chunk: int) -> tuple[list[PyTree], Flags]:
    frames = starts.mixture.frames

    def one(item):
        return _of_window(energy, parts, starts, neighbors, Forward(), *item)

    items = (frames.positions, frames.cells, starts.momenta)
    values, flags = lax.map(one, items, batch_size=chunk if chunk > 1 else None)
    return values, Flags(*(jnp.max(x) for x in flags))


def _pulled(energy, parts, starts: Starts, neighbors: Neighbors, adjoint: AbstractAdjoint, index, rows) -> PyTree:
    """Sum over windows `index` [batches chunk] of `rows` [batches chunk results values] times the slopes of values."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    frames = starts.mixture.frames

    def one(index, rows):
        item = frames.positions[index], frames.cells[index], starts.momenta[index]

        def function(learned):
            values, _ = _of_window(eqx.combine(learned, rest), parts, starts, neighbors, adjoint, *item)
            return ravel_pytree(values)[0]

        return jax.vmap(lambda row: adjoint.pull_back(function, learned, row))(rows)

    def batch(total, batch):
        if len(batch[0]) == 1:
            return jax.tree.map(jnp.add, total, one(batch[0][0], batch[1][0])), None
        found = jax.vmap(one)(*batch)
        return jax.tree.map(lambda t, x: t + jnp.sum(x, axis=0), total, found), None

    zero = jax.tree.map(lambda x: jnp.zeros((rows.shape[2], *x.shape), x.dtype), learned)
    return lax.scan(batch, zero, (index, rows))[0]


def _of_window(energy, parts, starts: Starts, neighbors, adjoint, positions, cell, momenta) -> tuple[list, Flags]:
    """The observables of one window."""
    system = with_cell(starts.mixture.frames.system, positions, cell)
    start = Start(system, momenta, neighbors)
    series, flags = follow(energy, _Moments(parts), start, starts.window, adjoint)
    interval, conditions = starts.window.interval, starts.mixture.conditions
    return [part.reduce(x, interval, conditions) for part, x in zip(parts, series, strict=True)], flags


def _of_paths(energy, parts, starts, neighbors, adjoint, cut: _Cut, weights, slopes, chunk: int) -> PyTree:
    """Gradient along the paths of one block, with the axis of results in front."""
    scaled = weights[cut.some] * len(cut.all) / len(cut.some)
    rows = jnp.asarray(scaled[:, None, None] * slopes[None], starts.momenta.dtype)
    found = _PROGRAMS[_pulled](energy, parts, starts, neighbors, adjoint, *_padded(cut.some, rows, chunk))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def _of_starts(energy, mixture: Mixture, cuts: list[_Cut], influence: np.ndarray, weights: np.ndarray) -> list[PyTree]:
    r"""$-\beta \, \mathrm{cov}(A, \nabla U)$ from each block, both less their means over all."""
    factors = np.concatenate([-influence / float(mixture.conditions.kT), weights[:, None]], axis=1)
    found = []
    for cut in cuts:
        some = jnp.asarray(cut.all), jnp.asarray(factors[cut.all], mixture.log_mixture.dtype)
        sums = _PROGRAMS[_weighted_slopes](energy, mixture.frames, *some)
        found.append(jax.tree.map(lambda x: np.asarray(x, np.float64), sums))
    mean = jax.tree.map(lambda *x: np.mean([y[-1] for y in x], axis=0), *found)
    totals = [np.sum(factors[cut.all, :-1], axis=0) for cut in cuts]
    return [
        jax.tree.map(lambda x, m, t=t: x[:-1] - np.multiply.outer(t, m), f, mean)
        for f, t in zip(found, totals, strict=True)
    ]


def _weighted_slopes(energy, frames: Frames, index: Array, factors: Array) -> PyTree:
    """Sums over frames of `factors` [starts results] times the gradient of the potential energy."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)

    def one(total, item):
        index, factors = item
        graph = frame_graph(frames.near, frames.system, frames.positions[index], frames.cells[index])
        slopes = jax.grad(lambda x: system_energies(eqx.combine(x, rest), graph)[0])(learned)
        return jax.tree.map(lambda t, x: t + jnp.multiply.outer(factors.astype(x.dtype), x), total, slopes), None

    zero = jax.tree.map(lambda x: jnp.zeros((factors.shape[1], *x.shape), x.dtype), learned)
    return lax.scan(one, zero, (index, factors))[0]


def _weights(energy, mixture: Mixture, used: np.ndarray, chunk: int) -> np.ndarray:
    """Weights of the starts, zero for those not used, of sum 1."""
    logs = np.asarray(log_weights(evaluate(energy, (), mixture.frames, chunk=chunk)[0], mixture), np.float64)
    weights = np.zeros(len(logs))
    weights[used] = np.exp(logs[used] - logs[used].max())
    return weights / weights.sum()


def _mean_error(blocks: list[PyTree], shape: tuple[int, ...]) -> tuple[PyTree, PyTree]:
    """Mean of blocks and its standard error; the leading axis of results gets its shape."""

    def shaped(x):
        return np.reshape(x, (*shape, *np.shape(x)[1:]))

    mean = jax.tree.map(lambda *x: shaped(np.mean(x, axis=0)), *blocks)
    return mean, jax.tree.map(lambda *x: shaped(np.std(x, axis=0, ddof=1) / np.sqrt(len(x))), *blocks)


def _cuts(starts: int, blocks: int, paths: int) -> list[_Cut]:
    """Blocks of consecutive starts, and which of each are differentiated along their path."""
    if blocks < 2 or starts < 2 * blocks or paths < blocks:
        raise ValueError(
            "Errors need two blocks or more, of two starts and one path or more; got "
            f"{blocks} blocks of {starts} starts and {paths} paths."
        )
    wholes = np.arange(blocks * (starts // blocks)).reshape(blocks, -1)
    each = min(paths // blocks, wholes.shape[1])
    return [_Cut(whole, whole[_spread(len(whole), each)]) for whole in wholes]


def _spread(count: int, chosen: int) -> np.ndarray:
    """So many of so many indices, evenly."""
    return (np.arange(chosen) * count) // chosen + (count // chosen) // 2


def _padded(index: np.ndarray, rows: Array, chunk: int) -> tuple[Array, Array]:
    """Indices and rows in whole chunks; the last is filled with rows of zero."""
    more = -len(index) % chunk
    index = np.concatenate([index, np.repeat(index[-1:], more)]).reshape(-1, chunk)
    rows = jnp.concatenate([rows, jnp.zeros((more, *rows.shape[1:]), rows.dtype)])
    return jnp.asarray(index), rows.reshape(-1, chunk, *rows.shape[1:])


def _parts(observables: PyTree) -> tuple[list[AbstractDynamic], Any]:
    return jax.tree.flatten(observables, is_leaf=lambda x: isinstance(x, AbstractDynamic))


def _check(parts: list[AbstractDynamic], energy: AbstractEnergy, starts: Starts, paths: int | None = None) -> None:
    for part in parts:
        part.check(energy, starts.window.moments)
    if paths is not None and not 1 <= paths <= len(starts):
        raise ValueError(f"`paths` must lie between 1 and the {len(starts)} starts; got {paths}.")


def _system(frames: Frames, index: int) -> System:
    return with_cell(frames.system, frames.positions[index], frames.cells[index])


def _compiled(function: Callable, *args: Any) -> Any:
    """A compiled call; within another compiled function, the function itself."""
    return function(*args) if traced(args) else _PROGRAMS[function](*args)


_PROGRAMS = {function: Compiled(function) for function in (_forward, _pulled, _weighted_slopes)}
