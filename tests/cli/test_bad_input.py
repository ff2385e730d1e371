"""What users may get wrong: one clear message, exit code 2, and nothing lost."""

import numpy as np
import pytest

from jaxmlip.cli import md
from jaxmlip.cli.main import main

HEAD = 'Lattice="{cell}" Properties=species:S:1:pos:R:3{more} pbc="{pbc}"{info}'
CELL = "6 0 0 0 6 0 0 0 6"


def frame(*rows, cell=CELL, pbc="T T T", more="", info=""):
    head = HEAD.format(cell=cell, pbc=pbc, more=more, info=info)
    return "\n".join([str(len(rows)), head, *rows]) + "\n"


GOOD = ("Ar 0 0 0", "Ar 3 3 3")
STRUCTURES = {
    "empty": ("", "bad.extxyz is empty"),
    "truncated": (frame(*GOOD)[:-8], "frame 0"),
    "fewer atoms than declared": (frame(*GOOD).replace("2\n", "3\n", 1), "frame 0 is cut short"),
    "a position that is not a number": (frame("Ar 0 0 0", "Ar nan 3 3"), "frame 0: `positions` must be finite"),
    "an element the model does not know": (frame("Ar 0 0 0", "Cu 3 3 3"), "frame 0: The energy does not know Cu"),
    "a cell without volume": (frame(*GOOD, cell="6 0 0 12 0 0 0 0 6"), "frame 0: The periodic lattice vectors"),
    "no lattice vector where periodic": (frame(*GOOD, cell="6 0 0 0 6 0 0 0 0"), "frame 0: Axis 2 is periodic"),
    "coincident atoms": (frame("Ar 0 0 0", "Ar 6 6 0"), "frame 0"),
    "not a structure": ("\x7fELF\x00\x01", "bad.extxyz"),
}


@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: c.replace(" ", "-"))
def test_structures_that_cannot_be_trusted_are_refused(case, argon, jaxmlip):
    text, message = STRUCTURES[case]
    (argon / "bad.extxyz").write_text(text)
    for command in ("md", "relax"):
        code, _, err = jaxmlip(
            command, "--model", argon / "argon.model", "--structure", argon / "bad.extxyz", "--output", argon / "out"
        )
        assert code == 2, err
        assert message in err and "bad.extxyz" in err
        assert "Traceback" not in err
        assert not (argon / "out" / "trajectory.extxyz").exists()


LABELS = ' REF_energy={energy} REF_stress="0 0 0 0 0 0 0 0 0"'
TRAINING = {
    "no energy": (frame(*GOOD) * 20, "No frame has an energy"),
    "no forces": (frame(*GOOD, info=LABELS.format(energy=-2.0)) * 20, "asks for forces"),
    "an energy that is not a number": (frame(*GOOD, info=LABELS.format(energy="nan")), "frame 0: REF_energy is not"),
    "an energy that is text": (frame(*GOOD, info=LABELS.format(energy="low")), "frame 0: REF_energy must be numbers"),
    "forces that are not finite": (
        frame("Ar 0 0 0 0 0 0", "Ar 3 3 3 0 inf 0", more=":REF_forces:R:3", info=LABELS.format(energy=-2.0)),
        "frame 0: REF_forces is not finite",
    ),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("case", TRAINING, ids=lambda c: c.replace(" ", "-"))
def test_labels_that_cannot_be_trusted_are_refused(case, tmp_path, jaxmlip):
    text, message = TRAINING[case]
    (tmp_path / "bad.extxyz").write_text(text)
    code, _, err = jaxmlip("train", "--data.train", tmp_path / "bad.extxyz", "--output", tmp_path / "out")
    assert code == 2, err
    assert message in err and "bad.extxyz" in err
    assert "Traceback" not in err


OPTIONS = {
    ("--dynamics.timestep-fs", "-1"): "`dynamics.timestep_fs` must be a finite number above 0",
    ("--dynamics.timestep-fs", "nan"): "`dynamics.timestep_fs` must be a finite number",
    ("--dynamics.temperature-K", "1e9"): "`dynamics.temperature_K` must be a finite number at least 0 and at most",
    ("--dynamics.temperature-K", "-3"): "`dynamics.temperature_K` must be",
    ("--dynamics.temperature-end-K", "500"): "`dynamics.ramp_ps` must be given for a ramp",
    ("--dynamics.ramp-ps", "5"): "`dynamics.ramp_ps` needs `dynamics.temperature_end_K` or",
    ("--dynamics.pressure-end-GPa", "5"): "`dynamics.pressure_end_GPa` needs a barostat",
    ("--dynamics.steps", "0"): "`dynamics.steps` must be at least 1",
    ("--every", "0"): "`every` must be at least 1",
    ("--repeat", "0", "1", "1"): "`repeat` must be at least 1",
    ("--frame", "7"): "has 1 frames; there is no frame 7",
    ("--dynamics.timestep", "1"): "Unrecognized options: --dynamics.timestep",
}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o))
def test_settings_that_make_no_sense_are_refused(options, argon, jaxmlip):
    files = ("--model", argon / "argon.model", "--structure", argon / "argon.extxyz", "--output", argon / "out")
    code, _, err = jaxmlip("md", *files, *options)
    assert code == 2, err
    assert OPTIONS[options] in " ".join(err.split())
    assert "Traceback" not in err


