"""The shared types check what they hold, move together and stay empty without complaint."""

import pickle

import pytest
import torch

from seglib.types import Batch, Category, Instances, Panoptic, Sample, Segment, Targets, check_categories

RED, GREEN = (200, 0, 0), (0, 200, 0)


def instances(n=2):
    return Instances(torch.zeros(n, 4, 5, dtype=torch.bool), torch.arange(n), torch.zeros(n, 4))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([Category(1, "car", True, RED)], r"category ids must be 0..0 in order, got \[1\]"),
        ([Category(0, "car", True, RED), Category(1, "car", False, GREEN)], r"names must be unique, \['car'\] repeat"),
        (["car"], r"rows Category\(id, name, isthing, color\), got 'car'; write Category\(0, 'car'"),
        ([(0, "car")], r"got \(0, 'car'\)"),
    ],
)
def test_a_class_table_that_breaks_the_conventions_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        check_categories(table)


def test_background_may_come_first_where_things_need_not():
    table = (Category(0, "sky", False, RED), Category(1, "car", True, GREEN))
    assert check_categories(table) == table
    with pytest.raises(ValueError, match="stuff class 'sky' stands before .* remap the ids of the annotations too"):
        check_categories(table, things_first=True)


def test_things_then_stuff_is_a_class_table():
    table = [Category(0, "car", True, RED), Category(1, "sky", False, GREEN)]
    assert check_categories(table) == tuple(table)
    assert check_categories([]) == ()


@pytest.mark.parametrize("field", ["labels", "boxes", "scores", "iscrowd"])
def test_instances_need_one_entry_per_mask(field):
    parts = {"masks": torch.zeros(2, 4, 5, dtype=torch.bool), "labels": torch.arange(2), "boxes": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=rf"2 masks need {field} of shape \(2"):
        Instances(**parts | {field: torch.zeros(3, 4) if field == "boxes" else torch.zeros(3)})


def test_instances_are_picked_by_slice_mask_and_index():
    three = Instances(torch.zeros(3, 4, 5, dtype=torch.bool), torch.tensor([7, 8, 9]), torch.zeros(3, 4), torch.rand(3))
    assert three[1:].labels.tolist() == [8, 9]
    assert three[torch.tensor([True, False, True])].labels.tolist() == [7, 9]
    picked = three[torch.tensor([2, 0])]
    assert (picked.labels.tolist(), len(picked), picked.iscrowd) == ([9, 7], 2, None)
    assert torch.equal(picked.scores, three.scores[[2, 0]])


def test_no_instances_are_instances_too():
    none = instances(0)
    assert len(none) == len(none[torch.zeros(0, dtype=torch.bool)]) == 0


def test_moving_a_batch_moves_every_tensor_and_nothing_else():
    panoptic = Panoptic(torch.zeros(4, 5, dtype=torch.int32), [Segment(1, 0, True, 3)])
    targets = Targets(torch.zeros(1, 4, 5), [instances()], [panoptic], pixel_weight=torch.ones(1, 4, 5))
    moved = Batch(torch.zeros(1, 3, 4, 5), targets, ["a"], [(4, 5)], [(4, 5)]).to("meta")
    tensors = [moved.images, moved.targets.semantic, moved.targets.instances[0].masks, moved.targets.panoptic[0].map]
    tensors.append(moved.targets.pixel_weight)
    assert all(t.device.type == "meta" for t in tensors)
    assert (moved.ids, moved.sizes, moved.targets.panoptic[0].segments) == (["a"], [(4, 5)], panoptic.segments)
    assert moved.targets.instances[0].scores is None


def test_samples_travel_between_processes():
    sample = Sample(torch.rand(3, 4, 5), "a", torch.zeros(4, 5), instances())
    again = pickle.loads(pickle.dumps(sample))  # what a data loader's worker does
    assert torch.equal(again.image, sample.image)
    assert again.id == "a"


def numbered(count, size=(4, 5), **more):
    """Objects with labels 0, 1, …, of which object i covers column i."""
    masks = torch.zeros(count, *size, dtype=torch.bool)
    masks[torch.arange(count), :, torch.arange(count)] = True
    boxes = torch.tensor([[i, 0.0, i + 1, size[0]] for i in range(count)]).view(-1, 4)
    return Instances(masks, torch.arange(count), boxes, **more)


def test_one_object_is_picked_by_its_place_and_from_the_end():
    three = numbered(3)
    assert [three[i].labels.tolist() for i in (0, 2, -1, -3)] == [[0], [2], [2], [0]]
    assert [one.labels.tolist() for one in three] == [[0], [1], [2]]
    for place in (3, -4):
        with pytest.raises(IndexError, match=f"no object {place} among 3"):
            three[place]


def test_objects_are_put_together_in_order():
    crowd = numbered(2, iscrowd=torch.tensor([False, True]))
    both = Instances.cat([numbered(1), crowd, numbered(0)])
    assert both.labels.tolist() == [0, 0, 1] and both.boxes[:, 0].tolist() == [0, 0, 1]
    assert both.iscrowd.tolist() == [False, False, True] and both.scores is None
    assert torch.equal(both.masks[1:], crowd.masks)
    scored = Instances.cat([numbered(1, scores=torch.tensor([0.5])), numbered(1, scores=torch.tensor([0.25]))])
    assert scored.scores.tolist() == [0.5, 0.25] and scored.iscrowd is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "got no Instances"),
        ([numbered(1), numbered(1, (5, 5))], r"one size, got \[\(4, 5\), \(5, 5\)\]"),
        ([numbered(1), numbered(1, scores=torch.ones(1))], "1 of 2 parts have scores"),
    ],
)
def test_objects_that_do_not_belong_together_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Instances.cat(parts)


