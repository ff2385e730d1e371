"""Sound labels raise no alarm; every planted fault does, and is called what it is."""

import dataclasses
import importlib.resources
import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import jaxmlip.data
from jaxmlip import units
from jaxmlip.data import Dataset, read_dataset
from jaxmlip.data.audit import audit
from jaxmlip.data.fingerprint import fingerprint
from jaxmlip.errors import UserError
from jaxmlip.io import Record


@pytest.fixture(scope="module")
def silicon():
    return read_dataset(str(importlib.resources.files(jaxmlip.data) / "silicon_pbe.extxyz.xz"))


@pytest.fixture(scope="module")
def springs():
    """Twelve atoms on springs in a sheared box that changes a little: energies, forces and stress that agree."""
    rng = np.random.default_rng(0)
    grid = np.array([(a / 2, b / 2, c / 3) for a in range(2) for b in range(2) for c in range(3)])
    sites = grid + 0.04 * rng.uniform(size=(12, 3))
    box = np.array([[6.0, 0.0, 0.0], [1.0, 6.5, 0.0], [0.5, -0.7, 7.0]])
    elastic = rng.normal(size=(6, 6))
    elastic = 3.0 * (elastic @ elastic.T + 6.0 * np.eye(6))  # eV per strain squared
    records = []
    for i in range(40):
        strain = 0.006 * rng.normal(size=(3, 3)) * (i % 2)
        strain = 0.5 * (strain + strain.T)
        moves = 0.04 * rng.normal(size=(12, 3)) * (1 - i % 2)
        moves -= moves.mean(axis=0)
        cell = box @ (np.eye(3) + strain)
        voigt = np.array(
            [strain[0, 0], strain[1, 1], strain[2, 2], 2 * strain[1, 2], 2 * strain[0, 2], 2 * strain[0, 1]]
        )
        xx, yy, zz, yz, xz, xy = elastic @ voigt / abs(np.linalg.det(cell))
        records.append(
            Record(
                positions=sites @ cell + moves,
                numbers=np.full(12, 18),
                cell=cell,
                pbc=(True,) * 3,
                energy=-10.0 + 0.5 * 8.0 * float(np.sum(moves**2)) + 0.5 * float(voigt @ elastic @ voigt),
                forces=-8.0 * moves,
                stress=np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
                path="springs.xyz",
                index=i,
                info={"functional": "PBE", "kpoints": np.array([4, 4, 4])},
            )
        )
    return Dataset(records)


def changed(dataset, which, **fields):
    """The data set with other fields, made from the record, in the frames that `which` chooses."""
    return Dataset(
        [
            dataclasses.replace(r, **{name: make(r) for name, make in fields.items()}) if which(i) else r
            for i, r in enumerate(dataset)
        ]
    )


def rotated(record):
    """The same structure, turned, shifted, and with its atoms in another order."""
    turn = Rotation.random(random_state=3).as_matrix()
    order = np.random.default_rng(1).permutation(len(record))
    return dataclasses.replace(
        record,
        positions=(record.positions + [0.3, 0.1, -0.7])[order] @ turn,
        cell=record.cell @ turn,
        forces=record.forces[order] @ turn,
        stress=turn.T @ record.stress @ turn,
        index=record.index + 1000,
    )


def checks(dataset):
    return {f.check for f in audit({"all": dataset}).alarms}


def test_sound_labels_raise_no_alarm(silicon, springs):
    for data in (silicon, springs):
        found = audit({"all": data})
        assert not found.alarms, [str(f) for f in found.alarms]
    slopes = audit({"all": springs}).facts["energy differences over work"]
    for name in ("forces", "stress"):
        assert abs(slopes[f"{name} of springs.xyz (default)"]["slope"] - 1.0) < 0.02


def everywhere(_):
    return True


