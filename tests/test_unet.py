"""U-Net: the paper's sizes and tiles, skips, and the form in use."""

import pytest
import torch
import torch.nn.functional as F

from seglib.layers.valid import reflect_pad
from seglib.models.unet import PaperUNet, UNet, unet_paper, unet_tiny
from seglib.types import Targets


def small(depth=4, classes=3):
    torch.manual_seed(0)
    return unet_paper(classes, width=4, depth=depth).eval()


def test_the_papers_network_turns_572_pixels_into_388():
    model = small()
    assert model.margin == 92 and model.size_rest == 4
    with torch.no_grad():
        assert model.valid(torch.zeros(1, 3, 572, 572)).shape == (1, 3, 388, 388)


def test_the_papers_widths_and_number_of_weights():
    model = unet_paper(2)
    widths = [convs[0].out_channels for convs in model.down]
    assert widths == [64, 128, 256, 512, 1024]
    # Counted by hand: 3×3 convolutions (9·a·b + b), 2×2 transposed ones (4·a·b + b), the scores (64·2 + 2).
    down = sum(9 * a * b + b + 9 * b * b + b for a, b in zip([3, *widths[:-1]], widths, strict=True))
    up = sum(4 * 2 * w * w + w + 9 * 2 * w * w + w + 9 * w * w + w for w in widths[:-1])
    assert sum(p.numel() for p in model.parameters()) == down + up + 130


@pytest.mark.parametrize(("depth", "margin", "rest"), [(1, 8, 0), (2, 20, 0), (3, 44, 4), (4, 92, 4)])
def test_sizes_follow_from_the_depth(depth, margin, rest):
    # By hand for depth 1: 2 convs −4, pool ÷2, 2 convs −4, up ×2, 2 convs −4: n → ((n − 4)/2 − 4)·2 − 4 = n − 16.
    model = small(depth)
    assert (model.margin, model.size_rest) == (margin, rest)
    fits = [n for n in range(1, 40) if _valid_by_layers(n + 2 * margin, depth) == n]
    assert fits == [n for n in range(1, 40) if n % 2**depth == rest]


def _valid_by_layers(size, depth):
    """The size behind the whole network, or None where a pooling meets an odd map or a map vanishes."""
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
    return size if size > 0 else None


def test_a_window_that_does_not_fit_is_refused_with_one_that_does():
    with pytest.raises(ValueError, match="571 pixels does not fit; the next that does has 572"):
        small().valid(torch.zeros(1, 3, 572, 571))
    with pytest.raises(ValueError, match="100 pixels does not fit; the next that does has 188"):
        small().valid(torch.zeros(1, 3, 100, 188))


@pytest.mark.parametrize("size", [(150, 97), (20, 33), (5, 300)])
@pytest.mark.parametrize("tile", [20, 36, 132])
def test_tiles_give_the_result_of_one_big_pass(size, tile):
    model, images = small(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(images).logits
    tiled = model.overlap_tile(images, tile)
    assert whole.std() > 1e-2
    # float32: other sizes take other kernels, whose sums come in another order
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_tiles_off_the_lattice_of_the_poolings_are_refused():
    with pytest.raises(ValueError, match="a tile must be 4 above a multiple of 16, got 64; take 52"):
        small().overlap_tile(torch.rand(1, 3, 64, 64), 64)
    with pytest.raises(ValueError, match="take 20"):
        small().overlap_tile(torch.rand(1, 3, 64, 64), 4)


def test_tiles_are_computed_in_evaluation_mode_and_leave_the_mode():
    model, images = small().train(), torch.rand(1, 3, 40, 40)
    assert torch.equal(model.overlap_tile(images, 20), model.overlap_tile(images, 20))  # no dropout
    assert model.training and torch.is_grad_enabled()


def test_a_pixel_reads_the_mirror_image_beyond_the_border():
    model, images = small().double(), torch.rand(1, 3, 60, 60, dtype=torch.float64)
    with torch.no_grad():
        there = model(images).logits
        # a pixel reads up to 15 pixels further than the margin, to the end of a pooled block; a multiple of 16 keeps
        # the poolings in their places
        wide = reflect_pad(images, (112, 112, 112, 112))
        inside = model(wide).logits[..., 112:172, 112:172]
    assert there.std() > 1e-2
    torch.testing.assert_close(there, inside, rtol=1e-6, atol=1e-6)  # logits are cast to float32


@pytest.mark.parametrize("rim", [(0, 0, 0, 0), (3, 4, 5, 6), (1, 0, 0, 7)])
def test_mirror_equals_torchs_reflection_where_that_exists(rim):
    x = torch.rand(2, 3, 9, 8)
    assert torch.equal(reflect_pad(x, rim), F.pad(x, rim, mode="reflect"))


def test_mirror_goes_there_and_back_as_often_as_needed():
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    assert reflect_pad(x, (4, 5, 0, 2))[0, 0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2]] * 3
    assert reflect_pad(x[..., :1], (2, 1, 0, 0)).flatten().tolist() == [1, 1, 1, 1]


