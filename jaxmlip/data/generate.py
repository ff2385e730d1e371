"""Structures made by design from a seed: supercells, strains, dimers, compressed cells, thermal displacements.

Everything here turns a `Record` into new ones without labels. Each says in `config_type` and `info` how it was made:
the seed it comes from (`parent`), the kind and its parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmlip.elements import COVALENT_RADII, MASSES, SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import Record

CLOSEST = 0.6  # of the sum of covalent radii: structures in which atoms come closer are not made unasked
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_SHEARS = ("yz", "xz", "xy", "xx-yy", "yy-zz")


def derive(parent: Record, kind: str, /, **changes: Any) -> Record:
    """A new frame from `parent`, without labels: `config_type` is `kind`, fields of `Record` among the `changes` are
    replaced, and all others go to `info` beside what it said of the parent (keys in lower case)."""
    fields = {f.name for f in dataclasses.fields(Record)}
    replaced = {key: value for key, value in changes.items() if key in fields}
    numbers = replaced.get("numbers", parent.numbers)
    same = len(numbers) == len(parent) and np.array_equal(numbers, parent.numbers)
    info = {"parent": parent.where, **{k: v for k, v in parent.info.items() if k not in ("config_type", "split")}}
    info |= {key.lower(): value for key, value in changes.items() if key not in fields}
    kept = {"masses": parent.masses if same else None}
    return Record(
        **{
            **{name: getattr(parent, name) for name in ("positions", "numbers", "cell", "pbc", "charge")},
            **kept,
            **replaced,
        },
        config_type=kind,
        path="generated",
        info=info,
    )


def closeness(record: Record) -> float:
    """The smallest distance between two atoms over the sum of their covalent radii; infinite where
    none are within 1.5 times that."""
    reach = 3.0 * max(COVALENT_RADII[int(n)] for n in record.numbers)
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, reach)
    if not len(receivers):
        return np.inf
    lengths = np.linalg.norm(record.positions[senders] + shifts @ record.cell - record.positions[receivers], axis=1)
    radii = np.asarray(COVALENT_RADII)[record.numbers]
    return float(np.min(lengths / (radii[senders] + radii[receivers])))


def repeat(record: Record, times: Sequence[int], kind: str | None = None) -> Record:
    """The supercell of `times` repetitions along the three lattice vectors.

    **Raises:** `UserError` for repetitions below 1, or above 1 along a direction that is not periodic.
    """
    if any(n < 1 or (n > 1 and not p) for n, p in zip(times, record.pbc, strict=True)):
        raise UserError(f"Repetitions must be at least 1, and 1 where a cell is not periodic; got {tuple(times)}.")
    shifts = np.array(list(np.ndindex(*times)))
    masses = None if record.masses is None else np.tile(record.masses, len(shifts))
    return derive(
        record,
        kind or record.config_type,
        positions=(record.positions[None] + (shifts @ record.cell)[:, None]).reshape(-1, 3),
        numbers=np.tile(record.numbers, len(shifts)),
        cell=record.cell * np.asarray(times)[:, None],
        charge=record.charge * len(shifts),
        masses=masses,
    )


def supercell(record: Record, atoms: int, kind: str | None = None) -> Record:
    """The supercell of at most `atoms` atoms that is widest in its narrowest direction and near a cube; the cell itself
    where it has more."""
    best, mark = (1, 1, 1), (np.inf,)
    most = max(atoms // len(record), 1)
    ranges = [range(1, most + 1) if p else range(1, 2) for p in record.pbc]
    heights = _heights(record.cell, record.pbc)
    for times in itertools.product(*ranges):
        count = int(np.prod(times))
        if count > most:
            continue
        sides = (heights * times)[list(record.pbc)] if any(record.pbc) else np.ones(1)
        score = -float(np.min(sides)) + 0.1 * float(np.max(sides))
        if (score, -count) < mark:
            best, mark = times, (score, -count)
    return repeat(record, best, kind)


def strained(record: Record, strain: Float[np.ndarray, "3 3"], kind: str = "strain", **info: Any) -> Record:
    """The frame under a symmetric strain: positions and cell times 1 + strain; six components go to `info`.

    **Raises:** `UserError` for a cell that is not periodic, and a strain that turns it inside out.
    """
    if not any(record.pbc):
        raise UserError(f"{record.where}: a strain needs a periodic direction.")
    stretch = np.eye(3) + strain
    if not np.all(np.isfinite(strain)) or np.min(np.linalg.eigvalsh(stretch)) < 0.3:
        raise UserError(f"A strain must leave at least 0.3 of every length; got {strain.tolist()}.")
    told = np.array([strain[i, j] for i, j in _VOIGT])
    return derive(
        record, kind, positions=record.positions @ stretch, cell=record.cell @ stretch, **({"strain": told} | info)
    )


def strain_grid(volume: float, shear: float, steps: int) -> Iterator[tuple[str, Float[np.ndarray, "3 3"]]]:
    """Strains in `steps` sizes of each sign: hydrostatic up to a change of `volume` (0.1 is 10 %), and five shears that
    keep it (to first order) up to `shear`; each with its name.

    **Raises:** `UserError` for sizes that are not sensible.
    """
    if not 0.0 < volume < 0.6 or not 0.0 < shear < 0.4 or steps < 1:
        raise UserError(f"Give 0 < volume < 0.6, 0 < shear < 0.4 and steps of at least 1; got {volume, shear, steps}.")
    for size in (s * k / steps for k in range(1, steps + 1) for s in (-1.0, 1.0)):
        yield "volume", np.eye(3) * ((1.0 + volume * size) ** (1.0 / 3.0) - 1.0)
        for name in _SHEARS:
            strain = np.zeros((3, 3))
            if "-" in name:
                i, j = ("xyz".index(part[0]) for part in name.split("-"))
                strain[i, i], strain[j, j] = shear * size, -shear * size
            else:
                i, j = ("xyz".index(part) for part in name)
                strain[i, j] = strain[j, i] = shear * size
            yield name, strain


def compressed(record: Record, volume: float) -> Record:
    """The frame at `volume` times its volume: 0.6 shows a potential the wall between atoms."""
    if not 0.05 <= volume < 1.0:
        raise UserError(f"`volume` of a compressed cell must lie between 0.05 and 1; got {volume}.")
    strain = np.eye(3) * (volume ** (1.0 / 3.0) - 1.0)
    return strained(record, strain, "compressed", volume_ratio=volume)


def dimers(numbers: Sequence[int], count: int, *, nearest: float = 0.5, farthest: float = 2.0) -> list[Record]:
    """`count` dimers of the elements, the pairs in turn, from `nearest` to `farthest` times the sum of covalent radii,
    at a constant ratio; each in a periodic cube with 10 Å between images.

    **Raises:** `UserError` for distances that do not rise.
    """
    if not 0.05 <= nearest < farthest:
        raise UserError(f"Distances of dimers must rise from at least 0.05; got {nearest} to {farthest}.")
    pairs = list(itertools.combinations_with_replacement(sorted({int(n) for n in numbers}), 2))
    made = []
    for k, (i, j) in enumerate(pairs):
        here = len(range(k, count, len(pairs)))
        bond = COVALENT_RADII[i] + COVALENT_RADII[j]
        for r in np.geomspace(nearest, farthest, here) * bond if here > 1 else [nearest * bond] * here:
            side = float(r) + 10.0
            start = np.array([0.5 * (side - r), 0.5 * side, 0.5 * side])
            made.append(
                Record(
                    positions=np.array([start, start + [r, 0.0, 0.0]]),
                    numbers=np.array([i, j], np.int32),
                    cell=side * np.eye(3),
                    pbc=(True, True, True),
                    config_type="dimer",
                    path="generated",
                    info={"parent": f"{SYMBOLS[i]}-{SYMBOLS[j]}", "distance_angstrom": float(r)},
                )
            )
    return made


def isolated_atom(number: int) -> Record:
    """One atom in a box of 12 Å without periodicity: its energy is the reference energy of the element."""
    return Record(
        positions=np.full((1, 3), 6.0),
        numbers=np.array([number], np.int32),
        cell=12.0 * np.eye(3),
        pbc=(False, False, False),
        config_type="isolated_atom",
        path="generated",
        info={"parent": SYMBOLS[number]},
    )


def displaced(
    record: Record, moves: Float[np.ndarray, "atoms 3"], kind: str, *, closest: float = CLOSEST, **info: Any
) -> Record:
    """The frame with its atoms moved, made smaller by tenths until no two come nearer than `closest` times the sum of
    their covalent radii (or nearer than they were); `info` tells the size (`displacement_rms`) and by how much it was
    scaled."""
    limit = min(closest, 0.999 * closeness(record))
    for scale in np.linspace(1.0, 0.0, 11):
        rms = float(np.sqrt(np.mean(np.sum((scale * moves) ** 2, axis=1))))
        told = info | {"displacement_rms": rms} | ({"scaled": float(scale)} if scale < 1.0 else {})
        made = derive(record, kind, positions=record.positions + scale * moves, **told)
        if closeness(made) >= limit:
            break
    return made


def masses_of(record: Record) -> Float[np.ndarray, "atoms"]:
    """Masses [u], standard atomic weights where the frame gives none."""
    return np.asarray(MASSES)[record.numbers] if record.masses is None else np.asarray(record.masses, float)


def _heights(cell: Float[np.ndarray, "3 3"], pbc: Sequence[bool]) -> Float[np.ndarray, "3"]:
    """Distances between the faces of a cell [Å]; of a cell that spans no space, the lengths of its vectors."""
    if abs(np.linalg.det(cell)) < 1e-9:
        return np.linalg.norm(cell, axis=1)
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
