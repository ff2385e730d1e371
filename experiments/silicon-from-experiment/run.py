"""Can silicon potentials be brought to what was measured, labels kept? See README.md; last line JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = {"a": "dft.py", "b": "foundation.py"}
KEYS = ("worst_target_error_percent", "pressure_GPa", "force_rmse_rise_percent", "minutes")


def one(part: str, quick: bool) -> dict:
    """The last line that a part prints."""
    environment = dict(os.environ)
    if quick:  # it is the compiler that takes the time
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    command = [sys.executable, str(HERE / PARTS[part]), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{PARTS[part]} failed with exit status {done.returncode}.")
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[:-1]), flush=True)
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small forms of both, without hold-outs")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="others stay as they are")
    options = parser.parse_args()
    path = HERE / "results.json"
    found = {part: one(part, options.quick) for part in options.only}
    if not options.quick and path.exists():
        found = {k: v for k, v in json.loads(path.read_text()).items() if k in PARTS} | found
    result: dict = {f"{part}_{key}": values[f"{part}_{key}"] for part, values in found.items() for key in KEYS}
    for part, values in found.items():
        for name, t in values["targets"].items():
            if t["holdout"]:
                result |= {f"{part} {name}, {when}": t[when] for when in ("observed", "before", "after")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result |= {"quick": options.quick, "machine": machine} | found
    if not options.quick:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        picture(found)
    print(json.dumps(result, ensure_ascii=False))


def picture(found: dict) -> None:
    """Deviations from what was measured, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(5.0 * len(found), 4.0), constrained_layout=True, squeeze=False)
    for axis, (part, values) in zip(axes[0], found.items(), strict=True):
        rows = []
        for name, t in values["targets"].items():
            for i, aim in enumerate(t["observed"]):
                pair = [t[when][0] if part == "a" else t[when] for when in ("before", "after")]
                if aim:
                    label = (
                        name + (f"[{i}]" if len(t["observed"]) > 1 else "") + (" (held out)" if t["holdout"] else "")
                    )
                    rows.append((label, *(100.0 * (p[i] / aim - 1.0) for p in pair)))
        places = range(len(rows))
        axis.barh([p + 0.2 for p in places], [r[1] for r in rows], 0.4, color="#d95f02", label="before")
        axis.barh([p - 0.2 for p in places], [r[2] for r in rows], 0.4, color="#1b9e77", label="after")
        axis.set(yticks=list(places), yticklabels=[r[0] for r in rows], xlabel="deviation [%]", title=f"({part})")
        axis.axvline(0.0, color="black", linewidth=0.8)
        axis.invert_yaxis()
    axes[0, 0].legend(frameon=False)
    figure.savefig(HERE / "deviations.png", dpi=100)


if __name__ == "__main__":
    main()
