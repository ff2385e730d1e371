"""What commands set for the whole process, and what every run writes beside its output."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxmlip
from jaxmlip.cli.config import to_toml
from jaxmlip.cli.probe import known_bad_version
from jaxmlip.errors import UserError
from jaxmlip.files import write_atomically

PACKAGES = ("jaxmlip", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "jax-md", "numpy", "ase", "vesin")


def prepare() -> None:
    """Set JAX up for a command: 64-bit numbers on, compiled programs kept in the user's cache folder.

    **Raises:** `UserError` where the jax release is known to miscompile.
    """
    version = known_bad_version()
    if version is not None:
        raise UserError(f"jax {version} computes wrong numbers on CPU: `pip install 'jax!={version}'`.")
    jax.config.update("jax_enable_x64", True)
    folder = cache_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cache_folder() -> Path | None:
    """Where compiled programs are kept; `None` where JAX was told already or the folder cannot be written."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "jaxmlip" / f"jax-{jax.__version__}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    """A name for what the processor can do: programs compiled for one may crash on another with the same home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of the source that runs, with `-dirty` where it was changed since; `None` outside a checkout."""
    root = Path(jaxmlip.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def write_run(
    output: Path,
    config: Any,
    *,
    command: str,
    seed: int | None = None,
    inputs: Iterable[Path] = (),
    dataset: str | None = None,
) -> None:
    """Write `config.toml`, from which the run can be repeated, and `run.json`: where, with what and on what it ran."""
    device = jax.devices()[0]
    record = {
        "command": command,
        "argv": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "commit": commit(),
        "device": f"{device.platform}: {device.device_kind}, {len(jax.devices())} in all",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "x64": jax.numpy.result_type(float).itemsize == 8,
        "seed": seed,
        "dataset": dataset,
        "inputs": {str(path): sha256(path) for path in inputs},
    }
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "config.toml", to_toml(config))
    write_text(output / "run.json", json.dumps(record, indent=2) + "\n")


def check_writable(folder: Path) -> None:
    """Make a folder for output, before any long work.

    **Raises:** `UserError` where that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to {folder}: permission denied.")


def sha256(path: Path) -> str | None:
    """SHA-256 of a file, or `None` where there is none (a model known by name)."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: what stood there before survives a full disk or a kill."""
    write_atomically(path, text.encode("utf-8"))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process while the block runs.

    **Raises:** `UserError` where another run writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {folder}: wait for it, or give another `--output`.") from error
        yield


@contextlib.contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; calls with the number done move it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
