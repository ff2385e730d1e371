"""Data sets: splits, censuses, and frames that must not be trained on."""

import dataclasses

import numpy as np
import pytest

from jaxmlip.data import Dataset, read_dataset, require_labels
from jaxmlip.data.dataset import check_distances
from jaxmlip.errors import UserError
from jaxmlip.io import Record


def record(index=0, **changes):
    """Two atoms in a box of 4 Å, with all labels."""
    values = {
        "positions": np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]),
        "numbers": np.array([14, 14], np.int32),
        "cell": np.eye(3) * 4.0,
        "pbc": (True, True, True),
        "energy": -float(index),
        "forces": np.zeros((2, 3)),
        "stress": np.zeros((3, 3)),
        "path": "a.xyz",
        "index": index,
        "keys": {"energy": "REF_energy"},
    }
    return Record(**{**values, **changes})


def atom(number, energy, index=0):
    """An isolated atom."""
    one = {"positions": np.zeros((1, 3)), "numbers": np.array([number], np.int32), "cell": np.zeros((3, 3))}
    return record(index, **one, pbc=(False,) * 3, energy=energy, forces=None, stress=None)


def test_a_split_is_stratified_disjoint_and_repeatable():
    kinds = ["bulk"] * 40 + ["surface"] * 20 + ["rare"] * 3
    data = Dataset([record(i, config_type=kind) for i, kind in enumerate(kinds)] + [atom(14, -1.0, 99)])
    train, valid, test = data.split(0.2, 0.1, seed=3)
    assert (len(train), len(valid), len(test)) == (45, 13, 6)
    assert valid.config_types()["bulk"] == 8 and valid.config_types()["surface"] == 4
    indices = [r.index for part in (train, valid, test) for r in part]
    assert sorted(indices) == [*range(63), 99] and any(r.index == 99 for r in train)
    again = data.split(0.2, 0.1, seed=3)
    assert [r.index for r in again[1]] == [r.index for r in valid]
    assert [r.index for r in data.split(0.2, 0.1, seed=4)[1]] != [r.index for r in valid]


@pytest.mark.parametrize("fractions", [(0.0,), (1.0,), (0.6, 0.5), (0.01,)])
def test_a_split_that_leaves_a_part_empty_is_refused(fractions):
    with pytest.raises(UserError, match="split"):
        Dataset([record(i) for i in range(10)]).split(*fractions)


def test_frames_may_say_themselves_where_they_belong():
    data = Dataset([record(0, split="train"), record(1, split="valid"), record(2, split="train")])
    parts = data.split_by_key()
    assert [r.index for r in parts["train"]] == [0, 2] and [r.index for r in parts["valid"]] == [1]
    with pytest.raises(UserError, match=r"a\.xyz, frame 3 has no key `split`"):
        (data + Dataset([record(3)])).split_by_key()


def test_slices_and_subsets_are_data_sets():
    data = Dataset([record(i) for i in range(5)])
    assert isinstance(data[1:3], Dataset) and [r.index for r in data[[4, 0]]] == [4, 0]
    assert [r.index for r in data[np.arange(5) > 2]] == [3, 4] and len(data[[]]) == 0
    assert len(data.filter(lambda r: r.energy < -2.5)) == 2 and data[2].index == 2
    assert data.elements == (14,)


def test_a_missing_label_stops_with_a_census():
    data = Dataset([record(0), record(1, forces=None), record(2, forces=None)])
    require_labels(data, ["energy", "stress"])
    with pytest.raises(UserError, match="asks for forces, but 2 of 3 frames have none") as caught:
        require_labels(data, ["forces"])
    text = str(caught.value)
    assert "a.xyz, frame 1" in text and "energy  in      3  (key REF_energy)" in text and "forces  in      1" in text
    require_labels(data, ["forces"], missing=0.7)


def test_labels_that_mean_nothing_are_not_asked_for():
    molecule = record(1, pbc=(False,) * 3, stress=None)
    require_labels(Dataset([record(0), atom(14, -1.0), molecule]), ["energy", "forces", "stress"])
    with pytest.raises(UserError, match="asks for stress, but 0 of 0"):
        require_labels(Dataset([molecule]), ["stress"])


def test_coincident_atoms_are_refused_through_images_too(tmp_path):
    check_distances(record())
    with pytest.raises(UserError, match=r"a\.xyz, frame 7: atoms 0 and 1 .* 0\.0500 Å"):
        check_distances(record(7, positions=np.array([[0.0, 0.0, 0.0], [0.05, 0.0, 0.0]])))
    with pytest.raises(UserError, match=r"0\.0500 Å"):
        check_distances(record(7, positions=np.array([[0.0, 0.0, 0.0], [3.95, 4.0, -8.0]])))
    with pytest.raises(UserError, match="at least one file"):
        read_dataset([])


def test_the_fingerprint_sees_every_label():
    data = record()
    changes = [
        {"energy": 1.0},
        {"forces": np.full((2, 3), 1e-12)},
        {"stress_mask": np.eye(3, dtype=bool)},
        {"weights": (1.0, 1.0, 2.0)},
        {"forces": None},
    ]
    prints = {Dataset([dataclasses.replace(data, **c)]).fingerprint() for c in [{}, *changes]}
    assert len(prints) == 1 + len(changes)


def test_notices_count_what_was_changed():
    data = Dataset([record(0, was_left_handed=True), record(1, stress_mask=np.eye(3, dtype=bool)), record(2)])
    assert [n.split()[0] for n in data.notices()] == ["1", "the"] and Dataset([record()]).notices() == []


def test_rare_elements_are_named():
    many = [record(i) for i in range(12)]
    rare = [record(i, numbers=np.array([14, 32 if i < 2 else 14], np.int32)) for i in range(12)]
    (text,) = Dataset(rare).rare_elements()
    assert text == "Ge is in 2 of 12 frames (a.xyz, frame 0; a.xyz, frame 1)"
    assert Dataset(rare).notices()[-1].startswith(text) and Dataset(many).rare_elements() == []
    assert Dataset(rare[:8]).rare_elements() == [], "few frames have no rare elements"
