"""Ewald sums against Madelung constants, Wigner crystals and the NIST SPC/E configurations, term by term."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf, erfc

from jaxmlip import units
from jaxmlip.energy import Ewald, EwaldPlan, SpeciesCharges, energy_forces_virial, plan_ewald
from jaxmlip.graph import batch
from jaxmlip.system import make_system

FCC = 0.5 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
BCC = 0.5 * np.array([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
HEXAGONAL = np.array([[1.0, 0.0, 0.0], [-0.5, np.sqrt(0.75), 0.0], [0.0, 0.0, np.sqrt(8.0 / 3.0)]])
THIRD, TWO_THIRDS = 1.0 / 3.0, 2.0 / 3.0

# A few evaluations each: compiling well would cost more than it gains.
QUICK = {"xla_backend_optimization_level": 0}
measure = jax.jit(energy_forces_virial, compiler_options=QUICK)


@functools.partial(jax.jit, compiler_options=QUICK)
def total_energy(energy, graph):
    return graph.sum_atoms(energy(graph))[0]


@functools.partial(jax.jit, compiler_options=QUICK)
def parts(energy, graph):
    charges = energy.charges(graph)
    return charges, jax.tree.map(lambda p: 0.5 * jnp.sum(charges * p), energy.potentials(graph, charges))


def crystal(cell, fractional, numbers, repeats=1):
    """A crystal and its supercell, in units of 4 Å for the lattice constant."""
    cell = 4.0 * np.asarray(cell)
    shifts = np.array(list(itertools.product(range(repeats), repeat=3)), float)
    sites = (shifts[:, None] + np.asarray(fractional)[None]).reshape(-1, 3)
    return make_system(sites @ cell, np.tile(numbers, repeats**3), cell=repeats * cell)


# name: (cell, fractional coordinates, numbers, charges, nearest distance over lattice constant, Madelung constant).
# The constants, per formula unit and for the nearest distance: NaCl and CsCl as in Borwein, Glasser, McPhedran, Wan &
# Zucker, Lattice Sums Then and Now (2013); all five in `golden_analytic.json`, by an independent NumPy sum that does
# not depend on its splitting to 1e-14.
CRYSTALS = {
    "NaCl": (FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17], {11: 1.0, 17: -1.0}, 0.5, 1.7475645946331828),
    "CsCl": (np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17], {55: 1.0, 17: -1.0}, np.sqrt(0.75), 1.7626747730709884),
    "ZnS": (FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], [30, 16], {30: 1.0, 16: -1.0}, np.sqrt(3) / 4, 1.6380550533887897),
    "CaF2": (
        FCC,
        [[0, 0, 0], [0.25, 0.25, 0.25], [-0.25, -0.25, -0.25]],
        [20, 9, 9],
        {20: 2.0, 9: -1.0},
        np.sqrt(3) / 4,
        5.038784879848566,
    ),
    "wurtzite": (
        HEXAGONAL,
        [[THIRD, TWO_THIRDS, 0], [TWO_THIRDS, THIRD, 0.5], [THIRD, TWO_THIRDS, 0.375], [TWO_THIRDS, THIRD, 0.875]],
        [30, 30, 16, 16],
        {30: 1.0, 16: -1.0},
        np.sqrt(3.0 / 8.0),
        1.6413216273719495,
    ),
}
FORMULAS = {"wurtzite": 2}


def madelung(name, repeats, cutoff=5.0):
    cell, fractional, numbers, charges, nearest, _ = CRYSTALS[name]
    system = crystal(cell, fractional, numbers, repeats)
    plan = plan_ewald(system, cutoff=cutoff, accuracy=1e-13, margin=1.0)
    energy = float(total_energy(Ewald(SpeciesCharges(charges), plan), batch(system, cutoff)))
    return -energy * 4.0 * nearest / units.coulomb / (FORMULAS.get(name, 1) * repeats**3)


@pytest.mark.parametrize("repeats", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CRYSTALS)
def test_madelung_constants_of_primitive_cell_and_supercell(name, repeats):
    assert madelung(name, repeats) == pytest.approx(CRYSTALS[name][-1], rel=1e-12)


def test_the_splitting_does_not_change_the_energy():
    values = [madelung("ZnS", 1, cutoff) for cutoff in (4.0, 5.0, 6.5)]
    assert np.ptp(values) < 1e-12


# Wigner crystals: point charges q in a uniform background, E r_s / q² with the radius r_s of a sphere for each charge.
# One charge in a cubic box: E = -2.837297 q² / 2 L.  All from Foldy, Phys. Rev. B 17, 4889 (1978) to its digits.
WIGNER = {"sc": (np.eye(3), -0.880059442111716), "fcc": (FCC, -0.895873615195109), "bcc": (BCC, -0.895929255681766)}


@pytest.mark.parametrize("name", WIGNER)
def test_charges_in_a_neutralizing_background(name):
    cell, expected = WIGNER[name]
    system = crystal(cell, [[0.0, 0.0, 0.0]], [11])
    plan = plan_ewald(system, cutoff=5.0, accuracy=1e-13, margin=1.0)
    energy = Ewald(SpeciesCharges({"Na": 1.0}), plan, background=True)
    radius = (3.0 * float(system.volume()) / (4.0 * np.pi)) ** (1.0 / 3.0)
    total, _, virial = measure(energy, batch(system, 5.0))
    assert float(total[0]) * radius / units.coulomb == pytest.approx(expected, rel=1e-12)
    # The energy goes with 1 / length: the trace of the virial is the energy, background included.
    assert float(jnp.trace(virial[0])) == pytest.approx(float(total[0]), rel=1e-10)


# --- SPC/E water ----------------------------------------------------------------------------------------------------

HYDROGEN, OXYGEN = 1, 8
KELVIN_ANGSTROM = 167100.95663229248  # e² / (4 pi eps0 kB), CODATA 2010, as in the NIST tables


def nist(shared_data):
    folder = shared_data / "reference" / "nist_srsw"
    if not (folder / "golden.json").is_file():
        pytest.skip(f"NIST configurations not found in {folder}")
    return folder


def water(positions, numbers, cell):
    return make_system(positions, numbers, cell=cell)


def spce_terms(system, charge, plan):
    """The four electrostatic terms of the NIST tables [e²/Å], and their sum.

    Atoms of a molecule follow each other. Their pairs are left out of the real sum and taken out of the reciprocal one.
    """
    energy = Ewald(SpeciesCharges({"H": charge, "O": -2.0 * charge}), plan)
    charges, terms = parts(energy, batch(system, plan.cutoff))
    positions, cell = np.asarray(system.positions), np.asarray(system.cell)
    first = 3 * np.arange(len(positions) // 3)
    pairs = np.concatenate([np.stack([first + a, first + b], 1) for a, b in ((0, 1), (0, 2), (1, 2))])
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    vectors -= np.round(vectors @ np.linalg.inv(cell)) @ cell
    r = np.linalg.norm(vectors, axis=1)
    product = np.asarray(charges)[pairs].prod(axis=1) / r
    return {
        "Ereal": float(terms.real) - np.sum(product * erfc(plan.alpha * r)),
        "Efour": float(terms.reciprocal),
        "Eself": float(terms.self),
        "Eintra": -np.sum(product * erf(plan.alpha * r)),
    }


# NIST Standard Reference Simulation Website, "SPC/E Water Reference Calculations: 10 Å cutoff",
# https://www.nist.gov/mml/csd/chemical-informatics-group/spce-water-reference-calculations-10a-cutoff, in K.
NIST_PRINTED = [
    {"Ereal": -5.58889e5, "Efour": 6.27009e3, "Eself": -2.84469e6, "Eintra": 2.80999e6},
    {"Ereal": -1.19295e6, "Efour": 6.03495e3, "Eself": -5.68938e6, "Eintra": 5.61998e6},
    {"Ereal": -1.96297e6, "Efour": 5.24461e3, "Eself": -8.53407e6, "Eintra": 8.42998e6},
    {"Ereal": -3.57226e6, "Efour": 7.58785e3, "Eself": -1.42235e7, "Eintra": 1.41483e7},
]


@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4))])
def test_spce_water_term_by_term(shared_data, number):
    """`golden.json` holds the same sums in full float64, from an independent NumPy program."""
    folder = nist(shared_data)
    lines = (folder / f"spce_sample_config_periodic{number}.txt").read_text().splitlines()
    side = float(lines[0].split()[0])
    rows = [line.split() for line in lines[2:]]
    numbers = [{"O": OXYGEN, "H": HYDROGEN}[row[4]] for row in rows]
    system = water(np.array([[float(x) for x in row[1:4]] for row in rows]), numbers, [side] * 3)
    golden = json.loads((folder / "golden.json").read_text())["spce"][number - 1]
    assert len(numbers) == 3 * golden["M"]
    # alpha = 5.6 / L, waves with n² < 27, both cut bluntly
    plan = EwaldPlan(10.0, 5.6 / side, 2.0 * np.pi * np.sqrt(27.0 - 1e-9) / side, (5, 5, 5), onset=1.0)
    for name, value in spce_terms(system, 0.4238, plan).items():
        assert KELVIN_ANGSTROM * value == pytest.approx(NIST_PRINTED[number - 1][name], rel=1e-5), name
        assert KELVIN_ANGSTROM * value == pytest.approx(golden[name], rel=1e-10), name


# FEASST (NIST), plugin/charge/test/ewald.cpp, in kJ/mol.
SHEARED = [
    (
        "spce_triclinic_sample_periodic1.xyz",
        {"Ereal": -6046.43627, "Efour": 371.46525, "Eself": -96297.75579, "Eintra": 95078.89447},
    ),
    (
        "spce_monoclinic_sample_periodic4.xyz",
        {
            "Ereal": -1425.6143894337906,
            "Efour": 185.60955025935957,
            "Eself": -24074.443366236523,
            "Eintra": 23769.71831128121,
        },
    ),
]


@pytest.mark.parametrize(("name", "expected"), SHEARED)
def test_spce_water_in_cells_that_are_no_cuboids(shared_data, name, expected):
    """Their waves: |n| <= 7 along each axis and k² < max (2 pi 7 / l)², l the diagonal of the triangular cell."""
    lines = (nist(shared_data) / name).read_text().splitlines()
    lx, ly, lz, xy, xz, yz = (float(x) for x in lines[1].split()[1:])
    rows = np.array([[float(x) for x in line.split()] for line in lines[2:]])
    numbers = np.where(rows[:, 0] == 0, OXYGEN, HYDROGEN)
    system = water(rows[:, 1:], numbers, np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]]))
    plan = EwaldPlan(10.0, 0.285, 2.0 * np.pi * (7.0 - 1e-9) / min(lx, ly, lz), (7, 7, 7), onset=1.0, complete=False)
    for term, value in spce_terms(system, 0.4238, plan).items():
        assert units.coulomb / units.kJ_per_mol * value == pytest.approx(expected[term], rel=1e-5), term


@pytest.mark.slow  # importing jax-md takes seconds
def test_the_reciprocal_sum_in_a_cube_is_that_of_jax_md():
    """What holds of jax-md 0.2.29: cubic cells, the reciprocal part alone (its total lacks the self-energy)."""
    random, side, alpha = np.random.default_rng(0), 8.0, 0.45
    positions = random.uniform(0.0, side, (10, 3))
    system = make_system(positions, [11, 17] * 5, cell=[side] * 3)
    charges = np.array([1.0, -1.0] * 5)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        from jax_md import energy as jax_md_energy

        theirs = jax_md_energy.coulomb_recip_ewald(jnp.asarray(charges), side, alpha, 5.0)(jnp.asarray(positions))
    plan = EwaldPlan(3.9, alpha, 5.2, (8, 8, 8), onset=1.0)
    ours = parts(Ewald(SpeciesCharges({"Na": 1.0, "Cl": -1.0}), plan), batch(system, 3.9))[1].reciprocal
    assert float(ours) == pytest.approx(float(theirs), rel=1e-9)
