"""Embedded-atom and Finnis-Sinclair potentials from tables, as LAMMPS interpolates them."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.energy.base import AbstractEnergy, parameter
from jaxmlip.energy.lammps_files import Elements, Table, read_funcfl, read_setfl
from jaxmlip.energy.references import reject_strangers, species_index
from jaxmlip.graph import Graph


class EAM(AbstractEnergy):
    r"""Metals: each atom is embedded in the density of its neighbors, $E = \sum_i F_i(\rho_i) + \frac12 \sum_{ij}
    \phi_{ij}(r_{ij})$ with $\rho_i = \sum_j f_{ji}(r_{ij})$.

    The functions are tables, read by `from_setfl` (`pair_style eam/alloy`), `from_finnis_sinclair` (`eam/fs`, where
    $f_{ji}$ depends on both elements) or `from_funcfl` (`eam`, one file for each element), and are interpolated as
    LAMMPS does: cubics whose slopes at the knots are differences of five points. Value and slope are continuous. The
    second derivative is not: it jumps at every knot by the third derivative times something of the order of the
    spacing, and Hessians are right to that order. Beyond the last density F goes on along its tangent. At the cutoff
    the functions end as the file lets them.

    The cubics are stored by their coefficients, in the precision of the file, so that float32 keeps the slopes.
    Training them one by one would tear the cubics apart at the knots.

    **Reference:** Daw & Baskes, Phys. Rev. B 29, 6443 (1984), doi:10.1103/PhysRevB.29.6443; Finnis & Sinclair, Philos.
    Mag. A 50, 45 (1984), doi:10.1080/01418618408244210.
    """

    embedding: Float[Array, "species knots 4"] = eqx.field(converter=parameter)  # [eV], powers 3 2 1 0 of the fraction
    density: Float[Array, "species sites knots 4"] = eqx.field(converter=parameter)  # of the first at the second
    pair: Float[Array, "pairs knots 4"] = eqx.field(converter=parameter)  # r times the pair energy [eV Å]
    density_step: float = eqx.field(static=True)
    step: float = eqx.field(static=True)  # [Å]
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    @classmethod
    def from_setfl(cls, path: str | Path, *, elements: Elements = None) -> EAM:
        """Read a file of `pair_style eam/alloy`; `elements` chooses among its elements (all by default).

        **Raises:** `UserError` with file and line where the file is malformed; with the names of missing elements.
        """
        return cls._from_table(read_setfl(path, finnis_sinclair=False, elements=elements))

    @classmethod
    def from_finnis_sinclair(cls, path: str | Path, *, elements: Elements = None) -> EAM:
        """Read a file of `pair_style eam/fs`; `elements` chooses among its elements (all by default).

        **Raises:** `UserError` with file and line where the file is malformed; with the names of missing elements.
        """
        return cls._from_table(read_setfl(path, finnis_sinclair=True, elements=elements))

    @classmethod
    def from_funcfl(cls, *paths: str | Path) -> EAM:
        """Read files of `pair_style eam`, one for each element, brought to one grid as LAMMPS does.

        **Raises:** `UserError` with file and line where a file is malformed, or where two have the same element.
        """
        return cls._from_table(read_funcfl(paths))

    @classmethod
    def _from_table(cls, table: Table) -> EAM:
        first, second = np.tril_indices(len(table.numbers))
        return cls(
            embedding=cubics(table.embedding),
            density=cubics(table.density),
            pair=cubics(table.pair[first, second]),
            density_step=table.drho,
            step=table.dr,
            cutoff=table.cutoff,
            elements=table.numbers,
        )

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        # On one spot the pair energy is its limit: finite where the table of r times it begins with 0.
        r = jnp.where(r > 0, r, jnp.asarray(1e4 * jnp.finfo(r.dtype).tiny, r.dtype))
        inside = r < self.cutoff
        center = species_index(graph.numbers, self.elements or ())
        other = center[graph.senders]
        knot, p = _place(jnp.where(inside, r, jnp.zeros_like(r)) / self.step, self.density.shape[-2])
        sites = self.density.shape[1]
        density = _cubic(self.density, other * sites + (center[None, :] if sites > 1 else 0), knot, p)
        rho = graph.sum_edges(jnp.where(inside, density, jnp.zeros_like(r)))
        low, high = jnp.minimum(other, center[None, :]), jnp.maximum(other, center[None, :])
        pair = _cubic(self.pair, high * (high + 1) // 2 + low, knot, p) / r
        pair = graph.sum_edges(jnp.where(inside, pair, jnp.zeros_like(r)))
        return reject_strangers(self._embed(rho, center) + 0.5 * pair, graph, self.elements or ())

    def _embed(self, rho: Float[Array, "atoms"], center: Int[Array, "atoms"]) -> Float[Array, "atoms"]:
        x = rho / self.density_step
        knot, p = _place(x, self.embedding.shape[1])
        cubic = self.embedding.reshape(-1, 4).astype(rho.dtype)[center * self.embedding.shape[1] + knot]
        a, b, c, d = (cubic[..., k] for k in range(4))
        slope = (3.0 * a * p + 2.0 * b) * p + c
        return ((a * p + b) * p + c) * p + d + slope * jnp.maximum(x - self.embedding.shape[1], 0.0)


def cubics(values: np.ndarray) -> np.ndarray:
    """Coefficients (powers 3 2 1 0 of the fraction of a step) between the knots of tables, knots last."""
    f = values
    slope = np.empty_like(f)
    slope[..., 0], slope[..., -1] = f[..., 1] - f[..., 0], f[..., -1] - f[..., -2]
    slope[..., 1], slope[..., -2] = 0.5 * (f[..., 2] - f[..., 0]), 0.5 * (f[..., -1] - f[..., -3])
    slope[..., 2:-2] = (f[..., :-4] - f[..., 4:] + 8.0 * (f[..., 3:-1] - f[..., 1:-3])) / 12.0
    rise, left, right = np.diff(f, axis=-1), slope[..., :-1], slope[..., 1:]
    return np.stack([left + right - 2.0 * rise, 3.0 * rise - 2.0 * left - right, left, f[..., :-1]], axis=-1)


def _place(x: Float[Array, "*pairs"], intervals: int) -> tuple[Int[Array, "*pairs"], Float[Array, "*pairs"]]:
    """The interval that holds `x`, in steps, and the fraction of it, at most 1."""
    knot = jnp.clip(x.astype(jnp.int32), 0, intervals - 1)
    return knot, jnp.minimum(x - knot.astype(x.dtype), 1.0)


def _cubic(
    tables: Float[Array, "*tables knots 4"],
    which: Int[Array, "neighbors atoms"],
    knot: Int[Array, "neighbors atoms"],
    p: Float[Array, "neighbors atoms"],
) -> Float[Array, "neighbors atoms"]:
    """A table for each edge, evaluated."""
    cubic = tables.reshape(-1, 4).astype(p.dtype)[which * tables.shape[-2] + knot]
    return ((cubic[..., 0] * p + cubic[..., 1]) * p + cubic[..., 2]) * p + cubic[..., 3]
