"""What ``--set`` and ``--pretrained`` say about a model."""

import inspect

import pytest
import torch

from seglib.commands.settings import fits, inherited, read_settings
from seglib.models.zoo import MODELS, build, find


def test_values_are_json_or_text():
    texts = ["encoder=timm:convnext_tiny", "in_channels=4", "pretrained=true"]
    assert read_settings("unet", texts) == {"encoder": "timm:convnext_tiny", "in_channels": 4, "pretrained": True}
    assert read_settings("deeplabv3_resnet50", ["multi_grid=[1, 2, 4]", "dropout=0"]) == {
        "multi_grid": [1, 2, 4],
        "dropout": 0,
    }
    assert read_settings("mask_rcnn", ["frozen=null"], pretrained=True) == {"frozen": None, "pretrained": True}
    assert read_settings("unet", None) == {}


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("unet", "width=3", "--set 'width' is unknown: unet takes encoder, in_channels, pretrained"),
        ("mask_rcnn", "width=3", "mask_rcnn takes encoder, in_channels, pretrained, frozen, class_agnostic, box_loss"),
        ("unet", "in_channels", "--set 'in_channels' is no key=value; unet takes encoder"),
        ("unet", "in_channels=four", "--set in_channels: 'four' is no whole number"),
        ("unet", "in_channels=true", "--set in_channels: 'true' is no whole number"),
        ("unet", "pretrained=yes", "--set pretrained: 'yes' is no true or false"),
        ("unet", "num_classes=3", "--set num_classes has no use: the data set and --task say it"),
        ("deeplab", "layout=mine", "--set layout: 'mine' is no paper or smp"),
        ("deeplabv3_resnet50", "multi_grid=2", "is no list of whole number, e.g. .1, 2, 4. or null"),
    ],
)
def test_what_a_builder_does_not_take_is_refused_in_one_line(model, text, message):
    with pytest.raises(ValueError, match=message):
        read_settings(model, [text])


def test_a_key_given_twice_is_refused():
    with pytest.raises(ValueError, match="--set stride was given twice"):
        read_settings("fcn", ["stride=8", "stride=16"])


def test_a_model_without_published_weights_says_so():
    with pytest.raises(ValueError, match="--pretrained has no use: fcn_tiny has no published ImageNet weights"):
        read_settings("fcn_tiny", None, pretrained=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_builder_shows_its_keywords_with_their_types(name):
    parameters = inspect.signature(find(name).builder(), eval_str=True).parameters.values()
    assert not [p for p in parameters if p.kind is p.VAR_KEYWORD], "hands_keywords_to shows what is handed on"
    for p in parameters:
        assert p.annotation is not p.empty
        if p.default is not p.empty:
            default = list(p.default) if isinstance(p.default, tuple) else p.default
            assert fits(default, p.annotation) or isinstance(default, list)


def test_a_model_of_the_same_system_inherits_what_its_builder_takes():
    stored = {
        "model": "mask_rcnn_resnet50_fpn",
        "arguments": {"num_classes": 90, "frozen": True, "stride_in_1x1": True},
    }
    assert inherited("mask_rcnn", stored)["stride_in_1x1"] is True
    assert inherited("mask_rcnn_resnet50_fpn_v2", stored) == {"num_classes": 90}
    assert inherited("yolact", stored) == {} and inherited("unet", {}) == {}
    assert "pretrained" not in inherited("unet", {"model": "unet", "arguments": {"pretrained": True}})


@pytest.mark.parametrize("name", ["fcn", "unet", "deeplab", "mask_rcnn", "yolact", "condinst", "solov2", "mask2former"])
def test_a_model_stands_on_a_network_of_timm(name):
    pytest.importorskip("timm")
    arguments = {"num_classes": 2, "num_things": 1} if name == "mask2former" else {"num_classes": 2}
    torch.manual_seed(0)
    model = build(name, encoder="timm:convnext_atto", in_channels=4, **arguments).eval()
    with torch.no_grad():
        found = model.predict(torch.rand(1, 4, 70, 90))
    assert len(found) == 1


def test_every_way_to_a_map_is_laid_where_timms_cells_are():
    pytest.importorskip("timm")
    from seglib.layers.resnet import resnet_encoder
    from seglib.layers.timm_encoder import timm_encoder

    assert timm_encoder("resnet18").grids == resnet_encoder("resnet18").grids
    assert timm_encoder("resnet18", output_stride=16).grids == resnet_encoder("resnet18", output_stride=16).grids
    patches = {name: (grid.stride, grid.offset) for name, grid in timm_encoder("convnext_atto").grids.items()}
    assert patches == {"c2": (4, 1.5), "c3": (8, 3.5), "c4": (16, 7.5), "c5": (32, 15.5)}
    same = {name: (grid.stride, grid.offset) for name, grid in timm_encoder("tf_mobilenetv3_small_075").grids.items()}
    assert same == {"c1": (2, 1), "c2": (4, 3), "c3": (8, 7), "c4": (16, 15), "c5": (32, 31)}, "padded as it runs"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_net", "timm makes no encoder of 'no_such_net'"),
        ("vit_tiny_patch16_224", "takes images of one size alone; choose a network for any size"),
    ],
)
def test_networks_that_are_no_encoders_are_refused(name, message):
    pytest.importorskip("timm")
    from seglib.layers.timm_encoder import timm_encoder

    with pytest.raises(ValueError, match=message):
        timm_encoder(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vgg99"}, "no encoder is called 'vgg99'; choose one of resnet18, .*, or timm:NAME"),
        ({"encoder": "swin_t", "frozen": True}, "frozen_norm is for ResNets, and the encoder is 'swin_t'"),
    ],
)
def test_an_encoder_that_there_is_not_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("mask_rcnn", num_classes=2, **arguments)


def test_without_timm_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="timm's networks need timm, which is not installed: pip install timm"):
        build("unet", num_classes=2, encoder="timm:resnet18")
