"""NequIP: messages of equivariant features, in the form of the Nequix foundation potentials, written for XLA."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmlip.compilation import LEAST_WORK
from jaxmlip.energy.base import AbstractEnergy, cast
from jaxmlip.energy.references import species_index
from jaxmlip.graph import Graph, safe_norm
from jaxmlip.models.clebsch_gordan import clebsch_gordan
from jaxmlip.models.harmonics import spherical_harmonics
from jaxmlip.models.radial import bessel_basis

# The exact value is 0.5964692; e3nn-jax averages over a million quantiles in float32, and the released weights were
# trained with what that gives (the difference is 4e-5 eV for an atom).
SILU_RMS = 0.5964577198028564


@dataclasses.dataclass(frozen=True)
class NequIPConfig:
    """What fixes the shapes and constants of a `NequIP`; the defaults are those of Nequix.

    `channels` counts the features of each degree l = 0, 1, ...; their parity is that of l. `average_neighbors`
    normalizes sums over neighbors, `scale` and `shift` [eV] the energy of an atom.
    """

    elements: tuple[int, ...]
    cutoff: float = 6.0
    channels: tuple[int, ...] = (128, 64, 32, 32)
    layers: int = 4
    radial_basis: int = 8
    radial_width: int = 64
    radial_depth: int = 2
    envelope_power: int = 6
    average_neighbors: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    layer_norm: bool = True
    index_weights: bool = False

    def __post_init__(self):
        object.__setattr__(self, "elements", tuple(int(n) for n in self.elements))
        object.__setattr__(self, "channels", tuple(int(n) for n in self.channels))
        if list(self.elements) != sorted(set(self.elements)) or not self.elements:
            raise ValueError(f"`elements` must be increasing atomic numbers; got {self.elements}.")
        if not self.cutoff > 0:
            raise ValueError(f"`cutoff` must be positive [Å]; got {self.cutoff}.")
        if not 1 <= len(self.channels) <= 5 or min(self.channels) < 1:
            raise ValueError(f"`channels` must be 1 to 5 positive numbers, one for each degree; got {self.channels}.")
        if self.layers < 2 or self.radial_depth < 1 or min(self.radial_basis, self.radial_width) < 1:
            raise ValueError(f"Need at least 2 layers and a radial network of depth 1 and width 1; got {self}.")


class Layer(eqx.Module):
    """Parameters of one round of messages; `up`, `down`, `skip` and `norm` have one entry for each degree."""

    radial: tuple[Float[Array, "..."], ...]
    up: tuple[Float[Array, "..."], ...]
    down: tuple[Float[Array, "..."], ...]
    skip: tuple[Float[Array, "..."], ...]
    norm: tuple[Float[Array, "..."], ...] | None


class NequIP(AbstractEnergy):
    """Equivariant message passing: `NequIP(NequIPConfig(elements=(6, 8)), key=key)`.

    In each layer an atom collects, over its neighbors, products of their features with the harmonics of the
    direction, weighted by a learned function of the distance; a species-blind linear map, a norm and a gate follow.
    The energy is read from the scalars of the last layer. `block` is how many atoms are worked on at a time (see
    `block_size`); it changes speed and memory, not results.

    **Reference:** Batzner et al., Nat. Commun. 13, 2453 (2022), 10.1038/s41467-022-29939-5; Koker et al., Nequix,
    arXiv:2508.16067 (2025). Checked against the nequix package (experiments/nequix-parity).
    """

    first: Layer
    middle: Layer | None
    last: Layer
    readout: Float[Array, "features"]
    atom_energies: Float[Array, "species"]
    config: NequIPConfig = eqx.field(static=True)
    block: int | None = eqx.field(static=True)
    compiler_options: ClassVar[Mapping[str, Any]] = LEAST_WORK  # its time goes into matrix products

    def __init__(self, config: NequIPConfig, *, key: Array, block: int | None = None):
        keys = jax.random.split(key, config.layers + 1)
        layers = [_init_layer(k, *shape, config) for k, shape in zip(keys, layer_shapes(config), strict=False)]
        self.first, self.last = layers[0], layers[-1]
        self.middle = stack(layers[1:-1])
        self.readout = jax.random.normal(keys[-1], (config.channels[0],)) / math.sqrt(config.channels[0])
        self.atom_energies = jnp.zeros(len(config.elements))
        self.config = config
        self.block = block

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.config.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        model = cast(self, graph.positions.dtype)
        config = self.config
        species = species_index(graph.numbers, config.elements)
        edges = _Edges(graph, config, self.block)
        first, middle, last = layer_shapes(config)[0], layer_shapes(config)[1], layer_shapes(config)[-1]

        features = _round(model.first, *first, edges, species, None, config)
        if model.middle is not None:

            def step(features, layer):
                return _round(layer, *middle, edges, species, features, config), None

            features, _ = lax.scan(step, features, model.middle)
        features = _round(model.last, *last, edges, species, features, config)
        energies = _dot(features, model.readout)
        return config.scale * energies + config.shift + model.atom_energies[species]


class _Edges:
    """Edge quantities that all layers share, atoms leading: envelope times Bessel functions, harmonics, senders."""

    def __init__(self, graph: Graph, config: NequIPConfig, block: int | None):
        vectors = graph.vectors()
        r = safe_norm(vectors)
        unit = vectors / jnp.where(r > 0, r, jnp.ones_like(r))[None]
        degree = len(config.channels) - 1
        self.harmonics = jnp.stack(spherical_harmonics(unit[0], unit[1], unit[2], degree)).T
        # Nequix writes 2 / cutoff^2 sin(n pi x) / x [1/Å²] where ours, orthonormal, has sqrt(2) / 2 sin(n pi x) / x.
        basis = bessel_basis(r, config.cutoff, config.radial_basis, config.envelope_power)
        self.basis = basis.T * (math.sqrt(8.0) / config.cutoff**2)
        self.senders = graph.senders.T
        self.block = block or block_size(len(graph.numbers))


def layer_shapes(config: NequIPConfig) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Channels of each degree that go into and come out of each layer."""
    inside = [(len(config.elements),)] + [config.channels] * (config.layers - 1)
    out = [config.channels] * (config.layers - 1) + [config.channels[:1]]
    return list(zip(inside, out, strict=True))


