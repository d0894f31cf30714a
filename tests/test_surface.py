"""Surface distances in millimetres against definitions by loop, and on masks that a person can check."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from seglib.metrics import assd, dice, hausdorff, lesion_scores, surface_dice, surface_distances

NAN = pytest.approx(math.nan, nan_ok=True)


def bits(*rows):
    """A mask from rows of text: # is inside."""
    return torch.tensor([[c == "#" for c in row] for row in rows])


def box(size, *sides):
    """A mask that is inside where all slices say so."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[sides] = True
    return mask


def surface_by_loop(mask, spacing):
    """The places in mm of voxels with a face neighbour that is outside or beyond the border."""
    places = []
    for voxel in mask.nonzero().tolist():
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            neighbour = [v + step * (a == axis) for a, v in enumerate(voxel)]
            beyond = not 0 <= neighbour[axis] < mask.shape[axis]
            if beyond or not mask[tuple(neighbour)]:
                places.append(voxel)
                break
    return np.array(places) * np.array(spacing)


@st.composite
def mask_pairs(draw):
    """Two masks that are not empty, in 2D or 3D, and a spacing."""
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pair = [torch.rand(shape, generator=g) < draw(st.floats(0.05, 0.95)) for _ in range(2)]
    for mask in pair:
        mask[tuple(int(torch.randint(n, (), generator=g)) for n in shape)] = True
    return *pair, tuple(draw(st.sampled_from([0.5, 1.0, 2.5])) for _ in shape)


# Distances -----------------------------------------------------------------------------------------------------------


def test_two_voxels_lie_as_far_apart_as_the_spacing_says():
    pred, target = box((5, 5, 5), 1, 1, 1), box((5, 5, 5), 3, 1, 2)
    assert hausdorff(pred, target) == math.hypot(2, 1)
    assert hausdorff(pred, target, (2.5, 1.0, 0.5)) == math.hypot(5, 0.5)
    assert hausdorff(pred, target, 0.5) == math.hypot(1, 0.5)


def test_the_surface_is_what_has_a_face_neighbour_outside():
    cube = box((7, 7, 7), slice(1, 6), slice(1, 6), slice(1, 6))
    assert len(surface_distances(cube, cube).of_pred) == 5**3 - 3**3
    whole = torch.ones(4, 4, 4, dtype=torch.bool)  # beyond the border is outside
    assert len(surface_distances(whole, whole).of_pred) == 4**3 - 2**3
    corner = ~bits("...", "...", "..#")  # the voxel in the middle touches the outside at a corner only
    assert len(surface_distances(corner, corner).of_pred) == 7


@settings(max_examples=30)
@given(mask_pairs())
def test_scores_follow_the_definitions(case):
    pred, target, spacing = case
    apart = cdist(surface_by_loop(pred, spacing), surface_by_loop(target, spacing))  # (P, T)
    to_target, to_pred = apart.min(1), apart.min(0)
    both = np.concatenate([to_target, to_pred])
    for q in (50, 95, 100):
        larger = max(np.percentile(to_target, q), np.percentile(to_pred, q))
        assert hausdorff(pred, target, spacing, percentile=q) == pytest.approx(larger)
        assert hausdorff(pred, target, spacing, percentile=q, pooled=True) == pytest.approx(np.percentile(both, q))
    assert assd(pred, target, spacing) == pytest.approx(both.mean())
    for tolerance in (0.0, 1.2, 3.0):
        assert surface_dice(pred, target, tolerance, spacing) == pytest.approx((both <= tolerance + 1e-9).mean())


@settings(max_examples=30)
@given(mask_pairs(), st.sampled_from(["voxels", "area"]))
def test_axes_can_be_turned_and_flipped_and_room_added_around(case, weighting):
    pred, target, spacing = case
    found = surface_distances(pred, target, spacing, weighting=weighting)
    turned = [torch.nn.functional.pad(m.movedim(0, -1).flip(0), [2, 3] * m.ndim) for m in (pred, target)]
    again = surface_distances(*turned, (*spacing[1:], spacing[0]), weighting=weighting)
    for score in (lambda s: s.hausdorff(), lambda s: s.assd(), lambda s: s.surface_dice(1.2)):
        assert score(found) == pytest.approx(score(again))


def test_the_larger_percentile_and_the_pooled_one_can_be_7_mm_and_0():
    target = box((60, 12), slice(2, 48), 2)  # a line of 46 pixels
    pred = target | box((60, 12), slice(2, 6), 9)  # and 4 more, 7 mm off: 8% of the prediction, 4% of both
    assert hausdorff(pred, target) == 7
    assert hausdorff(pred, target, pooled=True) == 0
    assert hausdorff(target, pred) == 7  # the two masks can change places


def test_a_percentile_of_voxels_is_interpolated():
    target, pred = box((1, 1, 9), 0, 0, slice(0, 2)), box((1, 1, 9), 0, 0, slice(0, 3))
    assert hausdorff(pred, target, percentile=100) == 1  # distances 0, 0, 1 and 0, 0
    assert hausdorff(pred, target, percentile=75) == pytest.approx(0.5)


def test_assd_is_the_mean_over_both_surfaces():
    target, pred = box((1, 1, 9), 0, 0, slice(0, 2)), box((1, 1, 9), 0, 0, slice(0, 5))
    assert assd(pred, target, 2.0) == pytest.approx(2 * (1 + 2 + 3) / 7)


def test_surface_dice_counts_both_surfaces():
    target, pred = box((1, 1, 9), 0, 0, slice(0, 2)), box((1, 1, 9), 0, 0, slice(0, 5))
    assert surface_dice(pred, target, 0.0, 2.0) == pytest.approx(4 / 7)  # distances 0, 0, 2, 4, 6 mm and 0, 0
    assert surface_dice(pred, target, 3.9, 2.0) == pytest.approx(5 / 7)


def test_the_tolerance_itself_is_within_it_whatever_rounding_does():
    target, pred = box((1, 1, 9), 0, 0, 0), box((1, 1, 9), 0, 0, 3)
    assert 3 * 0.1 > 0.3
    assert surface_dice(pred, target, 0.3, 0.1) == 1
    assert surface_dice(pred, target, 0.2999, 0.1) == 0


# Elements weighted by area -------------------------------------------------------------------------------------------


def area(mask, spacing=1.0):
    return float(surface_distances(mask, mask, spacing, weighting="area").pred_weights.sum())


def test_a_voxel_is_cut_off_by_an_octahedron_and_a_pixel_by_a_rhombus():
    assert area(box((3, 3, 3), 1, 1, 1)) == pytest.approx(8 * math.sqrt(3) / 8)
    assert area(box((1, 1), 0, 0), (3.0, 4.0)) == pytest.approx(4 * 2.5)


def test_a_rectangle_has_the_length_of_its_sides_through_pixel_centres_and_of_bevelled_corners():
    sides = 2 * (5 - 1) * 3.0 + 2 * (7 - 1) * 0.5
    assert area(box((9, 9), slice(2, 7), slice(2, 9)), (3.0, 0.5)) == pytest.approx(sides + 4 * math.hypot(1.5, 0.25))


def test_a_cuboid_has_the_area_of_its_faces_of_bevelled_edges_and_of_cut_corners():
    size, spacing = (3, 5, 7), (3.0, 0.5, 2.0)
    z, y, x = ((n - 1) * s for n, s in zip(size, spacing, strict=True))  # mm from centre to centre
    faces = 2 * (z * y + z * x + y * x)
    edges = 4 * (z * math.hypot(0.25, 1.0) + y * math.hypot(1.5, 1.0) + x * math.hypot(1.5, 0.25))
    corners = area(box((1, 1, 1), 0, 0, 0), spacing)
    assert area(torch.ones(size, dtype=torch.bool), spacing) == pytest.approx(faces + edges + corners)


def test_inside_and_outside_share_one_surface():
    inner = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    mask = torch.nn.functional.pad(inner, [2] * 6)
    spacing = (2.0, 1.0, 0.5)
    border = area(torch.ones_like(mask), spacing)  # what is outside also ends at the border of the volume
    assert area(~mask, spacing) == pytest.approx(area(mask, spacing) + border)


def test_a_percentile_by_area_is_the_distance_that_this_share_of_the_area_keeps():
    target = box((20,) * 2, slice(4, 16), slice(4, 16))
    pred = target | box((20,) * 2, 0, 0)  # a pixel in the corner adds a rhombus of length 2.8 to about 47
    distances = surface_distances(pred, target, weighting="area")
    share = math.sqrt(8) / float(distances.pred_weights.sum())
    assert 0.05 < share < 0.06
    assert distances.hausdorff(100 - 99 * share) > 4
    assert distances.hausdorff(100 - 101 * share) == 0
    assert hausdorff(pred, target, weighting="area") == distances.hausdorff()
    assert hausdorff(pred, target, weighting="area", pooled=True) == 0


def test_oblique_surfaces_weigh_more_by_area_than_by_voxels():
    i, j = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    flat, oblique = (i < 20) & (j < 40), i + j < 39
    per_voxel = [float(surface_distances(m, m, weighting="area").pred_weights.sum()) for m in (flat, oblique)]
    counts = [len(surface_distances(m, m).of_pred) for m in (flat, oblique)]
    assert per_voxel[1] / counts[1] > per_voxel[0] / counts[0]


# Empty masks ---------------------------------------------------------------------------------------------------------

EMPTY = torch.zeros(3, 4, 12, dtype=torch.bool)
ONE = box((3, 4, 12), 1, 1, 1)


@pytest.mark.parametrize("weighting", ["voxels", "area"])
def test_when_both_masks_are_empty_there_is_no_score(weighting):
    distances = surface_distances(EMPTY, EMPTY, weighting=weighting)
    found = [distances.hausdorff(), distances.hausdorff(pooled=True), distances.assd(), distances.surface_dice(1.0)]
    assert found == [NAN] * 4
    assert dice(EMPTY, EMPTY) == NAN


@pytest.mark.parametrize("weighting", ["voxels", "area"])
@pytest.mark.parametrize("pair", [(EMPTY, ONE), (ONE, EMPTY)])
def test_when_one_mask_is_empty_the_scores_are_the_worst(pair, weighting):
    distances = surface_distances(*pair, (2.0, 2.0, 1.0), weighting=weighting)
    diagonal = math.hypot(6, 8, 12)  # mm, from corner to corner of the volume
    assert distances.hausdorff() == distances.hausdorff(pooled=True) == distances.assd() == diagonal
    assert distances.surface_dice(1000.0) == 0
    assert dice(*pair) == 0


@pytest.mark.parametrize("weighting", ["voxels", "area"])
def test_no_prediction_is_worse_than_none(weighting):
    target, far = box((3, 4, 12), 0, 0, 0), box((3, 4, 12), 2, 3, 11)
    found = hausdorff(far, target, weighting=weighting)
    assert found == math.hypot(2, 3, 11) < hausdorff(EMPTY, target, weighting=weighting)


def test_a_volume_without_voxels_has_no_score():
    nothing = torch.zeros(0, 3, 3, dtype=torch.bool)
    assert hausdorff(nothing, nothing) == NAN


# Void ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(mask_pairs(), st.integers(0, 2**31), st.sampled_from(["voxels", "area"]))
def test_what_is_predicted_in_void_changes_no_score(case, seed, weighting):
    pred, target, spacing = case
    g = torch.Generator().manual_seed(seed)
    void = torch.rand(pred.shape, generator=g) < 0.3
    other = torch.where(void, torch.rand(pred.shape, generator=g) < 0.5, pred)
    a, b = (surface_distances(p, target, spacing, weighting=weighting, void=void) for p in (pred, other))
    assert [a.hausdorff(), a.assd()] == pytest.approx([b.hausdorff(), b.assd()], nan_ok=True)
    assert a.surface_dice(1.2) == pytest.approx(b.surface_dice(1.2), nan_ok=True)
    assert dice(pred, target, void=void) == pytest.approx(dice(other, target, void=void), nan_ok=True)
    assert repr(lesion_scores(pred, target, void=void)) == repr(lesion_scores(other, target, void=void))


@pytest.mark.parametrize("weighting", ["voxels", "area"])
def test_void_does_not_end_a_surface(weighting):
    target = box((9, 5, 5), slice(2, 7), slice(1, 4), slice(1, 4))
    void = box((9, 5, 5), slice(5, 9))  # the upper slices are not annotated
    pred = target & ~void  # right wherever something is known
    found = surface_distances(pred, target, weighting=weighting, void=void)
    assert (found.hausdorff(), found.assd(), found.surface_dice(0.0)) == (0, 0, 1)
    whole = surface_distances(target, target, weighting=weighting)
    assert 0.4 < found.target_weights.sum() / whole.target_weights.sum() < 0.7  # three of five slices


def test_a_target_whose_surface_lies_in_void_has_no_distance():
    inner, outer = box((7, 7), slice(2, 5), slice(2, 5)), box((7, 7), slice(1, 6), slice(1, 6))
    pred = box((7, 7), 0, 0)  # touches neither
    assert hausdorff(pred, inner, void=outer & ~inner) == NAN
    assert surface_dice(pred, inner, 1.0, void=outer & ~inner) == NAN
    assert dice(pred, inner, void=outer & ~inner) == 0
    assert hausdorff(inner, torch.zeros(7, 7, dtype=torch.bool), void=outer & ~inner) == math.hypot(7, 7)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": ONE.long()}, "the prediction is torch.int64 (3, 4, 12); pass one class of one case"),
        ({"target": ONE[None], "pred": ONE[None]}, "the prediction is torch.bool (1, 3, 4, 12)"),
        ({"pred": ONE[:2]}, "the prediction has shape (2, 4, 12) and the target (3, 4, 12); resample"),
        ({"void": ONE[..., 1:]}, "the void has shape (3, 4, 11)"),
        ({"spacing": (1.0, 1.0)}, "spacing is 3 distances in mm, all above 0, got (1.0, 1.0)"),
        ({"spacing": (1.0, 0.0, 1.0)}, "got (1.0, 0.0, 1.0); read it from the file's affine"),
        ({"spacing": (1.0, math.nan, 1.0)}, "got (1.0, nan, 1.0)"),
        ({"weighting": "surface"}, 'weighting is "voxels" or "area", got \'surface\''),
        ({"percentile": 0.0}, "a percentile is above 0 and at most 100, got 0.0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hausdorff(**{"pred": ONE, "target": ONE, **change})


def test_a_tolerance_is_a_distance():
    with pytest.raises(ValueError, match="in mm, got -1"):
        surface_dice(ONE, ONE, -1.0)
