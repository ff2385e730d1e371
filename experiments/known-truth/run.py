"""Labels of a wrong potential, observables of the true one: what does a fit mend? See README.md; last line JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.energy import AbstractEnergy, StillingerWeber
from jaxmlip.io import Record
from jaxmlip.learn import (
    Dynamics,
    FinetuneSettings,
    StatePoint,
    Structure,
    Target,
    Vacancy,
    Window,
    evaluate,
    finetune,
    fit_linear,
    linear_replay,
    predict,
    sample,
)
from jaxmlip.learn.targets import Quantity, cohesive_energy, cubic_constants, vacancy_energy
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.observables.correlations import Diffusion
from jaxmlip.observables.distributions import RadialDistribution
from jaxmlip.observables.static import Pressure
from jaxmlip.properties import frequencies, make_supercell
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
SILICON = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
LATTICE, MELT = 5.431, 2.45  # Å; g/cm³ of the liquid
EDGES = np.arange(2.0, 5.01, 0.2)
HELD = ("phonon DOS", "vacancy", "D", "C11, 1000 K", "C12, 1000 K", "C44, 1000 K")


def silicon() -> StillingerWeber:
    """Stillinger & Weber, Phys. Rev. B 31, 5262 (1985), as LAMMPS has it."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Si.sw").write_text(SILICON)
        return StillingerWeber.from_file(Path(name) / "Si.sw")


def wrong(energy: StillingerWeber, depth: float, stiffness: float) -> StillingerWeber:
    """The same with other pair and angular strengths."""
    return eqx.tree_at(lambda e: (e.depth, e.stiffness), energy, (depth * energy.depth, stiffness * energy.stiffness))


def box(edge: float, repeats: int) -> System:
    grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + DIAMOND[None]) * edge).reshape(-1, 3)
    return make_system(positions, [14] * len(positions), cell=[repeats * edge] * 3, dtype=np.float32)


def records(energy: AbstractEnergy, quick: bool) -> list[Record]:
    """Frames of crystal, strained crystal, and melt."""
    rng, found = np.random.default_rng(0), []
    count = 1 if quick else 8
    for kelvin, edge, melt in ((300.0, LATTICE, None), (1000.0, 5.45, None), (2200.0, melt_edge(), 4000.0)):
        options: dict[str, Any] = {"timestep": 2.0 * units.fs, "replicas": 1, "friction": 5.0 / units.ps}
        point = StatePoint(box(edge, 2), kelvin, melt=melt, frames=count, stride=50, burn_in=500, **options)
        made = sample(energy, point, key=jax.random.key(int(kelvin)))
        for x, cell in zip(made.frames.positions, made.frames.cells, strict=True):
            found.append(Record(np.asarray(x, float), np.full(64, 14), np.asarray(cell, float), (True,) * 3))
    for i in range(10 if quick else 60):
        strain = rng.normal(size=(3, 3)) * 0.02
        cell = LATTICE * (1.0 + 0.03 * rng.normal()) * (np.eye(3) + 0.5 * (strain + strain.T))
        positions = DIAMOND @ cell + 0.08 * rng.normal(size=(8, 3))
        keep = np.arange(8) != (0 if i % 6 == 0 else -1)  # every sixth has a vacancy
        found.append(Record(positions[keep], np.full(keep.sum(), 14), cell, (True,) * 3))
    return [dataclasses.replace(r, index=i) for i, r in enumerate(found)]


def isolated() -> Record:
    """What energies are counted from."""
    return Record(np.zeros((1, 3)), np.array([14]), np.zeros((3, 3)), (False,) * 3, energy=0.0, forces=np.zeros((1, 3)))


def melt_edge() -> float:
    """Of the cubic cell of eight atoms at the density of the melt."""
    return float((8.0 * 28.0855 / (MELT * units.g_per_cm3)) ** (1.0 / 3.0))


