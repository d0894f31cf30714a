"""From queries to results: class and mask logits become a semantic map, instances or a panoptic map."""

import itertools

import pytest
import torch
from golden import Golden
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import seglib.postprocess.queries as queries
from seglib.postprocess.queries import (
    QueryMasks,
    QuerySettings,
    instances_from_queries,
    panoptic_from_queries,
    semantic_from_queries,
    semantic_scores,
)
from seglib.types import Segment

impls = pytest.mark.parametrize("impl", ["fast", "reference"])
THINGS = 2  # of K = 4 classes: 0 and 1 are things, 2 and 3 stuff
EVERY = QuerySettings(object_threshold=0.0, overlap_threshold=0.0)


def classes(*rows):
    """Class logits of queries whose probabilities are these, "no object" last."""
    return torch.tensor(rows).log()


def sure(*labels, p=0.9):
    """Queries that give one class of four, or no object (4), the probability p and share the rest."""
    probs = torch.full((len(labels), 5), (1 - p) / 4)
    probs[range(len(labels)), labels] = p
    return probs.log()


def masks(*rows):
    """Mask logits of an image of one row with these probabilities, ``(Q, 1, W)``."""
    return torch.tensor(rows).logit()[:, None]


def panoptic(class_logits, mask_logits, *, settings=EVERY, num_things=THINGS, **keywords):
    size = mask_logits.shape[1:]
    found = panoptic_from_queries(
        class_logits, mask_logits, size, size, size, num_things=num_things, settings=settings, **keywords
    )
    assert found.map.dtype == torch.int32
    assert [int((found.map == s.id).sum()) for s in found.segments] == [s.area for s in found.segments]
    return found


def random_case(seed, n=6, k=4, size=(5, 7)):
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn(n, k + 1, generator=generator)
    return class_logits, 3 * torch.randn(n, *size, generator=generator)


# Panoptic


@impls
def test_three_queries_by_hand(impl):
    """A thing with p = 0.8, another with 0.5, and stuff with 0.9; the products decide, the mask of the winner writes.

    ======  =====  =====  =====  =====  =====
    thing   0.72   0.72   0.32   0.04   0.04   0.8 × 0.9, 0.9, 0.4, 0.05, 0.05
    thing   0.05   0.45   0.45   0.15   0.05   0.5 × 0.1, 0.9, 0.9, 0.3, 0.1
    stuff   0.09   0.09   0.36   0.81   0.27   0.9 × 0.1, 0.1, 0.4, 0.9, 0.3
    ======  =====  =====  =====  =====  =====
    """
    class_logits = torch.cat([sure(0, p=0.8), sure(1, p=0.5), sure(3, p=0.9)])
    mask_logits = masks([0.9, 0.9, 0.4, 0.05, 0.05], [0.1, 0.9, 0.9, 0.3, 0.1], [0.1, 0.1, 0.4, 0.9, 0.3])
    found = panoptic(class_logits, mask_logits, impl=impl)
    # the stuff wins the last pixel, but with 0.3 that isn't in its mask
    assert found.map.tolist() == [[1, 1, 2, 3, 0]]
    assert found.segments == [
        Segment(1, 0, True, 2, pytest.approx(0.8)),
        Segment(2, 1, True, 1, pytest.approx(0.5)),
        Segment(3, 3, False, 1),
    ]


@impls
def test_a_query_that_wins_too_little_of_its_mask_is_dropped_and_leaves_void(impl):
    """The second query wins one of the two pixels of its mask; what it has won nobody else gets."""
    class_logits, mask_logits = sure(0, 1), masks([0.95, 0.95, 0.1], [0.1, 0.9, 0.9])
    half = QuerySettings(0.0, 0.5)
    assert panoptic(class_logits, mask_logits, settings=half, impl=impl).map.tolist() == [[1, 1, 2]]
    more = QuerySettings(0.0, 0.51)
    assert panoptic(class_logits, mask_logits, settings=more, impl=impl).map.tolist() == [[1, 1, 0]]


@impls
def test_pixels_won_outside_the_mask_count_in_the_share(impl):
    """The second query wins one pixel inside its mask of two, and one outside: a share of 2 / 2, not of 1 / 2."""
    class_logits, mask_logits = sure(0, 1), masks([0.95, 0.95, 0.1, 0.1], [0.1, 0.9, 0.9, 0.4])
    found = panoptic(class_logits, mask_logits, settings=QuerySettings(0.0, 0.9), impl=impl)
    assert found.map.tolist() == [[1, 1, 2, 0]]


