"""Before the first step: what a split holds of each class, class tables that differ, ids that come out as they were."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.data.camvid import CamVid
from seglib.data.catalog import SegmentationDataset
from seglib.data.checks import LabelCounts, check_labels_of_split, count_labels
from seglib.data.cityscapes import CATEGORIES as CITYSCAPES
from seglib.data.cityscapes import TRAIN_IDS, Cityscapes
from seglib.data.class_tables import MatchedDataset, labels_to_files, match_categories
from seglib.data.coco import CocoInstances, coco_results
from seglib.data.collate import collate
from seglib.data.dsb import DSB2018, DSB2018Kaggle
from seglib.data.folders import SegmentationFiles, SegmentationFolder
from seglib.data.images import read_labels, write_png
from seglib.data.isbi import ISBI2012
from seglib.data.pets import OxfordPets
from seglib.data.scenes import Scenes
from seglib.data.transforms import train_transform
from seglib.data.voc import VOC2012
from seglib.metrics.coco_json import evaluate_coco
from seglib.ops.masks import masks_to_boxes
from seglib.train import SemanticTask, TrainConfig, fit
from seglib.types import Category, Instances, Panoptic, Sample, Segment

CAT, DOG, GRASS = (
    Category(0, "cat", True, (1, 1, 1)),
    Category(1, "dog", True, (2, 2, 2)),
    Category(2, "grass", False, (3, 3, 3)),
)
TABLE = (CAT, DOG, GRASS)


class Listed:
    """Samples in a list, as someone's own dataset may be."""

    size = None
    file_ids = (10, 20, 30)
    void_id = 0

    def __init__(self, samples, categories=TABLE):
        self.samples, self.categories, self.reads = samples, categories, []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.samples[index]


def sample(semantic, iscrowd=None, name="x"):
    """A sample with every annotation: each thing that occurs is one object and one segment, as is grass."""
    semantic = torch.tensor(semantic)
    things = [k for k in (0, 1) if (semantic == k).any()]
    masks = (
        torch.stack([semantic == k for k in things]) if things else torch.zeros(0, *semantic.shape, dtype=torch.bool)
    )
    crowd = None if iscrowd is None else torch.tensor(iscrowd)
    segments = [Segment(k + 1, k, k < 2, int((semantic == k).sum())) for k in range(3) if (semantic == k).any()]
    return Sample(
        torch.zeros(3, *semantic.shape),
        name,
        semantic=semantic,
        instances=Instances(masks, torch.tensor(things, dtype=torch.int64), masks_to_boxes(masks), iscrowd=crowd),
        panoptic=Panoptic(torch.where(semantic == 255, 0, semantic + 1).int(), segments),
        regions=torch.stack([semantic == k for k in range(3)]).to(torch.uint8).masked_fill(semantic == 255, 255),
    )


SAMPLES = [sample([[0, 0, 1, 255]], [False, True]), sample([[0, 2, 2, 2]])]


# --- counting ---------------------------------------------------------------------------------------------------------


def test_pixels_and_objects_of_each_class_are_counted():
    data = Listed(SAMPLES)
    expected = {
        "semantic": LabelCounts("semantic", (3, 1, 3), 2, 2, pixels=8, void=1),
        "panoptic": LabelCounts("panoptic", (3, 1, 3), 2, 2, pixels=8, void=1),
        "regions": LabelCounts("regions", (3, 1, 3), 2, 2, pixels=24, void=3),
        "instances": LabelCounts("instances", (2, 0, 0), 2, 2, crowds=1, most_objects=1),
    }
    assert {needs: count_labels(data, needs) for needs in expected} == expected


def test_crowds_among_panoptic_segments_are_counted_apart_from_the_pixels_of_classes():
    first, second = SAMPLES
    crowd = [replace(s, iscrowd=True) if s.category_id == 0 else s for s in first.panoptic.segments]
    data = Listed([replace(first, panoptic=Panoptic(first.panoptic.map, crowd)), second])
    counts = count_labels(data, "panoptic")
    assert counts == LabelCounts("panoptic", (1, 1, 3), 2, 2, pixels=8, void=1, crowds=1)


