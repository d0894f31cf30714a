"""The experiments that break stages of Mask R-CNN, and the one that looks for holes in masks."""

from dataclasses import replace

import pytest
import torch

from seglib.book.experiments import broken_stages, mask_hole
from seglib.book.experiments.broken_stages import BREAKS, WHOLE, broken, half_a_pixel_off
from seglib.book.experiments.mask_hole import as_text, holes_of, rightly_named
from seglib.data.scenes import Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.models.mask_rcnn import mask_rcnn_tiny
from seglib.models.two_stage import true_sizes
from seglib.ops.boxes import box_iou
from seglib.ops.paste import MaskGrids, paste_masks
from seglib.types import Instances

K = mask_hole.K


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    model = mask_rcnn_tiny(K).eval()
    torch.nn.init.normal_(model.box_head.logits.weight, std=0.5)  # its detections have scores that differ
    torch.nn.init.normal_(model.box_head.deltas.weight, std=0.05)
    torch.nn.init.normal_(model.rpn_head.deltas.weight, std=0.05)
    # so that NMS drops some boxes of so few
    model.rpn, model.detections = replace(model.rpn, nms=0.3), replace(model.detections, nms=0.2)
    return model


@pytest.fixture(scope="module")
def scene():
    return Scenes(3, split="val", size=64)[0]


def heads_of(model, scene, name):
    """The output with a break, and its detections."""
    images, sizes = scene.image[None], [(64, 64)]
    with torch.inference_mode(), broken(model, BREAKS[name]):
        out = model.heads(model.pyramid(images), true_sizes(images, sizes))
        return out, model.postprocess(out, sizes)[0]


def test_unbroken_it_is_the_model(detector, scene):
    out, found = heads_of(detector, scene, WHOLE)
    wanted = detector.predict(scene.image[None])[0]
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.masks, wanted.masks) and len(found)


@pytest.mark.parametrize("name", list(BREAKS))
def test_a_break_ends_with_its_block(detector, scene, name):
    before = detector.predict(scene.image[None])[0]
    heads_of(detector, scene, name)
    after = detector.predict(scene.image[None])[0]
    for field in ("boxes", "labels", "scores", "masks"):
        assert torch.equal(getattr(before, field), getattr(after, field))


def test_it_ends_when_the_block_raises_too(detector):
    with pytest.raises(RuntimeError), broken(detector, BREAKS["no NMS of proposals"]):
        assert detector.rpn.nms == 1.0
        raise RuntimeError
    assert detector.rpn.nms == 0.3


def test_anchors_that_do_not_move_are_anchors_cut_at_the_border(detector, scene):
    out, _ = heads_of(detector, scene, "anchors not moved")
    cut = out.anchors.clamp(0, 64)
    distance = (out.proposals[0][:, None] - cut).abs().amax(-1).amin(1)  # (P,)
    assert distance.max() < 1e-4
    usual, _ = heads_of(detector, scene, WHOLE)
    assert (usual.proposals[0][:, None] - cut).abs().amax(-1).amin(1).max() > 0.1


def test_boxes_that_are_not_refined_are_proposals(detector, scene):
    out, found = heads_of(detector, scene, "boxes not refined")
    assert (found.boxes[:, None] - out.proposals[0]).abs().amax(-1).amin(1).max() < 1e-3
    assert len(found)


@pytest.mark.parametrize(("name", "field"), [("no NMS of proposals", "proposals"), ("no NMS of detections", "boxes")])
def test_without_nms_boxes_overlap_more_than_it_allows(detector, scene, name, field):
    def most(name):
        out, _ = heads_of(detector, scene, name)
        boxes, labels = getattr(out, field)[0], out.labels[0] if field == "boxes" else None
        iou = box_iou(boxes, boxes) * (1 - torch.eye(len(boxes)))
        return float((iou if labels is None else iou * (labels[:, None] == labels)).max())

    assert most(name) > most(WHOLE)


