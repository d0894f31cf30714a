"""Copy-paste: what is on top, what is below, and what is left of it."""

from dataclasses import replace

import pytest
import torch

from seglib.data.checks import count_labels
from seglib.data.copy_paste import CopyPaste, paste
from seglib.data.scenes import Scenes
from seglib.data.transforms import Keep, train_transform
from seglib.ops.masks import masks_to_boxes
from seglib.ops.panoptic import check_panoptic, panoptic_to_semantic
from seglib.types import Category, Instances, Panoptic, Sample, Segment

H, W = 4, 6


def rectangle(x1, y1, x2, y2, size=(H, W)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def sample(name, gray, objects, *, size=(H, W), crowd=None):
    """An image of one grey value with rectangles ``(x1, y1, x2, y2, label)``."""
    masks = (
        torch.stack([rectangle(*o[:4], size) for o in objects]) if objects else torch.zeros(0, *size, dtype=torch.bool)
    )
    labels = torch.tensor([o[4] for o in objects], dtype=torch.int64)
    iscrowd = None if crowd is None else torch.tensor(crowd)
    return Sample(
        torch.full((3, *size), gray), name, instances=Instances(masks, labels, masks_to_boxes(masks), iscrowd=iscrowd)
    )


def with_maps(s):
    """Class 9 is the ground; its segment is 1, the objects' are 2, 3, … The weight is the grey value."""
    semantic, ids = torch.full((H, W), 9), torch.ones(H, W, dtype=torch.int32)
    for n, (mask, label) in enumerate(zip(s.instances.masks, s.instances.labels, strict=True)):
        semantic[mask], ids[mask] = label, n + 2
    areas = ids.flatten().bincount().tolist()
    labels = [9, *s.instances.labels.tolist()]
    segments = [Segment(n + 1, labels[n], labels[n] != 9, areas[n + 1]) for n in range(len(labels))]
    return replace(s, semantic=semantic, panoptic=Panoptic(ids, segments), pixel_weight=s.image[0])


class Fixed:
    """Given samples as a dataset that counts how often it is read."""

    categories = (Category(0, "a", True, (1, 2, 3)),)
    size = None

    def __init__(self, *samples):
        self.samples, self.reads = samples, []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.samples[index]


BELOW = sample("below", 0.25, [(0, 0, 3, 2, 0), (4, 0, 6, 4, 1)])
ABOVE = sample("above", 0.75, [(2, 0, 5, 3, 2)])


def test_pasted_pixels_show_the_other_image():
    out = paste(BELOW, ABOVE)
    assert out.id == "below"
    expected = torch.full((3, H, W), 0.25)
    expected[:, 0:3, 2:5] = 0.75
    assert torch.equal(out.image, expected)


def test_objects_below_lose_the_pixels_and_their_boxes_are_measured_again():
    out = paste(BELOW, ABOVE).instances
    assert out.labels.tolist() == [0, 1, 2]
    assert out.boxes.tolist() == [[0, 0, 2, 2], [4, 0, 6, 4], [2, 0, 5, 3]]
    assert out.masks.sum((1, 2)).tolist() == [4, 8 - 3, 9]
    assert out.masks.sum(0).max() == 1


def test_objects_that_are_covered_whole_are_dropped():
    out = paste(sample("below", 0.0, [(3, 1, 5, 3, 0), (0, 0, 1, 1, 1)]), ABOVE).instances
    assert out.labels.tolist() == [1, 2]


def test_the_inputs_are_not_changed():
    before = (BELOW.image.clone(), BELOW.instances.masks.clone(), ABOVE.instances.masks.clone())
    paste(BELOW, ABOVE)
    assert all(map(torch.equal, before, (BELOW.image, BELOW.instances.masks, ABOVE.instances.masks)))


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ([False, True], None, [False, True, False]),
        (None, [False], [False, False, False]),
        ([True, False], [False], [True, False, False]),
    ],
)
def test_crowds_stay_crowds(below, above, expected):
    a = sample("below", 0.0, [(0, 0, 3, 2, 0), (4, 0, 6, 4, 1)], crowd=below)
    b = sample("above", 1.0, [(2, 0, 5, 3, 2)], crowd=above)
    assert paste(a, b).instances.iscrowd.tolist() == expected


def test_without_crowds_nothing_says_crowd():
    assert paste(BELOW, ABOVE).instances.iscrowd is None


def test_semantic_labels_and_weights_come_along():
    out = paste(with_maps(BELOW), with_maps(ABOVE))
    assert out.semantic.tolist() == [
        [0, 0, 2, 2, 2, 1],
        [0, 0, 2, 2, 2, 1],
        [9, 9, 2, 2, 2, 1],
        [9, 9, 9, 9, 1, 1],
    ]
    assert torch.equal(out.pixel_weight, out.image[0])


