"""Panoptic maps in other forms and back: a semantic map with objects, colours, Cityscapes' ids."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seglib.data.cityscapes import CATEGORIES as CITYSCAPES
from seglib.data.cityscapes import LABEL_IDS
from seglib.ops.masks import masks_to_boxes
from seglib.ops.panoptic import (
    MAX_ID,
    check_panoptic,
    drop_segments,
    ids_to_rgb,
    panoptic_from_label_ids,
    panoptic_from_parts,
    panoptic_to_instances,
    panoptic_to_label_ids,
    panoptic_to_semantic,
    rgb_to_ids,
    segment_areas,
    segment_boxes,
    segment_index,
)
from seglib.types import Category, Instances, Panoptic, Segment

CATEGORIES = (
    Category(0, "cat", True, (1, 0, 0)),
    Category(1, "dog", True, (2, 0, 0)),
    Category(2, "sky", False, (3, 0, 0)),
    Category(3, "sea", False, (4, 0, 0)),
)

IDS = torch.tensor([[70_000, 70_000, 5, 0], [9, 9, 5, 0], [9, 9, 5, 8]], dtype=torch.int32)
EXAMPLE = Panoptic(
    IDS,
    [
        Segment(9, 2, False, 4),
        Segment(5, 1, True, 3, iscrowd=True),
        Segment(70_000, 0, True, 2),
        Segment(8, 3, False, 1),
    ],
)
"""A cat, a crowd of dogs, sky and sea; two pixels are void, and the ids are in no order."""

NOTHING = Panoptic(torch.zeros(2, 3, dtype=torch.int32), [])


def bools(*rows):
    return torch.tensor([[c == "#" for c in row] for row in rows])


def objects(masks, labels, **more):
    masks = torch.stack(masks) if masks else torch.zeros(0, 2, 3, dtype=torch.bool)
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), masks_to_boxes(masks), **more)


@st.composite
def panoptics(draw, categories):
    """Any panoptic map of the table: things in any number, some of them crowds, each class of stuff once at most."""
    scored = draw(st.booleans())
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    things = [c.id for c in categories if c.isthing]
    stuff = [c.id for c in categories if not c.isthing]
    classes = draw(st.lists(st.sampled_from(things), max_size=4)) + draw(st.lists(st.sampled_from(stuff), unique=True))
    ids = draw(st.lists(st.integers(1, MAX_ID), min_size=len(classes), max_size=len(classes), unique=True))
    pixels = draw(st.lists(st.sampled_from([0, *ids]), min_size=height * width, max_size=height * width))
    found = torch.tensor(pixels, dtype=torch.int32).reshape(height, width)
    segments = []
    for i, k in zip(ids, classes, strict=True):
        isthing = categories[k].isthing
        crowd = isthing and draw(st.booleans())
        score = draw(st.sampled_from([0.25, 1.0])) if scored and isthing else None
        segments.append(Segment(i, k, isthing, pixels.count(i), score, crowd))
    return Panoptic(found, [s for s in segments if s.area])


def described(panoptic):
    """What a panoptic map says about every pixel, without the numbers of its segments and their order."""
    pixels = {tuple((panoptic.map == s.id).flatten().tolist()): replace(s, id=1) for s in panoptic.segments}
    return panoptic.map.shape, pixels


# --- colours ----------------------------------------------------------------------------------------------------------


def test_an_id_is_red_plus_256_green_plus_65536_blue():
    ids = torch.tensor([[0, 1, 255], [256, 65_536, MAX_ID]])
    colors = [[[0, 0, 0], [1, 0, 0], [255, 0, 0]], [[0, 1, 0], [0, 0, 1], [255, 255, 255]]]
    assert ids_to_rgb(ids).dtype == torch.uint8 and ids_to_rgb(ids).tolist() == colors
    assert rgb_to_ids(torch.tensor(colors, dtype=torch.uint8)).tolist() == ids.tolist()
    assert rgb_to_ids(ids_to_rgb(ids)).dtype == torch.int32


@given(st.lists(st.integers(0, MAX_ID), min_size=0, max_size=12))
def test_every_id_comes_back_from_its_colour(values):
    for dtype in (torch.int32, torch.int64):
        ids = torch.tensor(values, dtype=dtype)
        assert rgb_to_ids(ids_to_rgb(ids)).tolist() == values


@pytest.mark.parametrize("bad", [-1, 2**24, 2**40])
def test_an_id_that_three_bytes_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match=rf"segment id {bad} is not in 0\.\.16777215"):
        ids_to_rgb(torch.tensor([[0, bad, 7]]))


def test_colours_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match=r"colours must be uint8 \(H, W, 3\), got torch.uint8 \(3, 4, 5\)"):
        rgb_to_ids(torch.zeros(3, 4, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got torch.float32"):
        rgb_to_ids(torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match="a segment id is an integer"):
        ids_to_rgb(torch.zeros(4, 5))


# --- the map and its segments -----------------------------------------------------------------------------------------


def test_the_place_the_area_and_the_box_of_every_segment():
    assert segment_index(EXAMPLE).tolist() == [[3, 3, 2, 0], [1, 1, 2, 0], [1, 1, 2, 4]]
    assert segment_areas(EXAMPLE).tolist() == [4, 3, 2, 1]
    assert segment_boxes(EXAMPLE).tolist() == [[0, 1, 2, 3], [2, 0, 3, 3], [0, 0, 2, 1], [3, 2, 4, 3]]
    assert segment_boxes(NOTHING).shape == (0, 4) and segment_areas(NOTHING).shape == (0,)


@given(panoptics(CATEGORIES))
def test_boxes_are_those_of_the_masks(panoptic):
    masks = torch.stack([panoptic.map == s.id for s in panoptic.segments] or [torch.zeros_like(panoptic.map).bool()])
    assert torch.equal(segment_boxes(panoptic), masks_to_boxes(masks)[: len(panoptic.segments)])


def test_a_segment_without_a_pixel_has_no_area_and_no_box():
    more = Panoptic(IDS, [*EXAMPLE.segments, Segment(3, 0, True, 0)])
    assert segment_areas(more).tolist() == [4, 3, 2, 1, 0]
    assert segment_boxes(more)[4].tolist() == [0, 0, 0, 0]


def test_dropped_segments_become_void():
    left = drop_segments(EXAMPLE, [9, 70_000])
    assert left.map.tolist() == [[0, 0, 5, 0], [0, 0, 5, 0], [0, 0, 5, 8]]
    assert left.segments == [EXAMPLE.segments[1], EXAMPLE.segments[3]]
    assert torch.equal(drop_segments(EXAMPLE, []).map, IDS)


def test_a_map_that_is_turned_on_its_side_is_read_as_it_lies():
    turned = Panoptic(IDS.T, EXAMPLE.segments)  # not contiguous
    assert torch.equal(segment_index(turned), segment_index(EXAMPLE).T)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_maps_that_fit_their_segments_pass():
    check_panoptic(EXAMPLE, 4, num_things=2)
    check_panoptic(NOTHING, 0, num_things=0)
    check_panoptic(Panoptic(torch.ones(1, 1, dtype=torch.int32), [Segment(1, 0, True, 1)]), 1, num_things=1)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, {"id": 0}, r"segment id 0 is not in 1\.\.16777215 \(0 is void\)"),
        (0, {"id": 2**24}, "segment id 16777216 is not in"),
        (0, {"id": 2**40}, "segment id 1099511627776 is not in"),
        (0, {"id": 5}, "segment id 5 stands twice"),
        (0, {"category_id": 4}, r"segment 9 has category_id 4, which is not in 0\.\.3"),
        (0, {"category_id": -1}, "segment 9 has category_id -1"),
        (0, {"isthing": True}, "segment 9 of category 2 has isthing=True, but the first 2 classes are the things"),
        (2, {"isthing": False}, "segment 70000 of category 0 has isthing=False"),
        (0, {"area": 5}, "segment 9 has area 5 and 4 pixels in the map"),
        (0, {"id": 10}, "the map has the id 9, which no segment has"),
    ],
)
def test_a_segment_that_contradicts_the_map_or_the_table_is_named(place, change, message):
    segments = list(EXAMPLE.segments)
    segments[place] = replace(segments[place], **change)
    with pytest.raises(ValueError, match=f"^image 7: .*{message}"):
        check_panoptic(Panoptic(IDS, segments), 4, "image 7", num_things=2)


def test_a_segment_without_a_pixel_and_a_map_of_another_type_are_refused():
    with pytest.raises(ValueError, match="segment 3 has no pixel in the map"):
        check_panoptic(Panoptic(IDS, [*EXAMPLE.segments, Segment(3, 0, True, 0)]), 4)
    with pytest.raises(ValueError, match=r"must be int32 \(H, W\), got torch.int64 \(3, 4\)"):
        check_panoptic(Panoptic(IDS.long(), EXAMPLE.segments), 4)
    with pytest.raises(ValueError, match=r"got torch.int32 \(1, 3, 4\)"):
        check_panoptic(Panoptic(IDS[None], EXAMPLE.segments), 4)


def test_things_and_stuff_are_told_apart_only_on_request():
    swapped = [replace(s, isthing=not s.isthing) for s in EXAMPLE.segments]
    check_panoptic(Panoptic(IDS, swapped), 4)


# --- a semantic map and objects ---------------------------------------------------------------------------------------


def test_the_classes_and_the_objects_of_a_panoptic_map():
    assert panoptic_to_semantic(EXAMPLE).tolist() == [[0, 0, 1, 255], [2, 2, 1, 255], [2, 2, 1, 3]]
    found = panoptic_to_instances(EXAMPLE)
    assert found.labels.tolist() == [1, 0] and found.iscrowd.tolist() == [True, False] and found.scores is None
    assert torch.equal(found.masks, torch.stack([bools("..#.", "..#.", "..#."), bools("##..", "....", "....")]))
    assert found.boxes.tolist() == [[2, 0, 3, 3], [0, 0, 2, 1]]


def test_things_come_from_the_masks_and_stuff_from_the_map():
    semantic = torch.tensor([[3, 3, 2], [0, 255, 2]])
    found = objects([bools("..#", "..."), bools("...", ".#.")], [1, 0], scores=torch.tensor([0.5, 0.75]))
    panoptic = panoptic_from_parts(semantic, found, CATEGORIES)
    # The first mask lies on sky, the second on void; the cat at the lower left has no mask and becomes void.
    assert panoptic.map.dtype == torch.int32 and panoptic.map.tolist() == [[4, 4, 1], [0, 2, 3]]
    assert panoptic.segments == [
        Segment(1, 1, True, 1, score=0.5),
        Segment(2, 0, True, 1, score=0.75),
        Segment(3, 2, False, 1),
        Segment(4, 3, False, 2),
    ]
    check_panoptic(panoptic, 4, num_things=2)


def test_parts_without_things_without_stuff_and_without_anything():
    none = objects([], [])
    assert panoptic_from_parts(torch.full((2, 3), 2), none, CATEGORIES).segments == [Segment(1, 2, False, 6)]
    assert panoptic_from_parts(torch.full((2, 3), 1), none, CATEGORIES).segments == []
    void = torch.full((2, 3), 255)
    assert panoptic_from_parts(void, none, CATEGORIES).map.tolist() == NOTHING.map.tolist()
    everything = panoptic_from_parts(void, objects([bools("###", "###")], [1]), CATEGORIES)
    assert everything.segments == [Segment(1, 1, True, 6)]


def test_a_mask_without_a_pixel_makes_no_segment():
    found = objects([bools("...", "..."), bools("#..", "...")], [0, 1], iscrowd=torch.tensor([False, True]))
    panoptic = panoptic_from_parts(torch.full((2, 3), 255), found, CATEGORIES)
    assert panoptic.segments == [Segment(1, 1, True, 1, iscrowd=True)]


@given(panoptics(CATEGORIES))
def test_a_panoptic_map_comes_back_from_its_parts(panoptic):
    again = panoptic_from_parts(panoptic_to_semantic(panoptic), panoptic_to_instances(panoptic), CATEGORIES)
    check_panoptic(again, 4, num_things=2)
    assert described(again) == described(panoptic)


@given(panoptics(CATEGORIES))
def test_parts_come_back_from_their_panoptic_map(panoptic):
    semantic, found = panoptic_to_semantic(panoptic), panoptic_to_instances(panoptic)
    again = panoptic_from_parts(semantic, found, CATEGORIES)
    assert torch.equal(panoptic_to_semantic(again), semantic)
    back = panoptic_to_instances(again)
    assert torch.equal(back.masks, found.masks) and torch.equal(back.labels, found.labels)
    assert torch.equal(back.boxes, found.boxes) and torch.equal(back.iscrowd, found.iscrowd)


def test_masks_that_overlap_are_named_with_their_first_pixel():
    found = objects([bools("#..", "..."), bools("...", ".##"), bools("...", "..#")], [0, 1, 1])
    with pytest.raises(ValueError, match=r"masks 1 and 2 overlap, first at \(row 1, column 2\)"):
        panoptic_from_parts(torch.full((2, 3), 2), found, CATEGORIES)


def test_parts_that_do_not_fit_the_table_or_each_other_are_refused():
    one = [bools("#..", "...")]
    with pytest.raises(ValueError, match=r"semantic label 4 at \(row 0, column 1\) is not in 0\.\.3 or 255"):
        panoptic_from_parts(torch.tensor([[2, 4, 2], [2, 2, 2]]), objects(one, [0]), CATEGORIES)
    with pytest.raises(ValueError, match=r"label of an object 2 at .* is not in 0\.\.1"):
        panoptic_from_parts(torch.full((2, 3), 2), objects(one, [2]), CATEGORIES)
    with pytest.raises(ValueError, match=r"the semantic map is \(3, 2\) and the masks are \(2, 3\)"):
        panoptic_from_parts(torch.full((3, 2), 2), objects(one, [0]), CATEGORIES)


# --- Cityscapes' ids --------------------------------------------------------------------------------------------------

FILE_IDS = [next(label for label, k in LABEL_IDS.items() if k == c.id) for c in CITYSCAPES]
CAR, PERSON, ROAD = 2, 0, 8


def test_a_car_is_26000_the_next_one_26001_and_a_road_or_a_crowd_has_the_label_alone():
    panoptic = Panoptic(
        torch.tensor([[4, 4, 3, 7], [1, 1, 2, 0]], dtype=torch.int32),
        [
            Segment(1, ROAD, False, 2),
            Segment(3, CAR, True, 1),
            Segment(4, CAR, True, 2),
            Segment(2, PERSON, True, 1),
            Segment(7, PERSON, True, 1, iscrowd=True),
        ],
    )
    ids = panoptic_to_label_ids(panoptic, FILE_IDS)
    assert ids.dtype == torch.int32 and ids.tolist() == [[26001, 26001, 26000, 24], [7, 7, 24000, 0]]
    assert panoptic_to_label_ids(panoptic, FILE_IDS, void_id=3)[1, 3] == 3
    again = panoptic_from_label_ids(ids, LABEL_IDS, CITYSCAPES)
    assert again.map.tolist() == [[5, 5, 4, 2], [1, 1, 3, 0]]
    assert again.segments == [
        Segment(1, ROAD, False, 2),
        Segment(2, PERSON, True, 1, iscrowd=True),
        Segment(3, PERSON, True, 1),
        Segment(4, CAR, True, 1),
        Segment(5, CAR, True, 2),
    ]


def test_labels_that_are_not_scored_are_void_with_and_without_a_number():
    ids = torch.tensor([[29, 29004, 4]])  # caravans and "static"
    assert panoptic_from_label_ids(ids, LABEL_IDS, CITYSCAPES).map.tolist() == [[0, 0, 0]]


@given(panoptics(CITYSCAPES))
def test_a_panoptic_map_comes_back_from_cityscapes_ids(panoptic):
    one_crowd_a_class = {}
    segments = [
        replace(s, score=None, iscrowd=s.iscrowd and one_crowd_a_class.setdefault(s.category_id, s.id) == s.id)
        for s in panoptic.segments
    ]
    panoptic = Panoptic(panoptic.map, segments)
    ids = panoptic_to_label_ids(panoptic, FILE_IDS)
    again = panoptic_from_label_ids(ids, LABEL_IDS, CITYSCAPES)
    check_panoptic(again, 19, num_things=8)
    assert described(again) == described(panoptic)
    assert torch.equal(panoptic_to_label_ids(again, FILE_IDS), ids)


def test_the_crowds_of_one_class_become_one_region():
    crowds = [Segment(1, CAR, True, 1, iscrowd=True), Segment(2, CAR, True, 2, iscrowd=True)]
    ids = panoptic_to_label_ids(Panoptic(torch.tensor([[1, 2, 2]], dtype=torch.int32), crowds), FILE_IDS)
    assert panoptic_from_label_ids(ids, LABEL_IDS, CITYSCAPES).segments == [Segment(1, CAR, True, 3, iscrowd=True)]


def test_labels_of_one_class_of_stuff_become_one_segment():
    merged = panoptic_from_label_ids(torch.tensor([[7, 8], [6, 26000]]), LABEL_IDS | {8: ROAD, 6: ROAD}, CITYSCAPES)
    assert merged.map.tolist() == [[1, 1], [1, 2]]
    assert merged.segments == [Segment(1, ROAD, False, 3), Segment(2, CAR, True, 1)]


def test_a_thousand_things_of_a_class_have_ids_and_one_more_has_none():
    def cars(n):
        return Panoptic(
            torch.arange(1, n + 1, dtype=torch.int32)[None], [Segment(i + 1, CAR, True, 1) for i in range(n)]
        )

    assert panoptic_to_label_ids(cars(1000), FILE_IDS).max() == 26_999
    with pytest.raises(ValueError, match="labelId 26 has more than 1000 things"):
        panoptic_to_label_ids(cars(1001), FILE_IDS)


def test_ids_that_cannot_be_told_are_refused():
    road = Panoptic(torch.ones(1, 1, dtype=torch.int32), [Segment(1, 0, False, 1)])
    for table, seen in (([1000], "1000"), ([0], "0"), ([None], "None"), ([], "None")):
        with pytest.raises(ValueError, match=f"segment 1 has category_id 0, whose labelId is {seen}; pass a labelId"):
            panoptic_to_label_ids(road, table)
    with pytest.raises(ValueError, match="id 34002 has the labelId 34, which is not in remap"):
        panoptic_from_label_ids(torch.tensor([[7, 34002]]), LABEL_IDS, CITYSCAPES)
    with pytest.raises(ValueError, match="id 7001 numbers an object of 'road', which is stuff; write the labelId 7"):
        panoptic_from_label_ids(torch.tensor([[7, 7001]]), LABEL_IDS, CITYSCAPES)
    with pytest.raises(ValueError, match="Cityscapes id is an integer"):
        panoptic_from_label_ids(torch.zeros(1, 2), LABEL_IDS, CITYSCAPES)
