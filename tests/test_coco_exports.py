"""COCO files as labelling tools export them: what is put right, what is left out on request, and where they lie."""

import copy
import json
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from seglib.data.catalog import OwnFiles, build_dataset
from seglib.data.checks import check_labels_of_split, count_labels
from seglib.data.coco import CocoInstances, read_image_ids
from seglib.data.coco_layouts import find_coco
from seglib.ops.intensity import Intensity

SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 40}],
    "categories": [{"id": 1, "name": "x"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
}


def photo(path, size=(40, 32), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 20, 30)).save(path, **save)


def load(root, content=CONTENT, **how):
    (root / "x.json").write_text(json.dumps(content))
    return CocoInstances(root / "x.json", root, **how)


def changed(part, **values):
    content = copy.deepcopy(CONTENT)
    row = content[part][0]
    row.update(values)
    for key in [k for k, v in row.items() if v is ...]:
        del row[key]
    return content


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("annotations", {"category_id": "1"}),
        ("annotations", {"category_id": 1.0, "image_id": 1.0}),
        ("annotations", {"image_id": "1"}),
        ("categories", {"id": "1"}),
        ("images", {"width": 40.0, "height": 32.0, "id": 1.0}),
        ("images", {"width": ..., "height": ...}),
        ("annotations", {"iscrowd": None}),
        ("annotations", {"iscrowd": 0.0}),
        ("annotations", {"iscrowd": False}),
        ("annotations", {"segmentation": SQUARE}),
        ("annotations", {"segmentation": [[SQUARE[i : i + 2] for i in range(0, 8, 2)]]}),
    ],
)
def test_what_has_one_meaning_is_put_right(tmp_path, part, values):
    photo(tmp_path / "a.png")
    (sample,) = load(tmp_path, changed(part, **values))
    assert int(sample.instances.masks.sum()) == 100 and sample.instances.iscrowd.tolist() == [False]
    assert load(tmp_path, changed(part, **values)).file_ids == (1,)


def test_true_is_a_crowd(tmp_path):
    photo(tmp_path / "a.png")
    assert load(tmp_path, changed("annotations", iscrowd=True))[0].instances.iscrowd.tolist() == [True]


@pytest.mark.parametrize("segmentation", [..., None, []])
def test_annotations_without_a_mask_are_left_out_and_counted(tmp_path, segmentation):
    photo(tmp_path / "a.png")
    content = changed("annotations", segmentation=segmentation)
    content["annotations"].append(CONTENT["annotations"][0])
    data = load(tmp_path, content)
    assert len(data[0].instances) == 1 and count_labels(data, "instances").without_mask == 1


def test_ids_of_images_may_be_text_and_come_out_as_they_are(tmp_path):
    photo(tmp_path / "a.png")
    content = changed("images", id="0001")
    content["annotations"][0]["image_id"] = "0001"
    data = load(tmp_path, content)
    assert data.image_ids == ("0001",) and len(data[0].instances) == 1
    assert read_image_ids(tmp_path / "x.json")["a.png"] == "0001"
    content["images"].append(content["images"][0] | {"id": 1})
    content["images"].append(content["images"][0] | {"id": "1"})
    with pytest.raises(ValueError, match="image id 1 stands twice"):
        load(tmp_path, content)


@pytest.mark.parametrize("name", ["images\\b.png", normalize("NFD", "é.png")])
def test_a_file_is_found_under_another_spelling_of_its_name(tmp_path, name):
    photo(tmp_path / normalize("NFC", name.replace("\\", "/")))
    assert load(tmp_path, changed("images", file_name=name))[0].image.shape == (3, 32, 40)


