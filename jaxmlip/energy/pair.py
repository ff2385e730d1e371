"""Pair potentials."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.graph import Graph


def lennard_jones(
    r: Float[Array, "*pairs"], epsilon: float | Float[Array, ""], sigma: float | Float[Array, ""]
) -> Float[Array, "*pairs"]:
    r"""$4 \epsilon \left[(\sigma / r)^{12} - (\sigma / r)^6\right]$ [unit of `epsilon`]."""
    x = (sigma / r) ** 2
    x = x * x * x
    return 4.0 * epsilon * (x * x - x)


class LennardJones(AbstractEnergy):
    """Lennard-Jones atoms of one kind: `epsilon` [eV], `sigma` [Å].

    The energy is switched off between `onset * cutoff` and `cutoff` with two continuous derivatives, so that forces and
    stress are its exact derivatives. `onset=1.0` cuts it off bluntly instead (a step in the energy; for comparisons
    with tables that are defined so).

    **Reference:** Jones, Proc. R. Soc. A 106, 463 (1924), doi:10.1098/rspa.1924.0082.
    """

    epsilon: Float[Array, ""] = eqx.field(converter=parameter)
    sigma: Float[Array, ""] = eqx.field(converter=parameter)
    cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True, default=0.8)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.cutoff <= 0:
            raise ValueError(f"`cutoff` must be positive [Å]; got {self.cutoff}.")
        if not 0.0 < self.onset <= 1.0:
            raise ValueError(f"`onset` is a fraction of the cutoff, above 0 and up to 1; got {self.onset}.")

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        pair = lennard_jones(r, self.epsilon.astype(r.dtype), self.sigma.astype(r.dtype))
        if self.onset < 1.0:
            pair = pair * switch_envelope(r / self.cutoff, self.onset)
        else:
            pair = jnp.where(r < self.cutoff, pair, jnp.zeros_like(r))
        return graph.sum_edges(0.5 * pair)