@functools.cache
def paths(sources: int, targets: int, degree: int) -> tuple[tuple[int, int, int], ...]:
    """Couplings (l1, l2, l3) of features and harmonics to features, all of natural parity, l1 slowest."""
    return tuple(
        (l1, l2, l3)
        for l1 in range(sources)
        for l2 in range(degree + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, targets - 1) + 1)
        if (l1 + l2 + l3) % 2 == 0
    )


def stack(layers: list[Layer]) -> Layer | None:
    """Layers of one shape as one, for a scan."""
    return jax.tree.map(lambda *x: jnp.stack(x), *layers) if layers else None


def _init_layer(key: Array, inside: tuple[int, ...], out: tuple[int, ...], config: NequIPConfig) -> Layer:
    keys = iter(jax.random.split(key, 32 + 8 * len(config.elements)))

    def normal(rows: int, columns: int, gain: float = 1.0) -> Array:
        return jax.random.normal(next(keys), (rows, columns)) * math.sqrt(gain / rows)

    couplings = paths(len(inside), len(out), len(config.channels) - 1)
    widths = [config.radial_basis] + [config.radial_width] * config.radial_depth
    gated = (out[0] + sum(out[1:]), *out[1:])
    mixed = [sum(inside[l1] for l1, _, l3 in couplings if l3 == degree) for degree in range(len(out))]
    skips = [normal(inside[n], gated[n]) for n in range(min(len(inside), len(out)))]
    if config.index_weights:
        count = len(config.elements)
        skips = [jnp.stack([normal(*w.shape) for _ in range(count)]) for w in skips]
    return Layer(
        radial=(
            *(normal(a, b, 4.0) for a, b in zip(widths[:-1], widths[1:], strict=True)),
            normal(widths[-1], sum(inside[l1] for l1, _, _ in couplings)),
        ),
        up=tuple(normal(n, n) for n in inside),
        down=tuple(normal(rows, columns) for rows, columns in zip(mixed, gated, strict=True)),
        skip=tuple(skips),
        norm=tuple(jnp.ones(n) for n in gated) if config.layer_norm else None,
    )


def _round(layer, inside, out, edges, species, features, config):
    """One layer: features, flat [atoms, (2 l + 1) channels ...], to the next ones."""
    if features is None:
        messages = (layer.up[0][species][:, None],)
    else:
        features = _split(features, inside)
        messages = tuple(_dot(f, w) for f, w in zip(features, layer.up, strict=True))

    def pool(block):
        basis, harmonics, senders = block
        hidden = basis
        for weights in layer.radial[:-1]:
            hidden = jax.nn.silu(_dot(hidden, weights))
        return _pool(layer.radial[-1], inside, out, hidden, harmonics, senders, messages, config)

    pooled = _in_blocks(pool, (edges.basis, edges.harmonics, edges.senders), edges.block)
    pooled = _by_degree(pooled, inside, out, config)
    return _update(layer, pooled, species, features, out, config)


