"""Bias and variance of known fits, shapes of known curves, exponents of known laws, and what is recommended."""

import itertools

import numpy as np
import pytest

from jaxmlip.errors import UserError
from jaxmlip.learn.learning_curve import fit_exponent
from jaxmlip.learn.recommend import table, weigh
from jaxmlip.learn.splits import Point
from jaxmlip.learn.trade_off import decompose, shape


def point(weights, test, *, ridge=1.0, fold=0, train=None, frames=80, energy=None):
    kinds = {"energy": energy, "force": test, "virial": None}
    before = kinds | {"force": test if train is None else train}
    return Point(f"{weights} weights", weights, ridge, f"fold {fold}", fold, frames, before, kinds)


def test_squared_errors_are_bias_variance_and_noise():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    labels = truth + 0.3 * rng.normal(size=4000)
    fits = truth + 0.5 + 0.2 * rng.normal(size=(30, 4000))
    found = decompose(fits, labels, noise=0.09)
    assert found.bias + found.variance + found.noise == pytest.approx(found.error, rel=1e-12)
    assert found.error == pytest.approx(np.mean((labels - fits) ** 2), rel=1e-12)
    assert found.variance == pytest.approx(0.04, rel=0.02)
    assert found.bias == pytest.approx(0.25, rel=0.05)
    few = [decompose(fits[i : i + 2], labels, noise=0.09).bias for i in range(0, 30, 2)]
    assert np.mean(few) == pytest.approx(found.bias, rel=0.02), "not more bias for fewer fits"
    with pytest.raises(UserError, match="two fits"):
        decompose(fits[:1], labels)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([4.0, 2.0, 1.5, 1.5], "falling"),
        ([4.0, 2.0, 1.5, 3.0], "U-shaped"),
        ([1.5, 1.6, 2.0, 3.0], "rising"),
        ([2.0, 2.002, 1.998, 2.001], "flat"),
        ([4.0, 2.0, 5.0, 1.5], "double descent"),
    ],
)
def test_shapes(errors, expected):
    rng = np.random.default_rng(0)
    level = np.exp(0.3 * rng.normal(size=(6, 1)))  # seeds that differ in all rungs alike do not blur the shape
    assert shape(level * errors * np.exp(0.01 * rng.normal(size=(6, 4)))) == expected
    assert shape(np.array([errors])) == expected, "one seed"


def test_noise_is_no_shape():
    rng = np.random.default_rng(0)
    found = [shape(np.exp(0.1 * rng.normal(size=(5, 4)))) for _ in range(200)]
    assert found.count("flat") > 80, "some five per cent for each of the few comparisons, more for a double descent"
    assert shape(np.exp(0.5 * rng.normal(size=(5, 3))) * [1.0, 1.1, 1.0]) == "flat"


def test_the_exponent_of_a_power_law_and_its_error():
    sizes, exponents = np.array([10, 20, 40, 80, 160]), []
    rng = np.random.default_rng(0)
    for _ in range(200):
        errors = 3.0 * sizes**-0.4 * np.exp(0.1 * rng.normal(size=(8, 5)))
        exponents.append(fit_exponent(sizes[:3], errors[:, :3]))
    values, spread = np.array([[law.exponent, law.exponent_error] for law in exponents]).T
    assert values.mean() == pytest.approx(0.4, abs=0.01)
    assert np.sqrt(np.mean(spread**2)) == pytest.approx(values.std(), rel=0.15)
    assert exponents[0].floor is None
    exact = fit_exponent(sizes, 3.0 * sizes[None] ** -0.4)
    assert exact.prefactor == pytest.approx(3.0) and exact.exponent_error < 1e-12
    assert exact.error_at(40) == pytest.approx(3.0 * 40**-0.4)
    assert exact.gain_of_doubling == pytest.approx(1.0 - 2**-0.4)


def test_a_floor_is_found_where_there_is_one():
    sizes = np.array([10, 20, 40, 80, 160, 320])
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=(8, 6)))
    law = fit_exponent(sizes, (5.0 * sizes**-0.8 + 0.5) * noise)
    assert law.floor == pytest.approx(0.5, abs=3 * law.floor_error) and law.floor_error < 0.1
    none = fit_exponent(sizes, 5.0 * sizes**-0.8 * noise)
    assert none.floor < 0.02


@pytest.mark.parametrize(
    ("sizes", "errors", "message"),
    [
        ([10, 10], [[1.0, 1.0]], "two sizes"),
        ([10, 20], [[1.0, np.nan]], "positive"),
        ([10, 20], [[1.0, 0.0]], "positive"),
    ],
)
def test_curves_without_an_exponent_are_refused(sizes, errors, message):
    with pytest.raises(UserError, match=message):
        fit_exponent(sizes, np.array(errors))


def test_the_simplest_setting_within_a_standard_error_is_taken():
    folds = range(5)
    wobble = 1.0 + 0.02 * np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    levels = {(10, 1.0): 2.0, (100, 1.0): 1.002, (100, 10.0): 1.003, (1000, 1.0): 1.0, (1000, 100.0): 1.5}
    points = [point(w, e * wobble[f], ridge=r, fold=f) for (w, r), e in levels.items() for f in folds]
    found = weigh(points)
    assert (found.best.weights, found.best.regularisation) == (1000, 1.0)
    assert (found.simplest.weights, found.simplest.regularisation) == (100, 10.0)
    assert found.shapes == {"capacity": "falling", "regularisation": "rising"}
    assert "Take 100 weights" in found.verdict[0] and ">100 weights" in table(found)
    worse = [point(w, e * (1.05 if w < 1000 else 1.0) * wobble[f], ridge=r, fold=f)
             for ((w, r), e), f in itertools.product(levels.items(), folds)]  # fmt: skip
    assert weigh(worse).simplest.weights == 1000, "5 % in every fold are not within a standard error"


def test_the_verdict_says_under_or_overfitting_and_what_pays():
    stiff = [point(w, e, fold=f, train=0.98 * e) for w, e in ((10, 2.0), (20, 1.6), (40, 1.3)) for f in range(3)]
    slow = [point(40, 1.3 * n**-0.02, fold=f, frames=n) for n in (10, 20, 40) for f in range(3)]
    text = " ".join(weigh(stiff, slow).verdict)
    assert "underfit" in text and "a larger or better model pays more" in text and "exponent 0.02" in text
    free = [point(w, e, fold=f, train=1.0 / w) for w, e in ((10, 2.0), (20, 1.0), (40, 1.7)) for f in range(3)]
    steep = [point(20, 5.0 * n**-0.5, fold=f, frames=n) for n in (10, 20, 40) for f in range(3)]
    text = " ".join(weigh(free, steep).verdict)
    assert "it overfits" in text and "more frames pay more" in text and "lower the score by nothing" in text


def test_missing_labels_are_no_number():
    points = [point(10, None, energy=0.1 + 0.01 * f, fold=f) for f in range(3)]
    found = weigh(points)
    assert found.best.test == pytest.approx({"energy": 0.11}) and "nan" not in table(found).lower()
    with pytest.raises(UserError, match="no label"):
        weigh([point(10, None)])
