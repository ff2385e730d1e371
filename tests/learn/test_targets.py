"""Targets: what makes no sense is refused by name; what does is in the units of the package."""

import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.errors import UserError
from jaxmlip.learn.sampler import StatePoint
from jaxmlip.learn.targets import Structure, Target, check_targets, elastic_constant, lattice_constant
from jaxmlip.observables.static import Pressure
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
