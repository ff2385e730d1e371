"""Neighbor lists inside jit: allocate on the host, update in the loop, grow and replay where a flag says so.

Positions are Cartesian and unwrapped, the cell is any cell, `pbc` is per axis. A list holds all pairs within
`cutoff + skin` of the positions and cell it was made for, and stays good until the skin is used up.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.graph.cells import cell_grid, place_atoms, search_cells
from jaxmlip.graph.graph import Graph
from jaxmlip.graph.host import complete_cell, neighbor_pairs
from jaxmlip.graph.images import image_reach, search_images
from jaxmlip.graph.lattice import norm_bound, product, reciprocal
from jaxmlip.system import System

METHODS = ("auto", "images", "cells")
_FEW = 600  # up to so many atoms all pairs are tried
_ROOM = 1.05  # how much a box may shrink before the stencil must grow


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when a list is compiled: the method and its stencil, made for a box `margin` times smaller.

    `grid` and `slots` are the cells along each axis and the atoms that fit in one, for the method "cells".
    """

    method: str
    reach: tuple[int, int, int]
    margin: float
    grid: tuple[int, int, int] = (1, 1, 1)
    slots: int = 0


class Neighbors(eqx.Module):
    """A neighbor list of one system: fixed shapes, so it can be carried through `lax.scan` and `jax.vmap`.

    The list is complete up to `cutoff + skin` at `reference_positions` and `reference_cell` (whose rows along
    directions that are not periodic are only a frame). Three flags, which stay set once they are, say that it cannot
    be trusted: `overflow` (an atom has more neighbors, or a cell more atoms, than slots), `stale` (`check` found the
    skin used up) and `shrunk` (the box is smaller or more sheared than the stencil allows). `needed` and `crowd` are
    the slots that the busiest atom and the fullest cell have asked for while all was well. Answer a flag with `grow`
    and a replay from the last good state. A list that is `held` is rebuilt by nobody but its owner.
    """

    senders: Int[Array, "neighbors atoms"]
    shifts: Int[Array, "3 neighbors atoms"]
    edge_mask: Bool[Array, "neighbors atoms"]
    reference_positions: Float[Array, "atoms 3"]
    reference_cell: Float[Array, "3 3"]
    overflow: Bool[Array, ""]
    stale: Bool[Array, ""]
    shrunk: Bool[Array, ""]
    needed: Int[Array, ""]
    crowd: Int[Array, ""]
    cutoff: float = eqx.field(static=True)
    skin: float = eqx.field(static=True)
    pbc: tuple[bool, bool, bool] = eqx.field(static=True)
    plan: Plan = eqx.field(static=True)
    held: bool = eqx.field(static=True, default=False)

    @property
    def capacity(self) -> int:
        """Slots for neighbors of each atom."""
        return self.senders.shape[-2]

    @property
    def failed(self) -> Bool[Array, "*replicas"]:
        """Whether any flag is set: what was computed with this list must be thrown away."""
        return self.overflow | self.stale | self.shrunk


