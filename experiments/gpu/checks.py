"""The same numbers on every device, and dynamics that keeps energy and momentum there."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, crystal

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces_stress
from jaxmlip.energy.base import cast
from jaxmlip.graph import batch
from jaxmlip.observables.statistics import drift
from jaxmlip.simulate import NVE, State, run
from jaxmlip.simulate.state import evaluate

derivatives = eqx.filter_jit(energy_forces_stress)


def parity(case: Case, name: str, accelerator: bool) -> dict[str, dict[str, float]]:
    """Largest differences from float64 on the CPU, for 64 atoms, by float type and precision of matrix products."""
    variants = [("float32", None)]
    if accelerator:
        variants += [("float32", "highest")] + ([] if name == "nequip" else [("float64", None)])
    with jax.enable_x64(True):
        graph = batch(crystal(case, 2, jnp.float64), case.energy.cutoff)
        wanted = values(cast(case.energy, jnp.float64), graph, jax.devices("cpu")[0])
        result = {}
        for dtype, precision in variants:
            chosen = jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()
            with chosen:
                low = graph.astype(jnp.dtype(dtype))
                got = values(cast(case.energy, dtype), low, jax.devices()[0])
            largest = [float(np.max(np.abs(x - y))) for x, y in zip(got, wanted, strict=True)]
            names = ("max_energy_diff_eV_atom", "max_force_diff_eV_A", "max_stress_diff_eV_A3")
            result[dtype + (f", matmul {precision}" if precision else "")] = dict(zip(names, largest, strict=True))
    return result


def values(energy: AbstractEnergy, graph, device) -> tuple[np.ndarray, ...]:
    """Energy of an atom, forces and stress, computed on `device`."""
    found = jax.device_get(derivatives(*jax.device_put((energy, graph), device)))
    return found.energy.astype(np.float64) / len(graph.numbers), found.forces, found.stress


class Total(eqx.Module):
    """Total energy [eV] in float64 at the positions and momenta as they are, whatever the precision of the run."""

    energy: AbstractEnergy

    def __call__(self, state: State):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
        potential, _ = evaluate(self.energy, wide.system, wide.neighbors)
        return potential + 0.5 * jnp.sum(wide.momenta**2 / wide.system.masses[:, None])


def conservation(case: Case, times: int, steps: int) -> dict[str, float]:
    """Drift of the energy in float32 with its standard error, and the total momentum over the sum of its parts."""
    with jax.enable_x64(True):
        energy, every = cast(case.energy, jnp.float32), max(1, steps // 800)
        watch = Total(cast(case.energy, jnp.float64))
        integrator = NVE(case.timestep_fs * units.fs)
        system = crystal(case, times, jnp.float32)
        state = integrator.init(energy, system, key=jax.random.key(1), temperature=2 * case.temperature)
        state, total = run(integrator, energy, state, steps=steps, every=every, observe=watch)
    total = total[len(total) // 10 :]  # by then the crystal has forgotten its perfect start
    ps = np.arange(1, len(total) + 1) * every * case.timestep_fs * 1e-3
    slope = drift(ps, 1e3 * (total - total[0]) / len(system.numbers))
    momenta = np.asarray(state.momenta, np.float64)
    return {
        "drift_meV_atom_ps": slope.value,
        "stderr": slope.stderr,
        "momentum_relative": float(np.abs(momenta.sum(axis=0)).max() / np.abs(momenta).sum()),
        "atoms": len(system.numbers),
        "ps": steps * case.timestep_fs * 1e-3,
    }
