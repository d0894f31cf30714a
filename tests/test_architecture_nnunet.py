"""The architecture drawing of nnU-Net: blocks, switches and deep supervision against the model, on its own grid."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch

from seglib.book.figures import architecture
from seglib.book.figures.architecture import paint
from seglib.metrics.volumes import dice
from seglib.models.nnunet import NNUNet
from seglib.models.unet3d import unet3d_tiny
from seglib.ops.intensity import Intensity
from seglib.ops.preparation import Preparation
from seglib.types import Category

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("background", "organ", "vessel")
CATEGORIES = tuple(Category(i, name, False, (90 * i, 60, 200 - 70 * i)) for i, name in enumerate(NAMES))
SPACING = (5.0, 1.0, 1.0)  # mm; the models want 2.5 mm between slices


@functools.cache
def model(residual=False):
    torch.manual_seed(0)
    net = NNUNet(3, widths=(4, 6, 8, 10), strides=[(1, 2, 2), (2, 2, 2), (2, 2, 2)], residual=residual)
    net.preparation = Preparation(spacing=(2.5, 1.0, 1.0), intensities=(Intensity("zscore"),))
    return net.eval()


@functools.cache
def case():
    g = torch.Generator().manual_seed(0)
    volume = 500 + 200 * torch.rand(1, 4, 32, 32, generator=g)
    volume[..., :8] = 0  # cropped: 24 columns are left
    return volume, torch.randint(3, (4, 32, 32), generator=g)


@functools.cache
def drawing(residual=False, **options):
    volume, target = case()
    return architecture.nnunet(model(residual), volume, CATEGORIES, spacing=SPACING, target=target, **options)


def block(name, residual=False):
    return next(b for b in drawing(residual).params["blocks"] if b["n"] == name)


def prepared():
    return model().preparation(case()[0], SPACING, case()[1])


def labels(net):
    return net.predict(prepared().image[None])[0].labels


def state(*switches):
    chosen = sorted(drawing().params["switches"].index(s) for s in switches)
    return drawing().params["states"][",".join(map(str, chosen))]


@pytest.mark.parametrize("residual", [False, True])
def test_every_block_knows_its_code_and_the_weights_add_up_to_the_networks(residual):
    blocks = drawing(residual).params["blocks"]
    for b in blocks:
        if b["path"] != "the model":
            model(residual).get_submodule(b["path"])
        assert b["code"] and b["code"] in (ROOT / b["file"]).read_text()
    said = [re.search(r"([\d,]+) weights", b["facts"]) for b in blocks]
    total = sum(p.numel() for p in model(residual).parameters())  # with the stem of the residual one
    assert sum(int(m[1].replace(",", "")) for m in said if m) == total


def test_the_drawing_shows_the_prepared_case():
    assert prepared().image.shape == (1, 8, 32, 24)
    shapes = {b["n"]: b["shape"] for b in drawing().params["blocks"]}
    assert shapes == {
        "image": "1×8×32×24", "e1": "4×8×32×24", "e2": "6×8×16×12", "e3": "8×4×8×6", "e4": "10×2×4×3",
        "d3": "8×4×8×6", "d2": "6×8×16×12", "d1": "4×8×32×24", "aux3": "3×4×8×6", "aux2": "3×8×16×12",
        "scores": "3×8×32×24", "prediction": "3×8×32×24",
    }  # fmt: skip
    assert drawing().params["image"] == paint.thumbnail(paint.middle_image(prepared().image))
    whole = [dice(labels(model()) == k, prepared().labels == k) for k in (1, 2)]
    assert state()[1] == f"Dice on this volume: organ {whole[0]:.2f}, vessel {whole[1]:.2f}."


def test_without_a_preparation_the_intensity_scales_the_volume():
    net = copy.deepcopy(model())
    net.preparation, net.intensity = None, Intensity("zscore")
    params = architecture.nnunet(net, case()[0], CATEGORIES, target=case()[1]).params
    assert next(b["shape"] for b in params["blocks"] if b["n"] == "image") == "1×4×32×32"
    assert params["image"] == paint.thumbnail(paint.middle_image(net.intensity(case()[0])))


def test_sentences_count_the_convolutions_or_residual_blocks_of_each_level():
    assert block("e1")["t"] == "Two convolutions at the resolution of the volume."
    assert block("e2")["t"] == "Two convolutions, the first of which strides: a cell for every 1×2×2 voxels."
    assert block("e1", True)["t"] == "One residual block at the resolution of the volume."
    assert block("e3", True)["t"] == "Four residual blocks, the first of which strides: a cell for every 2×4×4 voxels."
    assert block("d2", True)["t"].endswith("beside e2; one convolution makes one map of both.")
    assert block("d2")["t"].endswith("beside e2; two convolutions make one map of both.")


def test_deep_supervision_is_drawn_as_scores_of_which_the_lowest_weigh_nothing():
    assert "the loss alone (deep supervision)" in block("aux2")["t"]
    assert block("aux3")["t"] == "Class scores of d3: the lowest, which have weight 0 in the loss."
    net = NNUNet(3, widths=(4, 6, 8), aux_outputs=0)
    drawn = architecture.nnunet(net, case()[0], CATEGORIES).params["blocks"]
    assert not [b for b in drawn if b["n"].startswith("aux")]


def test_turning_a_skip_off_is_a_decoder_that_ignores_those_channels():
    net = copy.deepcopy(model())
    for level in (1, 3):
        with torch.no_grad():
            conv = net.decoder[3 - level][0]
            conv.weight[:, conv.in_channels // 2 :] = 0
    layer, said = state("skip of level 1", "skip of level 3")
    changed, before = labels(net), labels(model())
    assert layer == paint.classes(changed[4], CATEGORIES)
    assert said.startswith(f"{100 * float((changed != before).double().mean()):.1f}% of the voxels change")
    assert len(drawing().params["states"]) == 2**4  # three skips and what lies below the last


def test_the_strip_marks_the_step_of_a_block():
    for here, step in (("aux", "aux scores"), ("d2", "decoder"), ("e4", "bottleneck")):
        steps = drawing(here=here, compact=True).params["steps"]
        assert [s["l"] for s in steps if s["here"]] == [step]


def test_a_wrong_argument_is_named():
    volume = case()[0]
    with pytest.raises(ValueError, match="nnunet draws a .*NNUNet with dims=3, got UNet3D"):
        architecture.nnunet(unet3d_tiny(3), volume, CATEGORIES)
    with pytest.raises(ValueError, match="with dims=3, got one with dims=2"):
        architecture.nnunet(NNUNet(3, dims=2, widths=(4, 6)), volume, CATEGORIES)
    with pytest.raises(ValueError, match="spacing"):
        architecture.nnunet(model(), volume, CATEGORIES)


# In the browser


@pytest.mark.slow
def test_six_levels_fit_a_phone_and_have_no_serious_finding(open_page):
    torch.manual_seed(0)
    net = NNUNet(3, widths=(4, 4, 4, 4, 4, 4), strides=[(1, 2, 2)] * 3 + [(2, 2, 2)] * 2)
    figure = architecture.nnunet(net, torch.rand(1, 8, 64, 64), CATEGORIES)
    head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
    visit = open_page(html=f"{head}<main>{figure._repr_html_()}</main></html>", width=390)
    visit.page.get_by_role("button", name="skip of level 5").click()
    assert visit.page.locator("g.off .line").count() == 1
    assert visit.overflow() <= 0
    for mode in ("light", "dark"):
        visit.page.emulate_media(color_scheme=mode)
        assert visit.axe() == []
    assert visit.problems() == []
