"""What is measured: energies, and crystals of any size for them."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np

from jaxmlip.energy import AbstractEnergy, LennardJones
from jaxmlip.errors import UserError
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
PARAMS = HERE.parent / "mlearn" / "params"
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
CHECKPOINT = DATA / "potentials" / "nequix" / "nequix-mp-1.nqx"
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
DIAMOND = np.concatenate([FCC, FCC + 0.25])


@dataclasses.dataclass(frozen=True)
class Case:
    """An energy, the crystal for it (atomic number, lattice constant [Å]), and how it is set in motion."""

    energy: AbstractEnergy
    number: int = 14
    constant: float = 5.431
    timestep_fs: float = 1.0
    temperature: float = 300.0


def cases() -> tuple[dict[str, Case], dict[str, str]]:
    """What can be run here, and why the rest cannot."""
    argon = LennardJones(epsilon=0.010323, sigma=3.405, cutoff=2.5 * 3.405)
    nep = ACE(ACEConfig.preset("nep", (14,), energy_scale=0.05), key=jax.random.key(0))  # no trained one is kept
    found = {"lj": Case(argon, 18, 5.4, 4.0, 40.0), "nep": Case(nep)}
    absent = {}
    files = {"fast": PARAMS / "si_fast.jaxmlip", "accurate": PARAMS / "si_accurate.jaxmlip", "nequip": CHECKPOINT}
    for name, path in files.items():
        if not path.is_file():
            absent[name] = f"{path.name} is not there" + (" (set JAXMLIP_DATA)" if path == CHECKPOINT else "")
            continue
        try:
            found[name] = Case(pretrained.load(path))
        except UserError as error:
            absent[name] = str(error).replace(str(path), path.name)
    return found, absent


def crystal(case: Case, times: int, dtype, rattle: float = 0.05) -> System:
    """`8 times³` atoms of diamond, or of argon in fcc, moved at random by `rattle` [Å]."""
    basis, repeats = (DIAMOND, [times] * 3) if case.number == 14 else (FCC, [times, times, 2 * times])
    cells = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (cells + basis[None]).reshape(-1, 3) * case.constant
    positions += rattle * np.random.default_rng(0).normal(size=positions.shape)
    cell = np.array(repeats) * case.constant
    return make_system(positions, [case.number] * len(positions), cell=cell, dtype=dtype)
