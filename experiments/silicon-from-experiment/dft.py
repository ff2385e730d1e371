"""(a) A linear potential from our own DFT data, brought to what silicon does at 300 K by molecular dynamics."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from observed import CONSTANTS, LATTICE, PHONONS, SOURCES, constants_at, expansion, lattice_at

import jaxmlip.data
from jaxmlip import units
from jaxmlip.data import Dataset, read_dataset
from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn import FinetuneSettings, StatePoint, Structure, Target, evaluate, finetune, fit_linear, linear_replay
from jaxmlip.learn.targets import Quantity, cubic_constants, thermal_expansion
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.observables.static import Pressure
from jaxmlip.properties import frequencies, make_supercell
from jaxmlip.system import System, make_system

DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
BASIS = LinearACEConfig((14,), cutoff=4.5, degree=2, radial=6, channels=8, roots=4)


def halves() -> tuple[Dataset, Dataset]:
    """The data that come with the package, each kind of frame divided."""
    train, test = read_dataset(str(importlib.resources.files(jaxmlip.data) / "silicon_pbe.extxyz.xz")).split(
        0.5, seed=0
    )
    return train, test


def weighted(dataset: Dataset, scale: float) -> Dataset:
    """Frames count less the higher their energy is above that of the crystal, in units of `scale` [eV/atom]."""
    each = [(r.energy or 0.0) / len(r) for r in dataset]
    lowest = min(e for e, r in zip(each, dataset, strict=True) if not r.is_isolated_atom)
    counts = [1.0 / (1.0 + (e - lowest) / scale) ** 2 for e in each]
    return Dataset([dataclasses.replace(r, weights=(w, w, w)) for r, w in zip(dataset, counts, strict=True)])


def box(edge: float, repeats: int, dtype: Any = np.float32) -> System:
    """A crystal of `edge` [Å] for the cubic cell."""
    grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + DIAMOND[None]) * edge).reshape(-1, 3)
    return make_system(positions, [14] * len(positions), cell=[repeats * edge] * 3, dtype=dtype)


def primitive(edge: float) -> System:
    cell = 0.5 * edge * (np.ones((3, 3)) - np.eye(3))
    return make_system([[0, 0, 0], [0.25 * edge] * 3], [14, 14], cell=cell, dtype=np.float64)


def phonons(cutoff: float = BASIS.cutoff) -> Quantity:
    """Optical modes at Gamma; TA, LA and TO at X (means of degenerate ones)."""
    q = jnp.asarray([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    supercell = make_supercell(primitive(LATTICE), (4, 4, 4), cutoff)

    def values(energy: AbstractEnergy, point: Any):
        found = frequencies(energy, point.system, supercell, q)
        at_x = found[1].reshape(3, 2).mean(axis=1)
        return jnp.concatenate([found[0, 3:].mean()[None], at_x])

    return Quantity(values, "frequency", "phonons at Gamma and X")


def points(quick: bool) -> dict[str, StatePoint]:
    sizes = {"replicas": 2, "frames": 10, "stride": 10, "burn_in": 50} if quick else {"replicas": 4, "stride": 20}
    options: dict[str, Any] = {"timestep": 2.0 * units.fs, "frames": 150, "burn_in": 600, "friction": 2.0 / units.ps}
    options |= sizes
    repeats = 1 if quick else 2
    found = {
        f"{t:g} K": StatePoint(box(lattice_at(t), repeats), t, name=f"{t:g} K", **options) for t in (300.0, 1000.0)
    }
    for t in (300.0, 600.0):
        free = dict(options, burn_in=2 * options["burn_in"], frames=2 * options["frames"], timestep=2.0 * units.fs)
        found[f"{t:g} K, 0 GPa"] = StatePoint(box(lattice_at(t), repeats), t, 0.0, name=f"{t:g} K, free", **free)
    return found


def targets(quick: bool) -> list[Target]:
    at = points(quick)
    cold, hot = at["300 K"], at["1000 K"]
    here, there = cubic_constants(cold, 0.01), cubic_constants(hot, 0.01)
    found = [Target("P at a(300 K)", Pressure(), cold, 0.0, 0.01, "GPa", source=SOURCES["lattice"])]
    for name, value in zip(here, CONSTANTS, strict=True):
        found.append(Target(f"C{name}", *here[name], value, 0.003 * value, "GPa", source=SOURCES["constants"]))
    held: dict[str, Any] = {"holdout": True}
    if quick:
        return found
    for name, value in zip(there, constants_at(1000.0), strict=True):
        found.append(
            Target(f"C{name}, 1000 K", *there[name], value, 0.01 * value, "GPa", source=SOURCES["hot"], **held)
        )
    between = thermal_expansion(at["300 K, 0 GPa"], at["600 K, 0 GPa"])
    found.append(
        Target("expansion", *between, expansion(300.0, 600.0), 1e-7, "1/K", source=SOURCES["expansion"], **held)
    )
    crystal = Structure(primitive(LATTICE))
    found.append(Target("phonons", phonons(), crystal, PHONONS, 0.1, "THz", source=SOURCES["phonons"], **held))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 atoms, few frames, one update, no hold-outs")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--scale", type=float, default=0.1, help="of energies [eV/atom] above which frames count less")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.monotonic()
    train, test = halves()
    train = weighted(train, options.scale)
    model = LinearACE(BASIS, key=jax.random.key(0))
    fit = fit_linear(model, train, dtype=np.float64)
    replay = linear_replay(fit, train)
    before = evaluate(fit.energy, test)
    print(json.dumps({"trained": time.monotonic() - begin, "force_rmse": before.force_rmse}), flush=True)
    settings = FinetuneSettings(
        updates=1 if options.quick else options.updates,
        leap=3.0,
        keep=2,
        rhat=5.0 if options.quick else 1.1,
        label_rise=1.0,
    )
    start = time.monotonic()
    found = finetune(
        fit.energy,
        targets(options.quick),
        replay=replay,
        settings=settings,
        trainable=lambda path, leaf: path.endswith((".weights", ".energies")),
        progress=lambda record: print(json.dumps(record), flush=True),
    )
    minutes = (time.monotonic() - start) / 60.0
    after = evaluate(found.energy, test)
    print(found.table(), flush=True)
    fitted = [t for t in found.targets if not t.holdout]
    errors = [100.0 * abs(found.after[t.name].value[0] / t.values[0] * t.size - 1.0) for t in fitted[1:]]
    pressure = float(found.after["P at a(300 K)"].value[0])
    result = {
        "a_worst_target_error_percent": max(errors),
        "a_pressure_GPa": abs(pressure),
        "a_force_rmse_rise_percent": 100.0 * (after.force_rmse / before.force_rmse - 1.0),
        "a_minutes": minutes,
        "force_rmse": [before.force_rmse, after.force_rmse],
        "energy_rmse": [before.energy_rmse, after.energy_rmse],
        "targets": {
            t.name: {
                "observed": t.values.tolist() if t.size == 1.0 else (t.values / t.size).tolist(),
                "uncertainty": (t.errors / t.size).tolist(),
                "before": [found.before[t.name].value.tolist(), found.before[t.name].stderr.tolist()],
                "after": [found.after[t.name].value.tolist(), found.after[t.name].stderr.tolist()],
                "holdout": t.holdout,
                "unit": t.unit,
            }
            for t in found.targets
        },
        "history": [dict(r) for r in found.history],
        "reason": found.reason,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
