"""Gradients of time correlations, path and starts: against the exact ones of oscillators."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph import Graph
from jaxmlip.learn.adjoint import Forward, Window
from jaxmlip.learn.sampler import samples_from
from jaxmlip.learn.windows import (
    check_length,
    make_starts,
    path_expectation,
    window_expectation,
    window_gradient,
    window_values,
)
from jaxmlip.observables.correlations import Diffusion, InfraredSpectrum, VelocityAutocorrelation
from jaxmlip.observables.static import Conditions
from jaxmlip.system import make_system

KELVIN, MASS, ATOMS = 300.0, 4.0, 6
KT = units.kB * KELVIN
WINDOW = Window(0.25, 8, every=2, rebuild=4)


class Springs(AbstractEnergy):
    """Atoms bound to the origin, independently of each other."""

    stiffness: Float[Array, ""]
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return 0.5 * self.stiffness * jnp.sum(graph.positions**2, axis=1)


def springs(k=1.0):
    return Springs(jnp.asarray(k, jnp.float64))


def starts_in_wells(count, k=1.0, *, skin=3.0, window=WINDOW, exponent=0.0, **options):
    """Exact, independent starts of atoms in springs `k`."""
    positions = np.sqrt(KT / k) * np.random.default_rng(0).normal(size=(count, ATOMS, 3))
    system = make_system(positions[0], [2] * ATOMS, masses=[MASS] * ATOMS)
    cells = jnp.zeros((count, 3, 3))
    samples = samples_from(springs(k), system, jnp.asarray(positions), cells, Conditions(jnp.asarray(KELVIN)))
    key = jax.random.key(1)
    return make_starts(springs(k), [samples], window, key=key, skin=skin, exponent=exponent, **options)


def exact(k, lag, window=WINDOW):
    """Velocity autocorrelation by velocity Verlet at one lag, mean over the origins of a window, in springs `k`."""
    dt, every, n = float(window.timestep), window.every, window.steps
    half = np.array([[1.0, 0.0], [-0.5 * dt * k, 1.0]])
    step = half @ np.array([[1.0, dt / MASS], [0.0, 1.0]]) @ half
    one = np.linalg.matrix_power(step, every)
    moments = range(-(n // every) if window.both_ways else 0, n // every + 1)
    # velocities from the position and momentum at the start
    rows = np.stack([np.linalg.matrix_power(one if m >= 0 else np.linalg.inv(one), abs(m))[1] / MASS for m in moments])
    a, b = rows[: len(rows) - lag], rows[lag:]
    free = 1.0 - 1.0 / ATOMS  # the center of mass is at rest
    return 3.0 * KT * np.mean(a[:, 0] * b[:, 0] / k + MASS * free * a[:, 1] * b[:, 1])


def exact_slope(k, lag):
    """By a complex step."""
    return exact(k + 1e-30j, lag).imag / 1e-30


@pytest.fixture(scope="module")
def starts():
    return starts_in_wells(4800)


@pytest.fixture(scope="module")
def found(starts):
    curve = VelocityAutocorrelation(lags=6)
    return window_gradient(curve, springs(), starts, adjoint=Forward(), paths=320)


def test_value_and_gradient_are_exact_within_their_errors(found):
    for lag in (0, 2, 5):
        error = found.gradient_stderr.stiffness[lag]
        assert abs(found.value[lag] - exact(1.0, lag)) < 4.0 * found.stderr[lag]
        assert abs(found.gradient.stiffness[lag] - exact_slope(1.0, lag)) < 4.0 * error
        assert error < 0.05 * abs(exact_slope(1.0, 5))


def test_the_path_alone_is_biased(found):
    assert abs(found.path.stiffness[2] - exact_slope(1.0, 2)) > 8.0 * found.path_stderr.stiffness[2]


def test_errors_are_those_of_the_scatter(found, starts):
    """The error of a mean of independent starts is the standard deviation over the square root of their number."""
    values = np.asarray(window_values(VelocityAutocorrelation(lags=6), springs(), starts))
    expected = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(found.stderr, expected, rtol=0.7)


@pytest.mark.parametrize(
    "chunk", [pytest.param(1, marks=pytest.mark.slow, id="as it is"), pytest.param(3, id="compiled, in chunks")]
)
def test_the_differentiable_mean_has_the_same_gradient_under_other_parameters(chunk):
    few, energy = starts_in_wells(32), springs(1.1)
    diffusion = Diffusion(lags=5)
    expected = window_gradient(diffusion, energy, few, blocks=4, paths=32)

    def mean(energy):
        return window_expectation({"D": diffusion}, energy, few, paths=32, chunk=chunk)["D"]

    slope = eqx.filter_value_and_grad(mean)
    value, gradient = (eqx.filter_jit(slope) if chunk > 1 else slope)(energy)
    np.testing.assert_allclose(float(value), expected.value, rtol=1e-12)
    np.testing.assert_allclose(float(gradient.stiffness), expected.gradient.stiffness, rtol=1e-9)


def test_weights_lead_to_other_parameters(starts):
    moved = window_gradient(VelocityAutocorrelation(lags=6), springs(1.1), starts, adjoint=Forward(), paths=320)
    assert abs(moved.value[2] - exact(1.1, 2)) < 4.0 * moved.stderr[2]
    assert abs(moved.gradient.stiffness[2] - exact_slope(1.1, 2)) < 4.0 * moved.gradient_stderr.stiffness[2]


def test_the_path_alone_is_there_for_who_asks_and_warns():
    few = starts_in_wells(32)
    expected = window_gradient(Diffusion(lags=5), springs(), few, blocks=4, paths=32)
    with pytest.warns(UserWarning, match="biased"):
        gradient = eqx.filter_grad(lambda e: path_expectation(Diffusion(lags=5), e, few))(springs())
    np.testing.assert_allclose(float(gradient.stiffness), expected.path.stiffness, rtol=1e-9)


def test_a_list_that_does_not_last_is_enlarged_or_shows():
    few = starts_in_wells(32, skin=0.1)
    wide = window_values(Diffusion(lags=5), springs(), starts_in_wells(32))
    np.testing.assert_allclose(window_values(Diffusion(lags=5), springs(), few), wide, rtol=1e-12)
    inside = eqx.filter_jit(window_expectation)(Diffusion(lags=5), springs(), few)
    assert np.isnan(float(inside))


def test_chaotic_windows_are_refused():
    check_length(WINDOW, 3.9 / float(WINDOW.reach))
    with pytest.raises(ValueError, match="4.1 Lyapunov times.*at most 7 `steps`"):
        check_length(WINDOW, 4.1 / float(WINDOW.reach))
    check_length(WINDOW, 4.1 / float(WINDOW.reach), allow_chaotic=True)
    with pytest.raises(ValueError, match="both_ways"):
        starts_in_wells(4, exponent=9.0, window=Window(0.25, 8, both_ways=False))


def test_the_exponent_is_measured_where_none_is_given():
    assert abs(float(starts_in_wells(4, exponent=None).exponent)) < 0.05


def test_what_makes_no_sense_is_refused():
    few = starts_in_wells(8)
    with pytest.raises(ValueError, match="the 9 moments"):
        window_expectation(Diffusion(lags=10), springs(), few)
    with pytest.raises(ValueError, match="no charges"):
        window_expectation(InfraredSpectrum(jnp.ones(2)), springs(), few)
    with pytest.raises(ValueError, match="`paths`"):
        window_expectation(Diffusion(), springs(), few, paths=9)
    with pytest.raises(ValueError, match="two blocks"):
        window_gradient(Diffusion(), springs(), few)
