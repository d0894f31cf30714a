"""Soft Dice and Tversky: worked by hand, the readable form against the fast one, absent classes, smoothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import logits_of, pixels, value_and_gradient

from seglib.losses import dice_loss, mask_dice_loss, tversky_loss

IMPLS = ["reference", "fast"]
every_impl = pytest.mark.parametrize("impl", IMPLS)

# Three pixels of classes 0, 1 and void.
LOGITS, TARGET = logits_of((0.75, 0.25), (0.5, 0.5), (0.1, 0.9)), torch.tensor([[[0, 1, 255]]])


@every_impl
def test_dice_worked_by_hand(impl):
    # class 0: 2·¾ / (¾ + ½ + 1) = 2/3, class 1: 2·½ / (¼ + ½ + 1) = 4/7
    loss = dice_loss(LOGITS, TARGET, smooth=0.0, impl=impl)
    assert float(loss) == pytest.approx(1 - (2 / 3 + 4 / 7) / 2)


@every_impl
def test_the_smoothing_stands_above_and_below(impl):
    loss = dice_loss(LOGITS, TARGET, smooth=1.0, impl=impl)
    assert float(loss) == pytest.approx(1 - (2.5 / 3.25 + 2 / 2.75) / 2)


@every_impl
def test_tversky_worked_by_hand(impl):
    # class 0: TP ¾, FP ½, FN ¼; class 1: TP ½, FP ¼, FN ½
    loss = tversky_loss(LOGITS, TARGET, alpha=0.3, beta=0.7, smooth=0.0, impl=impl)
    assert float(loss) == pytest.approx(1 - (0.75 / (0.75 + 0.15 + 0.175) + 0.5 / (0.5 + 0.075 + 0.35)) / 2)
    loss = tversky_loss(LOGITS, TARGET, alpha=0.3, beta=0.7, smooth=1.0, impl=impl)
    assert float(loss) == pytest.approx(1 - (1.75 / (1.75 + 0.15 + 0.175) + 1.5 / (1.5 + 0.075 + 0.35)) / 2)


@pytest.mark.parametrize("sure", [0.3, 0.7, 2.0, 5.0])
def test_rounding_of_large_sums_gives_no_false_positives(sure):
    # every pixel is of class 0 and no other class is in the target: FP is 0, the difference of two sums of p_0
    logits = torch.zeros(1, 2, 128, 128)
    logits[:, 0] = sure
    loss = tversky_loss(logits, torch.zeros(1, 128, 128, dtype=torch.long), alpha=1.0, beta=0.0, smooth=0.0)
    assert 0 <= float(loss) < 1e-5  # 1e-5: float32 sums of 16384 numbers, in two orders


@every_impl
def test_per_sample_counts_within_every_image_worked_by_hand(impl):
    # The two labelled pixels as two images. Image 0 has class 0 alone, with Dice 2·¾ / (¾ + 1) = 6/7, image 1 class 1
    # alone, with 2·½ / (½ + 1) = 2/3. The absent class of either image has Dice 0.
    logits, target = LOGITS[..., :2].permute(3, 1, 2, 0), torch.tensor([[[0]], [[1]]])
    loss = dice_loss(logits, target, per_sample=True, smooth=0.0, impl=impl)
    assert float(loss) == pytest.approx(1 - (6 / 7 + 2 / 3) / 2)
    loss = dice_loss(logits, target, per_sample=True, smooth=0.0, absent="count", impl=impl)
    assert float(loss) == pytest.approx(1 - (6 / 7 + 2 / 3 + 0 + 0) / 4)
    # and over the batch they are one image again
    assert float(dice_loss(logits, target, smooth=0.0, impl=impl)) == pytest.approx(1 - (2 / 3 + 4 / 7) / 2)


@every_impl
def test_an_absent_class_is_skipped_or_counts_worked_by_hand(impl):
    # Two pixels of class 0 in an image without class 1: class 0 has Dice 2·1.25 / (1.25 + 2) = 10/13.
    target = torch.tensor([[[0, 0, 255]]])
    assert float(dice_loss(LOGITS, target, smooth=0.0, impl=impl)) == pytest.approx(3 / 13)
    loss = dice_loss(LOGITS, target, smooth=0.0, absent="count", impl=impl)
    assert float(loss) == pytest.approx((3 / 13 + 1) / 2)
    # with s = 1 the absent class has 1 − 1 / (¾ + 1) = 3/7
    loss = dice_loss(LOGITS, target, smooth=1.0, absent="count", impl=impl)
    assert float(loss) == pytest.approx((1 - 3.5 / 4.25 + 3 / 7) / 2)


@every_impl
@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
def test_an_absent_class_that_is_not_predicted_has_loss_zero(impl, smooth):
    certain = torch.tensor([0.0, -1000.0]).view(1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    value, gradient = value_and_gradient(dice_loss, certain, target, smooth=smooth, absent="count", impl=impl)
    assert value == 0 and (gradient == 0).all()


@every_impl
@pytest.mark.parametrize("logit", [-300.0, -700.0, -709.0, -725.0, -744.0])
def test_a_probability_at_the_edge_of_underflow_has_a_finite_gradient(impl, logit):
    # p_1 is e⁻⁷²⁵ = 1e-315: positive, but 1 / p_1 is beyond the largest float64
    certain = torch.tensor([0.0, logit], dtype=torch.float64).view(1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    for prices in ({"alpha": 0.0, "beta": 0.0}, {"alpha": 0.5, "beta": 0.5}):
        _, gradient = value_and_gradient(tversky_loss, certain, target, smooth=0.0, absent="count", impl=impl, **prices)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("per_sample", [False, True])
@given(pixels(), st.sampled_from([(0.5, 0.5), (0.3, 0.7), (0.0, 1.0), (0.0, 0.0)]), st.sampled_from([0.0, 1e-5, 1.0]))
def test_the_fast_form_equals_the_reference(absent, per_sample, case, prices, smooth):
    alpha, beta = prices
    keywords = {"alpha": alpha, "beta": beta, "absent": absent, "per_sample": per_sample, "smooth": smooth}
    fast = value_and_gradient(tversky_loss, *case, **keywords)
    reference = value_and_gradient(tversky_loss, *case, **keywords, impl="reference")
    torch.testing.assert_close(fast, reference, rtol=1e-10, atol=1e-12)  # float64, sums in another order


@given(pixels(), st.sampled_from([0.0, 1e-3, 1.0]), st.booleans())
def test_tversky_with_equal_prices_of_one_half_is_dice_with_twice_the_smoothing(case, smooth, per_sample):
    logits, target = case
    p = logits.softmax(1)
    valid, truth = (target != 255)[:, None], target[:, None] == torch.arange(p.shape[1]).view(-1, 1, 1)
    over = (2, 3) if per_sample else (0, 2, 3)
    overlap, size = (p * truth).sum(over), (p * valid).sum(over) + truth.sum(over)
    dice = torch.where(size > 0, (2 * overlap + 2 * smooth) / (size + 2 * smooth), 1.0)
    expected = (1 - dice)[truth.sum(over) > 0].mean()
    found = tversky_loss(logits, target, alpha=0.5, beta=0.5, smooth=smooth, per_sample=per_sample)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # float64 rounding
    same = dice_loss(logits, target, smooth=2 * smooth, per_sample=per_sample)
    torch.testing.assert_close(same, expected, rtol=1e-10, atol=1e-12)


@given(pixels())
def test_at_hard_predictions_tversky_with_prices_of_one_is_one_minus_iou(case):
    logits, target = case
    pred, k = logits.argmax(1), logits.shape[1]
    hard = torch.zeros_like(logits).scatter_(1, pred[:, None], 1000.0)
    valid = target != 255
    iou = [float(((pred == c) & (target == c)).sum() / (((pred == c) & valid) | (target == c)).sum()) for c in range(k)]
    present = [iou[c] for c in range(k) if (target == c).any()]
    found = float(tversky_loss(hard, target, alpha=1.0, beta=1.0, smooth=0.0))
    assert found == pytest.approx(1 - sum(present) / len(present), abs=1e-6)  # IoU above is float32


def test_a_higher_price_of_misses_asks_for_recall():
    # one pixel of class 1 among nine of class 0, at p₁ = 0.1 everywhere
    logits = torch.tensor([0.9, 0.1]).log().view(1, 2, 1, 1).repeat(1, 1, 1, 10)
    target = torch.tensor([[[1] + [0] * 9]])
    pull = {}
    for beta in (0.5, 0.9):
        _, gradient = value_and_gradient(tversky_loss, logits, target, alpha=1 - beta, beta=beta)
        pull[beta] = float(gradient[0, 1].sum())  # of raising class 1 everywhere
    assert pull[0.9] < pull[0.5]


def test_sums_over_a_large_image_keep_their_digits():
    # A running float32 sum of 4 million times 0.1 is off by several percent.
    logits = torch.tensor([0.1, 0.9]).log().view(1, 2, 1, 1).expand(1, 2, 2048, 2048)
    target = torch.zeros(1, 2048, 2048, dtype=torch.long)
    loss = dice_loss(logits, target, smooth=0.0)
    assert float(loss) == pytest.approx(1 - 2 * 0.1 / 1.1, rel=1e-6)  # float32 rounding


@pytest.mark.parametrize("loss", [dice_loss, tversky_loss])
def test_settings_out_of_range_are_refused(loss):
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="smooth is finite and at least 0, got"):
            loss(LOGITS, TARGET, smooth=bad)
        with pytest.raises(ValueError, match="alpha is finite and at least 0, got"):
            tversky_loss(LOGITS, TARGET, alpha=bad)
        with pytest.raises(ValueError, match="beta is finite and at least 0, got"):
            tversky_loss(LOGITS, TARGET, beta=bad)
    with pytest.raises(ValueError, match="absent is 'skip' or 'count', got 'zero'"):
        loss(LOGITS, TARGET, absent="zero")
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        loss(LOGITS, TARGET, impl="slow")


def test_dice_of_masks_by_hand():
    logits = torch.tensor([[[0.5, 0.8], [0.1, 0.9]]]).logit()
    target = torch.tensor([[[True, True], [False, False]]])
    # 2 (½ + 0.8) / (¼ + 0.64 + 0.01 + 0.81 + 2)
    assert mask_dice_loss(logits, target).tolist() == pytest.approx([1 - 2.6 / 3.71001], rel=1e-6)
    assert mask_dice_loss(logits, target, eps=0.1).tolist() == pytest.approx([1 - 2.6 / 3.81], rel=1e-6)
    assert mask_dice_loss(logits, target, eps=0.1, eps_each=True).tolist() == pytest.approx([1 - 2.6 / 3.91], rel=1e-6)


def test_an_empty_mask_costs_one_and_its_gradient_is_finite():
    logits = torch.full((1, 4), -200.0, requires_grad=True)
    loss = mask_dice_loss(logits, torch.zeros(1, 4))
    loss.sum().backward()
    assert loss.tolist() == [1.0] and torch.isfinite(logits.grad).all()
    assert mask_dice_loss(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3)).shape == (0,)


def test_dice_of_masks_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"need targets of the same shape, got \(1, 2, 3\)"):
        mask_dice_loss(torch.zeros(1, 3, 2), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="eps must be above 0, got 0"):
        mask_dice_loss(torch.zeros(1, 3), torch.zeros(1, 3), eps=0)
