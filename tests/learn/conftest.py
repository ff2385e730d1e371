"""A small data set that Lennard-Jones atoms explain exactly: cells of four atoms, all batches of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import LennardJones, energy_forces_stress
from jaxmlip.graph import batch
from jaxmlip.io import Record
from jaxmlip.system import make_system

CUTOFF = 3.1
OFFSET = -1000.0  # eV, the reference energy of the atoms


def lennard_jones(epsilon=0.05, sigma=2.3):
    return LennardJones(jnp.asarray(epsilon), jnp.asarray(sigma), cutoff=CUTOFF)


def make_dataset(frames=20, seed=0):
    """Perturbed and strained fcc cells with the labels of `lennard_jones()`, and a reference energy in the total."""
    random = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cells = [np.eye(3) * 3.7 + 0.06 * random.normal(size=(3, 3)) for _ in range(frames)]
    positions = [sites @ cell + 0.05 * random.normal(size=(4, 3)) for cell in cells]
    systems = [make_system(p, [18] * 4, cell=c) for p, c in zip(positions, cells, strict=True)]
    labels = jax.jit(energy_forces_stress)(lennard_jones(), batch(systems, CUTOFF))
    forces = np.asarray(labels.forces).reshape(frames, 4, 3)
    return Dataset(
        [
            Record(
                positions=positions[i],
                numbers=np.full(4, 18, np.int32),
                cell=cells[i],
                pbc=(True, True, True),
                energy=float(labels.energy[i]) + 4 * OFFSET,
                forces=forces[i],
                stress=np.asarray(labels.stress[i]),
                config_type="strained" if i % 2 else "bulk",
                path="fcc.xyz",
                index=i,
            )
            for i in range(frames)
        ]
    )


@pytest.fixture(scope="session")
def dataset():
    return make_dataset()


@pytest.fixture(scope="session")
def many_frames():
    return make_dataset(200)


@pytest.fixture
def start():
    """Parameters to begin a training with."""
    return lennard_jones(0.03, 2.2)
