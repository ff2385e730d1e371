"""Which uncertainty means what it says, before and after calibration? See README.md."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if "--quick" in sys.argv:  # which compiles for most of its time, so with less optimisation
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import ase.build
import jax
import numpy as np

from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.energy import AbstractEnergy, Committee, energy_forces
from jaxmlip.energy.committee import split_committee
from jaxmlip.graph import batch
from jaxmlip.io import from_ase
from jaxmlip.learn import TrainSettings, fit, fit_linear
from jaxmlip.learn.calibration import LEVELS, conformal, isotonic, rank_correlation, reliability, scaling, score
from jaxmlip.learn.ensemble import predict_with_committee
from jaxmlip.learn.linear import KINDS, RowCache
from jaxmlip.learn.linearised import last_layer, linearise
from jaxmlip.learn.uncertainty import Uncertain, predict_with_uncertainty, residuals_of
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.models.pretrained import load, save

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets"
SHIPPED = HERE.parents[1] / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"
WORK = HERE / "work"
CUTOFFS = {"si": 5.0, "mo": 5.5, "acac": 5.0, "3bpa": 5.0, "ours": 5.0}
STEPS = {"si": 400, "mo": 400, "acac": 1500, "3bpa": 1500}
RULES = {"scaled": scaling, "isotonic": isotonic, "conformal": conformal}


@dataclasses.dataclass(frozen=True)
class Parts:
    """Frames to learn from, frames like them to calibrate with and to judge by, and frames that are unlike them."""

    train: Dataset
    pool: Dataset
    shifted: Dataset | None


def parts(name: str) -> Parts:
    rng = np.random.default_rng(0)

    def drawn(data: Dataset, *counts: int) -> list[Dataset]:
        order, ends = rng.permutation(len(data)), np.cumsum([0, *counts])
        return [Dataset([data[int(i)] for i in order[a:b]]) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    if name == "ours":
        data = read_dataset(SHIPPED).filter(lambda r: not r.is_isolated_atom and len(r) == 8)
        return Parts(*drawn(data, len(data) // 2, len(data) - len(data) // 2), None)
    if name in ("si", "mo"):
        stem = name.capitalize()
        data = read_dataset([DATA / "mlearn" / f"{stem}_{part}.xyz.xz" for part in ("train", "test")])
        return Parts(*drawn(data, len(data) // 2, len(data) - len(data) // 2), None)
    if name == "acac":
        train, test, hot = (
            read_dataset(DATA / name / f"{file}.xyz.xz") for file in ("train_300K", "test_MD_300K", "train_600K")
        )
        return Parts(drawn(train, 400)[0], drawn(test, 300)[0], drawn(hot, 200)[0])
    train, mixed = (read_dataset(DATA / name / f"train_{kind}.xyz.xz") for kind in ("300K", "mixedT"))
    known = {tuple(np.round(r.positions.ravel(), 4)) for r in train}
    new = mixed.filter(lambda r: tuple(np.round(r.positions.ravel(), 4)) not in known)
    print(f"3bpa: {len(mixed) - len(new)} of the mixed frames are among those at 300 K, and left out", flush=True)
    return Parts(*drawn(train, 300, 200), drawn(new, 200)[0])


# Methods: each makes predictions with their uncertainty

Predict = Callable[[Dataset], list[Uncertain]]


def networks(name: str, train: Dataset, count: int, share: bool, steps: int, fresh: bool, **sizes) -> AbstractEnergy:
    """A committee of the preset `nep`, trained; kept, so that a run that was stopped need not begin again."""
    path = WORK / f"{name}_{'shallow' if share else 'deep'}_{count}_{steps}.jaxmlip"
    if path.exists() and not fresh:
        return load(path)
    facts = statistics(train, CUTOFFS[name])
    numbers = {"cutoff": CUTOFFS[name], "mean_neighbors": facts.neighbors, "energy_scale": facts.force_rms}
    config = ACEConfig.preset("nep", train.elements, **numbers, **sizes)
    keys = jax.random.split(jax.random.key(0), count)
    committee = Committee.of([ACE(config, key=key) for key in keys], last_layer if share else None)
    settings = TrainSettings(steps=steps, evaluations=1, max_shapes=1)
    energy = fit(committee, train, settings=settings, quiet=True).energy
    if not fresh:
        save(path, energy)
    return energy


def one_of(energy: AbstractEnergy) -> AbstractEnergy:
    """The first member of a committee, with what all share."""
    committee, rest = split_committee(energy)
    return committee.member(0) if rest is None else committee.member(0) + rest


def methods(name: str, train: Dataset, quick: bool) -> dict[str, Callable[[], Predict]]:
    count, steps = (3, 40) if quick else (8, STEPS[name])
    sizes = {"channels": 4, "hidden": 8, "degree": 2} if quick else {}

    def committee(share: bool) -> Predict:
        few = share and name == "3bpa" and not quick
        energy = networks(name, train, count, share, 300 if few else steps, quick, **sizes)
        return lambda data: predict_with_committee(energy, data)

    def laplace() -> Predict:
        member = one_of(networks(name, train, count, False, steps, quick, **sizes))
        found = linearise(member, train)
        return lambda data: predict_with_uncertainty(found, data)

    def linear() -> Predict:
        facts = statistics(train, CUTOFFS[name])
        sizes = {"channels": 48}
        if name in ("acac", "3bpa"):  # every pair of elements has its functions: 1689 and 2000 weights
            sizes = {"acac": {"channels": 8, "radial": 5}, "3bpa": {"channels": 4, "radial": 5, "degree": 2}}[name]
            sizes |= {"roots": 4}
        if quick:
            sizes = {"channels": 4, "radial": 4, "degree": 2, "roots": 4}
        config = LinearACEConfig(train.elements, cutoff=CUTOFFS[name], mean_neighbors=facts.neighbors, **sizes)
        found = fit_linear(LinearACE(config, key=jax.random.key(0)), train, dtype=np.float32, cache=RowCache(0.0))
        return lambda data: predict_with_uncertainty(found, data)

    every = {
        "deep": lambda: committee(False),
        "shallow": lambda: committee(True),
        "laplace": laplace,
        "linear": linear,
    }
    return {k: v for k, v in every.items() if k in ("deep", "linear")} if quick else every


# Judging


def per_frame(found: list[Uncertain], data: Dataset) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Residuals and deviations of every frame by kind of label, so that frames can be drawn."""
    rows = [residuals_of([one], Dataset([record])) for one, record in zip(found, data, strict=True)]
    return {kind: [row[kind] for row in rows] for kind in KINDS if all(kind in row for row in rows)}


