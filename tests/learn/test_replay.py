"""Labels as quadratic forms: the posterior of a linear model is that of its frames; force constants are labels too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.data import Dataset
from jaxmlip.energy import LennardJones
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.learn import (
    evaluate,
    finetune,
    fit_linear,
    label_hessians,
    linear_replay,
    make_force_constants,
    make_replay,
)
from jaxmlip.learn.replay import chi_square, curvature, matrix, slope
from jaxmlip.models.linear import LinearACE, LinearACEConfig
from jaxmlip.system import make_system


@pytest.fixture(scope="module")
def fitted():
    """A small linear model and twelve frames of argon pairs in a cell, labelled by Lennard-Jones."""
    rng = np.random.default_rng(0)
    law = LennardJones(0.05, 2.6, cutoff=4.0)
    cell = 4.2 * np.eye(3)
    frames = [
        Record(2.1 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) + 0.1 * rng.normal(size=(4, 3)),
               np.full(4, 18), cell, (True,) * 3, index=i, energy=0.0, forces=np.zeros((4, 3)),
               stress=np.zeros((3, 3)))
        for i in range(12)
    ]  # fmt: skip
    exact = evaluate(law, Dataset(frames), dtype=np.float64)
    labelled = [
        Record(f.positions, f.numbers, f.cell, f.pbc, index=i, energy=float(4 * exact.energy[i]),
               forces=exact.forces[exact.frame == i], stress=exact.stress[i])
        for i, f in enumerate(frames)
    ]  # fmt: skip
    data = Dataset(labelled)
    config = LinearACEConfig((18,), cutoff=4.0, radial=3, degree=1, channels=2, roots=2)
    return fit_linear(LinearACE(config, key=jax.random.key(0)), data, dtype=np.float64), data


def parts(energy):
    keep = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.tree_util.keystr(path).endswith((".weights", ".energies")), energy
    )
    return eqx.partition(energy, keep)


def test_the_posterior_is_least_at_the_fit_and_grows_as_it_says(fitted):
    fit, data = fitted
    labels = linear_replay(fit, data)
    params, fixed = parts(fit.energy)
    least = float(chi_square(labels, params, fixed))
    residuals = sum(float(block.weight @ fit.residuals(block) ** 2) for block in fit.design(data))
    np.testing.assert_allclose(least, residuals, rtol=1e-6)
    gradient = jax.flatten_util.ravel_pytree(slope(labels, params, fixed)[1])[0]
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = np.asarray(matrix(labels, flat, unravel, fixed))
    moved = flat + 1e-3 * jnp.asarray(np.random.default_rng(1).normal(size=flat.shape)) * jnp.abs(flat)
    step = np.asarray(moved - flat)
    rise = float(chi_square(labels, unravel(moved), fixed)) - least
    np.testing.assert_allclose(rise, step @ hessian @ step + 2.0 * np.asarray(gradient) @ step, rtol=1e-6)
    assert abs(np.asarray(gradient) @ step) < 1e-3 * rise, "the fit is where all is least"
    image = jax.flatten_util.ravel_pytree(curvature(labels, params, fixed, unravel(jnp.asarray(step))))[0]
    np.testing.assert_allclose(image, hessian @ step, rtol=1e-8, atol=1e-12 * float(np.abs(hessian @ step).max()))


def test_the_posterior_says_what_the_frames_say(fitted):
    """Away from the fit, frames with the noise of the fit rise by as much, but for the prior of the weights."""
    fit, data = fitted
    counted = {k: fit.noise[k] / np.sqrt(fit.counted[k]) for k in fit.noise}
    frames = make_replay(fit.energy, data, noise=counted)
    labels = linear_replay(fit, data)
    params, fixed = parts(fit.energy)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    for seed in range(3):
        moved = unravel(flat * (1.0 + 0.02 * jnp.asarray(np.random.default_rng(seed).normal(size=flat.shape))))
        rises = [float(chi_square(x, moved, fixed)) - float(chi_square(x, params, fixed)) for x in (frames, labels)]
        np.testing.assert_allclose(*rises, rtol=0.02)


def test_the_posterior_belongs_to_its_own_kind_of_energy(fitted):
    fit, data = fitted
    law = LennardJones(0.05, 2.6, cutoff=4.0)
    with pytest.raises(UserError, match="belongs to the energy that `fit_linear` gave"):
        finetune(law, [], labels=linear_replay(fit, data))
    with pytest.raises(UserError, match="zero or positive"):
        linear_replay(fit, data, weight=-1.0)


def test_force_constants_alone_bring_the_parameters_that_make_them():
    system = make_system([[0, 0, 0], [2.4, 0.1, 0], [0.3, 2.5, 0.2]], [18] * 3, cell=[4.8, 4.9, 2.9])  # several shells
    truth = LennardJones(jnp.asarray(0.05), jnp.asarray(2.3), cutoff=3.1)
    labels = make_force_constants(label_hessians(truth, [system]), noise=1e-4)
    start = LennardJones(jnp.asarray(0.045), jnp.asarray(2.35), cutoff=3.1)
    found = finetune(start, [], labels=labels)
    np.testing.assert_allclose(found.energy.epsilon, 0.05, rtol=1e-3)
    np.testing.assert_allclose(found.energy.sigma, 2.3, rtol=1e-4)
    assert found.fitted_chi2[1] < 1e-3 * found.fitted_chi2[0] and "labels, new" in found.table()
    with pytest.raises(UserError, match="must be positive"):
        make_force_constants(labels.labels, noise=0.0)
