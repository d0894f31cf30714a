"""Augmentation of image and annotations together."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms import v2

from seglib.data.microscopy import RandomD4, RandomElastic, elastic_transform
from seglib.data.transforms import (
    Joint,
    Keep,
    RandomScale,
    Resize,
    ResizeToGeometry,
    eval_transform,
    train_transform,
)
from seglib.ops.geometry import Geometry
from seglib.ops.masks import masks_to_boxes
from seglib.ops.resize import resize_image, resize_labels
from seglib.types import Instances, Panoptic, Sample, Segment

FLIP = Joint(v2.RandomHorizontalFlip(1.0))


def blocks(height: int, width: int, seed: int = 0, side: int = 8) -> Sample:
    """An image of square blocks, one class each. The colour says the class (id 0 is brightness 0.1, and so on), and so
    does the weight (id 0 is 1/4). Every third block is an object, and black never occurs, so that it stands for what
    comes from outside. Two regions overlap: the classes below 5 and the even ones.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = -(-height // side), -(-width // side)
    grid = torch.arange(rows * columns).view(rows, columns)
    block = grid.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]  # (H, W)
    classes = torch.randint(0, 9, (rows * columns,), generator=generator)  # (blocks,)
    semantic = classes[block]  # (H, W)
    image = ((semantic + 1) / 10).expand(3, -1, -1).clone()
    things = range(0, rows * columns, 3)
    masks = torch.stack([block == i for i in things])  # (N, H, W)
    # The ids are the largest that a PNG holds: they would not survive arithmetic in floats of fewer than 24 bits.
    segments = [
        Segment(2**24 - 1 - i, int(classes[i]), True, int((block == i).sum()), iscrowd=i % 4 == 0)
        for i in range(rows * columns)
    ]
    return Sample(
        image,
        "blocks",
        semantic=semantic,
        instances=Instances(masks, classes[list(things)], masks_to_boxes(masks)),
        panoptic=Panoptic((2**24 - 1 - block).to(torch.int32), segments),
        regions=regions_of(semantic),
        pixel_weight=(semantic + 1) / 4,
    )


def regions_of(semantic: torch.Tensor) -> torch.Tensor:
    return torch.stack([semantic < 5, semantic % 2 == 0]).to(torch.uint8).masked_fill(semantic == 255, 255)  # (2, H, W)


GEOMETRY = {
    "train": train_transform((24, 31), color=0),
    "scale": RandomScale(0.3, 2.5),
    "resize": Resize((17, 40)),
    "crop": Joint(v2.RandomCrop([20, 40], pad_if_needed=True)),
    "flip": FLIP,
    "rotation": Joint(v2.RandomRotation(30)),
    "perspective": Joint(v2.RandomPerspective(0.4, p=1.0)),
    "affine": Joint(v2.RandomAffine(20, translate=(0.3, 0.3), shear=10)),
    "zoom out": Joint(v2.RandomZoomOut(p=1.0)),
    "box crop": Joint(v2.RandomIoUCrop()),  # needs boxes
    "torchvision's elastic": Joint(v2.ElasticTransform(alpha=15.0, sigma=2.0)),  # about 0.6 pixels
    "elastic": RandomElastic(std=3.0),
    "D4": RandomD4(),
    "microscopy": elastic_transform((24, 31), std=3.0, light=0),
}
any_transform = st.sampled_from(sorted(GEOMETRY))
sides = st.integers(9, 40)
seeds = st.integers(0, 2**31)


# --- properties of every transform ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(name=any_transform, height=sides, width=sides, seed=seeds)
def test_no_transform_invents_a_label(name, height, width, seed):
    before = blocks(height, width, seed)
    torch.manual_seed(seed)
    after = GEOMETRY[name](before)
    assert set(after.semantic.unique().tolist()) <= set(before.semantic.unique().tolist()) | {255}
    assert set(after.panoptic.map.unique().tolist()) <= set(before.panoptic.map.unique().tolist()) | {0}
    assert after.semantic.dtype == torch.int64
    assert after.panoptic.map.dtype == torch.int32
    assert after.instances.masks.dtype == torch.bool


