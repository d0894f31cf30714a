"""What holds for every loss: void, empty batches, precision, perfect predictions, bad input."""

import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import pixels, value_and_gradient

from seglib.losses import LOSSES, cross_entropy, dice_loss, lovasz_softmax, tversky_loss

VARIANTS = {
    **LOSSES,
    "ce, reference": partial(cross_entropy, impl="reference"),
    "dice, reference": partial(dice_loss, impl="reference"),
    "dice, per sample": partial(dice_loss, per_sample=True),
    "dice, absent classes count": partial(dice_loss, absent="count"),
    "dice, no smoothing": partial(dice_loss, smooth=0.0, absent="count"),
    "tversky, per sample": partial(tversky_loss, per_sample=True),
    "lovasz, reference": partial(lovasz_softmax, impl="reference"),
    "lovasz, per image": partial(lovasz_softmax, per_image=True),
    "lovasz, all classes": partial(lovasz_softmax, classes="all"),
    "lovasz, all classes, reference": partial(lovasz_softmax, classes="all", impl="reference"),
}
REGION = [name for name in VARIANTS if name.startswith(("dice", "tversky", "lovasz"))]
few = settings(max_examples=30)  # for each of the variants
every_loss = pytest.mark.parametrize("loss", VARIANTS.values(), ids=VARIANTS.keys())


@every_loss
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (2, 3)])
def test_without_a_labelled_pixel_the_loss_and_its_gradient_are_zero(loss, shape):
    value, gradient = value_and_gradient(loss, torch.randn(shape), torch.full((shape[0], *shape[2:]), 255))
    assert value.shape == () and value == 0 and (gradient == 0).all()


@every_loss
def test_an_image_without_labels_in_the_batch_does_no_harm(loss):
    target = torch.randint(3, (2, 4, 5))
    target[0] = 255
    value, gradient = value_and_gradient(loss, torch.randn(2, 3, 4, 5), target)
    assert value > 0 and (gradient[0] == 0).all() and (gradient[1] != 0).any()


@every_loss
def test_void_pixels_get_no_gradient_and_do_not_change_the_loss(loss):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    value, gradient = value_and_gradient(loss, logits, target)
    assert (gradient[:, :, 0, 1] == 0).all() and (gradient != 0).any()
    logits[:, :, 0, 1] = torch.tensor([50.0, -50.0, 0.0])
    assert loss(logits, target) == value


@every_loss
@few
@given(pixels(scales=(300.0,)))
def test_a_perfect_prediction_has_loss_zero(loss, case):
    logits, target = case
    certain = torch.zeros_like(logits).scatter_(1, target.masked_fill(target == 255, 0)[:, None], 1000.0)
    value, gradient = value_and_gradient(loss, certain, target)
    assert value == 0 and (gradient == 0).all()


@every_loss
@few
@given(pixels(), st.integers(0, 2**31))
def test_the_order_of_pixels_and_of_classes_does_not_matter(loss, case, seed):
    logits, target = case
    g = torch.Generator().manual_seed(seed)
    places, classes = torch.randperm(target[0].numel(), generator=g), torch.randperm(logits.shape[1], generator=g)
    renamed = torch.full((256,), 255)
    renamed[classes] = torch.arange(len(classes))
    moved = loss(logits[:, classes].flatten(2)[:, :, places], renamed[target].flatten(1)[:, places])
    torch.testing.assert_close(moved, loss(logits, target), rtol=1e-10, atol=1e-12)  # float64, sums in another order


@every_loss
@few
@given(pixels())
def test_a_number_added_to_all_logits_of_a_pixel_changes_nothing(loss, case):
    logits, target = case
    _, gradient = value_and_gradient(loss, logits, target)
    assert gradient.sum(1).abs().max() < 1e-12  # float64: so the gradient along that direction is rounding


@pytest.mark.parametrize("name", REGION)
@few
@given(pixels())
def test_region_losses_lie_between_0_and_1(name, case):
    assert 0 <= float(VARIANTS[name](*case)) <= 1 + 1e-12  # float64 rounding of a mean of ones


@every_loss
def test_the_gradient_equals_finite_differences(loss):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0, 255, 2], [2, 1, 0]], [[1, 1, 0], [255, 0, 0]]])  # class 3 appears nowhere
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits)


