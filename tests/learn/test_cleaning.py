"""Planted faults are found, named, and do not hide each other; leaving out is a refit."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.data.influence import REASONS
from jaxmlip.energy import StillingerWeber
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn import evaluate, find_suspects, fit_linear
from jaxmlip.learn.linear import KINDS, RowCache
from jaxmlip.models.linear import LinearACE, LinearACEConfig

SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
FRAMES = 60
FAULTS = {3: "energy", 11: "exchanged", 17: "stress", 20: "exchanged", 31: "energy", 40: "force"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Rattled and strained diamond labelled by Stillinger and Weber."""
    rng = np.random.default_rng(4)
    sites = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
    bare = []
    for i in range(FRAMES):
        cell = 5.43 * (np.eye(3) + 0.015 * rng.normal(size=(3, 3)))
        positions = sites @ cell + 0.1 * rng.normal(size=(8, 3))
        bare.append(Record(positions, np.full(8, 14), cell, (True,) * 3, index=i, path="si.xyz", energy=0.0,
                           forces=np.zeros((8, 3)), stress=np.zeros((3, 3))))  # fmt: skip
    path = tmp_path_factory.mktemp("sw") / "Si.sw"
    path.write_text(SW)
    exact = evaluate(StillingerWeber.from_file(path), Dataset(bare), dtype=np.float64)
    return Dataset(
        [
            dataclasses.replace(
                record, energy=float(8 * exact.energy[i]), forces=exact.forces[exact.frame == i], stress=exact.stress[i]
            )
            for i, record in enumerate(bare)
        ]
    )


def planted(record, fault):
    forces = np.array(record.forces)
    if fault == "energy":
        return dataclasses.replace(record, energy=record.energy + 0.5)
    if fault == "exchanged":
        forces[[1, 6]] = forces[[6, 1]]
        return dataclasses.replace(record, forces=forces)
    if fault == "force":
        forces[2, 0] += 3.0
        return dataclasses.replace(record, forces=forces)
    return dataclasses.replace(record, stress=-record.stress)


@pytest.fixture(scope="module")
def suspects(sound):
    dataset = Dataset([planted(r, FAULTS[i]) if i in FAULTS else r for i, r in enumerate(sound)])
    model = LinearACE(LinearACEConfig((14,), radial=6, degree=2, channels=8, roots=4), key=jax.random.key(0))
    cache = RowCache()
    return find_suspects(dataset, lambda data, progress: fit_linear(model, data, cache=cache))


def test_the_planted_ones_rank_first(suspects):
    assert set(suspects.order[: len(FAULTS)].tolist()) == set(FAULTS)
    assert set(suspects.above()) >= set(FAULTS)
    assert len(suspects.above()) <= len(FAULTS) + FRAMES // 10


def test_reasons_say_what_was_planted(suspects):
    words = {"energy": "energy", "exchanged": "atoms 1 and 6", "force": "most on atom 2 ", "stress": "other sign"}
    for frame, fault in FAULTS.items():
        assert words[fault] in suspects.reason(frame), suspects.reason(frame)
    assert suspects.left_out(3)["energy"] == pytest.approx(0.5 / 8, rel=0.1)
    assert "si.xyz, frame 3" in suspects.table()
    assert suspects.leverage[3] > 0.1, "the leverage is that of a frame that counts"


def test_a_suspect_is_judged_by_a_fit_without_it(sound, suspects):
    """The residual of a doubtful frame in the second round is that of a refit to all the frames that are not."""
    doubtful = set(suspects.above().tolist())
    kept = Dataset([r for i, r in enumerate(sound) if i not in doubtful])
    model = LinearACE(LinearACEConfig((14,), radial=6, degree=2, channels=8, roots=4), key=jax.random.key(0))
    fit = fit_linear(model, kept)
    predicted = evaluate(fit.energy, suspects.dataset[[3]], dtype=np.float64)
    expected = suspects.dataset[3].energy / 8 - predicted.energy[0]
    assert suspects.left_out(3)["energy"] == pytest.approx(expected, rel=0.05)


def test_sound_data_have_few_suspects(sound):
    model = LinearACE(LinearACEConfig((14,), radial=6, degree=2, channels=8, roots=4), key=jax.random.key(0))
    found = find_suspects(sound, lambda data, progress: fit_linear(model, data), rounds=1)
    assert len(found.above()) <= FRAMES // 10
    assert found.scores.shape == (FRAMES, len(REASONS))
    assert set(found.noise) == set(KINDS)
    assert np.all(np.isfinite(found.suspicion)) and np.all(found.leverage > 0.0)


def test_labels_of_one_kind_are_enough(sound):
    only = Dataset([dataclasses.replace(r, forces=None, stress=None) for r in sound])
    model = LinearACE(LinearACEConfig((14,), radial=3, degree=1, channels=2, roots=1), key=jax.random.key(0))
    found = find_suspects(only, lambda data, progress: fit_linear(model, data), rounds=1)
    assert np.all(np.isfinite(found.suspicion))
    assert np.isnan(found.left_out(0)["forces"]) and np.isnan(found.left_out(0)["stress"])


def test_too_few_frames_are_refused(sound):
    with pytest.raises(UserError, match="5 frames are too few"):
        find_suspects(sound[:5], lambda data, progress: pytest.fail("no fit was to be made"))
