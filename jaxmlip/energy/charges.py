"""Charges: pure functions from a graph to the charge of each atom [e]. What long-range energies take them from."""

import abc
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.elements import NUMBERS, SYMBOLS
from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.references import species_index
from jaxmlip.graph import Graph
from jaxmlip.system import System


class AbstractCharges(eqx.Module):
    """A pure function from a graph to the charge of each atom [e], in the dtype of its positions.

    `cutoff` [Å] is how far it looks for neighbors (0 where charges do not depend on them), `elements` are the atomic
    numbers it knows, `None` for all. Padding atoms may get any finite value. Charges that cannot be right (an atom that
    has none) are NaN.
    """

    cutoff: eqx.AbstractVar[float]
    elements: eqx.AbstractVar[tuple[int, ...] | None]

    @abc.abstractmethod
    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        """Charge of each atom [e]."""

    @abc.abstractmethod
    def total(self, system: System) -> float | None:
        """What the charges of a system sum to [e] (host); `None` where only the sum itself would tell."""


class SpeciesCharges(AbstractCharges):
    """A fixed charge for each element [e]: `SpeciesCharges({"Na": 1.0, "Cl": -1.0})`; keys may be atomic numbers."""

    charges: Float[Array, "species"]
    elements: tuple[int, ...] | None = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, charges: Mapping[str, float] | Mapping[int, float]):
        by_number = by_atomic_number(charges, "charge [e]")
        self.elements = tuple(by_number)
        self.charges = jnp.asarray(list(by_number.values()))
        self.cutoff = 0.0

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return self.charges.astype(graph.positions.dtype)[species_index(graph.numbers, self.elements or ())]

    def total(self, system: System) -> float | None:
        by_number = dict(zip(self.elements or (), np.asarray(self.charges, np.float64).tolist(), strict=True))
        return float(sum(by_number[n] for n in np.asarray(system.numbers).tolist() if n > 0))


class AtomCharges(AbstractCharges):
    """A fixed charge for each atom of one system [e], in the order of its atoms; padding may follow in the graph."""

    charges: Float[Array, "atoms"]
    elements: tuple[int, ...] | None = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, charges: Float[Array, "atoms"] | np.ndarray):
        charges = np.asarray(charges) if isinstance(charges, list | tuple) else charges
        if charges.ndim != 1:
            raise ValueError(f"`charges` must be one number for each atom [e]; got an array of shape {charges.shape}.")
        self.charges = parameter(charges)
        self.elements = None
        self.cutoff = 0.0

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        given, atoms = len(self.charges), len(graph.numbers)
        if given > atoms:
            raise ValueError(f"There are {given} charges, but only {atoms} atoms: give one charge for each atom.")
        charges = jnp.pad(self.charges.astype(graph.positions.dtype), (0, atoms - given))
        without = graph.atom_mask & (jnp.arange(atoms, dtype=jnp.int32) >= given)
        return jnp.where(without, jnp.asarray(jnp.nan, charges.dtype), charges)

    def total(self, system: System) -> float | None:
        atoms = system.numbers.shape[-1]
        if len(self.charges) != atoms:
            raise ValueError(f"There are {len(self.charges)} charges for {atoms} atoms: give one for each.")
        return float(np.sum(np.asarray(self.charges, np.float64)))


class ModelCharges(AbstractCharges):
    """Charges predicted by a model, the total conserved: any energy, its output for each atom read in e, not in eV.

    $q_i = q^0(z_i) + m_i + (Q - \\sum_j (q^0(z_j) + m_j)) / N$ with the output $m_i$ of `model`, a `start` for each
    element (0 by default) and the total charge $Q$ of the graph. Everything is trainable:
    `potential + Ewald(ModelCharges(ACE(...)), plan)`.

    `conserve=False` leaves the sum as it comes, for latent charges that have no total.
    """

    model: AbstractEnergy
    start: Float[Array, "species"] | None
    starters: tuple[int, ...] = eqx.field(static=True)
    conserve: bool = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractEnergy,
        *,
        start: Mapping[str, float] | Mapping[int, float] | None = None,
        conserve: bool = True,
    ):
        by_number = {} if start is None else by_atomic_number(start, "charge [e]")
        missing = [SYMBOLS[n] for n in model.elements or () if by_number and n not in by_number]
        if missing:
            raise ValueError(f"`start` must give a charge [e] for each element of the model; {missing} are missing.")
        self.model = model
        self.starters = tuple(by_number)
        self.start = jnp.asarray(list(by_number.values())) if by_number else None
        self.conserve = conserve

    @property
    def cutoff(self) -> float:
        return self.model.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.model.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        charges = self.model(graph)
        if self.start is not None:
            charges = charges + self.start.astype(charges.dtype)[species_index(graph.numbers, self.starters)]
        return conserved(charges, graph) if self.conserve else charges

    def total(self, system: System) -> float | None:
        return float(np.max(np.asarray(system.charge))) if self.conserve else None


def conserved(charges: Float[Array, "atoms"], graph: Graph) -> Float[Array, "atoms"]:
    """The same charges, shifted alike in each system so that they sum to its total charge [e]."""
    ones = jnp.ones_like(charges)
    missing = graph.charge.astype(charges.dtype) - graph.sum_atoms(charges)
    share = missing / jnp.maximum(graph.sum_atoms(ones), jnp.ones_like(missing))
    return charges + share[graph.system_index]


def by_atomic_number(values: Mapping[str, float] | Mapping[int, float], what: str) -> dict[int, float]:
    """The same mapping with atomic numbers for keys, ascending.

    **Raises:** `ValueError` for keys that are no elements, and values that are no finite numbers.
    """
    if not values:
        raise ValueError(f"Give the {what} of at least one element; got none.")
    found: dict[int, float] = {}
    for key, value in values.items():
        number = NUMBERS.get(key, 0) if isinstance(key, str) else int(key)
        if not 1 <= number < len(SYMBOLS):
            raise ValueError(f"{key!r} is no element: keys are symbols or atomic numbers 1 to {len(SYMBOLS) - 1}.")
        if not np.isfinite(value):
            raise ValueError(f"The {what} of {SYMBOLS[number]} must be finite; got {value}.")
        found[number] = float(value)
    return dict(sorted(found.items()))
