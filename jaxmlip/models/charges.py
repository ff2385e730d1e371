"""The long-range term of a model in one word: from given, predicted, latent or equilibrated charges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import (
    AbstractEnergy,
    EquilibratedCharges,
    Equilibration,
    Ewald,
    LatentEwald,
    ModelCharges,
    SpeciesCharges,
    plan_ewald,
)
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.system import System

KINDS = ("predicted", "latent", "equilibrated")
SMEARING = 1.0  # Å, of latent charges
SCALE = 0.1  # e, of predicted charges at the start; none at all would be a saddle point
_HARDNESS = 10.0  # eV/e²


def charge_head(elements: Sequence[int], cutoff: float, *, mean_neighbors: float, key: PRNGKeyArray) -> ACE:
    """A small model for what charges depend on: 3-body, a tenth of the work of the preset `fast`."""
    config = ACEConfig.preset(
        "nep",
        elements,
        cutoff=cutoff,
        degree=2,
        channels=8,
        hidden=16,
        mean_neighbors=mean_neighbors,
        energy_scale=SCALE,
    )
    return ACE(config, key=key)


def electrostatics(
    charges: str | Mapping[str, float],
    systems: Sequence[System],
    *,
    cutoff: float,
    mean_neighbors: float = 30.0,
    start: Mapping[str, float] | None = None,
    accuracy: float = 1e-4,
    margin: float = 1.1,
    background: bool = False,
    key: PRNGKeyArray,
) -> AbstractEnergy:
    """A long-range term for a model that looks `cutoff` [Å] far: `model + electrostatics("latent", systems, ...)`.

    `charges` are those of each element, `{"Na": 1.0, "Cl": -1.0}`, which stay as they are; or

    - `"predicted"`: by a small model from the neighbors of each atom, with the total charge of the system (`Ewald`);
    - `"latent"`: likewise, but hidden: smeared, without labels and without a total (`LatentEwald`);
    - `"equilibrated"`: by charge equilibration with predicted electronegativities (`Equilibration`).

    `start` are charges to begin with, 0 by default. `systems` are those to be served; `accuracy` and `margin` are those
    of `plan_ewald`. `background` neutralizes periodic systems that have a net charge, which are refused otherwise.

    **Raises:** `ValueError` for other kinds of charges, and for systems that no sum serves.
    """
    if isinstance(charges, Mapping):
        plan = plan_ewald(systems, cutoff=cutoff, accuracy=accuracy, margin=margin)
        return _term(Ewald, SpeciesCharges(charges), plan, background=background)
    if charges not in KINDS:
        raise ValueError(
            f'Charges are {", ".join(KINDS)}, or one for each element, {{Na = 1.0, Cl = -1.0}}; got "{charges}".'
        )
    elements = tuple(sorted({int(n) for system in systems for n in jax.device_get(system.numbers).ravel() if n > 0}))
    symbols = [SYMBOLS[n] for n in elements]
    head = charge_head(elements, cutoff, mean_neighbors=mean_neighbors, key=key)
    begin = dict.fromkeys(symbols, 0.0) | dict(start or {})
    if charges == "latent":
        plan = plan_ewald(systems, cutoff=cutoff, accuracy=accuracy, margin=margin, smearing=SMEARING)
        return _term(LatentEwald, ModelCharges(head, start=begin, conserve=False), plan)
    if charges == "predicted":
        plan = plan_ewald(systems, cutoff=cutoff, accuracy=accuracy, margin=margin)
        return _term(Ewald, ModelCharges(head, start=begin), plan, background=background)
    plan = plan_ewald(systems, cutoff=cutoff, accuracy=accuracy, margin=margin, method="waves")
    widest = min(SMEARING, cutoff / 5.6)
    electronegativity = {symbol: -_HARDNESS * begin[symbol] for symbol in symbols}
    held = EquilibratedCharges(
        electronegativity,
        dict.fromkeys(symbols, _HARDNESS),
        dict.fromkeys(symbols, widest),
        plan,
        model=head,
        background=background,
    )
    return _term(Equilibration, held)


def _term(kind: Any, *parts: Any, **options: Any) -> AbstractEnergy:
    """A term from its parts, in the order of its own fields (type checkers count those of its interface too)."""
    return kind(*parts, **options)
