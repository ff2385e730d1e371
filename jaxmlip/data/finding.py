"""What a check of a data set found."""

from __future__ import annotations

import dataclasses

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found: `check` names it, `level` is error, warning or note, `frames` are where."""

    check: str
    level: str
    text: str
    frames: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = "; ".join(self.frames[:5]) + (f"; and {len(self.frames) - 5} more" if len(self.frames) > 5 else "")
        return f"{self.level}: {self.check}: {self.text}" + (f" [{shown}]" if shown else "")
