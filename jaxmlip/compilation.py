"""Compiling each energy as it is compiled best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax

LEAST_WORK: Mapping[str, Any] = MappingProxyType(
    {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
)
"""Settings under which XLA compiles a CPU program soonest and in least memory; some programs run slower for it."""


class Compiled:
    """`equinox.filter_jit`, with the settings of the compiler that the energies among the arguments ask for.

    A class of energies asks by an attribute `compiler_options`, because of a measurement
    (`docs/decisions/0016-compilation.md`); the numbers are the same but for rounding. Settings count on a CPU only, and
    those that the installed compiler does not know are left out.

    **Args:** the function, and what else `equinox.filter_jit` takes.

    **Raises:** `ValueError` by jax, if called with such an energy within another compiled function: call the function
    itself there.
    """

    def __init__(self, function: Callable, **options: Any):
        self.function = function
        self.options = options
        self._jitted: dict[tuple, Callable] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        settings = settings_for(args)
        key = tuple(sorted(settings.items()))
        if key not in self._jitted:
            options: dict[str, Any] = {**self.options, "compiler_options": settings or None}
            self._jitted[key] = eqx.filter_jit(self.function, **options)
        return self._jitted[key](*args, **kwargs)


def settings_for(tree: Any) -> dict[str, Any]:
    """What the energies in a tree ask of the compiler that is used, and that it knows."""
    if jax.default_backend() != "cpu":
        return {}
    wishes: dict[str, Any] = {}
    for node in jax.tree.leaves(tree, is_leaf=_asks):
        wishes |= node.compiler_options if _asks(node) else {}
    return known(wishes)


def known(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that the installed compiler knows; none where it is not that of a CPU."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in wishes.items() if _known(name, value)}


def _asks(node: Any) -> bool:
    return hasattr(type(node), "compiler_options")


@functools.cache
def _known(name: str, value: Any) -> bool:
    """Whether the compiler has this setting: names come and go with its versions."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
