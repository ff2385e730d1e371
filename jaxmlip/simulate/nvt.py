"""Constant temperature: Langevin dynamics (BAOAB) and Nosé-Hoover chains."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.constraints import degrees_of_freedom, project
from jaxmlip.simulate.integrator import AbstractIntegrator, check_positive, check_temperature
from jaxmlip.simulate.nve import drift, first_kick, last_kick, verlet_step
from jaxmlip.simulate.state import State, replace
from jaxmlip.system import System

_TIME = "Å·sqrt(u/eV); enter as `0.5 * units.fs`"
# Suzuki-Yoshida weights of fourth order; their sum is 1.
_WEIGHT = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_YOSHIDA = {1: (1.0,), 3: (_WEIGHT, 1.0 - 2.0 * _WEIGHT, _WEIGHT)}


class Heat(eqx.Module):
    """Energy [eV] that has gone from the atoms to a stochastic bath."""

    heat: Float[Array, ""]


class Langevin(AbstractIntegrator):
    """Langevin dynamics by the BAOAB splitting; all 3N degrees of freedom are thermalized, the center of mass too.

    `timestep` and 1/`friction` [time unit: `0.5 * units.fs`, `0.01 / units.fs`], `temperature` [K].

    **Reference:** Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010. Conserved
    energy: Bussi & Parrinello, Phys. Rev. E 75, 056707 (2007), doi:10.1103/PhysRevE.75.056707.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    friction: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    obeys_constraints: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("timestep", _TIME, self.timestep)
        check_positive("friction", "1/time; enter as `0.01 / units.fs`", self.friction)
        check_temperature(self.temperature)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw = jax.random.split(state.key)
        state, heat = langevin_step(energy, state, self.timestep, self.temperature, self.friction, draw)
        return replace(state, key=key, bath=Heat(state.bath.heat + heat))

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + kinetic_energy(state.momenta, state.system.masses) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=False)

    def bath(self, system: System) -> Heat:
        return Heat(jnp.zeros((), system.positions.dtype))

    def start_temperature(self) -> Float[Array, ""]:
        return self.temperature


def langevin_step(
    energy: AbstractEnergy,
    state: State,
    timestep: Float[Array, ""],
    temperature: Float[Array, ""],
    friction: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[State, Float[Array, ""]]:
    """One BAOAB step with noise from `key`: the state, its own key and bath untouched, and the heat given off [eV]."""
    dt = timestep.astype(state.momenta.dtype)
    state = drift(first_kick(state, dt), 0.5 * dt)
    momenta, heat = thermalize(state.momenta, state.system.masses, temperature, friction * timestep, key)
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


class Chain(eqx.Module):
    """Positions and momenta [eV·time] of the thermostats of a Nosé-Hoover chain."""

    positions: Float[Array, "chain"]
    momenta: Float[Array, "chain"]


class NoseHoover(AbstractIntegrator):
    """Nosé-Hoover chains: deterministic, time-reversible canonical dynamics with zero total momentum (3N - 3).

    `timestep` and `period` of the thermostat [time unit], `temperature` [K]. `chain` thermostats (two at least: one
    alone is not ergodic), advanced in `substeps` of Suzuki-Yoshida `order` 1 or 3.

    **Reference:** Martyna, Klein & Tuckerman, J. Chem. Phys. 97, 2635 (1992), doi:10.1063/1.463940; Martyna,
    Tuckerman, Tobias & Klein, Mol. Phys. 87, 1117 (1996). Checked against `jax_md.simulate.nvt_nose_hoover`, whose
    thermostat counts 3N degrees of freedom and so runs 3N/(3N - 3) too hot.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    chain: int = eqx.field(static=True, default=3)
    substeps: int = eqx.field(static=True, default=2)
    order: int = eqx.field(static=True, default=3)
    obeys_constraints: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("timestep", _TIME, self.timestep)
        check_positive("period", _TIME, self.period)
        check_positive("temperature", "K", self.temperature)
        check_temperature(self.temperature)
        if self.chain < 2 or self.substeps < 1 or self.order not in _YOSHIDA:
            raise ValueError(
                "A Nosé-Hoover chain needs `chain` >= 2, `substeps` >= 1 and `order` 1 or 3; got "
                f"{self.chain}, {self.substeps}, {self.order}."
            )

    def step(self, energy: AbstractEnergy, state: State) -> State:
        state = self._thermostat(state)
        state = verlet_step(energy, state, self.timestep)
        return self._thermostat(state)

    def conserved(self, state: State) -> Float[Array, ""]:
        dof, kT, masses = self._parameters(state.system)
        chain = state.bath
        bath = jnp.sum(chain.momenta**2 / (2.0 * masses)) + kT * (
            dof * chain.positions[0] + jnp.sum(chain.positions[1:])
        )
        return state.energy + kinetic_energy(state.momenta, state.system.masses) + bath

    def degrees_of_freedom(self, system: System) -> int:
        return degrees_of_freedom(system, conserves_momentum=True)

    def bath(self, system: System) -> Chain:
        if self.degrees_of_freedom(system) < 1:
            raise ValueError("Nothing is free to move relative to the center of mass: use `Langevin` for one atom.")
        zero = jnp.zeros(self.chain, system.positions.dtype)
        return Chain(zero, zero)

    def start_temperature(self) -> Float[Array, ""]:
        return self.temperature

    def _parameters(self, system: System) -> tuple[float, Float[Array, ""], Float[Array, "chain"]]:
        """Degrees of freedom, kT [eV] and the masses of the thermostats [eV·time²]."""
        dtype = system.positions.dtype
        dof = float(self.degrees_of_freedom(system))
        kT = units.kB * self.temperature.astype(dtype)
        weights = jnp.asarray([dof] + [1.0] * (self.chain - 1), dtype)
        return dof, kT, weights * (kT * self.period.astype(dtype) ** 2)

    def _thermostat(self, state: State) -> State:
        """Half a time step of the chain: scales the momenta."""
        dof, kT, masses = self._parameters(state.system)
        dt = self.timestep.astype(kT.dtype)
        twice_kinetic = 2.0 * kinetic_energy(state.momenta, state.system.masses)
        x = [state.bath.positions[i] for i in range(self.chain)]
        p = [state.bath.momenta[i] for i in range(self.chain)]
        q = [masses[i] for i in range(self.chain)]
        scale = jnp.ones((), kT.dtype)
        for weight in _YOSHIDA[self.order] * self.substeps:
            delta = (weight / self.substeps) * dt
            factor = _chain_step(x, p, q, twice_kinetic, dof, kT, delta)
            twice_kinetic = twice_kinetic * factor * factor
            scale = scale * factor
        return replace(state, momenta=scale * state.momenta, bath=Chain(jnp.stack(x), jnp.stack(p)))


def _chain_step(x: list, p: list, q: list, twice_kinetic, dof: float, kT, delta):
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
