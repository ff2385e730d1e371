"""Dynamic observables from series that are known: oscillators, free flight, given pressures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import Ewald, LennardJones, plan_ewald
from jaxmlip.energy.charges import SpeciesCharges
from jaxmlip.graph import batch
from jaxmlip.observables import green_kubo
from jaxmlip.observables.correlations import (
    LIGHT,
    Diffusion,
    EinsteinDiffusion,
    InfraredSpectrum,
    PowerSpectrum,
    VelocityAutocorrelation,
    Viscosity,
    check_decay,
    model_charges,
    running_integral,
)
from jaxmlip.observables.static import Conditions
from jaxmlip.system import make_system

LJ = LennardJones(0.0104, 3.4, cutoff=6.0)
ROOM = Conditions(jnp.asarray(300.0, jnp.float64))
DT = jnp.asarray(0.2, jnp.float64)
RANDOM = np.random.default_rng(0)


def two_elements():
    system = make_system(RANDOM.uniform(0, 9, (5, 3)), [18, 18, 11, 17, 17], cell=[9.0] * 3)
    momenta = jnp.asarray(RANDOM.normal(size=(5, 3)))
    return batch([system], LJ.cutoff), system, momenta


def test_diffusion_is_the_integral_of_the_correlation():
    series = jnp.asarray(RANDOM.normal(size=(30, 4, 3)))
    curve = VelocityAutocorrelation(lags=12).reduce(series, DT, ROOM)
    direct = [np.mean(np.sum(np.asarray(series[: 30 - k] * series[k:]), axis=2)) for k in range(12)]
    np.testing.assert_allclose(curve, direct, rtol=1e-12)
    running = Diffusion(lags=12, running=True).reduce(series, DT, ROOM)
    np.testing.assert_allclose(running, green_kubo(np.asarray(curve), 0.2) / 3.0, rtol=1e-12, atol=1e-15)
    assert float(Diffusion(lags=12).reduce(series, DT, ROOM)) == pytest.approx(float(running[-1]))


def test_einstein_and_green_kubo_agree_for_a_random_walk():
    """Velocities without memory: D is half the integral at lag zero, whichever way it is taken."""
    v = RANDOM.normal(size=(4000, 20, 3))
    positions = jnp.asarray(np.concatenate([np.zeros((1, 20, 3)), np.cumsum(v, axis=0)]) * 0.2)
    einstein = float(EinsteinDiffusion(start=1, stop=8).reduce(positions, DT, ROOM))
    kubo = float(Diffusion(lags=8).reduce(jnp.asarray(v), DT, ROOM))
    assert einstein == pytest.approx(0.1, rel=0.05)
    assert kubo == pytest.approx(0.1, rel=0.05)


def test_elements_are_chosen():
    graph, system, momenta = two_elements()
    velocities = momenta / system.masses[:, None]
    chosen = VelocityAutocorrelation(element=17).moment(LJ, graph, momenta, system.masses)
    assert float(jnp.mean(jnp.sum(chosen**2, axis=1))) == pytest.approx(
        float(jnp.mean(jnp.sum(velocities[3:] ** 2, 1)))
    )


def test_density_of_states_integrates_to_three_and_peaks_at_the_line():
    frequency, kT, mass = 3.0 * units.THz, float(ROOM.kT), 20.0
    times = np.arange(400) * 5.0 * units.fs
    phases = RANDOM.uniform(0, 2 * np.pi, (1, 60, 3))
    amplitude = np.sqrt(2 * kT / mass)
    velocities = jnp.asarray(amplitude * np.cos(2 * np.pi * frequency * times[:, None, None] + phases))
    grid = jnp.linspace(0.0, 10.0 * units.THz, 400)
    observable = PowerSpectrum(grid, lags=200)
    spectrum = observable.reduce(jnp.sqrt(mass) * velocities, jnp.asarray(5.0 * units.fs), ROOM)
    assert float(jnp.sum(spectrum) * (grid[1] - grid[0])) == pytest.approx(3.0, rel=0.02)
    assert float(grid[jnp.argmax(spectrum)]) == pytest.approx(frequency, rel=0.03)


def test_infrared_spectrum_obeys_its_sum_rule():
    r"""$\int n \alpha d\nu = \frac{\pi}{3 V c k_B T} \langle J^2 \rangle$ times the Coulomb constant."""
    graph, system, momenta = two_elements()
    energy = LJ + Ewald(SpeciesCharges({"Ar": 0.0, "Na": 2.0, "Cl": -1.0}), plan_ewald([system]))
    frequency, times = 4.0 * units.THz, np.arange(400) * 4.0 * units.fs
    grid = jnp.linspace(0.0, 14.0 * units.THz, 500)
    observable = InfraredSpectrum(grid, lags=200)
    one = observable.moment(energy, graph, momenta, system.masses)
    by_hand = np.asarray([0.0, 0.0, 2.0, -1.0, -1.0]) @ np.asarray(momenta / system.masses[:, None])
    np.testing.assert_allclose(one["current"], by_hand, rtol=1e-12)
    current = jnp.asarray(np.cos(2 * np.pi * frequency * times)[:, None] * by_hand[None])
    series = {"current": current, "volume": jnp.full(400, one["volume"])}
    spectrum = observable.reduce(series, jnp.asarray(4.0 * units.fs), ROOM)
    square = 0.5 * np.sum(by_hand**2)
    expected = np.pi * units.coulomb * square / (3.0 * 9.0**3 * LIGHT * float(ROOM.kT))
    assert float(jnp.sum(spectrum) * (grid[1] - grid[0])) == pytest.approx(expected, rel=0.03)
    assert LIGHT * units.fs == pytest.approx(2997.92458)


def test_an_energy_without_charges_is_refused():
    with pytest.raises(ValueError, match="LennardJones has no charges"):
        model_charges(LJ)
    _, system, _ = two_elements()
    term = Ewald(SpeciesCharges({"Ar": 0.0, "Na": 2.0, "Cl": -1.0}), plan_ewald([system]))
    with pytest.raises(ValueError, match="2 sets of charges"):
        model_charges(term + term)


def test_viscosity_is_the_mean_over_all_shears():
    """For an isotropic pressure the formula is that of one shear component."""
    graph, system, momenta = two_elements()
    observable = Viscosity(lags=3)
    moment = jax.jit(observable.moment)(LJ, graph, momenta, system.masses)
    assert abs(float(jnp.trace(moment["pressure"]))) < 1e-15
    kinetic = np.asarray(momenta).T @ np.asarray(momenta / system.masses[:, None])
    free = observable.moment(0.0 * LJ, graph, momenta, system.masses)["pressure"]
    np.testing.assert_allclose(free, (kinetic - np.trace(kinetic) / 3 * np.eye(3)) / 9.0**3, rtol=1e-9, atol=1e-18)
    shears = RANDOM.normal(size=(50, 3, 3))
    shears = shears + shears.transpose(0, 2, 1)
    shears = shears - np.trace(shears, axis1=1, axis2=2)[:, None, None] * np.eye(3) / 3
    series = {"pressure": jnp.asarray(shears), "volume": jnp.full(50, 729.0)}
    direct = [np.mean(np.sum(shears[: 50 - k] * shears[k:], axis=(1, 2))) for k in range(3)]
    expected = 729.0 / (10.0 * float(ROOM.kT)) * np.trapezoid(direct, dx=0.2)
    assert float(observable.reduce(series, DT, ROOM)) == pytest.approx(expected)


def test_running_integral_is_differentiable():
    slope = jax.grad(lambda x: running_integral(x, DT)[-1])(jnp.ones(5, jnp.float64))
    np.testing.assert_allclose(slope, 0.2 * np.array([0.5, 1, 1, 1, 0.5]))


def test_correlations_that_have_not_decayed_are_refused():
    lags = np.arange(50.0)
    check_decay(np.exp(-lags / 10.0), np.full(50, 0.01))
    with pytest.raises(ValueError, match="shorter than the correlation time"):
        check_decay(np.exp(-lags / 50.0), np.full(50, 0.01))


def test_impossible_lags_are_refused():
    with pytest.raises(ValueError, match="between 2 and the 9 moments"):
        Viscosity(lags=10).check(LJ, 9)
    with pytest.raises(ValueError, match="start < stop"):
        EinsteinDiffusion(start=5, stop=6).check(LJ, 9)
