"""The command line, used as a person would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seglib import cli
from seglib.commands.console import report
from seglib.data.images import read_image
from seglib.models.zoo import build
from seglib.postprocess import predict_tiled
from seglib.train import Interrupted
from seglib.weights import load_weights, read_metadata, save_weights


def seglib(*arguments, capsys=None):
    """Run ``seglib …`` in this process; the exit code, and what it printed."""
    old, sys.argv = sys.argv, ["seglib", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as leave:
        code = leave.code or 0
    finally:
        sys.argv = old
    printed = capsys.readouterr() if capsys else None
    return code, printed


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder dataset of 32×48 pictures: a bright square (thing) on dark ground."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            label = np.ones((32, 48), np.uint8)
            y, x = rng.integers(0, 16, 2)
            label[y : y + 14, x : x + 14] = 0
            image = np.where(label[..., None] == 0, 200, 60) + rng.integers(-20, 20, (32, 48, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{i}.png")
    table = [
        {"name": "square", "isthing": True, "color": [230, 159, 0]},
        {"name": "ground", "isthing": False, "color": [0, 114, 178]},
    ]
    (root / "categories.json").write_text(json.dumps(table))
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A finished run of a few steps on that folder."""
    out = tmp_path_factory.mktemp("runs") / "a"
    data = ["--data", "folder", "--root", photos, "--size", "32x48"]
    code, _ = seglib("train", "fcn_tiny", *data, "--out", out, "--steps", 30, "--batch-size", 4, "--json")
    assert code == 0
    return out


