"""COCO's instances format: synthetic files with every form of annotation and every fault, and the real mini set."""

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from seglib.data.coco import CocoInstances, coco_results, read_image_ids, write_coco_results
from seglib.data.collate import collate
from seglib.types import Instances, check_categories

SHARED = Path(__file__).parents[2] / "shared" / "data"
MINI = SHARED / "coco-panoptic-mini" / "coco"
OFFICIAL = SHARED / "fixtures-eval" / "cocoapi" / "instances_val2014_100.json"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason=f"the COCO images are not at {MINI}")
needs_official = pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"COCO's annotations are not at {OFFICIAL}")

# pycocotools 2.0 does not yet follow NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

H, W = 6, 8
SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # columns 1..3, rows 1..2
# Runs go down the columns: 6 off, 3 on, ... is the upper half of column 1.
UPPER = {"size": [H, W], "counts": [6, 3, 39]}
LAST = {"size": [H, W], "counts": [42, 6]}  # all of column 7
ALL = {"size": [H, W], "counts": [0, 48]}
NONE = {"size": [H, W], "counts": [48]}


def compressed(rle):
    from pycocotools import mask

    packed = mask.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": packed["counts"].decode()}


def annotation(number, image, category, segmentation, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation} | more


CONTENT = {
    "images": [
        {"id": 30, "file_name": "c.jpg", "height": H, "width": W},
        {"id": 10, "file_name": "sub/a.jpg", "height": H, "width": W},
        {"id": 20, "file_name": "b.jpg", "height": H, "width": W},
        {"id": 40, "file_name": "d.jpg", "height": H, "width": W},
    ],
    # ids with gaps, not in order
    "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 7, "name": "train"}],
    "annotations": [
        annotation(1, 30, 90, [SQUARE], iscrowd=0),
        annotation(2, 30, 1, UPPER, iscrowd=0),
        annotation(3, 30, 7, [SQUARE, [6, 0, 8, 0, 8, 6, 6, 6]]),  # two parts; no iscrowd
        annotation(4, 10, 1, ALL, iscrowd=1),
        annotation(5, 10, 7, LAST, iscrowd=0),
        annotation(6, 10, 7, [[1, 1, 5, 5]], iscrowd=0),  # a line
        annotation(7, 10, 7, NONE, iscrowd=0),
        annotation(8, 40, 7, ALL, iscrowd=1),
    ],
}


@pytest.fixture
def root(tmp_path):
    """Four synthetic images: three objects; a crowd, an object and two degenerate ones; nothing; a crowd alone."""
    for row in CONTENT["images"]:
        path = tmp_path / row["file_name"]
        path.parent.mkdir(exist_ok=True)
        gray = row["id"] == 20
        Image.new("L" if gray else "RGB", (W, H), 90 if gray else (200, 60, 30)).save(path)
    return tmp_path


def load(root, content=CONTENT, **keywords):
    path = root / "instances.json"
    path.write_text(json.dumps(content))
    return CocoInstances(path, root, **keywords)


def changed(part, n, **values):
    """The content with values of one entry exchanged; ``...`` removes a key."""
    content = copy.deepcopy(CONTENT)
    row = content[part][n]
    row.update(values)
    for key in [k for k, v in row.items() if v is ...]:
        del row[key]
    return content


def test_categories_are_contiguous_in_the_order_of_the_ids_of_the_file(root):
    dataset = load(root)
    assert [(c.id, c.name, c.isthing) for c in check_categories(dataset.categories)] == [
        (0, "person", True),
        (1, "train", True),
        (2, "brush", True),
    ]
    assert dataset.file_ids == (1, 7, 90) and dataset.void_id is None


def test_a_large_class_table_has_a_colour_of_its_own_for_each_class_and_none_is_black(root):
    content = CONTENT | {"categories": [{"id": i, "name": str(i)} for i in range(1, 1204)]}  # as many as LVIS
    colors = {c.color for c in load(root, content).categories}
    assert len(colors) == 1203 and (0, 0, 0) not in colors


def test_images_keep_the_order_of_the_file_and_their_ids_lead_back_to_it(root):
    dataset = load(root)
    assert dataset.image_ids == (30, 10, 20, 40)
    assert [s.id for s in dataset] == ["30", "10", "20", "40"]
    assert dataset[-1].id == "40"
    with pytest.raises(IndexError):
        dataset[4]


