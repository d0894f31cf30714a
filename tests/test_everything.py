"""Everything mode: which masks it keeps, and that it keeps few in memory."""

import json

import numpy as np
import pytest
import torch
from colour_model import SIDE, ColourModel, patches
from golden import FOLDER, Golden
from torch.nn import functional as F
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
from seglib.types import Instances, PromptOutput, Prompts

ALL = {"iou_threshold": 0.0, "stability_threshold": 0.0, "box_nms": 1.0}
"""Settings that drop no mask."""


def mask(*rows):
    """A mask ``(H, W)`` as one reads it: # is inside."""
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


# Its parts, by hand and as the published code has them.


@pytest.fixture(scope="module")
def golden():
    """The stored answers of the published code, without the weights, which take long to make."""
    if not FOLDER.is_dir():
        pytest.skip("the golden fixtures (../shared/golden) are not here")
    found = object.__new__(Golden)
    found.meta = json.loads((FOLDER / "sam_vit_b.json").read_text())
    found.data = np.load(FOLDER / "sam_vit_b.npz")
    return found


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
    for key, offset, threshold in (("stability_score", 1.0, 0.0), ("stability_score_offset2", 2.0, 0.5)):
        *wanted, empty = golden[f"amg_helpers/{key}"].tolist()
        assert stability_score(logits, offset, threshold).tolist() == [*wanted, 0.0]
        assert np.isnan(empty)  # 0 / 0


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
        found = [remove_small_regions(m, 20, holes=holes) for m in golden["amg_helpers/logits"] > 0]
        assert torch.equal(torch.stack([m for m, _ in found]), golden[f"amg_helpers/{key}"])
        assert [changed for _, changed in found] == golden.meta[f"{key}_changed"]["amg_helpers"]


# The masks that are kept.


def select(*masks, iou, **settings):
    """Everything mode on one click for each mask ``(4, 4)``, ±5 inside and outside unless it holds logits."""
    logits = torch.stack([m if m.is_floating_point() else torch.where(m, 5.0, -5.0) for m in masks])
    answers = PromptOutput(logits[:, None], torch.tensor(iou)[:, None])
    points = torch.arange(2.0 * len(masks)).view(-1, 2)
    return select_masks(answers, points, (4, 4), (4, 4), 4, EverythingSettings(**settings))


LEFT = mask("##..", "##..", "##..", "##..")
RIGHT = ~LEFT
DOT = mask("....", ".#..", "....", "....")


def test_masks_come_by_falling_predicted_iou_with_their_boxes():
    found = select(LEFT, RIGHT, DOT, iou=[0.9, 1.1, 0.95])
    assert torch.equal(found.masks, torch.stack([RIGHT, DOT, LEFT]))
    assert found.scores.tolist() == pytest.approx([1.1, 0.95, 0.9]) and found.labels.tolist() == [0, 0, 0]
    assert found.boxes.tolist() == [[2, 0, 4, 4], [1, 1, 2, 2], [0, 0, 2, 4]]


def test_the_predicted_iou_of_a_mask_must_exceed_the_threshold():
    assert len(select(LEFT, RIGHT, iou=[0.5, 0.75], iou_threshold=0.5)) == 1


def test_a_mask_may_be_as_stable_as_the_threshold_asks():
    half = torch.where(LEFT, 5.0, -5.0)
    half[:, 1] = 0.5  # above 1 there are 4 of 8 pixels
    assert len(select(half, iou=[0.9], stability_threshold=0.5)) == 1
    assert len(select(half, iou=[0.9], stability_threshold=0.51)) == 0
    assert len(select(half, iou=[0.9], stability_threshold=0.51, stability_offset=0.25)) == 1


def test_thresholds_that_are_not_above_0_drop_nothing():
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert len(select(empty, LEFT, iou=[-0.5, -0.25], **ALL)) == 2
    assert len(select(empty, LEFT, iou=[-0.5, -0.25], **ALL | {"stability_threshold": 1e-9})) == 1
    assert len(select(empty, LEFT, iou=[-0.5, -0.25], **ALL | {"iou_threshold": 1e-9})) == 0


def test_duplicates_are_told_by_their_boxes():
    ring = mask("####", "#..#", "#..#", "####")
    other = mask("#...", "....", "....", "...#")
    found = select(other, ring, iou=[0.9, 0.95])
    assert torch.equal(found.masks[0], ring) and len(found) == 1


def test_masks_of_one_pixel_are_never_duplicates_as_in_the_published_code():
    assert len(select(DOT, DOT, iou=[0.9, 0.95])) == 2


def test_masks_that_small_regions_made_duplicates_are_dropped_and_the_untouched_one_stays():
    dirty = LEFT.clone()
    dirty[0, 3] = True
    assert len(select(dirty, LEFT, iou=[0.99, 0.9])) == 2
    found = select(dirty, LEFT, iou=[0.99, 0.9], min_area=2)
    assert torch.equal(found.masks, LEFT[None])
    assert found.scores.tolist() == pytest.approx([0.9]) and found.boxes.tolist() == [[0, 0, 2, 4]]


def test_the_higher_of_both_overlaps_decides_on_repaired_masks():
    wider = mask("###.", "###.", "###.", "###.")  # in indices its box has 6 square pixels, that of LEFT 3
    for box_nms, crop_nms, count in ((0.4, 0.4, 1), (0.6, 0.4, 2)):
        assert len(select(LEFT, wider, iou=[0.9, 0.95], box_nms=box_nms, crop_nms=crop_nms, min_area=1)) == count


