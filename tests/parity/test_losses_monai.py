"""Dice, Tversky and focal loss equal MONAI's, values and gradients, up to stated factors."""

import pytest
import torch
from loss_cases import value_and_gradient

from seglib.losses import dice_loss, focal_loss, tversky_loss

monai = pytest.importorskip("monai.losses")

K = 5  # class 4 is in no target


def case(void):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, K, 9, 7, generator=g, dtype=torch.float64)
    target = torch.randint(K - 1, (3, 9, 7), generator=g)
    target[0, 4:] = 0  # so that images differ in which classes they have
    if void:
        target[torch.rand(target.shape, generator=g) < 0.3] = 255
    return logits, target


def theirs(loss):
    return lambda logits, target: loss(logits, target[:, None])  # MONAI's labels have a channel


def assert_equal(found, expected, rtol=1e-10):
    """float64, sums in another order, by default; relative to the largest entry of a gradient."""
    for mine, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other.to(mine), rtol=rtol, atol=rtol * float(other.abs().max()))


def ignoring(void):
    return {"ignore_index": 255} if void else {}


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_dice_is_monais_where_absent_classes_count(void, per_sample, smooth):
    reference = monai.DiceLoss(
        to_onehot_y=True, softmax=True, batch=not per_sample, smooth_nr=smooth, smooth_dr=smooth, **ignoring(void)
    )
    found = value_and_gradient(dice_loss, *case(void), absent="count", per_sample=per_sample, smooth=smooth)
    assert_equal(found, value_and_gradient(theirs(reference), *case(void)))


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_tversky_is_monais_where_absent_classes_count(void, per_sample, smooth):
    reference = monai.TverskyLoss(
        to_onehot_y=True, softmax=True, batch=not per_sample, smooth_nr=smooth, smooth_dr=smooth,
        alpha=0.2, beta=0.9, **ignoring(void),
    )  # fmt: skip
    keywords = {"absent": "count", "per_sample": per_sample, "smooth": smooth, "alpha": 0.2, "beta": 0.9}
    found = value_and_gradient(tversky_loss, *case(void), **keywords)
    assert_equal(found, value_and_gradient(theirs(reference), *case(void)))


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, [0.1, 0.9, 0.5, 0.3, 1.0]])
def test_focal_loss_is_monais_times_the_classes_that_its_mean_runs_over(void, gamma, alpha):
    # MONAI takes the mean over pixels and classes (all but one add 0); with void over the labelled pixels, as here.
    reference = monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma, alpha=alpha, **ignoring(void))
    factor = 1 if void else K
    weights = None if alpha is None else torch.tensor(alpha)
    found = value_and_gradient(focal_loss, *case(void), gamma=gamma, alpha=weights)
    expected = value_and_gradient(lambda z, y: factor * theirs(reference)(z, y), *case(void))
    assert_equal(found, expected, rtol=1e-5)  # MONAI computes in float32
