"""Panoptic quality by hand, its rules one by one, beside plain loops, and the same result however images arrive."""

import doctest
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seglib.metrics import PanopticQuality, PQMeans, evaluate_coco_panoptic, match_segments, pq
from seglib.ops.panoptic import ids_to_rgb
from seglib.types import Category, Panoptic, Segment

CAT, DOG, SKY, GRASS = range(4)
NAMES = ("cat", "dog", "sky", "grass")
CATEGORIES = [Category(k, name, k < SKY, (0, 0, k)) for k, name in enumerate(NAMES)]

# one sum of at most a few dozen IoUs, in another order: a few units in the last of 16 digits
EXACT = {"rtol": 0, "atol": 1e-12}


def panoptic(rows, classes, *, crowds=()):
    """A map of segment ids, and the class of every id."""
    ids = torch.tensor(rows, dtype=torch.int32)
    segments = [Segment(i, c, c < SKY, int((ids == i).sum()), iscrowd=i in crowds) for i, c in classes.items()]
    return Panoptic(ids, segments)


def score(*pairs, **options):
    """The scores of (prediction, target), …"""
    metric = PanopticQuality(CATEGORIES, **options)
    for prediction, target in pairs:
        metric.update(prediction, target)
    return metric.compute()


def assert_same(a, b):
    for name, value in vars(a).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, getattr(b, name), equal_nan=True, **EXACT)
        elif isinstance(value, PQMeans):
            assert_same(value, getattr(b, name))
        else:
            np.testing.assert_allclose(value, getattr(b, name), **EXACT, err_msg=name)


# By hand


def test_the_examples_of_the_docstrings_hold():
    failed, tried = doctest.testmod(pq, extraglobs={"Segment": Segment})
    assert failed == 0 and tried > 0


def test_two_matches_a_false_positive_and_a_miss_by_hand():
    target = panoptic([[1, 1, 1, 1, 2, 2, 3, 3]], {1: CAT, 2: CAT, 3: SKY})
    prediction = panoptic([[7, 7, 7, 9, 9, 9, 8, 8]], {7: CAT, 8: SKY, 9: DOG})
    found = score((prediction, target))  # cat: IoU 3/4, the other cat missed; dog: found where none is; sky: exact
    assert found.tp.tolist() == [1, 0, 1, 0]
    assert found.fp.tolist() == [0, 1, 0, 0]
    assert found.fn.tolist() == [1, 0, 0, 0]
    assert found.iou.tolist() == [3 / 4, 0, 1, 0]
    nan = torch.nan
    torch.testing.assert_close(found.class_pq, torch.tensor([1 / 2, 0, 1, nan]).double(), equal_nan=True, **EXACT)
    torch.testing.assert_close(found.class_sq, torch.tensor([3 / 4, 0, 1, nan]).double(), equal_nan=True, **EXACT)
    torch.testing.assert_close(found.class_rq, torch.tensor([2, 0, 3, nan]).double() / 3, equal_nan=True, **EXACT)
    assert (found.pq, found.classes) == (1 / 2, 3)
    assert found.things == PQMeans(pq=1 / 4, sq=3 / 8, rq=1 / 3, classes=2)
    assert found.stuff == PQMeans(pq=1, sq=1, rq=1, classes=1)


def test_matches_name_the_segments():
    target = panoptic([[1, 1, 1, 1, 2, 2, 0, 0, 3]], {1: CAT, 2: CAT, 3: SKY})
    prediction = panoptic([[7, 7, 7, 9, 9, 9, 8, 8, 0]], {7: CAT, 8: SKY, 9: DOG})
    found = match_segments(prediction, target)
    assert found.pairs == [(7, 1, 0.75)]
    assert (found.fp, found.fn, found.ignored) == ([9], [2, 3], [8])


# Matching


def test_an_iou_of_one_half_is_no_match_and_a_pixel_more_is():
    target = panoptic([[1] * 6], {1: CAT})
    assert match_segments(panoptic([[1, 1, 1, 0, 0, 0]], {1: CAT}), target).pairs == []
    assert match_segments(panoptic([[1, 1, 1, 1, 0, 0]], {1: CAT}), target).pairs == [(1, 1, 4 / 6)]


