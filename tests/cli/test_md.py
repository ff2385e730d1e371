"""Molecular dynamics by command: what is written, and that nothing written is ever lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import ase.build
import ase.io
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip import simulate, units
from jaxmlip.cli.config import from_dict
from jaxmlip.cli.md import Dynamics, make_integrator
from jaxmlip.errors import UserError
from jaxmlip.interfaces import trajectory

STEPS = 60
OPTIONS = (
    "--every",
    "10",
    "--checkpoint-seconds",
    "0",
    "--dynamics.timestep-fs",
    "2",
    "--dynamics.temperature-K",
    "40",
)


@pytest.fixture
def md(argon, jaxmlip):
    """Runs `jaxmlip md` into a folder below the test's own."""

    def call(folder, *options, steps=STEPS):
        files = ("--model", argon / "argon.model", "--structure", argon / "argon.extxyz", "--output", argon / folder)
        return jaxmlip("md", *files, *OPTIONS, "--dynamics.steps", steps, *options)

    return call


def files(folder):
    """All that must be the same to the bit."""
    return {name: (folder / name).read_bytes() for name in ("trajectory.extxyz", "log.csv")}


def test_a_run_writes_what_it_says_and_a_record_of_itself(md, argon):
    code, out, err = md("whole")
    assert code == 0, err
    frames = ase.io.read(argon / "whole" / "trajectory.extxyz", index=":")
    assert [f.info["step"] for f in frames] == list(range(10, STEPS + 1, 10))
    rows = np.genfromtxt(argon / "whole" / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["time_ps"], 2e-3 * rows["step"])
    np.testing.assert_allclose(rows["potential_eV"], [f.get_potential_energy() for f in frames], atol=1e-8)
    np.testing.assert_allclose(rows["kinetic_eV"], [f.get_kinetic_energy() for f in frames], atol=1e-8)
    record = json.loads((argon / "whole" / "run.json").read_text())
    assert record["seed"] == 0 and record["versions"]["jax"] and record["device"].startswith("cpu")
    assert all(len(digest) == 64 for digest in record["inputs"].values())
    code, _, err = md("whole")
    assert code == 2 and "holds a run: continue it with `--resume`" in err


def test_a_resumed_run_is_the_same_to_the_bit(md, argon):
    assert md("whole")[0] == 0
    assert md("parts", steps=30)[0] == 0
    # What a crash may leave behind: frames and rows that no checkpoint knows of, the last ones torn.
    with open(argon / "parts" / "trajectory.extxyz", "a") as stream:
        stream.write("32\nLattice=")
    with open(argon / "parts" / "log.csv", "a") as stream:
        stream.write("40,0.08,1,2,3,4,5\n50,0.1")
    code, _, err = md("parts", "--resume")
    assert code == 0, err
    assert files(argon / "parts") == files(argon / "whole")


def test_the_written_settings_repeat_the_run(md, jaxmlip, argon):
    assert md("whole")[0] == 0
    code, _, err = jaxmlip("md", argon / "whole" / "config.toml", "--output", argon / "again")
    assert code == 0, err
    assert files(argon / "again") == files(argon / "whole")


def test_resuming_with_other_settings_or_a_damaged_checkpoint_is_refused(md, argon):
    assert md("run", steps=10)[0] == 0
    before = files(argon / "run")
    code, _, err = md("run", "--resume", "--dynamics.temperature-K", "50")
    assert code == 2 and "temperature_K is 50.0 now, but was 40.0" in err
    path = argon / "run" / "state.checkpoint"
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)
    code, _, err = md("run", "--resume")
    assert code == 2 and "is damaged" in err and "Traceback" not in err
    assert files(argon / "run") == before
    code, _, err = md("nothing", "--resume")
    assert code == 2 and "there is no run to resume" in err


