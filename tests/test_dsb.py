"""The nuclei of the Data Science Bowl in both layouts: made trees, and the real files where they are at hand."""

import pickle
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.data.collate import collate
from seglib.data.dsb import CATEGORIES, DSB2018, DSB2018Kaggle
from seglib.data.images import write_png
from seglib.data.microscopy import elastic_transform
from seglib.ops.masks import masks_to_boxes
from seglib.types import check_categories

SHARED = Path(__file__).parents[2] / "shared" / "data"
MAPS, MASKS = SHARED / "dsb2018-labelmaps", SHARED / "dsb2018"
needs_maps = pytest.mark.skipif(not MAPS.is_dir(), reason=f"the label maps of nuclei are not at {MAPS}")
needs_both = pytest.mark.skipif(not (MAPS.is_dir() and MASKS.is_dir()), reason=f"the nuclei are not in {SHARED}")

NAMES = [f"{n:02d}" for n in range(12)]
HELD_OUT = [n for n in NAMES if crc32(n.encode()) % 6 == 0]
LABELS = np.array([[0, 0, 300, 300], [7, 0, 300, 0], [7, 7, 0, 0]], np.uint16)  # ids with a gap, beyond 8 bits


@pytest.fixture
def maps(tmp_path):
    """Label maps: twelve images in train, one without a nucleus in test."""
    for split, names in {"train": NAMES, "test": ["last"]}.items():
        for name in names:
            labels = LABELS if split == "train" else np.zeros_like(LABELS)
            for folder, array in {"images": np.full((3, 4), 51, np.uint8), "masks": labels}.items():
                path = tmp_path / "dsb2018" / split / folder / f"{name}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path, compression="tiff_adobe_deflate")
    return tmp_path


def save_masks(root, name, masks):
    """One image in Kaggle's layout; ``masks`` are rows of 0 and 1 by file name."""
    (root / "stage1_train" / name / "images").mkdir(parents=True)
    (root / "stage1_train" / name / "masks").mkdir()
    Image.new("RGBA", (4, 1), (255, 51, 0, 255)).save(root / "stage1_train" / name / "images" / f"{name}.png")
    for file, row in masks.items():
        write_png(root / "stage1_train" / name / "masks" / f"{file}.png", 255 * np.array([row], np.uint8))


@pytest.fixture
def kaggle(tmp_path):
    save_masks(tmp_path, "b", {"y": [1, 0, 0, 0], "x": [0, 0, 1, 1]})
    save_masks(tmp_path, "a", {"z": [0, 1, 0, 0]})
    return tmp_path


def test_the_only_class_is_a_thing():
    assert [(c.name, c.isthing) for c in check_categories(CATEGORIES)] == [("nucleus", True)]


# --- label maps ------------------------------------------------------------------------------------------------------


def test_every_id_of_a_label_map_is_a_nucleus(maps):
    sample = DSB2018(maps, "trainval")[0]
    assert sample.id == "00"
    assert sample.image.shape == (3, 3, 4) and sample.image.unique().tolist() == pytest.approx([0.2])
    assert sample.instances.labels.tolist() == [0, 0]
    assert torch.equal(sample.instances.masks, torch.from_numpy(np.stack([LABELS == 7, LABELS == 300])))
    assert sample.instances.boxes.tolist() == [[0, 1, 2, 3], [2, 0, 4, 2]]
    assert sample.semantic is None and sample.panoptic is None


def test_a_label_map_without_background_keeps_its_first_nucleus(maps):
    Image.new("L", (4, 3), 5).save(maps / "dsb2018" / "test" / "masks" / "last.tif")
    assert DSB2018(maps, "test")[0].instances.boxes.tolist() == [[0, 0, 4, 3]]


def test_an_image_without_a_nucleus_is_a_sample(maps):
    (sample,) = DSB2018(maps, "test")
    assert sample.instances.masks.shape == (0, 3, 4) and sample.instances.boxes.shape == (0, 4)


