"""The file that a fine-tuning goes on from, to the bit."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmlip.errors import UserError
from jaxmlip.files import write_atomically
from jaxmlip.learn.finetune_problem import FinetuneProblem, FitState, Prediction
from jaxmlip.learn.finetune_sampling import reach
from jaxmlip.learn.frames import Frames
from jaxmlip.learn.mixture import mix
from jaxmlip.learn.sampler import Health, Samples, StatePoint
from jaxmlip.learn.targets import Dynamics
from jaxmlip.learn.windows import Starts
from jaxmlip.properties import StationaryPoint
from jaxmlip.simulate.checkpoint import pack, unpack


class Progressed(NamedTuple):
    """What a fit goes on from."""

    state: FitState
    before: dict[str, Prediction]
    history: list[dict[str, Any]]


def write(path: Path | None, problem: FinetuneProblem, held: FinetuneProblem, kept: Progressed) -> None:
    """Keep a fit in a file."""
    if path is None:
        return
    state = kept.state
    tree = {
        "params": state.params,
        "key": state.key,
        "label_chi2": state.label_chi2,
        "fitted_chi2": state.fitted_chi2,
        "label_start": problem.label_start,
        "fitted_start": problem.fitted_start,
        "values": state.values,
        "errors": state.errors,
        "points": [dict(vars(state.points[p])) if p in state.points else None for p in problem.places],
        "samples": [[_of_samples(problem, s) for s in state.samples.get(p, ())] for p in problem.places],
        "starts": [_of_starts(state.starts[p]) if p in state.starts else None for p in problem.places],
        "before": {name: list(p) for name, p in kept.before.items()},
    }
    content = pack(tree, {"fit": _fingerprint(problem, held), "history": kept.history})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def read(path: Path, problem: FinetuneProblem, held: FinetuneProblem) -> Progressed | None:
    """A fit from its file, `None` where there is none.

    **Raises:** `UserError` where it is damaged, or of another fit.
    """
    if not path.exists():
        return None
    try:
        tree, metadata = unpack(path.read_bytes(), str(path))
    except ValueError as error:
        raise UserError(str(error)) from error
    if metadata.get("fit") != _fingerprint(problem, held):
        raise UserError(
            f"{path} is of another fit (targets, labels, settings or start): give another file, or remove it."
        )
    problem.label_start, problem.fitted_start = tree["label_start"], tree["fitted_start"]
    samples = {
        p: tuple(_to_samples(problem, p, s) for s in sets)
        for p, sets in zip(problem.places, tree["samples"], strict=True)
        if isinstance(p, StatePoint)
    }
    mixtures = {p: mix(sets, reach=reach(problem.observables(p))) for p, sets in samples.items()}
    starts = {
        p: _to_starts(p, samples[p.point][-1], found)
        for p, found in zip(problem.places, tree["starts"], strict=True)
        if isinstance(p, Dynamics)
    }
    points = {
        p: _rebuilt(StationaryPoint, found)
        for p, found in zip(problem.places, tree["points"], strict=True)
        if found is not None
    }
    values, errors = ({name: np.asarray(x) for name, x in tree[kind].items()} for kind in ("values", "errors"))
    chi2 = float(tree["label_chi2"]), float(tree["fitted_chi2"])
    state = FitState(tree["params"], points, samples, mixtures, starts, values, errors, *chi2, tree["key"])
    before = {n: Prediction(np.asarray(v), np.asarray(e), float(c)) for n, (v, e, c) in tree["before"].items()}
    return Progressed(state, before, metadata["history"])


def _fingerprint(problem: FinetuneProblem, held: FinetuneProblem) -> str:
    """What must be the same for a fit to go on."""
    text = [str(dataclasses.replace(problem.settings, updates=1))]
    for t in (*problem.targets, *held.targets):
        text += [t.name, type(t.observable).__name__, str(t.values.tolist()), str(t.covariance().tolist())]
    digest = hashlib.sha256("\n".join(text).encode())
    numbers = [problem.origin, *jax.tree.leaves(problem.kinds)]
    for x in numbers:
        digest.update(np.asarray(x).tobytes())
    return digest.hexdigest()


def _of_samples(problem: FinetuneProblem, samples: Samples) -> dict[str, Any]:
    frames, health = samples.frames, samples.health
    learned = eqx.filter(samples.energy, jax.tree.map(lambda x: x is not None, problem.given, is_leaf=_is_none))
    return {
        "params": ravel_pytree(learned)[0],
        "positions": frames.positions,
        "cells": frames.cells,
        "atom_energies": frames.atom_energies,
        "near": frames.near,
        "replicas": samples.replicas,
        "states": samples.states,
        "health": None if health is None else list(health),
    }


def _to_samples(problem: FinetuneProblem, point: StatePoint, found: dict[str, Any]) -> Samples:
    energy = eqx.combine(problem.unravel(found["params"]), problem.fixed)
    frames = Frames(point.system, found["positions"], found["cells"], found["atom_energies"], found["near"])
    health = None
    if found["health"] is not None:
        kelvin, force, pair, wander = found["health"]
        health = Health(np.asarray(kelvin), float(force), float(pair), np.asarray(wander))
    return Samples(frames, energy, point.conditions(), found["replicas"], found["states"], health)


def _of_starts(starts: Starts) -> dict[str, Any]:
    return {"momenta": starts.momenta, "neighbors": starts.neighbors, "exponent": starts.exponent}


def _to_starts(place: Dynamics, samples: Samples, found: dict[str, Any]) -> Starts:
    return Starts(mix((samples,)), found["momenta"], found["neighbors"], place.window, found["exponent"])


def _rebuilt(kind: type, fields: dict[str, Any]) -> Any:
    module = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module


def _is_none(x: Any) -> bool:
    return x is None
