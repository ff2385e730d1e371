"""Screened nuclear repulsion of Ziegler, Biersack and Littmark (ZBL)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.energy.envelope import polynomial_envelope
from jaxmlip.graph import Graph

_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)


def zbl_repulsion(
    r: Float[Array, "*pairs"], zi: Float[Array, "*pairs"], zj: Float[Array, "*pairs"]
) -> Float[Array, "*pairs"]:
    r"""Energy of pairs of nuclei a distance `r` [Å] apart [eV].

    $V(r) = \frac{Z_i Z_j e^2}{4 \pi \epsilon_0 r} \sum_k w_k e^{-d_k r / a}$, where
    $a = 0.46850 / (Z_i^{0.23} + Z_j^{0.23})$ Å.
    """
    x = r * (zi**0.23 + zj**0.23) / 0.46850
    screening = sum(w * jnp.exp(-d * x) for w, d in zip(_WEIGHTS, _DECAYS, strict=True))
    return units.coulomb * zi * zj / r * screening


class ZBL(AbstractEnergy):
    """A prior without parameters that keeps nuclei apart where a model has no data.

    **Reference:** Ziegler, Biersack & Littmark, *The Stopping and Range of Ions in Matter*, Pergamon (1985).
    """

    cutoff: float = eqx.field(static=True, default=2.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.cutoff <= 0:
            raise ValueError(f"`cutoff` must be positive [Å]; got {self.cutoff}.")

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        # A padding atom counts as hydrogen: its edges are masked, and powers of zero have no derivative.
        z = jnp.maximum(graph.numbers, 1).astype(r.dtype)
        pair = zbl_repulsion(r, z[graph.senders], jnp.broadcast_to(z[None, :], r.shape))
        return graph.sum_edges(0.5 * pair * polynomial_envelope(r / self.cutoff))
