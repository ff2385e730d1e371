"""Settings of the compiler change what a compilation costs, never which function is computed."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.compilation import LEAST_WORK, Compiled, settings_for
from jaxmlip.energy import LennardJones, energy_forces_stress
from jaxmlip.graph import batch
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.system import make_system

known = {"xla_backend_optimization_level": 1}  # in every version


class Asking(LennardJones):
    compiler_options: ClassVar[dict] = {**known, "xla_cpu_no_such_setting": True}


@pytest.fixture
def asking():
    return Asking(epsilon=0.0104, sigma=3.4, cutoff=5.0)


@pytest.fixture
def graph():
    positions = 1.9 * np.array(list(np.ndindex(2, 2, 2))) + 0.1 * np.sin(np.arange(24.0)).reshape(8, 3)
    return batch(make_system(positions, [18] * 8, cell=3.8 * np.eye(3)), 5.0)


def test_same_numbers(asking, graph):
    plain, asked = energy_forces_stress(asking, graph), Compiled(energy_forces_stress)(asking, graph)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(asked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_who_asks(asking):
    """Parts of sums are asked too; a setting that the compiler does not have is left out."""
    silent = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0)
    assert settings_for((silent, 1.0)) == {}
    assert settings_for((asking,)) == known
    assert settings_for([silent + 2.0 * asking]) == known


def test_networks_of_matrix_products_ask():
    network = NequIP(NequIPConfig(elements=(14,), channels=(4, 4), layers=2), key=jax.random.key(0))
    assert known.items() <= settings_for(network).items() <= dict(LEAST_WORK).items()


def test_nothing_is_asked_of_other_devices(asking, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert settings_for(asking) == {}


def test_compiles_once_for_each_shape():
    traced = []
    twice = Compiled(lambda x: (traced.append(x.shape), 2.0 * x)[1])
    for size in (3, 3, 4, 4, 3):
        np.testing.assert_array_equal(twice(jnp.ones(size)), 2.0)
    assert traced == [(3,), (4,)]


def test_options_go_on_to_filter_jit():
    x = jnp.ones(1000)
    Compiled(lambda x: x + 1.0, donate="all")(x)
    assert x.is_deleted()


def test_within_another_compiled_function(asking, graph):
    """jax refuses settings there, and says why."""
    energies = Compiled(lambda energy, graph: energy(graph))
    silent = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0)
    np.testing.assert_allclose(jax.jit(lambda g: energies(silent, g))(graph), silent(graph), rtol=1e-12)
    with pytest.raises(ValueError, match="top-level"):
        jax.jit(lambda g: energies(asking, g))(graph)
