"""Minimizers: what each makes of the last coordinates and forces; `minimize` runs them."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.graph.neighbors import Neighbors
from jaxmlip.simulate.integrator import check_positive
from jaxmlip.system import System


class Descent(eqx.Module):
    """Where a relaxation stands.

    Coordinates are positions in the undeformed cell and, where the cell relaxes, its deformation times a length;
    `force` is minus the gradient of the enthalpy `value` [eV] by them. `steps` counts evaluations; `stalled` says that
    no step, however small, leads farther down.
    """

    reference: System
    coordinates: Float[Array, "features 3"]
    force: Float[Array, "features 3"]
    system: System
    neighbors: Neighbors
    value: Float[Array, ""]
    fmax: Float[Array, ""]
    smax: Float[Array, ""]
    steps: Int[Array, ""]
    stalled: Bool[Array, ""]
    memory: Any


At = Callable[[Descent, Float[Array, "features 3"]], Descent]


class AbstractMinimizer(eqx.Module):
    """A way down: `start` makes its memory, `step` goes on by one evaluation, `at(state, coordinates)`."""

    @abc.abstractmethod
    def start(self, coordinates: Float[Array, "features 3"]) -> Any:
        """The memory before the first step."""

    @abc.abstractmethod
    def step(self, at: At, state: Descent) -> Descent:
        """One evaluation farther (inside jit); the caller counts it."""


class Inertia(eqx.Module):
    """The memory of FIRE."""

    velocity: Float[Array, "features 3"]
    timestep: Float[Array, ""]
    mixing: Float[Array, ""]
    downhill: Int[Array, ""]


class FIRE(AbstractMinimizer):
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

    def start(self, coordinates: Float[Array, "features 3"]) -> Inertia:
        dtype = coordinates.dtype
        number = lambda x: jnp.asarray(x, dtype)  # noqa: E731
        zero = jnp.zeros((), jnp.int32)
        return Inertia(jnp.zeros_like(coordinates), number(self.timestep), number(self.mixing), zero)

    def step(self, at: At, state: Descent) -> Descent:
        """Semi-implicit Euler with unit masses."""
        before = state.memory
        v, f = before.velocity, state.force
        downhill = jnp.sum(v * f) > 0
        count = jnp.where(downhill, before.downhill + 1, 0)
        faster = downhill & (count > self.patience)
        dt = jnp.where(faster, jnp.minimum(before.timestep * self.growth, self.max_timestep), before.timestep)
        dt = jnp.where(downhill, dt, dt * self.shrink)
        mixing = jnp.where(faster, before.mixing * self.mixing_decay, before.mixing)
        mixing = jnp.where(downhill, mixing, jnp.full_like(mixing, self.mixing))
        back = jnp.where(downhill, jnp.zeros_like(dt), -0.5 * dt)
        start = state.coordinates + back * v
        v = jnp.where(downhill, v, jnp.zeros_like(v)) + dt * f
        aligned = jnp.sqrt(jnp.sum(v * v) / jnp.maximum(jnp.sum(f * f), jnp.finfo(f.dtype).tiny)) * f
        v = (1.0 - mixing) * v + mixing * aligned
        longest = _longest(v) * dt
        v = v * jnp.minimum(1.0, self.max_step / jnp.maximum(longest, jnp.finfo(f.dtype).tiny))
        after = at(state, start + dt * v)
        return eqx.tree_at(lambda s: s.memory, after, Inertia(v, dt, mixing, count))


class Curvature(eqx.Module):
    """The memory of L-BFGS: moves, changes of the gradient and 1/(their product) (zero: empty); the search at hand."""

    moves: Float[Array, "memory features 3"]
    changes: Float[Array, "memory features 3"]
    weights: Float[Array, "memory"]
    direction: Float[Array, "features 3"]
    fraction: Float[Array, ""]
    failures: Int[Array, ""]


class LBFGS(AbstractMinimizer):
    r"""Limited-memory quasi-Newton steps, each accepted only where the energy falls.

    `memory` pairs of moves and gradients make the direction; the first is the force over `stiffness` [eV/Å²]. A step
    is bounded by `max_step` [Å] for any atom, and shortened (one evaluation each time) until the energy lies $10^{-4}$
    of the slope below; where rounding hides that, the slope must not grow. Should that not come, the memory is
    forgotten; should steepest descent fail too, the relaxation has `stalled`.

    Not optax's: its two-loop recursion does not run under strict promotion of types, and takes directions of negative
    curvature as they come.

    **Reference:** Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithms 7.4 and 3.1; Hager & Zhang, SIAM
    J. Optim. 16, 170 (2005), doi:10.1137/030601880 (the test within rounding).
    """

    memory: int = eqx.field(static=True, default=20)
    max_step: float = eqx.field(static=True, default=0.2)
    stiffness: float = eqx.field(static=True, default=70.0)

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"`memory` must be at least 1; got {self.memory}.")
        check_positive("max_step", "Å", self.max_step)
        check_positive("stiffness", "eV/Å²", self.stiffness)

    def start(self, coordinates: Float[Array, "features 3"]) -> Curvature:
        pairs = jnp.zeros((self.memory, *coordinates.shape), coordinates.dtype)
        zero = jnp.zeros((), coordinates.dtype)
        return Curvature(pairs, pairs, pairs[:, 0, 0], pairs[0], zero, jnp.zeros((), jnp.int32))

    def step(self, at: At, state: Descent) -> Descent:
        memory = state.memory
        fresh = memory.fraction == 0.0  # the very first step
        direction = jnp.where(fresh, state.force / self.stiffness, memory.direction)
        fraction = jnp.where(fresh, self._bound(direction), memory.fraction)
        there = at(state, state.coordinates + fraction * direction)
        slope, now = -jnp.sum(state.force * direction), -jnp.sum(there.force * direction)
        noise = 16.0 * jnp.finfo(state.value.dtype).eps * jnp.abs(state.value)
        falls = there.value <= state.value + 1e-4 * fraction * slope
        level = (there.value <= state.value + noise) & (jnp.abs(now) <= jnp.abs(slope))
        good = falls | level
        taken = eqx.tree_at(lambda s: s.memory, there, self._learn(state, there, memory))
        fails = memory.failures + 1
        forget = fails % 12 == 0
        steepest = state.force / self.stiffness
        again = Curvature(
            memory.moves,
            memory.changes,
            jnp.where(forget, jnp.zeros_like(memory.weights), memory.weights),
            jnp.where(forget, steepest, direction),
            jnp.where(forget, 0.1 * self._bound(steepest), 0.4 * fraction),
            fails,
        )
        stays = eqx.tree_at(lambda s: (s.memory, s.neighbors, s.stalled), state, (again, there.neighbors, fails >= 24))
        return _choose(good, taken, stays)

    def _learn(self, before: Descent, after: Descent, memory: Curvature) -> Curvature:
        """The memory with one more pair, and the next direction."""
        move, change = after.coordinates - before.coordinates, before.force - after.force
        product, size = jnp.sum(move * change), jnp.sqrt(jnp.sum(move**2) * jnp.sum(change**2))
        useful = product > 1e-8 * size
        weight = jnp.where(useful, 1.0 / jnp.where(useful, product, jnp.ones_like(product)), 0.0)
        roll = lambda old, new: jnp.where(useful, jnp.concatenate([old[1:], new[None]]), old)  # noqa: E731
        moves, changes = roll(memory.moves, move), roll(memory.changes, change)
        weights = roll(memory.weights, weight)
        direction = self._direction(after.force, moves, changes, weights)
        descends = jnp.sum(direction * after.force) > 0
        direction = jnp.where(descends, direction, after.force / self.stiffness)
        return Curvature(moves, changes, weights, direction, self._bound(direction), jnp.zeros((), jnp.int32))

    def _direction(self, force: Array, moves: Array, changes: Array, weights: Array) -> Float[Array, "features 3"]:
        """Inverse Hessian times force (two-loop recursion)."""
        factors, q = [], force
        for k in reversed(range(self.memory)):
            factors.append(weights[k] * jnp.sum(moves[k] * q))
            q = q - factors[-1] * changes[k]
        length = jnp.sum(changes[-1] ** 2)
        known = (weights[-1] > 0) & (length > 0)
        ratio = 1.0 / jnp.where(known, weights[-1] * length, jnp.ones_like(length))
        q = q * jnp.where(known, ratio, 1.0 / self.stiffness)
        for k, factor in enumerate(reversed(factors)):
            q = q + (factor - weights[k] * jnp.sum(changes[k] * q)) * moves[k]
        return q

    def _bound(self, direction: Array) -> Float[Array, ""]:
        """The fraction of a direction that moves no atom too far."""
        longest = _longest(direction)
        return jnp.minimum(1.0, self.max_step / jnp.maximum(longest, jnp.finfo(direction.dtype).tiny))


def _longest(rows: Float[Array, "features 3"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.max(jnp.sum(rows * rows, axis=1)))


def _choose(first: Bool[Array, ""], one: Descent, other: Descent) -> Descent:
    """One state or the other."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
