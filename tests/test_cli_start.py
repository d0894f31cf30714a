"""The command line: where training starts, several photos at once, and at what size a model sees them."""

import json

import pytest
import torch
from test_cli import seglib
from torchvision import models as tv

from seglib import __version__
from seglib.weights import load_model, read_metadata

SMALL = ["--data", "scenes", "--size", "64x64", "--steps", 1, "--batch-size", 2, "--workers", 0, "--json"]


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch):
    monkeypatch.setattr("seglib.data.catalog.SCENES_LENGTH", {"train": 2, "val": 2, "test": 2})


def test_the_version_is_printed(capsys):
    code, printed = seglib("--version", capsys=capsys)
    assert code == 0 and printed.out.strip() == f"seglib {__version__}"


def test_settings_and_imagenet_weights_are_stored_and_built_again_without_a_download(tmp_path, monkeypatch, capsys):
    reference, fetched = tv.resnet18().state_dict(), []

    def fetch(weights):
        fetched.append(weights)
        return dict(reference)

    monkeypatch.setattr("seglib.layers.resnet.load_pretrained", fetch)
    out = tmp_path / "a"
    arguments = [
        "train",
        "fcn",
        *SMALL,
        "--pretrained",
        "--set",
        "stride=16",
        "--set",
        "encoder=resnet18",
        "--lr",
        1e-9,
    ]
    assert seglib(*arguments, "--out", out, capsys=capsys)[0] == 0
    assert len(fetched) == 1
    given = read_metadata(out)["arguments"]
    assert (given["stride"], given["encoder"], given["pretrained"]) == (16, "resnet18", True)
    model = load_model(out)
    assert len(fetched) == 1 and model.levels == ["c5", "c4"]
    torch.testing.assert_close(model.encoder.conv1.weight, reference["conv1.weight"], atol=1e-6, rtol=0)
    assert seglib("train", "fcn", *SMALL, "--out", out, "--resume", capsys=capsys)[0] == 0  # with the same settings
    assert len(fetched) == 1
    code, printed = seglib("train", "fcn", *SMALL, "--set", "stride=8", "--out", out, "--resume", capsys=capsys)
    assert code == 2 and "--set stride=8 is not what the run" in printed.err
    assert "was started with (stride=16 encoder=resnet18)" in printed.err


def test_other_classes_start_from_the_folder_of_a_run_and_the_new_head_is_named(tmp_path, capsys):
    assert seglib("train", "fcn_tiny", *SMALL, "--out", tmp_path / "a", "--set", "stride=8", capsys=capsys)[0] == 0
    root = tmp_path / "data"
    from seglib.data.images import write_png

    table = [{"id": i, "name": n, "isthing": False, "color": [i, i, i]} for i, n in enumerate(("road", "rest"))]
    for split in ("train", "val", "test"):
        for name in ("images", "labels"):
            (root / split / name).mkdir(parents=True)
            pixels = torch.arange(32 * 32).remainder(2).to(torch.uint8).view(32, 32, 1).numpy()
            write_png(root / split / name / "1.png", pixels.repeat(3, 2) if name == "images" else pixels[..., 0])
    (root / "categories.json").write_text(json.dumps(table))
    data = ["--data", "folder", "--root", root, "--size", "64x64", "--steps", 1, "--batch-size", 2, "--workers", 0]
    code, printed = seglib(
        "train", "fcn_tiny", *data, "--weights", tmp_path / "a", "--lr", 1e-9, "--out", tmp_path / "b", "--json",
        capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert "was loaded but for what does not fit, which starts anew: score.c5.weight" in printed.err
    assert read_metadata(tmp_path / "b")["started_from"] == {"weights": "a"}
    one, other = load_model(tmp_path / "a"), load_model(tmp_path / "b")
    assert other.num_classes == 2 and other.levels == one.levels, "the stride came along"
    torch.testing.assert_close(one.encoder.stem[0].weight, other.encoder.stem[0].weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcn_tiny", "--pretrained"], "fcn_tiny has no published ImageNet weights"),
        (
            ["fcn", "--pretrained", "--weights", "{tmp}"],
            "--weights has no use: --pretrained starts the encoder",
        ),
        (["fcn", "--set", "depth=3"], "--set 'depth' is unknown: fcn takes encoder, in_channels, stride, pretrained"),
        (["fcn", "--set", "num_classes=3"], "--set num_classes has no use"),
        (["fcn", "--set", "encoder=vgg99"], "no encoder is called 'vgg99'"),
        (["fcn_tiny", "--weights", "{tmp}"], "is a folder without weights.safetensors"),
    ],
)
def test_what_training_cannot_start_from_is_one_line(tmp_path, arguments, message, capsys):
    given = [a.format(tmp=tmp_path) for a in arguments]
    code, printed = seglib("train", *given, *SMALL, "--out", tmp_path / "run", capsys=capsys)
    assert code == 2 and message in printed.err.splitlines()[-1] and "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()


