"""Resampling: by hand, against scipy's splines in all dimensions at once, and labels that never mix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seglib.ops.resample import resample_cubic, resample_labels, resample_linear, resampled_size, separate_axis
from seglib.types import VOID

ROUNDING = 2e-6  # of values up to about 4 in float32; scipy's are float64


def zoomed(volume, size, order):
    """scipy's spline in all dimensions at once, ``(D, H, W)`` float64."""
    factors = [m / n for n, m in zip(volume.shape, size, strict=True)]
    return ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def line(*values):
    """A volume ``(1, 1, n)`` of these labels."""
    return torch.tensor([[values]])


def test_a_size_is_rounded_half_to_even_and_never_0():
    assert resampled_size((5, 7, 10), (1, 1, 1), (2, 2, 3)) == (2, 4, 3)  # 2.5, 3.5, 3.33
    assert resampled_size((1, 4, 100), (1, 1, 0.5), (9, 2, 0.25)) == (1, 2, 200)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 3.1, 1), (5, 1, 1), 1),  # the present spacing decides
        ((1, 1, 1), (1, 1, 3.1), 2),  # then the target
        ((3, 1, 1), (1, 1, 1), None),  # more than 3 times
        ((5, 5, 1), (1, 1, 1), None),  # pixels of a thin slab
        ((5, 5, 1), (1, 1, 9), None),
        ((2, 1, 0.5), (1, 1, 1), 0),  # of the lowest, not of the second
    ],
)
def test_slices_far_apart_are_a_separate_axis(spacing, target, axis):
    assert separate_axis(spacing, target) == axis


