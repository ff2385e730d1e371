"""Designed sets: numbers as planned, nothing twice, provenance, same seed same set."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.data import Dataset
from jaxmlip.data.generate import closeness, supercell
from jaxmlip.data.selection import distinct
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.descriptors import descriptor_model, environments
from jaxmlip.learn.generate import generate
from jaxmlip.learn.kinds import Dynamics, Random, Rattle, Sources, Strain
from jaxmlip.learn.plan import Plan
from jaxmlip.learn.sampling import Sampler, downhill, ladder, md_frames

ENERGY = LennardJones(0.0104, 3.4, 5.0)
SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def fcc(numbers=(18, 18, 18, 18)):
    return Record(5.3 * SITES, np.asarray(numbers, np.int32), 5.3 * np.eye(3), (True, True, True), path="argon.xyz")


SMALL = Plan(atoms=16, candidates=2.0, random=Random(share=0.1, atoms=4), strain=Strain(share=0.2, steps=1))


def sources(seeds=None, energy=None, **changes):
    settings = {"atoms": 16, "debye_temperature": 92.0, "seed": 0, "say": print} | changes
    return Sources([fcc()] if seeds is None else seeds, energy, **settings)


def test_numbers_add_up_to_the_budget():
    for budget in (12, 25, 101):
        counts, left_out = Plan().counts(budget, sources())
        assert sum(counts.values()) == budget and counts["isolated"] == 1
        assert set(left_out) == {"dynamics", "antisite"}
    exact = dataclasses.replace(Plan(), rattle=Rattle(count=7))
    assert exact.counts(50, sources())[0]["rattle"] == 7
    with pytest.raises(UserError, match="do not make up the budget"):
        exact.counts(5, sources())
    table = exact.table(*exact.counts(50, sources()))
    assert "left out: there is one element only" in table and "elastic constants" in table


def test_a_set_without_a_sampler():
    design = generate(Dataset([fcc()]), SMALL, budget=24, seed=3)
    data = design.dataset
    assert len(data) == 24 == sum(design.chosen.values()) and data[0].config_type == "crystal"
    assert len(distinct(data.records)[0]) == 24
    assert all(closeness(r) > 0.5 for r in data if r.info["kind"] not in ("dimer", "compressed"))
    assert all(r.energy is None and r.info["generate_seed"] == 3 for r in data)
    assert {r.info["parent"] for r in data} == {"argon.xyz, frame 0", "none", "Ar", "Ar-Ar"}
    assert sum(r.config_type.startswith("strain") for r in data) == design.chosen["strain"] >= 3
    again = generate(Dataset([fcc()]), SMALL, budget=24, seed=3)
    assert again.dataset.fingerprint() == data.fingerprint()
    assert generate(Dataset([fcc()]), SMALL, budget=24, seed=4).dataset.fingerprint() != data.fingerprint()
    assert "note: no dynamics" in design.table()


@pytest.mark.slow
def test_a_set_with_a_sampler_and_two_elements():
    energy = LennardJones({"Ar": 0.0104, "Kr": 0.014}, {"Ar": 3.4, "Kr": 3.65}, 5.0)
    plan = dataclasses.replace(
        SMALL, dynamics=Dynamics(share=0.3, temperatures_K=(30.0, 60.0), pressures_GPa=(0.0,), every_ps=0.02)
    )
    design = generate(Dataset([fcc((18, 18, 36, 36))]), plan, budget=30, energy=energy)
    kinds = design.dataset.config_types()
    assert len(design.dataset) == 30 and kinds["antisite"] >= 1 and kinds["isolated_atom"] == 2
    assert {"md_30K_0GPa", "md_60K_0GPa"} <= set(kinds)
    sampler = Sampler(energy)
    for record in design.dataset:
        value, forces, _ = sampler(record)
        assert record.info["sampler_energy"] == pytest.approx(value, rel=1e-8, abs=1e-8)
        assert np.linalg.norm(forces, axis=1).max() < 300.0
    assert all(r.info["displacements"] == "modes" for r in design.dataset if r.info["kind"] == "rattle")


def test_selections_differ_and_chance_is_one_of_them():
    plan = dataclasses.replace(SMALL, candidates=5.0, rattle=Rattle(share=0.5, temperatures_K=(60.0,)))
    sets = {
        name: generate(Dataset([fcc()]), dataclasses.replace(plan, selection=name), budget=20).dataset
        for name in ("d-optimal", "farthest", "random")
    }
    assert len({s.fingerprint() for s in sets.values()}) == 3
    model = descriptor_model((18,))

    def knowledge(data):
        rows = np.concatenate(environments([r for r in data if r.info["kind"] == "rattle"], model))
        return np.linalg.slogdet(1e-6 * np.eye(rows.shape[1]) + rows.T @ rows)[1]

    assert knowledge(sets["d-optimal"]) > knowledge(sets["random"])


def test_descriptors_are_those_of_the_structure():
    model, cell = descriptor_model((18, 36)), fcc((18, 18, 36, 36))
    small, large = environments([cell, supercell(cell, 32)], model)
    assert len(small) == 4 and len(large) == 32
    assert np.allclose(small.mean(axis=0), large.mean(axis=0), rtol=1e-3, atol=1e-5)
    half = small.shape[1] // 2
    assert np.all(small[:2, half:] == 0.0) and np.all(small[2:, :half] == 0.0) and np.abs(small).max() > 0.0
    with pytest.raises(UserError, match="do not know Kr"):
        environments([cell], descriptor_model((18,)))


@pytest.mark.slow
def test_dynamics_are_at_their_temperature_and_pressure():
    frames = md_frames(ENERGY, supercell(fcc(), 32), temperature=60.0, pressure=1.0 * units.GPa, count=5, seed=0)
    assert len(frames) == 5 and frames[0].config_type == "md_60K_1GPa" and frames[0].info["pressure_gpa"] == 1.0
    volumes = [np.linalg.det(r.cell) for r in frames]
    assert max(volumes) < 32 * 5.3**3 / 4, "pressed together"
    assert np.allclose(np.diff([r.info["time_ps"] for r in frames]), 0.1)
    rungs = ladder(
        ENERGY, [supercell(fcc(), 32)], temperatures=(40.0, 20.0), pressures=(None,), count=3, seed=1, every=0.02
    )
    assert [r.config_type for r in rungs] == ["md_20K"] * 2 + ["md_40K"] * 2
    assert np.allclose(rungs[0].cell, supercell(fcc(), 32).cell)


def test_dynamics_that_blow_up_give_what_came_before():
    said = []
    frames = md_frames(
        ENERGY, supercell(fcc(), 32), temperature=3e4, pressure=None, count=50, seed=0, timestep=20.0, say=said.append
    )
    assert len(frames) < 50 and "stopped early" in said[0]
    assert all(np.all(np.isfinite(r.positions)) for r in frames)
    with pytest.raises(UserError, match="Dynamics want"):
        md_frames(ENERGY, fcc(), temperature=-1.0, pressure=None, count=1, seed=0)


def test_steps_downhill_go_down_a_little_way():
    rng = np.random.default_rng(0)
    cell = supercell(fcc(), 32)
    start = dataclasses.replace(cell, positions=cell.positions + 0.3 * rng.standard_normal((32, 3)))
    sampler = Sampler(ENERGY)
    energies = [sampler(downhill(sampler, start, n))[0] for n in (0, 5, 20)]
    assert energies[0] > energies[1] > energies[2] > sampler(cell)[0]
    with pytest.raises(UserError, match="argon.xyz, frame 0"):
        Sampler(LennardJones({"Ne": 0.003}, {"Ne": 2.8}, 5.0))(fcc())


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="at least one structure"):
        generate(Dataset([]), budget=10)
    with pytest.raises(UserError, match="at least one label"):
        generate(Dataset([fcc()]), budget=0)
    with pytest.raises(UserError, match=r"plan\.candidates"):
        generate(Dataset([fcc()]), Plan(candidates=0.5), budget=10)
    with pytest.raises(UserError, match=r"plan\.rattle\.temperatures_K"):
        generate(Dataset([fcc()]), Plan(rattle=Rattle(temperatures_K=(np.nan,))), budget=10)
    with pytest.raises(UserError, match="distinct sound candidates"):
        generate(
            Dataset([fcc()]),
            dataclasses.replace(SMALL, candidates=1.0, rattle=Rattle(share=1.0, temperatures_K=(0.0,))),
            budget=60,
        )


def test_the_same_seed_twice_counts_once():
    design = generate(Dataset([fcc(), fcc()]), SMALL, budget=20)
    assert design.chosen["crystal"] == 1 and any("seeds equal" in n for n in design.notices)


@pytest.fixture(autouse=True)
def _forget():
    yield
    jax.clear_caches()
