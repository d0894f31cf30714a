"""Panoptic models on the command line: trained on a COCO folder, evaluated, and their results in COCO's format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import seglib

from seglib.data.catalog import build_dataset
from seglib.data.class_tables import match_categories
from seglib.data.coco_panoptic import write_coco_panoptic
from seglib.data.coco_predictions import write_coco_predictions
from seglib.data.collate import collate
from seglib.metrics.coco_panoptic import evaluate_coco_panoptic
from seglib.models.zoo import build
from seglib.ops.panoptic import rgb_to_ids
from seglib.types import Category, Panoptic, Sample, Segment
from seglib.weights import read_metadata, save_weights

NAMES = {3: "dark", 7: "bright", 2: "wall", 9: "floor"}  # COCO's ids: things 3 and 7, stuff 2 and 9
CATEGORIES = tuple(
    Category(i, name, i < 2, color)
    for i, (name, color) in enumerate(
        zip(NAMES.values(), ((230, 159, 0), (86, 180, 233), (0, 158, 115), (0, 114, 178)), strict=True)
    )
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder in COCO's layout, 64 × 64: a dark and a bright square before a reddish wall on a bluish floor."""
    root, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        (root / f"{split}2017").mkdir()
        maps = []
        for i in range(1, count + 1):
            horizon = int(rng.integers(24, 40))
            ids = np.where(np.arange(64)[:, None] < horizon, 1, 2) + np.zeros((64, 64), np.int32)
            for n in (3, 4):
                x, y = int(rng.integers(2, 8)) + 30 * (n - 3), int(rng.integers(2, 38))
                ids[y : y + 20, x : x + 20] = n
            colors = np.array([[0, 0, 0], [170, 90, 90], [90, 90, 170], [20, 20, 20], [235, 235, 235]])
            pixels = colors[ids] + rng.integers(-15, 15, (64, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{split}2017" / f"{i:012}.png")
            areas = np.bincount(ids.ravel(), minlength=5).tolist()
            classes = {1: 2, 2: 3, 3: 0, 4: 1}
            segments = [Segment(n, k, k < 2, areas[n]) for n, k in classes.items()]
            maps.append(Panoptic(torch.from_numpy(ids.astype(np.int32)), segments))
        numbers = range(1, count + 1)
        where = root / "annotations" / f"panoptic_{split}2017"
        names = [f"{i:012}.png" for i in numbers]
        write_coco_panoptic(
            where.with_suffix(".json"), where, maps, numbers, tuple(NAMES), categories=CATEGORIES, file_names=names
        )
    return root


def train(data, out, *more):
    given = ["--out", out, "--size", "64x64", "--batch-size", 4, "--json", *more]
    code, _ = seglib("train", "panoptic_fpn_tiny", "--data", *data, *given)
    assert code == 0
    return out / "weights.safetensors"


@pytest.fixture(scope="module")
def run(coco, tmp_path_factory):
    return train(["coco", "--root", coco], tmp_path_factory.mktemp("runs") / "a", "--steps", 40, "--lr", 4e-3)


def scores_of_files(coco, json_path, pngs):
    """What the official rules say of written predictions for the val split."""
    truth = coco / "annotations" / "panoptic_val2017"
    return evaluate_coco_panoptic(truth.with_suffix(".json"), truth, json_path, pngs)


@pytest.mark.slow
def test_training_learns_and_the_files_of_the_evaluation_have_the_scores_that_it_prints(coco, run, tmp_path, capsys):
    metadata = read_metadata(run)
    assert metadata["arguments"] == {"num_things": 2, "num_stuff": 2} and metadata["file_ids"] == [3, 7, 2, 9]
    assert {"pq", "pq_things", "class_pq"} <= json.loads((run.parent / "result.json").read_text()).keys()
    data, out = ["--data", "coco", "--root", coco, "--split", "val"], tmp_path / "new" / "found"
    code, printed = seglib("eval", "--weights", run, *data, "--out", out, "--json", capsys=capsys)
    assert code == 0, printed.err
    scores = json.loads(printed.out)
    assert scores["pq"] > 0.5 and scores["images"] == 4 and scores["out"] == str(out)
    assert sorted(p.name for p in out.parent.rglob("*")) == [
        *(f"{i:012}.png" for i in (1, 2, 3, 4)), "found", "panoptic", "panoptic.json"
    ]  # fmt: skip
    found = scores_of_files(coco, out / "panoptic.json", out / "panoptic")
    assert (found.pq, found.things.pq, found.stuff.rq) == (scores["pq"], scores["pq_things"], scores["rq_stuff"])


@pytest.mark.slow
def test_photos_become_pngs_and_a_file_of_results(coco, run, tmp_path, capsys):
    truth = coco / "annotations" / "panoptic_val2017.json"
    wanted = ["--labels", tmp_path / "pngs", "--out", tmp_path / "overlays", "--json", "--ids", truth]
    code, printed = seglib("predict", coco / "val2017", "--weights", run, *wanted, capsys=capsys)
    assert code == 0, printed.err
    (tmp_path / "results.json").write_text(printed.out)
    assert scores_of_files(coco, tmp_path / "results.json", tmp_path / "pngs").pq > 0.5
    first = json.loads(printed.out)["annotations"][0]
    assert (first["image_id"], first["file_name"], first["height"]) == (1, "000000000001.png", 64)
    ids = rgb_to_ids(torch.from_numpy(np.array(Image.open(tmp_path / "pngs" / first["file_name"]))))  # (64, 64)
    for segment in first["segments_info"]:
        assert NAMES[segment["category_id"]] == segment["category"]
        assert segment["isthing"] == (segment["category_id"] in (3, 7)) == ("score" in segment)
        y, x = (ids == segment["id"]).nonzero().unbind(1)
        assert segment["area"] == len(x)
        assert segment["bbox"] == [int(x.min()), int(y.min()), int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1]
    assert set(ids.unique().tolist()) <= {0, *(s["id"] for s in first["segments_info"])}
    overlay = np.asarray(Image.open(tmp_path / "overlays" / first["file_name"]))
    assert overlay.shape == (64, 64, 3)


@pytest.mark.slow
def test_without_a_png_and_ids_json_names_the_photo_alone(coco, run, capsys):
    photo = coco / "val2017" / "000000000002.png"
    code, printed = seglib("predict", photo, "--weights", run, "--json", capsys=capsys)
    (entry,) = json.loads(printed.out)["annotations"]
    assert code == 0 and set(entry) == {"photo", "height", "width", "segments_info"} and entry["photo"] == str(photo)


@pytest.mark.slow
def test_things_below_the_lowest_score_are_not_merged(coco, run, capsys):
    photo = coco / "val2017" / "000000000001.png"

    def scores(*more):
        code, printed = seglib("predict", photo, "--weights", run, "--json", *more, capsys=capsys)
        assert code == 0
        (entry,) = json.loads(printed.out)["annotations"]
        assert {s["category"] for s in entry["segments_info"]} >= {"wall", "floor"}
        return [s["score"] for s in entry["segments_info"] if s["isthing"]]

    first, *others = scores()
    assert others and first > others[0] >= 0.5
    assert scores("--score", first) == [first] and scores("--score", 1) == []


@pytest.mark.slow
def test_maps_have_the_size_of_the_photo_whatever_the_model_saw(coco, run, tmp_path, capsys):
    Image.open(coco / "val2017" / "000000000001.png").resize((256, 128)).save(tmp_path / "large.png")
    wanted = ["--labels", tmp_path / "l.png", "--json", "--short-side", 64]
    code, printed = seglib("predict", tmp_path / "large.png", "--weights", run, *wanted, capsys=capsys)
    (entry,) = json.loads(printed.out)["annotations"]
    assert code == 0 and entry["file_name"] == "l.png" and (entry["height"], entry["width"]) == (128, 256)
    assert np.asarray(Image.open(tmp_path / "l.png")).shape == (128, 256, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{photo}", "--weights", "{run}", "--json", "--flip"], "--flip are for semantic models"),
        (["predict", "{photo}", "--weights", "{run}", "--json", "--ids", "{others}"], "none of the images of the file"),
        (["predict", "{photo}", "--weights", "{short}", "--json"], "which is not in 0..1"),
        (["predict", "{photo}", "--weights", "{run}", "--out", "o.png", "--labels", "o.png"], "would both write o.png"),
        (["predict", "{truth}", "--weights", "{run}", "--labels", "l.png"], "is not an image that Pillow can read"),
        (["eval", "--weights", "{run}", "--data", "coco", "--root", "{root}"], "choose train or val"),
        (["eval", "--weights", "{run}", "--data", "scenes"], "class 'house' of this data is not among those to"),
        (["eval", "--weights", "{run}", "--data", "camvid", "--root", "{root}"], "has no panoptic annotations"),
        (["train", "panoptic_fpn_tiny", "--data", "scenes", "--loss", "dice"], "has losses of its own"),
        (["train", "panoptic_fpn_tiny", "--data", "scenes", "--task", "instance"], "serves panoptic, not 'instance'"),
        (["train", "panoptic_fpn_tiny", "--data", "dsb2018", "--root", "{root}"], "has no panoptic annotations"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_mistakes_get_one_line_and_leave_nothing_behind(coco, run, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others.json").write_text(json.dumps({"images": [{"id": 5, "file_name": "x.jpg"}]}))
    net = build("panoptic_fpn_tiny", num_things=2, num_stuff=2)
    save_weights(net, tmp_path / "short.safetensors", read_metadata(run) | {"file_ids": [3, 7]})
    before = sorted(tmp_path.rglob("*"))
    names = {"photo": coco / "val2017" / "000000000001.png", "truth": coco / "annotations" / "panoptic_val2017.json"}
    names |= {"run": run, "root": coco, "others": "others.json", "short": "short.safetensors"}
    code, printed = seglib(*(a.format(**names) for a in arguments), capsys=capsys)
    assert code == 2
    assert message in printed.err and printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_an_evaluation_refuses_places_for_its_predictions_before_it_begins(coco, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("seglib.train.evaluate", lambda *_, **__: pytest.fail("it began"))
    data = ["--weights", run, "--data", "coco", "--root", coco, "--split", "val"]
    (tmp_path / "file").write_text("")
    (tmp_path / "done" / "panoptic").mkdir(parents=True)
    for out, message in (("file", "file is a file"), ("done", "done/panoptic exists already; remove it")):
        code, printed = seglib("eval", *data, "--out", tmp_path / out, capsys=capsys)
        assert code == 2 and message in printed.err and printed.err.count("\n") == 1


@pytest.mark.slow
def test_an_evaluation_that_fails_leaves_no_predictions(coco, run, tmp_path, capsys):
    root = shutil.copytree(coco, tmp_path / "data")
    last = root / "annotations" / "panoptic_val2017" / "000000000004.png"
    last.write_bytes(last.read_bytes()[:100])
    data = ["--weights", run, "--data", "coco", "--root", root, "--split", "val", "--batch-size", 1]
    code, printed = seglib("eval", *data, "--out", tmp_path / "out", capsys=capsys)
    assert code == 2 and "000000000004.png" in printed.err and printed.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_data_set_with_other_ids_for_the_same_names_gets_its_own(coco, tmp_path):
    """The model's table has the classes in another order, and one more."""
    data = build_dataset("coco", coco, "val", keep=("panoptic",))
    dark, bright, wall, floor = CATEGORIES
    car = Category(0, "car", True, (0, 0, 0))
    table = (car, replace(bright, id=1), replace(dark, id=2), replace(floor, id=3), replace(wall, id=4))
    matched = match_categories(data, table, "panoptic")
    assert matched.file_ids == (None, 7, 3, 9, 2)
    with write_coco_predictions(tmp_path / "out", Panoptic, matched.file_ids) as write:
        for i in range(len(matched)):
            batch = collate([matched[i]])
            write(batch.targets.panoptic, batch)
    assert scores_of_files(coco, tmp_path / "out" / "panoptic.json", tmp_path / "out" / "panoptic").pq == 1


def test_a_class_that_the_data_set_lacks_becomes_void(tmp_path):
    found = Panoptic(torch.tensor([[1, 2]], dtype=torch.int32), [Segment(1, 0, True, 1, 0.9), Segment(2, 1, False, 1)])
    batch = collate([Sample(torch.zeros(3, 1, 2), "a/b")])
    with write_coco_predictions(tmp_path / "out", Panoptic, (None, 5)) as write:
        write([found], batch)
    (entry,) = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    assert [s["category_id"] for s in entry["segments_info"]] == [5]
    pixels = np.asarray(Image.open(tmp_path / "out" / "panoptic" / entry["file_name"]))
    assert pixels.tolist() == [[[0, 0, 0], [2, 0, 0]]]


def test_ids_of_samples_are_numbers_where_they_are_numbers_and_stand_once(tmp_path):
    nothing = Panoptic(torch.zeros(1, 1, dtype=torch.int32))
    batch = collate([Sample(torch.zeros(3, 1, 1), name) for name in ("7", "007", "val-1-0")])
    with write_coco_predictions(tmp_path / "out", Panoptic, (1,)) as write:
        write([nothing] * 3, batch)
    entries = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    names = [(e["image_id"], e["file_name"]) for e in entries]
    assert names == [(7, "000000000007.png"), ("007", "007.png"), ("val-1-0", "val-1-0.png")]
    with (
        pytest.raises(ValueError, match="two samples have the id '7'"),
        write_coco_predictions(tmp_path / "again", Panoptic, (1,)) as write,
    ):
        write([nothing] * 3, batch)
        write([nothing] * 3, batch)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_scenes_train_resume_and_are_scored_under_their_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("seglib.data.catalog.SCENES_LENGTH", {"train": 4, "val": 2, "test": 2})
    weights = train(["scenes"], tmp_path / "r", "--steps", 2)
    assert read_metadata(weights)["file_ids"] == list(range(12))
    train(["scenes"], tmp_path / "r", "--steps", 2, "--resume")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "r")
    code, printed = seglib("eval", "--weights", weights, "--out", ".", "--json", capsys=capsys)
    assert code == 0 and 0 <= json.loads(printed.out)["pq"] <= 1
    entries = json.loads((tmp_path / "r" / "panoptic.json").read_text())["annotations"]
    assert [e["image_id"] for e in entries] == ["test-2-0", "test-2-1"]


MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-panoptic-mini" / "coco"


@pytest.mark.slow
@pytest.mark.skipif(not MINI.exists(), reason="coco-panoptic-mini (../shared/data) is not here")
def test_photos_of_coco_train_and_are_scored_from_the_command_line(tmp_path, capsys):
    """Two of each split, to be quick."""
    root = tmp_path / "coco"
    for split in ("train", "val"):
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        name = f"panoptic_{split}2017"
        content = json.loads((MINI / "annotations" / f"{name}.json").read_text())
        content["images"] = sorted(content["images"], key=lambda row: row["id"])[:2]
        kept = {row["id"] for row in content["images"]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
        (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
        (root / "annotations" / name).symlink_to(MINI / "annotations" / name)
        (root / f"{split}2017").symlink_to(MINI / f"{split}2017")
    weights = train(["coco", "--root", root], tmp_path / "r", "--steps", 2)
    capsys.readouterr()
    metadata = read_metadata(weights)
    assert metadata["arguments"] == {"num_things": 80, "num_stuff": 53} and metadata["file_ids"][79:81] == [90, 92]
    data = ["--data", "coco", "--root", root, "--split", "val", "--size", "96x96"]
    code, printed = seglib("eval", "--weights", weights, *data, "--out", tmp_path / "e", "--json", capsys=capsys)
    assert code == 0, printed.err
    found = scores_of_files(root, tmp_path / "e" / "panoptic.json", tmp_path / "e" / "panoptic")
    assert found.pq == json.loads(printed.out)["pq"]
    entries = json.loads((tmp_path / "e" / "panoptic.json").read_text())["annotations"]
    assert [(e["image_id"], e["file_name"]) for e in entries] == [(139, "000000000139.png"), (632, "000000000632.png")]
    assert (found.tp + found.fp).sum() <= sum(len(e["segments_info"]) for e in entries)
