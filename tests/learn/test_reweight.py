"""Averages and gradients by reweighting: against autodiff, exact ensembles and independent samples."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.graph import Graph
from jaxmlip.learn.check_gradient import check_gradient, moved, table
from jaxmlip.learn.diagnostics import estimate, gradient_noise, linearity, rhats
from jaxmlip.learn.frames import evaluate, frame_graph, pull_back
from jaxmlip.learn.mixture import log_weights, mix
from jaxmlip.learn.reweight import expectation, max_step, reduced_values, refresh, replica_gradients, reweight
from jaxmlip.learn.sampler import StatePoint, sample, samples_from, strained
from jaxmlip.observables.distributions import RadialDistribution
from jaxmlip.observables.static import (
    AbstractStatic,
    BulkModulus,
    Conditions,
    Enthalpy,
    HeatCapacity,
    PotentialEnergy,
    Pressure,
    ThermalExpansion,
)
from jaxmlip.observables.statistics import Estimate
from jaxmlip.system import make_system

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
KELVIN = 300.0
KT = units.kB * KELVIN
ATOMS = 4


class Springs(AbstractEnergy):
    """Atoms bound to the origin, independently of each other; a volume costs `cost` an Å³."""

    stiffness: Float[Array, ""]
    cost: Float[Array, ""]
    offset: Float[Array, ""]
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        k, cost, offset = (x.astype(dtype) for x in (self.stiffness, self.cost, self.offset))
        each = cost * graph.volume()[0] / len(graph.numbers)
        return 0.5 * k * jnp.sum(graph.positions**2, axis=1) + each + offset


class Spread(AbstractStatic):
    """Mean square distance from the origin, in each direction [Å²]."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        return jnp.mean(graph.positions**2)


def springs(k=1.0, offset=0.0):
    return Springs(jnp.asarray(k, jnp.float64), jnp.asarray(0.0, jnp.float64), jnp.asarray(offset, jnp.float64))


