"""Restraints, walls, umbrellas and the collective variables that they act on."""

import jax
import numpy as np
import pytest

from jaxmlip.energy import (
    Angle,
    Coordinate,
    Coordination,
    Distance,
    External,
    PlanarWall,
    PositionRestraints,
    SphericalWall,
    Torsion,
    Umbrella,
    Variable,
    check_system,
    energy_forces,
)
from jaxmlip.graph import batch
from jaxmlip.system import make_system

measure = jax.jit(energy_forces, compiler_options={"xla_backend_optimization_level": 0})
POSITIONS = np.array([[0.1, 0.2, 0.0], [1.5, 0.0, 0.3], [2.1, 1.4, 0.1], [3.3, 1.7, 1.1]])
CELL = np.array([[4.6, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.7, 0.9, 4.4]])


def graph_of(positions=POSITIONS, cell=CELL):
    return batch(make_system(positions, [6] * len(positions), cell=cell), 1.5, neighbors=16)


def total(energy, positions=POSITIONS, cell=CELL):
    energies, forces = measure(energy, graph_of(positions, cell))
    return float(energies[0]), np.asarray(forces)


def test_springs_pull_to_their_places():
    places = POSITIONS[[0, 2]] + np.array([[0.3, 0.0, 0.0], [0.0, -0.4, 0.0]])
    energy, forces = total(PositionRestraints([0, 2], places, np.array([2.0, 3.0]), atoms=4))
    assert energy == pytest.approx(0.5 * 2.0 * 0.09 + 0.5 * 3.0 * 0.16, rel=1e-12)
    np.testing.assert_allclose(forces, [[0.6, 0, 0], [0, 0, 0], [0, -1.2, 0], [0, 0, 0]], atol=1e-12)


def test_springs_take_the_nearest_image_only_where_asked():
    moved = POSITIONS + np.array([[1, -2, 0], [0, 0, 1], [0, 0, 0], [3, 1, 1]]) @ CELL
    near, far = (PositionRestraints([0, 1, 2, 3], POSITIONS, 1.0, atoms=4, periodic=p) for p in (True, False))
    assert total(near, moved)[0] < 1e-24 < 1.0 < total(far, moved)[0]


@pytest.mark.parametrize("power", [2.0, 3.0, 4.5])
def test_walls_push_behind_and_only_there(power):
    energy, forces = total(PlanarWall([2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], 1.7, power))
    depth = np.maximum(POSITIONS[:, 0] - 2.0, 0.0)
    assert energy == pytest.approx(np.sum(1.7 / power * depth**power), rel=1e-12)
    np.testing.assert_allclose(forces[:, 0], -1.7 * depth ** (power - 1.0), atol=1e-12)
    center = np.array([1.0, 0.5, 0.2])
    energy, _ = total(SphericalWall(center.tolist(), 1.2, 1.7, power))
    depth = np.maximum(np.linalg.norm(POSITIONS - center, axis=1) - 1.2, 0.0)
    assert energy == pytest.approx(np.sum(1.7 / power * depth**power), rel=1e-12)


def test_an_external_potential_is_felt_by_each_atom():
    energy, forces = total(External(lambda r, k: 0.5 * k * r[:, 1] ** 2, {"k": 3.0}))
    assert energy == pytest.approx(1.5 * np.sum(POSITIONS[:, 1] ** 2), rel=1e-12)
    np.testing.assert_allclose(forces[:, 1], -3.0 * POSITIONS[:, 1], atol=1e-12)


def test_collective_variables_are_what_ase_says():
    from ase import Atoms

    atoms = Atoms("C4", POSITIONS, cell=CELL, pbc=True)
    broken = POSITIONS + np.array([[1, -2, 0], [0, 0, 1], [0, 0, 0], [3, 1, 1]]) @ CELL
    for positions in (POSITIONS, broken):
        graph = graph_of(positions)
        assert float(Distance(0, 3, atoms=4)(graph)[0]) == pytest.approx(atoms.get_distance(0, 3, mic=True))
        angle = np.deg2rad(atoms.get_angle(0, 1, 2, mic=True))
        assert float(Angle(0, 1, 2, atoms=4)(graph)[0]) == pytest.approx(angle, rel=1e-9)
        turn = np.deg2rad(atoms.get_dihedral(0, 1, 2, 3, mic=True))
        assert np.cos(float(Torsion(0, 1, 2, 3, atoms=4)(graph)[0]) - turn) == pytest.approx(1.0, abs=1e-12)
        x = np.array([atoms.get_distance(i, j, mic=True) for i in (0, 1) for j in (2, 3)]) / 1.8
        expected = np.sum((1.0 - x**6) / (1.0 - x**12))
        assert float(Coordination([0, 1], [2, 3], 1.8, atoms=4)(graph)[0]) == pytest.approx(expected, rel=1e-12)
    assert float(Coordinate(2, 1, atoms=4)(graph_of())[0]) == 1.4


