"""Training on force constants, and ground states of a model."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones, hessian
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.learn.hessian import (
    all_columns,
    hessian_labels,
    hessian_loss,
    label_hessians,
    random_columns,
    random_signs,
)
from jaxmlip.learn.settings import TrainSettings
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.properties import elastic_constants, follow, refine
from jaxmlip.system import make_system

loss = eqx.filter_jit(hessian_loss)


def lennard_jones(epsilon=0.05, sigma=2.3):
    return LennardJones(jnp.asarray(epsilon), jnp.asarray(sigma), cutoff=3.1)


@pytest.fixture(scope="module")
def systems():
    """Two shaken cells of different sizes."""
    rng = np.random.default_rng(0)
    pair = make_system([[0.0, 0.0, 0.0], [1.9, 1.7, 1.8]], [18, 18], cell=3.7 * np.eye(3))
    three = np.array([[0.0, 0.0, 0.0], [2.4, 0.1, 0.0], [0.3, 2.5, 0.2]]) + 0.05 * rng.normal(size=(3, 3))
    return [pair, make_system(three, [18] * 3, cell=[4.8, 4.9, 2.9])]


@pytest.fixture(scope="module")
def small():
    config = ACEConfig((18,), cutoff=3.1, degree=1, radial=3, channels=2, hidden=4, products=False, mean_neighbors=8.0)
    return ACE(config, key=jax.random.key(0))


def test_the_loss_is_the_distance_to_the_dense_hessian(systems):
    truth, model = lennard_jones(), lennard_jones(0.06, 2.4)
    labels = label_hessians(truth, systems)
    expected = []
    for system in systems:
        graph = batch(system, 3.1)
        expected.append(float(jnp.mean((hessian(model, graph) - hessian(truth, graph)) ** 2)))
    found = float(loss(model, labels, all_columns(labels)))
    assert found == pytest.approx(np.mean(expected), rel=1e-12) and found > 1e-3
    assert float(loss(truth, labels, all_columns(labels))) < 1e-24


def test_estimates_have_no_bias_whatever_is_labelled(systems):
    truth, model = lennard_jones(), lennard_jones(0.06, 2.4)
    matrices = [np.array(hessian(truth, batch(s, 3.1))) for s in systems]
    matrices[1][:, :, 0] = np.nan  # not known, and not used
    labels = hessian_labels(systems, matrices, 3.1, atoms=[[1], [2]])
    exact = float(loss(model, labels, all_columns(labels)))
    signs = jnp.asarray(list(itertools.product((-1.0, 1.0), repeat=3)))
    estimates = [float(loss(model, labels, row[None])) for row in signs]
    assert np.mean(estimates) == pytest.approx(exact, rel=1e-12) and np.std(estimates) > 1e-3 * exact
    drawn = {tuple(np.ravel(random_signs(k, labels))) for k in jax.random.split(jax.random.key(0), 100)}
    assert drawn == set(map(tuple, np.asarray(signs).tolist()))
    chosen = [random_columns(k, labels) for k in jax.random.split(jax.random.key(1), 30)]
    values = {int(np.argmax(c)): float(loss(model, labels, c)) for c in chosen}
    assert len(values) == 3 and np.mean(list(values.values())) == pytest.approx(exact, rel=1e-12)
    two = random_columns(jax.random.key(2), labels, 2)
    np.testing.assert_allclose(np.sort(jnp.sum(two * two, axis=0)), [0.0, 1.5, 1.5])
    np.testing.assert_allclose(jnp.sum(random_signs(jax.random.key(2), labels, 4) ** 2, axis=0), 1.0)


def test_a_small_model_learns_force_constants_from_one_probe_a_step(systems, small):
    labels = label_hessians(lennard_jones(), systems)
    optimizer = TrainSettings(steps=150, optimizer="adam").build_optimizer()

    @eqx.filter_jit
    def step(model, state, key):
        probes = random_signs(key, labels)
        value, gradient = eqx.filter_value_and_grad(hessian_loss)(model, labels, probes)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, jax.tree.map(lambda u: 0.02 * u, updates)), state, value

    model, state = small, optimizer.init(eqx.filter(small, eqx.is_inexact_array))
    before = float(loss(model, labels, all_columns(labels)))
    for key in jax.random.split(jax.random.key(3), 150):
        model, state, _ = step(model, state, key)
    assert float(loss(model, labels, all_columns(labels))) < 0.1 * before


def test_labels_that_do_not_fit_are_refused(systems):
    with pytest.raises(UserError, match="one matrix for each system"):
        hessian_labels(systems, [np.eye(6)], 3.1)
    with pytest.raises(UserError, match="must have shape"):
        hessian_labels(systems, [np.eye(6), np.eye(6)], 3.1)
    with pytest.raises(UserError, match="not finite"):
        hessian_labels(systems, [np.eye(6), np.nan * np.eye(9)], 3.1)
    with pytest.raises(UserError, match="not symmetric"):
        hessian_labels(systems, [np.eye(6), np.triu(np.ones((9, 9)))], 3.1)
    with pytest.raises(UserError, match="`atoms` of system 1"):
        hessian_labels(systems, [np.eye(6), np.eye(9)], 3.1, atoms=[[0], [3]])


def of_volume(energy, point):
    return jnp.stack([point.system.volume(), point.energy])


def of_elastic(energy, point):
    return elastic_constants(energy, point).relaxed[:2, 0]


@pytest.mark.parametrize("quantity", [of_volume, of_elastic])
@pytest.mark.slow
def test_ground_states_of_a_model_have_exact_gradients(small, quantity):
    """A network beside a pair potential, along a direction of its parameters."""
    cell = 3.7 / 2 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    model = lennard_jones() + 0.002 * small
    start = refine(model, make_system([[0.0, 0.0, 0.0]], [18], cell=cell), cell=True, tolerance=1e-11)
    assert bool(start.converged) and int(start.negative) == 0
    params, fixed = eqx.partition(model, eqx.is_inexact_array)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, jax.tree.leaves(params), strict=True)]
    direction = jax.tree.unflatten(jax.tree.structure(params), drawn)
    direction = jax.tree.map(lambda d, p: d * jnp.abs(p), direction, params)

    def values(x, start):
        energy = eqx.combine(jax.tree.map(lambda p, d: p + x * d, params, direction), fixed)
        point = follow(energy, start)
        return quantity(energy, point)

    along = eqx.filter_jit(lambda x, s: jax.jvp(lambda t: values(t, s), (x,), (jnp.ones_like(x),)))
    value, slope = along(jnp.asarray(0.0), start)
    at = {k: along(jnp.asarray(1e-3 * k), start)[0] for k in (-2, -1, 1, 2)}
    measured = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / 0.012
    assert float(jnp.min(jnp.abs(slope / value))) > 1e-4  # it matters
    np.testing.assert_allclose(slope, measured, rtol=1e-6)
