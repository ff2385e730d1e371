"""What a potential of silicon is asked: elastic constants, the vacancy, and molecular dynamics at 2000 K."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import numpy as np
from scipy import optimize
from sets import LATTICE, diamond

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.data.generate import derive, strained, supercell
from jaxmlip.energy import AbstractEnergy
from jaxmlip.io import Record
from jaxmlip.learn.sampling import Sampler
from jaxmlip.simulate import Langevin, SimulationError, State, run

_STRAIN = 0.004


@dataclasses.dataclass(frozen=True)
class Properties:
    """Lattice constant [Å], elastic constants C11, C12, C44 [GPa], energy of a vacancy [eV]; NaN where unknown."""

    lattice: float
    elastic: tuple[float, float, float]
    vacancy: float


def errors(sampler: Sampler, tests: Mapping[str, Dataset]) -> tuple[dict[str, float], dict[str, float]]:
    """Root mean square errors of energies [meV/atom] and forces [meV/Å] for each group of a test set."""
    energies, forces = {}, {}
    for name, part in tests.items():
        found = [(r, *sampler(r)[:2]) for r in part]
        energies[name] = 1e3 * _rms(np.array([(e - r.energy) / len(r) for r, e, _ in found]))
        forces[name] = 1e3 * _rms(np.concatenate([f - r.forces for r, _, f in found]))
    return energies, forces


def properties(sampler: Sampler) -> Properties:
    """All of them, at the lattice constant of the energy itself."""
    lattice = lattice_constant(sampler)
    if not np.isfinite(lattice):
        return Properties(np.nan, (np.nan,) * 3, np.nan)
    return Properties(lattice, elastic(sampler, lattice), vacancy(sampler, lattice))


def crystal(lattice: float) -> Record:
    """64 atoms: one size for all questions, so that little is compiled."""
    return supercell(diamond(lattice), 64)


def lattice_constant(sampler: Sampler) -> float:
    """The lattice constant [Å] without pressure; NaN where there is none within 6 % of the right one."""

    def pull(a: float) -> float:
        return float(np.trace(sampler(crystal(a))[2]))

    low, high = 0.94 * LATTICE, 1.06 * LATTICE
    if not pull(low) < 0.0 < pull(high):
        return float("nan")
    return float(optimize.brentq(pull, low, high, xtol=1e-9))


def elastic(sampler: Sampler, lattice: float) -> tuple[float, float, float]:
    """C11, C12 and C44 [GPa] from central differences of the stress, atoms relaxed."""
    xx, yz = np.zeros((3, 3)), np.zeros((3, 3))
    xx[0, 0] = _STRAIN
    yz[1, 2] = yz[2, 1] = 0.5 * _STRAIN
    slopes = []
    for strain in (xx, yz):
        up, down = (sampler(relaxed(sampler, strained(crystal(lattice), s * strain)))[2] for s in (1.0, -1.0))
        slopes.append((up - down) / (2.0 * _STRAIN) / units.GPa)
    return float(slopes[0][0, 0]), float(slopes[0][1, 1]), float(slopes[1][1, 2])


def vacancy(sampler: Sampler, lattice: float) -> float:
    """Energy of formation of a vacancy [eV] in a cell of 64 atoms, relaxed at constant volume."""
    cell = crystal(lattice)
    start = cell.positions[1:] + 0.05 * np.random.default_rng(0).standard_normal(
        (63, 3)
    )  # off what symmetry keeps at rest
    lacking = relaxed(sampler, derive(cell, "vacancy", positions=start, numbers=cell.numbers[1:]))
    return sampler(lacking)[0] - 63.0 / 64.0 * sampler(cell)[0]


def relaxed(sampler: Sampler, record: Record) -> Record:
    """The frame with its atoms at rest, to 0.01 meV/Å."""

    def value(x):
        energy, forces, _ = sampler(dataclasses.replace(record, positions=x.reshape(-1, 3)))
        return energy, -forces.ravel()

    limits = {"gtol": 1e-5, "ftol": 0.0, "maxiter": 300}
    found = optimize.minimize(value, record.positions.ravel(), jac=True, method="L-BFGS-B", options=limits)
    return dataclasses.replace(record, positions=found.x.reshape(-1, 3))


class _Seen(eqx.Module):
    def __call__(self, state: State):
        return state.system.positions, state.momenta


def stability(model: AbstractEnergy, energy: AbstractEnergy, *, runs: int, steps: int, every: int = 50) -> dict:
    """Dynamics of 64 atoms at 2000 K with a model (steps of 2 fs, float32): the share of runs that stay bounded (no
    guard broken, no atoms within 1.6 Å, temperatures below 4000 K), and how far forces are off on the way [eV/Å]."""
    cell, good, wrong, sampler = supercell(diamond(), 64), 0, [], Sampler(energy)
    judge = Sampler(model)
    for k in range(runs):
        integrator = Langevin(2.0 * units.fs, 2000.0, 5.0 / units.ps)
        system = jax.tree.map(lambda x: np.asarray(x, np.float32) if x.dtype.kind == "f" else x, cell.system)
        failed = False
        try:
            state = integrator.init(model, system, key=jax.random.key(k))
            _, found = run(integrator, model, state, steps=steps, every=every, observe=_SEEN)
        except (SimulationError, ValueError) as error:
            failed, found = True, getattr(error, "record", None)
        if found is None or not len(found[0]):
            continue
        masses = np.asarray(cell.system.masses)[:, None]
        kinetic = np.sum(np.asarray(found[1], float) ** 2 / masses, axis=(1, 2)) / (3 * 64 * units.kB)
        frames = [dataclasses.replace(cell, positions=np.asarray(x, float)) for x in found[0]]
        nearest = min(_nearest(f) for f in frames)
        good += not failed and nearest > 1.6 and kinetic[len(kinetic) // 5 :].mean() < 4000.0
        for frame in frames[:: max(1, len(frames) // 6)]:
            wrong.append(_rms(judge(frame)[1] - sampler(frame)[1]))
    return {"stable": good / runs, "force_error": float(np.median(wrong)) if wrong else float("nan")}


_SEEN = _Seen()


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _nearest(record: Record) -> float:
    vectors = record.positions[:, None] - record.positions[None]
    side = record.cell[0, 0]
    lengths = np.linalg.norm(vectors - side * np.round(vectors / side), axis=2)
    return float(lengths[~np.eye(len(lengths), dtype=bool)].min())
