"""`jaxmlip tradeoff FILE...`: how large a model, how much regularisation, and whether more frames would help."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import tyro

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.tradeoff_report import page, record_of
from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.data.folds import Folds, make_folds
from jaxmlip.errors import UserError
from jaxmlip.files import append
from jaxmlip.learn.folder import interruptible
from jaxmlip.learn.progress import Progress

if TYPE_CHECKING:
    from jaxmlip.learn.splits import Capacity, Point, Split

POINTS = "points.jsonl"
MakePoints = Callable[
    ["Sequence[Split]", "Sequence[Capacity]", "Sequence[float]", "Sequence[Point]"], "Iterator[Point]"
]


@dataclasses.dataclass(frozen=True)
class TradeoffConfig:
    """How large a model, how much regularisation, whether more frames would help: by cross-validation."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Labelled structures."""
    output: Path = Path("runs/tradeoff")
    """Folder for `report.html`, `tradeoff.json` and `points.jsonl`, one line for every fit."""
    resume: bool = False
    """Go on with the study in `output`."""
    model: Literal["linear", "nep", "fast"] = "linear"
    """The linear model, solved for in seconds, or networks of a preset that are trained for `steps`."""
    folds: int = 5
    group_by: Literal["none", "config_type"] = "none"
    """With config_type, whole kinds of frames are held out: how well is one predicted that was never seen?"""
    cutoff_angstrom: float = 5.0
    channels: int = 32
    """Of the largest linear model."""
    ridges: tuple[float, ...] = (1e-4, 1e-2, 1.0, 1e2, 1e4)
    """Regularisations of the linear model, times the prior of the evidence."""
    balance: float = 0.5
    """How much more one energy counts than one force in the linear model, from 0 to 1."""
    widths: tuple[int, ...] = (4, 8, 16)
    """Channels of the networks, which have three times as many hidden units."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Regularisations of the networks."""
    steps: int = 1000
    """Of each training of a network."""
    curve: bool = True
    """Fit to fewer and fewer frames too, at the best setting."""
    sizes: tuple[int, ...] = ()
    """Frames of these training sets; halves of halves where none are given."""
    energy_key: str | None = None
    """Where it is not REF_energy, nor energy."""
    forces_key: str | None = None
    stress_key: str | None = None
    seed: int = 0
    precision: Literal["float32", "float64"] = "float32"

    def check(self) -> None:
        require(self.folds >= 2, "folds", "must be at least 2", self.folds)
        require_number(self.cutoff_angstrom, "cutoff_angstrom", above=0.0, most=50.0)
        require(self.channels >= 1, "channels", "must be at least 1", self.channels)
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
        for name, least in (("ridges", None), ("weight_decays", 0.0)):
            require(len(getattr(self, name)) > 0, name, "needs at least one number", "none")
            for value in getattr(self, name):
                require_number(value, name, above=0.0 if least is None else None, least=least)
        for name in ("widths", "sizes"):
            require(all(n >= 1 for n in getattr(self, name)), name, "must be at least 1 each", getattr(self, name))
        require(len(self.widths) > 0, "widths", "needs at least one number", "none")

    def keys(self) -> dict[str, str]:
        named = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        return {label: key for label, key in named.items() if key}


def main(argv: Sequence[str]) -> int:
    """Validate, recommend, and write what was found."""
    config = parse(TradeoffConfig, argv, command="tradeoff", toml=False)
    config.check()
    dataset = read_dataset(config.files, keys=config.keys())
    group_by = None if config.group_by == "none" else config.group_by
    folds = make_folds(dataset, config.folds, group_by=group_by, seed=config.seed)
    settings.check_writable(config.output)
    print(dataset.census())
    for notice in (*dataset.notices(), *folds.notices):
        print(f"Note: {notice}")
    with settings.locked(config.output):
        study = Study(config, dataset, folds)
        try:
            study.run()
        except KeyboardInterrupt:
            if study.points:
                study.report()
            raise KeyboardInterrupt(
                f"interrupted after {len(study.points)} fits; `--resume` goes on ({config.output})."
            ) from None
        study.report()
    print(f"\nOpen {config.output / 'report.html'}")
    return 0


