"""`jaxmlip demo`: train, test and simulate silicon in a few minutes, with a report."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import jaxmlip.data
from jaxmlip import units
from jaxmlip.cli import settings, silicon
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.train import MODEL, Data, Model, make_energy, read_splits, save_model
from jaxmlip.data import Dataset, read_dataset
from jaxmlip.errors import UserError
from jaxmlip.learn import Report, TrainSettings, evaluate, fit

DATA = "silicon_pbe.extxyz.xz"


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Train, test and simulate silicon in a few minutes, with a report."""

    output: Path = Path("demo")
    data: Path | None = None
    """Labelled silicon instead of the data that come with jaxmlip."""
    preset: Literal["nep", "fast", "accurate"] = "fast"
    train_steps: int = 5000
    """Steps and not minutes, so that a slow machine gives the same potential."""
    repeat: int = 3
    """The crystal is this many cubic cells of 8 atoms along each axis."""
    temperature_K: float = 300.0
    md_steps: int = 2000
    """Steps of 1 fs with thermostat, and again without."""
    seed: int = 0

    def check(self) -> None:
        require(self.train_steps >= 1, "train_steps", "must be at least 1", self.train_steps)
        require_number(self.temperature_K, "temperature_K", above=0.0, most=1600.0)
        require(self.repeat >= 1, "repeat", "must be at least 1", self.repeat)
        require(self.md_steps >= 100, "md_steps", "must be at least 100", self.md_steps)


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that the report shows."""

    config: DemoConfig
    train: Dataset
    report: Report
    tested_on: str
    history: list[dict[str, Any]]
    curves: dict[str, silicon.Curve]
    hot: silicon.Trajectory
    free: silicon.Trajectory
    cell: np.ndarray
    minutes: float

    def numbers(self) -> dict[str, float]:
        """The results, for JSON."""
        diamond = self.curves["diamond"]
        v_dft, b_dft = silicon.equilibrium(diamond.volume, diamond.dft)
        v, b = silicon.equilibrium(diamond.fine_volume, diamond.fine_model)
        return {
            **self.report.errors(),
            "lattice_constant_A": (8 * v) ** (1 / 3),
            "lattice_constant_dft_A": (8 * v_dft) ** (1 / 3),
            "bulk_modulus_GPa": b / units.GPa,
            "bulk_modulus_dft_GPa": b_dft / units.GPa,
            "mean_temperature_K": float(self.hot.temperature[len(self.hot.temperature) // 3 :].mean()),
            "drift_meV_per_atom_per_ps": 1e3 * self.free.drift,
            "minutes": self.minutes,
        }

    def headlines(self) -> dict[str, str]:
        """The results, for people."""
        n = self.numbers()
        return {
            f"force RMSE, {self.tested_on} frames": f"{n['force_rmse_meV_per_A']:.3g} meV/Å",
            f"energy RMSE, {self.tested_on} frames": f"{n['energy_rmse_meV_per_atom']:.3g} meV/atom",
            f"lattice constant (DFT {n['lattice_constant_dft_A']:.3f} Å)": f"{n['lattice_constant_A']:.3f} Å",
            f"bulk modulus (DFT {n['bulk_modulus_dft_GPa']:.1f} GPa)": f"{n['bulk_modulus_GPa']:.1f} GPa",
            f"mean temperature (thermostat {self.config.temperature_K:g} K)": f"{n['mean_temperature_K']:.0f} K",
            "energy drift without thermostat": f"{n['drift_meV_per_atom_per_ps']:.2g} meV/atom/ps",
        }


def main(argv: Sequence[str]) -> int:
    """The whole demonstration; the report is written last."""
    began = time.monotonic()
    config = parse(DemoConfig, argv, command="demo")
    config.check()
    settings.check_writable(config.output)
    path = config.data or Path(str(importlib.resources.files(jaxmlip.data) / DATA))
    train, valid, test = read_splits(Data(train=(path,)))
    tested, tested_on = (test, "test") if test else (valid or train, "validation")
    settings.write_run(
        config.output, config, command="demo", seed=config.seed, inputs=(path,), dataset=train.fingerprint()
    )
    print(f"Training on {train!r}", flush=True)
    learn = learning(config)
    result = fit(make_energy(Model(preset=config.preset), train, learn), train, valid, settings=learn)
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    save_model(config.output / MODEL, result, train)
    report = evaluate(result.energy, tested)
    print(f"\nErrors on {tested_on} frames\n{report.table()}\n", flush=True)

    curves = silicon.equations_of_state(result.energy, read_dataset(path))
    if "diamond" not in curves:
        raise UserError(f"{path} holds no equation of state of diamond-structure silicon (`config_type=eos`).")
    volume, _ = silicon.equilibrium(curves["diamond"].fine_volume, curves["diamond"].fine_model)
    system = silicon.crystal((8 * volume) ** (1 / 3), config.repeat)
    print(f"Molecular dynamics of {len(system.numbers)} atoms at {config.temperature_K:g} K", flush=True)
    keys = jax.random.split(jax.random.key(config.seed))
    thermostat = silicon.thermostat(config.temperature_K)
    hot, state = silicon.dynamics(result.energy, thermostat, system, steps=config.md_steps, key=keys[0])
    free, _ = silicon.dynamics(
        result.energy, silicon.newton(), state.system, steps=config.md_steps, key=keys[1], momenta=state.momenta
    )

    minutes = (time.monotonic() - began) / 60.0
    cell = np.asarray(system.cell)
    found = Findings(config, train, report, tested_on, result.history, curves, hot, free, cell, minutes)
    settings.write_text(config.output / "results.json", json.dumps(found.numbers(), indent=2) + "\n")
    settings.write_text(config.output / "report.html", page(found))
    for name, value in found.headlines().items():
        print(f"{name}: {value}")
    print(f"\nOpen {(config.output / 'report.html').resolve()}")
    return 0


def learning(config: DemoConfig) -> TrainSettings:
    """How the demo trains."""
    return TrainSettings(
        steps=config.train_steps,
        stress_weight=0.1,
        late_energy_weight=30.0,
        switch_at=0.6,
        max_shapes=1,
        missing=1.0,
        seed=config.seed,
    )


def page(found: Findings) -> str:
    """The report as one HTML page."""
    from jaxmlip.cli import figures
    from jaxmlip.cli.html import Page

    config, report = found.config, found.report
    atoms = 8 * config.repeat**3
    out = Page(
        "A silicon potential, from density-functional theory to molecular dynamics",
        f"jaxmlip trained the {config.preset} potential on {len(found.train)} structures and simulated {atoms} atoms, "
        f"all in {found.minutes:.1f} minutes.",
    )
    out.cards(found.headlines())
    steps = np.array([line["step"] for line in found.history])
    force = np.array([line.get("valid_force_rmse_meV_per_A", np.nan) for line in found.history])
    energy = np.array([line.get("valid_energy_rmse_meV_per_atom", np.nan) for line in found.history])
    out.figure(
        "Learning curve",
        "Errors on validation structures, which choose the best parameters but are not trained on. Late in the "
        "training the weight of the energies is raised.",
        figures.learning_curve(steps, force, energy),
    )
    middle = np.nanmean(report.energy_label)
    out.figure(
        "Parity",
        f"Model against DFT on {len(report.atoms)} {found.tested_on} structures; total energies less their mean.",
        figures.parity(
            {
                "energy [eV/atom]": (report.energy_label - middle, report.energy - middle),
                "force [eV/Å]": (report.forces_label.ravel(), report.forces.ravel()),
            }
        ),
    )
    rows = [
        [kind, str(len(row.atoms)), *(f"{x:.3g}" for x in row.errors().values())] for kind, row in report.rows().items()
    ]
    header = ["structures", "frames", "energy RMSE", "MAE", "force RMSE", "MAE", "stress RMSE", "MAE"]
    out.table("Errors by kind of structure", "Energy in meV/atom, force in meV/Å, stress in GPa.", header, rows)
    shown = {name: dataclasses.asdict(curve) for name, curve in found.curves.items()}
    out.figure(
        "Equation of state",
        "Energy against volume for crystals of silicon. Some of the DFT points were trained on, others were not.",
        figures.equation_of_state(shown),
    )
    _dynamics(out, found)
    out.table("How this was made", "", ["what", "value"], _provenance(config))
    return out.html()


def _dynamics(out: Any, found: Findings) -> None:
    """The sections on molecular dynamics."""
    from jaxmlip.cli import figures

    config = found.config
    ps = config.md_steps * silicon.TIMESTEP / units.ps
    out.figure(
        f"Constant temperature: {config.temperature_K:g} K",
        f"Langevin dynamics for {ps:g} ps, timestep 1 fs, friction 5/ps. The atoms start on their lattice sites with "
        "the velocities of the thermostat, half of which soon goes into the lattice, so it takes a moment to warm up.",
        figures.temperature(found.hot.time_ps, found.hot.temperature, config.temperature_K),
    )
    half = found.hot.positions[len(found.hot.positions) // 2 :: 5]
    r, g = silicon.radial_distribution(half, found.cell)
    side = found.cell[0, 0] / config.repeat
    shells = side * np.sqrt(np.array([3, 8, 11, 16, 19, 24, 27, 32])) / 4.0
    out.figure(
        "Radial distribution function",
        "How often two atoms are a distance r apart, relative to a random arrangement; second half of the run above.",
        figures.radial_distribution(r, g, shells),
    )
    free = found.free
    out.figure(
        "Conservation of energy",
        f"The thermostat is switched off and the run goes on for {ps:g} ps. The forces are exact derivatives of the "
        "energy, so the total energy stays while kinetic energy comes and goes.",
        figures.conservation(
            free.time_ps - free.time_ps[0], 1e3 * free.conserved, 1e3 * free.kinetic, 1e3 * free.drift
        ),
    )


def _provenance(config: DemoConfig) -> list[list[str]]:
    device = jax.devices()[0]
    rows = [
        ["command", "jaxmlip demo"],
        ["seed", str(config.seed)],
        ["device", f"{device.platform}: {device.device_kind}"],
    ]
    rows.append(["commit", settings.commit() or "not a git checkout"])
    return rows + [[name, version] for name, version in settings.versions().items()]
