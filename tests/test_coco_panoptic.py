"""COCO's panoptic format: a synthetic set with every fault, written predictions, and the real mini set."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from seglib.data.checks import count_labels
from seglib.data.coco_panoptic import CocoPanoptic, coco_panoptic_annotation, write_coco_panoptic
from seglib.data.collate import collate
from seglib.data.images import read_labels, write_png
from seglib.metrics.coco_panoptic import evaluate_coco_panoptic
from seglib.metrics.pq import PanopticQuality
from seglib.ops.panoptic import ids_to_rgb
from seglib.types import Category, Panoptic, Segment, check_categories

SHARED = Path(__file__).parents[2] / "shared" / "data" / "coco-panoptic-mini"
MINI = SHARED / "coco"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason=f"the COCO images are not at {MINI}")

H, W = 3, 4
A = [[70_000, 70_000, 5, 0], [9, 9, 5, 0], [9, 9, 5, 8]]  # a cat, a crowd of dogs, sky, sea, two pixels void
B = [[0] * W] * H
C = [[16_777_215] * W] * H


def segment(i, category, **more):
    return {"id": i, "category_id": category} | more


CONTENT = {
    "images": [
        {"id": 30, "file_name": "sub/a.jpg", "height": H, "width": W},
        {"id": 10, "file_name": "b.jpg", "height": H, "width": W},
        {"id": 20, "file_name": "c.jpg", "height": H, "width": W},
    ],
    # ids with gaps, not in order; stuff between the things
    "categories": [
        {"id": 90, "name": "dog", "isthing": 1},
        {"id": 40, "name": "sea", "isthing": 0, "color": [0, 0, 200]},
        {"id": 7, "name": "cat", "isthing": 1},
        {"id": 12, "name": "sky", "isthing": 0},
    ],
    "annotations": [
        {
            "image_id": 30,
            "file_name": "a.png",
            "segments_info": [
                segment(70_000, 7, area=99, iscrowd=0),  # the area is wrong: the map has 2 pixels
                segment(5, 90, iscrowd=1),
                segment(9, 12),
                segment(8, 40),
            ],
        },
        {"image_id": 20, "file_name": "c.png", "segments_info": [segment(16_777_215, 90)]},
        {"image_id": 10, "file_name": "b.png", "segments_info": []},
    ],
}


def as_map(rows):
    return torch.tensor(rows, dtype=torch.int32)


def write_map(path, rows):
    write_png(path, ids_to_rgb(as_map(rows)))


@pytest.fixture
def root(tmp_path):
    """Three images: five pixels of things, a crowd and stuff; nothing but void; one dog everywhere."""
    for row in CONTENT["images"]:
        path = tmp_path / row["file_name"]
        path.parent.mkdir(exist_ok=True)
        grey = row["id"] == 20
        Image.new("L" if grey else "RGB", (W, H), 90 if grey else (200, 60, 30)).save(path)
    for name, rows in {"a": A, "b": B, "c": C}.items():
        write_map(tmp_path / "png" / f"{name}.png", rows)
    return tmp_path


def load(root, content=CONTENT, **keywords):
    path = root / "panoptic.json"
    path.write_text(json.dumps(content))
    return CocoPanoptic(path, root / "png", root, **keywords)


def changed(part, n, **values):
    """The content with values of one entry exchanged; ``...`` removes a key."""
    content = copy.deepcopy(CONTENT)
    row = content[part][n]
    row.update(values)
    for key in [k for k, v in row.items() if v is ...]:
        del row[key]
    return content


def with_segments(*infos):
    """The content with other segments in its first annotation, that of image 30."""
    return changed("annotations", 0, segments_info=list(infos))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_table_has_the_things_first_and_both_in_the_order_of_the_ids_of_the_file(root):
    dataset = load(root)
    assert [(c.name, c.isthing) for c in check_categories(dataset.categories)] == [
        ("cat", True),
        ("dog", True),
        ("sky", False),
        ("sea", False),
    ]
    assert dataset.file_ids == (7, 90, 12, 40) and dataset.void_id == 0
    assert dataset.categories[3].color == (0, 0, 200)
    assert len({c.color for c in dataset.categories}) == 4


def test_void_has_no_id_where_a_category_has_0(root):
    content = changed("categories", 3, id=0)
    content["annotations"][0]["segments_info"][2]["category_id"] = 0
    dataset = load(root, content)
    assert dataset.file_ids == (7, 90, 0, 40) and dataset.void_id is None


def test_images_keep_the_order_of_the_file_and_their_ids_and_names_lead_back_to_it(root):
    dataset = load(root)
    assert dataset.image_ids == (30, 10, 20) and [s.id for s in dataset] == ["30", "10", "20"]
    assert dataset.file_names == ("sub/a.jpg", "b.jpg", "c.jpg")
    assert dataset[-1].id == "20"
    with pytest.raises(IndexError):
        dataset[3]


def test_a_sample_has_the_map_of_its_png_with_areas_counted_on_it(root):
    panoptic = load(root)[0].panoptic
    assert panoptic.map.dtype == torch.int32 and panoptic.map.tolist() == A
    assert panoptic.segments == [
        Segment(70_000, 0, True, 2),
        Segment(5, 1, True, 3, iscrowd=True),
        Segment(9, 2, False, 4),
        Segment(8, 3, False, 1),
    ]


def test_classes_and_objects_are_those_of_the_map(root):
    first, second, third = load(root)
    assert first.semantic.tolist() == [[0, 0, 1, 255], [2, 2, 1, 255], [2, 2, 1, 3]]
    assert first.instances.labels.tolist() == [0, 1] and first.instances.iscrowd.tolist() == [False, True]
    assert first.instances.boxes.tolist() == [[0, 0, 2, 1], [2, 0, 3, 3]]
    assert second.panoptic.segments == [] and len(second.instances) == 0 and second.semantic.unique() == 255
    assert third.instances.masks.all() and third.semantic.unique() == 1


def test_crowds_become_void_where_they_are_left_out(root):
    sample = load(root, crowds=False)[0]
    assert sample.panoptic.map.tolist() == [[70_000, 70_000, 0, 0], [9, 9, 0, 0], [9, 9, 0, 8]]
    assert [s.id for s in sample.panoptic.segments] == [70_000, 9, 8]
    assert sample.instances.labels.tolist() == [0] and (sample.semantic[:, 2] == 255).all()


def test_grey_images_become_rgb(root):
    image = load(root)[2].image
    assert image.shape == (3, H, W) and torch.equal(image[0], image[2])


def test_size_and_transform_are_applied(root):
    dataset = load(root, size=(6, 8), transform=lambda s: (s.image.shape, s.panoptic, s.instances, s.semantic.shape))
    shape, panoptic, instances, labels = dataset[0]
    assert dataset.size == (6, 8) and load(root).size is None
    assert shape == (3, 6, 8) and labels == (6, 8)
    assert torch.equal(panoptic.map, as_map(A).repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert [s.area for s in panoptic.segments] == [8, 12, 16, 4] and panoptic.segments[1].iscrowd
    assert instances.boxes[1].tolist() == [4, 0, 6, 6]


def test_photos_are_turned_only_on_request(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (H, W), (200, 60, 30)).save(root / "b.jpg", exif=exif)  # upright it is H x W
    with pytest.raises(ValueError, match=r"b\.jpg is 4 x 3 \(H x W\) and .*json says 3 x 4; pass --upright"):
        load(root)[1]
    assert load(root, upright=True)[1].image.shape == (3, H, W)


def test_a_dataset_can_be_sent_to_workers_and_batched(root):
    dataset = load(root)
    assert pickle.loads(pickle.dumps(dataset))[0].panoptic.segments == dataset[0].panoptic.segments
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=lambda s: collate(s, multiple=8), num_workers=1)
    assert batch.ids == ["30", "10", "20"] and batch.images.shape == (3, 3, 8, 8)
    first = batch.targets.panoptic[0]
    assert first.map.shape == (8, 8) and first.map[:H, :W].tolist() == A and first.map.sum() == as_map(A).sum()
    assert first.segments == dataset[0].panoptic.segments


def test_labels_are_counted_from_the_pngs_alone(root):
    dataset = load(root, crowds=False)
    for name in ("sub/a.jpg", "b.jpg", "c.jpg"):
        (root / name).write_bytes(b"")  # no image any more
    counts = count_labels(dataset, "panoptic")
    assert counts.classes == (2, 12, 4, 1) and counts.crowds == 0 and counts.void == 3 + 2 + 12
    assert count_labels(load(root), "panoptic").crowds == 1
    assert count_labels(dataset, "semantic").classes == (2, 12, 4, 1)
    assert count_labels(dataset, "instances").classes == (1, 1, 0, 0)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no list 'images'; pass a COCO panoptic file"),
        ({k: v for k, v in CONTENT.items() if k != "annotations"}, "has no list 'annotations'"),
        (CONTENT | {"images": [], "annotations": []}, "has no image"),
        (changed("images", 1, id=30), "image id 30 stands twice"),
        (changed("images", 1, height=0), "image 10 is 0 x 4; write the height and width"),
        (changed("categories", 2, id=90), "category id 90 stands twice"),
        (changed("categories", 2, name="dog"), "names must be unique"),
        (changed("categories", 0, isthing=...), "entry 0 of 'categories' has no isthing; expected a whole number"),
        (changed("categories", 0, isthing=2), "category 90 has isthing 2; it is 0 or 1"),
        (changed("categories", 1, color=[0, 0, 256]), r"category 40 has color \[0, 0, 256\]; it is three numbers"),
        (changed("categories", 1, color="red"), "category 40 has color 'red'"),
        (changed("annotations", 1, image_id=99), "entry 1 of 'annotations' has image_id 99, which is not in 'images'"),
        (changed("annotations", 1, image_id=30), r"image 30 has two annotations, a\.png and c\.png; remove one"),
        (changed("annotations", 1, file_name=...), "entry 1 of 'annotations' has no file_name; expected text"),
        (changed("annotations", 1, segments_info={}), "entry 1 of 'annotations' has the segments_info {}; .* a list"),
        (CONTENT | {"annotations": CONTENT["annotations"][:2]}, "image 10 has no annotation; add it, or remove the"),
        (with_segments({"id": 5}), "image 30: entry 0 of 'segments_info' has no category_id"),
        (with_segments(segment("5", 7)), "image 30: entry 0 of 'segments_info' has the id '5'"),
        (with_segments(5), "image 30: entry 0 of 'segments_info' has no id"),
        (with_segments(segment(5, 7), segment(5, 90)), "image 30: segment id 5 stands twice"),
        (with_segments(segment(0, 7)), r"image 30: segment 0: its id is not in 1\.\.16777215"),
        (with_segments(segment(2**24, 7)), "image 30: segment 16777216: its id is not in"),
        (with_segments(segment(5, 8)), "image 30: segment 5 has category_id 8, which is not in 'categories'"),
        (with_segments(segment(5, 7, iscrowd=2)), "image 30: segment 5 has iscrowd 2; it is 0 or 1"),
        (with_segments(segment(5, 7, score=1.5)), r"image 30: segment 5 has score 1.5; it is a number in \[0, 1\]"),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_entry(root, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load(root, content)
    assert str(error.value).startswith(str(root / "panoptic.json"))


def test_files_that_are_missing_are_named_at_once(root):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.json does not exist; pass a COCO panoptic file, such as pan"
    ):
        CocoPanoptic(root / "nothing.json", root / "png", root)
    (root / "png" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 PNGs of .*json are not in .*png \(c\.png\); pass the folder"):
        load(root)
    (root / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images of .*json are not in .* \(b\.jpg\); pass the folder"):
        load(root)


def raises_when_read(root, message, content=CONTENT):
    dataset = load(root, content)
    with pytest.raises(ValueError, match=rf"panoptic\.json: image 30: .*a\.png.*{message}"):
        dataset[0]
    assert dataset[1].id == "10"  # the others can be read


def test_an_id_of_the_png_without_a_segment_is_named(root):
    infos = CONTENT["annotations"][0]["segments_info"]
    raises_when_read(root, "the map has the id 9, which no segment has", with_segments(*infos[:2], infos[3]))


def test_a_segment_without_a_pixel_in_the_png_is_named(root):
    infos = CONTENT["annotations"][0]["segments_info"]
    raises_when_read(root, "has no pixel of segment 6; remove it", with_segments(*infos, segment(6, 7)))


def test_a_png_of_another_size_is_named(root):
    write_map(root / "png" / "a.png", [[5] * W])
    raises_when_read(root, r"is 1 x 4 \(H x W\) and the image is 3 x 4; export it at the size of the image")


@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        ("RGBA", "mode RGBA, 8 bits, with transparency"),
        ("P", "mode P, 8 bits"),
        ("L", "mode L, 8 bits"),
        ("I;16", "mode I;16, 16 bits"),
    ],
)
def test_a_png_with_alpha_or_palette_or_of_one_channel_is_refused(root, mode, seen):
    Image.new(mode, (W, H)).save(root / "png" / "a.png")
    raises_when_read(root, f"must be RGB of 8 bits, .*it is PNG, {seen}: export it again as an RGB PNG")


def test_a_png_with_a_transparent_colour_of_16_bits_or_that_is_a_jpeg_is_refused(root):
    Image.new("RGB", (W, H)).save(root / "png" / "a.png", transparency=(0, 0, 0))
    raises_when_read(root, "mode RGB, 8 bits, with transparency")
    Image.new("RGB", (W, H)).save(root / "png" / "a.png", format="JPEG")
    raises_when_read(root, "it is JPEG, mode RGB")
    (root / "png" / "a.png").write_bytes(png_of_16_bits())
    raises_when_read(root, "it is PNG, mode RGB, 16 bits")


def png_of_16_bits():
    """An RGB PNG of 16 bits and 4 x 3 black pixels, which Pillow reads but doesn't write."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (H * (1 + 6 * W)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_png_that_asks_to_be_rotated_is_refused(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(root / "png" / "a.png", exif=exif)
    raises_when_read(root, "EXIF orientation is 6")