def test_polygons_and_runs_become_masks(root):
    instances = load(root)[0].instances
    assert instances.labels.tolist() == [2, 0, 1]
    square = torch.zeros(H, W, dtype=torch.bool)
    square[1:3, 1:4] = True
    upper = torch.zeros(H, W, dtype=torch.bool)
    upper[:3, 1] = True
    both = square.clone()
    both[:, 6:] = True
    assert torch.equal(instances.masks, torch.stack([square, upper, both]))
    assert instances.boxes.tolist() == [[1, 1, 4, 3], [1, 0, 2, 3], [1, 0, 8, 6]]
    assert instances.iscrowd.tolist() == [False] * 3


def test_compressed_runs_equal_uncompressed_ones(root):
    plain = load(root)[0].instances
    packed = load(root, changed("annotations", 1, segmentation=compressed(UPPER)))[0].instances
    assert torch.equal(packed.masks, plain.masks)


def test_crowds_are_kept_and_marked_unless_left_out(root):
    instances = load(root)[1].instances
    assert instances.iscrowd.tolist() == [True, False]
    assert instances.masks[0].all() and instances.labels.tolist() == [0, 1]
    without = load(root, crowds=False)[1].instances
    assert without.iscrowd.tolist() == [False] and without.labels.tolist() == [1]


def test_lines_and_masks_without_a_pixel_are_left_out(root):
    assert len(load(root)[1].instances) == 2  # of four


def test_of_several_polygons_only_those_with_three_points_count(root):
    content = changed("annotations", 0, segmentation=[[0, 0, 7, 5], [], SQUARE])
    assert load(root, content)[0].instances.boxes[0].tolist() == [1, 1, 4, 3]


def test_images_without_objects_are_kept_unless_dropped(root):
    empty = load(root)[2].instances
    assert empty.masks.shape == (0, H, W) and empty.masks.dtype == torch.bool
    assert empty.boxes.shape == (0, 4) and empty.labels.dtype == torch.int64 and empty.iscrowd.dtype == torch.bool
    assert load(root, keep_empty=False).image_ids == (30, 10)  # 40 has a crowd alone


def test_grey_images_become_rgb(root):
    image = load(root)[2].image
    assert image.shape == (3, H, W)
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]) and (image * 255).round().unique() == 90


def test_size_and_transform_are_applied(root):
    dataset = load(root, size=(12, 16), transform=lambda s: (s.image.shape, s.instances.boxes.tolist()))
    assert dataset.size == (12, 16) and load(root).size is None
    assert dataset[0] == ((3, 12, 16), [[2, 2, 8, 6], [2, 0, 4, 6], [2, 0, 16, 12]])


def test_a_size_that_is_none_is_refused(root):
    with pytest.raises(ValueError, match=r"a pair \(H, W\) of them, got \(0, 8\)"):
        load(root, size=(0, 8))


def test_photos_are_turned_where_the_sizes_in_the_file_say_so(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (H, W), (200, 60, 30)).save(root / "c.jpg", exif=exif)  # upright it is H x W
    with pytest.raises(
        ValueError, match=r"c\.jpg is 8 x 6 \(H x W\) and .*json says 6 x 8; pass --upright \(upright=T"
    ):
        load(root, upright=False)[0]
    assert load(root, upright=True)[0].image.shape == (3, H, W)
    assert load(root)[0].image.shape == (3, H, W)  # the file's sizes tell


def test_a_dataset_can_be_sent_to_workers(root):
    dataset = load(root)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[0].instances.masks, dataset[0].instances.masks)
    (batch,) = DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=1)
    assert batch.ids == ["30", "10", "20", "40"]
    assert [len(i) for i in batch.targets.instances] == [3, 2, 0, 1]


def test_the_index_holds_no_python_object_for_each_annotation(root):
    many = [annotation(n, 30, 1, [[float(v) for v in range(100)]]) for n in range(500)]
    content = CONTENT | {"annotations": many}
    dataset = load(root, content)
    assert len(pickle.dumps(dataset)) < 1.1 * (root / "instances.json").stat().st_size


# --- faults ----------------------------------------------------------------------------------------------------------

