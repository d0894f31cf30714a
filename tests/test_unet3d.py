"""3D U-Net: the paper's arithmetic, any size, the weights of its losses, and learning from few annotated slices."""

import pytest
import torch
from torch.nn import functional as F

from seglib.losses.pixel import cross_entropy
from seglib.models.unet3d import PaperUNet3D, UNet3D, unet3d, unet3d_tiny
from seglib.types import VOID, Targets


def test_the_papers_network_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        model = PaperUNet3D(3, in_channels=3)
    batch_norm = sum(p.numel() for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d) for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - batch_norm == 19_069_955


def test_the_papers_tile_of_132_132_116_voxels_answers_for_44_44_28():
    with torch.device("meta"):
        model = PaperUNet3D(3, in_channels=3)
        assert model.valid(torch.zeros(1, 3, 116, 132, 132)).shape == (1, 3, 28, 44, 44)
        with pytest.raises(ValueError, match="a window of 117 voxels does not fit; the next that does has 124"):
            model.valid(torch.zeros(1, 3, 117, 132, 132))


def test_channels_double_before_the_pooling():
    model = PaperUNet3D(2, width=4, depth=2)
    assert [(c[0].out_channels, c[3].out_channels) for c in model.down] == [(4, 8), (8, 16), (16, 32)]


def test_an_answer_does_not_depend_on_what_lies_beyond_its_margin():
    torch.manual_seed(0)
    model = PaperUNet3D(2, width=2, depth=1).eval()
    x = torch.randn(1, 1, 30, 30, 30)
    y = x.clone()
    y[..., 0] += 1  # 15 voxels before the middle; the margin is 8
    with torch.no_grad():
        a, b = model.valid(x), model.valid(y)
    assert a.shape[2:] == (14, 14, 14)
    assert not torch.equal(a[..., 0], b[..., 0]) and torch.equal(a[..., 2:], b[..., 2:])


def test_a_network_in_the_plane_sees_no_other_slice():
    torch.manual_seed(0)
    model = unet3d_tiny(3, in_plane=True).eval()
    volume = torch.randn(1, 1, 4, 32, 32)
    with torch.no_grad():
        slices = model(volume[0].transpose(0, 1)[:, :, None]).logits  # each slice as a volume of one
        other = model(torch.cat([volume[:, :, :1], 5 + volume[:, :, 1:]], 2)[0].transpose(0, 1)[:, :, None]).logits
    torch.testing.assert_close(slices[0], other[0])
    convs = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d)]
    assert all(conv.kernel_size[0] == 1 and conv.stride[0] == 1 for conv in convs)


def test_weights_of_deep_supervision_halve_and_add_up_to_one():
    model = UNet3D(2, widths=(4, 4, 4, 4), aux_outputs=2)
    model.criterion = lambda logits, labels: logits.mean()
    out = model(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(a.shape[2:]) for a in out.aux] == [(8, 8, 8), (4, 4, 4)]
    losses = model.loss(out, Targets(semantic=torch.zeros(1, 16, 16, 16, dtype=torch.int64)))
    wanted = (out.logits.mean() + out.aux[0].mean() / 2 + out.aux[1].mean() / 4) / (1 + 1 / 2 + 1 / 4)
    torch.testing.assert_close(sum(losses.values()), wanted)


def test_coarse_scores_are_compared_where_they_lie():
    """Of 5 voxels the second coarse cell of 4 covers one and three of padding: its label is that one's, not void."""
    model = UNet3D(2, widths=(4, 4, 4), strides=[(1, 1, 4), (1, 1, 2)], aux_outputs=1)
    seen = []
    model.criterion = lambda logits, labels: seen.append(labels) or logits.sum()
    labels = torch.tensor([0, 0, 1, 1, 1]).expand(1, 1, 2, 5)
    model.loss(model(torch.randn(1, 1, 1, 2, 5)), Targets(semantic=labels))
    assert seen[0][0, 0, 0].tolist() == [0, 0, 1, 1, 1, VOID, VOID, VOID]
    assert seen[1][0, 0, 0].tolist() == [1, VOID]  # at voxels 2 and 6, the centres of the cells


def test_padding_does_not_change_what_the_loss_compares():
    torch.manual_seed(0)
    model = UNet3D(3, widths=(4, 4, 4), aux_outputs=1)
    model.criterion = cross_entropy
    out = model(torch.randn(2, 1, 5, 6, 7))
    labels = torch.randint(3, (2, 5, 6, 7))
    weight = torch.rand(2, 5, 6, 7)
    losses = model.loss(out, Targets(semantic=labels, pixel_weight=weight))
    torch.testing.assert_close(1.5 * losses["semantic"], cross_entropy(out.logits, labels, pixel_weight=weight))


def test_unlabelled_voxels_weigh_nothing_and_classes_as_they_are_told():
    torch.manual_seed(0)
    model = PaperUNet3D(2, width=2, depth=1, class_weights=(0.1, 0.9))
    out = model(torch.randn(1, 1, 6, 8, 8))
    labels = torch.full((1, 6, 8, 8), VOID)
    labels[:, 2] = torch.randint(2, (8, 8))  # one annotated slice
    loss = model.loss(out, Targets(semantic=labels))["semantic"]
    scores = out.logits[:, :, 2].flatten(2)[0].T  # (64, 2)
    torch.testing.assert_close(loss, F.cross_entropy(scores, labels[0, 2].flatten(), torch.tensor([0.1, 0.9])))
    loss.backward()
    assert model.score.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8,)}, "two levels at least"),
        ({"widths": (8, 8, 8), "kernels": [(3, 3, 3)] * 2}, "got 2 kernels, 2 strides, 1 decoder kernels"),
        (
            {"widths": (8, 8), "kernels": [(3, 3, 3), (2, 3, 3)], "aux_outputs": 0},
            r"three odd numbers .* got \(2, 3, 3\)",
        ),
        ({"widths": (8, 8), "strides": [(2, 2)], "aux_outputs": 0}, r"a stride is three numbers .* got \(2, 2\)"),
        ({"widths": (8, 8), "strides": [(0, 2, 2)], "aux_outputs": 0}, r"of at least 1 \(z, y, x\), got \(0, 2, 2\)"),
        ({"widths": (8, 8, 8), "aux_outputs": 2}, "3 levels have 0..1 auxiliary outputs, got 2"),
        ({"class_weights": (1.0, 2.0)}, "class_weights are 3 numbers of at least 0"),
        ({"class_weights": (1.0, -2.0, 1.0)}, "class_weights are 3 numbers of at least 0"),
        ({"class_weights": (1.0, 2.0, 1.0), "overlapping": True}, "of overlapping classes"),
    ],
)
def test_levels_that_do_not_fit_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        unet3d(3, **arguments)


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width and depth must be at least 1, got 0 and 3"):
        PaperUNet3D(2, width=0)


def test_an_image_is_no_volume():
    with pytest.raises(ValueError, match=r"expected images \(B, 1, D, H, W\), got shape \(1, 1, 32, 32\)"):
        unet3d_tiny(2).predict(torch.rand(1, 1, 32, 32))


def test_overlapping_regions_of_a_volume_have_a_sigmoid_each():
    model = unet3d_tiny(2, overlapping=True)
    regions = torch.randint(2, (1, 2, 4, 16, 16), dtype=torch.uint8)
    assert torch.isfinite(sum(model.loss(model(torch.randn(1, 1, 4, 16, 16)), Targets(regions=regions)).values()))
    assert model.predict(torch.randn(1, 1, 4, 16, 16))[0].masks.shape == (2, 4, 16, 16)
