"""seglib's ResNet FCN and DeepLab v3 equal torchvision's: the same random weights through the converter users call."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from seglib.data.voc import VOC_ORDER
from seglib.models.zoo import build
from seglib.types import Targets
from seglib.weights import convert

SIZE = (65, 87)  # odd on purpose: neither model pads, both resize the logits to the input


def pair(name):
    """torchvision's model with random weights and statistics, and ours with the same."""
    torch.manual_seed(0)
    theirs = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.0)
            nn.init.normal_(m.bias, std=0.1)
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    builder, state, metadata = convert(f"torchvision:{name}", theirs.state_dict())
    ours = build(builder, **metadata["arguments"])
    ours.load_state_dict(state)
    for m in [*theirs.modules(), *ours.modules()]:
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return theirs, ours


def images(model):
    """(what ours takes, what torchvision's takes): theirs leaves normalising to the caller."""
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).to(model.normalize.mean)
    return x, (x - model.normalize.mean.view(3, 1, 1)) / model.normalize.std.view(3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"])
def test_logits_are_equal(name):
    theirs, ours = pair(name)
    x, normalised = images(ours)
    with torch.no_grad():
        out, reference = ours.eval()(x), theirs.eval()(normalised)
    assert out.logits.shape == (2, 21, *SIZE)
    assert reference["out"].std() > 1e-2 and reference["aux"].std() > 1e-2
    # the same kernels in the same order: 1e-5 leaves room for another choice of kernel only
    torch.testing.assert_close(out.logits, reference["out"][:, VOC_ORDER], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.aux[0], reference["aux"][:, VOC_ORDER], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_the_loss_and_its_gradients_are_equal(name):
    # float64: the batch norm behind the image pooling sees two values, and blows up float32's rounding
    theirs, ours = (model.double() for model in pair(name))
    x, normalised = images(ours)
    labels = torch.randint(21, (2, *SIZE), generator=torch.Generator().manual_seed(2))  # torchvision's ids
    labels[:, :5] = 255
    remap = torch.full((256,), 255)
    remap[VOC_ORDER] = torch.arange(21)  # to ours

    losses = ours.train().loss(ours(x), Targets(semantic=remap[labels]))
    sum(losses.values()).backward()
    out = theirs.train()(normalised)
    # as in torchvision's reference training: the auxiliary loss counts half
    reference = sum(
        w * nn.functional.cross_entropy(out[k], labels, ignore_index=255) for k, w in (("out", 1.0), ("aux", 0.5))
    )
    reference.backward()

    torch.testing.assert_close(sum(losses.values()).double(), reference, rtol=1e-5, atol=1e-5)
    gradients = {k: p.grad for k, p in theirs.named_parameters()}
    _, expected, _ = convert(
        f"torchvision:{name}", theirs.state_dict() | gradients
    )  # renamed and reordered like weights
    for name, p in ours.named_parameters():
        # relative to the largest entry: small ones are differences of large sums, and the order of sums may differ
        scale = expected[name].abs().max()
        assert scale > 0
        torch.testing.assert_close(
            p.grad / scale, expected[name] / scale, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
