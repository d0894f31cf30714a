"""Promptable models on the command line: clicks and boxes about a photo, everything in it, training and evaluation."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import seglib

from seglib.data.images import read_image
from seglib.models.zoo import build
from seglib.ops.geometry import Geometry
from seglib.ops.rle import decode_rle
from seglib.postprocess.everything import Everything, EverythingSettings, segment_everything
from seglib.postprocess.prompt import Predictor
from seglib.types import Category, Instances
from seglib.viz.prompts import BACKGROUND, BOX, ON_OBJECT
from seglib.weights import load_model, read_metadata, save_weights

SIZE = (72, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a photo, ``a.png``: a bright square on a noisy dark ground."""
    root = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(30, 90, (*SIZE, 3))
    pixels[20:50, 30:60] += 150
    Image.fromarray(pixels.astype(np.uint8)).save(root / "a.png")
    return root


@pytest.fixture(scope="module")
def photo(folder):
    return folder / "a.png"


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """Weights of an untrained SAM, as a converted one is stored: without a class table."""
    torch.manual_seed(0)
    net = build("sam_tiny")
    path = tmp_path_factory.mktemp("weights") / "sam.safetensors"
    save_weights(net, path, {"model": "sam_tiny", "arguments": {}, "geometry": net.geometry.to_json()})
    return path


@pytest.fixture(scope="module")
def fcn(tmp_path_factory):
    """Weights of a model that takes no prompts."""
    path = tmp_path_factory.mktemp("weights") / "fcn.safetensors"
    table = [{"id": i, "name": name, "isthing": False, "color": [0, 0, i]} for i, name in enumerate(("a", "b"))]
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 2}, "categories": table}
    save_weights(build("fcn_tiny", num_classes=2), path, facts)
    return path


def answers(sam, photo, **prompts):
    """What the library says to the same prompt, masks (M, H, W) and predicted IoU (M,), the best first."""
    predictor = Predictor(load_model(sam))
    predictor.set_image((read_image(photo) * 255).round().to(torch.uint8))
    found = predictor.predict(**prompts)
    order = found.iou[0].argsort(descending=True)
    return found.masks[0, order], found.iou[0, order]


def predict(photo, sam, *arguments, capsys):
    """The entries that ``seglib predict … --json`` prints."""
    code, printed = seglib("predict", photo, "--weights", sam, *arguments, "--json", capsys=capsys)
    assert code == 0, printed.err
    return json.loads(printed.out)


def masks_of(entries):
    return decode_rle([entry["segmentation"] for entry in entries], SIZE)


def test_a_click_gives_the_best_of_three_masks(photo, sam, tmp_path, capsys):
    places = ["--out", tmp_path / "o.png", "--labels", tmp_path / "l.png"]
    (entry,) = predict(photo, sam, "--point", "45,35", *places, capsys=capsys)
    masks, iou = answers(sam, photo, points=[[45, 35]], several=True)
    assert torch.equal(masks_of([entry])[0], masks[0])
    assert entry["predicted_iou"] == pytest.approx(float(iou[0]))
    assert entry["area"] == int(masks[0].sum()) > 0
    assert entry["file_name"] == "a.png"
    assert (entry["point_coords"], entry["point_labels"]) == ([[45, 35]], [1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "l.png")), masks[0])
    overlay = np.asarray(Image.open(tmp_path / "o.png"))
    assert overlay.shape == (*SIZE, 3) and (overlay == ON_OBJECT).all(-1).any()


def test_further_clicks_are_about_the_same_object_and_have_one_answer(photo, sam, tmp_path, capsys):
    clicks = ["--point", "45,35", "--point", "50,40.5", "--background", "5,5", "--out", tmp_path / "o.png"]
    (entry,) = predict(photo, sam, *clicks, capsys=capsys)
    masks, _ = answers(sam, photo, points=[[45, 35], [50, 40.5], [5, 5]], labels=[1, 1, 0], several=False)
    assert torch.equal(masks_of([entry])[0], masks[0])
    assert entry["point_labels"] == [1, 1, 0]
    overlay = np.asarray(Image.open(tmp_path / "o.png"))
    assert (overlay == ON_OBJECT).all(-1).any() and (overlay == BACKGROUND).all(-1).any()