def test_a_damaged_png_is_named(root):
    path = root / "png" / "a.png"
    path.write_bytes(path.read_bytes()[:50])
    raises_when_read(root, "cannot be read")


# --- writing ----------------------------------------------------------------------------------------------------------

CATEGORIES = (
    Category(0, "cat", True, (1, 0, 0)),
    Category(1, "dog", True, (2, 0, 0)),
    Category(2, "sky", False, (3, 0, 0)),
    Category(3, "sea", False, (4, 0, 0)),
)
PREDICTION = Panoptic(
    as_map([[1, 1, 2, 0], [3, 3, 2, 0], [3, 3, 2, 300]]),
    [
        Segment(1, 0, True, 2, score=0.5),
        Segment(2, 1, True, 3, score=0.25),
        Segment(3, 2, False, 4),
        Segment(300, 3, False, 1),
    ],
)
EMPTY = Panoptic(as_map(B), [])


def test_an_annotation_has_the_ids_of_the_file_areas_and_boxes_and_the_colours_of_its_png():
    annotation, pixels = coco_panoptic_annotation(PREDICTION, 139, (7, 90, 12, 40))
    common = {"iscrowd": 0}
    assert annotation == {
        "image_id": 139,
        "file_name": "000000000139.png",
        "segments_info": [
            common | {"id": 1, "category_id": 7, "isthing": 1, "area": 2, "bbox": [0, 0, 2, 1], "score": 0.5},
            common | {"id": 2, "category_id": 90, "isthing": 1, "area": 3, "bbox": [2, 0, 1, 3], "score": 0.25},
            common | {"id": 3, "category_id": 12, "isthing": 0, "area": 4, "bbox": [0, 1, 2, 2]},
            common | {"id": 300, "category_id": 40, "isthing": 0, "area": 1, "bbox": [3, 2, 1, 1]},
        ],
    }
    assert json.loads(json.dumps(annotation)) == annotation
    assert pixels.dtype == torch.uint8 and pixels[2].tolist() == [[3, 0, 0], [3, 0, 0], [2, 0, 0], [44, 1, 0]]
    named, nothing = coco_panoptic_annotation(EMPTY, "street", (7,), file_name="x/street.png")
    assert named == {"image_id": "street", "file_name": "x/street.png", "segments_info": []} and not nothing.any()


