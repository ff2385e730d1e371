"""Derivatives beyond what the conformance kit checks: signs, undefined stress, Hessian products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import (
    LennardJones,
    energy_forces,
    energy_forces_stress,
    energy_forces_virial,
    hessian,
    hessian_vector_product,
)
from jaxmlip.graph import batch
from jaxmlip.system import make_system

LJ = LennardJones(0.4, 2.1, 5.0)
PAIR = make_system([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [18, 18])


def test_a_compressed_pair_pushes_apart_with_the_force_of_the_formula():
    """r = 2.0 < 2^(1/6) sigma and below the onset of the switch: F = 24 eps (2 s^12 / r^13 - s^6 / r^7)."""
    energies, forces = energy_forces(LJ, batch(PAIR, 5.0))
    x = (2.1 / 2.0) ** 6
    assert float(energies[0]) == pytest.approx(4.0 * 0.4 * (x * x - x), rel=1e-13)
    expected = 24.0 * 0.4 * (2.0 * x * x - x) / 2.0
    assert expected > 0
    np.testing.assert_allclose(forces, [[-expected, 0.0, 0.0], [expected, 0.0, 0.0]], rtol=1e-12)


def test_the_virial_of_a_pair_is_distance_times_force_and_its_stress_is_undefined():
    graph = batch(PAIR, 5.0)
    _, forces, virial = energy_forces_virial(LJ, graph)
    assert float(virial[0, 0, 0]) == pytest.approx(2.0 * float(forces[1, 0]), rel=1e-12)
    assert np.all(np.isnan(energy_forces_stress(LJ, graph).stress))


def test_a_compressed_crystal_has_negative_stress_and_a_stretched_one_positive():
    """Tension is positive, as in ASE; the pressure is minus a third of the trace."""

    def mean_stress(lattice_constant):
        cell = lattice_constant * np.eye(3)
        return float(
            jnp.trace(energy_forces_stress(LJ, batch(make_system(np.zeros((1, 3)), [18], cell=cell), 5.0)).stress[0])
        )

    assert mean_stress(1.9) < 0 < mean_stress(2.4)


def test_a_loss_that_masks_undefined_stress_has_finite_gradients():
    graph = batch([make_system([[0.0, 0.0, 0.0]], [18], cell=2.2 * np.eye(3)), PAIR], 5.0, slots=3)

    @jax.grad
    def gradient(energy):
        stress = energy_forces_stress(energy, graph).stress
        return jnp.sum(jnp.where((graph.volume() > 0)[:, None, None], stress, jnp.zeros_like(stress)) ** 2)

    leaves = jax.tree.leaves(gradient(LJ))
    assert all(bool(jnp.isfinite(leaf)) for leaf in leaves)
    assert any(float(abs(leaf)) > 0 for leaf in leaves)


def test_hessian_products_are_rows_of_the_hessian():
    graph = batch(PAIR, 5.0)
    matrix = hessian(LJ, graph)
    vector = jnp.arange(6.0).reshape(2, 3)
    product = jnp.sum(matrix * vector[None, None], axis=(2, 3))
    np.testing.assert_allclose(hessian_vector_product(LJ, graph, vector), product, rtol=1e-12, atol=1e-12)
    second = 4.0 * 0.4 * (156.0 * 2.1**12 / 2.0**14 - 42.0 * 2.1**6 / 2.0**8)
    assert float(matrix[0, 0, 0, 0]) == pytest.approx(second, rel=1e-12)