def labelled(frames: list[Record], energy: AbstractEnergy) -> Dataset:
    zero = [
        dataclasses.replace(r, energy=0.0, forces=np.zeros((len(r.positions), 3)), stress=np.zeros((3, 3)))
        for r in frames
    ]
    found = evaluate(energy, Dataset(zero), dtype=np.float64)
    return Dataset(
        [
            dataclasses.replace(
                r,
                energy=float(len(r.positions) * found.energy[i]),
                forces=found.forces[found.frame == i],
                stress=found.stress[i],
            )
            for i, r in enumerate(frames)
        ]
    )


def states_density() -> Quantity:
    """Phonons in each THz, spread by 0.4 THz."""
    cell = 0.5 * LATTICE * (np.ones((3, 3)) - np.eye(3))
    crystal = make_system([[0, 0, 0], [0.25 * LATTICE] * 3], [14, 14], cell=cell, dtype=np.float64)
    supercell = make_supercell(crystal, (4, 4, 4), 5.0)
    steps = (np.arange(6) + 0.5) / 6.0
    q = jnp.asarray(np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3))
    grid = jnp.linspace(0.0, 20.0, 41)

    def values(energy: AbstractEnergy, point: Any):
        found = frequencies(energy, point.system, supercell, q).ravel() / units.THz
        return jnp.mean(jnp.exp(-0.5 * ((grid[:, None] - found[None]) / 0.4) ** 2), axis=1) / 0.4

    return Quantity(values, "number", "density of states")


def targets(quick: bool) -> list[Target]:
    """What is observed; values are filled in from the true potential."""
    short = {"replicas": 2, "frames": 12, "burn_in": 100, "stride": 10}
    options: dict[str, Any] = {"replicas": 4, "frames": 100, "burn_in": 500, "stride": 20} | (short if quick else {})
    options |= {"timestep": 2.0 * units.fs, "friction": 2.0 / units.ps}
    repeats = 1 if quick else 2
    cold = StatePoint(box(LATTICE, repeats), 300.0, name="300 K", **options)
    here = cubic_constants(cold, 0.01)
    cell = 0.5 * LATTICE * (np.ones((3, 3)) - np.eye(3))
    crystal = Structure(make_system([[0, 0, 0], [0.25 * LATTICE] * 3], [14, 14], cell=cell, dtype=np.float64))
    found = [Target("cohesive energy", cohesive_energy(), crystal, 0.0, 0.005, "eV")]
    found.append(Target("P, 300 K", Pressure(), cold, 0.0, 0.02, "GPa"))
    found += [Target(f"C{name}, 300 K", *here[name], 1.0, 1.0, "GPa") for name in here]
    if quick:
        found.append(Target("vacancy", vacancy_energy(), (crystal, Vacancy(crystal, 2)), 1.0, 0.05, "eV", holdout=True))
        return found
    liquid = StatePoint(box(melt_edge(), 2), 2000.0, name="2000 K", melt=4000.0, **dict(options, burn_in=1500))
    found.append(Target("P, 2000 K", Pressure(), liquid, 0.0, 0.1, "GPa"))
    values = np.ones(len(EDGES) - 1)
    found.append(Target("g(r), 2000 K", RadialDistribution(EDGES, width=0.05), liquid, values, 0.03))
    hot = StatePoint(box(5.447, 2), 1000.0, name="1000 K", **options)
    there = cubic_constants(hot, 0.01)
    held: dict[str, Any] = {"holdout": True}
    found += [Target(f"C{name}, 1000 K", *there[name], 1.0, 1.0, "GPa", **held) for name in there]
    found.append(Target("phonon DOS", states_density(), crystal, np.zeros(41), 0.05, **held))
    vacancy = (crystal, Vacancy(crystal, 3))
    found.append(Target("vacancy", vacancy_energy(), vacancy, 1.0, 0.05, "eV", **held))
    window = Window(2.0 * units.fs, 150, every=10, rebuild=10)
    found.append(Target("D", Diffusion(), Dynamics(liquid, window), 1.0, 0.1, "Å²/ps", **held))
    return found


