"""Boundary regions, Boundary IoU and boundary F1 against definitions by loop, by mask and by scipy."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seglib.metrics import BoundaryIoU, boundary_f1, boundary_iou, boundary_region, boundary_width


def bits(*rows):
    """A mask from rows of text: # is inside."""
    return torch.tensor([[c == "#" for c in row] for row in rows])


def digits(*rows):
    """A label map from rows of text: a digit is a class, . is void."""
    return torch.tensor([[255 if c == "." else int(c) for c in row] for row in rows])


def squares(labels, y, x, radius):
    """Labels in the square around a pixel, inside the image, as a list."""
    height, width = labels.shape
    rows = range(max(0, y - radius), min(height, y + radius + 1))
    columns = range(max(0, x - radius), min(width, x + radius + 1))
    return [int(labels[r, c]) for r in rows for c in columns]


def band_by_loop(labels, radius, border):
    """Pixels with another label (not void), or with the image border, within ``radius``."""
    height, width = labels.shape
    band = torch.zeros(height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            if labels[y, x] == 255:
                continue
            others = set(squares(labels, y, x, radius)) - {255, int(labels[y, x])}
            at_border = min(y, x, height - 1 - y, width - 1 - x) < radius
            band[y, x] = bool(others) or (border and at_border)
    return band


def boundary_iou_by_loop(pred, target, k, ratio):
    both, union = torch.zeros(k), torch.zeros(k)
    d = max(1, round(ratio * math.hypot(*target.shape[-2:])))
    for p, t in zip(pred, target, strict=True):
        p = torch.where(t == 255, 255, p)
        in_p, in_t = band_by_loop(p, d, border=True), band_by_loop(t, d, border=True)
        for c in range(k):
            a, b = in_p & (p == c), in_t & (t == c)
            both[c] += (a & b).sum()
            union[c] += (a | b).sum()
    return both / union


def f1_by_distance_transform(pred, target, k, tolerance):
    """Precision and recall per class with scipy's exact Euclidean distances."""
    sums = torch.zeros(4, k)
    for p, t in zip(pred, target, strict=True):
        p = torch.where(t == 255, 255, p)
        in_p, in_t = band_by_loop(p, 1, border=False), band_by_loop(t, 1, border=False)
        for c in range(k):
            a, b = (in_p & (p == c)).numpy(), (in_t & (t == c)).numpy()
            sums[0, c] += a.sum()
            sums[2, c] += b.sum()
            if a.any() and b.any():
                sums[1, c] += (ndimage.distance_transform_edt(~b)[a] <= tolerance + 1e-9).sum()  # √ rounds
                sums[3, c] += (ndimage.distance_transform_edt(~a)[b] <= tolerance + 1e-9).sum()
    return sums[1] / sums[0], sums[3] / sums[2]


@st.composite
def blobs(draw):
    """K, prediction and target (B, H, W) of a few rectangles each, the target partly void."""
    k = draw(st.integers(1, 4))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 11), st.integers(1, 11)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def draw_map():
        m = torch.zeros(shape, dtype=torch.long)
        for _ in range(4):
            y, x = (int(torch.randint(s, (), generator=g)) for s in shape[1:])
            m[:, y : y + shape[1] // 2 + 1, x : x + 4] = int(torch.randint(k, (), generator=g))
        return m

    pred, target = draw_map(), draw_map()
    if draw(st.booleans()):
        target[torch.rand(shape, generator=g) < 0.15] = 255
    return k, pred, target


# The region ----------------------------------------------------------------------------------------------------------


def test_the_boundary_of_a_5x5_square_is_its_outer_ring():
    mask = bits(".......", ".#####.", ".#####.", ".#####.", ".#####.", ".#####.", ".......")
    ring = bits(".......", ".#####.", ".#...#.", ".#...#.", ".#...#.", ".#####.", ".......")
    assert torch.equal(boundary_region(mask, 1), ring)
    assert boundary_region(mask, 2).sum() == 24  # all but the centre
    assert torch.equal(boundary_region(mask, 3), mask)


def test_beyond_the_image_border_is_outside():
    mask = torch.ones(4, 5, dtype=torch.bool)
    assert torch.equal(boundary_region(mask, 1), bits("#####", "#...#", "#...#", "#####"))


def test_a_diagonal_step_counts_as_one():
    mask = ~bits(".....", ".....", "..#..", ".....", ".....")  # a hole in the middle
    assert torch.equal(boundary_region(mask, 1), bits("#####", "#####", "##.##", "#####", "#####"))
    mask = torch.nn.functional.pad(mask, [3, 3, 3, 3], value=True)
    inner = boundary_region(mask, 1)[3:8, 3:8]
    assert torch.equal(inner, bits(".....", ".###.", ".#.#.", ".###.", "....."))


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**31))
def test_equals_repeated_3x3_erosion_by_scipy(width, height, length, seed):
    mask = torch.rand(2, height, length, generator=torch.Generator().manual_seed(seed)) < 0.9
    eroded = [ndimage.binary_erosion(m, torch.ones(3, 3).numpy(), iterations=width, border_value=0) for m in mask]
    expected = torch.stack([m & ~torch.from_numpy(e) for m, e in zip(mask, eroded, strict=True)])
    assert torch.equal(boundary_region(mask, width), expected)


