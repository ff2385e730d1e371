"""Errors from sums of matrices are those of fits made anew; nothing is compiled twice; bad input is told."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.data.folds import make_folds
from jaxmlip.errors import UserError
from jaxmlip.learn import TrainSettings, evaluate, fit, fit_linear
from jaxmlip.learn.evidence import KINDS
from jaxmlip.learn.network_validation import network_points, shared_shapes, squares_of
from jaxmlip.learn.splits import Capacity, Split, fold_splits, subset_splits
from jaxmlip.learn.validation import LinearTable, fit_columns, ladder, linear_points
from jaxmlip.models.linear import LinearACE, LinearACEConfig

CONFIG = LinearACEConfig((18,), cutoff=3.1, radial=3, degree=2, channels=6, roots=2, mean_neighbors=12.0)
WHOLE = Capacity("all", sum(CONFIG.sizes.values()))


@pytest.fixture(scope="module")
def model():
    return LinearACE(CONFIG, key=jax.random.key(0))


@pytest.fixture(scope="module")
def table(model, dataset):
    return LinearTable(model, dataset)


@pytest.fixture(scope="module")
def folds(dataset):
    return make_folds(dataset, 4)


def rms(report):
    squares, labels = squares_of(report)
    return dict(zip(KINDS, np.sqrt(squares.sum(axis=0) / labels.sum(axis=0)), strict=True))


def test_errors_are_those_of_fits_to_the_training_sets_alone(model, dataset, table, folds):
    """Brute force: rows, references, evidence, solution and predictions made anew for every fold."""
    splits = fold_splits(folds, len(dataset))
    points = list(linear_points(table, splits, [WHOLE], ridges=(1.0, 10.0)))
    assert table.passes == 1
    for fold in (0, 2):
        for ridge in (1.0, 10.0):
            train, test = dataset[folds.train(fold)], dataset[folds.held_out[fold]]
            fitted = fit_linear(model, train, ridge=ridge)
            (point,) = (p for p in points if p.split == f"fold {fold}" and p.regularisation == ridge)
            for part, found in ((train, point.train), (test, point.test)):
                expected = rms(evaluate(fitted.energy, part, dtype=np.float64))
                for kind in KINDS:
                    assert found[kind] == pytest.approx(expected[kind], rel=1e-4), (fold, ridge, kind)


def test_errors_are_those_of_the_block_formula(model, dataset, table, folds):
    """Noise and prior held, a fold leaves at once: (I - H)^-1 r, from one factorisation of all frames."""
    fitted = fit_linear(model, dataset)
    blocks = {b.frame: b for b in fitted.design(dataset)}
    for fold, held in enumerate(folds.held_out):
        rows = np.concatenate([blocks[i].rows * np.sqrt(blocks[i].weight)[:, None] for i in held])
        rest = np.concatenate([fitted.residuals(blocks[i]) * np.sqrt(blocks[i].weight) for i in held])
        hat = rows @ np.linalg.solve(fitted.factor @ fitted.factor.T, rows.T)
        by_formula = np.linalg.solve(np.eye(len(hat)) - hat, rest)
        others = [blocks[i] for i in folds.train(fold)]
        precision = fitted.factor @ fitted.factor.T - rows.T @ rows
        mean = np.linalg.solve(precision, sum(b.rows.T @ (b.weight * b.targets) for b in others))
        left = np.concatenate([(blocks[i].targets - blocks[i].rows @ mean) * np.sqrt(blocks[i].weight) for i in held])
        np.testing.assert_allclose(by_formula, left, rtol=1e-4, atol=1e-5 * np.abs(left).max())


def test_how_often_a_frame_counts_is_how_often_it_is_there(table, dataset):
    counts = np.zeros(len(dataset))
    counts[[0, 1, 2]] = 3.0, 1.0, 2.0
    held = np.arange(len(dataset)) > 9
    (sums,) = table.sums([Split("some", counts, held)])
    blocks = {b.frame: b for b in table.blocks()}
    for name, of in (("count", lambda b, k: (b.kind == k).sum()), ("square", lambda b, k: b.targets[b.kind == k] ** 2)):
        expected = [sum(counts[i] * np.sum(of(blocks[i], k)) for i in range(3)) for k in range(3)]
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-10)


def test_rungs_are_nested_and_leave_other_columns_alone(table, dataset, folds):
    rungs = ladder(CONFIG, seed=1)
    assert [r.name for r in rungs] == ["2-body", "3-body, l <= 1", "3-body", "4 channels", "6 channels"]
    for small, large in zip(rungs[:-1], rungs[1:], strict=True):
        assert np.all(large.columns[small.columns]) and small.weights < large.weights
    assert rungs[-1].columns.all() and rungs[0].weights == CONFIG.width
    (sums,) = table.sums(fold_splits(folds, len(dataset))[:1])
    weights, effective = fit_columns(table, sums, rungs[2], ridges=(1e-6, 1.0, 1e6))
    assert np.all(weights[:-1][~rungs[2].columns] == 0.0)
    assert rungs[2].weights + 1.0 >= effective[0] > effective[1] > effective[2] > 0.9


def test_a_model_of_four_channels_has_the_errors_of_its_rung(model, table, dataset, folds):
    """The columns of a rung are a model by themselves: its channels taken out of the larger one."""
    rung = ladder(CONFIG, seed=0)[3]
    order = np.sort(np.random.default_rng(0).permutation(6)[:4])
    small = LinearACE(dataclasses.replace(CONFIG, channels=4), key=jax.random.key(0))
    object.__setattr__(small, "mix", model.mix[:, order])
    object.__setattr__(small, "path_weights", [w[:, order] for w in model.path_weights])
    object.__setattr__(small, "densities", model.densities)
    split = fold_splits(folds, len(dataset))[1]
    (point,) = linear_points(table, [split], [rung])
    (alone,) = linear_points(LinearTable(small, dataset), [split], [Capacity("alone", rung.weights)])
    for kind in KINDS:
        assert point.test[kind] == pytest.approx(alone.test[kind], rel=1e-5)


def test_what_is_done_is_not_done_again_and_the_rest_is_the_same_to_the_bit(table, dataset, folds):
    splits = [*fold_splits(folds, len(dataset)), *subset_splits(folds, len(dataset), (6, 12))]
    options = {"ridges": (0.1, 1.0)}
    whole = list(linear_points(table, splits, ladder(CONFIG)[2:4], **options))
    assert len({p.key for p in whole}) == len(whole) == 48
    rest = list(linear_points(table, splits, ladder(CONFIG)[2:4], done=whole[:21], **options))
    assert rest == whole[21:]


def test_one_frame_and_two_twins_give_finite_errors(model, dataset):
    """More weights than labels, and a design of less than full rank."""
    for chosen in ([0], [0, 0, 0]):
        train = np.bincount(chosen, minlength=len(dataset)).astype(float)
        table = LinearTable(model, dataset[:6])
        split = Split("few", train[:6], np.arange(6) > 2)
        for point in linear_points(table, [split], ladder(CONFIG), ridges=(1e-6, 1.0)):
            assert all(np.isfinite([*point.train.values(), *point.test.values(), point.effective]))


def test_labels_that_were_not_learned_are_not_judged(model, dataset):
    data = Dataset([dataclasses.replace(r, energy=None, stress=None) if i < 10 else r for i, r in enumerate(dataset)])
    split = Split("forces", (np.arange(20) < 10).astype(float), np.arange(20) >= 10)
    (point,) = linear_points(LinearTable(model, data), [split], [WHOLE])
    assert point.test["energy"] is None and point.train["virial"] is None and point.test["force"] > 0.0
    with pytest.raises(UserError, match="has no label"):
        list(linear_points(LinearTable(model, data), [Split("none", np.zeros(20), split.test)], [WHOLE]))


def test_elements_that_were_not_learned_are_not_judged(dataset):
    config = dataclasses.replace(CONFIG, elements=(10, 18), channels=2)
    other = dataclasses.replace(dataset[19], numbers=np.array([10, 18, 18, 18]))
    data = Dataset([*dataset[:19], other])
    table = LinearTable(LinearACE(config, key=jax.random.key(0)), data)
    split = Split("pure", (np.arange(20) < 10).astype(float), np.arange(20) >= 10)
    (point,) = linear_points(table, [split], [Capacity("all", table.width - 2)])
    without = dataclasses.replace(split, test=split.test & (np.arange(20) != 19))
    (same,) = linear_points(table, [without], [Capacity("all", table.width - 2)])
    assert point.test == same.test


def test_a_table_beyond_its_limit_makes_its_rows_again(model, dataset, table, folds):
    split = fold_splits(folds, len(dataset))[:1]
    lean = LinearTable(model, dataset, limit=0.0)
    assert list(linear_points(lean, split, [WHOLE])) == list(linear_points(table, split, [WHOLE]))
    assert lean.passes == 3
    with pytest.raises(UserError, match="6000"):
        LinearTable(LinearACE(dataclasses.replace(CONFIG, channels=2000), key=jax.random.key(0)), dataset)
    with pytest.raises(UserError, match="ridge"):
        list(linear_points(table, split, [WHOLE], ridges=(0.0,)))


class Compilations:
    """Counts programs that are compiled while it listens."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"