FAULTS = {
    "functional": (lambda i: i in (3, 8), {"info": lambda r: {**r.info, "functional": "LDA"}}, "functional"),
    "k points": (lambda i: i < 4, {"info": lambda r: {**r.info, "kpoints": np.array([2, 2, 2])}}, "k points further"),
    "silent frame": (lambda i: i == 5, {"info": lambda r: {}}, "do not say"),
    "missing forces": (lambda i: i in (2, 6), {"forces": lambda r: None}, "2 of 40 frames have no forces"),
    "zero stress": (everywhere, {"stress": lambda r: np.zeros((3, 3))}, "stress of all 40 frames is exactly zero"),
    "net force": (lambda i: i == 7, {"forces": lambda r: r.forces + [0.0, 0.05, 0.0]}, "net force"),
    "force sign": (everywhere, {"forces": lambda r: -r.forces}, "forces say .*, of the other sign"),
    "Hartree/Bohr": (
        everywhere,
        {"forces": lambda r: r.forces * units.bohr / units.hartree},
        "forces in Hartree/Bohr",
    ),
    "kcal/mol": (everywhere, {"forces": lambda r: r.forces / units.kcal_per_mol}, "forces in kcal/mol"),
    "stress sign": (everywhere, {"stress": lambda r: -r.stress}, "stress say .*, of the other sign"),
    "GPa": (everywhere, {"stress": lambda r: r.stress / units.GPa}, "stress in GPa"),
    "order of stress": (
        everywhere,
        {"stress": lambda r: swapped(r.stress)},
        "order of stress",
    ),
    "large force": (lambda i: i == 4, {"forces": lambda r: 3000.0 * r.forces}, "large force"),
    "energy": (lambda i: i == 9, {"energy": lambda r: r.energy + 12.0}, "energies of 1 frames"),
}


def swapped(stress):
    """yz and xy exchanged, as between VASP's order and Voigt's."""
    out = stress.copy()
    out[1, 2] = out[2, 1] = stress[0, 1]
    out[0, 1] = out[1, 0] = stress[1, 2]
    return out


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_called_what_they_are(fault, springs):
    which, fields, pattern = FAULTS[fault]
    found = audit({"all": changed(springs, which, **fields)})
    assert any(re.search(pattern, str(f)) for f in found.alarms), [str(f) for f in found.alarms]


def test_copied_forces_are_found(springs):
    data = changed(springs, lambda i: i == 6, forces=lambda r: springs[2].forces)
    assert any("forces of another structure" in str(f) for f in audit({"all": data}).alarms)


def test_a_turned_frame_with_another_energy_is_found(silicon):
    twin = rotated(silicon[100])
    assert checks(silicon + Dataset([twin])) == set()
    other = dataclasses.replace(twin, energy=twin.energy + 0.02 * len(twin))
    assert checks(silicon + Dataset([other])) == {"duplicates"}
    notes = [f for f in audit({"all": silicon + Dataset([twin])}).findings if f.level == "note"]
    assert any("equal structures with equal energies" in f.text for f in notes)


def test_leakage_is_found_in_any_orientation(silicon):
    train, test = silicon[:80], silicon[80:] + Dataset([rotated(silicon[60])])
    found = audit({"train": train, "test": test}).alarms
    assert [f.check for f in found] == ["leakage"]
    assert "frame 60 and" in found[0].frames[0] and "frame 1060" in found[0].frames[0]


def test_close_atoms_are_found(silicon):
    data = changed(silicon, lambda i: i == 30, positions=lambda r: 0.45 * r.positions, cell=lambda r: 0.45 * r.cell)
    assert "close atoms" in checks(data)


def test_a_torque_is_found():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(5, 3)) * 2.0
    forces = np.cross([0.0, 0.0, 0.3], positions - positions.mean(axis=0))
    record = Record(positions, np.full(5, 6), np.zeros((3, 3)), (False,) * 3, energy=0.0, forces=forces)
    assert "net torque" in checks(Dataset([record]))


def test_the_fingerprint_knows_neither_orientation_nor_order_nor_cell(silicon):
    record = silicon[100]
    x, y = fingerprint(record), fingerprint(rotated(record))
    np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-9)
    moved = dataclasses.replace(record, positions=record.positions + 1e-2 * np.eye(len(record), 3))
    assert np.linalg.norm(fingerprint(moved) - x) > 1e-4 * np.linalg.norm(x)


def test_no_frames_are_refused():
    with pytest.raises(UserError, match="no frames"):
        audit({"all": Dataset([])})


def test_a_set_without_labels_is_said_to_be_one_and_rare_elements_are_named(springs):
    bare = [dataclasses.replace(r, energy=None, forces=None, stress=None) for r in springs]
    odd = np.append(np.full(11, 18), 36)
    found = audit({"all": Dataset([dataclasses.replace(r, numbers=odd) if r.index < 2 else r for r in bare])})
    assert found.alarms == ()
    said = {f.check: f.text for f in found.findings}
    assert said["labels"].startswith("no frame has a label") and said["rare elements"].startswith("Kr is in 2 of 40")