def test_no_mask_at_all_is_an_answer():
    found = segment_everything(ColourModel(), patches(40, 50), EverythingSettings(4, iou_threshold=2.0))
    assert len(found) == 0 and found.instances.masks.shape == (0, 40, 50)
    assert found.points.shape == (0, 2) and found.crops.shape == (0, 4)
    repaired = segment_everything(ColourModel(), patches(40, 50), EverythingSettings(4, iou_threshold=2.0, min_area=9))
    assert len(repaired) == 0


# From the image to the masks.


@pytest.fixture(scope="module")
def found():
    return segment_everything(ColourModel(), patches(90, 130), EverythingSettings(8, crop_layers=1, min_area=20))


def test_boxes_and_clicks_belong_to_their_masks(found):
    instances = found.instances
    assert len(found) > 20 and torch.equal(instances.boxes, masks_to_boxes(instances.masks))
    columns, rows = found.points.round().long().T
    # the noise of its own pixel may leave a click outside its mask, though not far
    around = F.max_pool2d(instances.masks.float(), 5, stride=1, padding=2)
    assert around[range(len(found)), rows, columns].all()
    inside = (found.points >= found.crops[:, :2]) & (found.points < found.crops[:, 2:])
    assert inside.all() and (found.stability >= 0.95).all()


def test_masks_of_small_crops_come_first(found):
    settings = EverythingSettings(8, crop_layers=1)
    crops = segment_everything(ColourModel(), patches(90, 130), settings).crops
    areas = (crops[:, 2:] - crops[:, :2]).prod(1).tolist()
    assert areas == sorted(areas) and areas[0] < areas[-1] == 90 * 130


def test_masks_stay_codes_ready_for_json():
    instances = segment_everything(ColourModel(), patches(60, 80), EverythingSettings(4)).instances
    codes = list(instances.packed.rles)
    assert json.loads(json.dumps(codes)) == encode_rle(instances.masks)


def test_the_number_of_clicks_at_once_changes_nothing():
    together, apart = (
        segment_everything(ColourModel(), patches(60, 80), EverythingSettings(6, batch)) for batch in (36, 5)
    )
    assert len(together) > 5 and torch.equal(together.instances.masks, apart.instances.masks)
    assert torch.equal(together.points, apart.points) and torch.equal(together.stability, apart.stability)


def test_masks_of_an_output_are_those_of_the_image():
    model, image = ColourModel(), patches(60, 80)
    settings = EverythingSettings(6, min_area=5)
    wanted = segment_everything(model, image, settings)
    asked = Prompts(*(torch.cat([getattr(p, name) for p in model.prompts]) for name in ("points", "labels")))
    answers = model.decode(model.encode(model.images[0]), asked).several
    answers = PromptOutput(answers.logits.detach(), answers.iou)
    instances = select_masks(answers, point_grid(6), (96, 128), (60, 80), SIDE, settings)
    assert torch.equal(instances.masks, wanted.instances.masks) and torch.equal(instances.boxes, wanted.instances.boxes)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"an image is \(3, H, W\), or grey \(1, H, W\), got shape \(40, 50\)"):
        segment_everything(ColourModel(), torch.zeros(40, 50))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 400)])
def test_images_smaller_than_the_grid_work(size):
    found = segment_everything(ColourModel(), torch.rand(3, *size), EverythingSettings(8, **ALL))
    assert len(found) == 3 * 64 and found.instances.size == size


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operator gives."""

    elements = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_few_masks_exist_at_the_size_of_the_image_at_once(monkeypatch):
    chunk = 6 * 300 * 400
    monkeypatch.setattr(prompt, "CHUNK", chunk)
    with Largest() as largest:
        found = segment_everything(ColourModel(), patches(300, 400), EverythingSettings(6, **ALL))
    assert len(found) == 108  # 13 million pixels
    assert largest.elements == chunk


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": 0}, "points_per_side must be at least 1, got 0"),
        ({"points_per_batch": 0}, "points_per_batch must be at least 1"),
        ({"stability_offset": -1.0}, "stability_offset must be at least 0"),
        ({"crop_layers": -1}, "crop_layers must be at least 0"),
        ({"crop_points_downscale": 0}, "crop_points_downscale must be at least 1"),
        ({"min_area": -1}, "min_area must be at least 0"),
        ({"box_nms": 1.5}, r"box_nms must lie in \[0, 1\], got 1.5"),
        ({"crop_nms": -0.5}, "crop_nms must lie in"),
        ({"crop_overlap": float("nan")}, "crop_overlap must lie in"),
        (
            {"points_per_side": 4, "crop_layers": 3, "crop_points_downscale": 2},
            "4 points per side leave none in crop layer 3 when each layer has 2 times fewer",
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EverythingSettings(**settings)


# Masks as codes.


def test_codes_are_picked_like_masks():
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = RLEMasks(tuple(encode_rle(masks)), (5, 6))
    for index in (slice(1, 3), torch.tensor([3, 0, 0]), torch.tensor([True, False, False, True]), slice(0, 0)):
        assert torch.equal(packed[index].dense(), masks[index])
    assert len(packed[1:]) == 3


def test_instances_of_codes_are_moved_and_unpacked():
    masks = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = RLEMasks(tuple(encode_rle(masks)), (5, 6))
    instances = Instances(packed, torch.zeros(2, dtype=torch.int64), masks_to_boxes(masks))
    moved = instances.to("meta")
    assert moved.packed.device.type == "meta" and moved.packed.rles == packed.rles and moved.size == (5, 6)
    assert torch.equal(instances[1].masks[0], masks[1]) and torch.equal(instances.masks, masks)
