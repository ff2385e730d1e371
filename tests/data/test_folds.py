"""Folds: of equal make-up, no structure in two of them, nothing that a fit could not know; nested training sets."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxmlip.data import Dataset
from jaxmlip.data.folds import make_folds, nested_subsets
from jaxmlip.errors import UserError
from jaxmlip.io import Record


def frame(seed, numbers=(14, 14, 14, 14), **changes):
    rng = np.random.default_rng(seed)
    cell = 5.0 * np.eye(3) + 0.1 * rng.normal(size=(3, 3))
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(4, 3)), "stress": None, "index": seed}
    positions = sites @ cell + 0.1 * rng.normal(size=(4, 3))
    return Record(positions, np.array(numbers), cell, (True,) * 3, **(labels | changes))


def turned(record, index):
    """The same structure, rotated, shifted, with its atoms in another order, and another energy."""
    rotation = Rotation.from_rotvec([0.3, -0.7, 0.2]).as_matrix()
    order = np.array([2, 0, 3, 1])
    return dataclasses.replace(
        record,
        positions=(record.positions[order] @ rotation.T) + 0.7,
        cell=record.cell @ rotation.T,
        forces=record.forces[order] @ rotation.T,
        energy=record.energy + 0.3,
        index=index,
    )


def frames(count, **changes):
    return [frame(i, **changes) for i in range(count)]


def where(folds, index):
    return [i for i, part in enumerate(folds.held_out) if index in part]


def test_every_frame_is_held_out_once_and_kinds_are_spread():
    data = Dataset([frame(i, config_type="liquid" if i % 4 == 0 else "bulk") for i in range(20)])
    folds = make_folds(data, 5, seed=3)
    assert len(folds) == 5 and not folds.notices
    assert sorted(np.concatenate(folds.held_out)) == list(range(20))
    for fold, held in enumerate(folds.held_out):
        assert sum(data[i].config_type == "liquid" for i in held) == 1 and len(held) == 4
        assert sorted([*folds.train(fold), *held]) == list(range(20))
    again, other = make_folds(data, 5, seed=3), make_folds(data, 5, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(folds.held_out, again.held_out, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(folds.held_out, other.held_out, strict=True))


def test_equal_structures_are_in_one_fold():
    records = frames(12)
    data = Dataset([*records, *(turned(records[i], 100 + i) for i in range(6))])
    for seed in range(4):
        folds = make_folds(data, 4, seed=seed)
        assert all(where(folds, i) == where(folds, 12 + i) for i in range(6))
        assert "6 frames repeat" in folds.notices[0]


def test_groups_are_held_out_whole():
    data = Dataset([frame(i, config_type="abcd"[i % 4]) for i in range(16)])
    folds = make_folds(data, 2, group_by="config_type")
    kinds = [{data[i].config_type for i in held} for held in folds.held_out]
    assert kinds[0].isdisjoint(kinds[1]) and kinds[0] | kinds[1] == set("abcd")
    by_number = make_folds(data, 2, group_by=lambda record: record.index // 8)
    assert sorted(map(sorted, by_number.held_out)) == [list(range(8)), list(range(8, 16))]
    assert "4 frames or groups" in make_folds(data, 6, group_by="config_type").notices[0]


def test_one_group_is_divided_by_frames():
    folds = make_folds(Dataset(frames(6)), 3, group_by="config_type")
    assert len(folds) == 3 and "one group only" in folds.notices[0]


def test_fewer_frames_than_folds_are_left_out_one_by_one():
    folds = make_folds(Dataset(frames(3)), 5)
    assert [len(held) for held in folds.held_out] == [1, 1, 1] and "3 folds, not 5" in folds.notices[0]


@pytest.mark.parametrize("rare", [1, 2])
def test_an_element_is_known_to_every_training_set(rare):
    data = Dataset([*frames(12), *(frame(50 + i, numbers=(14, 14, 14, 32), config_type=f"{i}") for i in range(rare))])
    for seed in range(5):
        folds = make_folds(data, 4, seed=seed)
        for fold in range(len(folds)):
            known = {int(n) for i in folds.train(fold) for n in data[i].numbers}
            assert known == {14, 32}
        if rare == 1:
            assert folds.always.tolist() == [12] and "alone know Ge" in folds.notices[0]
        else:
            assert not len(folds.always) and where(folds, 12) != where(folds, 13)


def test_labels_are_known_to_every_training_set():
    """Energies of two frames only; stress of one."""
    records = [dataclasses.replace(r, energy=r.energy if i < 2 else None) for i, r in enumerate(frames(10))]
    records[5] = dataclasses.replace(records[5], stress=np.zeros((3, 3)))
    folds = make_folds(Dataset(records), 3)
    assert where(folds, 0) != where(folds, 1)
    assert folds.always.tolist() == [5] and "stress labels" in folds.notices[0]


def test_isolated_atoms_are_always_trained_on_and_bare_frames_never():
    atom = Record(np.zeros((1, 3)), np.array([14]), np.eye(3) * 20, (False,) * 3, energy=-1.0, forces=np.zeros((1, 3)))
    bare = dataclasses.replace(frame(99), energy=None, forces=None)
    folds = make_folds(Dataset([atom, *frames(6), bare]), 3)
    assert folds.always.tolist() == [0] and folds.unused.tolist() == [7]
    assert "1 of 8 frames have no label" in folds.notices[0]
    assert sorted(folds.frames) == list(range(7))


@pytest.mark.parametrize(
    ("records", "k", "options", "message"),
    [
        (frames(6), 1, {}, "at least 2 folds"),
        (frames(6), 3, {"group_by": "colour"}, "config_type"),
        ([dataclasses.replace(r, energy=None, forces=None) for r in frames(4)], 2, {}, "no label"),
        (frames(1), 2, {}, "two different structures"),
        ([frame(0), turned(frame(0), 1), turned(frame(0), 2)], 2, {}, "two different structures"),
    ],
)
def test_what_cannot_be_divided_is_refused(records, k, options, message):
    with pytest.raises(UserError, match=message):
        make_folds(Dataset(records), k, **options)


def test_training_sets_of_a_learning_curve_are_nested_and_never_held_out():
    data = Dataset(frames(12))
    folds = make_folds(data, 3)
    small, middle, large = nested_subsets(folds, 1, (2, 4, 8), seed=5)
    assert set(small) < set(middle) < set(large) == set(folds.train(1))
    assert not np.array_equal(small, next(nested_subsets(folds, 1, (2,), seed=6)))
    with pytest.raises(UserError, match="1 to 8 frames"):
        list(nested_subsets(folds, 0, (9,)))
