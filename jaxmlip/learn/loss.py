"""What training minimizes: weighted errors of energy, forces, stress and charges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.data import Batch
from jaxmlip.energy import AbstractEnergy, Committee, energy_forces, energy_forces_virial
from jaxmlip.energy.committee import deviation
from jaxmlip.errors import UserError
from jaxmlip.learn.charges import find_charges

_LEAST_SPREAD = 0.01  # of the scale of the labels: no committee is surer of itself


class Weights(NamedTuple):
    """Weights of the four terms; arrays inside a compiled step, so that they may change while training."""

    energy: float | Float[Array, ""]
    forces: float | Float[Array, ""]
    stress: float | Float[Array, ""]
    charges: float | Float[Array, ""] = 0.0


class Loss(eqx.Module):
    r"""The mean over frames of the weighted squares (or Huber's or Student's losses) $\rho$ of what is wrong with each:

    $$w_E\, \rho\left(\frac{\Delta E}{N}\right)
    + \frac{w_F}{3 \bar N} \sum_{i \alpha} \rho(\Delta F_{i \alpha})
    + \frac{w_\sigma}{9} \sum_{\alpha \beta} \rho\left(\frac{V}{N} \Delta \sigma_{\alpha \beta}\right)
    + \frac{w_q}{\bar N} \sum_i \rho(\Delta q_i)$$

    with every residual over `scale` (eV, eV/Å, eV: the RMS of the forces makes the loss about 1 at the start), those of
    charges over `charge_scale` [e], and $\bar N$ the mean number of atoms of a frame. Stress enters as virial per atom,
    which is as large as an energy per atom and does not care for vacuum. With squares this is the logarithm of a
    Gaussian likelihood, up to a constant: $w = 1 / \sigma^2$ for labels and a model that are good to $\sigma$, in units
    of `scale`. It is a sum over frames: what a frame is batched with, and padding, change nothing.

    Labels of which a few are far off ask for another $\rho$ than the square: `huber` is where the loss turns linear, in
    units of `scale`; `student` is the number of degrees of freedom $\nu$ of Student's t, $\rho = \nu \ln(1 + x^2/\nu)$,
    whose pull on an outlier even falls with its size.

    **Reference:** Huber, Ann. Math. Stat. 35, 73 (1964), doi:10.1214/aoms/1177703732; Lange, Little & Taylor, J. Am.
    Stat. Assoc. 84, 881 (1989), doi:10.1080/01621459.1989.10478852 (Student's t); Seitzer et al., ICLR (2022),
    arXiv:2203.09168, and Kellner & Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024),
    doi:10.1088/2632-2153/ad594a (committees that share parameters).
    """

    scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)
    huber: float | None = eqx.field(static=True, default=None)
    student: float | None = eqx.field(static=True, default=None)
    stress: bool = eqx.field(static=True, default=False)
    charges: bool = eqx.field(static=True, default=False)
    charge_scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    def __check_init__(self):
        check_tails(self.huber, self.student)

    def __call__(self, energy: AbstractEnergy, batch: Batch, weights: Weights) -> Float[Array, ""]:
        if isinstance(energy, Committee):
            return self._of_committee(energy, batch, weights)
        labels = batch.labels
        wrong = residuals(energy, batch, stress=self.stress, charges=self.charges)
        energies = jnp.sum(labels.energy_weight * self._rho(wrong.energy))
        forces = jnp.sum(labels.force_weight[:, None] * self._rho(wrong.forces))
        stress = jnp.sum(labels.stress_weight * self._rho(wrong.virial))
        charges = jnp.sum(labels.charge_weight * self._rho(wrong.charges, self.charge_scale))
        return weighted_sum((energies, forces, stress, charges), weights, batch)

    def _of_committee(self, energy: Committee, batch: Batch, weights: Weights) -> Float[Array, ""]:
        """The mean of the losses of the members, each as if it were alone; where they share parameters, that of their
        mean and spread, since alone they would all find the same last layer."""
        if _has_parameters(energy.shared):
            return self._of_mean_and_spread(energy, batch, weights)
        each = jax.vmap(lambda own: self(energy.with_own(own), batch, weights))(energy.own)
        return jnp.mean(each)

    def _of_mean_and_spread(self, energy: Committee, batch: Batch, weights: Weights) -> Float[Array, ""]:
        r"""The likelihood of labels with the mean and the variance $v$ of the members: $r^2 / v + \ln v$, each term
        times $v$ as it stands (Seitzer et al.), so that the mean learns as it does from squares."""
        if self.charges:
            raise UserError("Members that share parameters cannot learn charges yet: train a committee that does not.")
        graph, labels = batch
        differentiate = energy_forces_virial if self.stress else energy_forces
        energies, forces, *virial = jax.vmap(lambda own: differentiate(energy.with_own(own), graph))(energy.own)
        parts = [
            (weights.energy, labels.energy_weight, (energies - labels.energy[None]) * labels.inverse_atoms[None]),
            (weights.forces, labels.force_weight[:, None], forces - labels.forces[None]),
        ]
        if self.stress:
            per_atom = -virial[0] * labels.inverse_atoms[None, :, None, None] - labels.virial_per_atom[None]
            parts.append((weights.stress, labels.stress_weight, per_atom))
        total = jnp.zeros((), energies.dtype)
        for weight, each, residuals in parts:
            total = total + jnp.asarray(weight, total.dtype) * jnp.sum(each * self._spread_loss(residuals))
        return total / float(graph.systems)

    def _spread_loss(self, residuals: Float[Array, "members *n"]) -> Float[Array, "*n"]:
        """What the mean and the spread of the members lose on each label."""
        mean = jnp.mean(residuals, axis=0)
        x = residuals / self.scale.astype(residuals.dtype)
        variance = deviation(x) ** 2 + _LEAST_SPREAD**2
        now = jax.lax.stop_gradient(variance)
        return self._rho(mean) * now / variance + now * jnp.log(variance)

    def _rho(self, residual: Float[Array, "*n"], scale: Float[Array, ""] | None = None) -> Float[Array, "*n"]:
        x = residual / (self.scale if scale is None else scale).astype(residual.dtype)
        return rho(x, self.huber, self.student)


def check_tails(huber: float | None, student: float | None) -> None:
    """Refuse what is no choice of a loss.

    **Raises:** `ValueError` where a number is not positive, or both are given.
    """
    for name, value in (("huber", huber), ("student", student)):
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be positive; got {value}.")
    if huber is not None and student is not None:
        raise ValueError(f"Give `huber` or `student`, not both; got {huber} and {student}.")


class Residuals(NamedTuple):
    """Predictions minus labels: energies per atom and virials per atom [eV], forces [eV/Å], charges [e]; zero where a
    label is missing, is padding or is not asked for."""

    energy: Float[Array, "systems"]
    forces: Float[Array, "atoms 3"]
    virial: Float[Array, "systems 3 3"]
    charges: Float[Array, "atoms"]


def residuals(energy: AbstractEnergy, batch: Batch, *, stress: bool, charges: bool) -> Residuals:
    """What is wrong with the predictions for a batch."""
    graph, labels = batch
    virial, held = jnp.zeros_like(graph.cell), jnp.zeros_like(graph.positions[:, 0])
    if stress:
        energies, forces, strained = energy_forces_virial(energy, graph)
        virial = -strained * labels.inverse_atoms[:, None, None] - labels.virial_per_atom
    else:
        energies, forces = energy_forces(energy, graph)
    if charges:
        held = jnp.where(graph.atom_mask, find_charges(energy)(graph) - labels.charges, held)
    return Residuals((energies - labels.energy) * labels.inverse_atoms, forces - labels.forces, virial, held)


def weighted_sum(terms: Sequence[Float[Array, ""]], weights: Weights, batch: Batch) -> Float[Array, ""]:
    """The weighted sum of the four terms of a loss, over the number of frames that a batch has room for."""
    weighted = [jnp.asarray(w, term.dtype) * term for w, term in zip(weights, terms, strict=True)]
    return (weighted[0] + weighted[1] + weighted[2] + weighted[3]) / float(batch.graph.systems)


def rho(x: Float[Array, "*n"], huber: float | None, student: float | None) -> Float[Array, "*n"]:
    """The square of a scaled residual, or what is the same near zero and smaller far out (Huber's, Student's)."""
    if student is not None:
        return student * jnp.log1p(x * x / student)
    if huber is None:
        return x * x
    size = jnp.abs(x)
    return jnp.where(size < huber, x * x, huber * (2.0 * size - huber))


def _has_parameters(energy: AbstractEnergy) -> bool:
    return any(isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(energy))
