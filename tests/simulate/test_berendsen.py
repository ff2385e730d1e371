"""Weak coupling: it warns, relaxes as it should, and its fluctuations are as wrong as they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.simulate import Berendsen, BerendsenNPT, run
from jaxmlip.simulate.berendsen import relaxed


def test_each_warns_once_that_it_samples_no_ensemble(lj, argon):
    with pytest.warns(UserWarning, match="thermostat samples no ensemble.*CSVR") as heard:
        Berendsen(1.0, 100.0, 10.0)
    assert len(heard) == 1
    with pytest.warns(UserWarning, match="barostat samples no ensemble.*MTK") as heard:
        BerendsenNPT(1.0, 100.0, 10.0, 0.0, 100.0)
    assert len(heard) == 1


def test_the_kinetic_energy_relaxes_exponentially():
    momenta, masses = jnp.asarray([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), jnp.asarray([2.0, 2.0])
    after, heat = relaxed(momenta, masses, 3, jnp.asarray(4.0), jnp.asarray(0.7))
    kinetic = float(jnp.sum(after**2) / 4.0)
    np.testing.assert_allclose(kinetic, 6.0 + (0.5 - 6.0) * np.exp(-0.7))
    np.testing.assert_allclose(heat, 0.5 - kinetic)


@pytest.mark.slow
def test_a_crystal_goes_to_its_temperature_and_pressure_and_hardly_fluctuates(lj, argon):
    with pytest.warns(UserWarning):
        integrator = BerendsenNPT(
            4.0 * units.fs, 60.0, 100.0 * units.fs, 0.2 * units.GPa, 300.0 * units.fs, 0.3 / units.GPa
        )
    state = integrator.init(lj, argon, key=jax.random.key(0), temperature=10.0)
    state, _ = run(integrator, lj, state, steps=2000, every=2000)

    def observe(s):
        kinetic = 0.5 * jnp.sum(s.momenta**2 / s.system.masses[:, None])
        trace = (2.0 * kinetic + jnp.trace(s.bath.virial)) / (3.0 * s.system.volume())
        return kinetic / (0.5 * 93 * units.kB), trace / units.GPa

    _, (T, P) = run(integrator, lj, state, steps=10_000, every=10, observe=observe)
    assert abs(T.mean() - 60.0) < 0.5
    assert abs(P.mean() - 0.2) < 0.02
    assert T.var() < 0.7 * 2.0 * 60.0**2 / 93, "the canonical variance, and so an ensemble after all"
