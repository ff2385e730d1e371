"""Conformance kit: what every energy must satisfy, as named checks, for ours and for other people's energies."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.elements import COVALENT_RADII
from jaxmlip.energy import (
    AbstractEnergy,
    Derivatives,
    Sum,
    check_elements,
    energy_forces_stress,
    hessian,
    system_energies,
)
from jaxmlip.graph import Graph, batch
from jaxmlip.graph.host import neighbor_pairs
from jaxmlip.system import System, make_system

ATOMS = 16  # every graph of the kit is padded to as many atoms, and to two systems, so that little is compiled
REACH = 0.3  # Å; lists are longer than the energy asks for, which must change nothing
_STENCIL = ((1.0, 8.0 / 12.0), (-1.0, -8.0 / 12.0), (2.0, -1.0 / 12.0), (-2.0, 1.0 / 12.0))
_STEP = 1e-4  # Å, or strain

_measure = eqx.filter_jit(energy_forces_stress)
_second_derivatives = eqx.filter_jit(hessian)


def check_energy(
    energy: AbstractEnergy,
    numbers: Sequence[int],
    *,
    spacing: float | None = None,
    seed: int = 0,
    skip: Sequence[str] = (),
) -> dict[str, float]:
    """Run every check of `CHECKS` on an energy; returns what each one measured.

    `numbers` are atomic numbers that the energy knows; `spacing` [Å] is a usual distance between them (1.1 times two
    covalent radii by default). `skip` names checks that cannot hold: `"size_consistency"` for charges that interact
    over any distance, `"coincident_atoms"` for a model without a repulsive core. Needs 64-bit floats.

    ```python
    from jaxmlip.testing import check_energy

    check_energy(MyEnergy(cutoff=5.0), numbers=(14, 8))
    ```

    **Raises:** `AssertionError` with the measured number and its bound; `ValueError` where 64-bit floats are off or
    `skip` names no check.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'The bounds are those of 64-bit floats: call `jax.config.update("jax_enable_x64", True)` first.'
        )
    unknown = set(skip) - {_name(check) for check in CHECKS}
    if unknown:
        raise ValueError(f"`skip` names no check: {sorted(unknown)}; the checks are {[_name(c) for c in CHECKS]}.")
    sample = sample_system(numbers, spacing=spacing, seed=seed)
    return {_name(check): check(energy, sample) for check in CHECKS if _name(check) not in skip}


def sample_system(numbers: Sequence[int], *, spacing: float | None = None, seed: int = 0) -> System:
    """Eight distorted atoms in a triclinic cell, smaller than most cutoffs: the hard case for lists and images."""
    if spacing is None:
        spacing = 2.2 * float(np.mean([COVALENT_RADII[n] for n in numbers]))
    random = np.random.default_rng(seed)
    cell = 2.0 * spacing * (np.eye(3) + 0.08 * random.uniform(-1.0, 1.0, (3, 3)))
    sites = np.array(list(itertools.product((0.0, 0.5), repeat=3)))
    positions = sites @ cell + 0.1 * spacing * random.uniform(-1.0, 1.0, (8, 3))
    return make_system(positions, np.resize(np.asarray(numbers, np.int32), 8), cell=cell)


# --- symmetries -----------------------------------------------------------------------------------------------------


def check_translation(energy: AbstractEnergy, sample: System) -> float:
    """Moving all atoms, by more than the box, and each by lattice vectors of its own, changes nothing."""
    positions, cell = _arrays(sample)
    random = np.random.default_rng(1)
    moved = positions + 3.3 * cell.sum(axis=0) + random.normal(size=3) + random.integers(-2, 3, (8, 3)) @ cell
    return _same("translation", _values(energy, sample, _with(sample, moved)), _values(energy, sample), 1e-9)


def check_rotation(energy: AbstractEnergy, sample: System) -> float:
    """Energy is invariant; forces and stress turn with the atoms and the cell."""
    positions, cell = _arrays(sample)
    turn = _rotation()
    energies, forces, stress = _values(energy, sample)
    expected = energies, forces @ turn.T, turn @ stress @ turn.T
    return _same("rotation", _values(energy, sample, _with(sample, positions @ turn.T, cell @ turn.T)), expected, 1e-9)