@impls
def test_only_a_best_class_above_the_threshold_takes_part(impl):
    """Of exactly ½ a query is left out; "no object" takes part at no probability, and takes no pixel from others."""
    class_logits = torch.cat([sure(4, p=0.99), classes([0.5, 0.5, 0.0, 0.0, 0.0]), sure(1, p=0.6)])
    mask_logits = masks([0.99, 0.99], [0.99, 0.99], [0.8, 0.8])
    found = panoptic(class_logits, mask_logits, settings=QuerySettings(0.5, 0.0), impl=impl)
    assert found.map.tolist() == [[1, 1]] and [s.category_id for s in found.segments] == [1]


@impls
def test_queries_of_one_stuff_class_are_one_segment_and_those_of_one_thing_stay_apart(impl):
    mask_logits = masks([0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.1], [0.1, 0.1, 0.1, 0.9])
    found = panoptic(sure(2, 1, 2, 1), mask_logits, impl=impl)
    assert found.map.tolist() == [[1, 2, 1, 3]]
    assert [(s.id, s.category_id, s.area, s.score is None) for s in found.segments] == [
        (1, 2, 2, True), (2, 1, 1, False), (3, 1, 1, False)
    ]  # fmt: skip


@impls
@pytest.mark.parametrize("chunk", [queries.CHUNK, 1])
def test_of_equal_queries_the_first_wins(impl, chunk, monkeypatch):
    monkeypatch.setattr(queries, "CHUNK", chunk)
    mask_logits = masks([0.9, 0.9], [0.9, 0.9])
    assert [s.category_id for s in panoptic(sure(1, 0), mask_logits, impl=impl).segments] == [1]


@impls
def test_a_probability_of_one_half_is_inside(impl):
    assert panoptic(sure(0), torch.tensor([[[0.0, -0.01]]]), impl=impl).map.tolist() == [[1, 0]]


def panoptic_by_loops(class_logits, mask_logits, settings, num_things):
    """The rule pixel by pixel."""
    probs = class_logits.softmax(1)
    inside = mask_logits.sigmoid()
    kept = [
        q
        for q in range(len(probs))
        if probs[q].argmax() < probs.shape[1] - 1 and probs[q].max() > settings.object_threshold
    ]
    pixels = [(y, x) for y in range(inside.shape[1]) for x in range(inside.shape[2])]
    best = {p: max(kept, key=lambda q: probs[q].max() * inside[q][p]) for p in pixels} if kept else {}
    out, segments, stuff = torch.zeros(inside.shape[1:], dtype=torch.int32), [], {}
    for q in kept:
        label = int(probs[q].argmax())
        own = [p for p in pixels if inside[q][p] >= 0.5]
        won = [p for p in pixels if best[p] == q]
        written = [p for p in won if p in own]
        if not written or len(won) / len(own) < settings.overlap_threshold:
            continue
        if label < num_things or label not in stuff:
            segments.append((len(segments) + 1, label))
            stuff[label] = len(segments)
        for p in written:
            out[p] = stuff[label]
    return out, segments


@given(st.integers(0, 1000))
def test_both_agree_with_the_rule_pixel_by_pixel(seed):
    class_logits, mask_logits = random_case(seed)
    settings = QuerySettings(0.4, 0.6)
    want, segments = panoptic_by_loops(class_logits, mask_logits, settings, THINGS)
    for impl in ("fast", "reference"):
        found = panoptic(class_logits, mask_logits, settings=settings, impl=impl)
        assert torch.equal(found.map, want)
        assert [(s.id, s.category_id) for s in found.segments] == segments


@pytest.mark.parametrize("name", ["mask2former_r50_coco_panoptic", "mask2former_swin_tiny_coco_panoptic"])
def test_the_published_code_gives_the_same_segments(name):
    golden = Golden(name)
    for i, impl in itertools.product(range(3), ("fast", "reference")):
        case = golden.meta[f"setting{i}"]["panoptic"]
        settings = QuerySettings(case["object_mask_threshold"], case["overlap_threshold"])
        logits = golden["panoptic/class_logits"], golden["panoptic/mask_logits"]
        found = panoptic(*logits, settings=settings, num_things=80, impl=impl)
        assert torch.equal(found.map, golden[f"panoptic/setting{i}.map"].int())
        segments = [{"id": s.id, "isthing": s.isthing, "category_id": s.category_id} for s in found.segments]
        assert segments == case["segments"]


