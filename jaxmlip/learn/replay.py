r"""Labels as a quadratic form: their chi-square near the parameters that there are, without a matrix.

A fit to observables leaves most parameters open. What labels say of them is kept as their own chi-square, its gradient
and products with its Gauss-Newton matrix $J^T W J$, one forward and one backward pass each: directions that labels
determine cost much, others little.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmlip.compilation import Compiled
from jaxmlip.data import Batch, Dataset, Loader
from jaxmlip.energy import AbstractEnergy, AtomicReferences, Sum
from jaxmlip.errors import UserError
from jaxmlip.learn.evaluate import check_dataset
from jaxmlip.learn.linear import KINDS, LinearFit
from jaxmlip.learn.loss import residuals
from jaxmlip.models.linear import LinearACE


class AbstractLabels(eqx.Module):
    """Labels, whose deviations are found piece by piece. `weight` multiplies the chi-square: 1 takes all deviations for
    independent."""

    weight: eqx.AbstractVar[Float[Array, ""]]
    dense: ClassVar[bool] = False  # whether the matrix itself is at hand

    @abc.abstractmethod
    def pieces(self) -> PyTree:
        """All labels; each array has the pieces along its first axis."""

    @abc.abstractmethod
    def deviations(self, energy: AbstractEnergy, piece: PyTree) -> Float[Array, "labels"]:
        """Of the labels of one piece, in units of their noise; those that are missing are zero."""


class Replay(AbstractLabels):
    """Labelled frames, all in one shape, and the noise that their deviations count in [eV/atom, eV/Å, eV/atom]."""

    batches: Batch
    noise: Float[Array, "3"]
    weight: Float[Array, ""]

    def pieces(self) -> PyTree:
        return self.batches

    def deviations(self, energy: AbstractEnergy, piece: PyTree) -> Float[Array, "labels"]:
        wrong = residuals(energy, piece, stress=True, charges=False)
        labels = piece.labels
        present = (labels.energy_weight > 0.0, (labels.force_weight > 0.0)[:, None], labels.stress_weight > 0.0)
        parts = (wrong.energy, wrong.forces, wrong.virial * _upper(wrong.virial.dtype))
        held = [jnp.where(here, x, jnp.zeros_like(x)) for here, x in zip(present, parts, strict=True)]
        return jnp.concatenate([jnp.ravel(x / self.noise[i].astype(x.dtype)) for i, x in enumerate(held)])


def make_replay(
    energy: AbstractEnergy,
    dataset: Dataset,
    *,
    noise: Mapping[str, float],
    weight: float = 1.0,
    batch_size: int = 4,
    dtype: Any = np.float64,
) -> Replay:
    """The labels of a data set for an energy with references of its own.

    `noise`: how well the energy describes labels of each of `KINDS`, such as the errors of a trained model.

    **Raises:** `UserError` for noise that is not positive, a negative weight, elements that are not known, no labels.
    """
    if sorted(noise) != sorted(KINDS) or not all(np.isfinite(s) and s > 0.0 for s in noise.values()):
        raise UserError(f"`noise` needs a positive number for each of {', '.join(KINDS)}; got {dict(noise)}.")
    if not weight >= 0.0:
        raise UserError(f"The weight of labels must be zero or positive; got {weight}.")
    check_dataset(energy, dataset)
    loader = Loader(dataset, energy.cutoff, batch_size=batch_size, dtype=dtype, max_shapes=1)
    order = np.arange(len(dataset))
    found = [loader.pack(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *found)
    size = jnp.asarray([noise[k] for k in KINDS], dtype)
    return Replay(batches=stacked, noise=size, weight=jnp.asarray(weight, dtype))


class LinearLabels(AbstractLabels):
    """All labels of a linear model, as the posterior of its weights: exact, and as cheap as one frame.

    `factor` is the Cholesky factor of the precision of weights times `scale` about their `mean`, elements' constants
    (less `offsets` [eV]) last; `least` is the root of the chi-square that the mean leaves.
    """

    factor: Float[Array, "weights weights"]
    mean: Float[Array, "weights"]
    scale: Float[Array, "weights"]
    offsets: Float[Array, "species"]
    least: Float[Array, ""]
    weight: Float[Array, ""]
    dense: ClassVar[bool] = True

    def pieces(self) -> PyTree:
        return (self.least[None],)

    def deviations(self, energy: AbstractEnergy, piece: PyTree) -> Float[Array, "labels"]:
        model, references = _linear_parts(energy)
        given = jnp.concatenate([jnp.ravel(model.weights), references.energies - self.offsets])
        away = given.astype(self.mean.dtype) * self.scale - self.mean
        return jnp.concatenate([jnp.matmul(away, self.factor, precision="highest"), piece[0][None]])


def linear_replay(fit: LinearFit, dataset: Dataset, *, weight: float = 1.0) -> LinearLabels:
    """The labels that a linear model was fitted to, and its prior, as one quadratic form of weights and constants.

    With them only `.weights` and `.energies` may change: the basis stays as it is.

    **Raises:** `UserError` for a negative weight.
    """
    if not weight >= 0.0:
        raise UserError(f"The weight of labels must be zero or positive; got {weight}.")
    left = sum(float(block.weight @ fit.residuals(block) ** 2) for block in fit.design(dataset))
    offsets = [fit.references.get(n, 0.0) for n in fit.model.config.elements]
    arrays = {"factor": fit.factor, "mean": fit.mean, "scale": fit.scale, "offsets": offsets}
    arrays |= {"least": np.sqrt(left), "weight": weight}
    return LinearLabels(**{name: jnp.asarray(x, jnp.result_type(float)) for name, x in arrays.items()})


def _linear_parts(energy: AbstractEnergy) -> tuple[LinearACE, AtomicReferences]:
    """The model and its constants, wherever they are in a sum.

    **Raises:** `UserError` where one is missing.
    """
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    models = [t for t in terms if isinstance(t, LinearACE)]
    constants = [t for t in terms if isinstance(t, AtomicReferences)]
    if len(models) != 1 or len(constants) != 1:
        raise UserError(
            "`linear_replay` belongs to the energy that `fit_linear` gave, or a sum with it; got "
            f"{', '.join(type(t).__name__ for t in terms)}."
        )
    return models[0], constants[0]


@Compiled
def chi_square(labels: AbstractLabels, params: PyTree, fixed: PyTree) -> Float[Array, ""]:
    """Of all labels, times the weight."""

    def one(total, piece):
        wrong = labels.deviations(eqx.combine(params, fixed), piece)
        return total + jnp.sum(wrong**2), None

    return labels.weight * lax.scan(one, jnp.zeros_like(labels.weight), labels.pieces())[0]


@Compiled
def slope(labels: AbstractLabels, params: PyTree, fixed: PyTree) -> tuple[Float[Array, ""], PyTree]:
    """The chi-square and half its gradient."""
    zero = (jnp.zeros_like(labels.weight), jax.tree.map(jnp.zeros_like, params))

    def one(total, piece):
        wrong, back = jax.vjp(lambda p: labels.deviations(eqx.combine(p, fixed), piece), params)
        added = (jnp.sum(wrong**2), back(wrong)[0])
        return jax.tree.map(jnp.add, total, added), None

    found = lax.scan(one, zero, labels.pieces())[0]
    return jax.tree.map(lambda x: labels.weight.astype(x.dtype) * x, found)


@Compiled
def curvature(labels: AbstractLabels, params: PyTree, fixed: PyTree, direction: PyTree) -> PyTree:
    """The product of a direction with half the Gauss-Newton matrix of the chi-square."""

    def one(total, piece):
        def outputs(p):
            return labels.deviations(eqx.combine(p, fixed), piece)

        _, forward = jax.linearize(outputs, params)
        backward = jax.linear_transpose(forward, params)
        return jax.tree.map(jnp.add, total, backward(forward(direction))[0]), None

    found = lax.scan(one, jax.tree.map(jnp.zeros_like, params), labels.pieces())[0]
    return jax.tree.map(lambda x: labels.weight.astype(x.dtype) * x, found)


@Compiled
def matrix(labels: AbstractLabels, params: Array, unravel: Any, fixed: PyTree) -> Float[Array, "parameters parameters"]:
    """Half the Gauss-Newton matrix of the chi-square itself, by parameters as one vector, of labels in one piece."""
    piece = jax.tree.map(lambda x: x[0], labels.pieces())
    rows = jax.jacrev(lambda p: labels.deviations(eqx.combine(unravel(p), fixed), piece))(params)
    return labels.weight.astype(rows.dtype) * jnp.matmul(rows.T, rows, precision="highest")


def _upper(dtype: Any) -> Float[Array, "1 3 3"]:
    """Each component of a symmetric tensor once."""
    return jnp.triu(jnp.ones((3, 3), dtype))[None]
