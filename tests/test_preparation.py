"""From case to network and back: crops, units, grids and what lies outside."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch

from seglib.ops import preparation
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.preparation import Preparation, nonzero_box
from seglib.types import VOID

OWN = (None, None, None)
ZSCORE = Intensity("zscore")
CT = Intensity("ct", low=-100, high=100, mean=50, std=25)
MM = (2.0, 1.0, 0.5)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prep(spacing=OWN, intensities=(AS_IS,), **more):
    return Preparation(spacing=spacing, intensities=intensities, **more)


def island():
    """A case ``(1, 4, 5, 6)`` that is 0 but for (1:3, 1:4, 2:6), and its labels."""
    image = torch.zeros(1, 4, 5, 6)
    image[:, 1:3, 1:4, 2:6] = torch.arange(1.0, 25).view(2, 3, 4)
    return image, (image[0] % 3).long()


def test_borders_that_are_0_in_all_channels_are_cut_off():
    image, labels = island()
    second = torch.zeros_like(image)
    second[0, 0, 2, 2] = -1
    found = prep(intensities=(AS_IS, AS_IS))(torch.cat((image, second)), MM, labels)
    assert found.box == ((0, 3), (1, 4), (2, 6))
    assert found.image.equal(torch.cat((image, second))[:, 0:3, 1:4, 2:6])
    assert found.labels.equal(labels[0:3, 1:4, 2:6])
    assert (found.spacing, found.original_size, found.original_spacing) == (MM, (4, 5, 6), MM)
    assert prep(crop=False)(image, MM).image.equal(image)
    assert nonzero_box(image) == ((1, 3), (1, 4), (2, 6))


def test_the_order_is_transpose_crop_normalise_resample():
    image, labels = island()
    there = prep((0.9, 2.0, 1.2), (Intensity("unit"),), transpose=(2, 0, 1))
    found = there(image, (1.0, 1.2, 0.9), labels)
    assert found.box == ((2, 6), (1, 3), (1, 4))
    assert found.image.shape == (1, 4, 1, 3)
    # 1 to 24 become 0 to 1 before two slices, 12 apart, become their mean
    expected = (image[0, 1:3, 1:4, 2:6] - 1).mean(0) / 23  # (y, x)
    torch.testing.assert_close(found.image[0, :, 0], expected.T)
    assert found.labels[:, 0].equal(labels[2, 1:4, 2:6].T)  # halves each, and halfway the later voxel is the nearest
    assert found.spacing == (0.9, 2.0, 1.2)
    assert found.original_spacing == (1.0, 1.2, 0.9)


def test_channels_are_normalised_each_in_its_way_over_what_was_kept():
    image = torch.zeros(2, 1, 1, 6)
    image[0, 0, 0, 1:5] = torch.tensor([-300.0, 50, 75, 300])
    image[1, 0, 0, 1:5] = torch.tensor([1.0, 3, 1, 3])
    found = prep(intensities=(CT, ZSCORE))(image).image
    assert found.view(2, 4).tolist() == [[-6, 0, 1, 2], [-1, 1, -1, 1]]


def test_a_masked_channel_takes_its_numbers_from_the_non_zero_region_with_its_holes():
    image = torch.zeros(1, 5, 5, 5)
    image[:, 1:4, 1:4, 1:4] = 1
    image[0, 2, 2, 2] = 0  # a hole: inside
    image[0, 1, 1, 1] = 28  # the sum over the 27 voxels inside is 53
    image[0, 0, 0, 0] = 1  # another region; the box is not tight any more
    image[0, 3, 3, 4] = -26
    found = prep(intensities=(ZSCORE,), masked=(True,))(image).image[0]
    inside = image[0] != 0
    inside[2, 2, 2] = True
    values = image[0][inside]
    expected = torch.where(inside, (image[0] - values.mean()) / values.std(correction=0), 0)
    torch.testing.assert_close(found, expected[:4, :4])
    assert found[2, 2, 2] < 0


def test_a_case_that_is_0_everywhere_stays_whole_and_0():
    for masked in (True, False):
        found = prep((1.0, 1.0, 1.0), (ZSCORE,), masked=(masked,))(torch.zeros(1, 2, 3, 4), MM)
        assert found.box == ((0, 2), (0, 3), (0, 4))
        assert found.image.equal(torch.zeros(1, 4, 3, 2))


def test_a_constant_image_becomes_zeros():
    assert prep((1.0, 1.0, 1.0), (ZSCORE,))(torch.full((1, 2, 3, 4), 7.3), MM).image.equal(torch.zeros(1, 4, 3, 2))


@pytest.mark.parametrize("shape", [(1, 8, 9), (8, 1, 9), (8, 9, 1), (1, 1, 1)])
def test_axes_of_one_voxel_pass_and_none_vanishes(shape):
    there = prep((8.0, 0.5, 1.1), (AS_IS,))
    found = there(1 + noise(1, *shape).abs(), (1.0, 1.0, 1.0), torch.ones(shape, dtype=torch.uint8))
    assert found.image.shape[1:] == found.labels.shape
    assert min(found.labels.shape) == 1
    assert there.restore_labels(found.labels, found).equal(torch.ones(shape, dtype=torch.uint8))


def test_without_spacing_a_case_passes_where_it_keeps_its_grid():
    assert prep()(torch.ones(1, 2, 2, 2)).spacing == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"no spacing and is to be resampled to \(None, 1.0, 1.0\) mm; pass its mm"):
        prep((None, 1.0, 1.0))(torch.ones(1, 2, 2, 2))


def test_between_slices_a_2d_configuration_keeps_the_cases_own_spacing():
    found = prep((None, 1.0, 1.0))(torch.ones(1, 3, 4, 8), (7.0, 2.0, 0.5))
    assert found.image.shape == (1, 3, 8, 4)
    assert found.spacing == (7.0, 1.0, 1.0)


def test_labels_stay_labels_and_void_stays_void():
    labels = torch.full((4, 8, 8), VOID, dtype=torch.uint8)
    labels[:, :4] = 0
    labels[1:3, 2:6, 2:6] = 3
    found = prep((0.7, 0.8, 0.9))(1 + noise(1, 4, 8, 8).abs(), (1.0, 1.0, 1.0), labels)
    assert found.labels.unique().tolist() == [0, 3, VOID]
    assert found.labels.dtype == torch.uint8


def test_a_memory_mapped_case_of_whole_numbers_is_prepared_like_any(tmp_path):
    values = np.random.default_rng(0).integers(-900, 900, (2, 4, 5, 6), dtype=np.int16)
    np.save(tmp_path / "case.npy", values)
    stored = torch.from_numpy(np.load(tmp_path / "case.npy", mmap_mode="c"))
    there = prep((1.0, 1.0, 1.0), (CT, ZSCORE), transpose=(1, 2, 0))
    assert there(stored, MM).image.equal(there(torch.from_numpy(values).float(), MM).image)


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
def test_the_way_back_leads_to_the_grid_of_the_case(transpose):
    image, labels = island()
    same = prep(transpose=transpose)
    prepared = same(image, MM, labels)
    assert same.restore_labels(prepared.labels, prepared).equal(labels)
    values = torch.cat((-prepared.image, prepared.image))
    back = same.restore(values, prepared)
    inside = image[0] != 0
    assert back[:, inside].equal(torch.cat((-image, image))[:, inside])
    assert (back[0, ~inside] == 24).all()  # the background, surely
    assert (back[1, ~inside] == -24).all()
    other = prep((0.7, 0.8, 0.9), transpose=transpose)
    prepared = other(image, MM, labels)
    assert other.restore(prepared.image, prepared).shape == image.shape
    assert other.restore_labels(prepared.labels, prepared).shape == labels.shape


@pytest.mark.parametrize("spacing", [MM, (1.0, 1.0, 1.0)])
def test_what_is_linear_in_space_comes_back_as_it_was(spacing):
    ramp = torch.arange(1.0, 9).view(8, 1, 1) + torch.arange(12.0).view(12, 1) / 2 + torch.arange(16.0) / 4
    finer = prep(tuple(s / 2 for s in spacing), transpose=(1, 2, 0))
    prepared = finer(ramp[None], spacing)
    back = finer.restore(prepared.image, prepared)
    # at borders the spline goes on with the last value; 2 voxels inside its tail is 0.268² of that
    assert (back[0, 3:-3, 3:-3, 3:-3] - ramp[3:-3, 3:-3, 3:-3]).abs().max() < 0.01


@pytest.mark.parametrize("spacing", [(1.0, 0.8, 0.6), (9.0, 1.0, 1.0), OWN])
def test_the_argmax_slab_by_slab_is_that_of_restored_logits(monkeypatch, spacing):
    image, _ = island()
    there = prep(spacing, transpose=(1, 0, 2))
    prepared = there(image, MM)
    logits = noise(3, *prepared.image.shape[1:])
    labels = there.restore(logits, prepared).argmax(0)
    monkeypatch.setattr(preparation, "_VOXELS", 1)
    found = there.restore_argmax(logits, prepared)
    assert found.dtype == torch.uint8
    assert found.long().equal(labels)
    assert len(found.unique()) == 3


def test_of_equal_logits_the_first_class_wins():
    prepared = prep()(torch.ones(1, 1, 1, 2))
    logits = torch.tensor([[0.0, 0], [0, 1], [-1, 1]]).view(3, 1, 1, 2)
    assert prep().restore_argmax(logits, prepared).flatten().tolist() == [0, 1]


def test_outside_the_box_is_background_whatever_the_logits_say():
    image, _ = island()
    prepared = prep()(image)
    logits = torch.stack((torch.zeros(2, 3, 4), torch.ones(2, 3, 4)))
    assert prep().restore_argmax(logits, prepared).bool().equal(image[0] != 0)
    assert prep().restore(logits, prepared).argmax(0).bool().equal(image[0] != 0)


def test_a_preparation_survives_json_and_is_a_key():
    there = prep((None, 0.5, 1.0), (CT, ZSCORE), masked=(False, True), transpose=(2, 0, 1), crop=False)
    again = Preparation.from_json(json.loads(json.dumps(there.to_json())))
    assert again == there
    assert {there: 1}[again] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, r"three positive numbers of mm, or None, got \(1.0, 0.0, 1.0\)"),
        ({"spacing": (1.0, 1.0)}, r"got \(1.0, 1.0\)"),
        ({"spacing": (1.0, 1.0, float("nan"))}, "three positive numbers"),
        ({"transpose": (0, 1, 1)}, r"each of the axes 0, 1 and 2 once, got \(0, 1, 1\)"),
        ({"intensities": ()}, "an intensity for each channel, got none"),
        ({"masked": (True, False)}, "masked is for 2 channels, but there are 1"),
        ({"intensities": (CT,), "masked": (True,)}, "only zscore takes its numbers .* not 'ct'"),
    ],
)
def test_a_preparation_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Preparation(**{"spacing": OWN, "intensities": (AS_IS,), **change})


@pytest.mark.parametrize("content", [{}, {"spacing": [1, 1, 1]}, {**prep().to_json(), "zoom": 2}, ["spacing"]])
def test_json_that_is_no_preparation_is_refused(content):
    with pytest.raises(ValueError, match="no preparation of a case"):
        Preparation.from_json(content)


@pytest.mark.parametrize(
    ("image", "spacing", "labels", "message"),
    [
        (torch.ones(2, 2, 2), MM, None, r"one case \(C, D, H, W\) with voxels, got shape \(2, 2, 2\)"),
        (torch.ones(1, 0, 2, 2), MM, None, r"with voxels, got shape \(1, 0, 2, 2\)"),
        (torch.ones(3, 2, 2, 2), MM, None, "for 1 channels, the case has 3"),
        (torch.ones(1, 2, 2, 2), (1, 0, 1), None, r"three positive numbers of mm \(z, y, x\), got \(1, 0, 1\)"),
        (torch.ones(1, 2, 2, 2), (1, 1), None, r"got \(1, 1\)"),
        (torch.ones(1, 2, 2, 2), MM, torch.ones(2, 2, 3, dtype=torch.int64), r"labels are \(2, 2, 3\) and the image"),
        (torch.ones(1, 2, 2, 2), MM, torch.ones(2, 2, 2), "argmax of logits"),
        (torch.ones(1, 1, 1, 2), MM, torch.tensor([[[0, 256]]]), r"labels are in 0..255, got 0 to 256"),
        (torch.tensor([1.0, float("nan")]).view(1, 1, 1, 2), MM, None, "channel 0 of the case has NaN or infinite"),
        (torch.tensor([1.0, float("inf")]).view(1, 1, 1, 2), MM, None, "channel 0 of the case has NaN or infinite"),
    ],
)
def test_a_case_that_cannot_be_prepared_is_named(image, spacing, labels, message):
    with pytest.raises(ValueError, match=message):
        prep((1.0, 1.0, 1.0))(image, spacing, labels)


def test_values_that_are_not_on_the_prepared_grid_or_nan_are_refused():
    prepared = prep()(torch.ones(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"\(K, 2, 3, 4\), got \(2, 4, 3, 2\)"):
        prep().restore(torch.zeros(2, 4, 3, 2), prepared)
    logits = torch.zeros(2, 2, 3, 4)
    logits[1, 0, 0, 0] = torch.nan
    for back in (prep().restore, prep().restore_argmax):
        with pytest.raises(ValueError, match="the model returns nan"):
            back(logits, prepared)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_case_is_prepared_and_restored_as_on_the_cpu():
    image, labels = island()
    there = prep((1.0, 0.8, 0.6), (ZSCORE,), masked=(True,), transpose=(1, 0, 2), previous=2)
    prepared = there(image, MM, labels, labels)
    on_gpu = there(image.cuda(), MM, labels.cuda(), labels.cuda())
    torch.testing.assert_close(on_gpu.image.cpu(), prepared.image, rtol=0, atol=1e-5)  # sums in another order
    assert on_gpu.labels.equal(prepared.labels)
    logits = noise(3, *prepared.image.shape[1:])
    assert there.restore_argmax(logits.cuda(), prepared).equal(there.restore_argmax(logits, prepared))
