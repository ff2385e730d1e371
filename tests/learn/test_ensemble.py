"""Committees learn as their members would alone, and predict the mean and the covariance of these."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import ZBL, AtomicReferences, Committee
from jaxmlip.energy.committee import split_committee
from jaxmlip.errors import UserError
from jaxmlip.learn import Loss, TrainSettings, Weights, evaluate, fit, fit_linear
from jaxmlip.learn.calibration import checked
from jaxmlip.learn.ensemble import predict_with_committee, sample_committee
from jaxmlip.learn.linearised import last_layer, linearise
from jaxmlip.learn.uncertainty import calibrate_with, predict_with_uncertainty, residuals_of
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig

SMALL = {"cutoff": 3.1, "degree": 1, "radial": 2, "products": False, "mean_neighbors": 12.0, "energy_scale": 0.3}


@pytest.fixture(scope="module")
def members():
    config = ACEConfig((18,), channels=8, hidden=8, **SMALL)
    return [ACE(config, key=jax.random.key(i)) for i in range(3)]


def test_members_learn_as_they_would_alone(dataset, members):
    """Muon's and Adam's steps do not depend on the scale of a loss, here a third for each member."""
    settings = TrainSettings(steps=8, warmup_steps=2, evaluations=1, max_shapes=1, clip=1e6, dtype="float64")
    committee, _ = split_committee(fit(Committee.of(members), dataset, settings=settings, quiet=True).energy)
    for i, member in enumerate(members):
        alone = fit(member, dataset, settings=settings, quiet=True).energy.terms[0]
        start, one, other = (jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(eqx.filter(m, eqx.is_array))])
                             for m in (member, alone, committee.member(i)))  # fmt: skip
        assert float(jnp.linalg.norm(one - start)) > 0.05
        assert float(jnp.linalg.norm(one - other)) < 1e-4 * float(jnp.linalg.norm(one - start))


@pytest.mark.slow
def test_members_that_share_learn_a_spread_as_large_as_their_error(dataset, members):
    """At the optimum of the spread its square is that of the error of the mean: there the gradient vanishes."""
    loader = Loader(dataset, 3.1, batch_size=4, references={18: -1000.0}, dtype=np.float64)
    loss, batch, weights = Loss(scale=1.0), loader.pack([0, 1, 2, 3]), Weights(1.0, 1.0, 0.0)
    value = loss(Committee.of(members, last_layer), batch, weights)
    assert np.isfinite(float(value))
    residuals = jnp.asarray([[1.0 - np.sqrt(0.5), -0.9], [1.0, -1.0], [1.0 + np.sqrt(0.5), -1.1]])

    def widened(factor):
        mean = jnp.mean(residuals, axis=0, keepdims=True)
        return loss._spread_loss(mean + factor * (residuals - mean))

    slope = jax.jacfwd(widened)(jnp.asarray(1.0))  # of labels whose spread is half their error, and a tenth of it
    assert (slope < -1e-3).all()
    right = jax.jacfwd(widened)(jnp.sqrt(jnp.asarray(2.0 - 2e-4)))
    assert abs(float(right[0])) < 1e-9
    shifted = jax.grad(lambda d: jnp.sum(loss._spread_loss(residuals + d)))(jnp.asarray(0.0))
    assert float(shifted) == pytest.approx(2.0 * float(jnp.sum(jnp.mean(residuals, axis=0))), rel=1e-9)


def test_predictions_are_mean_and_covariance_of_the_members(dataset, members):
    energy = Committee.of(members) + ZBL() + AtomicReferences({18: -1000.0})
    data, rest = dataset[:5], energy.terms[1] + energy.terms[2]
    found = predict_with_committee(energy, data, dtype=np.float64, noise={"force": 0.02})
    each = [evaluate(member + rest, data, dtype=np.float64) for member in members]
    for i, one in enumerate(found):
        energies = np.array([r.energy[i] for r in each])
        assert one.energy_per_atom == pytest.approx(energies.mean(), abs=1e-9)
        assert one.energy_epistemic == pytest.approx(energies.var(ddof=1), rel=1e-6)
        forces = np.stack([r.forces[r.frame == i] for r in each])
        np.testing.assert_allclose(one.forces, forces.mean(axis=0), atol=1e-10)
        expected = np.stack([np.cov(forces[:, a].T) for a in range(4)])
        np.testing.assert_allclose(one.forces_epistemic, expected, atol=1e-10 * np.abs(expected).max())
        np.testing.assert_allclose(one.forces_std**2, np.diagonal(expected, axis1=1, axis2=2) + 0.02**2, rtol=1e-9)
        voigt = np.stack([r.stress[i][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] for r in each])
        np.testing.assert_allclose(one.stress, voigt.mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(one.stress_epistemic, np.cov(voigt.T), atol=1e-9 * np.abs(np.cov(voigt.T)).max())


def test_calibration_with_frames_set_aside(dataset, members):
    energy = Committee.of(members) + AtomicReferences({18: -1000.0})
    found = predict_with_committee(energy, dataset, dtype=np.float64)
    calibration = calibrate_with(found, dataset)
    again = residuals_of(predict_with_committee(energy, dataset, calibration, dtype=np.float64), dataset)
    for residuals, deviations in (checked(*pair) for pair in again.values()):
        assert np.mean((residuals / deviations) ** 2) == pytest.approx(1.0, rel=1e-6)
    assert {k: len(v[0]) for k, v in again.items()} == {"energy": 20, "force": 240, "virial": 120}
    residuals, deviations = again["force"]
    inside = np.mean(np.abs(residuals) <= calibration.quantile("force", 0.9) * deviations)
    assert inside == pytest.approx(0.9, abs=0.01)
    with pytest.raises(UserError, match="5 labels of energy are too few .* give 10"):
        calibrate_with(found[:5], dataset[:5])
    bare = Dataset([type(r)(r.positions, r.numbers, r.cell, r.pbc) for r in dataset])
    with pytest.raises(UserError, match="no label to calibrate with"):
        calibrate_with(found, bare)


@pytest.fixture(scope="module")
def linear(dataset):
    config = LinearACEConfig((18,), cutoff=3.1, radial=2, degree=1, channels=2, roots=2)
    return fit_linear(LinearACE(config, key=jax.random.key(0)), dataset[:12])


@pytest.mark.parametrize("kind", ["linear", "last layer"])
def test_a_committee_drawn_from_a_posterior_has_its_mean_and_spread(dataset, linear, members, kind):
    fitted = linear if kind == "linear" else linearise(members[0], dataset[:12], dtype=np.float64)
    others = dataset[12:16]
    exact = predict_with_uncertainty(fitted, others)
    drawn = predict_with_committee(sample_committee(fitted, 400, key=jax.random.key(1)), others, dtype=np.float64)
    for one, other in zip(exact, drawn, strict=True):
        np.testing.assert_allclose(other.forces, one.forces, atol=1e-7 + 1e-5 * np.abs(one.forces).max())
        assert other.energy_per_atom == pytest.approx(one.energy_per_atom, abs=1e-5)
        # A variance from 400 draws is good to 7 %.
        assert other.energy_epistemic == pytest.approx(one.energy_epistemic, rel=0.3)
        total, expected = (np.trace(x.forces_epistemic.sum(axis=0)) for x in (other, one))
        assert total == pytest.approx(expected, rel=0.3)


def test_refused(dataset, members, linear):
    with pytest.raises(UserError, match=r"Committee\.of"):
        predict_with_committee(members[0], dataset)
    with pytest.raises(UserError, match="two members at least; got 1"):
        sample_committee(linear, 1, key=jax.random.key(0))
    shared = Committee.of(members, last_layer)
    loader = Loader(dataset, 3.1, batch_size=1, references={18: -1000.0}, dtype=np.float64)
    with pytest.raises(UserError, match="cannot learn charges"):
        Loss(charges=True)(shared, loader.pack([0]), Weights(1.0, 1.0, 0.0, 1.0))
