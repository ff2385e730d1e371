"""Neighbors by a grid of cells: work grows with the number of atoms; for boxes of any shape, slabs and wires included.

The unit cell is cut into `grid` cells along its lattice vectors. Each cell is compared with those up to `reach` cells
away, periodic images among them, so an axis shorter than the cutoff is only an axis with few cells and a long reach.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxmlip.graph.compact import WORD, select_bits
from jaxmlip.graph.images import Found
from jaxmlip.graph.lattice import fractional_once, product, reciprocal

_FAR = 1e15  # where the atoms of empty slots are put [Å]; its square is finite in float32


class Places(NamedTuple):
    """Where the atoms are: cell along each axis, lattice vectors back to the unwrapped atom, wrapped positions [Å]."""

    cells: Int[Array, "3 atoms"]
    wraps: Int[Array, "3 atoms"]
    wrapped: Float[Array, "3 atoms"]
    shrunk: Bool[Array, ""]


def cell_grid(
    extents: np.ndarray, pbc: tuple[bool, bool, bool], radius: float, most: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """`(grid, reach)` for a search up to `radius` [Å] in a box of `extents` [Å].

    Extents are heights or, where the box is not periodic, the spread of the atoms. Cells are as thin as the radius,
    or thicker where there would be more than `most` of them (host).
    """
    grid = np.maximum(1, np.floor(extents / radius).astype(int))
    while np.prod(grid) > most:
        grid[np.argmax(grid)] -= 1
    spans = np.ceil(radius * grid / extents - 1e-9)
    reach = np.where(pbc, spans, np.minimum(1, grid - 1))
    (nx, ny, nz), (rx, ry, rz) = grid.tolist(), reach.astype(int).tolist()
    return (nx, ny, nz), (rx, ry, rz)


def place_atoms(
    positions: Float[Array, "atoms 3"],
    mask: Bool[Array, "atoms"],
    cell: Float[Array, "3 3"],
    *,
    pbc: tuple[bool, bool, bool],
    grid: tuple[int, int, int],
    reach: tuple[int, int, int],
    radius: float,
) -> Places:
    """Sort atoms into cells; `shrunk` where `reach` cells no longer span `radius` [Å].

    Along a direction that is not periodic the grid spans the atoms as they are now, with cells never thinner than the
    search needs; nothing can leave it.
    """
    rows, heights = reciprocal(cell)
    fractional = fractional_once(positions, rows)
    cells, wraps, inside, shrunk = [], [], [], jnp.asarray(False)
    for a in range(3):
        x = fractional[a]
        span = radius / heights[a]
        if pbc[a]:
            wrap = jnp.floor(x)
            x = x - wrap
            place = x * grid[a]
            shrunk = shrunk | ~(span * grid[a] <= reach[a])
        else:
            wrap = jnp.zeros_like(x)
            low = jnp.min(jnp.where(mask, x, jnp.asarray(jnp.inf, x.dtype)))
            high = jnp.max(jnp.where(mask, x, jnp.asarray(-jnp.inf, x.dtype)))
            place = (x - low) / jnp.maximum((high - low) / grid[a], span / max(reach[a], 1))
        cells.append(jnp.clip(jnp.floor(place), 0, grid[a] - 1).astype(jnp.int32))
        wraps.append(wrap.astype(jnp.int32))
        inside.append(x)
    return Places(jnp.stack(cells), jnp.stack(wraps), product(jnp.stack(inside, axis=1), cell).T, shrunk)


def search_cells(
    positions: Float[Array, "atoms 3"],
    mask: Bool[Array, "atoms"],
    cell: Float[Array, "3 3"],
    *,
    pbc: tuple[bool, bool, bool],
    grid: tuple[int, int, int],
    reach: tuple[int, int, int],
    slots: int,
    radius: float,
    capacity: int,
) -> Found:
    """All pairs within `radius` [Å], where no cell holds more than `slots` atoms (`crowd` says how many one holds)."""
    places = place_atoms(positions, mask, cell, pbc=pbc, grid=grid, reach=reach, radius=radius)
    table, column, crowd = _fill(places.cells, mask, grid, slots)
    offsets = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))), np.int32)
    corners = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid)).astype(np.int32)
    target, image, exists = _across(jnp.asarray(corners)[:, None, :], jnp.asarray(offsets.T)[:, :, None], grid, pbc)
    empty = table < 0
    far = jnp.asarray(_FAR, positions.dtype)
    held = jnp.where(empty[None], far, places.wrapped[:, jnp.maximum(table, 0)])
    translation = jnp.where(
        exists[None], product(jnp.moveaxis(image, 0, -1).astype(cell.dtype), cell).transpose(2, 0, 1), far
    )
    home = np.all(offsets == 0, axis=1)
    words = [_close(held, chunk, target, translation, home, radius) for chunk in _chunks(slots)]
    found = jnp.stack(words, axis=1).reshape(len(offsets) * len(words), -1)
    index, edge_mask, counts = select_bits(jnp.where(mask[None, :], found[:, column], jnp.uint32(0)), capacity)

    word, bit = index // WORD, index % WORD
    slot = word % len(words) * WORD + bit
    offset = jnp.asarray(offsets.T)[:, word // len(words)]
    target, image, _ = _across(places.cells[:, None, :], offset, grid, pbc)
    own = lax.broadcasted_iota(jnp.int32, index.shape, 1)
    senders = jnp.where(edge_mask, table[target, jnp.minimum(slot, slots - 1)], own)
    shifts = image - places.wraps[:, senders] + places.wraps[:, None, :]
    shifts = jnp.where(edge_mask[None], shifts, jnp.zeros_like(shifts))
    return Found(senders, shifts, edge_mask, jnp.max(counts), crowd, places.shrunk)


def _fill(
    cells: Int[Array, "3 atoms"], mask: Bool[Array, "atoms"], grid: tuple[int, int, int], slots: int
) -> tuple[Int[Array, "cells slots"], Int[Array, "atoms"], Int[Array, ""]]:
    """Atoms in each cell (-1 in empty slots), the slot of each atom, and the most atoms that a cell holds."""
    total = int(np.prod(grid))
    number = jnp.where(mask, (cells[0] * grid[1] + cells[1]) * grid[2] + cells[2], total)
    ordered, order = lax.sort_key_val(number, jnp.arange(len(mask), dtype=jnp.int32))
    start = jnp.searchsorted(ordered, jnp.arange(total + 1, dtype=jnp.int32)).astype(jnp.int32)
    rank = jnp.arange(len(mask), dtype=jnp.int32) - start[ordered]
    place = jnp.clip(ordered * slots + jnp.minimum(rank, slots - 1), 0, total * slots - 1)
    column = jnp.zeros_like(order).at[order].set(place, unique_indices=True)
    held = start[:-1, None] + jnp.arange(slots, dtype=jnp.int32)[None, :]
    table = jnp.where(held < start[1:, None], order[jnp.minimum(held, len(mask) - 1)], -1)
    return table, column, jnp.max(start[1:] - start[:-1])


def _across(
    cells: Int[Array, "3 *here"],
    offset: Int[Array, "3 *there"],
    grid: tuple[int, int, int],
    pbc: tuple[bool, bool, bool],
) -> tuple[Int[Array, "*both"], Int[Array, "3 *both"], Bool[Array, "*both"]]:
    """Number and image of the cell that is `offset` away, and whether there is one."""
    number, images, exists = jnp.int32(0), [], jnp.asarray(True)
    for a in range(3):
        place = cells[a] + offset[a]
        image = place // grid[a] if pbc[a] else jnp.zeros_like(place)
        within = place - image * grid[a]
        exists = exists & (within >= 0) & (within < grid[a])
        number = number * grid[a] + jnp.clip(within, 0, grid[a] - 1)
        images.append(image)
    return number, jnp.stack(images), exists


def _chunks(slots: int) -> list[range]:
    """Slots in runs that fit a word."""
    return [range(first, min(first + WORD, slots)) for first in range(0, slots, WORD)]


def _close(
    held: Float[Array, "3 cells slots"],
    senders: range,
    target: Int[Array, "offsets cells"],
    translation: Float[Array, "3 offsets cells"],
    home: Bool[np.ndarray, "offsets"],
    radius: float,
) -> UInt32[Array, "offsets cells*slots"]:
    """One bit for each slot in `senders`: is its atom, `offsets` cells away, close to the atom in each slot?"""
    shape = (*target.shape, held.shape[2])

    def test(found, slot):
        squared = jnp.zeros(shape, held.dtype)
        for x in range(3):
            there = held[x, :, slot][target] + translation[x]
            difference = there[:, :, None] - held[x][None]
            squared = squared + difference * difference
        itself = jnp.asarray(home)[:, None, None] & (jnp.arange(shape[2], dtype=jnp.int32) == slot)[None, None, :]
        close = (squared <= radius * radius) & ~itself
        return found | (close.astype(jnp.uint32) << (slot % WORD).astype(jnp.uint32)), None

    found, _ = lax.scan(test, jnp.zeros(shape, jnp.uint32), jnp.asarray(senders, jnp.int32), unroll=2)
    return found.reshape(shape[0], -1)
