"""Stochastic velocity rescaling: its kernel against the exact distribution, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmlip.simulate import CSVR
from jaxmlip.simulate.csvr import rescaling
from jaxmlip.system import make_system


def after(before, kT, decay, seed=1):
    keys = jax.random.split(jax.random.key(seed), len(before))
    kernel = jax.vmap(lambda k, key: rescaling(0.5 * k, 5, jnp.asarray(kT), jnp.asarray(decay), key))
    return kernel(before, keys)


def test_a_canonical_kinetic_energy_stays_canonical_and_forgets_at_its_rate():
    draws, decay = 40_000, 0.6
    before = jax.random.chisquare(jax.random.key(0), 5, (draws,))
    factor = after(before, 1.0, decay)
    energies = np.asarray(before * factor**2)
    assert stats.kstest(energies, "chi2", (5,)).pvalue > 0.01
    correlation = np.corrcoef(np.asarray(before), energies)[0, 1]
    assert abs(correlation - np.exp(-decay)) < 4 * (1 - np.exp(-2 * decay)) / np.sqrt(draws)
    # Control: one that counts 6 degrees of freedom is found out.
    assert stats.kstest(energies, "chi2", (6,)).pvalue < 1e-10


def test_the_sign_of_a_component_is_lost_as_the_theory_says():
    """With one degree of freedom left to sum, rescaling is the Ornstein-Uhlenbeck step of the momentum itself."""
    p, decay = 0.8, 1.4
    keys = jax.random.split(jax.random.key(3), 40_000)
    half, kT = jnp.asarray(0.5 * p * p), jnp.asarray(1.0)
    moved = p * np.asarray(jax.vmap(lambda key: rescaling(half, 1, kT, jnp.asarray(decay), key))(keys))
    mean, width = p * np.exp(-0.5 * decay), np.sqrt(-np.expm1(-decay))
    assert stats.kstest(moved, stats.norm(mean, width).cdf).pvalue > 0.01
    assert (moved < 0).mean() > 0.2


def test_limits_and_refusals(lj):
    before = jnp.asarray([0.0, 3.0])
    np.testing.assert_allclose(after(before, 1.0, 0.0), [1.0, 1.0])  # no time has passed; rest stays at rest
    np.testing.assert_allclose(after(before, 0.0, 2.0), [1.0, np.exp(-1.0)])  # a bath without temperature takes all
    with pytest.raises(ValueError, match="One atom has no momentum"):
        one = make_system([[0.0, 0.0, 0.0]], [18], cell=[20.0] * 3)
        CSVR(1.0, 100.0, 10.0).init(lj, one, key=jax.random.key(0))
