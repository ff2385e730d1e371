"""The page on dynamics runs as it stands."""

from pathlib import Path

import jax
import numpy as np
import pytest
from test_readme import code_blocks


@pytest.mark.slow
def test_the_blocks_of_the_page_run_one_after_the_other():
    _, *blocks = code_blocks(Path(__file__).parents[2] / "docs" / "how-to" / "md.md", "python")
    names: dict = {}
    with jax.numpy_rank_promotion("raise"):
        for block in blocks:
            exec(compile(block, "md.md", "exec"), names)
    assert len(blocks) == 6 and bool(names["relaxed"].converged)
    assert np.all(np.isfinite(names["viscosity"])) and names["energies"].shape == (10, len(names["ladder"]))
