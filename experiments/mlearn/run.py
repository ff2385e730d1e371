"""Errors on the mlearn test sets (Zuo et al. 2020): presets from scratch, and a foundation potential fine-tuned.

`python run.py` trains what is asked for and evaluates it; `--quick` evaluates the committed parameters.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if "--quick" in sys.argv:  # one pass over the test halves: less is compiled, and the numbers are the same
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import equinox as eqx
import jax
import numpy as np

from jaxmlip.data import read_dataset, statistics
from jaxmlip.elements import NUMBERS
from jaxmlip.energy import AtomicReferences
from jaxmlip.learn import TrainSettings, evaluate, fit
from jaxmlip.learn.evaluate import split_references
from jaxmlip.learn.figures import parity
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
CUTOFFS = {"Si": 5.0, "Mo": 5.5, "Li": 6.0}
FOUNDATION = DATA.parents[1] / "potentials" / "nequix" / "nequix-oam-1.nqx"
VARIANTS = ("fast", "accurate", "finetuned")
EPOCHS = {"Si": 20, "Mo": 20, "Li": None}  # longer, molybdenum is over-fitted: see README.md
LATE_ENERGY_WEIGHT = {"Si": 10.0, "Mo": 10.0, "Li": 30.0}


def sets(element):
    return tuple(read_dataset(DATA / f"{element}_{half}.xyz.xz") for half in ("train", "test"))


def parameters(element, variant):
    end = "npz" if variant == "finetuned" else "jaxmlip"
    return HERE / "params" / f"{element.lower()}_{variant}.{end}"


def save(element, variant, energy, trained_on):
    """The whole potential, or how a fine-tuned one differs from the foundation, in half precision."""
    path = parameters(element, variant)
    path.parent.mkdir(exist_ok=True)
    if variant != "finetuned":
        pretrained.save(path, energy, trained_on=trained_on)
        return
    model, references = split_references(energy)
    arrays = {"references": references[NUMBERS[element]]}
    for key, old, new in zip(*leaves(pretrained.load(FOUNDATION, dtype=np.float32)), leaves(model)[1], strict=True):
        if tuned(key, new):
            arrays[key] = coarse(np.asarray(new - old, np.float16))
    np.savez_compressed(path, **arrays)


def coarse(x):
    """Half precision rounded to 7 of its 10 bits, so that a file of it is smaller."""
    return ((x.view(np.uint16) + 4) & 0xFFF8).view(np.float16)


def load(element, variant):
    """What `save` wrote, as an energy."""
    path = parameters(element, variant)
    if variant != "finetuned":
        return pretrained.load(path)
    changes = np.load(path)
    model = pretrained.load(FOUNDATION, dtype=np.float32)

    def changed(path, value):
        key = jax.tree_util.keystr(path)
        return value + changes[key].astype(np.float32) if key in changes else value

    model = jax.tree_util.tree_map_with_path(changed, model)
    return model + AtomicReferences({NUMBERS[element]: float(changes["references"])})


def leaves(model):
    """The parameters of a model: their paths, and their values."""
    found = [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(model)]
    found = [(path, x) for path, x in found if eqx.is_inexact_array(x)]
    return [path for path, _ in found], [x for _, x in found]


def from_scratch(element, preset, train):
    cutoff = CUTOFFS[element]
    facts = statistics(train, cutoff)
    config = ACEConfig.preset(
        preset, train.elements, cutoff=cutoff, mean_neighbors=facts.neighbors, energy_scale=facts.force_rms
    )
    return ACE(config, key=jax.random.PRNGKey(0))


def isolated_atom(element):
    """Energy of the free atom [eV] at the level of the data, as the foundation potential was trained with."""
    foundation = pretrained.load(FOUNDATION)
    return float(foundation.atom_energies[foundation.elements.index(NUMBERS[element])])


def tuned(path, leaf):
    """All of the foundation potential but its radial networks, which are a third of it and know their distances."""
    return "radial" not in path


def from_foundation(element, train):
    """The pretrained potential and the constant that brings its energies to those of the data."""
    energy = pretrained.load(FOUNDATION, dtype=np.float32)
    report = evaluate(energy, train)
    return energy + AtomicReferences({NUMBERS[element]: float(np.mean(report.energy_label - report.energy))})


def settings(element, variant, minutes):
    common = TrainSettings(
        max_minutes=minutes, optimizer="muon", batch_size=2, ema_decay=0.99, energy_weight=1.0, stress_weight=0.1,
        late_energy_weight=LATE_ENERGY_WEIGHT[element], max_shapes=2, evaluations=1,
    )  # fmt: skip
    if variant == "finetuned":
        return dataclasses.replace(common, learning_rate=1e-3, switch_at=0.7, late_energy_weight=3.0, batch_size=1)
    references = {element: isolated_atom(element)}
    return dataclasses.replace(common, learning_rate=5e-3, switch_at=0.6, epochs=EPOCHS[element], references=references)


def train_one(element, variant, minutes):
    train, test = sets(element)
    energy = from_foundation(element, train) if variant == "finetuned" else from_scratch(element, variant, train)
    folder = HERE / "work" / f"{element}_{variant}"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    trainable = tuned if variant == "finetuned" else None
    result = fit(energy, train, settings=settings(element, variant, minutes), folder=folder, trainable=trainable)
    elapsed = (time.monotonic() - start) / 60.0
    save(element, variant, result.energy, f"mlearn {element} train")
    report = evaluate(load(element, variant), test)
    parity(report, HERE / f"{element.lower()}_{variant}.png")
    print(report.table())
    return {**figures(element, variant, report), f"{element.lower()}_{variant}_train_minutes": round(elapsed, 2)}


def evaluate_one(element, variant):
    """Errors of the committed parameters on the test half."""
    if not parameters(element, variant).exists():
        print(f"{element} {variant}: no committed parameters")
        return {}
    return figures(element, variant, evaluate(load(element, variant), sets(element)[1], max_shapes=1))


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
    parser.add_argument("--minutes", type=float, nargs=3, default=(5.0, 14.0, 18.0), help="fast, accurate, finetuned")
    arguments = parser.parse_args()
    results_file = HERE / "results.json"
    results = read(results_file)
    found = {}
    jobs = [(e, v) for v in reversed(VARIANTS) for e in arguments.elements if (e, v) != ("Li", "finetuned")]
    if arguments.quick:
        with ThreadPoolExecutor(2) as pool:  # it is mostly compilation, and there are two cores
            for one in pool.map(lambda job: evaluate_one(*job), jobs):
                found |= one
        found |= {key: value for key, value in results.items() if key.endswith("_train_minutes")}
    else:
        for element, variant in jobs:
            budget = dict(zip(VARIANTS, arguments.minutes, strict=True))[variant]
            found |= train_one(element, variant, budget)
            results = read(results_file) | found  # read again: elements may be trained side by side
            machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
            results["machine"] = machine
            results_file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
