"""Static gradients of Lennard-Jones argon by reweighting, against finite differences of independent long runs."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.learn.check_gradient import Check, check_gradient, table
from jaxmlip.learn.diagnostics import estimate, rhats, sigmas
from jaxmlip.learn.mixture import Mixture, mix
from jaxmlip.learn.reweight import max_step, replica_gradients, reweight
from jaxmlip.learn.sampler import StatePoint, sample
from jaxmlip.observables.distributions import RadialDistribution
from jaxmlip.observables.static import Pressure
from jaxmlip.observables.statistics import Estimate
from jaxmlip.system import System, make_system

FULL = Path(__file__).resolve().parent / "results.json"
SIGMA, EPSILON = 3.405, 119.8 * units.kB  # Å, eV
TAU = SIGMA * (39.948 / EPSILON) ** 0.5
DENSITY, TEMPERATURE = 0.8442, 0.72  # reduced
STEPS = {"sigma": 0.01, "epsilon": 0.1}  # of the finite differences, as parts of the parameters
LONGER = {"sigma": 2, "epsilon": 1}  # small steps need many frames
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def argon() -> LennardJones:
    """Cut at 2.5 sigma, smoothly from 2 sigma on."""
    return LennardJones(EPSILON, SIGMA, cutoff=2.5 * SIGMA, onset=0.8)


def box() -> System:
    """108 atoms; they are molten before anything is measured."""
    length = (108 / DENSITY) ** (1 / 3) * SIGMA
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    return make_system((grid + FCC[None]).reshape(-1, 3) * length / 3, [18] * 108, cell=[length] * 3)


def state_point(**changes) -> StatePoint:
    kelvin = EPSILON / units.kB
    settings = {"timestep": 0.005 * TAU, "friction": 1.0 / TAU, "melt": 3.0 * kelvin, "stride": 20} | changes
    return StatePoint(box(), TEMPERATURE * kelvin, **settings)


class ReducedPressure(Pressure):
    """In units of epsilon / sigma³ of argon, which do not change with the parameters."""

    def reduce(self, values, weights, conditions):
        return Pressure.reduce(self, values, weights, conditions) * (SIGMA**3 / EPSILON)


def observables() -> dict:
    """The pressure, and g(r) at 1.1 sigma in a bin of 0.05 sigma."""
    edges = np.array([1.075, 1.125]) * SIGMA
    return {"pressure": ReducedPressure(), "g(1.1)": RadialDistribution(edges, width=0.02 * SIGMA)}


class Runs:
    """Independent runs at given parameters, each made once, and the worst split R-hat among them."""

    def __init__(self, states=None):
        self.states, self.made, self.worst = states, {}, 1.0

    def __call__(self, energy: LennardJones, point: StatePoint, key) -> Mixture:
        name = float(energy.sigma), float(energy.epsilon)
        if name not in self.made:
            mixture = mix([sample(energy, point, key=key, states=self.states)])
            found = rhats(observables(), energy, mixture)
            self.worst = max(self.worst, *found.values())
            print(f"sigma {name[0] / SIGMA:.3f} epsilon {name[1] / EPSILON:.3f}: R-hat {found}", flush=True)
            self.made[name] = mixture
        return self.made[name]


def directions(energy: LennardJones) -> dict:
    """One parameter at a time, by its own size."""
    nothing = jax.tree.map(jnp.zeros_like, eqx.filter(energy, eqx.is_inexact_array))
    return {
        "sigma": eqx.tree_at(lambda e: e.sigma, nothing, energy.sigma),
        "epsilon": eqx.tree_at(lambda e: e.epsilon, nothing, energy.epsilon),
    }


def static_gradients(quick: bool, *, gradient_frames: int = 1500, difference_frames: int = 800) -> dict:
    """Gradients of the pressure and of g(1.1 sigma), in reduced units, with errors and finite differences.

    `quick` samples little and takes the finite differences of the last full run from `results.json`.
    """
    start = time.monotonic()
    replicas, frames, burn_in = (4, 20, 200) if quick else (8, gradient_frames, 2000)
    energy = argon()
    point = state_point(replicas=replicas, frames=frames, burn_in=burn_in)
    samples = sample(energy, point, key=jax.random.key(0))
    mixture = mix([samples])
    result = described(energy, mixture, {} if quick else directions(energy))
    gradients = {
        name: replica_gradients(lambda means, name=name: jnp.sum(means[name]), observables(), energy, mixture)
        for name in observables()
    }
    result["minutes_gradient"] = (time.monotonic() - start) / 60
    known = json.loads(FULL.read_text())["static"] if quick and FULL.exists() else None
    runs = Runs(samples.states)
    settings = {"replicas": replicas, "burn_in": burn_in, "frames": difference_frames}
    checks = []
    for name in gradients:
        for parameter, direction in directions(energy).items():
            if known is None and quick:
                continue
            found = _check(name, parameter, direction, energy, gradients[name], runs, settings, known)
            checks.append(found)
            result |= _row(found)
    print(table(checks))
    result["settings"] = {"gradient_frames": frames} | ({} if quick else settings | {"steps": STEPS, "longer": LONGER})
    result["rhat_differences"] = None if quick else runs.worst
    result["static_worst_sigma"] = max((c.sigmas for c in checks), default=float("nan"))
    result["static_worst_stderr"] = max((c.relative_stderr for c in checks), default=float("nan"))
    result["static_minutes"] = (time.monotonic() - start) / 60
    return result


def described(energy: LennardJones, mixture: Mixture, along: dict) -> dict:
    """What the samples are worth: averages, agreement of the replicas, the law of the effective number of frames."""
    found = estimate(observables(), energy, mixture)
    result = {f"{name}": [float(np.sum(found.value[name])), float(np.sum(found.stderr[name]))] for name in found.value}
    result["rhat"] = rhats(observables(), energy, mixture)
    for name, direction in along.items():
        step = float(max_step(energy, direction, mixture, ess=0.5))
        moved = jax.tree.map(lambda e, d, s=step: e if d is None else e + s * d, energy, direction)
        result[f"step_{name}"] = step
        result[f"ess_at_step_{name}"] = float(reweight(moved, mixture).effective) / len(mixture.frames)
    return result


def _check(name, parameter, direction, energy, gradients, runs: Runs, settings: dict, known: dict | None) -> Check:
    """One derivative, against runs made now or those of the last full run."""
    if known is None:
        point = state_point(**settings | {"frames": LONGER[parameter] * settings["frames"]})

        def value(energy, key):
            found = estimate(observables(), energy, runs(energy, point, key))
            return Estimate(float(np.sum(found.value[name])), float(np.sum(found.stderr[name])))

        options = {"key": jax.random.key(1), "directions": {parameter: direction}, "step": STEPS[parameter]}
        check = check_gradient(value, lambda *_: gradients, energy, **options)[0]
        return check._replace(name=f"d {name} / d {parameter}")
    size = float(getattr(energy, parameter))
    along = np.array([float(getattr(g, parameter)) * size for g in gradients])
    mine = Estimate(float(along.mean()), float(along.std(ddof=1) / np.sqrt(len(along))))
    theirs = Estimate(*known[f"d {name} / d {parameter} difference"])
    off = sigmas(mine.value - theirs.value, float(np.hypot(mine.stderr, theirs.stderr)))
    return Check(f"d {name} / d {parameter}", mine, theirs, off)


def _row(check: Check) -> dict:
    return {
        check.name: [check.gradient.value, check.gradient.stderr],
        f"{check.name} difference": [check.difference.value, check.difference.stderr],
        f"{check.name} sigmas": check.sigmas,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few frames; finite differences of the last full run")
    parser.add_argument("--gradient-frames", type=int, default=1500, help="frames of each of eight replicas")
    parser.add_argument(
        "--difference-frames", type=int, default=800, help="the same for finite differences (twice for sigma)"
    )
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    frames = {"gradient_frames": options.gradient_frames, "difference_frames": options.difference_frames}
    result = static_gradients(options.quick, **frames)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
