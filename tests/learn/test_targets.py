"""Targets: what makes no sense is refused by name; what does is in the units of the package."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.errors import UserError
from jaxmlip.learn.sampler import StatePoint
from jaxmlip.learn.targets import (
    Structure,
    Target,
    check_targets,
    cubic_constants,
    elastic_constant,
    lattice_constant,
    thermal_expansion,
)
from jaxmlip.observables.static import Conditions, Pressure
from jaxmlip.system import make_system


@pytest.fixture(scope="module")
def crystal():
    return Structure(make_system(np.zeros((1, 3)), [18], cell=2.6 * (np.ones((3, 3)) - np.eye(3))))


def test_values_and_uncertainties_are_in_the_units_of_the_package(crystal):
    target = Target("C11", elastic_constant("11"), crystal, 160.0, 2.0, "GPa")
    np.testing.assert_allclose(target.values, [160.0 * units.GPa])
    np.testing.assert_allclose(target.errors, [2.0 * units.GPa])
    np.testing.assert_allclose(target.whitening() @ [2.0 * units.GPa], [1.0])
    spread = np.array([[4.0, 1.0], [1.0, 9.0]])
    both = Target("two", elastic_constant("11"), crystal, [1.0, 2.0], spread, "GPa")
    np.testing.assert_allclose(both.whitening() @ both.covariance() @ both.whitening().T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(both.errors, [2.0 * units.GPa, 3.0 * units.GPa])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uncertainty": None}, "a has no uncertainty"),
        ({"uncertainty": 0.0}, "finite and positive"),
        ({"uncertainty": [1.0, 2.0]}, "1 values need one uncertainty"),
        ({"unit": "furlong"}, "'furlong' is not known; take one of"),
        ({"unit": "GPa"}, "GPa measures pressure, but the observable is of length; take one of Å, nm"),
        ({"value": float("nan")}, "the value must be finite"),
    ],
)
def test_what_makes_no_target_is_refused_by_name(crystal, changes, message):
    given = {"observable": lattice_constant(4), "at": crystal, "value": 5.3, "uncertainty": 0.01, "unit": "Å"} | changes
    with pytest.raises(UserError, match=message):
        Target("a", **given)


def test_kinds_of_observables_and_places_belong_together(crystal):
    with pytest.raises(UserError, match="a Pressure belongs to a `StatePoint`; got a"):
        Target("p", Pressure(), crystal, 0.0, 1.0, "GPa")
    with pytest.raises(UserError, match="a Quantity belongs to a `Structure` or `Vacancy`; got a StatePoint"):
        Target("a", lattice_constant(4), StatePoint(crystal.system, 40.0), 5.3, 0.01, "Å")


def test_elastic_constants_at_a_temperature_share_their_strained_cells():
    cell = make_system(np.zeros((1, 3)), [18], cell=5.2 * np.eye(3))
    found = cubic_constants(StatePoint(cell, 80.0, name="cold"), 0.01)
    assert sorted(found) == ["11", "12", "44"]
    assert all(a is b for a, b in zip(found["11"][1], found["44"][1], strict=True))
    plus, minus = (np.asarray(p.system.cell) / 5.2 - np.eye(3) for p in found["11"][1])
    np.testing.assert_allclose(plus, -minus, atol=1e-12)
    np.testing.assert_allclose(plus, [[0.01, 0, 0], [0, 0, 0.005], [0, 0.005, 0]], atol=1e-12)
    stress = {"virial": -jnp.asarray([[[3.0, 0, 0], [0, 5.0, 0.7], [0, 0.7, 9.0]]]), "density": jnp.zeros(1)}
    at = Conditions(jnp.asarray(80.0))
    values = {name: total.parts[0].reduce(stress, jnp.ones(1), at) for name, (total, _) in found.items()}
    np.testing.assert_allclose([values[n] for n in ("11", "12", "44")], np.array([3.0, 7.0, 0.7]) / 0.02)
    Target("C44", *found["44"], 1.0, 0.1, "GPa")
    with pytest.raises(UserError, match="total of 2 parts needs as many state points; got 1"):
        Target("C44", found["44"][0], found["44"][1][0], 1.0, 0.1, "GPa")
    with pytest.raises(UserError, match="constant volume"):
        cubic_constants(StatePoint(cell, 80.0, 0.0))
    with pytest.raises(UserError, match="below 0.05"):
        cubic_constants(StatePoint(cell, 80.0), 0.5)


def test_thermal_expansion_is_between_two_temperatures_at_a_pressure():
    cell = make_system(np.zeros((1, 3)), [18], cell=5.2 * np.eye(3))
    cold, warm = StatePoint(cell, 50.0, 0.0), StatePoint(cell, 80.0, 0.0)
    total, places = thermal_expansion(cold, warm)
    assert places == (cold, warm)
    volumes = (jnp.asarray([100.0]), jnp.asarray([103.0]))
    at = Conditions(jnp.asarray(1.0))
    found = sum(part.reduce(v, jnp.ones(1), at) for part, v in zip(total.parts, volumes, strict=True))
    np.testing.assert_allclose(found, np.log(1.03) / 90.0)
    for wrong in ((warm, cold), (StatePoint(cell, 50.0), warm)):
        with pytest.raises(UserError, match="colder and a warmer"):
            thermal_expansion(*wrong)


def test_sets_of_targets_without_a_fit_are_refused(crystal):
    one = Target("a", lattice_constant(4), crystal, 5.3, 0.01, "Å", holdout=True)
    with pytest.raises(UserError, match="no target to fit: of 1 all are held out"):
        check_targets([one])
    with pytest.raises(UserError, match="a is there twice"):
        check_targets([one, one])


def test_elastic_constants_are_named_by_voigt_indices():
    with pytest.raises(UserError, match="Voigt indices such as '11'"):
        elastic_constant("17")


def test_targets_that_contradict_each_other_are_named(crystal):
    def of(name, value, **options):
        return Target(name, lattice_constant(8), crystal, value, 0.01, "Å", **options)

    with pytest.raises(UserError, match="Targets x-rays and neutrons are the same quantity .* 7.1 standard"):
        check_targets([of("x-rays", 5.4), of("neutrons", 5.5)])
    check_targets([of("x-rays", 5.4), of("neutrons", 5.41)])
    check_targets([of("x-rays", 5.4), of("neutrons", 5.5, holdout=True)])
