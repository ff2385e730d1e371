"""Training from beginning to end: `fit` composes steps, validation, checkpoints and resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.data import Batch, Dataset, Loader, find_references, require_labels
from jaxmlip.data.statistics import force_rms
from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import AbstractEnergy, AtomicReferences
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn import checkpoint
from jaxmlip.learn.charges import charge_rms, find_charges
from jaxmlip.learn.evaluate import Report, check_dataset, predict, read_references, split_references
from jaxmlip.learn.figures import learning_curve, parity
from jaxmlip.learn.folder import append_metrics, interruptible, locked, rewrite_metrics
from jaxmlip.learn.loss import Loss, Weights
from jaxmlip.learn.noise import Likelihood, label_scales, make_likelihood, read_noise, score, with_noise
from jaxmlip.learn.prior import describe, restore, subtract
from jaxmlip.learn.progress import Progress, spell_metrics
from jaxmlip.learn.settings import TrainSettings
from jaxmlip.learn.step import Trainable, TrainState, compiled_step, init

_CHECKPOINTS = "checkpoints"
_MAY_CHANGE = ("patience", "checkpoint_minutes", "batch_atoms")  # without changing a step


@dataclasses.dataclass(frozen=True)
class FitResult:
    """`energy` is the best one, references included; `history` holds the lines of `metrics.jsonl`.

    `report` compares `energy` with the validation data; `reason` is `finished`, `interrupted` or why it stopped early.
    """

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
    prior: AbstractEnergy | None = None,
    shapes: Sequence[tuple[int, int]] | None = None,
    quiet: bool = False,
) -> FitResult:
    """Trains an energy on labelled frames; the result is the one that was best on `valid` (the last one without).

    With a `prior` the labels are energies, forces and stresses minus those of the prior: it stays as it is, `energy`
    learns the rest, and the result is `energy + prior`. It is evaluated once for each frame, not at every step.

    Reference energies are those of the energy where it has any, else they are taken from `train`; they stay fixed.
    Frames of isolated atoms serve for nothing else. `trainable(path, leaf)` chooses the parameters; by default all but
    charges that are given.
    `folder` gets `metrics.jsonl`, checkpoints and figures; with `resume`, a run that was stopped there goes on as if it
    never had been, to the bit. Ctrl-C ends it after the step in flight, with a checkpoint.
    With `shapes`, those of a `Loader` of a larger data set, only the first of the trainings on its parts compiles.

    **Raises:** `UserError` for data that cannot be trained on, a folder in use or with another run in it, a full disk;
    `FloatingPointError` where the loss is no longer finite (the last checkpoint is good).
    """
    settings = TrainSettings() if settings is None else settings
    with contextlib.ExitStack() as stack:
        folder = None if folder is None else stack.enter_context(locked(Path(folder)))
        progress = stack.enter_context(Progress(quiet=quiet))
        run = _Run(energy, train, valid, settings, trainable, prior, folder, progress, shapes)
        run.restore(resume)
        run.compile()
        interrupted = stack.enter_context(interruptible())
        while not run.reason:
            run.advance()
            if run.evaluation_is_due():
                run.evaluate()
            if interrupted():
                run.reason = "interrupted"
            run.save(now=bool(run.reason))
        return run.finish()


def best_energy(
    energy: AbstractEnergy,
    folder: Path | str,
    *,
    settings: TrainSettings,
    trainable: Trainable | None = None,
    prior: AbstractEnergy | None = None,
) -> AbstractEnergy:
    """The best energy so far of a run in `folder`, while it runs or after it died; arguments as they were for `fit`.

    **Raises:** `UserError` where there is no intact checkpoint, or it is of another model.
    """
    model, _ = split_references(energy)
    model = with_noise(model, settings)
    problem, state = init(model, Loss(), settings, trainable)
    found = checkpoint.load_last(Path(folder) / _CHECKPOINTS, "best", state.average)
    if found is None:
        raise UserError(f"{folder} holds no best energy yet.")
    params, extra = found
    references = {int(n): e for n, e in extra["references"].items()}
    model = eqx.combine(params, problem.fixed)
    return _total(model, prior, AtomicReferences(references) if references else None)


def prepare_references(
    energy: AbstractEnergy, train: Dataset, settings: TrainSettings, say=print
) -> tuple[AbstractEnergy, AtomicReferences | None]:
    """The energy without references, and these: its own where it has any, else from the data."""
    model, own = split_references(energy)
    if own:
        return model, AtomicReferences(own)
    energies, origin, undetermined = find_references(train, settings.references)
    spelled = ", ".join(f"{SYMBOLS[n]} {e:.6g}" for n, e in energies.items())
    say(f"Reference energies [eV] ({origin}): {spelled or 'none'}")
    if undetermined:
        names = ", ".join(SYMBOLS[n] for n in undetermined)
        say(f"The compositions do not determine the references of {names} one by one: the smallest are taken.")
    return model, (AtomicReferences(energies) if energies else None)


def weighted(train: Dataset, weights: Mapping[str, float]) -> Dataset:
    """The data set with the weights of some `config_type`s multiplied.

    **Raises:** `UserError` for a `config_type` that no frame has.
    """
    known = train.config_types()
    for name in weights:
        if name not in known:
            raise UserError(f"`config_weights` names {name!r}, but the frames are of {', '.join(sorted(known))}.")

    def times(record: Record) -> Record:
        energy, forces, stress = (weights.get(record.config_type, 1.0) * w for w in record.weights)
        return dataclasses.replace(record, weights=(energy, forces, stress))

    return Dataset([times(r) for r in train]) if weights else train


class _Run:
    """The bookkeeping of one `fit`: what is trained on, how far it is, and what is written down."""

    def __init__(
        self,
        energy: AbstractEnergy,
        train: Dataset,
        valid: Dataset | None,
        settings: TrainSettings,
        trainable: Trainable | None,
        prior: AbstractEnergy | None,
        folder: Path | None,
        progress: Progress,
        shapes: Sequence[tuple[int, int]] | None = None,
    ):
        self.settings, self.prior, self.folder, self.progress = settings, prior, folder, progress
        for name, data in (("training", train), ("validation", valid)):
            for notice in data.notices() if data else ():
                progress.say(f"{name} data: {notice}")
        valid = valid.filter(_is_extended) if valid else None
        self.fingerprint = {
            "train": train.filter(_is_extended).fingerprint(),
            "valid": valid.fingerprint() if valid else None,
        }
        self.known: Report | None = None  # of the prior, for the validation data
        if prior is not None:
            train, _ = subtract(train, prior, dtype=settings.dtype)
            if valid:
                valid, self.known = subtract(valid, prior, dtype=settings.dtype)
        model, self.references = prepare_references(energy, train, settings, progress.say)
        self.atoms = {} if self.references is None else read_references(self.references)
        train = weighted(train.filter(_is_extended), settings.config_weights or {})
        for data in filter(None, (train, valid)):
            require_labels(data, settings.labels, missing=settings.missing)
            check_dataset(model if self.references is None else model + self.references, data)
        loader = functools.partial(Loader, references=self.atoms, dtype=settings.dtype, max_shapes=settings.max_shapes)
        size = settings.batch_size
        self.loader = loader(train, model.cutoff, batch_size=size, seed=settings.seed, shapes=shapes)
        self.valid = loader(valid, model.cutoff, batch_atoms=settings.batch_atoms) if valid else None
        self.scale = force_rms(train) or 1.0
        charges = settings.charge_weight > 0
        if charges:
            find_charges(model)
        self.charge_scale = charge_rms(train) or 1.0
        model = with_noise(model, settings, label_scales(self.loader))
        self.loss = self._loss(charges)
        self.problem, self.state = init(model, self.loss, settings, trainable)
        self.best = jax.tree.map(jnp.copy, self.state.average)
        self.best_score, self.best_step, self.best_saved = float("inf"), 0, -1
        self.total: int | None = None if settings.max_minutes else min(self._lengths() or [200 * len(self.loader)])
        self.every: int | None = None if self.total is None else self._interval(self.total, settings.evaluations)
        self.done, self.stale, self.reason = 0, 0, ""
        self.elapsed, self.began = 0.0, time.monotonic()
        self.saved, self.saved_at = -1, time.monotonic()
        self.pending: list[jax.Array] = []  # losses still on the device
        self.losses: list[float] = []  # since the last evaluation
        self.seconds: list[float] = []  # of the first steps
        self.evaluation_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.batches: Iterator[Batch] = iter(())

    def _loss(self, charges: bool) -> Loss | Likelihood:
        """What is minimized."""
        s = self.settings
        if s.noise is not None:
            return make_likelihood(s, self.loader, charge_scale=self.charge_scale)
        return Loss(
            scale=self.scale,
            huber=s.huber,
            student=s.student,
            stress=s.stress_weight > 0,
            charges=charges,
            charge_scale=self.charge_scale,
        )

    # How long

    def _lengths(self) -> list[int]:
        """The numbers of steps that the settings name."""
        s = self.settings
        return [n for n in (s.steps, s.epochs and s.epochs * len(self.loader)) if n]

    def _interval(self, total: int, evaluations: int) -> int:
        """Steps between evaluations, whole epochs where they are shorter."""
        every = max(1, total // evaluations)
        return every - every % len(self.loader) if every > len(self.loader) else every

    def _minutes(self) -> float:
        return (self.elapsed + time.monotonic() - self.began) / 60.0

    def _measure(self, seconds: float, budget: float) -> None:
        """Sets the number of steps from the time of the first ones, so that all take `budget` [s]: once, so that a
        resumed run keeps its schedule."""
        self.seconds.append(seconds)
        if len(self.seconds) < 10 or sum(self.seconds) < min(0.03 * budget, 20.0):
            return
        evaluations = self.settings.evaluations
        if self.evaluation_seconds > 0:
            evaluations = min(evaluations, max(1, int(0.1 * budget / self.evaluation_seconds)))
        left = budget - 60.0 * self._minutes() - evaluations * self.evaluation_seconds
        mean = sum(self.seconds) / len(self.seconds)
        self.total = min([self.done + max(int(left / mean), 1), *self._lengths()])
        self.every = self._interval(self.total, evaluations)
        epochs = self.total / len(self.loader)
        self.progress.say(f"{1e3 * mean:.1f} ms a step: {self.total} steps ({epochs:.1f} epochs) in all.")

    # Steps

    def compile(self) -> None:
        """Compiles every shape on a copy of the state, so that no compilation is taken for a slow step."""
        if self.total is not None and self.done >= self.total:
            self.reason = "finished"
            return
        start = time.monotonic()
        for shape in self.loader.shapes:
            batch = self.loader.pack(self.loader.smallest, shape)
            jax.block_until_ready(compiled_step(self._inputs(batch), jax.tree.map(jnp.copy, self.state)))
        steps = time.monotonic() - start
        if self.valid is not None:
            for _ in range(2):
                begin = time.monotonic()
                self._predict()
                self.evaluation_seconds = time.monotonic() - begin
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        shapes = ", ".join(f"{atoms}x{neighbors}" for atoms, neighbors in self.loader.shapes)
        self.progress.say(
            f"{parameters} parameters; {len(self.loader.frames)} frames by {self.loader.batch_size}; shapes {shapes} "
            f"(padding {self.loader.padding:.2f}); compiled in {steps:.1f} s"
        )

    def _inputs(self, batch: Batch):
        dtype = self.settings.dtype
        rate = np.asarray(self.settings.rate(self.done, self.total), dtype)
        weights = [np.asarray(w, dtype) for w in self.settings.weights(self.done, self.total)]
        rate, *weights = jax.device_put([rate, *weights])
        return self.problem, batch, rate, Weights(*weights)

    def advance(self) -> None:
        """One step, dispatched while the ones before may still run: packing the next batch costs no time then."""
        start = time.monotonic()
        epoch, position = divmod(self.done, len(self.loader))
        batch = next(self.batches, None)
        if batch is None:
            self.batches = self.loader.epoch(epoch, position)
            batch = next(self.batches)
        self.state, value = compiled_step(self._inputs(batch), self.state)
        self.pending.append(value)
        self.done += 1
        if self.total is None and self.settings.max_minutes is not None:
            jax.block_until_ready(value)
            self._measure(time.monotonic() - start, 60.0 * self.settings.max_minutes)
        elif len(self.pending) > 2:
            jax.block_until_ready(self.pending[-3])
        if len(self.pending) >= 100:
            self._fetch_losses()
        if self.done == self.total:
            self.reason = "finished"
        self.progress.update(self.done, self.total, spell_metrics(self.history[-1]) if self.history else "")

    def _fetch_losses(self) -> None:
        """Brings the losses of the last steps to the host, and stops where one is not finite."""
        values = [float(x) for x in self.pending]
        first = self.done - len(values)
        self.pending = []
        for step, value in enumerate(values, start=first):
            if not np.isfinite(value):
                epoch, position = divmod(step, len(self.loader))
                frames = "; ".join(self.loader.dataset[int(i)].where for i in self.loader.plan(epoch)[position])
                raise FloatingPointError(
                    f"The loss is {value} at step {step} ({frames}). Lower `learning_rate` or `clip`, or look for "
                    "wrong labels there. The last checkpoint is good."
                )
        self.losses.extend(values)

    # Validation

    def evaluation_is_due(self) -> bool:
        return self.every is not None and (self.done % self.every == 0 or self.done == self.total)

    def _averaged(self) -> AbstractEnergy:
        return eqx.combine(self.state.average, self.problem.fixed)

    def evaluate(self) -> None:
        """Makes one line of metrics, and remembers the parameters where they are the best so far."""
        self._fetch_losses()
        line: dict[str, Any] = {
            "step": self.done,
            "epoch": round(self.done / len(self.loader), 4),
            "minutes": round(self._minutes(), 4),
            "rate": self.settings.rate(self.done - 1, self.total),
            "train_loss": float(np.mean(self.losses)),
        }
        self.losses = []
        if self.valid is not None:
            report = self._predict()
            line |= {f"valid_{name}": error for name, error in report.errors().items() if not np.isnan(error)}
            line["valid_score"] = self._score(report)
        if self.settings.noise in ("learned", "predicted"):
            line |= {f"noise_{kind}": value for kind, value in read_noise(self._averaged()).items()}
        score = line.get("valid_score", -float(self.done))
        self.stale += 1
        if score < self.best_score:
            self.best = jax.tree.map(jnp.copy, self.state.average)
            self.best_score, self.best_step, self.stale = score, self.done, 0
        self.history.append(line)
        if self.folder is not None:
            append_metrics(self.folder, line)
        self.progress.say(spell_metrics(line))
        if self.settings.patience is not None and self.stale >= self.settings.patience and not self.reason:
            self.reason = f"no progress on the validation data in {self.stale} evaluations"

    def _predict(self, model: AbstractEnergy | None = None) -> Report:
        """Errors of the averaged parameters, or of a model, on the validation data."""
        assert self.valid is not None
        model = self._averaged() if model is None else model
        return predict(model, self.valid, stress=self.loss.stress, charges=self.loss.charges)

    def _score(self, report: Report) -> float:
        """The loss of the validation data with the last weights, as squares where no noise is asked for: what the best
        is chosen by."""
        weights = self.settings.weights(1, 1)
        if isinstance(self.loss, Likelihood):
            assert self.valid is not None
            return score(self.loss, self._averaged(), self.valid, weights)
        terms = (
            (weights.energy, report.energy_rmse / self.scale),
            (weights.forces, report.force_rmse / self.scale),
            (weights.stress, report.virial_rmse / self.scale),
            (weights.charges, report.charge_rmse / self.charge_scale),
        )
        return float(sum(w * error**2 for w, error in terms if w > 0 and not np.isnan(error)))

    # Files

    def _resumed(self) -> tuple[str, ...]:
        """The names of what a checkpoint keeps beside the arrays."""
        return ("total", "every", "done", "best_score", "best_step", "stale", "losses", "history")

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        chosen = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in _MAY_CHANGE}
        known = {str(n): e for n, e in self.atoms.items()}
        prior = None if self.prior is None else describe(self.prior)
        return {**chosen, "data": self.fingerprint, "reference energies": known, "prior": prior}

    def save(self, *, now: bool = False) -> None:
        """Writes checkpoints where it is time to, or `now`."""
        due = time.monotonic() - self.saved_at >= 60.0 * self.settings.checkpoint_minutes
        if self.folder is None or self.saved == self.done or not (now or due):
            return
        self._fetch_losses()
        home = self.folder / _CHECKPOINTS
        extra = {name: getattr(self, name) for name in self._resumed()}
        extra |= {"elapsed": 60.0 * self._minutes(), "identity": self._identity()}
        checkpoint.save(home, "last", self.done, {"state": self.state, "best": self.best}, extra)
        if self.best_step > self.best_saved:
            known = {str(n): e for n, e in self.atoms.items()}
            checkpoint.save(
                home, "best", self.best_step, self.best, {"references": known, "score": self.best_score}, keep=1
            )
            self.best_saved = self.best_step
        self.saved, self.saved_at = self.done, time.monotonic()

    def restore(self, resume: bool) -> None:
        """Goes on from the last checkpoint in the folder, where there is one.

        **Raises:** `UserError` where the run there is not to be resumed, or was another one.
        """
        if self.folder is None:
            return
        home = self.folder / _CHECKPOINTS
        if not resume and checkpoint.steps(home, "last"):
            raise UserError(f"{self.folder} holds a run already: resume it, or give another folder.")
        path = checkpoint.last_intact(home, "last", self.progress.say)
        if path is None:
            rewrite_metrics(self.folder, [])
            return
        extra = checkpoint.read_extra(path)
        for name, value in self._identity().items():
            if extra["identity"].get(name) != value:
                raise UserError(
                    f"{self.folder} holds a run with `{name}` {extra['identity'].get(name)}, not {value}: "
                    "resume with what it began with, or give another folder."
                )
        tree, extra = checkpoint.load(path, {"state": self.state, "best": self.best})
        self.state, self.best = tree["state"], tree["best"]
        for name in (*self._resumed(), "elapsed"):
            setattr(self, name, extra[name])
        self.saved = self.done
        rewrite_metrics(self.folder, self.history)
        self.progress.say(f"Resumed at step {self.done} of {self.total or 'as many as time allows'}.")

    def finish(self) -> FitResult:
        """The best energy, and the figures of it."""
        params = self.best if self.best_step > 0 else self.state.average
        model = eqx.combine(params, self.problem.fixed)
        report = None if self.valid is None else self._predict(model)
        if report is not None and self.known is not None:
            report = restore(report, self.known)
        if self.folder is not None and self.reason != "interrupted":
            learning_curve(self.history, self.folder / "learning_curve.png")
            if report is not None:
                parity(report, self.folder / "parity.png")
        return FitResult(_total(model, self.prior, self.references), self.history, self.state, self.reason, report)


def _total(model: AbstractEnergy, prior: AbstractEnergy | None, atoms: AtomicReferences | None) -> AbstractEnergy:
    """The whole energy: what was trained, and what was known beforehand."""
    return functools.reduce(operator.add, (term for term in (model, prior, atoms) if term is not None))


def _is_extended(record: Record) -> bool:
    return not record.is_isolated_atom
