"""Pair potentials: any law of distance as an energy, and some that are used often."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.energy.envelope import polynomial_envelope
from jaxmlip.energy.laws import inverse_power, morse, soft_sphere
from jaxmlip.energy.table import Given, Pairs, check_values, elements_of, read_pairs
from jaxmlip.energy.truncation import check_truncation, sum_pairs
from jaxmlip.graph import Graph


class Pair(AbstractEnergy):
    """Any pure function of distance as an energy: `Pair(lambda r, k: k / r**9, {"k": 5.0}, cutoff=4.0)`.

    `function(r, **parameters)` gets distances [Å] and returns energies of pairs [eV] of the same shape; it is evaluated
    at no distance beyond `cutoff`. Parameters are numbers, or tables for each pair of elements,
    `{"k": {"Si-O": 5.0, "Si-Si": 0.0, "O-O": 2.0}}`; they are arrays, so they can be fitted. The energy is switched off
    between `onset * cutoff` and `cutoff` with two continuous derivatives; `truncation` may be another of those in
    `truncation.sum_pairs`. The function itself is part of the compiled program: define it once, not in a loop.
    """

    parameters: dict[str, Float[Array, "*pairs"]]
    function: Callable = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    truncation: str = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[..., Float[Array, "*any"]],
        parameters: Mapping[str, Given],
        cutoff: float,
        onset: float = 0.8,
        elements: tuple[int, ...] | None = None,
        *,
        truncation: str = "switch",
    ):
        check_truncation(cutoff, onset, truncation)
        self.parameters, self.pairs = read_pairs(parameters)
        if elements is not None and self.pairs is not None:
            raise ValueError("`elements` follow from the tables of the parameters; leave them out.")
        self.elements = elements if self.pairs is None else elements_of(self.pairs)
        self.function, self.cutoff, self.onset, self.truncation = function, cutoff, onset, truncation
        _check_law(function, self.parameters)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        ending = {"cutoff": self.cutoff, "onset": self.onset, "truncation": self.truncation}
        return sum_pairs(graph, self.function, self.parameters, self.pairs, **ending)


class Morse(AbstractEnergy):
    """Morse pairs: `depth` [eV], `width` [1/Å] and equilibrium `distance` [Å], numbers or tables of pairs of elements.

    Finite at zero distance: where atoms could come close, add a repulsion (`ZBL()`, `Repulsion(...)`).

    **Reference:** Morse, Phys. Rev. 34, 57 (1929), doi:10.1103/PhysRev.34.57.
    """

    depth: Float[Array, "*pairs"]
    width: Float[Array, "*pairs"]
    distance: Float[Array, "*pairs"]
    cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    truncation: str = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)

    def __init__(
        self,
        depth: Given,
        width: Given,
        distance: Given,
        cutoff: float,
        onset: float = 0.8,
        *,
        truncation: str = "switch",
    ):
        check_truncation(cutoff, onset, truncation)
        values, self.pairs = read_pairs({"depth": depth, "width": width, "distance": distance})
        self.depth, self.width, self.distance = values["depth"], values["width"], values["distance"]
        for name in ("width", "distance"):
            check_values(name, values[name], above=0.0)
        check_values("depth", self.depth, least=0.0)
        self.elements = None if self.pairs is None else elements_of(self.pairs)
        self.cutoff, self.onset, self.truncation = cutoff, onset, truncation

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        values = {"depth": self.depth, "width": self.width, "distance": self.distance}
        ending = {"cutoff": self.cutoff, "onset": self.onset, "truncation": self.truncation}
        return sum_pairs(graph, morse, values, self.pairs, **ending)


class SoftSphere(AbstractEnergy):
    r"""Spheres that push each other where they overlap: $\frac{\epsilon}{n} (1 - r / \sigma)^n$ for $r < \sigma$.

    `epsilon` [eV] and diameter `sigma` [Å] are numbers or tables of pairs of elements; the exponent n is at least 3, so
    that two derivatives are continuous at contact. `cutoff` [Å] is the largest diameter there may be (by default the
    largest given); a diameter fitted beyond it counts as the cutoff. Finite at zero distance.

    **Reference:** the harmonic spheres (n = 2) of O'Hern et al., Phys. Rev. E 68, 011306 (2003),
    doi:10.1103/PhysRevE.68.011306, with a higher power.
    """

    epsilon: Float[Array, "*pairs"]
    sigma: Float[Array, "*pairs"]
    exponent: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)

    def __init__(self, epsilon: Given, sigma: Given, exponent: float = 3.0, cutoff: float | None = None):
        if not 3.0 <= exponent < float("inf"):
            raise ValueError(f"`exponent` must be at least 3 (two continuous derivatives); got {exponent}.")
        values, self.pairs = read_pairs({"epsilon": epsilon, "sigma": sigma})
        self.epsilon, self.sigma = values["epsilon"], values["sigma"]
        check_values("epsilon", self.epsilon, least=0.0)
        check_values("sigma", self.sigma, above=0.0)
        largest = float(np.max(np.asarray(self.sigma)))
        if cutoff is not None and cutoff < largest:
            raise ValueError(f"`cutoff` must be at least the largest `sigma`, {largest} Å; got {cutoff}.")
        self.exponent, self.cutoff = exponent, largest if cutoff is None else cutoff
        self.elements = None if self.pairs is None else elements_of(self.pairs)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        def law(r, epsilon, sigma):
            return soft_sphere(r, epsilon, jnp.minimum(sigma, jnp.asarray(self.cutoff, r.dtype)), self.exponent)

        values = {"epsilon": self.epsilon, "sigma": self.sigma}
        return sum_pairs(graph, law, values, self.pairs, cutoff=self.cutoff, truncation="cut")


class Repulsion(AbstractEnergy):
    r"""A wall $A / r^n$ between all atoms, a short-range prior: `model + Repulsion(10.0, 12.0, cutoff=1.6)`.

    `prefactor` A [eV Åⁿ] is a number or a table of pairs of elements, n = `exponent`. Smoothly zero at `cutoff` [Å], by
    the polynomial envelope that `ZBL` has.
    """

    prefactor: Float[Array, "*pairs"]
    exponent: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)

    def __init__(self, prefactor: Given, exponent: float = 12.0, cutoff: float = 2.0):
        check_truncation(cutoff, 1.0, "cut")
        if not 0.0 < exponent < float("inf"):
            raise ValueError(f"`exponent` must be positive; got {exponent}.")
        values, self.pairs = read_pairs({"prefactor": prefactor})
        self.prefactor = values["prefactor"]
        check_values("prefactor", self.prefactor, least=0.0)
        self.elements = None if self.pairs is None else elements_of(self.pairs)
        self.exponent, self.cutoff = exponent, cutoff

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        def law(r, prefactor):
            return inverse_power(r, prefactor, self.exponent) * polynomial_envelope(r / self.cutoff)

        values = {"prefactor": self.prefactor}
        return sum_pairs(graph, law, values, self.pairs, cutoff=self.cutoff, truncation="cut")


def _check_law(function: Callable, parameters: Mapping[str, Array]) -> None:
    """Refuse a function that does not turn distances and the parameters into as many energies."""
    r = jax.ShapeDtypeStruct((3, 2), jnp.result_type(float))
    each = {k: v if v.ndim == 0 else jax.ShapeDtypeStruct((3, 2), v.dtype) for k, v in parameters.items()}
    try:
        result = jax.eval_shape(function, r, **each)
    except TypeError as error:
        raise ValueError(f"`function` cannot be called as function(r, {', '.join(parameters)}): {error}") from error
    if not isinstance(result, jax.ShapeDtypeStruct) or result.shape != r.shape or result.dtype != r.dtype:
        raise ValueError(f"`function` must turn distances of any shape into as many energies; it returned {result}.")
