"""`jaxmlip tradeoff`: the report, a study that was stopped and goes on, bad input."""

import json

import ase.io
import pytest

OPTIONS = ("--channels", 4, "--cutoff_angstrom", 4.5, "--folds", 3, "--ridges", 1, 100, "--sizes", 5, 10)


def test_a_study_recommends_and_goes_on_where_it_was_stopped(labelled, tmp_path, jaxmlip):
    out = tmp_path / "out"
    code, text, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS)
    assert code == 0, err
    assert "Take " in text and "Twice the frames" in text and "nan" not in text.lower()
    lines = (out / "points.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 3 * (4 * 2) + 3 * 2
    record = json.loads((out / "tradeoff.json").read_text())
    assert record["recommended"]["capacity"] in text and record["curves"]["force"]["exponent"] > 0.0
    assert len(record["settings"]) == 8
    page = (out / "report.html").read_text()
    assert page.count("<img") == 3 and "Bias and variance" in page and (out / "run.json").exists()

    code, _, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS)
    assert code == 2 and "--resume" in err
    (out / "points.jsonl").write_text("".join(lines[:12]) + lines[12][:30])
    code, again, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS, "--resume")
    assert code == 0, err
    assert (out / "points.jsonl").read_text() == "".join(lines), "the rest, as if it had never been stopped"
    assert again == text
    code, _, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS, "--resume", "--seed", 1)
    assert code == 2 and "other data or settings" in err


@pytest.mark.slow
def test_an_interrupt_leaves_a_report_and_a_study_to_resume(labelled, tmp_path, jaxmlip, monkeypatch):
    from jaxmlip.cli import tradeoff

    out = tmp_path / "out"
    written = []

    def append(path, content):
        written.append(content)
        real(path, content)
        if len(written) == 10:
            raise KeyboardInterrupt

    real = tradeoff.append
    monkeypatch.setattr(tradeoff, "append", append)
    code, text, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS, "--no-curve")
    assert code == 130 and "10 fits" in err and "--resume" in err
    assert "Take " in text and (out / "report.html").exists()
    code, _, err = jaxmlip("tradeoff", labelled, "--output", out, *OPTIONS, "--no-curve", "--resume")
    assert code == 0, err
    assert len((out / "points.jsonl").read_text().splitlines()) == 1 + 24


def test_frames_without_labels_and_groups_are_told_of(labelled, tmp_path, jaxmlip):
    frames = ase.io.read(labelled, ":")
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "abc"[i % 3]
        if i < 4:
            del atoms.info["REF_energy"], atoms.arrays["REF_forces"]
    ase.io.write(labelled, [*frames, frames[10]])
    options = (*OPTIONS[:-6], "--folds", 5, "--ridges", 1, "--no-curve", "--group_by", "config_type")
    code, text, err = jaxmlip("tradeoff", labelled, "--output", tmp_path / "out", *options)
    assert code == 0, err
    assert "4 of 21 frames have no label" in text and "3 folds, not 5" in text and "1 frames repeat" in text
    assert "nan" not in (tmp_path / "out" / "tradeoff.json").read_text().lower()


@pytest.mark.slow
def test_networks_are_trained_for_every_fold(labelled, tmp_path, jaxmlip):
    out = tmp_path / "out"
    options = ("--model", "nep", "--steps", 3, "--widths", 2, 3, "--folds", 2, "--cutoff_angstrom", 4.5, "--no-curve")
    code, text, err = jaxmlip("tradeoff", labelled, "--output", out, *options)
    assert code == 0, err
    assert "2 channels" in text and "3 channels" in text
    assert len((out / "points.jsonl").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 1), "folds"),
        (("--channels", 0), "channels"),
        (("--ridges", 0), "ridges"),
        (("--sizes", 100), "at most"),
        (("--cutoff_angstrom", -1), "cutoff_angstrom"),
        (("--energy_key", "dft_energy", "--forces_key", "dft_forces"), "no label to validate"),
        (("--channels", 4000), "weights"),
        (("--chanels", 4), "chanels"),
    ],
)
def test_bad_options_are_refused(options, message, labelled, tmp_path, jaxmlip):
    code, _, err = jaxmlip("tradeoff", labelled, "--output", tmp_path / "out", "--cutoff_angstrom", 4.5, *options)
    assert code == 2 and message in err and "Traceback" not in err
