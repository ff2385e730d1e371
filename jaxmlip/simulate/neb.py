r"""Nudged elastic band: the path of least energy between two minima, and the barrier on it.

Images $R_i$ of the system between the two ends are held apart by springs along the path and follow the forces across
it,

$F_i = F_i^\perp + k (|R_{i+1} - R_i| - |R_i - R_{i-1}|) \hat\tau_i$,

with the tangent $\hat\tau_i$ towards the neighbor of higher energy; the highest image climbs,
$F = F - 2 (F \cdot \hat\tau) \hat\tau$, and comes to rest on the saddle point.

**Reference:** Henkelman & Jónsson, J. Chem. Phys. 113, 9978 (2000), doi:10.1063/1.1323224 (tangents); Henkelman,
Uberuaga & Jónsson, J. Chem. Phys. 113, 9901 (2000), doi:10.1063/1.1329672 (climbing image).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, check_system
from jaxmlip.graph.nearest import nearest_images, short_lattice
from jaxmlip.graph.neighbors import Neighbors, allocate, grow, rebuild, skin_used
from jaxmlip.simulate.constraints import project
from jaxmlip.simulate.errors import SimulationError
from jaxmlip.simulate.integrator import check_positive
from jaxmlip.simulate.minimizers import FIRE, Descent
from jaxmlip.simulate.state import evaluate, with_positions
from jaxmlip.system import System

_CHUNK = 200
_RETRIES = 20
_ROUGH = 10.0  # the highest image climbs once the largest force is below this many times the tolerance
_METHOD = FIRE()


class Path(eqx.Module):
    """A path of least energy: `systems` with a leading axis of images, both ends included, and their `energies` [eV].

    `forces` [eV/Å] are those of the energy; `fmax` [eV/Å] is the largest on an image of the band: forces across the
    path, springs, and those of the climb. `steps` counts evaluations of all images; `converged`: whether `fmax` came
    below the tolerance.
    """

    systems: System
    energies: Float[Array, "images"]
    forces: Float[Array, "images atoms 3"]
    fmax: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]

    @property
    def barrier(self) -> Float[Array, ""]:
        """From the first end to the highest image [eV]."""
        return jnp.max(self.energies) - self.energies[0]

    @property
    def reverse_barrier(self) -> Float[Array, ""]:
        """From the last end to the highest image [eV]."""
        return jnp.max(self.energies) - self.energies[-1]

    @property
    def distances(self) -> Float[Array, "images"]:
        """How far each image is along the path [Å, over all atoms]."""
        steps = jnp.sqrt(jnp.sum(jnp.diff(self.systems.positions, axis=0) ** 2, axis=(1, 2)))
        return jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])

    def image(self, index: int) -> System:
        """One image as a system."""
        return jax.tree.map(lambda x: x[index], self.systems)


class _Band(Descent):
    """The images between the ends on their way down: `system` and `neighbors` have a leading axis."""

    ends: Float[Array, "2 atoms 3"]
    end_energies: Float[Array, "2"]
    energies: Float[Array, "images"]
    spring: Float[Array, ""]
    climbs: Bool[Array, ""]


def neb(
    energy: AbstractEnergy,
    start: System,
    end: System,
    *,
    images: int = 7,
    fmax: float = 0.02,
    steps: int = 2000,
    climb: bool = True,
    spring: float = 1.0,
    skin: float = 0.5,
) -> Path:
    """The path of least energy from `start` to `end`, two minima of the same atoms in the same order and cell.

    `images` lie between the ends, at first on straight lines to the nearest images of the atoms; all are computed
    together. FIRE runs until no force on an image exceeds `fmax` [eV/Å], or `steps` evaluations are used up. With
    `climb` the highest image goes to the saddle point. `spring` [eV/Å²] holds the images apart. Atoms that are fixed
    stay where they are. The ends do not move: relax them first (`minimize`), from shaken positions, so that they are
    minima indeed; with anything lower between them the band runs away.

    **Raises:** `ValueError` where the ends are not the same atoms in the same cell, or a number makes no sense;
    `SimulationError` where an energy becomes not finite.
    """
    for name, unit, value in (("fmax", "eV/Å", fmax), ("spring", "eV/Å²", spring), ("skin", "Å", skin)):
        check_positive(name, unit, value)
    if images < 1 or steps < 1:
        raise ValueError(f"`images` and `steps` must be at least 1; got {images} and {steps}.")
    _check_ends(energy, start, end)
    path = interpolate(start, end, images)
    neighbors = allocate(path, energy.cutoff or 1.0, skin=skin)
    tolerance = jnp.asarray(fmax, path.positions.dtype)
    band = _begin(energy, path, neighbors, jnp.asarray(spring, path.positions.dtype))
    for limit, climbing in [(_ROUGH * tolerance, False)] * climb + [(tolerance, climb)]:
        band = eqx.tree_at(lambda b: b.climbs, band, jnp.asarray(climbing))
        band = _relax(energy, band, limit, steps)
    positions = jnp.concatenate([band.ends[:1], band.system.positions, band.ends[1:]])
    path = eqx.tree_at(lambda s: s.positions, path, positions)
    energies, forces = _evaluate_all(energy, path, allocate(path, energy.cutoff or 1.0, skin=0.0))
    return Path(path, energies, forces, band.fmax, band.steps, band.fmax < fmax)


def interpolate(start: System, end: System, images: int) -> System:
    """`images` systems between two, and both ends, on straight lines from each atom to its nearest image at the end."""
    lattice = short_lattice(start.cell, jnp.asarray(start.pbc))
    moves = nearest_images(end.positions - start.positions, lattice)
    parts = jnp.linspace(0.0, 1.0, images + 2, dtype=moves.dtype)
    positions = start.positions[None] + parts[:, None, None] * moves[None]
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (images + 2, *jnp.shape(x))), start)
    return eqx.tree_at(lambda s: s.positions, copies, positions)


def _check_ends(energy: AbstractEnergy, start: System, end: System) -> None:
    check_system(energy, start)
    if not np.array_equal(start.numbers, end.numbers):
        raise ValueError(
            f"The ends must be the same atoms in the same order; got {len(start.numbers)} and {len(end.numbers)} atoms"
            f"{'' if len(start.numbers) != len(end.numbers) else ' of other elements'}."
        )
    if start.pbc != end.pbc or not np.allclose(start.cell, end.cell, atol=1e-6):
        raise ValueError("The ends must have the same cell: relax them with the cell held fixed.")
    if start.constraints is not None and len(start.constraints.pairs):
        raise ValueError("A path keeps fixed atoms, but no rigid bonds: take them off with `constrain(system)`.")


def _relax(energy: AbstractEnergy, band: _Band, limit: Array, steps: int) -> _Band:
    """Down to a largest force, in chunks that are replayed with more room for neighbors where they need it."""
    band = _placed(energy, band)
    while int(band.steps) < steps and not bool(band.fmax < limit):
        budget = jnp.asarray(min(_CHUNK, steps - int(band.steps)), jnp.int32)
        for _ in range(_RETRIES):
            after = _descend(energy, band, limit, budget)
            if not bool(jnp.any(after.neighbors.failed)):
                break
            band = eqx.tree_at(lambda b: b.neighbors, band, grow(after.neighbors, band.system, kept=band.neighbors))
        if not bool(jnp.all(jnp.isfinite(after.energies)) & jnp.isfinite(after.fmax)):
            cause = "an energy or a force is not finite on the path"
            raise SimulationError(cause, step=int(after.steps), state=band.system)
        band = after
    return band


@Compiled
def _begin(energy: AbstractEnergy, path: System, neighbors: Neighbors, spring: Array) -> _Band:
    dtype, inside = path.positions.dtype, np.arange(1, path.positions.shape[0] - 1)
    system, inner = _of(path, neighbors, inside)
    ends, _ = _evaluated(energy, *_of(path, neighbors, np.array([0, -1])))
    zero = jnp.zeros((), dtype)
    coordinates = system.positions.reshape(-1, 3)
    return _Band(
        reference=system,
        coordinates=coordinates,
        force=jnp.zeros_like(coordinates),
        system=system,
        neighbors=inner,
        value=zero,
        fmax=zero,
        smax=zero,
        steps=jnp.zeros((), jnp.int32),
        stalled=jnp.asarray(False),
        memory=_METHOD.start(coordinates),
        ends=path.positions[np.array([0, -1])],
        end_energies=ends,
        energies=jnp.zeros(len(inside), dtype),
        spring=spring,
        climbs=jnp.asarray(False),
    )


@Compiled
def _placed(energy: AbstractEnergy, band: _Band) -> _Band:
    """The forces where the band is, and no memory of how it came there."""
    band = eqx.tree_at(lambda b: b.memory, band, _METHOD.start(band.coordinates))
    return _moved(energy, band, band.coordinates)


@Compiled
def _descend(energy: AbstractEnergy, band: _Band, limit: Array, budget: Array) -> _Band:
    """Up to `budget` steps; stops where converged, not finite, or out of room for neighbors."""
    last = band.steps + budget

    def go_on(b: _Band):
        return (b.steps < last) & (b.fmax >= limit) & ~jnp.any(b.neighbors.failed)

    def step(b: _Band) -> _Band:
        after = _METHOD.step(lambda state, coordinates: _moved(energy, state, coordinates), b)
        return eqx.tree_at(lambda x: x.steps, after, b.steps + 1)

    return lax.while_loop(go_on, step, band)


def _moved(energy: AbstractEnergy, band: Descent, coordinates: Float[Array, "features 3"]) -> _Band:
    """The band with its images elsewhere."""
    assert isinstance(band, _Band)
    system = jax.vmap(with_positions)(band.system, coordinates.reshape(band.system.positions.shape))
    used = jnp.any(jax.vmap(skin_used)(band.neighbors, system) > 1.0)
    neighbors = lax.cond(used, jax.vmap(rebuild), lambda n, _: n, band.neighbors, system)
    energies, forces = _evaluated(energy, system, neighbors)
    force = jax.vmap(project)(system, _nudged(band, system.positions, energies, forces))
    fmax = jnp.sqrt(jnp.max(jnp.sum(force * force, axis=-1)))
    return eqx.tree_at(
        lambda b: (b.coordinates, b.force, b.system, b.neighbors, b.value, b.fmax, b.energies),
        band,
        (coordinates, force.reshape(-1, 3), system, neighbors, jnp.max(energies), fmax, energies),
    )


def _nudged(
    band: _Band,
    positions: Float[Array, "images atoms 3"],
    energies: Float[Array, "images"],
    forces: Float[Array, "images atoms 3"],
) -> Float[Array, "images atoms 3"]:
    """Forces across the path and springs along it; the highest image, if it climbs, goes up along the path instead."""
    path = jnp.concatenate([band.ends[:1], positions, band.ends[1:]])
    levels = jnp.concatenate([band.end_energies[:1], energies, band.end_energies[1:]])
    moves, rises = jnp.diff(path, axis=0), jnp.diff(levels)
    tangents = jax.vmap(_tangent)(moves[:-1], moves[1:], rises[:-1], rises[1:])
    lengths = jnp.sqrt(jnp.sum(moves * moves, axis=(1, 2)))
    along = jnp.sum(forces * tangents, axis=(1, 2))
    springs = band.spring * jnp.diff(lengths)
    highest = jnp.arange(len(energies)) == jnp.argmax(energies)
    push = jnp.where(band.climbs & highest, -2.0 * along, springs - along)
    return forces + push[:, None, None] * tangents


def _tangent(
    before: Float[Array, "atoms 3"], after: Float[Array, "atoms 3"], rise: Float[Array, ""], next_rise: Float[Array, ""]
) -> Float[Array, "atoms 3"]:
    """The direction of the path at an image: towards its higher neighbor, or at an extremum between both."""
    large = jnp.maximum(jnp.abs(rise), jnp.abs(next_rise))
    small = jnp.minimum(jnp.abs(rise), jnp.abs(next_rise))
    uphill = rise + next_rise > 0.0  # the next image is above the one before
    mixed = after * jnp.where(uphill, large, small) + before * jnp.where(uphill, small, large)
    rises, falls = (rise > 0.0) & (next_rise > 0.0), (rise < 0.0) & (next_rise < 0.0)
    tangent = jnp.where(rises, after, jnp.where(falls, before, mixed))
    length = jnp.sqrt(jnp.sum(tangent * tangent))
    flat = length <= 0.0  # all energies the same: the middle
    return jnp.where(flat, after + before, tangent) / jnp.where(flat, jnp.ones_like(length), length)


def _evaluated(
    energy: AbstractEnergy, systems: System, neighbors: Neighbors
) -> tuple[Float[Array, "images"], Float[Array, "images atoms 3"]]:
    """Energies [eV] and forces [eV/Å] of all images."""
    return jax.vmap(lambda s, n: evaluate(energy, s, n))(systems, neighbors)


_evaluate_all = Compiled(_evaluated)


def _of(systems: System, neighbors: Neighbors, index: np.ndarray) -> tuple[System, Neighbors]:
    """Some of the images."""
    return jax.tree.map(lambda x: x[index], (systems, neighbors))
