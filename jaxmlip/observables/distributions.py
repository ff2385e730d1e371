"""Distributions of distances and angles as ensemble averages, in smooth bins."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erf
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.energy.angles import angle_between
from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.graph import Graph
from jaxmlip.observables.static import AbstractStatic, Conditions, weighted_mean
from jaxmlip.observables.structure import of_pair, radial_distribution, smooth_pair_counts

_TAILS = 4.0  # how many widths of a Gaussian are looked for beyond the last bin


class RadialDistribution(AbstractStatic):
    """g(r) in bins between `edges` [Å]; each pair is spread over a Gaussian of `width` [Å].

    `pair` are the atomic numbers of center and neighbor where only those count.
    """

    edges: Float[Array, "edges"] = eqx.field(converter=jnp.asarray)
    width: float = eqx.field(static=True)
    pair: tuple[int, int] | None = eqx.field(static=True, default=None)
    cutoff: float | None = eqx.field(static=True, default=None)

    def __init__(self, edges, width: float = 0.05, pair: tuple[int, int] | None = None):
        self.edges = _rising("edges", edges, least=0.0)
        if not width > 0:
            raise ValueError(f"`width` must be positive [Å]; got {width}.")
        self.width, self.pair = width, pair
        self.cutoff = float(self.edges[-1]) + _TAILS * width

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, "bins"]:
        chosen, norm = of_pair(graph, self.pair)
        edges = self.edges.astype(graph.positions.dtype)
        counts = smooth_pair_counts(chosen, edges, self.width)
        return norm * radial_distribution(counts, edges, len(graph.numbers), graph.volume()[0])


class AngleDistribution(AbstractStatic):
    r"""Density of the angles between two neighbors of an atom [1/degree], its integral over all angles 1.

    Bins lie between `edges` [degrees]; each angle is spread over a Gaussian of `width` [degrees] and counts with
    $f(r_1) f(r_2)$, where f falls smoothly from 1 to 0 over the last tenth of `cutoff` [Å]. `triplet` are the atomic
    numbers of first neighbor, center and second neighbor where only those count.
    """

    edges: Float[Array, "edges"] = eqx.field(converter=jnp.asarray)
    width: float = eqx.field(static=True)
    triplet: tuple[int, int, int] | None = eqx.field(static=True)
    cutoff: float | None = eqx.field(static=True)

    def __init__(self, edges, cutoff: float, width: float = 2.0, triplet: tuple[int, int, int] | None = None):
        self.edges = _rising("edges", edges, least=0.0)
        if not width > 0 or not cutoff > 0:
            raise ValueError(f"`width` [degrees] and `cutoff` [Å] must be positive; got {width} and {cutoff}.")
        self.width, self.triplet, self.cutoff = width, triplet, cutoff

    def frame(self, energy: AbstractEnergy, graph: Graph) -> dict[str, Array]:
        vectors, lengths = graph.vectors(), graph.lengths()
        edges = self.edges.astype(lengths.dtype)
        near = jnp.where(graph.edge_mask, switch_envelope(lengths / (self.cutoff or 1.0), 0.9), jnp.zeros_like(lengths))
        first, second = near, near
        if self.triplet is not None:
            one, center, other = (graph.numbers == number for number in self.triplet)
            at_center = jnp.where(center, 1.0, 0.0).astype(near.dtype)[None, :]
            first = near * at_center * one[graph.senders].astype(near.dtype)
            second = near * at_center * other[graph.senders].astype(near.dtype)
        places = jnp.arange(near.shape[0])
        towards = jnp.moveaxis(vectors, 0, -1)

        def with_neighbor(total, slot):
            bond, weight, place = slot
            angles = jnp.degrees(angle_between(jnp.broadcast_to(bond[None], towards.shape), towards)).ravel()
            both = jnp.where((places != place)[:, None], weight[None, :] * second, jnp.zeros_like(second)).ravel()
            scaled = (edges[:, None] - angles[None, :]) / (self.width * 2.0**0.5)
            below = jnp.sum(both[None, :] * 0.5 * (1.0 + erf(scaled)), axis=1)
            return (total[0] + below[1:] - below[:-1], total[1] + jnp.sum(both)), None

        start = jnp.zeros_like(edges[1:]), jnp.zeros_like(edges[0])
        (counts, angles), _ = lax.scan(jax.checkpoint(with_neighbor), start, (towards, first, places))
        return {"counts": counts / jnp.diff(edges), "angles": angles}

    def reduce(self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions):
        mean = weighted_mean(values, weights)
        return mean["counts"] / mean["angles"]


def _rising(name: str, values, least: float) -> Float[Array, "edges"]:
    """Edges of bins as an array of definite type.

    **Raises:** `ValueError` unless there are two at least, rising from `least` on.
    """
    values = jnp.asarray(values, None if hasattr(values, "dtype") else jnp.result_type(float))
    if values.ndim != 1 or len(values) < 2 or not bool(jnp.all(jnp.diff(values) > 0)) or float(values[0]) < least:
        raise ValueError(f"`{name}` must rise from {least} or above, two at least; got {values.tolist()}.")
    return values
