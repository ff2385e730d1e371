"""Plans of training sets: how many structures of each kind, with which settings, and why."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxmlip.errors import UserError
from jaxmlip.learn.kinds import (
    AbstractKind,
    Antisite,
    Compressed,
    Crystal,
    Dimer,
    Dynamics,
    Interstitial,
    Isolated,
    Random,
    Rattle,
    Sources,
    Strain,
    Surface,
    Vacancy,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many frames of each kind, and how the frames to label are chosen among candidates."""

    atoms: int = 64
    """Most atoms of a supercell."""
    candidates: float = 3.0
    """Candidates that are made for each frame that is chosen."""
    selection: Literal["d-optimal", "farthest", "random"] = "d-optimal"
    largest_force: float = 30.0
    """Candidates with larger forces [eV/Å] by the sampler are dropped; dimers and compressed cells with ten times."""
    debye_temperature_K: float = 300.0
    """Sets displacements where there is no sampler."""
    crystal: Crystal = Crystal()
    isolated: Isolated = Isolated()
    strain: Strain = Strain()
    rattle: Rattle = Rattle()
    vacancy: Vacancy = Vacancy()
    interstitial: Interstitial = Interstitial()
    antisite: Antisite = Antisite()
    surface: Surface = Surface()
    random: Random = Random()
    dynamics: Dynamics = Dynamics()
    dimer: Dimer = Dimer()
    compressed: Compressed = Compressed()

    def kinds(self) -> dict[str, AbstractKind]:
        """The kinds by name, in order."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in fields if isinstance(value, AbstractKind)}

    def check(self) -> None:
        """**Raises:** `UserError` naming the first value that makes no sense."""
        for name, rule in (("atoms", 1), ("candidates", 1.0), ("largest_force", 1e-3)):
            if not rule <= getattr(self, name) < 1e6:
                raise UserError(f"`plan.{name}` must be at least {rule}; got {getattr(self, name)}.")
        for name, volume in (("random", self.random.volume), ("compressed", self.compressed.volume)):
            if len(volume) != 2 or not 0.0 < volume[0] <= volume[1] < 1e3:
                raise UserError(f"`plan.{name}.volume` must be two numbers above 0 that rise; got {volume}.")
        for name, kind in self.kinds().items():
            if not 0.0 <= kind.share <= 1.0 or (kind.count is not None and kind.count < 0):
                raise UserError(f"`plan.{name}`: share lies between 0 and 1, count at 0 or above; got {kind}.")
            for field in dataclasses.fields(kind):
                value = getattr(kind, field.name)
                values = np.atleast_1d(np.asarray(value, float)) if value is not None else np.zeros(1)
                if not len(values) or not np.all(np.isfinite(values)):
                    raise UserError(f"`plan.{name}.{field.name}` must be finite numbers, at least one; got {value}.")

    def counts(self, budget: int, sources: Sources) -> tuple[dict[str, int], dict[str, str]]:
        """How many frames of each kind make up `budget`, and why kinds that are asked for are left out.

        **Raises:** `UserError` where fixed counts exceed the budget, or nothing is left to make.
        """
        self.check()
        if budget < 1:
            raise UserError(f"A budget is at least one label; got {budget}.")
        kinds = self.kinds()
        left_out = {n: m for n, k in kinds.items() if (k.share or k.count) and (m := k.missing(sources))}
        fixed = {"crystal": len(sources.seeds), "isolated": len(sources.elements)}
        counts = {n: k.count if k.count is not None else fixed.get(n, 0) for n, k in kinds.items() if n not in left_out}
        shares = {n: kinds[n].share for n in counts if kinds[n].count is None and n not in fixed}
        rest = budget - sum(counts.values())
        if rest < 0 or (rest and not sum(shares.values())):
            asked = ", ".join(f"{c} {n}" for n, c in counts.items() if c)
            raise UserError(f"The counts of the plan ({asked}) do not make up the budget of {budget} labels.")
        ideal = {n: rest * s / max(sum(shares.values()), 1e-300) for n, s in shares.items()}
        whole = {n: int(x + 1e-9) for n, x in ideal.items()}
        for n in sorted(ideal, key=lambda n: whole[n] - ideal[n])[: rest - sum(whole.values())]:
            whole[n] += 1
        return counts | whole, left_out

    def table(self, counts: dict[str, int], left_out: dict[str, str]) -> str:
        """The plan for people: kind, number, settings, reason."""
        lines = [f"{'kind':<13} {'frames':>6}  settings and reason"]
        for name, kind in self.kinds().items():
            settings = {f.name: getattr(kind, f.name) for f in dataclasses.fields(kind)}
            told = ", ".join(f"{k} {_spell(v)}" for k, v in settings.items() if k not in ("share", "count"))
            if counts.get(name):
                lines.append(f"{name:<13} {counts[name]:>6}  {kind.why}" + (f" ({told})" if told else ""))
            elif name in left_out:
                lines.append(f"{name:<13} {'-':>6}  left out: {left_out[name]}")
        lines.append(f"{'in all':<13} {sum(counts.values()):>6}")
        return "\n".join(lines)


def _spell(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{x:g}" for x in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
