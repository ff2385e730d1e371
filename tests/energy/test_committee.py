"""A committee is the mean of its members, and says how far they disagree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import ZBL, AtomicReferences, Committee, LennardJones, Sum, energy_forces_virial
from jaxmlip.energy.committee import deviation, has_committee, member_derivatives, split_committee, spread
from jaxmlip.graph import Graph, batch, pad
from jaxmlip.learn.linearised import last_layer
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.system import make_system

CONFIG = ACEConfig((14,), cutoff=4.0, degree=1, radial=3, channels=3, hidden=4, products=False, mean_neighbors=12.0)


@pytest.fixture(scope="module")
def members():
    return [ACE(CONFIG, key=jax.random.key(i)) for i in range(4)]


@pytest.fixture(scope="module")
def graph() -> Graph:
    rng = np.random.default_rng(0)
    sites = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]]) / 4.0
    systems = [
        make_system(sites @ (a * np.eye(3)) + 0.1 * rng.normal(size=(4, 3)), [14] * 4, cell=a * np.eye(3))
        for a in (4.1, 4.4)
    ]
    graph = batch(systems, 4.0)
    return pad(graph, atoms=11, neighbors=graph.senders.shape[0] + 3, slots=3)


@pytest.mark.parametrize("own", [None, last_layer])
def test_mean_and_members(members, graph, own):
    committee = Committee.of(members, own)
    assert committee.members == 4 and committee.cutoff == 4.0 and committee.elements == (14,)
    alone = [committee.member(i) for i in range(4)]
    energies = eqx.filter_jit(lambda energy, graph: energy(graph))
    expected = jnp.stack([energies(energy, graph) for energy in alone])
    np.testing.assert_allclose(energies(committee, graph), expected.mean(axis=0), rtol=1e-12, atol=1e-13)
    found = eqx.filter_jit(member_derivatives)(committee, graph)
    derivatives = eqx.filter_jit(energy_forces_virial)
    for i, energy in enumerate(alone):
        for all_of_them, one in zip(found, derivatives(energy, graph), strict=True):
            np.testing.assert_allclose(all_of_them[i], one, rtol=1e-10, atol=1e-12)
    if own is None:
        for given, kept in zip(members, alone, strict=True):
            assert eqx.tree_equal(given, kept)


def test_members_of_a_shallow_committee_share_all_but_the_last_layer(members):
    committee = Committee.of(members, last_layer)
    for i in range(4):
        kept = committee.member(i)
        assert all(jnp.array_equal(a, b) for a, b in zip(last_layer(kept), last_layer(members[i]), strict=True))
        assert jnp.array_equal(kept.radial_mix[0], members[0].radial_mix[0])


def test_spread_is_the_sample_deviation_and_nothing_for_padding(members, graph):
    committee = Committee.of(members)
    derivatives = eqx.filter_jit(energy_forces_virial)
    found, each = eqx.filter_jit(spread)(committee, graph), [derivatives(energy, graph) for energy in members]
    energies = np.stack([np.asarray(e) for e, _, _ in each])
    forces = np.stack([np.asarray(f) for _, f, _ in each])
    np.testing.assert_allclose(found.energy[:2], energies.std(axis=0, ddof=1)[:2] / 4.0, rtol=1e-10)
    np.testing.assert_allclose(found.forces[:8], forces.std(axis=0, ddof=1)[:8], rtol=1e-10, atol=1e-12)
    assert np.all(np.asarray(found.forces[8:]) == 0.0) and float(found.energy[2]) == 0.0


def test_equal_members_agree_and_their_deviation_has_a_gradient():
    same = jnp.ones((3, 2))
    np.testing.assert_array_equal(deviation(same), 0.0)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(deviation(x)))(same)).all()


def test_a_committee_among_terms(members, graph):
    total = Committee.of(members) + ZBL(elements=(14,)) + AtomicReferences({14: -5.0})
    committee, rest = split_committee(total)
    assert has_committee(total) and isinstance(committee, Committee) and isinstance(rest, Sum) and len(rest.terms) == 2
    assert not has_committee(members[0])
    with pytest.raises(ValueError, match="Committee.of"):
        split_committee(members[0] + ZBL(elements=(14,)))


def test_refused(members):
    with pytest.raises(ValueError, match="two members at least; got 1"):
        Committee.of(members[:1])
    with pytest.raises(ValueError, match="same form"):
        Committee.of([members[0], LennardJones(1.0, 2.0, cutoff=4.0)])
    with pytest.raises(ValueError, match="nothing in which they could differ"):
        Committee.of(members, lambda energy: [])
