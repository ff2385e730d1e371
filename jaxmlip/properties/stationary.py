r"""Stationary points of the energy, minima and saddles, as differentiable functions of the energy.

Where the gradient $g$ of the energy (with the cell: of the enthalpy) by coordinates $z$ vanishes, it goes on vanishing
as parameters $\theta$ change: $\mathrm{d}z / \mathrm{d}\theta = -(\partial g / \partial z)^{-1} \partial g /
\partial\theta$. `lax.custom_root` makes of this derivatives of any order, forward and backward, without a trace of how
the point was found.

    start = relax(energy, system, cell=True)    # on the host: minimize, then Newton
    point = follow(energy, start)               # in jit, jax.grad, jax.jacfwd, jax.hessian: Newton from there
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, check_system, system_energies
from jaxmlip.graph.neighbors import Neighbors, allocate, check, to_graph
from jaxmlip.properties.linear import Product, Spectrum, estimate_spectrum, matrix_of, minres, spectrum
from jaxmlip.properties.strain import from_voigt, strained
from jaxmlip.simulate import LBFGS, minimize
from jaxmlip.simulate.integrator import check_positive
from jaxmlip.simulate.state import evaluate, with_positions
from jaxmlip.system import System

_STEPS = 30  # of Newton; from a relaxed start it takes three or four
_LONGEST = 0.1  # Å, the largest component of one of them
_SAMPLES = 8  # displaced structures, more than there are rigid motions


class StationaryPoint(eqx.Module):
    """A minimum or a saddle: `system`, its `energy` [eV], and how good it is.

    `residual` is the largest component of the gradient [eV/Å] (a strain counts as the length by which it moves the
    cell); `converged` says that it is within `tolerance` and that the neighbor list still serves (`neighbors.failed`).
    `condition` is the ratio of the largest to the smallest curvature in the space of what is free to move: derivatives
    by parameters lose that many digits, and none is left near 1e15. `negative` counts the directions in which the
    energy falls: 0 at a minimum, 1 at a saddle. For large systems these two are estimates from below (see `follow`).

    `rigid` spans the motions that leave the energy as it is, which nothing can determine: translations, and rotations
    of what is not periodic. `pressure` [eV/Å³] counts where `cell` says that the cell relaxes too; `damping` [eV/Å²] is
    added to the curvatures (0 unless asked for).
    """

    system: System
    energy: Float[Array, ""]
    residual: Float[Array, ""]
    condition: Float[Array, ""]
    negative: Int[Array, ""]
    converged: Bool[Array, ""]
    neighbors: Neighbors
    rigid: Float[Array, "features rigid"]
    pressure: Float[Array, ""]
    damping: Float[Array, ""]
    tolerance: Float[Array, ""]
    cell: bool = eqx.field(static=True)
    dense: int = eqx.field(static=True)


class Motion(eqx.Module):
    """The space of what is free to move: `free` is 0 for fixed coordinates, `rigid` spans what changes no energy.
    `dense`
    says whether linear systems in it are solved by a matrix."""

    rigid: Float[Array, "features rigid"]
    free: Float[Array, "features"]
    dense: bool = eqx.field(static=True)

    def project(self, z: Float[Array, "features"]) -> Float[Array, "features"]:
        held = jnp.matmul(z, self.rigid, precision="highest")
        return self.free * z - jnp.matmul(self.rigid, held, precision="highest")


def relax(
    energy: AbstractEnergy,
    system: System,
    *,
    cell: bool = False,
    pressure: float = 0.0,
    fmax: float = 1e-3,
    tolerance: float | None = None,
    skin: float = 0.5,
    damping: float = 0.0,
    dense: int = 300,
) -> StationaryPoint:
    """The minimum next to `system` (host): `minimize` to forces of `fmax` [eV/Å], then Newton's method to `tolerance`.

    With `cell` the cell relaxes together with the atoms, under `pressure` [eV/Å³]; fixed atoms stay. What the other
    arguments mean is said in `refine`.

    **Raises:** what `minimize` raises, and `ValueError` where an argument makes no sense.
    """
    check_positive("fmax", "eV/Å", fmax)
    near = minimize(energy, system, fmax=fmax, smax=fmax / 100.0, cell=cell, pressure=pressure, method=LBFGS())
    options = {"tolerance": tolerance, "skin": skin, "damping": damping, "dense": dense}
    return refine(energy, near.system, cell=cell, pressure=pressure, **options)


def refine(
    energy: AbstractEnergy,
    system: System,
    *,
    cell: bool = False,
    pressure: float = 0.0,
    tolerance: float | None = None,
    skin: float = 0.5,
    damping: float = 0.0,
    dense: int = 300,
) -> StationaryPoint:
    """The stationary point that Newton's method finds from `system`, of whatever index (host): from the highest image
    of
    a climbing band, the saddle.

    `tolerance` [eV/Å] bounds the gradient (by default 1e-9, 1e-4 in float32). `skin` [Å] is how far the atoms may move
    before the neighbor list that is made here no longer serves. `damping` [eV/Å²] is Tikhonov's, for curvatures that
    vanish: derivatives are then those of a regularized problem. Up to `dense` coordinates the Hessian is a matrix,
    beyond that only products with it are taken.

    **Raises:** `ValueError` where an argument makes no sense, or the energy cannot serve the system.
    """
    check_system(energy, system)
    check_positive("skin", "Å", skin)
    dtype = system.positions.dtype
    limit = (1e-9 if dtype == jnp.float64 else 1e-4) if tolerance is None else tolerance
    check_positive("tolerance", "eV/Å", limit)
    if damping < 0.0:
        raise ValueError(f"`damping` must be zero or positive [eV/Å²]; got {damping}.")
    if cell and not all(system.pbc):
        raise ValueError(f"Only a cell that is periodic in all directions can relax; `pbc` is {system.pbc}.")
    if pressure and not cell:
        raise ValueError("A pressure acts on a cell that relaxes: give `cell=True` too.")
    if system.constraints is not None and (len(system.constraints.pairs) or (cell and len(system.constraints.fixed))):
        raise ValueError("Fixed atoms (in a cell that keeps its shape) can be kept, but no rigid bonds.")
    neighbors = allocate(system, energy.cutoff or 1.0, skin=skin)
    zero = jnp.zeros((), dtype)
    point = StationaryPoint(
        system=system,
        energy=zero,
        residual=zero,
        condition=zero,
        negative=jnp.zeros((), jnp.int32),
        converged=jnp.asarray(False),
        neighbors=neighbors,
        rigid=jnp.asarray(_rigid_motions(energy, system, neighbors, cell), dtype),
        pressure=jnp.asarray(pressure, dtype),
        damping=jnp.asarray(damping, dtype),
        tolerance=jnp.asarray(limit, dtype),
        cell=cell,
        dense=dense,
    )
    return _follow(energy, point)


def follow(energy: AbstractEnergy, point: StationaryPoint) -> StationaryPoint:
    """The stationary point of `energy` next to `point`, with derivatives by the inexact leaves of `energy` (and of
    `point.system`: a cell that does not relax may itself depend on parameters).

    A pure function for inside jit and any transformation. Newton's method goes from `point.system`, so `energy` may
    differ from the one that `point` was found with as long as the point does not move too far: `converged` says so, and
    where it is false, `relax` again on the host. `condition` and `negative` are not differentiated. With more than
    `point.dense` coordinates linear systems are solved by MINRES, and the two are found from 40 steps of Lanczos'
    method.
    """
    z, matrix, residual, found = _newton(*constant((energy, point)))
    problem = _Problem(energy, point)

    def tangent(linear, right):
        """By the matrix that Newton's method ended with: with its derivatives, the system solves for any order."""

        def by_matrix(_, vector):
            return jnp.linalg.solve(matrix, vector)

        method = by_matrix if problem.motion.dense else minres
        return lax.custom_linear_solve(problem.damped(linear), right, method, symmetric=True)

    z = lax.custom_root(problem.equations(), z, lambda _, root: root, tangent)
    system = problem.moved(z)
    neighbors = check(*constant((point.neighbors, system)))
    converged = (residual <= point.tolerance) & ~neighbors.failed
    changes = (system, problem.energy_at(system), residual, found.condition, found.negative, converged, neighbors)
    return eqx.tree_at(
        lambda p: (p.system, p.energy, p.residual, p.condition, p.negative, p.converged, p.neighbors), point, changes
    )