def test_coordination_is_no_exception_where_the_distance_is_the_radius():
    pair = batch(make_system([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0]], [6, 6]), 1.5)
    count = Coordination([0], [1], 1.8, 4, 9, atoms=2)
    assert float(count(pair)[0]) == pytest.approx(4.0 / 9.0, rel=1e-14)
    slope = jax.grad(lambda r: count(pair.with_positions(r))[0])(pair.positions)
    assert float(slope[1, 0]) == pytest.approx(-4.0 * 5.0 / (2.0 * 9.0) / 1.8, rel=1e-10)


def test_an_umbrella_is_a_spring_on_a_variable():
    length = np.linalg.norm(POSITIONS[1] - POSITIONS[0])
    energy, forces = total(Umbrella(Distance(0, 1, atoms=4), 5.0, 1.0))
    assert energy == pytest.approx(2.5 * (length - 1.0) ** 2, rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(forces[0]), 5.0 * (length - 1.0), rtol=1e-12)
    volume, _ = total(Umbrella(Variable(lambda graph: graph.volume()), 2.0, 100.0))
    assert volume == pytest.approx((np.linalg.det(CELL) - 100.0) ** 2, rel=1e-10)


def test_an_umbrella_on_a_torsion_knows_the_turn():
    turn = float(Torsion(0, 1, 2, 3, atoms=4)(graph_of())[0])
    for wanted in (turn + 0.2, turn + 0.2 - 2.0 * np.pi):
        energy, _ = total(Umbrella(Torsion(0, 1, 2, 3, atoms=4), 5.0, wanted))
        assert energy == pytest.approx(2.5 * 0.04, rel=1e-9)


def test_a_batch_has_a_value_for_each_system_and_nothing_in_empty_slots():
    systems = [make_system(s * POSITIONS, [6] * 4, cell=CELL) for s in (1.0, 1.05)]
    graph = batch(systems, 1.5, atoms=12, neighbors=16, slots=4)
    energies, forces = measure(Umbrella(Distance(0, 1, atoms=4), 5.0, 1.0), graph)
    alone = [total(Umbrella(Distance(0, 1, atoms=4), 5.0, 1.0), s * POSITIONS)[0] for s in (1.0, 1.05)]
    np.testing.assert_allclose(energies, [*alone, 0.0, 0.0], rtol=1e-12)
    assert np.all(np.isfinite(forces)) and np.all(np.asarray(forces[8:]) == 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PositionRestraints([0, 4], np.zeros((2, 3)), 1.0, atoms=4), "not among 0 to 3"),
        (lambda: PositionRestraints([0], np.zeros((2, 3)), 1.0, atoms=4), "a place for each"),
        (lambda: PlanarWall([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1.0), "normal not zero"),
        (lambda: PlanarWall([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], -1.0), "stiffness"),
        (lambda: SphericalWall([0.0, 0.0, 0.0], 0.0, 1.0), "radius"),
        (lambda: SphericalWall([0.0, 0.0, 0.0], 1.0, 1.0, 1.0), "exponent"),
        (lambda: Umbrella(Distance(0, 1, atoms=2), -1.0, 1.0), "stiffness"),
        (lambda: Coordinate(0, 3, atoms=1), "axis"),
        (lambda: Coordination([0], [0], 1.0, atoms=2), "two groups"),
        (lambda: Coordination([0], [1], 1.0, 12, 6, atoms=2), "0 < n < m"),
        (
            lambda: check_system(Umbrella(Distance(0, 1, atoms=2), 1.0, 1.0), make_system(POSITIONS, [6] * 4)),
            "a system of 2 atoms; this one has 4",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