@pytest.mark.parametrize("project", ["fish", "x"])
def test_roboflows_project_is_no_class_unless_it_is_used(tmp_path, project):
    photo(tmp_path / "a.png")
    group = {"id": 0, "name": project, "supercategory": "none"}
    content = CONTENT | {"categories": [group, {"id": 1, "name": "x", "supercategory": project}]}
    data = load(tmp_path, content)
    assert [c.name for c in data.categories] == ["x"] and data.file_ids == (1,)
    content["annotations"] = [*CONTENT["annotations"], CONTENT["annotations"][0] | {"id": 2, "category_id": 0}]
    if project == "fish":
        assert [c.name for c in load(tmp_path, content).categories] == ["fish", "x"]
    else:
        with pytest.raises(ValueError, match="names must be unique"):
            load(tmp_path, content)


def test_what_is_wrong_is_left_out_named_and_counted_on_request(tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "small.png", size=(9, 9))
    (tmp_path / "broken.png").write_bytes(b"no image")
    content = copy.deepcopy(CONTENT)
    for n, name in enumerate(("gone.png", "small.png", "broken.png"), start=2):
        content["images"].append(CONTENT["images"][0] | {"id": n, "file_name": name})
        content["annotations"].append(CONTENT["annotations"][0] | {"id": n, "image_id": n})
    for n, wrong in enumerate(
        (
            {"segmentation": [[1, 1, 2, 2, 3]]},
            {"segmentation": {"size": [32, 40], "counts": [1, 2]}},
            {"image_id": 77},
            {"category_id": 5},
        ),
        start=10,
    ):
        content["annotations"].append(CONTENT["annotations"][0] | {"id": n} | wrong)
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images of .* are not in .*gone\.png.*--skip-bad"):
        load(tmp_path, content)
    data = load(tmp_path, content, skip_bad=True)
    assert len(data) == 1 and len(data[0].instances) == 1
    (warning,) = data.file_warnings()
    assert warning.startswith("left out 7: image 2 (gone.png)") and warning.endswith("and 2 more")


def test_an_odd_polygon_names_the_option_that_leaves_it_out(tmp_path):
    photo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"annotation 1: a polygon has 5 numbers.*--skip-bad"):
        load(tmp_path, changed("annotations", segmentation=[[1, 1, 2, 2, 3]]))


def test_photos_that_sizes_cannot_tell_apart_are_warned_of(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "a.jpg", size=(32, 32), exif=exif)
    square = changed("images", file_name="a.jpg", width=32)
    (warning,) = load(tmp_path, square).file_warnings()
    assert "as they are stored" in warning and "pass --upright" in warning
    assert not load(tmp_path, square, upright=True).file_warnings()
    photo(tmp_path / "b.jpg", size=(40, 32), exif=exif)
    square["images"].append({"id": 2, "file_name": "b.jpg", "height": 40, "width": 32})
    (warning,) = load(tmp_path, square).file_warnings()  # the other photo tells how the file was made
    assert "read upright" in warning


def test_12_bits_in_16_are_warned_of_and_rescaled(tmp_path):
    Image.fromarray(np.linspace(0, 4000, 32 * 40).astype(np.uint16).reshape(32, 40)).save(tmp_path / "a.png")
    (warning,) = load(tmp_path).file_warnings()
    assert "--rescale percentile" in warning
    data = load(tmp_path, intensity=Intensity("percentile"))
    assert not data.file_warnings() and float(data[0].image.max()) == pytest.approx(1)


def test_what_only_shows_on_reading_is_refused_before_training(tmp_path):
    photo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"image 1: .*malformed.*--skip-bad"):
        load(tmp_path, changed("annotations", segmentation={"size": [32, 40], "counts": [1, 2]}))
    resized = load(tmp_path, changed("images", height=64, width=80))
    with pytest.raises(ValueError, match=r"a\.png is 32 x 40 \(H x W\) and .* says 64 x 80"):
        resized.file_warnings()


# Where files lie.


def export(root, file, images, count=4):
    """A COCO file of so many images."""
    content = CONTENT | {"images": [], "annotations": []}
    for n in range(1, count + 1):
        photo(images / f"{n}.png")
        content["images"].append(CONTENT["images"][0] | {"id": n, "file_name": f"{n}.png"})
        content["annotations"].append(CONTENT["annotations"][0] | {"id": n, "image_id": n})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return root


