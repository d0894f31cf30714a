"""One's own images at the command line: what trains, what is refused before the first step, and in which words."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import seglib

from seglib.weights import load_model, read_metadata

SHORT = ["--size", "32x32", "--steps", 1, "--batch-size", 2]
TABLE = ["background", "crack"]


def folder(root, table=TABLE, splits=("train", "val"), count=3, make_labels=None, make_image=None, ending=".png"):
    """A folder of images with a bright square, and its label maps."""
    for split in splits:
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((32, 32), np.uint8)
            labels[4 : 16 + i, 6:20] = 1
            image = np.stack([labels * 180 + 40] * 3, -1) if make_image is None else make_image(labels)
            Image.fromarray(image).save(root / split / "images" / f"{i}{ending}")
            stored = labels if make_labels is None else make_labels(labels)
            Image.fromarray(stored).save(root / split / "labels" / f"{i}.png")
    (root / "categories.json").write_text(json.dumps(table))
    return root


def train(root, *more, model="unet_tiny", capsys=None):
    arguments = ["--data", "folder", "--root", root, "--out", root / "run", *SHORT, *more]
    code, printed = seglib("train", model, *arguments, capsys=capsys)
    return code, printed.err if printed else ""


def test_a_background_first_list_of_names_trains_and_keeps_its_order(tmp_path, capsys):
    root = folder(tmp_path)
    assert train(root, capsys=capsys)[0] == 0
    metadata = read_metadata(root / "run" / "weights.safetensors")
    assert [c["name"] for c in metadata["categories"]] == TABLE and metadata["file_ids"] == [0, 1]


def test_masks_of_0_and_255_are_refused_without_ids(tmp_path, capsys):
    root = folder(tmp_path, make_labels=lambda labels: labels * 255)
    code, err = train(root, capsys=capsys)
    assert code == 2 and "class 'crack' never occurs" in err and '"ids": [255]' in err
    assert not (root / "run" / "weights.safetensors").exists()
    rows = [{"name": "background", "ids": [0]}, {"name": "crack", "ids": [255]}]
    (root / "categories.json").write_text(json.dumps(rows))
    assert train(root, capsys=capsys)[0] == 0
    photo, weights = root / "val" / "images" / "0.png", root / "run" / "weights.safetensors"
    assert seglib("predict", photo, "--weights", weights, "--labels", root / "map.png")[0] == 0
    assert set(np.unique(np.array(Image.open(root / "map.png")))) <= {0, 255}


def test_colour_coded_labels_train_when_the_table_says_so(tmp_path, capsys):
    colors = np.array([[0, 0, 0], [200, 10, 30]], np.uint8)
    rows = [{"name": n, "color": c.tolist()} for n, c in zip(TABLE, colors, strict=True)]
    root = folder(tmp_path, table=rows, make_labels=lambda labels: colors[labels])
    code, err = train(root, capsys=capsys)
    assert code == 2 and 'write "labels": "color" beside the "categories"' in err
    (root / "categories.json").write_text(json.dumps({"categories": rows, "labels": "color"}))
    assert train(root, capsys=capsys)[0] == 0


def test_a_share_of_train_is_val_and_stays_so(tmp_path, capsys):
    root = folder(tmp_path, splits=("train",))
    code, err = train(root, capsys=capsys)
    assert code == 2 and "--val-share 0.2" in err
    assert train(root, "--val-share", 0.4, capsys=capsys)[0] == 0
    weights = root / "run" / "weights.safetensors"
    metadata = read_metadata(weights)
    assert metadata["own_files"] == {"val_share": 0.4, "upright": None, "rescale": "native", "skip_bad": False}
    assert len(metadata["trained_on"]) == 2 * 16  # of two images
    code, printed = seglib(
        "eval", "--weights", weights, "--data", "folder", "--root", root, "--split", "val", "--json", capsys=capsys
    )
    assert code == 0 and json.loads(printed.out)["images"] == 1
    code, err = train(root, "--val-share", 0.7, "--resume", capsys=capsys)
    assert code == 2 and "--val-share 0.7 is not what the run" in err and "was started with (0.4)" in err


def test_images_of_four_channels_train_and_only_such_are_predicted(tmp_path, capsys):
    root = folder(
        tmp_path,
        table={"categories": TABLE, "channels": 4},
        make_image=lambda labels: np.stack([labels * 90 + n for n in range(4)], -1),
        ending=".tif",
    )
    assert train(root, capsys=capsys)[0] == 0
    weights = root / "run" / "weights.safetensors"
    assert read_metadata(weights)["arguments"]["in_channels"] == 4
    photo = root / "val" / "images" / "0.tif"
    assert seglib("predict", photo, "--weights", weights, "--out", root / "o.png", "--tile", 64, "--flip")[0] == 0
    assert np.array(Image.open(root / "o.png")).shape == (32, 32, 3)
    Image.new("RGB", (32, 32)).save(root / "rgb.png")
    code, printed = seglib("predict", root / "rgb.png", "--weights", weights, "--labels", root / "m.png", capsys=capsys)
    assert code == 2 and "has 3 channels, and images of 4 channels are wanted" in printed.err
    rgb = folder(tmp_path / "rgb")
    code, printed = seglib(
        "eval", "--weights", weights, "--data", "folder", "--root", rgb, "--split", "val", capsys=capsys
    )
    assert code == 2 and "is for images of 4 channels, and these have 3" in printed.err
    code, err = train(rgb, "--weights", weights, capsys=capsys)
    assert code == 2 and "is for images of 4 channels, and these have 3" in err


def test_16_bit_images_are_warned_of_and_rescaled_in_training_eval_and_predict(tmp_path, capsys):
    root = folder(tmp_path, make_image=lambda labels: labels * np.uint16(3000) + np.uint16(500), ending=".tif")
    code, err = train(root, capsys=capsys)
    assert code == 0 and "--rescale percentile" in err
    arguments = ["--data", "folder", "--root", root, "--out", root / "b", *SHORT, "--rescale", "percentile"]
    code, printed = seglib("train", "unet_tiny", *arguments, capsys=capsys)
    assert code == 0 and "--rescale" not in printed.err
    weights = root / "b" / "weights.safetensors"
    assert read_metadata(weights)["intensity"]["mode"] == "percentile"
    assert seglib("eval", "--weights", weights, "--data", "folder", "--root", root, "--split", "val")[0] == 0
    photo = root / "val" / "images" / "0.tif"
    assert seglib("predict", photo, "--weights", weights, "--labels", root / "m.png")[0] == 0
    code, printed = seglib("train", "unet_tiny", *arguments[:-1], "zscore", "--out", root / "c", capsys=capsys)
    assert code == 2 and "--rescale 'zscore' is unknown" in printed.err


def test_labels_on_stored_pixels_train_with_the_option_and_come_out_the_same_way(tmp_path, capsys):
    root = folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted(root.glob("*/*/*.png")):
        with Image.open(path) as opened:
            stored = Image.fromarray(np.array(opened)[:24])
        if path.parent.name == "labels":
            stored.save(path)
        else:
            path.unlink()
            stored.save(path.with_suffix(".jpg"), exif=exif)
    code, err = train(root, capsys=capsys)
    assert code == 2 and "pass --stored-orientation" in err
    assert train(root, "--stored-orientation", capsys=capsys)[0] == 0
    weights, photo = root / "run" / "weights.safetensors", root / "val" / "images" / "0.jpg"
    assert seglib("eval", "--weights", weights, "--data", "folder", "--root", root, "--split", "val")[0] == 0
    assert seglib("predict", photo, "--weights", weights, "--labels", root / "m.png")[0] == 0
    with Image.open(root / "m.png") as labels:
        assert labels.size == (32, 24)


def test_a_stack_of_pages_is_not_read_as_its_first(tmp_path, capsys):
    root = folder(tmp_path)
    train(root)
    first, *others = (Image.new("L", (32, 32), n) for n in range(5))
    first.save(root / "stack.tif", save_all=True, append_images=others)
    weights = root / "run" / "weights.safetensors"
    capsys.readouterr()
    code, printed = seglib("predict", root / "stack.tif", "--weights", weights, "--json", capsys=capsys)
    assert code == 2 and "holds 5 images, and one is wanted" in printed.err


def test_photos_of_a_folder_that_cannot_be_read_are_named_and_none_is_skipped(tmp_path, capsys):
    root = folder(tmp_path / "data")
    train(root)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "c.gif", "d.webp", "._a.jpg"):
        Image.new("RGB", (32, 32)).save(photos / name)
    (photos / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    capsys.readouterr()
    weights = root / "run" / "weights.safetensors"
    code, printed = seglib("predict", photos, "--weights", weights, "--labels", tmp_path / "maps", capsys=capsys)
    assert code == 2 and "1 of 4 photos left out" in printed.err and "b.heic" in printed.err
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["a.png", "c.png", "d.png"]


def coco(root, file="annotations/instances_default.json", images="images", objects=1):
    """A COCO file of four images with a bright square."""
    content = {"images": [], "categories": [{"id": 3, "name": "square"}], "annotations": []}
    for n in range(1, 5):
        pixels = np.full((32, 32, 3), 40, np.uint8)
        pixels[4:16, 4 : 12 + n] = 220
        (root / images).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / images / f"{n}.png")
        content["images"].append({"id": n, "file_name": f"{n}.png", "height": 32, "width": 32})
        corners = [4, 4, 12 + n, 4, 12 + n, 16, 4, 16]
        row = {"image_id": n, "category_id": 3, "segmentation": [corners]}
        content["annotations"] += [row | {"id": len(content["annotations"]) + k} for k in range(objects)]
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


def test_a_named_coco_file_trains_is_scored_and_names_the_images_of_predictions(tmp_path, capsys):
    root, out = coco(tmp_path, "labels.json", "photos"), tmp_path / "run"
    named = ["--annotations", root / "labels.json", "--images", root / "photos"]
    code, printed = seglib("train", "mask_rcnn_tiny", *named, "--out", out, *SHORT, capsys=capsys)
    assert code == 2 and "pass --val-annotations FILE, or --val-share 0.2" in printed.err
    assert seglib("train", "mask_rcnn_tiny", *named, "--val-share", 0.25, "--out", out, *SHORT)[0] == 0
    weights = ["--weights", out / "weights.safetensors"]
    capsys.readouterr()
    code, printed = seglib("eval", *weights, *named, "--out", tmp_path / "found", "--json", capsys=capsys)
    assert code == 0 and json.loads(printed.out)["images"] == 4 and (tmp_path / "found" / "instances.json").exists()
    assert "3 of 4 images that are scored are among those trained on" in printed.err
    assert "--val-share 0.25 scores what training held out" in printed.err
    code, printed = seglib("eval", *weights, *named, "--val-share", 0.25, "--json", capsys=capsys)
    assert code == 0 and json.loads(printed.out)["images"] == 1 and "warning" not in printed.err
    code, printed = seglib("eval", *weights, *named, "--split", "val", capsys=capsys)
    assert code == 2 and "--split has no use" in printed.err and "--val-share 0.2 scores only" in printed.err
    code, printed = seglib("eval", *weights, *named, "--split", "test", "--val-share", 0.25, capsys=capsys)
    assert code == 2 and "labels.json has no test; pass --split val" in printed.err
    wanted = ["--json", "--score", 0, "--ids", root / "labels.json"]
    code, printed = seglib("predict", root / "photos", *weights, *wanted, capsys=capsys)
    found = json.loads(printed.out)
    assert code == 0 and all(e["file_name"] == f"{e['image_id']}.png" and e["category_id"] == 3 for e in found)


def test_cvats_export_trains_with_a_share_and_bad_entries_are_left_out_on_request(tmp_path, capsys):
    root = coco(tmp_path)
    file = root / "annotations" / "instances_default.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    file.write_text(json.dumps(content))
    arguments = ["--data", "coco", "--root", root, "--val-share", 0.25, "--out", root / "run", *SHORT]
    code, printed = seglib("train", "mask_rcnn_tiny", *arguments, capsys=capsys)
    assert code == 2 and "a polygon has 3 numbers" in printed.err and "--skip-bad" in printed.err
    code, printed = seglib("train", "mask_rcnn_tiny", *arguments, "--skip-bad", capsys=capsys)
    assert code == 0 and "left out 1: annotation 0: a polygon has 3 numbers" in printed.err
    again = ["--weights", root / "run", "--data", "coco", "--root", root, "--split", "val", "--skip-bad"]
    code, printed = seglib("eval", *again, capsys=capsys)
    assert code == 0 and "warning: left out 1: annotation 0: a polygon has 3 numbers" in printed.err
    code, printed = seglib("eval", *again[:-3], capsys=capsys)
    assert code == 2 and "has no test; pass --split val" in printed.err


def test_the_limit_of_objects_is_raised_in_training_scoring_and_predicting(tmp_path, capsys):
    root, out = coco(tmp_path, objects=120), tmp_path / "run"
    arguments = ["--data", "coco", "--root", root, "--val-share", 0.25, "--out", out, *SHORT]
    code, printed = seglib("train", "mask_rcnn_tiny", *arguments, "--max-detections", 120, capsys=capsys)
    assert code == 0 and "--max-detections" not in printed.err
    metadata = read_metadata(out / "weights.safetensors")
    assert metadata["task_arguments"] == {"max_detections": 120}
    assert load_model(out / "weights.safetensors").detections.max_detections == 100  # the command line raises it
    from seglib.commands.stored import load

    net, task, _ = load(out / "weights.safetensors", "cpu", None)
    assert net.detections.max_detections == 120 and net.rpn.post_nms_top_k_test == 240
    assert task.evaluator().metric.limits == (1, 10, 120)
    code, printed = seglib("train", "fcn_tiny", "--max-detections", 120, "--out", tmp_path / "b", capsys=capsys)
    assert code == 2 and "--max-detections has no use" in printed.err


@pytest.mark.parametrize(("option", "value"), [("--val-share", 0.2), ("--rescale", "percentile")])
def test_options_of_own_files_are_refused_where_they_do_nothing(tmp_path, capsys, option, value):
    code, printed = seglib("train", "unet_tiny", "--out", tmp_path, option, value, capsys=capsys)
    assert code == 2 and f"{option} has no use: it is for folder and coco" in printed.err
    code, printed = seglib("train", "unet3d_tiny", "--out", tmp_path, option, value, capsys=capsys)
    assert code == 2 and f"{option} has no use: it is for images" in printed.err


def different(root, *splits):
    """Give every image of the splits a content of its own."""
    for n, path in enumerate(sorted(p for split in splits for p in (root / split / "images").iterdir())):
        pixels = np.array(Image.open(path))
        pixels[-1] = n
        Image.fromarray(pixels).save(path)
    return root


def test_images_that_were_trained_on_are_counted_where_they_are_scored(tmp_path, capsys):
    root = different(folder(tmp_path, splits=("train",), count=6), "train")
    code, err = train(root, "--val-share", 0.2, capsys=capsys)
    assert code == 0 and "trained on" not in err
    again = ["eval", "--weights", root / "run", "--data", "folder", "--root", root, "--split", "val"]
    code, printed = seglib(*again, capsys=capsys)
    assert code == 0 and "warning" not in printed.err
    code, printed = seglib(*again, "--val-share", 0.5, capsys=capsys)
    assert code == 0 and "warning: 2 of 3 images that are scored are among those trained on" in printed.err
    assert printed.err.rstrip().endswith("--val-share 0.2 scores what training held out")


def test_the_same_images_to_train_and_to_score_on_are_warned_of(tmp_path, capsys):
    file = coco(tmp_path, "labels.json") / "labels.json"
    both = ["--annotations", file, "--val-annotations", file, "--images", tmp_path / "images"]
    code, printed = seglib("train", "mask_rcnn_tiny", *both, "--out", tmp_path / "run", *SHORT, capsys=capsys)
    assert code == 0 and "warning: 4 of 4 images that are scored are among those trained on" in printed.err


def test_file_ids_other_than_those_of_training_are_named(tmp_path, capsys):
    def table(*ids):
        return [{"name": n, "ids": [i]} for n, i in zip(TABLE, ids, strict=True)]

    root = folder(tmp_path, table=table(100, 200), make_labels=lambda labels: 100 + 100 * labels)
    train(root)
    (root / "categories.json").write_text(json.dumps(table(200, 100)))
    capsys.readouterr()
    again = ["eval", "--weights", root / "run", "--data", "folder", "--root", root]
    code, printed = seglib(*again, "--split", "val", capsys=capsys)
    assert code == 0 and "'background' is 200 and was 100, 'crack' is 100 and was 200" in printed.err
    code, printed = seglib(*again, capsys=capsys)
    assert code == 2 and "has no folder test" in printed.err and "or pass --split val" in printed.err


def test_eval_without_data_says_what_it_read_and_what_the_model_was_trained_on(tmp_path, capsys):
    root = folder(tmp_path)
    train(root)
    capsys.readouterr()
    code, printed = seglib("eval", "--weights", root / "run", "--root", root, capsys=capsys)
    assert code == 2 and "--data was not given, so scenes was read" in printed.err
    assert "the weights were trained on folder" in printed.err and "pass --data folder" in printed.err