def test_a_segment_of_another_class_is_no_match_even_under_the_same_id():
    found = match_segments(panoptic([[1, 1]], {1: DOG}), panoptic([[1, 1]], {1: CAT}))
    assert (found.pairs, found.fp, found.fn) == ([], [1], [1])


def test_void_of_the_target_leaves_the_union_and_void_of_the_prediction_does_not():
    target = panoptic([[1, 1, 0, 0]], {1: CAT})
    prediction = panoptic([[1, 1, 1, 1]], {1: CAT})
    assert match_segments(prediction, target).pairs == [(1, 1, 1.0)]
    swapped = match_segments(target, prediction)
    assert (swapped.pairs, swapped.fp, swapped.fn) == ([], [1], [1])


def test_pixels_of_a_crowd_stay_in_the_union():
    target = panoptic([[1, 1, 1, 2]], {1: CAT, 2: CAT}, crowds=[2])
    assert match_segments(panoptic([[5, 5, 5, 5]], {5: CAT}), target).pairs == [(5, 1, 3 / 4)]


def test_an_unmatched_prediction_is_ignored_when_more_than_half_of_it_is_void():
    target = panoptic([[0, 0, 1, 1, 1]], {1: DOG})
    half = match_segments(panoptic([[0, 5, 5, 0, 0]], {5: CAT}), target)
    assert (half.fp, half.ignored) == ([5], [])
    more = match_segments(panoptic([[5, 5, 5, 0, 0]], {5: CAT}), target)
    assert (more.fp, more.ignored) == ([], [5])


def test_a_crowd_is_neither_matched_nor_missed():
    target = panoptic([[1, 1]], {1: CAT}, crowds=[1])
    found = match_segments(panoptic([[5, 5]], {5: CAT}), target)
    assert (found.pairs, found.fp, found.fn, found.ignored) == ([], [], [], [5])
    assert match_segments(panoptic([[0, 0]], {}), target).fn == []


def test_only_the_crowd_of_the_own_class_excuses_a_prediction():
    target = panoptic([[1, 1]], {1: CAT}, crowds=[1])
    assert match_segments(panoptic([[5, 5]], {5: DOG}), target).fp == [5]


def test_void_and_crowd_together_excuse_a_prediction():
    target = panoptic([[1, 0, 2, 2]], {1: CAT, 2: DOG}, crowds=[1])
    assert match_segments(panoptic([[5, 5, 5, 0]], {5: CAT}), target).ignored == [5]
    assert match_segments(panoptic([[0, 5, 5, 5]], {5: CAT}), target).fp == [5]


def test_of_several_crowds_of_a_class_the_last_in_the_list_counts():
    rows = [[1, 1, 1, 2]]
    prediction = panoptic([[5, 5, 5, 5]], {5: CAT})
    first, last = panoptic(rows, {2: CAT, 1: CAT}, crowds=[1, 2]), panoptic(rows, {1: CAT, 2: CAT}, crowds=[1, 2])
    assert match_segments(prediction, first).ignored == [5]  # three pixels of four
    assert match_segments(prediction, last).fp == [5]  # one pixel of four
    assert match_segments(prediction, last, sum_crowds=True).ignored == [5]
    assert score((prediction, last)).fp.tolist() == [1, 0, 0, 0]
    assert score((prediction, last), sum_crowds=True).fp.tolist() == [0, 0, 0, 0]


def test_crowds_of_two_classes_both_count():
    target = panoptic([[1, 2]], {1: CAT, 2: DOG}, crowds=[1, 2])
    assert match_segments(panoptic([[5, 6]], {5: CAT, 6: DOG}), target).ignored == [5, 6]


def test_a_prediction_marked_as_crowd_is_like_any_other():
    found = match_segments(panoptic([[5, 5]], {5: CAT}, crowds=[5]), panoptic([[1, 1]], {1: CAT}))
    assert found.pairs == [(5, 1, 1.0)]


# Over images

