"""Instance models on the command line: trained on a COCO folder, evaluated, and their results as COCO JSON."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import seglib

from seglib.metrics import evaluate_coco
from seglib.weights import read_metadata


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder in COCO's layout: bright squares (category 7) and dark ones (category 3) on grey, 64 × 64."""
    root = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split, count in (("train", 12), ("val", 4)):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for i in range(1, count + 1):
            pixels = np.full((64, 64, 3), 120) + rng.integers(-15, 15, (64, 64, 3))
            for column, (category, level) in enumerate(((3, 20), (7, 230))):
                x, y = int(rng.integers(2, 8)) + 30 * column, int(rng.integers(2, 38))
                pixels[y : y + 20, x : x + 20] = level
                corners = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0,
                        "area": 400, "bbox": [x, y, 20, 20], "segmentation": [corners],
                    }
                )  # fmt: skip
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{split}2017" / f"{i:012}.png")
            images.append({"id": i, "file_name": f"{i:012}.png", "height": 64, "width": 64})
        categories = [{"id": 3, "name": "dark"}, {"id": 7, "name": "bright"}]
        content = {"images": images, "categories": categories, "annotations": annotations}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def train(model, coco, out):
    data = ["--data", "coco", "--root", coco, "--size", "64x64"]
    code, _ = seglib("train", model, *data, "--out", out, "--steps", STEPS[model], "--batch-size", 4, "--json")
    assert code == 0
    return out / "weights.safetensors"


STEPS = {"mask_rcnn_tiny": 60, "yolact_tiny": 80, "condinst_tiny": 80, "solov2_tiny": 120}


@pytest.fixture(scope="module")
def run(coco, tmp_path_factory):
    return train("mask_rcnn_tiny", coco, tmp_path_factory.mktemp("runs") / "a")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in STEPS if name != "mask_rcnn_tiny"]


@pytest.fixture(scope="module", params=["mask_rcnn_tiny", *SLOW])
def of_every_model(request, coco, run, tmp_path_factory):
    if request.param == "mask_rcnn_tiny":
        return run
    return train(request.param, coco, tmp_path_factory.mktemp("runs") / request.param)


def test_training_learns_and_results_score_as_the_evaluation_says(coco, of_every_model, tmp_path, capsys):
    metadata = read_metadata(of_every_model)
    assert metadata["arguments"] == {"num_classes": 2} and metadata["file_ids"] == [3, 7]
    data = ["--data", "coco", "--root", coco, "--split", "val"]
    more = ["--json", "--size", "64x64", "--out", tmp_path]
    code, printed = seglib("eval", "--weights", of_every_model, *data, *more, capsys=capsys)
    scores = json.loads(printed.out)
    assert code == 0 and scores["ap50"] > 0.5  # two squares of opposite brightness are easy
    truth = coco / "annotations" / "instances_val2017.json"
    assert evaluate_coco(truth, tmp_path / "instances.json").ap == scores["ap"]
    wanted = ["--json", "--score", 0, "--ids", truth]
    code, printed = seglib("predict", coco / "val2017", "--weights", of_every_model, *wanted, capsys=capsys)
    assert code == 0
    (tmp_path / "results.json").write_text(printed.out)
    found = evaluate_coco(truth, tmp_path / "results.json")
    assert found.ap == pytest.approx(scores["ap"], abs=1e-3)  # JSON's 8-bit pictures are the same pictures


def test_a_photo_becomes_an_overlay_a_map_of_objects_and_results(coco, of_every_model, tmp_path, capsys):
    photo = coco / "val2017" / "000000000001.png"
    wanted = ["--out", tmp_path / "o.png", "--labels", tmp_path / "l.png", "--json", "--score", 0.3]
    code, printed = seglib("predict", photo, "--weights", of_every_model, *wanted, capsys=capsys)
    found = json.loads(printed.out)
    assert code == 0 and found
    assert {entry["file_name"] for entry in found} == {"000000000001.png"}
    assert not any("image_id" in entry for entry in found)  # a file's name is no id
    assert all(entry["category_id"] == {"dark": 3, "bright": 7}[entry["category"]] for entry in found)
    assert all(entry["score"] >= 0.3 and entry["segmentation"]["size"] == [64, 64] for entry in found)
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (64, 64, 3)
    objects = np.asarray(Image.open(tmp_path / "l.png"))
    assert objects.shape == (64, 64) and 1 in objects and objects.max() <= len(found)


def test_results_have_the_size_of_the_photo_whatever_the_model_saw(coco, of_every_model, tmp_path, capsys):
    photo = tmp_path / "large.png"
    Image.open(coco / "val2017" / "000000000001.png").resize((256, 128)).save(photo)
    wanted = ["--json", "--short-side", 64, "--score", 0]
    code, printed = seglib("predict", photo, "--weights", of_every_model, *wanted, capsys=capsys)
    assert code == 0, printed.err
    for entry in json.loads(printed.out):
        assert entry["segmentation"]["size"] == [128, 256]
        x, y, width, height = entry["bbox"]
        assert x + width <= 256.01 and y + height <= 128.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{photo}", "--weights", "{run}", "--json", "--flip"], "--flip are for semantic models"),
        (["predict", "{photo}", "--weights", "{run}", "--json", "--tile", "64"], "--tile, --scales and --flip"),
        (["train", "mask_rcnn_tiny", "--data", "scenes", "--loss", "dice"], "mask_rcnn_tiny has losses of its own"),
        (["train", "mask_rcnn_tiny", "--data", "camvid", "--root", "{root}"], "instances"),
        (["train", "mask_rcnn_tiny", "--encoder", "{run}x"], "does not exist"),
        (["eval", "--weights", "{run}", "--data", "scenes"], "class 'house' of this data is not among those to"),
    ],
)
def test_mistakes_get_one_line(coco, run, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = coco / "val2017" / "000000000001.png"
    given = [a.format(photo=photo, run=run, root=coco) for a in arguments]
    code, printed = seglib(*given, capsys=capsys)
    assert code == 2
    assert message in printed.err and printed.err.count("\n") == 1


def test_an_encoder_is_taken_over(coco, run, tmp_path, capsys):
    data = ["--data", "coco", "--root", coco, "--size", "64x64", "--steps", 1, "--batch-size", 1, "--lr", 1e-9]
    out = tmp_path / "b"
    code, _ = seglib("train", "mask_rcnn_tiny", *data, "--encoder", run, "--out", out, "--json", capsys=capsys)
    assert code == 0
    from safetensors.torch import load_file

    old, new = load_file(run), load_file(out / "weights.safetensors")
    kernels = [k for k in old if k.startswith("encoder.") and k.endswith("weight") and old[k].ndim == 4]
    assert kernels and all(abs(old[k] - new[k]).max() < 1e-6 for k in kernels)
    assert (old["box_head.logits.weight"] - new["box_head.logits.weight"]).abs().max() > 1e-3
