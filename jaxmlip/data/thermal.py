r"""Thermal displacements by equipartition: $\frac12 k \langle u^2 \rangle = \frac12 k_B T$ for every direction.

*Einstein*: each atom by itself, in the field of all others at rest. Its stiffness is a 3x3 block of the Hessian of any
energy, or that of a Debye temperature $\Theta$, $k = m k_B^2 \Theta^2 / 3 \hbar^2$. *Modes*: all atoms together. With
$D = M^{-1/2} H M^{-1/2}$ and its eigenvectors $e_s$ of eigenvalues $\omega_s^2$,
$u = M^{-1/2} \sum_s \sqrt{k_B T} / \omega_s \, \xi_s e_s$, $\xi_s$ standard normal: the potential energy of a harmonic
crystal is then $\frac12 k_B T$ for each mode on average. Atoms that move alone carry the same energy in all, but most
of it in the stiffest modes, in proportion to ω²: long waves are hardly there.

**Reference:** Ashcroft & Mermin, *Solid State Physics*, Saunders (1976), chapters 22 and 23.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.data.generate import masses_of
from jaxmlip.energy import AbstractEnergy, check_system, hessian
from jaxmlip.errors import UserError
from jaxmlip.graph import batch
from jaxmlip.io import Record

_HBAR = 6.582119569e-16 * 1e15 * units.fs  # eV times our unit of time
_SOFTEST = 0.02  # of the mean stiffness: directions that are softer move as if they had this
_LEAST = 0.01  # eV/Å²
_REST = 1e-6  # of the largest eigenvalue: the crystal moving as a whole


class Modes(NamedTuple):
    """Eigenvalues ω² [eV/Å²/u] of the mass-weighted Hessian, rising, and the displacement of the atoms in each mode for
    a unit amplitude [u^-1/2], without the motions of the whole; `masses` [u]."""

    squares: Float[np.ndarray, "modes"]
    shapes: Float[np.ndarray, "modes atoms 3"]
    masses: Float[np.ndarray, "atoms"]


def hessian_of(energy: AbstractEnergy, record: Record) -> Float[np.ndarray, "atoms 3 atoms 3"]:
    """All second derivatives of an energy at a frame [eV/Å²], in float64.

    **Raises:** `UserError` where the energy does not know an element of the frame, or the Hessian is not finite.
    """
    with jax.enable_x64(True):
        system = record.system
        try:
            check_system(energy, system)
        except ValueError as error:
            raise UserError(f"{record.where}: {error}") from error
        found = np.asarray(_hessian(energy, batch(system, energy.cutoff or 1.0)), np.float64)
    if not np.all(np.isfinite(found)):
        raise UserError(f"{record.where}: the Hessian is not finite. Do atoms overlap?")
    return 0.5 * (found + found.transpose(2, 3, 0, 1))


_hessian = Compiled(hessian)


def debye_stiffness(masses: Float[np.ndarray, "atoms"], debye_temperature: float) -> Float[np.ndarray, "atoms 3 3"]:
    """Stiffness [eV/Å²] of each atom in a crystal of this Debye temperature [K], for temperatures above it.

    **Raises:** `UserError` for a temperature that is not positive.
    """
    if not 0.0 < debye_temperature < 1e5:
        raise UserError(f"A Debye temperature is positive [K]; got {debye_temperature}.")
    k = masses * (units.kB * debye_temperature / _HBAR) ** 2 / 3.0
    return k[:, None, None] * np.eye(3)


def einstein_stiffness(hessian: Float[np.ndarray, "atoms 3 atoms 3"]) -> Float[np.ndarray, "atoms 3 3"]:
    """Stiffness [eV/Å²] of each atom with all others at rest: the diagonal blocks."""
    return np.einsum("iaib->iab", hessian)


def einstein_moves(
    stiffness: Float[np.ndarray, "atoms 3 3"],
    temperature: float,
    rng: np.random.Generator,
    *,
    softest: float = _SOFTEST,
) -> Float[np.ndarray, "atoms 3"]:
    """Displacements [Å] of atoms that move one by one at `temperature` [K], with the covariance kT / stiffness;
    directions softer than the part `softest` of the mean stiffness, unstable ones among them, move as if they had
    that."""
    _check_temperature(temperature)
    values, vectors = np.linalg.eigh(stiffness)
    width = np.sqrt(units.kB * temperature / np.maximum(values, max(softest * np.abs(values).mean(), _LEAST)))
    return np.einsum("iab,ib->ia", vectors, width * rng.standard_normal(values.shape))


def modes_of(hessian: Float[np.ndarray, "atoms 3 atoms 3"], record: Record) -> Modes:
    """The harmonic modes of a frame."""
    masses = masses_of(record)
    root = np.repeat(np.sqrt(masses), 3)
    size = 3 * len(masses)
    squares, vectors = np.linalg.eigh(hessian.reshape(size, size) / root[:, None] / root)
    real = np.abs(squares) > _REST * np.abs(squares).max()
    shapes = (vectors[:, real] / root[:, None]).T.reshape(-1, len(masses), 3)
    return Modes(squares[real], shapes, masses)


def mode_moves(
    modes: Modes, temperature: float, rng: np.random.Generator, *, softest: float = _SOFTEST
) -> Float[np.ndarray, "atoms 3"]:
    """Displacements [Å] of all modes at `temperature` [K]. Modes softer than the part `softest` of the mean ω², also
    unstable ones, are as wide as if they had that."""
    _check_temperature(temperature)
    floor = max(softest * float(np.abs(modes.squares).mean()), _LEAST / float(np.mean(modes.masses)))
    width = np.sqrt(units.kB * temperature / np.maximum(np.abs(modes.squares), floor))
    return np.einsum("s,sia->ia", width * rng.standard_normal(len(width)), modes.shapes)


def _check_temperature(temperature: float) -> None:
    if not 0.0 <= temperature <= 1e5:
        raise UserError(f"A temperature lies between 0 and 1e5 K; got {temperature}.")
