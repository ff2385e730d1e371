"""Particle-mesh Ewald: the same energies as Ewald's sum, by a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import Ewald, SpeciesCharges, energy_forces_virial, hessian_vector_product, plan_ewald
from jaxmlip.energy.pme import spline_values, spline_weights
from jaxmlip.graph import batch
from jaxmlip.system import make_system

SALT = SpeciesCharges({"Na": 1.0, "Cl": -1.0})
CELL = np.array([[7.0, 0.0, 0.0], [1.1, 6.3, 0.0], [-0.7, 0.9, 5.8]])
NUMBERS = np.array([11, 17] * 4)
SITES = np.array([[x, y, z] for x in (0.1, 0.6) for y in (0.0, 0.5) for z in (0.1, 0.55)])
POSITIONS = SITES @ CELL + np.random.default_rng(1).normal(scale=0.3, size=(8, 3))
QUICK = {"xla_backend_optimization_level": 0}

measure = jax.jit(energy_forces_virial, compiler_options=QUICK)


def salt(scale=1.0):
    return make_system(scale * POSITIONS, NUMBERS, cell=scale * CELL)


def waves(accuracy):
    return plan_ewald(salt(), cutoff=5.0, accuracy=accuracy, method="waves")


@pytest.mark.parametrize("order", [4, 5, 8])
def test_splines_sum_to_one_and_agree_with_their_nodes(order):
    offsets = jnp.asarray([0.0, 0.3, 0.9])
    weights = spline_weights(offsets, order)
    np.testing.assert_allclose(jnp.sum(weights, axis=0), 1.0, atol=1e-14)
    np.testing.assert_allclose(weights[1:, 0], spline_values(order), atol=1e-15)
    # the first moment of a spline of any order from 2 on is linear: interpolation is exact for straight lines
    nodes = jnp.arange(order, dtype=offsets.dtype)[:, None]
    np.testing.assert_allclose(jnp.sum(weights * (offsets[None] + nodes), axis=0), order / 2.0, atol=1e-14)


def test_the_mesh_converges_to_the_waves():
    graph, plan = batch(salt(), 5.0), waves(1e-9)
    exact = measure(Ewald(SALT, plan), graph)
    errors = []
    for points in (20, 40):
        mesh = dataclasses.replace(plan, mesh=(points, points, points), order=8, spacing=1.0)
        got = measure(Ewald(SALT, mesh), graph)
        errors.append([float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(got, exact, strict=True)])
    assert max(errors[1]) < 1e-6
    assert np.all(np.array(errors[1]) < np.array(errors[0]) / 2.0**6)  # a spline of order 8: nearly 2^8


def test_the_requested_accuracy_is_reached():
    graph = batch(salt(), 5.0)
    exact = measure(Ewald(SALT, waves(1e-9)), graph)
    plan = plan_ewald(salt(), cutoff=5.0, accuracy=1e-4, method="mesh")
    assert plan.mesh is not None
    got = measure(Ewald(SALT, plan), graph)
    spacing = (float(salt().volume()) / 8.0) ** (1.0 / 3.0)
    error = float(np.sqrt(np.mean(np.sum((got[1] - exact[1]) ** 2, axis=1)))) * spacing**2 / 14.4
    assert 1e-7 < error < 1e-4


def test_forces_stress_and_curvature_are_derivatives_of_the_energy():
    plan = dataclasses.replace(waves(1e-4), mesh=(24, 24, 20), order=6, spacing=1.0)
    energy, graph = Ewald(SALT, plan), batch([salt(), salt()], 5.0, atoms=18)  # a batch: one mesh for each
    total, forces, virial = measure(energy, graph)
    assert float(total[0]) == pytest.approx(float(total[1]), rel=1e-12)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(18, 3)))
    product = jax.jit(hessian_vector_product, compiler_options=QUICK)(energy, graph, direction)
    step = 1e-4
    up, down = (measure(energy, graph.with_positions(graph.positions + s * direction)) for s in (step, -step))
    slope = float(jnp.sum(up[0] - down[0])) / (2 * step)
    assert -float(jnp.sum(forces[:16] * direction[:16])) == pytest.approx(slope, rel=1e-6)
    np.testing.assert_allclose(product[:16], -(up[1] - down[1])[:16] / (2 * step), rtol=0, atol=1e-4)
    strain = np.array([[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.2]])
    both = jnp.asarray(np.broadcast_to(strain, (2, 3, 3)))
    up, down = (measure(energy, graph.strained(s * both))[0] for s in (step, -step))
    assert -float(jnp.sum(virial[0] * strain)) == pytest.approx(float(up[0] - down[0]) / (2 * step), rel=1e-6)


def test_a_cell_that_outgrew_the_mesh_is_never_a_number():
    plan = plan_ewald(salt(), cutoff=5.0, accuracy=1e-3, method="mesh")
    assert np.isnan(measure(Ewald(SALT, plan), batch(salt(1.5), 5.0))[1]).all()


def test_a_mesh_is_planned_for_many_atoms_and_waves_for_few():
    sites = np.stack(np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    large = make_system(3.0 * sites, np.where(sites.sum(axis=1) % 2 == 0, 11, 17), cell=[36.0] * 3)
    assert plan_ewald(large, cutoff=6.0).mesh is not None
    assert plan_ewald(salt(), cutoff=6.0).mesh is None
    with pytest.raises(ValueError, match="order"):
        dataclasses.replace(waves(1e-3), order=3)
    with pytest.raises(ValueError, match="at least 6 points"):
        dataclasses.replace(waves(1e-3), mesh=(4, 8, 8))
