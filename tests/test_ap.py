"""Average precision by hand on tiny cases, its rules one by one, and the same result however the images arrive."""

import doctest
import json
import math
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.metrics import AveragePrecision, CocoObjects, evaluate_coco
from seglib.metrics.ap_matching import IOU_THRESHOLDS, coco_box_iou, match
from seglib.metrics.ap_scores import RECALLS
from seglib.ops.masks import masks_to_boxes
from seglib.ops.rle import encode_rle
from seglib.types import Category, Instances

# Boxes x, y, width, height of 10 x 10, far from each other.
A, B, C = [0, 0, 10, 10], [50, 0, 10, 10], [0, 50, 10, 10]
NOWHERE = [80, 80, 10, 10]


def score(found, objects, *, classes=1, **more):
    """The scores of one image: found is ``[(box, score)]``, objects ``[box]``, all of class 0."""
    metric = AveragePrecision(classes, "boxes")
    prediction = CocoObjects([box for box, _ in found], [0] * len(found), scores=[s for _, s in found])
    metric.update_coco(prediction, CocoObjects(objects, [0] * len(objects), **more))
    return metric.compute()


def rectangles(*boxes, size=(40, 40), **more):
    """Instances whose masks are those boxes ``xyxy``."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    labels = more.pop("labels", torch.zeros(len(boxes), dtype=torch.long))
    return Instances(masks, labels, masks_to_boxes(masks), **more)


def made_image(seed):
    """A prediction and its target with 3 classes, many equal scores and now and then nothing."""
    g = torch.Generator().manual_seed(seed)
    sides = []
    for n in torch.randint(0, 6, (2,), generator=g).tolist():
        corner, extent = torch.randint(0, 20, (n, 2), generator=g), torch.randint(4, 20, (n, 2), generator=g)
        labels = torch.randint(3, (n,), generator=g)
        sides.append(rectangles(*torch.cat([corner, corner + extent], 1).tolist(), labels=labels))
    found, target = sides
    copied = torch.cat([found.masks, target.masks]), torch.cat([found.labels, target.labels])
    scores = torch.randint(3, (len(copied[1]),), generator=g) / 2
    return (
        Instances(*copied, masks_to_boxes(copied[0]), scores),
        target.replace(iscrowd=torch.rand(len(target), generator=g) < 0.2),
    )


def assert_same(a, b):
    assert a.numbers.keys() == b.numbers.keys()
    for name in ("precision", "recall", "scores", "counts", "class_ap"):
        x, y = getattr(a, name), getattr(b, name)
        assert torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)), name
    assert str(a.numbers) == str(b.numbers)  # as text NaN equals NaN


# By hand -------------------------------------------------------------------------------------------------------------


def test_a_miss_between_two_hits_gives_the_curve_worked_by_hand():
    s = score([(A, 0.9), (NOWHERE, 0.8), (B, 0.7)], [A, B])
    # hit, miss, hit of 2 objects: precision 1 up to recall 1/2, then 2/3 up to recall 1
    expected = np.where(RECALLS <= 0.5, 1, 2 / 3)
    assert s.precision[0, :, 0, 0, 2].tolist() == pytest.approx(expected.tolist())
    assert s.scores[0, :, 0, 0, 2].tolist() == pytest.approx(np.where(RECALLS <= 0.5, 0.9, 0.7).tolist())
    assert (s.ap, s.ap50, s.ap75) == pytest.approx([(51 + 50 * 2 / 3) / 101] * 3)
    assert s.recall[0, 0, 0].tolist() == [0.5, 1.0, 1.0]  # of one detection, of ten, of a hundred
    assert (s.ar1, s.ar10, s.ar100) == (0.5, 1, 1)


def test_precision_is_the_largest_from_a_recall_on():
    s = score([(NOWHERE, 0.9), (A, 0.8), (B, 0.7)], [A, B])
    assert s.precision[0, :, 0, 0, 2].tolist() == pytest.approx([2 / 3] * 101)  # not 1/2 before the second hit
    assert s.scores[0, 0, 0, 0, 2] == pytest.approx(0.9)  # recall 0 is reached by the first detection, a miss
    assert s.scores[0, 1, 0, 0, 2] == pytest.approx(0.8)


def test_recalls_that_are_not_reached_have_precision_0():
    s = score([(A, 0.9)], [A, B])
    assert s.precision[0, :, 0, 0, 2].tolist() == pytest.approx(np.where(RECALLS <= 0.5, 1, 0).tolist())
    assert s.ap == pytest.approx(51 / 101)


def test_two_overlapping_masks_match_up_to_their_iou():
    # 10 x 8 of 10 x 10: IoU 0.8 matches at 0.5, 0.55, ..., 0.8, seven of ten thresholds
    metric = AveragePrecision(1)
    metric.update(rectangles((0, 0, 8, 10), scores=torch.tensor([0.5])), rectangles((0, 0, 10, 10)))
    s = metric.compute()
    assert s.recall[:, 0, 0, 2].tolist() == [1] * 7 + [0] * 3
    assert (s.ap, s.ap50, s.ap75) == pytest.approx((0.7, 1, 1))


@pytest.mark.parametrize(("width", "hits"), [(5, 1), (7.5, 6), (4.999999, 0)])
def test_an_iou_of_exactly_the_threshold_matches(width, hits):
    assert score([([0, 0, width, 10], 0.9)], [A]).recall[:, 0, 0, 2].sum() == hits


def test_classes_are_apart_and_the_mean_runs_over_those_with_objects():
    metric = AveragePrecision(4, "boxes")
    prediction = CocoObjects([A, A, B, C], [0, 1, 1, 3], scores=[0.9, 0.8, 0.7, 0.6])
    metric.update_coco(prediction, CocoObjects([A, B], [0, 1]))
    s = metric.compute()
    # class 0 is found; class 1 at the second try; 2 has nothing; 3 was predicted, but there are no objects to find
    assert s.class_ap[:2].tolist() == pytest.approx([1, 0.5])
    assert s.class_ap[2:].isnan().all() and s.class_ar100[2:].isnan().all()
    assert s.ap == pytest.approx(0.75)
    assert s.counts[:, 0].tolist() == [1, 1, 0, 0]


def test_an_object_is_found_once_and_a_second_detection_of_it_is_wrong():
    s = score([(A, 0.9), (A, 0.8)], [A])
    assert s.ap == pytest.approx(1)  # precision 1/2 comes after recall 1
    assert score([(A, 0.9), (A, 0.8), (B, 0.7)], [A, B]).ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_recall_with_one_with_ten_and_with_a_hundred_detections():
    boxes = [[20 * i, 0, 10, 10] for i in range(110)]
    s = score([(box, 1 - i / 200) for i, box in enumerate(boxes)], boxes)  # each of the 110 objects is found
    assert (s.ar1, s.ar10, s.ar100) == pytest.approx((1 / 110, 10 / 110, 100 / 110))


def test_recall_by_size_is_the_share_of_the_objects_of_that_size():
    small, large = [0, 0, 10, 10], [100, 0, 100, 100]
    others = [[300 + 20 * i, 0, 10, 10] for i in range(3)]
    s = score([(small, 0.9), (large, 0.8)], [small, large, *others])
    assert (s.ar100, s.ar_small, s.ar_large) == pytest.approx((2 / 5, 1 / 4, 1))
    assert math.isnan(s.ar_medium)


def test_the_better_detection_chooses_first_and_takes_the_object_of_largest_iou():
    iou = np.array([[0.6, 0.7], [0.9, 0.0]])  # the first takes the second object, which leaves the first object
    matched, hit = match(iou, np.zeros(2, int), np.zeros(2, int), np.zeros(2, bool), np.zeros((2, 1), bool))
    assert hit[:, 0, 0].tolist() == [True, True] and (matched == hit).all()
    assert hit[:, 0, 3].tolist() == [True, True]  # at 0.65
    assert hit[:, 0, 5].tolist() == [False, True]  # at 0.75 the first finds nothing


def test_of_equal_ious_the_last_object_is_taken():
    iou = np.array([[0.8, 0.8], [0.0, 0.8], [0.8, 0.0]])
    _, hit = match(iou, np.zeros(3, int), np.zeros(2, int), np.zeros(2, bool), np.zeros((2, 1), bool))
    assert hit[:, 0, 0].tolist() == [True, False, True]


def both_matchings(iou, detected, labels, iscrowd, ignored, **more):
    """What the loops and the arrays say, which must be the same."""
    table = np.array(iou, float).reshape(len(detected), len(labels))
    sides = np.array(detected, int), np.array(labels, int), np.array(iscrowd, bool), np.array(ignored, bool)
    loops, arrays = (match(table, *sides, impl=impl, **more) for impl in ("reference", "fast"))
    for a, b in zip(loops, arrays, strict=True):
        assert a.shape == b.shape and np.array_equal(a, b)
    return loops


@given(st.data(), st.integers(0, 7), st.integers(0, 6), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None)  # the first call imports
def test_the_arrays_match_as_the_loops_do(data, detections, objects, areas, classes):
    def draw(values, *shape):
        n = math.prod(shape)
        return np.array(data.draw(st.lists(values, min_size=n, max_size=n))).reshape(shape)

    # few values, so that equal overlaps and overlaps of exactly a threshold are common
    iou = draw(st.sampled_from([0.0, 0.25, 0.49999999, *IOU_THRESHOLDS, 1.0]), detections, objects)
    label, flag = st.integers(0, classes - 1), st.booleans()
    iscrowd, ignored = draw(flag, objects), draw(flag, objects, areas)
    both_matchings(iou, draw(label, detections), draw(label, objects), iscrowd, ignored)


NEITHER, CROWD = [[False]], [[True]]


@pytest.mark.parametrize(
    ("iou", "crowd", "ignored", "matched", "hit"),
    [
        # an overlap of exactly 0.5, and the largest float below it
        ([[0.5]], [0], NEITHER, [1], [1]),
        ([[np.nextafter(0.5, 0)]], [0], NEITHER, [0], [0]),
        # of equal overlaps the last object is taken, so the second detection finds nothing
        ([[0.8, 0.8], [0.0, 0.8]], [0, 0], NEITHER * 2, [1, 0], [1, 0]),
        # all ties: as many hits as objects, the third detection is left over
        ([[0.8, 0.8]] * 3, [0, 0], NEITHER * 2, [1, 1, 0], [1, 1, 0]),
        # a crowd is matched again and again and counts for nothing
        ([[0.9]] * 3, [1], CROWD, [1, 1, 1], [0, 0, 0]),
        # an object that counts comes before an ignored one of larger overlap, in either order
        ([[0.6, 0.9]], [0, 0], [[False], [True]], [1], [1]),
        ([[0.9, 0.6]], [0, 0], [[True], [False]], [1], [1]),
        # an ignored object that is no crowd is taken once
        ([[0.9], [0.9]], [0], CROWD, [1, 0], [0, 0]),
        # when the object is gone the crowd is left
        ([[0.9, 0.6], [0.8, 0.6]], [0, 1], [[False], [True]], [1, 1], [1, 0]),
    ],
)
def test_the_rules_of_matching_by_hand(iou, crowd, ignored, matched, hit):
    sides = [0] * len(iou), [0] * len(crowd)
    out = both_matchings(iou, *sides, crowd, ignored, thresholds=np.array([0.5]))
    assert [side[:, 0, 0].tolist() for side in out] == [[bool(m) for m in matched], [bool(h) for h in hit]]


@pytest.mark.parametrize(("detections", "objects"), [(0, 0), (0, 3), (3, 0)])
def test_matching_with_an_empty_side_finds_nothing(detections, objects):
    empty = both_matchings([], [0] * detections, [0] * objects, [False] * objects, np.zeros((objects, 4)))
    assert all(side.shape == (detections, 4, 10) and not side.any() for side in empty)


def test_a_threshold_of_1_forgives_rounding():
    matched, _ = both_matchings([[1 - 1e-11]], [0], [0], [False], NEITHER, thresholds=np.array([1.0]))
    assert matched.all()


def test_an_unknown_matching_is_refused():
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        match(np.zeros((0, 0)), *[np.zeros(0, int)] * 2, np.zeros(0, bool), np.zeros((0, 1), bool), impl="slow")


# Crowds, sizes, limits -----------------------------------------------------------------------------------------------


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    crowd = [0, 0, 40, 40]  # holds A, which is 1/16 of it: intersection over the detection's area is 1
    alone = score([(A, 0.9), ([20, 20, 5, 5], 0.8), (B, 0.7)], [B, crowd], iscrowd=[False, True])
    assert alone.ap == pytest.approx(1)
    assert alone.counts[0, 0] == 1  # the crowd is no object to find
    assert score([(A, 0.9), (B, 0.7)], [B, crowd]).ap < 0.6  # as an ordinary object it isn't matched


def test_an_object_is_preferred_to_a_crowd_of_larger_overlap():
    smaller = [0, 0, 10, 8]  # IoU 0.8 with A, all of it in the crowd
    s = score([(smaller, 0.9)], [[0, 0, 40, 40], A], iscrowd=[True, False])
    assert s.recall[:, 0, 0, 2].tolist() == [1] * 7 + [0] * 3


def test_objects_of_other_sizes_are_ignored_and_so_are_stray_detections_of_other_sizes():
    small, large, stray = [0, 0, 20, 20], [100, 0, 100, 100], [300, 0, 50, 50]  # the stray one is medium
    s = score([(stray, 0.9), (small, 0.8), (large, 0.7)], [small, large])
    assert (s.ap_small, s.ap_large) == pytest.approx((1, 1))
    assert math.isnan(s.ap_medium) and math.isnan(s.ar_medium)
    assert s.ap == pytest.approx(2 / 3)


def test_an_object_of_exactly_32_by_32_is_small_and_medium():
    s = score([([0, 0, 32, 32], 0.9)], [[0, 0, 32, 32]])
    assert s.counts.tolist() == [[1, 1, 1, 0]]
    assert (s.ap_small, s.ap_medium) == pytest.approx((1, 1))


def test_the_annotated_area_decides_about_an_objects_size():
    s = score([(A, 0.9)], [A], areas=[5000])
    assert s.counts.tolist() == [[1, 0, 1, 0]] and s.ap_medium == pytest.approx(1)


def test_areas_may_be_given_with_instances():
    metric = AveragePrecision(1)
    target = rectangles((0, 0, 10, 10))
    metric.update(target.replace(scores=torch.tensor([1.0])), target, areas=torch.tensor([5000.0]))
    assert metric.compute().counts.tolist() == [[1, 0, 1, 0]]


def test_only_the_hundred_best_detections_of_an_image_and_class_count():
    strays = [(NOWHERE, 1 - i / 1000) for i in range(100)]
    assert score([(A, 0.01), *strays], [A]).ar100 == 0
    assert score([(A, 0.01), *strays[:99]], [A]).ar100 == 1
    metric = AveragePrecision(2, "boxes")
    prediction = CocoObjects([A, *[NOWHERE] * 100], [1] + [0] * 100, scores=[0.01, *[0.5] * 100])
    metric.update_coco(prediction, CocoObjects([A], [1]))
    assert metric.compute().ar100 == 1  # another class, so it is a first


def test_of_equal_scores_the_earlier_detection_counts_first():
    assert score([(A, 0.5), (NOWHERE, 0.5)], [A]).ar1 == 1
    assert score([(NOWHERE, 0.5), (A, 0.5)], [A]).ar1 == 0


# Nothing there -------------------------------------------------------------------------------------------------------


def test_without_objects_every_score_is_nan():
    for s in (AveragePrecision(2).compute(), score([(A, 0.9)], []), score([], [])):
        assert all(math.isnan(v) for v in s.numbers.values()) and len(s.numbers) == 12
        assert s.precision.isnan().all() and s.class_ap.isnan().all()


def test_without_detections_every_score_is_0():
    s = score([], [A])
    assert s.ap == s.ap50 == s.ar100 == s.ap_small == 0
    assert (s.precision[..., 0, :] == 0).all() and (s.scores[..., 0, :] == 0).all()


def test_a_box_without_area_matches_nothing():
    assert score([([5, 5, 0, 0], 0.9)], [A, [5, 5, 0, 0]]).ar100 == 0


def test_an_image_without_anything_changes_nothing():
    metric = AveragePrecision(3)
    prediction, target = made_image(3)
    metric.update(prediction, target)
    before = metric.compute()
    metric.update(prediction[:0], target[:0])
    assert_same(metric.compute(), before)


# The forms of input --------------------------------------------------------------------------------------------------


def test_masks_packed_masks_and_boxes_of_rectangles_score_the_same():
    dense, packed, boxes = AveragePrecision(3), AveragePrecision(3), AveragePrecision(3, "boxes")
    for seed in range(12):
        prediction, target = made_image(seed)
        target = target.replace(iscrowd=None)
        dense.update(prediction, target)
        boxes.update(prediction, target)
        packed.update_coco(
            CocoObjects(encode_rle(prediction.masks), prediction.labels, scores=prediction.scores),
            CocoObjects(encode_rle(target.masks), target.labels.tolist()),
        )
    assert dense.compute().ap > 0.1
    assert_same(packed.compute(), dense.compute())
    assert_same(boxes.compute(), dense.compute())


def test_the_overlap_of_boxes_is_that_of_their_ratio_of_areas():
    found = np.array([[0, 0, 10, 10], [5, 5, 10, 10], [20, 20, 1, 1]], float)
    objects = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)
    iou = coco_box_iou(found, objects, np.array([False, True]))
    assert iou.tolist() == [[1, 1], [25 / 175, 25 / 100], [0, 0]]


def test_a_class_table_says_how_many_classes_there_are_and_names_the_rows():
    table = [Category(0, "car", True, (1, 2, 3)), Category(1, "sky", False, (3, 2, 1))]
    metric = AveragePrecision(table, "boxes")
    metric.update_coco(CocoObjects([A], [0], scores=[0.9]), CocoObjects([A, B], [0, 0]))
    lines = metric.compute().table(table).splitlines()
    assert lines[0].split() == ["class", "AP", "AP50", "AR100"]
    assert lines[1].split() == ["car", "50.5", "50.5", "50.0"]
    assert lines[2].split() == ["sky", "–", "–", "–"]
    assert lines[3].split() == ["mean", "50.5", "50.5", "50.0"]
    assert lines[4] == "AP of objects by size: small 50.5, medium –, large –"
    with pytest.raises(ValueError, match="2 classes need as many names, got 1"):
        metric.compute().table(["car"])


def test_the_example_in_the_docstring_runs():
    names = {"torch": torch, "masks_to_boxes": masks_to_boxes, "Instances": Instances}
    found = doctest.testmod(sys.modules[AveragePrecision.__module__], extraglobs=names)
    assert found.attempted > 4 and found.failed == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_instances_on_a_gpu_score_the_same():
    here, there = AveragePrecision(3), AveragePrecision(3)
    prediction, target = made_image(3)
    here.update(prediction, target)
    there.update(prediction.to("cuda"), target.to("cuda"))
    assert_same(here.compute(), there.compute())


# Streaming -----------------------------------------------------------------------------------------------------------


def filled(order, ids=True):
    metric = AveragePrecision(3)
    for seed in order:
        metric.update(*made_image(seed), image_id=seed if ids else None)
    return metric


def test_with_image_ids_the_order_and_the_grouping_of_images_do_not_matter():
    whole = filled(range(10)).compute()
    assert_same(filled([3, 9, 1, 0, 2, 8, 7, 6, 5, 4]).compute(), whole)
    assert_same(filled([7, 1, 4]).merge(filled([9, 8])).merge(filled([0, 2, 3, 5, 6])).compute(), whole)


def test_without_ids_images_come_in_order_of_arrival_and_merged_ones_after():
    whole = filled(range(10)).compute()
    assert_same(filled(range(10), ids=False).compute(), whole)
    assert_same(filled(range(4), ids=False).merge(filled(range(4, 10), ids=False)).compute(), whole)
    backwards = filled(reversed(range(10)), ids=False).compute()
    assert not torch.equal(backwards.precision.nan_to_num(-1), whole.precision.nan_to_num(-1))  # equal scores


def test_ids_may_be_names():
    metric = AveragePrecision(3)
    for seed in reversed(range(10)):
        metric.update(*made_image(seed), image_id=f"scene-{seed}")
    assert_same(metric.compute(), filled(range(10)).compute())


def test_merging_leaves_the_other_as_it_was_and_computing_changes_nothing():
    a, b = filled(range(3)), filled(range(3, 6))
    before = b.compute()
    a.merge(b)
    assert_same(b.compute(), before)
    assert_same(a.compute(), a.compute())
    b.update(*made_image(7), image_id=7)
    assert_same(a.compute(), filled(range(6)).compute())


def test_reset_forgets():
    metric = filled(range(3))
    metric.reset()
    assert math.isnan(metric.compute().ap)
    metric.update(*made_image(0), image_id=0)
    assert_same(metric.compute(), filled([0]).compute())


def test_no_mask_is_kept():
    metric = AveragePrecision(1)
    target = rectangles((0, 0, 10, 10), (5, 5, 300, 400), size=(480, 640))
    metric.update(target.replace(scores=torch.tensor([0.9, 0.8])), target)
    assert sum(records.nbytes for records in metric._records()) == 2 * 34 + 2 * 16


def test_after_synchronize_only_reset_opens_the_metric_again():
    metric = filled(range(3)).synchronize()
    assert_same(metric.compute(), filled(range(3)).compute())
    for again in (lambda: metric.update(*made_image(4)), lambda: metric.merge(filled([5])), metric.synchronize):
        with pytest.raises(ValueError, match=re.escape("call reset()")):
            again()
    metric.reset()
    metric.update(*made_image(4))


@pytest.mark.slow
def test_processes_together_score_the_whole_and_count_repeated_images_once(tmp_path):
    code = """
        import sys
        import torch.distributed as dist
        from test_ap import assert_same, filled

        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        mine = [1, 5, 3] if rank == 0 else [0, 2, 4, 6, 1, 7]  # shares of different size, 1 in both
        metric = filled(mine)
        assert_same(metric.synchronize().compute(), filled(range(8)).compute())
        assert_same(filled([] if rank else range(4), ids=False).synchronize().compute(), filled(range(4)).compute())
        dist.destroy_process_group()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    here = str(tmp_path.__class__(__file__).parent)
    ranks = [
        subprocess.Popen([*command, str(r), str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=here)
        for r in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


# Bad input -----------------------------------------------------------------------------------------------------------


def test_an_image_that_was_added_before_is_refused():
    metric = filled([1, 2])
    for again in (lambda: metric.update(*made_image(2), image_id=2), lambda: metric.merge(filled([3, 1]))):
        with pytest.raises(ValueError, match="image [12] was added before"):
            again()
    assert_same(metric.compute(), filled([1, 2]).compute())


@pytest.mark.parametrize("other", ["two", None])
def test_ids_of_different_kinds_are_refused(other):
    with pytest.raises(ValueError, match=f"all ints, all strings or all None, got {other!r} after 1"):
        filled([1]).update(*made_image(2), image_id=other)


def test_metrics_of_different_settings_do_not_merge():
    with pytest.raises(ValueError, match="'num_classes': 4.*'num_classes': 3.*same arguments"):
        AveragePrecision(3).merge(AveragePrecision(4))
    with pytest.raises(ValueError, match="'iou_type': 'boxes'.*'iou_type': 'masks'"):
        AveragePrecision(3).merge(AveragePrecision(3, "boxes"))


def test_a_metric_without_classes_or_of_an_unknown_iou_type_is_refused():
    with pytest.raises(ValueError, match="at least one class, got 0"):
        AveragePrecision(0)
    with pytest.raises(ValueError, match="got 'segm'"):
        AveragePrecision(3, "segm")


def test_a_failed_update_leaves_the_metric_as_it_was():
    metric = filled([0, 3])
    prediction, target = made_image(3)
    target = rectangles((0, 0, 5, 5), labels=torch.tensor([3]))
    with pytest.raises(ValueError, match=re.escape("target label 3 is not in 0..2; remap")):
        metric.update(prediction, target, image_id=9)
    assert_same(metric.compute(), filled([0, 3]).compute())
    metric.update(*made_image(9), image_id=9)


def test_bad_predictions_are_named():
    metric = AveragePrecision(3)
    target = rectangles((0, 0, 5, 5))
    with pytest.raises(ValueError, match="the prediction has no scores"):
        metric.update(target, target)
    with pytest.raises(ValueError, match=re.escape("scores[0] is nan, which isn't finite")):
        metric.update(target.replace(scores=torch.tensor([math.nan])), target)
    with pytest.raises(ValueError, match=re.escape("predicted label -1 is not in 0..2")):
        metric.update(target.replace(scores=torch.ones(1), labels=torch.tensor([-1])), target)
    with pytest.raises(
        ValueError, match=re.escape("predicted masks are [40, 40] (height, width), the target's [30, 40]")
    ):
        metric.update(target.replace(scores=torch.ones(1)), rectangles((0, 0, 5, 5), size=(30, 40)))
    with pytest.raises(
        ValueError,
        match="has iou_type 'masks', the predicted shapes are boxes; build it with iou_type='boxes', or pass masks",
    ):
        metric.update_coco(CocoObjects([A], [0], scores=[1.0]), CocoObjects([A], [0]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(shapes=[A, B], labels=[0]), "boxes as numbers of shape (1, 4)"),
        (dict(shapes=[[1, 2, 3]], labels=[0]), "boxes as numbers of shape (1, 4)"),
        (dict(shapes=[[0, 0, -1, 5]], labels=[0]), "boxes[0] is [0.0, 0.0, -1.0, 5.0]; boxes are x, y, width, height"),
        (dict(shapes=[[0, 0, math.inf, 5]], labels=[0]), "boxes[0] is [0.0, 0.0, inf, 5.0], which isn't finite"),
        (dict(shapes=[["0", 0, 1, 5]], labels=[0]), "boxes as numbers"),
        (dict(shapes=[A], labels=[0.5]), "labels are integer class ids"),
        (dict(shapes=[A], labels=[[0]]), "labels are integer class ids"),
        (dict(shapes=[A], labels=[0], scores=[0.5, 0.6]), "scores as numbers of shape (1,)"),
        (dict(shapes=[A], labels=[0], areas=[math.nan]), "areas[0] is nan"),
        (dict(shapes=[A], labels=[0], iscrowd=[True, False]), "iscrowd of shape (1,), got (2,)"),
        (dict(shapes=[{"size": [2, 3], "counts": "231"}], labels=[]), "0 labels need as many codes, got 1"),
        (dict(shapes=[{"size": [2, 3], "counts": "23"}], labels=[0]), "rles[0] is malformed"),
    ],
)
def test_objects_that_are_none_are_refused(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        CocoObjects(**arguments)


# COCO's files --------------------------------------------------------------------------------------------------------


def files():
    """Two images, two categories with a gap, one object each; the first is found, the second isn't."""
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    common = {"iscrowd": 0, "area": 100, "bbox": A, "segmentation": square}
    truth = {
        "images": [{"id": 7, "height": 20, "width": 30}, {"id": 5, "height": 20, "width": 30}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, **common},
            {"id": 2, "image_id": 7, "category_id": 9, **common},
        ],
    }
    code = encode_rle(rectangles((0, 0, 10, 10), size=(20, 30)).masks)[0]
    result = {"image_id": 5, "category_id": 2, "score": 0.9, "bbox": list(A), "segmentation": code}
    return truth, [result, {**result, "image_id": 7, "bbox": B, "category_id": 2}]


@pytest.mark.parametrize("iou_type", ["masks", "boxes"])
def test_classes_come_by_ascending_category_id(iou_type):
    truth, results = files()
    s = evaluate_coco(truth, results, iou_type)
    assert s.class_ap.tolist() == pytest.approx([1, 0])  # 2 (cat), then 9 (dog)


def test_paths_and_contents_score_the_same(tmp_path):
    truth, results = files()
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    assert_same(evaluate_coco(tmp_path / "gt.json", str(tmp_path / "dt.json")), evaluate_coco(truth, results))


def test_the_contents_stay_as_they_were():
    truth, results = files()
    evaluate_coco(truth, results)
    assert (truth, results) == files()


def test_no_results_score_0():
    truth, _ = files()
    assert evaluate_coco(truth, []).ap == 0


def test_boxes_need_no_image_size_and_no_segmentation():
    truth, results = files()
    for row in truth["images"]:
        del row["height"], row["width"]
    for row in [*truth["annotations"], *results]:
        del row["segmentation"]
    assert evaluate_coco(truth, results, "boxes").ap == pytest.approx(0.5)


BAD_RESULTS = [
    (dict(image_id=6), r"results\[1\] has image_id 6, which the ground truth's file doesn't list"),
    (dict(image_id="7"), r"results\[1\] has image_id '7'"),
    (dict(image_id=[7]), r"results\[1\] has image_id \[7\]"),
    (dict(category_id=3), r"results\[1\] has category_id 3"),
    (dict(category_id=None), r"results\[1\] has category_id None"),
    (dict(score=math.nan), r"results\[1\] \(image_id 7, category_id 2\): scores\[0\] is nan"),
    (dict(score="high"), r"results\[1\] .*scores as numbers"),
    (dict(score=...), r"results\[1\] .*has no 'score'"),
]


@pytest.mark.parametrize("iou_type", ["masks", "boxes"])
@pytest.mark.parametrize(("change", "says"), BAD_RESULTS)
def test_a_bad_result_is_named(iou_type, change, says):
    truth, results = files()
    results[1] = {k: v for k, v in (results[1] | change).items() if v is not ...}
    with pytest.raises(ValueError, match=says):
        evaluate_coco(truth, results, iou_type)


@pytest.mark.parametrize(
    ("iou_type", "change", "says"),
    [
        ("boxes", dict(bbox=[0, 0, math.nan, 1]), r"results\[1\] .*isn't finite"),
        ("boxes", dict(bbox=[0, 0, 1]), r"results\[1\] .*shape \(1, 4\)"),
        ("boxes", dict(bbox=None), r"results\[1\] .*shape \(1, 4\)"),
        ("boxes", dict(bbox=...), r"results\[1\] .*has no 'bbox'"),
        ("masks", dict(segmentation=...), r"results\[1\] .*has no 'segmentation'"),
        ("masks", dict(segmentation=None), r"results\[1\] .*a code is"),
        ("masks", dict(segmentation=[[0, 0, 1, 1]]), r"results\[1\] .*at least three points"),
        ("masks", dict(segmentation={"size": [20, 30], "counts": "00"}), r"results\[1\] .*malformed"),
        ("masks", dict(segmentation={"size": [30, 20], "counts": "00"}), r"results\[1\] .*size \[30, 20\], expected"),
    ],
)
def test_a_bad_region_is_named(iou_type, change, says):
    truth, results = files()
    results[1] = {k: v for k, v in (results[1] | change).items() if v is not ...}
    with pytest.raises(ValueError, match=says):
        evaluate_coco(truth, results, iou_type)


def test_masks_of_images_of_different_sizes_are_drawn_and_checked_at_their_own():
    truth, results = files()
    truth["images"][0] |= {"height": 12, "width": 10}  # image 7, whose object reaches to row and column 10
    results[1]["segmentation"] = encode_rle(rectangles((0, 0, 10, 10), size=(12, 10)).masks)[0]
    results[1]["category_id"] = 9
    assert evaluate_coco(truth, results).ap == pytest.approx(1)
    truth["annotations"].reverse()  # image 7 is drawn first
    assert evaluate_coco(truth, results).ap == pytest.approx(1)
    results[1]["segmentation"] = results[0]["segmentation"]
    with pytest.raises(ValueError, match=r"results\[1\] .*size \[20, 30\], expected \[12, 10\]"):
        evaluate_coco(truth, results)


def test_a_bad_ground_truth_is_named():
    truth, results = files()
    with pytest.raises(ValueError, match="has the lists images, categories and annotations"):
        evaluate_coco({"images": []}, results)
    with pytest.raises(ValueError, match="results are a list with one entry per detection, got dict"):
        evaluate_coco(truth, {})
    truth["annotations"][1]["image_id"] = 8
    with pytest.raises(ValueError, match=r"annotations\[1\] has image_id 8"):
        evaluate_coco(truth, results)
    truth, _ = files()
    del truth["annotations"][1]["area"]
    with pytest.raises(ValueError, match=r"annotations\[1\] .*has no 'area'"):
        evaluate_coco(truth, results, "boxes")
    truth, _ = files()
    truth["images"][1]["id"] = 7
    with pytest.raises(ValueError, match=r"images\[1\] has id 7; every one needs an id of its own"):
        evaluate_coco(truth, results)
    truth, _ = files()
    del truth["images"][1]["width"]
    with pytest.raises(ValueError, match="image 5 has height 20 and width None"):
        evaluate_coco(truth, results)


@pytest.mark.parametrize("segmentation", [[], None, [[1, 1, 5, 5]], [[1, 1, 1, 1, 1, 1]]])
def test_annotations_without_a_mask_are_left_out_as_in_the_data_set(segmentation):
    truth, results = files()
    wanted = evaluate_coco(truth, results)
    extra = {"id": 99, "iscrowd": 0, "area": 50, "segmentation": segmentation}
    truth["annotations"].append(truth["annotations"][0] | extra)
    assert evaluate_coco(truth, results).class_ap.tolist() == wanted.class_ap.tolist()


def test_more_than_a_hundred_detections_count_where_the_metric_is_told_so():
    masks = torch.zeros(120, 30, 40, dtype=torch.bool)
    for i in range(120):
        row, column = divmod(i, 20)
        masks[i, 5 * row : 5 * row + 3, 2 * column] = True
    truth = Instances(masks, torch.zeros(120, dtype=torch.int64), masks_to_boxes(masks))
    found = truth.replace(scores=torch.linspace(1, 0.5, 120))
    scores = {}
    for limit in (100, 120):
        metric = AveragePrecision(1, max_detections=limit)
        metric.update(found, truth)
        scores[limit] = metric.compute()
    assert scores[100].ap < 0.85 and scores[120].ap == pytest.approx(1) and scores[120].ar100 == pytest.approx(1)
    with pytest.raises(ValueError, match="different|cannot"):
        metric.merge(AveragePrecision(1))
    with pytest.raises(ValueError, match="max_detections must be above 10"):
        AveragePrecision(1, max_detections=10)


def test_boxes_are_scored_without_pycocotools(monkeypatch):
    truth, results = files()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert evaluate_coco(truth, results, "boxes").ap == pytest.approx(0.5)
    with pytest.raises(ImportError, match="need pycocotools"):
        evaluate_coco(truth, results, "masks")
