"""Observers: averages and time correlations that grow while a run goes on, so that no trajectory is kept."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from jaxmlip.energy import AbstractEnergy, energy_forces_virial
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.observables.heat import check_local, heat_flux
from jaxmlip.observables.structure import of_pair, pair_counts, radial_distribution, structure_factor
from jaxmlip.observables.thermo import pressure_tensor
from jaxmlip.simulate.state import State


class AbstractObserver(eqx.Module):
    """What `run(..., accumulate={"name": observer})` keeps up to date at multiples of `every`.

    A tally is a pytree of arrays (in dicts and tuples) that lives in `state.tallies`: a replayed chunk, a checkpoint, a
    restart and an interruption treat it as they treat positions.
    """

    @abc.abstractmethod
    def init(self, energy: AbstractEnergy, state: State) -> PyTree:
        """The tally before the first sample."""

    @abc.abstractmethod
    def update(self, tally: PyTree, energy: AbstractEnergy, state: State) -> PyTree:
        """The tally with one more sample (inside jit)."""

    @abc.abstractmethod
    def finish(self, tally: PyTree) -> Any:
        """The result so far, in NumPy (host)."""


class Tallies(eqx.Module):
    """What the observers of a run have gathered, a sample every `every` steps."""

    every: Int[Array, ""]
    parts: dict[str, PyTree]


def tallies_for(
    observers: Mapping[str, AbstractObserver] | None, energy: AbstractEnergy, state: State, every: int
) -> Tallies | None:
    """The tallies that a run starts with: those of the state, or new ones (host).

    **Raises:** `ValueError` where the state carries the tallies of other observers, or of another interval.
    """
    if state.tallies is None:
        if not observers:
            return None
        parts = {name: observer.init(energy, state) for name, observer in observers.items()}
        return Tallies(jnp.asarray(every, jnp.int32), parts)
    carried, wanted = sorted(state.tallies.parts), sorted(observers or ())
    if carried != wanted or int(state.tallies.every) != every:
        raise ValueError(
            f"The state carries tallies of {carried}, every {int(state.tallies.every)} steps; this run has {wanted}, "
            f"every {every}. Give the same, or drop the tallies: `dataclasses.replace(state, tallies=None)`."
        )
    for name, observer in (observers or {}).items():
        fresh = eqx.filter_eval_shape(observer.init, energy, state)
        shape = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]  # noqa: E731
        if shape(fresh) != shape(state.tallies.parts[name]):
            raise ValueError(f"The observer {name!r} has other sizes than the tally that the state carries.")
    return state.tallies


def tallied(
    observers: Mapping[str, AbstractObserver], tallies: Tallies, energy: AbstractEnergy, state: State
) -> Tallies:
    """Tallies with one more sample."""
    parts = {name: observer.update(tallies.parts[name], energy, state) for name, observer in observers.items()}
    return Tallies(tallies.every, parts)


def results(observers: Mapping[str, AbstractObserver], state: State) -> dict[str, Any]:
    """What the observers of a run have found so far: `finish` of each (host)."""
    return {name: observer.finish(state.tallies.parts[name]) for name, observer in observers.items()}


Quantity = Callable[[AbstractEnergy, State], Float[Array, "..."]]


class Mean(AbstractObserver):
    """The mean over time of any array, `quantity(energy, state)`; summed with compensation, so exact in float32 too."""

    quantity: Quantity

    def init(self, energy: AbstractEnergy, state: State) -> dict[str, Array]:
        shape = eqx.filter_eval_shape(self.quantity, energy, state)
        zero = jnp.zeros(shape.shape, shape.dtype)
        return {"count": jnp.zeros((), jnp.int32), "sum": zero, "rest": zero}

    def update(self, tally: dict[str, Array], energy: AbstractEnergy, state: State) -> dict[str, Array]:
        total, rest = _plus(tally["sum"], tally["rest"], self.quantity(energy, state))
        return {"count": tally["count"] + 1, "sum": total, "rest": rest}

    def finish(self, tally: dict[str, Array]) -> np.ndarray:
        return _total(tally["sum"], tally["rest"]) / max(int(tally["count"]), 1)


class Correlation(NamedTuple):
    """A function of time: `lags` in samples, `values` at each lag (leading axis), and the number of origins `pairs`."""

    lags: np.ndarray
    values: np.ndarray
    pairs: np.ndarray


class Lags(eqx.Module):
    """The lags of a correlation: the first `points`, then `levels - 1` times a `ratio` farther and sparser.

    With one level every lag and every origin counts. Level $l$ takes each `ratio`$^l$-th sample: its lags are multiples
    of that, exact, with fewer origins; 16 points on 10 levels of ratio 2 reach 8000 samples for 160 kept ones.

    **Reference:** Frenkel & Smit, Understanding Molecular Simulation, 2nd ed. (2002), section 4.4.2 (without its
    coarse-graining, which is exact for the velocity alone).
    """

    points: int = eqx.field(static=True, default=100)
    levels: int = eqx.field(static=True, default=1)
    ratio: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.points < 2 or self.levels < 1 or self.ratio < 2 or self.points % self.ratio:
            raise ValueError(
                "Lags need `points` >= 2, a multiple of `ratio` >= 2, and `levels` >= 1; got "
                f"{self.points}, {self.ratio}, {self.levels}."
            )

    def start(self, sample: PyTree, value: PyTree) -> dict[str, Array]:
        """An empty tally for samples and values (one lag of the kernel) of these shapes."""
        room = (self.levels, self.points)
        zero = jnp.zeros((*room, *value.shape), value.dtype)
        buffer = jnp.zeros((*room, *sample.shape), sample.dtype)
        return {"count": jnp.zeros((), jnp.int32), "buffer": buffer, "sum": zero, "rest": zero}

    def add(self, tally: dict[str, Array], sample: Array, kernel: Callable[[Array, Array], Array]) -> dict[str, Array]:
        """The tally with one more sample; `kernel(sample, earlier)` has a value for each of the earlier samples."""
        count, levels = tally["count"], []
        for level in range(self.levels):
            stride = self.ratio**level
            before = tuple(tally[name][level] for name in ("buffer", "sum", "rest"))
            enter = lambda parts, place=count // stride: self._enter(parts, place, sample, kernel)  # noqa: E731
            due = count % stride == 0
            levels.append(enter(before) if level == 0 else lax.cond(due, enter, lambda parts: parts, before))
        buffer, total, rest = (jnp.stack(part) for part in zip(*levels, strict=True))
        return {"count": count + 1, "buffer": buffer, "sum": total, "rest": rest}

    def _enter(self, parts: tuple, place: Array, sample: Array, kernel: Callable) -> tuple:
        """One level with its sample number `place`; the buffer is a ring."""
        buffer, total, rest = parts
        buffer = lax.dynamic_update_index_in_dim(buffer, sample, place % self.points, 0)
        lags = jnp.arange(self.points, dtype=place.dtype)
        values = kernel(sample, buffer)[(place - lags) % self.points]
        known = (lags <= place).reshape(-1, *(1,) * (values.ndim - 1))
        return buffer, *_plus(total, rest, jnp.where(known, values, jnp.zeros_like(values)))

    def finish(self, tally: dict[str, Array]) -> Correlation:
        """The correlation at all lags that have an origin (host)."""
        count, sums = int(tally["count"]), _total(tally["sum"], tally["rest"])
        lags, values, pairs = [], [], []
        for level in range(self.levels):
            stride = self.ratio**level
            lag = np.arange(0 if level == 0 else self.points // self.ratio, self.points)
            origins = (count + stride - 1) // stride - lag
            keep = origins > 0
            lags.append(lag[keep] * stride)
            pairs.append(origins[keep])
            each = origins[keep].reshape(-1, *(1,) * (sums.ndim - 2))
            values.append(sums[level][lag[keep]] / each)
        return Correlation(np.concatenate(lags), np.concatenate(values), np.concatenate(pairs))


class Autocorrelation(AbstractObserver):
    r"""Mean and autocorrelation $\langle a(t_0) a(t_0 + t) \rangle$ of a vector `quantity(energy, state)`, component by
    component: `finish` gives both. For Green-Kubo integrals: `observables.green_kubo`."""

    quantity: Quantity
    lags: Lags = Lags()

    def init(self, energy: AbstractEnergy, state: State) -> dict[str, Any]:
        if isinstance(self.quantity, HeatFlux) and self.quantity.images is None and not isinstance(state.step, Tracer):
            check_local(energy, to_graph(state.neighbors, state.system))
        sample = eqx.filter_eval_shape(self.quantity, energy, state)
        return {"mean": Mean(self.quantity).init(energy, state), "lags": self.lags.start(sample, sample)}

    def update(self, tally: dict[str, Any], energy: AbstractEnergy, state: State) -> dict[str, Any]:
        sample = self.quantity(energy, state)
        mean = Mean(lambda *_: sample).update(tally["mean"], energy, state)
        return {"mean": mean, "lags": self.lags.add(tally["lags"], sample, lambda a, b: a[None] * b)}

    def finish(self, tally: dict[str, Any]) -> tuple[np.ndarray, Correlation]:
        return Mean(self.quantity).finish(tally["mean"]), self.lags.finish(tally["lags"])


class MeanSquaredDisplacement(AbstractObserver):
    r"""$\langle |r_i(t_0 + t) - r_i(t_0)|^2 \rangle$ [Å²] over atoms (of one element, where `number` is given) and
    origins; with `relative`, seen from the center of mass of all atoms."""

    lags: Lags = Lags()
    number: int | None = eqx.field(static=True, default=None)
    relative: bool = eqx.field(static=True, default=False)

    def init(self, energy: AbstractEnergy, state: State) -> dict[str, Array]:
        _check_number(self.number, state)
        return self.lags.start(state.system.positions, state.energy)

    def update(self, tally: dict[str, Array], energy: AbstractEnergy, state: State) -> dict[str, Array]:
        system, weights = state.system, _weights(self.number, state)
        x = system.positions
        if self.relative:
            x = x - (jnp.sum(system.masses[:, None] * x, axis=0) / jnp.sum(system.masses))[None, :]
        return self.lags.add(
            tally, x, lambda a, b: jnp.sum(jnp.sum((a[None] - b) ** 2, axis=2) * weights[None], axis=1)
        )

    def finish(self, tally: dict[str, Array]) -> Correlation:
        return self.lags.finish(tally)


class VelocityAutocorrelation(AbstractObserver):
    r"""$\langle v_i(t_0) \cdot v_i(t_0 + t) \rangle$ over atoms (of one element, if `number` is given) and origins."""

    lags: Lags = Lags()
    number: int | None = eqx.field(static=True, default=None)

    def init(self, energy: AbstractEnergy, state: State) -> dict[str, Array]:
        _check_number(self.number, state)
        return self.lags.start(state.momenta, state.energy)

    def update(self, tally: dict[str, Array], energy: AbstractEnergy, state: State) -> dict[str, Array]:
        weights = _weights(self.number, state)
        v = state.momenta / state.system.masses[:, None]
        return self.lags.add(tally, v, lambda a, b: jnp.sum(jnp.sum(a[None] * b, axis=2) * weights[None], axis=1))

    def finish(self, tally: dict[str, Array]) -> Correlation:
        return self.lags.finish(tally)


class PairDistribution(eqx.Module):
    """The radial distribution function g(r) of a state in bins between `edges` [Å], for `Mean`; `pair` are the atomic
    numbers of center and neighbor where only those count."""

    edges: Float[Array, "edges"] = eqx.field(converter=jnp.asarray)
    pair: tuple[int, int] | None = eqx.field(static=True, default=None)

    def __call__(self, energy: AbstractEnergy, state: State) -> Float[Array, "bins"]:
        graph = to_graph(state.neighbors, state.system)
        edges = self.edges.astype(graph.positions.dtype)
        counts = graph.numbers.shape[0]
        graph, norm = of_pair(graph, self.pair)
        return norm * radial_distribution(pair_counts(graph, edges), edges, counts, state.system.volume())


class StructureFactor(eqx.Module):
    """S(q) of a state at wave vectors `indices` (whole multiples of the reciprocal lattice), for `Mean`."""

    indices: Int[Array, "waves 3"] = eqx.field(converter=jnp.asarray)

    def __call__(self, energy: AbstractEnergy, state: State) -> Float[Array, "waves"]:
        return structure_factor(state.system.positions, state.system.cell, self.indices)


def pressure_components(energy: AbstractEnergy, state: State) -> Float[Array, "6"]:
    """Instantaneous pressure [eV/Å³], compression positive: xx yy zz yz xz xy; for `Mean` and `Autocorrelation`.

    **Raises:** `ValueError` for rigid bonds, whose forces are not in the stress of the energy.
    """
    if state.system.constraints is not None and len(state.system.constraints.pairs):
        raise ValueError("The pressure of a system with rigid bonds is not that of its energy: it has no observer yet.")
    system = state.system
    volume = system.volume()
    _, _, virial = energy_forces_virial(energy, to_graph(state.neighbors, system))
    p = pressure_tensor(-virial[0].astype(volume.dtype) / volume, state.momenta, system.masses, volume)
    return jnp.stack([p[0, 0], p[1, 1], p[2, 2], p[1, 2], p[0, 2], p[0, 1]])


class HeatFlux(eqx.Module):
    """The heat flux of a state [eV·Å/time unit], for `Autocorrelation`; see `observables.heat_flux`."""

    images: tuple[int, int, int] | None = eqx.field(static=True, default=None)

    def __call__(self, energy: AbstractEnergy, state: State) -> Float[Array, "3"]:
        system = state.system
        velocities = state.momenta / system.masses[:, None]
        return heat_flux(energy, to_graph(state.neighbors, system), velocities, system.masses, images=self.images)


def _plus(total: Array, rest: Array, value: Array) -> tuple[Array, Array]:
    """A sum and what rounding kept from it, with `value` added (Kahan)."""
    value = value + rest
    after = total + value
    return after, value - (after - total)


def _total(total: Array, rest: Array) -> np.ndarray:
    return np.asarray(total, np.float64) + np.asarray(rest, np.float64)


def _weights(number: int | None, state: State) -> Float[Array, "atoms"]:
    dtype = state.momenta.dtype
    chosen = (state.system.numbers == number) if number is not None else (state.system.numbers > 0)
    chosen = chosen.astype(dtype)
    return chosen / jnp.sum(chosen)


def _check_number(number: int | None, state: State) -> None:
    if number is not None and number not in np.asarray(state.system.numbers).tolist():
        raise ValueError(f"`number` must be the atomic number of some atom; there is no {number} in the system.")
