"""Errors on the mlearn test sets (Zuo et al. 2020): presets from scratch, and a foundation potential fine-tuned.

`python run.py` trains what is asked for and evaluates it; `--quick` evaluates the committed parameters.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import time
from pathlib import Path

import jax
import numpy as np

from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.elements import NUMBERS
from jaxmlip.energy import AtomicReferences
from jaxmlip.learn import TrainSettings, evaluate, fit
from jaxmlip.learn.figures import parity
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
CUTOFFS = {"Si": 5.0, "Mo": 5.5, "Li": 6.0}
VARIANTS = ("fast", "accurate", "finetuned")
# Few relaxed slabs, whose forces are 50 times smaller than those of hot crystals.
WEIGHTS = {"Surface": (10.0, 10.0, 1.0)}


def sets(element):
    train, test = (read_dataset(DATA / f"{element}_{half}.xyz.xz") for half in ("train", "test"))
    weighted = [dataclasses.replace(r, weights=WEIGHTS.get(r.config_type, r.weights)) for r in train]
    return Dataset(weighted), test


def parameters(element, variant):
    return HERE / "params" / f"{element.lower()}_{variant}.jaxmlip"


def from_scratch(element, preset, train):
    cutoff = CUTOFFS[element]
    facts = statistics(train, cutoff)
    config = ACEConfig.preset(
        preset, train.elements, cutoff=cutoff, mean_neighbors=facts.neighbors, energy_scale=facts.force_rms
    )
    return ACE(config, key=jax.random.PRNGKey(0))


def from_foundation(element, train):
    """The pretrained potential and the constant that brings its energies to those of the data."""
    energy = pretrained.load("nequix-oam-1", dtype=np.float32)
    report = evaluate(energy, train)
    return energy + AtomicReferences({NUMBERS[element]: float(np.mean(report.energy_label - report.energy))})


def settings(variant, minutes):
    if variant == "finetuned":
        return TrainSettings(
            max_minutes=minutes, learning_rate=1e-3, batch_size=4, ema_decay=0.99, energy_weight=1.0,
            late_energy_weight=100.0, switch_at=0.5, stress_weight=0.1, max_shapes=1, evaluations=1,
        )  # fmt: skip
    return TrainSettings(
        max_minutes=minutes, optimizer="amsgrad", learning_rate=0.01, batch_size=4, ema_decay=0.99, energy_weight=1.0,
        late_energy_weight=100.0, switch_at=0.6, stress_weight=0.1, max_shapes=1, evaluations=1,
    )  # fmt: skip


def train_one(element, variant, minutes):
    train, test = sets(element)
    energy = from_foundation(element, train) if variant == "finetuned" else from_scratch(element, variant, train)
    folder = HERE / "work" / f"{element}_{variant}"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    result = fit(energy, train, settings=settings(variant, minutes), folder=folder)
    elapsed = (time.monotonic() - start) / 60.0
    path = parameters(element, variant)
    path.parent.mkdir(exist_ok=True)
    pretrained.save(path, result.energy, trained_on=f"mlearn {element} train", minutes=elapsed)
    report = evaluate(result.energy, test)
    parity(report, HERE / f"{element.lower()}_{variant}.png")
    print(report.table())
    return {**figures(element, variant, report), f"{element.lower()}_{variant}_train_minutes": round(elapsed, 2)}


def figures(element, variant, report):
    name = f"{element.lower()}_{variant}"
    return {
        f"{name}_force_rmse_meV_A": round(1e3 * report.force_rmse, 2),
        f"{name}_energy_rmse_meV_atom": round(1e3 * report.energy_rmse, 3),
    }


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="evaluate the committed parameters")
    parser.add_argument("--elements", nargs="+", default=["Si", "Mo", "Li"], choices=list(CUTOFFS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--minutes", type=float, nargs=3, default=(5.0, 15.0, 18.0), help="fast, accurate, finetuned")
    arguments = parser.parse_args()
    results_file = HERE / "results.json"
    results = read(results_file)
    found = {}
    for element in arguments.elements:
        for variant in arguments.variants:
            if variant == "finetuned" and element == "Li":
                continue
            if arguments.quick:
                if not parameters(element, variant).exists():
                    print(f"{element} {variant}: no committed parameters")
                    continue
                report = evaluate(pretrained.load(parameters(element, variant)), sets(element)[1], max_shapes=1)
                minutes = f"{element.lower()}_{variant}_train_minutes"
                found |= figures(element, variant, report) | {minutes: results.get(minutes)}
            else:
                budget = dict(zip(VARIANTS, arguments.minutes, strict=True))[variant]
                found |= train_one(element, variant, budget)
                results = read(results_file) | found  # read again: elements may be trained side by side
                results["machine"] = (
                    f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
                )
                results_file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
