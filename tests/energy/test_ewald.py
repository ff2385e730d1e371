"""Ewald sums: accuracy, slabs and molecules, surfaces, exclusions, and every way to be refused."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, erfc

from jaxmlip import units
from jaxmlip.energy import (
    ZBL,
    AtomCharges,
    Ewald,
    ExcludedCoulomb,
    ModelCharges,
    SpeciesCharges,
    check_system,
    energy_forces_virial,
    plan_ewald,
)
from jaxmlip.graph import batch
from jaxmlip.simulate import NVE
from jaxmlip.system import make_system

SALT = SpeciesCharges({"Na": 1.0, "Cl": -1.0})
CELL = np.array([[6.0, 0.0, 0.0], [1.1, 6.3, 0.0], [-0.7, 0.9, 5.8]])
NUMBERS = np.array([11, 17] * 4)
POSITIONS = np.random.default_rng(0).permutation(
    np.array([[x, y, z] for x in (0.1, 0.6) for y in (0.0, 0.5) for z in (0.1, 0.55)])
) @ CELL + np.random.default_rng(1).normal(scale=0.3, size=(8, 3))

# A few evaluations each: compiling well would cost more than it gains.
QUICK = {"xla_backend_optimization_level": 0}
measure = jax.jit(energy_forces_virial, compiler_options=QUICK)


def bulk(scale=1.0):
    return make_system(scale * POSITIONS, NUMBERS, cell=scale * CELL)


def slab(height=8.0):
    """Free along the third axis, whose lattice vector means nothing."""
    return make_system(POSITIONS, NUMBERS, cell=[*CELL[:2], [0.0, 0.0, height]], pbc=(True, True, False))


def molecule():
    return make_system(POSITIONS, NUMBERS, cell=CELL, pbc=False)


def direct_sum(positions, charges):
    difference = positions[:, None] - positions[None]
    r = np.linalg.norm(difference, axis=2)
    np.fill_diagonal(r, np.inf)
    return 0.5 * units.coulomb * np.sum(charges[:, None] * charges[None] / r)


def exact_slab_energy(positions, charges, a, b, alpha=0.55, images=7, waves=9):
    """Ewald's sum in two dimensions, exact: Parry, Surf. Sci. 49, 433 (1975); planes normal to z."""
    area = abs(a[0] * b[1] - a[1] * b[0])
    reciprocal = 2.0 * np.pi * np.linalg.inv(np.array([a[:2], b[:2]])).T
    difference = positions[:, None] - positions[None]
    product, z = charges[:, None] * charges[None], difference[..., 2]
    total = -2.0 * alpha / np.sqrt(np.pi) * np.sum(charges**2)
    for i in range(-images, images + 1):
        for j in range(-images, images + 1):
            r = np.linalg.norm(difference + i * a + j * b, axis=2)
            if i == j == 0:
                np.fill_diagonal(r, np.inf)
            total += np.sum(product * erfc(alpha * r) / r)
    for i in range(-waves, waves + 1):
        for j in range(-waves, waves + 1):
            k = i * reciprocal[0] + j * reciprocal[1]
            size = np.linalg.norm(k)
            if size > 0:
                both = np.exp(size * z) * erfc(size / (2 * alpha) + alpha * z)
                both += np.exp(-size * z) * erfc(size / (2 * alpha) - alpha * z)
                total += np.pi / area * np.sum(product * np.cos(difference[..., :2] @ k) * both) / size
    flat = np.exp(-((alpha * z) ** 2)) / alpha + np.sqrt(np.pi) * z * erf(alpha * z)
    return 0.5 * units.coulomb * (total - 2.0 * np.sqrt(np.pi) / area * np.sum(product * flat))


def relative_force_error(forces, exact, system):
    spacing = (float(system.volume()) / len(system.numbers)) ** (1.0 / 3.0)
    return np.sqrt(np.mean(np.sum((forces - exact) ** 2, axis=1))) * spacing**2 / units.coulomb


# --- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", [1e-3, 1e-6])
def test_the_requested_accuracy_is_reached_and_not_overdone(accuracy):
    system, graph = bulk(), batch(bulk(), 5.0)
    exact = measure(Ewald(SALT, plan_ewald(system, cutoff=5.0, accuracy=1e-13)), graph)
    result = measure(Ewald(SALT, plan_ewald(system, cutoff=5.0, accuracy=accuracy)), graph)
    error = relative_force_error(np.asarray(result[1]), np.asarray(exact[1]), system)
    assert accuracy / 300.0 < error < accuracy


