"""Exported files: for images of any number and size, equal to the model, with what it knows of its classes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from test_cli import seglib

from seglib.models.zoo import build
from seglib.types import DenseOutput
from seglib.weights import save_weights
from seglib.weights.export import export_model
from seglib.weights.steps import Steps

SEMANTIC = ("fcn_tiny", "unet_tiny", "deeplab_tiny")
SIZES = ((1, 3, 96, 200), (3, 3, 64, 64), (1, 3, 33, 47))


def net(name, **arguments):
    torch.manual_seed(0)
    model = build(name, num_classes=3, **arguments)
    for value in model.parameters():
        if value.ndim > 1 and not value.any():
            torch.nn.init.normal_(value, std=0.1)  # scores that start at 0 would equal each other whatever came in
    return model


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_pt2_file_takes_any_size_and_gives_the_models_logits(tmp_path, name):
    model = net(name)
    assert export_model(model, tmp_path / "m.pt2", {"model": name}) < 1e-3
    assert model.training, "its mode came back"
    extra = {"seglib": ""}
    run = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert json.loads(extra["seglib"]) == {"model": name}
    for size in SIZES:
        images = torch.rand(size)
        found = run(images)
        assert found.shape == (size[0], 3, *size[2:])
        torch.testing.assert_close(found, model.eval()(images).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("unet", {"encoder": "resnet18"}), ("deeplabv3plus_resnet34", {})])
def test_models_on_resnets_export_too(tmp_path, name, arguments):
    assert export_model(net(name, **arguments), tmp_path / "m.pt2") < 1


@pytest.mark.parametrize("name", ["unet_tiny", pytest.param("deeplab_tiny", marks=pytest.mark.slow)])
def test_an_onnx_file_takes_any_size_and_gives_the_models_logits(tmp_path, name):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = net(name, in_channels=4).eval()
    assert export_model(model, tmp_path / "m.onnx", {"model": name}) < 1e-2
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["seglib"]) == {"model": name}
    for b, _, h, w in SIZES:
        images = torch.rand(b, 4, h, w)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images).logits, rtol=1e-3, atol=1e-3)


def test_a_json_file_lists_steps_and_has_its_weights_beside_it(tmp_path):
    model = net("fcn_tiny").eval()
    assert export_model(model, tmp_path / "m.json", {"model": "fcn_tiny"}) < 1e-3
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["about"] == {"model": "fcn_tiny"} and told["inputs"] == {"images": [None, 3, None, None]}
    steps = Steps(told, (tmp_path / "m.bin").read_bytes())
    for size in SIZES:
        images = torch.rand(size)
        torch.testing.assert_close(steps.outputs(images=images)["logits"], model(images).logits, rtol=1e-4, atol=1e-4)


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    model = net("fcn_tiny")
    wrong = SimpleNamespace(module=lambda: lambda images: torch.zeros(len(images), 3, *images.shape[2:]))
    monkeypatch.setattr(torch.export, "load", lambda file: wrong)
    with pytest.raises(ValueError, match="the file's logits differ from the model's by .*; it was not kept"):
        export_model(model, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="m.pth ends in none of .pt2 .torch.export., .onnx and .json"):
        export_model(net("fcn_tiny"), tmp_path / "m.pth")
    with pytest.raises(ValueError, match="a MaskRCNN is no semantic model of images"):
        export_model(build("mask_rcnn_tiny", num_classes=2), tmp_path / "m.pt2")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "seglib.export.", or write .pt2'):
        export_model(net("fcn_tiny"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_how_exact_the_file_is(tmp_path, capsys):
    model = net("fcn_tiny")
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 3}, "geometry": {"mode": "shorter", "size": 64}}
    facts |= {"intensity": {"mode": "percentile"}}
    save_weights(model, tmp_path / "weights.safetensors", facts)
    code, printed = seglib("export", tmp_path, tmp_path / "m.pt2", capsys=capsys)
    assert code == 0 and (tmp_path / "m.pt2").exists()
    assert "largest difference of its logits from the model's:" in printed.out
    assert "the model wants images at shorter 64" in printed.err
    assert "images go in as float32 (B, 3, H, W) in [0, 1]" in printed.err
    assert "wants the 0.5th percentile of each image at 0" in printed.err
    code, printed = seglib("export", tmp_path, tmp_path / "m.tflite", capsys=capsys)
    assert code == 2 and printed.err.count("\n") == 1


def test_a_traced_padding_is_refused_because_it_would_hold_for_one_size():
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net("unet_tiny").eval()

        def forward(self, images):
            out: DenseOutput = self.model(images)
            return out.logits

    with pytest.warns(), pytest.raises(ValueError, match="seglib export"):
        torch.jit.trace(Logits(), torch.rand(1, 3, 64, 96))
