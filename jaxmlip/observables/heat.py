"""Heat flux of any energy that has one for each atom."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph import Graph
from jaxmlip.graph.lattice import product, reciprocal


def heat_flux(
    energy: AbstractEnergy,
    graph: Graph,
    velocities: Float[Array, "atoms 3"],
    masses: Float[Array, "atoms"],
    *,
    images: tuple[int, int, int] | None = None,
) -> Float[Array, "3"]:
    r"""Heat flux times volume, $J = \frac{d}{dt} \sum_i r_i E_i$ [eV·Å/time unit], of one system.

    With $E_i = \frac{1}{2} m_i v_i^2 + U_i$ it is $J = \sum_i E_i v_i + \sum_{ij} (r_i - r_j) \,
    \frac{\partial U_i}{\partial r_j} \cdot v_j$, $j$ running over all atoms and images that $U_i$ depends on. For a
    pair potential this is the usual $\frac{1}{2} \sum_{i<j} r_{ij} \, F_{ij} \cdot (v_i + v_j)$.

    `images=None` is for energies whose $U_i$ depends on the neighbors of $i$ within the cutoff alone (pair and
    many-body potentials, ACE): one backward pass. Message passing sees farther: there give `images` (`images_within`:
    cells on either side), and the formula is evaluated on the cell amid its images, at the cost of their atoms. Parts
    that look at positions (long-range sums, bonds by index) are in neither: the result is NaN. `check_local` refuses
    what the short way would get wrong.

    **Reference:** Hardy, Phys. Rev. 132, 168 (1963), doi:10.1103/PhysRev.132.168; Fan et al., Phys. Rev. B 92, 094301
    (2015), doi:10.1103/PhysRevB.92.094301; Langer, Knoop, Carbogno, Scheffler & Rupp, Phys. Rev. B 108, L100302
    (2023), doi:10.1103/PhysRevB.108.L100302. Checked against the pair formula and against finite differences.
    """
    if graph.systems != 1:
        raise ValueError(f"The heat flux is that of one system; this graph has {graph.systems}.")
    energies, potential = (
        _local(energy, graph, velocities) if images is None else _far(energy, graph, velocities, images)
    )
    total = energies + 0.5 * masses * jnp.sum(velocities * velocities, axis=1)
    return jnp.sum(jnp.where(graph.atom_mask, total, jnp.zeros_like(total))[:, None] * velocities, axis=0) + potential


def images_within(cell: Any, pbc: tuple[bool, bool, bool], reach: float) -> tuple[int, int, int]:
    """How many cells on either side hold all atoms within `reach` [Å] (layers times cutoff) of the cell (host)."""
    cell = np.asarray(cell, np.float64)
    counts = [0, 0, 0]
    for axis in range(3):
        if pbc[axis]:
            rows, heights = reciprocal(jnp.asarray(cell))
            counts[axis] = int(np.ceil(reach / float(heights[axis])))
    return counts[0], counts[1], counts[2]


def check_local(energy: AbstractEnergy, graph: Graph) -> None:
    """Refuse an energy for which `heat_flux` without `images` would be wrong (host).

    **Raises:** `ValueError` where the energy of an atom depends on more than the vectors to its own neighbors.
    """
    dtype = graph.positions.dtype
    probe = jnp.asarray(np.random.default_rng(0).uniform(1.0, 2.0, (4, *graph.numbers.shape)), dtype)
    slopes, elsewhere, _ = _tilted(energy, graph, probe[:3].T, jnp.ones_like(probe[3]))
    weighted, _, _ = _tilted(energy, graph, probe[:3].T, probe[3])
    off = float(jnp.max(jnp.abs(weighted - probe[3][None] * slopes)))
    if float(jnp.max(jnp.abs(elsewhere))) > 0.0:
        raise ValueError(
            "The heat flux of an energy that looks at positions, and not at neighbors only (external fields, bonds by "
            "index, reciprocal space), is not known here: leave that part out."
        )
    if off > 1e-3 * float(jnp.max(jnp.abs(slopes))):
        raise ValueError(
            "The energy of an atom depends on neighbors of its neighbors (message passing): give `images`, as "
            "`images_within(cell, pbc, layers * cutoff)`."
        )


class _Tilted(Graph):
    r"""A graph with its vectors moved to $d_{ij} + (\epsilon_i \cdot d_{ij}) v_j$, and no derivative by positions.

    Energies that sort their edges anew keep it, as they keep the graph.
    """

    velocities: Float[Array, "3 atoms"]
    tilt: Float[Array, "3 atoms"]

    def vectors(self) -> Float[Array, "3 neighbors atoms"]:
        vectors = lax.stop_gradient(Graph.vectors(self))
        along = jnp.sum(self.tilt[:, None, :] * vectors, axis=0)
        return vectors + jnp.where(self.edge_mask, along, jnp.zeros_like(along))[None] * self.gather(self.velocities)


def _tilted(energy: AbstractEnergy, graph: Graph, velocities: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Derivatives of a weighted sum of energies by the tilt of each atom and by positions, and the energies.

    Those by positions are zero where everything goes by the vectors.
    """
    fields = {name: getattr(graph, name) for name in Graph.__dataclass_fields__}

    def total(tilt, positions):
        tilted = _Tilted(**fields, velocities=velocities.T, tilt=tilt).with_positions(positions)
        energies = energy(tilted).astype(positions.dtype)
        return graph.sum_atoms(weights * energies)[0], energies

    zero = jnp.zeros_like(graph.positions).T
    (slopes, elsewhere), energies = jax.grad(total, argnums=(0, 1), has_aux=True)(zero, graph.positions)
    return slopes, elsewhere, energies