def test_segments_of_a_class_that_the_file_does_not_have_become_void():
    annotation, pixels = coco_panoptic_annotation(PREDICTION, 1, (7, None, 12, None))
    assert [s["id"] for s in annotation["segments_info"]] == [1, 3]
    assert pixels[..., 0].tolist() == [[1, 1, 0, 0], [3, 3, 0, 0], [3, 3, 0, 0]] and not pixels[..., 1:].any()


def test_a_prediction_that_contradicts_itself_is_not_written():
    with pytest.raises(ValueError, match="^image 5: the map has the id 300, which no segment has"):
        coco_panoptic_annotation(Panoptic(PREDICTION.map, PREDICTION.segments[:3]), 5, (7, 90, 12, 40))
    with pytest.raises(ValueError, match="^image 5: segment 300 has category_id 3, which is not in"):
        coco_panoptic_annotation(PREDICTION, 5, (7, 90, 12))


def write(root, predictions, ids=(30, 10, 20), file_ids=(7, 90, 12, 40), **keywords):
    keywords = {"categories": CATEGORIES, "file_names": ("sub/a.jpg", "b.jpg", "c.jpg")} | keywords
    write_coco_panoptic(root / "out" / "panoptic.json", root / "out" / "png", predictions, ids, file_ids, **keywords)