def check_inversion(energy: AbstractEnergy, sample: System) -> float:
    """The mirror image has the same energy and stress, and opposite forces."""
    energies, forces, stress = _values(energy, sample)
    mirrored = _values(energy, sample, _with(sample, -_arrays(sample)[0]))
    return _same("inversion", mirrored, (energies, -forces, stress), 1e-9)


def check_permutation(energy: AbstractEnergy, sample: System) -> float:
    """The order of the atoms, and that of the neighbors, means nothing."""
    positions, cell = _arrays(sample)
    order = np.random.default_rng(2).permutation(8)
    energies, forces, stress = _values(energy, sample)
    permuted = make_system(positions[order], np.asarray(sample.numbers)[order], cell=cell)
    return _same("permutation", _values(energy, sample, permuted), (energies, forces[order], stress), 1e-9)


def check_extensivity(energy: AbstractEnergy, sample: System) -> float:
    """Supercells of a cell with one atom have the energy per atom and the stress of that cell, and no forces."""
    cell = _arrays(sample)[1] / 2.0
    worst = 0.0
    want = None
    for repeats in ((1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 2, 2), (3, 2, 2)):
        sites = np.array(list(itertools.product(*(range(n) for n in repeats))), float)
        system = make_system(
            sites @ cell, np.resize(np.asarray(sample.numbers)[:1], len(sites)), cell=np.diag(repeats) @ cell
        )
        total, forces, stress = _values(energy, sample, system)
        got = (total / len(sites), forces[:1], stress)
        want = want or (got[0], np.zeros((1, 3)), stress)
        worst = max(worst, _same(f"extensivity, {repeats} supercell", got, want, 1e-9))
    return worst


