r"""Training as maximum likelihood: noise that is given, learned, or predicted for each atom weighs the labels.

Every label is a prediction plus noise of standard deviation $\sigma$. The loss is minus the logarithm of their
likelihood, $\frac{1}{2} \rho(\Delta / \sigma) + \ln \sigma$ for each, so that weights are inverse variances; where
the noise is learned, $\sigma$ follows the root mean square of the residuals.

What a model cannot describe is no noise: it is shared by all forces of a frame, of which there are hundreds, and the
likelihood alone would give away the one energy for them. One dial, the `balance` b, counts each kind of label as if
repeated: energies $(3 \bar N)^b$ times, virials $(3 \bar N / 6)^b$ times. 0 is the plain likelihood; at 1 the energy,
forces and virial of a frame count the same. It is the dial of `jaxmlip.learn.linear`.

**Reference:** Nix & Weigend, Proc. IEEE Int. Conf. Neural Networks (1994) (predicted noise); Kendall, Gal & Cipolla,
CVPR (2018), arXiv:1705.07115 (learned noise as weights of several tasks); Seitzer et al., ICLR (2022),
arXiv:2203.09168 ($\beta$).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.compilation import Compiled
from jaxmlip.data import Batch, Dataset, Loader
from jaxmlip.energy import AbstractEnergy, LabelNoise, Noise, Sum
from jaxmlip.energy.committee import has_committee
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.charges import parts
from jaxmlip.learn.evaluate import ahead, check_dataset
from jaxmlip.learn.loss import Weights, check_tails, residuals, rho, weighted_sum
from jaxmlip.learn.settings import TrainSettings
from jaxmlip.models.ace import ACE, ACEConfig

KINDS = ("energy", "force", "virial")  # eV/atom, eV/Å, eV/atom
_BALANCE = 0.5
_BETA = 0.5
_HEAD = {"degree": 2, "channels": 8, "hidden": 16, "products": False, "energy_scale": 0.3}


class Likelihood(eqx.Module):
    r"""Minus the logarithm of the likelihood of a batch's labels, for an energy with a `LabelNoise` among its terms.

    Normalized as `Loss` is: the mean over frames of a force component's share, energies and virials times their
    `counts`. `huber` and `student` are in units of the noise; with `student` the noise is the scale of Student's t.
    Where the noise differs from atom to atom, $\beta$ multiplies each force's share by $e^{2 \beta g}$ (which has no
    derivative): 0 is the likelihood, at 1 forces train the energy as if all had the same noise; between, noisy atoms
    are not given up before they are learned. Charges enter as half their squares over `charge_scale`.
    """

    counts: Float[Array, "2"] = eqx.field(converter=jnp.asarray, default=(1.0, 1.0))
    huber: float | None = eqx.field(static=True, default=None)
    student: float | None = eqx.field(static=True, default=None)
    beta: float = eqx.field(static=True, default=0.0)
    stress: bool = eqx.field(static=True, default=False)
    charges: bool = eqx.field(static=True, default=False)
    charge_scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    def __check_init__(self):
        check_tails(self.huber, self.student)

    def __call__(self, energy: AbstractEnergy, batch: Batch, weights: Weights) -> Float[Array, ""]:
        labels = batch.labels
        wrong = residuals(energy, batch, stress=self.stress, charges=self.charges)
        known = find_noise(energy)
        factors = known.factors(batch.graph)
        noise = known.of(batch.graph, _eased(factors, labels.force_weight))
        energies = jnp.sum(labels.energy_weight * self._share(wrong.energy, noise.energy))
        shares = self._share(wrong.forces, noise.forces[:, None])
        if self.beta > 0.0:
            shares = shares * jax.lax.stop_gradient(jnp.exp(2.0 * self.beta * factors))[:, None]
        forces = jnp.sum(labels.force_weight[:, None] * shares)
        stress = jnp.sum(labels.stress_weight * self._share(wrong.virial, noise.virial[:, None, None]))
        held = wrong.charges / self.charge_scale.astype(wrong.charges.dtype)
        charges = 0.5 * jnp.sum(labels.charge_weight * held * held)
        count = self.counts.astype(energies.dtype)
        return weighted_sum((count[0] * energies, forces, count[1] * stress, charges), weights, batch)

    def _share(self, residual: Float[Array, "*n"], sigma: Float[Array, "*#n"]) -> Float[Array, "*n"]:
        """Minus the logarithm of the likelihood of each label, up to a constant."""
        half = 0.5 if self.student is None else 0.5 * (1.0 + 1.0 / self.student)
        return half * rho(residual / sigma, self.huber, self.student) + jnp.log(sigma)


def _eased(factors: Float[Array, "atoms"], weights: Float[Array, "atoms"]) -> Float[Array, "atoms"]:
    """The same factors without a derivative by their mean over the batch, which is the business of the level.

    As residuals fall at the beginning, a head would else learn to follow them, most where its features are largest, and
    have to forget that later (rank correlation with planted noise -0.8 in place of 0.99).
    """
    mean = jnp.sum(weights * factors) / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    return factors - (mean - jax.lax.stop_gradient(mean))


def counts(balance: float, atoms: float) -> tuple[float, float]:
    """How much the energy and the virial of a frame count beside its forces, for a mean number of `atoms`."""
    return (3.0 * atoms) ** (balance - 1.0), (3.0 * atoms / 6.0) ** (balance - 1.0)


def make_likelihood(settings: TrainSettings, loader: Loader, *, charge_scale: float = 1.0) -> Likelihood:
    """The loss that the settings ask for, on the frames of a loader."""
    beta = _BETA if settings.noise_beta is None else settings.noise_beta
    atoms = sum(len(frame.numbers) for frame in loader.frames) / len(loader.frames)
    return Likelihood(
        counts=jnp.asarray(counts(_BALANCE if settings.balance is None else settings.balance, atoms)),
        huber=settings.huber,
        student=settings.student,
        beta=beta if settings.noise == "predicted" else 0.0,
        stress=settings.stress_weight > 0,
        charges=settings.charge_weight > 0,
        charge_scale=jnp.asarray(charge_scale),
    )


def with_noise(
    energy: AbstractEnergy, settings: TrainSettings, sigma: Sequence[float] = (1.0, 1.0, 1.0)
) -> AbstractEnergy:
    """The energy with the noise that the settings ask for among its terms, and with no other.

    Noise that is learned begins with `sigma`; what the energy has already goes on from where it is, if it is of the
    kind that is asked for. The head of noise that is predicted is a small `ACE`.

    **Raises:** `UserError` for a committee, and where noise is to be predicted for an energy that does not say which
    elements it knows.
    """
    before = parts(energy, (LabelNoise,))
    bare = without_noise(energy)
    if settings.noise is None:
        return bare
    if has_committee(bare):
        raise UserError(
            "Noise is learned by one model at a time: train the members one by one, with different seeds, and make the "
            "committee of them (`Committee.of`)."
        )
    if settings.noise == "given":
        given = (settings.energy_noise, settings.force_noise, settings.virial_noise)
        return bare + LabelNoise([1.0 if x is None else x for x in given], fixed=True)
    learned = [known for known in before if isinstance(known.levels, jax.Array)]
    if learned and (learned[0].head is not None) == (settings.noise == "predicted"):
        return bare + learned[0]
    head = _head(bare, settings.seed) if settings.noise == "predicted" else None
    return bare + LabelNoise(sigma, head=head)


def _head(energy: AbstractEnergy, seed: int) -> ACE:
    """A small model that looks as far as the energy does."""
    if energy.elements is None:
        raise UserError(
            "The noise cannot be predicted: the energy does not name its elements, so no head can be made for it. Give "
            "one yourself: `energy + LabelNoise(head=...)`."
        )
    return ACE(ACEConfig(energy.elements, energy.cutoff, **_HEAD), key=jax.random.key(seed + 2))


def without_noise(energy: AbstractEnergy) -> AbstractEnergy:
    """The energy alone."""
    if not isinstance(energy, Sum):
        return energy
    terms = tuple(term for term in energy.terms if not isinstance(term, LabelNoise))
    return terms[0] if len(terms) == 1 else Sum(terms)


def find_noise(energy: AbstractEnergy) -> LabelNoise:
    """What an energy says of the noise of its labels.

    **Raises:** `UserError` where it says nothing.
    """
    found = parts(energy, (LabelNoise,))
    if len(found) != 1:
        raise UserError(
            f"The energy has {len(found)} terms that say how noisy its labels are; one is needed. Train with `noise = "
            '"learned"` or `"predicted"`, or add `LabelNoise((energy, force, virial))`.'
        )
    return found[0]


def read_noise(energy: AbstractEnergy) -> dict[str, float]:
    """The noise of each kind of label that an energy was trained with: `energy` and `virial` per atom [eV], `force`
    [eV/Å]. With a head these are the factors in front of it; `predict_noise` has the noise of each atom.

    **Raises:** `UserError` where the energy says nothing of noise.
    """
    return dict(zip(KINDS, np.asarray(find_noise(energy).sigma(), np.float64).tolist(), strict=True))


def label_scales(loader: Loader) -> tuple[float, float, float]:
    """Root mean squares of the labels of all frames: energies per atom [eV] less references, force components [eV/Å],
    virials per atom [eV]; 1 where there are none."""

    def rms(values: list[np.ndarray]) -> float:
        square = np.mean(np.concatenate(values) ** 2) if values else 1.0
        return float(np.sqrt(square)) or 1.0

    energies = [np.array([f.energy / len(f.numbers)]) for f in loader.frames if f.energy_weight > 0]
    forces = [f.forces.ravel() for f in loader.frames if f.force_weight > 0]
    virials = [f.virial_per_atom[f.stress_weight > 0] for f in loader.frames if f.stress_weight.any()]
    return rms(energies), rms(forces), rms(virials)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseReport:
    """The noise that an energy predicts for the labels of a data set, frames in order.

    `energy` [frames] per atom [eV], `forces` [atoms] of all frames one after the other [eV/Å, each component], of which
    `frame` [atoms] says whose they are, `virial` [frames] per atom [eV].
    """

    energy: np.ndarray
    forces: np.ndarray
    frame: np.ndarray
    virial: np.ndarray


def predict_noise(
    energy: AbstractEnergy, dataset: Dataset, *, batch_atoms: int = 256, dtype: Any = np.float32
) -> NoiseReport:
    """The aleatoric part of the error: how noisy the labels of each frame are held to be.

    **Raises:** `UserError` where the energy says nothing of noise, or does not know an element.
    """
    known = find_noise(energy)
    check_dataset(energy, dataset)
    loader = Loader(dataset, known.cutoff or 1.0, batch_atoms=batch_atoms, dtype=dtype, max_shapes=2)
    atoms = np.array([len(r) for r in dataset])
    first = [0, *np.cumsum(atoms).tolist()]
    energies, forces, virials = np.zeros(len(atoms)), np.zeros(first[-1]), np.zeros(len(atoms))
    for indices, out in ahead((i, _noise(known, loader.pack(i).graph)) for i in loader.plan(0)):
        here = np.concatenate([np.arange(first[i], first[i + 1]) for i in indices])
        energies[indices], virials[indices] = out.energy[: len(indices)], out.virial[: len(indices)]
        forces[here] = np.asarray(out.forces)[: len(here)]
    return NoiseReport(energies, forces, np.repeat(np.arange(len(atoms)), atoms), virials)


@Compiled
def _noise(known: LabelNoise, graph: Graph) -> Noise:
    return known.of(graph)


def score(loss: Likelihood, energy: AbstractEnergy, loader: Loader, weights: Weights) -> float:
    """The loss of all frames of a loader, without $\beta$: what the best energy is chosen by."""
    loss = dataclasses.replace(loss, beta=0.0)
    weights = Weights(*(jnp.asarray(w, loader.dtype) for w in weights))
    sums = [_sum(loss, energy, loader.pack(i), weights) for i in loader.plan(0)]
    return float(sum(float(x) for x in sums)) / len(loader.frames)


@Compiled
def _sum(loss: Likelihood, energy: AbstractEnergy, batch: Batch, weights: Weights) -> Array:
    return loss(energy, batch, weights) * float(batch.graph.systems)
