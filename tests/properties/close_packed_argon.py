"""Hexagonal argon, and one way to compile, shared by the tests of properties."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxmlip.compilation import LEAST_WORK, known
from jaxmlip.energy import LennardJones
from jaxmlip.system import make_system

OPTIONS = known(LEAST_WORK)


def compiled(function):
    """Compiled as soon as can be."""
    return eqx.filter_jit(function, compiler_options=OPTIONS)


def argon(epsilon=0.0104, sigma=3.4):
    return LennardJones(jnp.asarray(epsilon), jnp.asarray(sigma), cutoff=6.0, onset=0.75)


def close_packed():
    """Hexagonal argon: two atoms that follow a shear of the basal plane."""
    cell = 3.7 * np.array([[1.0, 0.0, 0.0], [-0.5, np.sqrt(0.75), 0.0], [0.0, 0.0, 1.64]])
    return make_system(np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]) @ cell, [18, 18], cell=cell)
