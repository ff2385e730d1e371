"""Molecules by their bonds: stretching, bending and torsion, on lists of atoms.

A list names atoms of one system of `atoms` atoms by their indices. The energy serves a graph that holds this system,
with or without padding, and one that holds it many times (a batch for training); positions may be unwrapped or wrapped,
atom by atom: each bond takes its nearest image. A system with another number of atoms is refused by `check_system`, and
where nobody asked, its energy is NaN.

Parameters are one number for each term, or one for all. Constants have the 1/2 in front (AMBER and CHARMM files do not).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.energy.angles import harmonic_angle, torsion
from jaxmlip.energy.base import AbstractEnergy, SystemCheck, parameter
from jaxmlip.energy.table import check_values
from jaxmlip.energy.terms import Indices, Places, check_atoms, read_indices
from jaxmlip.graph import Graph
from jaxmlip.graph.graph import safe_norm
from jaxmlip.system import System

_MULTIPLICITIES = 6

PerTerm = float | np.ndarray | Array


class HarmonicBonds(AbstractEnergy, SystemCheck):
    r"""$\frac{1}{2} k (r - r_0)^2$ for pairs of atoms: `stiffness` k [eV/Å²], `length` $r_0$ [Å].

    Between the ends of an angle it is the Urey-Bradley term. `HarmonicBonds([[0, 1], [0, 2]], 45.9, 1.0, atoms=3)`.
    """

    index: Int[Array, "terms 2"]
    stiffness: Float[Array, "terms"]
    length: Float[Array, "terms"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, index: Indices, stiffness: PerTerm, length: PerTerm, *, atoms: int):
        self.index = read_indices(index, 2, atoms)
        self.stiffness, self.length = (_per_term(x, self.index) for x in (stiffness, length))
        check_values("stiffness", self.stiffness, least=0.0)
        check_values("length", self.length, least=0.0)
        self.atoms, self.cutoff, self.elements = atoms, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        places = Places(graph, self.index, self.atoms)
        r = safe_norm(jnp.moveaxis(places.vectors(0, 1), -1, 0))
        stiffness, length = (x.astype(r.dtype)[None, :] for x in (self.stiffness, self.length))
        return places.share(0.5 * stiffness * (r - length) ** 2)

    def check(self, system: System) -> None:
        check_atoms("bonds", self.atoms, len(system.numbers))


class HarmonicAngles(AbstractEnergy, SystemCheck):
    r"""$\frac{1}{2} k (\theta - \theta_0)^2$ for triples, the vertex in the middle: k [eV/rad²], `angle` $\theta_0$ [rad].

    Forces and Hessian are finite everywhere and exact for $\theta_0 = \pi$; for other angles there is a cusp where the
    bonds are in line (`angles.harmonic_angle`).
    """

    index: Int[Array, "terms 3"]
    stiffness: Float[Array, "terms"]
    angle: Float[Array, "terms"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, index: Indices, stiffness: PerTerm, angle: PerTerm, *, atoms: int):
        self.index = read_indices(index, 3, atoms)
        self.stiffness, self.angle = (_per_term(x, self.index) for x in (stiffness, angle))
        check_values("stiffness", self.stiffness, least=0.0)
        check_angles("angle", self.angle, 0.0, np.pi)
        self.atoms, self.cutoff, self.elements = atoms, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        places = Places(graph, self.index, self.atoms)
        u, v = places.vectors(1, 0), places.vectors(1, 2)
        stiffness, angle = (x.astype(u.dtype)[None, :] for x in (self.stiffness, self.angle))
        return places.share(0.5 * stiffness * harmonic_angle(u, v, angle))

    def check(self, system: System) -> None:
        check_atoms("angles", self.atoms, len(system.numbers))


class PeriodicTorsions(AbstractEnergy, SystemCheck):
    r"""$k [1 + \cos(n \phi - \phi_0)]$ for chains of four: `barrier` k [eV], `multiplicity` n, `phase` $\phi_0$ [rad].

    A torsion with several n is several terms. Where bonds come within 5.7 degrees of being in line the cosine is
    faded out (`angles.torsion`), so that forces and Hessian are finite everywhere.
    """

    index: Int[Array, "terms 4"]
    barrier: Float[Array, "terms"]
    phase: Float[Array, "terms"]
    multiplicity: Int[Array, "terms"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        index: Indices,
        barrier: PerTerm,
        multiplicity: int | list[int] | np.ndarray | Array,
        phase: PerTerm = 0.0,
        *,
        atoms: int,
    ):
        self.index = read_indices(index, 4, atoms)
        self.barrier, self.phase = (_per_term(x, self.index) for x in (barrier, phase))
        check_values("barrier", self.barrier)
        check_angles("phase", self.phase, -2.0 * np.pi, 2.0 * np.pi)
        given = np.asarray(multiplicity)
        if not np.issubdtype(given.dtype, np.integer) or given.min() < 1 or given.max() > _MULTIPLICITIES:
            raise ValueError(f"`multiplicity` must be whole numbers from 1 to {_MULTIPLICITIES}; got {given.tolist()}.")
        self.multiplicity = jnp.broadcast_to(jnp.asarray(given, jnp.int32), (len(self.index),))
        self.atoms, self.cutoff, self.elements = atoms, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        places = Places(graph, self.index, self.atoms)
        cosine, sine, counts = torsion(places.vectors(0, 1), places.vectors(1, 2), places.vectors(2, 3))
        # cos(n phi), sin(n phi) by adding phi n times; the n of each term is picked on the way.
        c, s = cosine, sine
        cn, sn = cosine, sine
        for n in range(2, _MULTIPLICITIES + 1):
            c, s = c * cosine - s * sine, s * cosine + c * sine
            here = (self.multiplicity == n)[None, :]
            cn, sn = jnp.where(here, c, cn), jnp.where(here, s, sn)
        barrier, phase = (x.astype(cn.dtype)[None, :] for x in (self.barrier, self.phase))
        return places.share(barrier * (1.0 + counts * (cn * jnp.cos(phase) + sn * jnp.sin(phase))))

    def check(self, system: System) -> None:
        check_atoms("torsions", self.atoms, len(system.numbers))


class HarmonicTorsions(AbstractEnergy, SystemCheck):
    r"""$\frac{1}{2} k (\phi - \phi_0)^2$ for chains of four, the difference within half a turn: k [eV/rad²], `angle` [rad].

    For impropers name the four atoms in the order whose dihedral angle is meant (in CHARMM the central atom comes first).
    Faded out like `PeriodicTorsions` where bonds are in line; half a turn away from $\phi_0$ there is a cusp.
    """

    index: Int[Array, "terms 4"]
    stiffness: Float[Array, "terms"]
    angle: Float[Array, "terms"]
    atoms: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, index: Indices, stiffness: PerTerm, angle: PerTerm = 0.0, *, atoms: int):
        self.index = read_indices(index, 4, atoms)
        self.stiffness, self.angle = (_per_term(x, self.index) for x in (stiffness, angle))
        check_values("stiffness", self.stiffness, least=0.0)
        check_angles("angle", self.angle, -np.pi, np.pi)
        self.atoms, self.cutoff, self.elements = atoms, 0.0, None

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        places = Places(graph, self.index, self.atoms)
        cosine, sine, counts = torsion(places.vectors(0, 1), places.vectors(1, 2), places.vectors(2, 3))
        stiffness, angle = (x.astype(cosine.dtype)[None, :] for x in (self.stiffness, self.angle))
        c, s = jnp.cos(angle), jnp.sin(angle)
        off = jnp.arctan2(sine * c - cosine * s, cosine * c + sine * s)
        return places.share(0.5 * stiffness * counts * off * off)

    def check(self, system: System) -> None:
        check_atoms("torsions", self.atoms, len(system.numbers))


def check_angles(name: str, values: Array, low: float, high: float) -> None:
    """Refuse angles that are not within bounds: they are in radians.

    **Raises:** `ValueError` with what was given.
    """
    given = np.asarray(values)
    if not np.all((given >= low - 1e-6) & (given <= high + 1e-6)):
        raise ValueError(f"`{name}` is in radians, from {low:.4f} to {high:.4f}; got {given.tolist()}.")


def _per_term(value: PerTerm, index: Int[Array, "terms width"]) -> Float[Array, "terms"]:
    value = parameter(value)
    if value.ndim > 0 and value.shape != (len(index),):
        raise ValueError(
            f"Give one number, or one for each of {len(index)} terms; got an array of shape {value.shape}."
        )
    return jnp.broadcast_to(value, (len(index),))