def test_a_split_whose_panoptic_segments_are_all_crowds_has_nothing_to_learn_from():
    segments = [Segment(4, 0, True, 2, iscrowd=True)]
    crowds = replace(SAMPLES[0], panoptic=Panoptic(torch.tensor([[4, 4, 0, 0]], dtype=torch.int32), segments))
    with pytest.raises(ValueError, match="train has nothing to learn from: all 1 of 1 annotations have iscrowd 1"):
        check_labels_of_split(count_labels(Listed([crowds]), "panoptic"), TABLE, "train")


def test_many_images_are_counted_in_a_few_that_lie_evenly():
    data = Listed([sample([[0]])] * 10)
    counts = count_labels(data, "semantic", most=4)
    assert data.reads == [0, 2, 5, 7]
    assert (counts.images_seen, counts.images, counts.classes) == (4, 10, (4, 0, 0))


def test_counting_leaves_the_random_state_as_it_was():
    class Jittered(Listed):
        def __getitem__(self, index):
            torch.rand(3)
            return super().__getitem__(index)

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    count_labels(Jittered(SAMPLES), "semantic")
    assert torch.equal(torch.rand(2), expected)


def test_volumes_are_counted_as_images_are():
    volume = Sample(torch.zeros(1, 2, 2, 2), "ct", semantic=torch.tensor([[[0, 0], [1, 255]], [[2, 2], [2, 2]]]))
    assert count_labels(Listed([volume]), "semantic").classes == (2, 1, 4)


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ValueError, match="annotation 'depth' is unknown; choose one of semantic, instances"):
        count_labels(Listed(SAMPLES), "depth")
    with pytest.raises(ValueError, match="most must be at least 1 image, got 0"):
        count_labels(Listed(SAMPLES), "semantic", most=0)
    with pytest.raises(ValueError, match="sample 'x' has no instances annotation"):
        count_labels(Listed([replace(SAMPLES[0], instances=None)]), "instances")
    with pytest.raises(ValueError, match=r"sample 'x': label 7 at \(row 0, column 1\) is not in 0\.\.2 or 255"):
        count_labels(Listed([replace(SAMPLES[0], semantic=torch.tensor([[0, 7]]))]), "semantic")


# --- what is said about counts ----------------------------------------------------------------------------------------


def test_a_split_with_every_class_passes_without_a_word():
    assert check_labels_of_split(LabelCounts("semantic", (1, 1, 1), 1, 1, pixels=4, void=1), TABLE, "train") == []
    assert (
        check_labels_of_split(LabelCounts("instances", (1, 1, 0), 1, 1, crowds=2), TABLE, "val") == []
    )  # grass is stuff


def test_classes_that_never_occur_are_named_with_the_share_of_void():
    counts = LabelCounts("semantic", (5, 0, 0), 10, 40, pixels=20, void=15)
    (warning,) = check_labels_of_split(counts, TABLE, "train")
    assert warning.startswith(
        "train: 2 of 3 classes never occur ('dog', 'grass') in the 10 of 40 images that were looked at"
    )
    assert "75.0 % of the pixels are void" in warning and "class table" in warning


def test_what_is_left_out_is_a_warning_while_something_remains():
    crowds, lines = check_labels_of_split(
        LabelCounts("instances", (2, 1, 0), 4, 4, crowds=4, without_mask=3), TABLE, "val"
    )
    assert crowds.startswith("val: 4 of 7 annotations have iscrowd 1")
    assert lines.startswith("val: 3 of 10 annotations are left out because they have no mask: no segmentation")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (LabelCounts("semantic", (0, 0, 0), 0, 0), "train has no images"),
        (LabelCounts("instances", (0, 0, 0), 7, 7), "train has no object in its 7 images"),
        (LabelCounts("instances", (0, 0, 5), 7, 7), "train has no object"),  # stuff alone
        (
            LabelCounts("instances", (0, 0, 0), 7, 7, crowds=4),
            "all 4 of 4 annotations have iscrowd 1 and are left out; set",
        ),
        (LabelCounts("instances", (0, 0, 0), 7, 7, without_mask=2), "all 2 of 2 have no polygon of 3 points; export"),
        (
            LabelCounts("instances", (0, 0, 0), 7, 7, crowds=4, without_mask=2),
            "4 of 6 annotations have iscrowd 1 and are left out and 2 of 6 have no polygon of 3 points; set iscrowd",
        ),
        (
            LabelCounts("semantic", (0, 0, 0), 2, 2, 8, void=8, void_values=(255,)),
            '100 % are void.*255 alone.*"ids" in cat',
        ),
        (
            LabelCounts("semantic", (0, 0, 0), 2, 2, 8, void=8, void_values=(3, 255)),
            r'100\.0 % are void in 2 images \(the label files hold 3, 255\).*"ids"',
        ),
        (LabelCounts("regions", (0, 0, 0), 2, 2, 8), "train has no regions label in its 2 images"),
    ],
)
def test_a_split_with_nothing_to_learn_from_is_an_error(counts, message):
    with pytest.raises(ValueError, match=message) as error:
        check_labels_of_split(counts, TABLE, "train")
    assert "\n" not in str(error.value)


