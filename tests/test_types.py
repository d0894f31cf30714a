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
        (
            [Category(0, "sky", False, RED), Category(1, "car", True, GREEN)],
            "the stuff class 'sky' stands before a thing",
        ),
    ],
)
def test_a_class_table_that_breaks_the_conventions_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        check_categories(table)


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
    targets = Targets(torch.zeros(1, 4, 5), [instances()], [panoptic], torch.ones(1, 4, 5))
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
