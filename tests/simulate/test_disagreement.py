"""The observer of a committee: what it keeps is what a loop over the frames finds."""

import jax
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import Committee, LennardJones, energy_forces
from jaxmlip.graph import batch
from jaxmlip.simulate import NVE, Disagreement, Mean, disagreement, results, run
from jaxmlip.system import make_system

MEMBERS = [LennardJones(epsilon, 3.4, 5.0) for epsilon in (0.0100, 0.0104, 0.0109)]


@pytest.fixture(scope="module")
def system():
    rng = np.random.default_rng(0)
    sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2.0
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])
    positions = 5.4 * (sites[None] + grid[:, None]).reshape(-1, 3)
    return make_system(positions + 0.05 * rng.normal(size=positions.shape), [18] * 32, cell=10.8 * np.eye(3))


@pytest.mark.slow
def test_means_and_the_worst_frame(system):
    committee = Committee.of(MEMBERS)
    energy = committee + LennardJones(0.001, 3.0, 5.0)  # what all members share changes nothing
    integrator = NVE(2.0 * units.fs)
    state = integrator.init(energy, system, key=jax.random.key(0), temperature=60.0)
    observers = {"all": Disagreement(), "mean": Mean(disagreement)}
    state, (positions, cells) = run(
        integrator,
        energy,
        state,
        steps=40,
        every=10,
        accumulate=observers,
        observe=lambda s: (s.system.positions, s.system.cell),
    )
    found = results(observers, state)
    expected = []
    for x, cell in zip(positions, cells, strict=True):
        graph = batch(make_system(x, [18] * 32, cell=cell), 5.0)
        each = [energy_forces(member, graph) for member in MEMBERS]
        energies = np.array([float(e[0]) for e, _ in each])
        size = np.linalg.norm(np.stack([np.asarray(f) for _, f in each]).std(axis=0, ddof=1), axis=1)
        expected.append([energies.std(ddof=1) / 32, np.sqrt(np.mean(size**2)), size.max()])
    expected = np.array(expected)
    np.testing.assert_allclose(found["mean"], expected.mean(axis=0), rtol=1e-6)
    one = found["all"]
    assert one.samples == len(expected)
    np.testing.assert_allclose([one.energy, one.forces], expected.mean(axis=0)[:2], rtol=1e-6)
    worst = int(np.argmax(expected[:, 2]))
    assert one.worst == pytest.approx(expected[worst, 2], rel=1e-6)
    np.testing.assert_allclose(one.positions, positions[worst], atol=1e-12)


def test_without_a_committee_it_is_refused_before_the_run(system):
    integrator = NVE(2.0 * units.fs)
    state = integrator.init(MEMBERS[0], system, key=jax.random.key(0), temperature=60.0)
    with pytest.raises(ValueError, match=r"Committee\.of"):
        run(integrator, MEMBERS[0], state, steps=10, every=10, accumulate={"all": Disagreement()})
