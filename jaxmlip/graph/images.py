"""Neighbors by enumeration: every pair of atoms and every image of a fixed stencil, for cells of any size and shape."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.graph.compact import WORD, select_bits
from jaxmlip.graph.lattice import fractional_once, product, reciprocal


class Found(NamedTuple):
    """What a search returns: the edges, how many the busiest atom has (`most`, whether they fit or not), how many atoms
    share a cell (`crowd`; 0 where there are no cells), and whether the box is too small for the stencil (`shrunk`).
    """

    senders: Int[Array, "neighbors atoms"]
    shifts: Int[Array, "3 neighbors atoms"]
    edge_mask: Bool[Array, "neighbors atoms"]
    most: Int[Array, ""]
    crowd: Int[Array, ""]
    shrunk: Bool[Array, ""]


def image_reach(heights: np.ndarray, pbc: tuple[bool, bool, bool], radius: float) -> tuple[int, int, int]:
    """Images to either side for a search up to `radius` [Å] once pairs are brought to within half a cell (host)."""
    x, y, z = (int(np.floor(radius / h + 0.5)) if p else 0 for h, p in zip(heights, pbc, strict=True))
    return x, y, z


def search_images(
    positions: Float[Array, "atoms 3"],
    mask: Bool[Array, "atoms"],
    cell: Float[Array, "3 3"],
    *,
    pbc: tuple[bool, bool, bool],
    reach: tuple[int, int, int],
    radius: float,
    capacity: int,
) -> Found:
    """All pairs within `radius` [Å].

    Fractional differences are rounded to the nearest image, so `reach_a >= floor(radius / height_a + 1/2)` images to
    either side suffice. Neighbors are in order of sender, then shift.
    Work is one distance for each pair and image, memory one bit.
    """
    atoms = positions.shape[0]
    rows, heights = reciprocal(cell)
    periodic = np.asarray(pbc)
    limit = jnp.asarray([r + 0.5 for r in reach], heights.dtype)
    shrunk = jnp.any(jnp.asarray(periodic) & ~(radius / heights < limit))
    fractional = fractional_once(positions, rows)
    table = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))), np.int32)
    images = len(table)
    words = -(-atoms * images // WORD)
    candidate = np.arange(words * WORD, dtype=np.int32)
    sender = np.minimum(candidate // images, atoms - 1)
    image = candidate % images
    exists = candidate < atoms * images
    offsets = product(jnp.asarray(table, positions.dtype), cell)

    def rowwise(x):
        return jnp.moveaxis(jnp.asarray(x).reshape(words, WORD, *x.shape[1:]), 1, 0)

    def test(carry, row):
        found, bit = carry
        there, offset, number, home, real = row
        difference = [there[:, a, None] - fractional[a][None, :] for a in range(3)]
        nearest = [d - jnp.round(d) if p else d for d, p in zip(difference, pbc, strict=True)]
        squared = jnp.zeros_like(nearest[0])
        for x in range(3):
            vector = offset[:, x, None] + sum(nearest[a] * cell[a, x] for a in range(3))
            squared = squared + vector * vector
        itself = home[:, None] & (number[:, None] == jnp.arange(atoms, dtype=jnp.int32)[None, :])
        close = (squared <= radius * radius) & ~itself & real[:, None] & mask[None, :]
        return (found | (close.astype(jnp.uint32) << bit), bit + jnp.uint32(1)), None

    there = rowwise(fractional.T[sender])
    is_home = rowwise(np.all(table == 0, axis=1)[image])
    real = rowwise(jnp.asarray(exists) & mask[sender])
    start = (jnp.zeros((words, atoms), jnp.uint32), jnp.uint32(0))
    (found, _), _ = lax.scan(test, start, (there, rowwise(offsets[image]), rowwise(sender), is_home, real))

    index, edge_mask, counts = select_bits(found, capacity)
    own = lax.broadcasted_iota(jnp.int32, index.shape, 1)
    senders = jnp.where(edge_mask, jnp.minimum(index // images, atoms - 1), own)
    image_index = index % images
    shifts = []
    for a in range(3):
        shift = jnp.asarray(table[:, a])[image_index]
        if pbc[a]:
            shift = shift - jnp.round(fractional[a][senders] - fractional[a][None, :]).astype(jnp.int32)
        shifts.append(jnp.where(edge_mask, shift, jnp.zeros_like(shift)))
    return Found(senders, jnp.stack(shifts), edge_mask, jnp.max(counts), jnp.int32(0), shrunk)
