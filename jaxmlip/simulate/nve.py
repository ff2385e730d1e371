"""Newton's equations by velocity Verlet: constant number, volume and energy."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import Neighbors, update
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.constraints import degrees_of_freedom, move, project
from jaxmlip.simulate.integrator import TIME, AbstractIntegrator, check_positive
from jaxmlip.simulate.state import State, evaluate, replace, with_positions
from jaxmlip.system import System


class NVE(AbstractIntegrator):
    """Velocity Verlet with a `timestep` [time unit; enter as `0.5 * units.fs`].

    **Reference:** Swope, Andersen, Berens & Wilson, J. Chem. Phys. 76, 637 (1982), doi:10.1063/1.442716.
    Checked against `jax_md.simulate.nve`.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    obeys_constraints: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        return verlet_step(energy, state, self.timestep)

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + kinetic_energy(state.momenta, state.system.masses)

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=True)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> None:
        return None

    def start_temperature(self) -> None:
        return None


def verlet_step(energy: AbstractEnergy, state: State, timestep: Float[Array, ""]) -> State:
    """Half a kick, a drift, half a kick with the new forces; the step counter goes up by one."""
    dt = timestep.astype(state.momenta.dtype)
    state = drift(first_kick(state, dt), dt)
    return last_kick(energy, state, dt)


def first_kick(state: State, dt: Float[Array, ""]) -> State:
    """The start of a step of `dt`: half a kick by the forces at hand, within the constraints."""
    return replace(state, momenta=project(state.system, kick(state.momenta, state.forces, 0.5 * dt)))


def last_kick(energy: AbstractEnergy, state: State, dt: Float[Array, ""]) -> State:
    """The end of a step of `dt`: the forces where the atoms have come to, half a kick by them, and the counter."""
    neighbors, value, forces = refresh(energy, state.neighbors, state.system)
    return replace(
        state,
        momenta=project(state.system, kick(state.momenta, forces, 0.5 * dt)),
        energy=value,
        forces=forces,
        neighbors=neighbors,
        step=state.step + 1,
    )


def kick(
    momenta: Float[Array, "atoms 3"], forces: Float[Array, "atoms 3"], dt: Float[Array, ""]
) -> Float[Array, "atoms 3"]:
    r"""Momenta after a time `dt` of constant forces, $p + F dt$."""
    return momenta + dt * forces


def drift(state: State, dt: Float[Array, ""]) -> State:
    r"""A time `dt` of free flight, $r + p / m \, dt$, within the constraints, with compensated summation.

    What rounding keeps from the positions is added to the next move. Without it the roundings of float32, 5e-7 Å each
    against moves of 5e-3 Å, add up to a random walk of the energy.

    **Reference:** Kahan, Commun. ACM 8, 40 (1965), doi:10.1145/363707.363723.
    """
    system, before = state.system, state.system.positions
    if system.constraints is None or not len(system.constraints.pairs):
        way = dt * state.momenta / system.masses[:, None] + state.rest
        after = before + way
        return replace(state, system=with_positions(system, after), rest=way - (after - before))
    way, momenta = move(system, state.momenta, state.rest, dt)
    after = before + way
    there = with_positions(system, after)
    return replace(state, system=there, momenta=project(there, momenta), rest=way - (after - before))


def refresh(
    energy: AbstractEnergy, neighbors: Neighbors, system: System
) -> tuple[Neighbors, Float[Array, ""], Float[Array, "atoms 3"]]:
    """The neighbor list brought up to date where its skin asks for it, and the energy and forces there."""
    neighbors = update(neighbors, system)
    value, forces = evaluate(energy, system, neighbors)
    return neighbors, value, forces
