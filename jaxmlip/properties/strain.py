"""Strains and stresses as six numbers in the order of Voigt: xx yy zz yz xz xy."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.graph.lattice import product
from jaxmlip.system import System

_PLACES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def to_voigt(stress: Float[Array, "3 3"]) -> Float[Array, "6"]:
    """The six components of a symmetric tensor; of a stress, what does work on a strain of `from_voigt`."""
    return jnp.stack([0.5 * (stress[i, j] + stress[j, i]) for i, j in _PLACES])


def from_voigt(strain: Float[Array, "6"]) -> Float[Array, "3 3"]:
    """The symmetric strain of six numbers, of which the last three are engineering shears (twice the components)."""
    xx, yy, zz, yz, xz, xy = (strain[k] * (1.0 if k < 3 else 0.5) for k in range(6))
    return jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])


def strained(system: System, strain: Float[Array, "3 3"]) -> System:
    """The same atoms in a deformed space: every row vector `x` becomes `x (1 + strain)`."""
    deform = jnp.eye(3, dtype=strain.dtype) + strain
    changed = (product(system.positions, deform), product(system.cell, deform))
    return eqx.tree_at(lambda s: (s.positions, s.cell), system, changed)


def lattice_parameters(cell: Float[Array, "3 3"]) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """Lengths a, b, c [Å] of the lattice vectors, and the angles alpha, beta, gamma [rad] between them."""
    lengths = jnp.sqrt(jnp.sum(cell * cell, axis=1))
    pairs = ((1, 2), (0, 2), (0, 1))
    sines = jnp.stack([jnp.sqrt(jnp.sum(jnp.cross(cell[i], cell[j]) ** 2)) for i, j in pairs])
    cosines = jnp.stack([jnp.sum(cell[i] * cell[j]) for i, j in pairs])
    return lengths, jnp.arctan2(sines, cosines)
