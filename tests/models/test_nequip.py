"""NequIP: a small random one has the symmetries of an energy; published ones agree with the nequix package."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import energy_forces, energy_forces_stress, system_energies
from jaxmlip.graph import batch
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.models.nqx import load_nqx
from jaxmlip.system import make_system

CONFIG = NequIPConfig(
    elements=(6, 8),
    cutoff=3.0,
    channels=(4, 3, 2),
    layers=3,
    radial_basis=4,
    radial_width=6,
    average_neighbors=8.0,
    scale=0.7,
    shift=-1.3,
)
ATOMS, NEIGHBORS = 6, 40

derivatives = eqx.filter_jit(energy_forces_stress)


@eqx.filter_jit
def make(config, key, block=None):  # in one compilation, not one for each shape
    return NequIP(config, key=key, block=block)


@pytest.fixture(scope="module")
def model():
    return make(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def system():
    generator = np.random.default_rng(3)
    cell = np.array([[4.0, 0.0, 0.0], [0.6, 4.2, 0.0], [-0.3, 0.5, 3.9]])
    grid = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    positions = (grid + 0.06 * generator.normal(size=(5, 3))) @ cell
    return make_system(positions, [6, 8, 8, 6, 8], cell=cell)


def _graph(*systems):
    return batch(systems, CONFIG.cutoff, atoms=ATOMS * len(systems), neighbors=NEIGHBORS, slots=len(systems))


def test_rotation_turns_forces_and_stress_and_keeps_the_energy(model, system):
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    q *= np.linalg.det(q)
    turned = make_system(system.positions @ q, system.numbers, cell=system.cell @ q)
    before, after = derivatives(model, _graph(system)), derivatives(model, _graph(turned))
    assert np.abs(before.forces).max() > 1e-2
    np.testing.assert_allclose(after.energy, before.energy, rtol=1e-11)
    np.testing.assert_allclose(after.forces, before.forces @ q, atol=1e-10)
    np.testing.assert_allclose(after.stress[0], q.T @ before.stress[0] @ q, atol=1e-11)


def test_inversion_translation_and_permutation_keep_the_energy(model, system):
    energy = derivatives(model, _graph(system)).energy
    order = np.array([3, 0, 4, 2, 1])
    shifted = np.asarray(system.positions) + np.array([0.3, -2.0, 7.0])
    for positions, numbers, cell in [
        (-system.positions, system.numbers, -system.cell[np.array([1, 0, 2])]),
        (shifted, system.numbers, system.cell),
        (system.positions[order], system.numbers[order], system.cell),
    ]:
        other = derivatives(model, _graph(make_system(positions, numbers, cell=cell))).energy
        np.testing.assert_allclose(other, energy, rtol=1e-11)


def test_forces_and_stress_are_derivatives_of_the_energy(model, system):
    graph = _graph(system)
    result = derivatives(model, graph)
    generator = np.random.default_rng(5)
    direction = jnp.asarray(np.pad(generator.normal(size=(5, 3)), ((0, 1), (0, 0))))
    strain = generator.normal(size=(3, 3))
    strain = jnp.asarray(strain + strain.T)[None]

    def energy(step, deform):
        moved = graph.with_positions(graph.positions + step * direction).strained(deform * strain)
        return derivatives(model, moved).energy[0]

    h = 1e-4
    work = -(energy(h, 0.0) - energy(-h, 0.0)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(result.forces * direction), work, rtol=1e-6)
    work = (energy(0.0, h) - energy(0.0, -h)) / (2 * h) / system.volume()
    np.testing.assert_allclose(jnp.sum(result.stress * strain), work, rtol=1e-6)


def test_energy_vanishes_smoothly_at_the_cutoff(model):
    def pair(r):
        return make_system([[0, 0, 0], [r, 0, 0]], [6, 8])

    def graph(r):
        return batch(pair(r), CONFIG.cutoff, atoms=ATOMS, neighbors=NEIGHBORS)

    inside, outside = derivatives(model, graph(2.9999)), derivatives(model, graph(3.0001))
    assert np.abs(derivatives(model, graph(2.0)).forces).max() > 1e-3
    np.testing.assert_allclose(inside.energy, outside.energy, atol=1e-10)
    np.testing.assert_allclose(inside.forces, 0.0, atol=1e-6)
    assert np.all(np.isfinite(outside.forces))


def test_batches_padding_and_blocks_change_nothing(model, system):
    other = make_system([[0, 0, 0], [1.2, 0, 0], [0, 1.3, 0.2]], [8, 6, 8])
    both = derivatives(model, _graph(system, other))
    alone = derivatives(model, _graph(system))
    np.testing.assert_allclose(both.energy[0], alone.energy[0], rtol=1e-11)
    np.testing.assert_allclose(both.forces[:5], alone.forces[:5], atol=1e-11)
    np.testing.assert_allclose(both.energy[1], derivatives(model, _graph(other)).energy[0], rtol=1e-11)
    assert np.all(np.isfinite(both.forces))
    blocked = make(CONFIG, jax.random.key(0), 4)
    result = derivatives(blocked, _graph(system))
    np.testing.assert_allclose(result.energy, alone.energy, rtol=1e-11)
    np.testing.assert_allclose(result.forces, alone.forces, atol=1e-11)
    np.testing.assert_allclose(result.stress, alone.stress, atol=1e-11)


def test_results_follow_the_dtype_of_positions(model, system):
    exact, single = derivatives(model, _graph(system)), derivatives(model, _graph(system).astype(jnp.dtype("float32")))
    assert single.energy.dtype == single.forces.dtype == jnp.float32
    np.testing.assert_allclose(single.energy, exact.energy, rtol=1e-5)
    np.testing.assert_allclose(single.forces, exact.forces, atol=1e-4)


def test_gradient_of_a_force_loss_is_that_of_finite_differences(system):
    graph = _graph(system)
    model = make(dataclasses.replace(CONFIG, channels=(4, 3)), jax.random.key(2))  # small: this compiles for long
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def loss(parameters):
        return jnp.sum(energy_forces(eqx.combine(parameters, static), graph)[1] ** 2)

    gradient = jax.jit(jax.grad(loss))(parameters)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
    keys = iter(jax.random.split(jax.random.key(7), 100))
    direction = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), parameters)
    slope = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    def moved(step):
        return loss(jax.tree.map(lambda x, d: x + step * d, parameters, direction))

    np.testing.assert_allclose(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-5)


def test_weights_by_element_and_layers_without_norm_are_supported(system):
    config = dataclasses.replace(CONFIG, index_weights=True, layer_norm=False, layers=2)
    model = make(config, jax.random.key(1))
    forces = derivatives(model, _graph(system)).forces
    assert np.all(np.isfinite(forces)) and np.abs(forces).max() > 1e-4


def test_what_makes_no_sense_is_refused():
    for change in ({"elements": (8, 6)}, {"cutoff": -1.0}, {"channels": ()}, {"layers": 1}):
        with pytest.raises(ValueError, match=r"got|Need"):
            dataclasses.replace(CONFIG, **change)


def test_nequix_checkpoint_gives_the_golden_numbers(shared_data):
    folder = shared_data / "potentials" / "nequix"
    if not folder.is_dir():
        pytest.skip(f"no nequix checkpoints at {folder}")
    golden = np.load(folder / "golden_nequix-mp-1.npz")
    model = load_nqx(folder / "nequix-mp-1.nqx")
    assert len(model.elements) == 89 and model.cutoff == 6.0
    for index in (0, 1):  # both fit one shape: silicon and rock salt, distorted
        numbers = golden[f"{index}_numbers"]
        system = make_system(golden[f"{index}_positions"], numbers, cell=golden[f"{index}_cell"], dtype=jnp.float32)
        result = derivatives(model, batch(system, 6.0, neighbors=48))
        assert abs(float(result.energy[0]) - golden[f"{index}_energy"]) / len(numbers) < 2e-5
        np.testing.assert_allclose(result.forces, golden[f"{index}_forces"], atol=2e-4)
        np.testing.assert_allclose(result.stress[0], golden[f"{index}_stress"], atol=2e-5)


def test_damaged_checkpoint_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.nqx"
    path.write_bytes(b'{"hidden_irreps": "4x0e + 2x1e", "lmax": 1}\n')
    with pytest.raises(ValueError, match=r"broken.nqx is not a nequix checkpoint"):
        load_nqx(path)


def test_energies_of_a_batch_can_be_traced_once(model, system):
    traces = []

    @eqx.filter_jit
    def energies(model, graph):
        traces.append(1)
        return system_energies(model, graph)

    energies(model, _graph(system))
    energies(jax.tree.map(lambda x: x * 1.1, model), _graph(system))
    assert len(traces) == 1