# --- counting without reading images ----------------------------------------------------------------------------------

POLYGON = [[4, 4, 24, 4, 24, 24, 4, 24]]
RUNS = {"size": [32, 32], "counts": [100, 50, 874]}


def coco(root, names=("cat", "dog", "cow"), annotations=(), split="train", images=4, **keywords):
    """A dataset in COCO's layout; annotations are (image id, category id, iscrowd, segmentation)."""
    for i in range(1, images + 1):
        write_png(root / split / f"{i}.png", np.full((32, 32, 3), 20 * i, np.uint8))
    rows = [
        {
            "id": n,
            "image_id": i,
            "category_id": c,
            "iscrowd": crowd,
            "segmentation": s,
            "area": 400,
            "bbox": [4, 4, 20, 20],
        }
        for n, (i, c, crowd, s) in enumerate(annotations, start=1)
    ]
    path = root / f"{split}.json"
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in range(1, images + 1)],
        "categories": [{"id": 1 + k, "name": name} for k, name in enumerate(names)],
        "annotations": rows,
    }
    path.write_text(json.dumps(content))
    return CocoInstances(path, root / split, **keywords)


@pytest.mark.parametrize("crowds", [True, False])
def test_crowds_and_lines_of_coco_are_counted_whether_or_not_they_are_read(tmp_path, crowds):
    rows = [(1, 1, 0, POLYGON), (1, 3, 0, RUNS), (2, 3, 0, POLYGON), (2, 3, 1, RUNS), (3, 1, 0, [[1, 1, 2, 2]])]
    data = coco(tmp_path, annotations=rows, crowds=crowds)
    for path in (tmp_path / "train").iterdir():
        path.unlink()  # no image is read
    expected = LabelCounts("instances", (1, 0, 2), 4, 4, crowds=1, without_mask=1, most_objects=2)
    assert count_labels(data, "instances") == count_labels(data, "instances", most=1) == expected  # of the whole file
    absent, lines = check_labels_of_split(expected, data.categories, "train")
    assert absent.startswith("train: class 'dog' never occurs in 4 images; check") and "1 of 5 annotations" in lines


def test_crowds_alone_are_refused_with_their_number(tmp_path):
    """Labelling tools that export brush masks write iscrowd 1 for all of them."""
    data = coco(tmp_path, ("part",), [(i, 1, 1, RUNS) for i in (1, 2, 3, 4)], crowds=False)
    with pytest.raises(ValueError, match="train has nothing to learn from: all 4 of 4 annotations have iscrowd 1"):
        check_labels_of_split(count_labels(data, "instances"), data.categories, "train")


def test_a_file_without_annotations_is_refused(tmp_path):
    data = coco(tmp_path)
    with pytest.raises(ValueError, match="val has no object in its 4 images; check that its annotations were exported"):
        check_labels_of_split(count_labels(data, "instances"), data.categories, "val")


def folder(root, labels, categories=(("polyp", True), ("rest", False)), **keywords):
    for n, array in enumerate(labels):
        write_png(root / "images" / f"{n}.png", np.zeros((*array.shape, 3), np.uint8))
        write_png(root / "labels" / f"{n}.png", array)
    table = [Category(i, name, isthing, (i, 0, 0)) for i, (name, isthing) in enumerate(categories)]
    return SegmentationFolder(root / "images", root / "labels", table, **keywords)


ZERO_255 = np.array([[0, 0, 255, 0]], np.uint8)


