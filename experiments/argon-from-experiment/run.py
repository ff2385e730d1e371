"""Argon's two Lennard-Jones parameters from its measured structure and diffusion; see README.md, last line JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.learn import Dynamics, FinetuneSettings, StatePoint, Target, Window, finetune, predict
from jaxmlip.observables.correlations import Diffusion
from jaxmlip.observables.distributions import RadialDistribution
from jaxmlip.observables.static import HeatCapacity, Pressure
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
ACCEPTED = {"sigma": 3.405, "epsilon": 119.8}  # Å and K: Rowley, Nicholson & Parsonage, J. Comput. Phys. 17, 401 (1975)
START = {"sigma": 0.9, "epsilon": 1.15}  # times the accepted ones
MASS, CUTOFF = 39.948, 8.5
YARNELL = 0.02125  # Å⁻³ at 85 K
RAHMAN = 1.374 * units.g_per_cm3 / MASS  # Å⁻³ at 94.4 K
DIFFUSION = 2.36e-5  # cm²/s: the target of Han & Yu
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def argon(sigma: float, epsilon: float) -> LennardJones:
    """Å and K."""
    values = (jnp.asarray(x, jnp.float32) for x in (epsilon * units.kB, sigma))
    return LennardJones(*values, cutoff=CUTOFF, onset=0.85)


def box(density: float, repeats: int) -> System:
    """A crystal of so many atoms per Å³; it melts before anything is measured."""
    edge = (4.0 / density) ** (1.0 / 3.0)
    grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + FCC[None]) * edge).reshape(-1, 3)
    return make_system(positions, [18] * len(positions), cell=[repeats * edge] * 3, dtype=np.float32)


def liquid(density: float, kelvin: float, quick: bool, **changes) -> StatePoint:
    sizes = {"replicas": 2, "frames": 12, "stride": 20, "burn_in": 200} if quick else {"replicas": 4, "frames": 60}
    options = {"timestep": 10.0 * units.fs, "stride": 40, "burn_in": 1500, "friction": 1.0 / units.ps} | sizes | changes
    return StatePoint(box(density, 2 if quick else 4), kelvin, melt=300.0, name=f"{kelvin:g} K", **options)


def measured(last: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of bins of 0.1 Å, and g(r) between them, from the table of Yarnell et al. at each 0.05 Å."""
    rows = np.genfromtxt(DATA / "experimental" / "argon_85K_gr_from_yarnell_SQ.csv", delimiter=",", skip_header=3)
    edges = np.arange(3.3, last + 0.05, 0.1)
    fine = np.linspace(edges[0], edges[-1], 20 * (len(edges) - 1) + 1)
    values = np.interp(fine, rows[:, 0], rows[:, 1])
    centers = 0.5 * (fine[1:] + fine[:-1])
    middle = 0.5 * (values[1:] + values[:-1])
    shells = (middle * centers**2).reshape(-1, 20).sum(axis=1) / (centers**2).reshape(-1, 20).sum(axis=1)
    return edges, shells


def targets(quick: bool) -> tuple[list[Target], list[Target]]:
    """g(r) and D to be fitted, and what is only looked at (its values are those of the accepted parameters)."""
    edges, values = measured(5.0 if quick else 8.0)
    cold, warm = liquid(YARNELL, 85.0, quick), liquid(RAHMAN, 94.4, quick)
    hot = liquid(RAHMAN, 110.0, quick)
    window = Window(10.0 * units.fs, 20 if quick else 80, every=2, rebuild=10)
    blocks = 4 if quick else 16
    structure = Target(
        "g(r), 85 K",
        RadialDistribution(edges, width=0.03),
        cold,
        values,
        0.02 + 0.02 * values,
        source="Yarnell, Katz, Wenzel & Koenig, Phys. Rev. A 7, 2130 (1973), doi:10.1103/PhysRevA.7.2130",
    )
    diffusion = Target(
        "D, 94.4 K",
        Diffusion(),
        Dynamics(warm, window, paths=2 * blocks, blocks=blocks),
        DIFFUSION,
        0.01 * DIFFUSION,
        "cm²/s",
        source="Han & Yu (2025), their target for 256 to 346 atoms",
    )
    looked_at = [
        Target("P, 85 K", Pressure(), cold, 0.0, 0.01, "GPa", holdout=True),
        Target("Cv, 94.4 K", HeatCapacity(), warm, 1.0, 1.0, "kB", holdout=True),
        Target("D, 110 K", Diffusion(), Dynamics(hot, window, blocks=blocks), 1.0, 1.0, "cm²/s", holdout=True),
    ]
    return [structure, diffusion], ([] if quick else looked_at)


