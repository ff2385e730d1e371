"""Relaxation by FIRE: atoms alone, or atoms and cell together, to a force and stress tolerance."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.energy import AbstractEnergy, check_elements, energy_forces, energy_forces_virial
from jaxmlip.graph.lattice import product, reciprocal
from jaxmlip.graph.neighbors import Neighbors, allocate, grow, to_graph, update
from jaxmlip.simulate.errors import SimulationError
from jaxmlip.simulate.integrator import check_positive
from jaxmlip.simulate.state import evaluate, with_cell
from jaxmlip.system import System

_CHUNK = 200
_RETRIES = 20


class Relaxation(eqx.Module):
    """What `minimize` returns: the relaxed `system`, its `energy` [eV] and `forces` [eV/Å], the largest force `fmax`
    [eV/Å] and the largest deviation from the target stress `smax` [eV/Å³, zero where the cell was fixed], the number of
    `steps`, and whether both tolerances were met."""

    system: System
    energy: Float[Array, ""]
    forces: Float[Array, "atoms 3"]
    fmax: Float[Array, ""]
    smax: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class FIRE(eqx.Module):
    """Fast inertial relaxation: dynamics with unit masses, steered downhill, stopped where it would climb.

    Times are in Å/sqrt(eV). `max_step` [Å] bounds what an atom moves in one step.

    **Reference:** Bitzek, Koskinen, Gähler, Moseler & Gumbsch, Phys. Rev. Lett. 97, 170201 (2006),
    doi:10.1103/PhysRevLett.97.170201, with the half step back of Guénolé et al., Comput. Mater. Sci. 175, 109584
    (2020), doi:10.1016/j.commatsci.2020.109584.
    """

    timestep: float = eqx.field(static=True, default=0.1)
    max_timestep: float = eqx.field(static=True, default=1.0)
    max_step: float = eqx.field(static=True, default=0.1)
    patience: int = eqx.field(static=True, default=5)
    growth: float = eqx.field(static=True, default=1.1)
    shrink: float = eqx.field(static=True, default=0.5)
    mixing: float = eqx.field(static=True, default=0.1)
    mixing_decay: float = eqx.field(static=True, default=0.99)


class _Descent(eqx.Module):
    """Where FIRE stands. Coordinates are positions in the undeformed cell, and the deformation times `_weight`;
    `value` [eV] is the enthalpy."""

    reference: System
    coordinates: Float[Array, "features 3"]
    velocity: Float[Array, "features 3"]
    force: Float[Array, "features 3"]
    system: System
    neighbors: Neighbors
    value: Float[Array, ""]
    fmax: Float[Array, ""]
    smax: Float[Array, ""]
    timestep: Float[Array, ""]
    mixing: Float[Array, ""]
    downhill: Int[Array, ""]
    steps: Int[Array, ""]


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
    fire: FIRE = FIRE(),  # noqa: B008
) -> Relaxation:
    """Relax the atoms, and with `cell=True` the cell too, under `pressure` [eV/Å³].

    Stops where the largest force falls below `fmax` [eV/Å] (and, with the cell, every component of the stress lies
    within `smax` [eV/Å³] of minus the pressure), or after `steps`; `converged` says which. The cell does not turn: its
    deformation stays symmetric. The neighbor list is enlarged where it must be.

    **Raises:** `ValueError` for tolerances that are not positive, a cell that is not periodic in all directions, or
    elements that the energy does not know; `SimulationError` where the energy becomes not finite.
    """
    check_positive("fmax", "eV/Å", fmax)
    check_positive("smax", "eV/Å³", smax)
    check_elements(energy, np.asarray(system.numbers))
    if cell and not all(system.pbc):
        raise ValueError(f"Only a cell that is periodic in all directions can relax; `pbc` is {system.pbc}.")
    neighbors = allocate(system, energy.cutoff or 1.0, skin=skin)
    limits = jnp.asarray([fmax, smax, pressure], system.positions.dtype)
    state = _start(energy, system, neighbors, limits, fire, cell)
    while int(state.steps) < steps and not bool(_done(state, limits)):
        budget = jnp.asarray(min(_CHUNK, steps - int(state.steps)), jnp.int32)
        for _ in range(_RETRIES):
            after = _descend(energy, state, limits, budget, fire, cell)
            if not bool(after.neighbors.failed):
                break
            state = eqx.tree_at(lambda s: s.neighbors, state, grow(after.neighbors, state.system, kept=state.neighbors))
        if not bool(jnp.isfinite(after.value) & jnp.isfinite(after.fmax)):
            cause = "the energy or the forces are not finite during the relaxation"
            raise SimulationError(cause, step=int(after.steps), state=state.system)
        state = after
    value, forces = eqx.filter_jit(evaluate)(energy, state.system, state.neighbors)
    return Relaxation(state.system, value, forces, state.fmax, state.smax, state.steps, _done(state, limits))


def _done(state: _Descent, limits: Array) -> Array:
    return (state.fmax < limits[0]) & (state.smax < limits[1])


@eqx.filter_jit
def _start(energy, system: System, neighbors: Neighbors, limits: Array, fire: FIRE, cell: bool) -> _Descent:
    dtype = system.positions.dtype
    deformation = jnp.eye(3, dtype=dtype) * _weight(system) if cell else jnp.zeros((0, 3), dtype)
    coordinates = jnp.concatenate([system.positions, deformation])
    state = _Descent(
        reference=system,
        coordinates=coordinates,
        velocity=jnp.zeros_like(coordinates),
        force=jnp.zeros_like(coordinates),
        system=system,
        neighbors=neighbors,
        value=jnp.zeros((), dtype),
        fmax=jnp.zeros((), dtype),
        smax=jnp.zeros((), dtype),
        timestep=jnp.asarray(fire.timestep, dtype),
        mixing=jnp.asarray(fire.mixing, dtype),
        downhill=jnp.zeros((), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )
    return _evaluated(energy, state, coordinates, limits, cell)


@eqx.filter_jit
def _descend(energy, state: _Descent, limits: Array, budget: Array, fire: FIRE, cell: bool) -> _Descent:
    """Up to `budget` steps; stops where converged, not finite, or out of room for neighbors."""
    last = state.steps + budget

    def go_on(s: _Descent):
        return (s.steps < last) & ~_done(s, limits) & jnp.isfinite(s.value) & ~s.neighbors.failed

    return lax.while_loop(go_on, lambda s: _step(energy, s, limits, fire, cell), state)


def _step(energy, state: _Descent, limits: Array, fire: FIRE, cell: bool) -> _Descent:
    """One step of FIRE (semi-implicit Euler, unit masses)."""
    v, f = state.velocity, state.force
    downhill = jnp.sum(v * f) > 0
    count = jnp.where(downhill, state.downhill + 1, 0)
    faster = downhill & (count > fire.patience)
    dt = jnp.where(faster, jnp.minimum(state.timestep * fire.growth, fire.max_timestep), state.timestep)
    dt = jnp.where(downhill, dt, dt * fire.shrink)
    mixing = jnp.where(faster, state.mixing * fire.mixing_decay, state.mixing)
    mixing = jnp.where(downhill, mixing, jnp.full_like(mixing, fire.mixing))
    back = jnp.where(downhill, jnp.zeros_like(dt), -0.5 * dt)
    start = state.coordinates + back * v
    v = jnp.where(downhill, v, jnp.zeros_like(v)) + dt * f
    aligned = jnp.sqrt(jnp.sum(v * v) / jnp.maximum(jnp.sum(f * f), jnp.finfo(f.dtype).tiny)) * f
    v = (1.0 - mixing) * v + mixing * aligned
    longest = jnp.sqrt(jnp.max(jnp.sum(v * v, axis=1))) * dt
    v = v * jnp.minimum(1.0, fire.max_step / jnp.maximum(longest, jnp.finfo(f.dtype).tiny))
    state = eqx.tree_at(
        lambda s: (s.velocity, s.timestep, s.mixing, s.downhill, s.steps),
        state,
        (v, dt, mixing, count, state.steps + 1),
    )
    return _evaluated(energy, state, start + dt * v, limits, cell)


def _evaluated(energy, state: _Descent, coordinates: Array, limits: Array, cell: bool) -> _Descent:
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
        force = forces = forces.astype(dtype)
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
