"""Instantaneous thermodynamics from arrays: kinetic energy, temperature, pressure."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip import units


def kinetic_energy(momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms"]) -> Float[Array, ""]:
    r"""Kinetic energy $\sum_i p_i^2 / 2 m_i$ [eV]."""
    return 0.5 * jnp.sum(momenta * momenta / masses[:, None])


def kinetic_flux(momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms"]) -> Float[Array, "3 3"]:
    r"""What moving atoms carry through space: $\sum_i p_i p_i^T / m_i$ [eV], twice the kinetic energy by direction."""
    return jnp.sum(momenta[:, :, None] * momenta[:, None, :] / masses[:, None, None], axis=0)


def temperature(
    momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms"], degrees_of_freedom: int
) -> Float[Array, ""]:
    r"""Kinetic temperature $2 K / (f k_B)$ [K], $f$ being the `degrees_of_freedom` that carry kinetic energy.

    $f = 3N - 3$ where the total momentum is conserved and zero (NVE, Nosé-Hoover), $3N$ where a thermostat moves the
    center of mass too (Langevin). Zero degrees of freedom have no temperature: the result is 0.
    """
    if degrees_of_freedom < 1:
        return jnp.zeros((), momenta.dtype)
    return kinetic_energy(momenta, masses) * (2.0 / (degrees_of_freedom * units.kB))


def pressure_tensor(
    stress: Float[Array, "3 3"],
    momenta: Float[Array, "atoms 3"],
    masses: Float[Array, "atoms"],
    volume: Float[Array, ""],
) -> Float[Array, "3 3"]:
    r"""Instantaneous pressure $\frac{1}{V} \sum_i p_i p_i^T / m_i - \sigma$ [eV/Å³], compression positive.

    `stress` is that of the potential energy (tension positive).
    """
    return kinetic_flux(momenta, masses) / volume - stress


def pressure(
    stress: Float[Array, "3 3"],
    momenta: Float[Array, "atoms 3"],
    masses: Float[Array, "atoms"],
    volume: Float[Array, ""],
) -> Float[Array, ""]:
    r"""Instantaneous pressure $2 K / 3 V - \mathrm{tr}(\sigma) / 3$ [eV/Å³]."""
    return (2.0 * kinetic_energy(momenta, masses) / volume - jnp.trace(stress)) / 3.0