def observed(truth: AbstractEnergy, asked: list[Target], settings: FinetuneSettings) -> list[Target]:
    """The same targets with values of the true potential; uncertainties as wide as its own sampling at least."""
    found = predict(truth, asked, settings=settings)
    filled = []
    for t in asked:
        p = found[t.name]
        least = np.broadcast_to(np.sqrt(np.diag(np.atleast_2d(t.covariance()))) / t.size, p.value.shape)
        if t.dimension == "pressure" and t.name.startswith("C"):
            least = 0.005 * np.abs(p.value)
        filled.append(dataclasses.replace(t, value=p.value, uncertainty=np.hypot(least, p.stderr)))
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="crystals of 8 atoms, few frames, two updates, one hold-out"
    )
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--depth", type=float, default=0.95, help="of the wrong potential, times the true one")
    parser.add_argument("--stiffness", type=float, default=0.92, help="of its angles")
    parser.add_argument("--weight", type=float, default=0.05, help="of the labels")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.monotonic()
    truth = silicon()
    teacher = wrong(truth, options.depth, options.stiffness)
    frames = records(teacher, options.quick)
    train, test = labelled(frames, teacher).split(0.33, seed=0)
    train = train + Dataset([isolated()])
    size = {"channels": 4, "roots": 4} if options.quick else {"channels": 8, "roots": 8}
    model = LinearACE(LinearACEConfig((14,), cutoff=4.5, degree=2, radial=8, **size), key=jax.random.key(0))
    fit = fit_linear(model, train, dtype=np.float64)
    before = evaluate(fit.energy, test)
    settings = FinetuneSettings(
        updates=2 if options.quick else options.updates,
        leap=3.0,
        keep=2,
        rhat=5.0 if options.quick else 1.1,
        doublings=0 if options.quick else 2,
        max_force=100.0,
    )
    asked = observed(truth, targets(options.quick), settings)
    prepared = time.monotonic()
    print(json.dumps({"prepared": prepared - begin, "force_rmse": before.force_rmse, "noise": fit.noise}), flush=True)
    found = finetune(
        fit.energy,
        asked,
        replay=linear_replay(fit, train, weight=options.weight),
        settings=settings,
        trainable=lambda path, leaf: path.endswith((".weights", ".energies")),
        progress=lambda record: print(json.dumps(record), flush=True),
    )
    minutes = (time.monotonic() - prepared) / 60.0
    print(found.table(), flush=True)
    after = evaluate(found.energy, test)
    better = {}
    for t in asked:
        if t.holdout:
            off = [np.linalg.norm(p[t.name].value - t.values / t.size) for p in (found.before, found.after)]
            better[t.name] = 100.0 * (1.0 - float(off[1] / off[0]))
    result = {
        "worst_target_chi2": max(found.after[t.name].chi2 for t in asked if not t.holdout),
        "force_rmse_rise_percent": 100.0 * (after.force_rmse / before.force_rmse - 1.0),
        "worst_holdout_improvement_percent": min(better.values()),
        "improvement_percent": better,
        "force_rmse": [before.force_rmse, after.force_rmse],
        "energy_rmse": [before.energy_rmse, after.energy_rmse],
        "minutes": minutes,
        "targets": {
            t.name: {
                "true": (t.values / t.size).tolist(),
                "uncertainty": (t.errors / t.size).tolist(),
                "before": [found.before[t.name].value.tolist(), found.before[t.name].stderr.tolist()],
                "after": [found.after[t.name].value.tolist(), found.after[t.name].stderr.tolist()],
                "chi2": [found.before[t.name].chi2, found.after[t.name].chi2],
                "holdout": t.holdout,
                "unit": t.unit,
            }
            for t in asked
        },
        "history": [dict(r) for r in found.history],
        "reason": found.reason,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "quick": options.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    if not options.quick:
        (HERE / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
