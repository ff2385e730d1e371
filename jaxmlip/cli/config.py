"""Configurations: frozen dataclasses of plain values, filled from a TOML file and from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from jaxmlip.errors import UserError

Config = TypeVar("Config")


def parse(cls: type[Config], argv: Sequence[str], *, command: str, description: str = "", toml: bool = True) -> Config:
    """The configuration that `argv` asks for: `[FILE.toml] [--section.key value ...]`, without file where not `toml`.

    **Raises:** `UserError` for a file that is not there or not TOML, unknown keys and values of the wrong type;
    `SystemExit` (code 2) where the options make no sense.
    """
    argv = list(argv)
    file = Path(argv.pop(0)) if toml and argv and not argv[0].startswith("-") else None
    try:
        default = from_dict(cls, read_toml(file) if file else {})
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    prog = f"jaxmlip {command} [FILE.toml]" if toml else f"jaxmlip {command}"
    return tyro.cli(cls, args=argv, default=default, prog=prog, description=description)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    **Raises:** `UserError` where it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is not TOML: {error}.") from error


def from_dict(cls: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """A dataclass from a mapping; fields without a default may be left for the command line.

    **Raises:** `UserError` for an unknown key, with the nearest known one, and for a value of the wrong type.
    """
    types_of = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]  # dataclasses have no public type
    for key in values:
        if key not in known:
            raise UserError(f"unknown key `{prefix}{key}`{suggestion(key, known, prefix)}")
    filled = {}
    for name, field in known.items():
        here, kind = f"{prefix}{name}", types_of[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and (name in values or _required(field)):
            table = values.get(name, {})
            if not isinstance(table, Mapping):
                raise UserError(f"`{here}` must be a table, `[{here}]`; got {table!r}")
            filled[name] = from_dict(kind, table, f"{here}.")
        elif name in values:
            filled[name] = _value(kind, values[name], here)
        elif _required(field):
            filled[name] = tyro.MISSING
    if tyro.MISSING not in filled.values():
        return cls(**filled)
    # What is still missing comes from the command line, and is checked when tyro makes the real one.
    partial = object.__new__(cls)
    for name, value in filled.items():
        object.__setattr__(partial, name, value)
    return partial


def suggestion(word: str, known: Sequence[str] | Mapping[str, Any], prefix: str = "") -> str:
    """`; did you mean X?`, or the list of what is known where nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean `{prefix}{near[0]}`?" if near else f"; known are {', '.join(sorted(known))}."


def to_toml(config: Any) -> str:
    """The configuration as TOML that `parse` reads back; values that are `None` are left out."""
    return _toml(dataclasses.asdict(config), ())


def require(condition: bool, name: str, rule: str, given: Any) -> None:
    """Refuse a value that breaks its rule.

    **Raises:** `UserError` with name, rule and value.
    """
    if not condition:
        raise UserError(f"`{name}` {rule}; got {given}.")


def require_number(
    value: float, name: str, *, above: float | None = None, least: float | None = None, most: float = 1e300
):
    """Refuse what is not a finite number in the given range.

    **Raises:** `UserError` with name, range and value.
    """
    low = f"above {above:g}" if above is not None else f"at least {least:g}" if least is not None else ""
    high = f"at most {most:g}" if most < 1e300 else ""
    inside = math.isfinite(value) and value <= most
    inside = inside and (above is None or value > above) and (least is None or value >= least)
    require(inside, name, "must be a finite number " + " and ".join(part for part in (low, high) if part), value)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(kind: Any, value: Any, name: str) -> Any:
    """One TOML value as the type that the field has."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    for option in options:
        if option is Any:
            return value
        origin = typing.get_origin(option)
        if origin is typing.Literal and value in typing.get_args(option):
            return value
        if origin is tuple and isinstance(value, list):
            return tuple(_value(typing.get_args(option)[0], item, name) for item in value)
        if origin is dict and isinstance(value, Mapping):
            return {key: _value(typing.get_args(option)[1], item, f"{name}.{key}") for key, item in value.items()}
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option is Path and isinstance(value, str):
            return Path(value)
        if option in (str, int, bool) and type(value) is option:
            return value
    raise UserError(f"`{name}` must be {_describe(kind)}; got {value!r}{_nearest(kind, value)}")


def _nearest(kind: Any, value: Any) -> str:
    """`; did you mean X?` where one of a choice of words is near."""
    words = [word for word in typing.get_args(kind) if isinstance(word, str)]
    near = difflib.get_close_matches(value, words, 1, 0.5) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(kind))
    names = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        Path: "a path (a string)",
        dict: "a table",
    }
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    kinds = (typing.get_origin(option) or option for option in options if option is not type(None))
    return " or ".join(names.get(kind, "a list") for kind in kinds)


def _toml(values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, dict)}
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and plain else []
    lines += [f"{_key(key)} = {_literal(value)}" for key, value in plain.items()]
    parts = ["\n".join(lines) + "\n"] if lines else []
    return "\n".join(parts + [_toml(value, (*path, key)) for key, value in tables.items()])


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _literal(key)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_literal(item)}" for key, item in value.items()) + " }"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in text)
    return f'"{escaped}"'
