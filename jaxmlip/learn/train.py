"""Training: a state, one step, and a loop that only composes them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxmlip.data import Batch, Dataset, Loader, find_references, require_labels
from jaxmlip.data.statistics import force_rms
from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import AbstractEnergy, AtomicReferences
from jaxmlip.errors import UserError
from jaxmlip.learn import checkpoint
from jaxmlip.learn.evaluate import Report, check_dataset, predict, read_references, split_references
from jaxmlip.learn.loss import Loss, Weights
from jaxmlip.learn.progress import Progress
from jaxmlip.learn.settings import TrainSettings

Trainable = Callable[[str, Any], bool]


class TrainState(eqx.Module):
    """All that a step changes: the trained parameters, their moving average and the state of the optimizer."""

    params: PyTree
    average: PyTree
    optimizer: PyTree
    step: Int[Array, ""]


class Problem(NamedTuple):
    """All that a step does not change: the rest of the energy, the loss and the optimizer."""

    fixed: PyTree
    loss: Loss
    optimizer: optax.GradientTransformation
    ema_decay: float


def init(
    energy: AbstractEnergy, loss: Loss, settings: TrainSettings, trainable: Trainable | None = None
) -> tuple[Problem, TrainState]:
    """Divides an energy into what trains and what does not.

    All floating-point JAX arrays train, but where `trainable(path, leaf)` says no; the path reads `.terms[0].layers[1].weight`.

    **Raises:** `UserError` where nothing is left to train.
    """
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _is_parameter(leaf) and (trainable is None or trainable(jax.tree_util.keystr(path), leaf)),
        energy,
    )
    params, fixed = eqx.partition(energy, chosen)
    params = jax.tree.map(lambda x: jnp.array(x, settings.dtype), params)
    if not jax.tree.leaves(params):
        raise UserError(
            "The energy has no parameters to train: no floating-point arrays, or none that `trainable` chooses."
        )
    optimizer = settings.build_optimizer()
    state = TrainState(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32))
    return Problem(fixed, loss, optimizer, settings.ema_decay), state


def step(
    inputs: tuple[Problem, Batch, Float[Array, ""], Weights], state: TrainState
) -> tuple[TrainState, Float[Array, ""]]:
    """One step down the gradient of the loss of a batch: the new state, and the loss before it.

    `inputs` are the problem, the batch, the learning rate and the weights of the loss.
    """
    problem, batch, rate, weights = inputs

    def objective(params):
        return problem.loss(eqx.combine(params, problem.fixed), batch, weights)

    value, gradient = jax.value_and_grad(objective)(state.params)
    updates, optimizer = problem.optimizer.update(gradient, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p + rate.astype(p.dtype) * u, state.params, updates)
    age = state.step.astype(rate.dtype)
    decay = jnp.minimum(jnp.asarray(problem.ema_decay, rate.dtype), (1.0 + age) / (10.0 + age))
    average = jax.tree.map(lambda a, p: a + (1.0 - decay).astype(p.dtype) * (p - a), state.average, params)
    return TrainState(params, average, optimizer, state.step + 1), value


compiled_step = eqx.filter_jit(step, donate="all-except-first")


@dataclasses.dataclass(frozen=True)
class FitResult:
    """`energy` is the best one, references included; `history` the lines of `metrics.jsonl`; `reason` why it ended."""

    energy: AbstractEnergy
    history: list[dict[str, Any]]
    state: TrainState
    reason: str
    report: Report | None


def fit(
    energy: AbstractEnergy,
    train: Dataset,
    valid: Dataset | None = None,
    *,
    settings: TrainSettings | None = None,
    folder: Path | str | None = None,
    resume: bool = True,
    trainable: Trainable | None = None,
    quiet: bool = False,
) -> FitResult:
    """Trains an energy on labelled frames and returns the one that was best on `valid` (the last one without).

    Reference energies are taken from the energy where it has any, else from `train`, and stay fixed. `folder` gets
    `metrics.jsonl` and checkpoints; a run that was interrupted there goes on as if it had not been (`resume`), to the bit.
    Ctrl-C ends it after the step in flight, with a checkpoint.

    **Raises:** `UserError` for data that cannot be trained on, a folder in use or with another run in it, a full disk;
    `FloatingPointError` where the loss is no longer finite (the last checkpoint is good).
    """
    settings = settings or TrainSettings()
    with contextlib.ExitStack() as stack:
        folder = _open_folder(folder, stack)
        progress = stack.enter_context(Progress(quiet=quiet))
        run = _Run(energy, train, valid, settings, trainable, folder, progress)
        run.restore(resume)
        run.compile()
        interrupted = stack.enter_context(_interruptible())
        while not run.reason:
            run.advance()
            if run.is_due():
                run.evaluate()
            if interrupted():
                run.reason = "interrupted"
            run.checkpoint(now=bool(run.reason))
    return run.result()


class _Run:
    """The bookkeeping of one `fit`: what is trained, how far it is, and what is written down."""

    def __init__(self, energy, train, valid, settings, trainable, folder, progress):
        self.settings, self.folder, self.progress = settings, folder, progress
        model, references = prepare_references(energy, train, settings)
        self.references = references
        train = train.filter(lambda record: not record.is_isolated_atom)
        valid = valid.filter(lambda record: not record.is_isolated_atom) if valid else None
        for data in filter(None, (train, valid)):
            require_labels(data, settings.labels, missing=settings.missing)
            check_dataset(model, data)
        self.known = {} if references is None else read_references(references)
        for data in filter(None, (train, valid)):
            _check_references(self.known, data)
        common = {"references": self.known, "dtype": settings.dtype, "max_shapes": settings.max_shapes}
        self.loader = Loader(train, model.cutoff, batch_size=settings.batch_size, seed=settings.seed, **common)
        self.valid = Loader(valid, model.cutoff, batch_atoms=settings.batch_atoms, **common) if valid else None
        stress = settings.stress_weight > 0
        self.loss = Loss(scale=force_rms(train) or 1.0, huber=settings.huber, stress=stress)
        self.problem, self.state = init(model, self.loss, settings, trainable)
        self.best, self.best_score, self.best_step = self.state.average, float("inf"), -1
        self.best = jax.tree.map(jnp.copy, self.best)
        self.total = self._fixed_total()
        self.elapsed, self.began = 0.0, time.monotonic()
        self.done, self.stale, self.reason = 0, 0, ""
        self.pending: list[jax.Array] = []
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.report: Report | None = None
        self.saved_at, self.saved_step = time.monotonic(), -1
        self.seconds: list[float] = []
        self.evaluation_seconds = 0.0
        self.batches: Iterator[Batch] | None = None
        self.fingerprint = {"train": train.fingerprint(), "valid": valid.fingerprint() if valid else None}

    # How long

    def _fixed_total(self) -> int | None:
        """Number of steps where it does not depend on the clock."""
        s = self.settings
        lengths = [n for n in (s.steps, s.epochs and s.epochs * len(self.loader)) if n]
        if s.max_minutes is None:
            return min(lengths) if lengths else 200 * len(self.loader)
        return None

    def minutes(self) -> float:
        return (self.elapsed + time.monotonic() - self.began) / 60.0

    def _measure(self, seconds: float) -> None:
        """Sets the number of steps from the time of the first ones, once."""
        self.seconds.append(seconds)
        budget = 60.0 * self.settings.max_minutes
        if len(self.seconds) < 10 or sum(self.seconds) < min(0.03 * budget, 20.0):
            return
        left = budget - 60.0 * self.minutes() - self.settings.evaluations * self.evaluation_seconds
        mean = sum(self.seconds) / len(self.seconds)
        lengths = [
            n for n in (self.settings.steps, self.settings.epochs and self.settings.epochs * len(self.loader)) if n
        ]
        self.total = min([self.done + max(int(left / mean), 1), *lengths])
        self.progress.say(
            f"{1e3 * mean:.1f} ms a step: {self.total} steps ({self.total / len(self.loader):.1f} epochs) in all"
        )

    # One step

    def compile(self) -> None:
        """Compiles every shape on a copy of the state, so that no compilation is taken for a slow step."""
        if self.total is not None and self.done >= self.total:
            self.reason = "finished"
            return
        start = time.monotonic()
        for shape in self.loader.shapes:
            batch = self.loader.pack(self.loader.smallest, shape)
            compiled_step(self._inputs(batch), jax.tree.map(jnp.copy, self.state))
        middle = time.monotonic()
        if self.valid is not None:
            predict(self._averaged(), self.valid, stress=self.loss.stress)
            begin = time.monotonic()
            predict(self._averaged(), self.valid, stress=self.loss.stress)
            self.evaluation_seconds = time.monotonic() - begin
        shapes = ", ".join(f"{a}x{n}" for a, n in self.loader.shapes)
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.progress.say(
            f"{parameters} parameters; {len(self.loader.frames)} frames in batches of {self.loader.batch_size}; shapes {shapes} "
            f"(padding {self.loader.padding:.2f}) compiled in {middle - start:.1f} s"
        )

    def _inputs(self, batch: Batch):
        rate = jnp.asarray(self.settings.rate(self.done, self.total), self.settings.dtype)
        weights = Weights(*(jnp.asarray(w, self.settings.dtype) for w in self.settings.weights(self.done, self.total)))
        return self.problem, batch, rate, weights

    def advance(self) -> None:
        """One step, dispatched while the one before may still run."""
        start = time.monotonic()
        epoch, position = divmod(self.done, len(self.loader))
        if self.batches is None or position == 0:
            self.batches = self.loader.epoch(epoch, position)
        self.state, value = compiled_step(self._inputs(next(self.batches)), self.state)
        self.pending.append(value)
        self.done += 1
        if self.total is None:
            jax.block_until_ready(value)
            self._measure(time.monotonic() - start)
        if len(self.pending) > 2:
            jax.block_until_ready(self.pending[-3])
        if len(self.pending) > 100:
            self._drain()
        if self.total is not None and self.done >= self.total:
            self.reason = "finished"
        self.progress.update(self.done, self.total, self._message())

    def _drain(self) -> None:
        """Fetches the losses of the last steps and stops where one is not finite."""
        values = [float(x) for x in self.pending]
        first = self.done - len(values)
        self.pending = []
        bad = [i for i, value in enumerate(values) if not np.isfinite(value)]
        if bad:
            epoch, position = divmod(first + bad[0], len(self.loader))
            frames = ", ".join(self.loader.dataset[int(i)].where for i in self.loader.plan(epoch)[position])
            raise FloatingPointError(
                f"The loss is {values[bad[0]]} at step {first + bad[0]} (frames: {frames}). Lower `learning_rate` or `clip`, "
                "or look for wrong labels there. The last checkpoint is good."
            )
        self.losses.extend(values)

    # Validation

    def is_due(self) -> bool:
        if self.total is None:
            return False
        every = max(1, self.total // self.settings.evaluations)
        if every > len(self.loader):
            every -= every % len(self.loader)
        return self.done % every == 0 or self.done >= self.total

    def _averaged(self) -> AbstractEnergy:
        return eqx.combine(self.state.average, self.problem.fixed)

    def evaluate(self) -> None:
        """Writes one line of metrics, and remembers the parameters where they are the best so far."""
        self._drain()
        loss = float(np.mean(self.losses)) if self.losses else float("nan")
        line: dict[str, Any] = {
            "step": self.done,
            "epoch": round(self.done / len(self.loader), 4),
            "minutes": round(self.minutes(), 4),
            "rate": self.settings.rate(self.done - 1, self.total),
            "train_loss": loss,
        }
        self.losses = []
        score = loss
        if self.valid is not None:
            self.report = predict(self._averaged(), self.valid, stress=self.loss.stress)
            line |= {f"valid_{k}": v for k, v in self.report.errors().items() if np.isfinite(v)}
            line["valid_score"] = score = self._score(self.report)
        if self.valid is None or score < self.best_score:
            self.best, self.best_score, self.best_step = jax.tree.map(jnp.copy, self.state.average), score, self.done
            self.stale = 0
        else:
            self.stale += 1
        self.history.append(line)
        _append(self.folder, line)
        self.progress.say(_spell(line))
        if self.settings.patience is not None and self.stale >= self.settings.patience and not self.reason:
            self.reason = "no progress on the validation data"

    def _score(self, report: Report) -> float:
        """The loss of squares on the validation data with the last weights, by which the best is chosen."""
        weights = self.settings.weights(10**9, 1)
        terms = [(weights.energy, report.energy_rmse), (weights.forces, report.force_rmse)]
        if self.loss.stress:
            volumes = [abs(np.linalg.det(r.cell)) / len(r) for r in self.valid.dataset if all(r.pbc)]
            terms.append((weights.stress, report.stress_rmse * float(np.mean(volumes))))
        return float(sum(w * (x / self.loss.scale) ** 2 for w, x in terms if w > 0 and np.isfinite(x)))

    def _message(self) -> str:
        if not self.history:
            return ""
        last = self.history[-1]
        return f"valid F {last.get('valid_force_rmse_meV_per_A', float('nan')):.4g} meV/Å"

    # Files

    def _progress_of(self) -> dict[str, Any]:
        return {
            "settings": dataclasses.asdict(self.settings),
            "fingerprint": self.fingerprint,
            "references": {str(n): e for n, e in self.known.items()},
            "total": self.total,
            "done": self.done,
            "elapsed": 60.0 * self.minutes(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "stale": self.stale,
            "losses": self.losses,
            "history": self.history,
        }

    def checkpoint(self, *, now: bool = False) -> None:
        """Saves the state where it is time to, or `now`."""
        due = time.monotonic() - self.saved_at >= 60.0 * self.settings.checkpoint_minutes
        if self.folder is None or self.saved_step == self.done or not (now or due):
            return
        self._drain()
        tree = {"state": self.state, "best": self.best}
        checkpoint.save(self.folder / "checkpoints", "last", self.done, tree, self._progress_of())
        self.saved_at, self.saved_step = time.monotonic(), self.done

    def restore(self, resume: bool) -> None:
        """Goes on from the last checkpoint in the folder, where there is one."""
        if self.folder is None:
            return
        home = self.folder / "checkpoints"
        if not resume:
            if checkpoint.steps(home, "last"):
                raise UserError(f"{self.folder} holds a run already: resume it, or give another folder.")
            return
        found = checkpoint.load_last(home, "last", {"state": self.state, "best": self.best}, self.progress.say)
        if found is None:
            return
        tree, extra = found
        _check_same(self.folder, extra, self._progress_of())
        self.state, self.best = tree["state"], tree["best"]
        for name in ("total", "done", "elapsed", "best_score", "best_step", "stale", "losses", "history"):
            setattr(self, name, extra[name])
        self.saved_step = self.done
        _rewrite(self.folder, self.history)
        self.progress.say(f"Resumed at step {self.done} of {self.total or 'as many as time allows'}.")

    def result(self) -> FitResult:
        model = eqx.combine(self.best if self.best_step >= 0 else self.state.average, self.problem.fixed)
        energy = model if self.references is None else model + self.references
        return FitResult(energy, self.history, self.state, self.reason, self.report)


def prepare_references(
    energy: AbstractEnergy, train: Dataset, settings: TrainSettings
) -> tuple[AbstractEnergy, AtomicReferences | None]:
    """The energy without references, and these: its own where it has any, else from the data."""
    model, own = split_references(energy)
    if own:
        return model, AtomicReferences(own)
    energies, _, _ = find_references(train, settings.references)
    return model, (AtomicReferences(energies) if energies else None)


def _is_parameter(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _check_references(known: dict[int, float], data: Dataset) -> None:
    lacking = sorted(set(data.elements) - set(known)) if known else []
    if lacking:
        first = next(r for r in data if np.isin(r.numbers, lacking).any())
        raise UserError(f"{first.where}: no reference energy for {', '.join(SYMBOLS[n] for n in lacking)}.")


def _spell(line: dict[str, Any]) -> str:
    """A line of metrics for people."""
    names = {
        "valid_energy_rmse_meV_per_atom": "E meV/atom",
        "valid_force_rmse_meV_per_A": "F meV/Å",
        "valid_stress_rmse_GPa": "S GPa",
    }
    errors = "  ".join(f"{name} {line[key]:.4g}" for key, name in names.items() if key in line)
    return f"step {line['step']}  epoch {line['epoch']:.1f}  {line['minutes']:.2f} min  loss {line['train_loss']:.4g}  {errors}"


_FREE = ("evaluations", "patience", "checkpoint_minutes", "batch_atoms")


def _check_same(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run that began otherwise."""
    for name in now["settings"]:
        if name not in _FREE and saved["settings"].get(name) != now["settings"][name]:
            raise UserError(
                f"{folder} holds a run with `{name}` {saved['settings'].get(name)}, not {now['settings'][name]}: "
                "use its settings, or another folder."
            )
    for name in ("fingerprint", "references"):
        if saved[name] != now[name]:
            raise UserError(f"{folder} holds a run on other data ({name} differ): use the same, or another folder.")


def _append(folder: Path | None, line: dict[str, Any]) -> None:
    if folder is None:
        return
    try:
        with open(folder / "metrics.jsonl", "a") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"Cannot write {folder / 'metrics.jsonl'}: {error}.") from error


def _rewrite(folder: Path, history: list[dict[str, Any]]) -> None:
    """Metrics as they were at the checkpoint: lines after it will be made again."""
    scratch = folder / ".metrics.jsonl"
    scratch.write_text("".join(json.dumps(line) + "\n" for line in history))
    os.replace(scratch, folder / "metrics.jsonl")


def _open_folder(folder: Path | str | None, stack: contextlib.ExitStack) -> Path | None:
    """The folder of a run, locked until the run ends or dies."""
    if folder is None:
        return None
    import fcntl

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(folder / ".lock", "w"))
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(f"Another run is writing to {folder}; wait for it, or give another folder.") from error
    return folder


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a flag; a second Ctrl-C interrupts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def catch(number, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
