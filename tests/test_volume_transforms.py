"""Augmentation of volumes: geometry in millimetres, void from outside, randomness from torch alone."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from seglib.data.volume_transforms import VolumeTransform, margin, volume_transform
from seglib.types import VOID, Sample

OFF = dict(rotation=0, scale=(1, 1), noise=0, blur=0, brightness=0, gamma=(1, 1), probability=1)


def volume(shape=(4, 5, 6), spacing=(1.0, 1.0, 1.0), seed=0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, shape, generator=generator)
    return Sample(torch.randn(2, *shape, generator=generator), "v", semantic=labels, spacing=spacing)


def ball(shape, spacing, radius: float) -> Tensor:
    """Labels 1 inside a ball of a radius in mm around the middle of the volume."""
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return (z**2 + y**2 + x**2 < radius**2).long()


def test_with_everything_off_nothing_changes():
    sample = volume()
    same = volume_transform(**OFF)(sample)
    assert same.image.equal(sample.image)
    assert same.semantic.equal(sample.semantic)


def test_the_resampling_is_that_of_scipy_about_the_centre():
    sample = volume((7, 8, 9), spacing=(2.0, 1.0, 0.5))
    transform = volume_transform(**OFF | dict(rotation=40, scale=(0.6, 1.6)))
    torch.manual_seed(1)
    matrix = transform.draw(sample.spacing)
    moved = transform.apply(sample, matrix, (5, 8, 3))
    # of the cut, both centres fall on each other
    middle, new_middle = (np.array(shape) / 2 - 0.5 for shape in ((7, 8, 9), (5, 8, 3)))
    where = dict(matrix=matrix.numpy(), offset=middle - matrix.numpy() @ new_middle, output_shape=(5, 8, 3))
    for new, old in zip(moved.image, sample.image, strict=True):
        expected = ndimage.affine_transform(old.numpy(), order=1, mode="grid-constant", **where)
        assert np.abs(new.numpy() - expected).max() < 1e-5  # float32 coordinates
    expected = ndimage.affine_transform(sample.semantic.numpy(), order=0, mode="constant", cval=VOID, **where)
    # SciPy calls all beyond the centres of the outer voxels outside, we what is beyond their borders
    inside = torch.from_numpy(expected) != VOID
    assert inside.sum() > 30
    assert moved.semantic[inside].equal(torch.from_numpy(expected)[inside])


def test_a_ball_in_millimetres_stays_one_when_it_is_rotated():
    shape, spacing = (16, 32, 40), (2.0, 1.0, 0.8)
    labels = ball(shape, spacing, 12)
    sample = Sample(labels[None].float(), "ball", semantic=labels, spacing=spacing)
    rotate = volume_transform(**OFF | dict(rotation=60))
    torch.manual_seed(0)
    for _ in range(5):
        rotated = rotate(sample).semantic == 1
        union, common = (rotated | (labels == 1)).sum(), (rotated & (labels == 1)).sum()
        # single voxels of the surface change; rotated in voxels instead, the ball would be stretched by up to 2.5
        assert common / union > 0.9


def test_slices_far_apart_are_rotated_in_their_plane_alone():
    level = torch.arange(1.0, 7).view(6, 1, 1).expand(6, 20, 20)
    sample = Sample(level[None].clone(), "s", semantic=level.long(), spacing=(3.1, 1.0, 1.0))
    torch.manual_seed(0)
    rotated = volume_transform(**OFF | dict(rotation=30))(sample)
    inside = rotated.semantic != VOID
    assert 0 < (~inside).sum() < inside.sum()
    assert rotated.semantic[inside].equal(sample.semantic[inside])
    torch.manual_seed(0)
    tilted = volume_transform(**OFF | dict(rotation=30))(replace(sample, spacing=(2.9, 1.0, 1.0)))
    assert not tilted.semantic[inside].equal(sample.semantic[inside])


def test_a_zoom_above_1_makes_objects_larger():
    labels = torch.zeros(16, 16, 16, dtype=torch.int64)
    labels[6:10, 6:10, 6:10] = 1
    zoomed = volume_transform(**OFF | dict(scale=(2, 2)))(Sample(labels[None].float(), "cube", semantic=labels))
    assert zoomed.semantic.sum() == 8 * labels.sum()
    assert zoomed.semantic[4:12, 4:12, 4:12].all()


def test_what_comes_from_outside_is_void_and_0():
    sample = Sample(torch.ones(1, 8, 8, 8), "v", semantic=torch.zeros(8, 8, 8).long())
    smaller = volume_transform(**OFF | dict(scale=(0.5, 0.5)))(sample)
    assert (smaller.semantic[2:6, 2:6, 2:6] == 0).all()
    assert (smaller.semantic == VOID).sum() == 8**3 - 4**3
    assert (smaller.image[0][smaller.semantic == VOID] == 0).all()


def test_only_the_axes_that_were_asked_for_are_flipped_image_and_labels_alike():
    sample = volume((2, 3, 4))
    flip = volume_transform(**OFF | dict(flips=(0, 2)))
    seen = set()
    torch.manual_seed(0)
    for _ in range(40):
        flipped = flip(sample)
        axes = [axes for axes in ((), (0,), (2,), (0, 2)) if flipped.semantic.equal(sample.semantic.flip(list(axes)))]
        assert len(axes) == 1
        assert flipped.image.equal(sample.image.flip([a + 1 for a in axes[0]]))
        seen.add(axes[0])
    assert len(seen) == 4


@pytest.mark.parametrize(
    "step",
    [dict(noise=0.1), dict(blur=1.0), dict(brightness=0.25), dict(gamma=(0.5, 0.7))],
    ids=lambda s: next(iter(s)),
)
def test_intensity_steps_change_the_image_and_leave_labels_and_input_alone(step):
    sample = volume((6, 7, 8))
    before = sample.image.clone()
    torch.manual_seed(0)
    changed = volume_transform(**OFF | step)(sample)
    assert not torch.allclose(changed.image, before, atol=1e-3)
    assert changed.semantic.equal(sample.semantic)
    assert sample.image.equal(before)


def test_brightness_multiplies_by_one_factor_within_its_range():
    sample = volume()
    brighter = volume_transform(**OFF | dict(brightness=0.25))
    torch.manual_seed(0)
    factors = torch.stack([brighter(sample).image / sample.image for _ in range(20)]).flatten(1)
    assert (factors.amax(1) - factors.amin(1)).max() < 1e-5  # rounding
    assert 0.75 - 1e-5 < factors.min() < 0.85
    assert 1.15 < factors.max() < 1.25 + 1e-5


def test_noise_has_at_most_the_standard_deviation_that_was_asked_for():
    sample = Sample(torch.zeros(1, 20, 20, 20), "v", semantic=torch.zeros(20, 20, 20).long())
    torch.manual_seed(0)
    noise = volume_transform(**OFF | dict(noise=0.1))
    deviations = torch.stack([noise(sample).image.std() for _ in range(20)])
    # drawn uniformly from 0 to 0.1; the estimate from 8000 voxels is off by 1 / sqrt(16000) = 0.8 %, 4 times that
    assert 0.05 < deviations.max() < 0.1 * 1.032
    assert deviations.min() < 0.05


def test_gamma_keeps_mean_and_standard_deviation():
    sample = volume((10, 10, 10))
    torch.manual_seed(0)
    image = volume_transform(**OFF | dict(gamma=(0.5, 0.6)))(sample).image
    assert abs(image.mean() - sample.image.mean()) < 1e-4  # float32
    assert abs(image.std() - sample.image.std()) < 1e-4


def test_an_image_of_one_value_stays_finite():
    sample = Sample(torch.full((1, 5, 5, 5), 3.0), "v", semantic=torch.zeros(5, 5, 5).long())
    changed = volume_transform(rotation=10, flips=(0,), probability=1)(sample)
    assert changed.image.isfinite().all()


def test_the_seed_of_torch_alone_decides():
    transform, sample = volume_transform(flips=(0, 1, 2), probability=0.5), volume((8, 9, 10))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([transform(sample).image for _ in range(3)])

    first = drawn(0)
    np.random.seed(5)  # noqa: NPY002 (MONAI would use it)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert drawn(0).equal(first)
    assert not drawn(1).equal(first)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    torch.manual_seed(0)
    copy = pickle.loads(pickle.dumps(transform))  # as a worker process that is spawned gets it
    assert torch.stack([copy(sample).image for _ in range(3)]).equal(first)


def test_results_are_plain_contiguous_tensors():
    torch.manual_seed(0)
    for _ in range(4):
        out = volume_transform(flips=(0, 1, 2), probability=0.5)(volume())
        assert type(out.image) is type(out.semantic) is Tensor
        assert (out.image.dtype, out.semantic.dtype) == (torch.float32, torch.int64)
        assert out.image.is_contiguous()
        assert (out.image.shape, out.semantic.shape) == ((2, 4, 5, 6), (4, 5, 6))
        assert (out.id, out.spacing) == ("v", (1.0, 1.0, 1.0))


def test_a_stored_case_in_whole_numbers_becomes_float_and_int64():
    stored = Sample(torch.ones(1, 4, 4, 4).short(), "v", semantic=torch.tensor([0, 1, 2, VOID]).byte().expand(4, 4, 4))
    same = volume_transform(**OFF)(stored)
    assert (same.image.dtype, same.semantic.dtype) == (torch.float32, torch.int64)
    assert same.semantic[0, 0].tolist() == [0, 1, 2, VOID]


def test_each_step_happens_as_often_as_its_probability_says():
    transform = volume_transform(**OFF | dict(rotation=15, scale=(0.5, 1.5), probability=0.3))
    torch.manual_seed(0)
    drawn = [transform.draw((1.0, 1.0, 1.0)) for _ in range(600)]
    neither = sum(matrix is None for matrix in drawn)
    volumes = torch.stack([matrix.det() for matrix in drawn if matrix is not None])
    zoomed = int(((volumes - 1).abs() > 1e-9).sum())
    assert abs(neither - 600 * 0.49) < 4 * 12.2  # its standard deviation is sqrt(600 · 0.49 · 0.51)
    assert abs(zoomed - 600 * 0.3) < 4 * 11.2  # sqrt(600 · 0.3 · 0.7)
    # a zoom by s covers 1 / s of each axis
    assert 1.5**-3 - 1e-9 < volumes.min() < 1 < volumes.max() < 0.5**-3 + 1e-9


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.9), (5.0, 1.0, 1.0)])
def test_the_margin_is_just_what_a_resampling_reads(spacing):
    transform = volume_transform(**OFF | dict(rotation=45, scale=(0.7, 1.4)))
    size = (6, 9, 12)
    torch.manual_seed(0)
    too_small = 0
    for _ in range(10):
        matrix = transform.draw(spacing)
        beyond = margin(matrix, size)

        def labels_within(beyond, matrix=matrix) -> Tensor:
            shape = tuple(s + 2 * m for s, m in zip(size, beyond, strict=True))
            sample = Sample(torch.zeros(1, *shape), "v", semantic=torch.zeros(shape).long())
            return transform.apply(sample, matrix, size).semantic

        assert (labels_within(beyond) == 0).all()
        # half a voxel lies around the centre of each: one voxel less can suffice, two cannot
        too_small += sum(
            bool((labels_within([m - 2 * (i == axis) for i, m in enumerate(beyond)]) == VOID).any())
            for axis in range(3)
            if beyond[axis] >= 2
        )
    assert too_small > 0
    assert margin(None, size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": -1}, r"rotation must be in \[0, 180\], got -1"),
        ({"rotation": math.nan}, "rotation must be"),
        ({"scale": (0, 1)}, r"scale needs 0 < low <= high, got \(0, 1\)"),
        ({"scale": (1.2, 1)}, "scale needs"),
        ({"gamma": (0, 1)}, "gamma needs"),
        ({"noise": -0.1}, "noise must be"),
        ({"blur": -1}, "blur must be"),
        ({"brightness": 1.5}, r"brightness must be in \[0, 1\], got 1.5"),
        ({"probability": 2}, "probability must be"),
        ({"flips": (3,)}, r"flips are axes.*got \(3,\)"),
        ({"flips": (1, 1)}, "at most once"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        volume_transform(**arguments)


@pytest.mark.parametrize(
    "sample",
    [
        Sample(torch.rand(3, 8, 8), "photo", semantic=torch.zeros(8, 8).long()),
        replace(volume(), id="photo", semantic=None),
    ],
    ids=["an image", "no labels"],
)
def test_a_sample_that_is_no_labelled_volume_is_named(sample):
    with pytest.raises(ValueError, match="'photo' is no volume with a semantic map"):
        volume_transform()(sample)


def test_it_is_a_transform_of_its_own_type():
    assert isinstance(volume_transform(), VolumeTransform)  # so that patches know how much to read
