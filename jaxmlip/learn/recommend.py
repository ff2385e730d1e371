"""Which settings to take after cross-validation, whether the model under- or overfits, and what would help.

**Reference:** Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning* (2009),
doi:10.1007/978-0-387-84858-7, 7.10 (the one-standard-error rule).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxmlip.learn.evidence import KINDS
from jaxmlip.learn.learning_curve import PowerLaw, fit_exponent
from jaxmlip.learn.splits import Point
from jaxmlip.learn.trade_off import Cell, along, shape, standard_error, summarize

_SAME = 0.01  # relative difference of scores that is none
_CLOSE_GAP = 1.15  # test over training errors, below which a model is too stiff rather than too free


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """What a study found: every setting, the `best` one, the `simplest` one within a standard error of it, the learning
    curve of each kind of label, the shape of the errors along each ladder, and the `verdict` in words."""

    cells: tuple[Cell, ...]
    best: Cell
    simplest: Cell
    curves: Mapping[str, PowerLaw]
    shapes: Mapping[str, str]
    verdict: tuple[str, ...]


def weigh(points: Sequence[Point], curve: Sequence[Point] = ()) -> TradeOff:
    """The trade-off that cross-validated errors show (`points`), with the learning curves of one setting (`curve`).

    The recommended setting follows the one-standard-error rule: of all that are within a standard error of the best one
    (of the logarithm of their ratio in the same folds, and at least 1 %), the one with fewest weights, and of those
    the one with the strongest regularisation.

    **Raises:** `UserError` where no point has an error to compare.
    """
    cells = summarize(points)
    best = min(cells, key=lambda c: c.score)
    within = [c for c in cells if _is_near(c, best)]
    simplest = min(within, key=lambda c: (c.weights, -c.regularisation))
    curves = curves_of(curve)
    shapes = {"capacity": _shape_along(cells, "weights"), "regularisation": _shape_along(cells, "regularisation")}
    shapes = {name: found for name, found in shapes.items() if found}
    verdict = tuple(_verdict(cells, best, simplest, curves, shapes))
    return TradeOff(tuple(cells), best, simplest, curves, shapes, verdict)


def _is_near(cell: Cell, best: Cell) -> bool:
    """Whether a setting is within a standard error of the best one; settings with other folds compare their means."""
    if len(cell.scores) != len(best.scores):
        return cell.score <= best.score + best.score_error
    d = np.log(np.array(cell.scores) / np.array(best.scores))
    return bool(d.mean() <= max(_SAME, standard_error(d)))


def curves_of(points: Sequence[Point]) -> dict[str, PowerLaw]:
    """The power law of each kind of label, from the seeds for which every size has an error."""
    sizes = sorted({p.frames for p in points})
    curves = {}
    for kind in KINDS:
        found: dict[int, dict[int, float]] = {}
        for p in points:
            error = p.test[kind]
            if error is not None and error > 0.0:
                found.setdefault(p.seed, {})[p.frames] = error
        whole = [[seed[n] for n in sizes] for seed in found.values() if set(seed) == set(sizes)]
        if whole and len(sizes) > 1:
            curves[kind] = fit_exponent(sizes, np.array(whole))
    return curves


def _shape_along(cells: Sequence[Cell], axis: str) -> str | None:
    """The shape of the scores, where there is a ladder whose rungs have the same folds; along the regularisation at the
    capacity of the best cell."""
    if axis == "weights":
        line = along(cells, axis)
    else:
        best = min(cells, key=lambda c: c.score)
        line = along([c for c in cells if c.weights == best.weights], axis)
    if len(line) < 2 or len({len(c.scores) for c in line}) > 1:
        return None
    return shape(np.array([c.scores for c in line]).T)


def _verdict(
    cells: Sequence[Cell], best: Cell, simplest: Cell, curves: Mapping[str, PowerLaw], shapes: Mapping[str, str]
) -> Iterator[str]:
    """Sentences: what to take, what is wrong with it, what would help."""
    yield f"Take {setting(simplest)}: {errors_of(simplest)}."
    if simplest is not best:
        yield f"The best is {setting(best)}, within a standard error: {errors_of(best)}."
    line = along(cells, "weights")
    kind = "force" if "force" in best.test and "force" in best.train else next(iter(best.test))
    gap = best.test[kind] / max(best.train.get(kind, best.test[kind]), 1e-12)
    text = f"Test errors of the best are {gap:.2f} times those of training ({kind})"
    at_top = best.weights == line[-1].weights
    if at_top and gap < _CLOSE_GAP:
        yield f"{text}, and the largest model is the best: all of them underfit."
    elif not at_top and shapes.get("capacity") in ("U-shaped", "rising", "double descent"):
        yield f"{text}; the largest model has {line[-1].score / best.score - 1.0:+.0%}: it overfits."
    else:
        yield f"{text}."
    larger = _gain_of_capacity(line) if at_top else 0.0
    if larger is not None:
        about = f"by some {larger:.0%}" if larger > 0.0 else "by nothing"
        yield f"Twice the weights would lower the score {about}, by the last rungs of the ladder."
    if kind in curves:
        law = curves[kind]
        gain = law.gain_of_doubling
        yield (
            f"Twice the frames would lower the {kind} error by some {gain:.0%} (exponent {law.exponent:.2f} ± "
            f"{law.exponent_error:.2f})" + _floor_text(law, kind) + "."
        )
        if larger is not None:
            pays = "more frames pay more" if gain > larger else "a larger or better model pays more"
            yield f"By these figures, {pays}." if max(gain, larger) > 0.02 else "Neither would help much."


def _floor_text(law: PowerLaw, kind: str) -> str:
    if law.floor is None or law.floor_error is None or law.floor <= 2.0 * law.floor_error:
        return ""
    unit = "meV/Å" if kind == "force" else "meV/atom"
    return f", less where the curve bends towards {1e3 * law.floor:.3g} ± {1e3 * law.floor_error:.2g} {unit}"


def _gain_of_capacity(line: Sequence[Cell]) -> float | None:
    """By which part twice the weights would lower the score, as they did on the last rungs."""
    smaller = [c for c in line if c.weights <= 0.75 * line[-1].weights]
    if not smaller:
        return None
    slope = np.log(smaller[-1].score / line[-1].score) / np.log(line[-1].weights / smaller[-1].weights)
    return float(1.0 - 2.0**-slope)


def setting(cell: Cell) -> str:
    """A setting in words."""
    return f"{cell.capacity} ({cell.weights} weights), regularisation {cell.regularisation:g}"


def errors_of(cell: Cell) -> str:
    """Test errors with their standard errors, for people."""
    units = {"energy": "meV/atom", "force": "meV/Å", "virial": "meV/atom (virial)"}
    return ", ".join(
        f"{1e3 * cell.test[k]:.3g} ± {1e3 * cell.spread[k]:.2g} {unit}" for k, unit in units.items() if k in cell.test
    )


def table(found: TradeOff) -> str:
    """Training and test errors of every setting, one a line; * the best, > the recommended one."""
    lines = [
        f"  {'capacity':<16} {'weights':>7} {'effective':>9} {'regul.':>8}  "
        f"{'energy meV/atom':>22}  {'force meV/Å':>22}",
        f"  {'':<16} {'':>7} {'':>9} {'':>8}  {'train':>7} {'test':>14}  {'train':>7} {'test':>14}",
    ]
    for cell in found.cells:
        mark = ("*" if cell is found.best else " ") + (">" if cell is found.simplest else " ")
        effective = "-" if cell.effective is None else f"{cell.effective:.0f}"
        cells = "  ".join(f"{_number(cell.train, k):>7} {_with_error(cell, k):>14}" for k in ("energy", "force"))
        lines.append(f"{mark}{cell.capacity:<16} {cell.weights:>7} {effective:>9} {cell.regularisation:>8.3g}  {cells}")
    return "\n".join(lines)


def _number(values: Mapping[str, float], kind: str) -> str:
    return f"{1e3 * values[kind]:.3g}" if kind in values else "-"


def _with_error(cell: Cell, kind: str) -> str:
    return f"{_number(cell.test, kind)} ± {1e3 * cell.spread[kind]:.2g}" if kind in cell.test else "-"
