"""Parameter files of LAMMPS (units `metal`): triplets (sw, tersoff) and tables (EAM); mistakes are named by line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmlip.elements import NUMBERS, SYMBOLS
from jaxmlip.errors import UserError

Elements = Sequence[str] | Mapping[str, str] | None


class Triplets(NamedTuple):
    """Entries of a three-body file for the elements that were asked for, in the order of their atomic numbers.

    `values` is `[species species species fields]` (center, neighbor, other neighbor), `lines` where each entry begins.
    """

    path: Path
    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    lines: np.ndarray


class Table(NamedTuple):
    """Tabulated functions of one EAM file, on the grids `0, drho, 2 drho, ...` and `0, dr, 2 dr, ...`.

    `embedding` is `[species rho]` [eV], `density` is `[species species r]` or `[species 1 r]` (contributed by the
    first at the second) and `pair` is `[species species r]` [eV Å] (distance times pair energy, symmetric).
    """

    path: Path
    numbers: tuple[int, ...]
    drho: float
    dr: float
    cutoff: float
    embedding: np.ndarray
    density: np.ndarray
    pair: np.ndarray


def read_triplets(path: str | Path, fields: Sequence[str], elements: Elements = None) -> Triplets:
    """Read a file whose entries are three elements and `fields`, on one or several lines, `#` and `!` comments.

    `elements` chooses among the labels of the file, or maps labels to elements (`{"Si(D)": "Si"}`); without it every
    label must be an element.

    **Raises:** `UserError` with file and line where an entry is too short, too long, repeated or no number, and with
    the names of elements or triplets that are missing.
    """
    path = Path(path)
    entries: dict[tuple[str, ...], tuple[int, list[float]]] = {}
    words, begin = [], 0
    for line, content in _lines(path):
        begin = begin if words else line
        words += content.split()
        if len(words) < 3 + len(fields):
            continue
        _expect(path, begin, len(words) == 3 + len(fields), _shape(fields), f"{len(words)} words")
        key = tuple(words[:3])
        first = entries.get(key)
        _expect(
            path, begin, first is None, "each triplet once", f"{' '.join(key)} again, after line {(first or [0])[0]}"
        )
        values = [_number(path, begin, word, f"`{name}`") for word, name in zip(words[3:], fields, strict=True)]
        entries[key] = (begin, values)
        words = []
    _expect(path, begin, not words, _shape(fields), f"the end of the file after {len(words)} words")
    labels, numbers = _choose(path, tuple(dict.fromkeys(label for key in entries for label in key)), elements)
    missing = [key for key in np.ndindex(*(len(labels),) * 3) if tuple(labels[k] for k in key) not in entries]
    if missing:
        names = ", ".join(" ".join(labels[k] for k in key) for key in missing)
        raise UserError(f"{path}: no entry for {names}; {len(labels)} elements need all {len(labels) ** 3} triplets.")
    shape = (len(labels),) * 3
    values, lines = np.zeros((*shape, len(fields))), np.zeros(shape, int)
    for key in np.ndindex(shape):
        lines[key], values[key] = entries[tuple(labels[k] for k in key)]
    return Triplets(path, numbers, labels, values, lines)


def refuse(triplets: Triplets, wrong: np.ndarray, what: str) -> None:
    """Refuse the first entry that is `wrong`, naming its line and what is allowed."""
    for key in np.argwhere(wrong):
        name = " ".join(triplets.labels[k] for k in key)
        raise UserError(f"{triplets.path}, line {triplets.lines[tuple(key)]}: the entry {name} must have {what}.")


def read_setfl(path: str | Path, *, finnis_sinclair: bool, elements: Elements = None) -> Table:
    """Read a setfl file: `eam/alloy`, or `eam/fs` where a density depends on both elements.

    **Raises:** `UserError` with file and line of what is malformed, and with the elements that are missing.
    """
    path = Path(path)
    lines = _numbered(path)
    cursor = _Cursor(path, lines, 3)
    count_line, words = cursor.next("the number of elements and their names")
    count = _count(path, count_line, words[0], "the number of elements")
    _expect(path, count_line, len(words) == 1 + count, f"{count} elements after their number", f"{len(words) - 1}")
    labels = tuple(words[1:])
    grid_line, words = cursor.next("`Nrho drho Nr dr cutoff`")
    size_rho, drho, size, dr, cutoff = _grid(path, grid_line, words)
    embedding = np.zeros((count, size_rho))
    density = np.zeros((count, count if finnis_sinclair else 1, size))
    pair = np.zeros((count, count, size))
    for a, label in enumerate(labels):
        line, words = cursor.next(f"atomic number, mass, lattice constant and lattice of {label}")
        _expect(path, line, len(words) == 4, f"four words (atomic number, mass, lattice) of {label}", f"{len(words)}")
        _number(path, line, words[1], f"the mass of {label}")
        embedding[a] = cursor.numbers(size_rho, f"the embedding energies of {label}")
        for b in range(density.shape[1]):
            density[a, b] = cursor.numbers(size, f"the densities of {label}")
    for a in range(count):
        for b in range(a + 1):
            pair[a, b] = pair[b, a] = cursor.numbers(size, f"the pair energies of {labels[a]} and {labels[b]}")
    cursor.finish()
    chosen, numbers = _choose(path, labels, elements)
    pick = [labels.index(label) for label in chosen]
    density = density[np.ix_(pick, pick)] if finnis_sinclair else density[pick]
    return Table(path, numbers, drho, dr, cutoff, embedding[pick], density, pair[np.ix_(pick, pick)])


def read_funcfl(paths: Sequence[str | Path]) -> Table:
    """Read one funcfl file for each element and bring them to one grid, as LAMMPS does (`pair_style eam`).

    The effective charges become pair energies, $r \\phi_{ij} = 27.2 \\cdot 0.529 Z_i Z_j$ eV Å (sic).

    **Raises:** `UserError` with file and line of what is malformed, and for two files of one element.
    """
    files = sorted((_read_funcfl(Path(path)) for path in paths), key=lambda file: file.number)
    numbers = tuple(file.number for file in files)
    if not files or len(set(numbers)) < len(numbers):
        raise UserError(f"Give one funcfl file for each element; got {[str(f.path) for f in files]}.")
    drho, dr = max(f.drho for f in files), max(f.dr for f in files)
    size_rho = int(max((len(f.embedding) - 1) * f.drho for f in files) / drho + 0.5)
    size = int(max((len(f.charge) - 1) * f.dr for f in files) / dr + 0.5)
    charge = np.stack([_lagrange(f.charge, f.dr, dr * np.arange(size)) for f in files])
    return Table(
        files[0].path,
        numbers,
        drho,
        dr,
        max(f.cutoff for f in files),
        np.stack([_lagrange(f.embedding, f.drho, drho * np.arange(size_rho)) for f in files]),
        np.stack([_lagrange(f.density, f.dr, dr * np.arange(size)) for f in files])[:, None],
        27.2 * 0.529 * charge[:, None] * charge[None, :],
    )


# --- pieces ---------------------------------------------------------------------------------------------------------


class _Funcfl(NamedTuple):
    path: Path
    number: int
    drho: float
    dr: float
    cutoff: float
    embedding: np.ndarray
    charge: np.ndarray
    density: np.ndarray


def _read_funcfl(path: Path) -> _Funcfl:
    cursor = _Cursor(path, _numbered(path), 1)
    line, words = cursor.next("atomic number, mass, lattice constant and lattice")
    number = _count(path, line, words[0], "the atomic number")
    _expect(path, line, number < len(SYMBOLS), f"an atomic number up to {len(SYMBOLS) - 1}", str(number))
    line, words = cursor.next("`Nrho drho Nr dr cutoff`")
    size_rho, drho, size, dr, cutoff = _grid(path, line, words)
    embedding = cursor.numbers(size_rho, "the embedding energies")
    charge = cursor.numbers(size, "the effective charges")
    density = cursor.numbers(size, "the densities")
    cursor.finish()
    return _Funcfl(path, number, drho, dr, cutoff, embedding, charge, density)


class _Cursor:
    """Reads on through the lines of a file, knowing where it stands."""

    def __init__(self, path: Path, lines: list[tuple[int, str]], skip: int):
        self.path, self.lines, self.at = path, lines, skip

    def next(self, expected: str) -> tuple[int, list[str]]:
        while self.at < len(self.lines):
            line, content = self.lines[self.at]
            self.at += 1
            words = _uncomment(content).split()
            if words:
                return line, words
        raise UserError(f"{self.path}, line {len(self.lines)}: expected {expected}; got the end of the file.")

    def numbers(self, count: int, what: str) -> np.ndarray:
        found: list[float] = []
        while len(found) < count:
            line, words = self.next(f"{what}: {count} numbers, {len(found)} so far")
            values = [_number(self.path, line, word, what) for word in words]
            got = f"{len(found) + len(values)}"
            _expect(self.path, line, len(found) + len(values) <= count, f"{count} numbers for {what}", got)
            found += values
        return np.array(found)

    def finish(self) -> None:
        for line, content in self.lines[self.at :]:
            _expect(
                self.path, line, not _uncomment(content).split(), "the end of the file", f"{content.strip()[:40]!r}"
            )


def _numbered(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (byte {error.start}).") from error
    lines = list(enumerate(text.splitlines(), 1))
    if not lines:
        raise UserError(f"{path}: the file is empty.")
    units = re.search(r"\bUNITS:\s*(\S+)", lines[0][1])
    if units and units.group(1) != "metal":
        raise UserError(f"{path}, line 1: only units `metal` (eV, Å) are read; the file has `{units.group(1)}`.")
    return lines


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that hold something, without comments."""
    return [(line, _uncomment(text)) for line, text in _numbered(path) if _uncomment(text).strip()]


