"""Accelerators multiply float32 matrices with 10-bit factors unless they are asked not to; every model asks."""

import jax
import pytest
from jax import lax
from jax.extend import core

from jaxmlip.energy import energy_forces
from jaxmlip.graph import batch
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.nequip import NequIP, NequIPConfig
from jaxmlip.testing import sample_system

MODELS = {
    "ace": lambda: ACE(ACEConfig((8, 14), 4.0, layers=2, channels=4, message_channels=3), key=jax.random.key(0)),
    "nequip": lambda: NequIP(
        NequIPConfig((8, 14), cutoff=4.0, channels=(2, 2), layers=2, radial_width=4), key=jax.random.key(0)
    ),
}


def products(jaxpr):
    """The precision of every matrix product of a program and of the programs within."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            yield equation.params["precision"]
        for inner in core.jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("name", MODELS)
def test_every_product_of_energy_and_forces_is_in_full_precision(name):
    model = MODELS[name]()
    graph = batch(sample_system((14, 8), spacing=2.0), model.cutoff)
    found = list(products(jax.make_jaxpr(energy_forces)(model, graph).jaxpr))
    assert len(found) > 10
    full = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    assert [p for p in found if p not in (full, lax.Precision.HIGHEST)] == []
