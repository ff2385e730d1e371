"""Metadynamics: hills are where the system was, continue to the bit, and give the free energy of a double well."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import Coordinate, Distance, External, Metadynamics, Torsion, deposit, enlarge
from jaxmlip.graph import batch
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.simulate import Langevin, run_metadynamics, with_energy
from jaxmlip.system import make_system

TEMPERATURE = 300.0
KT = units.kB * TEMPERATURE
BARRIER, TILT, HALF = 8.0 * KT, 1.5 * KT, 1.0  # the wells lie 1 Å from the middle, 3 kT apart


def double_well(positions, barrier, tilt):
    x = positions[:, 0] / HALF
    return barrier * (x * x - 1.0) ** 2 + tilt * x


def setup(seed=0, capacity=3000, **keywords):
    energy = External(double_well, {"barrier": BARRIER, "tilt": TILT})
    how = {"temperature": TEMPERATURE, "bias_factor": 8.0, "capacity": capacity, **keywords}
    bias = Metadynamics(Coordinate(0, axis=0, atoms=1), 0.2, 0.4 * KT, **how)
    langevin = Langevin(timestep=10.0 * units.fs, temperature=TEMPERATURE, friction=1.0 / (200.0 * units.fs))
    particle = make_system([[-1.0, 0.0, 0.0]], [18])
    return langevin, energy, bias, langevin.init(energy + bias, particle, key=jax.random.key(seed))


def graph_at(x):
    return batch(make_system([[x, 0.0, 0.0]], [18]), 1.0)


def test_hills_are_well_tempered_gaussians_where_the_system_is():
    bias = setup(capacity=4)[2]
    expected = np.zeros(3)
    grid = np.array([-1.0, -0.7, 0.5])
    factor = 1.0 / (KT * 7.0)
    for x in (-1.0, -0.8):
        here = float(bias.at(jnp.array([[x]]))[0])
        bias = deposit(bias, graph_at(x))
        expected = expected + 0.4 * KT * np.exp(-here * factor) * np.exp(-((grid - x) ** 2) / (2.0 * 0.2**2))
    np.testing.assert_allclose(bias.at(jnp.asarray(grid)[:, None]), expected, rtol=1e-12)
    np.testing.assert_allclose(bias.free_energy(jnp.asarray(grid)[:, None]), -expected * 8.0 / 7.0, rtol=1e-12)
    assert int(bias.count) == 2 and float(bias(graph_at(-0.7))[0]) == pytest.approx(expected[1], rel=1e-12)


def test_without_a_bias_factor_all_hills_are_as_high():
    bias = setup(capacity=3, bias_factor=float("inf"))[2]
    for _ in range(3):
        bias = deposit(bias, graph_at(0.3))
    np.testing.assert_allclose(bias.heights, 0.4 * KT, rtol=1e-14)
    assert float(bias.free_energy(jnp.array([[0.3]]))[0]) == pytest.approx(-1.2 * KT, rel=1e-12)


def test_a_full_bias_refuses_and_can_be_enlarged():
    bias = deposit(setup(capacity=1)[2], graph_at(0.3))
    with pytest.raises(ValueError, match="All 1 hills are used"):
        deposit(bias, graph_at(0.3))
    more = deposit(enlarge(bias, 2), graph_at(0.3))
    assert int(more.count) == 2 and float(more.heights[0]) == float(bias.heights[0])
    with pytest.raises(ValueError, match="room for 2"):
        enlarge(more, 1)
    lost = eqx.filter_jit(deposit)(bias, graph_at(0.3))  # inside jit: counted, not stored
    assert int(lost.count) == 2 and np.array_equal(lost.heights, bias.heights)


def test_a_periodic_variable_meets_its_hills_from_both_sides():
    bias = Metadynamics(Torsion(0, 1, 2, 3, atoms=4), 0.2, 0.1, temperature=300.0, capacity=2)
    bias = eqx.tree_at(lambda b: (b.centers, b.heights), bias, (jnp.array([[3.1], [0.0]]), jnp.array([0.1, 0.0])))
    ends = bias.at(jnp.array([[3.1 + 0.15], [3.1 + 0.15 - 2.0 * np.pi]]))
    assert float(ends[0]) == pytest.approx(float(ends[1])) == pytest.approx(0.1 * np.exp(-0.5 * 0.75**2))


def test_several_variables_have_a_width_each():
    variables = (Distance(0, 1, atoms=3), Distance(1, 2, atoms=3))
    bias = Metadynamics(variables, [0.1, 0.3], 0.2, temperature=300.0, capacity=2)
    atoms = batch(make_system([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 2.0, 0.0]], [6, 6, 6]), 3.0)
    bias = deposit(bias, atoms)
    value = float(bias.at(jnp.array([[1.1, 2.3]]))[0])
    assert value == pytest.approx(0.2 * np.exp(-0.5 - 0.5), rel=1e-12)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"bias_factor": 1.0}, "above 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"capacity": 0}, "at least one hill"),
        ({"width": [0.1, 0.2]}, "one `width` for each"),
        ({"height": -1.0}, "height"),
    ],
)
def test_nonsense_is_refused(keywords, message):
    how = {"width": 0.2, "height": 0.1, "temperature": 300.0} | keywords
    with pytest.raises(ValueError, match=message):
        Metadynamics(Distance(0, 1, atoms=2), how.pop("width"), how.pop("height"), **how)


def test_a_growing_bias_compiles_nothing_again_and_continues_to_the_bit(monkeypatch):
    traces = 0
    original = Metadynamics.__call__

    def counted(self, graph):
        nonlocal traces
        traces += 1
        return original(self, graph)

    monkeypatch.setattr(Metadynamics, "__call__", counted)
    langevin, energy, bias, start = setup(capacity=8)
    state, half = run_metadynamics(langevin, energy, bias, start, hills=3, every=5)
    before = traces
    ends = run_metadynamics(langevin, energy, half, state, hills=3, every=5)
    assert traces == before
    whole = run_metadynamics(langevin, energy, bias, start, hills=6, every=5)
    assert int(whole[1].count) == 6 and int(whole[0].step) == 30
    assert eqx.tree_equal(whole[1], ends[1]) and np.array_equal(whole[0].system.positions, ends[0].system.positions)
    with pytest.raises(ValueError, match="room for 2 more hills"):
        run_metadynamics(langevin, energy, whole[1], whole[0], hills=3, every=5)


def exact_difference():
    """Free energy of the right well minus that of the left [kT]."""
    x = np.linspace(-3.0, 3.0, 60001)
    weight = np.exp(-(8.0 * (x * x - 1.0) ** 2 + 1.5 * x))
    return -np.log(np.sum(weight[x > 0.0]) / np.sum(weight[x < 0.0]))


def estimated_difference(bias):
    x = jnp.linspace(-1.8, 1.8, 361)
    weight = np.exp(-np.asarray(bias.free_energy(x[:, None])) / KT)
    return -np.log(np.sum(weight[np.asarray(x) > 0.0]) / np.sum(weight[np.asarray(x) < 0.0]))


@pytest.mark.slow
def test_it_flattens_a_double_well_and_finds_the_difference_of_its_wells():
    """Eight walkers, each with hills of its own; the mean estimate within 4 standard errors of the exact 2.87 kT, and
    these below 0.2 kT. The control: without hills nobody leaves the left well."""
    walkers, hills, every = 8, 2500, 40
    langevin, energy, bias, start = setup()

    @jax.jit
    def sample(key, height):
        first = eqx.tree_at(lambda b: b.height, bias, height)
        state = eqx.tree_at(lambda s: s.key, start, key)

        def hill(carry, _):
            state, grown = carry
            state = jax.lax.fori_loop(0, every, lambda _, s: langevin.step(energy + grown, s), state)
            grown = deposit(grown, to_graph(state.neighbors, state.system))
            return (with_energy(energy + grown, state), grown), state.system.positions[0, 0]

        (_, grown), path = jax.lax.scan(hill, (state, first), None, length=hills)
        return grown, path

    keys = jax.random.split(jax.random.key(7), walkers)
    grown, paths = jax.lax.map(lambda key: sample(key, jnp.asarray(0.4 * KT)), keys)
    each = [jax.tree.map(lambda x, k=k: x[k], grown) for k in range(walkers)]
    estimates = np.array([estimated_difference(b) for b in each])
    error = estimates.std(ddof=1) / np.sqrt(walkers)
    assert error < 0.2
    assert abs(estimates.mean() - exact_difference()) < 4.0 * error
    late = np.asarray(paths)[:, hills // 2 :]
    assert np.all(np.mean(late > 0.0, axis=1) > 0.2)  # each walker goes to and fro: the well is flat
    _, control = sample(keys[0], jnp.asarray(1e-9))
    assert np.mean(np.asarray(control) > 0.0) < 0.01
