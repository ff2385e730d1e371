"""Energies of isolated atoms, given and fitted."""

import numpy as np
import pytest

from jaxmlip.energy import AtomicReferences
from jaxmlip.energy.references import fit_references
from jaxmlip.graph import batch
from jaxmlip.system import make_system


def test_each_atom_gets_the_energy_of_its_element():
    graph = batch(make_system([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]], [14, 8, 14]), 2.0, atoms=5)
    energies = AtomicReferences({14: -107.0, 8: -430.0})(graph)
    np.testing.assert_array_equal(energies[:3], [-107.0, -430.0, -107.0])
    assert float(graph.sum_atoms(energies)[0]) == -644.0


@pytest.mark.parametrize("energies", [{}, {0: 1.0}, {119: 1.0}])
def test_keys_are_atomic_numbers(energies):
    with pytest.raises(ValueError):
        AtomicReferences(energies)


def test_fitted_energies_recover_known_ones():
    random = np.random.default_rng(0)
    numbers = [random.choice([1, 8, 14], size=random.integers(2, 12)) for _ in range(30)]
    known = {1: -13.6, 8: -430.0, 14: -107.0}
    energies = np.array([sum(known[int(n)] for n in z) for z in numbers])
    fitted, free = fit_references(numbers, energies)
    assert fitted == pytest.approx(known, rel=1e-10)
    assert free == ()


def test_elements_that_the_compositions_cannot_tell_apart_are_named():
    numbers = [np.array([11, 17] * n + [14]) for n in range(1, 6)]
    energies = np.array([-10.0 * n - 107.0 for n in range(1, 6)])
    fitted, free = fit_references(numbers, energies)
    assert free == (11, 17)
    assert fitted[11] + fitted[17] == pytest.approx(-10.0, rel=1e-10)
    assert fitted[14] == pytest.approx(-107.0, rel=1e-10)
