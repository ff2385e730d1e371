"""Real spherical harmonics as explicit polynomials, one array for each (l, m)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_DEGREE = 4


def spherical_harmonics(
    x: Float[Array, "*pairs"],
    y: Float[Array, "*pairs"],
    z: Float[Array, "*pairs"],
    degree: int,
    *,
    normalization: str = "component",
) -> tuple[Float[Array, "*pairs"], ...]:
    r"""The $(\mathtt{degree} + 1)^2$ real harmonics of the unit vector (x, y, z); l = 0, 1, ...; m = -l ... l.

    Entry $l^2 + l + m$ is $Y_{lm}$; l = 1 is proportional to (y, z, x). They have no Condon-Shortley sign and match
    `clebsch_gordan`. These are e3nn's functions with the axes named as in textbooks: e3nn calls our (y, z, x) its
    (x, y, z), a rotation, so equivariant weights fit both.

    `normalization` is "component", $\sum_m Y_{lm}^2 = 2l + 1$, or "norm", $\sum_m Y_{lm}^2 = 1$. The polynomials use
    $x^2 + y^2 + z^2 = 1$ and are harmonics on the sphere only: differentiate through the normalized vector. Separate
    arrays, because XLA fuses each with what consumes it; a stacked recursion would be evaluated again for every column.

    **Raises:** `ValueError` where `degree` is not 0 to 4 or the normalization is unknown.

    **Reference:** Varshalovich, Moskalev & Khersonskii, *Quantum Theory of Angular Momentum* (1988); checked against
    e3nn-jax, and for orthonormality by quadrature.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"`degree` must be 0 to {MAX_DEGREE}; got {degree}.")
    if normalization not in ("component", "norm"):
        raise ValueError(f'`normalization` must be "component" or "norm"; got "{normalization}".')
    values = _polynomials(x, y, z, degree)
    if normalization == "component":
        return tuple(values)
    return tuple(v / math.sqrt(2 * math.isqrt(i) + 1) for i, v in enumerate(values))


def _polynomials(x: Array, y: Array, z: Array, degree: int) -> Sequence[Array]:
    """The harmonics with component normalization; what is unused is never computed."""
    values = [jnp.ones_like(x)]
    if degree == 0:
        return values
    values += [c * math.sqrt(3.0) for c in (y, z, x)]
    if degree == 1:
        return values
    zz = z * z
    cos2, sin2 = x * x - y * y, 2.0 * x * y  # sin^2(theta) times cos and sin of 2 phi
    s15 = math.sqrt(15.0)
    values += [
        s15 / 2 * sin2,
        s15 * (y * z),
        math.sqrt(5.0) / 2 * (3.0 * zz - 1.0),
        s15 * (x * z),
        s15 / 2 * cos2,
    ]
    if degree == 2:
        return values
    cos3, sin3 = x * cos2 - y * sin2, x * sin2 + y * cos2
    s70, s105, s42 = math.sqrt(70.0) / 4, math.sqrt(105.0) / 2, math.sqrt(42.0) / 4
    around = 5.0 * zz - 1.0
    values += [
        s70 * sin3,
        s105 * (sin2 * z),
        s42 * (y * around),
        math.sqrt(7.0) / 2 * z * (5.0 * zz - 3.0),
        s42 * (x * around),
        s105 * (cos2 * z),
        s70 * cos3,
    ]
    if degree == 3:
        return values
    s35, s70 = 3 / 8 * math.sqrt(35.0), 3 / 4 * math.sqrt(70.0)
    s5, s10 = 3 / 4 * math.sqrt(5.0), 3 / 4 * math.sqrt(10.0)
    around, along = 7.0 * zz - 1.0, z * (7.0 * zz - 3.0)
    values += [
        s35 * 2.0 * (cos2 * sin2),
        s70 * (sin3 * z),
        s5 * (sin2 * around),
        s10 * (y * along),
        3 / 8 * (zz * (35.0 * zz - 30.0) + 3.0),
        s10 * (x * along),
        s5 * (cos2 * around),
        s70 * (cos3 * z),
        s35 * (cos2 * cos2 - sin2 * sin2),
    ]
    return values