def test_train_and_val_share_the_folder_train_by_name(maps):
    assert 0 < len(HELD_OUT) < 12
    assert list(DSB2018(maps, "val").ids) == HELD_OUT
    assert sorted(DSB2018(maps, "train").ids + DSB2018(maps, "val").ids) == NAMES
    assert list(DSB2018(maps, "trainval").ids) == NAMES


def test_an_image_stays_on_its_side_when_another_is_removed(maps):
    before = DSB2018(maps, "val").ids
    gone = DSB2018(maps, "train").ids[0]
    for folder in ("images", "masks"):
        (maps / "dsb2018" / "train" / folder / f"{gone}.tif").unlink()
    assert DSB2018(maps, "val").ids == before


@pytest.mark.parametrize("below", ["", "dsb2018"])
def test_the_root_may_be_the_folder_itself_or_the_one_around_it(maps, below):
    assert DSB2018(maps / below, "test").ids == ("last",)


def test_size_and_transform_are_applied(maps, kaggle):
    for dataset in (
        DSB2018(maps, "trainval", size=(6, 8), transform=lambda s: s.instances.masks.shape),
        DSB2018Kaggle(kaggle, size=(6, 8), transform=lambda s: s.instances.masks.shape),
    ):
        assert dataset.size == (6, 8) and dataset[0][1:] == (6, 8)
    assert DSB2018(maps).size is None


def test_faults_of_the_label_maps_are_named(maps):
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, val, trainval, test"):
        DSB2018(maps, "dev")
    with pytest.raises(
        FileNotFoundError, match=r"neither .*nowhere/train nor .*nowhere/dsb2018/train; dsb2018\.zip is"
    ):
        DSB2018(maps / "nowhere")
    folder = maps / "dsb2018"
    Image.new("L", (5, 3)).save(folder / "test" / "masks" / "last.tif")
    with pytest.raises(ValueError, match=r"last\.tif is 3 x 5 \(H x W\) and its image is 3 x 4"):
        DSB2018(maps, "test")[0]
    (folder / "train" / "masks" / "03.tif").unlink()
    (folder / "train" / "images" / "05.tif").unlink()
    with pytest.raises(ValueError, match=r"has 03 in only one of images and masks \(2 such names\)"):
        DSB2018(maps)


def test_a_split_without_an_image_is_named(maps):
    for name in HELD_OUT:
        for folder in ("images", "masks"):
            (maps / "dsb2018" / "train" / folder / f"{name}.tif").unlink()
    with pytest.raises(ValueError, match="none is in the split 'val'; use 'trainval'"):
        DSB2018(maps, "val")


# --- Kaggle's layout -------------------------------------------------------------------------------------------------


def test_every_file_of_an_image_is_a_nucleus(kaggle):
    dataset = DSB2018Kaggle(kaggle)
    assert dataset.ids == ("a", "b")
    sample = dataset[1]
    assert sample.id == "b" and sample.image[:, 0, 0].tolist() == pytest.approx([1, 0.2, 0])
    assert sample.instances.masks.int().tolist() == [[[0, 0, 1, 1]], [[1, 0, 0, 0]]]  # by file name
    assert sample.instances.boxes.tolist() == [[2, 0, 4, 1], [0, 0, 1, 1]]
    assert sample.instances.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ({"p": [1, 1, 1, 0], "q": [0, 0, 1, 1]}, [[1, 1, 0, 0], [0, 0, 1, 1]]),  # the smaller has the shared pixel
        ({"p": [0, 0, 1, 1], "q": [1, 1, 1, 0]}, [[0, 0, 1, 1], [1, 1, 0, 0]]),  # whatever its name
        ({"p": [0, 1, 1, 0], "q": [1, 1, 0, 0]}, [[0, 1, 1, 0], [1, 0, 0, 0]]),  # of one size: the first
        ({"p": [0, 1, 1, 0], "q": [0, 1, 1, 0]}, [[0, 1, 1, 0]]),  # twice the same
        ({"p": [1, 1, 1, 1], "q": [0, 1, 1, 1], "r": [0, 0, 1, 1]}, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]),
        ({"p": [0, 0, 0, 0], "q": [1, 0, 0, 0]}, [[1, 0, 0, 0]]),  # a file without a pixel
        ({}, []),
    ],
)
def test_a_pixel_that_several_masks_claim_goes_to_the_smallest(tmp_path, masks, expected):
    save_masks(tmp_path, "a", masks)
    (sample,) = DSB2018Kaggle(tmp_path)
    assert sample.instances.masks[:, 0].int().tolist() == expected
    assert sample.instances.masks.shape[1:] == (1, 4)


