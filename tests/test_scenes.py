"""The synthetic scenes: the same everywhere, three annotations that agree, and parameters that do what they say."""

import itertools
import pickle
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from seglib.data._canvas import Canvas
from seglib.data._noise import Draws, hashed, scene_key, smooth_noise
from seglib.data.scenes import CATEGORIES, Scenes, make_scene
from seglib.types import VOID, Sample

NAMES = [category.name for category in CATEGORIES]


def checksum(sample: Sample) -> int:
    """One number for the image and every annotation, independent of the machine's byte order."""
    assert sample.semantic is not None and sample.instances is not None and sample.panoptic is not None
    levels = (sample.image * 255).round().to(torch.uint8)
    crc = zlib.crc32(levels.numpy().tobytes())
    crc = zlib.crc32(sample.semantic.to(torch.uint8).numpy().tobytes(), crc)
    crc = zlib.crc32(sample.panoptic.map.to(torch.uint8).numpy().tobytes(), crc)
    crc = zlib.crc32(sample.instances.masks.to(torch.uint8).numpy().tobytes(), crc)
    numbers = [*sample.instances.labels.tolist(), *map(int, sample.instances.boxes.flatten().tolist())]
    segments = [(s.id, s.category_id, s.isthing, s.area) for s in sample.panoptic.segments]
    return zlib.crc32(repr((numbers, segments)).encode(), crc)


def samples_of(dataset: Scenes) -> Iterator[Sample]:
    return (dataset[index] for index in range(len(dataset)))


def checksum_of(arguments: tuple[int, int, int | tuple[int, int], float]) -> int:
    seed, index, size, difficulty = arguments
    return checksum(make_scene(seed, index, size=size, difficulty=difficulty))


STORED: dict[tuple[int, int, int | tuple[int, int], float], int] = {
    (0, 0, 128, 0.5): 2749034156,
    (0, 1, 128, 0.5): 3092822918,
    (0, 2, (96, 160), 0.0): 2363210868,
    (1, 3, (75, 45), 1.0): 2191694256,
    (1099511627776, 1000000, 32, 0.25): 2203708170,
    (7, 11, 256, 0.5): 2126208245,
}


@pytest.mark.parametrize(("arguments", "crc"), STORED.items(), ids=str)
def test_a_scene_is_the_same_on_every_machine(arguments, crc):
    assert checksum_of(arguments) == crc


def test_a_scene_does_not_depend_on_the_scenes_drawn_before_it():
    assert [checksum_of(arguments) for arguments in reversed(STORED)] == list(reversed(STORED.values()))


def test_the_hash_is_the_published_one_worked_by_hand():
    def mixed(x, word):  # one counter in plain integers of unlimited size
        mask = (1 << 32) - 1
        x = (x * 0x9E3779B1 + (word & mask)) & mask
        x ^= x >> 16
        x = x * 0x7FEB352D & mask
        x ^= word >> 32
        x ^= x >> 15
        x = x * 0x846CA68B & mask
        return x ^ (x >> 16)

    def mixed64(z):
        mask = (1 << 64) - 1
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert mixed64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # splitmix64's first output for the seed 0
    word = mixed64((7 + 3 * 0x9E3779B97F4A7C15) & ((1 << 64) - 1))
    assert hashed(7, 3, 4, start=2).tolist() == [mixed(x, word) for x in range(2, 6)]


def test_draws_are_uniform_and_streams_differ():
    draws = Draws(scene_key(0, 0), 1)
    values = np.array([draws() for _ in range(4000)])
    # The mean of 4000 uniform numbers has standard deviation 0.0046; 5 of them.
    assert abs(values.mean() - 0.5) < 0.023 and values.min() >= 0 and values.max() < 1
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.08
    assert Draws(scene_key(0, 0), 2)() != values[0] != Draws(scene_key(0, 1), 1)()
    assert {Draws(scene_key(0, n), 0).whole(2, 4) for n in range(50)} == {2, 3, 4}


def test_smooth_noise_holds_the_hashed_values_on_the_grid_and_the_mean_half_way():
    grid = smooth_noise(5, 1, np.arange(3, dtype=np.float32), np.arange(4, dtype=np.float32))
    half = smooth_noise(5, 1, np.array([0, 1, 2], np.float32), np.array([0.5, 1.5, 3], np.float32))
    assert grid.dtype == half.dtype == np.float32
    assert abs(grid).max() <= 1
    np.testing.assert_array_equal(half[:, 0], (grid[:, 0] + grid[:, 1]) * np.float32(0.5))


