"""The datasets that the command line knows by name, and the class table of one's own."""

import json

import pytest
import torch
from PIL import Image

from seglib.data.catalog import DATASETS, build_dataset, read_categories
from seglib.types import Category

TABLE = [
    {"name": "cell", "isthing": True, "color": [230, 159, 0]},
    {"name": "ground", "isthing": False, "color": [0, 114, 178]},
]


@pytest.fixture
def root(tmp_path):
    """A folder dataset with one 6×8 picture in each split."""
    for split in ("train", "val", "test"):
        for kind, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.new(mode, (8, 6)).save(tmp_path / split / kind / "a.png")
    (tmp_path / "categories.json").write_text(json.dumps(TABLE))
    return tmp_path


def test_a_class_table_is_read_in_order(root):
    assert read_categories(root / "categories.json") == (
        Category(0, "cell", True, (230, 159, 0)),
        Category(1, "ground", False, (0, 114, 178)),
    )


def test_a_missing_class_table_shows_what_to_write(tmp_path):
    with pytest.raises(ValueError, match=r'categories.json is missing; write a list like \[{"name": "cell"'):
        read_categories(tmp_path / "categories.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "is no JSON file"),
        (b"\xff\xfe\x00", "is no JSON file"),
        (b"{}", "must be a list of categories"),
        (b"[]", "must be a list of categories"),
        (b"[1]", "category 0 is 1; expected"),
        (json.dumps([TABLE[0], {"name": "b", "isthing": False}]).encode(), "category 1 is .*; expected"),
        (json.dumps([TABLE[0] | {"isthing": "false"}]).encode(), "isthing as true or false"),  # bool("false") is True
        (json.dumps([TABLE[0] | {"color": "red"}]).encode(), "three numbers in 0..255"),
        (json.dumps([TABLE[0] | {"color": [1, 2]}]).encode(), "three numbers in 0..255"),
        (json.dumps([TABLE[0] | {"color": [0, 0, 256]}]).encode(), "three numbers in 0..255"),
        (json.dumps(TABLE[::-1]).encode(), "the stuff class 'ground' stands before a thing class"),
        (json.dumps([TABLE[0]] * 2).encode(), "names must be unique"),
    ],
)
def test_a_bad_class_table_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "categories.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_categories(path)
    assert str(error.value).startswith(str(path))


def test_a_folder_of_pictures_is_read_as_it_is_or_augmented_to_one_size(root):
    plain = build_dataset("folder", root, "test")[0]
    assert plain.id == "a"
    assert plain.image.shape == (3, 6, 8)
    assert torch.equal(plain.semantic, torch.zeros(6, 8, dtype=torch.int64))
    cropped = build_dataset("folder", root, "train", size=(4, 4), augment=True)[0]
    assert cropped.image.shape == (3, 4, 4)
    assert cropped.semantic.shape == (4, 4)


def test_scenes_have_the_size_asked_for_and_other_pictures_in_each_split():
    val, test = (build_dataset("scenes", None, split, size=(32, 48)) for split in ("val", "test"))
    assert val[0].image.shape == (3, 32, 48)
    assert not torch.equal(val[0].image, test[0].image)
    assert len(val.categories) == len(test.categories)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("citiscapes", None, "val"), {}, "'citiscapes' is unknown; choose one of scenes, camvid, folder"),
        (("scenes", None, "validation"), {}, "split 'validation' is unknown; choose one of train, val, test"),
        (("folder", None, "val"), {}, "pass --root FOLDER"),
        (("camvid", None, "val"), {}, "pass --root FOLDER"),
    ],
)
def test_what_is_not_known_or_missing_is_said(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(*arguments, **keywords)


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        build_dataset("folder", tmp_path / "nowhere", "val")


def test_training_on_a_folder_needs_a_size(root):
    with pytest.raises(ValueError, match="needs --size HEIGHTxWIDTH"):
        build_dataset("folder", root, "train", augment=True)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_dataset_without_files_has_every_split(split):
    assert set(DATASETS) == {"scenes", "camvid", "folder"}
    assert len(build_dataset("scenes", None, split)) > 0
