"""Every test runs in 64 bit, with strict promotion, and with shapes and types checked at every call."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

_hook = install_import_hook("jaxmlip", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with reference data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("JAXMLIP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}: set JAXMLIP_DATA")
    return folder
