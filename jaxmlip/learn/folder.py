"""The folder of a run: locked while it runs, its metrics one JSON line at a time; and how a run is interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxmlip.errors import UserError
from jaxmlip.files import write_atomically

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Makes a folder and keeps others out until the block ends or the process dies.

    **Raises:** `UserError` where it cannot be written to, or another run has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / ".training", "w")
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error}.") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"Another run is writing to {folder}; wait for it, or give another folder.") from error
        yield folder


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds a line.

    **Raises:** `UserError` where the disk does not take it.
    """
    try:
        with open(folder / METRICS, "a") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"Cannot write {folder / METRICS}: {error}. Checkpoints are intact.") from error


def rewrite_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Puts the metrics back to what they were at a checkpoint: what came later will come again."""
    try:
        write_atomically(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    except OSError as error:
        raise UserError(f"Cannot write {folder / METRICS}: {error}.") from error


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a flag; a second one interrupts at once.

    Only the main thread may catch signals; elsewhere the flag stays down.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def catch(number, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
