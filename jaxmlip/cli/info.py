"""`jaxmlip info [MODEL]`: versions, devices, soundness of the compiler, and what a model file holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxmlip.cli import probe, settings
from jaxmlip.errors import UserError

_LIMIT = 1_000_000


def main(argv: Sequence[str]) -> int:
    """Print what is installed and whether it computes right; refuse, with code 2, where it does not."""
    arguments = [a for a in argv if not a.startswith("-")]
    if len(argv) > len(arguments) or len(arguments) > 1:
        print("usage: jaxmlip info [MODEL]")
        return 0 if {"-h", "--help"} & set(argv) else 2
    for name, version in settings.versions().items():
        print(f"{name:18} {version}")
    print(f"{'commit':18} {settings.commit() or 'not a git checkout'}")
    for device in jax.devices():
        print(f"{'device':18} {device.platform}: {device.device_kind}")
    settings.prepare()
    print(f"{'compiled programs':18} {settings.cache_folder() or 'where JAX_COMPILATION_CACHE_DIR says, if anywhere'}")
    fault = probe.compiler_fault()
    print(f"{'compiler probe':18} {'passed' if fault == 0.0 else f'FAILED: relative error {fault:.2g}'}")
    if fault > 0.0:
        raise UserError(f"jax {jax.__version__} computes wrong numbers here: install another release (see README).")
    if arguments:
        print_header(Path(arguments[0]))
    return 0


def print_header(path: Path) -> None:
    """Print the JSON header of a model file.

    **Raises:** `UserError` where the file is not a model.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with path.open("rb") as stream:
        line = stream.readline(_LIMIT)
    try:
        header = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path} is not a model file of jaxmlip: its first line is not JSON.") from error
    if not isinstance(header, dict) or not str(header.get("format", "")).startswith("jaxmlip"):
        raise UserError(f"{path} is not a model file of jaxmlip: its header names no format `jaxmlip-…`.")
    print(f"\n{path} ({path.stat().st_size} bytes)")
    print(json.dumps(header, indent=2))
