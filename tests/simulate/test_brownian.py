"""Brownian dynamics against the exact oscillator and free diffusion."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.simulate import Brownian
from jaxmlip.simulate.state import replace

kT = units.kB * 300.0


def positions(integrator, energy, state, start, steps):
    """Positions [steps, replicas, 3] of one atom, from `start`."""
    replicas = len(start)
    momenta = jnp.sqrt(kT * state.system.masses[0]) * jax.random.normal(jax.random.key(5), (replicas, 1, 3))

    def begin(q, p, key):
        system = eqx.tree_at(lambda s: s.positions, state.system, q)
        return replace(state, system=system, momenta=p, forces=-energy.stiffness * q, key=key)

    @jax.jit
    def sample(states):
        def body(states, _):
            states = jax.vmap(integrator.step, in_axes=(None, 0))(energy, states)
            return states, states.system.positions[:, 0]

        return jax.lax.scan(body, states, None, length=steps)[1]

    return np.asarray(sample(jax.vmap(begin)(start, momenta, jax.random.split(jax.random.key(6), replicas))))


def test_an_oscillator_is_sampled_exactly_with_a_large_step(well, alone):
    """t k / m gamma = 0.8: Euler's scheme would have <q²> = 1 / (1 - 0.4) = 1.67 kT/k."""
    integrator = Brownian(0.8, 300.0, 0.5)
    state = integrator.init(well(1.0), alone(2.0), key=jax.random.key(0))
    start = np.sqrt(kT) * jax.random.normal(jax.random.key(1), (1024, 1, 3))
    q = positions(integrator, well(1.0), state, start, 60)[10:]
    each = (q**2).mean(axis=(0, 2)) / kT
    error = each.std(ddof=1) / np.sqrt(len(each))
    assert error < 0.01
    assert abs(each.mean() - 1.0) < 4 * error
    lag = (q[1:] * q[:-1]).mean(axis=(0, 2)) / kT  # relaxes by exactly 1 - 0.8 + 0.4 in a step
    assert abs(lag.mean() - 0.6) < 4 * lag.std(ddof=1) / np.sqrt(len(lag))


def test_a_free_atom_diffuses_as_einstein_says(well, alone):
    """<x²> = 2 D t (n - 1/2) after n steps, D = kT / m gamma: the noise of neighboring steps is shared."""
    integrator = Brownian(0.8, 300.0, 0.5)
    state = integrator.init(well(0.0), alone(2.0), key=jax.random.key(0))
    q = positions(integrator, well(0.0), state, jnp.zeros((1024, 1, 3)), 60)
    exact = 2 * kT / (2.0 * 0.5) * 0.8 * (60 - 0.5)
    each = (q[-1] ** 2).mean(axis=1)
    assert abs(each.mean() - exact) < 4 * each.std(ddof=1) / np.sqrt(len(each))
