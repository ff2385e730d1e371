"""`jaxmlip evaluate MODEL FILE...`: errors of a model on labelled structures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse
from jaxmlip.cli.structures import blame, read_model
from jaxmlip.data import read_dataset


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Errors of a model on labelled structures."""

    model: tyro.conf.Positional[str]
    """Model file, or the name of a pretrained model."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Labelled structures."""
    output: Path | None = None
    """Folder for `errors.json` and a record of the run; without it the table is only printed."""
    split: str | None = None
    """Only the frames whose key `split` says so."""
    precision: Literal["float32", "float64"] = "float32"


def main(argv: Sequence[str]) -> int:
    """Print the table of errors; write it where asked."""
    from jaxmlip.learn import evaluate

    config = parse(EvaluateConfig, argv, command="evaluate", toml=False)
    energy = read_model(config.model)
    dataset = read_dataset(config.files)
    if config.split is not None:
        dataset = dataset.filter(lambda record: record.split == config.split)
        with blame("--split"):
            if not len(dataset):
                raise ValueError(f"no frame says `split={config.split}`.")
    report = evaluate(energy, dataset, dtype=config.precision)
    print(dataset.census())
    print()
    print(report.table())
    if config.output is not None:
        inputs = (Path(config.model), *config.files)
        settings.write_run(config.output, config, command="evaluate", inputs=inputs, dataset=dataset.fingerprint())
        errors = {name: row.errors() for name, row in report.rows().items()}
        settings.write_text(config.output / "errors.json", json.dumps(errors, indent=2) + "\n")
        print(f"\nWritten: {config.output / 'errors.json'}")
    return 0