def in_wells(k, frames=2000, replicas=4, seed=0, dtype=jnp.float64, offset=0.0, widths=None):
    """Exact, independent samples of atoms in springs `k`; `widths` scales those of single replicas."""
    random = np.random.default_rng(seed)
    positions = np.sqrt(KT / k) * random.normal(size=(replicas, frames // replicas, ATOMS, 3))
    if widths is not None:
        positions = positions * np.asarray(widths)[:, None, None, None]
    system = make_system(np.eye(4, 3), [18] * ATOMS, dtype=dtype)
    return samples_from(
        springs(k, offset),
        system,
        jnp.asarray(positions.reshape(-1, ATOMS, 3), dtype),
        jnp.zeros((frames, 3, 3), dtype),
        Conditions(jnp.asarray(KELVIN, dtype)),
        replicas=replicas,
    )


@pytest.fixture(scope="module")
def wells():
    return mix([in_wells(1.0)])


def test_reweighted_average_is_that_of_the_other_ensemble(wells):
    found = estimate(Spread(), springs(1.05), wells)
    assert abs(float(found.value) - KT / 1.05) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.02 * KT
    plain = estimate(Spread(), springs(1.0), wells)
    # 12 independent squares in each of 4000 frames, their relative variance 2
    assert abs(float(plain.stderr) / (KT * np.sqrt(2.0 / 12 / 2000)) - 1.0) < 0.1


def test_gradient_is_exact_where_the_answer_is_known(wells):
    gradient = eqx.filter_grad(lambda e: expectation(Spread(), e, wells))(springs(1.0))
    assert abs(float(gradient.stiffness) / -KT - 1.0) < 0.1
    assert float(gradient.offset) == pytest.approx(0.0, abs=1e-12)

    def only_one(energy):
        return expectation({"spread": Spread(), "energy": PotentialEnergy()}, energy, wells)["spread"]

    same = eqx.filter_jit(eqx.filter_grad(only_one))(springs(1.0))
    assert float(same.stiffness) == pytest.approx(float(gradient.stiffness), rel=1e-9)


def test_effective_frames_follow_the_exact_law(wells):
    for change in (0.05, -0.1):
        exact = (np.sqrt(1.0 + 2.0 * change) / (1.0 + change)) ** (3 * ATOMS)
        assert float(reweight(springs(1.0 + change), wells).effective) / 2000 == pytest.approx(exact, rel=0.03)


def test_largest_step_leaves_the_effective_frames_asked_for(wells):
    direction = eqx.tree_at(lambda e: (e.stiffness, e.offset), springs(1.0), (jnp.asarray(1.0), jnp.asarray(0.0)))
    step = float(max_step(springs(1.0), direction, wells, ess=0.8))
    slope = 0.5 * np.sum(np.asarray(wells.frames.positions) ** 2, axis=(1, 2)) / KT
    assert step == pytest.approx(np.sqrt(-np.log(0.8)) / slope.std(), rel=1e-9)
    assert float(reweight(springs(1.0 + step), wells).effective) / 2000 == pytest.approx(0.8, abs=0.06)
    rest = float(max_step(springs(1.0 + 0.5 * step), direction, wells, ess=0.8))  # half of the way is gone
    assert float(reweight(springs(1.0 + 0.5 * step + rest), wells).effective) / 2000 == pytest.approx(0.8, abs=0.06)
    assert float(max_step(springs(1.0 + 2 * step), direction, wells, ess=0.8)) == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        max_step(springs(1.0), direction, wells, ess=1.5)
    still = jax.tree.map(jnp.zeros_like, direction)
    with pytest.raises(ValueError, match="changes no energy"):
        max_step(springs(1.0), still, wells)


def test_mixture_knows_the_free_energies_and_serves_what_lies_between():
    sets = [in_wells(1.0, seed=1), in_wells(2.0, seed=2), in_wells(4.0, seed=3)]
    mixture = mix(sets)
    exact = 1.5 * ATOMS * np.log([1.0, 2.0, 4.0])
    np.testing.assert_allclose(mixture.free_energies, exact, atol=0.15)
    between = springs(2.8)
    alone, together = reweight(between, mix(sets[2:])), reweight(between, mixture)
    assert float(together.effective) > 1.3 * float(alone.effective)
    found = estimate(Spread(), between, mixture)
    assert abs(float(found.value) - KT / 2.8) < 4 * float(found.stderr) < 0.1 * KT
    again = mix([sets[0], sets[0]])
    assert again.free_energies == (0.0, 0.0)
    np.testing.assert_allclose(np.asarray(reweight(springs(1.0), again).weights), 1 / 4000, rtol=1e-12)


def test_temperature_may_differ_from_that_of_the_samples():
    warmer = Conditions(jnp.asarray(1.05 * KELVIN))
    found = estimate(Spread(), springs(1.0), mix([in_wells(1.0, replicas=4)], conditions=warmer))
    assert abs(float(found.value) - 1.05 * KT) < 4 * float(found.stderr) < 0.1 * KT


def test_volumes_of_an_ideal_gas_at_constant_pressure():
    pressure, frames = 0.5 * units.GPa, 2000
    volumes = np.random.default_rng(5).gamma(ATOMS + 1, KT / pressure, size=frames)
    cells = volumes[:, None, None] ** (1 / 3) * np.eye(3)
    system = make_system(np.eye(4, 3), [18] * ATOMS, cell=np.eye(3) * 5.0)
    nothing = springs(0.0)
    conditions = Conditions(jnp.asarray(KELVIN), jnp.asarray(pressure))
    positions = jnp.asarray(np.random.default_rng(6).uniform(size=(frames, ATOMS, 3)) @ cells)
    gas = mix([samples_from(nothing, system, positions, jnp.asarray(cells), conditions, replicas=4)])
    observables = {"K": BulkModulus(), "alpha": ThermalExpansion(), "C": HeatCapacity(), "H": Enthalpy()}
    found = estimate(observables, nothing, gas)
    wanted = {
        "K": pressure,
        "alpha": 1.0 / KELVIN,
        "C": units.kB * (1.5 * ATOMS + ATOMS + 1),
        "H": KT * (1.5 * ATOMS + ATOMS + 1),
    }
    for name, value in wanted.items():
        assert abs(float(found.value[name]) - value) < 4 * float(found.stderr[name]) < 0.3 * value, name

    class Volume(AbstractStatic):
        cutoff: float | None = eqx.field(static=True, default=None)

        def frame(self, energy, graph):
            return graph.volume()[0]

    # The cost of volume adds to the pressure: V = (N + 1) kT / (P + cost).
    gradient = eqx.filter_grad(lambda e: expectation(Volume(), e, gas))(nothing)
    assert float(gradient.cost) == pytest.approx(-(ATOMS + 1) * KT / pressure**2, rel=0.1)
    loaded = eqx.tree_at(lambda e: e.cost, nothing, jnp.asarray(0.1 * pressure))
    moved_volume = estimate(Volume(), loaded, gas)
    assert abs(float(moved_volume.value) - (ATOMS + 1) * KT / (1.1 * pressure)) < 4 * float(moved_volume.stderr)


def test_fluctuations_of_volume_need_a_pressure(wells):
    with pytest.raises(ValueError, match="give the state point a `pressure`"):
        expectation(BulkModulus(), springs(), wells)


def test_float32_differences_are_taken_atom_by_atom():
    whole, half = (mix([in_wells(1.0, dtype=t, offset=-500.0)]) for t in (jnp.float64, jnp.float32))
    energy = springs(1.001, offset=-500.0)
    reference, found = (reweight(energy, m).weights for m in (whole, half))
    assert found.dtype == jnp.float64  # sums are in the widest type that JAX has
    # The energies, -2000 eV, resolve 1e-4 eV in float32, which is 5e-3 kT; those of single atoms four times less.
    np.testing.assert_allclose(np.asarray(found), np.asarray(reference), rtol=3e-3)


def test_memory_of_the_gradient_does_not_grow_with_frames():
    def needed(frames):
        mixture = mix([in_wells(1.0, frames=frames)])
        ones = jnp.ones(frames), [jnp.ones(frames)]
        program = jax.jit(lambda e, f, c: pull_back(e, PotentialEnergy(), f, c))
        return program.lower(springs(), mixture.frames, ones).compile().memory_analysis().temp_size_in_bytes

    assert needed(800) < needed(80) + 16 * 720  # a number or two for each frame, which itself takes 168 bytes


def test_replicas_that_disagree_are_seen(wells):
    frozen = mix([in_wells(1.0, widths=[1.0, 1.0, 0.7, 0.7])])
    for name, value in rhats({"spread": Spread()}, springs(), wells).items():
        assert value < 1.02, name
    found = rhats({"spread": Spread()}, springs(), frozen)
    assert set(found) == {"potential energy", "['spread']"}
    assert min(found.values()) > 1.2
    # and the error of the average grows to that of four samples, not of two thousand
    means = np.array([1.0, 1.0, 0.49, 0.49]) * KT
    wrong = float(estimate(Spread(), springs(), frozen).stderr)
    assert wrong == pytest.approx(means.std(ddof=1) / 2, rel=0.3)


def test_noise_of_gradients_over_replicas(wells):
    gradients = replica_gradients(lambda mean: mean, Spread(), springs(), wells)
    noise = gradient_noise(gradients)
    assert len(gradients) == 4
    whole = eqx.filter_grad(lambda e: expectation(Spread(), e, wells))(springs())
    assert float(noise.mean.stiffness) == pytest.approx(float(whole.stiffness), rel=1e-9)
    assert abs(float(noise.mean.stiffness) + KT) < 4 * float(noise.stderr.stiffness)
    assert noise.ratio > 5
    with pytest.raises(ValueError, match="at least two"):
        gradient_noise(gradients[:1])


def test_linearity_compares_prediction_and_change():
    found = linearity({"a": jnp.asarray(2.0)}, {"a": jnp.asarray(0.5)}, Estimate(1.0, 0.3), Estimate(2.2, 0.4))
    assert found.predicted == 1.0
    assert found.realised == pytest.approx((1.2, 0.5))
    assert found.sigmas == pytest.approx(0.4)


def test_check_gradient_accepts_the_right_and_finds_the_wrong():
    def value(energy, key):
        seed = int(jax.random.randint(key, (), 0, 2**30))
        found = estimate(Spread(), energy, mix([in_wells(float(energy.stiffness), seed=seed)]))
        return Estimate(float(found.value), float(found.stderr))

    def gradient(energy, key):
        seed = int(jax.random.randint(key, (), 0, 2**30))
        mixture = mix([in_wells(float(energy.stiffness), seed=seed)])
        return replica_gradients(lambda mean: mean, Spread(), energy, mixture)

    def wrong(energy, key):
        return [jax.tree.map(lambda x: 1.5 * x, g) for g in gradient(energy, key)]

    options = {"key": jax.random.key(3), "directions": 2, "step": 0.1}
    right = check_gradient(value, gradient, springs(1.0), **options)
    assert max(check.sigmas for check in right) < 3.0
    assert all(check.relative_stderr < 0.1 for check in right)
    assert max(check.sigmas for check in check_gradient(value, wrong, springs(1.0), **options)) > 4.0
    assert "random 1" in table(right)
    with pytest.raises(ValueError, match="`step` must be positive"):
        check_gradient(value, gradient, springs(), key=jax.random.key(0), step=0.0)


@pytest.fixture(scope="module")
def lj():
    return LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0, onset=0.7)


@pytest.fixture(scope="module")
def point():
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    system = make_system(((grid + FCC[None]) * 5.6).reshape(-1, 3), [18] * 32, cell=[11.2] * 3)
    return StatePoint(system, 150.0, timestep=10 * units.fs, replicas=3, frames=40, stride=10, burn_in=200, melt=500.0)


@pytest.fixture(scope="module")
def samples(lj, point):
    return sample(lj, point, key=jax.random.key(0))


def through_softmax(energy, mixture):
    """The pressure by plain autodiff, all frames at once."""

    def one(positions, cell, before):
        graph = frame_graph(mixture.frames.near, mixture.frames.system, positions, cell)
        return jnp.sum(energy(graph)) - jnp.sum(before), Pressure().frame(energy, graph)

    frames = mixture.frames
    changes, values = jax.vmap(one)(frames.positions, frames.cells, frames.atom_energies)
    weights = jax.nn.softmax(log_weights(changes, mixture))
    return Pressure().reduce(values, weights, mixture.conditions)


def test_gradient_is_that_of_autodiff_through_the_softmax(lj, samples):
    mixture = mix([samples])
    energy = eqx.tree_at(lambda e: e.sigma, lj, lj.sigma * 1.001)
    wanted, reference = eqx.filter_jit(eqx.filter_value_and_grad(through_softmax))(energy, mixture)
    for chunk in (7,):  # 120 frames: the last chunk is not full
        found = eqx.filter_value_and_grad(lambda e, c=chunk: expectation(Pressure(), e, mixture, chunk=c))(energy)
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves((wanted, reference)), strict=True):
            assert float(abs(mine - theirs)) < 1e-9 * abs(float(theirs))


