"""Fine-tuning: a potential goes back to the parameters that its observables came from, and says what it did."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.learn.finetune import FinetuneSettings, finetune
from jaxmlip.learn.targets import Structure, Target, bulk_modulus, elastic_constant, lattice_constant
from jaxmlip.properties import elastic_constants, follow, relax, stiffness_along
from jaxmlip.system import make_system

SIGMA, EPSILON = 3.4, 0.0104  # Å, eV


@pytest.fixture(scope="module")
def crystal():
    return Structure(make_system(np.zeros((1, 3)), [18], cell=2.6 * (np.ones((3, 3)) - np.eye(3))))


@pytest.fixture(scope="module")
def truth(crystal):
    energy = LennardJones(epsilon=EPSILON, sigma=SIGMA, cutoff=7.0)
    point = relax(energy, crystal.system, cell=True)
    return energy, point, elastic_constants(energy, point).relaxed


def test_stiffness_along_strains_is_that_of_the_elastic_constants(truth):
    energy, point, constants = truth
    strains = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)))
    expected = jnp.einsum("na,ab,nb->n", strains, constants, strains)
    np.testing.assert_allclose(stiffness_along(energy, follow(energy, point), strains), expected, rtol=1e-8)


def test_a_potential_finds_its_parameters_from_lattice_and_bulk_modulus(crystal, truth):
    _, point, constants = truth
    edge = float(np.cbrt(4.0 * point.system.volume()))
    modulus = float(np.sum(constants[:3, :3])) / 9.0 / units.GPa
    shear = float(constants[3, 3]) / units.GPa
    targets = [
        Target("a", lattice_constant(4), crystal, edge, 1e-3, "Å"),
        Target("B", bulk_modulus(), crystal, modulus, 1e-2, "GPa"),
        Target("C44", elastic_constant("44"), crystal, shear, 0.1, "GPa", holdout=True),
    ]
    seen = []
    start = LennardJones(epsilon=1.15 * EPSILON, sigma=0.95 * SIGMA, cutoff=7.0)
    found = finetune(start, targets, progress=seen.append)
    assert found.after["a"].chi2 < 1e-2 and found.after["B"].chi2 < 1e-2
    assert found.before["C44"].chi2 > 10.0 and found.after["C44"].chi2 < 1e-2, "held out, and right all the same"
    np.testing.assert_allclose(found.energy.sigma, SIGMA, rtol=1e-4)
    np.testing.assert_allclose(found.energy.epsilon, EPSILON, rtol=1e-3)
    assert len(seen) == len(found.history) <= 8 and found.reason == "no step would raise the likelihood further"
    assert "C44 (held out)" in found.table().splitlines()[-1]


def test_what_cannot_be_fitted_is_refused(crystal):
    target = Target("a", lattice_constant(4), crystal, 5.3, 0.01, "Å")
    energy = LennardJones(epsilon=EPSILON, sigma=SIGMA, cutoff=7.0)
    with pytest.raises(UserError, match="no parameters to train"):
        finetune(energy, [target], trainable=lambda path, leaf: False)
    with pytest.raises(UserError, match="`ess` must lie between 0 and 1"):
        FinetuneSettings(ess=1.5)