@pytest.mark.parametrize("size", [(7, 9, 5), (3, 20, 6), (14, 4, 6), (1, 1, 1), (7, 9, 6)])
def test_cubic_splines_axis_by_axis_are_those_of_scipy_in_all_dimensions(size):
    image = noise(2, 7, 9, 6)
    expected = [zoomed(c, size, 3).clip(c.min(), c.max()) for c in image.double().numpy()]
    np.testing.assert_allclose(resample_cubic(image, size), np.stack(expected), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", [(1, 6, 5), (4, 1, 5), (4, 6, 1), (1, 1, 1)])
def test_an_axis_of_one_voxel_repeats_it(shape):
    image = noise(1, *shape)
    expected = zoomed(image[0].double().numpy(), (3, 4, 6), 3).clip(float(image.min()), float(image.max()))
    np.testing.assert_allclose(resample_cubic(image, (3, 4, 6))[0], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_a_separate_axis_slices_are_taken_and_each_is_resampled_by_itself(axis):
    volume = noise(4, 8, 8).movedim(0, axis)
    size = [12, 12, 12]
    size[axis] = 6
    found = resample_cubic(volume[None], size, separate=axis)[0].movedim(axis, 0)
    slices = [s.clip(float(o.min()), float(o.max())) for o in volume.movedim(axis, 0) for s in [zoomed(o, (12, 12), 3)]]
    nearest = (0, 1, 1, 2, 3, 3)  # centres at 1/3, 1, 5/3, 7/3, 3, 11/3 of slices at 1/2, 3/2, 5/2, 7/2; halfway later
    np.testing.assert_allclose(found, np.stack(slices)[list(nearest)], rtol=0, atol=ROUNDING)


def test_a_cubic_spline_does_not_leave_the_range_of_the_image():
    step = torch.zeros(1, 1, 1, 8)
    step[..., 4:] = 1
    found = resample_cubic(step, (1, 1, 24))[0, 0, 0]
    assert zoomed(step[0].numpy(), (1, 1, 24), 3).max() > 1.01  # the spline itself does
    assert (float(found.min()), float(found.max())) == (0, 1)


def test_whole_numbers_become_float_and_out_is_written():
    image = torch.tensor([0, 100, 0, 100], dtype=torch.int16).view(1, 1, 2, 2)
    out = torch.empty(1, 1, 4, 2)
    assert resample_cubic(image, (1, 4, 2), out=out) is out
    torch.testing.assert_close(out[0, 0], torch.tensor([[0.0, 100]] * 4))
    same = resample_cubic(image, (1, 2, 2))
    assert same.dtype == torch.float32
    assert same.equal(image.float())


def test_values_between_two_voxels_lie_on_a_line_and_go_on_beyond_the_last():
    assert resample_linear(torch.tensor([0.0, 4]).view(1, 1, 1, 2), (1, 1, 4)).flatten().tolist() == [0, 1, 3, 4]
    assert resample_linear(torch.tensor([0.0, 4, 8, 0]).view(1, 4, 1, 1), (2, 1, 1)).flatten().tolist() == [2, 4]


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
def test_linear_interpolation_is_scipys_and_some_slices_are_those_of_the_whole(separate):
    values, size = noise(2, 4, 6, 5), (9, 8, 7)
    found = resample_linear(values, size, separate=separate)
    expected = values.double().numpy()
    for axis in range(3):
        step = [m if axis == a else n for a, (n, m) in enumerate(zip(expected.shape[1:], size, strict=True))]
        expected = np.stack([zoomed(c, step, 0 if axis == separate else 1) for c in expected])
    # F.interpolate finds the places of voxels in float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    some = resample_linear(values, size, separate=separate, slices=slice(3, 5))
    torch.testing.assert_close(some, found[:, 3:5], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("labels", "size", "expected"),
    [
        ((0, 1), 4, (0, 0, 1, 1)),
        ((0, 1, 1, 0, 2, 2, 2, 2), 4, (1, 0, 2, 2)),  # of halves the later voxel, which is the nearest
        ((5, 5, 5, 7, 7, 7), 2, (5, 7)),
        ((1, 3), 6, (1, 1, 1, 3, 3, 3)),
        ((0, VOID, 0, 0), 8, (0, 0, VOID, VOID, 0, 0, 0, 0)),
    ],
)
def test_a_new_voxel_has_the_label_with_the_largest_share(labels, size, expected):
    assert resample_labels(line(*labels), (1, 1, size)).flatten().tolist() == list(expected)


def test_of_equal_shares_the_nearest_voxel_decides_then_the_lowest_id():
    # one new voxel in the middle of eight: the last of them is the nearest
    corners = torch.tensor([4, 4, 4, 2, 2, 2, 1, 9]).view(2, 2, 2)
    assert int(resample_labels(corners, (1, 1, 1))) == 2  # 3/8 each of 4 and 2, the nearest 9 has 1/8
    assert int(resample_labels(corners.flip(0, 1, 2), (1, 1, 1))) == 4  # the nearest


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_no_label_arises_and_shares_are_those_of_masks(data):
    shape, size = (data.draw(st.tuples(*(st.integers(1, 6),) * 3)) for _ in range(2))
    known = [0, 1, 2, VOID]
    seed = data.draw(st.integers(0, 9))
    labels = torch.tensor(known)[torch.randint(4, shape, generator=torch.Generator().manual_seed(seed))]
    separate = data.draw(st.sampled_from([None, 0, 1, 2]))
    found = resample_labels(labels, size, separate=separate)
    shares = resample_linear(torch.stack([labels == label for label in known]), size, separate=separate)
    chosen = shares.gather(0, torch.searchsorted(torch.tensor(known), found)[None])[0]
    assert (chosen > shares.amax(0) - 2e-5).all()  # the tie's width


def test_slices_of_labels_are_taken_along_a_separate_axis():
    labels = torch.tensor([0, 1, 2]).view(3, 1, 1).expand(3, 2, 2)
    assert resample_labels(labels, (6, 1, 1), separate=0).flatten().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_labels_keep_their_type_and_on_their_own_grid_they_stay(dtype):
    labels = torch.tensor([0, 1, 255, 2]).view(1, 2, 2).to(dtype)
    same = resample_labels(labels, (1, 2, 2))
    assert same.equal(labels)
    assert resample_labels(labels, (1, 4, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample_cubic(torch.zeros(2, 3, 3), (3, 3, 3)), r"\(D, H, W\) with voxels, got \(3, 3\)"),
        (lambda: resample_linear(torch.zeros(1, 2, 0, 3), (3, 3, 3)), r"got \(2, 0, 3\)"),
        (lambda: resample_cubic(torch.zeros(1, 2, 2, 2), (2, 0, 2)), r"at least 1, got \(2, 0, 2\)"),
        (lambda: resample_labels(line(0, 1), (1, 2)), r"three numbers of voxels \(d, h, w\), at least 1, got \(1, 2\)"),
        (lambda: resample_labels(torch.zeros(1, 1, 2), (1, 1, 2)), "argmax of logits"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
