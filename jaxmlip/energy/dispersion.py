"""Dispersion: D3 with the damping of Becke and Johnson, its coefficients following the coordination of each atom."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.elements import NUMBERS, SYMBOLS
from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.energy.references import reject_strangers, species_index
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph

# s8, a1, a2 [bohr] for functionals, s6 = 1: Grimme, Ehrlich & Goerigk, J. Comput. Chem. 32, 1456 (2011),
# doi:10.1002/jcc.21759, as listed by simple-dftd3.
FUNCTIONALS = {
    "PBE": (0.7875, 0.4289, 4.4407),
    "revPBE": (2.3550, 0.5238, 3.5016),
    "BLYP": (2.6996, 0.4298, 4.2359),
    "B3LYP": (1.9889, 0.3981, 4.4211),
    "PBE0": (1.2177, 0.4145, 4.8593),
    "TPSS": (1.9435, 0.4535, 4.4752),
}
CUTOFF = 60.0 * units.bohr  # those of simple-dftd3
COORDINATION_CUTOFF = 40.0 * units.bohr
_STEEPNESS = 16.0  # of the count of neighbors
_WIDTH = 4.0  # of the weights of reference coordinations
_EDGES = 2**20  # edges held at once


class D3(AbstractEnergy):
    r"""D3(BJ) without its three-body term, to be added: `model + D3.for_functional("PBE", ["C", "H"])`.

    $E = -\frac12 \sum_{ij} \left[ s_6 \frac{C_6}{r^6 + f^6} + s_8 \frac{C_8}{r^8 + f^8} \right]$ with
    $f = a_1 \sqrt{C_8 / C_6} + a_2$ and $C_8 = 3 C_6 \sqrt{Q_i Q_j}$. $C_6$ is a mean of tabulated values, weighted by
    $e^{-4 (N_i - N_i^{ref})^2 - 4 (N_j - N_j^{ref})^2}$ with the coordination numbers
    $N_i = \sum_j 1 / (1 + e^{-16 (R_{ij} / r - 1)})$.

    Pairs and counts are switched off between `onset` times their cutoff and the cutoff, with two continuous
    derivatives; `onset=1.0` cuts them bluntly, as other programs do. The default cutoffs (32 and 21 Å) are those of
    simple-dftd3: thousands of neighbors in a crystal, taken block by block. Shorter ones save that and miss some
    energy, which falls as the third power of the cutoff.

    The tables come from the package `torch-dftd` (its file of arrays is read, PyTorch is not needed): install
    `jaxmlip[dispersion]`. They can be refined like all parameters.

    **Reference:** Grimme, Antony, Ehrlich & Krieg, J. Chem. Phys. 132, 154104 (2010), doi:10.1063/1.3382344; Grimme,
    Ehrlich & Goerigk, J. Comput. Chem. 32, 1456 (2011), doi:10.1002/jcc.21759.
    """

    s6: Float[Array, ""] = eqx.field(converter=parameter)
    s8: Float[Array, ""] = eqx.field(converter=parameter)
    a1: Float[Array, ""] = eqx.field(converter=parameter)
    a2: Float[Array, ""] = eqx.field(converter=parameter)  # [Å]
    c6: Float[Array, "species species references references"] = eqx.field(converter=parameter)  # [eV Å^6]
    coordinations: Float[Array, "species references"] = eqx.field(converter=parameter)
    ratios: Float[Array, "species"] = eqx.field(converter=parameter)  # root of Q [Å]
    radii: Float[Array, "species"] = eqx.field(converter=parameter)  # 4/3 of covalent ones [Å]
    known: tuple[tuple[bool, ...], ...] = eqx.field(static=True)  # which references an element has
    cutoff: float = eqx.field(static=True)
    coordination_cutoff: float = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        elements: Sequence[str],
        *,
        s8: float,
        a1: float,
        a2: float,
        s6: float = 1.0,
        cutoff: float = CUTOFF,
        coordination_cutoff: float = COORDINATION_CUTOFF,
        onset: float = 0.9,
    ):
        """`a2` is in bohr, as it is published; cutoffs are in Å.

        **Raises:** `UserError` where torch-dftd is not installed, or does not know an element; `ValueError` for a
        cutoff that is not positive or an `onset` that is no fraction.
        """
        if min(cutoff, coordination_cutoff) <= 0:
            raise ValueError(f"Cutoffs must be positive [Å]; got {cutoff} and {coordination_cutoff}.")
        if not 0.0 < onset <= 1.0:
            raise ValueError(f"`onset` is a fraction of the cutoff, above 0 and up to 1; got {onset}.")
        self.elements = _numbers(elements)
        with np.load(_tables(), allow_pickle=False) as file:
            tables = {name: file[name] for name in ("c6ab", "r2r4", "rcov")}
        absent = [SYMBOLS[n] for n in self.elements if n >= len(tables["rcov"])]
        if absent:
            raise UserError(f"D3 has no parameters for {', '.join(absent)}.")
        pick = list(self.elements)
        c6 = tables["c6ab"][np.ix_(pick, pick)]
        own = np.einsum("aaijk->aijk", c6)
        known = np.einsum("aiik->aik", own)[..., 0] > 0
        coordinations = np.where(known, np.einsum("aiik->aik", own)[..., 1], 0.0)
        self.known = tuple(tuple(bool(x) for x in row) for row in known)
        self.c6 = parameter(np.maximum(c6[..., 0], 0.0) * units.hartree * units.bohr**6)
        self.coordinations = parameter(coordinations)
        self.ratios = parameter(tables["r2r4"][pick] * units.bohr)
        # Tabulated in units of some bohr of its own: that of carbon is 4/3 of 0.75 Å (Pyykkö & Atsumi 2009).
        self.radii = parameter(tables["rcov"][pick] / tables["rcov"][6])
        self.s6, self.s8, self.a1, self.a2 = parameter(s6), parameter(s8), parameter(a1), parameter(a2 * units.bohr)
        self.cutoff, self.coordination_cutoff, self.onset = cutoff, min(cutoff, coordination_cutoff), onset

    @classmethod
    def for_functional(cls, functional: str, elements: Sequence[str], **options: float) -> D3:
        """D3(BJ) with the published damping of a density functional; `options` are those of `D3`.

        **Raises:** `UserError` naming the functionals that are known.
        """
        if functional not in FUNCTIONALS:
            raise UserError(
                f"No damping is listed for {functional!r}; there is {', '.join(FUNCTIONALS)}: else `D3(...)`."
            )
        s8, a1, a2 = FUNCTIONALS[functional]
        return cls(elements, s8=s8, a1=a1, a2=a2, **options)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        counts = _sum_in_blocks(graph, self._count)
        weights = self._weights(counts, species_index(graph.numbers, self.elements or ()))
        energies = _sum_in_blocks(graph, lambda part: self._pairs(part, weights))
        return reject_strangers(energies, graph, self.elements or ())

    def coordination(self, graph: Graph) -> Float[Array, "atoms"]:
        """The coordination number of each atom."""
        return _sum_in_blocks(graph, self._count)

    def _count(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        species = species_index(graph.numbers, self.elements or ())
        radii = self.radii.astype(r.dtype)[species]
        near = jnp.where(r > 0, r, jnp.ones_like(r))
        exponent = _STEEPNESS * ((radii[graph.senders] + radii[None, :]) / near - 1.0)
        count = jnp.where(r > 0, jax.nn.sigmoid(exponent), jnp.ones_like(r))
        return graph.sum_edges(count * self._fade(r, self.coordination_cutoff))

    def _weights(self, counts: Float[Array, "atoms"], species) -> Float[Array, "references atoms"]:
        """Weight of each reference of each atom; they sum to 1."""
        references = self.coordinations.astype(counts.dtype)[species].T
        distance = -_WIDTH * (counts[None, :] - references) ** 2
        return jax.nn.softmax(distance, axis=0, where=jnp.asarray(self.known)[species].T)

    def _pairs(self, graph: Graph, weights: Float[Array, "references atoms"]) -> Float[Array, "atoms"]:
        r = graph.lengths()
        dtype = r.dtype
        species = species_index(graph.numbers, self.elements or ())
        other = species[graph.senders]
        c6 = jnp.zeros_like(r)
        for s, _ in enumerate(self.known):
            # [references atoms]: each atom beside an element s with each of the references of that
            table = self.c6.astype(dtype)[species, s]
            mine = jnp.sum(table * weights.T[:, :, None], axis=1).T
            seen = jnp.where((other == s)[None], graph.gather(weights), jnp.zeros((), dtype))
            c6 = c6 + jnp.sum(mine[:, None] * seen, axis=0)
        ratios = self.ratios.astype(dtype)[species]
        quotient = 3.0 * ratios[graph.senders] * ratios[None, :]
        s6, s8, a1, a2 = (x.astype(dtype) for x in (self.s6, self.s8, self.a1, self.a2))
        radius = a1 * jnp.sqrt(quotient) + a2
        square, damping = r * r, radius * radius
        six = square * square * square + damping * damping * damping
        eight = square * square * square * square + damping * damping * damping * damping
        pair = -c6 * (s6 / six + s8 * quotient / eight)
        return 0.5 * graph.sum_edges(pair * self._fade(r, self.cutoff))

    def _fade(self, r: Float[Array, "neighbors atoms"], cutoff: float) -> Float[Array, "neighbors atoms"]:
        if self.onset < 1.0:
            return switch_envelope(r / cutoff, self.onset)
        return (r < cutoff).astype(r.dtype)


def _sum_in_blocks(graph: Graph, sum_part: Callable[[Graph], Float[Array, "atoms"]]) -> Float[Array, "atoms"]:
    """A sum over the neighbors of each atom, some rows of neighbors at a time where there are many."""
    neighbors, atoms = graph.senders.shape
    rows = max(1, _EDGES // max(atoms, 1))
    if neighbors <= rows:
        return sum_part(graph)
    blocks = -(-neighbors // rows)
    extra = blocks * rows - neighbors

    def cut(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)])
        return jnp.moveaxis(padded.reshape(*x.shape[:-2], blocks, rows, atoms), -3, 0)

    @jax.checkpoint
    def step(total, edges):
        part = eqx.tree_at(lambda g: (g.senders, g.shifts, g.edge_mask), graph, edges)
        return total + sum_part(part), None

    edges = (cut(graph.senders), cut(graph.shifts), cut(graph.edge_mask))
    return lax.scan(step, jnp.zeros_like(graph.positions[:, 0]), edges)[0]


def _numbers(elements: Sequence[str]) -> tuple[int, ...]:
    elements = (elements,) if isinstance(elements, str) else tuple(elements)
    unknown = [symbol for symbol in elements if NUMBERS.get(symbol, 0) == 0]
    if unknown or not elements:
        raise UserError(f"`elements` are symbols of elements, such as ['C', 'H']; got {list(elements)}.")
    return tuple(sorted({NUMBERS[symbol] for symbol in elements}))


def _tables() -> Path:
    """The file with the tables of D3."""
    package = importlib.util.find_spec("torch_dftd")
    if package is None or package.origin is None:
        raise UserError(
            "The tables of D3 come from the package torch-dftd, which is not installed: "
            "pip install 'jaxmlip[dispersion]'."
        )
    return Path(package.origin).parent / "nn" / "params" / "dftd3_params.npz"
