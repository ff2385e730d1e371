"""The melting temperature of Lennard-Jones atoms: by coexistence, and how it follows from the parameters.

Where lengths and energies are measured in sigma and epsilon nothing else is left, so without pressure T_m goes with
epsilon and not with sigma. `run.py` calls `melting`; alone: `python experiments/gradients/melting.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.graph import Graph
from jaxmlip.learn.diagnostics import rhats
from jaxmlip.learn.free_energies import melting_temperature
from jaxmlip.learn.mixture import mix
from jaxmlip.learn.sampler import Samples, StatePoint, replicas_of, sample
from jaxmlip.observables.static import Density, Enthalpy
from jaxmlip.simulate import CoexistenceSettings, coexistence
from jaxmlip.system import System, make_system

EPSILON, SIGMA, MASS = 119.8 * units.kB, 3.405, 39.948
TAU = SIGMA * (MASS / EPSILON) ** 0.5
KELVIN = EPSILON / units.kB
TRUNCATED = 0.66  # kT / epsilon at which atoms cut at 2.5 sigma melt, about: where quick runs sample
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


class Corresponding(AbstractEnergy):
    """Lennard-Jones atoms whose truncation is a length in units of sigma, so that it moves with it."""

    epsilon: Float[Array, ""]
    sigma: Float[Array, ""]
    unit: LennardJones
    cutoff: float = eqx.field(static=True, default=2.6 * SIGMA)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        scale = (SIGMA / self.sigma).astype(dtype)
        scaled = eqx.tree_at(lambda g: (g.positions, g.cell), graph, (graph.positions * scale, graph.cell * scale))
        frozen = jax.lax.stop_gradient(self.unit)
        return (self.epsilon / EPSILON).astype(dtype) * frozen(scaled)


def argon(dtype=np.float32) -> Corresponding:
    """Cut at 2.5 sigma, smoothly from 2 sigma on."""
    unit = LennardJones(EPSILON, SIGMA, cutoff=2.5 * SIGMA, onset=0.8)
    return Corresponding(jnp.asarray(EPSILON, dtype), jnp.asarray(SIGMA, dtype), unit)


def crystal(repeats: tuple[int, int, int], density: float = 0.95) -> System:
    """Face-centered cubic, of so many sigma³ per atom."""
    edge = (4.0 / density) ** (1.0 / 3.0) * SIGMA
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in repeats], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + FCC[None]) * edge).reshape(-1, 3)
    return make_system(positions, [18] * len(positions), cell=[n * edge for n in repeats], dtype=np.float32)


def phase(energy: Corresponding, reduced: float, *, molten: bool, quick: bool) -> Samples:
    """Frames at no pressure, of several replicas."""
    sizes = {"replicas": 4, "frames": 30, "burn_in": 600} if quick else {"replicas": 8, "frames": 1000, "burn_in": 4000}
    point = StatePoint(
        crystal((2, 2, 2) if quick else (4, 4, 4)),
        reduced * KELVIN,
        pressure=0.0,
        timestep=0.005 * TAU,
        stride=20,
        friction=1.0 / TAU,
        barostat_period=0.5 * TAU,
        compressibility=0.05 * SIGMA**3 / EPSILON,
        melt=2.5 * KELVIN if molten else None,
        **sizes,
    )
    return sample(energy, point, key=jax.random.key(3 + molten))


def coexisting(energy: Corresponding) -> dict:
    """The melting temperature from guesses on either side."""
    found = {}
    for guess in (0.65, 0.67):
        settings = CoexistenceSettings(
            guess * KELVIN,
            timestep=0.005 * TAU,
            prepare=3000,
            steps=60_000,
            friction=1.0 / TAU,
            barostat_period=TAU,
            compressibility=0.05 * SIGMA**3 / EPSILON,
        )
        result = coexistence(energy, crystal((4, 4, 12)), settings, key=jax.random.key(round(100 * guess)))
        found[guess] = {
            "reduced": result.temperature.value / KELVIN,
            "stderr": result.temperature.stderr / KELVIN,
            "crystalline": [float(x) for x in (result.crystalline[:150].mean(), result.crystalline[-150:].mean())],
        }
        print(f"coexistence from {guess}: {found[guess]}", flush=True)
    values = [f["reduced"] for f in found.values()]
    return {"runs": found, "reduced": float(np.mean(values)), "stderr": float(abs(values[0] - values[1]) / 2.0)}


def melting(quick: bool) -> dict:
    """T_m, and its logarithmic derivatives by epsilon (1 exactly) and sigma (0 exactly)."""
    start, energy = time.monotonic(), argon()
    together = None if quick else coexisting(energy)
    reduced = TRUNCATED if together is None else together["reduced"]
    phases = {name: phase(energy, reduced, molten=name == "liquid", quick=quick) for name in ("solid", "liquid")}
    result: dict = {
        "reduced_temperature": reduced,
        "coexistence": together,
        "atoms": len(phases["solid"].frames.system.numbers),
    }
    observables = {"density": Density(), "enthalpy": Enthalpy()}
    for name, samples in phases.items():
        result[f"rhat_{name}"] = max(rhats(observables, energy, mix([samples])).values())
    slopes = []
    for solid, liquid in zip(*(replicas_of(phases[name]) for name in ("solid", "liquid")), strict=True):
        gradient = jax.grad(melting_temperature)(energy, mix([solid]), mix([liquid]))
        slopes.append([float(gradient.epsilon) * EPSILON, float(gradient.sigma) * SIGMA])
    slopes = np.array(slopes) / (reduced * KELVIN)
    for name, values in zip(("dlnTm_dlneps", "dTm_dsigma"), slopes.T, strict=True):
        result[name] = float(values.mean())
        result[f"{name}_stderr"] = float(values.std(ddof=1) / np.sqrt(len(values)))
    moved = eqx.tree_at(lambda e: e.epsilon, energy, energy.epsilon * 1.02)
    mixtures = mix([phases["solid"]]), mix([phases["liquid"]])
    result["Tm_at_1.02_eps"] = float(melting_temperature(moved, *mixtures)) / (reduced * KELVIN)
    return result | {"melting_minutes": (time.monotonic() - start) / 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="32 atoms, few frames, no coexistence")
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(melting(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
