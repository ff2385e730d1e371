"""Windows of Newtonian dynamics that can be differentiated by the energy, and the adjoints that do it."""

from __future__ import annotations

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxmlip.energy import AbstractEnergy, energy_forces
from jaxmlip.energy.derivatives import system_energies
from jaxmlip.graph import Graph
from jaxmlip.graph.neighbors import Neighbors, rebuild, skin_used, to_graph
from jaxmlip.simulate.integrator import TIME, check_positive
from jaxmlip.simulate.state import with_positions
from jaxmlip.system import System

Observe = Callable[[AbstractEnergy, Graph, Array, Array], PyTree]
"""`observe(energy, graph, momenta, masses)`: what is kept of a moment."""


class Window(eqx.Module):
    """How long, and how finely, to follow Newton's equations from each start, by velocity Verlet.

    `steps` of `timestep` [time unit] are made; with `both_ways` as many back in time from the same start too, which
    then lies in the middle: correlations reach twice as far as what a change of the energy grows over. A moment is kept
    each `every` steps, and the neighbor list made anew each `rebuild` steps.

    **Raises:** `ValueError` where they make no sense.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1)
    rebuild: int = eqx.field(static=True, default=20)
    both_ways: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        for name in ("steps", "every", "rebuild"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.steps % self.every:
            raise ValueError(f"`steps` must be a multiple of `every`; got {self.steps} and {self.every}.")

    @property
    def interval(self) -> Float[Array, ""]:
        """Time between moments that are kept."""
        return self.every * self.timestep

    @property
    def reach(self) -> Float[Array, ""]:
        """Time from the start to the farthest moment, over which changes grow."""
        return self.steps * self.timestep

    @property
    def moments(self) -> int:
        """How many moments a window has."""
        return (2 if self.both_ways else 1) * (self.steps // self.every) + 1

    def blocks(self) -> tuple[int, int]:
        """How many blocks with a neighbor list of their own one way has, and how many moments each of them."""
        moments = self.steps // self.every + 1
        blocks = -(-moments // max(1, self.rebuild // self.every))
        return blocks, -(-moments // blocks)


class Motion(NamedTuple):
    """Where the atoms are and go: `positions` [Å], `momenta` [u·Å/time unit] and the `forces` [eV/Å] there."""

    positions: Float[Array, "atoms 3"]
    momenta: Float[Array, "atoms 3"]
    forces: Float[Array, "atoms 3"]


def leap(motion: Motion, forces_fn: Callable, timestep: Float[Array, ""], masses: Float[Array, "atoms"]) -> Motion:
    """One step of velocity Verlet; `forces_fn` gives the forces at positions.

    **Reference:** Swope, Andersen, Berens & Wilson, J. Chem. Phys. 76, 637 (1982), doi:10.1063/1.442716.
    """
    momenta = motion.momenta + 0.5 * timestep * motion.forces
    positions = motion.positions + timestep * momenta / masses[:, None]
    forces = forces_fn(positions)
    return Motion(positions, momenta + 0.5 * timestep * forces, forces)


class AbstractAdjoint(eqx.Module):
    """How a window is differentiated. All give the same gradient, but for rounding; they differ in time and memory."""

    @abc.abstractmethod
    def one_way(self, energy: AbstractEnergy, observe: Observe, start: "Start", window: Window, dt: Array) -> tuple:
        """Moments of a window in the direction of `dt`, and what became of the neighbor list."""

    @abc.abstractmethod
    def pull_back(self, function: Callable, learned: PyTree, cotangents: PyTree) -> PyTree:
        """Gradient by `learned` of the inner product of `function(learned)` with its cotangents."""


class Start(eqx.Module):
    """A phase point to start from, and a neighbor list with room for the window."""

    system: System
    momenta: Float[Array, "atoms 3"]
    neighbors: Neighbors


class Checkpoint(AbstractAdjoint):
    """Reverse mode that keeps the positions of each block and makes its steps again: the default.

    Forces are differentiated by Hessian-vector products, so of a step only positions, momenta and forces are kept.

    **Reference:** Griewank & Walther, ACM Trans. Math. Softw. 26, 19 (2000), doi:10.1145/347837.347846.
    """

    def one_way(self, energy: AbstractEnergy, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
        floats = _Floats(start.system.masses, dt)

        @eqx.filter_checkpoint
        def block(energy, phase, flags):
            look = eqx.filter_checkpoint(observe)
            return _block(floats, _adjoint_forces, energy, look, start, window, phase, flags)

        return _blocks(block, floats, energy, start, window)

    def pull_back(self, function: Callable, learned: PyTree, cotangents: PyTree) -> PyTree:
        return jax.vjp(function, learned)[1](cotangents)[0]


class StoreAll(AbstractAdjoint):
    """Plain backpropagation: everything that each step has computed is kept. For comparison; warns when made."""

    def __post_init__(self):
        warnings.warn(
            "Plain backpropagation keeps everything that each step computes: megabytes for each step of a hundred "
            "atoms. `Checkpoint()` gives the same gradient.",
            UserWarning,
            stacklevel=3,
        )

    def one_way(self, energy: AbstractEnergy, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
        return _open(energy, observe, start, window, dt)

    def pull_back(self, function: Callable, learned: PyTree, cotangents: PyTree) -> PyTree:
        return jax.vjp(function, learned)[1](cotangents)[0]


class Forward(AbstractAdjoint):
    """Forward mode, for up to `most` parameters: no memory beside the dynamics', time in proportion to parameters."""

    most: int = eqx.field(static=True, default=8)

    def one_way(self, energy: AbstractEnergy, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
        return _open(energy, observe, start, window, dt)

    def pull_back(self, function: Callable, learned: PyTree, cotangents: PyTree) -> PyTree:
        flat, restore = ravel_pytree(learned)
        if len(flat) > self.most:
            raise ValueError(
                f"Forward mode takes one pass for each parameter, and there are {len(flat)} (at most {self.most}): use "
                "`Checkpoint()`, or freeze parameters."
            )

        def along(direction):
            slopes = jax.jvp(function, (learned,), (restore(direction),))[1]
            pairs = zip(jax.tree.leaves(cotangents), jax.tree.leaves(slopes), strict=True)
            return sum((jnp.sum(c * s) for c, s in pairs), jnp.zeros((), flat.dtype))

        return restore(jax.vmap(along)(jnp.eye(len(flat), dtype=flat.dtype)))


class Reversible(AbstractAdjoint):
    r"""Reverse mode that keeps no steps: dynamics is run backwards beside the adjoint equations.

    Displacements and momenta are whole multiples of a small unit, so that each kick and each drift is undone to the
    bit, whatever its rounding was: $2^{-48}$ Å and $2^{-44}$ in float64, $2^{-26}$ and $2^{-20}$ in float32. Kept are
    the positions at which neighbor lists were made, once in `rebuild` steps.

    **Reference:** Levesque & Verlet, J. Stat. Phys. 72, 519 (1993), doi:10.1007/BF01048022 (dynamics on whole numbers);
    Maclaurin, Duvenaud & Adams, ICML (2015), arXiv:1502.03492 (gradients by exact reversal).
    """

    def one_way(self, energy: AbstractEnergy, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
        return _reversible((energy, start.system.positions, start.momenta), observe, start, window, dt)

    def pull_back(self, function: Callable, learned: PyTree, cotangents: PyTree) -> PyTree:
        return jax.vjp(function, learned)[1](cotangents)[0]


class Flags(NamedTuple):
    """What became of a neighbor list: the flags and counts of `graph.neighbors.Neighbors`."""

    overflow: Bool[Array, "*windows"]
    stale: Bool[Array, "*windows"]
    shrunk: Bool[Array, "*windows"]
    needed: Int[Array, "*windows"]
    crowd: Int[Array, "*windows"]

    @property
    def failed(self) -> Bool[Array, "*windows"]:
        """Whether what was computed must be thrown away."""
        return self.overflow | self.stale | self.shrunk


def flagged(neighbors: Neighbors, flags: Flags) -> Neighbors:
    """The list with these flags, to be enlarged by `grow` where they are set."""
    return dataclasses.replace(neighbors, **flags._asdict())


def follow(
    energy: AbstractEnergy, observe: Observe, start: Start, window: Window, adjoint: AbstractAdjoint
) -> tuple[PyTree, Flags]:
    """What `observe` sees along a window (leading axis: moments, in order of time), and what became of the list.

    Differentiable by the energy as `adjoint` does it.

    **Raises:** `ValueError` for a system with constraints.
    """
    if start.system.constraints is not None:
        raise ValueError("Windows know no constraints: take them off with `constrain(system)`.")
    dt = window.timestep.astype(start.momenta.dtype)
    if not window.both_ways:
        return adjoint.one_way(energy, observe, start, window, dt)
    ways, flags = lax.map(lambda dt: adjoint.one_way(energy, observe, start, window, dt), jnp.stack([-dt, dt]))
    series = jax.tree.map(lambda x: jnp.concatenate([x[0, :0:-1], x[1]]), ways)
    return series, Flags(*(jnp.max(x, axis=0) for x in flags))


class _Floats(eqx.Module):
    """Velocity Verlet on floating-point numbers; `phase` is positions and momenta."""

    masses: Float[Array, "atoms"]
    dt: Float[Array, ""]

    def begin(self, positions: Array, momenta: Array) -> tuple[Array, Array]:
        return positions, momenta

    def view(self, phase: tuple[Array, Array]) -> tuple[Array, Array]:
        return phase

    def advance(self, phase: tuple[Array, Array], forces: Array, forces_fn: Callable) -> tuple[tuple, Array]:
        motion = leap(Motion(*phase, forces), forces_fn, self.dt, self.masses)
        return (motion.positions, motion.momenta), motion.forces


class _Grid(eqx.Module):
    """Velocity Verlet on whole numbers; `phase` is displacements from `origin` and momenta, in small units."""

    origin: Float[Array, "atoms 3"]
    masses: Float[Array, "atoms"]
    dt: Float[Array, ""]

    def begin(self, positions: Array, momenta: Array) -> tuple[Array, Array]:
        return self._whole((positions - self.origin) / self._length), self._whole(momenta / self._momentum)

    def view(self, phase: tuple[Array, Array]) -> tuple[Array, Array]:
        dtype = self.origin.dtype
        return self.origin + phase[0].astype(dtype) * self._length, phase[1].astype(dtype) * self._momentum

    def advance(self, phase: tuple[Array, Array], forces: Array, forces_fn: Callable) -> tuple[tuple, Array]:
        way, momenta = phase
        momenta = momenta + self._kick(forces)
        way = way + self._drift(momenta)
        forces = forces_fn(self.view((way, momenta))[0])
        return (way, momenta + self._kick(forces)), forces

    def retreat(self, phase: tuple[Array, Array], forces: Array, forces_fn: Callable) -> tuple[tuple, Array]:
        """One step back: each move of `advance` undone, in reverse order."""
        way, momenta = phase
        momenta = momenta - self._kick(forces)
        way = way - self._drift(momenta)
        forces = forces_fn(self.view((way, momenta))[0])
        return (way, momenta - self._kick(forces)), forces

    @property
    def _length(self) -> float:
        return 2.0**-48 if self.origin.dtype == jnp.float64 else 2.0**-26

    @property
    def _momentum(self) -> float:
        return 2.0**-44 if self.origin.dtype == jnp.float64 else 2.0**-20

    def _whole(self, x: Array) -> Array:
        return jnp.round(x).astype(jnp.int64 if x.dtype == jnp.float64 else jnp.int32)

    def _kick(self, forces: Array) -> Array:
        return self._whole(0.5 * self.dt * forces / self._momentum)

    def _drift(self, momenta: Array) -> Array:
        velocities = momenta.astype(self.origin.dtype) * self._momentum / self.masses[:, None]
        return self._whole(self.dt * velocities / self._length)


def _plain_forces(energy: AbstractEnergy, graph: Graph) -> Array:
    return energy_forces(energy, graph)[1].astype(graph.positions.dtype)


def _adjoint_forces(energy: AbstractEnergy, graph: Graph) -> Array:
    return _forces((energy, graph.positions), graph.with_positions(lax.stop_gradient(graph.positions)))


@eqx.filter_custom_vjp
def _forces(energy_positions: tuple, graph: Graph) -> Array:
    """Forces whose reverse rule is a Hessian-vector product: nothing but the positions is kept for it."""
    energy, positions = energy_positions
    return _plain_forces(energy, graph.with_positions(positions))


@_forces.def_fwd
def _forces_fwd(perturbed, energy_positions, graph):
    del perturbed
    return _forces(energy_positions, graph), None


@_forces.def_bwd
def _forces_bwd(residuals, cotangent, perturbed, energy_positions, graph):
    del residuals, perturbed
    energy, positions = energy_positions
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)

    def slopes(x):
        def total(learned, x):
            return jnp.sum(system_energies(eqx.combine(learned, rest), graph.with_positions(x)))

        return jax.grad(total, argnums=(0, 1))(learned, x)

    products = jax.jvp(slopes, (positions,), (cotangent,))[1]
    return jax.tree.map(jnp.negative, products)


def _open(energy: AbstractEnergy, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
    """Dynamics as it is, for JAX to differentiate."""
    floats = _Floats(start.system.masses, dt)

    def block(energy, phase, flags):
        return _block(floats, _plain_forces, energy, observe, start, window, phase, flags)

    return _blocks(block, floats, energy, start, window)


def _blocks(block: Callable, floats: _Floats, energy: AbstractEnergy, start: Start, window: Window) -> tuple:
    """All blocks of one way, one after another."""

    def one(carry, _):
        phase, flags, series = block(energy, *carry)
        return (phase, flags), series

    phase = floats.begin(start.system.positions, start.momenta)
    (_, flags), series = lax.scan(one, (phase, _flags(start.neighbors)), None, length=window.blocks()[0])
    return _joined(series, window), flags


def _block(scheme, forces_of, energy, observe, start: Start, window: Window, phase, flags: Flags) -> tuple:
    """One block: the neighbor list where it begins, then moments and steps in turn."""
    system, masses = start.system, start.system.masses
    neighbors = _list_at(start.neighbors, flags, system, scheme.view(phase)[0])

    def forces_fn(x):
        return forces_of(energy, to_graph(neighbors, with_positions(system, x)))

    def step(carry, _):
        phase, forces, stale = carry
        phase, forces = scheme.advance(phase, forces, forces_fn)
        return (phase, forces, stale | _used_up(neighbors, system, scheme.view(phase)[0])), None

    def moment(carry, _):
        positions, momenta = scheme.view(carry[0])
        seen = observe(energy, to_graph(neighbors, with_positions(system, positions)), momenta, masses)
        return lax.scan(step, carry, None, length=window.every)[0], seen

    carry = phase, forces_fn(scheme.view(phase)[0]), neighbors.stale
    (phase, _, stale), series = lax.scan(moment, carry, None, length=window.blocks()[1])
    return phase, _flags(neighbors)._replace(stale=stale), series


@eqx.filter_custom_vjp
def _reversible(phase_point: tuple, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
    series, flags, _ = _on_grid(phase_point, observe, start, window, dt)
    return series, flags


@_reversible.def_fwd
def _reversible_fwd(perturbed, phase_point, observe, start, window, dt):
    del perturbed
    series, flags, kept = _on_grid(phase_point, observe, start, window, dt)
    return (series, flags), kept


@_reversible.def_bwd
def _reversible_bwd(kept, cotangents, perturbed, phase_point, observe, start, window, dt):
    del perturbed
    return _backwards(kept, cotangents[0], phase_point, observe, start, window, dt)[1:]


def _backwards(kept, cotangents, phase_point, observe, start: Start, window: Window, dt) -> tuple:
    """The phase that one way has begun with, and the gradients by the energy, positions and momenta."""
    energy, positions, _ = phase_point
    ways, last = kept
    grid = _Grid(positions, start.system.masses, dt)
    learned, rest = eqx.partition(energy, eqx.is_inexact_array)
    zeros = jnp.zeros_like(positions)
    carry = last, (zeros, zeros), jax.tree.map(jnp.zeros_like, learned)

    def block(carry, backward):
        return _block_back(grid, learned, rest, observe, start, window, carry, *backward), None

    (phase, bars, gradient), _ = lax.scan(block, carry, (ways, _cut(_inexact(cotangents), window)), reverse=True)
    return phase, gradient, *bars


def _on_grid(phase_point: tuple, observe: Observe, start: Start, window: Window, dt: Array) -> tuple:
    """One way on the grid; kept are the displacements where blocks begin, and the last phase."""
    energy, positions, momenta = phase_point
    grid = _Grid(positions, start.system.masses, dt)

    def one(carry, _):
        phase, flags, series = _block(grid, _plain_forces, energy, observe, start, window, *carry)
        return (phase, flags), (carry[0][0], series)

    carry = grid.begin(positions, momenta), _flags(start.neighbors)
    (last, flags), (ways, series) = lax.scan(one, carry, None, length=window.blocks()[0])
    return _joined(series, window), flags, (ways, last)


def _block_back(grid: _Grid, learned, rest, observe, start: Start, window: Window, carry, way, cotangents) -> tuple:
    """One block backwards: phase, cotangents of positions and momenta, and the gradient, at its beginning."""
    system, masses = start.system, start.system.masses
    phase, (bar_positions, bar_momenta), gradient = carry
    neighbors = _list_at(start.neighbors, _flags(start.neighbors), system, grid.view((way, phase[1]))[0])

    def graph(x):
        return to_graph(neighbors, with_positions(system, x))

    def forces_fn(x):
        return _plain_forces(eqx.combine(learned, rest), graph(x))

    def one_leap(learned, motion):
        return leap(motion, lambda x: _adjoint_forces(eqx.combine(learned, rest), graph(x)), grid.dt, masses)

    def seen(learned, positions, momenta):
        return _inexact(observe(eqx.combine(learned, rest), graph(positions), momenta, masses))

    def step(carry, _):
        phase, forces, bars, gradient = carry
        phase, forces = grid.retreat(phase, forces, forces_fn)
        slopes, bars = jax.vjp(one_leap, learned, Motion(*grid.view(phase), forces))[1](bars)
        return (phase, forces, bars, _plus(gradient, slopes)), None

    def moment(carry, cotangent):
        (phase, forces, bars, gradient), _ = lax.scan(step, carry, None, length=window.every)
        slopes, *more = jax.vjp(seen, learned, *grid.view(phase))[1](cotangent)
        bars = Motion(bars.positions + more[0], bars.momenta + more[1], bars.forces)
        return (phase, forces, bars, _plus(gradient, slopes)), None

    bars = Motion(bar_positions, bar_momenta, jnp.zeros_like(bar_positions))
    carry = phase, forces_fn(grid.view(phase)[0]), bars, gradient
    (phase, _, bars, gradient), _ = lax.scan(moment, carry, cotangents, reverse=True)
    first = lambda learned, x: _adjoint_forces(eqx.combine(learned, rest), graph(x))  # noqa: E731
    slopes, bar = jax.vjp(first, learned, grid.view(phase)[0])[1](bars.forces)
    return phase, (bars.positions + bar, bars.momenta), _plus(gradient, slopes)


def _list_at(neighbors: Neighbors, flags: Flags, system: System, positions: Array) -> Neighbors:
    """A new list at these positions; nothing is differentiated through it."""
    return rebuild(flagged(neighbors, flags), with_positions(system, lax.stop_gradient(positions)))


def _used_up(neighbors: Neighbors, system: System, positions: Array) -> Bool[Array, ""]:
    return skin_used(neighbors, with_positions(system, lax.stop_gradient(positions))) > 1.0


def _flags(neighbors: Neighbors) -> Flags:
    return Flags(neighbors.overflow, neighbors.stale, neighbors.shrunk, neighbors.needed, neighbors.crowd)


def _joined(series: PyTree, window: Window) -> PyTree:
    """Moments of all blocks in a row, without those beyond the end."""
    moments = window.steps // window.every + 1
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:moments], series)


def _cut(series: PyTree, window: Window) -> PyTree:
    """The reverse of `_joined`: cotangents by blocks, zero beyond the end."""
    blocks, each = window.blocks()

    def cut(x):
        more = jnp.zeros((blocks * each - len(x), *x.shape[1:]), x.dtype)
        return jnp.concatenate([x, more]).reshape(blocks, each, *x.shape[1:])

    return jax.tree.map(cut, series)


def _inexact(tree: PyTree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]


def _plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)
