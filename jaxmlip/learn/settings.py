"""How to train: the settings, and the schedules that follow from them."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import optax
from jaxtyping import Array, PyTree

from jaxmlip.energy import Committee
from jaxmlip.errors import UserError
from jaxmlip.learn.loss import Weights

_OPTIMIZERS = ("adam", "amsgrad", "adamw", "muon")
_NOISE = ("given", "learned", "predicted")
_SMALLEST_MATRIX = 8  # below, the directions of a matrix are too few to gain by treating them alike


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of `fit`.

    The length is `epochs`, or `steps`, or `max_minutes` of wall-clock time (from the time of the first steps the number
    of steps is set once, so that the learning rate decays as it should); the shortest holds, 200 epochs without any.

    - `optimizer`: muon, adam, amsgrad or adamw. Muon makes the step of each matrix an orthogonal one and leaves other
      parameters to Adam (Jordan et al. (2024); Liu et al. (2025), arXiv:2502.16982): far fewer steps, see
      docs/decisions/0006.
    - `learning_rate` is reached after `warmup_steps` and falls along a cosine to `final_rate` times itself.
    - `energy_weight`, `force_weight`, `stress_weight`, `charge_weight`: see `jaxmlip.learn.loss.Loss`; a weight of zero
      does not ask for the label. From the fraction `switch_at` of the steps on the energy weight is
      `late_energy_weight`.
    - `clip` bounds the global norm of the gradient; `ema_decay` averages the parameters that are validated and kept.
    - `huber` is where the loss turns linear, in units of the force RMS; `student` the degrees of freedom of Student's
      t, for labels of which some are wrong; without either, squares.
    - `noise`: given, learned or predicted trains by maximum likelihood, with weights that are inverse variances, see
      `jaxmlip.learn.noise`. `given` takes the standard deviations `energy_noise` [eV/atom], `force_noise` [eV/Å] and
      `virial_noise` (stress times volume per atom [eV]) of the labels that are asked for; `learned` finds them;
      `predicted` finds them for every atom. The weights above then multiply the likelihood of each kind of label,
      `late_energy_weight` and `switch_at` do nothing, and `huber` and `student` are in units of the noise.
    - `balance` between energies and forces, with `noise`: 0 is the plain likelihood, at 1 the energy of a frame counts
      as much as all its forces, beyond even more; 0.5 where nothing is said. With `predicted`, `noise_beta` (0 to 1,
      0.5) keeps noisy atoms from being given up before they are learned.
    - `config_weights` multiplies all weights of the frames of a `config_type`, `{"liquid": 0.5}`.
    - `references`: auto, isolated, least_squares or none (see `jaxmlip.data.find_references`), or the energy of the
      free atom of each element [eV], `{"Mo": -4.6}`.
    - `evaluations` is how many times validation data are evaluated; `patience` stops after so many without progress.
    - `missing` is the fraction of frames that may lack a label that is asked for.
    - `max_shapes` bounds the number of compilations of the training step.
    - `dtype` of the whole training, float32 or float64.
    """

    epochs: int | None = None
    steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 4
    optimizer: str = "muon"
    learning_rate: float = 0.005
    final_rate: float = 0.01
    warmup_steps: int = 50
    weight_decay: float = 0.0
    clip: float = 10.0
    ema_decay: float = 0.995
    energy_weight: float = 1.0
    force_weight: float = 1.0
    stress_weight: float = 0.0
    charge_weight: float = 0.0
    late_energy_weight: float = 10.0
    switch_at: float = 0.7
    huber: float | None = None
    student: float | None = None
    noise: str | None = None
    energy_noise: float | None = None
    force_noise: float | None = None
    virial_noise: float | None = None
    balance: float | None = None
    noise_beta: float | None = None
    config_weights: dict[str, float] | None = None
    references: str | dict[str, float] = "auto"
    evaluations: int = 40
    batch_atoms: int = 256
    patience: int | None = None
    missing: float = 0.0
    max_shapes: int = 3
    seed: int = 0
    dtype: str = "float32"
    checkpoint_minutes: float = 1.0

    def __post_init__(self):
        positive = ("epochs", "steps", "max_minutes", "batch_size", "learning_rate", "clip", "huber", "student",
                    "evaluations", "batch_atoms", "patience", "max_shapes")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"`{name}` must be positive; got {value}.")
        not_negative = ("warmup_steps", "weight_decay", "energy_weight", "force_weight", "stress_weight",
                        "charge_weight", "late_energy_weight", "checkpoint_minutes")  # fmt: skip
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise UserError(f"`{name}` must not be negative; got {getattr(self, name)}.")
        for name in ("final_rate", "ema_decay", "switch_at", "missing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"`{name}` is a fraction from 0 to 1; got {getattr(self, name)}.")
        if self.huber is not None and self.student is not None:
            raise UserError(f"Give `huber` or `student`, not both; got {self.huber} and {self.student}.")
        for name, weight in (self.config_weights or {}).items():
            if not 0.0 <= weight < math.inf:
                raise UserError(f"`config_weights.{name}` must be a number from 0 on; got {weight}.")
        self._check_noise()
        if self.optimizer not in _OPTIMIZERS:
            raise UserError(f"`optimizer` is one of {', '.join(_OPTIMIZERS)}; got {self.optimizer!r}.")
        if self.weight_decay > 0 and self.optimizer not in ("adamw", "muon"):
            raise UserError(f"`weight_decay` needs the optimizer adamw or muon; got {self.optimizer}.")
        if self.dtype not in ("float32", "float64"):
            raise UserError(f"`dtype` is float32 or float64; got {self.dtype!r}.")
        if not {"energy", "forces", "stress"} & set(self.labels):
            raise UserError("All weights of the loss are zero: nothing to learn.")

    def _check_noise(self) -> None:
        """Refuse settings of the likelihood that make no sense, or that nothing would heed."""
        if self.noise is not None and self.noise not in _NOISE:
            raise UserError(f"`noise` is one of {', '.join(_NOISE)}, or left out; got {self.noise!r}.")
        given = {"energy": self.energy_noise, "forces": self.force_noise, "stress": self.virial_noise}
        names = {"energy": "energy_noise", "forces": "force_noise", "stress": "virial_noise"}
        for label, value in given.items():
            if value is not None and not 0.0 < value < math.inf:
                raise UserError(f"`{names[label]}` must be positive; got {value}.")
            if value is not None and self.noise != "given":
                raise UserError(f'`{names[label]}` needs `noise = "given"`; got {self.noise!r}.')
            if self.noise == "given" and (value is None) == (label in self.labels):
                what = "must be given, since the loss asks for the label" if value is None else "needs a weight"
                raise UserError(f"`{names[label]}` {what}: `noise` is given, and the loss asks for {self.labels}.")
        if self.noise == "predicted" and self.force_weight == 0:
            raise UserError("`noise` predicted needs forces, which alone teach it; got `force_weight` 0.")
        if self.balance is not None and self.noise is None:
            raise UserError("`balance` needs `noise`: given, learned or predicted. Else set `energy_weight`.")
        if self.balance is not None and not -2.0 <= self.balance <= 4.0:
            raise UserError(f"`balance` lies from -2 (forces) to 4 (energies); got {self.balance}.")
        if self.noise_beta is not None and self.noise != "predicted":
            raise UserError('`noise_beta` needs `noise = "predicted"`.')
        if self.noise_beta is not None and not 0.0 <= self.noise_beta <= 1.0:
            raise UserError(f"`noise_beta` is a number from 0 to 1; got {self.noise_beta}.")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the loss asks for."""
        asked = {
            "energy": max(self.energy_weight, self.late_energy_weight) if self.noise is None else self.energy_weight,
            "forces": self.force_weight,
            "stress": self.stress_weight,
            "charges": self.charge_weight,
        }
        return tuple(label for label, weight in asked.items() if weight > 0)

    def rate(self, step: int, total: int | None) -> float:
        """Learning rate of a step; the length may be unknown while warming up."""
        peak = self.learning_rate
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        if total is None or total <= self.warmup_steps:
            return peak
        progress = min((step - self.warmup_steps) / max(total - self.warmup_steps, 1), 1.0)
        return peak * (self.final_rate + (1.0 - self.final_rate) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    def weights(self, step: int, total: int | None) -> Weights:
        """Weights of the loss at a step."""
        late = total is not None and step >= self.switch_at * total and self.noise is None
        energy = self.late_energy_weight if late else self.energy_weight
        return Weights(energy, self.force_weight, self.stress_weight, self.charge_weight)

    def build_optimizer(self) -> optax.GradientTransformation:
        """The optimizer for a learning rate of 1; the step multiplies by the rate of the schedule."""
        return _optimizer(self.optimizer, self.weight_decay, self.clip)


def _matrices(params: PyTree) -> PyTree:
    """Which parameters are matrices (outputs, inputs) of some size, perhaps a stack of them, for Muon; the rest is
    Adam's."""

    def matrix(x: Array, members: int = 0) -> optax.contrib.MuonDimensionNumbers | None:
        if x.ndim < 2 + members or min(x.shape[-2:]) < _SMALLEST_MATRIX:
            return None
        return optax.contrib.MuonDimensionNumbers(reduction_axis=x.ndim - 1, output_axis=x.ndim - 2)

    if isinstance(params, Committee):  # the leading axis of what members have for themselves is not one of a matrix
        own = jax.tree.map(functools.partial(matrix, members=1), params.own)
        return Committee(own, jax.tree.map(matrix, params.shared))
    return jax.tree.map(matrix, params)


@functools.cache  # the same functions again, so that a second training compiles nothing
def _optimizer(name: str, weight_decay: float, clip: float) -> optax.GradientTransformation:
    rules = {
        "adam": lambda: optax.adam(1.0),
        "amsgrad": lambda: optax.amsgrad(1.0),
        "adamw": lambda: optax.adamw(1.0, weight_decay=weight_decay),
        "muon": lambda: optax.contrib.muon(
            1.0,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,  # the size of Adam's updates (Liu et al., arXiv:2502.16982)
        ),
    }
    chain = optax.chain(optax.clip_by_global_norm(clip), rules[name]())

    def update(updates, state, params=None):
        # Optax counts steps in integers and multiplies them with floats.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)