def allocate(
    system: System, cutoff: float, *, skin: float = 1.0, capacity: int | None = None, method: str = "auto"
) -> Neighbors:
    """A list for `system`, sized by counting its neighbors on the host, with room to spare (not for inside jit).

    `skin` [Å] is how much farther than `cutoff` [Å] the list reaches; `capacity` overrides the number of slots an atom
    (and is rounded up).
    A system with a leading axis (replicas) gives a list with that axis, sized for all of them.

    **Raises:** `ValueError` where `cutoff`, `skin`, `capacity` or `method` make no sense.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"`cutoff` must be positive [Å]; got {cutoff}.")
    if not (np.isfinite(skin) and skin >= 0):
        raise ValueError(f"`skin` must be zero or positive [Å]; got {skin}.")
    if capacity is not None and capacity < 1:
        raise ValueError(f"`capacity` must be at least one slot; got {capacity}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}; got {method!r}.")
    if capacity is None:
        most = max(_most_neighbors(p, c, system.pbc, cutoff + skin) for p, c in _replicas(system))
        capacity = int(np.ceil(1.1 * most + 2))
    return _make(system, float(cutoff), float(skin), _aligned(capacity), _plan(system, cutoff + skin, method, _ROOM))


def room_for(system: System, cutoff: float) -> Neighbors:
    """An empty list without skin and with room for one `system`, for `rebuild` at each of many frames of it (host)."""
    most = max(_most_neighbors(p, c, system.pbc, cutoff) for p, c in _replicas(system))
    frame = jnp.asarray(_frame(system))
    plan = _plan(system, cutoff, "auto", _ROOM)
    return _empty(system, frame, float(cutoff), 0.0, _aligned(int(np.ceil(1.1 * most + 2))), plan, False)


def rebuild(neighbors: Neighbors, system: System) -> Neighbors:
    """A new list at the positions and cell of `system`, whether it is due or not. Flags stay set."""
    cell = _framed(neighbors, system)
    plan = neighbors.plan
    common = {
        "pbc": neighbors.pbc,
        "reach": plan.reach,
        "radius": neighbors.cutoff + neighbors.skin,
        "capacity": neighbors.capacity,
    }
    real = system.numbers > 0
    if plan.method == "cells":
        found = search_cells(system.positions, real, cell, grid=plan.grid, slots=plan.slots, **common)
    else:
        found = search_images(system.positions, real, cell, **common)
    # What is counted after a failure belongs to a wrong trajectory.
    failed = neighbors.failed
    return dataclasses.replace(
        neighbors,
        senders=found.senders,
        shifts=found.shifts,
        edge_mask=found.edge_mask,
        reference_positions=system.positions,
        reference_cell=cell,
        overflow=neighbors.overflow | (found.most > neighbors.capacity) | (found.crowd > plan.slots),
        shrunk=neighbors.shrunk | found.shrunk,
        needed=jnp.where(failed, neighbors.needed, jnp.maximum(neighbors.needed, found.most)),
        crowd=jnp.where(failed, neighbors.crowd, jnp.maximum(neighbors.crowd, found.crowd)),
    )


def update(neighbors: Neighbors, system: System) -> Neighbors:
    """The list to use for `system`: as it is while the skin allows, rebuilt where it does not. Call before each use.

    Under `jax.vmap` the rebuild is computed at every call (a `cond` becomes a `select`); there, `hold` the list and
    call `rebuild` every few steps.
    """
    if neighbors.held:
        return check(neighbors, system)
    return lax.cond(skin_used(neighbors, system) > 1.0, rebuild, lambda n, _: n, neighbors, system)


def hold(neighbors: Neighbors) -> Neighbors:
    """The same list, which `update` from now on only checks: for replicas under `jax.vmap`, whose owner calls `rebuild`
    every few steps and looks at `failed` in the end."""
    return dataclasses.replace(neighbors, held=True)


def check(neighbors: Neighbors, system: System) -> Neighbors:
    """The same list, with `stale` set where it no longer serves `system`."""
    return dataclasses.replace(neighbors, stale=neighbors.stale | (skin_used(neighbors, system) > 1.0))


def release(neighbors: Neighbors) -> Neighbors:
    """The same list, which `update` may rebuild again."""
    return dataclasses.replace(neighbors, held=False)


def skin_used(neighbors: Neighbors, system: System) -> Float[Array, ""]:
    r"""How much of the skin is used up; beyond 1 a pair within the cutoff could be missing from the list.

    The move since the list was made is split into a homogeneous strain and the rest. With reference positions
    $r^0_i$, cell $h_0$ (rows), and $F = h_0^{-1} h$, write $r_i = r^0_i F + c + u_i$ with any constant $c$. For a pair
    with shift $S$ then $D = r_j + S h - r_i = D^0 F + u_j - u_i$, so
    $|D^0| \le (|D| + 2 \max|u|) \, \lVert F^{-1} \rVert$. No pair with $|D| \le r_c$ is missing while
    $$(r_c + 2 \max |u|) \, \lVert F^{-1} \rVert \le r_c + \mathrm{skin}.$$
    This holds for pairs that are in the list and for those that are not, for any strain, shear or rotation, and
    neither drift nor a uniform strain of cell and atoms about any point counts as moving. `c` is the middle of the
    range of $r_i - r^0_i F$. Without strain it is the usual test, $2 \max|u| \le$ skin.
    """
    cell = _framed(neighbors, system)
    rows, _ = reciprocal(cell)
    before, _ = reciprocal(neighbors.reference_cell)
    moved = system.positions - product(neighbors.reference_positions, product(before.T, cell))
    real = (system.numbers > 0)[:, None]
    low = jnp.min(jnp.where(real, moved, jnp.asarray(jnp.inf, moved.dtype)), axis=0)
    high = jnp.max(jnp.where(real, moved, jnp.asarray(-jnp.inf, moved.dtype)), axis=0)
    rest = jnp.where(real, moved - (0.5 * (low + high))[None, :], jnp.zeros_like(moved))
    largest = jnp.sqrt(jnp.max(jnp.sum(rest * rest, axis=1)))
    stretch = norm_bound(product(rows.T, neighbors.reference_cell))
    reach = (neighbors.cutoff + 2.0 * largest) * stretch
    # A skin of zero asks for a rebuild at any move; rounding of a list that did not move is not a move.
    slack = 16.0 * jnp.finfo(moved.dtype).eps * neighbors.cutoff
    return (reach - neighbors.cutoff) / (neighbors.skin + slack)


def grow(neighbors: Neighbors, system: System, factor: float = 1.5, *, kept: Neighbors | None = None) -> Neighbors:
    """A larger list in answer to the flags of `neighbors`, with all flags cleared (not for inside jit).

    Overflow multiplies the slots by `factor`, or more where `needed` (or `crowd`) asks for it; a shrunk box widens the
    stencil by `factor`; a stale list gets that much more skin. Every call enlarges what failed geometrically, so
    replaying always comes to an end. The list is made for `system`, or, where `kept` (the list of the state from which
    the replay starts) is given, for the positions at which `kept` was made: the replay then rebuilds at the same steps
    as a run which had the room from the start, and repeats it to the bit.

    **Raises:** `ValueError` where `factor` is not larger than 1.
    """
    if factor <= 1:
        raise ValueError(f"`factor` must be larger than 1; got {factor}.")
    overflow, stale, shrunk = (bool(np.any(flag)) for flag in (neighbors.overflow, neighbors.stale, neighbors.shrunk))
    plan, skin, capacity, slots = neighbors.plan, neighbors.skin, neighbors.capacity, neighbors.plan.slots
    needed, crowd = int(np.max(neighbors.needed)), int(np.max(neighbors.crowd))
    crowded = overflow and crowd > slots
    if stale:
        skin = skin * factor + 0.1
        capacity = _aligned(capacity * ((neighbors.cutoff + skin) / (neighbors.cutoff + neighbors.skin)) ** 3)
    if needed > capacity or not (stale or shrunk or crowded):
        capacity = _aligned(max(capacity * factor, 1.1 * needed))
    if crowded:
        slots = _rounded(max(slots * factor, 1.1 * crowd))
    if kept is not None and not stale:
        positions, cell = kept.reference_positions, kept.reference_cell
        system = dataclasses.replace(system, positions=positions, cell=cell)
    if stale or shrunk:
        margin = plan.margin * factor if shrunk else plan.margin
        plan = _plan(system, neighbors.cutoff + skin, plan.method, margin)
    plan = dataclasses.replace(plan, slots=max(slots, plan.slots))
    return _make(system, neighbors.cutoff, skin, capacity, plan, neighbors.held)


def to_graph(neighbors: Neighbors, system: System) -> Graph:
    """The graph of one system with this list; no arithmetic, so free to call."""
    return Graph(
        positions=system.positions,
        numbers=system.numbers,
        cell=system.cell[None],
        charge=system.charge[None],
        system_index=jnp.zeros(system.numbers.shape, jnp.int32),
        senders=neighbors.senders,
        shifts=neighbors.shifts,
        edge_mask=neighbors.edge_mask,
        pbc=jnp.asarray(neighbors.pbc)[None],
        cutoff=neighbors.cutoff,
    )


def _framed(neighbors: Neighbors, system: System) -> Float[Array, "3 3"]:
    """The cell with the rows of directions that are not periodic taken from the list's frame."""
    return jnp.where(jnp.asarray(neighbors.pbc)[:, None], system.cell, neighbors.reference_cell)


