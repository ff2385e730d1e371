"""Linear systems and spectra without a matrix, against LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close_packed_argon import compiled

from jaxmlip.properties.linear import estimate_spectrum, matrix_of, solve, spectrum


def symmetric(eigenvalues, seed=0):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues))))
    return jnp.asarray((turn * eigenvalues) @ turn.T)


EIGENVALUES = np.concatenate([[-3.0, -0.2], np.linspace(0.1, 40.0, 35)])  # a saddle
RIGHT = jnp.asarray(np.random.default_rng(1).normal(size=(37, 2)))


@compiled
def solved(matrix, right):
    def value(m, dense):
        return solve(lambda v: jnp.matmul(m, v), right, dense=dense)

    def slope(dense):
        return jax.grad(lambda m: jnp.sum(value(m, dense) ** 3))(matrix)

    return [(value(matrix, dense), slope(dense)) for dense in (False, True)]


def test_minimal_residuals_solve_indefinite_systems_and_have_their_derivatives():
    matrix = symmetric(EIGENVALUES)
    (found, slope), (dense, exact) = solved(matrix, RIGHT)
    np.testing.assert_allclose(dense, np.linalg.solve(matrix, RIGHT), rtol=1e-9)
    np.testing.assert_allclose(found, dense, rtol=1e-9, atol=1e-10)
    both = (0.5 * (slope + slope.T), 0.5 * (exact + exact.T))  # the matrix is symmetric: so is what counts
    np.testing.assert_allclose(*both, atol=1e-8 * float(jnp.max(jnp.abs(exact))))


def test_nothing_is_asked_for_nothing():
    (found, _), _ = solved(symmetric(EIGENVALUES), jnp.zeros_like(RIGHT))
    np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize(
    "eigenvalues", [EIGENVALUES, np.repeat([0.5, 2.0, 7.0], 4), np.full(3, 2.0)], ids=["saddle", "degenerate", "round"]
)
def test_few_steps_of_lanczos_find_condition_and_index(eigenvalues):
    matrix = symmetric(eigenvalues)
    start = jnp.asarray(np.random.default_rng(2).normal(size=len(eigenvalues)))
    found = compiled(lambda m, v: estimate_spectrum(lambda x: jnp.matmul(m, x), v))(matrix, start)
    sizes = np.abs(eigenvalues)
    assert float(found.condition) == pytest.approx(sizes.max() / sizes.min(), rel=1e-6)
    assert int(found.negative) == np.sum(eigenvalues < 0)
    exact = spectrum(matrix, frozen=0)
    assert float(exact.condition) == pytest.approx(float(found.condition), rel=1e-6)


def test_frozen_directions_do_not_count():
    found = spectrum(symmetric(np.array([1.0, 1.0, 4.0, 8.0, 1.0])), frozen=3)
    assert float(found.condition) == pytest.approx(2.0) and int(found.negative) == 0
    alone = spectrum(jnp.eye(3), frozen=3)
    assert float(alone.condition) == 1.0


def test_a_matrix_of_products_has_its_columns_in_order():
    matrix = jnp.asarray(np.random.default_rng(3).normal(size=(37, 37)))
    np.testing.assert_allclose(matrix_of(lambda v: jnp.matmul(matrix, v), jnp.zeros(37)), matrix, atol=1e-14)
