"""Structure: pair distances counted into the radial distribution function."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from jaxmlip.graph import Graph


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


def coordination(counts: Float[Array, "bins"], atoms: int) -> Float[Array, "bins"]:
    """Neighbors of an atom, on average, up to the end of each bin."""
    return jnp.cumsum(counts) / atoms
