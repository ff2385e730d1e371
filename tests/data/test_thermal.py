"""Equipartition: displaced atoms carry the energy that they should."""

import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.data import thermal
from jaxmlip.data.generate import isolated_atom, masses_of, supercell
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError

ENERGY = LennardJones(0.0104, 3.4, 6.0)


@pytest.fixture
def crystal(argon):
    return supercell(argon, 32)


def harmonic(hessian, moves):
    return 0.5 * np.einsum("ia,iajb,jb", moves, hessian, moves)


def test_modes_carry_half_kT_each(crystal, rng):
    hessian = thermal.hessian_of(ENERGY, crystal)
    assert np.allclose(hessian.sum(axis=2), 0.0, atol=1e-10), "no force on a crystal that moves as a whole"
    modes = thermal.modes_of(hessian, crystal)
    assert len(modes.squares) == 3 * 32 - 3
    energies = [harmonic(hessian, thermal.mode_moves(modes, 40.0, rng, softest=1e-9)) for _ in range(2000)]
    expected = 0.5 * units.kB * 40.0 * 93
    error = np.sqrt(2.0 / 93 / 2000)
    assert np.mean(energies) == pytest.approx(expected, rel=4 * error)
    assert np.var(energies) == pytest.approx(expected**2 * 2.0 / 93, rel=0.2), "a sum of 93 squares"


def test_modes_leave_the_center_of_mass_where_it_is(crystal, rng):
    modes = thermal.modes_of(thermal.hessian_of(ENERGY, crystal), crystal)
    moves = thermal.mode_moves(modes, 40.0, rng)
    assert np.allclose((masses_of(crystal)[:, None] * moves).sum(axis=0), 0.0, atol=1e-8)


def test_einstein_atoms_carry_three_half_kT_in_a_field_that_is_at_rest(crystal, rng):
    stiffness = thermal.einstein_stiffness(thermal.hessian_of(ENERGY, crystal))
    sums = [
        0.5 * np.einsum("ia,iab,ib", moves, stiffness, moves)
        for moves in (thermal.einstein_moves(stiffness, 40.0, rng, softest=1e-9) for _ in range(1000))
    ]
    assert np.mean(sums) == pytest.approx(1.5 * 32 * units.kB * 40.0, rel=4 * np.sqrt(2.0 / 96 / 1000))


def test_atoms_that_move_alone_carry_the_same_energy_but_in_stiff_modes(crystal, rng):
    hessian = thermal.hessian_of(ENERGY, crystal)
    modes, stiffness = thermal.modes_of(hessian, crystal), thermal.einstein_stiffness(hessian)
    moves = [thermal.einstein_moves(stiffness, 40.0, rng) for _ in range(500)]
    assert np.mean([harmonic(hessian, u) for u in moves]) == pytest.approx(1.5 * 32 * units.kB * 40.0, rel=0.03)
    amplitudes = np.einsum("i,sia,kia->ks", modes.masses, modes.shapes, np.array(moves))
    energies = 0.5 * modes.squares * np.mean(amplitudes**2, axis=0)
    slope = np.polyfit(modes.squares, energies, 1)[0] * np.mean(modes.squares) / np.mean(energies)
    assert slope == pytest.approx(1.0, abs=0.1), "in proportion to the square of the frequency"


def test_a_debye_temperature_gives_the_classical_amplitude(crystal):
    """<u²> = 9 ħ² T / (m kB Θ²) above Θ (Ashcroft & Mermin), three directions of kT / k each."""
    k = thermal.debye_stiffness(masses_of(crystal), 92.0)[0, 0, 0]
    hbar, kB, u = 1.054571817e-34, 1.380649e-23, 1.66053906892e-27
    expected = 9.0 * hbar**2 * 100.0 / (39.948 * u * kB * 92.0**2) * 1e20
    assert 3.0 * units.kB * 100.0 / k == pytest.approx(expected, rel=1e-6)


def test_soft_and_unstable_directions_are_capped(crystal, rng):
    stiffness = np.array([np.diag([-4.0, 0.0, 2.0])])
    moves = np.array([thermal.einstein_moves(stiffness, 300.0, rng, softest=0.25)[0] for _ in range(4000)])
    assert np.allclose(moves.std(axis=0), np.sqrt(units.kB * 300.0 / np.array([0.5, 0.5, 2.0])), rtol=0.06)
    modes = thermal.Modes(np.array([-0.01, 0.0, 0.05]), np.ones((3, 1, 3)), np.array([40.0]))
    moves = np.array([thermal.mode_moves(modes, 300.0, rng, softest=0.5)[0, 0] for _ in range(4000)])
    assert moves.std() == pytest.approx(np.sqrt(units.kB * 300.0 * (1 / 0.01 + 1 / 0.01 + 1 / 0.05)), rel=0.06)


def test_no_temperature_no_displacement(crystal, rng):
    stiffness = thermal.debye_stiffness(masses_of(crystal), 92.0)
    assert np.all(thermal.einstein_moves(stiffness, 0.0, rng) == 0.0)
    for bad in (-1.0, np.nan):
        with pytest.raises(UserError, match="temperature"):
            thermal.einstein_moves(stiffness, bad, rng)
    with pytest.raises(UserError, match="Debye"):
        thermal.debye_stiffness(masses_of(crystal), 0.0)


def test_an_energy_that_does_not_know_the_element_is_named(rng):
    with pytest.raises(UserError, match="memory|generated"):
        thermal.hessian_of(LennardJones({"Ar": 0.0104}, {"Ar": 3.4}, 6.0), isolated_atom(14))
