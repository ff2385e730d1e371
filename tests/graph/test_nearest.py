"""Nearest images against plain enumeration, in thin, sheared and partly periodic cells."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.graph.nearest import nearest_images

nearest = jax.jit(nearest_images)
TRICLINIC = np.array([[5.0, 0.0, 0.0], [1.4, 4.2, 0.3], [-1.1, 0.8, 6.0]])
SHEAR = np.array([[1, 0, 0], [9, 1, 0], [-3, 4, 1]])
CELLS = {
    "cubic": np.eye(3) * 5.0,
    "triclinic": TRICLINIC,
    "sheared 9:10": np.array([[5.0, 0.0, 0.0], [4.5, 5.0, 0.0], [0.0, 4.5, 5.0]]),
    "sheared 9:1": SHEAR @ TRICLINIC,
    "flat": np.array([[9.0, 0.0, 0.0], [4.4, 8.0, 0.0], [3.0, 2.6, 1.5]]),
}


def enumerated(vectors, cell, pbc, reach=10):
    images = np.array(list(itertools.product(*(range(-reach, reach + 1) if p else (0,) for p in pbc)))) @ cell
    return np.linalg.norm(vectors[:, None] + images[None], axis=-1).min(axis=1)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False), (False, False, False)])
@pytest.mark.parametrize("name", CELLS)
def test_no_image_is_nearer(name, pbc):
    cell = CELLS[name]
    if name == "sheared 9:1":  # enumerated in the plain cell, of which it is another description
        if not all(pbc):
            pytest.skip("the same lattice only where it is periodic along all axes")
    vectors = np.random.default_rng(0).normal(size=(200, 3)) * 2.5
    plain = TRICLINIC if name == "sheared 9:1" else cell
    found = np.asarray(nearest(jnp.asarray(vectors), jnp.asarray(cell), jnp.asarray(pbc)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), enumerated(vectors, plain, pbc), rtol=1e-12)
    with np.errstate(all="ignore"):
        steps = np.round((found - vectors) @ np.linalg.inv(plain), 9)
    assert np.all(steps == np.round(steps)) and np.all(steps[:, ~np.array(pbc)] == 0.0)


def test_rows_that_are_not_periodic_may_be_zero():
    cell = np.diag([4.0, 0.0, 0.0])
    found = nearest(jnp.array([[3.0, 9.0, -7.0]]), jnp.asarray(cell), jnp.array([True, False, False]))
    np.testing.assert_allclose(found, [[-1.0, 9.0, -7.0]], atol=1e-14)


def test_the_image_stretches_with_the_cell():
    def length(scale):
        return nearest_images(jnp.array([[3.0, 0.0, 0.0]]), scale * jnp.eye(3) * 4.0, jnp.ones(3, bool))[0, 0]

    assert float(length(jnp.array(1.0))) == -1.0
    assert float(jax.grad(length)(jnp.array(1.0))) == -4.0
