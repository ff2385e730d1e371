"""Model files: what is written is read back, and what is wrong is refused with a reason."""

import hashlib
import json
import pickle
import urllib.error

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import (
    ZBL,
    AtomicReferences,
    Committee,
    LennardJones,
    Morse,
    Repulsion,
    Scaled,
    SoftSphere,
    buckingham,
)
from jaxmlip.learn.linearised import last_layer
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.models.pretrained import NAMED, find, load, metadata, save

CONFIG = NequIPConfig(elements=(1, 8), channels=(4, 2), layers=2, radial_width=4)


@eqx.filter_jit
def make(config, key, block=None):  # in one compilation, not one for each shape
    return NequIP(config, key=key, block=block)


@pytest.fixture(scope="module")
def model():
    return make(CONFIG, jax.random.key(0))


def test_a_model_is_read_back_to_the_bit(model, tmp_path):
    path = save(tmp_path / "deep" / "model.jaxmlip", model, dataset="none", version=3)
    again = load(path)
    assert again.config == model.config and type(again) is NequIP
    assert eqx.tree_equal(again, model)
    assert metadata(path) == {"dataset": "none", "version": 3}


def test_sums_keep_their_terms(model, tmp_path):
    total = model + ZBL(cutoff=1.5) + AtomicReferences({1: -13.6, 8: -432.0}) + LennardJones(0.01, 3.0, cutoff=6.0)
    again = load(save(tmp_path / "sum", total))
    assert eqx.tree_equal(again, total)
    assert again.terms[1].cutoff == 1.5 and again.elements == (1, 8)


def test_pair_energies_are_read_back_with_their_tables(tmp_path):
    pairs = {"Si-O": 1.5, "Si-Si": 2.0, "O-O": 2.5}
    total = (
        LennardJones({"Ar": 0.01, "Kr": 0.014}, {"Ar": 3.4, "Kr": 3.6}, 8.0, tail=True)
        + LennardJones(pairs, 3.0, 8.0, truncation="force_shift")
        + Morse(pairs, 1.0, 1.6, 6.0)
        + buckingham({**pairs, "Si-O": 1800.0}, 0.3, 0.0, 8.0)
        + SoftSphere(1.0, pairs)
        + Repulsion(pairs, 9.0, cutoff=2.0)
    )
    again = load(save(tmp_path / "sum", total))
    assert eqx.tree_equal(again, total)
    assert again.terms[0].tail and again.terms[1].truncation == "force_shift" and again.terms[4].cutoff == 2.5


def test_a_linear_model_is_read_back(tmp_path):
    model = LinearACE(LinearACEConfig((8, 14), degree=2, radial=3, channels=3, roots=2), key=jax.random.key(0))
    total = model + AtomicReferences({8: -430.0, 14: -107.0})
    assert eqx.tree_equal(load(save(tmp_path / "linear", total)), total)


def test_ace_is_read_back(tmp_path):
    ace = pytest.importorskip("jaxmlip.models.ace")
    model = ace.ACE(ace.ACEConfig.preset("nep", (14,)), key=jax.random.key(0))
    assert eqx.tree_equal(load(save(tmp_path / "ace", model)), model)


@pytest.mark.parametrize("own", [None, last_layer])
def test_a_committee_is_read_back_with_what_its_members_share(own, tmp_path):
    config = ACEConfig((14,), degree=1, radial=3, channels=3, hidden=4, products=False)
    committee = Committee.of([ACE(config, key=jax.random.key(i)) for i in range(3)], own)
    total = committee + AtomicReferences({14: -5.0})
    again = load(save(tmp_path / "committee", total))
    assert eqx.tree_equal(again, total)
    assert again.terms[0].members == 3


def test_dtype_casts_parameters_only_where_asked(model, tmp_path):
    path = save(tmp_path / "m", jax.tree.map(lambda x: x.astype(jnp.float32), model))
    assert {x.dtype for x in jax.tree.leaves(load(path))} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(load(path, dtype=jnp.float64))} == {jnp.dtype("float64")}


