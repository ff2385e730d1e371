"""Free energies and melting temperatures: against independent harmonic atoms, where all is known exactly."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.finetune import FinetuneSettings, finetune
from jaxmlip.learn.free_energies import bennett, free_energy, melting_temperature
from jaxmlip.learn.mixture import mix
from jaxmlip.learn.sampler import Health, StatePoint, samples_from
from jaxmlip.learn.targets import MeltingPoint, Target
from jaxmlip.observables.static import Conditions
from jaxmlip.system import make_system

KELVIN = 300.0
KT = units.kB * KELVIN


class Phases(AbstractEnergy):
    """Atoms bound to the origin: argon is the solid; krypton the liquid, softer and higher by `offset` [eV]."""

    stiff: Float[Array, ""]
    soft: Float[Array, ""]
    offset: Float[Array, ""]
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        squares, solid = 0.5 * jnp.sum(graph.positions**2, axis=1), graph.numbers == 18
        return jnp.where(solid, self.stiff * squares, self.soft * squares + self.offset)

    def melting(self) -> Array:
        """Where free energies of an atom, 3/2 kT ln k and offset, are the same."""
        return self.offset / (1.5 * units.kB * jnp.log(self.stiff / self.soft))


def phases(stiff=2.0, soft=1.0):
    """Coexisting at `KELVIN`."""
    stiff, soft = jnp.asarray(stiff, jnp.float64), jnp.asarray(soft, jnp.float64)
    return Phases(stiff, soft, 1.5 * KT * jnp.log(stiff / soft))


def frames(energy, number, atoms, count=4000, seed=0, pressure=0.0, kelvin=KELVIN):
    """Exact, independent frames of one phase, in a cell that stays as it is."""
    stiffness = float(energy.stiff if number == 18 else energy.soft)
    random = np.random.default_rng(seed)
    positions = np.sqrt(units.kB * kelvin / stiffness) * random.normal(size=(count, atoms, 3))
    system = make_system(40.0 * np.eye(atoms, 3), [number] * atoms, cell=[50.0] * 3, dtype=jnp.float64)
    conditions = Conditions(
        jnp.asarray(kelvin, jnp.float64), None if pressure is None else jnp.asarray(pressure, jnp.float64)
    )
    cells = jnp.broadcast_to(system.cell, (count, 3, 3))
    return samples_from(energy, system, jnp.asarray(positions, jnp.float64), cells, conditions, replicas=4)


def both(**options):
    energy = phases()
    return mix([frames(energy, 18, 4, seed=1, **options)]), mix([frames(energy, 36, 3, seed=2, **options)])


def test_free_energy_of_stiffer_springs_is_the_exact_one():
    energy, atoms = phases(), 4
    mixture = mix([frames(energy, 18, atoms)])
    stiffer = eqx.tree_at(lambda e: e.stiff, energy, energy.stiff * 1.1)
    exact = 1.5 * atoms * KT * np.log(1.1)
    assert abs(float(free_energy(stiffer, mixture)) - exact) < 0.02 * exact
    assert abs(float(free_energy(energy, mixture))) < 1e-12


def test_the_gradient_of_the_free_energy_is_the_mean_of_that_of_the_energy():
    energy = phases()
    mixture = mix([frames(energy, 18, 4)])
    slope = jax.grad(lambda e: free_energy(e, mixture))(energy)
    mean = 0.5 * np.mean(np.sum(np.asarray(mixture.frames.positions) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(slope.stiff, mean, rtol=1e-10)


def test_acceptance_ratio_of_two_oscillators():
    random, ratio = np.random.default_rng(0), 3.0
    soft, stiff = random.normal(size=4000), random.normal(size=6000) / np.sqrt(ratio)
    found = bennett(0.5 * (ratio - 1.0) * soft**2, -0.5 * (ratio - 1.0) * stiff**2)
    assert abs(found.value - 0.5 * np.log(ratio)) < 3.0 * found.stderr
    assert found.stderr < 0.02


def test_the_error_of_the_acceptance_ratio_is_the_scatter_of_many():
    random, ratio, estimates = np.random.default_rng(1), 3.0, []
    for _ in range(200):
        soft, stiff = random.normal(size=200), random.normal(size=300) / np.sqrt(ratio)
        estimates.append(bennett(0.5 * (ratio - 1.0) * soft**2, -0.5 * (ratio - 1.0) * stiff**2))
    scatter = np.std([e.value for e in estimates], ddof=1)
    assert np.isclose(np.mean([e.stderr for e in estimates]), scatter, rtol=0.2)


def test_states_apart_are_refused():
    random = np.random.default_rng(2)
    with pytest.raises(ValueError, match="do not overlap"):
        bennett(200.0 + random.normal(size=100), 150.0 + random.normal(size=100))
    with pytest.raises(ValueError, match="finite"):
        bennett(np.array([np.nan]), np.array([1.0]))


def test_phases_coexist_where_they_were_sampled():
    assert np.isclose(melting_temperature(phases(), *both()), KELVIN, rtol=1e-12)


def test_melting_temperature_follows_the_parameters():
    solid, liquid = both()
    energy = phases()
    moved = eqx.tree_at(lambda e: (e.stiff, e.offset), energy, (energy.stiff * 1.05, energy.offset * 1.05))
    found, exact = float(melting_temperature(moved, solid, liquid)), float(moved.melting())
    assert abs(exact - KELVIN) > 5.0
    assert abs(found - exact) < 0.1 * abs(exact - KELVIN)


@pytest.mark.parametrize("name", ["stiff", "soft", "offset"])
def test_derivative_of_the_melting_temperature(name):
    solid, liquid = both()
    energy = phases()
    slope = float(getattr(jax.grad(melting_temperature)(energy, solid, liquid), name))
    exact = float(getattr(jax.grad(Phases.melting)(energy), name))
    assert abs(slope / exact - 1.0) < 0.05
    step = 1e-4 * float(getattr(energy, name))
    sides = [
        float(
            melting_temperature(
                eqx.tree_at(lambda e: getattr(e, name), energy, getattr(energy, name) + s * step), solid, liquid
            )
        )
        for s in (1.0, -1.0)
    ]
    assert np.isclose(slope, (sides[0] - sides[1]) / (2.0 * step), rtol=1e-5)


def test_it_is_the_same_within_a_compiled_function():
    solid, liquid = both()
    moved = eqx.tree_at(lambda e: e.offset, phases(), phases().offset * 1.05)
    found = eqx.filter_jit(melting_temperature)(moved, solid, liquid)
    assert np.isclose(found, melting_temperature(moved, solid, liquid), rtol=1e-10)


def test_phases_at_different_conditions_are_refused():
    energy = phases()
    solid, liquid = both()
    with pytest.raises(ValueError, match="same pressure"):
        melting_temperature(energy, solid, mix([frames(energy, 36, 3, count=8, pressure=0.1)]))
    with pytest.raises(ValueError, match="same temperature"):
        melting_temperature(energy, solid, mix([frames(energy, 36, 3, count=8, kelvin=310.0)]))
    with pytest.raises(ValueError, match="`pressure`"):
        melting_temperature(energy, mix([frames(energy, 18, 4, count=8, pressure=None)]), liquid)


def test_a_melting_point_is_a_target(monkeypatch):
    """Exact frames in place of dynamics, new ones for each set of parameters; the anchor stays at the first."""
    energy, seeds = phases(), itertools.count()

    def exact(energy, point, *, key, states=None):
        number, atoms = int(point.system.numbers[0]), len(point.system.numbers)
        found = frames(energy, number, atoms, count=800, seed=next(seeds))
        health = Health(np.full(4, KELVIN), 1.0, 2.0, np.zeros(4))
        return dataclasses.replace(found, health=health)

    monkeypatch.setattr("jaxmlip.learn.finetune_sampling.sample", exact)
    solid, liquid = (
        StatePoint(make_system(40.0 * np.eye(n, 3), [z] * n, cell=[50.0] * 3, dtype=np.float64), KELVIN, 0.0)
        for z, n in ((18, 4), (36, 3))
    )
    aim = 1.15 * KELVIN
    target = Target("Tm", MeltingPoint(), (solid, liquid), aim, 1.0, "K")
    found = finetune(
        energy, [target], settings=FinetuneSettings(freedom=0.2), trainable=lambda path, x: "stiff" in path
    )
    assert found.before["Tm"].value[0] == pytest.approx(KELVIN, rel=1e-9) and found.before["Tm"].stderr[0] < 1e-6
    error = found.after["Tm"].stderr[0]
    assert 0.0 < error < 10.0 and abs(found.after["Tm"].value[0] - aim) < 3.0 * error + 1.0
    assert abs(float(found.energy.melting()) - aim) < 4.0 * error + 1.0, "what is exact for these parameters"


def test_phases_that_cannot_coexist_are_refused():
    system = make_system(np.zeros((1, 3)), [18], cell=[5.0] * 3)
    cold, warm = StatePoint(system, 50.0, 0.0), StatePoint(system, 80.0, 0.0)
    with pytest.raises(UserError, match="same temperature"):
        Target("Tm", MeltingPoint(), (cold, warm), 90.0, 1.0, "K")
    with pytest.raises(UserError, match="two phases melt"):
        Target("Tm", MeltingPoint(), cold, 90.0, 1.0, "K")
    with pytest.raises(UserError, match="measures length"):
        Target("Tm", MeltingPoint(), (cold, cold), 90.0, 1.0, "Å")
