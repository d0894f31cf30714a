"""DeepLab: dilation instead of stride, ASPP, where the cells lie, a batch of one."""

import pytest
import torch
import torch.nn.functional as F
from contract import stir
from torch import nn
from torchvision.models import resnet18, resnet50

from seglib.layers.aspp import ASPP, image_pooling
from seglib.layers.grid import Grid
from seglib.layers.resnet import dilate, resnet_encoder
from seglib.layers.tiny import TinyEncoder
from seglib.models.deeplab import _upsample_aligned, deeplab_tiny, deeplabv3_resnet50, deeplabv3plus_resnet34
from seglib.types import Targets


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("make", [TinyEncoder, None], ids=["tiny", "resnet18"])
def test_the_dense_map_holds_the_strided_map(make, output_stride):
    """The atrous algorithm: the same weights without the strides give the same numbers, and those between."""

    def build(stride):
        torch.manual_seed(0)
        encoder = make(output_stride=stride) if make else resnet_encoder("resnet18", output_stride=stride)
        return stir(encoder).eval()

    strided, dense = build(32), build(output_stride)
    images = torch.rand(1, 3, 192, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = strided(images)["c5"], dense(images)["c5"]
    every = 32 // output_stride
    first = strided.grids["c5"].offset - dense.grids["c5"].offset
    first /= dense.grids["c5"].stride
    assert first == int(first) and dense.grids["c5"].stride == output_stride
    picked = b[..., int(first) :: every, int(first) :: every]
    assert a.std() > 1e-2
    torch.testing.assert_close(picked, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()))  # float32 in another order


def test_dilation_of_bottlenecks_is_torchvisions():
    ours, theirs = resnet50(), resnet50(replace_stride_with_dilation=[False, True, True])
    dilate(ours, 8)
    for (name, a), b in zip(ours.named_modules(), theirs.modules(), strict=True):
        if isinstance(a, nn.Conv2d):
            assert (a.stride, a.dilation, a.padding) == (b.stride, b.dilation, b.padding), name


def test_multi_grid_multiplies_the_last_stages_rates():
    encoder = resnet_encoder("resnet50", output_stride=16, multi_grid=(1, 2, 4), first_keeps=False)
    assert [block.conv2.dilation[0] for block in encoder.layer4] == [2, 4, 8]
    assert [block.conv2.dilation[0] for block in encoder.layer3] == [1] * 6


def test_a_basic_block_that_does_not_keep_is_dilated_whole():
    encoder = resnet_encoder("resnet18", output_stride=16, first_keeps=False)
    assert {conv.dilation for conv in (encoder.layer4[0].conv1, encoder.layer4[0].conv2)} == {(2, 2)}
    encoder = resnet_encoder("resnet18", output_stride=16)
    assert (encoder.layer4[0].conv1.dilation, encoder.layer4[0].conv2.dilation) == ((1, 1), (2, 2))


def test_bad_dilations_are_refused():
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        dilate(resnet18(), 4)
    with pytest.raises(ValueError, match=r"multi_grid needs .* got \(1, 2\) and 32"):
        dilate(resnet18(), 32, multi_grid=(1, 2))
    with pytest.raises(ValueError, match="no ResNet is called 'resnet19'"):
        resnet_encoder("resnet19")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 64"):
        TinyEncoder(output_stride=64)
    with pytest.raises(ValueError, match="output_stride must be 16 or 8, got 32"):
        deeplabv3_resnet50(3, output_stride=32)
    with pytest.raises(ValueError, match="layout is 'paper' or 'smp', got 'other'"):
        deeplabv3plus_resnet34(3, layout="other")


@pytest.mark.parametrize("separable", [False, True])
def test_the_split_projection_equals_the_concatenation_of_all_branches_with_gradients(separable):
    torch.manual_seed(0)
    aspp = stir(ASPP(8, 6, (1, 2, 30), separable=separable, dropout=0.0)).double().train()
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64, requires_grad=True)
    results = []
    for impl in ("fast", "reference"):
        out = aspp(x, impl=impl)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *aspp.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)  # float64, sums in another order


