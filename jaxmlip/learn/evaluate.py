"""Predictions of an energy for a data set, and how far they are from the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.data import Batch, Dataset, Loader
from jaxmlip.energy import (
    AbstractEnergy,
    AtomicReferences,
    Sum,
    check_elements,
    check_system,
    energy_forces,
    energy_forces_virial,
    replan,
    system_checks,
)
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn.charges import find_charges, has_charges


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Predictions and labels of the frames of a data set, in order; what is missing is NaN. Internal units.

    `energy*` [frames] are per atom; `forces*` [atoms 3] are of all frames one after the other, and `frame` [atoms] says
    whose, as do `charges*` [atoms]; `stress*` [frames 3 3], of which masked components count as missing; `volume`
    [frames] is per atom.
    """

    config_types: tuple[str, ...]
    atoms: np.ndarray
    frame: np.ndarray
    energy: np.ndarray
    energy_label: np.ndarray
    forces: np.ndarray
    forces_label: np.ndarray
    stress: np.ndarray
    stress_label: np.ndarray
    volume: np.ndarray
    charges: np.ndarray
    charges_label: np.ndarray

    @property
    def energy_rmse(self) -> float:
        """[eV/atom]; NaN without labels."""
        return _rms(self.energy, self.energy_label)

    @property
    def energy_mae(self) -> float:
        return _mean_absolute(self.energy, self.energy_label)

    @property
    def force_rmse(self) -> float:
        """Over components [eV/Å]."""
        return _rms(self.forces, self.forces_label)

    @property
    def force_mae(self) -> float:
        return _mean_absolute(self.forces, self.forces_label)

    @property
    def stress_rmse(self) -> float:
        """Over components [eV/Å³]."""
        return _rms(self.stress, self.stress_label)

    @property
    def virial_rmse(self) -> float:
        """Stress times volume per atom [eV], over components."""
        volume = self.volume[:, None, None]
        return _rms(volume * self.stress, volume * self.stress_label)

    @property
    def stress_mae(self) -> float:
        return _mean_absolute(self.stress, self.stress_label)

    @property
    def charge_rmse(self) -> float:
        """[e]; NaN where charges were not asked for, or without labels."""
        return _rms(self.charges, self.charges_label)

    @property
    def charge_mae(self) -> float:
        return _mean_absolute(self.charges, self.charges_label)

    def of(self, config_type: str) -> Report:
        """The frames of one kind."""
        keep = np.array([c == config_type for c in self.config_types])
        number = np.cumsum(keep) - 1
        per_atom = keep[self.frame]
        names = ("atoms", "energy", "energy_label", "stress", "stress_label", "volume")
        frames = {n: getattr(self, n)[keep] for n in names}
        atoms = {n: getattr(self, n)[per_atom] for n in ("forces", "forces_label", "charges", "charges_label")}
        kinds = (config_type,) * int(keep.sum())
        return Report(config_types=kinds, frame=number[self.frame[per_atom]], **frames, **atoms)

    def rows(self) -> dict[str, Report]:
        """The report of each `config_type`, and of `all`."""
        kinds = sorted(set(self.config_types))
        return {**({k: self.of(k) for k in kinds} if len(kinds) > 1 else {}), "all": self}

    def errors(self) -> dict[str, float]:
        """The errors in the units of the table, for JSON."""
        errors = {
            "energy_rmse_meV_per_atom": 1e3 * self.energy_rmse,
            "energy_mae_meV_per_atom": 1e3 * self.energy_mae,
            "force_rmse_meV_per_A": 1e3 * self.force_rmse,
            "force_mae_meV_per_A": 1e3 * self.force_mae,
            "stress_rmse_GPa": self.stress_rmse / units.GPa,
            "stress_mae_GPa": self.stress_mae / units.GPa,
        }
        if np.isfinite(self.charge_rmse):
            errors |= {"charge_rmse_me": 1e3 * self.charge_rmse, "charge_mae_me": 1e3 * self.charge_mae}
        return errors

    def table(self) -> str:
        """RMSE and MAE for each `config_type`, as text."""
        titles = ["energy meV/atom", "force meV/Å", "stress GPa", "charge me"][: len(self.errors()) // 2]
        lines = [f"{'':<20} {'frames':>7} " + " ".join(f"{title:>18}" for title in titles)]
        lines.append(f"{'config_type':<20} {'':>7} " + " ".join(f"{'RMSE':>9} {'MAE':>8}" for _ in titles))
        for kind, report in self.rows().items():
            cells = [f"{x:.3g}" if np.isfinite(x) else "-" for x in report.errors().values()]
            pairs = " ".join(f"{a:>9} {b:>8}" for a, b in zip(cells[::2], cells[1::2], strict=True))
            lines.append(f"{kind[:20]:<20} {len(report.atoms):>7} {pairs}")
        return "\n".join(lines)


def evaluate(
    energy: AbstractEnergy, dataset: Dataset, *, batch_atoms: int = 256, dtype: Any = np.float32, max_shapes: int = 2
) -> Report:
    """Compares an energy with the labels of a data set, in batches of about `batch_atoms` atoms.

    Reference energies are added on the host in float64, so `dtype` float32 suffices for total energies of any size.

    **Raises:** `UserError` where a frame holds an element that the energy does not know.
    """
    if system_checks(energy):
        energy = replan(energy, [record.system for record in dataset])
    check_dataset(energy, dataset)
    model, references = split_references(energy)
    loader = Loader(
        dataset, model.cutoff, batch_atoms=batch_atoms, references=references, dtype=dtype, max_shapes=max_shapes
    )
    charges = has_charges(model) and any(r.charges is not None for r in dataset)
    return predict(model, loader, stress=any(r.stress is not None for r in dataset), charges=charges)


def check_dataset(energy: AbstractEnergy, dataset: Dataset) -> None:
    """Refuse frames that an energy cannot serve, for their elements or, long-range sums, for their cells.

    **Raises:** `UserError` naming file, frame and what is wrong.
    """
    particular = bool(system_checks(energy))
    for record in dataset:
        try:
            check_elements(energy, record.numbers)
            if particular:
                check_system(energy, record.system)
        except ValueError as error:
            raise UserError(f"{record.where}: {error}") from error


def split_references(energy: AbstractEnergy) -> tuple[AbstractEnergy, dict[int, float]]:
    """An energy without its atomic references, and these [eV] by atomic number (empty where it has none)."""
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    rest = [term for term in terms if not isinstance(term, AtomicReferences)]
    references: dict[int, float] = {}
    for term in terms:
        if isinstance(term, AtomicReferences):
            for number, value in read_references(term).items():
                references[number] = references.get(number, 0.0) + value
    if not rest:
        raise UserError("The energy consists of atomic references alone; there is nothing to train or compare.")
    return (rest[0] if len(rest) == 1 else Sum(tuple(rest))), references


def read_references(references: AtomicReferences) -> dict[int, float]:
    """Reference energies [eV] by atomic number, with the precision that they are kept in."""
    values = np.asarray(references.energies, np.float64)
    return {n: float(e) for n, e in zip(references.elements or (), values, strict=True)}


def predict(model: AbstractEnergy, loader: Loader, *, stress: bool, charges: bool = False) -> Report:
    """Predictions for the frames of a loader; `model` is without the references, which are added here in float64."""
    records = loader.dataset.records
    atoms = np.array([len(r) for r in records])
    first = np.concatenate([[0], np.cumsum(atoms)])
    volume = np.array([abs(np.linalg.det(r.cell)) / len(r) if all(r.pbc) else np.nan for r in records])
    energy = np.full(len(records), np.nan)
    forces = np.full((first[-1], 3), np.nan)
    sigma = np.full((len(records), 3, 3), np.nan)
    held = np.full(first[-1], np.nan)
    for indices, out in ahead((i, _predictions(model, loader.pack(i), stress, charges)) for i in loader.plan(0)):
        totals, gradients, virials, held_here = (np.asarray(x, np.float64) for x in out)
        start = 0
        for slot, i in enumerate(indices):
            energy[i] = (totals[slot] + loader.offsets[i]) / atoms[i]
            forces[first[i] : first[i + 1]] = gradients[start : start + atoms[i]]
            if charges:
                held[first[i] : first[i + 1]] = held_here[start : start + atoms[i]]
            if stress:
                sigma[i] = -virials[slot] / (volume[i] * atoms[i])
            start += atoms[i]
    return Report(
        config_types=tuple(r.config_type for r in records),
        atoms=atoms,
        frame=np.repeat(np.arange(len(records)), atoms),
        energy=energy,
        energy_label=np.array([np.nan if r.energy is None else r.energy / len(r) for r in records]),
        forces=forces,
        forces_label=np.concatenate([np.full((len(r), 3), np.nan) if r.forces is None else r.forces for r in records]),
        stress=sigma,
        stress_label=np.stack([_stress_label(r) for r in records]),
        volume=volume,
        charges=held,
        charges_label=np.concatenate([np.full(len(r), np.nan) if r.charges is None else r.charges for r in records]),
    )


def ahead(items: Iterator) -> Iterator:
    """The same items, with the next one always begun: the device works while the host unpacks."""
    before = next(items)
    for item in items:
        yield before
        before = item
    yield before


def _stress_label(record: Record) -> np.ndarray:
    """The stress, NaN where it is missing or masked."""
    if record.stress is None or not all(record.pbc):
        return np.full((3, 3), np.nan)
    return np.where(record.stress_mask, record.stress, np.nan)


@Compiled
def _predictions(model: AbstractEnergy, batch: Batch, stress: bool, charges: bool) -> tuple[Array, ...]:
    """Energies, forces, virials and charges; zero what is not asked for."""
    graph = batch.graph
    held = find_charges(model)(graph) if charges else jnp.zeros_like(graph.positions[:, 0])
    if stress:
        return *energy_forces_virial(model, graph), held
    return *energy_forces(model, graph), jnp.zeros_like(graph.cell), held


def _rms(values: np.ndarray, labels: np.ndarray) -> float:
    """Over what is labelled; a prediction that is not finite shows."""
    known = np.isfinite(labels)
    return float(np.sqrt(np.mean((values - labels)[known] ** 2))) if known.any() else float("nan")


def _mean_absolute(values: np.ndarray, labels: np.ndarray) -> float:
    known = np.isfinite(labels)
    return float(np.mean(np.abs(values - labels)[known])) if known.any() else float("nan")