def photos_and_weights(tmp_path, geometry):
    import numpy as np

    from seglib.data.images import write_png
    from seglib.models.zoo import build
    from seglib.weights import save_weights

    draw = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    places = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "more" / "c.png"]
    for place, size in zip(places, [(40, 60), (80, 50), (64, 64)], strict=True):
        write_png(place, draw.integers(0, 256, (*size, 3), dtype=np.uint8))
    table = [{"id": i, "name": n, "isthing": False, "color": [i, i, i]} for i, n in enumerate(("road", "rest"))]
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 2}, "categories": table, "geometry": geometry}
    save_weights(build("fcn_tiny", num_classes=2), tmp_path / "w.safetensors", facts)
    return [places[0], places[1], tmp_path / "more"], tmp_path / "w.safetensors"


def test_several_photos_and_folders_go_into_one_folder(tmp_path, capsys):
    photos, weights = photos_and_weights(tmp_path, {"mode": "native", "size": None})
    out = tmp_path / "out"
    code, printed = seglib("predict", *photos, "--weights", weights, "--labels", out, capsys=capsys)
    assert code == 0 and "3 photos" in printed.out
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png"]
    assert "another size" not in printed.err
    code, printed = seglib("predict", *photos, "--weights", weights, "--labels", tmp_path / "l.png", capsys=capsys)
    assert code == 2 and "there are 3 photos, and" in printed.err and "name a folder for the results" in printed.err
    code, printed = seglib("predict", photos[0], photos[0], "--weights", weights, "--labels", out, capsys=capsys)
    assert code == 2 and "would both become" in printed.err


def test_predict_says_at_what_size_the_model_saw_the_photos(tmp_path, capsys):
    photos, weights = photos_and_weights(tmp_path, {"mode": "shorter", "size": 64})
    given = ["--weights", weights, "--labels", tmp_path / "out"]
    code, printed = seglib("predict", *photos, *given, capsys=capsys)
    assert code == 0
    assert "the model saw 2 of 3 photos at another size, as its weights say: 80x50 (height x width) at 102x64" in (
        " ".join(printed.err.split())
    )
    assert printed.err.count("another size") == 1 and "--short-side 0 shows it their own size" in printed.err
    code, printed = seglib("predict", *photos, *given, "--short-side", 64, capsys=capsys)
    assert code == 0 and "another size" not in printed.err, "who asks for a size knows it"


def test_prompts_and_volumes_take_one_path(tmp_path, capsys):
    from seglib.models.zoo import build
    from seglib.weights import save_weights

    for name, message in (("sam_tiny", "one photo"), ("unet3d_tiny", "a case, or a folder of cases")):
        arguments = {} if name == "sam_tiny" else {"num_classes": 2}
        save_weights(build(name, **arguments), tmp_path / "w.safetensors", {"model": name, "arguments": arguments})
        (tmp_path / "a.png").touch()
        words = ["predict", tmp_path / "a.png", tmp_path / "a.png", "--weights", tmp_path / "w.safetensors", "--json"]
        words += ["--point", "3,4"] if name == "sam_tiny" else []
        code, printed = seglib(*words, capsys=capsys)
        assert code == 2 and f"2 paths were given, and these weights take {message}" in printed.err
