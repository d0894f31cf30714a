"""Images and their label files in the layouts that people have, and the images that are held out."""

import json
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from seglib.data.catalog import OwnFiles, build_dataset
from seglib.data.images import write_png
from seglib.data.pairing import find_pairs, hold_out, pair_folders

COLOR, LABELS = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)


def names(pairs):
    return [(image.name, labels.name) for image, labels in pairs]


def put(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(LABELS if "_mask" in name or "labels" in name else COLOR).save(folder / name)


def test_masks_is_another_name_of_labels_and_valid_of_val(tmp_path):
    put(tmp_path, "valid/images/a.jpg", "valid/masks/a.png")
    assert names(find_pairs(tmp_path, "val")) == [("a.jpg", "a.png")]


def test_labels_may_add_the_same_to_all_names(tmp_path):
    put(tmp_path, *(f"images/{n}.png" for n in ("1", "10", "2")), *(f"labels/{n}_seg.tif" for n in ("1", "10", "2")))
    pairs = names(pair_folders(tmp_path / "images", tmp_path / "labels"))
    assert pairs == [("1.png", "1_seg.tif"), ("10.png", "10_seg.tif"), ("2.png", "2_seg.tif")]
    (tmp_path / "labels" / "2_seg.tif").rename(tmp_path / "labels" / "2_gt.tif")
    one = r"1 of 3 images .* has no labels \(2; expected 2_seg\.tif\); 1 of 3 label maps .* has no image \(2_gt\)"
    with pytest.raises(ValueError, match=one + "; labels add '_seg'"):
        pair_folders(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels" / "10_seg.tif").rename(tmp_path / "labels" / "10_x.tif")
    with pytest.raises(ValueError, match=r"3 of 3 images .* have no labels \(1, 10, 2\).* have no image \(10_x, 1_seg"):
        pair_folders(tmp_path / "images", tmp_path / "labels")


def test_images_and_labels_may_lie_side_by_side(tmp_path):
    put(tmp_path, "train/b.png", "train/b_mask.png", "train/a.png", "train/a_mask.png", "val/x.jpg", "val/x.png")
    assert names(find_pairs(tmp_path, "train")) == [("a.png", "a_mask.png"), ("b.png", "b_mask.png")]
    assert names(find_pairs(tmp_path, "val")) == [("x.jpg", "x.png")]
    put(tmp_path, "train/c.png", "val/y.jpg", "val/y.png", "val/z.jpg", "test/a.png", "test/b.png")
    with pytest.raises(ValueError, match=r"1 of 3 images .* has no labels \(c; expected c_mask\.png\)"):
        find_pairs(tmp_path, "train")
    with pytest.raises(ValueError, match=r"1 of 3 images .* has no labels \(z\); an image and its labels share"):
        find_pairs(tmp_path, "val")
    with pytest.raises(ValueError, match=r"unclear which of the 2 image files .* are labels \(a\.png, b\.png"):
        find_pairs(tmp_path, "test")


@pytest.mark.parametrize("folder", ["labels", "images"])
def test_a_missing_or_extra_label_file_does_not_hide_the_suffix(tmp_path, folder):
    stems = [f"IMG_{n:03}" for n in range(1, 13)]
    put(tmp_path, *(f"images/{s}.jpg" for s in stems), *(f"labels/{s}_mask.png" for s in stems))
    (tmp_path / folder / ("IMG_004_mask.png" if folder == "labels" else "IMG_004.jpg")).unlink()
    missing = {
        "labels": r"1 of 12 images in .* has no labels \(IMG_004; expected IMG_004_mask\.png\); labels add '_mask'",
        "images": r"1 of 12 label maps in .* has no image \(IMG_004_mask\); labels add '_mask'",
    }
    with pytest.raises(ValueError, match=rf"^{missing[folder]}"):
        pair_folders(tmp_path / "images", tmp_path / "labels")
    put(tmp_path, "labels/IMG_004_mask.png", "images/IMG_004.jpg", "labels/IMG_004.png")
    with pytest.raises(ValueError, match=r"^1 of 13 label maps in .* has no image \(IMG_004\)"):
        pair_folders(tmp_path / "images", tmp_path / "labels")


def test_names_in_composed_and_decomposed_unicode_are_one_name(tmp_path):
    put(tmp_path, f"images/{normalize('NFD', 'é')}.png", f"labels/{normalize('NFC', 'é')}.png")
    assert len(pair_folders(tmp_path / "images", tmp_path / "labels")) == 1


def test_without_val_the_option_is_named_and_holds_out_a_share(tmp_path):
    put(tmp_path, *(f"train/{part}/{n}.png" for part in ("images", "labels") for n in range(10)))
    with pytest.raises(FileNotFoundError, match=r"has no folder val: pass --val-share 0\.2"):
        find_pairs(tmp_path, "val")
    train, val = (find_pairs(tmp_path, split, 0.2) for split in ("train", "val"))
    assert len(val) == 2 and len(train) == 8 and not set(train) & set(val)
    assert val == find_pairs(tmp_path, "val", 0.2)
    put(tmp_path, "val/images/a.png", "val/labels/a.png")
    with pytest.raises(ValueError, match="--val-share has no use"):
        find_pairs(tmp_path, "train", 0.2)


def test_images_in_the_root_itself_need_the_share(tmp_path):
    put(tmp_path, *(f"{part}/{n}.png" for part in ("images", "masks") for n in range(4)))
    with pytest.raises(FileNotFoundError, match=r"no folder train: its images lie in .* itself; pass --val-share"):
        find_pairs(tmp_path, "train")
    assert len(find_pairs(tmp_path, "train", 0.3)) == 3 and len(find_pairs(tmp_path, "val", 0.3)) == 1


def test_what_is_held_out_depends_on_names_alone_and_is_never_all_or_nothing():
    things = ["x", "y", "z"]
    assert hold_out(things, things, 0.01, "val") == hold_out(things[::-1], things[::-1], 0.01, "val")
    assert len(hold_out(things, things, 0.99, "train")) == 1
    with pytest.raises(ValueError, match="1 is not between 0 and 1"):
        hold_out(things, things, 1, "val")
    with pytest.raises(ValueError, match="at least two images"):
        hold_out(["x"], ["x"], 0.5, "val")


def test_labels_saved_as_jpeg_are_named_as_such(tmp_path):
    put(tmp_path, "images/a.png", "labels/a.jpg")
    with pytest.raises(
        ValueError, match=r"\(1 other files: \.jpg\); .*JPEG changes values.* export labels again as PNG"
    ):
        pair_folders(tmp_path / "images", tmp_path / "labels")


def test_a_heic_photo_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("seglib.data.images._reads_heif", lambda: False)
    put(tmp_path, "labels/a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"a\.HEIC is a HEIC photo; run pip install pillow-heif"):
        pair_folders(tmp_path / "images", tmp_path / "labels")


def test_an_option_that_a_dataset_does_not_know_is_refused():
    with pytest.raises(ValueError, match="--val-share has no use: it is for folder.* and the data is scenes"):
        build_dataset("scenes", None, "train", own=OwnFiles(val_share=0.2))


def test_a_folder_takes_the_share_and_formats_that_pillow_reads(tmp_path):
    put(tmp_path, "train/images/a.webp", "train/labels/a.png", "train/images/b.gif", "train/labels/b.bmp")
    (tmp_path / "categories.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(["rest", "cell"]).encode())
    train, val = (build_dataset("folder", tmp_path, split, own=OwnFiles(val_share=0.5)) for split in ("train", "val"))
    assert sorted(s.id for data in (train, val) for s in data) == ["a", "b"]
    assert [c.name for c in train.categories] == ["rest", "cell"]
    write_png(tmp_path / "train" / "images" / "._a.png", COLOR)  # macOS' companion files
    assert len(find_pairs(tmp_path, "train")) == 2
