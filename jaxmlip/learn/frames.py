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

_BLOCK = 32  # frames that one program goes over


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
    if traced((energy, parts, frames)):
        return _stream(energy, parts, frames, chunk)
    found = [compiled(_forward, energy, parts, block, chunk) for block in _blocks(frames)]
    return jax.tree.map(lambda *x: jnp.concatenate(x)[: len(frames)], *found)


def slopes(
    energy: AbstractEnergy, direction: PyTree, frames: Frames, *, chunk: int = 1
) -> tuple[Float[Array, "frames"], Float[Array, "frames"]]:
    """Changes of the energies [eV] as in `evaluate`, and their derivatives along a direction of the parameters: one
    forward-mode pass."""
    if traced((energy, direction, frames)):
        return _along(energy, direction, frames, chunk)
    found = [compiled(_along, energy, direction, block, chunk) for block in _blocks(frames)]
    changes, rises = (jnp.concatenate(x)[: len(frames)] for x in zip(*found, strict=True))
    return changes, rises


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
    parts = observables_in(observables)
    if traced((energy, frames, cotangents, start)):
        return _backward(energy, parts, frames, chunk, cotangents, size, jnp.asarray(start, jnp.int32))
    return pull_back_rows(energy, parts, frames, cotangents, start=int(start), size=size, chunk=chunk, rows=False)


def pull_back_rows(
    energy: AbstractEnergy,
    observables: PyTree,
    frames: Frames,
    cotangents: PyTree,
    *,
    start: int = 0,
    size: int | None = None,
    chunk: int = 1,
    rows: bool = True,
) -> PyTree:
    """As `pull_back`, for several sets of cotangents at once, along their first axis (host): what a frame needs before
    its backward passes is computed once."""
    size = len(frames) if size is None else size
    parts, axis = observables_in(observables), 1 if rows else 0
    program, total = _backward_rows if rows else _backward, None
    chosen = jax.tree.map(lambda x: x[:, start : start + size] if rows else x[start : start + size], cotangents)
    first = 0
    for block in _blocks(_part(frames, slice(start, start + size))):
        count = len(block)
        here = jax.tree.map(lambda x, a=first, n=count: _padded(x, a, n, axis), chosen)
        found = compiled(program, energy, parts, block, chunk, here, count, jnp.asarray(0, jnp.int32))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        first += count
    return total


def _padded(x: Array, first: int, count: int, axis: int) -> Array:
    """Rows of one block, zeros where there are no more."""
    piece = x[:, first : first + count] if axis else x[first : first + count]
    missing = count - piece.shape[axis]
    return jnp.pad(piece, [(0, missing if k == axis else 0) for k in range(piece.ndim)])


def _part(frames: Frames, which: Any) -> Frames:
    """Some of the frames."""
    arrays = frames.positions[which], frames.cells[which], frames.atom_energies[which]
    return Frames(frames.system, *arrays, frames.near, frames.far)


def _blocks(frames: Frames) -> list[Frames]:
    """Frames in blocks of one size, so that one program serves any number; the last one is filled up with its first
    frame."""
    size = min(_BLOCK, 1 << max(0, len(frames) - 1).bit_length())
    found = []
    for first in range(0, len(frames), size):
        rows = np.arange(first, first + size)
        found.append(_part(frames, np.where(rows < len(frames), rows, first)))
    return found


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


def _backward_rows(energy, parts, frames: Frames, chunk: int, cotangents, size: int, start):
    """`_backward` for several sets of cotangents."""
    return jax.vmap(lambda c: _backward(energy, parts, frames, chunk, c, size, start))(cotangents)


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
    made, found = {}, []
    for observable in parts:
        source = observable.source()
        plain = not jax.tree.leaves(source)
        key = jax.tree.structure(source) if plain else id(observable)
        if key not in made:
            made[key] = source.frame(energy, _chosen(source, graph, wide))
        found.append(made[key])
    return change, found


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


_PROGRAMS = {function: Compiled(function) for function in (_forward, _backward, _backward_rows, _along)}


def _check_reach(observable: AbstractStatic, frames: Frames) -> None:
    widest = frames.near.cutoff if frames.far is None else frames.far.cutoff
    if observable.cutoff is not None and observable.cutoff > widest + 1e-9:
        raise ValueError(
            f"{type(observable).__name__} looks {observable.cutoff} Å far, the neighbor lists only {widest} Å: "
            f"make the mixture with `reach={observable.cutoff}`."
        )
