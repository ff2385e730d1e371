"""Defects of a crystal: vacancies, interstitials, antisites and surfaces, without labels."""

from __future__ import annotations

import itertools
import math

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from jaxmlip.data.generate import derive
from jaxmlip.elements import SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.io import Record

_TRIALS = 400  # random places that an interstitial is chosen from


def vacancy(record: Record, rng: np.random.Generator, *, count: int = 1) -> Record:
    """The frame without `count` atoms: the first at random, further ones nearest to it.

    **Raises:** `UserError` where that would leave no atom.
    """
    if not 1 <= count < len(record):
        raise UserError(f"{record.where}: cannot take {count} of {len(record)} atoms away.")
    first = int(rng.integers(len(record)))
    distances = np.linalg.norm(nearest_images(record, record.positions - record.positions[first]), axis=1)
    gone = np.argsort(distances, kind="stable")[:count]
    kept = np.setdiff1d(np.arange(len(record)), gone)
    removed = " ".join(SYMBOLS[record.numbers[i]] for i in gone)
    return derive(
        record,
        "vacancy" if count == 1 else "divacancy" if count == 2 else "vacancies",
        positions=record.positions[kept],
        numbers=record.numbers[kept],
        masses=None if record.masses is None else record.masses[kept],
        removed=removed,
    )


def interstitial(record: Record, rng: np.random.Generator, *, number: int | None = None, roomy: float = 0.2) -> Record:
    """The frame with one more atom (of an element that it holds, at random), in one of the roomiest places: drawn among
    the share `roomy` of random points that are farthest from all atoms.

    **Raises:** `UserError` for a frame that is not periodic.
    """
    if not all(record.pbc):
        raise UserError(f"{record.where}: an interstitial needs a crystal that is periodic in three directions.")
    number = int(rng.choice(np.unique(record.numbers)) if number is None else number)
    points = rng.random((_TRIALS, 3)) @ record.cell
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ record.cell
    inside = np.linalg.solve(record.cell.T, record.positions.T).T
    wrapped = (inside - np.floor(inside)) @ record.cell
    room, _ = KDTree((wrapped[None] + images[:, None]).reshape(-1, 3)).query(points)
    best = np.argsort(-room)[: max(1, int(roomy * _TRIALS))]
    place = points[int(rng.choice(best))]
    return derive(
        record,
        "interstitial",
        positions=np.concatenate([record.positions, place[None]]),
        numbers=np.append(record.numbers, number).astype(np.int32),
        added=SYMBOLS[number],
    )


def antisite(record: Record, rng: np.random.Generator) -> Record:
    """The frame with two unlike atoms exchanged.

    **Raises:** `UserError` where all atoms are of one element.
    """
    if len(np.unique(record.numbers)) < 2:
        raise UserError(f"{record.where}: an antisite needs two elements; there is one.")
    one = int(rng.integers(len(record)))
    other = int(rng.choice(np.flatnonzero(record.numbers != record.numbers[one])))
    numbers = record.numbers.copy()
    numbers[[one, other]] = numbers[[other, one]]
    swapped = f"{SYMBOLS[record.numbers[one]]} {SYMBOLS[record.numbers[other]]}"
    return derive(record, "antisite", numbers=numbers, swapped=swapped)


