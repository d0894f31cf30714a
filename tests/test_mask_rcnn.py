"""Mask R-CNN: what its options do, what it refuses, and that it learns."""

import copy
from dataclasses import replace

import pytest
import torch
from slim import SLIM

from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.layers.anchors import Anchors
from seglib.layers.fpn import FPN, TopPool
from seglib.layers.roi_heads import BoxHead
from seglib.layers.rpn import RPNHead
from seglib.layers.tiny import TinyEncoder
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.metrics import CocoObjects, coco_objects
from seglib.models.mask_rcnn import MaskRCNN, mask_rcnn_fpn, mask_rcnn_tiny, tiny_parts
from seglib.models.two_stage import RoISettings, sample_rois
from seglib.ops.boxes import box_iou, decode_boxes
from seglib.ops.masks import masks_to_boxes
from seglib.ops.paste import MaskGrids
from seglib.ops.rle import encode_rle
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


def test_with_targets_the_second_stage_sees_a_sample_of_foreground_and_background(model):
    torch.manual_seed(0)
    targets = Targets(instances=[objects([(4, 4, 30, 30), (40, 10, 60, 50)], [2, 0]), objects([(8, 8, 20, 40)], [1])])
    out = model(some_images(), targets)
    assert out.rois.shape[:2] == out.matches.shape and out.matches.shape[1] <= model.roi.batch_size_per_image
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
    assert torch.equal(out.rois, out.proposals) and (out.matches[out.proposal_scores > -torch.inf] == -1).all()
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
    rois, matches = sample_rois(torch.zeros(1, 5, 4), torch.full((1, 5), -torch.inf), [truth], RoISettings())
    assert rois[0].tolist() == [[10, 10, 20, 20]] + [[0] * 4] * 5 and matches.tolist() == [[0] + [-2] * 5]


def test_a_sampler_of_ones_own_chooses_rois_and_foreground_comes_first():
    truth = objects([(10, 10, 20, 20)])
    proposals = torch.tensor([[[40.0, 40, 50, 50], [11, 10, 21, 20]]])
    asked = []

    def sampler(matches, batch_size, positive_fraction):
        asked.append((matches.tolist(), batch_size, positive_fraction))
        return torch.tensor([1, 2])

    settings = RoISettings(batch_size_per_image=4, sampler=sampler)
    rois, matches = sample_rois(proposals, torch.zeros(1, 2), [truth], settings)
    assert asked == [([0, -1, 0], 4, 0.25)]  # the object's own box, then the proposals
    assert rois[0].tolist() == [[11, 10, 21, 20], [40, 40, 50, 50], [0, 0, 0, 0]] and matches.tolist() == [[0, -1, -2]]
    greedy = replace(settings, sampler=lambda matches, batch_size, positive_fraction: torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="chose 2 RoIs of image 0, 2 of them foreground; the settings allow 4 and 1"):
        sample_rois(proposals, torch.zeros(1, 2), [truth], greedy)


def test_a_sampler_of_ones_own_chooses_the_anchors_of_the_loss():
    model = mask_rcnn_tiny(3).eval()
    targets = Targets(instances=[objects([(4, 4, 30, 30)])])
    torch.manual_seed(0)
    out = model(some_images(1), targets)
    model.rpn = replace(model.rpn, sampler=lambda matches, batch_size, fraction: (matches == -1).nonzero()[:7, 0])
    losses = model.loss(out, targets)
    assert losses["anchor"] == 0
    picked = (box_iou(targets.instances[0].boxes, out.anchors)[0] < 0.3).nonzero()[:7, 0]
    want = torch.nn.functional.softplus(out.objectness[0, picked]).mean()  # −log(1 − sigmoid)
    torch.testing.assert_close(losses["objectness"], want)


