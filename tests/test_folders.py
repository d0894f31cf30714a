"""Your own data: pairing of files, checks of labels, resizing on reading."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from seglib.data.collate import collate
from seglib.data.folders import SegmentationFiles, SegmentationFolder
from seglib.data.images import read_image, write_png
from seglib.data.transforms import train_transform
from seglib.types import Category, Sample

CATEGORIES = [
    Category(0, "cell", True, (230, 159, 0)),
    Category(1, "debris", True, (86, 180, 233)),
    Category(2, "dish", False, (0, 158, 115)),
]
LABELS = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two folders with the images b, a and their labels."""
    rng = np.random.default_rng(0)
    for name in "ba":
        write_png(tmp_path / "images" / f"{name}.png", rng.integers(0, 256, (2, 3, 3), np.uint8))
        write_png(tmp_path / "labels" / f"{name}.png", LABELS)
    return tmp_path


def load(folder, **keywords):
    return SegmentationFolder(folder / "images", folder / "labels", keywords.pop("categories", CATEGORIES), **keywords)


def test_a_sample_is_an_image_with_its_labels(folder):
    dataset = load(folder)
    assert len(dataset) == 2
    assert dataset.categories == tuple(CATEGORIES)
    sample = dataset[0]
    assert isinstance(sample, Sample) and sample.id == "a"
    assert torch.equal(sample.image, read_image(folder / "images" / "a.png"))
    assert sample.semantic.dtype == torch.int64
    assert sample.semantic.tolist() == LABELS.tolist()
    assert sample.instances is None and sample.panoptic is None


def test_the_order_is_that_of_the_sorted_names(folder):
    assert [s.id for s in load(folder)] == ["a", "b"]


def test_an_index_beyond_the_end_is_an_index_error(folder):
    with pytest.raises(IndexError):
        load(folder)[2]


def test_endings_of_images_may_differ_and_hidden_files_are_ignored(folder):
    for name, ending in {"c": ".JPG", "d": ".tif", "e": ".bmp"}.items():
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "images" / (name + ending))
        write_png(folder / "labels" / f"{name}.png", LABELS)
    (folder / "images" / ".DS_Store").write_bytes(b"x")
    (folder / "images" / "._a.png").write_bytes(b"x")
    (folder / "images" / "readme.txt").write_text("x")
    assert [s.id for s in load(folder)] == ["a", "b", "c", "d", "e"]


def test_the_void_id_of_the_files_becomes_255(folder):
    write_png(folder / "labels" / "a.png", np.array([[0, 1, 2], [11, 11, 0]], np.uint8))
    assert load(folder, void=11)[0].semantic.tolist() == [[0, 1, 2], [255, 255, 0]]


def test_remap_sends_file_ids_to_category_ids(folder):
    write_png(folder / "labels" / "a.png", np.array([[7, 8, 24], [33, 0, 7]], np.uint8))
    dataset = load(folder, remap={7: 2, 8: 0, 24: 1, 33: 255}, void=0)
    assert dataset[0].semantic.tolist() == [[2, 0, 1], [255, 255, 2]]


def test_16_bit_labels_can_be_remapped(folder):
    Image.fromarray(np.array([[1000, 1001, 65535]] * 2, np.uint16)).save(folder / "labels" / "a.png")
    assert load(folder, remap={1000: 0, 1001: 1, 65535: 2})[0].semantic.tolist() == [[0, 1, 2]] * 2


def test_remap_may_send_several_file_ids_to_one_category(folder):
    write_png(folder / "labels" / "a.png", np.array([[7, 8, 9], [255, 10, 7]], np.uint8))
    dataset = load(folder, remap={7: 0, 8: 0, 9: 2, 10: 255})
    assert dataset[0].semantic.tolist() == [[0, 0, 2], [255, 255, 0]]


def test_255_is_a_class_where_remap_says_so(folder):
    write_png(folder / "labels" / "a.png", np.array([[0, 255, 0], [255, 0, 0]], np.uint8))
    assert load(folder, remap={0: 2, 255: 0})[0].semantic.tolist() == [[2, 0, 2], [0, 2, 2]]
    with pytest.raises(ValueError, match="file id 255 is void and also class 0"):
        load(folder, remap={0: 2, 255: 0}, void=255)


@pytest.mark.parametrize("value", [3, 7, 254])
def test_a_label_outside_the_table_is_named_with_its_pixel_and_the_remedy(folder, value):
    labels = LABELS.copy()
    labels[1, 2] = value
    write_png(folder / "labels" / "b.png", labels)
    dataset = load(folder)
    assert dataset[0].id == "a"  # only the bad file fails
    message = (
        rf"b\.png: label {value} at \(row 1, column 2\) is not in 0\.\.2 or 255; .*remap=\{{{value}: …\}}.*categories"
    )
    with pytest.raises(ValueError, match=message):
        dataset[1]


def test_a_16_bit_label_far_outside_the_table_is_named(folder):
    Image.fromarray(np.full((2, 3), 40000, np.uint16)).save(folder / "labels" / "a.png")
    with pytest.raises(ValueError, match=r"label 40000 at \(row 0, column 0\)"):
        load(folder)[0]


