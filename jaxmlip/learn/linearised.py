r"""Any trained model near its parameters: its last layer as a linear model, and leave-one-out by Gauss and Newton.

With $J = \partial f / \partial \theta$ at the trained parameters, a model is the linear one of rows $J$ and what it
predicts already: everything that is exact for linear models (`learn.linear`, `data.influence`, `learn.cleaning`) holds
for this one, and for the model itself as far as leaving out one frame moves the parameters little.

`linearise` takes few parameters, by default those of the last layer, in which energies are linear: the rows are kept,
and one factorization serves all frames. `leave_out` takes all parameters and no matrix at all: products with
$A = \alpha + \sum_B J_B^T W_B J_B$ by one forward and one backward pass, and conjugate gradients. The labels of a frame
without it are then

$y_B - f_B + J_B A_{-B}^{-1} J_B^T W_B r_B$.

**Reference:** MacKay, Neural Comput. 4, 448 (1992), doi:10.1162/neco.1992.4.3.448 (Gauss-Newton evidence); Bigi et al.,
Mach. Learn.: Sci. Technol. 5, 045018 (2024), doi:10.1088/2632-2153/ad805f (last layers of interatomic potentials).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmlip.compilation import Compiled
from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import AbstractEnergy, Sum, energy_forces_virial
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.evaluate import ahead, check_dataset
from jaxmlip.learn.linear import KINDS, Block, Posterior, RowCache, make_block, solve
from jaxmlip.models.ace import ACE
from jaxmlip.models.linear import LinearACE
from jaxmlip.models.nequip import NequIP

Choose = Callable[[Any], Sequence[Any]]
_UPPER = np.triu_indices(3)


def last_layer(energy: AbstractEnergy) -> list[Any]:
    """The parameters of the models in an energy, in which it is linear and of which there are few.

    **Raises:** `UserError` where there is no such model.
    """
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    found: list[Any] = []
    for term in terms:
        if isinstance(term, ACE):
            found += [leaf for layer in term.layers for leaf in (layer.out, layer.bond)]
        elif isinstance(term, NequIP):
            found.append(term.readout)
        elif isinstance(term, LinearACE):
            found.append(term.weights)
    if not found:
        names = ", ".join(type(term).__name__ for term in terms)
        raise UserError(f"The last layer of ACE, NequIP and LinearACE is known; got {names}. Say which parameters.")
    return found


@dataclasses.dataclass(frozen=True)
class Linearised(Posterior):
    """A trained model as a linear one in the parameters that `choose` picks, about the values that they have. The prior
    is about zero, as for `LinearFit`: were it about these values, a model at its optimum would be sure of itself."""

    energy: AbstractEnergy
    choose: Choose
    dtype: Any
    cache: RowCache

    def design(self, dataset: Dataset) -> Iterator[Block]:
        """The blocks of a data set in units of the noise, as `in_units` has them."""
        return self.in_units(_design(self.energy, dataset, self.choose, self.dtype, self.cache))


def linearise(
    energy: AbstractEnergy,
    dataset: Dataset,
    *,
    choose: Choose = last_layer,
    balance: float = 0.5,
    dtype: Any = np.float32,
    cache: RowCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Linearised:
    """The posterior of some parameters of a trained energy, linearised about their values.

    `balance`, `cache` and `progress` are those of `fit_linear`. The cost is a pass of forces for each parameter.

    **Raises:** `UserError` where there is no label, an element is unknown, or a label is not finite.
    """
    check_dataset(energy, dataset)
    leaves = choose(energy)
    groups = np.concatenate([np.full(np.size(leaf), i) for i, leaf in enumerate(leaves)])
    cache = RowCache() if cache is None else cache
    blocks = _design(energy, dataset, choose, dtype, cache)
    names = [f"{i} of {len(leaves)}" for i in range(len(leaves))]
    found = solve(blocks, dataset, groups, names, balance=balance, progress=progress)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return Linearised(**fields, energy=energy, choose=choose, dtype=dtype, cache=cache)


def _design(energy: AbstractEnergy, dataset: Dataset, choose: Choose, dtype: Any, cache: RowCache) -> Iterator[Block]:
    loader = Loader(dataset, energy.cutoff, batch_atoms=1, dtype=dtype, max_shapes=2)
    elements = dataset.elements if energy.elements is None else energy.elements
    trained = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in choose(energy)])

    def items() -> Iterator[tuple[int, Any]]:
        for i in loader.plan(0):
            index = int(i[0])
            rows = cache.get(dataset[index])
            yield index, _rows(energy, loader.pack(i).graph, choose) if rows is None else rows

    for index, found in ahead(items()):
        record = dataset[index]
        kept = [np.asarray(x) for x in found]
        kept[1], kept[4] = kept[1][: len(record)], kept[4][: len(record)]
        cache.put(record, kept)
        known = [x.astype(np.float64) for x in kept]
        rest = [np.asarray(values - rows @ trained) for rows, values in zip(known[:3], known[3:], strict=True)]
        yield make_block(record, index, elements, known[:3], predicted=rest)


@Compiled
def _rows(energy: AbstractEnergy, graph: Graph, choose: Choose) -> tuple[Array, ...]:
    """What each parameter adds to energy, forces and virial, parameters last; then these three themselves."""
    flat, unravel = ravel_pytree(list(choose(energy)))

    def outputs(parameters: Array) -> tuple[Array, Array, Array]:
        e, f, v = energy_forces_virial(eqx.tree_at(choose, energy, unravel(parameters)), graph)
        return e[0], f, v[0]

    values, push = jax.linearize(outputs, flat)
    columns = jax.lax.map(push, jnp.eye(flat.size, dtype=flat.dtype), batch_size=16)
    return *(jnp.moveaxis(x, 0, -1) for x in columns), *values


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What `leave_out` found for one frame: `residuals` with and `left_out` without it, in units of the noise, the kind
    of each label (an index of `KINDS`), the prior precision `ridge`, and whether the iteration `converged`."""

    frame: int
    kind: np.ndarray
    residuals: np.ndarray
    left_out: np.ndarray
    ridge: float
    converged: bool


