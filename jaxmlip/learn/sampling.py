"""Structures that an energy leads to: molecular dynamics in temperature and pressure, and a few steps downhill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import numpy as np

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.data.generate import derive
from jaxmlip.energy import AbstractEnergy, Derivatives, check_elements, energy_forces_stress
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph, batch, pad
from jaxmlip.io import Record
from jaxmlip.simulate import NPT, AbstractIntegrator, Langevin, SimulationError, State, run

_EQUILIBRATION = 0.5  # ps before the first frame of each rung
_COMPRESSIBILITY = 0.02  # 1/GPa: sets the speed of the cell, not its size
_LONGEST_STEP = 0.1  # Å, downhill


class Sampler:
    """Energies, forces and stress of frames of any size, with few compilations (host neighbor lists, padded)."""

    def __init__(self, energy: AbstractEnergy):
        self.energy = energy
        self._shapes: list[tuple[int, int]] = []

    def __call__(self, record: Record) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy [eV], forces [eV/Å] and stress [eV/Å³] in float64; NaN where the energy gives that.

        **Raises:** `UserError` where the energy does not know an element.
        """
        try:
            check_elements(self.energy, record.numbers)
        except ValueError as error:
            raise UserError(f"{record.where}: {error}") from error
        with jax.enable_x64(True):
            found = jax.device_get(_derivatives(self.energy, self._graph(record)))
        return float(found.energy[0]), np.asarray(found.forces)[: len(record)], np.asarray(found.stress[0])

    def _graph(self, record: Record) -> Graph:
        graph = batch(record.system, self.energy.cutoff or 1.0)
        atoms, neighbors = len(record), graph.senders.shape[0]
        fitting = [s for s in self._shapes if s[0] >= atoms and s[1] >= neighbors and _fits(s, atoms * neighbors)]
        if not fitting:
            fitting = [(_size(atoms), _size(neighbors))]
            self._shapes += fitting
        atoms, neighbors = min(fitting, key=lambda s: s[0] * s[1])
        return pad(graph, atoms=atoms, neighbors=neighbors, slots=1)


@Compiled
def _derivatives(energy: AbstractEnergy, graph: Graph) -> Derivatives:
    return energy_forces_stress(energy, graph)


def _size(need: int) -> int:
    """A size to pad to: a multiple of 16 with room."""
    return 16 * math.ceil(need * 1.2 / 16)


def _fits(shape: tuple[int, int], need: int) -> bool:
    """Whether a shape that is there already wastes little enough beside compiling another one."""
    return shape[0] * shape[1] <= max(4 * need, 2048)


def downhill(sampler: Sampler, record: Record, steps: int) -> Record:
    """The frame after `steps` steps along its forces, none of which moves an atom by more than 0.1 Å: far from the
    minimum still, but out of what no structure would ever be."""
    positions, gain = record.positions.copy(), 0.01  # Å²/eV
    before, old = np.inf, positions
    for _ in range(steps):
        here = Record(positions, record.numbers, record.cell, record.pbc)
        energy, forces, _ = sampler(here)
        if not np.isfinite(energy) or not np.all(np.isfinite(forces)):
            break
        gain = 1.2 * gain if energy < before else 0.3 * gain
        if energy > before:
            positions = old
            continue
        before, old = energy, positions
        moves = gain * forces
        longest = float(np.linalg.norm(moves, axis=1).max())
        positions = positions + moves * min(1.0, _LONGEST_STEP / max(longest, 1e-12))
    return derive(record, record.config_type, positions=positions, downhill_steps=steps)


def md_frames(
    energy: AbstractEnergy,
    record: Record,
    *,
    temperature: float,
    pressure: float | None,
    count: int,
    seed: int,
    every: float = 0.1,
    equilibration: float = _EQUILIBRATION,
    timestep: float = 1.0,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """`count` frames of molecular dynamics, `every` [ps] from each other after `equilibration` [ps], at `temperature`
    [K] and `pressure` [eV/Å³] (`None` keeps the cell); `timestep` in fs.

    A run that blows up gives the frames before it did, and `say` is told.

    **Raises:** `UserError` where it cannot start.
    """
    integrator = _integrator(temperature, pressure, timestep)
    gap = max(1, round(1e3 * every / timestep))
    wait = max(0, round(1e3 * equilibration / timestep))
    with jax.enable_x64(True):
        try:
            state = integrator.init(energy, record.system, key=jax.random.key(seed), temperature=temperature)
        except ValueError as error:
            raise UserError(f"{record.where}: molecular dynamics cannot start: {error}") from error
        try:
            state, _ = run(integrator, energy, state, steps=wait, every=gap, observe=_SHAPE)  # one program for both
            _, found = run(integrator, energy, state, steps=gap * count + gap, every=gap, observe=_SHAPE)
        except SimulationError as error:
            say(f"dynamics at {temperature:g} K stopped early: {error.cause}")
            found = error.record if error.step > wait else None
    if found is None or not len(found[0]):
        return []
    steps, positions, cells = (np.asarray(x)[:count] for x in found)
    name = f"md_{temperature:g}K" + ("" if pressure is None else f"_{pressure / units.GPa:g}GPa")
    told = {"temperature_K": temperature, "md_seed": seed}
    told |= {} if pressure is None else {"pressure_GPa": pressure / units.GPa}
    made = []
    for step, x, cell in zip(steps, positions, cells, strict=True):
        time = float(step) * timestep * 1e-3
        made.append(derive(record, name, positions=_wrapped(x, cell, record.pbc), cell=cell, time_ps=time, **told))
    return made


def ladder(
    energy: AbstractEnergy,
    starts: Sequence[Record],
    *,
    temperatures: Sequence[float],
    pressures: Sequence[float | None],
    count: int,
    seed: int,
    every: float = 0.1,
    timestep: float = 1.0,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """At least `count` frames of a ladder in temperature [K] and pressure [eV/Å³]: for each pressure the temperatures
    rise, each rung going on where the one below ended, from `starts` in turn."""
    rungs = len(temperatures) * len(pressures)
    each = -(-count // rungs)
    made = []
    for j, pressure in enumerate(pressures):
        record = starts[j % len(starts)]
        for i, temperature in enumerate(sorted(temperatures)):
            found = md_frames(
                energy,
                record,
                temperature=float(temperature),
                pressure=pressure,
                count=each,
                seed=seed + 1000 * j + i,
                every=every,
                timestep=timestep,
                say=say,
            )
            made += found
            record = derive(found[-1], record.config_type) if found else record
    return made


class _Shape(eqx.Module):
    """Step, positions and cell of a state."""

    def __call__(self, state: State):
        return state.step, state.system.positions, state.system.cell


_SHAPE = _Shape()


def _integrator(temperature: float, pressure: float | None, timestep: float) -> AbstractIntegrator:
    if not 0.0 < temperature <= 1e5 or not 0.0 < timestep <= 20.0:
        raise UserError(f"Dynamics want 0 < K <= 1e5 and 0 < fs <= 20; got {temperature} K and {timestep} fs.")
    dt, friction = timestep * units.fs, 10.0 / units.ps
    if pressure is None:
        return Langevin(dt, temperature, friction)
    return NPT(dt, temperature, friction, pressure, 0.5 * units.ps, _COMPRESSIBILITY / units.GPa)


def _wrapped(positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> np.ndarray:
    """Positions brought back into a cell that is periodic in all directions; others stay."""
    if not all(pbc):
        return positions
    fractional = np.linalg.solve(cell.T, positions.T).T
    return (fractional - np.floor(fractional)) @ cell