def test_panoptic_segments_come_along_under_new_ids():
    out = paste(with_maps(BELOW), with_maps(ABOVE)).panoptic
    assert out.map.dtype == torch.int32
    assert out.map.tolist() == [
        [2, 2, 4, 4, 4, 3],
        [2, 2, 4, 4, 4, 3],
        [1, 1, 4, 4, 4, 3],
        [1, 1, 1, 1, 3, 3],
    ]
    assert out.segments == [
        Segment(1, 9, False, 6),
        Segment(2, 0, True, 4),
        Segment(3, 1, True, 5),
        Segment(4, 2, True, 9),
    ]


def test_pasted_segments_of_large_ids_fit_into_a_png_and_crowds_keep_their_mark():
    def renamed(s):
        old = s.panoptic
        segments = [replace(one, id=2**24 - 1 - one.id, iscrowd=one.id == 3) for one in old.segments]
        return replace(s, panoptic=Panoptic(torch.where(old.map > 0, 2**24 - 1 - old.map, 0).int(), segments))

    out = paste(renamed(with_maps(BELOW)), renamed(with_maps(ABOVE))).panoptic
    assert [(s.id, s.area, s.iscrowd) for s in out.segments] == [
        (1, 6, False),
        (2, 4, False),
        (3, 5, True),
        (4, 9, False),
    ]
    assert out.map.unique().tolist() == [1, 2, 3, 4]


def test_nothing_to_paste_changes_nothing():
    empty = sample("above", 0.75, [])
    out = paste(BELOW, empty)
    assert torch.equal(out.image, BELOW.image) and torch.equal(out.instances.masks, BELOW.instances.masks)
    on_empty = paste(sample("below", 0.0, []), ABOVE).instances
    assert torch.equal(on_empty.masks, ABOVE.instances.masks)


@pytest.mark.parametrize(
    ("below", "above", "message"),
    [
        (replace(BELOW, instances=None), ABOVE, "sample 'below' has no instances"),
        (BELOW, replace(ABOVE, instances=None), "sample 'above' has no instances"),
        (BELOW, sample("above", 0.0, [], size=(4, 5)), r"'below' and 'above' are \(4, 6\) and \(4, 5\) \(H, W\); crop"),
        (with_maps(BELOW), ABOVE, "only one of the samples 'below' and 'above' has semantic; give both"),
        (BELOW, Keep("instances", "panoptic")(with_maps(ABOVE)), "has panoptic"),
        (replace(BELOW, pixel_weight=BELOW.image[0]), ABOVE, "has pixel_weight"),
    ],
)
def test_samples_that_do_not_fit_are_refused(below, above, message):
    with pytest.raises(ValueError, match=message):
        paste(below, above)


# --- the dataset -----------------------------------------------------------------------------------------------------


def test_the_dataset_has_the_length_the_classes_and_the_size_of_the_one_inside():
    inside = Scenes(3, size=(32, 40))
    dataset = CopyPaste(inside)
    assert len(dataset) == 3 and dataset.categories == inside.categories and dataset.size == (32, 40)


def test_the_seed_decides_and_seeds_differ():
    dataset = CopyPaste(Scenes(4, size=32))

    def draw(seed):
        torch.manual_seed(seed)
        return dataset[0].image

    assert torch.equal(draw(0), draw(0))
    assert any(not torch.equal(draw(0), draw(seed)) for seed in range(1, 5))


def test_each_object_is_pasted_half_of_the_time():
    torch.manual_seed(0)
    objects = [(x, 0, x + 1, 1, 5) for x in range(6)]
    dataset = CopyPaste(Fixed(sample("a", 1.0, objects)))
    below = replace(dataset._dataset.samples[0], image=torch.zeros(3, H, W))
    dataset._dataset.samples = (below, *dataset._dataset.samples)
    counts = torch.zeros(6)
    total = 0
    for _ in range(400):
        dataset._dataset.reads.clear()
        image = dataset[0].image
        if dataset._dataset.reads == [0, 1]:
            counts += image[0, 0]
            total += 1
    assert 150 < total < 250  # both samples are sources
    # a binomial share of about 200 draws lies within 0.5 ± 0.15 but for 4 standard deviations
    assert ((counts / total - 0.5).abs() < 0.15).all()


def test_the_probability_says_how_often_a_second_sample_is_read():
    torch.manual_seed(0)
    for probability, low, high in ((0.0, 0, 0), (0.25, 20, 80), (1.0, 200, 200)):
        inside = Fixed(BELOW, ABOVE)
        dataset = CopyPaste(inside, probability=probability)
        for _ in range(200):
            dataset[0]
        assert low <= len(inside.reads) - 200 <= high