def _local(energy: AbstractEnergy, graph: Graph, velocities: Array) -> tuple[Array, Array]:
    r"""Energies of the atoms, and $-\sum_{ij} d_{ij} \, \frac{\partial U_i}{\partial d_{ij}} \cdot v_j$; NaN where
    energies depend on positions by other ways."""
    slopes, elsewhere, energies = _tilted(energy, graph, velocities, jnp.ones_like(velocities[:, 0]))
    known = jnp.all(elsewhere == 0.0)
    return energies, jnp.where(known, -jnp.sum(slopes, axis=1), jnp.nan)


def _far(energy: AbstractEnergy, graph: Graph, velocities: Array, images: tuple[int, int, int]) -> tuple[Array, Array]:
    """The same from the cell amid its images: one forward and one backward pass."""
    atoms = graph.numbers.shape[0]
    many, middle = _unfolded(graph, images)
    moves = jnp.tile(velocities, (many.numbers.shape[0] // atoms, 1))

    def central(positions):
        return energy(many.with_positions(positions)).astype(positions.dtype)[middle * atoms : (middle + 1) * atoms]

    energies, rates = jax.jvp(central, (many.positions,), (moves,))
    real = graph.atom_mask
    slopes = jax.grad(lambda x: jnp.sum(jnp.where(real, central(x), 0.0)))(many.positions)
    center = many.positions[middle * atoms : (middle + 1) * atoms]
    rates = jnp.where(real, rates, jnp.zeros_like(rates))
    arrives = jnp.sum(center * rates[:, None], axis=0)
    leaves = jnp.sum(many.positions * jnp.sum(slopes * moves, axis=1)[:, None], axis=0)
    return energies, arrives - leaves


def _unfolded(graph: Graph, images: tuple[int, int, int]) -> tuple[Graph, int]:
    """The cell and its images as atoms of their own, without periodicity, and which block is the cell itself."""
    atoms = graph.numbers.shape[0]
    ranges = [np.arange(-n, n + 1) for n in images]
    blocks = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    cell = graph.cell[0]
    wraps = _wraps(graph.positions, cell, images)
    home = graph.positions - product(wraps.astype(cell.dtype), cell)
    offsets = product(jnp.asarray(blocks, cell.dtype), cell)
    positions = (home[None] + offsets[:, None]).reshape(-1, 3)
    # A neighbor S cells away from an atom in block n sits in block n + S.
    shifts = graph.shifts + wraps.T[:, graph.senders] - wraps.T[:, None, :]
    size = np.asarray([2 * n + 1 for n in images])
    target = jnp.asarray(blocks, shifts.dtype)[:, :, None, None] + shifts[None]  # [blocks 3 neighbors atoms]
    limits = jnp.asarray(images, shifts.dtype)[None, :, None, None]
    inside = jnp.all(jnp.abs(target) <= limits, axis=1)
    place = jnp.clip(target + limits, 0, 2 * limits)
    block = (place[:, 0] * int(size[1]) + place[:, 1]) * int(size[2]) + place[:, 2]
    senders = block * atoms + graph.senders[None]
    flat = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)  # noqa: E731
    count = len(blocks)
    return Graph(
        positions=positions,
        numbers=jnp.tile(graph.numbers, count),
        cell=graph.cell,
        charge=graph.charge,
        pbc=jnp.zeros_like(graph.pbc),
        system_index=jnp.zeros(count * atoms, graph.system_index.dtype),
        senders=flat(senders),
        shifts=jnp.zeros((3, graph.senders.shape[0], count * atoms), graph.shifts.dtype),
        edge_mask=flat(inside & graph.edge_mask[None]),
        cutoff=graph.cutoff,
    ), count // 2


def _wraps(positions: Array, cell: Array, images: tuple[int, int, int]) -> Int[Array, "atoms 3"]:
    """How many lattice vectors each atom is away from the cell; zero along directions without images."""
    if not any(images):
        return jnp.zeros(positions.shape, jnp.int32)
    rows, _ = reciprocal(cell)
    periodic = jnp.asarray([n > 0 for n in images])[None, :]
    return jnp.where(periodic, jnp.floor(product(positions, rows.T)), 0.0).astype(jnp.int32)
