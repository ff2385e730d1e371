"""Long-range sums for other systems than those they were planned for: a larger cell, a slab, a longer molecule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx

from jaxmlip.energy.base import AbstractEnergy, Scaled, Sum
from jaxmlip.energy.equilibration import EquilibratedCharges, Equilibration
from jaxmlip.energy.ewald import Ewald, check_planned
from jaxmlip.energy.ewald_plan import ONSET, EwaldPlan, plan_ewald
from jaxmlip.energy.latent import LatentEwald
from jaxmlip.system import System

Part = TypeVar("Part", bound=eqx.Module)


def replan(energy: AbstractEnergy, systems: System | Sequence[System], *, margin: float = 1.1) -> AbstractEnergy:
    """The same energy, its long-range sums planned for these systems where they were not (host).

    Splitting, cutoff and accuracy stay what they were, so that a potential means the same in another cell. `margin` is
    that of `plan_ewald`.

    **Raises:** `ValueError` for systems that no sum serves.
    """
    systems = [systems] if isinstance(systems, System) else list(systems)
    if isinstance(energy, Sum):
        return Sum(tuple(replan(term, systems, margin=margin) for term in energy.terms))
    if isinstance(energy, Scaled):
        return Scaled(replan(energy.energy, systems, margin=margin), energy.factor)
    if isinstance(energy, Ewald | LatentEwald):
        plan = _plan(energy.plan, systems, margin, smeared=isinstance(energy, LatentEwald))
        return _with(energy, plan=plan, charges=_charges(energy.charges, systems, margin))
    if isinstance(energy, Equilibration):
        return _with(energy, charges=_charges(energy.charges, systems, margin))
    return energy


def _charges(charges: Any, systems: list[System], margin: float) -> Any:
    if isinstance(charges, EquilibratedCharges):
        return _with(charges, plan=_plan(charges.plan, systems, margin, smeared=False))
    return charges


def _plan(plan: EwaldPlan, systems: list[System], margin: float, *, smeared: bool) -> EwaldPlan:
    """`plan` where it serves the systems, else one for them with the same splitting and accuracy."""
    if _serves(plan, systems):
        return plan
    kept = 1.0 / (math.sqrt(2.0) * plan.alpha) if smeared or plan.periodic else None
    accuracy = 2.0 * math.exp(-((plan.k_cutoff * ONSET / (2.0 * plan.alpha)) ** 2)) if plan.periodic else 1e-4
    return plan_ewald(systems, cutoff=plan.cutoff, accuracy=accuracy, margin=margin, smearing=kept)


def _serves(plan: EwaldPlan, systems: list[System]) -> bool:
    slots = max(system.numbers.shape[-1] for system in systems) if len(systems) > 1 else 0
    if plan.slots is not None and slots > plan.slots:
        return False
    try:
        for system in systems:
            check_planned(plan, system)
    except ValueError:
        return False
    return True


def _with(part: Part, **changes: Any) -> Part:
    """A module with other values in some fields, static ones too."""
    new = object.__new__(type(part))
    for field in dataclasses.fields(part):
        object.__setattr__(new, field.name, changes.get(field.name, getattr(part, field.name)))
    return new
