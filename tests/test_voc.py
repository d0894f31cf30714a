"""Pascal VOC 2012 and Cityscapes in their official layouts, on made trees."""

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.data import cityscapes, voc
from seglib.data.cityscapes import LABEL_IDS, TRAIN_IDS, Cityscapes
from seglib.data.images import write_png
from seglib.data.voc import VOC2012, VOC_NAMES, VOC_ORDER, voc_color
from seglib.types import check_categories

PALETTE = [channel for i in range(256) for channel in voc_color(i)]


def write_palette(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(ids, np.uint8)
    opened = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
    opened.putpalette(PALETTE)
    opened.save(path)


@pytest.fixture
def root(tmp_path):
    """Two synthetic images in train, one in val."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for split, names in {"train": ["2007_000042", "2007_000032"], "val": ["2007_000033"]}.items():
        for name in names:
            (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2), (90, 60, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
            write_palette(folder / "SegmentationClass" / f"{name}.png", [[0, 1, 20], [15, 255, 0]])
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return tmp_path


# --- VOC ------------------------------------------------------------------------------------------------------------


def test_the_voc_table_has_things_first_and_the_official_colours():
    check_categories(voc.CATEGORIES)
    assert len(voc.CATEGORIES) == 21
    assert [c.name for c in voc.CATEGORIES if not c.isthing] == ["background"]
    colors = {c.name: c.color for c in voc.CATEGORIES}
    assert colors["background"] == (0, 0, 0) and colors["aeroplane"] == (128, 0, 0)
    assert colors["person"] == (192, 128, 128) and colors["tvmonitor"] == (0, 64, 128)


def test_voc_names_stand_in_the_order_of_the_files():
    assert (VOC_NAMES[0], VOC_NAMES[1], VOC_NAMES[15], VOC_NAMES[20]) == (
        "background",
        "aeroplane",
        "person",
        "tvmonitor",
    )
    assert [VOC_NAMES[i] for i in VOC_ORDER] == [c.name for c in voc.CATEGORIES]
    assert {stored: voc.CATEGORIES[ours].name for stored, ours in voc.FILE_IDS.items()} == dict(enumerate(VOC_NAMES))


def test_a_palette_file_is_read_by_index_with_our_ids(root):
    sample = VOC2012(root, "val")[0]
    assert sample.image.shape == (3, 2, 3)
    assert sample.semantic.tolist() == [[20, 0, 19], [14, 255, 20]]


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_voc_root_may_be_any_of_three_folders(root, below):
    assert [s.id for s in VOC2012(root / below, "train")] == ["2007_000042", "2007_000032"]  # the order of the list


def test_voc_takes_further_labels_from_their_own_folder(root):
    folder = root / "VOCdevkit" / "VOC2012"
    with pytest.raises(FileNotFoundError, match=r"trainaug\.txt"):
        VOC2012(root, "trainaug")
    (folder / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_000042\n")
    write_png(folder / "SegmentationClassAug" / "2007_000042.png", np.full((2, 3), 8, np.uint8))
    (sample,) = VOC2012(root, "trainaug")
    assert sample.semantic.unique().tolist() == [7]  # cat


def test_size_and_transform_are_applied_to_voc(root):
    assert VOC2012(root, "val", size=(6, 8), transform=lambda s: s.semantic.shape)[0] == (6, 8)


def test_coloured_voc_labels_are_refused(root):
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    Image.new("RGB", (3, 2), (128, 0, 0)).save(folder / "2007_000033.png")
    with pytest.raises(ValueError, match="it stores colours"):
        VOC2012(root, "val")[0]


@pytest.mark.parametrize(
    ("split", "message"), [("test", "test split are not public; .* 'val'"), ("dev", "'dev' is unknown; choose one of")]
)
def test_voc_splits_that_do_not_exist_are_refused(root, split, message):
    with pytest.raises(ValueError, match=message):
        VOC2012(root, split)


def test_a_missing_voc_root_says_where_to_get_it(root):
    with pytest.raises(FileNotFoundError, match=r"train\.txt neither in .*nowhere.*VOCtrainval_11-May-2012\.tar"):
        VOC2012(root / "nowhere")


def test_a_missing_voc_image_and_an_empty_list_are_named(root):
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "2007_000032.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files do not exist \(.*2007_000032\.jpg\)"):
        VOC2012(root)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        VOC2012(root, "val")


# --- Cityscapes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def streets(tmp_path):
    """Frames of two cities in train; every labelId occurs."""
    for city in ("ulm", "aachen"):
        frame = f"{city}_000000_000019"
        write_png(tmp_path / "leftImg8bit" / "train" / city / f"{frame}_leftImg8bit.png", np.zeros((5, 7, 3), np.uint8))
        ids = np.append(np.arange(34), 255).reshape(5, 7).astype(np.uint8)
        write_png(tmp_path / "gtFine" / "train" / city / f"{frame}_gtFine_labelIds.png", ids)
    return tmp_path


def test_the_cityscapes_table_has_the_19_scored_classes_things_first():
    check_categories(cityscapes.CATEGORIES)
    things = [c.name for c in cityscapes.CATEGORIES if c.isthing]
    assert things == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert len(cityscapes.CATEGORIES) == len({c.color for c in cityscapes.CATEGORIES}) == 19


def test_label_ids_and_train_ids_name_the_same_classes():
    scored = [stored for stored, ours in LABEL_IDS.items() if ours != 255]
    # In the official table both numberings ascend together, and these labelIds are not scored.
    assert [TRAIN_IDS[t] for t in range(19)] == [LABEL_IDS[i] for i in sorted(scored)]
    assert sorted(set(LABEL_IDS) - set(scored)) == [*range(7), 9, 10, 14, 15, 16, 18, 29, 30]
    names = {c.id: c.name for c in cityscapes.CATEGORIES}
    assert names[LABEL_IDS[7]] == names[TRAIN_IDS[0]] == "road"
    assert names[LABEL_IDS[24]] == names[TRAIN_IDS[11]] == "person"
    assert names[LABEL_IDS[33]] == names[TRAIN_IDS[18]] == "bicycle"


def test_a_street_is_read_with_our_ids(streets):
    dataset = Cityscapes(streets, "train")
    assert [s.id for s in dataset] == ["aachen_000000_000019_leftImg8bit", "ulm_000000_000019_leftImg8bit"]
    labels = dataset[0].semantic.flatten()
    assert labels[26] == 2 and labels[7] == 8 and labels[0] == labels[34] == 255
    assert sorted(set(labels.tolist())) == [*range(19), 255]


def test_missing_streets_and_labels_are_named(streets):
    with pytest.raises(ValueError, match="not public"):
        Cityscapes(streets, "test")
    with pytest.raises(ValueError, match="'dev' is unknown"):
        Cityscapes(streets, "dev")
    with pytest.raises(FileNotFoundError, match=r"no frame .*val.CITY.\*_leftImg8bit\.png; .*cityscapes-dataset"):
        Cityscapes(streets, "val")
    (streets / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files do not exist \(.*ulm.*labelIds\.png\)"):
        Cityscapes(streets)


def test_size_and_transform_are_applied_to_streets(streets):
    sample = Cityscapes(streets, size=(10, 14), transform=lambda s: s)[0]
    assert sample.semantic.shape == (10, 14) and torch.isfinite(sample.image).all()
