"""Trajectory files that ASE and OVITO read: extended XYZ (text) and AMBER NetCDF (binary, for long runs).

Both append whole frames, hand them to the disk, and can be cut back to a checkpoint: no frame is lost, torn or doubled.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmlip import units
from jaxmlip.elements import SYMBOLS
from jaxmlip.files import append
from jaxmlip.simulate.frames import Frame
from jaxmlip.system import System


class ExtxyzWriter:
    """Extended XYZ with energy [eV], forces [eV/Å] and momenta (ASE's units); `timestep` gives the time of a frame.

    An existing file is continued; `rewind(0)` empties it.
    """

    def __init__(self, path: str | Path, *, timestep: float):
        self.path, self.timestep = Path(path), timestep
        self.path.touch()

    def write(self, system: System, frames: Sequence[Frame]) -> None:
        """Append frames. **Raises:** `OSError` where the disk refuses; the file then ends with its last whole frame."""
        append(self.path, "".join(self._text(system, f) for f in frames).encode())

    def position(self) -> int:
        """Bytes that are whole frames."""
        return self.path.stat().st_size

    def rewind(self, position: int) -> None:
        """Cut off everything after `position`. **Raises:** `ValueError` where the file is shorter than that."""
        _truncate(self.path, position)

    def _text(self, system: System, frame: Frame) -> str:
        cell = " ".join(f"{x:.10g}" for x in np.asarray(frame.cell, np.float64).ravel())
        pbc = " ".join("T" if p else "F" for p in system.pbc)
        time = int(frame.step) * self.timestep / units.fs
        head = (
            f'Lattice="{cell}" Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3 '
            f'energy={float(frame.energy):.12g} step={int(frame.step)} time_fs={time:.10g} pbc="{pbc}"'
        )
        columns = np.concatenate([np.asarray(x, np.float64) for x in (frame.positions, frame.momenta, frame.forces)], 1)
        line = "%-2s" + " %.10g" * 9
        symbols = [SYMBOLS[n] for n in np.asarray(system.numbers)]
        rows = [line % (s, *row) for s, row in zip(symbols, columns.tolist(), strict=True)]
        return "\n".join([str(len(rows)), head, *rows]) + "\n"


class NetcdfWriter:
    """AMBER NetCDF (classic, 64-bit offsets): positions [Å], velocities [Å/ps], cell and time [ps] in single precision.

    The format keeps lengths and angles of the cell, so each frame is turned to have the first lattice vector along x
    and the second in the xy plane. An existing file is continued; `rewind(0)` removes its frames.

    **Reference:** AMBER NetCDF Trajectory/Restart Convention 1.0, revision C; Unidata, NetCDF classic format.
    """

    def __init__(self, path: str | Path, system: System, *, timestep: float):
        self.path, self.timestep = Path(path), timestep
        numbers = np.asarray(system.numbers)
        self._header, record = _amber_header(numbers)
        self._record = np.dtype(record)
        if not self.path.exists() or self.path.stat().st_size == 0:
            append(self.path, self._header)
        with open(self.path, "rb") as file:
            if _without_count(file.read(len(self._header))) != _without_count(self._header):
                raise ValueError(f"{self.path} is no trajectory of these {len(numbers)} atoms: give another name.")
        self.rewind(self.position())

    def write(self, system: System, frames: Sequence[Frame]) -> None:
        """Append frames. **Raises:** `OSError` where the disk refuses; the file then ends with its last whole frame."""
        records = np.zeros(len(frames), self._record)
        for record, frame in zip(records, frames, strict=True):
            cell = np.asarray(frame.cell, np.float64)
            lengths, angles, turn = _amber_cell(cell, system.pbc)
            velocities = np.asarray(frame.momenta, np.float64) / np.asarray(system.masses, np.float64)[:, None]
            record["time"] = int(frame.step) * self.timestep / units.ps
            record["coordinates"] = np.asarray(frame.positions, np.float64) @ turn
            record["velocities"] = velocities @ turn * units.ps
            record["cell_lengths"], record["cell_angles"] = lengths, angles
        before = self.position()
        append(self.path, records.tobytes())
        self._count((before - len(self._header)) // self._record.itemsize + len(frames))

    def position(self) -> int:
        """Bytes that are whole frames."""
        whole = (self.path.stat().st_size - len(self._header)) // self._record.itemsize
        return len(self._header) + whole * self._record.itemsize

    def rewind(self, position: int) -> None:
        """Cut off everything after `position`. **Raises:** `ValueError` where the file is shorter than that."""
        position = max(position, len(self._header))
        _truncate(self.path, position)
        self._count((position - len(self._header)) // self._record.itemsize)

    def _count(self, frames: int) -> None:
        """The number of frames stands in the header; it is raised only after the frames are on the disk."""
        with open(self.path, "r+b") as file:
            file.seek(4)
            file.write(struct.pack(">i", frames))
            file.flush()
            os.fsync(file.fileno())


def _truncate(path: Path, position: int) -> None:
    size = path.stat().st_size
    if size < position:
        raise ValueError(
            f"{path} holds {size} bytes, but the checkpoint knows of {position}: it is not the file of that run."
        )
    with open(path, "r+b") as file:
        file.truncate(position)
        os.fsync(file.fileno())


def _amber_cell(cell: np.ndarray, pbc: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths [Å], angles [degree], and the rotation of row vectors to AMBER's orientation; zeros without a cell."""
    if not all(pbc):
        return np.zeros(3), np.zeros(3), np.eye(3)
    lengths = np.linalg.norm(cell, axis=1)
    unit = cell / lengths[:, None]
    cosines = np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1.0, 1.0)
    normal = np.cross(cell[0], cell[1])
    normal /= np.linalg.norm(normal)
    return lengths, np.degrees(np.arccos(cosines)), np.stack([unit[0], np.cross(normal, unit[0]), normal], axis=1)