@settings(deadline=None)
@given(name=any_transform, height=sides, width=sides, seed=seeds)
def test_all_annotations_follow_the_same_geometry(name, height, width, seed):
    before = blocks(height, width, seed)
    torch.manual_seed(seed)
    after = GEOMETRY[name](before)
    size = after.image.shape[1:]
    assert after.semantic.shape == after.panoptic.map.shape == after.instances.masks.shape[1:] == size
    assert after.pixel_weight.shape == size

    # A pixel's weight comes from where its label does, and is 0 outside the image.
    assert torch.equal(after.pixel_weight, torch.where(after.semantic == 255, 0, after.semantic + 1) / 4)
    assert after.pixel_weight.dtype == torch.float32

    # Regions come from there too, and are void outside the image.
    assert torch.equal(after.regions, regions_of(after.semantic)) and after.regions.dtype == torch.uint8

    # Panoptic and semantic agree pixel by pixel, areas are counted, no segment is listed without a pixel.
    expected = torch.full(size, 255)
    for segment in after.panoptic.segments:
        here = after.panoptic.map == segment.id
        expected[here] = segment.category_id
        assert segment.area == here.sum() > 0 and segment.iscrowd == (segment.id % 4 == 3)
    assert torch.equal(expected, after.semantic)
    assert {s.id for s in after.panoptic.segments} == set(after.panoptic.map.unique().tolist()) - {0}

    # Every mask lies in its class, is not empty, and has the tight box.
    for mask, label in zip(after.instances.masks, after.instances.labels, strict=True):
        assert (after.semantic[mask] == label).all()
    assert after.instances.masks.flatten(1).any(1).all()
    assert torch.equal(after.instances.boxes, masks_to_boxes(after.instances.masks))


@settings(deadline=None)
@given(name=any_transform, seed=seeds)
def test_image_and_labels_stay_aligned(name, seed):
    torch.manual_seed(seed)
    assert_aligned(GEOMETRY[name](blocks(40, 48, seed, side=16)))


