"""`jaxmlip finetune`: bring a model to what has been observed, and keep its labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import tyro

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require_number
from jaxmlip.cli.structures import read_model
from jaxmlip.cli.targets import read_targets
from jaxmlip.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxmlip.energy import AbstractEnergy
    from jaxmlip.learn.finetune import Finetuned
    from jaxmlip.learn.replay import Replay
    from jaxmlip.learn.step import Trainable

MODEL = "model.jaxmlip"
CHECKPOINT = "finetune.checkpoint"


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labelled structures that the model was trained on, to be kept; how well it describes them."""

    files: tuple[Path, ...] = ()
    energy_meV_per_atom: float = 5.0
    forces_meV_per_angstrom: float = 100.0
    virial_meV_per_atom: float = 50.0
    weight: float = 1.0
    """1 takes all deviations for independent; less where frames are much alike."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How far and how carefully; see `jaxmlip.learn.FinetuneSettings`."""

    updates: int = 20
    freedom: float = 1.0
    """Width of the prior about the parameters of the model, in their root mean squares."""
    leap: float = 1.0
    """How many times farther than its frames reach a step may go; beyond 1 new frames judge each step."""
    label_rise: float = 0.1
    """How much the root mean square deviation of the labels may rise."""
    rhat: float = 1.1
    max_force_eV_per_angstrom: float = 50.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Bring a model to what has been observed, and keep its labels. Structures, state points and targets are tables of
    the configuration file: `[structures.NAME]`, `[states.NAME]`, `[targets.NAME]`."""

    model: str
    """Model file, or the name of a pretrained model."""
    output: Path = Path("runs/finetune")
    resume: bool = False
    """Go on with the fit in `output`, to the bit."""
    by: Literal["parameters", "low-rank", "correction"] = "parameters"
    """What changes: the parameters, products of thin matrices beside each, or an energy that is added."""
    train: tuple[str, ...] = ()
    """Parameters to change: `last layer`, `species embedding`, or any part of their path; without, all of them."""
    rank: int = 4
    """Of what is added to each matrix with `by = "low-rank"`."""
    labels: Labels = Labels()
    fit: Fit = Fit()
    structures: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    states: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    targets: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        require_number(self.labels.weight, "labels.weight", least=0.0)


def main(argv: Sequence[str]) -> int:
    """Fit, print the table, write model and report."""
    from jaxmlip.learn.finetune import FinetuneSettings, finetune
    from jaxmlip.learn.trainable import LowRank
    from jaxmlip.models.pretrained import save

    config = parse(FinetuneConfig, argv, command="finetune")
    config.check()
    jax.config.update("jax_enable_x64", True)
    energy = as_float64(read_model(config.model))
    targets = read_targets(energy, config.structures, config.states, config.targets)
    replay = read_labels(energy, config.labels)
    fit = config.fit
    asked = FinetuneSettings(
        updates=fit.updates,
        freedom=fit.freedom,
        leap=fit.leap,
        label_rise=fit.label_rise,
        rhat=fit.rhat,
        max_force=fit.max_force_eV_per_angstrom,
        seed=fit.seed,
    )
    settings.check_writable(config.output)
    checkpoint = config.output / CHECKPOINT
    if checkpoint.exists() and not config.resume:
        raise UserError(f"{config.output} holds a fit: continue it with `--resume`, or give another `--output`.")
    settings.write_run(config.output, config, command="finetune", seed=fit.seed, inputs=tuple(config.labels.files))
    start, trainable = adjustable(energy, config)
    found = finetune(
        start,
        targets,
        replay=replay,
        settings=asked,
        trainable=trainable,
        checkpoint=checkpoint,
        quiet=False,
    )
    print(found.table())
    print(f"\n{len(found.history)} updates: {found.reason}.")
    tuned = found.energy.merged() if isinstance(found.energy, LowRank) else found.energy
    save(config.output / MODEL, tuned, versions=settings.versions())
    settings.write_text(config.output / "finetune.json", json.dumps(record_of(found), indent=2) + "\n")
    settings.write_text(config.output / "report.html", page(f"{config.model}: {found.reason}.", found))
    print(f"Written: {config.output / MODEL}, {config.output / 'report.html'}")
    return 0


def as_float64(energy: AbstractEnergy) -> AbstractEnergy:
    """The same parameters in double precision: relaxed structures and their derivatives need it."""
    return jax.tree.map(lambda x: x.astype(np.float64) if _is_float(x) else x, energy)


def _is_float(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray)) and np.issubdtype(x.dtype, np.floating)


def adjustable(energy: AbstractEnergy, config: FinetuneConfig) -> tuple[AbstractEnergy, Trainable]:
    """The energy in the form in which it is fitted, and what of it may change.

    **Raises:** `UserError` for parts that it does not have, or that are not asked for by what changes.
    """
    from jaxmlip.learn.trainable import corrected, low_rank, select

    if config.by == "parameters":
        return energy, select(energy, config.train)
    if config.train:
        raise UserError(f'`train` chooses parameters; with `by = "{config.by}"` leave it out.')
    key = jax.random.key(config.fit.seed)
    return low_rank(energy, config.rank, key=key) if config.by == "low-rank" else corrected(energy, key=key)


def read_labels(energy: AbstractEnergy, labels: Labels) -> Replay | None:
    """The labels to keep, `None` where no file is named.

    **Raises:** `UserError` for whatever is wrong with the files, and noise that is not positive.
    """
    from jaxmlip.data import read_dataset
    from jaxmlip.learn.replay import make_replay

    if not labels.files:
        return None
    noise = {
        "energy": 1e-3 * labels.energy_meV_per_atom,
        "force": 1e-3 * labels.forces_meV_per_angstrom,
        "virial": 1e-3 * labels.virial_meV_per_atom,
    }
    return make_replay(energy, read_dataset(labels.files), noise=noise, weight=labels.weight)


def record_of(found: Finetuned) -> dict[str, Any]:
    """What was found, for JSON."""

    def values(predictions):
        return {
            name: {"value": p.value.tolist(), "stderr": p.stderr.tolist(), "chi2": p.chi2}
            for name, p in predictions.items()
        }

    observed = {
        t.name: {
            "value": (t.values / t.size).tolist(),
            "uncertainty": (t.errors / t.size).tolist(),
            "unit": t.unit,
            "holdout": t.holdout,
            "source": t.source,
        }
        for t in found.targets
    }
    parts = {"targets": observed, "before": values(found.before), "after": values(found.after)}
    return parts | {"history": [dict(r) for r in found.history], "reason": found.reason}


def page(lead: str, found: Finetuned) -> str:
    """The report."""
    from jaxmlip.cli.html import Page

    out = Page("Fine-tuning", lead)
    fitted = [t for t in found.targets if not t.holdout]

    def mean(predictions):
        return float(np.mean([predictions[t.name].chi2 for t in fitted]))

    cards = {"chi-square of the targets, before": f"{mean(found.before):.3g}", "after": f"{mean(found.after):.3g}"}
    cards["updates"] = str(len(found.history))
    if found.label_chi2[0]:
        rise = 100.0 * (np.sqrt(found.label_chi2[1] / found.label_chi2[0]) - 1.0)
        cards["rise of the deviations of the labels"] = f"{rise:.1f} %"
    out.cards(cards)
    lines = [line.split("  ") for line in found.table().splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    out.table("Targets", "Standard uncertainties; held out ones were not fitted.", rows[0], rows[1:])
    if found.history:
        out.figure("Way of the fit", "Chi-square of all that is fitted, after each update.", way(found))
    sources = [[t.name, t.source] for t in found.targets if t.source]
    if sources:
        out.table("Sources", "Of the observed values.", ("target", "source"), sources)
    return out.html()


def way(found: Finetuned) -> Figure:
    """Chi-square against updates."""
    from matplotlib import pyplot as plt

    from jaxmlip.cli import figures

    figure, axes = plt.subplots(figsize=(6.0, 3.0), constrained_layout=True)
    numbers = [r["update"] for r in found.history]
    axes.plot(numbers, [r["chi2"] for r in found.history], "o-", color=figures.ORANGE, label="targets")
    if any(r["label_chi2"] for r in found.history):
        axes.plot(numbers, [r["label_chi2"] for r in found.history], "s--", color=figures.BLUE, label="labels")
    axes.set(xlabel="update", ylabel="chi-square", yscale="log")
    axes.legend(frameon=False)
    return figure