def leave_out(
    energy: AbstractEnergy,
    dataset: Dataset,
    frames: Sequence[int],
    *,
    noise: Mapping[str, float],
    damping: float = 1e-3,
    balance: float = 0.5,
    iterations: int = 100,
    tolerance: float = 1e-3,
    dtype: Any = np.float32,
    progress: Callable[[int, int], None] | None = None,
) -> list[LeftOut]:
    """Leave-one-out residuals of some frames by Gauss-Newton in all parameters, without a matrix.

    `noise` of each kind of label [eV/atom, eV/Å, eV/atom], as a `Posterior` has it; `balance` as in `fit_linear`;
    `damping`: the prior precision, in units of the mean of the diagonal of the rest. All frames are solved for at the
    same time: an iteration is two passes over the data set for each frame. `progress(done, iterations)` is called after
    each.

    **Raises:** `UserError` for frames that are not there, a damping that is not positive, or no labels.
    """
    frames = [int(i) for i in frames]
    if not frames or min(frames) < 0 or max(frames) >= len(dataset):
        raise UserError(f"`frames` are indices of the data set, 0 to {len(dataset) - 1}; got {frames}.")
    if not damping > 0.0:
        raise UserError(f"`damping` must be positive; got {damping}.")
    check_dataset(energy, dataset)
    loader = Loader(dataset, energy.cutoff, batch_size=1, dtype=dtype, max_shapes=1)
    batches = [loader.pack([i]) for i in range(len(dataset))]
    graphs = jax.tree.map(lambda *x: jnp.stack(x), *[b.graph for b in batches])
    targets, weight, kind = _targets(batches, dataset, noise, balance)
    dynamic, static = eqx.partition(energy, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(dynamic)

    def outputs(parameters: Array, graph: Graph) -> Float[Array, "labels"]:
        model = eqx.combine(unravel(parameters), static)
        e, f, v = energy_forces_virial(model, graph)
        atoms = jnp.sum(graph.numbers > 0).astype(e.dtype)
        virial = v[0][_UPPER] / atoms
        return jnp.concatenate([e / atoms, f.reshape(-1), virial])

    predicted = jax.jit(lambda: jax.lax.map(lambda g: outputs(flat, g), graphs))()
    residuals = jnp.where(weight > 0.0, targets - predicted, jnp.zeros_like(targets))
    own = jnp.asarray(frames)

    @jax.jit
    def pull(vectors: Float[Array, "frames labels"]) -> Array:
        """J_B^T W_B of the frames' own labels."""

        def one(frame: Array, vector: Array) -> Array:
            graph = jax.tree.map(lambda x: x[frame], graphs)
            _, back = jax.vjp(lambda p: outputs(p, graph), flat)
            return back(weight[frame] * vector)[0]

        return jax.lax.map(lambda x: one(*x), (own, vectors))

    @jax.jit
    def push(vectors: Float[Array, "frames parameters"]) -> Array:
        """J_B of the frames' own labels."""

        def one(frame: Array, vector: Array) -> Array:
            graph = jax.tree.map(lambda x: x[frame], graphs)
            return jax.jvp(lambda p: outputs(p, graph), (flat,), (vector,))[1]

        return jax.lax.map(lambda x: one(*x), (own, vectors))

    @jax.jit
    def product(vectors: Float[Array, "frames parameters"]) -> Array:
        """Of each vector with the Gauss-Newton matrix of all frames but its own."""

        def add(total: Array, item: tuple[Array, Graph, Array]) -> tuple[Array, None]:
            index, graph, w = item
            _, forward = jax.linearize(lambda p: outputs(p, graph), flat)
            backward = jax.linear_transpose(forward, flat)
            mine = (own != index).astype(flat.dtype)
            image = jax.vmap(lambda v: backward(w * forward(v))[0])(vectors)
            return total + mine[:, None] * image, None

        total, _ = jax.lax.scan(add, jnp.zeros_like(vectors), (jnp.arange(len(dataset)), graphs, weight))
        return total

    probe = jax.random.rademacher(jax.random.key(0), (len(frames), flat.size), flat.dtype)
    ridge = damping * jnp.mean(probe * product(probe))  # the mean of the diagonal, by random signs
    right = pull(residuals[own])
    solution, converged = _conjugate_gradients(lambda v: product(v) + ridge * v, right, iterations, tolerance, progress)
    moved = np.asarray(push(solution), np.float64)
    held = np.asarray(residuals[own], np.float64)
    present = np.asarray(weight[own] > 0.0)
    sigma = np.array([noise[k] for k in KINDS])[kind]
    return [
        LeftOut(
            frame=frame,
            kind=kind[here],
            residuals=(held[i] / sigma)[here],
            left_out=((held[i] + moved[i]) / sigma)[here],
            ridge=float(ridge),
            converged=bool(converged[i]),
        )
        for i, (frame, here) in enumerate(zip(frames, present, strict=True))
    ]


def _targets(
    batches: Sequence[Any], dataset: Dataset, noise: Mapping[str, float], balance: float
) -> tuple[Array, Array, np.ndarray]:
    """Labels of every frame in one row, the weight of each (over its variance; 0 where there is none), and its kind."""
    atoms = batches[0].graph.positions.shape[0]
    kind = np.repeat(np.arange(3), (1, 3 * atoms, 6))
    labels, present = [], []
    for batch in batches:
        x = batch.labels
        each = float(x.inverse_atoms[0])
        labels.append(np.concatenate([x.energy[:1] * each, x.forces.reshape(-1), -x.virial_per_atom[0][_UPPER]]))
        has = (x.energy_weight[:1], np.repeat(x.force_weight, 3), x.stress_weight[0][_UPPER])
        present.append(np.concatenate(has) > 0.0)
    mask = np.array(present)
    counts = np.array([mask[:, kind == k].sum() for k in range(3)], np.float64)
    if not counts.any():
        raise UserError(f"There is no label to leave out.\n{dataset.census()}")
    counted = (counts.max() / np.maximum(counts, 1.0)) ** balance / np.array([noise[k] for k in KINDS]) ** 2
    dtype = batches[0].graph.positions.dtype
    return jnp.asarray(np.array(labels), dtype), jnp.asarray(mask * counted[kind], dtype), kind


def _conjugate_gradients(
    product: Callable[[Array], Array],
    right: Float[Array, "frames parameters"],
    iterations: int,
    tolerance: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[Array, np.ndarray]:
    """Solutions for all right sides at once, and which have converged."""
    solution = jnp.zeros_like(right)
    rest = direction = right
    square = jnp.sum(rest**2, axis=1)
    goal = tolerance**2 * square
    for done in range(1, iterations + 1):
        image = product(direction)
        step = square / jnp.maximum(jnp.sum(direction * image, axis=1), jnp.finfo(right.dtype).tiny)
        step = jnp.where(square > goal, step, jnp.zeros_like(step))
        solution = solution + step[:, None] * direction
        rest = rest - step[:, None] * image
        new = jnp.sum(rest**2, axis=1)
        new = jnp.where(square > goal, new, square)
        ratio = new / jnp.maximum(square, jnp.finfo(right.dtype).tiny)
        direction, square = rest + ratio[:, None] * direction, new
        if progress is not None:
            progress(done, iterations)
        if bool(jnp.all(square <= goal)):
            break
    return solution, np.asarray(square <= goal)