def test_a_rate_as_large_as_the_map_leaves_a_1x1_convolution():
    conv = ASPP(4, 3, (7,)).convs[1][0]
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight[:, :, 1:2, 1:2]), rtol=1e-5, atol=1e-5)  # float32


def test_an_unknown_implementation_of_aspp_is_refused():
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        ASPP(4, 4, (1,))(torch.zeros(1, 4, 3, 3), impl="slow")


@pytest.mark.parametrize("rates", [(), (0, 2)])
def test_rates_below_one_are_refused(rates):
    with pytest.raises(ValueError, match="ASPP needs dilation rates of at least 1"):
        ASPP(4, 4, rates)


def test_a_batch_of_one_trains_with_the_running_statistics_of_the_pooling_branch():
    pooling = stir(image_pooling(4, 6)).train()
    x = torch.randn(1, 4, 5, 5)
    before = pooling[2].running_mean.clone()
    out = pooling(x)
    assert torch.equal(pooling[2].running_mean, before)
    assert torch.equal(out, pooling.eval()(x))
    two = pooling.train()(torch.randn(2, 4, 5, 5))
    assert two.shape == (2, 6, 1, 1) and not torch.equal(pooling[2].running_mean, before)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_batch_of_one_crop_trains(decoder):
    model = deeplab_tiny(4, decoder=decoder).train()
    loss = model.loss(model(torch.rand(1, 3, 40, 40)), Targets(semantic=torch.randint(4, (1, 40, 40))))["semantic"]
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


def test_cells_are_laid_where_the_grid_says():
    # Cells of stride 4 whose first lies over pixel 5.5 instead of 1.5: the values are their own pixel positions.
    grid = Grid(4.0, 5.5)
    x = (5.5 + 4 * torch.arange(8.0)).expand(1, 1, 8, 8)  # the column that each cell lies over
    out = _upsample_aligned(x, grid, torch.zeros(1, 1, 32, 32))
    assert torch.equal(out[0, 0, 0, 6:30], torch.arange(6.0, 30.0))  # interpolation of positions gives positions
    assert torch.equal(out[0, 0, 5, :6], torch.full((6,), 5.5))  # before the first cell the first is repeated
    plain = _upsample_aligned(x, Grid(4.0, 1.5), torch.zeros(1, 1, 32, 32))
    assert torch.equal(plain, F.interpolate(x, (32, 32), mode="bilinear"))


def test_an_edge_in_c5_stays_where_it_is_in_the_logits():
    """The dilated tiny encoder's cells lie half a cell aside; the upsampled scores must not."""
    model = deeplab_tiny(2, decoder=False)
    step = torch.zeros(1, 2, 8, 8)
    centres = model.encoder.grids["c5"].offset + 8 * torch.arange(8)  # of the cells, in pixels
    step[:, 1] = (centres > 31.5).float()  # an edge in the middle of 64 pixels
    laid = _upsample_aligned(step, model.encoder.grids["c5"], torch.zeros(1, 1, 64, 64))
    crossing = laid[0, 1, 32].gt(0.5).nonzero()[0].item()
    assert crossing == 36  # halfway between the cells over 31.5 and 39.5


def test_an_unknown_map_for_the_decoder_is_refused():
    from seglib.models.deeplab import DeepLabV3Plus

    with pytest.raises(ValueError, match="the encoder has no map 'c9'; choose one of c1, c2"):
        DeepLabV3Plus(TinyEncoder(output_stride=8), 3, rates=(1,), low_level="c9")


@pytest.mark.slow
def test_a_compiled_training_step_has_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    model = deeplab_tiny(3).train()
    images, targets = torch.rand(2, 3, 64, 64), Targets(semantic=torch.randint(3, (2, 64, 64)))
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    torch._dynamo.reset()
    found = []
    for forward in (model, torch.compile(model)):
        model.zero_grad()
        loss = torch.stack(list(model.loss(forward(images, targets), targets).values())).sum()
        loss.backward()
        found.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    for name, plain in found[0][1].items():
        # a compiler fuses and reorders float32 sums; relative to the largest gradient of the tensor
        assert (plain - found[1][1][name]).abs().max() <= 1e-3 * plain.abs().max() + 1e-7, name
