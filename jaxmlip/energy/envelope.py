"""Smooth cutoffs: functions of x = r / cutoff that fall from 1 to exactly 0 at x = 1."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def polynomial_envelope(x: Float[Array, "*pairs"], p: int = 6) -> Float[Array, "*pairs"]:
    r"""$1 - \frac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \frac{p(p+1)}{2} x^{p+2}$ for $x < 1$, else 0.

    Value and two derivatives vanish at $x = 1$. Computed as the equal $(1-x)^3 \sum_{k<p} \frac{(k+1)(k+2)}{2} x^k$,
    in which nothing cancels: near the cutoff it is as precise as elsewhere, in float32 too, and never negative.

    **Reference:** Gasteiger, Gross & Günnemann, ICLR (2020), arXiv:2003.03123.
    """
    inside = x < 1.0
    x = jnp.where(inside, x, jnp.ones_like(x))
    series = jnp.zeros_like(x)
    for k in reversed(range(p)):
        series = series * x + (k + 1) * (k + 2) / 2
    return (1.0 - x) ** 3 * series


def switch_envelope(x: Float[Array, "*pairs"], onset: float) -> Float[Array, "*pairs"]:
    r"""1 below `onset`, then $1 - 10 t^3 + 15 t^4 - 6 t^5$ with $t = (x - onset) / (1 - onset)$, 0 from $x = 1$ on.

    Leaves the inner region untouched; value and two derivatives are continuous at both ends. The polynomial is its own
    mirror image, so it is computed from the far end ($u = 1 - t$), where nothing cancels.
    """
    u = jnp.clip((1.0 - x) / (1.0 - onset), 0.0, 1.0)
    return u**3 * (10.0 - u * (15.0 - 6.0 * u))
