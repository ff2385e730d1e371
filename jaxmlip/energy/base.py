"""The interface of every energy, and how energies add."""

import abc
import functools
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.elements import SYMBOLS
from jaxmlip.graph import Graph
from jaxmlip.system import System

Energy = TypeVar("Energy", bound="AbstractEnergy")


class AbstractEnergy(eqx.Module):
    """A pure function from a graph to the energy of each atom [eV].

    `cutoff` [Å] is how far the energy looks for neighbors; beyond it every pair must contribute exactly nothing, and
    smoothly so. `elements` are the atomic numbers it knows, `None` for all. Padding atoms may get any finite value:
    `Graph.sum_atoms` leaves them out.
    """

    cutoff: eqx.AbstractVar[float]
    elements: eqx.AbstractVar[tuple[int, ...] | None]

    @abc.abstractmethod
    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        """Energy of each atom [eV]."""

    def __add__(self, other: "AbstractEnergy") -> "Sum":
        return Sum((self, other))

    def __mul__(self, factor: float | Float[Array, ""]) -> "Scaled":
        return Scaled(self, factor)

    def __rmul__(self, factor: float | Float[Array, ""]) -> "Scaled":
        return Scaled(self, factor)


class SystemCheck(eqx.Module):
    """What an energy, or a part of one, is that serves some systems only; see `check_system`."""

    @abc.abstractmethod
    def check(self, system: System) -> None:
        """Refuse, by a `ValueError` that says what to do, a system that it cannot serve (host)."""


class Sum(AbstractEnergy):
    """Several energies as one: `model + Ewald(...) + ZBL()`."""

    terms: tuple[AbstractEnergy, ...]

    def __init__(self, terms: tuple[AbstractEnergy, ...]):
        if not terms:
            raise ValueError("A sum needs at least one energy; got none.")
        flat: list[AbstractEnergy] = []
        for term in terms:
            flat.extend(term.terms if isinstance(term, Sum) else (term,))
        self.terms = tuple(flat)

    @property
    def cutoff(self) -> float:
        return max(term.cutoff for term in self.terms)

    @property
    def elements(self) -> tuple[int, ...] | None:
        known = [set(term.elements) for term in self.terms if term.elements is not None]
        return tuple(sorted(functools.reduce(set.intersection, known))) if known else None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        total = self.terms[0](graph)
        for term in self.terms[1:]:
            total = total + term(graph)
        return total


class Scaled(AbstractEnergy):
    """An energy times a number: a coupling parameter, or a switch."""

    energy: AbstractEnergy
    factor: Float[Array, ""]

    def __init__(self, energy: AbstractEnergy, factor: float | Float[Array, ""]):
        self.energy = energy
        self.factor = parameter(factor)

    @property
    def cutoff(self) -> float:
        return self.energy.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.energy.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return self.factor.astype(graph.positions.dtype) * self.energy(graph)


def parameter(value: float | Float[Array, "..."] | np.ndarray) -> Float[Array, "..."]:
    """A number as an array of definite type, so that a new value of it never recompiles anything."""
    return jnp.asarray(value, None if hasattr(value, "dtype") else jnp.result_type(float))


def is_parameter(leaf: Any) -> bool:
    """NumPy arrays are constants of an energy; JAX arrays of floats are its parameters."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def cast(energy: Energy, dtype: Any) -> Energy:
    """The same energy with its floating-point arrays in another type."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, energy)


def check_elements(energy: AbstractEnergy, numbers: np.ndarray) -> None:
    """Refuse atoms that an energy does not know (host).

    **Raises:** `ValueError` naming the elements that are missing and those that are known.
    """
    if energy.elements is None:
        return
    unknown = sorted(set(np.asarray(numbers).tolist()) - {0, *energy.elements})
    if unknown:
        raise ValueError(
            f"The energy does not know {', '.join(SYMBOLS[n] for n in unknown)}; "
            f"it knows {', '.join(SYMBOLS[n] for n in energy.elements)}."
        )


def check_system(energy: AbstractEnergy, system: System) -> None:
    """Refuse a system that an energy, or any part of it, cannot serve (host).

    **Raises:** `ValueError` that says what was given, what is allowed and what to do.
    """
    check_elements(energy, np.asarray(system.numbers))
    for part in system_checks(energy):
        part.check(system)


def system_checks(energy: AbstractEnergy) -> list[SystemCheck]:
    """The parts of an energy that serve some systems only (the energy itself included)."""
    found: list[SystemCheck] = []

    def visit(part: Any) -> bool:
        if isinstance(part, SystemCheck):
            found.append(part)
        return False

    jax.tree.leaves(energy, is_leaf=visit)
    return found


def check_cutoff(energy: AbstractEnergy, graph: Graph) -> None:
    """Refuse a graph whose neighbor list is shorter than the energy looks.

    **Raises:** `ValueError` with both distances.
    """
    if energy.cutoff > graph.cutoff + 1e-9:
        raise ValueError(
            f"The energy looks {energy.cutoff} Å far, but the neighbor list is complete only up to {graph.cutoff} Å."
        )