@pytest.mark.parametrize(
    "elastic", [Joint(v2.ElasticTransform(alpha=400.0, sigma=8.0)), RandomElastic(std=8.0)], ids=["torchvision", "ours"]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_an_elastic_deformation_looks_labels_up_where_it_samples_the_image(elastic, axis):
    size = (96, 128)
    index = torch.arange(size[axis]).view(-1, 1) if axis == 0 else torch.arange(size[axis])
    labels = index.expand(size).contiguous()  # (H, W), the row or the column
    image = torch.ones(3, *size)
    image[0] = (labels + 0.5) / size[axis]  # the brightness says where a pixel came from
    torch.manual_seed(0)
    after = elastic(Sample(image, "ramp", semantic=labels))
    source = after.image[0] * size[axis]
    # Near the border the image is mixed with what lies outside, or the ramp is flat.
    inner = (after.image[1] > 1 - 1e-6) & (source > 0.51) & (source < size[axis] - 0.51)
    assert inner.float().mean() > 0.8
    assert (source - labels - 0.5)[inner].abs().max() > 5  # pixels: it does bend
    # A label is that of the pixel that holds the place, at most half a pixel from its centre; 1e-3 for rounding.
    assert (after.semantic + 0.5 - source)[inner].abs().max() <= 0.5 + 1e-3


def assert_aligned(after: Sample) -> None:
    """The image shows what the labels say, wherever interpolation doesn't mix."""
    if min(after.image.shape[1:]) < 5:
        return
    # Interpolation mixes in neighbours, so a pixel counts where its 5x5 neighbourhood has one label.
    code = torch.where(after.semantic == 255, 0, after.semantic + 1)[None].float()  # (1, H, W), 0 outside
    uniform = F.max_pool2d(code, 5, 1) == -F.max_pool2d(-code, 5, 1)  # (1, H - 4, W - 4)
    shown, coded = after.image[:1, 2:-2, 2:-2] * 10, code[:, 2:-2, 2:-2]
    # 0.01 is a rounding error; a wrong label is off by 1.
    assert ((shown - coded)[uniform].abs() < 0.01).all()


@settings(deadline=None)
@given(name=any_transform, seed=seeds)
def test_torch_s_seed_alone_decides(name, seed):
    sample = blocks(20, 25)
    torch.manual_seed(seed)
    first = GEOMETRY[name](sample)
    torch.manual_seed(seed)
    random.seed(1), np.random.seed(1)  # noqa: NPY002 - the global generators must not matter
    second = GEOMETRY[name](sample)
    assert torch.equal(first.image, second.image) and torch.equal(first.semantic, second.semantic)


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_the_input_is_left_as_it_was(name):
    sample, copy = blocks(20, 25), blocks(20, 25)
    GEOMETRY[name](sample)
    train_transform(16)(sample)
    assert torch.equal(sample.image, copy.image) and torch.equal(sample.semantic, copy.semantic)
    assert torch.equal(sample.instances.masks, copy.instances.masks)
    assert torch.equal(sample.pixel_weight, copy.pixel_weight)
    assert torch.equal(sample.panoptic.map, copy.panoptic.map) and sample.panoptic.segments == copy.panoptic.segments


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_a_sample_without_objects_or_annotations_passes(name):
    sample = blocks(20, 25)
    none = sample.instances[:0]
    void = torch.full((20, 25), 255)
    empty = replace(sample, semantic=void, instances=none, panoptic=Panoptic(torch.zeros(20, 25, dtype=torch.int32)))
    if name != "box crop":  # asks for at least one box
        after = GEOMETRY[name](empty)
        assert len(after.instances) == 0 and after.instances.masks.shape[1:] == after.image.shape[1:]
        assert (after.semantic == 255).all() and after.panoptic.segments == []
        bare = GEOMETRY[name](Sample(sample.image, "bare"))
        assert bare.semantic is None and bare.instances is None and bare.panoptic is None
        assert bare.pixel_weight is None


# --- resizing -------------------------------------------------------------------------------------------------------


def test_labels_are_looked_up_at_pixel_centres():
    row = torch.arange(6)[None]  # (1, 6)
    # Output centres 0.5, 1.5, 2.5, 3.5 times 6/4 fall at 0.75, 2.25, 3.75, 5.25.
    assert resize_labels(row, (1, 4)).tolist() == [[0, 2, 3, 5]]
    assert resize_labels(row, (2, 3)).tolist() == [[1, 3, 5]] * 2  # at 1, 3, 5
    assert resize_labels(row[:, :2], (1, 5)).tolist() == [[0, 0, 1, 1, 1]]  # at .2 .6 1 1.4 1.8


@given(old=st.integers(1, 300), new=st.integers(1, 300))
def test_the_lookup_is_torch_s_nearest_exact_up_to_ties(old, new):
    ours = resize_labels(torch.arange(old)[None], (1, new))[0]
    reference = F.interpolate(torch.arange(old)[None, None].double(), new, mode="nearest-exact")[0, 0].long()
    # torch computes the centre in floating point; where it lies on a pixel border it may take the pixel before.
    tie = (2 * torch.arange(new) + 1) * old % (2 * new) == 0
    assert torch.equal(ours[~tie], reference[~tie])
    assert ((ours - reference)[tie].abs() <= 1).all()


@given(old=st.integers(8, 80), new=st.integers(8, 80))
def test_labels_are_not_shifted_against_the_image(old, new):
    # A ramp in which the brightness of a pixel is its centre. After resizing it still says where a pixel came from.
    ramp = (torch.arange(old) + 0.5) / old  # (W,)
    source = resize_image(ramp.expand(3, 1, old), (1, new))[0, 0] * old  # (W',)
    label = resize_labels(torch.arange(old)[None], (1, new))[0]
    inner = slice(new // 8 + 2, -(new // 8) - 2)  # the border of the image bends the ramp
    # A pixel's centre is at most half a pixel from the place looked up; 1e-3 for rounding.
    assert ((label + 0.5 - source)[inner].abs() <= 0.5 + 1e-3).all()


def test_an_image_that_shrinks_is_averaged_and_not_sampled():
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(3, 64, 64)
    # Stripes of one pixel become gray; without antialiasing some output pixels would be black or white.
    assert (resize_image(stripes, (20, 20))[:, :, 2:-2] - 0.5).abs().max() < 0.05


@given(seed=seeds, height=sides, width=sides)
def test_a_resized_image_stays_in_range(seed, height, width):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)).round()
    resized = resize_image(image, (height, width))
    assert resized.min() >= 0 and resized.max() <= 1


def test_one_number_resizes_the_shorter_side():
    assert Resize(10)(blocks(20, 30)).image.shape == (3, 10, 15)
    assert Resize(40)(blocks(30, 20)).semantic.shape == (60, 40)


def test_a_small_object_can_vanish_and_is_dropped_everywhere():
    sample = blocks(16, 16)
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 4:12, 4:12] = True
    ids = (masks[0] * 5 + masks[1] * 9).to(torch.int32)
    crowd = torch.tensor([False, True])
    sample = replace(
        sample,
        instances=Instances(masks, torch.tensor([3, 4]), masks_to_boxes(masks), iscrowd=crowd),
        panoptic=Panoptic(ids, [Segment(5, 3, True, 1), Segment(9, 4, True, 64)]),
    )
    small = Resize(8)(sample)
    assert small.instances.labels.tolist() == [4]
    assert small.instances.boxes.tolist() == [[2, 2, 6, 6]]
    assert small.instances.iscrowd.tolist() == [True]
    assert small.panoptic.segments == [Segment(9, 4, True, 16)]


