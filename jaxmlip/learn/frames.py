"""Configurations, and what an energy and observables say of them: a pass over the frames, and a pass back."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, check_cutoff
from jaxmlip.graph import Graph
from jaxmlip.graph.neighbors import Neighbors, grow, rebuild, room_for, to_graph
from jaxmlip.observables.static import AbstractStatic
from jaxmlip.simulate.state import with_cell
from jaxmlip.system import System


class Frames(eqx.Module):
    """Configurations of one system, and what they were sampled with.

    `atom_energies` [eV] are those of the sampling parameters, kept atom by atom: differences to other parameters are
    taken before they are summed, so that they are exact in float32 too. `near` is a neighbor list with room for every
    frame, `far` one that reaches farther, for observables.
    """

    system: System
    positions: Float[Array, "frames atoms 3"]
    cells: Float[Array, "frames 3 3"]
    atom_energies: Float[Array, "frames atoms"]
    near: Neighbors
    far: Neighbors | None = None

    def __len__(self) -> int:
        return self.positions.shape[0]


def make_frames(
    energy: AbstractEnergy,
    system: System,
    positions: Float[Array, "frames atoms 3"],
    cells: Float[Array, "frames 3 3"],
) -> Frames:
    """Frames that `energy` has sampled (host)."""
    near, atom_energies = fitted(energy, system, positions, cells)
    return Frames(system, positions, cells, atom_energies, near)


def fitted(
    energy: AbstractEnergy,
    system: System,
    positions: Array,
    cells: Array,
    *,
    cutoff: float | None = None,
    start: Neighbors | None = None,
) -> tuple[Neighbors, Float[Array, "frames atoms"]]:
    """A neighbor list without skin that has room for each frame, and the energies of their atoms [eV] (host).

    `cutoff` [Å], if farther than that of the energy; `start` is a list to try first.
    """
    first = with_cell(system, positions[0], cells[0])
    neighbors = room_for(first, cutoff or energy.cutoff or 1.0) if start is None else start
    for _ in range(20):
        needed, atom_energies = _searched(energy, neighbors, system, positions, cells)
        if not bool(needed.failed):
            return neighbors, atom_energies
        neighbors = grow(needed, first)
    raise ValueError(f"No neighbor list of {neighbors.cutoff} Å has room for all frames: some of them must be broken.")


def frame_graph(neighbors: Neighbors, system: System, positions: Array, cell: Array) -> Graph:
    """The graph of one frame (inside jit)."""
    system = with_cell(system, positions, cell)
    return to_graph(rebuild(neighbors, system), system)


def evaluate(
    energy: AbstractEnergy, observables: PyTree, frames: Frames, *, chunk: int = 1
) -> tuple[Float[Array, "frames"], list[PyTree]]:
    """Of each frame the change of its energy [eV] since it was sampled, and what it contributes to each observable.

    The backward pass goes over the frames once more, `chunk` at a time, and keeps nothing of the first.
    """
    parts = observables_in(observables)
    for observable in parts:
        _check_reach(observable, frames)
    return _stream(energy, parts, frames, chunk)


def slopes(
    energy: AbstractEnergy, direction: PyTree, frames: Frames, *, chunk: int = 1
) -> tuple[Float[Array, "frames"], Float[Array, "frames"]]:
    """Changes of the energies [eV] as in `evaluate`, and their derivatives along a direction of the parameters: one
    forward-mode pass."""
    return compiled(_along, energy, direction, frames, chunk)


def pull_back(
    energy: AbstractEnergy,
    observables: PyTree,
    frames: Frames,
    cotangents: PyTree,
    *,
    start: int | Int[Array, ""] = 0,
    size: int | None = None,
    chunk: int = 1,
) -> PyTree:
    """Gradient by the parameters of the inner product of what `evaluate` gives with `cotangents`, over `size` frames
    from `start` on (default: all). One backward pass for each `chunk` of frames."""
    size = len(frames) if size is None else size
    begin = jnp.asarray(start, jnp.int32)
    return compiled(_backward, energy, observables_in(observables), frames, chunk, cotangents, size, begin)


def observables_in(tree: PyTree) -> list[AbstractStatic]:
    """The observables of a dict, a list or a single one."""
    return jax.tree.leaves(tree, is_leaf=is_static)


def is_static(x: Any) -> bool:
    """Whether this is an observable, and not a collection of some."""
    return isinstance(x, AbstractStatic)


def accumulator(dtype: Any) -> Any:
    """The type that sums over many atoms and frames are made in: float64 where JAX has it."""
    return np.promote_types(dtype, jnp.result_type(float))


@eqx.filter_custom_vjp
def _stream(energy, parts, frames: Frames, chunk: int):
    return compiled(_forward, energy, parts, frames, chunk)


@_stream.def_fwd
def _stream_fwd(perturbed, energy, parts, frames, chunk):
    del perturbed
    return compiled(_forward, energy, parts, frames, chunk), None


@_stream.def_bwd
def _stream_bwd(residuals, cotangents, perturbed, energy, parts, frames, chunk):
    del residuals, perturbed
    return pull_back(energy, parts, frames, cotangents, chunk=chunk)


def _forward(energy, parts, frames: Frames, chunk: int):
    return lax.map(
        lambda frame: _of_frame(energy, parts, frames, *frame),
        (frames.positions, frames.cells, frames.atom_energies),
        batch_size=chunk,
    )


def _backward(energy, parts, frames: Frames, chunk: int, cotangents, size: int, start):
    """What `pull_back` returns."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    found = frames.positions, frames.cells, frames.atom_energies

    def product(learned, rows, exist):
        """The inner product over some rows; those that do not exist count nothing."""
        many = jax.tree.map(lambda x: x[rows], found)
        values = jax.vmap(lambda *frame: _of_frame(eqx.combine(learned, rest), parts, frames, *frame))(*many)

        def with_cotangent(value, cotangent):
            if cotangent is None or not eqx.is_inexact_array(value):  # nobody asks for it
                return 0.0
            each = cotangent[rows] * value.astype(cotangent.dtype)
            return jnp.sum(jnp.where(exist.reshape(-1, *(1,) * (each.ndim - 1)), each, 0.0))

        return sum(jax.tree.leaves(jax.tree.map(with_cotangent, values, cotangents)))

    def one(total, first):
        rows = first + jnp.arange(chunk, dtype=jnp.int32)
        exist = rows < size
        gradient = jax.grad(product)(learned, start + jnp.where(exist, rows, 0), exist)
        return jax.tree.map(jnp.add, total, gradient), None

    return lax.scan(one, jax.tree.map(jnp.zeros_like, learned), jnp.arange(0, size, chunk, dtype=jnp.int32))[0]


