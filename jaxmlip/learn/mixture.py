"""Frames of several sample sets as one mixture, and the weights that it gives them under any energy."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

from jaxmlip.learn.frames import Frames, accumulator, evaluate, fitted
from jaxmlip.learn.sampler import Samples
from jaxmlip.observables.static import Conditions


class Mixture(eqx.Module):
    r"""Frames of all sample sets, and what their weights need.

    With reduced potentials $u_k = \beta_k (U_k + P_k V)$, the frames are drawn from the mixture
    $\sum_k N_k e^{f_k - u_k}$; `log_mixture` is its logarithm, up to one constant, at each frame. Energies in it count
    from those of the parameters that sampled the frame; `origins` [eV] are these, and `volumes` [Å³], less their means.
    `layout` has replicas and frames of each for every set. `conditions` are those of the averages, by default those of
    the last set.
    """

    frames: Frames
    log_mixture: Float[Array, "frames"]
    origins: Float[Array, "frames"]
    volumes: Float[Array, "frames"]
    conditions: Conditions
    layout: tuple[tuple[int, int], ...] = eqx.field(static=True)
    free_energies: tuple[float, ...] = eqx.field(static=True)

    def blocks(self) -> list[tuple[int, int, int]]:
        """Of each uninterrupted piece of a trajectory its replica, its first frame and its length."""
        found, start = [], 0
        for replicas, frames in self.layout:
            found += [(replica, start + replica * frames, frames) for replica in range(replicas)]
            start += replicas * frames
        return found


def mix(samples: Sequence[Samples], *, reach: float | None = None, conditions: Conditions | None = None) -> Mixture:
    """The mixture of sample sets of one system (host); `reach` [Å] is how far observables look, if farther than the
    energy.

    **Raises:** `ValueError` where there is no set, or they are of different systems.

    **Reference:** Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008), doi:10.1063/1.2978177; for one set: Torrie &
    Valleau, J. Comput. Phys. 23, 187 (1977), doi:10.1016/0021-9991(77)90121-8.
    """
    samples = list(samples)
    _check_sets(samples)
    system, near = samples[-1].frames.system, samples[-1].frames.near
    positions, cells, atom_energies = (
        jnp.concatenate([getattr(s.frames, name) for s in samples]) for name in ("positions", "cells", "atom_energies")
    )
    if len(samples) > 1:
        near, _ = fitted(samples[-1].energy, system, positions, cells, start=near)
    far = None
    if reach is not None and reach > near.cutoff:
        far, _ = fitted(samples[-1].energy, system, positions, cells, cutoff=reach)
    frames = Frames(system, positions, cells, atom_energies, near, far)
    origins = np.sum(np.asarray(atom_energies, np.float64), axis=1)
    volumes = np.abs(np.linalg.det(np.asarray(cells, np.float64)))
    origins, volumes = origins - origins.mean(), volumes - volumes.mean()
    reduced = np.stack([_reduced(s, frames, origins, volumes, len(samples) > 1) for s in samples])
    counts = np.array([len(s.frames) for s in samples])
    free, log_mixture = multistate(reduced, counts)
    dtype = accumulator(positions.dtype)
    return Mixture(
        frames=frames,
        log_mixture=jnp.asarray(log_mixture, dtype),
        origins=jnp.asarray(origins, dtype),
        volumes=jnp.asarray(volumes, dtype),
        conditions=samples[-1].conditions if conditions is None else conditions,
        layout=tuple((s.replicas, len(s.frames) // s.replicas) for s in samples),
        free_energies=tuple(float(f) for f in free),
    )


def multistate(
    reduced: Float[np.ndarray, "sets frames"], counts: np.ndarray
) -> tuple[Float[np.ndarray, "sets"], Float[np.ndarray, "frames"]]:
    r"""Free energies $f_k$ [kT], the first 0, and $\ln \sum_k N_k e^{f_k - u_k}$ at each frame, self-consistently.

    `reduced` potentials $u_k$ of all frames in each state; of `counts` frames each state has drawn.
    """
    free, logs = np.zeros(len(counts)), np.log(counts)

    def mixed(free: np.ndarray) -> np.ndarray:
        return np.asarray(logsumexp((logs + free)[:, None] - reduced, axis=0))

    for _ in range(10_000):
        after = -np.asarray(logsumexp(-reduced - mixed(free)[None], axis=1))
        after = after - after[0]
        close = np.max(np.abs(after - free)) < 1e-12 * (1.0 + np.max(np.abs(after)))
        free = after
        if close:
            break
    return free, mixed(free)


def log_weights(changes: Float[Array, "frames"], mixture: Mixture) -> Float[Array, "frames"]:
    """Logarithms of the weights, not normalized, from the `changes` [eV] of the energies."""
    beta = 1.0 / mixture.conditions.kT.astype(changes.dtype)
    held = changes + mixture.origins.astype(changes.dtype)
    if mixture.conditions.pressure is not None:
        held = held + mixture.conditions.pressure.astype(changes.dtype) * mixture.volumes.astype(changes.dtype)
    return -beta * held - mixture.log_mixture.astype(changes.dtype)


def _reduced(samples: Samples, frames: Frames, origins, volumes, several: bool) -> Float[np.ndarray, "frames"]:
    """Reduced potentials of all frames in the state of one set, in float64."""
    changes = np.zeros(len(frames))
    if several:
        changes = np.asarray(evaluate(samples.energy, (), frames)[0], np.float64)
    held = changes + origins
    if samples.conditions.pressure is not None:
        held = held + float(samples.conditions.pressure) * volumes
    return held / float(samples.conditions.kT)


def _check_sets(samples: list[Samples]) -> None:
    if not samples:
        raise ValueError("A mixture needs at least one set of samples; got none.")
    first = samples[0].frames
    for other in samples[1:]:
        same = np.array_equal(np.asarray(first.system.numbers), np.asarray(other.frames.system.numbers))
        if not same or first.system.pbc != other.frames.system.pbc:
            raise ValueError("All sets of a mixture must be of the same system: other elements or periodicity found.")
        if first.near.cutoff != other.frames.near.cutoff:
            raise ValueError("All energies of a mixture must have the same cutoff.")
