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