def splits(root, **own):
    return [build_dataset("coco", root, s, keep=("instances",), own=OwnFiles(**own)) for s in ("train", "val")]


def test_roboflows_folders_are_recognised(tmp_path):
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        export(tmp_path, tmp_path / split / "_annotations.coco.json", tmp_path / split, count)
    assert [len(data) for data in splits(tmp_path)] == [3, 2]
    assert len(build_dataset("coco", tmp_path, "test", keep=("instances",))) == 1


@pytest.mark.parametrize("below", ["images", "images/default", "."])
def test_cvats_single_file_is_divided_by_the_share(tmp_path, below):
    export(tmp_path, tmp_path / "annotations" / "instances_default.json", tmp_path / below)
    with pytest.raises(
        FileNotFoundError, match=r"has annotations/instances_default\.json and no file of train; pass --val"
    ):
        splits(tmp_path)
    train, val = splits(tmp_path, val_share=0.25)
    assert (len(train), len(val)) == (3, 1) and not set(train.image_ids) & set(val.image_ids)
    assert count_labels(train, "instances").classes == (3,)


def test_cvats_subsets_are_recognised(tmp_path):
    for split in ("train", "val"):
        export(tmp_path, tmp_path / "annotations" / f"instances_{split}.json", tmp_path / "images" / split, 2)
    assert [len(data) for data in splits(tmp_path)] == [2, 2]
    with pytest.raises(ValueError, match="--val-share has no use"):
        splits(tmp_path, val_share=0.2)


def test_any_file_and_folder_can_be_named(tmp_path):
    export(tmp_path, tmp_path / "my labels.json", tmp_path / "photos")
    export(tmp_path, tmp_path / "other.json", tmp_path / "photos", count=2)
    file = tmp_path / "my labels.json"
    train, val = splits(None, annotations=file, images=tmp_path / "photos", val_annotations=tmp_path / "other.json")
    assert (len(train), len(val)) == (4, 2)
    with pytest.raises(ValueError, match="pass --val-annotations FILE, or --val-share"):
        splits(None, annotations=file, images=tmp_path / "photos")
    with pytest.raises(ValueError, match="pass one of them"):
        splits(None, annotations=file, val_annotations=file, val_share=0.2)
    with pytest.raises(ValueError, match="belong to --annotations"):
        splits(tmp_path, images=tmp_path / "photos")


def test_nothing_that_is_known_says_what_is_there(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(FileNotFoundError, match=r"which has stuff; pass the file with --annotations FILE"):
        find_coco(tmp_path, "train")


def test_kaggles_nuclei_are_recognised_and_divided_by_name(tmp_path):
    for name in map(str, range(12)):
        photo(tmp_path / "stage1_train" / name / "images" / f"{name}.png", size=(8, 8))
        mask = tmp_path / "stage1_train" / name / "masks" / "m.png"
        mask.parent.mkdir()
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(mask)
        mask.with_name("._m.png").write_bytes(b"macOS")
    train, val = (build_dataset("dsb2018", tmp_path, s, keep=("instances",)) for s in ("train", "val"))
    assert len(train) + len(val) == 12 and not set(train.ids) & set(val.ids) and len(val) > 0
    assert len(train[0].instances) == 1 and count_labels(val, "instances").classes == (len(val),)


def test_more_objects_than_are_scored_are_warned_of(tmp_path):
    photo(tmp_path / "a.png")
    content = CONTENT | {"annotations": [CONTENT["annotations"][0] | {"id": n} for n in range(120)]}
    data = load(tmp_path, content)
    counts = count_labels(data, "instances")
    (warning,) = check_labels_of_split(counts, data.categories, "train")
    assert "an image has 120 objects, and at most 100" in warning and "--max-detections 120" in warning
    assert not check_labels_of_split(counts, data.categories, "train", 120)
