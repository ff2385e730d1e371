"""Checkpoints of a `State`: one JSON line, raw arrays, a SHA-256; written whole or not at all, and never a pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.files import write_atomically
from jaxmlip.graph.neighbors import Neighbors, Plan
from jaxmlip.simulate.berendsen import Press
from jaxmlip.simulate.chain import Chain
from jaxmlip.simulate.constraints import Constraints
from jaxmlip.simulate.mtk import Piston
from jaxmlip.simulate.npt import Barostat
from jaxmlip.simulate.nvt import Heat
from jaxmlip.simulate.observers import Tallies
from jaxmlip.simulate.state import Replicas, State
from jaxmlip.system import System

_FORMAT = "jaxmlip-state-3"
_BATHS = (Heat, Chain, Barostat, Piston, Press)
_CLASSES = {kind.__name__: kind for kind in (State, Replicas, System, Constraints, Neighbors, Plan, Tallies, *_BATHS)}
_DIGEST = 64


def save_state(path: str | Path, state: State | Replicas, **metadata: Any) -> Path:
    """Write a checkpoint of a state (or of replicas); `metadata` is anything JSON can hold.

    An older file stays intact until the new one is whole.

    **Raises:** `OSError` where the disk refuses (full, read-only); the older checkpoint is still there.
    """
    path = Path(path)
    write_atomically(path, pack(state, metadata))
    return path


def load_state(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """The state and the metadata of a checkpoint.

    **Raises:** `ValueError` where the file is not a whole, unchanged checkpoint of this version.
    """
    return unpack(Path(path).read_bytes(), str(path))


def pack(tree: Any, metadata: dict[str, Any]) -> bytes:
    """The content of a checkpoint: states, or dicts, lists and tuples of them, of arrays, keys, numbers and strings.

    **Raises:** `TypeError` for anything else.
    """
    arrays: list[np.ndarray] = []
    described = _describe(tree, arrays)
    shapes = [{"dtype": a.dtype.str, "shape": list(a.shape)} for a in arrays]
    header = {"format": _FORMAT, "metadata": metadata, "tree": described, "arrays": shapes}
    body = json.dumps(header).encode() + b"\n" + b"".join(a.tobytes() for a in arrays)
    return body + hashlib.sha256(body).hexdigest().encode()


def unpack(data: bytes, path: str) -> tuple[Any, dict[str, Any]]:
    """What `pack` was given, read from `path`.

    **Raises:** `ValueError` where it is not a whole, unchanged checkpoint of this version.
    """
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    line, _, raw = body.partition(b"\n")
    if _FORMAT.encode() not in line[:64]:
        raise ValueError(f"{path} is not a checkpoint of the format {_FORMAT}.")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 does not match. Use an older checkpoint.")
    header = json.loads(line)
    arrays, start = [], 0
    for entry in header["arrays"]:
        dtype = np.dtype(entry["dtype"])
        size = dtype.itemsize * int(np.prod(entry["shape"], dtype=np.int64))
        arrays.append(np.frombuffer(raw[start : start + size], dtype).reshape(entry["shape"]))
        start += size
    return _rebuild(header["tree"], arrays), header["metadata"]


def _describe(node: Any, arrays: list[np.ndarray]) -> Any:
    """A JSON value for a tree of modules; arrays go to the list."""
    if isinstance(node, (eqx.Module, Plan)):
        name = type(node).__name__
        if _CLASSES.get(name) is not type(node):
            raise TypeError(f"A checkpoint cannot hold a {type(node)}; it holds {sorted(_CLASSES)}.")
        return {"class": name, "fields": {k: _describe(v, arrays) for k, v in vars(node).items()}}
    if isinstance(node, jax.Array) and jnp.issubdtype(node.dtype, jax.dtypes.prng_key):
        arrays.append(np.asarray(jax.random.key_data(node)))
        return {"key": str(jax.random.key_impl(node)), "array": len(arrays) - 1}
    if isinstance(node, (jax.Array, np.ndarray, np.generic)):
        arrays.append(np.ascontiguousarray(node).reshape(np.shape(node)))
        return {"array": len(arrays) - 1}
    if type(node) in (tuple, list):
        return {type(node).__name__: [_describe(x, arrays) for x in node]}
    if isinstance(node, dict) and all(isinstance(name, str) for name in node):
        return {"dict": {name: _describe(x, arrays) for name, x in node.items()}}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(f"A checkpoint cannot hold a {type(node)}.")


def _rebuild(node: Any, arrays: list[np.ndarray]) -> Any:
    if not isinstance(node, dict):
        return node
    if "class" in node:
        kind = _CLASSES[node["class"]]
        module = object.__new__(kind)
        for name, value in node["fields"].items():
            object.__setattr__(module, name, _rebuild(value, arrays))
        return module
    if "key" in node:
        return jax.random.wrap_key_data(jnp.asarray(arrays[node["array"]]), impl=node["key"])
    if "array" in node:
        value = arrays[node["array"]]
        if value.dtype.itemsize == 8 and not jax.config.read("jax_enable_x64"):
            raise ValueError("The checkpoint is in 64 bit: enable it (`jax_enable_x64`) to continue it to the bit.")
        return jnp.asarray(value)
    kind, items = next(iter(node.items()))
    if kind == "dict":
        return {name: _rebuild(x, arrays) for name, x in items.items()}
    values = [_rebuild(x, arrays) for x in items]
    return tuple(values) if kind == "tuple" else values
