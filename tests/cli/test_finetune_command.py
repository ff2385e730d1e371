"""`jaxmlip finetune`: a model file and a table of what was observed, to a better model file and a report."""

import json

import numpy as np
import pytest

from jaxmlip.cli.main import main
from jaxmlip.cli.targets import read_targets
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.models.pretrained import load, save
from jaxmlip.observables.static import LatticeConstant

SIGMA, EPSILON = 3.4, 0.0104  # Å, eV

STRUCTURE = """4
Lattice="5.2 0 0 0 5.2 0 0 0 5.2" Properties=species:S:1:pos:R:3 pbc="T T T"
Ar 0 0 0
Ar 0 2.6 2.6
Ar 2.6 0 2.6
Ar 2.6 2.6 0
"""

CONFIG = """model = "{folder}/argon.jaxmlip"
output = "{folder}/out"

[fit]
updates = 6

[structures.fcc]
file = "{folder}/fcc.extxyz"

[targets.a]
observable = "lattice_constant"
at = "fcc"
atoms = 4
value = {edge}
uncertainty = 0.001
unit = "Å"
source = "made up"

[targets.cohesion]
observable = "cohesive_energy"
at = "fcc"
value = {cohesion}
uncertainty = 1.0
unit = "meV"

[targets.C44]
observable = "C44"
at = "fcc"
value = 2.0
uncertainty = 0.1
unit = "GPa"
holdout = true
"""


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "argon.jaxmlip", LennardJones(EPSILON, SIGMA, cutoff=8.0))
    (tmp_path / "fcc.extxyz").write_text(STRUCTURE)
    return tmp_path


def write(folder, *, held_out=True, **changes):
    text = CONFIG.format(folder=folder, edge=5.4, cohesion=80.0)
    text = text if held_out else text[: text.index("[targets.C44]")]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "fit.toml").write_text(text)
    return [str(folder / "fit.toml")]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.slow
def test_a_model_goes_to_what_was_observed(folder, capsys, held_out):
    assert main(["finetune", *write(folder, held_out=held_out)]) == 0
    shown = capsys.readouterr().out
    assert ("C44 (held out)" in shown) == held_out and "report.html" in shown
    record = json.loads((folder / "out" / "finetune.json").read_text())
    assert abs(record["after"]["a"]["value"][0] - 5.4) < 1e-3
    assert abs(record["after"]["cohesion"]["value"][0] - 80.0) < 0.5
    energy = load(str(folder / "out" / "model.jaxmlip"))
    assert float(energy.sigma) > SIGMA * 1.02
    assert "made up" in (folder / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_fit_goes_on_to_the_bit(folder, capsys):
    straight = ["--output", str(folder / "straight")]
    assert main(["finetune", *write(folder, held_out=False), *straight, "--fit.updates", "3"]) == 0
    assert main(["finetune", *write(folder, held_out=False), "--fit.updates", "1"]) == 0
    assert main(["finetune", *write(folder, held_out=False), "--fit.updates", "3"]) == 2
    assert "continue it with `--resume`" in capsys.readouterr().err
    assert main(["finetune", *write(folder, held_out=False), "--fit.updates", "3", "--resume"]) == 0
    one, other = (json.loads((folder / name / "finetune.json").read_text()) for name in ("straight", "out"))
    for record in (*one["history"], *other["history"]):
        del record["seconds"]
    assert one == other
    assert main(["finetune", *write(folder, held_out=False), "--fit.seed", "1", "--resume"]) == 2
    assert "is of another fit" in capsys.readouterr().err


def test_only_the_chosen_parameters_change(folder):
    assert main(["finetune", *write(folder, held_out=False), "--train", "sigma", "--fit.updates", "2"]) == 0
    energy = load(str(folder / "out" / "model.jaxmlip"))
    assert np.isclose(energy.epsilon, EPSILON, rtol=1e-12) and not np.isclose(energy.sigma, SIGMA, rtol=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('observable = "C44"', 'observable = "C45"', "unknown 'C45'; did you mean `C4"),
        ('at = "fcc"', 'at = "fc"', "there is no structure or state 'fc'; did you mean `fcc`"),
        ("uncertainty = 0.001\n", "", "Target a has no uncertainty"),
        ('unit = "GPa"', 'unit = "Å"', "the observable is of pressure"),
        ("atoms = 4\n", "", "`targets.a.atoms` is missing: lattice_constant needs it"),
        ("atoms = 4\n", "atom = 4\n", "unknown key `targets.a.atom`; did you mean `targets.a.atoms`"),
        ("value = 5.4\n", "", "`targets.a.value` is missing"),
        ("[structures.fcc]\n", "[structures.fcc]\ncells = true\n", "unknown key `structures.fcc.cells`"),
        ("updates = 6", "updates = 0", "`updates` must be at least 1; got 0"),
        ('observable = "C44"', 'observable = "pressure"', "a Pressure belongs to a `StatePoint`"),
    ],
)
def test_what_makes_no_sense_is_explained(folder, capsys, old, new, message):
    assert main(["finetune", *write(folder, **{old: new})]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_part_that_no_path_has_is_named(folder, capsys):
    assert main(["finetune", *write(folder), "--train", "sigmas"]) == 2
    assert "No parameter belongs to 'sigmas'; there are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--by", "low-rank"], "has no matrix that is larger than the rank 4 both ways"),
        (["--by", "correction"], "give the `elements` that the correction is for"),
        (["--by", "correction", "--train", "sigma"], 'with `by = "correction"` leave it out'),
        (["--train", "last layer"], "No parameter belongs to 'last layer'"),
    ],
)
def test_what_this_model_cannot_change_is_explained(folder, capsys, asked, message):
    assert main(["finetune", *write(folder), *asked]) == 2
    assert message in capsys.readouterr().err


