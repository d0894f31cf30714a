"""What training starts from: weights that fit in part, and encoders as people have them on disk."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models as tv

from seglib.layers.swin import SwinEncoder, swin_encoder
from seglib.layers.vgg import VGG16Encoder
from seglib.models.fcn import FCN
from seglib.models.zoo import build
from seglib.weights import load_encoder, load_fitting, save_weights


def stored(tmp_path, name, **arguments):
    """A weights file of a model with random weights, and the model."""
    model = build(name, **arguments)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    save_weights(model, tmp_path / f"{name}.safetensors", {"model": name, "arguments": arguments})
    return model, tmp_path / f"{name}.safetensors"


def test_what_fits_is_loaded_and_a_head_for_other_classes_is_named(tmp_path):
    source, file = stored(tmp_path, "fcn_tiny", num_classes=3)
    model = build("fcn_tiny", num_classes=5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    left = load_fitting(model, file)
    own = model.state_dict()
    heads = [k for k in own if k.startswith(("score.", "upsample."))]
    assert sorted(line.split(" ")[0] for line in left) == sorted(heads)
    assert "score.c5.weight ((3, 96, 1, 1) in the file, (5, 96, 1, 1) in the model)" in left
    assert all(torch.equal(own[k], source.state_dict()[k]) for k in own if k not in heads)
    assert all(torch.equal(own[k], before[k]) for k in heads)


def test_weights_that_fit_wholly_leave_nothing(tmp_path):
    source, file = stored(tmp_path, "fcn_tiny", num_classes=3)
    model = build("fcn_tiny", num_classes=3)
    assert load_fitting(model, file) == []
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unet_tiny",
            "does not fit this UNet .it is for 'fcn_tiny'.: little fits but its encoder; pass it as --encoder",
        ),
        (
            "fcn_resnet18",
            "does not fit this FCN .*: its encoder is another one, .*; pass weights of a model with the same",
        ),
        ("unet_paper", "does not fit this PaperUNet .*; pass weights of the same model"),
    ],
)
def test_weights_of_another_model_are_refused_and_the_model_stays(tmp_path, name, message):
    _, file = stored(tmp_path, "fcn_tiny", num_classes=3)
    model = build(name, num_classes=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_fitting(model, file)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_frozen_norms_and_plain_ones_are_the_same_weights(tmp_path):
    source, file = stored(tmp_path, "mask_rcnn", num_classes=2, encoder="resnet18", frozen=True)
    model = build("unet", num_classes=2, encoder="resnet18")
    load_encoder(model, file)
    ours = model.encoder.state_dict()
    assert torch.equal(ours["layer1.0.bn2.weight"], source.encoder.state_dict()["layer1.0.conv2.norm.weight"])
    assert torch.equal(
        ours["layer2.0.downsample.1.running_var"], source.state_dict()["encoder.layer2.0.downsample.0.norm.running_var"]
    )
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.eval().encoder(x)["c5"], source.eval().encoder(x)["c5"], rtol=1e-4, atol=1e-4)
    back = build("mask_rcnn", num_classes=2, encoder="resnet18", frozen=True)
    save_weights(model, tmp_path / "unet.safetensors", {"model": "unet", "arguments": {}})
    load_encoder(back, tmp_path / "unet.safetensors")
    assert all(torch.equal(v, source.encoder.state_dict()[k]) for k, v in back.encoder.state_dict().items())


def test_an_encoder_brings_its_normalisation_along(tmp_path):
    source, file = stored(tmp_path, "fcn_tiny", num_classes=3)
    model = build("unet_tiny", num_classes=3)
    load_encoder(model, file)
    assert torch.equal(model.normalize.mean, source.normalize.mean)


def test_bottlenecks_that_stride_elsewhere_are_refused(tmp_path):
    arguments = {"num_classes": 2, "frozen": True, "stride_in_1x1": True}
    with torch.device("meta"):
        names = build("mask_rcnn", **arguments).state_dict()
    state = {k: torch.zeros(v.shape) for k, v in names.items() if k.startswith(("encoder.", "normalize."))}
    holder = torch.nn.Module()
    for key, value in state.items():
        holder.register_buffer(key.replace(".", "/"), value)
    holder.state_dict = lambda: state
    save_weights(holder, tmp_path / "d2.safetensors", {"model": "mask_rcnn", "arguments": arguments})
    with pytest.raises(ValueError, match="stride in their 1x1 convolution, .* --set stride_in_1x1=true"):
        load_encoder(build("unet_resnet50", num_classes=2), tmp_path / "d2.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "backbone.body.", "module.backbone."])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_resnet_of_torchvision_is_taken_wherever_it_stands(tmp_path, prefix, ending):
    reference = tv.resnet18()
    state = {prefix + k: v for k, v in reference.state_dict().items() if "backbone" not in prefix or k[:2] != "fc"}
    path = tmp_path / f"r.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    model = build("fcn", num_classes=3)
    load_encoder(model, path)
    assert torch.equal(model.encoder.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_the_first_convolution_of_rgb_weights_is_made_to_fit_other_channels(tmp_path, in_channels):
    reference = tv.resnet18()
    torch.save(reference.state_dict(), tmp_path / "r.pth")
    model = build("fcn", num_classes=3, in_channels=in_channels)
    load_encoder(model, tmp_path / "r.pth")
    grey = reference.conv1.weight.sum(1)
    torch.testing.assert_close(model.encoder.conv1.weight.sum(1), grey)


def test_another_encoder_is_refused_by_name(tmp_path):
    torch.save(tv.resnet34().state_dict(), tmp_path / "r.pth")
    with pytest.raises(ValueError, match="r.pth is another one: .* unexpected .*layer1.2.conv1.weight"):
        load_encoder(build("fcn", num_classes=3), tmp_path / "r.pth")
    torch.save({"features.9.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no encoder like this ResNetEncoder .they begin with features.9.weight"):
        load_encoder(build("fcn", num_classes=3), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="PaperUNet has no encoder; leave --encoder out"):
        load_encoder(build("unet_paper", num_classes=3, width=2), tmp_path / "x.pth")


def test_a_vgg_of_torchvision_becomes_convolutions(tmp_path):
    encoder = VGG16Encoder(hidden=6)
    with torch.device("meta"):
        names = tv.vgg16().state_dict()
    state = {k: torch.rand(v.shape) for k, v in names.items() if k.startswith("features.")}
    state |= {"classifier.0.weight": torch.rand(6, 512 * 49), "classifier.0.bias": torch.rand(6)}
    state |= {"classifier.3.weight": torch.rand(6, 6), "classifier.3.bias": torch.rand(6)}
    state |= {"classifier.6.weight": torch.rand(1000, 6), "classifier.6.bias": torch.rand(1000)}
    torch.save(state, tmp_path / "v.pth")
    model = FCN(encoder, 3, stride=32)
    load_encoder(model, tmp_path / "v.pth")
    assert torch.equal(encoder.to_pool3[2].weight, state["features.2.weight"])
    assert torch.equal(encoder.fc6.weight, state["classifier.0.weight"].view(6, 512, 7, 7))
    assert torch.equal(encoder.fc7.bias, state["classifier.3.bias"])


def on_swin(encoder):
    model = torch.nn.Module()
    model.encoder = encoder
    return model


def test_a_swin_of_torchvision_is_taken_and_its_norms_on_maps_start_anew(tmp_path):
    reference = tv.SwinTransformer([4, 4], 24, [2, 2, 2, 2], [2, 4, 8, 16], [7, 7])
    torch.save(reference.state_dict(), tmp_path / "s.pth")
    encoder = SwinEncoder(24, (2, 2, 2, 2), (2, 4, 8, 16), 7)
    load_encoder(on_swin(encoder), tmp_path / "s.pth")
    assert torch.equal(encoder.merges[1].reduction.weight, reference.features[4].reduction.weight)


def test_timms_files_fit_the_same_networks(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    save_file(state, tmp_path / "r.safetensors")
    model = build("fcn", num_classes=3)
    load_encoder(model, tmp_path / "r.safetensors")
    assert torch.equal(model.encoder.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])

    reference = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True).eval()
    whole = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).state_dict()
    kept = {k.replace("layers.", "layers_"): v for k, v in whole.items() if k.startswith(("layers.", "patch"))}
    reference.load_state_dict(kept)
    torch.save(whole, tmp_path / "s.pth")
    encoder = swin_encoder("swin_t", window=7).eval()
    load_encoder(on_swin(encoder), tmp_path / "s.pth")
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        ours, theirs = encoder(image), reference(image)
    for name, want in zip(("c2", "c3", "c4"), theirs, strict=False):  # c5 is one window, which timm does not shift
        want = F.layer_norm(want, want.shape[-1:]).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours[name], want, rtol=1e-3, atol=1e-3)

    state = timm.create_model("convnext_atto", pretrained=False).state_dict()
    save_file(state, tmp_path / "c.safetensors")
    model = build("unet", num_classes=3, encoder="timm:convnext_atto")
    load_encoder(model, tmp_path / "c.safetensors")
    ours = model.encoder.network.state_dict()
    assert torch.equal(ours["stages_1.blocks.0.mlp.fc1.weight"], state["stages.1.blocks.0.mlp.fc1.weight"])


def test_resnet_encoders_of_two_models_are_one(tmp_path):
    """What was cut out of one model starts another, whatever maps each of them keeps."""
    source, file = stored(tmp_path, "fcn_resnet50", num_classes=3, aux=False)
    model = build("deeplabv3plus_resnet50", num_classes=3)
    load_encoder(model, file)
    assert torch.equal(model.encoder.layer4[2].conv3.weight, source.encoder.layer4[2].conv3.weight)
