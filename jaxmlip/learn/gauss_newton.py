"""One step of Gauss and Newton over observations, labels and prior, without a matrix where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from scipy import linalg

from jaxmlip.learn import replay as labels
from jaxmlip.learn.finetune_settings import FinetuneSettings


class Quadratic(NamedTuple):
    """The likelihood near some parameters: whitened rows of observations, the gradient of all of it, the diagonal of
    the prior, and labels, of which `unravel` and `fixed` make an energy."""

    jacobian: Float[Array, "values parameters"]
    gradient: Float[Array, "parameters"]
    prior: Float[Array, "parameters"]
    labels: tuple[labels.AbstractLabels, ...]
    unravel: Callable[[Array], PyTree]
    fixed: PyTree


def gauss_newton_step(
    quadratic: Quadratic, params: Float[Array, "parameters"], settings: FinetuneSettings
) -> tuple[Float[Array, "parameters"], bool]:
    """The step to the minimum, and whether it is exact; by conjugate gradients where no matrix is at hand."""
    jacobian, gradient, prior, kinds, unravel, fixed = quadratic
    if kinds and all(kind.dense for kind in kinds):
        whole = np.asarray(jacobian.T @ jacobian, float) + np.diag(np.asarray(prior, float))
        whole += sum(np.asarray(labels.matrix(kind, params, unravel, fixed), float) for kind in kinds)
        step = -linalg.solve(whole, np.asarray(gradient, float), assume_a="pos")
        return jnp.asarray(step, gradient.dtype), True
    point = unravel(params)

    def product(v: Array) -> Array:
        total = jacobian.T @ (jacobian @ v) + prior * v
        for kind in kinds:
            total = total + ravel_pytree(labels.curvature(kind, point, fixed, unravel(v)))[0]
        return total

    return conjugate_gradients(product, -gradient, _preconditioner(jacobian, prior), settings)


def conjugate_gradients(
    product: Callable[[Array], Array],
    right: Float[Array, "parameters"],
    precondition: Callable[[Array], Array],
    settings: FinetuneSettings,
) -> tuple[Float[Array, "parameters"], bool]:
    """The solution of a positive system, and whether it came within the tolerance."""
    solution, rest = jnp.zeros_like(right), right
    aimed = precondition(rest)
    direction, square = aimed, float(jnp.vdot(rest, aimed))
    goal = settings.tolerance**2 * square
    for _ in range(settings.iterations):
        if square <= goal:
            return solution, True
        image = product(direction)
        along = square / float(jnp.vdot(direction, image))
        solution, rest = solution + along * direction, rest - along * image
        aimed = precondition(rest)
        after = float(jnp.vdot(rest, aimed))
        direction, square = aimed + (after / square) * direction, after
    return solution, square <= goal


def _preconditioner(jacobian: Array, prior: Array) -> Callable[[Array], Array]:
    """The inverse of what observations and prior give together."""
    if not len(jacobian):
        return lambda v: v / prior
    inner = jnp.eye(len(jacobian), dtype=jacobian.dtype) + (jacobian / prior[None]) @ jacobian.T
    factor = linalg.cho_factor(np.asarray(inner, float), lower=True)

    def precondition(v: Array) -> Array:
        plain = v / prior
        back = linalg.cho_solve(factor, np.asarray(jacobian @ plain, float))
        return plain - (jacobian.T @ jnp.asarray(back, v.dtype)) / prior

    return precondition
