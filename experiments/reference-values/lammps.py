"""Classical potentials against LAMMPS, whose numbers `make_lammps.py` has written; key `lammps_max_rel` <= 1e-7."""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

import equinox as eqx
import numpy as np

from jaxmlip.elements import NUMBERS
from jaxmlip.energy import EAM, StillingerWeber, Tersoff, energy_forces_stress
from jaxmlip.graph import batch
from jaxmlip.system import make_system

REFERENCE = Path(__file__).with_name("lammps_reference.json")
ARCHIVE = Path("potentials", "lammps", "lammps_potentials.tar.xz")  # the files that LAMMPS is distributed with
TOLERANCE = 1e-7
derivatives = eqx.filter_jit(energy_forces_stress)


def potential(case: dict, folder: Path):
    """The energy that the LAMMPS commands of a case describe."""
    paths = [folder / file for file in case["files"]]
    for path in paths:
        if hashlib.sha256(path.read_bytes()).hexdigest() != case["files"][path.name]:
            raise ValueError(f"{path.name} is not the file that LAMMPS was given.")
    name = case["name"]
    if name.startswith("eam alloy"):
        return EAM.from_setfl(paths[0], elements=sorted(set(case["symbols"])))
    if name.startswith("eam fs"):
        return EAM.from_finnis_sinclair(paths[0])
    if name.startswith("eam funcfl"):
        return EAM.from_funcfl(*paths)
    if name.startswith("sw"):
        return StillingerWeber.from_file(paths[0], elements=sorted(set(case["symbols"])))
    if name.startswith("tersoff"):
        labels = {"Si(D)": "Si", "Ge": "Ge"} if name == "tersoff Si Ge" else sorted(set(case["symbols"]))
        return Tersoff.from_file(paths[0], elements=labels)
    raise ValueError(f"No energy for {name}.")


def compare(energy, case: dict) -> dict[str, tuple[float, float, float]]:
    """Energy, the largest force and the largest stress component as (ours, theirs, largest relative difference)."""
    system = make_system(case["positions"], [NUMBERS[s] for s in case["symbols"]], cell=case["cell"])
    result = derivatives(energy, batch(system, energy.cutoff))
    stress = np.asarray(result.stress[0])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    pairs = {"energy": (float(result.energy[0]), case["energy"])}
    pairs |= {"forces": (np.asarray(result.forces), case["forces"]), "stress": (stress, case["stress"])}
    found = {}
    for what, (ours, theirs) in pairs.items():
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        largest = np.abs(theirs).max()
        found[what] = np.abs(ours).max(), largest, np.abs(ours - theirs).max() / largest
    return {key: tuple(map(float, value)) for key, value in found.items()}


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    """All cases; `quick` leaves the disordered structures out. Without `data` there is nothing to compare with."""
    reference = json.loads(REFERENCE.read_text())
    rows = []
    if data is None or not (data / ARCHIVE).is_file():
        raise FileNotFoundError(f"{ARCHIVE} is needed, below the folder of reference data (JAXMLIP_DATA).")
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(data / ARCHIVE) as archive:
            archive.extractall(scratch, filter="data")
        energies = {}
        for case in reference["cases"]:
            if quick and case["structure"] == "disordered":
                continue
            if case["name"] not in energies:
                energies[case["name"]] = potential(case, Path(scratch))
            for what, (ours, theirs, difference) in compare(energies[case["name"]], case).items():
                rows.append(
                    {
                        "name": f"{case['name']}, {case['structure']}, {what}",
                        "ours": ours,
                        "reference": theirs,
                        "relative": difference,
                        "tolerance": TOLERANCE,
                        "ok": difference <= TOLERANCE,
                    }
                )
    return {"lammps_max_rel": max(row["relative"] for row in rows)}, rows
