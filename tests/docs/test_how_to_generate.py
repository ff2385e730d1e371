"""The page on training sets shows what runs, and settings that exist."""

import tomllib
from pathlib import Path

from test_readme import code_blocks

from jaxmlip.cli.config import from_dict
from jaxmlip.cli.generate import GenerateConfig

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "generate.md"


def test_the_example_makes_a_set(capsys):
    (source,) = code_blocks(PAGE, "python")
    names: dict = {}
    exec(compile(source, "generate.md", "exec"), names)
    assert len(names["design"].dataset) == 30
    assert "rattle" in capsys.readouterr().out


def test_the_file_is_a_configuration():
    (text,) = code_blocks(PAGE, "toml")
    config = from_dict(GenerateConfig, tomllib.loads(text))
    config.check()
    assert config.plan.surface.count == 20 and config.budget == 100
