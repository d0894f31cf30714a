"""U-Net's augmentation: turns, elastic deformation, border weights, and grey levels spread out.

That labels follow the image in all of them is tested with the other transforms, in test_transforms.py.
"""

import pickle
from dataclasses import replace

import pytest
import torch

from seglib.data.microscopy import BorderWeights, PercentileRescale, RandomD4, RandomElastic, elastic_transform
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Sample


def ramp(height: int, width: int) -> Sample:
    """An image that says where each of its pixels came from: red is x, green is y, both at pixel centres."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.stack([x / width, y / height, torch.ones(height, width)])
    return Sample(image, "ramp", semantic=torch.zeros(height, width, dtype=torch.int64))


def shifts(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each pixel was moved, (2, H, W), and which came from inside the image, (H, W)."""
    height, width = sample.semantic.shape
    start = ramp(height, width).image[:2]
    scale = torch.tensor([width, height]).view(2, 1, 1)
    # Within half a pixel of the border the ramp is flat and says less than the truth.
    inside = (sample.semantic == 0) & (sample.image[:2] > 1 / 200).all(0) & (sample.image[:2] < 199 / 200).all(0)
    return (sample.image[:2] - start) * scale, inside


# --- elastic deformation --------------------------------------------------------------------------------------------


def test_displacements_have_the_standard_deviation_asked_for():
    torch.manual_seed(0)
    found = []
    for _ in range(200):
        moved, inside = shifts(RandomElastic(std=5.0)(ramp(120, 120)))
        if inside[60, 60]:
            found.append(moved[:, 60, 60])
    # The centre is a point of the grid (up to half a pixel), so its displacement is drawn, not interpolated. The
    # standard deviation of 400 normal numbers is off by 1/sqrt(800) = 3.5 %; four times that.
    assert torch.stack(found).std().item() == pytest.approx(5.0, rel=0.14)


def test_the_displacement_is_smooth_across_the_image():
    torch.manual_seed(3)
    moved, inside = shifts(RandomElastic(std=5.0)(ramp(128, 128)))
    assert moved[:, inside].abs().max() > 3
    step = (moved[:, :, 1:] - moved[:, :, :-1])[:, inside[:, 1:] & inside[:, :-1]]
    # Two grid points are 64 pixels apart; a cubic changes by at most about 2.5 times the mean slope between them.
    assert step.abs().max() < 2.5 * 3 * 5.0 * 2**0.5 / 64


def test_a_finer_grid_makes_smaller_waves():
    torch.manual_seed(0)

    def steepness(grid: int) -> float:
        moved, inside = shifts(RandomElastic(std=2.0, grid=grid)(ramp(128, 128)))
        return (moved[:, :, 1:] - moved[:, :, :-1])[:, inside[:, 1:] & inside[:, :-1]].abs().mean().item()

    assert steepness(12) > 2 * steepness(3)


def test_what_comes_from_outside_is_black_and_void():
    torch.manual_seed(0)
    bent = RandomElastic(std=20.0)(ramp(64, 64))
    outside = bent.semantic == 255
    assert 0 < outside.sum() < 64 * 64
    assert (bent.image[:, outside] == 0).all()
    assert (bent.image[2, ~outside] > 1 - 1e-6).all()  # the border is not darkened, up to rounding


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (9, 2)])
def test_the_smallest_images_are_deformed_too(height, width):
    assert RandomElastic()(ramp(height, width)).image.shape == (3, height, width)


def test_a_tiny_deviation_moves_nothing():
    sample = replace(ramp(8, 9), semantic=torch.arange(72).view(8, 9))
    bent = RandomElastic(std=1e-3)(sample)
    assert torch.equal(bent.semantic, sample.semantic)
    # A shift of s pixels changes a ramp of width 8 by s / 8; s stays below 8 standard deviations.
    torch.testing.assert_close(bent.image, sample.image, atol=1e-3, rtol=0)


def test_no_deviation_is_no_change():
    sample = ramp(8, 9)
    assert RandomElastic(std=0)(sample) is sample


# --- the group D4 ---------------------------------------------------------------------------------------------------


def test_all_eight_ways_to_lay_a_slide_come_up_equally_often():
    torch.manual_seed(0)
    corners = torch.tensor([[1, 2], [3, 4]])
    sample = Sample(torch.zeros(3, 2, 2), "a", semantic=corners)
    seen = [tuple(RandomD4()(sample).semantic.flatten().tolist()) for _ in range(400)]
    assert len(set(seen)) == 8
    # 50 of each expected, with a standard deviation of 6.6; four times that.
    assert all(24 < seen.count(way) < 76 for way in set(seen))
    first, second, third, fourth = zip(*set(seen), strict=True)
    assert all({a, d} in ({1, 4}, {2, 3}) for a, d in zip(first, fourth, strict=True))  # opposite corners stay opposite


