"""How do errors go with capacity, regularisation and the number of frames? See README.md."""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.data.folds import make_folds
from jaxmlip.learn import TrainSettings, fit
from jaxmlip.learn.learning_curve import fit_exponent
from jaxmlip.learn.network_validation import network_points
from jaxmlip.learn.recommend import weigh
from jaxmlip.learn.splits import Capacity, Point, Split, fold_splits
from jaxmlip.learn.trade_off import decompose, shape
from jaxmlip.learn.validation import LinearTable, fit_columns, ladder, linear_points
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
SHIPPED = HERE.parents[1] / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"
CUTOFFS = {"si": 5.0, "mo": 5.5, "ours": 5.0}
SIZES = {"si": (12, 25, 50, 100, 200), "mo": (12, 24, 48, 96, 190), "ours": (8, 16, 32, 64, 128)}
RIDGES = tuple(10.0**i for i in (-6, -4, -2, -1, 0, 1, 2, 4, 6))
FREE = 1e-6  # of the prior of the evidence: hardly any
KINDS = ("force", "energy")


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much is computed."""

    channels: int = 32
    seeds: int = 5
    sizes: int = 5
    ridges: tuple[float, ...] = RIDGES
    resamples: int = 20
    resampled: int = 2  # index of the size of the training sets that are drawn again
    steps: int = 400
    widths: tuple[int, ...] = (4, 16)
    network_seeds: int = 2


FULL = Extent()
QUICK = Extent(channels=8, seeds=2, sizes=3, ridges=(1e-6, 1.0, 1e6), resamples=4, resampled=0)


def halves(name: str) -> tuple[Dataset, Dataset]:
    """Frames to train and to test on; no isolated atoms."""
    if name == "ours":
        parts = read_dataset(SHIPPED).split_by_key()
        train, test = parts["train"] + parts["valid"], parts["test"]
    else:
        train, test = (read_dataset(DATA / f"{name.capitalize()}_{part}.xyz.xz") for part in ("train", "test"))
    return tuple(part.filter(lambda r: not r.is_isolated_atom) for part in (train, test))


def subsets(train: int, frames: int, sizes: tuple[int, ...], seed: int) -> list[Split]:
    """Nested training sets from the first frames; tested on the rest."""
    order = np.random.default_rng(seed).permutation(train)
    test = np.arange(frames) >= train
    return [Split(f"{n} frames", np.bincount(order[:n], minlength=frames).astype(float), test, seed) for n in sizes]


def values(points: list[Point], kind: str, what: str = "test", **chosen: object) -> np.ndarray:
    """Errors [seeds, settings in the order of weights, regularisation and frames] of the points that are as `chosen`,
    meV/atom or meV/Å."""
    here = [p for p in points if all(getattr(p, key) == value for key, value in chosen.items())]
    rows: dict[int, list[float]] = {}
    for p in sorted(here, key=lambda p: (p.weights, p.regularisation, p.frames)):
        rows.setdefault(p.seed, []).append(1e3 * getattr(p, what)[kind])
    return np.array([rows[seed] for seed in sorted(rows)])


def listed(x: np.ndarray) -> list[float]:
    return [float(f"{v:.4g}") for v in x.mean(axis=0)]


def linear(name: str, extent: Extent) -> tuple[dict, dict]:
    """The named figures of a set, and the curves for the pictures."""
    begin = time.perf_counter()
    train, test = halves(name)
    data = train + test
    facts = statistics(train, CUTOFFS[name])
    config = LinearACEConfig(
        train.elements, cutoff=CUTOFFS[name], mean_neighbors=facts.neighbors, channels=extent.channels
    )
    table = LinearTable(LinearACE(config, key=jax.random.key(0)), data, dtype=np.float32)
    rows_seconds = time.perf_counter() - begin
    print(f"{name}: {len(train)} + {len(test)} frames, {table.width} columns, rows in {rows_seconds:.0f} s", flush=True)
    step = 1 if extent.sizes == 5 else 2
    sizes = SIZES[name][::step]
    points: list[Point] = []
    for seed in range(extent.seeds):
        splits = subsets(len(train), len(data), sizes, seed)
        points += linear_points(table, splits, ladder(config, seed=seed), ridges=extent.ridges)
        print(f"{name}: seed {seed}, {len(points)} fits, {time.perf_counter() - begin:.0f} s", flush=True)
    rungs = ladder(config)
    found, curves = described(name, points, sizes, extent)
    split = resampled(table, len(train), sizes[extent.resampled], extent)
    parts, worst = decomposition(table, split, rungs, extent)
    curves["decomposition"] = parts | {"frames": sizes[extent.resampled]}
    found |= {f"bias2_plus_variance_{what}_{name}": value for what, value in worst.items()}
    print(f"{name}: decomposed, {time.perf_counter() - begin:.0f} s", flush=True)
    found |= recommended(name, table, len(train), rungs, extent, points, sizes)
    found[f"row_passes_{name}"] = table.passes
    found[f"fits_{name}"] = len(points) + extent.resamples * len(rungs) * 2 + 5 * len(rungs) * len(extent.ridges)
    found[f"rows_share_of_time_{name}"] = round(rows_seconds / (time.perf_counter() - begin), 3)
    print(f"{name}: {found[f'fits_{name}']} fits, {time.perf_counter() - begin:.0f} s", flush=True)
    return found, curves


def described(name: str, points: list[Point], sizes: tuple[int, ...], extent: Extent) -> tuple[dict, dict]:
    """Learning-curve exponents, the best sizes, gaps and shapes."""
    few, many = sizes[0], sizes[-1]
    weights = sorted({p.weights for p in points})
    names = [next(p.capacity for p in points if p.weights == w) for w in weights]
    found: dict = {}
    curves: dict = {"weights": weights, "capacities": names, "ridges": list(extent.ridges), "sizes": list(sizes)}
    best = int(values(points, "force", frames=many, regularisation=1.0).mean(axis=0).argmin())
    found[f"best_capacity_{name}"] = names[best]
    at_few = int(values(points, "force", frames=few, regularisation=1.0).mean(axis=0).argmin())
    found[f"best_capacity_{name}_few_frames"] = names[at_few]
    for kind in KINDS:
        for ridge, word in ((1.0, "evidence"), (FREE, "free")):
            for n, amount in ((few, "few"), (many, "many")):
                for what in ("train", "test"):
                    errors = values(points, kind, what, frames=n, regularisation=ridge)
                    curves[f"capacity_{kind}_{amount}_{word}_{what}"] = listed(errors)
                found[f"shape_capacity_{name}_{kind}_{amount}_{word}"] = shape(errors)
        for n, amount in ((few, "few"), (many, "many")):
            for what in ("train", "test"):
                errors = values(points, kind, what, frames=n, weights=weights[-1])
                curves[f"ridge_{kind}_{amount}_{what}"] = listed(errors)
            found[f"shape_ridge_{name}_{kind}_{amount}"] = shape(errors)
            found[f"best_ridge_{name}_{kind}_{amount}"] = extent.ridges[int(errors.mean(axis=0).argmin())]
            at_one = errors.mean(axis=0)[extent.ridges.index(1.0)] / errors.mean(axis=0).min()
            found[f"evidence_over_best_ridge_{name}_{kind}_{amount}"] = round(float(at_one), 3)
        errors = values(points, kind, weights=weights[best], regularisation=1.0)
        law = fit_exponent(sizes, errors)
        found[f"exponent_{kind}_{name}"] = round(law.exponent, 3)
        found[f"exponent_{kind}_{name}_error"] = round(law.exponent_error, 3)
        if law.floor is not None and law.floor_error is not None:
            found[f"floor_{kind}_{name}"] = round(law.floor, 2)
            found[f"floor_{kind}_{name}_error"] = round(law.floor_error, 2)
        last = np.log2(errors[:, -2] / errors[:, -1]) / np.log2(sizes[-1] / sizes[-2])
        found[f"exponent_{kind}_{name}_last_doubling"] = round(float(last.mean()), 3)
        found[f"exponent_{kind}_{name}_last_doubling_error"] = round(float(last.std(ddof=1) / len(last) ** 0.5), 3)
        curves[f"learning_{kind}"] = listed(errors)
        curves[f"learning_{kind}_seeds"] = np.round(errors, 3).tolist()
        small = values(points, kind, weights=weights[2], regularisation=1.0)
        found[f"exponent_{kind}_{name}_3_body"] = round(fit_exponent(sizes, small).exponent, 3)
        curves[f"learning_{kind}_3_body"] = listed(small)
        for n, amount in ((few, "_few_frames"), (many, "")):
            pair = [
                values(points, kind, w, weights=weights[best], regularisation=1.0, frames=n) for w in ("test", "train")
            ]
            found[f"train_test_gap_{kind}_{name}{amount}"] = round(float(np.mean(pair[0] / pair[1])), 3)
    return found, curves


def resampled(table: LinearTable, train: int, size: int, extent: Extent) -> list[Split]:
    """Training sets of one size, each drawn anew."""
    frames = len(table.dataset)
    return [subsets(train, frames, (size,), 1000 + seed)[0] for seed in range(extent.resamples)]


def decomposition(
    table: LinearTable, splits: list[Split], rungs: list[Capacity], extent: Extent
) -> tuple[dict, dict[str, float]]:
    """Squared bias and variance of every rung [(meV/atom)^2, (meV/Å)^2], and how far their sum is, relative, from the
    squared errors of these fits, and of those that `linear_points` makes on its own way."""
    fits: dict[tuple[str, float], list[np.ndarray]] = {}
    for split in splits:
        (sums,) = table.sums([split])
        for rung in rungs:
            weights, _ = fit_columns(table, sums, rung, ridges=(1.0, FREE))
            for i, ridge in enumerate((1.0, FREE)):
                fits.setdefault((rung.name, ridge), []).append(weights[:, i])
    few = linear_points(table, splits, [rungs[0], rungs[3]], ridges=(1.0, FREE))
    direct: dict[tuple[str, float, str], list[float]] = {}
    for p in few:
        for kind in KINDS:
            direct.setdefault((p.capacity, p.regularisation, kind), []).append(1e6 * (p.test[kind] or 0.0) ** 2)
    found: dict = {}
    worst = {"identity_rel": 0.0, "by_other_fits_rel": 0.0}
    for ridge, word in ((1.0, "evidence"), (FREE, "free")):
        for rung in rungs:
            stacked = np.stack(fits[rung.name, ridge], axis=1)
            predictions, labels, kinds = table.predictions(stacked, splits[0].test)
            for kind, index in (("energy", 0), ("force", 1)):
                here = kinds == index
                d = decompose(1e3 * predictions[:, here], 1e3 * labels[here])
                found.setdefault(f"{kind}_{word}_bias2", []).append(float(f"{d.bias:.4g}"))
                found.setdefault(f"{kind}_{word}_variance", []).append(float(f"{d.variance:.4g}"))
                if (rung.name, ridge, kind) in direct:
                    measured = float(np.mean(direct[rung.name, ridge, kind]))
                    apart = abs(d.bias + d.variance - measured) / measured
                    worst["by_other_fits_rel"] = max(worst["by_other_fits_rel"], apart)
                worst["identity_rel"] = max(worst["identity_rel"], abs(d.bias + d.variance - d.error) / d.error)
    return found, worst


def recommended(
    name: str,
    table: LinearTable,
    train: int,
    rungs: list[Capacity],
    extent: Extent,
    points: list[Point],
    sizes: tuple[int, ...],
) -> dict:
    """What five folds of the training frames recommend, and what that costs on the test frames."""
    folds = make_folds(table.dataset[:train], 5)
    splits = fold_splits(folds, len(table.dataset))
    verdict = weigh(list(linear_points(table, splits, rungs, ridges=extent.ridges)))

    def score(capacity: str, ridge: float) -> float:
        chosen = {"capacity": capacity, "regularisation": ridge, "frames": sizes[-1]}
        return float(np.sqrt(values(points, "force", **chosen).mean() * values(points, "energy", **chosen).mean()))

    best = min(score(r.name, ridge) for r in rungs for ridge in extent.ridges)
    for line in verdict.verdict:
        print(f"   {line}", flush=True)
    simplest, top = verdict.simplest, verdict.best
    return {
        f"recommended_{name}": f"{simplest.capacity}, ridge {simplest.regularisation:g}",
        f"recommended_over_best_test_score_{name}": round(score(simplest.capacity, simplest.regularisation) / best, 3),
        f"cv_best_{name}": f"{top.capacity}, ridge {top.regularisation:g}",
        f"cv_best_over_best_test_score_{name}": round(score(top.capacity, top.regularisation) / best, 3),
        f"cv_shapes_{name}": dict(verdict.shapes),
    }


class Programs:
    """Counts the programs that are compiled or loaded."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"


