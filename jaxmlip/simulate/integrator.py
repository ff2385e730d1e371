"""What every integrator is: hyper-parameters, `init` (System -> State) and `step` (State -> State, inside jit)."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy, check_system
from jaxmlip.graph.neighbors import Neighbors, allocate, grow, to_graph
from jaxmlip.simulate.constraints import degrees_of_freedom, project
from jaxmlip.simulate.schedule import extremes
from jaxmlip.simulate.state import State, evaluate, thermal_momenta, without_drift
from jaxmlip.system import System

TIME = "Å·sqrt(u/eV); enter as `0.5 * units.fs`"  # the unit of a timestep, for messages


class AbstractIntegrator(eqx.Module):
    """Equations of motion. Hyper-parameters are arrays, so that a sweep over them does not recompile.

    The energy is an argument of `step`, never a closure: new parameters do not recompile, and derivatives through
    them exist. Replicas are `jax.vmap(integrator.step, in_axes=(None, 0))`.
    """

    timestep: eqx.AbstractVar[Array]
    obeys_constraints: ClassVar[bool] = False
    """Whether `step` moves atoms by `kick` and `drift` alone, and so keeps to the constraints of a system."""

    @abc.abstractmethod
    def step(self, energy: AbstractEnergy, state: State) -> State:
        """The state one `timestep` later."""

    @abc.abstractmethod
    def conserved(self, state: State) -> Float[Array, ""]:
        """The energy that exact dynamics would keep constant [eV], thermostat and barostat included."""

    @abc.abstractmethod
    def degrees_of_freedom(self, system: System) -> int:
        """How many degrees of freedom carry kinetic energy: `constraints.degrees_of_freedom` counts them."""

    @abc.abstractmethod
    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Any:
        """The variables of thermostat and barostat at the start, `None` without; called by `init`."""

    @abc.abstractmethod
    def start_temperature(self) -> Float[Array, ""] | None:
        """Temperature [K] of the first momenta where the user gives none; `None` where one must be given."""

    def init(
        self,
        energy: AbstractEnergy,
        system: System,
        *,
        key: PRNGKeyArray,
        temperature: float | None = None,
        momenta: Float[Array, "atoms 3"] | None = None,
        skin: float = 1.0,
        capacity: int | None = None,
    ) -> State:
        """A `State` to start from (host): the neighbor list, the first forces, and momenta where none are given.

        Momenta are drawn at `temperature` [K] (default: that of the thermostat); where the dynamics conserve the total
        momentum it is removed. Drawn or given, they are projected on what the constraints of the system allow.
        `skin` [Å] and `capacity` (neighbors an atom) are those of the neighbor list.

        **Raises:** `ValueError` for elements that the energy does not know, atoms on top of each other, an energy or
        forces that are not finite, momenta that do not fit, constraints that these dynamics would break.
        """
        check_system(energy, system)
        self._check_constraints(system)
        key, draw = jax.random.split(key)
        momenta = self.momenta(system, draw, temperature) if momenta is None else _checked(momenta, system)
        momenta = project(system, momenta)
        neighbors = allocate(system, energy.cutoff or 1.0, skin=skin, capacity=capacity)
        while bool(neighbors.failed):  # a `capacity` too small for the first forces
            neighbors = grow(neighbors, system)
        check_distances(system, np.asarray(_lengths(neighbors, system)), np.asarray(neighbors.senders))
        value, forces = Compiled(evaluate)(energy, system, neighbors)
        check_finite(value, forces)
        return State(
            system=system,
            momenta=momenta,
            energy=value,
            forces=forces,
            neighbors=neighbors,
            key=key,
            step=jnp.zeros((), jnp.int32),
            rest=jnp.zeros_like(system.positions),
            bath=self.bath(energy, system, neighbors),
        )

    def momenta(self, system: System, key: PRNGKeyArray, temperature: float | None = None) -> Float[Array, "atoms 3"]:
        """Momenta to start from, drawn at `temperature` [K] (default: that of the thermostat) within constraints."""
        target = self.start_temperature() if temperature is None else check_temperature(temperature)
        if target is None:
            raise ValueError("Give `temperature` [K] to draw momenta from, or `momenta`; this integrator has neither.")
        momenta = project(system, thermal_momenta(key, system.masses, target))
        free = self.degrees_of_freedom(system) == degrees_of_freedom(system, conserves_momentum=False)
        return momenta if free else without_drift(momenta, system.masses)

    def _check_constraints(self, system: System) -> None:
        if system.constraints is not None and not self.obeys_constraints:
            raise ValueError(
                f"{type(self).__name__} would break constraints (it moves atoms or the cell by more than forces): "
                "use NVE, Langevin, NoseHoover or CSVR, or take them off with `constrain(system)`."
            )


@eqx.filter_jit
def _lengths(neighbors: Neighbors, system: System) -> Float[Array, "neighbors atoms"]:
    return to_graph(neighbors, system).lengths()


def check_positive(name: str, unit: str, value: Any) -> None:
    """Refuse what is not a positive, finite number (or goes to one that is not); traced values pass.

    **Raises:** `ValueError` with the name, the unit and what was given.
    """
    for given in extremes(value):
        if isinstance(given, Tracer):
            continue
        if not np.all(np.isfinite(given)) or not np.all(np.asarray(given) > 0):
            raise ValueError(f"`{name}` must be positive [{unit}]; got {np.asarray(given)}.")


def check_finite_target(name: str, unit: str, value: Any) -> None:
    """Refuse a target that is not finite; traced values pass.

    **Raises:** `ValueError` with the name, the unit and what was given.
    """
    for given in extremes(value):
        if not isinstance(given, Tracer) and not np.all(np.isfinite(given)):
            raise ValueError(f"`{name}` must be finite [{unit}]; got {np.asarray(given)}.")


def check_temperature(value: Any) -> Any:
    """Refuse temperatures below 0 or above 10⁶ K; traced values pass, and the value comes back.

    **Raises:** `ValueError` saying what is allowed.
    """
    for given in extremes(value):
        if isinstance(given, Tracer):
            continue
        given = np.asarray(given)
        if not np.all(np.isfinite(given)) or np.any(given < 0) or np.any(given > 1e6):
            raise ValueError(f"`temperature` must lie between 0 and 1e6 K; got {given}.")
    return value


def check_momenta(system: System) -> None:
    """Refuse a system in which nothing can move relative to the center of mass.

    **Raises:** `ValueError`, for a single atom above all.
    """
    if degrees_of_freedom(system, conserves_momentum=True) < 1:
        raise ValueError("One atom has no momentum relative to the center of mass: use `Langevin` for it.")


def check_distances(system: System, lengths: np.ndarray, senders: np.ndarray) -> None:
    """Refuse atoms closer than 0.01 Å: no energy means anything there, and forces may vanish (host).

    **Raises:** `ValueError` naming the two atoms.
    """
    if lengths.size and lengths.min() < 1e-2:
        slot, center = np.unravel_index(lengths.argmin(), lengths.shape)
        raise ValueError(
            f"Atoms {int(senders[slot, center])} and {int(center)} lie {lengths.min():.2g} Å apart: remove one, "
            "or check cell and periodicity."
        )


def check_finite(energy: Any, forces: Any) -> None:
    """Refuse a start whose energy or forces are not finite (host).

    **Raises:** `ValueError` naming the atoms with the worst forces.
    """
    forces = np.asarray(forces)
    bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
    if len(bad) or not np.isfinite(np.asarray(energy)):
        raise ValueError(
            f"The energy is {float(energy)} eV and the forces on atoms {bad[:5].tolist()} are not finite at the start: "
            "look for atoms that overlap, or relax the structure first."
        )


def _checked(momenta: Float[Array, "atoms 3"], system: System) -> Float[Array, "atoms 3"]:
    if momenta.shape != system.positions.shape or not np.all(np.isfinite(np.asarray(momenta))):
        raise ValueError(f"`momenta` must be finite, of shape {system.positions.shape}; got shape {momenta.shape}.")
    return jnp.asarray(momenta, system.positions.dtype)
