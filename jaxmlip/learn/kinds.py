"""The kinds of structures that a training set is planned of.

Each is a frozen dataclass with its settings, a `share` of the budget (or a `count`), the reason `why` it is there, and
`frames(sources, count)`, which makes candidates. A new kind is a new class here and a field of `learn.plan.Plan`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from jaxmlip import units
from jaxmlip.data import defects, thermal
from jaxmlip.data.generate import compressed, derive, dimers, displaced, isolated_atom, masses_of, strain_grid, strained
from jaxmlip.data.generate import supercell as make_supercell
from jaxmlip.data.random_structures import random_structure
from jaxmlip.energy import AbstractEnergy
from jaxmlip.io import Record
from jaxmlip.learn.sampling import Sampler, downhill, ladder


class Sources:
    """What structures are made from: `seeds`, the `energy` that samples (or none), `crystals` of at most `atoms`,
    random numbers `rng`, and `say` for what a user should know."""

    def __init__(
        self,
        seeds: Sequence[Record],
        energy: AbstractEnergy | None,
        *,
        atoms: int,
        debye_temperature: float,
        seed: int,
        say: Callable[[str], None],
    ):
        self.seeds, self.energy, self.atoms = tuple(seeds), energy, atoms
        self.debye, self.seed, self.say = debye_temperature, seed, say
        self.sampler = None if energy is None else Sampler(energy)
        self.crystals = tuple(make_supercell(s, atoms, "crystal") for s in self.seeds)
        self.rng = np.random.default_rng(seed)
        self._modes: dict[int, thermal.Modes] = {}

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the seeds, ascending."""
        return tuple(sorted({int(n) for s in self.seeds for n in s.numbers}))

    def for_kind(self, index: int) -> Sources:
        """The same with random numbers of its own: what one kind draws does not change the others."""
        other = object.__new__(Sources)
        other.__dict__.update(self.__dict__)
        other.rng = np.random.default_rng([self.seed, index])
        return other

    def rattled(self, k: int, temperature: float, kind: str) -> Record:
        """Crystal `k` (counted on from the last to the first again) with thermal displacements: of its modes where
        there is an energy, else of atoms one by one in a crystal of the Debye temperature."""
        index = k % len(self.crystals)
        crystal = self.crystals[index]
        if self.energy is None:
            stiffness = thermal.debye_stiffness(masses_of(crystal), self.debye)
            moves, told = thermal.einstein_moves(stiffness, temperature, self.rng), "einstein"
        else:
            if index not in self._modes:
                self._modes[index] = thermal.modes_of(thermal.hessian_of(self.energy, crystal), crystal)
            moves, told = thermal.mode_moves(self._modes[index], temperature, self.rng), "modes"
        return displaced(crystal, moves, kind, temperature_K=temperature, displacements=told)


@dataclasses.dataclass(frozen=True)
class AbstractKind(abc.ABC):
    """A kind of structure in a plan; see the module."""

    share: float = 0.0
    """Part of the budget; shares are scaled so that they use it up."""
    count: int | None = None
    """How many exactly, whatever the budget."""
    why: ClassVar[str] = ""
    wall: ClassVar[bool] = False
    """Whether large forces are what the kind is for."""

    def missing(self, sources: Sources) -> str | None:
        """Why the kind cannot be made from these sources; `None` where it can."""
        return None

    @abc.abstractmethod
    def frames(self, sources: Sources, count: int) -> list[Record]:
        """About `count` candidates."""


@dataclasses.dataclass(frozen=True)
class Crystal(AbstractKind):
    """The seeds themselves, in their own cells."""

    why: ClassVar[str] = "the ground states, exactly"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        return [derive(s, "crystal") for s in sources.seeds]


@dataclasses.dataclass(frozen=True)
class Isolated(AbstractKind):
    """One atom of each element in free space."""

    why: ClassVar[str] = "reference energies: what atoms are bound by"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        return [isolated_atom(n) for n in sources.elements]


