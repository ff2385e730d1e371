"""Batches: systems to graphs on the host, side by side and padded to fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
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
    positions = [np.asarray(s.positions) for s in systems]
    cells = [np.asarray(s.cell) for s in systems]
    counts = [len(p) for p in positions]
    starts = np.cumsum([0, *counts])
    total = int(starts[-1])
    atoms, slots = total if atoms is None else atoms, len(systems) if slots is None else slots
    _check_room("atoms", atoms, total)
    _check_room("slots", slots, len(systems))
    pairs = [neighbor_pairs(p, c, s.pbc, cutoff) for p, c, s in zip(positions, cells, systems, strict=True)]
    receivers, senders = (
        np.concatenate([pair[k] + start for pair, start in zip(pairs, starts[:-1], strict=True)]).astype(np.int32)
        for k in (0, 1)
    )
    block, images, mask = dense_block(receivers, senders, np.concatenate([p[2] for p in pairs]), atoms, neighbors)
    extra, empty = atoms - total, slots - len(systems)
    system_index = np.repeat(np.arange(len(systems), dtype=np.int32), counts)
    dtype = systems[0].positions.dtype
    arrays = {
        "positions": np.pad(np.concatenate(positions).astype(dtype), ((0, extra), (0, 0))),
        "numbers": np.pad(np.concatenate([np.asarray(s.numbers) for s in systems]), (0, extra)),
        "cell": np.pad(np.stack(cells).astype(dtype), ((0, empty), (0, 0), (0, 0))),
        "charge": np.pad(np.array([s.charge for s in systems], dtype), (0, empty)),
        "system_index": np.pad(system_index, (0, extra), constant_values=slots - 1),
        "senders": block,
        "shifts": images,
        "edge_mask": mask,
        "pbc": np.pad(np.array([s.pbc for s in systems], bool), ((0, empty), (0, 0))),
    }
    return Graph(**jax.device_put(arrays), cutoff=float(cutoff))


def pad(graph: Graph, *, atoms: int, neighbors: int, slots: int) -> Graph:
    """The same graph with room for `atoms`, `neighbors` per atom and `slots` systems (host).

    **Raises:** `ValueError` where a size is smaller than what the graph holds.
    """
    have = {"atoms": len(graph.numbers), "neighbors": graph.senders.shape[0], "slots": graph.systems}
    want = {"atoms": atoms, "neighbors": neighbors, "slots": slots}
    for name, size in have.items():
        _check_room(name, want[name], size)
    if want == have:
        return graph
    more_atoms, more_neighbors, more_slots = (want[k] - have[k] for k in ("atoms", "neighbors", "slots"))

    def grow(x, widths, **how):
        return jnp.asarray(np.pad(np.asarray(x), widths, **how))

    own = np.broadcast_to(np.arange(atoms, dtype=np.int32), (neighbors, atoms)).copy()
    own[: have["neighbors"], : have["atoms"]] = np.asarray(graph.senders)
    edges = ((0, more_neighbors), (0, more_atoms))
    return eqx.tree_at(
        lambda g: (g.positions, g.numbers, g.cell, g.charge, g.system_index, g.senders, g.shifts, g.edge_mask, g.pbc),
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
            grow(graph.pbc, ((0, more_slots), (0, 0))),
        ),
    )


def _check_room(name: str, room: int, size: int) -> None:
    if room < size:
        raise ValueError(f"Cannot pad to {room} {name}: the graph has {size}.")
