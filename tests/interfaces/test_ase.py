"""The ASE calculator."""

import ase.build
import jax
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones as AseLennardJones

from jaxmlip.energy import ZBL, AtomicReferences, Committee, LennardJones
from jaxmlip.interfaces.ase import Calculator, padded_size

ARGON = LennardJones(0.0104, 3.4, 6.0)


def argon(size=2, seed=0):
    atoms = ase.build.bulk("Ar", "fcc", 5.3, cubic=True) * (size, size, size)
    atoms.rattle(0.15, seed=seed)
    atoms.set_cell(atoms.cell @ np.array([[1.0, 0.02, 0.0], [0.0, 1.01, 0.03], [0.0, 0.0, 0.98]]), scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def calc():
    return Calculator(ARGON)


def test_numbers_agree_with_the_calculator_of_ase():
    atoms = argon(1)
    atoms.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=6.0, smooth=False)
    blunt = Calculator(LennardJones(0.0104, 3.4, 6.0, onset=1.0))
    other = atoms.copy()
    other.calc = blunt
    # ASE shifts each pair to zero at the cutoff; forces and stress do not see that.
    np.testing.assert_allclose(other.get_forces(), atoms.get_forces(), atol=1e-12)
    np.testing.assert_allclose(other.get_stress(), atoms.get_stress(), atol=1e-12)


def test_forces_and_stress_are_derivatives_of_the_energy(calc):
    atoms = argon()
    atoms.calc = calc
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 5])
    np.testing.assert_allclose(atoms.get_forces()[[0, 5]], numerical, atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-4), atol=1e-8)


def test_energies_of_atoms_add_up(calc):
    atoms = argon()
    atoms.calc = calc
    energies = atoms.get_potential_energies()
    assert energies.shape == (len(atoms),)
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_nothing_is_compiled_again_when_atoms_move_or_leave(calc):
    atoms = argon()
    atoms.calc = calc
    atoms.get_forces()
    before = calc.compilations
    for seed in range(5):
        moved = argon(seed=seed)
        moved.calc = calc
        moved.get_forces()
        fewer = moved[: len(moved) - seed]
        fewer.calc = calc
        fewer.get_stress()
    assert calc.compilations == before


def test_padding_to_a_larger_size_changes_nothing():
    small, large = argon(1), argon(2)
    alone = Calculator(ARGON)
    small.calc = alone
    expected = small.get_potential_energy(), small.get_forces(), small.get_stress()
    shared = Calculator(ARGON)
    large.calc = shared
    large.get_forces()
    small.calc = shared
    for got, want in zip((small.get_potential_energy(), small.get_forces(), small.get_stress()), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-13)


def test_sizes_grow_geometrically_and_stay_while_they_serve():
    assert padded_size(100) >= 100
    assert padded_size(95, 100) == 100
    assert padded_size(101, 100) > 100
    assert padded_size(40, 200) < 100
    assert padded_size(50, 0, room=1.2) >= 60
    assert len({padded_size(n) for n in range(10, 10_000)}) < 35


def test_an_element_the_energy_does_not_know_is_refused():
    atoms = ase.build.bulk("Cu")
    atoms.calc = Calculator(AtomicReferences({14: -1.0}) + ZBL())
    with pytest.raises(ValueError, match="does not know Cu; it knows Si"):
        atoms.get_potential_energy()


def test_a_molecule_has_no_stress():
    atoms = ase.Atoms("Ar2", [[0.0, 0.0, 0.0], [0.0, 0.0, 3.8]])
    atoms.calc = Calculator(ARGON)
    assert atoms.get_potential_energy() < 0
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_results_are_float64_where_jax_is_not():
    jax.config.update("jax_enable_x64", False)
    try:
        atoms = argon(1)
        atoms.calc = Calculator(LennardJones(0.0104, 3.4, 6.0))
        single = atoms.get_potential_energy(), atoms.get_forces()
    finally:
        jax.config.update("jax_enable_x64", True)
    atoms.calc = Calculator(LennardJones(float(np.float32(0.0104)), float(np.float32(3.4)), 6.0))
    assert single[1].dtype == np.float64
    assert single[0] == pytest.approx(atoms.get_potential_energy(), rel=1e-12)


def test_a_committee_says_how_far_its_members_disagree():
    members = [LennardJones(epsilon, 3.4, 6.0) for epsilon in (0.0100, 0.0104, 0.0109)]
    atoms, calc = argon(1), Calculator(Committee.of(members) + ZBL())
    each = []
    for member in members:
        other = atoms.copy()
        other.calc = Calculator(member)
        each.append((other.get_potential_energy(), other.get_forces(), other.get_stress()))
    atoms.calc = calc
    for i, name in enumerate(("energy_std", "forces_std", "stress_std")):
        expected = np.std([values[i] for values in each], axis=0, ddof=1)
        np.testing.assert_allclose(calc.get_property(name, atoms), expected, rtol=1e-9, atol=1e-15)
    assert "energy_std" not in Calculator(members[0]).implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        Calculator(members[0]).get_property("forces_std", atoms)