def test_bulk_slab_and_molecule_in_one_batch():
    systems = [bulk(), molecule(), slab(), molecule()]
    plan = plan_ewald(systems, cutoff=5.0, accuracy=1e-12)
    assert plan.kinds == ("bulk", "molecule", "slab")
    energy = Ewald(SALT, plan)
    total, forces, _ = measure(energy, batch(systems, 5.0, atoms=40))
    charges = np.where(NUMBERS == 11, 1.0, -1.0)
    alone = measure(Ewald(SALT, plan_ewald(bulk(), cutoff=5.0, accuracy=1e-12)), batch(bulk(), 5.0))
    assert float(total[0]) == pytest.approx(float(alone[0][0]), rel=1e-11)
    np.testing.assert_allclose(forces[:8], alone[1], rtol=0, atol=1e-9)
    assert float(total[1]) == pytest.approx(direct_sum(POSITIONS, charges), rel=1e-12)
    assert float(total[2]) == pytest.approx(exact_slab_energy(POSITIONS, charges, CELL[0], CELL[1]), rel=1e-10)
    assert float(total[3]) == float(total[1])


def test_a_slab_with_a_net_charge():
    """The exact sum in two dimensions has no term for the background: both differ from it by the same in any state."""
    plan = plan_ewald(slab(), cutoff=5.0, accuracy=1e-10)
    energy = Ewald(SpeciesCharges({"Na": 1.0, "Cl": -0.5}), plan, background=True)
    charges, graph = np.where(NUMBERS == 11, 1.0, -0.5), batch(slab(), 5.0, neighbors=160)
    moved = POSITIONS + np.random.default_rng(5).normal(scale=0.2, size=(8, 3)) + np.array([[0.0, 0.0, 3.0]])
    other = batch(make_system(moved, NUMBERS, cell=slab().cell, pbc=slab().pbc), 5.0, neighbors=160)
    ours = [float(measure(energy, g)[0][0]) for g in (graph, other)]
    exact = [exact_slab_energy(p, charges, CELL[0], CELL[1]) for p in (POSITIONS, moved)]
    assert ours[1] - ours[0] == pytest.approx(exact[1] - exact[0], rel=1e-7)


def test_the_energy_of_a_slab_does_not_depend_on_its_lattice_vector_along_the_free_axis():
    plan = plan_ewald(slab(), cutoff=5.0, accuracy=1e-6)
    first, second = (measure(Ewald(SALT, plan), batch(slab(h), 5.0)) for h in (8.0, 30.0))
    np.testing.assert_array_equal(first[1], second[1])


def test_a_crystal_in_vacuum_has_the_energy_of_its_dipole():
    system = bulk()
    plan = plan_ewald(system, cutoff=5.0, accuracy=1e-4)
    graph = batch(system, 5.0)
    tinfoil, vacuum = (measure(Ewald(SALT, plan, surface=s), graph) for s in ("tinfoil", "vacuum"))
    dipole = np.where(NUMBERS == 11, 1.0, -1.0) @ POSITIONS
    expected = units.coulomb * 2.0 * np.pi / 3.0 * float(dipole @ dipole) / float(system.volume())
    assert float(vacuum[0][0] - tinfoil[0][0]) == pytest.approx(expected, rel=1e-10)


def test_gradients_by_charges_are_potentials():
    graph = batch(bulk(), 5.0)
    charges = jnp.asarray(np.where(NUMBERS == 11, 1.0, -1.0))
    plan = plan_ewald(bulk(), cutoff=5.0, accuracy=1e-4)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def energies(charges):
        return jnp.sum(Ewald(AtomCharges(charges), plan)(graph))

    total, gradient = energies(charges)
    assert float(total) == pytest.approx(0.5 * float(charges @ gradient), rel=1e-12)
    step = 1e-4 * jnp.asarray(np.eye(8)[0] - np.eye(8)[1])  # the sum stays zero
    numeric = (energies(charges + step)[0] - energies(charges - step)[0]) / 2e-4
    assert float(gradient[0] - gradient[1]) == pytest.approx(float(numeric), rel=1e-8)


# --- exclusions -----------------------------------------------------------------------------------------------------


def test_excluded_pairs_do_not_mind_broken_molecules():
    pairs = np.array([[0, 1], [2, 3], [5, 4]])
    excluded = ExcludedCoulomb(SALT, pairs)
    whole = make_system(POSITIONS, NUMBERS, cell=CELL)
    broken = make_system(POSITIONS + np.array([[1, -2, 0], [0, 0, 3]] * 4) @ CELL, NUMBERS, cell=CELL)
    first, second = (measure(excluded, batch(s, 5.0)) for s in (whole, broken))
    assert float(first[0][0]) == pytest.approx(float(second[0][0]), rel=1e-12)
    np.testing.assert_allclose(first[1], second[1], rtol=1e-10)
    shifts = np.array([[i, j, k] for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2) for k in (-2, -1, 0, 1, 2)])
    lengths = [np.linalg.norm(POSITIONS[b] - POSITIONS[a] + shifts @ CELL, axis=1).min() for a, b in pairs]
    assert float(first[0][0]) == pytest.approx(units.coulomb * np.sum(1.0 / np.array(lengths)), rel=1e-12)


