"""Is a designed training set worth more than molecular dynamics alone, label for label? See README.md."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path

if "--quick" in sys.argv:  # which compiles for most of its time, so with less optimisation
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import Properties, errors, properties, stability
from sets import designed, for_testing, labelled, of_dynamics, part_of_dynamics, truth

from jaxmlip.data import Dataset, statistics
from jaxmlip.learn import fit_linear
from jaxmlip.learn.linear import RowCache
from jaxmlip.learn.plan import Plan
from jaxmlip.learn.sampling import Sampler
from jaxmlip.models.linear import LinearACE, LinearACEConfig

HERE = Path(__file__).resolve().parent
BUDGETS = (25, 50, 100, 200)
CUTOFF = 4.2
VARIANTS = {
    "md": None,
    "designed": Plan(),
    "no_sampler": Plan(debye_temperature_K=640.0),
    "random_choice": Plan(selection="random"),
}


def model(neighbors: float, channels: int) -> LinearACE:
    config = LinearACEConfig((14,), cutoff=CUTOFF, degree=2, channels=channels, mean_neighbors=neighbors)
    return LinearACE(config, key=jax.random.key(0))


def frames_of(variant: str, energy, budget: int, seed: int, kept: dict, options) -> list:
    """The frames of a set without labels."""
    plan = VARIANTS[variant]
    if plan is None:
        if seed not in kept:
            kept[seed] = of_dynamics(energy, max(options.budgets), seed, *((0.01, 3) if options.quick else ()))
        return part_of_dynamics(kept[seed], budget)
    if options.quick:
        return designed(None, budget, seed, dataclasses.replace(plan, selection="random"))
    return designed(None if variant == "no_sampler" else energy, budget, seed, plan)


def judged(fitted, energy, true: Properties, tests: dict[str, Dataset], options) -> dict:
    """Everything that is asked of one potential."""
    sampler = Sampler(fitted)
    found: dict = dict(zip(("energy_rmse", "force_rmse"), errors(sampler, tests), strict=True))
    for key in ("energy_rmse", "force_rmse"):
        found[key]["all"] = float(np.sqrt(np.mean(np.square(list(found[key].values())))))
    got = properties(sampler)
    elastic = np.abs(np.array(got.elastic) / np.array(true.elastic) - 1.0)
    found |= {"elastic": float(elastic.mean()), "elastic_each_GPa": got.elastic, "lattice": got.lattice}
    found |= {"vacancy": abs(got.vacancy - true.vacancy), "vacancy_eV": got.vacancy}
    return found | {"stability": stability(fitted, energy, runs=options.runs, steps=options.steps)}


def one(variant: str, budget: int, seed: int, shared: dict, options) -> dict:
    """One set, one fit, all questions."""
    begin = time.perf_counter()
    energy = shared["energy"]
    train = labelled(frames_of(variant, energy, budget, seed, shared["dynamics"], options), energy)
    made = time.perf_counter()
    fitted = fit_linear(shared["model"], train, dtype=np.float64, cache=shared["cache"]).energy
    solved = time.perf_counter()
    found = judged(fitted, energy, shared["true"], shared["tests"], options)
    found |= {"variant": variant, "budget": budget, "seed": seed, "atoms": sum(len(r) for r in train)}
    seconds = (made - begin, solved - made, time.perf_counter() - solved)
    text = ", ".join(f"{s:.0f} s {w}" for s, w in zip(seconds, ("made", "fitted", "judged"), strict=True))
    print(
        f"{variant} {budget} seed {seed}: {found['energy_rmse']['all']:.1f} meV/atom, {found['force_rmse']['all']:.0f} "
        f"meV/Å, elastic {100 * found['elastic']:.1f} %, vacancy {1e3 * found['vacancy']:.0f} meV, "
        f"stable {found['stability']['stable']:.2g}, {1e3 * found['stability']['force_error']:.0f} meV/Å there; "
        f"{found['atoms']} atoms; {text}",
        flush=True,
    )
    return found


def summary(runs: list[dict]) -> dict:
    """Means over seeds, and what is designed over dynamics alone."""
    result: dict = {}
    budgets = sorted({r["budget"] for r in runs})
    variants = [v for v in VARIANTS if any(r["variant"] == v for r in runs)]
    questions = {
        "energy_rmse": lambda r: r["energy_rmse"]["all"],
        "force_rmse": lambda r: r["force_rmse"]["all"],
        "elastic": lambda r: r["elastic"],
        "vacancy": lambda r: r["vacancy"],
        "stability": lambda r: r["stability"]["stable"],
    }
    if any(np.isfinite(r["stability"]["force_error"]) for r in runs):
        questions["force_error_2000K"] = lambda r: r["stability"]["force_error"]
    groups = sorted(runs[0]["energy_rmse"])
    for key in ("energy_rmse", "force_rmse"):
        questions |= {f"{key}_{g}": lambda r, k=key, g=g: r[k][g] for g in groups if g != "all"}
    for name, value in questions.items():
        means: dict = {}
        for v in variants:
            for b in budgets:
                values = [value(r) for r in runs if r["variant"] == v and r["budget"] == b]
                if values:
                    means[v, b] = float(np.mean(values)) if name == "stability" else _typical(values)
        result[name] = {v: {str(b): _short(means[v, b]) for b in budgets if (v, b) in means} for v in variants}
        for v in variants[1:]:
            here = [b for b in budgets if (v, b) in means and ("md", b) in means]
            ratios = {str(b): _short(means[v, b] / max(means["md", b], 1e-12)) for b in here}
            result[f"{v}_over_md_{name}_each"] = ratios
            result[f"{v}_over_md_{name}"] = _short(_typical([max(x, 1e-6) for x in ratios.values()]))
    return result


def _typical(values: list[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-12)))))


def _short(x: float) -> float:
    return float(f"{x:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 labels, taken at random, no sampler, short dynamics")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["md", "designed"])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="of dynamics at 2000 K")
    parser.add_argument("--steps", type=int, default=1000, help="in each of them")
    parser.add_argument("--tests", type=int, default=8, help="frames of each group of the test set")
    parser.add_argument("--kept", type=Path, help="file with finished runs, to go on where it was stopped")
    options = parser.parse_args()
    if options.quick:
        options.budgets, options.seeds, options.variants, options.channels = [12], 1, ["md", "designed"], 2
        options.runs, options.steps, options.tests = 1, 100, 2
    energy = truth()
    groups = for_testing(energy, options.tests, dynamics=not options.quick)
    tests = {n: labelled(f, energy) for n, f in groups.items()}
    whole = Dataset([r for part in tests.values() for r in part])
    shared = {
        "energy": energy,
        "tests": tests,
        "dynamics": {},
        "true": properties(Sampler(energy)),
        "model": model(statistics(whole, CUTOFF).neighbors, options.channels),
        "cache": RowCache(2.5e9),
    }
    true: Properties = shared["true"]
    print(f"truth: {true}", flush=True)
    runs = [json.loads(line) for line in options.kept.read_text().splitlines()] if _exists(options.kept) else []
    for seed in range(options.seeds):
        shared["cache"] = RowCache(2.5e9)
        for variant in options.variants:
            for budget in options.budgets:
                if any((r["variant"], r["budget"], r["seed"]) == (variant, budget, seed) for r in runs):
                    continue
                runs.append(one(variant, budget, seed, shared, options))
                if options.kept:
                    with options.kept.open("a") as file:
                        file.write(json.dumps(runs[-1]) + "\n")
    result = summary(runs) | {
        "truth": {"lattice": true.lattice, "elastic_GPa": true.elastic, "vacancy_eV": true.vacancy},
        "atoms": {v: {str(b): _atoms(runs, v, b) for b in options.budgets} for v in options.variants},
        "quick": options.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    if not options.quick and options.budgets == list(BUDGETS) and options.seeds >= 3:
        (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        pictures(runs)
    print(json.dumps(result))


def pictures(runs: list[dict]) -> None:
    """Errors against the number of labels, and for each group of the test set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    colors = dict(zip(VARIANTS, ("#d95f02", "#1b9e77", "#7570b3", "#666666"), strict=True))
    panels = {
        "energies, all groups [meV/atom]": lambda r: r["energy_rmse"]["all"],
        "forces, all groups [meV/Å]": lambda r: r["force_rmse"]["all"],
        "forces, crystals [meV/Å]": lambda r: r["force_rmse"]["crystal"],
        "forces in 2000 K dynamics [meV/Å]": lambda r: 1e3 * r["stability"]["force_error"],
        "elastic constants [%]": lambda r: 100.0 * r["elastic"],
        "vacancy [meV]": lambda r: 1e3 * r["vacancy"],
    }
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.0), constrained_layout=True)
    for axis, (title, value) in zip(axes.flat, panels.items(), strict=True):
        for variant in VARIANTS:
            here = [r for r in runs if r["variant"] == variant]
            budgets = sorted({r["budget"] for r in here})
            if not here:
                continue
            axis.plot([r["budget"] for r in here], [value(r) for r in here], ".", color=colors[variant], alpha=0.4)
            means = [_typical([value(r) for r in here if r["budget"] == b]) for b in budgets]
            axis.plot(budgets, means, "-", color=colors[variant], label=variant.replace("_", " "))
        axis.set(title=title, xscale="log", yscale="log")
        axis.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("labels")
    axes[0, 0].legend(frameon=False)
    figure.savefig(HERE / "errors.png", dpi=90)


def _atoms(runs: list[dict], variant: str, budget: int) -> int:
    return round(np.mean([r["atoms"] for r in runs if r["variant"] == variant and r["budget"] == budget]))


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
