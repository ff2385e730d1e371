"""Free energies of sampled states, their differences, and the temperature at which two phases coexist."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from scipy.optimize import root_scalar
from scipy.special import expit

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.learn.frames import evaluate, traced
from jaxmlip.learn.mixture import Mixture, log_weights, mix
from jaxmlip.learn.sampler import Samples, joined, replicas_of
from jaxmlip.observables.statistics import Estimate

_ITERATIONS = 30
_LARGEST_ERROR = 1.0  # kT; Bennett's estimate of its own error fails where states do not overlap


def free_energy(energy: AbstractEnergy, mixture: Mixture, *, chunk: int = 1) -> Float[Array, ""]:
    r"""Free energy [eV] under `energy` less that of the first set of the mixture (F at constant volume, else G).

    Differentiable: its gradient by the parameters is exactly $\langle \nabla U \rangle$ over the weighted frames.

    **Reference:** Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008), doi:10.1063/1.2978177.
    """
    changes, _ = evaluate(energy, (), mixture.frames, chunk=chunk)
    return -mixture.conditions.kT.astype(changes.dtype) * logsumexp(log_weights(changes, mixture))


def bennett(forward: Float[np.ndarray, "frames"], reverse: Float[np.ndarray, "others"]) -> Estimate:
    r"""Free energy of state 1 less that of state 0 [kT], by the acceptance ratio (host).

    `forward` has $u_1 - u_0$ [kT] at independent frames of state 0, `reverse` $u_0 - u_1$ at those of state 1. The
    error is that of independent frames: leave out correlated ones (`observables.statistics.statistical_inefficiency`).

    **Raises:** `ValueError` for no frames, numbers that are not finite, and states that do not overlap.

    **Reference:** Bennett, J. Comput. Phys. 22, 245 (1976), doi:10.1016/0021-9991(76)90078-4.
    """
    there, back = np.asarray(forward, np.float64), np.asarray(reverse, np.float64)
    if not len(there) or not len(back) or not np.all(np.isfinite(np.concatenate([there, back]))):
        raise ValueError(f"Give finite energies of one frame of each state or more; got {len(there)} and {len(back)}.")
    ratio = np.log(len(there) / len(back))

    def excess(shift: float) -> float:
        return float(expit(shift - ratio - there).sum() - expit(ratio - shift - back).sum())

    low = min(there.min(), -back.max()) - abs(ratio) - 1.0
    high = max(there.max(), -back.min()) + abs(ratio) + 1.0
    while excess(low) > 0.0:
        low -= high - low
    while excess(high) < 0.0:
        high += high - low
    shift = root_scalar(excess, bracket=(low, high), xtol=1e-12).root
    parts = expit(shift - ratio - there), expit(ratio - shift - back)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = sum((np.mean(f**2) / np.mean(f) ** 2 - 1.0) / len(f) for f in parts)
    if not variance < _LARGEST_ERROR**2 or _apart(there, back):
        raise ValueError(
            f"The two states do not overlap: energies rise by {there.min():.3g} kT at least one way and "
            f"{back.min():.3g} kT the other. Put states between them, and add up the differences."
        )
    return Estimate(shift, float(np.sqrt(variance)))


def _apart(there: np.ndarray, back: np.ndarray) -> bool:
    """Whether the two distributions of $u_1 - u_0$ have a gap between them that is wider than either."""
    gap = there.min() + back.min()
    return bool(gap > max(np.ptp(there), np.ptp(back), 1.0))


def melting_temperature(
    energy: AbstractEnergy, solid: Mixture, liquid: Mixture, *, anchor: int = -1, chunk: int = 1
) -> Float[Array, ""]:
    r"""Where two phases of constant pressure coexist under `energy` [K].

    Both must have been sampled at the temperature where they coexist under the energy of the sets `anchor` (the last
    ones). Frames are weighted for other parameters and temperatures alike, so $g_\mathrm{liquid} = g_\mathrm{solid}$
    is solved for the temperature as far as frames reach; systems may have different sizes. Differentiable, with
    $dT_m / d\theta = T_m (\langle \partial U / \partial \theta \rangle_l - \langle \partial U / \partial \theta
    \rangle_s) / (h_l - h_s)$, all by atom.

    **Raises:** `ValueError` for frames at constant volume, or at different temperatures or pressures.

    **Reference:** Smith, Mountain & Haymet, J. Chem. Phys. 99, 5547 (1993), doi:10.1063/1.466033, for the derivative.
    """
    _check_phases(solid, liquid)
    changes = tuple(evaluate(energy, (), phase.frames, chunk=chunk)[0] for phase in (solid, liquid))
    start = 1.0 / liquid.conditions.kT.astype(changes[0].dtype)

    def gap(beta, changes):
        """Reduced free energy of an atom of the liquid less that of the solid, and its derivative by beta."""
        (g_solid, h_solid), (g_liquid, h_liquid) = (
            _reduced(phase, change, beta, start, anchor) for phase, change in zip((solid, liquid), changes, strict=True)
        )
        return g_liquid - g_solid, h_liquid - h_solid

    held = lax.stop_gradient(changes)

    def newton(_, beta):
        value, slope = gap(beta, held)
        return beta - value / slope

    beta = lax.stop_gradient(lax.fori_loop(0, _ITERATIONS, newton, start))
    value, slope = gap(beta, changes)
    return 1.0 / (units.kB * (beta - value / lax.stop_gradient(slope)))  # the last step carries the derivative


def melting_estimate(energy: AbstractEnergy, solid: Sequence[Samples], liquid: Sequence[Samples]) -> Estimate:
    """The melting temperature [K] from sample sets of both phases, of which the first coexist, and its error from
    leaving out one replica of either phase at a time (host)."""
    phases = solid, liquid
    whole = [mix(sets) for sets in phases]
    variance = 0.0
    for i, sets in enumerate(phases):
        count = min(s.replicas for s in sets)
        without = []
        for left in range(count if count > 1 else 0):
            pair = list(whole)
            pair[i] = mix([joined([r for k, r in enumerate(replicas_of(s)) if k != left]) for s in sets])
            without.append(float(_anchored(energy, *pair)))
        variance += (count - 1) * float(np.var(without)) if without else 0.0
    return Estimate(float(_anchored(energy, *whole)), float(np.sqrt(variance)))


@Compiled
def _anchored(energy: AbstractEnergy, solid: Mixture, liquid: Mixture) -> Array:
    return melting_temperature(energy, solid, liquid, anchor=0)


def _reduced(phase: Mixture, changes: Float[Array, "frames"], beta, start, anchor: int) -> tuple[Array, Array]:
    r"""$\beta g$ of an atom, less that of the set `anchor` at its own temperature, and the enthalpy of an atom [eV]."""
    dtype = changes.dtype
    held = changes + phase.origins.astype(dtype)
    held = held + _pressure(phase).astype(dtype) * phase.volumes.astype(dtype)
    level = _level(phase)
    logs = -beta * held - phase.log_mixture.astype(dtype)
    total = -logsumexp(logs) - phase.free_energies[anchor] + (beta - start) * level
    enthalpy = jnp.sum(jax.nn.softmax(logs) * held) + level
    atoms = len(phase.frames.system.numbers)
    return total / atoms, enthalpy / atoms


def _level(phase: Mixture) -> Float[Array, ""]:
    """U + P V [eV] that `origins` and `volumes` count from."""
    dtype = phase.origins.dtype
    cells = phase.frames.cells.astype(dtype)
    volume = jnp.mean(jnp.abs(jnp.linalg.det(cells)))
    energy = jnp.mean(jnp.sum(phase.frames.atom_energies.astype(dtype), axis=1))
    return energy + _pressure(phase).astype(dtype) * volume


def _pressure(phase: Mixture) -> Float[Array, ""]:
    """[eV/Å³]

    **Raises:** `ValueError` for frames at constant volume.
    """
    if phase.conditions.pressure is None:
        raise ValueError(
            "Phases coexist at one pressure: sample both with a `pressure`, so that their cells can change."
        )
    return phase.conditions.pressure


def _check_phases(solid: Mixture, liquid: Mixture) -> None:
    found = {
        "temperature": (solid.conditions.temperature, liquid.conditions.temperature),
        "pressure": (_pressure(solid), _pressure(liquid)),
    }
    if traced(found):
        return
    for name, pair in found.items():
        one, other = (float(x) for x in pair)
        if not np.isclose(one, other, rtol=1e-6, atol=1e-12):
            raise ValueError(f"Both phases must be sampled at the same {name}; got {one:g} and {other:g}.")
