r"""Fine-tuning: parameters that bring an energy to what has been observed, and keep it at its labels.

All that is known is one likelihood: the chi-square of the targets, that of labelled frames (`replay`), and a wide prior
about the parameters that the energy came with. One step is that of Gauss and Newton with all three,

$\delta = -(J^T S^{-1} J + G + P)^{-1} (J^T S^{-1} r + g + P (\theta - \theta_0))$,

by conjugate gradients, without a matrix: $J$ has a row for each observed value, by the estimator of its kind
(ground states by implicit differentiation, averages by reweighting, correlations in time along windows), $S$ is the
covariance of the targets and of the sampling, $G$ and $g$ are those of the labels. Observables thus move parameters
mainly along what labels leave open.

A step ends where the effective number of frames of any state point would fall below half, or `leap` times farther: then
new frames judge it. It is taken back and shortened where the likelihood falls, where a structure does not relax, or
where the labels are given up.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.learn.finetune_checkpoint import Progressed, read, write
from jaxmlip.learn.finetune_problem import FinetuneProblem as FinetuneProblem
from jaxmlip.learn.finetune_problem import Prediction as Prediction
from jaxmlip.learn.finetune_settings import FinetuneSettings as FinetuneSettings
from jaxmlip.learn.progress import Progress
from jaxmlip.learn.replay import AbstractLabels
from jaxmlip.learn.step import Trainable
from jaxmlip.learn.targets import Target, check_targets

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning found: the energy, targets before and after, and what happened in each update.

    `label_chi2` and `fitted_chi2` are those of labels to keep and to be fitted, before and after.
    """

    energy: AbstractEnergy
    targets: tuple[Target, ...]
    before: Mapping[str, Prediction]
    after: Mapping[str, Prediction]
    history: tuple[Mapping[str, Any], ...]
    reason: str
    label_chi2: tuple[float, float] = (0.0, 0.0)
    fitted_chi2: tuple[float, float] = (0.0, 0.0)

    def table(self) -> str:
        """Target, before and after, one a line; held out ones last."""
        lines = [f"{'target':<24} {'observed':>20} {'before':>20} {'after':>20}  unit"]
        for target in sorted(self.targets, key=lambda t: t.holdout):
            rows = zip(target.values / target.size, target.errors / target.size, strict=True)
            for i, (value, error) in enumerate(rows):
                name = target.name + (f"[{i}]" if len(target.values) > 1 else "") + (" (held out)" * target.holdout)
                cells = [f"{value:.5g} ± {error:.2g}"]
                for found in (self.before[target.name], self.after[target.name]):
                    cells.append(f"{found.value[i]:.5g}" + (f" ± {found.stderr[i]:.2g}" if found.stderr[i] > 0 else ""))
                lines.append(f"{name:<24} " + " ".join(f"{c:>20}" for c in cells) + f"  {target.unit}")
        for name, (start, end) in (("kept", self.label_chi2), ("new", self.fitted_chi2)):
            if start > 0.0:
                cells = "-", "1", f"{np.sqrt(end / start):.4g}"
                lines.append(f"{f'labels, {name}':<24} " + " ".join(f"{c:>20}" for c in cells) + "  of the deviations")
        return "\n".join(lines)


def finetune(
    energy: AbstractEnergy,
    targets: Sequence[Target],
    *,
    replay: AbstractLabels | None = None,
    labels: AbstractLabels | None = None,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008
    trainable: Trainable | None = None,
    progress: Callable[[Mapping[str, Any]], None] | None = None,
    checkpoint: Path | None = None,
    quiet: bool = True,
) -> Finetuned:
    """Parameters of the highest likelihood, given targets and labels.

    `trainable(path, leaf)` says which arrays of floats may change (all); `replay` are labels to keep, `labels` new
    ones to be fitted, such as `make_force_constants` gives: with these there need be no target.
    `progress(record)` is called after each update, and all that the next one needs goes to the file `checkpoint`: where
    it is there already, the fit goes on from it, to the bit.

    **Raises:** `UserError` for targets that make no fit, nothing to train, structures or state points that fail at
    the start, and a checkpoint that is damaged or of another fit.
    """
    check_targets(targets, labels is not None)
    problem = FinetuneProblem(energy, tuple(t for t in targets if not t.holdout), replay, settings, trainable, labels)
    held = FinetuneProblem(energy, tuple(t for t in targets if t.holdout), None, settings, trainable)
    with Progress(quiet=quiet) as bar:
        kept = None if checkpoint is None else read(checkpoint, problem, held)
        if kept is None:
            state, history = problem.start(), []
            before = problem.predictions(state) | held.predictions(held.beside(state))
            write(checkpoint, problem, held, Progressed(state, before, history))
        else:
            state, before, history = kept
        reason = history[-1]["stop"] if history else ""
        while not reason and len(history) < settings.updates:
            begin = time.perf_counter()
            state, record = problem.update(state)
            if record["stop"] and record["conflicts"]:
                record["stop"] += f"; what pulls opposite ways: {', '.join(record['conflicts'])}"
            record |= {"update": len(history) + 1, "seconds": round(time.perf_counter() - begin, 2)}
            history.append(record)
            reason = record["stop"]
            write(checkpoint, problem, held, Progressed(state, before, history))
            bar.update(len(history), settings.updates, f"chi-square {record['chi2']:.3g}")
            if progress is not None:
                progress(record)
        after = problem.predictions(state)
        try:
            after |= held.predictions(held.beside(state))
        except UserError as error:
            _log.warning("what is held out could not be predicted at the end: %s", error)
            unknown = {t.name: np.full(np.size(t.value), np.nan) for t in held.targets}
            after |= {name: Prediction(x, x, float("nan")) for name, x in unknown.items()}
    done = reason or "all updates were made"
    label_chi2 = float(problem.label_start or 0.0), state.label_chi2
    fitted_chi2 = float(problem.fitted_start or 0.0), state.fitted_chi2
    energy = problem.energy(state)
    return Finetuned(energy, tuple(targets), before, after, tuple(history), done, label_chi2, fitted_chi2)


def predict(
    energy: AbstractEnergy,
    targets: Sequence[Target],
    *,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008
) -> dict[str, Prediction]:
    """What an energy gives for each target, without a fit.

    **Raises:** `UserError` where structures or state points fail.
    """
    problem = FinetuneProblem(energy, tuple(targets), None, settings, None)
    return problem.predictions(problem.start())
