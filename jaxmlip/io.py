"""Files and `ase.Atoms` to systems and labelled frames, and back. The one door to ASE's file formats."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.cell import Cell

from jaxmlip.elements import MASSES, SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.files import write_atomically
from jaxmlip.system import System, check_geometry, make_system

LABELS = ("energy", "forces", "stress", "charges")
_WEIGHTED = ("energy", "forces", "stress")
_READ = {"group", "total_charge", "pbc", "config_weight", *(f"config_{label}_weight" for label in _WEIGHTED)}
_OPENERS = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_MAX_ATOMS = 10_000_000


def from_ase(atoms: ase.Atoms, *, dtype: Any = None) -> System:
    """A `System` from `ase.Atoms`; the total charge is read from `atoms.info["charge"]` where it is given."""
    return make_system(
        atoms.get_positions(),
        atoms.get_atomic_numbers(),
        cell=np.asarray(atoms.cell),
        pbc=tuple(bool(p) for p in atoms.pbc),
        masses=atoms.get_masses(),
        charge=float(atoms.info.get("charge", 0.0)),
        dtype=dtype,
    )


def to_ase(system: System, **info: Any) -> ase.Atoms:
    """`ase.Atoms` from a `System`; `info` goes to `atoms.info`."""
    return ase.Atoms(
        numbers=np.asarray(system.numbers),
        positions=np.asarray(system.positions, np.float64),
        cell=Cell(np.asarray(system.cell, np.float64)),
        pbc=system.pbc,
        masses=np.asarray(system.masses, np.float64),
        info=info,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One labelled frame, in NumPy and float64: what the file said, and where it stood.

    `energy` [eV], `forces` [eV/Å], `stress` [eV/Å³, tension positive] and `charges` [e, of atoms] are `None` where the
    frame has none. `stress_mask` is False at components that must not be trusted. `weights` multiply the loss of
    energy, forces (and charges) and stress. `keys` names the key each label came from; `available` lists all keys of
    the frame; `info` holds what it says of itself in words and few numbers, keys in lower case.
    """

    positions: np.ndarray
    numbers: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, bool, bool]
    charge: float = 0.0
    masses: np.ndarray | None = None
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    stress_mask: np.ndarray = dataclasses.field(default_factory=lambda: np.ones((3, 3), bool))
    config_type: str = "default"
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    split: str | None = None
    path: str = "memory"
    index: int = 0
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    available: tuple[str, ...] = ()
    was_left_handed: bool = False
    charges: np.ndarray | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def where(self) -> str:
        """File and frame, for messages."""
        return f"{self.path}, frame {self.index}"

    @property
    def system(self) -> System:
        """The frame as a `System` of JAX's float type."""
        return make_system(
            self.positions, self.numbers, cell=self.cell, pbc=self.pbc, masses=self.masses, charge=self.charge
        )

    @property
    def is_isolated_atom(self) -> bool:
        """One atom with nothing around it, or called so: its energy is the reference energy of the element."""
        called = self.config_type.lower().replace("_", "") == "isolatedatom"
        return len(self) == 1 and (called or not any(self.pbc))

    def has(self, label: str) -> bool:
        """Whether the frame carries this label (`energy`, `forces`, `stress` or `charges`)."""
        return getattr(self, label) is not None


def read_frames(path: str | Path, *, keys: Mapping[str, str] | None = None) -> list[Record]:
    """All frames of a file with their labels.

    Labels are looked for under `REF_energy`, `REF_forces`, `REF_stress`, `REF_charges` first, then among ASE's
    calculator results (forces without constraints applied). `keys` names other keys, `{"energy": "dft_energy"}`; a
    label that is named so is looked for there only. Stress is nine numbers row by row or six in ASE's order xx yy zz
    yz xz xy; `stress_offdiag_ok=F` in a frame masks its shear components. Left-handed cells become right-handed by
    turning all three lattice vectors round, which is the same crystal.

    **Raises:** `UserError`, with file and frame, for whatever cannot be read or must not be trusted: no frames, a frame
    cut short, labels that are not finite or of the wrong shape, cells without volume.
    """
    path = Path(path)
    keys = dict(keys or {})
    unknown = sorted(set(keys) - set(LABELS))
    if unknown:
        raise UserError(f"`keys` names labels {', '.join(LABELS)}; got {', '.join(unknown)}.")
    records = [_record(atoms, str(path), index, keys) for index, atoms in enumerate(_frames(path))]
    if not records:
        raise UserError(f"{path} holds no frames.")
    return records