def check_cell_choice(energy: AbstractEnergy, sample: System) -> float:
    """Any other choice of the lattice vectors of the same crystal (a 9:10 shear among them) gives the same answer."""
    positions, cell = _arrays(sample)
    sheared = cell.copy()
    sheared[1] += 0.9 * cell[0]
    sheared = _with(sample, positions, sheared)
    worst = 0.0
    for system, choice in (
        (sheared, [[1, 0, 0], [-1, 1, 0], [0, 0, 1]]),
        (sample, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
        (sample, [[1, 0, 2], [-1, 1, 0], [1, -1, 1]]),
    ):
        other = _with(sample, _arrays(system)[0], np.array(choice, float) @ _arrays(system)[1])
        error = _same("cell choice", _values(energy, sample, other), _values(energy, sample, system), 1e-9)
        worst = max(worst, error)
    return worst


# --- derivatives ----------------------------------------------------------------------------------------------------


def check_forces(energy: AbstractEnergy, sample: System) -> float:
    """Forces are minus the gradient of the energy: 4th-order differences, relative to the largest force."""
    graph = _graph(energy, sample, sample)
    forces = np.asarray(_measure(energy, graph).forces)[:8]
    numeric = np.zeros_like(forces)
    for index in np.ndindex(forces.shape):
        for step, weight in _STENCIL:
            moved = graph.with_positions(graph.positions.at[index].add(step * _STEP))
            numeric[index] -= weight * float(_measure(energy, moved).energy[0]) / _STEP
    return _relative("forces against finite differences", forces, numeric, 1e-8)


def check_stress(energy: AbstractEnergy, sample: System) -> float:
    """Stress is the derivative of the energy by strain over the volume, six components, tension positive."""
    positions, cell = _arrays(sample)
    stress = _values(energy, sample)[2]
    numeric = np.zeros((3, 3))
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        for step, weight in _STENCIL:
            deform = np.eye(3)
            deform[a, b] += 0.5 * step * _STEP
            deform[b, a] += 0.5 * step * _STEP
            total = _values(energy, sample, _with(sample, positions @ deform, cell @ deform))[0]
            numeric[a, b] += weight * total / _STEP / float(sample.volume())
        numeric[b, a] = numeric[a, b]
    _bound("stress, antisymmetric part", np.abs(stress - stress.T).max(), 1e-12 * max(1.0, np.abs(stress).max()))
    return _relative("stress against finite differences", stress, numeric, 1e-8)


def check_pressure(energy: AbstractEnergy, sample: System) -> float:
    """The virial pressure is -dE/dV of a uniform expansion."""
    positions, cell = _arrays(sample)
    volume = float(sample.volume())
    stress = _values(energy, sample)[2]
    numeric = 0.0
    for step, weight in _STENCIL:
        scale = (1.0 + step * _STEP) ** (1.0 / 3.0)
        total = _values(energy, sample, _with(sample, scale * positions, scale * cell))[0]
        numeric -= weight * total / (_STEP * volume)
    error = abs(-np.trace(stress) / 3.0 - numeric) / max(np.abs(stress).max(), 1e-300)
    return _bound("pressure against -dE/dV", error, 1e-8)


def check_hessian(energy: AbstractEnergy, sample: System) -> float:
    """The Hessian is symmetric (the forces have a potential), and moving all atoms costs nothing."""
    matrix = np.asarray(_second_derivatives(energy, _graph(energy, sample, sample)))[:8, :, :8]
    _bound("non-finite second derivatives", float(np.sum(~np.isfinite(matrix))), 0.0)
    largest = max(np.abs(matrix).max(), 1e-12)
    rows = np.abs(matrix.sum(axis=2)).max() / largest
    _bound("acoustic sum rule", rows, 1e-10)
    flat = matrix.reshape(24, 24)
    return _bound("asymmetry of the Hessian", np.abs(flat - flat.T).max() / largest, 1e-12)


# --- the cutoff and empty space -------------------------------------------------------------------------------------


def check_smooth_cutoff(energy: AbstractEnergy, sample: System) -> float:
    """The energy of a pair vanishes at the cutoff as h^p with p of at least 3; returns the smallest p found."""
    terms = energy.terms if isinstance(energy, Sum) else (energy,)
    return min((_order(term, sample, pair) for term in terms for pair in _pairs(sample)), default=np.inf)


def check_crossing(energy: AbstractEnergy, sample: System) -> float:
    """No step when an atom crosses the cutoff and the list is rebuilt without it [eV]."""
    if energy.cutoff <= 0:
        return 0.0
    positions, cell = _arrays(sample)
    i, j, shifts = neighbor_pairs(positions, cell, sample.pbc, energy.cutoff)
    ordinary = i != j
    vectors = (positions[j] + shifts @ cell - positions[i])[ordinary]
    lengths = np.linalg.norm(vectors, axis=1)
    worst = 0.0
    for edge in np.argsort(-lengths)[:2]:
        direction = vectors[edge] / lengths[edge]
        sides = []
        for excess in (-1e-11, 1e-11):
            moved = positions.copy()
            moved[j[ordinary][edge]] += (energy.cutoff + excess - lengths[edge]) * direction
            sides.append(_values(energy, sample, _with(sample, moved), reach=0.0))
        scale = max(1.0, np.abs(sides[0][1]).max())
        step = abs(sides[1][0] - sides[0][0]) / scale
        worst = max(worst, _bound("energy step at the cutoff", step, 1e-10))
        _bound("force step at the cutoff", np.abs(sides[1][1] - sides[0][1]).max() / scale, 1e-8)
    return worst


def check_isolated_atom(energy: AbstractEnergy, sample: System) -> float:
    """An atom alone feels exactly nothing, in free space, in a large box, or with another that is in the list but out
    of reach; its second derivatives are finite."""
    number = np.asarray(sample.numbers)[:1]
    free = make_system(np.zeros((1, 3)), number)
    boxed = make_system(np.full((1, 3), 7.0), number, cell=np.eye(3) * 1e3)
    total, forces, _ = _values(energy, sample, free)
    other, other_forces, stress = _values(energy, sample, boxed)
    _bound("force on an isolated atom", np.abs(np.stack([forces, other_forces])).max(), 0.0)
    _bound("stress of an isolated atom", np.abs(stress).max(), 0.0)
    apart = make_system([[0.0, 0.0, 0.0], [_cutoff(energy, sample) + 0.5 * REACH, 0.0, 0.0]], np.resize(number, 2))
    _bound("force on an atom out of reach", np.abs(_values(energy, sample, apart)[1]).max(), 0.0)
    for system in (free, apart):
        second = np.asarray(_second_derivatives(energy, _graph(energy, sample, system)))
        _bound("non-finite second derivatives of an isolated atom", float(np.sum(~np.isfinite(second))), 0.0)
    return _bound("energy of an isolated atom, free and boxed", abs(total - other), 1e-12 * max(1.0, abs(total)))


def check_size_consistency(energy: AbstractEnergy, sample: System) -> float:
    """Two clusters far apart have the energy and forces of each alone."""
    positions, numbers = _arrays(sample)[0], np.asarray(sample.numbers)
    other = positions @ _rotation().T * 1.05
    apart = np.concatenate([positions, other + 30.0 * max(energy.cutoff, 1.0)])
    pair = _values(energy, sample, make_system(apart, np.tile(numbers, 2)))
    one, two = (_values(energy, sample, make_system(p, numbers)) for p in (positions, other))
    expected = one[0] + two[0], np.concatenate([one[1], two[1]]), pair[2]
    return _same("size consistency", pair, expected, 1e-9)


def check_coincident_atoms(energy: AbstractEnergy, sample: System) -> float:
    """Two atoms on one spot never look like peace: the energy is not finite, or there is a force between them."""
    pair = make_system([[0.0, 0.0, 0.0], [0.5 * _cutoff(energy, sample), 0.0, 0.0]], np.asarray(sample.numbers)[:2])
    graph = _graph(energy, sample, pair)
    result = _measure(energy, graph.with_positions(graph.positions.at[1].set(0.0)))
    force = float(np.abs(np.asarray(result.forces)[:2]).max())
    silent = bool(np.isfinite(result.energy[0])) and force == 0.0
    assert not silent, "coincident atoms: finite energy and no force; add a repulsive core, such as `ZBL()`"
    return force


# --- padding, batches and lists -------------------------------------------------------------------------------------


def check_padding(energy: AbstractEnergy, sample: System) -> float:
    """Padding atoms, edges and systems, and a list longer than asked for, change nothing."""
    exact = _measure(energy, batch(sample, _cutoff(energy, sample)))
    return _same("padding", _values(energy, sample), _slot(exact, 0, slice(None)), 1e-11)


def check_batching(energy: AbstractEnergy, sample: System) -> float:
    """A batch of two systems is each of them alone."""
    positions, cell = _arrays(sample)
    small = make_system(positions[:3] * 1.02, np.asarray(sample.numbers)[:3], cell=cell)
    both = _measure(energy, _graph(energy, sample, sample, small))
    worst = 0.0
    for slot, (system, atoms) in enumerate(((sample, slice(0, 8)), (small, slice(8, 11)))):
        got = _slot(both, slot, atoms)
        worst = max(worst, _same("batching", got, _values(energy, sample, system), 1e-11))
    return worst


def check_masked_edges(energy: AbstractEnergy, sample: System) -> float:
    """What stands in a masked slot means nothing, and neither does the order of the slots."""
    graph = _graph(energy, sample, sample)
    random = np.random.default_rng(3)
    mask, senders, shifts = (np.asarray(x) for x in (graph.edge_mask, graph.senders, graph.shifts))
    senders = np.where(mask, senders, random.integers(0, 8, senders.shape)).astype(np.int32)
    shifts = np.where(mask, shifts, random.integers(-3, 4, shifts.shape)).astype(np.int32)
    order = random.permutation(len(mask))
    changed = eqx.tree_at(
        lambda g: (g.senders, g.shifts, g.edge_mask),
        graph,
        tuple(jnp.asarray(x) for x in (senders[order], shifts[:, order], mask[order])),
    )
    result = _measure(energy, changed)
    got = _slot(result, 0, slice(0, 8))
    _bound("force on padding atoms", np.abs(np.asarray(result.forces)[8:]).max(), 0.0)
    return _same("masked edges", got, _values(energy, sample), 1e-11)


def check_finite_gradients(energy: AbstractEnergy, sample: System) -> float:
    """Gradients of a loss on energy, forces and stress by parameters, positions and cell: finite beside padding, an
    isolated atom and a system without a cell; returns the largest."""
    alone = make_system(np.zeros((1, 3)), np.asarray(sample.numbers)[:1])
    worst = 0.0
    for systems in ((sample, alone), (sample,)):
        gradients = _loss_gradient(energy, _graph(energy, sample, *systems))
        for leaf in jax.tree.leaves(gradients):
            _bound("non-finite gradients of a loss", float(np.sum(~np.isfinite(leaf))), 0.0)
            worst = max(worst, float(np.abs(leaf).max(initial=0.0)))
    return worst


# --- precision, tracing, refusals -----------------------------------------------------------------------------------


def check_float32(energy: AbstractEnergy, sample: System) -> float:
    """Coordinates in float32 give results in float32, near those of float64: the median relative force difference."""
    single = _graph(energy, sample, sample).astype(jnp.dtype("float32"))
    low, high = _measure(energy, single), _measure(energy, single.astype(jnp.dtype("float64")))
    kinds = {str(x.dtype) for x in low}
    assert kinds == {"float32"}, f"float32: float32 coordinates gave results of {sorted(kinds)}"
    got, want = np.asarray(low.forces, np.float64)[:8], np.asarray(high.forces)[:8]
    largest = np.abs(want).max()
    if largest == 0.0:
        return _bound("float32 forces where there are none", np.abs(got).max(), 0.0)
    _bound("largest float32 force difference", np.abs(got - want).max() / largest, 5e-5)
    felt = np.linalg.norm(want, axis=1) > 0.0
    relative = np.linalg.norm(got - want, axis=1)[felt] / np.linalg.norm(want, axis=1)[felt]
    return _bound("median float32 force difference", float(np.median(relative)), 5e-6)


def check_one_trace(energy: AbstractEnergy, sample: System) -> float:
    """Neither moving atoms nor new parameters compile anything again; returns how often it was traced."""
    traces = 0

    @eqx.filter_jit
    def follow(energy, graph):
        nonlocal traces
        traces += 1
        return graph.positions

    numbers = [x for x in jax.tree.leaves(energy) if isinstance(x, float)]
    _bound("parameters that are Python floats, so part of the program", float(len(numbers)), 0.0)
    other = jax.tree.map(lambda x: jnp.asarray(1.01 * np.asarray(x), x.dtype) if eqx.is_inexact_array(x) else x, energy)
    moved = _with(sample, _arrays(sample)[0] + 0.01)
    for who, system in ((energy, sample), (energy, moved), (other, sample), (other, moved)):
        follow(who, _graph(energy, sample, system))
    return _bound("traces", float(traces), 1.0)


def check_refusals(energy: AbstractEnergy, sample: System) -> float:
    """A list shorter than the cutoff is refused, and so is an element that the energy does not know."""
    refused = 0.0
    if energy.cutoff > 0:
        short = batch(sample, 0.9 * energy.cutoff)
        refused += _raises(lambda: system_energies(energy, short), "a list shorter than the cutoff")
    if energy.elements is not None:
        stranger = np.array([next(n for n in range(1, 119) if n not in energy.elements)])
        refused += _raises(lambda: check_elements(energy, stranger), "an unknown element")
        check_elements(energy, np.asarray(sample.numbers))
    return refused


CHECKS: tuple[Callable[[AbstractEnergy, System], float], ...] = (
    check_translation,
    check_rotation,
    check_inversion,
    check_permutation,
    check_extensivity,
    check_cell_choice,
    check_forces,
    check_stress,
    check_pressure,
    check_hessian,
    check_smooth_cutoff,
    check_crossing,
    check_isolated_atom,
    check_size_consistency,
    check_coincident_atoms,
    check_padding,
    check_batching,
    check_masked_edges,
    check_finite_gradients,
    check_float32,
    check_one_trace,
    check_refusals,
)

# --- how the checks measure -----------------------------------------------------------------------------------------

Values = tuple[float, np.ndarray, np.ndarray]  # energy, forces, stress of one system


def _name(check: Callable[..., float]) -> str:
    return check.__name__.removeprefix("check_")


def _arrays(system: System) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(system.positions), np.asarray(system.cell)


def _with(system: System, positions: np.ndarray, cell: np.ndarray | None = None) -> System:
    return make_system(positions, np.asarray(system.numbers), cell=np.asarray(system.cell) if cell is None else cell)


def _cutoff(energy: AbstractEnergy, sample: System) -> float:
    """The cutoff; for an energy that looks at no neighbors, a distance at which there are some."""
    return energy.cutoff or float(sample.volume() / 8.0) ** (1.0 / 3.0)


def _graph(energy: AbstractEnergy, sample: System, *systems: System, reach: float = REACH) -> Graph:
    """Systems in one graph of always the same shape."""
    cutoff = _cutoff(energy, sample)
    crowd = np.bincount(neighbor_pairs(*_arrays(sample), sample.pbc, cutoff + REACH)[0]).max(initial=1)
    graph = batch(systems, cutoff + reach, atoms=ATOMS, neighbors=8 * int(np.ceil(1.5 * crowd / 8.0)), slots=2)
    return dataclasses.replace(graph, cutoff=cutoff + REACH)  # one value in all graphs: it is part of the program


def _values(energy: AbstractEnergy, sample: System, system: System | None = None, *, reach: float = REACH) -> Values:
    system = sample if system is None else system
    result = _measure(energy, _graph(energy, sample, system, reach=reach))
    return _slot(result, 0, slice(0, len(system.numbers)))


def _slot(result: Derivatives, slot: int, atoms: slice) -> Values:
    return float(result.energy[slot]), np.asarray(result.forces)[atoms], np.asarray(result.stress)[slot]


@eqx.filter_jit
def _loss_gradient(energy: AbstractEnergy, graph: Graph):
    """Gradient of a loss that leaves undefined stresses out by a mask, as training does."""

    @eqx.filter_grad
    def gradient(energy_and_graph):
        energies, forces, stress = energy_forces_stress(*energy_and_graph)
        defined = (energy_and_graph[1].volume() > 0)[:, None, None]
        stress = jnp.where(defined, stress, jnp.zeros_like(stress))
        return jnp.sum(energies**2) + jnp.sum(forces**2) + jnp.sum(stress**2)

    return gradient((energy, graph))


def _order(energy: AbstractEnergy, sample: System, numbers: tuple[int, int]) -> float:
    """The power with which the energy of a pair vanishes at the cutoff (infinite where there is nothing to see)."""
    if energy.cutoff <= 0:
        return np.inf

    def pair(distance: float) -> float:
        return _values(energy, sample, make_system([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], numbers))[0]

    far = pair(1.01 * energy.cutoff)
    depths = 10.0 ** np.arange(-3.0, -1.2, 0.25)
    excess = np.array([abs(pair(energy.cutoff - h) - far) for h in depths])
    seen = np.flatnonzero(excess > 1e-11 * max(1.0, abs(far)))[:4]
    if len(seen) < 3:
        return np.inf
    power = float(np.polyfit(np.log(depths[seen]), np.log(excess[seen]), 1)[0])
    assert power >= 2.95, f"smooth cutoff: the energy of {numbers} vanishes as h^{power:.3f}; at least h^2.95 is needed"
    return power


def _pairs(sample: System) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(sorted({int(n) for n in sample.numbers}), 2))


def _rotation() -> np.ndarray:
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    return turn * np.linalg.det(turn)


def _same(what: str, got: Values, want: Values, bound: float) -> float:
    """Energy, forces and stress agree; an undefined stress must be undefined in both."""
    worst = 0.0
    for name, x, y in zip(("energy", "forces", "stress"), got, want, strict=True):
        error = 0.0 if np.all(np.isnan(x)) and np.all(np.isnan(y)) else np.abs(np.asarray(x) - np.asarray(y)).max()
        scale = max(1.0, float(np.abs(np.nan_to_num(want[1])).max()), float(np.abs(np.nan_to_num(y)).max()))
        worst = max(worst, _bound(f"{what}: {name}", float(error) / scale, bound))
    return worst


def _relative(what: str, got: np.ndarray, want: np.ndarray, bound: float) -> float:
    return _bound(what, np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-300), bound)


def _bound(what: str, measured: float, bound: float) -> float:
    assert measured <= bound, f"{what}: measured {measured:.3e}, but at most {bound:.1e} is allowed"
    return float(measured)


def _raises(act: Callable[[], object], what: str) -> float:
    try:
        act()
    except ValueError:
        return 1.0
    raise AssertionError(f"refusals: {what} was accepted")