def test_what_differs_between_states_is_read(folder):
    file = {"file": str(folder / "fcc.extxyz"), "repeat": [2, 2, 2]}
    states = {
        "cold": file | {"temperature_K": 30.0},
        "free": file | {"temperature_K": 30.0, "pressure_GPa": 0.0},
        "warm": file | {"temperature_K": 60.0, "pressure_GPa": 0.0},
    }
    write(folder)
    gpa = {"value": 1.0, "uncertainty": 0.1, "unit": "GPa", "at": "cold"}
    alpha = {"observable": "mean_thermal_expansion", "value": 1e-4, "uncertainty": 1e-5, "unit": "1/K", "at": "free"}
    tables = {
        "C11": gpa | {"observable": "C11"},
        "C44": gpa | {"observable": "C44"},
        "alpha": alpha | {"warmer": "warm"},
        "edge": {"observable": "lattice_constant", "atoms": 4, "at": "free", "value": 5.3, "uncertainty": 0.01}
        | {"unit": "Å"},
    }
    energy = LennardJones(EPSILON, SIGMA, cutoff=8.0)
    found = {t.name: t for t in read_targets(energy, {}, states, tables)}
    assert len(found["C11"].places) == 2 and found["C11"].places[0] is found["C44"].places[0]
    assert [p.temperature for p in found["alpha"].places] == [30.0, 60.0]
    assert isinstance(found["edge"].observable, LatticeConstant)
    for wrong, message in (("cold", "both with a `pressure`"), ("hot", "there is no state 'hot'")):
        with pytest.raises(UserError, match=message):
            read_targets(energy, {}, states, {"alpha": alpha | {"warmer": wrong}})
    with pytest.raises(UserError, match="constant volume"):
        read_targets(energy, {}, states, {"C11": tables["C11"] | {"at": "free"}})


def test_without_targets_there_is_nothing_to_fit(folder, capsys):
    (folder / "fit.toml").write_text(f'model = "{folder}/argon.jaxmlip"\n')
    assert main(["finetune", str(folder / "fit.toml")]) == 2
    assert "nothing to fit" in capsys.readouterr().err
