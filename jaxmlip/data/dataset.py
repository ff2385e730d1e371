"""Data sets: labelled frames in memory, where they came from, and how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from jaxmlip.elements import SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.io import LABELS, Record, paths_of, read_frames

_CLOSEST = 0.1  # Å
_FEW_FRAMES = 4  # that an element is in, of
_MANY_FRAMES = 12


class Dataset:
    """An immutable sequence of records. Slices, subsets and sums (`a + b`) are data sets again."""

    def __init__(self, records: Sequence[Record]):
        self.records = tuple(records)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @overload
    def __getitem__(self, index: int | np.integer) -> Record: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Dataset": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Dataset(self.records[index])
        if isinstance(index, (int, np.integer)):
            return self.records[index]
        index = np.asarray(index)
        chosen = np.flatnonzero(index) if index.dtype == bool else index
        return Dataset([self.records[int(i)] for i in chosen])

    def __add__(self, other: "Dataset") -> "Dataset":
        return Dataset(self.records + other.records)

    def __repr__(self) -> str:
        symbols = " ".join(SYMBOLS[n] for n in self.elements)
        return f"Dataset({len(self)} frames, {sum(len(r) for r in self)} atoms, {symbols})"

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted({int(n) for record in self for n in np.unique(record.numbers)}))

    def filter(self, keep: Callable[[Record], bool]) -> "Dataset":
        """The records that `keep` says True to."""
        return Dataset([record for record in self if keep(record)])

    def split(self, *fractions: float, seed: int = 0) -> tuple["Dataset", ...]:
        """Random parts of the given fractions and the rest first: `train, valid = data.split(0.1)`.

        Each `config_type` is divided in the same proportions, and frames keep their order within a part. Isolated atoms
        stay in the first part, which the reference energies are made from.

        **Raises:** `UserError` where the fractions leave nothing for the first part, or a part would be empty.
        """
        if any(f <= 0 for f in fractions) or sum(fractions) >= 1:
            raise UserError(f"Fractions of a split must be positive and sum to less than 1; got {fractions}.")
        groups: dict[str, list[int]] = {}
        parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
        for i in np.random.default_rng(seed).permutation(len(self)):
            record = self.records[i]
            (parts[0] if record.is_isolated_atom else groups.setdefault(record.config_type, [])).append(int(i))
        members = [groups[kind] for kind in sorted(groups)]
        sizes = np.array([len(group) for group in members])
        for part, fraction in enumerate(fractions, start=1):
            quotas = _apportion(fraction * sizes)
            for group, quota in zip(members, quotas, strict=True):
                parts[part].extend(group[:quota])
                del group[:quota]
        for group in members:
            parts[0].extend(group)
        if not all(parts):
            raise UserError(f"{len(self)} frames cannot be split by {fractions}: a part would be empty.")
        return tuple(self[sorted(part)] for part in parts)

    def split_by_key(self) -> dict[str, "Dataset"]:
        """The parts that the frames themselves name under the key `split` (`train`, `valid`, `test`).

        **Raises:** `UserError` naming the first frame that does not say where it belongs.
        """
        parts: dict[str, list[Record]] = {}
        for record in self:
            if record.split is None:
                raise UserError(f"{record.where} has no key `split`; give separate files, or a fraction.")
            parts.setdefault(record.split, []).append(record)
        return {name: Dataset(records) for name, records in parts.items()}

    def config_types(self) -> dict[str, int]:
        """How many frames there are of each `config_type`."""
        counts: dict[str, int] = {}
        for record in self:
            counts[record.config_type] = counts.get(record.config_type, 0) + 1
        return counts

    def notices(self) -> list[str]:
        """What a user should know of how the frames were read."""
        turned = sum(r.was_left_handed for r in self)
        masked = sum(r.stress is not None and not r.stress_mask.all() for r in self)
        notices = []
        if turned:
            notices.append(f"{turned} left-handed cells were made right-handed (same crystal, same labels).")
        if masked:
            notices.append(f"the shear stress of {masked} frames is masked, as they ask for.")
        return notices + [f"{text}: what is learned of it rests on these alone." for text in self.rare_elements()]

    def rare_elements(self) -> list[str]:
        """Elements that less than four frames of many have, not counting isolated atoms."""
        frames = [r for r in self if not r.is_isolated_atom]
        counts = {n: [r for r in frames if n in r.numbers] for n in self.elements}
        if len(frames) < _MANY_FRAMES:
            return []
        where = {n: "; ".join(r.where for r in found) or "as isolated atoms only" for n, found in counts.items()}
        return [
            f"{SYMBOLS[n]} is in {len(found)} of {len(frames)} frames ({where[n]})"
            for n, found in counts.items()
            if len(found) < _FEW_FRAMES
        ]

    def census(self) -> str:
        """A table: how many frames of each file carry which label, and under which key."""
        lines = []
        for path in paths_of(self.records):
            records = [r for r in self if r.path == path]
            lines.append(f"{path}: {len(records)} frames")
            for label in LABELS:
                found = [r for r in records if r.has(label)]
                keys = sorted({r.keys.get(label, "memory") for r in found})
                lines.append(f"  {label:<7} in {len(found):>6}" + (f"  (key {', '.join(keys)})" if keys else ""))
            lines.append(f"  keys present: {', '.join(sorted({k for r in records for k in r.available})) or 'none'}")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """SHA-256 of everything that a training sees of the frames."""
        digest = hashlib.sha256()
        for r in self:
            for array in (r.positions, r.numbers, r.cell, r.forces, r.stress, r.stress_mask):
                digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
            if r.charges is not None:
                digest.update(np.ascontiguousarray(r.charges).tobytes())
            digest.update(repr((r.pbc, r.charge, r.energy, r.weights, r.config_type)).encode())
        return digest.hexdigest()


def read_dataset(paths: str | Path | Sequence[str | Path], *, keys: Mapping[str, str] | None = None) -> Dataset:
    """The frames of one or many files, in order; see `jaxmlip.io.read_frames` for labels and errors.

    **Raises:** `UserError` also where atoms coincide (closer than 0.1 Å, images included).
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise UserError("Give at least one file to read; got none.")
    records = [record for path in paths for record in read_frames(path, keys=keys)]
    for record in records:
        check_distances(record)
    return Dataset(records)


