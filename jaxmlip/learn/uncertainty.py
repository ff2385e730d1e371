r"""How sure a linear or linearised model is: exact Gaussian posteriors, scaled by what leaving out says of them.

For rows $x$ of a label in units of its noise and the posterior precision $A$ of the weights, the prediction has the
variance $x A^{-1} x^T$ from not knowing the weights (*epistemic*: it falls with data), and the noise of the label
(*aleatoric*: it does not). With `learn.fit_linear` that is the exact posterior of a linear model, with
`learn.linearised.linearise` the Laplace approximation in the last layer of a network.

A basis that cannot describe the labels makes both too small or too large; `calibrate` finds the factor for each kind of
label at which leave-one-out residuals are as large as they are said to be, and the quantiles of a conformal interval.

**Reference:** MacKay, Neural Comput. 4, 448 (1992), doi:10.1162/neco.1992.4.3.448; Vovk, Ann. Math. Artif. Intell.
74, 9 (2015), doi:10.1007/s10472-013-9368-4 (cross-conformal prediction).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jaxmlip.data import Dataset
from jaxmlip.data.influence import Influence
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.calibration import LEAST, conformal
from jaxmlip.learn.cleaning import Fit
from jaxmlip.learn.linear import KINDS

_VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))  # xx yy zz yz xz xy


@dataclasses.dataclass(frozen=True)
class Uncertain:
    """Predictions for one frame, and how sure they are; `stress` is in ASE's order xx yy zz yz xz xy.

    `*_epistemic` is the covariance from not knowing the weights: of the energy per atom [eV²], of the force on each
    atom [eV²/Å²], of the stress [eV²/Å⁶]; `*_noise` the standard deviation of a label [eV, eV/Å, eV/Å³]. Where the
    frame is not periodic in three directions the stress is NaN.
    """

    energy_per_atom: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "6"]
    energy_epistemic: float
    forces_epistemic: Float[np.ndarray, "atoms 3 3"]
    stress_epistemic: Float[np.ndarray, "6 6"]
    energy_noise: float
    forces_noise: float
    stress_noise: float

    @property
    def energy_std(self) -> float:
        """Of a label of the energy per atom, both parts [eV]."""
        return math.sqrt(self.energy_epistemic + self.energy_noise**2)

    @property
    def forces_std(self) -> Float[np.ndarray, "atoms 3"]:
        """Of labels of the force components, both parts [eV/Å]."""
        return np.sqrt(np.diagonal(self.forces_epistemic, axis1=1, axis2=2) + self.forces_noise**2)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What leave-one-out residuals say of the uncertainty of each kind of label: the `factor` on standard deviations,
    and the sorted sizes of residuals over these, scaled, which conformal intervals are read from."""

    factor: Mapping[str, float]
    sizes: Mapping[str, np.ndarray]

    def quantile(self, kind: str, coverage: float) -> float:
        """How many scaled standard deviations hold a new label of this kind (`energy`, `force`, `virial`) with at least
        this probability, if it is exchangeable with the calibration data.

        **Raises:** `UserError` where there are too few labels for this coverage.
        """
        if kind not in self.sizes or not 0.0 < coverage < 1.0:
            raise UserError(f"There are quantiles of {', '.join(self.sizes)} between 0 and 1; got {kind}, {coverage}.")
        sizes = self.sizes[kind]
        rank = math.ceil(coverage * (len(sizes) + 1))
        if rank > len(sizes):
            least = math.ceil(coverage / (1.0 - coverage))
            raise UserError(
                f"A coverage of {coverage} needs {least} labels of {kind} at least; there are {len(sizes)}."
            )
        return float(sizes[rank - 1])


