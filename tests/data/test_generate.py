"""Structures made from a seed: counts, distances, volumes, and what they say of themselves."""

import numpy as np
import pytest

from jaxmlip.data import generate as make
from jaxmlip.data.random_structures import random_structure
from jaxmlip.elements import COVALENT_RADII
from jaxmlip.errors import UserError
from jaxmlip.io import read_frames, write_frames


def volume(record):
    return abs(np.linalg.det(record.cell))


def test_a_supercell_is_the_cube_that_fits(silicon):
    cell = make.supercell(silicon, 70)
    assert len(cell) == 64 and np.allclose(cell.cell, 2 * silicon.cell)
    assert make.closeness(cell) == pytest.approx(make.closeness(silicon))
    assert len(make.supercell(silicon, 3)) == 8, "a cell that is too large stays as it is"
    with pytest.raises(UserError, match="at least 1"):
        make.repeat(silicon, (0, 1, 1))


def test_a_layer_is_not_repeated_where_it_is_not_periodic(silicon):
    slab = make.derive(silicon, "slab", pbc=(True, True, False))
    wide = make.supercell(slab, 64)
    assert np.allclose(np.linalg.norm(wide.cell, axis=1), [10.862, 10.862, 5.431]) and len(wide) == 32


def test_provenance_survives_the_file(silicon, rng, tmp_path):
    made = make.displaced(silicon, 0.05 * rng.standard_normal((8, 3)), "rattle_300K", temperature_K=300.0)
    made = make.strained(made, np.diag([0.01, 0.0, -0.02]), "strain", note='a "quoted" word')
    write_frames(tmp_path / "made.xyz", [made])
    (read,) = read_frames(tmp_path / "made.xyz")
    assert read.config_type == "strain"
    assert read.info["parent"] == "seed.xyz, frame 0" and read.info["temperature_k"] == 300.0
    assert np.allclose(read.info["strain"], [0.01, 0.0, -0.02, 0.0, 0.0, 0.0])
    assert read.info["note"] == "a 'quoted' word"
    assert np.allclose(read.positions, made.positions, atol=1e-10) and np.allclose(read.cell, made.cell)


def test_labels_are_not_inherited(silicon):
    import dataclasses

    labelled = dataclasses.replace(silicon, energy=-1.0, forces=np.zeros((8, 3)), stress=np.zeros((3, 3)))
    moved = make.strained(labelled, 0.01 * np.eye(3))
    assert moved.energy is None and moved.forces is None and moved.stress is None


def test_the_strain_grid_spans_volumes_and_keeps_them_in_shear(silicon):
    grid = list(make.strain_grid(0.1, 0.03, 2))
    assert len(grid) == 24
    volumes = [volume(make.strained(silicon, s)) / volume(silicon) for n, s in grid if n == "volume"]
    assert np.allclose(sorted(volumes), [0.9, 0.95, 1.05, 1.1])
    for name, strain in grid:
        assert np.allclose(strain, strain.T)
        if name != "volume":
            assert (
                abs(np.trace(strain)) < 1e-12 and abs(np.abs(strain).max() - 0.03) < 1e-9 or np.abs(strain).max() < 0.03
            )
    with pytest.raises(UserError, match="volume"):
        list(make.strain_grid(0.9, 0.03, 2))


def test_strains_turn_distances_as_they_should(silicon):
    strain = np.array([[0.02, 0.01, 0.0], [0.01, -0.01, 0.0], [0.0, 0.0, 0.03]])
    made = make.strained(silicon, strain)
    bond = silicon.positions[4] - silicon.positions[0]
    assert np.allclose(made.positions[4] - made.positions[0], bond @ (np.eye(3) + strain))
    with pytest.raises(UserError, match=r"0\.3"):
        make.strained(silicon, -0.9 * np.eye(3))
    with pytest.raises(UserError, match="periodic"):
        make.strained(make.isolated_atom(14), 0.01 * np.eye(3))


def test_compression_is_by_volume(silicon):
    assert volume(make.compressed(silicon, 0.6)) == pytest.approx(0.6 * volume(silicon))
    with pytest.raises(UserError, match="compressed"):
        make.compressed(silicon, 1.5)


def test_dimers_take_the_pairs_of_elements_in_turn():
    made = make.dimers([14, 6, 14], 7, nearest=0.5, farthest=2.0)
    kinds = [tuple(sorted(r.numbers.tolist())) for r in made]
    assert {k: kinds.count(k) for k in kinds} == {(6, 6): 3, (6, 14): 2, (14, 14): 2}
    lengths = [np.linalg.norm(r.positions[1] - r.positions[0]) for r in made if tuple(r.numbers) == (6, 6)]
    assert np.allclose(lengths, 2 * COVALENT_RADII[6] * np.array([0.5, 1.0, 2.0]))
    assert all(r.cell[0, 0] - r.info["distance_angstrom"] == pytest.approx(10.0) for r in made)
    with pytest.raises(UserError, match="rise"):
        make.dimers([14], 3, nearest=2.0, farthest=1.0)


def test_displacements_that_would_make_atoms_overlap_are_made_smaller(silicon):
    moves = np.zeros((8, 3))
    moves[4] = silicon.positions[0] - silicon.positions[4]  # onto another atom
    made = make.displaced(silicon, moves, "rattle")
    assert make.closeness(made) >= make.CLOSEST and 0.0 < made.info["scaled"] < 1.0
    small = make.displaced(silicon, 0.1 * moves, "rattle")
    assert "scaled" not in small.info


def test_random_structures_keep_their_distance_and_volume(rng):
    for _ in range(5):
        made = random_structure([14] * 6 + [6] * 2, rng, volume=(15.0, 25.0), closest=0.8)
        assert make.closeness(made) >= 0.8 - 1e-9 and np.linalg.det(made.cell) > 0
        assert 15.0 <= volume(made) / 8 <= 40.0 and volume(made) / 8 == pytest.approx(made.info["volume_per_atom"])


def test_random_structures_that_cannot_be_are_refused(rng):
    with pytest.raises(UserError, match="find no place"):
        random_structure([14] * 8, rng, volume=(1.0, 1.5), closest=3.0)
    with pytest.raises(UserError, match="Volumes"):
        random_structure([14], rng, volume=(5.0, 1.0))
    with pytest.raises(UserError, match="at least one atom"):
        random_structure([], rng, volume=(5.0, 6.0))
