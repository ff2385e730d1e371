"""The linear ACE model: its rows are its derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import energy_forces_virial
from jaxmlip.graph import batch
from jaxmlip.models.linear import GROUPS, LinearACE, LinearACEConfig
from jaxmlip.system import make_system


def model_of(elements):
    model = LinearACE(LinearACEConfig(elements, channels=5, radial=3, roots=2), key=jax.random.key(0))
    return eqx.tree_at(lambda m: m.weights, model, jax.random.normal(jax.random.key(1), model.weights.shape))


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([14] * 5, id="one element", marks=pytest.mark.slow),
        pytest.param([14, 8, 14, 8, 8], id="two elements"),
    ],
)
def test_rows_are_the_derivatives_of_the_energy(numbers):
    rng = np.random.default_rng(0)
    cell = np.diag([5.0, 5.5, 6.0]) + rng.normal(0.0, 0.2, (3, 3))
    graph = batch(make_system(rng.uniform(0.0, 5.0, (5, 3)), numbers, cell=cell), 5.0, atoms=8)
    model = model_of(tuple(set(numbers)))
    energy, forces, virial = energy_forces_virial(model, graph)
    rows, weights = eqx.filter_jit(LinearACE.rows)(model, graph), model.weights.reshape(-1)
    np.testing.assert_allclose(rows.energy @ weights, energy[0], rtol=1e-12)
    np.testing.assert_allclose(rows.forces @ weights, forces, atol=1e-12 * float(jnp.abs(forces).max()))
    np.testing.assert_allclose(rows.virial @ weights, virial[0], atol=1e-12 * float(jnp.abs(virial).max()))
    assert float(jnp.abs(forces).max()) > 0.1


def test_a_basis_has_the_functions_it_says_and_none_for_a_lonely_atom():
    model = model_of((14,))
    assert sum(model.config.sizes.values()) == model.weights.shape[1] and set(model.config.sizes) == set(GROUPS)
    lonely = batch(make_system([[0.0, 0.0, 0.0]], [14]), 5.0)
    np.testing.assert_allclose(model.basis(lonely), 0.0, atol=1e-15)


def test_what_makes_no_sense_is_refused():
    for wrong in ({"elements": ()}, {"cutoff": -1.0}, {"degree": 99}, {"channels": 0}):
        with pytest.raises(ValueError):
            LinearACEConfig(**{"elements": (14,), **wrong})
    two = [make_system([[0.0, 0.0, 0.0]], [14])] * 2
    with pytest.raises(ValueError, match="one system at a time; got 2"):
        model_of((14,)).rows(batch(two, 5.0))
