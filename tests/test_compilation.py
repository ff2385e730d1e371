"""Settings of the compiler change what a compilation costs, never which function is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.compilation import Compiled, least_work
from jaxmlip.energy import LennardJones, energy_forces_stress
from jaxmlip.graph import batch
from jaxmlip.system import make_system


def test_same_numbers():
    energy = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0)
    positions = 1.9 * np.array(list(np.ndindex(2, 2, 2))) + 0.1 * np.sin(np.arange(24.0)).reshape(8, 3)
    graph = batch(make_system(positions, [18] * 8, cell=3.8 * np.eye(3)), energy.cutoff)
    plain, less = energy_forces_stress(energy, graph), Compiled(energy_forces_stress)(energy, graph)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(less), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


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


def test_settings_are_for_cpus_and_known_to_this_compiler():
    assert least_work("gpu") == {} and least_work("tpu") == {}
    settings = least_work("cpu")
    assert jax.jit(lambda x: x + 1.0, compiler_options=settings or None)(1.0) == 2.0


def test_a_compiler_without_the_choice_is_left_alone(monkeypatch):
    monkeypatch.setattr("jaxmlip.compilation._LEAST", {"xla_cpu_no_such_setting": False})
    least_work.cache_clear()
    try:
        assert least_work("cpu") == {}
        assert Compiled(lambda x: x + 1.0)(jnp.ones(())) == 2.0
    finally:
        least_work.cache_clear()


def test_within_another_compiled_function():
    """It works where there are no settings, and is refused by jax where there are."""
    inner = Compiled(lambda x: x + 1.0)
    if least_work("cpu"):
        with pytest.raises(ValueError, match="top-level"):
            jax.jit(inner)(1.0)
    else:
        assert jax.jit(inner)(1.0) == 2.0
