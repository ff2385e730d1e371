"""Relaxation by FIRE or L-BFGS: atoms alone, or atoms and cell together, to a force and stress tolerance."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, check_system, energy_forces, energy_forces_virial
from jaxmlip.graph.lattice import product, reciprocal
from jaxmlip.graph.neighbors import Neighbors, allocate, grow, to_graph, update
from jaxmlip.simulate.constraints import project
from jaxmlip.simulate.errors import SimulationError
from jaxmlip.simulate.integrator import check_positive
from jaxmlip.simulate.minimizers import FIRE, AbstractMinimizer, Descent
from jaxmlip.simulate.state import evaluate, with_cell
from jaxmlip.system import System

_CHUNK = 200
_RETRIES = 20


class Relaxation(eqx.Module):
    """What `minimize` returns: the relaxed `system`, its `energy` [eV] and `forces` [eV/Å], the largest force `fmax`
    [eV/Å] and the largest deviation from the target stress `smax` [eV/Å³, zero where the cell was fixed], the number of
    `steps` (evaluations), and whether both tolerances were met."""

    system: System
    energy: Float[Array, ""]
    forces: Float[Array, "atoms 3"]
    fmax: Float[Array, ""]
    smax: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


def minimize(
    energy: AbstractEnergy,
    system: System,
    *,
    fmax: float = 1e-3,
    smax: float = 1e-5,
    steps: int = 5000,
    cell: bool = False,
    pressure: float = 0.0,
    skin: float = 0.5,
    method: AbstractMinimizer = FIRE(),  # noqa: B008
) -> Relaxation:
    """Relax the atoms, and with `cell=True` the cell too, under `pressure` [eV/Å³].

    Stops where the largest force falls below `fmax` [eV/Å] (and, with the cell, every component of the stress lies
    within `smax` [eV/Å³] of minus the pressure), or after `steps`; `converged` says which. The cell does not turn: its
    deformation stays symmetric. `method` is `FIRE()`, which finds a way down from anywhere, or `LBFGS()`, which takes
    fewer steps where the start is not far off. The neighbor list is enlarged where it must be.

    **Raises:** `ValueError` for tolerances that are not positive, a cell that is not periodic in all directions, or
    elements that the energy does not know; `SimulationError` where the energy becomes not finite.
    """
    check_positive("fmax", "eV/Å", fmax)
    check_positive("smax", "eV/Å³", smax)
    check_system(energy, system)
    if cell and not all(system.pbc):
        raise ValueError(f"Only a cell that is periodic in all directions can relax; `pbc` is {system.pbc}.")
    if system.constraints is not None and (len(system.constraints.pairs) or (cell and len(system.constraints.fixed))):
        raise ValueError(
            "Relaxation keeps fixed atoms (in a cell that keeps its shape), but no rigid bonds: take them off with "
            "`constrain(system)`."
        )
    neighbors = allocate(system, energy.cutoff or 1.0, skin=skin)
    limits = jnp.asarray([fmax, smax, pressure], system.positions.dtype)
    state = _start(energy, system, neighbors, limits, method, cell)
    while int(state.steps) < steps and not bool(_done(state, limits) | state.stalled):
        budget = jnp.asarray(min(_CHUNK, steps - int(state.steps)), jnp.int32)
        for _ in range(_RETRIES):
            after = _descend(energy, state, limits, budget, method, cell)
            if not bool(after.neighbors.failed):
                break
            state = eqx.tree_at(lambda s: s.neighbors, state, grow(after.neighbors, state.system, kept=state.neighbors))
        if not bool(jnp.isfinite(after.value) & jnp.isfinite(after.fmax)):
            cause = "the energy or the forces are not finite during the relaxation"
            raise SimulationError(cause, step=int(after.steps), state=state.system)
        state = after
    value, forces = Compiled(evaluate)(energy, state.system, state.neighbors)
    return Relaxation(state.system, value, forces, state.fmax, state.smax, state.steps, _done(state, limits))


def _done(state: Descent, limits: Array) -> Array:
    return (state.fmax < limits[0]) & (state.smax < limits[1])


@Compiled
def _start(
    energy, system: System, neighbors: Neighbors, limits: Array, method: AbstractMinimizer, cell: bool
) -> Descent:
    dtype = system.positions.dtype
    deformation = jnp.eye(3, dtype=dtype) * _weight(system) if cell else jnp.zeros((0, 3), dtype)
    coordinates = jnp.concatenate([system.positions, deformation])
    state = Descent(
        reference=system,
        coordinates=coordinates,
        force=jnp.zeros_like(coordinates),
        system=system,
        neighbors=neighbors,
        value=jnp.zeros((), dtype),
        fmax=jnp.zeros((), dtype),
        smax=jnp.zeros((), dtype),
        steps=jnp.zeros((), jnp.int32),
        stalled=jnp.asarray(False),
        memory=method.start(coordinates),
    )
    return _evaluated(energy, state, coordinates, limits, cell)


@Compiled
def _descend(energy, state: Descent, limits: Array, budget: Array, method: AbstractMinimizer, cell: bool) -> Descent:
    """Up to `budget` steps; stops where converged, stalled, not finite, or out of room for neighbors."""
    last = state.steps + budget

    def at(s: Descent, coordinates: Array) -> Descent:
        return _evaluated(energy, s, coordinates, limits, cell)

    def go_on(s: Descent):
        return (s.steps < last) & ~_done(s, limits) & ~s.stalled & jnp.isfinite(s.value) & ~s.neighbors.failed

    def step(s: Descent) -> Descent:
        return eqx.tree_at(lambda x: x.steps, method.step(at, s), s.steps + 1)

    return lax.while_loop(go_on, step, state)


def _evaluated(energy, state: Descent, coordinates: Array, limits: Array, cell: bool) -> Descent:
    r"""The state at other coordinates. With positions $r = x D$ and cell $h = h_0 D$, $D$ symmetric,
    $-\partial U / \partial x = F D$ and $-\partial U / \partial D = D^{-1} (W - P V)$ symmetrized, $W$ the virial."""
    atoms, dtype = len(state.reference.numbers), coordinates.dtype
    x = coordinates[:atoms]
    if cell:
        weight = _weight(state.reference)
        deform = coordinates[atoms:] / weight
        system = with_cell(state.reference, product(x, deform), product(state.reference.cell, deform))
        neighbors = update(state.neighbors, system)
        energies, forces, virial = energy_forces_virial(energy, to_graph(neighbors, system))
        forces, virial = forces.astype(dtype), virial[0].astype(dtype)
        volume = system.volume()
        push = virial - limits[2] * volume * jnp.eye(3, dtype=dtype)
        inverse, _ = reciprocal(deform)
        push_deform = product(inverse.T, push)
        force = jnp.concatenate([product(forces, deform), 0.5 * (push_deform + push_deform.T) / weight])
        smax = jnp.max(jnp.abs(push)) / volume
        value = energies[0].astype(dtype) + limits[2] * volume
    else:
        system = with_cell(state.reference, x, state.reference.cell)
        neighbors = update(state.neighbors, system)
        energies, forces = energy_forces(energy, to_graph(neighbors, system))
        force = forces = project(system, forces.astype(dtype))
        smax, value = jnp.zeros((), dtype), energies[0].astype(dtype)
    fmax = jnp.sqrt(jnp.max(jnp.sum(forces * forces, axis=1)))
    return eqx.tree_at(
        lambda s: (s.coordinates, s.force, s.system, s.neighbors, s.value, s.fmax, s.smax),
        state,
        (coordinates, force, system, neighbors, value, fmax, smax),
    )


def _weight(system: System) -> Array:
    """How far [Å] a unit of deformation counts: the size of the cell times the square root of a length in atoms."""
    size = system.volume() ** (1.0 / 3.0)
    return size * jnp.asarray(len(system.numbers) ** (1.0 / 6.0), size.dtype)
