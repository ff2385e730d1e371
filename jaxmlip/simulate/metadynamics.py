"""Runs in which a bias grows: steps, a hill, steps, a hill."""

from __future__ import annotations

import equinox as eqx

from jaxmlip.energy import AbstractEnergy, Metadynamics, deposit
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.simulate.guards import Guards
from jaxmlip.simulate.integrator import AbstractIntegrator
from jaxmlip.simulate.run import run
from jaxmlip.simulate.state import State, evaluate, replace


def run_metadynamics(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    bias: Metadynamics,
    state: State,
    *,
    hills: int,
    every: int,
    guards: Guards | None = Guards(),  # noqa: B008
) -> tuple[State, Metadynamics]:
    """`hills` times: `every` steps with `energy + bias`, then a hill where the system has come.

    The bias is an argument of the compiled steps, so nothing is compiled again while it grows. State and bias are all
    that a continuation needs: saved and given again, the run goes on as if it had not stopped. For other schedules (a
    writer, observables, several walkers) copy the three lines of the loop.

    **Raises:** `ValueError` where the bias has no room for the hills; what `run` raises.
    """
    if hills < 0 or int(bias.count) + hills > bias.capacity:
        left = bias.capacity - int(bias.count)
        raise ValueError(f"The bias has room for {left} more hills, not {hills}: see `enlarge`.")
    for _ in range(hills):
        state, _ = run(integrator, energy + bias, state, steps=every, every=every, guards=guards)
        bias = deposit(bias, to_graph(state.neighbors, state.system))
        state = with_energy(energy + bias, state)
    return state, bias


@eqx.filter_jit
def with_energy(energy: AbstractEnergy, state: State) -> State:
    """The same atoms in motion under another energy, which must not look farther than the neighbor list reaches."""
    value, forces = evaluate(energy, state.system, state.neighbors)
    return replace(state, energy=value, forces=forces)
