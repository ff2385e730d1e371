"""The loss: what it adds up, what it leaves out, and its gradient."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset, Loader
from jaxmlip.learn import Loss, Weights

WEIGHTS = Weights(3.0, 2.0, 5.0)


@pytest.fixture(scope="module")
def value():
    return jax.jit(lambda loss, energy, batch: loss(energy, batch, WEIGHTS))


@pytest.fixture(scope="module")
def loader(dataset):
    return Loader(dataset, 3.1, batch_size=4, references={18: -1000.0}, dtype=np.float64)


def test_the_true_energy_has_no_loss(loader, start, value):
    truth = type(start)(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=start.cutoff)
    loss = Loss(stress=True)
    assert float(value(loss, truth, loader.pack([0, 1, 2, 3]))) < 1e-20
    assert float(value(loss, start, loader.pack([0, 1, 2, 3]))) > 1e-4


@pytest.mark.parametrize("huber", [None, 0.05])
def test_a_batch_is_the_mean_of_its_frames(loader, start, value, huber):
    loss = Loss(stress=True, huber=huber)
    together = value(loss, start, loader.pack([0, 1, 2, 3]))
    # A batch of one frame and three empty slots counts a quarter.
    alone = [value(loss, start, loader.pack([i])) for i in range(4)]
    assert jnp.allclose(together, sum(alone), rtol=1e-12)


def test_the_gradient_equals_finite_differences(loader, start, value):
    loss, batch = Loss(stress=True), loader.pack([0, 1, 2, 3])
    gradient = jax.jit(jax.grad(lambda energy: loss(energy, batch, WEIGHTS)))(start)
    h = 1e-5
    for name in ("epsilon", "sigma"):

        def at(x, name=name):
            moved = eqx.tree_at(lambda energy: getattr(energy, name), start, replace_fn=lambda number: number + x)
            return float(value(loss, moved, batch))

        numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        assert np.isclose(float(getattr(gradient, name)), numeric, rtol=1e-7)


def test_huber_is_squares_near_zero_and_linear_far_out():
    x = jnp.array([0.01, 0.1, 10.0])
    squares, robust = Loss(scale=2.0)._rho(x), Loss(scale=2.0, huber=1.0)._rho(x)
    assert jnp.allclose(squares, x**2 / 4) and jnp.allclose(robust[:2], squares[:2])
    assert jnp.isclose(robust[2], 2 * 5.0 - 1.0)
    with pytest.raises(ValueError, match="huber"):
        Loss(huber=0.0)


def test_students_t_is_squares_near_zero_and_lets_go_of_outliers():
    x = jnp.array([1e-3, 1.0, 10.0, 100.0])
    loss = Loss(student=4.0)
    assert jnp.isclose(loss._rho(x)[0], 1e-6, rtol=1e-5)
    pull = jax.vmap(jax.grad(lambda y: loss._rho(y)))(x)
    assert jnp.isclose(pull[1], 2.0 / 1.25) and pull[3] < pull[2] < pull[1]
    with pytest.raises(ValueError, match="student"):
        Loss(student=-1.0)
    with pytest.raises(ValueError, match="not both"):
        Loss(student=4.0, huber=1.0)


def test_what_is_masked_or_missing_does_not_matter(dataset, loader, start, value):
    wild = np.where(np.eye(3, dtype=bool), dataset[0].stress, 1e6)
    changed = [
        dataclasses.replace(dataset[0], stress=wild, stress_mask=np.eye(3, dtype=bool)),
        dataclasses.replace(dataset[1], forces=None, energy=None),
    ]
    other = Loader(Dataset([*changed, *dataset[2:]]), 3.1, batch_size=4, references={18: -1000.0}, dtype=np.float64)
    loss = Loss(stress=True)
    parts = value(loss, start, other.pack([0, 1]))
    assert jnp.isfinite(parts) and parts < value(loss, start, loader.pack([0, 1]))
    gradient = jax.jit(jax.grad(lambda energy: loss(energy, other.pack([0]), WEIGHTS)))(start)
    assert all(bool(jnp.isfinite(x)) for x in jax.tree.leaves(gradient))
