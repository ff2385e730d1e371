"""Vacancies, interstitials, antisites and surfaces."""

import numpy as np
import pytest

from jaxmlip.data import defects
from jaxmlip.data.generate import closeness, derive, isolated_atom, supercell
from jaxmlip.errors import UserError


def test_two_vacancies_are_neighbors(silicon, rng):
    cell = supercell(silicon, 64)
    lacking = defects.vacancy(cell, rng, count=2)
    assert len(lacking) == 62 and lacking.config_type == "divacancy" and lacking.info["removed"] == "Si Si"
    kept = {tuple(p) for p in np.round(lacking.positions, 6)}
    gone = np.array([p for p in np.round(cell.positions, 6) if tuple(p) not in kept])
    step = defects.nearest_images(cell, gone[:1] - gone[1:])
    assert np.linalg.norm(step) == pytest.approx(np.sqrt(3) / 4 * 5.431, abs=1e-5)
    with pytest.raises(UserError, match="cannot take 8 of 8"):
        defects.vacancy(silicon, rng, count=8)


def test_interstitials_sit_where_there_is_room(silicon, rng):
    for _ in range(5):
        crowded = defects.interstitial(supercell(silicon, 64), rng)
        added = crowded.positions[-1] - crowded.positions[:-1]
        nearest = np.linalg.norm(defects.nearest_images(crowded, added), axis=1).min()
        assert len(crowded) == 65 and nearest > 1.9, "hexagonal holes are 2.25 Å from the atoms, tetrahedral ones 2.35"
    with pytest.raises(UserError, match="periodic"):
        defects.interstitial(isolated_atom(14), rng)


def test_antisites_exchange_two_elements(carbide, silicon, rng):
    swapped = defects.antisite(carbide, rng)
    assert np.sum(swapped.numbers != carbide.numbers) == 2
    assert sorted(swapped.numbers) == sorted(carbide.numbers) and sorted(swapped.info["swapped"].split()) == ["C", "Si"]
    with pytest.raises(UserError, match="two elements"):
        defects.antisite(silicon, rng)


@pytest.mark.parametrize(
    ("miller", "area", "broken"),
    [
        ((1, 0, 0), 1.0, 4),
        ((1, 1, 0), np.sqrt(2.0), 4),
        ((1, 1, 1), np.sqrt(3.0), None),
        ((2, -1, 0), np.sqrt(5.0), None),
    ],
)
def test_surfaces_have_the_area_of_their_plane_and_whole_bonds_inside(silicon, miller, area, broken, rng):
    slab = defects.surface(silicon, miller, atoms=1, thickness=12.0, vacuum=9.0, rng=rng)
    plane = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
    # The cell of eight atoms is primitive for none of these planes, so areas are whole multiples of half the plane's.
    assert plane == pytest.approx(area * 5.431**2 * (1.0 if miller != (1, 1, 1) else 1.0), rel=1e-9)
    assert np.allclose(slab.cell[2, :2], 0.0) and np.linalg.det(slab.cell) > 0
    height = np.ptp(slab.positions[:, 2])
    assert 12.0 - 2.4 < height and slab.cell[2, 2] - height >= 9.0
    assert len(slab) / (plane * (slab.cell[2, 2] - 9.0)) == pytest.approx(8 / 5.431**3, rel=1e-9)
    assert closeness(slab) == pytest.approx(np.sqrt(3) / 4 * 5.431 / 2.22, rel=1e-6), (
        "no two layers were pushed together"
    )
    inside = np.abs(slab.positions[:, 2] - slab.positions[:, 2].mean()) < 2.0
    neighbors = defects.nearest_images(slab, (slab.positions[:, None] - slab.positions[None]).reshape(-1, 3))
    bonds = (np.linalg.norm(neighbors, axis=1).reshape(len(slab), -1) < 2.5).sum(axis=1) - 1
    assert inside.any()
    if np.min(np.linalg.norm(slab.cell[:2], axis=1)) > 5.0:  # else an atom is bound to two images of one
        assert np.all(bonds[inside] == 4)


def test_surfaces_are_made_as_wide_as_allowed(silicon):
    slab = defects.surface(silicon, (1, 0, 0), atoms=64, thickness=8.0)
    assert len(slab) == 64 and np.allclose(np.linalg.norm(slab.cell[:2], axis=1), 10.862)
    with pytest.raises(UserError, match="zero"):
        defects.surface(silicon, (0, 0, 0))
    with pytest.raises(UserError, match="periodic"):
        defects.surface(derive(silicon, "slab", pbc=(True, True, False)), (1, 0, 0))
