"""Reference energies and scales."""

import numpy as np
import pytest

from jaxmlip.data import Dataset, find_references, statistics
from jaxmlip.data.statistics import reference_energy
from jaxmlip.errors import UserError
from jaxmlip.io import Record


def frame(numbers, energy, forces=None, **changes):
    count = len(numbers)
    positions = np.arange(3 * count, dtype=float).reshape(count, 3)
    cell = np.eye(3) * (3.0 * count)
    values = {"positions": positions, "numbers": np.array(numbers, np.int32), "cell": cell, "pbc": (True,) * 3}
    return Record(**{**values, "energy": energy, "forces": forces, **changes})


def test_least_squares_finds_the_references_within_their_error():
    random = np.random.default_rng(0)
    truth = {8: -432.1, 14: -107.3, 1: -13.6}
    frames = []
    for _ in range(200):
        numbers = random.choice(list(truth), size=random.integers(2, 9))
        noise = random.normal(scale=1e-3) * len(numbers)
        frames.append(frame(numbers, sum(truth[n] for n in numbers) + noise))
    found, origin, undetermined = find_references(Dataset(frames))
    assert origin == "least squares" and undetermined == ()
    assert max(abs(found[n] - truth[n]) for n in truth) < 1e-3


def test_isolated_atoms_come_first_where_every_element_has_one():
    atoms = [
        frame([14], -5.0, pbc=(False,) * 3),
        frame([8], -2.0, config_type="IsolatedAtom"),
    ]
    data = Dataset([*atoms, frame([14, 8], -9.0)])
    assert find_references(data)[:2] == ({14: -5.0, 8: -2.0}, "isolated atoms")
    assert find_references(data, "least_squares")[1] == "least squares"
    assert find_references(data, "none")[0] == {}
    assert find_references(data, {"Si": -1.0, "O": -2.5})[0] == {14: -1.0, 8: -2.5}
    assert find_references(data[1:])[1] == "least squares"
    with pytest.raises(UserError, match="isolated atom with an energy for Si"):
        find_references(data[1:], "isolated")


def test_compositions_that_do_not_determine_the_references_are_named():
    data = Dataset([frame([11, 17] * k, -8.0 * k) for k in (1, 2, 3)])
    found, _, undetermined = find_references(data)
    assert undetermined == (11, 17) and np.isclose(found[11] + found[17], -8.0)


def test_references_that_cannot_be_had_are_refused():
    with pytest.raises(UserError, match="lack O"):
        find_references(Dataset([frame([8, 14], 0.0)]), {14: -1.0})
    with pytest.raises(UserError, match="'Sx' is none"):
        find_references(Dataset([frame([14, 14], 0.0)]), {"Sx": -1.0})
    with pytest.raises(UserError, match="No frame has an energy"):
        find_references(Dataset([frame([14, 14], None)]))
    with pytest.raises(UserError, match="No frame with an energy contains O"):
        find_references(Dataset([frame([14, 14], -1.0), frame([8, 14], None)]))
    with pytest.raises(UserError, match="`references` is auto"):
        find_references(Dataset([frame([14, 14], -1.0)]), "average")


def test_statistics_count_neighbors_and_measure_forces():
    forces = np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])
    grid = frame([14, 14], -2.0, forces, positions=np.array([[0.0, 0, 0], [2, 2, 2]]), cell=np.eye(3) * 4.0)
    found = statistics(Dataset([grid]), 3.6)
    assert found.neighbors == 8.0 and np.isclose(found.force_rms, np.sqrt(25 / 6)) and found.elements == (14,)
    assert np.isclose(found.energy_std, 0.0) and np.isclose(reference_energy(grid.numbers, found.references), -2.0)
