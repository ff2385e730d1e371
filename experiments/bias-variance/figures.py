"""The pictures of the experiment, from its curves."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

BLUE, ORANGE, GRAY, GREEN = "#1f5fa8", "#d9730d", "#6b7280", "#2e7d32"
NAMES = {"si": "mlearn Si", "mo": "mlearn Mo", "ours": "our silicon"}
UNITS = {"force": "meV/Å", "energy": "meV/atom"}
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": "#e5e7eb", "axes.axisbelow": True, "legend.frameon": False}  # fmt: skip


def draw(curves: dict, folder: Path) -> None:
    """capacity.png, ridge.png, learning.png, decomposition.png and networks.png."""
    sets = [name for name in NAMES if name in curves]
    with plt.rc_context(STYLE):
        if sets:
            _against("capacity", curves, sets, folder)
            _against("ridge", curves, sets, folder)
            _learning(curves, sets, folder)
            _decomposition(curves, sets, folder)
        for name in (n for n in curves if n.endswith("_nep")):
            _networks(curves[name], folder)


def _grid(sets: list[str], title: str):
    """The panels of a picture: sets side by side, forces above energies."""
    figure, panels = plt.subplots(2, len(sets), figsize=(3.0 * len(sets), 5.0), layout="constrained", squeeze=False)
    found = []
    for column, name in enumerate(sets):
        panels[0, column].set_title(NAMES[name])
        for row, kind in enumerate(("force", "energy")):
            axes = panels[row, column]
            axes.set(xscale="log", yscale="log", ylabel=f"{kind} {title} [{UNITS[kind]}]" if column == 0 else "")
            found.append((axes, name, kind))
    return figure, found


def _save(figure, path: Path) -> None:
    for axes in figure.axes:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _against(what: str, curves: dict, sets: list[str], folder: Path) -> None:
    figure, panels = _grid(sets, "error")
    for axes, name, kind in panels:
        c = curves[name]
        x = c["weights"] if what == "capacity" else c["ridges"]
        words = (("_evidence", "-"), ("_free", ":")) if what == "capacity" else (("", "-"),)
        tops = []
        for amount, color in (("few", ORANGE), ("many", BLUE)):
            for word, line in words:
                label = f"test, {amount} frames" + (", hardly regularised" if word == "_free" else "")
                test = c[f"{what}_{kind}_{amount}{word}_test"]
                axes.plot(x, test, line, color=color, marker="o", ms=3, label=label)
                tops += test if word != "_free" else []
            train = c[f"{what}_{kind}_{amount}{words[0][0]}_train"]
            axes.plot(x, train, "--", color=color, lw=0.8, label=f"train, {amount} frames")
        axes.set_ylim(top=min(3.0 * max(tops), axes.get_ylim()[1]))
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-3 * max(tops)))
        if kind == "energy":
            axes.set_xlabel("weights" if what == "capacity" else "regularisation, of the evidence's")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=6)
    _save(figure, folder / f"{what}.png")


def _learning(curves: dict, sets: list[str], folder: Path) -> None:
    figure, panels = _grid(sets, "test error")
    for axes, name, kind in panels:
        c = curves[name]
        for seed in c[f"learning_{kind}_seeds"]:
            axes.plot(c["sizes"], seed, color=GRAY, lw=0.6)
        axes.plot(c["sizes"], c[f"learning_{kind}"], "o-", color=BLUE, ms=3, label="best size, mean of seeds")
        axes.plot(c["sizes"], c[f"learning_{kind}_3_body"], "s--", color=ORANGE, ms=3, label="3-body functions")
        if f"{name}_nep" in curves:
            nep = curves[f"{name}_nep"]
            axes.plot(nep["sizes"], nep[f"learning_{kind}"], "^-", color=GREEN, ms=4, label="network")
        axes.set_xticks(c["sizes"], [str(n) for n in c["sizes"]])
        axes.minorticks_off()
        if kind == "energy":
            axes.set_xlabel("training frames")
        if kind == "force":
            axes.legend(fontsize=6)
    _save(figure, folder / "learning.png")


def _decomposition(curves: dict, sets: list[str], folder: Path) -> None:
    figure, panels = _grid(sets, "squared error")
    for axes, name, kind in panels:
        c = curves[name]
        d = c["decomposition"]
        tops = []
        for word, line in (("evidence", "-"), ("free", ":")):
            bias, variance = (np.array(d[f"{kind}_{word}_{part}"]) for part in ("bias2", "variance"))
            tail = ", hardly regularised" if word == "free" else ""
            axes.plot(c["weights"], bias, line, color=BLUE, marker="o", ms=3, label=f"bias²{tail}")
            axes.plot(c["weights"], variance, line, color=ORANGE, marker="s", ms=3, label=f"variance{tail}")
            tops += [*(bias + variance)] if word == "evidence" else []
        axes.set_ylim(top=min(10.0 * max(tops), axes.get_ylim()[1]))
        if kind == "energy":
            axes.set_xlabel(f"weights ({d['frames']} frames)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=6)
    _save(figure, folder / "decomposition.png")


def _networks(c: dict, folder: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(6.0, 2.8), layout="constrained")
    for axes, kind in zip(panels, ("force", "energy"), strict=True):
        for amount, color, n in (("few", ORANGE, c["sizes"][0]), ("many", BLUE, c["sizes"][-1])):
            for what, line in (("test", "o-"), ("train", "s--")):
                axes.plot(
                    c["weights"], c[f"{kind}_{amount}_{what}"], line, color=color, ms=3, label=f"{what}, {n} frames"
                )
        axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel=f"{kind} error [{UNITS[kind]}]")
    panels[0].legend(fontsize=6)
    _save(figure, folder / "networks.png")
