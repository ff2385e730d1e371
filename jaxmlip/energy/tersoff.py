"""The bond-order potential of Tersoff."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.lammps_files import Elements, read_triplets, refuse
from jaxmlip.energy.references import reject_strangers, species_index
from jaxmlip.graph import Graph
from jaxmlip.graph.compact import WORD, select_bits
from jaxmlip.graph.graph import safe_norm

FIELDS = ("m", "gamma", "lambda3", "c", "d", "costheta0", "n", "beta", "lambda2", "B", "R", "D", "lambda1", "A")
BLOCK = 4  # neighbors that meet neighbors at once: those of a tetrahedral crystal
LARGEST = 69.0776  # exponents end here, at 1e30, as in LAMMPS
Nested = tuple[tuple[tuple[float, ...], ...], ...]


class Tersoff(AbstractEnergy):
    r"""Bonds whose strength falls with their number, of one or several elements, read from a LAMMPS file.

    $E = \frac12 \sum_i \sum_{j \ne i} f_C(r_{ij}) [A e^{-\lambda_1 r_{ij}} - b_{ij} B e^{-\lambda_2 r_{ij}}]$ with
    $b = (1 + (\beta \zeta)^n)^{-1/2n}$,
    $\zeta_{ij} = \sum_{k \ne i,j} f_C(r_{ik}) g(\theta_{jik}) e^{\lambda_3^m (r_{ij} - r_{ik})^m}$,
    $g = \gamma (1 + c^2/d^2 - c^2 / (d^2 + (\cos\theta - c_0)^2))$ and $f_C$ half a sine between $R - D$ and $R + D$.

    Energy and forces are continuous; the second derivative of $f_C$ jumps at $R \pm D$, and where $n < 1$ that of the
    energy grows without bound as the last other neighbor leaves. That is the potential as published.

    Where a file gives another repulsion for j, i than for i, j, each has half a share. Atoms on one spot have a finite
    energy and no force: add `ZBL()` where they may meet.

    **Reference:** Tersoff, Phys. Rev. B 37, 6991 (1988), doi:10.1103/PhysRevB.37.6991; 39, 5566 (1989).
    """

    repulsion: Float[Array, "species species"] = eqx.field(converter=parameter)  # A [eV]
    repulsion_decay: Float[Array, "species species"] = eqx.field(converter=parameter)  # lambda1 [1/Å]
    attraction: Float[Array, "species species"] = eqx.field(converter=parameter)  # B [eV]
    attraction_decay: Float[Array, "species species"] = eqx.field(converter=parameter)  # lambda2 [1/Å]
    beta: Float[Array, "species species"] = eqx.field(converter=parameter)
    n: Float[Array, "species species"] = eqx.field(converter=parameter)
    gamma: Float[Array, "species species species"] = eqx.field(converter=parameter)
    c: Float[Array, "species species species"] = eqx.field(converter=parameter)
    d: Float[Array, "species species species"] = eqx.field(converter=parameter)
    cosine: Float[Array, "species species species"] = eqx.field(converter=parameter)
    decay: Float[Array, "species species species"] = eqx.field(converter=parameter)  # lambda3 [1/Å]
    cubic: Nested = eqx.field(static=True)  # 1.0 where m is 3, 0.0 where it is 1
    starts: Nested = eqx.field(static=True)  # R - D [Å]
    ends: Nested = eqx.field(static=True)  # R + D [Å]
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    @classmethod
    def from_file(cls, path: str | Path, *, elements: Elements = None) -> Tersoff:
        """Read a LAMMPS `pair_style tersoff` file (units `metal`).

        `elements` chooses among the labels of the file, or says what they are: `{"Si(D)": "Si", "C": "C"}`.

        **Raises:** `UserError` with file and line where the file is malformed or a number is not allowed, and naming
        elements or triplets that are missing.
        """
        found = read_triplets(path, FIELDS, elements)
        value = dict(zip(FIELDS, np.moveaxis(found.values, -1, 0), strict=True))
        own = np.broadcast_to(np.eye(len(found.numbers), dtype=bool)[None], value["m"].shape)  # entries i, j, j
        for name in ("gamma", "lambda3", "c", "d", "n", "beta", "lambda2", "B", "R", "D", "lambda1", "A"):
            refuse(found, value[name] < 0, f"`{name}` of at least 0")
        refuse(found, (value["m"] != 1) & (value["m"] != 3), "`m` of 1 or 3")
        refuse(found, (value["d"] == 0) & (value["c"] != 0), "`d` above 0")
        refuse(found, own & (value["n"] == 0), "`n` above 0")
        refuse(found, (value["D"] == 0) | (value["D"] > value["R"]), "`D` above 0 and at most `R`")
        pair = {name: np.einsum("ijj->ij", x) for name, x in value.items()}
        return cls(
            repulsion=pair["A"],
            repulsion_decay=pair["lambda1"],
            attraction=pair["B"],
            attraction_decay=pair["lambda2"],
            beta=pair["beta"],
            n=pair["n"],
            gamma=value["gamma"],
            c=value["c"],
            d=np.where(value["d"] == 0, 1.0, value["d"]),
            cosine=value["costheta0"],
            decay=value["lambda3"],
            cubic=_nested(value["m"] == 3),
            starts=_nested(value["R"] - value["D"]),
            ends=_nested(value["R"] + value["D"]),
            cutoff=float((value["R"] + value["D"]).max()),
            elements=found.numbers,
        )

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        graph = _nearest_first(graph, self.cutoff)
        vectors = graph.vectors()
        r = safe_norm(vectors)
        unit = vectors / jnp.where(r > 0, r, jnp.ones_like(r))[None]
        center = species_index(graph.numbers, self.elements or ())
        slot = lax.broadcasted_iota(jnp.int32, r.shape, 0)
        edges = _Edges(r, unit, center[graph.senders], slot, graph.edge_mask)
        blocks = jax.tree.map(_in_blocks, edges)

        @jax.checkpoint
        def of_block(bonds: _Edges) -> Float[Array, "atoms"]:
            zeta = lax.map(lambda others: self._coordination(bonds, others, center), blocks)
            return self._bonds(bonds, jnp.sum(zeta, axis=0), center)

        def step(energy, bonds: _Edges):
            nothing = lambda _: jnp.zeros_like(energy)  # noqa: E731
            return energy + lax.cond(jnp.any(bonds.mask), of_block, nothing, bonds), None

        energies = lax.scan(step, jnp.zeros_like(r[0]), blocks)[0]
        return reject_strangers(energies, graph, self.elements or ())

    def _coordination(
        self, bonds: _Edges, others: _Edges, center: Int[Array, "atoms"]
    ) -> Float[Array, "neighbors atoms"]:
        """What a block of neighbors k adds to zeta of a block of bonds i-j."""

        def add(others: _Edges):
            def of_triplet(table):
                return _of_triplet(jnp.asarray(table, bonds.r.dtype), center, bonds.species, others.species)

            cosine = sum(bonds.unit[a][:, None] * others.unit[a][None] for a in range(3))
            both = bonds.mask[:, None] & others.mask[None] & (bonds.slot[:, None] != others.slot[None])
            difference = bonds.r[:, None] - others.r[None]
            exponent = of_triplet(self.decay) * jnp.where(both, difference, jnp.zeros_like(difference))
            exponent = _choose_power(exponent, self.cubic, of_triplet)
            c, d = of_triplet(self.c) ** 2, of_triplet(self.d) ** 2
            bend = (of_triplet(self.cosine) - cosine) ** 2
            angle = of_triplet(self.gamma) * (1.0 + c * bend / (d * (d + bend)))
            near = _fade(others.r[None], of_triplet(self.starts), of_triplet(self.ends))
            value = near * angle * jnp.exp(jnp.clip(exponent, -LARGEST, LARGEST))
            return jnp.sum(jnp.where(both, value, jnp.zeros_like(value)), axis=1)

        return lax.cond(jnp.any(others.mask), add, lambda _: jnp.zeros_like(bonds.r), others)

    def _bonds(self, bonds: _Edges, zeta: Float[Array, "neighbors atoms"], center: Int[Array, "atoms"]):
        """Energy of a block of bonds, summed for each atom [eV]."""

        def of_bond(table):
            table = jnp.asarray(table, zeta.dtype)
            return table if table.size == 1 else table.reshape(-1)[center[None, :] * len(table) + bonds.species]

        def own(table):
            return of_bond(np.einsum("ijj->ij", np.asarray(table)))

        r, n = bonds.r, of_bond(self.n)
        crowd = of_bond(self.beta) * zeta
        crowded = crowd > 0
        # (1 + x^n)^(-1/2n) by its logarithm: nothing overflows for n of 20, and nothing is lost where x is tiny.
        power = n * jnp.log(jnp.where(crowded, crowd, jnp.ones_like(crowd)))
        order = jnp.where(crowded, jnp.exp(-jax.nn.softplus(power) / (2.0 * n)), jnp.ones_like(crowd))
        repulsion = of_bond(self.repulsion) * jnp.exp(-of_bond(self.repulsion_decay) * r)
        attraction = of_bond(self.attraction) * jnp.exp(-of_bond(self.attraction_decay) * r)
        energy = _fade(r, own(self.starts), own(self.ends)) * (repulsion - order * attraction)
        return 0.5 * jnp.sum(jnp.where(bonds.mask, energy, jnp.zeros_like(energy)), axis=0)


class _Edges(eqx.Module):
    """What the energy needs of a block of edges."""

    r: Float[Array, "*blocks neighbors atoms"]
    unit: Float[Array, "*blocks 3 neighbors atoms"]
    species: Int[Array, "*blocks neighbors atoms"]
    slot: Int[Array, "*blocks neighbors atoms"]
    mask: Bool[Array, "*blocks neighbors atoms"]


def _nearest_first(graph: Graph, cutoff: float) -> Graph:
    """The same graph with the neighbors inside the cutoff in the first slots, so that empty blocks can be skipped."""
    neighbors, atoms = graph.senders.shape
    inside = graph.edge_mask & (graph.lengths() < cutoff)
    rows = -(-neighbors // WORD) * WORD
    bits = jnp.pad(inside, ((0, rows - neighbors), (0, 0))).reshape(-1, WORD, atoms).astype(jnp.uint32)
    words = jnp.sum(bits << lax.broadcasted_iota(jnp.uint32, bits.shape, 1), axis=1, dtype=jnp.uint32)
    capacity = -(-neighbors // BLOCK) * BLOCK
    index, found, _ = select_bits(words, capacity)
    index = jnp.where(found, index, jnp.zeros_like(index))
    senders = jnp.take_along_axis(graph.senders, index, axis=0)
    shifts = jnp.take_along_axis(graph.shifts, index[None], axis=1)
    return eqx.tree_at(lambda g: (g.senders, g.shifts, g.edge_mask), graph, (senders, shifts, found))


def _in_blocks(x: Array) -> Array:
    """`[..., neighbors, atoms]` cut along the neighbors, blocks first."""
    cut = x.reshape(*x.shape[:-2], x.shape[-2] // BLOCK, BLOCK, x.shape[-1])
    return jnp.moveaxis(cut, -3, 0)


def _fade(
    r: Float[Array, "*pairs"], start: Float[Array, "*pairs"], end: Float[Array, "*pairs"]
) -> Float[Array, "*pairs"]:
    r"""1 up to `start`, $\sin^2(\frac{\pi}{2} (end - r) / (end - start))$, 0 from `end` on.

    That is $\frac12 - \frac12 \sin(\pi (r - R) / 2D)$, and precise where it is nearly 0.
    """
    t = jnp.clip((end - r) / (end - start), 0.0, 1.0)
    return jnp.sin(0.5 * np.pi * t) ** 2


def _of_triplet(
    table: Float[Array, "species species species"],
    center: Int[Array, "atoms"],
    first: Int[Array, "neighbors atoms"],
    second: Int[Array, "neighbors atoms"],
) -> Float[Array, "#neighbors #neighbors #atoms"]:
    """An entry for each pair of neighbors."""
    if table.size == 1:
        return table
    size = len(table)
    return table.reshape(-1)[(center[None, None] * size + first[:, None]) * size + second[None]]


def _choose_power(x: Float[Array, "..."], cubic: Nested, of_triplet) -> Float[Array, "..."]:
    """x or x cubed, as the entry says."""
    kinds = {m for rows in cubic for row in rows for m in row}
    if len(kinds) == 1:
        return x * x * x if kinds.pop() else x
    return jnp.where(of_triplet(cubic) > 0.5, x * x * x, x)


def _nested(table: np.ndarray) -> Nested:
    return tuple(tuple(tuple(float(x) for x in row) for row in rows) for rows in table)
