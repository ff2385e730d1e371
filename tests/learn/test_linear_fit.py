"""Bayesian least squares: it finds what the labels were made from, and how noisy they are."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import linalg

from jaxmlip.data import Dataset
from jaxmlip.data.influence import influence
from jaxmlip.energy import AtomicReferences
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn import evaluate
from jaxmlip.learn.linear import KINDS, fit_linear
from jaxmlip.models.linear import LinearACE, LinearACEConfig

NOISE = {"energy": 0.002, "force": 0.05, "virial": 0.01}


@pytest.fixture(scope="module")
def blank():
    return LinearACE(LinearACEConfig((14,), cutoff=4.0, radial=3, degree=2, channels=4, roots=2), key=jax.random.key(0))


@pytest.fixture(scope="module")
def made(blank):
    """Forty frames labelled by known weights and references, with known noise."""
    rng = np.random.default_rng(1)
    weights = 0.05 * jax.random.normal(jax.random.key(2), blank.weights.shape)
    truth = eqx.tree_at(lambda m: m.weights, blank, weights) + AtomicReferences({14: -5.0})
    cell = 5.4 * np.eye(3)
    sites = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
    records = []
    for i in range(40):
        strained = cell @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        positions = sites @ strained + 0.2 * rng.normal(size=(8, 3))
        records.append(Record(positions, np.full(8, 14), strained, (True,) * 3, index=i,
                              energy=0.0, forces=np.zeros((8, 3)), stress=np.zeros((3, 3))))  # fmt: skip
    exact = evaluate(truth, Dataset(records), dtype=np.float64)
    labelled = []
    for i, record in enumerate(records):
        noise = rng.normal(size=(3, 3)) * NOISE["virial"] * 8 / exact.volume[i] / 8
        noise = np.triu(noise) + np.triu(noise, 1).T
        labelled.append(
            dataclasses.replace(
                record,
                energy=float(8 * (exact.energy[i] + NOISE["energy"] * rng.normal())),
                forces=exact.forces[exact.frame == i] + NOISE["force"] * rng.normal(size=(8, 3)),
                stress=exact.stress[i] + noise,
            )
        )
    return Dataset(labelled), Dataset(records), exact


def test_noise_and_energy_are_recovered(blank, made):
    labelled, clean, exact = made
    fit = fit_linear(blank, labelled, balance=0.0)
    for kind in ("energy", "force"):
        assert fit.noise[kind] == pytest.approx(NOISE[kind], rel=0.3 if kind == "energy" else 0.1)
    report = evaluate(fit.energy, clean, dtype=np.float64)
    assert np.sqrt(np.mean((report.forces - exact.forces) ** 2)) < 0.5 * NOISE["force"]
    assert np.sqrt(np.mean((report.energy - exact.energy) ** 2)) < 1.5 * NOISE["energy"]


def test_left_out_frames_are_those_of_a_refit(blank, made):
    """Noise and prior held: by the blocks of the design, and by the block formula."""
    labelled = made[0][:15]
    fit = fit_linear(blank, labelled)
    blocks = list(fit.design(labelled))
    precision = fit.factor @ fit.factor.T
    cross = sum(b.rows.T @ (b.weight * b.targets) for b in blocks)
    np.testing.assert_allclose(np.linalg.solve(precision, cross), fit.mean, rtol=1e-6, atol=1e-8)
    factor = linalg.cholesky(precision, lower=True)
    mean = linalg.cho_solve((factor, True), cross)
    for block in blocks:
        found = influence(
            block.frame, block.rows, block.targets, block.targets - block.rows @ mean, block.weight, block.kind, factor
        )
        smaller = precision - block.rows.T @ (block.weight[:, None] * block.rows)
        refit = np.linalg.solve(smaller, cross - block.rows.T @ (block.weight * block.targets))
        expected = block.targets - block.rows @ refit
        np.testing.assert_allclose(found.left_out, expected, atol=1e-8 * np.abs(expected).max())


def test_partly_labelled_frames_count_with_what_they_have(blank, made):
    labelled = made[0]
    half = Dataset([dataclasses.replace(r, energy=None, stress=None) if i % 2 else r for i, r in enumerate(labelled)])
    fit = fit_linear(blank, half)
    assert all(np.isfinite(fit.noise[k]) for k in KINDS) and np.all(np.isfinite(fit.mean))
    assert evaluate(fit.energy, labelled, dtype=np.float64).force_rmse < 2 * NOISE["force"]


def test_identical_frames_and_single_frames_give_finite_fits(blank, made):
    for data in (made[0][:1] + made[0][:1] + made[0][:1], made[0][:1]):
        fit = fit_linear(blank, data)
        assert np.all(np.isfinite(fit.mean)) and all(np.isfinite(x) and x > 0 for x in fit.noise.values())


def test_what_cannot_be_fitted_is_refused(blank, made):
    bare = Dataset([dataclasses.replace(r, energy=None, forces=None, stress=None) for r in made[0][:2]])
    with pytest.raises(UserError, match="no label|No frame"):
        fit_linear(blank, bare, references="none")
    with pytest.raises(UserError, match="balance"):
        fit_linear(blank, made[0][:2], balance=2.0)
    wrong = dataclasses.replace(made[0][0], forces=np.full((8, 3), np.nan))
    with pytest.raises(UserError, match="not finite"):
        fit_linear(blank, Dataset([wrong]))
