"""nnunet_loss equals nnU-Net's losses: values up to the constant 1, and gradients."""

import pytest
import torch
from loss_cases import value_and_gradient
from nnunet_reference import nnunet

from seglib.losses import nnunet_loss
from seglib.models.nnunet import NNUNet
from seglib.types import DenseOutput, Targets

K = 4  # class 3 is in no target


@pytest.fixture(scope="module")
def reference():
    """nnU-Net's module of losses and its Dice loss."""
    return nnunet("training.loss.compound_losses"), nnunet("training.loss.dice").MemoryEfficientSoftDiceLoss


def settings(batch_dice, *, do_bg):
    return {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": do_bg, "ddp": False}


def assert_equal(found, expected):
    """Loss and gradient, to what float32 gives: nnU-Net computes masks and one-hot labels in it."""
    assert expected[1].abs().max() > 0
    torch.testing.assert_close(found[0] - 1, expected[0].to(found[0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6 * float(expected[1].abs().max()))


def classes(dims, void):
    g = torch.Generator().manual_seed(0)
    size = (5, 6, 7)[:dims]
    logits = 2 * torch.randn(3, K, *size, generator=g, dtype=torch.float64)
    target = torch.randint(K - 1, (3, *size), generator=g)
    target[0, 2:] = 0  # so that samples differ in the sizes of their classes
    target[1] = 0
    if void:
        target[torch.rand(target.shape, generator=g) < 0.3] = 255
        target[2] = 255  # a whole sample
    return logits, target


@pytest.mark.parametrize("void", [False, True], ids=["no void", "void"])
@pytest.mark.parametrize("batch_dice", [False, True], ids=["per sample", "batch"])
@pytest.mark.parametrize("dims", [2, 3])
def test_of_exclusive_classes_it_is_dc_and_ce_loss(reference, dims, batch_dice, void):
    compound, dice = reference
    loss = compound.DC_and_CE_loss(
        settings(batch_dice, do_bg=False), {}, ignore_label=255 if void else None, dice_class=dice
    )
    found = value_and_gradient(nnunet_loss, *classes(dims, void), batch_dice=batch_dice)
    assert_equal(found, value_and_gradient(lambda x, y: loss(x, y[:, None]), *classes(dims, void)))


def regions(void):
    g = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(3, K, 4, 5, 6, generator=g, dtype=torch.float64)
    target = torch.randint(2, logits.shape, generator=g)
    target[:, 3] = 0
    target[0, :, 2:] = 0
    if void:
        target.masked_fill_(torch.rand(3, 1, 4, 5, 6, generator=g) < 0.3, 255)
    return logits, target


@pytest.mark.parametrize("void", [False, True], ids=["no void", "void"])
@pytest.mark.parametrize("batch_dice", [False, True], ids=["per sample", "batch"])
def test_of_regions_it_is_dc_and_bce_loss(reference, batch_dice, void):
    compound, dice = reference
    # with an "ignore" label nnU-Net's cross-entropy is the sum over the regions, without one their mean
    share = 1 / K if void else 1
    loss = compound.DC_and_BCE_loss(
        {}, settings(batch_dice, do_bg=True), weight_ce=share, use_ignore_label=void, dice_class=dice
    )

    def of_channels(x, y):
        ignored = (y[:, :1] == 255).long()  # nnU-Net's last channel
        return loss(x, torch.cat([y * (1 - ignored), ignored], 1) if void else y)

    found = value_and_gradient(nnunet_loss, *regions(void), batch_dice=batch_dice)
    assert_equal(found, value_and_gradient(of_channels, *regions(void)))


@pytest.mark.parametrize("batch_dice", [False, True], ids=["per sample", "batch"])
def test_the_loss_of_all_outputs_is_that_of_the_deep_supervision_wrapper(reference, batch_dice):
    compound, dice = reference
    # outputs at three sizes
    model = NNUNet(K, widths=[2, 2, 2, 2], strides=[(1, 2, 2), (2, 2, 2), (2, 2, 2)], batch_dice=batch_dice)
    g = torch.Generator().manual_seed(3)
    logits = [torch.randn(2, K, *size, generator=g, requires_grad=True) for size in ((8, 16, 16), (8, 8, 8), (4, 4, 4))]
    labels = torch.randint(K, (2, 8, 16, 16), generator=g)
    labels[0, :, 5:9] = 255
    # what nnU-Net's trainer makes: labels of each size, and weights that halve, the last 0, with a sum of 1
    down = nnunet("batchgeneratorsv2.transforms.utils.deep_supervision_downsampling").DownsampleSegForDSTransform
    scales = [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25]]
    of_samples = [down(scales)(segmentation=sample[None].short())["segmentation"] for sample in labels]
    targets = [torch.stack(of_size).long() for of_size in zip(*of_samples, strict=True)]
    plain = compound.DC_and_CE_loss(settings(batch_dice, do_bg=False), {}, ignore_label=255, dice_class=dice)
    wrapper = nnunet("training.loss.deep_supervision").DeepSupervisionWrapper
    loss = wrapper(plain, (1 / 1.5, 0.5 / 1.5, 0.0))(logits, targets)
    expected = torch.autograd.grad(loss, logits, allow_unused=True)
    found = sum(model.loss(DenseOutput(logits[0], tuple(logits[1:])), Targets(semantic=labels)).values())
    assert (found - 1 - loss).abs() < 1e-6  # float32
    for mine, other in zip(torch.autograd.grad(found, logits), expected, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=0, atol=1e-7)
