"""How a run ends early: with the cause, and everything needed to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SimulationError(RuntimeError):
    """A run that had to stop: `cause` in words, the `step` where it happened, the last good `state`, the `record` up to
    it, and the `checkpoint` written (`None` where none was asked for)."""

    def __init__(self, cause: str, *, step: int, state: Any, record: Any = None, checkpoint: Path | None = None):
        self.cause, self.step, self.state, self.record, self.checkpoint = cause, step, state, record, checkpoint
        kept = f" It can be continued from {checkpoint}." if checkpoint is not None else ""
        super().__init__(f"Stopped at step {step}: {cause}.{kept}")


class Interrupted(KeyboardInterrupt):
    """A run stopped by Ctrl-C or SIGTERM after a whole number of steps: `state`, `record` and `checkpoint` as above."""

    def __init__(self, *, state: Any, record: Any, checkpoint: Path | None, signal: int):
        self.state, self.record, self.checkpoint, self.signal = state, record, checkpoint, signal
        kept = f"; it can be continued from {checkpoint}" if checkpoint is not None else ""
        super().__init__(f"Interrupted after step {int(state.step.max())}{kept}.")
