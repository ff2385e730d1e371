r"""Elastic constants and bulk modulus at a minimum of the energy, with clamped and with relaxed ions.

At zero temperature, with stress $\sigma$, forces $F$, strain $\epsilon$ and displacements $u$,

$C = \frac{\partial \sigma}{\partial \epsilon}
- \frac{\partial \sigma}{\partial u} \left(\frac{\partial F}{\partial u}\right)^{-1} \frac{\partial
F}{\partial\epsilon}$

where the first term is that of clamped ions, and the second what they give way as they follow the strain.

**Reference:** Wallace, Thermodynamics of Crystals (1972); Lutsko, J. Appl. Phys. 65, 2991 (1989), doi:10.1063/1.342716.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy, system_energies
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.properties.linear import matrix_of, solve
from jaxmlip.properties.stationary import StationaryPoint, constant, mobile
from jaxmlip.properties.strain import from_voigt, strained, to_voigt
from jaxmlip.simulate.state import with_positions


class ElasticConstants(NamedTuple):
    """Elastic constants [eV/Å³] in the order of Voigt, xx yy zz yz xz xy, with engineering shears: rows are stresses,
    columns strains."""

    relaxed: Float[Array, "6 6"]
    clamped: Float[Array, "6 6"]


def elastic_constants(energy: AbstractEnergy, point: StationaryPoint) -> ElasticConstants:
    """Elastic constants at a point where the forces vanish (a pure function, for inside jit).

    Under a pressure these are the coefficients of stress and strain, $\\partial\\sigma / \\partial\\epsilon$, which
    decide on sound and stability (Wallace's B), not second derivatives of the energy; without, they are the same.

    **Raises:** `ValueError` for a system without a cell that spans space.
    """
    system = point.system
    if not all(system.pbc):
        raise ValueError(f"Elastic constants belong to crystals, periodic in all directions; `pbc` is {system.pbc}.")
    motion, volume = mobile(point), system.volume()

    def energy_of(z):
        there = strained(with_positions(system, system.positions + z[6:].reshape(-1, 3)), from_voigt(z[:6]))
        return system_energies(energy, to_graph(point.neighbors, there))[0]

    start = jnp.zeros(6 + system.positions.size, system.positions.dtype)
    slope, push = jax.linearize(jax.grad(energy_of), start)
    if motion.dense:  # one loop over all columns compiles sooner than two
        curvatures = matrix_of(push, start)
        born, pull, inner = curvatures[:6, :6], curvatures[6:, :6], curvatures[6:, 6:]
    else:
        columns = jax.vmap(push, 1, 1)(jnp.eye(len(start), 6, dtype=start.dtype))
        born, pull, inner = columns[:6], columns[6:], None

    def curvature(displacements):
        inside = motion.project(displacements)
        if inner is None:
            forces = push(jnp.concatenate([jnp.zeros_like(start[:6]), inside]))[6:]
        else:
            forces = jnp.matmul(inner, inside, precision="highest")
        return motion.project(forces) + (displacements - inside)

    pull = jax.vmap(motion.project, 1, 1)(pull)
    gained = jnp.matmul(pull.T, solve(curvature, pull, dense=motion.dense), precision="highest")
    clamped = born / volume + _of_stress(slope[:6] / volume)
    return ElasticConstants(clamped - gained / volume, clamped)


def stiffness_along(
    energy: AbstractEnergy, point: StationaryPoint, strains: Float[Array, "strains 6"]
) -> Float[Array, "strains"]:
    r"""$s^T C s$ [eV/Å³] with relaxed ions for each strain $s$ (Voigt, engineering shears), at a point whose cell
    relaxed without pressure.

    As ions follow a strain they minimize this number, so its gradient needs no derivative of how they follow: one
    backward pass through a second directional derivative, which compiles in a fraction of the time that
    `elastic_constants` takes. First derivatives are exact; for second ones take `elastic_constants`.

    **Raises:** `ValueError` where the cell did not relax.
    """
    if not point.cell:
        raise ValueError("Stiffness along a strain is that of a cell that relaxed: `relax` with `cell=True`.")
    held_energy, held = constant((energy, point))
    motion = mobile(held)

    def energy_at(energy, system, z):
        there = strained(with_positions(system, system.positions + z[6:].reshape(-1, 3)), from_voigt(z[:6]))
        return system_energies(energy, to_graph(point.neighbors, there))[0]

    start = jnp.zeros(6 + held.system.positions.size, held.system.positions.dtype)
    _, push = jax.linearize(jax.grad(lambda z: energy_at(held_energy, held.system, z)), start)

    def curvature(displacements):
        inside = motion.project(displacements)
        return motion.project(push(jnp.concatenate([start[:6], inside]))[6:]) + (displacements - inside)

    def along(strain):
        pull = motion.project(push(jnp.concatenate([strain, start[6:]]))[6:])
        follows = -solve(curvature, pull[:, None], dense=motion.dense)[:, 0]
        direction = jnp.concatenate([strain, lax.stop_gradient(follows)])

        def slope(t):
            return jax.jvp(lambda t: energy_at(energy, point.system, t * direction), (t,), (jnp.ones_like(t),))[1]

        zero = jnp.zeros((), start.dtype)
        return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))[1]

    return lax.map(along, strains) / point.system.volume()


def _of_stress(stress: Float[Array, "6"]) -> Float[Array, "6 6"]:
    r"""What a strain adds by a stress that is there: $\epsilon\sigma$, symmetrized, less
    $\sigma\,\mathrm{tr}\,\epsilon$,

    since $\partial E / \partial\epsilon = V (1 + \epsilon)^{-1} \sigma$, symmetrized."""
    xx, yy, zz, yz, xz, xy = stress
    tensor = jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])
    turned = jax.vmap(lambda strain: to_voigt(product(from_voigt(strain), tensor)), out_axes=1)(
        jnp.eye(6, dtype=stress.dtype)
    )
    return turned - stress[:, None] * jnp.asarray([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], stress.dtype)[None, :]


def bulk_modulus(constants: Float[Array, "6 6"]) -> Float[Array, ""]:
    """Bulk modulus [the unit of the constants] against a uniform strain, Voigt's mean: $-V dP/dV$ where the cell keeps
    its shape under pressure, as cubic ones do."""
    return jnp.sum(constants[:3, :3]) / 9.0
