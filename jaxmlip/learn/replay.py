r"""Labels as a quadratic form: their chi-square near the parameters that there are, without a matrix.

A fit to observables leaves most parameters open. What labels say of them is kept as their own chi-square, its gradient
and products with its Gauss-Newton matrix $J^T W J$, one forward and one backward pass each: directions that labels
determine cost much, others little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmlip.compilation import Compiled
from jaxmlip.data import Batch, Dataset, Loader
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.learn.evaluate import check_dataset
from jaxmlip.learn.linear import KINDS
from jaxmlip.learn.loss import residuals


class Replay(eqx.Module):
    """Labelled frames, all in one shape, and the noise that their deviations count in [eV/atom, eV/Å, eV/atom].

    `weight` multiplies the chi-square: 1 takes all deviations for independent.
    """

    batches: Batch
    noise: Float[Array, "3"]
    weight: Float[Array, ""]


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
    return Replay(stacked, size, jnp.asarray(weight, dtype))


@Compiled
def chi_square(replay: Replay, params: PyTree, fixed: PyTree) -> Float[Array, ""]:
    """Of all labels, times the weight."""

    def one(total, batch):
        wrong = _deviations(eqx.combine(params, fixed), batch, replay.noise)
        return total + jnp.sum(wrong**2), None

    return replay.weight * lax.scan(one, jnp.zeros_like(replay.weight), replay.batches)[0]


@Compiled
def slope(replay: Replay, params: PyTree, fixed: PyTree) -> tuple[Float[Array, ""], PyTree]:
    """The chi-square and half its gradient."""
    zero = (jnp.zeros_like(replay.weight), jax.tree.map(jnp.zeros_like, params))

    def one(total, batch):
        wrong, back = jax.vjp(lambda p: _deviations(eqx.combine(p, fixed), batch, replay.noise), params)
        added = (jnp.sum(wrong**2), back(wrong)[0])
        return jax.tree.map(jnp.add, total, added), None

    found = lax.scan(one, zero, replay.batches)[0]
    return jax.tree.map(lambda x: replay.weight.astype(x.dtype) * x, found)


@Compiled
def curvature(replay: Replay, params: PyTree, fixed: PyTree, direction: PyTree) -> PyTree:
    """The product of a direction with half the Gauss-Newton matrix of the chi-square."""

    def one(total, batch):
        def outputs(p):
            return _deviations(eqx.combine(p, fixed), batch, replay.noise)

        _, forward = jax.linearize(outputs, params)
        backward = jax.linear_transpose(forward, params)
        return jax.tree.map(jnp.add, total, backward(forward(direction))[0]), None

    found = lax.scan(one, jax.tree.map(jnp.zeros_like, params), replay.batches)[0]
    return jax.tree.map(lambda x: replay.weight.astype(x.dtype) * x, found)


def _deviations(energy: AbstractEnergy, batch: Batch, noise: Float[Array, "3"]) -> Float[Array, "labels"]:
    """Of all labels of a batch, in units of the noise; those that are missing are zero."""
    wrong = residuals(energy, batch, stress=True, charges=False)
    labels = batch.labels
    present = (labels.energy_weight > 0.0, (labels.force_weight > 0.0)[:, None], labels.stress_weight > 0.0)
    parts = (wrong.energy, wrong.forces, wrong.virial * _upper(wrong.virial.dtype))
    held = [jnp.where(here, x, jnp.zeros_like(x)) for here, x in zip(present, parts, strict=True)]
    return jnp.concatenate([jnp.ravel(x / noise[i].astype(x.dtype)) for i, x in enumerate(held)])


def _upper(dtype: Any) -> Float[Array, "1 3 3"]:
    """Each component of a symmetric tensor once."""
    return jnp.triu(jnp.ones((3, 3), dtype))[None]