def test_the_default_width_is_2_percent_of_the_diagonal_and_at_least_1():
    assert boundary_width(300, 400) == 10
    assert boundary_width(8, 8) == 1
    assert boundary_width(300, 400, 0.005) == 2  # 2.5 rounds to the even number
    mask = torch.ones(300, 400, dtype=torch.bool)
    assert torch.equal(boundary_region(mask), boundary_region(mask, 10))


def test_a_width_beyond_the_image_takes_the_whole_mask():
    mask = torch.rand(3, 6, 5) < 0.5
    assert torch.equal(boundary_region(mask, 10**9), mask)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (4, 0)])
def test_an_empty_mask_has_an_empty_boundary(shape):
    assert boundary_region(torch.zeros(shape, dtype=torch.bool)).shape == shape


def test_bad_masks_widths_and_ratios_are_refused():
    with pytest.raises(ValueError, match=r"bool \(…, H, W\), got torch.int64"):
        boundary_region(torch.zeros(3, 3, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        boundary_region(torch.zeros(3, 3, dtype=torch.bool), 0)
    for ratio in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"got {ratio}; try 0.02"):
            BoundaryIoU(3, dilation_ratio=ratio)


# Boundary IoU --------------------------------------------------------------------------------------------------------


def test_boundary_iou_of_a_shifted_square_worked_by_hand():
    # Rings of 3x3 squares, one column apart: 8 pixels each. The ring of the target is columns 1-3 without the centre
    # (2, 2), that of the prediction columns 2-4 without (2, 3). They share columns 2-3 of rows 1 and 3: 4 pixels; the
    # middle row has 1 and 3 in the one, 2 and 4 in the other.
    target = digits("000000", "011100", "011100", "011100", "000000")
    pred = digits("000000", "001110", "001110", "001110", "000000")
    both, union = 4, 8 + 8 - 4
    assert boundary_iou(pred, target, 2)[1] == pytest.approx(both / union)
    # the regions themselves share 6 of 12 pixels: the band is the stricter judge
    assert both / union < 6 / 12


def test_one_wide_band_is_the_plain_iou():
    target, pred = digits("0011", "0011"), digits("0111", "0011")
    assert boundary_iou(pred, target, 2, dilation_ratio=1).tolist() == pytest.approx([3 / 4, 4 / 5])


def test_a_class_in_neither_map_is_nan():
    assert boundary_iou(digits("01"), digits("01"), 3).isnan().tolist() == [False, False, True]


@given(blobs())
def test_boundary_iou_equals_the_loop(maps):
    k, pred, target = maps
    for ratio in (0.02, 0.2):
        expected = boundary_iou_by_loop(pred, target, k, ratio)
        ours = boundary_iou(pred, target, k, dilation_ratio=ratio)
        torch.testing.assert_close(ours.float(), expected, equal_nan=True)  # the loop divides in float32


@given(blobs())
def test_without_void_boundary_iou_is_the_iou_of_boundary_regions(maps):
    k, pred, target = maps
    target = target.where(target != 255, 0)
    d = boundary_width(*target.shape[-2:], 0.1)
    for c, iou in enumerate(boundary_iou(pred, target, k, dilation_ratio=0.1).tolist()):
        a, b = boundary_region(pred == c, d), boundary_region(target == c, d)
        union = int((a | b).sum())
        assert iou == pytest.approx(int((a & b).sum()) / union) if union else math.isnan(iou)


@given(blobs())
def test_right_on_every_labelled_pixel_scores_1_whatever_is_predicted_in_void(maps):
    k, anything, target = maps
    pred = torch.where(target == 255, anything, target)
    iou = boundary_iou(pred, target, k)
    assert (iou[~iou.isnan()] == 1).all()
    f1 = boundary_f1(pred, target, k).f1
    assert (f1[~f1.isnan()] == 1).all()


def test_void_is_no_contour():
    target = torch.nn.functional.pad(digits("00.00", "00.00", "00.00"), [4, 4, 4, 4], value=0)
    metric = BoundaryIoU(1)
    metric.update(target.clamp(max=0), target)
    border = 2 * 13 + 2 * 9  # the frame of 11 x 13, one pixel wide
    assert metric.counts[1].tolist() == [border]


def test_a_contour_reaches_across_a_thin_rim_of_void():
    target = digits("0000.1111")
    metric = BoundaryIoU(2, dilation_ratio=2 / math.hypot(1, 9))  # d = 2 reaches over the one pixel of void
    metric.update(digits("000000000"), target)
    assert metric.counts[1].tolist() == [4, 4]  # a map one pixel high is all border
    tall = target.repeat(9, 1)
    metric = BoundaryIoU(2, dilation_ratio=2 / math.hypot(9, 9))
    metric.update(tall, tall)
    inner = 9 - 2 * 2  # rows that the upper and lower border do not reach
    assert metric.counts[1].tolist() == [4 * 9 - 1 * inner, 4 * 9 - 1 * inner]  # of columns 0-3, only 2 is in no band


def test_an_all_void_or_empty_map_has_no_boundary():
    for target in (torch.full((3, 4), 255), torch.zeros(0, 4, 4, dtype=torch.long), torch.zeros(0, 3).long()):
        pred = torch.zeros_like(target)
        assert boundary_iou(pred, target, 2).isnan().all()
        assert math.isnan(boundary_f1(pred, target, 2).mean_f1)


@given(blobs())
def test_boundary_parts_merged_are_the_whole(maps):
    k, pred, target = maps
    whole, parts = BoundaryIoU(k), BoundaryIoU(k)
    whole.update(pred, target)
    for p, t in zip(pred, target, strict=True):
        one = BoundaryIoU(k)
        one.update(p, t)
        parts.merge(one)
    assert torch.equal(parts.counts, whole.counts)
    scores, function = parts.compute(), boundary_iou(pred, target, k)
    assert torch.equal(scores.iou.nan_to_num(-1), function.nan_to_num(-1))
    assert scores.miou == pytest.approx(float(function.nanmean()), nan_ok=True)
    assert torch.equal(scores.present, ~function.isnan())


def test_bands_of_different_width_do_not_merge():
    with pytest.raises(ValueError, match="'dilation_ratio': 0.1.*'dilation_ratio': 0.02"):
        BoundaryIoU(3).merge(BoundaryIoU(3, dilation_ratio=0.1))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.uint16])
