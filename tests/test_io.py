"""Frames from files: labels, and everything that can be wrong with them."""

import lzma
import time

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from jaxmlip.errors import UserError
from jaxmlip.io import Record, read_frames, write_frames

HEADER = (
    'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:REF_forces:R:3 pbc="T T T" REF_energy={energy} {more}'
)


def write(path, *, frames=1, energy="-1.25", more="", row="Si 0.5 0.25 0.125 0.01 0.02 0.03", atoms=2):
    """A small extended XYZ file; the second atom is shifted by an angstrom."""
    second = row.replace("0.5", "1.5", 1)
    block = f"{atoms}\n{HEADER.format(energy=energy, more=more)}\n{row}\n{second}\n"
    path.write_text(block * frames)
    return path


def test_ref_labels_come_before_calculator_results(tmp_path):
    atoms = ase.Atoms("Si2", positions=[[0, 0, 0], [2, 0, 0]], cell=np.eye(3) * 5, pbc=True)
    results = {"energy": -1.0, "forces": np.ones((2, 3)), "stress": np.arange(6.0)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(tmp_path / "plain.xyz", atoms)
    (plain,) = read_frames(tmp_path / "plain.xyz")
    assert plain.energy == -1.0 and np.all(plain.forces == 1.0)
    assert plain.keys == {"energy": "energy", "forces": "forces", "stress": "stress"}
    assert plain.stress.tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # xx yy zz yz xz xy
    atoms.info["REF_energy"] = -7.0
    atoms.arrays["REF_forces"] = np.full((2, 3), 3.0)
    ase.io.write(tmp_path / "both.xyz", atoms)
    (both,) = read_frames(tmp_path / "both.xyz")
    assert both.energy == -7.0 and np.all(both.forces == 3.0) and both.keys["stress"] == "stress"


def test_a_key_that_the_user_names_is_the_only_one_looked_for(tmp_path):
    path = write(tmp_path / "a.xyz", more="dft_energy=-9.0")
    assert read_frames(path)[0].energy == -1.25
    assert read_frames(path, keys={"energy": "dft_energy"})[0].energy == -9.0
    (record,) = read_frames(path, keys={"energy": "absent"})
    assert record.energy is None and "dft_energy" in record.available
    with pytest.raises(UserError, match="`keys` names labels"):
        read_frames(path, keys={"virial": "v"})


def test_charges_are_a_label_of_atoms(tmp_path):
    atoms = ase.Atoms("NaCl", positions=[[0, 0, 0], [2.4, 0, 0]])
    atoms.arrays["REF_charges"] = np.array([0.9, -0.9])
    ase.io.write(tmp_path / "ions.xyz", atoms)
    (record,) = read_frames(tmp_path / "ions.xyz")
    assert record.charges.tolist() == [0.9, -0.9] and record.keys["charges"] == "REF_charges"
    atoms.arrays["REF_charges"] = np.ones((2, 3))
    ase.io.write(tmp_path / "odd.xyz", atoms)
    with pytest.raises(UserError, match=r"frame 0: REF_charges must have shape \(2,\) \[e\]; got \(2, 3\)"):
        read_frames(tmp_path / "odd.xyz")


def test_nine_and_six_stress_numbers_mean_the_same(tmp_path):
    nine = write(tmp_path / "nine.xyz", more='REF_stress="1 6 5 6 2 4 5 4 3"')
    six = write(tmp_path / "six.xyz", more='REF_stress="1 2 3 4 5 6"')
    (a,), (b,) = read_frames(nine), read_frames(six)
    assert np.array_equal(a.stress, b.stress) and a.stress[1, 2] == 4.0 and a.stress_mask.all()


def test_shear_components_are_masked_where_the_frame_says_so(tmp_path):
    path = write(tmp_path / "a.xyz", more='REF_stress="1 2 3 4 5 6" stress_offdiag_ok=F')
    assert np.array_equal(read_frames(path)[0].stress_mask, np.eye(3, dtype=bool))


def test_forces_are_read_without_constraints(tmp_path):
    atoms = ase.Atoms("Si2", positions=[[0, 0, 0], [2, 0, 0]], constraint=FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.ones((2, 3)))
    ase.io.write(tmp_path / "a.traj", atoms)
    assert np.all(atoms.get_forces()[0] == 0.0)
    assert np.all(read_frames(tmp_path / "a.traj")[0].forces == 1.0)


def test_weights_types_splits_and_charges_are_read(tmp_path):
    more = "config_type=bulk config_weight=2.0 config_forces_weight=0.5 split=valid total_charge=1"
    (record,) = read_frames(write(tmp_path / "a.xyz", more=more))
    assert (record.config_type, record.weights, record.split) == ("bulk", (2.0, 1.0, 2.0), "valid")
    assert record.charge == 1.0 and record.where.endswith("a.xyz, frame 0")


def test_a_left_handed_cell_becomes_the_same_crystal(tmp_path):
    path = write(tmp_path / "a.xyz")
    path.write_text(path.read_text().replace("4 0 0 0 4 0 0 0 4", "0 4 0 4 0 0 1 0 4"))
    (record,) = read_frames(path)
    assert record.was_left_handed and np.linalg.det(record.cell) > 0
    points = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    original = np.array([[0, 4, 0], [4, 0, 0], [1, 0, 4.0]])
    assert {tuple(p) for p in points @ original} == {tuple(p) for p in points @ record.cell}


def test_a_compressed_file_reads_like_the_plain_one(tmp_path):
    path = write(tmp_path / "a.xyz", frames=3)
    packed = tmp_path / "a.xyz.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    assert [r.energy for r in read_frames(packed)] == [-1.25] * 3
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="is it complete"):
        read_frames(packed)


