"""Parameters by element and by pair: what is read, what is refused, and that nothing is ever clamped."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones, Morse, check_elements
from jaxmlip.energy.table import pair_index, read_elements, read_pairs
from jaxmlip.graph import batch
from jaxmlip.system import make_system

OXYGEN_SILICON = {"Si-O": 1.0, ("O", "O"): 2.0, (14, 14): 3.0}


def test_pairs_are_read_by_symbol_tuple_or_number_in_any_order():
    values, pairs = read_pairs({"k": OXYGEN_SILICON, "b": 0.5})
    assert pairs == ((8, 8), (8, 14), (14, 14))
    np.testing.assert_array_equal(values["k"], [2.0, 1.0, 3.0])
    np.testing.assert_array_equal(values["b"], [0.5, 0.5, 0.5])


def test_plain_numbers_hold_for_all_pairs():
    values, pairs = read_pairs({"k": 1.5})
    assert pairs is None and values["k"].shape == ()


def test_elements_are_read_in_the_order_of_their_numbers():
    values, elements = read_elements({"epsilon": {"Kr": 2.0, "Ar": 1.0}, "sigma": {18: 3.0, "Kr": 4.0}})
    assert elements == (18, 36)
    np.testing.assert_array_equal(values["sigma"], [3.0, 4.0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"Si-O": 1.0, "O-O": 2.0}, "lacks Si-Si"),
        ({"Si-O": 1.0, "O-Si": 2.0, "Si-Si": 0.0, "O-O": 0.0}, "given twice"),
        ({"Si-Xx": 1.0}, "names 'Xx', which is no element"),
        ({("Si", "O", "O"): 1.0}, "pairs of elements"),
        ({("Si", 0): 1.0}, "which is no element"),
        ({}, "empty table"),
    ],
)
def test_wrong_tables_are_refused_by_name(table, message):
    with pytest.raises(ValueError, match=message):
        read_pairs({"epsilon": table})


def test_a_table_that_lacks_what_another_has_is_refused():
    with pytest.raises(ValueError, match="`sigma` lacks O-Si, Si-Si"):
        read_pairs({"epsilon": OXYGEN_SILICON, "sigma": {"O-O": 1.0}})
    with pytest.raises(ValueError, match="`sigma` lacks Kr"):
        read_elements({"epsilon": {"Ar": 1.0, "Kr": 1.0}, "sigma": {"Ar": 1.0}})


def test_elements_and_pairs_do_not_mix():
    with pytest.raises(ValueError, match="not of both"):
        LennardJones({"Ar": 1.0, "Ar-Kr": 1.0}, {"Ar": 1.0}, 5.0)
    with pytest.raises(ValueError, match="one of them is a number"):
        LennardJones({"Ar": 1.0}, 3.0, 5.0)


def test_each_edge_knows_its_pair_and_strangers_are_marked():
    system = make_system([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 2.0, 0.0]], [14, 8, 6])
    graph = batch(system, 5.0, atoms=4, neighbors=3)
    index = np.asarray(pair_index(graph, ((8, 8), (8, 14), (14, 14))))
    expected = {(14, 8): 1, (8, 14): 1, (14, 6): -1, (6, 14): -1, (8, 6): -1, (6, 8): -1}
    numbers, senders = np.asarray(graph.numbers), np.asarray(graph.senders)
    for slot, atom in zip(*np.nonzero(np.asarray(graph.edge_mask)), strict=True):
        assert index[slot, atom] == expected[int(numbers[senders[slot, atom]]), int(numbers[atom])]


def test_an_element_without_parameters_is_refused_by_name_and_never_clamped():
    energy = Morse({"Si-O": 1.0, "O-O": 1.0, "Si-Si": 1.0}, 1.0, 1.6, 5.0)
    assert energy.elements == (8, 14)
    with pytest.raises(ValueError, match="does not know C; it knows O, Si"):
        check_elements(energy, np.array([14, 8, 6]))
    stranger = make_system([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], [14, 6])
    assert bool(jnp.all(jnp.isnan(energy(batch(stranger, 5.0)))))
