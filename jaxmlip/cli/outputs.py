"""What molecular dynamics write as they go: a trajectory, and a table of energies."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.energy.committee import has_committee
from jaxmlip.files import append
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.interfaces.trajectory import ExtxyzWriter
from jaxmlip.io import to_ase
from jaxmlip.simulate.frames import Frame
from jaxmlip.system import System

COLUMNS = ("step", "time_ps", "potential_eV", "kinetic_eV", "total_eV", "temperature_K", "volume_A3")
DEVIATIONS = ("energy_std_eV", "worst_force_std_eV_A")  # of a committee


class Outputs:
    """The files `trajectory.extxyz` and `log.csv` of one run, for `jaxmlip.simulate.run`. With a committee among the
    terms of `energy` the table says how far its members disagree."""

    def __init__(self, folder: Path, *, timestep: float, degrees_of_freedom: int, energy: AbstractEnergy | None = None):
        self.trajectory = ExtxyzWriter(folder / "trajectory.extxyz", timestep=timestep)
        self.log = folder / "log.csv"
        self.timestep = timestep
        self.degrees_of_freedom = degrees_of_freedom
        self.calculator = Calculator(energy) if energy is not None and has_committee(energy) else None
        self.columns = COLUMNS if self.calculator is None else COLUMNS + DEVIATIONS
        if not self.log.exists():
            append(self.log, (",".join(self.columns) + "\n").encode())

    def write(self, system: System, frames: Sequence[Frame]) -> None:
        """Append frames to both files; each ends with whole frames and lines even where the disk fills up."""
        self.trajectory.write(system, frames)
        append(self.log, b"".join(self._row(system, f) for f in frames))

    def position(self) -> int:
        """Bytes of the trajectory that are complete."""
        return self.trajectory.position()

    def rewind(self, position: int, step: int = -1) -> None:
        """Cut the trajectory back to `position` bytes, and the table to its rows up to `step`."""
        self.trajectory.rewind(position)
        rows = self.log.read_text().split("\n")
        kept = [r for r in rows[1:] if r.count(",") == len(self.columns) - 1 and int(r.split(",")[0]) <= step]
        os.truncate(self.log, len("\n".join([rows[0], *kept]).encode()) + 1)

    def _row(self, system: System, frame: Frame) -> bytes:
        momenta, masses = np.asarray(frame.momenta, np.float64), np.asarray(system.masses, np.float64)
        kinetic = float(0.5 * np.sum(momenta**2 / masses[:, None]))
        potential = float(frame.energy)
        temperature = 2.0 * kinetic / (self.degrees_of_freedom * units.kB) if self.degrees_of_freedom else 0.0
        volume = abs(float(np.linalg.det(np.asarray(frame.cell, np.float64))))
        values = (potential, kinetic, potential + kinetic, temperature, volume, *self._deviations(system, frame))
        time_ps = int(frame.step) * self.timestep / units.ps
        return f"{int(frame.step)},{time_ps:.6f},{','.join(f'{v:.10g}' for v in values)}\n".encode()

    def _deviations(self, system: System, frame: Frame) -> tuple[float, ...]:
        """How far the members of a committee disagree in a frame: total energy, and the worst force of an atom."""
        if self.calculator is None:
            return ()
        place = {name: jnp.asarray(getattr(frame, name)) for name in ("positions", "cell")}
        atoms = to_ase(dataclasses.replace(system, **place))
        energy, forces = (self.calculator.get_property(name, atoms) for name in ("energy_std", "forces_std"))
        return float(np.asarray(energy)), float(np.linalg.norm(np.asarray(forces), axis=1).max())
