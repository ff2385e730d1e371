"""Leave-one-out by blocks is a refit without the frame."""

import numpy as np
import pytest
from scipy import linalg

from jaxmlip.data.influence import ENERGY, FORCE, STRESS, influence, ranked

PARAMETERS, FRAMES = 20, 30


@pytest.fixture(scope="module")
def fit():
    """Blocks of one energy, six forces and a stress, with labels that count differently often."""
    rng = np.random.default_rng(0)
    kind = np.array([ENERGY, *[FORCE] * 6, STRESS])
    weight = np.where(kind == ENERGY, 9.0, 1.0)
    truth = rng.normal(size=PARAMETERS)
    rows = rng.normal(size=(FRAMES, len(kind), PARAMETERS)) + rng.normal(size=(FRAMES, 1, PARAMETERS))
    targets = rows @ truth + rng.normal(size=(FRAMES, len(kind)))
    return rows, targets, weight, kind


def solve(rows, targets, weight):
    precision = 0.3 * np.eye(PARAMETERS) + np.einsum("fli,l,flj->ij", rows, weight, rows)
    return np.linalg.solve(precision, np.einsum("fli,l,fl->i", rows, weight, targets)), precision


def test_left_out_is_a_refit_to_rounding_and_row_by_row_is_not(fit):
    rows, targets, weight, kind = fit
    mean, precision = solve(rows, targets, weight)
    factor, total, worst_row = linalg.cholesky(precision, lower=True), 0.0, 0.0
    for frame in range(FRAMES):
        found = influence(frame, rows[frame], targets[frame], targets[frame] - rows[frame] @ mean, weight, kind, factor)
        others = np.arange(FRAMES) != frame
        refit, without = solve(rows[others], targets[others], weight)
        expected = targets[frame] - rows[frame] @ refit
        np.testing.assert_allclose(found.left_out, expected, rtol=1e-10, atol=1e-10)
        spread = 1.0 + np.einsum("li,ij,lj->l", rows[frame], np.linalg.inv(without), rows[frame])
        np.testing.assert_allclose(found.studentised, expected / np.sqrt(spread), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.cook, (mean - refit) @ precision @ (mean - refit), rtol=1e-9)
        total += found.leverage.sum()
        by_row = found.residuals / (1.0 - found.leverage)
        worst_row = max(worst_row, np.abs(by_row / expected - 1.0).max())
    gram = np.einsum("fli,l,flj->ij", rows, weight, rows)
    np.testing.assert_allclose(total, np.trace(np.linalg.solve(precision, gram)), rtol=1e-10)
    assert worst_row > 0.05, "the frames are not correlated enough to tell the formulas apart"


def test_wrong_labels_rank_first_and_say_which(fit):
    rows, targets, weight, kind = fit
    targets = targets.copy()
    targets[3, 0] += 8.0  # energy
    targets[7, 1:4] += 9.0  # one atom
    targets[11, 7] -= 9.0  # stress
    mean, precision = solve(rows, targets, weight)
    factor = linalg.cholesky(precision, lower=True)
    found = [
        influence(f, rows[f], targets[f], targets[f] - rows[f] @ mean, weight, kind, factor) for f in range(FRAMES)
    ]
    scores, reasons = ranked(found)
    assert set(np.argsort(-scores)[:3].tolist()) == {3, 7, 11}
    assert reasons[3] == 0 and reasons[7] in (1, 2) and reasons[11] == 3


def test_a_frame_that_alone_determines_a_direction_is_named():
    rows, kind = np.eye(2), np.array([ENERGY, ENERGY])
    with pytest.raises(ValueError, match="Frame 5 alone"):
        influence(5, rows, np.ones(2), np.ones(2), np.ones(2), kind, np.eye(2))
