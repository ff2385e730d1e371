"""Collective variables: one number for each system of a graph, for restraints, umbrellas and metadynamics to act on."""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.energy.angles import angle_between, torsion
from jaxmlip.energy.base import SystemCheck, parameter
from jaxmlip.energy.terms import Places, check_atoms, read_indices
from jaxmlip.graph import Graph
from jaxmlip.graph.graph import safe_norm
from jaxmlip.system import System


class AbstractVariable(eqx.Module):
    """A pure function from a graph to one number for each system, differentiable twice.

    `cutoff` [Å] is how far it looks for neighbors, 0 where it does not. `period` is the length after which its values
    repeat (2 pi for a torsion), `None` where they do not.
    """

    cutoff: eqx.AbstractVar[float]
    period: eqx.AbstractVar[float | None]

    @abc.abstractmethod
    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        """The value for each system."""


class Variable(AbstractVariable):
    """Any pure function of a graph as a collective variable: `Variable(lambda graph: graph.volume())`.

    It must give one number for each system of the graph, and be defined once, not in a loop.
    """

    function: Callable[[Graph], Float[Array, "systems"]] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True, default=0.0)
    period: float | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        return self.function(graph)


class _OnAtoms(AbstractVariable, SystemCheck):
    """A variable of some atoms of one system; the graph may hold this system many times (see `terms.Places`)."""

    index: eqx.AbstractVar[Int[Array, "terms width"]]
    atoms: eqx.AbstractVar[int]

    def check(self, system: System) -> None:
        check_atoms("atoms of a collective variable", self.atoms, len(system.numbers))


class Coordinate(_OnAtoms):
    """Where an atom stands along an axis [Å], not wrapped: `Coordinate(0, axis=2, atoms=1)`."""

    index: Int[Array, "terms 1"]
    axis: int = eqx.field(static=True)
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    period: float | None = eqx.field(static=True)

    def __init__(self, atom: int, axis: int, *, atoms: int):
        if axis not in (0, 1, 2):
            raise ValueError(f"`axis` must be 0, 1 or 2; got {axis}.")
        self.index, self.axis, self.atoms = read_indices([[atom]], 1, atoms), axis, atoms
        self.cutoff, self.period = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        places = Places(graph, self.index, self.atoms)
        return places.marked(graph.positions[places.index[:, 0, 0], self.axis])


class Distance(_OnAtoms):
    """The distance of two atoms [Å], of their nearest images."""

    index: Int[Array, "terms 2"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    period: float | None = eqx.field(static=True)

    def __init__(self, first: int, second: int, *, atoms: int):
        self.index, self.atoms = read_indices([[first, second]], 2, atoms), atoms
        self.cutoff, self.period = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        places = Places(graph, self.index, self.atoms)
        return places.marked(safe_norm(jnp.moveaxis(places.vectors(0, 1)[:, 0], -1, 0)))


class Angle(_OnAtoms):
    """The angle of three atoms, the vertex second [rad]. In line, where it has no derivative, zero is given."""

    index: Int[Array, "terms 3"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    period: float | None = eqx.field(static=True)

    def __init__(self, first: int, vertex: int, last: int, *, atoms: int):
        self.index, self.atoms = read_indices([[first, vertex, last]], 3, atoms), atoms
        self.cutoff, self.period = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        places = Places(graph, self.index, self.atoms)
        return places.marked(angle_between(places.vectors(1, 0)[:, 0], places.vectors(1, 2)[:, 0]))


class Torsion(_OnAtoms):
    """The dihedral angle of a chain of four atoms [rad], from -pi to pi; periodic."""

    index: Int[Array, "terms 4"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    period: float | None = eqx.field(static=True)

    def __init__(self, first: int, second: int, third: int, fourth: int, *, atoms: int):
        self.index, self.atoms = read_indices([[first, second, third, fourth]], 4, atoms), atoms
        self.cutoff, self.period = 0.0, 2.0 * np.pi

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        places = Places(graph, self.index, self.atoms)
        cosine, sine, _ = torsion(*(places.vectors(k, k + 1)[:, 0] for k in range(3)))
        return places.marked(jnp.arctan2(sine, cosine))


class Coordination(_OnAtoms):
    r"""How many atoms of one group are near those of another: $\sum_{ij} \frac{1 - x^n}{1 - x^m}$, $x = r_{ij} / r_0$.

    `distance` is $r_0$ [Å], `n` = 6 and `m` = 12 by default, for which a pair counts $1 / (1 + x^6)$; in general the
    fraction is summed as polynomials over their common factor, so that x = 1 is no exception.

    **Reference:** Iannuzzi, Laio & Parrinello, Phys. Rev. Lett. 90, 238302 (2003),
    doi:10.1103/PhysRevLett.90.238302.
    """

    index: Int[Array, "terms 2"]
    distance: Float[Array, ""]
    n: int = eqx.field(static=True)
    m: int = eqx.field(static=True)
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    period: float | None = eqx.field(static=True)

    def __init__(
        self, first: Sequence[int], second: Sequence[int], distance: float, n: int = 6, m: int = 12, *, atoms: int
    ):
        pairs = [[i, j] for i in first for j in second if i != j]
        if not pairs:
            raise ValueError(f"Name two groups of atoms; got {list(first)} and {list(second)}.")
        if not 0 < n < m:
            raise ValueError(f"The powers must be 0 < n < m; got n = {n} and m = {m}.")
        if not distance > 0.0:
            raise ValueError(f"`distance` must be positive [Å]; got {distance}.")
        self.index, self.distance, self.n, self.m, self.atoms = (
            read_indices(pairs, 2, atoms),
            parameter(distance),
            n,
            m,
            atoms,
        )
        self.cutoff, self.period = 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "systems"]:
        places = Places(graph, self.index, self.atoms)
        vectors = places.vectors(0, 1)
        x = safe_norm(jnp.moveaxis(vectors, -1, 0)) / self.distance.astype(vectors.dtype)
        return places.marked(jnp.sum(_steps(x, self.n) / _steps(x, self.m), axis=-1))


def _steps(x: Float[Array, "*pairs"], count: int) -> Float[Array, "*pairs"]:
    """$1 + x + ... + x^{n - 1}$, which is $(1 - x^n) / (1 - x)$."""
    total = jnp.ones_like(x)
    for _ in range(count - 1):
        total = 1.0 + x * total
    return total
