"""Gradients of ground-state observables of silicon by implicit differentiation, against finite differences."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip import units
from jaxmlip.compilation import LEAST_WORK, known
from jaxmlip.energy import LennardJones, StillingerWeber
from jaxmlip.properties import cohesive_energy, elastic_constants, follow, frequencies, make_supercell, relax
from jaxmlip.system import make_system

SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
PARAMETERS = {  # sigma at a cutoff that stays, since the cutoff is static
    "epsilon": 2.1683,
    "sigma": 2.0951,
    "lambda": 21.0,
    "gamma": 1.20,
    "cosine": -0.333333333333,
    "A": 7.049556277,
    "B": 0.6022245584,
}
OBSERVABLES = ("a0 [Å]", "E_coh [eV]", "C11 [GPa]", "C12 [GPa]", "C44 [GPa]", "nu_Gamma [THz]")
LITERATURE = (5.431, 4.3366, 151.4, 76.4, 56.4, 17.83)
WEIGHTS = (4 / 5, -1 / 5, 4 / 105, -1 / 280)  # central differences of the eighth order
STEP = 4e-3  # of each parameter


def potential() -> StillingerWeber:
    """Silicon of Stillinger and Weber."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "Si.sw"
        file.write_text(SW)
        return StillingerWeber.from_file(file)


def with_parameters(energy: StillingerWeber, theta) -> StillingerWeber:
    """The potential with seven numbers in the order of `PARAMETERS`."""
    epsilon, sigma, strength, gamma, cosine, a, b = theta
    leaves = (a * epsilon, b, sigma, gamma * sigma, strength * epsilon, cosine)
    names = ("depth", "core", "sigma", "screening", "stiffness", "cosine")
    return eqx.tree_at(
        lambda e: [getattr(e, name) for name in names],
        energy,
        [jnp.broadcast_to(x, getattr(energy, name).shape) for name, x in zip(names, leaves, strict=True)],
    )


def observables(theta, energy: StillingerWeber, start, supercell):
    """The six, each a function of the parameters."""
    energy = with_parameters(energy, theta)
    point = follow(energy, start)
    constants = elastic_constants(energy, point).relaxed / units.GPa
    optical = frequencies(energy, point.system, supercell, jnp.zeros((1, 3), theta.dtype))[0, 3:] / units.THz
    lattice = jnp.cbrt(4.0 * point.system.volume())
    return jnp.stack(
        [lattice, cohesive_energy(energy, point), constants[0, 0], constants[0, 1], constants[3, 3], jnp.mean(optical)]
    )


def forward(theta, *rest):
    """The observables, and their Jacobian by tangents."""

    def push(direction):
        return jax.jvp(lambda t: observables(t, *rest), (theta,), (direction,))

    return jax.vmap(push, out_axes=(None, 1))(jnp.eye(len(theta), dtype=theta.dtype))


def compiled(function, *arguments):
    """The program and the seconds that it took to trace and to compile."""
    started = time.perf_counter()
    options = known(LEAST_WORK)
    program = jax.jit(function).lower(*arguments).compile(compiler_options=options)
    return program, time.perf_counter() - started


def differences(values, theta, step: float, weights=WEIGHTS) -> np.ndarray:
    """The Jacobian by central differences of high order."""
    columns = []
    for j, size in enumerate(np.abs(theta)):
        unit = np.zeros(len(theta))
        unit[j] = step * size
        pairs = [values(theta + k * unit) - values(theta - k * unit) for k in range(1, len(weights) + 1)]
        columns.append(sum(w * pair for w, pair in zip(weights, pairs, strict=True)) / (step * size))
    return np.stack(columns, axis=1)


def implicit_errors() -> dict:
    """The worst error of the Jacobian of six observables by seven parameters, forward and backward.

    An error counts relative to the derivative, or to observable over parameter where that is larger: some derivatives
    are zero, such as that of the energy by the strength of the angles, which are perfect.
    """
    energy = potential()
    sites = [[0.0, 0.0, 0.0], [1.35, 1.35, 1.35]]
    crystal = make_system(sites, [14, 14], cell=2.7 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    start = relax(energy, crystal, cell=True, tolerance=1e-12, skin=1.0)
    rest = (energy, start, make_supercell(start.system, (1, 1, 1), energy.cutoff, skin=1.0))
    theta = np.array(list(PARAMETERS.values()))
    program, compile_s = compiled(forward, jnp.asarray(theta), *rest)
    values, jacobian = (np.asarray(x) for x in program(jnp.asarray(theta), *rest))
    found = {"residual_eV_per_A": float(start.residual), "condition": float(start.condition)}
    found["reference_max_relative_error"] = float(np.max(np.abs(values / np.array(LITERATURE) - 1.0)))
    program_back, back_s = compiled(jax.jacrev(observables), jnp.asarray(theta), *rest)
    jacobians = {"forward": jacobian, "reverse": np.asarray(program_back(jnp.asarray(theta), *rest))}
    seconds = {"forward": compile_s, "reverse": back_s}
    exact = differences(lambda t: np.asarray(program(jnp.asarray(t), *rest)[0]), theta, STEP)
    coarser = differences(lambda t: np.asarray(program(jnp.asarray(t), *rest)[0]), theta, 1.5 * STEP)
    natural = np.abs(values[:, None] / theta[None, :])
    scale = np.maximum(np.abs(exact), natural)
    nonzero = np.abs(exact) > 1e-3 * natural
    for mode, jacobian in jacobians.items():
        wrong = np.abs(jacobian - exact)
        found[f"implicit_max_relative_error_{mode}"] = float(np.max(wrong / scale))
        found[f"implicit_max_relative_error_{mode}_nonzero"] = float(np.max(wrong[nonzero] / np.abs(exact[nonzero])))
        found[f"compile_s_{mode}"] = round(seconds[mode], 1)
    found["difference_of_steps"] = float(np.max(np.abs(coarser - exact) / scale))
    found["implicit_max_relative_error"] = max(found[f"implicit_max_relative_error_{mode}"] for mode in jacobians)
    found["observables"] = dict(zip(OBSERVABLES, (round(float(v), 5) for v in values), strict=True))
    found["jacobian"] = np.round(jacobians["forward"], 6).tolist()
    return found


def argon_errors() -> dict:
    """The quick form: lattice constant and cohesive energy of Lennard-Jones argon by both its parameters."""
    cutoff = 8.5
    sites = 5.2 * np.array([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    theta = np.array([0.0104, 3.4])
    start = relax(argon(theta, cutoff), make_system(sites, [18] * 4, cell=[5.2] * 3), cell=True, tolerance=1e-12)

    def observables(theta):
        energy = argon(theta, cutoff)
        point = follow(energy, start)
        return jnp.stack([jnp.cbrt(point.system.volume()), cohesive_energy(energy, point)])

    jacobian = np.asarray(jax.jit(jax.jacfwd(observables))(jnp.asarray(theta)))
    exact = differences(jax.jit(observables), theta, STEP)
    wrong = np.abs(jacobian - exact) / np.abs(exact)
    return {"implicit_max_relative_error": float(np.max(wrong)), "jacobian": jacobian.tolist()}


def argon(theta, cutoff: float) -> LennardJones:
    """With epsilon [eV] and sigma [Å]."""
    return LennardJones(theta[0], theta[1], cutoff=cutoff)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="argon instead of silicon")
    print(json.dumps(argon_errors() if parser.parse_args().quick else implicit_errors(), ensure_ascii=False))


if __name__ == "__main__":
    main()
