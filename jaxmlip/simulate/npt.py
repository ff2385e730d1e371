"""Constant temperature and pressure: Langevin dynamics with a stochastic barostat on any part of the cell."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces_virial
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import to_graph, update
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.integrator import AbstractIntegrator, check_positive, check_temperature
from jaxmlip.simulate.nvt import langevin_step
from jaxmlip.simulate.state import State, evaluate, replace, with_cell
from jaxmlip.system import System

_TIME = "Å·sqrt(u/eV); enter as `0.5 * units.fs`"
SHAPES = ("isotropic", "anisotropic", "triclinic")


class Barostat(eqx.Module):
    """The mobility of the cell [1/(eV·time)], and the energy [eV] given to thermostat and barostat."""

    mobility: Float[Array, ""]
    heat: Float[Array, ""]


class NPT(AbstractIntegrator):
    r"""Langevin dynamics (BAOAB) in a cell that follows stochastic cell rescaling.

    `timestep`, 1/`friction`, `period` of the barostat [time unit: `0.5 * units.fs`, `0.01 / units.fs`, `1 * units.ps`];
    `temperature` [K]; `pressure` [eV/Å³: `1 * units.GPa`]; `compressibility` [Å³/eV: `0.02 / units.GPa`], a guess that
    sets the speed of the cell together with `period`, and no average. `shape` says what may change: the volume
    (`"isotropic"`), the extent along x, y and z (`"anisotropic"`), or everything but the orientation (`"triclinic"`).
    The cell moves every `every` steps; each move costs one more evaluation of the energy.

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
    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    friction: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    pressure: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    compressibility: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.02 / units.GPa)
    shape: str = eqx.field(static=True, default="isotropic")
    every: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_positive("timestep", _TIME, self.timestep)
        check_positive("friction", "1/time; enter as `0.01 / units.fs`", self.friction)
        check_positive("period", _TIME, self.period)
        check_positive("compressibility", "Å³/eV; enter as `0.02 / units.GPa`", self.compressibility)
        check_positive("temperature", "K", self.temperature)
        check_temperature(self.temperature)
        if self.shape not in SHAPES:
            raise ValueError(f"`shape` must be one of {SHAPES}; got {self.shape!r}.")
        if self.every < 1:
            raise ValueError(f"`every` must be at least 1 step; got {self.every}.")

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw, shake = jax.random.split(state.key, 3)
        state, heat = langevin_step(energy, state, self.timestep, self.temperature, self.friction, draw)
        state = replace(state, key=key, bath=Barostat(state.bath.mobility, state.bath.heat + heat))
        if self.every == 1:
            return self._move(energy, state, shake)
        due = state.step % self.every == 0
        return lax.cond(due, lambda s, k: self._move(energy, s, k), lambda s, k: s, state, shake)

    def conserved(self, state: State) -> Float[Array, ""]:
        return self._enthalpy(state) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return 3 * len(system.numbers)

    def bath(self, system: System) -> Barostat:
        if not all(system.pbc):
            raise ValueError(f"A barostat needs a cell that is periodic in all directions; `pbc` is {system.pbc}.")
        volume = system.volume()
        rate = self.compressibility / (3.0 * self.period)
        return Barostat(rate.astype(volume.dtype) / volume, jnp.zeros_like(volume))

    def start_temperature(self) -> Float[Array, ""]:
        return self.temperature

    def _enthalpy(self, state: State) -> Float[Array, ""]:
        system = state.system
        work = self.pressure.astype(state.energy.dtype) * system.volume()
        return state.energy + kinetic_energy(state.momenta, system.masses) + work

    def _move(self, energy: AbstractEnergy, state: State, key: PRNGKeyArray) -> State:
        """One move of the cell, with everything in it."""
        system = state.system
        strain = self._strain(energy, state, key)
        grown, shrunk = exponential(strain), exponential(-strain)
        if self.shape == "triclinic":
            turn = _turn_back(system.cell, product(system.cell, grown))
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
        heat = self._enthalpy(state) - self._enthalpy(moved)
        return replace(moved, bath=Barostat(state.bath.mobility, state.bath.heat + heat))

    def _strain(self, energy: AbstractEnergy, state: State, key: PRNGKeyArray) -> Float[Array, "3 3"]:
        """The symmetric logarithm of the next move."""
        system, p = state.system, state.momenta
        dtype = p.dtype
        _, _, virial = energy_forces_virial(energy, to_graph(state.neighbors, system))
        kT = units.kB * self.temperature.astype(dtype)
        flux = jnp.sum(p[:, :, None] * p[:, None, :] / system.masses[:, None, None], axis=0) + virial[0].astype(dtype)
        eye = jnp.eye(3, dtype=dtype)
        push = flux + (kT - self.pressure.astype(dtype) * system.volume()) * eye
        rate = state.bath.mobility * (self.every * self.timestep.astype(dtype))
        noise = jax.random.normal(key, (3, 3), dtype)
        noise = 0.5 * (noise + noise.T)  # variance 1 on the diagonal, 1/2 beside it: unit variance along each direction
        return _restrict(rate * push + jnp.sqrt(2.0 * kT * rate) * noise, self.shape)


def _restrict(strain: Float[Array, "3 3"], shape: str) -> Float[Array, "3 3"]:
    """The part of a symmetric strain that the shape may follow (an orthogonal projection)."""
    eye = jnp.eye(3, dtype=strain.dtype)
    if shape == "isotropic":
        return jnp.trace(strain) / 3.0 * eye
    return strain * eye if shape == "anisotropic" else strain


def exponential(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Matrix exponential by scaling (2⁻⁶), a Taylor series of ten terms, and squaring; full precision on any device."""
    scaled = matrix / 64.0
    eye = jnp.eye(3, dtype=matrix.dtype)
    result = eye
    for order in range(10, 0, -1):
        result = eye + product(scaled, result) / order
    for _ in range(6):
        result = product(result, result)
    return result


def _turn_back(before: Float[Array, "3 3"], after: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The rotation (for row vectors) that gives `after` the orientation of `before`."""
    return product(_frame(after).T, _frame(before))


def _frame(cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Orthonormal rows: along the first lattice vector, in the plane of the first two, and normal to it."""
    a = cell[0] / jnp.sqrt(jnp.sum(cell[0] ** 2))
    c = jnp.cross(cell[0], cell[1])
    c = c / jnp.sqrt(jnp.sum(c * c))
    return jnp.stack([a, jnp.cross(c, a), c])
