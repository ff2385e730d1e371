"""A prior: the model learns labels minus the prior, and what comes out is the sum."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import ZBL, AtomicReferences, LennardJones, Repulsion, Sum, energy_forces_stress
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.io import Record
from jaxmlip.learn import Loss, TrainSettings, best_energy, evaluate, fit, init, train
from jaxmlip.learn.prior import describe, restore, subtract
from jaxmlip.learn.progress import Progress
from jaxmlip.learn.step import step
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.system import make_system

CUTOFF = 3.1
SETTINGS = TrainSettings(
    epochs=6, batch_size=4, learning_rate=0.01, warmup_steps=5, ema_decay=0.9, dtype="float64", evaluations=3,
    stress_weight=1.0, checkpoint_minutes=0.0,
)  # fmt: skip


def wall():
    """Felt by every pair of the data: 0.4 eV at 2.6 Å, before the envelope."""
    return Repulsion(4e4, 12.0, cutoff=CUTOFF)


@pytest.fixture(scope="module")
def model():
    return LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=CUTOFF)


@pytest.fixture(scope="module")
def with_wall(dataset):
    """The data with the energies, forces and stresses of the wall added to the labels, straight from the energy."""
    systems = [r.system for r in dataset]
    more = jax.jit(energy_forces_stress)(wall(), batch(systems, CUTOFF))
    forces = np.asarray(more.forces).reshape(len(dataset), 4, 3)
    energies, stresses = np.asarray(more.energy).tolist(), np.asarray(more.stress)
    return Dataset(
        [
            dataclasses.replace(r, energy=r.energy + e, forces=r.forces + f, stress=r.stress + s)
            for r, e, f, s in zip(dataset, energies, forces, stresses, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def reference(with_wall, model):
    """A run with a prior that nothing disturbed."""
    return fit(model, with_wall[:16], with_wall[16:], settings=SETTINGS, prior=wall(), quiet=True)


def leaves(result):
    return [np.asarray(x) for x in jax.tree.leaves((result.energy, result.state))]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def test_labels_minus_the_prior_are_what_was_there_before_it(dataset, with_wall):
    rest, known = subtract(with_wall, wall(), dtype=np.float64)
    assert np.abs(known.forces).max() > 0.5 and np.abs(known.energy).min() > 0.1  # the wall matters here
    for record, plain in zip(rest, dataset, strict=True):
        assert np.isclose(record.energy, plain.energy, rtol=0, atol=1e-9)
        np.testing.assert_allclose(record.forces, plain.forces, rtol=0, atol=1e-11)
        np.testing.assert_allclose(record.stress, plain.stress, rtol=0, atol=1e-12)


def test_labels_that_are_missing_stay_missing(with_wall):
    bare = dataclasses.replace(with_wall[0], energy=None, stress=None)
    free = dataclasses.replace(with_wall[1], pbc=(False, False, False), cell=np.zeros((3, 3)))
    rest, _ = subtract(Dataset([bare, free]), wall(), dtype=np.float64)
    assert rest[0].energy is None and rest[0].stress is None and rest[0].forces is not None
    np.testing.assert_array_equal(rest[1].stress, free.stress)  # without a cell nobody asks for it
    assert np.all(np.isfinite(rest[1].forces))


@pytest.mark.slow
def test_a_step_is_that_of_the_sum_whose_prior_is_not_trained(with_wall, model):
    """Gradients of the loss: labels minus prior, against the sum evaluated in one pass."""
    run = train._Run(model, with_wall[:16], None, SETTINGS, None, wall(), None, Progress(quiet=True))
    loader = train.Loader(
        with_wall[:16], CUTOFF, references=run.atoms, dtype="float64", max_shapes=SETTINGS.max_shapes, batch_size=4
    )
    loss = Loss(scale=run.scale, stress=True)
    problem, state = init(model + wall(), loss, SETTINGS, lambda path, leaf: path.startswith(".terms[0]"))
    other, rest_state = init(model, loss, SETTINGS)
    for rest, whole in zip(run.loader.epoch(0), loader.epoch(0), strict=True):
        assert np.array_equal(rest.graph.positions, whole.graph.positions)
        inputs = (jnp.asarray(0.01), train.Weights(1.0, 1.0, 1.0))
        state, of_sum = step((problem, whole, *inputs), state)
        rest_state, of_rest = step((other, rest, *inputs), rest_state)
        assert np.isclose(of_sum, of_rest, rtol=1e-9)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(rest_state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert not np.isclose(float(state.params.terms[0].epsilon), 0.03, rtol=1e-3)  # they moved


def test_the_model_learns_the_rest_and_the_prior_stays(dataset, with_wall, model):
    settings = dataclasses.replace(SETTINGS, epochs=150, learning_rate=0.02, late_energy_weight=1.0)
    atoms = AtomicReferences({18: -1000.0})
    result = fit(model + atoms, with_wall[:16], with_wall[16:], settings=settings, prior=wall(), quiet=True)
    trained, prior, references = result.energy.terms
    assert np.isclose(float(trained.epsilon), 0.05, rtol=1e-3) and np.isclose(float(trained.sigma), 2.3, rtol=1e-3)
    assert float(prior.prefactor) == 4e4 and float(references.energies[0]) == -1000.0
    report = evaluate(result.energy, with_wall, dtype=np.float64)
    assert report.force_rmse < 1e-3 and report.energy_rmse < 1e-4
    assert evaluate(result.energy, dataset, dtype=np.float64).force_rmse > 0.1  # it is the sum that was learned


def test_the_report_is_that_of_the_sum(with_wall, reference):
    report = evaluate(reference.energy, with_wall[16:], dtype=np.float64)
    for name in ("energy", "energy_label", "forces", "forces_label", "stress", "stress_label"):
        np.testing.assert_allclose(getattr(reference.report, name), getattr(report, name), rtol=0, atol=1e-9)
    rest, known = subtract(with_wall[16:], wall(), dtype=np.float64)
    model = Sum(tuple(t for t in reference.energy.terms if not isinstance(t, Repulsion)))
    again = restore(evaluate(model, rest, dtype=np.float64), known)
    np.testing.assert_allclose(again.forces, report.forces, rtol=0, atol=1e-9)


def test_a_run_with_a_prior_resumes_to_the_bit(with_wall, model, reference, tmp_path, monkeypatch):
    advance = train._Run.advance

    def stop(run):
        advance(run)
        if run.done == 9:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train._Run, "advance", stop)
    parts = with_wall[:16], with_wall[16:]
    stopped = fit(model, *parts, settings=SETTINGS, prior=wall(), folder=tmp_path, quiet=True)
    assert stopped.reason == "interrupted" and int(stopped.state.step) == 9
    monkeypatch.undo()
    for other in (None, Repulsion(5e4, 12.0, cutoff=CUTOFF), ZBL(elements=(18,))):
        with pytest.raises(UserError, match="holds a run with `(prior|reference energies)`"):
            fit(model, *parts, settings=SETTINGS, prior=other, folder=tmp_path, quiet=True)
    resumed = fit(model, *parts, settings=SETTINGS, prior=wall(), folder=tmp_path, quiet=True)
    assert same(resumed, reference)
    best = best_energy(model, tmp_path, settings=SETTINGS, prior=wall())
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (best, reference.energy)), strict=True))


def test_priors_are_told_apart_by_what_they_are():
    names = {describe(p) for p in (wall(), Repulsion(5e4, 12.0, CUTOFF), Repulsion(4e4, 9.0, CUTOFF), ZBL(), ZBL(2.0))}
    assert len(names) == 5 and describe(wall()) in names


def test_a_prior_that_does_not_fit_the_data_is_refused(with_wall, model):
    stranger = AtomicReferences({14: 1.0}) + ZBL()
    with pytest.raises(UserError, match="frame 0: The energy does not know Ar; it knows Si"):
        fit(model, with_wall, settings=SETTINGS, prior=stranger, quiet=True)
    positions = with_wall[0].positions.copy()
    positions[1] = positions[0]
    broken = dataclasses.replace(with_wall[0], positions=positions)
    with pytest.raises(UserError, match="frame 0: the prior is not finite there"):
        subtract(Dataset([broken]), wall())


def test_an_isolated_atom_keeps_exactly_its_reference_energy():
    sizes = {"degree": 2, "radial": 3, "channels": 3, "hidden": 4}
    model = ACE(ACEConfig.preset("nep", (14,), **sizes), key=jax.random.key(0))
    total = model + ZBL(elements=(14,)) + AtomicReferences({14: -101.75})
    alone = batch(make_system(np.zeros((1, 3)), [14], cell=20.0 * np.eye(3)), total.cutoff)
    assert float(jnp.sum(total(alone))) == -101.75
    frame = Record(np.zeros((1, 3)), np.array([14], np.int32), 20.0 * np.eye(3), (True,) * 3, energy=-101.75)
    assert subtract(Dataset([frame]), ZBL(elements=(14,)))[0][0].energy == -101.75
