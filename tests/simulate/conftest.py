"""Small systems that every test of the simulations shares, so that few programs are compiled."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.graph import Graph
from jaxmlip.system import System, make_system


def fcc(repeat: int = 2, constant: float = 5.4, noise: float = 0.0, dtype=jnp.float64) -> System:
    """Face-centered cubic argon, `4 * repeat**3` atoms, shaken by `noise` [Å]."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    grid = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + corners[None]) * constant).reshape(-1, 3)
    positions += noise * np.random.default_rng(0).normal(size=positions.shape)
    return make_system(positions, [18] * len(positions), cell=[repeat * constant] * 3, dtype=dtype)


@pytest.fixture(scope="session")
def argon() -> System:
    return fcc(noise=0.05)


@pytest.fixture(scope="session")
def lj() -> LennardJones:
    """Argon with a cutoff shorter than half the small box."""
    return LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0, onset=0.7)


class Well(AbstractEnergy):
    """Atoms bound to the origin by springs, independently of each other: exactly soluble."""

    stiffness: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return 0.5 * self.stiffness * jnp.sum(graph.positions**2, axis=1)


@pytest.fixture(scope="session")
def well():
    return Well


@pytest.fixture(scope="session")
def alone():
    """One atom of a given mass at the origin of free space."""
    return lambda mass: make_system([[0.0, 0.0, 0.0]], [1], masses=[mass])
