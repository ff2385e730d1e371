"""(b) A foundation potential, brought to the lattice constant and the elastic constants of silicon at rest."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dft import halves, phonons, primitive
from observed import COLD_CONSTANTS, COLD_LATTICE, PHONONS, SOURCES

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.learn import FinetuneSettings, Structure, Target, evaluate, finetune, make_replay, select
from jaxmlip.learn.targets import elastic_constant, lattice_constant
from jaxmlip.models.pretrained import load
from jaxmlip.properties import elastic_constants, relax

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
NEAR = ("eos", "strained", "rattled", "hot")  # kinds of frames that are replayed


def without_energies(dataset: Dataset, most: int) -> Dataset:
    """Small frames near the crystal, without energies: those of two pseudopotentials have no common zero."""
    near = [r for r in dataset if r.config_type in NEAR and len(r) == 8]
    chosen = near[:: max(1, len(near) // most)][:most]
    return Dataset([dataclasses.replace(r, energy=None) for r in chosen])


def targets(held_out: bool) -> list[Target]:
    crystal = Structure(primitive(COLD_LATTICE))
    found = [Target("a", lattice_constant(8), crystal, COLD_LATTICE, 5e-4, "Å", source=SOURCES["cold lattice"])]
    for name, value in zip(("11", "12", "44"), COLD_CONSTANTS, strict=True):
        observable = elastic_constant(name)
        found.append(
            Target(f"C{name}", observable, crystal, value, 0.003 * value, "GPa", source=SOURCES["cold constants"])
        )
    if held_out:
        found.append(
            Target("phonons", phonons(6.0), crystal, PHONONS, 0.1, "THz", source=SOURCES["phonons"], holdout=True)
        )
    return found


def pressure_at(energy: Any, edge: float) -> float:
    """How far the crystal is from being at rest with the measured lattice constant [GPa], from its bulk modulus."""
    point = relax(energy, primitive(edge), cell=True)
    constants = np.asarray(elastic_constants(energy, point).relaxed) / units.GPa
    own = float(np.cbrt(4.0 * point.system.volume()))
    return float(constants[:3, :3].sum() / 9.0) * 3.0 * np.log(own / edge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one update, no hold-outs")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16, help="that are replayed")
    parser.add_argument("--part", nargs="+", default=["last layer"], help="what may change")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    energy = load(DATA / "potentials" / "nequix" / "nequix-oam-1.nqx", np.float64)
    train, test = halves()
    kept, judged = without_energies(train, options.frames), without_energies(test, options.frames)
    before = evaluate(energy, judged, max_shapes=1)
    start = time.monotonic()
    noise = {"energy": 1.0, "force": before.force_rmse, "virial": 0.05}
    found = finetune(
        energy,
        targets(not options.quick),
        replay=make_replay(energy, kept, noise=noise),
        settings=FinetuneSettings(updates=1 if options.quick else options.updates),
        trainable=select(energy, options.part),
        progress=lambda record: print(json.dumps(record), flush=True),
    )
    minutes = (time.monotonic() - start) / 60.0
    print(found.table(), flush=True)
    after = evaluate(found.energy, judged, max_shapes=1)
    fitted = [t for t in found.targets if not t.holdout]
    errors = [100.0 * abs(found.after[t.name].value[0] * t.size / t.values[0] - 1.0) for t in fitted]
    result = {
        "b_worst_target_error_percent": max(errors),
        "b_pressure_GPa": abs(pressure_at(found.energy, COLD_LATTICE)),
        "b_force_rmse_rise_percent": 100.0 * (after.force_rmse / before.force_rmse - 1.0),
        "b_minutes": minutes,
        "force_rmse": [before.force_rmse, after.force_rmse],
        "targets": {
            t.name: {
                "observed": (t.values / t.size).tolist(),
                "uncertainty": (t.errors / t.size).tolist(),
                "before": found.before[t.name].value.tolist(),
                "after": found.after[t.name].value.tolist(),
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