def test_a_file_cut_at_any_byte_is_refused_or_loses_whole_frames_only(tmp_path):
    path = write(tmp_path / "a.xyz", frames=2)
    whole = path.read_bytes()
    frame = len(whole) // 2
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length and length % frame == 0:
            assert len(read_frames(path)) == length // frame
        else:
            with pytest.raises(UserError, match=r"a\.xyz"):
                read_frames(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("1000000000000\nx\n", "frame 0: line 1 should be a number of atoms"),
        ("5000000\nx\nSi 0 0 0\n", "declares 5000000 atoms, but 1 whole lines"),
        ("0\n\n", "number of atoms"),
        ("two\n\nSi 0 0 0\n", "number of atoms"),
    ],
)
def test_files_that_are_no_frames_are_refused_at_once(tmp_path, text, message):
    path = tmp_path / "a.xyz"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        read_frames(path)
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": "nan"}, "REF_energy is not finite"),
        ({"energy": '"high"'}, "REF_energy must be numbers"),
        ({"energy": '"1 2"'}, "REF_energy must be one number"),
        ({"row": "Si 0.5 0.25 0.125 0.01 inf 0.03"}, "REF_forces is not finite"),
        ({"row": "Si 0.5 nan 0.125 0.01 0.02 0.03"}, "positions"),
        ({"row": "Si 0.5 0.25 0.125 0.01 0.02"}, "cannot be read"),
        ({"row": "Xx 0.5 0.25 0.125 0.01 0.02 0.03"}, "frame 1"),
        ({"more": 'REF_stress="1 2 3"'}, "nine numbers"),
        ({"more": 'REF_stress="1 2 3 9 5 6 7 8 9"'}, "not symmetric"),
        ({"more": "config_weight=heavy"}, "config_weight must be a finite number"),
    ],
)
def test_a_bad_frame_is_named_with_file_and_frame(tmp_path, changes, message):
    good = write(tmp_path / "good.xyz").read_text()
    path = write(tmp_path / "bad.xyz", **changes)
    path.write_text(good + path.read_text())
    with pytest.raises(UserError, match=message) as caught:
        read_frames(path)
    assert "bad.xyz, frame 1" in str(caught.value)


def test_a_cell_without_volume_is_refused(tmp_path):
    path = write(tmp_path / "flat.xyz")
    path.write_text(path.read_text().replace("4 0 0 0 4 0 0 0 4", "4 0 0 4 0 0 0 0 4"))
    with pytest.raises(UserError, match=r"flat\.xyz, frame 0.*zero volume"):
        read_frames(path)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_frames(tmp_path / "none.xyz")
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(UserError, match="ASE cannot read it"):
        read_frames(tmp_path / "odd.json")


def test_mlearn_silicon_has_all_labels(shared_data):
    records = read_frames(shared_data / "datasets" / "mlearn" / "Si_test.xyz.xz")
    assert len(records) == 25 and all(r.has(label) for r in records for label in ("energy", "forces", "stress"))
    assert {r.config_type for r in records} == {"AIMD-NVT", "Elastic", "Surface", "Vacancy"}


def test_what_is_written_is_read_back(tmp_path):
    random = np.random.default_rng(0)
    whole = Record(
        positions=random.normal(size=(3, 3)),
        numbers=np.array([14, 8, 1], np.int32),
        cell=7.0 * np.eye(3) + 0.1,
        pbc=(True, True, True),
        charge=-1.0,
        masses=np.array([28.0, 16.0, 2.014]),
        energy=-1234.5678901,
        forces=random.normal(size=(3, 3)),
        stress=np.diag([0.01, -0.02, 0.03]) + 0.001,
        stress_mask=np.eye(3, dtype=bool),
        config_type="strain shear",
        weights=(2.0, 1.0, 0.5),
        split="train",
        charges=np.array([0.1, 0.2, -0.3]),
        info={
            "seed": 3,
            "reason": 'two\nlines, a "quote" and {braces} = all',
            "strain": [0.1, 0, 0],
            "flag": True,
            "e": "",
        },
    )
    bare = Record(np.zeros((1, 3)), np.array([1], np.int32), np.zeros((3, 3)), (False, False, False))
    write_frames(tmp_path / "both.extxyz", [whole, bare])
    one, two = read_frames(tmp_path / "both.extxyz")
    for name in ("positions", "cell", "masses", "forces", "stress", "charges", "weights", "stress_mask"):
        assert np.allclose(getattr(one, name), getattr(whole, name), rtol=1e-10), name
    assert (one.energy, one.charge, one.split, one.config_type) == (-1234.5678901, -1.0, "train", "strain shear")
    assert one.info["reason"] == "two lines, a 'quote' and {braces} = all" and one.info["seed"] == 3
    assert np.allclose(one.info["strain"], [0.1, 0, 0]) and one.info["flag"] and "e" not in one.info
    assert two.pbc == (False, False, False) and two.energy is None and np.all(two.cell == 0.0)
    write_frames(tmp_path / "again.extxyz", [one, two])
    assert (tmp_path / "again.extxyz").read_text() == (tmp_path / "both.extxyz").read_text()