@every_loss
def test_a_class_that_never_appears_and_is_ruled_out_leaves_everything_finite(loss):
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(2, (2, 4, 5))
    logits[:, 2] = -torch.inf
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.isfinite() and gradient.isfinite().all() and (gradient[:, 2] == 0).all()


@every_loss
def test_large_logits_stay_finite(loss):
    logits = 1e4 * torch.randn(2, 3, 4, 5)
    value, gradient = value_and_gradient(loss, logits, torch.randint(3, (2, 4, 5)))
    assert value > 0 and value.isfinite() and gradient.isfinite().all()


@every_loss
def test_a_model_that_has_diverged_is_not_hidden(loss):
    logits = torch.randn(2, 3, 4, 5)
    logits[0, 0, 0, 0] = torch.nan
    assert loss(logits, torch.ones(2, 4, 5, dtype=torch.long)).isnan()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    logits, target = torch.randn(2, 5, 8, 8).to(dtype), torch.randint(5, (2, 8, 8))
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value == loss(logits.float(), target)  # exactly: the same numbers in


@every_loss
def test_autocast_does_not_lower_the_precision(loss):
    logits, target = torch.randn(2, 5, 8, 8), torch.randint(5, (2, 8, 8))
    expected = value_and_gradient(loss, logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, logits, target)
    assert value.dtype == torch.float32
    assert value == expected[0] and (gradient == expected[1]).all()


@every_loss
def test_the_memory_format_of_the_logits_does_not_matter(loss):
    logits, target = torch.randn(2, 5, 8, 8, dtype=torch.float64), torch.randint(5, (2, 8, 8))
    expected = value_and_gradient(loss, logits, target)
    found = value_and_gradient(loss, logits.to(memory_format=torch.channels_last), target)
    # float64: another format, another kernel of softmax
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_and_any_number_of_dimensions(loss, kind):
    flat, labels = torch.randn(2, 3, 12, dtype=torch.float64), torch.randint(3, (2, 12))
    labels[:, 0] = 255
    expected = value_and_gradient(loss, flat, labels)
    for shape in [(2, 3, 12), (2, 3, 4, 3), (2, 3, 2, 3, 2)]:
        value, gradient = value_and_gradient(loss, flat.view(shape), labels.view(shape[0], *shape[2:]).to(kind))
        # float64, sums in another order
        torch.testing.assert_close((value, gradient.view_as(flat)), expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_without_spatial_dimensions_a_batch_is_a_row_of_pixels(loss):
    logits, target = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 255, 2, 1, 1, 0])
    value, gradient = value_and_gradient(loss, logits, target)
    expected = value_and_gradient(loss, logits[:, :, None, None], target[:, None, None])
    torch.testing.assert_close((value, gradient[:, :, None, None]), expected, rtol=1e-12, atol=1e-14)  # float64


@every_loss
def test_void_may_be_another_number(loss):
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    for void in (-100, -1, 3, 1000):
        moved = target.masked_fill(target == 255, void)
        assert loss(logits, moved, ignore_index=void) == loss(logits, target)


@every_loss
def test_bad_input_is_named_with_the_remedy(loss):
    logits, target = torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.long)
    with pytest.raises(ValueError, match=re.escape("got (2, 8, 12); resize the logits")):
        loss(logits, torch.zeros(2, 8, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="integer class id, got torch.float32"):
        loss(logits, target.float())
    target[1, 3, 5] = 7
    message = "target label 7 at (image 1, row 3, column 5) is not in 0..2 or 255; remap it"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(logits, target)


def test_the_named_losses_differ_and_sums_are_sums():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    values = {name: float(loss(logits, target)) for name, loss in LOSSES.items()}
    assert set(values) == {"ce", "focal", "ohem", "dice", "tversky", "lovasz", "ce+dice", "ce+lovasz"}
    assert len(set(values.values())) == len(values)
    assert values["ce+dice"] == pytest.approx(values["ce"] + values["dice"], rel=1e-6)  # float32 rounding
    assert values["ce+lovasz"] == pytest.approx(values["ce"] + values["lovasz"], rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
def test_a_gpu_gives_the_same_loss_and_gradient(loss):
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    expected = value_and_gradient(loss, logits, target)
    found = value_and_gradient(loss, logits.cuda(), target.cuda())
    torch.testing.assert_close(tuple(t.cpu() for t in found), expected)
