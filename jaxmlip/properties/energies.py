r"""Energies of relaxed structures: cohesion, vacancies, barriers.

At a stationary point the energy depends on parameters only directly: what the atoms do in answer is of second order
(the envelope theorem, Hellmann and Feynman's), so that its gradient needs no linear system at all. Second derivatives
do: these are exact for points that come from `follow`, whose energy is `point.energy`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy, system_energies
from jaxmlip.graph import Graph
from jaxmlip.graph.lattice import product, reciprocal
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.properties.stationary import StationaryPoint, refine
from jaxmlip.properties.supercell import make_supercell
from jaxmlip.simulate.neb import Path
from jaxmlip.simulate.state import with_cell
from jaxmlip.system import System


def isolated_energies(energy: AbstractEnergy, system: System) -> Float[Array, "atoms"]:
    """The energy of each atom alone in free space, neutral [eV]."""
    atoms, dtype = len(system.numbers), system.positions.dtype
    alone = Graph(
        positions=jnp.zeros((atoms, 3), dtype),
        numbers=system.numbers,
        cell=jnp.zeros((atoms, 3, 3), dtype),
        charge=jnp.zeros(atoms, dtype),
        system_index=jnp.arange(atoms, dtype=jnp.int32),
        senders=jnp.broadcast_to(jnp.arange(atoms, dtype=jnp.int32)[None, :], (4, atoms)),
        shifts=jnp.zeros((3, 4, atoms), jnp.int32),
        edge_mask=jnp.zeros((4, atoms), bool),
        pbc=jnp.zeros((atoms, 3), bool),
        cutoff=energy.cutoff or 1.0,
    )
    return system_energies(energy, alone).astype(dtype)


def cohesive_energy(energy: AbstractEnergy, point: StationaryPoint) -> Float[Array, ""]:
    """What it takes to part a structure into isolated atoms [eV/atom]; positive where it holds together.

    Gradients are exact with `point` from `follow` or from `relax` (with `cell`, at no pressure).
    """
    bound = relaxed_energy(energy, point)
    return (jnp.sum(isolated_energies(energy, point.system)) - bound) / float(len(point.system.numbers))


def relaxed_energy(
    energy: AbstractEnergy, point: StationaryPoint, *, cell: Float[Array, "3 3"] | None = None
) -> Float[Array, ""]:
    """The energy at a stationary point [eV], with its gradient by the envelope theorem: at coordinates that stay.

    A point whose cell relaxed under pressure gives the enthalpy, which is what is stationary there. A point in a cell
    that does not relax may be given another `cell`, or the same with derivatives by parameters: the atoms go along with
    it.
    """
    system = lax.stop_gradient(point.system)
    if cell is not None:
        if point.cell:
            raise ValueError("A point whose cell relaxed has its own cell: `cell` is for points in a cell that stays.")
        rows, _ = reciprocal(system.cell)
        system = with_cell(system, product(product(system.positions, rows.T), cell), cell)
    total = system_energies(energy, to_graph(point.neighbors, system))[0].astype(system.positions.dtype)
    return total + point.pressure * system.volume() if point.cell else total


def make_vacancy(crystal: System, repeats: Any, *, atom: int = 0) -> System:
    """A supercell of a crystal (see `make_supercell`) without one atom (host); `relax` it in the cell that it has.

    **Raises:** `ValueError` for an atom that is not there, a crystal of several elements (where the energy of the atom
    that left is a matter of choice), or repeats that make no sense.
    """
    if not 0 <= atom < len(crystal.numbers):
        raise ValueError(f"`atom` must be one of the {len(crystal.numbers)} atoms of the crystal; got {atom}.")
    if len(np.unique(np.asarray(crystal.numbers))) > 1:
        raise ValueError("A vacancy in a compound needs chemical potentials; give a crystal of one element.")
    whole = make_supercell(crystal, repeats, 1.0).build(crystal)
    kept = np.delete(np.arange(len(whole.numbers)), atom)
    return eqx.tree_at(
        lambda s: (s.positions, s.numbers, s.masses),
        whole,
        (whole.positions[kept], whole.numbers[kept], whole.masses[kept]),
    )


def vacancy_formation_energy(
    energy: AbstractEnergy, crystal: StationaryPoint, vacancy: StationaryPoint
) -> Float[Array, ""]:
    r"""The energy of a vacancy [eV] in a crystal of one element, $E_v - \frac{N_v}{N} E$, in the cell of the crystal.

    `vacancy` is the relaxed structure of `make_vacancy(crystal.system, ...)`; `crystal`, from `follow`, brings the
    derivatives of the lattice. The gradient then is exact: that of the energy at fixed fractional coordinates.
    """
    rows, _ = reciprocal(lax.stop_gradient(crystal.system.cell))
    repeats = jnp.round(product(lax.stop_gradient(vacancy.system.cell), rows.T))
    defective = relaxed_energy(energy, vacancy, cell=product(repeats, crystal.system.cell))
    return defective - len(vacancy.system.numbers) / len(crystal.system.numbers) * crystal.energy


def find_saddle(energy: AbstractEnergy, path: Path, **options: Any) -> StationaryPoint:
    """The saddle at the highest image of a path of `neb`, by Newton's method (host); `options` are those of `refine`.

    **Raises:** `ValueError` where the point found is no saddle of first order: run `neb` to a smaller `fmax`.
    """
    top = int(np.argmax(np.asarray(path.energies)))
    point = refine(energy, path.image(top), **options)
    if not bool(point.converged) or int(point.negative) != 1:
        raise ValueError(
            f"Newton's method from image {top} ends at a point of index {int(point.negative)} (residual "
            f"{float(point.residual):.1e} eV/Å), not at a saddle: run `neb` with `climb` to a smaller `fmax`."
        )
    return point


def barrier(energy: AbstractEnergy, minimum: StationaryPoint, saddle: StationaryPoint) -> Float[Array, ""]:
    """From a minimum to a saddle [eV], both with the same cell; its gradient by the envelope theorem."""
    return relaxed_energy(energy, saddle) - relaxed_energy(energy, minimum)
