"""Each line of the table in docs/concepts/conventions.md has a test here, found by the words in its first column."""

import dataclasses
import re
import typing
from pathlib import Path

import ase.units
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from jaxmlip import units
from jaxmlip.cli import md, relax
from jaxmlip.energy import (
    AtomicReferences,
    Ewald,
    HarmonicAngles,
    HarmonicBonds,
    LennardJones,
    ModelCharges,
    Repulsion,
    SpeciesCharges,
    check_elements,
    energy_forces_stress,
    energy_forces_virial,
    plan_ewald,
)
from jaxmlip.graph import batch
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.observables import heat_flux
from jaxmlip.observables.thermo import kinetic_energy, pressure
from jaxmlip.simulate import NVE, Langevin, constrain
from jaxmlip.system import make_system

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "conventions.md"
CELL = np.array([[5.4, 0.0, 0.0], [0.6, 5.1, 0.0], [-0.4, 0.7, 5.6]])
POSITIONS = np.array([[0.1, 0.2, 0.3], [2.9, 0.1, 2.6], [0.4, 2.5, 2.9], [2.8, 2.7, 0.2]])
ENERGY = LennardJones(0.01, 3.0, 5.0)
measure = jax.jit(energy_forces_stress, compiler_options={"xla_backend_optimization_level": 0})


def argon(positions=POSITIONS, cell=CELL, **keywords):
    return make_system(positions, [18] * len(positions), cell=cell, **keywords)


def graph(*systems):
    return batch(systems or argon(), 5.0, atoms=4 * max(len(systems), 1) + 2, neighbors=64)


def values(system):
    result = measure(ENERGY, graph(system))
    return float(result.energy[0]), np.asarray(result.forces)[: len(system.numbers)], np.asarray(result.stress[0])


def units_inside():
    """eV, Å, u; the unit of time is Å·sqrt(u/eV), as in ASE."""
    assert units.eV == units.angstrom == units.K == 1.0
    assert units.fs == pytest.approx(ase.units.fs, rel=1e-6) and units.GPa == pytest.approx(ase.units.GPa, rel=1e-6)
    assert 1.0 / units.fs == pytest.approx(10.18, abs=1e-2)


def units_outside():
    """Every number with a unit in the settings of `md` and `relax` names it."""
    named = re.compile("_(fs|ps|K|GPa|A|angstrom|eV|meV|seconds|minutes)$|ratio|factor|fraction|tolerance")
    hints = {
        name: hint
        for module in (md, relax)
        for kind in vars(module).values()
        if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
        for name, hint in typing.get_type_hints(kind).items()
        if hint in (float, float | None)
    }
    assert len(hints) > 5 and all(named.search(name) for name in hints), [n for n in hints if not named.search(n)]


def positions():
    """Cartesian, and not wrapped: an atom some cells away is the same atom."""
    moved = POSITIONS + np.array([[1, 0, -2], [0, 0, 0], [3, 1, 0], [0, -1, 0]]) @ CELL
    energy, forces, _ = values(argon(moved))
    assert energy == pytest.approx(values(argon())[0], rel=1e-10)
    np.testing.assert_allclose(forces, values(argon())[1], atol=1e-12)


def cell():
    """Rows are lattice vectors; a left-handed cell is refused; a direction that is not periodic may have a zero row."""
    shifted = argon(POSITIONS + np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]) @ CELL)
    columns = argon(POSITIONS + np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]) @ CELL.T)
    assert values(shifted)[0] == pytest.approx(values(argon())[0], rel=1e-10) != values(columns)[0]
    with pytest.raises(ValueError, match="left-handed"):
        argon(cell=CELL[[1, 0, 2]])
    flat = CELL * np.array([[1.0], [1.0], [0.0]])
    assert np.isfinite(values(argon(cell=flat, pbc=(True, True, False)))[0])


def pbc():
    """One flag for each axis: along an axis that is not periodic there are no images."""
    lattice = np.diag([3.5, 40.0, 40.0])
    one = make_system([[0.0, 0.0, 0.0]], [18], cell=lattice, pbc=(True, False, False))
    assert (
        values(one)[0] < 0.0 == values(make_system([[0.0, 0.0, 0.0]], [18], cell=lattice, pbc=(False, True, True)))[0]
    )


def numbers():
    """0 is padding: it has no energy, and no force."""
    result = measure(AtomicReferences({18: -2.0}), graph())
    assert float(result.energy[0]) == -8.0 and np.all(np.asarray(graph().numbers)[4:] == 0)
    assert np.all(np.asarray(measure(ENERGY, graph()).forces)[4:] == 0.0)


def energy():
    """An energy for each atom, totals by `sum_atoms`, padding left out."""
    both = graph(argon(), argon(1.03 * POSITIONS))
    each = ENERGY(both)
    np.testing.assert_allclose(both.sum_atoms(each), [jnp.sum(each[:4]), jnp.sum(each[4:8])], rtol=1e-13)


