"""Screened nuclear repulsion of Ziegler, Biersack and Littmark (ZBL)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.elements import COVALENT_RADII, SYMBOLS
from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.energy.envelope import switch_envelope
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

    It ends where a bond begins: at the sum of the covalent radii of the two atoms, and nowhere beyond `cutoff` [Å]. It
    is whole below `onset` times that distance, and switched off between them with two continuous derivatives. Give the
    `elements` that are to meet: the neighbor list then has to reach no farther than the largest of them asks for.
    With the default onset, head-on collisions of 10 eV and more turn within 1 % of where the whole potential turns
    them (H, Si, Cu, W).

    **Raises:** `ValueError` for numbers outside their range.

    **Reference:** Ziegler, Biersack & Littmark, *The Stopping and Range of Ions in Matter*, Pergamon (1985); covalent
    radii of Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j, at whose sum it ends in MACE too (Batatia
    et al., arXiv:2401.00096).
    """

    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    onset: float = eqx.field(static=True)

    def __init__(self, cutoff: float | None = None, elements: tuple[int, ...] | None = None, onset: float = 0.6):
        if cutoff is not None and not 0.0 < cutoff < float("inf"):
            raise ValueError(f"`cutoff` must be positive [Å]; got {cutoff}.")
        if not 0.0 <= onset < 1.0:
            raise ValueError(f"`onset` is a fraction of where the potential ends, from 0 to below 1; got {onset}.")
        known = tuple(range(1, len(SYMBOLS))) if elements is None else tuple(sorted({int(n) for n in elements}))
        if not known or not 1 <= known[0] <= known[-1] < len(SYMBOLS):
            raise ValueError(f"`elements` must be atomic numbers 1 to {len(SYMBOLS) - 1}; got {elements}.")
        self.elements = None if elements is None else known
        largest = 2.0 * max(COVALENT_RADII[n] for n in known)
        self.cutoff = largest if cutoff is None else min(cutoff, largest)
        self.onset = onset

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        # A padding atom counts as hydrogen: its edges are masked, and powers of zero have no derivative.
        numbers = jnp.maximum(graph.numbers, 1)
        z = numbers.astype(r.dtype)
        radii = jnp.asarray(np.asarray(COVALENT_RADII), r.dtype)[numbers]
        end = jnp.minimum(radii[graph.senders] + radii[None, :], jnp.asarray(self.cutoff, r.dtype))
        pair = zbl_repulsion(r, z[graph.senders], jnp.broadcast_to(z[None, :], r.shape))
        return graph.sum_edges(0.5 * pair * switch_envelope(r / end, self.onset))
