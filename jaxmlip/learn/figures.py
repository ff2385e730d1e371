"""Pictures of a training: the learning curve, and predictions against labels. PNG files by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmlip import units
from jaxmlip.errors import UserError
from jaxmlip.learn.evaluate import Report

_MOST_POINTS = 20_000


def learning_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and validation errors against the epoch, one panel each, on logarithmic scales."""
    names = {
        "train_loss": "training loss",
        "valid_energy_rmse_meV_per_atom": "valid. energy RMSE [meV/atom]",
        "valid_force_rmse_meV_per_A": "valid. force RMSE [meV/Å]",
        "valid_stress_rmse_GPa": "valid. stress RMSE [GPa]",
    }
    shown = {key: name for key, name in names.items() if any(key in line for line in history)}
    figure, places = panels(max(len(shown), 1))
    for axes, (key, name) in zip(places, shown.items(), strict=False):
        points = [(line["epoch"], line[key]) for line in history if line.get(key, 0.0) > 0.0]
        if points:
            axes.semilogy(*zip(*points, strict=True), marker=".", color="#1f5fa8")
        axes.set(xlabel="epoch", title=name)
    save(figure, path)


def parity(report: Report, path: Path) -> None:
    """Predicted energies, forces and stresses against their labels, with the RMSE of each."""
    sets = [
        ("energy", "eV/atom", report.energy_label, report.energy, 1.0),
        ("force", "eV/Å", report.forces_label, report.forces, 1.0),
        ("stress", "GPa", report.stress_label, report.stress, 1.0 / units.GPa),
    ]
    known = [s for s in sets if np.isfinite(s[2]).any() and np.isfinite(s[3]).any()]
    figure, places = panels(max(len(known), 1))
    for axes, (name, unit, label, value, factor) in zip(places, known, strict=False):
        mask = np.isfinite(label)
        x, y = factor * label[mask], factor * value[mask]
        every = -(-len(x) // _MOST_POINTS)
        ends = [min(x.min(), np.nanmin(y)), max(x.max(), np.nanmax(y))]
        axes.plot(ends, ends, color="#6b7280", lw=1)
        axes.plot(x[::every], y[::every], ".", ms=3, alpha=0.5, mew=0, color="#1f5fa8", rasterized=True)
        rmse = float(np.sqrt(np.mean((x - y) ** 2)))
        axes.set(xlabel=f"label [{unit}]", ylabel=f"prediction [{unit}]", title=f"{name}: RMSE {rmse:.3g} {unit}")
        axes.locator_params(nbins=5)  # more would write over each other
    save(figure, path)


def panels(count: int):
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(3.6 * count, 3.4), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count))


def save(figure, path: Path) -> None:
    """PNG in one piece."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    try:
        path.write_bytes(stream.getvalue())
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error}.") from error
