"""Which labelled frames look wrong: every frame judged by a fit to the others, ranked, with the reason.

A wrong label pulls the fit towards itself, and the more so the more alone its frame is; so frames are judged by their
leave-one-out residuals, exact by blocks (`jaxmlip.data.influence`), and compared with the frames of their own
`config_type`. A frame that is far from all others has a large leverage, which is no fault: what it tells of is what
the data lack. Nothing is dropped here; `Suspects` says what is suspicious, and why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.data.influence import ENERGY, FORCE, STRESS, Influence, influence, statistics_of, suspicion
from jaxmlip.errors import UserError
from jaxmlip.learn.linear import KINDS, Block

THRESHOLD = 2.5  # of the suspicion; some 3 % of sound frames of the mlearn sets lie above it
_LEAST_FRAMES = 8  # fewer have no bulk to compare with
_LEFT_OUT = 1e-6  # the weight of a suspect in the second round


@runtime_checkable
class Fit(Protocol):
    """What can judge frames: a fit that is linear in its parameters, or was linearised."""

    @property
    def noise(self) -> Mapping[str, float]: ...

    @property
    def factor(self) -> np.ndarray: ...

    def design(self, dataset: Dataset) -> Iterator[Block]: ...

    def residuals(self, block: Block) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Suspects:
    """What a fit thinks of the labels of a data set.

    - `found`: the influence of each frame, in the order of the data set.
    - `scores` [frames, reasons]: how suspicious each of `REASONS` is, in upper spreads of the bulk.
    - `noise` of each kind of label [eV/atom, eV/Å, eV/atom], the unit of the residuals in `found`.
    """

    dataset: Dataset
    found: tuple[Influence, ...]
    scores: np.ndarray
    noise: Mapping[str, float]

    @property
    def suspicion(self) -> np.ndarray:
        """The largest score of each frame."""
        return self.scores.max(axis=1)

    @property
    def order(self) -> np.ndarray:
        """The frames, most suspicious first."""
        return np.argsort(-self.suspicion, kind="stable")

    @property
    def is_judged(self) -> np.ndarray:
        """Whether the frame has a label."""
        return np.array([len(f.kind) > 0 for f in self.found])

    @property
    def leverage(self) -> np.ndarray:
        """Of each frame: how many parameters of the fit it determines."""
        return np.array([f.leverage.sum() for f in self.found])

    @property
    def cook(self) -> np.ndarray:
        """Cook's distance of each frame: how far the fit moves without it, in units of its own uncertainty."""
        return np.array([f.cook for f in self.found])

    def above(self, threshold: float = THRESHOLD) -> np.ndarray:
        """The frames that are more suspicious than `threshold`, worst first."""
        return np.array([i for i in self.order if self.suspicion[i] > threshold], dtype=int)

    def left_out(self, frame: int | np.integer) -> dict[str, float]:
        """Label minus what the other frames predict: `energy` [eV/atom], root mean square `forces` and that of the
        worst atom `atom` [eV/Å], `stress` [eV/Å³]; NaN where there is no label."""
        found, record = self.found[frame], self.dataset[frame]
        energy, force, virial = (
            found.left_out[found.kind == kind] * self.noise[name]
            for kind, name in ((ENERGY, KINDS[0]), (FORCE, KINDS[1]), (STRESS, KINDS[2]))
        )
        norms = np.linalg.norm(force.reshape(-1, 3), axis=1)
        per_volume = len(record) / max(abs(float(np.linalg.det(record.cell))), 1e-300)
        return {
            "energy": float(energy[0]) if energy.size else np.nan,
            "forces": _rms(force),
            "force": float(norms.max()) if norms.size else np.nan,
            "atom": float(norms.argmax()) if norms.size else np.nan,
            "stress": _rms(virial) * per_volume if virial.size else np.nan,
        }

    def reason(self, frame: int | np.integer) -> str:
        """Why this frame is the most suspicious, with the figure."""
        if not self.is_judged[frame]:
            return "has no label to judge"
        which = int(self.scores[frame].argmax())
        left = self.left_out(frame)
        a, b = sorted(self.found[frame].pair)
        forces = f"forces are off by {1e3 * left['forces']:.0f} meV/Å (RMS), most on atom {left['atom']:.0f}"
        forces += f" ({1e3 * left['force']:.0f} meV/Å)"
        text = (
            f"energy is off by {1e3 * left['energy']:+.1f} meV/atom",
            forces,
            forces,
            f"stress is off by {left['stress'] / units.GPa:.2f} GPa (RMS)",
            f"forces of atoms {a} and {b} fit better when exchanged",
            "stress fits better with the other sign",
        )
        return text[which]

    def table(self, rows: int = 20) -> str:
        """The most suspicious frames, one a line."""
        lines = [f"{'rank':>4}  {'suspicion':>9}  {'leverage':>8}  {'Cook':>8}  frame and reason"]
        for rank, i in enumerate([i for i in self.order if self.is_judged[i]][:rows], start=1):
            numbers = f"{rank:>4}  {self.suspicion[i]:9.2f}  {self.leverage[i]:8.2f}  {self.cook[i]:8.3g}"
            lines.append(f"{numbers}  {self.dataset[i].where} ({self.dataset[i].config_type}): {self.reason(i)}")
        return "\n".join(lines)


