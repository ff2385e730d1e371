"""Targets that change with time."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import units
from jaxmlip.simulate import CSVR, MTK, Langevin, Ramp


def test_a_ramp_goes_evenly_from_start_to_stop_and_stays():
    ramp = Ramp(100.0, 300.0, 4.0, begin=2.0)
    got = [float(ramp(jnp.asarray(t))) for t in (0.0, 2.0, 3.0, 6.0, 60.0)]
    np.testing.assert_allclose(got, [100.0, 100.0, 150.0, 300.0, 300.0])
    assert ramp(jnp.asarray(3.0, jnp.float32)).dtype == jnp.float32


def test_the_first_momenta_are_those_of_the_start_of_a_ramp():
    assert float(Langevin(1.0, Ramp(100.0, 300.0, 4.0), 0.1).start_temperature()) == 100.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(100.0, 300.0, 0.0), "`duration` must be positive"),
        (lambda: CSVR(1.0, Ramp(100.0, -1.0, 4.0), 10.0), "`temperature` must lie between 0 and 1e6 K"),
        (lambda: MTK(1.0, Ramp(0.0, 300.0, 4.0), 10.0, 0.0, 10.0), "`temperature` must be positive"),
        (lambda: MTK(1.0, 300.0, 10.0, Ramp(0.0, np.inf, 4.0), 10.0), "`pressure` must be finite"),
        (lambda: MTK(1.0, 300.0, 10.0, 1.0 * units.GPa, 10.0, "cubic"), "`shape` must be one of"),
        (lambda: MTK(1.0, 300.0, 10.0, 0.0, 10.0, chain=1), "`chain` >= 2"),
    ],
)
def test_targets_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
