"""Training: it learns, stops, resumes to the bit, and never loses what it had."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import AtomicReferences, LennardJones, Sum
from jaxmlip.errors import UserError
from jaxmlip.learn import TrainSettings, best_energy, evaluate, fit, train

SETTINGS = TrainSettings(
    epochs=10, batch_size=4, learning_rate=0.01, warmup_steps=5, ema_decay=0.9, dtype="float64", evaluations=5,
    stress_weight=1.0, checkpoint_minutes=0.0,
)  # fmt: skip


def with_(**changes):
    return TrainSettings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__dataclass_fields__}, **changes})


def parameters(result):
    return [np.asarray(x) for x in jax.tree.leaves((result.energy, result.state))]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(parameters(a), parameters(b), strict=True))


def without_clock(history):
    return [{k: v for k, v in line.items() if k != "minutes"} for line in history]


@pytest.fixture(scope="module")
def parts(dataset):
    return dataset[:16], dataset[16:]


@pytest.fixture(scope="module")
def reference(parts):
    """A run that nothing disturbed."""
    start = LennardJones(jnp.asarray(0.03), jnp.asarray(2.2), cutoff=3.1)
    return fit(start, *parts, settings=SETTINGS, quiet=True)


def interrupt_at(step, monkeypatch):
    """Sends Ctrl-C to ourselves when that many steps are done."""
    advance = train._Run.advance

    def stop(run):
        advance(run)
        if run.done == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train._Run, "advance", stop)


def test_lennard_jones_finds_its_parameters(dataset, start):
    settings = with_(epochs=150, learning_rate=0.02, late_energy_weight=1.0, evaluations=3)
    result = fit(start + AtomicReferences({18: -1000.0}), dataset[:16], dataset[16:], settings=settings, quiet=True)
    model = result.energy.terms[0]
    assert np.isclose(float(model.epsilon), 0.05, rtol=1e-3) and np.isclose(float(model.sigma), 2.3, rtol=1e-3)
    report = evaluate(result.energy, dataset, dtype=np.float64)
    assert report.energy_rmse < 1e-4 and report.force_rmse < 1e-3 and result.reason == "finished"


@pytest.fixture(scope="module")
def faulty(dataset):
    """Every other frame is `strained`, and has wrong forces."""
    rng = np.random.default_rng(0)
    wrong = [dataclasses.replace(r, forces=r.forces + 2.0 * rng.normal(size=r.forces.shape)) for r in dataset]
    return Dataset([w if r.config_type == "strained" else r for r, w in zip(dataset, wrong, strict=True)])


def distance(result):
    """How far the parameters are from those that the sound labels were made with."""
    model = result.energy.terms[0]
    return abs(float(model.epsilon) / 0.05 - 1.0) + abs(float(model.sigma) / 2.3 - 1.0)


def test_wrong_labels_count_as_little_as_they_are_told_to(faulty, start):
    common = {
        "epochs": 100,
        "learning_rate": 0.02,
        "late_energy_weight": 0.0,
        "energy_weight": 0.0,
        "stress_weight": 0.0,
    }
    energy = start + AtomicReferences({18: -1000.0})

    def trained(**changes):
        return distance(fit(energy, faulty, settings=with_(**common, **changes), quiet=True))

    squares = trained()
    assert squares > 0.5
    assert trained(student=1.0) < 0.5 * squares
    assert trained(config_weights={"strained": 0.0}) < 0.02 * squares
    with pytest.raises(UserError, match="'straind', but the frames are of bulk, strained"):
        trained(config_weights={"straind": 0.0})


def test_the_result_holds_references_and_is_the_best_of_the_history(parts, reference):
    assert isinstance(reference.energy, Sum) and isinstance(reference.energy.terms[1], AtomicReferences)
    assert abs(float(reference.energy.terms[1].energies[0]) + 1000.0) < 1.0
    scores = [line["valid_score"] for line in reference.history]
    assert len(scores) == 5 and scores[-1] < scores[0]
    report = evaluate(reference.energy, parts[1], dtype=np.float64)
    best = reference.history[int(np.argmin(scores))]
    assert np.isclose(1e3 * report.force_rmse, best["valid_force_rmse_meV_per_A"])
    assert np.isclose(reference.report.force_rmse, report.force_rmse)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(parts, reference, start):
    again = fit(start, *parts, settings=SETTINGS, quiet=True)
    assert same(again, reference) and without_clock(again.history) == without_clock(reference.history)
    assert not same(fit(start, *parts, settings=with_(seed=1), quiet=True), reference)


@pytest.mark.parametrize("step", [6, 17])
def test_an_interrupted_run_resumes_to_the_bit(parts, reference, start, tmp_path, monkeypatch, step):
    interrupt_at(step, monkeypatch)
    stopped = fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    assert stopped.reason == "interrupted" and int(stopped.state.step) == step
    monkeypatch.undo()
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 999, "torn')
    resumed = fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    assert same(resumed, reference) and without_clock(resumed.history) == without_clock(reference.history)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert without_clock(lines) == without_clock(reference.history)
    assert {"learning_curve.png", "parity.png"} <= {p.name for p in tmp_path.iterdir()}
    finished = fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    assert finished.reason == "finished" and same(finished, reference)
    best = best_energy(start, tmp_path, settings=SETTINGS)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (best, reference.energy)), strict=True))


def test_a_killed_run_resumes_to_the_bit(parts, reference, start, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import jax
jax.config.update("jax_enable_x64", True)
import conftest, test_train
from jaxmlip.learn import fit
data = conftest.make_dataset()
fit(conftest.lennard_jones(0.03, 2.2), data[:16], data[16:], settings=test_train.SETTINGS, folder={str(tmp_path)!r})
"""
    checkpoints = tmp_path / "checkpoints"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if checkpoints.is_dir() and any(checkpoints.glob("last-*")):
            break
        time.sleep(0.01)
    time.sleep(0.35)  # in the middle of a step or of a checkpoint, as it happens
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(checkpoints.glob("last-*"))
    resumed = fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    assert same(resumed, reference) and without_clock(resumed.history) == without_clock(reference.history)


