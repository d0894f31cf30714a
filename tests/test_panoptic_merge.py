"""The merge of Panoptic FPN: overlapping objects and a map of stuff become one panoptic map."""

import pytest
import torch

from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Instances, Segment

THINGS = 2  # category ids 0 and 1; stuff is 2, 3, …
EVERY = MergeSettings(stuff_area_limit=0)

impls = pytest.mark.parametrize("impl", ["fast", "reference"])


def things(*rows, size=(1, 8)):
    """Objects in an image of one row: (label, score, columns)."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (_, _, columns) in zip(masks, rows, strict=True):
        mask[:, list(columns)] = True
    labels = torch.tensor([label for label, _, _ in rows], dtype=torch.int64)
    return Instances(masks, labels, masks_to_boxes(masks), torch.tensor([score for _, score, _ in rows]))


def stuff(*labels):
    return torch.tensor([labels])


NO_STUFF = stuff(*[VOID] * 8)


@impls
def test_the_better_object_takes_what_both_cover(impl):
    found = merge_panoptic(
        things((0, 0.6, range(0, 5)), (1, 0.9, range(3, 7))), NO_STUFF, EVERY, num_things=THINGS, impl=impl
    )
    assert found.map.tolist() == [[2, 2, 2, 1, 1, 1, 1, 0]] and found.map.dtype == torch.int32
    assert found.segments == [
        Segment(1, 1, True, 4, pytest.approx(0.9)),
        Segment(2, 0, True, 3, pytest.approx(0.6)),
    ]


@impls
def test_an_object_that_is_covered_by_more_than_the_threshold_is_dropped(impl):
    half = things((0, 0.9, range(0, 4)), (1, 0.8, range(2, 6)))  # 2 of 4 covered
    more = things((0, 0.9, range(0, 4)), (1, 0.8, range(1, 5)))  # 3 of 4
    assert len(merge_panoptic(half, NO_STUFF, EVERY, num_things=THINGS, impl=impl).segments) == 2
    found = merge_panoptic(more, NO_STUFF, EVERY, num_things=THINGS, impl=impl)
    assert found.map.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


@impls
def test_a_dropped_object_covers_nobody(impl):
    """The second is dropped, so the third is covered by the first alone: 1 of 3."""
    chain = things((0, 0.9, range(0, 4)), (0, 0.8, range(1, 5)), (0, 0.7, range(3, 6)))
    found = merge_panoptic(chain, NO_STUFF, EVERY, num_things=THINGS, impl=impl)
    assert found.map.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]


@impls
def test_an_equal_score_stays_and_a_lower_one_goes(impl):
    found = merge_panoptic(things((0, 0.5, [0]), (1, 0.499, [1])), NO_STUFF, EVERY, num_things=THINGS, impl=impl)
    assert [(s.category_id, s.area) for s in found.segments] == [(0, 1)]


@impls
def test_of_equal_scores_the_first_one_comes_first(impl):
    found = merge_panoptic(
        things((0, 0.7, range(0, 4)), (1, 0.7, range(3, 8))), NO_STUFF, EVERY, num_things=THINGS, impl=impl
    )
    assert found.map.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]


@impls
def test_an_object_without_a_pixel_is_no_segment(impl):
    found = merge_panoptic(things((0, 0.9, []), (1, 0.8, [5])), NO_STUFF, EVERY, num_things=THINGS, impl=impl)
    assert found.map.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0]]
    assert [s.category_id for s in found.segments] == [1]


@impls
def test_an_object_that_is_covered_whole_is_no_segment_even_when_overlap_is_allowed(impl):
    allowed = MergeSettings(overlap_threshold=1, stuff_area_limit=0)
    pair = things((0, 0.9, range(0, 4)), (1, 0.8, range(1, 3)), (1, 0.7, range(3, 5)))
    found = merge_panoptic(pair, NO_STUFF, allowed, num_things=THINGS, impl=impl)
    assert found.map.tolist() == [[1, 1, 1, 1, 2, 0, 0, 0]]
    assert [s.category_id for s in found.segments] == [0, 1] and found.segments[1].score == pytest.approx(0.7)


def test_stuff_fills_what_is_free_in_the_order_of_its_classes():
    found = merge_panoptic(things((0, 0.9, [2, 3])), stuff(3, 3, 3, 2, 2, VOID, 2, 3), EVERY, num_things=THINGS)
    assert found.map.tolist() == [[3, 3, 1, 1, 2, 0, 2, 3]]
    assert found.segments[1:] == [Segment(2, 2, False, 2), Segment(3, 3, False, 3)]


def test_the_limit_counts_free_pixels_and_an_equal_number_stays():
    """Class 2 has three pixels, of which two are free; class 3 has three."""
    labels = stuff(2, 2, 2, VOID, VOID, 3, 3, 3)
    for limit, classes in ((2, [2, 3]), (3, [3]), (4, [])):
        found = merge_panoptic(things((0, 0.9, [0])), labels, MergeSettings(stuff_area_limit=limit), num_things=THINGS)
        assert [s.category_id for s in found.segments[1:]] == classes
        assert int((found.map == 0).sum()) == 7 - sum(s.area for s in found.segments[1:])


def test_4096_pixels_empty_a_scene_of_128_x_128():
    quarters = torch.full((128, 128), 2)
    quarters[:, 32:] = 3
    quarters[-1, :32] = 4  # the strip of 32 columns loses one row: 4064 pixels
    nothing = things(size=(128, 128))
    found = merge_panoptic(nothing, quarters, MergeSettings(), num_things=THINGS)
    assert [s.category_id for s in found.segments] == [3]
    assert int((found.map == 0).sum()) == 4096


def test_nothing_gives_a_void_map():
    found = merge_panoptic(things(), NO_STUFF, num_things=THINGS)
    assert found.segments == [] and found.map.tolist() == [[0] * 8]


@pytest.mark.parametrize("seed", range(40))
def test_both_implementations_agree_on_any_masks(seed):
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(0, 12, (), generator=g))
    corners = torch.randint(0, 14, (n, 2, 2), generator=g).sort(1).values  # (N, 2, xy)
    x, y = torch.arange(16), torch.arange(12)[:, None]
    masks = torch.stack(
        [torch.zeros(12, 16, dtype=torch.bool)]
        + [(x >= a) & (x <= c) & (y >= b) & (y <= d) for (a, b), (c, d) in corners.tolist()]
    )[1:]
    masks &= torch.rand(masks.shape, generator=g) > 0.2
    scores = torch.randint(1, 10, (n,), generator=g) / 10  # with ties
    instances = Instances(masks, torch.randint(0, THINGS, (n,), generator=g), masks_to_boxes(masks), scores)
    labels = torch.randint(2, 5, (12, 16), generator=g)
    labels[torch.rand(12, 16, generator=g) < 0.2] = VOID
    overlap = float(torch.randint(0, 11, (), generator=g)) / 10
    s = MergeSettings(0.3, overlap, int(torch.randint(0, 60, (), generator=g)))
    fast, slow = (merge_panoptic(instances, labels, s, num_things=THINGS, impl=impl) for impl in ("fast", "reference"))
    assert torch.equal(fast.map, slow.map) and fast.segments == slow.segments
    assert [s.area for s in fast.segments] == [int((fast.map == s.id).sum()) for s in fast.segments]
    assert set(fast.map.unique().tolist()) - {0} == {s.id for s in fast.segments}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instances": things((0, 0.9, [0])).replace(scores=None)}, "no scores, which decide who comes first"),
        ({"stuff": stuff(2, 2)}, r"masks are \(1, 8\) \(H, W\) and the stuff map torch.int64 \(1, 2\)"),
        ({"stuff": NO_STUFF.float()}, "stuff map torch.float32"),
        ({"instances": things((2, 0.9, [0]))}, r"the labels \[2\], things are 0..1"),
        ({"stuff": stuff(*[1] * 8)}, r"the stuff map has the label 1; stuff is 2..254, or 255"),
        ({"impl": "quick"}, "impl 'quick' is unknown; choose one of fast, reference"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"instances": things((0, 0.9, [0])), "stuff": NO_STUFF, "num_things": THINGS} | change
    with pytest.raises(ValueError, match=message):
        merge_panoptic(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_threshold": 1.5}, r"score_threshold lies in \[0, 1\], got 1.5"),
        ({"overlap_threshold": -0.1}, r"overlap_threshold lies in \[0, 1\], got -0.1"),
        ({"stuff_area_limit": -1}, "stuff_area_limit is a number of pixels, at least 0, got -1"),
    ],
)
def test_bad_thresholds_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        MergeSettings(**change)
