"""One Mask2Former for three tasks on the command line: trained for each, and one file of weights used for all."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_cli import seglib
from test_stored_weights import WEIGHTS

from seglib.data.catalog import build_dataset
from seglib.data.scenes import CATEGORIES
from seglib.models.zoo import build
from seglib.train import TASKS, evaluate
from seglib.weights import load_model, read_metadata, save_weights

ARGUMENTS = {
    "panoptic": {"num_classes": 12, "num_things": 7, "task": "panoptic"},
    "instance": {"num_classes": 7, "task": "instance"},
    "semantic": {"num_classes": 12, "task": "semantic"},
}
SCORES = {"panoptic": "pq", "instance": "ap", "semantic": "miou"}
STORED = WEIGHTS / "mask2former_tiny.safetensors"


@pytest.fixture(autouse=True, scope="module")
def few_scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seglib.data.catalog.SCENES_LENGTH", {"train": 6, "val": 2, "test": 2})
        yield


def train(task, out, *more):
    given = ["--size", "64x64", "--batch-size", 2, "--steps", 3, "--out", out, "--json"]
    return seglib("train", "mask2former_tiny", "--task", task, *given, *more)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of random weights for each task, and one of a Panoptic FPN, "other"."""
    root = tmp_path_factory.mktemp("weights")
    models = {task: ("mask2former_tiny", arguments) for task, arguments in ARGUMENTS.items()}
    models["other"] = "panoptic_fpn_tiny", {"num_things": 7, "num_stuff": 5}
    for name, (model, arguments) in models.items():
        torch.manual_seed(0)
        table = CATEGORIES[: arguments.get("num_classes", 12)]
        facts = {"model": model, "arguments": arguments, "task": "panoptic" if name == "other" else name}
        facts |= {"categories": [asdict(c) for c in table], "file_ids": [c.id for c in table]}
        save_weights(build(model, **arguments), root / f"{name}.safetensors", facts)
    return {name: root / f"{name}.safetensors" for name in models}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos of 48 × 80."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (48, 80, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_a_run_for_each_task_trains_and_an_interrupted_one_ends_the_same(task, tmp_path, monkeypatch):
    assert train(task, tmp_path / "whole") == 0
    metadata = read_metadata(tmp_path / "whole" / "weights.safetensors")
    assert metadata["arguments"] == ARGUMENTS[task] and metadata["task"] == task
    assert [c["id"] for c in metadata["categories"]] == metadata["file_ids"] == list(range(len(metadata["file_ids"])))
    assert len(metadata["file_ids"]) == ARGUMENTS[task]["num_classes"] and "loss" not in metadata
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert 0 <= result[SCORES[task]] <= 1 and result["final_loss"] > 0

    told = iter([False, True])  # to stop after the second step
    monkeypatch.setattr("seglib.train.loop.all_told", lambda *_: next(told, False))
    assert train(task, tmp_path / "r") == 130
    assert train(task, tmp_path / "r", "--resume") == 0
    again = json.loads((tmp_path / "r" / "result.json").read_text())
    assert again["final_loss"] == result["final_loss"] and again[SCORES[task]] == result[SCORES[task]]
    before, after = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "r"))
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_the_books_weights_are_scored_for_every_task(task, tmp_path, capsys):
    """They were trained for panoptic segmentation. On two scenes PQ is .68, AP .38, mIoU .79."""
    written = [] if task == "semantic" else ["--out", tmp_path]
    code, printed = seglib("eval", "--weights", STORED, "--task", task, "--json", *written, capsys=capsys)
    assert code == 0, printed.err
    net = load_model(STORED)
    net.task = task
    data = build_dataset("scenes", None, "test", keep=(TASKS[task].needs,))
    want = evaluate(net, data, TASKS[task](data.categories), batch_size=2)[SCORES[task]]
    assert json.loads(printed.out)[SCORES[task]] == want > 0.3
    files = {"panoptic": ["panoptic", "panoptic.json"], "instance": ["instances.json"], "semantic": []}
    assert sorted(p.name for p in tmp_path.iterdir()) == files[task]


