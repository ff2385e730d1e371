"""Do force constants of a better potential mend phonons, and leave energies and forces alone? See README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.compilation import LEAST_WORK, known
from jaxmlip.data import read_dataset, statistics
from jaxmlip.learn import (
    FinetuneSettings,
    evaluate,
    finetune,
    fit_linear,
    hessian_labels,
    linear_replay,
    make_force_constants,
)
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.models.pretrained import load
from jaxmlip.properties import Supercell, dynamical_matrix, force_constants, make_supercell
from jaxmlip.system import System, make_system

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data"))
FCC, BCC = 0.5 * (np.ones((3, 3)) - np.eye(3)), 0.5 * (np.ones((3, 3)) - 2.0 * np.eye(3))
CRYSTALS = {  # element: structure, edge of the cubic cell [Å] (PBE), repeats, cutoff [Å]
    "Li": ("bcc", 3.44, 4, 6.0),
    "Mo": ("bcc", 3.16, 4, 5.5),
    "Ni": ("fcc", 3.52, 4, 5.0),
    "Cu": ("fcc", 3.63, 4, 5.0),
    "Si": ("diamond", 5.47, 3, 5.0),
    "Ge": ("diamond", 5.76, 3, 5.5),
}
NUMBERS = {"Li": 3, "Mo": 42, "Ni": 28, "Cu": 29, "Si": 14, "Ge": 32}
NOISE = 0.01  # eV/Å²


def crystal(element: str) -> tuple[System, tuple[int, int, int]]:
    kind, edge, repeats, _ = CRYSTALS[element]
    cell = edge * (BCC if kind == "bcc" else FCC)
    positions = [[0.0, 0.0, 0.0], [0.25 * edge] * 3] if kind == "diamond" else [[0.0, 0.0, 0.0]]
    system = make_system(positions, [NUMBERS[element]] * len(positions), cell=cell, dtype=np.float64)
    return system, (repeats, repeats, repeats)


def constants(energy: Any, system: System, supercell: Supercell) -> np.ndarray:
    """Force constants of an energy, in a program that compiles fast."""
    program = jax.jit(force_constants).lower(energy, system, supercell).compile(compiler_options=known(LEAST_WORK))
    return np.asarray(program(energy, system, supercell), np.float64)


def bands(found: np.ndarray, system: System, supercell: Supercell, mesh: int) -> np.ndarray:
    """Frequencies [THz] on all wave vectors that fit the supercell, and between; imaginary ones negative."""
    steps = np.arange(2 * mesh) / (2 * mesh)
    q = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)[1:]
    at = jax.jit(jax.vmap(lambda p: jnp.linalg.eigvalsh(dynamical_matrix(found, supercell, system.masses, p))))
    values = np.asarray(at(jnp.asarray(q)))
    return np.sign(values) * np.sqrt(np.abs(values)) / (2.0 * np.pi) / units.THz


def labels_of(found: np.ndarray, system: System, supercell: Supercell, cutoff: float):
    """The columns of the atoms of one cell as labels."""
    whole = supercell.build(system)
    atoms, sites = len(system.numbers), len(whole.numbers)
    matrix = np.full((sites, 3, sites, 3), np.nan)
    matrix[:, :, :atoms] = np.moveaxis(found, (0, 1), (2, 3))
    return hessian_labels([whole], [matrix], cutoff, atoms=[range(atoms)])


def measure(element: str, teacher: Any, channels: int) -> dict[str, Any]:
    """One element: fit, force constants of both, fine-tuning, and errors before and after."""
    cutoff = CRYSTALS[element][3]
    train, test = (
        read_dataset(DATA / "datasets" / "mlearn" / f"{element}_{part}.xyz.xz") for part in ("train", "test")
    )
    begin = time.monotonic()
    config = LinearACEConfig(
        train.elements, cutoff=cutoff, mean_neighbors=statistics(train, cutoff).neighbors, channels=channels
    )
    fit = fit_linear(LinearACE(config, key=jax.random.key(0)), train, dtype=np.float64)
    system, repeats = crystal(element)
    wide = make_supercell(system, repeats, teacher.cutoff)
    truth = constants(teacher, system, wide)
    labels = make_force_constants(labels_of(truth, system, wide, cutoff), noise=NOISE)
    prepared = time.monotonic()
    found = finetune(
        fit.energy,
        [],
        replay=linear_replay(fit, train),
        labels=labels,
        settings=FinetuneSettings(updates=2, iterations=300),
        trainable=lambda path, leaf: path.endswith((".weights", ".energies")),
    )
    minutes = (time.monotonic() - prepared) / 60.0
    near = make_supercell(system, repeats, cutoff)
    mesh = repeats[0]
    aim = bands(truth, system, wide, mesh)
    result: dict[str, Any] = {"minutes": minutes, "reason": found.reason, "seconds_before": prepared - begin}
    for name, energy in (("before", fit.energy), ("after", found.energy)):
        got = bands(constants(energy, system, near), system, near, mesh)
        report = evaluate(energy, test, max_shapes=1)
        result[name] = {
            "bands_THz": float(np.sqrt(np.mean((got - aim) ** 2))),
            "energy_rmse_meV_atom": 1e3 * report.energy_rmse,
            "force_rmse_meV_A": 1e3 * report.force_rmse,
            "histogram": np.histogram(got, bins=60, range=(-1.0, 18.0), density=True)[0].tolist(),
        }
    result["aim"] = np.histogram(aim, bins=60, range=(-1.0, 18.0), density=True)[0].tolist()
    result["deviations"] = float(np.sqrt(found.fitted_chi2[1] / found.fitted_chi2[0]))
    result["rms_frequency_THz"] = float(np.sqrt(np.mean(aim**2)))
    print(json.dumps({element: {k: v for k, v in result.items() if k != "aim"}}), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="lithium alone, with fewer channels")
    parser.add_argument("--elements", nargs="+", choices=list(CRYSTALS))
    parser.add_argument("--teacher", default=str(DATA / "potentials" / "nequix" / "nequix-oam-1.nqx"))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.monotonic()
    elements = options.elements or (["Li"] if options.quick else list(CRYSTALS))
    teacher = load(options.teacher, np.float64)
    found = {element: measure(element, teacher, 8 if options.quick else 32) for element in elements}

    def rise(key: str) -> float:
        return max(100.0 * (f["after"][key] / f["before"][key] - 1.0) for f in found.values())

    ratios = [f["after"]["bands_THz"] / f["before"]["bands_THz"] for f in found.values()]
    result = {
        "crystals": len(found),
        "worst_band_error_ratio": max(ratios),
        "mean_band_error_before_THz": float(np.mean([f["before"]["bands_THz"] for f in found.values()])),
        "mean_band_error_after_THz": float(np.mean([f["after"]["bands_THz"] for f in found.values()])),
        "worst_energy_rmse_rise_percent": rise("energy_rmse_meV_atom"),
        "worst_force_rmse_rise_percent": rise("force_rmse_meV_A"),
        "minutes": (time.monotonic() - begin) / 60.0,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "quick": options.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
        "elements": found,
    }
    if not options.quick and not options.elements:
        (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        picture(found)
    print(json.dumps(result))


def picture(found: dict[str, Any]) -> None:
    """Densities of states before and after, beside those of the teacher."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    edges = np.linspace(-1.0, 18.0, 61)
    figure, axes = plt.subplots(2, 3, figsize=(9.0, 4.8), constrained_layout=True)
    for axis, (element, f) in zip(axes.flat, found.items(), strict=True):
        axis.stairs(f["aim"], edges, color="black", label="aim")
        axis.stairs(f["before"]["histogram"], edges, color="#d95f02", label="before")
        axis.stairs(f["after"]["histogram"], edges, color="#1b9e77", label="after")
        top = edges[1:][np.asarray(f["aim"]) > 0].max()
        axis.set(title=element, xlim=(-1.0, 1.15 * top), xlabel="frequency [THz]", yticks=[])
    axes.flat[0].legend(frameon=False)
    figure.savefig(HERE / "states.png", dpi=100)


if __name__ == "__main__":
    main()
