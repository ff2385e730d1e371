r"""Linear atomic cluster expansion: the basis of the ACE family with a linear head, fitted by solving equations.

With $G_{n,lm} = \sum_j \phi_n(r) \, \delta_{z_j} \, Y_{lm}(u) / \sqrt{\bar K}$ (radial functions of each neighboring
element count as functions of their own), the functions of an atom are

- 2-body: $G_{n,00}$; 3-body: $G_{nl} \cdot G_{n'l}$, all pairs;
- 4- and 5-body: $A_{cl} \cdot P_{cl}$ and $P_{cl} \cdot P_{cl}$ of random channels $A_c = W_c G$, where
  $P_c = \sum_{l_1 l_2} w_{c,l_1 l_2} (A_c \otimes A_c)$: a random subset in place of an exponential number;
- roots $F(\sum_n u_{dn} G_{n,00})$ of random densities, which are how metallic bonds weaken with their number.

The energy is $E_i = \sum_f w_f(z_i) B_f(i)$: weights for each element of the center. `rows` gives what each weight adds
to energy, forces and virial by the chain rule in stages, at about the cost of ten energies.

**Reference:** Drautz, Phys. Rev. B 99, 014104 (2019), doi:10.1103/PhysRevB.99.014104; Darby et al., Phys. Rev. Lett.
131, 028001 (2023), doi:10.1103/PhysRevLett.131.028001 (random channels); Finnis & Sinclair, Philos. Mag. A 50, 45
(1984), doi:10.1080/01418618408244210.
"""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy.base import AbstractEnergy, cast
from jaxmlip.energy.references import species_index
from jaxmlip.graph import Graph, safe_norm
from jaxmlip.models.ace import coupled, paths_to, root
from jaxmlip.models.harmonics import MAX_DEGREE, spherical_harmonics
from jaxmlip.models.radial import bessel_basis

GROUPS = ("2-body", "3-body", "4-body", "5-body", "roots")


