"""Errors on acetylacetone (Batatia et al. 2022): the accurate preset, trained on 300 K, tested on 300 K.

`python run.py` trains and evaluates; `--quick` evaluates the committed parameters.
"""

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path

import jax

from jaxmlip.data import read_dataset, statistics
from jaxmlip.learn import TrainSettings, evaluate, fit
from jaxmlip.learn.figures import parity
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "acac"
PARAMETERS = HERE / "params" / "acac_accurate.jaxmlip"
CUTOFF = 5.0


def train(minutes):
    data = read_dataset([DATA / "isolated_atoms.xyz.xz", DATA / "train_300K.xyz.xz"])
    facts = statistics(data, CUTOFF)
    config = ACEConfig.preset(
        "accurate", data.elements, cutoff=CUTOFF, mean_neighbors=facts.neighbors, energy_scale=facts.force_rms
    )
    settings = TrainSettings(
        max_minutes=minutes, optimizer="muon", learning_rate=0.005, batch_size=4, ema_decay=0.995, energy_weight=10.0,
        late_energy_weight=1000.0, switch_at=0.6, max_shapes=1, evaluations=1,
    )  # fmt: skip
    energy = ACE(config, key=jax.random.PRNGKey(0))
    folder = HERE / "work"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    result = fit(energy, data, settings=settings, folder=folder)
    elapsed = (time.monotonic() - start) / 60.0
    PARAMETERS.parent.mkdir(exist_ok=True)
    pretrained.save(PARAMETERS, result.energy, trained_on="acac train_300K", minutes=elapsed)
    return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="evaluate the committed parameters")
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    results_file = HERE / "results.json"
    if arguments.quick:
        minutes = json.loads(results_file.read_text())["train_minutes"] if results_file.exists() else None
    else:
        minutes = train(arguments.minutes)
    test = read_dataset(DATA / "test_MD_300K.xyz.xz")
    report = evaluate(pretrained.load(PARAMETERS), test, max_shapes=1)
    print(report.table())
    atoms = len(test[0])
    found = {
        "force_rmse_meV_A": round(1e3 * report.force_rmse, 2),
        "energy_rmse_meV": round(1e3 * report.energy_rmse * atoms, 3),
        "train_minutes": minutes and round(minutes, 2),
    }
    if not arguments.quick:
        parity(report, HERE / "parity.png")
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
        results_file.write_text(json.dumps(found | {"machine": machine}, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
