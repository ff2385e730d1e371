"""What a training shows while it runs: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Live progress of `total` steps: a bar on a terminal, else a line every `every` seconds; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False, every: float = 30.0):
        self.quiet = quiet
        self.every = every
        self._bar = None
        self._last = time.monotonic()
        self._begin: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            bar = Bar(*columns, console=Console(stderr=True))
            bar.start()
            self._bar = bar, bar.add_task("", total=None)
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, step: int, total: int | None, message: str) -> None:
        """Shows how far it is; cheap enough for every step."""
        now = time.monotonic()
        self._begin = self._begin or (now, step)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=step, total=total, description=message)
        elif not self.quiet and now - self._last >= self.every:
            began, first = self._begin
            left = (now - began) / max(step - first, 1) * (total - step) if total else float("nan")
            self.say(f"step {step}/{total or '?'}  left {_clock(left)}  {message}")
            self._last = now

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar[0].console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


def spell_metrics(line: Mapping[str, Any]) -> str:
    """A line of metrics for people."""
    names = {
        "valid_energy_rmse_meV_per_atom": "E meV/atom",
        "valid_force_rmse_meV_per_A": "F meV/Å",
        "valid_stress_rmse_GPa": "S GPa",
        "valid_charge_rmse_me": "q me",
    }
    errors = "".join(f"  {name} {line[key]:.4g}" for key, name in names.items() if key in line)
    return f"epoch {line['epoch']:.1f}  {line['minutes']:.1f} min  loss {line['train_loss']:.4g}{errors}"


def _clock(seconds: float) -> str:
    if not seconds >= 0:
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
