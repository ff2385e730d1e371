"""The sets that are compared, and the test set: all of silicon as Stillinger and Weber have it."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from jaxmlip import units
from jaxmlip.data import Dataset, defects
from jaxmlip.data.generate import derive, displaced, strained, supercell
from jaxmlip.energy import AbstractEnergy, StillingerWeber
from jaxmlip.io import Record
from jaxmlip.learn.generate import generate
from jaxmlip.learn.plan import Plan
from jaxmlip.learn.sampling import Sampler, downhill, ladder, md_frames

LATTICE = 5.431  # Å
_BASIS = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4.0
_PARAMETERS = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"


def truth() -> StillingerWeber:
    """Silicon of Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), as LAMMPS has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Si.sw"
        path.write_text(_PARAMETERS)
        return StillingerWeber.from_file(path)


def diamond(lattice: float = LATTICE) -> Record:
    """The conventional cell of eight atoms."""
    return Record(
        positions=lattice * _BASIS,
        numbers=np.full(8, 14, np.int32),
        cell=lattice * np.eye(3),
        pbc=(True, True, True),
        path="diamond",
    )


def labelled(records: list[Record], energy: AbstractEnergy) -> Dataset:
    """The records with the labels of an energy."""
    sampler, made = Sampler(energy), []
    for record in records:
        value, forces, stress = sampler(record)
        stress = stress if all(record.pbc) else None
        made.append(dataclasses.replace(record, energy=value, forces=forces, stress=stress))
    return Dataset(made)


def of_dynamics(
    energy: AbstractEnergy, most: int, seed: int, every: float = 0.1, temperatures: int = 6
) -> list[Record]:
    """At least `most` frames of 64 atoms at constant volume, `every` [ps] from each other after five times that, as
    many at each of the `temperatures`, which go from 300 to 2000 K."""
    cell = supercell(diamond(), 64)
    each = -(-most // temperatures)
    runs = [
        md_frames(
            energy,
            cell,
            temperature=float(t),
            pressure=None,
            count=each,
            seed=100 * seed + k,
            every=every,
            equilibration=5.0 * every,
        )
        for k, t in enumerate(np.linspace(300.0, 2000.0, temperatures))
    ]
    return [run[i] for i in range(each) for run in runs]


def part_of_dynamics(frames: list[Record], budget: int) -> list[Record]:
    """`budget` of them, evenly over temperatures and time."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, budget).round().astype(int)]


def designed(energy: AbstractEnergy | None, budget: int, seed: int, plan: Plan) -> list[Record]:
    """The designed set; a line on standard output where something was left out."""
    design = generate(Dataset([diamond()]), plan, budget=budget, energy=energy, seed=seed)
    return list(design.dataset.records)


def for_testing(energy: AbstractEnergy, each: int, *, dynamics: bool = True) -> dict[str, list[Record]]:
    """`each` frames of every group, none of which is made as those of the training sets are; without `dynamics` warm
    crystals are displaced at random, and there are no liquids."""
    rng = np.random.default_rng(2024)
    cell, sampler = supercell(diamond(), 64), Sampler(energy)
    if dynamics:
        crystal = [
            f
            for k, t in enumerate((400.0, 1200.0))
            for f in md_frames(energy, cell, temperature=t, pressure=0.0, count=-(-each // 2), seed=9000 + k)
        ]
        hot = md_frames(energy, cell, temperature=2000.0, pressure=None, count=each, seed=9010, equilibration=2.0)
        rungs = (4000.0, 2200.0)
        liquid = ladder(energy, [cell], temperatures=rungs, pressures=[1.0 * units.GPa], count=2 * each, seed=9020)
        groups = {"crystal": crystal[:each], "hot": hot, "liquid": liquid[-each:]}
    else:
        crystal = [displaced(cell, 0.1 * rng.standard_normal((64, 3)), "crystal") for _ in range(each)]
        groups = {"crystal": crystal}
    strains, vacancies, interstitials, surfaces = [], [], [], []
    for k in range(each):
        still = displaced(cell, 0.05 * rng.standard_normal((64, 3)), "strain")
        strain = 0.03 * rng.standard_normal((3, 3))
        strains.append(strained(still, 0.5 * (strain + strain.T), "strain"))
        warm = crystal[k]
        vacancies.append(downhill(sampler, defects.vacancy(warm, rng), 3 * (k % 4)))
        interstitials.append(downhill(sampler, defects.interstitial(warm, rng), 8 + 4 * (k % 4)))
        plane = ((1, 0, 0), (1, 1, 0), (1, 1, 1))[k % 3]
        slab = defects.surface(diamond(), plane, thickness=9.0, vacuum=8.0, rng=rng)
        moved = displaced(slab, 0.05 * rng.standard_normal((len(slab), 3)), "surface")
        surfaces.append(downhill(sampler, moved, 4 * (k % 4)))
    groups |= {"strain": strains, "vacancy": vacancies, "interstitial": interstitials, "surface": surfaces}
    return {name: [derive(f, name) for f in frames] for name, frames in groups.items()}
