"""What must hold for every integrator: units, replicas, float types, momentum, energy, restarts, one trace."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.simulate import (
    CSVR,
    MTK,
    NPT,
    NVE,
    Berendsen,
    BerendsenNPT,
    Brownian,
    Langevin,
    NoseHoover,
    Ramp,
    Respa,
    Split,
    constrain,
    load_state,
    save_state,
)
from jaxmlip.simulate.state import replace
from jaxmlip.system import make_system

STEPS = 30
TRACED = []
SHAPES = ("isotropic", "anisotropic", "triclinic")
pytestmark = pytest.mark.filterwarnings("ignore:Berendsen:UserWarning")


def kinds(*fast):
    """Every integrator; those that add no code of their own run with the slow tests."""
    every = ("nve", "langevin", "nose-hoover", "csvr", "brownian", "berendsen", "berendsen-npt", *SHAPES)
    every = (*every, "respa", "rigid", *(f"mtk-{shape}" for shape in SHAPES))
    return [pytest.param(k, marks=() if k in fast else pytest.mark.slow) for k in every]


def integrator(kind, scale=1.0, temperature=100.0):
    """One of each, in a unit of length that is `1/scale` Å."""
    dt, friction, period = 4.0 * units.fs, 0.01 / units.fs, 100.0 * units.fs
    pressure, compressibility = 0.3 * units.GPa / scale**3, 0.3 / units.GPa * scale**3
    if kind == "nve":
        return NVE(dt)
    if kind == "respa":
        return Respa(Langevin(0.5 * dt, temperature, friction), 2)
    if kind in ("langevin", "rigid"):
        return Langevin(dt, temperature, friction)
    if kind == "nose-hoover":
        return NoseHoover(dt, temperature, period)
    if kind == "csvr":
        return CSVR(dt, temperature, period)
    if kind == "brownian":
        return Brownian(dt, temperature, 2.0 * friction)
    if kind == "berendsen":
        return Berendsen(dt, temperature, period)
    if kind == "berendsen-npt":
        return BerendsenNPT(dt, temperature, period, pressure, period, compressibility, "triclinic")
    if kind.startswith("mtk-"):
        return MTK(dt, temperature, period, pressure, 4.0 * period, kind.removeprefix("mtk-"))
    return NPT(dt, temperature, friction, pressure, period, compressibility, kind, every=3)


def argon(scale=1.0, dtype=jnp.float64):
    """Four atoms in a sheared cell smaller than twice the cutoff."""
    cell = np.array([[5.4, 0.0, 0.0], [0.4, 5.3, 0.0], [-0.3, 0.5, 5.5]])
    fractions = np.array([[0.0, 0.0, 0.0], [0.02, 0.5, 0.5], [0.5, 0.0, 0.47], [0.5, 0.5, 0.0]])
    masses = np.full(4, 39.95) / scale**2
    return make_system(scale * fractions @ cell, [18] * 4, cell=scale * cell, masses=masses, dtype=dtype)


def energy(kind, scale=1.0):
    pairs = LennardJones(epsilon=0.0104, sigma=3.4 * scale, cutoff=5.0 * scale, onset=0.7)
    return Split(pairs, 0.1 * pairs) if kind == "respa" else pairs


@eqx.filter_jit
def advance(integrator, energy, state):
    TRACED.append(type(integrator))
    return jax.lax.scan(lambda s, _: (integrator.step(energy, s), None), state, None, length=STEPS)[0]


@eqx.filter_jit
def advance_all(integrator, energy, states):
    step = jax.vmap(integrator.step, in_axes=(None, 0))
    return jax.lax.scan(lambda s, _: (step(energy, s), None), states, None, length=STEPS)[0]


def start(kind, scale=1.0, seed=0, dtype=jnp.float64):
    system = argon(scale, dtype)
    if kind == "rigid":
        system = constrain(system, fixed=[3], bonds=[[0, 1], [1, 2]])
    return integrator(kind, scale).init(
        energy(kind, scale), system, key=jax.random.key(seed), temperature=100.0, skin=0.3 * scale, capacity=40
    )


@pytest.mark.parametrize("kind", kinds("langevin", "nose-hoover", "csvr", "brownian", "triclinic"))
def test_another_unit_of_length_gives_the_same_trajectory(kind):
    """Length times s with energy and time as they are: masses over s², momenta over s, pressure over s³."""
    scale = 0.1
    one = advance(integrator(kind), energy(kind), start(kind))
    other = advance(integrator(kind, scale), energy(kind, scale), start(kind, scale))
    np.testing.assert_allclose(other.system.positions / scale, one.system.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(other.system.cell / scale, one.system.cell, rtol=0, atol=1e-10)
    np.testing.assert_allclose(other.momenta * scale, one.momenta, rtol=0, atol=1e-10)
    assert np.abs(np.asarray(one.system.positions - argon().positions)).max() > 0.05, "nothing has moved"


@pytest.mark.parametrize("kind", kinds("langevin", "triclinic"))
def test_replicas_under_vmap_are_the_single_runs(kind):
    singles = [start(kind, seed=seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(9), 3)
    singles = [replace(s, key=k) for s, k in zip(singles, keys, strict=True)]
    together = advance_all(integrator(kind), energy(kind), jax.tree.map(lambda *x: jnp.stack(x), *singles))
    for index, single in enumerate(singles):
        alone = advance(integrator(kind), energy(kind), single)
        np.testing.assert_allclose(together.system.positions[index], alone.system.positions, rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.system.cell[index], alone.system.cell, rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.momenta[index], alone.momenta, rtol=0, atol=1e-12)
    assert np.abs(np.asarray(together.system.positions[0] - together.system.positions[1])).max() > 1e-3


@pytest.mark.parametrize("kind", kinds("langevin", "csvr", "brownian", "triclinic", "mtk-triclinic", "respa", "rigid"))
def test_a_run_keeps_momentum_and_energy_restarts_to_the_bit_and_is_traced_once(kind, tmp_path):
    begin, moving = start(kind), integrator(kind)
    half = advance(moving, energy(kind), begin)
    whole = advance(moving, energy(kind), half)
    loaded, _ = load_state(save_state(tmp_path / "half", half))
    again = advance(moving, energy(kind), loaded)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(one, other)
    assert not bool(whole.neighbors.failed)
    if moving.degrees_of_freedom(begin.system) == 9:
        assert np.abs(np.asarray(whole.momenta).sum(axis=0)).max() < 1e-12 * np.abs(np.asarray(whole.momenta)).sum()
    assert abs(float(moving.conserved(whole) - moving.conserved(begin))) < 0.02 * 12 * units.kB * 100.0
    if kind != "nve":
        traces = len(TRACED)
        hotter = advance(integrator(kind, temperature=150.0), energy(kind), half)
        assert len(TRACED) == traces, "another temperature was compiled anew"
        assert np.abs(np.asarray(hotter.momenta - whole.momenta)).max() > 1e-3


@pytest.mark.parametrize("kind", kinds("csvr", "nose-hoover", "mtk-triclinic"))
def test_the_conserved_energy_takes_account_of_ramps(kind):
    """From 50 to 150 K and, with a barostat, from 0 to 0.6 GPa, within 120 fs; without noise, to second order."""
    if kind in ("nve", "respa", "rigid"):
        pytest.skip("nothing to ramp")
    begin, given = start(kind), integrator(kind)
    ramps = {"temperature": Ramp(50.0, 150.0, STEPS * given.timestep)}
    if not isinstance(given, (Langevin, NoseHoover, CSVR, Brownian, Berendsen)):
        ramps["pressure"] = Ramp(0.0, 0.6 * units.GPa, STEPS * given.timestep)
    errors = []
    for parts in (1, 2):
        changes = {"timestep": given.timestep / parts, **ramps}
        moving = eqx.tree_at(lambda i, c=changes: [getattr(i, k) for k in c], given, list(changes.values()))
        end = begin
        for _ in range(parts):
            end = advance(moving, energy(kind), end)
        assert not bool(end.neighbors.failed)
        errors.append(abs(float(moving.conserved(end) - moving.conserved(begin))))
    assert errors[0] < 0.02 * 12 * units.kB * 100.0
    if isinstance(given, (NoseHoover, MTK)):
        assert errors[1] < 0.35 * errors[0]
    steady = advance(given, energy(kind), begin)
    assert np.abs(np.asarray(steady.momenta - end.momenta)).max() > 1e-3


@pytest.mark.parametrize(
    "kind", kinds("nve", "langevin", "nose-hoover", "csvr", "brownian", "triclinic", "mtk-triclinic", "respa", "rigid")
)
def test_single_precision_stays_single(kind):
    before = start(kind, dtype=jnp.float32)
    after = jax.eval_shape(lambda s: integrator(kind).step(energy(kind), s), before)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
    assert after.momenta.dtype == after.energy.dtype == jnp.float32
