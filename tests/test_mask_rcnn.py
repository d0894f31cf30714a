"""Mask R-CNN: what its options do, what it refuses, and that it learns."""

from dataclasses import replace

import pytest
import torch

from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.models.mask_rcnn import mask_rcnn_fpn, mask_rcnn_tiny
from seglib.models.two_stage import RegionSettings, sample_regions
from seglib.ops.boxes import decode_boxes
from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.instance import detect
from seglib.types import Instances, Targets


def some_images(n=2, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def objects(boxes, labels=None, size=64, **more):
    """Rectangles as instances."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Instances(masks, labels, masks_to_boxes(masks), **more)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mask_rcnn_tiny(3).eval()


def test_with_targets_the_second_stage_sees_a_sample_of_objects_and_background(model):
    torch.manual_seed(0)
    targets = Targets(instances=[objects([(4, 4, 30, 30), (40, 10, 60, 50)], [2, 0]), objects([(8, 8, 20, 40)], [1])])
    out = model(some_images(), targets)
    assert out.regions.shape[:2] == out.matches.shape and out.matches.shape[1] <= model.regions.sample
    assert set(out.matches[0].tolist()) >= {-1, 0, 1} and 0 in out.matches[1].tolist()
    for matches, boxes, labels, scores, truth in zip(
        out.matches, out.boxes, out.labels, out.scores, targets.instances, strict=True
    ):
        n = int((matches >= 0).sum())
        assert (matches[:n] >= 0).all() and scores.tolist() == [1] * n + [0] * (len(scores) - n)
        assert torch.equal(labels[:n], truth.labels[matches[:n]])
        assert not boxes[n:].any()
    assert out.mask_logits.shape == (2, out.boxes.shape[1], 28, 28)


def test_without_targets_it_detects(model):
    out = model(some_images())
    assert torch.equal(out.regions, out.proposals) and (out.matches[out.proposal_scores > -torch.inf] == -1).all()
    assert out.boxes.shape == (2, 100, 4) and out.mask_logits.shape == (2, 100, 28, 28)


def test_crowds_are_left_out_of_training(model):
    boxes = [(4, 4, 30, 30), (0, 0, 60, 60)]
    with_crowd = Targets(instances=[objects(boxes, [2, 1], iscrowd=torch.tensor([False, True]))])
    without = Targets(instances=[objects(boxes[:1], [2])])
    losses = []
    for targets in (with_crowd, without):
        torch.manual_seed(0)
        losses.append(model.loss(model(some_images(1), targets), targets))
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name])
    only_crowd = Targets(instances=[objects(boxes[1:], iscrowd=torch.tensor([True]))])
    found = model.loss(model(some_images(1), only_crowd), only_crowd)
    assert found["mask"] == found["box"] == found["anchor"] == 0 and found["objectness"] > 0


def test_objects_are_candidates_even_when_no_proposal_finds_them():
    truth = objects([(10, 10, 20, 20)])
    regions, matches = sample_regions(torch.zeros(1, 5, 4), torch.full((1, 5), -torch.inf), [truth], RegionSettings())
    assert regions[0].tolist() == [[10, 10, 20, 20]] + [[0] * 4] * 5 and matches.tolist() == [[0] + [-2] * 5]


def test_no_image_has_objects_or_proposals():
    none = objects([])
    regions, matches = sample_regions(torch.zeros(1, 5, 4), torch.full((1, 5), -torch.inf), [none], RegionSettings())
    assert not regions.any() and (matches == -2).all()
    model = mask_rcnn_tiny(3).eval()
    model.rpn = replace(model.rpn, smallest=1e6)  # every proposal is too small
    assert [len(p) for p in model.predict(some_images())] == [0, 0]
    targets = Targets(instances=[none, none])
    losses = model.loss(model(some_images(), targets), targets)
    assert all(torch.isfinite(v) for v in losses.values()) and losses["class"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: replace(o, boxes=o.boxes * float("nan")), r"boxes of image 1\[0\] is \[nan.*isn't finite"),
        (lambda o: replace(o, boxes=o.boxes[:, [2, 3, 0, 1]]), r"boxes of image 1\[0\].*without width or height"),
        (lambda o: replace(o, labels=o.labels + 3), r"image 1 has the labels \[3\], the model knows 0..2"),
        (lambda o: replace(o, labels=o.labels - 1), r"labels \[-1\]"),
    ],
)
def test_bad_targets_are_named(model, change, message):
    good = objects([(4, 4, 30, 30)])
    targets = Targets(instances=[good, change(good)])
    with pytest.raises(ValueError, match=message):
        model(some_images(), targets)


def test_an_output_of_other_targets_is_refused(model):
    some, none = objects([(4, 4, 30, 30)]), objects([])
    targets = Targets(instances=[some, none])
    for out in (model(some_images()), model(some_images(), Targets(instances=[none, some]))):
        with pytest.raises(ValueError, match="not made with these targets"):
            model.loss(out, targets)


def test_targets_without_instances_are_refused(model):
    with pytest.raises(ValueError, match="no `instances`"):
        model(some_images(), Targets(semantic=torch.zeros(2, 64, 64, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"conventions": "mmdet"}, "choose one of detectron2, torchvision"), ({"box_loss": "l2"}, "smooth_l1, giou")],
)
def test_unknown_options_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        mask_rcnn_fpn("resnet18", 3, **keywords)
    with pytest.raises(ValueError, match='"align" or "pool"'):
        RegionSettings(pooling="warp")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        mask_rcnn_tiny(0)


def test_an_image_that_does_not_fit_is_padded_with_its_border(model):
    grey = torch.full((1, 3, 64, 64), 0.1)
    for ours, whole in zip(model.pyramid(grey[..., :40, :40]), model.pyramid(grey), strict=True):
        assert torch.equal(ours, whole)
    zeros = mask_rcnn_fpn("resnet18", 3).eval()  # of the mean colour, as published weights know it
    assert not torch.equal(zeros.pyramid(grey[..., :40, :40])[0], zeros.pyramid(grey)[0])


def test_options_of_the_box_loss():
    torch.manual_seed(0)
    model = mask_rcnn_fpn("resnet18", 3, class_agnostic=True, box_loss="giou").eval()
    targets = Targets(instances=[objects([(4, 4, 40, 50)], [2])])
    out = model(some_images(1), targets)
    assert out.box_deltas.shape[2:] == (1, 4)
    n = int((out.matches >= 0).sum())
    moved = decode_boxes(out.box_deltas[0, :n, 0], out.regions[0, :n], BOX_WEIGHTS)
    from torchvision.ops import generalized_box_iou_loss

    want = generalized_box_iou_loss(moved, targets.instances[0].boxes.expand(n, 4), reduction="sum")
    torch.testing.assert_close(model.loss(out, targets)["box"], want / (out.matches > -2).sum())


def test_frozen_parts_do_not_learn():
    model = mask_rcnn_fpn("resnet18", 3, frozen=True)
    names = {n.split(".")[1] for n, p in model.encoder.named_parameters(prefix="encoder") if not p.requires_grad}
    assert names == {"conv1", "layer1"}
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_detections_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 60, 60], [5, 5, 5, 9]]).view(1, 4, 1, 4)
    scores = torch.tensor([[0.9, 0.04], [0.8, 0.7], [0.3, 0.6], [0.99, 0.99]]).view(1, 4, 2)
    found, labels, points = detect(boxes, scores, (40, 50), count=5)
    assert points[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.3, 0])  # box 1 of class 0 is a duplicate of box 0
    assert labels[0].tolist() == [0, 1, 1, 0, 0]
    assert found[0].tolist() == [[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 50, 40], [30, 30, 50, 40], [0, 0, 0, 0]]
    assert detect(boxes, scores, (40, 50), count=2)[2][0].tolist() == pytest.approx([0.9, 0.7])
    two = detect(boxes.expand(2, -1, -1, -1), torch.cat([scores * 0, scores]), (40, 50), count=2)
    assert two[2].tolist() == [[0, 0], pytest.approx([0.9, 0.7])]
    assert detect(boxes[:, :0], scores[:, :0], (40, 50), count=2)[0].tolist() == [[[0] * 4] * 2]


def test_it_learns_two_scenes_by_heart():
    torch.manual_seed(0)
    data = Scenes(2, size=64)
    batch = collate([data[0], data[1]])
    model = mask_rcnn_tiny(7).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    totals = []
    for _ in range(40):
        losses = model.loss(model(batch.images, batch.targets), batch.targets)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-5:]) < 0.6 * sum(totals[:5])
