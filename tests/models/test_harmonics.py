"""Spherical harmonics: orthonormal, in the stated order, and e3nn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.models.harmonics import spherical_harmonics


def _directions(count=30):
    u = np.random.default_rng(0).normal(size=(3, count))
    return jnp.asarray(u / np.linalg.norm(u, axis=0))


def test_harmonics_are_orthonormal_on_the_sphere():
    z, wz = np.polynomial.legendre.leggauss(12)
    phi = 2 * np.pi * np.arange(24) / 24
    s = np.sqrt(1 - z**2)
    x, y = np.outer(s, np.cos(phi)), np.outer(s, np.sin(phi))
    values = spherical_harmonics(jnp.asarray(x), jnp.asarray(y), jnp.asarray(np.outer(z, np.ones(24))), 4)
    values = np.stack(values).reshape(25, -1)
    weights = np.outer(wz / 2, np.full(24, 1 / 24)).reshape(-1)
    np.testing.assert_allclose((values * weights) @ values.T, np.eye(25), atol=1e-13)


def test_degree_one_is_y_z_x_and_positive_m_are_cosines():
    x, y, z = _directions()
    values = spherical_harmonics(x, y, z, 2, normalization="norm")
    np.testing.assert_allclose(np.stack(values[1:4]), np.stack([y, z, x]), atol=1e-15)
    np.testing.assert_allclose(values[8], np.sqrt(3) / 2 * (x**2 - y**2), atol=1e-15)


@pytest.mark.parametrize(
    ("normalization", "power"), [("component", lambda degree: 2 * degree + 1), ("norm", lambda degree: 1)]
)
def test_squares_sum_to_the_stated_normalization(normalization, power):
    values = spherical_harmonics(*_directions(), 4, normalization=normalization)
    for degree in range(5):
        block = np.stack(values[degree**2 : (degree + 1) ** 2])
        np.testing.assert_allclose(np.sum(block**2, axis=0), power(degree), rtol=1e-13)


def test_results_follow_the_dtype_given():
    values = spherical_harmonics(*_directions().astype(jnp.float32), 4)
    assert {v.dtype for v in values} == {jnp.dtype(jnp.float32)}


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="0 to 4"):
        spherical_harmonics(*_directions(), 5)
    with pytest.raises(ValueError, match="normalization"):
        spherical_harmonics(*_directions(), 2, normalization="integral")


def test_agrees_with_e3nn():
    e3nn = pytest.importorskip("e3nn_jax")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x, y, z = _directions()
        theirs = e3nn.spherical_harmonics(e3nn.s2_irreps(4), jnp.stack([y, z, x], -1), True, "component").array
    np.testing.assert_allclose(np.stack(spherical_harmonics(x, y, z, 4), -1), theirs, atol=1e-12)
