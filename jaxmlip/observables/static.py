"""Ensemble averages: what one frame contributes to each, and how the frames make one number."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmlip import units
from jaxmlip.elements import MASSES
from jaxmlip.energy import AbstractEnergy, energy_forces_virial, system_energies
from jaxmlip.graph import Graph


class Conditions(eqx.Module):
    """What an ensemble is held at: `temperature` [K] and `pressure` [eV/Å³], `None` where the cell is fixed."""

    temperature: Float[Array, ""]
    pressure: Float[Array, ""] | None = None

    @property
    def kT(self) -> Float[Array, ""]:
        """[eV]"""
        return units.kB * self.temperature


class AbstractStatic(eqx.Module):
    """An observable that is a smooth function of averages over configurations.

    Momenta are not needed: their averages are known. `cutoff` [Å] is how far `frame` looks, `None` for no farther than
    the energy.
    """

    cutoff: eqx.AbstractVar[float | None]

    @abc.abstractmethod
    def frame(self, energy: AbstractEnergy, graph: Graph) -> PyTree:
        """What one configuration contributes: arrays, in the same shapes for each."""

    def source(self) -> AbstractStatic:
        """What gives `frame`: it is computed once for all observables that have the same."""
        return self

    def reduce(self, values: PyTree, weights: Float[Array, "frames"], conditions: Conditions) -> PyTree:
        """The observable from the values of all frames (leading axis) and their weights, whose sum is 1."""
        return weighted_mean(values, weights)


def weighted_mean(values: PyTree, weights: Float[Array, "frames"]) -> PyTree:
    """Mean over the leading axis of each leaf."""
    return jax.tree.map(lambda x: jnp.tensordot(weights.astype(x.dtype), x, axes=1), values)


def weighted_covariance(
    a: Float[Array, "frames"], b: Float[Array, "frames"], weights: Float[Array, "frames"]
) -> Float[Array, ""]:
    """Covariance of two quantities; each is centered first, so nothing cancels."""
    weights = weights.astype(a.dtype)
    return jnp.sum(weights * (a - jnp.sum(weights * a)) * (b - jnp.sum(weights * b)))


class PressureTensor(AbstractStatic):
    r"""$\langle N k_B T / V + W / V \rangle$ [eV/Å³], compression positive, with the virial $W$ of the energy."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> dict[str, Array]:
        _, _, virial = energy_forces_virial(energy, graph)
        volume = graph.volume()[0]
        return {"density": _atoms(graph) / volume, "virial": virial[0].astype(volume.dtype) / volume}

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, "3 3"]:
        mean = weighted_mean(values, weights)
        dtype = mean["virial"].dtype
        return mean["virial"] + conditions.kT.astype(dtype) * mean["density"] * jnp.eye(3, dtype=dtype)


class Stress(PressureTensor):
    """Minus the pressure tensor [eV/Å³]: tension positive, motion of the atoms included."""

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, "3 3"]:
        return -PressureTensor.reduce(self, values, weights, conditions)


class Pressure(AbstractStatic):
    r"""$\langle N k_B T / V + \mathrm{tr} W / 3 V \rangle$ [eV/Å³]."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> dict[str, Array]:
        volume = graph.volume()[0]

        def strained(strain):
            eye = strain * jnp.eye(3, dtype=volume.dtype)
            return system_energies(energy, graph.strained(eye[None]))[0].astype(volume.dtype)

        slope = jax.grad(strained)(jnp.zeros_like(volume))
        return {"density": _atoms(graph) / volume, "virial": -slope / (3.0 * volume)}

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        mean = weighted_mean(values, weights)
        return mean["virial"] + conditions.kT.astype(mean["virial"].dtype) * mean["density"]


class PotentialEnergy(AbstractStatic):
    """Mean potential energy of the system [eV]."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        return system_energies(energy, graph)[0]


class Density(AbstractStatic):
    """Mass density [u/Å³; leave by dividing by `units.g_per_cm3`], with the standard atomic weights."""

    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        weights = jnp.asarray(MASSES, graph.positions.dtype)[graph.numbers]
        return graph.sum_atoms(weights)[0] / graph.volume()[0]