def test_the_kaggle_root_may_be_the_folder_itself(kaggle):
    assert DSB2018Kaggle(kaggle / "stage1_train").ids == ("a", "b")


def test_images_are_chosen_by_name(kaggle):
    dataset = DSB2018Kaggle(kaggle, ids=["b"])
    assert dataset.ids == ("b",) and [len(s.instances) for s in dataset] == [2]
    assert [s.id for s in DSB2018Kaggle(kaggle, ids=["b", "a"])] == ["b", "a"]
    with pytest.raises(ValueError, match=r"ids has \['c'\]; choose some of the 2 names in .*stage1_train"):
        DSB2018Kaggle(kaggle, ids=["a", "c"])
    with pytest.raises(ValueError, match="ids has no name"):
        DSB2018Kaggle(kaggle, ids=[])


@pytest.mark.parametrize("size", [(0, 8), (6,), "68"])
def test_a_size_that_is_none_is_refused(maps, kaggle, size):
    for build in (DSB2018, DSB2018Kaggle):
        with pytest.raises(ValueError, match="size must be a positive whole number or a pair"):
            build(maps if build is DSB2018 else kaggle, size=size)


def test_faults_of_the_masks_are_named(kaggle):
    with pytest.raises(FileNotFoundError, match=r"no image X with a folder X/masks in .*nowhere; stage1_train\.zip is"):
        DSB2018Kaggle(kaggle / "nowhere")
    write_png(kaggle / "stage1_train" / "b" / "masks" / "x.png", np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match=r"x\.png is 2 x 4 \(H x W\) and its image is 1 x 4"):
        DSB2018Kaggle(kaggle)[1]
    (kaggle / "stage1_train" / "b" / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images do not exist \(.*b\.png\)"):
        DSB2018Kaggle(kaggle)


# --- the real files --------------------------------------------------------------------------------------------------


@needs_maps
def test_the_real_label_maps_have_the_published_counts():
    train, val, both, test = (DSB2018(MAPS, split) for split in ("train", "val", "trainval", "test"))
    assert len(both) == 160 and len(test) == 40
    assert len(train) + len(val) == 160 and not set(train.ids) & set(val.ids) and 20 <= len(val) <= 40
    assert sum(len(s.instances) for s in test) == 1122
    assert {tuple(s.image.shape[1:]) for s in test} <= {(256, 256), (360, 360), (256, 320), (260, 347)}


@needs_maps
def test_the_real_images_can_be_batched_in_crops():
    dataset = pickle.loads(pickle.dumps(DSB2018(MAPS, "val", transform=elastic_transform(128))))
    batch = collate([dataset[i] for i in range(3)])
    assert batch.images.shape == (3, 3, 128, 128)
    for instances in batch.targets.instances:
        assert torch.equal(instances.boxes, masks_to_boxes(instances.masks))


@needs_both
def test_both_layouts_show_the_same_nuclei():
    masks, maps = DSB2018Kaggle(MASKS), DSB2018(MAPS, "trainval")
    assert len(masks) == 80
    assert sum(len(list(p.iterdir())) for p in (MASKS / "stage1_train").glob("*/masks")) == 2519
    shared = sorted(set(masks.ids) & set(maps.ids))
    assert len(shared) == 34
    for name in shared[::7]:
        a, b = masks[masks.ids.index(name)].instances, maps[maps.ids.index(name)].instances
        assert len(a) == len(b) > 0
        in_order = [x.masks[x.masks.flatten(1).int().argmax(1).argsort()] for x in (a, b)]  # by their first pixel
        assert torch.equal(*in_order)
