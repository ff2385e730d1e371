"""Constraints: bonds that stay, degrees of freedom that count, and dynamics that stay exact within them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.observables import kinetic_energy, temperature
from jaxmlip.simulate import (
    NPT,
    NVE,
    Guards,
    Langevin,
    NoseHoover,
    SimulationError,
    constrain,
    load_state,
    minimize,
    run,
    save_state,
)
from jaxmlip.simulate.constraints import degrees_of_freedom, eliminate, project, violation
from jaxmlip.simulate.state import replace
from jaxmlip.system import make_system

WATER = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.2399872, 0.92662721, 0.0]])


def waters(repeat=2, spacing=3.6, dtype=jnp.float64):
    """Rigid molecules shaped and weighted like water, on a grid, turned at random; bonds cross the boundary."""
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(repeat**3, 3, 3)))[0]
    grid = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3) * spacing
    molecules = np.concatenate([WATER[None] @ turns + grid])
    positions = molecules.reshape(-1, 3) % (repeat * spacing)
    system = make_system(positions, [8, 1, 1] * repeat**3, cell=[repeat * spacing] * 3, dtype=dtype)
    first = 3 * np.arange(repeat**3)[:, None, None]
    bonds = (first + np.array([[0, 1], [0, 2], [1, 2]])[None]).reshape(-1, 2)
    return constrain(system, bonds=bonds)


@pytest.fixture(scope="module")
def soft():
    """Every atom repels and attracts every other, weakly enough for a molecule to be stiff in comparison."""
    return LennardJones(epsilon=0.01, sigma=2.2, cutoff=4.5, onset=0.7)


def conserved(integrator):
    return lambda s: (integrator.conserved(s), violation(s.system))


@pytest.fixture(scope="module")
def warm(soft):
    """Molecules in equilibrium; 300 K."""
    integrator = Langevin(1.0 * units.fs, 300.0, 0.05 / units.fs)
    state = integrator.init(soft, waters(), key=jax.random.key(0))
    state, _ = run(integrator, soft, state, steps=1000, every=1000)
    return state


def scatter(soft, state, timestep_fs, time_fs=400.0):
    """Standard deviation of the total energy over the same stretch of time."""
    integrator = NVE(timestep_fs * units.fs)
    start = integrator.init(soft, state.system, key=jax.random.key(1), momenta=state.momenta)
    _, (total, _) = run(
        integrator, soft, start, steps=int(time_fs / timestep_fs), every=1, observe=conserved(integrator)
    )
    return np.std(total)


def test_molecules_stay_rigid_and_keep_their_energy(soft, warm):
    integrator = NVE(1.0 * units.fs)
    state = integrator.init(soft, warm.system, key=jax.random.key(1), momenta=warm.momenta)
    end, (total, off) = run(integrator, soft, state, steps=6000, every=20, observe=conserved(integrator))
    assert off.max() < 1e-12
    assert np.abs(np.asarray(end.system.positions - state.system.positions)).max() > 1.0, "nothing has moved"
    slope = np.polyfit(np.arange(len(total)) * 0.02, total, 1)[0]  # eV/ps
    assert np.std(total) < 1e-3 and abs(slope) < 1e-4


@pytest.mark.slow
def test_the_error_of_the_energy_falls_with_the_square_of_the_step(soft, warm):
    errors = [scatter(soft, warm, dt) for dt in (0.5, 1.0, 2.0)]
    slopes = np.diff(np.log2(errors))
    assert np.all(np.abs(slopes - 2.0) < 0.25), slopes


def test_time_runs_backward_within_constraints(soft, warm):
    integrator = NVE(1.0 * units.fs)
    state = integrator.init(soft, warm.system, key=jax.random.key(1), momenta=warm.momenta)
    forward, _ = run(integrator, soft, state, steps=300, every=300)
    back, _ = run(integrator, soft, replace(forward, momenta=-forward.momenta), steps=300, every=300)
    np.testing.assert_allclose(back.system.positions, state.system.positions, atol=1e-9)
    assert np.abs(np.asarray(forward.system.positions - state.system.positions)).max() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["langevin", "nose-hoover"])
def test_thermostats_count_what_rigid_molecules_have(soft, warm, kind):
    """24 atoms with 24 bonds: 72 - 24 = 48 degrees of freedom, 45 without the total momentum; 3N would be 1/3 off."""
    integrator = (
        Langevin(1.0 * units.fs, 300.0, 0.05 / units.fs)
        if kind == "langevin"
        else NoseHoover(1.0 * units.fs, 300.0, 50.0 * units.fs)
    )
    dof = integrator.degrees_of_freedom(warm.system)
    assert dof == (48 if kind == "langevin" else 45)
    state = integrator.init(soft, warm.system, key=jax.random.key(2))

    def observe(s):
        return temperature(s.momenta, s.system.masses, dof), integrator.conserved(s), violation(s.system)

    _, (T, total, off) = run(integrator, soft, state, steps=11_000, every=10, observe=observe)
    blocks = T[100:].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert error < 6.0 and abs(blocks.mean() - 300.0) < 3.5 * error + 1.0
    assert off.max() < 1e-12
    assert np.ptp(total) < 0.02


@pytest.mark.slow
def test_a_gas_of_rigid_dimers_has_exactly_its_temperature():
    """Without forces g-BAOAB samples momenta exactly at any time step: five degrees of freedom a molecule."""
    dimers = 200
    rng = np.random.default_rng(1)
    centers = 20.0 * np.arange(dimers)[:, None] * np.array([[1.0, 0.0, 0.0]])
    axes = rng.normal(size=(dimers, 3))
    axes *= 0.6 / np.linalg.norm(axes, axis=1)[:, None]
    positions = np.stack([centers - axes, centers + axes], axis=1).reshape(-1, 3)
    system = make_system(positions, [7, 1] * dimers)
    system = constrain(system, bonds=np.arange(2 * dimers).reshape(-1, 2))
    nothing = LennardJones(epsilon=0.0, sigma=1.0, cutoff=3.0)
    integrator = Langevin(5.0 * units.fs, 300.0, 0.1 / units.fs)
    state = integrator.init(nothing, system, key=jax.random.key(0))

    def observe(s):
        p = s.momenta.reshape(dimers, 2, 3)
        middle = jnp.sum(p, axis=1)
        mass = s.system.masses[0] + s.system.masses[1]
        whole = jnp.sum(middle**2) / (2.0 * mass)
        return whole, kinetic_energy(s.momenta, s.system.masses) - whole, violation(s.system)

    _, (moving, turning, off) = run(integrator, nothing, state, steps=8000, every=40, observe=observe, guards=None)
    assert off.max() < 1e-12
    kT = units.kB * 300.0
    for energy, dof in ((moving, 3 * dimers), (turning, 2 * dimers)):
        blocks = (2.0 * energy / (dof * kT)).reshape(20, -1).mean(axis=1)
        error = blocks.std(ddof=1) / np.sqrt(20)
        assert error < 8e-3 and abs(blocks.mean() - 1.0) < 3.5 * error
        assert abs(blocks.mean() * dof / (dof + dimers) - 1.0) > 3.5 * error, "one degree more must show"


def test_fixed_atoms_stay_to_the_bit_and_are_not_counted(lj, argon):
    system = constrain(argon, fixed=[0, 5, 9])
    integrator = Langevin(2.0 * units.fs, 80.0, 0.02 / units.fs)
    assert integrator.degrees_of_freedom(system) == 3 * 29 == NVE(1.0).degrees_of_freedom(system)
    state = integrator.init(lj, system, key=jax.random.key(0))
    end, total = run(integrator, lj, state, steps=2000, every=10, observe=integrator.conserved)
    held = np.asarray([0, 5, 9])
    np.testing.assert_array_equal(end.system.positions[held], argon.positions[held])
    assert np.abs(np.asarray(end.system.positions - argon.positions)).max() > 0.2
    assert np.all(np.asarray(end.momenta)[held] == 0.0) and np.ptp(total) < 5e-3
    relaxed = minimize(lj, system, fmax=1e-4)
    assert bool(relaxed.converged)
    np.testing.assert_array_equal(relaxed.system.positions[held], argon.positions[held])
    assert np.linalg.norm(relaxed.forces[0]) > 1e-2, "a fixed atom feels a force, and does not follow"


def test_a_center_of_mass_at_rest_stays_where_it_is(lj, argon):
    system = constrain(argon, center_of_mass=True)
    integrator = Langevin(2.0 * units.fs, 80.0, 0.02 / units.fs)
    assert integrator.degrees_of_freedom(system) == 3 * 32 - 3
    end, T = run(
        integrator,
        lj,
        integrator.init(lj, system, key=jax.random.key(0)),
        steps=10_000,
        every=10,
        observe=lambda s: temperature(s.momenta, s.system.masses, 93),
    )
    middle = lambda x: np.average(np.asarray(x), axis=0, weights=np.asarray(argon.masses))  # noqa: E731
    np.testing.assert_allclose(middle(end.system.positions), middle(argon.positions), atol=1e-11)
    blocks = T.reshape(20, -1).mean(axis=1)
    assert abs(blocks.mean() - 80.0) < 3.5 * blocks.std(ddof=1) / np.sqrt(20) + 0.2


@pytest.mark.slow
def test_bonds_to_fixed_atoms_turn_about_them_and_single_precision_holds(soft):
    system = make_system([[50.0, 0, 0], [51.0, 0, 0], [51.0, 1.0, 0]], [6, 6, 6], dtype=jnp.float32)
    system = constrain(system, fixed=[0], bonds=[[0, 1], [1, 2]])
    assert degrees_of_freedom(system, conserves_momentum=True) == 9 - 3 - 2
    integrator = NVE(0.5 * units.fs)
    nothing = LennardJones(epsilon=0.0, sigma=0.5, cutoff=1.2)
    state = integrator.init(nothing, system, key=jax.random.key(3), temperature=600.0)
    end, (total, off) = run(
        integrator, nothing, state, steps=5000, every=50, observe=conserved(integrator), guards=None
    )
    np.testing.assert_array_equal(end.system.positions[0], system.positions[0])
    assert end.system.positions.dtype == jnp.float32
    assert off.max() < 8e-6, "positions of 50 Å are rounded by 2e-6 Å each"
    assert np.ptp(total) < 2e-3 * total[0]


def test_a_restart_of_a_constrained_run_continues_to_the_bit(soft, warm, tmp_path):
    integrator = Langevin(1.0 * units.fs, 300.0, 0.05 / units.fs)
    state = integrator.init(soft, warm.system, key=jax.random.key(2))
    whole, _ = run(integrator, soft, state, steps=60, every=20)
    half, _ = run(integrator, soft, state, steps=20, every=20)
    loaded, _ = load_state(save_state(tmp_path / "s", half))
    again, _ = run(integrator, soft, loaded, steps=40, every=20)
    np.testing.assert_array_equal(whole.system.positions, again.system.positions)
    np.testing.assert_array_equal(whole.momenta, again.momenta)


def test_a_step_too_long_for_the_bonds_is_noticed(soft, warm):
    integrator = NVE(60.0 * units.fs)
    state = integrator.init(soft, warm.system, key=jax.random.key(2), temperature=3000.0)
    with pytest.raises(SimulationError, match="rigid bonds are off|not finite"):
        run(integrator, soft, state, steps=50, every=1, guards=None)


def test_projection_is_orthogonal_and_done_once(warm):
    system = warm.system
    p = jax.random.normal(jax.random.key(0), (24, 3)) * jnp.sqrt(system.masses)[:, None]
    kept = project(system, p)
    np.testing.assert_allclose(project(system, kept), kept, atol=1e-13)
    removed = p - kept
    assert abs(float(jnp.sum(removed * kept / system.masses[:, None]))) < 1e-12
    matrix = jax.random.normal(jax.random.key(1), (5, 4, 4)) + 4.0 * jnp.eye(4)[None]
    right = jax.random.normal(jax.random.key(2), (5, 4))
    np.testing.assert_allclose(eliminate(matrix, right), jnp.linalg.solve(matrix, right[..., None])[..., 0], atol=1e-12)


def test_given_lengths_are_met_before_anything_moves():
    system = make_system(WATER, [8, 1, 1])
    there = constrain(system, bonds=[[0, 1], [0, 2], [1, 2]], lengths=[1.0, 1.0, 1.633])
    distances = np.linalg.norm(np.asarray(there.positions)[[0, 0, 1]] - np.asarray(there.positions)[[1, 2, 2]], axis=1)
    np.testing.assert_allclose(distances, [1.0, 1.0, 1.633], rtol=1e-12)


def test_constraints_without_meaning_are_refused(lj, argon, soft):
    refused = [
        (dict(fixed=[40]), "`fixed` must be indices"),
        (dict(fixed=range(32)), "not all of them"),
        (dict(bonds=[[3, 3]]), "two different atoms"),
        (dict(bonds=[[0, 1]], lengths=[9.0]), "within 20 %"),
        (dict(bonds=[[0, 1], [1, 0]]), "not independent"),
        (dict(fixed=[0, 1], bonds=[[0, 1]]), "not independent"),
        (dict(fixed=[0], center_of_mass=True), "not conserved"),
    ]
    for arguments, words in refused:
        with pytest.raises(ValueError, match=words):
            constrain(argon, **arguments)
    line = make_system([[0.0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]], [6, 8, 8])
    with pytest.raises(ValueError, match="in a line"):
        constrain(line, bonds=[[0, 1], [0, 2], [1, 2]])
    barostat = NPT(1.0 * units.fs, 80.0, 0.01 / units.fs, 0.0, 1.0 * units.ps)
    with pytest.raises(ValueError, match="NPT would break constraints"):
        barostat.init(lj, constrain(argon, fixed=[0]), key=jax.random.key(0))
    with pytest.raises(ValueError, match="rigid bonds"):
        minimize(soft, waters())
    assert constrain(constrain(argon, fixed=[0])).constraints is None
    assert dataclasses.replace(argon).constraints is None
    assert Guards().closest_pair is not None
