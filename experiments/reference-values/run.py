"""Classical energies beside the numbers of the field: every section that is here, one table, one JSON line.

A section is a file with `measure(quick: bool, data: Path | None) -> (keys, rows)`: `keys` go into the JSON line (`None`
for what could not be measured), `rows` into the table (see `rows.py`).
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_X64"] = "1"

HERE = Path(__file__).parent
SECTIONS = ("lj", "charges", "manybody", "lammps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the cheaper part of each section (under a minute)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="some sections only")
    arguments = parser.parse_args()
    start = time.perf_counter()
    keys, rows, missing = {}, [], []
    for name in arguments.only:
        if not (HERE / f"{name}.py").is_file():
            missing.append(name)
            continue
        more, found = section(name).measure(arguments.quick, data_folder())
        print(f"\n{name}: {len(found)} numbers")
        print_table(found)
        keys |= more
        rows += found
    unknown = [key for key, value in keys.items() if value is None]
    for what in missing:
        print(f"no section {what}.py")
    for what in unknown:
        print(f"not measured: {what} (reference data not found; set JAXMLIP_DATA)")
    result = {
        "experiment": "reference-values",
        "quick": arguments.quick,
        **keys,
        "rows": len(rows),
        "failed": [r["name"] for r in rows if not r["ok"]],
        "seconds": round(time.perf_counter() - start, 1),
        "all_pass": bool(rows) and all(r["ok"] for r in rows) and not unknown and not missing,
    }
    if not arguments.quick and tuple(arguments.only) == SECTIONS:
        (HERE / "results.json").write_text(json.dumps(result | {"table": rows}, indent=1) + "\n")
    print(json.dumps(result))


def section(name: str):
    """The module of a section, found beside this file."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    spec = importlib.util.spec_from_file_location(f"reference_values_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data_folder() -> Path | None:
    """Where the reference data are, `None` where they are not."""
    folder = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
    return folder if folder.is_dir() else None


def print_table(rows: list[dict]) -> None:
    width = max((len(r["name"]) for r in rows), default=0)
    print(f"{'':{width}s} {'ours':>22s} {'reference':>22s} {'relative':>9s} {'allowed':>9s}")
    for r in rows:
        numbers = f"{r['ours']:22.14g} {r['reference']:22.14g} {r['relative']:9.1e} {r['tolerance']:9.1e}"
        print(f"{r['name']:{width}s} {numbers} {'' if r['ok'] else '  FAILED'}")


if __name__ == "__main__":
    main()
