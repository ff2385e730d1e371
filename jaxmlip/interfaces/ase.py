"""An ASE calculator for any energy: `atoms.calc = Calculator(energy)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import ase
import jax
import numpy as np
from ase.calculators import calculator
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Array, Float

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, Derivatives, check_system, energy_forces_stress, replan, system_checks
from jaxmlip.energy.committee import Spread, has_committee, split_committee, spread
from jaxmlip.graph import Graph, batch, pad
from jaxmlip.io import from_ase

_DEVIATIONS = ("energy_std", "forces_std", "stress_std")


class Calculator(calculator.Calculator):
    """Energy, energies of atoms, forces and stress (units and signs of ASE), always computed in float64.

    Neighbor lists are made on the host at every call and padded to sizes that grow geometrically, so nothing is
    compiled again when atoms move, or when their number changes within a size; `compilations` counts. The stress
    exists where the cell spans space.

    An energy with a `Committee` among its terms has three properties more, the standard deviations of its members:
    `calc.get_property("energy_std", atoms)` of the total energy [eV], `forces_std` [atoms 3] and `stress_std` [6].

    **Raises:** `ValueError` where the atoms hold an element that the energy does not know, or no sensible geometry.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, energy: AbstractEnergy):
        super().__init__()
        self.energy = energy
        if has_committee(energy):
            vars(self)["implemented_properties"] = [*self.implemented_properties, *_DEVIATIONS]
        self.compilations = 0
        self._atoms = 0
        self._neighbors = 0

        def derivatives(energy: AbstractEnergy, graph: Graph) -> Derivatives:
            self.compilations += 1
            return energy_forces_stress(energy, graph)

        def atomic(energy: AbstractEnergy, graph: Graph) -> Float[Array, "atoms"]:
            self.compilations += 1
            return energy(graph)

        def disagreement(energy: AbstractEnergy, graph: Graph) -> Spread:
            self.compilations += 1
            return spread(split_committee(energy)[0], graph)

        self._derivatives = Compiled(derivatives)
        self._atomic = Compiled(atomic)
        self._spread = Compiled(disagreement)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = calculator.all_changes,
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        assert atoms is not None
        with jax.enable_x64(True):
            graph = self._graph(atoms)
            if "energies" in properties:
                self.results["energies"] = np.asarray(self._atomic(self.energy, graph), np.float64)[: len(atoms)]
            if set(properties) & set(_DEVIATIONS):
                self._store_spread(atoms, jax.device_get(self._spread(self.energy, graph)))
            if set(properties) - {"energies", *_DEVIATIONS}:
                self._store(atoms, jax.device_get(self._derivatives(self.energy, graph)))

    def _graph(self, atoms: ase.Atoms) -> Graph:
        """The atoms as a graph, padded to the sizes in use where they fit, else to the next ones."""
        system = from_ase(atoms, dtype=np.float64)
        if system_checks(self.energy):
            self.energy = replan(self.energy, system)
        check_system(self.energy, system)
        graph = batch(system, self.energy.cutoff or 1.0)
        self._atoms = padded_size(len(atoms), self._atoms)
        self._neighbors = padded_size(graph.senders.shape[0], self._neighbors, room=1.2)
        return pad(graph, atoms=self._atoms, neighbors=self._neighbors, slots=1)

    def _store(self, atoms: ase.Atoms, values: Derivatives) -> None:
        self.results["energy"] = self.results["free_energy"] = float(values.energy[0])
        self.results["forces"] = np.asarray(values.forces, np.float64)[: len(atoms)]
        if atoms.cell.rank == 3:
            self.results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(values.stress[0], np.float64))

    def _store_spread(self, atoms: ase.Atoms, values: Spread) -> None:
        self.results["energy_std"] = float(values.energy[0]) * len(atoms)
        self.results["forces_std"] = np.asarray(values.forces, np.float64)[: len(atoms)]
        if atoms.cell.rank == 3:
            virial = len(atoms) * np.asarray(values.virial[0], np.float64)
            self.results["stress_std"] = full_3x3_to_voigt_6_stress(virial / atoms.get_volume())


def padded_size(need: int, current: int = 0, *, room: float = 1.0) -> int:
    """The size to pad `need` things to: `current` while they fit and it is not far too large, else a new one.

    New sizes have space for `room` times what is needed. They are multiples of four that grow by a quarter, so a
    system that grows from 10 to 10,000 atoms meets about 30 of them.
    """
    if need <= current <= max(2.0 * room * need, 32):
        return current
    size = 8
    while size < room * need:
        size = 4 * math.ceil(size * 1.25 / 4)
    return size
