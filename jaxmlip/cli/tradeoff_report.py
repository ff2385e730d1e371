"""The report of `jaxmlip tradeoff`: what to take and why, as JSON and as a page with pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxmlip.learn.recommend import TradeOff
    from jaxmlip.learn.splits import Point
    from jaxmlip.learn.trade_off import Cell

LABELS = {"energy": "energy [meV/atom]", "force": "force [meV/Å]"}


def record_of(found: TradeOff, notices: Sequence[str] = ()) -> dict[str, Any]:
    """What was found, for JSON: settings, learning curves, shapes and the verdict."""

    def cell(c: Cell) -> dict[str, Any]:
        return dataclasses.asdict(c) | {"score": c.score, "score_error": c.score_error}

    return {
        "recommended": cell(found.simplest),
        "best": cell(found.best),
        "verdict": list(found.verdict),
        "shapes": dict(found.shapes),
        "curves": {kind: dataclasses.asdict(law) for kind, law in found.curves.items()},
        "notices": list(notices),
        "settings": [cell(c) for c in found.cells],
    }


def page(
    lead: str, found: TradeOff, points: Sequence[Point], curve: Sequence[Point], notices: Sequence[str] = ()
) -> str:
    """The report."""
    from jaxmlip.cli.html import Page
    from jaxmlip.learn.recommend import errors_of
    from jaxmlip.learn.trade_off import along

    out = Page("Bias and variance", lead)
    cards = {"recommended": f"{found.simplest.capacity}, {found.simplest.regularisation:g}"}
    cards["its test errors"] = errors_of(found.simplest)
    cards |= {f"errors along {name}": kind for name, kind in found.shapes.items()}
    out.cards(cards)
    out.table("Verdict", "From the figures below.", ("",), [[line] for line in (*found.verdict, *notices)])
    ladder = along(found.cells, "weights")
    if len(ladder) > 1:
        text = "Training and test errors at the best regularisation of each size; bars: standard errors of the folds."
        out.figure("Capacity", text, errors_along(ladder, "weights", "weights of the model", found))
    strengths = [c for c in found.cells if c.weights == found.best.weights]
    if len(strengths) > 1:
        out.figure(
            "Regularisation",
            f"The same for {found.best.capacity}. For the linear model 1 is what the evidence finds.",
            errors_along(strengths, "regularisation", "regularisation", found),
        )
    if found.curves:
        text = "Test errors of nested random training sets, one line for each fold, and the power law through them."
        out.figure("Learning curve", text, learning_curve(curve, found))
    header = ("capacity", "weights", "effective", "regularisation", "train E", "test E", "train F", "test F")
    out.table("Settings", "Energies in meV/atom, forces in meV/Å.", header, [_row(c) for c in found.cells])
    return out.html()


def _row(cell: Cell) -> list[str]:
    effective = "-" if cell.effective is None else f"{cell.effective:.0f}"
    row = [cell.capacity, str(cell.weights), effective, f"{cell.regularisation:g}"]
    for kind in LABELS:
        row.append(f"{1e3 * cell.train[kind]:.3g}" if kind in cell.train else "-")
        there = kind in cell.test
        row.append(f"{1e3 * cell.test[kind]:.3g} ± {1e3 * cell.spread[kind]:.2g}" if there else "-")
    return row


def errors_along(cells: Sequence[Cell], axis: str, label: str, found: TradeOff) -> Figure:
    """Training and test errors against capacity or regularisation, a panel for each kind of label."""
    from jaxmlip.cli import figures

    figure, panels = _panels([k for k in LABELS if all(k in c.test for c in cells)])
    x = np.array([getattr(c, axis) for c in cells], float)
    for kind, axes in panels.items():
        test = 1e3 * np.array([c.test[kind] for c in cells])
        bars = 1e3 * np.array([c.spread[kind] for c in cells])
        train = 1e3 * np.array([c.train.get(kind, np.nan) for c in cells])
        axes.errorbar(x, test, bars, fmt="o-", color=figures.ORANGE, ms=4, capsize=2, label="test")
        axes.plot(x, train, "s--", color=figures.BLUE, ms=4, label="train")
        axes.axvline(getattr(found.simplest, axis), color=figures.GRAY, lw=1, ls=":", label="recommended")
        axes.set(xlabel=label, ylabel=LABELS[kind], yscale="log")
        axes.set_xscale("log" if x.min() > 0 else "symlog")
    _legend(panels)
    return figure


def learning_curve(points: Sequence[Point], found: TradeOff) -> Figure:
    """Test errors against the number of frames, a line for each fold, with the power laws."""
    from jaxmlip.cli import figures

    figure, panels = _panels([k for k in LABELS if k in found.curves])
    for kind, axes in panels.items():
        for seed in sorted({p.seed for p in points}):
            line: Mapping[int, float] = dict(
                sorted((p.frames, e) for p in points if p.seed == seed and (e := p.test[kind]) is not None)
            )
            axes.plot(list(line), [1e3 * e for e in line.values()], "o-", color=figures.GRAY, ms=3, lw=0.7, alpha=0.6)
        law = found.curves[kind]
        x = np.array(sorted({p.frames for p in points}), float)
        text = f"exponent {law.exponent:.2f} ± {law.exponent_error:.2f}"
        axes.plot(x, [1e3 * law.error_at(n) for n in x], color=figures.ORANGE, lw=2, label=text)
        axes.set(xlabel="training frames", ylabel=LABELS[kind], xscale="log", yscale="log")
    _legend(panels)
    return figure


def _panels(kinds: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
    from matplotlib import pyplot as plt

    from jaxmlip.cli import figures

    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(
            1, max(len(kinds), 1), figsize=(4.2 * max(len(kinds), 1), 3.6), layout="constrained"
        )
    return figure, dict(zip(kinds, np.atleast_1d(axes), strict=False))


def _legend(panels: Mapping[str, Any]) -> None:
    for axes in panels.values():
        axes.legend(fontsize=8)
