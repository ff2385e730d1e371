"""Crystals that the tests of generation start from."""

import numpy as np
import pytest

from jaxmlip.io import Record

BASIS = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0


def cubic(numbers, lattice, basis=BASIS):
    return Record(
        positions=lattice * basis,
        numbers=np.asarray(numbers, np.int32),
        cell=lattice * np.eye(3),
        pbc=(True, True, True),
        path="seed.xyz",
    )


@pytest.fixture
def silicon():
    """The cell of eight atoms of diamond silicon."""
    return cubic([14] * 8, 5.431)


@pytest.fixture
def carbide():
    """Zinc blende: silicon and carbon."""
    return cubic([14] * 4 + [6] * 4, 4.36)


@pytest.fixture
def argon():
    """The cubic cell of four atoms of argon."""
    return cubic([18] * 4, 5.3, BASIS[:4])


@pytest.fixture
def rng():
    return np.random.default_rng(0)