def blank(height=8, width=8):
    return Canvas(height, width, np.zeros((height, width), np.float32), 1.0)


def test_a_box_covers_its_border_pixels_by_their_exact_share():
    canvas = blank()
    canvas.box(1.25, 2, 4.5, 3, (1.0, 0.5, 0.0), tag=9)
    assert canvas.image[0, 2].tolist() == [0, 0.75, 1, 1, 0.5, 0, 0, 0]
    assert canvas.image[1, 2].tolist() == [0, 0.375, 0.5, 0.5, 0.25, 0, 0, 0]
    assert canvas.owner[2].tolist() == [0, 9, 9, 9, 9, 0, 0, 0]
    assert canvas.image[:, [0, 1, 3, 4]].max() == 0


def test_shapes_cover_their_area_and_a_twin_is_a_reflection():
    canvas = blank(64, 64)
    canvas.ellipse(32, 32, 20, 12, (1.0, 1.0, 1.0), 1)
    assert canvas.image[0].sum() == pytest.approx(np.pi * 20 * 12, rel=0.02)  # the edge is first order in distance
    canvas = blank(64, 64)
    canvas.polygon([(4, 4), (60, 4), (4, 60)], (1.0, 1.0, 1.0), 1)
    assert canvas.image[0].sum() == pytest.approx(56 * 56 / 2, rel=0.02)
    canvas = blank(64, 64)
    canvas.line(40, 10, 52, 50, 4, (1.0, 1.0, 1.0), 1, twin=32)
    np.testing.assert_array_equal(canvas.image, canvas.image[:, :, ::-1])
    assert canvas.owner[30].tolist().count(1) in (8, 9, 10)  # two strokes 4 pixels thick, slightly slanted


def test_a_shape_outside_the_image_changes_nothing():
    canvas = blank()
    canvas.box(-5, -5, -2, -2, (1.0, 1.0, 1.0), 1)
    canvas.ellipse(40, 4, 3, 3, (1.0, 1.0, 1.0), 1)
    canvas.line(4, 20, 8, 30, 2, (1.0, 1.0, 1.0), 1)
    canvas.polygon([(-9, 0), (-4, 0), (-4, 8)], (1.0, 1.0, 1.0), 1)
    assert canvas.image.max() == 0 and canvas.owner.max() == 0


def check_agreement(sample: Sample, height: int, width: int) -> None:
    """The three annotations and the image describe the same pixels."""
    semantic, instances, panoptic = sample.semantic, sample.instances, sample.panoptic
    assert semantic is not None and instances is not None and panoptic is not None
    assert sample.image.shape == (3, height, width) and sample.image.dtype == torch.float32
    levels = (sample.image * 255).round()
    assert torch.equal(levels / 255, sample.image) and levels.min() >= 0 and levels.max() <= 255
    assert semantic.shape == (height, width) and semantic.dtype == torch.int64
    assert panoptic.map.shape == (height, width) and panoptic.map.dtype == torch.int32
    # Each segment is the pixels of its class; the segments' ids are those in the map, void apart.
    assert {s.id for s in panoptic.segments} == set(panoptic.map.unique().tolist()) - {0}
    rebuilt = torch.full_like(semantic, VOID)
    for segment in panoptic.segments:
        mask = panoptic.map == segment.id
        assert segment.area == int(mask.sum()) > 0
        assert segment.isthing == CATEGORIES[segment.category_id].isthing
        rebuilt[mask] = segment.category_id
    assert torch.equal(rebuilt, semantic)
    stuff = [s.category_id for s in panoptic.segments if not s.isthing]
    assert len(set(stuff)) == len(stuff)
    # The instances are the thing segments, in the same order, none below 4 pixels, with tight boxes.
    things = [s for s in panoptic.segments if s.isthing]
    assert instances.labels.tolist() == [s.category_id for s in things] and instances.labels.dtype == torch.int64
    assert instances.masks.shape == (len(things), height, width) and instances.masks.dtype == torch.bool
    assert instances.boxes.dtype == torch.float32
    for segment, mask, box in zip(things, instances.masks, instances.boxes, strict=True):
        assert torch.equal(mask, panoptic.map == segment.id) and segment.area >= 4
        rows, columns = torch.nonzero(mask, as_tuple=True)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [float(edge) for edge in tight]


