"""`jaxmlip relax`: relax a structure with a model."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from jaxmlip import units
from jaxmlip.cli import settings
from jaxmlip.cli.config import parse, require, require_number
from jaxmlip.cli.errors import Failure
from jaxmlip.cli.structures import blame, planned, read_model, read_system
from jaxmlip.cli.terms import Spec, with_terms
from jaxmlip.io import to_ase
from jaxmlip.simulate import FIRE, LBFGS, SimulationError
from jaxmlip.simulate.minimize import Relaxation, minimize

METHODS = {"fire": FIRE(), "lbfgs": LBFGS()}


@dataclasses.dataclass(frozen=True)
class RelaxConfig:
    """Relax a structure with a model."""

    model: str
    """Model file, or the name of a pretrained model."""
    structure: Path
    """File with the structure to start from, in any format that ASE reads."""
    output: Path = Path("runs/relax")
    """Folder for `relaxed.extxyz`."""
    terms: tuple[Spec, ...] = ()
    """Energies to add to the model, such as zbl; see `jaxmlip train`."""
    frame: int = -1
    """Which frame of the file; -1 is the last."""
    cell: bool = False
    """Relax the cell too."""
    pressure_GPa: float = 0.0
    fmax_eV_per_A: float = 1e-3
    """Largest force at the end."""
    smax_GPa: float = 1e-3
    """Largest deviation of the stress from the pressure at the end, with `cell`."""
    method: Literal["fire", "lbfgs"] = "fire"
    """lbfgs takes fewer steps where the start is not far off."""
    steps: int = 5000

    def check(self) -> None:
        require_number(self.fmax_eV_per_A, "fmax_eV_per_A", above=0.0)
        require_number(self.smax_GPa, "smax_GPa", above=0.0)
        require_number(self.pressure_GPa, "pressure_GPa")
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
        require(self.cell or self.pressure_GPa == 0.0, "pressure_GPa", "needs `--cell`", self.pressure_GPa)


def main(argv: Sequence[str]) -> int:
    """Relax and write; 1 where the tolerances are not met."""
    config = parse(RelaxConfig, argv, command="relax")
    config.check()
    energy = with_terms(read_model(config.model), config.terms)
    system = read_system(config.structure, energy, frame=config.frame)
    energy = planned(energy, lambda: system, f"{config.structure}, frame {config.frame}")
    settings.check_writable(config.output)
    try:
        with blame(f"{config.structure}, frame {config.frame}"):
            result = minimize(
                energy,
                system,
                fmax=config.fmax_eV_per_A,
                smax=config.smax_GPa * units.GPa,
                steps=config.steps,
                cell=config.cell,
                pressure=config.pressure_GPa * units.GPa,
                method=METHODS[config.method],
            )
    except SimulationError as error:
        raise Failure(str(error)) from error
    settings.write_run(config.output, config, command="relax", inputs=(Path(config.model), config.structure))
    settings.write_text(config.output / "relaxed.extxyz", extxyz(result, config.pressure_GPa * units.GPa))
    print(f"{int(result.steps)} steps: largest force {float(result.fmax):.3g} eV/Å", end="")
    print(f", stress off by {float(result.smax) / units.GPa:.3g} GPa at most" if config.cell else "")
    print(f"Written: {config.output / 'relaxed.extxyz'}")
    if not bool(result.converged):
        raise Failure(f"not converged after {int(result.steps)} steps; what was written is the best so far.")
    return 0


def extxyz(result: Relaxation, pressure: float) -> str:
    """The relaxed structure with its energy (without the work against the pressure) and forces."""
    atoms = to_ase(result.system)
    energy = float(result.energy) - (pressure * atoms.get_volume() if pressure else 0.0)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.asarray(result.forces, np.float64))
    text = io.StringIO()
    ase.io.write(text, atoms, format="extxyz")
    return text.getvalue()
