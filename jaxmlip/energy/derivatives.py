"""Derivatives of any energy: forces, virial, stress, Hessian and its products. Never coded by hand, so always exact."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy, check_cutoff
from jaxmlip.graph import Graph


class Derivatives(NamedTuple):
    """What an energy says of a graph: `energy` [eV], `forces` [eV/Å], `stress` [eV/Å³, tension positive]."""

    energy: Float[Array, "systems"]
    forces: Float[Array, "atoms 3"]
    stress: Float[Array, "systems 3 3"]


def system_energies(energy: AbstractEnergy, graph: Graph) -> Float[Array, "systems"]:
    """Energy of each system [eV]."""
    check_cutoff(energy, graph)
    return graph.sum_atoms(energy(graph))


def energy_forces(energy: AbstractEnergy, graph: Graph) -> tuple[Float[Array, "systems"], Float[Array, "atoms 3"]]:
    """Energy of each system [eV] and the force on each atom, minus the gradient of the energy [eV/Å]."""

    def total(positions):
        energies = system_energies(energy, graph.with_positions(positions))
        return jnp.sum(energies), energies

    gradient, energies = jax.grad(total, has_aux=True)(graph.positions)
    return energies, -gradient


def energy_forces_virial(
    energy: AbstractEnergy, graph: Graph
) -> tuple[Float[Array, "systems"], Float[Array, "atoms 3"], Float[Array, "systems 3 3"]]:
    r"""Energy [eV], forces [eV/Å] and virial $-\partial E / \partial \epsilon$ [eV], in one backward pass.

    The strain $\epsilon$ is symmetrized, so the virial is symmetric.
    """

    def total(positions, strain):
        symmetric = 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
        energies = system_energies(energy, graph.with_positions(positions).strained(symmetric))
        return jnp.sum(energies), energies

    strain = jnp.zeros_like(graph.cell)
    (gradient, virial), energies = jax.grad(total, argnums=(0, 1), has_aux=True)(graph.positions, strain)
    return energies, -gradient, -virial


def energy_forces_stress(energy: AbstractEnergy, graph: Graph) -> Derivatives:
    r"""Energy, forces and stress $\sigma = \frac{1}{V} \partial E / \partial \epsilon$ (tension positive, as ASE).

    The stress of a system without volume (a molecule in free space, an empty slot) is not defined and comes out as
    NaN; a loss that masks it has finite gradients all the same.
    """
    energies, forces, virial = energy_forces_virial(energy, graph)
    volume = graph.volume()[:, None, None]
    spans = volume > 0
    # NaN is chosen, never multiplied: 0 * NaN would reach the gradient of a loss that leaves these systems out.
    stress = jnp.where(spans, -virial / jnp.where(spans, volume, jnp.ones_like(volume)), jnp.nan)
    return Derivatives(energies, forces, stress)


def hessian_vector_product(
    energy: AbstractEnergy, graph: Graph, vector: Float[Array, "atoms 3"]
) -> Float[Array, "atoms 3"]:
    """Second derivative of the total energy along one direction [eV/Å² times the unit of `vector`], matrix-free."""

    def gradient(positions):
        return -energy_forces(energy, graph.with_positions(positions))[1]

    return jax.jvp(gradient, (graph.positions,), (vector,))[1]


def hessian(energy: AbstractEnergy, graph: Graph) -> Float[Array, "atoms 3 atoms 3"]:
    """All second derivatives of the total energy [eV/Å²], one product at a time (memory of a few graphs)."""
    atoms = len(graph.positions)
    basis = jnp.eye(3 * atoms, dtype=graph.positions.dtype).reshape(3 * atoms, atoms, 3)
    columns = jax.lax.map(lambda v: hessian_vector_product(energy, graph, v), basis)
    return columns.reshape(atoms, 3, atoms, 3)
