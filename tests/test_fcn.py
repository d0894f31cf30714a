"""Fully convolutional networks: the paper's geometry, weights and forms."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models as tv

from seglib.layers.grid import Grid
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, pad_to_multiple
from seglib.layers.resnet import ResNetEncoder
from seglib.layers.tiny import TinyEncoder
from seglib.layers.vgg import VGG16Encoder, convolutionalize
from seglib.losses.pixel import cross_entropy
from seglib.losses.region import dice_loss
from seglib.models.fcn import FCN, fcn8s, fcn16s, fcn32s, fcn_resnet18, fcn_tiny
from seglib.models.semantic import AUX_WEIGHT
from seglib.types import VOID, DenseOutput, Targets


@pytest.fixture(scope="module")
def vgg():
    """The encoder with narrow fc6 and fc7. The tests read its geometry and run it, none changes it."""
    return VGG16Encoder(hidden=8).eval()


def test_a_convolutionalised_layer_by_hand():
    # two channels of 2×2, flattened channel by channel: 0 1 2 3 | 4 5 6 7
    linear = nn.Linear(8, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(8.0)[None])
        linear.bias.fill_(0.5)
    conv = convolutionalize(linear, in_channels=2, kernel=2)
    assert conv.weight[0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    x = torch.zeros(1, 2, 2, 2)
    x[0, 1, 0, 1] = 10
    assert conv(x).tolist() == [[[[50.5]]]] and linear(x.flatten(1)).tolist() == [[50.5]]


def test_a_convolutionalised_classifier_gives_a_map_of_the_answers_for_every_window():
    torch.manual_seed(0)
    fc6, fc7 = nn.Linear(6 * 3 * 3, 5), nn.Linear(5, 4, bias=False)
    dense = nn.Sequential(convolutionalize(fc6, 6, 3), nn.ReLU(), convolutionalize(fc7, 5, 1))
    maps = torch.randn(2, 6, 5, 7)
    scores = dense(maps)  # (2, 4, 3, 5)
    for y in range(3):
        for x in range(5):
            window = maps[..., y : y + 3, x : x + 3].flatten(1)
            # float32 sums of 54 products in another order
            torch.testing.assert_close(scores[..., y, x], fc7(fc6(window).relu()), rtol=1e-5, atol=1e-5)


def test_a_layer_over_maps_of_another_size_is_not_convolutionalised():
    with pytest.raises(ValueError, match=r"\(6, 7, 7\) maps takes 294 numbers, this one takes 54"):
        convolutionalize(nn.Linear(54, 5), 6, 7)


@pytest.mark.slow
def test_imagenet_weights_classify_as_torchvisions_vgg16_does(monkeypatch):
    torch.manual_seed(0)
    reference = tv.vgg16().eval()  # random weights stand for the published ones
    monkeypatch.setattr("seglib.layers.vgg.load_pretrained", lambda weights: reference.state_dict())
    encoder = VGG16Encoder(pretrained=True).eval()
    image = torch.randn(1, 3, 224, 224)
    encoder.to_pool3[0].padding = (1, 1)  # without the margin, fc6 sees just the window that the classifier sees
    expected = reference.classifier[:-1](reference.features(image).flatten(1))  # up to fc7
    # float32 sums of 25088 products in another order
    torch.testing.assert_close(encoder(image)["c5"][..., 0, 0], expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3


def test_published_weights_need_the_published_width():
    with pytest.raises(ValueError, match="4096 channels, hidden is 8"):
        VGG16Encoder(hidden=8, pretrained=True)


def test_the_crops_follow_from_the_arithmetic_and_are_those_of_the_paper(vgg):
    # the offsets of the Crop layers in the published voc-fcn32s, -16s and -8s networks;
    # the skips are cropped there (negative here), and the upsampled scores at the end
    assert FCN(vgg, 21, stride=32).crops == {"image": 19}
    assert FCN(vgg, 21, stride=16).crops == {"c4": -5, "image": 27}
    assert FCN(vgg, 21, stride=8).crops == {"c4": -5, "c3": -9, "image": 31}


def test_the_vgg_maps_lie_where_a_padding_of_100_puts_them(vgg):
    assert vgg.grids == {"c3": Grid(8, -95.5), "c4": Grid(16, -91.5), "c5": Grid(32, 12.5)}


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_vgg_forms_take_any_size(vgg, stride):
    model = FCN(copy.deepcopy(vgg), 3, stride=stride).eval().to("meta")  # shapes without numbers
    for size in range(1, 70):  # every remainder by 32 twice
        assert model(torch.rand(1, 3, size, 50, device="meta")).logits.shape == (1, 3, size, 50)


def test_a_vgg_form_scores_a_single_pixel(vgg):
    model = FCN(vgg, 3, stride=8).eval()
    nn.init.ones_(model.score["c5"].weight)
    with torch.no_grad():
        logits = model(torch.rand(1, 3, 1, 1)).logits
    assert logits.shape == (1, 3, 1, 1) and logits.all()


@pytest.mark.parametrize("make", [fcn_tiny, fcn_resnet18])
@pytest.mark.parametrize("stride", [32, 16, 8, 4, 2])
def test_the_upsampled_maps_lie_over_the_image(make, stride):
    """A ramp in place of the scores comes out as the ramp: each cell's value is the pixel that the cell lies over."""
    model = make(2, stride=stride).eval()
    grids = model.encoder.grids
    # only the deepest map is scored, so the other sums must not shift it
    deepest = model.levels[0]

    class Ramp(nn.Module):
        channels, size_divisibility = model.encoder.channels, model.encoder.size_divisibility

        def forward(self, images):
            size = images.shape[-1]
            maps = {}
            for level, grid in grids.items():
                n = -(-size // int(grid.stride))
                column = grid.stride * torch.arange(n) + grid.offset if level == deepest else torch.zeros(n)
                maps[level] = column.expand(1, self.channels[level], n, n) / self.channels[level]
            return maps

    model.encoder = Ramp()
    for conv in model.score.values():
        nn.init.ones_(conv.weight)
    logits = model(torch.zeros(1, 3, 192, 192)).logits[0, 0]  # (192, 192)
    inner = slice(64, 128)  # away from the borders, where the maps end
    expected = torch.arange(192.0).expand(192, 192)
    torch.testing.assert_close(logits[inner, inner], expected[inner, inner], rtol=0, atol=1e-3)  # float32 at 192


def test_every_logit_is_zero_before_training():
    logits = fcn_tiny(4)(torch.rand(2, 3, 32, 32)).logits
    assert logits.shape == (2, 4, 32, 32) and not logits.any()


def test_the_variants_score_the_maps_of_the_paper(vgg):
    assert FCN(vgg, 3, stride=32).levels == ["c5"]
    assert FCN(vgg, 3, stride=16).levels == ["c5", "c4"]
    assert FCN(vgg, 3, stride=8).levels == ["c5", "c4", "c3"]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "stride"), [(fcn32s, 32), (fcn16s, 16), (fcn8s, 8)])
