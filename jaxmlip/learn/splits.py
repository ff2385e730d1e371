"""Training sets and what they are tested on, sizes of models, and the errors of one fit: what studies are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmlip.data import Dataset
from jaxmlip.data.folds import Folds, nested_subsets


@dataclasses.dataclass(frozen=True)
class Split:
    """One training set and what it is tested on: `train` says how often each frame of a data set counts, `test` where
    errors are taken. `name` and `seed` tell it from others."""

    name: str
    train: np.ndarray
    test: np.ndarray
    seed: int = 0

    @property
    def frames(self) -> int:
        """Different frames that are trained on."""
        return int(np.sum(self.train > 0))


@dataclasses.dataclass(frozen=True)
class Capacity:
    """A size of a model: of a linear one `columns` (True where a weight is used, constants left out), of a network
    nothing but its `changes` to the preset. `weights` are counted without constants."""

    name: str
    weights: int
    columns: np.ndarray | None = None
    changes: Mapping[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """The errors of one fit: root mean squares over the labels of the training set and of the test frames, energies
    [eV/atom], forces [eV/Å], virials [eV/atom]; `None` where there is no label to compare or to learn from.

    `effective` is how many parameters the labels determine; `regularisation` multiplies the prior of the evidence, or
    is the weight decay of a network.
    """

    capacity: str
    weights: int
    regularisation: float
    split: str
    seed: int
    frames: int
    train: Mapping[str, float | None]
    test: Mapping[str, float | None]
    effective: float | None = None

    @property
    def key(self) -> tuple[str, float, str, int]:
        """What tells it from other points of a study."""
        return self.capacity, self.regularisation, self.split, self.seed


def fold_splits(folds: Folds, frames: int, seed: int = 0) -> list[Split]:
    """The splits of a cross-validation of a data set of so many `frames`."""
    return [
        Split(f"fold {fold}", _counts(folds.train(fold), frames), _counts(held, frames) > 0, seed)
        for fold, held in enumerate(folds.held_out)
    ]


def subset_splits(folds: Folds, frames: int, sizes: Sequence[int], seeds: Sequence[int] = (0,)) -> list[Split]:
    """Nested random training sets of each fold, tested on its held-out frames: a learning curve for each fold and seed.

    The `seed` of a split is that of its curve: `seed * folds + fold`."""
    return [
        Split(f"{size} frames", _counts(subset, frames), _counts(held, frames) > 0, seed * len(folds) + fold)
        for seed in seeds
        for fold, held in enumerate(folds.held_out)
        for size, subset in zip(sizes, nested_subsets(folds, fold, sizes, seed=seed), strict=True)
    ]


def _counts(indices: np.ndarray, frames: int) -> np.ndarray:
    return np.bincount(indices, minlength=frames).astype(float)


def known_elements(dataset: Dataset, trained: np.ndarray) -> np.ndarray:
    """The frames all of whose elements occur in the frames that are `trained` on."""
    known = {int(n) for i in np.flatnonzero(trained) for n in np.unique(dataset[i].numbers)}
    return np.array([set(np.unique(r.numbers).tolist()) <= known for r in dataset], bool)
