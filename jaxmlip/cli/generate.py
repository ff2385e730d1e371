"""`jaxmlip generate`: a training set by design, from a few structures: planned, made, chosen, labelled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.data import Dataset, read_dataset
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.io import write_frames
from jaxmlip.learn.plan import Plan

STRUCTURES, DESIGN, LABELLED = "structures.extxyz", "design.json", "labelled.extxyz"


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """A training set by design, from a few structures."""

    seeds: tuple[Path, ...]
    """Files with the structures to start from: crystals in their smallest or conventional cells."""
    output: Path = Path("runs/generate")
    """Folder for `structures.extxyz`, `labelled.extxyz` and `failed.extxyz`."""
    budget: int = 100
    """How many labels there may be."""
    sampler: str | None = None
    """An energy for phonons, dynamics and steps downhill: a model file, the name of a pretrained one, a LAMMPS file
    (.sw, .tersoff), or module:function. Without one there are no dynamics."""
    labeller: str | None = None
    """What labels: the same, and functions may return an ASE calculator. Without one the structures are only made."""
    workers: int = 1
    """Processes that label side by side."""
    timeout_seconds: float = 3600.0
    """For one frame; then it counts as failed."""
    largest_label_force: float = 300.0
    """Labels with larger forces [eV/Å] count as failed."""
    seed: int = 0
    plan_only: bool = False
    """Print the plan and stop."""
    resume: bool = False
    """Go on labelling where a run with the same settings stopped."""
    plan: Plan = Plan()

    def check(self) -> None:
        require(len(self.seeds) > 0, "seeds", "must name at least one file", "none")
        require(1 <= self.budget <= 10**6, "budget", "must be 1 to a million", self.budget)
        require(self.workers >= 1, "workers", "must be at least 1", self.workers)
        require_number(self.timeout_seconds, "timeout_seconds", above=0.0)
        require_number(self.largest_label_force, "largest_label_force", above=0.0)
        self.plan.check()


def main(argv: Sequence[str]) -> int:
    """Plan, make, choose, label; 1 where some frames could not be labelled."""
    config = parse(GenerateConfig, argv, command="generate", description=__doc__ or "")
    config.check()
    seeds = read_dataset(config.seeds)
    if config.labeller is not None:
        from jaxmlip.interfaces.workers import open_energy

        open_energy(config.labeller)  # what cannot label is said before anything is made
    energy = sampler_of(config)
    print(planned(config, seeds, energy))
    if config.plan_only:
        return 0
    settings.check_writable(config.output)
    with settings.locked(config.output):
        structures = resumed(config, seeds) if config.resume else made(config, seeds, energy)
        if config.labeller is None:
            print(f"Written: {config.output / STRUCTURES}. Give `--labeller NAME --resume` to label them.")
            return 0
        return labelled(config, structures)


def sampler_of(config: GenerateConfig) -> AbstractEnergy | None:
    """The energy that samples.

    **Raises:** `UserError` for an ASE calculator: dynamics and Hessians want an energy of ours.
    """
    from jaxmlip.interfaces.workers import open_energy

    if config.sampler is None:
        return None
    energy = open_energy(config.sampler)
    if not isinstance(energy, AbstractEnergy):
        raise UserError(f"`sampler` must be an energy of jaxmlip; {config.sampler} is a {type(energy).__name__}.")
    return energy


def planned(config: GenerateConfig, seeds: Dataset, energy: AbstractEnergy | None) -> str:
    """The plan with its numbers, as text."""
    from jaxmlip.learn.kinds import Sources

    plan = config.plan
    sources = Sources(
        seeds.records,
        energy,
        atoms=plan.atoms,
        debye_temperature=plan.debye_temperature_K,
        seed=config.seed,
        say=print,
    )
    counts, left_out = plan.counts(config.budget, sources)
    return plan.table(counts, left_out)


def identity(config: GenerateConfig) -> dict:
    """What structures depend on, as JSON."""
    files = [settings.sha256(path) for path in config.seeds]
    sampler = config.sampler and (settings.sha256(Path(config.sampler)) or config.sampler)
    found = {"seeds": files, "sampler": sampler, "budget": config.budget, "seed": config.seed}
    return json.loads(json.dumps(found | {"plan": dataclasses.asdict(config.plan)}))


def made(config: GenerateConfig, seeds: Dataset, energy: AbstractEnergy | None) -> Dataset:
    """The structures, made and chosen and written."""
    from jaxmlip.learn.generate import generate
    from jaxmlip.learn.progress import Progress

    for name in (STRUCTURES, LABELLED):
        if (config.output / name).exists():
            raise UserError(f"{config.output} holds {name}: give `--resume` to go on, or another `--output`.")
    settings.write_run(config.output, config, command="generate", inputs=config.seeds, seed=config.seed)
    with Progress() as bar:
        design = generate(
            seeds, config.plan, budget=config.budget, energy=energy, seed=config.seed, progress=bar.update
        )
    print()
    print(design.table())
    write_frames(config.output / STRUCTURES, design.dataset.records)
    settings.write_text(config.output / DESIGN, json.dumps(identity(config), indent=1) + "\n")
    return read_dataset(config.output / STRUCTURES)


def resumed(config: GenerateConfig, seeds: Dataset) -> Dataset:
    """The structures of an earlier run.

    **Raises:** `UserError` where there are none, or they were made with other settings.
    """
    path = config.output / DESIGN
    if not path.exists():
        raise UserError(f"{config.output} holds no finished design: start without `--resume`.")
    before = json.loads(path.read_text())
    differ = [key for key, value in identity(config).items() if before.get(key) != value]
    if differ:
        raise UserError(f"cannot resume: {', '.join(differ)} differ from before. Start anew with another `--output`.")
    return read_dataset(config.output / STRUCTURES)


def labelled(config: GenerateConfig, structures: Dataset) -> int:
    """Labels for the structures, with a bar."""
    from jaxmlip.interfaces.label import label

    assert config.labeller is not None
    with settings.progress_bar(len(structures), "labelling") as advance:
        found = label(
            structures.records,
            config.labeller,
            config.output / LABELLED,
            workers=config.workers,
            timeout=config.timeout_seconds,
            largest_force=config.largest_label_force,
            progress=lambda done, _: advance(done),
        )
    print(found.summary())
    print(f"Written: {config.output / LABELLED}" + (", failed.extxyz" if found.failed else ""))
    return 1 if found.failed else 0
