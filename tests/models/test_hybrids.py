"""Models with long-range terms: their charges, their files, their dynamics, their systems."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import (
    AtomCharges,
    Ewald,
    LatentEwald,
    ModelCharges,
    SpeciesCharges,
    energy_forces,
    plan_ewald,
    replan,
    system_energies,
)
from jaxmlip.graph import batch
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.charges import electrostatics
from jaxmlip.models.pretrained import load, save
from jaxmlip.simulate import NVE, run
from jaxmlip.system import make_system

CUTOFF = 3.0
SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def salt(seed=0, repeat=1, charge=0.0):
    """A rattled cell of eight ions, repeated along x."""
    positions = np.concatenate([SITES, SITES + [0.5, 0.0, 0.0]]) * 4.2
    positions = positions + 0.1 * np.random.default_rng(seed).normal(size=positions.shape)
    numbers = [12] * 4 + [8] * 4
    copies = np.concatenate([positions + [4.2 * n, 0.0, 0.0] for n in range(repeat)])
    return make_system(copies, numbers * repeat, cell=np.diag([4.2 * repeat, 4.2, 4.2]), charge=charge)


def short_range(seed=0):
    config = ACEConfig.preset(
        "nep", (8, 12), cutoff=CUTOFF, degree=1, radial=3, channels=2, hidden=4, mean_neighbors=6.0, energy_scale=0.1
    )
    return ACE(config, key=jax.random.key(seed))


def long_range(kind, **options):
    options = {"cutoff": CUTOFF, "mean_neighbors": 6.0, "accuracy": 1e-4, "key": jax.random.key(1)} | options
    return electrostatics(kind, [salt()], **options)


def test_predicted_charges_sum_to_the_total_of_each_system_of_a_padded_batch():
    systems = [salt(0), salt(1, charge=2.0)]
    charges = long_range("predicted").charges
    graph = batch(systems, CUTOFF, atoms=24)
    totals = np.asarray(graph.sum_atoms(charges(graph)))
    np.testing.assert_allclose(totals, [0.0, 2.0], atol=1e-12)
    alone = charges(batch([systems[1]], CUTOFF))
    np.testing.assert_allclose(charges(graph)[8:16], alone, atol=1e-12)
    hidden = long_range("latent").charges
    assert abs(float(graph.sum_atoms(hidden(graph))[0])) > 1e-3


@pytest.mark.parametrize("kind", ["predicted", "latent", "equilibrated", {"Mg": 2.0, "O": -2.0}])
def test_a_hybrid_is_the_same_after_a_file(kind, tmp_path):
    energy = short_range() + long_range(kind)
    found = load(save(tmp_path / "hybrid.model", energy))
    assert eqx.tree_equal(energy, found)


def test_charges_of_atoms_survive_a_file(tmp_path):
    energy = Ewald(AtomCharges(np.linspace(-1.0, 1.0, 8)), plan_ewald(salt(), cutoff=CUTOFF))
    assert eqx.tree_equal(energy, load(save(tmp_path / "atoms.model", energy)))


@pytest.mark.slow
def test_dynamics_of_a_hybrid_conserve_energy():
    """Velocity Verlet: halving the timestep quarters what the energy fluctuates by."""
    energy = short_range() + long_range({"Mg": 0.4, "O": -0.4}) + long_range("latent")

    def spread(timestep, steps):
        integrator = NVE(timestep * units.fs)
        state = integrator.init(energy, salt(), key=jax.random.key(0), temperature=300.0, skin=0.5)
        _, conserved = run(integrator, energy, state, steps=steps, every=1, observe=integrator.conserved)
        return float(np.std(np.asarray(conserved)))

    coarse, fine = spread(2.0, 30), spread(1.0, 60)
    assert 0.0 < coarse < 1e-3 and 3.0 < coarse / fine < 5.0


@pytest.mark.slow
def test_a_hybrid_serves_a_larger_cell_with_the_same_energy_per_atom():
    energy = short_range() + long_range("latent")
    large = salt(repeat=3)
    with pytest.raises(ValueError, match="planned for at most"):
        NVE(1.0).init(energy, large, key=jax.random.key(0), temperature=300.0)
    wide = replan(energy, large)
    small = float(system_energies(energy, batch([salt()], CUTOFF))[0])
    np.testing.assert_allclose(float(system_energies(wide, batch([large], CUTOFF))[0]), 3.0 * small, rtol=1e-7)
    assert replan(wide, large) == wide or eqx.tree_equal(replan(wide, large), wide)


@pytest.mark.slow
def test_replanning_changes_point_charges_by_no_more_than_their_accuracy():
    energy = Ewald(SpeciesCharges({"Mg": 2.0, "O": -2.0}), plan_ewald(salt(), cutoff=CUTOFF, accuracy=1e-8))
    wide = replan(energy, salt(repeat=2))
    forces = [energy_forces(e, batch([salt()], CUTOFF))[1] for e in (energy, wide)]
    np.testing.assert_allclose(forces[0], forces[1], atol=1e-6)


def test_a_net_charge_needs_a_choice():
    with pytest.raises(ValueError, match="sum to 2 e"):
        NVE(1.0).init(long_range("predicted"), salt(charge=2.0), key=jax.random.key(0), temperature=300.0)
    energy = long_range("predicted", background=True)
    assert jnp.isfinite(system_energies(energy, batch([salt(charge=2.0)], CUTOFF))[0])


def test_an_unknown_kind_of_charges_is_refused():
    with pytest.raises(ValueError, match="predicted, latent, equilibrated"):
        long_range("mulliken")


def test_the_words_make_what_they_say():
    assert isinstance(long_range("latent"), LatentEwald) and not long_range("latent").charges.conserve
    predicted = long_range("predicted", start={"Mg": 1.0, "O": -1.0})
    assert isinstance(predicted.charges, ModelCharges)
    np.testing.assert_allclose(predicted.charges.start, [-1.0, 1.0])
