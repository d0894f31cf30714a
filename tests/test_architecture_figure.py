"""Architecture drawings: their maps and switches against the models, and themselves in a browser."""

import base64
import copy
import functools
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import slim
import torch
from browser import finger, middle
from PIL import Image
from torch import nn
from torch.nn import functional as F

from seglib.book.figures import Figure, architecture
from seglib.book.figures.architecture import Block, Cut, Edge, Group, Swap, Switch, argument, paint, parts
from seglib.book.figures.architecture.trunk import without_top_down
from seglib.book.figures.element import source
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.layers.tiny import TinyEncoder
from seglib.metrics import PanopticQuality
from seglib.models.condinst import condinst_tiny
from seglib.models.deeplab import deeplab_tiny, deeplabv3plus_resnet34
from seglib.models.fcn import FCN, fcn_resnet18, fcn_resnet50, fcn_tiny
from seglib.models.mask2former import mask2former_tiny
from seglib.models.panoptic_fpn import PanopticFPN, panoptic_fpn_tiny
from seglib.models.solov2 import solov2_tiny
from seglib.models.unet import unet_paper, unet_resnet34, unet_tiny
from seglib.types import VOID, Category, Instances
from seglib.viz.colors import colorize

ROOT = Path(__file__).resolve().parents[1]
K = len(CATEGORIES)
SEMANTIC = ("fcn", "unet", "deeplab")
ONE_STAGE = ("yolact", "condinst", "solov2")
PRESETS = (*SEMANTIC, "fpn", "rpn", "mask_rcnn", *ONE_STAGE, "panoptic_fpn", "mask2former")
PANOPTIC = ("panoptic_fpn", "mask2former")
LARGE = (
    "anchors", "proposals", "detections", "masks", "prototypes", "features", "sum", "crop", "coordinates", "things",
    "stuff", "deformable",
)  # fmt: skip


@functools.cache
def scene():
    return Scenes(3, split="val")[2]


@functools.cache
def model_of(preset):
    if preset in ("fcn", "deeplab", *ONE_STAGE, *PANOPTIC):
        return stored_model(f"{preset}_tiny")
    if preset == "unet":
        return seeded(unet_tiny)
    return stored_model("mask_rcnn_tiny")


def seeded(build, *args, **kwargs):
    torch.manual_seed(0)
    model = build(*(args or (K,)), **kwargs).eval()
    for module in model.modules():  # score layers of the FCN start at zero, which would make every answer the same
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return model


@functools.cache
def _make(preset: str, compact: bool, here: str | None) -> Figure:
    part = "semantic" if preset in SEMANTIC else "panoptic" if preset in PANOPTIC else "instances"
    draw, target = getattr(architecture, preset), getattr(scene(), part)
    return draw(model_of(preset), scene().image, CATEGORIES, target=target, compact=compact, here=here)


def make(preset, compact=False, here=None):
    return _make(preset, compact, here)


def block(figure, name):
    return next(b for b in figure.params["blocks"] if b["n"] == name)


def decode(png):
    return Image.open(io.BytesIO(base64.b64decode(png)))


# The HTML


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_drawing_is_small_the_same_every_time_and_asks_nobody(preset):
    page = make(preset)._repr_html_()
    assert page == _make.__wrapped__(preset, False, None)._repr_html_()
    assert len(page.encode()) < 200_000
    assert len(source("architecture").encode()) < 16_500
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_strip_is_smaller_still(preset):
    assert len(make(preset, compact=True)._repr_html_().encode()) < 25_000


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_drawing_lists_its_blocks_without_javascript_and_names_itself_without_html(preset, compact):
    class Text(HTMLParser):
        found, inside = "", True

        def handle_starttag(self, tag, attrs):
            self.inside = self.inside and tag != "script"

        def handle_data(self, data):
            self.found += data if self.inside else ""

    figure = make(preset, compact=compact)
    text = Text()
    text.feed(figure._repr_html_())
    assert "(the drawing needs JavaScript)" in text.found
    for b in make(preset).params["blocks"]:
        assert f"{b['shape']}. {b['t']} {b['code']}" in text.found
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "block by block, from a real forward pass" in bundle["text/plain"]


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    categories = [Category(c.id, name if c.id == 0 else c.name, c.isthing, c.color) for c in CATEGORIES]
    page = architecture.fcn(model_of("fcn"), scene().image, categories, name=name)._repr_html_()
    assert page.count("<script>") == 1
    [found] = re.findall(r'data-params="([^"]*)"', page)
    assert json.loads(html.unescape(found))["name"] == name


# The maps


@pytest.mark.parametrize("preset", PRESETS)
def test_every_block_knows_its_module_and_its_line_of_code(preset):
    model = model_of(preset)
    for b in make(preset).params["blocks"]:
        if b["path"] != "the model":
            model.get_submodule(b["path"])
        assert b["code"] and b["code"] in (ROOT / b["file"]).read_text()
        assert b["t"].endswith(".") and b["l"]


def test_shapes_strides_and_weights_are_those_of_the_model():
    figure, model = make("unet"), model_of("unet")
    with torch.no_grad():
        maps = model.encoder(model.normalize(scene().image[None]))
    for level, stride in zip(("c1", "c2", "c3", "c4", "c5"), (2, 4, 8, 16, 32), strict=True):
        found = block(figure, level)
        assert found["shape"] == "×".join(map(str, maps[level].shape[1:]))
        assert found["facts"].startswith(f"stride {stride}, ")
    count = sum(p.numel() for part in (model.encoder.down[0], model.encoder.blocks[0]) for p in part.parameters())
    assert block(figure, "c2")["facts"] == f"stride 4, {count:,} weights"
    assert block(figure, "prediction")["shape"] == f"{K}×128×128" and not block(figure, "prediction")["facts"]


def test_the_weights_of_a_networks_blocks_add_up_to_the_networks():
    for preset in (*SEMANTIC, "mask_rcnn", *ONE_STAGE, *PANOPTIC):
        total = sum(p.numel() for p in model_of(preset).parameters())
        said = [re.search(r"([\d,]+) weights", b["facts"]) for b in make(preset).params["blocks"]]
        found = sum(int(m[1].replace(",", "")) for m in said if m)
        assert found == total, preset


