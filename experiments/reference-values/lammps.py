"""Classical potentials against LAMMPS, whose numbers `make_lammps.py` has written; key `lammps_max_rel` <= 1e-7."""

import hashlib
import json
import math
import tarfile
import tempfile
from pathlib import Path

import equinox as eqx
import numpy as np
from rows import row, worst

from jaxmlip import units
from jaxmlip.elements import NUMBERS
from jaxmlip.energy import (
    EAM,
    Ewald,
    Morse,
    SpeciesCharges,
    StillingerWeber,
    Tersoff,
    buckingham,
    energy_forces_stress,
    plan_ewald,
)
from jaxmlip.graph import batch
from jaxmlip.system import make_system

REFERENCE = Path(__file__).with_name("lammps_reference.json")
ARCHIVE = Path("potentials", "lammps", "lammps_potentials.tar.xz")  # the files that LAMMPS is distributed with
TOLERANCE = 1e-7
COULOMB = 14.399645  # eV Å, what LAMMPS takes for e^2 / (4 pi epsilon_0) in units `metal`
SLOTS = 128  # at least as many neighbors, so that few programs are compiled
derivatives = eqx.filter_jit(energy_forces_stress)


def measure(quick: bool, data: Path | None) -> tuple[dict, list[dict]]:
    """All structures of all potentials; `quick` takes the triclinic one of six. Nothing without the potential files."""
    if data is None or not (data / ARCHIVE).is_file():
        return {"lammps_max_rel": None}, []
    cases = json.loads(REFERENCE.read_text())["cases"]
    if quick:
        some = {
            "eam alloy Al Cu",
            "eam fs Cu Zr",
            "eam funcfl Ni Cu",
            "tersoff Si Ge",
            "morse Cu",
            "buckingham ewald Mg O",
        }
        cases = [case for case in cases if case["structure"] == "triclinic" and case["name"] in some]
    rows, made = [], {}
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(data / ARCHIVE) as archive:
        archive.extractall(scratch, filter="data")
        for case in cases:
            name = case["name"]
            if name not in made:
                made[name] = potential(case, Path(scratch))
            rows += compare(made[name], case)
    return {"lammps_max_rel": worst(rows)}, rows


def potential(case: dict, folder: Path):
    """The energy that the LAMMPS commands of a case describe."""
    paths = [folder / file for file in case["files"]]
    for path in paths:
        if hashlib.sha256(path.read_bytes()).hexdigest() != case["files"][path.name]:
            raise ValueError(f"{path.name} is not the file that LAMMPS was given.")
    name, elements = case["name"], sorted(set(case["symbols"]))
    if name.startswith("eam alloy"):
        return EAM.from_setfl(paths[0], elements=elements)
    if name.startswith("eam fs"):
        return EAM.from_finnis_sinclair(paths[0], elements=elements)
    if name.startswith("eam funcfl"):
        return EAM.from_funcfl(*paths)
    if name.startswith("sw"):
        return StillingerWeber.from_file(paths[0], elements=elements)
    if name.startswith("tersoff"):
        return Tersoff.from_file(paths[0], elements={"Si(D)": "Si", "Ge": "Ge"} if "Ge" in elements else elements)
    if name.startswith("morse"):
        return Morse(0.3429, 1.3588, 2.866, 7.0, truncation="cut")
    if name.startswith("buckingham ewald"):
        a = {"Mg-Mg": 0.0, "Mg-O": 1428.5, "O-O": 22764.3}
        rho = {"Mg-Mg": 0.3, "Mg-O": 0.2945, "O-O": 0.149}
        c = {"Mg-Mg": 0.0, "Mg-O": 0.0, "O-O": 20.37}
        charge = 2.0 * math.sqrt(COULOMB / units.coulomb)
        plan = plan_ewald(structure(case), cutoff=8.0, accuracy=1e-12, margin=1.2)
        return buckingham(a, rho, c, 8.0, truncation="cut") + Ewald(SpeciesCharges({"Mg": charge, "O": -charge}), plan)
    raise ValueError(f"There is no energy for {name}.")


def structure(case: dict):
    """The atoms of a case."""
    return make_system(case["positions"], [NUMBERS[s] for s in case["symbols"]], cell=case["cell"])


def compare(energy, case: dict) -> list[dict]:
    """Energy, forces and stress of one structure; forces and stress relative to their largest component."""
    system = structure(case)
    graph = batch(system, energy.cutoff)
    more = -(-graph.senders.shape[0] // SLOTS) * SLOTS
    result = derivatives(energy, batch(system, energy.cutoff, neighbors=more))
    stress = np.asarray(result.stress[0])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    name = f"{case['name']}, {case['structure']}"
    rows = [row(f"{name}, energy [eV]", result.energy[0], case["energy"], TOLERANCE)]
    for what, ours, theirs in (("forces", result.forces, case["forces"]), ("stress", stress, case["stress"])):
        difference = np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(theirs).max()
        rows.append(row(f"{name}, {what}", 1.0 + difference, 1.0, TOLERANCE))
    return rows
