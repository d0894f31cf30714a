"""SOLOv2: which cells answer for which object, what is kept of what they draw, what its options do, what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.layers.solo_heads import MaskFeatureHead, SOLOHead, with_coordinates
from seglib.losses.assign_grid import assign_grid
from seglib.losses.solo import category_loss, mask_loss
from seglib.models import solov2 as module
from seglib.models.solov2 import (
    SOLODetections,
    SOLOTraining,
    SOLOv2Output,
    draw,
    point_nms,
    resized_levels,
    solov2_fpn,
    solov2_tiny,
)
from seglib.ops.masks import centres_of_mass, mask_iou, masks_to_boxes, resize_masks
from seglib.ops.nms import matrix_nms
from seglib.types import Instances, Targets


def some_images(n=2, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def rectangles(boxes, size=(64, 64)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def objects(boxes, labels=None, size=(64, 64), **more):
    """Rectangles as instances."""
    masks = rectangles(boxes, size)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Instances(masks, labels, masks_to_boxes(masks), **more)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return solov2_tiny(3).eval()


# --- the heads ---


def test_coordinates_run_from_minus_one_to_one_x_before_y():
    x = with_coordinates(torch.zeros(2, 1, 3, 5))
    assert x.shape == (2, 3, 3, 5)
    assert x[1, 1].tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3
    assert x[0, 2].tolist() == [[-1] * 5, [0] * 5, [1] * 5]


def test_the_finest_level_is_halved_and_the_coarsest_meets_the_one_before():
    pyramid = [torch.rand(1, 2, n, 2 * n) for n in (16, 8, 4, 2, 1)]
    levels = resized_levels(pyramid)
    assert [tuple(x.shape[2:]) for x in levels] == [(8, 16), (8, 16), (4, 8), (2, 4), (2, 4)]
    torch.testing.assert_close(levels[0], torch.nn.functional.avg_pool2d(pyramid[0], 2))  # bilinear at half the size
    assert levels[1] is pyramid[1] and levels[3] is pyramid[3]


def head(**keywords):
    torch.manual_seed(0)
    return SOLOHead(4, 3, grids=(6, 3), kernel_channels=5, hidden=8, depth=1, groups=2, **keywords)


def test_kernels_know_where_they_are_and_classes_do_not():
    same = [torch.ones(1, 4, 12, 12), torch.ones(1, 4, 6, 6)]  # every place looks alike
    for coordinates in (True, False):
        logits, kernels = head(coordinates=coordinates)(same)
        assert [tuple(x.shape) for x in logits] == [(1, 3, 6, 6), (1, 3, 3, 3)]
        assert [tuple(x.shape) for x in kernels] == [(1, 5, 6, 6), (1, 5, 3, 3)]
        inner = kernels[0][..., 2:-2, 2:-2]  # away from the zero padding
        assert (inner.std((2, 3)) > 1e-4).all() == coordinates
        assert logits[0][..., 2:-2, 2:-2].std((2, 3)).max() < 1e-6


def test_only_the_coarsest_level_of_the_mask_features_gets_coordinates():
    widths = [
        branch[0][0].in_channels for branch in MaskFeatureHead(4, levels=3, features=6, hidden=8, groups=2).branches
    ]
    assert widths == [4, 4, 6]
    plain = MaskFeatureHead(4, levels=3, features=6, hidden=8, groups=2, coordinates=False)
    assert [branch[0][0].in_channels for branch in plain.branches] == [4, 4, 4]
    assert [len(branch) for branch in plain.branches] == [1, 1, 2]  # one convolution for each doubling
    pyramid = [torch.rand(2, 4, n, n) for n in (8, 4, 2)]
    assert plain(pyramid).shape == (2, 6, 8, 8)


def test_every_class_starts_rare():
    found = torch.cat([x.flatten() for x in head()([torch.randn(2, 4, 12, 12), torch.randn(2, 4, 6, 6)])[0]]).sigmoid()
    assert 0.005 < found.mean() < 0.02


@pytest.mark.parametrize("coordinates", [(), ("kernel",), ("feature",), ("kernel", "feature")])
def test_coordinates_can_be_left_out_of_either_place(coordinates):
    model = solov2_tiny(3, coordinates=coordinates)
    assert model.head.coordinates == ("kernel" in coordinates)
    assert model.mask_features.coordinates == ("feature" in coordinates)
    assert len(model.eval().predict(some_images(1))) == 1


# --- which cells answer for an object ---

WIDE = ((0.0, math.inf),)


def assign(boxes, *, size=(64, 64), **keywords):
    masks = rectangles(boxes, size)
    settings = {"canvas": size, "grids": (8,), "ranges": WIDE} | keywords
    return assign_grid(masks, masks_to_boxes(masks), **settings)


def places(cells, grid):
    return [divmod(cell, grid) for cell in cells.tolist()]


def test_a_small_object_takes_the_cell_of_its_centre():
    found = assign([(18, 34, 22, 38)])  # of pixels 18 to 21: their mean is 19.5; cells have 8 pixels
    assert places(found.cells, 8) == [(4, 2)]
    assert found.objects.tolist() == [0]
    assert found.matches.sum() == -63 and found.matches[4 * 8 + 2] == 0  # all other 63 have none


def test_the_centre_region_is_a_fifth_of_the_box():
    # columns 8 to 47: the centre is 27.5, the region 23.5 to 31.5; rows 4 to 35: 19.5, and 16.3 to 22.7
    assert places(assign([(8, 4, 48, 36)]).cells, 8) == [(2, 2), (2, 3)]
    # with σ = 0.5: columns 17.5 to 37.5, rows 11.5 to 27.5
    assert places(assign([(8, 4, 48, 36)], sigma=0.5).cells, 8) == [(r, c) for r in (1, 2, 3) for c in (2, 3, 4)]


def test_at_most_three_by_three_cells():
    found = assign([(0, 0, 64, 64)], grids=(32,))  # the region is 25.1 to 37.9: 7 cells of 2 pixels along each side
    assert places(found.cells, 32) == [(r, c) for r in (14, 15, 16) for c in (14, 15, 16)]  # 31.5 is in cell 15


def test_cells_do_not_leave_the_grid():
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 63, 0] = masks[0, 0, 63] = True  # a box of 64 with its mass in the corner: 87/18, and the region from −1.6
    masks[0, :4, :4] = True
    found = assign_grid(masks, masks_to_boxes(masks), canvas=(64, 64), grids=(16,), ranges=WIDE)
    assert places(found.cells, 16) == [(r, c) for r in (0, 1, 2) for c in (0, 1, 2)]
    at_edge = assign([(0, 0, 2, 30), (62, 34, 64, 64)], grids=(16,))
    rows, columns = zip(*places(at_edge.cells, 16), strict=True)
    assert set(columns) == {0, 15} and min(rows) >= 0 and max(rows) <= 15


def test_the_centre_is_that_of_the_mass_not_of_the_box():
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 40:48, :8] = True  # 64 pixels whose mean is column 3.5, row 43.5
    masks[0, 43, 8:60] = True  # 52 pixels of mean 33.5, 43
    boxes = masks_to_boxes(masks)
    centre, area = centres_of_mass(masks)
    assert area.tolist() == [116]
    assert centre[0].tolist() == pytest.approx([(64 * 3.5 + 52 * 33.5) / 116, (64 * 43.5 + 52 * 43) / 116])
    found = assign_grid(masks, boxes, canvas=(64, 64), grids=(8,), ranges=WIDE)  # columns 10.9 to 22.9
    assert places(found.cells, 8) == [(5, 1), (5, 2)]


def test_ranges_that_overlap_give_an_object_to_two_levels():
    boxes = [(0, 0, 10, 10), (20, 20, 36, 36), (20, 20, 60, 60)]  # of scale 10, 16 and 40
    found = assign(boxes, grids=(8, 4), ranges=((1.0, 16.0), (16.0, 64.0)))
    fine = found.cells < 64
    assert set(found.objects[fine].tolist()) == {0, 1}
    assert set(found.objects[~fine].tolist()) == {1, 2}
    assert (found.cells.diff() >= 0).logical_or(found.objects.diff() != 0).all()


def test_an_object_outside_all_ranges_is_trained_on_no_level():
    boxes = [(0, 0, 4, 4), (0, 0, 64, 64), (8, 8, 24, 24)]
    found = assign(boxes, grids=(8,), ranges=((5.0, 50.0),))
    assert set(found.objects.tolist()) == {2}
    assert set(assign(boxes, grids=(8,), ranges=((4.0, 64.0),)).objects.tolist()) == {0, 1, 2}  # both ends count


def test_of_two_objects_in_a_cell_the_last_gives_its_class_and_both_their_masks():
    found = assign([(16, 16, 24, 24), (17, 17, 23, 23)])
    assert found.cells.tolist() == [18, 18] and found.objects.tolist() == [0, 1]
    assert found.matches[18] == 1


def test_grids_cover_the_canvas_not_the_masks():
    found = assign([(18, 34, 22, 38)], canvas=(128, 96))  # cells of 16 × 12 pixels
    assert places(found.cells, 8) == [(2, 1)]


def test_objects_without_pixels_and_no_objects_take_no_cell():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    boxes = torch.tensor([[4.0, 4, 40, 40], [10, 10, 12, 12]])
    for some in (2, 0):
        found = assign_grid(masks[:some], boxes[:some], canvas=(64, 64), grids=(8, 4), ranges=WIDE * 2)
        assert len(found.cells) == len(found.objects) == 0 and found.matches.tolist() == [-1] * 80


def test_a_grid_without_a_range_is_refused():
    with pytest.raises(ValueError, match="got 2 grids and 1 ranges"):
        assign([(0, 0, 4, 4)], grids=(8, 4))


def test_the_assignment_equals_a_loop_over_objects_and_cells():
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(12, 48, 72, generator=g) < 0.02
    masks |= rectangles([(3 * i, 2 * i, 3 * i + 4 + 2 * i, 2 * i + 20) for i in range(12)], (48, 72))
    boxes = masks_to_boxes(masks)
    boxes[::2, 2:] -= 20.3  # boxes needn't fit
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    grids, ranges = (10, 7, 3), ((0.0, 20.0), (15.0, 60.0), (40.0, 99.0))
    cells, owners, start = [], [], 0
    for grid, (low, high) in zip(grids, ranges, strict=True):
        for n, (mask, box) in enumerate(zip(masks, boxes.double(), strict=True)):
            width, height = (box[2:] - box[:2]).tolist()
            if not low <= math.sqrt(width * height) <= high:
                continue
            y, x = (v.double().mean().item() for v in mask.nonzero().unbind(1))
            for row in range(grid):
                for column in range(grid):
                    near = abs(row - math.floor(y / 48 * grid)) <= 1 and abs(column - math.floor(x / 72 * grid)) <= 1
                    in_rows = math.floor((y - 0.1 * height) / 48 * grid) <= row <= (y + 0.1 * height) / 48 * grid
                    in_columns = math.floor((x - 0.1 * width) / 72 * grid) <= column <= (x + 0.1 * width) / 72 * grid
                    if near and in_rows and in_columns:
                        cells.append(start + row * grid + column)
                        owners.append(n)
        start += grid * grid
    found = assign_grid(masks, boxes, canvas=(48, 72), grids=grids, ranges=ranges)
    assert found.cells.tolist() == cells and found.objects.tolist() == owners and len(cells) > 30


# --- what a cell should draw ---


# --- the losses ---


def test_dice_loss_of_a_mask_worked_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])  # p = ½ four times
    target = torch.tensor([[[True, True], [False, False]]])
    want = 1 - 2 * 1 / ((4 * 0.25 + 0.001) + (2 + 0.001))
    assert mask_loss(logits, target).item() == pytest.approx(want, rel=1e-6)


def test_focal_loss_is_divided_by_the_positive_cells_plus_one():
    logits = torch.zeros(1, 3, 2)
    labels = torch.tensor([[-1, 1, -1]])
    # each of 6 probabilities is ½: one positive of weight ¼, five negatives of ¾, all faded by ¼
    want = (0.25 + 5 * 0.75) * 0.25 * math.log(2)
    for positives in (0, 1, 4):
        found = category_loss(logits, labels, positives).item()
        assert found == pytest.approx(want / (positives + 1), rel=1e-6)


def test_the_dice_loss_counts_three_times(model):
    targets = Targets(instances=[objects([(8, 8, 40, 48)], [1])])
    with torch.no_grad():
        out = model(some_images(1))
        cells = model.assign(out, targets.instances[0]).cells
        logits = draw(out.mask_features[0], out.kernels[0, cells], model.mask_factor)
        assert logits.shape[1:] == (64, 64)  # the features have stride 2, the masks 1
        small = resize_masks(targets.instances[0].masks, logits.shape[1:], canvas=(64, 64), half_inside=True)
        want = mask_loss(logits, small.expand(len(cells), -1, -1))
        torch.testing.assert_close(model.loss(out, targets)["mask"], 3 * want)


def test_a_cell_is_trained_on_the_class_of_its_object(model):
    truth = objects([(8, 8, 40, 48), (50, 50, 60, 60)], [2, 0])
    with torch.no_grad():
        out = model(some_images(1))
    out.category_logits.requires_grad_()
    model.loss(out, Targets(instances=[truth]))["category"].backward()
    found = model.assign(out, truth)
    pulled_up = out.category_logits.grad[0] < 0  # (S, K)
    want = torch.zeros_like(pulled_up)
    want[found.cells, truth.labels[found.matches[found.cells]]] = True
    assert torch.equal(pulled_up, want) and want.sum() >= 2


@pytest.mark.parametrize("seed", range(3))
def test_no_more_masks_than_max_masks_are_drawn(model, monkeypatch, seed):
    torch.manual_seed(seed)
    drawn = []
    monkeypatch.setattr(
        module, "draw", lambda f, kernels, factor: drawn.append(len(kernels)) or draw(f, kernels, factor)
    )
    targets = Targets(instances=[objects([(8, 8, 40, 48), (30, 30, 62, 62)]), objects([(0, 0, 64, 64)])])
    out = model(some_images())
    model.loss(out, targets)
    every = sum(drawn)
    assert every == sum(len(model.assign(out, o).cells) for o in targets.instances)
    limited = replace(model.training_settings, max_masks=5)
    monkeypatch.setattr(model, "training_settings", limited)
    drawn.clear()
    losses = model.loss(out, targets)
    assert sum(drawn) == 5 < every and torch.isfinite(losses["mask"])


def test_crowds_are_left_out(model):
    boxes = [(4, 4, 30, 30), (0, 0, 60, 60)]
    out = model(some_images(1))
    crowd = torch.tensor([False, True])
    some = model.loss(out, Targets(instances=[objects(boxes, [2, 1], iscrowd=crowd)]))
    without = model.loss(out, Targets(instances=[objects(boxes[:1], [2])]))
    assert all(torch.equal(some[name], without[name]) for name in some)
    only = model.loss(out, Targets(instances=[objects(boxes[1:], iscrowd=crowd[1:])]))
    assert only["mask"] == 0 and only["category"] > 0


def test_images_without_objects_train_the_classes_alone():
    torch.manual_seed(0)
    model = solov2_tiny(3)
    none = objects([])
    for instances in ([none, none], [none, objects([(4, 4, 30, 30)])]):
        model.zero_grad()
        targets = Targets(instances=instances)
        losses = model.loss(model(some_images()), targets)
        sum(losses.values()).backward()
        assert all(torch.isfinite(v) for v in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert losses["category"] > 0 and (losses["mask"] > 0) == (len(instances[1]) > 0)
        assert model.head.category.weight.grad.any()


def test_an_object_too_small_for_the_features_trains_its_class_and_stays_finite(model):
    truth = objects([(9, 9, 10, 10)])  # one pixel
    out = model(some_images(1))
    out = replace(out, mask_features=out.mask_features[..., ::4, ::4])  # no cell looks at that pixel
    assert not resize_masks(truth.masks, out.mask_features.shape[2:], canvas=(64, 64), half_inside=True).any()
    assert len(model.assign(out, truth).cells) > 0
    losses = model.loss(out, Targets(instances=[truth]))
    assert losses["mask"].item() == pytest.approx(3)  # nothing to overlap with


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_finite_losses(model, dtype):
    with torch.no_grad():
        out = model(some_images(1))
    half = replace(out, category_logits=20 * out.category_logits.to(dtype), kernels=40 * out.kernels.to(dtype))
    losses = model.loss(half, Targets(instances=[objects([(8, 8, 40, 48)], [1])]))
    assert all(torch.isfinite(v) for v in losses.values())
    for found in model.postprocess(half, [(64, 64)]):
        assert found.scores.isfinite().all()


def test_sizes_that_the_stride_does_not_divide_train(model):
    images = torch.rand(1, 3, 45, 70)
    truth = objects([(50, 20, 69, 44)], size=(45, 70))
    out = model(images)
    assert out.canvas.tolist() == [64, 96] and out.sizes.tolist() == [[45, 70]]
    losses = model.loss(out, Targets(instances=[truth]))
    assert all(torch.isfinite(v) for v in losses.values()) and losses["mask"] > 0
    # a cell of grid 16 has 6 × 4 pixels of the canvas: the centre of mass is column 59, row 31.5
    first = model.head.grids[0]
    cells = model.assign(out, truth).cells
    row, column = int(31.5 / 64 * first), int(59 / 96 * first)
    assert row * first + column in cells.tolist() or (cells >= first * first).all()


# --- what is kept of what the cells draw ---


def test_point_nms_keeps_what_stands_left_of_a_peak():
    scores = torch.tensor([[[0.8, 0.9], [0.0, 0.0]]])
    assert point_nms(scores)[0].tolist() == [[pytest.approx(0.8), pytest.approx(0.9)], [0, 0]]
    assert point_nms(scores.flip(2))[0, 0].tolist() == [pytest.approx(0.9), 0]  # 0.8 right of 0.9 doesn't
    assert point_nms(scores.mT)[0].tolist() == [[pytest.approx(0.8), 0], [pytest.approx(0.9), 0]]  # above: survives
    diagonal = torch.tensor([[[0.9, 0.0], [0.0, 0.8]]])
    assert point_nms(diagonal)[0, 1, 1] == 0
    assert point_nms(diagonal.flip(2))[0, 1, 0] > 0.7  # below left isn't compared with above right
    classes = torch.tensor([[[0.9, 0.0]], [[0.0, 0.8]]])
    assert torch.equal(point_nms(classes), classes)


def hand_made(masks, scores, labels, *, sharp=20.0):
    """An output of one level whose cells draw these masks ``(N, h, w)``: feature n is mask n, and kernel n picks it."""
    n, height, width = masks.shape
    features = sharp * (2 * masks.float() - 1)
    logits = torch.full((1, 16, 3), -20.0)
    logits[0, torch.arange(n), labels] = torch.tensor(scores).logit()
    kernels = torch.zeros(1, 16, n)
    kernels[0, torch.arange(n), torch.arange(n)] = 1.0
    sizes = torch.tensor([[2 * height, 2 * width]])
    return SOLOv2Output(logits, kernels, features[None], sizes, sizes[0])


def one_level(**settings):
    """A model whose only level has 4×4 cells; point NMS would drop neighbours, so cells are given apart."""
    model = solov2_tiny(3).eval()
    model.head.grids, model.mask_factor = (4,), 1
    model.training_settings = SOLOTraining(ranges=WIDE)
    model.detections = SOLODetections(min_areas=(1,), **settings)
    return model


def detect(masks, scores, labels, size=None, **settings):
    out = hand_made(masks, scores, labels)
    # spread the cells: 0, 2, 8, 10 don't touch
    place = torch.tensor([0, 2, 8, 10])[: len(scores)]
    logits, kernels = torch.full_like(out.category_logits, -20), torch.zeros_like(out.kernels)
    logits[0, place], kernels[0, place] = out.category_logits[0, : len(scores)], out.kernels[0, : len(scores)]
    out = replace(out, category_logits=logits, kernels=kernels)
    model = one_level(**settings)
    return model.postprocess(out, [tuple(out.sizes[0].tolist())], size and [size])[0]


def test_logits_may_be_upsampled_before_they_become_masks():
    masks = rectangles([(1, 1, 3, 3)], (4, 4))
    model = one_level()
    out = hand_made(masks, [0.8], [0], sharp=1.0)
    sizes = []
    for factor in (1, 2):
        model.mask_factor = factor
        found = model.postprocess(out, [(8, 8)])[0]
        logits = F.interpolate(out.mask_features, scale_factor=factor, mode="bilinear")[0, 0]
        inside = logits.sigmoid()[logits > 0]
        assert found.scores.item() == pytest.approx(0.8 * inside.mean().item(), rel=1e-5)
        sizes.append(int(found.masks.sum()))
    assert sizes[0] == sizes[1] == 16  # where the logit is above 0 doesn't change, how sure they are does


def test_a_detection_is_its_cells_mask_class_and_box():
    masks = rectangles([(2, 4, 10, 12), (12, 1, 16, 7)], (16, 16))
    found = detect(masks, [0.6, 0.9], [2, 1])
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.size == (32, 32)
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))
    assert found.boxes.tolist() == [[24, 2, 32, 14], [4, 8, 20, 24]]


def test_the_score_is_the_class_times_the_mean_probability_inside():
    masks = rectangles([(0, 0, 4, 4)], (8, 8))
    out = hand_made(masks, [0.8], [0])
    out.mask_features[0, 0, :2, :4] = math.log(3)  # probability ¾ in half of the mask, 1 in the other
    found = one_level().postprocess(out, [(16, 16)])[0]
    assert found.scores.tolist() == pytest.approx([0.8 * 0.875])


def test_a_mask_must_be_larger_than_the_smallest_area():
    masks = rectangles([(0, 0, 2, 2)], (8, 8))
    model = one_level()
    for limit, count in ((4, 0), (3, 1)):
        model.detections = SOLODetections(min_areas=(limit,))
        assert len(model.postprocess(hand_made(masks, [0.8], [0]), [(16, 16)])[0]) == count


def test_a_score_must_exceed_the_threshold():
    masks = rectangles([(0, 0, 4, 4), (4, 4, 8, 8)], (8, 8))
    assert detect(masks, [0.3, 0.15], [0, 0], threshold=0.2).scores.tolist() == pytest.approx([0.3])
    assert len(detect(masks, [0.3, 0.15], [0, 0], threshold=0.2, min_score=0.35)) == 0
    assert len(detect(masks, [0.3, 0.15], [0, 0], threshold=0.0, max_detections=1)) == 1
    assert len(detect(masks, [0.3, 0.15], [0, 0], threshold=0.0, pre_nms_top_k=1)) == 1


def test_matrix_nms_of_a_chain_worked_by_hand():
    """Of three masks of 8 pixels the neighbours share 4, so their IoU is 1/3; the first and the last share none."""
    masks = rectangles([(0, 0, 8, 1), (4, 0, 12, 1), (8, 0, 16, 1)], (1, 16))
    iou = mask_iou(masks, masks)
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    linear = matrix_nms(iou, labels, scores, kernel="linear")
    # B is lowered by A: 1 − ⅓. C by B: (1 − ⅓) / (1 − ⅓), as B was covered just as much: 1
    assert linear.tolist() == pytest.approx([0.9, 0.8 * 2 / 3, 0.7])
    gaussian = matrix_nms(iou, labels, scores, kernel="gaussian", sigma=2.0)
    assert gaussian.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 / 9), 0.7])
    order = torch.tensor([2, 0, 1])
    shuffled = matrix_nms(iou[order][:, order], labels, scores[order], kernel="linear")
    torch.testing.assert_close(shuffled, linear[order])


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_stays_finite_on_identical_and_on_empty_masks(kernel):
    labels = torch.zeros(3, dtype=torch.int64)
    scores = torch.tensor([0.9, 0.8, 0.7])
    same = matrix_nms(torch.ones(3, 3), labels, scores, kernel=kernel)
    assert same.isfinite().all() and same[0] == 0.9 and (same[1:] < 0.2).all()
    empty = torch.zeros(2, 4, 4, dtype=torch.bool)
    kept = matrix_nms(mask_iou(empty, empty), labels[:2], scores[:2], kernel=kernel)
    assert torch.equal(kept, scores[:2])


def test_nms_lowers_or_drops_a_second_mask_of_one_object():
    masks = rectangles([(0, 0, 8, 8), (0, 0, 8, 7), (10, 10, 16, 16)], (16, 16))
    labels = [1, 1, 1]
    lowered = detect(masks, [0.9, 0.8, 0.7], labels)
    assert lowered.scores.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-2 * (7 / 8) ** 2)])  # sorted anew
    assert detect(masks, [0.9, 0.8, 0.7], labels, kernel="linear").scores.tolist() == pytest.approx([0.9, 0.7, 0.1])
    assert detect(masks, [0.9, 0.8, 0.7], labels, sigma=8.0).scores.tolist() == pytest.approx([0.9, 0.7])
    assert detect(masks, [0.9, 0.8, 0.7], labels, nms="mask").scores.tolist() == pytest.approx([0.9, 0.7])
    other = detect(masks, [0.9, 0.8, 0.7], [1, 0, 1], nms="mask")
    assert other.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])  # another class


def test_a_mask_that_vanishes_at_the_output_size_is_no_detection():
    masks = rectangles([(1, 1, 3, 3), (8, 8, 16, 16)], (16, 16))
    assert len(detect(masks, [0.9, 0.8], [0, 1])) == 2
    found = detect(masks, [0.9, 0.8], [0, 1], size=(2, 2))
    assert found.labels.tolist() == [1] and found.boxes.tolist() == [[1, 1, 2, 2]]


def test_what_is_drawn_into_the_padding_is_no_detection():
    masks = rectangles([(0, 0, 4, 4), (12, 0, 16, 4)], (16, 16))
    model, out = one_level(), hand_made(masks, [0.9, 0.8], [0, 1])
    found = model.postprocess(out, [(32, 20)])[0]  # of a canvas of 32 × 32
    assert found.size == (32, 20) and found.labels.tolist() == [0]


def test_nothing_above_the_threshold_is_no_detection(model):
    found = model.postprocess(model(some_images()), [(64, 64)] * 2, [(64, 64), (30, 50)])
    assert [len(f) for f in found] == [0, 0] and [f.size for f in found] == [(64, 64), (30, 50)]
    assert found[0].masks.shape == (0, 64, 64)


def test_many_masks_in_parts_are_the_same(monkeypatch):
    torch.manual_seed(0)
    model = solov2_tiny(3).eval()
    torch.nn.init.zeros_(model.head.category.bias)
    out = model(some_images(1))
    want = model.postprocess(out, [(64, 64)])[0]
    monkeypatch.setattr(module, "CHUNK", 5 * out.mask_features[0, 0].numel())
    found = model.postprocess(out, [(64, 64)])[0]
    assert len(found) == len(want) > 10
    torch.testing.assert_close(found.scores, want.scores)
    assert torch.equal(found.labels, want.labels) and torch.equal(found.boxes, want.boxes)
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))


# --- what is refused ---


def test_unknown_options_are_refused(model):
    with pytest.raises(ValueError, match="coordinates are some of .* got 'kernel'"):
        solov2_tiny(3, coordinates="kernel")
    with pytest.raises(ValueError, match=r"coordinates are some of .* got \('mask',\)"), torch.device("meta"):
        solov2_fpn("resnet18", 3, coordinates=("mask",))
    with pytest.raises(ValueError, match='nms is "matrix" or "mask", got \'soft\''):
        SOLODetections(nms="soft")
    with pytest.raises(ValueError, match="kernel 'cubic' is unknown; choose one of gaussian, linear"):
        SOLODetections(kernel="cubic")
    with pytest.raises(ValueError, match="max_masks must be at least 1, got 0"):
        SOLOTraining(max_masks=0)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        solov2_tiny(0)
    parts = {"fpn": model.fpn, "head": model.head, "mask_features": model.mask_features}
    with pytest.raises(ValueError, match="a range of scales and a smallest area, got 5, 5 and 2"):
        module.SOLOv2(
            model.encoder, **parts, training_settings=SOLOTraining(), detections=SOLODetections(min_areas=(1, 2))
        )
    with pytest.raises(ValueError, match="mask_factor must be at least 1, got 0"):
        module.SOLOv2(
            model.encoder, **parts, training_settings=SOLOTraining(), detections=SOLODetections(), mask_factor=0
        )
    with pytest.raises(ValueError, match="padding is"):
        module.SOLOv2(
            model.encoder, **parts, training_settings=SOLOTraining(), detections=SOLODetections(), padding="zeros"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.replace(boxes=o.boxes * float("nan")), r"boxes of image 1\[0\] is \[nan.*isn't finite"),
        (lambda o: o.replace(labels=o.labels + 3), r"image 1 has the labels \[3\], the model knows 0..2"),
    ],
)
def test_bad_targets_are_named(model, change, message):
    good = objects([(4, 4, 30, 30)])
    with pytest.raises(ValueError, match=message):
        model.loss(model(some_images()), Targets(instances=[good, change(good)]))
    with pytest.raises(ValueError, match="no `instances`"):
        model.loss(model(some_images()), Targets(semantic=torch.zeros(2, 64, 64, dtype=torch.int64)))


# --- it learns ---


def test_the_tiny_variants_ranges_leave_no_object_out():
    model = solov2_tiny(7)
    scenes = Scenes(30)
    for i in range(30):
        truth = scenes[i].instances
        found = assign_grid(
            truth.masks, truth.boxes,
            canvas=(128, 128), grids=model.head.grids, ranges=model.training_settings.ranges,
        )  # fmt: skip
        assert found.objects.unique().tolist() == list(range(len(truth)))


@pytest.mark.slow
def test_it_learns_a_scene_by_heart():
    torch.manual_seed(0)
    scene = Scenes(1, seed=3)[0]
    batch = collate([scene])
    model = solov2_tiny(7)
    # from scratch and without a warm-up 2e-3 kills the features' ReLUs before they are worth anything
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model.loss(model(batch.images), batch.targets).values()).backward()
        optimizer.step()
    found = model.predict(batch.images)[0]
    iou = mask_iou(scene.instances.masks, found.masks)
    same = scene.instances.labels[:, None] == found.labels
    large = scene.instances.masks.flatten(1).sum(1) > 40
    best = torch.where(same, iou, 0).amax(1)[large]
    assert len(best) > 3 and (best > 0.5).float().mean() > 0.8
