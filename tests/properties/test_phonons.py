"""Phonons: against the Hessian of the whole supercell, by scaling, and their derivatives where modes meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close_packed_argon import argon, close_packed, compiled

from jaxmlip.energy import hessian
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.properties import frequencies, make_supercell
from jaxmlip.system import make_system

REPEATS = np.array([[2, 0, 0], [1, 2, 0], [0, 0, 1]])


@pytest.fixture(scope="module")
def supercell(crystal):
    return make_supercell(crystal.system, REPEATS, 6.0)


@compiled
def at_points(theta, system, supercell, q):
    """Frequencies and the tangents and gradient of the mean of the optical ones at the last point."""

    def values(t):
        return frequencies(argon(t[0], t[1]), system, supercell, q)

    def optical(t):
        return jnp.mean(values(t)[-1, 3:])

    found, slopes = jax.vmap(lambda v: jax.jvp(values, (theta,), (v,)), out_axes=(None, 0))(jnp.eye(2))
    return found, slopes, jax.grad(optical)(theta)


THETA = jnp.asarray([0.0104, 3.4])


def points():
    """The four that fit the supercell, zero last."""
    steps = np.array([[i, j, 0] for i in range(4) for j in range(4)])
    fits = np.array(sorted({tuple(np.round(s @ np.linalg.inv(REPEATS).T % 1.0, 9) % 1.0) for s in steps}))
    return jnp.asarray(fits[::-1].copy())


def test_bloch_sums_give_the_modes_of_the_supercell(crystal, supercell):
    q = points()
    assert q.shape == (4, 3)
    found, slopes, _ = at_points(THETA, crystal.system, supercell, q)
    whole = compiled(hessian)(argon(), to_graph(supercell.neighbors, supercell.build(crystal.system)))
    matrix = np.asarray(whole).reshape(24, 24) / 39.948
    squares = np.linalg.eigvalsh(matrix)
    mine = np.sort(np.ravel(np.sign(found) * (2.0 * np.pi * found) ** 2))
    np.testing.assert_allclose(mine, squares, atol=1e-5 * squares.max())
    np.testing.assert_array_equal(found[-1, :3], 0.0)  # acoustic modes at zero, and their derivatives
    np.testing.assert_array_equal(slopes[:, -1, :3], 0.0)


def test_derivatives_are_finite_and_right_where_modes_meet(crystal, supercell):
    q = points()
    found, slopes, gradient = at_points(THETA, crystal.system, supercell, q)
    np.testing.assert_allclose(slopes[0], found / (2.0 * THETA[0]), rtol=1e-9, atol=1e-12)
    at = {k: at_points(THETA + jnp.asarray([0.0, 1e-3 * k]), crystal.system, supercell, q)[0] for k in (-2, -1, 1, 2)}
    means = {k: np.asarray(v).mean(axis=1) for k, v in at.items()}  # over all modes: smooth
    slope = (8.0 * (means[1] - means[-1]) - (means[2] - means[-2])) / 0.012
    np.testing.assert_allclose(jnp.mean(slopes[1], axis=1), slope, rtol=1e-6)
    np.testing.assert_allclose(gradient, jnp.mean(slopes[:, -1, 3:], axis=1), rtol=1e-9)


def test_a_supercell_holds_every_atom_once():
    cell = make_supercell(close_packed(), REPEATS, 6.0)
    built = cell.build(close_packed())
    assert len(built.numbers) == 8 and float(built.volume()) == pytest.approx(4 * float(close_packed().volume()))
    again = make_system(built.positions, built.numbers, cell=built.cell)  # refuses atoms that coincide
    assert len(again.numbers) == 8
    np.testing.assert_array_equal(cell.home[:2], [0, 1])
    np.testing.assert_allclose(cell.weights.sum(axis=-1), 1.0)


def test_what_is_no_supercell_is_refused():
    with pytest.raises(ValueError, match="`repeats`"):
        make_supercell(close_packed(), (2, 2, 0), 5.0)
    with pytest.raises(ValueError, match="`repeats`"):
        make_supercell(close_packed(), (1.5, 1, 1), 5.0)
    with pytest.raises(ValueError, match="periodic in all directions"):
        make_supercell(make_system([[0.0, 0.0, 0.0]], [18]), (1, 1, 1), 5.0)
