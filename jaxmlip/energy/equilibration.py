r"""Charge equilibration (QEq): charges that minimize an electrostatic energy, with the total of each system fixed.

$E(q) = \sum_i \chi_i q_i + \frac{1}{2} J_i q_i^2 + \frac{1}{2} \sum_{ij} q_i A_{ij} q_j$, where $A$ is the Coulomb
interaction of Gaussian charges of widths $\sigma_i$ (periodic: by Ewald's sum), self-interaction included:
$A_{ij} = \mathrm{erf}(r / \sqrt{2 (\sigma_i^2 + \sigma_j^2)}) / r$ and $A_{ii} = 1 / \sqrt\pi \sigma_i$ in a molecule.
The minimum solves one linear system, dense, which is differentiated implicitly.

**Reference:** Rappé & Goddard, J. Phys. Chem. 95, 3358 (1991), doi:10.1021/j100161a070; with Gaussian charges as in Ko,
Finkler, Goedecker & Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2.
"""

import math
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy, SystemCheck
from jaxmlip.energy.charges import AbstractCharges, by_atomic_number
from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.energy.ewald import Lattices, check_planned, plane_features, poison
from jaxmlip.energy.ewald_plan import EwaldPlan
from jaxmlip.energy.references import species_index
from jaxmlip.graph import Blocks, Graph, blocks
from jaxmlip.system import System


class EquilibratedCharges(AbstractCharges, SystemCheck):
    """Charges by equilibration: `electronegativity` [eV/e], `hardness` [eV/e²], `radius` [Å] of each element.

    `model` adds its output for each atom [eV/e] to the electronegativity, which then depends on the neighbors (4th
    generation networks). Everything is trainable. For systems of up to a few hundred atoms; no slabs. A periodic system
    with a net charge is refused unless `background=True` asks for one that neutralizes it.
    """

    electronegativity: Float[Array, "species"]
    hardness: Float[Array, "species"]
    radius: Float[Array, "species"]
    model: AbstractEnergy | None
    plan: EwaldPlan = eqx.field(static=True)
    background: bool = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        electronegativity: Mapping[str, float],
        hardness: Mapping[str, float],
        radius: Mapping[str, float],
        plan: EwaldPlan,
        *,
        model: AbstractEnergy | None = None,
        background: bool = False,
    ):
        given = {
            "electronegativity [eV/e]": by_atomic_number(electronegativity, "electronegativity [eV/e]"),
            "hardness [eV/e²]": by_atomic_number(hardness, "hardness [eV/e²]"),
            "radius [Å]": by_atomic_number(radius, "radius [Å]"),
        }
        if len({tuple(values) for values in given.values()}) != 1:
            raise ValueError(
                "Electronegativity, hardness and radius must be given for the same elements; got those of numbers "
                + ", ".join(str(list(values)) for values in given.values())
            )
        chi, hard, wide = (np.array(list(values.values())) for values in given.values())
        if np.any(wide <= 0) or np.any(hard + units.coulomb / (math.sqrt(math.pi) * wide) <= 0):
            raise ValueError("Radii must be positive, and hardness must leave the energy of a lone charge positive.")
        if plan.mesh is not None or "slab" in plan.kinds:
            raise ValueError('Charge equilibration needs a plan with method="waves", for bulk and molecules.')
        if plan.periodic and float(erfc(np.array(plan.cutoff / (2.0 * wide.max())))) > 1e-4:
            raise ValueError(
                f"A radius of {wide.max()} Å is too large for a cutoff of {plan.cutoff} Å: Gaussian charges must look "
                f"like points there. Take a cutoff of at least {5.6 * wide.max():.1f} Å."
            )
        self.elements = tuple(given["radius [Å]"])
        self.electronegativity, self.hardness, self.radius = jnp.asarray(chi), jnp.asarray(hard), jnp.asarray(wide)
        self.model = model
        self.plan = plan
        self.background = background

    @property
    def cutoff(self) -> float:
        return max(self.plan.cutoff, 0.0 if self.model is None else self.model.cutoff)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return self.solve(graph)[0]

    def solve(self, graph: Graph) -> tuple[Float[Array, "atoms"], Float[Array, "atoms"]]:
        """Charges [e] and the energy of each atom [eV] at the minimum."""
        dtype, species = graph.positions.dtype, species_index(graph.numbers, self.elements or ())
        by_system = blocks(graph, self.plan.slots)
        chi, hardness, radius = (x.astype(dtype)[species] for x in (self.electronegativity, self.hardness, self.radius))
        if self.model is not None:
            chi = chi + self.model(graph)
        lattice = Lattices.of(graph, self.plan)
        matrix = units.coulomb * interaction_matrix(graph, radius, lattice, by_system, self.plan)
        chi, hardness = by_system.split(chi), by_system.split(hardness)

        def one(matrix, chi, hardness, mask, charge):
            ones = mask.astype(dtype)
            diagonal = jnp.where(mask, hardness, jnp.ones_like(hardness))
            whole = matrix + diagonal[:, None] * jnp.eye(len(mask), dtype=dtype)
            empty = 1.0 - jnp.max(ones)
            top = jnp.concatenate([whole, ones[:, None]], axis=1)
            left = jnp.concatenate([top, jnp.append(ones, empty)[None]], axis=0)
            right = jnp.append(-chi, charge * jnp.max(ones))
            charges = jnp.linalg.solve(left, right)[:-1]
            potential = jnp.sum(matrix * charges[None], axis=1)
            return charges, charges * (chi + 0.5 * hardness * charges + 0.5 * potential)

        charges, energies = jax.vmap(one)(matrix, chi, hardness, by_system.mask, graph.charge.astype(dtype))
        valid = lattice.valid(graph, self.plan, by_system) & ~by_system.crowded
        if not self.background:
            valid = valid & (~lattice.periodic | (graph.charge == 0.0))
        fine = poison(valid, graph, dtype)
        return by_system.join(charges, graph) * fine, by_system.join(energies, graph) * fine

    def total(self, system: System) -> float | None:
        return float(np.max(np.asarray(system.charge)))

    def check(self, system: System) -> None:
        """Refuse a system that the plan was not made for, or that has a net charge without a choice (host).

        **Raises:** `ValueError` that says what was given, what is allowed and what to do.
        """
        check_planned(self.plan, system)
        if any(system.pbc) and not self.background and np.any(np.asarray(system.charge) != 0.0):
            raise ValueError(
                f"The periodic system has a charge of {self.total(system)} e: say `background=True` for a uniform "
                "background that neutralizes it."
            )


