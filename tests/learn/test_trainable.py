"""What a fit may change: parts by name, low ranks, corrections."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.learn import corrected, low_rank, select
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.linear import LinearACE
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.system import make_system

SMALL = ACEConfig((6, 8), 4.0, degree=1, radial=4, channels=6, hidden=8)
TINY = NequIPConfig((6, 8), 4.0, channels=(8, 4), radial_width=8)


def molecule():
    return make_system([[0, 0, 0], [1.2, 0, 0], [0, 1.1, 0.3], [1.5, 1.4, -0.8]], [6, 8, 8, 6], dtype=np.float32)


def held(energy, trainable):
    return {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(energy)
        if eqx.is_inexact_array(leaf) and trainable(jax.tree_util.keystr(path), leaf)
    }


def test_names_mean_the_same_part_of_each_model():
    ace, nequip = ACE(SMALL, key=jax.random.key(0)), NequIP(TINY, key=jax.random.key(1))
    assert held(ace, select(ace, ["last layer"])) == {".layers[0].out", ".layers[0].bond"}
    assert held(ace, select(ace, ["species embedding"])) == {".embedding"}
    assert held(nequip, select(nequip, ["last layer"])) == {".readout"}
    species = held(nequip, select(nequip, ["species embedding"]))
    assert ".atom_energies" in species and any(".skip" in path for path in species)
    whole = nequip + LennardJones(0.01, 3.0, cutoff=4.0)
    assert held(whole, select(whole, ["last layer"])) == {".terms[0].readout"}
    assert held(whole, select(whole, ["sigma", "readout"])) == {".terms[0].readout", ".terms[1].sigma"}
    assert held(ace, select(ace, [])) >= {".embedding", ".radial_mix"}


@pytest.mark.parametrize("part", ["nowhere", "species embedding"])
def test_a_part_that_is_not_there_is_refused_with_what_is(part):
    with pytest.raises(UserError, match=r"sigma"):
        select(LennardJones(0.01, 3.0, cutoff=4.0), [part])


@pytest.mark.slow
def test_low_rank_starts_at_the_energy_and_changes_matrices_by_its_rank():
    base = ACE(SMALL, key=jax.random.key(0))
    energy, trainable = low_rank(base, 2, key=jax.random.key(2))
    graph = batch(molecule(), energy.cutoff)
    np.testing.assert_array_equal(energy(graph), base(graph))
    assert all(path.startswith(".factors") for path in held(energy, trainable))
    slope = eqx.filter_grad(lambda e: jnp.sum(e(graph)))(energy)
    assert all(float(jnp.abs(left).max()) > 0 for name, (left, _) in slope.factors.items() if "hidden" in name)
    moved = eqx.tree_at(lambda e: e.factors, energy, {k: (left + 0.1, r) for k, (left, r) in energy.factors.items()})
    change = moved.merged().radial_mix - base.radial_mix
    ranks = np.linalg.matrix_rank(np.asarray(change, np.float64), tol=1e-5)
    assert np.all((ranks >= 1) & (ranks <= 2))
    np.testing.assert_array_equal(moved(graph), moved.merged()(graph))


def test_low_rank_refuses_what_it_cannot_be():
    with pytest.raises(UserError, match="no matrix"):
        low_rank(LennardJones(0.01, 3.0, cutoff=4.0), 1, key=jax.random.key(0))
    with pytest.raises(UserError, match="at least 1"):
        low_rank(ACE(SMALL, key=jax.random.key(0)), 0, key=jax.random.key(0))


def test_a_correction_starts_at_zero_and_leaves_the_energy_frozen():
    base = ACE(SMALL, key=jax.random.key(0))
    whole, trainable = corrected(base)
    graph = batch(molecule(), whole.cutoff)
    np.testing.assert_array_equal(whole(graph), base(graph))
    assert held(whole, trainable) == {".terms[1].weights"}
    assert isinstance(whole.terms[1], LinearACE)
    pair, trained = corrected(LennardJones(0.01, 3.0, cutoff=4.0), LennardJones(0.001, 2.5, cutoff=4.0))
    assert held(pair, trained) == {".terms[1].epsilon", ".terms[1].sigma"}
    with pytest.raises(UserError, match="elements"):
        corrected(LennardJones(0.01, 3.0, cutoff=4.0))
