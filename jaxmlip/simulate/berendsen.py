"""Weak coupling to a bath: quick to equilibrate, but no ensemble, so no fluctuation can be trusted."""

import warnings
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import Neighbors, update
from jaxmlip.observables.thermo import kinetic_energy, kinetic_flux
from jaxmlip.simulate.csvr import PERIOD, AbstractRescaling
from jaxmlip.simulate.integrator import (
    TIME,
    check_finite_target,
    check_momenta,
    check_positive,
    check_temperature,
)
from jaxmlip.simulate.nve import drift, first_kick, kick
from jaxmlip.simulate.nvt import Heat, middle_step
from jaxmlip.simulate.schedule import Target, as_target, now
from jaxmlip.simulate.state import State, evaluate_virial, replace, with_cell
from jaxmlip.simulate.strain import check_periodic, check_shape, exponential, restrict
from jaxmlip.system import System


class Berendsen(AbstractRescaling):
    r"""Berendsen's thermostat: the kinetic energy relaxes to its mean with `period` and hardly fluctuates.

    Warns that it samples no ensemble: use `CSVR`, which differs by the noise that makes it right. `timestep` and
    `period` [time unit], `temperature` [K] (or a schedule).

    **Reference:** Berendsen, Postma, van Gunsteren, DiNola & Haak, J. Chem. Phys. 81, 3684 (1984),
    doi:10.1063/1.448118.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("period", PERIOD, self.period)
        check_temperature(self.temperature)
        _warn("Berendsen's thermostat", "CSVR")

    def step(self, energy: AbstractEnergy, state: State) -> State:
        kT = units.kB * now(self.temperature, self.timestep, state)
        decay = (self.timestep / self.period).astype(kT.dtype)

        def bath(momenta):
            return relaxed(momenta, state.system.masses, self.degrees_of_freedom(state.system), kT, decay)

        state, heat = middle_step(energy, state, self.timestep, bath)
        return replace(state, bath=Heat(state.bath.heat + heat))


class Press(eqx.Module):
    """The `virial` [eV] where the atoms are, and the `heat` [eV] given to thermostat and barostat."""

    virial: Float[Array, "3 3"]
    heat: Float[Array, ""]


class BerendsenNPT(AbstractRescaling):
    r"""Berendsen's thermostat and barostat: temperature and pressure relax to their targets and hardly fluctuate.

    Warns that it samples no ensemble: use `NPT`, which differs by the noise, or `MTK`. `timestep`, `period` of the
    thermostat and `barostat_period` [time unit]; `temperature` [K] and `pressure` [eV/Å³: `1 * units.GPa`], of which
    each may be a schedule; `compressibility` [Å³/eV] and `shape` as in `NPT`. Each step stretches positions and cell by
    $e^{S}$, $S = \frac{\kappa t}{3 \tau_P} (\Pi - P)$ restricted to `shape`, in the middle of its drift.

    **Reference:** as `Berendsen`.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    pressure: Target = eqx.field(converter=as_target)
    barostat_period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    compressibility: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.02 / units.GPa)
    shape: str = eqx.field(static=True, default="isotropic")
    obeys_constraints: ClassVar[bool] = False

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("period", PERIOD, self.period)
        check_positive("barostat_period", PERIOD, self.barostat_period)
        check_positive("compressibility", "Å³/eV; enter as `0.02 / units.GPa`", self.compressibility)
        check_temperature(self.temperature)
        check_finite_target("pressure", "eV/Å³; enter as `1 * units.GPa`", self.pressure)
        check_shape(self.shape)
        _warn("Berendsen's barostat", "NPT or MTK")

    def step(self, energy: AbstractEnergy, state: State) -> State:
        dt = self.timestep.astype(state.momenta.dtype)
        kT = units.kB * now(self.temperature, self.timestep, state)
        decay = (self.timestep / self.period).astype(kT.dtype)
        strain, virial = self._strain(state), state.bath.virial
        state = drift(first_kick(state, dt), 0.5 * dt)
        dof = self.degrees_of_freedom(state.system)
        momenta, heat = relaxed(state.momenta, state.system.masses, dof, kT, decay)
        grown = exponential(strain)
        system = with_cell(state.system, product(state.system.positions, grown), product(state.system.cell, grown))
        state = drift(replace(state, system=system, momenta=momenta), 0.5 * dt)
        neighbors = update(state.neighbors, state.system)
        value, forces, after = evaluate_virial(energy, state.system, neighbors)
        work = 0.5 * jnp.sum((virial + after) * strain)
        return replace(
            state,
            momenta=kick(state.momenta, forces, 0.5 * dt),
            energy=value,
            forces=forces,
            neighbors=neighbors,
            step=state.step + 1,
            bath=Press(after, state.bath.heat + heat + work),
        )

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Press:
        check_periodic(system.pbc)
        check_momenta(system)
        _, _, virial = Compiled(evaluate_virial)(energy, system, neighbors)
        return Press(virial, jnp.zeros((), virial.dtype))

    def _strain(self, state: State) -> Float[Array, "3 3"]:
        """The logarithm of the stretch of the next step."""
        p, system = state.momenta, state.system
        flux = kinetic_flux(p, system.masses) + state.bath.virial
        pressure = flux / system.volume() - now(self.pressure, self.timestep, state) * jnp.eye(3, dtype=p.dtype)
        rate = (self.compressibility * self.timestep / (3.0 * self.barostat_period)).astype(p.dtype)
        return restrict(rate * pressure, self.shape)


def relaxed(
    momenta: Float[Array, "atoms 3"],
    masses: Float[Array, "atoms"],
    dof: int,
    kT: Float[Array, ""],
    decay: Float[Array, ""],
) -> tuple[Float[Array, "atoms 3"], Float[Array, ""]]:
    r"""Momenta whose kinetic energy went to $ar K + (K - ar K) e^{-c}$, $ar K = f k_B T / 2$ and $c$ = `decay`,
    and the heat [eV] that they have given off. Momenta at rest stay at rest."""
    kinetic = kinetic_energy(momenta, masses)
    after = kinetic - (0.5 * dof * kT - kinetic) * jnp.expm1(-decay)
    moving = kinetic > 0
    factor = jnp.where(moving, jnp.sqrt(after / jnp.where(moving, kinetic, 1.0)), 1.0)
    return factor * momenta, (1.0 - factor**2) * kinetic


def _warn(what: str, instead: str) -> None:
    warnings.warn(
        f"{what} samples no ensemble: averages are biased and fluctuations wrong. Equilibrate with it, then take "
        f"{instead}.",
        UserWarning,
        stacklevel=4,
    )
