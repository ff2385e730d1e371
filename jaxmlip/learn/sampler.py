"""State points, and equilibrium frames at them by dynamics of several replicas (host; never differentiated)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.learn.frames import Frames, make_frames
from jaxmlip.observables.static import Conditions
from jaxmlip.observables.thermo import temperature
from jaxmlip.simulate import NPT, AbstractIntegrator, Langevin, State, run
from jaxmlip.simulate.metadynamics import with_energy
from jaxmlip.simulate.state import replace, with_cell
from jaxmlip.system import System

_BOUND, _FREE = 0.3, 0.6  # cube roots of the volume of an atom: crystals melt where atoms wander by about 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class StatePoint:
    """Where and how long to sample: `temperature` [K], `pressure` [eV/Å³] (`None` keeps the cell: NVT).

    Each of `replicas` independent runs of `system` starts with `burn_in` steps of `timestep` [`2 * units.fs`] and gives
    `frames` frames, `stride` steps apart. `melt` [K] is a temperature at which it first spends as many steps as
    `burn_in`, for liquids that start from a crystal: what has not melted makes every average and gradient wrong, and
    only `split_rhat` sees it. `friction` is that of the thermostat, `barostat_period`, `compressibility` and `shape`
    are those of `simulate.NPT`.
    """

    system: System
    temperature: float
    pressure: float | None = None
    timestep: float = 1.0 * units.fs
    replicas: int = 4
    frames: int = 100
    stride: int = 50
    burn_in: int = 2000
    melt: float | None = None
    friction: float = 1.0 / units.ps
    barostat_period: float = 0.5 * units.ps
    compressibility: float = 0.02 / units.GPa
    shape: str = "isotropic"
    name: str = ""

    def __post_init__(self):
        if self.melt is not None and not self.melt > self.temperature:
            raise ValueError(f"`melt` must lie above the temperature {self.temperature} K; got {self.melt}.")
        least = {"replicas": 1, "frames": 1, "stride": 1, "burn_in": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"`{name}` must be at least {low}; got {getattr(self, name)}.")
        self.integrator()

    @property
    def ensemble(self) -> str:
        """`"nvt"` or `"npt"`."""
        return "nvt" if self.pressure is None else "npt"

    def conditions(self) -> Conditions:
        """Temperature and pressure as arrays in the type of the positions."""
        dtype = self.system.positions.dtype
        pressure = None if self.pressure is None else jnp.asarray(self.pressure, dtype)
        return Conditions(jnp.asarray(self.temperature, dtype), pressure)

    def integrator(self, temperature: float | None = None) -> AbstractIntegrator:
        """The dynamics that sample this state point; another temperature [K] for melting."""
        kelvin = self.temperature if temperature is None else temperature
        if self.pressure is None:
            return Langevin(self.timestep, kelvin, self.friction)
        cell = self.barostat_period, self.compressibility, self.shape
        return NPT(self.timestep, kelvin, self.friction, self.pressure, *cell)


def strained(point: StatePoint, strain: Float[Array, "3 3"]) -> StatePoint:
    """The same state point with its system deformed: rows `x` of positions and cell become `x (1 + strain)`."""
    system = point.system
    deform = jnp.eye(3, dtype=system.cell.dtype) + strain.astype(system.cell.dtype)
    deformed = with_cell(system, product(system.positions, deform), product(system.cell, deform))
    return dataclasses.replace(point, system=deformed)


class Health(NamedTuple):
    """Signs of dynamics gone wrong: mean `temperature` [K] of each replica, `largest_force` [eV/Å] and `closest_pair`
    [Å] in any frame; how far atoms `wander` in each replica from its first frame to its last (root mean square, in cube
    roots of the volume of an atom), NaN where space is not periodic."""

    temperature: np.ndarray
    largest_force: float
    closest_pair: float
    wander: np.ndarray

    @property
    def phase(self) -> str:
        """`"solid"`, `"liquid"`, or `""` where that cannot be told from how far atoms go."""
        if np.all(self.wander < _BOUND):
            return "solid"
        return "liquid" if np.all(self.wander > _FREE) else ""


class Samples(eqx.Module):
    """Frames of one state point under one set of parameters, replica after replica, and the states to go on from."""

    frames: Frames
    energy: AbstractEnergy
    conditions: Conditions
    replicas: int = eqx.field(static=True)
    states: tuple[State, ...] = ()
    health: Health | None = None

    def energies(self) -> np.ndarray:
        """Potential energies [replicas frames] in float64 [eV]."""
        total = np.sum(np.asarray(self.frames.atom_energies, np.float64), axis=1)
        return total.reshape(self.replicas, -1)


def sample(
    energy: AbstractEnergy,
    point: StatePoint,
    *,
    key: PRNGKeyArray,
    states: tuple[State, ...] | None = None,
) -> Samples:
    """Equilibrium frames of `point` under `energy`, one replica after another.

    `states` of earlier samples, under other parameters too, save the melting; `burn_in` steps are made all the same.

    **Raises:** `ValueError` for another number of states than replicas, and what the integrator refuses;
    `SimulationError` where a run breaks down.
    """
    if states is not None and len(states) != point.replicas:
        raise ValueError(f"There are {point.replicas} replicas, but {len(states)} states to go on from.")
    keys = jax.random.split(key, point.replicas)
    found, ends = [], []
    for i in range(point.replicas):
        state = _begin(energy, point, keys[i]) if states is None else _resumed(energy, states[i], keys[i])
        state, record = _production(energy, point, state)
        found.append(record)
        ends.append(state)
    record = _Record(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    frames = make_frames(energy, point.system, jnp.asarray(record.positions), jnp.asarray(record.cells))
    kelvin = record.temperatures.reshape(point.replicas, -1).mean(axis=1)
    wander = _wander(point, record)
    health = Health(np.asarray(kelvin, np.float64), float(record.forces.max()), float(record.distances.min()), wander)
    return Samples(frames, energy, point.conditions(), point.replicas, tuple(ends), health)


def samples_from(
    energy: AbstractEnergy,
    system: System,
    positions: Float[Array, "frames atoms 3"],
    cells: Float[Array, "frames 3 3"],
    conditions: Conditions,
    *,
    replicas: int = 1,
) -> Samples:
    """Equilibrium frames of `energy` at `conditions` that another program has made, replica after replica.

    **Raises:** `ValueError` where the frames are not a multiple of the replicas.
    """
    if len(positions) % replicas or len(cells) != len(positions):
        raise ValueError(
            f"{len(positions)} frames with {len(cells)} cells are no whole number for {replicas} replicas."
        )
    return Samples(make_frames(energy, system, positions, cells), energy, conditions, replicas)


def replicas_of(samples: Samples) -> list[Samples]:
    """Each replica as a set of its own: what they scatter by is the error of anything that is made of frames."""
    frames = samples.frames
    size = len(frames) // samples.replicas
    found = []
    for first in range(0, len(frames), size):
        part = slice(first, first + size)
        mine = Frames(
            frames.system,
            frames.positions[part],
            frames.cells[part],
            frames.atom_energies[part],
            frames.near,
            frames.far,
        )
        found.append(Samples(mine, samples.energy, samples.conditions, 1))
    return found


def joined(replicas: Sequence[Samples]) -> Samples:
    """Replicas as one set again, see `replicas_of`."""
    first = replicas[0]
    names = ("positions", "cells", "atom_energies")
    positions, cells, energies = (jnp.concatenate([getattr(s.frames, name) for s in replicas]) for name in names)
    frames = Frames(first.frames.system, positions, cells, energies, first.frames.near, first.frames.far)
    return Samples(frames, first.energy, first.conditions, sum(s.replicas for s in replicas))


class _Record(NamedTuple):
    positions: np.ndarray
    cells: np.ndarray
    temperatures: np.ndarray
    forces: np.ndarray
    distances: np.ndarray


def _wander(point: StatePoint, record: _Record) -> np.ndarray:
    """See `Health`; positions are unwrapped, and the motion of the whole does not count."""
    if not all(point.system.pbc):
        return np.full(point.replicas, np.nan)
    cells = np.asarray(record.cells, np.float64)
    fractional = np.einsum("fai,fij->faj", np.asarray(record.positions, np.float64), np.linalg.inv(cells))
    each = fractional.reshape(point.replicas, -1, *fractional.shape[1:])
    cell = cells.mean(axis=0)
    moved = (each[:, -1] - each[:, 0]) @ cell
    moved = moved - moved.mean(axis=1, keepdims=True)
    spacing = np.cbrt(abs(np.linalg.det(cell)) / moved.shape[1])
    return np.sqrt(np.mean(np.sum(moved**2, axis=2), axis=1)) / spacing


class _Watch(eqx.Module):
    """What is kept of a state."""

    degrees_of_freedom: int = eqx.field(static=True)

    def __call__(self, state: State) -> tuple[Array, ...]:
        system = state.system
        kelvin = temperature(state.momenta, system.masses, self.degrees_of_freedom)
        force = jnp.sqrt(jnp.max(jnp.sum(state.forces**2, axis=1)))
        closest = jnp.min(to_graph(state.neighbors, system).lengths())
        return system.positions, system.cell, kelvin, force, closest


def _begin(energy: AbstractEnergy, point: StatePoint, key: PRNGKeyArray) -> State:
    """A new replica, molten where that is asked for."""
    if point.melt is None:
        return point.integrator().init(energy, point.system, key=key)
    hot = dataclasses.replace(point, pressure=None, temperature=point.melt, melt=None, frames=1)
    state = hot.integrator().init(energy, point.system, key=key)
    state, _ = _production(energy, hot, state)
    target = point.integrator()
    return replace(state, bath=target.bath(energy, state.system, state.neighbors))


def _resumed(energy: AbstractEnergy, state: State, key: PRNGKeyArray) -> State:
    """A replica that goes on under new parameters, with noise of its own."""
    return replace(with_energy(energy, state), key=key)


def _production(energy: AbstractEnergy, point: StatePoint, state: State) -> tuple[State, _Record]:
    """Burn-in and frames in one run, so that one program serves both."""
    integrator = point.integrator()
    wait = -(-point.burn_in // point.stride)
    state = replace(state, step=jnp.zeros_like(state.step))
    watch = _Watch(integrator.degrees_of_freedom(state.system))
    steps = (wait + point.frames) * point.stride
    state, record = run(integrator, energy, state, steps=steps, every=point.stride, observe=watch)
    return state, _Record(*(x[wait:] for x in record))