def test_only_the_first_training_compiles(dataset, start):
    """Folds and subsets of other sizes, shapes and scales: one program each for the step and for the errors."""
    settings = TrainSettings(steps=4, batch_size=3, warmup_steps=0, missing=1.0, evaluations=1, dtype="float64")
    small = dataset[:4]
    data = Dataset([*dataset, *(dataclasses.replace(r, cell=1.04 * r.cell, index=30) for r in small)])
    folds = make_folds(data, 3)
    splits = [*fold_splits(folds, len(data)), *subset_splits(folds, len(data), (2, 5))]
    made = network_points(lambda capacity, seed: start, data, splits, [Capacity("one", 2)], settings=settings)
    first = next(made)
    programs = Compilations()
    jax.monitoring.register_event_duration_secs_listener(programs)
    try:
        points = [first, *made]
        assert programs.count == 0
        fit(start, data[folds.train(2)[:7]], settings=settings, quiet=True)
        assert programs.count > 0, "a part by itself has shapes of its own"
    finally:
        jax.monitoring.unregister_event_duration_listener(programs)
    assert len(points) == 9 and {p.frames for p in points} >= {2, 5, 16}
    assert all(np.isfinite([*p.train.values(), *p.test.values()]).all() for p in points)
    done = network_points(lambda c, s: start, data, splits, [Capacity("one", 2)], settings=settings, done=points)
    assert list(done) == []


def test_points_of_networks_are_the_errors_of_the_trained_energy(dataset, start, folds):
    split = fold_splits(folds, len(dataset))[0]
    kept = []

    def train(energy, data, settings, shapes):
        kept.append((len(data), shapes, settings.weight_decay))
        return energy

    options = {"settings": TrainSettings(steps=1, batch_size=2), "decays": (0.0, 0.5), "train": train}
    plain, decayed = network_points(lambda c, s: start, dataset, [split], [Capacity("one", 2)], **options)
    expected = rms(evaluate(start, dataset[folds.held_out[0]], dtype=np.float32))
    assert plain.test == pytest.approx(expected, rel=1e-5) and decayed.regularisation == 0.5
    shapes = shared_shapes(dataset, start.cutoff, options["settings"])
    assert kept == [(15, shapes, 0.0), (15, shapes, 0.5)]