NAN = [1, 1, 4, math.nan, 4, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no list 'images'; pass a COCO instances file"),
        ({k: v for k, v in CONTENT.items() if k != "annotations"}, "has no list 'annotations'"),
        (CONTENT | {"categories": {}}, "has no list 'categories'"),
        (CONTENT | {"images": []}, r"annotation 1 has image_id 30, which is not in 'images'"),
        (CONTENT | {"images": [], "annotations": []}, "has no image"),
        (CONTENT | {"images": ["c.jpg"]}, "entry 0 of 'images' has no id; expected a whole number"),
        (changed("images", 1, file_name=...), "entry 1 of 'images' has no file_name; expected text"),
        (changed("images", 1, height="6"), "entry 1 of 'images' has the height '6'; expected a whole number"),
        (changed("images", 1, id=True), "entry 1 of 'images' has the id True; expected a whole number"),
        (changed("images", 1, width=0), "image 10 is 6 x 0; write the height and width"),
        (changed("images", 1, id=30), "image id 30 stands twice"),
        (changed("categories", 2, id=90), "category id 90 stands twice"),
        (changed("categories", 2, name="brush"), "names must be unique"),
        (changed("categories", 0, name=...), "entry 0 of 'categories' has no name"),
        (changed("annotations", 0, category_id=...), "entry 0 of 'annotations' has no category_id"),
        (changed("annotations", 0, segmentation="a"), "entry 0 of 'annotations' has the segmentation 'a'"),
        (changed("annotations", 4, image_id=99), "annotation 5 has image_id 99, which is not in 'images'; add it"),
        (changed("annotations", 4, category_id=2), "annotation 5 has category_id 2, which is not in 'categories'; add"),
        (changed("annotations", 4, category_id=2, id=...), "entry 4 of 'annotations' has category_id 2"),
        (changed("annotations", 4, iscrowd=2), "annotation 5 has iscrowd 2; it is 0 or 1"),
        (changed("annotations", 0, segmentation=[NAN]), "annotation 1: a polygon has a coordinate that is no finite"),
        (changed("annotations", 0, segmentation=[[math.inf, *SQUARE[1:]]]), "annotation 1: .* no finite number"),
        (changed("annotations", 0, segmentation=[SQUARE[:7]]), "annotation 1: a polygon has 7 numbers; every point"),
        (changed("annotations", 0, segmentation=["ab"]), "annotation 1: a polygon is 'ab'; write a flat list"),
        (changed("annotations", 0, segmentation=[[[1, 1], [4]]]), "annotation 1: a polygon is .*flat list"),
        (
            changed("annotations", 1, segmentation={"counts": [48]}),
            r"annotation 2: .* size None and its image is \[6, 8\]",
        ),
        (
            changed("annotations", 1, segmentation=UPPER | {"size": [W, H]}),
            r"annotation 2: its run-length code has the size \[8, 6\] and",
        ),
        (CONTENT | {"annotations": [annotation(1, 30, 1, [])]}, "no annotation has a mask; .* not boxes alone"),
    ],
)
def test_a_fault_is_named_with_its_file_and_entry(root, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load(root, content)
    assert str(error.value).startswith(str(root / "instances.json"))


@pytest.mark.parametrize("counts", [[6, 3], [-1, 49], None, "6", "!"])
def test_a_malformed_run_length_code_is_named_at_once(root, counts):
    content = changed("annotations", 1, segmentation=UPPER | {"counts": counts})
    with pytest.raises(ValueError, match=r"instances\.json: image 30: .*(counts|malformed).*--skip-bad"):
        load(root, content)
    assert len(load(root, content, skip_bad=True)[0].instances) == 2


def test_a_file_that_is_missing_or_no_json_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json does not exist; pass a COCO instances file"):
        CocoInstances(root / "nothing.json", root)
    for content in (b"{", b"\xff\xfe\x00"):
        (root / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.json is no JSON file"):
            CocoInstances(root / "bad.json", root)


def test_a_missing_image_is_named_at_once(root):
    (root / "sub" / "a.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 4 images of .*json are not in .* \(sub/a\.jpg\); pass the folder"
    ):
        load(root)


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (W, H + 1)).save(root / "c.jpg")
    with pytest.raises(ValueError, match=r"c\.jpg is 7 x 8 \(H x W\) and .*json says 6 x 8; use the images that"):
        load(root)[0]


def test_a_file_without_any_object_cannot_drop_its_empty_images(root):
    content = CONTENT | {"annotations": []}
    assert len(load(root, content)) == 4
    with pytest.raises(ValueError, match="has no image with an object; pass keep_empty=True"):
        load(root, content, keep_empty=False)


# --- results ---------------------------------------------------------------------------------------------------------


def predictions(masks, labels, boxes, scores):
    return Instances(masks, torch.tensor(labels), torch.tensor(boxes), scores=torch.tensor(scores))


def test_results_have_the_ids_of_the_file_and_boxes_with_width_and_height():
    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, :3, 1] = True
    masks[1, :, 7] = True
    first = predictions(masks, [2, 0], [[1.0, 0.0, 2.5, 3.0], [7.0, 0.0, 8.0, 6.0]], [0.5, 0.25])
    nothing = first[:0]
    rows = coco_results([nothing, first], [10, 30], (1, 7, 90))
    assert [{k: v for k, v in r.items() if k != "segmentation"} for r in rows] == [
        {"image_id": 30, "category_id": 90, "bbox": [1.0, 0.0, 1.5, 3.0], "score": 0.5},
        {"image_id": 30, "category_id": 1, "bbox": [7.0, 0.0, 1.0, 6.0], "score": 0.25},
    ]
    assert [r["segmentation"] for r in rows] == [compressed(UPPER), compressed(LAST)]
    assert coco_results([], [], (1,)) == []


