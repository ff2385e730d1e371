"""Windows of dynamics and their adjoints: against finite differences, exact scaling laws and each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones, system_energies
from jaxmlip.graph.neighbors import allocate
from jaxmlip.learn.adjoint import (
    Checkpoint,
    Forward,
    Reversible,
    Start,
    StoreAll,
    Window,
    _backwards,
    _on_grid,
    follow,
)
from jaxmlip.simulate import constrain
from jaxmlip.simulate.state import thermal_momenta, without_drift
from jaxmlip.system import make_system

ENERGY = LennardJones(jnp.asarray(0.0103), jnp.asarray(3.4), cutoff=30.0, truncation="cut")
WINDOW = Window(10.0 * units.fs, 24, every=2, rebuild=8)


def cluster(dtype=jnp.float64, skin=2.0):
    """Thirteen atoms in free space, farther inside than any cutoff."""
    side = 1.7 * (1.0 + np.sqrt(5.0)) / 2.0
    corners = [np.roll([0.0, a * 1.7, b * side], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    positions = np.array([[0.0, 0.0, 0.0], *corners]) * 1.12
    system = make_system(positions + 0.1 * np.random.default_rng(0).normal(size=(13, 3)), [18] * 13, dtype=dtype)
    momenta = without_drift(thermal_momenta(jax.random.key(1), system.masses, 40.0), system.masses)
    return Start(system, momenta, allocate(system, 30.0, skin=skin))


def velocities(energy, graph, momenta, masses):
    del energy, graph
    return momenta / masses[:, None]


def velocities_and_energy(energy, graph, momenta, masses):
    return velocities(energy, graph, momenta, masses), system_energies(energy, graph)[0]


def product(energy, start, timestep, adjoint):
    """Two products of velocities, at times on both sides of the start, and an energy in between."""
    window = eqx.tree_at(lambda w: w.timestep, WINDOW, timestep)
    (v, u), flags = follow(energy, velocities_and_energy, start, window, adjoint)
    return jnp.sum(v[0] * v[-1]) + jnp.sum(v[9] * v[16]) + 0.1 * u[19], flags.failed


def of_phase_point(arguments, start, adjoint):
    energy, positions, momenta, timestep = arguments
    start = eqx.tree_at(lambda s: (s.system.positions, s.momenta), start, (positions, momenta))
    return product(energy, start, timestep, adjoint)


@pytest.fixture(scope="module")
def point():
    start = cluster()
    return ENERGY, start.system.positions, start.momenta, WINDOW.timestep


@pytest.fixture(scope="module")
def checkpointed(point):
    """Value and gradient by everything."""
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(of_phase_point, has_aux=True))(
        point, cluster(), Checkpoint()
    )
    assert not bool(value[1])
    return value[0], gradient


def by_energy(adjoint, start):
    learned, rest = eqx.partition(ENERGY, eqx.is_inexact_array)

    def value(learned):
        return product(eqx.combine(learned, rest), start, WINDOW.timestep, adjoint)[0]

    return jax.jit(lambda learned: adjoint.pull_back(value, learned, jnp.ones((), start.momenta.dtype)))(learned)


def test_gradient_is_that_of_finite_differences(point, checkpointed):
    value = eqx.filter_jit(of_phase_point)
    for where in (lambda e: e.sigma, lambda e: e.epsilon):
        step = 2e-4 * float(where(ENERGY))

        def moved(by, where=where, step=step):
            energy = eqx.tree_at(where, ENERGY, where(ENERGY) + by * step)
            return float(value((energy, *point[1:]), cluster(), Checkpoint())[0])

        slope = (8.0 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12.0 * step)
        assert float(where(checkpointed[1][0])) == pytest.approx(slope, rel=1e-8)


def test_scaling_of_energies_is_obeyed(point, checkpointed):
    """epsilon -> c epsilon, p -> c^1/2 p, dt -> c^-1/2 dt leaves the path; energies and v v go with c."""
    value, (energy, _, momenta, timestep) = checkpointed
    euler = ENERGY.epsilon * energy.epsilon + 0.5 * jnp.sum(point[2] * momenta) - 0.5 * point[3] * timestep
    np.testing.assert_allclose(float(euler), float(value), rtol=1e-10)


def test_scaling_of_lengths_is_obeyed(point, checkpointed):
    """sigma, positions and dt times c leave velocities and energies."""
    _, (energy, positions, _, timestep) = checkpointed
    terms = [ENERGY.sigma * energy.sigma, jnp.sum(point[1] * positions), point[3] * timestep]
    assert abs(float(sum(terms))) < 1e-10 * max(abs(float(x)) for x in terms)


@pytest.mark.parametrize("adjoint", [Reversible(), Forward()], ids=["reversible", "forward"])
def test_all_adjoints_give_the_same_gradient(adjoint, checkpointed):
    gradient = by_energy(adjoint, cluster())
    expected = checkpointed[1][0]
    np.testing.assert_allclose(float(gradient.sigma), float(expected.sigma), rtol=1e-10)
    np.testing.assert_allclose(float(gradient.epsilon), float(expected.epsilon), rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_dynamics_comes_back_to_the_bit(dtype):
    start = cluster(dtype, skin=8.0)
    window = Window(10.0 * units.fs, 400, every=100, rebuild=25)
    dt = window.timestep.astype(dtype)

    @jax.jit
    def there_and_back(start):
        point = ENERGY, start.system.positions, start.momenta
        series, flags, kept = _on_grid(point, velocities, start, window, dt)
        phase, gradient, *_ = _backwards(kept, series, point, velocities, start, window, dt)
        return phase, series, flags.stale, gradient

    phase, series, stale, gradient = there_and_back(start)
    assert not bool(stale)
    np.testing.assert_array_equal(np.asarray(phase[0]), 0)
    unit = 2.0**-44 if dtype == jnp.float64 else 2.0**-20
    np.testing.assert_array_equal(np.asarray(phase[1]), np.round(np.asarray(start.momenta) / unit))
    assert series.dtype == dtype and gradient.sigma.dtype == ENERGY.sigma.dtype
    assert float(jnp.max(jnp.abs(series[-1] - series[0]))) > 1e-3


def test_a_list_that_does_not_last_is_flagged():
    start = cluster(skin=0.05)
    assert bool(eqx.filter_jit(product)(ENERGY, start, WINDOW.timestep, Checkpoint())[1])


def test_plain_backpropagation_warns():
    with pytest.warns(UserWarning, match="keeps everything"):
        StoreAll()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="timestep"):
        Window(-1.0, 10)
    with pytest.raises(ValueError, match="multiple of `every`"):
        Window(1.0, 10, every=3)
    with pytest.raises(ValueError, match="at least 1"):
        Window(1.0, 0)
    start = cluster()
    with pytest.raises(ValueError, match="2 .at most 1"):
        by_energy(Forward(most=1), start)
    held = eqx.tree_at(lambda s: s.system, start, constrain(start.system, fixed=[0]))
    with pytest.raises(ValueError, match="constraints"):
        follow(ENERGY, velocities, held, WINDOW, Checkpoint())
