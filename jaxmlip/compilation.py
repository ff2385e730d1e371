"""Compiling less: learned potentials through the older of XLA's two ways to emit code for a CPU, where it has both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

_LEAST = {"xla_cpu_use_fusion_emitters": False}


class Compiled:
    """`equinox.filter_jit` of a function that is called from outside of other compiled functions.

    On a CPU the forces of a learned potential so compile in two thirds of the time and of the memory, and run as fast
    (`docs/decisions/0016-compilation.md`). Loops of training and dynamics are not compiled like this: they run faster
    as they are.

    **Args:** the function, and what else `equinox.filter_jit` takes.

    **Raises:** `ValueError` by jax, if called within another compiled function: call the function itself there.
    """

    def __init__(self, function: Callable, **options: Any):
        self.function = function
        self.options = options

    @functools.cached_property
    def _jitted(self) -> Callable:
        """Made when first called: which settings there are is known from then on."""
        settings: dict[str, Any] = {"compiler_options": least_work(jax.default_backend()) or None}
        return eqx.filter_jit(self.function, **self.options, **settings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)


@functools.cache
def least_work(platform: str) -> dict[str, bool]:
    """Settings of the compiler for `platform`; none where it is not a CPU, or jaxlib has but one way (from 0.12 on)."""
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_LEAST).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _LEAST
