"""The tables of README.md, written from results.json between two markers."""

from pathlib import Path

MARKS = ("<!-- tables: run.py writes them -->", "<!-- end of tables -->")


def convergence_rows(table: dict, kind: str, head: str) -> list[str]:
    lines = [
        f"| cell | {head} | energy (meV/atom) | force rms (meV/A) | force max | stress max (GPa) |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        if name.startswith(kind):
            for x, v in list(row.items())[:-1]:
                numbers = f"{v['energy']:+.2f} | {v['force_rms']:.1f} | {v['force_max']:.1f}"
                lines.append(f"| {name.split(', ')[1]} | {float(x):g} | {numbers} | {v['stress_max']:.2f} |")
    return lines


def check_rows(figures: dict, convergence: dict) -> list[str]:
    eos, near = figures["eos"], figures["closest_pair"]
    low, high = eos["stress_range_GPa"]
    below, above = eos["stress_minus_dEdV_GPa"]
    rows = {
        "net force, largest": f"{figures['max_net_force_eV_A']:.1e} eV/A",
        "asymmetry of the stress, largest": f"{figures['max_stress_asymmetry_GPa']:.1e} GPa",
        f"diamond, {eos['points']} volumes: trace/3 of the stress": f"{low:+.2f} to {high:+.2f} GPa",
        "the same less dE/dV of the fit": f"{below:+.3f} to {above:+.3f} GPa",
    }
    for name, (label, finite) in convergence["finite_differences"].items():
        what, unit = name.split(", ")
        rows[f"{what} of a strained, rattled cell: label, finite difference"] = f"{label:.4f}, {finite:.4f} {unit}"
    rows["diamond: lattice constant, bulk modulus, residual of the fit"] = (
        f"{eos['lattice_constant_A']:.4f} A, {eos['bulk_modulus_GPa']:.1f} GPa, {eos['fit_rms_meV_atom']:.2f} meV/atom"
    )
    if "recomputed_frame" in figures:
        rows[f"frame {figures['recomputed_frame']} labelled again"] = (
            f"{figures['recomputed_energy_diff_meV_atom']:.1e} meV/atom, "
            f"{figures['recomputed_force_diff_eV_A']:.1e} eV/A"
        )
    rows["closest two frames of different splits (0: copies)"] = f"{near['across_splits']:.2f} ({near['pair']})"
    with_spin = convergence["isolated_atom_spin_polarised_eV"]
    rows["isolated atom: without spin (shipped), with spin"] = f"{figures['isolated_atom_eV']:.3f}, {with_spin:.3f} eV"
    rows["file"] = f"{figures['file_bytes']} bytes"
    return ["| check | figure |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]


def census_rows(figures: dict) -> list[str]:
    lines = [
        "| config_type | frames | train / valid / test | atoms | force rms (eV/A) "
        "| energy above diamond (eV/atom) | shortest distance (A) |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, v in figures["census"].items():
        low, high = v["energy_above_diamond_eV_atom"]
        near = f"{v['min_distance_A']:.2f}" if v["min_distance_A"] < 99 else "-"
        split = f"{v['train']} / {v['valid']} / {v['test']}"
        sizes = ", ".join(map(str, v["sizes"]))
        lines.append(
            f"| `{kind}` | {v['frames']} | {split} | {sizes} | {v['force_rms_eV_A']:.2f} "
            f"| {low:.3f} to {high:.3f} | {near} |"
        )
    s = figures["frames_by_split"]
    split = f"{s['train']} / {s['valid']} / {s['test']}"
    lines.append(f"| all | {figures['frames']} | {split} | {figures['atoms']} in all | | | |")
    return lines


def update(readme: Path, results: dict) -> None:
    """Replace what stands between the markers."""
    figures, convergence = results["figures"], results["convergence"]
    table = convergence["table"]
    same = next(v for k, v in table.items() if k.startswith("same crystal"))
    alike = ", ".join(f"{n} atoms {e:+.2f}" for n, e in same.items())
    parts = [
        ["### Cutoff: change against 35 Ry, at 2 x 2 x 2"],
        convergence_rows(table, "cutoff", "Ry"),
        ["### k points: change against 4 x 4 x 4, at 18 Ry"],
        convergence_rows(table, "k points", "n"),
        [f"The same perfect crystal in different cells, meV/atom above 8 atoms: {alike}."],
        ["### Checks"],
        check_rows(figures, convergence),
        ["### Frames"],
        census_rows(figures),
    ]
    body = "\n\n".join("\n".join(p) for p in parts)
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n\n{body}\n\n{MARKS[1]}{after}")
