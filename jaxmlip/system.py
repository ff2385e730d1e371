"""System: the atoms, the cell and its periodicity; what every other part of the package starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.elements import MASSES, SYMBOLS

_COINCIDENT = 1e-3  # Å; no two nuclei are ever this close


class System(eqx.Module):
    """Atoms in a cell. Positions are Cartesian and unwrapped; the rows of `cell` are the lattice vectors [Å].

    `numbers` are atomic numbers (0 is padding). `masses` [u] default to the standard atomic weights. A direction that
    is not periodic may have a zero row in `cell`. `charge` is the total charge [e]. `constraints` come from
    `jaxmlip.simulate.constrain`; only dynamics and relaxation obey them.
    """

    positions: Float[Array, "atoms 3"]
    numbers: Int[Array, "atoms"]
    cell: Float[Array, "3 3"]
    masses: Float[Array, "atoms"]
    charge: Float[Array, ""]
    pbc: tuple[bool, bool, bool] = eqx.field(static=True)
    constraints: Any = None

    def volume(self) -> Float[Array, ""]:
        """Volume of the cell [Å³]; zero where the cell does not span space."""
        return jnp.abs(_determinant(self.cell))


def make_system(
    positions: Any,
    numbers: Any,
    *,
    cell: Any = None,
    pbc: bool | Sequence[bool] | np.ndarray | None = None,
    masses: Any = None,
    charge: float = 0.0,
    dtype: Any = None,
) -> System:
    """A checked `System` from anything array-like.

    `pbc` defaults to periodic where `cell` is given, and not where it is not. `dtype` defaults to JAX's float type
    (float32 unless 64-bit is enabled).

    **Raises:** `ValueError` where positions are not finite or two atoms coincide, an atomic number is unknown, sizes do
    not match, or a periodic direction has no lattice vector.
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    positions = np.asarray(positions, dtype=np.float64)
    numbers = np.asarray(numbers)
    if numbers.ndim != 1 or not (numbers.size == 0 or np.issubdtype(numbers.dtype, np.integer)):
        raise ValueError(f"`numbers` must be one whole number for each atom; got {numbers.tolist()}.")
    numbers = numbers.astype(np.int32)
    periodic = _periodicity(cell is not None if pbc is None else pbc)
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    if cell.shape == (3,):
        cell = np.diag(cell)
    check_geometry(positions, numbers, cell, periodic)
    masses = np.asarray(MASSES)[numbers] if masses is None else np.asarray(masses, dtype=np.float64)
    if masses.shape != numbers.shape or not np.all(masses[numbers > 0] > 0):
        raise ValueError(f"`masses` must be one positive number [u] for each of {len(numbers)} atoms; got {masses}.")
    return System(
        positions=jnp.asarray(positions, dtype),
        numbers=jnp.asarray(numbers),
        cell=jnp.asarray(cell, dtype),
        masses=jnp.asarray(masses, dtype),
        charge=jnp.asarray(charge, dtype),
        pbc=periodic,
    )


def check_geometry(positions: np.ndarray, numbers: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> None:
    """Refuse atoms and cells that no energy could be trusted on (host, NumPy).

    **Raises:** `ValueError` that says what was given, what is allowed and what to do.
    """
    if len(numbers) == 0:
        raise ValueError("A system needs at least one atom; got none.")
    if positions.shape != (len(numbers), 3):
        raise ValueError(f"`positions` must have shape ({len(numbers)}, 3), as `numbers`; got {positions.shape}.")
    if not np.all(np.isfinite(positions)):
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise ValueError(f"`positions` must be finite [Å]; atoms {bad[:5].tolist()} are not.")
    if numbers.min() < 1 or numbers.max() >= len(SYMBOLS):
        raise ValueError(
            f"`numbers` must be atomic numbers 1 to {len(SYMBOLS) - 1}; got {sorted(set(numbers.tolist()))}."
        )
    if cell.shape != (3, 3) or not np.all(np.isfinite(cell)):
        raise ValueError(f"`cell` must be three finite lattice vectors as rows [Å]; got {cell.tolist()}.")
    if len(pbc) != 3:
        raise ValueError(f"`pbc` must be one flag or three; got {pbc}.")
    lengths = np.linalg.norm(cell, axis=1)
    for axis in range(3):
        if pbc[axis] and lengths[axis] < 1e-6:
            raise ValueError(
                f"Axis {axis} is periodic, but lattice vector {axis} is zero. Give the cell, or set pbc to False there."
            )
    periodic = cell[np.asarray(pbc, dtype=bool)]
    if len(periodic):
        spanned = np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0))
        if spanned < 1e-6 * np.prod(np.linalg.norm(periodic, axis=1)):
            raise ValueError(f"The periodic lattice vectors are linearly dependent (zero volume): {cell.tolist()}.")
    if all(pbc) and np.linalg.det(cell) < 0:
        raise ValueError(
            f"`cell` is left-handed (determinant {np.linalg.det(cell):.3f} Å³): "
            "swap two lattice vectors, or negate all three."
        )
    coincident = _coincident_pair(positions, cell, pbc)
    if coincident is not None:
        raise ValueError(
            f"Atoms {coincident[0]} and {coincident[1]} coincide (closer than {_COINCIDENT} Å, images counted): "
            "remove one of them."
        )


def _periodicity(pbc: bool | Sequence[bool] | np.ndarray) -> tuple[bool, bool, bool]:
    """One flag or three as three."""
    flags = np.broadcast_to(np.asarray(pbc, bool), (3,)) if np.ndim(pbc) == 0 else np.asarray(pbc, bool)
    if flags.shape != (3,):
        raise ValueError(f"`pbc` must be one flag or three; got {pbc}.")
    return bool(flags[0]), bool(flags[1]), bool(flags[2])


def _coincident_pair(positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> tuple[int, int] | None:
    """Two atoms on the same spot, by a search tree in fractional coordinates that wraps around."""
    from scipy.spatial import KDTree  # costs 0.1 s, so only where it is needed

    flags = np.asarray(pbc, bool)
    _, _, basis = np.linalg.svd(np.vstack([cell[flags], np.zeros((1, 3))]))
    complete = np.where(flags[:, None], cell, 0.0)
    complete[~flags] = basis[flags.sum() :]
    inverse = np.linalg.inv(complete)
    fractional = positions @ inverse
    fractional[:, flags] -= np.floor(fractional[:, flags])
    fractional[:, flags] %= 1.0
    fractional[:, ~flags] -= fractional[:, ~flags].min(axis=0)
    sides = np.where(flags, 1.0, 2.0 * fractional.max(axis=0) + 1.0)
    reach = _COINCIDENT * np.linalg.norm(inverse, 2)
    for i, j in KDTree(fractional, boxsize=sides).query_pairs(min(reach, 0.49)):
        steps = fractional[j] - fractional[i]
        steps[flags] -= np.round(steps[flags])
        if np.linalg.norm(steps @ complete) < _COINCIDENT:
            return i, j
    return None


def _determinant(cell: Float[Array, "3 3"]) -> Float[Array, ""]:
    """Determinant by the triple product: differentiable everywhere, at zero volume too."""
    a, b, c = cell[0], cell[1], cell[2]
    return jnp.sum(a * jnp.cross(b, c))
