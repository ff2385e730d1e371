"""jax-md 0.2.29: three faults of `partition.neighbor_list`, smallest programs that show them.

1. `malformed_box` is inverted: set for every valid (upper triangular) box, not set for one that is not.
2. A changed box never triggers a rebuild: the skin test compares fractional coordinates only.
3. A box shorter than twice the cutoff loses images, without a flag that says so.
"""

import itertools
import os

os.environ["JAX_ENABLE_X64"] = "1"

import jax.numpy as jnp
import numpy as np
from jax_md import partition, space


def lists(box, cutoff, skin):
    displacement, _ = space.periodic_general(box, fractional_coordinates=True)
    return partition.neighbor_list(
        displacement, box, cutoff, dr_threshold=skin, fractional_coordinates=True, format=partition.Sparse
    )


def pairs_within(positions, box, cutoff):
    """Directed pairs by plain enumeration of images (columns of `box` are lattice vectors)."""
    images = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    fractional = positions[None, :, None] - positions[:, None, None] + images[None, None]
    squared = np.sum((fractional @ np.asarray(box).T) ** 2, axis=-1)
    return int(np.sum((squared < cutoff**2) & (squared > 0)))


def listed_within(neighbors, positions, box, cutoff):
    i, j = np.asarray(neighbors.idx)
    real = i < len(positions)
    d = positions[j[real]] - positions[i[real]]
    d = (d - np.round(d)) @ np.asarray(box).T
    return int(np.sum(np.sum(d**2, axis=1) < cutoff**2))


rng = np.random.default_rng(0)
positions = rng.uniform(size=(300, 3))
upper = jnp.array([[18.0, 3.0, 2.0], [0.0, 17.0, 1.0], [0.0, 0.0, 16.0]])
for name, box in (("upper triangular (valid)", upper), ("lower triangular", upper.T)):
    neighbors = lists(box, 3.0, 0.5).allocate(jnp.asarray(positions))
    print(f"1. {name}: malformed_box = {bool(neighbors.malformed_box)}")

box = 18.0 * jnp.eye(3)
neighbors = lists(box, 4.0, 0.5).allocate(jnp.asarray(positions), extra_capacity=20000)
small = 0.8 * box
updated = neighbors.update(jnp.asarray(positions), box=small)
print(
    f"2. box shrunk to 0.8: {listed_within(updated, positions, small, 4.0)} pairs listed within the cutoff, "
    f"{pairs_within(positions, small, 4.0)} exist; did_buffer_overflow = {bool(updated.did_buffer_overflow)}"
)

cubic = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
box = 3.61 * jnp.eye(3)
neighbors = lists(box, 6.0, 0.0).allocate(jnp.asarray(cubic))
print(
    f"3. fcc, 4 atoms, 3.61 Å, cutoff 6 Å: {listed_within(neighbors, cubic, box, 6.0)} pairs listed, "
    f"{pairs_within(cubic, box, 6.0)} exist; error code = {int(neighbors.error.code)}"
)