WHOLE = panoptic([[1, 1, 1, 1]], {1: CAT})
THREE_OF_FOUR = panoptic([[1, 1, 1, 0]], {1: CAT})
NOTHING = panoptic([[0, 0, 0, 0]], {})
SKY_ALONE = panoptic([[1, 1, 1, 1]], {1: SKY})
IMAGES = ((THREE_OF_FOUR, WHOLE), (NOTHING, WHOLE), (SKY_ALONE, SKY_ALONE), (NOTHING, NOTHING))


def test_segments_are_added_up_over_the_dataset():
    found = score(*IMAGES)  # cat: 0.75 / (1 + 1/2), sky: 1
    assert (found.class_pq[CAT], found.class_sq[CAT], found.class_rq[CAT]) == (0.5, 0.75, 2 / 3)
    assert (found.pq, found.per_image) == (0.75, False)


def test_per_image_averages_what_each_image_scores_by_itself():
    found = score(*IMAGES, per_image=True)  # the images have PQ 3/4, 0, 1 and none
    assert (found.pq, found.sq, found.rq) == ((3 / 4 + 0 + 1) / 3, (3 / 4 + 0 + 1) / 3, (1 + 0 + 1) / 3)
    assert found.things == PQMeans(pq=3 / 8, sq=3 / 8, rq=1 / 2, classes=1)
    assert found.stuff == PQMeans(pq=1, sq=1, rq=1, classes=1)
    assert (found.class_pq[CAT], found.class_sq[CAT], found.class_rq[CAT]) == (3 / 8, 3 / 8, 1 / 2)
    assert torch.isnan(found.class_pq[[DOG, GRASS]]).all()
    assert (found.classes, found.per_image) == (2, True)
    assert (found.tp.tolist(), found.fn.tolist(), found.iou.tolist()) == ([1, 0, 1, 0], [1, 0, 0, 0], [0.75, 0, 1, 0])


def test_per_image_of_one_image_is_the_score_of_the_dataset():
    pair = made_pair(3)
    one, whole = score(pair, per_image=True), score(pair)
    assert_same(one, whole.__class__(**(vars(whole) | {"per_image": True})))


def test_scores_of_a_merge_are_those_of_all_images():
    for per_image in (False, True):
        pairs = [made_pair(seed) for seed in range(6)]
        metric, other = (PanopticQuality(CATEGORIES, per_image=per_image) for _ in range(2))
        for i, pair in enumerate(pairs):
            (metric if i % 3 else other).update(*pair)
        before = other.counts.clone()
        assert_same(metric.merge(other).compute(), score(*pairs, per_image=per_image))
        assert torch.equal(other.counts, before)


@pytest.mark.parametrize(
    "other",
    [
        PanopticQuality(CATEGORIES, per_image=True),
        PanopticQuality(CATEGORIES, sum_crowds=True),
        PanopticQuality(CATEGORIES[:3]),
        PanopticQuality([Category(k, name, True, (0, 0, k)) for k, name in enumerate(NAMES)]),
    ],
)
def test_metrics_of_other_settings_do_not_merge(other):
    with pytest.raises(ValueError, match="cannot merge"):
        PanopticQuality(CATEGORIES).merge(other)


def test_compute_leaves_the_counts_and_reset_empties_them():
    metric = PanopticQuality(CATEGORIES)
    metric.update(WHOLE, WHOLE)
    metric.compute().iou.zero_()
    assert metric.compute().iou.tolist() == [1, 0, 0, 0]
    metric.reset()
    assert metric.compute().classes == 0


def test_after_synchronize_only_reset_opens_the_metric_again():
    metric = PanopticQuality(CATEGORIES)
    metric.update(WHOLE, WHOLE)
    assert metric.synchronize().compute().pq == 1
    for again in (
        lambda: metric.update(WHOLE, WHOLE),
        lambda: metric.merge(PanopticQuality(CATEGORIES)),
        metric.synchronize,
    ):
        with pytest.raises(ValueError, match="reset"):
            again()
    metric.reset()
    metric.update(WHOLE, WHOLE)


