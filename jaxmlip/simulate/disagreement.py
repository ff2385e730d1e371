"""How far the members of a committee disagree while dynamics run: averages, and the worst frame, kept on the way."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.energy.committee import split_committee, spread
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.simulate.observers import AbstractObserver
from jaxmlip.simulate.state import State


def disagreement(energy: AbstractEnergy, state: State) -> Float[Array, "3"]:
    """Standard deviations over the members of the committee in an energy: of the energy per atom [eV], of the force
    (root mean square over atoms of the length of the vector) and of the worst force of an atom [eV/Å].

    For `observe`, `Mean` and `Autocorrelation`; it costs the forces of all members. A term that all members share, such
    as a prior, changes nothing.

    **Raises:** `ValueError` where there is no committee.
    """
    found = spread(split_committee(energy)[0], to_graph(state.neighbors, state.system))
    square = jnp.sum(found.forces**2, axis=1)
    return jnp.stack([found.energy[0], jnp.sqrt(jnp.mean(square)), jnp.sqrt(jnp.max(square))])


class Disagreed(NamedTuple):
    """What `Disagreement` found: means over the samples, the worst force deviation, and the frame where it was.

    `energy` per atom [eV], `forces` and `worst` [eV/Å]; `step`, `positions` [Å] and `cell` [Å] of the worst frame."""

    samples: int
    energy: float
    forces: float
    worst: float
    step: int
    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "3 3"]


class Disagreement(AbstractObserver):
    """Mean disagreement of a committee along a run, and the frame in which it was worst: the one to label next."""

    def init(self, energy: AbstractEnergy, state: State) -> dict[str, Array]:
        split_committee(energy)
        system = state.system
        return {
            "count": jnp.zeros((), jnp.int32),
            "sum": jnp.zeros((3,), system.positions.dtype),
            "worst": jnp.full((), -1.0, system.positions.dtype),
            "step": jnp.zeros_like(state.step),
            "positions": system.positions,
            "cell": system.cell,
        }

    def update(self, tally: dict[str, Array], energy: AbstractEnergy, state: State) -> dict[str, Array]:
        now, system = disagreement(energy, state), state.system
        worse = now[2] > tally["worst"]
        best = {name: tally[name] for name in ("worst", "step", "positions", "cell")}
        new = {"worst": now[2], "step": state.step, "positions": system.positions, "cell": system.cell}
        kept = jax.tree.map(lambda a, b: jnp.where(worse, a, b), new, best)
        return {"count": tally["count"] + 1, "sum": tally["sum"] + now, **kept}

    def finish(self, tally: dict[str, Array]) -> Disagreed:
        samples = int(tally["count"])
        mean = np.asarray(tally["sum"], np.float64) / max(samples, 1)
        return Disagreed(
            samples=samples,
            energy=float(mean[0]),
            forces=float(mean[1]),
            worst=max(float(tally["worst"]), 0.0),
            step=int(tally["step"]),
            positions=np.asarray(tally["positions"], np.float64),
            cell=np.asarray(tally["cell"], np.float64),
        )
