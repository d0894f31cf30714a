"""nnU-Net's network: its levels follow a plan, every level of the way up is trained, slices are seen on their own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglib.data.volumes import CATEGORIES, Volumes
from seglib.layers.volume import InstanceNorm
from seglib.losses.combined import nnunet_loss
from seglib.models.nnunet import NNUNet, ResidualBlock, nnunet, nnunet_tiny
from seglib.planning.fingerprint import fingerprint
from seglib.planning.plan import plan
from seglib.types import VOID, Targets


@pytest.fixture(scope="module")
def synthetic():
    return fingerprint(Volumes(2))


@pytest.mark.parametrize(("width", "memory"), [(12, 0.15), (8, 0.1)])
def test_the_tiny_network_is_the_plan_of_the_synthetic_volumes(width, memory, synthetic):
    planned = plan(synthetic, memory=memory, width=width).configurations["3d_fullres"]
    assert (planned.patch, planned.batch_size) == ((32, 56, 56), 2)
    tiny = nnunet_tiny(len(CATEGORIES), width=width)
    network = nnunet(len(CATEGORIES), **planned.model_arguments())
    assert str(tiny) == str(network)
    assert tiny.criterion.keywords == network.criterion.keywords == {"batch_dice": planned.batch_dice}


def test_strides_kernels_and_widths_are_those_of_their_level_on_both_ways():
    model = nnunet(
        2,
        widths=(4, 8, 16),
        kernels=[(1, 3, 3), (3, 3, 3), (3, 5, 3)],
        strides=[(1, 2, 2), (2, 2, 1)],
        blocks=(1, 2, 3),
        decoder_blocks=(1, 2),
    )
    convs = [[layer for layer in level if isinstance(layer, nn.Conv3d)] for level in model.encoder]
    down = [[(c.out_channels, c.kernel_size, c.stride) for c in level] for level in convs]
    assert down == [
        [(4, (1, 3, 3), (1, 1, 1))],
        [(8, (3, 3, 3), (1, 2, 2)), (8, (3, 3, 3), (1, 1, 1))],
        [(16, (3, 5, 3), (2, 2, 1)), *[(16, (3, 5, 3), (1, 1, 1))] * 2],
    ]
    assert [(c.out_channels, c.kernel_size, c.stride) for c in model.up] == [
        (8, (2, 2, 1), (2, 2, 1)),
        (4, (1, 2, 2), (1, 2, 2)),
    ]
    up = [[(c.out_channels, c.kernel_size) for c in level if isinstance(c, nn.Conv3d)] for level in model.decoder]
    assert up == [[(8, (3, 3, 3))] * 2, [(4, (1, 3, 3))]]


def test_residual_levels_have_1_3_4_6_6_blocks_and_one_convolution_on_the_way_up():
    model = nnunet(2, widths=(4, 4, 4, 4, 4), residual=True)
    assert [len(level) for level in model.encoder] == [1, 3, 4, 6, 6]
    assert all(isinstance(block, ResidualBlock) for level in model.encoder for block in level)
    assert [sum(isinstance(layer, nn.Conv3d) for layer in level) for level in model.decoder] == [1] * 4


def test_a_new_residual_block_is_its_skip():
    x = torch.tensor([[1.0, 3.0, -4.0, -2.0], [5.0, 7.0, -6.0, -8.0]])[None, None]  # (1, 1, 2, 4)
    same = ResidualBlock(1, 1, (3, 3), (1, 1))
    torch.testing.assert_close(same(x), F.leaky_relu(x, 0.01))
    coarser = ResidualBlock(1, 1, (3, 3), (2, 2))  # means of 2 × 2
    torch.testing.assert_close(coarser(x), torch.tensor([[[[4.0, -0.05]]]]))
    assert [type(layer) for layer in ResidualBlock(1, 2, (3, 3), (2, 2)).skip] == [
        nn.AvgPool2d,
        nn.Conv2d,
        InstanceNorm,
    ]


def test_scores_weigh_half_of_those_of_the_next_finer_level_and_the_lowest_nothing():
    torch.manual_seed(0)
    model = nnunet(2, widths=(4, 4, 4, 4, 4))
    model.criterion = lambda logits, labels: logits.mean()
    out = model(torch.randn(1, 1, 32, 32, 32))
    assert [tuple(a.shape[2:]) for a in out.aux] == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    losses = model.loss(out, Targets(semantic=torch.zeros(1, 32, 32, 32, dtype=torch.int64)))
    wanted = (out.logits.mean() + out.aux[0].mean() / 2 + out.aux[1].mean() / 4) / (1 + 1 / 2 + 1 / 4)
    torch.testing.assert_close(sum(losses.values()), wanted)


def test_a_network_without_the_lowest_scores_has_the_same_loss():
    torch.manual_seed(0)
    full = nnunet(2, widths=(4, 4, 4, 4))
    less = nnunet(2, widths=(4, 4, 4, 4), aux_outputs=1)
    less.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("aux_scores.1")})
    x, targets = torch.randn(1, 1, 16, 16, 16), Targets(semantic=torch.randint(2, (1, 16, 16, 16)))
    a, b = (sum(model.loss(model(x), targets).values()) for model in (full, less))
    torch.testing.assert_close(a, b)


def test_the_only_scores_of_two_levels_weigh_all():
    model = nnunet(2, widths=(4, 4))
    model.criterion = lambda logits, labels: logits.mean()
    out = model(torch.randn(1, 1, 4, 4, 4))
    losses = model.loss(out, Targets(semantic=torch.zeros(1, 4, 4, 4, dtype=torch.int64)))
    assert out.aux == () and list(losses) == ["semantic"]
    torch.testing.assert_close(losses["semantic"], out.logits.mean())


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_loss_is_nnunets(batch_dice):
    torch.manual_seed(0)
    model = nnunet(3, widths=(4, 4), batch_dice=batch_dice)
    out = model(torch.randn(2, 1, 4, 8, 8))
    labels = torch.randint(3, (2, 4, 8, 8))
    loss = model.loss(out, Targets(semantic=labels))["semantic"]
    torch.testing.assert_close(loss, nnunet_loss(out.logits, labels, batch_dice=batch_dice))


def test_in_two_dimensions_each_slice_is_seen_on_its_own():
    torch.manual_seed(0)
    model = nnunet(3, dims=2, widths=(4, 6, 8)).eval()
    volume = torch.randn(2, 1, 5, 13, 18)
    with torch.no_grad():
        out = model(volume)
        for z in range(5):
            alone = model(volume[:, :, z : z + 1])
            torch.testing.assert_close(out.logits[:, :, z], alone.logits[:, :, 0])
            torch.testing.assert_close(out.aux[0][:, :, z], alone.aux[0][:, :, 0])
    assert out.logits.shape == (2, 3, 5, 13, 18) and out.aux[0].shape == (2, 3, 5, 8, 10)


def test_in_two_dimensions_slices_keep_their_number_and_padding_is_void():
    model = nnunet(2, dims=2, widths=(4, 4, 4))
    seen = []
    model.criterion = lambda logits, labels: seen.append(labels) or logits.sum()
    labels = torch.tensor([0, 0, 1, 1, 1]).expand(1, 3, 4, 5)
    model.loss(model(torch.randn(1, 1, 3, 4, 5)), Targets(semantic=labels))
    assert [tuple(labels.shape) for labels in seen] == [(1, 3, 4, 8), (1, 3, 2, 4)]
    assert seen[0][0, 0, 0].tolist() == [0, 0, 1, 1, 1, VOID, VOID, VOID]
    assert seen[1][0, 0, 0].tolist() == [0, 1, VOID, VOID]  # voxels 1, 3, 5 and 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 4}, "dims is 2 for slices and 3 for volumes, got 4"),
        ({"widths": (8,)}, "two levels at least; got 1 kernels, 1 blocks, 0 strides, 0 decoder blocks"),
        ({"widths": (8, 8, 8), "kernels": [(3, 3, 3)] * 2}, "got 2 kernels, 3 blocks, 2 strides"),
        ({"widths": (8, 8), "blocks": (2,)}, "got 2 kernels, 1 blocks"),
        ({"widths": (8, 8), "decoder_blocks": (2, 2)}, "2 decoder blocks"),
        ({"widths": (8, 8), "blocks": (2, 0)}, r"1 block at least, got \(2, 0\) and \(2,\)"),
        ({"widths": (8, 8), "kernels": [(3, 3, 3), (2, 3, 3)]}, r"three odd numbers \(z, y, x\), got \(2, 3, 3\)"),
        ({"widths": (8, 8), "dims": 2, "strides": [(2, 2, 2)]}, r"two numbers of at least 1 \(y, x\), got \(2, 2, 2\)"),
        ({"widths": (8, 8, 8), "aux_outputs": 2}, "3 levels have 0..1 auxiliary outputs, got 2"),
    ],
)
def test_levels_that_do_not_fit_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nnunet(3, **arguments)


def test_overlapping_regions_have_a_sigmoid_each():
    model = NNUNet(2, widths=(4, 6), overlapping=True)
    regions = torch.randint(2, (1, 2, 4, 16, 16), dtype=torch.uint8)
    out = model(torch.randn(1, 1, 4, 16, 16))
    torch.testing.assert_close(
        model.loss(out, Targets(regions=regions))["regions"], nnunet_loss(out.logits, regions, batch_dice=False)
    )
    assert model.predict(torch.randn(1, 1, 4, 16, 16))[0].masks.shape == (2, 4, 16, 16)
