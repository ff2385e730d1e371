"""Energies by name: one line of a configuration adds a prior to training and terms to dynamics."""

import tomllib

import ase.build
import ase.io
import numpy as np
import pytest

from jaxmlip.cli.config import from_dict, to_toml
from jaxmlip.cli.terms import make_term, with_terms
from jaxmlip.cli.train import Model
from jaxmlip.energy import ZBL, AtomicReferences, Repulsion
from jaxmlip.errors import UserError
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.models.pretrained import load, save

SMALL = ("--model.preset", "nep", "--model.channels", "2", "--model.degree", "1", "--model.hidden", "4",
         "--model.radial", "2", "--model.cutoff-angstrom", "4.5")  # fmt: skip
LEARN = ("--learn.epochs", "1", "--learn.evaluations", "1", "--learn.max-shapes", "1")


def test_one_line_gives_a_model_file_that_holds_the_sum(labelled, tmp_path, jaxmlip):
    (tmp_path / "train.toml").write_text(
        f'[data]\ntrain = ["{labelled}"]\n[model]\nprior = "zbl"\n'
        'terms = [{ kind = "repulsion", prefactor = 1e5, cutoff_angstrom = 4.0 }]\n'
    )
    out = tmp_path / "run"
    code, _, err = jaxmlip("train", tmp_path / "train.toml", *SMALL, *LEARN, "--output", out)
    assert code == 0, err
    terms = load(out / "model.jaxmlip").terms
    assert [type(t).__name__ for t in terms] == ["ACE", "ZBL", "Repulsion", "AtomicReferences"]
    assert terms[1].elements == (18,) and float(terms[2].prefactor) == 1e5  # a second term stayed as it was too
    assert '"zbl"' in (out / "config.toml").read_text()
    code, _, err = jaxmlip("train", out / "config.toml", "--resume", "--model.prior", "repulsion")
    assert code == 2 and "`model.prior.prefactor` is missing: repulsion needs it." in err
    code, _, err = jaxmlip(
        "train", out / "config.toml", "--resume", "--model.prior", '{ kind = "zbl", cutoff_angstrom = 1.5 }'
    )
    assert code == 2 and "holds a run with `prior`" in err
    code, printed, err = jaxmlip("info", out / "model.jaxmlip")
    assert code == 0 and '"ZBL"' in printed


def test_dynamics_adds_terms_and_counts_none_twice(argon, jaxmlip):
    files = ("--model", argon / "argon.model", "--structure", argon / "argon.extxyz", "--every", "5")
    wall = '{ kind = "repulsion", prefactor = 1e5, cutoff_angstrom = 4.5 }'
    code, _, err = jaxmlip("md", *files, "--output", argon / "plain", "--dynamics.steps", "5")
    assert code == 0, err
    walled = ("--output", argon / "wall", "--terms", wall)
    code, _, err = jaxmlip("md", *files, *walled, "--dynamics.steps", "5")
    assert code == 0, err
    energies = [
        np.genfromtxt(argon / f / "log.csv", delimiter=",", names=True)["potential_eV"] for f in ("plain", "wall")
    ]
    frames = [ase.io.read(argon / f / "trajectory.extxyz") for f in ("plain", "wall")]
    for atoms, logged, extra in zip(frames, energies, (0.0, 1.0), strict=True):
        atoms.calc = Calculator(load(argon / "argon.model") + extra * Repulsion(1e5, 12.0, 4.5))
        assert np.isclose(atoms.get_potential_energy(), logged, atol=1e-5)
    assert abs(energies[0] - energies[1]) > 0.1
    code, _, err = jaxmlip("md", *files, "--output", argon / "wall", "--resume", "--dynamics.steps", "9")
    assert code == 2 and "cannot resume: terms is None now" in err
    save(argon / "prior.model", load(argon / "argon.model") + ZBL(elements=(18,)))
    files = ("--model", argon / "prior.model", "--structure", argon / "argon.extxyz")
    code, _, err = jaxmlip("relax", *files, "--terms", "zbl")
    assert code == 2 and "asks for a ZBL, but the model holds one already" in err


REFUSED = {
    "zlb": "unknown `model.prior` 'zlb'; did you mean `zbl`?",
    "coulomb": "unknown `model.prior` 'coulomb'; known are",
    "{ kind = ": "`model.prior` is not a TOML table",
    "{ cutoff_angstrom = 1.0 }": "`model.prior.kind` is missing",
    '{ kind = "zbl", cutof = 1.0 }': "unknown key `model.prior.cutof`; did you mean `model.prior.cutoff_angstrom`?",
    '{ kind = "zbl", cutoff_angstrom = -1.0 }': "`model.prior`: `cutoff` must be positive",
    '{ kind = "zbl", onset = "late" }': "`model.prior.onset` must be a number; got 'late'",
    '{ kind = "repulsion" }': "`model.prior.prefactor` is missing",
    '{ kind = "repulsion", prefactor = { "Si-Q" = 1.0 } }': "names 'Q', which is no element",
    '{ kind = "repulsion", prefactor = { "Ar-Ar" = 1.0 } }': "`prefactor` has no pairs with Si",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_priors_that_make_no_sense_are_refused(spec):
    with pytest.raises(UserError) as error:
        make_term(spec, (14,), "model.prior")
    assert REFUSED[spec] in str(error.value)


def test_a_table_and_its_text_are_the_same_and_are_written_back():
    table = {"kind": "repulsion", "prefactor": {"Si-O": 5.0, "Si-Si": 1.0, "O-O": 2.0}, "exponent": 9.0}
    text = '{ kind = "repulsion", prefactor = { Si-O = 5.0, Si-Si = 1.0, O-O = 2.0 }, exponent = 9.0 }'
    made = make_term(table, (8, 14), "prior")
    assert isinstance(made, Repulsion) and made.exponent == 9.0 and made.elements == (8, 14)
    again = make_term(text, (8, 14), "prior")
    np.testing.assert_array_equal(made.prefactor, again.prefactor)
    model = Model(prior=table, terms=("zbl", {**table, "train": True}))
    assert from_dict(Model, tomllib.loads(to_toml(model))) == model


def test_terms_are_added_for_the_elements_of_the_model():
    total = with_terms(AtomicReferences({14: -1.0, 1: -2.0}), ("zbl",))
    assert total.terms[1].elements == (1, 14) and total.cutoff == pytest.approx(2.22)
    assert with_terms(total, ()) is total
