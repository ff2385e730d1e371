"""Replica exchange: over barriers, with detailed balance, and to the bit after a restart."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run import assert_same

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.simulate import (
    CSVR,
    NVE,
    Guards,
    Langevin,
    Ramp,
    SimulationError,
    exchange,
    load_state,
    run,
    save_state,
    start_replicas,
    temperature_ladder,
)
from jaxmlip.simulate.replicas import trial
from jaxmlip.system import make_system


class DoubleWell(AbstractEnergy):
    """Two valleys along x, at ±1 Å, the right one higher by 2 `tilt`; springs along y and z."""

    barrier: float = eqx.field(static=True, default=0.3)
    tilt: float = eqx.field(static=True, default=0.02)
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        x, y, z = graph.positions.T
        return self.barrier * (x**2 - 1.0) ** 2 + self.tilt * x + 0.5 * (y**2 + z**2)

    def right(self, temperature):
        """Population of the right valley."""
        x = np.linspace(-3, 3, 20_001)
        weight = np.exp(-(self.barrier * (x**2 - 1) ** 2 + self.tilt * x) / (units.kB * temperature))
        return weight[x > 0].sum() / weight.sum()


LADDER = temperature_ladder(250.0, 3000.0, rungs=5)
ATOM = make_system([[-1.0, 0.0, 0.0]], [6], masses=[1.0])


def where(state):
    return state.system.positions[0, 0]


def test_both_valleys_are_visited_as_boltzmann_says_where_plain_dynamics_are_trapped():
    energy, integrator = DoubleWell(), Langevin(1.0 * units.fs, 250.0, 0.1 / units.fs)
    plain = integrator.init(energy, ATOM, key=jax.random.key(0))
    _, x = run(integrator, energy, plain, steps=40_000, every=50, observe=where)
    assert np.all(x < 0), "plain dynamics must be trapped for the test to mean anything"
    replicas = start_replicas(integrator, energy, ATOM, temperatures=LADDER, key=jax.random.key(1))
    options = dict(temperatures=LADDER, steps=25, observe=where, guards=None)
    replicas, _ = exchange(integrator, energy, replicas, rounds=200, **options)
    replicas, x = exchange(integrator, energy, replicas, rounds=3000, **options)
    right = (x > 0).reshape(20, -1, len(LADDER)).mean(axis=1)
    error = right.std(axis=0, ddof=1) / np.sqrt(20)
    exact = np.array([energy.right(T) for T in LADDER])
    assert np.all(error < 0.04), error
    assert np.all(np.abs(right.mean(axis=0) - exact) < 3.5 * error), (right.mean(axis=0), exact, error)
    rate = np.asarray(replicas.accepted) / np.asarray(replicas.attempts)
    assert np.all(rate > 0.2) and np.all(np.asarray(replicas.attempts) == 1600)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_trial_keeps_exact_distributions_and_is_accepted_as_often_as_it_must(sign):
    """Energies of harmonic solids are gamma distributed; a trial with the wrong sign must be caught."""
    count, shape = 40_000, 8.0  # 3N/2 quadratic degrees: heat capacity 8 kB
    ladder = jnp.asarray(temperature_ladder(100.0, 400.0, heat_capacity=shape, acceptance=0.4))
    scale = units.kB * ladder
    energies = jax.random.gamma(jax.random.key(0), shape, (count, len(ladder))) * scale[None]
    keys = jax.random.split(jax.random.key(1), count)
    places, tried, taken = jax.vmap(lambda k, e: trial(k, sign * e, ladder, jnp.asarray(0)))(keys, energies)
    after = jnp.take_along_axis(energies, places, axis=1) / scale[None]
    off = (np.asarray(after).mean(axis=0) - shape) / np.sqrt(shape / count)
    assert (np.abs(off).max() < 4.0) == (sign > 0), off
    if sign > 0:
        assert np.array_equal(
            np.sort(np.asarray(places), axis=1), np.broadcast_to(np.arange(len(ladder)), places.shape)
        )
        rate = np.asarray(taken).sum(axis=0) / np.maximum(np.asarray(tried).sum(axis=0), 1)
        np.testing.assert_allclose(rate[0::2], 0.4, atol=0.1)  # the formula is for many degrees of freedom
        assert np.all(rate[1::2] == 0.0)


@pytest.mark.slow
def test_lists_are_enlarged_and_replayed_and_restarts_continue_to_the_bit(lj, argon, tmp_path, caplog):
    integrator = CSVR(2.0 * units.fs, 60.0, 50.0 * units.fs)
    ladder = temperature_ladder(60.0, 300.0, rungs=3)
    start = start_replicas(integrator, lj, argon, temperatures=ladder, key=jax.random.key(0), skin=0.02)
    options = dict(temperatures=ladder, steps=20, rebuild_every=5)
    with caplog.at_level("INFO", logger="jaxmlip.simulate.replicas"):
        whole, record = exchange(
            integrator, lj, start, rounds=6, observe=lambda s: (s.energy, integrator.conserved(s)), **options
        )
    assert "enlarged" in caplog.text, "the skin must be crossed for the test to mean anything"
    assert record[0].shape == (6, 3) and np.all(np.isfinite(record[0]))
    ample = dataclasses.replace(start, states=whole.states)
    ample = eqx.tree_at(
        lambda r: r.states, start, eqx.tree_at(lambda s: s.neighbors, start.states, ample.states.neighbors)
    )
    half, _ = exchange(integrator, lj, ample, rounds=3, **options)
    loaded, _ = load_state(save_state(tmp_path / "s", half))
    again, _ = exchange(integrator, lj, loaded, rounds=3, **options)
    np.testing.assert_allclose(again.states.system.positions, whole.states.system.positions, atol=1e-9)
    np.testing.assert_array_equal(again.rung, whole.rung)
    direct, _ = exchange(integrator, lj, ample, rounds=6, **options)
    assert_same(again, direct)
    with pytest.raises(SimulationError, match="replica . *: the temperature exceeds 100"):
        exchange(integrator, lj, loaded, rounds=3, guards=Guards(max_temperature=100.0), **options)


def test_ladders_and_integrators_without_meaning_are_refused():
    assert temperature_ladder(100.0, 400.0, rungs=3).tolist() == pytest.approx([100.0, 200.0, 400.0])
    for arguments in (dict(), dict(rungs=3, heat_capacity=2.0), dict(rungs=1), dict(heat_capacity=-1.0)):
        with pytest.raises(ValueError, match="rungs|heat_capacity"):
            temperature_ladder(100.0, 400.0, **arguments)
    with pytest.raises(ValueError, match="must rise"):
        temperature_ladder(400.0, 100.0, rungs=3)
    key = jax.random.key(0)
    for integrator in (NVE(1.0), Langevin(1.0, Ramp(100.0, 300.0, 10.0), 0.1)):
        with pytest.raises(ValueError, match="has no constant one"):
            start_replicas(integrator, DoubleWell(), ATOM, temperatures=LADDER, key=key)
    integrator = Langevin(1.0, 100.0, 0.1)
    with pytest.raises(ValueError, match="at least two, rising"):
        start_replicas(integrator, DoubleWell(), ATOM, temperatures=[300.0], key=key)