def test_masks_of_0_and_255_with_a_plain_class_list_are_no_silent_success(tmp_path):
    data = folder(tmp_path, [ZERO_255, ZERO_255])
    for path in (tmp_path / "images").iterdir():
        path.unlink()  # label files alone are read
    counts = count_labels(data, "semantic")
    assert counts == LabelCounts("semantic", (6, 0), 2, 2, pixels=8, void=2, class_values=(0,), void_values=(255,))
    with pytest.raises(
        ValueError, match=r"255 is void \(25\.0 % .* class 'rest' never occurs; give .*\"ids\": \[255\]"
    ):
        check_labels_of_split(counts, data.categories, "train")
    told = folder(tmp_path / "told", [ZERO_255], remap={0: 0, 1: 1, 255: 255})  # "void": [255]
    (absent,) = check_labels_of_split(count_labels(told, "semantic"), told.categories, "train")
    assert absent.startswith("train: class 'rest' never occurs in 1 images; 25.0 % of the pixels are void; check")


def test_masks_of_0_and_255_are_seen_with_a_single_class_too(tmp_path):
    data = folder(tmp_path, [ZERO_255], [("polyp", True)])
    (binary,) = check_labels_of_split(count_labels(data, "semantic"), data.categories, "train")
    assert "0 and 255" in binary


def test_masks_of_255_alone_are_refused(tmp_path):
    data = folder(tmp_path, [np.full((2, 2), 255, np.uint8)])
    with pytest.raises(
        ValueError, match='100 % are void, because its label files hold 255 alone.*"ids" in categories.json'
    ):
        check_labels_of_split(count_labels(data, "semantic"), data.categories, "train")


def test_ids_that_are_told_apart_are_no_cause_for_a_warning(tmp_path):
    data = folder(tmp_path, [ZERO_255], remap={255: 0, 0: 1})
    counts = count_labels(data, "semantic")
    assert counts == LabelCounts("semantic", (1, 3), 1, 1, pixels=4)
    assert check_labels_of_split(counts, data.categories, "train") == []


def test_an_unknown_label_is_named_while_counting(tmp_path):
    data = folder(tmp_path, [np.array([[0, 1], [7, 1]], np.uint8)])
    with pytest.raises(ValueError, match=r"0\.png: label 7 at \(row 1, column 0\)"):
        count_labels(data, "semantic")


def test_nuclei_are_counted_from_their_masks(tmp_path):
    labels = np.array([[0, 300, 7], [7, 0, 7]], np.uint16)
    for n in range(12):
        for part, array in {"images": np.zeros((2, 3), np.uint8), "masks": labels}.items():
            path = tmp_path / "train" / part / f"{n:02d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    data = DSB2018(tmp_path, "trainval")
    assert count_labels(data, "instances") == LabelCounts("instances", (24,), 12, 12, most_objects=2)
    for name in "ab":
        write_png(tmp_path / "kaggle" / "x" / "masks" / f"{name}.png", np.array([[0, 255]], np.uint8))
    Image.new("RGB", (2, 1)).save(tmp_path / "kaggle" / "x" / "masks" / "no.jpg")
    (tmp_path / "kaggle" / "x" / "images").mkdir()
    Image.new("RGB", (2, 1)).save(tmp_path / "kaggle" / "x" / "images" / "x.png")
    assert count_labels(DSB2018Kaggle(tmp_path / "kaggle"), "instances").classes == (2,)


def test_scenes_are_counted_in_a_few_and_hold_every_class():
    data = Scenes(500, size=64, transform=train_transform(32))
    for needs in ("semantic", "instances", "panoptic"):
        counts = count_labels(data, needs)
        assert (counts.images_seen, counts.images) == (32, 500)
        assert check_labels_of_split(counts, data.categories, "train") == []
    assert count_labels(data, "semantic").pixels == 32 * 64 * 64  # before the transform, which crops


@pytest.mark.parametrize("make", [lambda path: folder(path, [ZERO_255]), coco, lambda path: Scenes(1, size=32)])
def test_the_cheap_count_is_that_of_the_samples(tmp_path, make):
    rows = {"annotations": [(1, 1, 0, POLYGON), (2, 2, 1, RUNS)]} if make is coco else {}
    data = make(tmp_path, **rows)
    needs = "instances" if make is coco else "semantic"
    slow = count_labels(Listed([data[i] for i in range(len(data))], data.categories), needs)
    assert replace(count_labels(data, needs), class_values=(), void_values=()) == slow