def joined(rows: list[tuple[np.ndarray, np.ndarray]], chosen) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([rows[int(i)][part] for i in chosen]) for part in (0, 1))  # type: ignore[return-value]


def flat(scores) -> dict[str, float]:
    keys = {"nll": scores.nll, "ence": scores.ence, "miscal_area": scores.miscalibration_area}
    return keys | {f"coverage_{round(100 * level)}": held for level, held in scores.coverage.items()}


def judge(rows: list, splits: int) -> dict[str, dict[str, float]]:
    """Scores before and after, each averaged over random halves of the pool to calibrate with and to judge by."""
    rng, found = np.random.default_rng(1), {name: [] for name in ("before", *RULES)}
    for _ in range(splits):
        order = rng.permutation(len(rows))
        half = len(rows) // 2
        calibration, test = joined(rows, order[:half]), joined(rows, order[half:])
        found["before"].append(flat(score(*test)))
        for name, rule in RULES.items():
            found[name].append(flat(score(*test, rule(*calibration))))
    return {
        name: {k: round(float(np.mean([one[k] for one in each])), 4) for k in each[0] if all(k in one for one in each)}
        for name, each in found.items()
    }


def shift(pool: list, shifted: list) -> dict[str, dict[str, float]]:
    """Scores on frames unlike those that were calibrated with."""
    calibration, test = joined(pool, range(len(pool))), joined(shifted, range(len(shifted)))
    found = {"before": flat(score(*test))}
    found |= {name: flat(score(*test, rule(*calibration))) for name, rule in RULES.items()}
    return {name: {k: round(v, 4) for k, v in one.items()} for name, one in found.items()}


def spearman_force(found: list[Uncertain], data: Dataset) -> float:
    """Rank correlation, over atoms, of the predicted deviation of the force with the length of its error."""
    wrong = np.concatenate([np.linalg.norm(r.forces - u.forces, axis=1) for u, r in zip(found, data, strict=True)])
    said = np.concatenate([np.linalg.norm(u.forces_std, axis=1) for u in found])
    return round(rank_correlation(wrong, said), 4)


