"""The heat flux against the pair formula, against finite differences, and against its own supercells."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.graph import batch
from jaxmlip.observables import check_local, heat_flux, images_within
from jaxmlip.system import make_system


class Messages(AbstractEnergy):
    """Two layers: the energy of an atom depends on the neighbors of its neighbors, in direction too."""

    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        r = graph.lengths() / self.cutoff
        weight = jnp.where(r < 1.0, (1.0 - jnp.minimum(r, 1.0)) ** 3, 0.0)
        density = graph.sum_edges(weight)
        lean = graph.sum_edges(weight[None] * graph.vectors() * graph.gather(density)[None])
        return jnp.tanh(density) + 0.3 * jnp.sum(lean * lean, axis=0)


def crowd(seed=0, cell=(6.0, 6.5, 5.5), pbc=True, atoms=12):
    rng = np.random.default_rng(seed)
    cell = np.diag(cell) + 0.3 * np.tril(rng.normal(size=(3, 3)), -1)
    grid = np.stack(np.meshgrid(range(2), range(2), range(3), indexing="ij"), axis=-1).reshape(-1, 3) / [2, 2, 3]
    positions = (grid + 0.06 * rng.normal(size=grid.shape)) @ cell
    positions = positions + rng.integers(-2, 3, grid.shape) @ cell if pbc else positions
    system = make_system(positions, [18] * atoms, cell=cell if pbc else None, masses=rng.uniform(1, 9, atoms))
    return system, jnp.asarray(rng.normal(size=(atoms, 3)))


def test_for_pairs_it_is_the_pair_formula():
    system, v = crowd()
    lj = LennardJones(epsilon=0.5, sigma=1.9, cutoff=4.0, onset=0.7)
    graph = batch(system, 4.0)
    d, r = graph.vectors(), graph.lengths()
    pair = lambda x: 2.0 * lj(eqx.tree_at(lambda g: g.positions, couple, jnp.stack([jnp.zeros(3), x])))[0]  # noqa: E731
    couple = batch(make_system([[0.0, 0, 0], [2.0, 0, 0]], [18, 18]), 4.0)
    slope = jax.vmap(jax.grad(pair))(d.reshape(3, -1).T).T.reshape(d.shape)  # of the pair energy along d = r_j - r_i
    slope = jnp.where((graph.edge_mask & (r < 4.0))[None], slope, 0.0)
    both = v.T[:, graph.senders] + v.T[:, None, :]
    energies = lj(graph) + 0.5 * system.masses * jnp.sum(v * v, axis=1)
    # r_ij = r_i - r_j = -d and F_ij, the force on i, is the slope: the sum over i < j is half of that over edges.
    expected = energies @ v - 0.25 * jnp.sum(d * jnp.sum(slope * both, axis=0)[None], axis=(1, 2))
    found = heat_flux(lj, graph, v, system.masses)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    images = images_within(system.cell, system.pbc, 4.0)
    np.testing.assert_allclose(heat_flux(lj, graph, v, system.masses, images=images), expected, rtol=1e-11)
    assert np.abs(np.asarray(found - energies @ v)).max() > 0.1, "the potential part must matter"


@pytest.mark.parametrize("energy", [Messages(), LennardJones(epsilon=0.5, sigma=1.9, cutoff=3.0, onset=0.7)])
def test_in_free_space_it_is_the_motion_of_the_center_of_energy(energy):
    system, v = crowd(pbc=False)
    graph, h = batch(system, 3.0), 1e-5

    def center(positions, velocities):
        energies = energy(graph.with_positions(positions)) + 0.5 * system.masses * jnp.sum(velocities**2, axis=1)
        return energies @ positions

    def force(positions):
        return -jax.grad(lambda x: jnp.sum(energy(graph.with_positions(x))))(positions)

    a = force(system.positions) / system.masses[:, None]
    ends = [center(system.positions + s * h * v, v + s * h * a) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * h)
    found = heat_flux(energy, graph, v, system.masses, images=(0, 0, 0))
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    local = heat_flux(energy, graph, v, system.masses)
    agrees = np.allclose(local, expected, rtol=1e-7)
    assert agrees == (not isinstance(energy, Messages)), "the short formula must fail for messages, and only there"
    if agrees:
        return check_local(energy, graph)
    with pytest.raises(ValueError, match="message passing"):
        check_local(energy, graph)


class Field(AbstractEnergy):
    """An external field."""

    cutoff: float = eqx.field(static=True, default=3.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        return graph.positions[:, 0] ** 2


def test_what_looks_at_positions_has_no_flux_here():
    system, v = crowd(pbc=False)
    with pytest.raises(ValueError, match="looks at positions"):
        check_local(Field(), batch(system, 3.0))
    assert np.all(np.isnan(heat_flux(Field(), batch(system, 3.0), v, system.masses)))


@pytest.mark.slow
def test_twice_the_cell_has_twice_the_flux():
    system, v = crowd(seed=3)
    images = images_within(system.cell, system.pbc, 2 * 3.0)
    one = heat_flux(Messages(), batch(system, 3.0), v, system.masses, images=images)
    double = make_system(
        np.concatenate([system.positions, np.asarray(system.positions) + np.asarray(system.cell)[0]]),
        [18] * 24,
        cell=np.asarray(system.cell) * np.array([[2.0], [1.0], [1.0]]),
        masses=np.tile(system.masses, 2),
    )
    two = heat_flux(Messages(), batch(double, 3.0), jnp.tile(v, (2, 1)), double.masses, images=(1, 1, 2))
    assert images[1:] == (1, 2)
    np.testing.assert_allclose(two, 2 * one, rtol=1e-10)
