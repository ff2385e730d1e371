"""The page docs/how-to/uncertainty.md runs from its first block to its last, on small cells."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from test_readme import code_blocks

import jaxmlip.data

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = ase.io.read(Path(jaxmlip.data.__file__).parent / "silicon_pbe.extxyz.xz", index=":")
    small = [f for f in frames if 2 <= len(f) <= 8 and f.info.get("split") != "test"]
    for f in small:
        f.info.pop("split", None)
    ase.io.write("si_train.extxyz", small[0:24:2])
    ase.io.write("si_test.extxyz", small[1:25:2])
    names: dict = {}
    for block in code_blocks(ROOT / "docs" / "how-to" / "uncertainty.md", "python"):
        exec(compile(block.replace("steps=2000", "steps=3"), "uncertainty.md", "exec"), names)
    assert len(names["frames"]) == 12 and Path("reliability.png").exists()
    assert np.isfinite(names["frames"][0].forces_std).all()
