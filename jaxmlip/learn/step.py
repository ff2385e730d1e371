"""One step of training: what trains, what stays, and the update of parameters, average and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxmlip.data import Batch
from jaxmlip.energy import AbstractEnergy, is_parameter
from jaxmlip.errors import UserError
from jaxmlip.learn.charges import given_leaves
from jaxmlip.learn.loss import Loss, Weights
from jaxmlip.learn.noise import Likelihood
from jaxmlip.learn.settings import TrainSettings

Trainable = Callable[[str, Any], bool]


class TrainState(eqx.Module):
    """All that a step changes: the trained parameters, their moving average and the state of the optimizer."""

    params: PyTree
    average: PyTree
    optimizer: PyTree
    step: Int[Array, ""]


class Problem(NamedTuple):
    """All that a step does not change: the rest of the energy, the loss and the optimizer."""

    fixed: PyTree
    loss: Loss | Likelihood
    optimizer: optax.GradientTransformation
    ema_decay: float


def init(
    energy: AbstractEnergy, loss: Loss | Likelihood, settings: TrainSettings, trainable: Trainable | None = None
) -> tuple[Problem, TrainState]:
    """Divides an energy into what trains and what does not.

    Arrays of floats (JAX, not NumPy) train where `trainable(path, leaf)` says so; a path reads
    `.terms[0].layers[1].weight`. By default all do but charges that were given (`SpeciesCharges`, `AtomCharges`).

    **Raises:** `UserError` where nothing is left to train, or 64 bit is asked for and not enabled.
    """
    if settings.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError('Training in float64 needs `jax.config.update("jax_enable_x64", True)` first.')

    def trains(path, leaf):
        if trainable is None:
            return is_parameter(leaf) and id(leaf) not in given
        return is_parameter(leaf) and bool(trainable(jax.tree_util.keystr(path), leaf))

    given = given_leaves(energy)
    chosen = jax.tree_util.tree_map_with_path(trains, energy)
    params, fixed = eqx.partition(energy, chosen)
    params = jax.tree.map(lambda x: jnp.array(x, settings.dtype), params)
    if not jax.tree.leaves(params):
        raise UserError(
            "The energy has no parameters to train: no floating-point arrays, or none that `trainable` chooses."
        )
    optimizer = settings.build_optimizer()
    state = TrainState(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32))
    return Problem(fixed, loss, optimizer, settings.ema_decay), state


def step(
    inputs: tuple[Problem, Batch, Float[Array, ""], Weights], state: TrainState
) -> tuple[TrainState, Float[Array, ""]]:
    """One step down the gradient of the loss of a batch: the new state, and the loss before it.

    `inputs` are the problem, the batch, the learning rate and the weights of the loss.
    """
    problem, batch, rate, weights = inputs

    def objective(params):
        return problem.loss(eqx.combine(params, problem.fixed), batch, weights)

    value, gradient = jax.value_and_grad(objective)(state.params)
    updates, optimizer = problem.optimizer.update(gradient, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p + rate.astype(p.dtype) * u, state.params, updates)
    age = state.step.astype(rate.dtype)
    decay = jnp.minimum(jnp.asarray(problem.ema_decay, rate.dtype), (1.0 + age) / (10.0 + age))
    average = jax.tree.map(lambda a, p: a + (1.0 - decay).astype(p.dtype) * (p - a), state.average, params)
    return TrainState(params, average, optimizer, state.step + 1), value


compiled_step = eqx.filter_jit(step, donate="all-except-first")
