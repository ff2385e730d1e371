"""Lyapunov exponents: exact ones of linear systems, and the divergence of two trajectories that are both followed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.simulate import NVE
from jaxmlip.simulate.lyapunov import lyapunov, lyapunov_time
from jaxmlip.simulate.state import replace, with_positions

KEY = jax.random.key(0)


def test_an_atom_on_a_hilltop_has_the_exponent_of_its_map(well, alone):
    """Of r'' = a r, velocity Verlet makes a map with eigenvalues exp(+-x), cosh x = 1 + a dt^2 / 2."""
    system, dt = alone(4.0), 0.3
    state = NVE(dt).init(well(-1.0), system, key=KEY, momenta=jnp.zeros((1, 3)))
    exponent = lyapunov(well(-1.0), state, timestep=dt, key=KEY, steps=400, every=5, discard=0.5)
    exact = np.arccosh(1.0 + 0.5 * 0.25 * dt**2) / dt
    assert exponent.value == pytest.approx(exact, rel=1e-9)
    assert lyapunov_time(exponent) == pytest.approx(1.0 / exact / units.ps)


def test_an_oscillator_has_none(well, alone):
    state = NVE(0.3).init(well(1.0), alone(4.0), key=KEY, momenta=jnp.ones((1, 3)))
    exponent = lyapunov(well(1.0), state, timestep=0.3, key=KEY, steps=4000, every=5)
    assert abs(exponent.value) < 1e-3


def test_two_trajectories_part_at_this_rate(lj, argon):
    """The distance of two runs that begin 1e-8 Angstrom apart, in a liquid."""
    nve = NVE(10.0 * units.fs)
    state = nve.init(lj, argon, key=KEY, temperature=400.0)
    steps = Compiled(lambda energy, state, n: jax.lax.fori_loop(0, n, lambda _, s: nve.step(energy, s), state))
    state = steps(lj, state, 200)
    exponent = lyapunov(lj, state, timestep=10.0 * units.fs, key=KEY, steps=600, every=10)
    moved = state.system.positions + 1e-8 * jax.random.normal(jax.random.key(1), argon.positions.shape)
    other = replace(state, system=with_positions(state.system, moved))
    far = []
    for count in (150, 450):
        a, b = steps(lj, state, count), steps(lj, other, count)
        far.append(float(jnp.linalg.norm(a.system.positions - b.system.positions)))
    rate = np.log(far[1] / far[0]) / (300 * 10.0 * units.fs)
    assert far[1] < 1e-3
    assert exponent.value == pytest.approx(rate, rel=0.3)
    assert 0 < exponent.stderr < 0.2 * exponent.value


def test_too_short_runs_and_wrong_timesteps_are_refused(well, alone):
    state = NVE(0.3).init(well(1.0), alone(4.0), key=KEY, momenta=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="leave 4 growths"):
        lyapunov(well(1.0), state, timestep=0.3, key=KEY, steps=50, every=10)
    with pytest.raises(ValueError, match="timestep"):
        lyapunov(well(1.0), state, timestep=-0.3, key=KEY)