def test_energies_and_temperature_scaled_alike_scale_the_pressure(lj, samples):
    """d P / d ln epsilon + d P / d ln T = P, exactly, whatever the frames."""
    mixture = mix([samples])
    by_epsilon = eqx.filter_grad(lambda e: expectation(Pressure(), e, mixture, chunk=7))(lj).epsilon * lj.epsilon
    changes, values = evaluate(lj, Pressure(), mixture.frames)

    def pressure(kelvin):
        at = eqx.tree_at(lambda m: m.conditions.temperature, mixture, kelvin)
        return reduced_values(Pressure(), values, jax.nn.softmax(log_weights(changes, at)), at.conditions)

    kelvin = mixture.conditions.temperature
    value, slope = jax.value_and_grad(pressure)(kelvin)
    assert float(by_epsilon + slope * kelvin) == pytest.approx(float(value), rel=1e-9)


def test_samples_are_healthy_and_go_on(lj, point, samples):
    assert samples.energies().shape == (3, 40)
    assert samples.energies().dtype == np.float64
    assert samples.health is not None
    assert np.all(np.abs(samples.health.temperature / 150.0 - 1.0) < 0.3)
    assert 2.5 < samples.health.closest_pair < 3.4
    stiffer = moved(lj, jax.tree.map(lambda x: x, eqx.filter(lj, eqx.is_inexact_array)), 0.01)
    kept = refresh(lj, point, [samples], key=jax.random.key(1))
    assert len(kept) == 1 and kept[0] is samples
    sets = refresh(stiffer, point, [samples], key=jax.random.key(1), ess=1.0)
    both = mix(sets)
    assert both.layout == ((3, 40), (3, 40))
    assert float(reweight(stiffer, both).effective) > float(reweight(stiffer, mix([samples])).effective)
    with pytest.raises(ValueError, match="`keep` be at least 1"):
        refresh(lj, point, sets, key=jax.random.key(1), keep=0)
    with pytest.raises(ValueError, match="3 replicas, but 1"):
        sample(lj, point, key=jax.random.key(1), states=samples.states[:1])


