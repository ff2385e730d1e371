"""Does dynamics keep what it must? Energy drift, its order in the timestep, momentum, reversal. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones, hessian_vector_product
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.models import pretrained
from jaxmlip.observables.statistics import drift
from jaxmlip.simulate import NVE, Guards, Langevin, State, run
from jaxmlip.simulate.state import evaluate, replace, with_positions
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
PARAMS = HERE.parent / "mlearn" / "params"
RESULTS = HERE / "results.json"


class Energies(eqx.Module):
    r"""Total energy [eV] and shadow energy of velocity Verlet [eV], both in float64 where the atoms are.

    $\tilde H = H + dt^2 (v \cdot U'' v / 12 - \sum_i F_i^2 / 24 m_i)$, conserved up to $dt^4$: its drift is that of
    $H$, its oscillation far smaller. Coefficients checked against the oscillator's exact invariant (`check_shadow`).
    """

    energy: AbstractEnergy
    timestep: jax.Array

    def __call__(self, state: State):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
        system = with_positions(wide.system, wide.system.positions + wide.rest)
        graph = to_graph(wide.neighbors, system)
        potential, forces = evaluate(self.energy, system, wide.neighbors)
        mass = system.masses[:, None]
        velocity = wide.momenta / mass
        total = potential + 0.5 * jnp.sum(wide.momenta * velocity)
        curvature = jnp.sum(velocity * hessian_vector_product(self.energy, graph, velocity)) / 12.0
        return total, total + self.timestep**2 * (curvature - jnp.sum(forces**2 / mass) / 24.0)


def lattice(constant: float, basis: list, repeat: int, number: int) -> System:
    """A cubic crystal."""
    cells = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (cells + np.asarray(basis)[None]).reshape(-1, 3) * constant
    return make_system(positions, [number] * len(positions), cell=[repeat * constant] * 3, dtype=jnp.float64)


FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
DIAMOND = FCC + [[x + 0.25 for x in site] for site in FCC]


def cases(quick: bool) -> tuple[dict[str, dict], list[str]]:
    """What can be run here: the energy, the system, temperature, timestep and lengths; and what is absent."""
    absent: list[str] = []
    argon = LennardJones(epsilon=0.010323, sigma=3.405, cutoff=6.5, onset=0.7)
    found = {
        "lj": {
            "energy": argon,
            "system": lattice(5.4, FCC, 3, 18),
            "temperature": 40.0,
            "equilibration_ps": 2.0 if quick else 20.0,
            "timestep_fs": 4.0,
            "ps": 20.0 if quick else 200.0,
        }
    }
    fast = next(iter(sorted(PARAMS.glob("si_fast.*"))), None)
    silicon = lattice(5.431, DIAMOND, 2, 14)
    if fast is None:
        absent.append("experiments/mlearn/params/si_fast.*")
    else:
        found["si_fast"] = {
            "energy": pretrained.load(fast),
            "system": silicon,
            "temperature": 300.0,
            "timestep_fs": 1.0,
            "ps": 16.0,
        }
        if quick:  # from the crystal at rest: that it runs, and conserves as far as so little time can tell
            found["si_fast"] |= {"ps": 0.1, "samples": 80, "equilibration_ps": 0.0, "short": True}
        else:  # the error of the drift is that of the oscillation, of order dt⁴
            found["si_fast_hot"] = found["si_fast"] | {"temperature": 1000.0, "timestep_fs": 0.5, "ps": 8.0}
    data = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
    weights = data / "potentials" / "nequix" / "nequix-mp-1.nqx"
    if not weights.is_file():
        absent.append("nequix-mp-1 (set JAXMLIP_DATA)")
    elif not quick:
        found["nequix"] = {
            "energy": pretrained.load(weights),
            "system": silicon,
            "temperature": 300.0,
            "timestep_fs": 2.0,
            "ps": 2.0,
            "samples": 100,
            "equilibration_ps": 0.5,
            "short": True,
        }
    return found, absent


def wide(energy: AbstractEnergy, dtype) -> AbstractEnergy:
    """The same energy with parameters of another float type."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, energy)