class Equilibration(AbstractEnergy):
    """The energy of charges at equilibrium [eV], what it costs to charge the atoms included."""

    charges: EquilibratedCharges

    @property
    def cutoff(self) -> float:
        return self.charges.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.charges.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return self.charges.solve(graph)[1]


def interaction_matrix(
    graph: Graph, radius: Float[Array, "atoms"], lattice: Lattices, by_system: Blocks, plan: EwaldPlan
) -> Float[Array, "systems slots slots"]:
    """Interaction of unit Gaussian charges with each other and their images, and with themselves [1/Å]."""
    dtype = graph.positions.dtype
    places, widths = jnp.moveaxis(by_system.split(graph.positions.T), 1, 0), by_system.split(radius)
    pairs = by_system.mask[:, None, :] & by_system.mask[:, :, None]
    own = jnp.eye(by_system.mask.shape[1], dtype=bool)[None]
    lone = 1.0 / (math.sqrt(math.pi) * jnp.where(by_system.mask, widths, jnp.ones_like(widths)))
    matrix = jnp.where(own & pairs, lone[:, None, :], jnp.zeros((), dtype))
    periodic = lattice.periodic[:, None, None]
    if plan.periodic:
        waves = jax.vmap(lambda p, c, v: plane_features(p, c, v, plan))(places, lattice.cell, lattice.volume)
        smooth = waves - (math.pi / plan.alpha**2 / lattice.volume)[:, None, None]
        smooth = smooth - jnp.where(
            own, jnp.asarray(2.0 * plan.alpha / math.sqrt(math.pi), dtype), jnp.zeros((), dtype)
        )
        smooth = jnp.where(pairs, smooth, jnp.zeros((), dtype)) + _near_matrix(graph, radius, by_system, plan)
        matrix = matrix + jnp.where(periodic, smooth, jnp.zeros((), dtype))
    if "molecule" in plan.kinds:
        difference = places[:, :, None, :] - places[:, :, :, None]
        squared = jnp.sum(difference * difference, axis=1)
        r = jnp.sqrt(jnp.where(pairs & ~own, squared, jnp.ones_like(squared)))
        gamma = jnp.sqrt(2.0 * (widths[:, None, :] ** 2 + widths[:, :, None] ** 2))
        bare = erf(r / jnp.where(pairs, gamma, jnp.ones_like(gamma))) / r
        matrix = matrix + jnp.where(pairs & ~own & ~periodic, bare, jnp.zeros((), dtype))
    return matrix


def _near_matrix(
    graph: Graph, radius: Float[Array, "atoms"], by_system: Blocks, plan: EwaldPlan
) -> Float[Array, "systems slots slots"]:
    """What the neighbor list adds: the difference between Gaussian charges and what the waves take for them."""
    r = graph.lengths()
    gamma = jnp.sqrt(2.0 * (graph.gather(radius) ** 2 + (radius**2)[None, :]))
    pair = (erf(r / gamma) - erf(plan.alpha * r)) / r
    pair = pair * switch_envelope(r / plan.cutoff, plan.onset)
    pair = jnp.where(graph.edge_mask, pair, jnp.zeros_like(pair))
    slots = by_system.mask.shape[1]
    place = (graph.system_index * slots + by_system.slot)[None, :] * slots + by_system.slot[graph.senders]
    total = jax.ops.segment_sum(pair.reshape(-1), place.reshape(-1), graph.systems * slots * slots)
    return total.reshape(graph.systems, slots, slots)
