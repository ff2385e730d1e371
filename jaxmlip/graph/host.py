"""Neighbor lists on the host, by vesin: any cell, any periodicity, any number of images. The oracle of the rest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from vesin import NeighborList


def neighbor_pairs(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: tuple[bool, bool, bool],
    cutoff: float,
) -> tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"], Int[np.ndarray, "edges 3"]]:
    """Every directed pair within `cutoff` [Å] as `(receivers, senders, shifts)`, sorted by receiver.

    The vector of a pair is `positions[senders] + shifts @ cell - positions[receivers]`. Positions need not be wrapped.
    """
    if cutoff <= 0:
        raise ValueError(f"`cutoff` must be positive [Å]; got {cutoff}.")
    search = NeighborList(cutoff=float(cutoff), full_list=True, sorted=True, n_threads=1)
    i, j, s = search.compute(
        points=np.asarray(positions, np.float64),
        box=complete_cell(np.asarray(cell, np.float64), pbc),
        periodic=list(pbc),
        quantities="ijS",
    )
    return i.astype(np.int32), j.astype(np.int32), s.astype(np.int32)


def dense_block(
    receivers: Int[np.ndarray, "edges"],
    senders: Int[np.ndarray, "edges"],
    shifts: Int[np.ndarray, "edges 3"],
    atoms: int,
    neighbors: int | None = None,
) -> tuple[
    Int[np.ndarray, "neighbors atoms"], Int[np.ndarray, "3 neighbors atoms"], Bool[np.ndarray, "neighbors atoms"]
]:
    """Flat pairs, sorted by receiver, as dense `(senders, shifts, edge_mask)` with `neighbors` slots an atom.

    **Raises:** `ValueError` where an atom has more neighbors than slots.
    """
    counts = np.bincount(receivers, minlength=atoms)
    most = int(counts.max(initial=0))
    neighbors = max(most, 1) if neighbors is None else neighbors
    if most > neighbors:
        raise ValueError(f"An atom has {most} neighbors, but the block has {neighbors} slots.")
    slot = np.arange(len(receivers)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = slot * atoms + receivers
    block = np.tile(np.arange(atoms, dtype=np.int32), (neighbors, 1))
    block.ravel()[place] = senders
    images = np.zeros((3, neighbors, atoms), np.int32)
    for axis in range(3):
        images[axis].ravel()[place] = shifts[:, axis]
    mask = np.zeros((neighbors, atoms), bool)
    mask.ravel()[place] = True
    return block, images, mask


def complete_cell(cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]) -> Float[np.ndarray, "3 3"]:
    """The cell with orthogonal unit vectors in place of the lattice vectors that no periodicity needs."""
    if all(pbc):
        return cell
    periodic = cell[np.asarray(pbc, bool)]
    _, _, basis = np.linalg.svd(np.vstack([periodic, np.zeros((1, 3))]))
    free = iter(basis[len(periodic) :])
    return np.array([cell[axis] if pbc[axis] else next(free) for axis in range(3)])
