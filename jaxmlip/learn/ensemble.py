"""Ensembles as data sets see them: what their members predict, and ensembles drawn from the posterior of a fit.

Train one as any energy: `fit(Committee.of([ACE(config, key=k) for k in keys]), ...)`. Every member has its own loss and
the mean of these is minimized, under one `vmap`; members that share parameters train those together.

**Reference:** Lakshminarayanan, Pritzel & Blundell, NeurIPS (2017), arXiv:1612.01474 (deep ensembles); Kellner &
Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024), doi:10.1088/2632-2153/ad594a (shallow ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray
from scipy import linalg

from jaxmlip.compilation import Compiled
from jaxmlip.data import Dataset, Loader
from jaxmlip.energy import AbstractEnergy, AtomicReferences, Committee, Sum, energy_forces_virial
from jaxmlip.energy.committee import member_derivatives, split_committee
from jaxmlip.errors import UserError
from jaxmlip.graph import Graph
from jaxmlip.learn.evaluate import ahead, check_dataset, split_references
from jaxmlip.learn.linear import KINDS, LinearFit
from jaxmlip.learn.linearised import Linearised, last_layer
from jaxmlip.learn.uncertainty import Calibration, Uncertain


def predict_with_committee(
    energy: AbstractEnergy,
    dataset: Dataset,
    calibration: Calibration | None = None,
    *,
    noise: Mapping[str, float] | None = None,
    batch_atoms: int = 256,
    dtype: Any = np.float32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Uncertain]:
    """Predictions of an energy with a committee among its terms, and how far its members disagree, for every frame.

    `noise` of labels, where it is known [eV/atom, eV/Å, eV/atom], by kind (`energy`, `force`, `virial`).
    `progress(done, frames)` is called after each batch.

    **Raises:** `UserError` where there is no committee, or a frame holds an element that it does not know.
    """
    check_dataset(energy, dataset)
    model, references = split_references(energy)
    try:
        committee, rest = split_committee(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    loader = Loader(dataset, model.cutoff, batch_atoms=batch_atoms, references=references, dtype=dtype, max_shapes=2)
    scale: Mapping[str, float] = dict.fromkeys(KINDS, 1.0) if calibration is None else calibration.factor
    given: dict[str, float] = {kind: (noise or {}).get(kind, 0.0) for kind in KINDS}
    found: dict[int, Uncertain] = {}
    items = ((i, _predictions(committee, rest, loader.pack(i).graph)) for i in loader.plan(0))
    for indices, out in ahead(items):
        energies, forces, virials = (np.asarray(x, np.float64) for x in out)
        start = 0
        for slot, i in enumerate(map(int, indices)):
            count = len(dataset[i])
            totals = energies[:, slot] + loader.offsets[i]
            here = (totals / count, forces[:, start : start + count], virials[:, slot])
            found[i] = _uncertain(dataset, i, here, scale, given)
            start += count
        if progress is not None:
            progress(len(found), len(dataset))
    return [found[i] for i in range(len(dataset))]


def _uncertain(dataset: Dataset, index: int, members: tuple, scale: Mapping[str, float], noise: Mapping[str, float]):
    """Mean and covariance of what members say of one frame: energies per atom, forces, virials."""
    record = dataset[index]
    energies, forces, virials = members
    volume = abs(float(np.linalg.det(record.cell))) if all(record.pbc) else np.nan
    stress = -virials[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / volume
    more = float(len(energies) - 1)
    df, ds = forces - forces.mean(axis=0), stress - stress.mean(axis=0)
    return Uncertain(
        energy_per_atom=float(energies.mean()),
        forces=forces.mean(axis=0),
        stress=stress.mean(axis=0),
        energy_epistemic=float(energies.var(ddof=1)) * scale[KINDS[0]] ** 2,
        forces_epistemic=np.einsum("mia,mib->iab", df, df) / more * scale[KINDS[1]] ** 2,
        stress_epistemic=ds.T @ ds / more * scale[KINDS[2]] ** 2,
        energy_noise=noise[KINDS[0]] * scale[KINDS[0]],
        forces_noise=noise[KINDS[1]] * scale[KINDS[1]],
        stress_noise=noise[KINDS[2]] * scale[KINDS[2]] * len(record) / volume,
    )


@Compiled
def _predictions(committee: Committee, rest: AbstractEnergy | None, graph: Graph) -> tuple[Array, Array, Array]:
    """Energies, forces and virials of all members, with the rest, on which they agree, added to each."""
    found = member_derivatives(committee, graph)
    if rest is None:
        return found.energy, found.forces, found.virial
    more = energy_forces_virial(rest, graph)
    return found.energy + more[0][None], found.forces + more[1][None], found.virial + more[2][None]


def sample_committee(
    fit: LinearFit | Linearised, members: int, *, key: PRNGKeyArray, calibration: Calibration | None = None
) -> AbstractEnergy:
    """A committee drawn from the posterior of a linear or linearised model, and the references: an energy whose mean is
    that of the fit, and whose spread tends to the posterior deviation with more members, in dynamics and ASE too.

    A `calibration` widens it by the factor of forces.

    **Raises:** `UserError` for fewer than two members.
    """
    if members < 2:
        raise UserError(f"A committee needs two members at least; got {members}.")
    wide = 1.0 if calibration is None else calibration.factor[KINDS[1]]
    draws = np.asarray(jax.random.normal(key, (len(fit.mean), members)), np.float64)
    delta = wide * linalg.solve_triangular(fit.factor.T, draws, lower=False)
    weights = (fit.mean[:, None] + delta - delta.mean(axis=1, keepdims=True)) / fit.scale[:, None]
    if isinstance(fit, Linearised):
        (model, known), choose = split_references(fit.energy), fit.choose
        elements = model.elements or tuple(sorted(known))
    else:
        model, known, elements = fit.model, dict(fit.references), fit.model.config.elements
        choose = last_layer
    constants = weights[-len(elements) :] if elements else np.zeros((0, members))
    flat, unravel = ravel_pytree(list(choose(model)))
    drawn = []
    for m in range(members):
        leaves = unravel(jnp.asarray(weights[: flat.size, m], flat.dtype))
        shifts = constants[:, m] - constants.mean(axis=1)
        member = Sum((eqx.tree_at(choose, model, leaves), AtomicReferences(dict(zip(elements, shifts, strict=True)))))
        drawn.append(member)
    total = {n: known.get(n, 0.0) + float(c) for n, c in zip(elements, constants.mean(axis=1), strict=True)}
    own = lambda energy: [*choose(energy), energy.terms[-1].energies]  # noqa: E731
    return Committee.of(drawn, own) + AtomicReferences(total)