def row(prediction) -> list[float]:
    return [float(prediction.value[0]), float(prediction.stderr[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="32 atoms, few frames, one update")
    parser.add_argument("--leap", type=float, default=8.0)
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    fitted, looked_at = targets(options.quick)
    settings = FinetuneSettings(
        updates=1 if options.quick else options.updates,
        leap=options.leap,
        keep=2,
        rhat=5.0 if options.quick else 1.1,
        doublings=0 if options.quick else 3,
        enough=1.0,
    )
    start = argon(START["sigma"] * ACCEPTED["sigma"], START["epsilon"] * ACCEPTED["epsilon"])
    seen, begin = [], time.monotonic()

    def watch(record):
        seen.append(dict(record))
        print(json.dumps(record), flush=True)

    found = finetune(start, fitted, settings=settings, progress=watch)
    minutes = (time.monotonic() - begin) / 60.0
    print(found.table(), flush=True)
    sigma, epsilon = float(found.energy.sigma), float(found.energy.epsilon) / units.kB
    diffusion = found.after["D, 94.4 K"]
    result: dict = {
        "sigma_error_percent": 100.0 * abs(sigma / ACCEPTED["sigma"] - 1.0),
        "epsilon_error_percent": 100.0 * abs(epsilon / ACCEPTED["epsilon"] - 1.0),
        "D_error_percent": 100.0 * abs(float(diffusion.value[0]) / DIFFUSION - 1.0),
        "D_stderr_percent": 100.0 * float(diffusion.stderr[0]) / DIFFUSION,
        "updates": len(found.history),
        "minutes": minutes,
        "sigma": sigma,
        "epsilon_K": epsilon,
        "reason": found.reason,
        "chi2": {name: [found.before[name].chi2, found.after[name].chi2] for name in found.after},
        "D": [row(found.before["D, 94.4 K"]), row(diffusion)],
        "g": {
            "before": found.before["g(r), 85 K"].value.tolist(),
            "after": found.after["g(r), 85 K"].value.tolist(),
            "measured": fitted[0].values.tolist(),
        },
    }
    if looked_at:
        energies = {"start": start, "end": found.energy, "accepted": argon(**ACCEPTED)}
        predicted = {name: predict(energy, looked_at, settings=settings) for name, energy in energies.items()}
        result["holdouts"] = {t.name: {n: row(p[t.name]) for n, p in predicted.items()} for t in looked_at}
    result |= {
        "history": seen,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "quick": options.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    if not options.quick:
        (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        picture(result, fitted[0])
    print(json.dumps(result))


def picture(result: dict, target: Target) -> None:
    """g(r) before and after, and the way of D."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    edges, _ = measured(8.0)
    centers = 0.5 * (edges[1:] + edges[:-1])
    figure, axis = plt.subplots(figsize=(6.0, 3.8), constrained_layout=True)
    axis.fill_between(centers, target.values - target.errors, target.values + target.errors, color="#cccccc")
    axis.plot(centers, target.values, "k-", label="measured, 85 K")
    axis.plot(centers, result["g"]["before"], color="#d95f02", label="start")
    axis.plot(centers, result["g"]["after"], color="#1b9e77", label="fitted")
    axis.set(xlabel="r [Å]", ylabel="g(r)")
    axis.legend(frameon=False)
    figure.savefig(HERE / "structure.png", dpi=100)


if __name__ == "__main__":
    main()
