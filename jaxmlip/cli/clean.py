"""`jaxmlip clean FILE...`: labelled structures that look wrong, ranked with reasons, and a set without them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np
import tyro

from jaxmlip import units
from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.html import Page
from jaxmlip.cli.structures import read_model
from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.errors import UserError
from jaxmlip.io import frame_texts, with_info

if TYPE_CHECKING:
    from jaxmlip.learn.cleaning import Fit, Suspects

COLUMNS = (
    "rank",
    "file",
    "frame",
    "config_type",
    "atoms",
    "set_aside",
    "suspicion",
    "reason",
    "energy_left_out_meV_atom",
    "forces_left_out_meV_A",
    "worst_force_left_out_meV_A",
    "worst_atom",
    "stress_left_out_GPa",
    "leverage",
    "cook",
)


@dataclasses.dataclass(frozen=True)
class CleanConfig:
    """Labelled structures that look wrong: judged by a linear model of the others, ranked with reasons."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Labelled structures."""
    output: Path = Path("runs/clean")
    """Folder for `report.html`, `suspects.csv`, `cleaned.extxyz` and `removed.extxyz`."""
    model: str | None = None
    """Judge by this trained model (a file, or the name of a pretrained one) through its last layer, not by a linear
    model that is fitted here."""
    threshold: float = 2.5
    """Frames that are more suspicious are set aside; larger sets fewer aside."""
    rounds: int = 2
    """With 2, the suspects of the first fit hardly count in a second one."""
    cutoff_angstrom: float = 5.0
    channels: int = 48
    """Random channels of the many-body functions: more see finer, and take longer."""
    balance: float = 0.5
    """How much more one energy counts than one force, from 0 to 1."""
    energy_key: str | None = None
    """Where it is not REF_energy, nor energy."""
    forces_key: str | None = None
    stress_key: str | None = None
    seed: int = 0
    precision: Literal["float32", "float64"] = "float32"

    def check(self) -> None:
        require_number(self.threshold, "threshold")
        require(self.rounds >= 1, "rounds", "must be at least 1", self.rounds)
        require_number(self.cutoff_angstrom, "cutoff_angstrom", above=0.0)
        require(self.channels >= 1, "channels", "must be at least 1", self.channels)

    def keys(self) -> dict[str, str]:
        named = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        return {label: key for label, key in named.items() if key}


def main(argv: Sequence[str]) -> int:
    """Judge, rank, and write; the input files stay as they are."""
    config = parse(CleanConfig, argv, command="clean", toml=False)
    config.check()
    dataset = read_dataset(config.files, keys=config.keys())
    settings.check_writable(config.output)
    suspects = judge(config, dataset)
    aside = suspects.above(config.threshold)
    print(dataset.census())
    for notice in notices(suspects):
        print(f"Note: {notice}")
    print()
    print(suspects.table())
    settings.write_run(
        config.output, config, command="clean", inputs=config.files, seed=config.seed, dataset=dataset.fingerprint()
    )
    settings.write_text(config.output / "suspects.csv", csv_of(suspects, aside))
    kept, removed = divided(config, suspects, aside)
    settings.write_text(config.output / "cleaned.extxyz", kept)
    settings.write_text(config.output / "removed.extxyz", removed)
    settings.write_text(config.output / "report.html", page(config, suspects, aside))
    print(f"\n{len(aside)} of {len(dataset)} frames set aside (suspicion above {config.threshold:g}): removed.extxyz")
    print(f"Open {config.output / 'report.html'}")
    return 0


def notices(suspects: Suspects) -> list[str]:
    """What a user should know of the frames."""
    blank = int(np.sum(~suspects.is_judged))
    kept = [f"{blank} of {len(suspects.dataset)} frames have no label; they are kept, not judged."] if blank else []
    return [*suspects.dataset.notices(), *kept]


def judge(config: CleanConfig, dataset: Dataset) -> Suspects:
    """Every frame judged by a linear model of the others, with a bar."""
    from jaxmlip.learn.cleaning import find_suspects
    from jaxmlip.learn.linear import RowCache, fit_linear
    from jaxmlip.learn.linearised import linearise
    from jaxmlip.models.linear import LinearACE, LinearACEConfig

    if not any(r.has("energy") or r.has("forces") or r.has("stress") for r in dataset):
        raise UserError(f"There is no label to judge.\n{dataset.census()}")
    cache = RowCache()
    if config.model is not None:
        energy = read_model(config.model)

        def judged(data: Dataset, progress: Callable[[int, int], None] | None) -> Fit:
            return linearise(
                energy, data, balance=config.balance, dtype=config.precision, cache=cache, progress=progress
            )
    else:
        facts = statistics(dataset, config.cutoff_angstrom)
        basis = LinearACEConfig(
            dataset.elements,
            cutoff=config.cutoff_angstrom,
            channels=config.channels,
            mean_neighbors=max(facts.neighbors, 1.0),
        )
        model = LinearACE(basis, key=jax.random.key(config.seed))

        def judged(data: Dataset, progress: Callable[[int, int], None] | None) -> Fit:
            return fit_linear(
                model, data, balance=config.balance, dtype=config.precision, cache=cache, progress=progress
            )

    steps = 2 * config.rounds * len(dataset)
    done = iter(range(1, steps + 1))
    with settings.progress_bar(steps, "cleaning") as advance:
        return find_suspects(
            dataset,
            judged,
            rounds=config.rounds,
            threshold=config.threshold,
            progress=lambda *_: advance(next(done)),
        )


