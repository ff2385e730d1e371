"""What energies build on: vectors, sums, gathering and strain of a graph."""

import jax.numpy as jnp
import numpy as np

from jaxmlip.graph import batch
from jaxmlip.system import make_system

CELL = np.array([[3.0, 0.0, 0.0], [1.2, 3.1, 0.0], [0.3, -0.4, 2.9]])
RANDOM = np.random.default_rng(0)
TWO = [
    make_system(RANDOM.uniform(-5.0, 5.0, (3, 3)), [6, 8, 1], cell=CELL),
    make_system([[0.0, 0.0, 0.0], [1.1, 0.2, 0.0]], [14, 14]),
]
GRAPH = batch(TWO, 4.0, atoms=7, neighbors=60, slots=3)


def brute_force(system, cutoff):
    """Sorted distances from each atom to all images within the cutoff."""
    positions, cell = np.asarray(system.positions), np.asarray(system.cell)
    reach = range(-12, 13) if any(system.pbc) else range(1)
    shifts = np.array([(a, b, c) for a in reach for b in reach for c in reach])
    vectors = positions[None, None] + (shifts @ cell)[:, None, None] - positions[None, :, None]
    lengths = np.linalg.norm(vectors, axis=-1)
    return [np.sort(x[(x > 1e-9) & (x < cutoff)]) for x in lengths.transpose(1, 0, 2).reshape(len(positions), -1)]


def test_lengths_are_those_of_all_images_and_padding_lies_beyond_the_cutoff():
    lengths = np.asarray(GRAPH.lengths())
    mask = np.asarray(GRAPH.edge_mask)
    expected = brute_force(TWO[0], 4.0) + brute_force(TWO[1], 4.0)
    for atom, distances in enumerate(expected):
        np.testing.assert_allclose(np.sort(lengths[mask[:, atom], atom]), distances, rtol=1e-12)
    assert not mask[:, 5:].any()
    assert np.all(lengths[~mask] == 8.0)


def test_vectors_point_from_the_receiver_to_the_sender():
    sender, receiver = np.asarray(GRAPH.senders), np.asarray(GRAPH.receivers)
    image = np.einsum("akn,nab->bkn", np.asarray(GRAPH.shifts, float), np.asarray(GRAPH.cell)[GRAPH.system_index])
    positions = np.asarray(GRAPH.positions)
    expected = (positions[sender] - positions[receiver]).transpose(2, 0, 1) + image
    mask = np.asarray(GRAPH.edge_mask)
    np.testing.assert_allclose(np.asarray(GRAPH.vectors())[:, mask], expected[:, mask], rtol=1e-12, atol=1e-12)


def test_sums_leave_padding_out():
    atoms = jnp.asarray([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    np.testing.assert_array_equal(GRAPH.sum_atoms(atoms), [7.0, 24.0, 0.0])
    np.testing.assert_array_equal(GRAPH.sum_atoms(jnp.stack([atoms, -atoms])), [[7.0, 24.0, 0.0], [-7.0, -24.0, 0.0]])
    edges = jnp.ones((2, *GRAPH.senders.shape))
    np.testing.assert_array_equal(GRAPH.sum_edges(edges), np.tile(np.sum(GRAPH.edge_mask, axis=0), (2, 1)))


def test_gathering_gives_each_edge_the_value_of_its_sender():
    values = jnp.asarray(RANDOM.normal(size=(2, 7)))
    gathered = np.asarray(GRAPH.gather(values))
    np.testing.assert_array_equal(gathered, np.asarray(values)[:, np.asarray(GRAPH.senders)])


def test_strain_deforms_atoms_and_cells_of_its_own_system():
    strain = jnp.asarray(0.1 * RANDOM.normal(size=(3, 3, 3)))
    strained = GRAPH.strained(strain)
    for system, atoms in ((0, slice(0, 3)), (1, slice(3, 5))):
        deform = np.eye(3) + np.asarray(strain)[system]
        np.testing.assert_allclose(strained.positions[atoms], np.asarray(GRAPH.positions)[atoms] @ deform, atol=1e-13)
        np.testing.assert_allclose(strained.cell[system], np.asarray(GRAPH.cell)[system] @ deform, atol=1e-13)
    alone = batch(TWO[0], 4.0)
    single = alone.strained(strain[:1])
    np.testing.assert_allclose(single.positions, strained.positions[:3], atol=1e-13)
    np.testing.assert_allclose(single.cell[0], strained.cell[0], atol=1e-13)


def test_volumes_are_those_of_the_cells():
    np.testing.assert_allclose(GRAPH.volume(), [np.linalg.det(CELL), 0.0, 0.0], rtol=1e-13)
