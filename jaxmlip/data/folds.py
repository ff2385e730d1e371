"""Folds for cross-validation: parts of equal make-up, none of which holds a structure of another.

What must not be held out stays in every training set: isolated atoms, and frames without which an element or a kind of
label would be unknown to the fit. What would make a fold empty makes fewer folds. Every such choice is a notice.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxmlip.data.dataset import Dataset
from jaxmlip.data.fingerprint import equal_structures, fingerprint
from jaxmlip.elements import SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.io import Record

LABELS = ("energy", "forces", "stress")


@dataclasses.dataclass(frozen=True)
class Folds:
    """Which frames are held out together: `held_out` of each fold; `always` are the frames of every training set,
    `unused` those without labels. `notices` say what was decided for the user."""

    held_out: tuple[np.ndarray, ...]
    always: np.ndarray
    unused: np.ndarray
    notices: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.held_out)

    def train(self, fold: int) -> np.ndarray:
        """The frames that are trained on while `fold` is held out."""
        others = [part for i, part in enumerate(self.held_out) if i != fold]
        return np.sort(np.concatenate([*others, self.always]))

    @property
    def frames(self) -> np.ndarray:
        """All frames that are used."""
        return np.sort(np.concatenate([*self.held_out, self.always]))


def make_folds(
    dataset: Dataset,
    k: int = 5,
    *,
    group_by: str | Callable[[Record], Hashable] | None = None,
    seed: int = 0,
) -> Folds:
    """Divides the labelled frames into `k` parts, each to be tested on by a fit to the others.

    Each `config_type`, and each combination of labels, is spread over all folds. With `group_by` (`"config_type"`, or a
    function of a record) no group is in two folds: how well is a kind of frame predicted that the fit has never seen?
    Equal structures are always in one fold.

    **Raises:** `UserError` for fewer than two folds, for data without labels, and where there are not two different
    structures to divide.
    """
    if k < 2:
        raise UserError(f"Cross-validation needs at least 2 folds; got {k}.")
    if isinstance(group_by, str) and group_by != "config_type":
        raise UserError(f'`group_by` is "config_type", a function of a record, or None; got {group_by!r}.')
    labelled = np.array([any(r.has(label) for label in LABELS) for r in dataset], bool)
    if not labelled.any():
        raise UserError(f"There is no label to validate with.\n{dataset.census()}")
    notices = []
    if not labelled.all():
        notices.append(f"{np.sum(~labelled)} of {len(dataset)} frames have no label and are left out.")
    isolated = np.array([r.is_isolated_atom for r in dataset], bool)
    usable = [int(i) for i in np.flatnonzero(labelled & ~isolated)]
    groups = _groups(dataset, group_by)
    units = _units(dataset, usable, groups, notices)
    if len(units) < 2 and group_by is not None and usable:
        notices.append("there is one group only, so the folds are of frames, not of groups.")
        units = _units(dataset, usable, None, [])
    units, always = _keep_what_is_alone(dataset, units, notices)
    if len(units) < 2:
        raise UserError(
            f"Cross-validation needs at least two different structures that can be held out; of {len(dataset)} frames "
            f"there are {len(units)}. Give more frames."
        )
    if len(units) < k:
        notices.append(f"there are {len(units)} frames or groups that can be held out, so {len(units)} folds, not {k}.")
    held_out = _deal(dataset, units, min(k, len(units)), np.random.default_rng(seed))
    held_out, more = _mend(dataset, held_out, [*always, *np.flatnonzero(labelled & isolated).tolist()], notices)
    return Folds(
        held_out=tuple(np.array(sorted(part), int) for part in held_out),
        always=np.array(sorted(more), int),
        unused=np.flatnonzero(~labelled),
        notices=tuple(notices),
    )


def _groups(dataset: Dataset, group_by: str | Callable[[Record], Hashable] | None) -> list[Hashable] | None:
    if group_by is None:
        return None
    return [r.config_type if isinstance(group_by, str) else group_by(r) for r in dataset]


def _units(
    dataset: Dataset, usable: Sequence[int], groups: Sequence[Hashable] | None, notices: list[str]
) -> list[list[int]]:
    """Frames that must stay together: equal structures, and those of a group."""
    pairs = list(equal_structures([dataset[i] for i in usable], [fingerprint(dataset[i]) for i in usable]))
    if pairs:
        notices.append(f"{len({b for _, b in pairs})} frames repeat the structure of others and stay in their fold.")
    if groups is not None:
        first: dict[Hashable, int] = {}
        pairs += [(first.setdefault(groups[i], at), at) for at, i in enumerate(usable)]
    if not usable:
        return []
    a, b = np.array(pairs, int).reshape(-1, 2).T
    links = coo_array((np.ones(len(a)), (a, b)), shape=(len(usable), len(usable)))
    count, which = connected_components(links, directed=False)
    return [[usable[int(i)] for i in np.flatnonzero(which == unit)] for unit in range(count)]


def _features(dataset: Dataset, frames: Sequence[int]) -> set[str]:
    """What a fit must have met before it can predict these frames: their elements and kinds of labels."""
    elements = {SYMBOLS[int(n)] for i in frames for n in np.unique(dataset[i].numbers)}
    return elements | {f"{label} labels" for i in frames for label in LABELS if dataset[i].has(label)}


def _keep_what_is_alone(
    dataset: Dataset, units: list[list[int]], notices: list[str]
) -> tuple[list[list[int]], list[int]]:
    """The units that can be held out, and the frames of those that are the only ones with an element or a label."""
    counts = Counter(f for unit in units for f in _features(dataset, unit))
    alone = [sorted(f for f in _features(dataset, unit) if counts[f] == 1) for unit in units]
    if len(units) > 1:
        for unit, what in zip(units, alone, strict=True):
            if what:
                notices.append(f"{_named(dataset, unit)} alone know {', '.join(what)}: they are never held out.")
    kept = [unit for unit, what in zip(units, alone, strict=True) if not what]
    return kept, [i for unit, what in zip(units, alone, strict=True) if what for i in unit]


def _deal(dataset: Dataset, units: list[list[int]], k: int, rng: np.random.Generator) -> list[list[int]]:
    """Units to folds, rare kinds first: to the fold that has fewest of its kind, then fewest frames."""
    features = Counter(f for unit in units for f in _features(dataset, unit))

    def kind(unit: list[int]) -> tuple:
        rarest = min(_features(dataset, unit), key=lambda f: (features[f], f))
        types = sorted({dataset[i].config_type for i in unit})
        return features[rarest], rarest, *types, *sorted(_features(dataset, unit))

    shuffled = [units[int(i)] for i in rng.permutation(len(units))]
    parts: list[list[int]] = [[] for _ in range(k)]
    dealt: list[Counter] = [Counter() for _ in range(k)]
    for unit in sorted(shuffled, key=lambda unit: (kind(unit), -len(unit))):
        here = kind(unit)
        fold = min(range(k), key=lambda f: (dealt[f][here], dealt[f][here[:2]], len(parts[f])))
        parts[fold].extend(unit)
        dealt[fold].update([here, here[:2]])
    return parts


def _mend(
    dataset: Dataset, parts: list[list[int]], always: list[int], notices: list[str]
) -> tuple[list[list[int]], list[int]]:
    """The folds without frames that the rest could not predict; these join every training set."""
    kept = []
    for fold, part in enumerate(parts):
        rest = [i for f, other in enumerate(parts) if f != fold for i in other] + always
        known = _features(dataset, rest)
        strange = [i for i in part if not _features(dataset, [i]) <= known]
        if strange:
            notices.append(f"{_named(dataset, strange)} hold what no other fold has: they are never held out.")
        kept.append([i for i in part if i not in strange])
        always = [*always, *strange]
    if sum(bool(part) for part in kept) < 2:
        raise UserError("Cross-validation needs two folds that know the same elements and labels; give more frames.")
    return [part for part in kept if part], always


def _named(dataset: Dataset, frames: Sequence[int]) -> str:
    names = [dataset[i].where for i in frames]
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def nested_subsets(folds: Folds, fold: int, sizes: Sequence[int], *, seed: int = 0) -> Iterator[np.ndarray]:
    """Random training sets of `sizes` frames for a fold, each holding the smaller ones, and `always` in all of them.

    **Raises:** `UserError` where a size is not from 1 to the number of frames there are.
    """
    pool = np.setdiff1d(folds.train(fold), folds.always)
    order = np.random.default_rng([seed, fold]).permutation(pool)
    for size in sizes:
        if not 1 <= size <= len(pool):
            raise UserError(f"A training set for this fold has 1 to {len(pool)} frames; got {size}.")
        yield np.sort(np.concatenate([order[:size], folds.always]))