def _make(system: System, cutoff: float, skin: float, capacity: int, plan: Plan, held: bool = False) -> Neighbors:
    """Compile and fill a list."""
    return _filled(system, jnp.asarray(_frame(system)), cutoff, skin, capacity, plan, held)


@eqx.filter_jit
def _filled(
    system: System, frame: Array, cutoff: float, skin: float, capacity: int, plan: Plan, held: bool
) -> Neighbors:
    def fill(system, frame):
        return rebuild(_empty(system, frame, cutoff, skin, capacity, plan, held), system)

    for _ in range(system.positions.ndim - 2):
        fill = jax.vmap(fill)
    return fill(system, frame)


def _empty(
    system: System, frame: Array, cutoff: float, skin: float, capacity: int, plan: Plan, held: bool
) -> Neighbors:
    """A list of one system before any search."""
    atoms = system.numbers.shape[0]
    return Neighbors(
        senders=jnp.zeros((capacity, atoms), jnp.int32),
        shifts=jnp.zeros((3, capacity, atoms), jnp.int32),
        edge_mask=jnp.zeros((capacity, atoms), bool),
        reference_positions=system.positions,
        reference_cell=frame.astype(system.cell.dtype),
        overflow=jnp.asarray(False),
        stale=jnp.asarray(False),
        shrunk=jnp.asarray(False),
        needed=jnp.asarray(0, jnp.int32),
        crowd=jnp.asarray(0, jnp.int32),
        cutoff=cutoff,
        skin=skin,
        pbc=system.pbc,
        plan=plan,
        held=held,
    )


