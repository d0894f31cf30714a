"""YOLACT: prototypes, coefficients, matching, hard negatives, losses, Fast NMS, and masks cut by their boxes."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from seglib.layers.yolact_heads import PredictionHead, ProtoNet, RelativeAnchors
from seglib.losses.assign import BACKGROUND, IGNORE, ignore_crowds, match_anchors
from seglib.losses.multibox import (
    box_loss,
    class_loss,
    hard_negatives,
    mask_loss,
    semantic_loss,
    semantic_target,
)
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.models.yolact import (
    YOLACT,
    YOLACTDetections,
    YOLACTOutput,
    YOLACTTraining,
    suppress,
    to_cells,
    yolact_resnet50,
    yolact_tiny,
)
from seglib.ops.boxes import box_iou, encode_boxes
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Targets


def tiny(**losses):
    torch.manual_seed(0)
    model = yolact_tiny(3)
    model.training_settings = replace(model.training_settings, **losses)
    return model


def rectangles(boxes, labels, size, iscrowd=None):
    """Objects that fill their boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    height, width = size
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    masks = [(x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3]) for b in boxes]
    stacked = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    crowd = None if iscrowd is None else torch.tensor(iscrowd, dtype=torch.bool)
    return Instances(stacked, torch.tensor(labels, dtype=torch.int64), boxes, iscrowd=crowd)


# Layers


def test_prototypes_are_at_least_0_and_of_twice_the_resolution():
    torch.manual_seed(0)
    prototypes = ProtoNet(8, 5, hidden=6, depth=2)(torch.randn(2, 8, 7, 9))
    assert prototypes.shape == (2, 5, 14, 18)
    assert prototypes.min() == 0 and prototypes.max() > 0


def test_a_protonet_without_prototypes_or_convolutions_is_refused():
    for arguments in ({"prototypes": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="prototypes and depth must be at least 1"):
            ProtoNet(8, **arguments)


def test_coefficients_lie_between_minus_1_and_1():
    torch.manual_seed(0)
    head = PredictionHead(8, 3, prototypes=4)
    logits, deltas, coefficients = head([100 * torch.randn(2, 8, 4, 5), torch.randn(2, 8, 2, 3)])
    assert logits.shape == (2, 78, 4) and deltas.shape == (2, 78, 4) and coefficients.shape == (2, 78, 4)
    assert coefficients.abs().max() <= 1 and coefficients.min() < -0.9 and coefficients.max() > 0.9


def test_the_heads_rows_go_by_level_row_column_anchor_like_the_anchors():
    head = PredictionHead(1, 1, per_cell=2, prototypes=1, depth=0)
    with torch.no_grad():
        head.deltas.weight.zero_()
        head.deltas.weight[:, 0, 1, 1] = 1  # every number is the cell's value …
        head.deltas.bias.copy_(torch.arange(8) / 10)  # … and its own place in the cell
    coarse, fine = torch.tensor([[[[90.0]]]]), torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    deltas = head([fine, coarse])[1][0]
    own = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7]])
    want = torch.cat([value + own for value in (10, 20, 30, 40, 90)])
    torch.testing.assert_close(deltas.detach(), want)


def test_relative_anchors_are_shares_of_the_image_and_squares_whatever_their_ratio():
    anchors = RelativeAnchors(scales=(55,), ratios=(1.0, 4.0))([(1, 2)], (100, 200))[0]
    # a tenth of the image, twice that for ratio 4; centres in the middle of each half
    want = [[40, 45, 60, 55], [30, 40, 70, 60], [140, 45, 160, 55], [130, 40, 170, 60]]
    torch.testing.assert_close(anchors, torch.tensor(want, dtype=torch.float32))
    square = torch.cat(RelativeAnchors()([(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)], (550, 550)))
    sides = square[:, 2:] - square[:, :2]
    torch.testing.assert_close(sides[:, 0], sides[:, 1])
    assert sides[:3, 0].tolist() == pytest.approx([24, 24 * 0.5**0.5, 24 * 2**0.5], rel=1e-5)


