"""Checkpoints: pytrees of arrays on disk by orbax, with a SHA-256 manifest. The one door to orbax.

Orbax restores a blob with flipped bits without a word, so each checkpoint carries the hash of every file in it. The
manifest is written last and verified first; the folder gets its name only when it is whole. Killed at any moment, a run
leaves the previous checkpoint as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxmlip.errors import UserError
from jaxmlip.files import sync_folder, write_atomically

Tree = TypeVar("Tree")
_FORMAT = "jaxmlip-checkpoint-1"


def save(folder: Path, name: str, step: int, tree: Any, extra: dict[str, Any] | None = None, *, keep: int = 2) -> Path:
    """Writes the arrays of `tree` and the JSON of `extra` to `folder/name-<step>`, and removes all but the last `keep`.

    **Raises:** `UserError` naming the path where the disk does not take it; older checkpoints are untouched.
    """
    target = folder / f"{name}-{step:09d}"
    scratch = folder / f".writing-{target.name}"
    try:
        if target.is_dir() and _is_intact(target):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch.mkdir()
        leaves = _leaves(tree)
        _write_arrays(scratch / "arrays", {k: v for k, v in leaves.items() if v.size})
        content = {"format": _FORMAT, "step": step, "leaves": _describe(leaves), "extra": extra or {}}
        write_atomically(scratch / "state.json", json.dumps(content).encode())
        write_atomically(scratch / "manifest.json", json.dumps(_hashes(scratch), indent=1).encode())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
        sync_folder(folder)
    except OSError as error:
        raise UserError(f"Cannot write the checkpoint {target}: {error}. Earlier checkpoints are intact.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in [s for s in steps(folder, name) if s < step][: -keep + 1 or None]:
        shutil.rmtree(folder / f"{name}-{old:09d}", ignore_errors=True)
    return target


def steps(folder: Path, name: str) -> list[int]:
    """The steps of which there are checkpoints, ascending."""
    pattern = re.compile(re.escape(name) + r"-(\d{9,})")
    found = [pattern.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def load(path: Path, template: Tree) -> tuple[Tree, dict[str, Any]]:
    """The pytree of a checkpoint, shaped like `template`, and its extra.

    **Raises:** `UserError` where a file is missing, added or altered, or where names, shapes or dtypes of the arrays
    are not those of `template`: nothing is cast.
    """
    verify(path)
    content = json.loads((path / "state.json").read_text())
    if content.get("format") != _FORMAT:
        raise UserError(f"{path} is not in the format {_FORMAT}, but {content.get('format')!r}.")
    expected, found = _describe(_leaves(template)), content["leaves"]
    for key in sorted(set(expected) | set(found)):
        if expected.get(key) != found.get(key):
            raise UserError(
                f"{path} does not fit: {key} is {_spell(found.get(key))} there, but {_spell(expected.get(key))} here. "
                "Use the settings and the model that it was written with."
            )
    arrays = _read_arrays(path / "arrays", [k for k, (shape, _) in found.items() if np.prod(shape)])
    empty = {k: np.zeros(shape, dtype) for k, (shape, dtype) in found.items() if k not in arrays}
    return _fill(template, {**arrays, **empty}), content["extra"]


def load_last(folder: Path, name: str, template: Tree, notify=print) -> tuple[Tree, dict[str, Any]] | None:
    """The newest checkpoint that is whole; `notify` is told of damaged ones. `None` where there never was one.

    **Raises:** `UserError` where all are damaged, or the newest whole one does not fit `template`.
    """
    path = last_intact(folder, name, notify)
    return None if path is None else load(path, template)


def read_extra(path: Path) -> dict[str, Any]:
    """The extra of a checkpoint alone."""
    return json.loads((path / "state.json").read_text())["extra"]


def last_intact(folder: Path, name: str, notify=print) -> Path | None:
    """Where the newest checkpoint stands that is whole; see `load_last`."""
    found = steps(folder, name)
    for step in reversed(found):
        path = folder / f"{name}-{step:09d}"
        try:
            verify(path)
        except UserError as error:
            notify(f"{error} Falling back to the checkpoint before.")
            continue
        return path
    if found:
        raise UserError(f"No checkpoint {name} in {folder} is intact; start again in an empty folder.")
    return None


def _is_intact(path: Path) -> bool:
    try:
        verify(path)
    except UserError:
        return False
    return True


def verify(path: Path) -> None:
    """Compares every file with the manifest.

    **Raises:** `UserError` that names the file which is missing, added or altered.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        actual = _hashes(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is corrupt: its manifest cannot be read ({error}).") from error
    for name in sorted(set(manifest) | set(actual)):
        if manifest.get(name) != actual.get(name):
            what = "missing" if name not in actual else "not in the manifest" if name not in manifest else "altered"
            raise UserError(f"{path} is corrupt: {name} is {what}.")


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a pytree on the host, by path; typed PRNG keys as their data."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return leaves


def _fill(template: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    def place(path, leaf):
        value = jax.numpy.asarray(arrays[jax.tree_util.keystr(path)])
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(value)
        return value

    return jax.tree_util.tree_map_with_path(place, template)


def _describe(leaves: dict[str, np.ndarray]) -> dict[str, list]:
    return {key: [list(leaf.shape), str(leaf.dtype)] for key, leaf in leaves.items()}


def _spell(description: list | None) -> str:
    return "absent" if description is None else f"{description[1]}{description[0]}"


def _names(keys: list[str]) -> dict[str, str]:
    """Orbax makes file names of keys; numbers are safe ones."""
    return {key: f"{number:05d}" for number, key in enumerate(sorted(keys))}


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    names = _names(list(arrays))
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), {names[key]: array for key, array in arrays.items()})
    except (ValueError, RuntimeError) as error:  # the store's words for a disk that is full or read-only
        raise OSError(str(error).splitlines()[0][:200]) from error


def _read_arrays(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    names = _names(keys)
    arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names.values()}
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(path.absolute(), restore_args=arguments)
    return {key: restored[name] for key, name in names.items()}


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / "manifest.json")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