def test_other_integer_types_score_the_same(kind):
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randint(3, (2, 2, 9, 9), generator=g)
    target[:, 4] = 255
    assert torch.equal(boundary_iou(pred.to(kind), target.to(kind), 3), boundary_iou(pred, target, 3))
    assert torch.equal(boundary_f1(pred.to(kind), target.to(kind), 3).f1, boundary_f1(pred, target, 3).f1)


def test_more_classes_than_16_bits_hold_are_scored():
    target = torch.tensor([[0, 39_999], [0, 39_999]])
    assert boundary_f1(target, target, 40_000).f1[[0, 39_999]].tolist() == [1, 1]


@pytest.mark.parametrize("score", [boundary_iou, boundary_f1])
def test_bad_labels_and_shapes_are_refused(score):
    zeros, seven = torch.zeros(4, 6).long(), torch.zeros(4, 6).long()
    seven[3, 5] = 7
    with pytest.raises(ValueError, match=re.escape("target label 7 at (row 3, column 5) is not in 0..4 or 255; remap")):
        score(zeros, seven, 5)
    with pytest.raises(ValueError, match=re.escape("predicted label 7 at (row 3, column 5) is not in 0..4; ")):
        score(seven, zeros, 5)
    with pytest.raises(ValueError, match=re.escape("got (4, 6) and (6, 4); resize the logits")):
        score(zeros, zeros.T, 5)
    with pytest.raises(ValueError, match="target label is an integer class id, got torch.float32"):
        score(zeros, zeros.float(), 5)
    with pytest.raises(ValueError, match="predicted label is an integer class id, got torch.float32"):
        score(zeros.float(), zeros, 5)


