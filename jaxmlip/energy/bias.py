"""Forces from outside: restraints to places, walls, external potentials, and umbrellas on collective variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.energy.base import AbstractEnergy, SystemCheck, parameter
from jaxmlip.energy.table import check_values
from jaxmlip.energy.terms import Places, check_atoms, read_indices
from jaxmlip.energy.variables import AbstractVariable
from jaxmlip.graph import Graph
from jaxmlip.graph.graph import safe_norm
from jaxmlip.system import System


class PositionRestraints(AbstractEnergy, SystemCheck):
    r"""Springs to places: $\frac{1}{2} k |r_i - R_i|^2$ for some atoms of a system of `atoms` atoms.

    `index` names the atoms, `reference` are their places [Å], `stiffness` k [eV/Å²] is one number or one for each.
    `periodic` takes the nearest image of each place, for positions that may be wrapped; without it an atom that goes
    round the cell is pulled back. Places stay where they are when the cell is strained, so the stress has the part of
    the springs.
    """

    index: Int[Array, "terms 1"]
    reference: Float[Array, "terms 3"]
    stiffness: Float[Array, "terms"]
    atoms: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        index: Sequence[int] | np.ndarray,
        reference: np.ndarray | Array | Sequence[Sequence[float]],
        stiffness: float | np.ndarray | Array,
        *,
        atoms: int,
        periodic: bool = False,
    ):
        self.index = read_indices(np.asarray(index, np.int32)[:, None], 1, atoms)
        self.reference = parameter(np.asarray(reference, np.float64) if isinstance(reference, Sequence) else reference)
        if self.reference.shape != (len(self.index), 3):
            raise ValueError(f"Give a place for each of {len(self.index)} atoms; got shape {self.reference.shape}.")
        self.stiffness = jnp.broadcast_to(parameter(stiffness), (len(self.index),))
        check_values("stiffness", self.stiffness, least=0.0)
        check_values("reference", self.reference)
        self.atoms, self.periodic, self.cutoff, self.elements = atoms, periodic, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        places = Places(graph, self.index, self.atoms)
        positions = graph.positions[places.index[:, :, 0]]
        away = positions - self.reference.astype(positions.dtype)[None]
        if self.periodic:
            away = places.nearest(away)
        stiffness = self.stiffness.astype(positions.dtype)[None, :]
        return places.share(0.5 * stiffness * jnp.sum(away * away, axis=-1))

    def check(self, system: System) -> None:
        check_atoms("restraints", self.atoms, len(system.numbers))


class PlanarWall(AbstractEnergy):
    r"""A wall that atoms meet at a plane: $\frac{k}{p} d^p$ for an atom a depth d behind it.

    The plane goes through `point` [Å]; `normal` points to the side that is free. `stiffness` k [eV/Åᵖ], p = `exponent`:
    2 is harmonic, from 3 on two derivatives are continuous. All atoms feel it.
    """

    point: Float[Array, "3"]
    normal: Float[Array, "3"]
    stiffness: Float[Array, ""]
    exponent: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self, point: Sequence[float], normal: Sequence[float], stiffness: float | Array, exponent: float = 2.0
    ):
        self.point, direction = parameter(np.asarray(point, float)), np.asarray(normal, float)
        if self.point.shape != (3,) or direction.shape != (3,) or not np.linalg.norm(direction) > 0.0:
            raise ValueError(f"`point` and `normal` are vectors, the normal not zero; got {point} and {normal}.")
        self.normal = parameter(direction / np.linalg.norm(direction))
        self.stiffness, self.exponent = _wall(stiffness, exponent)
        self.cutoff, self.elements = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        away = graph.positions - self.point.astype(dtype)[None, :]
        depth = -jnp.sum(away * self.normal.astype(dtype)[None, :], axis=1)
        return _push(depth, self.stiffness.astype(dtype), self.exponent)


class SphericalWall(AbstractEnergy):
    r"""A wall that keeps atoms within `radius` [Å] of `center`: $\frac{k}{p} (|r - c| - R)^p$ outside.

    `stiffness` k [eV/Åᵖ], p = `exponent`: 2 is harmonic, from 3 on two derivatives are continuous. All atoms feel it.
    """

    center: Float[Array, "3"]
    radius: Float[Array, ""]
    stiffness: Float[Array, ""]
    exponent: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, center: Sequence[float], radius: float | Array, stiffness: float | Array, exponent: float = 2.0):
        self.center, self.radius = parameter(np.asarray(center, float)), parameter(radius)
        if self.center.shape != (3,):
            raise ValueError(f"`center` is a vector [Å]; got {center}.")
        check_values("radius", self.radius, above=0.0)
        self.stiffness, self.exponent = _wall(stiffness, exponent)
        self.cutoff, self.elements = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        away = safe_norm((graph.positions - self.center.astype(dtype)[None, :]).T)
        return _push(away - self.radius.astype(dtype), self.stiffness.astype(dtype), self.exponent)


class External(AbstractEnergy):
    """A potential that each atom feels for itself: `External(lambda r, k: 0.5 * k * r[:, 0] ** 2, {"k": 2.0})`.

    `function(positions, **parameters)` turns positions `[atoms 3]` into energies `[atoms]` [eV]; parameters are arrays.
    """

    parameters: dict[str, Float[Array, "..."]]
    function: Callable = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[..., Float[Array, "atoms"]],
        parameters: Mapping[str, float | np.ndarray | Array] | None = None,
    ):
        self.parameters = {name: parameter(value) for name, value in (parameters or {}).items()}
        self.function, self.cutoff, self.elements = function, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        return self.function(graph.positions, **{k: v.astype(dtype) for k, v in self.parameters.items()})


class Umbrella(AbstractEnergy):
    r"""A spring on a collective variable: $\frac{1}{2} k (\xi - \xi_0)^2$, within half a period where it is periodic.

    `stiffness` k [eV per unit of the variable squared], `center` $\xi_0$. Its energy is shared by all atoms.

    **Reference:** Torrie & Valleau, J. Comput. Phys. 23, 187 (1977), doi:10.1016/0021-9991(77)90121-8.
    """

    variable: AbstractVariable
    stiffness: Float[Array, ""] = eqx.field(converter=parameter)
    center: Float[Array, ""] = eqx.field(converter=parameter)

    def __check_init__(self):
        check_values("stiffness", self.stiffness, least=0.0)
        check_values("center", self.center)

    @property
    def cutoff(self) -> float:
        return self.variable.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        value = self.variable(graph)
        off = within_period(value - self.center.astype(value.dtype), self.variable.period)
        return shared(graph, 0.5 * self.stiffness.astype(value.dtype) * off * off)


def within_period(difference: Float[Array, "*any"], period: float | None) -> Float[Array, "*any"]:
    """A difference of values within half a period."""
    return difference if period is None else difference - period * jnp.round(difference / period)


def shared(graph: Graph, energies: Float[Array, "systems"]) -> Float[Array, "atoms"]:
    """The energy of each system in equal parts among its atoms; that of an empty slot goes nowhere."""
    counts = graph.sum_atoms(jnp.ones_like(graph.positions[:, 0]))
    return (energies / jnp.maximum(counts, 1.0))[graph.system_index]


def _wall(stiffness: float | Array, exponent: float) -> tuple[Float[Array, ""], float]:
    stiffness = parameter(stiffness)
    check_values("stiffness", stiffness, least=0.0)
    if not 2.0 <= exponent < float("inf"):
        raise ValueError(f"`exponent` must be at least 2; got {exponent}.")
    return stiffness, exponent


def _push(depth: Float[Array, "atoms"], stiffness: Float[Array, ""], exponent: float) -> Float[Array, "atoms"]:
    behind = depth > 0.0
    depth = jnp.where(behind, depth, jnp.ones_like(depth))
    return jnp.where(behind, stiffness / exponent * depth**exponent, jnp.zeros_like(depth))
