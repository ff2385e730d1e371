"""Maximum likelihood: the loss is one, noise is found, predicted, kept in files, and costs an energy nothing."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import AtomicReferences, Committee, LabelNoise, LennardJones, energy_forces, energy_forces_virial
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.learn import (
    Likelihood,
    Loss,
    TrainSettings,
    Weights,
    best_energy,
    fit,
    predict_noise,
    read_noise,
    train,
)
from jaxmlip.learn.noise import counts, find_noise, label_scales, without_noise
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig

SIGMA = np.array([0.004, 0.02, 0.01])
OFFSET = {18: -1000.0}
SETTINGS = TrainSettings(
    epochs=20, batch_size=4, learning_rate=0.01, warmup_steps=5, dtype="float64", evaluations=4, stress_weight=1.0,
    noise="learned", checkpoint_minutes=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def value():
    return jax.jit(lambda loss, energy, batch: loss(energy, batch, Weights(1.0, 1.0, 1.0)))


@pytest.fixture(scope="module")
def loader(dataset):
    return Loader(dataset, 3.1, batch_size=4, references=OFFSET, dtype=np.float64)


@pytest.fixture(scope="module")
def noisy(many_frames):
    """200 frames with noise of known size on every label."""
    rng = np.random.default_rng(5)

    def with_noise(r):
        strain = rng.normal(size=(3, 3))
        symmetric = np.triu(strain) + np.triu(strain, 1).T
        return dataclasses.replace(
            r,
            energy=r.energy + len(r) * SIGMA[0] * rng.normal(),
            forces=r.forces + SIGMA[1] * rng.normal(size=(len(r), 3)),
            stress=r.stress + SIGMA[2] * symmetric * len(r) / abs(np.linalg.det(r.cell)),
        )

    return Dataset([with_noise(r) for r in many_frames])


def wrong(energy, batch):
    """Errors per atom, of force components, and of virials per atom."""
    total, forces, virial = energy_forces_virial(energy, batch.graph)
    labels = batch.labels
    per_atom = -np.asarray(virial) / 4.0 - np.asarray(labels.virial_per_atom)
    return np.asarray(total - labels.energy) / 4.0, np.asarray(forces - labels.forces), per_atom


@pytest.mark.parametrize("student", [None, 4.0])
def test_the_loss_is_minus_the_logarithm_of_the_likelihood(loader, start, value, student):
    batch, noise = loader.pack([0, 1, 2, 3]), LabelNoise(SIGMA)
    loss = Likelihood(student=student, stress=True)
    density = stats.norm() if student is None else stats.t(student)
    expected = [-np.mean(density.logpdf(x / s) - np.log(s)) for x, s in zip(wrong(start, batch), SIGMA, strict=True)]
    constant = 3.0 * density.logpdf(0.0)
    assert np.isclose(float(value(loss, start + noise, batch)), sum(expected) + constant, rtol=1e-8)


def test_weights_are_inverse_variances(loader, start):
    batch = loader.pack([0, 1, 2, 3])
    given = LabelNoise(SIGMA, fixed=True)
    likelihood = jax.grad(lambda e: Likelihood(stress=True)(e + given, batch, Weights(1.0, 1.0, 1.0)))(start)
    squares = jax.grad(lambda e: Loss(stress=True)(e, batch, Weights(*(0.5 / SIGMA**2))))(start)
    assert np.isclose(float(likelihood.epsilon), float(squares.epsilon), rtol=1e-8)
    assert np.isclose(float(likelihood.sigma), float(squares.sigma), rtol=1e-8)


def test_a_batch_is_the_mean_of_its_frames_and_what_is_missing_does_not_matter(dataset, loader, start, value):
    head = ACE(ACEConfig((18,), 3.1, degree=1, radial=2, channels=2, hidden=2, products=False), key=jax.random.key(0))
    energy, loss = start + LabelNoise(SIGMA, head=head), Likelihood(stress=True, beta=0.5)
    alone = [value(loss, energy, loader.pack([i])) for i in range(4)]
    assert jnp.allclose(value(loss, energy, loader.pack([0, 1, 2, 3])), sum(alone), rtol=1e-12)
    lacking = dataclasses.replace(dataset[1], forces=None, energy=None, stress=None)
    other = Loader(Dataset([dataset[0], lacking, *dataset[2:]]), 3.1, batch_size=4, references=OFFSET, dtype=np.float64)
    assert jnp.allclose(value(loss, energy, other.pack([0, 1])), alone[0], rtol=1e-12)
    gradient = jax.jit(jax.grad(lambda e: loss(e, other.pack([0, 1]), Weights(1.0, 1.0, 1.0))))(energy)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(gradient))


def test_the_balance_repeats_labels():
    assert counts(1.0, 64.0) == (1.0, 1.0)
    energy, virial = counts(0.0, 64.0)
    assert np.isclose(1.0 / energy, 192.0) and np.isclose(1.0 / virial, 32.0)  # one label beside all force components
    assert counts(2.0, 64.0)[0] > counts(1.5, 64.0)[0] > 1.0


def test_planted_noise_is_found(noisy):
    energy = LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=3.1) + AtomicReferences(OFFSET)
    result = fit(energy, noisy[:160], noisy[160:], settings=SETTINGS, quiet=True)
    found = np.array(list(read_noise(result.energy).values()))
    assert np.all(np.abs(found / SIGMA - 1.0) < 0.15)
    assert np.isclose(float(result.energy.terms[0].sigma), 2.3, rtol=1e-3)
    assert result.history[-1]["noise_force"] == pytest.approx(found[1], rel=0.1)
    plain = fit(
        result.energy,
        noisy[:8],
        settings=dataclasses.replace(SETTINGS, noise=None, epochs=1, stress_weight=0.0),
        quiet=True,
    )
    assert len(plain.energy.terms) == 2  # noise that nothing updates is not carried along


def crowding(record):
    """How crowded each atom is: a smooth number of neighbors."""
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, 3.1)
    vectors = record.positions[senders] + shifts @ record.cell - record.positions[receivers]
    near = np.exp(-(np.linalg.norm(vectors, axis=1) - 2.6) / 0.3)
    return np.bincount(receivers, near, minlength=len(record))


@pytest.mark.slow
def test_noise_is_predicted_for_each_atom(many_frames):
    rng = np.random.default_rng(7)
    crowds = np.concatenate([crowding(r) for r in many_frames])
    sigma = (0.02 * np.exp(0.4 * (crowds - crowds.mean()) / crowds.std())).reshape(-1, 4)
    noise = [s[:, None] * rng.normal(size=(4, 3)) for s in sigma]
    data = Dataset([dataclasses.replace(r, forces=r.forces + x) for r, x in zip(many_frames, noise, strict=True)])
    head = ACE(
        ACEConfig((18,), 3.1, degree=1, channels=4, hidden=8, products=False, energy_scale=0.3), key=jax.random.key(0)
    )
    energy = LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=3.1) + LabelNoise((1.0, 0.3, 1.0), head=head)
    settings = dataclasses.replace(SETTINGS, noise="predicted", stress_weight=0.0)
    result = fit(energy + AtomicReferences(OFFSET), data[:160], data[160:], settings=settings, quiet=True)
    found = predict_noise(result.energy, data[160:], dtype=np.float64)
    true = sigma[160:].ravel()
    assert stats.spearmanr(found.forces, true)[0] > 0.9
    assert np.median(np.abs(found.forces / true - 1.0)) < 0.15
    assert found.energy.shape == (40,) and found.frame[-1] == 39


@pytest.fixture(scope="module")
def carrier():
    """An energy with its noise, and the energy alone."""
    sizes = {"degree": 2, "radial": 3, "channels": 3, "hidden": 4, "products": False}
    model = ACE(ACEConfig((18,), 3.1, **sizes), key=jax.random.key(0))
    head = ACE(ACEConfig((18,), 3.1, **sizes), key=jax.random.key(1))
    return model + LabelNoise(SIGMA, head=head), model


def test_an_energy_with_noise_is_the_energy_to_the_bit(carrier, loader):
    energy, model = carrier
    graph = loader.pack([0, 1, 2, 3]).graph
    run = jax.jit(energy_forces)
    assert all(bool(jnp.array_equal(a, b)) for a, b in zip(run(energy, graph), run(model, graph), strict=True))
    assert without_noise(energy) is model
    lines = [str(jax.jit(energy_forces).lower(e, graph).compile().as_text()).count("fusion(") for e in carrier]
    assert lines[0] == lines[1]  # the head is not computed


def test_noise_is_kept_in_the_file(carrier, tmp_path):
    energy, _ = carrier
    again = pretrained.load(pretrained.save(tmp_path / "model", energy + AtomicReferences(OFFSET)))
    assert eqx.tree_equal(again.terms[1], energy.terms[1])
    assert read_noise(again) == pytest.approx(dict(zip(("energy", "force", "virial"), SIGMA, strict=True)), rel=1e-6)


def test_a_run_with_noise_goes_on_to_the_bit(noisy, tmp_path):
    start = LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=3.1)
    parts = noisy[:16], noisy[16:20]
    settings = dataclasses.replace(SETTINGS, epochs=4, stress_weight=0.0)
    whole = fit(start, *parts, settings=settings, quiet=True, folder=tmp_path / "whole")

    advance = train._Run.advance
    with pytest.MonkeyPatch.context() as patch:

        def stop(run):
            advance(run)
            if run.done == 9:
                run.reason = "interrupted"

        patch.setattr(train._Run, "advance", stop)
        assert fit(start, *parts, settings=settings, quiet=True, folder=tmp_path / "cut").reason == "interrupted"
    again = fit(start, *parts, settings=settings, quiet=True, folder=tmp_path / "cut")
    assert eqx.tree_equal(again.energy, whole.energy) and len(jax.tree.leaves(whole.energy)) == 4
    best = best_energy(start, tmp_path / "cut", settings=settings)
    assert read_noise(best) == read_noise(whole.energy)


def test_given_noise_does_not_train(noisy):
    start = LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=3.1)
    settings = dataclasses.replace(
        SETTINGS, epochs=2, noise="given", energy_noise=0.004, force_noise=0.02, stress_weight=0.0
    )
    result = fit(start, noisy[:16], noisy[16:24], settings=settings, quiet=True)
    assert list(read_noise(result.energy).values()) == pytest.approx([0.004, 0.02, 1.0], rel=1e-12)
    assert float(result.energy.terms[0].epsilon) != 0.03


def test_what_is_not_there_is_said(noisy, start, loader):
    with pytest.raises(UserError, match="0 terms that say"):
        find_noise(start)
    with pytest.raises(ValueError, match="positive"):
        LabelNoise((1.0, 0.0, 1.0))
    with pytest.raises(UserError, match="does not name its elements"):
        fit(start, noisy[:8], settings=dataclasses.replace(SETTINGS, noise="predicted"), quiet=True)
    two = Committee.of([start, LennardJones(jnp.asarray(0.04), jnp.asarray(2.3), cutoff=3.1)])
    with pytest.raises(UserError, match="one model at a time"):
        fit(two, noisy[:8], settings=SETTINGS, quiet=True)
    scales = label_scales(loader)
    assert scales[1] == pytest.approx(float(np.sqrt(np.mean([f.forces**2 for f in loader.frames]))))
    assert scales[0] < 1.0  # the reference energies are taken off


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": "guessed"}, "given, learned, predicted"),
        ({"noise": "given"}, "`energy_noise` must be given"),
        ({"noise": "given", "energy_noise": 0.01, "force_noise": -1.0}, "`force_noise` must be positive"),
        ({"noise": "learned", "force_noise": 0.1}, '`force_noise` needs `noise = "given"`'),
        ({"force_noise": 0.1}, '`force_noise` needs `noise = "given"`'),
        ({"noise": "given", "energy_noise": 0.01, "force_noise": 0.1, "virial_noise": 0.1}, "`virial_noise` needs a w"),
        ({"balance": 0.5}, "`balance` needs `noise`"),
        ({"noise": "learned", "balance": 9.0}, "`balance` lies from"),
        ({"noise": "learned", "noise_beta": 0.5}, "`noise_beta` needs"),
        ({"noise": "predicted", "noise_beta": 2.0}, "from 0 to 1"),
        ({"noise": "predicted", "force_weight": 0.0}, "needs forces"),
    ],
)
def test_settings_of_noise_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TrainSettings(**changes)
