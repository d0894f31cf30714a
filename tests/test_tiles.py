"""Label maps of large pictures: the tiles leave no trace, and the whole never exists at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from seglib.ops.geometry import Geometry
from seglib.postprocess import predict_semantic, predict_tiled
from seglib.postprocess.semantic import semantic_from_logits
from seglib.postprocess.tiles import _Axis, _strip, label_bands
from seglib.types import Semantic


class SmallNet(nn.Module):
    """Random convolutions on a grid of stride 2; a pixel depends on those up to 6 away.

    Its cell reads 2 cells to each side (the 5×5), whose farthest is 4 pixels off and reads one more (the 3×3); the
    pixel itself lies up to 1 pixel from the centre of its cell.
    """

    reach = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 2, stride=2),
        )
        self.seen = []

    def predict(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        height, width = images.shape[-2:]
        with torch.no_grad():
            logits = self.layers(F.pad(images, (0, -width % 2, 0, -height % 2)))
        return semantic_from_logits(20 * logits[..., :height, :width])


class Position:
    """Class 1 in the second half of the columns of whatever it sees; the worst that a model can do to tiles."""

    def predict(self, images):
        probs = torch.zeros(2, *images.shape[-2:])
        probs[1, :, images.shape[-1] // 2 :] = 1
        probs[0] = 1 - probs[1]
        return [Semantic(probs.argmax(0), probs)]


class Pixelwise:
    """Looks at single pixels, so that every way to tile is right."""

    def predict(self, images):
        red = images[:, 0]
        return semantic_from_logits(4 * torch.stack([red, 1 - red, 2 * red - 0.7], 1))


def noise(height=150, width=211):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(labels, semantic, *, rounding=1e-5):
    """The labels are those of the prediction wherever the two most probable classes are not equal up to rounding."""
    first, second = semantic.probs.topk(2, 0).values
    sure = first - second > 2 * rounding
    assert sure.float().mean() > 0.999
    assert labels.dtype == torch.uint8
    assert labels.shape == semantic.labels.shape
    assert torch.equal(labels[sure].long(), semantic.labels[sure])


def differing(labels, semantic):
    return int((labels.long() != semantic.labels).sum())


def test_the_receptive_field_of_the_model_under_test_is_what_it_says():
    net = SmallNet()
    image = noise(32, 32)[None].requires_grad_()
    for at in (14, 15):
        (grad,) = torch.autograd.grad(net.layers(image)[0, :, at, at].sum(), image)
        rows = grad.abs().sum((0, 1, 3)).nonzero()
        assert max(at - int(rows.min()), int(rows.max()) - at) <= net.reach


@pytest.mark.parametrize("tile", [64, 81, 150, 1000])
@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 2, "flip": True}, {}], ids=["plain", "flip", "default"])
def test_tiles_whose_context_holds_the_receptive_field_leave_no_trace(tile, options):
    net = SmallNet()
    labels = predict_tiled(net, noise(), tile=tile, overlap=16, **options)  # 3/8 of 16 is 6
    whole = predict_semantic(net, noise(), flip=options.get("flip", False))
    assert_same(labels, whole, rounding=1e-6)  # float32 sums of at most eight products of a probability and a weight


def test_tiles_without_context_do_leave_traces():
    net = SmallNet()
    whole = predict_semantic(net, noise())
    assert differing(predict_tiled(net, noise(), tile=64, overlap=0, stride=2), whole) > 100
    assert differing(predict_tiled(net, noise(), tile=64, overlap=8, stride=2), whole) > 0  # 3/8 of 8 is 3, not 6


def test_tiles_that_do_not_begin_on_the_models_grid_leave_traces():
    net = SmallNet()
    whole = predict_semantic(net, noise())
    assert differing(predict_tiled(net, noise(), tile=65, overlap=16, stride=1), whole) > 1000  # begin at 49, 98, …
    assert_same(predict_tiled(net, noise(), tile=65, overlap=16, stride=2), whole)


@pytest.mark.parametrize("tile", [64, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {"geometry": Geometry("shorter", 100)},
        {"geometry": Geometry("shorter", 200)},
        {"scales": (0.5, 1, 1.75)},
        {"geometry": Geometry("shorter", 120), "scales": (0.6, 1.3), "flip": True},
    ],
    ids=str,
)
def test_resized_views_in_tiles_are_those_of_the_whole(tile, options):
    net = SmallNet()
    labels = predict_tiled(net, noise(), tile=tile, overlap=16, **options)
    # Positions are float64 here and float32 in F.interpolate; their rounding, 1e-5 pixels at pixel 200, moves the
    # probabilities by up to 7e-6 through the steep logits of this model.
    assert_same(labels, predict_semantic(net, noise(), **options), rounding=2e-5)


def test_tiles_without_overlap_still_see_the_pixel_beyond_to_interpolate_from():
    # per-pixel answers at half the scale: the first pixel of a tile lies between the last cell before it and its own
    labels = predict_tiled(Pixelwise(), noise(), tile=64, overlap=0, scales=(0.5,), stride=32)
    assert_same(labels, predict_semantic(Pixelwise(), noise(), scales=(0.5,)))


def test_a_photo_much_smaller_than_the_model_sees_it():
    image = noise(7, 2)  # of ten rows at model scale, the photo reads two: the next may lie beyond the finished band
    labels = predict_tiled(Pixelwise(), image, tile=64, overlap=8, geometry=Geometry("shorter", 20))
    assert torch.equal(labels.long(), predict_semantic(Pixelwise(), image, geometry=Geometry("shorter", 20)).labels)


# No view is one pixel wide: F.interpolate (torch 2.14) with antialias=True makes each row of such a result the first.
@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(2, 150), st.integers(2, 60), st.sampled_from([0, 8, 24, 32]), st.booleans())
def test_pictures_of_any_size_and_shape(height, width, short_side, overlap, flip):
    image = noise(height, width)
    options = {
        "geometry": Geometry("shorter", min(short_side, 20 * min(height, width))),
        "flip": flip,
        "scales": (1, 1.3),
    }
    labels = predict_tiled(Pixelwise(), image, tile=64, overlap=overlap, **options)
    whole = predict_semantic(Pixelwise(), image, **options)
    first, second = whole.probs.topk(2, 0).values
    sure = first - second > 1e-4  # positions rounded to float32, times the logits' slope
    assert torch.equal(labels[sure].long(), whole.labels[sure])


def test_a_picture_smaller_than_a_tile_is_one_plain_call():
    net = SmallNet()
    labels = predict_tiled(net, noise())
    assert net.seen == [(150, 211)]
    assert torch.equal(labels.long(), predict_semantic(net, noise()).labels)


def test_tiles_are_full_at_the_borders_too_and_begin_on_the_grid():
    axis = _Axis(1000, 256, 64, 32)  # steps of 192; 24 pixels of context and a ramp of 16
    assert axis.cores == [(0, 208), (192, 400), (384, 592), (576, 784), (768, 976), (960, 1000)]
    regions = [axis.region(core, 1000) for core in axis.cores]
    assert regions == [(0, 256), (160, 448), (352, 640), (544, 832), (736, 1000), (736, 1000)]


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(64, 700), st.data())
def test_the_weights_of_every_pixel_add_up_to_one(size, tile, data):
    overlap = data.draw(st.integers(0, tile // 2))
    axis = _Axis(size, tile, overlap, 32)
    total = torch.zeros(size)
    for core in axis.cores:
        total[core[0] : core[1]] += axis.weights(core, torch.device("cpu"))
    torch.testing.assert_close(total, torch.ones(size))


def test_the_weights_by_hand():
    axis = _Axis(200, 64, 16, 16)  # the ramp is 4 pixels
    rise = [0.125, 0.375, 0.625, 0.875]
    first, second = axis.cores[:2]
    assert (first, second) == ((0, 52), (48, 100))
    assert axis.weights(first, torch.device("cpu")).tolist() == [1.0] * 48 + rise[::-1]
    assert axis.weights(second, torch.device("cpu")).tolist() == rise + [1.0] * 44 + rise[::-1]


@given(st.integers(1, 3000), st.integers(64, 700), st.floats(0.1, 3), st.booleans(), st.data())
def test_a_tile_sees_its_core_and_its_context_wherever_the_picture_has_them(size, tile, scale, mirrored, data):
    axis = _Axis(size, tile, data.draw(st.integers(0, tile // 2)), 32)
    view = max(1, round(size * scale))
    for core in axis.cores:
        left, right = axis.region(core, view, mirrored)
        assert 0 <= left < right <= view
        assert left <= max(0, core[0] * view / size - axis.margin)
        assert right >= min(view, core[1] * view / size + axis.margin)
        assert ((view - right) if mirrored else left) % 32 == 0
        assert right - left >= min(view, math.floor(axis.tile * view / size))
        assert right - left <= tile * view / size + 2 * axis.margin + 2 * 32 + 2  # bounded, whatever the picture


def test_answers_that_depend_on_the_tile_are_blended_not_cut():
    labels = predict_tiled(Position(), torch.rand(3, 64, 176), tile=64, overlap=32, stride=4)
    changes = (labels[0].diff() != 0).nonzero().flatten()
    assert torch.equal(labels, labels[:1].expand_as(labels))
    # Tiles see 0..64, 20..84, 52..116, …, 112..176 and say 1 from their middle on. On the ramps, 32..40, 64..72, …, the
    # earlier tile says 1 and the later one 0 (the last two agree); its weight is greater in the first half.
    assert changes.tolist() == [31, 35, 51, 67, 83, 99, 115, 131, 143]


def test_bands_come_from_the_top_without_gaps_and_each_is_small():
    rows = 0
    for first, band in label_bands(SmallNet(), noise(300, 40), tile=64, geometry=Geometry("shorter", 60)):
        assert first == rows
        assert 1 <= len(band) <= 64
        rows += len(band)
    assert rows == 300


def test_no_tensor_of_all_classes_and_all_pixels_is_ever_made(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                size = out.untyped_storage().nbytes() // 4
                largest[size] = str(func)
            return out

    class ManyClasses:
        def predict(self, images):
            return semantic_from_logits(images[:, :1] * torch.linspace(-1, 1, 20)[:, None, None])

    image = noise(400, 200)
    for options in (
        {},
        {"geometry": Geometry("shorter", 170)},
        {"geometry": Geometry("shorter", 150), "scales": (0.5, 1.5), "flip": True},
    ):
        largest.clear()
        with Watch():
            predict_tiled(ManyClasses(), image, tile=64, overlap=16, stride=4, **options)
        # one band of tiles or 64 rows of the photo: a sixth of all probabilities, and more than the photo itself
        assert max(largest) <= max(20 * 66 * 200, image.numel()), largest[max(largest)]


@pytest.mark.parametrize(("height", "width", "size"), [(90, 60, (30, 47)), (30, 47, (90, 60)), (64, 64, (64, 20))])
@pytest.mark.parametrize("antialias", [True, False])
def test_strips_are_rows_of_the_whole_resized_image(height, width, size, antialias):
    image = noise(height, width)
    whole = F.interpolate(image[None], size=size, mode="bilinear", antialias=antialias)[0]
    for rows in ((0, size[0]), (7, 20), (size[0] - 1, size[0])):
        # F.interpolate computes its filter in float32
        torch.testing.assert_close(_strip(image, size, rows, antialias), whole[:, rows[0] : rows[1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 63}, "tile must be at least 64 pixels, got 63"),
        ({"tile": 0}, "tile must be at least 64 pixels, got 0"),
        ({"tile": 128, "overlap": 65}, "overlap must lie in 0..64, half a tile of 128; got 65"),
        ({"tile": 128, "overlap": -1}, "overlap must lie in 0..64"),
        ({"scales": ()}, "scales must be one or more positive numbers"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        predict_tiled(SmallNet(), noise(), **options)


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="expected one image"):
        predict_tiled(SmallNet(), torch.zeros(64, 64))
