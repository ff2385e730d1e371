"""Static observables: of single frames against the arrays they are made of, and in known limits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.graph import batch
from jaxmlip.observables.distributions import AngleDistribution, RadialDistribution
from jaxmlip.observables.elastic import cubic_stiffness, cubic_strain, stiffness, voigt_strain
from jaxmlip.observables.static import (
    Conditions,
    Density,
    PotentialEnergy,
    Pressure,
    PressureTensor,
    Stress,
    weighted_covariance,
    weighted_mean,
)
from jaxmlip.observables.statistics import pooled_inefficiency, split_rhat
from jaxmlip.system import make_system

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
REACH = 6.0
CONDITIONS = Conditions(jnp.asarray(100.0))


def crystal(constant=5.3, strain=None, numbers=(18, 18, 18, 18), noise=0.0):
    deform = np.eye(3) if strain is None else np.eye(3) + np.asarray(strain)
    sites = FCC * constant + noise * np.random.default_rng(0).normal(size=(4, 3))
    return make_system(sites @ deform, list(numbers), cell=constant * deform)


def graph_of(system):
    return batch(system, REACH, neighbors=96)


@pytest.fixture(scope="module")
def lj():
    return LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.9)


@pytest.fixture(scope="module")
def one_frame():
    @eqx.filter_jit
    def of(observable, energy, graph):
        values = jax.tree.map(lambda x: x[None], observable.frame(energy, graph))
        return observable.reduce(values, jnp.ones(1), CONDITIONS)

    return of


def test_pressure_stress_and_tensor_agree(lj, one_frame):
    graph = graph_of(crystal(noise=0.2))
    tensor = one_frame(PressureTensor(), lj, graph)
    stress = one_frame(Stress(), lj, graph)
    np.testing.assert_allclose(np.asarray(stress), -np.asarray(tensor), rtol=1e-12)
    assert float(one_frame(Pressure(), lj, graph)) == pytest.approx(float(jnp.trace(tensor)) / 3, rel=1e-12)
    free = eqx.tree_at(lambda e: e.epsilon, lj, jnp.asarray(0.0))
    ideal = 4 * units.kB * 100.0 / 5.3**3
    np.testing.assert_allclose(np.asarray(one_frame(PressureTensor(), free, graph)), ideal * np.eye(3), rtol=1e-12)


def test_pressure_is_minus_the_slope_of_the_energy(lj, one_frame):
    def at(scale):
        return float(one_frame(PotentialEnergy(), lj, graph_of(crystal(5.3 * scale))))

    h = 1e-5
    slope = (at(1 + h) - at(1 - h)) / (2 * h) / (3 * 5.3**3)
    found = float(one_frame(Pressure(), lj, graph_of(crystal()))) - 4 * units.kB * 100.0 / 5.3**3
    assert found == pytest.approx(-slope, rel=1e-5)


def test_density_is_mass_by_volume(lj, one_frame):
    found = float(one_frame(Density(), lj, graph_of(crystal())))
    assert found / units.g_per_cm3 == pytest.approx(4 * 39.95 * 1.66054 / 5.3**3, rel=1e-3)


def test_distances_of_a_crystal_and_of_its_pairs(lj, one_frame):
    first = 5.3 / np.sqrt(2)
    edges = np.array([first - 0.3, first + 0.3])
    system = crystal(numbers=(18, 18, 18, 36))
    shell = 4 / 3 * np.pi * (edges[1] ** 3 - edges[0] ** 3) / 5.3**3

    def count(pair, found):  # neighbors of one kind around a center
        return float(found[0]) * shell * {None: 4, (18, 18): 3, (18, 36): 1, (36, 18): 3, (36, 36): 1}[pair]

    wanted = {None: 12, (18, 18): 8, (18, 36): 4, (36, 18): 12, (36, 36): 0}
    for pair, neighbors in wanted.items():
        found = one_frame(RadialDistribution(edges, 0.03, pair), lj, graph_of(system))
        assert count(pair, found) == pytest.approx(neighbors, abs=1e-6), pair


def test_angles_of_a_crystal(lj, one_frame):
    edges = np.linspace(0.0, 180.0, 37)
    observable = AngleDistribution(edges, cutoff=4.6, width=1.0)
    found = np.asarray(one_frame(observable, lj, graph_of(crystal())))
    centers = 0.5 * (edges[1:] + edges[:-1])
    # Of 66 pairs of neighbors 24 meet at 60, 12 at 90, 24 at 120 and 6 at 180 degrees (there half a Gaussian is seen).
    for angle, pairs in ((60, 24), (90, 12), (120, 24), (180, 3)):
        weight = float(np.sum(found[np.abs(centers - angle) < 8]) * 5.0)
        assert weight == pytest.approx(pairs / 66, abs=1e-4), angle
    only = AngleDistribution(edges, cutoff=4.6, width=1.0, triplet=(36, 18, 36))
    mixed = np.asarray(one_frame(only, lj, graph_of(crystal(numbers=(36, 18, 18, 18)))))
    assert np.sum(mixed[np.abs(centers - 60) < 8]) * 5.0 == pytest.approx(0.0, abs=1e-4)  # a square of four
    assert np.sum(mixed[np.abs(centers - 90) < 8]) * 5.0 == pytest.approx(4 / 6, abs=1e-4)


@pytest.mark.parametrize("edges", [[1.0], [2.0, 1.0], [-1.0, 1.0]])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(ValueError, match="must rise"):
        RadialDistribution(edges)


def test_elastic_constants_of_a_crystal_of_pairs_obey_cauchy(lj, one_frame):
    cold = Conditions(jnp.asarray(1e-9))

    def stress(constant, strain):
        values = jax.tree.map(lambda x: x[None], frame(lj, graph_of(crystal(constant, strain))))
        return np.asarray(Stress().reduce(values, jnp.ones(1), cold))

    frame = eqx.filter_jit(Stress().frame)
    low, high = 5.1, 5.4  # the lattice without pressure, by halving
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if stress(middle, np.zeros((3, 3)))[0, 0] < 0 else (low, middle)
    size = 1e-4
    strain = np.asarray(cubic_strain(size))
    c11, c12, c44 = cubic_stiffness(jnp.asarray(stress(low, strain)), jnp.asarray(stress(low, -strain)), size)
    assert float(c12) == pytest.approx(float(c44), rel=1e-5)

    def energy(e):
        deform = np.diag([e, 0.0, 0.0])
        return float(one_frame(PotentialEnergy(), lj, graph_of(crystal(low, deform))))

    curvature = (energy(1e-3) + energy(-1e-3) - 2 * energy(0.0)) / (1e-6 * low**3)
    assert float(c11) == pytest.approx(curvature, rel=1e-3)
    plus, minus = (
        jnp.asarray(np.stack([stress(low, side * np.asarray(voigt_strain(j, size))) for j in range(6)]))
        for side in (1, -1)
    )
    whole = np.asarray(stiffness(plus, minus, size))
    cubic = np.diag([c11] * 3 + [c44] * 3)
    cubic[:3, :3] += float(c12) * (1 - np.eye(3))
    np.testing.assert_allclose(whole, cubic, atol=1e-5 * float(c11))


def test_weighted_moments():
    rng = np.random.default_rng(3)
    a, b, w = rng.normal(size=50) + 1e6, rng.normal(size=50), rng.uniform(size=50)
    w = w / w.sum()
    wanted = np.cov(a, b, aweights=w, ddof=0)[0, 1]
    assert float(weighted_covariance(jnp.asarray(a), jnp.asarray(b), jnp.asarray(w))) == pytest.approx(wanted, rel=1e-8)
    assert float(weighted_mean({"a": jnp.asarray(a)}, jnp.asarray(w))["a"]) == pytest.approx(w @ a, rel=1e-12)


def series(replicas, steps, memory, seed=0):
    rng = np.random.default_rng(seed)
    x = np.zeros((replicas, steps))
    for i in range(1, steps):
        x[:, i] = memory * x[:, i - 1] + rng.normal(size=replicas)
    return x


def test_pooled_inefficiency_is_that_of_an_autoregressive_process_and_sees_replicas_apart():
    x = series(6, 20_000, 0.8)
    both = pooled_inefficiency(np.stack([x, series(6, 20_000, 0.0, seed=1)], axis=-1))
    assert both[0] == pytest.approx(9.0, rel=0.1)
    assert both[1] == pytest.approx(1.0, abs=0.1)
    apart = np.array([0.0] * 3 + [1e3] * 3)[:, None] + x[:, :1000]
    assert float(pooled_inefficiency(apart)) > 900


def test_split_rhat_is_one_for_one_distribution_and_not_for_two():
    x = series(4, 2000, 0.5)
    assert float(split_rhat(x)) < 1.02
    half = x + np.array([0.0, 0.0, 2.0, 2.0])[:, None]
    assert float(split_rhat(half)) > 1.3
    drifting = x[:1] + np.linspace(0.0, 5.0, 2000)[None]
    assert float(split_rhat(drifting)) > 1.3  # one replica, seen by its halves
    assert float(split_rhat(np.ones((2, 8)))) == 1.0
    assert float(split_rhat(np.ones((2, 8)) * np.array([[1.0], [2.0]]))) == np.inf
    with pytest.raises(ValueError, match="at least four steps"):
        split_rhat(np.ones((2, 3)))
