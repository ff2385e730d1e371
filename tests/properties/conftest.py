"""The crystal that the tests of properties share."""

import pytest
from close_packed_argon import argon, close_packed

from jaxmlip.properties import refine


@pytest.fixture(scope="session")
def crystal():
    """Where hexagonal argon is at rest."""
    return refine(argon(), close_packed(), cell=True, tolerance=1e-11)
