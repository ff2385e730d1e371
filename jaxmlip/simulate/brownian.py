"""Overdamped Langevin dynamics: Brownian motion of the positions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import Neighbors
from jaxmlip.simulate.integrator import TIME, AbstractIntegrator, check_positive, check_temperature
from jaxmlip.simulate.nve import refresh
from jaxmlip.simulate.nvt import Heat
from jaxmlip.simulate.schedule import Target, as_target, first, now
from jaxmlip.simulate.state import State, replace, thermal_momenta, with_positions
from jaxmlip.system import System


class Brownian(AbstractIntegrator):
    r"""Position Langevin dynamics with diffusion constant $D = k_B T / m \gamma$ of a free atom.

    `timestep` and 1/`friction` [time unit: `0.5 * units.fs`, `0.1 / units.fs`], `temperature` [K] (or a schedule).
    The scheme of Leimkuhler and Matthews, $r_{n+1} = r_n + \frac{t}{m \gamma} F_n + \sqrt{D t / 2} (\xi_n +
    \xi_{n+1})$, is the limit of `Langevin` (BAOAB) for large friction: second order in its averages at the cost of
    Euler's scheme, and exact for harmonic forces. The noise is kept as `momenta` $p_n = \sqrt{m k_B T}\, \xi_n$, which
    are Maxwell-Boltzmann momenta but move nothing by themselves: they carry no dynamics.

    There is no kinetic energy to conserve. `conserved` is the potential energy and the heat that the forces have left
    in the bath, $\sum \frac12 (F_n + F_{n+1}) \cdot (r_{n+1} - r_n)$: constant up to the third order of each move.

    **Reference:** Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    friction: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("friction", "1/time; enter as `0.1 / units.fs`", self.friction)
        check_temperature(self.temperature)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        key, draw = jax.random.split(state.key)
        system, dtype = state.system, state.momenta.dtype
        mass = system.masses[:, None]
        noise = thermal_momenta(draw, system.masses, now(self.temperature, self.timestep, state))
        time = (self.timestep / self.friction).astype(dtype)
        jump = time * state.forces / mass + jnp.sqrt(0.5 * time) * (state.momenta + noise) / mass
        before = system.positions
        move = jump + state.rest
        after = before + move
        system = with_positions(system, after)
        neighbors, value, forces = refresh(energy, state.neighbors, system)
        heat = 0.5 * jnp.sum((state.forces + forces) * jump)
        return replace(
            state,
            system=system,
            momenta=noise,
            energy=value,
            forces=forces,
            neighbors=neighbors,
            rest=move - (after - before),
            key=key,
            step=state.step + 1,
            bath=Heat(state.bath.heat + heat),
        )

    def conserved(self, state: State) -> Float[Array, ""]:
        return state.energy + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return 3 * len(system.numbers)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Heat:
        return Heat(jnp.zeros((), system.positions.dtype))

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)
