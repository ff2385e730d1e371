"""Frames for a fit: what makes them useless is told by name."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.energy import LennardJones
from jaxmlip.learn.finetune_sampling import PredictionFailed, check_health, check_phase
from jaxmlip.learn.finetune_settings import FinetuneSettings
from jaxmlip.learn.frames import evaluate, pull_back, pull_back_rows
from jaxmlip.learn.sampler import Health, StatePoint, _Record, _wander, samples_from
from jaxmlip.observables.static import Conditions, Pressure
from jaxmlip.system import make_system

SYSTEM = make_system(2.0 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]), [18] * 4, cell=4.0 * np.eye(3))


def made(wander, frames=2, seed=0):
    """Frames of shaken argon, and how far its atoms are said to go."""
    random = np.random.default_rng(seed)
    positions = np.asarray(SYSTEM.positions)[None] + 0.1 * random.normal(size=(frames, 4, 3))
    cells = jnp.broadcast_to(SYSTEM.cell, (frames, 3, 3))
    energy = LennardJones(0.01, 2.5, cutoff=4.5)
    found = samples_from(energy, SYSTEM, jnp.asarray(positions), cells, Conditions(jnp.asarray(80.0)))
    return dataclasses.replace(found, health=Health(np.array([80.0]), 1.0, 2.0, np.array(wander)))


def test_phases_are_told_by_how_far_atoms_go():
    assert made([0.1, 0.2]).health.phase == "solid" and made([0.9, 2.0]).health.phase == "liquid"
    assert made([0.1, 2.0]).health.phase == "" and made([np.nan]).health.phase == ""


def test_a_phase_that_changes_or_did_not_melt_is_refused():
    point = StatePoint(SYSTEM, 80.0, name="warm")
    check_phase(point, made([0.1]), [made([0.2])])
    check_phase(point, made([0.4]), [made([0.2])])
    with pytest.raises(PredictionFailed, match="the solid at warm has become liquid"):
        check_phase(point, made([0.9]), [made([0.2]), made([0.4])])
    with pytest.raises(PredictionFailed, match="the liquid at warm has become solid"):
        check_phase(point, made([0.1]), [made([0.9])])
    with pytest.raises(PredictionFailed, match="stay at their sites"):
        check_phase(dataclasses.replace(point, melt=300.0), made([0.1]), [])


@pytest.mark.parametrize(
    ("health", "message"),
    [
        (Health(np.array([80.0]), 60.0, 2.0, np.zeros(1)), "forces of 60.0"),
        (Health(np.array([80.0]), 1.0, 0.4, np.zeros(1)), "0.40 Å apart"),
        (Health(np.array([80.0, 120.0]), 1.0, 2.0, np.zeros(2)), "heat up to 120 K"),
    ],
)
def test_dynamics_beyond_the_limits_are_refused(health, message):
    samples = dataclasses.replace(made([0.1]), health=health)
    with pytest.raises(PredictionFailed, match=message):
        check_health(StatePoint(SYSTEM, 80.0), samples, FinetuneSettings())


def test_wandering_counts_neither_the_motion_of_the_whole_nor_that_of_the_cell():
    point = StatePoint(SYSTEM, 80.0, replicas=2, frames=2)
    first, cells = np.asarray(SYSTEM.positions), np.broadcast_to(4.0 * np.eye(3), (4, 3, 3)).copy()
    cells[1] *= 1.02
    moved = np.stack(
        [first, 1.02 * (first + 3.0), first, first + np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 0], [0, 0, 0]])]
    )
    found = _wander(point, _Record(moved, cells, *[np.zeros(4)] * 3))
    np.testing.assert_allclose(found[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(found[1], np.sqrt(0.5) / np.cbrt(64.0 * 1.02**0 / 4.0), rtol=0.03)


@pytest.mark.parametrize("frames", [3, 45])
def test_blocks_of_frames_change_nothing(frames):
    """Values and gradients frame by frame, in any part, and several sets of cotangents at once."""
    samples = made([0.1], frames)
    energy = LennardJones(0.012, 2.4, cutoff=4.5)
    changes, (values,) = evaluate(energy, Pressure(), samples.frames)
    assert changes.shape == (frames,)
    one = made([0.1], frames)
    last = dataclasses.replace(one.frames, **{
        name: getattr(one.frames, name)[-1:] for name in ("positions", "cells", "atom_energies")
    })  # fmt: skip
    alone, (value,) = evaluate(energy, Pressure(), last)
    np.testing.assert_allclose(alone[0], changes[-1], rtol=1e-12)
    np.testing.assert_allclose(value["virial"][0], values["virial"][-1], rtol=1e-12)
    random = np.random.default_rng(1)
    rows = random.normal(size=(2, frames)), [{k: random.normal(size=(2, frames)) for k in ("density", "virial")}]
    start, size = 1, frames - 2
    many = pull_back_rows(energy, Pressure(), samples.frames, _arrays(rows), start=start, size=size)
    for i in range(2):
        here = rows[0][i], [{k: x[i] for k, x in rows[1][0].items()}]
        single = pull_back(energy, Pressure(), samples.frames, _arrays(here), start=start, size=size)
        np.testing.assert_allclose(many.sigma[i], single.sigma, rtol=1e-10)
        np.testing.assert_allclose(many.epsilon[i], single.epsilon, rtol=1e-10)
    step = 1e-6
    moved = [evaluate(LennardJones(0.012, 2.4 + s * step, cutoff=4.5), Pressure(), samples.frames) for s in (1, -1)]
    part = slice(start, start + size)
    slope = sum(
        s * (np.sum(here[0][part] * c[part]) + np.sum(here[1][0]["virial"][part] * v["virial"][part]))
        for s, (c, (v,)) in zip((1, -1), moved, strict=True)
    )
    np.testing.assert_allclose(single.sigma, slope / (2.0 * step), rtol=1e-5)


def _arrays(tree):
    rows, (values,) = tree
    return jnp.asarray(rows), [{name: jnp.asarray(x) for name, x in values.items()}]
