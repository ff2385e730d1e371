"""Crystal and melt side by side: Lennard-Jones, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.simulate import CoexistenceSettings, coexistence
from jaxmlip.simulate.coexistence import _without_bath
from jaxmlip.simulate.run import run
from jaxmlip.system import make_system

EPSILON, SIGMA = 119.8 * units.kB, 3.405
TAU = SIGMA * (39.948 / EPSILON) ** 0.5
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def argon():
    return LennardJones(EPSILON, SIGMA, cutoff=2.5 * SIGMA)


def crystal(repeats, shake=0.0):
    edge = (4.0 / 0.96) ** (1.0 / 3.0) * SIGMA
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in repeats], indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (grid + FCC[None]).reshape(-1, 3) * edge
    positions = positions + shake * np.random.default_rng(0).normal(size=positions.shape)
    return make_system(positions, [18] * len(positions), cell=[edge * n for n in repeats], dtype=np.float32)


def settings(reduced, **changes):
    """In reduced units of Lennard-Jones."""
    options = {"timestep": 0.004 * TAU, "friction": 1.0 / TAU, "barostat_period": TAU, "prepare": 1500} | changes
    return CoexistenceSettings(reduced * 119.8, compressibility=0.02 * SIGMA**3 / EPSILON, **options)


def test_enthalpy_is_constant_while_both_phases_are_watched():
    energy, asked = argon(), settings(0.5, steps=800)
    integrator = _without_bath(asked)
    state = integrator.init(energy, crystal((3, 3, 3)), key=jax.random.key(0))
    before = float(integrator.conserved(state))
    state, kinetic = run(integrator, energy, state, steps=2000, every=20, observe=_kinetic)
    assert abs(float(integrator.conserved(state)) - before) < 2e-4 * 108 * EPSILON
    assert float(np.ptp(kinetic)) > 0.05 * 108 * EPSILON  # heat goes to and fro: nothing holds the temperature
    assert not np.allclose(state.system.cell, crystal((3, 3, 3)).cell)


def _kinetic(state):
    return 0.5 * jnp.sum(state.momenta**2 / state.system.masses[:, None])


@pytest.mark.slow
def test_melting_temperature_of_lennard_jones_does_not_depend_on_the_guess():
    """Truncated at 2.5 sigma (smoothly): between 0.60 (Errington, truncated and shifted with long cutoffs left out) and
    0.694 (all of it, Mastny & de Pablo, J. Chem. Phys. 127, 104504 (2007), doi:10.1063/1.2753149). In crystals shorter
    than twelve cells one phase takes all from guesses that are 3 % off."""
    found = [
        coexistence(argon(), crystal((4, 4, 12)), settings(guess, prepare=3000, steps=20_000), key=jax.random.key(1))
        for guess in (0.65, 0.67)
    ]
    reduced = [f.temperature.value / 119.8 for f in found]
    assert all(0.62 < t < 0.68 for t in reduced)
    assert abs(reduced[0] - reduced[1]) < 0.015
    assert found[0].crystalline[-50:].mean() > found[1].crystalline[-50:].mean()  # the colder start has frozen more


@pytest.mark.slow
def test_a_guess_far_too_low_freezes_all():
    with pytest.raises(ValueError, match="All has frozen"):
        coexistence(argon(), crystal((3, 3, 6)), settings(0.4, steps=6000), key=jax.random.key(0))


def test_a_liquid_is_refused():
    with pytest.raises(ValueError, match="in phase"):
        coexistence(argon(), crystal((3, 3, 6), shake=0.8), settings(0.65, steps=800), key=jax.random.key(0))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="`melt`"):
        settings(0.65, melt=50.0)
    with pytest.raises(ValueError, match="40 times"):
        settings(0.65, steps=100)
