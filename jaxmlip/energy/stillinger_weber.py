"""The potential of Stillinger and Weber for tetrahedral crystals and liquids."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.lammps_files import Elements, read_triplets, refuse
from jaxmlip.energy.references import reject_strangers, species_index
from jaxmlip.graph import Graph
from jaxmlip.graph.graph import safe_norm

FIELDS = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")
Nested = tuple[tuple[float, ...], ...]


class StillingerWeber(AbstractEnergy):
    r"""Pairs and angles of one or several elements, read from a LAMMPS file by `from_file`.

    $E = \sum_{i<j} A \epsilon [B x^p - x^q] e^{\sigma / (r - r_c)} + \sum_i \sum_{j<k} \lambda \epsilon
    (\cos\theta_{jik} - c_0)^2 e^{\gamma\sigma / (r_{ij} - r_c)} e^{\gamma\sigma / (r_{ik} - r_c)}$ with
    $x = \sigma / r$ and $r_c = a \sigma$; all derivatives vanish at $r_c$.

    The angles cost no more than the pairs: $(\cos\theta - c_0)^2$ is a polynomial in $\hat r_{ij} \cdot \hat r_{ik}$,
    so the sum over pairs of neighbors is made of the sums over neighbors of $h$, $h \hat r$ and $h \hat r \hat r$
    (`docs/decisions/0009`).

    Where a file gives other numbers for j, i than for i, j (or for i, k, j than for i, j, k), each has half a share.

    **Reference:** Stillinger & Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262.
    """

    depth: Float[Array, "species species"] = eqx.field(converter=parameter)  # A epsilon [eV]
    core: Float[Array, "species species"] = eqx.field(converter=parameter)  # B
    sigma: Float[Array, "species species"] = eqx.field(converter=parameter)  # [Å]
    screening: Float[Array, "species species"] = eqx.field(converter=parameter)  # gamma sigma [Å]
    stiffness: Float[Array, "species species species"] = eqx.field(converter=parameter)  # lambda epsilon [eV]
    cosine: Float[Array, "species species species"] = eqx.field(converter=parameter)
    poles: Nested = eqx.field(static=True)  # r_c = a sigma [Å]
    cutoffs: Nested = eqx.field(static=True)  # [Å]; below the poles where the file has a `tol`
    powers: tuple[Nested, Nested] = eqx.field(static=True)  # p, q
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    @classmethod
    def from_file(cls, path: str | Path, *, elements: Elements = None) -> StillingerWeber:
        """Read a LAMMPS `pair_style sw` file (units `metal`); `elements` chooses among its labels (all by default).

        **Raises:** `UserError` with file and line where the file is malformed or a number is not allowed, and naming
        elements or triplets that are missing.
        """
        found = read_triplets(path, FIELDS, elements)
        value = dict(zip(FIELDS, np.moveaxis(found.values, -1, 0), strict=True))
        own = np.broadcast_to(np.eye(len(found.numbers), dtype=bool)[None], value["a"].shape)  # entries i, j, j
        for name in ("epsilon", "sigma", "a", "lambda", "gamma", "A", "B", "p", "q", "tol"):
            refuse(found, value[name] < 0, f"`{name}` of at least 0")
        for name in ("sigma", "a"):
            refuse(found, own & (value[name] == 0), f"`{name}` above 0")
        pair = {name: np.einsum("ijj->ij", x) for name, x in value.items()}
        pole = pair["a"] * pair["sigma"]
        cutoffs = pole - _tail(pair)
        return cls(
            depth=pair["A"] * pair["epsilon"],
            core=pair["B"],
            sigma=pair["sigma"],
            screening=pair["gamma"] * pair["sigma"],
            stiffness=value["lambda"] * value["epsilon"],
            cosine=value["costheta0"],
            poles=_nested(pole),
            cutoffs=_nested(cutoffs),
            powers=(_nested(pair["p"]), _nested(pair["q"])),
            cutoff=float(cutoffs.max()),
            elements=found.numbers,
        )

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        vectors = graph.vectors()
        r = safe_norm(vectors)
        dtype = r.dtype
        center = species_index(graph.numbers, self.elements or ())
        other = center[graph.senders]

        def of_pair(table):
            return _of_pair(jnp.asarray(table, dtype), center, other)

        inside = r < of_pair(self.cutoffs)
        gap = jnp.where(inside, r - of_pair(self.poles), -jnp.ones_like(r))
        sigma = of_pair(self.sigma)
        x = sigma / r
        p, q = (_power(x, powers, of_pair) for powers in self.powers)
        fade = jnp.where(inside, jnp.exp(sigma / gap), jnp.zeros_like(r))
        pair = of_pair(self.depth) * (of_pair(self.core) * p - q) * fade
        weight = jnp.where(inside, jnp.exp(of_pair(self.screening) / gap), jnp.zeros_like(r))
        unit = vectors / jnp.where(r > 0, r, jnp.ones_like(r))[None]
        pairs = graph.sum_edges(jnp.where(inside, pair, jnp.zeros_like(r)))
        energies = 0.5 * (pairs + self._angles(weight, unit, center, other))
        return reject_strangers(energies, graph, self.elements or ())

    def _angles(
        self,
        weight: Float[Array, "neighbors atoms"],
        unit: Float[Array, "3 neighbors atoms"],
        center: Int[Array, "atoms"],
        other: Int[Array, "neighbors atoms"],
    ) -> Float[Array, "atoms"]:
        """Twice the three-body energy: all pairs of neighbors, less each neighbor with itself."""
        dtype = weight.dtype
        mine = other[None] == jnp.arange(len(self.cutoffs), dtype=other.dtype)[:, None, None]
        shares = jnp.where(mine, weight[None], jnp.zeros((), dtype))
        count, mean, spread = _moments(shares, unit)
        stiffness, cosine = (table.astype(dtype)[center].transpose(1, 2, 0) for table in (self.stiffness, self.cosine))
        square = sum(factor * spread[k][:, None] * spread[k][None] for k, factor in enumerate((1, 1, 1, 2, 2, 2)))
        dot = sum(mean[a][:, None] * mean[a][None] for a in range(3))
        angles = square + cosine * (cosine * count[:, None] * count[None] - 2.0 * dot)
        total = jnp.sum(stiffness * angles, axis=(0, 1))
        itself = jnp.einsum("aan->an", stiffness * (1.0 - cosine) ** 2) * jnp.sum(shares * shares, axis=1)
        return total - jnp.sum(itself, axis=0)


def _moments(h: Float[Array, "species neighbors atoms"], u: Float[Array, "3 neighbors atoms"]):
    r"""$\sum h$, $\sum h \hat r$ and the six components xx yy zz yz xz xy of $\sum h \hat r \hat r$."""
    first = [h * u[a][None] for a in range(3)]
    second = [first[a] * u[b][None] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    return jnp.sum(h, axis=1), [jnp.sum(x, axis=1) for x in first], [jnp.sum(x, axis=1) for x in second]


def _of_pair(
    table: Float[Array, "species species"], center: Int[Array, "atoms"], other: Int[Array, "neighbors atoms"]
) -> Float[Array, "#neighbors #atoms"]:
    """An entry for each edge, center first."""
    if table.size == 1:
        return table
    return table.reshape(-1)[center[None, :] * len(table) + other]


def _power(x: Float[Array, "neighbors atoms"], powers: Nested, of_pair):
    """x to a power that may depend on the pair; whole numbers by multiplication."""
    distinct = {power for row in powers for power in row}
    if len(distinct) == 1:
        power = distinct.pop()
        return x ** int(power) if power.is_integer() else x**power
    return x ** of_pair(powers)


def _tail(pair: dict[str, np.ndarray]) -> np.ndarray:
    """How much earlier than at its pole LAMMPS cuts a pair whose `tol` is not 0 [Å]."""
    tol = np.clip(pair["tol"], 1e-300, 0.01)
    tail = -pair["sigma"] * np.minimum(pair["gamma"], 1.0) / np.log(tol)
    return np.where(pair["tol"] > 0, tail, 0.0)


def _nested(table: np.ndarray) -> Nested:
    return tuple(tuple(float(x) for x in row) for row in table)
