"""Training that starts from weights, from ImageNet or with other keywords of the builder, at the command line."""

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
