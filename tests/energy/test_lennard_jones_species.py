"""Lennard-Jones mixtures and the correction for what is cut off."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones, check_system, energy_forces_stress
from jaxmlip.graph import batch
from jaxmlip.system import make_system

EPSILON = {18: 0.0104, 36: 0.0141}
SIGMA = {18: 3.4, 36: 3.65}
CUTOFF = 6.0
measure = eqx.filter_jit(energy_forces_stress)


def mixture():
    """Eight atoms of two kinds in a triclinic cell smaller than the cutoff."""
    cell = np.array([[9.0, 0.0, 0.0], [1.2, 8.5, 0.0], [-0.8, 0.9, 9.3]])
    random = np.random.default_rng(3)
    sites = np.array([[i, j, k] for i in (0.0, 0.45) for j in (0.0, 0.5) for k in (0.0, 0.5)])
    return make_system(
        sites @ cell + random.normal(scale=0.15, size=(8, 3)), [18, 36, 36, 18, 18, 36, 18, 18], cell=cell
    )


def by_hand(system, law):
    """Sum over the pairs of all images within the cutoff, in NumPy."""
    positions, cell, numbers = (np.asarray(x) for x in (system.positions, system.cell, system.numbers))
    total = 0.0
    for shift in np.ndindex(5, 5, 5):
        offset = (np.array(shift) - 2) @ cell
        r = np.linalg.norm(positions[None] + offset - positions[:, None], axis=-1)
        for i, j in zip(*np.nonzero((r > 0.0) & (r < CUTOFF)), strict=True):
            total += 0.5 * law(r[i, j], int(numbers[i]), int(numbers[j]))
    return total


def mixed(i, j):
    return np.sqrt(EPSILON[i] * EPSILON[j]), 0.5 * (SIGMA[i] + SIGMA[j])


def test_elements_are_mixed_by_lorentz_and_berthelot():
    system = mixture()
    graph = batch(system, CUTOFF)
    energy = LennardJones(EPSILON, SIGMA, CUTOFF, truncation="cut")
    got = measure(energy, graph)

    def law(r, i, j):
        epsilon, sigma = mixed(i, j)
        return 4.0 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)

    assert energy.elements == (18, 36)
    assert float(got.energy[0]) == pytest.approx(by_hand(system, law), rel=1e-12)
    keys = [(18, 18), (18, 36), (36, 36)]
    tables = [{key: float(mixed(*key)[k]) for key in keys} for k in (0, 1)]
    table = measure(LennardJones(*tables, CUTOFF, truncation="cut"), graph)
    np.testing.assert_allclose(table.forces, got.forces, atol=1e-14)


def test_one_element_in_a_table_is_the_plain_potential():
    argon = eqx.tree_at(lambda s: s.numbers, mixture(), jnp.full(8, 18, jnp.int32))
    graph = batch(argon, CUTOFF)
    plain, table = LennardJones(0.0104, 3.4, CUTOFF), LennardJones({"Ar": 0.0104}, {"Ar": 3.4}, CUTOFF)
    np.testing.assert_allclose(table(graph), plain(graph), rtol=1e-14)


def test_an_element_without_depth_has_gradients():
    """A hydrogen with epsilon 0, as in many water models: no NaN from the geometric mean."""
    energy = LennardJones({"O": 0.007, "H": 0.0}, {"O": 3.15, "H": 0.4}, CUTOFF)
    water = make_system([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], [8, 1, 1])
    slope = jax.grad(lambda e: jnp.sum(e(batch(water, CUTOFF))))(energy)
    assert np.all(np.isfinite(slope.epsilon)) and np.all(np.isfinite(slope.sigma))


@pytest.mark.parametrize("truncation", ["switch", "cut"])
def test_the_tail_is_the_integral_of_what_is_missing(truncation):
    system = mixture()
    numbers = np.asarray(system.numbers)
    volume = float(system.volume())
    r = np.linspace(0.8 * CUTOFF, 60.0 * CUTOFF, 2_000_001)
    t = np.clip((r / CUTOFF - 0.8) / 0.2, 0.0, 1.0)
    lost = t**3 * (10.0 - t * (15.0 - 6.0 * t)) if truncation == "switch" else (r >= CUTOFF).astype(float)
    expected = 0.0
    for i in numbers:
        for j in numbers:
            epsilon, sigma = mixed(int(i), int(j))
            law = 4.0 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)
            expected += 2.0 * np.pi / volume * np.trapezoid(r * r * law * lost, r)
    graph = batch(system, CUTOFF)
    with_tail, without = (
        measure(LennardJones(EPSILON, SIGMA, CUTOFF, truncation=truncation, tail=tail), graph) for tail in (True, False)
    )
    tail = float(with_tail.energy[0] - without.energy[0])
    assert tail == pytest.approx(expected, rel=2e-5)  # the integral ends at 60 cutoffs: 5e-6 are left
    # It depends on the volume alone, as 1 / V: no forces, and the pressure E / V.
    np.testing.assert_allclose(with_tail.forces, without.forces, atol=1e-15)
    np.testing.assert_allclose(with_tail.stress[0] - without.stress[0], -tail / volume * np.eye(3), atol=1e-14)


def test_with_the_tail_a_short_cutoff_is_close_to_a_long_one():
    """Liquid-like argon: pressure and energy at 2.5 sigma with the tail, beside 5 sigma with the tail."""
    random = np.random.default_rng(0)
    side = 5.5
    sites = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3)], float) * side / 1.5
    system = make_system(sites + random.normal(scale=0.8, size=sites.shape), [18] * 27, cell=[2.0 * side] * 3)

    def at(cutoff, tail):
        result = measure(LennardJones(0.0104, 3.4, cutoff, tail=tail), batch(system, cutoff))
        return float(result.energy[0]), float(jnp.trace(result.stress[0]))

    far, near, bare = at(17.0, True), at(8.5, True), at(8.5, False)
    for k in (0, 1):
        assert abs(near[k] - far[k]) < 0.1 * abs(bare[k] - far[k])


def test_the_tail_needs_a_volume():
    energy = LennardJones(0.0104, 3.4, CUTOFF, tail=True)
    bare = LennardJones(0.0104, 3.4, CUTOFF)
    pair = [[0.0, 0.0, 0.0], [3.8, 0.0, 0.0]]
    free = make_system(pair, [18, 18])
    slab = make_system(pair, [18, 18], cell=[9.0, 9.0, 30.0], pbc=(True, True, False))
    for system in (free, slab):
        with pytest.raises(ValueError, match="periodic along all axes"):
            check_system(energy, system)
    check_system(energy, mixture())
    check_system(bare, slab)
    graph = batch([mixture(), free, slab], CUTOFF, atoms=14, slots=5)
    single = LennardJones({18: 0.0104, 36: 0.0104}, {18: 3.4, 36: 3.4}, CUTOFF, tail=True)
    for which in (energy, single):
        result = measure(which, graph)
        assert float(result.energy[1]) == float(measure(bare, graph).energy[1])
        assert np.isnan(float(result.energy[2])) and np.all(np.asarray(result.energy[3:]) == 0.0)
        assert float(result.energy[0]) == pytest.approx(float(measure(energy, batch(mixture(), CUTOFF)).energy[0]))
        assert np.all(np.isfinite(result.forces[:12]))
