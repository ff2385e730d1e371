"""Envelopes: one inside, zero outside, and two smooth derivatives where they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy.envelope import polynomial_envelope, switch_envelope

X = jnp.linspace(0.0, 1.5, 31)
ENVELOPES = [lambda x: polynomial_envelope(x), lambda x: polynomial_envelope(x, 4), lambda x: switch_envelope(x, 0.6)]


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_an_envelope_falls_from_one_to_zero(envelope):
    values = np.asarray(envelope(X))
    assert values[0] == 1.0
    assert np.all(values[X >= 1.0] == 0.0)
    assert np.all(np.diff(values) <= 0.0)


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_value_and_two_derivatives_vanish_at_the_end(envelope):
    first = jax.grad(lambda x: envelope(x[None])[0])
    for derivative in (first, jax.grad(first)):
        for x in (1.0, 1.0 + 1e-9, 1.3):
            assert float(derivative(jnp.asarray(x))) == 0.0
        assert abs(float(derivative(jnp.asarray(1.0 - 1e-7)))) < 1e-4


@pytest.mark.parametrize("p", [3, 6])
def test_the_factored_form_is_the_published_polynomial(p):
    """Gasteiger et al. (2020), eq. 8."""
    x = np.linspace(0.0, 1.0, 50)
    published = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    np.testing.assert_allclose(polynomial_envelope(jnp.asarray(x), p), published, atol=1e-13)


def test_the_switch_is_the_quintic_smoothstep():
    x = np.linspace(0.0, 1.0, 50)
    t = np.clip((x - 0.6) / 0.4, 0.0, 1.0)
    np.testing.assert_allclose(switch_envelope(jnp.asarray(x), 0.6), 1 - 10 * t**3 + 15 * t**4 - 6 * t**5, atol=1e-13)


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_single_precision_near_the_end_is_relative(envelope):
    x = jnp.asarray([0.98, 0.99, 0.995], jnp.float32)
    exact = envelope(x.astype(jnp.float64))
    np.testing.assert_allclose(np.asarray(envelope(x), np.float64), exact, rtol=5e-5)
