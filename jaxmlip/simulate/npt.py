"""Constant temperature and pressure: Langevin dynamics with a stochastic barostat on any part of the cell."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import Neighbors, update
from jaxmlip.observables.thermo import kinetic_energy, kinetic_flux
from jaxmlip.simulate.integrator import TIME, AbstractIntegrator, check_finite_target, check_positive, check_temperature
from jaxmlip.simulate.nvt import langevin_step
from jaxmlip.simulate.schedule import Target, as_target, first, now
from jaxmlip.simulate.state import State, evaluate, evaluate_virial, replace, with_cell
from jaxmlip.simulate.strain import check_periodic, check_shape, exponential, restrict, turn_back
from jaxmlip.system import System


class Barostat(eqx.Module):
    """The mobility of the cell [1/(eV·time)], and the energy [eV] given to thermostat and barostat."""

    mobility: Float[Array, ""]
    heat: Float[Array, ""]


class NPT(AbstractIntegrator):
    r"""Langevin dynamics (BAOAB) in a cell that follows stochastic cell rescaling.

    `timestep`, 1/`friction`, `period` of the barostat [time unit: `0.5 * units.fs`, `0.01 / units.fs`, `1 * units.ps`];
    `temperature` [K] and `pressure` [eV/Å³: `1 * units.GPa`], of which each may be a schedule; `compressibility`
    [Å³/eV: `0.02 / units.GPa`], a guess that sets the speed of the cell together with `period`, and no average.
    `shape` says what may change: the volume (`"isotropic"`), the extent along x, y and z (`"anisotropic"`), or
    everything but the orientation (`"triclinic"`). The cell moves every `every` steps; each move costs one more
    evaluation of the energy.

    A move is $x \to x e^{S}$, $h \to h e^{S}$, $p \to p e^{-S}$ for positions, cell (rows) and momenta, with a
    symmetric $S = \mu \tau [V (\Pi - P) + k_B T] + \sqrt{2 \mu k_B T \tau}\, \xi$, restricted to `shape`. $\Pi$ is the
    instantaneous pressure tensor, $\tau$ the time since the last move, and the mobility
    $\mu = \kappa / (3 V_0 t_P)$ is constant. With this (additive, on the group of cells) noise the stationary density
    is $e^{-\beta (K + U + P V)} V$ against the invariant measure of the group, for each `shape` that of the volume is
    $V^N e^{-\beta P V}$ for an ideal gas. A triclinic cell is turned back after each move: its first vector keeps its
    direction, the first two keep their plane.

    **Reference:** Bernetti & Bussi, J. Chem. Phys. 153, 114107 (2020), doi:10.1063/5.0020514; del Tatto, Raiteri,
    Bernetti & Bussi, Appl. Sci. 12, 1139 (2022), doi:10.3390/app12031139 (there in the volume and in the cell; here in
    its logarithm, with constant mobility; `docs/decisions/0004`). Checked against the exact ideal gas.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    friction: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    pressure: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    compressibility: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.02 / units.GPa)
    shape: str = eqx.field(static=True, default="isotropic")
    every: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("friction", "1/time; enter as `0.01 / units.fs`", self.friction)
        check_positive("period", TIME, self.period)
        check_positive("compressibility", "Å³/eV; enter as `0.02 / units.GPa`", self.compressibility)
        check_positive("temperature", "K", self.temperature)
        check_temperature(self.temperature)
        check_finite_target("pressure", "eV/Å³; enter as `1 * units.GPa`", self.pressure)
        check_shape(self.shape)
        if self.every < 1:
            raise ValueError(f"`every` must be at least 1 step; got {self.every}.")

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw, shake = jax.random.split(state.key, 3)
        target = now(self.temperature, self.timestep, state)
        state, heat = langevin_step(energy, state, self.timestep, target, self.friction, draw)
        state = replace(state, key=key, bath=Barostat(state.bath.mobility, state.bath.heat + heat))
        if self.every == 1:
            return self._move(energy, state, shake)
        due = state.step % self.every == 0
        return lax.cond(due, lambda s, k: self._move(energy, s, k), lambda s, k: s, state, shake)

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + kinetic_energy(state.momenta, state.system.masses) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return 3 * len(system.numbers)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Barostat:
        check_periodic(system.pbc)
        volume = system.volume()
        rate = self.compressibility / (3.0 * self.period)
        return Barostat(rate.astype(volume.dtype) / volume, jnp.zeros_like(volume))

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)

    def _move(self, energy: AbstractEnergy, state: State, key: PRNGKeyArray) -> State:
        """One move of the cell, with everything in it."""
        system = state.system
        strain = self._strain(energy, state, key)
        grown, shrunk = exponential(strain), exponential(-strain)
        if self.shape == "triclinic":
            turn = turn_back(system.cell, product(system.cell, grown))
            grown, shrunk = product(grown, turn), product(shrunk, turn)
        system = with_cell(system, product(system.positions, grown), product(system.cell, grown))
        neighbors = update(state.neighbors, system)
        value, forces = evaluate(energy, system, neighbors)
        moved = replace(
            state,
            system=system,
            momenta=product(state.momenta, shrunk),
            energy=value,
            forces=forces,
            neighbors=neighbors,
        )
        # Work against the pressure included, whatever it has become by now.
        heat = self.conserved(state) - self.conserved(moved)
        return replace(moved, bath=Barostat(state.bath.mobility, state.bath.heat + heat))

    def _strain(self, energy: AbstractEnergy, state: State, key: PRNGKeyArray) -> Float[Array, "3 3"]:
        """The symmetric logarithm of the next move."""
        system, p = state.system, state.momenta
        dtype = p.dtype
        _, _, virial = evaluate_virial(energy, system, state.neighbors)
        kT = units.kB * now(self.temperature, self.timestep, state)
        flux = kinetic_flux(p, system.masses) + virial
        eye = jnp.eye(3, dtype=dtype)
        push = flux + (kT - now(self.pressure, self.timestep, state) * system.volume()) * eye
        rate = state.bath.mobility * (self.every * self.timestep.astype(dtype))
        noise = jax.random.normal(key, (3, 3), dtype)
        noise = 0.5 * (noise + noise.T)  # variance 1 on the diagonal, 1/2 beside it: unit variance along each direction
        return restrict(rate * push + jnp.sqrt(2.0 * kT * rate) * noise, self.shape)
