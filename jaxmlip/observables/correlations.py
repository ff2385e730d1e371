"""Correlations in time as differentiable observables: what one moment contributes, and what a window of them makes."""

from __future__ import annotations

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces_virial
from jaxmlip.energy.charges import AbstractCharges
from jaxmlip.graph import Graph
from jaxmlip.observables.dynamics import (
    autocorrelation,
    diffusion_coefficient,
    mean_squared_displacement,
    velocity_autocorrelation,
)
from jaxmlip.observables.static import Conditions
from jaxmlip.observables.thermo import kinetic_flux

LIGHT = 2997.92458 / units.fs  # speed of light, Å/time unit


class AbstractDynamic(eqx.Module):
    """An observable that is an average over windows of dynamics: a time correlation, or something linear in it."""

    @abc.abstractmethod
    def moment(
        self, energy: AbstractEnergy, graph: Graph, momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms"]
    ) -> PyTree:
        """What one moment contributes: arrays, in the same shapes for each."""

    @abc.abstractmethod
    def reduce(self, series: PyTree, interval: Float[Array, ""], conditions: Conditions) -> PyTree:
        """The observable from the moments of one window (leading axis), `interval` apart; its mean is over windows."""

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        """Refuse an energy that lacks what is asked for, and windows with too few `moments` (host)."""


