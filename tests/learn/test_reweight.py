"""Averages and gradients by reweighting: against autodiff, exact ensembles and independent samples."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.learn.reweight import evaluate, expectation, log_weights, mix, reweight
from jaxmlip.learn.sampler import StatePoint, frame_graph, sample
from jaxmlip.observables.static import Pressure
from jaxmlip.system import make_system

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


@pytest.fixture(scope="module")
def lj():
    return LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0, onset=0.7)


@pytest.fixture(scope="module")
def point():
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    system = make_system(((grid + FCC[None]) * 5.6).reshape(-1, 3), [18] * 32, cell=[11.2] * 3)
    return StatePoint(
        system, 150.0, timestep=10 * units.fs, replicas=3, frames=40, stride=10, burn_in=200, melt=500.0
    )


@pytest.fixture(scope="module")
def samples(lj, point):
    return sample(lj, point, key=jax.random.key(0))


@pytest.fixture(scope="module")
def mixture(samples):
    return mix([samples])


def through_softmax(energy, mixture):
    """The pressure by plain autodiff, all frames at once."""

    def one(positions, cell, before):
        graph = frame_graph(mixture.frames.near, mixture.frames.system, positions, cell)
        return jnp.sum(energy(graph)) - jnp.sum(before), Pressure().frame(energy, graph)

    frames = mixture.frames
    changes, values = jax.vmap(one)(frames.positions, frames.cells, frames.atom_energies)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    return Pressure().reduce(values, weights, mixture.conditions)


def test_gradient_is_that_of_autodiff_through_the_softmax(lj, mixture):
    moved = eqx.tree_at(lambda e: e.sigma, lj, lj.sigma * 1.001)
    value, gradient = eqx.filter_value_and_grad(lambda e: expectation(Pressure(), e, mixture))(moved)
    wanted, reference = eqx.filter_jit(eqx.filter_value_and_grad(through_softmax))(moved, mixture)
    assert float(abs(value - wanted)) < 1e-9 * abs(float(wanted))
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        assert float(abs(mine - theirs)) < 1e-9 * abs(float(theirs))
