"""Constraints of a system, obeyed by its dynamics: fixed atoms, rigid bonds, a center of mass at rest."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmlip.graph.lattice import product
from jaxmlip.system import System

_NEWTON = 6  # each squares the relative error, which starts below 0.1
_UNROLLED = 8  # bonds in a cluster up to which elimination is written out


class Constraints(eqx.Module):
    """What atoms may not do; made by `constrain`.

    `fixed` are atoms that never move, `pairs` the two atoms of each rigid bond and `lengths` [Å] their distances;
    `shifts` counts lattice vectors as in neighbor lists. Bonds that share atoms form clusters; each row of `clusters`
    lists the bonds of one, filled up with the number of bonds. `center_of_mass` says that the total momentum is zero.
    """

    fixed: Int[Array, "fixed"]
    pairs: Int[Array, "bonds 2"]
    shifts: Int[Array, "bonds 3"]
    lengths: Float[Array, "bonds"]
    clusters: Int[Array, "clusters members"]
    center_of_mass: bool = eqx.field(static=True)


def constrain(
    system: System, *, fixed: Any = (), bonds: Any = (), lengths: Any = None, center_of_mass: bool = False
) -> System:
    r"""The same system with constraints (host); they replace those it had, and nothing given removes them.

    `fixed` are indices of atoms or a mask; `bonds` pairs of atoms at constant distance, `lengths` [Å] their distances
    (default: the present ones; where given, the atoms are moved onto them). A bond counts with the nearest image of its
    atoms. `center_of_mass=True` keeps the total momentum at zero.

    Dynamics take part where velocity Verlet is made of kicks and drifts: a kick is followed by a projection of the
    momenta on those that keep all distances; a drift of time $h$ ends on the distances by forces along the old bonds,
    $r_i' = r_i + h p_i / m_i + \frac{1}{m_i} \sum_b \lambda_b \nabla_i \sigma_b(r)$, felt by the momenta too, and a
    projection. With two kicks this is RATTLE; with a thermostat between two drifts, g-BAOAB. $\lambda$ is solved for by
    Newton's method, each cluster of bonds at once.

    **Raises:** `ValueError` for atoms that do not exist, lengths that are not positive or farther than 20 % from the
    present ones, bonds that say the same thing twice (of three in a line, two suffice), or a fixed atom together with
    `center_of_mass`.

    **Reference:** Andersen, J. Comput. Phys. 52, 24 (1983), doi:10.1016/0021-9991(83)90014-1; Leimkuhler & Matthews,
    Proc. R. Soc. A 472, 20160138 (2016), doi:10.1098/rspa.2016.0138.
    """
    atoms = len(system.numbers)
    fixed = _indices(fixed, atoms)
    pairs = np.asarray(bonds, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= atoms or np.any(pairs[:, 0] == pairs[:, 1])):
        raise ValueError(f"`bonds` must be pairs of two different atoms 0 to {atoms - 1}; got {pairs.tolist()[:5]}.")
    if center_of_mass and len(fixed):
        raise ValueError("With fixed atoms the total momentum is not conserved: leave `center_of_mass` out.")
    if not len(fixed) and not len(pairs) and not center_of_mass:
        return dataclasses.replace(system, constraints=None)
    shifts, present = _nearest(system, pairs)
    wanted = present if lengths is None else np.broadcast_to(np.asarray(lengths, np.float64), present.shape)
    if not np.all(wanted > 1e-2) or np.any(np.abs(present - wanted) > 0.2 * wanted):
        raise ValueError(
            f"`lengths` must be positive and within 20 % of the present {present[:5]} Å; got {wanted[:5]}."
        )
    constraints = Constraints(
        fixed=jnp.asarray(fixed, jnp.int32),
        pairs=jnp.asarray(pairs, jnp.int32),
        shifts=jnp.asarray(shifts, jnp.int32),
        lengths=jnp.asarray(wanted, system.positions.dtype),
        clusters=jnp.asarray(_clusters(pairs, atoms), jnp.int32),
        center_of_mass=center_of_mass,
    )
    system = dataclasses.replace(system, constraints=constraints)
    _check_independent(system)
    return system if lengths is None else _moved_onto(system)


def degrees_of_freedom(system: System, *, conserves_momentum: bool) -> int:
    """How many degrees of freedom carry kinetic energy: 3 for each atom that is not fixed, less one for each bond.

    Three less where the total momentum is zero: with `center_of_mass`, and where nothing is fixed and the dynamics
    conserve it.
    """
    held, free = system.constraints, 3 * system.numbers.shape[-1]
    if held is None:
        return free - 3 if conserves_momentum else free
    free -= 3 * len(held.fixed) + len(held.pairs)
    still = held.center_of_mass or (conserves_momentum and len(held.fixed) == 0)
    return free - 3 if still else free


def project(system: System, momenta: Float[Array, "atoms 3"]) -> Float[Array, "atoms 3"]:
    r"""The nearest momenta, in the metric of the kinetic energy, that constraints allow: $\nabla\sigma \cdot v = 0$.

    Thermal momenta stay thermal, in fewer degrees of freedom.
    """
    held = system.constraints
    if held is None:
        return momenta
    if len(held.fixed):
        momenta = momenta.at[held.fixed].set(0.0)
    if held.center_of_mass:
        velocity = jnp.sum(momenta, axis=0) / jnp.sum(system.masses)
        momenta = momenta - system.masses[:, None] * velocity[None, :]
    if not len(held.pairs):
        return momenta
    vectors, inverse = bond_vectors(system), _inverse_masses(system)
    matrix = _matrix(system, inverse, vectors, vectors)
    for _ in range(2):  # the second pass removes what rounding left
        along = jnp.sum(vectors * _difference(held, momenta * inverse[:, None]), axis=1)
        momenta = momenta + _pull(held, _solve(held, matrix, -along), vectors, momenta)
    return momenta


def move(
    system: System, momenta: Float[Array, "atoms 3"], rest: Float[Array, "atoms 3"], dt: Float[Array, ""]
) -> tuple[Float[Array, "atoms 3"], Float[Array, "atoms 3"]]:
    """Where free flight for `dt` leads within rigid bonds: displacements [Å], with `rest` [Å] in them, and momenta.

    The momenta are not yet projected at the new positions.
    """
    held, inverse = system.constraints, _inverse_masses(system)
    displacements = dt * momenta * inverse[:, None] + rest
    old = bond_vectors(system)
    new = old + _difference(held, displacements)
    squares = held.lengths.astype(old.dtype) ** 2

    def newton(_, multipliers):
        now = new + _difference(held, inverse[:, None] * _pull(held, multipliers, old, momenta))
        matrix = 2.0 * _matrix(system, inverse, now, old)
        return multipliers - _solve(held, matrix, jnp.sum(now * now, axis=1) - squares)

    multipliers = lax.fori_loop(0, _NEWTON, newton, jnp.zeros_like(squares))
    pull = _pull(held, multipliers, old, momenta)
    return displacements + inverse[:, None] * pull, momenta + pull / dt


def bond_vectors(system: System) -> Float[Array, "bonds 3"]:
    """Vectors along the rigid bonds [Å], from the first atom of each to the second."""
    held = system.constraints
    return _difference(held, system.positions) + product(held.shifts.astype(system.cell.dtype), system.cell)


def violation(system: System) -> Float[Array, ""]:
    """Largest relative error of the length of a rigid bond; zero without any."""
    held, dtype = system.constraints, system.positions.dtype
    if held is None or not len(held.pairs):
        return jnp.zeros((), dtype)
    vectors = bond_vectors(system)
    return jnp.max(jnp.abs(jnp.sqrt(jnp.sum(vectors * vectors, axis=1)) / held.lengths.astype(dtype) - 1.0))


def _inverse_masses(system: System) -> Float[Array, "atoms"]:
    """1/mass [1/u], zero for fixed atoms."""
    return (1.0 / system.masses).at[system.constraints.fixed].set(0.0)


def _difference(held: Constraints, values: Float[Array, "atoms 3"]) -> Float[Array, "bonds 3"]:
    return values[held.pairs[:, 1]] - values[held.pairs[:, 0]]


def _pull(held: Constraints, multipliers: Array, vectors: Array, like: Array) -> Float[Array, "atoms 3"]:
    """Momenta given to the atoms by multipliers along the bonds."""
    along = multipliers[:, None] * vectors
    return jnp.zeros_like(like).at[held.pairs[:, 1]].add(along).at[held.pairs[:, 0]].add(-along)


def _matrix(system: System, inverse: Array, left: Array, right: Array) -> Float[Array, "clusters members members"]:
    r"""How bonds of a cluster move each other, $\nabla\sigma_a M^{-1} \nabla\sigma_b$; ones where a cluster ends."""
    held = system.constraints
    real = held.clusters < len(held.pairs)
    bonds = jnp.where(real, held.clusters, 0)
    ends, weights = held.pairs[bonds], inverse[held.pairs[bonds]]  # [clusters members 2]
    coupling = jnp.zeros((*bonds.shape, bonds.shape[1]), left.dtype)
    for a in range(2):
        for b in range(2):
            same = ends[:, :, None, a] == ends[:, None, :, b]
            sign = 1.0 if a == b else -1.0
            coupling = coupling + jnp.where(same, sign * weights[:, :, None, a], 0.0)
    dots = sum(left[bonds][:, :, None, c] * right[bonds][:, None, :, c] for c in range(3))
    both = real[:, :, None] & real[:, None, :]
    return jnp.where(both, coupling * dots, jnp.eye(bonds.shape[1], dtype=left.dtype)[None])


def _solve(held: Constraints, matrix: Float[Array, "clusters members members"], values: Float[Array, "bonds"]) -> Array:
    """Solution for each bond of the linear equations of all clusters."""
    filled = jnp.concatenate([values, jnp.zeros_like(values[:1])])
    right = filled[held.clusters]
    solved = eliminate(matrix, right) if right.shape[1] <= _UNROLLED else _library(matrix, right)
    return jnp.zeros_like(filled).at[held.clusters].set(solved)[:-1]


def eliminate(matrix: Float[Array, "clusters n n"], right: Float[Array, "clusters n"]) -> Float[Array, "clusters n"]:
    """Small linear equations, many at once, by Gauss-Jordan elimination (nearly symmetric positive: no pivots)."""
    size = right.shape[1]
    rows = [jnp.concatenate([matrix[:, a], right[:, a, None]], axis=1) for a in range(size)]
    for a in range(size):
        pivot = rows[a] / rows[a][:, a, None]
        rows = [pivot if b == a else rows[b] - rows[b][:, a, None] * pivot for b in range(size)]
    return jnp.stack([row[:, -1] for row in rows], axis=1)


def _library(matrix: Array, right: Array) -> Array:
    return jnp.linalg.solve(matrix, right[..., None])[..., 0]


def _indices(fixed: Any, atoms: int) -> np.ndarray:
    """Indices from indices or from a mask."""
    given = np.asarray(fixed)
    found = np.flatnonzero(given) if given.dtype == bool else np.unique(given.astype(np.int64))
    wrong_mask = given.dtype == bool and given.shape != (atoms,)
    if wrong_mask or (len(found) and (found[0] < 0 or found[-1] >= atoms)) or len(found) == atoms:
        raise ValueError(
            f"`fixed` must be indices 0 to {atoms - 1}, or a mask of {atoms} flags, not all of them; got {given}."
        )
    return found


def _nearest(system: System, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice shifts to the nearest image of the second atom of each bond, and the distances [Å]."""
    positions, cell = np.asarray(system.positions, np.float64), np.asarray(system.cell, np.float64)
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    flags = np.asarray(system.pbc)
    if not flags.any() or not len(pairs):
        return np.zeros((len(pairs), 3), np.int64), np.linalg.norm(vectors, axis=1)
    shifts = np.zeros((len(pairs), 3), np.int64)
    shifts[:, flags] = -np.round(vectors @ np.linalg.pinv(cell[flags])).astype(np.int64)
    around = np.stack(np.meshgrid(*[(-1, 0, 1) if flag else (0,) for flag in flags], indexing="ij"), axis=-1)
    candidates = shifts[:, None] + around.reshape(1, -1, 3)
    lengths = np.linalg.norm(vectors[:, None] + candidates @ cell, axis=2)
    best = lengths.argmin(axis=1)
    each = np.arange(len(pairs))
    return candidates[each, best], lengths[each, best]


