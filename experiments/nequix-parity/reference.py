"""The nequix package's side; runs in its own environment: `python reference.py (values | serve | cold) CHECKPOINT`."""

import sys
import time

start_wall, start_cpu = time.perf_counter(), time.process_time()

import json  # noqa: E402

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jraph  # noqa: E402
import numpy as np  # noqa: E402
from nequix.calculator import NequixCalculator  # noqa: E402
from nequix.data import dict_to_graphstuple, preprocess_graph  # noqa: E402
from structures import peak_megabytes, silicon, structures  # noqa: E402


def graph_of(calculator, atoms):
    return dict_to_graphstuple(preprocess_graph(atoms, calculator.atom_indices, calculator.cutoff, False))


def values(calculator):
    """Energy, forces and stress of all structures, in one padded batch."""
    many = list(structures().values())
    graphs = jraph.batch_np([graph_of(calculator, atoms) for atoms in many])
    atoms, edges = int(graphs.n_node.sum()), int(graphs.n_edge.sum())
    graphs = jraph.pad_with_graphs(graphs, n_node=atoms + 1, n_edge=edges + 1, n_graph=len(many) + 1)
    energy, forces, stress = (np.asarray(x, np.float64) for x in eqx.filter_jit(calculator.model)(graphs))
    result = {"energy": energy[: len(many)], "forces": forces[:atoms], "stress": stress[: len(many)]}
    print(json.dumps({k: v.tolist() for k, v in result.items()}))


def serve(calculator):
    """One evaluation of energy, forces and stress for each line that comes in; answers wall and CPU seconds."""
    graph = calculator._pad_graph_jax(graph_of(calculator, silicon()))
    function = eqx.filter_jit(calculator.model)
    jax.block_until_ready(function(graph))
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(graph))
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def cold(calculator):
    """First energy of a new process, by the calculator."""
    atoms = silicon()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    report = {"wall": time.perf_counter() - start_wall, "cpu": time.process_time() - start_cpu, "energy": energy}
    print(json.dumps({**report, "peak_MB": peak_megabytes()}))


if __name__ == "__main__":
    task = {"values": values, "serve": serve, "cold": cold}[sys.argv[1]]
    task(NequixCalculator(model_path=sys.argv[2], use_kernel=False))
