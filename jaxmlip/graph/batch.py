"""Batches: systems to graphs on the host, side by side and padded to fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxmlip.graph.graph import Graph
from jaxmlip.graph.host import dense_block, neighbor_pairs
from jaxmlip.system import System


def batch(
    systems: System | Sequence[System],
    cutoff: float,
    *,
    atoms: int | None = None,
    neighbors: int | None = None,
    slots: int | None = None,
) -> Graph:
    """One graph of one or many systems, with neighbor lists made on the host; NumPy work, not for inside jit.

    `atoms`, `neighbors` and `slots` (systems) are the sizes to pad to; without them the graph is as small as it can
    be. Padding atoms belong to the last system.

    **Raises:** `ValueError` where there is no system, or a requested size is too small.
    """
    systems = [systems] if isinstance(systems, System) else list(systems)
    if not systems:
        raise ValueError("A batch needs at least one system; got none.")
    counts = [len(s.numbers) for s in systems]
    pairs = []
    start = 0
    for system, count in zip(systems, counts, strict=True):
        i, j, s = neighbor_pairs(np.asarray(system.positions), np.asarray(system.cell), system.pbc, cutoff)
        pairs.append((i + start, j + start, s))
        start += count
    receivers, senders, shifts = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    block, images, mask = dense_block(receivers, senders, shifts, start, neighbors)
    dtype = systems[0].positions.dtype
    graph = Graph(
        positions=jnp.asarray(np.concatenate([np.asarray(s.positions) for s in systems]), dtype),
        numbers=jnp.asarray(np.concatenate([np.asarray(s.numbers) for s in systems])),
        cell=jnp.asarray(np.stack([np.asarray(s.cell) for s in systems]), dtype),
        charge=jnp.asarray(np.stack([np.asarray(s.charge) for s in systems]), dtype),
        system_index=jnp.asarray(np.repeat(np.arange(len(systems), dtype=np.int32), counts)),
        senders=jnp.asarray(block),
        shifts=jnp.asarray(images),
        edge_mask=jnp.asarray(mask),
        cutoff=float(cutoff),
    )
    return pad(graph, atoms=atoms or start, neighbors=block.shape[0], slots=slots or len(systems))


def pad(graph: Graph, *, atoms: int, neighbors: int, slots: int) -> Graph:
    """The same graph with room for `atoms`, `neighbors` per atom and `slots` systems (host).

    **Raises:** `ValueError` where a size is smaller than what the graph holds.
    """
    have = {"atoms": len(graph.numbers), "neighbors": graph.senders.shape[0], "slots": graph.systems}
    want = {"atoms": atoms, "neighbors": neighbors, "slots": slots}
    for name, size in have.items():
        if want[name] < size:
            raise ValueError(f"Cannot pad to {want[name]} {name}: the graph has {size}.")
    if want == have:
        return graph
    more_atoms, more_neighbors, more_slots = (want[k] - have[k] for k in ("atoms", "neighbors", "slots"))

    def grow(x, widths, **how):
        return jnp.asarray(np.pad(np.asarray(x), widths, **how))

    own = np.broadcast_to(np.arange(atoms, dtype=np.int32), (neighbors, atoms)).copy()
    own[: have["neighbors"], : have["atoms"]] = np.asarray(graph.senders)
    edges = ((0, more_neighbors), (0, more_atoms))
    return eqx.tree_at(
        lambda g: (g.positions, g.numbers, g.cell, g.charge, g.system_index, g.senders, g.shifts, g.edge_mask),
        graph,
        (
            grow(graph.positions, ((0, more_atoms), (0, 0))),
            grow(graph.numbers, (0, more_atoms)),
            grow(graph.cell, ((0, more_slots), (0, 0), (0, 0))),
            grow(graph.charge, (0, more_slots)),
            grow(graph.system_index, (0, more_atoms), constant_values=slots - 1),
            jnp.asarray(own),
            grow(graph.shifts, ((0, 0), *edges)),
            grow(graph.edge_mask, edges),
        ),
    )