def predict_with_uncertainty(fit: Fit, dataset: Dataset, calibration: Calibration | None = None) -> list[Uncertain]:
    """Predictions and their uncertainty for every frame, labelled or not, in order."""
    factor: Mapping[str, float] = dict.fromkeys(KINDS, 1.0) if calibration is None else calibration.factor
    blank = Dataset([_blank(record) for record in dataset])
    found: dict[int, Uncertain] = {}
    for block in fit.design(blank):
        record, kind = blank[block.frame], block.kind
        sigma = np.array([fit.noise[k] for k in KINDS])[kind]
        scale = np.array([factor[k] for k in KINDS])[kind]
        mean = -fit.residuals(block) * sigma  # the labels are zero
        half = linalg.solve_triangular(fit.factor, block.rows.T, lower=True) * (sigma * scale)
        energy, force, virial = (kind == k for k in range(3))
        per_volume = len(record) / max(abs(float(np.linalg.det(record.cell))), 1e-300)
        three = half[:, force].reshape(len(half), -1, 3)
        stress, spread = np.full(6, np.nan), np.full((6, 6), np.nan)
        if virial.any():
            order = [0, 3, 5, 4, 2, 1]  # from xx xy xz yy yz zz
            stress = -mean[virial][order] * per_volume
            spread = (half[:, virial].T @ half[:, virial])[np.ix_(order, order)] * per_volume**2
        found[block.frame] = Uncertain(
            energy_per_atom=float(mean[energy][0]),
            forces=mean[force].reshape(-1, 3),
            stress=stress,
            energy_epistemic=float(np.sum(half[:, energy] ** 2)),
            forces_epistemic=np.einsum("pia,pib->iab", three, three),
            stress_epistemic=spread,
            energy_noise=fit.noise[KINDS[0]] * factor[KINDS[0]],
            forces_noise=fit.noise[KINDS[1]] * factor[KINDS[1]],
            stress_noise=fit.noise[KINDS[2]] * factor[KINDS[2]] * per_volume if virial.any() else np.nan,
        )
    return [found[i] for i in range(len(dataset))]


def calibrate(found: Sequence[Influence]) -> Calibration:
    """The factors at which the leave-one-out residuals of a fit are as large as it says.

    `found` is what `find_suspects` has of every frame (`Suspects.found`, made in one round).

    **Raises:** `UserError` where fewer than ten labels of any kind are there to calibrate with.
    """
    factor: dict[str, float] = dict.fromkeys(KINDS, 1.0)
    sizes: dict[str, np.ndarray] = {}
    for number, kind in enumerate(KINDS):
        values = np.concatenate([f.studentised[f.kind == number] for f in found]) if found else np.zeros(0)
        if len(values):
            factor[kind], sizes[kind] = _factor(kind, values, np.ones_like(values))
    if not sizes:
        raise UserError("There is no label to calibrate with.")
    return Calibration(factor, sizes)


def calibrate_with(found: Sequence[Uncertain], dataset: Dataset) -> Calibration:
    """The factors at which predictions for frames that were not learned from are as uncertain as they say.

    **Raises:** `UserError` where there are fewer than ten labels of any kind, or all deviations are zero.
    """
    factor: dict[str, float] = dict.fromkeys(KINDS, 1.0)
    sizes: dict[str, np.ndarray] = {}
    for kind, (residuals, deviations) in residuals_of(found, dataset).items():
        factor[kind], sizes[kind] = _factor(kind, residuals, deviations)
    if not sizes:
        raise UserError(f"There is no label to calibrate with.\n{dataset.census()}")
    return Calibration(factor, sizes)


def residuals_of(found: Sequence[Uncertain], dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels minus predictions, and the standard deviations that were predicted for them, of each kind of label that
    there is: energies per atom [eV], force components [eV/Å], virials per atom [eV]."""
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in KINDS}
    for one, record in zip(found, dataset, strict=True):
        if record.energy is not None:
            difference = record.energy / len(record) - one.energy_per_atom
            rows[KINDS[0]].append((np.array([difference]), np.array([one.energy_std])))
        if record.forces is not None:
            rows[KINDS[1]].append((np.ravel(record.forces - one.forces), np.ravel(one.forces_std)))
        if record.stress is not None and all(record.pbc) and np.isfinite(one.stress).all():
            known = record.stress_mask[_VOIGT]
            volume = abs(float(np.linalg.det(record.cell))) / len(record)
            spread = np.sqrt(np.diag(one.stress_epistemic) + one.stress_noise**2)
            rows[KINDS[2]].append((volume * (record.stress[_VOIGT] - one.stress)[known], volume * spread[known]))
    joined = {k: tuple(np.concatenate(x) for x in zip(*v, strict=True)) for k, v in rows.items() if v}
    return {k: (v[0], v[1]) for k, v in joined.items() if len(v[0])}


def _factor(kind: str, residuals: np.ndarray, deviations: np.ndarray) -> tuple[float, np.ndarray]:
    """The factor of one kind of label, and the sizes of scaled residuals."""
    if len(residuals) < LEAST:
        raise UserError(f"{len(residuals)} labels of {kind} are too few to calibrate with; give {LEAST} at least.")
    sizes = conformal(residuals, deviations).sizes
    factor = float(np.sqrt(np.mean(sizes**2)))
    return factor, sizes / factor


def _blank(record: Record) -> Record:
    """The frame with labels that are zero, so that there are rows for all."""
    return dataclasses.replace(
        record,
        energy=0.0,
        forces=np.zeros((len(record), 3)),
        stress=np.zeros((3, 3)) if all(record.pbc) else None,
        stress_mask=np.ones((3, 3), bool),
        weights=(1.0, 1.0, 1.0),
    )