def _clusters(pairs: np.ndarray, atoms: int) -> np.ndarray:
    """Bonds of each connected group of atoms, one row each, filled up with the number of bonds."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return np.zeros((0, 0), np.int64)
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(atoms, atoms))
    _, labels = connected_components(links, directed=False)
    groups = [np.flatnonzero(labels[pairs[:, 0]] == g) for g in np.unique(labels[pairs[:, 0]])]
    rows = np.full((len(groups), max(len(g) for g in groups)), len(pairs))
    for row, group in zip(rows, groups, strict=True):
        row[: len(group)] = group
    return rows


def _check_independent(system: System) -> None:
    """Refuse bonds whose equations have no single solution (host)."""
    held = system.constraints
    if not len(held.pairs):
        return
    vectors = bond_vectors(system)
    vectors = vectors / held.lengths[:, None]
    matrices = np.asarray(_matrix(system, _inverse_masses(system), vectors, vectors), np.float64)
    scale = np.sqrt(np.maximum(np.einsum("cii->ci", matrices), 1e-12))
    for row, matrix, s in zip(np.asarray(held.clusters), matrices, scale, strict=True):
        if np.linalg.eigvalsh(matrix / np.outer(s, s)).min() < 1e-5:
            bonds = np.asarray(held.pairs)[row[row < len(held.pairs)]].tolist()
            raise ValueError(
                f"The bonds {bonds[:6]} are not independent (given twice, between fixed atoms, or in a line, where "
                "fewer suffice): leave out those that follow from the others."
            )


def _moved_onto(system: System) -> System:
    """The system with its bonds at their lengths: a drift of no duration (host)."""
    zero = jnp.zeros_like(system.positions)
    for _ in range(4):
        displacements, _ = move(system, zero, zero, jnp.ones((), system.positions.dtype))
        system = dataclasses.replace(system, positions=system.positions + displacements)
    if float(violation(system)) > 1e3 * float(jnp.finfo(system.positions.dtype).eps):
        raise ValueError(f"`lengths` cannot all be met at once: bonds are still off by {float(violation(system)):.2g}.")
    return system
