"""Losses of single pixels: worked by hand, against torch, their gradients, their ill cases."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from loss_cases import logits_of, pixels, value_and_gradient

from seglib.losses import cross_entropy, focal_loss, ohem_cross_entropy

IMPLS = ["reference", "fast"]


@pytest.mark.parametrize("impl", IMPLS)
def test_three_pixels_worked_by_hand(impl):
    # Class odds 1:1, 3:1 and 1:9; the labels are 0, 0 and void. The losses are log 2 and log 4/3.
    odds = torch.tensor([[1.0, 3.0, 1.0], [1.0, 1.0, 9.0]])  # (K, W)
    loss = cross_entropy(odds.log()[None, :, None], torch.tensor([[[0, 0, 255]]]), impl=impl)
    assert float(loss) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)  # float32 rounding


@pytest.mark.parametrize("impl", IMPLS)
def test_class_weights_weigh_the_mean_worked_by_hand(impl):
    odds = torch.tensor([[1.0, 3.0, 1.0], [1.0, 1.0, 9.0]])
    loss = cross_entropy(
        odds.log()[None, :, None], torch.tensor([[[0, 1, 255]]]), weight=torch.tensor([3.0, 1.0]), impl=impl
    )
    assert float(loss) == pytest.approx((3 * math.log(2) + 1 * math.log(4)) / (3 + 1), rel=1e-6)  # float32 rounding


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("weighted", [False, True])
@given(pixels())
def test_value_and_gradient_equal_torch(impl, weighted, case):
    logits, target = case
    weight = torch.linspace(0.5, 2, logits.shape[1], dtype=torch.float64) if weighted else None
    ours = value_and_gradient(cross_entropy, logits, target, weight=weight, impl=impl)
    theirs = value_and_gradient(F.cross_entropy, logits, target, weight=weight, ignore_index=255)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)  # float64, sums in another order


@pytest.mark.parametrize("impl", IMPLS)
def test_the_gradient_equals_finite_differences(impl):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0, 255], [2, 1]], [[1, 1], [255, 0]]])
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, target, weight=weight, impl=impl), logits)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 0, 5)])
def test_without_a_labelled_pixel_the_loss_and_its_gradient_are_zero(impl, shape):
    target = torch.full((shape[0], *shape[2:]), 255)
    value, gradient = value_and_gradient(cross_entropy, torch.randn(shape), target, impl=impl)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_labels_of_weight_zero_alone_give_zero(impl):
    weight, target = torch.tensor([0.0, 1.0]), torch.zeros(1, 2, 2, dtype=torch.long)
    value, gradient = value_and_gradient(cross_entropy, torch.randn(1, 2, 2, 2), target, weight=weight, impl=impl)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_void_pixels_get_no_gradient_and_do_not_change_the_loss(impl):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    value, gradient = value_and_gradient(cross_entropy, logits, target, impl=impl)
    assert (gradient[:, :, 0, 1] == 0).all() and (gradient[:, :, 0, 0] != 0).all()
    logits[:, :, 0, 1] = 50.0
    assert cross_entropy(logits, target, impl=impl) == value


@pytest.mark.parametrize("impl", IMPLS)
def test_a_class_ruled_out_at_a_void_pixel_does_no_harm(impl):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    expected = cross_entropy(logits, target, impl=impl)
    logits[:, 0, 0, 1] = -math.inf
    value, gradient = value_and_gradient(cross_entropy, logits, target, impl=impl)
    assert value == expected and gradient.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_large_logits_stay_finite(impl):
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1)
    value, gradient = value_and_gradient(cross_entropy, logits, torch.ones(1, 1, 1, dtype=torch.long), impl=impl)
    assert value == 2e4 and gradient.flatten().tolist() == [1, -1]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(impl, dtype):
    logits, target = torch.randn(2, 5, 8, 8).to(dtype), torch.randint(5, (2, 8, 8))
    value, gradient = value_and_gradient(cross_entropy, logits, target, impl=impl)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value == cross_entropy(logits.float(), target, impl=impl)  # exactly: the same numbers in


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_does_not_lower_the_precision(impl):
    logits, target = torch.randn(2, 5, 8, 8), torch.randint(5, (2, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = cross_entropy(logits.bfloat16(), target, weight=torch.rand(5) + 1, impl=impl)
        value = cross_entropy(logits, target, impl=impl)
    assert low.dtype == value.dtype == torch.float32
    assert value == cross_entropy(logits, target, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_and_any_number_of_dimensions(impl, kind):
    for shape in [(4, 3), (4, 3, 5), (2, 3, 4, 5), (1, 3, 2, 3, 4)]:
        logits, target = torch.randn(shape), torch.randint(3, (shape[0], *shape[2:]))
        target[0] = 255
        expected = F.cross_entropy(logits, target, ignore_index=255) if (target != 255).any() else torch.zeros(())
        # float32 sums in another order
        torch.testing.assert_close(cross_entropy(logits, target.to(kind), impl=impl), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_void_may_be_another_number(impl):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    for void in (-100, -1, 3, 1000):
        moved = target.masked_fill(target == 255, void)
        assert cross_entropy(logits, moved, ignore_index=void, impl=impl) == cross_entropy(logits, target, impl=impl)


@pytest.mark.parametrize("bad", [3, 7, -1, -100, 256, 2**33])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_bad_label_is_named_with_its_place_and_the_remedy(bad, impl):
    target = torch.zeros(2, 4, 6, dtype=torch.long)
    target[1, 3, 5] = bad
    message = f"target label {bad} at (image 1, row 3, column 5) is not in 0..2 or 255; remap it"
    with pytest.raises(ValueError, match=re.escape(message)):
        cross_entropy(torch.zeros(2, 3, 4, 6), target, impl=impl)


def test_a_byte_that_would_wrap_into_a_negative_void_is_a_bad_label():
    with pytest.raises(ValueError, match="target label 156"):  # 156 and −100 are the same byte
        cross_entropy(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1), 156, dtype=torch.uint8), ignore_index=-100)


def test_arguments_that_do_not_fit_are_refused():
    logits, target = torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.long)
    with pytest.raises(
        ValueError, match=re.escape("need a target of shape (2, 4, 6), got (2, 8, 12); resize the logits")
    ):
        cross_entropy(logits, torch.zeros(2, 8, 12, dtype=torch.long))
    with pytest.raises(ValueError, match=re.escape("need weight of shape (3,), got (4,)")):
        cross_entropy(logits, target, weight=torch.ones(4))
    with pytest.raises(ValueError, match="integer class id, got torch.float32"):
        cross_entropy(logits, target.float())
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        cross_entropy(logits, target, impl="slow")


PROBABILITIES = [(0.5, 0.5), (0.75, 0.25), (0.1, 0.9)]  # of three pixels


@pytest.mark.parametrize("impl", IMPLS)
def test_pixel_weights_weigh_the_mean_worked_by_hand(impl):
    logits, target = logits_of(*PROBABILITIES), torch.tensor([[[0, 0, 255]]])
    pixel_weight = torch.tensor([[[3.0, 1.0, 7.0]]])
    loss = cross_entropy(logits, target, pixel_weight=pixel_weight, impl=impl)
    assert float(loss) == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / (3 + 1))
    weight = torch.tensor([2.0, 1.0])
    loss = cross_entropy(logits, torch.tensor([[[0, 1, 255]]]), weight=weight, pixel_weight=pixel_weight, impl=impl)
    assert float(loss) == pytest.approx((2 * 3 * math.log(2) + 1 * 1 * math.log(4)) / (2 * 3 + 1 * 1))


@pytest.mark.parametrize("impl", IMPLS)
@given(pixels())
def test_equal_pixel_weights_change_nothing_and_a_weight_of_2_is_a_pixel_twice(impl, case):
    logits, target = case
    plain = value_and_gradient(cross_entropy, logits, target, impl=impl)
    equal = value_and_gradient(cross_entropy, logits, target, pixel_weight=torch.full(target.shape, 0.3), impl=impl)
    torch.testing.assert_close(equal, plain, rtol=1e-10, atol=1e-12)  # float64 rounding
    twice = torch.cat([target, target[:, :1]], 1)
    expected = cross_entropy(torch.cat([logits, logits[:, :, :1]], 2), twice, impl=impl)
    pixel_weight = torch.ones(target.shape)
    pixel_weight[:, 0] = 2
    found = cross_entropy(logits, target, pixel_weight=pixel_weight, impl=impl)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # float64 rounding


@pytest.mark.parametrize("impl", IMPLS)
def test_a_pixel_of_weight_zero_is_left_out_like_void(impl):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 2], [2, 1]]])
    logits[0, 2, 0, 1] = -math.inf  # an infinite loss, were it counted
    pixel_weight = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    value, gradient = value_and_gradient(cross_entropy, logits, target, pixel_weight=pixel_weight, impl=impl)
    assert value == cross_entropy(logits, torch.tensor([[[0, 255], [2, 1]]]), impl=impl)
    assert gradient.isfinite().all() and (gradient[:, :, 0, 1] == 0).all()
    nothing = value_and_gradient(cross_entropy, logits, target, pixel_weight=torch.zeros(1, 2, 2), impl=impl)
    assert nothing[0] == 0 and (nothing[1] == 0).all()


def test_the_weighted_gradient_equals_finite_differences():
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    target, pixel_weight = torch.tensor([[[0, 255], [2, 1]], [[1, 1], [255, 0]]]), torch.rand(2, 2, 2)
    for impl in IMPLS:
        assert torch.autograd.gradcheck(
            lambda z, i=impl: cross_entropy(z, target, pixel_weight=pixel_weight, impl=i), logits
        )


@pytest.mark.parametrize("bad", [-0.5, math.nan, math.inf])
def test_weights_that_are_negative_or_not_finite_are_refused(bad):
    logits, target = torch.zeros(1, 3, 1, 2), torch.zeros(1, 1, 2, dtype=torch.long)
    seen = re.escape(str(bad))
    with pytest.raises(ValueError, match=f"pixel_weight must be finite and at least 0, got {seen}"):
        cross_entropy(logits, target, pixel_weight=torch.tensor([[[1.0, bad]]]))
    with pytest.raises(ValueError, match=f"^weight must be finite and at least 0, got {seen}"):
        cross_entropy(logits, target, weight=torch.tensor([1.0, bad, 1.0]))
    with pytest.raises(ValueError, match=f"alpha must be finite and at least 0, got {seen}"):
        focal_loss(logits, target, alpha=torch.tensor([1.0, bad, 1.0]))


def test_pixel_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=re.escape("need pixel_weight of shape (2, 4, 6), got (4, 6)")):
        cross_entropy(torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.long), pixel_weight=torch.ones(4, 6))


def test_focal_loss_worked_by_hand():
    logits, target = logits_of(*PROBABILITIES), torch.tensor([[[0, 0, 255]]])
    loss = focal_loss(logits, target, gamma=2.0)
    assert float(loss) == pytest.approx((0.5**2 * math.log(2) + 0.25**2 * math.log(4 / 3)) / 2)
    # with α the mean is still over the two pixels
    loss = focal_loss(logits, torch.tensor([[[0, 1, 255]]]), gamma=1.0, alpha=torch.tensor([0.2, 0.8]))
    assert float(loss) == pytest.approx((0.2 * 0.5 * math.log(2) + 0.8 * 0.75 * math.log(4)) / 2)


@given(pixels())
def test_focal_loss_with_gamma_0_is_cross_entropy_and_gamma_only_lowers_it(case):
    plain = value_and_gradient(cross_entropy, *case)
    torch.testing.assert_close(value_and_gradient(focal_loss, *case, gamma=0.0), plain, rtol=1e-12, atol=1e-14)
    values = [float(focal_loss(*case, gamma=gamma)) for gamma in (0.0, 0.5, 2.0, 5.0)]
    assert all(
        a >= b * (1 - 1e-12) for a, b in zip(values, values[1:], strict=False)
    )  # equal up to rounding when 0 or 1


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_focal_gradients_are_finite_at_certainty_and_equal_finite_differences(gamma):
    certain = torch.tensor([1e3, 0.0]).view(1, 2, 1, 1)
    value, gradient = value_and_gradient(focal_loss, certain, torch.zeros(1, 1, 1, dtype=torch.long), gamma=gamma)
    assert value == 0 and (gradient == 0).all()
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0, 255], [2, 1]], [[1, 1], [255, 0]]])
    alpha = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, target, gamma=gamma, alpha=alpha), logits)


def test_focal_loss_keeps_its_digits_where_the_model_is_sure():
    logits = torch.tensor([12.0, 0.0]).view(1, 2, 1, 1)  # 1 − p = 6.1e-6: 1 − softmax in float32 keeps 2 digits
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    # the error left is that of torch's log-softmax
    assert float(focal_loss(logits, target)) == pytest.approx(float(focal_loss(logits.double(), target)), rel=0.05)
    miss = float(focal_loss(logits, target, gamma=1.0) / cross_entropy(logits, target))
    assert miss == pytest.approx(float(-torch.expm1(-cross_entropy(logits, target))), rel=1e-6)


HARD = logits_of((0.9, 0.1), (0.8, 0.2), (0.6, 0.4), (0.3, 0.7), (0.2, 0.8))  # of five pixels of class 0


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 0, [0.6, 0.3, 0.2]),
        (0.7, 2, [0.6, 0.3, 0.2]),
        (0.25, 0, [0.2]),
        (0.25, 3, [0.6, 0.3, 0.2]),  # too few are hard: the threshold rises
        (0.1, 0, []),
        (0.1, None, []),  # a sixteenth of 5 is 0
        (0.1, 100, [0.9, 0.8, 0.6, 0.3, 0.2]),  # more than there are
        (1.0, 0, [0.9, 0.8, 0.6, 0.3, 0.2]),
    ],
)
def test_ohem_keeps_the_hard_pixels(threshold, min_kept, kept):
    target = torch.zeros(1, 1, 5, dtype=torch.long)
    value, gradient = value_and_gradient(ohem_cross_entropy, HARD, target, threshold=threshold, min_kept=min_kept)
    assert float(value) == pytest.approx(sum(-math.log(p) for p in kept) / max(1, len(kept)))
    # CE's gradient of the kept ones, divided by their number; nothing through the choice
    probs = HARD.softmax(1)[0, 0, 0]
    expected = [(p - 1) / len(kept) if any(abs(p - q) < 1e-9 for q in kept) else 0 for p in probs.tolist()]
    assert gradient[0, 0, 0].tolist() == pytest.approx(expected)


def test_ohem_counts_labelled_pixels_only_and_keeps_ties():
    target = torch.tensor([[[0, 0, 0, 255, 255]]])
    loss = ohem_cross_entropy(HARD, target, threshold=0.1, min_kept=1)
    assert float(loss) == pytest.approx(-math.log(0.6))
    same = torch.zeros(1, 2, 1, 4, dtype=torch.float64, requires_grad=True)
    loss = ohem_cross_entropy(same, torch.zeros(1, 1, 4, dtype=torch.long), threshold=0.1, min_kept=1)
    (gradient,) = torch.autograd.grad(loss, same)
    assert (gradient[0, 0] == -0.5 / 4).all()


def test_a_pixel_at_the_threshold_is_easy():
    even = torch.zeros(1, 2, 1, 1, dtype=torch.float64)  # p = exp(−log 2), which is ½ exactly
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    assert ohem_cross_entropy(even, target, threshold=0.5, min_kept=0) == 0
    assert float(ohem_cross_entropy(even, target, threshold=0.500001, min_kept=0)) == pytest.approx(math.log(2))


def test_ohem_keeps_a_sixteenth_by_default():
    logits, target = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 16, 16))
    target[0, :2] = 255  # 480 labelled pixels
    hardest = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten().topk(30).values
    # float32, sums in another order
    torch.testing.assert_close(ohem_cross_entropy(logits, target, threshold=1e-9), hardest.mean(), rtol=1e-6, atol=0)


def test_settings_out_of_range_are_refused():
    logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="gamma is finite and at least 0, got"):
            focal_loss(logits, target, gamma=bad)
    for bad in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="threshold is a probability"):
            ohem_cross_entropy(logits, target, threshold=bad)
    with pytest.raises(ValueError, match="min_kept is a number of pixels, at least 0, got -1"):
        ohem_cross_entropy(logits, target, min_kept=-1)
    with pytest.raises(ValueError, match=re.escape("need alpha of shape (2,), got (3,)")):
        focal_loss(logits, target, alpha=torch.ones(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("impl", IMPLS)
def test_a_gpu_gives_the_same_loss_and_survives_a_bad_label(impl):
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    torch.testing.assert_close(
        cross_entropy(logits.cuda(), target.cuda(), impl=impl).cpu(), cross_entropy(logits, target)
    )
    with pytest.raises(ValueError, match="target label 4"):
        cross_entropy(logits.cuda(), target.cuda() + 2, impl=impl)
    assert torch.ones(1, device="cuda").item() == 1
