"""Targets: a number that has been observed, how well it is known, and what computes it from an energy.

The kind of the observable decides how it is computed and differentiated: a `Quantity` of relaxed structures by implicit
differentiation, an average over an ensemble (`AbstractStatic`) by reweighting, a correlation in time
(`AbstractDynamic`) along short windows. Targets enter a fit by their chi-square alone, so that no weights with units
have to be chosen: what is known well counts much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import linalg

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.graph.lattice import product, reciprocal
from jaxmlip.learn.adjoint import Window
from jaxmlip.learn.sampler import StatePoint, strained
from jaxmlip.observables.correlations import AbstractDynamic, Diffusion, EinsteinDiffusion, Viscosity
from jaxmlip.observables.elastic import StressSlope, cubic_strain
from jaxmlip.observables.static import (
    AbstractStatic,
    BulkModulus,
    Density,
    Enthalpy,
    HeatCapacity,
    LatticeConstant,
    LogVolume,
    PotentialEnergy,
    Pressure,
    PressureTensor,
    Stress,
    ThermalExpansion,
)
from jaxmlip.properties import StationaryPoint, make_vacancy, relax, stiffness_along
from jaxmlip.properties import cohesive_energy as cohesive_energy_of
from jaxmlip.properties import vacancy_formation_energy as vacancy_energy_of
from jaxmlip.simulate.state import with_cell
from jaxmlip.system import System

_APART = 5.0  # standard uncertainties

UNITS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "1": (1.0, "number"),
        "Å": (1.0, "length"),
        "nm": (units.nm, "length"),
        "Å³": (1.0, "volume"),
        "eV": (1.0, "energy"),
        "meV": (units.meV, "energy"),
        "kJ/mol": (units.kJ_per_mol, "energy"),
        "kcal/mol": (units.kcal_per_mol, "energy"),
        "GPa": (units.GPa, "pressure"),
        "kbar": (units.kbar, "pressure"),
        "eV/Å³": (1.0, "pressure"),
        "THz": (units.THz, "frequency"),
        "g/cm³": (units.g_per_cm3, "density"),
        "Å²/ps": (1.0 / units.ps, "diffusivity"),
        "cm²/s": (1e4 / units.ps, "diffusivity"),
        "mPa·s": (1e9 * units.Pa * units.ps, "viscosity"),
        "1/K": (1.0, "inverse temperature"),
        "K": (1.0, "temperature"),
        "kB": (units.kB, "heat capacity"),
        "J/(mol·K)": (1e-3 * units.kJ_per_mol, "heat capacity"),
        "eV/K": (1.0, "heat capacity"),
    }
)
"""Names of units, their size in the units of the package, and what they measure."""

_DIMENSIONS: Mapping[type, str] = MappingProxyType(
    {
        Pressure: "pressure",
        PressureTensor: "pressure",
        Stress: "pressure",
        BulkModulus: "pressure",
        PotentialEnergy: "energy",
        Enthalpy: "energy",
        Density: "density",
        LatticeConstant: "length",
        HeatCapacity: "heat capacity",
        ThermalExpansion: "inverse temperature",
        Diffusion: "diffusivity",
        EinsteinDiffusion: "diffusivity",
        Viscosity: "viscosity",
    }
)


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A structure that is relaxed, with its cell or without, under `pressure` [eV/Å³]."""

    system: System
    cell: bool = True
    pressure: float = 0.0

    def find(
        self, energy: AbstractEnergy, found: Mapping[Any, StationaryPoint], before: StationaryPoint | None
    ) -> StationaryPoint:
        """Its minimum, from where it was `before` (host); `found` are those of other structures."""
        del found
        start = self.system if before is None else before.system
        return relax(energy, start, cell=self.cell, pressure=self.pressure)


@dataclasses.dataclass(frozen=True, eq=False)
class Vacancy:
    """A supercell of a relaxed crystal of one element without one atom, whose atoms relax."""

    crystal: Structure
    repeats: Any = 2

    def find(
        self, energy: AbstractEnergy, found: Mapping[Any, StationaryPoint], before: StationaryPoint | None
    ) -> StationaryPoint:
        """See `Structure.find`; the crystal comes first."""
        start = make_vacancy(found[self.crystal].system, self.repeats)
        if before is not None:
            rows, _ = reciprocal(before.system.cell)
            moved = product(product(before.system.positions, rows.T), start.cell)
            start = with_cell(start, moved, start.cell)
        return relax(energy, start)


