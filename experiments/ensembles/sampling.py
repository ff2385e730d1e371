"""Replicas of small systems under one integrator, as one compiled program: what every check samples with."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import hold, rebuild
from jaxmlip.simulate import MTK, AbstractIntegrator, State, thermal_momenta
from jaxmlip.simulate.state import evaluate, replace, with_cell, without_drift
from jaxmlip.system import System

HELD = 5  # steps with one list of neighbors; `every` is a multiple


class Energies(eqx.Module):
    """Kinetic energy of the lighter half of the atoms and of all, potential energy [eV], volume [Å³], cell [Å]."""

    light: jax.Array

    def __call__(self, state: State) -> dict:
        system = state.system
        kinetic = 0.5 * jnp.sum(state.momenta**2, axis=1) / system.masses
        return {
            "light": jnp.sum(jnp.where(self.light, kinetic, 0.0)),
            "kinetic": jnp.sum(kinetic),
            "potential": state.energy,
            "volume": system.volume(),
        }


def watcher(system: System) -> Energies:
    """The observer of a system whose lighter atoms are those below the mean mass."""
    return Energies(system.masses < jnp.mean(system.masses) - 1e-6)


def begin(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    system: System,
    temperature: float,
    replicas: int,
    seed: int,
    *,
    skin: float,
    capacity: int | None = None,
    positions: jax.Array | None = None,
    cells: jax.Array | None = None,
) -> State:
    """Independent states: Maxwell-Boltzmann momenta (with zero sum where the dynamics keep it), lists that are held."""
    key = jax.random.key(seed)
    # Lists are laid out for a cell 15 % shorter, which a barostat may come to.
    small = with_cell(system, 0.85 * system.positions, 0.85 * system.cell)
    state = integrator.init(energy, small, key=key, temperature=temperature, skin=skin, capacity=capacity)
    state = replace(state, neighbors=hold(state.neighbors))
    drifting = integrator.degrees_of_freedom(system) == 3 * len(system.numbers)
    positions = (
        jnp.broadcast_to(system.positions, (replicas, *system.positions.shape)) if positions is None else positions
    )
    cells = jnp.broadcast_to(system.cell, (replicas, 3, 3)) if cells is None else cells
    return _begin(
        integrator, energy, state, jnp.asarray(temperature), jax.random.split(key, replicas), positions, cells, drifting
    )


@eqx.filter_jit
def _begin(integrator, energy, state, temperature, keys, positions, cells, drifting: bool) -> State:
    def one(key, positions, cell):
        key, draw = jax.random.split(key)
        system = with_cell(state.system, positions, cell)
        momenta = thermal_momenta(draw, system.masses, temperature)
        momenta = momenta if drifting else without_drift(momenta, system.masses)
        neighbors = rebuild(state.neighbors, system)
        value, forces = evaluate(energy, system, neighbors)
        bath = integrator.bath(energy, system, neighbors)
        return replace(
            state, system=system, momenta=momenta, energy=value, forces=forces, neighbors=neighbors, key=key, bath=bath
        )

    return jax.vmap(one)(keys, positions, cells)


@eqx.filter_jit
def sample(integrator, energy, states: State, watch, samples: int, every: int) -> tuple[State, dict]:
    """`samples` observations, `every` steps apart, of all replicas: last states, and arrays [samples, replicas].

    Lists are rebuilt every `HELD` steps: free cells of eight atoms may slip from one crystal to another.
    """
    step = jax.vmap(integrator.step, in_axes=(None, 0))

    def held(_, states):
        states = replace(states, neighbors=jax.vmap(rebuild)(states.neighbors, states.system))
        return jax.lax.fori_loop(0, HELD, lambda _, s: step(energy, s), states)

    def chunk(states, _):
        states = jax.lax.fori_loop(0, every // HELD, held, states)
        return states, jax.vmap(watch)(states)

    return jax.lax.scan(chunk, states, None, length=samples)


def run(integrator, energy, states: State, watch, *, samples: int, every: int, burn: int) -> tuple[State, dict]:
    """As `sample`, as NumPy arrays without the first `burn` observations; refuses a list that has failed."""
    states, record = sample(integrator, energy, states, watch, samples, every)
    if bool(jnp.any(states.neighbors.failed)):
        raise RuntimeError("a neighbor list has failed: rebuild more often, or with more skin and capacity")
    record = {name: np.asarray(x)[burn:] for name, x in record.items()}
    if not all(np.isfinite(x).all() for x in record.values()):
        raise RuntimeError("not finite")
    return states, record


def thermal_piston(states: State, integrator: MTK, atoms: int, kT: float) -> State:
    """Cell and chains with momenta from their Boltzmann distributions: nothing else would be stationary from the
    start, and an ideal gas, or a cold crystal of eight atoms, is too simple to find its way there."""
    dof, modes = 3 * atoms - 3, {"isotropic": 1, "anisotropic": 3, "triclinic": 6}[integrator.shape]
    tau, slow = integrator.period, integrator.barostat_period
    keys = jax.random.split(jax.random.key(41), 3)
    replicas = len(states.energy)
    noise = jax.random.normal(keys[0], (replicas, 3, 3))
    noise = 0.5 * (noise + jnp.swapaxes(noise, 1, 2)) if modes == 6 else noise * jnp.eye(3)[None]
    if modes == 1:
        noise = noise[:, :1, :1] * jnp.eye(3)[None] / jnp.sqrt(3.0)
    rate = noise / jnp.sqrt((dof + 3.0) / 3.0 * slow**2)

    def chain(old, key, first, period):
        width = kT * period * jnp.sqrt(jnp.asarray([first, 1.0, 1.0]))
        return eqx.tree_at(lambda c: c.momenta, old, width[None] * jax.random.normal(key, old.momenta.shape))

    bath = states.bath
    bath = eqx.tree_at(
        lambda b: (b.rate, b.atoms, b.cell),
        bath,
        (rate, chain(bath.atoms, keys[1], float(dof), tau), chain(bath.cell, keys[2], float(modes), slow)),
    )
    return replace(states, bath=bath)
