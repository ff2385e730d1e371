"""The silicon data set of the package: `--quick` verifies the shipped file, else the campaign."""

import argparse
import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path

import convergence
import dataset
import generate
import numpy as np
import qe
import report
from ase import Atoms
from ase.io import read, write
from ase.units import GPa

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
FRAMES = qe.WORK / "frames"


def settings_for(atoms: Atoms) -> dict:
    """One rule for all; an atom alone in its box has no bands to sample and gets Gamma."""
    return qe.SETTINGS | ({"kgrid": [1, 1, 1], "kshift": 0.0} if len(atoms) == 1 else {})


def structure(make) -> tuple[Atoms, str]:
    atoms, made = make()
    atoms.set_cell(np.round(atoms.cell.array, 8))
    atoms.wrap()
    atoms.positions = np.round(atoms.positions, 8)
    return atoms, made


def campaign(minutes: float) -> None:
    """Label every frame of the plan that has no file and no other worker; stop at `minutes`."""
    FRAMES.mkdir(parents=True, exist_ok=True)
    (qe.WORK / "locks").mkdir(exist_ok=True)
    plan, start, spent, done = generate.plan(), time.monotonic(), 0.0, 0
    todo = [p for p in plan if not (FRAMES / f"{p[1]}-{p[2]:02d}.extxyz").exists()]
    for kind, tag, m, seed, make in todo:
        if time.monotonic() - start > 60 * minutes:
            print(f"stopped after {minutes} min with {len(todo) - done} frames to do")
            break
        lock = (qe.WORK / "locks" / f"{tag}-{m:02d}").open("w")  # released when this worker ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        if (FRAMES / f"{tag}-{m:02d}.extxyz").exists():
            continue
        atoms, made = structure(make)
        settings = settings_for(atoms) if kind == "isolated_atom" else qe.SETTINGS
        result = qe.label(atoms, settings)
        if "failed" in result:
            result = qe.label(atoms, settings | {"mixing_beta": 0.25})
        done, spent = done + 1, time.monotonic() - start
        if "failed" in result:
            line = {"tag": tag, "number": m, "made": made, "reason": result["failed"]}
            with (qe.WORK / "failed.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{tag}-{m:02d} FAILED: {result['failed']}", flush=True)
            continue
        atoms.arrays["REF_forces"] = np.round(result["forces"], 6)
        atoms.info = {
            "REF_energy": round(result["energy"], 8),
            "REF_stress": np.round(np.ravel(result["stress"]), 9),
            "config_type": kind,
            "tag": f"{tag}-{m:02d}",
            "made": made,
            "seed": seed,
            "kpoints": np.array(settings.get("kgrid") or qe.kgrid(atoms, settings["kspacing_1_A"])),
            "kshift": settings["kshift"],
            "minus_TS": round(result["minus_TS"], 8),
            "program": f"Quantum ESPRESSO pw.x {result['version']}",
            "seconds": round(result["seconds"], 2),
        }
        write(FRAMES / f"{tag}-{m:02d}.extxyz", atoms)
        left = spent / done * (len(todo) - done) / 60
        print(
            f"{done}/{len(todo)} {tag}-{m:02d} {len(atoms)} atoms {result['seconds']:.1f} s, "
            f"{spent / 60:.1f} min gone, about {left:.1f} min left",
            flush=True,
        )


def recompute(seconds: float) -> dict:
    """One small shipped frame labelled again, never from the cache; nothing if out of time."""
    frames = [a for a in read(dataset.SHIPPED, ":") if a.info["tag"].startswith("diamond")]
    old = min(frames, key=lambda a: abs(a.get_volume() / len(a) - 20.5))
    try:
        new = qe.label(old, cache=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"pw.x did not finish in {seconds:.0f} s on this machine now: nothing is compared")
        return {}
    if "failed" in new:
        raise RuntimeError(f"{old.info['tag']}: {new['failed']}")
    stress = np.ravel(new["stress"]) - old.info["REF_stress"]
    energy = 1e3 * (new["energy"] - old.info["REF_energy"]) / len(old)
    return {
        "recomputed_frame": old.info["tag"],
        "recomputed_energy_diff_meV_atom": abs(energy),
        "recomputed_force_diff_eV_A": float(np.abs(new["forces"] - old.arrays["REF_forces"]).max()),
        "recomputed_stress_diff_GPa": float(np.abs(stress).max() / GPa),
        "recomputed_seconds": round(new["seconds"], 1),
    }


def differences(checks: dict) -> dict:
    """Largest gap between a label and the finite difference of energies, by kind."""
    gaps = {"force": 0.0, "stress": 0.0}
    for name, (label, finite) in checks.items():
        kind = name.split()[0]
        gaps[kind] = max(gaps[kind], abs(label - finite))
    return {
        "force_fd_max_abs_eV_A": gaps["force"],
        "stress_fd_strained_cell_max_abs_GPa": gaps["stress"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only verify the shipped file")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop labelling after these")
    parser.add_argument("--label", action="store_true", help="only label; several may run at once")
    args = parser.parse_args()
    if args.label:
        campaign(args.minutes)
        return 0
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.quick:
        campaign(args.minutes)
        dataset.build(FRAMES)
        kept["convergence"] = convergence.run()
        convergence.picture(kept["convergence"]["table"], HERE / "convergence.png")
    figures, wrong = dataset.verify()
    figures |= differences(kept["convergence"]["finite_differences"])
    if qe.have_pw():
        figures |= recompute(30.0 if args.quick else 600.0)
        if figures.get("recomputed_energy_diff_meV_atom", 0.0) > 0.1:
            wrong.append("a recomputed frame differs by more than 0.1 meV/atom")
    else:
        print("pw.x is not here: nothing is recomputed")
    if not args.quick:
        kept |= {"settings": qe.SETTINGS, "figures": figures, "wrong": wrong}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        report.update(HERE / "README.md", kept)
    for kind, row in figures["census"].items():
        print(f"{kind:14s}", *(f"{k} {v}" for k, v in row.items()))
    print(*(f"WRONG: {what}" for what in wrong), sep="\n", end="\n" if wrong else "")
    print(json.dumps({k: v for k, v in figures.items() if k != "census"} | {"wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