def test_header_is_one_line_and_the_rest_are_plain_numbers(model, tmp_path):
    content = save(tmp_path / "m", model).read_bytes()
    line, payload = content.split(b"\n", 1)
    header = json.loads(line)
    assert header["format"] == "jaxmlip-1" and header["model"] == "NequIP"
    assert header["config"]["elements"] == [1, 8]
    assert header["sha256"] == hashlib.sha256(payload).hexdigest()
    leaf = header["leaves"][0]
    size = int(np.prod(leaf["shape"]))
    first = np.frombuffer(payload, np.dtype(leaf["dtype"]).newbyteorder("<"), count=size).reshape(leaf["shape"])
    np.testing.assert_array_equal(first, jax.tree.leaves(model)[0])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda c: c[:-8], "damaged"),
        (lambda c: c + b"x", "damaged"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "damaged"),
        (lambda c: c[:40], "not a model file"),
        (lambda c: pickle.dumps({"model": 1}), "not a model file"),
        (lambda c: b"", "not a model file"),
        (lambda c: c.replace(b"jaxmlip-1", b"jaxmlip-9", 1), "has format 'jaxmlip-9'"),
        (lambda c: c.replace(b'"NequIP"', b'"NoSuch"', 1), "cannot make"),
        (lambda c: c.replace(b'"channels": [4, 2]', b'"channels": [4, 3]', 1), "another version"),
    ],
)
def test_damaged_and_foreign_files_are_refused_by_name(model, tmp_path, harm, reason):
    path = save(tmp_path / "model.jaxmlip", model)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match="model.jaxmlip") as error:
        load(path)
    assert reason in str(error.value)


def test_an_interrupted_save_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = save(tmp_path / "m", model)
    before = path.read_bytes()
    monkeypatch.setattr(pretrained.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        save(path, jax.tree.map(lambda x: 2 * x, model))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_saved_is_said(model, tmp_path):
    with pytest.raises(TypeError, match="Cannot save a Scaled"):
        save(tmp_path / "m", Scaled(model, 2.0))
    with pytest.raises(TypeError, match="JSON"):
        save(tmp_path / "m", model, note=object())
    assert not list(tmp_path.iterdir())


def test_offline_the_error_says_where_to_put_the_file(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("JAXMLIP_CACHE", str(tmp_path))
    monkeypatch.delenv("JAXMLIP_DATA", raising=False)
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", offline)
    with pytest.raises(ValueError, match="no route") as error:
        load("nequix-oam-1")
    assert str(tmp_path / "nequix-oam-1.nqx") in str(error.value)
    with pytest.raises(ValueError, match="nequix-oam-1") as error:
        load("nequix-oam-2")
    assert "No model file" in str(error.value)


def test_downloads_and_cached_files_are_checked(tmp_path, monkeypatch, capsys):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self):
            return b"something else"

    monkeypatch.setenv("JAXMLIP_CACHE", str(tmp_path))
    monkeypatch.delenv("JAXMLIP_DATA", raising=False)
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", lambda *_, **__: Answer())
    with pytest.raises(ValueError, match="not the published"):
        load("nequix-mp-1")
    assert "MIT License" in capsys.readouterr().out and not list(tmp_path.iterdir())
    content = b"something else"
    known = NAMED["nequix-mp-1"]._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(NAMED, "nequix-mp-1", known)
    assert find("nequix-mp-1") == tmp_path / "nequix-mp-1.nqx"
    assert find("nequix-mp-1").read_bytes() == content
    (tmp_path / "nequix-mp-1.nqx").write_bytes(b"other")
    with pytest.raises(ValueError, match="not the published"):
        find("nequix-mp-1")


@pytest.mark.parametrize("name", NAMED)
def test_published_models_load_by_name(name, shared_data, tmp_path, monkeypatch):
    if not (shared_data / "potentials" / "nequix" / NAMED[name].file).is_file():
        pytest.skip(f"{NAMED[name].file} is not in {shared_data}")
    monkeypatch.setenv("JAXMLIP_CACHE", str(tmp_path))
    monkeypatch.setenv("JAXMLIP_DATA", str(shared_data))
    model = load(name)
    assert len(model.elements) == NAMED[name].elements == 89
    assert sum(x.size for x in jax.tree.leaves(model)) > 700_000
    assert metadata(name)["license"].startswith("MIT")
