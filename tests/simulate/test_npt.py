"""The barostat against the exact ideal gas; its cell, its pressure, its refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, energy_forces_stress
from jaxmlip.graph import Graph
from jaxmlip.graph.neighbors import to_graph
from jaxmlip.observables import pressure
from jaxmlip.simulate import NPT, run
from jaxmlip.simulate.state import replace
from jaxmlip.simulate.strain import exponential
from jaxmlip.system import make_system


class Nothing(AbstractEnergy):
    """No interaction at all: the ideal gas."""

    cutoff: float = eqx.field(static=True, default=0.1)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        return 0.0 * graph.positions[:, 0]


@pytest.mark.parametrize("shape", ["isotropic", pytest.param("anisotropic", marks=pytest.mark.slow), "triclinic"])
def test_the_volume_of_an_ideal_gas_has_its_exact_mean_and_variance(shape):
    """V^N exp(-P V / kT): mean (N + 1) kT/P, variance (N + 1) (kT/P)²."""
    atoms, kT, replicas, steps = 4, units.kB * 300.0, 128, 3000
    target = kT / 200.0  # 200 Å³ for each kT
    integrator = NPT(5.0 * units.fs, 300.0, 0.02 / units.fs, target, 500.0 * units.fs, 1.0 / target, shape, every=1)
    edge = ((atoms + 1) * 200.0) ** (1 / 3)
    positions = edge * np.array([[0.1, 0.1, 0.1], [0.4, 0.5, 0.6], [0.7, 0.2, 0.9], [0.9, 0.8, 0.3]])
    system = make_system(positions, [18] * atoms, cell=[edge] * 3)
    state = integrator.init(Nothing(), system, key=jax.random.key(0), skin=0.1, capacity=1)
    keys = jax.random.split(jax.random.key(1), replicas)
    states = jax.vmap(lambda k: replace(state, key=k))(keys)

    @jax.jit
    def sample(states):
        def body(states, _):
            states = jax.vmap(integrator.step, in_axes=(None, 0))(Nothing(), states)
            return states, jax.vmap(lambda s: s.system.volume())(states)

        return jax.lax.scan(body, states, None, length=steps)[1]

    volumes = np.asarray(sample(states))[steps // 4 :] / 200.0
    each = volumes.mean(axis=0)  # replicas are independent
    assert abs(each.mean() - (atoms + 1)) < 4 * each.std(ddof=1) / np.sqrt(replicas)
    squares = ((volumes - (atoms + 1)) ** 2).mean(axis=0)
    error = squares.std(ddof=1) / np.sqrt(replicas)
    assert error < 0.08 * (atoms + 1)
    assert abs(squares.mean() - (atoms + 1)) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["isotropic", "triclinic"])
def test_a_crystal_under_pressure_carries_that_pressure(lj, argon, shape):
    target = 0.2 * units.GPa
    integrator = NPT(4.0 * units.fs, 40.0, 0.005 / units.fs, target, 0.5 * units.ps, 0.3 / units.GPa, shape)
    state = integrator.init(lj, argon, key=jax.random.key(0))
    state, _ = run(integrator, lj, state, steps=20_000, every=20_000)

    def observe(s):
        stress = energy_forces_stress(lj, to_graph(s.neighbors, s.system)).stress[0]
        return pressure(stress, s.momenta, s.system.masses, s.system.volume())

    _, P = run(integrator, lj, state, steps=200_000, every=50, observe=observe)
    blocks = P.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert error < 0.05 * target
    assert abs(blocks.mean() - target) < 4 * error


def test_a_triclinic_cell_keeps_its_orientation_and_its_energy_bookkeeping(lj, argon):
    integrator = NPT(4.0 * units.fs, 60.0, 0.01 / units.fs, 0.0, 0.1 * units.ps, 0.3 / units.GPa, "triclinic", every=2)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    system = eqx.tree_at(
        lambda s: (s.positions, s.cell), argon, (argon.positions @ jnp.asarray(turn), argon.cell @ jnp.asarray(turn))
    )
    state = integrator.init(lj, system, key=jax.random.key(0))
    after, conserved = run(integrator, lj, state, steps=2000, every=20, observe=lambda s: integrator.conserved(s))
    cell = np.asarray(after.system.cell) @ turn.T
    assert np.abs(np.triu(cell, 1)).max() < 1e-10, "a turns, or the plane of a and b does"
    assert np.abs(np.tril(cell, -1)).max() > 1e-3, "the shape is meant to change"
    assert np.ptp(conserved) < 0.1 * units.kB * 60.0 * len(system.numbers)


def test_the_exponential_is_that_of_scipy():
    from scipy.linalg import expm

    matrix = np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_allclose(exponential(jnp.asarray(matrix)), expm(matrix), rtol=1e-12, atol=1e-13)


def test_a_barostat_needs_a_periodic_cell_and_a_known_shape(lj):
    make = lambda **k: NPT(1.0 * units.fs, 300.0, 0.1, 0.0, 1.0 * units.ps, **k)  # noqa: E731
    with pytest.raises(ValueError, match="periodic in all directions"):
        pair = make_system([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0]], [18, 18])
        make().init(lj, pair, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`shape` must be one of"):
        make(shape="cubic")
    with pytest.raises(ValueError, match="`every`"):
        make(every=0)
