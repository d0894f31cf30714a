"""What prompts ask for: some classes, and an object, its group or its class."""

import pytest
import torch

from seglib.data.checks import count_labels
from seglib.data.class_tables import match_categories
from seglib.data.prompts import LEVELS, OnlyObjects, at_level
from seglib.ops.masks import masks_to_boxes
from seglib.train.sampling import SeededDataset
from seglib.types import Category, Instances, Sample

CATEGORIES = (
    Category(0, "cell", True, (230, 159, 0)),
    Category(1, "cup", True, (0, 114, 178)),
    Category(2, "dish", False, (0, 158, 115)),
)
ROWS = """
    aa....
    .bb..e
    ....d.
    c...d.
    c.....
"""
"""Two cells a and c, and three cups b, d and e: a touches b, and d touches e at a corner."""


def objects(names="abcde", labels=(0, 1, 0, 1, 1), crowd=None):
    grid = [list(row) for row in ROWS.split()]
    masks = torch.tensor([[[c == name for c in row] for row in grid] for name in names]).reshape(-1, 5, 6).bool()
    iscrowd = None if crowd is None else torch.tensor(crowd)
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), masks_to_boxes(masks), iscrowd=iscrowd)


class Once:
    """A dataset of one sample."""

    categories, size, file_ids, void_id = CATEGORIES, (5, 6), (7, 8, 9), 0

    def __init__(self, instances):
        self.sample = Sample(torch.zeros(3, 5, 6), "one", instances=instances)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.sample


def named(masks, *names):
    """Whether each mask is that of the named objects together, as in "ab"."""
    one = dict(zip("abcde", objects().masks, strict=True))
    return torch.equal(masks, torch.stack([torch.stack([one[c] for c in name]).any(0) for name in names]))


def test_a_click_may_mean_an_object_its_group_or_its_class():
    assert named(at_level(objects(), "object"), "a", "b", "c", "d", "e")
    assert named(at_level(objects(), "group"), "ab", "ab", "c", "de", "de")
    assert named(at_level(objects(), "class"), "ac", "bde", "ac", "bde", "bde")


def test_an_object_in_two_pieces_joins_the_groups_that_it_touches():
    apart = objects("abc", (0, 1, 0))
    masks = apart.masks.clone()
    masks[1] |= objects("e", (1,)).masks[0] | objects("d", (1,)).masks[0]
    assert torch.equal(at_level(apart.replace(masks=masks), "group")[0], masks[0] | masks[1])
    assert named(at_level(apart.replace(masks=masks), "group")[2:], "c")


@pytest.mark.parametrize("level", LEVELS)
def test_an_image_without_objects_is_normal(level):
    assert at_level(objects("", ()), level).shape == (0, 5, 6)
    assert len(OnlyObjects(Once(objects("", ())), levels=(level,))[0].instances) == 0


def test_only_objects_of_the_named_classes_are_asked_for_and_the_class_table_stays():
    dataset = OnlyObjects(Once(objects()), ["cup"])
    found = dataset[0].instances
    assert named(found.masks, "b", "d", "e") and found.labels.tolist() == [1, 1, 1]
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))
    assert (dataset.categories, dataset.size, dataset.file_ids, dataset.void_id) == (CATEGORIES, (5, 6), (7, 8, 9), 0)
    assert match_categories(dataset, CATEGORIES[:2], "instances") is dataset
    assert count_labels(dataset, "instances").classes == (0, 3, 0)


def test_other_classes_are_in_no_group():
    assert named(OnlyObjects(Once(objects()), ["cup"], ("group",))[0].instances.masks, "b", "de", "de")


def test_crowds_are_left_out():
    crowd = OnlyObjects(Once(objects(crowd=[False, False, True, True, False])), levels=("class",))[0].instances
    assert named(crowd.masks, "a", "be", "be") and crowd.iscrowd is None


def test_each_object_draws_its_level_and_its_box_fits():
    dataset = SeededDataset(OnlyObjects(Once(objects()), levels=LEVELS), seed=0)
    samples = [dataset[epoch, 0].instances for epoch in range(60)]
    of_b = [int(found.masks[1].sum()) for found in samples]
    counts = [of_b.count(pixels) for pixels in (2, 4, 5)]  # of the object, the group and the class
    assert sum(counts) == 60 and min(counts) >= 10  # 20 each, and a standard deviation of 3.7
    assert all(torch.equal(found.boxes, masks_to_boxes(found.masks)) for found in samples)
    assert any(found.masks[1].sum() == 2 and found.masks[4].sum() > 1 for found in samples)  # not one level for all
    assert torch.equal(dataset[3, 0].instances.masks, samples[3].masks)  # the same for the same epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["cell", "saucer"]}, r"classes are some of cell, cup, dish; got \['cell', 'saucer'\]"),
        ({"classes": []}, r"got \[\]"),
        ({"levels": ("object", "part")}, "levels are some of object, group, class; got"),
        ({"levels": ()}, "levels are some of"),
    ],
)
def test_unknown_names_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        OnlyObjects(Once(objects()), **arguments)


def test_samples_need_instances_and_levels_a_known_name():
    with pytest.raises(ValueError, match="sample 'one' has no instances"):
        OnlyObjects(Once(None))[0]
    with pytest.raises(ValueError, match="level 'part' is unknown; choose one of object, group, class"):
        at_level(objects(), "part")
