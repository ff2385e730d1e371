"""Velocity Verlet against jax-md, against the exact oscillator, and against its own symmetries."""

import importlib.util
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import energy_forces
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.simulate import NVE, run
from jaxmlip.simulate.state import replace
from jaxmlip.system import make_system


@pytest.fixture(scope="module")
def jax_md():
    """The parts of jax-md that integrate, without the rest of it (whose import costs seconds)."""
    if "jax_md" not in sys.modules:
        module = types.ModuleType("jax_md")
        module.__path__ = list(importlib.util.find_spec("jax_md").submodule_search_locations)
        sys.modules["jax_md"] = module
    from jax_md import simulate

    return simulate


def oracle(apply, begin, energy, system, momenta, steps):
    """Positions of jax-md after `steps`, from the same positions and momenta, with lists made anew at each step."""
    from jaxmlip.graph.neighbors import allocate, rebuild

    neighbors = allocate(system, energy.cutoff, skin=1.0)

    def force(positions, **_):
        there = eqx.tree_at(lambda s: s.positions, system, positions)
        return energy_forces(energy, to_graph(rebuild(neighbors, there), there))[1]

    # jax-md mixes float types and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        start, step = begin(force), apply(force)
        state = start(system.positions).set(momentum=momenta)
        return jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda _, x: step(x), s))(state)


def test_the_trajectory_is_that_of_jax_md(jax_md, lj, argon):
    dt = 0.375  # 3.8 fs; jax-md rounds half of it to float32, so it must have few digits
    integrator = NVE(dt)
    state = integrator.init(lj, argon, key=jax.random.key(3), temperature=150.0)
    mass = argon.masses[:, None]
    pair = lambda force: jax_md.nve(force, lambda r, dr, **_: r + dr, dt)  # noqa: E731
    expected = oracle(
        lambda f: pair(f)[1],
        lambda f: lambda r: pair(f)[0](jax.random.PRNGKey(0), r, 1.0, mass=mass),
        lj,
        argon,
        state.momenta,
        100,
    )
    after, _ = run(integrator, lj, state, steps=100, every=100)
    np.testing.assert_allclose(after.system.positions, expected.position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.momenta, expected.momentum, rtol=0, atol=1e-12)


def test_an_oscillator_keeps_its_shadow_energy_and_frequency(well, alone):
    r"""Exact for velocity Verlet: $p^2/2m + m w^2 q^2 (1 - (w dt)^2/4) / 2$, and $w' = 2/dt \arcsin(w dt/2)$."""
    mass, stiffness, dt = 2.0, 8.0, 0.3
    w = np.sqrt(stiffness / mass)
    integrator = NVE(dt)
    state = integrator.init(well(stiffness), alone(mass), key=jax.random.key(0), momenta=jnp.asarray([[0.0, 1.0, 0.0]]))
    _, (q, p) = run(integrator, well(stiffness), state, steps=10_000, every=1, observe=phase_point, guards=None)
    q, p = q[:, 0, 1], p[:, 0, 1]
    shadow = p**2 / (2 * mass) + 0.5 * stiffness * q**2 * (1 - (w * dt) ** 2 / 4)
    np.testing.assert_allclose(shadow, 1.0 / (2 * mass), rtol=1e-11)
    effective = 2 / dt * np.arcsin(w * dt / 2)
    amplitude = np.sqrt(2 * shadow[0] / (stiffness * (1 - (w * dt) ** 2 / 4)))
    np.testing.assert_allclose(q, amplitude * np.sin(effective * dt * np.arange(1, 10_001)), atol=1e-9)


def phase_point(state):
    return state.system.positions, state.momenta


def test_momentum_stays_zero_and_time_runs_backward(lj, argon):
    integrator = NVE(2.0 * units.fs)
    state = integrator.init(lj, argon, key=jax.random.key(3), temperature=300.0)
    forward, _ = run(integrator, lj, state, steps=1000, every=1000)
    total = np.abs(np.asarray(forward.momenta).sum(axis=0)).max()
    assert total < 1e-11 * np.abs(np.asarray(forward.momenta)).sum()
    back, _ = run(integrator, lj, replace(forward, momenta=-forward.momenta), steps=1000, every=1000)
    np.testing.assert_allclose(back.system.positions, state.system.positions, atol=1e-8)
    assert np.abs(np.asarray(forward.system.positions - state.system.positions)).max() > 0.3, "nothing has moved"


@pytest.mark.parametrize("timestep", [0.0, -1.0, float("nan")])
def test_a_timestep_must_be_positive(timestep):
    with pytest.raises(ValueError, match="`timestep` must be positive"):
        NVE(timestep)


def test_a_start_needs_momenta_or_a_temperature(lj, argon):
    with pytest.raises(ValueError, match="Give `temperature`"):
        NVE(1.0 * units.fs).init(lj, argon, key=jax.random.key(0))
    with pytest.raises(ValueError, match="between 0 and 1e6 K"):
        NVE(1.0 * units.fs).init(lj, argon, key=jax.random.key(0), temperature=1e9)
    with pytest.raises(ValueError, match="`momenta` must be finite"):
        NVE(1.0 * units.fs).init(lj, argon, key=jax.random.key(0), momenta=jnp.zeros((3, 3)))


def test_atoms_on_top_of_each_other_are_refused_by_name(lj, argon):
    positions = argon.positions.at[7].set(argon.positions[4])
    with pytest.raises(ValueError, match="Atoms (4 and 7|7 and 4) lie 0 Å apart"):
        clash = eqx.tree_at(lambda s: s.positions, argon, positions)
        NVE(1.0 * units.fs).init(lj, clash, key=jax.random.key(0), temperature=80.0)


def test_single_precision_does_not_lose_moves_to_rounding(lj):
    """Moves of 1e-3 Å at 100 Å: each is rounded by up to 4e-6 Å, all of them always in the same direction."""
    steps, timestep = 10_000, 0.1
    system = make_system([[100.0, 0.0, 0.0], [0.0, 50.0, 0.0]], [18, 18], dtype=jnp.float32)
    momenta = jnp.asarray([[0.0123, 0.0, 0.0], [0.0, 0.0, -0.0077]], jnp.float32) * system.masses[:, None]
    state = NVE(timestep).init(lj, system, key=jax.random.key(0), momenta=momenta)
    end, _ = run(NVE(timestep), lj, state, steps=steps, every=steps)
    velocity = np.asarray(momenta, np.float64) / np.asarray(system.masses, np.float64)[:, None]
    expected = np.asarray(system.positions, np.float64) + steps * np.float64(np.float32(timestep)) * velocity
    np.testing.assert_allclose(end.system.positions, expected, rtol=0, atol=8e-6)
