"""Energies add, scale and refuse what they do not know."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import (
    ZBL,
    AtomicReferences,
    LennardJones,
    Scaled,
    Sum,
    check_cutoff,
    check_elements,
    system_energies,
)
from jaxmlip.graph import batch
from jaxmlip.system import make_system

LJ = LennardJones(0.4, 2.1, 3.0)
GRAPH = batch(make_system([[0.0, 0.0, 0.0], [1.9, 0.3, 0.0]], [14, 8]), 3.0)


def test_energies_add_and_scale():
    total = 2.0 * LJ + ZBL(2.0) + 0.5 * ZBL(cutoff=2.5)
    assert isinstance(total, Sum) and len(total.terms) == 3
    expected = 2.0 * LJ(GRAPH) + ZBL(2.0)(GRAPH) + 0.5 * ZBL(cutoff=2.5)(GRAPH)
    np.testing.assert_allclose(total(GRAPH), expected, rtol=1e-14)
    assert total.cutoff == 3.0
    assert total.elements is None
    assert isinstance(LJ * 2.0, Scaled)


def test_a_sum_knows_the_elements_that_all_its_terms_know():
    total = AtomicReferences({14: -1.0, 8: -2.0}) + LJ + AtomicReferences({8: 0.5, 6: 1.0})
    assert total.elements == (8,)
    assert (0.5 * total).elements == (8,)


def test_an_empty_sum_is_refused():
    with pytest.raises(ValueError, match="at least one energy"):
        Sum(())


def test_unknown_elements_are_refused_and_padding_is_not():
    energy = AtomicReferences({14: -1.0})
    check_elements(energy, np.array([14, 0]))
    check_elements(LJ, np.array([118]))
    with pytest.raises(ValueError, match="does not know C, O; it knows Si"):
        check_elements(energy, np.array([8, 14, 6]))


def test_a_list_shorter_than_the_cutoff_is_refused():
    check_cutoff(LJ, GRAPH)
    with pytest.raises(ValueError, match="looks 3.5 Å far, .* only up to 3.0 Å"):
        system_energies(LJ + ZBL(cutoff=3.5), GRAPH)


@pytest.mark.parametrize("make", [lambda: LennardJones(1.0, 1.0, -1.0), lambda: ZBL(cutoff=0.0)])
def test_a_cutoff_must_be_positive(make):
    with pytest.raises(ValueError, match="`cutoff` must be positive"):
        make()


def test_an_onset_is_a_fraction():
    with pytest.raises(ValueError, match="`onset` is a fraction"):
        LennardJones(1.0, 1.0, 3.0, onset=1.5)


def test_parameters_are_arrays_of_definite_type():
    for leaf in (LJ.epsilon, LJ.sigma, (2.0 * LJ).factor):
        assert leaf.dtype == jnp.dtype("float64") and not leaf.weak_type
    assert LennardJones(jnp.float32(1.0), 1.0, 3.0).epsilon.dtype == jnp.dtype("float32")