def test_instances_do_not_change_but_give_changed_copies():
    two = numbered(2)
    with pytest.raises(AttributeError, match=r"use instances.replace\(labels=…\)"):
        two.labels = torch.zeros(2)
    changed = two.replace(labels=torch.tensor([5, 6]))
    assert (two.labels.tolist(), changed.labels.tolist()) == ([0, 1], [5, 6]) and changed.masks is two.masks
    with pytest.raises(ValueError, match="no areas; replace some of masks"):
        two.replace(areas=torch.ones(2))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("masks", torch.zeros(2, 4, 5), "masks must be bool"),
        ("labels", torch.zeros(2), "labels must be int64, got torch.float32"),
        ("boxes", torch.zeros(2, 4, dtype=torch.int64), "boxes must be floats"),
        ("scores", [0.5, 0.5], "scores must be a tensor, got list"),
        ("iscrowd", torch.zeros(2), "iscrowd must be bool"),
    ],
)
def test_instances_of_other_types_are_refused(part, value, message):
    with pytest.raises(ValueError, match=message):
        numbered(2).replace(**{part: value})


class Columns:
    """Masks packed as the number of the column that each covers; counts how often they are unpacked."""

    size = (4, 5)
    unpacked = 0

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns)

    def __getitem__(self, index):
        return Columns(self.columns[index])

    def dense(self):
        Columns.unpacked += 1
        return (torch.arange(5) == self.columns[:, None])[:, None].expand(-1, 4, 5)

    def _map(self, change):
        return Columns(change(self.columns))


def test_packed_masks_are_unpacked_once_and_only_when_they_are_asked_for():
    Columns.unpacked = 0
    packed = numbered(3).replace(masks=Columns(torch.arange(3)))
    last = packed[1:].to("cpu")[-1]
    assert (packed.size, last.size, len(last), Columns.unpacked) == ((4, 5), (4, 5), 1, 0)
    assert torch.equal(last.masks, numbered(3).masks[2:]) and last.masks is last.masks
    assert Columns.unpacked == 1
    assert torch.equal(Instances.cat([packed, numbered(1)]).masks, numbered(3).masks[[0, 1, 2, 0]])


def test_only_a_padded_batch_has_padded_sizes():
    images = torch.zeros(2, 3, 4, 5)
    full = Batch(images, Targets(), ["a", "b"], [(4, 5), (4, 5)], [(8, 10), (8, 10)])
    assert full.padded_sizes is None
    padded = Batch(images, Targets(), ["a", "b"], [(4, 5), (4, 3)], [(4, 5), (4, 3)])
    assert padded.padded_sizes == [(4, 5), (4, 3)]


def test_instances_travel_between_processes_with_their_masks_packed():
    Columns.unpacked = 0
    packed = numbered(3, scores=torch.rand(3)).replace(masks=Columns(torch.arange(3)))
    again = pickle.loads(pickle.dumps(packed))
    assert Columns.unpacked == 0 and torch.equal(again.scores, packed.scores) and again.iscrowd is None
    assert torch.equal(again.masks, numbered(3).masks)
    two = again.replace(masks=Columns(torch.arange(3)))[torch.tensor([True, False, True])]
    assert Columns.unpacked == 1 and torch.equal(two.masks, numbered(3).masks[[0, 2]])


def test_samples_are_equal_when_all_their_numbers_are():
    def sample(**changes):
        parts = {"image": torch.ones(3, 4, 5), "id": "a", "instances": instances(), "spacing": (1.0, 2.0)}
        parts |= {"panoptic": Panoptic(torch.zeros(4, 5, dtype=torch.int32), [Segment(1, 0, True, 3)])}
        return Sample(**(parts | changes))

    assert sample() == sample()
    others = [
        {"image": torch.zeros(3, 4, 5)},
        {"image": torch.ones(3, 4, 5, dtype=torch.float64)},
        {"image": torch.ones(3, 4, 6)},
        {"id": "b"},
        {"instances": None},
        {"instances": instances(1)},
        {"panoptic": Panoptic(torch.zeros(4, 5, dtype=torch.int32), [Segment(1, 0, True, 4)])},
        {"panoptic": Panoptic(torch.zeros(4, 5, dtype=torch.int32))},
        {"semantic": torch.zeros(4, 5, dtype=torch.int64)},
    ]
    for changes in others:
        assert sample() != sample(**changes), changes
    assert instances() != "instances" and Targets() != sample()


def test_instances_are_equal_whether_their_masks_are_packed_or_not():
    packed = numbered(3).replace(masks=Columns(torch.arange(3)))
    assert packed == numbered(3)
    assert numbered(3) != numbered(3, scores=torch.rand(3))
    with pytest.raises(TypeError, match="unhashable"):
        hash(packed)
