"""Symmetric linear systems, definite or not, given as products: by a matrix where they are small, else by MINRES."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Product = Callable[[Float[Array, "features"]], Float[Array, "features"]]
_TOGETHER = 16  # columns of a matrix that are computed at once
_LANCZOS = 40  # steps


class Spectrum(NamedTuple):
    """The ratio of the largest to the smallest eigenvalue in size, and how many are negative."""

    condition: Float[Array, ""]
    negative: Int[Array, ""]


def matrix_of(product: Product, like: Float[Array, "features"]) -> Float[Array, "features features"]:
    """The matrix of a linear function of vectors `like` one, a few columns at a time."""
    size = len(like)
    turns = -(-size // _TOGETHER)
    together = -(-size // turns)
    rows = jnp.eye(turns * together, size, dtype=like.dtype).reshape(turns, together, size)
    images = lax.map(jax.vmap(product), rows)
    return images.reshape(turns * together, -1)[:size].T


def solve(
    product: Product, right: Float[Array, "features *columns"], *, dense: bool
) -> Float[Array, "features *columns"]:
    """The solution of a symmetric system for one or several right-hand sides, differentiable in all that it holds."""
    if dense:
        return jnp.linalg.solve(matrix_of(product, jnp.zeros_like(right.reshape(len(right), -1)[:, 0])), right)

    def one(vector):
        return lax.custom_linear_solve(product, vector, solve=minres, symmetric=True)

    return one(right) if right.ndim == 1 else jax.vmap(one, in_axes=1, out_axes=1)(right)


class _Krylov(NamedTuple):
    """What MINRES carries: the solution, two Lanczos vectors and two directions, and the last rotation."""

    x: Array
    v: Array
    v_old: Array
    w: Array
    w_old: Array
    beta: Array
    cosine: Array
    sine: Array
    delta: Array
    epsilon: Array
    phi: Array
    steps: Array


def minres(product: Product, right: Float[Array, "features"]) -> Float[Array, "features"]:
    """The solution of a symmetric system by the method of minimal residuals, to the precision of the type.

    **Reference:** Paige & Saunders, SIAM J. Numer. Anal. 12, 617 (1975), doi:10.1137/0712047.
    """
    dtype = right.dtype
    tiny, one, zero = jnp.finfo(dtype).tiny, jnp.ones((), dtype), jnp.zeros((), dtype)
    length = jnp.sqrt(jnp.sum(right * right))
    goal = 20.0 * jnp.finfo(dtype).eps * length
    none = jnp.zeros_like(right)
    first = right / jnp.maximum(length, tiny)
    start = _Krylov(none, first, none, none, none, zero, -one, zero, zero, zero, length, jnp.zeros((), jnp.int32))

    def go_on(s: _Krylov):
        return (s.phi > goal) & (s.steps < 5 * len(right))

    def step(s: _Krylov) -> _Krylov:
        y = product(s.v) - s.beta * s.v_old
        alpha = jnp.sum(s.v * y)
        y = y - alpha * s.v
        beta = jnp.sqrt(jnp.sum(y * y))
        delta = s.cosine * s.delta + s.sine * alpha
        bar = s.sine * s.delta - s.cosine * alpha
        gamma = jnp.maximum(jnp.sqrt(bar * bar + beta * beta), tiny)
        cosine, sine = bar / gamma, beta / gamma
        w = (s.v - s.epsilon * s.w_old - delta * s.w) / gamma
        return _Krylov(
            x=s.x + cosine * s.phi * w,
            v=y / jnp.maximum(beta, tiny),
            v_old=s.v,
            w=w,
            w_old=s.w,
            beta=beta,
            cosine=cosine,
            sine=sine,
            delta=-s.cosine * beta,
            epsilon=s.sine * beta,
            phi=sine * s.phi,
            steps=s.steps + 1,
        )

    return lax.while_loop(go_on, step, start).x


def spectrum(matrix: Float[Array, "features features"], *, frozen: int) -> Spectrum:
    """The spectrum of a symmetric matrix but for `frozen` eigenvalues that are 1 and do not count."""
    values = jnp.linalg.eigvalsh(0.5 * (matrix + matrix.T))
    order = jnp.argsort(jnp.abs(values - 1.0))
    return _summary(values[order[frozen:]])


def estimate_spectrum(product: Product, start: Float[Array, "features"]) -> Spectrum:
    """Both numbers from below, from a few steps of the method of Lanczos in the space that contains `start`.

    **Reference:** Lanczos, J. Res. Natl. Bur. Stand. 45, 255 (1950), doi:10.6028/jres.045.026.
    """
    dtype = start.dtype
    steps = min(_LANCZOS, len(start))
    basis = jnp.zeros((steps, len(start)), dtype).at[0].set(start / jnp.sqrt(jnp.sum(start * start)))

    def step(k, carry):
        basis, diagonal, beside = carry
        y = product(basis[k])
        alpha, whole = jnp.sum(y * basis[k]), jnp.sqrt(jnp.sum(y * y))
        for _ in range(2):  # twice is enough to keep the vectors orthogonal
            y = y - jnp.matmul(jnp.matmul(basis, y, precision="highest"), basis, precision="highest")
        length = jnp.sqrt(jnp.sum(y * y))
        goes_on = length > jnp.sqrt(jnp.finfo(dtype).eps) * whole  # what is left is more than rounding
        length = jnp.where(goes_on, length, jnp.zeros_like(length))
        follower = jnp.where(length > 0.0, y / jnp.maximum(length, jnp.finfo(dtype).tiny), jnp.zeros_like(y))
        alive = jnp.any(basis[k] != 0.0)
        diagonal = diagonal.at[k].set(jnp.where(alive, alpha, diagonal[0]))  # of a space that is used up: nothing new
        return basis.at[k + 1].set(follower, mode="drop"), diagonal, beside.at[k].set(length)

    zeros = jnp.zeros(steps, dtype)
    _, diagonal, beside = lax.fori_loop(0, steps, step, (basis, zeros, zeros))
    tridiagonal = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    return _summary(jnp.linalg.eigvalsh(tridiagonal))


def _summary(values: Float[Array, "features"]) -> Spectrum:
    if not len(values):
        return Spectrum(jnp.ones((), values.dtype), jnp.zeros((), jnp.int32))
    sizes = jnp.abs(values)
    largest = jnp.max(sizes)
    negative = jnp.sum(values < -64.0 * jnp.finfo(values.dtype).eps * largest)
    return Spectrum(largest / jnp.min(sizes), negative.astype(jnp.int32))