def test_the_vgg_builders_make_the_strides_of_their_names(make, stride):
    model = make(3, hidden=8, dropout=0.25)
    assert model.encoder.grids[model.levels[-1]].stride == stride
    assert model.encoder.dropout.p == 0.25


def test_a_stride_that_no_map_has_is_refused(vgg):
    with pytest.raises(ValueError, match=r"\[8, 16, 32\]; got 4"):
        FCN(vgg, 3, stride=4)


@pytest.mark.parametrize("num_classes", [0, 1, 256])
def test_impossible_numbers_of_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"num_classes must be 2..255, got {num_classes}"):
        fcn_tiny(num_classes)


def test_the_loss_is_the_cross_entropy_and_half_that_of_the_auxiliary_head():
    model = fcn_tiny(3)
    logits, aux = torch.randn(2, 1, 3, 4, 4).unbind(0)
    labels = torch.randint(3, (1, 4, 4))
    labels[0, 0] = VOID
    losses = model.loss(DenseOutput(logits, (aux,)), Targets(semantic=labels))
    assert set(losses) == {"semantic", "aux"} and AUX_WEIGHT == 0.5
    torch.testing.assert_close(losses["semantic"], F.cross_entropy(logits, labels, ignore_index=VOID))
    torch.testing.assert_close(losses["aux"], 0.5 * F.cross_entropy(aux, labels, ignore_index=VOID))


def test_deep_supervision_compares_each_scale_with_labels_of_its_size():
    model = fcn_tiny(3)
    model.aux_weights = (0.5, 0.25)
    logits, half, quarter = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2)
    labels = torch.randint(3, (1, 8, 8))
    losses = model.loss(DenseOutput(logits, (half, quarter)), Targets(semantic=labels))
    # the centre of a cell of 2 pixels lies in the second of them, that of a cell of 4 in the third
    want = 0.5 * F.cross_entropy(half, labels[:, 1::2, 1::2]) + 0.25 * F.cross_entropy(quarter, labels[:, 2::4, 2::4])
    torch.testing.assert_close(losses["aux"], want)


