"""Units against CODATA, by the physics that they stand for."""

import ase.units
import pytest

from jaxmlip import units


def test_the_unit_of_time_is_angstrom_times_root_of_mass_over_energy():
    """1 u moving at 1 Å per unit of time has a kinetic energy of half an eV; the unit is 10.18 fs."""
    speed = 1e-10 / (1e-15 / units.fs)  # m/s
    assert 0.5 * 1.66053906892e-27 * speed**2 / 1.602176634e-19 == pytest.approx(0.5, rel=1e-14)
    assert 1.0 / units.fs == pytest.approx(10.1805057, rel=1e-8)
    assert units.ns == pytest.approx(1e3 * units.ps) == pytest.approx(1e6 * units.fs)


def test_known_constants():
    """NIST, CODATA 2022 (https://physics.nist.gov/cuu/Constants): the digits printed there."""
    assert units.kB == pytest.approx(8.617333262e-5, rel=1e-9)
    assert units.coulomb == pytest.approx(units.hartree * units.bohr, rel=1e-9)
    assert 300.0 * units.kB / units.meV == pytest.approx(25.852, abs=1e-3)


def test_pressures_and_densities():
    """160.2176634 GPa are 1 eV/Å³; water has 0.0334 molecules of 18.015 u in each Å³ at 1 g/cm³."""
    assert 1.0 / units.GPa == pytest.approx(160.2176634, rel=1e-12)
    assert units.kbar == pytest.approx(0.1 * units.GPa) == pytest.approx(1e8 * units.Pa)
    assert units.g_per_cm3 / 18.015 == pytest.approx(0.033428, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "ase_name"),
    [
        ("fs", "fs"),
        ("kB", "kB"),
        ("GPa", "GPa"),
        ("bohr", "Bohr"),
        ("hartree", "Hartree"),
        ("rydberg", "Rydberg"),
    ],
)
def test_units_agree_with_ase(name, ase_name):
    """`ase.units` holds CODATA 2014, when the Boltzmann constant was known to 6e-7."""
    assert getattr(units, name) == pytest.approx(getattr(ase.units, ase_name), rel=1e-6)


def test_molar_units_agree_with_ase():
    assert units.kcal_per_mol == pytest.approx(ase.units.kcal / ase.units.mol, rel=1e-7)
    assert units.kJ_per_mol == pytest.approx(ase.units.kJ / ase.units.mol, rel=1e-7)
