"""The nearest image of a vector in any cell, inside jit and differentiable."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmlip.graph.lattice import product

_AROUND = np.array(list(itertools.product((-1, 0, 1), repeat=3)), np.float64)
_SWEEPS = 12  # of pairwise reduction; a 9:1 shear takes four


def nearest_images(
    vectors: Float[Array, "*pairs 3"], cell: Float[Array, "3 3"], pbc: Bool[Array, "3"]
) -> Float[Array, "*pairs 3"]:
    """The shortest of each vector plus lattice vectors of the periodic axes [Å].

    `cell` may be any cell; rows of axes that are not periodic are not used and may be zero. Which lattice vectors are
    added is constant for derivatives (they stretch with the cell): where two images are as near, there is a kink.
    """
    rows = jnp.where(pbc[:, None], cell, jnp.zeros_like(cell))
    steps = reduction(lax.stop_gradient(rows))
    reduced = product(steps, rows)
    duals = lax.stop_gradient(_duals(reduced))
    counts = -jnp.round(product(lax.stop_gradient(vectors), duals.T))
    near = vectors + product(counts, reduced)
    around = product(jnp.asarray(_AROUND, vectors.dtype), reduced)
    candidates = lax.stop_gradient(near[..., None, :] + around.reshape((1,) * (near.ndim - 1) + around.shape))
    best = jnp.argmin(jnp.sum(candidates * candidates, axis=-1), axis=-1)
    return near + around[best]


def reduction(rows: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Whole numbers that combine lattice vectors to short ones: each pair of `result @ rows` is reduced (Gauss)."""

    def sweep(_, steps):
        for a, b in itertools.permutations(range(3), 2):
            now = product(steps, rows)
            length = jnp.sum(now[b] * now[b])
            spans = length > 0.0
            ratio = jnp.sum(now[a] * now[b]) / jnp.where(spans, length, jnp.ones_like(length))
            # Half a step either way leaves the length; taking it would go round in circles.
            count = jnp.where(spans & (jnp.abs(ratio) > 0.5 + 1e-6), jnp.round(ratio), jnp.zeros_like(ratio))
            steps = steps.at[a].add(-count * steps[b])
        return steps

    return lax.fori_loop(0, _SWEEPS, sweep, jnp.eye(3, dtype=rows.dtype))


def _duals(rows: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Rows `b` with `b[a] . rows[c] = (a == c)` within the span of `rows`; zero for rows that are zero."""
    spans = jnp.sum(rows * rows, axis=1) > 0.0
    gram = product(rows, rows.T) + jnp.diag(jnp.where(spans, 0.0, 1.0).astype(rows.dtype))
    adjugate = jnp.stack([jnp.cross(gram[1], gram[2]), jnp.cross(gram[2], gram[0]), jnp.cross(gram[0], gram[1])])
    return product(adjugate / jnp.sum(gram[0] * adjugate[0]), rows)
