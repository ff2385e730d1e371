"""Observables against direct sums and exact limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.graph import batch
from jaxmlip.observables.dynamics import (
    diffusion_coefficient,
    green_kubo,
    mean_squared_displacement,
    velocity_autocorrelation,
)
from jaxmlip.observables.structure import (
    coordination,
    pair_counts,
    radial_distribution,
    smooth_pair_counts,
    structure_factor,
    wave_indices,
)
from jaxmlip.observables.thermo import kinetic_energy, pressure, pressure_tensor, temperature
from jaxmlip.system import make_system


def test_pressure_is_a_third_of_the_trace_and_the_ideal_gas_law():
    rng = np.random.default_rng(0)
    momenta, masses, volume = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.uniform(1, 9, 6)), jnp.asarray(50.0)
    stress = jnp.asarray(rng.normal(size=(3, 3)))
    tensor = pressure_tensor(stress, momenta, masses, volume)
    assert float(pressure(stress, momenta, masses, volume)) == pytest.approx(float(jnp.trace(tensor)) / 3)
    assert float(kinetic_energy(momenta, masses)) == pytest.approx(
        sum(0.5 * np.sum(np.asarray(p) ** 2) / m for p, m in zip(momenta, np.asarray(masses), strict=True))
    )
    gas = pressure(jnp.zeros((3, 3)), momenta, masses, volume)
    assert float(gas * volume) == pytest.approx(6 * units.kB * float(temperature(momenta, masses, 18)))
    assert float(temperature(momenta, masses, 0)) == 0.0


def test_g_of_an_ideal_gas_is_flat_and_neighbors_of_a_crystal_are_counted():
    rng = np.random.default_rng(1)
    edges = jnp.linspace(0.0, 4.0, 9)
    gas = batch(make_system(rng.uniform(0, 12.0, (400, 3)), [18] * 400, cell=[12.0] * 3), 4.0)
    counts = pair_counts(gas, edges)
    g = np.asarray(radial_distribution(counts, edges, 400, gas.volume()[0]))
    error = np.sqrt(2.0 / np.maximum(np.asarray(counts), 1.0)) * g
    assert np.all(np.abs(g - (1 - 1 / 400)) < 4 * error)
    assert float(jnp.sum(counts)) == float(jnp.sum(gas.edge_mask & (gas.lengths() < 4.0)))
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 5.0
    crystal = batch(make_system(corners, [18] * 4, cell=[5.0] * 3), 5.5)
    shells = coordination(pair_counts(crystal, jnp.asarray([0.0, 3.0, 4.0, 5.2])), 4)
    assert np.asarray(shells).tolist() == [0.0, 12.0, 18.0]


def test_smooth_counts_go_over_into_counts_and_have_their_derivative():
    system = make_system(np.random.default_rng(2).uniform(0, 8.0, (12, 3)), [18] * 12, cell=[8.0] * 3)
    graph, edges = batch(system, 5.0), jnp.asarray([0.0, 2.0, 3.1, 4.4])
    np.testing.assert_allclose(smooth_pair_counts(graph, edges, 1e-6), pair_counts(graph, edges), atol=1e-9)
    count = lambda x: smooth_pair_counts(graph.with_positions(x), edges, 0.2)[1]  # noqa: E731
    move = jnp.asarray(np.random.default_rng(3).normal(size=(12, 3)))
    slope = jax.jvp(count, (graph.positions,), (move,))[1]
    h = 1e-5
    finite = (count(graph.positions + h * move) - count(graph.positions - h * move)) / (2 * h)
    assert float(slope) == pytest.approx(float(finite), rel=1e-6)


def test_displacements_and_correlations_are_those_of_direct_sums():
    x = np.cumsum(np.random.default_rng(4).normal(size=(30, 5, 3)), axis=0) + 100.0
    direct = [np.mean(np.sum((x[t:] - x[: 30 - t]) ** 2, axis=2)) for t in range(30)]
    np.testing.assert_allclose(mean_squared_displacement(jnp.asarray(x)), direct, atol=1e-10)
    direct = [np.mean(np.sum(x[t:] * x[: 30 - t], axis=2)) for t in range(30)]
    np.testing.assert_allclose(velocity_autocorrelation(jnp.asarray(x)), direct, rtol=1e-12)


def test_a_random_walk_diffuses_as_it_should():
    x = np.cumsum(np.random.default_rng(5).normal(size=(2000, 40, 3)), axis=0)
    msd = mean_squared_displacement(jnp.asarray(x))
    assert float(diffusion_coefficient(msd, 0.5, start=1, stop=60)) == pytest.approx(3 / 6 / 0.5, rel=0.03)
    with pytest.raises(ValueError, match="Lags"):
        diffusion_coefficient(msd, 0.5, start=5, stop=4000)


def test_the_structure_factor_is_the_double_sum_and_knows_bragg_peaks():
    rng = np.random.default_rng(6)
    cell = np.array([[7.0, 0, 0], [1.0, 6.0, 0], [-0.5, 0.7, 8.0]])
    x = rng.uniform(-9, 9, (20, 3))
    waves = wave_indices(cell, 2.5)
    q = 2 * np.pi * waves @ np.linalg.inv(cell).T
    assert np.all(np.linalg.norm(q, axis=1) <= 2.5) and np.all(np.diff(np.linalg.norm(q, axis=1)) >= -1e-12)
    direct = np.sum(np.cos(np.einsum("qc,ijc->qij", q, x[:, None] - x[None])), axis=(1, 2)) / 20
    np.testing.assert_allclose(
        structure_factor(jnp.asarray(x), jnp.asarray(cell), jnp.asarray(waves)), direct, atol=1e-11
    )
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 5.0
    peaks = structure_factor(jnp.asarray(corners), 5.0 * jnp.eye(3), jnp.asarray([[1, 1, 1], [1, 0, 0], [2, 0, 0]]))
    np.testing.assert_allclose(peaks, [4.0, 0.0, 4.0], atol=1e-12)
    with pytest.raises(ValueError, match="spans space"):
        wave_indices(np.zeros((3, 3)), 1.0)


def test_the_green_kubo_integral_of_a_decay_is_its_time():
    t = 0.05 * np.arange(400)
    integral = green_kubo(np.stack([np.exp(-t), 2 * np.exp(-t)], axis=1), 0.05)
    np.testing.assert_allclose(integral[:, 0], 1 - np.exp(-t), atol=3e-4)
    np.testing.assert_allclose(integral[:, 1], 2 * integral[:, 0])