# --- class tables that differ -----------------------------------------------------------------------------------------

OTHER = (Category(0, "dog", True, (0, 0, 0)), Category(1, "cow", True, (0, 0, 0)), Category(2, "cat", True, (0, 0, 0)))


def test_a_dataset_whose_table_agrees_is_left_as_it_is():
    data = Listed(SAMPLES)
    assert match_categories(data, TABLE) is data
    assert match_categories(data, [replace(c, color=(9, 9, 9)) for c in TABLE]) is data
    assert match_categories(data, TABLE[:2], "instances") is data  # the task's things


def test_every_annotation_is_mapped_by_name():
    table = (*OTHER, Category(3, "grass", False, (0, 0, 0)))
    data: SegmentationDataset = match_categories(Listed(SAMPLES), table)
    assert isinstance(data, MatchedDataset) and len(data) == 2 and data.categories == table
    first, second = data[0], data[1]
    assert first.semantic.tolist() == [[2, 2, 0, 255]] and second.semantic.tolist() == [[2, 3, 3, 3]]
    assert first.instances.labels.tolist() == [2, 0] and first.instances.iscrowd.tolist() == [False, True]
    assert [(s.id, s.category_id) for s in second.panoptic.segments] == [(1, 2), (3, 3)]
    assert first.regions[:, 0].tolist() == [[0, 0, 1, 255], [255] * 4, [1, 1, 0, 255], [0, 0, 0, 255]]  # cow is unknown
    assert data.file_ids == (20, None, 10, 30) and data.void_id == 0 and data.size is None
    assert count_labels(data, "semantic").classes == (1, 0, 3, 3)
    assert pickle.loads(pickle.dumps(data))[1].semantic.tolist() == [[2, 3, 3, 3]]


def test_mapped_segments_keep_their_ids_and_are_crowds_as_before():
    panoptic = Panoptic(torch.tensor([[0, 9, 9]], dtype=torch.int32), [Segment(9, 0, True, 2, iscrowd=True)])
    data = match_categories(Listed([replace(SAMPLES[0], panoptic=panoptic)]), (*OTHER, replace(GRASS, id=3)))
    assert data[0].panoptic.segments == [Segment(9, 2, True, 2, iscrowd=True)]


def test_stuff_that_a_table_of_things_lacks_becomes_void():
    data = match_categories(Listed(SAMPLES), OTHER, "instances")
    assert data[1].semantic.tolist() == [[2, 255, 255, 255]]
    assert data[1].panoptic.map.tolist() == [[1, 0, 0, 0]] and len(data[1].panoptic.segments) == 1
    assert data[0].instances.labels.tolist() == [2, 0]
    counts = count_labels(data, "semantic")
    assert counts.classes == (1, 0, 3) and counts.void == 1 + 3


def test_regions_are_counted_as_they_are_mapped():
    """Grass is dropped; the data has no cow, so its region is void in every pixel."""
    data = match_categories(Listed(SAMPLES), OTHER, "instances")
    # per image: dog and cat with 4 pixels each, of which one is void in the first image, and 4 of the cow
    expected = LabelCounts("regions", (1, 0, 3), 2, 2, pixels=24, void=2 + 2 * 4)
    assert count_labels(data, "regions") == expected
    more = match_categories(Listed(SAMPLES), (*OTHER, Category(3, "grass", False, (0, 0, 0))))
    assert count_labels(more, "regions") == LabelCounts("regions", (1, 0, 3, 3), 2, 2, pixels=32, void=3 + 2 * 4)


def test_the_first_class_that_training_lacks_is_named():
    with pytest.raises(
        ValueError, match="class 'grass' of this data is not among those to predict .*'dog', 'cow', 'cat'"
    ):
        match_categories(Listed(SAMPLES), OTHER)
    with pytest.raises(ValueError, match="class 'dog' is a thing in this data and stuff where"):
        match_categories(Listed(SAMPLES), (CAT, Category(1, "dog", False, (0, 0, 0)), GRASS))