def test_distribution_beyond_the_energy_needs_a_longer_list(lj, samples):
    far = RadialDistribution(np.linspace(3.0, 6.0, 7), width=0.1)
    with pytest.raises(ValueError, match="make the mixture with `reach="):
        expectation(far, lj, mix([samples]))
    found = expectation({"g": far, "p": Pressure()}, lj, mix([samples], reach=6.5))
    assert 0.3 < float(found["g"][-1]) < 2.0
    near = expectation(Pressure(), lj, mix([samples]))
    assert float(found["p"]) == pytest.approx(float(near), rel=1e-12)


def test_state_points_with_a_pressure_let_the_cell_change(lj, point):
    loose = dataclasses.replace(
        strained(point, jnp.diag(jnp.asarray([0.02, 0.02, 0.02]))),
        pressure=0.1 * units.GPa,
        temperature=30.0,
        replicas=2,
        frames=10,
        burn_in=0,
        melt=None,
    )
    found = sample(lj, loose, key=jax.random.key(2))
    volumes = np.linalg.det(np.asarray(found.frames.cells))
    assert loose.ensemble == "npt" and point.ensemble == "nvt"
    assert volumes[0] == pytest.approx((1.02 * 11.2) ** 3, rel=0.05)
    assert len(np.unique(volumes)) == 20
    wanted = units.kB * 30.0 * volumes.mean() / volumes.var()
    assert float(expectation(BulkModulus(), lj, mix([found]))) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("changes", [{"melt": 100.0}, {"frames": 0}, {"timestep": -1.0}])
def test_state_points_that_make_no_sense_are_refused(point, changes):
    with pytest.raises(ValueError, match="must"):
        dataclasses.replace(point, **changes)
