"""The largest Lyapunov exponent: how fast nearby trajectories part."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, hessian_vector_product
from jaxmlip.graph.neighbors import grow, to_graph
from jaxmlip.observables.statistics import Estimate, block_average
from jaxmlip.simulate.integrator import TIME, check_positive
from jaxmlip.simulate.nve import verlet_step
from jaxmlip.simulate.state import State, replace


class Tangent(eqx.Module):
    """A small deviation from a trajectory, in positions, momenta and forces (the derivative of each along it)."""

    positions: Float[Array, "atoms 3"]
    momenta: Float[Array, "atoms 3"]
    forces: Float[Array, "atoms 3"]


def lyapunov(
    energy: AbstractEnergy,
    state: State,
    *,
    timestep: float | Float[Array, ""],
    key: PRNGKeyArray,
    steps: int = 2000,
    every: int = 10,
    discard: float = 0.25,
) -> Estimate:
    r"""Largest Lyapunov exponent of Newton's equations from an equilibrated `state` [1/time unit].

    A random deviation follows the linearised dynamics for `steps` (one Hessian-vector product each) and is brought
    back to length 1 each `every` steps; the exponent is the mean of the logarithms of its growth, without the first
    part `discard`, in which it turns to the fastest direction. The error is that of ten block means. Lengths are
    $\sum_i m_i \delta r_i^2 + \delta p_i^2 / m_i$ in internal units.

    **Raises:** `ValueError` for constraints, and fewer than ten growths after `discard`.

    **Reference:** Benettin, Galgani & Strelcyn, Phys. Rev. A 14, 2338 (1976), doi:10.1103/PhysRevA.14.2338.
    """
    check_positive("timestep", TIME, timestep)
    if state.system.constraints is not None:
        raise ValueError("The tangent of dynamics with constraints is not known here: take them off.")
    growths = steps // every
    kept = growths - int(discard * growths)
    if not 0.0 <= discard < 1.0 or kept < 10:
        raise ValueError(
            f"`steps={steps}`, `every={every}` and `discard={discard}` leave {kept} growths; ten or more are needed."
        )
    dt = jnp.asarray(timestep, state.momenta.dtype)
    while True:
        logs, last = _growth(energy, state, dt, key, growths, every)
        if not bool(last.neighbors.failed):
            break
        state = replace(state, neighbors=grow(last.neighbors, state.system, kept=state.neighbors))
    rates = np.asarray(logs, np.float64)[growths - kept :] / (every * float(dt))
    if not np.all(np.isfinite(rates)):
        raise ValueError(
            "The deviation became zero or not finite: look at the timestep and at the forces of the state."
        )
    return block_average(rates, 10)


def lyapunov_time(exponent: Estimate | float) -> float:
    """How long a deviation takes to grow by e [ps]; infinite where it does not grow."""
    value = exponent.value if isinstance(exponent, Estimate) else exponent
    return float("inf") if value <= 0 else 1.0 / (value * units.ps)


@Compiled
def _growth(energy, state, dt, key, growths: int, every: int) -> tuple[Array, State]:
    """Logarithms of the growth of a random deviation, and the last state."""
    masses = state.system.masses

    def step(carry, _):
        state, tangent = carry
        momenta = tangent.momenta + 0.5 * dt * tangent.forces
        positions = tangent.positions + dt * momenta / masses[:, None]
        state = verlet_step(energy, state, dt)
        forces = _force_along(energy, state, positions)
        return (state, Tangent(positions, momenta + 0.5 * dt * forces, forces)), None

    def growth(carry, _):
        (state, tangent), _ = lax.scan(step, carry, None, length=every)
        length = _length(tangent, masses)
        return (state, jax.tree.map(lambda x: x / length, tangent)), jnp.log(length)

    draws = jax.random.normal(key, (2, *state.momenta.shape), state.momenta.dtype)
    tangent = Tangent(draws[0], draws[1] - jnp.mean(draws[1], axis=0, keepdims=True), jnp.zeros_like(draws[0]))
    length = _length(tangent, masses)
    positions, momenta = tangent.positions / length, tangent.momenta / length
    tangent = Tangent(positions, momenta, _force_along(energy, state, positions))
    (state, _), logs = lax.scan(growth, (state, tangent), None, length=growths)
    return logs, state


def _force_along(energy: AbstractEnergy, state: State, positions: Array) -> Array:
    product = hessian_vector_product(energy, to_graph(state.neighbors, state.system), positions)
    return -product.astype(positions.dtype)


def _length(tangent: Tangent, masses: Array) -> Array:
    squares = masses[:, None] * tangent.positions**2 + tangent.momenta**2 / masses[:, None]
    return jnp.sqrt(jnp.sum(squares))