def forces():
    """Minus the gradient: a pair at less than the distance of its minimum is pushed apart."""
    close = make_system([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], [18, 18])
    force = values(close)[1]
    assert force[0, 0] < 0.0 < force[1, 0]
    h = 1e-5
    up, down = (values(make_system([[0.0, 0.0, 0.0], [3.0 + s * h, 0.0, 0.0]], [18, 18]))[0] for s in (1, -1))
    assert force[1, 0] == pytest.approx(-(up - down) / (2.0 * h), rel=1e-7)


def stress():
    """(dE/d strain) / V, positive under tension, as ASE has it; Voigt order xx yy zz yz xz xy."""
    stretched = argon(1.15 * POSITIONS, 1.15 * CELL)
    ours = values(stretched)[2]
    assert np.trace(ours) > 0.0 > np.trace(values(argon(0.9 * POSITIONS, 0.9 * CELL))[2])
    atoms = Atoms("Ar4", 1.15 * POSITIONS, cell=1.15 * CELL, pbc=True)
    atoms.calc = Calculator(ENERGY)
    np.testing.assert_allclose(atoms.get_stress(), ours[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-12)


def virial_and_pressure():
    """virial = -V stress; pressure = -trace(stress) / 3 = -dE/dV, plus the kinetic part."""
    system = argon()
    total, _, tensor = values(system)
    virial = np.asarray(energy_forces_virial(ENERGY, graph())[2][0])
    np.testing.assert_allclose(virial, -float(system.volume()) * tensor, atol=1e-12)
    h = 1e-4
    ends = [values(argon(s ** (1 / 3) * POSITIONS, s ** (1 / 3) * CELL))[0] for s in (1.0 + h, 1.0 - h)]
    static = -(ends[0] - ends[1]) / (2.0 * h * float(system.volume()))
    assert -np.trace(tensor) / 3.0 == pytest.approx(static, rel=1e-5)
    momenta = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    kinetic = 2.0 * float(kinetic_energy(momenta, system.masses)) / (3.0 * float(system.volume()))
    got = float(pressure(jnp.asarray(tensor), momenta, system.masses, system.volume()))
    assert got == pytest.approx(kinetic - np.trace(tensor) / 3.0, rel=1e-10)


def edges():
    """Both directions of each pair, from neighbor to center: the vector is the one of the formula."""
    g = graph()
    vectors, mask = np.asarray(g.vectors()), np.asarray(g.edge_mask)
    senders, shifts = np.asarray(g.senders), np.asarray(g.shifts)
    seen = set()
    for slot, center in zip(*np.nonzero(mask), strict=True):
        sender, shift = senders[slot, center], shifts[:, slot, center]
        expected = POSITIONS[sender] + shift @ CELL - POSITIONS[center]
        np.testing.assert_allclose(vectors[:, slot, center], expected, atol=1e-12)
        seen.add((int(sender), int(center), *shift.tolist()))
    assert seen == {(j, i, -a, -b, -c) for i, j, a, b, c in seen} and len(seen) == mask.sum()


def pair_energies():
    """Half to each atom, whatever the elements."""
    pair = batch(make_system([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]], [18, 1]), 2.0)
    each = Repulsion({"Ar-H": 2.0, "Ar-Ar": 1.0, "H-H": 1.0})(pair)
    assert float(each[0]) == float(each[1]) > 0.0


def parameters_of_pairs():
    """Named by elements in any order; what is missing is refused, and a stranger is NaN."""
    one, other = (Repulsion({key: 2.0, "Ar-Ar": 1.0, "H-H": 3.0}) for key in ("Ar-H", "H-Ar"))
    np.testing.assert_array_equal(one.prefactor, other.prefactor)
    with pytest.raises(ValueError, match="lacks H-H"):
        Repulsion({"Ar-H": 2.0, "Ar-Ar": 1.0})
    stranger = make_system([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]], [18, 36])
    with pytest.raises(ValueError, match="does not know Kr"):
        check_elements(one, np.asarray(stranger.numbers))
    assert np.all(np.isnan(one(batch(stranger, 2.0))))


def terms_on_named_atoms():
    """Indices in one system, 1/2 in front, radians, nearest images, equal parts."""
    system = make_system([[0.2, 0.0, 0.0], [8.7, 0.0, 0.0]], [1, 1], cell=[10.0, 10.0, 10.0])
    each = HarmonicBonds([[0, 1]], 4.0, 1.0, atoms=2)(batch(system, 1.0))
    np.testing.assert_allclose(each, 0.5 * 0.5 * 4.0 * 0.5**2, rtol=1e-12)
    with pytest.raises(ValueError, match="radians"):
        HarmonicAngles([[0, 1, 2]], 1.0, 109.5, atoms=3)


def momenta():
    """u Å per unit of time, as in ASE."""
    atoms = Atoms("Ar4", POSITIONS, momenta=np.random.default_rng(1).normal(size=(4, 3)))
    ours = kinetic_energy(jnp.asarray(atoms.get_momenta()), jnp.asarray(atoms.get_masses()))
    assert float(ours) == pytest.approx(atoms.get_kinetic_energy(), rel=1e-12)


