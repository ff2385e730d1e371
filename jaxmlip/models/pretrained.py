"""Model files: one line of JSON, then plain arrays; and foundation potentials by name.

A file is `{"format": "jaxmlip-1", "model": "ACE", "config": {...}, "metadata": {...}, "leaves": [{"path", "shape",
"dtype"}, ...], "sha256": ...}` and a newline, then the bytes of the leaves in that order, little-endian, C order,
nothing between; the hash is that of these bytes. A sum of energies is `{"model": "Sum", "terms": [{"model": ...,
"config": ...}, ...]}` with the leaves of all terms, a committee `{"model": "Committee", "members": 8, "own": [paths of
the arrays that each member has for itself], "member": {...}}`, and a part with parts of its own (charges of an Ewald
sum, their model) has such entries in its `config`. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.elements import SYMBOLS
from jaxmlip.energy import (
    ZBL,
    AbstractEnergy,
    AtomCharges,
    AtomicReferences,
    BornMayerHuggins,
    Committee,
    EquilibratedCharges,
    Equilibration,
    Ewald,
    EwaldPlan,
    LabelNoise,
    LatentEwald,
    LennardJones,
    ModelCharges,
    Morse,
    Repulsion,
    SoftSphere,
    SpeciesCharges,
    Sum,
)
from jaxmlip.energy.base import cast
from jaxmlip.errors import UserError
from jaxmlip.files import write_atomically

FORMAT = "jaxmlip-1"

# Models: where the class lives, and that of its configuration.
MODELS = {
    "ACE": ("jaxmlip.models.ace", "ACE", "ACEConfig"),
    "LinearACE": ("jaxmlip.models.linear", "LinearACE", "LinearACEConfig"),
    "NequIP": ("jaxmlip.models.nequip", "NequIP", "NequIPConfig"),
}


def _tabled(make: Callable[..., AbstractEnergy], **numbers: float) -> Callable[[dict[str, Any]], AbstractEnergy]:
    """How to make a pair energy from its static fields: numbers, or tables of the pairs or elements it has."""

    def build(config: dict[str, Any]) -> AbstractEnergy:
        config = dict(config)
        pairs, mixed = config.pop("pairs", None), config.pop("mixing", None) is not None
        elements = config.pop("elements", None)
        if pairs is None:
            return make(**numbers, **config, **({} if elements is None else {"elements": elements}))
        keys = elements if mixed else pairs
        return make(**{name: dict.fromkeys(keys, number) for name, number in numbers.items()}, **config)

    return build


def _symbols(config: dict[str, Any]) -> list[str]:
    return [SYMBOLS[n] for n in config["elements"]]


# Other energies: how to make one from its static fields, with any numbers in its arrays.
TERMS = {
    "ZBL": lambda config: ZBL(config["cutoff"], config["elements"], config["onset"]),
    "LennardJones": _tabled(LennardJones, epsilon=0.0, sigma=1.0),
    "Morse": _tabled(Morse, depth=0.0, width=1.0, distance=1.0),
    "BornMayerHuggins": _tabled(BornMayerHuggins, a=0.0, rho=1.0, c=0.0, d=0.0),
    "SoftSphere": _tabled(SoftSphere, epsilon=0.0, sigma=1e-6),
    "Repulsion": _tabled(Repulsion, prefactor=0.0),
    "AtomicReferences": lambda config: AtomicReferences(dict.fromkeys(config["elements"], 0.0)),
    "LabelNoise": lambda config: LabelNoise(head=config.get("head")),
    "Ewald": lambda config: Ewald(**config),
    "LatentEwald": lambda config: LatentEwald(**config),
    "SpeciesCharges": lambda config: SpeciesCharges(dict.fromkeys(config["elements"], 0.0)),
    "AtomCharges": lambda config: AtomCharges(np.zeros(config["atoms"])),
    "ModelCharges": lambda config: ModelCharges(
        config["model"], start=dict.fromkeys(config["starters"], 0.0) or None, conserve=config["conserve"]
    ),
    "EquilibratedCharges": lambda config: EquilibratedCharges(
        dict.fromkeys(_symbols(config), 0.0),
        dict.fromkeys(_symbols(config), 1.0),
        dict.fromkeys(_symbols(config), 0.1),
        config["plan"],
        model=config.get("model"),
        background=config["background"],
    ),
    "Equilibration": lambda config: Equilibration(**config),
}


class Named(NamedTuple):
    """A published model: its file, what the file must hash to, and where it comes from."""

    file: str
    url: str
    sha256: str
    size: int
    elements: int
    source: str
    license: str


_NEQUIX = "https://github.com/atomicarchitects/nequix/raw/0ffdf881603d2c97f9105c64c3ec2df74dc1c224/models/"
_MIT = "MIT License, Copyright (c) 2025 Teddy Koker"


def _nequix(name: str, sha256: str, size: int, data: str) -> Named:
    file = f"nequix-{name}.nqx"
    source = f"Nequix (Koker et al., arXiv:2508.16067), 0.7 million parameters, trained on {data}"
    return Named(file, _NEQUIX + file, sha256, size, 89, source, _MIT)


NAMED = {
    "nequix-mp-1": _nequix(
        "mp-1", "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee", 2842366, "MPtrj (PBE, PBE+U)"
    ),
    "nequix-omat-1": _nequix(
        "omat-1", "2d0802ae7f5915cb488c44d25649d98404a103697e6500abb40f515e003a46a6", 2841752, "OMat24 (PBE, PBE+U)"
    ),
    "nequix-oam-1": _nequix(
        "oam-1",
        "6a43475eaeb32a7a049f36c1306d78aa1e7a17e8af37aeda7901c8fec0ca845c",
        2869928,
        "OMat24, then sAlex and MPtrj (PBE, PBE+U)",
    ),
}


def save(path: str | Path, energy: AbstractEnergy, **metadata: Any) -> Path:
    """Write an energy to a model file; `metadata` are plain values that are kept beside it (units, data, version).

    The file appears whole or not at all.

    **Raises:** `TypeError` where an energy has no entry in `MODELS` or `TERMS`, or metadata are not plain.
    """
    path = Path(path)
    arrays = [(jax.tree_util.keystr(p), np.asarray(x)) for p, x in _leaves(energy)]
    payload = b"".join(_little_endian(x).tobytes() for _, x in arrays)
    header = {
        "format": FORMAT,
        **_describe(energy),
        "metadata": metadata,
        "leaves": [{"path": p, "shape": list(x.shape), "dtype": x.dtype.name} for p, x in arrays],
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(header).encode() + b"\n" + payload)
    return path


def load(path_or_name: str | Path, dtype: Any = None) -> AbstractEnergy:
    """The energy in a model file, or a published one by name: `load("nequix-oam-1")`.

    A name is looked for as a file in `$JAXMLIP_CACHE` (default `~/.cache/jaxmlip`), in the folder
    `$JAXMLIP_DATA/potentials/nequix`, and then downloaded to the cache, checked and its license shown. `dtype` casts
    the parameters; results follow `positions.dtype` in any case.

    **Raises:** `UserError` that names the file, what is wrong with it and what to do.
    """
    path = find(path_or_name)
    energy = _read(path)
    return energy if dtype is None else cast(energy, dtype)


def metadata(path_or_name: str | Path) -> dict[str, Any]:
    """What `save` was told about a model, or the source and license of a published one."""
    if str(path_or_name) in NAMED:
        model = NAMED[str(path_or_name)]
        return {"source": model.source, "license": model.license, "elements": model.elements, "sha256": model.sha256}
    with open(find(path_or_name), "rb") as file:
        return _header(file, Path(path_or_name)).get("metadata", {})


def find(path_or_name: str | Path) -> Path:
    """The file of a model, downloaded where need be."""
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    name = str(path_or_name)
    if name not in NAMED:
        raise UserError(f"No model file {path}, and no published model of that name; there are {', '.join(NAMED)}.")
    model = NAMED[name]
    cache = Path(os.environ.get("JAXMLIP_CACHE", Path.home() / ".cache" / "jaxmlip"))
    folders = [cache]
    if "JAXMLIP_DATA" in os.environ:
        folders.append(Path(os.environ["JAXMLIP_DATA"]) / "potentials" / "nequix")
    for folder in folders:
        if (folder / model.file).is_file():
            _check_hash(folder / model.file, (folder / model.file).read_bytes(), model)
            return folder / model.file
    return _download(model, cache / model.file)


def _download(model: Named, target: Path) -> Path:
    print(f"Downloading {model.file} ({model.size / 1e6:.1f} MB): {model.source}. License: {model.license}.")
    try:
        with urllib.request.urlopen(model.url, timeout=30) as answer:
            content = answer.read()
    except OSError as error:
        raise UserError(
            f"{model.file} is not on this machine and could not be downloaded ({error}). Fetch {model.url} "
            f"elsewhere and put it at {target} (or set JAXMLIP_CACHE to the folder that has it)."
        ) from error
    _check_hash(target, content, model)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return target


def _check_hash(path: Path, content: bytes, model: Named) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != model.sha256:
        raise UserError(
            f"{path} is not the published {model.file}: SHA-256 {found} ({len(content)} bytes), expected "
            f"{model.sha256} ({model.size} bytes). Delete it and fetch {model.url} again."
        )


def _read(path: Path) -> AbstractEnergy:
    if path.suffix == ".nqx":
        from jaxmlip.models.nqx import load_nqx

        return load_nqx(path)
    with open(path, "rb") as file:
        header = _header(file, path)
        payload = file.read()
    try:
        skeleton = _skeleton(header)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} describes a model this version cannot make ({error!r}): update jaxmlip.") from error
    wanted = [(jax.tree_util.keystr(p), tuple(x.shape)) for p, x in _leaves(skeleton)]
    stored = [(leaf["path"], tuple(leaf["shape"])) for leaf in header["leaves"]]
    if wanted != stored:
        odd = sorted(set(map(str, wanted)) ^ set(map(str, stored)))[:4]
        raise UserError(f"{path} was written by another version: its arrays differ from the model's in {odd}.")
    dtypes = [np.dtype(leaf["dtype"]).newbyteorder("<") for leaf in header["leaves"]]
    sizes = [int(np.prod(shape)) * d.itemsize for (_, shape), d in zip(stored, dtypes, strict=True)]
    if len(payload) != sum(sizes) or hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise UserError(
            f"{path} is damaged: {len(payload)} bytes of arrays for {sum(sizes)} expected, or their hash is wrong. "
            "Copy or write it again."
        )
    starts = np.cumsum([0, *sizes])
    arrays = [
        np.frombuffer(payload, d, count=int(np.prod(shape)), offset=int(start)).reshape(shape)
        for (_, shape), d, start in zip(stored, dtypes, starts, strict=False)
    ]
    arrays = [jnp.asarray(a.astype(jax.dtypes.canonicalize_dtype(a.dtype.newbyteorder("=")))) for a in arrays]
    return jax.tree.unflatten(jax.tree.structure(skeleton), arrays)


def _header(file: Any, path: Path) -> dict[str, Any]:
    line = file.readline(1 << 24)
    try:
        header = json.loads(line)
        known = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a model file: its first line is not our JSON header. Give one `save` wrote."
        ) from error
    if known != FORMAT:
        raise UserError(f"{path} has format {known!r}; this version reads {FORMAT!r}. Update jaxmlip.")
    return header


def _leaves(energy: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(energy)


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _describe(energy: eqx.Module) -> dict[str, Any]:
    """What has to be known, besides the arrays, to make an energy, or a part of one, again."""
    name = type(energy).__name__
    if isinstance(energy, Sum):
        return {"model": "Sum", "terms": [_describe(term) for term in energy.terms]}
    if isinstance(energy, Committee):
        own = [jax.tree_util.keystr(path) for path, _ in _leaves(energy.own)]
        return {"model": "Committee", "members": energy.members, "own": own, "member": _describe(energy.member(0))}
    if name in MODELS:
        return {"model": name, "config": dataclasses.asdict(energy.config)}  # type: ignore[attr-defined]
    if name in TERMS:
        fields = [f.name for f in dataclasses.fields(energy) if f.metadata.get("static", False)]
        config: dict[str, Any] = {field: getattr(energy, field) for field in fields}
        config |= {f: dataclasses.asdict(v) for f, v in config.items() if isinstance(v, EwaldPlan)}
        config |= {f: _describe(v) for f, v in vars(energy).items() if isinstance(v, eqx.Module)}
        if isinstance(energy, AtomCharges):
            config["atoms"] = len(energy.charges)
        return {"model": name, "config": config}
    raise TypeError(f"Cannot save a {name}: model files hold {', '.join([*MODELS, *TERMS, 'Sum', 'Committee'])}.")


def _skeleton(entry: dict[str, Any]) -> Any:
    """The energy an entry describes, with shapes for arrays."""
    if entry["model"] == "Sum":
        return Sum(tuple(_skeleton(term) for term in entry["terms"]))
    if entry["model"] == "Committee":
        return _committee_skeleton(entry)
    config = {name: _part(value) for name, value in entry["config"].items()}
    if entry["model"] in TERMS:
        return TERMS[entry["model"]](config)
    module, model, configuration = MODELS[entry["model"]]
    module = importlib.import_module(module)
    return eqx.filter_eval_shape(
        getattr(module, model), getattr(module, configuration)(**config), key=jax.random.key(0)
    )


def _committee_skeleton(entry: dict[str, Any]) -> Committee:
    """A committee with shapes for arrays: its member's, those that are its own behind an axis of members."""
    member = _skeleton(entry["member"])
    own, shared = eqx.partition(
        member,
        jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path) in entry["own"], member),
    )
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((entry["members"], *x.shape), x.dtype), own)
    return Committee(stacked, shared)


def _part(value: Any) -> Any:
    """A value of a configuration: a part with an entry of its own, a plan, or plain."""
    if isinstance(value, dict):
        return _skeleton(value) if "model" in value else EwaldPlan(**{k: _tupled(v) for k, v in value.items()})
    return _tupled(value)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