def test_a_damaged_checkpoint_costs_one_interval_only(parts, reference, start, tmp_path, monkeypatch, capsys):
    interrupt_at(9, monkeypatch)
    fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    monkeypatch.undo()
    newest = tmp_path / "checkpoints" / "last-000000009"
    blob = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 4
    blob.write_bytes(content)
    resumed = fit(start, *parts, settings=SETTINGS, folder=tmp_path)
    assert "Resumed at step 8" in (said := capsys.readouterr().err) and "corrupt" in said
    assert same(resumed, reference)


def test_compilations_are_bounded_and_none_comes_later(dataset, start):
    traces = []

    class Counting(LennardJones):
        def __call__(self, graph):
            traces.append(graph.senders.shape)
            return super().__call__(graph)

    small = [
        type(r)(**{**vars(r), "positions": r.positions[:1], "numbers": r.numbers[:1], "forces": r.forces[:1]})
        for r in dataset
    ]
    data = Dataset([*dataset[:10], *small[10:]])
    energy = Counting(start.epsilon, start.sigma, cutoff=3.1)
    settings = with_(epochs=12, batch_size=3, max_shapes=2, stress_weight=0.0, evaluations=6)
    fit(energy, data, data[:4], settings=settings, quiet=True)
    compiled = len(traces)
    # At most two shapes to train in, and as many to validate in; twelve epochs of batches that differ in size.
    assert compiled <= 4 and len(set(traces)) == 2
    fit(energy, data, data[:4], settings=with_(epochs=3, batch_size=3, max_shapes=2, stress_weight=0.0), quiet=True)
    assert len(traces) == compiled


def test_parameters_that_are_not_chosen_stay(parts, start):
    settings = with_(steps=3, evaluations=1)
    result = fit(start, *parts, settings=settings, trainable=lambda path, leaf: "sigma" not in path, quiet=True)
    model = result.energy.terms[0]
    assert float(model.sigma) == float(start.sigma) and float(model.epsilon) != float(start.epsilon)
    with pytest.raises(UserError, match="no parameters to train"):
        fit(start, *parts, settings=settings, trainable=lambda path, leaf: False, quiet=True)


def test_it_stops_early_without_progress(parts, start):
    settings = with_(learning_rate=1e-12, patience=2, ema_decay=0.0, evaluations=50)
    truth = LennardJones(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=3.1) + AtomicReferences({18: -1000.0})
    result = fit(truth, *parts, settings=settings, quiet=True)
    assert "no progress" in result.reason and len(result.history) < 50


def test_minutes_become_steps_once(parts, start, tmp_path):
    settings = with_(epochs=None, max_minutes=0.05, evaluations=3, checkpoint_minutes=5.0)
    result = fit(start, *parts, settings=settings, folder=tmp_path, quiet=True)
    last = result.history[-1]
    assert result.reason == "finished" and last["step"] == int(result.state.step)
    assert np.isclose(last["rate"], settings.rate(last["step"] - 1, last["step"])) or last["step"] <= 11


def test_a_loss_that_is_not_finite_stops_the_run(parts, tmp_path):
    hopeless = LennardJones(jnp.asarray(1e300), jnp.asarray(2.3), cutoff=3.1)
    with pytest.raises(FloatingPointError, match=r"loss is (inf|nan) at step 0 \(fcc\.xyz, frame"):
        fit(hopeless, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_missing_labels_stop_the_run(parts, start):
    bare = Dataset([type(r)(**{**vars(r), "forces": None}) for r in parts[0]])
    with pytest.raises(UserError, match=r"asks for forces(.|\n)*fcc\.xyz: 16 frames"):
        fit(start, bare, parts[1], settings=SETTINGS, quiet=True)


def test_elements_without_reference_or_knowledge_are_refused(parts, start):
    copper = LennardJones(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=3.1, elements=(29,))
    with pytest.raises(UserError, match=r"fcc\.xyz, frame 0: The energy does not know Ar"):
        fit(copper, *parts, settings=SETTINGS, quiet=True)
    with pytest.raises(UserError, match=r"fcc\.xyz, frame 0: .* Ar"):
        fit(start + AtomicReferences({29: -1.0}), *parts, settings=SETTINGS, quiet=True)


def test_a_folder_belongs_to_one_run_at_a_time(parts, start, tmp_path, monkeypatch):
    from jaxmlip.learn.folder import locked

    with locked(tmp_path), pytest.raises(UserError, match="Another run is writing"):
        fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    interrupt_at(4, monkeypatch)
    fit(start, *parts, settings=SETTINGS, folder=tmp_path, quiet=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match="`learning_rate` 0.01, not 0.02"):
        fit(start, *parts, settings=with_(learning_rate=0.02), folder=tmp_path, quiet=True)
    with pytest.raises(UserError, match="`data`"):
        fit(start, parts[0][:8], parts[1], settings=SETTINGS, folder=tmp_path, quiet=True)
    with pytest.raises(UserError, match="holds a run already"):
        fit(start, *parts, settings=SETTINGS, folder=tmp_path, resume=False, quiet=True)


def test_lines_tell_how_far_it_is(parts, start, capsys):
    fit(start, *parts, settings=SETTINGS)
    said = capsys.readouterr().err
    assert "Reference energies [eV] (least squares): Ar" in said and "2 parameters; 16 frames by 4; shapes 16x" in said
    assert said.count("meV/Å") == 5
