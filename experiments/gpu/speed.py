"""How fast: steps of dynamics and single evaluations, over sizes, and which part of the device's limit that is."""

import json
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, crystal
from jax import lax
from limits import cost, medians

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.energy.base import cast
from jaxmlip.graph.neighbors import grow
from jaxmlip.simulate import NVE, State, run
from jaxmlip.simulate.state import evaluate, replace

PATIENCE = 2.0  # no larger system where one evaluation would take longer [s]


@eqx.filter_jit
def advance(integrator: NVE, energy: AbstractEnergy, state: State, steps: int) -> tuple[State, jax.Array]:
    """NVE in one scan, the neighbor list carried; and how often the list was made anew."""

    def step(state, _):
        after = integrator.step(energy, state)
        old, new = (s.neighbors.reference_positions[0] for s in (state, after))
        return after, jnp.any(old != new)

    state, rebuilt = lax.scan(step, state, length=steps)
    return state, jnp.sum(rebuilt)


class Bench:
    """One energy with one system in motion: compiled, warm, ready to be timed."""

    def __init__(self, case: Case, times: int, capacity: int | None, most: int):
        system = crystal(case, times, jnp.float32, rattle=0.0)
        self.energy, self.integrator = cast(case.energy, jnp.float32), NVE(case.timestep_fs * units.fs)
        how = {"key": jax.random.key(1), "temperature": 2 * case.temperature, "capacity": capacity}
        self.state = self.integrator.init(self.energy, system, **how)
        once = medians({"evaluate": self.evaluate}, 1)["evaluate"]
        self.steps = int(np.clip(PATIENCE / 4 / once, 5, most))
        start = time.perf_counter()
        advance.lower(self.integrator, self.energy, self.state, self.steps).compile()
        self.compile_seconds = time.perf_counter() - start
        state, _ = self.advance()
        while bool(state.neighbors.failed):
            larger = grow(state.neighbors, self.state.system)
            self.state = replace(self.state, neighbors=larger)
            state, _ = self.advance()
        self.state = state

    def evaluate(self):
        return eqx.filter_jit(evaluate)(self.energy, self.state.system, self.state.neighbors)

    def advance(self):
        return advance(self.integrator, self.energy, self.state, self.steps)

    def run(self):
        return run(self.integrator, self.energy, self.state, steps=self.steps, every=self.steps)[0]

    def measure(self, limits: dict[str, float], quick: bool) -> dict:
        """Medians in turns of an evaluation, of the scan and (not in a quick run) of `simulate.run`."""
        thunks = {"evaluate": self.evaluate, "advance": self.advance, **({} if quick else {"run": self.run})}
        taken = medians(thunks, 3 if quick else 7)
        evaluation, step, atoms = taken["evaluate"], taken["advance"] / self.steps, len(self.state.system.numbers)
        last, rebuilds = self.advance()
        if bool(last.neighbors.failed) or not bool(jnp.all(jnp.isfinite(last.forces))):
            raise FloatingPointError(f"the timed steps are not valid for {atoms} atoms")
        asked = cost(evaluate, self.energy, self.state.system, self.state.neighbors)
        return {
            "ms_per_step": 1e3 * step,
            "ms_per_evaluation": 1e3 * evaluation,
            "ns_per_day_at_1_fs": 86400 * 1e-6 / step,
            "atom_steps_per_s": atoms / step,
            **({"ms_per_step_of_run": 1e3 * taken["run"] / self.steps} if "run" in taken else {}),
            "bandwidth_fraction": 1e-9 * asked["bytes"] / evaluation / limits["copy_GB_s"],
            "flop_fraction": 1e-9 * asked["flops"] / evaluation / limits["matmul_highest_GFLOP_s"],
            **asked,
            "steps": self.steps,
            "rebuilds": int(rebuilds),
            "neighbor_slots": self.state.neighbors.capacity,
            "compile_s": self.compile_seconds,
        }


def speed(name: str, case: Case, sizes: tuple[int, ...], limits: dict, quick: bool) -> dict[str, dict | str]:
    """Times of one energy, size by size; and under "stopped" why it went no further."""
    results: dict[str, dict | str] = {}
    capacity, patience = None, 0.0
    for times in sizes:
        atoms = 8 * times**3
        if patience * atoms > PATIENCE:
            return {**results, "stopped": f"{atoms} atoms: an evaluation would take more than {PATIENCE} s"}
        try:
            bench = Bench(case, times, capacity, 5 if quick else 100)
            found = bench.measure(limits, quick)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
                raise
            return {**results, "stopped": f"{atoms} atoms: out of memory"}
        results[str(atoms)] = found
        capacity, patience = found["neighbor_slots"], 1e-3 * found["ms_per_evaluation"] / atoms
        print(f"{name} {atoms}: {json.dumps(found)}", flush=True)
    return results
