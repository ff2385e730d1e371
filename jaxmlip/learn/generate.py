"""Training sets by design: candidates of every kind of a plan, checked, without twins, the most telling ones chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxmlip.data import Dataset
from jaxmlip.data.generate import CLOSEST, closeness
from jaxmlip.data.selection import DOptimal, distinct, farthest_points, spread
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.descriptors import descriptor_model, environments, frame_means
from jaxmlip.learn.kinds import Sources
from jaxmlip.learn.plan import Plan

_FIXED = ("crystal", "isolated")  # always taken, and first


@dataclasses.dataclass(frozen=True)
class Design:
    """A designed set: the `dataset` without labels, the `plan`, how many frames of each kind were `asked`, `made` and
    `chosen`, and `notices` of what a user should know."""

    dataset: Dataset
    plan: Plan
    asked: dict[str, int]
    made: dict[str, int]
    chosen: dict[str, int]
    notices: tuple[str, ...]

    def table(self) -> str:
        """Numbers of each kind, as text."""
        lines = [f"{'kind':<13} {'asked':>6} {'made':>6} {'chosen':>6}"]
        lines += [
            f"{name:<13} {self.asked[name]:>6} {self.made.get(name, 0):>6} {self.chosen.get(name, 0):>6}"
            for name in self.asked
            if self.asked[name] or self.chosen.get(name, 0)
        ]
        return "\n".join([*lines, *(f"note: {notice}" for notice in self.notices)])


def generate(
    seeds: Dataset,
    plan: Plan = Plan(),  # noqa: B008
    *,
    budget: int,
    energy: AbstractEnergy | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Design:
    """Structures to label: `budget` of them, by a plan, from a few `seeds`.

    Each kind makes a few times more candidates than it may keep. Candidates in which atoms overlap, or on which
    `energy` (the sampler) puts forces beyond reason, are dropped, and so are twins. From the rest those are chosen that
    say most (`plan.selection`), kind by kind, knowing what was chosen before. Where a kind makes too few, the others
    fill up. Every frame says how it was made. Same seed, same set.

    **Raises:** `UserError` for no seeds, counts that do not make up the budget, an energy that does not know an
    element, and where there are fewer distinct candidates than the budget.
    """
    if not len(seeds):
        raise UserError("Give at least one structure to start from; got none.")
    notices: list[str] = []
    records = _distinct_seeds(seeds, notices)
    sources = Sources(
        records,
        energy,
        atoms=plan.atoms,
        debye_temperature=plan.debye_temperature_K,
        seed=seed,
        say=notices.append,
    )
    asked, left_out = plan.counts(budget, sources)
    notices += [f"no {name}: {reason}" for name, reason in left_out.items()]
    pools, made = _candidates(plan, asked, sources, notices, progress)
    chosen = _chosen(pools, asked, budget, plan.selection, sources, notices, progress)
    kinds = {name: sum(kind == name for kind, _ in chosen) for name in asked}
    final = [
        dataclasses.replace(r, index=i, info={**r.info, "kind": kind, "generate_seed": seed})
        for i, (kind, r) in enumerate(chosen)
    ]
    return Design(Dataset(final), plan, asked, made, kinds, tuple(notices))


def _distinct_seeds(seeds: Dataset, notices: list[str]) -> list[Record]:
    kept, twins = distinct(seeds.records)
    if twins:
        notices.append(f"{len(twins)} seeds equal others and were left out.")
    return [seeds.records[i] for i in kept]


def _candidates(
    plan: Plan,
    asked: dict[str, int],
    sources: Sources,
    notices: list[str],
    progress: Callable[[int, int, str], None] | None,
) -> tuple[dict[str, list[Record]], dict[str, int]]:
    """Sound candidates of each kind, none of which equals another, and how many each kind made."""
    pools: dict[str, list[Record]] = {}
    made: dict[str, int] = {}
    for index, (name, kind) in enumerate(plan.kinds().items()):
        if not asked.get(name):
            continue
        if progress is not None:
            progress(index, len(plan.kinds()), f"making {name}")
        wanted = asked[name] if name in _FIXED else int(np.ceil(plan.candidates * asked[name]))
        frames = kind.frames(sources.for_kind(index), wanted)
        made[name] = len(frames)
        force = plan.largest_force * (10.0 if kind.wall else 1.0)
        pools[name] = _sound(frames, name, sources, force, 0.3 if kind.wall else 0.9 * CLOSEST, notices)
    flat = [(name, r) for name, pool in pools.items() for r in pool]
    kept, twins = distinct([r for _, r in flat])
    if twins:
        notices.append(f"{len(twins)} candidates equal others and were left out.")
    pools = {name: [flat[i][1] for i in kept if flat[i][0] == name] for name in pools}
    return pools, made


def _sound(
    frames: Sequence[Record], name: str, sources: Sources, largest: float, closest: float, notices: list[str]
) -> list[Record]:
    """Frames in which no atoms overlap and no force of the sampler is beyond reason; its energy goes to `info`."""
    kept, overlapping, forced = [], 0, 0
    for record in frames:
        if closeness(record) < closest:
            overlapping += 1
        elif sources.sampler is None:
            kept.append(record)
        else:
            energy, forces, _ = sources.sampler(record)
            most = float(np.linalg.norm(forces, axis=1).max())
            if not np.isfinite(energy) or not most <= largest:
                forced += 1
                continue
            told = {"sampler_energy": energy, "sampler_largest_force": most}
            kept.append(dataclasses.replace(record, info={**record.info, **told}))
    if overlapping:
        notices.append(f"{overlapping} of {len(frames)} {name} candidates had overlapping atoms.")
    if forced:
        notices.append(
            f"{forced} of {len(frames)} {name} candidates had forces beyond {largest:g} eV/Å, or not finite."
        )
    return kept


def _chosen(
    pools: dict[str, list[Record]],
    asked: dict[str, int],
    budget: int,
    selection: str,
    sources: Sources,
    notices: list[str],
    progress: Callable[[int, int, str], None] | None,
) -> list[tuple[str, Record]]:
    """The frames to label, kind by kind, then whatever says most where kinds were short."""
    flat = [(name, r) for name, pool in pools.items() for r in pool]
    if len(flat) < budget:
        raise UserError(
            f"There are {len(flat)} distinct sound candidates for a budget of {budget} labels: raise "
            "`plan.candidates`, or allow more kinds.\n" + "\n".join(notices)
        )
    rows = []
    if selection != "random":
        rows = environments(
            [r for _, r in flat],
            descriptor_model(sources.elements),
            progress=None if progress is None else lambda done, total: progress(done, total, "descriptors"),
        )
    choose = _chooser(selection, rows, sources.rng)
    taken: list[int] = []
    for name in asked:
        mine = [i for i, (kind, _) in enumerate(flat) if kind == name]
        for part, count in _stratified([flat[i][1].config_type for i in mine], min(asked[name], len(mine))):
            taken += choose([mine[i] for i in part], count)
        if len(mine) < asked[name]:
            notices.append(f"{len(mine)} of {asked[name]} {name} frames could be made; others take their place.")
    rest = sorted(set(range(len(flat))) - set(taken))
    taken += choose(rest, budget - len(taken))
    return [flat[i] for i in taken]


def _stratified(types: list[str], count: int) -> list[tuple[list[int], int]]:
    """Indices of each `config_type` of a kind with its part of `count`: temperatures and strains are all kept."""
    names = list(dict.fromkeys(types))
    parts = [[i for i, t in enumerate(types) if t == name] for name in names]
    ideal = np.array([len(p) * count / max(len(types), 1) for p in parts])
    whole = np.floor(ideal + 1e-9).astype(int)
    whole[np.argsort(whole - ideal, kind="stable")[: count - whole.sum()]] += 1
    return list(zip(parts, whole.tolist(), strict=True))


def _chooser(selection: str, rows: list[np.ndarray], rng: np.random.Generator) -> Callable[[list[int], int], list[int]]:
    """A function that takes `count` of the given frames and remembers them."""
    if selection == "random":
        return lambda mine, count: [mine[i] for i in rng.permutation(len(mine))[:count]]
    if selection == "farthest":
        means = frame_means(rows)
        unit = np.median(np.abs(means), axis=0)
        points = means / np.where(unit > 1e-12, unit, np.inf)
        seen: list[int] = []

        def farthest(mine: list[int], count: int) -> list[int]:
            found = [mine[i] for i in farthest_points(points[mine], count, chosen=points[seen])] if count else []
            seen.extend(found)
            return found

        return farthest
    design = DOptimal(np.median([spread([x]) for x in rows], axis=0))

    def optimal(mine: list[int], count: int) -> list[int]:
        return [mine[i] for i in design.choose([rows[i] for i in mine], count)]

    return optimal