def test_a_map_is_the_mean_strength_of_the_hooked_activation():
    with torch.no_grad():
        maps = model_of("deeplab").encoder(model_of("deeplab").normalize(scene().image[None]))
    assert block(make("deeplab"), "c4")["m"] == paint.heat(maps["c4"][0].abs().mean(0))
    channels = block(make("deeplab"), "c4")["c"]
    assert [png for _, png in channels] == [paint.heat(maps["c4"][0, i], 32) for i, _ in channels]
    spread = maps["c4"][0].flatten(1).std(1)
    assert channels[0][0] == int(spread.argmax())


def test_a_sum_of_the_ladder_is_the_upsampled_scores_plus_the_finer_ones():
    model, image = model_of("fcn"), scene().image[None]
    with torch.no_grad():
        maps = model.encoder(model.normalize(image))
        coarse = model.upsample["c4"](model.score["c5"](maps["c5"]))
        crop, fine = model.crops["c4"], model.score["c4"](maps["c4"])
        total = coarse[..., crop : crop + 8, crop : crop + 8] + fine
    assert block(make("fcn"), "sum_c4")["m"] == paint.classes(total[0].argmax(0), CATEGORIES, paint.MAP)


def test_the_shared_head_has_a_map_for_each_level():
    figure, model = make("rpn"), model_of("rpn")
    with torch.no_grad():
        pyramid = model.pyramid(scene().image[None])
    for digit, level in enumerate(pyramid, 1):
        with torch.no_grad():
            deltas = model.rpn_head.deltas(model.rpn_head.conv(level))
        assert block(figure, f"deltas_{digit}")["m"] == paint.heat(deltas[0].abs().mean(0))


def test_a_map_of_one_cell_shows_its_channels():
    found = block(make("deeplab"), "pooling")
    assert found["shape"] == "64×1×1" and "stride" not in found["facts"]
    assert decode(found["m"]).size == (8, 8) and found["what"].startswith("One cell")


@pytest.mark.parametrize("preset", PRESETS)
def test_maps_are_tiny_and_have_few_colours(preset):
    for b in make(preset).params["blocks"]:
        for png in [b.get("m"), *(png for _, png in b.get("c", []))]:
            if png not in ("image", "prediction", None):
                size = decode(png).size
                assert max(size) <= 128 and len(decode(png).getcolors()) <= 64
                assert max(size) <= 64 or b["n"] in LARGE


# The switches


def labels(model):
    return model.predict(scene().image[None])[0].labels


def state(figure, *switches):
    chosen = sorted(figure.params["switches"].index(s) for s in switches)
    return figure.params["states"][",".join(map(str, chosen))]


def painted(prediction):
    return paint.classes(prediction, CATEGORIES)


def test_turning_a_score_off_is_a_network_whose_score_is_zero():
    for off in (["c3"], ["c2", "c4"], ["c2", "c3", "c4", "c5"]):
        model = copy.deepcopy(model_of("fcn"))
        for level in off:
            nn.init.zeros_(model.score[level].weight)
            nn.init.zeros_(model.score[level].bias)
        assert state(make("fcn"), *(f"scores of {level}" for level in off))[0] == painted(labels(model))


def test_turning_a_skip_off_is_a_decoder_that_ignores_those_channels():
    for level, i in (("c4", 0), ("c1", 3)):
        model = copy.deepcopy(model_of("unet"))
        with torch.no_grad():
            model.decoder[i].conv1[0].weight[:, -model.encoder.channels[level] :] = 0
        assert state(make("unet"), f"skip from {level}")[0] == painted(labels(model))


def test_turning_a_branch_off_is_a_projection_that_ignores_it():
    for name, i in (("1×1", 0), ("3×3, rate 4", 2), ("image pooling", 4)):
        model = copy.deepcopy(model_of("deeplab"))
        width = model.aspp[0].project[0].weight.shape[0]
        with torch.no_grad():
            model.aspp[0].project[0].weight[:, i * width : (i + 1) * width] = 0
        assert state(make("deeplab"), name)[0] == painted(labels(model))


def test_turning_deltas_off_leaves_the_proposals_where_they_are():
    model = copy.deepcopy(model_of("mask_rcnn"))
    nn.init.zeros_(model.box_head.deltas.weight)
    nn.init.zeros_(model.box_head.deltas.bias)
    found = model.predict(scene().image[None])[0]
    want = paint.instances(found[found.scores >= 0.5], CATEGORIES)
    assert state(make("mask_rcnn"), "box head's deltas")[0] == want != state(make("mask_rcnn"))[0]


def test_without_the_top_down_path_a_level_knows_its_own_map_alone():
    model = copy.deepcopy(model_of("fpn"))
    with torch.no_grad():
        maps = list(model.encoder(model.normalize(scene().image[None], None, "replicate")).values())
        alone = without_top_down(model.fpn, (maps,), None)
        for i, level in enumerate(alone):
            others = [torch.zeros_like(m) if j != i else m for j, m in enumerate(maps)]
            for j, lateral in enumerate(model.fpn.lateral):
                if j != i:
                    others[j] = torch.zeros_like(lateral(maps[j]))
            want = model.fpn.output[i](model.fpn.lateral[i](maps[i]))
            torch.testing.assert_close(level, want)
        torch.testing.assert_close(alone[-1], model.fpn(maps)[-1])  # the top has nothing above it


def test_what_is_said_of_a_change_is_counted():
    figure, target = make("fcn"), scene().semantic
    model = copy.deepcopy(model_of("fcn"))
    nn.init.zeros_(model.score["c2"].weight)
    nn.init.zeros_(model.score["c2"].bias)
    before, after = labels(model_of("fcn")), labels(model)

    def miou(found):
        known = target != VOID
        return float(
            np.mean([
                float(((found == k) & (target == k)).sum() / (((found == k) & known) | (target == k)).sum())
                for k in target[known].unique()
            ])
        )  # fmt: skip

    said = state(figure, "scores of c2")[1]
    assert said.startswith(f"{100 * float((before != after).double().mean()):.1f}% of the pixels change their class.")
    assert f"Mean IoU on this image: {miou(before):.2f} → {miou(after):.2f}." in said
    assert f": {miou(before):.2f}." in state(figure)[1]


