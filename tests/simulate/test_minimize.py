"""Relaxation: forces, cells, pressure, and structures that are known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces_stress, system_energies
from jaxmlip.graph import batch
from jaxmlip.simulate import FIRE, LBFGS, minimize
from jaxmlip.simulate.state import with_cell
from jaxmlip.system import make_system


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


def test_quasi_newton_steps_come_to_the_same_crystal_in_fewer_evaluations(lj, argon):
    slow, fast = (minimize(lj, argon, fmax=1e-6, method=m) for m in (FIRE(), LBFGS()))
    assert bool(slow.converged) and bool(fast.converged)
    assert float(fast.energy) == pytest.approx(float(slow.energy), abs=1e-10)
    assert int(fast.steps) < 0.5 * int(slow.steps), (int(fast.steps), int(slow.steps))
    strain = jnp.eye(3) + jnp.asarray([[0.03, 0.02, 0.0], [0.02, -0.04, 0.01], [0.0, 0.01, 0.02]])
    strained = with_cell(argon, argon.positions @ strain, argon.cell @ strain)
    options = dict(fmax=1e-4, smax=1e-7, cell=True, pressure=0.5 * units.GPa)
    slow, fast = (minimize(lj, strained, method=m, **options) for m in (FIRE(), LBFGS()))
    assert bool(slow.converged) and bool(fast.converged)
    assert float(fast.energy) == pytest.approx(float(slow.energy), abs=1e-6)
    assert float(fast.system.volume()) == pytest.approx(float(slow.system.volume()), rel=1e-5)
    assert int(fast.steps) < int(slow.steps), (int(fast.steps), int(slow.steps))


def test_the_energy_of_quasi_newton_steps_never_rises(lj, argon):
    shaken = with_cell(argon, argon.positions + 0.3 * jax.random.normal(jax.random.key(0), (32, 3)), argon.cell)
    energies = []
    for steps in range(1, 40, 3):
        relaxed = minimize(lj, shaken, fmax=1e-6, steps=steps, method=LBFGS())
        energies.append(float(relaxed.energy))
    assert np.all(np.diff(energies) <= 1e-12) and energies[-1] < energies[0] - 1.0


class Slope(AbstractEnergy):
    """Forces that are not those of the energy: nothing that a minimizer does can lower it."""

    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        x = graph.positions[:, 0]
        return jnp.sin(x) - 2.0 * (x - jax.lax.stop_gradient(x)) + jax.lax.stop_gradient(jnp.cosh(x) - jnp.sin(x))


def test_what_leads_nowhere_is_given_up_and_said(alone):
    stuck = minimize(Slope(), alone(1.0), fmax=1e-6, steps=500, method=LBFGS())
    assert not bool(stuck.converged) and int(stuck.steps) < 100
    with pytest.raises(ValueError, match="`memory` must be"):
        LBFGS(memory=0)


@pytest.mark.slow
def test_lists_that_overflow_on_the_way_down_change_no_step(lj):
    """Atoms that fall together have more neighbors than they started with."""
    rng = np.random.default_rng(0)
    loose = make_system(
        rng.uniform(-1, 1, (20, 3)) + 6.0 * np.stack(np.unravel_index(range(20), (3, 3, 3)), 1), [18] * 20
    )
    results = [minimize(lj, loose, fmax=1e-3, steps=150, skin=skin, method=LBFGS()) for skin in (0.1, 3.0)]
    np.testing.assert_allclose(results[0].system.positions, results[1].system.positions, atol=1e-6)