# --- what is refused ------------------------------------------------------------------------------------------------

PLAN = plan_ewald(bulk(), cutoff=5.0, accuracy=1e-3)


def test_a_net_charge_is_refused_unless_a_background_is_asked_for():
    charged = SpeciesCharges({"Na": 1.0, "Cl": -0.9})
    with pytest.raises(ValueError, match=r"sum to 0\.4 e.*background=True"):
        check_system(Ewald(charged, PLAN) + ZBL(), bulk())
    with pytest.raises(ValueError, match=r"sum to 0\.4 e"):
        NVE(units.fs).init(Ewald(charged, PLAN), bulk(), key=jax.random.key(0), temperature=300.0)
    check_system(Ewald(charged, PLAN, background=True), bulk())
    energy = measure(Ewald(charged, PLAN), batch(bulk(), 5.0))  # and inside jit it is no number
    assert np.isnan(energy[0][0]) and np.isnan(energy[1]).all()


def test_a_cell_that_outgrew_the_plan_is_never_a_number():
    grown = batch(bulk(1.2), 5.0)
    energy = Ewald(SALT, PLAN)
    with pytest.raises(ValueError, match="planned for at most"):
        check_system(energy, bulk(1.2))
    total, forces, virial = measure(energy, grown)
    assert np.isnan(total).all() and np.isnan(forces).all() and np.isnan(virial).all()
    assert np.isfinite(measure(energy, batch(bulk(1.1), 5.0))[0]).all()


def test_kinds_that_the_plan_does_not_serve():
    energy = Ewald(SALT, PLAN)
    for system in (molecule(), slab()):
        with pytest.raises(ValueError, match="serves bulk"):
            check_system(energy, system)
        assert np.isnan(measure(energy, batch(system, 5.0))[0]).all()
    with pytest.raises(ValueError, match="Wires"):
        plan_ewald(make_system(POSITIONS, NUMBERS, cell=CELL, pbc=(True, False, False)))


def test_a_batch_with_a_system_of_too_many_atoms_is_no_number():
    plan = dataclasses.replace(PLAN, slots=4)
    total, _, _ = measure(Ewald(SALT, plan), batch([bulk(), bulk()], 5.0))
    assert np.isnan(total).all()


def test_an_element_without_a_charge():
    with pytest.raises(ValueError, match="does not know O"):
        check_system(Ewald(SALT, PLAN), make_system(np.zeros((1, 3)), [8], cell=CELL))


def test_charges_that_make_no_sense():
    with pytest.raises(ValueError, match="no element"):
        SpeciesCharges({"Xx": 1.0})
    with pytest.raises(ValueError, match="finite"):
        SpeciesCharges({"Na": float("nan")})
    with pytest.raises(ValueError, match="7 charges for 8 atoms"):
        check_system(Ewald(AtomCharges(np.zeros(7)), PLAN), bulk())
    with pytest.raises(ValueError, match="9 charges, but only 8 atoms"):
        AtomCharges(np.zeros(9))(batch(bulk(), 5.0))
    with pytest.raises(ValueError, match="missing"):
        ModelCharges(Ewald(SALT, PLAN), start={"Na": 1.0})


def test_plans_that_cannot_be():
    for wrong in ({"accuracy": 0.0}, {"accuracy": 1e-20}, {"margin": 0.9}, {"cutoff": -1.0}, {"method": "fft"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            plan_ewald(bulk(), **wrong)
    with pytest.raises(ValueError, match="needs .* waves"):
        plan_ewald(make_system(POSITIONS, NUMBERS, cell=300.0 * np.eye(3)), cutoff=3.0, accuracy=1e-9)
    with pytest.raises(ValueError, match="depends on the origin"):
        Ewald(SALT, PLAN, surface="vacuum", background=True)


def test_a_list_shorter_than_the_cutoff_is_refused():
    with pytest.raises(ValueError, match="complete only up to"):
        energy_forces_virial(Ewald(SALT, PLAN), batch(bulk(), 4.0))


def test_excluded_pairs_that_make_no_sense():
    for pairs, message in (([[0, 0]], "two different"), ([[0, 1], [1, 0]], "twice"), ([[0.5, 1.0]], "whole numbers")):
        with pytest.raises(ValueError, match=message):
            ExcludedCoulomb(SALT, np.array(pairs))
    with pytest.raises(ValueError, match="names? atom 8"):
        check_system(ExcludedCoulomb(SALT, np.array([[0, 8]])), bulk())