def test_a_box_and_a_click_ask_for_one_object(photo, sam, tmp_path, capsys):
    asked = ["--box", "30,20,60,50", "--background", "45,40"]
    (entry,) = predict(photo, sam, *asked, "--out", tmp_path / "o.png", capsys=capsys)
    masks, _ = answers(sam, photo, points=[[45, 40]], labels=[0], boxes=[30, 20, 60, 50], several=False)
    assert torch.equal(masks_of([entry])[0], masks[0])
    assert entry["box"] == [30, 20, 60, 50]
    assert (np.asarray(Image.open(tmp_path / "o.png")) == BOX).all(-1)[20, 30:61].all()


def test_each_box_is_an_object_of_its_own(photo, sam, tmp_path, capsys):
    boxes = [[30.0, 20.0, 60.0, 50.0], [0.0, 0.0, 20.0, 20.0]]
    asked = [word for box in boxes for word in ("--box", ",".join(map(str, box)))]
    entries = predict(photo, sam, *asked, "--labels", tmp_path / "l.png", capsys=capsys)
    assert [entry["box"] for entry in entries] == boxes
    masks = torch.stack([answers(sam, photo, boxes=box, several=False)[0][0] for box in boxes])
    assert torch.equal(masks_of(entries), masks)
    labels = torch.from_numpy(np.array(Image.open(tmp_path / "l.png")))
    assert torch.equal(labels == 2, masks[1]) and torch.equal(labels == 1, masks[0] & ~masks[1])


def test_several_answers_lie_side_by_side_the_best_first(photo, sam, tmp_path, capsys):
    entries = predict(photo, sam, "--point", "45,35", "--several", "--out", tmp_path / "o.png", capsys=capsys)
    masks, iou = answers(sam, photo, points=[[45, 35]], several=True)
    assert torch.equal(masks_of(entries), masks)
    assert [entry["predicted_iou"] for entry in entries] == pytest.approx(iou.tolist())
    predict(photo, sam, "--point", "45,35", "--out", tmp_path / "best.png", capsys=capsys)
    overlay, best = (np.asarray(Image.open(tmp_path / name)) for name in ("o.png", "best.png"))
    assert overlay.shape == (SIZE[0], 3 * SIZE[1] + 2, 3)
    assert np.array_equal(overlay[:, : SIZE[1]], best)


def test_without_json_the_answer_is_told_in_words(photo, sam, tmp_path, capsys):
    asked = ["--box", "30,20,60,50", "--box", "0,0,20,20", "--out", tmp_path / "o.png"]
    code, printed = seglib("predict", photo, "--weights", sam, *asked, capsys=capsys)
    assert code == 0
    first, second, last = printed.out.splitlines()
    assert first.startswith("object 1: ") and "predicted IoU" in first and second.startswith("object 2: ")
    assert last == f"1 photo → {tmp_path / 'o.png'}"


def everything(*boxes, crops):
    """What everything mode found: a rectangle in each box, the last stable to 0.96, with crops of their own."""
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    n, corners = len(boxes), torch.tensor(boxes).float()
    instances = Instances(masks, torch.zeros(n).long(), corners, torch.linspace(0.75, 0.5, n))
    return Everything(instances, corners[:, :2] + 2, torch.linspace(1, 0.96, n), torch.tensor(crops).float())


def test_everything_in_a_folder_of_photos(folder, sam, tmp_path, capsys, monkeypatch):
    photos = shutil.copytree(folder, tmp_path / "in")
    (photos / "b.jpg").write_text("no photo")
    found = everything((30, 10, 50, 20), (60, 40, 70, 70), crops=[[0, 0, 96, 72], [48, 36, 96, 72]])
    asked = []

    def segment(model, image, settings):
        asked.append((image, settings))
        return found

    monkeypatch.setattr("seglib.commands.prompts.segment_everything", segment)
    rules = ["--points-per-side", 7, "--iou", 0.5, "--stability", 0.6, "--crops", 1, "--min-area", 9]
    places = ["--out", tmp_path / "out", "--json"]
    code, printed = seglib("masks", photos, "--weights", sam, *rules, *places, capsys=capsys)
    assert code == 2 and "1 of 2 photos left out" in printed.err and "b.jpg" in printed.err
    first, second = json.loads(printed.out)
    assert torch.equal(masks_of([first, second]), found.instances.masks)
    del first["segmentation"], second["segmentation"]
    assert first == {
        "file_name": "a.png", "area": 200, "bbox": [30, 10, 20, 10], "predicted_iou": 0.75,
        "stability_score": 1, "point_coords": [[32, 12]], "crop_box": [0, 0, 96, 72],
    }  # fmt: skip
    assert second["crop_box"] == [48, 36, 48, 36] and second["stability_score"] == pytest.approx(0.96)
    image, settings = asked[0]
    assert torch.equal(image, torch.from_numpy(np.array(Image.open(photos / "a.png"))).permute(2, 0, 1))
    assert settings == EverythingSettings(7, iou_threshold=0.5, stability_threshold=0.6, crop_layers=1, min_area=9)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    overlay = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    changed = torch.from_numpy((overlay != np.asarray(Image.open(photos / "a.png"))).any(-1))
    assert torch.equal(changed, found.instances.masks.any(0))
    assert seglib("masks", photos / "a.png", "--weights", sam, "--json")[0] == 0
    assert asked[1][1] == load_model(sam).everything != EverythingSettings()  # the model's own


