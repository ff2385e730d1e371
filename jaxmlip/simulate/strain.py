"""How a cell changes under a barostat: what of it may, exponentials of strains, and the turn back afterwards."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.graph.lattice import product

# What of a cell may change, and in how many ways.
SHAPES = {"isotropic": 1, "anisotropic": 3, "triclinic": 6}


def check_shape(shape: str) -> None:
    """Refuse an unknown shape.

    **Raises:** `ValueError` naming the known ones.
    """
    if shape not in SHAPES:
        raise ValueError(f"`shape` must be one of {tuple(SHAPES)}; got {shape!r}.")


def check_periodic(pbc: tuple[bool, bool, bool]) -> None:
    """Refuse a system without a cell to scale.

    **Raises:** `ValueError` with the periodicity.
    """
    if not all(pbc):
        raise ValueError(f"A barostat needs a cell that is periodic in all directions; `pbc` is {pbc}.")


def restrict(strain: Float[Array, "3 3"], shape: str) -> Float[Array, "3 3"]:
    """The part of a symmetric strain that the shape may follow (an orthogonal projection)."""
    eye = jnp.eye(3, dtype=strain.dtype)
    if shape == "isotropic":
        return jnp.trace(strain) / 3.0 * eye
    return strain * eye if shape == "anisotropic" else strain


def exponential(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Matrix exponential by scaling (2⁻⁶), a Taylor series of ten terms, and squaring; full precision on any device."""
    scaled = matrix / 64.0
    eye = jnp.eye(3, dtype=matrix.dtype)
    result = eye
    for order in range(10, 0, -1):
        result = eye + product(scaled, result) / order
    for _ in range(6):
        result = product(result, result)
    return result


def flow(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    r"""$\varphi(A) = (e^A - 1) A^{-1} = \sum_k A^k / (k + 1)!$, to full precision for norms up to 1 (17 terms).

    $e^A = 1 + A \varphi(A)$; and $\dot x = A x + b$ takes $x$ to $x + t \varphi(A t) (A x + b)$ in a time $t$.
    """
    eye = jnp.eye(3, dtype=matrix.dtype)
    result = eye
    for order in range(18, 1, -1):
        result = eye + product(matrix, result) / order
    return result


def turn_back(before: Float[Array, "3 3"], after: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The rotation (for row vectors) that gives the cell `after` the orientation of `before`."""
    return product(_frame(after).T, _frame(before))


def _frame(cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Orthonormal rows: along the first lattice vector, in the plane of the first two, and normal to it."""
    a = cell[0] / jnp.sqrt(jnp.sum(cell[0] ** 2))
    c = jnp.cross(cell[0], cell[1])
    c = c / jnp.sqrt(jnp.sum(c * c))
    return jnp.stack([a, jnp.cross(c, a), c])
