"""Frames, as they leave the device, and what a trajectory writer must offer (writers are passed in)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxmlip.simulate.state import State
from jaxmlip.system import System


class Frame(NamedTuple):
    """One instant of a run. As a pytree, its leaves may carry a leading `steps` axis."""

    step: Any
    positions: Any
    momenta: Any
    cell: Any
    energy: Any
    forces: Any


@runtime_checkable
class Writer(Protocol):
    """A trajectory file: frames are appended; what a checkpoint knows of is never lost, what it does not is cut off."""

    def write(self, system: System, frames: Sequence[Frame]) -> None:
        """Append frames and hand them to the disk. On failure (full disk) the file ends with its last whole frame."""

    def position(self) -> int:
        """How much of the file is complete; kept in checkpoints."""
        ...

    def rewind(self, position: int) -> None:
        """Cut the file back to a position from a checkpoint."""


def frame(state: State) -> Frame:
    """The frame of a state."""
    system = state.system
    return Frame(state.step, system.positions, state.momenta, system.cell, state.energy, state.forces)


def split(frames: Frame) -> list[Frame]:
    """Frames with a leading `steps` axis, one by one."""
    return [Frame(*(np.asarray(leaf)[i] for leaf in frames)) for i in range(len(np.asarray(frames.step)))]
