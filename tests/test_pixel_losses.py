"""Cross-entropy with void: worked by hand, against torch, its gradients, its ill cases."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from seglib.losses import cross_entropy

IMPLS = ["reference", "fast"]


@st.composite
def pixels(draw):
    """Logits (B, K, H, W) float64 and a target (B, H, W) with some void and at least one label."""
    k = draw(st.integers(1, 5))
    b, h, w = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 3.0, 300.0]))
    logits = scale * torch.randn(b, k, h, w, generator=g, dtype=torch.float64)
    target = torch.randint(k, (b, h, w), generator=g)
    target[torch.rand(b, h, w, generator=g) < 0.3] = 255
    target[0, 0, 0] = 0
    return logits, target


def value_and_gradient(loss, logits, *args, **keywords):
    z = logits.clone().requires_grad_()
    value = loss(z, *args, **keywords)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


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
