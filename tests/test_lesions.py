"""Lesion-wise recall, precision and F1, on masks that a person can count and against a definition by loop."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.metrics import lesion_scores


def bits(*rows):
    """A mask from rows of text: # is inside."""
    return torch.tensor([[c == "#" for c in row] for row in rows])


def components(mask, near):
    """The connected components as sets of places; ``near`` says of the difference of two places if they touch."""
    left, found = {tuple(v) for v in mask.nonzero().tolist()}, []
    while left:
        group, front = set(), {left.pop()}
        while front:
            group |= front
            front = {v for v in left if any(near([abs(a - b) for a, b in zip(v, u, strict=True)]) for u in front)}
            left -= front
        found.append(group)
    return found


def scores_by_loop(pred, target, near, threshold):
    p, t = components(pred, near), components(target, near)
    matches = {(i, j) for i, a in enumerate(p) for j, b in enumerate(t) if len(a & b) > threshold * len(a | b)}
    return len(t), len({j for _, j in matches}), len(p), len({i for i, _ in matches})


def counts(scores):
    return scores.lesions, scores.found, scores.predictions, scores.confirmed


NEAR = {6: lambda d: sum(d) <= 1, 18: lambda d: max(d) <= 1 and sum(d) <= 2, 26: lambda d: max(d) <= 1}


def test_every_lesion_counts_once_whatever_its_size():
    target = bits("####...#", "####....", "####.#..")  # a large lesion and two of one pixel
    pred = bits("####....", "####....", "####....")
    found = lesion_scores(pred, target)
    assert counts(found) == (3, 1, 1, 1)
    assert (found.recall, found.precision, found.f1) == (1 / 3, 1, pytest.approx(0.5))


def test_precision_counts_predicted_lesions_and_recall_true_ones():
    target = bits("##########", "..........", "..........")
    pred = bits("#.#.......", "..........", "....#..#.#")  # two of five lie on the one true lesion
    found = lesion_scores(pred, target)
    assert counts(found) == (1, 1, 5, 2)
    assert (found.recall, found.precision, found.f1) == (1, 0.4, pytest.approx(0.8 / 1.4))


def test_a_match_needs_an_iou_above_the_threshold():
    target, pred = bits("####...."), bits("..####..")  # IoU 2 / 6
    assert lesion_scores(pred, target).f1 == 1
    assert lesion_scores(pred, target, iou_threshold=0.33).f1 == 1
    assert lesion_scores(pred, target, iou_threshold=0.34).f1 == 0
    assert lesion_scores(bits("####"), bits("##.."), iou_threshold=0.5).f1 == 0  # an IoU of ½ is not above ½


def test_voxels_that_touch_at_a_corner_are_one_lesion_unless_connectivity_says_otherwise():
    mask = torch.eye(2, dtype=torch.bool).new_zeros(2, 2, 2)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert [lesion_scores(mask, mask, connectivity=c).lesions for c in (None, 26, 18, 6)] == [1, 1, 2, 2]
    edge = torch.eye(2, dtype=torch.bool)
    assert [lesion_scores(edge, edge, connectivity=c).lesions for c in (None, 8, 4)] == [1, 1, 2]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([6, 18, 26]), st.sampled_from([0.0, 0.1, 0.5]))
def test_counts_follow_the_definition(seed, connectivity, threshold):
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(4, 5, 5, generator=g) < 0.2
    pred = (target ^ (torch.rand(4, 5, 5, generator=g) < 0.1)) & (torch.rand(4, 5, 5, generator=g) < 0.9)
    found = lesion_scores(pred, target, connectivity=connectivity, iou_threshold=threshold)
    assert counts(found) == scores_by_loop(pred, target, NEAR[connectivity], threshold)


def test_no_lesion_and_no_prediction_is_no_score():
    nothing = torch.zeros(2, 3, 4, dtype=torch.bool)
    found = lesion_scores(nothing, nothing)
    assert all(map(math.isnan, (found.recall, found.precision, found.f1)))


def test_a_missed_or_an_invented_lesion_has_the_worst_scores():
    nothing, one = torch.zeros(2, 3, 4, dtype=torch.bool), torch.ones(2, 3, 4, dtype=torch.bool)
    for pair in ((nothing, one), (one, nothing)):
        found = lesion_scores(*pair)
        assert (found.recall, found.precision, found.f1) == (0, 0, 0)


def test_void_is_cut_out_of_both_masks():
    target, pred, void = bits("##....."), bits("...####"), bits("...####")
    assert counts(lesion_scores(pred, target, void=void)) == (1, 0, 0, 0)
    assert counts(lesion_scores(bits("#####"), bits("#####"), void=bits("..#.."))) == (2, 2, 2, 2)  # cut in two


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"connectivity": 8}, "the connectivity of a 3D mask is one of [6, 18, 26], got 8"),
        ({"iou_threshold": 1.0}, "an IoU threshold is in [0, 1), got 1.0; 0 lets any overlap match"),
        ({"void": torch.zeros(2, 2, 1, dtype=torch.bool)}, "the void has shape (2, 2, 1)"),
    ],
)
def test_bad_arguments_are_named(keywords, message):
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=re.escape(message)):
        lesion_scores(mask, mask, **keywords)