def test_weights_start_with_the_papers_deviation():
    conv = unet_paper(2).down[2][2]  # 256 channels, 3×3
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)  # 590,000 draws
    assert not conv.bias.any()


def test_without_skips_the_answer_depends_on_c5_alone():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    for skips in (True, False):
        model = unet_tiny(4, skips=skips).eval()
        cut = {}

        def detach_shallow(_, __, maps, cut=cut):
            cut |= {k: v.detach().requires_grad_() for k, v in maps.items()}
            return cut

        model.encoder.register_forward_hook(detach_shallow)
        model(images).logits.sum().backward()
        reached = {k for k, v in cut.items() if v.grad is not None}
        assert reached == ({"c1", "c2", "c3", "c4", "c5"} if skips else {"c5"})


def test_variants_with_and_without_skips_start_from_the_same_encoder():
    models = []
    for skips in (True, False):
        torch.manual_seed(3)
        models.append(unet_tiny(4, skips=skips).encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(models[0].values(), models[1].values(), strict=True))


def test_a_shift_by_the_coarsest_stride_shifts_the_answer():
    # with padding by zeros the border differs, so compare the middle
    torch.manual_seed(0)
    model, images = unet_tiny(4).eval(), torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        a, b = model(images).logits, model(images.roll(32, -1)).logits
    assert (a[..., 96:160, 96:128] - b[..., 96:160, 128:160]).abs().max() < 1e-4 * a.abs().max()


@pytest.mark.parametrize("wrong", [dict(widths=(8, 8, 8)), dict(widths=(8,) * 6)])
def test_another_number_of_widths_is_refused(wrong):
    from seglib.layers.tiny import TinyEncoder

    with pytest.raises(ValueError, match="expected 4 or 5 widths"):
        UNet(TinyEncoder(), 3, **wrong)


def test_a_network_without_depth_or_width_is_refused():
    for wrong in (dict(depth=0), dict(width=0)):
        with pytest.raises(ValueError, match="width and depth must be at least 1"):
            PaperUNet(3, **wrong)


def test_pixel_weights_weigh_the_loss():
    model = unet_tiny(3)
    images, labels = torch.rand(1, 3, 64, 32), torch.randint(3, (1, 64, 32))
    weight = torch.zeros(1, 64, 32)
    weight[:, :, :16] = 2.0
    out = model(images)
    half = labels.clone()
    half[:, :, 16:] = 255
    weighted = model.loss(out, Targets(semantic=labels, pixel_weight=weight))["semantic"]
    torch.testing.assert_close(weighted, model.loss(out, Targets(semantic=half))["semantic"])
    from seglib.losses import dice_loss

    model.criterion = dice_loss
    with pytest.raises(ValueError, match="the criterion has no argument pixel_weight"):
        model.loss(out, Targets(semantic=labels, pixel_weight=weight))
