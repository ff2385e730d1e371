"""Graph: the atoms of one or many systems and, for each atom, its neighbors.

Edges are stored dense, as blocks `[neighbors atoms]`: slot `k` of column `i` holds the `k`-th neighbor of atom `i`,
so the receiver of an edge is its column and sums over neighbors are sums over rows (`docs/decisions/0002`).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Graph(eqx.Module):
    """Atoms, cells and directed edges (neighbor -> center) of `systems` systems, padded to fixed shapes.

    - `numbers == 0` marks a padding atom, `edge_mask == False` a padding edge; neither ever changes a result.
    - `shifts` counts lattice vectors: `vectors = positions[senders] + shifts @ cell - positions[receivers]`.
    - `pbc` says which axes repeat, as the shifts do; sums over all images need it.
    - `cutoff` [Å] is the distance up to which the list is complete; an energy with a longer one is refused.
    """

    positions: Float[Array, "atoms 3"]
    numbers: Int[Array, "atoms"]
    cell: Float[Array, "systems 3 3"]
    charge: Float[Array, "systems"]
    system_index: Int[Array, "atoms"]
    senders: Int[Array, "neighbors atoms"]
    shifts: Int[Array, "3 neighbors atoms"]
    edge_mask: Bool[Array, "neighbors atoms"]
    pbc: Bool[Array, "systems 3"]
    cutoff: float = eqx.field(static=True)

    @property
    def systems(self) -> int:
        """Number of systems, padding included."""
        return self.cell.shape[0]

    @property
    def atom_mask(self) -> Bool[Array, "atoms"]:
        return self.numbers > 0

    @property
    def receivers(self) -> Int[Array, "neighbors atoms"]:
        """Index of the center of each edge (its column)."""
        return lax.broadcasted_iota(self.senders.dtype, self.senders.shape, 1)

    def gather(self, values: Float[Array, "*features atoms"]) -> Float[Array, "*features neighbors atoms"]:
        """A per-atom array (atoms trailing) seen from each edge: the value of its sender."""
        return values[..., self.senders]

    def vectors(self) -> Float[Array, "3 neighbors atoms"]:
        """Vectors from each atom to its neighbors [Å], components first.

        A padding edge gets a constant vector beyond the cutoff, so that whatever vanishes there needs no mask and no
        gradient is ever NaN.
        """
        shifts = self.shifts.astype(self.positions.dtype)
        components = []
        for axis in range(3):
            x = self.positions[:, axis]
            offset = sum(shifts[a] * self._lattice(a, axis) for a in range(3))
            outside = 2.0 * self.cutoff if axis == 0 else 0.0
            vector = x[self.senders] + offset - x[None, :]
            components.append(jnp.where(self.edge_mask, vector, jnp.asarray(outside, x.dtype)))
        return jnp.stack(components)

    def lengths(self) -> Float[Array, "neighbors atoms"]:
        """Distances to the neighbors [Å]; twice the cutoff on padding edges."""
        return safe_norm(self.vectors())

    def sum_edges(self, values: Float[Array, "*features neighbors atoms"]) -> Float[Array, "*features atoms"]:
        """Sum over the neighbors of each atom, padding left out."""
        return jnp.sum(jnp.where(self.edge_mask, values, jnp.zeros((), values.dtype)), axis=-2)

    def sum_atoms(self, values: Float[Array, "*features atoms"]) -> Float[Array, "*features systems"]:
        """Sum over the atoms of each system, padding left out."""
        values = jnp.where(self.atom_mask, values, jnp.zeros((), values.dtype))
        if self.systems == 1:
            return jnp.sum(values, axis=-1, keepdims=True)
        totals = jax.ops.segment_sum(jnp.moveaxis(values, -1, 0), self.system_index, self.systems)
        return jnp.moveaxis(totals, 0, -1)

    def volume(self) -> Float[Array, "systems"]:
        """Volume of each cell [Å³]; zero where a cell does not span space."""
        a, b, c = self.cell[:, 0], self.cell[:, 1], self.cell[:, 2]
        return jnp.abs(jnp.sum(a * jnp.cross(b, c), axis=-1))

    def strained(self, strain: Float[Array, "systems 3 3"]) -> Graph:
        """The same atoms in a deformed space: every row vector `x` becomes `x (1 + strain)`."""
        deform = jnp.eye(3, dtype=self.positions.dtype)[None] + strain
        positions = _row_times(self.positions, deform[self.system_index] if self.systems > 1 else deform)
        cell = _row_times(self.cell, deform[:, None])
        return eqx.tree_at(lambda g: (g.positions, g.cell), self, (positions, cell))

    def with_positions(self, positions: Float[Array, "atoms 3"]) -> Graph:
        """The same edges with the atoms elsewhere."""
        return eqx.tree_at(lambda g: g.positions, self, positions)

    def astype(self, dtype: jnp.dtype) -> Graph:
        """The same graph with coordinates of another float type."""
        return eqx.tree_at(
            lambda g: (g.positions, g.cell, g.charge),
            self,
            (self.positions.astype(dtype), self.cell.astype(dtype), self.charge.astype(dtype)),
        )

    def _lattice(self, row: int, column: int) -> Float[Array, "#one atoms"]:
        """One entry of the cell of each atom, ready to meet an edge array."""
        entry = self.cell[:, row, column]
        return entry[None, :] if self.systems == 1 else entry[self.system_index][None, :]


def safe_norm(vectors: Float[Array, "3 *pairs"]) -> Float[Array, "*pairs"]:
    """Length of vectors stored components first; its gradient at zero is zero, not NaN."""
    squared = jnp.sum(vectors * vectors, axis=0)
    positive = squared > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, jnp.ones_like(squared))), jnp.zeros_like(squared))


def _row_times(rows: Float[Array, "*n 3"], matrix: Float[Array, "*#n 3 3"]) -> Float[Array, "*n 3"]:
    """Row vector times matrix in full precision on every device (no matrix unit is asked)."""
    terms = [rows[..., a, None] * matrix[..., a, :] for a in range(3)]
    return terms[0] + terms[1] + terms[2]
