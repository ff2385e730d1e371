"""Bonds, angles and torsions: values, broken molecules, batches, and derivatives where bonds are in line."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import (
    HarmonicAngles,
    HarmonicBonds,
    HarmonicTorsions,
    PeriodicTorsions,
    check_system,
    energy_forces,
    hessian,
)
from jaxmlip.energy.angles import squared_arcsine
from jaxmlip.graph import batch
from jaxmlip.system import make_system

measure = eqx.filter_jit(energy_forces)
second = eqx.filter_jit(hessian)
CHAIN = np.array([[0.1, 0.2, 0.0], [1.5, 0.0, 0.3], [2.1, 1.4, 0.1], [3.3, 1.7, 1.1]])
CELL = np.array([[4.6, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.7, 0.9, 4.4]])


def molecule():
    """Every kind of term on a chain of four atoms."""
    bonds = HarmonicBonds([[0, 1], [1, 2], [2, 3]], [9.0, 8.0, 7.0], 1.45, atoms=4)
    angles = HarmonicAngles([[0, 1, 2], [1, 2, 3]], 2.0, [1.9, 2.0], atoms=4)
    torsions = PeriodicTorsions([[0, 1, 2, 3]] * 2, [0.3, 0.2], [1, 3], [0.4, -0.2], atoms=4)
    return bonds + angles + torsions + HarmonicTorsions([[1, 0, 2, 3]], 0.5, 0.3, atoms=4)


def chain(positions=CHAIN, cell=None):
    return make_system(positions, [6] * len(positions), cell=cell)


def total(energy, positions, cell=None):
    energies, forces = measure(energy, batch(chain(positions, cell), 3.0, neighbors=40))
    return float(energies[0]), np.asarray(forces)


def bent(angle):
    """Three atoms with a bond angle [rad]."""
    return np.array([[1.1, 0.0, 0.0], [0.0, 0.0, 0.0], [1.3 * np.cos(angle), 1.3 * np.sin(angle), 0.0]])


def twisted(phi, opening=1.9):
    """Four atoms with a dihedral angle and two bond angles [rad]."""
    c, s = np.cos(opening), np.sin(opening)
    first, last = np.array([c, s, 0.0]), np.array([-c, s * np.cos(phi), s * np.sin(phi)])
    return np.array([1.2 * first, [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], np.array([1.5, 0.0, 0.0]) + 1.1 * last])


def test_bonds_have_their_stiffness_and_length():
    energy, forces = total(HarmonicBonds([[0, 1]], 4.0, 1.2, atoms=2), np.array([[0.0, 0.0, 0.0], [0.0, 1.5, 0.0]]))
    assert energy == pytest.approx(0.5 * 4.0 * 0.3**2, rel=1e-13)
    np.testing.assert_allclose(forces, [[0.0, 1.2, 0.0], [0.0, -1.2, 0.0]], atol=1e-13)


@pytest.mark.parametrize("angle", [0.4, 1.2, np.pi / 2, 1.9, 3.0, 3.1405, np.pi])
@pytest.mark.parametrize("rest", [1.9, np.pi])
def test_angles_are_angles(angle, rest):
    energy, forces = total(HarmonicAngles([[0, 1, 2]], 3.0, rest, atoms=3), bent(angle))
    assert energy == pytest.approx(1.5 * (angle - rest) ** 2, rel=1e-10, abs=1e-15)
    torque = 1.3 * (np.cos(angle) * forces[2, 1] - np.sin(angle) * forces[2, 0])
    cusp = angle == np.pi and rest != np.pi
    assert torque == pytest.approx(0.0 if cusp else -3.0 * (angle - rest), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("phi", [-3.0, -1.0, 0.0, 0.7, 2.5, np.pi])
def test_torsions_are_dihedral_angles_with_their_sign(phi):
    for n in (1, 2, 3, 6):
        energy, _ = total(PeriodicTorsions([[0, 1, 2, 3]], 0.7, n, 0.5, atoms=4), twisted(phi))
        assert energy == pytest.approx(0.7 * (1.0 + np.cos(n * phi - 0.5)), rel=1e-12, abs=1e-14)
    energy, _ = total(HarmonicTorsions([[0, 1, 2, 3]], 0.7, 2.0, atoms=4), twisted(phi))
    off = (phi - 2.0 + np.pi) % (2.0 * np.pi) - np.pi
    assert energy == pytest.approx(0.35 * off**2, rel=1e-12, abs=1e-14)


def test_the_sign_is_that_of_ase():
    from ase import Atoms

    turned = np.deg2rad(Atoms("C4", twisted(0.7)).get_dihedral(0, 1, 2, 3))
    assert turned == pytest.approx(0.7, rel=1e-12)


def test_a_molecule_broken_by_the_boundary_has_the_same_energy_and_forces():
    whole = total(molecule(), CHAIN, CELL)
    free = total(molecule(), CHAIN)
    random = np.random.default_rng(0)
    for _ in range(4):
        broken = total(molecule(), CHAIN + random.integers(-3, 4, (4, 3)) @ CELL, CELL)
        assert broken[0] == pytest.approx(whole[0], rel=1e-12)
        np.testing.assert_allclose(broken[1], whole[1], atol=1e-11)
    assert whole[0] == pytest.approx(free[0], rel=1e-12)


def test_forces_are_the_gradient_and_carry_no_torque():
    energy, forces = total(molecule(), CHAIN)
    numeric = np.zeros((4, 3))
    for index in np.ndindex(4, 3):
        for sign in (1.0, -1.0):
            moved = CHAIN.copy()
            moved[index] += sign * 1e-5
            numeric[index] -= sign * total(molecule(), moved)[0] / 2e-5
    np.testing.assert_allclose(forces, numeric, atol=2e-9)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.cross(CHAIN, forces).sum(axis=0), 0.0, atol=1e-12)
    assert energy > 0.0


def test_a_batch_holds_the_molecule_many_times_and_a_stranger_is_nan():
    systems = [chain(CHAIN), chain(1.02 * CHAIN, CELL), chain(CHAIN[:3])]
    energies, forces = measure(molecule(), batch(systems, 3.0, atoms=14, neighbors=40, slots=5))
    assert float(energies[0]) == pytest.approx(total(molecule(), CHAIN)[0], rel=1e-13)
    assert float(energies[1]) == pytest.approx(total(molecule(), 1.02 * CHAIN, CELL)[0], rel=1e-12)
    assert np.isnan(float(energies[2])) and np.all(np.asarray(energies[3:]) == 0.0)
    np.testing.assert_allclose(forces[4:8], total(molecule(), 1.02 * CHAIN, CELL)[1], atol=1e-12)
    assert np.all(np.isfinite(forces)) and np.all(np.asarray(forces[8:]) == 0.0)


def test_another_number_of_atoms_is_refused():
    with pytest.raises(ValueError, match="system of 4 atoms; this one has 3"):
        check_system(molecule(), chain(CHAIN[:3]))
    with pytest.raises(ValueError, match="system of 4 atoms; this one has 3"):
        molecule()(batch(chain(CHAIN[:3]), 3.0))
    check_system(molecule(), chain(CHAIN))


def test_a_linear_molecule_has_its_bending_modes():
    """CO2: the Hessian of a harmonic angle about 180 degrees is k times the outer product of its gradient."""
    positions = np.array([[-1.1, 0.0, 0.0], [0.0, 0.0, 0.0], [1.3, 0.0, 0.0]])
    matrix = np.asarray(second(HarmonicAngles([[0, 1, 2]], 3.0, np.pi, atoms=3), batch(chain(positions), 3.0)))
    for axis in (1, 2):
        slope = np.zeros((3, 3))
        slope[:, axis] = [1.0 / 1.1, -1.0 / 1.1 - 1.0 / 1.3, 1.0 / 1.3]
        block = matrix[:, axis, :, axis]
        np.testing.assert_allclose(block, 3.0 * np.outer(slope[:, axis], slope[:, axis]), rtol=1e-12)
    assert np.abs(matrix[:, 0]).max() < 1e-12


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.1])
def test_derivatives_stay_finite_where_bonds_are_in_line(tilt):
    """The torsion is not defined in line; its forces and second derivatives stay below a bound all the way there."""
    positions = twisted(0.8, np.pi - tilt)
    energy = PeriodicTorsions([[0, 1, 2, 3]], 0.7, 3, atoms=4) + HarmonicTorsions([[0, 1, 2, 3]], 0.7, 0.1, atoms=4)
    graph = batch(chain(positions), 3.0, neighbors=40)
    forces, matrix = measure(energy, graph)[1], second(energy, graph)
    assert np.all(np.isfinite(forces)) and np.abs(forces).max() < 100.0
    assert np.all(np.isfinite(matrix)) and np.abs(matrix).max() < 1e4
    if tilt == 0.0:
        assert np.abs(forces).max() == 0.0
    angles = HarmonicAngles([[0, 1, 2], [1, 2, 3]], 3.0, [1.9, np.pi], atoms=4)
    assert np.all(np.isfinite(measure(angles, graph)[1])) and np.all(np.isfinite(second(angles, graph)))


def test_the_square_of_the_arcsine_is_smooth_where_its_series_ends():
    y = jnp.array([0.0, 1e-9, 0.005, 0.00999999, 0.01000001, 0.1, 0.5])
    np.testing.assert_allclose(squared_arcsine(y)[1:], np.arcsin(np.sqrt(y[1:])) ** 2, rtol=1e-14)
    third = jax.vmap(jax.grad(jax.grad(squared_arcsine)))(y)
    assert float(third[0]) == pytest.approx(2.0 / 3.0) and float(third[3]) == pytest.approx(float(third[4]), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HarmonicBonds([[0, 4]], 1.0, 1.0, atoms=4), "not among 0 to 3"),
        (lambda: HarmonicBonds([[2, 2]], 1.0, 1.0, atoms=4), "twice"),
        (lambda: HarmonicBonds([[0, 1, 2]], 1.0, 1.0, atoms=4), "2 whole numbers"),
        (lambda: HarmonicBonds([[0, 1]], [1.0, 2.0], 1.0, atoms=4), "one for each of 1 terms"),
        (lambda: HarmonicBonds([[0, 1]], -1.0, 1.0, atoms=4), "stiffness"),
        (lambda: HarmonicAngles([[0, 1, 2]], 1.0, 109.5, atoms=4), "radians"),
        (lambda: PeriodicTorsions([[0, 1, 2, 3]], 1.0, 0, atoms=4), "multiplicity"),
        (lambda: PeriodicTorsions([[0, 1, 2, 3]], 1.0, 3, 180.0, atoms=4), "radians"),
        (lambda: HarmonicTorsions([[0, 1, 2, 3]], 1.0, 0.0, atoms=0), "at least 1"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
