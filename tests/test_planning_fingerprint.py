"""The facts of a data set that planning needs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planning_cases import HIPPOCAMPUS, Volumes

from seglib.planning.fingerprint import Fingerprint, fingerprint
from seglib.types import Sample


def case(size, values, *, box=None, spacing=(1.0, 1.0, 1.0), name="a", channels=1):
    """A case that is 0 outside a box, 5 inside, and has foreground of the given values at the box's start."""
    box = tuple(slice(None) for _ in size) if box is None else box
    image, labels = torch.zeros(channels, *size), torch.zeros(size, dtype=torch.int64)
    image[(slice(None), *box)] = 5.0
    inside, mask = image[(0, *box)], labels[box]
    for place, value in zip(np.ndindex(*inside.shape), values, strict=False):
        inside[place], mask[place] = value, 1
    return Sample(image, name, semantic=labels, spacing=spacing)


def test_sizes_are_those_of_the_box_that_is_not_0():
    found = fingerprint(Volumes(case((4, 6, 8), [9.0], box=(slice(1, 3), slice(0, 6), slice(4, 8)))), "Set")
    assert found.sizes == ((2, 6, 4),)
    assert found.kept == 48 / 192
    assert (found.name, found.modalities, found.classes) == ("Set", ("MRI",), ("background", "organ"))


def test_a_voxel_that_is_not_0_in_one_channel_is_kept():
    one = case((4, 4, 4), [9.0], box=(slice(0, 2), slice(0, 4), slice(0, 4)), channels=2)
    one.image[1, 3, 3, 3] = -1.0
    assert fingerprint(Volumes(one, modalities=("T1", "T2"))).sizes == ((4, 4, 4),)


def test_what_is_kept_is_the_median_over_cases():
    half = case((4, 4, 4), [9.0], box=(slice(0, 2), slice(0, 4), slice(0, 4)))
    assert fingerprint(Volumes(half, case((4, 4, 4), [9.0]), case((4, 4, 4), [9.0]))).kept == 1.0
    assert fingerprint(Volumes(half, case((4, 4, 4), [9.0]))).kept == 0.75


def test_intensities_are_those_of_the_foreground_and_each_case_weighs_the_same():
    found = fingerprint(Volumes(case((4, 4, 4), [10.0]), case((4, 4, 4), [20.0, 40.0, 40.0, 60.0])))
    (channel,) = found.intensities
    assert (channel.minimum, channel.maximum) == (10.0, 60.0)
    assert channel.mean == pytest.approx(0.5 * 10 + 0.5 * 40)
    assert channel.std == pytest.approx((0.5 * 15**2 + 0.5 * (15**2 + 200)) ** 0.5)
    assert channel.median == 10.0  # half of the weight is there
    assert (channel.percentile_00_5, channel.percentile_99_5) == (10.0, 60.0)


def test_void_is_no_foreground():
    one = case((4, 4, 4), [10.0, 99.0])
    one.semantic[0, 0, 1] = 255
    assert fingerprint(Volumes(one)).intensities[0].maximum == 10.0


def test_channels_have_intensities_of_their_own():
    one = case((4, 4, 4), [10.0, 20.0], channels=2)
    one.image[1, 0, 0, :2] = torch.tensor([-1.0, -3.0])
    assert [s.mean for s in fingerprint(Volumes(one, modalities=("T1", "T2"))).intensities] == [15.0, -2.0]


def test_a_case_that_is_0_everywhere_is_kept_whole():
    found = fingerprint(Volumes(case((4, 4, 4), [0.0], box=(slice(0, 0),) * 3), case((4, 4, 4), [10.0])))
    assert found.sizes == ((4, 4, 4), (4, 4, 4))


def test_a_constant_image_has_a_fingerprint():
    assert fingerprint(Volumes(case((4, 4, 4), [5.0]))).intensities[0].std == 0.0


