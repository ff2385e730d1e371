"""Configurations: TOML, the command line, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from jaxmlip.cli.config import from_dict, parse, require_number, to_toml
from jaxmlip.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dynamics:
    timestep_fs: float = 1.0
    temperature_K: float = 300.0
    ensemble: Literal["nve", "nvt"] = "nvt"
    pressure_GPa: float | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    model: Path
    output: Path = Path("out")
    steps: int = 10
    names: tuple[str, ...] = ()
    energies: str | dict[str, float] = "fitted"
    quiet: bool = False
    dynamics: Dynamics = Dynamics()


def test_values_come_from_the_file_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "a.model"\nsteps = 5\n[dynamics]\ntimestep_fs = 2\n')
    got = parse(Example, [str(file), "--dynamics.temperature-K", "350", "--steps", "7"], command="x", description="x")
    assert got == Example(Path("a.model"), steps=7, dynamics=Dynamics(timestep_fs=2.0, temperature_K=350.0))


def test_a_required_value_may_be_given_on_the_command_line_only(capsys):
    assert parse(Example, ["--model", "m"], command="x", description="x").model == Path("m")
    with pytest.raises(SystemExit) as stop:
        parse(Example, [], command="x", description="x")
    assert stop.value.code == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dynamics": {"timestep": 1.0}}, "unknown key `dynamics.timestep`; did you mean `dynamics.timestep_fs`?"),
        ({"zzz": 1}, "unknown key `zzz`; known are dynamics, energies, model, names, output, quiet, steps."),
        ({"steps": 1.5}, "`steps` must be an integer; got 1.5"),
        ({"steps": True}, "`steps` must be an integer; got True"),
        ({"dynamics": 3}, "`dynamics` must be a table"),
        ({"dynamics": {"ensemble": "npt"}}, "`dynamics.ensemble` must be one of 'nve', 'nvt'; got 'npt'"),
        ({"dynamics": {"pressure_GPa": "high"}}, "`dynamics.pressure_GPa` must be a number; got 'high'"),
        ({"names": "Si"}, "`names` must be a list; got 'Si'"),
        ({"energies": {"Si": "low"}}, "`energies.Si` must be a number; got 'low'"),
        ({"energies": 3}, "`energies` must be a string or a table; got 3"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(values, message):
    with pytest.raises(UserError) as error:
        from_dict(Example, values)
    assert message in str(error.value)


def test_what_is_written_reads_back_the_same(tmp_path):
    config = Example(Path('a "b"\\c\n'), names=("Si", "O\t"), quiet=True, dynamics=Dynamics(timestep_fs=1e-9))
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert parse(Example, [str(file)], command="x", description="x") == config


def test_a_file_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.toml: cannot be read: No such file"):
        parse(Example, [str(tmp_path / "gone.toml")], command="x", description="x")
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3")
    with pytest.raises(UserError, match=r"broken.toml: is not TOML: .*line 1"):
        parse(Example, [str(broken)], command="x", description="x")


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf"), 11.0])
def test_numbers_outside_their_range_are_refused(value):
    require_number(10.0, "timestep_fs", above=0.0, most=10.0)
    with pytest.raises(UserError, match="`timestep_fs` must be a finite number above 0 and at most 10; got"):
        require_number(value, "timestep_fs", above=0.0, most=10.0)
