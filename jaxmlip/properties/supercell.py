"""Repeated cells whose atoms follow the cell that they are made of, so that derivatives pass from one to the other."""

from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import Neighbors, allocate
from jaxmlip.system import System

_CANDIDATES = np.array(list(itertools.product(range(-2, 3), repeat=3)))
_TIE = 1e-3  # Å


class Supercell(eqx.Module):
    """How a crystal is repeated; `build` makes the system.

    The rows of `repeats` are the lattice vectors in those of the cell. Site k is a copy of atom `home[k]`, moved by
    `shifts[k]` lattice vectors; the first sites are the atoms themselves. Seen from an atom, a site is nearest in one
    or several `images` (lattice vectors of the cell), which share it by `weights`. `neighbors` is the list of the
    supercell.
    """

    repeats: Int[Array, "3 3"]
    home: Int[Array, "sites"]
    shifts: Int[Array, "sites 3"]
    images: Int[Array, "atoms sites images 3"]
    weights: Float[Array, "atoms sites images"]
    neighbors: Neighbors

    def build(self, system: System) -> System:
        """The repeated system."""
        steps = self.shifts.astype(system.cell.dtype)
        return System(
            positions=system.positions[self.home] + product(steps, system.cell),
            numbers=system.numbers[self.home],
            cell=product(self.repeats.astype(system.cell.dtype), system.cell),
            masses=system.masses[self.home],
            charge=system.charge * (len(self.home) // len(system.numbers)),
            pbc=system.pbc,
        )


def make_supercell(system: System, repeats: Any, cutoff: float, *, skin: float = 0.5) -> Supercell:
    """A supercell of a crystal with the neighbor list for energies of `cutoff` [Å] (host).

    `repeats` are three whole numbers, or the nine of a matrix whose rows are the new lattice vectors. `skin` [Å] is how
    far the crystal may change until another list is needed.

    **Raises:** `ValueError` where the system is not periodic in all directions, or `repeats` are no whole numbers of
    positive determinant.
    """
    if not all(system.pbc):
        raise ValueError(f"A supercell is made of a system that is periodic in all directions; `pbc` is {system.pbc}.")
    given = np.asarray(repeats)
    matrix = np.diag(given) if given.shape == (3,) else given
    if matrix.shape != (3, 3) or not np.issubdtype(matrix.dtype, np.integer) or np.linalg.det(matrix) < 0.5:
        raise ValueError(f"`repeats` must be 3 or 3x3 whole numbers of positive determinant; got {given.tolist()}.")
    cell, positions = np.asarray(system.cell, np.float64), np.asarray(system.positions, np.float64)
    inside = _inside(matrix)
    home = np.tile(np.arange(len(positions)), len(inside))
    shifts = np.repeat(inside, len(positions), axis=0)
    steps = shifts[:, None] + (_CANDIDATES @ matrix)[None]
    sites = positions[home][:, None] + steps @ cell
    distances = np.linalg.norm(sites[None] - positions[:, None, None], axis=-1)
    near = distances < distances.min(axis=-1, keepdims=True) + _TIE
    most = near.sum(axis=-1).max()
    chosen = np.argsort(~near, axis=-1, kind="stable")[..., :most]
    shares = np.take_along_axis(near, chosen, axis=-1) / near.sum(axis=-1, keepdims=True)
    images = np.take_along_axis(np.broadcast_to(steps[None], (*near.shape, 3)), chosen[..., None], axis=2)
    dtype = system.positions.dtype
    bare = Supercell(
        repeats=jnp.asarray(matrix, jnp.int32),
        home=jnp.asarray(home, jnp.int32),
        shifts=jnp.asarray(shifts, jnp.int32),
        images=jnp.asarray(images, jnp.int32),
        weights=jnp.asarray(shares, dtype),
        neighbors=allocate(system, cutoff, skin=skin),
    )
    return eqx.tree_at(lambda s: s.neighbors, bare, allocate(bare.build(system), cutoff, skin=skin))


def _inside(matrix: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "cells 3"]:
    """The lattice vectors within a supercell, none first."""
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ matrix
    ranges = [range(low, high + 1) for low, high in zip(corners.min(axis=0), corners.max(axis=0), strict=True)]
    steps = np.array(list(itertools.product(*ranges)))
    fractions = steps @ np.linalg.inv(matrix)
    kept = steps[np.all((fractions > -1e-9) & (fractions < 1.0 - 1e-9), axis=1)]
    return kept[np.argsort(np.any(kept != 0, axis=1), kind="stable")]
