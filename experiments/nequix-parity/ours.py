"""A new process of ours: `python ours.py (energy | all) CHECKPOINT`, from import to the first result."""

import sys
import time

start_wall, start_cpu = time.perf_counter(), time.process_time()

import json  # noqa: E402

import jax  # noqa: E402
from structures import peak_megabytes, silicon  # noqa: E402

from jaxmlip.compilation import Compiled  # noqa: E402
from jaxmlip.energy import energy_forces_stress, system_energies  # noqa: E402
from jaxmlip.graph import batch  # noqa: E402
from jaxmlip.io import from_ase  # noqa: E402
from jaxmlip.models.pretrained import load  # noqa: E402

function = {"energy": system_energies, "all": energy_forces_stress}[sys.argv[1]]
model = load(sys.argv[2])
result = jax.block_until_ready(Compiled(function)(model, batch(from_ase(silicon()), model.cutoff)))
energy = float(jax.tree.leaves(result)[0][0])
report = {"wall": time.perf_counter() - start_wall, "cpu": time.process_time() - start_cpu, "energy": energy}
print(json.dumps({**report, "peak_MB": peak_megabytes()}))
