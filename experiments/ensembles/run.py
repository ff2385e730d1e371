"""Does every thermostat and barostat sample its ensemble, and are wrong ones caught? See README.md."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import exact
import jax
import numpy as np
from checks import equipartition, kinetic, of_difference, physical, validated_kinetic, validated_pair
from sampling import begin, run, thermal_piston, watcher

from jaxmlip import units
from jaxmlip.energy import LennardJones, StillingerWeber
from jaxmlip.simulate import CSVR, MTK, NPT, Berendsen, BerendsenNPT, Brownian, Langevin, NoseHoover
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SHAPES = ("isotropic", "anisotropic", "triclinic")
# Stillinger & Weber, Phys. Rev. B 31, 5262 (1985), in the format of LAMMPS.
SILICON = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"


def crystal(sites: np.ndarray, lengths: np.ndarray, number: int, masses: tuple[float, float]) -> System:
    """Atoms at fractional `sites` in a rectangular cell, lighter and heavier by turns."""
    weights = [masses[i % 2] for i in range(len(sites))]
    return make_system(sites * lengths, [number] * len(sites), cell=lengths, masses=weights)


def cases() -> dict[str, dict]:
    """Eight atoms of a Lennard-Jones crystal and of silicon: energy, system, states, scales of time."""
    doubled = np.concatenate([FCC * [0.5, 1, 1], FCC * [0.5, 1, 1] + [0.5, 0, 0]])
    with tempfile.NamedTemporaryFile("w", suffix=".sw") as file:
        file.write(SILICON)
        file.flush()
        silicon = StillingerWeber.from_file(file.name)
    return {
        "lj": {
            "energy": LennardJones(epsilon=0.0104, sigma=3.4, cutoff=6.5, onset=0.8),
            "system": crystal(doubled, np.array([10.64, 5.32, 5.32]), 18, (16.0, 64.0)),
            "temperatures": (30.0, 40.0),
            "triclinic temperatures": (12.0, 16.0),  # at 30 K a free cell of eight atoms flows
            "pressures": (0.1 * units.GPa, 0.2 * units.GPa),
            "fs": 5.0,
            "compressibility": 0.5 / units.GPa,
        },
        "silicon": {
            "energy": silicon,
            "system": crystal(np.concatenate([FCC, FCC + 0.25]), np.full(3, 5.431), 14, (14.0, 56.0)),
            "temperatures": (600.0, 800.0),
            "pressures": (0.0, 3.0 * units.GPa),
            "fs": 1.0,
            "compressibility": 0.01 / units.GPa,
        },
    }


def integrators(case: dict, temperature: float, pressure: float) -> dict:
    """Everything under test, thermostats of 20 steps, barostats of 60."""
    dt = case["fs"] * units.fs
    bath, cell, friction = 20.0 * dt, 60.0 * dt, 0.05 / dt
    # Brownian: an effective step sqrt(2 t / friction) of four times the timestep.
    found = {
        "langevin": Langevin(dt, temperature, friction),
        "nose-hoover": NoseHoover(dt, temperature, bath),
        "csvr": CSVR(dt, temperature, bath),
        "brownian": Brownian(dt, temperature, 0.125 / dt),
    }
    for shape in SHAPES:
        found[f"npt {shape}"] = NPT(dt, temperature, friction, pressure, cell, case["compressibility"], shape, every=5)
        found[f"mtk {shape}"] = MTK(dt, temperature, bath, pressure, cell, shape)
    return found


class Bench:
    """One system and a length of sampling: runs integrators from states that Langevin dynamics have thermalized."""

    def __init__(self, case: dict, replicas: int, samples: int):
        self.case, self.replicas, self.samples = case, replicas, samples
        self.watch = watcher(case["system"])
        self.thermal: dict[float, jax.Array] = {}
        self.pressed: dict[tuple, tuple] = {}  # positions and cells that NPT dynamics have reached

    def sample(self, integrator, temperature: float, seed: int) -> dict:
        """Observations [samples, replicas] of one integrator, the first quarter dropped."""
        system = self.case["system"]
        options = {"skin": 1.5, "capacity": 2 * _neighbors(system, self.case["energy"].cutoff + 1.5)}
        start = {"positions": self.thermal.get(temperature)}
        if isinstance(integrator, MTK):  # deterministic, so it is asked to keep a distribution, not to find it
            start = dict(zip(("positions", "cells"), self._under_pressure(integrator, temperature, seed), strict=True))
        states = begin(integrator, self.case["energy"], system, temperature, self.replicas, seed, **start, **options)
        if isinstance(integrator, MTK):
            states = thermal_piston(states, integrator, len(system.numbers), units.kB * temperature)
        count = {"samples": self.samples, "every": 10, "burn": self.samples // 4}
        states, record = run(integrator, self.case["energy"], states, self.watch, **count)
        if isinstance(integrator, Langevin):
            self.thermal.setdefault(temperature, states.system.positions)
        if isinstance(integrator, NPT):
            key = (integrator.shape, temperature, float(integrator.pressure))
            self.pressed.setdefault(key, (states.system.positions, states.system.cell))
        return record

    def _under_pressure(self, integrator: MTK, temperature: float, seed: int) -> tuple:
        """Positions and cells of independent replicas after stochastic dynamics at the same state."""
        key = (integrator.shape, temperature, float(integrator.pressure))
        if key not in self.pressed:
            stochastic = integrators(self.case, temperature, float(integrator.pressure))[f"npt {integrator.shape}"]
            self.sample(stochastic, temperature, seed + 500)
        return self.pressed[key]


def _neighbors(system: System, radius: float) -> int:
    return int(4.0 / 3.0 * np.pi * radius**3 * len(system.numbers) / float(system.volume()))


def measure(name: str, bench: Bench) -> dict[str, float]:
    """All checks of one integrator on one system, in sigma."""
    case = bench.case
    system, masses, atoms = case["system"], np.asarray(case["system"].masses), len(case["system"].numbers)
    (cold, hot), (low, high) = case["temperatures"], case["pressures"]
    if "triclinic" in name:
        cold, hot = case.get("triclinic temperatures", case["temperatures"])
    barostat = name.startswith(("npt", "mtk"))
    data, found = {}, {}
    states = [(cold, low), (hot, low)] + ([(cold, high)] if barostat else [])
    seeds = 1000 * (1 + list(integrators(case, 1.0, 0.0)).index(name))  # no two integrators share their noise
    for seed, (temperature, pressure) in enumerate(states):
        integrator = integrators(case, temperature, pressure)[name]
        dof = integrator.degrees_of_freedom(system)
        record = bench.sample(integrator, temperature, seeds + seed)
        data[temperature, pressure] = physical(record, atoms, dof, temperature, pressure if barostat else None)
        if seed == 0:
            moments = kinetic(record, dof, temperature)
            found |= {key: moments[key] for key in ("kinetic mean", "kinetic variance")}
            found |= equipartition(record, masses, dof, temperature)
            found["validated kinetic"] = validated_kinetic(data[temperature, pressure])
            found["samples"] = len(data[temperature, pressure].observables.potential_energy)
    found["temperature pair"] = validated_pair(data[cold, low], data[hot, low])
    if barostat:
        found["pressure pair"] = validated_pair(data[cold, low], data[cold, high])
    return found


def controls(bench: Bench) -> dict[str, float]:
    """What must be caught, by the worst of its checks in sigma."""
    case, system = bench.case, bench.case["system"]
    atoms, dof = len(system.numbers), 3 * len(system.numbers) - 3
    (cold, hot), (low, high) = case["temperatures"], case["pressures"]
    dt = case["fs"] * units.fs
    found = {}

    def worst(record, dof, pair=None, pressure=None):
        data = physical(record, atoms, dof, cold, pressure)
        values = [*kinetic(record, dof, cold).values(), validated_kinetic(data)]
        return float(np.max(np.abs(values + ([] if pair is None else [validated_pair(data, pair)]))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = {t: bench.sample(Berendsen(dt, t, 20.0 * dt), t, 200) for t in (cold, hot)}
        press = {
            p: bench.sample(BerendsenNPT(dt, cold, 20.0 * dt, p, 60.0 * dt, case["compressibility"]), cold, 201)
            for p in (low, high)
        }
    found["Berendsen thermostat"] = worst(weak[cold], dof, physical(weak[hot], atoms, dof, hot, None))
    pair = [physical(press[p], atoms, dof, cold, p) for p in (low, high)]
    found["Berendsen barostat, pressure pair"] = validated_pair(*pair)
    record = bench.sample(CSVR(dt, cold, 20.0 * dt), cold, 202)
    found["3N degrees of freedom counted for 3N - 3"] = worst(record, 3 * atoms)
    mean = record["kinetic"].mean()
    found["fluctuations scaled by 0.7"] = worst(record | {"kinetic": mean + 0.7 * (record["kinetic"] - mean)}, dof)
    hotter = bench.sample(CSVR(dt, cold * atoms / (atoms - 1.0), 20.0 * dt), cold, 203)
    found["a thermostat that counts 3N for 3N - 3"] = worst(hotter, dof)
    return found


def equation_of_state(replicas: int, samples: int) -> list[dict]:
    """Mean density N/V of the Lennard-Jones fluid under NPT against three equations of state."""
    table = json.loads((HERE / "eos.json").read_text())
    epsilon, sigma, mass = 0.0104, 3.4, 39.948
    energy = LennardJones(epsilon=epsilon, sigma=sigma, cutoff=2.5 * sigma, onset=0.8, tail=True)
    dt = 0.003 * sigma * np.sqrt(mass / epsilon)
    found = []
    for index, state in enumerate(table["states"]):
        temperature, pressure = state["temperature"] * epsilon / units.kB, state["pressure"] * epsilon / sigma**3
        densities = np.array(list(state["density"].values()))
        edge = (4.0 / densities.mean()) ** (1.0 / 3.0) * sigma
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
        positions = ((grid + FCC[None]) * edge).reshape(-1, 3)
        system = make_system(positions, [18] * len(positions), cell=[3 * edge] * 3, masses=[mass] * len(positions))
        compress = 0.15 * sigma**3 / epsilon / state["pressure"]
        integrator = NPT(dt, temperature, 0.01 / dt, pressure, 150.0 * dt, compress, every=5)
        capacity = int(1.6 * _neighbors(system, energy.cutoff + 1.5))
        states = begin(integrator, energy, system, temperature, replicas, 300 + index, skin=1.5, capacity=capacity)
        _, record = run(integrator, energy, states, watcher(system), samples=samples, every=20, burn=samples // 4)
        density = (len(positions) * sigma**3 / record["volume"]).mean(axis=0)
        error = float(np.hypot(density.std(ddof=1) / np.sqrt(replicas), np.ptp(densities) / 2.0))
        deviation = of_difference(density.mean() - densities.mean(), error, replicas)
        found.append(
            {
                "temperature": state["temperature"],
                "pressure": state["pressure"],
                "density": float(density.mean()),
                "stderr": float(density.std(ddof=1) / np.sqrt(replicas)),
                "equations": state["density"],
                "sigma": float(deviation),
            }
        )
    return found


def exactly(quick: bool) -> tuple[dict, dict]:
    """Checks of cases that are known exactly; and the control among them."""
    found = exact.rescalings() | exact.diffusion() | exact.oscillators(samples=100 if quick else 300)
    if quick:
        return found, {}
    volumes, control = exact.ideal_gas()
    return found | exact.cluster() | volumes, {"volumes of N - 1 free atoms": control}


def summary(results: dict, quick: bool) -> dict:
    """The keys that the issue asks for."""
    every = [abs(v) for group in results["checks"].values() for k, v in group.items() if k != "samples"]
    keys = {
        "worst_sigma": max(every),
        "checks": len(every),
        "controls_caught": bool(results["controls"]) and all(v > 3.5 for v in results["controls"].values()),
        "controls": len(results["controls"]),
        "quick": quick,
        "device": jax.devices()[0].device_kind,
    }
    if results["eos"]:
        keys["eos_worst_sigma"] = max(abs(state["sigma"]) for state in results["eos"])
    return keys


def save(results: dict, quick: bool) -> None:
    """Keep what there is, so that a run that is stopped goes on from there."""
    if not quick:
        RESULTS.write_text(json.dumps(results | {"summary": summary(results, quick)}, indent=1, default=float) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="exact cases, and one thermostat on Lennard-Jones")
    parser.add_argument("--resume", action="store_true", help="keep what results.json has already")
    options = parser.parse_args()
    quick = options.quick
    jax.config.update("jax_enable_x64", True)
    results: dict = {"checks": {}, "controls": {}, "eos": []}
    if options.resume and RESULTS.exists():
        results |= {k: v for k, v in json.loads(RESULTS.read_text()).items() if k in results}
    begun = time.time()

    def say(label, found):
        print(f"{time.time() - begun:7.1f} s  {label}: {json.dumps(found, default=float)}", flush=True)
        save(results, quick)

    if "exact" not in results["checks"]:
        results["checks"]["exact"], more = exactly(quick)
        results["controls"] |= more
        say("exact", results["checks"]["exact"])
    for system, case in cases().items():
        if quick and system != "lj":
            continue
        bench = Bench(case, replicas=64, samples=100 if quick else 200)
        names = ["csvr"] if quick else list(integrators(case, 1.0, 0.0))
        for name in names:
            label = f"{system} {name}"
            if label not in results["checks"] or name == "langevin":
                results["checks"][label] = measure(name, bench)
                say(label, results["checks"][label])
        if quick:
            record = bench.sample(CSVR(case["fs"] * units.fs, 40.0, 100.0 * units.fs), 40.0, 202)
            wrong = kinetic(record, 24, 40.0)
            results["controls"]["3N degrees of freedom counted for 3N - 3"] = abs(wrong["kinetic mean"])
        elif f"{system}: Berendsen thermostat" not in results["controls"]:
            results["controls"] |= {f"{system}: {k}": v for k, v in controls(bench).items()}
            say(f"{system} controls", {k: v for k, v in results["controls"].items() if k.startswith(system)})
    if not quick and not results["eos"]:
        results["eos"] = equation_of_state(replicas=16, samples=400)
        say("equation of state", results["eos"])
    keys = summary(results, quick)
    save(results, quick)
    print(json.dumps(keys, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
