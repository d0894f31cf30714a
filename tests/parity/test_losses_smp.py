"""Dice, Tversky, focal and Lovász loss equal smp's, values and gradients, up to stated factors."""

import pytest
import torch
from loss_cases import value_and_gradient

from seglib.losses import dice_loss, focal_loss, lovasz_softmax, tversky_loss

smp = pytest.importorskip("segmentation_models_pytorch.losses")

K = 5
PRESENT = 4  # class 4 is in no target


def case(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, K, 9, 7, generator=g, dtype=torch.float64)
    target = torch.randint(PRESENT, (3, 9, 7), generator=g)
    target[torch.rand(target.shape, generator=g) < 0.3] = 255
    return logits.to(dtype), target


def assert_equal(found, expected, rtol=1e-10):
    """float64, sums in another order, by default; relative to the largest entry of a gradient."""
    for mine, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_smps_whose_absent_classes_add_0_to_a_mean_over_all(smooth):
    reference = smp.DiceLoss("multiclass", ignore_index=255, smooth=smooth)
    found = value_and_gradient(lambda z, y: PRESENT / K * dice_loss(z, y, smooth=2 * smooth), *case())
    assert_equal(found, value_and_gradient(reference, *case()))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_tversky_is_smps_whose_absent_classes_add_0_to_a_mean_over_all(smooth):
    reference = smp.TverskyLoss("multiclass", ignore_index=255, smooth=smooth, alpha=0.2, beta=0.9)
    found = value_and_gradient(
        lambda z, y: PRESENT / K * tversky_loss(z, y, smooth=smooth, alpha=0.2, beta=0.9), *case()
    )
    assert_equal(found, value_and_gradient(reference, *case()))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss_of_one_class_against_the_rest_is_smps(gamma, alpha):
    # smp takes the mean over classes k of the two-class loss of "k or not", where the logit of "not" is 0.
    def one_against_rest(z, y):
        losses = []
        for k in range(K):
            pair = torch.stack([torch.zeros_like(z[:, k]), z[:, k]], 1)
            is_k = (y == k).long().masked_fill(y == 255, 255)
            weights = None if alpha is None else torch.tensor([1 - alpha, alpha])
            losses.append(focal_loss(pair, is_k, gamma=gamma, alpha=weights))
        return torch.stack(losses).mean()

    reference = smp.FocalLoss("multiclass", ignore_index=255, gamma=gamma, alpha=alpha)
    # float64 everywhere, but smp's α is not a tensor and ours is float32
    rtol = 1e-10 if alpha is None else 1e-6
    assert_equal(value_and_gradient(one_against_rest, *case()), value_and_gradient(reference, *case()), rtol)


@pytest.mark.parametrize("impl", ["fast", "reference"])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_softmax_is_smps(impl, per_image):
    reference = smp.LovaszLoss("multiclass", ignore_index=255, per_image=per_image)
    found = value_and_gradient(lovasz_softmax, *case(torch.float32), per_image=per_image, impl=impl)
    # float32, which smp's needs; its gradient holds differences of Jaccard losses near 1 (1e-7) of size 1/200
    assert_equal(found, value_and_gradient(reference, *case(torch.float32)), rtol=2e-5)