def test_an_object_that_no_anchor_fits_still_has_its_best_anchor():
    model = mask_rcnn_tiny(3).eval()
    targets = Targets(instances=[objects([(4, 30, 60, 33)])])  # far too thin for ratios of 1 : 2
    asked = []

    def sampler(matches, batch_size, positive_fraction):
        asked.append(matches)
        return torch.arange(5)

    model.rpn = replace(model.rpn, sampler=sampler)
    out = model(some_images(1), targets)
    model.loss(out, targets)
    iou = box_iou(targets.instances[0].boxes, out.anchors)[0]
    assert iou.max() < 0.3
    assert torch.equal(asked[0] == 0, iou == iou.max())


def test_no_image_has_objects_or_proposals():
    none = objects([])
    rois, matches = sample_rois(torch.zeros(1, 5, 4), torch.full((1, 5), -torch.inf), [none], RoISettings())
    assert not rois.any() and (matches == -2).all()
    model = mask_rcnn_tiny(3).eval()
    model.rpn = replace(model.rpn, min_size=1e6)  # every proposal is too small
    assert [len(p) for p in model.predict(some_images())] == [0, 0]
    targets = Targets(instances=[none, none])
    losses = model.loss(model(some_images(), targets), targets)
    assert all(torch.isfinite(v) for v in losses.values()) and losses["class"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.replace(boxes=o.boxes * float("nan")), r"boxes of image 1\[0\] is \[nan.*isn't finite"),
        (lambda o: o.replace(boxes=o.boxes[:, [2, 3, 0, 1]]), r"boxes of image 1\[0\].*without width or height"),
        (lambda o: o.replace(labels=o.labels + 3), r"image 1 has the labels \[3\], the model knows 0..2"),
        (lambda o: o.replace(labels=o.labels - 1), r"labels \[-1\]"),
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
        RoISettings(pooling="warp")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        mask_rcnn_tiny(0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rpn_head": RPNHead(48, 5)}, r"are \(3, 3, 3\), the heads were built for \(5, 3, 3\); pass anchors="),
        ({"num_classes": 4}, r"are \(3, 4, 4\), the heads were built for \(3, 3, 3\)"),
        ({"box_head": BoxHead(48, 2, hidden=8)}, r"built for \(3, 2, 3\)"),
        ({"levels": ("c2", "c3", "c4", "c5")}, r"strides \(2, 4, 8, 16, 32\), and the encoder's maps c2, c3, c4, c5"),
        ({"anchors": Anchors()}, r"anchors have strides \(4, 8, 16, 32, 64\), and the encoder's maps c1, c2"),
        ({"anchors": Anchors(sizes=((8,), (16,)), strides=(2, 4))}, "anchors have strides"),
        ({"fpn": FPN([8, 8], 48)}, "the FPN was built for 2 maps, the model takes 5 of the encoder"),
        ({"fpn": FPN([8] * 5, 48, top_block=TopPool())}, "anchors are of 5 levels, the FPN has 6"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNN(**(tiny_parts(3) | parts))


def test_a_top_block_of_ones_own_need_not_say_how_many_levels_it_adds():
    class Two(torch.nn.Module):
        def forward(self, maps, pyramid):
            return [pyramid[-1], pyramid[-1]]

    parts = tiny_parts(3)
    fpn = FPN(list(TinyEncoder().channels.values()), 48, top_block=Two())
    anchors = Anchors(sizes=((6,),) * 6, strides=(2, 4, 8, 16, 32, 64), offset=0.5)
    net = MaskRCNN(**(parts | {"fpn": fpn, "anchors": anchors}))
    with pytest.raises(ValueError, match="anchors of 6 levels got 7 maps"):
        net(some_images())


def test_an_image_that_does_not_fit_is_padded_with_its_border(model):
    grey = torch.full((1, 3, 64, 64), 0.1)
    for part, whole in zip(model.pyramid(grey[..., :40, :40]), model.pyramid(grey), strict=True):
        assert torch.equal(part, whole)
    zeros = mask_rcnn_fpn("resnet18", 3).eval()  # of the mean colour, as published weights know it
    assert not torch.equal(zeros.pyramid(grey[..., :40, :40])[0], zeros.pyramid(grey)[0])


def test_options_of_the_box_loss():
    torch.manual_seed(0)
    model = mask_rcnn_fpn("resnet18", 3, class_agnostic=True, box_loss="giou").eval()
    targets = Targets(instances=[objects([(4, 4, 40, 50)], [2])])
    out = model(some_images(1), targets)
    assert out.box_deltas.shape[2:] == (1, 4)
    n = int((out.matches >= 0).sum())
    moved = decode_boxes(out.box_deltas[0, :n, 0], out.rois[0, :n], BOX_WEIGHTS)
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
    found, labels, points = detect(boxes, scores, (40, 50), max_detections=5)
    assert points[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.3, 0])  # box 1 of class 0 is a duplicate of box 0
    assert labels[0].tolist() == [0, 1, 1, 0, 0]
    assert found[0].tolist() == [[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 50, 40], [30, 30, 50, 40], [0, 0, 0, 0]]
    assert detect(boxes, scores, (40, 50), max_detections=2)[2][0].tolist() == pytest.approx([0.9, 0.7])
    two = detect(boxes.expand(2, -1, -1, -1), torch.cat([scores * 0, scores]), (40, 50), max_detections=2)
    assert two[2].tolist() == [[0, 0], pytest.approx([0.9, 0.7])]
    assert detect(boxes[:, :0], scores[:, :0], (40, 50), max_detections=2)[0].tolist() == [[[0] * 4] * 2]


def test_detections_of_one_image_do_not_suppress_those_of_another():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]]).view(2, 1, 1, 4)  # one in each image, IoU 9/11
    found, labels, scores = detect(boxes, torch.tensor([0.9, 0.8]).view(2, 1, 1), (40, 50), max_detections=2)
    assert scores.tolist() == [pytest.approx([0.9, 0]), pytest.approx([0.8, 0])]
    assert found[:, 0].tolist() == [[0, 0, 10, 10], [1, 0, 11, 10]]


