"""Errors of detections, one of each type by hand."""

import pytest
import torch

from seglib.metrics import AveragePrecision, detection_errors
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances


def squares(places, labels, scores=None, crowd=None):
    """10×10 squares with their upper left corners at these (x, y)."""
    masks = torch.zeros(len(places), 64, 64, dtype=torch.bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[y : y + 10, x : x + 10] = True
    scores = None if scores is None else torch.tensor(scores)
    crowd = None if crowd is None else torch.tensor(crowd)
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), masks_to_boxes(masks), scores, crowd)


TRUTH = squares([(0, 0), (20, 0), (40, 0), (0, 30), (40, 40)], [0, 0, 1, 1, 0], crowd=[False] * 4 + [True])


@pytest.mark.parametrize("iou_type", ["masks", "boxes"])
def test_one_of_each_type(iou_type):
    found = squares(
        [(0, 0), (1, 0), (20, 0), (5, 30), (44, 3), (20, 50), (41, 40)],
        [0, 0, 1, 1, 0, 0, 0],
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    )
    errors = detection_errors(found, TRUTH, iou_type=iou_type)
    # found, found again, of another class, half beside, beside and of another class, nothing there, in a crowd
    assert errors.types.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert errors.objects.tolist() == [0, 0, 1, 3, 2, -1, 4]
    assert errors.missed.tolist() == [False, True, True, True, False]
    assert errors.counts() == dict.fromkeys(
        ("correct", "duplicate", "class", "location", "both", "background", "ignored"), 1
    ) | {"missed": 3}


def test_the_better_score_takes_the_object():
    found = squares([(0, 0), (1, 0)], [0, 0], [0.2, 0.9])
    assert detection_errors(found, TRUTH).types.tolist() == [1, 0]


def test_an_iou_at_the_threshold_counts():
    found = squares([(5, 0)], [0], [0.9])  # IoU 50 / 150
    assert detection_errors(found, TRUTH, threshold=1 / 3).counts()["correct"] == 1
    assert detection_errors(found, TRUTH, threshold=0.34).counts()["location"] == 1


def test_correct_detections_are_the_hits_of_average_precision():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        places = torch.randint(0, 50, (12, 2), generator=g)
        truth = squares(places[:6].tolist(), torch.randint(2, (6,), generator=g).tolist())
        near = (places[:6] + torch.randint(0, 5, (6, 2), generator=g)).clamp(max=54)
        labels = torch.cat([truth.labels, torch.randint(2, (6,), generator=g)]).tolist()
        found = squares(torch.cat([near, places[6:]]).tolist(), labels, torch.rand(12, generator=g).tolist())
        metric = AveragePrecision(2)
        metric.update(found, truth)
        recall, objects = metric.compute().recall[0, :, 0, 2], torch.bincount(truth.labels, minlength=2)
        hits = sum(float(r) * int(n) for r, n in zip(recall, objects, strict=True) if n)
        errors = detection_errors(found, truth)
        assert errors.counts()["correct"] == pytest.approx(hits)
        assert errors.counts()["missed"] == pytest.approx(6 - hits)


def test_nothing_found_and_nothing_there():
    none = squares([], [], [])
    assert detection_errors(none, TRUTH).counts()["missed"] == 4
    assert detection_errors(squares([(0, 0)], [0], [0.5]), squares([], [])).types.tolist() == [5]
    assert detection_errors(none, squares([], [])).counts()["missed"] == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="has no scores"):
        detection_errors(TRUTH, TRUTH)
    with pytest.raises(ValueError, match="near 0.6 and threshold 0.5"):
        detection_errors(squares([(0, 0)], [0], [0.5]), TRUTH, near=0.6)
    with pytest.raises(ValueError, match='iou_type is "masks" or "boxes" .*got \'segm\''):
        detection_errors(squares([(0, 0)], [0], [0.5]), TRUTH, iou_type="segm")
