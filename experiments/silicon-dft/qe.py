"""One pw.x label: write the input, run it once, parse it, keep the result."""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Bohr, Ry

PSEUDO_DIR = Path(os.environ.get("ESPRESSO_PSEUDO", "/usr/share/espresso/pseudo"))
WORK = Path(__file__).parent / "work"

SETTINGS = {
    "functional": "PBE",
    "pseudopotential": "Si.pbe-rrkj.UPF",
    "ecutwfc_Ry": 22.0,
    "ecutrho_Ry": 88.0,
    "kspacing_1_A": 0.43,  # n_i = ceil(2 pi |b_i| / kspacing)
    "kshift": 0.25,  # of a grid step: the points (j + 1/4) / n_i, no two of them related by k = -k
    "smearing": "cold",
    "degauss_Ry": 0.01,
    "conv_thr_Ry_atom": 1e-9,
}


def have_pw() -> bool:
    return shutil.which("pw.x") is not None


def pseudo_sha256(name: str) -> str:
    return hashlib.sha256((PSEUDO_DIR / name).read_bytes()).hexdigest()


def kgrid(atoms: Atoms, spacing: float) -> list[int]:
    """Smallest grid whose steps along the three reciprocal vectors do not exceed `spacing`."""
    b = 2 * math.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    return [max(1, math.ceil(x / spacing - 1e-9)) for x in b]


def pw_input(atoms: Atoms, s: dict, outdir: str, magnetic: float = 0.0) -> str:
    """The complete text; no symmetry but k = -k, so that forces need no symmetrization."""
    n = len(atoms)
    spin = f"nspin = 2, starting_magnetization(1) = {magnetic}" if magnetic else "nspin = 1"
    cell = "\n".join("{:.12f} {:.12f} {:.12f}".format(*v) for v in atoms.cell)
    pos = "\n".join("Si {:.12f} {:.12f} {:.12f}".format(*v) for v in atoms.positions)
    k = s.get("kgrid") or kgrid(atoms, s["kspacing_1_A"])
    shift = s.get("kshift", 0.25)
    points = itertools.product(*(((np.arange(m) + shift) / m) for m in k))
    kpoints = "\n".join("{:.10f} {:.10f} {:.10f} 1".format(*p) for p in points)
    return f"""&control
  calculation = 'scf', tprnfor = .true., tstress = .true., disk_io = 'none'
  pseudo_dir = '{PSEUDO_DIR}', outdir = '{outdir}', verbosity = 'low'
/
&system
  ibrav = 0, nat = {n}, ntyp = 1, nosym = .true., {spin}
  ecutwfc = {s["ecutwfc_Ry"]}, ecutrho = {s["ecutrho_Ry"]}
  occupations = 'smearing', smearing = '{s["smearing"]}', degauss = {s["degauss_Ry"]}
/
&electrons
  conv_thr = {s["conv_thr_Ry_atom"] * n:.3e}, electron_maxstep = 80
  mixing_beta = {s.get("mixing_beta", 0.6)}
  diagonalization = '{s.get("diagonalization", "david")}'
/
ATOMIC_SPECIES
Si 28.0855 {s["pseudopotential"]}
CELL_PARAMETERS angstrom
{cell}
ATOMIC_POSITIONS angstrom
{pos}
K_POINTS crystal
{math.prod(k)}
{kpoints}
"""


def parse(text: str, n: int) -> dict:
    """Energy (eV), forces (eV/A) and stress (eV/A^3, tension positive) of a finished run."""
    if "convergence has been achieved" not in text or "JOB DONE" not in text:
        tail = re.findall(r"(convergence NOT achieved[^\n]*|Error in routine[^\n]*)", text)
        raise RuntimeError(tail[0] if tail else "pw.x did not finish")
    number = r"(-?\d+\.\d+(?:[Ee][+-]?\d+)?)"
    energy = float(re.findall(rf"^!\s+total energy\s+=\s+{number}", text, re.M)[-1]) * Ry
    smear = re.findall(rf"smearing contrib\. \(-TS\)\s+=\s+{number}", text)
    block = text[text.index("Forces acting on atoms") :]
    forces = re.findall(rf"force =\s+{number}\s+{number}\s+{number}", block)[:n]
    lines = text[text.index("total   stress") :].splitlines()[1:4]
    pressure = np.array([[float(x) for x in row.split()[:3]] for row in lines])  # Ry/bohr^3
    return {
        "energy": energy,
        "forces": (np.array(forces, float) * Ry / Bohr).tolist(),
        "stress": (-pressure * Ry / Bohr**3).tolist(),
        "minus_TS": float(smear[-1]) * Ry if smear else 0.0,
        "iterations": int(re.findall(r"achieved in\s+(\d+) iterations", text)[-1]),
        "version": re.findall(r"Program PWSCF v\.(\S+)", text)[0],
        "nk": int(re.findall(r"number of k points=\s*(\d+)", text)[0]),
        "fermi": float(re.findall(rf"Fermi energy is\s+{number}", text)[-1]),
    }


def label(atoms: Atoms, settings: dict = SETTINGS, magnetic: float = 0.0, cache=True, timeout: float = 1500.0) -> dict:
    """Result of one single point, from the cache where the same input was already paid for."""
    text = pw_input(atoms, settings, "OUT", magnetic)
    key = hashlib.sha256(text.replace(str(PSEUDO_DIR), "").encode()).hexdigest()[:20]
    cached = WORK / "labels" / f"{key}.json"
    if cache and cached.exists():
        return json.loads(cached.read_text())
    run = WORK / f"run-{os.getpid()}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    (run / "pw.in").write_text(text.replace("'OUT'", f"'{run}'"))
    start = time.monotonic()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        ["pw.x", "-in", "pw.in"], cwd=run, env=env, capture_output=True, text=True, timeout=timeout
    ).stdout
    try:
        result = parse(out, len(atoms)) | {"seconds": time.monotonic() - start, "key": key}
    except (RuntimeError, IndexError, ValueError) as error:
        failed = WORK / "failed"
        failed.mkdir(exist_ok=True)
        (failed / f"{key}.out").write_text(out)
        result = {"failed": str(error), "seconds": time.monotonic() - start, "key": key}
    finally:
        shutil.rmtree(run, ignore_errors=True)
    cached.parent.mkdir(exist_ok=True)
    cached.with_suffix(".tmp").write_text(json.dumps(result))
    cached.with_suffix(".tmp").rename(cached)
    return result
