"""From samples to a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seglib.data.collate import collate
from seglib.types import Instances, Panoptic, Sample, Segment


def sample(height: int, width: int, id: str = "a", objects: int = 1) -> Sample:
    """A white picture of class 3 with ``objects`` objects that cover all of it."""
    masks = torch.ones(objects, height, width, dtype=torch.bool)
    box = torch.tensor([[0.0, 0.0, width, height]])
    return Sample(
        torch.ones(3, height, width),
        id,
        semantic=torch.full((height, width), 3),
        instances=Instances(masks, torch.full((objects,), 3), box.repeat(objects, 1)),
        panoptic=Panoptic(torch.ones(height, width, dtype=torch.int32), [Segment(1, 3, True, height * width)]),
        pixel_weight=torch.full((height, width), 2.5),
    )


def test_samples_of_one_size_are_stacked_unchanged():
    a, b = sample(2, 3, "a"), sample(2, 3, "b")
    batch = collate([a, b])
    assert torch.equal(batch.images, torch.stack([a.image, b.image]))
    assert torch.equal(batch.targets.semantic, torch.stack([a.semantic, b.semantic]))
    assert batch.ids == ["a", "b"] and batch.sizes == [(2, 3), (2, 3)]


def test_smaller_samples_are_padded_on_the_right_and_below_with_void():
    batch = collate([sample(1, 3, "wide"), sample(2, 1, "high", objects=2)])
    assert batch.sizes == [(1, 3), (2, 1)]
    assert batch.images[:, 0].tolist() == [[[1, 1, 1], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]]
    assert batch.targets.semantic.tolist() == [[[3, 3, 3], [255, 255, 255]], [[3, 255, 255], [3, 255, 255]]]
    assert [p.map.tolist() for p in batch.targets.panoptic] == [[[1, 1, 1], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]]
    assert batch.targets.pixel_weight.tolist() == [[[2.5] * 3, [0, 0, 0]], [[2.5, 0, 0], [2.5, 0, 0]]]
    wide, high = batch.targets.instances
    assert wide.masks.tolist() == [[[True, True, True], [False, False, False]]]
    assert high.masks.shape == (2, 2, 3) and high.masks.sum() == 4
    assert wide.boxes.tolist() == [[0, 0, 3, 1]]
    assert batch.targets.panoptic[0].segments == [Segment(1, 3, True, 3)]


def test_types_are_kept():
    batch = collate([sample(2, 3), sample(3, 2)])
    assert batch.images.dtype == torch.float32
    assert batch.targets.semantic.dtype == torch.int64
    assert batch.targets.panoptic[0].map.dtype == torch.int32
    assert batch.targets.instances[0].masks.dtype == torch.bool
    assert batch.targets.pixel_weight.dtype == torch.float32


@given(sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4), m=st.integers(1, 33))
def test_the_batch_is_the_smallest_multiple_that_holds_all(sizes, m):
    batch = collate([sample(h, w) for h, w in sizes], multiple=m)
    height, width = batch.images.shape[-2:]
    assert height % m == width % m == 0
    assert 0 <= height - max(h for h, _ in sizes) < m and 0 <= width - max(w for _, w in sizes) < m
    for i, (h, w) in enumerate(sizes):
        assert batch.images[i].sum() == batch.images[i, :, :h, :w].sum() == 3 * h * w
        assert (batch.targets.semantic[i] != 255).sum() == h * w


def test_an_image_without_objects_is_in_the_batch():
    batch = collate([sample(2, 2, objects=0), sample(3, 3)])
    assert [len(i) for i in batch.targets.instances] == [0, 1]
    assert batch.targets.instances[0].masks.shape == (0, 3, 3)


def test_annotations_that_no_sample_has_are_none():
    batch = collate([Sample(torch.zeros(3, 2, 2), "a"), Sample(torch.zeros(3, 1, 4), "b")])
    assert batch.images.shape == (2, 3, 2, 4)
    assert batch.targets.semantic is None and batch.targets.instances is None and batch.targets.panoptic is None
    assert batch.targets.pixel_weight is None


@pytest.mark.parametrize("name", ["semantic", "instances", "panoptic", "pixel_weight"])
def test_annotations_that_only_some_have_are_an_error(name):
    without = Sample(torch.zeros(3, 2, 2), "bare")
    some = Sample(torch.ones(3, 2, 2), "full", **{name: getattr(sample(2, 2), name)})
    with pytest.raises(ValueError, match=rf"1 of 2 samples have no {name} annotation \(bare\)"):
        collate([some, without])


def test_volumes_are_padded_at_the_end_of_all_three_axes_and_keep_their_spacing():
    def volume(*size, spacing):
        labels = torch.zeros(size, dtype=torch.int64)
        return Sample(torch.ones(1, *size), str(size), semantic=labels, spacing=spacing)

    batch = collate([volume(2, 3, 4, spacing=(5.0, 1.0, 1.0)), volume(3, 3, 2, spacing=(2.5, 0.8, 0.8))])
    assert batch.images.shape == (2, 1, 3, 3, 4) and batch.sizes == [(2, 3, 4), (3, 3, 2)]
    assert batch.spacing == [(5.0, 1.0, 1.0), (2.5, 0.8, 0.8)]
    inside = torch.zeros(2, 3, 3, 4, dtype=torch.bool)
    inside[0, :2] = inside[1, :, :, :2] = True
    assert torch.equal(batch.images[:, 0] == 1, inside) and torch.equal(batch.targets.semantic == 0, inside)
    assert (batch.targets.semantic[~inside] == 255).all()


def test_the_padding_of_regions_is_void_in_each_of_them():
    wide, high = (torch.ones(2, *size, dtype=torch.uint8) for size in [(1, 2), (2, 1)])
    samples = [Sample(torch.ones(3, *r.shape[1:]), str(r.shape), regions=r) for r in (wide, high)]
    regions = collate(samples).targets.regions
    assert regions.dtype == torch.uint8
    assert regions.tolist() == [[[[1, 1], [255, 255]]] * 2, [[[1, 255], [1, 255]]] * 2]


def test_annotations_of_another_size_than_the_image_are_padded_to_their_own_largest():
    def resized(image, annotations):
        labels = torch.zeros(annotations, dtype=torch.int64)
        return Sample(torch.zeros(3, *image), str(image), semantic=labels, output_size=annotations)

    batch = collate([resized((2, 4), (6, 12)), resized((3, 3), (9, 9))])
    assert batch.images.shape == (2, 3, 3, 4) and batch.sizes == [(2, 4), (3, 3)]
    assert batch.targets.semantic.shape == (2, 9, 12) and batch.output_sizes == [(6, 12), (9, 9)]
    assert [int((labels == 0).sum()) for labels in batch.targets.semantic] == [6 * 12, 9 * 9]
    wrong = Sample(torch.zeros(3, 2, 4), "wrong", semantic=torch.zeros(2, 4, dtype=torch.int64), output_size=(6, 12))
    with pytest.raises(ValueError, match=r"sample 'wrong': the semantic map is \(2, 4\) and the output_size \(6, 12\)"):
        collate([wrong])


def test_images_of_other_channels_or_dimensions_are_not_one_batch():
    for other in (torch.zeros(1, 2, 2), torch.zeros(3, 2, 2, 2)):
        with pytest.raises(ValueError, match="same channels and dimensions, but 'a' is .*, 'b' is .*; convert them"):
            collate([Sample(torch.zeros(3, 2, 2), "a"), Sample(other, "b")])


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="at least one sample, got none"):
        collate([])


def test_an_annotation_of_another_size_names_the_sample():
    bad = Sample(torch.zeros(3, 2, 2), "bad", semantic=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"sample 'bad': the semantic map is \(2, 3\) and the image \(2, 2\)"):
        collate([bad])


def test_weights_of_another_size_name_the_sample():
    bad = Sample(torch.zeros(3, 2, 2), "bad", pixel_weight=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"sample 'bad': the pixel_weight is \(3, 2\) and the image \(2, 2\)"):
        collate([bad])


def test_a_multiple_below_one_is_an_error():
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        collate([sample(2, 2)], multiple=0)