def _amber_header(numbers: np.ndarray) -> tuple[bytes, list]:
    """The header of an AMBER NetCDF file without frames, and the layout of one frame."""
    atoms = len(numbers)
    record = [
        ("time", ">f4"),
        ("coordinates", ">f4", (atoms, 3)),
        ("velocities", ">f4", (atoms, 3)),
        ("cell_lengths", ">f8", (3,)),
        ("cell_angles", ">f8", (3,)),
    ]
    dims = ["frame", "spatial", "atom", "cell_spatial", "cell_angular", "label"]
    sizes = [0, 3, atoms, 3, 3, 5]
    real, double, char, integer = 5, 6, 2, 4
    attributes = {
        "title": "jaxmlip",
        "application": "jaxmlip",
        "program": "jaxmlip",
        "programVersion": "1",
        "Conventions": "AMBER",
        "ConventionVersion": "1.0",
    }
    fixed = [
        ("spatial", ["spatial"], char, {}, b"xyz\0"),
        ("cell_spatial", ["cell_spatial"], char, {}, b"abc\0"),
        ("cell_angular", ["cell_angular", "label"], char, {}, b"alphabeta gamma\0"),
        ("atom_types", ["atom"], integer, {}, np.asarray(numbers, ">i4").tobytes()),
    ]
    moving = [
        ("time", ["frame"], real, {"units": "picosecond"}, 4),
        ("coordinates", ["frame", "atom", "spatial"], real, {"units": "angstrom"}, 12 * atoms),
        ("velocities", ["frame", "atom", "spatial"], real, {"units": "angstrom/picosecond"}, 12 * atoms),
        ("cell_lengths", ["frame", "cell_spatial"], double, {"units": "angstrom"}, 24),
        ("cell_angles", ["frame", "cell_angular"], double, {"units": "degree"}, 24),
    ]

    def text(name: str) -> bytes:
        raw = name.encode()
        return struct.pack(">i", len(raw)) + raw + b"\0" * (-len(raw) % 4)

    def table(tag: int, items: list[bytes]) -> bytes:
        return struct.pack(">ii", tag if items else 0, len(items)) + b"".join(items)

    def notes(values: dict[str, str]) -> bytes:
        return table(0x0C, [text(k) + struct.pack(">i", char) + text(v) for k, v in values.items()])

    def header(starts: list[int]) -> bytes:
        variables = []
        for (name, axes, kind, values, data), start in zip(fixed + moving, starts, strict=True):
            size = data if isinstance(data, int) else len(data)
            ids = struct.pack(f">i{len(axes)}i", len(axes), *(dims.index(a) for a in axes))
            variables.append(text(name) + ids + notes(values) + struct.pack(">iiq", kind, size, start))
        axes = [text(name) + struct.pack(">i", size) for name, size in zip(dims, sizes, strict=True)]
        return b"CDF\x02" + struct.pack(">i", 0) + table(0x0A, axes) + notes(attributes) + table(0x0B, variables)

    start = len(header([0] * 9))
    starts = []
    for *_, data in fixed + moving:
        starts.append(start)
        start += data if isinstance(data, int) else len(data)
    return header(starts) + b"".join(data for *_, data in fixed), record


def _without_count(header: bytes) -> bytes:
    return header[:4] + header[8:]
