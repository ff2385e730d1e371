"""What the tests of the commands share: a model file, a structure, and `jaxmlip` called in this process."""

import ase.build
import ase.io
import pytest

from jaxmlip.cli import settings
from jaxmlip.cli.main import main
from jaxmlip.energy import AtomicReferences, LennardJones
from jaxmlip.interfaces.ase import Calculator
from jaxmlip.models.pretrained import save


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """The cache of compiled programs stays as the tests have it."""
    monkeypatch.setattr(settings, "cache_folder", lambda: None)


@pytest.fixture
def argon(tmp_path):
    """A model file that knows argon only, and a structure with 32 atoms."""
    save(tmp_path / "argon.model", LennardJones(0.0104, 3.4, 5.0) + AtomicReferences({18: -1.0}))
    atoms = ase.build.bulk("Ar", "fcc", 5.3, cubic=True) * (2, 2, 2)
    ase.io.write(tmp_path / "argon.extxyz", atoms)
    return tmp_path


@pytest.fixture
def labelled(tmp_path):
    """Twenty frames of four argon atoms with Lennard-Jones labels."""
    calc = Calculator(LennardJones(0.0104, 3.4, 5.0))
    frames = []
    for seed in range(20):
        atoms = ase.build.bulk("Ar", "fcc", 5.3, cubic=True)
        atoms.rattle(0.15, seed=seed)
        atoms.calc = calc
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
        frames.append(atoms)
    ase.io.write(tmp_path / "argon.extxyz", frames)
    return tmp_path / "argon.extxyz"


@pytest.fixture
def jaxmlip(capfd):
    """Runs a command; gives its exit code, standard output and standard error."""

    def call(*argv):
        capfd.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        return code, out, err

    return call
