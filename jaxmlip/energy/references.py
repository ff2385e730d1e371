"""Energies of isolated atoms: the constant part of every potential."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.graph import Graph


class AtomicReferences(AbstractEnergy):
    """A constant energy for each element [eV]: `AtomicReferences({14: -107.3})`."""

    energies: Float[Array, "species"]
    elements: tuple[int, ...] | None = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, energies: Mapping[int, float]):
        if not energies:
            raise ValueError("Give the energy [eV] of at least one element; got none.")
        numbers = tuple(sorted(int(n) for n in energies))
        if numbers[0] < 1 or numbers[-1] >= len(SYMBOLS):
            raise ValueError(f"Keys must be atomic numbers 1 to {len(SYMBOLS) - 1}; got {numbers}.")
        self.energies = jnp.asarray([float(energies[n]) for n in numbers])
        self.elements = numbers
        self.cutoff = 0.0

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        species = species_index(graph.numbers, self.elements or ())
        return self.energies.astype(graph.positions.dtype)[species]


def species_index(numbers: Int[Array, "atoms"], elements: tuple[int, ...]) -> Int[Array, "atoms"]:
    """Dense index of each atom among `elements`; unknown numbers and padding give 0 (refuse them on the host)."""
    table = np.zeros(len(SYMBOLS), np.int32)
    table[list(elements)] = np.arange(len(elements))
    return jnp.asarray(table)[numbers]


def reject_strangers(energies: Float[Array, "atoms"], graph: Graph, elements: tuple[int, ...]) -> Float[Array, "atoms"]:
    """The same energies, but NaN for an atom that is not among `elements`: never those of another element."""
    known = np.zeros(len(SYMBOLS), bool)
    known[[0, *elements]] = True
    return jnp.where(jnp.asarray(known)[graph.numbers], energies, jnp.asarray(jnp.nan, energies.dtype))


def fit_references(
    numbers: list[np.ndarray], energies: np.ndarray, *, ridge: float = 1e-8
) -> tuple[dict[int, float], tuple[int, ...]]:
    """Least-squares energy of each element [eV] from total energies [eV], and the elements that are not determined.

    A composition that is rank deficient (every frame NaCl, say) cannot tell elements apart: the smallest solution is
    taken, and the elements that share the freedom are named.
    """
    elements = tuple(sorted({int(n) for z in numbers for n in z if n > 0}))
    counts = np.array([[np.sum(z == e) for e in elements] for z in numbers], np.float64)
    scale = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    _, singular, basis = np.linalg.svd(counts / scale, full_matrices=True)
    rank = int(np.sum(singular > ridge * singular.max(initial=1.0)))
    solution = np.linalg.lstsq(counts / scale, np.asarray(energies) / scale[:, 0], rcond=ridge)[0]
    free = np.abs(basis[rank:]).max(axis=0, initial=0.0) > 1e-6
    fitted = dict(zip(elements, solution.tolist(), strict=True))
    return fitted, tuple(e for e, f in zip(elements, free, strict=True) if f)
