"""Stacks of slices: numbered files and pages of TIFF files, and ISBI 2012 in both of its layouts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seglib.data.images import write_png
from seglib.data.isbi import BLOCKS, CATEGORIES, ISBI2012
from seglib.data.stacks import SegmentationStack, z_blocks
from seglib.types import Category

REAL = Path(__file__).parents[2] / "shared" / "data" / "isbi2012"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the ISBI 2012 slices are not at {REAL}")

TABLE = [Category(0, "cell", True, (230, 159, 0)), Category(1, "membrane", False, (0, 114, 178))]
BINARY = {255: 0, 0: 1}
DEPTH = 12


def gray(z: int) -> np.ndarray:
    return np.full((3, 4), 10 * z, np.uint8)


def mask(z: int) -> np.ndarray:
    """255 in the first z pixels."""
    return np.where(np.arange(12) < z, 255, 0).astype(np.uint8).reshape(3, 4)


def write_pages(path: Path, pages: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(p) for p in pages)
    first.save(path, save_all=True, append_images=others)


@pytest.fixture
def root(tmp_path):
    """The same 12 slices as numbered files and as pages."""
    for z in range(DEPTH):
        write_png(tmp_path / "image" / f"{z}.png", gray(z))
        write_png(tmp_path / "label" / f"{z}.png", mask(z))
    write_pages(tmp_path / "volume.tif", [gray(z) for z in range(DEPTH)])
    write_pages(tmp_path / "labels.tif", [mask(z) for z in range(DEPTH)])
    return tmp_path


def load(root, images="image", labels="label", **keywords):
    return SegmentationStack(root / images, root / labels, TABLE, **{"remap": BINARY} | keywords)


LAYOUTS = [("image", "label"), ("volume.tif", "labels.tif"), ("volume.tif", "label"), ("image", "labels.tif")]


@pytest.mark.parametrize(("images", "labels"), LAYOUTS)
def test_slices_come_in_z_order_from_files_and_from_pages(root, images, labels):
    dataset = load(root, images, labels)
    assert len(dataset) == DEPTH
    for z, sample in enumerate(dataset):  # 9 before 10, which text order would turn around
        assert torch.equal(sample.image, torch.from_numpy(gray(z)).expand(3, -1, -1) / 255)
        assert (sample.semantic == 0).sum() == z and sample.semantic.flatten().tolist() == sorted(
            sample.semantic.flatten().tolist()
        )


def test_ids_find_a_slice_again(root):
    assert [s.id for s in load(root, slices=[9, 10])] == ["9", "10"]
    assert [s.id for s in load(root, "volume.tif", "labels.tif", slices=[9, 10])] == ["volume-009", "volume-010"]


@pytest.mark.parametrize(("images", "labels"), LAYOUTS)
def test_some_slices_are_chosen_by_position(root, images, labels):
    dataset = load(root, images, labels, slices=range(4, 8))
    assert [int((s.semantic == 0).sum()) for s in dataset] == [4, 5, 6, 7]
    assert int((dataset[-1].semantic == 0).sum()) == 7
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize("slices", [[], range(0), [12], [-1], range(10, 13)])
def test_slices_that_the_stack_does_not_have_are_refused(root, slices):
    with pytest.raises(ValueError, match=r"slices is .*; choose some of 0\.\.11"):
        load(root, slices=slices)


def test_names_may_differ_around_the_number(tmp_path):
    for z in (2, 10):
        write_png(tmp_path / "raw" / f"s3_z{z:02d}.png", gray(z))
        write_png(tmp_path / "seg" / f"membranes{z}.png", mask(z))
    assert [int((s.semantic == 0).sum()) for s in load(tmp_path, "raw", "seg")] == [2, 10]


def test_16_bit_pages_are_read_in_their_range(root):
    write_pages(root / "volume.tif", [np.full((3, 4), 65535 - z, np.uint16) for z in range(DEPTH)])
    dataset = load(root, "volume.tif", "labels.tif")
    assert dataset[0].image.unique().tolist() == [1.0]
    assert dataset[5].image.unique().tolist() == pytest.approx([65530 / 65535])


def test_size_transform_and_pickling_work_as_for_folders(root):
    dataset = load(root, "volume.tif", "labels.tif", slices=[3], size=(6, 8))
    again = pickle.loads(pickle.dumps(dataset))
    assert again[0].semantic.shape == (6, 8) and (again[0].semantic == 0).sum() == 4 * 3
    assert load(root, transform=lambda s: s.id)[11] == "11"


def test_without_a_remap_255_is_void(root):
    assert load(root, remap=None)[3].semantic.flatten().tolist() == [255] * 3 + [0] * 9


# --- what can be wrong ----------------------------------------------------------------------------------------------


def test_an_unknown_label_names_the_page(root):
    pages = [mask(z) for z in range(DEPTH)]
    pages[7][2, 1] = 128
    write_pages(root / "labels.tif", pages)
    dataset = load(root, "volume.tif", "labels.tif")
    assert len(dataset[6].semantic) == 3
    with pytest.raises(ValueError, match=r"labels\.tif \(page 7\): label 128 at \(row 2, column 1\)"):
        dataset[7]


def test_stacks_of_different_depth_are_refused(root):
    (root / "label" / "11.png").unlink()
    with pytest.raises(ValueError, match="has 12 slices and .*label has 11; every slice needs its labels"):
        load(root)
    with pytest.raises(ValueError, match="has 12 slices and .*label has 11"):
        load(root, "volume.tif", "label")


def test_slices_numbered_otherwise_than_their_labels_are_refused(root):
    (root / "label" / "0.png").rename(root / "label" / "12.png")
    with pytest.raises(ValueError, match="slice 0 is in one of them only"):
        load(root)
    assert len(load(root, "volume.tif", "label")) == DEPTH  # pages have no numbers of their own


def test_names_without_a_number_or_with_the_same_one_are_refused(root):
    write_png(root / "image" / "a11.png", gray(0))
    with pytest.raises(ValueError, match=r"11\.png and a11\.png are both slice 11"):
        load(root)
    (root / "image" / "a11.png").rename(root / "image" / "mean.png")
    with pytest.raises(ValueError, match=r"mean\.png has no number in its name"):
        load(root)


@pytest.mark.parametrize("images", ["nowhere", "nowhere.tif"])
def test_a_stack_that_is_not_there_is_named(root, images):
    with pytest.raises(FileNotFoundError, match=f"{images} does not exist"):
        load(root, images)


def test_a_file_that_is_no_image_is_named(root):
    (root / "volume.tif").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"volume\.tif is not an image"):
        load(root, "volume.tif", "labels.tif")


# --- blocks along z -------------------------------------------------------------------------------------------------


def test_blocks_follow_their_shares():
    assert z_blocks(30, (20, 4, 6)) == (range(20), range(20, 24), range(24, 30))
    assert z_blocks(10) == (range(7), range(7, 8), range(8, 10))
    assert z_blocks(5, (1, 0, 1)) == (range(2), range(2, 2), range(2, 5))


@given(depth=st.integers(1, 300), shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=4))
def test_blocks_cover_every_slice_once_in_order(depth, shares):
    try:
        blocks = z_blocks(depth, shares)
    except ValueError:
        assert depth * min(shares) / sum(shares) < 1  # too few slices for the smallest share
        return
    assert [z for block in blocks for z in block] == list(range(depth))


@pytest.mark.parametrize(
    ("depth", "shares", "message"),
    [
        (2, (0.7, 0.1, 0.2), "2 slices are too few"),
        (9, (1, -1), r"at least 0 and not all 0, got \(1, -1\)"),
        (9, (0, 0), "not all 0"),
        (9, (), "not all 0"),
    ],
)
def test_shares_that_make_no_blocks_are_refused(depth, shares, message):
    with pytest.raises(ValueError, match=message):
        z_blocks(depth, shares)


# --- ISBI 2012 ------------------------------------------------------------------------------------------------------


def make_isbi(folder: Path, layout: str) -> None:
    if layout == "pages":
        write_pages(folder / "train-volume.tif", [gray(z % 20) for z in range(30)])
        write_pages(folder / "train-labels.tif", [mask(z % 12) for z in range(30)])
    else:
        for z in range(30):
            write_png(folder / "image" / f"{z}.png", gray(z % 20))
            write_png(folder / "label" / f"{z}.png", mask(z % 12))


@pytest.mark.parametrize("layout", ["pages", "files"])
@pytest.mark.parametrize("below", ["", "train", "membrane/train"])
def test_both_layouts_of_isbi_are_found_and_split_by_blocks(tmp_path, layout, below):
    make_isbi(tmp_path / below, layout)
    counts = {split: [int((s.semantic == 0).sum()) for s in ISBI2012(tmp_path, split)] for split in BLOCKS}
    assert counts["train"] == [z % 12 for z in range(20)]
    assert counts["val"] == [z % 12 for z in range(20, 24)]
    assert counts["test"] == [z % 12 for z in range(24, 30)]
    assert ISBI2012(tmp_path, "val").categories == CATEGORIES


def test_isbi_that_is_missing_or_asked_for_wrongly_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-volume\.tif .*image and label"):
        ISBI2012(tmp_path)
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, val, test"):
        ISBI2012(tmp_path, "dev")


@needs_files
def test_real_membranes_are_dark_thin_and_a_fifth_of_the_image():
    for split, slices in BLOCKS.items():
        dataset = ISBI2012(REAL, split)
        assert [s.id for s in dataset] == [str(z) for z in slices]
        sample = dataset[0]
        membrane = sample.semantic == 1
        assert sample.image.shape == (3, 512, 512) and set(sample.semantic.unique().tolist()) == {0, 1}
        assert 0.15 < membrane.float().mean() < 0.3
        assert sample.image[0][membrane].mean() < sample.image[0][~membrane].mean() - 0.1