def test_written_results_are_what_pycocotools_reads_back(root, capsys):
    from pycocotools.coco import COCO

    dataset = load(root)
    truth = dataset[0].instances
    found = Instances(truth.masks, truth.labels, truth.boxes, scores=torch.tensor([0.9, 0.8, 0.7]))
    rows = coco_results([found], [dataset.image_ids[0]], dataset.file_ids)
    write_coco_results(root / "new" / "results.json", rows)
    back = COCO(root / "instances.json").loadRes(str(root / "new" / "results.json"))
    again = back.loadAnns(back.getAnnIds(imgIds=[30]))
    assert [a["category_id"] for a in again] == [90, 1, 7]
    for row, mask in zip(again, truth.masks, strict=True):
        assert np.array_equal(back.annToMask(row).astype(bool), mask.numpy())


def test_results_that_cannot_be_written_are_refused():
    masks = torch.ones(1, H, W, dtype=torch.bool)
    good = predictions(masks, [1], [[0.0, 0.0, 8.0, 6.0]], [0.5])
    with pytest.raises(ValueError, match="got 1 predictions and 2 image ids"):
        coco_results([good], [1, 2], (1, 7))
    with pytest.raises(ValueError, match=r"label 1 in image 5 is not in 0\.\.0; pass the file_ids"):
        coco_results([good], [5], (1,))
    truth = Instances(good.masks, good.labels, good.boxes)
    with pytest.raises(ValueError, match="image 5 have no scores"):
        coco_results([truth], [5], (1, 7))


# --- the real files --------------------------------------------------------------------------------------------------


@needs_mini
@pytest.mark.parametrize(
    ("split", "images", "objects", "classes", "crowds"), [("train", 100, 746, 69, 6), ("val", 50, 363, 56, 3)]
)
def test_the_mini_set_has_the_published_counts_and_the_masks_of_pycocotools(
    split, images, objects, classes, crowds, capsys
):
    from pycocotools.coco import COCO

    path = MINI / "annotations" / f"instances_{split}2017.json"
    dataset = CocoInstances(path, MINI / f"{split}2017")
    reference = COCO(path)
    assert len(dataset) == images and len(dataset.categories) == 80
    assert dataset.file_ids[0] == 1 and dataset.file_ids[-1] == 90
    entries = [dataset._entries[i]["objects"] for i in range(images)]
    assert sum(map(len, entries)) == objects
    assert len({k for e in entries for k, _, _ in e}) == classes
    assert sum(crowd for e in entries for _, crowd, _ in e) == crowds
    for i in range(0, images, 10):
        check_against(reference, dataset, i)


def check_against(reference, dataset, index):
    sample = dataset[index]
    rows = reference.loadAnns(reference.getAnnIds(imgIds=[int(sample.id)]))
    assert len(rows) == len(sample.instances) > 0
    assert [dataset.file_ids[k] for k in sample.instances.labels.tolist()] == [r["category_id"] for r in rows]
    assert sample.instances.iscrowd.tolist() == [bool(r["iscrowd"]) for r in rows]
    expected = np.stack([reference.annToMask(row) for row in rows]).astype(bool)
    assert np.array_equal(sample.instances.masks.numpy(), expected)


