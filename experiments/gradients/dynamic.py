"""Gradients of a time correlation, the explosion of plain backpropagation, and the memory of adjoints: liquid argon.

`run.py` calls `dynamic_gradients`, `explosion` and `memory`; here they run alone:
`python experiments/gradients/dynamic.py [--quick]`, last line JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones, energy_forces_virial
from jaxmlip.graph.neighbors import allocate
from jaxmlip.learn.adjoint import AbstractAdjoint, Checkpoint, Forward, Reversible, Start, StoreAll, Window, follow
from jaxmlip.learn.sampler import Samples, StatePoint, sample, samples_from
from jaxmlip.learn.windows import Starts, make_starts, window_gradient, window_values
from jaxmlip.observables.correlations import Diffusion, VelocityAutocorrelation
from jaxmlip.observables.static import Conditions
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.state import with_positions
from jaxmlip.system import System, make_system

EPSILON, SIGMA, MASS = 119.8 * units.kB, 3.405, 39.948
TAU = SIGMA * (MASS / EPSILON) ** 0.5  # 2.156 ps
KELVIN, DENSITY, TIMESTEP = 0.72 * 119.8, 0.8442, 0.005 * TAU
REDUCED_D = SIGMA**2 / TAU
EXPONENT = 1.6 / units.ps  # largest Lyapunov exponent of this liquid, for quick runs


def argon(epsilon: float = 1.0, sigma: float = 1.0) -> LennardJones:
    """Argon with its parameters times these, cut off at 2.5 of the unchanged diameters."""
    return LennardJones(
        jnp.asarray(epsilon * EPSILON, jnp.float64), jnp.asarray(sigma * SIGMA, jnp.float64), cutoff=2.5 * SIGMA
    )


def crystal(repeat: int) -> System:
    """Face-centered cubic argon at the density of the liquid."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    grid = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    side = (4.0 / DENSITY) ** (1.0 / 3.0) * SIGMA
    positions = ((grid + corners[None]) * side).reshape(-1, 3)
    atoms = len(positions)
    return make_system(positions, [18] * atoms, cell=[repeat * side] * 3, masses=[MASS] * atoms, dtype=jnp.float64)


def point() -> StatePoint:
    """The liquid near its triple point, molten at three times the temperature first."""
    sizes = {"replicas": 8, "frames": 120, "stride": 100, "burn_in": 3000}
    return StatePoint(crystal(3), KELVIN, timestep=TIMESTEP, melt=3.0 * KELVIN, **sizes)


@functools.cache
def liquid(quick: bool, epsilon: float = 1.0, sigma: float = 1.0) -> Samples:
    """Frames of an ensemble of its own for each pair of parameters; quick: a shaken crystal, which is no ensemble."""
    energy = argon(epsilon, sigma)
    if not quick:
        return sample(energy, point(), key=jax.random.key(round(1e4 * (epsilon + 10.0 * sigma))))
    system, frames = crystal(2), 16
    shaken = system.positions + 0.2 * jax.random.normal(jax.random.key(0), (frames, *system.positions.shape))
    cells = jnp.broadcast_to(system.cell, (frames, 3, 3))
    return samples_from(energy, system, shaken, cells, Conditions(jnp.asarray(KELVIN, jnp.float64)))


def starts(quick: bool, epsilon: float = 1.0, sigma: float = 1.0, exponent: float | None = None) -> Starts:
    """Windows of 1.7 ps around each frame (quick: 0.2 ps)."""
    window = Window(TIMESTEP, 10 if quick else 80, rebuild=10 if quick else 16)
    known = EXPONENT if quick else exponent
    samples = liquid(quick, epsilon, sigma)
    return make_starts(argon(epsilon, sigma), [samples], window, key=jax.random.key(7), exponent=known)