@pytest.mark.parametrize("bad", [{"scales": ()}, {"ratios": (1.0, -1.0)}, {"base": 0}])
def test_relative_anchors_need_positive_numbers(bad):
    with pytest.raises(ValueError, match="above 0"):
        RelativeAnchors(**bad)


# Matching


def naive_match(iou, foreground, background):
    """Anchor by anchor, then pair by pair."""
    matches = []
    for column in iou.T.tolist():
        best = max(column)
        matches.append(column.index(best) if best >= foreground else BACKGROUND if best < background else IGNORE)
    left = [(value, -o, -a) for o, row in enumerate(iou.tolist()) for a, value in enumerate(row) if value > 0]
    while left:
        _, o, a = max(left)
        matches[-a] = -o
        left = [p for p in left if p[1] != o and p[2] != a]
    return matches


@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.45, 0.5, 0.7]), min_size=6, max_size=6), max_size=5))
def test_matching_in_rounds_equals_matching_pair_by_pair(rows):
    iou = torch.tensor(rows).view(-1, 6)
    matches = match_anchors(iou, foreground_iou=0.5, background_iou=0.4)
    assert matches.tolist() == (naive_match(iou, 0.5, 0.4) if rows else [BACKGROUND] * 6)


def test_two_objects_that_like_one_anchor_best_get_one_each():
    iou = torch.tensor([[0.30, 0.10, 0.0], [0.20, 0.05, 0.0]])
    assert match_anchors(iou, foreground_iou=0.5, background_iou=0.4).tolist() == [0, 1, BACKGROUND]


def test_an_object_is_forced_onto_an_anchor_that_would_be_ignored_or_anothers():
    iou = torch.tensor([[0.9, 0.8], [0.0, 0.6]])  # the second anchor overlaps the first object more
    assert match_anchors(iou, foreground_iou=0.5, background_iou=0.4).tolist() == [0, 1]
    assert match_anchors(torch.tensor([[0.45]]), foreground_iou=0.5, background_iou=0.4).tolist() == [0]


def test_an_object_that_touches_no_free_anchor_stays_without():
    iou = torch.tensor([[0.6], [0.2], [0.0]])
    assert match_anchors(iou, foreground_iou=0.5, background_iou=0.4).tolist() == [0]
    assert match_anchors(torch.zeros(2, 3), foreground_iou=0.5, background_iou=0.4).tolist() == [BACKGROUND] * 3
    assert match_anchors(torch.zeros(2, 0), foreground_iou=0.5, background_iou=0.4).tolist() == []


def test_background_in_a_crowd_is_ignored_and_a_match_is_not():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [4, 0, 14, 10], [20, 0, 30, 10]])
    crowds = torch.tensor([[0.0, 0, 12, 40], [100, 100, 101, 101]])  # holds 1, 1, 0.8 and 0 of them
    matches = torch.tensor([0, BACKGROUND, BACKGROUND, BACKGROUND])
    assert ignore_crowds(matches, anchors, crowds).tolist() == [0, IGNORE, IGNORE, BACKGROUND]
    assert ignore_crowds(matches, anchors, crowds, 0.8).tolist() == [0, IGNORE, BACKGROUND, BACKGROUND]  # not beyond
    assert torch.equal(ignore_crowds(matches, anchors, crowds[:0]), matches)


# Losses


def test_hard_negatives_are_the_background_that_is_least_sure_of_itself():
    sure = torch.tensor([[5.0, 1.0, 3.0, 2.0, 0.0, 4.0]])  # logit of the background; that of the object is 0
    logits = torch.stack([torch.zeros_like(sure), sure], -1)
    matches = torch.tensor([[BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND, IGNORE, 0]])
    assert hard_negatives(logits, matches, 2).tolist() == [[False, True, False, True, False, False]]
    assert hard_negatives(logits, matches, 3).tolist() == [[False, True, True, True, False, False]]
    assert hard_negatives(logits, matches, 9).tolist() == [[True, True, True, True, False, False]]