def frame_texts(path: str | Path) -> Iterator[str]:
    """Every frame of a file as extended XYZ, in order: line for line where the file is XYZ, else as ASE writes it."""
    path = Path(path)
    stem = path.name[: -len(path.suffix)] if path.suffix in _OPENERS else path.name
    if Path(stem).suffix in (".xyz", ".extxyz"):
        yield from _split_xyz(_read_text(path), str(path))
        return
    for atoms in _frames(path):
        text = io.StringIO()
        ase.io.write(text, atoms, format="extxyz")
        yield text.getvalue()


def with_info(text: str, **info: str | float) -> str:
    """A frame of extended XYZ with more keys in its second line."""
    count, comment, rest = text.split("\n", 2)
    values = {key: f'"{value}"' if isinstance(value, str) else f"{value:.6g}" for key, value in info.items()}
    return "\n".join([count, " ".join([comment.rstrip(), *(f"{k}={v}" for k, v in values.items())]), rest])


def frame_text(record: Record) -> str:
    """A frame as extended XYZ that `read_frames` reads back: geometry to 12 digits, labels under `REF_*`, weights,
    split and whatever `info` says (words on one line; quotes become apostrophes)."""
    columns: list[tuple[str, np.ndarray]] = [("pos:R:3", record.positions)]
    if record.masses is not None and not np.allclose(record.masses, np.asarray(MASSES)[record.numbers]):
        columns.append(("masses:R:1", record.masses[:, None]))
    if record.forces is not None:
        columns.append(("REF_forces:R:3", record.forces))
    if record.charges is not None:
        columns.append(("REF_charges:R:1", record.charges[:, None]))
    head: dict[str, Any] = {
        "Lattice": record.cell.ravel(),
        "Properties": ":".join(["species:S:1", *(name for name, _ in columns)]),
        "config_type": record.config_type,
        "split": record.split,
        "REF_energy": record.energy,
        "REF_stress": None if record.stress is None else record.stress.ravel(),
        "charge": record.charge or None,
        "stress_offdiag_ok": None if record.stress_mask.all() else False,
    }
    weights = zip(_WEIGHTED, record.weights, strict=True)
    head |= {f"config_{label}_weight": weight for label, weight in weights if weight != 1.0}
    taken = {key.lower() for key in head} | _READ
    head |= {key: value for key, value in record.info.items() if key.lower() not in taken}
    words = [f"{key}={_spell(value)}" for key, value in head.items() if value is not None and str(value).strip()]
    words.append('pbc="' + " ".join("T" if p else "F" for p in record.pbc) + '"')
    table = np.concatenate([values for _, values in columns], axis=1).tolist()
    line = "%-2s" + " %.12g" * len(table[0])
    rows = [line % (SYMBOLS[n], *row) for n, row in zip(record.numbers, table, strict=True)]
    return "\n".join([str(len(record)), " ".join(words), *rows]) + "\n"


def write_frames(path: str | Path, records: Sequence[Record]) -> None:
    """Write frames as extended XYZ, the whole file or nothing; see `frame_text`."""
    write_atomically(Path(path), "".join(frame_text(r) for r in records).encode("utf-8"))


def _spell(value: Any) -> str:
    """A value of the second line of extended XYZ."""
    if isinstance(value, (bool, np.bool_)):
        return "T" if value else "F"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.12g}"
    if isinstance(value, np.ndarray) or (
        isinstance(value, (list, tuple)) and not any(isinstance(x, str) for x in value)
    ):
        return '"' + " ".join(_spell(x) for x in np.asarray(value).ravel()) + '"'
    return '"' + " ".join(str(value).replace('"', "'").replace("\\", "/").split()) + '"'


