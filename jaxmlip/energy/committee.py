r"""Committees: energies of one form with different parameters, evaluated together.

As an energy a committee is the mean $\bar E_i$ of its members. How far they disagree estimates what the data did not
settle: the sample covariance $\sum_m (y_m - \bar y)(y_m - \bar y)^T / (M - 1)$ of energies, forces and virials.

Members that differ in all parameters are a deep ensemble; members that differ in the last layer alone share the rest
and its cost (a shallow ensemble). All members run under one `vmap` over what is theirs, so that neighbors, distances
and whatever does not depend on their parameters are computed once.

**Reference:** Lakshminarayanan, Pritzel & Blundell, NeurIPS (2017), arXiv:1612.01474 (deep ensembles); Kellner &
Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024), doi:10.1088/2632-2153/ad594a (shallow ensembles).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy, Sum, is_parameter, system_checks
from jaxmlip.energy.derivatives import energy_forces_virial
from jaxmlip.graph import Graph

Choose = Callable[[Any], Sequence[Any]]


class Committee(AbstractEnergy):
    """Members of one form; as an energy, their mean. Make one with `Committee.of`.

    `own` holds the parameters that differ, members leading, and nothing elsewhere; `shared` the rest.
    """

    own: Any
    shared: Any

    def __init__(self, own: Any, shared: Any):
        self.own, self.shared = own, shared

    @classmethod
    def of(cls, energies: Sequence[AbstractEnergy], own: Choose | None = None) -> Committee:
        """A committee of energies that are alike but for the numbers in their arrays.

        `own` chooses the arrays that each member keeps for itself (`jaxmlip.learn.linearised.last_layer`, say); the
        others are those of the first. Without it all arrays of floats are the members' own.

        **Raises:** `ValueError` for fewer than two members, members of different form, long-range members, or a choice
        without arrays.
        """
        if len(energies) < 2:
            raise ValueError(
                f"A committee needs two members at least; got {len(energies)}. One alone says nothing of its own error."
            )
        forms = {jax.tree.structure(energy) for energy in energies}
        shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(energy)) for energy in energies}
        if len(forms) > 1 or len(shapes) > 1:
            raise ValueError("The members of a committee must have the same form: same class, settings and sizes.")
        if any(hasattr(part, "plan") for part in system_checks(energies[0])):
            raise ValueError("A member is planned for certain cells (an Ewald sum): add it to the committee instead.")
        chosen = [is_parameter(leaf) for leaf in jax.tree.leaves(energies[0])]
        if own is not None:
            mine = {id(leaf) for leaf in own(energies[0])}
            chosen = [c and id(leaf) in mine for c, leaf in zip(chosen, jax.tree.leaves(energies[0]), strict=True)]
        if not any(chosen):
            raise ValueError("No array of floats is left to the members: there is nothing in which they could differ.")
        mask = jax.tree.unflatten(jax.tree.structure(energies[0]), chosen)
        parts = [eqx.partition(energy, mask) for energy in energies]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part for part, _ in parts))
        return cls(stacked, parts[0][1])

    @property
    def members(self) -> int:
        return jax.tree.leaves(self.own)[0].shape[0]

    @property
    def cutoff(self) -> float:
        return self.shared.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.shared.elements

    def with_own(self, own: Any) -> AbstractEnergy:
        """The member whose own parameters these are: a slice of `own`, without its leading axis."""
        return eqx.combine(own, self.shared)

    def member(self, index: int) -> AbstractEnergy:
        """One member, an energy like any other."""
        return self.with_own(jax.tree.map(lambda leaf: leaf[index], self.own))

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        energies = jax.vmap(lambda own: self.with_own(own)(graph))(self.own)
        return jnp.mean(energies, axis=0)


class Members(NamedTuple):
    """What each member of a committee says: energies [eV], forces [eV/Å], and dE/d strain [eV]."""

    energy: Float[Array, "members systems"]
    forces: Float[Array, "members atoms 3"]
    virial: Float[Array, "members systems 3 3"]


def member_derivatives(committee: Committee, graph: Graph) -> Members:
    """Energies, forces and virials of all members; as costly as their derivatives one by one, save what they share."""
    return Members(*jax.vmap(lambda own: energy_forces_virial(committee.with_own(own), graph))(committee.own))


def split_committee(energy: AbstractEnergy) -> tuple[Committee, AbstractEnergy | None]:
    """The committee in an energy, and the rest of it, on which all members agree.

    **Raises:** `ValueError` where there is none, or more than one.
    """
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    found = [term for term in terms if isinstance(term, Committee)]
    rest = tuple(term for term in terms if not isinstance(term, Committee))
    if len(found) != 1:
        names = ", ".join(type(term).__name__ for term in terms)
        raise ValueError(f"One committee is needed among the terms; got {names}. Make one with `Committee.of`.")
    return found[0], (Sum(rest) if rest else None)


def has_committee(energy: AbstractEnergy) -> bool:
    """Whether there is a committee among the terms of an energy."""
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    return any(isinstance(term, Committee) for term in terms)


class Spread(NamedTuple):
    """Standard deviations over the members: of the energy per atom [eV] of each system, of force components [eV/Å],
    of the virial per atom [eV]; zero where atoms are padding."""

    energy: Float[Array, "systems"]
    forces: Float[Array, "atoms 3"]
    virial: Float[Array, "systems 3 3"]


def spread(committee: Committee, graph: Graph) -> Spread:
    """How far the members of a committee disagree (unbiased sample standard deviations)."""
    found = member_derivatives(committee, graph)
    ones = jnp.where(graph.atom_mask, jnp.ones_like(graph.positions[:, 0]), jnp.zeros_like(graph.positions[:, 0]))
    atoms = jnp.maximum(graph.sum_atoms(ones), 1.0)
    forces = jnp.where(graph.atom_mask[:, None], deviation(found.forces), jnp.zeros_like(graph.positions))
    return Spread(deviation(found.energy) / atoms, forces, deviation(found.virial) / atoms[:, None, None])


def deviation(values: Float[Array, "members *shape"]) -> Float[Array, "*shape"]:
    """Sample standard deviation over the leading axis, with a gradient where all members agree."""
    square = jnp.sum((values - jnp.mean(values, axis=0, keepdims=True)) ** 2, axis=0) / float(values.shape[0] - 1)
    positive = square > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square))), jnp.zeros_like(square))
