"""Clebsch-Gordan coefficients: normalized, covariant, and e3nn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.models.clebsch_gordan import clebsch_gordan, product
from jaxmlip.models.harmonics import spherical_harmonics

TRIPLES = [(a, b, c) for a in range(5) for b in range(5) for c in range(5)]


def _harmonics(u, degree):
    return list(spherical_harmonics(*jnp.asarray(u), degree)[degree**2 : (degree + 1) ** 2])


def test_squares_sum_to_one_where_the_triangle_rule_holds():
    for a, b, c in TRIPLES:
        allowed = abs(a - b) <= c <= a + b
        np.testing.assert_allclose(np.sum(clebsch_gordan(a, b, c) ** 2), float(allowed), atol=1e-13)


def test_coefficients_of_different_degrees_are_orthogonal():
    blocks = np.concatenate([np.sqrt(2 * c + 1) * clebsch_gordan(2, 3, c).reshape(35, -1) for c in range(1, 6)], axis=1)
    np.testing.assert_allclose(blocks.T @ blocks, np.eye(35), atol=1e-13)


def test_products_of_one_direction_are_its_harmonics_and_odd_ones_vanish():
    u = np.random.default_rng(1).normal(size=(3, 7))
    u /= np.linalg.norm(u, axis=0)
    for a, b, c in TRIPLES:
        if not abs(a - b) <= c <= a + b:
            continue
        result = np.stack(product(_harmonics(u, a), _harmonics(u, b), c))
        if (a + b + c) % 2:
            np.testing.assert_allclose(result, 0.0, atol=1e-12)
        else:
            target = np.stack(_harmonics(u, c))
            scale = np.sum(result * target) / np.sum(target**2)
            assert abs(scale) > 0.1
            np.testing.assert_allclose(result, scale * target, atol=1e-12)


@pytest.mark.parametrize("triple", [(1, 1, 1), (2, 2, 1), (1, 2, 3), (3, 2, 2), (3, 3, 4)])
def test_products_turn_with_their_factors(triple):
    a, b, c = triple
    generator = np.random.default_rng(2)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    u, v = generator.normal(size=(2, 3, 40))
    u, v = u / np.linalg.norm(u, axis=0), v / np.linalg.norm(v, axis=0)
    basis = np.stack(_harmonics(u, c))
    turn = np.stack(_harmonics(rotation @ u, c)) @ np.linalg.pinv(basis)
    before = np.stack(product(_harmonics(u, a), _harmonics(v, b), c))
    after = np.stack(product(_harmonics(rotation @ u, a), _harmonics(rotation @ v, b), c))
    assert np.abs(before).max() > 0.1
    np.testing.assert_allclose(after, turn @ before, atol=1e-11)


def test_one_one_one_is_the_cross_product():
    y = jnp.eye(3)  # components in the order y, z, x
    cross = np.stack(product(list(y[0]), list(y[1]), 1))  # y cross z = x
    np.testing.assert_allclose(np.abs(cross), [0.0, 0.0, 1 / np.sqrt(6)], atol=1e-15)


def test_coefficients_cannot_be_changed_and_negative_degrees_are_refused():
    with pytest.raises(ValueError, match="read-only"):
        clebsch_gordan(1, 1, 0)[0, 0, 0] = 2.0
    with pytest.raises(ValueError, match="negative"):
        clebsch_gordan(-1, 1, 0)
    with pytest.raises(ValueError, match="couple to 1 ... 3"):
        product(list(jnp.ones((3, 2))), list(jnp.ones((5, 2))), 0)


def test_agrees_with_e3nn():
    e3nn = pytest.importorskip("e3nn_jax")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for triple in TRIPLES:
            np.testing.assert_allclose(clebsch_gordan(*triple), e3nn.clebsch_gordan(*triple), atol=1e-12)