@pytest.mark.slow
def test_two_processes_add_up_to_the_whole(tmp_path):
    code = """
        import sys
        import torch
        import torch.distributed as dist
        from seglib.metrics import PanopticQuality
        from seglib.types import Category, Panoptic, Segment

        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        target = Panoptic(torch.ones(1, 6, dtype=torch.int32), [Segment(1, 0, True, 6)])
        ids = [torch.tensor([[7] * n + [0] * (6 - n)], dtype=torch.int32) for n in (6, 5, 4, 2)]
        pairs = [(Panoptic(i, [Segment(7, 0, True, 0)]), target) for i in ids]
        for per_image in (False, True):
            whole, mine = (PanopticQuality([Category(0, "cat", True, (0, 0, 0))], per_image=per_image) for _ in "ab")
            for pair in pairs:
                whole.update(*pair)
            for pair in pairs[:1] if rank == 0 else pairs[1:]:  # shares of different size
                mine.update(*pair)
            assert not torch.equal(mine.counts, whole.counts)
            mine.synchronize()
            assert torch.allclose(mine.counts, whole.counts, rtol=0, atol=1e-12)  # IoUs in another order
            assert abs(mine.compute().pq - (0.625 if per_image else 2.5 / 4)) < 1e-12
        dist.destroy_process_group()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path)], stderr=subprocess.PIPE, text=True) for r in range(2)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


# Empty


def test_without_any_segment_every_score_is_nan():
    for per_image in (False, True):
        for pairs in ((), ((NOTHING, NOTHING),)):
            found = score(*pairs, per_image=per_image)
            for means in (found, found.things, found.stuff):
                assert np.isnan([means.pq, means.sq, means.rq]).all() and means.classes == 0
            assert found.class_pq.isnan().all() and found.iou.sum() == 0


def test_a_target_that_is_all_void_ignores_every_prediction():
    assert match_segments(WHOLE, NOTHING).ignored == [1]
    assert score((WHOLE, NOTHING)).classes == 0


def test_a_prediction_that_is_all_void_misses_everything():
    assert score((NOTHING, WHOLE)).fn.tolist() == [1, 0, 0, 0]


def test_segments_of_one_pixel_match():
    target = panoptic([[1, 2], [3, 0]], {1: CAT, 2: CAT, 3: SKY})
    assert score((target, target)).tp.tolist() == [2, 0, 1, 0]


def test_a_map_without_pixels_has_no_segments():
    empty = Panoptic(torch.zeros(0, 5, dtype=torch.int32))
    assert score((empty, empty)).classes == 0


def test_a_table_without_stuff_or_without_things_has_no_score_for_the_group():
    things = PanopticQuality(CATEGORIES[:1])
    things.update(WHOLE, WHOLE)
    assert things.compute().pq == 1 and np.isnan(things.compute().stuff.pq)
    stuff = PanopticQuality([Category(0, "sky", False, (0, 0, 0))])
    sky = Panoptic(WHOLE.map, [Segment(1, 0, False, 4)])
    stuff.update(sky, sky)
    assert stuff.compute().pq == 1 and np.isnan(stuff.compute().things.pq)


# Beside plain loops


def plain_counts(prediction, target, sum_crowds=False):
    """The sum of IoUs, TP, FP and FN per class, ``(4, K)``: the rules one after another, a mask at a time."""
    iou, tp, fp, fn = counts = np.zeros((4, len(CATEGORIES)))
    masks = {("p", s.id): (prediction.map == s.id).numpy() for s in prediction.segments}
    masks |= {("t", s.id): (target.map == s.id).numpy() for s in target.segments}
    void = (target.map == 0).numpy()
    matched = set()
    for t in target.segments:
        for p in prediction.segments:
            a, b = masks["p", p.id], masks["t", t.id]
            union = a.sum() + b.sum() - (a & b).sum() - (a & void).sum()
            if p.category_id == t.category_id and not t.iscrowd and (a & b).sum() / union > 0.5:
                assert ("p", p.id) not in matched and ("t", t.id) not in matched
                matched |= {("p", p.id), ("t", t.id)}
                tp[t.category_id] += 1
                iou[t.category_id] += (a & b).sum() / union
    for t in target.segments:
        if ("t", t.id) not in matched and not t.iscrowd:
            fn[t.category_id] += 1
    for p in prediction.segments:
        if ("p", p.id) not in matched:
            crowds = [masks["t", t.id] for t in target.segments if t.iscrowd and t.category_id == p.category_id]
            excused = void.copy()
            for crowd in crowds if sum_crowds else crowds[-1:]:
                excused |= crowd
            if (masks["p", p.id] & excused).sum() / masks["p", p.id].sum() <= 0.5:
                fp[p.category_id] += 1
    return counts


def plain_scores(counts):
    """PQ, SQ, RQ of every class that has any, by its number, from counts ``(4, K)``."""
    found = {}
    for k, (iou, tp, fp, fn) in enumerate(counts.T.tolist()):
        if tp + fp + fn > 0:
            size = tp + 0.5 * fp + 0.5 * fn
            found[k] = iou / size, iou / tp if tp else 0.0, tp / size
    return found


def assert_equals_plain(pairs, *, sum_crowds=False):
    found = score(*pairs, sum_crowds=sum_crowds)
    counts = sum(plain_counts(*pair, sum_crowds) for pair in pairs)
    np.testing.assert_allclose(torch.stack([found.iou, found.tp, found.fp, found.fn]), counts, **EXACT)
    scores = plain_scores(counts)
    for means, group in ((found, range(4)), (found.things, (CAT, DOG)), (found.stuff, (SKY, GRASS))):
        rows = [scores[k] for k in group if k in scores]
        assert means.classes == len(rows)
        wanted = [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else [np.nan] * 3
        np.testing.assert_allclose([means.pq, means.sq, means.rq], wanted, **EXACT)
    for k, row in enumerate(zip(found.class_pq, found.class_sq, found.class_rq, strict=True)):
        np.testing.assert_allclose(row, scores.get(k, [np.nan] * 3), **EXACT)


def made_pair(seed):
    """A target, and a prediction that shares much of it: crowds, void, equal ids of other classes, single pixels.

    Maps are small and made of blocks, so that IoUs of exactly 1/2 and segments that are half void are common.
    """
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 9, 2)
    ids = rng.integers(0, rng.integers(2, 10), size).repeat(rng.integers(1, 4), 0).repeat(rng.integers(1, 5), 1)
    classes = rng.integers(0, rng.integers(1, 5), 10)  # of the ids 0..9
    true = np.where(rng.random(ids.shape) < rng.choice([0, 0.1, 0.6]), 0, ids)
    found = np.roll(ids, rng.integers(3), axis=1) if rng.random() < 0.8 else rng.integers(0, 6, ids.shape)
    if rng.random() < 0.5:  # every other column belongs to a new segment
        found[:, ::2] = np.where(found[:, ::2] > 0, found[:, ::2] + 10, 0)
    sides = []
    for pixels, wrong, crowd in ((found, 0.2, 0), (true, 0, rng.choice([0, 0.3, 1]))):
        numbers = rng.permutation(np.unique(pixels[pixels > 0])).tolist()
        named = {i: int(rng.integers(4) if rng.random() < wrong else classes[i % 10]) for i in numbers}
        crowds = [i for i, c in named.items() if c < SKY and rng.random() < crowd]
        sides.append(panoptic(pixels.tolist(), named, crowds=crowds))
    return tuple(sides)


MADE = [made_pair(seed) for seed in range(100)]


@pytest.mark.parametrize("sum_crowds", [False, True])
def test_random_pairs_equal_plain_loops(sum_crowds):
    for pair in MADE:
        assert_equals_plain([pair], sum_crowds=sum_crowds)
    assert_equals_plain(MADE, sum_crowds=sum_crowds)


def test_random_pairs_hold_every_case():
    """What the comparison is worth: how often each rule decides in it."""
    seen = Counter()
    for prediction, target in MADE:
        found, summed = match_segments(prediction, target), match_segments(prediction, target, sum_crowds=True)
        seen.update(matched=len(found.pairs), fp=len(found.fp), fn=len(found.fn), ignored=len(found.ignored))
        seen.update(two_crowds=found != summed, single=sum(s.area == 1 for s in target.segments))
        for p in prediction.segments:
            under = target.map[prediction.map == p.id]
            void = int((under == 0).sum())
            seen.update(half_void=2 * void == p.area)
            for t in target.segments:
                both = int((under == t.id).sum())
                equal = p.category_id == t.category_id
                seen.update(half_iou=equal and 2 * both == p.area + t.area - both - void)
    assert min(seen.values()) >= 10 and len(seen) == 8, seen


@st.composite
def small_pairs(draw):
    """Two maps of at most 12 pixels with up to 3 segments each; classes and crowds are free."""
    n = draw(st.integers(1, 12))
    sides = []
    for _ in range(2):
        ids = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        classes = {i: draw(st.sampled_from([CAT, SKY])) for i in sorted(set(ids) - {0}, reverse=draw(st.booleans()))}
        sides.append(panoptic([ids], classes, crowds=[i for i in classes if draw(st.booleans())]))
    return tuple(sides)


@settings(deadline=None, max_examples=100)
@given(small_pairs(), st.booleans())
def test_small_pairs_equal_plain_loops(pair, sum_crowds):
    assert_equals_plain([pair], sum_crowds=sum_crowds)


def test_ids_are_only_names():
    target = panoptic([[1, 1, 1, 2, 2, 3]], {1: CAT, 2: CAT, 3: SKY})
    prediction = panoptic([[1, 1, 2, 2, 2, 0]], {1: CAT, 2: CAT})
    large = panoptic([[2**31 - 1] * 2 + [2**24] * 3 + [0]], {2**24: CAT, 2**31 - 1: CAT})
    assert_same(score((large, target)), score((prediction, target)))


def test_maps_of_any_memory_layout_count_alike():
    pairs = [(Panoptic(p.map.T.contiguous().T, p.segments), t) for p, t in MADE]
    assert not all(p.map.is_contiguous() for p, _ in pairs)
    assert_same(score(*pairs), score(*MADE))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_maps_on_a_gpu_count_alike():
    moved = [(p.to("cuda"), t.to("cuda")) for p, t in MADE]
    assert_same(score(*moved), score(*MADE))


# Bad input

GOOD = panoptic([[1, 1, 2, 2]], {1: CAT, 2: SKY})
CAT_1, SKY_2 = GOOD.segments
BAD = {
    "an id of the map without a segment": (GOOD.map, [CAT_1], "the map of the {} has the id 2, which no segment has"),
    "a segment without a pixel": (
        GOOD.map,
        [CAT_1, SKY_2, Segment(7, DOG, True, 0)],
        "segment 7 of the {} has no pixels",
    ),
    "two segments of one id": (GOOD.map, [CAT_1, SKY_2, CAT_1], "the {} has two segments with id 1"),
    "an id of 0": (GOOD.map, [CAT_1, SKY_2, Segment(0, CAT, True, 0)], "the {} has a segment with id 0"),
    "an id below 0": (GOOD.map - 3, [Segment(-2, CAT, True, 2)], "the {} has a segment with id -2"),
    "an id below 0 in the map": (-GOOD.map, [], "the map of the {} has the id -1, which no segment has"),
    "a class outside the table": (
        GOOD.map,
        [CAT_1, Segment(2, 4, False, 2)],
        "segment 2 of the {} has category 4, which is not in 0..3",
    ),
    "a class below 0": (
        GOOD.map,
        [CAT_1, Segment(2, -1, False, 2)],
        "segment 2 of the {} has category -1, which is not in 0..3",
    ),
    "a thing that the table calls stuff": (
        GOOD.map,
        [CAT_1, Segment(2, SKY, True, 2)],
        "segment 2 of the {} has isthing=True, the class table says the opposite of its category 2",
    ),
    "int64": (GOOD.map.long(), GOOD.segments, "the map of the {} must be int32 (H, W), got torch.int64"),
    "floats": (GOOD.map.float(), GOOD.segments, "the map of the {} must be int32 (H, W), got torch.float32"),
}


@pytest.mark.parametrize("name", ["prediction", "target"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_side_and_the_id(case, name):
    ids, segments, message = BAD[case]
    bad = Panoptic(ids, segments)
    pair = (bad, GOOD) if name == "prediction" else (GOOD, bad)
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=re.escape(message.format(name))):
        metric.update(*pair)
    assert metric.counts.sum() == 0


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"prediction is \(1, 4\), that of the target \(1, 2\)"):
        match_segments(GOOD, panoptic([[1, 1]], {1: CAT}))


def test_batches_of_maps_are_refused():
    batch = Panoptic(GOOD.map[None], GOOD.segments)
    with pytest.raises(ValueError, match=r"int32 \(H, W\), got torch.int32 \(1, 1, 4\)"):
        match_segments(batch, batch)


# COCO's files

FILE_CATEGORIES = [  # ids with gaps, stuff before things
    {"id": 92, "name": "sky", "isthing": 0},
    {"id": 17, "name": "dog", "isthing": 1},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 200, "name": "grass", "isthing": 0},
]
FILE_IDS = (3, 17, 92, 200)


def write(folder, name, images, *, categories=None):
    """The JSON file and the PNG folder of panoptic maps by image id."""
    pngs = folder / name
    pngs.mkdir()
    annotations = []
    for image_id, side in images.items():
        Image.fromarray(ids_to_rgb(side.map).numpy()).save(pngs / f"{image_id:03}.png")
        segments = [
            {"id": s.id, "category_id": FILE_IDS[s.category_id], "iscrowd": int(s.iscrowd)} for s in side.segments
        ]
        annotations.append({"image_id": image_id, "file_name": f"{image_id:03}.png", "segments_info": segments})
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"annotations": annotations} | ({"categories": categories} if categories else {})))
    return path, pngs


def files(folder, pairs):
    """Ground truth and results of pairs (prediction, target), whose image ids are 10, 11, …"""
    truth = write(folder, "truth", {10 + i: t for i, (_, t) in enumerate(pairs)}, categories=FILE_CATEGORIES)
    return truth, write(folder, "results", {10 + i: p for i, (p, _) in enumerate(pairs)})


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def wide_ids(side):
    """The same segments under ids that fill three bytes."""
    ids = torch.where(side.map > 0, side.map * 65793 + 7, 0).int()
    segments = [Segment(s.id * 65793 + 7, s.category_id, s.isthing, s.area, iscrowd=s.iscrowd) for s in side.segments]
    return Panoptic(ids, segments)


def test_files_score_as_the_maps_in_them(tmp_path):
    pairs = [tuple(map(wide_ids, made_pair(seed))) for seed in range(12)]
    truth, results = files(tmp_path, pairs)
    wanted = score(*pairs)
    assert_same(evaluate_coco_panoptic(*truth, *results), wanted)
    edit(results[0], lambda c: c["annotations"].reverse())
    assert_same(evaluate_coco_panoptic(*truth, *results), wanted)


def test_predictions_of_further_images_are_left_out(tmp_path):
    truth, results = files(tmp_path, [(WHOLE, WHOLE), (NOTHING, WHOLE)])
    edit(truth[0], lambda c: c["annotations"].pop())
    assert evaluate_coco_panoptic(*truth, *results).pq == 1


def drop_segment(content):
    content["annotations"][0]["segments_info"].pop()


def add_segment(content):
    content["annotations"][0]["segments_info"].append({"id": 77, "category_id": 3})


def unknown_category(content):
    content["annotations"][0]["segments_info"][0]["category_id"] = 4


def repeat_id(content):
    content["annotations"][0]["segments_info"] *= 2


def repeat_image(content):
    content["annotations"] *= 2


def drop_field(*path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


FILE_FAULTS = {
    "an id of the PNG that the JSON lacks": (drop_segment, r"image 10 \(.*{png}.*: the map of the {side} has the id 2"),
    "an id of the JSON that the PNG lacks": (add_segment, r"image 10 \(.*{png}.*: segment 77 of the {side} has no"),
    "an id twice": (repeat_id, r"image 10 \(.*{png}.*: the {side} has two segments with id 1"),
    "an unknown category": (unknown_category, r"{json}, image 10: segment 1 has category_id 4"),
    "an image twice": (repeat_image, r"{json} has two annotations of image 10"),
    "no annotations": (drop_field("annotations"), r"{json} is no panoptic file \(KeyError\('annotations'\)\)"),
    "no image id": (drop_field("annotations", 0, "image_id"), r"{json} is no panoptic file \(KeyError\('image_id'\)\)"),
    "no file name": (drop_field("annotations", 0, "file_name"), r"{json}, image 10: .*KeyError\('file_name'\)"),
    "no segment id": (
        drop_field("annotations", 0, "segments_info", 0, "id"),
        r"{json}, image 10: the annotation is malformed \(KeyError\('id'\)\)",
    ),
}


@pytest.mark.parametrize("side", ["prediction", "target"])
@pytest.mark.parametrize("case", FILE_FAULTS)
def test_a_fault_in_a_json_file_names_the_file_and_the_id(case, side, tmp_path):
    sides = files(tmp_path, [(GOOD, GOOD)])
    path, pngs = sides[0 if side == "target" else 1]
    change, message = FILE_FAULTS[case]
    edit(path, change)
    wanted = message.format(side=side, json=re.escape(str(path)), png=re.escape(str(pngs / "010.png")))
    with pytest.raises(ValueError, match=wanted):
        evaluate_coco_panoptic(*sides[0], *sides[1])


def test_an_image_without_a_prediction_is_named(tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)] * 3)
    edit(results[0], lambda c: c["annotations"].pop(1))
    with pytest.raises(ValueError, match=re.escape(f"{results[0]} has no prediction for image 11 (1 of 3 images")):
        evaluate_coco_panoptic(*truth, *results)


@pytest.mark.parametrize("field", ["categories", "isthing"])
def test_a_ground_truth_without_a_class_table_is_named(field, tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)])
    edit(truth[0], drop_field(*(["categories"] if field == "categories" else ["categories", 0, "isthing"])))
    with pytest.raises(ValueError, match=re.escape(f"{truth[0]} has no class table (KeyError('{field}'))")):
        evaluate_coco_panoptic(*truth, *results)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_a_png_with_alpha_a_palette_or_grey_is_refused(mode, tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)])
    png = results[1] / "010.png"
    Image.open(png).convert(mode).save(png)
    with pytest.raises(ValueError, match=re.escape(f"{png} is PNG with mode {mode}; segment ids are kept in")):
        evaluate_coco_panoptic(*truth, *results)


def test_an_image_compressed_with_loss_is_refused(tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)])
    png = results[1] / "010.png"
    Image.open(png).save(png, format="JPEG")
    with pytest.raises(ValueError, match=re.escape(f"{png} is JPEG")):
        evaluate_coco_panoptic(*truth, *results)


def test_a_png_of_another_size_names_both_files(tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)])
    png = results[1] / "010.png"
    Image.open(png).resize((8, 1), Image.Resampling.NEAREST).save(png)
    with pytest.raises(
        ValueError, match=re.escape(f"prediction {png}, target {truth[1] / '010.png'}): the map of the")
    ):
        evaluate_coco_panoptic(*truth, *results)


def test_a_missing_and_a_damaged_png_are_named(tmp_path):
    truth, results = files(tmp_path, [(GOOD, GOOD)])
    png = results[1] / "010.png"
    png.write_bytes(png.read_bytes()[:50])
    with pytest.raises(ValueError, match=re.escape(f"{png} can't be decoded")):
        evaluate_coco_panoptic(*truth, *results)
    png.write_text("no image")
    with pytest.raises(ValueError, match=re.escape(f"{png} can't be decoded")):
        evaluate_coco_panoptic(*truth, *results)
    png.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(png))):
        evaluate_coco_panoptic(*truth, *results)
