"""Pair energies: how they end, their laws, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones, Morse, Pair, Repulsion, SoftSphere, energy_forces
from jaxmlip.energy.laws import lennard_jones
from jaxmlip.energy.truncation import TRUNCATIONS
from jaxmlip.graph import batch
from jaxmlip.system import make_system

CUTOFF = 3.0
DISTANCES = np.array([0.95, 1.12, 1.7, 2.3, 2.5, 2.8, 2.9999, 3.0001, 3.2])
measure = eqx.filter_jit(energy_forces)


def dimers(distances, numbers=(18, 18)):
    """One graph of many pairs of atoms, each a system of its own."""
    return batch([make_system([[0.0, 0.0, 0.0], [d, 0.0, 0.0]], numbers) for d in distances], CUTOFF + 1.0)


def curve(energy, distances=DISTANCES, numbers=(18, 18)):
    """Energy and force (positive: apart) of pairs at some distances."""
    energies, forces = measure(energy, dimers(distances, numbers))
    return np.asarray(energies), np.asarray(forces)[1::2, 0]


def plain(r):
    return 4.0 * (r**-12.0 - r**-6.0), 24.0 * (2.0 * r**-13.0 - r**-7.0)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_each_truncation_is_its_formula(truncation):
    r, (energy, force) = DISTANCES, plain(DISTANCES)
    last, last_force = plain(np.array(CUTOFF))
    if truncation == "shift":
        energy = energy - last
    if truncation == "force_shift":
        energy, force = energy - last + (r - CUTOFF) * last_force, force - last_force
    if truncation == "switch":
        t = np.clip((r / CUTOFF - 0.8) / 0.2, 0.0, 1.0)
        fade, slope = 1.0 - 10.0 * t**3 + 15.0 * t**4 - 6.0 * t**5, -30.0 * (t * (1.0 - t)) ** 2 / (0.2 * CUTOFF)
        energy, force = energy * fade, force * fade - energy * slope
    inside = r < CUTOFF
    got = curve(LennardJones(1.0, 1.0, CUTOFF, truncation=truncation))
    np.testing.assert_allclose(got[0], np.where(inside, energy, 0.0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got[1], np.where(inside, force, 0.0), rtol=1e-11, atol=1e-12)


def test_an_onset_of_one_is_a_cut():
    onset, cut = (curve(LennardJones(1.0, 1.0, CUTOFF, **how)) for how in ({"onset": 1.0}, {"truncation": "cut"}))
    np.testing.assert_array_equal(onset, cut)


def test_a_user_function_is_an_energy_like_ours():
    user = Pair(lambda r, epsilon, sigma: lennard_jones(r, epsilon, sigma), {"epsilon": 0.7, "sigma": 1.1}, CUTOFF)
    np.testing.assert_allclose(curve(user), curve(LennardJones(0.7, 1.1, CUTOFF)), rtol=1e-14)
    table = {"Ar-Ar": 0.7, "Ar-Kr": 0.5, "Kr-Kr": 0.9}
    user = Pair(lambda r, k: k / r**3, {"k": table}, CUTOFF, truncation="force_shift")
    energies, _ = curve(user, np.array([1.5, 2.0]), (36, 18))
    r = np.array([1.5, 2.0])
    np.testing.assert_allclose(energies, 0.5 * (r**-3.0 - 3.0**-3 + 3.0 * (r - 3.0) * 3.0**-4), rtol=1e-12)


def test_a_law_is_never_evaluated_beyond_the_cutoff():
    undefined_beyond = Pair(lambda r, k: k * jnp.sqrt(CUTOFF + 1e-3 - r), {"k": 1.0}, CUTOFF)
    energies, forces = curve(undefined_beyond)
    assert np.all(np.isfinite(energies)) and np.all(np.isfinite(forces)) and np.all(energies[-2:] == 0.0)


def test_parameters_of_pairs_have_gradients():
    energy = Morse({"Si-O": 1.0, "O-O": 0.5, "Si-Si": 0.2}, 1.3, 1.6, CUTOFF)
    graph = dimers([1.5, 2.0], (14, 8))
    slope = jax.grad(lambda e: jnp.sum(e(graph)))(energy)
    x = np.exp(-1.3 * (np.array([1.5, 2.0]) - 1.6))
    np.testing.assert_allclose(slope.depth, [0.0, np.sum(x * x - 2.0 * x), 0.0], rtol=1e-12)
    assert slope.width.shape == (3,) and float(slope.width[0]) == 0.0 != float(slope.width[1])


def test_morse_has_its_depth_at_its_distance():
    energies, forces = curve(Morse(0.4, 1.5, 1.7, CUTOFF), np.array([1.7, 1.3, 2.2]))
    assert energies[0] == pytest.approx(-0.4, rel=1e-14) and abs(forces[0]) < 1e-14
    x = np.exp(-1.5 * (np.array([1.3, 2.2]) - 1.7))
    np.testing.assert_allclose(energies[1:], 0.4 * (x * x - 2.0 * x), rtol=1e-13)


def test_soft_spheres_touch_smoothly_and_never_reach_beyond_the_cutoff():
    energy = SoftSphere({"Ar-Ar": 2.0, "Ar-Kr": 2.0, "Kr-Kr": 2.0}, {"Ar-Ar": 1.5, "Ar-Kr": 2.0, "Kr-Kr": 2.5})
    assert energy.cutoff == 2.5
    energies, forces = curve(energy, np.array([1.0, 1.5, 2.0]))
    np.testing.assert_allclose(energies, [2.0 / 3.0 / 27.0, 0.0, 0.0], rtol=1e-13)
    np.testing.assert_allclose(forces, [2.0 / 9.0 / 1.5, 0.0, 0.0], rtol=1e-13)
    grown = eqx.tree_at(lambda e: e.sigma, energy, 2.0 * energy.sigma)
    energies, _ = curve(grown, np.array([2.4999, 2.6]))
    assert 0.0 < energies[0] < 1e-10 and energies[1] == 0.0


def test_the_wall_is_its_power_times_the_envelope():
    r = np.array([0.3, 0.9, 1.5, 1.99, 2.1])
    energies, _ = curve(Repulsion(1.5, 12.0, cutoff=2.0), r)
    x = np.minimum(r / 2.0, 1.0)
    envelope = 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8
    np.testing.assert_allclose(energies, 1.5 * r**-12.0 * envelope, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LennardJones(1.0, 1.0, 3.0, truncation="smooth"), "truncation"),
        (lambda: LennardJones(1.0, 1.0, 3.0, truncation="shift", tail=True), "tail correction goes with"),
        (lambda: LennardJones({"Ar": 1.0}, {"Ar": 3.4}, 9.0, elements=(18,)), "leave them out"),
        (lambda: LennardJones(1.0, 1.0, float("nan")), "cutoff"),
        (lambda: Morse(1.0, -1.0, 1.6, 3.0), "`width` must be above 0.0"),
        (lambda: Morse(float("nan"), 1.0, 1.6, 3.0), "depth"),
        (lambda: SoftSphere(1.0, 2.0, exponent=2.0), "at least 3"),
        (lambda: SoftSphere(1.0, 2.0, cutoff=1.0), "largest `sigma`"),
        (lambda: Repulsion(-1.0), "prefactor"),
        (lambda: Repulsion(1.0, 0.0), "exponent"),
        (lambda: Pair(lambda r: r, {"k": 1.0}, 3.0), r"called as function\(r, k\)"),
        (lambda: Pair(lambda r, k: jnp.sum(k * r), {"k": 1.0}, 3.0), "as many energies"),
        (lambda: Pair(lambda r, k: k * r, {"k": 1.0}, 3.0, onset=0.0), "onset"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
