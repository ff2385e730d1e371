"""The loop: chunks of steps compiled once, guarded, observed, written and checkpointed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import grow
from jaxmlip.simulate.checkpoint import save_state
from jaxmlip.simulate.errors import Interrupted, SimulationError
from jaxmlip.simulate.frames import Writer, frame, split
from jaxmlip.simulate.guards import Guards
from jaxmlip.simulate.integrator import AbstractIntegrator
from jaxmlip.simulate.observers import AbstractObserver, tallied, tallies_for
from jaxmlip.simulate.state import State, replace

_log = logging.getLogger(__name__)
_CHUNK_SECONDS = 1.0
_BUFFER_BYTES = 64 * 1024**2
_LAST_STEP = 2**31 - 1
_RETRIES = 20


def run(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    state: State,
    *,
    steps: int,
    every: int = 100,
    observe: Callable[[State], PyTree] | None = None,
    accumulate: Mapping[str, AbstractObserver] | None = None,
    guards: Guards | None = Guards(),  # noqa: B008
    writer: Writer | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    metadata: dict[str, Any] | None = None,
    progress: Callable[[State], None] | None = None,
) -> tuple[State, PyTree]:
    """Advance `state` by `steps`; returns the last state and the record of `observe(state)` at multiples of `every`.

    The record is the pytree that `observe` returns, as NumPy arrays with a leading `steps` axis; a function that is not
    the same object, or a module of another structure, is compiled anew. Observers in `accumulate` see the same states
    and keep their tallies in `state.tallies` (`observers.results` reads them); a run of a state that has some goes on
    with them. Steps run in chunks of about a second on the device; lengths are not compiled in, and where chunks end
    changes no result. After each:

    - a neighbor list that overflowed is enlarged and the chunk replayed; nothing is lost;
    - a broken guard (`guards=None`: only what is not finite) raises `SimulationError` with the last good state;
    - frames go to `writer`, and every `checkpoint_seconds` [s] the state goes to the file `checkpoint` with `metadata`;
    - Ctrl-C or SIGTERM end the run with `Interrupted`, frames and checkpoint written;
    - `progress(state)` is called.

    **Raises:** `ValueError` for counts that make no sense, and tallies of other observers; `SimulationError`;
    `Interrupted`.
    """
    _check_counts(state, steps, every)
    accumulate = dict(accumulate or {})
    state = dataclasses.replace(state, tallies=tallies_for(accumulate, energy, state, every))
    guards = Guards(energy_jump=None, max_temperature=None, closest_pair=None) if guards is None else guards
    watch = _watch(observe, writer is not None)
    room = _room(watch, state, steps, every)
    loop = _Loop(integrator, energy, guards, watch, writer, checkpoint, metadata or {}, state, accumulate)
    budget, last = 1, int(state.step) + steps
    saved = time.monotonic()
    with _signals() as received:
        while int(loop.state.step) < last:
            start = time.monotonic()
            done = loop.advance(min(budget, last - int(loop.state.step)), every, room)
            elapsed = max(time.monotonic() - start, 1e-6)
            budget = max(1, min(int(done * _CHUNK_SECONDS / elapsed), 10 * done + 10, 10**8))
            if progress is not None:
                progress(loop.state)
            finished, interrupted = int(loop.state.step) >= last, bool(received)
            if finished or interrupted or time.monotonic() - saved > checkpoint_seconds:
                path = loop.save()
                saved = time.monotonic()
                if interrupted and not finished:
                    raise Interrupted(state=loop.state, record=loop.record(), checkpoint=path, signal=received[0])
    return loop.state, loop.record()


class _Loop:
    """The host's side of a run: the kept state, what was recorded, where files stand."""

    def __init__(self, integrator, energy, guards, watch, writer, checkpoint, metadata, state: State, observers=None):
        self.integrator, self.energy, self.guards, self.watch = integrator, energy, guards, watch
        self.writer, self.checkpoint, self.metadata = writer, checkpoint, metadata
        self.state, self.observers = state, observers or {}
        self.chunks: list[PyTree] = []
        self.empty = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), eqx.filter_eval_shape(watch, state)[0])

    def advance(self, budget: int, every: int, room: int) -> int:
        """One chunk of at most `budget` steps and `room` records; returns the number of steps made."""
        for _ in range(_RETRIES):
            result = self._compiled(budget, every, room)
            if not bool(result.state.neighbors.failed) or not _finite(result.state):
                break
            self._enlarge(result.state)
        else:
            raise self._error(f"the neighbor list failed again after {_RETRIES} enlargements", self.state)
        if int(result.code):
            raise self._tripped(result, every, room)
        done = int(result.state.step) - int(self.state.step)
        self._keep(result)
        return done

    def record(self) -> PyTree:
        return jax.tree.map(lambda *parts: np.concatenate(parts), self.empty, *self.chunks)

    def save(self) -> Path | None:
        """Write the checkpoint; where the disk refuses, the older one is still there and the run stops."""
        try:
            return self._write_checkpoint()
        except OSError as error:
            cause = f"the checkpoint {self.checkpoint} cannot be written ({error}); an older one is untouched"
            raise SimulationError(cause, step=int(self.state.step), state=self.state, record=self.record()) from error

    def _write_checkpoint(self) -> Path | None:
        if self.checkpoint is None:
            return None
        position = None if self.writer is None else self.writer.position()
        return save_state(self.checkpoint, self.state, writer=position, **self.metadata)

    def _compiled(self, budget: int, every: int, room: int) -> _Result:
        counts = (jnp.asarray(budget, jnp.int32), jnp.asarray(every, jnp.int32))
        return jax.block_until_ready(
            _advance(self.integrator, self.energy, self.guards, self.watch, self.observers, self.state, *counts, room)
        )

    def _keep(self, result: _Result) -> None:
        """Write the whole records of a chunk that went well, then take them over with its state."""
        count = int(result.count)
        if count:
            observed, frames = jax.tree.map(lambda x: np.asarray(x[:count]), result.buffer)
            if self.writer is not None:
                try:
                    self.writer.write(self.state.system, split(frames))
                except OSError as error:
                    raise self._error(f"the trajectory cannot be written ({error})", self.state) from error
            self.chunks.append(observed)
        self.state = result.state

    def _enlarge(self, failed: State) -> None:
        """Room for the neighbors of the step that failed; the kept state is otherwise untouched."""
        neighbors = grow(failed.neighbors, self.state.system, kept=self.state.neighbors)
        _log.info("neighbor list enlarged at step %d: %s", int(failed.step), neighbors.senders.shape)
        self.state = replace(self.state, neighbors=neighbors)

    def _tripped(self, result: _Result, every: int, room: int) -> SimulationError:
        """Return to the last record before the guard broke (or to the start of the chunk), and say why."""
        step, start = int(result.state.step), int(self.state.step)
        cause = self.guards.reasons(self.integrator, result.state, float(result.previous), int(result.code))
        good = (step - 1) // every * every
        if good > start:
            self._keep(self._compiled(good - start, every, room))
        return self._error(cause, self.state, step)

    def _error(self, cause: str, state: State, step: int | None = None) -> SimulationError:
        try:
            path = self._write_checkpoint()
        except OSError as error:
            cause, path = f"{cause}; and the checkpoint cannot be written ({error})", None
        step = int(state.step) if step is None else step
        return SimulationError(cause, step=step, state=state, record=self.record(), checkpoint=path)


