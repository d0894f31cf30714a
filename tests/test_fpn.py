"""The feature pyramid: torchvision's numbers, both ways of fusing, and the levels above the encoder's."""

import pytest
import torch
from golden import Golden
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from seglib.layers.fpn import FPN, TopConvs, TopPool


def encoder_maps():
    """Maps of 8, 16 and 32 channels whose sizes are no multiples of each other."""
    torch.manual_seed(0)
    return [torch.randn(2, c, 24 // 2**i + 1, 40 // 2**i, requires_grad=True) for i, c in enumerate((8, 16, 32))]


def assert_same_pyramid(ours, reference, maps):
    """Equal levels and equal gradients at the maps."""
    out, want = ours(maps), list(reference({str(i): m for i, m in enumerate(maps)}).values())
    assert len(out) == len(want)
    for a, b in zip(out, want, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [torch.autograd.grad(sum((y**2).sum() for y in side), maps) for side in (out, want)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def with_weights_of(reference, ours):
    for i in range(3):
        ours.lateral[i].load_state_dict(reference.inner_blocks[i][0].state_dict())
        ours.output[i].load_state_dict(reference.layer_blocks[i][0].state_dict())
    return ours


def test_the_pyramid_equals_torchvision():
    reference = FeaturePyramidNetwork([8, 16, 32], 12, extra_blocks=LastLevelMaxPool())
    assert_same_pyramid(
        with_weights_of(reference, FPN([8, 16, 32], 12, top_block=TopPool())), reference, encoder_maps()
    )


@pytest.mark.parametrize(("source", "channels_in"), [("c5", 32), ("p5", 12)])
def test_p6_and_p7_equal_torchvision(source, channels_in):
    # torchvision takes p5 where the channels don't change
    reference = FeaturePyramidNetwork([8, 16, 32], 12, extra_blocks=LastLevelP6P7(channels_in, 12))
    top = TopConvs(channels_in, 12, source=source)
    top.load_state_dict(reference.extra_blocks.state_dict())
    assert_same_pyramid(with_weights_of(reference, FPN([8, 16, 32], 12, top_block=top)), reference, encoder_maps())


@pytest.mark.parametrize(
    ("name", "keys", "relu"),
    [
        ("yolact_resnet50", ("fpn.downsample_layers.0", "fpn.downsample_layers.1"), False),
        ("condinst_r50", ("backbone.top_block.p6", "backbone.top_block.p7"), True),
    ],
)
def test_p7_is_made_from_p6_as_in_the_references(name, keys, relu):
    golden = Golden(name)
    top = TopConvs(256, relu=relu)
    for conv, key in zip((top.p6, top.p7), keys, strict=True):
        conv.load_state_dict({part: golden.state[f"{key}.{part}"] for part in ("weight", "bias")})
    p6 = golden["small/fpn.p6"]
    if name == "yolact_resnet50":  # its p5 is stored in full
        made = top([], [golden["small/fpn.p5"]])
        golden.check("small/fpn.p6", made[0])
        golden.check("small/fpn.p7", made[1])
    other = top.p7(p6 if relu else F.relu(p6))
    mine = top.p7(F.relu(p6) if relu else p6)
    golden.check("small/fpn.p7", mine)
    with pytest.raises(AssertionError, match="differs"):
        golden.check("small/fpn.p7", other)


def plain(fuse, **more):
    """A pyramid of one channel whose 1×1 convolutions pass the map on and whose 3×3 ones are identities."""
    fpn = FPN([1, 1, 1], 1, fuse=fuse, **more)
    for conv in fpn.lateral:
        nn.init.ones_(conv.weight)
    for conv in fpn.output:
        nn.init.dirac_(conv.weight)
    return fpn


def test_fusing_by_hand():
    c3, c4, c5 = torch.full((1, 1, 4, 4), 8.0), torch.full((1, 1, 2, 2), 4.0), torch.tensor([[[[2.0]]]])
    assert [p.unique().tolist() for p in plain("sum")([c3, c4, c5])] == [[14], [6], [2]]
    # (4 + 2) / 2 = 3 goes on downwards, (8 + 3) / 2 = 5.5
    assert [p.unique().tolist() for p in plain("average")([c3, c4, c5])] == [[5.5], [3], [2]]


def test_the_map_from_above_repeats_its_cells():
    c5 = torch.tensor([[[[1.0, 2.0]]]])
    p4 = plain("sum")([torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 2, 4), c5])[1]
    assert p4[0, 0].tolist() == [[1, 1, 2, 2]] * 2


def test_the_top_pool_is_every_second_cell():
    c5 = torch.arange(15.0).view(1, 1, 3, 5)
    pyramid = plain("sum", top_block=TopPool())([F.interpolate(c5, scale_factor=s) for s in (4, 2, 1)])
    assert pyramid[-1][0, 0].tolist() == [[0, 2, 4], [10, 12, 14]]


def test_without_a_top_block_there_are_as_many_levels_as_maps():
    assert [tuple(p.shape) for p in FPN([8, 16, 32], 12)(encoder_maps())] == [
        (2, 12, 25, 40), (2, 12, 13, 20), (2, 12, 7, 10)
    ]  # fmt: skip


def test_any_module_may_be_the_top_block():
    class Mean(nn.Module):
        def forward(self, maps, pyramid):
            return [maps[-1].mean((2, 3), keepdim=True), pyramid[-1].mean((2, 3), keepdim=True)]

    maps = encoder_maps()
    pyramid = FPN([8, 16, 32], 12, top_block=Mean())(maps)
    assert torch.equal(pyramid[3], maps[-1].mean((2, 3), keepdim=True))
    assert torch.equal(pyramid[4], pyramid[2].mean((2, 3), keepdim=True))


def test_the_names_of_the_weights_are_those_of_stored_ones():
    assert set(FPN([4, 8], 6, top_block=TopPool()).state_dict()) == {
        f"{part}.{i}.{name}" for part in ("lateral", "output") for i in (0, 1) for name in ("weight", "bias")
    }
    norm = {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(FPN([4, 8], 6, norm=True).state_dict()) == {
        f"{part}.{i}.{name}" for part in ("lateral", "output") for i in (0, 1) for name in norm
    }
    assert set(TopConvs(4, 6).state_dict()) == {"p6.weight", "p6.bias", "p7.weight", "p7.bias"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FPN([]), "an FPN needs at least one map"),
        (lambda: FPN([4], fuse="avg"), "fuse 'avg' is unknown; choose one of sum, average"),
        (lambda: TopConvs(4, source="p4"), 'source is "c5" or "p5", got \'p4\''),
    ],
)
def test_bad_pyramids_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_upsampling_may_be_bilinear_and_outputs_end_in_relu():
    torch.manual_seed(0)
    fpn = FPN([8, 16], 4, upsample="bilinear", relu=True)
    maps = [torch.randn(2, 8, 9, 7), torch.randn(2, 16, 4, 3)]
    top = fpn.lateral[1](maps[1])
    lower = fpn.lateral[0](maps[0]) + F.interpolate(top, (9, 7), mode="bilinear", align_corners=False)
    for level, merged, output in zip(fpn(maps), (lower, top), fpn.output, strict=True):
        assert torch.equal(level, output(merged).relu())


def test_an_unknown_upsampling_is_refused():
    with pytest.raises(ValueError, match="upsample 'cubic' is unknown; choose one of nearest, bilinear"):
        FPN([8], 4, upsample="cubic")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (3, 3)])
def test_gradients_of_small_maps_are_finite_in_bf16(size):
    torch.manual_seed(0)
    for _ in range(8):
        unset = [torch.full((64, 64, 3, 3), torch.nan) for _ in range(20)]
        del unset  # memory that is given out again, as it was left
        top = TopConvs(64, 64)
        source = torch.randn(2, 64, *size)
        with torch.autocast("cpu", torch.bfloat16):
            levels = top([source], [source])
        sum(level.float().sum() for level in levels).backward()
        assert all(torch.isfinite(p.grad).all() for p in top.parameters())