def test_without_a_target_the_changed_pixels_are_counted_and_there_is_no_truth():
    figure = architecture.fcn(model_of("fcn"), scene().image, CATEGORIES)
    assert "truth" not in figure.params and state(figure)[1] == ""
    assert re.fullmatch(r"[\d.]+% of the pixels change their class\.", state(figure, "scores of c2")[1])


def test_a_detector_is_scored_by_the_objects_that_it_finds():
    said, total = state(make("mask_rcnn"))[1], len(scene().instances)
    assert re.match(rf"\d+ detections with a score of at least 0.5. Found: \d+ of {total} objects", said)
    assert re.search(rf"Found: \d+ → \d+ of {total} objects", state(make("mask_rcnn"), "top-down path")[1])
    assert re.search(rf"Objects hit \(IoU ≥ 0.5\): \d+ → \d+ of {total}", state(make("rpn"), "box deltas")[1])


def off(preset, switch, change):
    """The painted answer with a switch off, and that of a copy of the model that is changed by hand."""
    model = copy.deepcopy(model_of(preset))
    with torch.no_grad():
        found = (change(model) or model).predict(scene().image[None])[0]
    return state(make(preset), switch)[0], paint.instances(found[found.scores >= 0.5], CATEGORIES)


def unpacked(change):
    """A model whose predictions have their packed masks changed."""

    def apply(model):
        whole = model.postprocess

        def postprocess(*args):
            return [f.replace(masks=change(f.packed)) for f in whole(*args)]

        model.postprocess = postprocess

    return apply


