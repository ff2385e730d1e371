"""Thermostats against jax-md and against exact distributions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_nve import jax_md, oracle  # noqa: F401

from jaxmlip import units
from jaxmlip.observables import temperature
from jaxmlip.simulate import Langevin, NoseHoover, run, thermal_momenta
from jaxmlip.simulate.state import replace, without_drift


def test_momenta_follow_maxwell_and_boltzmann():
    masses = jnp.where(jnp.arange(50_000) % 2 == 0, 1.0, 100.0)
    p = thermal_momenta(jax.random.key(5), masses, 300.0)
    scaled = np.asarray(p / jnp.sqrt(masses * units.kB * 300.0)[:, None])
    for axis in range(3):
        assert stats.kstest(scaled[:, axis], "norm").pvalue > 0.01
    few = masses[:4]  # where three degrees of freedom count: 3N instead of 3N - 3 would be 25 % off
    draws = jax.vmap(lambda k: thermal_momenta(k, few, 300.0))(jax.random.split(jax.random.key(6), 20_000))
    still = jax.vmap(lambda p: without_drift(p, few))(draws)
    assert np.abs(np.asarray(still).sum(axis=1)).max() < 1e-12
    for momenta, dof in ((draws, 12), (still, 9)):
        mean = float(jnp.mean(jax.vmap(lambda p, n=dof: temperature(p, few, n))(momenta)))
        assert abs(mean / 300.0 - 1) < 4 * np.sqrt(2 / (dof * 20_000))


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_langevin_samples_an_oscillator_as_theory_says(well, alone, step):
    """BAOAB of a harmonic oscillator: <q²> is exact at any time step, <p²> is 1 - (w dt)²/4 (units of kT)."""
    replicas, kT = 512, units.kB * 300.0
    integrator, energy = Langevin(step, 300.0, 0.7), well(1.0)
    state = integrator.init(energy, alone(1.0), key=jax.random.key(1))
    q = np.sqrt(kT) * jax.random.normal(jax.random.key(2), (replicas, 1, 3))
    keys = jax.random.split(jax.random.key(3), replicas)

    def start(q, key):
        system = eqx.tree_at(lambda s: s.positions, state.system, q)
        return replace(state, system=system, forces=-q, key=key)

    @jax.jit
    def sample(states):
        def body(states, _):
            states = jax.vmap(integrator.step, in_axes=(None, 0))(energy, states)
            return states, (jnp.mean(states.system.positions**2), jnp.mean(states.momenta**2))

        return jax.lax.scan(body, states, None, length=2000)[1]

    for got, exact in zip(sample(jax.vmap(start)(q, keys)), (1.0, 1.0 - step**2 / 4), strict=True):
        blocks = np.asarray(got)[200:].reshape(18, -1).mean(axis=1) / kT
        error = blocks.std(ddof=1) / np.sqrt(len(blocks))
        assert error < 2e-3
        assert abs(blocks.mean() - exact) < 4 * error


def test_nose_hoover_follows_jax_md_where_it_counts_degrees_of_freedom_alike(jax_md, lj, argon):  # noqa: F811
    dt, kT, tau = 0.375, 21.0 / 2048.0, 20.0  # numbers that survive jax-md's rounding to float32
    integrator = NoseHoover(dt, kT / units.kB, tau, substeps=1, order=1)
    state = integrator.init(lj, argon, key=jax.random.key(3), temperature=150.0)
    atoms = len(argon.numbers)

    def pair(force):
        return jax_md.nvt_nose_hoover(
            force, lambda r, dr, **_: r + dr, dt, kT, chain_length=3, chain_steps=1, sy_steps=1, tau=tau
        )

    def begin(force):
        def start(r):
            first = pair(force)[0](jax.random.PRNGKey(0), r, mass=argon.masses[:, None])
            kinetic = 0.5 * jnp.sum(state.momenta**2 / argon.masses[:, None])
            chain = first.chain
            chain = type(chain)(chain.position, chain.momentum, chain.mass, chain.tau, kinetic, 3 * atoms - 3)
            return first.set(chain=chain)

        return start

    expected = oracle(lambda f: pair(f)[1], begin, lj, argon, state.momenta, 100)
    after, _ = run(integrator, lj, state, steps=100, every=100)
    np.testing.assert_allclose(after.system.positions, expected.position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.bath.positions, expected.chain.position, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["langevin", "nose-hoover"])
def test_the_temperature_of_a_small_cell_is_the_one_asked_for(lj, argon, kind):
    """jax-md's thermostat counts 3N; in 32 atoms this is 3 % too hot."""
    integrator = (
        Langevin(5.0 * units.fs, 120.0, 0.02 / units.fs)
        if kind == "langevin"
        else NoseHoover(5.0 * units.fs, 120.0, 100.0 * units.fs)
    )
    state = integrator.init(lj, argon, key=jax.random.key(3))
    state, _ = run(integrator, lj, state, steps=1000, every=1000)

    def observe(s):
        return temperature(s.momenta, s.system.masses, integrator.degrees_of_freedom(s.system)), integrator.conserved(s)

    _, (T, conserved) = run(integrator, lj, state, steps=10_000, every=5, observe=observe)
    blocks = T.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert error < 2.0
    assert abs(blocks.mean() - 120.0) < 3.5 * error + 0.3  # velocity Verlet is cooler by O(dt²): about 0.2 K here
    assert np.ptp(conserved) < 2e-3 * len(argon.numbers) * 0.0104 * 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: Langevin(1.0 * units.fs, -5.0, 0.1),
        lambda: Langevin(1.0 * units.fs, 300.0, -0.1),
        lambda: NoseHoover(1.0 * units.fs, 300.0, 0.0),
        lambda: NoseHoover(1.0 * units.fs, 0.0, 1.0),
        lambda: NoseHoover(1.0 * units.fs, 300.0, 1.0, chain=1),
        lambda: Langevin(1.0 * units.fs, 1e8, 0.1),
    ],
)
def test_parameters_without_meaning_are_refused(make):
    with pytest.raises(ValueError, match="`(temperature|friction|period|chain)`"):
        make()