def test_a_validation_file_with_fewer_classes_is_scored_by_name(tmp_path):
    """train.json lists cat, dog, cow; val.json has no dog, so its ids are others."""
    train = coco(tmp_path, annotations=[(1, k, 0, POLYGON) for k in (1, 2, 3)])
    right = [[8, 8, 12, 8, 12, 12, 8, 12]]
    val = coco(
        tmp_path, ("cat", "cow"), [(i, k, 0, p) for i in (1, 2) for k, p in ((1, POLYGON), (2, [right[0]]))], "val", 2
    )
    matched = match_categories(val, train.categories, "instances")
    assert [matched.categories[k].name for k in matched[0].instances.labels.tolist()] == ["cat", "cow"]
    assert matched.file_ids == (1, None, 2)
    # A model that is right about every object, in the ids of training, has an AP of 1 against the file of validation.
    found = [matched[i].instances.replace(scores=torch.ones(2), iscrowd=None) for i in range(2)]
    results = coco_results(found, val.image_ids, matched.file_ids)
    assert evaluate_coco(tmp_path / "val.json", results).ap == pytest.approx(1)
    with pytest.raises(ValueError, match="class 'dog' of this data is not among those to predict"):
        match_categories(train, val.categories, "instances")


# --- what is read in one id comes out in the same ---------------------------------------------------------------------


def test_a_map_of_labels_gets_the_ids_of_the_files():
    assert labels_to_files(torch.tensor([[0, 1], [255, 1]]), (7, 3), 9).tolist() == [[7, 3], [9, 3]]
    assert labels_to_files(np.array([[0, 1]]), (255, 0), None).dtype == np.uint8
    wide = labels_to_files(np.array([[0, 1]], np.uint8), (300, 0), None)
    assert wide.dtype == np.uint16 and wide.tolist() == [[300, 0]]
    assert labels_to_files(torch.zeros(0, 3, dtype=torch.int64), (1,), None).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 255]], r"void \(255\) has no id in the files, whose classes have \[4, None\] and void None"),
        ([[1]], "label 1 has no id in the files"),
        ([[2]], "label 2 has no id in the files"),
        ([[-1]], "label -1 has no id in the files"),
        ([[0.5]], "integer class ids, got float32"),
    ],
)
def test_a_label_without_an_id_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        labels_to_files(torch.tensor(labels), (4, None), None)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, array)


def files_of(root, values, categories, **keywords):
    array = np.array([values], np.uint8)
    save(root / "a.png", np.zeros((1, len(values), 3), np.uint8))
    save(root / "l.png", array)
    return SegmentationFiles([(root / "a.png", root / "l.png")], categories, **keywords), array


def camvid(root):
    array = np.array([range(12)], np.uint8)
    save(root / "train" / "x.png", np.zeros((1, 12, 3), np.uint8))
    save(root / "trainannot" / "x.png", array)
    (root / "train.txt").write_text("/SegNet/train/x.png /SegNet/trainannot/x.png\n")
    return CamVid(root), array


def pets(root):
    array = np.array([[1, 2, 3]], np.uint8)
    save(root / "annotations" / "trimaps" / "pug_1.png", array)
    (root / "images").mkdir()
    Image.new("RGB", (3, 1)).save(root / "images" / "pug_1.jpg")
    (root / "annotations" / "trainval.txt").write_text("pug_1 1 1 1\n")
    return OxfordPets(root, "trainval"), array


def voc(root):
    array = np.array([[*range(21), 255]], np.uint8)
    save(root / "SegmentationClass" / "x.png", array)
    (root / "JPEGImages").mkdir()
    Image.new("RGB", (22, 1)).save(root / "JPEGImages" / "x.jpg")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("x\n")
    return VOC2012(root), array


def cityscapes(root):
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    array = np.array([[0, *scored]], np.uint8)  # of the classes that are not scored, 0 (unlabeled) comes back
    save(root / "leftImg8bit" / "train" / "ulm" / "ulm_0_0_leftImg8bit.png", np.zeros((*array.shape, 3), np.uint8))
    save(root / "gtFine" / "train" / "ulm" / "ulm_0_0_gtFine_labelIds.png", array)
    return Cityscapes(root), array


