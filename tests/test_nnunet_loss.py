"""nnU-Net's loss, worked out by hand; that it is nnU-Net's, tests/parity says."""

import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from seglib.losses import cross_entropy, dice_loss, nnunet_loss, sigmoid_cross_entropy, sigmoid_dice, tversky_loss


def logits_of(*samples):
    """Logits (B, K, W), float64, whose softmax is the given probabilities: of each sample a row of K for each pixel."""
    return torch.tensor(samples, dtype=torch.float64).log().movedim(2, 1)


SURE, HALF = [0.2, 0.8, 0.0 + 1e-12], [0.5, 0.5, 1e-12]
LOGITS = logits_of([SURE, SURE], [HALF, HALF])
TARGET = torch.tensor([[1, 1], [0, 1]])  # no class 2


def test_dice_without_background_counts_absent_classes_within_each_sample():
    # class 1: 2 · 1.6 / (1.6 + 2) and 2 · 0.5 / (1 + 1); class 2 is absent and not predicted either, so its D is 1
    dice = 1 - (3.2 / 3.6 + 1 + 1 / 2 + 1) / 4
    ce = -(2 * math.log(0.8) + 2 * math.log(0.5)) / 4
    assert nnunet_loss(LOGITS, TARGET, batch_dice=False).item() == pytest.approx(ce + dice, abs=1e-5)  # the smoothing


def test_batch_dice_pools_the_samples():
    dice = 1 - (2 * 2.1 / (2.6 + 3) + 1) / 2
    ce = -(2 * math.log(0.8) + 2 * math.log(0.5)) / 4
    assert nnunet_loss(LOGITS, TARGET, batch_dice=True).item() == pytest.approx(ce + dice, abs=1e-5)


def test_a_little_of_an_absent_class_costs_all_of_its_dice():
    little = logits_of([[0.19, 0.8, 0.01]] * 2)
    # D of class 2 is 1e-5 / (0.02 + 1e-5)
    assert nnunet_loss(little, TARGET[:1], batch_dice=True).item() == pytest.approx(
        -math.log(0.8) + 1 - (3.2 / 3.6 + 1e-5 / 0.02001) / 2, abs=1e-5
    )


def test_void_is_left_out_and_gets_no_gradient():
    target = torch.tensor([[1, 255], [0, 1]])
    logits = LOGITS.clone().requires_grad_()
    loss = nnunet_loss(logits, target, batch_dice=True)
    loss.backward()
    dice = 1 - (2 * 1.3 / (1.8 + 2) + 1) / 2
    assert loss.item() == pytest.approx(-(math.log(0.8) + 2 * math.log(0.5)) / 3 + dice, abs=1e-5)
    assert (logits.grad[0, :, 1] == 0).all() and (logits.grad[0, :, 0] != 0).any()


def test_of_regions_all_have_binary_cross_entropy_and_dice():
    logits = torch.tensor([[[0.8, 0.8], [0.5, 0.5]]], dtype=torch.float64).logit()  # two regions that overlap
    target = torch.tensor([[[1, 1], [0, 1]]])
    ce = -(2 * math.log(0.8) + 2 * math.log(0.5)) / 4
    dice = 1 - (3.2 / 3.6 + 1 / 2) / 2
    assert nnunet_loss(logits, target, batch_dice=False).item() == pytest.approx(ce + dice, abs=1e-5)


def test_batch_dice_of_regions_pools_the_samples():
    logits = torch.tensor([[[0.8, 0.8]], [[0.5, 0.5]]], dtype=torch.float64).logit()  # (2, 1, 2)
    target = torch.tensor([[[1, 1]], [[0, 1]]])
    ce = -(2 * math.log(0.8) + 2 * math.log(0.5)) / 4
    pooled, apart = 1 - 2 * 2.1 / (2.6 + 3), 1 - (3.2 / 3.6 + 1 / 2) / 2
    assert nnunet_loss(logits, target, batch_dice=True).item() == pytest.approx(ce + pooled, abs=1e-5)
    assert nnunet_loss(logits, target, batch_dice=False).item() == pytest.approx(ce + apart, abs=1e-5)


def test_where_all_is_void_the_loss_is_0_with_zero_gradients():
    for target in (torch.full((2, 2), 255), torch.full((2, 3, 2), 255)):
        logits = LOGITS.clone().requires_grad_()
        loss = nnunet_loss(logits, target, batch_dice=False)
        loss.backward()
        assert loss == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_gradients(batch_dice):
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes, regions = torch.tensor([[1, 1, 0, 255], [0, 0, 0, 1]]), torch.tensor([[[0, 1, 1, 255]] * 3] * 2)
    for target in (classes, regions):
        assert gradcheck(partial(nnunet_loss, target=target, batch_dice=batch_dice), (logits.requires_grad_(),))


def test_cross_entropy_and_dice_can_be_had_alone():
    regions = torch.tensor([[[0, 1]] * 3] * 2)
    for per_sample in (False, True):
        dice = dice_loss(LOGITS, TARGET, per_sample=per_sample, absent="count", include_background=False)
        loss = nnunet_loss(LOGITS, TARGET, batch_dice=not per_sample)
        assert loss.item() == pytest.approx((cross_entropy(LOGITS, TARGET) + dice).item())
        dice = sigmoid_dice(LOGITS, regions, per_sample=per_sample, smooth=1e-5)
        loss = nnunet_loss(LOGITS, regions, batch_dice=not per_sample)
        assert loss.item() == pytest.approx((sigmoid_cross_entropy(LOGITS, regions) + dice).item())


def test_without_the_background_the_mean_runs_over_the_other_classes():
    logits, target = LOGITS[..., :1], TARGET[..., :1]
    for loss in (dice_loss, tversky_loss):
        arguments = {"absent": "count", "per_sample": True}
        everything = loss(logits, target, **arguments)
        foreground = loss(logits, target, include_background=False, **arguments)
        # class 0 alone: a softmax over it and all others together
        others = torch.stack([logits[:, 0], logits[:, 1:].logsumexp(1)], 1)
        background = 2 * loss(others, (target > 0).long(), **arguments) - loss(
            others, (target > 0).long(), include_background=False, **arguments
        )
        assert (3 * everything - 2 * foreground).item() == pytest.approx(background.item())


def test_wrong_shapes_and_labels_are_named():
    with pytest.raises(ValueError, match="target label 3"):
        nnunet_loss(LOGITS, torch.tensor([[3, 1], [0, 1]]), batch_dice=True)
    with pytest.raises(ValueError, match="0, 1 or 255"):
        nnunet_loss(LOGITS, torch.full((2, 3, 2), 2), batch_dice=True)
    with pytest.raises(ValueError, match="regions of the same shape"):
        nnunet_loss(LOGITS, torch.ones(2, 2, 2).long(), batch_dice=True)
