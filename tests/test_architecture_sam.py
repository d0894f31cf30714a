"""The architecture drawing of SAM: blocks, maps and switches against the model."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch

from seglib.book.figures import architecture
from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.parts import Scene
from seglib.book.figures.architecture.sam import MASK
from seglib.layers.vit import ImageEncoderViT
from seglib.models.fcn import fcn_tiny
from seglib.models.sam import Sam, sam_tiny
from seglib.ops.masks import mask_iou
from seglib.types import Instances, Prompts

ROOT = Path(__file__).resolve().parents[1]
POINT = (21.0, 13.0)


@functools.cache
def model(vit=False):
    torch.manual_seed(0)
    if vit:
        return Sam(ImageEncoderViT(64, width=16, depth=4, heads=2, global_blocks=(1, 3), window=2, channels=16), 16,
                   image_size=64).eval()  # fmt: skip
    net = sam_tiny(image_size=64, channels=16).eval()
    with torch.no_grad():
        net.mask_decoder.iou_mlp[-1].bias[0] += 1  # mask 0 has the highest predicted IoU
        net.mask_decoder.last_attention.out.weight *= 20  # as much as the attention before it has to say
    return net


@functools.cache
def image():
    return torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))


@functools.cache
def target():
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[6:20, 10:40] = True
    return mask


@functools.cache
def drawing(vit=False, **options):
    return architecture.sam(model(vit), image(), point=POINT, target=target(), **options)


def block(name):
    return next(b for b in drawing().params["blocks"] if b["n"] == name)


def prompts(x=POINT[0], y=POINT[1], label=1):
    return Prompts(points=torch.tensor([[[x, y]]]), labels=torch.tensor([[label]]))


@torch.no_grad()
def ask(net, asked=None):
    return net.decode(net.encode(image()[None]), asked or prompts())


def mask_of(logits):
    """The mask ``(H, W)`` of one answer's logits, at the size of the model's frame and without its padding."""
    frame = torch.nn.functional.interpolate(logits[None, None], (64, 64), mode="bilinear")[0, 0]
    return frame[:48] > 0


def best(out):
    """The best mask of three, and its predicted IoU."""
    k = 1 + int(out.iou[0, 1:].argmax())
    return mask_of(out.logits[0, k]), float(out.iou[0, k])


def layer(mask):
    found = Instances(mask[None], torch.tensor([0]), torch.zeros(1, 4))
    return paint.instances(found, MASK)


def state(*switches):
    chosen = sorted(drawing().params["switches"].index(s) for s in switches)
    return drawing().params["states"][",".join(map(str, chosen))]


def iou(mask):
    return float(mask_iou(mask[None], target()[None]))


@pytest.mark.parametrize("vit", [False, True])
def test_every_block_knows_its_code_and_the_weights_add_up_to_the_networks(vit):
    blocks = drawing(vit).params["blocks"]
    for b in blocks:
        if b["path"] != "the model":
            model(vit).get_submodule(b["path"])
        assert b["code"] and b["code"] in (ROOT / b["file"]).read_text()
    said = [re.search(r"([\d,]+) weights", b["facts"]) for b in blocks]
    assert sum(int(m[1].replace(",", "")) for m in said if m) == sum(p.numel() for p in model(vit).parameters())


def test_shapes_are_those_of_a_square_frame_and_of_seven_tokens():
    shapes = {b["n"]: b["shape"] for b in drawing().params["blocks"]}
    assert shapes == {
        "image": "3×48×64", "c1": "24×32×32", "c2": "48×16×16", "c3": "64×8×8", "c4": "96×4×4", "c5": "96×2×2",
        "embedding": "96×8×8", "plus": "16×8×8", "click": "2", "tokens": "7×16", "tokens1": "7×16",
        "cells1": "16×8×8", "tokens2": "7×16", "cells2": "16×8×8", "attention": "4×8×8", "features": "4×32×32",
        "iou": "4", "vectors": "4×4", "masks": "4×32×32", "prediction": "",
    }  # fmt: skip


def test_a_vision_transformer_shows_its_patches_and_the_blocks_that_attend_over_the_whole_map():
    blocks = {b["n"]: b for b in drawing(True).params["blocks"]}
    assert list(blocks)[:5] == ["image", "patches", "blocks2", "blocks4", "embedding"]
    assert [blocks[n]["l"] for n in ("blocks2", "blocks4")] == ["1–2", "3–4"]
    assert blocks["blocks4"]["shape"] == "16×4×4"


def test_the_maps_are_those_of_the_forward_pass():
    out = ask(model())
    scene = Scene(image(), (), model())
    masks = painters.on_scale(paint.sheet(out.logits[0].sigmoid(), 2, 2), paint.IMAGE)
    assert block("masks")["m"] == paint.rgb(masks, 48)
    ious = painters.on_scale(out.iou[0].view(2, 2)).repeat(8, 0).repeat(8, 1)
    assert block("iou")["m"] == paint.rgb(ious, 48)
    assert block("embedding")["m"] == paint.heat(paint.strength(model().encode(image()[None])[0].detach()))
    # the masks are the vectors times the features
    seen = []
    hook = model().mask_decoder.upsample.register_forward_hook(lambda *call: seen.append(call[2]))
    ask(model())
    hook.remove()
    vectors = torch.linalg.lstsq(seen[0][0].flatten(1).T, out.logits[0].flatten(1).T).solution.T  # (4, C/8)
    shown = painters.matrix(vectors, scene)
    assert block("vectors")["m"] == paint.rgb(shown, 48)


def test_attention_is_that_of_the_mask_tokens():
    seen = []
    net = model().mask_decoder
    hook = net.last_attention.register_forward_pre_hook(lambda _, given: seen.append(given))
    ask(model())
    hook.remove()
    query, key, _ = seen[0]
    heads = [
        w.chunk(net.last_attention.heads, -1) for w in (net.last_attention.query(query), net.last_attention.key(key))
    ]
    weights = [(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[0, 1:5] for q, k in zip(*heads, strict=True)]
    mean = torch.stack(weights).mean(0)  # (4, h·w)
    maps = (mean / mean.amax(1, keepdim=True)).sqrt().view(4, 8, 8).detach()  # small weights can be seen
    assert block("attention")["m"] == paint.rgb(painters.on_scale(paint.sheet(maps, 2, 2), paint.IMAGE), 48)


def test_the_answer_is_the_mask_with_the_highest_predicted_iou_of_three():
    mask, said = best(ask(model()))
    assert ask(model()).iou.argmax() == 0  # which doesn't count
    assert state() == [layer(mask), f"Predicted IoU of the mask: {said:.2f}. True IoU: {iou(mask):.2f}."]
    assert drawing().params["truth"] == layer(target())


def without_click(net):
    return ask(net, prompts(label=-1))


def without_half(net):
    return ask(net, prompts(POINT[0] - 0.5, POINT[1] - 0.5))


def without_tokens(net):
    for attention in (*(b.token_attention for b in net.mask_decoder.blocks), net.mask_decoder.last_attention):
        torch.nn.init.zeros_(attention.out.weight)
    return ask(net)


def without_cells(net):
    for b in net.mask_decoder.blocks:
        torch.nn.init.zeros_(b.image_attention.out.weight)
    return ask(net)


@pytest.mark.parametrize(
    ("switch", "change"),
    [
        ("the click", without_click),
        ("+ ½ of the click", without_half),
        ("tokens attend to cells", without_tokens),
        ("cells attend to tokens", without_cells),
    ],
)
def test_turning_a_part_off_is_a_model_without_it(switch, change):
    before, after = best(ask(model())), best(change(copy.deepcopy(model())))
    share = 100 * float((before[0] != after[0]).double().mean())
    assert state(switch) == [
        layer(after[0]),
        f"{share:.1f}% of the pixels change. Predicted IoU: {before[1]:.2f} → {after[1]:.2f}. "
        f"True IoU: {iou(before[0]):.2f} → {iou(after[0]):.2f}.",
    ]


def test_without_three_masks_the_single_one_answers():
    out = ask(model())
    assert state("three masks")[0] == layer(mask_of(out.logits[0, 0]))
    assert f"Predicted IoU: {best(out)[1]:.2f} → {float(out.iou[0, 0]):.2f}." in state("three masks")[1]


def test_two_branches_can_be_off_at_once():
    after = ask(model(), prompts(label=-1))
    assert state("the click", "three masks")[0] == layer(mask_of(after.logits[0, 0]))
    assert len(drawing().params["states"]) == 1 + 5 + 10


def test_each_switch_but_the_half_pixel_greys_an_arrow():
    greyed = {drawing().params["switches"][e["s"]] for e in drawing().params["edges"] if "s" in e}
    assert greyed == set(drawing().params["switches"]) - {"+ ½ of the click"}


def test_without_a_target_the_predicted_iou_alone_is_said():
    drawn = architecture.sam(model(), image(), point=POINT).params
    assert drawn["states"][""][1] == f"Predicted IoU of the mask: {best(ask(model()))[1]:.2f}."
    assert "truth" not in drawn and "True" not in drawn["states"]["0"][1]


def test_the_model_is_left_as_it_was():
    net = copy.deepcopy(model())
    net.train()
    before = set(net.__dict__)
    architecture.sam(net, image(), point=POINT)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert net.training and set(net.__dict__) == before and not any(hooks)


@pytest.mark.parametrize(
    ("here", "step"),
    [
        ("c3", "encoder"), ("embedding", "embedding"), ("click", "prompt encoder"), ("tokens2", "mask decoder"),
        ("masks", "masks and IoU"), ("prediction", "answer"),
    ],
)  # fmt: skip
def test_the_strip_marks_the_step_of_a_block(here, step):
    steps = drawing(here=here, compact=True).params["steps"]
    assert [s["l"] for s in steps if s["here"]] == [step]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": fcn_tiny(3)}, "sam draws seglib.models.sam.Sam, got FCN"),
        ({"point": (64, 3)}, r"point \(64, 3\) lies outside the 64 × 48 image"),
        ({"target": torch.ones(48, 64)}, r"target must be \(48, 64\) bool, got \(48, 64\) torch.float32"),
        ({"target": torch.ones(64, 48, dtype=torch.bool)}, r"target must be \(48, 64\) bool"),
        ({"here": "nowhere"}, "choose one of image, encoder, embedding"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    arguments = {"model": model(), "image": image(), "point": POINT} | changes
    with pytest.raises(ValueError, match=said):
        architecture.sam(**arguments)


@pytest.mark.slow
def test_the_drawing_fits_a_phone_and_has_no_serious_finding(open_page):
    head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
    page = drawing()._repr_html_()
    assert len(page.encode()) < 200_000
    visit = open_page(html=f"{head}<main>{page}</main></html>", width=390)
    visit.page.get_by_role("button", name="cells attend to tokens").click()
    assert visit.page.locator("g.off .line").count() == 2
    assert visit.overflow() <= 0
    for mode in ("light", "dark"):
        visit.page.emulate_media(color_scheme=mode)
        assert visit.axe() == []
    assert visit.problems() == []
