"""Structure: pair distances counted into the radial distribution function, and the structure factor."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erf
from jaxtyping import Array, Float, Int

from jaxmlip.graph import Graph
from jaxmlip.graph.lattice import product, reciprocal


def pair_counts(graph: Graph, edges: Float[Array, "edges"]) -> Float[Array, "bins"]:
    """Directed pairs of all atoms with a length in each bin; `edges` [Å] rise and end below the graph's cutoff.

    Linear, so counts of many frames may be averaged before `radial_distribution`. Not differentiable: for gradients
    use `smooth_pair_counts`.
    """
    lengths = jnp.where(graph.edge_mask, graph.lengths(), jnp.asarray(jnp.inf, edges.dtype)).ravel()
    # A search in a few hundred bin edges is cheaper, on every device, than sorting the pairs.
    index = jnp.searchsorted(edges, lengths, side="right")
    counts = jnp.zeros(len(edges) + 1, edges.dtype).at[index].add(jnp.ones_like(lengths))
    return counts[1:-1]


def smooth_pair_counts(
    graph: Graph, edges: Float[Array, "edges"], width: float | Float[Array, ""]
) -> Float[Array, "bins"]:
    """`pair_counts` with each pair spread over a Gaussian of `width` [Å]: differentiable in the positions."""
    lengths = graph.lengths().ravel()
    scaled = (edges[:, None] - lengths[None, :]) / jnp.asarray(width, edges.dtype)
    below = 0.5 * (1.0 + erf(scaled / jnp.sqrt(jnp.asarray(2.0, edges.dtype))))
    below = jnp.where(graph.edge_mask.ravel()[None, :], below, jnp.zeros_like(below))
    return jnp.sum(below[1:] - below[:-1], axis=1)


def radial_distribution(
    counts: Float[Array, "bins"], edges: Float[Array, "edges"], atoms: int, volume: float | Float[Array, ""]
) -> Float[Array, "bins"]:
    r"""$g(r)$ from the `counts` of directed pairs of one frame (or their average): 1 without correlation.

    $g = n V / (N^2 \, \frac{4}{3} \pi (r_2^3 - r_1^3))$, with bins from $r_1$ to $r_2$ [Å] and `volume` [Å³]. For a
    finite ideal gas the limit is $1 - 1/N$.
    """
    shells = 4.0 / 3.0 * jnp.pi * (edges[1:] ** 3 - edges[:-1] ** 3)
    return counts * volume / (float(atoms) ** 2 * shells)


def of_pair(graph: Graph, pair: tuple[int, int] | None) -> tuple[Graph, Float[Array, ""]]:
    """The graph with only the edges from center to neighbor of these atomic numbers, and the factor that their
    `radial_distribution` lacks."""
    norm = jnp.ones((), graph.positions.dtype)
    if pair is None:
        return graph, norm
    center, neighbor = (graph.numbers == number for number in pair)
    mask = graph.edge_mask & center[None, :] & neighbor[graph.senders]
    both = jnp.sum(center).astype(norm.dtype) * jnp.sum(neighbor).astype(norm.dtype)
    return eqx.tree_at(lambda g: g.edge_mask, graph, mask), float(len(graph.numbers)) ** 2 / both


def coordination(counts: Float[Array, "bins"], atoms: int) -> Float[Array, "bins"]:
    """Neighbors of an atom, on average, up to the end of each bin."""
    return jnp.cumsum(counts) / atoms


def structure_factor(
    positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"], indices: Int[Array, "waves 3"]
) -> Float[Array, "waves"]:
    r"""$S(q) = \frac{1}{N} |\sum_i e^{i q \cdot r_i}|^2$ at $q = 2 \pi \, n h^{-1}$, `indices` $n$ whole.

    1 on average for an ideal gas, $N$ at a Bragg peak. One wave after another, so memory stays that of the atoms.
    """
    rows, _ = reciprocal(cell)
    fractions = product(positions, rows.T)

    def one(index):
        phase = 2.0 * jnp.pi * jnp.sum(fractions * index.astype(fractions.dtype)[None, :], axis=1)
        return (jnp.sum(jnp.cos(phase)) ** 2 + jnp.sum(jnp.sin(phase)) ** 2) / positions.shape[0]

    return lax.map(one, indices)


def wave_indices(cell: Any, longest: float) -> np.ndarray:
    """Indices of all wave vectors no longer than `longest` [1/Å], one of each pair ±q, shortest first (host).

    Their lengths are `2 * np.pi * np.linalg.norm(indices @ np.linalg.inv(cell).T, axis=1)`.
    """
    cell = np.asarray(cell, np.float64)
    if abs(np.linalg.det(cell)) < 1e-12 or not longest > 0:
        raise ValueError(
            f"Waves need a cell that spans space and a positive length; got {cell.tolist()} and {longest}."
        )
    most = np.floor(longest * np.linalg.norm(cell, axis=1) / (2.0 * np.pi)).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in most], indexing="ij"), axis=-1).reshape(-1, 3)
    first = (grid[:, 0] > 0) | ((grid[:, 0] == 0) & ((grid[:, 1] > 0) | ((grid[:, 1] == 0) & (grid[:, 2] > 0))))
    grid = grid[first]
    lengths = 2.0 * np.pi * np.linalg.norm(grid @ np.linalg.inv(cell).T, axis=1)
    order = np.argsort(lengths, kind="stable")
    return grid[order][lengths[order] <= longest].astype(np.int32)
