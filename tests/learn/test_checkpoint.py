"""Checkpoints: what is read is what was written, or nothing is read."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.errors import UserError
from jaxmlip.learn import checkpoint


def tree(seed=0):
    random = np.random.default_rng(seed)
    return {
        "weights": jnp.asarray(random.normal(size=(5, 3)).astype(np.float32)),
        "moments": [jnp.asarray(random.normal(size=4)), None],
        "step": jnp.asarray(seed, jnp.int32),
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(seed),
    }


def leaves(t):
    return [np.asarray(jax.random.key_data(x) if x.dtype.name.startswith("key") else x) for x in jax.tree.leaves(t)]


def equal(a, b):
    return all(
        x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y)
        for x, y in zip(leaves(a), leaves(b), strict=True)
    )


def test_a_checkpoint_restores_every_array_to_the_bit(tmp_path):
    path = checkpoint.save(tmp_path, "last", 7, tree(7), {"history": [1.5, None]})
    found, extra = checkpoint.load(path, tree(0))
    assert equal(found, tree(7)) and extra == {"history": [1.5, None]}
    assert jax.tree.structure(found) == jax.tree.structure(tree(0))
    assert checkpoint.load_last(tmp_path, "best", tree()) is None


def test_only_the_last_ones_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, "last", step, tree(step))
    assert checkpoint.steps(tmp_path, "last") == [2, 3]
    assert equal(checkpoint.load_last(tmp_path, "last", tree())[0], tree(3))


def test_every_damage_is_refused_and_the_one_before_is_used(tmp_path):
    checkpoint.save(tmp_path, "last", 1, tree(1))
    whole = checkpoint.save(tmp_path, "last", 2, tree(2))
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    random = np.random.default_rng(0)
    files = sorted(p.relative_to(copy) for p in copy.rglob("*") if p.is_file())
    assert len(files) > 5
    for name in files:
        for damage in ("flip", "cut", "remove"):
            shutil.rmtree(whole)
            shutil.copytree(copy, whole)
            content = bytearray((whole / name).read_bytes())
            if damage == "flip" and content:
                content[random.integers(len(content))] ^= 1 << int(random.integers(8))
            if damage == "remove":
                (whole / name).unlink()
            elif not content:
                continue
            else:
                (whole / name).write_bytes(content[: len(content) // 2] if damage == "cut" else content)
            with pytest.raises(UserError, match="corrupt"):
                checkpoint.verify(whole)
    told = []
    found, _ = checkpoint.load_last(tmp_path, "last", tree(), told.append)
    assert equal(found, tree(1)) and len(told) == 1 and "corrupt" in told[0]
    (tmp_path / "last-000000001" / "stray").touch()
    with pytest.raises(UserError, match="No checkpoint last in .* is intact"):
        checkpoint.load_last(tmp_path, "last", tree(), told.append)


def test_a_damaged_checkpoint_is_written_again(tmp_path):
    path = checkpoint.save(tmp_path, "last", 1, tree(1))
    (path / "state.json").write_text("{}")
    checkpoint.save(tmp_path, "last", 1, tree(1))
    assert equal(checkpoint.load(path, tree())[0], tree(1))


def test_nothing_is_cast_and_nothing_is_dropped(tmp_path):
    path = checkpoint.save(tmp_path, "last", 1, tree(1))
    half = {**tree(), "moments": [jnp.zeros(4, jnp.float32), None]}
    with pytest.raises(UserError, match=r"moments.*float64\[4\] there, but float32\[4\] here"):
        checkpoint.load(path, half)
    with pytest.raises(UserError, match=r"\['bias'\] is absent there"):
        checkpoint.load(path, {**tree(), "bias": jnp.zeros(1)})
    fewer = tree()
    del fewer["step"]
    with pytest.raises(UserError, match=r"\['step'\] is int32\[\] there, but absent here"):
        checkpoint.load(path, fewer)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, "last", 1, tree(1))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device.*Earlier checkpoints are intact"):
        checkpoint.save(tmp_path, "last", 2, tree(2))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["last-000000001"]
    assert equal(checkpoint.load_last(tmp_path, "last", tree())[0], tree(1))


def test_what_a_kill_left_behind_is_ignored_and_removed(tmp_path):
    path = checkpoint.save(tmp_path, "last", 1, tree(1))
    shutil.copytree(path, tmp_path / ".writing-last-000000002")
    (tmp_path / ".writing-last-000000002" / "manifest.json").unlink()
    assert checkpoint.steps(tmp_path, "last") == [1]
    checkpoint.save(tmp_path, "last", 3, tree(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-000000001", "last-000000003"]
