"""Does a short-range prior keep atoms apart, and what does it cost in accuracy? See README.md."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxmlip.data
from jaxmlip import units
from jaxmlip.data import read_dataset, statistics
from jaxmlip.elements import MASSES, NUMBERS
from jaxmlip.energy import ZBL, AbstractEnergy
from jaxmlip.energy.base import cast
from jaxmlip.energy.zbl import zbl_repulsion
from jaxmlip.graph import batch
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.graph.neighbors import hold, rebuild, to_graph
from jaxmlip.learn import TrainSettings, evaluate, fit
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.pretrained import load, save
from jaxmlip.observables.thermo import temperature as temperature_of
from jaxmlip.simulate import Guards, Langevin
from jaxmlip.simulate.state import replace
from jaxmlip.system import make_system

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params"
VARIANTS = {"without_prior": None, "with_prior": ZBL(elements=(14,))}
SETTINGS = TrainSettings(
    steps=3000, stress_weight=0.1, late_energy_weight=30.0, switch_at=0.6, max_shapes=1, missing=1.0, seed=0
)
SEEDS = (0, 1)  # the first one is used for dynamics
ENERGIES = (10.0, 100.0, 1000.0)  # eV, center of mass
TEMPERATURES = (3000.0, 3500.0, 4000.0, 4500.0, 5000.0)
LATTICE_CONSTANTS = (5.43, 5.14, 4.82, 4.58)  # Å: 1.0, 0.85, 0.7 and 0.6 of the volume of the crystal
TIMESTEP = 1.0 * units.fs
HELD = 5  # steps between two neighbor lists
DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0


def path_of(variant: str, seed: int) -> Path:
    return PARAMS / f"si_{variant}_{seed}.jaxmlip"


def parts() -> dict:
    """The silicon data that come with the package, by their own split."""
    return read_dataset(str(importlib.resources.files(jaxmlip.data) / "silicon_pbe.extxyz.xz")).split_by_key()


def train(variant: str, seed: int) -> AbstractEnergy:
    """The preset `nep` trained with or without the prior, all else the same."""
    data = parts()
    found = statistics(data["train"], 5.0)
    config = ACEConfig.preset("nep", (14,), mean_neighbors=found.neighbors, energy_scale=found.force_rms)
    settings = TrainSettings(**{**{k: getattr(SETTINGS, k) for k in SETTINGS.__dataclass_fields__}, "seed": seed})
    model = ACE(config, key=jax.random.key(seed))
    return fit(model, data["train"], data["valid"], settings=settings, prior=VARIANTS[variant]).energy


# --- two atoms ------------------------------------------------------------------------------------------------------


def pair_curve(energy: AbstractEnergy, number: int, distances: np.ndarray) -> np.ndarray:
    """Energy of two atoms [eV] against their distance [Å], relative to when they are out of reach."""
    reach = energy.cutoff + 0.1
    graph = batch(make_system([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [number] * 2), reach)

    @eqx.filter_jit
    def curve(energy, r):
        def one(r):
            return jnp.sum(energy(graph.with_positions(jnp.stack([jnp.zeros(3), jnp.eye(3)[0] * r]))))

        return lax.map(one, r)

    values = np.asarray(curve(energy, jnp.append(jnp.asarray(distances), reach)))
    return values[:-1] - values[-1]


def collide(energy: AbstractEnergy, number: int, steps: int = 12_000) -> tuple[np.ndarray, np.ndarray]:
    """Closest approach [Å] of head-on collisions at `ENERGIES`, and the error of energy conservation relative to them.

    Velocity Verlet in the center of mass, from out of reach; the timestep shrinks so that neither velocity nor force
    moves the atoms by more than 5e-4 Å (less for small atoms).
    """
    start = energy.cutoff + 0.05
    graph = batch(make_system([[0.0, 0.0, 0.0], [0.5 * start, 0.0, 0.0]], [number] * 2), start)
    mass = jnp.asarray(0.5 * MASSES[number])  # reduced
    closest, worst = _shots(energy, graph, mass, jnp.asarray(start), jnp.asarray(ENERGIES), steps)
    return np.asarray(closest), np.asarray(worst)


@eqx.filter_jit
def _shots(energy, graph, mass, start, kinetics, steps):
    """`collide`, compiled once for models of one kind."""

    def potential(r):
        return jnp.sum(energy(graph.with_positions(jnp.stack([jnp.zeros(3), jnp.eye(3)[0] * r]))))

    slope = jax.value_and_grad(potential)
    first, grad = slope(start)
    size = 5e-4 * jnp.minimum(start / 5.0, 1.0)

    def shoot(kinetic):
        def step(carry, _):
            r, v, grad, closest, worst = carry
            dt = jnp.minimum(
                size / jnp.maximum(jnp.abs(v), 1e-12), jnp.sqrt(size * mass / jnp.maximum(jnp.abs(grad), 1e-12))
            )
            v = v - 0.5 * dt * grad / mass
            r = r + dt * v
            value, grad = slope(r)
            v = v - 0.5 * dt * grad / mass
            error = jnp.abs(value - first + 0.5 * mass * v * v - kinetic)
            closest, worst = jnp.minimum(closest, r), jnp.maximum(worst, jnp.where(r > start, 0.0, error))
            return (r, v, grad, closest, worst), None

        carry = (start, -jnp.sqrt(2.0 * kinetic / mass), grad, start, jnp.zeros(()))
        (_, _, _, closest, worst), _ = lax.scan(step, carry, None, length=steps)
        return closest, worst / kinetic

    return jax.vmap(shoot)(kinetics)


def whole_turning_points(number: int) -> np.ndarray:
    """Where the whole ZBL potential of two nuclei equals `ENERGIES` [Å]."""
    z = jnp.asarray(float(number))
    result = []
    for energy in ENERGIES:
        inner, outer = 1e-4, 10.0
        for _ in range(60):
            middle = 0.5 * (inner + outer)
            inner, outer = (
                (middle, outer) if float(zbl_repulsion(jnp.asarray(middle), z, z)) > energy else (inner, middle)
            )
        result.append(inner)
    return np.array(result)


def measure_collisions(models: dict[str, list[AbstractEnergy]]) -> dict:
    """Turning points of the prior alone for four elements, and of silicon with and without it."""
    cases = {f"ZBL {s}": (ZBL(elements=(NUMBERS[s],)), NUMBERS[s]) for s in ("H", "Si", "Cu", "W")}
    for name, many in models.items():
        cases |= {f"model {name} seed {i}": (cast(m, jnp.float64), 14) for i, m in zip(SEEDS, many, strict=True)}
    results = {}
    for name, (energy, number) in cases.items():
        closest, errors = collide(energy, number)
        expected = whole_turning_points(number)
        results[name] = {
            "E_cm_eV": list(ENERGIES),
            "turning_point_A": [x if x > 0.0 else None for x in closest.tolist()],  # none: through each other
            "of_whole_zbl_A": expected.tolist(),
            "deviation_percent": [
                100.0 * (x / y - 1.0) if x > 0.0 else None for x, y in zip(closest, expected, strict=True)
            ],
            "energy_error_relative": errors.tolist(),
        }
        print(name, results[name], flush=True)
    return results


# --- hot dynamics ---------------------------------------------------------------------------------------------------


def starts(replicas: int) -> list[tuple]:
    """Replicas: a system of 8 atoms, a temperature [K] and a key; the same for both variants."""
    kinds = [(t, a) for t in TEMPERATURES for a in LATTICE_CONSTANTS]
    keys = jax.random.split(jax.random.key(7), replicas)
    result = []
    for i in range(replicas):
        kelvin, side = kinds[i % len(kinds)]
        noise = 0.05 * np.random.default_rng(i).normal(size=(8, 3))
        system = make_system(side * DIAMOND + noise, [14] * 8, cell=side * np.eye(3), dtype=jnp.float32)
        result.append((system, kelvin, keys[i]))
    return result


def survive(energy: AbstractEnergy, replicas: int, ps: float, label: str, minutes: float = 1e9) -> dict:
    """How many steps each replica lived before it broke a guard, and how near two atoms came, under Langevin dynamics;
    not beyond `ps`, nor beyond so many `minutes` by the clock (`steps` says how far it came)."""
    energy = cast(energy, jnp.float32)
    guards = Guards()
    made = starts(replicas)
    baths = [Langevin(np.float32(TIMESTEP), np.float32(t), np.float32(5.0 / units.ps)) for _, t, _ in made]
    states = [
        bath.init(energy, system, key=key, temperature=float(kelvin), skin=1.0, capacity=96)
        for bath, (system, kelvin, key) in zip(baths, made, strict=True)
    ]
    states, baths = (jax.tree.map(lambda *x: jnp.stack(x), *many) for many in (states, baths))
    states = replace(states, neighbors=hold(states.neighbors))

    def block(energy, bath, carry):
        """`HELD` steps of one replica with one list; it stops for good where a guard breaks."""

        def step(carry, _):
            state, code, last, closest, kelvin = carry
            before = bath.conserved(state)
            after = bath.step(energy, state)
            found = guards.check(bath, after, before)
            alive = code == 0
            near = jnp.min(to_graph(after.neighbors, after.system).lengths())
            hot = temperature_of(after.momenta, after.system.masses, bath.degrees_of_freedom(after.system))
            good = alive & (found == 0)
            state = jax.tree.map(lambda a, b: jnp.where(good, a, b), after, state)
            code = jnp.where(alive, found, code)
            return (state, code, last + good.astype(jnp.int32), jnp.minimum(closest, jnp.where(good, near, closest)),
                    kelvin + jnp.where(good, hot, 0.0)), None  # fmt: skip

        state, *rest = carry
        state = replace(state, neighbors=rebuild(state.neighbors, state.system))
        return lax.scan(step, (state, *rest), None, length=HELD)[0]

    @eqx.filter_jit
    def advance(energy, baths, carry):
        def many(carry, _):
            return jax.vmap(lambda bath, c: block(energy, bath, c))(baths, carry), None

        return lax.scan(many, carry, None, length=20)[0]

    zero = jnp.zeros(replicas, jnp.int32)
    carry = (states, zero, zero, jnp.full(replicas, 9.0, jnp.float32), jnp.zeros(replicas, jnp.float32))
    steps, done, begin = int(round(ps * units.ps / TIMESTEP)), 0, time.time()
    while done < steps:
        carry = advance(energy, baths, carry)
        done += 20 * HELD
        alive = int(jnp.sum(carry[1] == 0))
        if done % 1000 == 0 or done == 20 * HELD:
            print(
                f"{label}: {done} of {steps} steps, {alive} of {replicas} alive, {time.time() - begin:.0f} s",
                flush=True,
            )
        if alive == 0 or time.time() - begin > 60.0 * minutes:
            break
    states, code, last, closest, kelvin = (x if i == 0 else np.asarray(x) for i, x in enumerate(carry))
    failed = np.asarray(states.neighbors.failed)  # nothing that such a replica says can be trusted: it counts as dead
    code = np.where(failed & (code == 0), -1, code)
    return {
        "survival": float(np.mean(code == 0)),
        "steps_alive": last.tolist(),
        "codes": code.tolist(),
        "lists_failed": int(np.sum(code == -1)),
        "closest_A": closest.tolist(),
        "mean_temperature_K": float(np.sum(kelvin[code == 0]) / max(np.sum(last[code == 0]), 1)),
        "steps": done,
        "seconds": time.time() - begin,
    }


# --- pictures -------------------------------------------------------------------------------------------------------


def draw(models: dict[str, AbstractEnergy], runs: dict[str, dict]) -> None:
    """The dimer with and without the prior, and survival against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    r = np.linspace(0.15, 5.0, 400)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    z = jnp.full(r.shape, 14.0)
    axes[0].plot(r, np.asarray(zbl_repulsion(jnp.asarray(r), z, z)), "k--", lw=1, label="whole ZBL")
    for (name, model), color, lw in zip(models.items(), ("C3", "C0"), (4.0, 1.5), strict=True):
        axes[0].plot(r, pair_curve(cast(model, jnp.float64), 14, r), color, label=name.replace("_", " "))
        steps = np.sort(np.array(runs[name]["steps_alive"]))
        times = np.linspace(0.0, runs[name]["steps"], 500)
        alive = [np.mean((steps > t) | (steps >= runs[name]["steps"])) for t in times]
        axes[1].plot(1e-3 * times, alive, color, lw=lw, label=name.replace("_", " "))
    lengths = []
    for record in parts()["train"]:
        i, j, s = neighbor_pairs(record.positions, record.cell, record.pbc, 5.0)
        lengths.append(np.linalg.norm(record.positions[j] + s @ record.cell - record.positions[i], axis=1))
    shadow = axes[0].twinx()
    shadow.hist(np.concatenate(lengths), 120, color="0.85")
    shadow.set_yticks([])
    axes[0].set_zorder(shadow.get_zorder() + 1)
    axes[0].patch.set_visible(False)
    axes[0].set(xlabel="distance [Å]", ylabel="energy of two Si atoms [eV]", ylim=(-60, 120), xlim=(0, 5))
    axes[0].set_title("gray: distances in the training data", fontsize=9)
    axes[0].legend(frameon=False)
    axes[1].set(xlabel="time [ps]", ylabel="replicas alive", ylim=(-0.03, 1.05))
    axes[1].set_title("8 Si atoms, 3000 to 5000 K, 0.6 to 1 of the volume of the crystal", fontsize=9)
    axes[1].legend(frameon=False)
    figure.savefig(HERE / "collisions.png", dpi=130)


