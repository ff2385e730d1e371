"""The page on dynamics runs as it stands."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_readme import code_blocks

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    blocks = code_blocks(ROOT / "docs" / "how-to" / "md.md", "python")
    (tmp_path / "runs" / "si").mkdir(parents=True)
    shutil.copy(ROOT / "experiments" / "mlearn" / "params" / "si_fast.jaxmlip", tmp_path / "runs/si/model.jaxmlip")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_rank_promotion("raise"):
        for block in blocks:
            exec(compile(block, "md.md", "exec"), names)
    assert len(blocks) == 8 and bool(names["relaxed"].converged)
    assert np.all(np.isfinite(names["viscosity"])) and names["energies"].shape == (10, len(names["ladder"]))