def test_a_quarter_turn_swaps_height_and_width_of_everything():
    torch.manual_seed(0)
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    masks[0, 0, 1:3] = True
    sample = replace(ramp(4, 6), instances=Instances(masks, torch.tensor([0]), masks_to_boxes(masks)))
    turned = next(t for t in (RandomD4()(sample) for _ in range(50)) if t.image.shape == (3, 6, 4))
    assert turned.semantic.shape == (6, 4) and turned.instances.masks.shape == (1, 6, 4)
    assert torch.equal(turned.instances.boxes, masks_to_boxes(turned.instances.masks))
    assert turned.instances.masks.sum() == 2


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_recipe_gives_crops_of_one_size_from_images_of_any():
    for height, width in [(40, 50), (20, 70), (8, 8)]:
        sample = elastic_transform((24, 32))(ramp(height, width))
        assert sample.image.shape == (3, 24, 32) and sample.semantic.shape == (24, 32)


def test_the_recipe_changes_brightness_and_contrast_of_the_image_alone():
    sample = ramp(16, 16)
    torch.manual_seed(0)
    lit = elastic_transform(16, std=0, light=0.5)(sample)
    torch.manual_seed(0)
    plain = elastic_transform(16, std=0, light=0)(sample)
    assert torch.equal(lit.semantic, plain.semantic)
    assert (lit.image - plain.image).abs().max() > 0.02
    assert lit.image.min() >= 0 and lit.image.max() <= 1


def test_the_recipe_keeps_what_is_named_and_can_be_pickled():
    masks = torch.ones(1, 8, 8, dtype=torch.bool)
    sample = replace(ramp(8, 8), instances=Instances(masks, torch.tensor([0]), masks_to_boxes(masks)))
    recipe = pickle.loads(pickle.dumps(elastic_transform(8, keep=("semantic",))))
    assert recipe(sample).instances is None and recipe(sample).semantic is not None


# --- border weights -------------------------------------------------------------------------------------------------


def two_cells() -> Sample:
    """Two squares, 2 pixels apart."""
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[0, 2:6, 1:5] = masks[1, 2:6, 7:11] = True
    return Sample(
        torch.zeros(3, 8, 12),
        "cells",
        semantic=torch.where(masks.any(0), 0, 1),
        instances=Instances(masks, torch.zeros(2, dtype=torch.int64), masks_to_boxes(masks)),
    )


def test_the_gap_between_two_cells_weighs_most():
    sample = BorderWeights(w0=10, sigma=5)(two_cells())
    weight = sample.pixel_weight
    assert weight.shape == (8, 12) and weight.dtype == torch.float32
    assert weight.min() >= 1
    highest = weight == weight.max()
    assert highest[:, :5].sum() == highest[:, 7:].sum() == 0 and highest[2:6, 5:7].any()
    assert 1 < weight[3, 5] <= 11  # 1 + w0 at most


def test_an_image_without_cells_weighs_one_everywhere():
    sample = two_cells()
    none = replace(sample, instances=sample.instances[:0])
    assert BorderWeights()(none).pixel_weight.tolist() == torch.ones(8, 12).tolist()


def test_border_weights_need_instances():
    with pytest.raises(ValueError, match=r"'cells' has no instances.*keep=\(\"semantic\", \"instances\"\)"):
        BorderWeights()(replace(two_cells(), instances=None))


# --- grey levels ----------------------------------------------------------------------------------------------------


def test_a_12_bit_image_in_16_bits_fills_the_range():
    values = torch.linspace(0, 4095, 64 * 64).view(64, 64) / 65535
    rescaled = PercentileRescale()(Sample(values.expand(3, -1, -1), "dark")).image
    assert values.max() < 0.07
    assert rescaled.min() == 0 and rescaled.max() == 1
    # The 0.5th and the 99.5th percentile of a ramp become 0 and 1, so its middle stays in the middle; two ranks off.
    assert rescaled.median().item() == pytest.approx(0.5, abs=2 / (64 * 64))


def test_percentiles_are_those_of_all_pixels():
    image = torch.arange(101.0).view(1, 1, 101).expand(3, 1, 101) / 100
    rescaled = PercentileRescale(10, 90)(Sample(image, "ramp")).image
    # 3 x 101 sorted values: the 10th percentile is rank 30 (value 0.10), the 90th is rank 272 (value 0.90).
    assert rescaled[0, 0, [0, 10, 50, 90, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_a_few_bright_spots_on_black_do_not_vanish():
    image = torch.zeros(3, 100, 100)
    image[:, 5, 5] = 0.25
    assert PercentileRescale()(Sample(image, "spot")).image[:, 5, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_an_image_of_one_value_becomes_black_and_not_nan(value):
    assert PercentileRescale()(Sample(torch.full((3, 4, 4), value), "flat")).image.unique().tolist() == [0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomElastic(std=-1), "std is a number of pixels, at least 0, got -1"),
        (lambda: RandomElastic(grid=1), "at least 2 points a side, got 1"),
        (lambda: elastic_transform(0), "size must be"),
        (lambda: elastic_transform(8, light=2), r"light must be in \[0, 1\], got 2"),
        (lambda: PercentileRescale(99, 1), r"0 <= low < high <= 100, got \(99, 1\)"),
        (lambda: PercentileRescale(-1, 50), r"got \(-1, 50\)"),
    ],
)
def test_arguments_out_of_range_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
