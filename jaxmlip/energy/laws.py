"""Laws of distance: the energy of two atoms as a pure function of how far apart they are [Å] and of its parameters."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Parameter = float | Float[Array, "*#pairs"]


def lennard_jones(r: Float[Array, "*pairs"], epsilon: Parameter, sigma: Parameter) -> Float[Array, "*pairs"]:
    r"""$4 \epsilon \left[(\sigma / r)^{12} - (\sigma / r)^6\right]$ [unit of `epsilon`].

    **Reference:** Jones, Proc. R. Soc. A 106, 463 (1924), doi:10.1098/rspa.1924.0082.
    """
    x = (sigma / r) ** 2
    x = x * x * x
    return 4.0 * epsilon * (x * x - x)


def morse(r: Float[Array, "*pairs"], depth: Parameter, width: Parameter, distance: Parameter) -> Float[Array, "*pairs"]:
    r"""$D \left[e^{-2 \alpha (r - r_0)} - 2 e^{-\alpha (r - r_0)}\right]$ with D = `depth`, $\alpha$ = `width` [1/Å].

    **Reference:** Morse, Phys. Rev. 34, 57 (1929), doi:10.1103/PhysRev.34.57.
    """
    x = jnp.exp(-width * (r - distance))
    return depth * (x * x - 2.0 * x)


def born_mayer_huggins(
    r: Float[Array, "*pairs"], a: Parameter, rho: Parameter, c: Parameter, d: Parameter
) -> Float[Array, "*pairs"]:
    r"""$A e^{-r / \rho} - C / r^6 - D / r^8$; it falls to minus infinity at short distance.

    **Reference:** Huggins & Mayer, J. Chem. Phys. 1, 643 (1933), doi:10.1063/1.1749344.
    """
    y = 1.0 / (r * r)
    return a * jnp.exp(-r / rho) - (c + d * y) * y * y * y


def inverse_power(r: Float[Array, "*pairs"], prefactor: Parameter, exponent: float) -> Float[Array, "*pairs"]:
    r"""$A / r^n$ [unit of `prefactor` times Å⁻ⁿ]."""
    return prefactor * r**-exponent


def soft_sphere(
    r: Float[Array, "*pairs"], epsilon: Parameter, sigma: Parameter, exponent: float
) -> Float[Array, "*pairs"]:
    r"""$\frac{\epsilon}{n} (1 - r / \sigma)^n$ where $r < \sigma$, else 0."""
    overlap = 1.0 - r / sigma
    touching = overlap > 0.0
    overlap = jnp.where(touching, overlap, jnp.ones_like(overlap))
    return jnp.where(touching, epsilon / exponent * overlap**exponent, jnp.zeros_like(overlap))
