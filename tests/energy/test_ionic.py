"""Buckingham and Born-Mayer-Huggins: the law outside, the continued wall inside, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import BornMayerHuggins, buckingham, energy_forces
from jaxmlip.energy.ionic import bounded_law, inflection
from jaxmlip.graph import batch
from jaxmlip.system import make_system

# Silica: van Beest, Kramer & van Santen, Phys. Rev. Lett. 64, 1955 (1990), doi:10.1103/PhysRevLett.64.1955.
BKS = {
    "a": {"Si-O": 18003.7572, "O-O": 1388.7730, "Si-Si": 0.0},
    "rho": {"Si-O": 1.0 / 4.87318, "O-O": 1.0 / 2.76000, "Si-Si": 1.0},
    "c": {"Si-O": 133.5381, "O-O": 175.0000, "Si-Si": 0.0},
}
# Sodium chloride: Fumi & Tosi (1964), A exp((sigma - r) / rho) - C / r^6 - D / r^8 of Cl-Cl, in eV and Å.
CHLORIDE = (0.158223 * np.exp((3.170) / 0.317), 0.317, 72.4, 145.4)
measure = eqx.filter_jit(energy_forces)


def law(r, a, rho, c, d=0.0):
    return a * np.exp(-r / rho) - c / r**6 - d / r**8


def test_outside_it_is_the_law():
    energy = buckingham(**BKS, cutoff=10.0, truncation="cut")
    r = np.array([1.3, 1.6, 2.7, 5.0])
    graph = batch([make_system([[0.0, 0.0, 0.0], [x, 0.0, 0.0]], [14, 8]) for x in r], 10.0)
    expected = law(r, 18003.7572, 1.0 / 4.87318, 133.5381)
    np.testing.assert_allclose(measure(energy, graph)[0], expected, rtol=1e-12)
    silicon = batch([make_system([[0.0, 0.0, 0.0], [x, 0.0, 0.0]], [14, 14]) for x in r], 10.0)
    assert np.all(np.asarray(measure(energy, silicon)[0]) == 0.0)


@pytest.mark.parametrize("values", [(18003.7572, 1.0 / 4.87318, 133.5381, 0.0), CHLORIDE, (900.0, 0.3, 0.0, 40.0)])
def test_the_wall_is_continued_from_its_steepest_point(values):
    a, rho, c, d = values
    inner = float(inflection(*(jnp.asarray(x) for x in values)))
    second = a / rho**2 * np.exp(-inner / rho) - 42.0 * c / inner**8 - 72.0 * d / inner**10
    assert abs(second) < 1e-9 * a / rho**2 * np.exp(-inner / rho)

    def energy(r):
        return bounded_law(r, *(jnp.asarray(x) for x in values), jnp.asarray(inner))

    derivatives = [energy, jax.grad(energy), jax.grad(jax.grad(energy))]
    for function in derivatives:
        below, above = (float(function(jnp.asarray(inner * (1.0 + h)))) for h in (-1e-7, 1e-7))
        assert below == pytest.approx(above, rel=1e-5, abs=1e-3)
    r = np.linspace(0.02, inner, 200)
    slopes = np.asarray(jax.vmap(derivatives[1])(jnp.asarray(r)))
    assert np.all(slopes < 0.0)  # repulsive all the way in
    assert float(energy(jnp.asarray(1e-3))) > 1e4  # and beyond any Coulomb attraction: 14.4 eV Å * q^2 / r


def test_the_wall_stands_where_the_force_is_largest():
    energy = buckingham(**BKS, cutoff=10.0)
    walls = energy.innermost()
    assert walls["Si-Si"] == 0.0 and 1.1 < walls["O-Si"] < 1.3 and 1.4 < walls["O-O"] < 2.1
    r = np.linspace(0.9, 1.6, 70001)
    force = -np.gradient(law(r, 18003.7572, 1.0 / 4.87318, 133.5381), r)
    assert walls["O-Si"] == pytest.approx(r[np.argmax(force)], abs=2e-5)


def test_parameters_can_be_fitted():
    energy = buckingham(**BKS, cutoff=10.0)
    pairs = [make_system([[0.0, 0.0, 0.0], [x, 0.0, 0.0]], [14, 8]) for x in (0.8, 1.6)]
    slope = jax.grad(lambda e: jnp.sum(e(batch(pairs, 10.0))))(energy)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slope))
    assert float(slope.c[1]) != 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: buckingham(1000.0, 0.3, -1.0, 8.0), "`c` must be at least 0"),
        (lambda: buckingham(1000.0, 0.0, 1.0, 8.0), "`rho` must be above 0"),
        (lambda: buckingham(1000.0, 3.0, 1e9, 8.0), "no repulsive wall"),
        (lambda: buckingham(0.0, 0.3, 10.0, 8.0), "no repulsive wall"),
        (lambda: buckingham(**{**BKS, "a": {**BKS["a"], "O-O": 0.1}}, cutoff=8.0), "pair O-O has no repulsive wall"),
        (lambda: buckingham(1388.773, 1.0 / 2.76, 175.0, 1.0), "beyond the cutoff"),
        (lambda: BornMayerHuggins({"Na-Cl": 1.0}, 0.3, 0.0, 0.0, 8.0), "lacks Na-Na, Cl-Cl"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