def test_negatives_are_counted_per_image_so_one_without_positives_has_none():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    matches = torch.full((2, 5), BACKGROUND)
    matches[0, 0] = 0
    assert hard_negatives(logits, matches).sum(1).tolist() == [3, 0]


def test_the_class_loss_by_hand():
    logits = torch.zeros(1, 6, 3)  # every class has ⅓
    matches = torch.tensor([[0, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND, IGNORE]])
    labels = torch.tensor([[1, 0, 0, 0, 0, 0]])
    loss = class_loss(logits, labels, matches)
    assert loss.item() == pytest.approx(4 * torch.tensor(3.0).log().item())  # 1 positive, 3 negatives, over 1 positive


def test_the_box_loss_is_smooth_l1_of_weighted_deltas_over_the_positives():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[[0.5, 0, 10.5, 10], [2, 0, 12, 10], [0, 0, 0, 0]]])  # shifts of 0.05 and 0.2 sizes
    loss = box_loss(torch.zeros(1, 3, 4), anchors, boxes, torch.tensor([[0, 0, BACKGROUND]]))
    # weighted by 10 these are 0.5 and 2: 0.5² / 2 and 2 − ½
    assert loss.item() == pytest.approx((0.125 + 1.5) / 2)


def naive_mask_loss(prototypes, coefficients, mask, box):
    """Pixel by pixel, on probabilities, in float64."""
    x1, y1, x2, y2 = box
    total = 0.0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            if not (x1 - 1 <= j < x2 + 1 and y1 - 1 <= i < y2 + 1):
                continue
            p = (prototypes[:, i, j].double() @ coefficients.double()).sigmoid()
            total += float(-p.log() if mask[i, j] else -(1 - p).log())
    return total / ((x2 - x1) * (y2 - y1))


def test_the_mask_loss_equals_its_loop_over_pixels():
    g = torch.Generator().manual_seed(0)
    prototypes, coefficients = torch.rand(4, 7, 9, generator=g), torch.randn(3, 4, generator=g)
    masks = torch.rand(3, 7, 9, generator=g) > 0.5
    boxes = torch.tensor([[1.5, 2.0, 4.0, 5.5], [0.0, 0.0, 9.0, 7.0], [6.2, 3.1, 8.9, 6.9]])
    want = [naive_mask_loss(prototypes, c, m, b.tolist()) for c, m, b in zip(coefficients, masks, boxes, strict=True)]
    assert mask_loss(prototypes, coefficients, masks, boxes).tolist() == pytest.approx(want, rel=1e-5)


def test_the_mask_loss_looks_one_cell_beyond_the_box_and_no_further():
    prototypes = torch.zeros(1, 1, 10, requires_grad=True)
    box = torch.tensor([[4.0, 0.0, 6.0, 1.0]])
    mask_loss(prototypes, torch.ones(1, 1), torch.zeros(1, 1, 10, dtype=torch.bool), box).sum().backward()
    assert (prototypes.grad[0, 0] != 0).nonzero()[:, 0].tolist() == [3, 4, 5, 6]


def test_a_small_object_weighs_as_much_as_a_large_one():
    prototypes = torch.zeros(1, 40, 40)
    boxes = torch.tensor([[4.0, 4, 8, 8], [4, 4, 36, 36]])
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    small, large = mask_loss(prototypes, torch.zeros(2, 1), masks, boxes).tolist()
    # ln 2 for each cell of the box and of the rim around it, over the cells of the box
    assert small == pytest.approx(0.6931472 * 36 / 16) and large == pytest.approx(0.6931472 * 34**2 / 32**2)


def test_the_mask_loss_is_finite_where_a_probability_rounds_to_0_or_1():
    prototypes = torch.full((1, 4, 4), 1000.0, requires_grad=True)
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1] = True
    box = torch.tensor([[0.0, 0, 4, 4]] * 2)
    loss = mask_loss(prototypes, torch.tensor([[1.0], [-1.0]]), masks, box)
    loss.sum().backward()
    assert loss.tolist() == [1000, 1000] and prototypes.grad.isfinite().all()


