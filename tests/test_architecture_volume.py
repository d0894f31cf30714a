"""The architecture drawing of the 3D U-Net: maps, shapes and switches against the model, and itself in a browser."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch

from seglib.book.figures import architecture
from seglib.book.figures.architecture import paint
from seglib.metrics.volumes import dice
from seglib.models.unet import unet_tiny
from seglib.models.unet3d import UNet3D
from seglib.ops.intensity import Intensity
from seglib.types import VOID, Category

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("background", "organ", "vessel")
CATEGORIES = tuple(Category(i, name, False, (90 * i, 60, 200 - 70 * i)) for i, name in enumerate(NAMES))
SIZE = (8, 32, 32)


@functools.cache
def model():
    """Four levels, the first of which strides in the plane, with aux scores at the second and the third."""
    torch.manual_seed(0)
    strides = [(1, 2, 2), (2, 2, 2), (2, 2, 2)]
    net = UNet3D(3, in_channels=2, widths=(4, 6, 8, 12), kernels=[(1, 3, 3), *[(3, 3, 3)] * 3], strides=strides)
    net.intensity = Intensity("zscore")
    return net.eval()


@functools.cache
def case():
    """A volume in units of its own, and true labels with void."""
    g = torch.Generator().manual_seed(0)
    volume = 500 + 200 * torch.rand(2, *SIZE, generator=g)
    target = torch.randint(3, SIZE, generator=g)
    target[0] = VOID
    return volume, target


@functools.cache
def drawing(here=None, compact=False):
    volume, target = case()
    return architecture.unet3d(model(), volume, CATEGORIES, target=target, here=here, compact=compact)


def block(name):
    return next(b for b in drawing().params["blocks"] if b["n"] == name)


def labels(net):
    return net.predict(net.intensity(case()[0])[None])[0].labels


def state(*switches):
    chosen = sorted(drawing().params["switches"].index(s) for s in switches)
    return drawing().params["states"][",".join(map(str, chosen))]


def test_every_block_knows_its_module_and_its_line_of_code():
    for b in drawing().params["blocks"]:
        if b["path"] != "the model":
            model().get_submodule(b["path"])
        assert b["code"] and b["code"] in (ROOT / b["file"]).read_text()
        assert b["t"].endswith(".") and b["l"]


def test_the_weights_of_the_blocks_add_up_to_the_networks():
    said = [re.search(r"([\d,]+) weights", b["facts"]) for b in drawing().params["blocks"]]
    assert sum(int(m[1].replace(",", "")) for m in said if m) == sum(p.numel() for p in model().parameters())


def test_shapes_have_their_depth_and_sentences_the_strides_of_all_axes():
    shapes = {b["n"]: b["shape"] for b in drawing().params["blocks"]}
    assert shapes == {
        "image": "2×8×32×32", "e1": "4×8×32×32", "e2": "6×8×16×16", "e3": "8×4×8×8", "e4": "12×2×4×4",
        "d3": "8×4×8×8", "d2": "6×8×16×16", "d1": "4×8×32×32", "aux3": "3×4×8×8", "aux2": "3×8×16×16",
        "scores": "3×8×32×32", "prediction": "3×8×32×32",
    }  # fmt: skip
    assert "a cell for every 2×4×4 voxels" in block("e3")["t"]
    assert not any("stride" in b["facts"] for b in drawing().params["blocks"])
    assert block("d2")["t"].startswith("d3, upsampled 2×2×2 by a transposed convolution, beside e2;")
    assert "e1" in block("d1")["t"] and "1×2×2" in block("d1")["t"]


def test_a_map_is_the_middle_slice_of_the_hooked_activation():
    net, found = model(), {}
    hooks = [
        net.get_submodule(path).register_forward_hook(lambda _, a, out, path=path: found.update({path: out.clone()}))
        for path in ("encoder.1", "aux_scores.1")
    ]
    labels(net)
    for hook in hooks:
        hook.remove()
    e2, aux = found["encoder.1"][0, :, 4], found["aux_scores.1"][0, :, 2]  # of 8 and of 4 slices
    assert block("e2")["m"] == paint.heat(e2.abs().mean(0))
    assert [png for _, png in block("e2")["c"]] == [paint.heat(e2[i], 32) for i, _ in block("e2")["c"]]
    assert block("aux3")["m"] == paint.classes(aux.argmax(0), CATEGORIES, paint.MAP)


def test_the_volume_is_drawn_from_its_first_to_its_last_percentile():
    x = case()[0][:, 4]
    low, high = x.flatten(1).quantile(0.01, 1), x.flatten(1).quantile(0.99, 1)
    want = ((x - low[:, None, None]) / (high - low)[:, None, None]).clamp(0, 1)
    torch.testing.assert_close(paint.middle_image(case()[0]), want)
    assert not paint.middle_image(torch.zeros(1, 3, 4, 5)).any()
    assert drawing().params["image"] == paint.thumbnail(paint.middle_image(model().intensity(case()[0])))


def test_turning_a_skip_off_is_a_decoder_that_ignores_those_channels():
    for off in ([3], [1], [1, 2]):
        net = copy.deepcopy(model())
        for level in off:
            with torch.no_grad():
                conv = net.decoder[3 - level][0]
                conv.weight[:, conv.in_channels // 2 :] = 0
        changed, before = labels(net), labels(model())
        layer, said = state(*(f"skip of level {level}" for level in off))
        assert layer == paint.classes(changed[4], CATEGORIES)
        assert said.startswith(f"{100 * float((changed != before).double().mean()):.1f}% of the voxels change")


def test_without_what_lies_below_the_last_skip_the_deepest_map_says_nothing():
    net = copy.deepcopy(model())
    torch.nn.init.zeros_(net.up[0].weight)
    assert state("everything below level 3")[0] == paint.classes(labels(net)[4], CATEGORIES)
    assert len(drawing().params["states"]) == 16


def test_dice_is_that_of_the_whole_volume_without_background_and_void():
    target, found = case()[1], labels(model())
    void = target == VOID
    organ, vessel = (dice(found == k, target == k, void=void) for k in (1, 2))
    assert state()[1] == f"Dice on this volume: organ {organ:.2f}, vessel {vessel:.2f}."
    assert re.search(rf"organ {organ:.2f} → \d\.\d\d, vessel {vessel:.2f} → \d\.\d\d\.$", state("skip of level 1")[1])
    bare = architecture.unet3d(model(), case()[0], CATEGORIES).params["states"]
    assert bare[""][1] == "" and re.fullmatch(r"[\d.]+% of the voxels change their class\.", bare["0"][1])


def test_a_block_or_its_group_marks_the_step_of_the_strip():
    for here, step in (("aux", "aux scores"), ("d2", "decoder"), ("e4", "bottleneck")):
        assert [s["l"] for s in drawing(here, True).params["steps"] if s["here"]] == [step]
    net = UNet3D(3, in_channels=2, widths=(4, 6), aux_outputs=0)
    steps = architecture.unet3d(net, case()[0], CATEGORIES, compact=True).params["steps"]
    assert "aux scores" not in [s["l"] for s in steps]


def test_a_wrong_argument_is_named():
    with pytest.raises(ValueError, match=r"unet3d draws .*UNet3D, got UNet"):
        architecture.unet3d(unet_tiny(3), case()[0], CATEGORIES)
    with pytest.raises(ValueError, match=r"image must be \(C, D, H, W\), got \(2, 32, 32\)"):
        architecture.unet3d(model(), case()[0][:, 0], CATEGORIES)


# In the browser


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
def test_it_fits_a_phone_follows_the_mode_and_has_no_serious_finding(compact, open_page):
    head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
    visit = open_page(html=f"{head}<main>{drawing(None, compact)._repr_html_()}</main></html>", width=360)
    card = visit.page.locator(".card")
    if not compact:
        visit.page.get_by_role("button", name="skip of level 2").click()
        assert visit.page.locator("g.off .line").count() == 1
    assert visit.overflow() <= 0
    boxes = card.evaluate("e => [...e.querySelectorAll('*')].map(c => c.getBoundingClientRect())")
    assert min(b["left"] for b in boxes) >= 0 and max(b["right"] for b in boxes) <= 360
    for mode in ("light", "dark"):
        visit.page.emulate_media(color_scheme=mode)
        assert visit.axe() == []
    assert visit.problems() == []


TEXTS = """e => [...e.querySelectorAll("svg text")].filter(t => t.textContent).map(t => {
  const b = t.getBBox(), u = t.ownerSVGElement.getScreenCTM().a, size = parseFloat(getComputedStyle(t).fontSize) * u;
  return {text: t.textContent, size, box: [b.x, b.y, b.x + b.width, b.y + b.height].map(v => v * u)};
})"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 760])
def test_labels_are_at_least_twelve_pixels_and_lie_apart(width, open_page):
    visit = open_page(html=f"<main>{drawing()._repr_html_()}</main>", width=width + 16)
    visit.page.wait_for_timeout(100)
    found = visit.page.locator(".draw").evaluate(TEXTS)
    assert len(found) >= 16 and min(t["size"] for t in found) >= 12 - 0.01
    for i, a in enumerate(found):
        for b in found[:i]:
            x0, y0, x1, y1 = a["box"]
            u0, v0, u1, v1 = b["box"]
            across, down = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
            assert across <= 1 or down <= 5, (a["text"], b["text"])  # lines are taller than their letters