class VelocityAutocorrelation(AbstractDynamic):
    r"""$\langle v_i(0) \cdot v_i(t) \rangle$ [Å²/time²] for `lags` from 0, over atoms and all origins in the window.

    `lags` counts moments; `None` takes all. `element` (atomic number) chooses atoms.
    """

    lags: int | None = eqx.field(static=True, default=None)
    element: int | None = eqx.field(static=True, default=None)

    def moment(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> Float[Array, "atoms 3"]:
        return _chosen(momenta / _filled(masses)[:, None], graph, self.element)

    def reduce(self, series: Array, interval: Array, conditions: Conditions) -> Float[Array, "lags"]:
        return velocity_autocorrelation(series)[: self.lags]

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        _check_lags(self.lags, moments)


class Diffusion(VelocityAutocorrelation):
    r"""Self-diffusion coefficient by Green and Kubo, $D(t) = \frac{1}{3} \int_0^t \langle v(0) \cdot v(t') \rangle dt'$
    [Å²/time].

    `running` gives it for all lags, otherwise for the last.
    """

    running: bool = eqx.field(static=True, default=False)

    def reduce(self, series: Array, interval: Array, conditions: Conditions) -> Float[Array, "*lags"]:
        curve = running_integral(velocity_autocorrelation(series)[: self.lags], interval) / 3.0
        return curve if self.running else curve[-1]


class EinsteinDiffusion(AbstractDynamic):
    r"""Self-diffusion coefficient from the slope of the mean squared displacement between the lags `start` and `stop`
    [Å²/time]."""

    start: int = eqx.field(static=True)
    stop: int = eqx.field(static=True)
    element: int | None = eqx.field(static=True, default=None)

    def moment(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> Float[Array, "atoms 3"]:
        return _chosen(graph.positions, graph, self.element)

    def reduce(self, series: Array, interval: Array, conditions: Conditions) -> Float[Array, ""]:
        return diffusion_coefficient(mean_squared_displacement(series), interval, start=self.start, stop=self.stop)

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        _check_lags(self.stop, moments)
        if not 0 <= self.start < self.stop - 1:
            raise ValueError(f"Lags must satisfy 0 <= start < stop - 1; got {self.start} and {self.stop}.")


class PowerSpectrum(AbstractDynamic):
    r"""Vibrational density of states [time] at `frequencies` [1/time unit; enter as `5.0 * units.THz`].

    $g(\nu) = \frac{4}{N k_B T} \int_0^\tau w(t) \sum_i m_i \langle v_i(0) \cdot v_i(t) \rangle \cos(2 \pi \nu t) dt$,
    whose integral over $\nu$ is 3. The window $w = \cos^2(\pi t / 2 \tau)$ makes lines about $1 / \tau$ wide, $\tau$
    being the largest lag.

    **Reference:** Dickey & Paskin, Phys. Rev. 188, 1407 (1969), doi:10.1103/PhysRev.188.1407.
    """

    frequencies: Float[Array, "frequencies"]
    lags: int | None = eqx.field(static=True, default=None)
    element: int | None = eqx.field(static=True, default=None)

    def moment(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> Float[Array, "atoms 3"]:
        return _chosen(momenta / jnp.sqrt(_filled(masses))[:, None], graph, self.element)

    def reduce(self, series: Array, interval: Array, conditions: Conditions) -> Float[Array, "frequencies"]:
        curve = velocity_autocorrelation(series)[: self.lags]
        return cosine_transform(curve, interval, self.frequencies) * (4.0 / conditions.kT.astype(curve.dtype))

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        _check_lags(self.lags, moments)


class InfraredSpectrum(AbstractDynamic):
    r"""Refractive index times absorption coefficient [1/Å] at `frequencies` [1/time unit], from the charges of a model.

    $n \alpha(\nu) = \frac{4 \pi}{3 V c k_B T} \frac{e^2}{4 \pi \epsilon_0} \int_0^\tau w(t) \langle J(0) \cdot J(t)
    \rangle \cos(2 \pi \nu t) dt$ with $J = \sum_i q_i v_i$: classical, with the harmonic quantum correction. Charges
    that flow between atoms as these move are not seen, nor electronic polarization: lines are right, heights are like
    those of the charges. w as for `PowerSpectrum`.

    **Reference:** McQuarrie, Statistical Mechanics, chapter 21; Ramírez et al., J. Chem. Phys. 121, 3973 (2004),
    doi:10.1063/1.1774986 (quantum corrections).
    """

    frequencies: Float[Array, "frequencies"]
    lags: int | None = eqx.field(static=True, default=None)

    def moment(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> dict[str, Array]:
        charges = model_charges(energy)(graph).astype(momenta.dtype)
        charges = jnp.where(graph.atom_mask, charges, jnp.zeros_like(charges))
        current = jnp.sum(charges[:, None] * momenta / _filled(masses)[:, None], axis=0)
        return {"current": current, "volume": graph.volume()[0]}

    def reduce(self, series: dict[str, Array], interval: Array, conditions: Conditions) -> Float[Array, "frequencies"]:
        curve = autocorrelation(series["current"][:, None])[: self.lags, 0]
        factor = 4.0 * math.pi * units.coulomb / (3.0 * LIGHT)
        scale = factor / (series["volume"][0] * conditions.kT.astype(curve.dtype))
        return cosine_transform(curve, interval, self.frequencies) * scale

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        model_charges(energy)
        _check_lags(self.lags, moments)


class Viscosity(AbstractDynamic):
    r"""Shear viscosity by Green and Kubo [eV·time/Å³; leave by dividing by `units.Pa * 1e12 * units.ps`].

    $\eta(t) = \frac{V}{10 k_B T} \int_0^t \sum_{ab} \langle P_{ab}(0) P_{ab}(t') \rangle dt'$ with the symmetric
    traceless part of the pressure tensor. `running` gives it for all lags, otherwise for the last.

    **Reference:** Daivis & Evans, J. Chem. Phys. 100, 541 (1994), doi:10.1063/1.466970.
    """

    lags: int | None = eqx.field(static=True, default=None)
    running: bool = eqx.field(static=True, default=False)

    def moment(self, energy: AbstractEnergy, graph: Graph, momenta: Array, masses: Array) -> dict[str, Array]:
        virial = energy_forces_virial(energy, graph)[2][0].astype(momenta.dtype)
        volume = graph.volume()[0]
        pressure = (kinetic_flux(momenta, _filled(masses)) + virial) / volume
        traceless = pressure - jnp.trace(pressure) / 3.0 * jnp.eye(3, dtype=pressure.dtype)
        return {"pressure": traceless, "volume": volume}

    def reduce(self, series: dict[str, Array], interval: Array, conditions: Conditions) -> Float[Array, "*lags"]:
        curve = jnp.sum(autocorrelation(series["pressure"])[: self.lags], axis=1)
        scale = series["volume"][0] / (10.0 * conditions.kT.astype(curve.dtype))
        curve = running_integral(curve, interval) * scale
        return curve if self.running else curve[-1]

    def check(self, energy: AbstractEnergy, moments: int) -> None:
        _check_lags(self.lags, moments)


def running_integral(values: Float[Array, "lags"], interval: Float[Array, ""]) -> Float[Array, "lags"]:
    """$\\int_0^t$ of values at equal lags, by the trapezoidal rule; differentiable."""
    steps = 0.5 * (values[1:] + values[:-1]) * interval.astype(values.dtype)
    return jnp.concatenate([jnp.zeros_like(values[:1]), jnp.cumsum(steps)])


def cosine_transform(
    values: Float[Array, "lags"], interval: Float[Array, ""], frequencies: Float[Array, "frequencies"]
) -> Float[Array, "frequencies"]:
    r"""$\int_0^\tau w(t) C(t) \cos(2 \pi \nu t) dt$ with $w = \cos^2(\pi t / 2 \tau)$, by the trapezoidal rule."""
    lags = jnp.arange(len(values)).astype(values.dtype)
    ends = jnp.where(lags == 0.0, 0.5, 1.0).astype(values.dtype)  # w vanishes at the other end
    weights = ends * jnp.cos(0.5 * jnp.pi * lags / (len(values) - 1)) ** 2
    phases = 2.0 * jnp.pi * frequencies.astype(values.dtype)[:, None] * (lags * interval.astype(values.dtype))[None, :]
    return jnp.sum(jnp.cos(phases) * (weights * values)[None, :], axis=1) * interval.astype(values.dtype)


def model_charges(energy: AbstractEnergy) -> AbstractCharges:
    """The charges that an energy, or a part of it, computes with.

    **Raises:** `ValueError` where there are none, or several.
    """
    found: list[AbstractCharges] = []

    def visit(part: Any) -> bool:
        if isinstance(part, AbstractCharges):
            found.append(part)
            return True
        return False

    jax.tree.leaves(energy, is_leaf=visit)
    if len(found) != 1:
        what = "no charges" if not found else f"{len(found)} sets of charges"
        raise ValueError(
            f"An infrared spectrum needs the charges of the energy, and {type(energy).__name__} has {what}: use an "
            "energy with one long-range term, such as `model + Ewald(charges, plan)`."
        )
    return found[0]


def _chosen(values: Float[Array, "atoms 3"], graph: Graph, element: int | None) -> Float[Array, "atoms 3"]:
    """Values of the chosen atoms, zero for others, so scaled that a mean of squares over all atoms is theirs."""
    chosen = graph.atom_mask if element is None else graph.numbers == element
    count = jnp.sum(chosen.astype(values.dtype))
    return jnp.where(chosen[:, None], values * jnp.sqrt(len(values) / count), jnp.zeros_like(values))


def _filled(masses: Float[Array, "atoms"]) -> Float[Array, "atoms"]:
    """Masses, with 1 for padding."""
    return jnp.where(masses > 0, masses, jnp.ones_like(masses))


def _check_lags(lags: int | None, moments: int) -> None:
    least = 2 if lags is None else lags
    if least < 2 or least > moments:
        raise ValueError(
            f"`lags` must lie between 2 and the {moments} moments of a window; got {lags}: make the windows longer, or "
            "keep moments more often."
        )


def check_decay(curve: Float[np.ndarray, "lags"], stderr: Float[np.ndarray, "lags"], most: float = 0.1) -> None:
    """Refuse an integral over a correlation that has not decayed at its last lags (host).

    **Raises:** `ValueError` where the last tenth of the lags is above `most` times the start, by two standard errors.
    """
    last = slice(-max(1, len(curve) // 10), None)
    left = float(np.mean(np.abs(curve[last]) - 2.0 * stderr[last]) / abs(float(curve[0])))
    if left > most:
        raise ValueError(
            f"The correlation is still {left:.2f} of its start at the last lag: the window is shorter than the "
            "correlation time, and the integral is not converged. Use more `steps`."
        )
