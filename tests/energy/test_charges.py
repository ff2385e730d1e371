"""Charges: fixed, predicted, equilibrated, latent."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxmlip import units
from jaxmlip.energy import (
    EquilibratedCharges,
    Equilibration,
    Ewald,
    LatentEwald,
    LennardJones,
    ModelCharges,
    SpeciesCharges,
    check_system,
    energy_forces,
    plan_ewald,
)
from jaxmlip.energy.equilibration import interaction_matrix
from jaxmlip.energy.ewald import Lattices
from jaxmlip.graph import batch, blocks
from jaxmlip.system import make_system

CELL = np.array([[6.0, 0.0, 0.0], [1.1, 6.3, 0.0], [-0.7, 0.9, 5.8]])
NUMBERS = np.array([11, 17] * 4)
SITES = np.array([[x, y, z] for x in (0.1, 0.6) for y in (0.0, 0.5) for z in (0.1, 0.55)])
POSITIONS = SITES @ CELL + np.random.default_rng(1).normal(scale=0.3, size=(8, 3))
QUICK = {"xla_backend_optimization_level": 0}
CHI, HARDNESS, RADIUS = {"Na": 2.8, "Cl": 8.6}, {"Na": 4.6, "Cl": 9.9}, {"Na": 0.8, "Cl": 0.7}

measure = jax.jit(energy_forces, compiler_options=QUICK)
evaluate = jax.jit(lambda charges, graph: charges(graph), compiler_options=QUICK)


def salt(charge=0.0):
    return make_system(POSITIONS, NUMBERS, cell=CELL, charge=charge)


def ion(charge=0.0):
    return make_system(POSITIONS[:3] * 1.3, NUMBERS[:3], charge=charge)


PLAN = plan_ewald([salt(), ion()], cutoff=5.0, accuracy=1e-5, margin=1.2)


def equilibrated(*, background=False):
    return EquilibratedCharges(CHI, HARDNESS, RADIUS, PLAN, background=background)


def test_predicted_charges_keep_the_total_of_each_system():
    charges = ModelCharges(LennardJones(0.3, 2.4, 5.0), start={"Na": 1.0, "Cl": -1.0})
    graph = batch([salt(), ion(charge=1.0)], 5.0, atoms=13)
    predicted = evaluate(charges, graph)
    np.testing.assert_allclose(graph.sum_atoms(predicted), [0.0, 1.0], atol=1e-12)
    assert np.ptp(np.asarray(predicted)[:8:2]) > 1e-3  # they depend on the neighbors
    assert charges.cutoff == 5.0 and charges.total(ion(charge=1.0)) == 1.0
    loose = ModelCharges(LennardJones(0.3, 2.4, 5.0), conserve=False)
    assert abs(float(graph.sum_atoms(evaluate(loose, graph))[0])) > 1e-3 and loose.total(salt()) is None


def test_a_loss_on_forces_trains_head_model_and_fixed_charges_alike():
    """Energies are sums of parts with parameters: the gradient reaches all of them, through the charges too."""
    head = ModelCharges(LennardJones(0.3, 2.4, 5.0), start={"Na": 1.0, "Cl": -1.0})
    energy = LennardJones(0.2, 2.2, 5.0) + Ewald(head, PLAN)
    graph = batch([salt(), ion()], 5.0, atoms=13)

    def loss(energy):
        return jnp.sum(energy_forces(energy, graph)[1] ** 2)

    gradient = jax.jit(jax.grad(loss), compiler_options=QUICK)(energy)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) == 5 and all(np.isfinite(x).all() and np.abs(x).max() > 1e-6 for x in leaves)


def test_forces_with_predicted_charges_are_derivatives_of_the_energy():
    energy = Ewald(ModelCharges(LennardJones(0.3, 2.4, 5.0)), PLAN)
    forces_are_derivatives(energy)


def test_forces_with_equilibrated_charges_are_derivatives_of_the_energy():
    """The charges do not minimize this energy, so what differentiates the solution is seen."""
    forces_are_derivatives(Ewald(equilibrated(), PLAN))


def test_forces_at_equilibrium_are_derivatives_of_the_energy():
    forces_are_derivatives(Equilibration(equilibrated()))


def forces_are_derivatives(energy, step=1e-4):
    graph = batch([salt(), ion()], 5.0, atoms=13)
    direction = jnp.asarray(np.random.default_rng(3).normal(size=(13, 3)))
    forces = measure(energy, graph)[1]
    total = [
        float(jnp.sum(measure(energy, graph.with_positions(graph.positions + s * step * direction))[0]))
        for s in (1.0, -1.0, 2.0, -2.0)
    ]
    slope = (8.0 * (total[0] - total[1]) - (total[2] - total[3])) / (12.0 * step)
    assert -float(jnp.sum(forces[:11] * direction[:11])) == pytest.approx(slope, rel=1e-8)


def test_two_atoms_equilibrate_as_on_paper():
    """With the total zero: q = (chi_2 - chi_1) / (J_1 + J_2 + A_11 + A_22 - 2 A_12)."""
    r = 2.5
    pair = make_system([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], [11, 17])
    charges = evaluate(equilibrated(), batch([salt(), pair], 5.0, atoms=13))[8:10]
    own = sum(HARDNESS[s] + units.coulomb / (math.sqrt(math.pi) * RADIUS[s]) for s in ("Na", "Cl"))
    mutual = units.coulomb * erf(r / math.sqrt(2.0 * (RADIUS["Na"] ** 2 + RADIUS["Cl"] ** 2))) / r
    expected = (CHI["Cl"] - CHI["Na"]) / (own - 2.0 * mutual)
    np.testing.assert_allclose(charges, [expected, -expected], rtol=1e-12)


def test_equilibrated_charges_keep_the_total_and_even_out_the_potential():
    """At the minimum chi + J q + A q is the same for all atoms of a system (the chemical potential)."""
    graph = batch([salt(charge=0.5), ion(charge=-1.0)], 5.0, atoms=13)
    charges = equilibrated(background=True)
    q = evaluate(charges, graph)
    np.testing.assert_allclose(graph.sum_atoms(q), [0.5, -1.0], atol=1e-12)
    by_system = blocks(graph, PLAN.slots)
    radius = jnp.where(graph.numbers == 17, 0.7, 0.8)
    matrix = units.coulomb * interaction_matrix(graph, radius, Lattices.of(graph, PLAN), by_system, PLAN)
    np.testing.assert_allclose(matrix, jnp.swapaxes(matrix, 1, 2), atol=1e-12)
    held = by_system.split(q)
    chi = jnp.where(graph.numbers == 17, CHI["Cl"], CHI["Na"])
    hard = jnp.where(graph.numbers == 17, HARDNESS["Cl"], HARDNESS["Na"])
    level = by_system.split(chi + hard * q) + jnp.einsum("sij,sj->si", matrix, held)
    for slot, atoms in ((0, 8), (1, 3)):
        assert np.ptp(np.asarray(level)[slot, :atoms]) < 1e-10


def test_narrow_charges_interact_as_points_do():
    """The matrix of charges much narrower than any distance, less their own energy, is Ewald's potential."""
    graph = batch([salt(), ion()], 5.0, atoms=13)
    by_system, lattice = blocks(graph, PLAN.slots), Lattices.of(graph, PLAN)
    q = jnp.select([graph.numbers == 11, graph.numbers == 17], [1.0, -1.0], 0.0)
    width = 0.05
    matrix = interaction_matrix(graph, jnp.full(13, width), lattice, by_system, PLAN)
    potential = by_system.join(jnp.einsum("sij,sj->si", matrix, by_system.split(q)), graph)
    points = Ewald(SpeciesCharges({"Na": 1.0, "Cl": -1.0}), PLAN, background=True).potentials(graph, q).total()
    np.testing.assert_allclose((potential - q / (math.sqrt(math.pi) * width))[:11], points[:11], rtol=1e-10)