def find_suspects(
    dataset: Dataset,
    fit: Callable[[Dataset, Callable[[int, int], None] | None], Fit],
    *,
    rounds: int = 2,
    threshold: float = THRESHOLD,
    progress: Callable[[str, int, int], None] | None = None,
) -> Suspects:
    """Every frame judged by a fit to the others.

    `fit(dataset, progress)` makes the fit. With two `rounds` the frames that the first finds above `threshold` hardly
    count in the second fit, so that they do not hide each other, and are judged by it like all others.
    `progress(what, done, frames)` is called after each frame.

    **Raises:** `UserError` for fewer than 8 frames, or where nothing is labelled; see also `fit_linear`.
    """
    if len(dataset) < _LEAST_FRAMES:
        raise UserError(f"{len(dataset)} frames are too few to judge one by the others; give at least {_LEAST_FRAMES}.")
    if rounds < 1:
        raise UserError(f"`rounds` must be at least 1; got {rounds}.")
    weighted, suspects, doubtful = dataset, None, set()
    for number in range(rounds):
        if suspects is not None:
            doubtful = set(suspects.above(threshold).tolist())
            if not doubtful or len(doubtful) > len(dataset) // 2:
                break  # nothing to gain, or no bulk left
            weighted = Dataset([_weaker(r) if i in doubtful else r for i, r in enumerate(dataset)])
        text = f"round {number + 1} of {rounds}"
        made = fit(weighted, _report(progress, f"{text}: fit"))
        found = _judge(made, weighted, _report(progress, f"{text}: left out"))
        if suspects is not None:  # what a frame would do to a fit is known from when it counted
            for i in doubtful:
                before = suspects.found[i]
                found[i] = dataclasses.replace(found[i], leverage=before.leverage, cook=before.cook)
        statistics = np.stack([statistics_of(f) for f in found])
        scores = suspicion(statistics, [r.config_type for r in dataset])
        suspects = Suspects(dataset, tuple(found), scores, dict(made.noise))
    assert suspects is not None
    return suspects


def _judge(fit: Fit, dataset: Dataset, progress: Callable[[int, int], None] | None) -> list[Influence]:
    found: dict[int, Influence] = {}
    for done, block in enumerate(fit.design(dataset), start=1):
        residuals = fit.residuals(block)
        try:
            found[block.frame] = influence(
                block.frame, block.rows, block.targets, residuals, block.weight, block.kind, fit.factor
            )
        except ValueError as error:
            raise UserError(f"{dataset[block.frame].where}: {error}") from error
        if progress is not None:
            progress(done, len(dataset))
    return [found[i] for i in range(len(dataset))]


def _weaker(record: Any) -> Any:
    energy, forces, stress = record.weights
    return dataclasses.replace(record, weights=(_LEFT_OUT * energy, _LEFT_OUT * forces, _LEFT_OUT * stress))


def _report(progress: Callable[[str, int, int], None] | None, text: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, frames: progress(text, done, frames)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else float("nan")