def one_set(name: str, quick: bool, splits: int) -> dict:
    """All methods on one data set."""
    data, result, curves = parts(name), {}, {"pool": {}, "shifted": {}}
    for method, make in methods(name, data.train, quick).items():
        begin = time.perf_counter()
        predict = make()
        found = predict(data.pool)
        rows = per_frame(found, data.pool)
        errors = {kind: float(np.sqrt(np.mean(joined(r, range(len(r)))[0] ** 2))) for kind, r in rows.items()}
        entry = {kind: judge(r, splits) for kind, r in rows.items()}
        entry["rmse"] = {kind: round(1e3 * error, 3) for kind, error in errors.items()}
        entry["spearman_force"] = spearman_force(found, data.pool)
        curves["pool"][method] = joined(rows["force"], range(len(rows["force"])))
        if data.shifted is not None:
            far = predict(data.shifted)
            rows_far = per_frame(far, data.shifted)
            entry["shifted"] = {kind: shift(rows[kind], rows_far[kind]) for kind in rows_far}
            entry["shifted"]["spearman_force"] = spearman_force(far, data.shifted)
            curves["shifted"][method] = joined(rows_far["force"], range(len(rows_far["force"])))
        result[method] = entry
        text = f"{name} {method}: {1e3 * errors['force']:.1f} meV/A, Spearman {entry['spearman_force']:.2f}"
        print(f"{text}, {time.perf_counter() - begin:.0f} s", flush=True)
        jax.clear_caches()
    if not quick:
        for where, found in curves.items():
            if found:
                reliability(HERE / f"reliability_{name}_{where}.png", found, unit="eV/Å")
    return result


def cost(kinds: Sequence[str], *, forces: bool, members: int = 8, repeats: int = 15) -> dict[str, float]:
    """Time of a committee over that of one member, silicon of 512 atoms, alternating: with the energies of all members,
    and, where `forces`, with all their forces too."""
    atoms = ase.build.bulk("Si", cubic=True) * (4, 4, 4)
    atoms.rattle(0.1, seed=0)
    graph = batch(from_ase(atoms, dtype=np.float32), 5.0)
    config = ACEConfig.preset("nep", (14,), mean_neighbors=28.0)
    energies = [ACE(config, key=jax.random.key(i)) for i in range(members)]
    energies_of = jax.jit(lambda c, g: (*energy_forces(c, g), _each(c, g)))
    forces_of = jax.jit(lambda c, g: jax.vmap(lambda own: energy_forces(c.with_own(own), g))(c.own))
    runs: dict[str, tuple[Callable, AbstractEnergy]] = {"one": (jax.jit(energy_forces), energies[0])}
    for kind in kinds:
        committee = Committee.of(energies, last_layer if kind == "shallow" else None)
        runs[f"{kind}_energies"] = (energies_of, committee)
        if forces:
            runs[f"{kind}_forces"] = (forces_of, committee)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, (function, energy) in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(energy, graph))
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return {
        name: round(float(np.median(np.array(t) / np.array(times["one"]))), 3)
        for name, t in times.items()
        if name != "one"
    }


def _each(committee: Committee, graph):
    """The energies of all members: what the spread of the energy takes besides the mean forces."""
    return jax.vmap(lambda own: graph.sum_atoms(committee.with_own(own)(graph)))(committee.own)


def summary(found: dict[str, dict]) -> dict[str, float]:
    """The figures that are asked for, over all sets and methods."""
    gaps, best = [], {}
    for name, entries in found.items():
        for entry in entries.values():
            for kind in KINDS:
                held = entry.get(kind, {}).get("conformal", {})
                gaps += [
                    abs(held[f"coverage_{round(100 * p)}"] - p) for p in LEVELS if f"coverage_{round(100 * p)}" in held
                ]
        shifted = {m: e["shifted"]["spearman_force"] for m, e in entries.items() if "shifted" in e}
        if shifted:
            best[f"spearman_force_shifted_{name}"] = max(shifted.values())
            best[f"best_method_shifted_{name}"] = max(shifted, key=lambda m: shifted[m])
    return {"conformal_worst_gap": round(max(gaps), 4), **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sets", nargs="+", default=["si", "mo", "acac", "3bpa"], choices=list(CUTOFFS))
    parser.add_argument("--cost-only", action="store_true", help="time the committees, on a quiet machine")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    path = HERE / "results.json"
    names = ["ours"] if options.quick else [] if options.cost_only else options.sets
    before = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    result = {k: v for k, v in before.items() if k.startswith("ensemble8")}
    if options.quick or options.cost_only or not result:
        kinds, repeats = (("deep",), 5) if options.quick else (("deep", "shallow"), 25)
        ratios = cost(kinds, forces=not options.quick, repeats=repeats)
        result = {"ensemble8_cost_ratio": ratios["deep_energies"]}
        result |= {f"ensemble8_{name}_cost_ratio": ratio for name, ratio in ratios.items()}
    sets = before.get("sets", {})
    for name in [*names, None]:
        if name is not None:
            sets[name] = one_set(name, options.quick, 5 if options.quick else 200)
        result |= {
            **(summary(sets) if sets else {}),
            "sets": sets,
            "quick": options.quick,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
        }
        if not options.quick:  # after each set, so that a run that is stopped keeps what it has
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