def check_distances(record: Record) -> None:
    """Refuse frames in which two atoms, or an atom and an image, sit on the same spot.

    **Raises:** `UserError` naming file, frame, atoms and distance.
    """
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, 10 * _CLOSEST)
    vectors = record.positions[senders] + shifts @ record.cell - record.positions[receivers]
    distances = np.linalg.norm(vectors, axis=1)
    if distances.size and distances.min() < _CLOSEST:
        pair = int(distances.argmin())
        raise UserError(
            f"{record.where}: atoms {receivers[pair]} and {senders[pair]} (counted from 0, images included) are only "
            f"{distances[pair]:.4f} Å apart. Mend the frame or leave it out."
        )


def require_labels(dataset: Dataset, labels: Sequence[str], *, missing: float = 0.0) -> None:
    """Stop before training on labels that are not there.

    Forces of isolated atoms and stress of frames that are not periodic in three directions are not asked for. Up to a
    fraction `missing` of the frames may lack a label; they are masked.

    **Raises:** `UserError` with a census of the labels in each file.
    """
    for label in labels:
        asked = [r for r in dataset if not _is_exempt(r, label)]
        lacking = [r for r in asked if not r.has(label)]
        if not asked or len(lacking) > missing * len(asked):
            first = f"; the first is {lacking[0].where}" if lacking else ""
            raise UserError(
                f"The loss asks for {label}, but {len(lacking)} of {len(asked)} frames have none{first}.\n"
                f"{dataset.census()}\n"
                f"Name the key of the label, set the weight of {label} to 0, or allow a fraction of missing labels."
            )


def _apportion(shares: np.ndarray) -> np.ndarray:
    """Whole numbers near `shares` with the same sum, by largest remainders."""
    whole = np.floor(shares + 1e-9).astype(int)
    short = round(float(shares.sum())) - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[: max(short, 0)]] += 1
    return whole


def _is_exempt(record: Record, label: str) -> bool:
    """Whether a label means nothing for this frame."""
    return (label == "forces" and record.is_isolated_atom) or (label == "stress" and not all(record.pbc))