def test_help_names_the_commands_and_imports_no_torch():
    code = (
        "import sys; from seglib import cli; sys.argv = ['seglib', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as leave: assert not leave.code\n"
        "print('loaded:', *sorted({'torch', 'torchvision', 'numpy', 'PIL', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("train", "eval", "predict", "convert"))
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_training_learns_a_folder_of_pictures(photos, run, capsys):
    arguments = ["--weights", run / "weights.safetensors", "--data", "folder", "--root", photos, "--json"]
    code, printed = seglib("eval", *arguments, capsys=capsys)
    scores = json.loads(printed.out)
    assert code == 0
    assert scores["images"] == 2
    assert scores["miou"] > 0.8  # a bright square on dark ground is easy; chance is below 0.5
    facts = read_metadata(run / "weights.safetensors")
    assert facts["data_size"] == [32, 48] and facts["arguments"] == {"num_classes": 2}
    assert facts["geometry"]["mode"] == "shorter" and facts["geometry"]["size"] == 32


def test_predictions_that_have_no_format_of_coco_are_not_written(photos, run, tmp_path, capsys):
    data = ["--weights", run / "weights.safetensors", "--data", "folder", "--root", photos]
    code, printed = seglib("eval", *data, "--out", tmp_path / "o", capsys=capsys)
    assert code == 2 and printed.err.count("\n") == 1
    assert "COCO has formats for instances and panoptic maps, not for Semantic" in printed.err
    assert not list(tmp_path.iterdir())


def test_a_score_without_a_value_is_null_in_json_and_a_dash_in_the_table(capsys):
    report({"pq_things": float("nan"), "class_pq": {"sky": 0.5}}, True, {"images": 1})
    assert json.loads(capsys.readouterr().out) == {"pq_things": None, "class_pq": {"sky": 0.5}, "images": 1}
    report({"ap_medium": float("nan")}, False, {})
    printed = capsys.readouterr().out
    assert "–" in printed and "nan" not in printed


def test_a_run_is_not_overwritten_by_accident(photos, run, capsys):
    data = ["--data", "folder", "--root", photos, "--size", "32x48"]
    code, printed = seglib("train", "fcn_tiny", *data, "--out", run, capsys=capsys)
    assert code == 2
    assert "holds a run already; pass --resume" in printed.err


def test_a_photo_becomes_an_overlay_a_label_map_and_json(photos, run, tmp_path, capsys):
    photo = photos / "test" / "images" / "0.png"
    wanted = ["--out", tmp_path / "o.png", "--labels", tmp_path / "l.png", "--json"]
    code, printed = seglib("predict", photo, "--weights", run / "weights.safetensors", *wanted, capsys=capsys)
    assert code == 0
    found = json.loads(printed.out)[0]
    assert (found["height"], found["width"]) == (32, 48)
    assert sum(found["share"].values()) == pytest.approx(1, abs=1e-3)  # rounded to 4 digits
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (32, 48, 3)
    labels = np.asarray(Image.open(tmp_path / "l.png"))
    truth = np.asarray(Image.open(photos / "test" / "labels" / "0.png"))
    assert (labels == truth).mean() > 0.9
    with Image.open(tmp_path / "l.png") as stored:
        shown = np.asarray(stored.convert("RGB"))
    assert (shown[labels == 0] == [230, 159, 0]).all() and (shown[labels == 1] == [0, 114, 178]).all()


def test_a_network_is_compiled_when_asked(photos, run, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append(how) or function)
    weights = ("--weights", run / "weights.safetensors")
    photo = next((photos / "test" / "images").iterdir())
    assert seglib("predict", photo, *weights, "--json", "--compile", capsys=capsys)[0] == 0
    assert seglib("eval", *weights, "--data", "folder", "--root", photos, "--compile", capsys=capsys)[0] == 0
    assert len(asked) == 2


def test_label_files_of_other_programs_are_not_overwritten_and_its_own_are(photos, run, tmp_path, capsys):
    wanted = photos / "test" / "images", "--weights", run, "--labels"
    truth = photos / "test" / "labels"
    before = (truth / "0.png").read_bytes()
    code, printed = seglib("predict", *wanted, truth, capsys=capsys)
    assert code == 2 and "0.png is there already, and seglib didn't write it" in printed.err
    assert (truth / "0.png").read_bytes() == before
    assert [seglib("predict", *wanted, tmp_path / "maps", capsys=capsys)[0] for _ in range(2)] == [0, 0]
    (tmp_path / "maps" / "1.png").write_text("no PNG")
    assert seglib("predict", *wanted, tmp_path / "maps", capsys=capsys)[0] == 2


def test_resuming_a_run_that_is_not_there_needs_to_be_told_the_data(tmp_path, capsys):
    code, printed = seglib("train", "fcn_tiny", "--out", tmp_path / "typo", "--resume", capsys=capsys)
    assert code == 2 and "typo holds no run to go on with; name its folder, or pass --data" in printed.err


def test_a_folder_of_photos_becomes_a_folder_of_overlays(photos, run, tmp_path, capsys):
    folder = photos / "val" / "images"
    code, printed = seglib(
        "predict", folder, "--weights", run / "weights.safetensors", "--out", tmp_path / "o", capsys=capsys
    )
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["0.png", "1.png", "2.png"]
    assert "3 photos" in printed.out


def test_a_bad_photo_in_a_folder_is_left_out_and_named(photos, run, tmp_path, capsys):
    folder = shutil.copytree(photos / "val" / "images", tmp_path / "in")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "9.jpg").write_text("no picture")
    wanted = ["--weights", run / "weights.safetensors", "--out", tmp_path / "o", "--labels", tmp_path / "l", "--json"]
    code, printed = seglib("predict", folder, *wanted, capsys=capsys)
    assert code == 2
    assert [Path(found["photo"]).name for found in json.loads(printed.out)] == ["0.png", "2.png"]
    assert "2 of 4 photos left out" in printed.err
    assert "1.png" in printed.err and "9.jpg" in printed.err
    assert "0.png" not in printed.err
    for out in ("o", "l"):
        assert sorted(p.name for p in (tmp_path / out).iterdir()) == ["0.png", "2.png"]