# Semantic


@impls
def test_a_class_gathers_the_votes_of_all_queries(impl):
    """Two queries that are half sure of class 1 outvote one that is 0.7 sure of class 0; "no object" votes for nobody.

    The first pixel: class 0 has 0.7·0.8 + 0.1·0.8 + 0.1·0.8 = 0.72, class 1 0.1·0.8 + 0.5·0.8 + 0.5·0.8 = 0.88.
    """
    class_logits = classes([0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4])
    mask_logits = masks([0.8, 0.8], [0.8, 0.1], [0.8, 0.1])
    scores = semantic_scores(class_logits, mask_logits, (1, 2), (1, 2), (1, 2), impl=impl)
    torch.testing.assert_close(scores, torch.tensor([[[0.72, 0.58]], [[0.88, 0.18]]]))
    found = semantic_from_queries(class_logits, mask_logits, (1, 2), (1, 2), (1, 2), impl=impl)
    assert found.labels.tolist() == [[1, 0]] and found.labels.dtype == torch.int64
    torch.testing.assert_close(found.probs, scores / scores.sum(0))


def test_where_no_query_has_a_mask_all_classes_are_equally_probable():
    """A logit of −200 has the probability 0 in float32, of −90 one of 8e-40, which is no number to divide by."""
    found = semantic_from_queries(sure(0, 3), torch.tensor([[[-200.0, -60]], [[-200.0, -90]]]), *[(1, 2)] * 3)
    assert found.probs[:, 0, 0].tolist() == [0.25] * 4
    torch.testing.assert_close(found.probs.sum(0), torch.ones(1, 2))
    assert found.labels.tolist() == [[0, 0]] and found.probs[0, 0, 1] > 0.8


@given(st.integers(0, 1000))
def test_semantic_scores_are_the_sum_over_queries(seed):
    class_logits, mask_logits = random_case(seed)
    want = torch.zeros(4, 5, 7)
    for p, m in zip(class_logits.softmax(1), mask_logits.sigmoid(), strict=True):
        want += p[:4, None, None] * m
    for impl in ("fast", "reference"):
        torch.testing.assert_close(semantic_scores(class_logits, mask_logits, *[(5, 7)] * 3, impl=impl), want)


# Instances


def instances(class_logits, mask_logits, num_things=THINGS, **keywords):
    return instances_from_queries(
        class_logits, mask_logits, *[mask_logits.shape[1:]] * 3, num_things=num_things, **keywords
    )


def test_a_score_is_the_class_probability_times_the_mean_inside_the_mask():
    """0.6 × (0.9 + 0.7) / 2 = 0.48 and 0.5 × 0.99 = 0.495: the mask turns the order around."""
    class_logits = torch.cat([sure(0, p=0.6), sure(1, p=0.5)])
    found = instances(class_logits, masks([0.9, 0.7, 0.2, 0.1], [0.1, 0.1, 0.1, 0.99]), max_detections=2)
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.495, 0.48]))
    assert found.boxes.tolist() == [[3, 0, 4, 1], [0, 0, 2, 1]]
    assert found.masks.tolist() == [[[False, False, False, True]], [[True, True, False, False]]]


def test_a_query_comes_once_for_each_class_and_stuff_takes_places():
    """Pairs by probability: (0, class 0), (1, class 2), (0, class 1), (1, class 1); class 2 is stuff."""
    class_logits = classes([0.6, 0.3, 0.02, 0.02, 0.06], [0.05, 0.2, 0.5, 0.1, 0.15])
    mask_logits = masks([0.9, 0.1], [0.1, 0.9])
    three = instances(class_logits, mask_logits, max_detections=3)
    assert three.labels.tolist() == [0, 1] and three.masks[:, 0].tolist() == [[True, False]] * 2
    four = instances(class_logits, mask_logits, max_detections=4)
    assert four.labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(four.scores, 0.9 * torch.tensor([0.6, 0.3, 0.2]))