def summary(rmse: dict[str, list[float]], collisions: dict, runs: dict[str, dict]) -> dict:
    """The figures that are asked for; accuracy is the mean over seeds, turning points the worst of all."""
    mean = {name: float(np.mean(values)) for name, values in rmse.items()}
    guarded = {k: v for k, v in collisions.items() if "without_prior" not in k}
    alone = [v for k, v in guarded.items() if k.startswith("ZBL")]

    def worst(cases):
        return max(abs(x) if x is not None else np.inf for v in cases for x in v["deviation_percent"])

    return {
        "survival_with_prior": runs["with_prior"]["survival"],
        "survival_without_prior": runs["without_prior"]["survival"],
        "rmse_change_percent": 100.0 * (mean["with_prior"] / mean["without_prior"] - 1.0),
        "rmse_change_percent_each_seed": [
            100.0 * (a / b - 1.0) for a, b in zip(rmse["with_prior"], rmse["without_prior"], strict=True)
        ],
        "turning_point_max_percent": worst(guarded.values()),
        "turning_point_prior_alone_max_percent": worst(alone),
        "collision_energy_error_max": max(max(v["energy_error_relative"]) for v in guarded.values()),
        "falls_through_without_prior": sum(
            x is None for k, v in collisions.items() if k not in guarded for x in v["turning_point_A"]
        ),
        "closest_pair_with_prior_A": min(runs["with_prior"]["closest_A"]),
        "closest_pair_without_prior_A": min(runs["without_prior"]["closest_A"]),
        "lists_failed": sum(run["lists_failed"] for run in runs.values()),
        "replicas": len(runs["with_prior"]["codes"]),
        "ps": min(run["steps"] for run in runs.values()) * TIMESTEP / units.ps,
        "force_rmse_meV_A": rmse,
        "device": jax.devices()[0].device_kind,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and short runs: under a minute on two cores")
    parser.add_argument("--train", action="store_true", help="train the potentials again instead of reading `params/`")
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--ps", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=1e9, help="end the dynamics of a variant after so long")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    replicas, ps = (10, 0.1) if options.quick else (options.replicas, options.ps)
    if options.train:
        for name, seed in ((name, seed) for name in VARIANTS for seed in SEEDS):
            save(path_of(name, seed), train(name, seed), data="silicon_pbe.extxyz.xz", settings="SETTINGS of run.py")
    models = {name: [load(path_of(name, seed)) for seed in SEEDS] for name in VARIANTS}
    test = parts()["test"]
    rmse = {name: [1e3 * evaluate(model, test).force_rmse for model in many] for name, many in models.items()}
    print("test force RMSE [meV/Å]:", rmse, flush=True)
    first = {name: many[0] for name, many in models.items()}
    with ThreadPoolExecutor(2) as pool:  # two cores: dynamics of a variant leaves half of them idle
        heads = pool.submit(measure_collisions, models)
        futures = {n: pool.submit(survive, model, replicas, ps, n, options.minutes) for n, model in first.items()}
        collisions, runs = heads.result(), {name: future.result() for name, future in futures.items()}
    keys = {**summary(rmse, collisions, runs), "quick": options.quick}
    if not options.quick:
        draw(first, runs)
        results = {"summary": keys, "collisions": collisions, "runs": runs}
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
