r"""Errors of fits to many training sets, capacities and regularisations, of a linear model for the price of one pass.

Nothing but the solution depends on the training set: the rows of a frame are computed once, and once only, for all
folds, subsets, seeds, capacities and ridges. A smaller model is a choice of columns of a larger one, and a training set
is the sum of the matrices $X^T X$ of its frames, so that each fit is algebra on `Sums`; no program is compiled for it.
For networks the compiled step is shared: see `jaxmlip.learn.network_validation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from jaxmlip.data import Dataset, find_references
from jaxmlip.errors import UserError
from jaxmlip.learn.evaluate import check_dataset
from jaxmlip.learn.evidence import KINDS, Sums
from jaxmlip.learn.linear import Block, Posterior, RowCache, design, groups_of, solve_sums
from jaxmlip.learn.splits import Capacity, Point, Split, known_elements
from jaxmlip.models.linear import GROUPS, LinearACE, LinearACEConfig

MOST_WEIGHTS = 6000  # three matrices of their square are kept for each training set
_MOST_BYTES = 1e9  # of matrices at a time


def ladder(config: LinearACEConfig, *, seed: int = 0) -> list[Capacity]:
    """Smaller and smaller parts of a linear model, smallest first: 2-body functions, 3-body ones up to l = 1, all of
    them, then roots and 4- and 5-body functions of 4, 8, 16, ... random channels. The channels are taken in an order
    that `seed` draws, each rung with those of the rung below."""
    degrees, channels = config.degree + 1, config.channels
    order = np.random.default_rng(seed).permutation(channels)

    def columns(bodies: int, degree: int, chosen: np.ndarray, roots: bool) -> np.ndarray:
        pairs = np.repeat(np.arange(degrees) <= degree, config.width * (config.width + 1) // 2)
        of_channels = np.tile(np.isin(np.arange(channels), chosen), 2 * degrees)
        one = (np.ones(config.width, bool), pairs & (bodies > 2), of_channels, np.full(config.roots, roots))
        return np.tile(np.concatenate(one), len(config.elements))

    none = order[:0]
    rungs = [("2-body", columns(2, 0, none, False))]
    if config.degree > 1:
        rungs.append(("3-body, l <= 1", columns(3, 1, none, False)))
    rungs.append(("3-body", columns(3, config.degree, none, False)))
    sizes = sorted({2**i for i in range(2, channels.bit_length()) if 2**i < channels} | {channels})
    rungs += [(f"{n} channel{'s' * (n > 1)}", columns(3, config.degree, order[:n], True)) for n in sizes]
    return [Capacity(name, int(c.sum()), columns=c) for name, c in rungs]


class LinearTable:
    """The rows of a linear model for every frame of a data set, made once and kept in memory up to `limit` bytes;
    beyond, they are computed anew in each pass. `passes` counts how often frames went through the model.

    **Raises:** `UserError` for elements that the model does not know, and for more than 6000 weights.
    """

    def __init__(
        self,
        model: LinearACE,
        dataset: Dataset,
        *,
        references: str | Mapping[int, float] | Mapping[str, float] = "auto",
        dtype: Any = None,
        limit: float = 4e9,
        cache: RowCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        check_dataset(model, dataset)
        if model.weights.size > MOST_WEIGHTS:
            raise UserError(
                f"The largest model has {model.weights.size} weights; a study takes at most {MOST_WEIGHTS}. Give fewer "
                "`channels`, `radial` functions or a smaller `degree`."
            )
        if isinstance(references, str) and references != "none" and not any(r.has("energy") for r in dataset):
            references = "none"
        self.model, self.dataset = model, dataset
        self.references = find_references(dataset, references)[0]
        self.dtype = np.dtype(jnp.asarray(0.0).dtype if dtype is None else dtype)
        self.passes = 0
        self._cache = cache
        kept: list[Block] | None = []
        size = 0
        for done, block in enumerate(self._computed(), start=1):
            if kept is not None:
                kept.append(dataclasses.replace(block, rows=block.rows.astype(self.dtype)))
                size += kept[-1].rows.nbytes
                kept = kept if size <= limit else None
            if progress is not None:
                progress(done, len(dataset))
        self._kept = kept

    def _computed(self) -> Iterator[Block]:
        self.passes += 1
        yield from design(self.model, self.dataset, self.references, dtype=self.dtype, cache=self._cache)

    def blocks(self) -> Iterator[Block]:
        """The block of every frame, in order of size."""
        for block in self._computed() if self._kept is None else self._kept:
            yield dataclasses.replace(block, rows=block.rows.astype(np.float64))

    @property
    def width(self) -> int:
        """Columns: weights, then constants of the elements."""
        return self.model.weights.size + len(self.model.config.elements)

    def sums(self, splits: Sequence[Split]) -> list[Sums]:
        """What each training set tells of the weights. Frames that count the same in all of them are added up first."""
        patterns: dict[bytes, int] = {}
        counts = np.stack([split.train for split in splits])
        which = [patterns.setdefault(column.tobytes(), len(patterns)) for column in np.ascontiguousarray(counts.T)]
        partial: dict[int, Sums] = {}
        for block in self.blocks():
            if counts[:, block.frame].any():
                pattern = which[block.frame]
                partial[pattern] = _added(partial.get(pattern), block, self.width)
        first = {pattern: which.index(pattern) for pattern in partial}
        return [
            _combined(partial, {p: float(split.train[i]) for p, i in first.items()}, self.width) for split in splits
        ]

    def squares(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squared errors [frames, kinds, fits] and numbers of labels [frames, kinds] of `weights`
        [columns, fits]."""
        squares = np.zeros((len(self.dataset), len(KINDS), weights.shape[1]))
        labels = np.zeros((len(self.dataset), len(KINDS)))
        for block in self.blocks():
            error = (block.targets - block.predicted)[:, None] - block.rows @ weights
            for kind in range(len(KINDS)):
                here = block.kind == kind
                squares[block.frame, kind] = np.sum(error[here] ** 2, axis=0)
                labels[block.frame, kind] = here.sum()
        return squares, labels

    def predictions(self, weights: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions [fits, labels] for some frames (True in `frames`), their labels, and the kind of each."""
        found, targets, kinds = [], [], []
        for block in self.blocks():
            if frames[block.frame]:
                found.append((block.rows @ weights).T)
                targets.append(block.targets - block.predicted)
                kinds.append(block.kind)
        return np.concatenate(found, axis=1), np.concatenate(targets), np.concatenate(kinds)


def _added(sums: Sums | None, block: Block, width: int) -> Sums:
    """Sums with one more frame."""
    if sums is None:
        k = len(KINDS)
        sums = Sums(np.zeros((k, width, width)), np.zeros((k, width)), np.zeros(k), np.zeros(k))
    for kind in range(len(KINDS)):
        here = block.kind == kind
        if here.any():
            root = np.sqrt(block.weight[here])
            x, y = block.rows[here] * root[:, None], (block.targets - block.predicted)[here] * root
            sums.gram[kind] += x.T @ x
            sums.cross[kind] += x.T @ y
            sums.square[kind] += y @ y
            sums.count[kind] += block.weight[here].sum()
    return sums


def _combined(partial: Mapping[int, Sums], times: Mapping[int, float], width: int) -> Sums:
    """A sum of sums, each so many times."""
    k = len(KINDS)
    total = Sums(np.zeros((k, width, width)), np.zeros((k, width)), np.zeros(k), np.zeros(k))
    for pattern, sums in partial.items():
        for name in ("gram", "cross", "square", "count"):
            if times[pattern]:
                getattr(total, name)[...] += times[pattern] * getattr(sums, name)
    return total


def fit_columns(
    table: LinearTable, sums: Sums, capacity: Capacity, *, balance: float = 0.5, ridges: Sequence[float] = (1.0,)
) -> tuple[np.ndarray, list[float]]:
    """The weights of all columns, zero where `capacity` has none [columns, ridges], and how many parameters the labels
    determine in each.

    **Raises:** `UserError` where the training set has no label.
    """
    elements = len(table.model.config.elements)
    chosen = np.ones(table.width - elements, bool) if capacity.columns is None else capacity.columns
    columns = np.concatenate([chosen, np.ones(elements, bool)])
    at = np.flatnonzero(columns)
    part = Sums(sums.gram[:, at[:, None], at], sums.cross[:, at], sums.square, sums.count)
    groups = groups_of(table.model)[columns[:-elements]]
    posteriors = solve_sums(part, groups, GROUPS, balance=balance, ridges=ridges)
    weights = np.zeros((table.width, len(ridges)))
    weights[columns] = np.stack([p.mean / p.scale for p in posteriors], axis=1)
    return weights, [_effective(p, groups) for p in posteriors]


def linear_points(
    table: LinearTable,
    splits: Sequence[Split],
    capacities: Sequence[Capacity],
    *,
    ridges: Sequence[float] = (1.0,),
    balance: float = 0.5,
    done: Sequence[Point] = (),
) -> Iterator[Point]:
    """The errors of every split, capacity and ridge; the matrices of as many splits at once as memory allows. What is
    among `done` is not computed again."""
    known = {point.key for point in done}

    def missing(split: Split) -> bool:
        return any((c.name, float(r), split.name, split.seed) not in known for c in capacities for r in ridges)

    # Batches, and the fits to a training set, are the same whatever is done already: so are the results, to the bit.
    for part in _batches(splits, max(2, int(_MOST_BYTES / (8 * len(KINDS) * table.width**2)))):
        if any(missing(split) for split in part):
            for split, sums in zip(part, table.sums(part), strict=True):
                if missing(split):
                    points = _points(table, split, sums, capacities, ridges, balance)
                    yield from (point for point in points if point.key not in known)


def _batches(splits: Sequence[Split], most: int) -> Iterator[list[Split]]:
    """Splits that follow each other, as many as need no more than `most` sets of matrices: one for each split, and one
    for all frames that count the same in each of them."""
    batch: list[Split] = []
    for split in splits:
        patterns = {column.tobytes() for column in np.stack([*(s.train for s in batch), split.train], axis=1)}
        if batch and len(patterns) + len(batch) + 1 > most:
            yield batch
            batch = []
        batch = [*batch, split]
    if batch:
        yield batch


def _points(
    table: LinearTable,
    split: Split,
    sums: Sums,
    capacities: Sequence[Capacity],
    ridges: Sequence[float],
    balance: float,
) -> Iterator[Point]:
    """All fits to one training set: their errors take one pass over the rows."""
    if sums.count.sum() == 0:
        raise UserError(f"The training set `{split.name}` has no label: give more frames, or larger sets.")
    fits, effective = [], []
    for capacity in capacities:
        weights, determined = fit_columns(table, sums, capacity, balance=balance, ridges=ridges)
        fits.append(weights)
        effective += determined
    squares, labels = table.squares(np.concatenate(fits, axis=1))
    learned = sums.count > 0
    train = _root_mean_squares(squares, labels, split.train > 0, learned)
    test = _root_mean_squares(squares, labels, split.test & known_elements(table.dataset, split.train > 0), learned)
    for i, (capacity, ridge) in enumerate((c, r) for c in capacities for r in ridges):
        yield Point(
            capacity=capacity.name,
            weights=capacity.weights,
            regularisation=float(ridge),
            split=split.name,
            seed=split.seed,
            frames=split.frames,
            train=train[i],
            test=test[i],
            effective=effective[i],
        )


def _effective(posterior: Posterior, groups: np.ndarray) -> float:
    """The number of parameters that the labels determine: what the prior leaves of them."""
    inverse = linalg.solve_triangular(posterior.factor, np.eye(len(posterior.factor)), lower=True)
    alpha = np.array(list(posterior.alpha.values()))
    variance = np.sum(inverse**2, axis=0)[: len(groups)]
    return float(len(inverse) - np.sum(alpha[groups] * variance))


def _root_mean_squares(
    squares: np.ndarray, labels: np.ndarray, frames: np.ndarray, learned: np.ndarray
) -> list[dict[str, float | None]]:
    """For each fit: the error of each kind of label over some frames; `None` for what was not learned or not there."""
    total, count = squares[frames].sum(axis=0), labels[frames].sum(axis=0)
    return [
        {
            name: float(np.sqrt(total[k, fit] / count[k])) if count[k] > 0 and learned[k] else None
            for k, name in enumerate(KINDS)
        }
        for fit in range(squares.shape[2])
    ]
