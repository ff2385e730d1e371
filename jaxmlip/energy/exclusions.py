"""Coulomb interactions taken out of a sum, as between the bonded atoms of a rigid molecule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy, SystemCheck, parameter
from jaxmlip.energy.charges import AbstractCharges
from jaxmlip.graph import Graph
from jaxmlip.graph.nearest import nearest_images, short_lattice
from jaxmlip.system import System


class ExcludedCoulomb(AbstractEnergy, SystemCheck):
    r"""Minus the Coulomb energy of pairs of atoms of one system, each with its nearest image: `Ewald(...) + this`.

    $E = -\sum_{(i, j)} w_{ij} \, q_i q_j / r_{ij}$ in units of $e^2 / 4 \pi \epsilon_0$. `pairs` `[pairs 2]` are atom
    indices; the weights $w$ are 1 (leave the pair out) by default, 1/2 where half of the interaction is to stay. Which
    image of a molecule its atoms are in does not matter.
    """

    charges: AbstractCharges
    pairs: Int[Array, "pairs 2"]
    weights: Float[Array, "pairs"]

    def __init__(self, charges: AbstractCharges, pairs: np.ndarray, weights: np.ndarray | float = 1.0):
        pairs = np.asarray(pairs)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
            raise ValueError(f"`pairs` must be whole numbers of shape (pairs, 2); got shape {pairs.shape}.")
        if np.any(pairs < 0) or np.any(pairs[:, 0] == pairs[:, 1]):
            raise ValueError("`pairs` must be indices of two different atoms each, counted from 0.")
        if len(np.unique(np.sort(pairs, axis=1), axis=0)) != len(pairs):
            raise ValueError("`pairs` names a pair twice; each must stand there once, in either order.")
        self.charges = charges
        self.pairs = jnp.asarray(pairs, jnp.int32)
        self.weights = parameter(np.broadcast_to(np.asarray(weights, float), len(pairs)))

    @property
    def cutoff(self) -> float:
        return self.charges.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.charges.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        charges = self.charges(graph)
        first, second = self.pairs[:, 0], self.pairs[:, 1]
        system = graph.system_index[first]
        lattice = jax.tree.map(lambda x: x[system], jax.vmap(short_lattice)(graph.cell, graph.pbc))
        vectors = jax.vmap(nearest_images)(graph.positions[second] - graph.positions[first], lattice)
        r = jnp.sqrt(jnp.sum(vectors * vectors, axis=1))
        energy = -units.coulomb * self.weights.astype(r.dtype) * charges[first] * charges[second] / r
        halves = 0.5 * jnp.concatenate([energy, energy])
        return jax.ops.segment_sum(halves, jnp.concatenate([first, second]), len(graph.numbers))

    def check(self, system: System) -> None:
        """Refuse a system that has fewer atoms than the pairs name (host).

        **Raises:** `ValueError` with both numbers.
        """
        largest, atoms = int(np.max(np.asarray(self.pairs), initial=0)), system.numbers.shape[-1]
        if largest >= atoms:
            raise ValueError(f"The excluded pairs name atom {largest}, but the system has {atoms} atoms.")
