"""Checkpoints: whole, checked, and never a pickle."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.simulate import Langevin, load_state, save_state


@pytest.fixture(scope="module")
def state(lj, argon):
    return Langevin(1.0 * units.fs, 80.0, 0.1).init(lj, argon, key=jax.random.PRNGKey(0))


def test_everything_comes_back_with_old_and_new_keys(state, tmp_path):
    for key in (state.key, jax.random.key(3)):
        saved = dataclasses.replace(state, key=key)
        path = save_state(tmp_path / "s", saved, writer=12, note="hello")
        loaded, metadata = load_state(path)
        assert metadata == {"writer": 12, "note": "hello"}
        assert jax.tree.structure(loaded) == jax.tree.structure(saved)
        assert loaded.key.dtype == key.dtype
        draw = [np.asarray(jax.random.normal(k, (3,))) for k in (loaded.key, key)]
        np.testing.assert_array_equal(*draw)
        np.testing.assert_array_equal(loaded.neighbors.senders, saved.neighbors.senders)
        assert loaded.neighbors.plan == saved.neighbors.plan and loaded.system.pbc == (True, True, True)


def test_any_changed_byte_and_any_missing_tail_are_found(state, tmp_path):
    path = save_state(tmp_path / "s", state)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(data), 30), len(data) - 1]:
        broken = bytearray(data)
        broken[position] ^= 0x10
        path.write_bytes(bytes(broken))
        with pytest.raises(ValueError, match="damaged|not a checkpoint"):
            load_state(path)
    for length in (0, 10, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged|not a checkpoint"):
            load_state(path)


def test_a_failed_write_leaves_the_older_checkpoint(state, tmp_path, monkeypatch):
    path = save_state(tmp_path / "s", state, number=1)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_state(path, state, number=2)
    assert load_state(path)[1] == {"number": 1}
    assert os.listdir(tmp_path) == ["s"]


def test_what_is_not_ours_is_refused(state, tmp_path):
    with pytest.raises(TypeError, match="cannot hold"):
        save_state(tmp_path / "s", dataclasses.replace(state, bath={1, 2}))
