"""Motion in time: mean squared displacement, diffusion, velocity autocorrelation, from frames at equal intervals."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def mean_squared_displacement(positions: Float[Array, "steps atoms 3"]) -> Float[Array, "steps"]:
    r"""$\langle |r_i(t_0 + t) - r_i(t_0)|^2 \rangle$ [Å²] over atoms and all origins $t_0$, for each lag $t$.

    Positions must be unwrapped, as ours are; remove a drift of the center of mass first. By Fourier transforms, in
    n log n; sums are centered, so that rounding stays that of the displacements.

    **Reference:** Kneller et al., Comput. Phys. Commun. 91, 191 (1995), doi:10.1016/0010-4655(95)00048-K.
    """
    steps = positions.shape[0]
    x = positions - jnp.mean(positions, axis=0, keepdims=True)
    squares = jnp.sum(x * x, axis=2)
    before = jnp.cumsum(squares, axis=0)
    zero = jnp.zeros_like(before[:1])
    before = jnp.concatenate([zero, before])
    lags = jnp.arange(steps)
    first = before[steps - lags]  # squares of the origins of each lag
    last = before[-1:] - before[lags]  # and of their ends
    pairs = (steps - lags).astype(x.dtype)[:, None]
    return jnp.mean((first + last) / pairs - 2.0 * autocorrelation(x), axis=1)


def autocorrelation(x: Float[Array, "steps atoms 3"]) -> Float[Array, "steps atoms"]:
    """Sum over components of x(t0) x(t0 + t), averaged over origins t0, for each lag t."""
    steps = x.shape[0]
    spectrum = jnp.fft.rfft(x, n=2 * steps, axis=0)
    power = jnp.sum(jnp.real(spectrum * jnp.conj(spectrum)), axis=2)
    sums = jnp.fft.irfft(power, n=2 * steps, axis=0)[:steps]
    return sums / jnp.arange(steps, 0, -1).astype(x.dtype)[:, None]


def velocity_autocorrelation(velocities: Float[Array, "steps atoms 3"]) -> Float[Array, "steps"]:
    r"""$\langle v_i(t_0) \cdot v_i(t_0 + t) \rangle$ over atoms and all origins, for each lag; not normalized."""
    return jnp.mean(autocorrelation(velocities), axis=1)


def diffusion_coefficient(
    msd: Float[Array, "steps"], interval: float | Float[Array, ""], *, start: int, stop: int
) -> Float[Array, ""]:
    r"""$D$ from $\mathrm{MSD} = 6 D t + c$ by least squares over the lags `start` to `stop` [Å²/time].

    `interval` is the time between frames. **Raises:** `ValueError` where fewer than two lags are left.
    """
    if not 0 <= start < stop - 1 < len(msd):
        raise ValueError(f"Lags must satisfy 0 <= start < stop - 1 < {len(msd)}; got {start} and {stop}.")
    t = jnp.arange(start, stop).astype(msd.dtype) * interval
    t = t - jnp.mean(t)
    return jnp.sum(t * msd[start:stop]) / (6.0 * jnp.sum(t * t))


def green_kubo(
    values: Float[np.ndarray, "steps *components"], interval: float
) -> Float[np.ndarray, "steps *components"]:
    r"""Running integral $\int_0^t C(t') dt'$ of a correlation at equal lags, by the trapezoidal rule (host).

    Viscosity: $\eta = \frac{V}{k_B T} \int \langle P_{xy}(0) P_{xy}(t) \rangle dt$, averaged over the three shear
    components; thermal conductivity: $\kappa = \frac{1}{3 V k_B T^2} \int \langle J(0) \cdot J(t) \rangle dt$.
    `interval` is the time between lags.
    """
    values = np.asarray(values, np.float64)
    steps = 0.5 * (values[1:] + values[:-1]) * interval
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(steps, axis=0)])