@dataclasses.dataclass(frozen=True, eq=False)
class Dynamics:
    """Windows of dynamics from the frames of a state point: where correlations in time belong.

    `window` says how long they are; of the windows `paths` are differentiated (`None`: a tenth), errors are from
    `blocks` of them.
    """

    point: StatePoint
    window: Window
    paths: int | None = None
    blocks: int = 16


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A function of the energy and of the stationary points of some structures; `dimension` is one of `UNITS`.

    Quantities of one `name` are the same.
    """

    function: Callable[..., Array]
    dimension: str
    name: str = ""

    def __call__(self, energy: AbstractEnergy, *points: StationaryPoint) -> Array:
        return self.function(energy, *points)


@dataclasses.dataclass(frozen=True)
class Total:
    """The sum of averages at several state points, one part for each: how differences between states are observed.

    `dimension` is one of `UNITS`; totals of one `name` at the same places are the same.
    """

    parts: tuple[AbstractStatic, ...]
    dimension: str | None = None
    name: str = ""


@dataclasses.dataclass(frozen=True)
class MeltingPoint:
    """Where a crystal and its melt coexist, at two state points: both at the temperature where they coexist under the
    energy that the fit starts from (`simulate.coexistence` finds it) and at one pressure. It follows the parameters by
    free-energy differences; see `free_energies.melting_temperature`."""

    name: str = "melting point"
    dimension: str = "temperature"


def cubic_constants(point: StatePoint, size: float = 0.006) -> dict[str, tuple[Total, tuple[StatePoint, StatePoint]]]:
    """`"11"`, `"12"` and `"44"` of a cubic crystal at a temperature: for each what to observe, and where.

    Two cells, strained both ways by `size` along x and in yz shear, give all three. The cell of `point` is to be that
    without stress.

    **Raises:** `UserError` for a state point whose cell changes, and a strain that is no small number.
    """
    if point.pressure is not None:
        raise UserError("Elastic constants need a state point at constant volume; leave its pressure out.")
    if not 0.0 < size < 0.05:
        raise UserError(f"The strain of elastic constants must be positive and below 0.05; got {size}.")
    places = tuple(
        dataclasses.replace(strained(point, cubic_strain(sign * size)), name=f"{point.name} strained {sign:+d}".strip())
        for sign in (1, -1)
    )
    weights = {
        "11": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "12": (0.0, 0.5, 0.5, 0.0, 0.0, 0.0),
        "44": (0.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    }
    return {
        name: (
            Total(tuple(StressSlope(weights=w, strain=sign * size) for sign in (1, -1)), "pressure", f"C{name}"),
            (places[0], places[1]),
        )
        for name, w in weights.items()
    }


def thermal_expansion(cold: StatePoint, warm: StatePoint) -> tuple[Total, tuple[StatePoint, StatePoint]]:
    """The mean linear coefficient between two temperatures at constant pressure: what to observe, and where.

    **Raises:** `UserError` where the cell is fixed, or the temperatures are not in order.
    """
    if cold.pressure is None or warm.pressure is None or not cold.temperature < warm.temperature:
        raise UserError("Thermal expansion needs a colder and a warmer state point, both with a `pressure`.")
    over = 1.0 / (3.0 * (warm.temperature - cold.temperature))
    return Total((LogVolume(factor=-over), LogVolume(factor=over)), "inverse temperature", "thermal expansion"), (
        cold,
        warm,
    )


def lattice_constant(atoms: int) -> Quantity:
    """The edge of a cubic cell of `atoms` atoms, from the volume for each (8 in diamond, 4 in fcc, 2 in bcc)."""

    def edge(energy, point):
        del energy
        return jnp.cbrt(point.system.volume() * (atoms / len(point.system.numbers)))

    return Quantity(edge, "length", f"lattice constant of {atoms} atoms")


def cohesive_energy() -> Quantity:
    """Of an atom; see `properties.cohesive_energy`."""
    return Quantity(cohesive_energy_of, "energy", "cohesive energy")


def elastic_constant(*indices: str) -> Quantity:
    """Relaxed-ion elastic constants such as "11" or "44"; of several indices the mean.

    **Raises:** `UserError` for what is no pair of Voigt indices.
    """
    pairs = [(ord(i[0]) - ord("1"), ord(i[1]) - ord("1")) if len(i) == 2 else (-1, -1) for i in indices]
    if not pairs or any(not 0 <= k < 6 for pair in pairs for k in pair):
        raise UserError(f"Elastic constants are named by Voigt indices such as '11' or '44'; got {indices}.")

    def constant(energy, point):
        dtype = point.system.positions.dtype
        ones = jnp.eye(6, dtype=dtype)
        sums = jnp.stack([ones[a] + ones[b] for a, b in pairs])
        found = stiffness_along(
            energy, point, jnp.concatenate([sums, *(ones[a][None] for pair in pairs for a in pair)])
        )
        both, each = found[: len(pairs)], found[len(pairs) :].reshape(-1, 2)
        mixed = 0.5 * (both - each[:, 0] - each[:, 1])
        return jnp.mean(mixed)

    return Quantity(constant, "pressure", f"elastic constants {indices}")


def bulk_modulus() -> Quantity:
    """From the relaxed-ion elastic constants, against a uniform strain."""

    def modulus(energy, point):
        uniform = jnp.asarray([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]], point.system.positions.dtype)
        return stiffness_along(energy, point, uniform)[0] / 9.0

    return Quantity(modulus, "pressure", "bulk modulus")


def vacancy_energy() -> Quantity:
    """To form a vacancy, at the points of a `Structure` and of its `Vacancy`."""
    return Quantity(vacancy_energy_of, "energy", "vacancy energy")


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What was observed.

    - `observable`: a `Quantity`, evaluated `at` one or several structures, an `AbstractStatic` at a state point, a
      `Total` at several, a `MeltingPoint` at two, or an `AbstractDynamic` at the `Dynamics` of one.
    - `value` and its standard `uncertainty` (one number, one for each value, or the covariance of all) in `unit`.
    - a `holdout` is not fitted, only reported; `source` says where the value is from.

    **Raises:** `UserError` where the uncertainty is missing or not positive, or the unit does not fit.
    """

    name: str
    observable: Quantity | AbstractStatic | Total | MeltingPoint | AbstractDynamic
    at: Any
    value: Any
    uncertainty: Any
    unit: str = "1"
    holdout: bool = False
    source: str = ""

    def __post_init__(self):
        if self.unit not in UNITS:
            raise UserError(f"Target {self.name}: the unit {self.unit!r} is not known; take one of {', '.join(UNITS)}.")
        dimension = UNITS[self.unit][1]
        asked = self.dimension
        if asked is not None and asked != dimension:
            fitting = ", ".join(name for name, (_, d) in UNITS.items() if d == asked)
            raise UserError(
                f"Target {self.name}: {self.unit} measures {dimension}, but the observable is of {asked}; take one of "
                f"{fitting}."
            )
        if self.uncertainty is None:
            raise UserError(
                f"Target {self.name} has no uncertainty. Give its standard uncertainty in {self.unit}: it decides how "
                "much the target counts beside the others."
            )
        values, uncertainty = np.size(self.value), np.asarray(self.uncertainty, float)
        if uncertainty.ndim > 2 or (uncertainty.ndim and uncertainty.shape not in ((values,), (values, values))):
            raise UserError(
                f"Target {self.name}: {values} values need one uncertainty, {values}, or a covariance of "
                f"{values} x {values}; got the shape {uncertainty.shape}."
            )
        try:
            self.whitening()
        except (linalg.LinAlgError, ValueError):
            raise UserError(
                f"Target {self.name}: the uncertainty must be finite and positive (a covariance positive definite); "
                f"got {self.uncertainty}."
            ) from None
        if not np.all(np.isfinite(np.asarray(self.value, float))):
            raise UserError(f"Target {self.name}: the value must be finite; got {self.value}.")
        fitting, what = self._belongs()
        for place in self.places:
            if not isinstance(place, fitting):
                raise UserError(
                    f"Target {self.name}: a {type(self.observable).__name__} belongs to {what}; got a "
                    f"{type(place).__name__}."
                )

        if isinstance(self.observable, MeltingPoint):
            self._check_phases()
        if isinstance(self.observable, Total) and len(self.places) != len(self.observable.parts):
            raise UserError(
                f"Target {self.name}: a total of {len(self.observable.parts)} parts needs as many state points; got "
                f"{len(self.places)}."
            )

    def _check_phases(self) -> None:
        """Refuse state points that are not of two phases at one temperature and pressure."""
        if len(self.places) != 2:
            raise UserError(f"Target {self.name}: two phases melt, so give two state points; got {len(self.places)}.")
        solid, liquid = self.places
        if solid.pressure is None or solid.pressure != liquid.pressure or solid.temperature != liquid.temperature:
            raise UserError(
                f"Target {self.name}: both phases need the same temperature and the same `pressure`; got "
                f"{solid.temperature:g} and {liquid.temperature:g} K, {solid.pressure} and {liquid.pressure} eV/Å³."
            )

    def _belongs(self) -> tuple[Any, str]:
        """The kinds of places where the observable can be found."""
        if isinstance(self.observable, (AbstractStatic, Total, MeltingPoint)):
            return StatePoint, "a `StatePoint`"
        if isinstance(self.observable, AbstractDynamic):
            return Dynamics, "the `Dynamics` of a state point"
        return (Structure, Vacancy), "a `Structure` or `Vacancy`"

    @property
    def dimension(self) -> str | None:
        """What the observable measures, where that is known."""
        if isinstance(self.observable, (Quantity, Total, MeltingPoint)):
            return self.observable.dimension
        return _DIMENSIONS.get(type(self.observable))

    @property
    def places(self) -> tuple[Any, ...]:
        """Structures or state points."""
        return tuple(self.at) if isinstance(self.at, (list, tuple)) else (self.at,)

    @property
    def size(self) -> float:
        """Of the unit, in those of the package."""
        return UNITS[self.unit][0]

    @property
    def values(self) -> Float[np.ndarray, "values"]:
        """In the units of the package."""
        return np.ravel(np.asarray(self.value, float)) * self.size

    @property
    def errors(self) -> Float[np.ndarray, "values"]:
        """Standard uncertainty of each value, in the units of the package."""
        return np.sqrt(np.diag(self.covariance()))

    def covariance(self) -> Float[np.ndarray, "values values"]:
        """In the units of the package."""
        count, given = np.size(self.value), np.asarray(self.uncertainty, float) * self.size
        if given.ndim == 2:
            return given * self.size
        return np.diag(np.broadcast_to(given, (count,)) ** 2)

    def whitening(self) -> Float[np.ndarray, "values values"]:
        """What makes deviations independent and of size one."""
        lower = linalg.cholesky(self.covariance(), lower=True)
        return linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)


