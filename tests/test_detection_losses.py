"""Matching, sampling and the losses of two-stage detectors."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import generalized_box_iou_loss

from seglib.losses import two_stage
from seglib.losses.assign import match_boxes, sample_balanced
from seglib.losses.box import giou_loss, smooth_l1
from seglib.losses.fcos import distance_giou_loss
from seglib.losses.two_stage import BOX_WEIGHTS, mask_loss, mask_targets, roi_loss, rpn_loss
from seglib.ops.boxes import decode_boxes, encode_boxes

PAPER = {"foreground_iou": 0.7, "background_iou": 0.3, "allow_low_quality_matches": True}


def test_matching_by_hand():
    iou = torch.tensor([[0.8, 0.5, 0.1, 0.0, 0.45], [0.2, 0.6, 0.2, 0.0, 0.2]])
    assert match_boxes(iou, foreground_iou=0.7, background_iou=0.3).tolist() == [0, -2, -1, -1, -2]
    # object 1 reaches 0.7 nowhere; its best box is a low-quality match
    assert match_boxes(iou, **PAPER).tolist() == [0, 1, -1, -1, -2]
    assert match_boxes(iou, foreground_iou=0.5, background_iou=0.5).tolist() == [0, 1, -1, -1, -1]


@pytest.mark.parametrize("low_quality", [True, False])
def test_matching_equals_torchvision(low_quality):
    g = torch.Generator().manual_seed(0)
    reference = Matcher(0.7, 0.3, allow_low_quality_matches=low_quality)
    settings = PAPER | {"allow_low_quality_matches": low_quality}
    for _ in range(500):
        objects, boxes = (int(torch.randint(1, n, (), generator=g)) for n in (6, 40))
        iou = (torch.rand(objects, boxes, generator=g) * 20).round() / 20  # ties and values at the thresholds
        iou[:, 0] += 0.01  # every object touches a box
        assert torch.equal(match_boxes(iou, **settings), reference(iou))


def test_an_object_that_touches_no_box_makes_none_of_them_a_match():
    iou = torch.tensor([[0.9, 0.0], [0.0, 0.0]])
    assert match_boxes(iou, **PAPER).tolist() == [0, -1]
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou).tolist() == [0, 0]  # the published detectors' way


def test_without_objects_all_is_background():
    assert match_boxes(torch.zeros(0, 3), **PAPER).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="got background_iou 0.7 and foreground_iou 0.3"):
        match_boxes(torch.zeros(1, 3), foreground_iou=0.3, background_iou=0.7)


def test_samples_are_balanced_random_and_foreground_comes_first():
    matches = torch.tensor([-1] * 50 + [3] * 20 + [-2] * 10)
    picked = sample_balanced(matches, 16, 0.25)
    assert (matches[picked] >= 0).tolist() == [True] * 4 + [False] * 12
    assert len(set(picked.tolist())) == 16
    seen = {i for _ in range(100) for i in sample_balanced(matches, 16, 0.25).tolist()}
    assert seen == set(range(70))
    few = sample_balanced(torch.tensor([-1, 0, -1]), 16, 0.25)
    assert sorted(few.tolist()) == [0, 1, 2] and few[0] == 1
    assert sample_balanced(torch.tensor([-2, -2]), 16, 0.25).tolist() == []


def test_background_takes_the_place_of_foreground_that_is_missing():
    picked = sample_balanced(torch.tensor([-1] * 20 + [0] + [-2] * 5), 16, 0.5)
    assert len(picked) == 16 and picked[0] == 20 and (picked[1:] < 20).all()


def test_smooth_l1_and_giou_by_hand():
    a, b = torch.tensor([[0.05, 0.0, 3.0, 0.0]]), torch.zeros(1, 4)
    assert smooth_l1(a, b).item() == pytest.approx(3.05)
    assert smooth_l1(a, b, beta=0.1).item() == pytest.approx(0.05**2 / 0.2 + 3 - 0.05)
    boxes, others = torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1]]), torch.tensor([[2.0, 2, 6, 6], [3, 0, 4, 1]])
    torch.testing.assert_close(giou_loss(boxes, others), generalized_box_iou_loss(boxes, others, reduction="sum"))
    with pytest.raises(ValueError, match="beta is at least 0"):
        smooth_l1(a, b, beta=-1.0)


@pytest.mark.parametrize(("left", "right"), [((3, 4), (1, 4)), ((1, 4), (3, 4)), ((4,), (3, 4)), ((3, 1), (3, 4))])
@pytest.mark.parametrize("loss", [giou_loss, smooth_l1, distance_giou_loss])
def test_pairs_of_another_number_are_refused_and_not_repeated(loss, left, right):
    with pytest.raises(ValueError, match=r"got \(.*\) and \(.*\)"):
        loss(torch.ones(left), torch.ones(right))


def test_the_rpn_loss_divides_by_all_samples():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 5, 5]])
    boxes = torch.tensor([[1.0, 0, 11, 10], [0, 0, 0, 0], [0, 0, 0, 0]])
    foreground = torch.tensor([True, False, False])
    found, moved = rpn_loss(torch.zeros(3), torch.zeros(3, 4), anchors, boxes, foreground)
    assert found.item() == pytest.approx(math.log(2))
    assert moved.item() == pytest.approx(0.1 / 3)
    none = torch.zeros(0)
    assert [float(v) for v in rpn_loss(none, none.view(0, 4), none.view(0, 4), none.view(0, 4), none.bool())] == [0, 0]


def test_the_roi_loss_trains_the_deltas_of_the_objects_class_alone():
    rois = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20]])
    boxes = torch.tensor([[1.0, 0, 11, 10], [0, 0, 0, 0]])
    labels = torch.tensor([2, 3])  # class 2, and background of 3 classes
    deltas = torch.zeros(2, 3, 4, requires_grad=True)
    classes, box = roi_loss(torch.zeros(2, 4), deltas, rois, labels, boxes)
    assert classes.item() == pytest.approx(math.log(4))
    assert box.item() == pytest.approx(10 * 0.1 / 2)
    box.backward()
    assert deltas.grad[0, 2].any() and not deltas.grad[0, :2].any() and not deltas.grad[1].any()


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_right_deltas_cost_nothing(box_loss):
    rois, boxes = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[3.0, 1, 15, 9]])
    right = encode_boxes(boxes, rois, BOX_WEIGHTS)[:, None]  # (1, 1, 4) class-agnostic
    torch.testing.assert_close(decode_boxes(right[:, 0], rois, BOX_WEIGHTS), boxes)
    label, logits = torch.tensor([1]), torch.zeros(1, 4)
    cost = lambda deltas: roi_loss(logits, deltas, rois, label, boxes, box_loss=box_loss)[1].item()  # noqa: E731
    assert cost(right) == pytest.approx(0, abs=1e-6)
    assert cost(0 * right) > 0.3


def test_mask_targets_by_hand():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :4], masks[1, 2:6, 2:6] = True, True
    boxes = torch.tensor([[0.0, 0, 8, 8], [2, 2, 6, 6], [3, 0, 7, 4]])
    cut = mask_targets(masks, torch.tensor([0, 1, 0]), boxes, 4, aligned=True, binary=False)
    assert torch.equal(cut[0], torch.tensor([1.0, 1, 0, 0]).expand(4, 4))
    assert torch.equal(cut[1], torch.ones(4, 4))
    assert torch.equal(cut[2], torch.tensor([1.0, 0, 0, 0]).expand(4, 4))
    shifted = mask_targets(masks, torch.tensor([0]), boxes[2:] + 0.25, 4, aligned=True, binary=False)
    torch.testing.assert_close(shifted[0, 0], torch.tensor([0.75, 0, 0, 0]))
    assert mask_targets(masks, torch.tensor([0]), boxes[2:] + 0.25, 4, aligned=True, binary=True)[0, 0, 0] == 1
    # without the half cell the same cells are read half a pixel further to the right
    assert mask_targets(masks, torch.tensor([0]), boxes[:1], 4, aligned=False, binary=False)[0, 0, 1] == 0.75
    none = torch.zeros(0, dtype=torch.int64)
    assert mask_targets(masks[:0], none, boxes[:0], 4, aligned=True, binary=True).shape == (0, 4, 4)


@pytest.mark.parametrize("aligned", [True, False])
def test_mask_targets_of_a_few_masks_at_a_time_are_those_of_all_at_once(aligned, monkeypatch):
    g = torch.Generator().manual_seed(0)
    y, x = torch.arange(90)[:, None], torch.arange(120)
    centre, radius = torch.rand(7, 2, 1, 1, generator=g) * 100, 5 + 30 * torch.rand(7, 1, 1, generator=g)
    masks = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2
    matches = torch.randint(6, (50,), generator=g)
    matches[matches == 2] = 6  # object 2 has no RoI
    corner = torch.rand(50, 2, generator=g) * torch.tensor([110.0, 80])
    boxes = torch.cat([corner, corner + 1 + 60 * torch.rand(50, 2, generator=g)], 1)
    boxes[:20] = boxes[:20].round()  # as objects have them
    boxes[:, 0::2].clamp_(max=120), boxes[:, 1::2].clamp_(max=90)
    cast = []
    plain = two_stage.roi_align
    monkeypatch.setattr(two_stage, "roi_align", lambda m, *rest, **more: cast.append(len(m)) or plain(m, *rest, **more))
    monkeypatch.setattr(two_stage, "CHUNK", 3 * 90 * 120 - 1)  # of 2 masks
    found = mask_targets(masks, matches, boxes, 14, aligned=aligned, binary=False)
    want = plain(masks[:, None].float(), boxes, matches, 14, strides=1.0, sampling_ratio=0, aligned=aligned)[:, 0]
    assert torch.equal(found, want) and 0.05 < want.mean() < 0.95
    assert cast == [2, 2, 2] and len(matches.unique()) == 6


def test_the_mask_loss_is_a_mean_over_pixels_and_0_without_masks():
    logits = torch.randn(3, 4, 4, requires_grad=True)
    target = torch.rand(3, 4, 4)
    torch.testing.assert_close(mask_loss(logits, target), F.binary_cross_entropy_with_logits(logits, target))
    nothing = mask_loss(logits[:0], target[:0])
    assert nothing == 0 and nothing.requires_grad
