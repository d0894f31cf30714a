"""Everything mode: which masks it keeps, and that it keeps few in memory."""

import pytest
import torch
from colour_model import SIDE, ColourModel, patches
from golden import Golden
from torch.utils._python_dispatch import TorchDispatchMode

from seglib.ops.masks import masks_to_boxes
from seglib.ops.rle import encode_rle
from seglib.ops.rle_masks import RLEMasks
from seglib.postprocess import prompt
from seglib.postprocess.everything import (
    EverythingSettings,
    crop_boxes,
    near_crop_edge,
    point_grid,
    remove_small_regions,
    segment_everything,
    select_masks,
    stability_score,
)
from seglib.types import Instances, PromptOutput

ALL = {"iou_threshold": 0.0, "stability_threshold": 0.0, "box_nms": 1.0}
"""Settings that drop no mask."""


def mask(*rows):
    """A mask ``(H, W)`` as one reads it: # is inside."""
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


# Its parts, by hand and as the published code has them.


@pytest.fixture(scope="module")
def golden():
    return Golden("sam_vit_b", weights=False)


def test_points_lie_in_the_centres_of_cells_row_by_row():
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_the_grid_is_the_published_one(golden):
    golden.check("amg_helpers/point_grid_5", point_grid(5).float(), 1e-6)


def test_layers_have_fewer_points(golden):
    settings = EverythingSettings(crop_layers=2, crop_points_downscale=2)
    (wanted,) = golden.meta["layer_grid_sizes"]["amg_helpers"].values()
    assert [len(point_grid(settings.points_in_layer(layer))) for layer in range(3)] == wanted
    assert EverythingSettings(points_per_side=7, crop_points_downscale=2).points_in_layer(1) == 3


def test_two_by_two_crops_overlap_by_a_share_of_the_shorter_side():
    boxes, layers = crop_boxes((100, 200), 1, 0.1)  # overlap ⌊0.1 · 100 · 2 / 2⌋ = 10: sides 55 and 105
    assert boxes.tolist() == [
        [0, 0, 200, 100],
        [0, 0, 105, 55],
        [0, 45, 105, 100],
        [95, 0, 200, 55],
        [95, 45, 200, 100],
    ]
    assert layers.tolist() == [0, 1, 1, 1, 1]


def test_crops_are_the_published_ones(golden):
    wanted = list(golden.meta["crop_boxes"]["amg_helpers"].values())
    found = [crop_boxes((480, 640), 1, 512 / 1500), crop_boxes((301, 201), 2, 0.25)]
    assert [boxes.tolist() for boxes, _ in found] == wanted
    assert found[1][1].bincount().tolist() == [1, 4, 16]


def test_a_tiny_image_has_no_room_for_crops():
    with pytest.raises(ValueError, match="3 x 3 pixels is too small for 2 layers of crops; take fewer"):
        crop_boxes((3, 3), 2, 0.1)


def test_stability_is_the_share_of_the_lower_mask_that_the_higher_one_has():
    logits = torch.tensor([[[3.0, 1.5, 1.0, 0.5], [-0.5, -1.0, -1.5, -3.0]]])
    # above 1: 2 pixels; above −1: 5; at the thresholds themselves a pixel is outside
    assert stability_score(logits).tolist() == [pytest.approx(2 / 5)]
    assert stability_score(logits, 2.0).tolist() == [pytest.approx(1 / 7)]
    assert stability_score(logits, 0.5, threshold=1.0).tolist() == [pytest.approx(1 / 3)]


def test_stability_of_an_empty_mask_is_0_and_of_a_full_one_1():
    assert stability_score(torch.stack([torch.full((2, 2), -5.0), torch.full((2, 2), 5.0)])).tolist() == [0, 1]


def test_pixels_of_very_wide_masks_are_counted():
    assert stability_score(torch.full((1, 1, 40_000), 5.0)).tolist() == [1]
    assert stability_score(torch.arange(40_000.0)[None, None] - 10_000).tolist() == [pytest.approx(29_998 / 30_000)]


def test_stability_is_the_published_one(golden):
    logits = golden["amg_helpers/logits"]
    for key, offset in (("stability_score", 1.0), ("stability_score_offset2", 2.0)):
        golden.check(f"amg_helpers/{key}", stability_score(logits, offset)[:4], 1e-6, first=4)  # the last is 0 / 0


def test_a_mask_that_ends_at_an_edge_of_its_crop_is_cut_off_unless_the_image_ends_there():
    crop = torch.tensor([100, 0, 200, 100])  # of an image of 100 x 300 pixels
    boxes = torch.tensor([[121, 0, 179, 100], [120, 30, 150, 60], [130, 30, 180, 60], [130, 30, 179, 60]])
    assert near_crop_edge(boxes, crop, (100, 300)).tolist() == [False, True, True, False]


def test_edges_of_crops_are_judged_as_published(golden):
    boxes, wanted = golden["amg_helpers/near_edge.boxes"], golden.meta["near_edge"]["amg_helpers"]
    for crop, expected in ((wanted["crop_box"], "near_crop_edge"), ([0, 0, 240, 150], "crop [0, 0, 240, 150]")):
        shifted = boxes + torch.tensor([*crop[:2], *crop[:2]])
        assert near_crop_edge(shifted, torch.tensor(crop), (480, 640)).tolist() == wanted[expected]


HOLES = mask(
    "####....",
    "#..#..##",
    "####..##",
    "......#.",
)


def test_small_holes_are_filled():
    filled, changed = remove_small_regions(HOLES, 3, holes=True)
    # the hole has 2 pixels, and so has the corner of the background at the bottom right, which touches nothing else
    assert changed
    assert torch.equal(filled, HOLES | mask("........", ".##.....", "........", ".......#"))
    assert remove_small_regions(HOLES, 1, holes=True)[1] is False


def test_regions_that_touch_at_a_corner_are_one():
    diagonal = mask("#..", ".#.", "..#")
    assert remove_small_regions(diagonal, 3, holes=False)[1] is False
    assert remove_small_regions(~diagonal, 3, holes=True)[1] is False


def test_small_islands_are_removed():
    without, changed = remove_small_regions(HOLES, 6, holes=False)
    assert changed and torch.equal(without, HOLES & (torch.arange(8) < 4))
    assert remove_small_regions(HOLES, 5, holes=False)[1] is False


def test_of_small_islands_alone_the_largest_stays():
    islands = mask("#..##", "...##")
    assert torch.equal(remove_small_regions(islands, 9, holes=False)[0], mask("...##", "...##"))
    lone, changed = remove_small_regions(mask("#."), 9, holes=False)
    assert changed and torch.equal(lone, mask("#."))  # nothing changes, but the island is small


def test_an_empty_mask_has_no_islands_and_a_full_one_no_holes():
    empty = torch.zeros(2, 2, dtype=torch.bool)
    assert remove_small_regions(empty, 9, holes=False)[1] is False
    assert remove_small_regions(~empty, 9, holes=True)[1] is False


def test_small_regions_are_removed_as_published(golden):
    for key, holes in (("remove_small_holes", True), ("remove_small_islands", False)):
        found = [remove_small_regions(m, 6, holes=holes) for m in golden["amg_helpers/logits"] > 0]
        assert torch.equal(torch.stack([m for m, _ in found]), golden[f"amg_helpers/{key}"])
        assert [changed for _, changed in found] == golden.meta[f"{key}_changed"]["amg_helpers"]
