"""Padded batches: nothing lost, nothing invented, few shapes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset, Loader
from jaxmlip.data.loader import choose_shapes
from jaxmlip.energy import LennardJones, energy_forces_virial
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.io import Record


def frame(random, atoms, index=0, **changes):
    """Random atoms in a random cell, with random labels."""
    cell = np.eye(3) * (3.2 * atoms ** (1 / 3)) + 0.3 * random.normal(size=(3, 3))
    values = {
        "positions": random.uniform(size=(atoms, 3)) @ cell,
        "numbers": random.choice([8, 14], size=atoms).astype(np.int32),
        "cell": cell,
        "pbc": (True, True, True),
        "energy": float(random.normal()),
        "forces": random.normal(size=(atoms, 3)),
        "stress": np.eye(3) * random.normal(),
        "index": index,
    }
    return Record(**{**values, **changes})


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(1)
    return Dataset([frame(random, int(n), i) for i, n in enumerate(random.integers(1, 12, size=23))])


def test_an_epoch_holds_every_frame_once_and_depends_on_seed_and_number_alone(data):
    loader = Loader(data, 3.0, batch_size=4, seed=5)
    plan = loader.plan(7)
    assert sorted(np.concatenate(plan).tolist()) == list(range(23)) and len(plan) == len(loader) == 6
    again = Loader(data, 3.0, batch_size=4, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(plan, again.plan(7), strict=True))
    assert not np.array_equal(np.concatenate(plan), np.concatenate(loader.plan(8)))
    assert not np.array_equal(np.concatenate(plan), np.concatenate(Loader(data, 3.0, batch_size=4, seed=6).plan(7)))
    tail = list(loader.epoch(7, 4))
    assert len(tail) == 2 and jnp.array_equal(tail[0].graph.numbers, loader.pack(plan[4]).graph.numbers)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_shapes_are_few_and_hold_every_batch(data, most):
    loader = Loader(data, 3.0, batch_size=4, max_shapes=most)
    seen = {loader.pack(i).graph.senders.shape[::-1] for epoch in range(40) for i in loader.plan(epoch)}
    assert seen <= set(loader.shapes) and len(loader.shapes) <= most
    assert loader.padding >= 1.0


def test_more_shapes_waste_less():
    sizes = np.array([[8, 10]] * 50 + [[64, 30]] * 50)
    assert choose_shapes(sizes, (64, 30), 1) == ((64, 30),)
    assert choose_shapes(sizes, (64, 30), 4) == ((8, 10), (64, 30))
    assert choose_shapes(sizes, (80, 40), 2)[-1] == (80, 40)


def test_batches_by_size_hold_every_frame_once_within_the_budget(data):
    loader = Loader(data, 3.0, batch_atoms=16, max_shapes=2)
    plan = loader.plan(0)
    atoms = np.array([len(r) for r in data])
    assert sorted(np.concatenate(plan).tolist()) == list(range(23)) and len(loader) == len(plan)
    assert all(atoms[i].sum() <= 16 for i in plan) and len(loader.shapes) <= 2


def test_a_packed_batch_is_the_graph_of_its_frames(data):
    loader = Loader(data, 3.0, batch_size=4, dtype=np.float64, references={8: -3.0, 14: 2.0})
    energy = LennardJones(jnp.asarray(0.1), jnp.asarray(1.0), cutoff=3.0)
    indices = loader.plan(0)[2]
    packed = loader.pack(indices)
    got = energy_forces_virial(energy, packed.graph)
    atoms, neighbors = packed.graph.senders.shape[::-1]
    graph = batch([data[int(i)].system for i in indices], 3.0, atoms=atoms, neighbors=neighbors, slots=4)
    expected = energy_forces_virial(energy, graph)
    for a, b in zip(got, expected, strict=True):
        assert jnp.allclose(a, b, rtol=1e-12, atol=1e-12 * float(jnp.abs(b).max()))
    for slot, i in enumerate(indices):
        record = data[int(i)]
        offset = sum({8: -3.0, 14: 2.0}[int(n)] for n in record.numbers)
        assert np.isclose(float(packed.labels.energy[slot]), record.energy - offset, atol=1e-12)
        virial = record.stress * abs(np.linalg.det(record.cell)) / len(record)
        assert np.allclose(packed.labels.virial_per_atom[slot], virial)


def test_missing_labels_and_padding_weigh_nothing():
    random = np.random.default_rng(2)
    shear = np.eye(3, dtype=bool)
    frames = [
        frame(random, 3, energy=None),
        frame(random, 3, forces=None),
        frame(random, 3, stress_mask=shear, weights=(2.0, 1.0, 9.0)),
        frame(random, 3, pbc=(True, True, False)),
    ]
    loader = Loader(Dataset(frames), 2.0, batch_size=4)
    labels = loader.pack([0, 1, 2, 3]).labels
    assert labels.energy_weight.tolist() == [0.0, 1.0, 2.0, 1.0]
    assert (labels.force_weight[:12].reshape(4, 3) > 0).all(axis=1).tolist() == [True, False, True, True]
    assert not labels.force_weight[12:].any()
    assert np.array_equal(labels.stress_weight[2], shear) and not labels.stress_weight[3].any()


def test_energies_of_any_size_keep_their_digits_in_float32():
    random = np.random.default_rng(3)
    record = frame(random, 4, energy=-4e5 + 0.001, numbers=np.full(4, 14, np.int32))
    labels = Loader(Dataset([record]), 2.0, batch_size=1, references={14: -1e5}).pack([0]).labels
    assert labels.energy.dtype == np.float32 and np.isclose(labels.energy[0], 0.001, rtol=1e-5)


def test_loaders_refuse_what_makes_no_batch(data):
    with pytest.raises(UserError, match="at least one frame"):
        Loader(Dataset([]), 3.0, batch_size=4)
    with pytest.raises(UserError, match="cutoff"):
        Loader(data, 0.0, batch_size=4)
    with pytest.raises(UserError, match="at least 1"):
        Loader(data, 3.0, batch_size=4, max_shapes=0)
    with pytest.raises(ValueError, match="either `batch_size`"):
        Loader(data, 3.0)
    assert Loader(data[:2], 3.0, batch_size=10).batch_size == 2