def networks(name: str, extent: Extent) -> tuple[dict, dict]:
    """The preset `nep` in several widths, trained on few and many frames."""
    begin = time.perf_counter()
    train, test = halves(name)
    data = train + test
    facts = statistics(train, CUTOFFS[name])
    sizes = SIZES[name][::2]

    def make(capacity: Capacity, seed: int) -> ACE:
        options = {"mean_neighbors": facts.neighbors, "energy_scale": facts.force_rms}
        config = ACEConfig.preset("nep", train.elements, cutoff=CUTOFFS[name], **options, **(capacity.changes or {}))
        return ACE(config, key=jax.random.key(seed))

    capacities = []
    for width in extent.widths:
        changes = {"channels": width, "hidden": 3 * width}
        count = sum(x.size for x in jax.tree.leaves(make(Capacity("", 0, changes=changes), 0)))
        capacities.append(Capacity(f"{width} channels", count, changes=changes))
    settings = TrainSettings(
        steps=extent.steps, stress_weight=0.1, max_shapes=1, missing=1.0, evaluations=1, warmup_steps=50
    )
    splits = [s for seed in range(extent.network_seeds) for s in subsets(len(train), len(data), sizes, seed)]
    points = []
    programs = Programs()
    jax.monitoring.register_event_duration_secs_listener(programs)
    counts = []
    for point in network_points(make, data, splits, capacities, settings=settings):
        points.append(point)
        counts.append(programs.count)
        text = f"{name}, nep, {point.capacity}, {point.split}, seed {point.seed}: force "
        text += f"{1e3 * point.train['force']:.0f} / {1e3 * point.test['force']:.0f} meV/Å"
        print(f"{text}, {time.perf_counter() - begin:.0f} s, {programs.count} programs", flush=True)
    for split in splits[: len(sizes)]:  # as they would be without shared shapes
        brief = dataclasses.replace(settings, steps=2, seed=split.seed)
        fit(make(capacities[0], split.seed), data[np.flatnonzero(split.train)], settings=brief, quiet=True)
    apart = programs.count - counts[-1]
    jax.monitoring.unregister_event_duration_listener(programs)
    later = [b - a for i, (a, b) in enumerate(zip(counts[:-1], counts[1:], strict=True), 1) if i % len(splits)]
    found: dict = {
        f"network_trainings_{name}": len(points),
        f"network_programs_{name}": counts[-1],
        f"network_programs_after_the_first_of_a_width_{name}": int(sum(later)),
        f"network_programs_of_{len(sizes)}_sizes_without_sharing_{name}": apart,
        f"network_steps_{name}": extent.steps,
    }
    weights = [c.weights for c in capacities]
    curves: dict = {"weights": weights, "sizes": list(sizes)}
    for kind in KINDS:
        for n, amount in ((sizes[0], "few"), (sizes[-1], "many")):
            for what in ("train", "test"):
                errors = values(points, kind, what, frames=n)
                curves[f"{kind}_{amount}_{what}"] = listed(errors)
            found[f"shape_width_{name}_{kind}_{amount}"] = shape(errors)
        best = int(values(points, kind, frames=sizes[-1]).mean(axis=0).argmin())
        errors = values(points, kind, weights=weights[best])
        law = fit_exponent(sizes, errors)
        found[f"exponent_{kind}_{name}_nep"] = round(law.exponent, 3)
        found[f"exponent_{kind}_{name}_nep_error"] = round(law.exponent_error, 3)
        curves[f"learning_{kind}"] = listed(errors)
    return found, curves