def test_an_unknown_key_of_a_file_is_refused_with_the_nearest_known_one(argon, jaxmlip):
    (argon / "run.toml").write_text('model = "argon.model"\n[dynamics]\ntemperature = 300\n')
    code, _, err = jaxmlip("md", argon / "run.toml")
    assert code == 2, err
    assert "run.toml: unknown key `dynamics.temperature`; did you mean `dynamics.temperature_K`?" in err


@pytest.mark.parametrize("cutoff", ["0", "-4", "nan"])
def test_a_cutoff_that_is_not_positive_is_refused(cutoff, argon, jaxmlip):
    code, _, err = jaxmlip("train", "--data.train", argon / "argon.extxyz", "--model.cutoff-angstrom", cutoff)
    assert code == 2, err
    assert "`model.cutoff_angstrom` must be a finite number above 0" in err


def _flip(content):
    middle = len(content) - 20
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "a flipped bit": (_flip, "is damaged"),
    "a lost end": (lambda content: content[:-5], "is damaged"),
    "no content": (lambda content: b"", "not a model file"),
    "other content": (lambda content: b"\x80\x04cposix\nsystem\n", "not a model file"),
    "another format": (lambda content: content.replace(b"jaxmlip-1", b"jaxmlip-9"), "has format 'jaxmlip-9'"),
}


@pytest.mark.parametrize("case", DAMAGE, ids=lambda c: c.replace(" ", "-"))
def test_model_files_that_are_damaged_are_refused(case, argon, jaxmlip):
    change, message = DAMAGE[case]
    path = argon / "argon.model"
    path.write_bytes(change(path.read_bytes()))
    code, _, err = jaxmlip("evaluate", path, argon / "argon.extxyz")
    assert code == 2, err
    assert message in err and "argon.model" in err
    assert "Traceback" not in err


def test_a_model_that_does_not_exist_is_named(argon, jaxmlip):
    code, _, err = jaxmlip("evaluate", argon / "gone.model", argon / "argon.extxyz")
    assert code == 2, err
    assert "No model file" in err and "gone.model" in err


def test_an_unknown_command_is_refused_with_the_nearest_known_one(jaxmlip):
    code, _, err = jaxmlip("rlax")
    assert (code, err) == (2, "jaxmlip rlax: unknown command `rlax`; did you mean `relax`?\n")


def test_a_folder_that_cannot_be_made_is_named(argon, jaxmlip):
    (argon / "file").write_text("")
    files = ("--model", argon / "argon.model", "--structure", argon / "argon.extxyz")
    code, _, err = jaxmlip("md", *files, "--output", argon / "file" / "out")
    assert code == 2, err
    assert str(argon / "file") in err and "Traceback" not in err


def test_a_bug_is_reported_as_one_with_code_1(monkeypatch, jaxmlip, argon):
    monkeypatch.setattr(md, "read_model", lambda name: 1 / 0)
    code, _, err = jaxmlip("md", "--model", "x", "--structure", argon / "argon.extxyz", "--output", argon / "out")
    assert code == 1
    assert "ZeroDivisionError" in err and "Traceback" in err


def test_help_costs_nothing_and_lists_units(jaxmlip):
    assert main(["--help"]) == 0
    code, out, _ = jaxmlip("md", "--help")
    assert code == 0
    assert "--dynamics.timestep-fs" in out
    assert np.all([name in out for name in ("--seed", "--resume", "--dynamics.temperature-K")])