def test_targets_without_semantic_labels_are_refused():
    with pytest.raises(ValueError, match="no `semantic` labels"):
        fcn_tiny(3).loss(DenseOutput(torch.zeros(1, 3, 2, 2)), Targets())


def test_one_step_of_training_lowers_the_loss():
    torch.manual_seed(0)
    model = fcn_tiny(3)
    images, targets = torch.rand(2, 3, 64, 64), Targets(semantic=torch.randint(3, (2, 64, 64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = model.loss(model(images), targets)["semantic"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_images_are_normalised_inside():
    x = torch.rand(1, 3, 2, 2)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert torch.equal(Normalize()(x), (x - mean) / std)
    assert set(Normalize().state_dict()) == {"mean", "std"}, "they are stored with the weights"


@pytest.mark.parametrize("std", [(1.0, 1.0), (1.0, 0.0, 1.0)])
def test_normalisation_by_an_impossible_std_is_refused(std):
    with pytest.raises(ValueError, match="std > 0; got"):
        Normalize((0.5, 0.5, 0.5), std)


def test_padding_appends_below_and_to_the_right():
    padded = pad_to_multiple(torch.ones(1, 1, 3, 4), 4)
    assert padded[0, 0].tolist() == [[1, 1, 1, 1]] * 3 + [[0, 0, 0, 0]]
    ramp = torch.tensor([[[[1.0, 2], [3, 4], [5, 6]]]])
    assert pad_to_multiple(ramp, 4, "replicate")[0, 0].tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], *[[5, 6, 6, 6]] * 2]
    same = torch.ones(1, 1, 8, 4)
    assert torch.equal(pad_to_multiple(same, 4), same)


@pytest.mark.parametrize("dilate", [False, True])
def test_the_resnet_encoder_runs_torchvisions_own_layers(dilate):
    torch.manual_seed(0)
    resnet = tv.resnet50(replace_stride_with_dilation=[False, dilate, dilate]).eval()
    encoder = ResNetEncoder(resnet).eval()
    x = torch.rand(1, 3, 70, 41)
    with torch.no_grad():
        maps = encoder(x)
        pooled = F.adaptive_avg_pool2d(maps["c5"], 1).flatten(1)
        assert torch.equal(resnet.fc(pooled), resnet(x))
    for level, grid in encoder.grids.items():
        s = int(grid.stride)
        assert maps[level].shape[1:] == (encoder.channels[level], -(-70 // s), -(-41 // s))
    assert [int(g.stride) for g in encoder.grids.values()] == ([2, 4, 8, 8, 8] if dilate else [2, 4, 8, 16, 32])


def test_the_tiny_encoder_is_a_pyramid_of_half_a_million_weights():
    encoder = TinyEncoder()
    maps = encoder(torch.rand(2, 3, 64, 96))
    for level, grid in encoder.grids.items():
        s = int(grid.stride)
        assert maps[level].shape == (2, encoder.channels[level], 64 // s, 96 // s)
        assert grid.offset == (s - 1) / 2, "each cell lies in the middle of its pixels"
    assert [int(g.stride) for g in encoder.grids.values()] == [2, 4, 8, 16, 32]
    assert sum(p.numel() for p in encoder.parameters()) < 600_000


def test_a_tiny_encoder_needs_five_widths():
    with pytest.raises(ValueError, match=r"expected 5 widths and 4 depths, got \(8, 8\)"):
        TinyEncoder(widths=(8, 8))


def test_pixel_weights_go_to_every_criterion_that_takes_them():
    net = fcn_tiny(3)
    labels = torch.randint(3, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    weight = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = Targets(semantic=labels, pixel_weight=weight)
    out = net(torch.rand(2, 3, 32, 32))
    rare = torch.tensor([1.0, 2.0, 5.0])
    net.criterion = partial(cross_entropy, weight=rare)
    wanted = cross_entropy(out.logits, labels, weight=rare, pixel_weight=weight)
    assert torch.equal(net.loss(out, targets)["semantic"], wanted)
    net.criterion = lambda logits, target, *, pixel_weight: pixel_weight.mean()
    assert torch.equal(net.loss(out, targets)["semantic"], weight.mean())
    net.criterion = dice_loss
    with pytest.raises(ValueError, match="the criterion has no argument pixel_weight; leave the transform"):
        net.loss(out, targets)