def _frame(system: System) -> np.ndarray:
    """Complete cells of all replicas, in the shape of `system.cell`."""
    cells = [complete_cell(c, system.pbc) for _, c in _replicas(system)]
    return np.stack(cells).reshape(system.cell.shape)


def _replicas(system: System) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions and cell of each replica, in float64 on the host."""
    positions = np.asarray(system.positions, np.float64)
    cells = np.asarray(system.cell, np.float64).reshape(-1, 3, 3)
    return list(zip(positions.reshape(-1, *positions.shape[-2:]), cells, strict=True))


def _most_neighbors(positions: np.ndarray, cell: np.ndarray, pbc: tuple[bool, bool, bool], radius: float) -> int:
    receivers, _, _ = neighbor_pairs(positions, cell, pbc, radius)
    return int(np.bincount(receivers, minlength=1).max())


def _plan(system: System, radius: float, method: str, margin: float) -> Plan:
    """The stencil for the smallest box among the replicas, should it shrink by `margin`."""
    frames = _frame(system).reshape(-1, 3, 3)
    heights = np.min([1.0 / np.linalg.norm(np.linalg.inv(c), axis=0) for c in frames], axis=0)
    atoms = system.numbers.shape[-1]
    if method == "auto":
        method = "cells" if atoms > _FEW else "images"
    if method == "images":
        return Plan(method, image_reach(heights, system.pbc, margin * radius), margin)
    replicas = [(p, c) for (p, _), c in zip(_replicas(system), frames, strict=True)]
    spread = np.max([np.ptp(p @ np.linalg.inv(c), axis=0) for p, c in replicas], axis=0)
    extents = np.where(system.pbc, heights, np.maximum(spread * heights, 1e-3))
    grid, reach = cell_grid(extents, system.pbc, margin * radius, most=max(atoms, 27))
    slots = _rounded(1.15 * max(_crowd(p, c, system.pbc, grid, reach, radius) for p, c in replicas) + 2)
    return Plan(method, reach, margin, grid, slots)


_placed = jax.jit(place_atoms, static_argnames=("pbc", "grid", "reach", "radius"))


def _crowd(positions: np.ndarray, cell: np.ndarray, pbc, grid, reach, radius) -> int:
    """Atoms in the fullest cell."""
    places = _placed(
        jnp.asarray(positions),
        jnp.ones(len(positions), bool),
        jnp.asarray(cell),
        pbc=pbc,
        grid=grid,
        reach=reach,
        radius=radius,
    )
    cells = places.cells
    return int(np.bincount(np.ravel_multi_index(np.asarray(cells), grid)).max())


def _aligned(slots: int | float) -> int:
    """Slots for neighbors: up to 32 the next multiple of four, then of 32.

    XLA on a CPU sums axes longer than 32 in windows of 32; where the last one is full, empty slots behind the neighbors
    change no bit of a sum, so that a run does not depend on the capacity of its list, from 64 slots on.
    """
    return _rounded(slots) if slots <= 32 else 32 * int(np.ceil(slots / 32))


def _rounded(slots: int | float) -> int:
    """The next multiple of four."""
    return 4 * int(np.ceil(slots / 4))
