"""Observers that grow inside the loop: equal to the trajectory they spare, replayed and restarted to the bit."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run import _cut, _padded, assert_same

from jaxmlip import units
from jaxmlip.energy import LennardJones, energy_forces_virial
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.observables import (
    mean_squared_displacement,
    pair_counts,
    pressure_tensor,
    structure_factor,
    velocity_autocorrelation,
    wave_indices,
)
from jaxmlip.simulate import (
    NPT,
    NVE,
    AbstractObserver,
    Autocorrelation,
    Guards,
    HeatFlux,
    Lags,
    Langevin,
    Mean,
    MeanSquaredDisplacement,
    PairDistribution,
    StructureFactor,
    VelocityAutocorrelation,
    load_state,
    pressure_components,
    results,
    run,
)
from jaxmlip.simulate.observers import _plus, tallies_for
from jaxmlip.simulate.run import _Loop, _watch
from jaxmlip.system import make_system

EDGES = jnp.linspace(2.5, 5.0, 26)
WAVES = wave_indices(np.eye(3) * 10.8, 1.5)
OBSERVERS = {
    "msd": MeanSquaredDisplacement(Lags(40)),
    "far": MeanSquaredDisplacement(Lags(6, levels=4, ratio=3)),
    "vacf": VelocityAutocorrelation(Lags(20)),
    "rdf": Mean(PairDistribution(EDGES)),
    "waves": Mean(StructureFactor(WAVES)),
    "pressure": Autocorrelation(pressure_components, Lags(10)),
    "heat": Autocorrelation(HeatFlux(), Lags(4)),
}


def everything(state):
    graph = to_graph(state.neighbors, state.system)
    return {
        "positions": state.system.positions,
        "velocities": state.momenta / state.system.masses[:, None],
        "momenta": state.momenta,
        "volume": state.system.volume(),
        "waves": structure_factor(state.system.positions, state.system.cell, jnp.asarray(WAVES)),
        "counts": pair_counts(graph, EDGES),
    }


class Pressure(eqx.Module):
    """The pressure tensor of a state, from the energy itself."""

    energy: LennardJones

    def __call__(self, state):
        volume = state.system.volume()
        virial = energy_forces_virial(self.energy, to_graph(state.neighbors, state.system))[2][0]
        tensor = pressure_tensor(-virial / volume, state.momenta, state.system.masses, volume)
        return {**everything(state), "pressure": tensor}


@pytest.fixture(scope="module")
def done(lj, argon):
    """A run in a changing cell, observed both ways: state and record."""
    integrator = NPT(2.0 * units.fs, 80.0, 0.01 / units.fs, 0.0, 0.3 * units.ps)
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=160.0, skin=0.4)
    return run(integrator, lj, state, steps=700, every=7, observe=Pressure(lj), accumulate=OBSERVERS)


def test_each_observer_is_the_trajectory_it_spares(done):
    state, record = done
    found = results(OBSERVERS, state)
    msd = np.asarray(mean_squared_displacement(jnp.asarray(record["positions"])))
    np.testing.assert_array_equal(found["msd"].lags, np.arange(40))
    np.testing.assert_allclose(found["msd"].values, msd[:40], rtol=0, atol=1e-12)
    vacf = np.asarray(velocity_autocorrelation(jnp.asarray(record["velocities"])))
    np.testing.assert_allclose(found["vacf"].values, vacf[:20], rtol=0, atol=1e-15)
    volumes = record["volume"]
    assert np.ptp(volumes) > 1.0, "the cell must change for its volume to matter"
    shells = 4.0 / 3.0 * np.pi * np.diff(np.asarray(EDGES) ** 3)
    g = record["counts"] * volumes[:, None] / (32.0**2 * shells[None])
    np.testing.assert_allclose(found["rdf"], np.mean(g, axis=0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(found["waves"], record["waves"].mean(axis=0), rtol=1e-12)
    P = record["pressure"]
    voigt = np.stack([P[:, a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], axis=1)
    mean, correlation = found["pressure"]
    np.testing.assert_allclose(mean, voigt.mean(axis=0), rtol=1e-10)
    direct = [np.mean(voigt[t:] * voigt[: len(voigt) - t], axis=0) for t in range(10)]
    np.testing.assert_allclose(correlation.values, direct, rtol=1e-10)
    assert np.all(np.isfinite(found["heat"][1].values)) and np.all(found["heat"][1].values[0] > 0)


def test_sparse_lags_are_the_exact_ones_of_fewer_origins(done):
    state, record = done
    x, far = record["positions"], results(OBSERVERS, state)["far"]
    assert far.lags.tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 12, 15, 18, 27, 36, 45, 54, 81]
    for lag, value, pairs in zip(*far, strict=True):
        stride = 1 if lag < 6 else 3 if lag < 18 else 9 if lag < 54 else 27
        first = np.arange(0, len(x) - lag, stride)
        assert pairs == len(first)
        assert value == pytest.approx(np.mean(np.sum((x[first + lag] - x[first]) ** 2, axis=2)), abs=1e-12)


def test_a_replayed_overflow_gives_the_same_tallies_to_the_bit(lj, argon, caplog):
    integrator = NVE(2.0 * units.fs)
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=400.0, skin=0.4)
    observers = {name: OBSERVERS[name] for name in ("far", "rdf")}
    state = dataclasses.replace(state, tallies=tallies_for(observers, lj, state, 5))
    tight = dataclasses.replace(state, neighbors=_cut(state.neighbors, int(state.neighbors.needed)))
    watch = _watch(None, False)
    loop = _Loop(integrator, lj, Guards(), watch, None, None, {}, tight, observers)
    with caplog.at_level("INFO", logger="jaxmlip.simulate.run"):
        assert loop.advance(200, 5, 256) == 200
    assert "enlarged" in caplog.text, "the test needs an overflow"
    ample = dataclasses.replace(tight, neighbors=_padded(tight.neighbors, loop.state.neighbors.capacity))
    direct = _Loop(integrator, lj, Guards(), watch, None, None, {}, ample, observers)
    direct.advance(200, 5, 256)
    assert_same(loop.state, direct.state)
    assert int(loop.state.tallies.parts["rdf"]["count"]) == 40


@pytest.mark.slow
def test_a_restart_goes_on_with_the_tallies_to_the_bit(lj, argon, tmp_path):
    integrator = Langevin(2.0 * units.fs, 80.0, 0.01 / units.fs)
    state = integrator.init(lj, argon, key=jax.random.key(1))
    observers = {name: OBSERVERS[name] for name in ("far", "vacf", "rdf", "pressure")}
    whole, _ = run(integrator, lj, state, steps=120, every=5, accumulate=observers)
    run(integrator, lj, state, steps=53, every=5, accumulate=observers, checkpoint=tmp_path / "s")
    loaded, _ = load_state(tmp_path / "s")
    again, _ = run(integrator, lj, loaded, steps=67, every=5, accumulate=observers)
    assert_same(whole, again)
    plain, _ = run(integrator, lj, state, steps=120, every=5)
    assert_same(dataclasses.replace(whole, tallies=None), plain)
    with pytest.raises(ValueError, match="carries tallies"):
        run(integrator, lj, loaded, steps=5, every=5)
    with pytest.raises(ValueError, match="every 5 steps"):
        run(integrator, lj, loaded, steps=5, every=1, accumulate=observers)
    with pytest.raises(ValueError, match="'vacf' has other sizes"):
        run(
            integrator, lj, loaded, steps=5, every=5, accumulate={**observers, "vacf": VelocityAutocorrelation(Lags(8))}
        )


def test_free_flight_has_exactly_its_displacements(argon):
    nothing = LennardJones(epsilon=0.0, sigma=1.0, cutoff=2.0)
    two = make_system(np.asarray(argon.positions), [18, 10] * 16, cell=argon.cell)
    integrator = NVE(0.5)
    state = integrator.init(nothing, two, key=jax.random.key(0), temperature=100.0)
    observers = {n: MeanSquaredDisplacement(Lags(8, levels=3), number=n) for n in (18, 10)}
    observers = {str(n): o for n, o in observers.items()} | {"relative": MeanSquaredDisplacement(relative=True)}
    state, _ = run(integrator, nothing, state, steps=300, every=4, accumulate=observers, guards=None)
    found = results(observers, state)
    v2 = np.sum((np.asarray(state.momenta) / np.asarray(two.masses)[:, None]) ** 2, axis=1)
    for number in (18, 10):
        lags, values, _ = found[str(number)]
        mean = v2[np.asarray(two.numbers) == number].mean()
        np.testing.assert_allclose(values, mean * (lags * 4 * 0.5) ** 2, rtol=1e-9, atol=1e-18)
    assert found["18"].lags[-1] == 28 and found["relative"].values[-1] > 0
    with pytest.raises(ValueError, match="no 6 in the system"):
        MeanSquaredDisplacement(number=6).init(nothing, state)


class Steps(AbstractObserver):
    """A user's observer: the sum of the step numbers seen."""

    def init(self, energy, state):
        return jnp.zeros((), jnp.int32)

    def update(self, tally, energy, state):
        return tally + state.step

    def finish(self, tally):
        return int(tally)


