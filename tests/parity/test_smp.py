"""seglib's U-Net and DeepLab v3+ equal segmentation_models.pytorch's, through the converter that users call."""

import pytest
import torch
from torch import nn

from seglib.models.zoo import build
from seglib.types import Targets
from seglib.weights import convert

smp = pytest.importorskip("segmentation_models_pytorch")

SIZE = (64, 96)  # a multiple of 32: smp takes no other
CLASSES = 5
THEIRS = {"unet": smp.Unet, "deeplabv3plus": smp.DeepLabV3Plus}
ORIGINS = [f"{model}_{encoder}" for model in THEIRS for encoder in ("resnet34", "resnet50")]


def stirred(model):
    """Random statistics and affine weights, so that no batch norm is the identity; no dropout."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.0)
            nn.init.normal_(m.bias, std=0.1)
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return without_dropout(model)


def without_dropout(model):
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return model


def pair(name, classes=CLASSES):
    torch.manual_seed(0)
    model, encoder = name.split("_")
    theirs = stirred(THEIRS[model](encoder, encoder_weights=None, classes=classes))
    builder, state, metadata = convert(f"smp:{name}", theirs.state_dict())
    ours = build(builder, **metadata["arguments"])
    ours.load_state_dict(state)
    return theirs, without_dropout(ours)


def images(model):
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return x, (x - model.normalize.mean.view(3, 1, 1)) / model.normalize.std.view(3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINS)
def test_logits_are_equal(name):
    theirs, ours = pair(name)
    x, normalised = images(ours)
    with torch.no_grad():
        out, reference = ours.eval()(x).logits, theirs.eval()(normalised)
    assert reference.std() > 1e-2
    # float32 sums in another order; relative to the largest logit
    torch.testing.assert_close(out, reference, rtol=0, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_resnet34", "deeplabv3plus_resnet34"])
def test_the_loss_and_its_gradients_are_equal(name):
    theirs, ours = pair(name)
    x, normalised = images(ours)
    labels = torch.randint(CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    loss = sum(ours.train().loss(ours(x), Targets(semantic=labels)).values())
    loss.backward()
    reference = nn.functional.cross_entropy(theirs.train()(normalised), labels)
    reference.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    gradients = {k: p.grad for k, p in theirs.named_parameters()}
    expected = convert(f"smp:{name}", theirs.state_dict() | gradients)[1]  # renamed like weights
    for key, p in ours.named_parameters():
        scale = expected[key].abs().max()
        assert scale > 0
        # small entries are differences of large sums, so relative to the largest
        torch.testing.assert_close(
            p.grad / scale, expected[key] / scale, rtol=0, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.slow
def test_a_sigmoid_for_one_class_becomes_a_softmax_of_two():
    theirs, ours = pair("unet_resnet34", classes=1)
    x, normalised = images(ours)
    with torch.no_grad():
        probs, sigmoid = ours.eval()(x).logits.softmax(1), theirs.eval()(normalised).sigmoid()
    assert sigmoid.std() > 1e-3
    torch.testing.assert_close(probs[:, :1], sigmoid, rtol=0, atol=1e-5)


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="no key 'fc.weight' is known"):
        convert("smp:unet_resnet34", {"fc.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no segmentation_head"):
        convert("smp:unet_resnet34", {"encoder.conv1.weight": torch.zeros(1)})
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=3)
    with pytest.raises(ValueError, match=r"not the weights of smp:unet_resnet34: \d+ missing \(encoder"):
        convert("smp:unet_resnet34", theirs.state_dict())
