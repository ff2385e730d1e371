"""Small, sheared, thin and shrinking cells: do all neighbor paths give the energy of the infinite crystal?"""

import argparse
import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_X64"] = "1"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.neighborlist import primitive_neighbor_list

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, LennardJones, energy_forces, energy_forces_stress
from jaxmlip.energy.envelope import polynomial_envelope
from jaxmlip.graph import Graph, allocate, batch, to_graph
from jaxmlip.graph.host import dense_block
from jaxmlip.simulate import NPT, run
from jaxmlip.system import System, make_system

HERE = Path(__file__).parent
CUTOFF = 7.5  # [Å]
SLOTS = 96  # neighbors an atom, the same everywhere, so that few programs are compiled


class Embedding(AbstractEnergy):
    """A many-body term, the square root of a smooth density [eV], so that more than pair sums are tested."""

    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph):
        r = graph.lengths()
        density = graph.sum_edges(jnp.exp(-r) * polynomial_envelope(r / self.cutoff))
        return -jnp.sqrt(density + 1e-6)


ENERGY = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=CUTOFF) + Embedding(CUTOFF)
derivatives = eqx.filter_jit(energy_forces_stress)


def crystals() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cells (rows) and positions [Å] of the crystals."""
    fcc = 5.26 / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    diamond = 1.5 * fcc
    triclinic = np.array([[4.6, 0.0, 0.0], [1.3, 4.9, 0.0], [-0.8, 1.1, 6.2]])
    three = np.array([[0.02, 0.05, 0.01], [0.46, 0.55, 0.38], [0.93, 0.48, 0.71]])
    return {
        "1-atom fcc": (fcc, np.zeros((1, 3))),
        "2-atom diamond": (diamond, np.array([[0.0, 0, 0], [0.27, 0.25, 0.24]]) @ diamond),
        "3-atom triclinic": (triclinic, three @ triclinic),
    }


def shapes() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[bool, bool, bool]]]:
    """Sheared and thin cells, some not periodic everywhere."""
    cell, positions = crystals()["3-atom triclinic"]
    sheared = np.array([[1, 0, 0], [9, 1, 0], [-3, 4, 1]]) @ cell  # the same lattice, described by a 9:1 shear
    tenths = np.diag([5.0, 5.5, 6.0])
    tenths[1, 0] = 0.9 * tenths[0, 0]
    thin = np.diag([13.0, 14.0, 3.1])
    spread = np.array([[1.0, 2.0, 0.5], [4.5, 5.0, 1.5], [9.0, 3.0, 2.5], [6.0, 11.0, 0.2]])
    return {
        "lattice sheared 9:1": (sheared, positions, (True, True, True)),
        "sheared 9:10": (tenths, positions, (True, True, True)),
        "thin": (thin, spread, (True, True, True)),
        "thin slab": (thin[[2, 0, 1]], spread, (True, False, True)),
        "wire": (thin, spread, (False, False, True)),
    }


def repeated(cell, positions, times):
    """Supercell; the atoms of the first cell come first."""
    images = np.array(list(itertools.product(range(times), repeat=3))) @ cell
    return cell * times, (images[:, None] + positions[None]).reshape(-1, 3)


def brute_graph(system: System) -> Graph:
    """The graph by plain enumeration of images in NumPy."""
    positions, cell = np.asarray(system.positions), np.asarray(system.cell)
    rows = np.linalg.inv(cell).T
    spread = np.ptp(positions @ np.linalg.inv(cell), axis=0)
    reach = np.ceil(CUTOFF * np.linalg.norm(rows, axis=1) + spread).astype(int)
    pairs = []
    for shift in itertools.product(*(range(-n, n + 1) if p else (0,) for n, p in zip(reach, system.pbc, strict=True))):
        vectors = positions[None] + np.asarray(shift) @ cell - positions[:, None]
        close = np.sum(vectors**2, axis=-1) <= CUTOFF**2
        if not any(shift):
            np.fill_diagonal(close, False)
        pairs += [(i, j, *shift) for i, j in np.argwhere(close)]
    pairs = np.array(sorted(pairs))
    return with_edges(system, pairs[:, 0], pairs[:, 1], pairs[:, 2:], SLOTS)


def with_edges(system: System, receivers, senders, shifts, slots=None) -> Graph:
    """A graph of one system with the edges at hand."""
    order = np.argsort(receivers, kind="stable")
    block = dense_block(receivers[order], senders[order], shifts[order], len(system.numbers), slots)
    graph = batch(system, 2.0)  # a shorter cutoff would have vesin make many bins
    values = [jnp.asarray(x) for x in block]
    atoms = (graph.positions, graph.numbers, graph.cell, graph.charge, graph.system_index)
    return Graph(*atoms, *values, graph.pbc, cutoff=CUTOFF)


def by_every_path(system: System):
    """Derivatives by each way to make the list: on the host, and in jit by images and by cells."""
    yield "host", derivatives(ENERGY, batch(system, CUTOFF, neighbors=SLOTS))
    for method in ("images", "cells"):
        neighbors = allocate(system, CUTOFF, skin=0.4, capacity=SLOTS, method=method)  # built in jit
        if bool(neighbors.failed):
            raise RuntimeError(f"{SLOTS} slots are too few: {neighbors.needed} are needed.")
        yield method, derivatives(ENERGY, to_graph(neighbors, system))


def deviation(found, expected, atoms: int, ratio: int = 1) -> float:
    """Largest relative error of energy per atom, forces and stress.

    Forces that vanish by symmetry are measured against the energy per atom over 1 Å.
    """
    energy = abs(float(expected.energy[0])) / (atoms * ratio)
    scale = max(float(jnp.max(jnp.abs(expected.forces))), energy)
    stress = float(jnp.max(jnp.abs(expected.stress)))
    return max(
        abs(float(found.energy[0]) / atoms - float(expected.energy[0]) / (atoms * ratio)) / energy,
        float(jnp.max(jnp.abs(found.forces - expected.forces[:atoms]))) / scale,
        0.0 if not np.isfinite(stress) else float(jnp.max(jnp.abs(found.stress - expected.stress))) / stress,
    )


def unwrapped(cell, positions, pbc, rng):
    """The same atoms, each some lattice vectors away."""
    return positions + (rng.integers(-3, 4, positions.shape) * np.asarray(pbc)) @ cell


def static_errors() -> dict[str, float]:
    """Largest relative error for every crystal, shape and path."""
    rng, errors = np.random.default_rng(0), {}
    for name, (cell, positions) in crystals().items():
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        times = int(np.floor(2 * CUTOFF / heights.min())) + 1
        large = make_system(repeated(cell, positions, times)[1], [18] * (len(positions) * times**3), cell=cell * times)
        expected = derivatives(ENERGY, batch(large, CUTOFF))
        positions = unwrapped(cell, positions, (True,) * 3, rng)
        system = make_system(positions, [18] * len(positions), cell=cell)
        for path, found in by_every_path(system):
            errors[f"{name}, {path}"] = deviation(found, expected, len(positions), times**3)
    for name, (cell, positions, pbc) in shapes().items():
        positions = unwrapped(cell, positions, pbc, rng)
        cell = cell if np.linalg.det(cell) > 0 else -cell
        system = make_system(positions, [18] * len(positions), cell=cell, pbc=pbc)
        expected = derivatives(ENERGY, brute_graph(system))
        for path, found in by_every_path(system):
            errors[f"{name}, {path}"] = deviation(found, expected, len(positions))
    return errors


def squeeze(steps: int, capacity: int):
    """Four atoms in an expanded fcc cell, run into a pressure of 20 GPa with a free cell."""
    rng = np.random.default_rng(1)
    cell = 5.8 * np.eye(3)
    positions = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) @ cell + rng.normal(0, 0.05, (4, 3))
    system = make_system(unwrapped(cell, positions, (True,) * 3, rng), [18] * 4, cell=cell)
    barostat = NPT(
        timestep=2 * units.fs,
        temperature=100.0,
        friction=0.01 / units.fs,
        pressure=20 * units.GPa,
        period=0.3 * units.ps,
        shape="triclinic",
        every=2,
    )
    state = barostat.init(ENERGY, system, key=jax.random.key(2), skin=0.5, capacity=capacity)
    first = state.neighbors
    return run(barostat, ENERGY, state, steps=steps, every=1, observe=observe, guards=None), first


def observe(state):
    return {
        "positions": state.system.positions,
        "cell": state.system.cell,
        "momenta": state.momenta,
        "energy": state.energy,
        "forces": state.forces,
    }


def npt_errors(record, slots: int) -> tuple[int, float]:
    """Steps whose energy or forces differ from those with a list that ASE made for that step; and the worst error."""
    evaluate, wrong, worst = eqx.filter_jit(energy_forces), 0, 0.0
    for positions, cell, energy, forces in zip(
        *(record[k] for k in ("positions", "cell", "energy", "forces")), strict=True
    ):
        receivers, senders, shifts = primitive_neighbor_list("ijS", (True,) * 3, cell, positions, CUTOFF)
        system = System(
            jnp.asarray(positions),
            jnp.full(4, 18, jnp.int32),
            jnp.asarray(cell),
            jnp.ones(4),
            jnp.zeros(()),
            (True,) * 3,
        )
        value, expected = evaluate(ENERGY, with_edges(system, receivers, senders, shifts.astype(np.int32), slots))
        scale = max(float(jnp.max(jnp.abs(expected))), abs(float(value[0])) / 4)
        error = max(
            abs(float(value[0]) - energy) / abs(float(value[0])), float(np.max(np.abs(expected - forces))) / scale
        )
        worst = max(worst, error)
        wrong += error > 1e-10
    return wrong, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter run under pressure (under a minute in all)")
    quick = parser.parse_args().quick
    start = time.perf_counter()
    steps = 250 if quick else 4000
    with ThreadPoolExecutor(1) as pool:  # most of the time is compilation, and there are two cores
        static = pool.submit(static_errors)
        (state, record), first = squeeze(steps, capacity=4 * SLOTS)
        wrong, worst = npt_errors(record, slots=4 * SLOTS)
        # The same from a list whose 64 slots suffice at first.
        (after, tiny), small = squeeze(steps, capacity=64)
        errors = static.result()
    for name, error in errors.items():
        print(f"{name:32s} {error:.1e}")
    heights = 1 / np.linalg.norm(np.linalg.inv(record["cell"]), axis=1)
    print(f"smallest height {heights[0].min():.2f} -> {heights[-1].min():.2f} Å, images to either side", end=" ")
    print(f"{first.plan.reach} -> {state.neighbors.plan.reach}; worst error at any step {worst:.1e}")
    slots = (small.capacity, after.neighbors.capacity)
    same = slots[1] > slots[0] and all(np.array_equal(tiny[k], record[k]) for k in record)
    print(f"replay: {slots[0]} -> {slots[1]} slots against {first.capacity}; overflowed and identical: {same}")
    result = {
        "experiment": "small-cells",
        "quick": quick,
        "max_relative_error": max(errors.values()),
        "npt_shrink_errors": int(wrong),
        "npt_steps": steps,
        "npt_worst_relative_error": worst,
        "npt_reach_before": first.plan.reach,
        "npt_reach_after": state.neighbors.plan.reach,
        "npt_further_image_entered": bool(np.sum(state.neighbors.plan.reach) > np.sum(first.plan.reach)),
        "overflow_replay_identical": bool(same),
        "overflow_slots": slots,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not quick:
        (HERE / "results.json").write_text(json.dumps(result | {"errors": errors}, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
