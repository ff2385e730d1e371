"""The page docs/how-to/compose-an-energy.md does what it says, from the first block to the last."""

import re
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

from jaxmlip.graph import batch
from jaxmlip.testing import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "compose-an-energy.md"


@pytest.mark.slow
def test_a_function_of_distance_conforms_moves_and_trains(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict = {"__name__": "compose_an_energy"}
    for number, source in enumerate(blocks):
        exec(compile(source, f"compose-an-energy.md, block {number}", "exec"), names)
    assert len(names["measured"]) == len(CHECKS)
    assert int(names["state"].step) == 200 and np.all(np.isfinite(names["potential"]))
    assert names["after"] < 0.01 * names["before"]
    total = names["total"]
    assert len(total.terms) == 6
    assert np.all(np.isfinite(eqx.filter_jit(total)(batch(names["crystal"], total.cutoff))))
    assert "meV/Å" in capsys.readouterr().out
