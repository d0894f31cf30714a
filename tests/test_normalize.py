"""Normalisation of images and volumes, and what becomes of the padding of a batch; in numbers worked out by hand."""

import pytest
import torch
from torch.nn import functional as F

from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, fill_padding, pad_to_multiple

IMAGES = torch.arange(1.0, 10).view(1, 1, 3, 3).repeat(2, 1, 1, 1)  # 1 2 3 / 4 5 6 / 7 8 9, twice
SIZES = [(2, 3), (3, 1)]  # the first image lacks a row, the second two columns


def test_each_channel_is_normalised_by_its_own_mean_and_std():
    normalize = Normalize((0.5, 0.25), (0.25, 0.5))
    x = normalize(torch.tensor([1.0, 0.5]).view(1, 2, 1, 1))
    assert x.flatten().tolist() == [2, 0.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_become_of_the_type_of_the_weights(dtype):
    normalize = Normalize((0.5,), (0.25,))
    image = torch.tensor([0.75]).view(1, 1, 1, 1)
    assert normalize(image.to(dtype)).dtype == torch.float32
    x = normalize.to(dtype)(image)
    assert x.dtype == dtype and float(x) == 1.0


def test_volumes_have_one_axis_more():
    normalize = Normalize((40.0,), (20.0,), dims=3, value_range=None)
    assert normalize(torch.full((1, 1, 2, 2, 2), 100.0)).flatten().tolist() == [3] * 8
    with pytest.raises(ValueError, match=r"expected images .B, 1, D, H, W., got shape .1, 1, 2, 2."):
        normalize(torch.zeros(1, 1, 2, 2))


def test_padding_becomes_the_mean_colour():
    x = fill_padding(IMAGES, SIZES)
    assert x[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert x[1, 0].tolist() == [[1, 0, 0], [4, 0, 0], [7, 0, 0]]


def test_padding_may_repeat_the_last_row_and_column():
    x = fill_padding(IMAGES, torch.tensor(SIZES), "replicate")
    assert x[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert x[1, 0].tolist() == [[1, 1, 1], [4, 4, 4], [7, 7, 7]]


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_the_padding_of_volumes_is_filled_along_all_three_axes(mode):
    volume = torch.rand(1, 2, 4, 5, 6)
    want = F.pad(volume[..., :3, :2, :5], (0, 1, 0, 3, 0, 1), mode=mode)
    assert torch.equal(fill_padding(volume, [(3, 2, 5)], mode), want)


def test_padding_is_filled_after_normalisation_and_its_values_do_not_matter():
    normalize = Normalize((0.5,), (0.25,))
    images = torch.rand(2, 1, 3, 3)
    x = normalize(images, SIZES)
    assert (x[0, 0, 2] == 0).all() and (x[1, 0, :, 1:] == 0).all()
    assert torch.equal(x[0, 0, :2], (images[0, 0, :2] - 0.5) / 0.25)
    images[0, 0, 2] = 77.0
    assert torch.equal(normalize(images, SIZES), x)
    assert normalize(images, SIZES, "replicate")[0, 0, 2].tolist() == x[0, 0, 1].tolist()


def test_padding_to_a_multiple_appends_rows_and_columns():
    assert pad_to_multiple(IMAGES[:1], 2)[0, 0].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [0, 0, 0, 0]]
    assert pad_to_multiple(torch.ones(1, 1, 3, 4, 5), 4).shape == (1, 1, 4, 4, 8)
    assert pad_to_multiple(IMAGES, 3).shape == IMAGES.shape


def test_a_number_of_channels_without_statistics_takes_their_average():
    grey = Normalize.for_channels(1)
    assert grey.mean.tolist() == pytest.approx([sum(IMAGENET_MEAN) / 3])
    assert grey.std.tolist() == pytest.approx([sum(IMAGENET_STD) / 3])
    assert Normalize.for_channels(3).mean.tolist() == pytest.approx(list(IMAGENET_MEAN))
    assert Normalize.for_channels(5)(torch.rand(1, 5, 2, 2)).shape == (1, 5, 2, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (200.0, r"must lie in \[0, 1\], these span 200 to 200; divide 8-bit images by 255"),
        (1.6, "divide 8-bit"),
        (-0.6, "these span -0.6 to -0.6; the model normalises them itself"),
        (float("nan"), "the images hold nan"),
    ],
)
def test_values_far_outside_the_range_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        Normalize().check_range(torch.full((1, 3, 2, 2), value))


def test_values_that_a_filter_overshoots_by_pass_and_a_range_may_be_declared():
    for value in (-0.4, 0.0, 1.0, 1.4):
        Normalize().check_range(torch.full((1, 3, 2, 2), value))
    Normalize((0.0,), (1.0,), value_range=(-1000.0, 1000.0)).check_range(torch.full((1, 1, 2, 2), -1500.0))
    anything = Normalize((0.0,), (1.0,), value_range=None)
    anything.check_range(torch.full((1, 1, 2, 2), 1e6))
    with pytest.raises(ValueError, match="hold nan"):
        anything.check_range(torch.full((1, 1, 2, 2), torch.nan))


def test_whole_numbers_and_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected float images in \[0, 1\], got torch.uint8; divide"):
        Normalize()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected images .B, 3, H, W., got shape .1, 4, 2, 2."):
        Normalize()(torch.zeros(1, 4, 2, 2))
