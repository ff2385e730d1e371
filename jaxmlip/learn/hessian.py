r"""Force constants as labels: the error of second derivatives, by products with the Hessian and never its matrix.

With labelled columns $H V$ along directions $V$ (unit vectors of some atoms, or anything else) and a random matrix $C$
of
$\mathrm{E}[C^T C] = 1$,

$\mathrm{E} \sum_p \left| (H_\theta - H) V c_p \right|^2 = \left\lVert (H_\theta - H) V \right\rVert^2$,

so that one product for each row $c_p$ of $C$ gives the sum of squares over all labelled entries without bias. With rows
of random signs (`random_signs`) each probe sees all columns; with rows that choose (`random_columns`), one.

**Reference:** Hutchinson, Commun. Stat. Simul. Comput. 18, 1059 (1989), doi:10.1080/03610918908812806 (random signs).
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxmlip.energy import AbstractEnergy, hessian, hessian_vector_product
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph, batch
from jaxmlip.learn.replay import AbstractLabels
from jaxmlip.system import System


class HessianLabels(eqx.Module):
    """Second derivatives of one or several systems along directions: `products` [eV/Å²] with unit displacements.

    Each system has its own directions in the same slots, zeros where it has fewer. `weights` are one over the number of
    labelled entries of each system.
    """

    graph: Graph
    directions: Float[Array, "columns atoms 3"]
    products: Float[Array, "columns atoms 3"]
    weights: Float[Array, "systems"]

    @property
    def columns(self) -> int:
        return self.directions.shape[0]


class ForceConstants(AbstractLabels):
    """Labelled second derivatives as a part of a likelihood: each column is a piece, one product with the Hessian.

    `noise` [eV/Å²] is how well the labels are known, and the model can describe them.
    """

    labels: HessianLabels
    noise: Float[Array, ""]
    weight: Float[Array, ""]

    def pieces(self) -> PyTree:
        return self.labels.directions, self.labels.products

    def deviations(self, energy: AbstractEnergy, piece: PyTree) -> Float[Array, "labels"]:
        direction, truth = piece
        wrong = hessian_vector_product(energy, self.labels.graph, direction) - truth
        real = self.labels.graph.atom_mask[:, None]
        return jnp.ravel(jnp.where(real, wrong, jnp.zeros_like(wrong)) / self.noise.astype(wrong.dtype))


def make_force_constants(labels: HessianLabels, *, noise: float, weight: float = 1.0) -> ForceConstants:
    """Labels of `hessian_labels` with their `noise` [eV/Å²].

    **Raises:** `UserError` for noise that is not positive, and a weight that is negative.
    """
    if not (np.isfinite(noise) and noise > 0.0 and weight >= 0.0):
        raise UserError(f"The noise must be positive [eV/Å²], the weight not negative; got {noise} and {weight}.")
    dtype = labels.directions.dtype
    return ForceConstants(labels=labels, noise=jnp.asarray(noise, dtype), weight=jnp.asarray(weight, dtype))


def hessian_labels(
    systems: Sequence[System],
    hessians: Sequence[np.ndarray | Array],
    cutoff: float,
    *,
    atoms: Sequence[Sequence[int]] | None = None,
) -> HessianLabels:
    """Labels from matrices of force constants, `[atoms 3 atoms 3]` or `[3 atoms, 3 atoms]` [eV/Å²] (host).

    `atoms` says for each system which atoms' columns are known and used (all by default); others may hold anything.

    **Raises:** `UserError` where a matrix does not fit its system, is not finite or not symmetric in what is used, or
    an atom does not exist.
    """
    if len(systems) != len(hessians) or not systems:
        raise UserError(f"Give one matrix for each system; got {len(hessians)} for {len(systems)}.")
    chosen = [range(len(s.numbers)) for s in systems] if atoms is None else atoms
    if len(chosen) != len(systems):
        raise UserError(f"`atoms` must be one list for each of {len(systems)} systems; got {len(chosen)}.")
    graph = batch(list(systems), cutoff)
    total, most = len(graph.numbers), max(3 * len(picked) for picked in chosen)
    directions, products = np.zeros((2, most, total, 3))
    start, weights = 0, []
    for i, (system, given, picked) in enumerate(zip(systems, hessians, chosen, strict=True)):
        count = len(system.numbers)
        known = _checked(np.asarray(given, np.float64), count, np.asarray(picked, int), i)
        for k, (atom, axis) in enumerate((a, x) for a in picked for x in range(3)):
            directions[k, start + atom, axis] = 1.0
            products[k, start : start + count] = known[:, :, atom, axis]
        weights.append(1.0 / (9.0 * count * len(picked)))
        start += count
    dtype = graph.positions.dtype
    return HessianLabels(graph, *(jnp.asarray(x, dtype) for x in (directions, products, np.array(weights))))


def label_hessians(energy: AbstractEnergy, systems: Sequence[System], cutoff: float | None = None) -> HessianLabels:
    """Labels by another energy, all columns; `cutoff` [Å] is that of the model that will learn them."""
    exact = eqx.filter_jit(hessian)
    found = [exact(energy, batch(system, energy.cutoff)) for system in systems]
    return hessian_labels(systems, found, energy.cutoff if cutoff is None else cutoff)


def random_signs(key: PRNGKeyArray, labels: HessianLabels, probes: int = 1) -> Float[Array, "probes columns"]:
    """Each probe is the sum of all columns with random signs."""
    dtype = labels.directions.dtype
    return jax.random.rademacher(key, (probes, labels.columns), dtype) * float(probes) ** -0.5


def random_columns(key: PRNGKeyArray, labels: HessianLabels, probes: int = 1) -> Float[Array, "probes columns"]:
    """Each probe is one column, none twice."""
    chosen = jax.random.choice(key, labels.columns, (probes,), replace=False)
    rows = jax.nn.one_hot(chosen, labels.columns, dtype=labels.directions.dtype)
    return rows * (labels.columns / probes) ** 0.5


def all_columns(labels: HessianLabels) -> Float[Array, "probes columns"]:
    """Every column for itself: no randomness, and as many products as columns."""
    return jnp.eye(labels.columns, dtype=labels.directions.dtype)


def hessian_loss(
    energy: AbstractEnergy, labels: HessianLabels, probes: Float[Array, "probes columns"]
) -> Float[Array, ""]:
    """The mean square error of labelled second derivatives [(eV/Å²)²], the mean over systems; an estimate of it without
    bias where `probes` are random. One product with the Hessian for each, forward over backward; its gradient by
    parameters is one more backward pass."""
    graph = labels.graph

    def error(coefficients):
        direction = jnp.tensordot(coefficients, labels.directions, 1, precision="highest")
        truth = jnp.tensordot(coefficients, labels.products, 1, precision="highest")
        wrong = hessian_vector_product(energy, graph, direction) - truth
        return jnp.sum(labels.weights * graph.sum_atoms(jnp.sum(wrong * wrong, axis=1)))

    return jnp.sum(jax.lax.map(jax.checkpoint(error), probes)) / float(graph.systems)


def _checked(matrix: np.ndarray, count: int, picked: np.ndarray, index: int) -> np.ndarray:
    """A matrix that can be used, as four axes."""
    if matrix.shape not in ((3 * count, 3 * count), (count, 3, count, 3)):
        raise UserError(
            f"Force constants of system {index} with {count} atoms must have shape ({3 * count}, {3 * count}) or "
            f"({count}, 3, {count}, 3); got {matrix.shape}."
        )
    if len(picked) == 0 or picked.min() < 0 or picked.max() >= count or len(set(picked.tolist())) < len(picked):
        raise UserError(f"`atoms` of system {index} must be different ones of 0 to {count - 1}; got {picked.tolist()}.")
    matrix = matrix.reshape(count, 3, count, 3)
    used = matrix[:, :, picked]
    if not np.all(np.isfinite(used)):
        raise UserError(f"Force constants of system {index} are not finite in the columns that are used.")
    among = used[picked].reshape(3 * len(picked), 3 * len(picked))
    wrong = np.abs(among - among.T).max()
    if wrong > 1e-3 * np.abs(used).max():
        raise UserError(
            f"Force constants of system {index} are not symmetric, by up to {wrong:.2e} eV/Å²: check the order of the "
            "axes, or symmetrize them."
        )
    return matrix
