"""Cases whose distribution is known exactly at any timestep, or exactly in the limit: oscillators and the ideal gas."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from checks import of_mean
from jaxtyping import Array, Float
from sampling import begin, sample, thermal_piston

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph import Graph
from jaxmlip.simulate import CSVR, MTK, NPT, Brownian, Langevin
from jaxmlip.simulate.csvr import rescaling
from jaxmlip.system import make_system

kT = units.kB * 300.0


class Well(AbstractEnergy):
    """Each atom on a spring of stiffness 1 eV/Å² to the origin, or to the center of all atoms (of one mass)."""

    bound: bool = eqx.field(static=True, default=True)
    cutoff: float = eqx.field(static=True, default=0.1)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        x = graph.positions
        x = x if self.bound else x - jnp.mean(x, axis=0)[None, :]
        return 0.5 * jnp.sum(x**2, axis=1)


class Nothing(AbstractEnergy):
    """The ideal gas."""

    cutoff: float = eqx.field(static=True, default=0.1)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return 0.0 * graph.positions[:, 0]


def squares(state) -> tuple:
    """Mean squares of position and momentum (mass 1) in units of kT, and the volume."""
    return jnp.mean(state.system.positions**2) / kT, jnp.mean(state.momenta**2) / kT, state.system.volume()


def oscillators(replicas: int = 256, samples: int = 300) -> dict[str, float]:
    """BAOAB: <q²> = 1, <p²> = 1 - h²/4. Leimkuhler-Matthews: <q²> = 1. Both at any timestep (units of kT)."""
    alone = make_system([[0.0, 0.0, 0.0]], [1], masses=[1.0])
    found = {}
    start = jnp.sqrt(kT) * jax.random.normal(jax.random.key(7), (replicas, 1, 3))
    for h in (0.25, 0.5, 1.0, 1.5):
        integrator = Langevin(h, 300.0, 0.7)
        states = begin(integrator, Well(), alone, 300.0, replicas, 1, skin=0.1, capacity=1, positions=start)
        _, (q, p, _) = sample(integrator, Well(), states, squares, samples, 10)
        found[f"BAOAB h={h} q"] = of_mean(np.asarray(q)[20:].mean(axis=0), 1.0)
        found[f"BAOAB h={h} p"] = of_mean(np.asarray(p)[20:].mean(axis=0), 1.0 - h * h / 4.0)
    for step in (0.2, 0.6, 1.2):
        integrator = Brownian(step, 300.0, 1.0)
        states = begin(integrator, Well(), alone, 300.0, replicas, 2, skin=0.1, capacity=1, positions=start)
        _, (q, _, _) = sample(integrator, Well(), states, squares, samples, 10)
        found[f"Brownian step={step} q"] = of_mean(np.asarray(q)[20:].mean(axis=0), 1.0)
    return found


def diffusion(replicas: int = 4096) -> dict[str, float]:
    """Free Brownian motion of mass 3: <x²> = 2 D t (n - 1/2) after n steps, D = kT / m gamma, t the timestep."""
    free = make_system([[0.0, 0.0, 0.0]], [1], masses=[3.0])
    integrator, steps = Brownian(0.5, 300.0, 0.8), 40
    states = begin(integrator, Nothing(), free, 300.0, replicas, 3, skin=0.1, capacity=1)
    _, (q, _, _) = sample(integrator, Nothing(), states, squares, 1, steps)
    return {"Brownian diffusion": of_mean(np.asarray(q)[0], 2.0 / (3.0 * 0.8) * 0.5 * (steps - 0.5))}


def rescalings(draws: int = 40_000, dof: int = 5) -> dict[str, float]:
    """CSVR alone: a chi-squared kinetic energy stays one, and is correlated with what it was by exp(-t/tau)."""
    decay, half = jnp.asarray(0.6), jnp.asarray(0.5)
    before = jax.random.chisquare(jax.random.key(11), dof, (draws,))
    factor = jax.vmap(lambda k, key: rescaling(half * k, dof, jnp.asarray(1.0), decay, key))(
        before, jax.random.split(jax.random.key(12), draws)
    )
    after = np.asarray(before * factor**2).reshape(-1, 100)
    before = np.asarray(before).reshape(-1, 100)
    together = ((before - dof) * (after - dof)).mean(axis=1) / (2.0 * dof)
    return {
        "CSVR kernel mean": of_mean(after.mean(axis=1), dof),
        "CSVR kernel variance": of_mean(((after - dof) ** 2).mean(axis=1), 2.0 * dof),
        "CSVR kernel correlation": of_mean(together, float(np.exp(-0.6))),
    }


def cluster(replicas: int = 256, samples: int = 200) -> dict[str, float]:
    """CSVR of three atoms on springs to their center, 6 degrees of freedom: <q²> and <p²>; the bias of a timestep of
    0.1 is below 1e-3."""
    atoms = make_system(np.diag([1.0, 2.0, 3.0]), [1] * 3, masses=[1.0] * 3)
    draw = jnp.sqrt(kT) * jax.random.normal(jax.random.key(21), (replicas, 3, 3))
    draw = draw - jnp.mean(draw, axis=1, keepdims=True)
    integrator = CSVR(0.1, 300.0, 2.0)
    states = begin(integrator, Well(False), atoms, 300.0, replicas, 4, skin=0.1, capacity=2, positions=draw)
    _, (q, p, _) = sample(integrator, Well(False), states, squares, samples, 10)
    share = 6.0 / 9.0
    return {
        "CSVR cluster q": of_mean(np.asarray(q)[40:].mean(axis=0), share),
        "CSVR cluster p": of_mean(np.asarray(p)[40:].mean(axis=0), share),
    }


def ideal_gas(shapes=("isotropic", "anisotropic", "triclinic"), replicas: int = 512, samples: int = 60):
    """Volumes of 4 free atoms, in units of kT/P, from exact starts: mean N + 1, variance N + 1, for both barostats.

    Also the control: MTK volumes against a mean of N, which the published equations would have with 3N - 3.
    """
    atoms, unit, found = 4, 200.0, {}
    positions = np.array([[0.1, 0.1, 0.1], [0.4, 0.5, 0.6], [0.7, 0.2, 0.9], [0.9, 0.8, 0.3]])
    system = make_system(positions * 8.0, [18] * atoms, cell=[8.0] * 3)
    edges = (unit * jax.random.gamma(jax.random.key(31), atoms + 1.0, (replicas,))) ** (1.0 / 3.0)
    cells = edges[:, None, None] * jnp.eye(3)[None]
    places = edges[:, None, None] * jnp.asarray(positions)[None]
    control = 0.0
    for shape in shapes:
        dt, tau = 5.0 * units.fs, 200.0 * units.fs
        both = {
            "SCR": NPT(dt, 300.0, 0.02 / units.fs, kT / unit, tau, unit / kT, shape, every=1),
            "MTK": MTK(dt, 300.0, 100.0 * units.fs, kT / unit, tau, shape),
        }
        for name, integrator in both.items():
            states = begin(
                integrator, Nothing(), system, 300.0, replicas, 5, skin=0.1, capacity=1, positions=places, cells=cells
            )
            states = thermal_piston(states, integrator, atoms, kT) if name == "MTK" else states
            _, (_, _, volume) = sample(integrator, Nothing(), states, squares, samples, 10)
            volume = np.asarray(volume)[samples // 4 :] / unit
            found[f"{name} {shape} ideal gas volume"] = of_mean(volume.mean(axis=0), atoms + 1.0)
            spread = ((volume - atoms - 1.0) ** 2).mean(axis=0)
            found[f"{name} {shape} ideal gas variance"] = of_mean(spread, atoms + 1.0)
            if name == "MTK":
                control = max(control, abs(of_mean(volume.mean(axis=0), float(atoms))))
    return found, control
