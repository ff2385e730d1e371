"""Are wrong labels found, and what are they worth? See README.md."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np
from scipy import linalg, stats

sys.path.insert(0, str(Path(__file__).resolve().parent))
from faults import KINDS, auc, plant, recalls

from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.data.influence import influence
from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn import TrainSettings, evaluate, find_suspects, fit, fit_linear
from jaxmlip.learn.cleaning import THRESHOLD, Suspects
from jaxmlip.learn.linear import RowCache
from jaxmlip.learn.linearised import leave_out, linearise
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
SHIPPED = HERE.parents[1] / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"
CUTOFFS = {"si": 5.0, "mo": 5.5, "ours": 5.0}
SEEDS = range(5)


def halves(name: str) -> tuple[Dataset, Dataset]:
    """Frames to clean, and frames to test on."""
    if name == "ours":
        parts = read_dataset(SHIPPED).split_by_key()
        clean = (parts["train"] + parts["valid"]).filter(lambda r: not r.is_isolated_atom)
        return clean, parts["test"]
    train, test = (read_dataset(DATA / f"{name.capitalize()}_{part}.xyz.xz") for part in ("train", "test"))
    return train, test


def linear_model(name: str, train: Dataset, channels: int) -> LinearACE:
    facts = statistics(train, CUTOFFS[name])
    config = LinearACEConfig(train.elements, cutoff=CUTOFFS[name], mean_neighbors=facts.neighbors, channels=channels)
    return LinearACE(config, key=jax.random.key(0))


def errors(energy: AbstractEnergy, test: Dataset) -> np.ndarray:
    report = evaluate(energy, test, max_shapes=1)
    return np.array([report.force_rmse, report.energy_rmse])


def linear(name: str, seeds: range, channels: int, retrain: bool) -> dict:
    """Faults planted, looked for by the linear model, and taken out again."""
    train, test = halves(name)
    model, cache = linear_model(name, train, channels), RowCache(4e9)

    def judge(data, progress=None):
        return fit_linear(model, data, cache=cache, dtype=np.float32)

    found = {"auc": [], "hits": {}, "ratios": [], "dirty": [], "aside": []}
    sound = errors(judge(train).energy, test) if retrain else None
    for seed in seeds:
        begin = time.perf_counter()
        faulty, planted = plant(train, seed, shipped=name == "ours")
        suspects = find_suspects(faulty, judge)
        score(found, suspects, planted)
        aside = set(suspects.above().tolist())
        found["aside"].append(len(aside))
        if retrain:
            kept = Dataset([r for i, r in enumerate(faulty) if i not in aside])
            found["ratios"].append((errors(judge(kept).energy, test) / sound).tolist())
            found["dirty"].append((errors(judge(faulty).energy, test) / sound).tolist())
        text = f"{name}, seed {seed}: AUC {found['auc'][-1]:.3f}, {len(aside)} of {len(train)} set aside"
        print(f"{text}, {time.perf_counter() - begin:.0f} s", flush=True)
    return found


def score(found: dict, suspects: Suspects, planted: dict[int, str]) -> None:
    found["auc"].append(auc(suspects.suspicion, set(planted)))
    hits = recalls(suspects.suspicion, planted)
    for kind, values in hits.items():
        found["hits"].setdefault(kind, []).extend(values)
    order = suspects.suspicion.argsort()[::-1].argsort()
    for i, kind in planted.items():
        if order[i] >= 0.1 * len(order):
            print(f"   missed: {kind}, rank {order[i] + 1}, {suspects.dataset[i].config_type}: {suspects.reason(i)}")


def train_network(name: str, train: Dataset, steps: int, seed: int = 0) -> AbstractEnergy:
    """The preset `nep`, trained on whatever the labels say."""
    facts = statistics(train, CUTOFFS[name])
    config = ACEConfig.preset(
        "nep", train.elements, cutoff=CUTOFFS[name], mean_neighbors=facts.neighbors, energy_scale=facts.force_rms
    )
    settings = TrainSettings(
        steps=steps, stress_weight=0.1, late_energy_weight=30.0, max_shapes=1, missing=1.0, evaluations=1, seed=seed
    )
    return fit(ACE(config, key=jax.random.key(seed)), train, settings=settings, quiet=True).energy


def neural(name: str, seeds: range, steps: int) -> dict:
    """Faults planted, learned from, and looked for through the last layer of what has learned them."""
    train, _ = halves(name)
    found = {"auc": [], "hits": {}}
    for seed in seeds:
        begin = time.perf_counter()
        faulty, planted = plant(train, seed, shipped=name == "ours")
        energy = train_network(name, faulty, steps)
        trained = time.perf_counter() - begin
        cache = RowCache(4e9)
        suspects = find_suspects(faulty, lambda data, _, e=energy, c=cache: linearise(e, data, cache=c))
        score(found, suspects, planted)
        text = f"{name}, network, seed {seed}: AUC {found['auc'][-1]:.3f}, trained in {trained:.0f} s"
        print(f"{text}, {time.perf_counter() - begin:.0f} s", flush=True)
    return found


def brute_force(frames: int, every: int) -> dict[str, float]:
    """Leverage and leave-one-out residuals against solving again without the frame, in float64."""
    train, _ = halves("ours")
    data = train[np.random.default_rng(0).permutation(len(train))[:frames]]
    with jax.enable_x64(True):
        facts = statistics(train, CUTOFFS["ours"])
        small = LinearACEConfig(train.elements, mean_neighbors=facts.neighbors, channels=4, radial=5, degree=2, roots=4)
        made = fit_linear(LinearACE(small, key=jax.random.key(0)), data, dtype=np.float64)
        blocks = list(made.design(data))
    gram = sum(b.rows.T @ (b.weight[:, None] * b.rows) for b in blocks)
    prior = np.maximum(np.diag(made.factor @ made.factor.T) - np.diag(gram), 1e-6)
    factor = linalg.cholesky(gram + np.diag(prior), lower=True)
    mean = linalg.cho_solve((factor, True), sum(b.rows.T @ (b.weight * (b.targets - b.predicted)) for b in blocks))
    root = {b.frame: np.sqrt(b.weight) for b in blocks}
    stacked = {b.frame: b.rows * root[b.frame][:, None] for b in blocks}
    labels = {b.frame: (b.targets - b.predicted) * root[b.frame] for b in blocks}
    worst = {"leverage": 0.0, "loo": 0.0}
    whole = np.linalg.qr(np.concatenate([*stacked.values(), np.diag(np.sqrt(prior))]), mode="r")
    for b in blocks[::every]:
        rest = b.targets - b.predicted - b.rows @ mean
        one = influence(b.frame, b.rows, b.targets, rest, b.weight, b.kind, factor)
        direct = np.sum(linalg.solve_triangular(whole, stacked[b.frame].T, trans="T") ** 2, axis=0)
        worst["leverage"] = max(worst["leverage"], float(np.max(np.abs(one.leverage - direct)) / direct.max()))
        rows = np.concatenate([*(x for i, x in stacked.items() if i != b.frame), np.diag(np.sqrt(prior))])
        values = np.concatenate([*(y for i, y in labels.items() if i != b.frame), np.zeros(len(prior))])
        expected = b.targets - b.predicted - b.rows @ linalg.lstsq(rows, values, lapack_driver="gelsy")[0]
        worst["loo"] = max(worst["loo"], float(np.max(np.abs(one.left_out - expected)) / np.abs(expected).max()))
    return worst


def retraining(frames: int, steps: int) -> dict[str, float]:
    """Leave-one-out of a network, estimated and by training again without each frame, from the same start."""
    train, _ = halves("ours")
    small = train.filter(lambda r: len(r) <= 8)
    data = small[np.random.default_rng(1).permutation(len(small))[:frames]]
    data = Dataset([dataclasses.replace(r, weights=(1.0, 1.0, 1.0)) for r in data])
    energy = train_network("ours", data, steps)
    layer = linearise(energy, data)
    suspects = find_suspects(data, lambda data, _: layer, rounds=1)
    newton = leave_out(energy, data, range(frames), noise=layer.noise, damping=1e-2, iterations=60)
    unit = np.array([layer.noise[k] for k in ("energy", "force", "virial")])
    true, plain, last, full = [], [], [], []
    for i in range(frames):
        begin = time.perf_counter()
        if i % 10 == 9:
            jax.clear_caches()  # a process may map so many compiled programs into memory, and no more
        again = train_network("ours", data[[j for j in range(frames) if j != i]], steps)
        report, record = evaluate(again, data[[i]], max_shapes=1), data[i]
        volume = abs(float(np.linalg.det(record.cell))) / len(record)
        wrong = (
            (report.energy - report.energy_label).ravel() / unit[0],
            (report.forces - report.forces_label).ravel() / unit[1],
            (report.stress - report.stress_label)[0][np.triu_indices(3)].ravel() * volume / unit[2],
        )
        true.append(_size(np.concatenate(wrong)))
        plain.append(_size(newton[i].residuals))
        last.append(_size(suspects.found[i].left_out))
        full.append(_size(newton[i].left_out))
        print(
            f"left out {i}: {true[-1]:.2f} by training again, {last[-1]:.2f} last layer, {full[-1]:.2f} Gauss-Newton, "
            f"{plain[-1]:.2f} in training; {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    found = {"last_layer": last, "gauss_newton": full, "training_residual": plain}
    result = {name: round(float(stats.spearmanr(x, true)[0]), 3) for name, x in found.items()}
    result |= {f"{name}_median_ratio": round(float(np.median(np.array(x) / true)), 3) for name, x in found.items()}
    return result | {"converged": int(sum(x.converged for x in newton)), "frames": frames}


def _size(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def summary(found: dict) -> dict:
    """The figures that are asked for."""
    result: dict = {"threshold": THRESHOLD}
    for judge in ("linear", "neural"):
        parts = {n: f for (j, n), f in found.items() if j == judge}
        if not parts:
            continue
        result |= {f"auc_{judge}_{n}": round(float(np.mean(f["auc"])), 3) for n, f in parts.items()}
        result[f"auc_{judge}"] = round(float(np.mean([x for f in parts.values() for x in f["auc"]])), 3)
        prefix = "recall_at_10pct_" if judge == "linear" else "recall_at_10pct_neural_"
        for kind in KINDS:
            hits = [x for f in parts.values() for x in f["hits"].get(kind, [])]
            if hits:
                result[prefix + kind] = round(float(np.mean(hits)), 3)
    ratios = {n: f for (j, n), f in found.items() if j == "linear" and f["ratios"]}
    if ratios:
        for name, f in ratios.items():
            for word, values in (("retrained", f["ratios"]), ("uncleaned", f["dirty"])):
                force, energy = np.mean(values, axis=0)
                result[f"{word}_force_rmse_ratio_{name}"] = round(float(force), 3)
                result[f"{word}_energy_rmse_ratio_{name}"] = round(float(energy), 3)
        every = np.concatenate([f["ratios"] for f in ratios.values()])
        result["retrained_rmse_ratio"] = round(float(every.mean()), 3)
        result["uncleaned_rmse_ratio"] = round(float(np.concatenate([f["dirty"] for f in ratios.values()]).mean()), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="our silicon, one seed, a small model, no network")
    parser.add_argument("--only", nargs="+", choices=["linear", "neural", "brute_force", "retraining"])
    parser.add_argument("--sets", nargs="+", choices=list(CUTOFFS), default=list(CUTOFFS))
    options = parser.parse_args()
    every = ["linear", "neural", "brute_force", "retraining"]
    parts = options.only or (["linear", "brute_force"] if options.quick else every)
    names = ["ours"] if options.quick else options.sets
    found, result = {}, {}
    if "brute_force" in parts:
        worst = brute_force(100, 5 if options.quick else 1)
        result |= {"leverage_max_rel": worst["leverage"], "loo_max_rel": worst["loo"]}
    if "linear" in parts:
        for name in names:
            found["linear", name] = linear(
                name, range(1) if options.quick else SEEDS, 16 if options.quick else 48, not options.quick
            )
    if "neural" in parts:
        for name in names:
            found["neural", name] = neural(name, range(3 if name == "ours" else 1), 3000)
    if "retraining" in parts:
        ranks = retraining(40, 600)
        result["neural_loo_rank_corr"] = max(ranks["last_layer"], ranks["gauss_newton"])
        result |= {f"neural_loo_{k}": v for k, v in ranks.items()}
    result = summary(found) | result
    result |= {
        "quick": options.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    if not options.quick and names == list(CUTOFFS):  # parts that are run by themselves add to what is there
        path = HERE / "results.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
