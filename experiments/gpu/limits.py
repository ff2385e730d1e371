"""What the device can do, measured, and what a compiled program asks of it."""

import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def seconds(function: Callable, *arguments) -> float:
    """Wall time of a call, results ready."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def medians(thunks: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns after one call that does not count."""
    for thunk in thunks.values():
        seconds(thunk)
    taken: dict[str, list[float]] = {name: [] for name in thunks}
    for _ in range(repeats):
        for name, thunk in thunks.items():
            taken[name].append(seconds(thunk))
    return {name: statistics.median(t) for name, t in taken.items()}


def device_limits(small: bool) -> dict[str, float]:
    """Rates of a copy (`x + 1` in place, bytes read and written) and of float32 matrix products, by precision."""
    size, edge = (2**25, 1024) if small else (2**28, 8192)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    held = [add(jax.random.uniform(jax.random.key(0), (size,), jnp.float32))]

    def copy():
        held[0] = add(held[0])
        return held[0]

    a = jax.random.normal(jax.random.key(1), (edge, edge), jnp.float32)
    products = {p: jax.jit(lambda x, p=p: jnp.dot(x, x, precision=p)) for p in ("default", "highest")}
    thunks = {"copy": copy, **{name: lambda f=f: f(a) for name, f in products.items()}}
    taken = medians(thunks, 7)
    return {
        "copy_GB_s": 8e-9 * size / taken["copy"],
        "matmul_default_GFLOP_s": 2e-9 * edge**3 / taken["default"],
        "matmul_highest_GFLOP_s": 2e-9 * edge**3 / taken["highest"],
    }


def cost(function: Callable, *arguments) -> dict[str, float]:
    """Operations and bytes of the compiled program, as XLA counts them.

    XLA counts the body of a loop once. Where the program has loops, operations are those of its matrix products with
    the lengths of the loops, should these be more; bytes are then a lower bound.
    """
    compiled = eqx.filter_jit(function).lower(*arguments).compile().compiled
    analysis = compiled.cost_analysis()
    jaxpr = eqx.filter_make_jaxpr(function)(*arguments)[0]
    return {
        "flops": max(float(analysis["flops"]), product_operations(jaxpr.jaxpr)),
        "xla_flops": float(analysis["flops"]),
        "bytes": float(analysis["bytes accessed"]),
        "loops": sum(" while(" in line for line in compiled.as_text().splitlines()),
    }


def product_operations(jaxpr) -> float:
    """Operations of all matrix products of a program; scans count with their length, branches all."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2.0 * np.prod(equation.outvars[0].aval.shape) * np.prod([shape[d] for d in contracted])
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
        inside = sum(product_operations(getattr(x, "jaxpr", x)) for x in inner if hasattr(x, "eqns"))
        total += inside * equation.params.get("length", 1)
    return float(total)