def test_a_logit_of_zero_is_outside_and_an_empty_mask_is_no_object():
    found = instances(sure(0, 1), torch.tensor([[[0.0, 2.0]], [[0.0, -1.0]]]), max_detections=2)
    assert found.labels.tolist() == [0] and found.masks.tolist() == [[[False, True]]]


@given(st.integers(0, 1000))
def test_instances_are_those_of_a_loop_over_pairs(seed):
    class_logits, mask_logits = random_case(seed)
    found = instances(class_logits, mask_logits, max_detections=9)
    probs = class_logits.softmax(1)[:, :4]
    pairs = sorted(((float(probs[q, c]), q, c) for q in range(6) for c in range(4)), reverse=True)[:9]
    want = [(p * float(mask_logits[q].sigmoid()[mask_logits[q] > 0].mean()), q, c) for p, q, c in pairs if c < THINGS]
    want.sort(reverse=True)
    assert found.labels.tolist() == [c for _, _, c in want]
    torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in want]))
    assert torch.equal(found.masks, mask_logits[[q for _, q, _ in want]] > 0)


def test_masks_stay_logits_until_they_are_asked_for():
    class_logits, mask_logits = random_case(0, size=(4, 4))
    found = instances_from_queries(class_logits, mask_logits, (16, 16), (12, 16), (24, 32), num_things=4)
    assert isinstance(found.packed, QueryMasks) and found.size == (24, 32)
    picked = found[found.labels == 0].to("cpu")
    assert picked.packed.logits.shape == (len(picked), 4, 4)
    assert torch.equal(picked.masks, found.masks[found.labels == 0])


# All three


def test_logits_are_upsampled_to_the_batch_cut_to_the_image_and_resized():
    """By interpolation written out with torch, in that order: another order gives other numbers."""
    class_logits, mask_logits = random_case(1, size=(4, 6))
    wanted = (16, 24), (13, 17), (9, 40)
    full = F.interpolate(mask_logits[None], (16, 24), mode="bilinear", align_corners=False)[..., :13, :17]
    full = F.interpolate(full, (9, 40), mode="bilinear", align_corners=False)[0]
    same = (9, 40), (9, 40), (9, 40)
    assert torch.equal(semantic_scores(class_logits, mask_logits, *wanted), semantic_scores(class_logits, full, *same))
    maps = [
        panoptic_from_queries(class_logits, m, *sizes, num_things=THINGS, settings=EVERY).map
        for m, sizes in ((mask_logits, wanted), (full, same))
    ]
    assert torch.equal(*maps) and len(maps[0].unique()) > 1
    found, want = (
        instances_from_queries(class_logits, m, *sizes, num_things=THINGS)
        for m, sizes in ((mask_logits, wanted), (full, same))
    )
    assert torch.equal(found.masks, want.masks) and torch.equal(found.boxes, want.boxes)
    assert torch.equal(found.scores, want.scores)


def test_what_lies_in_the_padding_alone_is_not_found():
    mask_logits = torch.full((1, 4, 4), -9.0)
    mask_logits[:, 3] = 9.0
    sizes = (16, 16), (8, 16), (8, 16)
    assert panoptic_from_queries(sure(0), mask_logits, *sizes, num_things=THINGS).segments == []
    assert len(instances_from_queries(sure(0), mask_logits, *sizes, num_things=THINGS)) == 0


def test_a_few_masks_at_a_time_give_what_all_at_once_give(monkeypatch):
    class_logits, mask_logits = random_case(2, n=11, size=(6, 8))
    sizes = (24, 32), (20, 30), (20, 30)

    def results():
        drawn.clear()
        return [
            semantic_from_queries(class_logits, mask_logits, *sizes).probs,
            panoptic_from_queries(class_logits, mask_logits, *sizes, num_things=THINGS, settings=EVERY).map,
            (objects := instances_from_queries(class_logits, mask_logits, *sizes, num_things=THINGS)).masks,
            objects.scores,
            objects.boxes,
        ]

    drawn, resized = [], QueryMasks.resized
    monkeypatch.setattr(QueryMasks, "resized", lambda self: drawn.append(len(self)) or resized(self))
    whole = results()
    assert max(drawn) > 10
    monkeypatch.setattr(queries, "CHUNK", 2 * 24 * 32)
    for part, want in zip(results(), whole, strict=True):
        torch.testing.assert_close(part, want)
    assert max(drawn) == 2
    monkeypatch.setattr(queries, "CHUNK", 1)  # fewer pixels than one mask has
    assert torch.equal(results()[1], whole[1]) and max(drawn) == 1


