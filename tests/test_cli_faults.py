"""Data as people have it, on the command line: refused or warned about before the first step."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_cli import seglib

from seglib.weights import read_metadata

SHORT = ["--size", "32x32", "--steps", 2, "--batch-size", 2]


def coco_folder(root, categories, *, iscrowd=0, names=None):
    """A COCO data set of two images a split; ``categories`` names the classes of each split, their ids from 1."""
    (root / "annotations").mkdir(parents=True)
    for split, classes in categories.items():
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for i in (1, 2):
            name = (names or {}).get(i, f"{i}.png")
            Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(root / f"{split}2017" / name)
            images.append({"id": i, "file_name": name, "height": 32, "width": 32})
            for k in range(len(classes)):
                x = 2 + 10 * k
                corners = [x, 4, x + 8, 4, x + 8, 12, x, 12]
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": i, "category_id": k + 1, "iscrowd": iscrowd,
                        "area": 64, "bbox": [x, 4, 8, 8], "segmentation": [corners],
                    }
                )  # fmt: skip
        table = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": table}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def label_folder(root, table, *, value=255):
    """Images of a bright square, and masks in which it has ``value`` and the rest 0."""
    for split in ("train", "val", "test"):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for i in range(4):
            mask = np.zeros((32, 32), np.uint8)
            mask[4 + i : 20, 5:22] = value
            image = np.where(mask[..., None] > 0, (220, 60, 40), (30, 30, 30)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "labels" / f"{i}.png")
    (root / "categories.json").write_text(json.dumps(table))
    return root


POLYP = {"name": "polyp", "isthing": True, "color": [230, 159, 0]}
REST = {"name": "rest", "isthing": False, "color": [0, 114, 178]}


def test_only_crowds_are_nothing_to_learn_from(tmp_path, capsys):
    root = coco_folder(tmp_path / "data", {"train": ["part"], "val": ["part"]}, iscrowd=1)
    out = tmp_path / "run"
    data = ["--data", "coco", "--root", root, "--out", out, *SHORT]
    code, printed = seglib("train", "mask_rcnn_tiny", *data, capsys=capsys)
    assert code == 2 and printed.err.count("\n") == 1
    assert "all 2 of 2 annotations have iscrowd 1" in printed.err and "set iscrowd to 0" in printed.err
    assert not out.exists()


def test_a_class_of_val_that_train_lacks_is_named_before_the_first_step(tmp_path, capsys):
    root = coco_folder(tmp_path / "data", {"train": ["cat", "cow"], "val": ["cat", "dog"]})
    out = tmp_path / "run"
    data = ["--data", "coco", "--root", root, "--out", out, *SHORT]
    code, printed = seglib("train", "mask_rcnn_tiny", *data, capsys=capsys)
    assert code == 2 and "class 'dog' of this data is not among those to predict ('cat', 'cow')" in printed.err
    assert not out.exists()


def test_val_with_fewer_classes_is_scored_by_name(tmp_path, capsys):
    from seglib.data.catalog import build_dataset
    from seglib.data.class_tables import match_categories
    from seglib.data.collate import collate
    from seglib.train import InstanceTask

    root = coco_folder(tmp_path / "data", {"train": ["cat", "dog", "cow"], "val": ["cat", "cow"]})
    train, val = (build_dataset("coco", root, split, keep=("instances",)) for split in ("train", "val"))
    val = match_categories(val, train.categories, "instances")
    evaluator = InstanceTask(train.categories).evaluator()
    for i in range(len(val)):
        batch = collate([val[i]])
        objects = batch.targets.instances[0]
        assert [train.categories[k].name for k in objects.labels.tolist()] == ["cat", "cow"]
        evaluator.update([objects.replace(scores=objects.boxes[:, 0] * 0 + 1)], batch)
    assert evaluator.compute()["ap"] == 1.0  # a model that is right about every object


def test_masks_of_0_and_255_with_a_plain_class_list_are_refused_and_do_not_score_1(tmp_path, capsys):
    root = label_folder(tmp_path / "data", [POLYP, REST])
    data = ["--data", "folder", "--root", root, "--out", tmp_path / "run", *SHORT]
    code, printed = seglib("train", "fcn_tiny", *data, capsys=capsys)
    assert code == 2
    assert "train: the label files hold no other values than 0 and 255, 255 is void" in printed.err
    assert "class 'rest' never occurs" in printed.err and 'give the object "ids": [255]' in printed.err


def test_label_maps_come_out_in_the_ids_that_went_in(tmp_path, capsys):
    root = label_folder(tmp_path / "data", [POLYP | {"ids": [255]}, REST | {"ids": [0]}])
    out = tmp_path / "run"
    data = ["--data", "folder", "--root", root, "--out", out, "--size", "32x32", "--steps", 40, "--batch-size", 4]
    code, _ = seglib("train", "fcn_tiny", *data, "--lr", 0.01, capsys=capsys)
    assert code == 0
    assert read_metadata(out / "weights.safetensors")["file_ids"] == [255, 0]
    wanted = ["--weights", out / "weights.safetensors", "--labels", tmp_path / "maps"]
    code, _ = seglib("predict", root / "test" / "images", *wanted, capsys=capsys)
    assert code == 0
    for i in range(4):
        found, truth = (np.asarray(Image.open(f / f"{i}.png")) for f in (tmp_path / "maps", root / "test" / "labels"))
        assert set(np.unique(found)) <= {0, 255}
        assert ((found > 0) & (truth > 0)).sum() > 0.6 * ((found > 0) | (truth > 0)).sum()


def test_image_ids_come_from_the_data_set_and_not_from_digits_in_names(tmp_path, capsys):
    root = coco_folder(tmp_path / "data", {"train": ["cell"], "val": ["cell"]}, names={1: "2.png", 2: "1.png"})
    out = tmp_path / "run"
    code, _ = seglib("train", "mask_rcnn_tiny", "--data", "coco", "--root", root, "--out", out, *SHORT, capsys=capsys)
    assert code == 0
    wanted = ["--weights", out / "weights.safetensors", "--json", "--score", 0]
    code, printed = seglib("predict", root / "val2017", *wanted, capsys=capsys)
    plain = json.loads(printed.out)
    assert code == 0 and plain and not any("image_id" in entry for entry in plain)
    truth = root / "annotations" / "instances_val2017.json"
    code, printed = seglib("predict", root / "val2017", *wanted, "--ids", truth, capsys=capsys)
    entries = json.loads(printed.out)
    assert code == 0 and len(entries) == len(plain)
    assert {(e["file_name"], e["image_id"]) for e in entries} <= {("2.png", 1), ("1.png", 2)}


@pytest.mark.slow
def test_without_pycocotools_one_line_says_so_before_the_first_step(tmp_path):
    (tmp_path / "fake" / "pycocotools").mkdir(parents=True)
    text = "raise ModuleNotFoundError(\"No module named 'pycocotools'\", name='pycocotools')"
    (tmp_path / "fake" / "pycocotools" / "__init__.py").write_text(text)
    command = ["train", "mask_rcnn_tiny", "--data", "scenes", *map(str, SHORT), "--out", str(tmp_path / "run")]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "fake")}
    done = subprocess.run([sys.executable, "-m", "seglib", *command], capture_output=True, text=True, env=env)
    assert done.returncode == 2
    assert "run pip install pycocotools" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_size_of_evaluation_is_what_the_model_sees_where_images_keep_their_own(tmp_path, capsys):
    root = coco_folder(tmp_path / "data", {"train": ["cell"], "val": ["cell"]})
    out = tmp_path / "run"
    code, _ = seglib("train", "mask_rcnn_tiny", "--data", "coco", "--root", root, "--out", out, *SHORT, capsys=capsys)
    assert code == 0
    from seglib.models.mask_rcnn import MaskRCNN

    seen, forward = [], MaskRCNN.forward

    def spy(self, images, targets=None, sizes=None):
        seen.append(tuple(images.shape[2:]))
        return forward(self, images, targets, sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskRCNN, "forward", spy)
        data = ["--weights", out / "weights.safetensors", "--data", "coco", "--root", root, "--split", "val"]
        for size, want in ((None, (32, 32)), ("48x48", (48, 48))):
            seen.clear()
            code, printed = seglib("eval", *data, *([] if size is None else ["--size", size]), "--json", capsys=capsys)
            assert code == 0, printed.err
            assert set(seen) == {want}


def test_regions_train_score_and_segment_photos(tmp_path, capsys):
    root = label_folder(tmp_path / "data", [POLYP | {"ids": [255]}, REST | {"ids": [0]}])
    out = tmp_path / "run"
    data = ["--data", "folder", "--root", root]
    more = ["--size", "32x32", "--steps", 30, "--batch-size", 4, "--lr", 0.01, "--task", "regions", "--out", out]
    code, printed = seglib("train", "fcn_tiny", *data, *more, capsys=capsys)
    assert code == 0, printed.err
    assert "Dice polyp" in printed.out
    facts = read_metadata(out / "weights.safetensors")
    assert facts["arguments"] == {"num_classes": 2, "overlapping": True} and facts["task"] == "regions"
    weights = ["--weights", out / "weights.safetensors"]
    code, printed = seglib("eval", *weights, *data, "--json", capsys=capsys)
    assert code == 0 and json.loads(printed.out)["mean_dice"] > 0.8
    photo = root / "test" / "images" / "0.png"
    wanted = ["--labels", tmp_path / "l.png", "--out", tmp_path / "o.png", "--json"]
    code, printed = seglib("predict", photo, *weights, *wanted, capsys=capsys)
    assert code == 0 and set(json.loads(printed.out)[0]["share"]) == {"polyp", "rest"}
    labels, truth = np.asarray(Image.open(tmp_path / "l.png")), np.asarray(Image.open(root / "test/labels/0.png"))
    assert ((labels == 1) == (truth == 255)).mean() > 0.9
    code, printed = seglib(
        "train", "fcn_tiny", *data, "--size", "32x32", *weights, "--out", tmp_path / "b", capsys=capsys
    )
    assert code == 2 and "are for regions; pass --task regions" in printed.err