def check_targets(targets: Sequence[Target], labels: bool = False) -> None:
    """Refuse what no fit can be made of.

    **Raises:** `UserError` where there is none to fit (and no `labels`), two have the same name, or two say different
    things of the same quantity.
    """
    names = [t.name for t in targets]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(f"Targets need names of their own; {', '.join(twice)} is there twice.")
    if not labels and all(t.holdout for t in targets):
        raise UserError(f"There is no target to fit: of {len(targets)} all are held out.")
    for i, one in enumerate(targets):
        for other in targets[:i]:
            if one.holdout or other.holdout or not _same(one, other):
                continue
            apart = np.max(np.abs(one.values - other.values) / np.hypot(one.errors, other.errors))
            if apart > _APART:
                raise UserError(
                    f"Targets {other.name} and {one.name} are the same quantity at the same place, and {apart:.1f} "
                    "standard uncertainties apart: leave one out, or give them uncertainties that allow for both."
                )


def _same(one: Target, other: Target) -> bool:
    """Whether two targets are of one quantity at one place."""
    if one.places != other.places or np.size(one.value) != np.size(other.value):
        return False
    a, b = one.observable, other.observable
    if isinstance(a, (AbstractStatic, AbstractDynamic)) or isinstance(b, (AbstractStatic, AbstractDynamic)):
        return type(a) is type(b) and bool(eqx.tree_equal(a, b))
    return type(a) is type(b) and bool(a.name) and a.name == b.name
