"""Labels minus a prior: what is left for a model to learn where part of the energy is known beforehand."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from jaxmlip.data import Dataset
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.evaluate import Report, evaluate


def subtract(dataset: Dataset, prior: AbstractEnergy, *, dtype: Any = np.float32) -> tuple[Dataset, Report]:
    """The data set with the energies, forces and stresses of `prior` taken from its labels, and these.

    Computed once, in float64 on the host but for the prior itself (`dtype`): training costs no more than without it,
    however far the prior looks.

    **Raises:** `UserError` where the prior does not know an element, or is not finite for a frame.
    """
    known = evaluate(prior, dataset, dtype=dtype)
    records = []
    for i, record in enumerate(dataset):
        here = known.frame == i
        finite = np.isfinite(known.energy[i]) and np.all(np.isfinite(known.forces[here]))
        if not finite:
            raise UserError(
                f"{record.where}: the prior is not finite there (energy {known.energy[i]} eV/atom). Atoms on one "
                "spot? Leave the frame out, or mend it."
            )
        records.append(_without(record, known.energy[i] * len(record), known.forces[here], known.stress[i]))
    return Dataset(records), known


def _without(record: Record, energy: float, forces: np.ndarray, stress: np.ndarray) -> Record:
    """A record whose labels lack a part."""
    stressed = record.stress is not None and all(record.pbc)
    return dataclasses.replace(
        record,
        energy=None if record.energy is None else record.energy - float(energy),
        forces=None if record.forces is None else record.forces - forces,
        stress=record.stress - stress if stressed else record.stress,
    )


def restore(report: Report, known: Report) -> Report:
    """The report of an energy with its prior, from that of the model alone beside labels minus the prior."""
    names = ("energy", "forces", "stress")
    sums = {
        f"{n}{label}": getattr(report, f"{n}{label}") + getattr(known, n) for n in names for label in ("", "_label")
    }
    return dataclasses.replace(report, **sums)


def describe(prior: AbstractEnergy) -> str:
    """A name for a prior that another one does not have: its kind, and a hash of all that it is made of."""
    leaves, structure = jax.tree.flatten(prior)
    digest = hashlib.sha256(repr(structure).encode())
    for leaf in leaves:
        digest.update(np.asarray(leaf).tobytes())
    return f"{type(prior).__name__} {digest.hexdigest()[:12]}"
