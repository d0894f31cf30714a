"""Oxford-IIIT Pet in its official layout: a made tree, and the real files where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.data.images import write_png
from seglib.data.pets import BORDER, CATEGORIES, OxfordPets
from seglib.types import check_categories

REAL = Path(__file__).parents[2] / "shared" / "data" / "oxford-pets-mini"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the pet images are not at {REAL}")

TRIMAP = np.array([[1, 1, 3, 2], [1, 3, 2, 2], [3, 2, 2, 2]], np.uint8)
TRAINVAL = [f"Birman_{n}" for n in range(1, 11)] + [f"pug_{n}" for n in (3, 20, 100, 101, 9)]


@pytest.fixture
def root(tmp_path):
    """15 synthetic images of two breeds in trainval, one in test."""
    folder = tmp_path / "oxford-iiit-pet"
    for name in [*TRAINVAL, "pug_7"]:
        path = folder / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (90, 60, 30)).save(path)
        write_png(folder / "annotations" / "trimaps" / f"{name}.png", TRIMAP)
    lists = {"trainval": TRAINVAL, "test": ["pug_7"]}
    for file, names in lists.items():
        lines = ["#Image CLASS-ID SPECIES BREED ID\n", *(f"{n} 1 1 1\n" for n in names)]
        (folder / "annotations" / f"{file}.txt").write_text("".join(lines))
    return tmp_path


def ids(dataset):
    return [path.stem for path, _ in dataset.pairs]


def test_the_class_tables_have_the_pet_first():
    assert [c.name for c in check_categories(CATEGORIES)] == ["pet", "background"]
    assert [c.name for c in check_categories([*CATEGORIES, BORDER])] == ["pet", "background", "border"]


def test_the_band_around_the_pet_is_void(root):
    dataset = OxfordPets(root, "test")
    assert dataset.categories == CATEGORIES
    assert dataset[0].semantic.tolist() == [[0, 0, 255, 1], [0, 255, 1, 1], [255, 1, 1, 1]]
    assert dataset[0].image.shape == (3, 3, 4)


def test_the_band_is_a_class_on_request(root):
    dataset = OxfordPets(root, "test", border="class")
    assert dataset.categories == (*CATEGORIES, BORDER)
    assert dataset[0].semantic.tolist() == [[0, 0, 2, 1], [0, 2, 1, 1], [2, 1, 1, 1]]


def test_val_is_the_last_fifth_of_every_breed_by_number_and_train_the_rest(root):
    assert ids(OxfordPets(root, "val")) == ["Birman_9", "Birman_10", "pug_101"]
    assert ids(OxfordPets(root, "train")) == [f"Birman_{n}" for n in range(1, 9)] + [
        "pug_3",
        "pug_9",
        "pug_20",
        "pug_100",
    ]
    assert sorted(ids(OxfordPets(root, "trainval"))) == sorted(TRAINVAL)


def test_the_order_of_the_list_does_not_matter(root):
    before = ids(OxfordPets(root, "val"))
    path = root / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert ids(OxfordPets(root, "val")) == before


@pytest.mark.parametrize("below", ["", "oxford-iiit-pet"])
def test_the_root_may_be_the_folder_itself_or_the_one_around_it(root, below):
    assert ids(OxfordPets(root / below, "test")) == ["pug_7"]


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK"])
def test_images_in_odd_modes_become_rgb(root, mode):
    path = root / "oxford-iiit-pet" / "images" / "pug_7.jpg"
    opened = Image.new("RGB", (4, 3), (90, 60, 30)).convert(mode)
    # The real set has PNG and GIF files that are called .jpg.
    opened.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    image = OxfordPets(root, "test")[0].image
    assert image.shape == (3, 3, 4) and 0 < image.mean() < 1


def test_palette_trimaps_are_read_by_index(root):
    opened = Image.fromarray(TRIMAP).convert("P")
    opened.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    opened.save(root / "oxford-iiit-pet" / "annotations" / "trimaps" / "pug_7.png")
    assert OxfordPets(root, "test")[0].semantic.tolist() == [[0, 0, 255, 1], [0, 255, 1, 1], [255, 1, 1, 1]]


def test_images_are_not_turned_because_their_trimaps_are_not(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(root / "oxford-iiit-pet" / "images" / "pug_7.jpg", exif=exif)
    assert OxfordPets(root, "test")[0].image.shape == (3, 3, 4)


def test_size_and_transform_are_applied(root):
    assert OxfordPets(root, "test", size=(6, 8), transform=lambda s: s.semantic.shape)[0] == (6, 8)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"split": "dev"}, "split 'dev' is unknown; choose one of train, val, trainval, test"),
        ({"border": "ignore"}, "border 'ignore' is unknown; choose 'void' or 'class'"),
    ],
)
def test_unknown_words_are_refused(root, keywords, message):
    with pytest.raises(ValueError, match=message):
        OxfordPets(root, **keywords)


def test_a_missing_root_explains_the_layout_and_where_to_get_it(root):
    with pytest.raises(FileNotFoundError, match=r"nowhere/annotations/trainval\.txt.*images\.tar\.gz"):
        OxfordPets(root / "nowhere")


def test_a_listed_file_that_is_missing_is_named(root):
    (root / "oxford-iiit-pet" / "images" / "pug_7.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files do not exist \(.*pug_7\.jpg\)"):
        OxfordPets(root, "test")


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_an_empty_list_is_named(root, text):
    (root / "oxford-iiit-pet" / "annotations" / "test.txt").write_text(text)
    with pytest.raises(ValueError, match=r"test\.txt has no image for the split 'test'"):
        OxfordPets(root, "test")


def test_a_label_that_no_trimap_has_is_named(root):
    write_png(root / "oxford-iiit-pet" / "annotations" / "trimaps" / "pug_7.png", np.full((3, 4), 4, np.uint8))
    with pytest.raises(ValueError, match=r"pug_7\.png: label 4 at \(row 0, column 0\)"):
        OxfordPets(root, "test")[0]


@needs_files
def test_the_real_images_show_pets():
    sizes = {split: len(OxfordPets(REAL, split)) for split in ("train", "val", "trainval", "test")}
    assert sizes["train"] + sizes["val"] == sizes["trainval"] and sizes["val"] == sizes["trainval"] // 5
    assert not set(ids(OxfordPets(REAL, "trainval"))) & set(ids(OxfordPets(REAL, "test")))
    dataset = OxfordPets(REAL, "test")
    shares = torch.zeros(256)
    for i in range(0, len(dataset), 6):
        sample = dataset[i]
        assert sample.image.shape[1:] == sample.semantic.shape
        shares += torch.bincount(sample.semantic.flatten(), minlength=256) / sample.semantic.numel()
    shares /= shares.sum()
    assert shares[2:255].sum() == 0
    # Facts of the data set: the pet fills about a third of the image and the band about an eighth.
    assert 0.2 < shares[0] < 0.45 and 0.4 < shares[1] < 0.7 and 0.05 < shares[255] < 0.2


@needs_files
def test_real_pets_are_in_the_middle_of_the_image():
    dataset = OxfordPets(REAL, "test", size=(60, 60))
    pets = torch.stack([dataset[i].semantic == 0 for i in range(0, 60, 3)]).float().mean(0)  # (60, 60)
    assert pets[20:40, 20:40].mean() > 3 * pets[[0, -1]].mean()
