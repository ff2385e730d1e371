"""Constant temperature by stochastic velocity rescaling: one random factor for all momenta."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import Neighbors
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.constraints import degrees_of_freedom
from jaxmlip.simulate.integrator import TIME, AbstractIntegrator, check_momenta, check_positive, check_temperature
from jaxmlip.simulate.nvt import Heat, middle_step
from jaxmlip.simulate.schedule import Target, as_target, first, now
from jaxmlip.simulate.state import State, replace
from jaxmlip.system import System

PERIOD = "Å·sqrt(u/eV); enter as `100 * units.fs`"  # the unit of the period of a thermostat, for messages


class AbstractRescaling(AbstractIntegrator):
    """A thermostat that multiplies all momenta by one number, with zero total momentum (3N - 3 degrees of freedom)."""

    temperature: eqx.AbstractVar[Target]
    obeys_constraints: ClassVar[bool] = True

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + kinetic_energy(state.momenta, state.system.masses) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=True)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Heat:
        check_momenta(system)
        return Heat(jnp.zeros((), system.positions.dtype))

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)


class CSVR(AbstractRescaling):
    r"""Canonical sampling through velocity rescaling, with zero total momentum (3N - 3 degrees of freedom).

    `timestep` and `period` of the thermostat [time unit], `temperature` [K] (or a schedule). Dynamics are disturbed
    far less than by `Langevin`: the kinetic energy relaxes with `period`, and only its total is touched. The rescaling
    stands in the middle of a velocity Verlet step.

    **Reference:** Bussi, Donadio & Parrinello, J. Chem. Phys. 101, 014101 (2007), doi:10.1063/1.2408420.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("period", PERIOD, self.period)
        check_temperature(self.temperature)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw = jax.random.split(state.key)
        kT = units.kB * now(self.temperature, self.timestep, state)
        dof = self.degrees_of_freedom(state.system)
        decay = (self.timestep / self.period).astype(kT.dtype)

        def bath(momenta):
            kinetic = kinetic_energy(momenta, state.system.masses)
            factor = rescaling(kinetic, dof, kT, decay, draw)
            return factor * momenta, (1.0 - factor**2) * kinetic

        state, heat = middle_step(energy, state, self.timestep, bath)
        return replace(state, key=key, bath=Heat(state.bath.heat + heat))


def rescaling(
    kinetic: Float[Array, ""], dof: int, kT: Float[Array, ""], decay: Float[Array, ""], key: PRNGKeyArray
) -> Float[Array, ""]:
    r"""The factor for the momenta of `dof` degrees of freedom with a `kinetic` energy [eV], for `decay` $= t/\tau$.

    With $c = e^{-t/\tau}$ and normal deviates $R_i$, the exact solution of the stochastic equation for $K$ is
    $K' = (\sqrt{c K} + \sqrt{(1-c) k_B T / 2}\, R_1)^2 + (1-c) \frac{k_B T}{2} \sum_{i=2}^f R_i^2$. The factor
    $\sqrt{K'/K}$ has the sign of the bracket. Momenta at rest have no direction and stay at rest.
    """
    noise = jax.random.normal(key, (dof,), kinetic.dtype)
    width = -0.5 * kT * jnp.expm1(-decay)
    along = jnp.sqrt(jnp.exp(-decay) * kinetic) + jnp.sqrt(width) * noise[0]
    after = along**2 + width * jnp.sum(noise[1:] ** 2)
    moving = kinetic > 0
    size = jnp.sqrt(after / jnp.where(moving, kinetic, 1.0))
    return jnp.where(moving, jnp.where(along < 0, -size, size), 1.0)