def record_from_ase(atoms: ase.Atoms, *, path: str = "memory", index: int = 0) -> Record:
    """A labelled frame from `ase.Atoms`, by the rules of `read_frames`."""
    return _record(atoms, path, index, {})


def _frames(path: Path) -> Iterator[ase.Atoms]:
    """Every frame of a file as `ase.Atoms`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist." if not path.exists() else f"{path} is not a file.")
    stem = path.name[: -len(path.suffix)] if path.suffix in _OPENERS else path.name
    if Path(stem).suffix in (".xyz", ".extxyz"):
        for index, text in enumerate(_split_xyz(_read_text(path), str(path))):
            try:
                yield from ase.io.iread(io.StringIO(text), format="extxyz")
            except Exception as error:  # ASE raises whatever the broken field happens to trigger
                raise UserError(f"{path}, frame {index}: cannot be read as extended XYZ ({error}).") from error
        return
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    try:
        yield from ase.io.iread(str(path), index=":")
    except Exception as error:
        raise UserError(f"{path}: ASE cannot read it ({type(error).__name__}: {error}).") from error


def _read_text(path: Path) -> str:
    """The text of a file, decompressed."""
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as stream:
            return stream.read().decode("utf-8")
    except (EOFError, lzma.LZMAError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read; is it complete? ({error})") from error


def _split_xyz(text: str, path: str) -> Iterator[str]:
    """The frames of an XYZ text, each with exactly the lines that it declares.

    A file that does not end with a newline may have lost digits of its last number, which nobody could see: refused.
    """
    if not text.strip():
        raise UserError(f"{path} is empty.")
    lines = text.split("\n")
    whole = lines.pop() == ""
    start, index = 0, 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        where = f"{path}, frame {index}"
        count = lines[start].strip()
        if not count.isdecimal() or not 0 < int(count) <= _MAX_ATOMS:
            raise UserError(
                f"{where}: line {start + 1} should be a number of atoms (1 to {_MAX_ATOMS}); got {count[:40]!r}."
            )
        stop = start + 2 + int(count)
        if stop > len(lines) + (0 if whole else 1):
            found = max(len(lines) - start - 2, 0)
            raise UserError(f"{where} is cut short: it declares {count} atoms, but {found} whole lines follow.")
        if stop > len(lines):
            raise UserError(
                f"{where} may be cut short: the file does not end with a newline, so the last number may have lost "
                "digits. If the file is complete, add a newline at its end."
            )
        yield "\n".join(lines[start:stop]) + "\n"
        start, index = stop, index + 1
    if not whole:
        raise UserError(f"{path}, frame {index} is cut short: the file ends in the middle of a line.")


def _record(atoms: ase.Atoms, path: str, index: int, keys: Mapping[str, str]) -> Record:
    """Checks one frame and collects its labels."""
    where = f"{path}, frame {index}"
    cell = np.asarray(atoms.cell, np.float64)
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    left_handed = all(pbc) and np.linalg.det(cell) < 0
    cell = -cell if left_handed else cell
    try:
        check_geometry(atoms.positions, atoms.numbers, cell, pbc)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    values, sources = {}, {}
    for label in LABELS:
        values[label], sources[label] = _find_label(atoms, label, keys.get(label))
    masses = atoms.get_masses()
    return Record(
        positions=np.array(atoms.positions, np.float64),
        numbers=np.array(atoms.numbers, np.int32),
        cell=cell,
        pbc=pbc,
        charge=_number(atoms, "total_charge" if "total_charge" in atoms.info else "charge", where, 0.0),
        masses=masses if np.all(masses > 0) else np.asarray(MASSES)[atoms.numbers],
        energy=_energy(values["energy"], where, sources["energy"]),
        forces=_forces(values["forces"], len(atoms), where, sources["forces"]),
        stress=_stress(values["stress"], where, sources["stress"]),
        stress_mask=_stress_mask(atoms.info.get("stress_offdiag_ok", True)),
        config_type=str(atoms.info.get("config_type", atoms.info.get("group", "default"))),
        weights=_weights(atoms, where),
        split=str(atoms.info["split"]) if "split" in atoms.info else None,
        path=path,
        index=index,
        keys={label: key for label, key in sources.items() if key},
        available=tuple(sorted({*atoms.info, *atoms.arrays, *_results(atoms)} - {"numbers", "positions"})),
        was_left_handed=bool(left_handed),
        charges=_charges(values["charges"], len(atoms), where, sources["charges"]),
        info={k.lower(): v for k, v in atoms.info.items() if k not in sources.values() and np.size(v) <= 9},
    )


def _results(atoms: ase.Atoms) -> Mapping[str, Any]:
    """Calculator results as they were stored: no constraint is applied to the forces."""
    return {} if atoms.calc is None else atoms.calc.results


def _find_label(atoms: ase.Atoms, label: str, key: str | None) -> tuple[Any, str]:
    """The value of a label and the key it was found under; `(None, "")` where there is none."""
    stores = (atoms.arrays, atoms.info) if label in ("forces", "charges") else (atoms.info, atoms.arrays)
    for name in (key,) if key else (f"REF_{label}", label):
        for store in (*stores, _results(atoms)):
            if name in store:
                return store[name], name
    return None, ""


def _number(atoms: ase.Atoms, key: str, where: str, default: float = 1.0) -> float:
    """One finite number from `atoms.info`."""
    value = atoms.info.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise UserError(f"{where}: {key} must be a finite number; got {value!r}.")
    return number


def _weights(atoms: ase.Atoms, where: str) -> tuple[float, float, float]:
    """What multiplies the loss of energy, forces and stress."""
    whole = _number(atoms, "config_weight", where)
    energy, forces, stress = (whole * _number(atoms, f"config_{label}_weight", where) for label in _WEIGHTED)
    return energy, forces, stress


def _numbers(value: Any, where: str, key: str) -> np.ndarray:
    """A label as finite float64."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {key} must be numbers; got {str(value)[:60]!r}.") from error
    if not np.all(np.isfinite(array)):
        raise UserError(f"{where}: {key} is not finite (NaN or infinite). Mend the frame or leave it out.")
    return array


