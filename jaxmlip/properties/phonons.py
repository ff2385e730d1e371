r"""Phonons of a crystal: force constants, dynamical matrices by Bloch sums, frequencies.

$D_{i\alpha, j\beta}(q) = \frac{1}{\sqrt{m_i m_j}} \sum_l \Phi_{0i\alpha, lj\beta}\, e^{2\pi i\, q \cdot l}$ with second
derivatives $\Phi$ of the energy and lattice vectors $l$; frequencies are $\sqrt{\mathrm{eig}\, D} / 2\pi$.

As targets and under derivatives take sums or means over degenerate modes (`frequencies.mean()` of a multiplet): these
are smooth functions of parameters, whereas single frequencies change places and have no derivative where they meet.

**Reference:** Born & Huang, Dynamical Theory of Crystal Lattices (1954).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from jaxmlip.energy import AbstractEnergy, hessian_vector_product
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.properties.supercell import Supercell
from jaxmlip.system import System


def force_constants(energy: AbstractEnergy, system: System, supercell: Supercell) -> Float[Array, "atoms 3 sites 3"]:
    """Second derivatives of the energy of the supercell by displacements of the atoms of one cell and all others
    [eV/Å²], by as many products with the Hessian as one cell has coordinates."""
    graph = to_graph(supercell.neighbors, supercell.build(system))
    atoms, sites = len(system.numbers), len(supercell.home)
    directions = jnp.eye(3 * atoms, 3 * sites, dtype=system.positions.dtype).reshape(3 * atoms, sites, 3)
    columns = jax.lax.map(lambda v: hessian_vector_product(energy, graph, v), directions)
    return columns.reshape(atoms, 3, sites, 3)


def dynamical_matrix(
    constants: Float[Array, "atoms 3 sites 3"],
    supercell: Supercell,
    masses: Float[Array, "atoms"],
    q: Float[Array, "3"],
) -> Complex[Array, "modes modes"]:
    """The dynamical matrix at `q` (in reciprocal lattice vectors) [eV/Å²/u].

    Exact at every `q` that fits the supercell, and anywhere if the supercell is twice as wide as forces reach.
    """
    atoms, dtype = len(masses), constants.dtype
    angles = 2.0 * math.pi * jnp.sum(supercell.images.astype(dtype) * q.astype(dtype)[None, None, None, :], axis=-1)
    shares = supercell.weights.astype(dtype)
    phases = jax.lax.complex(jnp.sum(shares * jnp.cos(angles), axis=-1), jnp.sum(shares * jnp.sin(angles), axis=-1))
    terms = constants.astype(phases.dtype) * phases[:, None, :, None]
    sums = jax.ops.segment_sum(jnp.moveaxis(terms, 2, 0), supercell.home, atoms)  # [atoms atoms 3 3]: j, i, alpha, beta
    weights = 1.0 / jnp.sqrt(masses[:, None] * masses[None, :]).astype(dtype)
    matrix = (sums * weights[:, :, None, None].astype(phases.dtype)).transpose(1, 2, 0, 3).reshape(3 * atoms, 3 * atoms)
    return 0.5 * (matrix + jnp.conj(matrix.T))


def frequencies(
    energy: AbstractEnergy, system: System, supercell: Supercell, q: Float[Array, "points 3"]
) -> Float[Array, "points modes"]:
    """Frequencies [cycles per unit of time: divide by `units.THz`] at points `q` in reciprocal lattice vectors, rising.

    Imaginary ones are given as negative numbers. Those that vanish by symmetry have the derivative zero.
    """
    constants = force_constants(energy, system, supercell)

    def at(point):
        return jnp.linalg.eigh(dynamical_matrix(constants, supercell, system.masses, point))[0]

    values = jax.vmap(at)(q)
    sizes = jnp.abs(values)
    least = 1e4 * jnp.finfo(values.dtype).eps * jnp.max(sizes)
    moves = sizes > least
    roots = jnp.where(moves, jnp.sqrt(jnp.where(moves, sizes, jnp.ones_like(sizes))), jnp.zeros_like(sizes))
    return jnp.sign(values) * roots / (2.0 * math.pi)
