"""Fine-tuning: a potential goes back to the parameters that its observables came from, and says what it did."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.adjoint import Window
from jaxmlip.learn.finetune import FinetuneSettings, finetune
from jaxmlip.learn.sampler import StatePoint
from jaxmlip.learn.targets import (
    Dynamics,
    Structure,
    Target,
    Total,
    bulk_modulus,
    cohesive_energy,
    elastic_constant,
    lattice_constant,
)
from jaxmlip.observables.correlations import InfraredSpectrum, VelocityAutocorrelation
from jaxmlip.observables.static import AbstractStatic, weighted_mean
from jaxmlip.properties import elastic_constants, follow, relax, stiffness_along
from jaxmlip.system import make_system

SIGMA, EPSILON = 3.4, 0.0104  # Å, eV


@pytest.fixture(scope="module")
def crystal():
    return Structure(make_system(np.zeros((1, 3)), [18], cell=2.6 * (np.ones((3, 3)) - np.eye(3))))


@pytest.fixture(scope="module")
def truth(crystal):
    energy = LennardJones(epsilon=EPSILON, sigma=SIGMA, cutoff=7.0)
    point = relax(energy, crystal.system, cell=True)
    return energy, point, elastic_constants(energy, point).relaxed


def test_stiffness_along_strains_is_that_of_the_elastic_constants(truth):
    energy, point, constants = truth
    strains = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)))
    expected = jnp.einsum("na,ab,nb->n", strains, constants, strains)
    np.testing.assert_allclose(stiffness_along(energy, follow(energy, point), strains), expected, rtol=1e-8)


def test_a_potential_finds_its_parameters_from_lattice_and_bulk_modulus(crystal, truth):
    _, point, constants = truth
    edge = float(np.cbrt(4.0 * point.system.volume()))
    modulus = float(np.sum(constants[:3, :3])) / 9.0 / units.GPa
    shear = float(constants[3, 3]) / units.GPa
    targets = [
        Target("a", lattice_constant(4), crystal, edge, 1e-3, "Å"),
        Target("B", bulk_modulus(), crystal, modulus, 1e-2, "GPa"),
        Target("C44", elastic_constant("44"), crystal, shear, 0.1, "GPa", holdout=True),
    ]
    seen = []
    start = LennardJones(epsilon=1.15 * EPSILON, sigma=0.95 * SIGMA, cutoff=7.0)
    found = finetune(start, targets, progress=seen.append)
    assert found.after["a"].chi2 < 1e-2 and found.after["B"].chi2 < 1e-2
    assert found.before["C44"].chi2 > 10.0 and found.after["C44"].chi2 < 1e-2, "held out, and right all the same"
    np.testing.assert_allclose(found.energy.sigma, SIGMA, rtol=1e-4)
    np.testing.assert_allclose(found.energy.epsilon, EPSILON, rtol=1e-3)
    assert len(seen) == len(found.history) <= 8 and found.reason == "no step would raise the likelihood further"
    assert "C44 (held out)" in found.table().splitlines()[-1]


def test_targets_that_no_parameter_serves_together_are_named(crystal):
    """With epsilon alone lattice constants stay: cohesive energy and bulk modulus go together, and cannot go apart."""
    targets = [
        Target("E", cohesive_energy(), crystal, 90.0, 0.5, "meV"),
        Target("B", bulk_modulus(), crystal, 2.0, 0.01, "GPa"),
    ]
    energy = LennardJones(epsilon=EPSILON, sigma=SIGMA, cutoff=7.0)
    found = finetune(energy, targets, trainable=lambda path, leaf: "epsilon" in path)
    assert "what pulls opposite ways: E and B" in found.reason
    assert found.after["E"].chi2 > 9.0 and found.after["B"].chi2 > 9.0


def test_what_cannot_be_fitted_is_refused(crystal):
    target = Target("a", lattice_constant(4), crystal, 5.3, 0.01, "Å")
    energy = LennardJones(epsilon=EPSILON, sigma=SIGMA, cutoff=7.0)
    with pytest.raises(UserError, match="no parameters to train"):
        finetune(energy, [target], trainable=lambda path, leaf: False)
    with pytest.raises(UserError, match="`ess` must lie between 0 and 1"):
        FinetuneSettings(ess=1.5)


class _Springs(AbstractEnergy):
    """Atoms bound to sites that are far from each other."""

    stiffness: Float[Array, ""]
    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return 0.5 * self.stiffness * jnp.sum((graph.positions - SITES) ** 2, axis=1)


class _Spread(AbstractStatic):
    """Mean square distance from the sites in each direction [Å²]: kT / k."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        return jnp.mean((graph.positions - SITES) ** 2)


KT = units.kB * 300.0
SITES = 8.0 * np.eye(4, 3)


def _bound_atoms(**changes):
    """Argon in springs, at 300 K."""
    options = {"replicas": 4, "frames": 100, "stride": 20, "burn_in": 400, "friction": 5.0 / units.ps} | changes
    return StatePoint(make_system(SITES, [18] * 4), 300.0, timestep=4.0 * units.fs, **options)


