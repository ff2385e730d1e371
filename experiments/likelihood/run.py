"""Is planted noise found, and what does the dial between energies and forces do? See README.md."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if "--quick" in sys.argv:  # which compiles for most of its time, so with less optimisation
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import equinox as eqx
import jax
import numpy as np
from scipy import stats

from jaxmlip import units
from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.energy import AbstractEnergy, StillingerWeber, energy_forces
from jaxmlip.graph import batch
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.io import Record
from jaxmlip.learn import TrainSettings, evaluate, fit, fit_linear, predict_noise, read_noise
from jaxmlip.learn.noise import KINDS, without_noise
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.simulate import NVE, Guards, SimulationError, minimize, neb, run
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets" / "mlearn"
SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
LATTICE = {"sw": 5.431, "dft": 5.469}  # Å; PBE: the crystal of mlearn
DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
SIGMA = {"energy": 0.005, "force": 0.1, "virial": 0.03}  # eV/atom, eV/Å, eV/atom: planted
GIVEN = {"energy_noise": 0.005, "force_noise": 0.1, "virial_noise": 0.05}  # about the errors of `nep` here
BALANCES = (0.5, -1.0, 2.0, -0.25, 1.25)
TEMPERATURES = (1500.0, 2500.0)  # K
LITERATURE = 0.40  # eV: El-Mellouhi, Mousseau & Ordejón, Phys. Rev. B 70, 205202 (2004)


def truth() -> StillingerWeber:
    """Silicon of Stillinger and Weber."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "Si.sw"
        file.write_text(SW)
        return StillingerWeber.from_file(file)


def labelled(records: list[Record]) -> Dataset:
    """The same structures with the exact labels of the truth."""
    bare = [dataclasses.replace(r, energy=0.0, forces=np.zeros((len(r), 3)), stress=np.zeros((3, 3))) for r in records]
    exact = evaluate(truth(), Dataset(bare), dtype=np.float64)
    return Dataset(
        [
            dataclasses.replace(
                r,
                energy=float(len(r) * exact.energy[i]),
                forces=exact.forces[exact.frame == i],
                stress=exact.stress[i],
                weights=(1.0, 1.0, 1.0),
            )
            for i, r in enumerate(bare)
        ]
    )


def shaken(frames: int) -> Dataset:
    """Strained and shaken cells of 16 atoms."""
    rng = np.random.default_rng(0)
    sites = np.concatenate([DIAMOND, DIAMOND + [1.0, 0.0, 0.0]]) / [2.0, 1.0, 1.0]
    made = []
    for i in range(frames):
        cell = np.diag([10.862, 5.431, 5.431]) @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3)))
        positions = sites @ cell + rng.uniform(0.03, 0.13) * rng.normal(size=(16, 3))
        made.append(Record(positions, np.full(16, 14), cell, (True,) * 3, index=i, path="shaken.xyz"))
    return labelled(made)


def with_noise(data: Dataset, forces: np.ndarray, *, rest: bool, seed: int) -> Dataset:
    """Labels with noise: of forces by atom, and of energies and stresses where `rest`."""
    rng = np.random.default_rng(seed)
    first, noisy = 0, []
    for r in data:
        atoms, volume = len(r), abs(np.linalg.det(r.cell))
        symmetric = np.triu(rng.normal(size=(3, 3)))
        symmetric = symmetric + np.triu(symmetric, 1).T
        sigma = forces[first : first + atoms, None]
        first += atoms
        noisy.append(
            dataclasses.replace(
                r,
                energy=r.energy + rest * atoms * SIGMA["energy"] * rng.normal(),
                forces=r.forces + sigma * rng.normal(size=(atoms, 3)),
                stress=r.stress + rest * SIGMA["virial"] * symmetric * atoms / volume,
            )
        )
    return Dataset(noisy)


def network(train: Dataset, seed: int, cutoff: float) -> ACE:
    """The preset `nep`."""
    facts = statistics(train, cutoff)
    scales = {"mean_neighbors": facts.neighbors, "energy_scale": facts.force_rms}
    return ACE(ACEConfig.preset("nep", train.elements, cutoff=cutoff, **scales), key=jax.random.key(seed))


