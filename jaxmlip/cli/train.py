"""`jaxmlip train`: train a potential on labelled structures; a run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.structures import blame
from jaxmlip.cli.terms import Spec, is_trained, make_term, make_terms, with_terms
from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.energy import AbstractEnergy, Committee
from jaxmlip.errors import UserError
from jaxmlip.learn import FitResult, TrainSettings, evaluate, fit
from jaxmlip.learn.charges import mean_charges
from jaxmlip.learn.linearised import last_layer

MODEL = "model.jaxmlip"


@dataclasses.dataclass(frozen=True)
class Data:
    """Files of labelled structures, and what their labels are called."""

    train: tuple[Path, ...]
    """Frames to learn from."""
    valid: tuple[Path, ...] = ()
    """Frames to choose the best parameters by; without, the frames that say `split=valid`, else a part of `train`."""
    test: tuple[Path, ...] = ()
    """Frames for the table of errors at the end; without, the frames that say `split=test`."""
    valid_fraction: float = 0.1
    energy_key: str | None = None
    """Where it is not REF_energy, nor energy."""
    forces_key: str | None = None
    stress_key: str | None = None
    charges_key: str | None = None

    def keys(self) -> dict[str, str]:
        named = {
            "energy": self.energy_key,
            "forces": self.forces_key,
            "stress": self.stress_key,
            "charges": self.charges_key,
        }
        return {label: key for label, key in named.items() if key}


@dataclasses.dataclass(frozen=True)
class Model:
    """The potential; sizes that are not given come from the preset."""

    preset: Literal["nep", "fast", "accurate"] = "fast"
    cutoff_angstrom: float = 5.0
    channels: int | None = None
    degree: int | None = None
    hidden: int | None = None
    radial: int | None = None
    prior: Spec | None = None
    """What is known beforehand at short range: zbl (the screened repulsion of nuclei) or repulsion (a wall A / r^n, as
    a table `{ kind = "repulsion", prefactor = 50.0 }`). The model learns the rest; the model file holds the sum."""
    terms: tuple[Spec, ...] = ()
    """Further energies, added in the same way; with `train = true` in its table, one is trained with the model."""
    charges: str | dict[str, float] | None = None
    """Add long-range electrostatics: latent, predicted or equilibrated charges, or those of each element [e]."""
    background: bool = False
    """Neutralize periodic frames that have a net charge by a uniform background."""
    members: int = 1
    """Train a committee of so many models, which says how sure it is; see docs/how-to/uncertainty.md."""
    share: bool = False
    """The members of the committee share all but their last layer."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a potential on labelled structures."""

    data: Data
    output: Path = Path("runs/train")
    resume: bool = False
    """Go on with the run in `output`."""
    model: Model = Model()
    learn: TrainSettings = TrainSettings()

    def check(self) -> None:
        require_number(self.model.cutoff_angstrom, "model.cutoff_angstrom", above=0.0, most=50.0)
        require_number(self.data.valid_fraction, "data.valid_fraction", least=0.0, most=0.9)
        require(self.model.members >= 1, "model.members", "must be at least 1", self.model.members)
        require(
            self.model.members > 1 or not self.model.share, "model.share", "needs `model.members` of 2 or more", True
        )
        require(len(self.data.train) > 0, "data.train", "needs at least one file", "none")


def main(argv: Sequence[str]) -> int:
    """Train, save the model, print the errors."""
    config = parse(TrainConfig, argv, command="train")
    config.check()
    train, valid, test = read_splits(config.data)
    settings.check_writable(config.output)
    print(f"train {train!r}\nvalid {valid!r}\ntest  {test!r}")
    energy = make_energy(config.model, train, config.learn, *filter(None, (valid, test)))
    prior = make_prior(config.model, train, *filter(None, (valid, test)))
    if not config.resume and (config.output / "metrics.jsonl").exists():
        raise UserError(f"{config.output} holds a run: continue it with `--resume`, or give another `--output`.")
    inputs = (*config.data.train, *config.data.valid, *config.data.test)
    settings.write_run(
        config.output, config, command="train", seed=config.learn.seed, inputs=inputs, dataset=train.fingerprint()
    )
    result = fit(energy, train, valid, settings=config.learn, folder=config.output, resume=config.resume, prior=prior)
    if result.reason == "interrupted":
        raise KeyboardInterrupt(f"interrupted; `--resume` goes on from the last step ({config.output}).")
    save_model(config.output / MODEL, result, train)
    errors = {}
    for name, part in (("valid", valid), ("test", test)):
        if part:
            report = evaluate(result.energy, part, dtype=config.learn.dtype)
            errors[name] = {kind: row.errors() for kind, row in report.rows().items()}
            print(f"\n{name}\n{report.table()}")
    settings.write_text(config.output / "errors.json", json.dumps(errors, indent=2) + "\n")
    print(f"\nWritten: {config.output / MODEL}, {config.output / 'errors.json'}")
    return 0