def predict(photos, weights, *more, capsys):
    code, printed = seglib("predict", photos, "--weights", weights, "--json", *more, capsys=capsys)
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_photos_become_the_files_of_the_task_that_is_asked_for(files, photos, tmp_path, capsys):
    def found(task, *more):
        folder = tmp_path / task
        return predict(photos, files["panoptic"], "--task", task, "--labels", folder, *more, capsys=capsys)

    shares = found("semantic")
    labels = np.asarray(Image.open(tmp_path / "semantic" / "0.png"))
    assert labels.shape == (48, 80) and labels.max() < 12
    table = read_metadata(files["panoptic"])["categories"]
    assert shares[0]["share"] == {c["name"]: round(float((labels == c["id"]).mean()), 4) for c in table}

    objects = found("instance", "--score", 0)
    assert {entry["file_name"] for entry in objects} == {"0.png", "1.png"}
    assert all(entry["segmentation"]["size"] == [48, 80] and entry["category_id"] < 7 for entry in objects)
    assert np.asarray(Image.open(tmp_path / "instance" / "0.png")).max() > 0

    maps = found("panoptic", "--score", 0)["annotations"]
    pixels = np.asarray(Image.open(tmp_path / "panoptic" / "0.png")).astype(int) @ [1, 256, 65536]  # (48, 80)
    assert set(np.unique(pixels)) - {0} == {segment["id"] for segment in maps[0]["segments_info"]} != set()
    assert found("panoptic", "--score", 1)["annotations"][0]["segments_info"] == []


def test_without_a_task_weights_do_what_they_were_trained_for(files, photos, capsys):
    photo = photos / "0.png"
    assert "annotations" in predict(photo, files["panoptic"], capsys=capsys)
    assert "segmentation" in predict(photo, files["instance"], "--score", 0, capsys=capsys)[0]
    own = predict(photo, files["semantic"], "--flip", "--scales", "0.5,1", capsys=capsys)
    assert own[0]["share"] == predict(
        photo, files["semantic"], "--task", "semantic", "--flip", "--scales", "0.5,1", capsys=capsys
    )[0]["share"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["eval", "--weights", "{semantic}", "--task", "panoptic"],
            "trained for semantic and serves semantic, not panoptic",
        ),
        (
            ["eval", "--weights", "{instance}", "--task", "semantic"],
            "trained for instance and serves instance, not semantic",
        ),
        (["eval", "--weights", "{panoptic}", "--task", "regions"], "serves semantic, instance, panoptic, not regions"),
        (["eval", "--weights", "{other}", "--task", "instance"], "other.safetensors serves panoptic, not 'instance'"),
        (["eval", "--weights", "{panoptic}", "--task", "semantic", "--out", "o"], "not for Semantic"),
        (
            ["predict", "{photo}", "--weights", "{other}", "--task", "semantic", "--json"],
            "serves panoptic, not 'semantic'",
        ),
        (["predict", "{photo}", "--weights", "{panoptic}", "--json", "--flip"], "--flip are for semantic models"),
        (
            ["predict", "{photo}", "--weights", "{panoptic}", "--json", "--task", "semantic", "--score", "0.5"],
            "this one knows no single objects",
        ),
        (
            ["train", "mask2former_tiny", "--task", "regions"],
            "serves panoptic and instance and semantic, not 'regions'",
        ),
        (
            ["train", "mask2former_tiny", "--task", "semantic", "--loss", "dice", "--steps", "1"],
            "mask2former_tiny has losses of its own",
        ),
        (
            ["train", "mask2former_tiny", "--task", "semantic", "--weights", "{panoptic}"],
            "are for panoptic; pass --task",
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_mistakes_get_one_line_and_leave_nothing_behind(
    files, photos, tmp_path, arguments, message, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = files | {"photo": photos / "0.png"}
    code, printed = seglib(*(a.format(**names) for a in arguments), capsys=capsys)
    assert code == 2
    assert message in printed.err and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
