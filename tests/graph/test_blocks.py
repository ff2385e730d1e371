"""Atoms by system: rectangles with a slot for each atom."""

import jax.numpy as jnp
import numpy as np

from jaxmlip.graph import batch, blocks
from jaxmlip.system import make_system


def chain(atoms):
    return make_system(np.arange(atoms)[:, None] * np.array([[2.0, 0.0, 0.0]]), [18] * atoms)


def test_atoms_go_to_the_slots_of_their_system_and_back():
    graph = batch([chain(3), chain(1), chain(2)], 2.5, atoms=8, slots=4)
    values = jnp.arange(1.0, 9.0)
    by_system = blocks(graph, 3)
    np.testing.assert_array_equal(
        by_system.split(values), [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0], [5.0, 6.0, 0.0], [0.0, 0.0, 0.0]]
    )
    np.testing.assert_array_equal(by_system.join(by_system.split(values), graph)[:6], values[:6])
    assert not by_system.crowded.any()


def test_order_in_the_graph_does_not_matter():
    graph = batch([chain(2), chain(2)], 2.5, atoms=6)
    mixed = [0, 1, 0, 1, 1, 1]  # the padding is the last system's
    graph = type(graph)(**{**vars(graph), "system_index": jnp.asarray(mixed, jnp.int32)})
    by_system = blocks(graph)
    values = jnp.arange(1.0, 7.0)
    np.testing.assert_array_equal(by_system.split(values)[:, :2], [[1.0, 3.0], [2.0, 4.0]])
    np.testing.assert_array_equal(by_system.join(by_system.split(values), graph)[:4], values[:4])


def test_a_system_with_more_atoms_than_slots_is_crowded():
    by_system = blocks(batch([chain(3), chain(2)], 2.5), 2)
    np.testing.assert_array_equal(by_system.crowded, [True, False])
    single = blocks(batch(chain(3), 2.5), 2)  # one system needs no rectangle
    assert single.mask.shape == (1, 3) and not single.crowded.any()
