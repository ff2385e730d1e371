"""Angles between bonds, with derivatives that hold where bonds are in line."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.graph.graph import safe_norm

# arcsin(sqrt(y))^2 = sum of these times y^n, n = 1, 2, ...: 2^(2n - 1) / (n^2 binomial(2n, n))
_SERIES = (1.0, 1 / 3, 8 / 45, 4 / 35, 128 / 1575, 128 / 2079, 1024 / 21021, 256 / 6435)
_SMALL = 0.01
_IN_LINE = 0.01


def harmonic_angle(
    u: Float[Array, "*terms 3"], v: Float[Array, "*terms 3"], angle: Float[Array, "*#terms"]
) -> Float[Array, "*terms"]:
    r"""$(\theta - \theta_0)^2$ of the angle $\theta$ between `u` and `v`, and `angle` $\theta_0$ [rad²].

    Written in the square of the smaller of $\theta$ and $\delta = \pi - \theta$, a smooth function of the positions
    where $\theta$ is not: $(\theta - \theta_0)^2 = \delta^2 - 2 (\pi - \theta_0) \delta + (\pi - \theta_0)^2$. For $\theta_0 = \pi$ only the first term is left, and forces and Hessian of a linear molecule are exact. For other
    $\theta_0$ the energy has a cusp where the bonds are in line; there the force is the mean over all directions, zero,
    and the Hessian that of the smooth part.
    """
    u, v = unit(u), unit(v)
    obtuse = jnp.sum(u * v, axis=-1) < 0.0
    towards = jnp.where(obtuse[..., None], u + v, u - v)
    squared = 4.0 * squared_arcsine(0.25 * jnp.sum(towards * towards, axis=-1))
    positive = squared > 0.0
    small = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, jnp.ones_like(squared))), jnp.zeros_like(squared))
    rest = jnp.where(obtuse, jnp.pi - angle, angle)
    return squared - 2.0 * rest * small + rest * rest


def squared_arcsine(y: Float[Array, "*terms"]) -> Float[Array, "*terms"]:
    r"""$\arcsin^2 \sqrt{y}$, smooth at 0 (by its series there), for y up to 1/2 and a little more."""
    series = jnp.zeros_like(y)
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * y
    near = y < _SMALL
    root = jnp.arcsin(jnp.sqrt(jnp.where(near, 0.25 * jnp.ones_like(y), jnp.minimum(y, 0.9))))
    return jnp.where(near, series, root * root)


def angle_between(u: Float[Array, "*terms 3"], v: Float[Array, "*terms 3"]) -> Float[Array, "*terms"]:
    """The angle between two vectors [rad]; its derivative is zero, not NaN, where they are in line."""
    crossed = jnp.cross(u, v)
    sine, cosine = safe_norm(jnp.moveaxis(crossed, -1, 0)), jnp.sum(u * v, axis=-1)
    nowhere = (sine == 0.0) & (cosine == 0.0)
    return jnp.arctan2(sine, jnp.where(nowhere, jnp.ones_like(cosine), cosine))


def torsion(
    a: Float[Array, "*terms 3"], b: Float[Array, "*terms 3"], c: Float[Array, "*terms 3"]
) -> tuple[Float[Array, "*terms"], Float[Array, "*terms"], Float[Array, "*terms"]]:
    r"""Cosine and sine of the dihedral angle of consecutive bonds `a`, `b`, `c`, and how much it counts.

    0 where the outer atoms lie on one side (cis), positive clockwise looking along `b` (IUPAC). Where two bonds are in
    line the angle is not defined, and its derivative grows without bound on the way there. The third value takes care
    of that: it falls from 1 to 0, with two continuous derivatives, while $\sin^2$ of a bond angle falls from 0.01 (5.7
    degrees from in line) to 0, faster than derivatives grow. In line cosine 1 and sine 0 are returned.
    """
    m, n = jnp.cross(a, b), jnp.cross(b, c)
    aa, bb, cc = (jnp.sum(x * x, axis=-1) for x in (a, b, c))
    mm, nn = jnp.sum(m * m, axis=-1), jnp.sum(n * n, axis=-1)
    defined = (mm > 0.0) & (nn > 0.0)
    one = jnp.ones_like(mm)
    scale = jnp.sqrt(jnp.where(defined, mm * nn, one))
    length = jnp.sqrt(jnp.where(defined, bb, one))
    cosine = jnp.where(defined, jnp.sum(m * n, axis=-1) / scale, one)
    sine = jnp.where(defined, length * jnp.sum(a * n, axis=-1) / scale, jnp.zeros_like(one))
    aa, bb, cc = (jnp.where(defined, x, one) for x in (aa, bb, cc))
    counts = _rise(mm / (aa * bb) / _IN_LINE) * _rise(nn / (bb * cc) / _IN_LINE)
    return cosine, sine, jnp.where(defined, counts, jnp.zeros_like(one))


def _rise(x: Float[Array, "*terms"]) -> Float[Array, "*terms"]:
    """From 0 at 0 to 1 from 1 on, two derivatives continuous."""
    x = jnp.minimum(x, 1.0)
    return x**3 * (10.0 - x * (15.0 - 6.0 * x))


def unit(vectors: Float[Array, "*terms 3"]) -> Float[Array, "*terms 3"]:
    """Vectors of length 1; those that vanish stay as they are."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    positive = squared > 0.0
    length = jnp.sqrt(jnp.where(positive, squared, jnp.ones_like(squared)))
    return vectors / length[..., None]
