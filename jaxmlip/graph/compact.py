"""Compaction in jit: from a bit for every candidate to the first few that are set, atom by atom.

Sorting or scattering all candidates is what XLA does slowly on a CPU. Here a candidate costs one bit: the words are
counted, and slot `k` finds its word by bisection and its bit by halving the word, so the work after the distance test
grows with the neighbors kept and not with the candidates tried.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

WORD = 32


def select_bits(
    words: UInt32[Array, "words atoms"], capacity: int
) -> tuple[Int[Array, "neighbors atoms"], Bool[Array, "neighbors atoms"], Int[Array, "atoms"]]:
    """The first `capacity` set bits of each column, in order, as `(index, found, count)`.

    `index` is `32 * word + bit` (where not `found`, any valid index) and `count` how many bits the column has.
    """
    size = words.shape[0]
    ones = lax.population_count(words).astype(jnp.int32)
    below = jnp.cumsum(ones, axis=0, dtype=jnp.int32)
    count = below[-1]
    slot = lax.broadcasted_iota(jnp.int32, (capacity, words.shape[1]), 0)
    found = slot < count[None, :]
    place = jnp.zeros_like(slot)
    step = 1 << (size.bit_length() - 1)
    while step:
        probe = place + (step - 1)
        passed = (probe < size) & (_take(below, jnp.minimum(probe, size - 1)) <= slot)
        place = jnp.where(passed, place + step, place)
        step //= 2
    place = jnp.minimum(place, size - 1)
    rank = slot - (_take(below, place) - _take(ones, place))
    return place * WORD + _nth_bit(_take(words, place), rank), found, count


def _take(table: Array, rows: Int[Array, "neighbors atoms"]) -> Array:
    return jnp.take_along_axis(table, rows, axis=0, mode="clip")


def _nth_bit(
    word: UInt32[Array, "neighbors atoms"], rank: Int[Array, "neighbors atoms"]
) -> Int[Array, "neighbors atoms"]:
    """Place of the set bit that has `rank` set bits below it."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = lax.population_count(word & jnp.uint32((1 << width) - 1)).astype(jnp.int32)
        above = rank >= low
        rank = jnp.where(above, rank - low, rank)
        word = jnp.where(above, word >> jnp.uint32(width), word)
        place = jnp.where(above, place + width, place)
    return place
