"""Lennard-Jones atoms of one or several species, cut in any of the usual ways, with the correction for what is cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.energy.base import AbstractEnergy, SystemCheck
from jaxmlip.energy.laws import lennard_jones
from jaxmlip.energy.table import Given, Pairs, elements_of, read_elements, read_pairs
from jaxmlip.energy.truncation import check_truncation, sum_pairs
from jaxmlip.graph import Graph
from jaxmlip.system import System

_MIXING = "Lorentz-Berthelot"


class LennardJones(AbstractEnergy, SystemCheck):
    r"""Lennard-Jones atoms: `epsilon` [eV], `sigma` [Å].

    Both are numbers, the same for all atoms; or tables for each pair of elements, `{"Ar-Ar": 0.0104, "Ar-Kr": ...}`,
    where no pair may be missing; or tables for each element, `{"Ar": 0.0104, "Kr": 0.0141}`, mixed by Lorentz and
    Berthelot: $\sigma_{ij} = (\sigma_i + \sigma_j) / 2$, $\epsilon_{ij} = \sqrt{\epsilon_i \epsilon_j}$.

    By default the energy is switched off between `onset * cutoff` and `cutoff` with two continuous derivatives, so that
    forces and stress are its exact derivatives; `truncation` may be `"force_shift"`, `"shift"` or `"cut"` instead
    (`truncation.sum_pairs` has the formulas; `onset=1.0` is `"cut"` too), which are less smooth, for comparisons with
    tables that are defined so.

    `tail` adds what is cut off, as if the other atoms were spread evenly there:
    $\frac{2 \pi}{V} \sum_{ij} \int_0^\infty r^2 (V - V_\mathrm{trunc})_{ij} dr$, each atom with its sum over j. It
    depends on the volume, so stress and pressure have it too. It is for systems that are periodic along all axes (NaN
    for slabs and wires; nothing in free space), and for `"switch"` and `"cut"`. With `"switch"` the pressure is that of
    the whole potential; with `"cut"` forces do not see the step at the cutoff, so the pressure lacks
    $\frac{2 \pi}{3} \rho^2 r_c^3 V(r_c)$.

    **Reference:** Jones, Proc. R. Soc. A 106, 463 (1924), doi:10.1098/rspa.1924.0082. Tail: Allen & Tildesley, Computer
    Simulation of Liquids, 2nd ed., Oxford (2017), section 2.8. Checked against NIST's reference configurations.
    """

    epsilon: Float[Array, "*species"]
    sigma: Float[Array, "*species"]
    cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)
    truncation: str = eqx.field(static=True)
    tail: bool = eqx.field(static=True)
    pairs: Pairs | None = eqx.field(static=True)
    mixing: str | None = eqx.field(static=True)

    def __init__(
        self,
        epsilon: Given,
        sigma: Given,
        cutoff: float,
        onset: float = 0.8,
        elements: tuple[int, ...] | None = None,
        *,
        truncation: str = "switch",
        tail: bool = False,
    ):
        check_truncation(cutoff, onset, truncation)
        if tail and truncation not in ("switch", "cut"):
            raise ValueError(f'The tail correction goes with truncation "switch" or "cut"; got {truncation!r}.')
        given = {"epsilon": epsilon, "sigma": sigma}
        self.mixing = _MIXING if _by_element(given) else None
        if self.mixing:
            arrays, known = read_elements(given)  # pyright: ignore[reportArgumentType]
            self.pairs = tuple(itertools.combinations_with_replacement(known, 2))
        else:
            arrays, self.pairs = read_pairs(given)
        if elements is not None and self.pairs is not None:
            raise ValueError("`elements` follow from the tables of `epsilon` and `sigma`; leave them out.")
        self.elements = elements if self.pairs is None else elements_of(self.pairs)
        self.epsilon, self.sigma = arrays["epsilon"], arrays["sigma"]
        self.cutoff, self.onset, self.truncation, self.tail = cutoff, onset, truncation, tail

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        epsilon, sigma = self.by_pair()
        energy = sum_pairs(
            graph,
            lennard_jones,
            {"epsilon": epsilon, "sigma": sigma},
            self.pairs,
            cutoff=self.cutoff,
            onset=self.onset,
            truncation=self.truncation,
        )
        if not self.tail:
            return energy
        dtype = energy.dtype
        return energy + uniform_tail(graph, self.integrals(epsilon.astype(dtype), sigma.astype(dtype)), self.pairs)

    def check(self, system: System) -> None:
        if self.tail and not all(system.pbc):
            raise ValueError(
                f"The tail correction is for systems that are periodic along all axes; this one has pbc={system.pbc}. "
                "Leave `tail` out."
            )

    def by_pair(self) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
        """`epsilon` and `sigma` of each pair of elements (scalars where they are the same for all)."""
        if self.mixing is None:
            return self.epsilon, self.sigma
        known = list(elements_of(self.pairs or ()))
        first, second = np.array([[known.index(a), known.index(b)] for a, b in self.pairs or ()]).T
        return _geometric(self.epsilon[first], self.epsilon[second]), 0.5 * (self.sigma[first] + self.sigma[second])

    def integrals(self, epsilon: Float[Array, "*pairs"], sigma: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
        r"""$\int r^2 (V - V_\mathrm{trunc}) dr$ of each pair [eV Å³]."""
        onset = self.onset if self.truncation == "switch" else 1.0
        twelve, six = (_lost(power, onset) for power in (12, 6))
        x = (sigma / self.cutoff) ** 3
        return 4.0 * epsilon * sigma**3 * (x * x * x * twelve - x * six)


def uniform_tail(graph: Graph, integrals: Float[Array, "*pairs"], pairs: Pairs | None = None) -> Float[Array, "atoms"]:
    r"""Energy of each atom [eV] in a uniform fluid: $\frac{2 \pi}{V} \sum_j I_{ij}$ over all atoms of its system.

    `integrals` $I = \int r^2 V dr$ [eV Å³] over the distances that are left out elsewhere. Zero in free space, NaN in
    a system that is periodic along some axes only.
    """
    dtype = integrals.dtype
    volume = graph.volume().astype(dtype)
    some, periodic = jnp.any(graph.pbc, axis=1), jnp.all(graph.pbc, axis=1)
    density = 2.0 * jnp.pi / jnp.where(periodic, volume, jnp.ones_like(volume))
    density = jnp.where(periodic, density, jnp.where(some, jnp.nan, 0.0).astype(dtype))
    if pairs is None:
        around = graph.sum_atoms(jnp.ones_like(graph.positions[:, 0])) * integrals * density
        return around[graph.system_index]
    known = np.array(elements_of(pairs), np.int32)
    index = {pair: k for k, pair in enumerate(pairs)}
    symmetric = integrals[np.array([[index[min(a, b), max(a, b)] for b in known.tolist()] for a in known.tolist()])]
    kinds = (graph.numbers[None, :] == jnp.asarray(known)[:, None]).astype(dtype)
    counts = graph.sum_atoms(kinds)
    around = sum(symmetric[:, k, None] * counts[None, k] for k in range(len(known))) * density[None, :]
    return jnp.sum(kinds * around[:, graph.system_index], axis=0)


def _lost(power: int, onset: float) -> float:
    r"""$\int_0^\infty x^{2-n} (1 - S(x)) dx$ for n = `power`, S falling from 1 at `onset` to 0 at 1; on the host.

    From 1 on it is $1 / (n - 3)$; below, the integral of a smooth function by Gauss and Legendre in 64 points.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    x = onset + 0.5 * (1.0 - onset) * (nodes + 1.0)
    t = (x - onset) / (1.0 - onset) if onset < 1.0 else np.zeros_like(x)
    left = t**3 * (10.0 - t * (15.0 - 6.0 * t))
    return 1.0 / (power - 3) + float(np.sum(weights * left * x ** (2.0 - power))) * 0.5 * (1.0 - onset)


def _geometric(a: Float[Array, "pairs"], b: Float[Array, "pairs"]) -> Float[Array, "pairs"]:
    """Geometric mean; at zero its derivative is zero, not NaN."""
    product = a * b
    positive = product > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, product, jnp.ones_like(product))), jnp.zeros_like(product))


def _by_element(given: Mapping[str, Given]) -> bool:
    """Whether the tables are of single elements."""
    single = [isinstance(k, int) or (isinstance(k, str) and "-" not in k) for k in _keys(given)]
    if any(single) and not all(single):
        raise ValueError(f"Tables are of elements or of pairs, not of both; got the keys {_keys(given)}.")
    if any(single) and not all(isinstance(v, Mapping) for v in given.values()):
        raise ValueError("To mix, give `epsilon` and `sigma` for each element; one of them is a number.")
    return any(single)


def _keys(given: Mapping[str, Given]) -> list:
    return [key for value in given.values() if isinstance(value, Mapping) for key in value]