def test_a_score_must_exceed_the_threshold():
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]).view(1, 2, 1, 4), torch.tensor([0.5, 0.75])
    found = detect(boxes, scores.view(1, 2, 1), (40, 50), threshold=0.5, max_detections=2)
    assert found[2].tolist() == [[0.75, 0]]


def test_detections_are_cut_at_the_borders_of_their_own_image():
    boxes = torch.tensor([[[-5.0, 2, 30, 60]], [[-5.0, 2, 30, 60]]])[:, :, None]  # (2, 1, 1, 4)
    found = detect(boxes, torch.ones(2, 1, 1), torch.tensor([[40, 50], [20, 10]]), max_detections=1)[0]
    assert found.tolist() == [[[0, 2, 30, 40]], [[0, 2, 10, 20]]]


def mixed_batch():
    """Three images of different sizes in one batch. What lies beyond them is noise, which nothing may see."""
    sizes = [(64, 96), (40, 70), (64, 33)]
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return images, sizes


def test_nothing_sees_what_lies_beyond_an_image(model):
    images, sizes = mixed_batch()
    other = 1 - images
    for i, (height, width) in enumerate(sizes):
        other[i, :, :height, :width] = images[i, :, :height, :width]
    assert not torch.equal(other, images)
    with torch.no_grad():
        outputs = [vars(model(x, sizes=sizes)).values() for x in (images, other)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("padding", ["constant", "replicate"])
def test_no_box_reaches_beyond_its_image(padding):
    torch.manual_seed(0)
    model = mask_rcnn_tiny(3).eval()
    model.padding = padding
    model.detections = replace(model.detections, threshold=0.0)
    images, sizes = mixed_batch()
    with torch.no_grad():
        out = model(images, sizes=sizes)
    assert out.sizes.tolist() == [list(size) for size in sizes]
    for boxes in (out.proposals, out.boxes):
        limit, far = torch.tensor(sizes).flip(1), boxes[..., 2:].amax(1)  # (B, 2) width, height
        assert (far <= limit).all() and (boxes >= 0).all()
        assert far[2, 0] == 33  # the last image is narrow: some boxes would reach further
    for found, size in zip(model.postprocess(out, sizes), sizes, strict=True):
        assert found.size == size and found.masks.shape[1:] == size


def test_a_batch_of_mixed_sizes_predicts_what_its_images_do_alone(model):
    images, sizes = mixed_batch()
    wanted = [(128, 192), (40, 70), (50, 50)]
    together = model.predict(images, sizes, wanted)
    for i, (found, (height, width)) in enumerate(zip(together, sizes, strict=True)):
        alone = model.predict(images[i : i + 1, :, :height, :width], output_sizes=wanted[i : i + 1])[0]
        assert found.size == wanted[i] and len(found) == len(alone) > 0
        for name in ("boxes", "labels", "scores", "masks"):
            assert torch.equal(getattr(found, name), getattr(alone, name))


def test_boxes_and_masks_come_back_at_the_size_that_is_wanted():
    model = mask_rcnn_tiny(3)
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.eval()(some_images(1))
    box = torch.tensor([8.0, 16, 32, 64])
    out = replace(
        out, boxes=box.expand(1, 100, 4), scores=torch.arange(100.0, 0, -1)[None] / 100,
        mask_logits=torch.full((1, 100, 28, 28), 9.0),
    )  # fmt: skip
    found = model.postprocess(out, [(64, 64)], [(32, 256)])[0]
    assert len(found) == 100 and found.boxes[0].tolist() == [32, 8, 128, 32]  # x times 4, y by half
    want = torch.zeros(32, 256, dtype=torch.bool)
    want[8:32, 32:128] = True
    assert torch.equal(found[0].masks[0], want)
    beyond = model.postprocess(out, [(64, 8)])[0]  # the image ends where the boxes begin
    assert len(beyond) == 0


def test_predictions_stay_grids_until_masks_are_asked_for(model, monkeypatch):
    pasted = []
    dense = MaskGrids.dense
    monkeypatch.setattr(MaskGrids, "dense", lambda grids: pasted.append(len(grids)) or dense(grids))
    found = model.predict(some_images(1), output_sizes=[(3000, 4000)])[0]
    assert len(found) > 10
    few = found[found.scores >= found.scores[4]].to("cpu")
    assert len(few) == 5 and few.size == (3000, 4000) and pasted == []
    assert few.masks.shape == (5, 3000, 4000) and pasted == [5]


def test_packed_masks_are_encoded_a_few_at_a_time(model, monkeypatch):
    pasted = []
    dense = MaskGrids.dense
    monkeypatch.setattr(MaskGrids, "dense", lambda grids: pasted.append(len(grids)) or dense(grids))
    monkeypatch.setattr(coco_objects, "CHUNK", 4 * 64 * 64)
    found = model.predict(some_images(1))[0][:10]
    codes = CocoObjects.from_instances(found, "masks").shapes
    assert pasted == [4, 4, 2]
    assert codes == encode_rle(found.masks) and pasted == [4, 4, 2, 10]  # the instances themselves had stayed packed


@pytest.mark.slow
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


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile asks for it where it breaks the graph
def test_compiled_training_has_the_losses_of_eager_training():
    """Batch norm in the heads counts no empty slot: one image has a single object, the other none."""
    torch.manual_seed(0)
    net = SLIM["mask_rcnn_v2"][1](3).train()
    images = some_images()
    targets = Targets(instances=[objects([[8, 8, 40, 40]]), objects([])])

    def losses(forward):
        torch.manual_seed(1)
        state = copy.deepcopy(net.state_dict())
        found = net.loss(forward(images, targets), targets)
        net.load_state_dict(state)
        return {name: float(value.detach()) for name, value in found.items()}

    torch._dynamo.reset()
    assert losses(torch.compile(net, backend="eager")) == pytest.approx(losses(net), rel=1e-5)