def cityscapes_train_ids(root):
    return files_of(root, [*range(19), 255], CITYSCAPES, remap=TRAIN_IDS)


def isbi(root):
    for z in range(30):
        save(root / "image" / f"{z}.png", np.zeros((1, 2), np.uint8))
        save(root / "label" / f"{z}.png", np.array([[0, 255]], np.uint8))
    return ISBI2012(root), np.array([[0, 255]], np.uint8)


def polyps(root):
    return files_of(root, [0, 255, 255], TABLE[:2], remap={255: 0, 0: 1})


def plain(root):
    return files_of(root, [2, 0, 255, 1], TABLE)


def own_void(root):
    return files_of(root, [0, 9, 2, 1], TABLE, void=9)


ROUND_TRIPS = [camvid, pets, voc, cityscapes, cityscapes_train_ids, isbi, polyps, plain, own_void]


@pytest.mark.parametrize("make", ROUND_TRIPS)
def test_labels_read_in_one_id_are_written_in_the_same(tmp_path, make):
    data, stored = make(tmp_path)
    write_png(tmp_path / "out.png", labels_to_files(data[0].semantic, data.file_ids, data.void_id))
    assert read_labels(tmp_path / "out.png").tolist() == stored.tolist()


def test_where_several_ids_are_one_class_the_first_stands_for_it(tmp_path):
    data, _ = files_of(tmp_path, [4, 5, 6, 7], TABLE[:2], remap={5: 0, 4: 0, 7: 255, 6: 255})
    assert data.file_ids == (5, None) and data.void_id == 7  # no file has a dog
    assert labels_to_files(data[0].semantic, data.file_ids, data.void_id).tolist() == [[5, 5, 7, 7]]


def test_ids_beyond_8_bits_come_back_too(tmp_path):
    stored = np.array([[1000, 2, 1000]], np.uint16)
    save(tmp_path / "a.png", np.zeros((1, 3, 3), np.uint8))
    save(tmp_path / "l.png", stored)
    data = SegmentationFiles([(tmp_path / "a.png", tmp_path / "l.png")], TABLE[:2], remap={1000: 0, 2: 1})
    write_png(tmp_path / "out.png", labels_to_files(data[0].semantic, data.file_ids, data.void_id))
    assert read_labels(tmp_path / "out.png").tolist() == stored.tolist()


def test_objects_read_in_one_id_are_written_in_the_same(tmp_path):
    data = coco(tmp_path, annotations=[(2, 3, 0, POLYGON), (2, 1, 0, RUNS)], images=2)
    found = [data[i].instances for i in range(2)]
    found = [f.replace(scores=torch.ones(len(f)), iscrowd=None) for f in found]
    rows = coco_results(found, data.image_ids, data.file_ids)
    assert [(r["image_id"], r["category_id"]) for r in rows] == [(2, 3), (2, 1)]


def test_sets_without_class_ids_in_files_keep_their_own():
    assert Scenes.file_ids == tuple(range(12)) and Scenes.void_id == 255
    assert DSB2018.file_ids == DSB2018Kaggle.file_ids == (0,) and DSB2018.void_id is None


def test_what_is_no_dataset_or_no_sample_gets_a_sentence():
    loader = torch.utils.data.DataLoader(Listed(SAMPLES))
    for call in (
        lambda: count_labels(loader, "semantic"),
        lambda: fit(torch.nn.Linear(1, 1), loader, task=SemanticTask(TABLE), config=TrainConfig(steps=1)),
    ):
        with pytest.raises(ValueError, match="is a DataLoader; pass the dataset itself"):
            call()
    with pytest.raises(ValueError, match=r"gives Samples, got a tuple; return Sample\(image, id, semantic=labels\)"):
        collate([(torch.zeros(3, 2, 2), torch.zeros(2, 2))])
    with pytest.raises(ValueError, match=r"sample 'x' has a ndarray as image; pass a tensor, of an image \(C, H, W\)"):
        collate([Sample(np.zeros((2, 2, 3), np.uint8), "x")])


def test_a_warning_is_one_line():
    counts = LabelCounts("semantic", (5, 0, 0), 1, 1, 8, crowds=9)
    warnings = check_labels_of_split(counts, TABLE, "train")
    assert len(warnings) == 2 and not any("\n" in w for w in warnings)