@settings(max_examples=40, deadline=None)
@given(
    index=st.integers(0, 10**9),
    size=st.tuples(st.integers(32, 97), st.integers(32, 97)),
    difficulty=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_semantic_instances_and_panoptic_agree_at_any_size(index, size, difficulty):
    check_agreement(make_scene(4, index, size=size, difficulty=difficulty), *size)


def test_a_scene_without_things_has_empty_instances():
    empty = {category.name: 0.0 for category in CATEGORIES if category.isthing}
    sample = make_scene(0, 3, size=48, balance=empty)
    check_agreement(sample, 48, 48)
    assert sample.instances is not None and len(sample.instances) == 0
    assert sample.instances.boxes.shape == (0, 4)


def labels_of(sample: Sample) -> Tensor:
    assert sample.instances is not None
    return sample.instances.labels


def present(samples: list[Sample]) -> list[set[str]]:
    found = []
    for sample in samples:
        assert sample.semantic is not None
        found.append({NAMES[label] for label in sample.semantic.unique().tolist() if label != VOID})
    return found


def test_every_class_and_some_void_occur_and_no_image_is_flat():
    samples = [make_scene(0, index, size=96) for index in range(60)]
    classes = present(samples)
    for name in NAMES:
        share = sum(name in found for found in classes) / 60
        assert share > 0.25, f"{name} is in {share:.0%} of the scenes"
    smudged = [s for s in samples if s.semantic is not None and torch.count_nonzero(s.semantic == VOID) > 40]
    assert 2 <= len(smudged) <= 20  # about one scene in seven
    assert min(float(s.image.std()) for s in samples) > 0.05
    for sample in samples:
        check_agreement(sample, 96, 96)


def test_instances_range_from_large_to_a_few_pixels_and_touch():
    areas, touching = [], 0
    for index in range(24):
        sample = make_scene(1, index)
        assert sample.instances is not None and sample.panoptic is not None
        areas += sample.instances.masks.flatten(1).sum(1).tolist()
        classes = {s.id: s.category_id for s in sample.panoptic.segments if s.isthing}
        left, right = sample.panoptic.map[:, :-1].flatten().tolist(), sample.panoptic.map[:, 1:].flatten().tolist()
        pairs = {(a, b) for a, b in zip(left, right, strict=True) if a != b and a in classes and b in classes}
        touching += any(classes[a] == classes[b] for a, b in pairs)
    assert min(areas) < 12 and max(areas) > 1500
    assert touching >= 12  # two neighbours of one class in at least every other scene


def test_balance_removes_a_class_and_makes_another_more_frequent():
    def count(name, balance):
        samples = [make_scene(2, index, size=64, balance=balance) for index in range(20)]
        return sum(labels_of(sample).tolist().count(NAMES.index(name)) for sample in samples)

    usual = count("person", None)
    assert count("person", {"person": 0}) == 0
    assert count("person", {"person": 3}) > 1.8 * usual
    for name in ("road", "water", "mountain", "bird"):
        assert not any(
            name in found for found in present([make_scene(2, n, size=64, balance={name: 0}) for n in range(20)])
        )


def test_removing_one_class_leaves_the_others_where_they_are():
    person, seen = NAMES.index("person"), 0
    for index in range(5):
        usual = make_scene(0, index, size=64).semantic
        without = make_scene(0, index, size=64, balance={"person": 0}).semantic
        assert usual is not None and without is not None
        seen += int(torch.count_nonzero(usual == person))
        elsewhere = (usual != person) & (usual != VOID)
        assert torch.equal(usual[elsewhere], without[elsewhere])
    assert seen > 50


def test_difficulty_brings_noise_and_more_things():
    def roughness(difficulty):  # mean step between vertical neighbours in the upper sky, in 8-bit levels
        steps = [
            make_scene(3, n, difficulty=difficulty).image[:, :12].diff(dim=1).abs().mean() * 255 for n in range(16)
        ]
        return float(torch.stack(steps).mean())

    def things(difficulty):
        return sum(len(labels_of(make_scene(3, index, size=64, difficulty=difficulty))) for index in range(16))

    assert roughness(1.0) > 2.5 * roughness(0.0)
    assert things(1.0) > 1.15 * things(0.0)


def test_the_composition_scales_with_the_size():
    agree = []
    for index in range(12):
        small, large = make_scene(0, index, size=64).semantic, make_scene(0, index, size=192).semantic
        assert small is not None and large is not None
        agree.append(float((large[1::3, 1::3] == small).float().mean()))
    # What differs is the one-pixel border of the shapes and thin things, which are at least a pixel wide.
    assert min(agree) > 0.85 and sum(agree) / len(agree) > 0.92


def test_splits_and_seeds_never_share_a_scene():
    images = set()
    for split, seed in itertools.product(("train", "val", "test"), (0, 1)):
        for sample in samples_of(Scenes(4, split=split, seed=seed, size=32)):
            images.add(sample.image.numpy().tobytes())
    assert len(images) == 3 * 2 * 4


def test_a_split_is_the_series_that_its_documentation_names():
    for code, split in enumerate(("train", "val", "test")):
        item, scene = Scenes(3, split=split, seed=5, size=32)[2], make_scene(15 + code, 2, size=32)
        assert checksum(item) == checksum(scene)


@pytest.mark.parametrize("cache", [True, False])
def test_a_dataset_gives_the_same_sample_again_after_pickling_and_from_the_end(cache):
    dataset = Scenes(5, size=(40, 56), cache=cache)
    first = checksum(dataset[3])
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 2000  # the drawn scenes stay at home
    assert first == checksum(dataset[3]) == checksum(dataset[-2]) == checksum(copy[3])
    assert len(dataset) == 5 and dataset.categories is CATEGORIES


def test_a_cached_sample_can_be_changed_without_harm():
    dataset = Scenes(1, size=32)
    before = checksum(dataset[0])
    sample = dataset[0]
    sample.image.zero_()
    assert sample.semantic is not None and sample.instances is not None and sample.panoptic is not None
    for tensor in (sample.semantic, sample.instances.masks, sample.panoptic.map):
        tensor.zero_()
    assert checksum(dataset[0]) == before


def test_a_transform_sees_every_sample_each_time():
    seen = []

    def note(sample: Sample) -> Sample:
        seen.append(sample.id)
        return sample

    dataset = Scenes(2, size=32, split="val", transform=note)
    ids = [dataset[0].id, dataset[1].id, dataset[0].id]
    assert seen == ids and len(set(ids)) == 2


@pytest.mark.slow  # a new process imports torch
def test_worker_processes_draw_the_same_scenes():
    dataset = Scenes(4, size=32)
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [checksum(sample) for sample in loader] == [checksum(sample) for sample in samples_of(dataset)]


def test_an_empty_split_is_a_dataset():
    dataset = Scenes(0)
    assert len(dataset) == 0
    with pytest.raises(IndexError, match="this split has 0"):
        dataset[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 31}, "31 × 31 is too small to draw; pass at least 32 × 32"),
        ({"size": (64, 16)}, "64 × 16 is too small"),
        ({"difficulty": 1.5}, "difficulty must be between 0 and 1, got 1.5"),
        ({"difficulty": float("nan")}, "difficulty must be between 0 and 1, got nan"),
        ({"balance": {"dog": 1.0}}, "balance names the class 'dog'; the classes are house, tree"),
        ({"balance": {"sky": 0.0}}, "'sky', which every scene needs"),
        ({"balance": {"car": -1.0}}, r"balance\['car'\] must be between 0 and 10, got -1.0"),
        ({"seed": -1}, "seed -1"),
        ({"length": -1}, "length must be at least 0, got -1"),
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**{"length": 1, **arguments})


def test_an_index_out_of_range_is_an_index_error():
    for index in (2, -3):
        with pytest.raises(IndexError, match="this split has 2"):
            Scenes(2, size=32)[index]


# Linear RGB seen with no red, green or blue cones (Machado et al. 2009, severity 1), and sRGB's matrix to XYZ.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(linear: np.ndarray) -> np.ndarray:
    ratio = linear @ XYZ.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], 1)


@pytest.mark.parametrize("vision", VISION)
def test_the_colours_of_the_classes_keep_apart(vision):
    levels = np.array([category.color for category in CATEGORIES]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ np.array(VISION[vision]).T, 0, 1))
    for a, b in itertools.combinations(range(len(NAMES)), 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 25, f"{NAMES[a]} and {NAMES[b]} look alike"
