"""Is the engine right on an accelerator, does it conserve there, how fast is it, how near the limit? See README.md."""

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes share the device beside nequix

import jax  # noqa: E402
from beside import beside_nequix  # noqa: E402
from cases import HERE, Case, cases  # noqa: E402
from checks import conservation, parity  # noqa: E402
from limits import device_limits  # noqa: E402
from speed import speed  # noqa: E402

QUICK = {"parity": ("lj", "nep"), "conservation": ("lj",), "speed": ("lj",)}
QUICK_SIZES = {"lj": (2, 4)}  # 8 n³ atoms


def sections(options: argparse.Namespace, found: dict[str, Case], absent: dict[str, str]) -> dict[str, Callable]:
    """What is asked for, by name: functions that return results."""
    quick, accelerator = options.quick, jax.default_backend() != "cpu"

    def chosen(section: str) -> dict[str, Case]:
        return {name: c for name, c in found.items() if not quick or name in QUICK[section]}

    def all_parity():
        return {name: parity(case, name, accelerator) for name, case in chosen("parity").items()}

    def all_conservation():
        lengths = {"lj": (2, 1000) if quick else (4, 50_000), "fast": (2, 20_000)}
        return {n: conservation(found[n], *lengths[n]) for n in lengths if n in chosen("conservation")}

    def all_speed():
        limits = device_limits(not accelerator)
        sizes = dict.fromkeys(found, (2, 4, 8, 16, 32, 50) if accelerator else (2, 4, 8))
        sizes |= QUICK_SIZES if quick else {}
        return {"limits": limits} | {n: speed(n, c, sizes[n], limits, quick) for n, c in chosen("speed").items()}

    def all_nequix():
        if quick or "nequip" not in found:
            return {"skipped": absent.get("nequip", "not part of --quick")}
        sizes = (2, 4, 8) if accelerator else (2,)
        return {str(8 * n**3): beside_nequix(found["nequip"], n, options.nequix_python, 9) for n in sizes}

    every = {"parity": all_parity, "conservation": all_conservation, "speed": all_speed, "nequix": all_nequix}
    return {name: every[name] for name in options.only or every}


def summary(results: dict) -> dict:
    """The figures that are asked for: the worst difference, the largest system of each energy."""
    keys: dict = {}
    for name, variants in results.get("parity", {}).items():
        keys |= {f"{name}_{k}": v for k, v in variants["float32"].items()}
    for name, found in results.get("conservation", {}).items():
        keys |= {f"{name}_{k}": found[k] for k in ("drift_meV_atom_ps", "stderr", "momentum_relative")}
    for name, sizes in results.get("speed", {}).items():
        measured = [atoms for atoms in sizes if atoms.isdigit()]
        if name == "limits":
            keys |= sizes
        elif measured:
            wanted = ("ms_per_step", "ns_per_day_at_1_fs", "atom_steps_per_s", "bandwidth_fraction", "flop_fraction")
            keys |= {f"{name}_{k}": sizes[measured[-1]][k] for k in wanted} | {f"{name}_atoms": int(measured[-1])}
        if "stopped" in sizes:
            keys[f"{name}_stopped"] = sizes["stopped"]
    return keys | {"nequix": results["nequix"]} if "nequix" in results else keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument("--only", nargs="*", help="parity, conservation, speed, nequix")
    parser.add_argument("--matmul", default="default", help="precision of matrix products for speed and conservation")
    parser.add_argument("--nequix-python", default=sys.executable, help="Python of an environment with nequix")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    if options.matmul != "default":
        jax.config.update("jax_default_matmul_precision", options.matmul)
    found, absent = cases()
    about = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "precision": f"float32, matmul {options.matmul}",
        "date": datetime.date.today().isoformat(),
        "quick": options.quick,
        "absent": absent,
    }
    print(json.dumps(about), flush=True)
    results: dict = {}
    for name, measure in sections(options, found, absent).items():
        wall, cpu = time.perf_counter(), time.process_time()
        results[name] = measure()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name}: {wall:.1f} s ({cpu:.1f} s of CPU) {json.dumps(results[name])}", flush=True)
        if not options.quick:  # after each part, so that a run that is cut short leaves what it has
            options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n")
    print(json.dumps({**summary(results), **about}))


if __name__ == "__main__":
    main()
