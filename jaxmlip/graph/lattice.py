"""Lattice geometry in jit, in full precision on every device: inverse, heights, strain between two cells."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def reciprocal(cell: Float[Array, "3 3"]) -> tuple[Float[Array, "3 3"], Float[Array, "3"]]:
    """Rows `b` with `cell[a] . b[c] = (a == c)`, and the perpendicular heights of the cell [Å]."""
    crossed = jnp.stack([jnp.cross(cell[1], cell[2]), jnp.cross(cell[2], cell[0]), jnp.cross(cell[0], cell[1])])
    rows = crossed / jnp.sum(cell[0] * crossed[0])
    return rows, 1.0 / jnp.sqrt(jnp.sum(rows * rows, axis=1))


def product(left: Float[Array, "*n 3"], right: Float[Array, "3 3"]) -> Float[Array, "*n 3"]:
    """Row vectors times a matrix, written out so that no reduced-precision matrix unit is asked."""
    terms = [left[..., a, None] * right[a].reshape((1,) * (left.ndim - 1) + (3,)) for a in range(3)]
    return terms[0] + terms[1] + terms[2]


def fractional(positions: Float[Array, "3 *n"], rows: Float[Array, "3 3"]) -> Float[Array, "3 *n"]:
    """Fractional coordinates of `positions` (components leading), with reciprocal `rows`."""
    return jnp.stack([jnp.sum(positions * rows[axis][:, None], axis=0) for axis in range(3)])


def fractional_once(positions: Float[Array, "atoms 3"], rows: Float[Array, "3 3"]) -> Float[Array, "3 atoms"]:
    """Fractional coordinates of `positions`, with reciprocal `rows`, that every use sees as the same numbers.

    XLA repeats cheap arithmetic in each of its uses, with or without fused multiply-adds. Two differences of one half
    could then round to different images, and the list would name an image that nobody tested. The result of a loop
    is computed once; an `optimization_barrier` does not have that effect on a CPU.
    """
    return lax.map(lambda row: jnp.sum(positions * row[None, :], axis=1), rows)


def norm_bound(matrix: Float[Array, "3 3"]) -> Float[Array, ""]:
    r"""An upper bound of the spectral norm, exact for isotropic and for uniaxial stretch and for rotations.

    The largest eigenvalue of the symmetric $G = M M^T$ is $m + 2 p \cos\phi \le m + 2 p$ with $m = \mathrm{tr} G / 3$
    and $p^2 = \mathrm{tr} (G - m)^2 / 6$.
    """
    gram = product(matrix, matrix.T)
    mean = jnp.trace(gram) / 3.0
    rest = gram - mean * jnp.eye(3, dtype=gram.dtype)
    return jnp.sqrt(mean + 2.0 * jnp.sqrt(jnp.sum(rest * rest) / 6.0))
