"""Every energy passes every check of the conformance kit; for each check some energy, wrong on purpose, fails it."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array, Float

from jaxmlip import testing
from jaxmlip.energy import (
    EAM,
    ZBL,
    AbstractEnergy,
    AtomicReferences,
    Distance,
    EquilibratedCharges,
    Equilibration,
    Ewald,
    HarmonicAngles,
    HarmonicBonds,
    HarmonicTorsions,
    LatentEwald,
    LennardJones,
    Metadynamics,
    Morse,
    Pair,
    PeriodicTorsions,
    PositionRestraints,
    Repulsion,
    SoftSphere,
    SpeciesCharges,
    StillingerWeber,
    Tersoff,
    Torsion,
    Umbrella,
    buckingham,
    deposit,
    energy_forces_stress,
    plan_ewald,
)
from jaxmlip.graph import batch
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE, LinearACEConfig
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


def linear():
    model = LinearACE(LinearACEConfig((8, 14), 4.0, degree=2, radial=3, channels=3, roots=2), key=jax.random.key(0))
    return eqx.tree_at(lambda m: m.weights, model, jax.random.normal(jax.random.key(1), model.weights.shape))


def nequip():
    return NequIP(NequIPConfig((8, 14), cutoff=4.0, average_neighbors=20.0, **NEQUIP_SIZES), key=jax.random.key(0))


# Parameters of Stillinger & Weber (1985), of Ding & Andersen (1986) for germanium with means between them, and of
# Tersoff (1989); docs/decisions/0009 says what cannot hold for the last.
SW = """
Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0
Ge Ge Ge 1.93   2.181  1.80 31.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0
Si Ge Ge 2.0457 2.1376 1.80 25.5 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0
Ge Si Si 2.0457 2.1376 1.80 25.5 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0
Si Si Ge 2.1061 0.0 0.0 23.1 0.0 -0.333333333333 0.0 0.0 0.0 0.0 0.0
Si Ge Si 2.1061 0.0 0.0 23.1 0.0 -0.333333333333 0.0 0.0 0.0 0.0 0.0
Ge Ge Si 1.9870 0.0 0.0 28.1 0.0 -0.333333333333 0.0 0.0 0.0 0.0 0.0
Ge Si Ge 1.9870 0.0 0.0 28.1 0.0 -0.333333333333 0.0 0.0 0.0 0.0 0.0
"""
TERSOFF = """
C  C  C  3.0 1.0 0.0 38049  4.3484 -.57058 .72751 0.00000015724 2.2119  346.7   1.95 0.15 3.4879 1393.6
Si Si Si 3.0 1.0 0.0 100390 16.217 -.59825 .78734 0.0000011     1.73222 471.18  2.85 0.15 2.4799 1830.8
Si Si C  3.0 1.0 0.0 100390 16.217 -.59825 0.0 0.0 0.0 0.0 2.36 0.15 0.0 0.0
Si C  C  3.0 1.0 0.0 100390 16.217 -.59825 .787340 0.0000011    1.97205 395.126 2.36 0.15 2.9839 1597.3111
C  Si Si 3.0 1.0 0.0 38049  4.3484 -.57058 .72751 0.00000015724 1.97205 395.126 2.36 0.15 2.9839 1597.3111
C  Si C  3.0 1.0 0.0 38049  4.3484 -.57058 0.0 0.0 0.0 0.0 1.95 0.15 0.0 0.0
C  C  Si 3.0 1.0 0.0 38049  4.3484 -.57058 0.0 0.0 0.0 0.0 2.36 0.15 0.0 0.0
Si C  Si 3.0 1.0 0.0 100390 16.217 -.59825 0.0 0.0 0.0 0.0 2.85 0.15 0.0 0.0
"""


def from_text(read, text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "parameters")
        path.write_text(text)
        return read(path)


def eam():
    """Finnis-Sinclair tables of two made-up metals, smooth at the cutoff."""
    points, cutoff = 2001, 4.5
    r, rho = np.linspace(0.0, cutoff, points), np.linspace(0.0, 12.0, points)
    fade = (1.0 - r / cutoff) ** 4

    def setfl(values):
        return "\n".join(f"{v:.17e}" for v in values)

    lines = ["made up", "for", "this test", "2 Ni Cu", f"{points} {12.0 / (points - 1)} {points} {r[1]} {cutoff}"]
    for a in range(2):
        lines += [f"{28 + a} 60.0 3.6 fcc", setfl(-(1.0 + 0.2 * a) * rho / np.sqrt(1.0 + rho))]
        lines += [setfl((2.0 + 0.3 * a - 0.4 * b) * np.exp(-r) * fade) for b in range(2)]
    lines += [setfl((30.0 + 4.0 * k + 20.0 * r) * np.exp(-1.8 * r) * fade) for k in range(3)]
    return from_text(EAM.from_finnis_sinclair, "\n".join(lines))


def argon_krypton(**keywords):
    return LennardJones({"Ar": 0.4, "Kr": 0.3}, {"Ar": 2.1, "Kr": 2.3}, 5.0, **keywords)


def silica():
    """Buckingham pairs, weaker than usual so that eight distorted atoms do not reach the inner wall everywhere."""
    strengths = {"Si-O": 1800.0, "O-O": 1388.0, "Si-Si": 0.0}
    decays = {"Si-O": 0.25, "O-O": 0.36, "Si-Si": 1.0}
    return buckingham(strengths, decays, {"Si-O": 30.0, "O-O": 175.0, "Si-Si": 0.0}, 5.0)


def inverse_ninth(r, strength):
    return strength / r**9


def pair():
    return Pair(inverse_ninth, {"strength": {"Si-O": 5.0, "Si-Si": 2.0, "O-O": 3.0}}, 4.0)


def morse():
    return Morse({"Si-O": 1.0, "Si-Si": 0.2, "O-O": 0.1}, 1.4, 1.9, 5.0)


def molecule():
    """Every kind of bonded term, on the eight atoms of the sample."""
    bonds = HarmonicBonds([[0, 1], [1, 2], [2, 3], [6, 7]], 3.0, 1.9, atoms=8)
    angles = HarmonicAngles([[0, 1, 2], [1, 2, 3], [4, 5, 6]], 2.0, [1.9, 2.5, 1.6], atoms=8)
    torsions = PeriodicTorsions([[0, 1, 2, 3], [4, 5, 6, 7]], [0.3, 0.2], [1, 3], [0.0, jnp.pi], atoms=8)
    return bonds + angles + torsions + HarmonicTorsions([[1, 0, 2, 3]], 0.5, 0.0, atoms=8)


def biased():
    """An umbrella on a torsion, and three hills on a distance."""
    bias = Metadynamics(Distance(0, 5, atoms=8), 0.3, 0.1, temperature=300.0, bias_factor=10.0, capacity=4)
    for seed in range(3):
        bias = deposit(bias, batch(testing.sample_system((14, 8), spacing=2.0, seed=seed), 1.0))
    return bias + Umbrella(Torsion(0, 1, 3, 7, atoms=8), 0.7, 1.1)


def restrained():
    places = testing.sample_system((14, 8), spacing=2.0, seed=1).positions
    return PositionRestraints(range(8), places, 0.7, atoms=8)


# What an energy of the atoms of one system, named one by one, cannot have.
NAMED = (
    "permutation",
    "extensivity",
    "isolated_atom",
    "size_consistency",
    "coincident_atoms",
    "batching",
    "finite_gradients",
)
IN_SPACE = ("translation", "rotation", "inversion", "hessian")  # nor one that is fixed in space


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
    "lennard_jones_mixture_with_tail": (lambda: argon_krypton(tail=True), (18, 36), 2.3, ("isolated_atom",)),
    "molecule": (molecule, (14, 8), 2.0, NAMED),
    "nequip": (nequip, (14, 8), 2.0, ("coincident_atoms",)),
}
SLOW = {
    "stillinger_weber": (lambda: from_text(StillingerWeber.from_file, SW), (14, 32), 2.3, ()),
    "eam": (eam, (28, 29), 2.2, ()),
    "tersoff": (lambda: from_text(Tersoff.from_file, TERSOFF), (14, 6), 1.8, ("smooth_cutoff", "coincident_atoms")),
    "tersoff_and_zbl": (lambda: from_text(Tersoff.from_file, TERSOFF) + ZBL(cutoff=1.2), (6,), 1.5, ("smooth_cutoff",)),
    "ace": (lambda: ace(2), (14, 8), 2.0, ("coincident_atoms",)),
    "linear_ace": (linear, (14, 8), 2.0, ("coincident_atoms",)),
    "ace_and_zbl": (lambda: ace(1) + ZBL(cutoff=2.5), (14, 8), 2.0, ()),
    "zbl": (lambda: ZBL(cutoff=2.5), (29, 6), 1.7, ()),
    "lennard_jones_and_zbl": (lambda: lennard_jones() + ZBL(), (14, 8), 2.0, ()),
    "references_and_lennard_jones": (lambda: references() + lennard_jones(), (14, 8), 2.2, ()),
    "references": (references, (14, 8), 2.2, ("coincident_atoms",)),
    "ewald": (ewald, (11, 17), 2.4, LONG_RANGE),
    "latent_ewald": (latent_ewald, (11, 17), 2.4, LONG_RANGE),
    "equilibration": (equilibration, (11, 17), 2.4, LONG_RANGE),
    "scaled": (lambda: 0.5 * lennard_jones(), (18,), 2.3, ()),
    "lennard_jones_mixture": (argon_krypton, (18, 36), 2.3, ()),
    "pair": (pair, (14, 8), 2.0, ()),
    "morse": (morse, (14, 8), 2.0, ("coincident_atoms",)),
    "morse_and_repulsion": (lambda: morse() + Repulsion(2.0, 9.0, cutoff=2.5), (14, 8), 2.0, ()),
    "repulsion": (lambda: Repulsion({"Si-O": 2.0, "Si-Si": 1.0, "O-O": 3.0}, cutoff=3.0), (14, 8), 2.0, ()),
    "soft_sphere": (lambda: SoftSphere(2.0, 2.9), (14, 8), 2.0, ("coincident_atoms",)),
    "buckingham": (silica, (14, 8), 2.0, ()),
    "biased": (biased, (14, 8), 2.0, (*NAMED, "inversion")),  # a torsion held at an angle is chiral
    "restrained": (restrained, (14, 8), 2.0, (*NAMED, *IN_SPACE)),
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
