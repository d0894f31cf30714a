"""The foreground-restricted Rand score, by hand and against a count over all pairs of pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seglib.metrics.rand import cells, foreground_rand

SMALL = arrays(np.int32, (3, 4), elements=st.integers(0, 3))


def test_two_cells_joined_worked_by_hand():
    # Cells of 4 and 2 pixels become one of 6: Σp² = 16 + 4, Σt² = 16 + 4, Σs² = 36.
    truth = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    found = foreground_rand(np.ones_like(truth), truth)
    assert (found.split, found.merge) == (1.0, pytest.approx(20 / 36))
    assert found.score == pytest.approx(2 * 20 / (36 + 20))


def test_a_cell_cut_in_half_worked_by_hand():
    truth = np.array([[5, 5, 5, 5]])
    found = foreground_rand(np.array([[1, 1, 2, 2]]), truth)
    assert (found.split, found.merge) == (pytest.approx(8 / 16), 1.0)


@given(SMALL, SMALL)
def test_it_counts_ordered_pairs_of_pixels(predicted, truth):
    inside = np.flatnonzero(truth)
    if len(inside) == 0:
        assert math.isnan(foreground_rand(predicted, truth).score)
        return
    p, t = predicted.ravel()[inside], truth.ravel()[inside]
    same_p, same_t = p[:, None] == p, t[:, None] == t
    found = foreground_rand(predicted, truth)
    assert found.split == pytest.approx((same_p & same_t).sum() / same_t.sum())
    assert found.merge == pytest.approx((same_p & same_t).sum() / same_p.sum())
    assert found.score == pytest.approx(2 / (1 / found.split + 1 / found.merge))


@given(SMALL)
def test_another_numbering_of_the_same_cells_scores_one(truth):
    if truth.any():
        assert foreground_rand((truth * 7) % 11, truth).score == 1.0


def test_a_gap_of_one_pixel_joins_cells_and_a_wide_membrane_does_not():
    inside = np.ones((9, 9), bool)
    inside[:, 4] = False
    truth = cells(inside)
    assert truth.max() == 2
    gap, wide = inside.copy(), inside.copy()
    gap[4, 4] = True
    wide[:, 3:6] = False
    assert foreground_rand(cells(gap, fill=True), truth).score < 0.7
    assert foreground_rand(cells(wide, fill=True), truth).score == 1.0
    assert foreground_rand(cells(wide), truth).score < 1.0  # unfilled, the membrane is one more cell


def test_without_cells_and_with_other_shapes():
    assert not cells(np.zeros((3, 3), bool), fill=True).any()
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(3, 2\)"):
        foreground_rand(np.zeros((2, 2), int), np.zeros((3, 2), int))
