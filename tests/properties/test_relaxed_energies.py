"""Energies of relaxed structures, and their gradients by the envelope theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close_packed_argon import argon, compiled

from jaxmlip import units
from jaxmlip.energy import AtomicReferences
from jaxmlip.properties import (
    cohesive_energy,
    follow,
    isolated_energies,
    make_vacancy,
    refine,
    relaxed_energy,
    vacancy_formation_energy,
)
from jaxmlip.system import make_system

THETA = np.array([0.0104, 3.4])
REPEATS = (2, 2, 2)


@compiled
def of_crystal(theta, start):
    """Cohesive energy and enthalpy at what was relaxed, and their gradients."""
    energy = argon(theta[0], theta[1]) + AtomicReferences({18: -2.5})

    def values(t):
        energy = argon(t[0], t[1]) + AtomicReferences({18: -2.5})
        return jnp.stack([cohesive_energy(energy, start), relaxed_energy(energy, start)])

    return values(theta), jax.jacfwd(values)(theta), jnp.sum(isolated_energies(energy, start.system))


@compiled
def of_vacancy(theta, crystal, vacancy):
    """Formation energy and its gradient by the envelope theorem."""

    def quick(t):
        energy = argon(t[0], t[1])
        return vacancy_formation_energy(energy, follow(energy, crystal), vacancy)

    return jax.value_and_grad(quick)(theta)


def relaxed_vacancy(theta, crystal):
    energy = argon(theta[0], theta[1])
    crystal = refine(energy, crystal.system, cell=True, tolerance=1e-11)
    return crystal, refine(energy, make_vacancy(crystal.system, REPEATS), tolerance=1e-11)


def test_cohesion_counts_from_isolated_atoms(crystal):
    (cohesion, energy), slopes, alone = of_crystal(jnp.asarray(THETA), crystal)
    assert float(alone) == pytest.approx(-5.0, abs=1e-12)
    assert float(energy) == pytest.approx(float(crystal.energy) - 5.0, abs=1e-12)
    assert float(cohesion) == pytest.approx(-float(crystal.energy) / 2.0, abs=1e-12) and float(cohesion) > 0.0
    assert float(slopes[0, 0]) == pytest.approx(float(cohesion) / THETA[0], rel=1e-9)
    at = {k: refine(argon(THETA[0], THETA[1] + 0.002 * k), crystal.system, cell=True).energy for k in (-2, -1, 1, 2)}
    measured = float(8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / 0.024
    assert float(slopes[1, 1]) == pytest.approx(measured, rel=1e-5)


def test_under_pressure_it_is_the_enthalpy_that_is_stationary(crystal):
    pressure = 0.2 * units.GPa
    options = {"cell": True, "pressure": pressure, "tolerance": 1e-11}
    pressed = refine(argon(), crystal.system, **options)
    (_, enthalpy), slopes, _ = of_crystal(jnp.asarray(THETA), pressed)
    work = pressure * float(pressed.system.volume())
    assert float(enthalpy) == pytest.approx(float(pressed.energy) + work - 5.0, abs=1e-12)
    nearby = [refine(argon(THETA[0], THETA[1] + h), pressed.system, **options) for h in (-0.002, 0.002)]
    enthalpies = [float(p.energy + pressure * p.system.volume()) for p in nearby]
    assert float(slopes[1, 1]) == pytest.approx((enthalpies[1] - enthalpies[0]) / 0.004, rel=1e-5)


def test_the_gradient_of_a_vacancy_needs_no_linear_system(crystal):
    ground, vacancy = relaxed_vacancy(THETA, crystal)
    assert bool(vacancy.converged) and len(vacancy.system.numbers) == 15
    value, gradient = of_vacancy(jnp.asarray(THETA), ground, vacancy)
    unrelaxed = refine(argon(), make_vacancy(ground.system, REPEATS), tolerance=1e3)  # nobody moves
    before = of_vacancy(jnp.asarray(THETA), ground, unrelaxed)[0]
    assert 1e-5 < float(before - value) < 0.1 * float(value)  # it relaxes
    assert float(gradient[0]) == pytest.approx(float(value) / THETA[0], rel=1e-7)
    at = {}
    for k in (-2, -1, 1, 2):
        theta = THETA + np.array([0.0, 0.004 * k])
        at[k] = float(of_vacancy(jnp.asarray(theta), *relaxed_vacancy(theta, crystal))[0])
    assert float(gradient[1]) == pytest.approx((8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / 0.048, rel=1e-5)


def test_what_has_no_answer_is_refused(crystal):
    with pytest.raises(ValueError, match="`atom` must be one of the 2 atoms"):
        make_vacancy(crystal.system, REPEATS, atom=2)
    salt = make_system([[0.0, 0.0, 0.0], [2.8, 0.0, 0.0]], [11, 17], cell=[5.6] * 3)
    with pytest.raises(ValueError, match="chemical potentials"):
        make_vacancy(salt, REPEATS)
    with pytest.raises(ValueError, match="has its own cell"):
        relaxed_energy(argon(), crystal, cell=crystal.system.cell)