class LogVolume(AbstractStatic):
    """The logarithm of the mean volume [Å³], times `factor`: differences between temperatures are expansions."""

    factor: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)
    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        return graph.volume()[0]

    def reduce(
        self, values: Float[Array, "frames"], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        found = jnp.log(weighted_mean(values, weights))
        return self.factor.astype(found.dtype) * found


class LatticeConstant(AbstractStatic):
    """The edge [Å] of a cubic cell of `atoms` atoms (8 in diamond, 4 in fcc, 2 in bcc) of the mean volume of each."""

    atoms: int = eqx.field(static=True, kw_only=True)
    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> Float[Array, ""]:
        return graph.volume()[0] / _atoms(graph)

    def reduce(
        self, values: Float[Array, "frames"], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        return jnp.cbrt(self.atoms * weighted_mean(values, weights))


class Fluctuations(AbstractStatic):
    """What follows from energies and volumes of the frames; `origin` [eV/atom] is taken off each energy first, which
    float32 needs where energies are large."""

    origin: float = eqx.field(static=True, default=0.0)
    cutoff: float | None = eqx.field(static=True, default=None)

    def frame(self, energy: AbstractEnergy, graph: Graph) -> dict[str, Array]:
        found = graph.sum_atoms(energy(graph) - self.origin)[0]
        return {"energy": found, "volume": graph.volume()[0], "atoms": _atoms(graph)}


class Enthalpy(Fluctuations):
    r"""$\langle U \rangle + \frac32 N k_B T + P \langle V \rangle$ [eV]; the energy at constant volume."""

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        mean = weighted_mean(_enthalpies(values, conditions), weights)
        kT = conditions.kT.astype(mean.dtype)
        return mean + values["atoms"][0] * (self.origin + 1.5 * kT)


class HeatCapacity(Fluctuations):
    r"""Heat capacity of the system [eV/K], momenta included:
    $\frac32 N k_B + \mathrm{var}(H) / k_B T^2$ with $H = U$ at constant volume, $H = U + P V$ at constant pressure."""

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        found = _enthalpies(values, conditions)
        spread = weighted_covariance(found, found, weights)
        kelvin = conditions.temperature.astype(spread.dtype)
        return units.kB * 1.5 * values["atoms"][0] + spread / (units.kB * kelvin**2)


class BulkModulus(Fluctuations):
    r"""Isothermal bulk modulus $k_B T \langle V \rangle / \mathrm{var}(V)$ [eV/Å³] at constant pressure."""

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        _check_pressure(self, conditions)
        volume = values["volume"]
        spread = weighted_covariance(volume, volume, weights)
        return conditions.kT.astype(spread.dtype) * weighted_mean(volume, weights) / spread


class ThermalExpansion(Fluctuations):
    r"""$\frac{1}{V} \frac{dV}{dT} = \mathrm{cov}(V, U + P V) / k_B T^2 \langle V \rangle$ [1/K] at given pressure."""

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        _check_pressure(self, conditions)
        volume = values["volume"]
        both = weighted_covariance(volume, _enthalpies(values, conditions), weights)
        kelvin = conditions.temperature.astype(both.dtype)
        return both / (units.kB * kelvin**2 * weighted_mean(volume, weights))


def _enthalpies(values: dict[str, Array], conditions: Conditions) -> Float[Array, "frames"]:
    """U + P V of each frame [eV], less a constant."""
    if conditions.pressure is None:
        return values["energy"]
    return values["energy"] + conditions.pressure.astype(values["volume"].dtype) * values["volume"]


def _check_pressure(observable: AbstractStatic, conditions: Conditions) -> None:
    if conditions.pressure is None:
        raise ValueError(
            f"{type(observable).__name__} is read off the fluctuations of the volume: give the state point a "
            "`pressure`, so that the cell can change."
        )


def _atoms(graph: Graph) -> Float[Array, ""]:
    return graph.sum_atoms(jnp.ones_like(graph.positions[:, 0]))[0]