def homoscedastic(data: Dataset, steps: int, channels: int, quick: bool) -> dict:
    """Noise of three kinds, alike everywhere: found by the network and by the linear model."""
    sigma = np.full(sum(len(r) for r in data), SIGMA["force"])
    noisy = with_noise(data, sigma, rest=True, seed=1)
    cut = int(0.85 * len(noisy))
    settings = TrainSettings(
        steps=steps, stress_weight=1.0, noise="learned", balance=0.0, max_shapes=1, evaluations=5, batch_size=8
    )
    valid = None if quick else noisy[cut:]  # what validation needs is compiled for half a minute
    result = fit(network(noisy, 0, 4.5), noisy[:cut], valid, settings=settings, quiet=True)
    facts = statistics(noisy, 4.5)
    config = LinearACEConfig(noisy.elements, cutoff=4.5, mean_neighbors=facts.neighbors, channels=channels)
    solved = fit_linear(LinearACE(config, key=jax.random.key(0)), noisy[:cut], balance=0.0, dtype=np.float32)
    found = {}
    for kind in KINDS:
        for name, noise in (("", read_noise(result.energy)), ("_linear", solved.noise)):
            found[f"noise_rel_error{name}_{kind}"] = round(abs(noise[kind] / SIGMA[kind] - 1.0), 4)
    for name in ("", "_linear"):
        found[f"noise_rel_error{name}"] = max(found[f"noise_rel_error{name}_{kind}"] for kind in KINDS)
    if not quick:
        clean = evaluate(result.energy, data[cut:], max_shapes=1)
        found["misfit_force_meV_per_A"] = round(1e3 * clean.force_rmse, 2)
        found["misfit_energy_meV_per_atom"] = round(1e3 * clean.energy_rmse, 3)
    return found


def heteroscedastic(data: Dataset, steps: int) -> tuple[dict, np.ndarray]:
    """Noise of forces that grows with the energy of the atom; predicted and planted, by atom, on frames not learned."""
    one = eqx.filter_jit(truth())
    systems = [make_system(r.positions, r.numbers, cell=r.cell) for r in data]
    energies = np.concatenate([np.asarray(one(batch(systems[i : i + 50], 4.5))) for i in range(0, len(systems), 50)])
    sigma = SIGMA["force"] * np.exp(np.clip((energies + 4.33) / 0.25, 0.0, 2.0))
    noisy = with_noise(data, sigma, rest=False, seed=2)
    cut = int(0.85 * len(noisy))
    settings = TrainSettings(
        steps=steps, noise="predicted", balance=0.0, max_shapes=1, evaluations=5, batch_size=8, seed=0
    )
    result = fit(network(noisy, 0, 4.5), noisy[:cut], noisy[cut:], settings=settings, quiet=True)
    predicted = predict_noise(result.energy, noisy[cut:]).forces
    planted = sigma[-len(predicted) :]
    bins = np.array_split(np.argsort(planted), 10)
    ratios = np.array([np.sqrt(np.mean(predicted[b] ** 2) / np.mean(planted[b] ** 2)) for b in bins])
    found = {
        "noise_rel_error_heteroscedastic": round(float(np.mean(np.abs(ratios - 1.0))), 4),
        "noise_rel_error_heteroscedastic_worst_bin": round(float(np.max(np.abs(ratios - 1.0))), 4),
        "noise_rel_error_heteroscedastic_by_atom": round(float(np.median(np.abs(predicted / planted - 1.0))), 4),
        "noise_rank_correlation": round(float(stats.spearmanr(predicted, planted)[0]), 4),
        "planted_noise_spread": round(float(np.percentile(planted, 95) / np.percentile(planted, 5)), 2),
    }
    return found, np.stack([planted, predicted])


def crystal(labels: str, dtype=np.float64) -> System:
    """64 atoms."""
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + DIAMOND[None]) * LATTICE[labels]).reshape(-1, 3)
    return make_system(positions, [14] * 64, cell=2 * LATTICE[labels] * np.eye(3), dtype=dtype)


def vacancy(labels: str, kind: str) -> list[System]:
    """Site 0 empty and a neighbor about to hop (`hop`), or halfway to one neighbor, then to another (`split`)."""
    whole = crystal(labels)
    positions, length = np.asarray(whole.positions), 2 * LATTICE[labels]
    away = positions - positions[0]
    away -= length * np.round(away / length)
    near = np.argsort(np.linalg.norm(away, axis=1))[1:5]
    ends = []
    for k in range(2):
        moved = positions.copy()
        if kind == "split":
            moved[near[k]] = positions[0] + 0.5 * away[near[k]]
        elif k == 1:
            moved[near[0]] = positions[0]
        moved += 0.05 * np.random.default_rng(0).normal(size=moved.shape)
        ends.append(make_system(moved[1:], [14] * 63, cell=whole.cell))
    return ends


