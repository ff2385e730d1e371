"""`jaxmlip generate`: a plan, structures, labels, and going on after a stop."""

import tomllib

import ase.io
import pytest

from jaxmlip.io import read_frames

SMALL = (
    *("--plan.atoms", 8, "--plan.candidates", 1.5, "--plan.strain.steps", 1, "--plan.random.atoms", 4),
    *("--plan.dimer.nearest", 1.5, "--plan.compressed.volume", 0.8, 0.95, "--plan.random.closest", 1.4),
)


@pytest.fixture
def seed(argon):
    ase.io.write(argon / "seed.extxyz", ase.build.bulk("Ar", "fcc", 5.3, cubic=True))
    return argon


def test_from_a_seed_to_labels(seed, tmp_path, jaxmlip):
    out = tmp_path / "out"
    options = ("--seeds", seed / "seed.extxyz", "--output", out, "--budget", 16, *SMALL)
    code, text, err = jaxmlip("generate", *options)
    assert code == 0, err
    assert "left out: there is one element only" in text and text.split("in all")[1].split()[0] == "16"
    structures = read_frames(out / "structures.extxyz")
    assert len(structures) == 16 and not any(r.has("energy") for r in structures)
    assert tomllib.loads((out / "config.toml").read_text())["plan"]["atoms"] == 8

    code, _, err = jaxmlip("generate", *options)
    assert code == 2 and "--resume" in err

    code, text, err = jaxmlip("generate", *options, "--resume", "--labeller", seed / "argon.model")
    assert code == 0, text
    assert "16 frames labelled" in text
    labelled = read_frames(out / "labelled.extxyz")
    assert [r.config_type for r in labelled] == [r.config_type for r in structures]
    assert all(r.has("forces") and r.info["kind"] for r in labelled)
    before = (out / "labelled.extxyz").read_bytes()

    code, text, err = jaxmlip("generate", *options, "--resume", "--labeller", seed / "argon.model")
    assert code == 0 and "16 of them before" in text and (out / "labelled.extxyz").read_bytes() == before

    code, _, err = jaxmlip("generate", *options, "--resume", "--seed", 1)
    assert code == 2 and "seed differ" in err


def test_the_plan_is_printed_and_edited(seed, tmp_path, jaxmlip):
    (tmp_path / "plan.toml").write_text(
        f'seeds = ["{seed / "seed.extxyz"}"]\nbudget = 50\n[plan.rattle]\ncount = 31\ntemperatures_K = [10.0, 20.0]\n'
    )
    code, text, err = jaxmlip("generate", tmp_path / "plan.toml", "--plan_only", "--output", tmp_path / "out")
    assert code == 0, err
    assert text.split("rattle")[1].split()[0] == "31" and "temperatures_K 10 20" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", 0), "budget"),
        (("--budget", 3, "--plan.rattle.count", 9), "do not make up the budget"),
        (("--timeout_seconds", -1.0), "timeout_seconds"),
        (("--plan.atoms", 0), "plan.atoms"),
        (("--plan.compressed.volume", "nan", "nan"), "plan.compressed.volume"),
        (("--sampler", "nowhere.model"), "nowhere.model"),
        (("--sampler", "json:JSONDecoder"), "must be an energy of jaxmlip"),
        (("--labeller", "nowhere:nothing"), "`nowhere:nothing` cannot be used"),
        (("--resume",), "holds no finished design"),
    ],
)
def test_bad_options_are_refused(options, message, seed, tmp_path, jaxmlip):
    code, _, err = jaxmlip("generate", "--seeds", seed / "seed.extxyz", "--output", tmp_path / "out", *options)
    assert code == 2
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "out" / "structures.extxyz").exists()


def test_frames_that_fail_are_told(seed, tmp_path, jaxmlip):
    out = tmp_path / "out"
    code, text, _ = jaxmlip(
        *("generate", "--seeds", seed / "seed.extxyz", "--output", out, "--budget", 12, *SMALL),
        *("--labeller", seed / "argon.model", "--largest_label_force", 0.05),
    )
    assert code == 1 and "a force is larger than 0.05" in text
    aside = read_frames(out / "failed.extxyz")
    assert aside and len(aside) + len(read_frames(out / "labelled.extxyz")) == 12
