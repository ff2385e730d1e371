"""Atoms by system: per-atom arrays as rectangles `[systems slots]`, for what couples all atoms of a system."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.graph.graph import Graph


class Blocks(NamedTuple):
    """Where the atoms of each system stand: `index` of the atom in each slot, `mask` of the slots that are taken, and
    the `slot` of each atom. `crowded` systems have more atoms than slots: nothing computed for them is right.
    """

    index: Int[Array, "systems slots"]
    mask: Bool[Array, "systems slots"]
    slot: Int[Array, "atoms"]
    crowded: Bool[Array, "systems"]

    def split(self, values: Float[Array, "*features atoms"]) -> Float[Array, "*features systems slots"]:
        """Values of the atoms in the slots of their systems; zero in empty ones."""
        return jnp.where(self.mask, values[..., self.index], jnp.zeros((), values.dtype))

    def join(self, values: Float[Array, "systems slots"], graph: Graph) -> Float[Array, "atoms"]:
        """Values in slots as values of atoms; of padding atoms they mean nothing."""
        if graph.systems == 1:
            return values[0, : len(graph.numbers)]
        return values[graph.system_index, self.slot]


def blocks(graph: Graph, slots: int | None = None) -> Blocks:
    """The atoms of `graph` by system, `slots` to each (as many as the graph has atoms by default)."""
    atoms = len(graph.numbers)
    if graph.systems == 1:
        here = jnp.arange(atoms, dtype=jnp.int32)
        return Blocks(here[None], graph.atom_mask[None], here, jnp.zeros(1, bool))
    slots = atoms if slots is None else slots
    owner = jnp.where(graph.atom_mask, graph.system_index, graph.systems)
    order = jnp.argsort(owner, stable=True).astype(jnp.int32)
    counts = jax.ops.segment_sum(jnp.ones(atoms, jnp.int32), owner, graph.systems + 1)
    starts = jnp.cumsum(counts) - counts
    rank = jnp.zeros(atoms, jnp.int32).at[order].set(jnp.arange(atoms, dtype=jnp.int32)) - starts[owner]
    place = starts[:-1, None] + jnp.arange(slots, dtype=jnp.int32)[None, :]
    mask = jnp.arange(slots, dtype=jnp.int32)[None, :] < counts[:-1, None]
    index = order[jnp.minimum(place, atoms - 1)]
    return Blocks(index, mask, jnp.clip(rank, 0, slots - 1).astype(jnp.int32), counts[:-1] > slots)
