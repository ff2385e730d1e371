"""D3(BJ) against simple-dftd3 (`experiments/reference-values/make_d3.py` has written its numbers)."""

import json
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import D3, dispersion, energy_forces_stress, energy_forces_virial
from jaxmlip.graph import batch
from jaxmlip.system import make_system

REFERENCE = Path(__file__).parents[2] / "experiments" / "reference-values" / "d3_reference.json"
CASES = {case["name"]: case for case in json.loads(REFERENCE.read_text())["cases"]}
virial = eqx.filter_jit(energy_forces_virial)


@pytest.fixture
def tables():
    pytest.importorskip("torch_dftd", reason="the tables of D3 come from torch-dftd")


def energy_of(case, **options):
    elements = sorted({SYMBOLS[n] for n in case["numbers"]})
    return D3(elements, **case["damping"], **options)


def system_of(case):
    return make_system(case["positions"], case["numbers"], cell=case["cell"])


@pytest.mark.parametrize("name", ["methane and benzene, B3LYP", "cluster of metals, PBE", "silicon carbide, PBE"])
def test_energies_forces_and_virial_are_those_of_simple_dftd3(tables, name, monkeypatch):
    """Energies to 1e-7, forces to 2e-6 of the largest (1e-7 eV/Å): the tables have 8 digits, radii and ratios too."""
    monkeypatch.setattr(dispersion, "_EDGES", 2**14)  # the crystal in several blocks
    case = CASES[name]
    energy = energy_of(case, onset=1.0)
    total, forces, found = virial(energy, batch(system_of(case), energy.cutoff))
    assert float(total[0]) == pytest.approx(case["energy"], rel=1e-7)
    for ours, theirs in ((forces, case["forces"]), (found[0], case["virial"])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_a_smooth_end_changes_little_and_derivatives_are_exact(tables):
    case = CASES["sodium chloride, PBE"]
    energy = energy_of(case, cutoff=9.0, coordination_cutoff=7.0)
    system = system_of(case)
    result = eqx.filter_jit(energy_forces_stress)(energy, batch(system, energy.cutoff, neighbors=160))
    assert float(result.energy[0]) == pytest.approx(case["energy"], rel=0.03)
    step = 1e-3
    for atom, axis in ((0, 0), (5, 2)):
        values = []
        for side in (-1, 1):
            moved = system.positions.at[atom, axis].add(side * step)
            there = eqx.tree_at(lambda s: s.positions, system, moved)
            graph = batch(there, energy.cutoff, neighbors=160)
            values.append(float(eqx.filter_jit(energy_forces_stress)(energy, graph).energy[0]))
        numeric = (values[0] - values[1]) / (2 * step)
        assert float(result.forces[atom, axis]) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_coordination_follows_the_neighbors(tables):
    case = CASES["methane and benzene, PBE"]
    energy = energy_of(case)
    counts = energy.coordination(batch(system_of(case), energy.cutoff))
    np.testing.assert_allclose(counts[:6], 3.0, atol=0.1)  # carbon in benzene
    assert float(counts[12]) == pytest.approx(4.0, abs=0.1)  # in methane
    far = D3(["C"], s8=0.8, a1=0.4, a2=4.4)
    alone = make_system(np.zeros((1, 3)), [6])
    assert float(jnp.sum(far(batch(alone, far.cutoff)))) == 0.0


def test_wrong_choices_are_refused(tables, monkeypatch):
    with pytest.raises(ValueError, match="No damping is listed for 'LDA'; there is PBE"):
        D3.for_functional("LDA", ["C"])
    with pytest.raises(ValueError, match="symbols of elements"):
        D3.for_functional("PBE", ["Qq"])
    with pytest.raises(ValueError, match="no parameters for Lr"):
        D3.for_functional("PBE", ["Lr", "C"])
    with pytest.raises(ValueError, match="fraction of the cutoff"):
        D3.for_functional("PBE", ["C"], onset=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        D3.for_functional("PBE", ["C"], cutoff=-1.0)


def test_without_the_tables_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(dispersion.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxmlip\[dispersion\]'"):
        D3.for_functional("PBE", ["C"])