def test_everything_is_what_the_library_finds(photo, sam, capsys):
    lenient = ["--iou", -1000, "--stability", 0, "--points-per-side", 3]  # an untrained model has no good masks
    code, printed = seglib("masks", photo, "--weights", sam, *lenient, "--json", capsys=capsys)
    assert code == 0, printed.err
    rules = EverythingSettings(3, iou_threshold=-1000, stability_threshold=0)
    found = segment_everything(load_model(sam), (read_image(photo) * 255).round().to(torch.uint8), rules)
    assert len(found) > 0 and torch.equal(masks_of(json.loads(printed.out)), found.instances.masks)


def test_where_no_mask_is_good_enough_it_says_so(photo, sam, tmp_path, capsys):
    wanted = ["--iou", "1000", "--points-per-side", 2, "--out", tmp_path / "o.png"]
    code, printed = seglib("masks", photo, "--weights", sam, *wanted, capsys=capsys)
    assert code == 0
    assert "no mask is good enough; a lower --iou or --stability lets more through" in printed.err
    assert printed.out.splitlines() == ["0 masks", f"1 photo → {tmp_path / 'o.png'}"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), np.asarray(Image.open(photo)))


ASK = ["predict", "{photo}", "--weights", "{sam}", "--json"]
ALL = ["masks", "{photo}", "--weights", "{sam}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ASK, "say what to segment: pass --point x,y or --box x0,y0,x1,y1; `seglib masks` segments everything"),
        ([*ASK, "--background", "5,5"], "--background only says what is not meant: pass --point x,y"),
        ([*ASK, "--point", "5"], "--point '5' is no x,y; write numbers in pixels, without spaces"),
        ([*ASK, "--point", "5,nan"], "--point '5,nan' is no x,y"),
        ([*ASK, "--box", "1,2,3"], "--box '1,2,3' is no x0,y0,x1,y1"),
        ([*ASK, "--point", "96,5"], "outside the image of 96 x 72 pixels"),
        ([*ASK, "--point", "-1,5"], "outside the image of 96 x 72 pixels"),
        ([*ASK, "--box", "1,1,5,73"], "outside the image of 96 x 72 pixels"),
        ([*ASK, "--box", "9,1,5,20"], "swap its corners"),
        ([*ASK, "--box", "1,1,5,5", "--box", "1,1,9,9", "--point", "2,2"], "which of 2 boxes the points belong to"),
        ([*ASK, "--point", "5,5", "--tile", "64"], "--tile has no use"),
        ([*ASK, "--point", "5,5", "--score", "0.5"], "--score has no use"),
        ([*ASK, "--point", "5,5", "--task", "instance"], "serves prompt, not 'instance'"),
        ([*ASK, "--point", "5,5", "--several", "--labels", "l.png"], "the answers of --several overlap"),
        ([*ASK[:-1], "--point", "5,5"], "say what you want: --out overlay.png, --labels"),
        ([*ASK, "--point", "5,5", "--out", "o.jpg"], "ends in .png"),
        (["predict", "{folder}", *ASK[2:], "--point", "5,5"], "is a folder; pass a photo, or use `seglib masks`"),
        (["predict", "{photo}", "--weights", "{fcn}", "--json", "--point", "5,5"], "takes no prompts; pass weights of"),
        (["predict", "{photo}", "--weights", "{fcn}", "--json", "--several"], "--several has no use"),
        (ALL, "say what you want: --out overlay.png, or --json"),
        ([*ALL, "--out", "{photo}"], "would be overwritten"),
        ([*ALL, "--json", "--points-per-side", "0"], "points_per_side must be at least 1, got 0"),
        (
            ["masks", "{photo}", "--weights", "{fcn}", "--json"],
            "is for the task semantic; `seglib masks` needs",
        ),
        (["masks", "{folder}", "--weights", "{sam}", "--out", "o.png"], "name a folder for the results"),
        (["train", "sam_tiny", "--loss", "dice"], "sam_tiny has losses of its own"),
        (["train", "sam_tiny", "--size", "64x64"], "the longer side of what sam_tiny sees has 256 pixels"),
        (["eval", "--weights", "{sam}", "--data", "coco", "--size", "64x64"], "--size has no use: sam_tiny sees every"),
        (["train", "sam_tiny", "--data", "folder", "--root", "{folder}"], "instances"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    folder, photo, sam, fcn, arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = photo.read_bytes()
    given = [word.format(folder=folder, photo=photo, sam=sam, fcn=fcn) for word in arguments]
    code, printed = seglib(*given, capsys=capsys)
    assert code == 2
    assert message in printed.err and printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir()) and photo.read_bytes() == before


def test_a_point_outside_is_refused_before_the_model_works(photo, sam, capsys, monkeypatch):
    monkeypatch.setattr("seglib.commands.prompts.load", lambda *_: pytest.fail("the model is loaded"))
    code, printed = seglib("predict", photo, "--weights", sam, "--json", "--point", "200,5", capsys=capsys)
    assert code == 2 and "outside the image" in printed.err


def test_weights_without_a_class_table_are_scored_on_any_dataset(sam, capsys, monkeypatch):
    short(monkeypatch)
    code, printed = seglib("eval", "--weights", sam, "--data", "scenes", "--split", "val", "--json", capsys=capsys)
    assert code == 0, printed.err
    scores = json.loads(printed.out)
    assert 0 <= scores["miou_at_1"] < 1 and scores["images"] == 1
    assert "object" not in scores["class_miou_at_1"] and scores["objects"]  # by the classes of scenes


def test_training_keeps_the_frame_of_the_model_and_draws_scenes_that_fill_it(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("seglib.train.fit", lambda *sets, **settings: given.update(settings, sets=sets))
    monkeypatch.setenv("RANK", "1")  # the process that says nothing of a result
    short(monkeypatch)
    code, _ = seglib("train", "sam_tiny", "--out", tmp_path / "r")
    net, train, val = given["sets"]
    assert code == 0 and net.geometry == Geometry("letterbox", 256)
    assert given["metadata"]["arguments"] == {} and given["metadata"]["data_size"] == [256, 256]
    assert train[0].image.shape == val[0].image.shape == (3, 256, 256)


@pytest.mark.slow
def test_a_trained_model_is_scored_as_its_training_scored_it(tmp_path, capsys, monkeypatch):
    short(monkeypatch)
    how = ["--steps", 1, "--batch-size", 1, "--out", tmp_path / "r", "--json"]
    code, printed = seglib("train", "sam_tiny", "--data", "scenes", *how, capsys=capsys)
    assert code == 0, printed.err
    scores = json.loads(printed.out)
    again = ["--weights", tmp_path / "r" / "weights.safetensors", "--split", "val", "--json"]
    code, printed = seglib("eval", *again, capsys=capsys)
    assert code == 0, printed.err
    assert json.loads(printed.out)["miou_at_5"] == pytest.approx(scores["miou_at_5"])  # the same scenes, seen alike


def short(monkeypatch):
    """Make the splits of scenes short."""
    monkeypatch.setattr("seglib.data.catalog.SCENES_LENGTH", {"train": 2, "val": 1, "test": 1})


def test_class_tables_of_files_are_read_back(sam, photo, tmp_path, capsys):
    path = tmp_path / "trained.safetensors"
    table = [Category(0, "car", True, (0, 0, 0))]
    metadata = read_metadata(sam) | {
        "task": "prompt",
        "categories": [{"id": c.id, "name": c.name, "isthing": c.isthing, "color": list(c.color)} for c in table],
        "task_arguments": {"clicks": 2},
    }
    save_weights(load_model(sam), path, metadata)
    assert predict(photo, path, "--point", "45,35", capsys=capsys)