def csv_of(suspects: Suspects, aside: np.ndarray) -> str:
    """All frames, most suspicious first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    away, score, leverage, cook = set(aside.tolist()), suspects.suspicion, suspects.leverage, suspects.cook
    for rank, i in enumerate(suspects.order, start=1):
        record, left = suspects.dataset[i], suspects.left_out(i)
        numbers = (1e3 * left["energy"], 1e3 * left["forces"], 1e3 * left["force"])
        writer.writerow(
            [
                *(rank, record.path, record.index, record.config_type, len(record), int(i in away)),
                *(_number(float(score[i])), suspects.reason(i), *(_number(x) for x in numbers), _number(left["atom"])),
                *(_number(left["stress"] / units.GPa), f"{leverage[i]:.5g}", f"{cook[i]:.5g}"),
            ]
        )
    return text.getvalue()


def divided(config: CleanConfig, suspects: Suspects, aside: np.ndarray) -> tuple[str, str]:
    """The frames that are kept, as they were, and those set aside, with suspicion and reason."""
    away = set(aside.tolist())
    kept, removed = [], []
    texts = (text for path in config.files for text in frame_texts(path))
    for i, text in enumerate(texts):
        if i in away:
            removed.append(with_info(text, suspicion=float(suspects.suspicion[i]), suspicion_reason=suspects.reason(i)))
        else:
            kept.append(text)
    return "".join(kept), "".join(removed)


def page(config: CleanConfig, suspects: Suspects, aside: np.ndarray) -> str:
    """The report."""
    from jaxmlip.cli import figures

    frames = len(suspects.dataset)
    away = np.zeros(frames, bool)
    away[aside] = True
    known = suspects.is_judged
    judge = "a linear model" if config.model is None else f"the last layer of {config.model}"
    out = Page(
        "Frames that look wrong",
        f"{frames} frames of {', '.join(str(f) for f in config.files)}, each judged by a fit of {judge} to the others. "
        + " ".join(notices(suspects)),
    )
    out.cards(
        {
            "frames set aside": f"{len(aside)} of {frames}",
            "most suspicious": f"{suspects.suspicion.max():.2f}",
            "sum of leverages: parameters that the data determine": f"{suspects.leverage.sum():.0f}",
        }
    )
    out.figure(
        "Suspicion and leverage",
        "Suspicion: how far the leave-one-out residual of a frame lies above those of its group, in upper spreads of "
        "the bulk. Leverage is no fault: nothing in the set is like such a frame, and more of its kind would help.",
        figures.influence(suspects.leverage[known], suspects.suspicion[known], away[known], config.threshold),
    )
    groups = sorted(suspects.dataset.config_types())
    kinds = np.array([r.config_type for r in suspects.dataset])
    left = [suspects.left_out(i) for i in range(frames)]
    for title, key, unit, label in (
        ("Energies left out", "energy", 1e3, "label minus prediction of the others [meV/atom]"),
        ("Forces left out", "forces", 1e3, "RMS of label minus prediction of the others [meV/Å]"),
    ):
        values = unit * np.array([x[key] for x in left])
        if np.isfinite(values).any():
            figure = figures.by_group(
                {g: values[kinds == g] for g in groups}, {g: away[kinds == g] for g in groups}, label
            )
            out.figure(title, "Orange: set aside.", figure)
    ranked = [i for i in suspects.order if suspects.is_judged[i]]
    rows = [
        [
            str(rank),
            suspects.dataset[i].where,
            suspects.dataset[i].config_type,
            f"{suspects.suspicion[i]:.2f}",
            suspects.reason(i),
            f"{suspects.leverage[i]:.2f}",
            f"{suspects.cook[i]:.3g}",
        ]
        for rank, i in enumerate(ranked[: max(len(aside), 20)], start=1)
    ]
    header = ("rank", "frame", "config_type", "suspicion", "reason", "leverage", "Cook's distance")
    text = "The most suspicious frames. Look at them before you train without them."
    out.table("Suspects", text, header, rows)
    return out.html()


def _number(x: float) -> str:
    return f"{x:.5g}" if np.isfinite(x) else ""