def test_written_predictions_are_what_the_loader_reads_back(root):
    found = [PREDICTION, EMPTY, Panoptic(as_map(C), [Segment(16_777_215, 1, True, 12, iscrowd=True)])]
    write(root, iter(found))
    again = CocoPanoptic(root / "out" / "panoptic.json", root / "out" / "png", root)
    assert again.categories == CATEGORIES and again.file_ids == (7, 90, 12, 40) and again.image_ids == (30, 10, 20)
    for sample, one in zip(again, found, strict=True):
        assert torch.equal(sample.panoptic.map, one.map) and sample.panoptic.segments == one.segments
    assert sorted(p.relative_to(root / "out" / "png").as_posix() for p in (root / "out" / "png").rglob("*.png")) == [
        "b.png",
        "c.png",
        "sub/a.png",
    ]
    assert sorted(p.name for p in (root / "out").iterdir()) == ["panoptic.json", "png"]


def test_files_have_coco_s_names_by_default_and_ids_may_be_names(tmp_path):
    write_coco_panoptic(
        tmp_path / "p.json", tmp_path / "p", [EMPTY, EMPTY], [139, "street"], (7, None, 12, 40), categories=CATEGORIES
    )
    content = json.loads((tmp_path / "p.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["000000000139.png", "street.png"]
    assert content["images"][0] == {"id": 139, "file_name": "000000000139.jpg", "height": H, "width": W}
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [
        (7, "cat", 1),
        (12, "sky", 0),
        (40, "sea", 0),
    ]


@pytest.mark.parametrize(
    ("predictions", "changes", "message"),
    [
        ([EMPTY] * 2, {}, "got 2 predictions and 3 image ids; the first image without a prediction is 20"),
        ([EMPTY] * 4, {}, "got more predictions than the 3 image ids"),
        ([EMPTY] * 3, {"ids": (30, 10, 30)}, "30 stands twice"),
        ([EMPTY] * 3, {"file_names": ("a.jpg", "b.jpg", "a.png")}, r"a\.png stands twice"),
        ([EMPTY] * 3, {"file_names": ("a.jpg", "b.jpg")}, "got 3 image ids and 2 file names"),
        ([EMPTY] * 3, {"file_names": ("a.jpg", "../b.jpg", "c.jpg")}, r"\.\./b\.png leads out of .*png; pass names"),
        ([EMPTY] * 3, {"file_names": ("a.jpg", "/b.jpg", "c.jpg")}, r"/b\.png leads out of"),
        ([EMPTY] * 3, {"file_ids": (7, 90, 12)}, "got 4 categories and 3 file_ids"),
        ([EMPTY, PREDICTION, EMPTY], {"categories": CATEGORIES[:1], "file_ids": (7,)}, "image 10: segment 2 has categ"),
        (
            [PREDICTION, EMPTY, Panoptic(as_map(C), [Segment(16_777_215, 2, True, 12)])],
            {},
            "image 20: segment 16777215 of category 2 has isthing=True",
        ),
    ],
)
def test_predictions_that_cannot_be_written_leave_nothing_behind(root, predictions, changes, message):
    with pytest.raises(ValueError, match=message):
        write(root, predictions, **changes)
    assert not [p for p in (root / "out").rglob("*") if p.is_file()] if (root / "out").exists() else True


def test_a_failure_leaves_the_files_of_an_earlier_run_as_they_were(root):
    write(root, [PREDICTION, EMPTY, EMPTY])

    def broken():
        yield EMPTY
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError):
        write(root, broken())
    again = CocoPanoptic(root / "out" / "panoptic.json", root / "out" / "png", root)
    assert torch.equal(again[0].panoptic.map, PREDICTION.map)
    write(root, [EMPTY, PREDICTION, EMPTY])
    later = CocoPanoptic(root / "out" / "panoptic.json", root / "out" / "png", root)
    assert not later[0].panoptic.map.any() and torch.equal(later[1].panoptic.map, PREDICTION.map)


# --- the real files ---------------------------------------------------------------------------------------------------


def mini(split):
    name = f"panoptic_{split}2017"
    return CocoPanoptic(MINI / "annotations" / f"{name}.json", MINI / "annotations" / name, MINI / f"{split}2017")


@needs_mini
@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "images", "things", "classes", "crowds", "stuff"),
    [("train", 100, 746, 69, 6, 365), ("val", 50, 363, 56, 3, 181)],
)
def test_the_mini_set_has_the_published_counts_areas_boxes_and_semantic_maps(
    split, images, things, classes, crowds, stuff
):
    dataset = mini(split)
    assert len(dataset) == images and [c.isthing for c in dataset.categories] == [True] * 80 + [False] * 53
    assert dataset.file_ids[0] == 1 and dataset.file_ids[79:81] == (90, 92) and dataset.file_ids[-1] == 200
    content = json.loads((MINI / "annotations" / f"panoptic_{split}2017.json").read_text())
    published = {row["image_id"]: row["segments_info"] for row in content["annotations"]}
    to_file = torch.tensor([*dataset.file_ids] + [0] * (256 - len(dataset.file_ids)))  # void is 0 there
    segments = []
    for sample, name in zip(dataset, dataset.file_names, strict=True):
        annotation, _ = coco_panoptic_annotation(sample.panoptic, int(sample.id), dataset.file_ids)
        keys = ("id", "category_id", "iscrowd", "area", "bbox")
        assert [{k: s[k] for k in keys} for s in annotation["segments_info"]] == published[int(sample.id)]
        stored = read_labels(MINI / "annotations" / f"semantic_{split}2017" / name.replace(".jpg", ".png"))
        assert torch.equal(to_file[sample.semantic], stored)
        assert sample.image.shape == (3, *stored.shape)  # one image of each split is grey
        segments += sample.panoptic.segments
    assert sum(s.isthing for s in segments) == things and sum(not s.isthing for s in segments) == stuff
    assert len({s.category_id for s in segments if s.isthing}) == classes
    assert sum(s.iscrowd for s in segments) == crowds


