"""Systems are checked where they are made."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.system import make_system

CELL = np.array([[4.0, 0.0, 0.0], [3.6, 4.0, 0.0], [1.0, 1.0, 5.0]])
PAIR = [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]


def test_defaults_follow_the_cell_and_the_elements():
    molecule = make_system(PAIR, [6, 8])
    assert molecule.pbc == (False, False, False)
    assert float(molecule.volume()) == 0.0
    np.testing.assert_allclose(molecule.masses, [12.011, 15.999])
    crystal = make_system(PAIR, [6, 8], cell=CELL)
    assert crystal.pbc == (True, True, True)
    assert float(crystal.volume()) == pytest.approx(80.0)
    assert make_system(PAIR, [6, 8], cell=[4.0, 5.0, 6.0]).cell[2, 2] == 6.0
    assert make_system(PAIR, [6, 8], cell=CELL, pbc=np.array([True, True, False])).pbc == (True, True, False)


def test_the_float_type_is_kept():
    system = make_system(PAIR, [6, 8], cell=CELL, dtype=jnp.float32)
    assert {system.positions.dtype, system.cell.dtype, system.masses.dtype, system.charge.dtype} == {jnp.dtype("f4")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0.0, np.nan, 0.0], [1.0, 0.0, 0.0]]}, r"finite.*atoms \[0\]"),
        ({"positions": np.zeros((3, 2))}, r"shape \(2, 3\)"),
        ({"positions": np.zeros(6)}, r"shape \(2, 3\)"),
        ({"positions": np.zeros((0, 3)), "numbers": []}, "at least one atom"),
        ({"numbers": [0, 6]}, "1 to 118"),
        ({"numbers": [6, 119]}, "1 to 118"),
        ({"numbers": [6.0, 8.5]}, "whole number"),
        ({"masses": [1.0, -1.0]}, "positive number"),
        ({"masses": [1.0]}, "positive number"),
        ({"cell": np.diag([4.0, 4.0, 0.0])}, "lattice vector 2 is zero"),
        ({"cell": None, "pbc": True}, "lattice vector 0 is zero"),
        ({"cell": np.full((3, 3), np.inf)}, "finite lattice vectors"),
        ({"cell": [[4, 0, 0], [8, 0, 0], [0, 0, 4]]}, "linearly dependent"),
        ({"cell": np.diag([4.0, 4.0, -4.0])}, "left-handed"),
        ({"pbc": (True, True)}, "one flag or three"),
    ],
)
def test_what_cannot_be_trusted_is_refused(change, message):
    given = {"positions": PAIR, "numbers": [6, 8], "cell": CELL} | change
    with pytest.raises(ValueError, match=message):
        make_system(given.pop("positions"), given.pop("numbers"), **given)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False), (False, False, True)])
def test_coincident_atoms_are_refused_through_images_too(pbc):
    flags = np.broadcast_to(np.asarray(pbc), (3,))
    image = (np.array([2.0, -1.0, 3.0]) * flags) @ CELL
    apart = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 0.5], [0.02, 0.0, 0.0]])
    make_system(apart + image * [[0], [0], [1]], [6, 6, 6], cell=CELL, pbc=pbc)
    for offset in (0.0, 5e-4, -5e-4):
        coincident = np.array([apart[0], apart[1], image + offset * np.array([0.6, 0.0, 0.8])])
        with pytest.raises(ValueError, match="Atoms 0 and 2 coincide"):
            make_system(coincident, [6, 6, 6], cell=CELL, pbc=pbc)