_follow = Compiled(follow)


class _Problem(eqx.Module):
    """The equations of a stationary point, in displacements from `point` and, before them, six strains times a
    length."""

    energy: AbstractEnergy
    point: StationaryPoint

    @property
    def motion(self) -> Motion:
        return Motion(self.point.rigid, _mask(self.point), dense=len(self.point.rigid) <= self.point.dense)

    def moved(self, z: Float[Array, "features"]) -> System:
        """The system with its atoms displaced and, where the cell relaxes, everything strained."""
        start = self.point.system
        system = with_positions(start, start.positions + z[-start.positions.size :].reshape(-1, 3))
        return strained(system, from_voigt(z[:6] / _length(start))) if self.point.cell else system

    def energy_at(self, system: System) -> Float[Array, ""]:
        energies = system_energies(self.energy, to_graph(self.point.neighbors, system))
        return energies[0].astype(system.positions.dtype)

    def equations(self) -> Product:
        """What vanishes: the gradient of the enthalpy by what is free to move, and what is not free."""
        motion = self.motion

        def enthalpy(z):
            system = self.moved(z)
            work = self.point.pressure * system.volume() if self.point.cell else 0.0
            return self.energy_at(system) + work

        def wrong(z):
            inside = motion.project(z)
            return motion.project(jax.grad(enthalpy)(inside)) + (z - inside)

        return wrong

    def damped(self, linear: Product) -> Product:
        return lambda v: linear(v) + self.point.damping * v