# --- crops, flips, colours ------------------------------------------------------------------------------------------


def test_a_crop_larger_than_the_image_is_padded_with_void():
    torch.manual_seed(0)
    after = train_transform(32, scale=(1, 1), flip=0, color=0)(blocks(20, 16))
    outside = after.semantic == 255
    assert after.image.shape == (3, 32, 32)
    assert outside.sum() == 32 * 32 - 20 * 16
    assert (after.image[:, outside] == 0).all() and (after.image[:, ~outside] > 0).all()
    assert (after.panoptic.map[outside] == 0).all()
    assert not after.instances.masks[:, outside].any()


def test_a_padded_image_lies_anywhere_in_the_crop():
    torch.manual_seed(0)
    crop = train_transform(8, scale=(1, 1), flip=0, color=0)
    tops = [int((crop(blocks(5, 8)).semantic[:, 0] == 255).int().argmin()) for _ in range(50)]
    # Four places are possible, each is drawn with probability 1/4: one is missing with probability 4 (3/4)^50 = 2e-6.
    assert set(tops) == {0, 1, 2, 3}


def test_class_0_and_class_254_survive_next_to_padding():
    labels = torch.tensor([[0, 254]])
    torch.manual_seed(0)
    after = train_transform((3, 4), scale=(1, 1), flip=0, color=0)(Sample(torch.ones(3, 1, 2), "x", semantic=labels))
    assert sorted(after.semantic.unique().tolist()) == [0, 254, 255]


def test_a_flip_reflects_pixels_and_boxes():
    sample = blocks(8, 24)
    after = FLIP(sample)
    assert torch.equal(after.image, sample.image.flip(-1))
    assert torch.equal(after.semantic, sample.semantic.flip(-1))
    assert sample.instances.boxes.tolist() == [[0, 0, 8, 8]]
    assert after.instances.boxes.tolist() == [[16, 0, 24, 8]]


@given(height=sides, width=sides, seed=seeds)
def test_flipping_twice_changes_nothing(height, width, seed):
    sample = blocks(height, width, seed)
    after = FLIP(FLIP(sample))
    assert torch.equal(after.image, sample.image)
    assert torch.equal(after.semantic, sample.semantic)
    assert torch.equal(after.instances.masks, sample.instances.masks)
    assert torch.equal(after.instances.boxes, sample.instances.boxes)
    assert torch.equal(after.panoptic.map, sample.panoptic.map)
    assert after.panoptic.segments == sample.panoptic.segments


def test_colour_jitter_changes_the_image_alone_and_stays_in_range():
    sample = blocks(16, 16)
    loose = sample.instances.replace(boxes=sample.instances.boxes + 0.25)  # boxes that are not tight stay as they are
    sample = replace(sample, instances=loose)
    torch.manual_seed(0)
    after = train_transform(16, scale=(1, 1), flip=0, color=1)(sample)
    assert not torch.allclose(after.image, sample.image, atol=0.01)
    assert after.image.min() >= 0 and after.image.max() <= 1
    assert after.semantic is sample.semantic and after.panoptic is sample.panoptic
    assert after.instances is sample.instances


def test_every_random_part_of_the_training_transform_is_used():
    sample = blocks(32, 32)
    transform = train_transform(32, scale=(0.5, 2.0), flip=0.5, color=0)
    torch.manual_seed(0)
    results = [transform(sample) for _ in range(200)]
    padded = sum(bool((r.semantic == 255).any()) for r in results)
    # A third of the zooms is below 1 and pads; 67 expected of 200, the standard deviation is 7.
    assert 40 < padded < 95
    # Without zoom and crop what is left is the flip: 100 expected of 200, the standard deviation is 7.
    flipped = [train_transform(32, scale=(1, 1), color=0)(sample).semantic for _ in range(200)]
    assert 70 < sum(torch.equal(m, sample.semantic.flip(-1)) for m in flipped) < 130


def test_the_zoom_lies_in_its_range():
    torch.manual_seed(0)
    heights = [RandomScale(0.5, 2.0)(blocks(20, 20)).image.shape[1] for _ in range(200)]
    assert min(heights) in (10, 11) and max(heights) in (39, 40)


# --- the rest -------------------------------------------------------------------------------------------------------


def test_keep_drops_the_other_annotations():
    kept = train_transform(16, keep=("semantic",))(blocks(20, 20))
    assert kept.semantic is not None and kept.instances is None and kept.panoptic is None
    assert kept.pixel_weight is not None  # of the semantic loss
    kept = eval_transform(keep=("instances", "panoptic"))(blocks(20, 20))
    assert kept.semantic is None and kept.instances is not None and kept.panoptic is not None
    assert kept.pixel_weight is None


