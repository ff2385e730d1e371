"""What training minimizes: weighted errors of energy, forces, stress and charges."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.data import Batch
from jaxmlip.energy import AbstractEnergy, Committee, energy_forces, energy_forces_virial
from jaxmlip.learn.charges import find_charges


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
    Stat. Assoc. 84, 881 (1989), doi:10.1080/01621459.1989.10478852 (Student's t).
    """

    scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)
    huber: float | None = eqx.field(static=True, default=None)
    student: float | None = eqx.field(static=True, default=None)
    stress: bool = eqx.field(static=True, default=False)
    charges: bool = eqx.field(static=True, default=False)
    charge_scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    def __check_init__(self):
        if self.huber is not None and self.huber <= 0:
            raise ValueError(f"`huber` must be positive; got {self.huber}.")
        if self.student is not None and self.student <= 0:
            raise ValueError(f"`student` must be positive; got {self.student}.")
        if self.huber is not None and self.student is not None:
            raise ValueError(f"Give `huber` or `student`, not both; got {self.huber} and {self.student}.")

    def __call__(self, energy: AbstractEnergy, batch: Batch, weights: Weights) -> Float[Array, ""]:
        if isinstance(energy, Committee):
            return self._of_committee(energy, batch, weights)
        graph, labels = batch
        if self.stress:
            energies, forces, virial = energy_forces_virial(energy, graph)
            per_atom = -virial * labels.inverse_atoms[:, None, None] - labels.virial_per_atom
            stress = jnp.sum(labels.stress_weight * self._rho(per_atom))
        else:
            energies, forces = energy_forces(energy, graph)
            stress = jnp.zeros((), energies.dtype)
        charges = jnp.zeros((), energies.dtype)
        if self.charges:
            wrong = self._rho(find_charges(energy)(graph) - labels.charges, self.charge_scale)
            charges = jnp.sum(labels.charge_weight * jnp.where(graph.atom_mask, wrong, jnp.zeros_like(wrong)))
        energy_term = jnp.sum(labels.energy_weight * self._rho((energies - labels.energy) * labels.inverse_atoms))
        force_term = jnp.sum(labels.force_weight[:, None] * self._rho(forces - labels.forces))
        terms = (energy_term, force_term, stress, charges)
        weighted = [jnp.asarray(w, energies.dtype) * term for w, term in zip(weights, terms, strict=True)]
        return (weighted[0] + weighted[1] + weighted[2] + weighted[3]) / float(graph.systems)

    def _of_committee(self, energy: Committee, batch: Batch, weights: Weights) -> Float[Array, ""]:
        """The mean of the losses of the members, each as if it were alone."""
        each = jax.vmap(lambda own: self(energy.with_own(own), batch, weights))(energy.own)
        return jnp.mean(each)

    def _rho(self, residual: Float[Array, "*n"], scale: Float[Array, ""] | None = None) -> Float[Array, "*n"]:
        """The square of a scaled residual, or what is the same near zero and smaller far out."""
        x = residual / (self.scale if scale is None else scale).astype(residual.dtype)
        if self.student is not None:
            return self.student * jnp.log1p(x * x / self.student)
        if self.huber is None:
            return x * x
        size = jnp.abs(x)
        return jnp.where(size < self.huber, x * x, self.huber * (2.0 * size - self.huber))