@needs_mini
def test_the_grey_images_of_the_mini_set_are_rgb():
    for split in ("train", "val"):
        dataset = CocoInstances(MINI / "annotations" / f"instances_{split}2017.json", MINI / f"{split}2017")
        grey = [i for i, n in enumerate(dataset.image_ids) if open_mode(MINI / f"{split}2017" / f"{n:012d}.jpg") == "L"]
        assert len(grey) == 1
        image = dataset[grey[0]].image
        assert image.shape[0] == 3 and torch.equal(image[0], image[2])


def open_mode(path):
    with Image.open(path) as opened:
        return opened.mode


@needs_official
def test_the_polygons_and_crowds_of_coco_are_drawn_as_pycocotools_draws_them(tmp_path, capsys):
    """COCO's own annotations, on blank images of the right sizes."""
    from pycocotools.coco import COCO

    reference = COCO(OFFICIAL)
    crowded = {a["image_id"] for a in reference.anns.values() if a["iscrowd"]}
    content = json.loads(OFFICIAL.read_text())
    with_objects = [row for row in content["images"] if reference.getAnnIds(imgIds=[row["id"]])]
    content["images"] = [r for r in with_objects if r["id"] in crowded][:4] + with_objects[:12:3]
    kept = {row["id"] for row in content["images"]}
    content["images"] = [row for row in with_objects if row["id"] in kept]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    for row in content["images"]:
        Image.new("L", (row["width"], row["height"])).save(tmp_path / row["file_name"])
    dataset = load(tmp_path, content)
    forms = {type(s).__name__ for i in range(len(dataset)) for _, _, s in dataset._entries[i]["objects"]}
    assert forms == {"list", "dict"}
    for i in range(len(dataset)):
        check_against(reference, dataset, i)


def test_image_ids_are_written_as_they_are():
    found = predictions(torch.ones(1, H, W, dtype=torch.bool), [0], [[0.0, 0.0, 8.0, 6.0]], [0.5])
    assert [r["image_id"] for r in coco_results([found, found], [7, "street_12"], (1,))] == [7, "street_12"]


def test_objects_of_a_class_that_the_file_does_not_have_are_left_out():
    masks = torch.ones(3, H, W, dtype=torch.bool)
    found = predictions(masks, [0, 1, 2], [[0.0, 0.0, 8.0, 6.0]] * 3, [0.5, 0.6, 0.7])
    rows = coco_results([found], [1], (5, None, 9))
    assert [(r["category_id"], round(r["score"], 3)) for r in rows] == [(5, 0.5), (9, 0.7)]


# --- ids of images ----------------------------------------------------------------------------------------------------


def ids_of(folder, *names):
    """The ids 1, 2, … of a file with these file_names, as in test-dev without annotations."""
    path = folder / "info.json"
    path.write_text(json.dumps({"images": [{"id": i, "file_name": n} for i, n in enumerate(names, start=1)]}))
    return read_image_ids(path)


def test_the_id_of_an_image_is_that_of_its_file_name_and_not_its_digits(tmp_path):
    ids = ids_of(tmp_path, "2.png", "1.png", "street.png")
    assert [ids[n] for n in ("1.png", "2.png", "some/where/street.png")] == [2, 1, 3]
    assert ids[tmp_path / "1.png"] == 2


def test_a_file_name_with_folders_is_found_by_as_much_of_the_path_as_is_needed(tmp_path):
    ids = ids_of(tmp_path, "a/1.png", "b/1.png", "b/2.png", "1.png", "c\\d\\3.png")
    assert ids["data/a/1.png"] == 1 and ids["data/b/1.png"] == 2
    assert ids["elsewhere/2.png"] == 3  # only one image is called so
    assert ids["elsewhere/1.png"] == 4  # the only file_name that is nothing more
    assert ids["x/d/3.png"] == ids["3.png"] == 5


def test_a_name_that_several_images_have_is_ambiguous_and_one_that_none_has_is_named(tmp_path):
    ids = ids_of(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(ValueError, match=r"1\.png could be any of 2 images .*\(a/1\.png, b/1\.png\); pass a path"):
        ids["1.png"]
    with pytest.raises(ValueError, match=r"3\.png is none of the images"):
        ids["3.png"]


def test_a_file_without_images_or_with_a_name_twice_has_no_ids(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json has no list 'images'"):
        read_image_ids(tmp_path / "list.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        read_image_ids(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"info\.json: file_name 'a\.png' stands twice"):
        ids_of(tmp_path, "a.png", "a.png")