def migrate(energy: AbstractEnergy, labels: str) -> dict:
    """The energy to form a vacancy, and the barrier of its migration; NaN where the band does not come to rest."""
    kind = "split" if labels == "sw" else "hop"
    try:
        ends = [minimize(energy, end, fmax=2e-3, steps=1000) for end in vacancy(labels, kind)]
        path = neb(energy, *(e.system for e in ends), images=3, fmax=0.01, steps=300)
    except (SimulationError, ValueError) as error:
        print("  no path:", error, flush=True)
        return {"formation": float("nan"), "barrier": float("nan")}
    whole = float(energy_of(energy, batch([crystal(labels)], energy.cutoff)))
    barrier = float(path.barrier) if bool(path.converged) else float("nan")
    return {"formation": float(ends[0].energy) - 63.0 / 64.0 * whole, "barrier": barrier}


energy_of = eqx.filter_jit(lambda energy, graph: energy_forces(energy, graph)[0][0])
forces_of = eqx.filter_jit(lambda energy, graph: energy_forces(energy, graph)[1])


def survive(energy: AbstractEnergy, labels: str, steps: int, seeds: int) -> dict:
    """The share of runs from the hot crystal that stay whole, their drift [meV/atom/ps], and, where the truth is at
    hand, how wrong the forces are at the end [eV/Å]."""
    guards = Guards(energy_jump=0.1, max_temperature=10_000.0, closest_pair=1.2)
    integrator = NVE(np.float32(1.0 * units.fs))
    whole, drifts, wrong = [], [], []
    for kelvin in TEMPERATURES:
        for seed in range(seeds):
            system = crystal(labels, np.float32)
            state = integrator.init(energy, system, key=jax.random.key(seed), temperature=2.0 * kelvin)
            begin = float(integrator.conserved(state))
            try:
                state, _ = run(integrator, energy, state, steps=steps, every=steps, guards=guards)
            except SimulationError:
                whole.append(0.0)
                continue
            whole.append(1.0)
            drifts.append(abs(float(integrator.conserved(state)) - begin) / 64.0 / (steps * 1e-3) * 1e3)
            if labels == "sw":
                exact = forces_of(truth(), to_graph(state.neighbors, state.system))
                wrong.append(float(np.sqrt(np.mean((np.asarray(exact) - np.asarray(state.forces)) ** 2))))
    nan = float("nan")
    mean = {"drift": drifts, "md_force_rmse": wrong}
    return {"whole": float(np.mean(whole))} | {k: float(np.mean(v)) if v else nan for k, v in mean.items()}


def dial(labels: str, seeds: list[int], balances: tuple[float, ...], steps: int, md_steps: int) -> Iterator[dict]:
    """One training for each balance and seed, and what its model is good for."""
    train, test = (read_dataset(DATA / f"Si_{part}.xyz.xz") for part in ("train", "test"))
    if labels == "sw":
        train, test = labelled(list(train)), labelled(list(test))
    for seed in seeds:
        for balance in balances:
            begin = time.perf_counter()
            settings = TrainSettings(
                steps=steps, stress_weight=1.0, noise="given", balance=balance, max_shapes=1, evaluations=1,
                batch_size=2, missing=1.0, seed=seed, **GIVEN,
            )  # fmt: skip
            energy = without_noise(fit(network(train, seed, 5.0), train, settings=settings, quiet=True).energy)
            trained = time.perf_counter() - begin
            report = evaluate(energy, test, max_shapes=1)
            row = {"labels": labels, "balance": balance, "seed": seed}
            row |= {"energy_meV": 1e3 * report.energy_rmse, "force_meV": 1e3 * report.force_rmse}
            row |= migrate(energy, labels) | survive(energy, labels, md_steps, 2)
            row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(row, f"trained in {trained:.0f} s, all {time.perf_counter() - begin:.0f} s", flush=True)
            yield row


def verdict(rows: list[dict], exact: dict) -> dict:
    """The figures of the dial: where each error is least, and how it goes with the balance."""
    found: dict = {}
    for r in rows:
        r |= {k: float("nan") for k, v in r.items() if v is None}
    for labels in dict.fromkeys(r["labels"] for r in rows):
        here = [r for r in rows if r["labels"] == labels]
        balances = sorted({r["balance"] for r in here})

        def mean(name, balance, here=here):
            values = [r[name] for r in here if r["balance"] == balance]
            return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

        for r in here:
            goal = exact["barrier"] if labels == "sw" else LITERATURE
            r["barrier_error"] = round(abs(r["barrier"] - goal), 4)
            if labels == "sw":
                r["formation_error"] = round(abs(r["formation"] - exact["formation"]), 4)
        names = ["energy_meV", "force_meV", "whole", "drift", "barrier_error"]
        names += ["formation_error", "md_force_rmse"] if labels == "sw" else []
        for name in names:
            values = [mean(name, b) for b in balances]
            found[f"{labels}_{name}_by_balance"] = [round(v, 4) for v in values]
            pairs = [(r["balance"], r[name]) for r in here if np.isfinite(r[name])]
            if len({p[1] for p in pairs}) > 1 and len({p[0] for p in pairs}) > 1:
                found[f"{labels}_{name}_rank_corr"] = round(float(stats.spearmanr(*zip(*pairs, strict=True))[0]), 3)
        found[f"{labels}_balances"] = balances
        found[f"{labels}_paths_found"] = float(np.mean([np.isfinite(r["barrier"]) for r in here]))
    return found


