"""Regions that may overlap: their losses and their Dice and IoU over a dataset, worked out by hand."""

import math

import pytest
import torch

from seglib.losses.regions import sigmoid_cross_entropy, sigmoid_cross_entropy_dice, sigmoid_dice
from seglib.metrics.overlap import RegionOverlap

# Two regions over four pixels (one image, one row); the last pixel of the first region is void.
PROBS = torch.tensor([[0.75, 0.5, 0.25, 0.9], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
LOGITS = torch.logit(PROBS)[None, :, None]  # (1, 2, 1, 4)
TARGET = torch.tensor([[1, 1, 0, 255], [0, 0, 0, 0]])[None, :, None]


def test_cross_entropy_is_the_mean_over_what_is_not_void():
    # −log of ¾, ½ and 1 − ¼; four times −log ½
    want = -(2 * math.log(0.75) + 5 * math.log(0.5)) / 7
    assert float(sigmoid_cross_entropy(LOGITS, TARGET)) == pytest.approx(want)


def test_dice_is_of_each_region_over_the_batch():
    # Σ p t = 1.25, Σ p = 1.5, Σ t = 2; the second region is absent: Σ p = 2
    want = 1 - ((2 * 1.25 + 1) / (3.5 + 1) + 1 / (2 + 1)) / 2
    assert float(sigmoid_dice(LOGITS, TARGET)) == pytest.approx(want)
    assert float(sigmoid_dice(LOGITS, TARGET, smooth=0.5)) == pytest.approx(1 - (3 / 4 + 0.5 / 2.5) / 2)
    # as two images the pixels of a region are still counted together
    apart = LOGITS.view(1, 2, 2, 2).permute(2, 1, 0, 3), TARGET.view(1, 2, 2, 2).permute(2, 1, 0, 3)
    assert float(sigmoid_dice(*apart)) == pytest.approx(want)


def test_the_sum_of_both():
    want = sigmoid_cross_entropy(LOGITS, TARGET) + sigmoid_dice(LOGITS, TARGET)
    assert float(sigmoid_cross_entropy_dice(LOGITS, TARGET)) == pytest.approx(float(want))


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, sigmoid_dice, sigmoid_cross_entropy_dice])
def test_void_has_no_gradient_and_the_rest_equals_finite_differences(loss):
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, TARGET), logits)
    assert gradient[0, 0, 0, 3] == 0 and (gradient != 0).sum() == 7
    assert torch.autograd.gradcheck(lambda z: loss(z, TARGET), logits)


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, sigmoid_cross_entropy_dice])
def test_half_precision_is_computed_in_float32(loss):
    value = loss(LOGITS.bfloat16(), TARGET)
    assert value.dtype == torch.float32 and value == loss(LOGITS.bfloat16().float(), TARGET)


def test_all_void_costs_no_cross_entropy():
    assert sigmoid_cross_entropy(LOGITS, torch.full_like(TARGET, 255)) == 0


def test_bad_regions_are_refused():
    with pytest.raises(ValueError, match="regions of the same shape"):
        sigmoid_cross_entropy(LOGITS, TARGET[:, 0])
    with pytest.raises(ValueError, match=r"regions are 0, 1 or 255 .void., got \[0, 2\]"):
        sigmoid_cross_entropy(LOGITS, torch.where(TARGET > 0, 2, 0))
    with pytest.raises(ValueError, match="smooth must be positive, got 0.0"):
        sigmoid_dice(LOGITS, TARGET, smooth=0.0)


def test_overlap_is_pooled_over_images_and_leaves_void_out():
    metric = RegionOverlap(3)
    metric.update(torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool(), torch.tensor(
        [[1, 0, 1, 255], [0, 0, 0, 255], [0, 0, 0, 0]]
    ))  # fmt: skip
    metric.update(torch.tensor([[1, 1], [0, 0], [0, 0]]).bool(), torch.tensor([[1, 1], [0, 0], [0, 0]]))
    s = metric.compute()
    # region 0: 3 in both, 4 predicted (the one on void not), 4 true; 1 is nowhere; 2 is predicted once and never there
    assert metric.counts.tolist() == [[3, 0, 0], [4, 0, 1], [4, 0, 0]]
    assert s.dice[[0, 2]].tolist() == [6 / 8, 0] and s.iou[[0, 2]].tolist() == [3 / 5, 0]
    assert s.dice[1].isnan() and s.iou[1].isnan()
    assert (s.mean_dice, s.mean_iou) == pytest.approx((3 / 8, 3 / 10))


def test_predictions_of_other_shapes_and_types_are_refused():
    for prediction in (torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="expected bool regions .2, …."):
            RegionOverlap(2).update(prediction, torch.zeros(2, 4, dtype=torch.int64))
