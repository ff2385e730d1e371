"""`jaxmlip audit`: exit codes, the report, and bad input."""

import json

import ase.io


def test_sound_labels_pass_and_a_copy_with_other_labels_does_not(labelled, tmp_path, jaxmlip):
    code, text, err = jaxmlip("audit", labelled, "--output", tmp_path / "out")
    assert code == 0, text + err
    assert "No alarms." in text and "elements" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Nothing was found." in page and page.count("<img") == 2
    frames = ase.io.read(labelled, ":")
    twin = frames[3].copy()
    twin.info["REF_energy"] += 1.0
    ase.io.write(labelled, [*frames, twin])
    code, text, _ = jaxmlip("audit", labelled, "--output", tmp_path / "out")
    assert code == 1
    assert "equal structures with other energies" in text and "frame 20" in text and "1 alarm" in text
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert any(f["check"] == "duplicates" for f in record["findings"])


def test_a_test_file_is_compared_with_the_others(labelled, tmp_path, jaxmlip):
    test = tmp_path / "test.extxyz"
    ase.io.write(test, ase.io.read(labelled, "4:6"))
    code, text, _ = jaxmlip("audit", labelled, "--test", test)
    assert code == 1 and "2 structures are in two of train and test" in text


def test_files_that_cannot_be_read_are_refused(tmp_path, jaxmlip):
    (tmp_path / "empty.xyz").write_text("")
    for name in ("empty.xyz", "absent.xyz"):
        code, _, err = jaxmlip("audit", tmp_path / name)
        assert code == 2 and name in err and "Traceback" not in err
