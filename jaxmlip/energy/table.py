"""Parameters of pairs of elements: from names (`{"Si-O": 1.2}`) to arrays, and from arrays to the edges of a graph."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.elements import NUMBERS, SYMBOLS
from jaxmlip.energy.base import parameter
from jaxmlip.graph import Graph

Pairs = tuple[tuple[int, int], ...]
Key = str | int | tuple[str | int, ...]
Given = float | np.ndarray | Array | Mapping[Key, float]


def read_pairs(parameters: Mapping[str, Given]) -> tuple[dict[str, Float[Array, "*pairs"]], Pairs | None]:
    """Parameters as arrays, and the pairs of atomic numbers that their entries belong to.

    A number holds for every pair of atoms; a mapping such as `{"Si-O": 1.2, ("O", "O"): 0.4, ("Si", "Si"): 0.0}` names
    them. Without a mapping the arrays are scalars and the pairs `None`; with one, every parameter has an entry for each
    pair of the elements that occur, in sorted order: one for each pair, so that fitting keeps the symmetry.

    **Raises:** `ValueError` naming what is unknown, contradictory or missing.
    """
    tables = {name: _read(name, value, _pair) for name, value in parameters.items() if isinstance(value, Mapping)}
    if not tables:
        return {name: parameter(value) for name, value in parameters.items()}, None
    elements = sorted({z for table in tables.values() for pair in table for z in pair})
    pairs = tuple(itertools.combinations_with_replacement(elements, 2))
    for name, table in tables.items():
        missing = [f"{SYMBOLS[a]}-{SYMBOLS[b]}" for a, b in pairs if (a, b) not in table]
        if missing:
            raise ValueError(
                f"`{name}` lacks {', '.join(missing)}: give every pair of {_names(elements)}, "
                "with 0 for a strength where two elements shall not interact."
            )
    return {name: _expand(tables.get(name, value), pairs) for name, value in parameters.items()}, pairs


def read_elements(
    parameters: Mapping[str, Mapping[Key, float]],
) -> tuple[dict[str, Float[Array, "species"]], tuple[int, ...]]:
    """Parameters of single elements, `{"Ar": 0.0103}`, as arrays in the order of the atomic numbers beside them.

    **Raises:** `ValueError` naming what is unknown or missing.
    """
    tables = {name: _read(name, value, _element) for name, value in parameters.items()}
    elements = tuple(sorted(set().union(*tables.values())))
    for name, table in tables.items():
        missing = [SYMBOLS[z] for z in elements if z not in table]
        if missing:
            raise ValueError(f"`{name}` lacks {', '.join(missing)}: give it for each of {_names(elements)}.")
    return {name: parameter(np.array([table[z] for z in elements])) for name, table in tables.items()}, elements


def elements_of(pairs: Pairs) -> tuple[int, ...]:
    """The atomic numbers that occur in pairs."""
    return tuple(sorted({z for pair in pairs for z in pair}))


def pair_index(graph: Graph, pairs: Pairs) -> Int[Array, "neighbors atoms"]:
    """Which of `pairs` each edge is; -1 for an element that is not among them, so that nothing is ever clamped."""
    elements = elements_of(pairs)
    place = np.full(len(SYMBOLS), len(elements), np.int32)
    place[list(elements)] = np.arange(len(elements))
    matrix = np.full((len(elements) + 1, len(elements) + 1), -1, np.int32)
    for k, (a, b) in enumerate(pairs):
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = k
    species = jnp.asarray(place)[graph.numbers]
    return jnp.asarray(matrix)[species[graph.senders], species[None, :]]


def check_values(name: str, values: Array, *, above: float | None = None, least: float | None = None) -> None:
    """Refuse parameters that are not finite, not above `above`, or less than `least` (host, when an energy is made).

    **Raises:** `ValueError` with what was given and what is allowed.
    """
    given = np.asarray(values)
    allowed = f"above {above}" if above is not None else f"at least {least}" if least is not None else "finite"
    low = (above is not None and np.any(given <= above)) or (least is not None and np.any(given < least))
    if low or not np.all(np.isfinite(given)):
        raise ValueError(f"`{name}` must be {allowed}; got {given.tolist()}.")


def _read(name: str, table: Mapping[Key, float], read) -> dict:
    """A mapping with checked keys; one pair given twice must be given the same."""
    result: dict = {}
    for key, value in table.items():
        where = read(name, key)
        if result.setdefault(where, float(value)) != float(value):
            raise ValueError(f"`{name}` is given twice for {key!r}: {result[where]} and {value}.")
    if not result:
        raise ValueError(f"`{name}` is an empty table; give a number or at least one entry.")
    return result


def _pair(name: str, key: Key) -> tuple[int, int]:
    parts = tuple(key.split("-")) if isinstance(key, str) else key
    if not isinstance(parts, tuple) or len(parts) != 2:
        raise ValueError(f'Keys of `{name}` are pairs of elements, "Si-O" or ("Si", "O"); got {key!r}.')
    a, b = (_element(name, part) for part in parts)
    return min(a, b), max(a, b)


def _element(name: str, key: Key) -> int:
    number = NUMBERS.get(key.strip(), 0) if isinstance(key, str) else key
    if not isinstance(number, (int, np.integer)) or not 0 < number < len(SYMBOLS):
        raise ValueError(f'`{name}` names {key!r}, which is no element; write symbols such as "Si".')
    return int(number)


def _expand(value: float | np.ndarray | Array | dict, pairs: Pairs) -> Float[Array, "pairs"]:
    if isinstance(value, dict):
        return parameter(np.array([value[pair] for pair in pairs]))
    return jnp.broadcast_to(parameter(value), (len(pairs),))


def _names(elements) -> str:
    return ", ".join(SYMBOLS[z] for z in elements)
