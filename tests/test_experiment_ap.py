"""Chapter 9's experiment: rates that do what they say, errors one at a time, and sets of images that repeat."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seglib.book.checks import examine
from seglib.book.exercises import CHECKS, ch09
from seglib.book.experiments import ap_errors
from seglib.book.experiments.ap_detections import USUAL, Noise, detect, redraw
from seglib.metrics.ap_matching import match
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances


def squares(n, side=10, size=120):
    """n squares in a row of an image, of classes 0, 1, 2, 0, …"""
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for i in range(n):
        masks[i, 50 : 50 + side, 4 + i * (side + 4) : 4 + i * (side + 4) + side] = True
    return Instances(masks, torch.arange(n) % 3, masks_to_boxes(masks))


TARGET = squares(8)


def drawn(noise, seed=0, image=0, target=TARGET):
    return detect(target, noise, seed, image, 3)


def many(noise, images=100):
    """The detections of many images, and how many objects there were."""
    return [drawn(noise, image=i) for i in range(images)], 8 * images


def test_with_all_rates_at_0_the_truth_comes_back():
    made = drawn(Noise())
    order = made.source.argsort()
    assert torch.equal(made.instances[order].masks, TARGET.masks)
    assert torch.equal(made.instances[order].labels, TARGET.labels)
    assert torch.equal(made.instances[order].boxes, TARGET.boxes)
    assert not made.second.any()
    assert (made.instances.scores.diff() <= 0).all()


def test_detections_repeat_and_seeds_and_images_differ():
    same = [drawn(USUAL, seed=1, image=2).instances.scores.tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert drawn(USUAL, seed=2, image=2).instances.scores.tolist() != same[0]
    assert drawn(USUAL, seed=1, image=3).instances.scores.tolist() != same[0]


def test_shares_are_met():
    # 800 objects: a share of 0.3 has a standard deviation of 0.016
    made, objects = many(Noise(missed=0.3))
    assert sum(len(m.source) for m in made) / objects == pytest.approx(0.7, abs=0.05)
    made, objects = many(Noise(duplicates=0.3, background=0.5))
    assert sum(int(m.second.sum()) for m in made) / objects == pytest.approx(0.3, abs=0.05)
    assert sum(int((m.source < 0).sum()) for m in made) / objects == pytest.approx(0.5, abs=0.08)
    made, objects = many(Noise(confused=0.3))
    wrong = sum(int((m.instances.labels != TARGET.labels[m.source]).sum()) for m in made)
    assert wrong / objects == pytest.approx(0.3, abs=0.05)
    assert {int(label) for m in made for label in m.instances.labels} == {0, 1, 2}


def test_small_objects_are_lost_more_often():
    sides = (4, 30)
    found = [len(drawn(Noise(lost=0.8), image=i, target=squares(3, side)).source) for side in sides for i in range(60)]
    small, large = sum(found[:60]) / 180, sum(found[60:]) / 180
    assert small == pytest.approx(1 - 0.8 * np.exp(-4 / 16), abs=0.12)
    assert large == pytest.approx(1 - 0.8 * np.exp(-30 / 16), abs=0.12)


def test_changing_one_rate_leaves_the_other_errors_where_they_were():
    few, lot = drawn(Noise(missed=0.3)), drawn(Noise(missed=0.3, duplicates=1, background=1, confused=0.5))
    first = lot.source[(lot.source >= 0) & ~lot.second]
    assert sorted(first.tolist()) == sorted(few.source.tolist())


def test_pixels_move_a_mask_by_that_distance():
    made = drawn(Noise(pixels=5))
    moved = made.instances.boxes[:, :2] - TARGET.boxes[made.source, :2]
    assert moved.norm(dim=1).sub(5).abs().max() <= 1  # rounded to whole pixels on both axes
    assert len(moved.unique(dim=0)) > 3


def test_better_masks_and_right_classes_get_higher_scores_on_average():
    def mean(noise):
        return torch.cat([m.instances.scores for m in many(noise, 20)[0]]).mean()

    assert mean(Noise()) > mean(Noise(shift=0.1)) > mean(Noise(shift=0.2)) > mean(Noise(shift=0.2, confused=1))


def test_a_mask_is_redrawn_by_whole_pixels_and_cut_at_the_border():
    mask = squares(1).masks[0]  # rows 50 to 59, columns 4 to 13
    assert torch.equal(redraw(mask, 2, -1, 0), mask.roll((2, -1), (0, 1)))
    assert redraw(mask, 0, -9, 0).sum() == 50  # five of ten columns are left
    assert not redraw(mask, 0, -20, 0).any()
    assert redraw(mask, 0, 0, 1).sum() == 12 * 12 and redraw(mask, 0, 0, -1).sum() == 8 * 8
    assert torch.equal(redraw(mask, 0, 0, -9), mask)  # nothing would be left
    empty = torch.zeros_like(mask)
    assert torch.equal(redraw(empty, 1, 1, 1), empty)


def test_an_image_without_objects_has_no_detections():
    nothing = drawn(USUAL, target=TARGET[:0])
    assert len(nothing.instances) == 0 and nothing.instances.masks.shape == (0, 120, 120)
    assert len(drawn(Noise(missed=1)).instances) == 0


def test_a_rate_out_of_range_is_named():
    with pytest.raises(ValueError, match="missed is 1.5"):
        Noise(missed=1.5)
    with pytest.raises(ValueError, match=r"shift is -0\.1"):
        Noise(shift=-0.1)


def test_errors_cost_what_they_must():
    targets = [squares(6), squares(8)]
    rows = ap_errors.error_costs(targets, 0, ["missed", "pixels"], rates=3)
    assert [(r["error"], r["rate"]) for r in rows] == [
        (k, r) for k in ("missed", "pixels") for r in ap_errors.ERRORS[k][1][:3]
    ]
    assert rows[0]["ap"] == rows[3]["ap"] == pytest.approx(1)
    for row in rows[:3]:
        assert row["ap"] == row["ap50"] == row["ap75"]  # the masks are exact
    assert rows[4]["ap50"] > rows[4]["ap"]  # moved by a pixel


def test_metrics_put_together_equal_one_metric():
    targets = [squares(5), squares(8), squares(3)]
    metrics = [ap_errors.one_image(t, USUAL, 0, i) for i, t in enumerate(targets)]
    whole = ap_errors.together(metrics)
    metric = ap_errors.AveragePrecision(len(ap_errors.THINGS))
    for i, t in enumerate(targets):
        metric.update(detect(t, USUAL, 0, i, len(ap_errors.THINGS)).instances, t)
    assert metric.compute().ap == whole.ap
    assert ap_errors.together([metrics[0], metrics[0]]).counts[0, 0] == 2 * ap_errors.together(metrics[:1]).counts[0, 0]


def test_a_bootstrap_draws_the_same_images_for_all_detectors():
    metrics = [ap_errors.one_image(squares(n), replace(USUAL, lost=0.0), 0, n) for n in (3, 5, 8)]
    found = ap_errors.bootstrap([metrics, metrics], 5, seed=0)
    assert found.shape == (5, 2) and np.array_equal(found[:, 0], found[:, 1])
    assert np.array_equal(found, ap_errors.bootstrap([metrics, metrics], 5, seed=0))
    assert len(set(found[:, 0])) > 1


def test_the_experiment_runs_at_a_small_budget_and_repeats():
    small = {"seeds": [0, 1], "steps": 3, "scenes": 4, "error_scenes": 1, "sizes": (2, 4), "size": 64}
    lines = []
    found = ap_errors.run(**small, report=lines.append)
    assert len(found["errors"]) == 2 * sum(len(rates) for _, rates in ap_errors.ERRORS.values())
    assert [(r["seed"], r["images"]) for r in found["sets"]] == [(0, 2), (0, 2), (0, 4), (1, 2), (1, 2), (1, 4)]
    assert [(r["seed"], r["images"]) for r in found["bootstrap"]] == [(0, 2), (0, 4), (1, 2), (1, 4)]
    assert all(low <= high for r in found["bootstrap"] for low, high in (r["usual"], r["paired"], r["unpaired"]))
    assert found["detectors"]["better"]["shift"] < found["detectors"]["usual"]["shift"]
    assert lines[0].startswith("seed 0: 36 rows")
    assert found == ap_errors.run(**small)


def test_a_set_larger_than_the_scenes_is_refused():
    with pytest.raises(ValueError, match="every set within the scenes"):
        ap_errors.run(seeds=[0], steps=1, scenes=10, sizes=(20,))


def test_the_exercises_matching_is_seglibs():
    assert CHECKS["ch09.match"].solution is ch09.match_greedily
    for iou, threshold in CHECKS["ch09.match"].probes().values():
        d, g = iou.shape
        none, table = np.zeros((g, 1), bool), iou.double().numpy()
        classes = np.zeros(d, int), np.zeros(g, int), np.zeros(g, bool)
        found, _ = match(table, *classes, none, np.array([threshold]))
        assert found[:, 0, 0].tolist() == [taken >= 0 for taken in ch09.match_greedily(iou.double(), threshold)]


def test_all_thresholds_at_once_solve_chapter_9():
    def solution(scores, correct, objects):
        levels = scores.unique().flip(0)
        kept = scores >= levels[:, None]
        f1 = 2 * (kept & correct).sum(1) / (kept.sum(1) + objects)
        return float(levels[f1.argmax()])

    assert examine("ch09.threshold", solution).passed
    assert examine("ch09.threshold", ch09.best_threshold).passed
