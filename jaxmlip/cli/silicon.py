"""What the demo asks of silicon: its equation of state, and the crystal in motion."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import numpy as np

from jaxmlip import units
from jaxmlip.cli.errors import Failure
from jaxmlip.data import Dataset
from jaxmlip.energy import AbstractEnergy, system_energies
from jaxmlip.graph import batch
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import Record
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate import NVE, AbstractIntegrator, Langevin, SimulationError, State, run
from jaxmlip.system import System, make_system

EVERY = 10
TIMESTEP = 1.0 * units.fs
_BASIS = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
_PHASES = {
    (4, 1.4): "diamond",
    (8, 1.7): "hexagonal diamond",
    (4, 0.6): "beta-tin",
    (4, 1.0): "fcc",
    (2, 1.0): "bcc",
    (1, 1.0): "sc",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Energy against volume [eV/atom, Å³/atom] of one phase: DFT points, the model there, and the model between."""

    volume: np.ndarray
    dft: np.ndarray
    model: np.ndarray
    fine_volume: np.ndarray
    fine_model: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The crystal every `EVERY` steps: energies per atom [eV], temperature [K], positions [Å]."""

    time_ps: np.ndarray
    conserved: np.ndarray
    kinetic: np.ndarray
    temperature: np.ndarray
    positions: np.ndarray

    @property
    def drift(self) -> float:
        """Slope of the conserved energy [eV/atom/ps]."""
        return float(np.polyfit(self.time_ps, self.conserved, 1)[0])


class _Observe(eqx.Module):
    integrator: AbstractIntegrator

    def __call__(self, state: State):
        kinetic = kinetic_energy(state.momenta, state.system.masses)
        return state.step, self.integrator.conserved(state), kinetic, state.system.positions


def crystal(lattice_constant: float, repeat: int) -> System:
    """Diamond-structure silicon of `repeat`³ cubic cells."""
    cells = np.array(list(np.ndindex(repeat, repeat, repeat)))
    positions = lattice_constant * (cells[:, None] + _BASIS[None]).reshape(-1, 3)
    return make_system(positions, np.full(len(positions), 14), cell=lattice_constant * repeat * np.eye(3))


def dynamics(
    energy: AbstractEnergy, integrator: AbstractIntegrator, system: System, *, steps: int, key, momenta=None
) -> tuple[Trajectory, State]:
    """Molecular dynamics of the crystal, and the state at its end.

    **Raises:** `Failure` where the dynamics blow up.
    """
    atoms = len(system.numbers)
    try:
        state = integrator.init(energy, system, key=key, momenta=momenta)
        state, (step, conserved, kinetic, positions) = run(
            integrator, energy, state, steps=steps, every=EVERY, observe=_Observe(integrator)
        )
    except (SimulationError, ValueError) as error:
        raise Failure(f"the dynamics failed: {error} Train longer (`--train-steps`).") from error
    freedom = integrator.degrees_of_freedom(system) / atoms
    kinetic = np.asarray(kinetic) / atoms
    trajectory = Trajectory(
        time_ps=np.asarray(step) * TIMESTEP / units.ps,
        conserved=np.asarray(conserved) / atoms,
        kinetic=kinetic,
        temperature=2.0 * kinetic / (freedom * units.kB),
        positions=np.asarray(positions),
    )
    return trajectory, state


def thermostat(temperature: float) -> Langevin:
    return Langevin(TIMESTEP, temperature, 5.0 / units.ps)


def newton() -> NVE:
    return NVE(TIMESTEP)


def radial_distribution(
    positions: np.ndarray, cell: np.ndarray, *, cutoff: float = 7.0, bins: int = 140
) -> tuple[np.ndarray, np.ndarray]:
    """Distances [Å] and g(r), averaged over frames of positions (`steps atoms 3`) in one periodic cell."""
    edges = np.linspace(0.0, cutoff, bins + 1)
    counts = np.zeros(bins)
    for frame in positions:
        i, j, s = neighbor_pairs(frame, cell, (True, True, True), cutoff)
        lengths = np.linalg.norm(frame[j] - frame[i] + s @ cell, axis=1)
        counts += np.histogram(lengths, edges)[0]
    density = positions.shape[1] / abs(np.linalg.det(cell))
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    return 0.5 * (edges[1:] + edges[:-1]), counts / (len(positions) * positions.shape[1] * density * shells)


def equations_of_state(energy: AbstractEnergy, dataset: Dataset, points: int = 25) -> dict[str, Curve]:
    """The curve of each phase of which the data hold at least three volumes (frames of the kind `eos`)."""
    groups: dict[str, list[Record]] = {}
    for record in dataset:
        if record.config_type == "eos" and record.energy is not None:
            groups.setdefault(phase(record), []).append(record)
    curves = {}
    for name, records in groups.items():
        if len(records) < 3:
            continue
        volume = np.array([_volume(r) for r in records])
        order = np.argsort(volume)
        records, volume = [records[i] for i in order], volume[order]
        fine = np.linspace(volume[0], volume[-1], points)
        dft = np.array([r.energy / len(r) for r in records])
        scaled = [_scaled(records[0], v) for v in fine]
        model = _energies(energy, [r.system for r in records] + scaled)
        curves[name] = Curve(volume, dft, model[: len(records)], fine, model[len(records) :])
    return dict(sorted(curves.items(), key=lambda item: item[1].dft.min()))


def phase(record: Record) -> str:
    """The name of a crystal of the data, from the number of atoms and the ratio of the outer edges of its cell."""
    lengths = np.linalg.norm(record.cell, axis=1)
    shape = (len(record), round(float(lengths[2] / lengths[0]), 1))
    return _PHASES.get(shape, f"{shape[0]} atoms, c/a {shape[1]}")


def equilibrium(volume: np.ndarray, energy: np.ndarray) -> tuple[float, float]:
    """Volume [Å³/atom] of least energy and bulk modulus [eV/Å³], by a third-order Birch-Murnaghan fit.

    **Reference:** Birch, Phys. Rev. 71, 809 (1947), doi:10.1103/PhysRev.71.809: a cubic polynomial in $V^{-2/3}$.
    """
    x = volume ** (-2.0 / 3.0)
    fit = np.poly1d(np.polyfit(x, energy, 3))
    roots = [r.real for r in fit.deriv().roots if abs(r.imag) < 1e-12 and x.min() <= r.real <= x.max()]
    minima = [r for r in roots if fit.deriv(2)(r) > 0]
    if not minima:
        raise Failure("the equation of state has no minimum: train longer (`--train-steps`).")
    best = minima[0]
    v0 = best**-1.5
    return float(v0), float(fit.deriv(2)(best) * (4.0 / 9.0) * v0 ** (-10.0 / 3.0) * v0)


def _volume(record: Record) -> float:
    return abs(float(np.linalg.det(record.cell))) / len(record)


def _scaled(record: Record, volume: float) -> System:
    factor = (volume / _volume(record)) ** (1.0 / 3.0)
    return make_system(factor * record.positions, record.numbers, cell=factor * record.cell)


def _energies(energy: AbstractEnergy, systems: list[System]) -> np.ndarray:
    """Energy per atom [eV] of each system, all in one graph."""
    graph = batch(systems, energy.cutoff)
    totals = np.asarray(eqx.filter_jit(system_energies)(energy, graph))
    return totals / np.array([len(s.numbers) for s in systems])