def test_a_fingerprint_goes_through_json():
    found = fingerprint(Volumes(case((4, 4, 4), [10.0, 20.0], spacing=(2.0, 0.5, 0.5))), "Set")
    assert Fingerprint.from_json(found.to_json()) == found


NO_LABELS = replace(case((4, 4, 4), [1.0]), semantic=None)
OTHER_GRID = replace(case((4, 4, 4), [1.0]), semantic=torch.ones(4, 4, 5, dtype=torch.int64))
NO_SPACING = replace(case((4, 4, 4), [1.0]), spacing=None)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        (Volumes(), "there is no case to take a fingerprint of"),
        (Volumes(case((4, 4, 4), []), case((4, 4, 4), [])), "no case has a foreground voxel"),
        (Volumes(NO_LABELS), "sample 'a' has no labels"),
        (Volumes(NO_SPACING), "sample 'a' has no spacing"),
        (
            Volumes(case((4, 4, 4), [1.0], channels=2)),
            r"sample 'a' has an image \(2, 4, 4, 4\); with .* MRI it is \(1, D",
        ),
        (Volumes(case((4, 4, 4), [float("nan")])), "sample 'a' has NaN or infinite foreground voxels"),
        (Volumes(case((4, 4, 4), [1.0], spacing=(0.0, 1.0, 1.0))), r"sample 'a' has the spacing \(0.0, 1.0, 1.0\)"),
        (Volumes(case((4, 4, 4), [1.0], spacing=(1.0, -1.0, 1.0))), r"sample 'a' has the spacing \(1.0, -1.0, 1.0\)"),
        (Volumes(case((4, 4, 4), [1.0], spacing=(1.0, 1.0, float("nan")))), "sample 'a' has the spacing"),
        (Volumes(OTHER_GRID), r"sample 'a' has labels \(4, 4, 5\) and an image \(4, 4, 4\)"),
    ],
)
def test_data_sets_that_cannot_be_planned_are_refused(volumes, message):
    with pytest.raises(ValueError, match=message):
        fingerprint(volumes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "260 spacings and 0 sizes"),
        ({"sizes": (), "spacings": ()}, "0 spacings and 0 sizes"),
        ({"sizes": ((0, 5, 5),) * 260}, r"case 0 has the size \(0, 5, 5\)"),
        ({"sizes": ((2.5, 5, 5),) * 260}, r"case 0 has the size \(2.5, 5, 5\)"),
        ({"sizes": ((5, 5),) * 260}, r"case 0 has the size \(5, 5\)"),
        ({"spacings": ((1.0, 1.0),) * 260}, r"case 0 has the spacing \(1.0, 1.0\)"),
        ({"spacings": ((1.0, 1.0, float("inf")),) * 260}, "case 0 has the spacing"),
        ({"kept": 0.0}, "the share of voxels that cropping leaves is 0.0"),
        ({"kept": 1.5}, "the share of voxels that cropping leaves is 1.5"),
        ({"kept": "much"}, "a field of the fingerprint has another type"),
        ({"classes": ("background",)}, "a background and at least one more class"),
        ({"modalities": ()}, r"got 1 for the channels \(\)"),
        ({"modalities": ("T1", "T2")}, "got 1 for the channels"),
        ({"intensities": ({"mean": 1.0},)}, "a field of the fingerprint has another type"),
        ({"intensities": (dict.fromkeys(HIPPOCAMPUS.to_json()["intensities"][0], float("nan")),)}, "mean .* is nan"),
        ({"spacings": None}, "a field of the fingerprint has another type"),
    ],
)
def test_damaged_fingerprints_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Fingerprint.from_json(HIPPOCAMPUS.to_json() | change)


def test_every_field_of_a_stored_fingerprint_is_needed():
    content = HIPPOCAMPUS.to_json()
    for name in content:
        with pytest.raises(ValueError, match=f"'{name}' is missing or unknown"):
            Fingerprint.from_json({key: value for key, value in content.items() if key != name})
    with pytest.raises(ValueError, match="'extra' is missing or unknown"):
        Fingerprint.from_json(content | {"extra": 1})
