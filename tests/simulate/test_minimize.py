"""Relaxation: forces, cells, pressure, and structures that are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jaxmlip import units
from jaxmlip.energy import energy_forces_stress, system_energies
from jaxmlip.graph import batch
from jaxmlip.simulate import minimize
from jaxmlip.simulate.state import with_cell


def lattice_energy(energy, system, factor, pressure=0.0):
    scaled = with_cell(system, system.positions * factor, system.cell * factor)
    return float(system_energies(energy, batch(scaled, energy.cutoff))[0]) + pressure * float(scaled.volume())


def test_shaken_atoms_return_to_their_lattice(lj, argon):
    relaxed = minimize(lj, argon, fmax=1e-5)
    assert bool(relaxed.converged) and float(relaxed.fmax) < 1e-5 and float(relaxed.smax) == 0.0
    assert int(relaxed.steps) < 400
    graph = batch(relaxed.system, lj.cutoff)
    check = energy_forces_stress(lj, graph)
    assert float(jnp.abs(check.forces).max()) < 1e-5
    assert float(relaxed.energy) == pytest.approx(float(check.energy[0]), abs=1e-12)
    lengths = np.sort(np.asarray(graph.lengths()[graph.edge_mask]))
    np.testing.assert_allclose(lengths[: 12 * 32], 5.4 / np.sqrt(2), atol=1e-3)


@pytest.mark.parametrize("pressure_GPa", [0.0, 0.5])
def test_a_strained_crystal_returns_to_its_lattice_constant_under_pressure(lj, argon, pressure_GPa):
    pressure = pressure_GPa * units.GPa
    strain = jnp.eye(3) + jnp.asarray([[0.03, 0.02, 0.0], [0.02, -0.04, 0.01], [0.0, 0.01, 0.02]])
    strained = with_cell(argon, argon.positions @ strain, argon.cell @ strain)
    relaxed = minimize(lj, strained, fmax=1e-4, smax=1e-7, cell=True, pressure=pressure)
    assert bool(relaxed.converged)
    perfect = minimize(lj, argon, fmax=1e-7).system
    best = minimize_scalar(lambda f: lattice_energy(lj, perfect, f, pressure), bounds=(0.9, 1.1), method="bounded")
    lengths = np.linalg.norm(np.asarray(relaxed.system.cell), axis=1)
    np.testing.assert_allclose(lengths, 10.8 * best.x, atol=2e-3)
    np.testing.assert_allclose(relaxed.system.cell @ relaxed.system.cell.T, np.diag(lengths**2), atol=0.02)
    stress = energy_forces_stress(lj, batch(relaxed.system, lj.cutoff)).stress[0]
    np.testing.assert_allclose(stress, -pressure * np.eye(3), atol=2e-7)


def test_what_cannot_be_relaxed_is_refused(lj, argon):
    with pytest.raises(ValueError, match="`fmax` must be positive"):
        minimize(lj, argon, fmax=-1.0)
    free = dataclasses.replace(argon, pbc=(True, True, False))
    with pytest.raises(ValueError, match="periodic in all directions"):
        minimize(lj, free, cell=True)
    few = minimize(lj, argon, fmax=1e-6, steps=2)
    assert not bool(few.converged) and int(few.steps) == 2
