"""Radial bases: smooth functions of the distance that vanish at the cutoff."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy.envelope import polynomial_envelope


def bessel_basis(r: Float[Array, "*pairs"], cutoff: float, count: int, p: int = 6) -> Float[Array, "features *pairs"]:
    r"""$\sqrt{2} \sin(n \pi x) / (2 x) \cdot f_p(x)$ with $x = r / $`cutoff`, $n = 1 \dots$ `count`; 0 beyond `cutoff`.

    Orthogonal on the unit ball before the envelope $f_p$; smooth at the origin.

    **Reference:** Gasteiger, Gross & Günnemann, ICLR (2020), arXiv:2003.03123.
    """
    x = r / cutoff
    inside = (x < 1.0) & (x > 0.0)
    x = jnp.where(inside, x, jnp.ones_like(x))
    n = jnp.arange(1, count + 1, dtype=r.dtype).reshape((count,) + (1,) * x.ndim)
    amplitude = jnp.where(inside, polynomial_envelope(x, p) / x, jnp.zeros_like(x)) * (math.sqrt(2.0) / 2.0)
    return jnp.sin((math.pi * n) * x[None]) * amplitude[None]
