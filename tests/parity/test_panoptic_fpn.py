"""seglib's Panoptic FPN equals Detectron2's: weights under the official checkpoint's keys, through the converter."""

import functools
from dataclasses import replace

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

from seglib.models.panoptic_fpn import semantic_to_stuff
from seglib.models.zoo import build
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Instances
from seglib.weights import convert
from seglib.weights.detectron2 import MASK_RCNN, RESNET_FPN, SEMANTIC_FPN

pytestmark = pytest.mark.slow

THINGS = 80


@functools.cache
def setup():
    return converted("panoptic_fpn_r50_3x", "detectron2:panoptic_fpn_R_50")


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden), sizes=SIZES)


def test_the_semantic_branch():
    golden, model = setup()
    logits = output().semantic_logits
    golden.check("small/sem_seg.predictor", logits)
    full = model._upsample(logits)
    golden.check("small/sem_seg.logits", full)
    assert_labels(full.argmax(1), golden["small/sem_seg.argmax"])


@pytest.mark.parametrize("i", [0, 1])
def test_stuff_is_decided_at_the_size_of_the_image_without_its_padding(i):
    golden, model = setup()
    stuff = model.stuff(output(), SIZES)[i]
    assert_labels(
        semantic_to_stuff(stuff.masked_fill(stuff == VOID, 0), THINGS), golden[f"panoptic/image{i}.semantic_argmax"]
    )


@pytest.mark.parametrize("i", [0, 1])
def test_detections_before_the_merge(i):
    golden, model = setup()
    found = model.things(output(), SIZES)[i]
    found = found[found.scores > golden.meta["score_threshold"]["detect"][f"image{i}"]]
    check_detections(golden, f"detect/image{i}", found)


@pytest.mark.parametrize("i", [0, 1])
def test_the_whole_model(i):
    golden, model = setup()
    key = f"image{i}"
    model.merge = settings(golden.meta["thresholds"]["panoptic"][key])
    found = model.postprocess(output(), SIZES)[i]
    # pasted masks differ in a few pixels of their edges (`tolerance` in the fixture), and areas with them
    assert (found.map != golden[f"panoptic/{key}.map"]).float().mean() <= 2e-4
    check_segments(found.segments, golden.meta[f"{key}.segments"]["panoptic"], pixels=4)


@pytest.mark.parametrize("impl", ["fast", "reference"])
@pytest.mark.parametrize("setting", [0, 1, 2, 3])
def test_the_merge_of_given_masks(setting, impl):
    golden, _ = setup()
    masks, classes = golden["combine/masks"], golden["combine/classes"].long()
    instances = Instances(masks, classes, torch.zeros(len(masks), 4), golden["combine/scores"])
    labels = golden["combine/semantic"].long()
    stuff = torch.where(labels == 0, VOID, labels + THINGS - 1)
    s = settings(golden.meta[f"setting{setting}"]["combine"])
    found = merge_panoptic(instances, stuff, s, num_things=THINGS, impl=impl)
    wanted = golden.meta[f"setting{setting}.segments"]["combine"]
    # without a limit the reference lists classes that have no free pixel; a segment has at least one here
    assert all(w["area"] == 0 for w in wanted[len(found.segments) :])
    assert torch.equal(found.map, golden[f"combine/setting{setting}.map"].int())
    check_segments(found.segments, wanted[: len(found.segments)], pixels=0)


def test_losses_and_gradients_on_the_stored_samples():
    golden, _ = setup()
    model = build(
        "panoptic_fpn_resnet50", num_things=80, num_stuff=53, frozen=True, stride_in_1x1=True, sampling_ratio=0
    )
    model.load_state_dict(setup()[1].state_dict())
    labels = torch.full((2, 128, 160), VOID)
    for i, (height, width) in enumerate(SIZES):
        of_head = golden[f"loss/target{i}.sem_seg"].long()  # 0 for every thing, 1 … 53 stuff, 255 void
        labels[i, :height, :width] = torch.where((of_head == 0) | (of_head == VOID), of_head, of_head + THINGS - 1)
    truth = replace(targets(golden), semantic=labels)
    losses = losses_on_stored_samples(golden, model, truth, lambda out: out.detector)
    check_losses(golden, losses, {**DETECTRON2_LOSSES, "semantic": "loss_sem_seg"})
    check_gradients(golden, model, [*RESNET_FPN, *MASK_RCNN, *SEMANTIC_FPN], sum(losses.values()))


def test_the_weights_carry_the_classes_and_ids_of_cocos_panoptic_annotations():
    golden, _ = setup()
    metadata = convert("detectron2:panoptic_fpn_R_50", golden.state)[2]
    names = [c["name"] for c in metadata["categories"]]
    ids = metadata["file_ids"]
    assert len(names) == len(ids) == 133 and sorted(ids) == ids
    assert (names[0], ids[0]) == ("person", 1) and (names[79], ids[79]) == ("toothbrush", 90)
    assert (names[80], ids[80]) == ("banner", 92) and (names[132], ids[132]) == ("rug-merged", 200)
    assert [c["isthing"] for c in metadata["categories"]] == [True] * 80 + [False] * 53


def settings(stored):
    return MergeSettings(stored["instances_score_thresh"], stored["overlap_threshold"], stored["stuff_area_thresh"])


def assert_labels(found, wanted):
    # two classes may tie up to rounding: measured none
    assert (found != wanted).float().mean() <= 2e-4


def check_segments(found, wanted, pixels):
    """The same segments in the same order; areas, where the reference has them, up to a few ``pixels``."""
    assert len(found) == len(wanted)
    for mine, other in zip(found, wanted, strict=True):
        category = other["category_id"] if other["isthing"] else other["category_id"] + THINGS - 1
        assert (mine.id, mine.isthing, mine.category_id) == (other["id"], other["isthing"], category)
        if mine.isthing:
            assert mine.score == pytest.approx(other["score"], rel=1e-3)
        else:
            assert abs(mine.area - other["area"]) <= pixels
