"""Models and structures that commands read, with errors that say which file is to blame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxmlip.data import read_dataset
from jaxmlip.energy import AbstractEnergy, check_elements, check_system, replan, system_checks
from jaxmlip.errors import UserError
from jaxmlip.system import System, make_system


@contextlib.contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn a `ValueError` of the library into the user's error about `what`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{what}: {error}") from error


def read_model(name: str) -> AbstractEnergy:
    """The energy in a model file, or a pretrained one by name.

    **Raises:** `UserError` where there is none, or the file is damaged.
    """
    from jaxmlip.models.pretrained import load

    with blame(f"model {name}"):
        return load(name)


def read_system(
    path: Path,
    energy: AbstractEnergy,
    *,
    frame: int = -1,
    repeat: tuple[int, int, int] = (1, 1, 1),
    dtype: str = "float64",
) -> System:
    """One frame of a file, repeated along its lattice vectors, that the energy knows the elements of.

    **Raises:** `UserError` naming file and frame.
    """
    frames = read_dataset(path)
    if not -len(frames) <= frame < len(frames):
        raise UserError(f"{path} has {len(frames)} frames; there is no frame {frame}.")
    record = frames.records[frame]
    with blame(record.where):
        check_elements(energy, record.numbers)
        return repeated(record.system, repeat, dtype=dtype)


def planned(energy: AbstractEnergy, system: Callable[[], System], what: str) -> AbstractEnergy:
    """The energy, its long-range sums (where it has any) planned for a system that may be larger than those it learned
    from.

    **Raises:** `UserError` about `what` for a system that no sum serves.
    """
    if not system_checks(energy):
        return energy
    with blame(what):
        energy = replan(energy, system())
        check_system(energy, system())
        return energy


def repeated(system: System, repeat: tuple[int, int, int], *, dtype: str = "float64") -> System:
    """The supercell of a system.

    **Raises:** `ValueError` where a repetition is below 1, or above 1 along a direction that is not periodic.
    """
    for axis, count in enumerate(repeat):
        if count < 1 or (count > 1 and not system.pbc[axis]):
            raise ValueError(f"`repeat` must be at least 1, and 1 where the cell is not periodic; got {repeat}.")
    cell = np.asarray(system.cell, np.float64)
    shifts = np.array([(a, b, c) for a in range(repeat[0]) for b in range(repeat[1]) for c in range(repeat[2])])
    positions = (np.asarray(system.positions, np.float64)[None] + (shifts @ cell)[:, None]).reshape(-1, 3)
    return make_system(
        positions,
        np.tile(np.asarray(system.numbers), len(shifts)),
        cell=cell * np.asarray(repeat)[:, None],
        pbc=system.pbc,
        masses=np.tile(np.asarray(system.masses), len(shifts)),
        charge=float(system.charge) * len(shifts),
        dtype=jnp.dtype(dtype),
    )