def equilibrated(energy: AbstractEnergy, system: System, temperature: float, timestep: float, ps: float) -> State:
    """A thermal start: Langevin dynamics, then momenta without drift."""
    bath = Langevin(timestep, temperature, 10.0 / units.ps)
    state = bath.init(energy, system, key=jax.random.key(1), temperature=2.0 * temperature)
    if ps > 0.0:
        state, _ = run(bath, energy, state, steps=int(ps * units.ps / timestep), every=10**6)
    return state


def start_nve(energy: AbstractEnergy, thermal: State, timestep: float, dtype) -> tuple[NVE, State]:
    """NVE from a thermal state in a given float type, at rest as a whole."""
    integrator = NVE(timestep)
    system = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float64 else x, thermal.system)
    velocity = jnp.sum(thermal.momenta, axis=0) / jnp.sum(thermal.system.masses)
    momenta = (thermal.momenta - thermal.system.masses[:, None] * velocity[None, :]).astype(dtype)
    return integrator, integrator.init(energy, system, key=jax.random.key(2), momenta=momenta)


def measure_drift(case: dict, thermal: State, dtype) -> dict[str, float]:
    """Drift of total and shadow energy with standard errors, and the oscillation of both."""
    timestep, atoms = case["timestep_fs"] * units.fs, len(case["system"].numbers)
    energy = wide(case["energy"], dtype)
    integrator, state = start_nve(energy, thermal, timestep, dtype)
    steps = int(case["ps"] * units.ps / timestep)
    every = max(1, steps // case.get("samples", 800))
    watch = Energies(wide(case["energy"], jnp.float64), jnp.asarray(timestep, jnp.float64))
    begin = time.time()
    _, (total, shadow) = run(integrator, energy, state, steps=steps, every=every, observe=watch, guards=Guards())
    ns = np.arange(1, len(total) + 1) * every * timestep / units.ns
    plain, modified = (drift(ns, 1e3 * (x - x[0]) / atoms) for x in (total, shadow))
    return {
        "drift_meV_atom_ns": modified.value,
        "stderr": modified.stderr,
        "drift_of_H_meV_atom_ns": plain.value,
        "drift_of_H_stderr": plain.stderr,
        "std_H_meV_atom": 1e3 * float(np.std(total)) / atoms,
        "std_shadow_meV_atom": 1e3 * float(np.std(shadow)) / atoms,
        "ps": case["ps"],
        "seconds": time.time() - begin,
    }


def measure_slope(case: dict, thermal: State, quick: bool) -> dict:
    """How the fluctuation of the energy grows with the timestep: the slope of log std(H) against log dt."""
    energy, atoms = wide(case["energy"], jnp.float64), len(case["system"].numbers)
    length = case["timestep_fs"] * units.fs * (400 if quick else 600)
    timesteps = [case["timestep_fs"] * f for f in (0.5, 0.75, 1.0, 1.5)]
    spread = []
    for fs in timesteps:
        integrator, state = start_nve(energy, thermal, fs * units.fs, jnp.float64)
        steps = int(round(length / (fs * units.fs)))
        _, total = run(integrator, energy, state, steps=steps, every=1, observe=integrator.conserved)
        spread.append(float(np.std(total)) / atoms)
    slope = np.polyfit(np.log(timesteps), np.log(spread), 1)[0]
    return {"slope": float(slope), "timesteps_fs": timesteps, "std_meV_atom": [1e3 * s for s in spread]}


def measure_symmetry(case: dict, thermal: State) -> dict[str, float]:
    """Total momentum over the sum of its parts, and how far from the start 1000 steps there and back end."""
    energy = wide(case["energy"], jnp.float64)
    integrator, state = start_nve(energy, thermal, case["timestep_fs"] * units.fs, jnp.float64)
    forth, _ = run(integrator, energy, state, steps=1000, every=1000)
    back, _ = run(integrator, energy, replace(forth, momenta=-forth.momenta), steps=1000, every=1000)
    momenta = np.asarray(forth.momenta)
    return {
        "momentum_relative": float(np.abs(momenta.sum(axis=0)).max() / np.abs(momenta).sum()),
        "reversal_angstrom": float(np.abs(np.asarray(back.system.positions - state.system.positions)).max()),
    }


def check_shadow() -> float:
    """Deviation of the shadow energy of one oscillator from its exact invariant, relative to dt⁴: must stay bounded."""
    w, m, q, p = 1.3, 2.0, 0.7, 0.4
    errors = []
    for dt in (0.02, 0.01):
        exact = (p * p / (2 * m) + 0.5 * m * w * w * q * q * (1 - (w * dt) ** 2 / 4)) * (1 + (w * dt) ** 2 / 6)
        force, velocity = -m * w * w * q, p / m
        shadow = p * p / (2 * m) + 0.5 * m * w * w * q * q
        shadow += dt**2 * (velocity * m * w * w * velocity / 12 - force**2 / (24 * m))
        errors.append(abs(shadow - exact) / dt**4)
    if abs(errors[0] / errors[1] - 1) > 0.05:
        raise AssertionError(f"the shadow energy is not right to dt^4: {errors}")
    return errors[-1]


def measure(name: str, case: dict, quick: bool) -> dict:
    """Everything for one energy."""
    results: dict = {"short": case.get("short", False)}
    timestep = case["timestep_fs"] * units.fs
    energy = wide(case["energy"], jnp.float64)
    temperature = case["temperature"]
    thermal = equilibrated(energy, case["system"], temperature, timestep, case.get("equilibration_ps", 2.0))
    label = f"{temperature:.0f}K"
    for dtype in ("float64",) if quick and case.get("short") else ("float64", "float32"):
        found = measure_drift(case, thermal, jnp.dtype(dtype))
        results[f"{label}_{dtype}"] = found
        print(f"{name} {label} {dtype}: {found}", flush=True)
    if name in ("lj", "si_fast") and not case.get("short"):
        results["slope"] = measure_slope(case, thermal, quick)
        results["symmetry"] = measure_symmetry(case, thermal)
        print(f"{name}: {results['slope']} {results['symmetry']}", flush=True)
    return results


def summary(results: dict) -> dict:
    """The figures that are asked for, worst case over systems (those with short runs apart)."""
    keys: dict = {}
    for dtype, short in (("float64", "f64"), ("float32", "f32")):
        worst = (0.0, 0.0)
        for name, case in results.items():
            parts = [v for k, v in case.items() if k.endswith(dtype)]
            if not parts:
                continue
            top = max(parts, key=lambda v: abs(v["drift_meV_atom_ns"]))
            error = max(v["stderr"] for v in parts)
            keys[f"{name}_drift_{short}_meV_atom_ns"] = top["drift_meV_atom_ns"]
            keys[f"{name}_drift_{short}_stderr"] = error
            if not case["short"]:
                worst = max(worst, (abs(top["drift_meV_atom_ns"]), error))
        keys[f"drift_{short}_meV_atom_ns"], keys[f"drift_{short}_stderr"] = worst
    slopes = {name: case["slope"]["slope"] for name, case in results.items() if "slope" in case}
    keys.update({f"{name}_dt_slope": s for name, s in slopes.items()})
    keys["dt_slope"] = max(slopes.values(), key=lambda s: abs(s - 2.0), default=None)
    for key in ("momentum_relative", "reversal_angstrom"):
        keys[key] = max((x["symmetry"][key] for x in results.values() if "symmetry" in x), default=None)
    return keys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs: under a minute on two cores")
    parser.add_argument("--only", nargs="*", help="systems to run: lj, si_fast, si_fast_hot, nequix")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    check_shadow()
    found, absent = cases(options.quick)
    for name in absent:
        print(f"absent, left out: {name}", flush=True)
    chosen = {name: case for name, case in found.items() if not options.only or name in options.only}
    with ThreadPoolExecutor(len(chosen) if options.quick else 1) as pool:  # a quick run is mostly compilation
        done = {name: pool.submit(measure, name, case, options.quick) for name, case in chosen.items()}
        results = {name: future.result() for name, future in done.items()}
    if not options.quick and RESULTS.exists():  # systems may be run one at a time
        results = json.loads(RESULTS.read_text())["results"] | results
    keys = summary(results) | {"absent": absent, "quick": options.quick, "device": jax.devices()[0].device_kind}
    if not options.quick:
        RESULTS.write_text(json.dumps({"summary": keys, "results": results}, indent=1) + "\n")
    print(json.dumps(keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
