"""Martyna-Tobias-Klein dynamics: order, reversal, orientation, and the exact ideal gas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from jaxmlip import units
from jaxmlip.simulate import MTK, run
from jaxmlip.simulate.state import replace
from jaxmlip.simulate.strain import flow
from jaxmlip.system import make_system


def mtk(fs, shape="triclinic"):
    return MTK(fs * units.fs, 60.0, 200.0 * units.fs, 0.1 * units.GPa, 500.0 * units.fs, shape)


def backward(state):
    """Everything that moves, the other way."""

    def flip(chain):
        return eqx.tree_at(lambda c: c.momenta, chain, -chain.momenta)

    bath = state.bath
    parts = (-bath.rate, flip(bath.atoms), flip(bath.cell))
    return replace(state, momenta=-state.momenta, bath=eqx.tree_at(lambda b: (b.rate, b.atoms, b.cell), bath, parts))


@pytest.mark.slow
def test_time_runs_backward_and_a_cell_keeps_its_orientation(lj, argon):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    turned = (argon.positions @ jnp.asarray(turn), argon.cell @ jnp.asarray(turn))
    system = eqx.tree_at(lambda s: (s.positions, s.cell), argon, turned)
    integrator = mtk(4.0)
    state = integrator.init(lj, system, key=jax.random.key(0))
    there, conserved = run(integrator, lj, state, steps=300, every=10, observe=lambda s: integrator.conserved(s))
    cell = np.asarray(there.system.cell) @ turn.T
    assert np.abs(np.triu(cell, 1)).max() < 1e-10, "a turns, or the plane of a and b does"
    assert np.abs(np.tril(cell, -1)).max() > 1e-3, "the shape is meant to change"
    assert np.abs(np.asarray(there.momenta).sum(axis=0)).max() < 1e-11
    assert np.ptp(conserved) < 0.01 * units.kB * 60.0 * len(system.numbers)
    back, _ = run(integrator, lj, backward(there), steps=300, every=300)
    np.testing.assert_allclose(back.system.positions, state.system.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(back.system.cell, state.system.cell, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["isotropic", "anisotropic", "triclinic"])
def test_the_conserved_energy_wavers_with_the_square_of_the_timestep(lj, argon, shape):
    spread, times = [], (2.0, 4.0, 8.0)
    for fs in times:
        integrator = mtk(fs, shape)
        state = integrator.init(lj, argon, key=jax.random.key(0))
        state, _ = run(integrator, lj, state, steps=int(2000 / fs), every=10**6)
        _, conserved = run(
            integrator, lj, state, steps=int(6400 / fs), every=1, observe=lambda s, i=integrator: i.conserved(s)
        )
        spread.append(np.std(conserved))
    slope = np.polyfit(np.log(times), np.log(spread), 1)[0]
    assert abs(slope - 2.0) < 0.25
    assert spread[1] < 3e-6 * len(argon.numbers)


def test_flow_is_what_it_says():
    matrix = np.random.default_rng(0).normal(size=(3, 3))
    matrix /= np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(np.eye(3) + matrix @ flow(jnp.asarray(matrix)), expm(matrix), rtol=1e-13, atol=1e-14)


def test_a_barostat_needs_a_periodic_cell(lj):
    with pytest.raises(ValueError, match="periodic in all directions"):
        pair = make_system([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0]], [18, 18])
        mtk(1.0).init(lj, pair, key=jax.random.key(0))
