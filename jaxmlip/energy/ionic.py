"""Short-range repulsion and dispersion of ions: Buckingham and Born-Mayer-Huggins, without their catastrophe."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy.base import AbstractEnergy
from jaxmlip.energy.laws import born_mayer_huggins
from jaxmlip.energy.table import Given, Pairs, check_values, elements_of, read_pairs
from jaxmlip.energy.truncation import check_truncation, sum_pairs
from jaxmlip.graph import Graph

_NEWTON = 25  # steps to the inflection; the last dozen change nothing in float64


class BornMayerHuggins(AbstractEnergy):
    r"""Ions: $A e^{-r / \rho} - C / r^6 - D / r^8$ with A [eV], $\rho$ [Å], C [eV Å⁶], D [eV Å⁸]; charges come extra.

    Each parameter is a number or a table of pairs of elements, `{"Na-Cl": 1256.3, ...}`; where A, C and D are all 0 two
    elements do not interact. For parameters of the form $A e^{(\sigma - r) / \rho}$ give $A e^{\sigma / \rho}$;
    LAMMPS's `pair_style born` has the other sign of D.

    As written, the law has a barrier and falls to minus infinity behind it, and a trajectory that crosses it is lost.
    Here it holds only down to $r_1$, its inflection on the repulsive wall, where the force is largest; further in

    $$V(r) = V(r_1) - |V'(r_1)| (r - r_1) + |V'(r_1)| (r_1 - r)^3 / r^2,$$

    which rises without end and more steeply than a Coulomb attraction falls. Two derivatives are continuous at $r_1$.
    `innermost()` says where that is: if atoms come as close in earnest, the parameters are used outside their range.

    **Raises:** `ValueError` for negative parameters, and for a pair without a repulsive wall (dispersion wins at every
    distance), with its name.

    **Reference:** Huggins & Mayer, J. Chem. Phys. 1, 643 (1933), doi:10.1063/1.1749344; Fumi & Tosi, J. Phys. Chem.
    Solids 25, 31 (1964), doi:10.1016/0022-3697(64)90159-3.
    """

    a: Float[Array, "*pairs"]
    rho: Float[Array, "*pairs"]
    c: Float[Array, "*pairs"]
    d: Float[Array, "*pairs"]
    cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    truncation: str = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)

    def __init__(
        self,
        a: Given,
        rho: Given,
        c: Given,
        d: Given,
        cutoff: float,
        onset: float = 0.8,
        *,
        truncation: str = "switch",
    ):
        check_truncation(cutoff, onset, truncation)
        values, self.pairs = read_pairs({"a": a, "rho": rho, "c": c, "d": d})
        for name in ("a", "c", "d"):
            check_values(name, values[name], least=0.0)
        check_values("rho", values["rho"], above=0.0)
        self.a, self.rho, self.c, self.d = (values[name] for name in ("a", "rho", "c", "d"))
        self.elements = None if self.pairs is None else elements_of(self.pairs)
        self.cutoff, self.onset, self.truncation = cutoff, onset, truncation
        self._check_walls()

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        dtype = graph.positions.dtype
        values = {name: getattr(self, name).astype(dtype) for name in ("a", "rho", "c", "d")}
        values["inner"] = inflection(**values)
        ending = {"cutoff": self.cutoff, "onset": self.onset, "truncation": self.truncation}
        return sum_pairs(graph, bounded_law, values, self.pairs, **ending)

    def innermost(self) -> dict[str, float]:
        """The distance [Å] of each pair below which its wall is continued (0 where it needs not be); on the host."""
        inner = np.atleast_1d(np.asarray(inflection(self.a, self.rho, self.c, self.d)))
        return dict(zip(self._names(), inner.tolist(), strict=True))

    def _check_walls(self) -> None:
        a, rho, c, d = (np.atleast_1d(np.asarray(x, np.float64)) for x in (self.a, self.rho, self.c, self.d))
        inner = np.atleast_1d(np.asarray(inflection(self.a, self.rho, self.c, self.d), np.float64))
        for name, i in zip(self._names(), range(len(inner)), strict=True):
            if c[i] == d[i] == 0.0:
                continue
            x = inner[i] or 1.0
            slope = -a[i] / rho[i] * np.exp(-x / rho[i]) + 6.0 * c[i] / x**7 + 8.0 * d[i] / x**9
            if not slope < 0.0:
                given = f"A = {a[i]} eV, rho = {rho[i]} Å, C = {c[i]} eV Å⁶, D = {d[i]} eV Å⁸"
                raise ValueError(
                    f"The pair {name} has no repulsive wall: with {given} dispersion wins at every distance. "
                    "Check units and order of the parameters."
                )
            if x >= self.cutoff:
                raise ValueError(f"The wall of the pair {name} stands at {x:.2f} Å, beyond the cutoff {self.cutoff} Å.")

    def _names(self) -> list[str]:
        return ["of all"] if self.pairs is None else [f"{SYMBOLS[i]}-{SYMBOLS[j]}" for i, j in self.pairs]


def buckingham(
    a: Given, rho: Given, c: Given, cutoff: float, onset: float = 0.8, *, truncation: str = "switch"
) -> BornMayerHuggins:
    r"""Buckingham pairs $A e^{-r / \rho} - C / r^6$: `BornMayerHuggins` with D = 0, and its continuation inside.

    **Reference:** Buckingham, Proc. R. Soc. A 168, 264 (1938), doi:10.1098/rspa.1938.0173.
    """
    return BornMayerHuggins(a, rho, c, 0.0, cutoff, onset, truncation=truncation)


def bounded_law(
    r: Float[Array, "*edges"],
    a: Float[Array, "*#edges"],
    rho: Float[Array, "*#edges"],
    c: Float[Array, "*#edges"],
    d: Float[Array, "*#edges"],
    inner: Float[Array, "*#edges"],
) -> Float[Array, "*edges"]:
    """The law of Born, Mayer and Huggins down to `inner`, and its repulsive continuation inside [eV]."""
    inside = r < inner
    outer = jnp.where(inside, inner, r)
    law = born_mayer_huggins(outer, a, rho, c, d)
    y = 1.0 / (outer * outer)
    push = a / rho * jnp.exp(-outer / rho) - (6.0 * c + 8.0 * d * y) * y * y * y / outer
    gap = jnp.where(inside, inner - r, jnp.zeros_like(r))
    near = jnp.where(inside, r, jnp.ones_like(r))
    return law + jnp.where(inside, push * (gap + gap**3 / near**2), jnp.zeros_like(r))


def inflection(
    a: Float[Array, "*pairs"], rho: Float[Array, "*pairs"], c: Float[Array, "*pairs"], d: Float[Array, "*pairs"]
) -> Float[Array, "*pairs"]:
    r"""Where the force of the wall is largest [Å]: the smaller root of $V'' = 0$; 0 without dispersion.

    With $x = r / \rho$, $c = C / (A \rho^6)$ and $d = D / (A \rho^8)$ it is the smaller root of
    $10 \ln x - x - \ln(42 c x^2 + 72 d)$, which is concave: Newton's steps from a point to the left of it,
    $\max((42 c)^{1/8}, (72 d)^{1/10})$, never pass it. Without a wall there is no root, and the result means nothing
    (`BornMayerHuggins` refuses it).
    """
    curved = (c + d > 0.0) & (a > 0.0)
    scale = jnp.where(curved, a, jnp.ones_like(a)) * rho**6
    six = 42.0 * jnp.where(curved, c, jnp.ones_like(c)) / scale
    eight = 72.0 * jnp.where(curved, d, jnp.zeros_like(d)) / (scale * rho**2)
    x = jnp.maximum(_root(six, 8.0), _root(eight, 10.0))
    for _ in range(_NEWTON):
        below = six * x * x + eight
        value = 10.0 * jnp.log(x) - x - jnp.log(below)
        x = x - value / (10.0 / x - 1.0 - 2.0 * six * x / below)
    return jnp.where(curved, x * rho, jnp.zeros_like(x))


def _root(value: Float[Array, "*pairs"], order: float) -> Float[Array, "*pairs"]:
    """The root of a number that may be zero; its derivative there is zero, not infinite."""
    positive = value > 0.0
    return jnp.where(positive, jnp.where(positive, value, jnp.ones_like(value)) ** (1.0 / order), jnp.zeros_like(value))
