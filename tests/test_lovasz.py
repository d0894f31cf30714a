"""Lovász-softmax: worked by hand, from its definition as an integral, the readable form against the fast one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import logits_of, pixels, value_and_gradient

from seglib.losses import lovasz_softmax

IMPLS = ["reference", "fast"]
every_impl = pytest.mark.parametrize("impl", IMPLS)

# Four pixels of classes 0, 0, 1 and void.
LOGITS, TARGET = logits_of((0.9, 0.1), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8)), torch.tensor([[[0, 0, 1, 255]]])


@every_impl
def test_three_pixels_worked_by_hand(impl):
    # The errors of both classes are 0.6 (pixel 1), 0.3 (pixel 2) and 0.1 (pixel 0).
    # class 0, |k| = 2: Δ = 1/2, 2/3, 1, so g = 1/2, 1/6, 1/3
    # class 1, |k| = 1: Δ = 1/2, 1, 1, so g = 1/2, 1/2, 0
    expected = (0.6 / 2 + 0.3 / 6 + 0.1 / 3 + 0.6 / 2 + 0.3 / 2) / 2
    assert float(lovasz_softmax(LOGITS, TARGET, impl=impl)) == pytest.approx(expected)


@every_impl
def test_the_gradient_of_three_pixels_worked_by_hand(impl):
    _, gradient = value_and_gradient(lovasz_softmax, LOGITS, TARGET, impl=impl)
    # ∂L/∂p_k is ∓g_k / 2, and with two classes ∂p_0/∂z_0 = −∂p_1/∂z_0 = p_0·p_1
    slopes = {0: -(1 / 3 + 0) / 2, 1: -(1 / 2 + 1 / 2) / 2, 2: (1 / 6 + 1 / 2) / 2}
    products = {0: 0.09, 1: 0.24, 2: 0.21}
    expected = [slopes[x] * products[x] for x in range(3)] + [0.0]
    assert gradient[0, 0, 0].tolist() == pytest.approx(expected)
    assert gradient[0, 1, 0].tolist() == pytest.approx([-g for g in expected])


@every_impl
def test_an_absent_class_costs_its_largest_probability_or_nothing(impl):
    target = torch.tensor([[[0, 0, 0, 255]]])
    # class 0: errors 0.7, 0.6, 0.1 of |k| = 3, g = 1/3 each
    present, absent = (0.7 + 0.6 + 0.1) / 3, 0.7
    assert float(lovasz_softmax(LOGITS, target, impl=impl)) == pytest.approx(present)
    found = lovasz_softmax(LOGITS, target, classes="all", impl=impl)
    assert float(found) == pytest.approx((present + absent) / 2)


@every_impl
def test_per_image_is_the_mean_of_the_images(impl):
    logits = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    target = torch.randint(4, (3, 5, 6))
    target[2] = 255  # an image without labels: 0
    each = [float(lovasz_softmax(logits[i : i + 1], target[i : i + 1], impl=impl)) for i in range(3)]
    found = lovasz_softmax(logits, target, per_image=True, impl=impl)
    assert each[2] == 0 and float(found) == pytest.approx(sum(each) / 3)
    assert float(found) != pytest.approx(float(lovasz_softmax(logits, target, impl=impl)))


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("per_image", [False, True])
@given(pixels())
def test_the_fast_form_equals_the_reference(classes, per_image, case):
    fast = value_and_gradient(lovasz_softmax, *case, classes=classes, per_image=per_image)
    reference = value_and_gradient(lovasz_softmax, *case, classes=classes, per_image=per_image, impl="reference")
    torch.testing.assert_close(fast, reference, rtol=1e-10, atol=1e-12)  # float64, another order of operations


@every_impl
@given(pixels(scales=(3.0,)))
def test_it_is_the_mean_jaccard_loss_over_all_thresholds_of_the_errors(impl, case):
    # The Lovász extension as an integral: ∫ Δ({x: m(x) > t}) dt over t in [0, 1], a sum over the steps between errors.
    logits, target = case
    valid = target != 255
    p, y = logits.softmax(1).movedim(1, 0)[:, valid], target[valid]  # (K, n), (n,)
    losses = []
    for k in y.unique():
        errors = torch.where(y == k, 1 - p[k], p[k])
        steps = torch.cat([torch.zeros(1, dtype=torch.float64), errors.sort().values])
        loss = 0.0
        for low, high in zip(steps, steps[1:], strict=False):
            wrong = errors > low
            loss += float(high - low) * int(wrong.sum()) / int(((y == k) | wrong).sum())
        losses.append(loss)
    assert float(lovasz_softmax(logits, target, impl=impl)) == pytest.approx(sum(losses) / len(losses))


@every_impl
@given(pixels())
def test_at_hard_predictions_it_is_one_minus_iou(impl, case):
    logits, target = case
    pred, valid = logits.argmax(1), target != 255
    hard = torch.zeros_like(logits).scatter_(1, pred[:, None], 1000.0)
    present = target[valid].unique().tolist()
    iou = [
        int(((pred == k) & (target == k)).sum()) / int((((pred == k) & valid) | (target == k)).sum()) for k in present
    ]
    assert float(lovasz_softmax(hard, target, impl=impl)) == pytest.approx(1 - sum(iou) / len(iou))


@given(st.integers(0, 2**31))
def test_equal_errors_give_the_value_of_the_reference(seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randint(2, (1, 3, 4, 4), generator=g).double()  # many ties, where only the gradient may differ
    target = torch.randint(3, (1, 4, 4), generator=g)
    reference = lovasz_softmax(logits, target, impl="reference")
    torch.testing.assert_close(lovasz_softmax(logits, target), reference, rtol=1e-12, atol=0)  # float64


def test_on_a_large_image_the_float32_gradient_keeps_its_digits():
    g = torch.Generator().manual_seed(0)
    logits, target = torch.randn(1, 3, 512, 512, generator=g), torch.randint(3, (1, 512, 512), generator=g)
    exact = value_and_gradient(lovasz_softmax, logits.double(), target, impl="reference")[1]
    size = exact.abs().mean()
    error = {
        impl: float((value_and_gradient(lovasz_softmax, logits, target, impl=impl)[1] - exact).abs().mean() / size)
        for impl in IMPLS
    }
    assert error["fast"] < 1e-5 < 1e-3 < error["reference"]  # float32 rounding; differences of near Jaccard losses


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="classes is 'present' or 'all', got 'some'"):
        lovasz_softmax(LOGITS, TARGET, classes="some")
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        lovasz_softmax(LOGITS, TARGET, impl="slow")
