"""Targets of thermostats and barostats: a constant, or a pure function of time such as a ramp."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxmlip.simulate.state import State


class AbstractSchedule(eqx.Module):
    """A target that changes: give one in the place of a number for any `temperature` [K] or `pressure` [eV/Å³].

    Time is that since step 0 of the state, so that a run which is resumed goes on where it stood. The energy that an
    integrator conserves takes account of the change.
    """

    @abc.abstractmethod
    def __call__(self, time: Float[Array, ""]) -> Float[Array, ""]:
        """The target at `time` [time unit]."""

    @abc.abstractmethod
    def extremes(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Two values between which all targets lie, for checks."""


class Ramp(AbstractSchedule):
    """From `start` to `stop` at an even rate within `duration` [time unit: `50 * units.ps`], constant before and after.

    `begin` is the time at which it sets in.
    """

    start: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    stop: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    duration: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    begin: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.0)

    def __check_init__(self):
        if isinstance(self.duration, Tracer):
            return
        if not np.all(np.isfinite(self.duration)) or not np.all(np.asarray(self.duration) > 0):
            raise ValueError(f"`duration` must be positive [Å·sqrt(u/eV); `50 * units.ps`]; got {self.duration}.")

    def __call__(self, time: Float[Array, ""]) -> Float[Array, ""]:
        start, stop, duration, begin = (
            x.astype(time.dtype) for x in (self.start, self.stop, self.duration, self.begin)
        )
        return start + (stop - start) * jnp.clip((time - begin) / duration, 0.0, 1.0)

    def extremes(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return self.start, self.stop


Target = Float[Array, ""] | AbstractSchedule


def as_target(value: Any) -> Target:
    """A schedule as it is, a number as an array (so that another number does not recompile)."""
    return value if isinstance(value, AbstractSchedule) else jnp.asarray(value)


def extremes(target: Any) -> tuple:
    """Values between which a target, or a plain number, stays."""
    return target.extremes() if isinstance(target, AbstractSchedule) else (target,)


def first(target: Target) -> Float[Array, ""]:
    """The target at time 0."""
    return target(jnp.zeros((), jnp.result_type(float))) if isinstance(target, AbstractSchedule) else target


def now(target: Target, timestep: Float[Array, ""], state: State) -> Float[Array, ""]:
    """The target at the time that `state` has reached by steps of `timestep`, in its float type."""
    dtype = state.momenta.dtype
    if isinstance(target, AbstractSchedule):
        target = target(state.step.astype(dtype) * timestep.astype(dtype))
    return target.astype(dtype)
