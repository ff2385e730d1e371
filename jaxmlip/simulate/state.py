"""State: everything a restart needs; and the first momenta."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces, energy_forces_virial
from jaxmlip.graph.neighbors import Neighbors, to_graph
from jaxmlip.system import System


class State(eqx.Module):
    """One system in motion: a pytree from which a run continues to the bit.

    `energy` [eV] and `forces` [eV/Å] belong to `system`; `momenta` [u·Å/time unit]; `neighbors` is the list in use;
    `rest` [Å] is what the positions lack by rounding; `bath` holds the variables of a thermostat or barostat (`None`
    without).
    """

    system: System
    momenta: Float[Array, "atoms 3"]
    energy: Float[Array, ""]
    forces: Float[Array, "atoms 3"]
    neighbors: Neighbors
    key: PRNGKeyArray
    step: Int[Array, ""]
    rest: Float[Array, "atoms 3"]
    bath: Any = None


def replace(state: State, **changes: Any) -> State:
    """The same state with some fields changed."""
    names = tuple(changes)
    return eqx.tree_at(
        lambda s: tuple(getattr(s, name) for name in names),
        state,
        tuple(changes.values()),
        is_leaf=lambda x: x is None,
    )


def with_positions(system: System, positions: Float[Array, "atoms 3"]) -> System:
    """The same system with the atoms elsewhere."""
    return eqx.tree_at(lambda s: s.positions, system, positions)


def with_cell(system: System, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]) -> System:
    """The same atoms elsewhere, in another cell."""
    return eqx.tree_at(lambda s: (s.positions, s.cell), system, (positions, cell))


def evaluate(
    energy: AbstractEnergy, system: System, neighbors: Neighbors
) -> tuple[Float[Array, ""], Float[Array, "atoms 3"]]:
    """Energy [eV] and forces [eV/Å] of one system with the list at hand."""
    energies, forces = energy_forces(energy, to_graph(neighbors, system))
    dtype = system.positions.dtype
    return energies[0].astype(dtype), forces.astype(dtype)


def evaluate_virial(
    energy: AbstractEnergy, system: System, neighbors: Neighbors
) -> tuple[Float[Array, ""], Float[Array, "atoms 3"], Float[Array, "3 3"]]:
    """Energy [eV], forces [eV/Å] and virial [eV] of one system with the list at hand."""
    energies, forces, virial = energy_forces_virial(energy, to_graph(neighbors, system))
    dtype = system.positions.dtype
    return energies[0].astype(dtype), forces.astype(dtype), virial[0].astype(dtype)


def thermal_momenta(
    key: PRNGKeyArray, masses: Float[Array, "atoms"], temperature: float | Float[Array, ""]
) -> Float[Array, "atoms 3"]:
    """Momenta drawn from the Maxwell-Boltzmann distribution at `temperature` [K]; all 3N degrees of freedom."""
    width = jnp.sqrt(masses * jnp.asarray(units.kB * temperature, masses.dtype))
    return width[:, None] * jax.random.normal(key, (len(masses), 3), masses.dtype)


def without_drift(momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms"]) -> Float[Array, "atoms 3"]:
    """The same momenta seen from the center of mass: their sum is zero."""
    velocity = jnp.sum(momenta, axis=0) / jnp.sum(masses)
    return momenta - masses[:, None] * velocity[None, :]
