"""Constant temperature: Langevin dynamics (BAOAB) and Nosé-Hoover chains."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import Neighbors
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.chain import Chain, advance_chain, chain_at_rest, chain_energy, chain_masses, check_chain
from jaxmlip.simulate.constraints import degrees_of_freedom, project
from jaxmlip.simulate.integrator import TIME, AbstractIntegrator, check_momenta, check_positive, check_temperature
from jaxmlip.simulate.nve import drift, first_kick, last_kick, verlet_step
from jaxmlip.simulate.schedule import Target, as_target, first, now
from jaxmlip.simulate.state import State, replace
from jaxmlip.system import System


class Heat(eqx.Module):
    """Energy [eV] that has gone from the atoms to a stochastic bath."""

    heat: Float[Array, ""]


class Langevin(AbstractIntegrator):
    """Langevin dynamics by the BAOAB splitting; all 3N degrees of freedom are thermalized, the center of mass too.

    `timestep` and 1/`friction` [time unit: `0.5 * units.fs`, `0.01 / units.fs`], `temperature` [K] (or a schedule).

    **Reference:** Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010. Conserved
    energy: Bussi & Parrinello, Phys. Rev. E 75, 056707 (2007), doi:10.1103/PhysRevE.75.056707.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    friction: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    obeys_constraints: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("friction", "1/time; enter as `0.01 / units.fs`", self.friction)
        check_temperature(self.temperature)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw = jax.random.split(state.key)
        target = now(self.temperature, self.timestep, state)
        state, heat = langevin_step(energy, state, self.timestep, target, self.friction, draw)
        return replace(state, key=key, bath=Heat(state.bath.heat + heat))

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + kinetic_energy(state.momenta, state.system.masses) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=False)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Heat:
        return Heat(jnp.zeros((), system.positions.dtype))

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)


def langevin_step(
    energy: AbstractEnergy,
    state: State,
    timestep: Float[Array, ""],
    temperature: Float[Array, ""],
    friction: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[State, Float[Array, ""]]:
    """One BAOAB step with noise from `key`: the state, its own key and bath untouched, and the heat given off [eV]."""

    def bath(momenta):
        return thermalize(momenta, state.system.masses, temperature, friction * timestep, key)

    return middle_step(energy, state, timestep, bath)


def middle_step(
    energy: AbstractEnergy,
    state: State,
    timestep: Float[Array, ""],
    bath: Callable[[Float[Array, "atoms 3"]], tuple[Float[Array, "atoms 3"], Float[Array, ""]]],
) -> tuple[State, Float[Array, ""]]:
    """A step with the thermostat in its middle: half a kick, half a drift, `bath`, half a drift, half a kick.

    `bath` takes momenta to other momenta and the heat [eV] that they have given off, which is returned with the state.
    """
    dt = timestep.astype(state.momenta.dtype)
    state = drift(first_kick(state, dt), 0.5 * dt)
    momenta, heat = bath(state.momenta)
    kept = project(state.system, momenta)
    if state.system.constraints is not None:  # what constraints take from the noise was never given off
        heat = heat + kinetic_energy(momenta, state.system.masses) - kinetic_energy(kept, state.system.masses)
    state = drift(replace(state, momenta=kept), 0.5 * dt)
    return last_kick(energy, state, dt), heat


def thermalize(
    momenta: Float[Array, "atoms 3"],
    masses: Float[Array, "atoms"],
    temperature: Float[Array, ""],
    decay: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Float[Array, "atoms 3"], Float[Array, ""]]:
    r"""The exact Ornstein-Uhlenbeck step $p \to e^{-c} p + \sqrt{m k_B T (1 - e^{-2c})}\, \xi$ with $c$ = `decay`.

    Returns the momenta and the heat [eV] given to the bath.
    """
    dtype = momenta.dtype
    decay = decay.astype(dtype)
    width = jnp.sqrt(masses * (units.kB * temperature.astype(dtype)) * -jnp.expm1(-2.0 * decay))
    noise = jax.random.normal(key, momenta.shape, dtype)
    after = jnp.exp(-decay) * momenta + width[:, None] * noise
    return after, kinetic_energy(momenta, masses) - kinetic_energy(after, masses)


class NoseHoover(AbstractIntegrator):
    """Nosé-Hoover chains: deterministic, time-reversible canonical dynamics with zero total momentum (3N - 3).

    `timestep` and `period` of the thermostat [time unit], `temperature` [K] (or a schedule). `chain` thermostats (two
    at least: one alone is not ergodic), advanced in `substeps` of Suzuki-Yoshida `order` 1 or 3.

    **Reference:** Martyna, Klein & Tuckerman, J. Chem. Phys. 97, 2635 (1992), doi:10.1063/1.463940; Martyna,
    Tuckerman, Tobias & Klein, Mol. Phys. 87, 1117 (1996). Checked against `jax_md.simulate.nvt_nose_hoover`, whose
    thermostat counts 3N degrees of freedom and so runs 3N/(3N - 3) too hot.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    chain: int = eqx.field(static=True, default=3)
    substeps: int = eqx.field(static=True, default=2)
    order: int = eqx.field(static=True, default=3)
    obeys_constraints: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("period", TIME, self.period)
        check_positive("temperature", "K", self.temperature)
        check_temperature(self.temperature)
        check_chain(self.chain, self.substeps, self.order)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        state = self._thermostat(state)
        _, _, before = self._parameters(state)
        state = verlet_step(energy, state, self.timestep)
        _, _, after = self._parameters(state)
        # Where the target has changed, so have the masses of the chain: what they gain is not of the atoms.
        gain = chain_energy(state.bath, before) - chain_energy(state.bath, after)
        chain = Chain(state.bath.positions, state.bath.momenta, state.bath.heat + gain)
        return self._thermostat(replace(state, bath=chain))

    def conserved(self, state: State) -> Float[Array, ""]:
        _, _, masses = self._parameters(state)
        kinetic = kinetic_energy(state.momenta, state.system.masses)
        return state.energy + kinetic + chain_energy(state.bath, masses)

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=True)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Chain:
        check_momenta(system)
        return chain_at_rest(self.chain, system.positions.dtype)

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)

    def _parameters(self, state: State) -> tuple[float, Float[Array, ""], Float[Array, "chain"]]:
        """Degrees of freedom, kT [eV] and the masses of the thermostats [eV·time²] at the time of `state`."""
        dof = float(self.degrees_of_freedom(state.system))
        kT = units.kB * now(self.temperature, self.timestep, state)
        return dof, kT, chain_masses(state.bath, dof, kT, self.period)

    def _thermostat(self, state: State) -> State:
        """Half a time step of the chain: scales the momenta."""
        dof, kT, masses = self._parameters(state)
        twice_kinetic = 2.0 * kinetic_energy(state.momenta, state.system.masses)
        scale, chain = advance_chain(
            state.bath,
            masses,
            twice_kinetic,
            dof,
            kT,
            self.timestep.astype(kT.dtype),
            substeps=self.substeps,
            order=self.order,
        )
        return replace(state, momenta=scale * state.momenta, bath=chain)
