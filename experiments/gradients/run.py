"""Are gradients of observables right, whatever the estimator? See README.md; last line JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = ("static", "dynamic", "ground_state", "melting")  # longest first; two run at a time
KEYS = (
    "implicit_max_relative_error",
    "static_worst_sigma",
    "static_worst_stderr",
    "dynamic_worst_sigma",
    "dlnTm_dlneps",
    "dTm_dsigma",
)


def one(part: str, quick: bool) -> dict:
    """The last line that a part prints."""
    environment = dict(os.environ)
    if quick:  # it is the compiler that takes the time
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    command = [sys.executable, str(HERE / f"{part}.py"), *(["--quick"] if quick else [])]
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed with exit status {done.returncode}.")
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[:-1] + [f"{part}: {time.monotonic() - begin:.0f} s"]), flush=True)
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases; finite differences of the last full run")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="others stay as they are")
    options = parser.parse_args()
    path = HERE / "results.json"
    chosen = [part for part in PARTS if part in options.only]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(chosen, pool.map(lambda part: one(part, options.quick), chosen), strict=True))
    if not options.quick and path.exists():
        found = {k: v for k, v in json.loads(path.read_text()).items() if k in PARTS} | found
    flat = {key: value for part in found.values() for key, value in part.items() if key in KEYS}
    flat |= (
        {"dynamic_worst_sigma": found["dynamic"]["dynamic"].get("dynamic_worst_sigma")} if "dynamic" in found else {}
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result = {key: flat.get(key) for key in KEYS} | {"quick": options.quick, "machine": machine} | found
    if not options.quick:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        if "dynamic" in found:
            pictures(found["dynamic"], found.get("static"))
    print(json.dumps(result, ensure_ascii=False))


def pictures(found: dict, static: dict | None) -> None:
    """The exploding gradient, and memory against the steps of a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), constrained_layout=True)
    explosion, memory = found["explosion"], found["memory"]
    times = [t for t in explosion["times_ps"] if t > 0]
    spread, mean = explosion["dP_dsigma_std"][-len(times) :], explosion["dP_dsigma_mean"][-len(times) :]
    left.plot(times, spread, color="#d95f02", label=f"scatter of {explosion['paths']} paths")
    left.plot(times, [abs(x) for x in mean], color="#7570b3", label="their mean, without sign")
    if static is not None:
        left.axhline(abs(static["d pressure / d sigma"][0]), color="#1b9e77", label="by reweighting")
    left.set(yscale="log", xlabel="length of the path [ps]", ylabel="dP/dσ through the path [ε/σ⁴]")
    left.legend(frameon=False)
    for name, color in zip(("plain", "checkpoint", "reversible"), ("#d95f02", "#1b9e77", "#7570b3"), strict=True):
        right.plot(memory["steps"], memory[f"{name}_MB"], "o-", color=color, label=name)
    right.set(xscale="log", yscale="log", xlabel="steps", ylabel="memory of the gradient [MB]")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(HERE / "adjoints.png", dpi=100)


if __name__ == "__main__":
    main()
