"""Labels for structures from any ASE calculator or energy: in parallel, restartable, failures set aside."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.files import append
from jaxmlip.interfaces.workers import as_calculator, compute, outcomes
from jaxmlip.io import Record, frame_text, read_frames, write_frames

LARGEST_FORCE = 300.0  # eV/Å: beyond, labels are taken for a failure
_IN_A_ROW = 10  # failures, after which something is wrong with the labeller


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What came of labelling: `records` with labels in order, and index and reason of those without."""

    records: tuple[Record, ...]
    failed: tuple[tuple[int, str], ...]
    resumed: int

    def summary(self) -> str:
        """In words, with the reasons."""
        text = f"{len(self.records)} frames labelled" + (f" ({self.resumed} of them before)" if self.resumed else "")
        reasons: dict[str, int] = {}
        for _, reason in self.failed:
            reasons[reason] = reasons.get(reason, 0) + 1
        return text + "".join(f"\n{count} failed: {reason}" for reason, count in reasons.items())


def label(
    records: Sequence[Record],
    labeller: str | AbstractEnergy | Any,
    output: Path,
    *,
    failed: Path | None = None,
    workers: int = 1,
    timeout: float = 3600.0,
    largest_force: float = LARGEST_FORCE,
    source: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Labelled:
    """Label structures and write them to `output`, and those that fail, with `label_failure`, to `failed` (by default
    `failed.extxyz` beside it).

    A name (see `workers.open_energy`) is opened in each of `workers` processes, which have `timeout` seconds for a
    frame and are replaced where they hang or die; scripts that use this need `if __name__ == "__main__":`. An energy or
    a calculator works in this process, one frame at a time, without a limit. Each result is on the disk before the next
    is asked for: a call with the same files goes on where the last one was stopped, and tries no failed frame again
    unless its file is removed. Frames that are there twice are labelled once. Labels that are not finite, of another
    size, or with forces beyond `largest_force` [eV/Å] count as failures. At the end both files are in the order of
    `records`. `source` goes to `label_source`.

    **Raises:** `UserError` where the labeller cannot be made, fails ten times in a row from the start, or nothing is
    given to label.
    """
    if not len(records):
        raise UserError("There are no structures to label.")
    if workers < 1 or not timeout > 0.0 or not largest_force > 0.0:
        raise UserError(
            f"`workers`, `timeout` and `largest_force` must be positive; got {workers}, {timeout}, {largest_force}."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_name("failed.extxyz") if failed is None else failed
    done = {path: _resume(path) for path in (output, failed)}
    known = done[output] | done[failed]
    keys = [frame_key(r) for r in records]
    todo = [i for i, key in enumerate(keys) if key not in known and key not in keys[:i]]
    resumed = sum(key in done[output] for key in dict.fromkeys(keys))
    source = source or (labeller if isinstance(labeller, str) else type(labeller).__name__)
    bad = 0
    for count, (i, outcome) in enumerate(_outcomes(labeller, [records[i] for i in todo], workers, timeout, output), 1):
        record, key = records[todo[i]], keys[todo[i]]
        reason = outcome if isinstance(outcome, str) else _fault(outcome, record, largest_force)
        if isinstance(outcome, str) or reason is not None:
            made = _without_labels(record, frame_key=key, label_source=source, label_failure=str(reason)[:300])
            append(failed, frame_text(made).encode())
            done[failed][key] = made
            bad += 1
        else:
            made = dataclasses.replace(_without_labels(record, frame_key=key, label_source=source), **outcome)
            append(output, frame_text(made).encode())
            done[output][key] = made
        if progress is not None:
            progress(len(known) + count, len(known) + len(todo))
        if bad == count == _IN_A_ROW < len(todo):
            raise UserError(
                f"The first {bad} frames all failed, the last one because: {reason}. See {failed}; mend the labeller, "
                "remove that file and start again."
            )
    return _finish(keys, done[output], done[failed], output, failed, resumed)


def frame_key(record: Record) -> str:
    """A name for a structure: equal for equal atoms, positions (to 12 digits), cell and periodicity."""
    bare = Record(record.positions, record.numbers, record.cell, record.pbc, charge=record.charge)
    return "k" + hashlib.sha256(frame_text(bare).encode()).hexdigest()[:16]


def _finish(
    keys: Sequence[str], good: dict[str, Record], bad: dict[str, Record], output: Path, failed: Path, resumed: int
) -> Labelled:
    """Both files in the order of the structures, and what came of it all."""
    order = list(dict.fromkeys(keys))
    labelled = [good[k] for k in order if k in good]
    aside = [bad[k] for k in order if k in bad]
    for path, frames, every in ((output, labelled, good), (failed, aside, bad)):
        if len(frames) == len(every) and every:  # frames of another set stay as they are
            write_frames(path, frames)
    reasons = tuple((keys.index(k), str(bad[k].info.get("label_failure", "?"))) for k in order if k in bad)
    return Labelled(tuple(labelled), reasons, resumed)


def _outcomes(
    labeller: Any, records: Sequence[Record], workers: int, timeout: float, output: Path
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Index and labels or reason, from processes or from here."""
    if not records:
        return
    if isinstance(labeller, str):
        folder = output.parent / "labelling"
        yield from outcomes(labeller, records, workers=workers, timeout=timeout, folder=folder)
        return
    calculator = as_calculator(labeller)
    for i, record in enumerate(records):
        try:
            result: dict[str, Any] | str = compute(calculator, record)
        except Exception as error:  # calculators raise whatever they like
            result = f"{type(error).__name__}: {error}"
        yield i, result


def _fault(found: dict[str, Any], record: Record, largest: float) -> str | None:
    """What is wrong with labels, if anything."""
    if not np.isfinite(found["energy"]):
        return "the energy is not finite"
    forces = found["forces"]
    if forces.shape != record.positions.shape:
        return f"forces have shape {forces.shape}, not {record.positions.shape}"
    if not np.all(np.isfinite(forces)):
        return "forces are not finite"
    most = float(np.linalg.norm(forces, axis=1).max())
    if most > largest:
        return f"a force is larger than {largest:g} eV/Å"
    if "stress" in found and not np.all(np.isfinite(found["stress"])):
        return "the stress is not finite"
    return None


def _without_labels(record: Record, **info: Any) -> Record:
    kept = {k: v for k, v in record.info.items() if not k.startswith("label_")}
    return dataclasses.replace(
        record, energy=None, forces=None, stress=None, charges=None, keys={}, info={**kept, **info}
    )


def _resume(path: Path) -> dict[str, Record]:
    """What a file holds already, by `frame_key`; the torn end that a kill may leave is cut off.

    **Raises:** `UserError` for a file that was not made here.
    """
    if not path.exists() or path.stat().st_size == 0:
        return {}
    whole = _whole(path.read_bytes())
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    if whole == 0:
        return {}
    found = {}
    for record in read_frames(path):
        key = record.info.get("frame_key")
        if key is None:
            raise UserError(
                f"{record.where} has no `frame_key`: the file was not made by labelling. Give another name."
            )
        found[str(key)] = record
    return found


def _whole(content: bytes) -> int:
    """Bytes of an extended XYZ file that are whole frames."""
    start = 0
    while start < len(content):
        stop = content.find(b"\n", start)
        if stop < 0 or not content[start:stop].strip().isdigit():
            return start
        for _ in range(int(content[start:stop]) + 1):
            stop = content.find(b"\n", stop + 1)
            if stop < 0:
                return start
        start = stop + 1
    return start