def test_latent_charges_have_the_smooth_part_of_the_coulomb_energy():
    sigma = 1.0
    plan = plan_ewald([salt(), ion()], accuracy=1e-10, smearing=sigma)
    charges = SpeciesCharges({"Na": 1.0, "Cl": -1.0})
    graph = batch([salt(), ion()], 5.0, atoms=13)
    total = measure(LatentEwald(charges, plan), graph)[0]
    assert plan.alpha == pytest.approx(1.0 / (math.sqrt(2.0) * sigma))
    # The whole sum with the same splitting, less its real-space part.
    q = jnp.select([graph.numbers == 11, graph.numbers == 17], [1.0, -1.0], 0.0)
    parts = Ewald(charges, dataclasses.replace(plan, cutoff=5.0), background=True).potentials(graph, q)
    smooth = 0.5 * units.coulomb * float(jnp.sum((q * (parts.reciprocal + parts.self))[:8]))
    assert float(total[0]) == pytest.approx(smooth, rel=1e-10)
    positions = 1.3 * POSITIONS[:3]
    expected = 0.0
    for i, j, product in ((0, 1, -1.0), (0, 2, 1.0), (1, 2, -1.0)):
        r = np.linalg.norm(positions[i] - positions[j])
        expected += units.coulomb * product * erf(r / (math.sqrt(2.0) * sigma)) / r
    assert float(total[1]) == pytest.approx(expected, rel=1e-12)


def test_equilibration_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="charge of 0.5 e"):
        check_system(Equilibration(equilibrated()), salt(charge=0.5))
    check_system(Equilibration(equilibrated(background=True)), salt(charge=0.5))
    with pytest.raises(ValueError, match="same elements"):
        EquilibratedCharges(CHI, HARDNESS, {"Na": 1.0}, PLAN)
    with pytest.raises(ValueError, match="too large for a cutoff"):
        EquilibratedCharges(CHI, HARDNESS, {"Na": 1.0, "Cl": 3.0}, PLAN)
    with pytest.raises(ValueError, match="positive"):
        EquilibratedCharges(CHI, HARDNESS, {"Na": 1.0, "Cl": -1.0}, PLAN)
    mesh = dataclasses.replace(PLAN, mesh=(16, 16, 16), spacing=1.0)
    with pytest.raises(ValueError, match="waves"):
        EquilibratedCharges(CHI, HARDNESS, RADIUS, mesh)
