"""The pictures of the report; each takes arrays and gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmlip.data import Dataset, find_references
from jaxmlip.data.statistics import reference_energy
from jaxmlip.elements import SYMBOLS
from jaxmlip.graph.host import neighbor_pairs

BLUE, ORANGE, GRAY = "#1f5fa8", "#d9730d", "#6b7280"
STYLE: dict[Any, Any] = {  # keyed by matplotlib's own literals
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.dpi": 100,
}


def learning_curve(steps: np.ndarray, force_rmse: np.ndarray, energy_rmse: np.ndarray) -> Figure:
    """Validation errors [meV/Å, meV/atom] against training steps."""
    figure, left = _figure(6.4, 3.6)
    (a,) = left.plot(steps, force_rmse, "o-", color=BLUE, ms=3, label="forces (left)")
    left.set(xlabel="training step", ylabel="force RMSE [meV/Å]", yscale="log")
    right = left.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    (b,) = right.plot(steps, energy_rmse, "s-", color=ORANGE, ms=3, label="energy (right)")
    right.set(ylabel="energy RMSE [meV/atom]", yscale="log")
    for axes in (left, right):
        _plain_numbers(axes)
    left.legend(handles=[a, b])
    return figure


def parity(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Prediction against label, one panel for each quantity (named with its unit)."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(pairs), figsize=(4.0 * len(pairs), 3.8), layout="constrained")
    for axes, (title, (label, prediction)) in zip(np.atleast_1d(panels), pairs.items(), strict=True):
        label, prediction = label[np.isfinite(label)], prediction[np.isfinite(label)]
        low, high = min(label.min(), prediction.min()), max(label.max(), prediction.max())
        margin = 0.05 * (high - low) + 1e-9
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=GRAY, lw=1)
        axes.plot(label, prediction, ".", color=BLUE, ms=4, alpha=0.5, mew=0)
        axes.set(xlabel=f"DFT {title}", ylabel=f"model {title}", xlim=limits, ylim=limits, aspect="equal")
        rmse = 1e3 * float(np.sqrt(np.mean((label - prediction) ** 2)))
        axes.set_title(f"RMSE {rmse:.3g} m{title[title.index('[') + 1 : -1]}")
    return figure


def conservation(time_ps: np.ndarray, total: np.ndarray, kinetic: np.ndarray, drift: float) -> Figure:
    """Total energy beside kinetic energy [meV/atom], each from its start or mean, in a run without thermostat."""
    figure, axes = _figure(6.4, 3.6)
    axes.plot(time_ps, kinetic - kinetic.mean(), color=ORANGE, lw=1, label="kinetic energy, less its mean")
    axes.plot(time_ps, total - total[0], color=BLUE, lw=1.6, label="total energy, less its start")
    axes.set(xlabel="time [ps]", ylabel="meV/atom", title=f"drift {drift:.2g} meV/atom/ps")
    axes.legend(loc="upper right")
    axes.margins(y=0.4)
    return figure


def temperature(time_ps: np.ndarray, kelvin: np.ndarray, target: float) -> Figure:
    """Kinetic temperature in a run with thermostat."""
    figure, axes = _figure(6.4, 3.6)
    axes.plot(time_ps, kelvin, color=BLUE, lw=0.8)
    axes.axhline(target, color=ORANGE, lw=1.5, label=f"thermostat {target:g} K")
    axes.set(xlabel="time [ps]", ylabel="temperature [K]", title=f"mean {kelvin[len(kelvin) // 5 :].mean():.1f} K")
    axes.legend(loc="upper right")
    axes.set_ylim(0, 1.25 * kelvin.max())
    return figure


def radial_distribution(r: np.ndarray, g: np.ndarray, shells: np.ndarray) -> Figure:
    """g(r), with the neighbor shells of the perfect crystal."""
    figure, axes = _figure(6.4, 3.6)
    for shell in shells[shells < r.max()]:
        axes.axvline(shell, color=GRAY, lw=0.8, ls=":")
    axes.plot(r, g, color=BLUE, lw=1.6)
    axes.set(xlabel="distance r [Å]", ylabel="g(r)", title="dotted: shells of the perfect crystal", xlim=(1.5, r.max()))
    axes.set_ylim(bottom=0)
    return figure


def equation_of_state(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Energy against volume: DFT points and the model's curve for each phase.

    Each curve has `volume` [Å³/atom], `dft` and `model` [eV/atom], and `fine_volume`, `fine_model` for the line.
    """
    figure, axes = _figure(6.4, 4.0)
    lowest = min(curve["dft"].min() for curve in curves.values())
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(curves)))
    for color, (name, curve) in zip(colors, curves.items(), strict=True):
        axes.plot(curve["fine_volume"], curve["fine_model"] - lowest, color=color, lw=1.4)
        axes.plot(curve["volume"], curve["dft"] - lowest, "o", color=color, ms=4.5, mfc="white", label=name)
    axes.set(xlabel="volume [Å³/atom]", ylabel="energy [eV/atom]", title="circles: DFT; lines: model")
    axes.legend(ncols=2, fontsize=8)
    return figure


