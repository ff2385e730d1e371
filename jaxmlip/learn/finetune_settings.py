"""How far and how carefully a fine-tuning goes."""

from __future__ import annotations

import dataclasses

from jaxmlip.errors import UserError


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How far and how carefully.

    - `updates`: at most so many; fewer where a step would raise the likelihood by less than `enough` (of a chi-square).
    - `freedom`: the width of the prior, in root mean squares of each array of parameters.
    - `ess`: the least effective number of frames, as a part of those of one set; `keep` sets are mixed. A step goes as
      far as that, times `leap`: beyond 1 derivatives are trusted farther than weights, and each step is judged by new
      frames. Far from the targets that saves many updates.
    - `rhat`: the largest split R-hat of any replica; frames are doubled up to `doublings` times, then the run stops.
    - `signal`: the least ratio of a gradient to its noise; where targets are still off and it is lower, more frames are
      made before a step. 0 does not look.
    - `label_rise`: how much the root mean square deviation of the labels may rise.
    - `iterations` of conjugate gradients for a step, to the relative `tolerance`.
    - `max_force` [eV/Å], `closest_pair` [Å] and `max_heat` (times the temperature): limits for frames of dynamics.
    """

    updates: int = 20
    enough: float = 0.02
    freedom: float = 1.0
    ess: float = 0.5
    leap: float = 1.0
    keep: int = 3
    rhat: float = 1.1
    doublings: int = 2
    signal: float = 1.0
    label_rise: float = 0.1
    iterations: int = 100
    tolerance: float = 1e-3
    max_force: float = 50.0
    closest_pair: float = 0.5
    max_heat: float = 1.3
    seed: int = 0

    def __post_init__(self):
        positive = ("freedom", "label_rise", "tolerance", "max_force", "closest_pair", "enough")
        for name in positive:
            if not getattr(self, name) > 0.0:
                raise UserError(f"`{name}` must be positive; got {getattr(self, name)}.")
        for name in ("updates", "keep", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not 0.0 < self.ess < 1.0:
            raise UserError(f"`ess` must lie between 0 and 1; got {self.ess}.")
        if not self.signal >= 0.0:
            raise UserError(f"`signal` must not be negative; got {self.signal}.")
        if not self.leap >= 1.0:
            raise UserError(f"`leap` must be at least 1; got {self.leap}.")
        if not self.rhat > 1.0 or not self.max_heat > 1.0:
            raise UserError(f"`rhat` and `max_heat` must be above 1; got {self.rhat} and {self.max_heat}.")
