"""The melting temperature from a crystal and its melt side by side."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.lattice import product, reciprocal
from jaxmlip.observables.statistics import Estimate, average
from jaxmlip.observables.structure import structure_factor, wave_indices
from jaxmlip.observables.thermo import temperature as temperature_of
from jaxmlip.simulate.constraints import constrain
from jaxmlip.simulate.mtk import MTK
from jaxmlip.simulate.npt import NPT
from jaxmlip.simulate.nvt import Langevin
from jaxmlip.simulate.run import run
from jaxmlip.simulate.state import State, with_cell
from jaxmlip.system import System

_SHORTEST_WAVE = 1.0  # Å
_IN_PHASE = 0.9
_LEAST = 0.08  # of either phase, at the end


@dataclasses.dataclass(frozen=True)
class CoexistenceSettings:
    """How a crystal is molten by half, and for how long both are watched.

    `temperature` [K] is a guess, `pressure` [eV/Å³] what the melting temperature is for, `melt` [K] where half of the
    atoms melt (three times the guess). Of `timestep` [`2 * units.fs`] there are `prepare` steps for each of warming the
    crystal and melting, a fifth of it for each of cooling to the guess and relaxing the cell, then `steps` at constant
    enthalpy, recorded `every` so many, of which the second half counts. `expansion` is about how much of its volume the
    crystal gains by melting (negative for silicon): the molten half starts with it. `friction` [1/time] and
    `barostat_period` [time] are those of `NPT`.
    """

    temperature: float
    pressure: float = 0.0
    melt: float | None = None
    timestep: float = 2.0 * units.fs
    prepare: int = 3000
    steps: int = 40_000
    every: int = 20
    friction: float = 1.0 / units.ps
    barostat_period: float = 1.0 * units.ps
    compressibility: float = 0.02 / units.GPa
    expansion: float = 0.12

    def __post_init__(self):
        if self.melt is not None and not self.melt > self.temperature:
            raise ValueError(f"`melt` must lie above the temperature {self.temperature} K; got {self.melt}.")
        if min(self.prepare, self.every) < 1 or self.steps < 40 * self.every:
            raise ValueError(
                f"`prepare` and `every` must be at least 1, `steps` 40 times `every`; got {self.prepare}, "
                f"{self.every}, {self.steps}."
            )


class Coexistence(NamedTuple):
    """The melting `temperature` [K] with its standard error, and what it was read off: temperatures [K] and the part
    that is crystalline, at each record, and the last state."""

    temperature: Estimate
    temperatures: Float[np.ndarray, "records"]
    crystalline: Float[np.ndarray, "records"]
    state: State


def coexistence(
    energy: AbstractEnergy, crystal: System, settings: CoexistenceSettings, *, key: PRNGKeyArray
) -> Coexistence:
    """Melt one half of a long `crystal` and let both halves find their temperature, at constant enthalpy and pressure.

    The crystal melts or freezes until the heat that this takes has brought the temperature to that of melting. It
    should be about twice as long as wide; crystallinity is the amplitude of a Bragg wave across, over that of the whole
    crystal. The fewer atoms, the longer it takes: watch whether temperatures from guesses on either side meet.

    **Raises:** `ValueError` where one phase takes all, or the crystal has no Bragg wave across its length.

    **Reference:** Morris, Wang, Ho & Chan, Phys. Rev. B 49, 3109 (1994), doi:10.1103/PhysRevB.49.3109.
    """
    lengths = np.linalg.norm(np.asarray(crystal.cell), axis=1)
    along = int(np.argmax(lengths))
    watch = _Watch(jnp.asarray(_bragg_wave(crystal, along)))
    keys = jax.random.split(key, 4)
    warm, steps, every = _dynamics(settings), settings.prepare, max(1, settings.prepare // 50)
    state = warm.init(energy, crystal, key=keys[0])
    state, (_, order) = run(warm, energy, state, steps=steps, every=every, observe=watch)
    whole = float(order[len(order) // 2 :].mean())
    system = _half_molten(energy, state.system, along, settings, keys[1])
    brief = _brief(settings)
    state, _ = run(warm, energy, warm.init(energy, system, key=keys[2]), steps=brief, every=brief, observe=watch)
    still = _without_bath(settings)
    state = still.init(energy, state.system, key=keys[3], momenta=state.momenta)
    state, found = run(still, energy, state, steps=settings.steps, every=settings.every, observe=watch)
    kelvin, order = (np.asarray(x, np.float64) for x in found)
    crystalline = order / whole
    end = float(crystalline[-(len(order) // 10) :].mean())
    if not _LEAST < end < 1.0 - _LEAST:
        what, how = ("molten", "lower") if end < 0.5 else ("frozen", "raise")
        raise ValueError(
            f"All has {what} from a guess of {settings.temperature:g} K (crystalline to {end:.0%} at the end, "
            f"{kelvin[len(kelvin) // 2 :].mean():.0f} K): {how} `temperature`, or take a longer crystal."
        )
    return Coexistence(average(kelvin[len(kelvin) // 2 :]), kelvin, crystalline, state)


class _Watch(eqx.Module):
    """Temperature [K], and the amplitude of a Bragg wave for each atom."""

    wave: Int[Array, "1 3"]

    def __call__(self, state: State) -> tuple[Array, Array]:
        system = state.system
        kelvin = temperature_of(state.momenta, system.masses, 3 * len(system.numbers) - 3)
        strength = structure_factor(system.positions, system.cell, self.wave)[0]
        return kelvin, jnp.sqrt(strength / len(system.numbers))


def _bragg_wave(crystal: System, along: int) -> Int[np.ndarray, "1 3"]:
    """The longest wave across the crystal in which all its atoms are in phase (host)."""
    waves = wave_indices(np.asarray(crystal.cell), 2.0 * np.pi / _SHORTEST_WAVE)
    across = waves[waves[:, along] == 0]
    if len(across):
        strength = np.asarray(structure_factor(crystal.positions, crystal.cell, jnp.asarray(across)))
        good = np.flatnonzero(strength > _IN_PHASE * len(crystal.numbers))
        if len(good):
            return across[good[:1]]
    raise ValueError(
        f"No wave longer than {_SHORTEST_WAVE} Å across the crystal has its atoms in phase: give a crystal whose "
        "atoms are on their sites, repeated along its longest side."
    )


def _half_molten(
    energy: AbstractEnergy, crystal: System, along: int, settings: CoexistenceSettings, key: PRNGKeyArray
) -> System:
    """The crystal with one half molten, and cooled to the guess."""
    rows, _ = reciprocal(crystal.cell)
    raw = np.asarray(product(crystal.positions, rows.T), np.float64)[:, along]
    system = constrain(_stretched(crystal, raw, along, settings.expansion), fixed=raw % 1.0 < 0.5)
    hot = 3.0 * settings.temperature if settings.melt is None else settings.melt
    stages = (hot, settings.prepare), (settings.temperature, _brief(settings))
    for (kelvin, steps), draw in zip(stages, jax.random.split(key), strict=True):
        integrator = Langevin(settings.timestep, kelvin, settings.friction)
        state = integrator.init(energy, system, key=draw)
        state, _ = run(integrator, energy, state, steps=steps, every=steps)
        system = state.system
    return constrain(system)


def _stretched(crystal: System, raw: np.ndarray, along: int, expansion: float) -> System:
    """The cell longer by as much as its half will grow by melting, and the atoms of that half apart accordingly: at the
    density of the crystal it would freeze at once."""
    longer, place = 1.0 + 0.5 * expansion, raw % 1.0
    moved = np.where(place < 0.5, place, 0.5 + (place - 0.5) * (1.0 + expansion))
    cell = np.array(crystal.cell, np.float64)
    shift = np.outer(moved - raw, cell[along])
    cell[along] *= longer
    dtype = crystal.positions.dtype
    return with_cell(crystal, crystal.positions + jnp.asarray(shift, dtype), jnp.asarray(cell, dtype))


def _brief(settings: CoexistenceSettings) -> int:
    """Steps with a thermostat while both phases are there: it takes away the heat that would keep either from growing,
    so few of them."""
    return max(1, settings.prepare // 5)


def _dynamics(settings: CoexistenceSettings) -> NPT:
    cell = settings.barostat_period, settings.compressibility, "anisotropic"
    return NPT(settings.timestep, settings.temperature, settings.friction, settings.pressure, *cell)


class _Adiabatic(MTK):
    """Constant enthalpy and pressure: without any thermostat, of atoms or cell."""

    def _thermostats(self, state: State) -> State:
        return state


def _without_bath(settings: CoexistenceSettings) -> _Adiabatic:
    period = settings.barostat_period
    return _Adiabatic(settings.timestep, settings.temperature, period, settings.pressure, period, "anisotropic")
