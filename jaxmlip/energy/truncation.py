"""How a pair law ends at its cutoff, and its sum over the pairs of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy.envelope import switch_envelope
from jaxmlip.energy.table import Pairs, pair_index
from jaxmlip.graph import Graph

TRUNCATIONS = ("switch", "force_shift", "shift", "cut")


def check_truncation(cutoff: float, onset: float, truncation: str) -> None:
    """Refuse a cutoff, an onset or a truncation that make no sense.

    **Raises:** `ValueError` with what was given and what is allowed.
    """
    if not 0.0 < cutoff < float("inf"):
        raise ValueError(f"`cutoff` must be positive [Å]; got {cutoff}.")
    if not 0.0 < onset <= 1.0:
        raise ValueError(f"`onset` is a fraction of the cutoff, above 0 and up to 1; got {onset}.")
    if truncation not in TRUNCATIONS:
        raise ValueError(f"`truncation` must be one of {', '.join(TRUNCATIONS)}; got {truncation!r}.")


def sum_pairs(
    graph: Graph,
    law: Callable[..., Float[Array, "*any"]],
    parameters: Mapping[str, Float[Array, "*pairs"]],
    pairs: Pairs | None,
    *,
    cutoff: float,
    onset: float = 0.8,
    truncation: str = "switch",
) -> Float[Array, "atoms"]:
    r"""Energy of each atom [eV]: half of `law(r, **parameters)` for each neighbor nearer than `cutoff`.

    With V the law and $r_c$ the cutoff, `truncation` makes of it

    - `"switch"`: $V(r) S(r)$ with S falling from 1 at `onset * cutoff` to 0, two derivatives continuous;
    - `"force_shift"`: $V(r) - V(r_c) - (r - r_c) V'(r_c)$, one derivative continuous (LFS in the NIST tables);
    - `"shift"`: $V(r) - V(r_c)$, continuous;
    - `"cut"`: $V(r)$, with a step (also `"switch"` with an onset of 1); forces do not see the step.

    Parameters are scalars, or hold one entry for each of `pairs` (see `table.read_pairs`). An atom that is none of
    their elements makes the energy NaN: refuse it before, by `check_elements`. The law is evaluated nowhere beyond the
    cutoff.
    """
    r = graph.lengths()
    inside = r < cutoff
    end = jnp.asarray(cutoff, r.dtype)
    r = jnp.where(inside, r, end)
    values = {name: value.astype(r.dtype) for name, value in parameters.items()}
    index = None if pairs is None else pair_index(graph, pairs)

    def on_edges(value: Float[Array, "*pairs"]) -> Float[Array, "*edges"]:
        return value if index is None or value.ndim == 0 else value[index]

    energy = law(r, **{name: on_edges(value) for name, value in values.items()})
    if truncation == "switch" and onset < 1.0:
        energy = energy * switch_envelope(r / cutoff, onset)
    if truncation in ("shift", "force_shift"):
        last, slope = _at_the_end(law, values, end, 1 if pairs is None else len(pairs))
        energy = energy - on_edges(last if pairs is not None else last[0])
        if truncation == "force_shift":
            energy = energy - (r - end) * on_edges(slope if pairs is not None else slope[0])
    energy = jnp.where(inside, energy, jnp.zeros_like(energy))
    if index is not None:
        energy = jnp.where(index >= 0, energy, jnp.full_like(energy, jnp.nan))
    return graph.sum_edges(0.5 * energy)


def _at_the_end(
    law: Callable, values: Mapping[str, Array], end: Float[Array, ""], kinds: int
) -> tuple[Float[Array, "pairs"], Float[Array, "pairs"]]:
    """Value and slope of the law at the cutoff, for each kind of pair."""
    r = jnp.broadcast_to(end, (kinds,))
    return jax.jvp(lambda x: law(x, **values), (r,), (jnp.ones_like(r),))
