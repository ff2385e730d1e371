"""What a model wants to know of its data: reference energies, the scale of the forces, the number of neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxmlip.data.dataset import Dataset
from jaxmlip.elements import NUMBERS, SYMBOLS
from jaxmlip.energy.references import fit_references
from jaxmlip.errors import UserError
from jaxmlip.graph.host import neighbor_pairs


@dataclasses.dataclass(frozen=True)
class Statistics:
    """`references` [eV] by atomic number, what they came from, and those that the data do not determine;
    `force_rms` [eV/Å] over all components, `energy_std` [eV/atom] after the references, mean number of `neighbors`."""

    references: Mapping[int, float]
    origin: str
    undetermined: tuple[int, ...]
    force_rms: float
    energy_std: float
    neighbors: float
    elements: tuple[int, ...]


def statistics(
    dataset: Dataset, cutoff: float, *, references: str | Mapping[int, float] | Mapping[str, float] = "auto"
) -> Statistics:
    """Statistics of a training set; neighbors are counted within `cutoff` [Å]."""
    energies, origin, undetermined = find_references(dataset, references)
    residual = [(r.energy - reference_energy(r.numbers, energies)) / len(r) for r in dataset if r.energy is not None]
    counts = [len(neighbor_pairs(r.positions, r.cell, r.pbc, cutoff)[0]) for r in dataset]
    return Statistics(
        references=energies,
        origin=origin,
        undetermined=undetermined,
        force_rms=force_rms(dataset),
        energy_std=float(np.std(residual)) if residual else 0.0,
        neighbors=sum(counts) / max(sum(len(r) for r in dataset), 1),
        elements=dataset.elements,
    )


def find_references(
    dataset: Dataset, how: str | Mapping[int, float] | Mapping[str, float] = "auto"
) -> tuple[dict[int, float], str, tuple[int, ...]]:
    """Energy of each element [eV], what it came from, and the elements that the data do not determine.

    `how` is `isolated` (frames of one atom), `least_squares` (from the total energies), `auto` (isolated atoms where
    every element has one, else least squares), `none`, or the energies themselves, by atomic number or symbol.

    **Raises:** `UserError` where an element has no reference or is unknown, or where the data hold no energies.
    """
    if not isinstance(how, str):
        given = {_number(element): float(e) for element, e in how.items()}
        _require_elements(dataset, given, "The reference energies that were given lack")
        return given, "given", ()
    if how not in ("auto", "isolated", "least_squares", "none"):
        raise UserError(f"`references` is auto, isolated, least_squares, none or a mapping; got {how!r}.")
    if how == "none":
        return {}, "none", ()
    isolated = {int(r.numbers[0]): r.energy for r in dataset if r.is_isolated_atom and r.energy is not None}
    if how == "isolated" or (how == "auto" and set(dataset.elements) <= set(isolated)):
        _require_elements(dataset, isolated, "There is no frame of an isolated atom with an energy for")
        return isolated, "isolated atoms", ()
    labelled = [r for r in dataset if r.energy is not None and not r.is_isolated_atom]
    if not labelled:
        raise UserError(f"No frame has an energy to fit reference energies to.\n{dataset.census()}")
    energies, undetermined = fit_references([r.numbers for r in labelled], np.array([r.energy for r in labelled]))
    _require_elements(dataset, energies, "No frame with an energy contains")
    return energies, "least squares", undetermined


def _number(element: int | str) -> int:
    number = NUMBERS.get(element, 0) if isinstance(element, str) else int(element)
    if not 1 <= number < len(SYMBOLS):
        raise UserError(f"Reference energies are given by the symbol of an element; {element!r} is none.")
    return number


def reference_energy(numbers: np.ndarray, references: Mapping[int, float]) -> float:
    """Sum of the reference energies of some atoms [eV], in float64."""
    if not references:
        return 0.0
    unique, counts = np.unique(numbers[numbers > 0], return_counts=True)
    return float(sum(references[int(n)] * int(c) for n, c in zip(unique, counts, strict=True)))


def force_rms(dataset: Dataset) -> float:
    """Root mean square of all force components [eV/Å]; 0 where there are none."""
    components = [r.forces.ravel() for r in dataset if r.forces is not None]
    return float(np.sqrt(np.mean(np.concatenate(components) ** 2))) if components else 0.0


def _require_elements(dataset: Dataset, references: Mapping[int, float], message: str) -> None:
    lacking = sorted(set(dataset.elements) - set(references))
    if lacking:
        raise UserError(f"{message} {', '.join(SYMBOLS[n] for n in lacking)}.")
