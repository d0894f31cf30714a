"""What all encoders share: images of any number of channels, with ImageNet weights where there are some."""

import weakref

import pytest
import torch
from torch import nn
from torchvision import models as tv

from seglib.layers.named_encoder import detector_encoder
from seglib.layers.pretrained import repeat_input_channels
from seglib.layers.resnet import resnet_encoder
from seglib.layers.tiny import TinyEncoder
from seglib.layers.vgg import VGG16Encoder

MAKERS = {
    "tiny": TinyEncoder,
    "resnet18": lambda **more: resnet_encoder("resnet18", **more),
    "vgg16": lambda **more: VGG16Encoder(hidden=8, **more),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_images_may_have_any_number_of_channels(make, in_channels):
    encoder = make(in_channels=in_channels).to("meta")  # shapes without numbers
    maps = encoder(torch.empty(2, in_channels, 64, 96, device="meta"))
    assert {name: m.shape[1] for name, m in maps.items()} == encoder.channels
    other = make().to("meta").state_dict()
    changed = [k for k, v in encoder.state_dict().items() if v.shape != other[k].shape]
    assert len(changed) == (in_channels != 3), "only the first kernel depends on the images"


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_three_channels_are_the_default_and_draw_the_same_weights(make):
    torch.manual_seed(0)
    one = make().state_dict()
    torch.manual_seed(0)
    other = make(in_channels=3).state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_images_without_channels_are_refused(make):
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        make(in_channels=0)


def test_the_repeated_kernel_by_hand():
    rgb = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)  # mean 3, response to grey 9
    assert repeat_input_channels(rgb, 1).flatten().tolist() == [9]
    assert repeat_input_channels(rgb, 2).flatten().tolist() == [4.5, 4.5]
    assert repeat_input_channels(rgb, 6).flatten().tolist() == [1.5] * 6
    assert repeat_input_channels(rgb, 3) is rgb


@pytest.mark.parametrize("in_channels", [1, 2, 5])
def test_pretrained_weights_answer_grey_alike_whatever_the_number_of_channels(monkeypatch, in_channels):
    torch.manual_seed(0)
    state = tv.resnet18().state_dict()  # random weights stand for ImageNet's
    monkeypatch.setattr("seglib.layers.resnet.load_pretrained", lambda weights: dict(state))
    rgb = resnet_encoder("resnet18", pretrained=True).eval()
    encoder = resnet_encoder("resnet18", pretrained=True, in_channels=in_channels).eval()
    assert torch.equal(rgb.conv1.weight, state["conv1.weight"])
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        want, out = rgb(grey.expand(-1, 3, -1, -1)), encoder(grey.expand(-1, in_channels, -1, -1))
    for level in want:
        torch.testing.assert_close(out[level], want[level], rtol=1e-4, atol=1e-5)  # float32, sums of other numbers


@pytest.mark.parametrize("levels", [("c5",), ("c2", "c5"), ("c1", "c2", "c3", "c4", "c5")])
def test_a_resnet_gives_the_maps_that_are_wanted_and_keeps_no_other(levels):
    torch.manual_seed(0)
    whole, encoder = resnet_encoder("resnet18").eval(), resnet_encoder("resnet18", levels=levels).eval()
    encoder.load_state_dict(whole.state_dict())
    image, kept = torch.randn(1, 3, 64, 64), []
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3):
        stage.register_forward_hook(lambda module, args, out: kept.append(weakref.ref(out)))
    alive = []
    encoder.layer4.register_forward_hook(lambda *_: alive.extend(ref() is not None for ref in kept[:2]))
    with torch.no_grad():
        want, maps = whole(image), encoder(image)
    assert tuple(maps) == tuple(encoder.channels) == tuple(encoder.grids) == levels
    assert all(torch.equal(maps[level], want[level]) for level in levels)
    assert alive == ["c2" in levels, "c3" in levels], "a map that nobody wants is let go while later ones are made"


def test_a_map_that_a_resnet_has_not_is_refused():
    with pytest.raises(ValueError, match="no map 'c6'; choose some of c1, c2, c3, c4, c5"):
        resnet_encoder("resnet18", levels=("c5", "c6"))


@pytest.mark.parametrize(
    ("pretrained", "frozen", "fixed"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_a_detectors_encoder_is_frozen_when_it_is_pretrained_unless_told_otherwise(
    monkeypatch, pretrained, frozen, fixed
):
    monkeypatch.setattr("seglib.layers.resnet.load_pretrained", lambda weights: tv.resnet18().state_dict())
    encoder = detector_encoder("resnet18", pretrained=pretrained, frozen=frozen)
    parts = {name.split(".")[0] for name, p in encoder.named_parameters() if not p.requires_grad}
    assert parts == ({"conv1", "layer1"} if fixed else set())
    assert any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules()) != fixed


def test_pretrained_vgg_answers_grey_alike_with_one_channel(monkeypatch):
    torch.manual_seed(0)
    with torch.device("meta"):
        state = tv.vgg16().state_dict()
    first = torch.randn(64, 3, 3, 3)
    state["features.0.weight"] = first
    monkeypatch.setattr("seglib.layers.vgg.load_pretrained", lambda weights: dict(state))
    monkeypatch.setattr("seglib.layers.vgg.convolutionalize", lambda *layer: nn.Conv2d(1, 1, 1))  # 0.5 GB less
    kernel = VGG16Encoder(pretrained=True, in_channels=1).to_pool3[0].weight
    torch.testing.assert_close(kernel[:, 0], first.sum(1))  # the response to an image whose three channels are equal