def test_an_observer_of_ones_own_sees_every_multiple_once(lj, argon):
    integrator = NVE(2.0 * units.fs)
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=80.0)
    state, _ = run(integrator, lj, state, steps=25, every=10, accumulate={"steps": Steps()})
    state, _ = run(integrator, lj, state, steps=25, every=10, accumulate={"steps": Steps()})
    assert results({"steps": Steps()}, state) == {"steps": 10 + 20 + 30 + 40 + 50}


def test_single_precision_sums_do_not_saturate():
    start = (jnp.float32(2.0**24), jnp.float32(0.0))
    total, rest = jax.lax.fori_loop(0, 1000, lambda _, t: _plus(*t, jnp.float32(1.0)), start)
    assert float(total) + float(rest) == 2.0**24 + 1000
    assert float(jnp.float32(2.0**24) + jnp.float32(1.0)) == 2.0**24, "a plain sum would stand still"


def test_partial_distributions_add_up_and_lags_without_meaning_are_refused(done, lj):
    state, _ = done
    numbers = jnp.where(jnp.arange(32) % 4 == 0, 10, 18).astype(jnp.int32)
    mixed = eqx.tree_at(lambda s: s.system.numbers, state, numbers)
    whole = PairDistribution(EDGES)(lj, mixed)
    parts = {(a, b): PairDistribution(EDGES, (a, b))(lj, mixed) for a in (10, 18) for b in (10, 18)}
    share = {10: 0.25, 18: 0.75}
    np.testing.assert_allclose(sum(share[a] * share[b] * g for (a, b), g in parts.items()), whole, rtol=1e-12)
    for arguments in (dict(points=1), dict(points=9, ratio=2), dict(levels=0)):
        with pytest.raises(ValueError, match="Lags need"):
            Lags(**arguments)
