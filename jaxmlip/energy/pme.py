r"""Smooth particle-mesh Ewald: the reciprocal sum by B-splines and fast Fourier transforms, for many atoms.

Charges are spread on a mesh with cardinal B-splines $M_p$ of order $p$ along the lattice vectors, the mesh is
transformed, multiplied with $\frac{4 \pi}{V} \frac{e^{-k^2 / 4 \alpha^2}}{k^2} \prod_a |b_a(m_a)|^2$ where
$|b_a(m)|^{-1} = |\sum_{j=0}^{p-2} M_p(j + 1) \, e^{2 \pi i m j / K_a}|$, transformed back, and the potential is read at
the atoms with the same splines. Splines of order $p$ have $p - 2$ continuous derivatives, so that forces (4) and
Hessians (5 and more) are continuous.

**Reference:** Essmann, Perera, Berkowitz, Darden, Lee & Pedersen, J. Chem. Phys. 103, 8577 (1995),
doi:10.1063/1.470117.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.energy.ewald_plan import EwaldPlan
from jaxmlip.graph.lattice import fractional, reciprocal

_CHUNK = 2**21  # spline products held at once


def mesh_potential(
    positions: Float[Array, "3 slots"],
    charges: Float[Array, "slots"],
    cell: Float[Array, "3 3"],
    volume: Float[Array, ""],
    *,
    plan: EwaldPlan,
) -> Float[Array, "slots"]:
    """The smooth part of the potential at each atom of one system [e/Å], by way of the mesh of the plan."""
    assert plan.mesh is not None
    mesh, order, slots = plan.mesh, plan.order, charges.shape[0]
    rows, _ = reciprocal(cell)
    turns = fractional(positions, rows)
    scaled = (turns - jnp.floor(turns)) * jnp.asarray(mesh, positions.dtype)[:, None]
    chunk = max(1, min(slots, _CHUNK // order**3))
    count = -(-slots // chunk)
    extra = count * chunk - slots
    scaled = jnp.pad(scaled, ((0, 0), (0, extra))).reshape(3, count, chunk).swapaxes(0, 1)
    held = jnp.pad(charges, (0, extra)).reshape(count, chunk)

    def spread(grid: Float[Array, "cells"], here: tuple[Array, Array]) -> tuple[Float[Array, "cells"], None]:
        places, weights = _splines(here[0], mesh, order)
        return grid.at[places].add(weights * here[1][None, :]), None

    def read(here: Float[Array, "3 chunk"]) -> Float[Array, "chunk"]:
        places, weights = _splines(here, mesh, order)
        return jnp.sum(weights * smooth[places], axis=0)

    grid = jnp.zeros(math.prod(mesh), positions.dtype)
    if count == 1:
        grid, _ = spread(grid, (scaled[0], held[0]))
    else:
        grid, _ = lax.scan(jax.checkpoint(spread), grid, (scaled, held))
    transformed = jnp.fft.rfftn(grid.reshape(mesh))
    weights = _mesh_weights(rows, volume, plan)
    product = lax.complex(weights * jnp.real(transformed), weights * jnp.imag(transformed))
    smooth = (jnp.fft.irfftn(product, s=mesh) * float(math.prod(mesh))).reshape(-1)
    potential = read(scaled[0]) if count == 1 else lax.map(jax.checkpoint(read), scaled).reshape(-1)
    return potential[:slots]


def spline_weights(offsets: Float[Array, "*atoms"], order: int) -> Float[Array, "order *atoms"]:
    r"""$M_p(w + j)$ for $j = 0 \ldots p - 1$ and offsets $w$ from 0 to 1; they sum to 1."""
    weights = [offsets, 1.0 - offsets]
    for n in range(3, order + 1):
        longer = []
        for j in range(n):
            left = (offsets + float(j)) * weights[j] if j < n - 1 else jnp.zeros_like(offsets)
            right = (float(n - j) - offsets) * weights[j - 1] if j > 0 else jnp.zeros_like(offsets)
            longer.append((left + right) / float(n - 1))
        weights = longer
    return jnp.stack(weights)


def _splines(
    scaled: Float[Array, "3 chunk"], mesh: tuple[int, int, int], order: int
) -> tuple[Int[Array, "points chunk"], Float[Array, "points chunk"]]:
    """Mesh points around each atom, as places in the flat mesh, and what each of them gets of it."""
    floor = jnp.floor(scaled)
    weights = spline_weights(scaled - floor, order)
    steps = jnp.arange(order, dtype=jnp.int32)[:, None]
    x, y, z = (jnp.mod(floor[a].astype(jnp.int32)[None, :] - steps, mesh[a]) for a in range(3))
    places = (x[:, None, None] * mesh[1] + y[None, :, None]) * mesh[2] + z[None, None]
    values = weights[:, 0][:, None, None] * weights[:, 1][None, :, None] * weights[:, 2][None, None]
    return places.reshape(order**3, -1), values.reshape(order**3, -1)


def _mesh_weights(rows: Float[Array, "3 3"], volume: Float[Array, ""], plan: EwaldPlan) -> Float[Array, "x y z"]:
    """What each mode of the mesh counts [1/Å], the splines taken out."""
    assert plan.mesh is not None
    numbers = [np.fft.fftfreq(n, 1.0 / n) for n in plan.mesh[:2]] + [np.arange(plan.mesh[2] // 2 + 1.0)]
    factors = [_spline_transform(m, n, plan.order) for m, n in zip(numbers, plan.mesh, strict=True)]
    spline = factors[0][:, None, None] * factors[1][None, :, None] * factors[2][None, None, :]
    x, y, z = (jnp.asarray(m, rows.dtype) for m in numbers)
    squared = jnp.zeros((), rows.dtype)
    for axis in range(3):
        k = x[:, None, None] * rows[0, axis] + y[None, :, None] * rows[1, axis] + z[None, None, :] * rows[2, axis]
        squared = squared + (2.0 * math.pi * k) ** 2
    used = squared > 0.0
    squared = jnp.where(used, squared, jnp.ones_like(squared))
    weights = 4.0 * math.pi / volume * jnp.exp(squared * (-0.25 / plan.alpha**2)) / squared
    if plan.onset < 1.0:
        weights = weights * switch_envelope(jnp.sqrt(squared) / plan.k_cutoff, plan.onset)
    else:
        used = used & (squared < plan.k_cutoff**2)
    return jnp.where(used, weights * jnp.asarray(spline, rows.dtype), jnp.zeros_like(weights))


def _spline_transform(modes: np.ndarray, points: int, order: int) -> np.ndarray:
    r"""$|b(m)|^2$ of each mode along an axis (host); 0 where the splines cannot represent it."""
    nodes = np.array(spline_values(order))
    phases = np.exp(2.0j * np.pi * np.outer(modes, np.arange(order - 1)) / points)
    power = np.abs(phases @ nodes) ** 2
    return np.where(power > 1e-8, 1.0 / np.maximum(power, 1e-8), 0.0)


def spline_values(order: int) -> list[float]:
    """$M_p$ at the nodes 1 ... p - 1."""
    values = [1.0]
    for n in range(3, order + 1):
        values = [
            (x * (values[x - 1] if x <= n - 2 else 0.0) + (n - x) * (values[x - 2] if x >= 2 else 0.0)) / (n - 1)
            for x in range(1, n)
        ]
    return values
