"""Training by command, then its model used by the others."""

import json

import ase.build
import ase.io
import numpy as np
import pytest

from jaxmlip.energy.committee import split_committee
from jaxmlip.models.pretrained import load

SMALL = ("--model.channels", "2", "--model.degree", "1", "--model.hidden", "4", "--model.radial", "2")


def test_a_trained_model_is_evaluated_relaxed_with_and_described(labelled, tmp_path, jaxmlip):
    out = tmp_path / "run"
    learn = ("--learn.epochs", "4", "--learn.evaluations", "2", "--learn.max-shapes", "1")
    options = ("--model.preset", "nep", "--model.cutoff-angstrom", "4.5", *SMALL, *learn, "--output", out)
    code, printed, err = jaxmlip("train", "--data.train", labelled, *options)
    assert code == 0, err
    assert "all" in printed and "model.jaxmlip" in printed
    errors = json.loads((out / "errors.json").read_text())["valid"]["all"]
    assert np.isfinite(errors["force_rmse_meV_per_A"])
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    record = json.loads((out / "run.json").read_text())
    assert len(record["dataset"]) == 64 and record["command"] == "train"

    code, _, err = jaxmlip("train", "--data.train", labelled, *options)
    assert code == 2 and "holds a run: continue it with `--resume`" in err
    code, _, err = jaxmlip("train", out / "config.toml", "--resume")
    assert code == 0, err

    code, printed, err = jaxmlip("evaluate", out / "model.jaxmlip", labelled, "--output", tmp_path / "errors")
    assert code == 0, err
    assert json.loads((tmp_path / "errors" / "errors.json").read_text())["all"]["force_rmse_meV_per_A"] > 0

    code, printed, err = jaxmlip("info", out / "model.jaxmlip")
    assert code == 0, err
    assert '"format": "jaxmlip-1"' in printed and "compiler probe     passed" in printed


def test_a_committee_is_trained_and_says_how_sure_it_is_in_dynamics(labelled, tmp_path, jaxmlip):
    out = tmp_path / "run"
    learn = ("--learn.epochs", "2", "--learn.evaluations", "1", "--learn.max-shapes", "1")
    options = ("--model.preset", "nep", "--model.cutoff-angstrom", "4.5", *SMALL, *learn, "--output", out)
    code, _, err = jaxmlip("train", "--data.train", labelled, *options, "--model.share")
    assert code == 2 and "`model.share` needs `model.members` of 2 or more" in err
    code, _, err = jaxmlip("train", "--data.train", labelled, *options, "--model.members", "3", "--model.share")
    assert code == 0, err
    committee, _ = split_committee(load(out / "model.jaxmlip"))
    assert committee.members == 3

    options = ("--model", out / "model.jaxmlip", "--structure", labelled, "--output", tmp_path / "md", "--every", "5")
    options += ("--dynamics.temperature-K", "30")
    code, _, err = jaxmlip("md", *options, "--dynamics.steps", "10")
    assert code == 0, err
    code, _, err = jaxmlip("md", *options, "--dynamics.steps", "20", "--resume")
    assert code == 0, err
    rows = np.genfromtxt(tmp_path / "md" / "log.csv", delimiter=",", names=True)
    assert rows["step"].tolist() == [5, 10, 15, 20]
    assert (rows["energy_std_eV"] > 0).all() and (rows["worst_force_std_eV_A"] > 0).all()


@pytest.mark.parametrize("charges", [pytest.param('"latent"', marks=pytest.mark.slow), "{ Ar = 0.0 }"])
def test_one_line_of_configuration_adds_charges(labelled, tmp_path, jaxmlip, charges):
    out = tmp_path / "run"
    (tmp_path / "train.toml").write_text(
        f'output = "{out}"\n[data]\ntrain = ["{labelled}"]\n'
        f'[model]\npreset = "nep"\ncutoff_angstrom = 4.5\nchannels = 2\ndegree = 1\nhidden = 4\nradial = 2\n'
        f"charges = {charges}\n[learn]\nsteps = 2\nevaluations = 1\nmax_shapes = 1\n"
    )
    code, _, err = jaxmlip("train", tmp_path / "train.toml")
    assert code == 0, err
    terms = [type(term).__name__ for term in load(out / "model.jaxmlip").terms]
    assert sorted(terms) == sorted(["ACE", "AtomicReferences", "LatentEwald" if "latent" in charges else "Ewald"])
    large = ase.io.read(labelled) * (3, 1, 1)
    ase.io.write(tmp_path / "large.extxyz", large)
    dynamics = ("--dynamics.steps", "2", "--dynamics.timestep-fs", "1.0", "--output", tmp_path / "md")
    code, _, err = jaxmlip("md", "--model", out / "model.jaxmlip", "--structure", tmp_path / "large.extxyz", *dynamics)
    assert code == 0, err


def test_charges_that_do_not_exist_are_refused(labelled, jaxmlip, tmp_path):
    code, _, err = jaxmlip(
        "train", "--data.train", labelled, "--model.charges", "mulliken", "--output", tmp_path / "no"
    )
    assert code == 2 and "predicted, latent, equilibrated, or one for each element" in err


def test_a_structure_relaxes_to_the_crystal(argon, jaxmlip):
    atoms = ase.io.read(argon / "argon.extxyz")
    atoms.rattle(0.1, seed=0)
    ase.io.write(argon / "rattled.extxyz", atoms)
    files = ("--model", argon / "argon.model", "--structure", argon / "rattled.extxyz", "--output", argon / "relaxed")
    code, printed, err = jaxmlip("relax", *files)
    assert code == 0, err
    relaxed = ase.io.read(argon / "relaxed" / "relaxed.extxyz")
    assert np.abs(relaxed.get_forces()).max() < 1e-3
    distances = relaxed.get_all_distances(mic=True)
    np.testing.assert_allclose(np.sort(distances, axis=1)[:, 1], 5.3 / 2**0.5, atol=0.02)
    code, _, err = jaxmlip("relax", *files, "--steps", "1")
    assert code == 1 and "not converged after 1 steps" in err
    code, _, err = jaxmlip("relax", *files, "--pressure-GPa", "1")
    assert code == 2 and "`pressure_GPa` needs `--cell`; got 1.0" in err
