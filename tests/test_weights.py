"""Weights files: what goes in comes out, and everything else is refused with the file's name and the remedy."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG16_Weights, detection
from torchvision.models.segmentation import FCN_ResNet50_Weights, fcn_resnet50

from seglib.data.voc import VOC_ORDER, voc_color
from seglib.layers.pretrained import load_pretrained
from seglib.models.zoo import build
from seglib.ops.geometry import Geometry
from seglib.types import Category, check_categories
from seglib.weights import (
    ORIGINS,
    convert,
    load_model,
    load_weights,
    mismatch,
    read_metadata,
    read_origin,
    save_weights,
)
from seglib.weights.load import read_checkpoint
from seglib.weights.torchvision import rename_segmentation


def net(seed=0, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(net(), path, {"model": "fcn_tiny", "arguments": {"num_classes": 3}})
    return path


def test_weights_and_metadata_come_back(file):
    model = net(seed=1)
    facts = load_weights(model, file)
    assert facts == read_metadata(file) == {"model": "fcn_tiny", "arguments": {"num_classes": 3}}
    for name, value in net().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_metadata_keeps_its_types(tmp_path):
    facts = {"scores": {"miou": 0.5}, "categories": [{"id": 0, "color": [1, 2, 3]}], "name": "Straße"}
    save_weights(net(), tmp_path / "new" / "w.safetensors", facts)
    assert read_metadata(tmp_path / "new" / "w.safetensors") == facts


def test_channels_last_weights_are_saved_too(tmp_path):
    model = net().to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "w.safetensors", {})
    other = net(seed=1)
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(file, monkeypatch):
    before = file.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("seglib.weights.load.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_weights(net(seed=1), file, {})
    assert os.listdir(file.parent) == [file.name]
    assert file.read_bytes() == before


def test_metadata_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="metadata must be JSON-able"):
        save_weights(net(), tmp_path / "w.safetensors", {"mean": torch.zeros(3)})
    assert not os.listdir(tmp_path)


def test_a_file_of_another_model_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "other.safetensors"
    state = {f"k{i}": torch.zeros(1) for i in range(5)} | {"2.weight": torch.zeros(7, 4, 1, 1)}
    save_file(state, path, {"seglib": '{"model": "fcn8s", "arguments": {"num_classes": 7}}'})
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_weights(model, path)
    message = str(error.value)
    assert message.startswith(f"{path} does not fit this Sequential (it is for 'fcn8s' with num_classes=7)")
    assert "8 missing (0.weight, 0.bias, 1.weight, …)" in message
    assert "5 unexpected (k0, k1, k2, …)" in message
    assert "1 of another shape (2.weight is (7, 4, 1, 1) in the file and (3, 4, 1, 1) in the model)" in message
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "a refused file changes nothing"


def test_a_foreign_safetensors_file_has_no_metadata(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    assert read_metadata(path) == {}
    with pytest.raises(ValueError, match="does not say which model it is for"):
        load_weights(net(), path)


def test_mismatch_is_empty_when_all_fits():
    assert mismatch(net(), net(seed=1).state_dict()) == ""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_not_loaded_but_its_conversion_suggested(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=zipped)
    for read in (read_metadata, lambda p: load_weights(net(), p)):
        with pytest.raises(ValueError, match=r"model.pth is a pickle .*seglib convert"):
            read(path)


def test_a_header_whose_length_looks_like_a_pickle_is_loaded(tmp_path):
    path = tmp_path / "weights.safetensors"
    for length in range(256):
        save_weights(net(), path, {"model": "x" * length})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == pickle.PROTO
    assert load_weights(net(seed=1), path) == {"model": "x" * length}
    assert read_checkpoint(path).keys() == net().state_dict().keys()


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_truncated_file_is_named(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights.safetensors is no safetensors file or a damaged one"):
        load_weights(net(), file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
        read_metadata(tmp_path / "nothing.safetensors")


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    torch.save({"weight": Evil()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth can't be read safely"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil()))  # the same object does run when it is unpickled
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_checkpoints_of_other_codebases_are_read(tmp_path, wrap):
    torch.save(wrap(net().state_dict()), tmp_path / "c.pth")
    state = read_checkpoint(tmp_path / "c.pth")
    assert mismatch(net(), state) == ""
    assert torch.equal(state["0.weight"], net()[0].weight)


def test_a_safetensors_file_can_be_converted_from(file):
    assert mismatch(net(), read_checkpoint(file)) == ""


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c.pth holds no state dict"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_truncated_checkpoint_is_named(tmp_path):
    torch.save(net().state_dict(), tmp_path / "c.pth")
    (tmp_path / "c.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"c.pth can't be read safely"):
        read_checkpoint(tmp_path / "c.pth")


def test_an_unknown_origin_gets_close_names():
    with pytest.raises(ValueError, match="did you mean torchvision:fcn_resnet50"):
        convert("torchvision:fcn_resnet5", {})
    with pytest.raises(ValueError, match="known are torchvision:fcn_resnet50"):
        read_origin("elsewhere")


def test_offline_the_error_names_the_file_to_fetch(monkeypatch):
    def offline(*args, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*fetch https://.*fcn_resnet50_coco.*\.pth"):
        read_origin("torchvision:fcn_resnet50")


def test_published_weights_are_read_without_unpickling_and_with_their_hash_checked(monkeypatch):
    asked = {}

    def download(url, **keywords):
        asked.update(keywords)
        return {"weight": torch.ones(1)}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert set(load_pretrained(VGG16_Weights.IMAGENET1K_V1)) == {"weight"}
    assert asked["weights_only"] is True and asked["check_hash"] is True


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()


def test_converted_weights_say_what_they_are(reference):
    name, state, facts = convert("torchvision:fcn_resnet50", reference)
    assert name == facts["model"] == "fcn_resnet50"
    assert facts["origin"] == "torchvision:fcn_resnet50"
    assert facts["arguments"] == {"num_classes": 21, "aux": True}
    model = build(name, **facts["arguments"])
    assert mismatch(model, state) == ""


def test_the_converted_classes_are_vocs_things_first_background_last(reference):
    facts = convert("torchvision:fcn_resnet50", reference)[2]
    table = check_categories([Category(**{**c, "color": tuple(c["color"])}) for c in facts["categories"]])
    assert [c.name for c in table[:-1]] == FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:]
    assert table[-1] == Category(20, "background", False, (0, 0, 0))
    assert table[0] == Category(0, "aeroplane", True, (128, 0, 0))
    assert all(c.isthing for c in table[:-1])


def test_vocs_colours():
    assert [voc_color(i) for i in (1, 2, 4, 8, 15, 20)] == [
        (128, 0, 0), (0, 128, 0), (0, 0, 128), (64, 0, 0), (192, 128, 128), (0, 64, 128)
    ]  # fmt: skip


def test_the_auxiliary_head_may_be_absent(reference):
    state = {k: v for k, v in reference.items() if not k.startswith("aux_classifier.")}
    name, converted, facts = convert("torchvision:fcn_resnet50", state)
    assert facts["arguments"] == {"num_classes": 21, "aux": False}
    assert mismatch(build(name, num_classes=21, aux=False), converted) == ""


def test_both_heads_have_their_classes_reordered(reference):
    state = convert("torchvision:fcn_resnet50", reference)[1]
    for ours, theirs in {"head.4": "classifier.4", "aux_head.4": "aux_classifier.4"}.items():
        for part in ("weight", "bias"):
            assert torch.equal(state[f"{ours}.{part}"][-1], reference[f"{theirs}.{part}"][0])
            assert torch.equal(state[f"{ours}.{part}"], reference[f"{theirs}.{part}"][VOC_ORDER])


@pytest.mark.parametrize("change", [lambda s: {**s, "decoder.0": torch.zeros(1)}, lambda s: {}])
def test_weights_of_another_model_are_not_converted(reference, change):
    with pytest.raises(ValueError, match="not the weights of a torchvision segmentation model"):
        convert("torchvision:fcn_resnet50", change(reference))


def test_every_tensor_must_have_its_place(reference):
    broken = {k: v for k, v in reference.items() if k != "backbone.conv1.weight"} | {
        "backbone.conv7.weight": torch.zeros(1)
    }
    message = (
        r"not the weights of torchvision:fcn_resnet50: 1 missing \(encoder.conv1.weight\); 1 unexpected \(encoder.conv7"
    )
    with pytest.raises(ValueError, match=message):
        convert("torchvision:fcn_resnet50", broken)
    with pytest.raises(ValueError, match="not the weights of torchvision:fcn_resnet101: 306 missing"):
        convert("torchvision:fcn_resnet101", reference)


def test_weights_of_another_number_of_classes_keep_their_order_and_are_called_by_number(reference):
    state = {k: v[:4] if ".4." in k and k.startswith(("cl", "aux")) else v for k, v in reference.items()}
    name, converted, facts = convert("torchvision:fcn_resnet50", state)
    assert name == "fcn_resnet50" and facts["arguments"] == {"num_classes": 4, "aux": True}
    assert [c["name"] for c in facts["categories"]] == ["class 0", "class 1", "class 2", "class 3"]
    assert torch.equal(converted["head.4.weight"], state["classifier.4.weight"])
    assert mismatch(build("fcn_resnet50", num_classes=4), rename_segmentation(state)) == ""


@pytest.mark.parametrize("wrapper", ["module.", "model.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_taken_off(reference, wrapper):
    _, plain, _ = convert("torchvision:fcn_resnet50", reference)
    _, wrapped, _ = convert("torchvision:fcn_resnet50", {wrapper + k: v for k, v in reference.items()})
    assert wrapped.keys() == plain.keys()


def test_a_prefix_that_not_all_names_have_stays(reference):
    with pytest.raises(ValueError, match="unknown keys"):
        convert("torchvision:fcn_resnet50", {**{"module." + k: v for k, v in reference.items()}, "step": torch.ones(1)})


def test_a_mask_rcnn_fine_tuned_on_one_class_converts_as_the_tutorial_trains_it():
    reference = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    name, converted, facts = convert("torchvision:mask_rcnn_resnet50_fpn", reference.state_dict())
    assert name == "mask_rcnn_resnet50_fpn" and facts["arguments"]["num_classes"] == 1
    assert [(c["name"], c["isthing"]) for c in facts["categories"]] == [("class 1", True)] and facts["file_ids"] == [1]
    logits = reference.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(converted["box_head.logits.weight"], logits.flip(0)), "background is last"


def test_the_folder_of_a_run_stands_for_its_weights(tmp_path):
    with pytest.raises(ValueError, match="is a folder without weights.safetensors"):
        load_model(tmp_path)
    save_weights(
        build("fcn_tiny", num_classes=3),
        tmp_path / "weights.safetensors",
        {"model": "fcn_tiny", "arguments": {"num_classes": 3}},
    )
    assert load_model(tmp_path).num_classes == 3


def test_every_origin_leads_to_a_model_of_the_zoo():
    from seglib.models.zoo import MODELS

    assert {o.builder for o in ORIGINS.values()} <= set(MODELS)


def test_metadata_that_are_no_json_name_the_file(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "odd.safetensors", {"seglib": "{"})
    with pytest.raises(ValueError, match=r"odd\.safetensors has metadata that are no JSON"):
        read_metadata(tmp_path / "odd.safetensors")


# load_model


def test_load_model_builds_what_was_saved_with_all_its_arguments_and_its_geometry(tmp_path):
    arguments = {"num_classes": 3, "stride": 8}
    model = build("fcn_tiny", **arguments)
    geometry = Geometry("shorter", 64, 100)
    facts = {"model": "fcn_tiny", "arguments": arguments, "geometry": geometry.to_json()}
    save_weights(model, tmp_path / "w.safetensors", facts)
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.geometry == geometry and not loaded.training
    image = torch.rand(1, 3, 40, 40)
    assert torch.equal(loaded(image).logits, model.eval()(image).logits)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "doesn't say which model it is for; write it with `seglib train`"),
        ({"model": "fcn_tiny"}, "doesn't say which model it is for"),
        ({"model": "fcn_tiny", "arguments": {"depth": 3}}, "another version of fcn_tiny .*depth"),
        ({"model": "fcn_tinny", "arguments": {"num_classes": 3}}, "did you mean fcn_tiny"),
        ({"model": "fcn_tiny", "arguments": {"num_classes": 4}}, "does not fit this FCN"),
    ],
)
def test_load_model_says_what_a_file_lacks(tmp_path, facts, message):
    save_weights(build("fcn_tiny", num_classes=3), tmp_path / "w.safetensors", facts)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("name", "builder"), [("unet_resnet34", "unet"), ("mask_rcnn_resnet50_fpn", "mask_rcnn")])
def test_load_model_fetches_no_imagenet_weights_for_a_file_that_has_its_own(tmp_path, monkeypatch, name, builder):
    def fetch(weights):
        raise AssertionError(f"{weights} would be downloaded")

    monkeypatch.setattr("seglib.layers.resnet.load_pretrained", fetch)
    frozen = {"frozen": True} if builder == "mask_rcnn" else {}
    facts = {"model": name, "arguments": {"num_classes": 3, "pretrained": True}}
    save_weights(build(name, num_classes=3, **frozen), tmp_path / "w.safetensors", facts)
    load_model(tmp_path / "w.safetensors")


def test_a_geometry_of_a_newer_version_is_refused_by_name(tmp_path):
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 3}, "geometry": {"mode": "native", "crop": 3}}
    save_weights(build("fcn_tiny", num_classes=3), tmp_path / "w.safetensors", facts)
    with pytest.raises(ValueError, match="another version of fcn_tiny .*crop"):
        load_model(tmp_path / "w.safetensors")


def test_converted_detectors_see_images_as_their_authors_show_them():
    for origin, geometry in (
        ("torchvision:mask_rcnn_resnet50_fpn", Geometry("shorter", 800, 1333, antialias=False, rounding="floor")),
        ("torchvision:mask_rcnn_resnet50_fpn_v2", Geometry("shorter", 800, 1333, antialias=False, rounding="floor")),
    ):
        name = origin.split(":")[1].replace("mask_rcnn", "maskrcnn")
        reference = getattr(detection, name)(weights=None, weights_backbone=None)
        _, _, facts = convert(origin, reference.state_dict())
        assert Geometry(**facts["geometry"]) == geometry
        assert facts["file_ids"] == list(range(1, 91))
