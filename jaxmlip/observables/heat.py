"""Heat flux of any energy that has one for each atom."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    many-body potentials, ACE): one backward pass through the edges. Message passing sees farther: there give `images`
    (`images_within`: cells on either side), and the formula is evaluated on the cell amid its images, at the cost of
    their atoms. Long-range (reciprocal-space) parts are in neither.

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


class _Edges(Graph):
    """A graph whose edges have their vectors given, so that an energy can be differentiated by them."""

    given: Float[Array, "3 neighbors atoms"]

    def vectors(self) -> Float[Array, "3 neighbors atoms"]:
        return self.given


def _local(energy: AbstractEnergy, graph: Graph, velocities: Array) -> tuple[Array, Array]:
    r"""Energies of the atoms, and $-\sum_{ij} d_{ij} \, \frac{\partial U_i}{\partial d_{ij}} \cdot v_j$."""
    vectors = graph.vectors()

    def total(given):
        fields = {name: getattr(graph, name) for name in Graph.__dataclass_fields__}
        energies = energy(_Edges(**fields, given=given)).astype(given.dtype)
        return graph.sum_atoms(energies)[0], energies

    slopes, energies = jax.grad(total, has_aux=True)(vectors)
    work = jnp.sum(slopes * graph.gather(velocities.T), axis=0)
    return energies, -jnp.sum(graph.sum_edges(vectors * work[None]), axis=1)


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
