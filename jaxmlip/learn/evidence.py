"""Noise and prior of a linear model from the evidence of its labels, by MacKay's fixed point (`jaxmlip.learn.linear`).

**Reference:** MacKay, Neural Comput. 4, 415 (1992), doi:10.1162/neco.1992.4.3.415.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import linalg

KINDS = ("energy", "force", "virial")  # eV/atom, eV/Å, eV/atom
_FREE = 1e-8  # prior precision of constants: none to speak of
_RIDGE = 1e-9
_LEAST_NOISE = 1e-6  # in the unit of each kind: labels are never taken to be exact
_MOST_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class Sums:
    """What the fit needs of the data: `gram`, `cross`, `square` and `count` of every kind of label."""

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: np.ndarray

    def times(self, factors: np.ndarray) -> Sums:
        """The same with the labels of each kind repeated."""
        x = factors
        return Sums(self.gram * x[:, None, None], self.cross * x[:, None], self.square * x, self.count * x)


def maximise_evidence(
    sums: Sums, groups: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean of the scaled weights, Cholesky factor of their precision, `alpha` of each group, `beta` of each kind of
    label, and the logarithm of the evidence; columns of group -1 are free."""
    gram = sums.gram / (scale[:, None] * scale)
    kinds = [k for k in range(len(KINDS)) if sums.count[k] > 0]
    names = range(int(groups.max()) + 1)
    variance = np.array([sums.square[k] / max(sums.count[k], 1.0) for k in range(len(KINDS))])
    beta = 1.0 / np.maximum(0.01 * variance, _LEAST_NOISE**2)
    alpha = np.full(len(names), 1.0 / max(variance[1], _LEAST_NOISE**2))
    best: tuple | None = None
    for _ in range(_MOST_ITERATIONS):
        mean, factor, misfit, evidence = given(sums, groups, scale, alpha, beta, gram)
        covariance = linalg.cho_solve((factor, True), np.eye(len(factor)))
        determined = np.einsum("ij,kij->k", covariance, gram) * beta
        gain = np.inf if best is None else evidence - best[-1]
        if best is None or gain > 0.0:
            best = (mean, factor, alpha.copy(), beta.copy(), evidence)
        if abs(gain) < 0.1:
            break
        for k in kinds:
            beta[k] = max(sums.count[k] - determined[k], 1e-3 * sums.count[k]) / misfit[k]
        for g in names:
            mine = groups == g
            size = max(float(np.sum(mine)) - alpha[g] * float(np.sum(np.diag(covariance)[mine])), 1e-3)
            alpha[g] = max(size / max(float(np.sum(mean[mine] ** 2)), 1e-12 * size), 1e-8)
    assert best is not None
    return best


def given(
    sums: Sums,
    groups: np.ndarray,
    scale: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    gram: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """For a given prior and noise: mean of the scaled weights, factor of their precision, misfit of each kind of label,
    logarithm of the evidence. `gram` is that of the scaled columns, where it is known."""
    gram = sums.gram / (scale[:, None] * scale) if gram is None else gram
    cross = sums.cross / scale
    prior = np.where(groups < 0, _FREE, alpha[np.maximum(groups, 0)])
    precision = np.einsum("k,kij->ij", beta, gram) + np.diag(prior)
    precision[np.diag_indices_from(precision)] *= 1.0 + _RIDGE  # rows may be in single precision
    factor = linalg.cholesky(precision, lower=True)
    mean = linalg.cho_solve((factor, True), beta @ cross)
    misfit = np.array([sums.square[k] - 2.0 * mean @ cross[k] + mean @ gram[k] @ mean for k in range(len(KINDS))])
    misfit = np.maximum(misfit, sums.count * _LEAST_NOISE**2)
    evidence = -np.sum(np.log(np.diag(factor))) - 0.5 * float(beta @ misfit) - 0.5 * float(prior @ mean**2)
    evidence += 0.5 * float(np.sum(np.log(prior[groups >= 0])))
    kinds = np.flatnonzero(sums.count > 0)
    evidence += 0.5 * sum(float(sums.count[k]) * np.log(beta[k] / (2.0 * np.pi)) for k in kinds)
    return mean, factor, misfit, float(evidence)