def half_of_yolact(model):
    k = model.protonet.predict.out_channels
    model.protonet.predict.weight[k // 2 :] = 0
    model.protonet.predict.bias[k // 2 :] = 0  # ReLU(0) = 0


def positive(model):
    forward = model.forward
    model.forward = lambda *args: replace(out := forward(*args), coefficients=out.coefficients.clamp(min=0))


def half_of_condinst(model):
    last, features = model.mask_branch.tower[-1], model.mask_branch.tower[-1].out_channels
    last.weight[features // 2 :] = 0
    last.bias[features // 2 :] = 0


def certain(model):
    model.head.centerness.weight[:] = 0
    model.head.centerness.bias[:] = 20


def blind_kernels(model):
    model.head.kernel_tower[0][0].weight[:, -2:] = 0


def blind_features(model):
    model.mask_features.branches[-1][0][0].weight[:, -2:] = 0


def half_of_solo(model):
    norm = model.mask_features.output[1]  # a group norm, then ReLU
    norm.weight[norm.num_channels // 2 :] = 0
    norm.bias[norm.num_channels // 2 :] = 0


def lenient(model):
    model.detections = replace(model.detections, sigma=1e-9)


@pytest.mark.parametrize(
    ("preset", "switch", "change"),
    [
        ("yolact", "crop by the box", unpacked(lambda masks: replace(masks, boxes=None))),
        ("yolact", "half of the prototypes", half_of_yolact),
        ("yolact", "negative coefficients", positive),
        ("condinst", "relative coordinates", unpacked(lambda masks: replace(masks, x=masks.x * 0, y=masks.y * 0))),
        ("condinst", "own filters",
         unpacked(lambda masks: replace(masks, parameters=masks.parameters[[0] * len(masks)]))),
        ("condinst", "half of the features", half_of_condinst),
        ("condinst", "centerness", certain),
        ("solov2", "coordinates of the kernels", blind_kernels),
        ("solov2", "coordinates of the mask branch", blind_features),
        ("solov2", "half of the features", half_of_solo),
        ("solov2", "Matrix NMS", lenient),
    ],
)  # fmt: skip
def test_turning_a_part_of_a_one_stage_model_off_is_a_model_without_it(preset, switch, change):
    got, want = off(preset, switch, change)
    assert got == want
    before, after = re.search(r"(\d+) → (\d+) detections", state(make(preset), switch)[1]).groups()
    assert got != state(make(preset))[0] or before != after  # a second detection of an object can hide behind the first


def without_semantics(model):
    for parameter in model.semantic_head.predict.parameters():
        nn.init.zeros_(parameter)  # of equal logits the first class wins, any thing


def finest_alone(model):
    for scale in model.semantic_head.scales[1:]:
        norms = [m for m in scale if isinstance(m, nn.GroupNorm)]
        nn.init.zeros_(norms[-1].weight)
        nn.init.zeros_(norms[-1].bias)  # before a ReLU and an upsampling


def whole_boxes(model):
    nn.init.zeros_(model.mask_head.predict.weight)
    nn.init.constant_(model.mask_head.predict.bias, 20)


def without_things(model):
    model.merge = replace(model.merge, score_threshold=1.0)


@pytest.mark.parametrize(
    ("switch", "change"),
    [
        ("semantic head", without_semantics),
        ("its coarser levels", finest_alone),
        ("mask head", whole_boxes),
        ("things", without_things),
    ],
)
def test_turning_a_part_of_panoptic_fpn_off_is_a_model_without_it(switch, change):
    model = copy.deepcopy(model_of("panoptic_fpn"))
    change(model)
    found = model.predict(scene().image[None])[0]
    assert state(make("panoptic_fpn"), switch)[0] == paint.panoptic(found, CATEGORIES)
    assert state(make("panoptic_fpn"), switch)[0] != state(make("panoptic_fpn"))[0]


def test_a_panoptic_map_is_scored_by_its_quality_and_what_it_leaves_void():
    figure, found = make("panoptic_fpn"), model_of("panoptic_fpn").predict(scene().image[None])[0]
    metric = PanopticQuality(CATEGORIES)
    metric.update(found, scene().panoptic)
    pq, void = metric.compute().pq, 100 * float((found.map == 0).double().mean())
    things = sum(s.isthing for s in found.segments)
    said = (
        f"{things} segments of things and {len(found.segments) - things} of stuff; {void:.1f}% of the pixels are void."
    )
    assert state(figure)[1].startswith(f"{said} PQ on this image: {pq:.2f}, of things ")
    off = state(figure, "semantic head")[1]
    assert f"{things} segments of things and 0 of stuff. Void: {void:.1f}% → " in off
    assert re.search(rf"PQ on this image: {pq:.2f} → 0\.\d\d, of things .*, of stuff 0\.\d\d → 0\.00\.$", off)
    truth = figure.params["truth"]
    assert truth == paint.panoptic(scene().panoptic, CATEGORIES)
    alone = architecture.panoptic_fpn(model_of("panoptic_fpn"), scene().image, CATEGORIES)
    assert "truth" not in alone.params and state(alone)[1] == said


def test_the_things_of_the_drawing_are_those_that_the_merge_asks():
    figure, model = make("panoptic_fpn"), model_of("panoptic_fpn")
    with torch.no_grad():
        out = model(scene().image[None])
        found, stuff = model.things(out, [(128, 128)])[0], model.stuff(out, [(128, 128)])[0]
    count = int((found.scores >= model.merge.score_threshold).sum())
    assert block(figure, "things")["shape"] == f"{count}×128×128" and 0 < count < len(found)
    pixels = decode(block(figure, "stuff")["m"]).convert("RGB")
    assert pixels.size == (128, 128)
    y, x = (stuff != VOID).nonzero()[0].tolist()
    assert pixels.getpixel((x, y)) == CATEGORIES[int(stuff[y, x])].color
    sizes = {block(figure, f"s{i}")["shape"] for i in range(1, 6)}
    assert sizes == {"32×64×64"}  # every level arrives at the finest one's size


def test_the_cells_that_solo_keeps_are_those_that_its_detections_come_from():
    model, figure = model_of("solov2"), make("solov2")
    with torch.no_grad():
        out = model(scene().image[None])
        kept = model.detect(out.category_logits[0], out.kernels[0], out.mask_features[0])[0]
    cells, kernels = int(block(figure, "cells")["shape"]), block(figure, "kept")["shape"]
    assert len(set(kept.tolist())) <= cells and int(kernels.split("×")[0]) >= len(kept)
    assert block(figure, "nms")["shape"].startswith("2×")


def test_a_part_that_a_model_lacks_has_no_switch():
    blind = architecture.condinst(seeded(condinst_tiny, K, relative_coordinates=False), scene().image, CATEGORIES)
    assert blind.params["switches"] == ["own filters", "half of the features", "centerness"]
    assert not any(b["n"] == "coordinates" for b in blind.params["blocks"])
    blind = architecture.solov2(seeded(solov2_tiny, K, coordinates=()), scene().image, CATEGORIES)
    assert blind.params["switches"] == ["half of the features", "Matrix NMS"]


def test_a_setting_or_a_method_is_exchanged_and_comes_back():
    model = seeded(condinst_tiny)
    settings = model.detections
    undo = Swap("detections", lambda m: replace(m.detections, nms=0.9)).install(model)
    assert model.detections.nms == 0.9
    undo.remove()
    assert model.detections is settings
    undo = Swap("coordinates", lambda m: lambda *args: "none").install(model)
    assert model.coordinates() == "none"
    undo.remove()
    assert "coordinates" not in vars(model) and model.coordinates.__func__ is type(model).coordinates
    undo = Swap("training", lambda m: True, "encoder").install(model)
    assert model.encoder.training and not model.training
    undo.remove()
    assert not model.encoder.training
    with pytest.raises(ValueError, match="CondInst has no attribute 'colour', which a switch exchanges"):
        Swap("colour", lambda m: None).install(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_combination_that_can_be_pressed_is_stored(preset):
    p = make(preset).params
    n, most = len(p["switches"]), p["most"]
    assert most == (n if n <= 4 else 2)
    want = {tuple(i for i in range(n) if m >> i & 1) for m in range(2**n)}
    want = {w for w in want if len(w) <= most}
    assert {tuple(map(int, filter(None, key.split(",")))) for key in p["states"]} == want


def test_each_switch_greys_an_arrow():
    for preset in PRESETS:
        p = make(preset).params
        assert {e["s"] for e in p["edges"] if "s" in e} == set(range(len(p["switches"]))), preset


def test_the_model_is_left_as_it_was():
    model = seeded(fcn_tiny).train()
    model.encoder.blocks[0].eval()
    modes = [m.training for m in model.modules()]
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    architecture.fcn(model, scene().image, CATEGORIES)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="no line of"):
        architecture.draw(model, scene().image, [Block("a", "a", (0, 0), "", "no such line", "A.")], [], [], CATEGORIES)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# Other models


class Plain(nn.Module):
    """An encoder that nobody knows."""

    def __init__(self):
        super().__init__()
        self.inner = TinyEncoder()
        self.channels, self.grids = self.inner.channels, self.inner.grids
        self.size_divisibility = 32

    def forward(self, images):
        return self.inner(images)


def blind_queries(model):
    for layer in model.decoder.layers:
        nn.init.zeros_(layer.self_attention.out.weight)
        nn.init.zeros_(layer.self_attention.out.bias)


def separate_scales(model):
    for layer in model.pixel_decoder.layers:
        nn.init.zeros_(layer.attention.output_proj.weight)
        nn.init.zeros_(layer.attention.output_proj.bias)


def open_attention(model):
    model.decoder.masked_attention = False


def three_layers(model):
    model.decoder.layers = model.decoder.layers[:3]


@pytest.mark.parametrize(
    ("switch", "change"),
    [
        ("attention masks", open_attention),
        ("deformable attention", separate_scales),
        ("self-attention", blind_queries),
        ("layers 4 to 6", three_layers),
    ],
)
def test_turning_a_part_of_mask2former_off_is_a_model_without_it(switch, change):
    model = copy.deepcopy(model_of("mask2former"))
    with torch.no_grad():
        change(model)
        want = model.predict(scene().image[None])[0]
    figure, whole = make("mask2former"), model_of("mask2former")
    assert state(figure, switch)[0] == paint.panoptic(want, CATEGORIES) != state(figure)[0]
    assert whole.decoder.masked_attention and "masked_attention" in whole.decoder.__dict__


def test_the_maps_of_mask2former_are_those_of_its_queries():
    figure, model = make("mask2former"), model_of("mask2former")
    with torch.no_grad():
        out = model(scene().image[None])
    queries, cells = model.decoder.query_features.shape[0], out.mask_features.shape[2:]
    for i in (1, 6):  # the answer after a layer, as the model would give it
        probs = out.class_logits[i, 0].softmax(-1)[:, :-1]
        scores = torch.einsum("qk,qhw->khw", probs, out.mask_logits(i)[0].sigmoid())
        shown = np.array(decode(block(figure, f"layer{i}")["m"]).convert("RGB"))
        assert np.array_equal(shown, colorize(scores.argmax(0), CATEGORIES))
    assert block(figure, "layer6")["shape"] == f"{queries}×64" and block(figure, "layer6")["path"] == "decoder.layers.5"
    assert block(figure, "masks")["shape"] == f"{queries}×{cells[0]}×{cells[1]}"
    assert block(figure, "classes")["shape"] == f"{queries}×{K + 1}"
    order = out.class_logits[-1, 0].softmax(-1)[:, :-1].amax(1).argsort(descending=True)[:6]
    features = F.interpolate(out.mask_features, size=(16, 16), mode="bilinear")
    inside = torch.einsum("qc,chw->qhw", out.mask_embeddings[5, 0, order], features[0]) >= 0
    sheet = np.array(decode(block(figure, "attention_mask")["m"]).convert("RGB"))  # (33, 50, 3): 2 × 3 masks, one apart
    for k, mask in enumerate(inside | ~inside.any((1, 2), keepdim=True)):
        tile = sheet[k // 3 * 17 :][:16, k % 3 * 17 :][:, :16]
        assert np.array_equal((tile == paint.VIRIDIS[-1]).all(-1), mask.numpy())


OTHERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "FCN-8s on VGG": ("fcn", lambda: seeded(FCN, slim.vgg(), K, stride=8)),
    "FCN on ResNet-18": ("fcn", lambda: seeded(fcn_resnet18)),
    "FCN-32s, no skips": ("fcn", lambda: seeded(fcn_tiny, K, stride=32)),
    "FCN, overlapping": ("fcn", lambda: seeded(fcn_tiny, K, overlapping=True)),
    "FCN on an unknown encoder": ("fcn", lambda: seeded(FCN, Plain(), K, stride=8)),
    "U-Net on ResNet-34": ("unet", lambda: seeded(unet_resnet34)),
    "U-Net without skips": ("unet", lambda: seeded(unet_tiny, K, skips=False)),
    "DeepLab v3+ on ResNet-34": ("deeplab", lambda: seeded(deeplabv3plus_resnet34)),
    "FPN with a top block": ("fpn", lambda: seeded(slim.mask_rcnn, K, "mask_rcnn_resnet50_fpn")),
    "RPN with a top block": ("rpn", lambda: seeded(slim.mask_rcnn, K, "mask_rcnn_resnet50_fpn")),
    "Mask R-CNN on a ResNet": ("mask_rcnn", lambda: seeded(slim.mask_rcnn, K, "mask_rcnn_resnet50_fpn")),
    "YOLACT on a ResNet": ("yolact", lambda: seeded(slim.yolact, K)),
    "CondInst on a ResNet": ("condinst", lambda: seeded(slim.condinst, K)),
    "CondInst without coordinates": ("condinst", lambda: seeded(condinst_tiny, K, relative_coordinates=False)),
    "SOLOv2 on a ResNet": ("solov2", lambda: seeded(slim.solov2, K)),
    "SOLOv2 without coordinates": ("solov2", lambda: seeded(solov2_tiny, K, coordinates=())),
    "Mask2Former on a ResNet": ("mask2former", lambda: seeded(slim.SLIM["mask2former"][1], K)),
    "Mask2Former on Swin": ("mask2former", lambda: seeded(slim.SLIM["mask2former_swin"][1], K)),
    "Mask2Former for classes": ("mask2former", lambda: seeded(mask2former_tiny, K, task="semantic", layers=1)),
    "Mask2Former with open attention": (
        "mask2former",
        lambda: seeded(mask2former_tiny, K, num_things=7, layers=9, masked_attention=False),
    ),
    "Panoptic FPN on a ResNet": ("panoptic_fpn", lambda: seeded(slim.panoptic_fpn, 7, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_preset_draws_its_model_on_any_encoder_and_image(name):
    preset, build = OTHERS[name]
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    figure = getattr(architecture, preset)(build(), image, CATEGORIES)
    assert preset == "rpn" or block(figure, "image")["shape"] == "3×70×90"
    width, height = figure.params["size"]
    for b in figure.params["blocks"]:
        assert b["x"] - b["w"] / 2 >= 0 and b["x"] + b["w"] / 2 <= width, b["n"]
        assert b["y"] - b["h"] / 2 >= 0 and b["y"] + b["h"] / 2 <= height, b["n"]
    boxes = [(b["x"] - b["w"] / 2, b["y"] - b["h"] / 2, b["w"], b["h"]) for b in figure.params["blocks"]]
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[:i]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y, "two blocks overlap"
    assert len(figure._repr_html_().encode()) < 200_000


def test_the_general_form_draws_any_network_of_ours():
    model = seeded(unet_tiny)
    blocks = [
        Block("in", "in", (60, 60), "", "self.normalize(images, sizes", "In.", argument(), weights=(), shows="image"),
        Block("out", "out", (200, 60), "score", "logits = self.score(x)", "Out.", shows="classes"),
    ]
    switches = [Switch("score", "scores", (Cut("score"),))]
    figure = architecture.draw(
        model, scene().image, blocks, [Edge("in", "out", "net", switch="score")], switches, CATEGORIES, name="mine"
    )
    assert figure.params["states"]["0"][0] == painted(torch.zeros(128, 128, dtype=torch.int64))
    strip = architecture.draw(model, scene().image, blocks, [], [], CATEGORIES, compact=True, here="out")
    assert [(s["l"], s["here"]) for s in strip.params["steps"]] == [("in", False), ("out", True)]


def test_half_of_the_channels_can_be_cut():
    model = seeded(unet_tiny)
    hook = Cut("encoder.stem", channels=slice(0, 12)).install(model)
    found = model.encoder.stem(scene().image[None])
    hook.remove()
    want = model.encoder.stem(scene().image[None])
    assert not found[:, :12].any() and torch.equal(found[:, 12:], want[:, 12:])


# Errors


def draw(**changes):
    blocks = [
        Block("a", "a", (0, 0), "score", "logits = self.score(x)", "A."),
        Block("b", "b", (60, 0), "", "return DenseOutput(", "B.", lambda call: call.output.logits),
    ]
    values = {"image": scene().image, "blocks": blocks, "edges": [], "switches": []} | changes
    return architecture.draw(
        seeded(unet_tiny), values.pop("image"), values.pop("blocks"), values.pop("edges"), values.pop("switches"),
        CATEGORIES, **values,
    )  # fmt: skip


LINE = "logits = self.score(x)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": torch.rand(1, 3, 64, 64)}, r"image must be \(C, H, W\), got \(1, 3, 64, 64\)"),
        ({"blocks": []}, "needs blocks with names that differ"),
        ({"blocks": [Block("a", "a", (0, 0), "score", LINE, "A.")] * 2}, "names that differ, got"),
        ({"blocks": [Block("a", "a", (0, 0), "decoder.7", LINE, "A.")]}, "no module 'decoder.7', .* block 'a'"),
        ({"blocks": [Block("a", "a", (0, 0), "score", LINE, "A.", call=1)]}, r"did not call 'score' 2 times"),
        ({"blocks": [Block("a", "a", (0, 0), "score", "x = 7", "A.")]}, "no line of UNet in seglib/models/unet"),
        ({"blocks": [Block("a", "a", (0, 0), "score", LINE, "A.", shows="mood")]}, "block 'a' shows 'mood'"),
        ({"blocks": [Block("a", "a", (0, 0), "score", LINE, "A.", weights=("x",))]}, "no module 'x'"),
        ({"edges": [Edge("a", "c")]}, "the edge 'a' → 'c' names the block 'c', which is unknown; choose one of a, b"),
        ({"edges": [Edge("a", "b", switch="s")]}, "names the switch 's', which is unknown; choose one of none"),
        ({"switches": [Switch("s", "s", (Cut("nowhere"),))]}, "UNet has no module 'nowhere', which a switch names"),
        ({"groups": [Group("g", "g", ("a", "z"), "G.")]}, "the group 'g' names the block 'z'"),
        ({"here": "z"}, "here='z' is no block and no group; choose one of a, b"),
        ({"start": "z"}, "start names the block 'z'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        draw(**changes)


@pytest.mark.parametrize(
    ("preset", "build", "said"),
    [
        ("fcn", lambda: seeded(fcn_resnet50, K, aux=False), "skip form.* got DilatedFCN"),
        ("unet", lambda: seeded(unet_paper, K, width=2), "form in use.* got PaperUNet"),
        ("deeplab", lambda: seeded(deeplab_tiny, K, decoder=False), "DeepLabV3Plus, got DeepLabV3"),
        ("fpn", lambda: seeded(fcn_tiny), "fpn draws parts of .*MaskRCNN, got FCN"),
        ("rpn", lambda: seeded(fcn_tiny), "rpn draws parts of .*MaskRCNN, got FCN"),
        ("mask_rcnn", lambda: seeded(fcn_tiny), "mask_rcnn draws parts of .*MaskRCNN, got FCN"),
        ("yolact", lambda: seeded(fcn_tiny), "yolact draws .*YOLACT, got FCN"),
        ("condinst", lambda: seeded(fcn_tiny), "condinst draws .*CondInst, got FCN"),
        ("solov2", lambda: seeded(fcn_tiny), "solov2 draws .*SOLOv2, got FCN"),
        ("mask2former", lambda: seeded(fcn_tiny), "mask2former draws .*Mask2Former, got FCN"),
        ("panoptic_fpn", lambda: seeded(fcn_tiny), "panoptic_fpn draws .*PanopticFPN, got FCN"),
        ("mask_rcnn", lambda: seeded(panoptic_fpn_tiny, 7, 5), "mask_rcnn draws parts of .*MaskRCNN, got PanopticFPN"),
    ],
)
def test_a_preset_says_what_it_draws(preset, build, said):
    with pytest.raises(ValueError, match=said):
        getattr(architecture, preset)(build(), scene().image, CATEGORIES)


def test_an_unknown_place_lists_the_known_ones():
    with pytest.raises(ValueError, match="here='apps' is no block and no group; choose one of image, encoder, aspp, "):
        make("deeplab", here="apps")


# Where the reader is


@pytest.mark.parametrize(
    ("preset", "here", "step"),
    [
        ("deeplab", "aspp", "ASPP"),
        ("deeplab", "pooling", "ASPP"),
        ("unet", "c5", "bottleneck"),
        ("unet", "d2", "decoder"),
        ("mask_rcnn", "rpn", "RPN"),
        ("mask_rcnn", "masks", "mask head"),
        ("rpn", "anchors", "anchors"),
        ("yolact", "crop", "assembly"),
        ("condinst", "filters", "dynamic convs"),
        ("solov2", "kernel", "kernel branch"),
        ("panoptic_fpn", "sum", "semantic head"),
        ("panoptic_fpn", "merge", "merge"),
        ("mask2former", "p16", "pixel decoder"),
        ("mask2former", "attention_mask", "attention mask"),
        ("mask2former", "layer3", "decoder"),
    ],
)
def test_a_block_or_its_group_marks_the_step_of_the_strip(preset, here, step):
    assert [s["l"] for s in make(preset, compact=True, here=here).params["steps"] if s["here"]] == [step]


def test_a_group_is_framed_and_a_block_marked():
    framed = make("unet", here="decoder").params
    assert [f["here"] for f in framed["frames"]] == [True] and framed["here"] == "decoder"
    assert framed["blocks"][framed["start"]]["n"] == "d4" and not any(b["here"] for b in framed["blocks"])
    marked = make("unet", here="c2").params
    assert not marked["frames"] and [b["n"] for b in marked["blocks"] if b["here"]] == ["c2"]
    alone = make("unet", here="bottleneck").params  # a group of one block
    assert not alone["frames"] and [b["n"] for b in alone["blocks"] if b["here"]] == ["c5"]


# The painting


def test_a_map_goes_from_dark_to_bright_in_sixteen_steps():
    image = decode(paint.heat(torch.linspace(0, 1, 4096).view(64, 64))).convert("RGB")
    assert image.getpixel((0, 0)) == paint.VIRIDIS[0] and image.getpixel((63, 63)) == paint.VIRIDIS[-1]
    assert len(image.getcolors()) == 16
    assert decode(paint.heat(torch.ones(5, 7))).size == (7, 5)


def test_rounding_hides_the_last_digits_of_another_machine():
    x = torch.rand(32, 20, 20, generator=torch.Generator().manual_seed(1))
    other = x * (1 + 1e-7)
    assert paint.heat(x.mean(0)) == paint.heat(other.mean(0)) and paint.channels_of(x) == paint.channels_of(other)


def test_a_large_map_is_averaged_and_keeps_its_shape():
    x = torch.arange(100 * 200.0).view(100, 200)
    small = paint.shrink(x, 50)
    assert small.shape == (25, 50)
    torch.testing.assert_close(small[0, 0], x[:4, :4].mean())


def test_classes_keep_their_colours_and_void_is_grey():
    found = decode(paint.classes(torch.tensor([[0, VOID], [1, 1]]), CATEGORIES)).convert("RGB")
    assert found.getpixel((0, 0)) == CATEGORIES[0].color and found.getpixel((1, 0)) == (178, 178, 178)
    assert found.getpixel((1, 1)) == CATEGORIES[1].color


def test_instances_are_a_transparent_layer_with_the_small_one_on_top():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 4:8, 4:8] = True
    masks[1, 1:14, 1:14] = True
    found = Instances(masks, torch.tensor([1, 0]), torch.zeros(2, 4), torch.tensor([0.9, 0.8]))
    layer = decode(paint.instances(found, CATEGORIES)).convert("RGBA")
    assert layer.getpixel((0, 0))[3] == 0
    assert layer.getpixel((5, 5)) == (*CATEGORIES[1].color, 165)
    assert layer.getpixel((10, 10))[:3] == CATEGORIES[0].color
    empty = decode(paint.instances(found[:0], CATEGORIES)).convert("RGBA")
    assert empty.size == (16, 16) and empty.getextrema()[3] == (0, 0)


def test_frames_lie_on_the_outermost_pixels_of_their_boxes():
    layer = np.array(decode(paint.frames([(torch.tensor([[2.0, 3, 6, 9]]), (9, 9, 9))], (12, 10))))
    want = np.zeros((12, 10), dtype=bool)
    want[3:9, 2:6] = True
    want[4:8, 3:5] = False
    assert np.array_equal(layer > 0, want)


def test_a_line_of_code_is_found_where_a_model_inherits_it():
    line, file = parts.line_of("boxes, labels, scores = self._detect(", PanopticFPN)
    assert line.startswith("boxes, labels") and file == "seglib/models/mask_rcnn.py"
    assert parts.line_of("return [merge_panoptic(", PanopticFPN)[1] == "seglib/models/panoptic_fpn.py"


def test_a_line_of_code_is_found_in_a_function_too():
    assert parts.line_of("return x", typed_in)[0] == "return x + 1"
    with pytest.raises(ValueError, match="no line of typed_in"):
        parts.line_of("return y", typed_in)


def typed_in(x):
    return x + 1


# In the browser


@pytest.fixture
def js(open_page):
    page = open_page().page

    def call(function, cases):
        code = source("architecture")
        return page.evaluate(f"cases => {{ {code}\nreturn cases.map(c => {function}(...c)); }}", cases)

    return call


def test_arrow_keys_go_to_the_nearest_block_that_way(js):
    grid = [{"x": 50 * (i % 3), "y": 50 * (i // 3)} for i in range(9)]
    ways = {(1, 0): 5, (-1, 0): 3, (0, 1): 7, (0, -1): 1}
    assert js("next", [[grid, 4, *way] for way in ways]) == list(ways.values())
    assert js("next", [[grid, 0, -1, 0], [grid, 0, 0, -1], [grid, 8, 1, 0]]) == [0, 0, 8]


def test_where_two_may_be_off_the_first_pressed_comes_back(js):
    assert js("toggle", [[[], 3, 2], [[3], 1, 2], [[3, 1], 4, 2], [[3, 1], 3, 2], [[0, 1, 2], 3, 4]]) == [
        [3], [3, 1], [1, 4], [1], [0, 1, 2, 3],
    ]  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_every_block_can_be_reached_by_the_arrow_keys(js, preset):
    blocks = make(preset).params["blocks"]
    places = [{"x": b["x"], "y": b["y"]} for b in blocks]
    cases = [[places, i, dx, dy] for i in range(len(blocks)) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    found = js("next", cases)
    reached, todo = {0}, [0]
    while todo:
        i = todo.pop()
        for j in found[4 * i : 4 * i + 4]:
            if j not in reached:
                reached.add(j)
                todo.append(j)
    assert reached == set(range(len(blocks)))


@pytest.fixture
def show(open_page):
    """``show(preset, …) -> visit`` with the drawing on a bare page."""

    def open_figure(preset, compact=False, here=None, **kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        page = make(preset, compact=compact, here=here)._repr_html_()
        return open_page(html=f"{head}<main>{page}</main></html>", **kwargs)

    return open_figure


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_drawing_fits_a_phone_follows_the_mode_and_has_no_serious_finding(preset, compact, show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(preset, compact, width=390)
    card = visit.page.locator(".card")
    if not compact:
        visit.page.get_by_role("button", name="all on").or_(visit.page.locator(".controls button").first).first.click()
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 390)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


TEXTS = """e => [...e.querySelectorAll("svg text")].filter(t => t.textContent).map(t => {
  const b = t.getBBox(), u = t.ownerSVGElement.getScreenCTM().a, size = parseFloat(getComputedStyle(t).fontSize) * u;
  return {text: t.textContent, size, box: [b.x, b.y, b.x + b.width, b.y + b.height].map(v => v * u)};
})"""


@pytest.mark.parametrize("width", [390, 760])
@pytest.mark.parametrize("preset", PRESETS)
def test_labels_are_at_least_twelve_pixels_and_lie_apart(preset, width, show):
    visit = show(preset, width=width + 16)
    visit.page.wait_for_timeout(100)
    found = visit.page.locator(".draw").evaluate(TEXTS)
    assert min(t["size"] for t in found) >= 12 - 0.01
    for i, a in enumerate(found):
        for b in found[:i]:
            x0, y0, x1, y1 = a["box"]
            u0, v0, u1, v1 = b["box"]
            across, down = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
            assert across <= 1 or down <= 5, (a["text"], b["text"])  # lines are taller than their letters


def test_the_pages_theme_wins_over_the_systems_mode(open_page):
    page = f"<html style='--pst-color-background: rgb(1, 2, 3)'>{make('fcn')._repr_html_()}</html>"
    card = open_page(html=page, dark=True).page.locator(".card")
    assert card.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(1, 2, 3)"


def test_a_block_shows_its_map_by_mouse_and_by_keys(show):
    visit = show("unet", width=800)
    page = visit.page
    title, panel = page.locator("h3"), page.locator(".panel")
    assert title.inner_text() == "prediction"
    page.get_by_role("option", name="c3, 64×16×16").hover()
    assert title.inner_text() == "c3"
    assert "64×16×16, stride 8" in panel.inner_text() and "x = blocks(down(x))" in panel.inner_text()
    assert "output of encoder.blocks.1, seglib/layers/tiny.py" in panel.inner_text()
    assert panel.locator("img").count() == 4  # the map, and three channels
    page.get_by_role("button", name="skip from c4").focus()
    page.keyboard.press("Shift+Tab")  # back into the drawing: to the block that is chosen
    assert page.evaluate("document.querySelector('[data-params]').shadowRoot.activeElement.ariaLabel") == "c3, 64×16×16"
    page.keyboard.press("ArrowDown")
    assert title.inner_text() == "c4"
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "d4" and "decoder.0" in panel.inner_text()
    page.keyboard.press("ArrowUp")
    assert title.inner_text() == "d3"
    chosen = page.locator("[aria-selected=true]")
    assert chosen.count() == 1 and chosen.get_attribute("aria-label") == "d3, 48×16×16"
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent.startsWith('d3.')"
    )
    assert visit.problems() == []


def test_a_block_shows_its_map_at_a_tap(show):
    visit = show("deeplab", width=390)
    page = visit.page
    page.get_by_role("option", name="3×3, rate 4").scroll_into_view_if_needed()
    finger(page, middle(page.get_by_role("option", name="3×3, rate 4").locator(".rim")))
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('h3').textContent === '3×3, rate 4'"
    )
    assert visit.problems() == []


def shown(page):
    return page.locator(".compare figcaption").all_inner_texts()


def test_switches_change_the_answer_and_grey_their_arrows(show):
    visit = show("fcn", width=800)
    page, figure = visit.page, make("fcn")
    change, reset = page.locator(".change"), page.get_by_role("button", name="all on")
    assert shown(page) == ["Truth", "Whole network"] and reset.is_disabled()
    c2 = page.get_by_role("button", name="scores of c2")
    c2.click()
    assert c2.get_attribute("aria-pressed") == "true"
    assert shown(page) == ["Truth", "Whole network", "With the branch off"]
    assert change.inner_text() == "Off: scores of c2. " + state(figure, "scores of c2")[1]
    tile = page.locator(".block image").last.get_attribute("href")
    assert tile == "data:image/png;base64," + state(figure, "scores of c2")[0]
    dashed = page.locator("g.off .line")
    assert dashed.count() == 2 and dashed.first.evaluate("e => getComputedStyle(e).strokeDasharray") != "none"
    page.get_by_role("button", name="scores of c4").focus()
    page.keyboard.press("Enter")
    assert change.inner_text() == "Off: scores of c2, scores of c4. " + state(figure, "scores of c2", "scores of c4")[1]
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent.startsWith('Off')"
    )
    assert "never trained without a branch" in page.locator(".honest").inner_text()
    reset.click()
    assert shown(page) == ["Truth", "Whole network"] and dashed.count() == 0
    assert visit.problems() == []


def test_of_six_branches_two_can_be_off_at_once(show):
    visit = show("deeplab", width=800)
    page = visit.page
    buttons = page.locator(".controls button")
    for i in (0, 4, 5):
        buttons.nth(i).click()
    pressed = [b.get_attribute("aria-pressed") for b in buttons.all()[:6]]
    assert pressed == ["false"] * 4 + ["true", "true"]
    assert page.locator(".change").inner_text().startswith("Off: image pooling, low-level skip from c2.")
    assert visit.problems() == []


def test_the_reader_is_told_where_the_chapter_is(show):
    page = show("deeplab", here="aspp", width=800).page
    assert "You are here: ASPP." in page.locator(".lead").inner_text()
    assert page.locator(".now").count() == 1 and page.locator("h3").inner_text() == "1×1"


def test_a_strip_is_one_low_row_that_says_what_a_step_does(show):
    visit = show("mask_rcnn", True, "rpn", width=800)
    page, line = visit.page, visit.page.locator(".words")
    assert page.locator(".card").bounding_box()["height"] <= 110
    assert line.inner_text().startswith("You are here. Mask R-CNN, RPN (100×4): Boxes that may hold")
    assert page.locator("[aria-current=step]").inner_text() == "RPN"
    page.get_by_role("button", name="box head").hover()
    assert line.inner_text().startswith("Mask R-CNN, box head")
    page.keyboard.press("Tab")
    assert line.inner_text().startswith("Mask R-CNN, image")
    assert visit.problems() == []


def test_a_drawing_and_a_strip_stand_on_one_page(open_page):
    pages = make("fcn")._repr_html_() + make("deeplab", compact=True, here="aspp")._repr_html_()
    visit = open_page(html=pages)
    assert visit.page.locator(".title").inner_text() == "FCN"
    assert visit.page.locator(".words").inner_text().startswith("You are here. DeepLab v3+, ASPP")
    assert visit.problems() == []
