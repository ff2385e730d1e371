"""Stationary points: analytic ones, their derivatives of first and second order, and what cannot be trusted."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close_packed_argon import argon, close_packed, compiled
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.energy import AbstractEnergy, PositionRestraints
from jaxmlip.graph import Graph
from jaxmlip.properties import barrier, find_saddle, follow, lattice_parameters, refine, relax
from jaxmlip.simulate import Path, constrain, interpolate
from jaxmlip.system import make_system


class Powers(AbstractEnergy):
    """Pairs of energy a / r^12 - b / r^6, which rest at (2 a / b)^(1/6) with -b^2 / 4 a."""

    a: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    b: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    cutoff: float = eqx.field(static=True, default=9.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        r = graph.lengths()
        return graph.sum_edges(0.5 * (self.a / r**12 - self.b / r**6))


class Valleys(AbstractEnergy):
    """Two minima at x = -1 and x = 1 and a saddle at 0, each atom for itself, all tilted by `slope`."""

    height: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    slope: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    cutoff: float = eqx.field(static=True, default=1.0)
    elements: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, graph: Graph) -> Float[Array, "atoms"]:
        x, y, z = graph.positions.T
        return self.height * (x * x - 1.0) ** 2 + y * y + 2.0 * z * z + self.slope * x + 0.3 * x * y


@pytest.fixture(scope="module")
def dimer():
    """Two atoms at rest, askew in space."""
    return refine(Powers(4.0, 8.0), make_system([[0.1, 0.2, 0.3], [0.8, 0.9, 0.6]], [18, 18]))


def test_a_molecule_keeps_its_place_and_its_bond_has_exact_derivatives_of_both_orders(dimer):
    assert bool(dimer.converged) and int(dimer.negative) == 0 and float(dimer.residual) <= 1e-9
    assert dimer.rigid.shape == (6, 5)  # three translations and two turns
    assert float(dimer.condition) == pytest.approx(1.0, abs=1e-9)  # one free coordinate

    def bond(theta, start):
        point = follow(Powers(theta[0], theta[1]), start)
        gap = point.system.positions[1] - point.system.positions[0]
        return jnp.stack([jnp.sqrt(jnp.sum(gap * gap)), point.energy])

    def exact(theta):
        return jnp.stack([(2.0 * theta[0] / theta[1]) ** (1.0 / 6.0), -(theta[1] ** 2) / (4.0 * theta[0])])

    theta = jnp.asarray([4.1, 7.9])  # not those of the start

    def all_orders(function):
        def values(t, *rest):
            forward, backward = jax.jacfwd(function)(t, *rest), jax.jacrev(function)(t, *rest)
            second = jax.jacfwd(jax.jacrev(function))(t, *rest)
            return function(t, *rest), forward, backward, second

        return values

    found = compiled(all_orders(bond))(theta, dimer)
    for mine, truth in zip(found, all_orders(exact)(theta), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=1e-9, atol=1e-11)


def both(theta, start):
    """Lattice parameters and energy of hexagonal argon, with tangents along both parameters."""

    def values(t):
        point = follow(argon(t[0], t[1]), start)
        a, _, c = lattice_parameters(point.system.cell)[0]
        return jnp.stack([a, c, point.energy]), (point.residual, point.condition, point.converged)

    def push(direction):
        return jax.jvp(values, (theta,), (direction,), has_aux=True)

    return jax.vmap(push, out_axes=(None, 1, None))(jnp.eye(2))


@pytest.fixture(scope="module")
def compiled_both():
    return compiled(both)


THETA = np.array([0.0104, 3.4])


def test_a_crystal_scales_with_the_depth_and_follows_the_width(crystal, compiled_both):
    values, jacobian, (residual, condition, converged) = compiled_both(jnp.asarray(THETA), crystal)
    assert bool(converged) and float(residual) < 1e-11
    np.testing.assert_allclose(jacobian[:2, 0], 0.0, atol=1e-8)  # depth moves nothing
    assert float(jacobian[2, 0]) == pytest.approx(float(values[2]) / THETA[0], rel=1e-12)
    step = np.array([0.0, 0.01])
    at = {k: np.asarray(compiled_both(jnp.asarray(THETA + k * step), crystal)[0]) for k in (-2, -1, 1, 2)}
    slope = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12.0 * 0.01)
    np.testing.assert_allclose(jacobian[:, 1], slope, rtol=1e-6)
    assert 1.0 < float(condition) < 100.0
    assert int(crystal.negative) == 0


def test_products_with_the_hessian_give_what_its_matrix_gives(dimer):
    def gap(theta, start):
        point = follow(Powers(theta[0], theta[1]), start)
        return point.system.positions[1] - point.system.positions[0], (point.condition, point.converged)

    slope, (condition, converged) = compiled(jax.jacfwd(gap, has_aux=True))(
        jnp.asarray([4.1, 7.9]), dataclasses.replace(dimer, dense=0)
    )
    direction = np.asarray(dimer.system.positions[1] - dimer.system.positions[0])
    stretch = (2.0 * 4.1 / 7.9) ** (1.0 / 6.0) / np.linalg.norm(direction) * direction
    assert bool(converged) and float(condition) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(slope, np.outer(stretch / 6.0, [1.0 / 4.1, -1.0 / 7.9]), atol=1e-10)


def test_a_list_that_no_longer_serves_is_told(crystal, compiled_both):
    _, _, (_, _, converged) = compiled_both(jnp.asarray([0.0104, 3.0]), crystal)
    assert not bool(converged)


def test_pressure_pushes_as_the_stress_says(crystal):
    pressed = refine(argon(), crystal.system, cell=True, pressure=0.1 * units.GPa)
    assert bool(pressed.converged) and float(pressed.system.volume()) < float(crystal.system.volume())
    energies = [refine(argon(), crystal.system, cell=True, pressure=p * units.GPa) for p in (0.099, 0.101)]
    slope = (energies[1].energy - energies[0].energy) / (energies[1].system.volume() - energies[0].system.volume())
    assert float(slope) == pytest.approx(-0.1 * units.GPa, rel=1e-4)


def test_what_an_outer_field_holds_is_free_to_move(dimer):
    held = PositionRestraints([0, 1], dimer.system.positions, 0.5, atoms=2)
    inside = refine(Powers(4.0, 8.0) + held, dimer.system)
    assert inside.rigid.shape == (6, 0) and bool(inside.converged) and int(inside.negative) == 0


def test_fixed_atoms_stay(dimer):
    free = dimer.system
    stretched = make_system(free.positions * jnp.asarray([[1.0], [1.05]]), [18, 18])
    point = refine(Powers(4.0, 8.0), constrain(stretched, fixed=[0]))
    np.testing.assert_array_equal(point.system.positions[0], stretched.positions[0])
    gap = np.asarray(point.system.positions[1] - point.system.positions[0])
    assert bool(point.converged) and np.linalg.norm(gap) == pytest.approx(1.0, abs=1e-9)


def test_a_barrier_depends_on_a_field_by_the_distance_from_the_minimum_to_the_saddle():
    energy = Valleys(1.5, 0.2)
    low = relax(energy, make_system([[1.1, 0.1, 0.0]], [1]))
    other = make_system([[-1.1, 0.0, 0.0]], [1])
    systems = interpolate(low.system, other, 3)
    heights = jnp.asarray([0.2, 1.0, 1.5, 1.0, -0.2])
    path = Path(systems, heights, jnp.zeros((5, 1, 3)), jnp.asarray(0.1), jnp.asarray(9), jnp.asarray(True))
    top = find_saddle(energy, path)
    assert int(low.negative) == 0 and int(top.negative) == 1 and bool(top.converged)
    assert low.rigid.shape == (3, 0)
    way = float(top.system.positions[0, 0] - low.system.positions[0, 0])

    def by_envelope(slope):
        return barrier(Valleys(1.5, slope), low, top)

    def by_following(slope):
        bent = Valleys(1.5, slope)
        return follow(bent, top).energy - follow(bent, low).energy

    def derivatives(slope):
        first = jax.grad(by_following)
        return jax.grad(by_envelope)(slope), first(slope), jax.grad(first)(slope)

    derivatives = compiled(derivatives)
    envelope, first, second = derivatives(jnp.asarray(0.2))
    assert float(envelope) == pytest.approx(way, rel=1e-9) and float(first) == pytest.approx(way, rel=1e-9)
    slopes = [float(derivatives(jnp.asarray(s))[1]) for s in (0.199, 0.201)]
    assert float(second) == pytest.approx((slopes[1] - slopes[0]) / 0.002, rel=1e-4)
    flat = dataclasses.replace(path, energies=-heights)
    with pytest.raises(ValueError, match="not at a saddle"):
        find_saddle(energy, flat)


def test_damping_is_only_what_was_asked_for(dimer):
    def bond(a, start):
        point = follow(Powers(a, 8.0), start)
        gap = point.system.positions[1] - point.system.positions[0]
        return jnp.sqrt(jnp.sum(gap * gap))

    stiffness = 2.0 * 72.0  # by each of two atoms, of 72 b^(7/3) / (2 a)^(4/3) = 288
    slope = compiled(jax.grad(bond))
    plain = slope(jnp.asarray(4.0), dimer)
    damped = slope(jnp.asarray(4.0), dataclasses.replace(dimer, damping=jnp.asarray(stiffness)))
    assert float(plain) == pytest.approx(1.0 / 24.0, rel=1e-9)
    assert float(damped / plain) == pytest.approx(576.0 / (576.0 + stiffness), rel=1e-6)


def test_what_makes_no_sense_is_refused():
    crystal = close_packed()
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        refine(argon(), crystal, tolerance=-1.0)
    with pytest.raises(ValueError, match="`damping`"):
        refine(argon(), crystal, damping=-1.0)
    with pytest.raises(ValueError, match="give `cell=True`"):
        refine(argon(), crystal, pressure=1.0)
    with pytest.raises(ValueError, match="periodic in all directions"):
        refine(argon(), dataclasses.replace(crystal, pbc=(True, True, False)), cell=True)
