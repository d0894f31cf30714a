"""IoU over clicks, and the number of clicks that a good mask takes."""

import math

import pytest
import torch

from seglib.metrics.clicks import ClickCurve, number_of_clicks

IOUS = torch.tensor([[0.2, 0.86, 0.91], [0.85, 0.7, 0.88], [0.1, 0.3, 0.5]])
"""Of three objects after each of three clicks."""
LABELS = torch.tensor([0, 2, 0])


def scores(ious=IOUS, labels=LABELS, oracle=None, num_classes=3):
    curve = ClickCurve(num_classes, ious.shape[1])
    curve.update(ious, labels, oracle)
    return curve.compute()


def test_the_number_of_clicks_is_the_first_that_reaches_the_threshold_or_the_last_one():
    assert number_of_clicks(IOUS, 0.85).tolist() == [2, 1, 3]  # a worse third mask doesn't take the first click back
    assert number_of_clicks(IOUS, 0.9).tolist() == [3, 3, 3]
    assert number_of_clicks(IOUS[:0], 0.9).tolist() == []
    assert IOUS[2, 2] == 0.5  # what was given stays


def test_the_scores_of_three_objects():
    s = scores(oracle=torch.tensor([0.5, 0.9, 0.1]))
    assert s.miou.tolist() == pytest.approx([1.15 / 3, 1.86 / 3, 2.29 / 3])
    assert s.oracle == pytest.approx(1.5 / 3)
    assert s.noc.tolist() == [2, 3]
    assert s.reached.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert s.objects == 3


def test_a_mask_that_was_good_once_counts_as_reached():
    s = scores(torch.tensor([[0.92, 0.5, 0.6], [0.1, 0.88, 0.2]]), torch.tensor([0, 0]))
    assert s.reached.tolist() == [1, 0.5] and s.noc.tolist() == [1.5, 2]


def test_the_scores_of_each_class():
    s = scores()
    assert s.class_objects.tolist() == [2, 0, 1]
    assert s.class_miou[0].tolist() == pytest.approx([0.15, 0.58, 0.705])
    assert s.class_miou[2].tolist() == pytest.approx([0.85, 0.7, 0.88])
    assert s.class_noc[[0, 2]].tolist() == [[2.5, 3], [1, 3]]
    assert s.class_oracle[[0, 2]].tolist() == pytest.approx([0.15, 0.85])  # with one answer it is the best
    assert s.class_miou[1].isnan().all() and s.class_noc[1].isnan().all() and s.class_oracle[1].isnan()


def test_objects_count_alike_however_they_come():
    together, first, second = (ClickCurve(3, 3) for _ in range(3))
    together.update(IOUS, LABELS)
    first.update(IOUS[:1], LABELS[:1])
    second.update(IOUS[1:], LABELS[1:])
    second.update(IOUS[:0], LABELS[:0])
    assert torch.equal(first.merge(second).counts, together.counts)


def test_objects_need_no_classes():
    curve = ClickCurve(clicks=3)
    curve.update(IOUS)
    assert curve.compute().class_miou.tolist() == [pytest.approx([1.15 / 3, 1.86 / 3, 2.29 / 3])]


def test_without_objects_nothing_is_known():
    s = ClickCurve(2, 4).compute()
    assert s.objects == 0 and math.isnan(s.oracle)
    assert s.miou.shape == (4,) and s.miou.isnan().all() and s.noc.isnan().all() and s.reached.isnan().all()


def test_curves_of_other_lengths_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge"):
        ClickCurve(3, 5).merge(ClickCurve(3, 4))


@pytest.mark.parametrize(
    ("ious", "labels", "oracle", "message"),
    [
        (IOUS[:, :2], LABELS, None, r"must be \(N, 3\).*got \(3, 2\)"),
        (IOUS, LABELS[:2], None, r"got \(3, 3\), \(2,\)"),
        (IOUS, LABELS, IOUS, r"and \(3, 3\)"),
        (IOUS + 0.2, LABELS, None, r"lies in \[0, 1\], got .* to 1.1"),
        (IOUS / 0 * 0, LABELS, None, "got nan"),
        (IOUS, LABELS + 1, None, r"in 0..2, got 1..3"),
        (IOUS, LABELS - 1, None, r"got -1..1"),
    ],
)
def test_bad_input_is_refused(ious, labels, oracle, message):
    with pytest.raises(ValueError, match=message):
        ClickCurve(3, 3).update(ious, labels, oracle)


def test_a_curve_has_clicks_and_classes():
    with pytest.raises(ValueError, match="at least 1 click, got 0"):
        ClickCurve(3, 0)
    with pytest.raises(ValueError, match="at least one class"):
        ClickCurve(0)
