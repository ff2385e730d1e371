"""Which frames are chosen: none twice, the farthest, the most informative."""

import itertools

import numpy as np
import pytest

from jaxmlip.data.generate import derive, displaced, repeat
from jaxmlip.data.selection import DOptimal, distinct, farthest_points, spread
from jaxmlip.errors import UserError


def test_turned_shifted_and_reordered_frames_are_left_out(silicon, rng):
    moved = displaced(repeat(silicon, (2, 1, 1)), 0.1 * rng.standard_normal((16, 3)), "rattle")
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    order = rng.permutation(16)
    twin = derive(moved, "twin", positions=((moved.positions + 0.3) @ turn)[order], cell=moved.cell @ turn)
    other = displaced(moved, 0.05 * rng.standard_normal((16, 3)), "rattle")
    kept, twins = distinct([moved, silicon, twin, other, silicon])
    assert kept.tolist() == [0, 1, 3] and twins == {2: 0, 4: 1}


def test_near_frames_can_be_left_out_too(silicon, rng):
    moved = displaced(silicon, 1e-3 * rng.standard_normal((8, 3)), "rattle")
    assert len(distinct([silicon, moved])[0]) == 2
    assert len(distinct([silicon, moved], tolerance=0.02)[0]) == 1


def test_farthest_points_are_the_corners():
    points = np.array([[0.0, 0.0], [0.1, 0.0], [10.0, 0.0], [9.9, 0.1], [0.0, 5.0], [10.0, 0.0]])
    found = farthest_points(points, 3)
    assert set(found) in ({0, 2, 4}, {0, 5, 4}, {1, 2, 4}) and len(set(farthest_points(points, 6))) == 6
    assert farthest_points(points, 1, chosen=points[[2]]).tolist() == [4] or farthest_points(
        points, 1, chosen=points[[4]]
    ).tolist() in ([2], [5])
    assert farthest_points(np.zeros((3, 2)), 3).tolist() == [0, 1, 2], "points that are all the same are still distinct"


def test_d_optimal_takes_what_a_search_of_all_pairs_takes_greedily(rng):
    frames = [rng.standard_normal((3, 5)) * rng.uniform(0.2, 2.0) for _ in range(12)]
    design = DOptimal(np.ones(5), ridge=0.1)
    found = design.choose(frames, 4)
    precision, expected = 0.1 * np.eye(5), []
    for _ in range(4):
        gains = [-np.inf if i in expected else np.linalg.slogdet(precision + x.T @ x)[1] for i, x in enumerate(frames)]
        expected.append(int(np.argmax(gains)))
        precision = precision + frames[expected[-1]].T @ frames[expected[-1]]
    assert found.tolist() == expected and np.allclose(design.precision, precision)


def test_d_optimal_beats_chance(rng):
    frames = [rng.standard_normal((2, 6)) * np.exp(rng.standard_normal(6)) for _ in range(40)]
    design = DOptimal(np.ones(6))
    design.choose(frames, 8)
    chance = []
    for _ in range(50):
        other = DOptimal(np.ones(6))
        for i in rng.permutation(40)[:8]:
            other.add(frames[i])
        chance.append(np.linalg.slogdet(other.precision)[1])
    assert np.linalg.slogdet(design.precision)[1] > max(chance)


def test_gain_is_the_change_of_the_determinant(rng):
    for rows in (2, 9):  # fewer and more than features
        x, design = rng.standard_normal((rows, 4)), DOptimal(np.array([1.0, 2.0, 1.0, 3.0]))
        design.add(rng.standard_normal((5, 4)))
        before = np.linalg.slogdet(design.precision)[1]
        gain = design.gain(x)
        design.add(x)
        assert gain == pytest.approx(np.linalg.slogdet(design.precision)[1] - before, rel=1e-9)


def test_rank_deficient_and_constant_features_are_no_trouble():
    frames = [np.array([[1.0, 1.0, 0.0]]), np.array([[2.0, 2.0, 0.0]]), np.array([[1.0, 1.0, 0.0]])]
    found = DOptimal(spread(frames)).choose(frames, 3)
    assert found[0] == 1 and sorted(found) == [0, 1, 2]


def test_bad_descriptors_are_refused():
    with pytest.raises(UserError, match="finite"):
        farthest_points(np.array([[0.0], [np.nan]]), 1)
    with pytest.raises(UserError, match="Cannot choose 3 of 2"):
        farthest_points(np.zeros((2, 1)), 3)
    with pytest.raises(UserError, match="Cannot choose 2 of 1"):
        DOptimal(np.ones(1)).choose([np.ones((1, 1))], 2)
    with pytest.raises(UserError, match="ridge"):
        DOptimal(np.ones(1), ridge=0.0)
    for bad in itertools.islice((np.inf, np.nan), 2):
        with pytest.raises(UserError, match="finite"):
            DOptimal(np.ones(1)).choose([np.array([[bad]])], 1)
