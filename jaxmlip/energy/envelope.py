"""Smooth cutoffs: functions of x = r / cutoff that fall from 1 to exactly 0 at x = 1."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def polynomial_envelope(x: Float[Array, "*pairs"], p: int = 6) -> Float[Array, "*pairs"]:
    r"""$1 - \frac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \frac{p(p+1)}{2} x^{p+2}$ for $x < 1$, else 0.

    Value and two derivatives vanish at $x = 1$.

    **Reference:** Gasteiger, Gross & Günnemann, ICLR (2020), arXiv:2003.03123.
    """
    inside = x < 1.0
    x = jnp.where(inside, x, jnp.ones_like(x))
    value = 1.0 + x**p * (-(p + 1) * (p + 2) / 2 + x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return jnp.where(inside, value, jnp.zeros_like(x))


def switch_envelope(x: Float[Array, "*pairs"], onset: float) -> Float[Array, "*pairs"]:
    r"""1 below `onset`, then $1 - 10 t^3 + 15 t^4 - 6 t^5$ with $t = (x - onset) / (1 - onset)$, 0 from $x = 1$ on.

    Leaves the inner region untouched; value and two derivatives are continuous at both ends.
    """
    t = jnp.clip((x - onset) / (1.0 - onset), 0.0, 1.0)
    return 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))
