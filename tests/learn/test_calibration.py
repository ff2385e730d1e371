"""Scores know good deviations from bad ones, and each way to put them right does what it says."""

import numpy as np
import pytest

from jaxmlip.errors import UserError
from jaxmlip.learn.calibration import (
    LEVELS,
    Scaling,
    checked,
    conformal,
    deviations_at_level,
    isotonic,
    rank_correlation,
    reliability,
    scaling,
    score,
)


@pytest.fixture
def gaussian():
    """20 000 residuals that are as large as they are said to be, over a decade of sizes."""
    rng = np.random.default_rng(0)
    deviations = 10.0 ** rng.uniform(-1.0, 0.0, 20_000)
    return deviations * rng.normal(size=20_000), deviations


def test_right_deviations_score_well(gaussian):
    residuals, deviations = gaussian
    found = score(residuals, deviations)
    assert found.labels == 20_000
    assert found.ence < 0.03 and found.miscalibration_area < 0.01
    for level, held in found.coverage.items():
        assert held == pytest.approx(level, abs=0.015)  # four standard errors at the most
    exact = np.mean(0.5 + 0.5 * np.log(2.0 * np.pi * deviations**2))  # the entropy
    assert found.nll == pytest.approx(exact, abs=0.03)
    for wrong in (0.5, 2.0):
        assert score(residuals, wrong * deviations).nll > found.nll + 0.2
        assert score(residuals, wrong * deviations).ence > 0.4
    # Swapped among the labels they are as large on average, and mean nothing.
    mixed = score(residuals, np.random.default_rng(1).permutation(deviations))
    assert abs(mixed.spearman) < 0.03 < 0.4 < found.spearman and mixed.nll > found.nll + 0.2


def test_one_factor_is_found(gaussian):
    residuals, deviations = gaussian
    rule = scaling(residuals, 0.4 * deviations)
    assert rule.factor == pytest.approx(2.5, rel=0.02)
    assert score(residuals, 0.4 * deviations, rule).nll == pytest.approx(score(residuals, deviations).nll, abs=1e-3)


def test_an_increasing_map_is_undone(gaussian):
    residuals, deviations = gaussian
    bent = 3.0 * deviations**2
    rule, half = isotonic(residuals[::2], bent[::2]), slice(1, None, 2)
    assert score(residuals[half], bent[half]).ence > 0.5
    assert score(residuals[half], bent[half], scaling(residuals[::2], bent[::2])).ence > 0.2
    assert score(residuals[half], bent[half], rule).ence < 0.1
    probe = np.geomspace(bent.min() / 10.0, bent.max() * 10.0, 200)
    assert (np.diff(rule(probe)) >= 0.0).all() and (rule(probe) > 0.0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_conformal_intervals_hold_what_they_promise_whatever_the_distribution(level):
    """Student's t with two degrees of freedom, 60 labels to calibrate with: the mean over 2000 draws."""
    rng = np.random.default_rng(2)
    held, gaussian = [], []
    for _ in range(2000):
        deviations = rng.uniform(0.5, 2.0, 80)
        residuals = deviations * rng.standard_t(2.0, size=80)
        rule = conformal(residuals[:60], deviations[:60])
        held.append(np.abs(residuals[60:]) <= rule.half_width(deviations[60:], level))
        factor = scaling(residuals[:60], deviations[:60])
        gaussian.append(np.abs(residuals[60:]) <= factor.half_width(deviations[60:], level))
    error = 4.0 * np.sqrt(level * (1.0 - level) * (1 / 40_000 + 1 / (61 * 2000)))
    assert level - error <= np.mean(held) <= level + 1.0 / 61.0 + error
    if level == 0.5:
        assert np.mean(gaussian) > 0.55  # a Gaussian is not what these are


def test_deviations_at_levels():
    assert deviations_at_level(0.6826894921370859) == pytest.approx(1.0)
    np.testing.assert_allclose(Scaling(2.0).half_width(np.ones(3), 0.95), 2.0 * 1.959963984540054)


def test_what_is_zero_by_symmetry_divides_nothing_by_zero(gaussian):
    residuals, deviations = gaussian
    deviations[:100], residuals[:100] = 0.0, 1e-4
    found = score(residuals, deviations)
    assert np.isfinite([found.nll, found.ence, found.miscalibration_area, found.spearman]).all()
    assert found.nll < 0.5


def test_ranks():
    a = np.array([1.0, 5.0, 2.0, 9.0])
    assert rank_correlation(a, a**3) == pytest.approx(1.0) and rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.ones(4)) == 0.0


def test_what_cannot_be_judged_is_refused(gaussian):
    residuals, deviations = gaussian
    for wrong, reason in (
        ((residuals[:9], deviations[:9]), "9 labels are too few .* give 10 at least"),
        ((residuals[:20], deviations[:19]), "20 residuals for 19 deviations"),
        ((np.full(20, np.nan), deviations[:20]), "must be finite"),
        ((residuals[:20], -deviations[:20]), "not negative"),
        ((residuals[:20], np.zeros(20)), "members of the committee are the same"),
    ):
        for judge in (checked, score, scaling, isotonic, conformal):
            with pytest.raises(UserError, match=reason):
                judge(*wrong)
    rule = conformal(residuals[:20], deviations[:20])
    with pytest.raises(UserError, match="0.99 needs 99 calibration labels; there are 20"):
        rule.half_width(deviations, 0.99)
    with pytest.raises(UserError, match="between 0 and 1"):
        rule.half_width(deviations, 1.0)
    # A score leaves out the level that cannot be had, and says the others.
    assert set(score(residuals, deviations, conformal(residuals[:12], deviations[:12])).coverage) == {0.5, 0.68, 0.9}


def test_the_picture_is_written(gaussian, tmp_path):
    reliability(tmp_path / "a.png", {"right": gaussian, "small": (gaussian[0], 0.3 * gaussian[1])}, unit="eV/Å")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
