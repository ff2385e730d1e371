"""Standard errors that mean what they say."""

import numpy as np
import pytest

from jaxmlip.observables.statistics import average, block_average, drift, statistical_inefficiency


def autoregressive(rng, n, memory):
    noise = rng.normal(size=n)
    x = np.zeros(n)
    for i in range(1, n):
        x[i] = memory * x[i - 1] + noise[i]
    return x


@pytest.mark.parametrize("estimate", [block_average, average])
def test_the_error_of_a_mean_covers_the_truth_as_often_as_it_should(estimate):
    rng = np.random.default_rng(0)
    scores = [e.value / e.stderr for e in (estimate(autoregressive(rng, 4000, 0.8)) for _ in range(150))]
    assert 0.85 < np.std(scores) < 1.2
    assert abs(np.mean(scores)) < 4 * np.std(scores) / np.sqrt(150)


def test_the_inefficiency_is_that_of_an_autoregressive_process():
    x = autoregressive(np.random.default_rng(1), 200_000, 0.8)
    assert statistical_inefficiency(x) == pytest.approx((1 + 0.8) / (1 - 0.8), rel=0.08)
    assert statistical_inefficiency(np.ones(10)) == 1.0


@pytest.mark.parametrize("kind", ["white", "walk", "both", "oscillation"])
def test_the_error_of_a_drift_covers_the_truth(kind):
    rng = np.random.default_rng(2)
    t = np.arange(8000) * 0.5
    scores = []
    for _ in range(150):
        noise = np.zeros(8000)
        if kind in ("white", "both"):
            noise = noise + 5.0 * rng.normal(size=8000)
        if kind in ("walk", "both"):
            noise = noise + np.cumsum(0.1 * rng.normal(size=8000))
        if kind == "oscillation":
            noise = autoregressive(rng, 8000, 0.9)
        found = drift(t, 3.0 * t + noise)
        scores.append((found.value - 3.0) / found.stderr)
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.4, kind


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="`blocks`"):
        block_average(np.zeros(5), 6)
    with pytest.raises(ValueError, match="at least 8"):
        drift(np.zeros(50), np.zeros(50), blocks=4)
