"""The page on bias and variance runs as it stands."""

from pathlib import Path

import numpy as np
import pytest
from test_readme import code_blocks

from jaxmlip.io import frame_texts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    texts = list(frame_texts(ROOT / "jaxmlip" / "data" / "silicon_pbe.extxyz.xz"))
    small = [text for text in texts if 2 <= int(text.split(maxsplit=1)[0]) <= 7]
    (tmp_path / "si.extxyz").write_text("".join(small))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_blocks(ROOT / "docs" / "how-to" / "bias-variance.md", "python"):
        exec(compile(block, "bias-variance.md", "exec"), names)
    assert "Take " in capsys.readouterr().out
    forces = names["forces"]
    assert forces.bias + forces.variance == pytest.approx(forces.error, rel=1e-9) and np.isfinite(forces.error)
