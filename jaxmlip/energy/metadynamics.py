"""Metadynamics: a bias of Gaussian hills that grows where the system has been."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.bias import shared, within_period
from jaxmlip.energy.table import check_values
from jaxmlip.energy.variables import AbstractVariable
from jaxmlip.graph import Graph


class Metadynamics(AbstractEnergy):
    r"""Hills on collective variables: $V(s) = \sum_h w_h \exp \left[-\sum_d (s_d - s_{hd})^2 / 2 \sigma_d^2\right]$.

    The hills are arrays of this energy, with room for `capacity` of them, and `deposit` returns the energy with one
    hill more: between the chunks of `run`, or inside a compiled loop, without compiling anything again. To save the
    bias is to save its arrays.

    `variables` is one collective variable or several; `width` $\sigma$ one number for each, in its unit. A hill is
    `height` [eV] high where nothing has been deposited, and $e^{-V / k_B \Delta T}$ of that where the bias is V, with
    $\Delta T = (\gamma - 1) T$ (well-tempered: the bias factor $\gamma$ is above 1, T is `temperature` [K]; infinity
    keeps the height). For one system: in a graph of many, all of them feel the hills, and the first deposits them.

    **Reference:** Laio & Parrinello, PNAS 99, 12562 (2002), doi:10.1073/pnas.202427399; Barducci, Bussi & Parrinello,
    Phys. Rev. Lett. 100, 020603 (2008), doi:10.1103/PhysRevLett.100.020603.
    """

    variables: tuple[AbstractVariable, ...]
    centers: Float[Array, "hills variables"]
    heights: Float[Array, "hills"]
    count: Int[Array, ""]
    width: Float[Array, "variables"]
    height: Float[Array, ""]
    bias_factor: Float[Array, ""]
    temperature: Float[Array, ""]

    def __init__(
        self,
        variables: AbstractVariable | Sequence[AbstractVariable],
        width: float | Sequence[float] | np.ndarray | Array,
        height: float | Array,
        *,
        temperature: float | Array,
        bias_factor: float | Array = float("inf"),
        capacity: int = 1000,
    ):
        self.variables = (variables,) if isinstance(variables, AbstractVariable) else tuple(variables)
        self.width = parameter(np.atleast_1d(np.asarray(width, np.float64)))
        if not self.variables or self.width.shape != (len(self.variables),):
            raise ValueError(f"Give one `width` for each of {len(self.variables)} variables; got {width}.")
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least one hill; got {capacity}.")
        self.height, self.temperature = parameter(height), parameter(temperature)
        self.bias_factor = parameter(bias_factor)
        for name in ("width", "height", "temperature"):
            check_values(name, getattr(self, name), above=0.0)
        if not float(self.bias_factor) > 1.0:
            raise ValueError(f"`bias_factor` must be above 1; got {float(self.bias_factor)}.")
        self.centers = jnp.zeros((capacity, len(self.variables)), self.width.dtype)
        self.heights = jnp.zeros((capacity,), self.width.dtype)
        self.count = jnp.zeros((), jnp.int32)

    @property
    def cutoff(self) -> float:
        return max(variable.cutoff for variable in self.variables)

    @property
    def elements(self) -> tuple[int, ...] | None:
        return None

    @property
    def capacity(self) -> int:
        """Room for so many hills."""
        return len(self.heights)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return shared(graph, self.at(self.values(graph)))

    def values(self, graph: Graph) -> Float[Array, "systems variables"]:
        """The collective variables of each system."""
        return jnp.stack([variable(graph) for variable in self.variables], axis=-1)

    def at(self, values: Float[Array, "points variables"]) -> Float[Array, "points"]:
        """The bias [eV] at some values of the collective variables."""
        squared = jnp.zeros((len(values), self.capacity), values.dtype)
        for d, variable in enumerate(self.variables):
            off = values[:, d, None] - self.centers.astype(values.dtype)[None, :, d]
            squared = squared + (within_period(off, variable.period) / self.width[d].astype(values.dtype)) ** 2
        return jnp.sum(self.heights.astype(values.dtype)[None, :] * jnp.exp(-0.5 * squared), axis=1)

    def free_energy(self, values: Float[Array, "points variables"]) -> Float[Array, "points"]:
        r"""The estimate $-\frac{\gamma}{\gamma - 1} V(s)$ of the free energy [eV], up to a constant."""
        return -self.at(values) / (1.0 - 1.0 / self.bias_factor.astype(values.dtype))


def deposit(bias: Metadynamics, graph: Graph) -> Metadynamics:
    """The bias with one hill more, where the (first) system of `graph` is.

    Inside jit a hill for which there is no room is lost, and `count` goes on beyond `capacity` to say so.

    **Raises:** `ValueError`, outside jit, where there is no room: make some by `enlarge`.
    """
    if not isinstance(bias.count, Tracer) and int(bias.count) >= bias.capacity:
        raise ValueError(f"All {bias.capacity} hills are used: make room by `enlarge(bias, capacity)`.")
    return _deposit(bias, graph)


@eqx.filter_jit
def _deposit(bias: Metadynamics, graph: Graph) -> Metadynamics:
    values = jax.lax.stop_gradient(bias.values(graph)[:1])
    excess = units.kB * bias.temperature * (bias.bias_factor - 1.0)
    height = bias.height * jnp.exp(-bias.at(values)[0].astype(bias.height.dtype) / excess)
    centers = bias.centers.at[bias.count].set(values[0].astype(bias.centers.dtype), mode="drop")
    heights = bias.heights.at[bias.count].set(height.astype(bias.heights.dtype), mode="drop")
    return eqx.tree_at(lambda b: (b.centers, b.heights, b.count), bias, (centers, heights, bias.count + 1))


def enlarge(bias: Metadynamics, capacity: int) -> Metadynamics:
    """The same bias with room for `capacity` hills (what uses it is compiled anew).

    **Raises:** `ValueError` where hills would be lost.
    """
    more = capacity - bias.capacity
    if more < 0:
        raise ValueError(f"The bias has room for {bias.capacity} hills; `capacity` cannot be {capacity}.")
    return eqx.tree_at(
        lambda b: (b.centers, b.heights),
        bias,
        (jnp.pad(bias.centers, ((0, more), (0, 0))), jnp.pad(bias.heights, (0, more))),
    )