def test_crowds_are_never_pasted():
    torch.manual_seed(0)
    inside = Fixed(sample("a", 0.0, [(0, 0, 6, 4, 0), (0, 0, 1, 1, 3)], crowd=[True, False]))
    for _ in range(20):
        out = CopyPaste(inside)[0].instances
        assert out.iscrowd.tolist().count(True) == 1 and out.labels[out.iscrowd].tolist() == [0]
        assert out.labels.tolist().count(3) == 1


@pytest.mark.parametrize("size", [(2, 3), (9, 11), (2, 11)])
def test_a_source_of_another_size_is_laid_somewhere_on_the_canvas(size):
    torch.manual_seed(0)
    height, width = size
    source = sample("above", 0.75, [(0, 0, width, height, 2)], size=size)
    inside = Fixed(BELOW, source)
    places = set()
    for _ in range(400):
        out = CopyPaste(inside)[0]
        assert out.image.shape == (3, H, W)
        pasted = out.instances.masks[out.instances.labels == 2]
        if len(pasted):
            places.add(tuple(out.instances.boxes[-1].tolist()))
            assert torch.equal(out.image[0] == 0.75, pasted[0])
            assert pasted.sum() == min(height, H) * min(width, W)
    assert len(places) == max(1, H - height + 1) * max(1, W - width + 1)


def test_a_large_source_is_cropped_at_every_offset():
    torch.manual_seed(0)
    source = replace(sample("above", 0.0, [(0, 0, 9, 4, 2)], size=(4, 9)), image=torch.arange(9.0).expand(3, 4, 9))
    firsts = set()
    for _ in range(60):
        out = CopyPaste(Fixed(BELOW, source))[0]
        if 2 in out.instances.labels:
            firsts.add(out.image[0, 0, 0].item())
    assert firsts == {0, 1, 2, 3}


def test_the_transform_comes_last():
    dataset = CopyPaste(Fixed(ABOVE), transform=lambda s: (s.id, len(s.instances)))
    assert dataset[0] == ("above", 1)


def test_a_source_without_instances_is_refused_in_the_dataset_too():
    with pytest.raises(ValueError, match="has no instances"):
        CopyPaste(Fixed(replace(BELOW, instances=None)))[0]


def test_arguments_out_of_range_are_refused():
    for probability in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]"):
            CopyPaste(Fixed(BELOW), probability=probability)
    with pytest.raises(ValueError, match="the dataset is empty"):
        CopyPaste(Fixed())


def test_all_annotations_of_scenes_still_agree_after_jitter_and_paste():
    torch.manual_seed(0)
    dataset = CopyPaste(Scenes(4, size=64, transform=train_transform(48, scale=(0.3, 2.0))))
    pasted = 0
    for index in range(8):
        out = dataset[index % 4]
        masks, labels = out.instances.masks, out.instances.labels
        assert masks.flatten(1).any(1).all() and masks.sum(0).max() <= 1
        assert torch.equal(out.instances.boxes, masks_to_boxes(masks))
        things = {(s.category_id, s.area) for s in out.panoptic.segments if s.isthing}
        check_panoptic(out.panoptic, 12, num_things=7)
        assert things == set(zip(labels.tolist(), masks.sum((1, 2)).tolist(), strict=True))
        assert torch.equal(out.semantic, panoptic_to_semantic(out.panoptic))
        pasted += len(things) > sum(s.isthing for s in dataset._dataset[index % 4].panoptic.segments)
    assert pasted  # at least one scene got something


def test_regions_are_pasted_with_their_objects():
    below = replace(BELOW, regions=torch.zeros(2, *BELOW.image.shape[1:], dtype=torch.uint8))
    above = replace(ABOVE, regions=torch.ones(2, *ABOVE.image.shape[1:], dtype=torch.uint8))
    top = above.instances.masks.any(0)
    assert torch.equal(paste(below, above).regions, top.to(torch.uint8).expand(2, -1, -1))
    with pytest.raises(ValueError, match="only one of the samples .* has regions"):
        paste(below, ABOVE)


def test_the_ids_of_the_files_and_the_counts_are_those_of_the_dataset():
    source = Fixed(ABOVE)
    source.file_ids, source.void_id = (7,), 9
    dataset = CopyPaste(source)
    assert dataset.file_ids == (7,) and dataset.void_id == 9
    source.count_labels = lambda needs, indices: (needs, list(indices))
    assert count_labels(dataset, "instances") == ("instances", [0])
