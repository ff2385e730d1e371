r"""The noise of labels, as a term beside an energy: what a likelihood needs to know of energies, forces and virials.

Labels scatter about the truth: a calculation that is not quite converged, a thermal average that is not quite over and,
for a model of finite size, what it cannot describe. The noise is one number for each kind of label or, where a `head`
says by how much it differs from atom to atom, one for each atom.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.graph import Graph

LEAST = (1e-5, 1e-4, 1e-4)
"""Labels are never taken to be better than this: energies per atom [eV], forces [eV/Å], virials per atom [eV]."""
_STRIDE = 10.0  # an optimizer moves a level as fast as a weight, but noise spans orders of magnitude


class Noise(NamedTuple):
    """Standard deviations of labels: of the energy per atom [eV] and the virial per atom [eV] of each system, and of
    the components of the force on each atom [eV/Å]."""

    energy: Float[Array, "systems"]
    forces: Float[Array, "atoms"]
    virial: Float[Array, "systems"]


class LabelNoise(AbstractEnergy):
    r"""What is known of the noise of labels, kept with the energy that it was learned with: `model + LabelNoise(...)`.

    As an energy it is zero, so that it costs dynamics nothing. The noise of a force component of atom i is
    $\sigma_F e^{g_i}$, that of the energy per atom and of the virial per atom of a system
    $\sigma_E \langle e^{2 g} \rangle^{1/2}$ and $\sigma_V \langle e^{2 g} \rangle^{1/2}$, averaged over its atoms.
    $g_i = \mathrm{arsinh} \, h_i$ (the noise is as $h$ or $1/|h|$ far out), where the `head`, an energy like any other,
    says $h_i$ of atom i; zero without a head.
    `levels` are the logarithms of the three $\sigma$ over 10, which `LEAST` bounds smoothly from below. They train
    where they are JAX's array, and stay what they are where they are NumPy's (`fixed`).
    """

    head: AbstractEnergy | None
    levels: Any

    def __init__(
        self,
        sigma: Any = (1.0, 1.0, 1.0),
        *,
        head: AbstractEnergy | None = None,
        fixed: bool = False,
    ):
        """`sigma` is the noise of energies per atom [eV], force components [eV/Å] and virials per atom [eV].

        **Raises:** `ValueError` where one is not positive.
        """
        given = np.asarray(sigma, np.float64)
        if given.shape != (3,) or not np.all(np.isfinite(given) & (given > 0)):
            raise ValueError(f"`sigma` must be three positive numbers (energy, force, virial); got {given.tolist()}.")
        least = np.asarray(LEAST)
        levels = np.log(np.maximum(given, 1.001 * least) ** 2 - least**2) / (2.0 * _STRIDE)
        self.head = head
        self.levels = levels if fixed else jnp.asarray(levels, jnp.result_type(float))

    @property
    def cutoff(self) -> float:
        return 0.0 if self.head is None else self.head.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return None if self.head is None else self.head.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return jnp.zeros_like(graph.positions[:, 0])

    def sigma(self, dtype: Any = None) -> Float[Array, "3"]:
        """The noise of energies per atom [eV], force components [eV/Å] and virials per atom [eV], the head left out."""
        levels = jnp.asarray(self.levels, jnp.result_type(float) if dtype is None else dtype)
        least = jnp.asarray(LEAST, levels.dtype)
        return jnp.sqrt(jnp.exp(2.0 * _STRIDE * levels) + least * least)

    def factors(self, graph: Graph) -> Float[Array, "atoms"]:
        """The logarithm of each atom's noise over the common one."""
        if self.head is None:
            return jnp.zeros_like(graph.positions[:, 0])
        return jnp.arcsinh(self.head(graph))

    def of(self, graph: Graph, factors: Float[Array, "atoms"] | None = None) -> Noise:
        """The noise of every label of a graph, with other `factors` than those of the head where they are given.

        Only the noise of forces has a derivative by the head: of energies there are too few to learn it from.
        """
        energy, force, virial = self.sigma(graph.positions.dtype)
        factors = self.factors(graph) if factors is None else factors
        held = lax.stop_gradient(factors)
        ones = jnp.ones_like(factors)
        square = graph.sum_atoms(jnp.exp(2.0 * held)) / jnp.maximum(graph.sum_atoms(ones), jnp.ones_like(energy))
        empty = square <= 0.0  # a slot without atoms
        mean = jnp.sqrt(jnp.where(empty, jnp.ones_like(square), square))
        return Noise(energy * mean, force * jnp.exp(factors), virial * mean)
