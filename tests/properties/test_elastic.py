"""Elastic constants: against strained crystals that relax, under pressure, and as functions of parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close_packed_argon import argon, compiled

from jaxmlip import units
from jaxmlip.energy import energy_forces_stress
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.properties import bulk_modulus, elastic_constants, follow, from_voigt, refine, to_voigt
from jaxmlip.properties.strain import strained


@compiled
def all_of_it(theta, start):
    """Constants, relaxed and clamped, and their tangents along both parameters."""

    def values(t):
        energy = argon(t[0], t[1])
        return elastic_constants(energy, follow(energy, start))

    def push(direction):
        return jax.jvp(values, (theta,), (direction,))

    return jax.vmap(push, out_axes=(None, 0))(jnp.eye(2))


@compiled
def stress_of(energy, point, strain, relaxes):
    """The stress of a strained crystal, with its ions where they were or where they go."""
    bent = dataclasses.replace(point, system=strained(point.system, from_voigt(strain)))
    there = follow(energy, bent)
    system = jax.tree.map(lambda a, b: jnp.where(relaxes, a, b), there.system, bent.system)
    return to_voigt(energy_forces_stress(energy, to_graph(point.neighbors, system)).stress[0])


THETA = np.array([0.0104, 3.4])


@pytest.mark.parametrize("pressure_GPa", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_constants_are_what_strained_crystals_answer(crystal, pressure_GPa):
    pressed = refine(argon(), crystal.system, cell=True, pressure=pressure_GPa * units.GPa, tolerance=1e-11)
    (constants, _) = all_of_it(jnp.asarray(THETA), pressed)
    held = dataclasses.replace(refine(argon(), pressed.system), tolerance=jnp.asarray(1e-12))
    for relaxes, found in ((True, constants.relaxed), (False, constants.clamped)):
        measured = np.zeros((6, 6))
        for k in range(6):
            strain = 1e-4 * jnp.eye(6)[k]
            two = [stress_of(argon(), held, sign * strain, jnp.asarray(relaxes)) for sign in (1.0, -1.0)]
            measured[:, k] = (two[0] - two[1]) / 2e-4
        np.testing.assert_allclose(found, measured, atol=1e-6 * np.abs(measured).max())
    gap = float(constants.clamped[0, 0] - constants.relaxed[0, 0])
    assert gap > 1e-3 * float(constants.clamped[0, 0])  # the ions do follow
    np.testing.assert_allclose(constants.relaxed, constants.relaxed.T, atol=1e-9)
    assert float(constants.relaxed[0, 0] - constants.relaxed[0, 1]) == pytest.approx(2 * float(constants.relaxed[5, 5]))


@pytest.mark.slow
def test_they_scale_with_the_depth_and_follow_the_width(crystal):
    constants, slopes = all_of_it(jnp.asarray(THETA), crystal)
    np.testing.assert_allclose(slopes.relaxed[0], constants.relaxed / THETA[0], rtol=1e-8, atol=1e-8)
    step = np.array([0.0, 0.004])
    at = {k: all_of_it(jnp.asarray(THETA + k * step), crystal)[0] for k in (-2, -1, 1, 2)}
    for name in ("relaxed", "clamped"):
        value = {k: np.asarray(getattr(v, name)) for k, v in at.items()}
        slope = (8.0 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12.0 * 0.004)
        np.testing.assert_allclose(getattr(slopes, name)[1], slope, atol=1e-5 * np.abs(slope).max())


def test_products_with_the_hessian_give_the_same(crystal):
    energy = argon()
    some = compiled(elastic_constants)(energy, dataclasses.replace(crystal, dense=0))
    full = all_of_it(jnp.asarray(THETA), crystal)[0]
    np.testing.assert_allclose(some.relaxed, full.relaxed, atol=1e-9)
    np.testing.assert_allclose(some.clamped, full.clamped, atol=1e-9)


def test_a_uniform_strain_meets_the_bulk_modulus(crystal):
    constants = all_of_it(jnp.asarray(THETA), crystal)[0].relaxed
    isotropic = np.zeros((6, 6))
    isotropic[:3, :3] = 2.0
    assert float(bulk_modulus(jnp.asarray(isotropic))) == 2.0
    pushed = [refine(argon(), crystal.system, cell=True, pressure=p, tolerance=1e-11) for p in (-2e-5, 2e-5)]
    compliance = np.linalg.inv(constants)[:3, :3].sum()  # at uniform pressure; Reuss's mean
    volumes = [float(p.system.volume()) for p in pushed]
    assert -np.log(volumes[1] / volumes[0]) / 4e-5 == pytest.approx(compliance, rel=1e-3)
    assert float(bulk_modulus(constants)) == pytest.approx(1.0 / compliance, rel=0.05)  # axes of nearly one stiffness


def test_a_molecule_has_none(crystal):
    with pytest.raises(ValueError, match="periodic in all directions"):
        alone = dataclasses.replace(crystal.system, pbc=(False,) * 3)
        elastic_constants(argon(), dataclasses.replace(crystal, system=alone))
