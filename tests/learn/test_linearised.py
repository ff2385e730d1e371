"""A linear model linearised is itself; leaving out without a matrix is leaving out with one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import AtomicReferences, LennardJones
from jaxmlip.errors import UserError
from jaxmlip.learn import find_suspects, fit_linear
from jaxmlip.learn.linear import KINDS
from jaxmlip.learn.linearised import last_layer, leave_out, linearise
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig

OFFSET = -1000.0
NOISE = {"energy": 1e-3, "force": 1e-2, "virial": 1e-2}


def everything(energy):
    return [energy.terms[0].epsilon, energy.terms[0].sigma, energy.terms[1].energies]


@pytest.fixture(scope="module")
def frames(dataset):
    return dataset[:14]


def lennard_jones(epsilon=0.05, sigma=2.3):
    return LennardJones(jnp.asarray(epsilon), jnp.asarray(sigma), cutoff=3.1)


def test_the_rows_of_a_linear_model_are_its_own(frames):
    config = LinearACEConfig((18,), cutoff=3.1, radial=3, degree=1, channels=2, roots=2)
    fit = fit_linear(LinearACE(config, key=jax.random.key(0)), frames, references={18: OFFSET})
    again = linearise(fit.energy, frames, dtype=np.float64)
    for ours, theirs in zip(again.design(frames), fit.design(frames), strict=True):
        theirs_unit = np.array([fit.noise[k] for k in KINDS])[theirs.kind][:, None] * fit.scale
        ours_unit = np.array([again.noise[k] for k in KINDS])[ours.kind][:, None] * again.scale
        np.testing.assert_allclose(ours.rows * ours_unit, theirs.rows * theirs_unit, rtol=1e-6, atol=1e-8)
        rest = fit.residuals(theirs) * theirs_unit[:, 0] / fit.scale[0]
        weights = np.append(np.ravel(fit.model.weights), 0.0) * again.scale
        left = (ours.targets - ours.predicted - ours.rows @ weights) * ours_unit[:, 0] / again.scale[0]
        np.testing.assert_allclose(left, rest, atol=1e-7)


def test_leaving_out_without_a_matrix_is_leaving_out_with_one(frames):
    """Two parameters and a reference: small enough to write the matrix down."""
    energy = lennard_jones(0.045, 2.32) + AtomicReferences({18: OFFSET})
    found = leave_out(energy, frames, [2, 9], noise=NOISE, dtype=np.float64, tolerance=1e-10)

    posterior = linearise(energy, frames, choose=everything, dtype=np.float64)
    sigma, counts = np.array([NOISE[k] for k in KINDS]), np.array([1, 12, 6]) * len(frames)
    counted = (counts.max() / counts) ** 0.5
    theta = [np.ravel(x) for x in everything(energy)]
    size = len(np.concatenate(theta))
    rows, residuals, weight, gram = {}, {}, {}, {}
    for block in posterior.design(frames):
        unit = np.array([posterior.noise[k] for k in KINDS])[block.kind] / sigma[block.kind]
        i, x = block.frame, (block.rows * unit[:, None] * posterior.scale)[:, :size]
        known = block.predicted + block.rows[:, :size] @ (np.concatenate(theta) * posterior.scale[:size])
        rows[i], residuals[i], weight[i] = x, (block.targets - known) * unit, counted[block.kind]
        gram[i] = x.T @ (weight[i][:, None] * x)
    for one in found:
        i = one.frame
        others = sum(g for j, g in gram.items() if j != i) + one.ridge * np.eye(size)
        expected = residuals[i] + rows[i] @ np.linalg.solve(others, rows[i].T @ (weight[i] * residuals[i]))
        np.testing.assert_allclose(one.residuals, residuals[i], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one.left_out, expected, rtol=1e-6, atol=1e-6)
        assert one.converged and np.abs(expected - residuals[i]).max() > 1e-2, "leaving out changes nothing"


@pytest.mark.slow
def test_a_network_finds_a_wrong_energy(frames):
    """The last layer of an untrained network is refitted by the linearisation, so it can judge."""
    records = list(frames)
    records[5] = dataclasses.replace(records[5], energy=records[5].energy + 1.0)
    model = ACE(ACEConfig.preset("nep", (18,), cutoff=3.1), key=jax.random.key(0)) + AtomicReferences({18: OFFSET})
    suspects = find_suspects(Dataset(records), lambda data, progress: linearise(model, data), rounds=1)
    assert suspects.order[0] == 5
    assert "energy is off by +" in suspects.reason(5)


def test_what_has_no_known_last_layer_is_refused(frames):
    with pytest.raises(UserError, match="LennardJones"):
        last_layer(lennard_jones())
    model = ACE(ACEConfig.preset("nep", (18,), cutoff=3.1), key=jax.random.key(0))
    assert sum(jnp.size(x) for x in last_layer(model)) < 100


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [([], {}, "0 to 13"), ([14], {}, "0 to 13"), ([0], {"damping": 0.0}, "must be positive")],
)
def test_bad_arguments_of_leave_out_are_refused(frames, chosen, options, message):
    with pytest.raises(UserError, match=message):
        leave_out(lennard_jones(), frames, chosen, noise=NOISE, **options)
