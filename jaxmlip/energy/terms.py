"""Terms on named atoms: lists of indices of one system, found again in graphs that hold it, whole or broken."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.graph import Graph
from jaxmlip.graph.nearest import nearest_images

Indices = np.ndarray | Array | Sequence[Sequence[int]]


def read_indices(index: Indices, width: int, atoms: int) -> Int[Array, "terms {width}"]:
    """Indices of `width` atoms for each term, checked against the number of atoms (host).

    **Raises:** `ValueError` naming the term that is wrong.
    """
    given = np.asarray(index)
    if given.ndim != 2 or given.shape[1] != width or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"`index` must hold {width} whole numbers for each term; got an array of shape {given.shape}.")
    if atoms < 1:
        raise ValueError(f"`atoms` is the number of atoms of the system, at least 1; got {atoms}.")
    for row in given[((given < 0) | (given >= atoms)).any(axis=1)].tolist():
        raise ValueError(f"Term {row} names an atom that is not among 0 to {atoms - 1}.")
    for row in given.tolist():
        if len(set(row)) < width:
            raise ValueError(f"Term {row} names an atom twice.")
    return jnp.asarray(given.astype(np.int32))


def check_atoms(what: str, atoms: int, found: int) -> None:
    """Refuse a system with another number of atoms than the terms are made for.

    **Raises:** `ValueError` with both numbers.
    """
    if atoms != found:
        raise ValueError(f"The {what} are those of a system of {atoms} atoms; this one has {found}.")


class Places:
    """Where the atoms of terms stand in a graph, for every system of it that has `atoms` atoms.

    A graph may hold one such system, padded or not, or many in a row, as batches do. A system with another number of
    atoms is none of these: its energy is NaN (`check_system` refuses it before). Empty slots have none.
    """

    graph: Graph
    index: Int[Array, "systems terms width"]
    whole: Bool[Array, "systems"]
    counts: Float[Array, "systems"]

    def __init__(self, graph: Graph, index: Int[Array, "terms width"], atoms: int):
        size = graph.numbers.shape[0]
        if size < atoms:
            check_atoms("terms", atoms, size)
        self.graph = graph
        self.counts = graph.sum_atoms(jnp.ones_like(graph.positions[:, 0]))
        self.whole = self.counts == atoms
        slots = jnp.arange(graph.systems, dtype=graph.system_index.dtype)
        starts = jnp.searchsorted(graph.system_index, slots) if graph.systems > 1 else jnp.zeros_like(slots)
        starts = jnp.where(self.whole, starts.astype(jnp.int32), jnp.zeros((), jnp.int32))
        self.index = starts[:, None, None] + index[None]

    def vectors(self, first: int, second: int) -> Float[Array, "systems terms 3"]:
        """From atom number `first` of each term to number `second`, by the nearest image [Å].

        Where there is no such system, vectors that no law of angles minds.
        """
        positions = self.graph.positions
        vectors = positions[self.index[:, :, second]] - positions[self.index[:, :, first]]
        vectors = jax.vmap(nearest_images)(vectors, self.graph.cell, self.graph.pbc)
        harmless = jnp.eye(3, dtype=positions.dtype)[second % 3]
        return jnp.where(self.whole[:, None, None], vectors, harmless[None, None, :])

    def share(self, energies: Float[Array, "systems terms"]) -> Float[Array, "atoms"]:
        """Energies of terms as energies of atoms, in equal parts."""
        width = self.index.shape[-1]
        energies = jnp.where(self.whole[:, None], energies, jnp.zeros_like(energies)) / width
        flat = jnp.broadcast_to(energies[..., None], self.index.shape).reshape(-1)
        sums = jax.ops.segment_sum(flat, self.index.reshape(-1), len(self.graph.numbers))
        strange = ~self.whole & (self.counts > 0)
        return sums + jnp.where(strange, jnp.nan, 0.0).astype(sums.dtype)[self.graph.system_index]
