"""Nequix checkpoints here and in the nequix package: the same numbers, how fast, how soon, in how much memory.

`python run.py` (about ten minutes on two idle cores) makes an environment with nequix under `work/` unless
`--nequix PYTHON` names one, compares, and writes `results.json`. `--quick` compares with the numbers that the full
run left in `reference.json` and times only us.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")).resolve()
FOLDER = DATA / "potentials" / "nequix"
NAMES = ("nequix-mp-1", "nequix-omat-1", "nequix-oam-1")
PACKAGES = ["jax==0.10.1", "jaxlib==0.10.1", "equinox", "e3nn-jax", "jraph", "ase", "matscipy", "tqdm", "pyyaml"]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from structures import silicon, structures  # noqa: E402

from jaxmlip.compilation import Compiled  # noqa: E402
from jaxmlip.energy import energy_forces_stress  # noqa: E402
from jaxmlip.graph import batch  # noqa: E402
from jaxmlip.io import from_ase  # noqa: E402
from jaxmlip.models.pretrained import load  # noqa: E402


def environment(python: str | None) -> str:
    """A Python with nequix, made where none is given."""
    if python:
        return python
    folder = HERE / "work" / "nequix"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "nequix==0.4.5"], check=True)
    return python


def child(*command: str) -> dict:
    """The JSON that a new process prints last; no compilation cache."""
    clean = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    paths = os.pathsep.join([str(HERE.parents[1]), *filter(None, [clean.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**clean, "PYTHONPATH": paths}, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def our_values(name: str) -> dict:
    model = load(FOLDER / f"{name}.nqx")
    graph = batch([from_ase(atoms) for atoms in structures().values()], model.cutoff)
    result = Compiled(energy_forces_stress)(model, graph)
    return {k: np.asarray(v, np.float64) for k, v in result._asdict().items()}


def differences(ours: dict, theirs: dict) -> dict:
    """Largest differences over all structures."""
    atoms = np.array([len(a) for a in structures().values()])
    return {
        "energy": float(np.max(np.abs(ours["energy"] - np.array(theirs["energy"])) / atoms)),
        "force": float(np.max(np.abs(ours["forces"] - np.array(theirs["forces"])))),
        "stress": float(np.max(np.abs(ours["stress"] - np.array(theirs["stress"])))),
    }


def our_evaluation():
    """A compiled call of energy, forces and stress of 64 silicon atoms that returns wall and CPU seconds."""
    model = load(FOLDER / "nequix-oam-1.nqx")
    graph = batch(from_ase(silicon()), model.cutoff)
    function = Compiled(energy_forces_stress)
    jax.block_until_ready(function(model, graph))

    def evaluate():
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(model, graph))
        return time.perf_counter() - wall, time.process_time() - cpu

    return evaluate


def evaluations(python: str, repeats: int) -> dict:
    """Median seconds of both, taken in turns."""
    command = [python, str(HERE / "reference.py"), "serve", str(FOLDER / "nequix-oam-1.nqx")]
    server = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    while server.stdout.readline().strip() != "ready":
        assert server.poll() is None, "nequix stopped"
    evaluate = our_evaluation()
    theirs, ours = [], []
    for _ in range(repeats):
        server.stdin.write("\n")
        server.stdin.flush()
        theirs.append(tuple(map(float, server.stdout.readline().split())))
        ours.append(evaluate())
    server.stdin.close()
    server.wait()
    names = ("wall", "cpu")
    pick = {
        who: [statistics.median(x) for x in zip(*t, strict=True)] for who, t in (("ours", ours), ("nequix", theirs))
    }
    return {f"{who}_{name}_s": value for who, pair in pick.items() for name, value in zip(names, pair, strict=True)}


def cold_starts(python: str, repeats: int) -> dict:
    """Medians of new processes, in turns: import, load, first energy (ours also with forces and stress)."""
    checkpoint = str(FOLDER / "nequix-oam-1.nqx")
    commands = {
        "nequix": (python, "reference.py", "cold", checkpoint),
        "ours": (sys.executable, "ours.py", "energy", checkpoint),
        "ours_all": (sys.executable, "ours.py", "all", checkpoint),
    }
    runs: dict[str, list[dict]] = {who: [] for who in commands}
    for _ in range(repeats):
        for who, command in commands.items():
            runs[who].append(child(*command))
    fields = ("wall", "cpu", "peak_MB")
    return {f"{who}_{f}": statistics.median(r[f] for r in rows) for who, rows in runs.items() for f in fields}


def import_seconds() -> float:
    code = "import time,json;t=time.perf_counter();import jaxmlip;print(json.dumps({'s':time.perf_counter()-t}))"
    return statistics.median(child(sys.executable, "-c", code)["s"] for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--nequix", default=os.environ.get("NEQUIX_PYTHON"), help="Python of an environment with nequix"
    )
    parser.add_argument("--repeats", type=int, default=15, help="evaluations of each side")
    parser.add_argument("--starts", type=int, default=3, help="new processes of each side")
    parser.add_argument("--keep-reference", action="store_true", help="take nequix's numbers from reference.json")
    arguments = parser.parse_args()
    stored = HERE / "reference.json"
    compared = ("nequix-oam-1",) if arguments.quick else NAMES
    python = "" if arguments.quick else environment(arguments.nequix)
    if arguments.quick or arguments.keep_reference:
        reference = json.loads(stored.read_text())
    else:
        reference = {n: child(python, "reference.py", "values", str(FOLDER / f"{n}.nqx")) for n in compared}
        rounded = {n: {k: np.round(v, 6).tolist() for k, v in r.items()} for n, r in reference.items()}
        stored.write_text(json.dumps(rounded) + "\n")
    each = {name: differences(our_values(name), reference[name]) for name in compared}
    result = {
        "max_energy_diff_eV_atom": max(d["energy"] for d in each.values()),
        "max_force_diff_eV_A": max(d["force"] for d in each.values()),
        "max_stress_diff_eV_A3": max(d["stress"] for d in each.values()),
        "checkpoints": each,
        "structures": list(structures()),
        "quick": arguments.quick,
    }
    if arguments.quick:
        evaluate = our_evaluation()
        timed = [evaluate() for _ in range(5)]
        result["evaluation"] = {"ours_wall_s": statistics.median(t[0] for t in timed)}
        result["evaluation"]["ours_cpu_s"] = statistics.median(t[1] for t in timed)
    else:
        timed, cold = evaluations(python, arguments.repeats), cold_starts(python, arguments.starts)
        result |= {
            "speedup_energy_forces_stress": timed["nequix_wall_s"] / timed["ours_wall_s"],
            "speedup_energy_forces_stress_cpu": timed["nequix_cpu_s"] / timed["ours_cpu_s"],
            "speedup_cold_start": cold["nequix_wall"] / cold["ours_wall"],
            "speedup_cold_start_cpu": cold["nequix_cpu"] / cold["ours_cpu"],
            "speedup_cold_start_with_forces_cpu": cold["nequix_cpu"] / cold["ours_all_cpu"],
            "peak_memory_ratio": cold["ours_all_peak_MB"] / cold["nequix_peak_MB"],
            "evaluation": timed,
            "cold_start": cold,
        }
    result["seconds_import_jaxmlip"] = import_seconds()
    result["load_average"] = os.getloadavg()[0]
    result["cores"] = os.cpu_count()
    result["machine"] = f"{platform.machine()}, jax {jax.__version__}, {jax.devices()[0].device_kind}"
    if not arguments.quick:
        (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
