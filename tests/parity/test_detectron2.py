"""seglib's Mask R-CNN equals Detectron2's: weights under the official checkpoint's keys, through the converter."""

import functools

import pytest
import torch
from golden import Golden

from seglib.losses.assign import match_boxes
from seglib.losses.two_stage import BOX_WEIGHTS, mask_targets
from seglib.models.zoo import build
from seglib.ops.boxes import box_iou, decode_boxes
from seglib.ops.paste import paste_masks
from seglib.ops.roi import roi_levels
from seglib.types import Instances, Targets
from seglib.weights import convert
from seglib.weights.detectron2 import MASK_RCNN, RESNET_FPN
from seglib.weights.renaming import rename

pytestmark = pytest.mark.slow


@functools.cache
def setup():
    golden = Golden("mask_rcnn_r50_fpn_3x")
    name, state, metadata = convert("detectron2:mask_rcnn_R_50_FPN", golden.state)
    model = build(name, **metadata["arguments"])
    model.load_state_dict(state)
    return golden, model.eval()


def image(golden, i):
    """The stored picture, blue first in 0..255, as seglib takes it."""
    return golden[f"small/image{i}"].flip(0)[None].float() / 255  # (1, 3, H, W)


def batch(golden):
    """Both pictures in one batch. The smaller one is padded with the mean, which is zero after normalisation."""
    model = setup()[1]
    images = model.normalize.mean.view(1, 3, 1, 1).repeat(2, 1, 128, 160)
    images[0] = image(golden, 0)[0]
    images[1, :, :120, :148] = image(golden, 1)[0]
    return images


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden))


def test_stages_up_to_the_proposals():
    golden, model = setup()
    with torch.no_grad():
        maps = model.encoder(model.normalize(batch(golden)))
        pyramid = model.pyramid(batch(golden))
        logits, deltas = model.rpn_head(pyramid)
    for stage, level in zip(("res2", "res3", "res4", "res5"), ("c2", "c3", "c4", "c5"), strict=True):
        golden.check(f"small/backbone.{stage}", maps[level])
    for i, level in enumerate(("p2", "p3", "p4", "p5", "p6")):
        golden.check(f"small/fpn.{level}", pyramid[i])
        height, width = pyramid[i].shape[2:]
        golden.check(f"small/rpn.{level}.objectness", logits[i].view(2, height, width, 3).permute(0, 3, 1, 2))
        golden.check(f"small/rpn.{level}.deltas", deltas[i].view(2, height, width, 12).permute(0, 3, 1, 2))
    golden.check("small/anchors", output().anchors[0])


@pytest.mark.parametrize("i", [0, 1])
def test_proposals(i):
    golden, model = setup()
    with torch.no_grad():
        out = model(image(golden, i))
    kept, stored = (golden.meta["proposals"]["small"][f"image{i}"][k] for k in ("kept", "stored"))
    assert int((out.proposal_scores > -torch.inf).sum()) == kept
    golden.check(f"small/proposals{i}.boxes", out.proposals[0, :stored])
    golden.check(f"small/proposals{i}.objectness", out.proposal_scores[0, :stored])


