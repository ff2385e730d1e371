"""Errors of trained networks for many training sets, sizes and weight decays, by as few compilations as there can be.

All training sets are parts of one data set. Batches are padded to the shapes of the whole, and errors are taken on the
whole at once, so that every size of the network and every optimizer is compiled once: for all folds, subsets and seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.evaluate import Report, evaluate
from jaxmlip.learn.evidence import KINDS
from jaxmlip.learn.settings import TrainSettings
from jaxmlip.learn.splits import Capacity, Point, Split, known_elements
from jaxmlip.learn.train import fit

_MOST_PROGRAMS = 8  # sizes and decays before compiled programs are forgotten: a process may map only so many

MakeEnergy = Callable[[Capacity, int], AbstractEnergy]  # untrained, of this size, from this seed


def network_points(
    make_energy: MakeEnergy,
    dataset: Dataset,
    splits: Sequence[Split],
    capacities: Sequence[Capacity],
    *,
    settings: TrainSettings,
    decays: Sequence[float] = (0.0,),
    done: Sequence[Point] = (),
    train: Callable[..., AbstractEnergy] | None = None,
) -> Iterator[Point]:
    """The errors of every capacity, weight decay and split, each trained with `settings` from the seed of the split.

    What is among `done` is not trained again. `train(energy, dataset, settings, shapes)` replaces the training.

    **Raises:** `UserError` where the data cannot be trained on.
    """
    known = {point.key for point in done}
    train = _train if train is None else train
    programs = 0
    for capacity in capacities:
        for decay in decays:
            asked = [s for s in splits if (capacity.name, float(decay), s.name, s.seed) not in known]
            if asked and programs and programs % _MOST_PROGRAMS == 0:
                jax.clear_caches()
            programs += bool(asked)
            for split in asked:
                here = dataclasses.replace(settings, weight_decay=float(decay), seed=split.seed)
                yield _point(make_energy, dataset, split, capacity, here, train)


def shared_shapes(dataset: Dataset, cutoff: float, settings: TrainSettings) -> tuple[tuple[int, int], ...]:
    """The shapes of batches that hold those of every part of a data set."""
    whole = dataset.filter(lambda r: not r.is_isolated_atom)
    size, most = settings.batch_size, settings.max_shapes
    return Loader(whole, cutoff, batch_size=size, seed=settings.seed, dtype=settings.dtype, max_shapes=most).shapes


def _train(
    energy: AbstractEnergy, dataset: Dataset, settings: TrainSettings, shapes: Sequence[tuple[int, int]] | None
) -> AbstractEnergy:
    result = fit(energy, dataset, settings=settings, shapes=shapes, quiet=True)
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return result.energy


def _point(
    make_energy: MakeEnergy,
    dataset: Dataset,
    split: Split,
    capacity: Capacity,
    settings: TrainSettings,
    train: Callable[..., AbstractEnergy],
) -> Point:
    """One training, and its errors."""
    energy = make_energy(capacity, split.seed)
    chosen = np.repeat(np.arange(len(dataset)), split.train.astype(int))
    shapes = shared_shapes(dataset, energy.cutoff, dataclasses.replace(settings, seed=0))
    if split.train.max() > 1:  # a frame that is there twice may be twice in a batch
        shapes = None
    trained = train(energy, dataset[chosen], settings, shapes)
    served = known_elements(dataset, split.train > 0)
    squares, labels = squares_of(evaluate(trained, dataset, max_shapes=1))
    return Point(
        capacity=capacity.name,
        weights=capacity.weights,
        regularisation=settings.weight_decay,
        split=split.name,
        seed=split.seed,
        frames=split.frames,
        train=_errors(squares, labels, split.train > 0),
        test=_errors(squares, labels, split.test & served),
    )


def squares_of(report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squared errors and numbers of labels [frames, kinds] of a report: energies per atom, force components,
    and six components of the virial per atom."""
    frames = len(report.atoms)
    squares, labels = np.zeros((frames, len(KINDS))), np.zeros((frames, len(KINDS)))
    upper = np.triu_indices(3)
    virial = report.volume[:, None] * (report.stress - report.stress_label)[:, *upper]
    forces = (report.forces - report.forces_label).ravel()
    whose = np.repeat(report.frame, 3)
    for kind, (error, frame) in enumerate(
        (
            (report.energy - report.energy_label, np.arange(frames)),
            (forces, whose),
            (virial.ravel(), np.repeat(np.arange(frames), len(upper[0]))),
        )
    ):
        there = np.isfinite(error)
        squares[:, kind] = np.bincount(frame[there], error[there] ** 2, minlength=frames)
        labels[:, kind] = np.bincount(frame[there], minlength=frames)
    return squares, labels


def _errors(squares: np.ndarray, labels: np.ndarray, frames: np.ndarray) -> dict[str, float | None]:
    total, count = squares[frames].sum(axis=0), labels[frames].sum(axis=0)
    return {k: float(np.sqrt(total[i] / count[i])) if count[i] > 0 else None for i, k in enumerate(KINDS)}
