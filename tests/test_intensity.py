"""Voxels are scaled as a whole case says, in float64, and patches of the case alike."""

import json
import math

import numpy as np
import pytest
import torch

from seglib.ops import intensity
from seglib.ops.intensity import AS_IS, Intensity, Scaling, fit_ct

ZSCORE = Intensity("zscore")
UNIT, RGB = Intensity("unit"), Intensity("rgb")
CT = Intensity("ct", low=-100, high=300, mean=100, std=50)


def case(*channels):
    """A case ``(C, 2, 1, 2)`` of four voxels a channel."""
    return torch.tensor(channels, dtype=torch.float32).view(-1, 2, 1, 2)


def test_zscore_gives_each_channel_of_a_case_mean_0_and_std_1():
    found = ZSCORE(case([1, 3, 1, 3], [10, 10, 10, 50]))
    third = 1 / math.sqrt(3)  # 10 is 10 below the mean 20, and the std is 10·√3
    torch.testing.assert_close(found, case([-1, 1, -1, 1], [-third, -third, -third, 3 * third]))


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.7, 1e30, 1.1e-30])
def test_a_channel_without_contrast_becomes_zeros(value):
    image = torch.full((1, 7, 11, 13), value, dtype=torch.float64)  # whose mean is rounded; that of float32 is not
    assert torch.equal(ZSCORE(image), torch.zeros(1, 7, 11, 13))


def test_a_tiny_contrast_on_a_large_offset_is_kept():
    image = torch.full((1, 64, 64, 64), 1000.0)
    image[:, ::2] += 2**-10  # a sum in float32 would lose it
    torch.testing.assert_close(ZSCORE(image)[0, :2, 0, 0], torch.tensor([1.0, -1.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("voxels", [1, 60, 10**6])
def test_statistics_do_not_depend_on_how_many_slices_are_read_at_once(monkeypatch, tmp_path, voxels):
    monkeypatch.setattr(intensity, "_VOXELS", voxels)
    values = np.random.default_rng(0).integers(-1000, 1000, (2, 7, 5, 3), dtype=np.int16)
    stored = np.memmap(tmp_path / "case", dtype=np.int16, mode="w+", shape=values.shape)
    stored[:] = values
    found = ZSCORE.of(torch.from_numpy(stored))
    assert found.mean == pytest.approx(values.mean((1, 2, 3)), rel=1e-12)
    assert [1 / f for f in found.factor] == pytest.approx(values.std((1, 2, 3)), rel=1e-12)


def test_ct_clips_to_the_data_sets_range_and_then_normalises():
    found = CT(case([-1000, -100, 100, 3000], [0, 50, 150, 300]))
    assert torch.equal(found, case([-4, -4, 0, 4], [-2, -1, 1, 4]))


def test_unit_maps_each_channel_of_a_case_to_0_and_1():
    assert UNIT(case([-2, 0, 1, 2], [7, 7, 7, 7])).equal(case([0, 0.5, 0.75, 1], [0, 0, 0, 0]))


def test_rgb_divides_by_255_and_refuses_what_is_no_colour():
    torch.testing.assert_close(RGB(case([0, 51, 102, 255])), case([0, 0.2, 0.4, 1]))
    for low, high in ((-1, 255), (0, 256)):
        with pytest.raises(ValueError, match=rf"colours lie in \[0, 255\], but the voxels in \[{low}, {high}\]"):
            RGB(case([low, 0, 0, high]))


def test_native_voxels_stay_as_they_are_in_float32():
    image = torch.tensor([-1024, 3071], dtype=torch.int16).view(1, 1, 1, 2)
    assert torch.equal(AS_IS(image), torch.tensor([-1024.0, 3071.0]).view(1, 1, 1, 2))


@pytest.mark.parametrize("scale", [AS_IS, ZSCORE, CT, UNIT], ids=lambda scale: scale.mode)
def test_a_patch_is_scaled_like_the_same_part_of_its_case(scale):
    image = 100 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    patch = (slice(None), slice(1, 3), slice(2, 5), slice(0, 4))
    assert torch.equal(scale.of(image)(image[patch]), scale(image)[patch])
    assert torch.equal(image, before)


def test_fit_ct_takes_percentiles_mean_and_std_of_foreground_voxels():
    found = fit_ct(torch.arange(1001).float())
    assert (found.mode, found.low, found.high, found.mean) == ("ct", 5, 995, 500)
    assert found.std == pytest.approx(math.sqrt((1001**2 - 1) / 12))


@pytest.mark.parametrize("scale", [AS_IS, ZSCORE, CT, UNIT, RGB], ids=lambda scale: scale.mode)
def test_an_intensity_survives_json(scale):
    assert Intensity(**json.loads(json.dumps(scale.to_json()))) == scale


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "minmax"}, "choose one of native, zscore, ct"),
        ({"mode": "ct"}, "ct takes all four"),
        ({"mode": "ct", "low": 0, "high": 1, "mean": 0.5}, "ct takes all four"),
        ({"mode": "zscore", "mean": 0}, "the others take none"),
        ({"mode": "ct", "low": 1, "high": 1, "mean": 0, "std": 1}, "low < high"),
        ({"mode": "ct", "low": 0, "high": 1, "mean": 0, "std": 0}, "std > 0"),
        ({"mode": "ct", "low": -math.inf, "high": 1, "mean": 0, "std": 1}, "finite"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Intensity(**arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_zscore_refuses_a_case_with_voxels_that_are_no_numbers(bad):
    with pytest.raises(ValueError, match="2 voxels of the case are nan or infinite"):
        ZSCORE(case([0, 1, 2, 3], [bad, 1, bad, 3]))


@pytest.mark.parametrize("shape", [(4, 4), (1, 0, 4, 4), (0, 4, 4, 4)])
def test_a_case_without_voxels_or_axes_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected one case \(C, D, H, W\) with voxels"):
        AS_IS(torch.zeros(shape))


def test_statistics_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="statistics of 2 channels cannot scale a patch of 3"):
        Scaling((0.0, 0.0), (1.0, 1.0))(torch.zeros(3, 1, 1, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "got 0"), ([1, math.nan, 2], "with 1 nan"), ([7, 7, 7], "nearly all foreground voxels are 7")],
)
def test_fit_ct_refuses_voxels_without_a_range(values, message):
    with pytest.raises(ValueError, match=message):
        fit_ct(values)
