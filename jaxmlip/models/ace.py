r"""Tensor-decomposed atomic cluster expansion (ACE): the family of models that is trained from scratch.

For each atom $i$ with neighbors $j$ at distance $r$ in direction $u$, and channels $c$ that never mix in a product:

- pool:    $G_{nq,lm} = \sum_j \phi_n(r) \, e_q(z_j) \, Y_{lm}(u) / \sqrt{\bar K}$
- mix:     $A_{c,lm} = \sum_{nq} W_{c,nq}^{(l)}(z_i) \, G_{nq,lm}$
- product: $P_{c,lm} = \sum_{l_1 l_2} w_{c,l_1 l_2}(z_i) \, (A_c \otimes A_c)_{lm}$
- invariants: $B = [A_{00}, A_l \cdot A_l, A_l \cdot P_l, P_l \cdot P_l]$, that is 2- to 5-body terms
- energy: $E_i = s \, (b \cdot B + \mathrm{MLP}(B) + v \cdot F(w A_{00}))$, summed over layers, with
  $F(\rho) = (\rho^2 + \delta^2)^{1/4} - \delta^{1/2}$, which grows as the square root of a density

With two layers, features $h$ (scalars and vectors, linear in $B$ and in $A, P, A \otimes P$) are sent to the neighbors,
$S_{c,l_1,lm} = \sum_j R_c^{(l_1)}(r) \, h_{j,c,l_1} \otimes Y_{lm}(u)$, and $A' = U A + \sum_{paths} V (S)$ enters the
same products again.

The root is how the strength of metallic bonds falls with their number. The MLP is taken relative to its value at B = 0,
so that an isolated atom has exactly its reference energy. The sum over neighbors comes *before* any channel is mixed,
which costs a tenth of a radial network on every edge.

**Reference:** Drautz, Phys. Rev. B 99, 014104 (2019), doi:10.1103/PhysRevB.99.014104 (ACE); Bochkarev, Lysogorskiy &
Drautz, Phys. Rev. X 14, 021036 (2024), doi:10.1103/PhysRevX.14.021036 (graph ACE); Batatia et al., NeurIPS (2022),
arXiv:2206.07697 (MACE); Darby et al., Phys. Rev. Lett. 131, 028001 (2023) (tensor-decomposed density); Finnis &
Sinclair, Philos. Mag. A 50, 45 (1984), doi:10.1080/01418618408244210 (the root).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy.base import AbstractEnergy, cast
from jaxmlip.energy.references import species_index
from jaxmlip.graph import Graph, safe_norm
from jaxmlip.models.clebsch_gordan import clebsch_gordan, product
from jaxmlip.models.harmonics import MAX_DEGREE, spherical_harmonics
from jaxmlip.models.radial import bessel_basis

_DENSITIES = 16  # of a Finnis-Sinclair term; one is the classical potential
_ROUNDING = 0.2  # below this density the root is a parabola

Features = list[list[Array]]  # one list for each degree l, of 2 l + 1 arrays [channels atoms]


@dataclasses.dataclass(frozen=True)
class ACEConfig:
    """Everything that fixes the program of an `ACE`; the presets are `ACEConfig.preset("nep" | "fast" | "accurate")`.

    - `elements`: atomic numbers; `cutoff` [Å]; `degree`: largest l; `radial`: radial functions.
    - `channels`: tensor channels; `hidden`: width of the readout; `layers`: 1 (local) or 2 (one round of messages).
    - `products`: False stops at 3-body terms, True goes to 5-body ones.
    - `message_channels`: width of what is sent. `species_features`: size of the embedding of an element, at most one
      for each element.
    - `mean_neighbors` and `energy_scale` [eV] normalize; take them from the data.
    """

    elements: tuple[int, ...]
    cutoff: float = 5.0
    degree: int = 3
    radial: int = 8
    channels: int = 32
    hidden: int = 64
    layers: int = 1
    products: bool = True
    message_channels: int = 16
    species_features: int = 4
    mean_neighbors: float = 30.0
    energy_scale: float = 1.0

    def __post_init__(self):
        if not self.elements or any(not 1 <= n < len(SYMBOLS) for n in self.elements):
            raise ValueError(f"`elements` must be atomic numbers, at least one; got {self.elements}.")
        object.__setattr__(self, "elements", tuple(sorted(set(int(n) for n in self.elements))))
        if self.cutoff <= 0:
            raise ValueError(f"`cutoff` must be positive [Å]; got {self.cutoff}.")
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"`degree` must be 1 to {MAX_DEGREE}; got {self.degree}.")
        if self.layers not in (1, 2):
            raise ValueError(f"`layers` must be 1 or 2; got {self.layers}.")
        if self.layers == 2 and not self.products:
            raise ValueError("Two layers need `products=True`.")
        for name in ("radial", "channels", "hidden", "message_channels", "species_features", "mean_neighbors"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")

    @classmethod
    def preset(cls, name: str, elements: Sequence[int], **changes: Any) -> "ACEConfig":
        """`nep` (tiny, 3-body), `fast` (one layer, 5-body) or `accurate` (two layers), fields replaced by `changes`."""
        presets = {
            "nep": {"degree": 4, "channels": 10, "hidden": 30, "products": False},
            "fast": {"channels": 32, "hidden": 64},
            "accurate": {"channels": 32, "hidden": 64, "layers": 2, "message_channels": 16},
        }
        if name not in presets:
            raise ValueError(f"A preset is one of {', '.join(presets)}; got {name!r}.")
        return cls(elements=tuple(elements), **{**presets[name], **changes})

    @property
    def embedding_size(self) -> int:
        return min(self.species_features, len(self.elements))


class ACE(AbstractEnergy):
    """The potential: parameters and the program that `config` fixes. See the module for the equations."""

    embedding: Float[Array, "species features"]
    radial_mix: Float[Array, "..."]
    message: "Message | None"
    layers: "tuple[Layer, ...]"
    scale: Float[Array, ""]
    config: ACEConfig = eqx.field(static=True)

    def __init__(self, config: ACEConfig, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        c, q, width = config.channels, config.embedding_size, config.radial * config.embedding_size
        square = len(config.elements) == q
        self.embedding = jnp.eye(q) if square else jax.random.normal(keys[0], (len(config.elements), q))
        self.radial_mix = jax.random.normal(keys[1], (config.degree + 1, q, c, width)) / math.sqrt(width)
        self.message = Message(config, key=keys[2]) if config.layers == 2 else None
        self.layers = tuple(
            Layer(config, last=t == config.layers - 1, key=k)
            for t, k in enumerate(jax.random.split(keys[3], config.layers))
        )
        self.scale = jnp.asarray(config.energy_scale, jnp.result_type(float))  # strong, as one from a file is
        self.config = config

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.config.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        model = cast(self, graph.positions.dtype)
        with jax.default_matmul_precision("highest"):  # an accelerator would round the factors to 10 bits
            basis = model._edge_basis(graph)
            species = model.embedding[species_index(graph.numbers, self.config.elements)].T
            features = model._pool(graph, basis, species)
            energy, sent = model.layers[0](features, species)
            if model.message is not None and sent is not None:
                features = model.message(graph, basis, sent, features)
                more, _ = model.layers[1](features, species)
                energy = energy + more
        return model.scale * energy

    def _edge_basis(self, graph: Graph) -> tuple[Float[Array, "features neighbors atoms"], list[Array]]:
        """Radial functions and spherical harmonics of every edge; zero on padding."""
        vectors = graph.vectors()
        r = safe_norm(vectors)
        # A neighbor at distance zero has no direction: its harmonics are those of the zero vector.
        x, y, z = vectors / jnp.where(r > 0.0, r, jnp.ones_like(r))[None]
        return bessel_basis(r, self.cutoff, self.config.radial), list(spherical_harmonics(x, y, z, self.config.degree))

    def _pool(
        self, graph: Graph, basis: tuple[Array, list[Array]], species: Float[Array, "features atoms"]
    ) -> Features:
        """Sum over the neighbors, then mix radial functions and species into channels."""
        radial, harmonics = basis
        if len(self.config.elements) > 1:
            weighted = species[:, graph.senders][:, None] * radial[None]
            radial = weighted.reshape(-1, *radial.shape[1:])
        radial = radial * (1.0 / math.sqrt(self.config.mean_neighbors))
        features = []
        for degree in range(self.config.degree + 1):
            ys = harmonics[degree**2 : (degree + 1) ** 2]
            pooled = jnp.stack([jnp.sum(radial * y[None], axis=1) for y in ys], axis=1)
            mixed = jnp.tensordot(self.radial_mix[degree], pooled, axes=1)
            mixed = jnp.sum(mixed * species[:, None, None, :], axis=0)
            features.append([mixed[:, m] for m in range(2 * degree + 1)])
        return features


class Layer(eqx.Module):
    """Products of the pooled features, the energy they give, and what is sent to the neighbors."""

    path_weights: list[Float[Array, "..."]]
    linear: Float[Array, "..."]
    hidden: list[Float[Array, "..."]]
    bias: list[Float[Array, "..."]]
    out: Float[Array, "features"]
    density: Float[Array, "densities channels"]
    bond: Float[Array, "densities"]
    send_scalars: Float[Array, "..."] | None
    send_vectors: Float[Array, "..."] | None
    config: ACEConfig = eqx.field(static=True)

    def __init__(self, config: ACEConfig, *, last: bool, key: PRNGKeyArray):
        keys = iter(jax.random.split(key, config.degree + 10))
        c, q, degrees, width = config.channels, config.embedding_size, config.degree + 1, config.hidden

        def normal(*shape: int, fan_in: int) -> Array:
            return jax.random.normal(next(keys), shape) / math.sqrt(fan_in)

        paths = [len(paths_to(config.degree, degree)) for degree in range(degrees)] if config.products else []
        invariants = c * (1 + 3 * degrees if config.products else 1 + degrees)
        self.path_weights = [normal(q, n, c, fan_in=n) for n in paths]
        self.linear = jnp.zeros((q, invariants))
        self.hidden = [normal(width, invariants, fan_in=invariants)]
        self.bias = [jnp.zeros((q, width))]
        if config.products:
            self.hidden.append(normal(width, width, fan_in=width))
            self.bias.append(jnp.zeros((q, width)))
        self.out = 0.3 * normal(width, fan_in=width)
        self.density = normal(_DENSITIES, c, fan_in=c)
        self.bond = 0.1 * normal(_DENSITIES, fan_in=_DENSITIES)
        self.send_scalars = None if last else normal(config.message_channels, invariants, fan_in=invariants)
        self.send_vectors = None if last else normal(config.message_channels, 3 * c, fan_in=3 * c)
        self.config = config

    def __call__(
        self, a: Features, species: Float[Array, "features atoms"]
    ) -> tuple[Float[Array, "atoms"], Float[Array, "4 channels atoms"] | None]:
        p = self._square(a, species) if self.config.products else None
        invariants = 0.5 * jnp.concatenate(_invariants(a, p))
        energy = jnp.sum(_of_species(self.linear, species) * invariants, axis=0)
        energy = energy + self._network(self.hidden[0] @ invariants, species)
        energy = energy - self._network(jnp.zeros_like(self.hidden[0][:, :1]), species)  # of an isolated atom
        energy = energy + jnp.sum(self.bond[:, None] * root(self.density @ a[0][0]), axis=0)
        if self.send_scalars is None or self.send_vectors is None or p is None:
            return energy, None
        cubic = [
            sum(terms)
            for terms in zip(
                *(coupled(p[l1], a[l2], 1) for l1, l2 in ((0, 1), (1, 0), (1, 2), (2, 1)) if max(l1, l2) < len(a)),
                strict=True,
            )
        ]
        vectors = jnp.stack([jnp.concatenate([a[1][m], p[1][m], 0.5 * cubic[m]]) for m in range(3)], axis=1)
        vectors = jnp.tensordot(self.send_vectors, vectors, axes=1)
        return energy, jnp.concatenate([(self.send_scalars @ invariants)[None], jnp.moveaxis(vectors, 1, 0)])

    def _network(
        self, x: Float[Array, "hidden #atoms"], species: Float[Array, "features atoms"]
    ) -> Float[Array, "#atoms"]:
        """The neural network from its first product on; the biases are those of the element."""
        x = jax.nn.silu(x + _of_species(self.bias[0], species))
        for weight, bias in zip(self.hidden[1:], self.bias[1:], strict=True):
            x = jax.nn.silu(weight @ x + _of_species(bias, species))
        return jnp.sum(self.out[:, None] * x, axis=0)

    def _square(self, a: Features, species: Float[Array, "features atoms"]) -> Features:
        """Every coupling of the features with themselves, weighted for each path, channel and species."""
        squared = []
        for degree, weights in enumerate(self.path_weights):
            total: list[Array] = []
            for path, (l1, l2) in enumerate(paths_to(self.config.degree, degree)):
                weight = _of_species(weights[:, path], species)
                terms = [weight * x for x in coupled(a[l1], a[l2], degree)]
                total = [x + y for x, y in zip(total, terms, strict=True)] if total else terms
            squared.append(total)
        return squared


class Message(eqx.Module):
    """What the neighbors sent, turned into new pooled features."""

    radial: Float[Array, "2 channels features"]
    mix: list[Float[Array, "..."]]
    keep: Float[Array, "..."]
    config: ACEConfig = eqx.field(static=True)

    def __init__(self, config: ACEConfig, *, key: PRNGKeyArray):
        keys = iter(jax.random.split(key, config.degree + 3))
        c, h, n = config.channels, config.message_channels, config.radial
        self.radial = jax.random.normal(next(keys), (2, h, n)) / math.sqrt(n)
        paths = [len(_message_paths(config.degree, degree)) for degree in range(config.degree + 1)]
        self.mix = [jax.random.normal(next(keys), (c, m * h)) / math.sqrt(m * h) for m in paths]
        self.keep = jax.random.normal(next(keys), (config.degree + 1, c, c)) / math.sqrt(c)
        self.config = config

    def __call__(
        self, graph: Graph, basis: tuple[Array, list[Array]], sent: Float[Array, "4 channels atoms"], a: Features
    ) -> Features:
        radial, harmonics = basis
        # Never slice or unroll the message: one gather, one product with the radial part, one contraction.
        weights = jnp.tensordot(self.radial, radial, axes=1) * (1.0 / math.sqrt(self.config.mean_neighbors))
        weights = jnp.concatenate([weights, weights[1:], weights[1:]])
        message = graph.gather(sent) * weights
        pooled = jnp.einsum("ackn,bkn->abcn", message, jnp.stack(harmonics))
        features = []
        for degree in range(self.config.degree + 1):
            parts = []
            for l1, l2 in _message_paths(self.config.degree, degree):
                block = pooled[l1**2 : (l1 + 1) ** 2, l2**2 : (l2 + 1) ** 2]
                table = jnp.asarray(math.sqrt(2 * degree + 1) * clebsch_gordan(l1, l2, degree), radial.dtype)
                parts.append(jnp.einsum("abcn,abm->cmn", block, table))
            new = jnp.tensordot(self.mix[degree], jnp.concatenate(parts), axes=1)
            new = new + jnp.tensordot(self.keep[degree], jnp.stack(a[degree], axis=1), axes=1)
            features.append([new[:, m] for m in range(2 * degree + 1)])
        return features


def paths_to(degree: int, out: int) -> list[tuple[int, int]]:
    """Pairs l1 <= l2 whose symmetric product has a part of degree `out` with natural parity."""
    return [
        (l1, l2)
        for l1 in range(degree + 1)
        for l2 in range(l1, degree + 1)
        if abs(l1 - l2) <= out <= l1 + l2 and (l1 + l2 + out) % 2 == 0
    ]


def _message_paths(degree: int, out: int) -> list[tuple[int, int]]:
    """Pairs of a sent degree (0 or 1) and a harmonic that couple to `out` with natural parity."""
    return [
        (l1, l2)
        for l1 in (0, 1)
        for l2 in range(degree + 1)
        if abs(l1 - l2) <= out <= l1 + l2 and (l1 + l2 + out) % 2 == 0
    ]


def coupled(a: list[Array], b: list[Array], degree: int) -> list[Array]:
    """Clebsch-Gordan product that keeps features of unit size at unit size."""
    return [math.sqrt(2 * degree + 1) * x for x in product(a, b, degree)]


def _invariants(a: Features, p: Features | None) -> list[Array]:
    """Rotation invariants: the scalars, and the dot products of features of the same degree."""

    def dots(x: Features, y: Features) -> list[Array]:
        return [  # pyright: ignore[reportReturnType]  # no sum is empty
            sum(u * v for u, v in zip(xs, ys, strict=True)) * (1.0 / math.sqrt(len(xs)))
            for xs, ys in zip(x, y, strict=True)
        ]

    return [a[0][0], *dots(a, a), *(dots(a, p) + dots(p, p) if p is not None else [])]


def root(density: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root of a density, of either sign, smooth and zero at zero."""
    return (density * density + _ROUNDING**2) ** 0.25 - _ROUNDING**0.5


def _of_species(weights: Float[Array, "q *shape"], species: Float[Array, "q atoms"]) -> Float[Array, "*shape #atoms"]:
    """Weights of each atom, linear in the embedding of its element; no work where there is one element."""
    if weights.shape[0] == 1:
        return weights[0][..., None] * species[0, 0]
    return jnp.tensordot(jnp.moveaxis(weights, 0, -1), species, axes=1)
