"""`jaxmlip md`: molecular dynamics with a model, restartable to the bit."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import numpy as np

from jaxmlip import units
from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.errors import Failure
from jaxmlip.cli.outputs import Outputs
from jaxmlip.cli.structures import blame, planned, read_model, read_system
from jaxmlip.cli.terms import Spec, with_terms
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.simulate import (
    CSVR,
    MTK,
    NPT,
    NVE,
    AbstractIntegrator,
    Berendsen,
    BerendsenNPT,
    Brownian,
    Langevin,
    NoseHoover,
    Ramp,
    SimulationError,
    State,
    load_state,
    run,
    save_state,
)
from jaxmlip.system import System

CHECKPOINT = "state.checkpoint"
BAROSTATS = ("npt", "mtk", "berendsen-npt")


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """Ensemble and equations of motion."""

    ensemble: Literal[
        "nve", "langevin", "nose-hoover", "csvr", "brownian", "npt", "mtk", "berendsen", "berendsen-npt"
    ] = "langevin"
    """langevin, nose-hoover, csvr and brownian hold the temperature; npt and mtk the pressure too."""
    steps: int = 10_000
    """Steps of the whole run, those before a restart included."""
    timestep_fs: float = 1.0
    temperature_K: float = 300.0
    """Temperature of the thermostat; with nve, of the first velocities."""
    temperature_end_K: float | None = None
    """Where given, the temperature goes there at an even rate within `ramp_ps`."""
    friction_per_ps: float = 5.0
    """For langevin, npt and brownian (which wants far more)."""
    thermostat_period_fs: float = 100.0
    """For nose-hoover, csvr, mtk and berendsen."""
    pressure_GPa: float = 0.0
    """For npt, mtk and berendsen-npt."""
    pressure_end_GPa: float | None = None
    """Where given, the pressure goes there at an even rate within `ramp_ps`."""
    barostat_period_fs: float = 1000.0
    """For npt, mtk and berendsen-npt."""
    compressibility_per_GPa: float = 0.02
    """For npt and berendsen-npt: a guess, which sets the speed of the cell together with `barostat_period_fs`."""
    cell: Literal["isotropic", "anisotropic", "triclinic"] = "isotropic"
    """For npt, mtk and berendsen-npt: what of the cell may change."""
    ramp_ps: float | None = None
    """How long temperature and pressure take to their `_end_` values, from step 0 on; constant afterwards."""

    def check(self) -> None:
        require_number(self.timestep_fs, "dynamics.timestep_fs", above=0.0, most=100.0)
        require_number(self.temperature_K, "dynamics.temperature_K", least=0.0, most=1e5)
        for name in ("friction_per_ps", "thermostat_period_fs", "barostat_period_fs", "compressibility_per_GPa"):
            require_number(getattr(self, name), f"dynamics.{name}", above=0.0)
        require_number(self.pressure_GPa, "dynamics.pressure_GPa")
        require(self.steps >= 1, "dynamics.steps", "must be at least 1", self.steps)
        self.check_ramps()

    def check_ramps(self) -> None:
        """Refuse a ramp without length, a length without ramp, and ramps of what the ensemble does not hold."""
        if self.temperature_end_K is not None:
            require_number(self.temperature_end_K, "dynamics.temperature_end_K", least=0.0, most=1e5)
            rule = "needs a thermostat: `dynamics.ensemble` is nve"
            require(self.ensemble != "nve", "dynamics.temperature_end_K", rule, self.temperature_end_K)
        if self.pressure_end_GPa is not None:
            require_number(self.pressure_end_GPa, "dynamics.pressure_end_GPa")
            rule = f"needs a barostat (npt, mtk): `dynamics.ensemble` is {self.ensemble}"
            require(self.ensemble in BAROSTATS, "dynamics.pressure_end_GPa", rule, self.pressure_end_GPa)
        ramps = self.temperature_end_K is not None or self.pressure_end_GPa is not None
        if self.ramp_ps is not None:
            require_number(self.ramp_ps, "dynamics.ramp_ps", above=0.0)
            rule = "needs `dynamics.temperature_end_K` or `dynamics.pressure_end_GPa`"
            require(ramps, "dynamics.ramp_ps", rule, self.ramp_ps)
        require(not ramps or self.ramp_ps is not None, "dynamics.ramp_ps", "must be given for a ramp [ps]", None)

    def temperature(self) -> float | Ramp:
        """The temperature of the thermostat [K]."""
        if self.temperature_end_K is None or self.ramp_ps is None:
            return self.temperature_K
        return Ramp(self.temperature_K, self.temperature_end_K, self.ramp_ps * units.ps)

    def pressure(self) -> float | Ramp:
        """The pressure of the barostat [eV/Å³]."""
        start = self.pressure_GPa * units.GPa
        if self.pressure_end_GPa is None or self.ramp_ps is None:
            return start
        return Ramp(start, self.pressure_end_GPa * units.GPa, self.ramp_ps * units.ps)


@dataclasses.dataclass(frozen=True)
class MDConfig:
    """Molecular dynamics with a model."""

    model: str
    """Model file, or the name of a pretrained model."""
    structure: Path
    """File with the structure to start from, in any format that ASE reads."""
    output: Path = Path("runs/md")
    terms: tuple[Spec, ...] = ()
    """Energies to add to the model, such as zbl; see `jaxmlip train`."""
    frame: int = -1
    """Which frame of the file; -1 is the last."""
    repeat: tuple[int, int, int] = (1, 1, 1)
    """Repetitions of the cell along its three vectors."""
    every: int = 100
    """Steps between two frames of the trajectory and two rows of the log."""
    checkpoint_seconds: float = 30.0
    skin_angstrom: float = 1.0
    """How much farther than the cutoff neighbor lists reach."""
    precision: Literal["float32", "float64"] = "float64"
    seed: int = 0
    resume: bool = False
    """Go on from the checkpoint in `output`."""
    dynamics: Dynamics = Dynamics()

    def check(self) -> None:
        self.dynamics.check()
        require(self.every >= 1, "every", "must be at least 1", self.every)
        require_number(self.checkpoint_seconds, "checkpoint_seconds", least=0.0)
        require_number(self.skin_angstrom, "skin_angstrom", least=0.0, most=10.0)


class _Energies(eqx.Module):
    """Step and conserved energy [eV] of a state."""

    integrator: AbstractIntegrator

    def __call__(self, state: State):
        return state.step, self.integrator.conserved(state)


def main(argv: Sequence[str]) -> int:
    """Run or continue molecular dynamics; 1 where the dynamics had to stop."""
    config = parse(MDConfig, argv, command="md", description=__doc__ or "")
    config.check()
    energy = with_terms(read_model(config.model), config.terms)
    energy = planned(energy, lambda: start_of(config, energy), f"{config.structure}, frame {config.frame}")
    with settings.locked(config.output):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            integrator = make_integrator(config.dynamics)
        for warning in heard:
            print(f"jaxmlip md: warning: {warning.message}", file=sys.stderr)
        state = resumed(config, energy) if config.resume else started(config, energy, integrator)
        outputs = Outputs(
            config.output,
            timestep=config.dynamics.timestep_fs * units.fs,
            degrees_of_freedom=integrator.degrees_of_freedom(state.system),
            energy=energy,
        )
        return simulate(config, energy, integrator, state, outputs)


def make_integrator(dynamics: Dynamics) -> AbstractIntegrator:
    """The integrator of a configuration."""
    dt, temperature, pressure = dynamics.timestep_fs * units.fs, dynamics.temperature(), dynamics.pressure()
    friction, shape = dynamics.friction_per_ps / units.ps, dynamics.cell
    bath, cell = dynamics.thermostat_period_fs * units.fs, dynamics.barostat_period_fs * units.fs
    compressibility = dynamics.compressibility_per_GPa / units.GPa
    with blame("[dynamics]"):
        match dynamics.ensemble:
            case "nve":
                return NVE(dt)
            case "langevin":
                return Langevin(dt, temperature, friction)
            case "nose-hoover":
                return NoseHoover(dt, temperature, bath)
            case "csvr":
                return CSVR(dt, temperature, bath)
            case "brownian":
                return Brownian(dt, temperature, friction)
            case "npt":
                return NPT(dt, temperature, friction, pressure, cell, compressibility, shape)
            case "mtk":
                return MTK(dt, temperature, bath, pressure, cell, shape)
            case "berendsen":
                return Berendsen(dt, temperature, bath)
            case "berendsen-npt":
                return BerendsenNPT(dt, temperature, bath, pressure, cell, compressibility, shape)


def start_of(config: MDConfig, energy: AbstractEnergy) -> System:
    """The system to start from."""
    return read_system(config.structure, energy, frame=config.frame, repeat=config.repeat, dtype=config.precision)


def started(config: MDConfig, energy: AbstractEnergy, integrator: AbstractIntegrator) -> State:
    """The first state, checkpointed at once; refuses to write over another run."""
    if any((config.output / name).exists() for name in (CHECKPOINT, "trajectory.extxyz", "log.csv")):
        raise UserError(f"{config.output} holds a run: continue it with `--resume`, or give another `--output`.")
    system = start_of(config, energy)
    with blame(f"{config.structure}, frame {config.frame}"):
        state = integrator.init(
            energy,
            system,
            key=jax.random.key(config.seed),
            temperature=config.dynamics.temperature_K,
            skin=config.skin_angstrom,
        )
    save_state(config.output / CHECKPOINT, state, writer=0, identity=identity(config))
    return state


def resumed(config: MDConfig, energy: AbstractEnergy) -> State:
    """The state of the checkpoint, files cut back to it; refuses one that was made with other settings."""
    path = config.output / CHECKPOINT
    if not path.exists():
        raise UserError(f"{path} does not exist: there is no run to resume.")
    with blame("cannot resume"):
        state, metadata = load_state(path)
    for name, value in identity(config).items():
        if metadata.get("identity", {}).get(name) != value:
            was = metadata.get("identity", {}).get(name)
            raise UserError(f"cannot resume: {name} is {value} now, but was {was}. Start anew with another `--output`.")
    timestep = config.dynamics.timestep_fs * units.fs
    outputs = Outputs(config.output, timestep=timestep, degrees_of_freedom=1, energy=energy)
    outputs.rewind(metadata["writer"], int(state.step))
    return state


def identity(config: MDConfig) -> dict:
    """What must not change between a run and its continuation, as JSON."""
    dynamics = {k: v for k, v in dataclasses.asdict(config.dynamics).items() if k != "steps"}
    model = settings.sha256(Path(config.model)) or config.model
    terms = list(config.terms) or None
    return {"model": model, "terms": terms, "every": config.every, "precision": config.precision, **dynamics}


def simulate(
    config: MDConfig, energy: AbstractEnergy, integrator: AbstractIntegrator, state: State, outputs: Outputs
) -> int:
    """Run what is left of the steps, and say how it went."""
    left = config.dynamics.steps - int(state.step)
    if left <= 0:
        print(f"{config.output} has reached step {int(state.step)} already; raise `dynamics.steps` to go on.")
        return 0
    settings.write_run(
        config.output, config, command="md", seed=config.seed, inputs=(Path(config.model), config.structure)
    )
    atoms, dynamics = len(state.system.numbers), config.dynamics
    print(f"{atoms} atoms, {dynamics.ensemble}, steps {int(state.step)} to {dynamics.steps}")
    try:
        with settings.progress_bar(config.dynamics.steps, "md") as advance:
            state, (steps, conserved) = run(
                integrator,
                energy,
                state,
                steps=left,
                every=config.every,
                observe=_Energies(integrator),
                writer=outputs,
                checkpoint=config.output / CHECKPOINT,
                checkpoint_seconds=config.checkpoint_seconds,
                metadata={"identity": identity(config)},
                progress=lambda s: advance(int(s.step)),
            )
    except SimulationError as error:
        raise Failure(str(error)) from error
    if len(steps) > 1:
        time_ps = steps * config.dynamics.timestep_fs * 1e-3
        drift = np.polyfit(time_ps, conserved / len(state.system.numbers), 1)[0]
        print(f"Drift of the conserved energy: {1e3 * drift:.3g} meV/atom/ps")
    print(f"Written: {outputs.trajectory.path}, {outputs.log}, {config.output / CHECKPOINT}")
    return 0
