"""jax-md 0.2.29: three faults of its pair energies (`energy.*_pair`), smallest programs that show them.

1. Two atoms on one spot have a finite energy and feel no force.
2. A species that is not in the parameter table is given the parameters of another one.
3. The switched Lennard-Jones energy has a step in its second derivative at the cutoff: it vanishes there as h^2.
"""

import os

os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import energy, space

displacement, _ = space.free()
pair = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
for name, law in (
    ("lennard_jones_pair", energy.lennard_jones_pair(displacement)),
    ("morse_pair", energy.morse_pair(displacement)),
    ("soft_sphere_pair", energy.soft_sphere_pair(displacement)),
):
    forces = -jax.grad(law)(pair)
    print(
        f"1. {name}, two atoms on one spot: energy {float(law(pair)):.4g}, largest force {float(jnp.abs(forces).max())}"
    )

three = jnp.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [0.0, 1.3, 0.0]])
sigma = jnp.array([[1.0, 1.1], [1.1, 1.2]])
for species in ([0, 1, 1], [0, 1, 5], [0, 1, 0]):
    law = energy.lennard_jones_pair(displacement, species=jnp.array(species), sigma=sigma)
    try:
        print(f"2. species {species} in a table of two: energy {float(law(three)):.10f}")
    except Exception as error:
        print(f"2. species {species} in a table of two: {type(error).__name__}: {error}")

law = jax.jit(energy.lennard_jones_pair(displacement, r_onset=2.0, r_cutoff=2.5))
depths = np.array([0.001, 0.002, 0.004, 0.008])
values = [abs(float(law(jnp.array([[0.0, 0.0, 0.0], [2.5 - h, 0.0, 0.0]])))) for h in depths]
power = np.polyfit(np.log(depths), np.log(values), 1)[0]
print(f"3. lennard_jones_pair(r_onset=2, r_cutoff=2.5) vanishes at the cutoff as h^{power:.2f}")
print("   (h^3 is needed for a second derivative without a step)")
