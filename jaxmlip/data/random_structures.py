"""Random structures: random cells with random atoms that keep their distance, the start of a structure search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxmlip.elements import COVALENT_RADII
from jaxmlip.errors import UserError
from jaxmlip.io import Record

_PLACES = 300  # tries for each atom, before the cell grows by a tenth
_GROWTHS = 30
_ANGLES = (60.0, 120.0)  # degrees
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)))


def random_structure(
    numbers: Sequence[int],
    rng: np.random.Generator,
    *,
    volume: tuple[float, float],
    closest: float = 0.8,
) -> Record:
    """Atoms of the given elements in a random cell, with a volume per atom drawn between the two of `volume` [Å³], and
    no two nearer than `closest` times the sum of their covalent radii.

    The cell has angles of 60 to 120 degrees and sides that differ by less than a factor of two. Where the atoms find no
    place the cell grows.

    **Raises:** `UserError` for no atoms, volumes that are not positive, and a distance that fits into no cell.

    **Reference:** Pickard & Needs, J. Phys.: Condens. Matter 23, 053201 (2011), doi:10.1088/0953-8984/23/5/053201.
    """
    if not len(numbers):
        raise UserError("A random structure needs at least one atom.")
    if not 0.0 < volume[0] <= volume[1] < 1e4:
        raise UserError(f"Volumes per atom must be positive and rise [Å³]; got {volume}.")
    drawn = float(rng.uniform(*volume))
    size = drawn * len(numbers)
    for _ in range(_GROWTHS):
        cell = _random_cell(size, rng)
        positions = _place(np.asarray(numbers), cell, closest, rng)
        if positions is not None:
            info = {"parent": "none", "volume_per_atom": size / len(numbers), "closest": closest}
            return Record(
                positions=positions,
                numbers=np.asarray(numbers, np.int32),
                cell=cell,
                pbc=(True, True, True),
                config_type="random",
                path="generated",
                info=info,
            )
        size *= 1.1
    raise UserError(
        f"{len(numbers)} atoms find no place at {closest} times the sum of covalent radii, in cells up to "
        f"{size / len(numbers):.3g} Å³ for each: give a smaller distance."
    )


def _random_cell(volume: float, rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A right-handed cell of random shape that is not flat."""
    while True:
        a, b, c = rng.uniform(0.7, 1.4, 3)
        alpha, beta, gamma = np.radians(rng.uniform(*_ANGLES, 3))
        y = (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
        rest = 1.0 - np.cos(beta) ** 2 - y**2
        if rest < 0.3:
            continue
        cell = np.array(
            [
                [a, 0.0, 0.0],
                [b * np.cos(gamma), b * np.sin(gamma), 0.0],
                [c * np.cos(beta), c * y, c * np.sqrt(rest)],
            ]
        )
        return cell * (volume / np.linalg.det(cell)) ** (1.0 / 3.0)


def _place(
    numbers: np.ndarray, cell: Float[np.ndarray, "3 3"], closest: float, rng: np.random.Generator
) -> Float[np.ndarray, "atoms 3"] | None:
    """Random positions one after the other, or `None` where one finds none."""
    radii = np.asarray(COVALENT_RADII)[numbers]
    images = _IMAGES @ cell
    own = np.linalg.norm(images[np.any(_IMAGES != 0, axis=1)], axis=1).min()
    if own < 2.0 * closest * radii.max():
        return None
    positions = np.empty((0, 3))
    for atom in range(len(numbers)):
        for _ in range(_PLACES):
            place = rng.random(3) @ cell
            vectors = positions[:, None] + images[None] - place
            distances = np.linalg.norm(vectors, axis=2).min(axis=1, initial=np.inf)
            if np.all(distances >= closest * (radii[:atom] + radii[atom])):
                positions = np.concatenate([positions, place[None]])
                break
        else:
            return None
    return positions
