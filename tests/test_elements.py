"""The periodic table against that of ASE."""

import ase.data
import numpy as np

from jaxmlip.elements import COVALENT_RADII, MASSES, NUMBERS, SYMBOLS


def test_symbols_are_those_of_ase():
    assert list(SYMBOLS) == ase.data.chemical_symbols
    assert NUMBERS["Si"] == 14
    assert all(SYMBOLS[number] == symbol for symbol, number in NUMBERS.items())


def test_masses_and_radii_are_those_of_ase():
    np.testing.assert_allclose(MASSES, ase.data.atomic_masses, rtol=2e-4)  # ASE carries an older revision of some
    np.testing.assert_allclose(COVALENT_RADII, ase.data.covalent_radii, atol=1e-12)


def test_known_weights():
    """IUPAC 2013: hydrogen 1.008, oxygen 15.999, silicon 28.085, copper 63.546, gold 196.966569."""
    for symbol, mass in (("H", 1.008), ("O", 15.999), ("Si", 28.085), ("Cu", 63.546), ("Au", 196.966569)):
        assert MASSES[NUMBERS[symbol]] == mass
