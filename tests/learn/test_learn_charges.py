"""Charges that learn: from labels, or from energies and forces alone."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import Ewald, SpeciesCharges, energy_forces, plan_ewald
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.io import Record
from jaxmlip.learn import TrainSettings, fit
from jaxmlip.learn.charges import charge_rms, find_charges, mean_charges
from jaxmlip.learn.loss import Loss, Weights
from jaxmlip.learn.step import init
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.charges import electrostatics

CUTOFF = 3.0
TRUE = {"Mg": 0.8, "O": -0.8}
QUICK = {
    "steps": 200, "batch_size": 6, "evaluations": 2, "references": "none", "learning_rate": 0.02, "warmup_steps": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def ions():
    """Rattled ion pairs in a box with the energies, forces and charges of point ions."""
    random = np.random.default_rng(0)
    records = []
    for index in range(12):
        positions = np.array([[0.0, 0, 0], [2.1, 0, 0], [0.3, 4.0, 2.0], [2.2, 3.9, 2.1]])
        positions = positions + 0.2 * random.normal(size=(4, 3))
        records.append(
            Record(positions, np.array([12, 8, 12, 8], np.int32), 7.0 * np.eye(3), (True, True, True), index=index)
        )
    systems = [record.system for record in records]
    truth = Ewald(SpeciesCharges(TRUE), plan_ewald(systems, cutoff=CUTOFF))
    energies, forces = jax.jit(energy_forces)(truth, batch(systems, CUTOFF))
    charges = np.array([0.8, -0.8, 0.8, -0.8])
    return Dataset(
        [
            dataclasses.replace(
                r, energy=float(energies[i]), forces=np.asarray(forces[4 * i : 4 * i + 4]), charges=charges
            )
            for i, r in enumerate(records)
        ]
    )


def term(kind, data, **options):
    systems = [record.system for record in data]
    return electrostatics(kind, systems, cutoff=CUTOFF, mean_neighbors=1.0, key=jax.random.key(1), **options)


def short_range():
    config = ACEConfig.preset("nep", (8, 12), cutoff=CUTOFF, degree=1, radial=3, channels=2, hidden=4)
    return ACE(config, key=jax.random.key(0))


@pytest.mark.parametrize(("kind", "weight"), [("predicted", 0.7), ("latent", 0.0)])
def test_the_loss_has_the_derivatives_of_finite_differences_by_the_parameters_of_charges(ions, kind, weight):
    energy = term(kind, ions)
    loss = Loss(charges=weight > 0, charge_scale=0.8)
    problem, state = init(energy, loss, TrainSettings(dtype="float64"))
    labelled = next(iter(Loader(ions, CUTOFF, batch_size=3, dtype=np.float64).epoch(0)))
    weights = Weights(1.0, 1.0, 0.0, weight)

    @jax.jit
    def objective(params):
        return loss(eqx.combine(params, problem.fixed), labelled, weights)

    gradient = jax.grad(objective)(state.params)
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    along = jax.tree.unflatten(structure, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
    slope = sum(jnp.sum(g * a) for g, a in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
    step = 1e-5
    ahead, behind = (
        objective(jax.tree.map(lambda x, a, s=sign: x + s * step * a, state.params, along)) for sign in (1.0, -1.0)
    )
    np.testing.assert_allclose(float(slope), float(ahead - behind) / (2.0 * step), rtol=1e-6)
    assert all(float(jnp.max(jnp.abs(g))) > 0.0 for g in jax.tree.leaves(gradient))


def test_labels_teach_charges(ions):
    settings = TrainSettings(charge_weight=1.0, **QUICK)
    result = fit(term("predicted", ions), ions, ions, settings=settings, quiet=True)
    assert result.report is not None and result.report.charge_rmse < 0.05
    assert "valid_charge_rmse_me" in result.history[-1]


@pytest.mark.slow
def test_energies_and_forces_alone_teach_the_charges_of_ions(ions):
    """No label is looked at: the size of the charges follows from the forces."""
    bare = Dataset([dataclasses.replace(record, charges=None) for record in ions])
    settings = TrainSettings(**QUICK)
    result = fit(term("predicted", bare, start={"Mg": 0.1, "O": -0.1}), bare, bare, settings=settings, quiet=True)
    graph = batch([record.system for record in ions], CUTOFF)
    charges = np.asarray(find_charges(result.energy)(graph))[: 4 * len(ions)]
    labels = np.concatenate([record.charges for record in ions])
    assert np.sqrt(np.mean((charges - labels) ** 2)) < 0.1


def test_given_charges_do_not_train(ions):
    energy = short_range() + term(TRUE, ions)
    _, state = init(energy, Loss(), TrainSettings())
    assert len(jax.tree.leaves(state.params)) == len(jax.tree.leaves(short_range()))
    _, state = init(energy, Loss(), TrainSettings(), lambda path, leaf: "charges" in path)
    assert len(jax.tree.leaves(state.params)) == 1


def test_charges_that_are_asked_for_must_be_there(ions):
    settings = TrainSettings(steps=1, charge_weight=1.0, references="none")
    with pytest.raises(UserError, match="energy has none: add a long-range term"):
        fit(short_range(), ions, settings=settings, quiet=True)
    bare = Dataset([dataclasses.replace(record, charges=None) for record in ions])
    with pytest.raises(UserError, match="asks for charges, but 12 of 12 frames have none"):
        fit(term("predicted", bare), bare, settings=settings, quiet=True)
    with pytest.raises(UserError, match="2 kinds of charges"):
        find_charges(term("predicted", bare) + term("latent", bare))


def test_statistics_of_charges(ions):
    np.testing.assert_allclose(charge_rms(ions), 0.8)
    assert mean_charges(ions) == pytest.approx(TRUE)
    assert ions.fingerprint() != Dataset([dataclasses.replace(r, charges=None) for r in ions]).fingerprint()


def test_a_net_charge_is_refused_before_training(ions):
    charged = Dataset([dataclasses.replace(ions[0], charge=1.0), *ions.records[1:]])
    with pytest.raises(UserError, match=r"frame 0: The charges of a periodic system sum to 1 e"):
        fit(term("predicted", charged), charged, settings=TrainSettings(steps=1, references="none"), quiet=True)
