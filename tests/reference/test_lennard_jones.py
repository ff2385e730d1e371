"""Lennard-Jones against tables, lattice sums and LAMMPS, in reduced units (epsilon = sigma = 1)."""

import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import AbstractEnergy, LennardJones, energy_forces_stress, energy_forces_virial
from jaxmlip.energy.laws import lennard_jones
from jaxmlip.graph import batch
from jaxmlip.system import make_system

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])

virial = eqx.filter_jit(energy_forces_virial)
stress = eqx.filter_jit(energy_forces_stress)


class LinearForceShift(AbstractEnergy):
    """Lennard-Jones with energy and force shifted linearly to zero at the cutoff, as in the NIST tables."""

    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        r = graph.lengths()
        rc = self.cutoff
        slope = -48.0 * rc**-13 + 24.0 * rc**-7
        pair = lennard_jones(r, 1.0, 1.0) - 4.0 * (rc**-12 - rc**-6) - (r - rc) * slope
        return graph.sum_edges(0.5 * jnp.where(r < rc, pair, jnp.zeros_like(r)))


def fcc_cell(lattice_constant):
    return make_system(np.zeros((1, 3)), [18], cell=lattice_constant * FCC)


def blunt(cutoff):
    return LennardJones(1.0, 1.0, cutoff, onset=1.0)


def nist(shared_data):
    folder = shared_data / "reference" / "nist_srsw"
    if not (folder / "golden.json").is_file():
        pytest.skip(f"NIST configurations not found in {folder}")
    return folder


# NIST Standard Reference Simulation Website, "Lennard-Jones Fluid Reference Calculations: Cuboid Cell",
# https://www.nist.gov/mml/csd/chemical-informatics-group/lennard-jones-fluid-reference-calculations-cuboid-cell:
# energy and virial (sum over pairs of r . f) as printed there, to five or six digits.
NIST_PRINTED = [
    (1, 3.0, -4.3515e3, -5.6867e2),
    (1, 4.0, -4.4675e3, -1.2639e3),
    (2, 3.0, -6.9000e2, -5.6846e2),
    (2, 4.0, -7.0460e2, -6.5599e2),
    (3, 3.0, -1.1467e3, -1.1649e3),
    (3, 4.0, -1.1754e3, -1.3371e3),
    (4, 3.0, -1.6790e1, -4.6249e1),
    (4, 4.0, -1.7060e1, -4.7869e1),
]


@pytest.mark.parametrize(("number", "cutoff", "printed_energy", "printed_virial"), NIST_PRINTED)
def test_nist_configurations(shared_data, number, cutoff, printed_energy, printed_virial):
    """`golden.json` holds the same sums in full float64, from an independent NumPy program."""
    folder = nist(shared_data)
    lines = (folder / f"lj_sample_config_periodic{number}.txt").read_text().splitlines()
    side = [float(x) for x in lines[0].split()]
    positions = np.array([[float(x) for x in line.split()[1:4]] for line in lines[2:]])
    golden = json.loads((folder / "golden.json").read_text())["lj"][number - 1]
    assert len(positions) == golden["N"]
    graph = batch(make_system(positions, [18] * len(positions), cell=side), cutoff, atoms=800, neighbors=300)

    total, _, tensor = virial(blunt(cutoff), graph)

    assert float(total[0]) == pytest.approx(printed_energy, rel=5e-5)
    assert float(jnp.trace(tensor[0])) == pytest.approx(printed_virial, rel=5e-5)
    assert float(total[0]) == pytest.approx(golden[f"U_rc{cutoff:.0f}"], rel=1e-12)
    assert float(jnp.trace(tensor[0])) == pytest.approx(golden[f"W_rc{cutoff:.0f}"], rel=1e-11)
    if cutoff == 3.0:
        total, _, tensor = virial(LinearForceShift(cutoff), graph)
        assert float(total[0]) == pytest.approx(golden["U_lfs"], rel=1e-12)
        assert float(jnp.trace(tensor[0])) == pytest.approx(golden["W_lfs"], rel=1e-11)


def test_nist_triclinic_configuration(shared_data):
    """FEASST (NIST), `lj_triclinic_sample_config_periodic3.xyz`, cutoff 3: `golden.json` as above."""
    folder = nist(shared_data)
    golden = json.loads((folder / "golden.json").read_text())["lj_triclinic3"]
    lines = (folder / "lj_triclinic_sample_config_periodic3.xyz").read_text().splitlines()[2:]
    positions = np.array([[float(x) for x in line.split()[1:4]] for line in lines])
    graph = batch(make_system(positions, [18] * len(positions), cell=golden["H"]), 3.0)
    assert float(jnp.sum(blunt(3.0)(graph))) == pytest.approx(golden["U"], rel=1e-12)
    assert golden["U"] == pytest.approx(-505.78567945268463, rel=1e-14)


def test_the_start_of_the_lammps_melt_benchmark():
    """LAMMPS `bench/in.lj` (fcc, density 0.8442, `pair_style lj/cut 2.5`) prints E_pair -6.7733681 at step 0, T = 1.44
    and Press -5.0197073; `examples/melt/in.melt` (4000 atoms, T = 3) -3.7033504. Digits beyond from a direct sum."""
    density = 0.8442
    result = stress(blunt(2.5), batch(fcc_cell((4.0 / density) ** (1.0 / 3.0)), 2.5))
    assert float(result.energy[0]) == pytest.approx(-6.773368053252955, rel=1e-13)
    pressure = -float(jnp.trace(result.stress[0])) / 3.0
    for atoms, temperature, expected in ((32000, 1.44, -5.0197073), (4000, 3.0, -3.7033504)):
        kinetic = density * temperature * (atoms - 1) / atoms
        assert pressure + kinetic == pytest.approx(expected, abs=6e-8)


def test_lattice_sums_of_the_fcc_crystal():
    """A12 = 12.13188, A6 = 14.45392: Kittel, Introduction to Solid State Physics, 8th ed., ch. 3, eqs. 11-12.

    E/N = 2 (A12 / d^12 - A6 / d^6); beyond the cutoff the atoms are taken as smeared out, whose error falls faster
    than the tail itself, which the tolerance bounds: tail is 8 pi n / (3 rc^3) = 1e-3 of which 3 % are left."""
    nearest = (2.0 * 12.131880196545 / 14.453920996986) ** (1.0 / 6.0)
    expected = 2.0 * (12.131880196545 / nearest**12 - 14.453920996986 / nearest**6)
    assert nearest == pytest.approx(1.090172958729, rel=1e-11)
    assert expected == pytest.approx(-8.610200100995, rel=1e-11)
    cutoff = 14.0
    density = np.sqrt(2.0) / nearest**3
    tail = 8.0 * np.pi * density * (cutoff**-9 / 9.0 - cutoff**-3 / 3.0)
    graph = batch(fcc_cell(np.sqrt(2.0) * nearest), cutoff)
    result = stress(blunt(cutoff), graph)
    without = abs(float(result.energy[0]) - expected)
    assert 0.5 * abs(tail) < without < 2.0 * abs(tail)  # the cutoff is seen, and it has the size of the tail
    assert float(result.energy[0]) + tail == pytest.approx(expected, abs=0.03 * abs(tail))
    pressure_tail = 16.0 * np.pi * density**2 * (2.0 * cutoff**-9 / 9.0 - cutoff**-3 / 3.0)
    pressure = -float(jnp.trace(result.stress[0])) / 3.0
    assert abs(pressure + pressure_tail) < 0.05 * abs(pressure_tail)  # the minimum: no pressure
