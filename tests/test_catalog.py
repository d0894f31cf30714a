"""The datasets that the command line knows by name, and the class table of one's own."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from seglib.data import catalog
from seglib.data.catalog import DATASETS, RESIZES, build_dataset
from seglib.data.categories_json import read_class_table
from seglib.data.checks import count_labels
from seglib.data.collate import collate
from seglib.data.images import write_png
from seglib.losses import cross_entropy
from seglib.ops.geometry import Geometry
from seglib.ops.panoptic import check_panoptic, ids_to_rgb
from seglib.types import Category

TABLE = [
    {"name": "cell", "isthing": True, "color": [230, 159, 0]},
    {"name": "ground", "isthing": False, "color": [0, 114, 178]},
]

OBJECTS = {"keep": ("instances",)}
ANNOTATIONS = ("semantic", "instances", "panoptic")


@pytest.fixture
def root(tmp_path):
    """A folder dataset with one 6×8 image in each split."""
    for split in ("train", "val", "test"):
        for part, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / split / part).mkdir(parents=True)
            Image.new(mode, (8, 6)).save(tmp_path / split / part / "a.png")
    (tmp_path / "categories.json").write_text(json.dumps(TABLE))
    return tmp_path


def test_a_class_table_is_read_in_order(root):
    table = read_class_table(root / "categories.json")
    assert table.categories == (Category(0, "cell", True, (230, 159, 0)), Category(1, "ground", False, (0, 114, 178)))
    assert table[1:] == (None, None, None, 3)


def with_ids(*ids, **top):
    """The class table in its second form, with the ids of the files."""
    rows = [row if i is None else row | {"ids": i} for row, i in zip(TABLE, ids, strict=True)]
    return {"categories": rows} | top


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (with_ids(255, 0), {255: 0, 0: 1}),
        (with_ids([255], [0, 3]), {255: 0, 0: 1, 3: 1}),
        (with_ids([7], [8, 9], void=[0, 255]), {7: 0, 8: 1, 9: 1, 0: 255, 255: 255}),
        (with_ids(1, 2, void=0), {1: 0, 2: 1, 0: 255}),
        (with_ids(None, None, void=[11]), {0: 0, 1: 1, 11: 255}),
        (with_ids(None, None), None),
        (with_ids(1, 2)["categories"], {1: 0, 2: 1}),  # a plain list with ids
        (with_ids(1000, 2, void=[]), {1000: 0, 2: 1}),
    ],
)
def test_a_class_table_may_say_which_ids_the_files_use(tmp_path, content, expected):
    path = tmp_path / "categories.json"
    path.write_text(json.dumps(content))
    table = read_class_table(path)
    assert [c.name for c in table.categories] == ["cell", "ground"]
    assert table.remap == expected


def test_a_folder_is_remapped_by_its_class_table(root):
    Image.frombytes("L", (8, 6), bytes([255] * 8 + [0] * 24 + [7] * 16)).save(root / "test" / "labels" / "a.png")
    (root / "categories.json").write_text(json.dumps(with_ids([255], [0], void=[7])))
    labels = build_dataset("folder", root, "test")[0].semantic
    assert labels.tolist() == [[0] * 8, *[[1] * 8] * 3, *[[255] * 8] * 2]
    (root / "categories.json").write_text(json.dumps(with_ids([255], [0])))
    with pytest.raises(ValueError, match=r'label 7 .*or 7 to the "ids" or "void" of categories\.json'):
        build_dataset("folder", root, "test")[0]


def test_a_missing_class_table_shows_what_to_write(tmp_path):
    with pytest.raises(
        ValueError, match=r'categories.json is missing; write .* like \["background", "crack"\], or .*"ids": \[255\]'
    ):
        read_class_table(tmp_path / "categories.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "is no JSON file"),
        (b"\xff\xfe\x00", "is no JSON file"),
        (b"{}", "must be a list of categories"),
        (b"[]", "must be a list of categories"),
        (b"[1]", "category 0 is 1; expected"),
        (json.dumps([TABLE[0], {"isthing": False}]).encode(), "category 1 is .*; expected a name"),
        (b'[{"name": "cut o', "is no JSON file"),
        (json.dumps([TABLE[0] | {"isthing": "false"}]).encode(), "isthing as true or false"),  # bool("false") is True
        (json.dumps([TABLE[0] | {"color": "red"}]).encode(), "three numbers in 0..255"),
        (json.dumps([TABLE[0] | {"color": [1, 2]}]).encode(), "three numbers in 0..255"),
        (json.dumps([TABLE[0] | {"color": [0, 0, 256]}]).encode(), "three numbers in 0..255"),
        (json.dumps([TABLE[0]] * 2).encode(), "names must be unique"),
        (json.dumps({"categories": []}).encode(), "must be a list of categories"),
        (json.dumps({"categories": TABLE, "ignore": [0]}).encode(), "must be a list of categories .*void"),
        (json.dumps(with_ids(0, None)).encode(), "'cell' has ids and 'ground' has none; give ids to all or to none"),
        (json.dumps(with_ids([0, 1], [1, 2])).encode(), "file id 1 of 'ground' stands twice"),
        (json.dumps(with_ids(0, 1, void=[1])).encode(), "file id 1 of 'void' stands twice"),
        (json.dumps(with_ids(None, None, void=[0])).encode(), "file id 0 of 'void' stands twice"),
        (json.dumps(with_ids([], 1)).encode(), r"ids of 'cell' are \[\]; expected a whole number"),
        (json.dumps(with_ids("0", 1)).encode(), "ids of 'cell' are '0'; expected a whole number"),
        (json.dumps(with_ids(True, 1)).encode(), "ids of 'cell' are True"),
        (json.dumps(with_ids(-1, 1)).encode(), "ids of 'cell' are -1; expected a whole number in 0..65535"),
        (json.dumps(with_ids(0, 1, void="none")).encode(), "ids of 'void' are 'none'"),
        (json.dumps(with_ids(0, 1, labels="color")).encode(), 'takes no "ids"'),
        (json.dumps(with_ids(None, None, labels="rgb")).encode(), '"labels" is \'rgb\'; it is "color"'),
        (json.dumps({"categories": ["a"], "labels": "color"}).encode(), "'a' has no color"),
        (json.dumps(with_ids(None, None, labels="color", void=[0])).encode(), "it is a list of colours"),
        (json.dumps(with_ids(None, None, labels="color", void=[[0, 114, 178]])).encode(), "of 'void' stands twice"),
        (json.dumps(with_ids(None, None, threshold=128)).encode(), 'give one category "ids": \\[255\\]'),
        (json.dumps(with_ids(255, 0, threshold=0)).encode(), '"threshold" is 0; it is a grey value'),
        (json.dumps(with_ids(None, None, channels="4")).encode(), "\"channels\" is '4'"),
    ],
)
def test_a_bad_class_table_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "categories.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_class_table(path)
    assert str(error.value).startswith(str(path))


def test_a_folder_of_images_is_read_as_it_is_or_augmented_to_one_size(root):
    plain = build_dataset("folder", root, "test")[0]
    assert plain.id == "a"
    assert plain.image.shape == (3, 6, 8)
    assert torch.equal(plain.semantic, torch.zeros(6, 8, dtype=torch.int64))
    cropped = build_dataset("folder", root, "train", size=(4, 4), augment=True)[0]
    assert cropped.image.shape == (3, 4, 4)
    assert cropped.semantic.shape == (4, 4)


def test_scenes_have_the_size_asked_for_and_other_images_in_each_split():
    val, test = (build_dataset("scenes", None, split, size=(32, 48)) for split in ("val", "test"))
    assert val[0].image.shape == (3, 32, 48)
    assert not torch.equal(val[0].image, test[0].image)
    assert len(val.categories) == len(test.categories)


@pytest.mark.parametrize("keep", [("semantic",), ("instances",), ("semantic", "panoptic"), ()])
def test_training_on_scenes_carries_the_annotations_asked_for(keep):
    sample = build_dataset("scenes", None, "train", size=(32, 32), augment=True, keep=keep)[0]
    assert {name for name in ANNOTATIONS if getattr(sample, name) is not None} == set(keep)
    whole = build_dataset("scenes", None, "val", size=(32, 32), keep=keep)[0]
    assert all(getattr(whole, name) is not None for name in ANNOTATIONS)


def test_scenes_are_zoomed_only_where_no_objects_are_trained_on(monkeypatch):
    scales = {}
    for keep in ("semantic", "instances", "panoptic"):
        monkeypatch.setattr(catalog, "train_transform", lambda *_, scale, keep, **__: scales.update({keep: scale}))
        build_dataset("scenes", None, "train", augment=True, keep=(keep,))
    assert scales == {("semantic",): (0.8, 1.25), ("instances",): (1.0, 1.0), ("panoptic",): (1.0, 1.0)}


def test_training_on_scenes_carries_semantic_labels_by_default():
    sample = build_dataset("scenes", None, "train", size=(32, 32), augment=True)[0]
    assert [name for name in ANNOTATIONS if getattr(sample, name) is not None] == ["semantic"]


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("citiscapes", None, "val"), {}, "'citiscapes' is unknown; choose one of scenes, camvid, pets, voc, .*folder"),
        (("scenes", None, "validation"), {}, "split 'validation' is unknown; choose one of train, val, test"),
        (("folder", None, "val"), {}, "pass --root FOLDER"),
        (("camvid", None, "val"), {}, "pass --root FOLDER"),
        (("pets", None, "val"), {}, "dataset 'pets' lies in a folder: pass --root FOLDER"),
        (("voc", None, "val"), {}, "pass --root FOLDER"),
        (("voc", ".", "test"), {}, "VOC's test split are not public"),
        (("isbi", ".", "dev"), {}, "split 'dev' is unknown; choose one of train, val, test"),
        (("coco", None, "val"), OBJECTS, "dataset 'coco' lies in a folder: pass --root FOLDER"),
        (("coco", None, "test"), OBJECTS, "split 'test' of coco has no public labels; choose train or val"),
        (("coco", Path("."), "test"), OBJECTS, "has no test; pass --split val"),
        (("dsb2018", None, "val"), OBJECTS, "pass --root FOLDER"),
        (("dsb2018", ".", "dev"), OBJECTS, "split 'dev' is unknown; choose one of train, val, trainval, test"),
        (
            ("coco", ".", "val"),
            {},
            "'coco' has no semantic annotations, only instances, panoptic; .*: scenes, camvid, .*folder$",
        ),
        (("voc", ".", "val"), OBJECTS, "'voc' has no instances annotations, only semantic; .*: scenes, coco, dsb2018$"),
        (
            ("dsb2018", ".", "val"),
            {"keep": ("instances", "panoptic")},
            "no panoptic .* instances and panoptic: scenes, coco$",
        ),
        (("scenes", None, "val"), {"keep": ("masks",)}, "'scenes' has no masks annotations, .*with masks: none"),
        (("folder", ".", "dev"), {}, "split 'dev' is unknown; choose one of train, val, test"),
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
    assert set(DATASETS) == {"scenes", "camvid", "pets", "voc", "cityscapes", "isbi", "coco", "dsb2018", "folder"}
    assert len(build_dataset("scenes", None, split)) > 0


# --- real layouts, made small: every set trains on crops of one size and is evaluated as it should be ----------------


def write(path, mode="RGB", size=(40, 24), value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value or (90, 60, 30) if mode == "RGB" else value).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def make_pets(root):
    for name in (f"pug_{n}" for n in range(5)):
        write(root / "images" / f"{name}.jpg")
        write(root / "annotations" / "trimaps" / f"{name}.png", "L", value=3)  # nothing but the band, which is void
    text(root / "annotations" / "trainval.txt", "".join(f"pug_{n} 1 1 1\n" for n in range(5)))


def make_voc(root):
    for split in ("train", "val"):
        write(root / "JPEGImages" / f"{split}.jpg")
        write(root / "SegmentationClass" / f"{split}.png", "L", value=255)
        text(root / "ImageSets" / "Segmentation" / f"{split}.txt", f"{split}\n")


def make_cityscapes(root):
    for split in ("train", "val"):
        write(root / "leftImg8bit" / split / "ulm" / "ulm_0_0_leftImg8bit.png")
        write(root / "gtFine" / split / "ulm" / "ulm_0_0_gtFine_labelIds.png", "L", value=4)  # static: not scored


def make_isbi(root):
    for z in range(30):
        write(root / "image" / f"{z}.png", "L", value=100)
        write(root / "label" / f"{z}.png", "L", value=255)


MAKERS = {"pets": make_pets, "voc": make_voc, "cityscapes": make_cityscapes, "isbi": make_isbi}


@pytest.mark.parametrize("name", MAKERS)
def test_sets_with_files_train_on_crops_and_are_evaluated_at_their_size(tmp_path, name):
    MAKERS[name](tmp_path)
    train_set = build_dataset(name, tmp_path, "train", size=(32, 48), augment=True)
    val_set = build_dataset(name, tmp_path, "val", size=(32, 48))
    assert train_set[0].image.shape == (3, 32, 48)
    assert val_set.size == ((32, 48) if name == "pets" else None)
    assert val_set[0].image.shape[1:] == (val_set.size or (24, 40))
    assert build_dataset(name, tmp_path, "train", augment=True)[0].image.shape[1] >= 256  # by default


@pytest.mark.parametrize("name", MAKERS)
def test_a_crop_without_a_labelled_pixel_trains_without_nan(tmp_path, name):
    MAKERS[name](tmp_path)
    dataset = build_dataset(name, tmp_path, "train", size=(16, 16), augment=True)
    batch = collate([dataset[0], dataset[0]])
    void = batch.targets.semantic == 255
    assert bool(void.all()) == (name != "isbi")  # membranes have no void
    logits = torch.zeros(2, len(dataset.categories), 16, 16, requires_grad=True)
    loss = cross_entropy(logits, batch.targets.semantic)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum() == 0) == bool(void.all())


# --- sets of objects -------------------------------------------------------------------------------------------------


def make_coco(root):
    """One 40×24 image a split with an object and, to its right, a crowd."""
    for split in ("train", "val"):
        write(root / f"{split}2017" / "7.jpg")
        rows = [
            {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [[0, 0, 20, 0, 20, 24, 0, 24]]},
            {"id": 2, "image_id": 7, "category_id": 18, "iscrowd": 1, "segmentation": [[20, 0, 40, 0, 40, 24, 20, 24]]},
        ]
        content = {
            "images": [{"id": 7, "file_name": "7.jpg", "height": 24, "width": 40}],
            "categories": [{"id": 18, "name": "dog"}],
            "annotations": rows,
        }
        text(root / "annotations" / f"instances_{split}2017.json", json.dumps(content))


def make_dsb(root):
    """Twelve 40×24 images in train, of which some are val, each with one nucleus everywhere."""
    for split, count in {"train": 12, "test": 1}.items():
        for n in range(count):
            write(root / split / "images" / f"{n:02d}.tif", "L", value=100)
            write(root / split / "masks" / f"{n:02d}.tif", "L", value=1)


def make_coco_panoptic(root):
    """One 40×24 image a split: void above, below a dog, a crowd of dogs and, in the last column, sky."""
    map_ = torch.zeros(24, 40, dtype=torch.int32)
    map_[1:, :20], map_[1:, 20:39], map_[1:, 39] = 70_000, 5, 6
    for split in ("train", "val"):
        write(root / f"{split}2017" / "7.jpg")
        name = f"panoptic_{split}2017"
        write_png(root / "annotations" / name / "7.png", ids_to_rgb(map_))
        infos = [(70_000, 18, 0), (5, 18, 1), (6, 3, 0)]
        content = {
            "images": [{"id": 7, "file_name": "7.jpg", "height": 24, "width": 40}],
            "categories": [{"id": 3, "name": "sky", "isthing": 0}, {"id": 18, "name": "dog", "isthing": 1}],
            "annotations": [
                {
                    "image_id": 7,
                    "file_name": "7.png",
                    "segments_info": [{"id": i, "category_id": k, "iscrowd": crowd} for i, k, crowd in infos],
                }
            ],
        }
        text(root / "annotations" / f"{name}.json", json.dumps(content))


OBJECT_MAKERS = {"coco": make_coco, "dsb2018": make_dsb}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("name", OBJECT_MAKERS)
def test_sets_of_objects_train_on_crops_and_are_evaluated_whole(tmp_path, name):
    OBJECT_MAKERS[name](tmp_path)
    train_set = build_dataset(name, tmp_path, "train", size=(16, 32), augment=True, keep=("instances",))
    val_set = build_dataset(name, tmp_path, "val", size=(16, 32), keep=("instances",))
    batch = collate([train_set[0], train_set[0]])
    assert batch.images.shape == (2, 3, 16, 32) and batch.targets.semantic is None
    assert [i.masks.shape[1:] for i in batch.targets.instances] == [(16, 32)] * 2
    assert val_set.size is None and val_set[0].image.shape[1:] == (24, 40)
    assert len(val_set[0].instances) == (2 if name == "coco" else 1)
    assert build_dataset(name, tmp_path, "train", augment=True, keep=("instances",))[0].image.shape[1] >= 256


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_training_on_coco_leaves_crowds_out(tmp_path):
    make_coco(tmp_path)
    keep = ("instances",)
    train_set = build_dataset("coco", tmp_path, "train", size=(64, 96), augment=True, keep=keep)  # larger than any zoom
    assert [train_set[0].instances.iscrowd.tolist() for _ in range(5)] == [[False]] * 5
    assert build_dataset("coco", tmp_path, "val", keep=keep)[0].instances.iscrowd.tolist() == [False, True]


def test_coco_with_panoptic_maps_is_the_panoptic_set(tmp_path):
    make_coco_panoptic(tmp_path)
    keep = ("panoptic",)
    whole = build_dataset("coco", tmp_path, "val", keep=keep)
    assert [(c.name, c.isthing) for c in whole.categories] == [("dog", True), ("sky", False)]
    assert whole.file_ids == (18, 3) and whole[0].image.shape[1:] == (24, 40)
    assert [(s.id, s.category_id, s.area, s.iscrowd) for s in whole[0].panoptic.segments] == [
        (70_000, 0, 460, False),
        (5, 0, 437, True),
        (6, 1, 23, False),
    ]
    assert whole[0].instances.iscrowd.tolist() == [False, True] and whole[0].semantic[0].unique() == 255


def test_training_on_panoptic_coco_carries_the_map_alone_and_its_crowds_are_void(tmp_path):
    make_coco_panoptic(tmp_path)
    keep = ("panoptic",)
    train_set = build_dataset("coco", tmp_path, "train", size=(64, 96), augment=True, keep=keep)  # larger than any zoom
    for _ in range(5):
        sample = train_set[0]
        assert sample.image.shape[1:] == sample.panoptic.map.shape == (64, 96)
        assert sample.instances is None and sample.semantic is None
        check_panoptic(sample.panoptic, 2, num_things=1)
        assert {s.id for s in sample.panoptic.segments} <= {70_000, 6} and not sample.panoptic.segments[0].iscrowd


# --- the size at which a model wants to see an image ------------------------------------------------------------------

FILES = MAKERS | OBJECT_MAKERS
NEEDS = dict.fromkeys(MAKERS, ("semantic",)) | dict.fromkeys(OBJECT_MAKERS, ("instances",))


def test_the_datasets_that_are_resized_on_reading_are_those_that_say_so(tmp_path, root):
    for name, make in FILES.items():
        make(tmp_path / name)
    sizes = {name: build_dataset(name, tmp_path / name, "val", size=(32, 48), keep=NEEDS[name]).size for name in FILES}
    sizes |= {name: build_dataset(name, root, "val", size=(32, 48)).size for name in ("scenes", "folder")}
    assert {name for name, size in sizes.items() if size == (32, 48)} == RESIZES - {"camvid"}
    assert {name for name, size in sizes.items() if size is None} == set(DATASETS) - RESIZES


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("name", sorted(set(FILES) - RESIZES))
def test_training_resizes_to_the_size_that_the_model_wants_and_evaluation_does_not(tmp_path, name, monkeypatch):
    FILES[name](tmp_path)  # 24 × 40
    seen = []
    monkeypatch.setattr(catalog, "train_transform", lambda crop, **_: lambda s: seen.append(crop) or s)
    monkeypatch.setattr(catalog, "elastic_transform", lambda crop, **_: lambda s: seen.append(crop) or s)

    def read(geometry, **keywords):
        data = build_dataset(name, tmp_path, "train", augment=True, keep=NEEDS[name], geometry=geometry, **keywords)
        sample = data[0]
        labels = sample.semantic if sample.instances is None else sample.instances.masks
        assert labels.shape[-2:] == sample.image.shape[1:]
        return tuple(sample.image.shape[1:]), seen[-1]

    default = read(None)
    assert default[0] == (24, 40)
    assert read(Geometry()) == default
    assert read(Geometry("shorter", 48)) == ((48, 80), default[1])
    assert read(Geometry("square", 64)) == ((64, 64), (64, 64))
    assert read(Geometry("letterbox", 80), size=(16, 16)) == ((48, 80), (16, 16))
    whole = build_dataset(name, tmp_path, "val", keep=NEEDS[name], geometry=Geometry("square", 64))
    assert whole[0].image.shape[1:] == (24, 40)


@pytest.mark.parametrize("name", [*FILES, "scenes", "folder"])
def test_every_dataset_knows_the_ids_of_its_files_and_counts_its_labels(tmp_path, root, name):
    if name in FILES:
        FILES[name](tmp_path / name)
    folder = root if name == "folder" else tmp_path / name
    needs = NEEDS.get(name, ("semantic",))
    data = build_dataset(name, folder, "train", size=(32, 32), augment=True, keep=needs)
    assert len(data.file_ids) == len(data.categories)
    counts = count_labels(data, needs[0])
    assert counts.images == len(data) and len(counts.classes) == len(data.categories)
    assert counts.void + sum(counts.classes) > 0