def test_the_gradient_of_the_mask_loss():
    g = torch.Generator().manual_seed(0)
    prototypes = torch.rand(2, 4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(3, 4, 5, generator=g) > 0.5
    boxes = torch.tensor([[0.0, 0, 3, 2], [1.5, 1, 4, 4], [2, 2, 3, 3]])
    assert torch.autograd.gradcheck(lambda p, c: mask_loss(p, c, masks, boxes), (prototypes, coefficients))


def test_the_semantic_target_is_the_union_of_each_classs_masks():
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 1]]]).bool()
    target = semantic_target(masks, torch.tensor([2, 2, 0]), 3)
    assert target.int().tolist() == [[[0, 0, 0, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 0]]]


def test_the_semantic_loss_is_a_sum_over_classes_and_a_mean_over_cells_that_are_no_padding():
    logits = torch.zeros(2, 3, 1, 2)
    logits[1, :, :, 1] = 50  # in the padding of the second image
    valid = torch.tensor([[[True, True]], [[True, False]]])
    loss = semantic_loss(logits, torch.zeros(2, 3, 1, 2, dtype=torch.bool), valid)
    assert loss.item() == pytest.approx(3 * 0.6931472)


# The model's losses


def losses_of(model, targets, images=None):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) if images is None else images
    out = model(images)
    losses = model.loss(out, Targets(instances=targets))
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values()), losses
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return out, losses


def test_a_batch_without_objects_has_finite_losses_and_only_the_semantic_map_learns():
    model = tiny()
    nothing = rectangles([], [], (64, 64))
    _, losses = losses_of(model, [nothing, nothing])
    assert losses["class"] == losses["box"] == losses["mask"] == 0 and losses["semantic"] > 0
    assert not model.head.logits.weight.grad.any() and model.semantic.weight.grad.any()


def test_one_image_of_two_without_objects():
    some = rectangles([[4, 4, 30, 40], [30, 20, 60, 60]], [0, 2], (64, 64))
    _, losses = losses_of(tiny(), [rectangles([], [], (64, 64)), some])
    assert all(v > 0 for v in losses.values())


def test_images_of_nothing_but_crowds_train_like_empty_ones():
    crowd = rectangles([[0, 0, 64, 64]], [1], (64, 64), [True])
    _, losses = losses_of(tiny(), [crowd, crowd])
    assert losses["class"] == losses["box"] == losses["mask"] == 0


def test_every_object_has_a_positive_anchor_however_small():
    model, size = tiny(), (64, 64)
    objects = rectangles([[10, 10, 11, 12], [30, 31, 33, 32], [0, 0, 64, 64]], [0, 1, 2], size)
    nothing = rectangles([], [], size)
    out = model(torch.rand(1, 3, *size))
    assert box_iou(objects.boxes, out.anchors).amax(1)[0] < 0.1
    assert set(model.match(out, [objects], [nothing])[0].unique().tolist()) >= {0, 1, 2}


def test_the_loss_of_a_sample_of_masks_stands_for_all():
    """All positives of one object in images of one colour have nearly one loss, so any sample gives it."""
    objects = [rectangles([[8, 8, 40, 40]], [0], (64, 64))]
    model = tiny()
    out = model.eval()(torch.rand(1, 3, 64, 64))
    out = replace(out, coefficients=out.coefficients[:, :1].expand_as(out.coefficients))
    matches = model.match(out, objects, [objects[0][:0]])
    assert int((matches >= 0).sum()) > 3
    whole = model.loss(out, Targets(instances=objects))["mask"]
    for few in (1, 3):
        model.training_settings = replace(model.training_settings, masks_to_train=few)
        torch.testing.assert_close(model.loss(out, Targets(instances=objects))["mask"], whole)


