"""Neighbor lists in jit equal brute force and vesin, and say so when they cannot be trusted."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxmlip.energy import LennardJones, energy_forces_stress
from jaxmlip.graph import allocate, batch, check, grow, rebuild, skin_used, to_graph, update
from jaxmlip.graph.host import complete_cell, neighbor_pairs
from jaxmlip.graph.neighbors import Plan
from jaxmlip.system import System, make_system

CUTOFF, SKIN = 2.5, 0.5
ATOMS = 5
WIDE = {
    "images": Plan("images", (2, 2, 2), 1.0),
    "cells": Plan("cells", (2, 5, 3), 1.0, grid=(1, 2, 1), slots=ATOMS),
}
_rebuild, _update, _used = jax.jit(rebuild), jax.jit(update), jax.jit(skin_used)


def edges(neighbors) -> set:
    mask = np.asarray(neighbors.edge_mask)
    slot, receiver = np.nonzero(mask)
    sender = np.asarray(neighbors.senders)[slot, receiver]
    shift = np.asarray(neighbors.shifts)[:, slot, receiver].T
    found = [(int(i), int(j), *map(int, s)) for i, j, s in zip(receiver, sender, shift, strict=True)]
    assert len(found) == len(set(found)), "an edge is listed twice"
    own = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    assert np.all(np.asarray(neighbors.senders)[~mask] == own[~mask])
    assert not np.any(np.asarray(neighbors.shifts)[:, ~mask])
    return set(found)


def brute(positions, cell, pbc, radius, most=9) -> set:
    """All pairs by plain enumeration of images."""
    found = set()
    for shift in itertools.product(*(range(-most, most + 1) if p else (0,) for p in pbc)):
        vectors = positions[None] + np.asarray(shift) @ cell - positions[:, None]
        for i, j in np.argwhere(np.sum(vectors**2, axis=-1) <= radius**2):
            if i != j or any(shift):
                found.add((int(i), int(j), *shift))
    return found


def vesin(system: System, radius: float) -> set:
    receivers, senders, shifts = neighbor_pairs(
        np.asarray(system.positions, np.float64), np.asarray(system.cell, np.float64), system.pbc, radius
    )
    return {(int(i), int(j), *map(int, s)) for i, j, s in zip(receivers, senders, shifts, strict=True)}


def at_limit(system: System, radius: float) -> bool:
    """Whether a pair lies within rounding of the radius, where two right lists may differ."""
    return vesin(system, radius * (1 + 1e-9)) != vesin(system, radius * (1 - 1e-9))


def random_system(seed: int, kind: str, pbc=(True, True, True), dtype=np.float64) -> System:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.0, 5.0, 3))
    if kind == "sheared":
        cell[1] += 0.9 * cell[0]
        cell[2] += rng.uniform(-1, 1) * cell[0] + rng.uniform(-1, 1) * cell[1]
    if kind == "thin":
        cell[2] *= 1.3 / cell[2, 2]
    if kind != "faces":
        cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        fractional = rng.uniform(-3, 4, (ATOMS, 3))
    else:
        corners = np.array(list(itertools.product((0, 0.5), repeat=3)))[rng.permutation(8)[:ATOMS]]
        fractional = corners + rng.integers(-3, 4, (ATOMS, 3))
    cell = cell * np.sign(np.linalg.det(cell))
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    cell = cell * max(1.0, 1.3 / heights.min())
    return System(
        positions=jnp.asarray(fractional @ cell, dtype),
        numbers=jnp.full(ATOMS, 14, jnp.int32),
        cell=jnp.asarray(cell, dtype),
        masses=jnp.ones(ATOMS, dtype),
        charge=jnp.zeros((), dtype),
        pbc=pbc,
    )


_templates = {}


def template(method: str, system: System):
    """A list with a wide stencil for any of the random systems, so that few programs are compiled."""
    key = (method, system.pbc, system.positions.dtype)
    if key not in _templates:
        start = allocate(system, CUTOFF, skin=SKIN, capacity=320, method="images")
        plan = WIDE[method]
        reach = tuple(r if p else 0 for r, p in zip(plan.reach, system.pbc, strict=True))
        grid = tuple(g if p else 1 for g, p in zip(plan.grid, system.pbc, strict=True))
        _templates[key] = dataclasses.replace(start, plan=dataclasses.replace(plan, reach=reach, grid=grid))
    return dataclasses.replace(
        _templates[key],
        reference_cell=jnp.where(jnp.asarray(system.pbc)[:, None], system.cell, frame_of(system)),
        shrunk=jnp.asarray(False),
        overflow=jnp.asarray(False),
    )


def frame_of(system: System):
    return jnp.asarray(complete_cell(np.asarray(system.cell, np.float64), system.pbc), system.cell.dtype)


@pytest.mark.parametrize("method", ["images", "cells"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["plain", "sheared", "thin", "faces"]),
    pbc=st.sampled_from([(True, True, True), (True, False, True), (False, False, False)]),
)
def test_the_list_equals_vesin_in_any_cell(method, seed, kind, pbc):
    system = random_system(seed, kind, pbc)
    found = _rebuild(template(method, system), system)
    assume(not at_limit(system, CUTOFF + SKIN))
    assert not bool(found.failed)
    assert edges(found) == vesin(system, CUTOFF + SKIN)


def test_vesin_equals_plain_enumeration_and_ase():
    system = random_system(3, "sheared", (True, True, False))
    positions, cell = np.asarray(system.positions), np.asarray(system.cell)
    expected = brute(positions, cell, system.pbc, 3.0)
    assert vesin(system, 3.0) == expected
    assert len(expected) > 20
    i, j, s = primitive_neighbor_list("ijS", system.pbc, cell, positions, 3.0, self_interaction=False)
    assert {(int(a), int(b), *map(int, c)) for a, b, c in zip(i, j, s, strict=True)} == expected


@pytest.mark.parametrize("method", ["images", "cells"])
def test_one_atom_sees_its_own_images(method):
    a = 1.7
    system = make_system(np.array([[5.0, -9.0, 3.0]]), [18], cell=a * (1 - np.eye(3)) * np.sqrt(0.5) * 1.0)
    neighbors = allocate(system, 3.9, skin=0.0, method=method)
    assert not bool(neighbors.failed)
    assert edges(neighbors) == brute(np.asarray(system.positions), np.asarray(system.cell), system.pbc, 3.9)


@pytest.mark.parametrize("method", ["images", "cells"])
def test_atoms_on_top_of_each_other_are_neighbors(method):
    system = random_system(0, "plain")
    positions = system.positions.at[1].set(system.positions[0]).at[2].set(system.positions[0] + system.cell[1])
    system = dataclasses.replace(system, positions=positions)
    found = edges(_rebuild(template(method, system), system))
    assert {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (0, 2, 0, -1, 0), (2, 0, 0, 1, 0)} <= found
    assert not any(i == j and not any(s) for i, j, *s in found)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_cells_serve_a_large_sheared_box(pbc):
    rng = np.random.default_rng(2)
    cell = np.array([[18.0, 0, 0], [6.0, 12.0, 0], [-3.0, 4.0, 3.0]])
    system = make_system(rng.uniform(-1, 2, (120, 3)) @ cell, np.full(120, 14), cell=cell, pbc=pbc)
    neighbors = allocate(system, CUTOFF, skin=SKIN, method="cells")
    assert max(neighbors.plan.grid) >= 2 and not bool(neighbors.failed)
    assert edges(neighbors) == vesin(system, CUTOFF + SKIN)
    graph = to_graph(neighbors, system)
    assert float(jnp.max(jnp.where(neighbors.edge_mask, graph.lengths(), 0.0))) <= CUTOFF + SKIN


@pytest.mark.parametrize("method", ["images", "cells"])
def test_single_precision_loses_no_pair_within_the_cutoff(method):
    single = random_system(11, "sheared", dtype=np.float32)
    neighbors = _rebuild(template(method, single), single)
    assert neighbors.reference_positions.dtype == jnp.float32 and not bool(neighbors.failed)
    assert vesin(single, (CUTOFF + SKIN) * 0.9999) <= edges(neighbors) <= vesin(single, (CUTOFF + SKIN) * 1.0001)


def test_padding_atoms_have_no_edges():
    system = random_system(4, "plain")
    padded = dataclasses.replace(system, numbers=system.numbers.at[2].set(0))
    expected = {e for e in vesin(system, CUTOFF + SKIN) if 2 not in e[:2]}
    for method in ("images", "cells"):
        assert edges(_rebuild(template(method, system), padded)) == expected


def test_overflow_is_flagged_and_growing_ends_it():
    system = random_system(1, "thin")
    neighbors = allocate(system, CUTOFF, skin=SKIN, capacity=2)
    assert bool(neighbors.overflow) and bool(neighbors.failed)
    grown = grow(neighbors, system)
    assert not bool(grown.failed) and grown.capacity >= 1.5 * neighbors.capacity
    assert edges(grown) == vesin(system, CUTOFF + SKIN)
    assert bool(_update(neighbors, system).overflow), "flags stay set"


def test_the_capacity_changes_no_bit_of_energy_and_forces():
    """XLA sums long axes in windows of 32: lists are sized so that empty slots never shift a window."""
    system = random_system(3, "thin")
    energy = LennardJones(epsilon=0.01, sigma=2.0, cutoff=5.0)
    derivatives = jax.jit(lambda n: energy_forces_stress(energy, to_graph(n, system)))
    results = []
    for capacity in (440, 500, 600):
        neighbors = allocate(system, 5.0, skin=SKIN, capacity=capacity, method="images")
        assert int(neighbors.needed) > 64 and not bool(neighbors.failed) and neighbors.capacity % 32 == 0
        results.append(derivatives(neighbors))
    for found in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found, results[0], strict=True))


def test_a_full_cell_is_flagged_and_grows():
    rng = np.random.default_rng(0)
    system = make_system(rng.uniform(0, 9, (40, 3)), np.full(40, 14), cell=[9.0, 9.0, 9.0])
    neighbors = allocate(system, 2.0, skin=0.5, method="cells", capacity=40)
    squeezed = system.positions.at[:14].set(1.0 + system.positions[:14] / 9.0)
    system = dataclasses.replace(system, positions=squeezed)
    crowded = _rebuild(neighbors, system)
    assert bool(crowded.overflow) and int(crowded.crowd) > crowded.plan.slots
    grown = grow(crowded, system)
    assert not bool(grown.failed) and grown.plan.slots >= int(crowded.crowd)
    assert edges(grown) == vesin(system, 2.5)


def test_growing_at_the_kept_list_gives_the_same_list_with_more_slots():
    system = random_system(8, "plain")
    kept = _rebuild(template("images", system), system)
    moved = dataclasses.replace(system, positions=system.positions + 0.05)
    grown = grow(kept, moved, kept=kept)
    rows = kept.capacity
    assert grown.capacity > rows
    assert np.array_equal(grown.senders[:rows], kept.senders) and np.array_equal(grown.shifts[:, :rows], kept.shifts)
    assert np.array_equal(grown.reference_positions, kept.reference_positions)


def test_the_skin_test_catches_motion_and_ignores_drift_and_rigid_strain():
    system = random_system(5, "plain")
    neighbors = _rebuild(template("images", system), system)
    assert float(_used(neighbors, system)) < 1e-6
    drifted = dataclasses.replace(system, positions=system.positions + 3.0)
    assert float(_used(neighbors, drifted)) < 1e-6
    pulled = dataclasses.replace(system, positions=system.positions.at[0, 1].add(0.49))
    assert 0.9 < float(_used(neighbors, pulled)) <= 1.0
    assert not bool(check(neighbors, pulled).stale)
    far = dataclasses.replace(system, positions=system.positions.at[0, 1].add(0.6))
    assert bool(check(neighbors, far).stale)
    assert edges(_update(neighbors, far)) == vesin(far, CUTOFF + SKIN)
    squeeze = 0.9
    small = dataclasses.replace(system, positions=system.positions * squeeze, cell=system.cell * squeeze)
    used = float(_used(neighbors, small))
    assert np.isclose(used, CUTOFF * (1 / squeeze - 1) / SKIN, rtol=1e-6), "an isotropic strain is bounded exactly"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.floats(0.005, 0.08))
def test_no_pair_is_missing_while_the_skin_lasts(seed, size):
    """The bound itself: strain, shear and move at random; where the test allows the list, it is complete."""
    system = random_system(seed, "plain")
    neighbors = _rebuild(template("images", system), system)
    rng = np.random.default_rng(seed)
    strain = np.eye(3) + size * rng.normal(size=(3, 3))
    moved = dataclasses.replace(
        system,
        positions=jnp.asarray(np.asarray(system.positions) @ strain + size * rng.normal(size=(ATOMS, 3))),
        cell=jnp.asarray(np.asarray(system.cell) @ strain),
    )
    needed = vesin(moved, CUTOFF)
    if float(_used(neighbors, moved)) <= 1.0:
        assert needed <= edges(neighbors)
    updated = _update(neighbors, moved)
    assert bool(updated.shrunk) or needed <= edges(updated)


@pytest.mark.parametrize("method", ["images", "cells"])
def test_a_box_that_shrinks_past_the_stencil_is_flagged_and_grows(method):
    system = make_system([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], [14, 14], cell=[7.0, 7.0, 7.0])
    neighbors = allocate(system, CUTOFF, skin=SKIN, method=method)
    small = dataclasses.replace(system, positions=system.positions * 0.5, cell=system.cell * 0.5)
    shrunk = _update(neighbors, small)
    assert bool(shrunk.shrunk) and not bool(shrunk.stale)
    for _ in range(6):
        # As in a replay: the list is grown at the state before the box shrank, and then meets the small box again.
        neighbors = grow(shrunk, system, kept=neighbors)
        assert not bool(neighbors.failed)
        shrunk = rebuild(neighbors, small)
        if not bool(shrunk.failed):
            break
    assert edges(shrunk) == vesin(small, CUTOFF + SKIN)


def test_replicas_share_a_program():
    systems = [random_system(seed, "plain") for seed in (21, 22, 23)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *systems)
    neighbors = allocate(stacked, CUTOFF, skin=SKIN)
    assert neighbors.senders.shape[0] == 3 and not np.any(neighbors.failed)
    moved = jax.tree.map(lambda *x: jnp.stack(x), *systems[::-1])
    updated = jax.jit(jax.vmap(update))(neighbors, moved)
    for index, system in enumerate(systems[::-1]):
        assert edges(jax.tree.map(lambda x, i=index: x[i], updated)) == vesin(system, CUTOFF + SKIN)
    assert not np.any(grow(updated, moved).failed)


def test_a_list_gives_the_energy_of_the_host_graph_and_compiles_once():
    energy = LennardJones(epsilon=0.01, sigma=2.0, cutoff=CUTOFF)
    system = random_system(31, "sheared")
    traces = []
    reference = eqx.filter_jit(energy_forces_stress)

    @jax.jit
    def evaluate(neighbors, system):
        traces.append(None)
        neighbors = update(neighbors, system)
        return energy_forces_stress(energy, to_graph(neighbors, system)), neighbors

    neighbors = _rebuild(template("images", system), system)
    for seed in (31, 32, 33):
        system = random_system(seed, "sheared")
        found, neighbors = evaluate(neighbors, system)
        expected = reference(energy, batch(system, CUTOFF, neighbors=64))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert len(traces) == 1 and not bool(neighbors.failed)


@pytest.mark.parametrize(
    "wrong", [{"cutoff": -1.0}, {"cutoff": np.nan}, {"skin": -0.1}, {"capacity": 0}, {"method": "guess"}]
)
def test_nonsense_is_refused(wrong):
    options = {"cutoff": CUTOFF, "skin": SKIN} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        allocate(random_system(0, "plain"), options.pop("cutoff"), **options)