class Diffusions(VelocityAutocorrelation):
    """The running integral at half and at all of the window's lags."""

    def reduce(self, series, interval, conditions):
        curve = Diffusion(running=True).reduce(series, interval, conditions)
        return jnp.stack([curve[len(curve) // 2], curve[-1]])


def dynamic_gradients(quick: bool) -> dict:
    """dD/dsigma and dD/depsilon of argon against separately equilibrated ensembles, in reduced units."""
    base = starts(quick)
    adjoint, paths, blocks = Forward(), (8 if quick else 480), (4 if quick else 24)
    found = window_gradient(Diffusions(), argon(), base, adjoint=adjoint, paths=paths, blocks=blocks)
    reach = 2.0 * float(base.window.reach) / units.ps
    result: dict = {
        "windows_ps": [0.5 * reach, reach],
        "lyapunov_per_ps": float(base.exponent) * units.ps,
        "D": _pairs(found.value, found.stderr, REDUCED_D),
        "starts": len(base),
        "paths": paths,
    }
    differences = {} if quick else {"sigma": 0.02, "epsilon": 0.15}
    worst = []
    for name, scale in (("sigma", SIGMA), ("epsilon", EPSILON)):
        unit = REDUCED_D / scale
        for part in ("gradient", "path", "start"):
            values, errors = (getattr(getattr(found, key), name) for key in (part, f"{part}_stderr"))
            result[f"dD_d{name}_{part}"] = _pairs(values, errors, unit)
        if name in differences:
            slope, error = _difference(quick, name, differences[name], float(base.exponent))
            result[f"dD_d{name}_difference"] = _pairs(slope, error, REDUCED_D)
            mine, wrong = getattr(found.gradient, name) / unit, getattr(found.gradient_stderr, name) / unit
            worst += list(np.abs(mine - slope / REDUCED_D) / np.hypot(wrong, error / REDUCED_D))
    if worst:
        result["dynamic_worst_sigma"] = float(max(worst))
    return result | _scaling(base, found, blocks)


def _difference(quick: bool, name: str, step: float, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Central difference of D by the relative change of a parameter, each side with its own ensemble."""
    sides = []
    for sign in (1.0, -1.0):
        factors = {name: 1.0 + sign * step}
        own = starts(quick, **factors, exponent=exponent)
        values = np.asarray(window_values(Diffusions(), argon(**factors), own))
        blocks = values.reshape(24, -1, values.shape[1]).mean(axis=1)
        sides.append((values.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks))))
    (high, high_error), (low, low_error) = sides
    return (high - low) / (2.0 * step), np.hypot(high_error, low_error) / (2.0 * step)


def _scaling(base: Starts, found, blocks: int) -> dict:
    r"""The exact identity from the scaling of energies, without finite differences of ensembles.

    With $\epsilon \to c \epsilon$, $T \to c T$ and $dt \to c^{-1/2} dt$ the diffusion coefficient grows by $c^{1/2}$:
    $\epsilon \partial_\epsilon D + T \partial_T D - \frac{1}{2} dt \, \partial_{dt} D = \frac{1}{2} D$. The derivative
    by T is $\beta \, \mathrm{cov}(A, H)$, that by dt is taken on the same starts. As U is in proportion to epsilon the
    potential part cancels, and of H the kinetic energy is left beside the gradient along the path.
    """
    kT, masses = float(base.mixture.conditions.kT), base.mixture.frames.system.masses
    values = np.asarray(window_values(Diffusions(), argon(), base))
    kinetic = np.asarray(jax.vmap(lambda p: kinetic_energy(p, masses))(base.momenta))
    shifted = []
    for change in (1e-4, -1e-4):
        moved = eqx.tree_at(lambda s: s.window.timestep, base, base.window.timestep * (1.0 + change))
        shifted.append(np.asarray(window_values(Diffusions(), argon(), moved)))
    by_timestep = (shifted[0] - shifted[1]) / 2e-4
    covariance = (values - values.mean(axis=0)) * (kinetic - kinetic.mean())[:, None] / kT
    rest = covariance - 0.5 * by_timestep - 0.5 * values
    used = blocks * (len(rest) // blocks)
    means = rest[:used].reshape(blocks, -1, rest.shape[1]).mean(axis=1)
    path, error = found.path.epsilon * EPSILON, found.path_stderr.epsilon * EPSILON
    residual = path + means.mean(axis=0)
    errors = np.hypot(error, means.std(axis=0, ddof=1) / np.sqrt(blocks))
    return {
        "scaling_residual": _pairs(residual, errors, REDUCED_D),
        "scaling_worst_sigma": float(np.max(np.abs(residual) / errors)),
    }


def _pairs(values: np.ndarray, errors: np.ndarray, unit: float) -> list:
    """Numbers with their standard errors, for JSON."""
    return [[float(v / unit), float(e / unit)] for v, e in zip(values, errors, strict=True)]


class Pressure(eqx.Module):
    """Instantaneous pressure [eV/Å³]."""

    def __call__(self, energy, graph, momenta, masses):
        virial = energy_forces_virial(energy, graph)[2][0]
        return (2.0 * kinetic_energy(momenta, masses) + jnp.trace(virial)) / (3.0 * graph.volume()[0])


def explosion(quick: bool) -> dict:
    """dP/dsigma of a time average by plain backpropagation, against the length of the path; reduced units.

    Forward mode along one path gives the derivative at each time, and so that of the averages over all shorter paths:
    the same numbers that backpropagation gives.
    """
    samples = liquid(quick)
    count, steps, every = (4, 40, 10) if quick else (10, 800, 20)
    window = Window(TIMESTEP, steps, every=every, rebuild=10, both_ways=False)
    key, known = jax.random.key(11), EXPONENT if quick else None
    base = make_starts(argon(), [samples], window, key=key, exponent=known, allow_chaotic=True)
    system = samples.frames.system
    neighbors = allocate(with_positions(system, samples.frames.positions[0]), argon().cutoff, skin=2.0)

    @jax.jit
    def slopes(positions, momenta):
        def along(sigma):
            start = Start(with_positions(system, positions), momenta, neighbors)
            energy = eqx.tree_at(lambda e: e.sigma, argon(), sigma)
            return follow(energy, Pressure(), start, window, Forward())

        sigma = jnp.asarray(SIGMA, jnp.float64)
        _, slope, flags = jax.jvp(along, (sigma,), (jnp.ones_like(sigma),), has_aux=True)
        return slope, flags.failed

    chosen = np.linspace(0, len(samples.frames) - 1, count).astype(int)
    found = [slopes(samples.frames.positions[i], base.momenta[i]) for i in chosen]
    if any(bool(failed) for _, failed in found):
        raise RuntimeError("A neighbor list did not last: raise its skin or rebuild more often.")
    by_time = np.stack([np.asarray(slope) for slope, _ in found]) * SIGMA**4 / EPSILON
    averages = np.cumsum(by_time, axis=1) / np.arange(1, by_time.shape[1] + 1)
    times = np.arange(by_time.shape[1]) * every * TIMESTEP / units.ps
    late = averages.std(axis=0, ddof=1)
    half = len(late) // 2
    return {
        "times_ps": times.tolist(),
        "dP_dsigma_mean": averages.mean(axis=0).tolist(),
        "dP_dsigma_std": late.tolist(),
        "growth_per_ps": float(np.polyfit(times[half:], np.log(late[half:]), 1)[0]),
        "lyapunov_per_ps": float(base.exponent) * units.ps,
        "paths": count,
    }


class Kinetic(eqx.Module):
    """Kinetic energy [eV]: one number a moment, so that what is kept of a path is the adjoint's own."""

    def __call__(self, energy, graph, momenta, masses):
        return kinetic_energy(momenta, masses)


def memory(quick: bool) -> dict:
    """Temporary memory of the compiled gradient [MB] and its time [s], against the steps of a window."""
    system = crystal(2 if quick else 3)
    momenta = jnp.zeros_like(system.positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adjoints = {"plain": StoreAll(), "checkpoint": Checkpoint(), "reversible": Reversible()}
    lengths = [20] if quick else [80, 320, 1280, 5120, 20480]
    adjoints = {"checkpoint": Checkpoint()} if quick else adjoints
    start = Start(system, momenta, allocate(system, argon().cutoff, skin=1.5))
    result: dict = {"steps": lengths, "atoms": len(momenta)}
    for name, adjoint in adjoints.items():
        programs = {steps: _gradient_program(adjoint, start, steps) for steps in lengths}
        result[f"{name}_MB"] = [programs[n].memory_analysis().temp_size_in_bytes / 1e6 for n in lengths]
        timed = lengths[min(1, len(lengths) - 1)]
        programs[timed](argon(), start)
        begin = time.perf_counter()
        jax.block_until_ready(programs[timed](argon(), start))
        result[f"{name}_seconds_at_{timed}"] = time.perf_counter() - begin
    return result


def _gradient_program(adjoint: AbstractAdjoint, start: Start, steps: int):
    """The compiled gradient of the mean kinetic energy of a window by both parameters."""
    window = Window(TIMESTEP, steps, rebuild=20, both_ways=False)

    @jax.jit
    def gradient(energy: AbstractEnergy, start: Start):
        learned, rest = eqx.partition(energy, eqx.is_inexact_array)

        def mean(learned):
            return jnp.mean(follow(eqx.combine(learned, rest), Kinetic(), start, window, adjoint)[0])

        return adjoint.pull_back(mean, learned, jnp.ones(()))

    return gradient.lower(argon(), start).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, no finite differences: seconds")
    parser.add_argument("--only", nargs="+", default=["dynamic", "explosion", "memory"])
    settings = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", settings.quick)  # it is the compiler that takes the time
    parts = {"dynamic": dynamic_gradients, "explosion": explosion, "memory": memory}
    summary = {}
    for name in settings.only:
        begin = time.perf_counter()
        summary[name] = parts[name](settings.quick)
        summary[name]["seconds"] = time.perf_counter() - begin
        print(name, json.dumps(summary[name]), flush=True)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
