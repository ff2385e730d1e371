"""The loop: chunks, restarts, replays, guards."""

import dataclasses
import errno
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy
from jaxmlip.simulate import NPT, NVE, Guards, Interrupted, Langevin, NoseHoover, SimulationError, load_state, run
from jaxmlip.simulate.run import _Loop, _watch

INTEGRATORS = {
    "nve": NVE(2.0 * units.fs),
    "langevin": Langevin(2.0 * units.fs, 80.0, 0.01 / units.fs),
    "nose-hoover": NoseHoover(2.0 * units.fs, 80.0, 100.0 * units.fs),
    "npt": NPT(2.0 * units.fs, 80.0, 0.01 / units.fs, 0.0, 0.3 * units.ps, shape="triclinic"),
}


def observe(state):
    return {"energy": state.energy, "volume": state.system.volume(), "step": state.step}


def leaves(state):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(state)]


def assert_same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", params=list(INTEGRATORS))
def started(request, lj, argon):
    integrator = INTEGRATORS[request.param]
    return integrator, integrator.init(lj, argon, key=jax.random.key(1), temperature=160.0, skin=0.4)


def test_a_restart_from_a_file_continues_to_the_bit(started, lj, tmp_path):
    integrator, state = started
    whole, record = run(integrator, lj, state, steps=200, every=50, observe=observe)
    half, first = run(integrator, lj, state, steps=100, every=50, observe=observe, checkpoint=tmp_path / "state")
    loaded, _ = load_state(tmp_path / "state")
    assert_same(half, loaded)
    again, second = run(integrator, lj, loaded, steps=100, every=50, observe=observe)
    assert_same(whole, again)
    for name in record:
        np.testing.assert_array_equal(record[name], np.concatenate([first[name], second[name]]))
    assert np.any(np.asarray(whole.neighbors.reference_positions) != np.asarray(state.system.positions)), "no rebuild"
    assert record["step"].tolist() == [50, 100, 150, 200]


def test_a_stride_changes_no_result(started, lj):
    integrator, state = started
    one, _ = run(integrator, lj, state, steps=100, every=7, observe=observe)
    other, _ = run(integrator, lj, state, steps=100, every=100, observe=observe)
    assert_same(one, other)


def test_an_overflow_is_replayed_to_the_bit_as_if_there_had_been_room(lj, argon, caplog):
    integrator = INTEGRATORS["nve"]
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=400.0, skin=0.4)
    tight = dataclasses.replace(state, neighbors=_cut(state.neighbors, int(state.neighbors.needed)))
    watch = _watch(observe, False)
    loop = _Loop(integrator, lj, Guards(), watch, None, None, {}, tight)
    with caplog.at_level("INFO", logger="jaxmlip.simulate.run"):
        assert loop.advance(200, 50, 10) == 200
    assert "enlarged" in caplog.text, "the test needs an overflow"
    ample = dataclasses.replace(tight, neighbors=_padded(tight.neighbors, loop.state.neighbors.capacity))
    direct = _Loop(integrator, lj, Guards(), watch, None, None, {}, ample)
    direct.advance(200, 50, 10)
    assert_same(loop.state, direct.state)
    assert_same(loop.record(), direct.record())
    assert loop.record()["step"].tolist() == [50, 100, 150, 200]


def _cut(neighbors, capacity):
    """The same list without its empty slots."""
    return dataclasses.replace(
        neighbors,
        senders=neighbors.senders[:capacity],
        shifts=neighbors.shifts[:, :capacity],
        edge_mask=neighbors.edge_mask[:capacity],
    )


def _padded(neighbors, capacity):
    """The same list with more empty slots."""
    more = capacity - neighbors.capacity
    own = jnp.broadcast_to(jnp.arange(neighbors.senders.shape[1], dtype=jnp.int32), (more, neighbors.senders.shape[1]))
    return dataclasses.replace(
        neighbors,
        senders=jnp.concatenate([neighbors.senders, own]),
        shifts=jnp.pad(neighbors.shifts, ((0, 0), (0, more), (0, 0))),
        edge_mask=jnp.pad(neighbors.edge_mask, ((0, more), (0, 0))),
    )


@pytest.fixture(scope="module")
def hot(lj, argon):
    """Steps so long that the atoms run into each other."""
    integrator = NVE(60.0 * units.fs)
    return integrator, integrator.init(lj, argon, key=jax.random.key(2), temperature=900.0)


@pytest.mark.parametrize(
    "guards, words",
    [
        (Guards(energy_jump=0.05), "jumped by"),
        (Guards(max_temperature=1500.0, energy_jump=None), "temperature exceeds 1500"),
        (Guards(closest_pair=2.5, energy_jump=None, max_temperature=None), r"Å apart \(limit 2.5\)"),
    ],
)
def test_a_broken_guard_stops_with_cause_last_good_state_and_checkpoint(hot, lj, tmp_path, guards, words):
    integrator, state = hot
    with pytest.raises(SimulationError, match=words) as caught:
        run(integrator, lj, state, steps=20_000, every=2, guards=guards, observe=observe, checkpoint=tmp_path / "s")
    error = caught.value
    kept, _ = load_state(tmp_path / "s")
    assert_same(kept, error.state)
    assert 0 <= error.step - int(kept.step) <= 2, "the last good frame is the last one before the failure"
    assert np.isfinite(error.record["energy"]).all()
    recorded = range(2, int(kept.step) + 1, 2)  # a chunk may end between two records
    assert error.record["step"].tolist() == list(recorded)
    assert str(error.checkpoint) in str(error)
    onward = NVE(1.0 * units.fs)
    run(onward, lj, kept, steps=5, every=5)


