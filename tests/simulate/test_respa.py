"""Multiple time steps: conserving, reversible, of second order, and with fewer evaluations of what is slow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.simulate import NPT, NVE, Langevin, Respa, Split, constrain, run
from jaxmlip.simulate.state import replace


@pytest.fixture(scope="module")
def split(lj):
    """Argon, and a slow attraction from farther away."""
    return Split(lj, LennardJones(epsilon=0.002, sigma=4.2, cutoff=5.2, onset=0.5))


@pytest.fixture(scope="module")
def start(split, argon):
    return NVE(1.0).init(split, argon, key=jax.random.key(3), temperature=160.0)


def scatter(energy, state, integrator, steps):
    end, total = run(integrator, energy, state, steps=steps, every=1, observe=integrator.conserved, guards=None)
    return end, np.std(total)


def test_one_substep_is_velocity_verlet_of_the_sum(split, start):
    one, _ = run(Respa(NVE(2.0 * units.fs), 1), split, start, steps=100, every=100)
    other, _ = run(NVE(2.0 * units.fs), split, start, steps=100, every=100)
    np.testing.assert_allclose(one.system.positions, other.system.positions, atol=1e-10)
    np.testing.assert_allclose(float(one.energy), float(other.energy), rtol=1e-12)
    assert int(one.step) == 100


def test_the_error_is_of_second_order_and_time_runs_backward(split, start):
    errors = [scatter(split, start, Respa(NVE(dt * units.fs), 4), round(1600 / dt / 4))[1] for dt in (1.0, 2.0, 4.0)]
    slopes = np.diff(np.log2(errors))
    assert np.all(np.abs(slopes - 2.0) < 0.3), (errors, slopes)
    integrator = Respa(NVE(2.0 * units.fs), 4)
    forward, _ = run(integrator, split, start, steps=100, every=100)
    back, _ = run(integrator, split, replace(forward, momenta=-forward.momenta), steps=100, every=100)
    np.testing.assert_allclose(back.system.positions, start.system.positions, atol=1e-10)
    assert np.abs(np.asarray(forward.system.positions - start.system.positions)).max() > 0.2


def test_thermostats_constraints_and_classes_nest(split, argon, lj):
    weak = LennardJones(epsilon=0.0005, sigma=4.2, cutoff=5.2, onset=0.5)
    energy = Split(split, weak)
    system = constrain(argon, fixed=[3])
    integrator = Respa(Respa(Langevin(1.0 * units.fs, 80.0, 0.02 / units.fs), 2), 3)
    assert float(integrator.timestep) == pytest.approx(6.0 * units.fs)
    assert integrator.degrees_of_freedom(system) == 93
    state = integrator.init(energy, system, key=jax.random.key(0))
    end, total = run(integrator, energy, state, steps=300, every=1, observe=integrator.conserved)
    assert np.ptp(total) < 1e-2
    np.testing.assert_array_equal(end.system.positions[3], argon.positions[3])
    assert float(end.energy) == pytest.approx(
        float(NVE(1.0).init(energy, end.system, key=end.key, temperature=1.0).energy)
    )
    assert np.abs(np.asarray(end.momenta)).max() > 0 and jnp.isfinite(end.bath.heat)


def test_what_cannot_be_split_is_refused(lj, argon, split):
    integrator = Respa(NVE(1.0 * units.fs), 2)
    state = integrator.init(lj, argon, key=jax.random.key(0), temperature=80.0)
    with pytest.raises(TypeError, match="give `Split"):
        run(integrator, lj, state, steps=1, every=1)
    with pytest.raises(ValueError, match="`substeps` must"):
        Respa(NVE(1.0), 0)
    with pytest.raises(ValueError, match="by forces alone"):
        Respa(NPT(1.0, 80.0, 0.1, 0.0, 10.0), 2)
    assert split.cutoff == 5.2 and split.elements is None
