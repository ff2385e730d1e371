"""Every energy passes every check of the conformance kit; for each check some energy, wrong on purpose, fails it."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array, Float

from jaxmlip import testing
from jaxmlip.energy import (
    ZBL,
    AbstractEnergy,
    AtomicReferences,
    EquilibratedCharges,
    Equilibration,
    Ewald,
    LatentEwald,
    LennardJones,
    SpeciesCharges,
    energy_forces_stress,
    plan_ewald,
)
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.system import make_system

SALT = SpeciesCharges({"Na": 1.0, "Cl": -1.0})
ACE_SIZES = {"degree": 2, "radial": 3, "channels": 3, "hidden": 4, "message_channels": 2, "species_features": 2}
NEQUIP_SIZES = {"channels": (2, 2), "layers": 2, "radial_basis": 3, "radial_width": 4, "radial_depth": 1}


def lennard_jones():
    return LennardJones(0.4, 2.1, 5.0)


def references():
    return AtomicReferences({14: -107.0, 8: -430.0})


def ace(layers):
    return ACE(ACEConfig((8, 14), 4.0, layers=layers, **ACE_SIZES), key=jax.random.key(0))


def nequip():
    return NequIP(NequIPConfig((8, 14), cutoff=4.0, average_neighbors=20.0, **NEQUIP_SIZES), key=jax.random.key(0))


def charged():
    """A plan, coarse because symmetries do not depend on the accuracy, for all cells that the checks come up with."""
    sample = testing.sample_system((11, 17), spacing=2.4)
    large = make_system(np.zeros((1, 3)), [11], cell=[24.0] * 3)
    systems = [sample, large, make_system(np.zeros((1, 3)), [11])]
    return SALT, plan_ewald(systems, cutoff=5.0, accuracy=1e-2, slots=testing.ATOMS)


def ewald():
    return Ewald(*charged(), background=True) + ZBL(cutoff=2.5)


def latent_ewald():
    return LatentEwald(*charged()) + ZBL(cutoff=2.5)


def equilibration():
    chi, hardness, radius = {"Na": 2.8, "Cl": 8.6}, {"Na": 4.6, "Cl": 9.9}, {"Na": 0.8, "Cl": 0.7}
    return Equilibration(EquilibratedCharges(chi, hardness, radius, charged()[1])) + ZBL(cutoff=2.5)


# What interacts over any distance depends on what is far away, and does not end at a cutoff.
LONG_RANGE = ("size_consistency", "smooth_cutoff", "isolated_atom")

# name: (what makes the energy, atomic numbers, spacing [Å], checks that cannot hold)
ENERGIES = {
    "lennard_jones": (lennard_jones, (18,), 2.3, ()),
    "scaled_sum": (lambda: 0.5 * (references() + lennard_jones() + ZBL(cutoff=2.5)), (14, 8), 2.0, ()),
    "nequip": (nequip, (14, 8), 2.0, ("coincident_atoms",)),
}
SLOW = {
    "ace": (lambda: ace(2), (14, 8), 2.0, ("coincident_atoms",)),
    "ace_and_zbl": (lambda: ace(1) + ZBL(cutoff=2.5), (14, 8), 2.0, ()),
    "zbl": (lambda: ZBL(cutoff=2.5), (29, 6), 1.7, ()),
    "lennard_jones_and_zbl": (lambda: lennard_jones() + ZBL(), (14, 8), 2.0, ()),
    "references_and_lennard_jones": (lambda: references() + lennard_jones(), (14, 8), 2.2, ()),
    "references": (references, (14, 8), 2.2, ("coincident_atoms",)),
    "ewald": (ewald, (11, 17), 2.4, LONG_RANGE),
    "latent_ewald": (latent_ewald, (11, 17), 2.4, LONG_RANGE),
    "equilibration": (equilibration, (11, 17), 2.4, LONG_RANGE),
    "scaled": (lambda: 0.5 * lennard_jones(), (18,), 2.3, ()),
}
MADE = {}  # each energy is made once, when it is first needed
CASES = [
    pytest.param(name, check, id=f"{name}-{check.__name__.removeprefix('check_')}", marks=marks)
    for energies, marks in ((ENERGIES, ()), (SLOW, pytest.mark.slow))
    for name, case in energies.items()
    for check in testing.CHECKS
    if check.__name__.removeprefix("check_") not in case[3]
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_every_energy_conforms(name, check):
    make, numbers, spacing, _ = (ENERGIES | SLOW)[name]
    if name not in MADE:
        MADE[name] = make()
    check(MADE[name], testing.sample_system(numbers, spacing=spacing))


# --- energies that are wrong on purpose -----------------------------------------------------------------------------


class Law(AbstractEnergy):
    """Any function of a graph as an energy."""

    law: Callable = eqx.field(static=True)
    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        return self.law(graph)


class LogOfPadding(AbstractEnergy):
    """The logarithm of the number of a padding atom meets the gradient of a parameter."""

    strength: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.ones(()))
    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        x = graph.positions.dtype
        return soft(graph) * self.strength.astype(x) * jnp.log(graph.numbers.astype(x))


class PythonFloat(AbstractEnergy):
    """A parameter that is a Python float, so part of the compiled program."""

    strength: float = 1.0
    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        return self.strength * soft(graph)


def soft(graph, power=3, cutoff=3.0):
    """Sound in all but one point: two atoms on one spot feel nothing."""
    x = graph.lengths() / cutoff
    return graph.sum_edges(jnp.where(x < 1.0, 1.0 - x, jnp.zeros_like(x)) ** power * (1.0 + power * x))


def core(graph):
    r = graph.lengths()
    return soft(graph) + graph.sum_edges(jnp.where(r < 3.0, (1.0 / r) * (1.0 - r / 3.0), jnp.zeros_like(r)) ** 3)


def absolute(graph):
    return soft(graph) + 0.1 * graph.positions[:, 0] ** 2


def anisotropic(graph):
    x = graph.lengths() / 3.0
    return graph.sum_edges(graph.vectors()[0] ** 2 * jnp.where(x < 1.0, 1.0 - x, jnp.zeros_like(x)) ** 3)


def chiral(graph):
    x = graph.lengths() / 3.0
    fade = jnp.where(x < 1.0, 1.0 - x, jnp.zeros_like(x)) ** 3
    a, b, c = (graph.sum_edges(graph.vectors() * (fade * x**k)[None]) for k in range(3))
    return 100.0 * jnp.sum(a * jnp.cross(b, c, axis=0), axis=0)


def by_index(graph):
    return soft(graph) * (1.0 + 0.1 * jnp.arange(len(graph.numbers), dtype=graph.positions.dtype))


def everyone_with_everyone(graph):
    return soft(graph) * graph.sum_atoms(soft(graph))[graph.system_index]


def by_lattice_vector(graph):
    return soft(graph) * jnp.sum(graph.cell[:, 1] ** 2, axis=-1)[graph.system_index]


def half_stopped(graph):
    return soft(graph) + soft(graph.with_positions(lax.stop_gradient(graph.positions)))


def rigid_cell(graph):
    return soft(eqx.tree_at(lambda g: g.cell, graph, lax.stop_gradient(graph.cell)))


def no_potential(graph):
    return forgetful_product(soft(graph), soft(graph, cutoff=2.5))


@jax.custom_jvp
def forgetful_product(a, b):
    return a * b


@forgetful_product.defjvp
def _(values, tangents):
    return values[0] * values[1], values[1] * tangents[0]


def kinked(graph):
    return soft(graph, power=2)


def blunt(graph):
    r = graph.lengths()
    return soft(graph) + graph.sum_edges((r < 3.0).astype(r.dtype))


def unguarded_root(graph):
    return -jnp.sqrt(soft(graph))


def mean_of_rows(graph):
    return soft(graph) - jnp.mean(soft(graph))


def all_systems(graph):
    return soft(graph) * jnp.sum(jnp.where(graph.atom_mask, soft(graph), jnp.zeros_like(soft(graph))))


def unmasked(graph):
    return soft(graph) + 1e-3 * jnp.sum(jnp.sin(graph.senders.astype(graph.positions.dtype)), axis=0)


def double(graph):
    return soft(graph).astype(jnp.dtype("float64"))


def cancelling(graph):
    large = 1e4 * jnp.sum(graph.positions, axis=1)
    return soft(graph) + large - 1e4 * jnp.sum(graph.positions * 1.0000001, axis=1) * 0.9999999


def short_sighted(graph):
    return soft(graph, cutoff=3.2)


WRONG = [
    ("translation", Law(absolute)),
    ("rotation", Law(anisotropic)),
    ("inversion", Law(chiral)),
    ("permutation", Law(by_index)),
    ("extensivity", Law(everyone_with_everyone)),
    ("cell_choice", Law(by_lattice_vector)),
    ("forces", Law(half_stopped)),
    ("stress", Law(rigid_cell)),
    ("pressure", Law(rigid_cell)),
    ("hessian", Law(no_potential)),
    ("hessian", Law(absolute)),
    ("smooth_cutoff", Law(kinked)),
    ("smooth_cutoff", LennardJones(0.4, 2.1, 5.0, onset=1.0)),
    ("crossing", Law(blunt)),
    ("isolated_atom", Law(unguarded_root)),
    ("size_consistency", Law(everyone_with_everyone)),
    ("coincident_atoms", Law(soft)),
    ("padding", Law(mean_of_rows)),
    ("padding", Law(short_sighted)),
    ("batching", Law(all_systems)),
    ("masked_edges", Law(unmasked)),
    ("finite_gradients", LogOfPadding()),
    ("float32", Law(double)),
    ("float32", Law(cancelling)),
    ("one_trace", PythonFloat()),
]


# A few evaluations each: compiling well would cost more than it gains.
_measure_quickly = jax.jit(energy_forces_stress, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize(
    ("name", "energy"), WRONG, ids=lambda x: getattr(getattr(x, "law", x), "__name__", str(x)[:20])
)
def test_each_check_fails_on_an_energy_that_is_wrong(name, energy, monkeypatch):
    monkeypatch.setattr(testing, "_measure", _measure_quickly)
    check = {c.__name__: c for c in testing.CHECKS}[f"check_{name}"]
    with pytest.raises(AssertionError):
        check(energy, testing.sample_system((14, 8), spacing=2.0))


def test_every_check_has_a_wrong_energy_that_fails_it():
    names = {check.__name__.removeprefix("check_") for check in testing.CHECKS}
    assert names - {name for name, _ in WRONG} == {"refusals"}  # the next test


def test_refusals_that_are_missing_are_noticed(monkeypatch):
    monkeypatch.setattr(testing, "system_energies", lambda energy, graph: None)
    with pytest.raises(AssertionError, match="shorter than the cutoff"):
        testing.check_refusals(lennard_jones(), testing.sample_system((18,)))


def test_check_energy_reports_what_it_measured_and_knows_its_checks():
    energy = AtomicReferences({14: -107.0})
    skip = [c.__name__.removeprefix("check_") for c in testing.CHECKS if c.__name__ != "check_refusals"]
    assert testing.check_energy(energy, (14,), skip=skip) == {"refusals": 1.0}
    with pytest.raises(ValueError, match="names no check"):
        testing.check_energy(energy, (14,), skip=("nonsense",))
