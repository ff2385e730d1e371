"""Clebsch-Gordan coefficients of the real spherical harmonics, and the one product of features made with them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float


@functools.cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    r"""Real coefficients $C_{m_1 m_2 m_3}$ of shape [2 l1 + 1, 2 l2 + 1, 2 l3 + 1] (float64, read only).

    If $a$ and $b$ turn as harmonics of degree l1 and l2, then $c_{m_3} = \sum C_{m_1 m_2 m_3} a_{m_1} b_{m_2}$ turns as
    one of degree l3. The squares sum to 1; sign and order of m are those of `harmonics.spherical_harmonics` (and of
    e3nn). All zero where the triangle rule forbids the coupling.

    **Reference:** Edmonds, *Angular Momentum in Quantum Mechanics* (1957), eq. 3.6.11; checked against e3nn-jax and
    against rotated harmonics.
    """
    if min(l1, l2, l3) < 0:
        raise ValueError(f"Degrees must not be negative; got {(l1, l2, l3)}.")
    complex_basis = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    if abs(l1 - l2) <= l3 <= l1 + l2:
        for m1 in range(-l1, l1 + 1):
            for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
                complex_basis[l1 + m1, l2 + m2, l3 + m1 + m2] = _coupling(l1, m1, l2, m2, l3)
    u1, u2, u3 = (_real_harmonics(degree) for degree in (l1, l2, l3))
    # u* turns complex harmonics into real ones; i^(l1 + l2 - l3) makes odd couplings, such as the cross product, real.
    coefficients = np.einsum("am,bn,mnp,cp->abc", np.conj(u1), np.conj(u2), complex_basis, u3)
    coefficients = (coefficients * 1j ** (l3 - l1 - l2)).real / math.sqrt(2 * l3 + 1)
    coefficients[np.abs(coefficients) < 1e-14] = 0.0
    coefficients.flags.writeable = False
    return coefficients


def product(
    a: Sequence[Float[Array, "*pairs"]], b: Sequence[Float[Array, "*pairs"]], degree: int
) -> list[Float[Array, "*pairs"]]:
    """The part of degree `degree` in the product of `a` (2 l1 + 1 arrays) and `b` (2 l2 + 1 arrays), element-wise.

    Written out term by term: XLA fuses the few non-zero terms into one loop, 4x faster than a small einsum. Keep the
    number of products per model in the tens; each is compiled.
    """
    l1, l2 = (len(a) - 1) // 2, (len(b) - 1) // 2
    if not abs(l1 - l2) <= degree <= l1 + l2:
        raise ValueError(f"Degrees {l1} and {l2} couple to {abs(l1 - l2)} ... {l1 + l2}; got {degree}.")
    coefficients = clebsch_gordan(l1, l2, degree)
    pairs = {(m1, m2): a[m1] * b[m2] for m1, m2 in np.argwhere(np.any(coefficients != 0.0, axis=2)).tolist()}
    return [  # pyright: ignore[reportReturnType]  # no sum is empty
        sum(float(coefficients[m1, m2, m3]) * pairs[m1, m2] for m1, m2 in np.argwhere(coefficients[:, :, m3]).tolist())
        for m3 in range(2 * degree + 1)
    ]


def _coupling(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """<l1 m1 l2 m2 | l3 m1+m2> with Condon-Shortley signs, by Racah's sum over integers."""
    f = math.factorial
    m3 = m1 + m2
    total = 0.0
    for k in range(l1 + l2 - l3 + 1):
        below = (k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        if min(below) >= 0:
            total += (-1) ** k / math.prod(f(n) for n in below)
    triangle = (2 * l3 + 1) * f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(l2 - l1 + l3) / f(l1 + l2 + l3 + 1)
    states = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    return math.sqrt(triangle * states) * total


def _real_harmonics(degree: int) -> np.ndarray:
    """Rows: real harmonics (m = -l ... l) as combinations of complex ones with Condon-Shortley signs."""
    u = np.zeros((2 * degree + 1, 2 * degree + 1), np.complex128)
    u[degree, degree] = 1.0
    for m in range(1, degree + 1):
        u[degree + m, degree + m], u[degree + m, degree - m] = (-1) ** m, 1.0
        u[degree - m, degree + m], u[degree - m, degree - m] = -1j * (-1) ** m, 1j
        u[degree + m] /= math.sqrt(2.0)
        u[degree - m] /= math.sqrt(2.0)
    return u