def test_an_average_brings_the_parameter_that_makes_it():
    stiffness = 2.0
    targets = [Target("spread", _Spread(), _bound_atoms(), KT / stiffness, 0.002 * KT / stiffness)]
    found = finetune(_Springs(jnp.asarray(1.2)), targets, settings=FinetuneSettings(updates=8))
    error = found.after["spread"].stderr[0] / found.after["spread"].value[0]
    assert 0.0 < error < 0.1
    assert abs(float(found.energy.stiffness) / stiffness - 1.0) < 4.0 * error + 0.01
    assert min(record["allowed"] for record in found.history) < 1.0, "the first step was held back by the frames"
    assert all("300 K" in record["effective"] for record in found.history if "effective" in record)


class _Part(_Spread):
    """Times a factor."""

    factor: float = eqx.field(static=True, default=1.0)

    def reduce(self, values, weights, conditions):
        return self.factor * weighted_mean(values, weights)


@pytest.mark.slow
def test_a_difference_between_state_points_brings_the_parameter_that_makes_it():
    """d(kT/k) / dT, from springs at two temperatures."""
    stiffness, cold = 2.0, _bound_atoms(frames=200)
    warm = dataclasses.replace(cold, temperature=600.0, name="warm")
    slope = Total((_Part(factor=-1.0 / 300.0), _Part(factor=1.0 / 300.0)))
    aim = units.kB / stiffness
    targets = [
        Target("slope", slope, (cold, warm), aim, 0.01 * aim),
        Target("spread", _Spread(), warm, 2.0 * KT / stiffness, 0.01 * KT, holdout=True),
    ]
    found = finetune(_Springs(jnp.asarray(1.5)), targets, settings=FinetuneSettings(updates=6))
    error = found.after["slope"].stderr[0] / aim
    assert 0.0 < error < 0.2 and abs(found.after["slope"].value[0] / aim - 1.0) < 4.0 * error
    assert abs(float(found.energy.stiffness) / stiffness - 1.0) < 4.0 * error + 0.02
    assert set(found.after) == {"slope", "spread"}, "parts are not targets"


def test_a_correlation_in_time_brings_the_parameter_that_makes_it():
    """Velocities of bound atoms turn with the frequency of their spring."""
    stiffness, mass, window = 2.0, 39.948, Window(4.0 * units.fs, 30)
    frequency = np.sqrt(stiffness / mass)
    lags = np.arange(window.moments) * float(window.interval)
    curve = 3.0 * KT / mass * np.cos(frequency * lags)
    place = Dynamics(_bound_atoms(), window)
    targets = [Target("vacf", VelocityAutocorrelation(), place, curve, 0.05 * curve[0])]
    found = finetune(_Springs(jnp.asarray(1.6)), targets, settings=FinetuneSettings(updates=8))
    assert found.after["vacf"].chi2 < found.before["vacf"].chi2
    assert abs(float(found.energy.stiffness) / stiffness - 1.0) < 0.05


@pytest.mark.slow
def test_a_fit_to_dynamics_goes_on_to_the_bit(tmp_path):
    window = Window(4.0 * units.fs, 30)
    point = _bound_atoms(frames=40)
    targets = [
        Target("spread", _Spread(), point, KT / 2.0, 0.1 * KT),
        Target("vacf", VelocityAutocorrelation(lags=2), Dynamics(point, window, blocks=4), [4e-4, 3.9e-4], 1e-5),
    ]

    def fit(updates, file):
        options = FinetuneSettings(updates=updates, rhat=2.0, label_rise=1.0, seed=1)
        return finetune(_Springs(jnp.asarray(1.2)), targets, settings=options, checkpoint=tmp_path / file)

    straight = fit(2, "straight")
    fit(1, "again")
    again = fit(2, "again")
    assert len(again.history) == 2 and float(again.energy.stiffness) == float(straight.energy.stiffness) != 1.2
    for name, found in straight.after.items():
        np.testing.assert_array_equal(found.value, again.after[name].value)
        np.testing.assert_array_equal(straight.before[name].value, again.before[name].value)
    (tmp_path / "again").write_bytes((tmp_path / "again").read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        fit(2, "again")


def test_what_a_state_point_cannot_give_is_refused():
    window = Window(4.0 * units.fs, 30)
    infrared = InfraredSpectrum(jnp.asarray([1.0 * units.THz]))
    target = Target("ir", infrared, Dynamics(_bound_atoms(), window), 1.0, 0.1)
    with pytest.raises(UserError, match="Target ir: An infrared spectrum needs the charges"):
        finetune(_Springs(jnp.asarray(1.2)), [target])
    with pytest.raises(UserError, match="a VelocityAutocorrelation belongs to the `Dynamics`"):
        Target("vacf", VelocityAutocorrelation(), _bound_atoms(), 1.0, 0.1)
    hot = Target("spread", _Spread(), _bound_atoms(), 0.01, 0.001)
    with pytest.raises(UserError, match="cannot predict the targets to begin with: dynamics at 300 K met forces"):
        finetune(_Springs(jnp.asarray(1.2)), [hot], settings=FinetuneSettings(max_force=1e-3))