def test_heads_on_given_regions():
    golden, model = setup()
    boxes = torch.cat([golden["rois/boxes0"], golden["rois/boxes1"]])
    images = torch.tensor([0] * 8 + [1] * 4)
    with torch.no_grad():
        pyramid = model.pyramid(batch(golden))
        patches = model.pool(pyramid, boxes, images, 7)
        logits, deltas = model.box_head(patches)
        large = model.pool(pyramid, boxes, images, 14)
        masks = model.mask_head(large)
        own = model.mask_head(large, torch.arange(12))
    golden.check("rois/level", roi_levels(boxes, 4).int())
    golden.check("rois/box_pooled", patches)
    golden.check("rois/box_head", model.box_head.fc(patches.permute(0, 2, 3, 1).flatten(1)))
    golden.check("rois/cls_logits", logits)
    golden.check("rois/box_deltas", deltas.flatten(1))
    golden.check("rois/decoded_boxes", decode_boxes(deltas, boxes[:, None], BOX_WEIGHTS).flatten(1))
    golden.check("rois/mask_pooled", large)
    golden.check("rois/mask_logits", masks)
    torch.testing.assert_close(own, masks[torch.arange(12), torch.arange(12)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("i", [0, 1])
def test_final_detections(i):
    golden, model = setup()
    threshold = golden.meta["score_threshold"]["detect"][f"image{i}"]
    with torch.no_grad():
        out = model(image(golden, i))
    found = model.instances(out, image(golden, i).shape[2:])[0]
    found = found[found.scores > threshold]
    probs = out.mask_logits[0][out.scores[0] > threshold].sigmoid()
    assert len(found) == len(golden[f"detect/image{i}.classes"])
    golden.check(f"detect/image{i}.classes", found.labels.int())
    golden.check(f"detect/image{i}.scores", found.scores, 1e-3)
    golden.check(f"detect/image{i}.boxes", found.boxes, 1e-3)
    golden.check(f"detect/image{i}.mask_probs", probs, 1e-3)
    golden.check(f"detect/image{i}.masks", found.masks)
    if i == 0:
        height, width = golden.meta["resized_output"]["detect"]
        larger = found.boxes * torch.tensor([width / 160, height / 128] * 2)
        golden.check("detect/image0_resized.boxes", larger, 1e-3)
        golden.check("detect/image0_resized.masks", paste_masks(probs, larger, (height, width)))


def test_pasting():
    golden, _ = setup()
    golden.check("paste/masks", paste_masks(golden["paste/probs"], golden["paste/boxes"], (48, 64)))


def targets(golden):
    found = []
    for i in (0, 1):
        masks = torch.nn.functional.pad(golden[f"loss/target{i}.masks"], (0, 12 * i, 0, 8 * i))  # (N, 128, 160)
        found.append(Instances(masks, golden[f"loss/target{i}.classes"].long(), golden[f"loss/target{i}.boxes"]))
    return Targets(instances=found)


def test_anchor_matching():
    golden, model = setup()
    for i, objects in enumerate(targets(golden).instances):
        iou = box_iou(objects.boxes, output().anchors[0])
        matches = match_boxes(iou, high=0.7, low=0.3, rescue=True)
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


def test_losses_and_gradients_on_the_stored_samples(monkeypatch):
    golden, _ = setup()
    model = build("mask_rcnn_resnet50_fpn", num_classes=80, frozen=True, stride_in_1x1=True, sampling_ratio=0)
    model.load_state_dict(setup()[1].state_dict())
    truth = targets(golden)
    sampled = [golden[f"loss/anchor_labels{i}.sampled"] for i in (0, 1)]

    def stored_anchors(anchors, boxes):
        i = 0 if len(boxes) == 3 else 1
        picked = (sampled[i] >= 0).nonzero()[:, 0]
        best = box_iou(boxes, anchors).max(0).indices
        return picked, torch.where(sampled[i] == 1, best, -1)[picked]

    def stored_regions(proposals, scores, objects, settings):
        boxes = torch.stack([golden[f"loss/sampled{i}.boxes"] for i in (0, 1)])
        matches = []
        for i, found in enumerate(objects):
            near = (golden[f"loss/sampled{i}.gt_boxes"][:, None] - found.boxes).abs().sum(-1).argmin(1)
            matches.append(torch.where(golden[f"loss/sampled{i}.classes"] == 80, -1, near))
        matches = torch.stack(matches)
        order = (matches < 0).int().argsort(dim=1, stable=True)  # objects first, as our samples are
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), matches.gather(1, order)

    monkeypatch.setattr(model, "_sample_anchors", stored_anchors)
    monkeypatch.setattr("seglib.models.mask_rcnn.sample_regions", stored_regions)
    model.eval()
    losses = model.loss(model(batch(golden), truth), truth)
    names = {
        "objectness": "loss_rpn_cls", "anchor": "loss_rpn_loc", "class": "loss_cls", "box": "loss_box_reg",
        "mask": "loss_mask",
    }  # fmt: skip
    for ours, theirs in names.items():
        want, got = golden.meta["losses"]["loss"][theirs], losses[ours].item()
        assert abs(got - want) <= 1e-4 * want, (ours, got, want)
    sum(losses.values()).backward()
    # which of ours is which of theirs, told by a number under each name
    order = list(golden.state)
    renamed = rename({k: torch.tensor(i) for i, k in enumerate(order)}, [*RESNET_FPN, *MASK_RCNN], "it")
    norms, checked = golden.meta["grad_norms"]["loss"], 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        want = norms[order[int(renamed[name])]]
        got = float(parameter.grad.double().norm())  # float32 loses a thousandth over 13 million squares
        assert abs(got - want) <= 2e-4 * want, (name, got, want)  # measured: 5e-5
        checked += 1
    assert checked == len(norms)
