"""Labelling: what calculators say, what they fail at, and going on after a stop."""

import os
import signal
import time

import numpy as np
import pytest
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes

from jaxmlip.data.generate import displaced, isolated_atom, repeat
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.interfaces.label import frame_key, label
from jaxmlip.interfaces.workers import open_energy
from jaxmlip.io import Record, read_frames

ENERGY = LennardJones(0.0104, 3.4, 5.0)


class Odd(AseCalculator):
    """Harmonic wells, and failures where `faults` says so by the number of atoms."""

    implemented_properties = ("energy", "forces")  # noqa: RUF012

    def __init__(self, faults=None):
        super().__init__()
        self.faults, self.calls = faults or {}, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        fault = self.faults.get(len(atoms), "")
        if fault == "raise":
            raise RuntimeError("no convergence")
        if fault == "hang":
            time.sleep(600)
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        forces = -np.asarray(atoms.positions) + (1e4 if fault == "huge" else 0.0)
        self.results = {"energy": 0.5 * float(np.sum(atoms.positions**2)), "forces": forces}
        if fault == "nan":
            self.results["energy"] = np.nan
        if fault == "nan forces":
            self.results["forces"] = np.full_like(forces, np.nan)
        if fault == "short":
            self.results["forces"] = forces[:-1]


def troubled():
    """What the processes open: one of the frames hangs, another one kills its process."""
    return Odd({2: "hang", 3: "die", 4: "raise", 5: "nan"})


def hopeless():
    raise OSError("no licence")


@pytest.fixture
def chain():
    """Frames of 1 to 7 atoms."""
    return [
        Record(2.0 * np.arange(3 * n).reshape(n, 3), np.full(n, 18, np.int32), 40.0 * np.eye(3), (True, True, True))
        for n in range(1, 8)
    ]


def test_labels_of_an_energy_are_its_own(chain, tmp_path):
    crystal = repeat(
        Record(2.65 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0.0]]), np.full(4, 18, np.int32),
               5.3 * np.eye(3), (True, True, True)), (2, 1, 1))  # fmt: skip
    moved = displaced(crystal, 0.1 * np.random.default_rng(0).standard_normal((8, 3)), "rattle_300K", temperature_K=300)
    found = label([moved, isolated_atom(18)], ENERGY, tmp_path / "out.extxyz")
    assert not found.failed
    one, alone = read_frames(tmp_path / "out.extxyz")
    from jaxmlip.energy import energy_forces_stress
    from jaxmlip.graph import batch

    expected = energy_forces_stress(ENERGY, batch(moved.system, 5.0))
    assert one.energy == pytest.approx(float(expected.energy[0]), rel=1e-10)
    assert np.allclose(one.forces, expected.forces, atol=1e-10) and np.allclose(one.stress, expected.stress[0])
    assert one.config_type == "rattle_300K" and one.info["temperature_k"] == 300
    assert one.info["label_source"] == "LennardJones"
    assert alone.energy == 0.0 and alone.stress is None, "no stress without periodicity"


def test_what_is_no_label_is_set_aside_with_the_reason(chain, tmp_path):
    faults = {1: "raise", 2: "nan", 3: "nan forces", 4: "short", 5: "huge"}
    found = label(chain, Odd(faults), tmp_path / "out.extxyz")
    assert [len(r) for r in found.records] == [6, 7]
    reasons = dict(found.failed)
    for index, words in enumerate(
        ("no convergence", "energy is not finite", "forces are not finite", "shape", "larger")
    ):
        assert words in reasons[index]
    aside = read_frames(tmp_path / "failed.extxyz")
    assert [len(r) for r in aside] == [1, 2, 3, 4, 5] and "RuntimeError" in aside[0].info["label_failure"]
    assert all(r.energy is None for r in aside)
    assert "1 failed: RuntimeError: no convergence" in found.summary()


def test_nothing_is_labelled_twice(chain, tmp_path):
    first, second = Odd({3: "raise"}), Odd()
    label(chain[:4], first, tmp_path / "out.extxyz")
    found = label([*chain, chain[0]], second, tmp_path / "out.extxyz")
    assert first.calls >= 4 and [len(r) for r in found.records] == [1, 2, 4, 5, 6, 7] and found.resumed == 3
    once = Odd()
    label(chain[4:], once, tmp_path / "other.extxyz")
    assert second.calls == once.calls, "only the three new ones were asked for"


def test_a_torn_end_is_mended(chain, tmp_path):
    path = tmp_path / "out.extxyz"
    label(chain, Odd(), path)
    whole = path.read_text()
    for cut in (len(whole) - 3, whole.rindex("\n7\n") + 2, whole.rindex("\n7\n") + 40):
        path.write_text(whole[:cut])
        again = Odd()
        label(chain, again, path)
        assert path.read_text() == whole and again.calls <= 3


def test_a_key_is_that_of_the_structure(chain, tmp_path):
    label(chain[:2], Odd(), tmp_path / "out.extxyz")
    for before, after in zip(chain, read_frames(tmp_path / "out.extxyz"), strict=False):
        assert frame_key(before) == frame_key(after) == after.info["frame_key"]
    assert len({frame_key(r) for r in chain}) == 7


def test_processes_that_hang_or_die_are_replaced(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    found = label(chain, "test_label:troubled", tmp_path / "out.extxyz", workers=2, timeout=2.0)
    assert [len(r) for r in found.records] == [1, 6, 7]
    reasons = dict(found.failed)
    assert "no labels within 2 s" in reasons[1] and "died (exit code -9)" in reasons[2]
    assert "no convergence" in reasons[3] and "not finite" in reasons[4]
    assert not (tmp_path / "labelling").exists(), "empty folders of the processes go"


def test_a_labeller_that_cannot_be_made_is_no_failure_of_frames(chain, tmp_path):
    with pytest.raises(UserError, match="no licence"):
        label(chain, "test_label:hopeless", tmp_path / "out.extxyz")
    assert not (tmp_path / "failed.extxyz").exists()


def test_failures_only_stop_the_labelling(tmp_path):
    many = [displaced(isolated_atom(18), np.full((1, 3), 0.1 * k), "moved") for k in range(30)]
    with pytest.raises(UserError, match="first 10 frames all failed.*no convergence"):
        label(many, Odd({1: "raise"}), tmp_path / "out.extxyz")


def test_bad_input_is_refused(chain, tmp_path):
    with pytest.raises(UserError, match="no structures"):
        label([], Odd(), tmp_path / "out.extxyz")
    with pytest.raises(UserError, match="must be positive"):
        label(chain, Odd(), tmp_path / "out.extxyz", workers=0)
    with pytest.raises(UserError, match="energy or an ASE calculator"):
        label(chain, 3, tmp_path / "out.extxyz")
    (tmp_path / "foreign.extxyz").write_text('1\nLattice="9 0 0 0 9 0 0 0 9"\nAr 0 0 0\n')
    with pytest.raises(UserError, match="not made by labelling"):
        label(chain, Odd(), tmp_path / "foreign.extxyz")


def test_names_of_labellers(tmp_path):
    from jaxmlip.models.pretrained import save

    save(tmp_path / "lj.model", ENERGY)
    assert isinstance(open_energy(str(tmp_path / "lj.model")), LennardJones)
    for name, message in (("nowhere.model", "nowhere"), ("json:nothing", "nothing"), ("no_module:f", "no_module")):
        with pytest.raises(UserError, match=message):
            open_energy(name)
