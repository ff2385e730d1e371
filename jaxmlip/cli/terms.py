"""Energies by name: what `[model] prior` and `terms` of a configuration mean."""

from __future__ import annotations

import dataclasses
import functools
import operator
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tyro

from jaxmlip.cli.config import from_dict, suggestion
from jaxmlip.cli.structures import blame
from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import ZBL, AbstractEnergy, Repulsion, Sum
from jaxmlip.errors import UserError

Setting = bool | float | str | dict[str, float]
Spec = str | dict[str, Setting]
"""A name, or a table with the name under `kind` and its settings: `{ kind = "repulsion", prefactor = 50.0 }`."""


class Term(Protocol):
    """The settings of a kind of energy: a frozen dataclass that can make it for the elements of a model."""

    def make(self, elements: tuple[int, ...] | None) -> AbstractEnergy: ...


@dataclasses.dataclass(frozen=True)
class ZBLTerm:
    """The screened repulsion of nuclei; without `cutoff_angstrom` it ends at the sum of the covalent radii."""

    cutoff_angstrom: float | None = None
    onset: float = 0.6

    def make(self, elements: tuple[int, ...] | None) -> AbstractEnergy:
        return ZBL(self.cutoff_angstrom, elements, self.onset)


@dataclasses.dataclass(frozen=True)
class RepulsionTerm:
    """A wall A / r^n: `prefactor` A [eV Å^n], one number or one for each pair of elements, and `exponent` n."""

    prefactor: float | dict[str, float]
    exponent: float = 12.0
    cutoff_angstrom: float = 2.0

    def make(self, elements: tuple[int, ...] | None) -> AbstractEnergy:
        given = self.prefactor if isinstance(self.prefactor, float) else {**self.prefactor}
        wall = Repulsion(given, self.exponent, self.cutoff_angstrom)
        missing = sorted(set(elements or ()) - set(wall.elements or elements or ()))
        if missing:
            raise ValueError(f"`prefactor` has no pairs with {', '.join(SYMBOLS[n] for n in missing)}.")
        return wall


KINDS: dict[str, type] = {"zbl": ZBLTerm, "repulsion": RepulsionTerm}


def make_term(spec: Spec, elements: tuple[int, ...] | None, name: str) -> AbstractEnergy:
    """The energy that the entry `name` of a configuration asks for, for the given elements.

    **Raises:** `UserError` for a kind or setting that does not exist, with the nearest that does, for one that is
    missing and for values that make no sense.
    """
    kind, settings = _read(spec, name)
    term = from_dict(KINDS[kind], settings, f"{name}.")
    for field in dataclasses.fields(term):
        if getattr(term, field.name) is tyro.MISSING:
            raise UserError(f"`{name}.{field.name}` is missing: {kind} needs it.")
    with blame(f"`{name}`"):
        return term.make(elements)


def make_terms(specs: Sequence[Spec], elements: tuple[int, ...] | None, name: str) -> AbstractEnergy | None:
    """The sum of several, or `None` where there are none."""
    terms = [make_term(spec, elements, f"{name}[{i}]") for i, spec in enumerate(specs)]
    return functools.reduce(operator.add, terms) if terms else None


def with_terms(energy: AbstractEnergy, specs: Sequence[Spec], name: str = "terms") -> AbstractEnergy:
    """An energy with further ones added.

    **Raises:** `UserError` also where it holds one of the kind already: nothing is counted twice.
    """
    more = make_terms(specs, energy.elements, name)
    if more is None:
        return energy
    present = {type(term) for term in _terms(energy)}
    for term in _terms(more):
        if type(term) in present:
            raise UserError(
                f"`{name}` asks for a {type(term).__name__}, but the model holds one already: leave it out."
            )
    return energy + more


def is_trained(spec: Spec, name: str) -> tuple[Spec, bool]:
    """A specification without its key `train`, and whether it says `train = true`."""
    kind, settings = _read(spec, name)
    train = settings.pop("train", False)
    if not isinstance(train, bool):
        raise UserError(f"`{name}.train` must be true or false; got {train!r}")
    return {"kind": kind, **settings}, train


def _read(spec: Spec, name: str) -> tuple[str, dict[str, Any]]:
    """Kind and settings; on the command line, a table is written as TOML has it."""
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = tomllib.loads(f"spec = {spec}")["spec"]
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"`{name}` is not a TOML table: {error}; got {spec!r}") from error
    settings: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    kind = settings.pop("kind", None)
    if kind is None:
        raise UserError(f"`{name}.kind` is missing: one of {', '.join(sorted(KINDS))}.")
    if kind not in KINDS:
        raise UserError(f"unknown `{name}` {kind!r}{suggestion(str(kind), KINDS)}")
    return kind, settings


def _terms(energy: AbstractEnergy) -> tuple[AbstractEnergy, ...]:
    return energy.terms if isinstance(energy, Sum) else (energy,)