@dataclasses.dataclass(frozen=True)
class LinearACEConfig:
    """What fixes the basis: `elements`, `cutoff` [Å], `degree` (largest l), `radial` functions for each neighboring
    element, random `channels`, `roots` of densities; `mean_neighbors` normalizes."""

    elements: tuple[int, ...]
    cutoff: float = 5.0
    degree: int = 3
    radial: int = 8
    channels: int = 48
    roots: int = 16
    mean_neighbors: float = 30.0

    def __post_init__(self):
        if not self.elements or any(not 1 <= n < len(SYMBOLS) for n in self.elements):
            raise ValueError(f"`elements` must be atomic numbers, at least one; got {self.elements}.")
        object.__setattr__(self, "elements", tuple(sorted(set(int(n) for n in self.elements))))
        if self.cutoff <= 0:
            raise ValueError(f"`cutoff` must be positive [Å]; got {self.cutoff}.")
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"`degree` must be 1 to {MAX_DEGREE}; got {self.degree}.")
        for name in ("radial", "channels", "roots", "mean_neighbors"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")

    @property
    def width(self) -> int:
        """Radial functions of all neighboring elements."""
        return self.radial * len(self.elements)

    @property
    def sizes(self) -> dict[str, int]:
        """Functions of an atom in each group."""
        degrees, pairs = self.degree + 1, self.width * (self.width + 1) // 2
        counts = (self.width, degrees * pairs, degrees * self.channels, degrees * self.channels, self.roots)
        return dict(zip(GROUPS, counts, strict=True))


class Rows(NamedTuple):
    """What a weight adds to one system: energy [eV], forces [eV/Å] and virial -dE/d(strain) [eV], for a unit weight."""

    energy: Float[Array, "weights"]
    forces: Float[Array, "atoms 3 weights"]
    virial: Float[Array, "3 3 weights"]


class LinearACE(AbstractEnergy):
    """The energy that is linear in `weights` [eV]; zero until `learn.fit_linear` has solved for them."""

    weights: Float[Array, "species functions"]
    mix: Float[Array, "degrees channels width"]
    path_weights: list[Float[Array, "paths channels"]]
    densities: Float[Array, "roots width"]
    config: LinearACEConfig = eqx.field(static=True)

    def __init__(self, config: LinearACEConfig, *, key: PRNGKeyArray):
        keys = jax.random.split(key, config.degree + 3)
        degrees, width = config.degree + 1, config.width
        self.weights = jnp.zeros((len(config.elements), sum(config.sizes.values())))
        self.mix = jax.random.normal(keys[0], (degrees, config.channels, width)) / math.sqrt(width)
        paths = [len(paths_to(config.degree, degree)) for degree in range(degrees)]
        self.path_weights = [
            jax.random.normal(k, (n, config.channels)) / math.sqrt(n) for k, n in zip(keys[2:], paths, strict=False)
        ]
        self.densities = jax.random.normal(keys[1], (config.roots, width)) / math.sqrt(width)
        self.config = config

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.config.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        model = cast(self, graph.positions.dtype)
        with jax.default_matmul_precision("highest"):
            weights = model.weights[species_index(graph.numbers, self.config.elements)].T
            return jnp.sum(weights * model._functions(model._pooled(graph)), axis=0)

    def basis(self, graph: Graph) -> Float[Array, "functions atoms"]:
        """The functions of every atom."""
        model = cast(self, graph.positions.dtype)
        with jax.default_matmul_precision("highest"):
            return model._functions(model._pooled(graph))

    def rows(self, graph: Graph) -> Rows:
        """What each weight (of each element, then each function) adds to energy, forces and virial of one system.

        **Raises:** `ValueError` for a graph of several systems.
        """
        if graph.systems != 1:
            raise ValueError(f"`rows` takes one system at a time; got {graph.systems}.")
        model = cast(self, graph.positions.dtype)
        with jax.default_matmul_precision("highest"):
            return model._rows(graph)

    def _edge_functions(self, vectors: Float[Array, "3 *edges"]) -> Float[Array, "degrees2 radial *edges"]:
        """Radial functions times harmonics; zero on padding."""
        r = safe_norm(vectors)
        x, y, z = vectors / jnp.where(r > 0.0, r, jnp.ones_like(r))[None]
        radial = bessel_basis(r, self.cutoff, self.config.radial) * (1.0 / math.sqrt(self.config.mean_neighbors))
        return jnp.stack(list(spherical_harmonics(x, y, z, self.config.degree)))[:, None] * radial[None]

    def _of_senders(self, graph: Graph) -> Float[Array, "species neighbors atoms"]:
        """One for the element of each neighbor, zero for the others."""
        species = species_index(graph.numbers, self.config.elements)
        return jax.nn.one_hot(species, len(self.config.elements), axis=0, dtype=graph.positions.dtype)[:, graph.senders]

    def _pooled(self, graph: Graph) -> Float[Array, "degrees2 width atoms"]:
        functions = self._edge_functions(graph.vectors())
        pooled = jnp.einsum("qnka,ska->qsna", functions, self._of_senders(graph))
        return pooled.reshape(len(functions), self.config.width, -1)

    def _functions(self, pooled: Float[Array, "degrees2 width atoms"]) -> Float[Array, "functions atoms"]:
        upper = np.triu_indices(self.config.width)
        pairs = [jnp.sum(g[:, upper[0]] * g[:, upper[1]], axis=0) / math.sqrt(len(g)) for g in _by_degree(pooled)]
        channels = self._of_channels(self._mixed(pooled))
        roots = root(jnp.tensordot(self.densities, pooled[0], axes=1))
        return jnp.concatenate([pooled[0], *pairs, channels.reshape(-1, channels.shape[-1]), roots])

    def _mixed(self, pooled: Float[Array, "degrees2 width *rest"]) -> Float[Array, "degrees2 channels *rest"]:
        parts = _by_degree(pooled)
        mixed = [jnp.einsum("cw,mw...->mc...", w, g) for w, g in zip(self.mix, parts, strict=True)]
        return jnp.concatenate(mixed)

    def _of_channels(self, mixed: Float[Array, "degrees2 channels atoms"]) -> Float[Array, "functions channels atoms"]:
        """The 4-body, then the 5-body functions of every channel."""
        a = [list(x) for x in _by_degree(mixed)]
        p = []
        for degree, weights in enumerate(self.path_weights):
            total: list[Array] = []
            for weight, (l1, l2) in zip(weights, paths_to(self.config.degree, degree), strict=True):
                terms = [weight[:, None] * x for x in coupled(a[l1], a[l2], degree)]
                total = [x + y for x, y in zip(total, terms, strict=True)] if total else terms
            p.append(total)
        dots = [
            jnp.sum(jnp.stack(x) * jnp.stack(y), axis=0) / math.sqrt(len(x))
            for left in (a, p)
            for x, y in zip(left, p, strict=True)
        ]
        return jnp.stack(dots)

    def _rows(self, graph: Graph) -> Rows:
        config, vectors = self.config, graph.vectors()
        pooled = self._pooled(graph)
        # What a shift of a neighbor along each axis does to the pooled functions of the center.
        axes = jnp.eye(3, dtype=vectors.dtype)
        moved = [
            jax.jvp(self._edge_functions, (vectors,), (jnp.broadcast_to(e[:, None, None], vectors.shape),))[1]
            for e in axes
        ]
        change = jnp.einsum("xqnka,ska->qsnxka", jnp.stack(moved), self._of_senders(graph))
        change = change.reshape(len(pooled), config.width, *change.shape[3:])
        change = jnp.where(graph.edge_mask, change, jnp.zeros_like(change))

        upper = np.triu_indices(config.width)
        pairs = []
        for g, d in zip(_by_degree(pooled), _by_degree(change), strict=True):
            both = jnp.einsum("mua,mvxka->uvxka", g, d) / math.sqrt(len(g))
            pairs.append(both[upper] + both[upper[::-1]])
        mixed = self._mixed(pooled)
        slopes = jax.vmap(  # of the functions of each channel; no channel feels another
            lambda t: jax.jvp(self._of_channels, (mixed,), (jnp.broadcast_to(t[:, None, None], mixed.shape),))[1]
        )(jnp.eye(len(mixed), dtype=mixed.dtype))
        channels = jnp.einsum("qfca,qcxka->fcxka", slopes, self._mixed(change))
        slope = jax.vmap(jax.vmap(jax.grad(root)))(jnp.tensordot(self.densities, pooled[0], axes=1))
        roots = slope[:, None, None, :] * jnp.tensordot(self.densities, change[0], axes=1)
        edges = jnp.concatenate([change[0], *pairs, channels.reshape(-1, *channels.shape[2:]), roots])

        species = species_index(graph.numbers, config.elements)
        real = jnp.where(graph.atom_mask, 1.0, 0.0).astype(vectors.dtype)
        center = jax.nn.one_hot(species, len(config.elements), axis=0, dtype=vectors.dtype) * real[None]
        functions = self._functions(pooled)
        energy = jnp.einsum("sa,fa->sf", center, functions)
        virial, forces = [], []
        for here in center:
            mine = edges * here[None, None, None, :]
            virial.append(jnp.einsum("fxka,yka->xyf", mine, jnp.where(graph.edge_mask, vectors, 0.0)))
            flat = jnp.moveaxis(mine, (2, 3), (0, 1))  # neighbors atoms functions 3
            pull = jax.ops.segment_sum(flat.reshape(-1, *flat.shape[2:]), graph.senders.reshape(-1), len(graph.numbers))
            forces.append(jnp.sum(flat, axis=0) - pull)
        forces = jnp.moveaxis(jnp.concatenate(forces, axis=1), 1, 2)
        return Rows(energy.reshape(-1), forces, -jnp.concatenate(virial, axis=-1))


def _by_degree(x: Float[Array, "degrees2 *rest"]) -> list[Array]:
    """Blocks of 2 l + 1 along the first axis, which holds all degrees."""
    return [x[degree**2 : (degree + 1) ** 2] for degree in range(math.isqrt(len(x)))]
