"""Replica exchange (parallel tempering): copies of a system at rising temperatures that trade places."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from scipy.special import erfcinv

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import grow, hold, rebuild, release
from jaxmlip.observables.thermo import kinetic_energy
from jaxmlip.simulate.checkpoint import save_state
from jaxmlip.simulate.errors import SimulationError
from jaxmlip.simulate.guards import Guards
from jaxmlip.simulate.integrator import AbstractIntegrator
from jaxmlip.simulate.nvt import Heat
from jaxmlip.simulate.schedule import AbstractSchedule
from jaxmlip.simulate.state import Replicas, State, replace
from jaxmlip.system import System

_log = logging.getLogger(__name__)
_ROOM = 64
_RETRIES = 20


def temperature_ladder(
    low: float, high: float, *, rungs: int | None = None, heat_capacity: float | None = None, acceptance: float = 0.3
) -> np.ndarray:
    r"""Temperatures [K] from `low` to `high` at a constant ratio, which makes all exchanges equally likely where the
    heat capacity is constant.

    Give the number of `rungs`, or the `heat_capacity` $C$ of the potential energy [kB; 3N/2 for a harmonic solid] and
    the `acceptance` wanted: for normally distributed energies it is $\mathrm{erfc}(\frac12 \sqrt{C} \ln r)$ for a ratio
    $r$.

    **Raises:** `ValueError` for temperatures that do not rise, or neither or both of `rungs` and `heat_capacity`.

    **Reference:** Kofke, J. Chem. Phys. 117, 6911 (2002), doi:10.1063/1.1507776.
    """
    if not 0.0 < low < high:
        raise ValueError(f"Temperatures must rise from above 0 K; got {low} and {high}.")
    if (rungs is None) == (heat_capacity is None):
        raise ValueError("Give `rungs`, or `heat_capacity` (and `acceptance`), and not both.")
    if rungs is None:
        assert heat_capacity is not None
        if not heat_capacity > 0 or not 0.0 < acceptance < 1.0:
            raise ValueError(f"`heat_capacity` must be positive, `acceptance` within 0 and 1; got {heat_capacity}.")
        step = 2.0 * float(erfcinv(acceptance)) / np.sqrt(heat_capacity)
        rungs = 1 + int(np.ceil(np.log(high / low) / step))
    if rungs < 2:
        raise ValueError(f"A ladder needs at least two `rungs`; got {rungs}.")
    return np.geomspace(low, high, rungs)


def start_replicas(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    system: System,
    *,
    temperatures: Any,
    key: PRNGKeyArray,
    skin: float = 1.0,
) -> Replicas:
    """A copy of `system` for each of `temperatures` [K], with momenta of its own (host).

    **Raises:** `ValueError` for an integrator without a constant temperature to set, fewer than two temperatures, or
    whatever `integrator.init` refuses.
    """
    temperatures = np.asarray(temperatures, np.float64)
    if temperatures.ndim != 1 or len(temperatures) < 2 or not np.all(np.diff(temperatures) > 0):
        raise ValueError(f"`temperatures` must be at least two, rising [K]; got {temperatures.tolist()}.")
    target = getattr(integrator, "temperature", None)
    if target is None or isinstance(target, AbstractSchedule):
        raise ValueError(
            f"Exchange sets the temperature of a thermostat; {type(integrator).__name__} has no constant one."
        )
    count = len(temperatures)
    key, first, draw = jax.random.split(key, 3)
    state = integrator.init(energy, system, key=first, temperature=float(temperatures[0]), skin=skin)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)
    scale = jnp.asarray(np.sqrt(temperatures / temperatures[0]), system.positions.dtype)
    draws = jax.random.split(draw, count)
    momenta = jnp.stack([integrator.momenta(system, k, float(temperatures[0])) for k in draws])
    states = replace(states, key=jax.random.split(first, count), momenta=momenta * scale[:, None, None])
    zero = jnp.zeros(count - 1, jnp.int32)
    return Replicas(states, jnp.arange(count, dtype=jnp.int32), key, jnp.zeros((), jnp.int32), zero, zero)


def exchange(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    replicas: Replicas,
    *,
    temperatures: Any,
    rounds: int,
    steps: int = 100,
    rebuild_every: int = 10,
    observe: Callable[[State], PyTree] | None = None,
    guards: Guards | None = Guards(),  # noqa: B008
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
) -> tuple[Replicas, PyTree]:
    r"""`rounds` times `steps` steps of all replicas at once (`vmap`), then a trial to swap neighbors on the ladder.

    Even and odd pairs take turns; a swap of the temperatures of two replicas is accepted with probability
    $\min(1, e^{(\beta_i - \beta_j)(E_i - E_j)})$, their momenta then scaled by $\sqrt{T'/T}$. Returns the replicas,
    from which another call goes on to the bit, and the record of `observe(state)` at the end of each round before the
    swap, with leading axes of rounds and of temperatures: entry `k` is always at `temperatures[k]`. The
    acceptance of each pair is `replicas.accepted / replicas.attempts`.

    Neighbor lists are rebuilt every `rebuild_every` steps and only checked in between (a rebuild that is sometimes due
    would be computed always under `vmap`). A list that overflowed or whose skin was crossed is enlarged and its chunk
    replayed; a broken guard raises `SimulationError` with the replicas of the last whole chunk, which also stand in the
    file `checkpoint`.

    **Raises:** `ValueError` for counts that make no sense or another number of temperatures; `SimulationError`.

    **Reference:** Sugita & Okamoto, Chem. Phys. Lett. 314, 141 (1999), doi:10.1016/S0009-2614(99)01123-9.
    """
    ladder = jnp.asarray(np.asarray(temperatures, np.float64), replicas.states.momenta.dtype)
    if len(ladder) != len(replicas.rung):
        raise ValueError(f"There are {len(replicas.rung)} replicas, but {len(ladder)} temperatures.")
    if rounds < 0 or steps < 1 or rebuild_every < 1:
        raise ValueError(
            f"Counts must be positive; got {rounds} rounds, {steps} steps, {rebuild_every} between rebuilds."
        )
    guards = Guards(energy_jump=None, max_temperature=None, closest_pair=None) if guards is None else guards
    watch = _Watch(observe)
    counts = jnp.asarray(steps, jnp.int32), jnp.asarray(rebuild_every, jnp.int32)
    last, budget, saved, chunks = int(replicas.round) + rounds, 1, time.monotonic(), []
    while int(replicas.round) < last:
        start = time.monotonic()
        todo = min(budget, _ROOM, last - int(replicas.round))
        for _ in range(_RETRIES):
            result = _chunk(integrator, energy, guards, watch, replicas, ladder, *counts, jnp.asarray(todo, jnp.int32))
            if not bool(jnp.any(result.replicas.states.neighbors.failed)):
                break
            replicas = _enlarged(replicas, result.replicas)
        else:
            raise _error(f"a neighbor list failed again after {_RETRIES} enlargements", replicas, chunks, checkpoint)
        if bool(jnp.any(result.codes)):
            worst = int(jnp.argmax(result.codes))
            state = jax.tree.map(lambda x, k=worst: x[k], result.replicas.states)
            cause = guards.reasons(integrator, state, float(result.previous[worst]), int(result.codes[worst]))
            raise _error(f"replica {worst}: {cause}", replicas, chunks, checkpoint, int(state.step))
        chunks.append(jax.tree.map(lambda x, n=todo: np.asarray(x[:n]), result.buffer))
        replicas = result.replicas
        budget = max(1, int(todo / max(time.monotonic() - start, 1e-3)))
        finished = int(replicas.round) >= last
        if checkpoint is not None and (finished or time.monotonic() - saved > checkpoint_seconds):
            save_state(checkpoint, replicas)
            saved = time.monotonic()
    empty = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), eqx.filter_eval_shape(watch, replicas))
    return replicas, jax.tree.map(lambda *parts: np.concatenate(parts), empty, *chunks)


class _Watch(eqx.Module):
    """What is recorded: the user's observables of each temperature, in their order."""

    observe: Callable | None

    def __call__(self, replicas: Replicas) -> PyTree:
        observe = self.observe
        if observe is None:
            return None
        ordered = jax.tree.map(lambda x: x[jnp.argsort(replicas.rung)], replicas.states)
        return jax.vmap(lambda s: jax.tree.map(jnp.asarray, observe(s)))(ordered)


class _Result(eqx.Module):
    """A chunk of rounds: codes of the guards, conserved energies [eV] before the last step, records."""

    replicas: Replicas
    codes: Int[Array, "replicas"]
    previous: Float[Array, "replicas"]
    buffer: PyTree


@Compiled
def _chunk(integrator, energy, guards, watch, replicas: Replicas, ladder, steps, rebuild_every, rounds) -> _Result:
    """Up to `rounds` rounds; stops where a guard breaks or a list fails."""
    shapes = eqx.filter_eval_shape(watch, replicas)
    buffer = jax.tree.map(lambda x: jnp.zeros((_ROOM, *x.shape), x.dtype), shapes)
    first = replicas.round

    def go_on(carry: _Result):
        return (carry.replicas.round < first + rounds) & _healthy(carry)

    def one(carry: _Result) -> _Result:
        target = ladder[carry.replicas.rung]
        after = _steps(integrator, energy, guards, target, carry, steps, rebuild_every)
        place = after.replicas.round - first
        records = jax.tree.map(
            lambda b, x: lax.dynamic_update_index_in_dim(b, x, place, 0), carry.buffer, watch(after.replicas)
        )
        return _Result(swapped(after.replicas, ladder), after.codes, after.previous, records)

    zero = jnp.zeros(len(ladder), jnp.int32)
    previous = jnp.zeros(len(ladder), ladder.dtype)
    return lax.while_loop(go_on, one, _Result(replicas, zero, previous, buffer))


def _healthy(carry: _Result) -> Bool[Array, ""]:
    return jnp.all(carry.codes == 0) & ~jnp.any(carry.replicas.states.neighbors.failed)


def _steps(integrator, energy, guards, target, carry: _Result, steps, rebuild_every) -> _Result:
    """One round of dynamics: lists rebuilt on a cadence, checked at each step."""

    def at(temperature):
        return eqx.tree_at(lambda i: i.temperature, integrator, temperature)

    def fresh(states: State) -> State:
        lists = jax.vmap(lambda n, s: hold(rebuild(release(n), s)))(states.neighbors, states.system)
        return replace(states, neighbors=lists)

    def step(inner):
        done, states, _, _ = inner
        states = lax.cond(done % rebuild_every == 0, fresh, lambda s: s, states)
        previous = jax.vmap(lambda t, s: at(t).conserved(s))(target, states)
        after = jax.vmap(lambda t, s: at(t).step(energy, s))(target, states)
        codes = jax.vmap(lambda t, s, p: guards.check(at(t), s, p))(target, after, previous)
        return done + 1, after, codes, previous

    def go_on(inner):
        done, states, codes, _ = inner
        return (done < steps) & jnp.all(codes == 0) & ~jnp.any(states.neighbors.failed)

    states = carry.replicas.states
    states = replace(states, neighbors=jax.vmap(hold)(states.neighbors))
    zero = jnp.zeros((), jnp.int32)
    _, states, codes, previous = lax.while_loop(go_on, step, (zero, states, carry.codes, carry.previous))
    states = replace(states, neighbors=jax.vmap(release)(states.neighbors))
    return _Result(dataclasses.replace(carry.replicas, states=states), codes, previous, None)


def swapped(replicas: Replicas, ladder: Float[Array, "rungs"]) -> Replicas:
    """The replicas after one trial to exchange; the round counts up by one."""
    key, draw = jax.random.split(replicas.key)
    states, order = replicas.states, jnp.argsort(replicas.rung)
    places, tried, taken = trial(draw, states.energy[order], ladder, replicas.round % 2)
    rung = jnp.zeros_like(replicas.rung).at[order[places]].set(jnp.arange(len(order), dtype=replicas.rung.dtype))
    scale = jnp.sqrt(ladder[rung] / ladder[replicas.rung])
    momenta = states.momenta * scale[:, None, None]
    bath = states.bath
    if isinstance(bath, Heat):  # what the momenta gain comes from the bath
        kinetic = jax.vmap(kinetic_energy)
        before, after = kinetic(states.momenta, states.system.masses), kinetic(momenta, states.system.masses)
        bath = eqx.tree_at(lambda b: b.heat, bath, bath.heat + before - after)
    return Replicas(
        states=replace(states, momenta=momenta, bath=bath),
        rung=rung,
        key=key,
        round=replicas.round + 1,
        attempts=replicas.attempts + tried.astype(jnp.int32),
        accepted=replicas.accepted + taken.astype(jnp.int32),
    )


def trial(
    key: PRNGKeyArray, energies: Float[Array, "rungs"], ladder: Float[Array, "rungs"], parity: Int[Array, ""]
) -> tuple[Int[Array, "rungs"], Bool[Array, "pairs"], Bool[Array, "pairs"]]:
    """Which rung each rung takes its configuration from, the pairs tried (even or odd ones), and those exchanged.

    `energies` [eV] are the potential energies at the temperatures of the `ladder` [K].
    """
    beta = 1.0 / (units.kB * ladder)
    index = jnp.arange(len(ladder), dtype=jnp.int32)
    tried = index[:-1] % 2 == parity
    exponent = (beta[:-1] - beta[1:]) * (energies[:-1] - energies[1:])
    taken = tried & (jnp.log(jax.random.uniform(key, exponent.shape, exponent.dtype)) < exponent)
    up = jnp.concatenate([taken, jnp.zeros_like(taken[:1])]).astype(jnp.int32)
    down = jnp.concatenate([jnp.zeros_like(taken[:1]), taken]).astype(jnp.int32)
    return index + up - down, tried, taken


def _enlarged(kept: Replicas, failed: Replicas) -> Replicas:
    """Room for the neighbors of the replica that failed; the kept states are otherwise untouched."""
    neighbors = grow(failed.states.neighbors, kept.states.system)  # each round begins with a rebuild anyway
    _log.info("neighbor lists enlarged at round %d: %s", int(failed.round), neighbors.senders.shape)
    return dataclasses.replace(kept, states=replace(kept.states, neighbors=neighbors))


def _error(cause: str, replicas: Replicas, chunks: list, checkpoint, step: int | None = None) -> SimulationError:
    path = None if checkpoint is None else save_state(checkpoint, replicas)
    record = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks) if chunks else None
    step = int(replicas.states.step[0]) if step is None else step
    return SimulationError(cause, step=step, state=replicas, record=record, checkpoint=path)
