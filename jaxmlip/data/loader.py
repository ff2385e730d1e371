"""Padded batches in few shapes: neighbor lists made once on the host, frames packed beside each other.

Every new shape is a compilation, so a loader chooses at most `max_shapes` pairs (atoms, neighbors) that waste the
least, from the batches that the first epochs will see, and pads every batch to the cheapest that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.data.dataset import Dataset
from jaxmlip.data.statistics import reference_energy
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.graph.host import dense_block, neighbor_pairs
from jaxmlip.io import Record

_WORTHWHILE = 0.05  # part of the padded work that a further shape has to save
_SAMPLE = 512  # batches that the shapes are chosen from


class Labels(eqx.Module):
    """What a batch should be like. A weight of zero marks what is missing or padding; the values there are zero.

    `energy` [eV] is without reference energies. `virial_per_atom` is `stress * volume / atoms` [eV]. `charges` [e].
    """

    energy: Float[Array, "systems"]
    forces: Float[Array, "atoms 3"]
    virial_per_atom: Float[Array, "systems 3 3"]
    energy_weight: Float[Array, "systems"]
    force_weight: Float[Array, "atoms"]
    stress_weight: Float[Array, "systems 3 3"]
    inverse_atoms: Float[Array, "systems"]
    charges: Float[Array, "atoms"]
    charge_weight: Float[Array, "atoms"]


class Batch(NamedTuple):
    """A padded graph and its labels."""

    graph: Graph
    labels: Labels


class Frame(NamedTuple):
    """One frame ready to be packed: compact NumPy, neighbors as a dense block of its own."""

    positions: np.ndarray
    numbers: np.ndarray
    cell: np.ndarray
    charge: float
    pbc: tuple[bool, bool, bool]
    senders: np.ndarray
    shifts: np.ndarray
    mask: np.ndarray
    energy: float
    forces: np.ndarray
    virial_per_atom: np.ndarray
    energy_weight: float
    force_weight: float
    stress_weight: np.ndarray
    charges: np.ndarray
    charge_weight: float


class Loader:
    """Batches of a data set, for energies that look `cutoff` [Å] far.

    Give `batch_size`, the frames of a batch, to train: they are shuffled each epoch. Give `batch_atoms` to evaluate:
    frames of similar size follow each other, as many to a batch as that many atoms allow.

    Loss weights are normalized so that a loss is a sum over frames: a frame counts the same whatever it is batched
    with, and a force component the same in small frames and in large ones. `epoch(n)` depends on `seed` and `n` alone.

    `shapes` are those of another loader, whose programs are to serve again: of a data set that holds this one, with the
    same size of batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        cutoff: float,
        *,
        batch_size: int | None = None,
        batch_atoms: int | None = None,
        references: Mapping[int, float] | None = None,
        dtype: Any = np.float32,
        seed: int = 0,
        max_shapes: int = 3,
        shapes: Sequence[tuple[int, int]] | None = None,
    ):
        if len(dataset) == 0:
            raise UserError("A loader needs at least one frame; got none.")
        if cutoff <= 0:
            raise UserError(f"The cutoff of the energy must be positive [Å]; got {cutoff}.")
        sizes = [size for size in (batch_size, batch_atoms) if size is not None]
        if len(sizes) != 1:
            raise ValueError("Give either `batch_size` (frames, shuffled) or `batch_atoms` (in order of size).")
        if sizes[0] < 1 or max_shapes < 1:
            raise UserError(f"Sizes of batches and `max_shapes` must be at least 1; got {sizes[0]}, {max_shapes}.")
        self.dataset = dataset
        self.cutoff = float(cutoff)
        self.dtype = np.dtype(dtype)
        self.seed = seed
        mean_atoms = sum(len(r) for r in dataset) / len(dataset)
        self.frames = [_frame(r, self.cutoff, references or {}, mean_atoms) for r in dataset]
        self.offsets = np.array([reference_energy(r.numbers, references or {}) for r in dataset])
        self._atoms = np.array([len(f.numbers) for f in self.frames])
        self._neighbors = np.array([f.senders.shape[0] for f in self.frames])
        self._fixed_plan = None if batch_atoms is None else self._plan_by_size(batch_atoms)
        most = sizes[0] if self._fixed_plan is None else max(len(i) for i in self._fixed_plan)
        self.batch_size = min(most, len(dataset)) if shapes is None else most
        self.shapes = self._choose_shapes(max_shapes) if shapes is None else self._given_shapes(shapes)

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self._fixed_plan is not None:
            return len(self._fixed_plan)
        return -(-len(self.frames) // self.batch_size)

    @property
    def smallest(self) -> np.ndarray:
        """The one smallest frame, which fits any shape."""
        return np.array([int(np.lexsort((self._neighbors, self._atoms))[0])])

    @property
    def padding(self) -> float:
        """Slots an epoch computes over slots it needs; 1 is no waste."""
        plan = self.plan(0)
        padded = sum(np.prod(self.shape_of(indices)) for indices in plan)
        return float(padded) / float(sum(np.sum(f.mask) for f in self.frames))

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The frames of each batch of an epoch."""
        if self._fixed_plan is not None:
            return self._fixed_plan
        count = len(self.frames)
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(count)
        return [order[i : i + self.batch_size] for i in range(0, count, self.batch_size)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the one numbered `start` on."""
        for indices in self.plan(epoch)[start:]:
            yield self.pack(indices)

    def pack(self, indices: Sequence[int] | np.ndarray, shape: tuple[int, int] | None = None) -> Batch:
        """One batch of these frames, padded to `shape` (atoms, neighbors) or to the cheapest shape that holds them."""
        shape = self.shape_of(indices) if shape is None else shape
        return _pack([self.frames[i] for i in indices], shape, self.batch_size, self.cutoff, self.dtype)

    def shape_of(self, indices: Sequence[int] | np.ndarray) -> tuple[int, int]:
        """The cheapest shape that holds these frames."""
        atoms, neighbors = int(self._atoms[indices].sum()), int(self._neighbors[indices].max())
        return next(shape for shape in self.shapes if atoms <= shape[0] and neighbors <= shape[1])

    def _plan_by_size(self, batch_atoms: int) -> list[np.ndarray]:
        """Frames in order of size, as many to a batch as `batch_atoms` allows, at least one."""
        plan: list[list[int]] = []
        room = 0
        for i in np.lexsort((self._neighbors, self._atoms)):
            if self._atoms[i] > room:
                plan.append([])
                room = batch_atoms
            plan[-1].append(int(i))
            room -= self._atoms[i]
        return [np.array(indices) for indices in plan]

    def _given_shapes(self, shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Shapes that were given, cheapest first.

        **Raises:** `ValueError` where the largest does not hold the largest batch that can occur.
        """
        ordered = tuple(sorted(shapes, key=lambda s: (s[0] * s[1], s)))
        needed = int(np.sort(self._atoms)[-self.batch_size :].sum()), int(self._neighbors.max())
        if not ordered or ordered[-1][0] < needed[0] or ordered[-1][1] < needed[1]:
            raise ValueError(f"`shapes` must hold batches of {needed} atoms and neighbors; got {list(shapes)}.")
        return ordered

    def _choose_shapes(self, max_shapes: int) -> tuple[tuple[int, int], ...]:
        """Shapes, cheapest first. The last one holds any batch that can occur."""
        epochs = 1 if self._fixed_plan else max(1, _SAMPLE // len(self))
        plans = [indices for epoch in range(epochs) for indices in self.plan(epoch)]
        sizes = np.array([(_round_up(self._atoms[i].sum()), self._neighbors[i].max()) for i in plans])
        largest = _round_up(np.sort(self._atoms)[-self.batch_size :].sum()), int(self._neighbors.max())
        if self._fixed_plan is not None:
            largest = int(sizes[:, 0].max()), int(sizes[:, 1].max())
        return choose_shapes(sizes, largest, max_shapes)


def choose_shapes(sizes: np.ndarray, largest: tuple[int, int], max_shapes: int) -> tuple[tuple[int, int], ...]:
    """At most `max_shapes` shapes (atoms, neighbors) that batches of these sizes fit in with little waste.

    Batches, and the `largest` that can occur, are ordered by size and cut into runs, each padded to its largest, by
    dynamic programming; a further run must save 5 % of the work.
    """
    sizes = sizes[np.argsort(sizes[:, 0] * sizes[:, 1], kind="stable")]
    if len(sizes) > _SAMPLE:
        sizes = sizes[np.linspace(0, len(sizes) - 1, _SAMPLE).round().astype(int)]
    sizes = np.concatenate([sizes, [largest]])
    count = len(sizes)
    cost = np.full((count + 1, count + 1), np.inf)  # of padding batches i..j-1 to one shape
    for i in range(count):
        top = np.maximum.accumulate(sizes[i:], axis=0).prod(axis=1)
        cost[i, i + 1 :] = top * np.arange(1, count - i + 1)
    best = [np.where(np.arange(count + 1) == 0, 0.0, np.inf)]
    cuts = []
    for _ in range(max_shapes):
        total = best[-1][:, None] + cost
        cuts.append(total.argmin(axis=0))
        best.append(total.min(axis=0))
    used = 1
    while used < max_shapes and best[used + 1][count] < (1 - _WORTHWHILE) * best[used][count]:
        used += 1
    shapes, stop = set(), count
    for cut in reversed(cuts[:used]):
        start = int(cut[stop])
        shapes.add(tuple(int(x) for x in sizes[start:stop].max(axis=0)))
        stop = start
    return tuple(sorted(shapes, key=lambda s: (s[0] * s[1], s)))


def _round_up(atoms: Any, multiple: int = 8) -> int:
    """Atoms lie along the vector lanes: a multiple of eight costs nothing and merges shapes."""
    return int(-(-int(atoms) // multiple) * multiple)


def _frame(record: Record, cutoff: float, references: Mapping[int, float], mean_atoms: float) -> Frame:
    """A record with its neighbors, its labels in float64 less the reference energies."""
    receivers, senders, shifts = neighbor_pairs(record.positions, record.cell, record.pbc, cutoff)
    block, images, mask = dense_block(receivers, senders, shifts, len(record))
    small = np.int16 if len(record) < 2**15 else np.int32
    volume = abs(float(np.linalg.det(record.cell)))
    stress = record.stress if all(record.pbc) else None
    energy_weight, force_weight, stress_weight = record.weights
    return Frame(
        positions=record.positions,
        numbers=record.numbers,
        cell=record.cell,
        charge=record.charge,
        pbc=record.pbc,
        senders=block.astype(small),
        shifts=images.astype(np.int8 if np.abs(images).max(initial=0) < 128 else np.int32),
        mask=mask,
        energy=0.0 if record.energy is None else record.energy - reference_energy(record.numbers, references),
        forces=np.zeros((len(record), 3)) if record.forces is None else record.forces,
        virial_per_atom=np.zeros((3, 3)) if stress is None else stress * volume / len(record),
        energy_weight=0.0 if record.energy is None else energy_weight,
        force_weight=0.0 if record.forces is None else force_weight / (3.0 * mean_atoms),
        stress_weight=np.zeros((3, 3)) if stress is None else record.stress_mask * (stress_weight / 9.0),
        charges=np.zeros(len(record)) if record.charges is None else record.charges,
        charge_weight=0.0 if record.charges is None else force_weight / mean_atoms,
    )


def _pack(frames: list[Frame], shape: tuple[int, int], slots: int, cutoff: float, dtype: np.dtype) -> Batch:
    """Frames beside each other, padded to `shape` atoms and neighbors and to `slots` systems."""
    atoms, neighbors = shape
    index = np.full(atoms, slots - 1, np.int32)
    senders = np.broadcast_to(np.arange(atoms, dtype=np.int32), (neighbors, atoms)).copy()
    shifts = np.zeros((3, neighbors, atoms), np.int32)
    mask, pbc = np.zeros((neighbors, atoms), bool), np.zeros((slots, 3), bool)
    positions, forces = np.zeros((atoms, 3), dtype), np.zeros((atoms, 3), dtype)
    numbers, force_weight = np.zeros(atoms, np.int32), np.zeros(atoms, dtype)
    charges, charge_weight = np.zeros(atoms, dtype), np.zeros(atoms, dtype)
    cell, virial, stress_weight = (np.zeros((slots, 3, 3), dtype) for _ in range(3))
    charge, energy, energy_weight, inverse_atoms = (np.zeros(slots, dtype) for _ in range(4))
    start = 0
    for slot, frame in enumerate(frames):
        stop, depth = start + len(frame.numbers), frame.senders.shape[0]
        here = slice(start, stop)
        positions[here], numbers[here], forces[here] = frame.positions, frame.numbers, frame.forces
        force_weight[here], index[here] = frame.force_weight, slot
        charges[here], charge_weight[here] = frame.charges, frame.charge_weight
        senders[:depth, here] = frame.senders.astype(np.int32) + np.int32(start)
        shifts[:, :depth, here], mask[:depth, here] = frame.shifts, frame.mask
        cell[slot], charge[slot], energy[slot] = frame.cell, frame.charge, frame.energy
        pbc[slot] = frame.pbc
        virial[slot], stress_weight[slot] = frame.virial_per_atom, frame.stress_weight
        energy_weight[slot], inverse_atoms[slot] = frame.energy_weight, 1.0 / len(frame.numbers)
        start = stop
    graph = (positions, numbers, cell, charge, index, senders, shifts, mask, pbc)
    labels = (energy, forces, virial, energy_weight, force_weight, stress_weight, inverse_atoms, charges, charge_weight)
    graph, labels = jax.device_put((graph, labels))
    return Batch(Graph(*graph, cutoff=cutoff), Labels(*labels))