@needs_mini
@pytest.mark.slow
def test_the_ground_truth_scored_against_itself_has_a_pq_of_1():
    dataset = mini("val")
    quality = PanopticQuality(dataset.categories)
    for sample in dataset:
        quality.update(sample.panoptic, sample.panoptic)
    scores = quality.compute()
    assert (scores.pq, scores.things.pq, scores.stuff.pq) == (1, 1, 1)
    assert scores.things.classes == 56 and int(scores.tp.sum()) == 363 - 3 + 181 and scores.fp.sum() == 0


@needs_mini
@pytest.mark.slow
def test_predictions_that_were_read_and_written_have_the_numbers_of_panopticapi(tmp_path):
    predictions, truth = SHARED / "degraded_predictions_val", MINI / "annotations" / "panoptic_val2017.json"
    content = json.loads(truth.read_text()) | json.loads((predictions / "panoptic_pred.json").read_text())
    (tmp_path / "found.json").write_text(json.dumps(content))
    found = CocoPanoptic(tmp_path / "found.json", predictions / "panoptic_pred", MINI / "val2017")
    write_coco_panoptic(
        tmp_path / "again.json",
        tmp_path / "again",
        (sample.panoptic for sample in found),
        found.image_ids,
        found.file_ids,
        categories=found.categories,
    )
    scores = evaluate_coco_panoptic(truth, truth.with_suffix(""), tmp_path / "again.json", tmp_path / "again")
    expected = json.loads((predictions / "expected.json").read_text())
    # The tolerance: the same IoUs, added up in another order.
    for group, name in ((scores, "All"), (scores.things, "Things"), (scores.stuff, "Stuff")):
        of_panopticapi = expected["panopticapi"][name]
        numbers = [of_panopticapi[key] for key in ("pq", "sq", "rq")]
        assert [group.pq, group.sq, group.rq] == pytest.approx(numbers, abs=1e-12)
        assert group.classes == of_panopticapi["n"]
    of_class = zip(found.file_ids, scores.class_pq.nan_to_num().tolist(), strict=True)  # no score is 0 there
    pq = {str(file_id): value for file_id, value in of_class}
    assert pq == pytest.approx({k: row["pq"] for k, row in expected["panopticapi_per_class"].items()}, abs=1e-12)