def surface(
    record: Record,
    miller: tuple[int, int, int],
    *,
    atoms: int = 64,
    thickness: float = 8.0,
    vacuum: float = 10.0,
    rng: np.random.Generator | None = None,
) -> Record:
    """A slab of a crystal with surfaces (hkl) of its cell: at least `thickness` [Å] thick, as wide as `atoms` allow,
    with `vacuum` [Å] above. The normal is along z, all directions stay periodic, `rng` draws where the crystal is cut.

    **Raises:** `UserError` for a frame that is not a crystal, and indices that are all zero.
    """
    if not all(record.pbc):
        raise UserError(f"{record.where}: a surface is cut from a crystal that is periodic in three directions.")
    if not any(miller):
        raise UserError("Miller indices of a surface must not all be zero.")
    basis = _plane_basis(record.cell, np.array(miller) // math.gcd(*(abs(h) for h in miller)))
    cell = basis @ record.cell
    turned = _rotation(cell)
    cell, positions = cell @ turned, record.positions @ turned
    height = cell[2, 2]
    layers = max(1, math.ceil(thickness / height - 1e-9))
    shifts = np.arange(layers)[:, None] * cell[2]
    positions = (positions[None] + shifts[:, None]).reshape(-1, 3)
    total = layers * height
    start = 0.0 if rng is None else float(rng.random()) * height
    whole = np.floor((positions[:, 2] - start + 1e-6) / total)
    positions = positions - whole[:, None] * (layers * cell[2]) - [0.0, 0.0, start]
    slab = derive(
        record,
        "surface",
        positions=positions,
        numbers=np.tile(record.numbers, layers),
        masses=None if record.masses is None else np.tile(record.masses, layers),
        cell=np.array([cell[0], cell[1], [0.0, 0.0, total + vacuum]]),
        miller=" ".join(str(h) for h in miller),
        vacuum_angstrom=vacuum,
    )
    return _widened(slab, atoms)


def nearest_images(record: Record, vectors: Float[np.ndarray, "vectors 3"]) -> Float[np.ndarray, "vectors 3"]:
    """Vectors brought back by whole lattice vectors, each component of theirs to within half of one."""
    if not any(record.pbc):
        return vectors
    cell = np.where(np.asarray(record.pbc)[:, None], record.cell, 0.0)
    fractional = vectors @ np.linalg.pinv(cell)
    return vectors - np.round(fractional) @ cell


def _widened(slab: Record, atoms: int) -> Record:
    """The slab repeated in its plane: nearest to a square within `atoms`."""
    most = max(1, atoms // len(slab))
    sides = np.linalg.norm(slab.cell[:2], axis=1)
    pairs = [(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)]
    i, j = max(pairs, key=lambda p: (min(p[0] * sides[0], p[1] * sides[1]), -p[0] * p[1]))
    shifts = np.array([a * slab.cell[0] + b * slab.cell[1] for a in range(i) for b in range(j)])
    return derive(
        slab,
        "surface",
        positions=(slab.positions[None] + shifts[:, None]).reshape(-1, 3),
        numbers=np.tile(slab.numbers, len(shifts)),
        masses=None if slab.masses is None else np.tile(slab.masses, len(shifts)),
        cell=slab.cell * np.array([i, j, 1])[:, None],
    )


def _plane_basis(cell: Float[np.ndarray, "3 3"], miller: Int[np.ndarray, "3"]) -> Int[np.ndarray, "3 3"]:
    """Lattice vectors as rows of whole numbers: the two shortest in the plane, and the one out of it by a single layer
    that is nearest to the normal; right-handed."""
    reach = int(np.abs(miller).max()) + 1
    steps = np.array([v for v in itertools.product(range(-reach, reach + 1), repeat=3) if any(v)])
    flat = steps[steps @ miller == 0]
    flat = flat[np.argsort(np.linalg.norm(flat @ cell, axis=1), kind="stable")]
    first = flat[0]
    second = next(v for v in flat if np.any(np.cross(first, v)))
    normal = np.cross(first @ cell, second @ cell)
    up = steps[np.abs(steps @ miller) == 1]
    tilt = np.abs((up @ cell) @ normal) / np.linalg.norm(up @ cell, axis=1)
    third = up[int(np.argmax(np.round(tilt, 9)))]
    third = third if (third @ cell) @ normal > 0 else -third
    return np.array([first, second, third])


def _rotation(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation of row vectors that lays the first lattice vector along x and the second in the xy plane."""
    x = cell[0] / np.linalg.norm(cell[0])
    z = np.cross(cell[0], cell[1])
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)