def influence(leverage: np.ndarray, scores: np.ndarray, removed: np.ndarray, threshold: float) -> Figure:
    """Suspicion of every frame against its leverage: wrong labels stand high, frames without neighbors far right."""
    figure, axes = _figure(6.4, 3.8)
    for mask, color, name in ((~removed, BLUE, "kept"), (removed, ORANGE, "set aside")):
        axes.plot(leverage[mask], scores[mask], "o", color=color, ms=4, mew=0, alpha=0.7, label=f"{name}: {mask.sum()}")
    axes.axhline(threshold, color=GRAY, lw=1, ls=":")
    axes.set(xlabel="leverage: parameters that the frame determines", ylabel="suspicion", xscale="log")
    axes.legend()
    return figure


def by_group(values: Mapping[str, np.ndarray], removed: Mapping[str, np.ndarray], label: str) -> Figure:
    """One row of dots for each group of frames."""
    figure, axes = _figure(6.4, 1.2 + 0.36 * len(values))
    for row, (name, x) in enumerate(values.items()):
        here = removed[name]
        jitter = 0.5 * (np.arange(len(x)) * 0.618 % 1.0 - 0.5)
        for mask, color in ((~here, BLUE), (here, ORANGE)):
            axes.plot(x[mask], row + jitter[mask], "o", color=color, ms=3.5, mew=0, alpha=0.7)
    axes.set(xlabel=label, yticks=range(len(values)), ylim=(len(values) - 0.4, -0.6))
    axes.set_yticklabels(list(values))
    return figure


def coverage(dataset: Dataset) -> Figure:
    """Energy above the references against volume (against the number of atoms where not periodic), and forces."""
    references = find_references(dataset, "least_squares")[0] if any(r.has("energy") for r in dataset) else {}
    dataset = dataset.filter(lambda r: not r.is_isolated_atom)
    kinds = sorted(dataset.config_types())
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
    colors = plt.get_cmap("tab10" if len(kinds) <= 10 else "tab20")
    for number, kind in enumerate(kinds):
        energies, forces = [], []
        for r in dataset:
            x = abs(np.linalg.det(r.cell)) / len(r) if all(r.pbc) else len(r)
            if r.config_type == kind and r.energy is not None:
                energies.append((x, (r.energy - reference_energy(r.numbers, references)) / len(r)))
            if r.config_type == kind and r.forces is not None:
                forces.append((x, np.sqrt(np.mean(r.forces**2))))
        for axes, points in zip(panels, (energies, forces), strict=True):
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, "o", ms=3, mew=0, alpha=0.7, color=colors(number % colors.N), label=kind)
    label = "volume [Å³/atom]" if all(all(r.pbc) for r in dataset) else "volume [Å³/atom], or atoms"
    panels[0].set(xlabel=label, ylabel="energy above the references [eV/atom]")
    panels[1].set(xlabel=label, ylabel="RMS force [eV/Å]")
    if 1 < len(kinds) <= 20:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def distances(dataset: Dataset, cutoff: float = 6.0) -> Figure:
    """Histograms of the distances within `cutoff` [Å], each pair of elements by itself."""
    edges = np.linspace(0.0, cutoff, 121)
    counts: dict[str, np.ndarray] = {}
    for r in dataset:
        receivers, senders, shifts = neighbor_pairs(r.positions, r.cell, r.pbc, cutoff)
        lengths = np.linalg.norm(r.positions[senders] + shifts @ r.cell - r.positions[receivers], axis=1)
        numbers = np.sort(np.stack([r.numbers[receivers], r.numbers[senders]]), axis=0)
        for a, b in np.unique(numbers, axis=1).T.tolist():
            here = (numbers[0] == a) & (numbers[1] == b)
            name = f"{SYMBOLS[a]}-{SYMBOLS[b]}"
            counts[name] = counts.get(name, 0) + np.histogram(lengths[here], edges)[0]
    figure, axes = _figure(6.4, 3.6)
    for name, count in sorted(counts.items(), key=lambda item: -item[1].sum())[:10]:
        axes.stairs(count / max(count.max(), 1), edges, label=name, lw=1.2)
    axes.set(xlabel="distance [Å]", ylabel="pairs, of the most frequent")
    if counts:
        axes.legend(fontsize=8)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