# Boundary F1 ---------------------------------------------------------------------------------------------------------


def test_boundary_f1_of_a_shifted_edge_worked_by_hand():
    # The contour of class 0 is column 2 in the target and column 5 in the prediction, that of class 1 is 3 and 6.
    target, pred = digits("00011111", "00011111"), digits("00000011", "00000011")
    assert boundary_f1(pred, target, 2, tolerance=2).f1.tolist() == [0, 0]
    assert boundary_f1(pred, target, 2, tolerance=3).f1.tolist() == [1, 1]


def test_precision_and_recall_tell_a_contour_too_many_from_one_too_few():
    target = digits("0001111111111", "0001111111111")
    pred = digits("0001111112222", "0001111112222")  # invents class 2, and with it a second edge of class 1
    s = boundary_f1(pred, target, 3, tolerance=0)
    assert s.precision.tolist() == [1, 0.5, 0]
    assert s.recall[:2].tolist() == [1, 1] and s.recall[2].isnan()
    assert s.f1.tolist() == pytest.approx([1, 2 / 3, 0])
    assert s.mean_f1 == pytest.approx((1 + 2 / 3) / 3)
    assert s.present.tolist() == [True, True, True]


def test_a_class_that_fills_the_image_has_no_contour():
    s = boundary_f1(torch.zeros(4, 4).long(), torch.zeros(4, 4).long(), 1)
    assert s.f1.isnan().all() and not s.present.any() and math.isnan(s.mean_f1)


@given(blobs(), st.sampled_from([0, 1, 1.5, 1.9, 2, 3, 40]))
def test_boundary_f1_equals_exact_distances(maps, tolerance):
    k, pred, target = maps
    precision, recall = f1_by_distance_transform(pred, target, k, tolerance)
    s = boundary_f1(pred, target, k, tolerance=tolerance)
    torch.testing.assert_close(s.precision.float(), precision, equal_nan=True)  # scipy's side divides in float32
    torch.testing.assert_close(s.recall.float(), recall, equal_nan=True)


@given(blobs())
def test_swapping_the_maps_swaps_precision_and_recall(maps):
    k, pred, target = maps
    target = target.where(target != 255, 0)
    one, other = boundary_f1(pred, target, k), boundary_f1(target, pred, k)
    assert torch.equal(one.precision.nan_to_num(-1), other.recall.nan_to_num(-1))
    assert torch.equal(one.f1.nan_to_num(-1), other.f1.nan_to_num(-1))


@pytest.mark.parametrize("tolerance", [-1, math.inf, math.nan])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(ValueError, match=f"distance in pixels, got {tolerance}"):
        boundary_f1(digits("01"), digits("01"), 2, tolerance=tolerance)