def test_tiles_scales_and_the_mirror_image_from_the_command_line(run, tmp_path, capsys):
    # three squares of different brightness, in a picture of 64 × 160: two tiles and a rest
    image = np.full((64, 160, 3), 60, np.uint8)
    for x, value in ((10, 190), (70, 200), (130, 210)):
        image[20:34, x : x + 14] = value
    Image.fromarray(image).save(tmp_path / "p.png")
    options = ["--short-side", "0", "--scales", "0.5,1,1.5", "--flip", "--tile", "64"]
    wanted = ["--weights", run / "weights.safetensors", "--labels", tmp_path / "l.png", *options]
    code, printed = seglib("predict", tmp_path / "p.png", *wanted, capsys=capsys)
    assert code == 0, printed.err
    net = build("fcn_tiny", num_classes=2)
    load_weights(net, run / "weights.safetensors")
    expected = predict_tiled(net, read_image(tmp_path / "p.png"), tile=64, scales=(0.5, 1, 1.5), flip=True)
    plain = predict_tiled(net, read_image(tmp_path / "p.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "l.png")), expected.numpy())
    assert not torch.equal(plain, expected)  # the options do something


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_one_channel_microscopy_of_16_bits(photos, run, ending, tmp_path, capsys):
    gray = np.asarray(Image.open(photos / "test" / "images" / "0.png").convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / f"cells.{ending}")
    with Image.open(tmp_path / f"cells.{ending}") as stored:
        assert stored.mode == "I;16"
    Image.fromarray(gray).save(tmp_path / "eight.png")
    for name, out in ((f"cells.{ending}", "l16.png"), ("eight.png", "l8.png")):
        wanted = ["--weights", run / "weights.safetensors", "--labels", tmp_path / out, "--out", tmp_path / "o.png"]
        code, printed = seglib("predict", tmp_path / name, *wanted, capsys=capsys)
        assert code == 0, printed.err
    labels = [np.asarray(Image.open(tmp_path / out)) for out in ("l16.png", "l8.png")]
    assert np.array_equal(*labels)  # 257 v / 65535 is v / 255
    truth = np.asarray(Image.open(photos / "test" / "labels" / "0.png"))
    assert (labels[0] == truth).mean() > 0.9


TINY = Path(__file__).resolve().parents[1] / "chapters" / "weights" / "fcn_tiny.safetensors"


@pytest.mark.slow
def test_a_photo_of_12_million_pixels_in_bounded_memory(tmp_path):
    def peak(width, height):
        """MB of a whole ``seglib predict`` at the photo's own size."""
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / "p.jpg")
        wanted = ["--weights", TINY, "--short-side", "0", "--out", tmp_path / "o.png", "--labels", tmp_path / "l.png"]
        command = [sys.executable, "-m", "seglib", "predict", tmp_path / "p.jpg", *wanted, "--device", "cpu"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        for name in ("o.png", "l.png"):
            with Image.open(tmp_path / name) as written:
                assert written.size == (width, height)
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

    base = peak(64, 48)  # Python, torch, the weights
    # The photo as floats is 144 MB, one band of tiles 12 · 896 · 4000 floats, 172 MB; the model on a tile, buffers of
    # the allocator and the PNGs took 300 MB more when this was written. In one go the command took 2,400 MB.
    assert peak(4000, 3000) - base < 1000


def test_prediction_needs_to_be_told_what_is_wanted(photos, run, capsys):
    photo = photos / "test" / "images" / "0.png"
    code, printed = seglib("predict", photo, "--weights", run / "weights.safetensors", capsys=capsys)
    assert code == 2
    assert "--out overlay.png" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "fcn_tny"], "fcn_tiny"),
        (["train", "fcn_tiny", "--data", "citiscapes"], "choose one of scenes, camvid, pets"),
        (["train", "fcn_tiny", "--data", "camvid"], "pass --root"),
        (["train", "fcn_tiny", "--size", "12by12"], "is no HEIGHTxWIDTH"),
        (["train", "fcn_tiny", "--loss", "dise"], "loss 'dise' is unknown; choose one of ce, focal"),
        (["train", "fcn_tiny", "--steps", "0"], "steps must be at least 1, got 0"),
        (["train", "fcn_tiny", "--data", "folder", "--root", "{tmp}"], "categories.json is missing"),
        (["train", "fcn_tiny", "--data", "camvid", "--root", "{tmp}/nowhere"], "nowhere"),
        (["eval", "--weights", "{tmp}/missing.safetensors"], "missing.safetensors"),
        (["eval", "--weights", "{tmp}/model.pth"], "model.pth"),
        (["predict", "{tmp}/none.jpg", "--weights", "{tmp}/bare.safetensors", "--json"], "none.jpg does not exist"),
        (["predict", "{tmp}/empty", "--weights", "{tmp}/bare.safetensors", "--json"], "holds no photo"),
        (["predict", "{tmp}/photos", "--weights", "{tmp}/bare.safetensors", "--out", "file.png"], "name a folder"),
        (
            ["predict", "{tmp}/photos", "--weights", "{tmp}/bare.safetensors", "--out", "{tmp}/photos"],
            "would be overwritten",
        ),
        (["predict", "{tmp}/twins", "--weights", "{tmp}/bare.safetensors", "--out", "o"], "a.jpg and"),
        (["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--out", "o.jpg"], "ends in .png"),
        (
            ["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--out", "{tmp}/photos/a.png"],
            "would be overwritten",
        ),
        (
            [
                "predict",
                "{tmp}/photos/a.png",
                "--weights",
                "{tmp}/bare.safetensors",
                "--out",
                "o.png",
                "--labels",
                "o.png",
            ],
            "would both",
        ),
        (
            ["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--json", "--scales", "1,big"],
            "is no list of positive numbers",
        ),
        (
            ["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--json", "--scales", "1,0"],
            "is no list of positive numbers",
        ),
        (["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--json", "--tile", "10"], "64"),
        (["predict", "[/old]", "--weights", "{tmp}/bare.safetensors", "--json"], "[/old] does not exist"),
        (["eval", "--weights", "{tmp}/photos"], "photos is a folder without weights.safetensors"),
        (["eval", "--weights", "{tmp}/bare.safetensors", "--device", "tpu"], "device 'tpu' is not on this machine"),
        (["eval", "--weights", "{tmp}/bare.safetensors"], "bare.safetensors has no class table"),
        (["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/bare.safetensors", "--json"], "no class table"),
        (["predict", "{tmp}/photos/a.png", "--weights", "{tmp}/odd.safetensors", "--json"], "another version of fcn_"),
        (["train", "fcn_tiny", "--data", "folder", "--root", "{tmp}/nowhere"], "nowhere is no folder"),
        (["convert", "torchvision:fcn_resnet5", "{tmp}/o.safetensors"], "torchvision:fcn_resnet50"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pth")
    for name in ("photos/a.png", "twins/a.png", "twins/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 2}}
    save_weights(build("fcn_tiny", num_classes=2), tmp_path / "bare.safetensors", facts)
    save_weights(torch.nn.Identity(), tmp_path / "odd.safetensors", facts | {"arguments": {"depth": 3}})
    before = sorted(tmp_path.rglob("*"))
    code, printed = seglib(*(a.format(tmp=tmp_path) for a in arguments), capsys=capsys)
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_truncated_photo_is_named_and_no_overlay_is_left(photos, run, tmp_path, capsys):
    whole = (photos / "test" / "images" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    wanted = ["--weights", run / "weights.safetensors", "--out", tmp_path / "o.png"]
    code, printed = seglib("predict", tmp_path / "cut.png", *wanted, capsys=capsys)
    assert code == 2
    assert "cut.png" in printed.err
    assert not (tmp_path / "o.png").exists()


def test_cuda_is_refused_where_there_is_none(photos, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    photo, wanted = photos / "test" / "images" / "0.png", ["--out", tmp_path / "o.png", "--device", "cuda"]
    code, printed = seglib("predict", photo, "--weights", run / "weights.safetensors", *wanted, capsys=capsys)
    assert code == 2
    assert "device 'cuda' is not on this machine" in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_error_in_a_loading_process_is_one_line_too(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    for labels in (root / "train" / "labels").iterdir():
        Image.fromarray(np.full((32, 48), 7, np.uint8)).save(labels)
    data = ["--data", "folder", "--root", root, "--size", "32x48", "--out", tmp_path / "r", "--json"]
    command = [sys.executable, "-m", "seglib", "train", "fcn_tiny", *data, "--steps", "1", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # no loading process may keep it alive
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "label 7 at (row 0, column 0) is not in 0..1 or 255" in done.stderr


def test_a_stopped_run_says_where_its_state_is(photos, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise Interrupted("stopped after step 3; the state is in r/state.safetensors")

    monkeypatch.setattr("seglib.train.fit", interrupted)
    data = ["--data", "folder", "--root", photos, "--size", "32x48", "--out", tmp_path / "r", "--json"]
    code, printed = seglib("train", "fcn_tiny", *data, capsys=capsys)
    assert code == 130
    assert "the state is in r/state.safetensors; go on with --resume" in printed.err


def test_only_the_first_of_several_processes_reports(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("seglib.train.fit", lambda *_, **__: None)
    data = ["--data", "folder", "--root", photos, "--size", "32x48", "--out", tmp_path / "r"]
    code, printed = seglib("train", "fcn_tiny", *data, capsys=capsys)
    assert (code, printed.out, printed.err) == (0, "", "")


def test_weights_of_classes_with_other_names_are_refused(photos, run, tmp_path, capsys):
    root = shutil.copytree(photos, tmp_path / "data")
    table = (root / "categories.json").read_text()
    (root / "categories.json").write_text(table.replace("square", "circle"))
    arguments = ["--weights", run / "weights.safetensors", "--data", "folder", "--root", root]
    code, printed = seglib("eval", *arguments, capsys=capsys)
    assert code == 2
    assert "class 'circle' of this data is not among those to predict ('square', 'ground')" in printed.err


def test_weights_of_other_classes_are_refused(run, capsys):
    code, printed = seglib(
        "eval", "--weights", run / "weights.safetensors", "--data", "scenes", "--split", "val", capsys=capsys
    )
    assert code == 2
    assert "class 'house' of this data is not among those to predict ('square', 'ground')" in printed.err


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_final_loss(photos, tmp_path):
    data = [
        "--data",
        "folder",
        "--root",
        str(photos),
        "--size",
        "32x48",
        "--steps",
        "40",
        "--save-every",
        "10",
        "--json",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(out):
        return [sys.executable, "-m", "seglib", "train", "fcn_tiny", *data, "--out", str(out)]

    whole = json.loads(subprocess.run(command(tmp_path / "w"), capture_output=True, check=True, env=environment).stdout)
    victim = subprocess.Popen(command(tmp_path / "k"), stdout=subprocess.DEVNULL, env=environment)
    log = tmp_path / "k" / "log.csv"
    while not (log.exists() and "\n15,loss" in log.read_text()):  # past the state of step 10, before that of step 20
        assert victim.poll() is None  # pytest's timeout ends a run that hangs
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    again = subprocess.run([*command(tmp_path / "k"), "--resume"], capture_output=True, check=True, env=environment)
    resumed = json.loads(again.stdout)
    assert resumed["final_loss"] == whole["final_loss"]
    assert resumed["miou"] == whole["miou"]


CAMVID = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.exists(), reason="the CamVid photos are not on this machine")
def test_fcn_trains_on_real_photos_from_the_command_line(tmp_path, capsys):
    data = ["--data", "camvid", "--root", CAMVID, "--size", "90x120"]
    code, printed = seglib(
        "train", "fcn", *data, "--steps", 3, "--batch-size", 2, "--out", tmp_path / "r", "--json", capsys=capsys
    )
    assert code == 0, printed.err
    assert 0 <= json.loads(printed.out)["miou"] < 1


def test_the_command_line_names_every_loss():
    from seglib.cli.train import LOSS_NAMES
    from seglib.losses import LOSSES

    assert tuple(LOSSES) == LOSS_NAMES


def test_a_loss_is_chosen_by_name_and_stored_with_the_weights(photos, tmp_path, capsys):
    data = ["--data", "folder", "--root", photos, "--size", "32x48", "--steps", 2, "--batch-size", 2, "--json"]
    final = {}
    for loss in ("ce", "ce+dice"):
        code, printed = seglib("train", "fcn_tiny", *data, "--loss", loss, "--out", tmp_path / loss, capsys=capsys)
        assert code == 0
        final[loss] = json.loads(printed.out)["final_loss"]
        assert read_metadata(tmp_path / loss / "weights.safetensors")["loss"] == loss
    assert final["ce+dice"] > final["ce"] + 0.1  # the Dice part of a fresh model is about a half


def test_a_run_does_not_go_on_with_another_loss(photos, tmp_path, capsys):
    data = [
        "--data",
        "folder",
        "--root",
        photos,
        "--size",
        "32x48",
        "--batch-size",
        2,
        "--json",
        "--out",
        tmp_path / "r",
    ]
    assert seglib("train", "fcn_tiny", *data, "--steps", 2, capsys=capsys)[0] == 0
    code, printed = seglib("train", "fcn_tiny", *data, "--steps", 2, "--loss", "dice", "--resume", capsys=capsys)
    assert code == 2 and "loss ce → dice" in printed.err