class _Result(eqx.Module):
    """What a chunk hands back: state, code of the guards, conserved energy [eV] before the last step, records."""

    state: State
    code: Int[Array, ""]
    previous: Float[Array, ""]
    count: Int[Array, ""]
    buffer: PyTree


@Compiled
def _advance(
    integrator: AbstractIntegrator,
    energy: AbstractEnergy,
    guards: Guards,
    watch: Callable,
    observers: dict[str, AbstractObserver],
    state: State,
    budget: Int[Array, ""],
    every: Int[Array, ""],
    room: int,
) -> _Result:
    """Up to `budget` steps and `room` records; stops at once where a guard breaks or the neighbor list fails.

    Lengths are dynamic, so that every step of every chunk runs the same machine code: results cannot depend on them.
    """
    last = state.step + budget
    shape = eqx.filter_eval_shape(watch, state)
    buffer = jax.tree.map(lambda x: jnp.zeros((room, *x.shape), x.dtype), shape)

    def healthy(carry: _Result):
        return (carry.code == 0) & ~carry.state.neighbors.failed

    def step(carry: _Result) -> _Result:
        previous = integrator.conserved(carry.state)
        after = integrator.step(energy, carry.state)
        return _Result(after, guards.check(integrator, after, previous), previous, carry.count, carry.buffer)

    def to_record(carry: _Result) -> _Result:
        stop = jnp.minimum((carry.state.step // every + 1) * every, last)
        tallies = carry.state.tallies  # they do not travel through the steps
        inner = _Result(dataclasses.replace(carry.state, tallies=None), carry.code, carry.previous, carry.count, None)
        inner = lax.while_loop(lambda c: healthy(c) & (c.state.step < stop), step, inner)
        whole = healthy(inner) & (inner.state.step % every == 0)
        # An observation may cost more than a step, and most chunks of a slow energy end between two records.
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        observed = lax.cond(whole, lambda s: watch(s), lambda s: nothing, inner.state)
        index = jnp.minimum(carry.count, room - 1)
        buffer = jax.tree.map(lambda b, x: lax.dynamic_update_index_in_dim(b, x, index, 0), carry.buffer, observed)
        if observers:
            sample = lambda kept: tallied(observers, kept, energy, inner.state)  # noqa: E731
            tallies = lax.cond(whole, sample, lambda kept: kept, tallies)
        state = dataclasses.replace(inner.state, tallies=tallies)
        return _Result(state, inner.code, inner.previous, carry.count + whole.astype(jnp.int32), buffer)

    zero = jnp.zeros((), jnp.int32)
    start = _Result(state, zero, integrator.conserved(state), zero, buffer)
    return lax.while_loop(lambda c: healthy(c) & (c.state.step < last) & (c.count < room), to_record, start)


class _Watch(eqx.Module):
    """What is recorded of a state: the user's observables, and the frame where there is a writer."""

    observe: Callable | None
    frames: bool = eqx.field(static=True)

    def __call__(self, state: State) -> tuple[PyTree, PyTree]:
        observed = None if self.observe is None else jax.tree.map(jnp.asarray, self.observe(state))
        return observed, frame(state) if self.frames else None


def _watch(observe: Callable | None, frames: bool) -> _Watch:
    return _Watch(observe, frames)


def _room(watch: _Watch, state: State, steps: int, every: int) -> int:
    """Records that a chunk may hold: a power of 16 (so that few sizes are compiled), within 64 MiB."""
    leaves = jax.tree.leaves(eqx.filter_eval_shape(watch, state))
    size = sum(np.prod(x.shape) * x.dtype.itemsize for x in leaves)
    fits = [room for room in (1, 16, 256, 4096) if room == 1 or room * size <= _BUFFER_BYTES]
    return next((room for room in fits if room >= steps // every), fits[-1])


def _finite(state: State) -> bool:
    return bool(jnp.all(jnp.isfinite(state.system.positions)) & jnp.all(jnp.isfinite(state.system.cell)))


def _check_counts(state: State, steps: int, every: int) -> None:
    if steps < 0 or every < 1:
        raise ValueError(f"`steps` must be at least 0 and `every` at least 1; got {steps} and {every}.")
    if int(state.step) + steps > _LAST_STEP:
        raise ValueError(f"Step numbers end at {_LAST_STEP}; this run would reach {int(state.step) + steps}.")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM while a chunk runs (main thread only); a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number, _):
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
