"""Reports: errors of an energy for each kind of frame."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import AtomicReferences, LennardJones, Sum, energy_forces_stress
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.learn import evaluate
from jaxmlip.learn.evaluate import split_references


@pytest.fixture(scope="module")
def truth():
    return LennardJones(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=3.1)


def test_the_true_energy_with_references_has_no_errors_even_in_float32(dataset, truth):
    report = evaluate(truth + AtomicReferences({18: -1000.0}), dataset, batch_atoms=16)
    assert report.energy_rmse < 1e-6 and report.force_rmse < 1e-5 and report.stress_rmse < 1e-6
    assert np.allclose(report.energy_label, [r.energy / 4 for r in dataset])
    assert np.array_equal(report.forces_label, np.concatenate([r.forces for r in dataset]))


def test_predictions_are_those_of_the_energy_in_the_order_of_the_frames(dataset, truth):
    off = LennardJones(jnp.asarray(0.04), jnp.asarray(2.2), cutoff=3.1)
    report = evaluate(off, dataset[:8], batch_atoms=16, dtype=np.float64)
    expected = jax.jit(energy_forces_stress)(off, batch([r.system for r in dataset[:8]], 3.1))
    assert np.allclose(report.energy, expected.energy / 4, atol=1e-12)
    assert np.allclose(report.forces, expected.forces, atol=1e-12)
    assert np.allclose(report.stress, expected.stress, atol=1e-14)


def test_each_config_type_has_a_row_and_masks_count(dataset, truth):
    wrong = dataclasses.replace(dataset[0], energy=dataset[0].energy + 4.0)
    masked = dataclasses.replace(dataset[2], stress=np.full((3, 3), 9.0), stress_mask=np.zeros((3, 3), bool))
    data = Dataset([wrong, dataset[1], masked, dataclasses.replace(dataset[3], forces=None, energy=None)])
    report = evaluate(truth + AtomicReferences({18: -1000.0}), data, batch_atoms=16)
    rows = report.rows()
    assert list(rows) == ["bulk", "strained", "all"]
    assert np.isclose(rows["bulk"].energy_rmse, np.sqrt(0.5), atol=1e-5) and np.isclose(
        report.energy_mae, 1 / 3, atol=1e-5
    )
    assert rows["strained"].energy_rmse < 1e-6 and report.stress_rmse < 1e-6
    table = report.table()
    assert len(table.splitlines()) == 5 and "707" in table and "nan" not in table
    assert rows["strained"].atoms.tolist() == [4, 4] and rows["strained"].frame.tolist() == [0] * 4 + [1] * 4


def test_a_prediction_that_is_not_finite_shows(dataset, truth):
    broken = eqx.tree_at(lambda energy: energy.epsilon, truth, jnp.asarray(float("nan")))
    report = evaluate(broken, dataset[:4], batch_atoms=16)
    assert np.isnan(report.force_rmse) and np.isnan(report.energy_mae)


def test_elements_that_the_energy_does_not_know_are_refused(dataset):
    copper = LennardJones(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=3.1, elements=(29,))
    with pytest.raises(UserError, match=r"fcc\.xyz, frame 0: The energy does not know Ar; it knows Cu"):
        evaluate(copper, dataset)


def test_references_are_split_off(truth):
    model, found = split_references(truth + AtomicReferences({18: -1.0}) + AtomicReferences({18: -2.0, 1: 0.5}))
    assert model is truth and found == {18: -3.0, 1: 0.5}
    both, none = split_references(truth + truth)
    assert isinstance(both, Sum) and none == {}
    with pytest.raises(UserError, match="references alone"):
        split_references(AtomicReferences({18: -1.0}))