@dataclasses.dataclass(frozen=True)
class Rattle(AbstractKind):
    """Crystals with thermal displacements by equipartition."""

    share: float = 0.2
    temperatures_K: tuple[float, ...] = (100.0, 300.0, 600.0, 1000.0, 1500.0, 2000.0)
    why: ClassVar[str] = "vibrations: forces and force constants near the crystal, at no cost of dynamics"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        made = []
        for k in range(count):
            temperature = self.temperatures_K[k % len(self.temperatures_K)]
            made.append(sources.rattled(k // len(self.temperatures_K), temperature, f"rattle_{temperature:g}K"))
        return made


@dataclasses.dataclass(frozen=True)
class Strain(AbstractKind):
    """Hydrostatic strains and shears in a grid, with small thermal displacements."""

    share: float = 0.16
    volume: float = 0.15
    """Largest change of the volume."""
    shear: float = 0.06
    """Largest shear."""
    steps: int = 3
    """Sizes of each sign."""
    temperature_K: float = 150.0
    """Of the displacements; 0 for none, which leaves forces that are zero by symmetry."""
    why: ClassVar[str] = "equation of state and elastic constants"

    def missing(self, sources: Sources) -> str | None:
        return None if all(any(s.pbc) for s in sources.seeds) else "a seed is not periodic"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        grid = list(strain_grid(self.volume, self.shear, self.steps))
        made = []
        for k in range(max(count, len(grid))):
            name, strain = grid[k % len(grid)]
            kind = "strain_volume" if name == "volume" else "strain_shear"
            here = sources.rattled(k // len(grid), self.temperature_K, kind)
            made.append(strained(here, strain, kind, strain_name=name))
        return made


@dataclasses.dataclass(frozen=True)
class Vacancy(AbstractKind):
    """Crystals without one atom, a third of them without two neighbors; thermal displacements."""

    share: float = 0.1
    temperatures_K: tuple[float, ...] = (100.0, 300.0, 900.0)
    why: ClassVar[str] = "missing neighbors: vacancies and their motion"

    def missing(self, sources: Sources) -> str | None:
        return None if all(len(c) > 2 for c in sources.crystals) else "a supercell has two atoms or fewer"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        made = []
        for k in range(count):
            temperature = self.temperatures_K[k % len(self.temperatures_K)]
            here = sources.rattled(k, temperature, "vacancy")
            lacking = defects.vacancy(here, sources.rng, count=2 if k % 3 == 2 else 1)
            made.append(settled(sources, lacking, k))
        return made


@dataclasses.dataclass(frozen=True)
class Interstitial(AbstractKind):
    """Crystals with one atom too many, in one of the roomier places; thermal displacements."""

    share: float = 0.06
    temperatures_K: tuple[float, ...] = (100.0, 300.0, 900.0)
    why: ClassVar[str] = "crowded atoms: interstitials and diffusion"

    def missing(self, sources: Sources) -> str | None:
        return None if all(all(s.pbc) for s in sources.seeds) else "a seed is not a crystal"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        made = []
        for k in range(count):
            here = sources.rattled(k, self.temperatures_K[k % len(self.temperatures_K)], "interstitial")
            made.append(settled(sources, defects.interstitial(here, sources.rng), k))
        return made


@dataclasses.dataclass(frozen=True)
class Antisite(AbstractKind):
    """Crystals with two unlike atoms exchanged; thermal displacements."""

    share: float = 0.06
    temperatures_K: tuple[float, ...] = (100.0, 300.0, 900.0)
    why: ClassVar[str] = "wrong neighbors: order and disorder"

    def missing(self, sources: Sources) -> str | None:
        return None if any(len(np.unique(s.numbers)) > 1 for s in sources.seeds) else "there is one element only"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        mixed = [k for k, s in enumerate(sources.seeds) if len(np.unique(s.numbers)) > 1]
        made = []
        for k in range(count):
            here = sources.rattled(mixed[k % len(mixed)], self.temperatures_K[k % len(self.temperatures_K)], "antisite")
            made.append(settled(sources, defects.antisite(here, sources.rng), k))
        return made


@dataclasses.dataclass(frozen=True)
class Surface(AbstractKind):
    """Slabs with surfaces of low indices, cut at random heights; random displacements."""

    share: float = 0.1
    vacuum_angstrom: float = 8.0
    thickness_angstrom: float = 7.0
    displacement_angstrom: float = 0.08
    why: ClassVar[str] = "broken bonds: surfaces, cracks, and atoms that leave"

    def missing(self, sources: Sources) -> str | None:
        return None if all(all(s.pbc) for s in sources.seeds) else "a seed is not a crystal"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        planes = ((1, 0, 0), (1, 1, 0), (1, 1, 1), (0, 0, 1), (2, 1, 0))
        made = []
        for k in range(count):
            slab = defects.surface(
                sources.seeds[k // len(planes) % len(sources.seeds)],
                planes[k % len(planes)],
                atoms=sources.atoms,
                thickness=self.thickness_angstrom,
                vacuum=self.vacuum_angstrom,
                rng=sources.rng,
            )
            moves = self.displacement_angstrom * sources.rng.standard_normal((len(slab), 3))
            made.append(settled(sources, displaced(slab, moves, "surface"), k))
        return made


@dataclasses.dataclass(frozen=True)
class Random(AbstractKind):
    """Random structures, some steps downhill where there is an energy."""

    share: float = 0.1
    atoms: int = 16
    """About how many in each; whole formulas of the seed."""
    volume: tuple[float, float] = (0.8, 1.6)
    """Range of the volume per atom, in those of the seed."""
    closest: float = 0.75
    """Of the sum of covalent radii."""
    steps: int = 30
    """Most steps downhill."""
    why: ClassVar[str] = "what nobody thought of: other phases, glasses, and what dynamics must not fall into"

    def missing(self, sources: Sources) -> str | None:
        return None if all(all(s.pbc) for s in sources.seeds) else "a seed is not a crystal"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        made = []
        for k in range(count):
            seed = sources.seeds[k % len(sources.seeds)]
            numbers = np.tile(seed.numbers, max(1, round(self.atoms / len(seed))))
            own = abs(float(np.linalg.det(seed.cell))) / len(seed)
            span = (self.volume[0] * own, self.volume[1] * own)
            found = random_structure(numbers.tolist(), sources.rng, volume=span, closest=self.closest)
            made.append(settled(sources, found, k, most=self.steps))
        return made


@dataclasses.dataclass(frozen=True)
class Dynamics(AbstractKind):
    """Molecular dynamics with the sampler on a ladder in temperature and pressure."""

    share: float = 0.2
    temperatures_K: tuple[float, ...] = (500.0, 1500.0, 2500.0, 3500.0)
    pressures_GPa: tuple[float, ...] = (0.0, 10.0)
    every_ps: float = 0.1
    timestep_fs: float = 1.0
    why: ClassVar[str] = "hot crystals and liquids, at and off their densities"

    def missing(self, sources: Sources) -> str | None:
        if sources.energy is None:
            return "dynamics need a sampler"
        return None if all(all(s.pbc) for s in sources.seeds) else "a seed is not a crystal"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        assert sources.energy is not None
        return ladder(
            sources.energy,
            sources.crystals,
            temperatures=self.temperatures_K,
            pressures=[p * units.GPa for p in self.pressures_GPa],
            count=count,
            seed=int(sources.rng.integers(2**31)),
            every=self.every_ps,
            timestep=self.timestep_fs,
            say=sources.say,
        )


@dataclasses.dataclass(frozen=True)
class Dimer(AbstractKind):
    """Pairs of atoms at all distances."""

    share: float = 0.04
    nearest: float = 0.6
    """Of the sum of covalent radii."""
    farthest: float = 2.2
    why: ClassVar[str] = "the wall between two atoms, and how bonds break"
    wall: ClassVar[bool] = True

    def frames(self, sources: Sources, count: int) -> list[Record]:
        return dimers(sources.elements, count, nearest=self.nearest, farthest=self.farthest)


@dataclasses.dataclass(frozen=True)
class Compressed(AbstractKind):
    """Crystals pressed far together, with thermal displacements."""

    share: float = 0.04
    volume: tuple[float, float] = (0.55, 0.9)
    """Range of the volume, in those of the seed."""
    temperature_K: float = 600.0
    why: ClassVar[str] = "the wall in a crowd: collisions and high pressure"
    wall: ClassVar[bool] = True

    def missing(self, sources: Sources) -> str | None:
        return None if all(any(s.pbc) for s in sources.seeds) else "a seed is not periodic"

    def frames(self, sources: Sources, count: int) -> list[Record]:
        ratios = np.linspace(self.volume[0], self.volume[1], count)
        rattled = (sources.rattled(k, self.temperature_K, "compressed") for k in range(count))
        return [compressed(r, float(v)) for r, v in zip(rattled, ratios, strict=True)]


def settled(sources: Sources, record: Record, k: int, *, most: int = 12) -> Record:
    """The frame some steps downhill, more or fewer by turns, where there is an energy."""
    steps = (0, most, most // 3, 2 * most // 3)[k % 4]
    return record if sources.sampler is None or not steps else downhill(sources.sampler, record, steps)
