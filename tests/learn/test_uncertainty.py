"""The posterior is the exact one, covers what it says, and is put right where the noise was wrong."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import AtomicReferences
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn import evaluate, find_suspects, fit_linear
from jaxmlip.learn.linearised import linearise
from jaxmlip.learn.uncertainty import calibrate, predict_with_uncertainty
from jaxmlip.models.linear import LinearACE, LinearACEConfig

NOISE = {"energy": 0.004, "force": 0.05, "virial": 0.02}  # eV/atom, eV/Å, eV/atom


@pytest.fixture(scope="module")
def made():
    """A model, and frames that known weights of it label with known noise: 40 to learn from, 40 to look at."""
    model = LinearACE(
        LinearACEConfig((14,), cutoff=4.0, radial=3, degree=1, channels=2, roots=2), key=jax.random.key(0)
    )
    weights = 0.05 * jax.random.normal(jax.random.key(2), model.weights.shape)
    truth = eqx.tree_at(lambda m: m.weights, model, weights) + AtomicReferences({14: -5.0})
    rng = np.random.default_rng(1)
    sites = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
    bare = []
    for i in range(80):
        cell = 5.4 * (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        bare.append(Record(sites @ cell + 0.2 * rng.normal(size=(8, 3)), np.full(8, 14), cell, (True,) * 3, index=i,
                           energy=0.0, forces=np.zeros((8, 3)), stress=np.zeros((3, 3))))  # fmt: skip
    exact, labelled = evaluate(truth, Dataset(bare), dtype=np.float64), []
    for i, record in enumerate(bare):
        noise = np.triu(rng.normal(size=(3, 3))) * NOISE["virial"] / exact.volume[i]
        labelled.append(
            dataclasses.replace(
                record,
                energy=float(8 * (exact.energy[i] + NOISE["energy"] * rng.normal())),
                forces=exact.forces[exact.frame == i] + NOISE["force"] * rng.normal(size=(8, 3)),
                stress=exact.stress[i] + noise + np.triu(noise, 1).T,
            )
        )
    return model, Dataset(labelled[:40]), Dataset(labelled[40:])


@pytest.fixture(scope="module")
def fit(made):
    return fit_linear(made[0], made[1], balance=0.0)


def test_predictions_are_those_of_the_energy(made, fit):
    _, _, others = made
    report, found = evaluate(fit.energy, others, dtype=np.float64), predict_with_uncertainty(fit, others)
    for i, one in enumerate(found):
        assert one.energy_per_atom == pytest.approx(report.energy[i], abs=1e-9)
        np.testing.assert_allclose(one.forces, report.forces[report.frame == i], atol=1e-8)
        s = report.stress[i]
        np.testing.assert_allclose(one.stress, [s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]], atol=1e-9)


def test_the_variance_is_that_of_the_posterior(made, fit):
    """Against predictions with weights drawn from the posterior."""
    _, _, others = made
    one = predict_with_uncertainty(fit, others[:1])[0]
    block = next(fit.design(others[:1]))
    rng = np.random.default_rng(0)
    draws = np.linalg.solve(fit.factor.T, rng.normal(size=(len(fit.mean), 20_000)))
    values = block.rows @ draws
    sigma = np.array([fit.noise[k] for k in ("energy", "force", "virial")])
    energy = values[block.kind == 0][0] * sigma[0]
    forces = values[block.kind == 1].reshape(8, 3, -1) * sigma[1]
    assert one.energy_epistemic == pytest.approx(energy.var(), rel=0.05)
    expected = np.einsum("iak,ibk->iab", forces, forces) / forces.shape[-1]
    np.testing.assert_allclose(one.forces_epistemic, expected, atol=0.05 * np.abs(expected).max())


def test_it_covers_what_it_says(made, fit):
    _, _, others = made
    found = predict_with_uncertainty(fit, others)
    forces = np.array([(r.forces - f.forces) / f.forces_std for r, f in zip(others, found, strict=True)])
    energy = np.array([(r.energy / 8 - f.energy_per_atom) / f.energy_std for r, f in zip(others, found, strict=True)])
    # 960 components: the standard error of a share near 0.68 is 0.015, of the variance 0.05.
    assert np.mean(np.abs(forces) < 1.0) == pytest.approx(0.683, abs=0.05)
    assert np.mean(forces**2) == pytest.approx(1.0, abs=0.2)
    assert 0.5 < np.mean(energy**2) < 1.8


def test_more_data_leave_less_to_know(made, fit):
    model, train, others = made
    few = fit_linear(model, train[:10], balance=0.0)
    less = [x.forces_epistemic.trace(axis1=1, axis2=2).mean() for x in predict_with_uncertainty(fit, others)]
    more = [x.forces_epistemic.trace(axis1=1, axis2=2).mean() for x in predict_with_uncertainty(few, others)]
    assert np.mean(less) < 0.5 * np.mean(more)


def test_calibration_undoes_a_wrong_noise(made, fit):
    _, train, others = made
    wrong = dataclasses.replace(fit, noise={k: 0.5 * v for k, v in fit.noise.items()}, factor=2.0 * fit.factor)
    for one, expected in ((fit, 1.0), (wrong, 2.0)):
        suspects = find_suspects(train, lambda data, _, one=one: one, rounds=1)
        calibration = calibrate(suspects.found)
        assert calibration.factor["force"] == pytest.approx(expected, rel=0.12)
        found = predict_with_uncertainty(one, others, calibration)
        wide = calibration.quantile("force", 0.9)
        inside = [np.abs(r.forces - f.forces) < wide * f.forces_std for r, f in zip(others, found, strict=True)]
        assert np.mean(inside) == pytest.approx(0.9, abs=0.03)
    with pytest.raises(UserError, match="0.99 needs 99 labels of energy at least; there are 40"):
        calibration.quantile("energy", 0.99)
    with pytest.raises(UserError, match="too few"):
        calibrate(suspects.found[:3])


@pytest.mark.slow
def test_unlabelled_molecules_and_networks_are_served_too(made, fit):
    record = dataclasses.replace(made[2][0], energy=None, forces=None, stress=None, pbc=(False,) * 3)
    one = predict_with_uncertainty(fit, Dataset([record]))[0]
    assert np.isfinite(one.energy_std) and np.all(np.isfinite(one.forces_std)) and np.all(np.isnan(one.stress))
    last = linearise(fit.energy, made[1], balance=0.0, dtype=np.float64)
    again, direct = predict_with_uncertainty(last, made[2][:3]), predict_with_uncertainty(fit, made[2][:3])
    for a, b in zip(again, direct, strict=True):  # one prior for all weights, not one for each group of functions
        assert a.energy_std == pytest.approx(b.energy_std, rel=0.05)
        sizes = [np.sqrt(x.forces_epistemic.trace(axis1=1, axis2=2).mean()) for x in (a, b)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.25)