class Study:
    """The fits of one study, as far as they are done: each is written down as soon as it is."""

    def __init__(self, config: TradeoffConfig, dataset: Dataset, folds: Folds):
        self.config, self.dataset, self.folds = config, dataset, folds
        self.points: list[Point] = []
        self.path = config.output / POINTS
        same = dataclasses.asdict(config)
        for name in ("output", "resume", "files"):
            del same[name]
        self.identity = json.dumps({"dataset": dataset.fingerprint(), **same})
        self._open()

    def _open(self) -> None:
        """Reads what is done, or begins anew.

        **Raises:** `UserError` where the folder holds a study that must not be lost, or another one.
        """
        from jaxmlip.learn.splits import Point

        config = self.config
        if not self.path.exists():
            facts = {"seed": config.seed, "inputs": config.files, "dataset": self.dataset.fingerprint()}
            settings.write_run(config.output, config, command="tradeoff", **facts)
            settings.write_text(self.path, self.identity + "\n")
            return
        if not config.resume:
            raise UserError(f"{config.output} holds a study: go on with `--resume`, or give another `--output`.")
        first, *lines = self.path.read_text().splitlines(keepends=True)
        if first.strip() != self.identity:
            raise UserError(f"{config.output} holds a study of other data or settings; give another `--output`.")
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have left half a line
        settings.write_text(self.path, first + "".join(whole))
        self.points = [Point(**json.loads(line)) for line in whole]

    def run(self) -> None:
        """All fits of the cross-validation, then those of the learning curve at the best setting."""
        from jaxmlip.learn.splits import fold_splits, subset_splits
        from jaxmlip.learn.trade_off import summarize

        frames = len(self.dataset)
        with Progress() as progress, interruptible() as interrupted:

            def stop() -> None:
                if interrupted():
                    raise KeyboardInterrupt

            make, capacities, strengths = (linear if self.config.model == "linear" else networks)(self, progress, stop)
            folds = fold_splits(self.folds, frames, self.config.seed)
            sizes = self.sizes() if self.config.curve else ()
            total = len(folds) * (len(capacities) * len(strengths) + len(sizes))

            def gather(splits: Sequence[Split], capacities: Sequence[Capacity], strengths: Sequence[float]) -> None:
                for point in make(splits, capacities, strengths, self.points):
                    self.points.append(point)
                    append(self.path, (json.dumps(dataclasses.asdict(point)) + "\n").encode())
                    progress.update(len(self.points), total, f"{point.capacity}, {point.split}")
                    stop()

            gather(folds, capacities, strengths)
            if len(sizes) > 1:
                best = min(summarize(self.cross_validated), key=lambda c: c.score)
                chosen = [c for c in capacities if c.name == best.capacity]
                splits = subset_splits(self.folds, frames, sizes, (self.config.seed,))
                gather(splits, chosen, [best.regularisation])

    @property
    def cross_validated(self) -> list[Point]:
        return [p for p in self.points if p.split.startswith("fold")]

    @property
    def curve(self) -> list[Point]:
        return [p for p in self.points if not p.split.startswith("fold")]

    def sizes(self) -> tuple[int, ...]:
        """Sizes of the training sets of the learning curve, smallest first."""
        most = min(len(self.folds.train(f)) for f in range(len(self.folds))) - len(self.folds.always)
        if self.config.sizes:
            for size in self.config.sizes:
                require(size <= most, "sizes", f"must be at most {most}, what the smallest training set has", size)
            return tuple(sorted(set(self.config.sizes)))
        halvings = 5 if self.config.model == "linear" else 3
        return tuple(sorted({most // 2**i for i in range(halvings) if most // 2**i >= 4}))

    def report(self) -> None:
        """Print and write what was found so far."""
        from jaxmlip.learn.recommend import table, weigh

        found = weigh(self.cross_validated, self.curve)
        print(f"\n{table(found)}\n")
        print(*found.verdict, sep="\n")
        notices = (*self.dataset.notices(), *self.folds.notices)
        record = json.dumps(record_of(found, notices), indent=1, ensure_ascii=False)
        settings.write_text(self.config.output / "tradeoff.json", record + "\n")
        names = ", ".join(str(f) for f in self.config.files)
        text = page(f"{self.config.model} model, {names}", found, self.cross_validated, self.curve, notices)
        settings.write_text(self.config.output / "report.html", text)


def linear(study: Study, progress: Progress, stop: Callable[[], None]) -> tuple[MakePoints, Any, Sequence[float]]:
    """Fits of the linear model, whose rows are made first."""
    from jaxmlip.learn.validation import LinearTable, ladder, linear_points
    from jaxmlip.models.linear import LinearACE, LinearACEConfig

    config, dataset = study.config, study.dataset
    facts = statistics(dataset, config.cutoff_angstrom, references=_references(dataset))
    basis = LinearACEConfig(
        dataset.elements,
        cutoff=config.cutoff_angstrom,
        channels=config.channels,
        mean_neighbors=max(facts.neighbors, 1.0),
    )
    tables: list[LinearTable] = []

    def rows(done: int, frames: int) -> None:
        progress.update(done, frames, "rows of the frames")
        stop()

    def make(splits: Sequence[Split], capacities: Sequence[Capacity], ridges: Sequence[float], done: Sequence[Point]):
        if not tables:
            model = LinearACE(basis, key=jax.random.key(config.seed))
            tables.append(LinearTable(model, dataset, dtype=config.precision, progress=rows))
        return linear_points(tables[0], splits, capacities, ridges=ridges, balance=config.balance, done=list(done))

    return make, ladder(basis, seed=config.seed), config.ridges


def networks(study: Study, progress: Progress, stop: Callable[[], None]) -> tuple[MakePoints, Any, Sequence[float]]:
    """Trainings of networks of a preset."""
    from jaxmlip.learn import TrainSettings
    from jaxmlip.learn.network_validation import network_points
    from jaxmlip.learn.splits import Capacity
    from jaxmlip.models.ace import ACE, ACEConfig

    config, dataset = study.config, study.dataset
    has = {label: any(r.has(label) for r in dataset) for label in ("energy", "forces", "stress")}
    facts = statistics(dataset, config.cutoff_angstrom, references=_references(dataset))
    learn = TrainSettings(
        steps=config.steps,
        energy_weight=float(has["energy"]),
        late_energy_weight=10.0 * has["energy"],
        force_weight=float(has["forces"]),
        stress_weight=0.1 * has["stress"],
        references=_references(dataset),
        evaluations=1,
        missing=1.0,
        max_shapes=1,
        dtype=config.precision,
    )

    def make_energy(capacity: Capacity, seed: int) -> ACE:
        options = {"mean_neighbors": max(facts.neighbors, 1.0), "energy_scale": facts.force_rms or 1.0}
        shape = ACEConfig.preset(
            config.model, dataset.elements, cutoff=config.cutoff_angstrom, **options, **(capacity.changes or {})
        )
        return ACE(shape, key=jax.random.key(seed))

    def size(width: int) -> Capacity:
        changes = {"channels": width, "hidden": 3 * width}
        count = sum(x.size for x in jax.tree.leaves(make_energy(Capacity("", 0, changes=changes), 0)))
        return Capacity(f"{width} channels", count, changes=changes)

    def make(splits: Sequence[Split], capacities: Sequence[Capacity], decays: Sequence[float], done: Sequence[Point]):
        options = {"settings": learn, "decays": decays, "done": list(done)}
        return network_points(make_energy, dataset, splits, capacities, **options)

    return make, [size(width) for width in sorted(set(config.widths))], config.weight_decays


def _references(dataset: Dataset) -> str:
    return "auto" if any(r.has("energy") for r in dataset) else "none"
