"""EAM, Stillinger-Weber and Tersoff: LAMMPS, hard geometries, and dynamics that conserves energy."""

import importlib.util
import sys
import tarfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.energy import EAM, StillingerWeber, Tersoff, energy_forces, hessian
from jaxmlip.energy.eam import cubics
from jaxmlip.graph import batch
from jaxmlip.simulate import NVE, run
from jaxmlip.system import make_system

SECTIONS = Path(__file__).parents[2] / "experiments" / "reference-values"
forces = eqx.filter_jit(energy_forces)
SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
TERSOFF = "Si Si Si 3.0 1.0 1.3258 4.8381 2.0417 0.0 22.956 0.33675 1.3258 95.373 3.0 0.2 3.2394 3264.7\n"


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    """Both potentials of silicon."""
    folder = tmp_path_factory.mktemp("silicon")
    (folder / "Si.sw").write_text(SW)
    (folder / "Si.tersoff").write_text(TERSOFF)
    return {"sw": StillingerWeber.from_file(folder / "Si.sw"), "tersoff": Tersoff.from_file(folder / "Si.tersoff")}


def section(name):
    """A section of `experiments/reference-values`."""
    if str(SECTIONS) not in sys.path:
        sys.path.insert(0, str(SECTIONS))
    spec = importlib.util.spec_from_file_location(f"reference_values_{name}", SECTIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def diamond(repeats, constant=5.431):
    fcc = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    cells = np.array(list(np.ndindex(repeats, repeats, repeats)))
    sites = (np.concatenate([fcc, fcc + 0.25])[None] + cells[:, None]).reshape(-1, 3)
    return make_system(constant * sites, [14] * len(sites), cell=constant * repeats * np.eye(3))


def test_silicon_agrees_with_stored_lammps_numbers(shared_data):
    keys, rows = section("manybody").measure(True, shared_data)
    assert len(rows) == 24 and keys["manybody_max_rel"] <= 1e-9


@pytest.mark.slow
def test_many_potentials_agree_with_lammps(shared_data):
    keys, rows = section("lammps").measure(True, shared_data)
    assert rows and keys["lammps_max_rel"] <= 1e-7


@pytest.mark.parametrize("name", ["sw", "tersoff"])
def test_hard_geometries_have_finite_derivatives(silicon, name):
    """A pair, collinear atoms, two neighbors on one spot, an atom just inside the cutoff, one alone, one far away."""
    energy = silicon[name]
    end = energy.cutoff
    places = [[0.0, 0, 0], [2.3, 0, 0]], [[0.0, 0, 0], [2.3, 0, 0], [4.6, 0, 0]]
    places += [[0.0, 0, 0], [2.3, 0, 0], [2.3, 0, 0], [0, 2.4, 0]], [[0.0, 0, 0], [2.4, 0, 0], [0, end - 1e-9, 0]]
    places += [[0.0, 0, 0]], [[0.0, 0, 0], [0, 2.5, 0], [0, 0, 20.0]]
    together = {"sw": {2}, "tersoff": set()}[name]  # two atoms on one spot have an infinite energy
    for case, positions in enumerate(places):
        beside = make_system([[0.5 * k, 0.0, 0.0] for k in range(len(positions))], [14] * len(positions))
        graph = batch(
            beside, end, atoms=4, neighbors=4
        )  # all are in the list; systems with atoms on one spot are refused
        rest = [[0.0, 0, 0]] * (4 - len(positions))
        graph = graph.with_positions(jnp.asarray([*positions, *rest]))
        total, force = forces(energy, graph)
        second = hessian_of(energy, graph)
        finite = np.isfinite(total[0]) and np.all(np.isfinite(force)) and np.all(np.isfinite(second))
        assert finite != (case in together), f"case {case}: energy {total}, forces {force}"


hessian_of = eqx.filter_jit(hessian)


def test_angles_are_those_of_a_sum_over_triplets(silicon):
    """The energy of a cluster by plain loops."""
    energy = silicon["sw"]
    positions = np.random.default_rng(0).uniform(0.0, 4.0, (6, 3)) + 0.5 * np.arange(6)[:, None]
    eps, sigma, a, lam, gamma, c0, big_a, big_b = (float(x) for x in SW.split()[3:11])
    total = 0.0
    for i, x in enumerate(positions):
        r = np.linalg.norm(positions - x, axis=1)
        near = [j for j in range(6) if j != i and r[j] < a * sigma]
        h = np.exp(gamma * sigma / np.where(r < a * sigma, r - a * sigma, 1.0))
        for m, j in enumerate(near):
            total += 0.5 * big_a * eps * (big_b * (sigma / r[j]) ** 4 - 1.0) * np.exp(sigma / (r[j] - a * sigma))
            for k in near[:m]:
                cosine = np.dot(positions[j] - x, positions[k] - x) / (r[j] * r[k])
                total += lam * eps * (cosine - c0) ** 2 * h[j] * h[k]
    found = forces(energy, batch(make_system(positions, [14] * 6), energy.cutoff))[0]
    assert float(found[0]) == pytest.approx(total, rel=1e-13)


def test_cubics_are_smooth_and_exact_for_quadratics():
    x = np.linspace(0.0, 3.0, 31)
    a, b, c, d = np.moveaxis(cubics(np.sin(x)), -1, 0)
    np.testing.assert_allclose((a + b + c + d)[:-1], d[1:], atol=1e-15)
    np.testing.assert_allclose((3 * a + 2 * b + c)[:-1], c[1:], atol=1e-15)
    np.testing.assert_allclose(c[2:-1] / 0.1, np.cos(x[2:-2]), atol=1e-5)
    a, b, c, d = np.moveaxis(cubics(x**2), -1, 0)
    np.testing.assert_allclose([a[2:-2], b[2:-2]], [0 * a[2:-2], 0 * a[2:-2] + 0.01], atol=1e-14)


def test_the_embedding_goes_on_along_its_tangent_and_atoms_on_one_spot_have_a_limit():
    r = np.linspace(0.0, 3.0, 301)
    energy = EAM(
        embedding=cubics(-np.sqrt(1.0 + np.linspace(0.0, 1.0, 101)))[None],
        density=cubics((3.0 - r) ** 4)[None, None],
        pair=cubics(r * (3.0 - r) ** 3)[None],
        density_step=0.01,
        step=0.01,
        cutoff=3.0,
        elements=(29,),
    )
    graph = batch(make_system([[0.0, 0, 0], [2.9, 0, 0]], [29, 29]), 3.0)
    slope = (np.sqrt(1.99) - np.sqrt(2.0)) / 0.01  # of the last interval of the table, as of the first one below
    for distance, pair in ((0.0, 2.99**3), (0.5, 2.5**3), (1.5, 1.5**3)):
        expected = 2.0 * (-np.sqrt(2.0) + ((3.0 - distance) ** 4 - 1.0) * slope) + pair
        total, force = forces(energy, graph.with_positions(jnp.asarray([[0.0, 0, 0], [distance, 0, 0]])))
        assert float(total[0]) == pytest.approx(expected, rel=1e-6)
        assert np.all(np.isfinite(force))
    stranger = eqx.tree_at(lambda g: g.numbers, graph, jnp.asarray([29, 28], jnp.int32))
    assert np.isnan(forces(energy, stranger)[0])


def constancy(energy, system, temperature):
    """Largest change of the total energy [meV/atom] in 0.5 ps from `temperature`; half of it is potential soon."""
    integrator = NVE(1.0 * units.fs)
    state = integrator.init(energy, system, key=jax.random.key(1), temperature=temperature)
    _, (total, kinetic) = run(
        integrator,
        energy,
        state,
        steps=500,
        every=10,
        observe=lambda s: (integrator.conserved(s), integrator.conserved(s) - s.energy),
    )
    assert np.ptp(kinetic) > 0.05 * len(system.numbers) * units.kB * temperature, "nothing moves"
    return 1e3 * np.ptp(np.asarray(total)) / len(system.numbers)


@pytest.mark.parametrize("name", ["sw", "tersoff"])
def test_hot_silicon_conserves_energy(silicon, name):
    assert constancy(silicon[name], diamond(2), 1500.0) < 1.0


@pytest.mark.slow
def test_hot_copper_conserves_energy(shared_data, tmp_path):
    archive = shared_data / "potentials" / "lammps" / "lammps_potentials.tar.xz"
    if not archive.is_file():
        pytest.skip("the potential files of LAMMPS are not here")
    with tarfile.open(archive) as files:
        names = [name for name in files.getnames() if name.endswith("Cu_mishin1.eam.alloy")]
        files.extract(names[0], tmp_path, filter="data")
    energy = EAM.from_setfl(tmp_path / names[0])
    fcc = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    sites = (fcc[None] + np.array(list(np.ndindex(2, 2, 2)))[:, None]).reshape(-1, 3)
    copper = make_system(3.615 * sites, [29] * 32, cell=7.23 * np.eye(3))
    assert constancy(energy, copper, 1200.0) < 1.0