def test_each_other_break_changes_what_it_says(detector, scene):
    usual, whole = heads_of(detector, scene, WHOLE)
    for name in ("coarsest level only", "RoI Pooling"):
        out, _ = heads_of(detector, scene, name)
        assert torch.equal(out.proposals, usual.proposals) and not torch.equal(out.class_logits, usual.class_logits)
    out, found = heads_of(detector, scene, "next class's mask")
    assert torch.equal(found.labels, whole.labels)  # the class stays, its mask is another's
    with torch.inference_mode():
        patches = detector.pool(detector.pyramid(scene.image[None]), whole.boxes, torch.zeros_like(whole.labels), 14)
        wanted = detector.mask_head(patches, (whole.labels + 1) % K)
    torch.testing.assert_close(out.mask_logits[0, : len(whole)], wanted, rtol=1e-4, atol=1e-4)


def test_half_a_pixel_off_moves_a_mask_up_and_left():
    grid = torch.zeros(1, 28, 28)
    grid[:, 7:21, 7:21] = 1
    boxes = torch.tensor([[0.0, 0.0, 28.0, 28.0]])
    found = Instances(MaskGrids(grid, boxes, (28, 28)), torch.zeros(1, dtype=torch.int64), boxes, torch.ones(1))
    moved = half_a_pixel_off(found)
    assert torch.equal(moved.masks, paste_masks(grid, boxes + 0.5, (28, 28)))
    assert not torch.equal(moved.masks, found.masks) and torch.equal(moved.boxes, boxes)


@pytest.mark.slow
def test_the_breaks_are_scored_and_repeat_themselves(detector):
    lines = []
    small = {"seeds": [0], "steps": 4, "model": detector, "data": Scenes(2, split="val", size=64)}
    found = broken_stages.run(**small, report=lines.append)
    assert [row["name"] for row in found["breaks"]] == list(BREAKS) and len(lines) == len(BREAKS)
    assert found["breaks"][0]["points"]["ap"] == [0, 0, 0] and found["images"] == 2
    assert broken_stages.run(**small) == found


# Holes


def test_an_object_is_stood_for_by_the_best_detection_of_its_class():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]])
    truth = Instances(masks, torch.tensor([1, 2]), boxes)
    found = boxes[[0, 0, 0, 1, 1]]
    labels, scores = torch.tensor([3, 1, 1, 2, 2]), torch.tensor([0.9, 0.8, 0.7, 0.4, 0.3])
    detection, owner = rightly_named(found, labels, scores, truth)
    assert (detection.tolist(), owner.tolist()) == ([1], [0])  # the other class and low scores do not count
    detection, owner = rightly_named(found[:0], labels[:0], scores[:0], truth)
    assert len(detection) == len(owner) == 0


def test_grids_become_rows_of_text():
    assert as_text(torch.tensor([[0.4, 99.6], [7.0, 12.0]])) == ["0 100", "7 12"]


@pytest.mark.slow
def test_a_hole_is_what_another_class_takes(detector, scene, monkeypatch):
    heads = {"sigmoid per class": MaskHead(48, K, hidden=48), "softmax": MaskHead(48, K + 1, hidden=48)}
    for head, (own, other, background) in zip(heads.values(), ((5.0, 0.0, 0.0), (5.0, 9.0, 0.0)), strict=True):
        torch.nn.init.zeros_(head.predict.weight)
        head.predict.bias.data.fill_(background)
        head.predict.bias.data[2] = other
        head.predict.bias.data[:2] = own
    truth = scene.instances
    monkeypatch.setattr(
        mask_hole, "rightly_named", lambda boxes, labels, scores, truth: (torch.tensor([0]), torch.tensor([0]))
    )
    data = Scenes(1, split="val", size=64)
    (row,) = holes_of(detector, heads, data, 0)
    assert set(row["winner"][0].split()) == {"2"} and len(row["winner"]) == 28
    inside = paste_masks(torch.ones(1, 28, 28), torch.tensor([row["box"]]), truth.size)[0] & truth.masks[0]
    if row["label"] == 2:
        assert row["lost"] == 0
    else:
        assert row["lost"] == row["kept"] <= int(inside.sum())


@pytest.mark.parametrize("module", [broken_stages, mask_hole])
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"scenes": 0}])
def test_bad_budgets_are_refused(module, wrong):
    with pytest.raises(ValueError, match="must be positive"):
        module.run(**({"seeds": [0], "steps": 1} | wrong))


@pytest.mark.slow
def test_no_hole_is_said(detector):
    small = {"seeds": [0], "steps": 1, "scenes": 2, "val_scenes": 1, "shown_scenes": 1, "batch_size": 1}
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="has a hole"):
        mask_hole.run(**small, detector=mask_rcnn_tiny(K))
