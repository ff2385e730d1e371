r"""Bayesian least squares for linear models: energies, forces and stresses at once, noise and prior from the evidence.

Rows $x$ of the design say what each weight adds to a label: energy per atom, force component, virial per atom (six
components), each kind $k$ with its own noise $\sigma_k = \beta_k^{-1/2}$. Columns are scaled to unit mean square in the
forces, the weights of each group $g$ of functions have the prior variance $1 / \alpha_g$, and

$A = \mathrm{diag}(\alpha) + \sum_k \beta_k X_k^T X_k$, $w = A^{-1} \sum_k \beta_k X_k^T y_k$.

$\alpha$ and $\beta$ maximise the evidence $p(y | \alpha, \beta)$ by MacKay's fixed point. Only the matrices $X_k^T X_k$
are kept: memory does not grow with the data.

What a basis cannot describe is no noise: it is shared by the forces of a frame, of which there are hundreds, and the
evidence alone would give away the one energy for them (37 meV/atom on silicon). Each kind is therefore counted as if
its labels were repeated $(n_\mathrm{force} / n_k)^b$ times; `balance` b is 0 for the plain evidence, 1 for kinds that
count the same, and 0.5 by default, where silicon has 4.5 meV/atom for 8 % more in the forces.

**Reference:** MacKay, Neural Comput. 4, 415 (1992), doi:10.1162/neco.1992.4.3.415.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxmlip.compilation import Compiled
from jaxmlip.data import Dataset, Loader, find_references
from jaxmlip.energy import AbstractEnergy, AtomicReferences
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.evaluate import ahead, check_dataset
from jaxmlip.learn.evidence import KINDS as KINDS
from jaxmlip.learn.evidence import Sums, given, maximise_evidence
from jaxmlip.models.linear import GROUPS, LinearACE

_UPPER = np.triu_indices(3)


@dataclasses.dataclass(frozen=True)
class Block:
    """The design of one frame, whose index in the data set is `frame`: `rows` [labels, columns], `targets`, of which
    `predicted` is known without the rows, the `kind` of each row (an index of `KINDS`), and the `weight` that it counts
    with."""

    frame: int
    rows: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray
    kind: np.ndarray
    weight: np.ndarray


class RowCache:
    """Rows of structures that were met before, by their atoms and cell; no more than `limit` bytes of them."""

    def __init__(self, limit: float = 2e9):
        self.limit = limit
        self.size = 0
        self.rows: dict[bytes, list[np.ndarray]] = {}

    def get(self, record: Record) -> list[np.ndarray] | None:
        return self.rows.get(_key(record))

    def put(self, record: Record, rows: list[np.ndarray]) -> None:
        size = sum(x.nbytes for x in rows)
        if self.size + size <= self.limit and _key(record) not in self.rows:
            self.rows[_key(record)] = rows
            self.size += size


def _key(record: Record) -> bytes:
    digest = hashlib.sha256(repr(record.pbc).encode())
    for array in (record.positions, record.numbers, record.cell):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What labels tell of the weights of a linear model; constants of the elements come last.

    - `mean` of the weights over `scale`; `factor`: lower Cholesky factor of their posterior precision.
    - `noise` of each kind of label [eV/atom, eV/Å, eV/atom], how often each was `counted`, and the prior precision
      `alpha` of each group of weights; `evidence`: its logarithm.
    """

    mean: np.ndarray
    noise: Mapping[str, float]
    counted: Mapping[str, float]
    alpha: Mapping[str, float]
    factor: np.ndarray
    scale: np.ndarray
    evidence: float

    def in_units(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Blocks in units of the noise, `weight` saying how often each label counts; columns over `scale`. The
        posterior precision is that of the prior and the weighted squares of all rows."""
        sigma = np.array([self.noise[k] for k in KINDS])
        counted = np.array([self.counted[k] for k in KINDS])
        for block in blocks:
            unit = sigma[block.kind]
            yield dataclasses.replace(
                block,
                rows=block.rows / (unit[:, None] * self.scale),
                targets=block.targets / unit,
                predicted=block.predicted / unit,
                weight=block.weight * counted[block.kind],
            )

    def residuals(self, block: Block) -> np.ndarray:
        """Labels minus predictions of a block in units of the noise."""
        return block.targets - block.predicted - block.rows @ self.mean


@dataclasses.dataclass(frozen=True)
class LinearFit(Posterior):
    """A linear model, and what is known of its weights.

    - `model` with the mean of its weights, and `energy`: the model and the atomic references, an energy like any other.
    - `references` [eV] that were taken from the energies before; `dtype` of the rows, and where they are kept.
    """

    model: LinearACE
    energy: AbstractEnergy
    references: Mapping[int, float]
    dtype: Any
    cache: RowCache | None

    def design(self, dataset: Dataset) -> Iterator[Block]:
        """The blocks of a data set in units of the noise, as `in_units` has them."""
        return self.in_units(design(self.model, dataset, self.references, dtype=self.dtype, cache=self.cache))


def fit_linear(
    model: LinearACE,
    dataset: Dataset,
    *,
    references: str | Mapping[int, float] | Mapping[str, float] = "auto",
    balance: float = 0.5,
    ridge: float = 1.0,
    dtype: Any = None,
    cache: RowCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LinearFit:
    """The weights of a linear model by Bayesian least squares on all labels of a data set.

    Rows are computed in `dtype`, by default float64 where JAX has it enabled; everything after that is in float64.
    `balance` (0 to 1) says how much more one energy counts than one force component, see the module. `ridge` multiplies
    the prior precision of the weights that the evidence finds: above 1 the fit is smoother, below 1 freer.
    A `cache` keeps the rows for further fits with the same model; `progress(done, frames)` is called after each frame.

    **Raises:** `UserError` where there is no label, an element is unknown, or a label is not finite.
    """
    energies, _, _ = find_references(dataset, references)
    check_dataset(model, dataset)
    dtype = np.dtype(jnp.asarray(0.0).dtype if dtype is None else dtype)
    blocks = design(model, dataset, energies, dtype=dtype, cache=cache)
    elements = model.config.elements
    found = solve(blocks, dataset, groups_of(model), GROUPS, balance=balance, ridge=ridge, progress=progress)
    weights = found.mean / found.scale
    fitted = eqx.tree_at(
        lambda m: m.weights,
        model,
        jnp.asarray(weights[: -len(elements)].reshape(np.shape(model.weights)), model.mix.dtype),
    )
    total = {n: energies.get(n, 0.0) + float(c) for n, c in zip(elements, weights[-len(elements) :], strict=True)}
    return LinearFit(
        **{field.name: getattr(found, field.name) for field in dataclasses.fields(found)},
        model=fitted,
        energy=fitted + AtomicReferences(total),
        references=energies,
        dtype=dtype,
        cache=cache,
    )


def solve(
    blocks: Iterator[Block],
    dataset: Dataset,
    groups: np.ndarray,
    names: Sequence[str],
    *,
    balance: float,
    ridge: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Posterior:
    """The posterior of the weights from the blocks of all frames; the rest as in `solve_sums`.

    **Raises:** `UserError` where there is no label, or `balance` or `ridge` is not allowed.
    """
    _check_options(balance, (ridge,))
    sums = accumulate(blocks, progress=progress, frames=len(dataset))
    if sums.count.sum() == 0:
        raise UserError(f"There is no label to fit to.\n{dataset.census()}")
    return solve_sums(sums, groups, names, balance=balance, ridges=(ridge,))[0]


def solve_sums(
    sums: Sums, groups: np.ndarray, names: Sequence[str], *, balance: float, ridges: Sequence[float] = (1.0,)
) -> list[Posterior]:
    """The posterior of the weights from the sums over the frames, one for each of `ridges`, which multiply the prior
    precisions that the evidence finds; the noise is that of the evidence in all of them. `groups` has the index of each
    weight in `names`; constants of the elements, the last columns, have none.

    **Raises:** `UserError` where there is no label, or an option is not allowed.
    """
    _check_options(balance, ridges)
    if sums.count.sum() == 0:
        raise UserError("There is no label to fit to.")
    counted = (sums.count.max() / np.maximum(sums.count, 1.0)) ** balance
    sums = sums.times(counted)
    groups = np.concatenate([groups, np.full(sums.cross.shape[1] - len(groups), -1)])
    scale = np.sqrt(np.maximum(np.diag(sums.gram[1]) / max(sums.count[1], 1.0), 1e-12))
    if sums.count[1] == 0:
        scale = np.sqrt(np.maximum(np.diag(sums.gram.sum(axis=0)) / sums.count.sum(), 1e-12))
    scale[groups < 0] = 1.0
    best, factor, alpha, beta, evidence = maximise_evidence(sums, groups, scale)
    found = []
    for ridge in ridges:
        mean, lower, _, value = best, factor, None, evidence
        if ridge != 1.0:
            mean, lower, _, value = given(sums, groups, scale, ridge * alpha, beta)
        found.append(
            Posterior(
                mean=mean,
                noise=dict(zip(KINDS, (1.0 / np.sqrt(beta)).tolist(), strict=True)),
                counted=dict(zip(KINDS, counted.tolist(), strict=True)),
                alpha=dict(zip(names, (ridge * alpha).tolist(), strict=False)),  # the last groups may be empty
                factor=lower,
                scale=scale,
                evidence=value,
            )
        )
    return found


def _check_options(balance: float, ridges: Sequence[float]) -> None:
    if not 0.0 <= balance <= 1.0:
        raise UserError(f"`balance` lies between 0 (plain evidence) and 1 (all kinds the same); got {balance}.")
    for ridge in ridges:
        if not 0.0 < ridge < np.inf:
            raise UserError(f"`ridge` multiplies the prior precision and must be positive and finite; got {ridge}.")


def design(
    model: LinearACE,
    dataset: Dataset,
    references: Mapping[int, float],
    *,
    dtype: Any,
    cache: RowCache | None = None,
) -> Iterator[Block]:
    """The design of every frame, in order of size; columns are the weights of each element, then one constant each."""
    loader = Loader(dataset, model.cutoff, batch_atoms=1, references=references, dtype=dtype, max_shapes=2)
    cache = RowCache(0.0) if cache is None else cache

    def items() -> Iterator[tuple[int, Any]]:
        for i in loader.plan(0):
            index = int(i[0])
            rows = cache.get(dataset[index])
            yield index, _frame_rows(model, loader.pack(i).graph) if rows is None else rows

    for index, rows in ahead(items()):
        found = [np.asarray(x) for x in rows]
        found[1] = found[1][: len(dataset[index])]
        cache.put(dataset[index], found)
        offset = float(loader.offsets[index])
        yield make_block(dataset[index], index, model.config.elements, [x.astype(np.float64) for x in found], offset)


@Compiled
def _frame_rows(model: LinearACE, graph: Any):
    rows = model.rows(graph)
    return rows.energy, rows.forces, rows.virial


def make_block(
    record: Record,
    index: int,
    elements: Sequence[int],
    rows: Sequence[np.ndarray],
    offset: float = 0.0,
    predicted: Sequence[np.ndarray] | None = None,
) -> Block:
    """The block of a frame from the `rows` of its energy, forces and virial, and what is `predicted` of these three;
    `offset` [eV] is taken from its energy.

    **Raises:** `UserError` where a label is not finite.
    """
    atoms = len(record)
    energy, forces, virial = rows
    e, f, v = (np.zeros(x.shape[:-1]) for x in rows) if predicted is None else predicted
    parts, targets, known, kinds, weights = [], [], [], [], []

    def add(kind: int, x: np.ndarray, y: np.ndarray, y0: np.ndarray, weight: float, constants: Any = 0.0) -> None:
        parts.append(np.concatenate([x, np.broadcast_to(constants, (len(x), len(elements)))], axis=1))
        targets.append(y)
        known.append(y0)
        kinds.append(np.full(len(y), kind))
        weights.append(np.full(len(y), weight))

    if record.energy is not None:
        counts = np.array([np.sum(record.numbers == n) for n in elements]) / atoms
        label = np.array([(record.energy - offset) / atoms])
        add(0, energy[None] / atoms, label, np.reshape(e, 1) / atoms, record.weights[0], counts)
    if record.forces is not None:
        rows_of_forces = forces[:atoms].reshape(3 * atoms, -1)
        add(1, rows_of_forces, record.forces.reshape(-1), f[:atoms].reshape(-1), record.weights[1])
    if record.stress is not None and all(record.pbc):
        mask = record.stress_mask[_UPPER]
        volume = abs(float(np.linalg.det(record.cell)))
        label = -record.stress[_UPPER][mask] * volume / atoms
        add(2, virial[_UPPER][mask] / atoms, label, v[_UPPER][mask] / atoms, record.weights[2])
    if not parts:
        width = energy.shape[0] + len(elements)
        return Block(index, np.zeros((0, width)), np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0))
    y = np.concatenate(targets)
    if not np.all(np.isfinite(y)):
        raise UserError(f"{record.where}: a label is not finite. Leave the frame out, or mend it.")
    rest = (np.concatenate(known), np.concatenate(kinds), np.concatenate(weights))
    return Block(index, np.concatenate(parts), y, *rest)


def accumulate(blocks: Iterator[Block], *, progress: Callable[[int, int], None] | None = None, frames: int = 0) -> Sums:
    """The sums over all frames, one block in memory at a time."""
    gram = cross = square = count = None
    for done, block in enumerate(blocks, start=1):
        if gram is None or cross is None or square is None or count is None:
            width = block.rows.shape[1]
            gram, cross = np.zeros((len(KINDS), width, width)), np.zeros((len(KINDS), width))
            square, count = np.zeros(len(KINDS)), np.zeros(len(KINDS))
        for kind in range(len(KINDS)):
            here = block.kind == kind
            if not here.any():
                continue
            root = np.sqrt(block.weight[here])
            x, y = block.rows[here] * root[:, None], (block.targets - block.predicted)[here] * root
            gram[kind] += x.T @ x
            cross[kind] += x.T @ y
            square[kind] += y @ y
            count[kind] += block.weight[here].sum()
        if progress is not None:
            progress(done, frames)
    if gram is None or cross is None or square is None or count is None:
        raise UserError("A fit needs at least one frame; got none.")
    return Sums(gram, cross, square, count)


def groups_of(model: LinearACE) -> np.ndarray:
    """The group of each weight, an index of `GROUPS`."""
    sizes = model.config.sizes
    one = np.concatenate([np.full(sizes[name], i) for i, name in enumerate(GROUPS)])
    return np.tile(one, len(model.config.elements))
