"""The compiler fault of some jax releases: run with the rest of the tests, because it would spoil any of them."""

import os
import subprocess
import sys

import jax
import jaxlib

from jaxmlip.cli.probe import KNOWN_BAD, compiler_fault, known_bad_version


def test_this_compiler_multiplies_many_small_matrices_right():
    # jax 0.10.2 gives 0.0078 here for both sizes.
    assert compiler_fault(16_385) == 0.0
    assert compiler_fault(32_769) == 0.0


def test_so_does_the_compiler_with_the_settings_of_users():
    """These tests ask it for less work; `conftest.py` says why."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    code = "from jaxmlip.cli.probe import compiler_fault; print(compiler_fault(16_385), compiler_fault(32_769))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0", "0.0"]


def test_releases_known_to_miscompile_are_named(monkeypatch):
    assert known_bad_version() is None
    for version in KNOWN_BAD:
        monkeypatch.setattr(jax, "__version__", version)
        assert known_bad_version() == version
        monkeypatch.undo()
        monkeypatch.setattr(jaxlib, "__version__", version)
        assert known_bad_version() == version
        monkeypatch.undo()