def noise_figure(noise: np.ndarray) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.loglog(*(1e3 * noise), ".", ms=2, alpha=0.4, color="#1f5fa8")
    ends = 1e3 * np.array([noise[0].min(), noise[0].max()])
    axes.loglog(ends, ends, color="#6b7280", lw=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([100, 200, 400, 800]))
        axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="planted noise [meV/Å]", ylabel="predicted noise [meV/Å]", title="noise of the force on each atom")
    figure.savefig(HERE / "noise.png", dpi=110)


def dial_figure(rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    panels = [
        ("energy_meV", "energy RMSE [meV/atom]"),
        ("force_meV", "force RMSE [meV/Å]"),
        ("barrier_error", "error of the barrier [eV]"),
        ("drift", "drift [meV/atom/ps]"),
        ("whole", "share of runs that stay whole"),
    ]
    figure = Figure(figsize=(12.5, 2.9), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for labels, color, text in (("sw", "#1f5fa8", "Stillinger-Weber"), ("dft", "#c2410c", "DFT")):
            here = [r for r in rows if r["labels"] == labels]
            if not here:
                continue
            axes.plot([r["balance"] for r in here], [r[name] for r in here], "o", ms=3, color=color, alpha=0.5)
            balances = sorted({r["balance"] for r in here})
            found = {b: [r[name] for r in here if r["balance"] == b and np.isfinite(r[name])] for b in balances}
            known = [b for b in balances if found[b]]
            axes.plot(known, [np.mean(found[b]) for b in known], "-", color=color, label=text)
        axes.set_xlabel("forces < balance > energies", fontsize=8)
        axes.set_title(title, fontsize=9)
        if name in ("energy_meV", "force_meV"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0.0)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(HERE / "dial.png", dpi=110)


def measure(parts: list[str], options: argparse.Namespace, before: dict) -> dict:
    """The figures of each part; the rows of the dial are added to those that were there `before`."""
    result: dict = {}
    if "alike" in parts:
        data = shaken(48 if options.quick else 450)
        result |= homoscedastic(data, 150 if options.quick else 2500, 16 if options.quick else 32, options.quick)
        print(json.dumps(result), flush=True)
    if "by_atom" in parts:
        found, noise = heteroscedastic(shaken(450), 2500)
        noise_figure(noise)
        result |= found
        print(json.dumps(found), flush=True)
    rows = before.get("rows", [])
    exact = before.get("sw_exact", {})
    for labels in [part.removeprefix("dial_") for part in parts if part.startswith("dial")]:
        if labels == "sw":
            result["sw_exact"] = exact = {k: round(v, 4) for k, v in migrate(truth(), "sw").items()}
            print("truth:", exact, flush=True)
        balances = BALANCES if labels == "sw" else BALANCES[:3]
        for row in dial(labels, options.seeds, balances, options.steps, options.md_steps):
            same = ("labels", "balance", "seed")
            rows = [r for r in rows if any(r[k] != row[k] for k in same)] + [row]
            result |= verdict(rows, exact) | {"rows": rows}
            save(before | result)  # after each row: the next takes minutes
            dial_figure(rows)
    return result


def save(result: dict) -> None:
    (HERE / "results.json").write_text(json.dumps(result, indent=1).replace("NaN", "null") + "\n")


def main() -> None:
    every = ["alike", "by_atom", "dial_sw", "dial_dft"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="noise alike everywhere, few frames and steps")
    parser.add_argument("--only", nargs="+", choices=every, help="parts; what they find is added to results.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the dial")
    parser.add_argument("--steps", type=int, default=1200, help="of each training of the dial")
    parser.add_argument("--md-steps", type=int, default=2000)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.perf_counter()
    parts = ["alike"] if options.quick else options.only or every
    path = HERE / "results.json"
    before = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    result = measure(parts, options, before)
    result |= {"quick": options.quick, f"seconds_{'_'.join(parts)}": round(time.perf_counter() - begin)}
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    if not options.quick:
        save(before | result)
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}).replace("NaN", "null"))


if __name__ == "__main__":
    main()