def floating_point():
    """Results have the type of the positions, though parameters be float64."""
    single = graph().astype(jnp.dtype("float32"))
    assert ENERGY.epsilon.dtype == jnp.dtype("float64")
    assert {x.dtype for x in measure(ENERGY, single)} == {jnp.dtype("float32")}
    assert argon(dtype=jnp.float32).positions.dtype == jnp.dtype("float32")


def random_numbers():
    """A key goes in, the state carries its own: the same seed gives the same bits, another seed others."""
    langevin = Langevin(timestep=1.0 * units.fs, temperature=100.0, friction=0.01 / units.fs)
    step = eqx.filter_jit(langevin.step)
    ends = [step(ENERGY, langevin.init(ENERGY, argon(), key=jax.random.key(seed))) for seed in (0, 0, 1)]
    assert np.array_equal(ends[0].momenta, ends[1].momenta) and not np.array_equal(ends[0].momenta, ends[2].momenta)
    assert not np.array_equal(jax.random.key_data(ends[0].key), jax.random.key_data(jax.random.key(0)))


def charges():
    """e²/4πε₀ = 14.3996 eV·Å, half of a pair to each atom; a lattice is summed in a conductor."""
    salt = SpeciesCharges({"Na": 1.0, "Cl": -1.0})
    apart = make_system([[0.0, 0, 0], [2.0, 0, 0]], [11, 17])
    halves = Ewald(salt, plan_ewald(apart, cutoff=3.0))(batch(apart, 3.0))
    np.testing.assert_allclose(halves[:2], -0.5 * 14.3996 / 2.0, rtol=1e-5)
    # Rock salt with 2 Å between neighbors; Madelung's constant holds in a conductor, and any shape of a cubic cell.
    crystal = make_system([[0.0, 0, 0], [2.0, 0, 0]], [11, 17], cell=2.0 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    lattice = Ewald(salt, plan_ewald(crystal, cutoff=6.0))(batch(crystal, 6.0))
    assert float(lattice.sum()) == pytest.approx(-1.7475645946331828 * 14.3996 / 2.0, rel=1e-5)
    predicted = ModelCharges(AtomicReferences({11: 0.2, 17: 0.1}))
    ion = make_system(apart.positions, [11, 17], charge=1.0)
    np.testing.assert_allclose(
        predicted(batch(ion, 3.0))[:2], [0.55, 0.45]
    )  # together the total, where it lacks electrons


def degrees_of_freedom():
    """3 for each atom that is not fixed, less one for each rigid bond, less 3 where the total momentum is zero."""
    free, bonded = argon(), constrain(argon(), bonds=[[0, 1]])
    held = constrain(argon(), fixed=[3], bonds=[[0, 1]])
    newton, bath = NVE(1.0), Langevin(1.0, 100.0, 0.1)
    assert [newton.degrees_of_freedom(s) for s in (free, bonded, held)] == [9, 8, 8]
    assert [bath.degrees_of_freedom(s) for s in (free, bonded, held)] == [12, 11, 8]


def flux_of_heat():
    """For atoms that do not feel each other: velocity times energy, summed and not divided by the volume."""
    velocities = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    system = argon()
    still = AtomicReferences({18: 0.5})
    flux = heat_flux(still, batch(system, 5.0), velocities, system.masses)
    energies = 0.5 + 0.5 * system.masses * jnp.sum(velocities**2, axis=1)
    np.testing.assert_allclose(flux, jnp.sum(energies[:, None] * velocities, axis=0), rtol=1e-12)


TESTS = {
    "units inside": units_inside,
    "units outside": units_outside,
    "`positions`": positions,
    "`cell`": cell,
    "`pbc`": pbc,
    "`numbers`": numbers,
    "`energy`": energy,
    "`forces`": forces,
    "`stress`": stress,
    "`virial`, `pressure`": virial_and_pressure,
    "edges": edges,
    "pair energies": pair_energies,
    "parameters of pairs": parameters_of_pairs,
    "terms on named atoms": terms_on_named_atoms,
    "charges": charges,
    "`momenta`": momenta,
    "degrees of freedom": degrees_of_freedom,
    "heat flux": flux_of_heat,
    "floating point": floating_point,
    "random numbers": random_numbers,
}


def lines():
    """The first column of the table."""
    rows = re.findall(r"^\| *([^|]+?) *\|", PAGE.read_text(), re.MULTILINE)
    return [row for row in rows if row != "what" and not set(row) <= set("-: ")]


def test_every_line_of_the_page_has_a_test():
    assert set(lines()) <= set(TESTS), sorted(set(lines()) - set(TESTS))


@pytest.mark.parametrize("line", TESTS)
def test_the_code_does_what_the_page_says(line):
    assert line in lines()
    TESTS[line]()
