"""FCOS: where locations lie, which object each answers for, its losses and its head."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from seglib.layers.fcos import FCOSHead, locations
from seglib.layers.tiny import TinyEncoder
from seglib.losses import assign_fcos
from seglib.losses.assign_fcos import assign_locations, box_distances, mask_centres
from seglib.losses.fcos import centerness, distance_giou_loss, fcos_loss

INF = float("inf")


def assign(points, boxes, *, stride=4.0, ranges=(-1.0, INF), centres=None, radius=1.5):
    """One level: the object of each point."""
    points = torch.tensor(points, dtype=torch.float32)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = assign_locations(
        points, torch.full((len(points),), stride), torch.tensor([ranges] * len(points)), boxes,
        None if centres is None else torch.tensor(centres, dtype=torch.float32), radius=radius,
    )  # fmt: skip
    return found.tolist()


def test_locations_lie_in_the_middle_of_their_cells():
    assert locations((2, 3), 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    # the tiny encoder's cells are centred there: pixel index + ½
    for level, grid in TinyEncoder().grids.items():
        x = locations((1, 4), int(grid.stride))[:, 0]
        assert x.tolist() == [grid.stride * i + grid.offset + 0.5 for i in range(4)], level


def test_a_location_answers_for_the_box_around_it_near_its_centre():
    row = [(x, 20) for x in (2, 6, 10, 14, 18, 22, 26, 30, 34)]
    box = (4, 8, 36, 32)  # its centre is (20, 20), 1.5 strides are 6 pixels: 14 and 26 lie on the border, outside
    assert assign(row, [box]) == [-1, -1, -1, -1, 0, 0, -1, -1, -1]
    assert assign(row, [box], radius=1.51) == [-1, -1, -1, 0, 0, 0, 0, -1, -1]
    assert assign(row, [box], radius=None) == [-1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert assign(row, [(6, 8, 34, 32)], radius=None) == [-1, -1, 0, 0, 0, 0, 0, 0, -1]  # on a side is outside


def test_the_part_near_the_centre_ends_at_the_box():
    assert assign([(18, 20), (22, 20)], [(17, 8, 21, 32)], stride=8.0) == [0, -1]


def test_centre_sampling_follows_the_mask_not_the_box():
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 0:4, 0:32] = mask[0, 0:32, 0:4] = True  # an L in the corner of its box
    box = torch.tensor([[0.0, 0, 32, 32]])
    centre = mask_centres(mask, box)
    assert centre.tolist() == [[pytest.approx((128 * 15.5 + 112 * 1.5) / 240)] * 2]
    points = [(2, 2), (6, 6), (10, 10), (14, 14), (18, 18)]
    assert assign(points, box.tolist(), centres=centre.tolist()) == [-1, 0, 0, 0, -1]
    assert assign(points, box.tolist()) == [-1, -1, -1, 0, 0]


def test_a_mask_of_one_pixel_has_its_index_as_centre_and_an_empty_one_that_of_its_box():
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2, 5] = True
    masks[2, 1, 3] = masks[2, 1, 4] = masks[2, 4, 4] = True
    boxes = torch.tensor([[5.0, 2, 6, 3], [1, 1, 4, 6], [3, 1, 5, 5]])
    want = torch.tensor([[5, 2], [2.5, 3.5], [11 / 3, 2]])
    torch.testing.assert_close(mask_centres(masks, boxes), want)
    assert mask_centres(masks[:0], boxes[:0]).shape == (0, 2)


def test_both_ends_of_a_levels_range_count():
    # from (20, 20) the farthest side of this box is 16 pixels away
    point, box = [(20, 20)], [(4, 8, 34, 32)]
    for ranges, want in (((-1, 16), 0), ((16, 32), 0), ((-1, 15.9), -1), ((16.1, 32), -1)):
        assert assign(point, box, ranges=ranges) == [want], ranges


def test_objects_below_the_smallest_and_above_the_largest_range_have_no_location():
    point = [(20, 20)]
    assert assign(point, [(19, 19, 21, 21)], ranges=(8, 64)) == [-1]
    assert assign(point, [(-80, -80, 120, 120)], ranges=(8, 64)) == [-1]


def test_of_several_objects_a_location_takes_the_smallest_and_of_equal_ones_the_first():
    large, small, twin = (10, 10, 30, 30), (16, 16, 24, 24), (17, 16, 25, 24)
    assert assign([(20, 20)], [large, small]) == [1]
    assert assign([(20, 20)], [small, large]) == [0]
    assert assign([(20, 20)], [large, twin, small]) == [1]
    assert assign([(20, 20)], [large, small, twin]) == [1]
    assert assign([(20, 20)], [small, small]) == [0]  # two objects at one place: the second gets none


def test_no_object_no_location_no_match():
    assert assign([(20, 20), (2, 2)], []) == [-1, -1]
    assert assign_locations(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 2), torch.ones(1, 4)).tolist() == []


def one_by_one(points, strides, ranges, boxes, centres, radius):
    """The rule as it is told, for one location and one object after the other."""
    found = []
    for (x, y), stride, (low, high) in zip(points.tolist(), strides.tolist(), ranges.tolist(), strict=True):
        best, least = -1, INF
        for k, ((x1, y1, x2, y2), (cx, cy)) in enumerate(zip(boxes.tolist(), centres.tolist(), strict=True)):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = abs(x - cx) < radius * stride and abs(y - cy) < radius * stride
            area = (x2 - x1) * (y2 - y1)
            if min(sides) > 0 and near and low <= max(sides) <= high and area < least:
                best, least = k, area
        found.append(best)
    return found


@given(st.integers(0, 12), st.integers(0, 10_000), st.sampled_from([1, 40, 2**22]))
def test_it_is_the_rule_told_one_by_one(count, seed, chunk):
    g = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (count, 2), generator=g).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 25, (count, 2), generator=g)], 1)
    centres = corner + torch.randint(0, 9, (count, 2), generator=g) / 8 * (boxes[:, 2:] - corner)
    points = torch.cat([locations((8, 8), 8), locations((4, 4), 16)])
    strides = torch.tensor([8.0] * 64 + [16.0] * 16)
    ranges = torch.tensor([[-1, 12.0]] * 64 + [[12.0, INF]] * 16)
    before, assign_fcos.CHUNK = assign_fcos.CHUNK, chunk
    try:
        found = assign_locations(points, strides, ranges, boxes, centres, radius=1.0)
    finally:
        assign_fcos.CHUNK = before
    assert found.tolist() == one_by_one(points, strides, ranges, boxes, centres, 1.0)


def test_shapes_that_do_not_match_are_refused():
    points = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"strides \(L,\) .* got \(3, 2\), \(2,\) and \(3, 2\); repeat"):
        assign_locations(points, torch.ones(2), torch.ones(3, 2), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"centres \(G, 2\), got \(1, 4\), \(2, 2\)"):
        assign_locations(points, torch.ones(3), torch.ones(3, 2), torch.ones(1, 4), torch.ones(2, 2))


def test_distances_are_those_to_the_four_sides():
    boxes = torch.tensor([[2.0, 4, 20, 40]])
    assert box_distances(torch.tensor([[5.0, 6]]), boxes).tolist() == [[3, 2, 15, 34]]
    assert box_distances(torch.tensor([[1.0, 50]]), boxes).tolist() == [[-1, 46, 19, -10]]


def test_centerness_is_1_in_the_middle_and_falls_to_the_sides():
    sides = torch.tensor([[4.0, 2, 4, 2], [1, 2, 4, 2], [1, 1, 4, 9], [1e-3, 2, 8, 2]])
    assert centerness(sides).tolist() == pytest.approx([1, math.sqrt(1 / 4), math.sqrt(1 / 4 / 9), math.sqrt(1.25e-4)])


def test_giou_of_distances_by_hand():
    target = torch.tensor([[2.0, 1, 2, 1]])  # 4 × 2 = 8 cells
    same, wider, none = target, torch.tensor([[2.0, 1, 4, 1]]), torch.zeros(1, 4)
    assert distance_giou_loss(same, target).item() == pytest.approx(0)
    assert distance_giou_loss(wider, target).item() == pytest.approx(1 - 9 / 13)  # I = 8, U = H = 12
    crossed = torch.tensor([[1.0, 3, 1, 3]])  # 2 × 6 = 12: I = 4, U = 16, H = 4 × 6 = 24
    assert distance_giou_loss(crossed, target).item() == pytest.approx(1 - 5 / 17 + 8 / 24)
    # without the 1 a box without area would have the IoU 0
    assert distance_giou_loss(none, target).item() == pytest.approx(1 - 1 / 9)


def test_the_losses_are_divided_by_the_positive_locations_and_the_centerness():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 3, generator=g), torch.tensor([3, 0, 3, 2, 3])
    distances, middle = torch.rand(2, 4, generator=g) * 3, torch.randn(2, generator=g)
    target = torch.tensor([[1.0, 1, 1, 1], [1, 2, 4, 2]])  # centerness 1 and ½
    classes, box, central = fcos_loss(logits, distances, middle, labels, target)
    p = logits.sigmoid()
    wanted = torch.zeros(5, 3, dtype=torch.bool)
    wanted[1, 0] = wanted[3, 2] = True
    focal = torch.where(wanted, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(classes, focal.sum() / 2)
    each = distance_giou_loss(distances, target)
    torch.testing.assert_close(box, (each[0] + 0.5 * each[1]) / 1.5)
    want = F.binary_cross_entropy_with_logits(middle, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(central, want)


def test_without_a_positive_location_only_classes_are_trained():
    logits = torch.zeros(4, 3, requires_grad=True)
    distances, middle = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, requires_grad=True)
    classes, box, central = fcos_loss(logits, distances, middle, torch.full((4,), 3), torch.zeros(0, 4))
    assert box == 0 and central == 0
    torch.testing.assert_close(classes, torch.tensor(12 * 0.75 * 0.25 * math.log(2)))  # divided by 1
    (classes + box + central).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.any()


def test_gradients_of_the_losses():
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 2, generator=g, dtype=torch.float64, requires_grad=True)
    distances = (torch.rand(2, 4, generator=g, dtype=torch.float64) + 0.5).requires_grad_()
    middle = torch.randn(2, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 4, generator=g, dtype=torch.float64) + 0.6
    labels = torch.tensor([2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda *args: fcos_loss(*args, labels, target), (logits, distances, middle))


def test_half_precision_is_added_up_in_float32():
    logits = torch.full((3000, 40), -2.0, dtype=torch.bfloat16)  # bf16 can't count beyond 256
    empty = torch.zeros(0, 4, dtype=torch.bfloat16)
    classes, *_ = fcos_loss(logits, empty, empty[:, 0], torch.full((3000,), 40), torch.zeros(0, 4))
    wide, *_ = fcos_loss(logits.float(), empty, empty[:, 0], torch.full((3000,), 40), torch.zeros(0, 4))
    assert classes.dtype == torch.float32
    torch.testing.assert_close(classes, wide)


def test_the_head_gives_a_map_of_every_size():
    head = FCOSHead(16, 3, levels=2, depth=1, groups=4, parameters=7)
    fine, coarse = head([torch.randn(2, 16, 5, 6), torch.randn(2, 16, 3, 3)])
    assert fine.class_logits.shape == (2, 3, 5, 6) and coarse.class_logits.shape == (2, 3, 3, 3)
    assert fine.distances.shape == (2, 4, 5, 6) and (fine.distances >= 0).all()
    assert fine.centerness.shape == (2, 1, 5, 6) and fine.parameters.shape == (2, 7, 5, 6)
    assert FCOSHead(16, 3, levels=1, groups=4)([torch.randn(1, 16, 2, 2)])[0].parameters.shape == (1, 0, 2, 2)


def test_levels_share_everything_but_the_scale_of_their_distances():
    head = FCOSHead(16, 3, levels=2, depth=1, groups=4)
    torch.nn.init.normal_(head.distances.bias, 1.0)
    x = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 3.0]))
        first, second = head([x, x])
    assert torch.equal(first.class_logits, second.class_logits) and torch.equal(first.centerness, second.centerness)
    assert first.distances.any()
    torch.testing.assert_close(second.distances, 3 * first.distances)


def test_at_its_start_the_head_expects_background():
    torch.manual_seed(0)
    head = FCOSHead(16, 80, levels=1, depth=2, groups=4)
    probs = head([torch.randn(1, 16, 8, 8)])[0].class_logits.sigmoid()
    assert probs.mean().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0; background isn't counted"),
        ({"groups": 5}, "16 channels don't split into 5 groups"),
        ({"prior": 1.0}, "prior is a probability between 0 and 1, got 1.0"),
    ],
)
def test_what_the_head_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        FCOSHead(16, **{"num_classes": 2, "groups": 4, **arguments})


def test_a_pyramid_of_other_levels_is_refused():
    with pytest.raises(ValueError, match="shorter|longer"):
        FCOSHead(16, 2, levels=2, groups=4)([torch.randn(1, 16, 4, 4)])