def _energy(value: Any, where: str, key: str) -> float | None:
    if value is None:
        return None
    energy = _numbers(value, where, key)
    if energy.size != 1:
        raise UserError(f"{where}: {key} must be one number [eV]; got {energy.size}.")
    return float(energy.reshape(()))


def _forces(value: Any, atoms: int, where: str, key: str) -> np.ndarray | None:
    if value is None:
        return None
    forces = _numbers(value, where, key)
    if forces.shape != (atoms, 3):
        raise UserError(f"{where}: {key} must have shape ({atoms}, 3) [eV/Å]; got {forces.shape}.")
    return forces


def _charges(value: Any, atoms: int, where: str, key: str) -> np.ndarray | None:
    if value is None:
        return None
    charges = _numbers(value, where, key)
    if charges.shape not in ((atoms,), (atoms, 1)):
        raise UserError(f"{where}: {key} must have shape ({atoms},) [e]; got {charges.shape}.")
    return charges.reshape(atoms)


def _stress(value: Any, where: str, key: str) -> np.ndarray | None:
    if value is None:
        return None
    stress = _numbers(value, where, key)
    if stress.size == 6:
        xx, yy, zz, yz, xz, xy = stress.reshape(6)
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if stress.size != 9:
        raise UserError(
            f"{where}: {key} must be nine numbers, or six in the order xx yy zz yz xz xy; got {stress.size}."
        )
    stress = stress.reshape(3, 3)
    if np.abs(stress - stress.T).max() > 1e-6 + 1e-2 * np.abs(stress).max():
        raise UserError(f"{where}: {key} is not symmetric: {stress.tolist()}.")
    return 0.5 * (stress + stress.T)


def _stress_mask(offdiagonal_ok: Any) -> np.ndarray:
    return np.ones((3, 3), bool) if bool(offdiagonal_ok) else np.eye(3, dtype=bool)


def paths_of(records: Sequence[Record]) -> tuple[str, ...]:
    """The files that records came from, each once, in order."""
    return tuple(dict.fromkeys(record.path for record in records))
