"""Kill -9 in the middle of dynamics: nothing is lost, torn or doubled, and the end is the same to the bit."""

import os
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest

SCRIPT = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from jaxmlip import units
from jaxmlip.energy import LennardJones
from jaxmlip.interfaces.trajectory import ExtxyzWriter
from jaxmlip.simulate import Langevin, load_state, run, save_state
from jaxmlip.system import make_system

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
lj = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=5.0, onset=0.7)
bath = Langevin(2.0 * units.fs, 80.0, 0.01 / units.fs)
writer = ExtxyzWriter(folder / "t.extxyz", timestep=2.0 * units.fs)
if (folder / "state").exists():
    state, known = load_state(folder / "state")
    writer.rewind(known["writer"])
else:
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    system = make_system(5.4 * corners, [18] * 4, cell=[5.4] * 3)
    state = bath.init(lj, system, key=jax.random.key(0))
    save_state(folder / "state", state, writer=0)
run(bath, lj, state, steps=steps - int(state.step), every=5, writer=writer, checkpoint=folder / "state",
    checkpoint_seconds=0.0)
"""


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_left_alone(tmp_path):
    whole, killed, steps = tmp_path / "whole", tmp_path / "killed", "60000"
    for folder in (whole, killed):
        folder.mkdir()
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, str(whole), steps], check=True)
    rng, kills = np.random.default_rng(0), 0
    for _ in range(4):
        process = subprocess.Popen([*command, str(killed), steps])
        before = (killed / "state").stat().st_mtime_ns if (killed / "state").exists() else 0
        while process.poll() is None and (
            not (killed / "state").exists() or (killed / "state").stat().st_mtime_ns == before
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.6))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 0, "every run had ended before it was killed"
    subprocess.run([*command, str(killed), steps], check=True)
    assert (killed / "t.extxyz").read_bytes() == (whole / "t.extxyz").read_bytes()
    assert (killed / "state").read_bytes() == (whole / "state").read_bytes()
    steps_read = [a.info["step"] for a in ase.io.read(killed / "t.extxyz", ":50")]
    assert steps_read == list(range(5, 251, 5))
