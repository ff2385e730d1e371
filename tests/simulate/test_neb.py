"""Paths of least energy: saddle points that are known, and ASE's band."""

import dataclasses

import ase
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.mep import NEB
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy, StillingerWeber
from jaxmlip.graph import Graph
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.io import from_ase
from jaxmlip.simulate import SimulationError, constrain, interpolate, minimize, neb
from jaxmlip.system import make_system

SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"


class MullerBrown(AbstractEnergy):
    """The potential of Müller & Brown (1979), a hundredth of it in eV, held in the plane z = 0."""

    cutoff: float = 1.0
    elements: tuple[int, ...] | None = None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        x, y, z = graph.positions.T
        total = 0.5 * z**2
        for a, b, c, d, x0, y0 in (
            (-2.0, -1.0, 0.0, -10.0, 1.0, 0.0),
            (-1.0, -1.0, 0.0, -10.0, 0.0, 0.5),
            (-1.7, -6.5, 11.0, -6.5, -0.5, 1.5),
            (0.15, 0.7, 0.6, 0.7, -1.0, 1.0),
        ):
            total = total + a * jnp.exp(b * (x - x0) ** 2 + c * (x - x0) * (y - y0) + d * (y - y0) ** 2)
        return total


def at(x, y):
    return make_system([[x, y, 0.0]], [1])


@pytest.fixture(scope="module")
def valley():
    """The two minima that bound the higher pass of the potential."""
    ends = (minimize(MullerBrown(), at(*p), fmax=1e-4).system for p in ((-0.558, 1.442), (-0.05, 0.467)))
    return tuple(ends)


def test_the_saddle_of_muller_and_brown_is_found(valley):
    path = neb(MullerBrown(), *valley, images=9, fmax=1e-3, spring=5.0, steps=5000)
    assert bool(path.converged) and path.energies.shape == (11,)
    assert float(path.energies[0]) == pytest.approx(-1.46700, abs=2e-5)
    assert float(jnp.max(path.energies)) == pytest.approx(-0.40665, abs=2e-5)
    assert float(path.barrier) == pytest.approx(1.06035, abs=3e-5)
    top = int(jnp.argmax(path.energies))
    np.testing.assert_allclose(path.systems.positions[top, 0, :2], [-0.822, 0.624], atol=2e-3)
    assert float(path.reverse_barrier) < float(path.barrier) and float(jnp.linalg.norm(path.forces[top])) < 2e-3


def test_without_a_climbing_image_the_barrier_is_missed(valley):
    few = neb(MullerBrown(), *valley, images=4, fmax=1e-3, spring=5.0, steps=5000, climb=False)
    assert bool(few.converged) and float(few.barrier) < 1.060
    gaps = np.diff(few.distances)
    assert gaps.min() > 0.9 * gaps.max()  # the springs hold the images apart


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    """Stillinger-Weber silicon, and 63 atoms with a vacancy split between site 0 and one neighbor, then another one."""
    file = tmp_path_factory.mktemp("sw") / "Si.sw"
    file.write_text(SW)
    energy = StillingerWeber.from_file(file)
    whole = bulk("Si", "diamond", a=5.431, cubic=True) * (2, 2, 2)
    ends = []
    for neighbor in np.argsort(whole.get_distances(0, range(64), mic=True))[1:3]:
        split = whole.copy()
        split.positions[neighbor] = whole.positions[0] + 0.5 * whole.get_distance(0, neighbor, mic=True, vector=True)
        split.positions += 0.02 * np.random.default_rng(0).normal(size=(64, 3))
        del split[0]
        ends.append(minimize(energy, from_ase(split), fmax=2e-3).system)
    return energy, ends


def in_ase(path, energy, climb):
    """The same images as a band of ASE."""
    cell = np.asarray(path.systems.cell[0])
    images = [ase.Atoms("Si63", np.asarray(x), cell=cell, pbc=True) for x in path.systems.positions]
    for image in images:
        image.calc = Calculator(energy)
    return images, NEB(images, k=1.0, climb=climb, method="improvedtangent")


def test_forces_on_a_band_are_those_of_ase(silicon):
    energy, ends = silicon
    path = neb(energy, *ends, images=3, steps=3, climb=False)
    _, band = in_ase(path, energy, climb=False)
    largest = np.linalg.norm(band.get_forces(), axis=1).max()
    assert largest > 0.1 and largest == pytest.approx(float(path.fmax), rel=1e-9)


def test_a_vacancy_hops_in_silicon_and_ase_finds_nothing_left_to_do(silicon):
    energy, ends = silicon
    path = neb(energy, *ends, images=3, fmax=0.02)
    assert bool(path.converged) and int(path.steps) < 200
    assert float(path.barrier) == pytest.approx(0.5173, abs=1e-3)  # with 5 and 9 images
    assert float(path.barrier) == pytest.approx(float(path.reverse_barrier), abs=1e-3)  # the hop is symmetric
    images, band = in_ase(path, energy, climb=True)
    assert np.linalg.norm(band.get_forces(), axis=1).max() == pytest.approx(float(path.fmax), rel=1e-6)
    found = [image.get_potential_energy() for image in images]
    assert float(path.barrier) == pytest.approx(max(found) - found[0], abs=1e-9)


def test_the_path_goes_through_the_boundary(silicon):
    _, (before, after) = silicon
    shift = np.zeros((63, 3))
    shift[:20, 0] = 10.862  # one cell farther
    wrapped = dataclasses.replace(after, positions=after.positions + shift)
    straight = interpolate(before, wrapped, 3)
    np.testing.assert_allclose(straight.positions, interpolate(before, after, 3).positions, atol=1e-9)
    assert float(jnp.max(jnp.abs(straight.positions[-1] - before.positions))) < 3.0


@pytest.mark.slow
def test_fixed_atoms_stay_and_what_makes_no_path_is_refused(silicon, valley):
    energy, (before, after) = silicon
    held = constrain(before, fixed=[40])
    path = neb(energy, held, after, images=1, steps=3)
    where = interpolate(before, after, 1).positions[1, 40]
    assert not bool(path.converged) and bool(jnp.array_equal(path.systems.positions[1, 40], where))
    with pytest.raises(ValueError, match="same atoms"):
        neb(energy, before, make_system(after.positions[1:], after.numbers[1:], cell=after.cell))
    with pytest.raises(ValueError, match="same cell"):
        neb(energy, before, dataclasses.replace(after, cell=1.01 * after.cell))
    with pytest.raises(ValueError, match="`images`"):
        neb(energy, before, after, images=0)
    with pytest.raises(SimulationError, match="not finite"):
        neb(MullerBrown() * float("nan"), *valley, images=1)