def read_splits(data: Data) -> tuple[Dataset, Dataset | None, Dataset | None]:
    """Training, validation and test frames; those that nothing names are `None`.

    **Raises:** `UserError` for whatever is wrong with the files.
    """
    train = read_dataset(data.train, keys=data.keys())
    parts: dict[str, Dataset] = {}
    if all(record.split is not None for record in train):
        parts = train.split_by_key()
        if "train" not in parts:
            raise UserError(f"no frame of {data.train[0]} says `split=train`.")
        train = parts["train"]
    valid = read_dataset(data.valid, keys=data.keys()) if data.valid else parts.get("valid")
    test = read_dataset(data.test, keys=data.keys()) if data.test else parts.get("test")
    if valid is None and data.valid_fraction > 0:
        train, valid = train.split(data.valid_fraction, seed=0)
    return train, valid, test


def make_energy(model: Model, train: Dataset, learn: TrainSettings, *others: Dataset) -> AbstractEnergy:
    """The untrained potential, scaled to the data, and what is trained with it; `others` are further data to serve.

    **Raises:** `UserError` where the sizes make no sense.
    """
    from jaxmlip.models.ace import ACE, ACEConfig

    found = statistics(train, model.cutoff_angstrom, references=learn.references)
    sizes = {name: getattr(model, name) for name in ("channels", "degree", "hidden", "radial")}
    changes = {name: size for name, size in sizes.items() if size is not None}
    with blame("[model]"):
        config = ACEConfig.preset(
            model.preset,
            train.elements,
            cutoff=model.cutoff_angstrom,
            mean_neighbors=max(found.neighbors, 1.0),
            energy_scale=found.force_rms or 1.0,
            **changes,
        )
        energy: AbstractEnergy = ACE(config, key=jax.random.key(learn.seed))
        if model.members > 1:
            keys = jax.random.split(jax.random.key(learn.seed), model.members)
            energy = Committee.of([ACE(config, key=key) for key in keys], last_layer if model.share else None)
        if isinstance(model.charges, str):
            options = {"mean_neighbors": max(found.neighbors, 1.0), "start": mean_charges(train)}
            key = jax.random.key(learn.seed + 1)
            energy = energy + _electrostatics(model, (train, *others), key=key, **options)
    return with_terms(energy, _specs(model)[1], "model.terms")


def make_prior(model: Model, train: Dataset, *others: Dataset) -> AbstractEnergy | None:
    """What the labels are taken relative to: the prior, charges that are given, and the terms that are not trained.

    **Raises:** `UserError` for what does not exist or makes no sense.
    """
    prior = None if model.prior is None else make_term(model.prior, train.elements, "model.prior")
    if isinstance(model.charges, Mapping):
        with blame("[model]"):
            given = _electrostatics(model, (train, *others), key=jax.random.key(0))
        prior = given if prior is None else prior + given
    fixed = _specs(model)[0]
    return with_terms(prior, fixed, "model.terms") if prior else make_terms(fixed, train.elements, "model.terms")


def _electrostatics(model: Model, data: Sequence[Dataset], **options: Any) -> AbstractEnergy:
    """The long-range term of a configuration, planned for all frames."""
    from jaxmlip.models.charges import electrostatics

    assert model.charges is not None
    systems = [record.system for part in data for record in part]
    options |= {"cutoff": model.cutoff_angstrom, "background": model.background}
    return electrostatics(model.charges, systems, **options)


def _specs(model: Model) -> tuple[list[Spec], list[Spec]]:
    """The terms that stay as they are, and those that are trained."""
    read = [is_trained(spec, f"model.terms[{i}]") for i, spec in enumerate(model.terms)]
    return [spec for spec, train in read if not train], [spec for spec, train in read if train]


def save_model(path: Path, result: FitResult, train: Dataset) -> None:
    """Write the trained energy with what it was made from."""
    from jaxmlip.models.pretrained import save

    last = result.history[-1] if result.history else {}
    save(
        path, result.energy, versions=settings.versions(), dataset=train.fingerprint(), frames=len(train), metrics=last
    )
