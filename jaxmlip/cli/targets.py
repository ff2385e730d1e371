"""Structures, state points and targets of `jaxmlip finetune`, from the tables of its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import tyro

from jaxmlip import units
from jaxmlip.cli.config import from_dict, suggestion
from jaxmlip.cli.structures import blame, read_system
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.learn import targets as kinds
from jaxmlip.learn.adjoint import Window
from jaxmlip.learn.sampler import StatePoint
from jaxmlip.learn.targets import Dynamics, Structure, Target, Vacancy
from jaxmlip.observables import correlations, distributions, static


@dataclasses.dataclass(frozen=True)
class StructureTable:
    """`[structures.NAME]`: a structure that is relaxed, or the vacancy of another."""

    file: Path | None = None
    frame: int = -1
    cell: bool = True
    pressure_GPa: float = 0.0
    vacancy_of: str | None = None
    repeats: tuple[int, ...] = (2, 2, 2)


@dataclasses.dataclass(frozen=True)
class StateTable:
    """`[states.NAME]`: where and how long to sample; without `pressure_GPa` the cell stays."""

    file: Path
    temperature_K: float
    frame: int = -1
    repeat: tuple[int, ...] = (1, 1, 1)
    pressure_GPa: float | None = None
    timestep_fs: float = 1.0
    replicas: int = 4
    frames: int = 100
    stride: int = 50
    burn_in: int = 2000
    melt_K: float | None = None
    friction_per_ps: float = 1.0
    barostat_period_ps: float = 0.5
    shape: str = "isotropic"


@dataclasses.dataclass(frozen=True)
class TargetTable:
    """`[targets.NAME]`: what was observed."""

    observable: str
    at: str
    """A structure or a state."""
    value: float | tuple[float, ...]
    uncertainty: float | tuple[float, ...] | None = None
    unit: str = "1"
    holdout: bool = False
    source: str = ""
    atoms: int | None = None
    """Of the cubic cell whose edge is the lattice constant."""
    edges: tuple[float, ...] | None = None
    """Of the bins of a distribution, in Å or degrees."""
    width: float | None = None
    """Over which each distance [Å] or angle [degrees] is spread."""
    cutoff_angstrom: float | None = None
    window_fs: float | None = None
    """How far each window reaches from its start, either way in time."""
    every: int = 5
    """Steps between moments of a window."""
    strain: float = 0.006
    """Of the cells whose stresses give elastic constants at a temperature."""
    warmer: str | None = None
    """The state up to which `mean_thermal_expansion` is taken from that of `at`."""


def _given(table: TargetTable, name: str, field: str) -> Any:
    value = getattr(table, field)
    if value is None:
        raise UserError(f"`targets.{name}.{field}` is missing: {table.observable} needs it.")
    return value


def _edges(table: TargetTable, name: str) -> Any:
    return jnp.asarray(_given(table, name, "edges"), jnp.float64)


_Maker = Callable[[TargetTable, str], Any]
OBSERVABLES: dict[str, _Maker] = {
    "lattice_constant": lambda t, n: kinds.lattice_constant(_given(t, n, "atoms")),
    "cohesive_energy": lambda t, n: kinds.cohesive_energy(),
    "bulk_modulus": lambda t, n: kinds.bulk_modulus(),
    "vacancy_energy": lambda t, n: kinds.vacancy_energy(),
    "C11": lambda t, n: kinds.elastic_constant("11", "22", "33"),
    "C12": lambda t, n: kinds.elastic_constant("12", "13", "23"),
    "C44": lambda t, n: kinds.elastic_constant("44", "55", "66"),
    "pressure": lambda t, n: static.Pressure(),
    "density": lambda t, n: static.Density(),
    "energy": lambda t, n: static.PotentialEnergy(),
    "enthalpy": lambda t, n: static.Enthalpy(),
    "heat_capacity": lambda t, n: static.HeatCapacity(),
    "isothermal_bulk_modulus": lambda t, n: static.BulkModulus(),
    "thermal_expansion": lambda t, n: static.ThermalExpansion(),
    "mean_thermal_expansion": lambda t, n: kinds.Total((), "inverse temperature"),
    "rdf": lambda t, n: distributions.RadialDistribution(_edges(t, n), width=t.width or 0.05),
    "adf": lambda t, n: distributions.AngleDistribution(
        _edges(t, n), cutoff=_given(t, n, "cutoff_angstrom"), width=t.width or 2.0
    ),
    "diffusion": lambda t, n: correlations.Diffusion(),
    "viscosity": lambda t, n: correlations.Viscosity(),
    "vacf": lambda t, n: correlations.VelocityAutocorrelation(),
}
"""What a target may be, by name; those of a `Window` need `window_fs`. Between states: see `_between`."""


def read_targets(
    energy: AbstractEnergy,
    structures: Mapping[str, Any],
    states: Mapping[str, Any],
    targets: Mapping[str, Any],
) -> list[Target]:
    """Targets from the tables of a configuration.

    **Raises:** `UserError` for unknown keys and names, what is missing, and files that cannot be read.
    """
    if not targets:
        raise UserError("there is nothing to fit: write a table `[targets.NAME]` for each value that was observed.")
    places = _places(energy, structures, states)
    windows: dict[tuple, Dynamics] = {}
    strained: dict[tuple, Any] = {}
    found = []
    for name, given in targets.items():
        table = _table(TargetTable, given, f"targets.{name}")
        if table.observable not in OBSERVABLES:
            raise UserError(
                f"`targets.{name}.observable`: unknown {table.observable!r}{suggestion(table.observable, OBSERVABLES)}"
            )
        if table.at not in places:
            raise UserError(
                f"`targets.{name}.at`: there is no structure or state {table.at!r}{suggestion(table.at, places)}"
            )
        with blame(f"`targets.{name}`"):
            observable = OBSERVABLES[table.observable](table, name)
            place: Any = places[table.at]
            if isinstance(place, StatePoint):
                observable, place = _between(table, name, observable, place, places, strained)
            if isinstance(place, Vacancy):
                place = (place.crystal, place)
            if isinstance(observable, correlations.AbstractDynamic) and isinstance(place, StatePoint):
                steps = round(_given(table, name, "window_fs") * units.fs / place.timestep / table.every) * table.every
                key = (table.at, steps, table.every)
                if key not in windows:
                    windows[key] = Dynamics(place, Window(place.timestep, steps, every=table.every))
                place = windows[key]
            found.append(
                Target(
                    name,
                    observable,
                    place,
                    table.value,
                    table.uncertainty,
                    table.unit,
                    holdout=table.holdout,
                    source=table.source,
                )
            )
    return found


def _between(
    table: TargetTable,
    name: str,
    observable: Any,
    point: StatePoint,
    places: Mapping[str, Any],
    strained: dict[tuple, Any],
) -> tuple[Any, Any]:
    """What is a difference between state points, and these; anything else as it is."""
    if table.observable in ("C11", "C12", "C44"):
        key = (table.at, table.strain)
        if key not in strained:
            strained[key] = kinds.cubic_constants(point, table.strain)
        return strained[key][table.observable.removeprefix("C")]
    if table.observable == "mean_thermal_expansion":
        warmer = places.get(_given(table, name, "warmer"))
        if not isinstance(warmer, StatePoint):
            raise UserError(f"`targets.{name}.warmer`: there is no state {table.warmer!r}")
        return kinds.thermal_expansion(point, warmer)
    if table.observable == "lattice_constant":
        return static.LatticeConstant(atoms=_given(table, name, "atoms")), point
    return observable, point


def _places(energy: AbstractEnergy, structures: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
    """Structures and state points by name."""
    places: dict[str, Any] = {}
    tables = {name: _table(StructureTable, given, f"structures.{name}") for name, given in structures.items()}
    for name, table in tables.items():
        if table.vacancy_of is None:
            if table.file is None:
                raise UserError(f"`structures.{name}` needs a `file`, or `vacancy_of` another structure.")
            system = read_system(table.file, energy, frame=table.frame)
            places[name] = Structure(system, table.cell, table.pressure_GPa * units.GPa)
    for name, table in tables.items():
        if table.vacancy_of is not None:
            crystal = places.get(table.vacancy_of)
            if not isinstance(crystal, Structure):
                raise UserError(
                    f"`structures.{name}.vacancy_of`: there is no structure {table.vacancy_of!r}"
                    f"{suggestion(table.vacancy_of, places)}"
                )
            places[name] = Vacancy(crystal, table.repeats if len(set(table.repeats)) > 1 else table.repeats[0])
    for name, given in states.items():
        if name in places:
            raise UserError(f"`states.{name}` has the name of a structure: take another one.")
        places[name] = _state(energy, name, _table(StateTable, given, f"states.{name}"))
    return places


def _state(energy: AbstractEnergy, name: str, table: StateTable) -> StatePoint:
    if len(table.repeat) != 3:
        raise UserError(f"`states.{name}.repeat` needs three numbers; got {list(table.repeat)}.")
    repeat = (table.repeat[0], table.repeat[1], table.repeat[2])
    system = read_system(table.file, energy, frame=table.frame, repeat=repeat)
    with blame(f"`states.{name}`"):
        return StatePoint(
            system,
            table.temperature_K,
            None if table.pressure_GPa is None else table.pressure_GPa * units.GPa,
            timestep=table.timestep_fs * units.fs,
            replicas=table.replicas,
            frames=table.frames,
            stride=table.stride,
            burn_in=table.burn_in,
            melt=table.melt_K,
            friction=table.friction_per_ps / units.ps,
            barostat_period=table.barostat_period_ps * units.ps,
            shape=table.shape,
            name=name,
        )


def _table(cls: type, given: Any, name: str) -> Any:
    """One table as a dataclass, complete.

    **Raises:** `UserError` for what is no table, unknown keys, wrong types, missing values.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"`{name}` must be a table, `[{name}]`; got {given!r}")
    table = from_dict(cls, given, f"{name}.")
    for field in dataclasses.fields(table):
        if getattr(table, field.name) is tyro.MISSING:
            raise UserError(f"`{name}.{field.name}` is missing.")
    return table