def _along(energy, direction, frames: Frames, chunk: int):
    """Changes of the energies and their slopes along a direction."""
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    direction = jax.tree.map(lambda x, d: d.astype(x.dtype), learned, direction)

    def changes(learned):
        return _forward(eqx.combine(learned, rest), [], frames, chunk)[0]

    return jax.jvp(changes, (learned,), (direction,))


def _of_frame(energy, parts, frames: Frames, positions, cell, before):
    """Change of the energy and values of one frame."""
    graph = frame_graph(frames.near, frames.system, positions, cell)
    wide = None if frames.far is None else frame_graph(frames.far, frames.system, positions, cell)
    check_cutoff(energy, graph)
    changes = energy(graph).astype(before.dtype) - before
    change = graph.sum_atoms(changes.astype(accumulator(before.dtype)))[0]
    return change, [o.frame(energy, _chosen(o, graph, wide)) for o in parts]


def _chosen(observable: AbstractStatic, near: Graph, far: Graph | None) -> Graph:
    if far is not None and observable.cutoff is not None and observable.cutoff > near.cutoff:
        return far
    return near


@Compiled
def _searched(energy, neighbors: Neighbors, system, positions, cells) -> tuple[Neighbors, Array]:
    """The list of the last frame, with the flags and needs of all, and the energies of the atoms in each."""

    def one(neighbors, frame):
        moved = with_cell(system, *frame)
        neighbors = rebuild(neighbors, moved)
        return neighbors, energy(to_graph(neighbors, moved))

    return jax.lax.scan(one, neighbors, (positions, cells))


def compiled(function, *args):
    """A compiled call; within another compiled function, the function itself."""
    return function(*args) if traced(args) else _PROGRAMS[function](*args)


def traced(tree: PyTree) -> bool:
    """Whether this is within a transformation, so that numbers are not known yet."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


_PROGRAMS = {function: Compiled(function) for function in (_forward, _backward, _along)}


def _check_reach(observable: AbstractStatic, frames: Frames) -> None:
    widest = frames.near.cutoff if frames.far is None else frames.far.cutoff
    if observable.cutoff is not None and observable.cutoff > widest + 1e-9:
        raise ValueError(
            f"{type(observable).__name__} looks {observable.cutoff} Å far, the neighbor lists only {widest} Å: "
            f"make the mixture with `reach={observable.cutoff}`."
        )