def test_only_so_many_masks_are_trained():
    objects = [rectangles([[8, 8, 40, 40]], [0], (64, 64))]
    model = tiny(masks_to_train=2)
    out = model.eval()(torch.rand(1, 3, 64, 64))
    coefficients = out.coefficients.detach().requires_grad_()
    model.loss(replace(out, coefficients=coefficients), Targets(instances=objects))["mask"].backward()
    assert int(coefficients.grad.any(-1).sum()) == 2


def test_padding_is_void_for_the_losses():
    """What the network says there doesn't matter, and no anchor there is a negative."""
    model = tiny(negative_ratio=1e6)
    objects = [rectangles([[4, 4, 30, 40]], [0], (64, 96))]
    out = model.eval()(torch.rand(1, 3, 64, 96), sizes=[(50, 40)])
    padded = (out.anchors[:, :2] + out.anchors[:, 2:]) / 2 >= torch.tensor([40.0, 50.0])
    stride = 64 // out.semantic.shape[2]
    semantic = out.semantic.clone()
    semantic[:, :, 50 // stride :] = 50  # the first row of cells whose centre lies below the image
    semantic[:, :, :, 40 // stride :] = 50
    other = replace(
        out, class_logits=torch.where(padded.any(1)[:, None], 50.0, out.class_logits), semantic=semantic
    )  # fmt: skip
    targets = Targets(instances=objects)
    for name, value in model.loss(out, targets).items():
        torch.testing.assert_close(model.loss(other, targets)[name], value, msg=name)


@pytest.mark.parametrize("size", [(33, 47), (7, 5), (100, 64)])
def test_images_that_no_stride_divides_train_and_predict(size):
    height, width = size
    objects = [rectangles([[0, 0, width - 1, height - 2]], [1], size)] * 2
    model = tiny()
    out, _ = losses_of(model, objects, torch.rand(2, 3, *size))
    assert out.canvas.tolist() == [-(-height // 32) * 32, -(-width // 32) * 32]
    assert all(p.size == size for p in model.predict(torch.rand(2, 3, *size)))


def test_half_precision_is_finite_and_its_outputs_are_float32():
    model = tiny()
    objects = [rectangles([[4, 4, 30, 40]], [0], (64, 64))] * 2
    with torch.autocast("cpu", torch.bfloat16):
        out, losses = losses_of(model, objects)
    assert out.class_logits.dtype == out.prototypes.dtype == out.coefficients.dtype == torch.float32
    assert all(v.dtype == torch.float32 for v in losses.values())


def test_bad_targets_are_refused():
    model = tiny()
    out = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="no `instances`"):
        model.loss(out, Targets())
    with pytest.raises(ValueError, match=r"image 0 has the labels \[3\], the model knows 0..2"):
        model.loss(out, Targets(instances=[rectangles([[4, 4, 30, 40]], [3], (64, 64))]))
    with pytest.raises(ValueError, match=r"boxes of image 0\[0\] .* without width or height"):
        model.loss(out, Targets(instances=[rectangles([[4, 4, 4, 40]], [0], (64, 64))]))


# Detections


CHAIN = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # A–B and B–C overlap by 7/13, A–C by 4/16
SCORES = torch.tensor([[0.9], [0.8], [0.7]])


def test_in_a_chain_a_suppressed_box_still_suppresses():
    assert suppress(CHAIN, SCORES, YOLACTDetections(method="fast"))[0].tolist() == [0]
    assert suppress(CHAIN, SCORES, YOLACTDetections(method="standard"))[0].tolist() == [0, 2]


@pytest.mark.parametrize("method", ["fast", "standard"])
def test_classes_suppress_each_other_only_on_demand(method):
    scores = torch.tensor([[0.9, 0.05], [0.1, 0.6]])  # neighbours of different classes
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    index, labels, found = suppress(boxes, scores, YOLACTDetections(method=method))
    assert list(zip(index.tolist(), labels.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert found.tolist() == pytest.approx([0.9, 0.6])
    index, labels, _ = suppress(boxes, scores, YOLACTDetections(method=method, cross_class=True))
    assert index.tolist() == [0] and labels.tolist() == [0]


@pytest.mark.parametrize("method", ["fast", "standard"])
def test_only_the_best_of_each_class_and_of_all_are_kept(method):
    boxes = torch.arange(6.0)[:, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.45], [0.4, 0.55]])
    settings = YOLACTDetections(method=method, pre_nms_top_k=2, max_detections=3)
    index, labels, found = suppress(boxes, scores, settings)
    assert index.tolist() == [0, 1, 5] and labels.tolist() == [0, 0, 1]
    assert found.tolist() == pytest.approx([0.9, 0.8, 0.55])


@pytest.mark.parametrize("method", ["fast", "standard"])
@pytest.mark.parametrize("cross_class", [False, True])
def test_no_boxes_no_detections(method, cross_class):
    settings = YOLACTDetections(method=method, cross_class=cross_class)
    found = suppress(torch.zeros(0, 4), torch.zeros(0, 3), settings)
    assert [len(f) for f in found] == [0, 0, 0]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method 'soft' is unknown; choose one of fast, standard"):
        YOLACTDetections(method="soft")


def output(boxes, classes, prototypes, coefficients, size, sure=8.0):
    """An output whose anchors are these boxes: the class of each is sure, and deltas are 0."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    logits = F.one_hot(torch.tensor(classes), 4).float() * sure
    coefficients = torch.tensor(coefficients, dtype=torch.float32)
    return YOLACTOutput(
        class_logits=logits[None],
        deltas=torch.zeros(1, len(boxes), 4),
        coefficients=coefficients.view(1, len(boxes), -1),
        prototypes=prototypes[None],
        anchors=boxes,
        semantic=torch.zeros(1, 3, 1, 1),
        sizes=torch.tensor([size]),
        canvas=torch.tensor(size),
    )


def found_in(out, size, wanted=None, model=None):
    return (model or tiny()).postprocess(out, [size], None if wanted is None else [wanted])[0]


def test_a_sure_background_is_no_detection_and_a_low_class_of_a_detection_is_one():
    everywhere = torch.ones(1, 8, 8)
    out = output([[0, 0, 8, 8], [8, 8, 16, 16]], [3, 1], everywhere, [[1], [1]], (16, 16))
    found = found_in(out, (16, 16))
    # the second anchor is found as class 1, and as 0 and 2 with what is left: there is no second threshold
    assert found.labels[0] == 1 and sorted(found.labels.tolist()) == [0, 1, 2]
    assert found.scores[0] > 0.99 and found.scores[1] < 0.001
    assert (found.boxes == torch.tensor([8.0, 8, 16, 16])).all()


def test_nothing_above_the_threshold_gives_no_instance():
    found = found_in(output([[0, 0, 8, 8]], [3], torch.ones(1, 8, 8), [[1]], (16, 16)), (16, 16), (30, 20))
    assert len(found) == 0 and found.masks.shape == (0, 30, 20) and found.boxes.shape == (0, 4)


def test_deltas_move_the_anchor():
    out = output([[0, 0, 8, 8]], [0], torch.ones(1, 8, 8), [[1]], (16, 16))
    wanted = torch.tensor([[[2.0, 1.0, 14.0, 9.0]]])
    out = replace(out, deltas=encode_boxes(wanted, out.anchors, BOX_WEIGHTS))
    torch.testing.assert_close(found_in(out, (16, 16)).boxes[:1], wanted[0])


def test_boxes_and_masks_come_at_the_size_asked_for_and_within_it():
    out = output([[4, 4, 30, 12], [-9, -9, -1, -1]], [0, 1], torch.ones(1, 8, 8), [[9], [9]], (16, 16))
    found = found_in(out, (16, 16), (32, 48))
    assert found.size == (32, 48)
    assert found.boxes[0].tolist() == [12, 8, 48, 24]  # cut at the right border, scaled by 3 and 2
    assert not (found.labels == 1).any() or len(found) == 3  # the box outside is dropped
    assert (found.boxes == found.boxes[0]).all()
    assert found.masks[0, 8:24, 12:].all()


def test_a_mask_is_the_sigmoid_of_the_prototypes_sum():
    left, right = torch.zeros(8, 8), torch.zeros(8, 8)
    left[:, :4], right[:, 4:] = 1, 1
    whole = [[0, 0, 8, 8]] * 3
    out = output(whole, [0, 1, 2], torch.stack([left, right]), [[1, -1], [-1, 1], [1, 1]], (8, 8))
    found = found_in(out, (8, 8))[:3]
    masks = {int(label): mask for label, mask in zip(found.labels, found.masks, strict=True)}
    assert torch.equal(masks[0], left.bool()) and torch.equal(masks[1], right.bool()) and masks[2].all()


def test_a_neighbour_leaks_into_the_box_and_the_box_cuts_its_own_mask():
    """Coefficients choose what is drawn, the box alone where: both objects are of one prototype here."""
    both = torch.zeros(1, 4, 20)
    both[0, :, 1:8], both[0, :, 10:16] = 9, 9
    both[both == 0] = -9
    found = found_in(output([[0, 0, 13, 4]], [0], both, [[1]], (4, 20)), (4, 20))
    columns = found.masks[0].any(0).nonzero()[:, 0].tolist()
    assert columns == [*range(1, 8), *range(10, 14)]  # 10 … 13 are the neighbour's, cut one cell behind the box
    cut = found_in(output([[0, 0, 5, 4]], [0], both, [[1]], (4, 20)), (4, 20)).masks[0]
    assert cut.any(0).nonzero()[:, 0].tolist() == [*range(1, 6)]  # its last two columns are lost


@pytest.mark.parametrize("factor", [1, 2, 4])
@given(
    left=st.floats(0, 20), top=st.floats(0, 20), width=st.floats(1, 20), height=st.floats(1, 20)
)  # fmt: skip
def test_a_mask_never_leaves_its_box_by_more_than_the_padding(factor, left, top, width, height):
    """One cell to the left and above. A cell counts when its index lies in the box, so to the right one more begins."""
    side = 48
    box = [left, top, left + width, top + height]
    prototypes = torch.full((1, side // factor, side // factor), 50.0)
    found = found_in(output([box], [0], prototypes, [[1]], (side, side)), (side, side), model=MODEL)
    x1, y1, x2, y2 = masks_to_boxes(found.masks[:1])[0].tolist()
    assert x1 >= left - factor - 1e-3 and y1 >= top - factor - 1e-3
    assert x2 <= min(side, left + width + 2 * factor) and y2 <= min(side, top + height + 2 * factor)


MODEL = yolact_tiny(3)


def test_cutting_before_resizing_and_thresholding_last_leaves_no_staircase():
    """A slanted edge at four times the prototypes' resolution: thresholded first, it moves in steps of four."""
    x, y = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="xy")
    slanted = (8 + 0.37 * (y - 8) - x)[None]
    out = output([[0, 0, 64, 64]], [0], slanted, [[1]], (64, 64))
    mask = found_in(out, (64, 64)).masks[0]
    stairs = F.interpolate((slanted.sigmoid() > 0.5).float()[None], (64, 64), mode="nearest")[0, 0] > 0.5
    widths, steps = mask.sum(1), stairs.sum(1)
    assert steps.unique().numel() < 10 and steps.diff().abs().max() == 4
    assert widths.unique().numel() > 20 and widths.diff().abs().max() <= 1
    # cut on the prototypes' grid, so the border lies between cells; cut at the end it would lie on the box's edge
    inner = found_in(output([[17, 0, 30, 64]], [0], torch.full((1, 16, 16), 50.0), [[1]], (64, 64)), (64, 64)).masks[0]
    columns = inner.any(0).nonzero()[:, 0]
    # cells 17/4 − 1 ≤ j < 30/4 + 1 are 4 to 8; values fall to 0 over one cell, with ½ at the middle between centres
    assert (columns.min().item(), columns.max().item()) == (16, 35)


def test_masks_know_the_padding_of_their_canvas():
    """An image of 10×12 in a canvas of 16×16: its mask is that of the canvas, cut."""
    left = torch.full((1, 8, 8), -9.0)
    left[..., :3] = 9
    out = output([[0, 0, 16, 16]], [0], left, [[1]], (16, 16))
    found = found_in(out, (10, 12))
    assert found.boxes[0].tolist() == [0, 0, 12, 10] and found.size == (10, 12)
    assert found.masks[0, :, :6].all() and not found.masks[0, :, 6:].any()


def test_boxes_in_cells():
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    assert to_cells(boxes, torch.zeros(1, 25, 100), torch.tensor([50, 100])).tolist() == [[10, 10, 30, 20]]


# Builders


def test_too_few_classes_and_an_unknown_padding_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0; background isn't counted"):
        yolact_tiny(0)
    model = tiny()
    parts = {"fpn": model.fpn, "protonet": model.protonet, "head": model.head, "anchors": model.anchors}
    with pytest.raises(ValueError, match='padding is "constant" or "replicate", got \'reflect\''):
        YOLACT(model.encoder, 3, channels=48, padding="reflect", **parts)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        YOLACT(model.encoder, 0, channels=48, **parts)
    with pytest.raises(ValueError, match="masks_to_train must be at least 1, got 0"):
        YOLACTTraining(masks_to_train=0)


@pytest.mark.parametrize("fine_levels", [-1, 3])
def test_the_head_needs_one_of_the_encoders_levels(fine_levels):
    model = tiny()
    parts = {"fpn": model.fpn, "protonet": model.protonet, "head": model.head, "anchors": model.anchors}
    with pytest.raises(ValueError, match=f"fine_levels must be 0 to 2, .* got {fine_levels}"):
        YOLACT(model.encoder, 3, levels=("c3", "c4", "c5"), fine_levels=fine_levels, **parts)


@pytest.mark.parametrize(
    ("head", "made"), [({"num_classes": 2}, (2, 6, 16)), ({"per_cell": 3}, (3, 3, 16)), ({"prototypes": 8}, (3, 6, 8))]
)
def test_a_head_for_other_classes_anchors_or_prototypes_is_refused(head, made):
    model = tiny()
    parts = {"fpn": model.fpn, "protonet": model.protonet, "anchors": model.anchors}
    other = PredictionHead(48, **{"num_classes": 3, "per_cell": 6, "prototypes": 16} | head)
    with pytest.raises(ValueError, match=re.escape(f"are (3, 6, 16), the head was built for {made}; build it with")):
        YOLACT(model.encoder, 3, head=other, **parts)


def test_the_papers_batch_norms_learn_unless_they_are_frozen():
    with torch.device("meta"):
        free, frozen = yolact_resnet50(3), yolact_resnet50(3, frozen=True)
    assert all(p.requires_grad for p in free.parameters())
    assert free.encoder.bn1.weight.requires_grad
    fixed = {n for n, p in frozen.named_parameters() if not p.requires_grad}
    assert fixed and all(n.startswith(("encoder.conv1.", "encoder.layer1.")) for n in fixed)
    assert not any("norm" in n or ".bn" in n for n, _ in frozen.named_parameters())


def test_the_settings_are_the_papers():
    assert YOLACTTraining() == YOLACTTraining(0.5, 0.4, 0.7, 3, 100, 1, 1.5, 6.125, 1)
    assert YOLACTDetections() == YOLACTDetections(0.05, 0.5, 200, 100, "fast", False)


def test_the_tiny_one_has_three_shapes_at_every_size_and_is_small():
    model = yolact_tiny(7)
    assert sum(p.numel() for p in model.parameters()) * 2 < 3e6  # bytes in half precision, as weights are stored
    sides = model(torch.rand(1, 3, 64, 64)).anchors
    ratio = (sides[:, 3] - sides[:, 1]) / (sides[:, 2] - sides[:, 0])
    assert ratio.round(decimals=3).unique().tolist() == pytest.approx([0.5, 1, 2])
