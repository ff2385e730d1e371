"""The ACE family: presets, body order, messages, normalization and training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import energy_forces_virial
from jaxmlip.graph import batch
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.system import make_system

SMALL = {
    "channels": 4,
    "radial": 3,
    "hidden": 5,
    "degree": 2,
    "message_channels": 3,
    "cutoff": 3.0,
    "mean_neighbors": 4.0,
}


def cluster(numbers, seed=0, size=1.4):
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(len(numbers), 3))
    return size * positions / np.linalg.norm(positions, axis=1, keepdims=True)


@eqx.filter_jit
def evaluate(model, graph):
    return model(graph)


def energies(model, positions, numbers):
    return evaluate(model, batch(make_system(positions, numbers), model.cutoff, neighbors=5))


@pytest.mark.parametrize("preset", ["nep", "fast", "accurate"])
def test_presets_make_models_of_growing_size(preset):
    config = ACEConfig.preset(preset, [14])
    model = ACE(config, key=jax.random.PRNGKey(0))
    count = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    low, high = {"nep": (500, 5_000), "fast": (20_000, 60_000), "accurate": (60_000, 700_000)}[preset]
    assert low <= count <= high


def test_products_tell_apart_what_pairs_and_angles_cannot():
    """Two rings of four neighbors with the same distances and the same angles between pairs, but other triples.

    Multiples of 30 degrees (0, 1, 4, 6) and (0, 1, 3, 7) are homometric; such environments are degenerate for every
    3-body model: Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020), doi:10.1103/PhysRevLett.125.166001.
    """
    rings = []
    for multiples in ((0, 1, 4, 6), (0, 1, 3, 7)):
        azimuth = np.pi / 6.0 * np.array(multiples)
        ring = 1.5 * np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros(4)], axis=1)
        rings.append(np.concatenate([np.zeros((1, 3)), ring]))
    for products, same in ((False, True), (True, False)):
        model = ACE(ACEConfig(elements=(6,), products=products, **SMALL), key=jax.random.PRNGKey(1))
        first, second = (float(energies(model, x, np.full(5, 6))[0]) for x in rings)
        assert (abs(first - second) < 1e-12 * max(1.0, abs(first))) == same


def test_second_layer_sees_beyond_the_cutoff():
    """A chain A-B-C with A and C out of reach: A feels C through B in two layers, and not in one."""
    chain = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [4.0, 0.5, 0.0]])
    bent = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [4.0, -0.5, 0.7]])
    for layers, feels in ((1, False), (2, True)):
        model = ACE(ACEConfig(elements=(1,), layers=layers, **SMALL), key=jax.random.PRNGKey(2))
        a, b = (energies(model, x, np.ones(3, int))[0] for x in (chain, bent))
        assert (abs(float(a - b)) > 1e-8) == feels


def test_messages_carry_direction():
    """Turning the far end about the bond is seen by the first atom if vectors are sent, and not with scalars alone."""
    model = ACE(ACEConfig(elements=(1,), layers=2, **SMALL), key=jax.random.PRNGKey(3))
    scalars_only = eqx.tree_at(lambda m: m.layers[0].send_vectors, model, replace_fn=jnp.zeros_like)
    # Atom 3 marks a direction at atom 0; it meets neither atom 1 nor atom 2, which is out of the reach of atom 0.
    base = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.5, 1.9, 0.0], [-1.3, 1.5, 0.4]])
    turned = base.copy()
    turned[2] = [2.5, 0.0, 1.9]
    directed, undirected = (
        abs(float(energies(m, base, np.ones(4, int))[0] - energies(m, turned, np.ones(4, int))[0]))
        for m in (model, scalars_only)
    )
    assert directed > 1e-7
    assert undirected < 1e-12


def test_elements_are_told_apart():
    model = ACE(ACEConfig(elements=(1, 8), **SMALL), key=jax.random.PRNGKey(4))
    positions = cluster([1, 1, 8])
    a = float(jnp.sum(energies(model, positions, np.array([1, 1, 8]))))
    b = float(jnp.sum(energies(model, positions, np.array([1, 8, 1]))))
    assert abs(a - b) > 1e-8


def test_many_elements_share_a_small_embedding():
    config = ACEConfig(elements=tuple(range(1, 21)), species_features=3, **SMALL)
    model = ACE(config, key=jax.random.PRNGKey(5))
    assert model.embedding.shape == (20, 3)
    assert np.all(np.isfinite(energies(model, cluster([3, 7, 11]), np.array([3, 7, 11]))))


def test_energy_scale_multiplies_the_energy():
    positions, numbers = cluster([6, 6, 6]), np.array([6, 6, 6])
    model = ACE(ACEConfig(elements=(6,), energy_scale=2.5, **SMALL), key=jax.random.PRNGKey(6))
    assert float(model.scale) == 2.5
    plain = eqx.tree_at(lambda m: m.scale, model, jnp.asarray(1.0))
    np.testing.assert_allclose(
        energies(model, positions, numbers), 2.5 * energies(plain, positions, numbers), rtol=1e-12
    )


@pytest.mark.slow
def test_gradient_of_a_force_loss_matches_finite_differences():
    model = ACE(ACEConfig(elements=(6, 8), layers=2, **SMALL), key=jax.random.PRNGKey(7))
    graph = batch(make_system(cluster([6, 6, 8, 8]), [6, 6, 8, 8]), 3.0)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def loss(p):
        energy, forces, virial = energy_forces_virial(eqx.combine(p, static), graph)
        return jnp.sum(forces**2) + jnp.sum(energy**2) + jnp.sum(virial**2)

    gradient = jax.jit(jax.grad(loss))(params)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.PRNGKey(8), len(leaves))
    direction = tree.unflatten([jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

    def along(h):
        return float(loss(jax.tree.map(lambda p, d: p + h * d, params, direction)))

    h = 1e-3
    numeric = (8.0 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12.0 * h)
    exact = sum(
        float(jnp.sum(g * d)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert abs(numeric - exact) <= 1e-6 * abs(exact)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 0.0}, "`cutoff` must be positive"),
        ({"degree": 9}, "`degree` must be 1 to 4"),
        ({"layers": 3}, "`layers` must be 1 or 2"),
        ({"layers": 2, "products": False}, "need `products=True`"),
        ({"channels": 0}, "`channels` must be positive"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ACEConfig(elements=(14,), **changes)


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="nep, fast, accurate"):
        ACEConfig.preset("huge", [14])


def test_an_isolated_atom_has_its_reference_energy_whatever_was_learned():
    """Else atoms with few neighbors are bound as strongly as the average atom of the data."""
    model = ACE(ACEConfig.preset("accurate", [8, 14], **SMALL), key=jax.random.PRNGKey(0))
    model = jax.tree.map(lambda x: x + 0.3 if eqx.is_inexact_array(x) else x, model)
    np.testing.assert_allclose(energies(model, np.zeros((1, 3)), [14]), 0.0, atol=1e-6)
    apart = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    np.testing.assert_allclose(energies(model, apart, [8, 14]), 0.0, atol=1e-6)
    assert np.all(np.abs(energies(model, apart / 6.0, [8, 14])) > 1e-3)
