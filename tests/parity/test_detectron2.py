"""seglib's Mask R-CNN equals Detectron2's: weights under the official checkpoint's keys, through the converter."""

import functools

import pytest
import torch
from golden import (
    DETECTRON2_LOSSES,
    SIZES,
    batch,
    check_detections,
    check_gradients,
    check_losses,
    converted,
    losses_on_stored_samples,
    targets,
)

from seglib.losses.assign import match_boxes
from seglib.losses.two_stage import BOX_WEIGHTS, mask_targets
from seglib.models.zoo import build
from seglib.ops.boxes import box_iou, decode_boxes
from seglib.ops.geometry import Geometry
from seglib.ops.paste import paste_masks
from seglib.ops.roi import roi_levels
from seglib.weights import convert
from seglib.weights.detectron2 import MASK_RCNN, RESNET_FPN

pytestmark = pytest.mark.slow


@functools.cache
def setup():
    return converted("mask_rcnn_r50_fpn_3x", "detectron2:mask_rcnn_R_50_FPN")


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden), sizes=SIZES)


def test_stages_up_to_the_proposals():
    golden, model = setup()
    with torch.no_grad():
        maps = model.encoder(model.normalize(batch(golden), SIZES))
        pyramid = model.pyramid(batch(golden), SIZES)
        logits, deltas = model.rpn_head(pyramid)
    for stage, level in zip(("res2", "res3", "res4", "res5"), ("c2", "c3", "c4", "c5"), strict=True):
        golden.check(f"small/backbone.{stage}", maps[level])
    for i, level in enumerate(("p2", "p3", "p4", "p5", "p6")):
        golden.check(f"small/fpn.{level}", pyramid[i])
        height, width = pyramid[i].shape[2:]
        golden.check(f"small/rpn.{level}.objectness", logits[i].view(2, height, width, 3).permute(0, 3, 1, 2))
        golden.check(f"small/rpn.{level}.deltas", deltas[i].view(2, height, width, 12).permute(0, 3, 1, 2))
    golden.check("small/anchors", output().anchors)


@pytest.mark.parametrize("i", [0, 1])
def test_proposals(i):
    golden, out = setup()[0], output()
    kept, stored = (golden.meta["proposals"]["small"][f"image{i}"][k] for k in ("kept", "stored"))
    assert int((out.proposal_scores[i] > -torch.inf).sum()) == kept
    golden.check(f"small/proposals{i}.boxes", out.proposals[i, :stored])
    golden.check(f"small/proposals{i}.objectness", out.proposal_scores[i, :stored])


def test_heads_on_given_rois():
    golden, model = setup()
    boxes = torch.cat([golden["rois/boxes0"], golden["rois/boxes1"]])
    images = torch.tensor([0] * 8 + [1] * 4)
    with torch.no_grad():
        pyramid = model.pyramid(batch(golden), SIZES)
        patches = model.pool(pyramid, boxes, images, 7)
        logits, deltas = model.box_head(patches)
        large = model.pool(pyramid, boxes, images, 14)
        masks = model.mask_head(large)
        own = model.mask_head(large, torch.arange(12))
    golden.check("rois/level", roi_levels(boxes, 4).int())
    golden.check("rois/box_pooled", patches)
    golden.check("rois/box_head", model.box_head.fc(patches.flatten(1)))
    golden.check("rois/cls_logits", logits)
    golden.check("rois/box_deltas", deltas.flatten(1))
    golden.check("rois/decoded_boxes", decode_boxes(deltas, boxes[:, None], BOX_WEIGHTS).flatten(1))
    golden.check("rois/mask_pooled", large)
    golden.check("rois/mask_logits", masks)
    torch.testing.assert_close(own, masks[torch.arange(12), torch.arange(12)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("i", [0, 1])
def test_final_detections(i):
    golden, model = setup()
    found = model.postprocess(output(), SIZES)[i]
    found = found[found.scores > golden.meta["score_threshold"]["detect"][f"image{i}"]]
    check_detections(golden, f"detect/image{i}", found)
    probs = output().mask_logits[i, : len(found)].sigmoid()
    golden.check(f"detect/image{i}.mask_probs", probs, 1e-3)


def test_detections_at_another_size():
    golden, model = setup()
    resized = tuple(golden.meta["resized_output"]["detect"])
    found = model.postprocess(output(), SIZES, [resized, SIZES[1]])[0]
    found = found[found.scores > golden.meta["score_threshold"]["detect"]["image0"]]
    check_detections(golden, "detect/image0_resized", found)


def test_pasting():
    golden, _ = setup()
    golden.check("paste/masks", paste_masks(golden["paste/probs"], golden["paste/boxes"], (48, 64)))


def test_anchor_matching():
    golden, model = setup()
    for i, objects in enumerate(targets(golden).instances):
        iou = box_iou(objects.boxes, output().anchors)
        matches = match_boxes(iou, foreground_iou=0.7, background_iou=0.3, allow_low_quality_matches=True)
        labels = torch.where(matches >= 0, 1, torch.where(matches == -1, 0, -1))
        assert torch.equal(labels.to(torch.int8), golden[f"loss/anchor_labels{i}.matched"])


def test_mask_targets():
    golden, model = setup()
    objects = targets(golden).instances
    masks = torch.cat([o.masks for o in objects])
    wanted, boxes = golden["loss/mask_targets.gt_boxes"], golden["loss/mask_targets.boxes"]
    every = torch.cat([o.boxes for o in objects])
    match = (wanted[:, None] - every).abs().sum(-1).argmin(1)
    golden.check("loss/mask_targets", mask_targets(masks, match, boxes, 28, aligned=True, binary=True) > 0.5)


def test_losses_and_gradients_on_the_stored_samples():
    golden, _ = setup()
    model = build("mask_rcnn_resnet50_fpn", num_classes=80, frozen=True, stride_in_1x1=True, sampling_ratio=0)
    model.load_state_dict(setup()[1].state_dict())
    truth = targets(golden)
    losses = losses_on_stored_samples(golden, model, truth, lambda out: out)
    check_losses(golden, losses, DETECTRON2_LOSSES)
    check_gradients(golden, model, [*RESNET_FPN, *MASK_RCNN], sum(losses.values()))


def test_the_weights_carry_the_size_at_which_detectron2s_models_see_images():
    golden, _ = setup()
    metadata = convert("detectron2:mask_rcnn_R_50_FPN", golden.state)[2]
    assert Geometry(**metadata["geometry"]) == Geometry("shorter", 800, 1333)
    assert Geometry(**metadata["geometry"]).model_size((427, 640)) == (800, 1199)  # 1199.06
    assert Geometry(**metadata["geometry"]).model_size((375, 1200)) == (417, 1333)  # 416.6