def overall(found: dict) -> str:
    """How often each shape was found along the capacity, in words."""
    shapes = [v for k, v in found.items() if k.startswith("shape_capacity_")]
    return ", ".join(f"{s} {shapes.count(s)}" for s in sorted(set(shapes), key=lambda s: -shapes.count(s)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="our silicon, a small model, two seeds, no network")
    parser.add_argument("--only", nargs="+", choices=["linear", "networks", "figures"])
    parser.add_argument("--sets", nargs="+", choices=list(CUTOFFS), default=list(CUTOFFS))
    options = parser.parse_args()
    parts = options.only or (["linear"] if options.quick else ["linear", "networks", "figures"])
    names = ["ours"] if options.quick else options.sets
    path = HERE / "results.json"
    result: dict = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    curves: dict = result.pop("curves", {})
    if "linear" in parts:
        for name in names:
            found, curves[name] = linear(name, QUICK if options.quick else FULL)
            result |= found
            _save(path, result, curves, options.quick)
    if "networks" in parts:
        for name in [n for n in names if n != "ours"][:1]:
            found, curves[f"{name}_nep"] = networks(name, FULL)
            result |= found
            _save(path, result, curves, options.quick)
    if "figures" in parts:
        from figures import draw

        draw(curves, HERE)
    result["shape"] = overall(result)
    identities = [v for k, v in result.items() if k.startswith("bias2_plus_variance_identity_rel_")]
    result["bias2_plus_variance_identity_rel"] = max(identities, default=None)
    result["quick"] = options.quick
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    _save(path, result, curves, options.quick)
    print(json.dumps(result))


def _save(path: Path, result: dict, curves: dict, quick: bool) -> None:
    if not quick:
        path.write_text(json.dumps({**result, "curves": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()
