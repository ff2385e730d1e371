"""ZBL against the formula, evaluated here in 40 digits, and against collected reference values."""

import json

import jax.numpy as jnp
import mpmath
import pytest

from jaxmlip.energy import ZBL
from jaxmlip.energy.zbl import zbl_repulsion
from jaxmlip.graph import batch
from jaxmlip.system import make_system

# The printed constants of Ziegler, Biersack & Littmark (1985), as in LAMMPS `pair_style zbl` (docs, same digits) with
# a = 0.46850 / (Z1^0.23 + Z2^0.23) Å, and CODATA 2022: e = 1.602176634e-19 C, eps0 = 8.8541878188e-12 F/m.
mpmath.mp.dps = 40
TERMS = (("0.18175", "3.19980"), ("0.50986", "0.94229"), ("0.28022", "0.40290"), ("0.02817", "0.20162"))


def formula(r, zi, zj):
    coulomb = mpmath.mpf("1.602176634e-19") / (4 * mpmath.pi * mpmath.mpf("8.8541878188e-12")) * 10**10
    a = mpmath.mpf("0.46850") / (mpmath.mpf(zi) ** mpmath.mpf("0.23") + mpmath.mpf(zj) ** mpmath.mpf("0.23"))
    screening = sum(mpmath.mpf(w) * mpmath.exp(-mpmath.mpf(d) * mpmath.mpf(r) / a) for w, d in TERMS)
    return float(coulomb * zi * zj / mpmath.mpf(r) * screening)


def ours(r, zi, zj):
    return float(zbl_repulsion(*(jnp.asarray(float(x)) for x in (r, zi, zj))))


@pytest.mark.parametrize(("zi", "zj"), [(1, 1), (14, 14), (29, 6), (74, 74), (92, 1)])
@pytest.mark.parametrize("r", [0.01, 0.2, 0.5, 1.0, 2.5])
def test_the_formula_in_forty_digits(r, zi, zj):
    assert ours(r, zi, zj) == pytest.approx(formula(r, zi, zj), rel=1e-13)


@pytest.mark.parametrize(("symbol", "number"), [("H", 1), ("Si", 14), ("Cu", 29), ("W", 74)])
def test_collected_values(shared_data, symbol, number):
    """`golden_analytic.json`: an independent NumPy evaluation, with an older value of e^2 / (4 pi eps0)."""
    path = shared_data / "reference" / "golden_analytic.json"
    if not path.is_file():
        pytest.skip(f"no reference values at {path}")
    golden = json.loads(path.read_text())["zbl_pair_eV_A"][symbol]
    for distance in ("0.2", "0.5", "1.0"):
        assert ours(float(distance), number, number) == pytest.approx(golden[f"V({distance}A)"], rel=1e-8)


def test_distance_of_closest_approach(shared_data):
    """Head-on collisions at 10, 100 and 1000 eV (center of mass) turn where the potential equals the energy."""
    path = shared_data / "reference" / "golden_analytic.json"
    if not path.is_file():
        pytest.skip(f"no reference values at {path}")
    golden = json.loads(path.read_text())["zbl_pair_eV_A"]
    for symbol, number in (("H", 1), ("Si", 14), ("Cu", 29), ("W", 74)):
        for energy in (10, 100, 1000):
            assert ours(golden[symbol][f"rmin_E{energy}eV"], number, number) == pytest.approx(energy, rel=1e-6)


@pytest.mark.parametrize("number", [1, 14, 29, 74])
@pytest.mark.parametrize("energy", [10.0, 100.0, 1000.0])
def test_the_prior_turns_collisions_where_the_whole_potential_does(number, energy):
    """Where it is switched off there is nothing left to turn: within 1 % from 10 eV on."""

    def pair(r):
        graph = batch(make_system([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], [number, number]), prior.cutoff)
        return float(jnp.sum(prior(graph)))

    def turning(law):
        inner, outer = 0.005, prior.cutoff
        for _ in range(50):
            middle = 0.5 * (inner + outer)
            inner, outer = (middle, outer) if law(middle) > energy else (inner, middle)
        return inner

    prior = ZBL(elements=(number,))
    whole = turning(lambda r: formula(r, number, number))
    assert turning(pair) == pytest.approx(whole, rel=0.01)


def test_each_pair_ends_at_the_sum_of_its_covalent_radii():
    prior = ZBL(elements=(1, 14))
    assert prior.cutoff == pytest.approx(2.22)
    for numbers, end in (((1, 1), 0.62), ((1, 14), 1.42), ((14, 14), 2.22)):
        energies = [
            float(jnp.sum(prior(batch(make_system([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], numbers), prior.cutoff))))
            for r in (end - 0.02, end + 1e-9)
        ]
        assert energies[0] > 0.0 and energies[1] == 0.0
    assert ZBL(1.2, (1, 14)).cutoff == 1.2 and ZBL(9.0, (14,)).cutoff == pytest.approx(2.22)
    assert ZBL().cutoff == pytest.approx(5.2)  # francium


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ZBL(0.0), "`cutoff` must be positive"),
        (lambda: ZBL(onset=1.0), "`onset` is a fraction"),
        (lambda: ZBL(elements=(0, 14)), "`elements` must be atomic numbers"),
        (lambda: ZBL(elements=()), "`elements` must be atomic numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()
