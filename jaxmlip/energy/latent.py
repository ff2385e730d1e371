r"""Latent Ewald: long-range energy of hidden charges that are learned from energies and forces alone."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy, SystemCheck
from jaxmlip.energy.charges import AbstractCharges
from jaxmlip.energy.ewald import (
    Lattices,
    check_planned,
    molecule_potential,
    poison,
    reciprocal_potential,
    surface_potential,
)
from jaxmlip.energy.ewald_plan import EwaldPlan
from jaxmlip.graph import Graph, blocks
from jaxmlip.system import System


class LatentEwald(AbstractEnergy, SystemCheck):
    r"""Energy of Gaussian charges of one width $\sigma$, each with all others: only the smooth part of a Coulomb sum.

    $E = \frac{1}{2} \sum_i q_i \left( \frac{4 \pi}{V} \sum_{k \ne 0} \frac{e^{-\sigma^2 k^2 / 2}}{k^2} \mathrm{Re}
    (S(k)^* e^{i k r_i}) - \sqrt{2 / \pi} \, q_i / \sigma \right)$, and in a molecule
    $\frac{1}{2} \sum_{i \ne j} q_i q_j \, \mathrm{erf}(r_{ij} / \sqrt 2 \sigma) / r_{ij}$, in units of
    $e^2 / 4 \pi \epsilon_0$. What is missing near by is left to a short-range model:
    `model + LatentEwald(ModelCharges(head, conserve=False), plan_ewald(systems, smearing=1.0))`. There are no labels
    for the charges, and no total is asked of them; a background neutralizes what they sum to.

    **Reference:** Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
    """

    charges: AbstractCharges
    plan: EwaldPlan = eqx.field(static=True)

    @property
    def cutoff(self) -> float:
        return self.charges.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.charges.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        plan, by_system = self.plan, blocks(graph, self.plan.slots)
        charges = self.charges(graph)
        charges = jnp.where(graph.atom_mask, charges, jnp.zeros_like(charges))
        lattice = Lattices.of(graph, plan)
        potential = jnp.zeros_like(charges)
        if plan.periodic:
            waves = reciprocal_potential(graph, charges, lattice, by_system, plan)
            waves = waves - charges * (2.0 * plan.alpha / math.sqrt(math.pi))
            waves = waves + surface_potential(graph, charges, lattice, plan, vacuum=False)
            potential = lattice.periodic.astype(charges.dtype)[graph.system_index] * waves
        if "molecule" in plan.kinds:
            free = molecule_potential(graph, charges, by_system, lambda r: erf(plan.alpha * r) / r)
            potential = jnp.where(lattice.periodic[graph.system_index], potential, free)
        valid = lattice.valid(graph, plan, by_system) & ~by_system.crowded
        return 0.5 * units.coulomb * charges * potential * poison(valid, graph, charges.dtype)

    def check(self, system: System) -> None:
        """Refuse a system that the plan was not made for (host).

        **Raises:** `ValueError` that says what was given, what is allowed and what to do.
        """
        check_planned(self.plan, system)