def _newton(energy: AbstractEnergy, point: StationaryPoint) -> tuple[Array, Array, Array, Spectrum]:
    """The root, the matrix there (empty where it would be large), what is left of the gradient, and the spectrum."""
    problem = _Problem(energy, point)
    guess = jnp.zeros_like(problem.motion.free)
    dense, dtype = problem.motion.dense, guess.dtype

    def go_on(state):
        _, _, residual, steps = state
        return (residual > point.tolerance) & (steps < _STEPS) & ~jnp.isnan(residual)

    def step(state):
        z, _, _, steps = state
        wrong, linear = jax.linearize(problem.equations(), z)
        residual = jnp.max(jnp.abs(wrong))
        if dense:
            matrix = matrix_of(problem.damped(linear), z)
            move = -jnp.linalg.solve(matrix, wrong)
        else:
            matrix, move = jnp.zeros((0, 0), dtype), -minres(problem.damped(linear), wrong)
        move = move * jnp.minimum(1.0, _LONGEST / jnp.maximum(jnp.max(jnp.abs(move)), jnp.finfo(dtype).tiny))
        return jnp.where(residual > point.tolerance, z + move, z), matrix, residual, steps + 1

    blank = jnp.zeros((len(guess), len(guess)) if dense else (0, 0), dtype)
    first = (guess, blank, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32))
    z, matrix, residual, _ = lax.while_loop(go_on, step, first)
    if dense:
        bare = matrix - point.damping * jnp.eye(len(z), dtype=dtype)
        return z, matrix, residual, spectrum(bare, frozen=_frozen(point))
    _, linear = jax.linearize(problem.equations(), z)
    start = problem.motion.project(jax.random.normal(jax.random.key(0), guess.shape, dtype))
    return z, matrix, residual, estimate_spectrum(lambda v: problem.motion.project(linear(v)), start)


def constant(tree: Any) -> Any:
    """The same numbers, without derivatives."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def mobile(point: StationaryPoint) -> Motion:
    """What atoms can do in a cell that stays."""
    atoms = len(point.system.numbers)
    rigid, free = point.rigid[-3 * atoms :], _mask(point)[-3 * atoms :]
    return Motion(rigid, free, dense=3 * atoms <= point.dense)


def _mask(point: StationaryPoint) -> Float[Array, "features"]:
    """1 for what may move, 0 for the coordinates of fixed atoms."""
    free = jnp.ones(len(point.rigid), point.rigid.dtype)
    if point.system.constraints is None or not len(point.system.constraints.fixed):
        return free
    return free.reshape(-1, 3).at[point.system.constraints.fixed].set(0.0).reshape(-1)


def _frozen(point: StationaryPoint) -> int:
    """How many dimensions nothing moves in."""
    constraints = point.system.constraints
    return point.rigid.shape[1] + (0 if constraints is None else 3 * len(constraints.fixed))


def _length(system: System) -> Float[Array, ""]:
    """By how much [Å] a unit of strain moves the cell: its size times the square root of a length in atoms."""
    return jnp.cbrt(system.volume()) * float(len(system.numbers)) ** (1.0 / 6.0)


_forces = Compiled(evaluate)


def _rigid_motions(energy: AbstractEnergy, system: System, neighbors: Neighbors, cell: bool) -> np.ndarray:
    """An orthonormal basis of the motions that leave the energy as it is (host).

    Translations, and rotations about the axis of a chain or any axis of a molecule, as far as neither work nor torque
    is done along them in randomly displaced structures: in an external field fewer of them, or combinations, are left.
    """
    positions, atoms = np.asarray(system.positions, np.float64), len(system.numbers)
    features = 3 * atoms + 6 * cell
    if system.constraints is not None and len(system.constraints.fixed):
        return np.zeros((features, 0))
    axes = np.asarray(system.cell, np.float64)[list(system.pbc)]
    axes = np.eye(3) if len(axes) == 0 else axes[:1] if len(axes) == 1 else np.zeros((0, 3))

    def motions(x):
        turns = [np.cross(axis / np.linalg.norm(axis), x - x.mean(axis=0)) for axis in axes]
        return np.stack([*np.broadcast_to(np.eye(3)[:, None], (3, atoms, 3)), *turns]).reshape(-1, 3 * atoms)

    rng = np.random.default_rng(0)
    small = float(np.finfo(system.positions.dtype).eps) ** (1.0 / 3.0)  # also [eV/Å]: less is rounding
    work = []
    for _ in range(_SAMPLES):
        shift = 0.1 * neighbors.skin * rng.uniform(-1.0, 1.0, (atoms, 3)) + rng.normal(size=(1, 3))
        there = with_positions(system, jnp.asarray(positions + shift, system.positions.dtype))
        force = np.asarray(_forces(energy, there, neighbors)[1], np.float64).ravel()
        ways = motions(positions + shift)
        work.append(ways @ force / (np.linalg.norm(ways) * max(np.linalg.norm(force), small)))
    _, sizes, combinations = np.linalg.svd(np.stack(work))
    kept = combinations[sizes < small]
    left, lengths, _ = np.linalg.svd((kept @ motions(positions)).T, full_matrices=False)
    basis = left[:, lengths > 1e-6 * np.sqrt(atoms)]
    return np.concatenate([np.zeros((6 * cell, basis.shape[1])), basis])
