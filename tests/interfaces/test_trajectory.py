"""Trajectory files: read back by ASE, cut back to checkpoints, whole whatever happens."""

import errno
import os

import ase.io
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import netcdf_file

from jaxmlip import units
from jaxmlip.interfaces.trajectory import ExtxyzWriter, NetcdfWriter
from jaxmlip.simulate import Frame, Writer
from jaxmlip.system import make_system

DT = 2.0 * units.fs
CELL = np.array([[6.0, 0.2, -0.1], [1.0, 7.0, 0.3], [-0.5, 0.4, 8.0]])


@pytest.fixture
def system():
    return make_system(np.array([[0.1, 0.2, 0.3], [3.0, 3.5, 4.0], [7.5, -1.0, 2.0]]), [14, 8, 1], cell=CELL)


def frames(system, steps):
    rng = np.random.default_rng(4)
    make = lambda: rng.normal(size=(3, 3))  # noqa: E731
    return [
        Frame(
            np.asarray(s), np.asarray(system.positions) + 0.1 * make(), make(), CELL * (1 + 1e-3 * s), -1.5 * s, make()
        )
        for s in steps
    ]


def writers(folder, system):
    return {
        "extxyz": ExtxyzWriter(folder / "t.extxyz", timestep=DT),
        "netcdf": NetcdfWriter(folder / "t.nc", system, timestep=DT),
    }


def test_extended_xyz_keeps_everything(tmp_path, system):
    writer = writers(tmp_path, system)["extxyz"]
    written = frames(system, [10, 20])
    writer.write(system, written)
    for atoms, frame in zip(ase.io.read(tmp_path / "t.extxyz", ":"), written, strict=True):
        np.testing.assert_allclose(atoms.positions, frame.positions, rtol=1e-9)
        np.testing.assert_allclose(atoms.get_momenta(), frame.momenta, rtol=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), frame.forces, rtol=1e-9)
        np.testing.assert_allclose(atoms.cell, frame.cell, rtol=1e-9)
        assert atoms.get_potential_energy() == frame.energy
        assert atoms.info["step"] == int(frame.step) and atoms.info["time_fs"] == pytest.approx(2.0 * int(frame.step))
        assert atoms.get_chemical_symbols() == ["Si", "O", "H"] and atoms.pbc.all()


@pytest.fixture
def netcdf(tmp_path, system):
    writer = writers(tmp_path, system)["netcdf"]
    written = frames(system, [10, 20, 30])
    writer.write(system, written[:1])
    writer.write(system, written[1:])
    return tmp_path / "t.nc", written


def test_netcdf_follows_the_amber_convention(netcdf, system):
    path, written = netcdf
    with netcdf_file(path, mmap=False) as file:
        assert file.Conventions == b"AMBER" and file.ConventionVersion == b"1.0"
        read = {name: v[:].copy() for name, v in file.variables.items()}
        assert file.variables["velocities"].units == b"angstrom/picosecond"
        assert file.variables["cell_angles"].dimensions == ("frame", "cell_angular")
    assert read["atom_types"].tolist() == [14, 8, 1]
    np.testing.assert_allclose(read["time"], [0.02, 0.04, 0.06], rtol=1e-6)
    masses = np.asarray(system.masses)[:, None]
    for i, frame in enumerate(written):
        x, y = read["coordinates"][i].astype(float), frame.positions
        np.testing.assert_allclose(np.linalg.norm(x - x[:1], axis=1), np.linalg.norm(y - y[:1], axis=1), rtol=1e-6)
        speeds = np.linalg.norm(frame.momenta / masses, axis=1) * units.ps
        np.testing.assert_allclose(np.linalg.norm(read["velocities"][i], axis=1), speeds, rtol=1e-6)


def test_ase_reads_netcdf(netcdf, system):
    from ase.io.netcdftrajectory import NetCDFTrajectory

    path, written = netcdf
    with NetCDFTrajectory(str(path)) as trajectory:
        assert len(trajectory) == 3
        for atoms, frame in zip(trajectory, written, strict=True):
            expected = ase.Atoms("SiOH", positions=frame.positions, cell=frame.cell, pbc=True)
            assert atoms.get_atomic_numbers().tolist() == [14, 8, 1]
            np.testing.assert_allclose(atoms.cell.cellpar(), expected.cell.cellpar(), rtol=1e-9)
            fractions = atoms.get_scaled_positions(wrap=False)
            np.testing.assert_allclose(fractions, expected.get_scaled_positions(wrap=False), atol=1e-6)


@pytest.mark.parametrize("kind", ["extxyz", "netcdf"])
def test_a_file_is_cut_back_to_a_checkpoint_and_continued(tmp_path, system, kind):
    writer = writers(tmp_path, system)[kind]
    assert isinstance(writer, Writer)
    all_frames = frames(system, [10, 20, 30, 40])
    writer.write(system, all_frames)
    whole = writer.path.read_bytes()
    writer.rewind(0)
    writer.write(system, all_frames[:2])
    position = writer.position()
    writer.write(system, all_frames[2:3])
    with open(writer.path, "ab") as file:  # a frame that a killed process tore
        file.write(whole[-37:])
    again = writers(tmp_path, system)[kind]
    again.rewind(position)
    again.write(system, all_frames[2:])
    assert writer.path.read_bytes() == whole
    with pytest.raises(ValueError, match="checkpoint knows of"):
        again.rewind(10**6)


@pytest.mark.parametrize("kind", ["extxyz", "netcdf"])
def test_a_full_disk_leaves_whole_frames(tmp_path, system, kind, monkeypatch):
    writer = writers(tmp_path, system)[kind]
    writer.write(system, frames(system, [10, 20]))
    before = writer.path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write(system, frames(system, [30]))
    assert writer.path.read_bytes() == before


def test_another_system_does_not_continue_a_file(tmp_path, system):
    writers(tmp_path, system)
    other = make_system(jnp.zeros((1, 3)), [14], cell=CELL)
    with pytest.raises(ValueError, match="no trajectory of these 1 atoms"):
        NetcdfWriter(tmp_path / "t.nc", other, timestep=DT)
