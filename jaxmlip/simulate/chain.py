"""Nosé-Hoover chains: the thermostat of `NoseHoover`, and the two of `MTK`."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

# Suzuki-Yoshida weights of fourth order; their sum is 1.
_WEIGHT = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
YOSHIDA = {1: (1.0,), 3: (_WEIGHT, 1.0 - 2.0 * _WEIGHT, _WEIGHT)}


class Chain(eqx.Module):
    r"""Positions and momenta [eV·time] of the thermostats of a chain, and the `heat` [eV] in their positions.

    $\int k_B T (f\, dx_1 + \sum_{i > 1} dx_i)$, which follows a target temperature that changes.
    """

    positions: Float[Array, "chain"]
    momenta: Float[Array, "chain"]
    heat: Float[Array, ""]


def check_chain(chain: int, substeps: int, order: int) -> None:
    """Refuse chains that are not ergodic and integrators of an unknown order.

    **Raises:** `ValueError` saying what is allowed.
    """
    if chain < 2 or substeps < 1 or order not in YOSHIDA:
        raise ValueError(
            "A Nosé-Hoover chain needs `chain` >= 2, `substeps` >= 1 and `order` 1 or 3; got "
            f"{chain}, {substeps}, {order}."
        )


def chain_at_rest(length: int, dtype) -> Chain:
    """A chain that has exchanged nothing yet."""
    zero = jnp.zeros(length, dtype)
    return Chain(zero, zero, jnp.zeros((), dtype))


def chain_masses(chain: Chain, dof: float, kT: Float[Array, ""], period: Float[Array, ""]) -> Float[Array, "chain"]:
    r"""Masses of the thermostats [eV·time²]: $f k_B T \tau^2$ for the first, $k_B T \tau^2$ for the others."""
    weights = jnp.asarray([dof] + [1.0] * (len(chain.positions) - 1), kT.dtype)
    return weights * (kT * period.astype(kT.dtype) ** 2)


def chain_energy(chain: Chain, masses: Float[Array, "chain"]) -> Float[Array, ""]:
    """Energy of a chain [eV], what it has taken from the atoms included."""
    return jnp.sum(chain.momenta**2 / (2.0 * masses)) + chain.heat


def advance_chain(
    chain: Chain,
    masses: Float[Array, "chain"],
    twice_kinetic: Float[Array, ""],
    dof: float,
    kT: Float[Array, ""],
    dt: Float[Array, ""],
    *,
    substeps: int,
    order: int,
) -> tuple[Float[Array, ""], Chain]:
    """Half of `dt` of a chain that heats or cools `dof` degrees of freedom, whose kinetic energy is half of
    `twice_kinetic` [eV]: the factor for their momenta, and the chain afterwards."""
    length = len(chain.positions)
    x = [chain.positions[i] for i in range(length)]
    p = [chain.momenta[i] for i in range(length)]
    q = [masses[i] for i in range(length)]
    scale = jnp.ones((), kT.dtype)
    for weight in YOSHIDA[order] * substeps:
        delta = (weight / substeps) * dt
        factor = _step(x, p, q, twice_kinetic, dof, kT, delta)
        twice_kinetic = twice_kinetic * factor * factor
        scale = scale * factor
    positions = jnp.stack(x)
    moved = positions - chain.positions
    heat = chain.heat + kT * (dof * moved[0] + jnp.sum(moved[1:]))
    return scale, Chain(positions, jnp.stack(p), heat)


def _step(x: list, p: list, q: list, twice_kinetic, dof: float, kT, delta):
    """Advance the chain (lists changed in place) by half of `delta`; returns the factor for the momenta."""

    def force(i, twice_kinetic):
        return twice_kinetic - dof * kT if i == 0 else p[i - 1] ** 2 / q[i - 1] - kT

    last = len(p) - 1
    p[last] = p[last] + 0.25 * delta * force(last, twice_kinetic)
    for i in range(last - 1, -1, -1):
        damp = jnp.exp(-0.125 * delta * p[i + 1] / q[i + 1])
        p[i] = damp * (damp * p[i] + 0.25 * delta * force(i, twice_kinetic))
    factor = jnp.exp(-0.5 * delta * p[0] / q[0])
    for i in range(last + 1):
        x[i] = x[i] + 0.5 * delta * p[i] / q[i]
    twice_kinetic = twice_kinetic * factor * factor
    for i in range(last):
        damp = jnp.exp(-0.125 * delta * p[i + 1] / q[i + 1])
        p[i] = damp * (damp * p[i] + 0.25 * delta * force(i, twice_kinetic))
    p[last] = p[last] + 0.25 * delta * force(last, twice_kinetic)
    return factor
