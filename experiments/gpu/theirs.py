"""The nequix package's side: `python theirs.py CHECKPOINT STRUCTURE.npz` evaluates once for each line that comes in."""

import json
import sys
import time

import equinox as eqx
import jax
import numpy as np
from ase import Atoms
from nequix.calculator import NequixCalculator
from nequix.data import dict_to_graphstuple, preprocess_graph

stored = np.load(sys.argv[2])
atoms = Atoms(numbers=stored["numbers"], positions=stored["positions"], cell=stored["cell"], pbc=True)
calculator = NequixCalculator(model_path=sys.argv[1], use_kernel=False)
graph = dict_to_graphstuple(preprocess_graph(atoms, calculator.atom_indices, calculator.cutoff, False))
graph = jax.device_put(calculator._pad_graph_jax(graph))
function = eqx.filter_jit(calculator.model)
energy, forces, _ = (np.asarray(x, np.float64) for x in function(graph))
report = {"energy": energy[0], "forces": forces[: len(atoms)].tolist(), "device": jax.devices()[0].device_kind}
print(json.dumps(report), flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    jax.block_until_ready(function(graph))
    print(time.perf_counter() - start, flush=True)
