r"""Coulomb energy of point charges by Ewald summation, for any cell; slabs and molecules too.

The potential at atom $i$ is the sum of

- real space: $\sum_j q_j \, \mathrm{erfc}(\alpha r_{ij}) / r_{ij}$ over all images within the cutoff,
- reciprocal space: $\frac{4 \pi}{V} \sum_{k \ne 0} \frac{e^{-k^2 / 4 \alpha^2}}{k^2}
  \mathrm{Re} \left( S(k)^* e^{i k r_i} \right)$ with $S(k) = \sum_j q_j e^{i k r_j}$,
- self: $-2 \alpha q_i / \sqrt\pi$,
- background: $-\pi Q / (\alpha^2 V)$, which neutralizes a net charge $Q$,
- surface: $\frac{4 \pi}{3 V} M \cdot r_i$ with the dipole $M$, for a crystal in vacuum; nothing in a conductor
  (tin-foil); for slabs $\frac{4 \pi}{V} M_z z_i$ (Yeh and Berkowitz), with enough vacuum between the images; see
  `surface_potential` for slabs with a net charge,

and the energy of atom $i$ is $\frac{1}{2} q_i \phi_i$, in units of $e^2 / 4 \pi \epsilon_0$.

**Reference:** Ewald, Ann. Phys. 369, 253 (1921), doi:10.1002/andp.19213690304; de Leeuw, Perram & Smith, Proc. R. Soc.
A 373, 27 (1980), doi:10.1098/rspa.1980.0135 (surface); Yeh & Berkowitz, J. Chem. Phys. 111, 3155 (1999),
doi:10.1063/1.479595 (slabs).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erfc
from jaxtyping import Array, Bool, Float

from jaxmlip import units
from jaxmlip.energy.base import AbstractEnergy, SystemCheck
from jaxmlip.energy.charges import AbstractCharges
from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.energy.ewald_plan import EwaldPlan, kind
from jaxmlip.energy.pme import mesh_potential
from jaxmlip.graph import Blocks, Graph, blocks
from jaxmlip.graph.lattice import fractional, reciprocal
from jaxmlip.system import System

SURFACES = ("tinfoil", "vacuum")
_BLOCK = 2**22  # numbers held at once in the reciprocal sum
_NEUTRAL = 1e-5  # net charge that counts as none, as a fraction of the sum of its absolute values


class Potentials(NamedTuple):
    """The parts of the potential at each atom, in e/Å (times `units.coulomb`: V)."""

    real: Float[Array, "atoms"]
    reciprocal: Float[Array, "atoms"]
    self: Float[Array, "atoms"]
    background: Float[Array, "atoms"]
    surface: Float[Array, "atoms"]

    def total(self) -> Float[Array, "atoms"]:
        return self[0] + self[1] + self[2] + self[3] + self[4]


class Ewald(AbstractEnergy, SystemCheck):
    """Coulomb energy of `charges`, summed as `plan` says: `model + Ewald(charges, plan_ewald(systems, cutoff=5.0))`.

    - `surface`: what is around an infinite crystal, `"tinfoil"` (a conductor) or `"vacuum"`.
    - `background`: True gives a periodic system with a net charge a neutralizing background; else it is refused.

    Charges may be learned; gradients by charges, positions and cell are those of the sum. A cell that outgrew the plan
    gives NaN.
    """

    charges: AbstractCharges
    plan: EwaldPlan = eqx.field(static=True)
    surface: str = eqx.field(static=True, default="tinfoil")
    background: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.surface not in SURFACES:
            raise ValueError(f"`surface` must be one of {SURFACES}; got {self.surface!r}.")
        if self.surface == "vacuum" and self.background:
            raise ValueError("The surface term of a crystal with a net charge depends on the origin: use tinfoil.")

    @property
    def cutoff(self) -> float:
        return max(self.plan.cutoff, self.charges.cutoff)

    @property
    def elements(self) -> tuple[int, ...] | None:
        return self.charges.elements

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        charges = self.charges(graph)
        return 0.5 * units.coulomb * charges * self.potentials(graph, charges).total()

    def potentials(self, graph: Graph, charges: Float[Array, "atoms"]) -> Potentials:
        """The potential of given charges [e] at each atom, in parts; NaN for systems that the plan does not serve."""
        plan, by_system = self.plan, blocks(graph, self.plan.slots)
        charges = jnp.where(graph.atom_mask, charges, jnp.zeros_like(charges))
        zero = jnp.zeros_like(charges)
        lattice = Lattices.of(graph, plan)
        valid = lattice.valid(graph, plan, by_system) & ~by_system.crowded
        if not plan.periodic:
            valid_atoms = poison(valid, graph, charges.dtype)
            return Potentials(valid_atoms * molecule_potential(graph, charges, by_system), zero, zero, zero, zero)
        if not self.background:
            valid = valid & (~lattice.periodic | _neutral(graph, charges))
        real = jnp.where(lattice.periodic[graph.system_index], real_potential(graph, charges, plan), zero)
        if "molecule" in plan.kinds:
            free = molecule_potential(graph, charges, by_system)
            real = jnp.where(lattice.periodic[graph.system_index], real, free)
        waves = reciprocal_potential(graph, charges, lattice, by_system, plan)
        inside = lattice.periodic.astype(charges.dtype)[graph.system_index]
        net = (graph.sum_atoms(charges) / lattice.volume)[graph.system_index]
        return Potentials(
            poison(valid, graph, charges.dtype) * real,
            inside * waves,
            inside * charges * (-2.0 * plan.alpha / math.sqrt(math.pi)),
            inside * net * (-math.pi / plan.alpha**2),
            surface_potential(graph, charges, lattice, plan, vacuum=self.surface == "vacuum"),
        )

    def check(self, system: System) -> None:
        """Refuse a system that the plan was not made for, or that has a net charge without a choice (host).

        **Raises:** `ValueError` that says what was given, what is allowed and what to do.
        """
        check_planned(self.plan, system)
        if kind(system.pbc) == "molecule":
            return
        net = self.charges.total(system)
        if not self.background and net is not None and not abs(net) <= _NEUTRAL:
            raise ValueError(
                f"The charges of a periodic system sum to {net:.6g} e. Give charges that sum to zero, or say "
                "`background=True` for a uniform background that neutralizes them."
            )


def check_planned(plan: EwaldPlan, system: System) -> None:
    """Refuse a system that a plan does not serve (host).

    **Raises:** `ValueError` that says what was given, what is allowed and what to do.
    """
    what = kind(system.pbc)
    if what not in plan.kinds:
        raise ValueError(f"This Ewald sum serves {', '.join(plan.kinds)}, but pbc={system.pbc} is a {what}.")
    if plan.slots is not None and system.numbers.shape[-1] > plan.slots:
        raise ValueError(
            f"The Ewald sum was planned for at most {plan.slots} atoms; got {system.numbers.shape[-1]}: make the plan "
            "with this system, or give `slots`."
        )
    if what == "molecule":
        return
    if what == "slab" and system.pbc.index(False) != plan.free_axis:
        raise ValueError(f"The sum was planned for slabs that are free along axis {plan.free_axis}; got {system.pbc}.")
    lengths = np.linalg.norm(np.asarray(system.cell, np.float64).reshape(-1, 3, 3), axis=-1).max(axis=0)
    for axis in range(3):
        if system.pbc[axis] and lengths[axis] > plan.longest[axis]:
            raise ValueError(
                f"Lattice vector {axis} is {lengths[axis]:.3f} Å long, but the Ewald sum was planned for at most "
                f"{plan.longest[axis]:.3f} Å: make the plan with this system, or with a larger margin."
            )


class Lattices(NamedTuple):
    """The cells that are summed over: those of the graph, slabs with their period, unit cells where there is none."""

    cell: Float[Array, "systems 3 3"]
    volume: Float[Array, "systems"]
    periodic: Bool[Array, "systems"]
    slab: Bool[Array, "systems"]
    normal: Float[Array, "systems 3"]

    @classmethod
    def of(cls, graph: Graph, plan: EwaldPlan) -> Lattices:
        free = np.arange(3) == plan.free_axis
        bulk = jnp.all(graph.pbc, axis=1)
        slab = jnp.all(graph.pbc == jnp.asarray(~free)[None, :], axis=1)
        if "bulk" not in plan.kinds:
            bulk = jnp.zeros_like(bulk)
        if "slab" not in plan.kinds:
            slab = jnp.zeros_like(slab)
        unit = jnp.eye(3, dtype=graph.cell.dtype)[None]
        cell = jnp.where((bulk | slab)[:, None, None], graph.cell, unit)
        a, b = cell[:, (plan.free_axis + 1) % 3], cell[:, (plan.free_axis + 2) % 3]
        normal = jnp.cross(a, b)
        normal = normal / jnp.sqrt(jnp.sum(normal * normal, axis=1, keepdims=True))
        if "slab" in plan.kinds:
            row = slab[:, None, None] & jnp.asarray(free)[None, :, None]
            cell = jnp.where(row, plan.height * normal[:, None, :], cell)
        volume = jnp.abs(jnp.sum(cell[:, 0] * jnp.cross(cell[:, 1], cell[:, 2]), axis=1))
        return cls(cell, volume, bulk | slab, slab, normal)

    def valid(self, graph: Graph, plan: EwaldPlan, by_system: Blocks) -> Bool[Array, "systems"]:
        """Whether the plan serves a system as it is now."""
        molecule = ~jnp.any(graph.pbc, axis=1)
        served = self.periodic | molecule if "molecule" in plan.kinds else self.periodic
        if plan.periodic:
            lengths = jnp.sqrt(jnp.sum(self.cell * self.cell, axis=2))
            short = jnp.all(lengths <= jnp.asarray(plan.longest, lengths.dtype)[None, :], axis=1)
            served = served & (short | ~self.periodic)
        if "slab" in plan.kinds:
            heights = jnp.sum(by_system.split(graph.positions.T) * self.normal.T[:, :, None], axis=0)
            top = jnp.max(jnp.where(by_system.mask, heights, jnp.asarray(-jnp.inf, heights.dtype)), axis=1)
            bottom = jnp.min(jnp.where(by_system.mask, heights, jnp.asarray(jnp.inf, heights.dtype)), axis=1)
            served = served & (~self.slab | (top - bottom <= plan.height - plan.gap))
        return served


def surface_potential(
    graph: Graph, charges: Float[Array, "atoms"], lattice: Lattices, plan: EwaldPlan, *, vacuum: bool
) -> Float[Array, "atoms"]:
    r"""Potential of the dipole of the whole: of slabs, and of crystals in vacuum [e/Å].

    A slab of period $L$ along its normal with a net charge $Q$ has
    $\frac{4 \pi}{V} (M_z z_i - \frac{1}{2} \sum_j q_j z_j^2 - \frac{1}{2} Q z_i^2 - \frac{1}{12} Q L^2)$.

    **Reference:** Ballenegger, Arnold & Cerdà, J. Chem. Phys. 131, 094107 (2009), doi:10.1063/1.3216473.
    """
    if not (vacuum or "slab" in plan.kinds):
        return jnp.zeros_like(charges)
    system, positions = graph.system_index, graph.positions.T
    total = jnp.zeros_like(charges)
    if vacuum:
        crystal = (lattice.periodic & ~lattice.slab).astype(charges.dtype)
        dipole = 4.0 * math.pi / 3.0 * (crystal / lattice.volume)[None] * graph.sum_atoms(charges[None] * positions)
        total = jnp.sum(dipole[:, system] * positions, axis=0)
    if "slab" in plan.kinds:
        z = jnp.sum(lattice.normal[system].T * positions, axis=0)
        net, first, second = (graph.sum_atoms(charges * z**n)[system] for n in (0, 1, 2))
        along = 4.0 * math.pi * (lattice.slab.astype(charges.dtype) / lattice.volume)[system]
        total = total + along * (first * z - 0.5 * second - net * (0.5 * z * z + plan.height**2 / 12.0))
    return total


def real_potential(graph: Graph, charges: Float[Array, "atoms"], plan: EwaldPlan) -> Float[Array, "atoms"]:
    r"""$\sum_j q_j \, \mathrm{erfc}(\alpha r_{ij}) / r_{ij}$ over the neighbors of each atom [e/Å]."""
    r = graph.lengths()
    pair = erfc(plan.alpha * r) / r
    if plan.onset < 1.0:
        pair = pair * switch_envelope(r / plan.cutoff, plan.onset)
    else:
        pair = jnp.where(r < plan.cutoff, pair, jnp.zeros_like(r))
    return graph.sum_edges(graph.gather(charges) * pair)


def molecule_potential(
    graph: Graph, charges: Float[Array, "atoms"], by_system: Blocks, kernel: Callable[[Array], Array] = jnp.reciprocal
) -> Float[Array, "atoms"]:
    r"""$\sum_{j \ne i} q_j / r_{ij}$ over all atoms of a system that has no images [e/Å], or with another `kernel`."""

    def one(positions, charges, mask):
        difference = positions[:, None, :] - positions[:, :, None]
        pairs = mask[None, :] & mask[:, None] & ~jnp.eye(len(mask), dtype=bool)
        squared = jnp.where(pairs, jnp.sum(difference * difference, axis=0), jnp.ones((), positions.dtype))
        potential = charges[None, :] * kernel(jnp.sqrt(squared))
        return jnp.sum(jnp.where(pairs, potential, jnp.zeros((), charges.dtype)), axis=1)

    places = jnp.moveaxis(by_system.split(graph.positions.T), 1, 0)
    return by_system.join(jax.vmap(one)(places, by_system.split(charges), by_system.mask), graph)


def reciprocal_potential(
    graph: Graph, charges: Float[Array, "atoms"], lattice: Lattices, by_system: Blocks, plan: EwaldPlan
) -> Float[Array, "atoms"]:
    """The smooth part of the potential at each atom [e/Å], by plane waves or by a mesh."""
    one = functools.partial(wave_potential if plan.mesh is None else mesh_potential, plan=plan)
    places, held = jnp.moveaxis(by_system.split(graph.positions.T), 1, 0), by_system.split(charges)
    if graph.systems == 1:
        potential = one(places[0], held[0], lattice.cell[0], lattice.volume[0])[None]
    else:
        potential = jax.vmap(one)(places, held, lattice.cell, lattice.volume)
    return by_system.join(potential, graph)


def plane_features(
    positions: Float[Array, "3 slots"], cell: Float[Array, "3 3"], volume: Float[Array, ""], plan: EwaldPlan
) -> Float[Array, "slots slots"]:
    """The reciprocal sum of one system as a matrix: the potential at one atom of a unit charge at another [1/Å]."""
    dtype, slots = positions.dtype, positions.shape[1]
    rows, _ = reciprocal(cell)
    turns = fractional(positions, rows)
    x, y, z = plan.reach
    along_y, along_z = jnp.arange(-y, y + 1, dtype=dtype), jnp.arange(-z, z + 1, dtype=dtype)
    (cos_y, sin_y), (cos_z, sin_z) = _waves(along_y, turns[1]), _waves(along_z, turns[2])
    cos_yz = (cos_y[:, None] * cos_z[None] - sin_y[:, None] * sin_z[None]).reshape(-1, slots)
    sin_yz = (cos_y[:, None] * sin_z[None] + sin_y[:, None] * cos_z[None]).reshape(-1, slots)

    @jax.checkpoint
    def add(total: Float[Array, "slots slots"], along: Float[Array, ""]):
        weights = _weights(along[None], along_y, along_z, rows, volume, plan).reshape(-1, 1)
        cos_x, sin_x = _waves(along[None], turns[0])
        cos, sin = cos_x * cos_yz - sin_x * sin_yz, cos_x * sin_yz + sin_x * cos_yz
        for wave in (cos, sin):
            total = total + jnp.matmul((weights * wave).T, wave, precision=lax.Precision.HIGHEST)
        return total, None

    return lax.scan(add, jnp.zeros((slots, slots), dtype), jnp.arange(x + 1, dtype=dtype))[0]


def wave_potential(
    positions: Float[Array, "3 slots"],
    charges: Float[Array, "slots"],
    cell: Float[Array, "3 3"],
    volume: Float[Array, ""],
    *,
    plan: EwaldPlan,
) -> Float[Array, "slots"]:
    """The reciprocal sum of one system.

    Waves factor along the reciprocal axes, $e^{i k r} = e^{i k_x r} e^{i k_y r} e^{i k_z r}$, so that sums over atoms,
    and back, are real products of matrices with a row for each wave in x and y. Half of the waves are summed, those
    with $n_x > 0$ twice; those with opposite $n_z$ share the products.
    """
    dtype, slots = positions.dtype, charges.shape[0]
    rows, _ = reciprocal(cell)
    turns = fractional(positions, rows)
    x, y, z = plan.reach
    planes = max(1, min(x + 1, _BLOCK // ((2 * y + 1) * slots)))
    count = -(-(x + 1) // planes)
    along_x, along_y, along_z = (
        jnp.asarray(n, dtype) for n in (np.arange(count * planes), np.arange(-y, y + 1), np.arange(z + 1))
    )
    cos_y, sin_y = _waves(along_y, turns[1])
    columns = jnp.concatenate(_waves(along_z, turns[2]))

    def block(along: Float[Array, "planes"]) -> Float[Array, "slots"]:
        up, down = (_weights(along, along_y, way * along_z, rows, volume, plan) for way in (1.0, -1.0))
        down = jnp.where(along_z > 0.0, down, jnp.zeros_like(down))
        cos_x, sin_x = _waves(along, turns[0])
        cos = cos_x[:, None] * cos_y[None] - sin_x[:, None] * sin_y[None]
        sin = cos_x[:, None] * sin_y[None] + sin_x[:, None] * cos_y[None]
        both = jnp.concatenate([cos.reshape(-1, slots), sin.reshape(-1, slots)])
        sums = jnp.matmul(both * charges[None, :], columns.T, precision=lax.Precision.HIGHEST)
        (cc, cs), (sc, ss) = (jnp.split(half, 2, axis=1) for half in jnp.split(sums, 2))
        up, down = up.reshape(cc.shape), down.reshape(cc.shape)
        real_up, real_down = up * (cc - ss), down * (cc + ss)
        imag_up, imag_down = up * (cs + sc), down * (sc - cs)
        back = jnp.concatenate(
            [
                jnp.concatenate([real_up + real_down, imag_up - imag_down], axis=1),
                jnp.concatenate([imag_up + imag_down, real_down - real_up], axis=1),
            ]
        )
        return jnp.sum(both * jnp.matmul(back, columns, precision=lax.Precision.HIGHEST), axis=0)

    if count == 1:
        return block(along_x)
    total, _ = lax.scan(
        lambda total, along: (total + jax.checkpoint(block)(along), None),
        jnp.zeros(slots, dtype),
        along_x.reshape(count, planes),
    )
    return total


def _waves(numbers: Float[Array, "waves"], turns: Float[Array, "slots"]) -> tuple[Array, Array]:
    """Cosine and sine of 2 pi n u `[waves slots]`, the argument brought to within half a turn."""
    turned = numbers[:, None] * (turns - jnp.floor(turns))[None, :]
    angle = 2.0 * math.pi * (turned - jnp.round(turned))
    return jnp.cos(angle), jnp.sin(angle)


def _weights(
    x: Float[Array, "planes"],
    y: Float[Array, "rows"],
    z: Float[Array, "columns"],
    rows: Float[Array, "3 3"],
    volume: Float[Array, ""],
    plan: EwaldPlan,
) -> Float[Array, "planes rows columns"]:
    """What each wave counts [1/Å]: the transform of the smooth part of 1/r, over the volume."""
    squared = jnp.zeros((), x.dtype)
    for axis in range(3):
        k = x[:, None, None] * rows[0, axis] + y[None, :, None] * rows[1, axis] + z[None, None, :] * rows[2, axis]
        squared = squared + (2.0 * math.pi * k) ** 2
    used = (squared > 0.0) & (x <= plan.reach[0])[:, None, None]
    squared = jnp.where(used, squared, jnp.ones_like(squared))
    weights = 4.0 * math.pi / volume * jnp.exp(squared * (-0.25 / plan.alpha**2)) / squared
    if plan.onset < 1.0:
        weights = weights * switch_envelope(jnp.sqrt(squared) / plan.k_cutoff, plan.onset)
    else:
        used = used & (squared < plan.k_cutoff**2)
    twice = jnp.where(x > 0.0, jnp.asarray(2.0, x.dtype), jnp.ones((), x.dtype))[:, None, None]
    return jnp.where(used, twice * weights, jnp.zeros_like(weights))


def _neutral(graph: Graph, charges: Float[Array, "atoms"]) -> Bool[Array, "systems"]:
    return jnp.abs(graph.sum_atoms(charges)) <= _NEUTRAL * graph.sum_atoms(jnp.abs(charges))


def poison(valid: Bool[Array, "systems"], graph: Graph, dtype: jnp.dtype) -> Float[Array, "atoms"]:
    """1 for atoms of valid systems and for padding, NaN for others: a product with it spares no derivative."""
    fine = valid[graph.system_index] | ~graph.atom_mask
    return jnp.where(fine, jnp.ones((), dtype), jnp.asarray(jnp.nan, dtype))