def test_evaluation_changes_nothing_unless_asked():
    sample = blocks(20, 30)
    assert eval_transform()(sample) is sample
    assert eval_transform((10, 12))(sample).semantic.shape == (10, 12)


@pytest.mark.parametrize("transform", [train_transform(16), eval_transform(), eval_transform(8, keep=("semantic",))])
def test_transforms_can_be_pickled(transform):
    again = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(0)
    first = transform(blocks(20, 20))
    torch.manual_seed(0)
    assert torch.equal(again(blocks(20, 20)).image, first.image)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: train_transform(0), "size must be a positive whole number or a pair"),
        (lambda: train_transform((4, 4, 4)), r"pair \(H, W\) of them, got \(4, 4, 4\)"),
        (lambda: train_transform(8, scale=(2, 1)), r"0 < low <= high, got \(2, 1\)"),
        (lambda: train_transform(8, scale=(0, 1)), "0 < low"),
        (lambda: train_transform(8, flip=1.5), r"flip is a probability in \[0, 1\], got 1.5"),
        (lambda: train_transform(8, color=-0.1), "color must be in"),
        (lambda: eval_transform(-1), "size must be"),
        (lambda: Keep("semantics"), "'semantics' is unknown; choose from semantic, instances, panoptic"),
    ],
)
def test_arguments_out_of_range_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- regions, other channels, the size that a model wants -------------------------------------------------------------


def test_keep_leaves_the_weights_where_regions_stay():
    kept = Keep("regions")(blocks(8, 8))
    assert kept.regions is not None and kept.pixel_weight is not None
    assert kept.semantic is None and kept.instances is None and kept.panoptic is None
    assert Keep("instances")(blocks(8, 8)).regions is None


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", sorted(set(GEOMETRY) - {"torchvision's elastic"}))
def test_images_of_any_number_of_channels_move_as_rgb_does(name, channels):
    rgb = blocks(24, 40)
    many = replace(rgb, image=rgb.image[:1].expand(channels, -1, -1).clone() * 100)  # in other units, too
    torch.manual_seed(0)
    expected = GEOMETRY[name](rgb)
    torch.manual_seed(0)
    moved = GEOMETRY[name](many)
    assert torch.equal(moved.semantic, expected.semantic)
    # float32 resolves 1e-5 at values of 100, and interpolation adds a few of them up
    assert torch.allclose(moved.image[-1], expected.image[0] * 100, rtol=0, atol=1e-4)
    assert moved.image.shape[0] == channels


@pytest.mark.parametrize("transform", [train_transform(8), elastic_transform(8)])
@pytest.mark.parametrize(
    ("channels", "factor", "seen"), [(4, 1, r"4 channels in \[0"), (3, 1000, r"\[-?0\.?\d*, \d{3}")]
)
def test_jitter_refuses_the_images_that_it_would_spoil(transform, channels, factor, seen):
    image = torch.linspace(0, 1, 64).view(8, 8).expand(channels, -1, -1).clone() * factor
    with pytest.raises(ValueError, match=f"jitter of colours is for RGB and grey images.*{seen}.*turn it off"):
        transform(Sample(image, "odd"))


def test_grey_images_are_jittered():
    grey = Sample(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)), "grey")
    torch.manual_seed(0)
    assert not torch.equal(train_transform(8, scale=(1, 1), flip=0)(grey).image, grey.image)


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (Geometry(), (24, 40)),
        (Geometry("shorter", 12), (12, 20)),
        (Geometry("shorter", 48, longest=60), (36, 60)),
        (Geometry("square", 16), (16, 16)),
        (Geometry("letterbox", 20), (12, 20)),
    ],
)
def test_a_sample_is_resized_to_what_the_model_wants(geometry, size):
    before = blocks(24, 40)
    after = ResizeToGeometry(geometry)(before)
    assert torch.equal(after.image, geometry(before.image)) and after.image.shape[1:] == size
    assert torch.equal(after.semantic, resize_labels(before.semantic, size))
    assert after.instances.masks.shape[1:] == size


def test_the_geometry_decides_about_the_filter():
    stripes = Sample((torch.arange(40) % 2).float().expand(3, 40, 40).clone(), "stripes")
    smooth, sharp = (ResizeToGeometry(Geometry("square", 8, antialias=on))(stripes).image for on in (True, False))
    assert (smooth - 0.5).abs().max() < 0.2 < (smooth - sharp).abs().max()
