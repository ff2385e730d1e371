"""A probe for compilers that give wrong numbers: what `jaxmlip info` runs before it calls an installation sound."""

from __future__ import annotations

import jax
import jax.numpy as jnp

KNOWN_BAD = ("0.10.2", "0.11.1")


def compiler_fault(rows: int = 32_769) -> float:
    """Largest relative difference between compiled and uncompiled `sum((cell @ x)**2)` over many rows `x`.

    Zero on a sound compiler; 0.0078 with XLA-CPU of jax 0.10.2, which gets the last row wrong (measured).
    The matrix is the identity and the coordinates are integers, so both results must be equal to the last bit. The
    fault shows from 16,385 rows on in float64 and from 32,769 in float32; the float type is JAX's default.

    **Reference:** jax-ml/jax issue 39103.
    """
    index = jnp.arange(rows, dtype=jnp.result_type(float))
    x = jnp.stack([index, jnp.zeros_like(index), jnp.zeros_like(index)], axis=1)
    identity = jnp.eye(3, dtype=index.dtype)

    def squared_lengths(x):
        return jax.vmap(lambda row: jnp.sum((identity @ row) ** 2))(x)

    expected = index * index
    return float(jnp.max(jnp.abs(jax.jit(squared_lengths)(x) - expected) / (1.0 + expected)))


def known_bad_version() -> str | None:
    """The version of jax or jaxlib that is known to miscompile on CPU, or None."""
    import jaxlib

    for version in (jax.__version__, jaxlib.__version__):  # pyright: ignore[reportPrivateImportUsage]
        if version in KNOWN_BAD:
            return version
    return None