def test_a_full_disk_ends_the_run_and_loses_nothing(md, argon, monkeypatch):
    assert md("whole")[0] == 0
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(trajectory.os, "fsync", full)
    code, _, err = md("full", "--every", "1")
    assert code == 1
    assert "No space left on device" in err or "the disk is full" in err
    monkeypatch.undo()
    text = (argon / "full" / "trajectory.extxyz").read_bytes()
    assert len(text) == 0 or len(ase.io.read(argon / "full" / "trajectory.extxyz", index=":")) > 0
    code, _, err = md("full", "--every", "1", "--resume")
    assert code == 0, err
    steps = [f.info["step"] for f in ase.io.read(argon / "full" / "trajectory.extxyz", index=":")]
    assert steps == list(range(1, STEPS + 1))


def test_ctrl_c_ends_with_a_checkpoint_and_code_130(md, argon):
    path = argon / "run" / "trajectory.extxyz"

    def interrupt():
        while not (path.exists() and path.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _, err = md("run", steps=10_000_000)
    thread.join()
    assert code == 130
    assert "Interrupted after step" in err and "Traceback" not in err
    last = ase.io.read(path).info["step"]
    code, _, err = md("run", "--resume", steps=last + 20)
    assert code == 0, err
    steps = [f.info["step"] for f in ase.io.read(path, index=":")]
    assert steps == list(range(10, last + 21, 10))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(md, argon):
    whole = md("whole", steps=200)
    assert whole[0] == 0, whole[2]
    names = ("--model", argon / "argon.model", "--structure", argon / "argon.extxyz", "--output", argon / "killed")
    command = [sys.executable, "-m", "jaxmlip.cli.main", "md", *map(str, names), *OPTIONS]
    path = argon / "killed" / "trajectory.extxyz"
    process = subprocess.Popen([*command, "--dynamics.steps", "100000000"], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (path.exists() and path.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
    # The checkpoint may be further than 200 steps by now: go on from it, and compare the first frames.
    head = files(argon / "whole")["trajectory.extxyz"]
    done = ase.io.read(path).info["step"] if path.stat().st_size else 0
    code, _, err = md("killed", "--resume", steps=max(200, done + 50) // 10 * 10)
    assert code == 0, err
    assert files(argon / "killed")["trajectory.extxyz"][: len(head)] == head


def test_a_slab_moves_too(jaxmlip, argon):
    slab = ase.build.fcc111("Ar", (2, 2, 3), a=5.3, vacuum=None)
    slab.pbc, slab.info = (True, True, False), {}
    ase.io.write(argon / "slab.extxyz", slab)
    names = ("--model", argon / "argon.model", "--structure", argon / "slab.extxyz", "--output", argon / "slab")
    code, _, err = jaxmlip("md", *names, *OPTIONS, "--dynamics.steps", 10)
    assert code == 0, err


ENSEMBLES = {
    "nve": simulate.NVE,
    "langevin": simulate.Langevin,
    "nose-hoover": simulate.NoseHoover,
    "csvr": simulate.CSVR,
    "brownian": simulate.Brownian,
    "npt": simulate.NPT,
    "mtk": simulate.MTK,
}


def test_each_ensemble_is_one_line_and_a_ramp_three():
    for name, kind in ENSEMBLES.items():
        integrator = make_integrator(from_dict(Dynamics, {"ensemble": name, "temperature_K": 77.0}))
        assert type(integrator) is kind
    ramp = {"temperature_end_K": 500.0, "pressure_end_GPa": 2.0, "ramp_ps": 3.0}
    integrator = make_integrator(from_dict(Dynamics, {"ensemble": "mtk", "cell": "triclinic", **ramp}))
    assert integrator.shape == "triclinic"
    assert float(integrator.temperature.stop) == 500.0
    np.testing.assert_allclose(integrator.pressure(jnp.asarray(1.5 * units.ps)), 1.0 * units.GPa)
    with pytest.raises(UserError, match="`ensemble` must be one of .*; did you mean 'nose-hoover'\\?"):
        from_dict(Dynamics, {"ensemble": "nosehoover"})


def test_weak_coupling_runs_with_a_warning(md):
    code, _, err = md("weak", "--dynamics.ensemble", "berendsen-npt", steps=10)
    assert code == 0, err
    assert "warning: Berendsen's barostat samples no ensemble" in err
