"""How accurate is the linear ACE on the mlearn data, solved in seconds? See README.md."""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import jax

from jaxmlip.data import read_dataset, statistics
from jaxmlip.learn import evaluate
from jaxmlip.learn.linear import fit_linear
from jaxmlip.models.linear import LinearACE, LinearACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
CUTOFFS = {"Si": 5.0, "Mo": 5.5, "Li": 6.0}
SNAP = json.loads((HERE / "snap_reference.json").read_text())  # of the same frames, by LAMMPS: snap.py


def measure(element: str, channels: int) -> dict:
    """One fit from nothing, compilation included, and its errors on the test half."""
    train, test = (read_dataset(DATA / f"{element}_{part}.xyz.xz") for part in ("train", "test"))
    begin = time.perf_counter()
    facts = statistics(train, CUTOFFS[element])
    config = LinearACEConfig(train.elements, cutoff=CUTOFFS[element], mean_neighbors=facts.neighbors, channels=channels)
    fit = fit_linear(LinearACE(config, key=jax.random.key(0)), train)
    seconds = time.perf_counter() - begin
    report = evaluate(fit.energy, test, max_shapes=1)
    force, energy = 1e3 * report.force_rmse, 1e3 * report.energy_rmse
    print(f"{element}: {len(fit.mean)} weights, {seconds:.1f} s, noise {fit.noise}\n{report.table()}", flush=True)
    name, qsnap = element.lower(), SNAP[f"{element} qsnap"]
    return {
        f"{name}_force_rmse_meV_A": round(force, 1),
        f"{name}_energy_rmse_meV_atom": round(energy, 2),
        f"{name}_fit_seconds": round(seconds, 1),
        f"{name}_weights": len(fit.mean),
        f"{name}_better_than_qsnap": bool(force < qsnap["force_rmse_meV_A"] and energy < qsnap["energy_rmse_meV_atom"]),
        **{
            f"{name}_{kind}_{what}": value
            for kind in ("snap", "qsnap")
            for what, value in SNAP[f"{element} {kind}"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="lithium alone, with fewer channels")
    parser.add_argument("--elements", nargs="+", choices=list(CUTOFFS))
    parser.add_argument("--channels", type=int)
    options = parser.parse_args()
    elements = options.elements or (["Li"] if options.quick else list(CUTOFFS))
    channels = options.channels or (12 if options.quick else 48)
    found: dict = {}
    for element in elements:
        found |= measure(element, channels)
    found |= {"channels": channels, "quick": options.quick}
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    if not options.quick and not options.elements:
        (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
