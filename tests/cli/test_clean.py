"""`jaxmlip clean`: faults are ranked first, nothing is lost, bad input is refused."""

import csv

import ase.io
import jax
import pytest

from jaxmlip.energy import AtomicReferences
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.pretrained import save

OPTIONS = ("--channels", 4, "--cutoff_angstrom", 4.5)


@pytest.fixture
def faulty(labelled):
    """The labelled frames, of which one has another energy."""
    frames = ase.io.read(labelled, ":")
    frames[7].info["REF_energy"] += 0.4
    ase.io.write(labelled, frames)
    return labelled


def test_every_frame_is_in_one_of_the_files_as_it_was(faulty, tmp_path, jaxmlip):
    out = tmp_path / "out"
    code, text, err = jaxmlip("clean", faulty, "--output", out, *OPTIONS)
    assert code == 0, err
    assert "frame 7 (default): energy is off by +" in text
    kept, removed = (out / f"{name}.extxyz" for name in ("cleaned", "removed"))
    aside = ase.io.read(removed, ":")
    assert any("energy" in a.info["suspicion_reason"] and a.info["suspicion"] > 2.5 for a in aside)
    before = ase.io.read(faulty, ":")
    energies = sorted(a.info["REF_energy"] for a in [*ase.io.read(kept, ":"), *aside])
    assert energies == sorted(a.info["REF_energy"] for a in before)
    lines = faulty.read_text().splitlines()
    assert set(kept.read_text().splitlines()) <= set(lines), "kept frames are line for line those of the input"
    rows = list(csv.DictReader((out / "suspects.csv").read_text().splitlines()))
    assert len(rows) == 20 and rows[0]["frame"] == "7" and rows[0]["set_aside"] == "1"
    assert abs(float(rows[0]["energy_left_out_meV_atom"]) - 100.0) < 20.0
    page = (out / "report.html").read_text()
    assert "Frames that look wrong" in page and page.count("<img") == 3


def test_a_high_threshold_sets_nothing_aside_and_frames_without_labels_are_not_judged(faulty, tmp_path, jaxmlip):
    out = tmp_path / "out"
    frames = ase.io.read(faulty, ":")
    for label in (frames[3].info, frames[3].arrays):
        for key in ("REF_energy", "REF_forces", "REF_stress"):
            label.pop(key, None)
    ase.io.write(faulty, frames)
    code, text, err = jaxmlip("clean", faulty, "--output", out, "--threshold", 1e6, "--rounds", 1, *OPTIONS)
    assert code == 0, err
    assert "0 of 20 frames set aside" in text
    assert (out / "cleaned.extxyz").read_text() == faulty.read_text()
    assert (out / "removed.extxyz").read_text() == ""
    assert "1 of 20 frames have no label; they are kept, not judged." in text
    assert "frame 3 " not in text and "nan" not in text and "inf" not in text.replace("info", "")
    last = list(csv.DictReader((out / "suspects.csv").read_text().splitlines()))[-1]
    assert (last["frame"], last["suspicion"], last["reason"]) == ("3", "", "has no label to judge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", 0), "rounds"),
        (("--cutoff_angstrom", -1.0), "cutoff_angstrom"),
        (("--thresold", 1.0), "thresold"),
        (("--energy_key", "dft_energy", "--forces_key", "dft_forces"), "There is no label to judge"),
    ],
)
def test_bad_options_are_refused(options, message, faulty, tmp_path, jaxmlip):
    code, _, err = jaxmlip("clean", faulty, "--output", tmp_path / "out", *options)
    assert code == 2
    assert message in err and "Traceback" not in err


@pytest.mark.slow
def test_a_trained_model_can_be_the_judge(faulty, tmp_path, jaxmlip):
    model = ACE(ACEConfig.preset("nep", (18,), cutoff=4.5), key=jax.random.key(0)) + AtomicReferences({18: 0.0})
    save(tmp_path / "ace.model", model)
    code, text, err = jaxmlip("clean", faulty, "--output", tmp_path / "out", "--model", tmp_path / "ace.model")
    assert code == 0, err
    assert "frame 7 (default): energy is off by +" in text
    code, _, err = jaxmlip("clean", faulty, "--output", tmp_path / "out", "--model", tmp_path / "no.model")
    assert code == 2 and "No model file" in err


def test_few_frames_are_refused(faulty, tmp_path, jaxmlip):
    few = tmp_path / "few.extxyz"
    ase.io.write(few, ase.io.read(faulty, ":5"))
    code, _, err = jaxmlip("clean", few, "--output", tmp_path / "out", *OPTIONS)
    assert code == 2 and "5 frames are too few" in err
