"""Processes that label structures: each has a calculator of its own, and is replaced where it dies or hangs."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from jaxmlip.energy import AbstractEnergy, StillingerWeber, Tersoff
from jaxmlip.errors import UserError
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.io import Record, to_ase

_START_SECONDS = 600.0  # until a calculator must be there


def open_energy(name: str) -> Any:
    """What `name` stands for: `module:function`, called without arguments, gives an energy or an ASE calculator; files
    ending in `.sw` and `.tersoff` are LAMMPS potentials; all else is a model file or a pretrained model.

    **Raises:** `UserError` where there is no such thing, or the function fails.
    """
    if name.endswith((".sw", ".tersoff")):
        return (StillingerWeber if name.endswith(".sw") else Tersoff).from_file(name)
    if ":" not in name:
        from jaxmlip.models.pretrained import load

        try:
            return load(name)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    module, _, function = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise UserError(f"`{name}` cannot be used: {type(error).__name__}: {error}") from error


def as_calculator(labeller: Any) -> Any:
    """An ASE calculator from an energy or a calculator.

    **Raises:** `UserError` for anything else.
    """
    if isinstance(labeller, AbstractEnergy):
        return Calculator(labeller)
    if not hasattr(labeller, "get_potential_energy") and not hasattr(labeller, "calculate"):
        raise UserError(f"A labeller is an energy or an ASE calculator; got {type(labeller).__name__}.")
    return labeller


def compute(calculator: Any, record: Record) -> dict[str, Any]:
    """Energy (the one that the forces belong to), forces without constraints, and stress where there is one."""
    from ase.calculators.calculator import PropertyNotImplementedError

    atoms = to_ase(record.system)
    atoms.positions, atoms.cell = record.positions, record.cell  # in float64 whatever JAX's float type
    atoms.calc = calculator
    try:
        energy = atoms.get_potential_energy(force_consistent=True)
    except (PropertyNotImplementedError, KeyError, TypeError):
        energy = atoms.get_potential_energy()
    found: dict[str, Any] = {"energy": float(energy), "forces": np.array(atoms.get_forces(apply_constraint=False))}
    if all(record.pbc):
        with contextlib.suppress(PropertyNotImplementedError, NotImplementedError):
            found["stress"] = np.array(atoms.get_stress(voigt=False, apply_constraint=False))
    return found


def outcomes(
    labeller: str, records: Sequence[Record], *, workers: int, timeout: float, folder: Path
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Index and labels of every record as they come, or the reason why there are none; `workers` processes, each in a
    folder of its own below `folder`, at most `timeout` seconds for a frame.

    **Raises:** `UserError` where the calculator cannot be made.
    """
    waiting = deque(range(len(records)))
    crew = [_Worker(labeller, folder / f"worker-{k}") for k in range(max(1, min(workers, len(records))))]
    try:
        while waiting or any(w.task is not None for w in crew):
            for worker in crew:
                if worker.ready and worker.task is None and waiting:
                    worker.give(waiting.popleft(), records)
            for worker in _heard(crew, timeout):
                result = worker.result(timeout)
                if result is not None:
                    yield result
    finally:
        for worker in crew:
            worker.stop()
        for place in (*(worker.folder for worker in crew), folder):
            with contextlib.suppress(OSError):  # what a calculator left there stays
                place.rmdir()


class _Worker:
    """One process, started again after it had to be stopped."""

    def __init__(self, labeller: str, folder: Path):
        self.labeller, self.folder = labeller, folder
        self.start()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(self.labeller, str(self.folder.resolve()), os.getcwd(), theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self.task: int | None = None
        self.ready, self.since = False, time.monotonic()

    def give(self, task: int, records: Sequence[Record]) -> None:
        self.task, self.since = task, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has died: `result` will say so
            self.pipe.send(records[task])

    def late(self, timeout: float) -> float:
        """Seconds over the time that it has; negative while there is some left."""
        limit = timeout if self.ready else max(timeout, _START_SECONDS)
        return time.monotonic() - self.since - limit if self.task is not None or not self.ready else -1.0

    def result(self, timeout: float) -> tuple[int, dict[str, Any] | str] | None:
        """The outcome of its task, or `None` where it only said that it is ready."""
        task = self.task
        try:
            if not self.pipe.poll():
                if self.late(timeout) < 0.0:
                    return None
                reason = f"no labels within {timeout:g} s"
            else:
                word, value = self.pipe.recv()
                if word == "refused":
                    raise UserError(value)
                self.task = None
                if word == "ready":
                    self.ready = True
                    return None
                assert task is not None
                return task, value
        except (EOFError, OSError):
            self.process.join(5.0)
            reason = f"the process of the labeller died (exit code {self.process.exitcode})"
        if not self.ready:
            raise UserError(f"The labeller `{self.labeller}` cannot be started: {reason}.")
        self.stop()
        self.start()
        return None if task is None else (task, reason)

    def stop(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5.0)


def _heard(crew: Sequence[_Worker], timeout: float) -> list[_Worker]:
    """Workers that said something, died, or took too long; waits for one."""
    left = min(-w.late(timeout) for w in crew)
    said = wait([w.pipe for w in crew], max(0.01, min(left, 1.0)))
    return [w for w in crew if w.pipe in said or w.late(timeout) >= 0.0]


def _serve(labeller: str, folder: str, home: str, pipe: Connection) -> None:
    """What a process does: make the calculator, then label what comes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.chdir(home)
    try:
        calculator = as_calculator(open_energy(labeller))
    except Exception as error:
        pipe.send(("refused", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"))
        return
    os.chdir(folder)
    pipe.send(("ready", None))
    while True:
        try:
            record = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("labels", compute(calculator, record))
        except Exception as error:
            answer = ("failed", f"{type(error).__name__}: {error}")
        pipe.send(answer)
