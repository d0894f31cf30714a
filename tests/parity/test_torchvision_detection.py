"""seglib's Mask R-CNN equals torchvision's, both versions: random weights through the converter users call."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d

from seglib.models.zoo import build
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Targets
from seglib.weights import convert

pytestmark = pytest.mark.slow

SIZE = (128, 192)
VERSIONS = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")


class AsItIs(GeneralizedRCNNTransform):
    """torchvision's model resizes its images; ours takes them as they are."""

    def resize(self, image, target):
        return image, target


def stir(model):
    """Weights and statistics that make every stage lively: scores that differ, boxes that move, masks with edges."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d):
                m.weight.uniform_(0.5, 1.0, generator=g)
                m.bias.normal_(0, 0.1, generator=g)
                m.running_mean.normal_(0, 0.1, generator=g)
                m.running_var.uniform_(0.5, 1.5, generator=g)
        heads = {"cls_logits": 0.3, "bbox_pred": 0.1, "cls_score": 20.0, "mask_fcn_logits": 0.3}
        for name, p in model.named_parameters():
            kind = next((k for k in heads if k in name), None)
            if kind and name.endswith("weight"):
                p.normal_(0, heads[kind] / p[0].numel() ** 0.5, generator=g)


@functools.cache
def pair(name):
    """torchvision's model and ours with the same weights. The samplers take every candidate, so nothing is random."""
    torch.manual_seed(0)
    theirs = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=91,
        rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6,
        rpn_pre_nms_top_n_train=100, rpn_post_nms_top_n_train=200, rpn_pre_nms_top_n_test=100, box_score_thresh=0.02,
    )  # fmt: skip
    if name == "maskrcnn_resnet50_fpn":
        theirs.backbone.body = frozen(theirs.backbone.body)
    stir(theirs)
    theirs.transform = AsItIs(1, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    builder, state, metadata = convert("torchvision:" + name.replace("maskrcnn", "mask_rcnn"), theirs.state_dict())
    ours = build(builder, metadata["num_classes"], **metadata["arguments"])
    ours.load_state_dict(state)
    ours.rpn = replace(ours.rpn, before_nms=(100, 100), after_nms=(1000, 200), sample=10**6)
    ours.regions = replace(ours.regions, sample=10**6)
    ours.detections = replace(ours.detections, threshold=0.02)
    # float64: in float32 two scores that differ by rounding may change places, and what follows with them
    return theirs.double().eval(), ours.double().eval()


def frozen(body):
    """The encoder as torchvision's published first version has it: norms that are frozen and add no epsilon."""
    for module in list(body.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=0.0))
    return body


def images():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def truth():
    """Three objects in the first image and one in the second."""
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    masks[0] = (y - 40) ** 2 + (x - 60) ** 2 < 30**2
    masks[1, 70:120, 100:180] = True
    masks[2, 5:20, 150:158] = True
    masks[3] = (y - 60) ** 2 / 4 + (x - 90) ** 2 < 25**2
    labels, boxes = torch.tensor([0, 17, 89, 3]), masks_to_boxes(masks).double()
    return Targets(instances=[Instances(masks[:3], labels[:3], boxes[:3]), Instances(masks[3:], labels[3:], boxes[3:])])


@pytest.mark.parametrize("name", VERSIONS)
def test_detections_are_equal(name):
    theirs, ours = pair(name)
    with torch.no_grad():
        reference = theirs(list(images()))
    predictions = ours.predict(images())
    for found, want in zip(predictions, reference, strict=True):
        assert len(found) == len(want["scores"]) > 5
        torch.testing.assert_close(found.scores, want["scores"], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.boxes, want["boxes"], rtol=1e-6, atol=1e-5)
        assert torch.equal(found.labels, want["labels"] - 1)
        differing = (found.masks != (want["masks"][:, 0] >= 0.5)).float().mean()
        assert differing < 1e-5, f"{differing:.1e} of the mask pixels differ"


@pytest.mark.parametrize("name", VERSIONS)
def test_losses_and_gradients_are_equal(name):
    theirs, ours = pair(name)
    targets = truth()
    theirs.zero_grad(), ours.zero_grad()
    reference = their_losses(theirs, targets)
    losses = ours.loss(ours(images(), targets), targets)
    names = {
        "objectness": "loss_objectness", "anchor": "loss_rpn_box_reg", "class": "loss_classifier",
        "box": "loss_box_reg", "mask": "loss_mask",
    }  # fmt: skip
    for mine, other in names.items():
        assert reference[other].item() > 1e-3
        # some of theirs are summed in float32
        torch.testing.assert_close(losses[mine], reference[other].double(), rtol=1e-5, atol=1e-9)
    sum(losses.values()).backward()
    sum(reference.values()).backward()
    pairs = [
        (ours.fpn.lateral[0], theirs.backbone.fpn.inner_blocks[0][0]),
        (ours.fpn.output[3], theirs.backbone.fpn.layer_blocks[3][0]),
        (ours.rpn_head.deltas, theirs.rpn.head.bbox_pred),
        (ours.mask_head.upsample, theirs.roi_heads.mask_predictor.conv5_mask),
    ]
    for mine, other in pairs:
        mine = mine[0] if isinstance(mine, nn.Sequential) else mine
        scale = other.weight.grad.abs().max()
        assert scale > 0
        torch.testing.assert_close(mine.weight.grad / scale, other.weight.grad / scale, rtol=0, atol=1e-5)


def their_losses(model, targets):
    """torchvision computes losses in training mode only; its norms stay in evaluation mode, as ours."""
    model.train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    wanted = [{"boxes": i.boxes, "labels": i.labels + 1, "masks": i.masks.to(torch.uint8)} for i in targets.instances]
    try:
        return model(list(images()), wanted)
    finally:
        model.eval()
