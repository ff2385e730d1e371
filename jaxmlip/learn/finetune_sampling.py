"""Frames of one state point for a fit, and whether they are to be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from jaxtyping import PRNGKeyArray

from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.diagnostics import rhats
from jaxmlip.learn.finetune_settings import FinetuneSettings
from jaxmlip.learn.mixture import mix
from jaxmlip.learn.sampler import Samples, StatePoint, sample
from jaxmlip.observables.static import AbstractStatic
from jaxmlip.observables.statistics import pooled_inefficiency


class PredictionFailed(Exception):
    """Parameters that no prediction can be made for."""


def draw(
    energy: AbstractEnergy,
    point: StatePoint,
    observables: Mapping[str, AbstractStatic],
    before: Sequence[Samples],
    settings: FinetuneSettings,
    key: PRNGKeyArray,
) -> Samples:
    """Frames that go on from the last of those `before`, twice as many as long as replicas disagree.

    **Raises:** `PredictionFailed` where the dynamics go wrong, the phase changes, or replicas disagree to the end.
    """
    states, longer = (before[-1].states if before else None), point
    for attempt in range(settings.doublings + 1):
        key, here = jax.random.split(key)
        made = sample(energy, longer, key=here, states=states)
        check_health(point, made, settings)
        check_phase(point, made, before)
        trouble = _disagreement(energy, longer, observables, made, settings)
        if not trouble:
            return made
        if attempt == settings.doublings:
            raise PredictionFailed(trouble)
        states, longer = made.states, dataclasses.replace(longer, frames=2 * longer.frames)
    raise AssertionError


def _disagreement(
    energy: AbstractEnergy,
    point: StatePoint,
    observables: Mapping[str, AbstractStatic],
    made: Samples,
    settings: FinetuneSettings,
) -> str:
    """What is wrong with frames as a sample, or nothing."""
    slow = float(pooled_inefficiency(made.energies()))
    if slow > 0.5 * point.frames:
        return (
            f"runs of {point.frames} frames at {named(point)} are as short as their correlation time of {slow:.0f} "
            "frames: give more `frames`, or a longer `stride`."
        )
    worst = rhats(observables, energy, mix((made,), reach=reach(observables)))
    name = max(worst, key=lambda n: worst[n])
    if worst[name] <= settings.rhat:
        return ""
    return (
        f"replicas at {named(point)} differ (split R-hat {worst[name]:.2f} of {name}): they are in different phases, "
        "or the runs are too short. Melt them, or give more `burn_in` and `frames`."
    )


def check_health(point: StatePoint, made: Samples, limits: FinetuneSettings) -> None:
    """**Raises:** `PredictionFailed` for forces, distances or temperatures beyond the limits."""
    health = made.health
    assert health is not None
    if health.largest_force > limits.max_force or health.closest_pair < limits.closest_pair:
        raise PredictionFailed(
            f"dynamics at {named(point)} met forces of {health.largest_force:.1f} eV/Å and atoms "
            f"{health.closest_pair:.2f} Å apart (limits {limits.max_force} and {limits.closest_pair})"
        )
    if float(health.temperature.max()) > limits.max_heat * point.temperature:
        raise PredictionFailed(f"dynamics at {named(point)} heat up to {health.temperature.max():.0f} K")


def check_phase(point: StatePoint, made: Samples, before: Sequence[Samples]) -> None:
    """**Raises:** `PredictionFailed` for what did not melt, and where the phase is not that of the frames before."""
    phase = made.health.phase if made.health else ""
    if phase == "solid" and point.melt is not None:
        raise PredictionFailed(f"atoms at {named(point)} stay at their sites: `melt` them hotter, or run longer")
    known = [s.health.phase for s in before if s.health and s.health.phase]
    if phase and known and phase != known[-1]:
        raise PredictionFailed(f"the {known[-1]} at {named(point)} has become {phase}")


def reach(observables: Mapping[str, AbstractStatic]) -> float | None:
    """How far observables look, if any says so [Å]."""
    return max((o.cutoff for o in observables.values() if o.cutoff is not None), default=None)


def named(point: StatePoint) -> str:
    """Its name, or its temperature."""
    return point.name or f"{point.temperature:g} K"
