"""The charges inside an energy: which of them can learn from labels, and which are given."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxmlip.data import Dataset
from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import AbstractCharges, AbstractEnergy, AtomCharges, SpeciesCharges
from jaxmlip.errors import UserError


def find_charges(energy: AbstractEnergy) -> AbstractCharges:
    """The charges that the long-range term of an energy is made from.

    **Raises:** `UserError` where there are none, or several that a label could be meant for.
    """
    found = parts(energy, (AbstractCharges,))
    if not found:
        raise UserError(
            "The loss asks for charges, but the energy has none: add a long-range term, "
            "`model + Ewald(ModelCharges(head), plan)`, or set `charge_weight` to 0."
        )
    if len(found) > 1:
        names = ", ".join(type(part).__name__ for part in found)
        raise UserError(f"The energy has {len(found)} kinds of charges ({names}); labels can teach one only.")
    return found[0]


def given_leaves(energy: AbstractEnergy) -> set[int]:
    """The `id` of the arrays that hold charges which were given: they do not train unless they are asked to."""
    return {id(leaf) for part in parts(energy, (SpeciesCharges, AtomCharges)) for leaf in jax.tree.leaves(part)}


def charge_rms(dataset: Dataset) -> float:
    """Root mean square of the charges of all atoms [e]; 0 where there are none."""
    charges = [r.charges for r in dataset if r.charges is not None]
    return float(np.sqrt(np.mean(np.concatenate(charges) ** 2))) if charges else 0.0


def has_charges(energy: AbstractEnergy) -> bool:
    """Whether `find_charges` finds what to compare with labels."""
    return len(parts(energy, (AbstractCharges,))) == 1


def mean_charges(dataset: Dataset) -> dict[str, float]:
    """Mean charge of each element [e] over the frames that have labels; empty where none has."""
    labelled = [r for r in dataset if r.charges is not None]
    if not labelled:
        return {}
    numbers = np.concatenate([r.numbers for r in labelled])
    charges = np.concatenate([np.asarray(r.charges, np.float64) for r in labelled])
    return {SYMBOLS[n]: float(charges[numbers == n].mean()) for n in np.unique(numbers)}


def parts(energy: AbstractEnergy, kinds: tuple[type, ...]) -> list[Any]:
    """The parts of an energy that are of these kinds, outermost ones only."""
    leaves = jax.tree.leaves(energy, is_leaf=lambda part: isinstance(part, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds) and isinstance(leaf, eqx.Module)]
