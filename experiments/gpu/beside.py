"""The nequix package beside ours: the same checkpoint, structure and precision, in turns."""

import json
import subprocess
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from cases import CHECKPOINT, HERE, Case, crystal
from checks import derivatives
from limits import medians

from jaxmlip.graph import batch


def beside_nequix(case: Case, times: int, python: str, repeats: int) -> dict:
    """Energy, forces and stress by both, with the same checkpoint and structure in float32, in turns."""
    system = crystal(case, times, jnp.float32)
    graph, atoms = batch(system, case.energy.cutoff), len(system.numbers)
    ours = derivatives(case.energy, graph)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log:
        path = Path(folder) / "structure.npz"
        np.savez(path, positions=system.positions, numbers=system.numbers, cell=system.cell)
        command = [python, str(HERE / "theirs.py"), str(CHECKPOINT), str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        with subprocess.Popen(command, **pipes) as server:
            first = next((line for line in server.stdout if line.startswith("{")), "")
            if not first:
                log.seek(0)
                return {"skipped": (log.read().strip().splitlines() or ["no answer"])[-1]}
            theirs, taken = json.loads(first), []

            def ask():
                server.stdin.write("\n")
                server.stdin.flush()
                taken.append(float(server.stdout.readline()))

            mine = medians({"ours": lambda: derivatives(case.energy, graph), "theirs": ask}, repeats)["ours"]
            server.stdin.close()
    other = float(np.median(taken[1:]))
    return {
        "ours_ms": 1e3 * mine,
        "nequix_ms": 1e3 * other,
        "speedup": other / mine,
        "max_energy_diff_eV_atom": abs(float(ours.energy[0]) - theirs["energy"]) / atoms,
        "max_force_diff_eV_A": float(np.max(np.abs(np.asarray(ours.forces) - np.array(theirs["forces"])))),
        "nequix_device": theirs["device"],
    }
