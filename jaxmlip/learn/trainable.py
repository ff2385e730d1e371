"""Which parameters a fit may change: parts by name, low ranks beside matrices, or what is added to a frozen energy."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip.energy import AbstractEnergy, Sum, is_parameter
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.step import Trainable
from jaxmlip.models.ace import ACE
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.models.nequip import NequIP

NAMES: dict[str, dict[type, tuple[str, ...]]] = {
    "last layer": {
        ACE: (".layers[*].out", ".layers[*].bond"),
        NequIP: (".readout",),
        LinearACE: (".weights",),
    },
    "species embedding": {
        ACE: (".embedding",),
        NequIP: (".first.skip*", ".middle.skip*", ".last.skip*", ".atom_energies"),
        LinearACE: (),
    },
}
"""Paths of the parts of each model that go by a name in all of them."""


def select(energy: AbstractEnergy, parts: Sequence[str]) -> Trainable:
    """What some `parts` hold: names of `NAMES`, or pieces of paths such as `readout`; all where none is given.

    **Raises:** `UserError` for a part that the energy does not have.
    """
    leaves = jax.tree_util.tree_leaves_with_path(energy)
    paths = [jax.tree_util.keystr(path) for path, leaf in leaves if is_parameter(leaf)]
    chosen: set[str] = set() if parts else set(paths)
    for part in parts:
        found = _named(energy, paths, part) if part in NAMES else {path for path in paths if part in path}
        if not found:
            raise UserError(
                f"No parameter belongs to {part!r}; there are the names {', '.join(NAMES)} (where a model has such "
                f"parts) and the paths {', '.join(paths)}."
            )
        chosen |= found
    return lambda path, leaf: path in chosen


def _named(energy: AbstractEnergy, paths: Sequence[str], name: str) -> set[str]:
    """Paths of a part with a name, in whichever models there are within an energy."""
    found: set[str] = set()
    models = tuple(NAMES[name])
    nodes = jax.tree_util.tree_leaves_with_path(energy, is_leaf=lambda x: isinstance(x, models))
    for path, node in nodes:
        for pattern in NAMES[name].get(type(node), ()):
            whole = (jax.tree_util.keystr(path) + pattern).replace("[", "[[]")
            found |= set(fnmatch.filter(paths, whole))
    return found


class LowRank(AbstractEnergy):
    """A frozen energy, and for each of its matrices the product of two thin ones, which is added to it.

    Arrays of more than two axes are taken as stacks of matrices of the last two; what is a vector, or not larger than
    `rank` both ways, stays as it is. `factors` start with a change of zero.

    **Reference:** Hu et al., arXiv:2106.09685 (2021).
    """

    base: AbstractEnergy
    factors: dict[str, tuple[Float[Array, "..."], Float[Array, "..."]]]

    def __init__(self, base: AbstractEnergy, rank: int, *, key: PRNGKeyArray):
        if rank < 1:
            raise UserError(f"The rank must be at least 1; got {rank}.")
        self.base, self.factors = base, {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(base):
            if not is_parameter(leaf) or leaf.ndim < 2 or min(leaf.shape[-2:]) <= rank:
                continue
            key, here = jax.random.split(key)
            *stack, rows, columns = leaf.shape
            size = jnp.sqrt(jnp.mean(leaf**2)) / math.sqrt(rank)
            right = size * jax.random.normal(here, (*stack, rank, columns), leaf.dtype)
            self.factors[jax.tree_util.keystr(path)] = (jnp.zeros((*stack, rows, rank), leaf.dtype), right)
        if not self.factors:
            raise UserError(f"The energy has no matrix that is larger than the rank {rank} both ways.")

    @property
    def cutoff(self) -> float:
        return self.base.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.base.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return self.merged()(graph)

    def merged(self) -> AbstractEnergy:
        """The energy itself with the changes in its matrices."""

        def added(path, leaf):
            pair = self.factors.get(jax.tree_util.keystr(path))
            if pair is None:
                return leaf
            left, right = (x.astype(leaf.dtype) for x in pair)
            return leaf + jnp.matmul(left, right, precision="highest")

        return jax.tree_util.tree_map_with_path(added, self.base)


def low_rank(energy: AbstractEnergy, rank: int, *, key: PRNGKeyArray) -> tuple[LowRank, Trainable]:
    """An energy whose matrices change by a low rank, and what of it trains; `merged()` gives a plain one back.

    **Raises:** `UserError` where no matrix is larger than the rank.
    """
    return LowRank(energy, rank, key=key), lambda path, leaf: path.startswith(".factors")


def corrected(
    energy: AbstractEnergy,
    correction: AbstractEnergy | None = None,
    *,
    elements: Sequence[int] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Sum, Trainable]:
    """A frozen energy plus a correction that trains: without one, a `LinearACE` of the same reach that starts at zero.

    `elements` are those that the correction tells apart: the atomic numbers of the energy.

    **Raises:** `UserError` where the energy knows all elements, and none are given.
    """
    if correction is None:
        known = energy.elements if elements is None else tuple(elements)
        if known is None:
            raise UserError("The energy knows all elements: give the `elements` that the correction is for.")
        config = LinearACEConfig(tuple(known), min(energy.cutoff, 5.0), degree=2, radial=6, channels=8, roots=4)
        correction = LinearACE(config, key=jax.random.key(0) if key is None else key)
    whole = Sum((energy, correction))
    first = len(whole.terms) - (len(correction.terms) if isinstance(correction, Sum) else 1)
    kept = {f".terms[{i}]" for i in range(first)}
    fixed = (".mix", ".path_weights", ".densities")  # of a linear model: its basis

    def trainable(path: str, leaf: Any) -> bool:
        term = path[: path.index("]") + 1]
        if term in kept:
            return False
        linear = isinstance(whole.terms[int(term[7:-1])], LinearACE)
        return not (linear and path[len(term) :].startswith(fixed))

    return whole, trainable