def block_size(atoms: int) -> int:
    """Atoms whose edges are worked on at a time, where the user does not say.

    On a CPU few, so that a block stays in the cache (0.29 against 0.46 CPU seconds for energy, forces and stress of 64
    silicon atoms, a tenth of the memory), but at most 64 blocks, since each adds to the gradient of all features.
    """
    return max(8, -(-atoms // 64)) if jax.default_backend() == "cpu" else max(1024, -(-atoms // 64))


def _in_blocks(function, arrays, size):
    """A function of atoms (leading axis), so many at a time; backward recomputes a block instead of storing it."""
    atoms = arrays[0].shape[0]
    if atoms <= size:
        return function(arrays)
    blocks = -(-atoms // size)

    def split(x):
        x = jnp.pad(x, [(0, blocks * size - atoms)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(blocks, size, *x.shape[1:])

    result = lax.map(jax.checkpoint(function, prevent_cse=False), jax.tree.map(split, arrays))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:atoms], result)


def _dot(x, weights):
    """Matrix product in full precision on every device (no TF32)."""
    return jnp.dot(x, weights, precision=lax.Precision.HIGHEST)


@functools.cache
def _couplings(sources, targets, degree):
    """For each l1 the list of (l2, l3) and the coefficients [m2, paths, m1, m3], m3 padded."""
    result = []
    for l1 in range(sources):
        mine = [(l2, l3) for a, l2, l3 in paths(sources, targets, degree) if a == l1]
        c = np.zeros(((degree + 1) ** 2, len(mine), 2 * l1 + 1, 2 * targets - 1))
        for n, (l2, l3) in enumerate(mine):
            block = clebsch_gordan(l1, l2, l3) * math.sqrt(2 * l3 + 1)
            c[l2 * l2 : (l2 + 1) ** 2, n, :, : 2 * l3 + 1] = block.transpose(1, 0, 2)
        result.append((mine, c))
    return result


def _pool(weights, inside, out, hidden, harmonics, senders, messages, config):
    """Sums over neighbors of radial functions times turned features, by source degree: [atoms, paths, m3, channels].

    The harmonics of an edge and the Clebsch-Gordan coefficients are one small matrix m1 -> m3 for each path; the sum
    over m1 and neighbors is one matrix product. The terms keep channels as a dimension of their own: merged with
    another one, XLA divides indices for every number and the loop is three times slower.
    """
    degree = len(config.channels) - 1
    result, start = [], 0
    atoms, neighbors = senders.shape
    for l1, (mine, c) in enumerate(_couplings(len(inside), len(out), degree)):
        count, channels, size = len(mine), inside[l1], 2 * l1 + 1
        c = jnp.asarray(c / math.sqrt(config.average_neighbors), hidden.dtype)
        turn = jnp.einsum("akq,qpmn->apkmn", harmonics, c, precision=lax.Precision.HIGHEST)
        radial = _dot(hidden, weights[:, start : start + count * channels])
        start += count * channels
        radial = radial.reshape(atoms, neighbors, count, channels).swapaxes(1, 2)
        sent = messages[l1].at[senders].get(mode="promise_in_bounds", wrap_negative_indices=False)
        terms = radial[:, :, :, None] * sent[:, None]
        turn, terms = (x.reshape(atoms, count, neighbors * size, -1) for x in (turn, terms))
        result.append(jnp.einsum("apkn,apkc->apnc", turn, terms, precision=lax.Precision.HIGHEST))
    return result


def _by_degree(pooled, inside, out, config):
    """Sums over neighbors sorted by the degree of the result: [atoms, m, paths channels]."""
    result = [[] for _ in out]
    for x, (mine, _) in zip(pooled, _couplings(len(inside), len(out), len(config.channels) - 1), strict=True):
        for n, (_, l3) in enumerate(mine):
            result[l3].append(x[:, n, : 2 * l3 + 1])
    return [jnp.concatenate(x, axis=-1) for x in result]


def _update(layer, pooled, species, features, out, config):
    """Pooled messages to new features, flat: linear map, skip connection, norm over all degrees, gate.

    The degrees lie side by side from the skip connection on, so that XLA makes one loop where it would make four.
    """
    new = [_dot(p, w) for p, w in zip(pooled, layer.down, strict=True)]
    for n, w in enumerate(layer.skip):
        if features is None:
            mine = w[species, species] if config.index_weights else w[species]
            new[n] = new[n] + mine[:, None, :]
        elif config.index_weights:
            new[n] = new[n] + jnp.einsum("amc,acd->amd", features[n], w[species], precision="highest")
        else:
            new[n] = new[n] + _dot(features[n], w)
    flat = jnp.concatenate([f.reshape(f.shape[0], -1) for f in new], axis=1)
    if layer.norm is not None:
        share = np.concatenate([np.full(f[0].size, 1 / ((2 * n + 1) ** 2 * len(new))) for n, f in enumerate(new)])
        squares = jnp.sum(flat * flat * jnp.asarray(share, flat.dtype)[None], axis=1, keepdims=True)
        weights = jnp.concatenate([jnp.tile(w, 2 * n + 1) for n, w in enumerate(layer.norm)])
        flat = flat * weights[None] * lax.rsqrt(squares + 1e-12)
    scalars, rest = silu(flat[:, : new[0].shape[-1]]), flat[:, new[0].shape[-1] :]
    gates, start = [], out[0]
    for n in range(1, len(out)):
        gates.append(jnp.tile(scalars[:, start : start + out[n]], (1, 2 * n + 1)))
        start += out[n]
    if not gates:
        return scalars
    return jnp.concatenate([scalars[:, : out[0]], rest * jnp.concatenate(gates, axis=1)], axis=1)


def _split(flat, channels):
    """Flat features by degree: [atoms, m, channels]."""
    ends = np.cumsum([(2 * n + 1) * count for n, count in enumerate(channels)])
    return [
        x.reshape(len(flat), -1, count) for x, count in zip(jnp.split(flat, ends[:-1], axis=1), channels, strict=True)
    ]


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SiLU divided by its root mean square over a normal distribution, as e3nn-jax computes that."""
    return jax.nn.silu(x) / SILU_RMS