def test_all_unknown_labels_of_a_file_are_listed_at_once(folder):
    write_png(folder / "labels" / "a.png", np.array([[9, 8, 0], [5, 8, 9]], np.uint8))
    with pytest.raises(ValueError, match=r"label 9 at .* \(and so are 5, 8\)"):
        load(folder)[0]


def test_an_id_that_remap_does_not_name_is_an_error_even_if_it_is_a_category_id(folder):
    # Taking it for category 1 would be a silent mistake: file ids and category ids are different numberings.
    with pytest.raises(ValueError, match=r"label 1 .* is not in the keys of remap or 255; add 1: … to remap"):
        load(folder, remap={0: 2, 2: 0})[0]


def test_255_is_no_longer_void_when_the_files_use_another_id(folder):
    with pytest.raises(ValueError, match=r"label 255 at \(row 1, column 1\) is not in 0\.\.2 or 11"):
        load(folder, void=11)[0]


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"remap": {0: 3}}, r"sends 0 to 3, which is not in 0\.\.2 or 255"),
        ({"remap": {-1: 0}}, "file id -1"),
        ({"void": 1}, "file id 1 is void and also class 1"),
        ({"void": -1}, "void is -1"),
        ({"size": (0, 4)}, r"size must be \(height, width\)"),
        ({"size": 128}, r"size must be \(height, width\).*got 128"),
        ({"categories": []}, "1 to 255 classes"),
        ({"categories": CATEGORIES[1:]}, "category ids must be"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(folder, keywords, message):
    with pytest.raises(ValueError, match=message):
        load(folder, **keywords)


def test_an_image_and_labels_of_different_sizes_are_refused(folder):
    write_png(folder / "labels" / "a.png", np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is 2 x 3 .*a\.png are 2 x 4; export the labels at the size"):
        load(folder)[0]


def test_labels_drawn_on_the_unrotated_photo_are_recognised(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "images" / "a.png", exif=exif)
    with pytest.raises(ValueError, match=r"is 3 x 2 .* are 2 x 3; .*EXIF rotation"):
        load(folder)[0]
    dataset = load(folder, upright=False)
    assert dataset[0].image.shape[1:] == dataset[0].semantic.shape == (2, 3)


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.webm").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"images holds no file ending in \.jpg, .*\(1 other files: "):
        load(tmp_path)


def test_a_folder_that_does_not_exist_is_named(folder):
    with pytest.raises(FileNotFoundError, match="the folder .*pictures does not exist"):
        SegmentationFolder(folder / "pictures", folder / "labels", CATEGORIES)


def test_missing_partners_are_counted_and_listed(folder):
    for i in range(7):
        write_png(folder / "images" / f"x{i}.png", np.zeros((2, 3, 3), np.uint8))
    write_png(folder / "labels" / "y.png", LABELS)
    with pytest.raises(ValueError) as error:
        load(folder)
    assert "7 of 9 images" in str(error.value) and "(x0, x1, x2, x3, x4, …)" in str(error.value)
    assert "1 of 3 label maps" in str(error.value) and "(y)" in str(error.value)


def test_two_images_with_one_stem_are_refused(folder):
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "images" / "a.jpg")
    with pytest.raises(ValueError, match="share the stem 'a'"):
        load(folder)


def test_size_resizes_image_and_labels_on_reading(folder):
    sample = load(folder, size=(4, 6))[0]
    assert sample.image.shape == (3, 4, 6)
    assert sample.semantic.tolist() == LABELS.repeat(2, 0).repeat(2, 1).tolist()


def test_a_label_is_checked_where_the_file_has_it_even_if_resizing_would_lose_it(folder):
    write_png(folder / "labels" / "a.png", np.array([[0, 0, 0], [0, 9, 0]], np.uint8))
    with pytest.raises(ValueError, match=r"label 9 at \(row 1, column 1\)"):
        load(folder, size=(1, 1))[0]


def test_the_transform_gets_the_sample_last(folder):
    dataset = load(folder, size=(4, 6), transform=lambda s: (s.id, s.image.shape[1:]))
    assert dataset[1] == ("b", (4, 6))


def test_files_are_given_as_pairs_in_their_order(folder):
    pairs = [(folder / "images" / f"{n}.png", folder / "labels" / "a.png") for n in "bab"]
    assert [s.id for s in SegmentationFiles(pairs, CATEGORIES)] == ["b", "a", "b"]


def test_missing_files_of_pairs_are_listed_at_once(folder):
    pairs = [(folder / "images" / "a.png", folder / "labels" / "c.png")]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files do not exist \(.*c\.png\)"):
        SegmentationFiles(pairs, CATEGORIES)


def test_no_pairs_at_all_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        SegmentationFiles([], CATEGORIES)


@pytest.mark.slow
def test_a_dataset_can_be_pickled_and_read_by_worker_processes(folder):
    dataset = load(folder, transform=train_transform(4, keep=("semantic",)))
    assert len(pickle.loads(pickle.dumps(dataset))) == 2
    loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate, multiprocessing_context="spawn")
    (batch,) = loader
    assert batch.images.shape == (2, 3, 4, 4) and batch.ids == ["a", "b"]