def _uncomment(line: str) -> str:
    return re.split("[#!]", line, maxsplit=1)[0]


def _choose(path: Path, labels: tuple[str, ...], elements: Elements) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The labels to use and their atomic numbers, sorted by these."""
    if elements is None:
        elements = labels
    if isinstance(elements, str):
        elements = (elements,)
    symbols = dict(elements) if isinstance(elements, Mapping) else {label: label for label in elements}
    missing = [label for label in symbols if label not in labels]
    if missing or not symbols:
        raise UserError(f"{path}: no parameters for {', '.join(missing)}; the file has {', '.join(labels)}.")
    strange = [f"{label} -> {symbol}" for label, symbol in symbols.items() if symbol not in NUMBERS or symbol == "X"]
    if strange:
        raise UserError(
            f"{path}: not elements: {', '.join(strange)}; say with `elements` what they are: {{'Si(D)': 'Si'}}."
        )
    if len(set(symbols.values())) < len(symbols):
        raise UserError(f"{path}: {symbols} names an element twice; choose one label for each.")
    chosen = tuple(sorted(symbols, key=lambda label: NUMBERS[symbols[label]]))
    return chosen, tuple(NUMBERS[symbols[label]] for label in chosen)


def _grid(path: Path, line: int, words: list[str]) -> tuple[int, float, int, float, float]:
    names = ("Nrho", "drho", "Nr", "dr", "cutoff")
    _expect(path, line, len(words) == 5, "five numbers, `Nrho drho Nr dr cutoff`", f"{len(words)}")
    sizes = [_count(path, line, words[k], f"`{names[k]}`") for k in (0, 2)]
    _expect(path, line, min(sizes) >= 5, "at least 5 points in a table", f"{min(sizes)}")
    steps = [_number(path, line, words[k], f"`{names[k]}`") for k in (1, 3, 4)]
    _expect(path, line, min(steps) > 0, "`drho`, `dr` and `cutoff` above 0", f"{min(steps)}")
    return sizes[0], steps[0], sizes[1], steps[1], steps[2]


def _lagrange(values: np.ndarray, step: float, at: np.ndarray) -> np.ndarray:
    """Cubic through the four nearest points of a grid that begins at 0."""
    place = at / step
    k = np.clip(place.astype(int), 1, len(values) - 3)
    p = np.minimum(place - k, 2.0)
    weights = (
        -p * (p - 1.0) * (p - 2.0) / 6.0,
        0.5 * (p * p - 1.0) * (p - 2.0),
        -0.5 * p * (p + 1.0) * (p - 2.0),
        p * (p * p - 1.0) / 6.0,
    )
    near = np.stack([values[k + offset] for offset in (-1, 0, 1, 2)])
    return np.sum(np.stack(weights) * near, axis=0)


def _shape(fields: Sequence[str]) -> str:
    return f"three elements and {len(fields)} numbers ({' '.join(fields)})"


def _number(path: Path, line: int, word: str, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = np.nan
    _expect(path, line, bool(np.isfinite(value)), f"a number for {what}", repr(word))
    return value


def _count(path: Path, line: int, word: str, what: str) -> int:
    _expect(path, line, word.isdecimal() and int(word) > 0, f"a positive whole number for {what}", repr(word))
    return int(word)


def _expect(path: Path, line: int, true: bool, expected: str, got: str) -> None:
    if not true:
        raise UserError(f"{path}, line {line}: expected {expected}; got {got}.")
