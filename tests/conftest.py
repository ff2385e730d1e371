"""Every test runs in 64 bit, with strict promotion, and with shapes and types checked at every call."""

import gc
import importlib.metadata
import os
from pathlib import Path

# Most of the time of these tests is the compiler's, and less of it is enough: half as long with jax 0.10, two thirds
# with 0.12, which knows one of the settings no longer. `XLA_FLAGS= make test` compiles as users do.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else "--xla_backend_optimization_level=0",
)

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

MAPS = Path("/proc/self/maps")
MOST_MAPS = 40_000  # Linux allows a process 65530; compiled programs take up to a thousand each

_hook = install_import_hook("jaxmlip", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with reference data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("JAXMLIP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}: set JAXMLIP_DATA")
    return folder


@pytest.fixture(autouse=True)
def _room_for_programs():
    """Forget compiled programs before a process has too many: past the limit the compiler crashes."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