class Cliff(AbstractEnergy):
    """Nothing, until an atom goes farther than `limit` [Å] along x; then not a number."""

    limit: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph):
        return jnp.where(graph.positions[:, 0] > self.limit, jnp.nan, 0.0)


def test_what_is_not_finite_stops_a_run_even_without_guards(lj, argon):
    integrator = INTEGRATORS["nve"]
    energy = lj + Cliff(float(argon.positions[:, 0].max()) + 0.2)
    state = integrator.init(energy, argon, key=jax.random.key(1), temperature=300.0)
    with pytest.raises(SimulationError, match="not finite") as caught:
        run(integrator, energy, state, steps=5000, every=10, guards=None, observe=observe)
    assert np.isfinite(caught.value.state.forces).all() and np.isfinite(caught.value.record["energy"]).all()
    assert 1 <= caught.value.step - int(caught.value.state.step) <= 10


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="must be positive"):
        Guards(closest_pair=-1.0)


def test_ctrl_c_ends_the_run_with_a_checkpoint_that_continues_to_the_bit(lj, argon, tmp_path):
    integrator = INTEGRATORS["langevin"]
    state = integrator.init(lj, argon, key=jax.random.key(1))

    def interrupt(current):
        if int(current.step) > 50:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        run(integrator, lj, state, steps=10**8, every=10, checkpoint=tmp_path / "s", progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    kept, _ = load_state(tmp_path / "s")
    assert_same(kept, caught.value.state)
    direct, _ = run(integrator, lj, state, steps=int(kept.step), every=10)
    assert_same(kept, direct)


def test_nothing_is_compiled_twice_for_other_parameters(lj, argon):
    class Counting(NVE):
        def step(self, energy, state):
            traces.append(1)
            return super().step(energy, state)

    traces: list[int] = []
    for timestep, epsilon in [(1.0, 0.0104), (2.0, 0.02), (0.5, 0.01)]:
        integrator = Counting(timestep * units.fs)
        energy = eqx.tree_at(lambda e: e.epsilon, lj, jnp.asarray(epsilon))
        state = integrator.init(energy, argon, key=jax.random.key(1), temperature=80.0)
        run(integrator, energy, state, steps=20, every=10)
        first = len(traces) if timestep == 1.0 else first
    assert len(traces) == first > 0


@pytest.mark.parametrize("steps, every", [(-1, 10), (10, 0), (2**31, 10)])
def test_counts_that_make_no_sense_are_refused(lj, argon, steps, every):
    integrator = INTEGRATORS["langevin"]
    state = integrator.init(lj, argon, key=jax.random.key(1))
    with pytest.raises(ValueError, match="(?i)steps?"):
        run(integrator, lj, state, steps=steps, every=every)


class Memory:
    """A writer that keeps frames, and may find the disk full."""

    def __init__(self, room=10**9):
        self.frames, self.room = [], room

    def write(self, system, frames):
        if len(self.frames) + len(frames) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.frames += frames

    def position(self):
        return len(self.frames)

    def rewind(self, position):
        del self.frames[position:]


def test_a_full_disk_stops_the_run_where_files_and_checkpoint_agree(lj, argon, tmp_path):
    integrator = INTEGRATORS["nve"]
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=80.0)
    writer, path = Memory(room=7), tmp_path / "state"
    with pytest.raises(SimulationError, match="No space left on device"):
        run(integrator, lj, state, steps=200, every=10, observe=observe, writer=writer, checkpoint=path)
    kept, metadata = load_state(path)
    assert metadata["writer"] == len(writer.frames) == int(kept.step) // 10
    writer.room = 10**9
    last, _ = run(integrator, lj, kept, steps=200 - int(kept.step), every=10, observe=observe, writer=writer)
    assert [int(f.step) for f in writer.frames] == list(range(10, 201, 10))
    direct, _ = run(integrator, lj, state, steps=200, every=10, observe=observe)
    assert_same(last, direct)
    np.testing.assert_array_equal(writer.frames[-1].positions, direct.system.positions)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(lj, argon, tmp_path):
    integrator = INTEGRATORS["nve"]
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=80.0)
    with pytest.raises(SimulationError, match="cannot be written"):
        run(integrator, lj, state, steps=20, every=10, observe=observe, checkpoint=tmp_path / "absent" / "state")


def test_an_observation_is_computed_for_records_only(lj, argon):
    """It may cost far more than a step: chunks that end between two records must not pay for it."""
    seen = []

    def note(factor, state):
        jax.debug.callback(lambda step: seen.append(int(step)), state.step)
        return factor * state.step

    integrator = INTEGRATORS["nve"]
    state = integrator.init(lj, argon, key=jax.random.key(1), temperature=160.0)
    watched = eqx.Partial(note, jnp.asarray(1, jnp.int32))  # an observation may hold arrays
    _, record = run(integrator, lj, state, steps=50, every=20, observe=watched)  # the first chunk is one step
    jax.effects_barrier()
    assert seen == record.tolist() == [20, 40]