@impls
def test_without_queries_all_is_void(impl):
    nothing = torch.zeros(0, 5), torch.zeros(0, 2, 3), (8, 12), (7, 12), (7, 12)
    found = panoptic_from_queries(*nothing, num_things=THINGS, impl=impl)
    assert found.map.shape == (7, 12) and not found.map.any() and found.segments == []
    assert semantic_from_queries(*nothing, impl=impl).probs.unique().tolist() == [0.25]
    objects = instances_from_queries(*nothing, num_things=THINGS)
    assert len(objects) == 0 and objects.masks.shape == (0, 7, 12)


@impls
def test_when_all_queries_say_no_object_all_is_void(impl):
    assert panoptic(sure(4, 4), masks([0.9], [0.9]), impl=impl).segments == []


@impls
def test_one_class_and_one_pixel(impl):
    one = torch.tensor([[3.0, 0.0]]), torch.tensor([[[2.0]]]), (1, 1), (1, 1), (1, 1)
    assert semantic_from_queries(*one, impl=impl).probs.tolist() == [[[1.0]]]
    for num_things in (0, 1):
        found = panoptic_from_queries(*one, num_things=num_things, impl=impl)
        assert found.map.tolist() == [[1]] and found.segments[0].isthing == bool(num_things)
        assert len(instances_from_queries(*one, num_things=num_things)) == num_things


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_no_nan(dtype):
    """±30,000 is still finite in float16."""
    class_logits = torch.tensor([[30000.0, 0, 0], [-30000, 0, 0], [30000, 30000, -30000]], dtype=dtype)
    mask_logits = torch.tensor([[[30000.0, -30000]], [[-30000, -30000]], [[30000, 30000]]], dtype=dtype)
    sizes = [(2, 4)] * 3
    semantic = semantic_from_queries(class_logits, mask_logits, *sizes)
    assert semantic.probs.dtype == torch.float32 and semantic.probs.isfinite().all()
    objects = instances_from_queries(class_logits, mask_logits, *sizes, num_things=2)
    assert objects.scores.isfinite().all() and objects.scores.max() == 1
    found = panoptic_from_queries(class_logits, mask_logits, *sizes, num_things=2, settings=EVERY)
    assert all(0 <= s.score <= 1 for s in found.segments) and found.segments


def test_gradients_end_here():
    class_logits, mask_logits = random_case(3)
    mask_logits.requires_grad_(), class_logits.requires_grad_()
    semantic = semantic_from_queries(class_logits, mask_logits, *[(5, 7)] * 3)
    objects = instances(class_logits, mask_logits)
    assert not semantic.probs.requires_grad and not objects.scores.requires_grad
    assert not objects.packed.logits.requires_grad


@pytest.mark.parametrize("name", ["object_threshold", "overlap_threshold"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_thresholds_are_shares(name, value):
    with pytest.raises(ValueError, match=rf"{name} lies in \[0, 1\], got {value}"):
        QuerySettings(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_logits": torch.zeros(2, 5)}, r"got \(2, 5\) and \(3, 2, 2\)"),
        ({"class_logits": torch.zeros(3, 1)}, "the last for no object"),
        ({"class_logits": torch.zeros(1, 3, 5)}, "of one image"),
        ({"mask_logits": torch.zeros(3, 1, 2, 2)}, "pass those of one image"),
        ({"size": (9, 8)}, r"an image of \(9, 8\) doesn't fit into the batch's size \(8, 8\)"),
        ({"num_things": 5}, "at most the 4 classes, got 5"),
        ({"num_things": -1}, "got -1"),
        ({"impl": "slow"}, "impl 'slow' is unknown"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = {"class_logits": torch.zeros(3, 5), "mask_logits": torch.zeros(3, 2, 2), "canvas": (8, 8), "size": (8, 8)}
    with pytest.raises(ValueError, match=message):
        panoptic_from_queries(**given | {"output_size": (8, 8), "num_things": 2} | changes)


def test_at_least_one_detection_is_asked_for():
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        instances(*random_case(0), max_detections=0)
