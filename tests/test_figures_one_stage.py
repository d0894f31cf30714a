"""The moving figures of YOLACT and CondInst: their arithmetic against torch, and themselves in a browser."""

import functools
import html
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.images import pack_maps, unpack_maps
from seglib.data.scenes import CATEGORIES
from seglib.models.condinst import condinst_tiny
from seglib.models.yolact import yolact_tiny
from seglib.ops.dynamic_conv import dynamic_conv, filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.masks import crop_masks, mask_iou
from seglib.ops.resize import aligned_bilinear
from seglib.types import Instances

pytestmark = pytest.mark.slow  # they open a browser


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(count, side, seed=0):
    """Random soft maps ``(count, side, side)``."""
    return F.interpolate(torch.rand(1, count, 5, 5, generator=draws(seed)), (side, side), mode="bilinear")[0]


def photo(side=64):
    return torch.rand(3, side, side, generator=draws(9))


@functools.cache
def mixed(side=32, image=64):
    """Two masks of five prototypes, as YOLACT packs them."""
    coefficients = torch.rand(2, 5, generator=draws(1)) * 4 - 2
    boxes = torch.tensor([[4.3, 6.2, 20.1, 25.9], [14.0, 3.0, 30.5, 20.0]])
    size = (image, image)
    masks = DynamicMasks(
        smooth(5, side), coefficients, (5, 1), canvas=size, image_size=size, size=size, boxes=boxes, padding=1
    )
    return Instances(masks, torch.tensor([2, 0]), boxes * image / side, torch.tensor([0.9, 0.7]))


@functools.cache
def drawn(stride=4, side=16, factor=2):
    """Three masks of generated filters over three features, as CondInst packs them."""
    channels = (5, 4, 4, 1)
    parameters = torch.randn(3, filter_count(channels), generator=draws(100))
    at = torch.tensor([[10.0, 14.0], [38.0, 22.0], [46.0, 50.0]])  # (3, 2)
    unit = torch.tensor([[16.0], [32.0], [32.0]])
    cell = torch.arange(side) * stride + stride // 2
    size = (side * stride, side * stride)
    masks = DynamicMasks(
        smooth(3, side, 3) * 4 - 2, parameters, channels, canvas=size, image_size=size, size=size, bias=True,
        x=(at[:, :1] - cell) / unit, y=(at[:, 1:] - cell) / unit, logit_factor=factor, upsample="aligned",
    )  # fmt: skip
    return Instances(masks, torch.tensor([2, 2, 0]), torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7]))


def packed(found):
    return found.packed


ALL = {
    "prototypes": lambda: figures.prototypes_of(mixed(), photo(), CATEGORIES),
    "dynamic_filter": lambda: figures.dynamic_filter_of(drawn(), photo(), CATEGORIES),
}


# The HTML


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_small_the_same_every_time_and_asks_nobody(name):
    page = ALL[name]()._repr_html_()
    assert page == ALL[name]()._repr_html_()
    assert len(source("maps", name).encode()) < 16_500
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_the_largest_figures_fit_into_a_page():
    image, parameters = photo(160), torch.randn(6, filter_count((10, 8, 8, 1)))
    most = figures.prototypes(torch.rand(16, 95, 79), torch.randn(6, 16), image=image, boxes=torch.rand(6, 4))
    assert 200_000 < len(most._repr_html_().encode()) < 250_000  # noise, which nothing makes smaller
    x = torch.arange(100, 0, -1.0).expand(6, -1)
    most = figures.dynamic_filter(torch.rand(8, 100, 100), parameters, x=x, y=x, stride=8, image=image)
    assert len(most._repr_html_().encode()) < 250_000
    with pytest.raises(ValueError, match=r"prototypes of \(16, 160, 160\) take too much of the page; take fewer"):
        figures.prototypes(torch.rand(16, 160, 160), torch.rand(1, 16))


def test_maps_that_take_too_much_of_the_page_get_fewer_levels():
    noise = torch.rand(16, 90, 90, generator=draws(6))
    params = figures.prototypes(noise, torch.rand(1, 16)).params
    step = torch.tensor(params["scales"])[:, 1]
    assert (step > 1 / 130).all() and (step < 1 / 60).all()  # 128 or 64 levels from 0 to 1
    got = unpack_maps(params["maps"], params["scales"])
    assert (got - noise).abs().amax() <= step.max() / 2 + 1e-5


def test_the_figure_opens_on_the_largest_of_the_most_certain_objects():
    less_sure = mixed().replace(scores=torch.tensor([0.7, 0.9]))  # the first is the larger one
    assert figures.prototypes_of(less_sure, photo(), CATEGORIES).params["names"] == ["car 0.70", "house 0.90"]
    assert figures.prototypes_of(less_sure, photo(), CATEGORIES, most=1).params["names"] == ["house 0.90"]


def test_large_prototypes_are_averaged_over_blocks():
    large = torch.rand(16, 128, 128, generator=draws(5))
    boxes = torch.tensor([[10.0, 20, 60, 70]])
    masks = DynamicMasks(
        large, torch.rand(1, 16), (16, 1), canvas=(128, 128), image_size=(128, 128), size=(128, 128), boxes=boxes,
        padding=1,
    )  # fmt: skip
    found = Instances(masks, torch.tensor([0]), boxes, torch.tensor([0.9]))
    params = figures.prototypes_of(found, photo(128), CATEGORIES).params
    assert (params["h"], params["w"], params["padding"]) == (64, 64, 0.5)
    assert params["boxes"] == [[5, 10, 30, 35]]
    want = F.avg_pool2d(large[None], 2)[0]
    torch.testing.assert_close(unpack_maps(params["maps"], params["scales"]).float(), want, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_figure_says_something_without_javascript_and_without_html(name):
    fallback = re.search(r'data-params="[^"]*">(.*?)</seg-', ALL[name]()._repr_html_(), re.DOTALL)[1]
    assert "(needs JavaScript)" in fallback and "car 0.90" in fallback and 'alt="The image"' in fallback
    bundle = ALL[name]()._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"].startswith("<moving figure: ")


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = figures.prototypes(smooth(2, 8), torch.ones(1, 2), names=[name])._repr_html_()
    assert page.count("<script>") == 1
    assert json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))["names"] == [name]


def test_two_detections_of_one_name_are_told_apart():
    same = drawn().replace(scores=torch.tensor([0.9, 0.9, 0.7]))
    assert figures.dynamic_filter_of(same, photo(), CATEGORIES).params["names"] == [
        "car 0.90 (a)",
        "car 0.90 (b)",
        "house 0.70",
    ]


def test_the_most_certain_detections_are_taken():
    found = mixed().replace(scores=torch.tensor([0.6, 0.8]))
    params = figures.prototypes_of(found, photo(), CATEGORIES, most=1).params
    assert params["names"] == ["house 0.80"] and len(params["coefficients"]) == 1
    np.testing.assert_allclose(params["boxes"], packed(found).boxes[1:])


def test_the_padding_that_the_network_saw_is_under_the_mask_too():
    masks = packed(mixed())
    narrow = DynamicMasks(
        masks.features, masks.parameters, masks.channels, canvas=(64, 64), image_size=(50, 64), size=(50, 64),
        boxes=masks.boxes,
    )  # fmt: skip
    params = figures.prototypes_of(mixed().replace(masks=narrow), photo()[:, :50], CATEGORIES).params
    assert params["size"] == (64, 64)


def test_large_images_shrink_and_hand_made_maps_grow_to_whole_cells():
    assert figures.prototypes(smooth(2, 8), torch.ones(1, 2), image=photo(320)).params["size"] == (160, 160)
    small = figures.prototypes(torch.rand(2, 6, 8), torch.ones(1, 2)).params
    assert small["size"] == (120, 160) and small["image"] is None and small["names"] == ["object 1"]


def test_real_models_can_be_shown():
    torch.manual_seed(0)
    mixing, drawing = yolact_tiny(7), condinst_tiny(7)
    mixing.detections = replace(mixing.detections, threshold=0.0)  # weights are random: any detection will do
    drawing.detections = replace(drawing.detections, threshold=0.0)
    for model, show in ((mixing, figures.prototypes_of), (drawing, figures.dynamic_filter_of)):
        found = model.predict(photo(96)[None])[0]
        assert len(show(found, photo(96), CATEGORIES).params["names"]) == 6


MAPS, ROWS = torch.rand(2, 8, 8), torch.rand(2, 2)
FILTERS = torch.rand(2, filter_count((4, 8, 8, 1)))
LINE = torch.arange(8, 0, -1.0).expand(2, -1)


def filters(**changes):
    values = {"features": MAPS, "parameters": FILTERS, "x": LINE, "y": LINE, "stride": 4} | changes
    return figures.dynamic_filter(values.pop("features"), values.pop("parameters"), **values)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: figures.prototypes(torch.rand(33, 8, 8), ROWS), r"prototypes must be .* 1 to 32 .* got \(33, 8, 8\)"),
        (lambda: figures.prototypes(torch.rand(2, 8, 161), ROWS), r"at most 160 cells a side, got \(2, 8, 161\)"),
        (lambda: figures.prototypes(MAPS, torch.rand(2, 3)), r"coefficients .* \(D, 2\) .* 1 to 6, got \(2, 3\)"),
        (lambda: figures.prototypes(MAPS, torch.rand(7, 2)), r"got \(7, 2\)"),
        (lambda: figures.prototypes(MAPS, ROWS, boxes=torch.rand(3, 4)), r"as many boxes \(N, 4\), got \(3, 4\)"),
        (lambda: figures.prototypes(MAPS, ROWS, names=["a"]), "2 rows need as many names, got 1"),
        (lambda: figures.prototypes(MAPS, ROWS, image=MAPS), r"image must be \(3, H, W\), got \(2, 8, 8\)"),
        (lambda: figures.prototypes(MAPS, ROWS, threshold=1.0), r"in \[0, 1\), got 1.0"),
        (lambda: filters(features=torch.rand(9, 8, 8)), r"features must be .* 1 to 8 maps .* got \(9, 8, 8\)"),
        (lambda: filters(parameters=FILTERS[:, 1:]), r"parameters must be \(D, 121\) .* got \(2, 120\)"),
        (lambda: filters(x=LINE[:, 1:]), r"need x \(2, 8\) .* got \(2, 7\)"),
        (lambda: filters(factor=3), "divide the stride 4, got 3"),
        (lambda: figures.prototypes_of(mixed(), photo(), CATEGORIES, most=7), "most must be 1 to 6, got 7"),
        (lambda: figures.prototypes_of(mixed()[:0], photo(), CATEGORIES), "needs detections with scores"),
        (lambda: figures.prototypes_of(mixed(), photo(32), CATEGORIES), r"image of \(64, 64\), got \(32, 32\)"),
        (lambda: figures.prototypes_of(drawn(), photo(), CATEGORIES), "not mixed of prototypes"),
        (lambda: figures.dynamic_filter_of(mixed(), photo(), CATEGORIES), "know no relative coordinates"),
        (lambda: figures.prototypes_of(mixed().replace(masks=torch.zeros(2, 64, 64).bool()), photo(), CATEGORIES),
         "unpacked already; predict again"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# The arithmetic: the page's own functions, run in the browser


@pytest.fixture
def js(open_page):
    """``js(figure, function, cases)``: the function's result for every list of arguments; arrays come as lists."""
    page = open_page().page

    def call(name, function, cases):
        plain = "v => JSON.parse(JSON.stringify(v, (_, e) => ArrayBuffer.isView(e) ? Array.from(e) : e))"
        body = f"return (await Promise.all(cases.map(c => ({function})(...c)))).map({plain});"
        return page.evaluate(f"async cases => {{ {source('maps', name)}\n{body} }}", cases)

    return call


def test_maps_arrive_in_256_steps(js):
    maps = torch.cat([smooth(3, 9) * 7 - 2, torch.full((1, 9, 9), 0.3)])  # the last one is even
    text, scales = pack_maps(maps)
    want = unpack_maps(text, scales)
    [got] = js("prototypes", "((...args) => new Promise(done => unpackMaps(...args, done)))", [[text, scales, 9, 9]])
    np.testing.assert_allclose(np.array(got).reshape(4, 9, 9), want, rtol=1e-12)  # float64 on both sides
    span = maps.amax((1, 2)) - maps.amin((1, 2))
    assert ((maps - want).abs().amax((1, 2)) <= span / 510 + 1e-5).all()  # half a step, and the scale's six digits


def test_the_masks_of_the_sliders_equal_torchs(js):
    masks = packed(mixed())
    params = ALL["prototypes"]().params
    maps = unpack_maps(params["maps"], params["scales"])
    flat = maps.flatten(1).tolist()
    sums = js("prototypes", "assemble", [[flat, row] for row in params["coefficients"]])
    want = masks.parameters.double() @ maps.flatten(1)
    np.testing.assert_allclose(sums, want, atol=1e-3)  # coefficients travel with five digits
    probs = want.view(2, 32, 32).sigmoid()
    cut = js(
        "prototypes",
        "crop",
        [[p.flatten().tolist(), 32, box, 1] for p, box in zip(probs, params["boxes"], strict=True)],
    )
    ours = crop_masks(probs, masks.boxes, padding=1, by_index=True)
    np.testing.assert_allclose(cut, ours.flatten(1), atol=1e-3)
    assert (probs - ours).abs().max() > 0.1  # something was cut
    fine = "((map, n, N) => resample(map, n, n, halves(n, N), halves(n, N)))"
    got = js("prototypes", fine, [[p.flatten().tolist(), 32, 64] for p in ours])
    np.testing.assert_allclose(got, F.interpolate(ours[None], (64, 64), mode="bilinear")[0].flatten(1), atol=1e-12)


def test_resampling_equals_torchs_in_both_conventions(js):
    cases: list[Any] = []
    want = []
    for i, (h, w, f) in enumerate([(5, 7, 2), (4, 3, 4), (6, 6, 3), (2, 5, 1), (1, 1, 2)]):
        x = torch.rand(h, w, generator=draws(i), dtype=torch.float64)
        cases.append([x.flatten().tolist(), h, w, f])
        want.append(
            [aligned_bilinear(x[None, None], f), F.interpolate(x[None, None], (h * 3 // 2 + 1, w * f), mode="bilinear")]
        )
    found = js("prototypes", "((m, h, w, f) => resample(m, h, w, aligned(h, f), aligned(w, f)))", cases)
    other = js(
        "prototypes", "((m, h, w, f) => resample(m, h, w, halves(h, Math.floor(h * 1.5) + 1), halves(w, w * f)))", cases
    )
    for got, out, (a, b) in zip(found, other, want, strict=True):
        np.testing.assert_allclose(got, a.flatten(), atol=1e-12)  # float64 on both sides
        np.testing.assert_allclose(out, b.flatten(), atol=1e-12)


@pytest.mark.parametrize("at", [(10.0, 14.0), (0.0, 0.0), (33.5, 61.0)])
def test_the_filters_draw_in_the_page_what_they_draw_in_torch(js, at):
    masks, params = packed(drawn()), ALL["dynamic_filter"]().params
    features = unpack_maps(params["maps"], params["scales"])
    parameters = torch.tensor(params["parameters"], dtype=torch.float64)
    cell, unit = torch.arange(16) * 4.0 + 2, torch.tensor(params["units"], dtype=torch.float64)[:, None]
    x, y = (at[0] - cell) / unit, (at[1] - cell) / unit
    want = dynamic_conv(features[None], parameters, masks.channels, x=x, y=y, impl="reference")[:, 0]
    code = "((p, at, u, maps, c) => run([...coordinates(at, u, 4, 16, 16), ...maps], layers(p, c)).at(-1)[0])"
    sent = [
        [p, at, u, features.flatten(1).tolist(), masks.channels]
        for p, u in zip(params["parameters"], params["units"], strict=True)
    ]
    got = js("dynamic_filter", code, sent)
    np.testing.assert_allclose(got, want.flatten(1), atol=1e-9)  # float64 on both sides; coordinates have no error


def test_locations_and_units_come_back_from_the_coordinates():
    params = ALL["dynamic_filter"]().params
    np.testing.assert_allclose(params["homes"], [[10, 14], [38, 22], [46, 50]], atol=0.01)
    np.testing.assert_allclose(params["units"], [16, 32, 32], atol=1e-3)


def test_maps_of_256_steps_change_few_pixels_of_a_mask(js):
    masks, params = packed(drawn()), ALL["dynamic_filter"]().params
    code = """async p => {
      const maps = await new Promise(done => unpackMaps(p.maps, p.scales, 16, 16, done));
      return p.parameters.map((v, d) => {
        const place = coordinates(p.homes[d], p.units[d], 4, 16, 16);
        const [logits] = run([...place, ...maps], layers(v, p.channels)).at(-1);
        const probs = resample(logits, 16, 16, aligned(16, 2), aligned(16, 2)).map(sigmoid);
        return resample(probs, 32, 32, aligned(32, 2, 64), aligned(32, 2, 64)).map(v => v > 0.5);
      });
    }"""
    [got] = js("dynamic_filter", code, [[params]])
    page, ours = torch.tensor(got).bool().view(3, 64, 64), masks.dense()
    assert mask_iou(page, ours).diagonal().min() > 0.97 and 0.02 < ours.float().mean() < 0.98


def test_iou_of_masks_in_the_page(js):
    a, b = (torch.rand(2, 50, generator=draws(4)) > 0.5).int()
    want = float((a & b).sum() / (a | b).sum())
    assert js("prototypes", "maskIou", [[a.tolist(), b.tolist()], [[0], [0]]]) == [pytest.approx(want), 0]


# In the browser


@pytest.fixture
def show(open_page):
    """``show(name, …) -> visit`` with the figure on a bare page, once its image is painted."""

    def open_figure(name, **kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        visit = open_page(html=f"{head}<main>{ALL[name]()._repr_html_()}</main></html>", **kwargs)
        visit.page.locator(".card").wait_for()
        visit.page.wait_for_timeout(50)
        return visit

    return open_figure


def counted(page):
    """The pixels of the mask, as the figure says."""
    return int(re.search(r"(?:Mask:|draw) (\d+) of", page.locator(".status").inner_text())[1])


def painted(page, pane):
    """The pixels of a pane, ``(h, w, 3)``."""
    code = "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    h, w, *values = page.locator(".stage canvas").nth(pane).evaluate(code)
    return np.array(values).reshape(h, w, 4)[..., :3]


@pytest.mark.parametrize("name", ALL)
def test_a_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(name, show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(name, width=390)
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 390)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


def test_sliders_and_buttons_change_the_mask(show):
    visit = show("prototypes", width=820)
    page, want = visit.page, packed(mixed()).dense().flatten(1).sum(1).tolist()
    status, inputs = page.locator(".status"), page.locator(".cell input")
    values = page.locator(".cell .range b")
    c = packed(mixed()).parameters
    assert abs(counted(page) - want[0]) <= 0.01 * want[0] + 2  # prototypes have 256 steps
    assert "IoU with the mask of car 0.90 as predicted: 1.00" in status.inner_text()
    assert values.all_inner_texts() == [f"{v:.2f}".replace("-", "−") for v in c[0].tolist()]
    page.get_by_role("button", name="house 0.70").click()
    assert abs(counted(page) - want[1]) <= 0.01 * want[1] + 2
    assert page.get_by_role("button", name="house 0.70").get_attribute("aria-pressed") == "true"
    before = painted(page, 0)
    slider = page.get_by_role("slider", name="Coefficient 1")
    slider.focus()
    page.keyboard.press("Home")
    assert values.nth(1).inner_text() == "−2.00"
    assert (painted(page, 0) != before).any() and "as predicted: 1.00" not in status.inner_text()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert values.nth(1).inner_text() == "−1.97"
    page.get_by_role("button", name="Flip the sign of coefficient 1").click()
    assert values.nth(1).inner_text() == "1.97" == slider.input_value()
    page.get_by_role("button", name="Prototype 2 alone").focus()
    page.keyboard.press("Enter")
    assert values.all_inner_texts() == ["0.00", "0.00", "1.00", "0.00", "0.00"]
    page.get_by_role("button", name="All 0").click()
    assert "½ everywhere" in status.inner_text() and counted(page) == 0  # ½ is not above ½
    page.get_by_label("Threshold").focus()
    page.keyboard.press("ArrowLeft")
    x0, y0, x1, y1 = packed(mixed()).boxes[1]
    assert counted(page) >= float((x1 - x0) * (y1 - y0)) * 4  # the box, widened by a cell, in pixels
    page.get_by_role("button", name="Crop by the box").click()
    assert counted(page) == 64 * 64 and inputs.count() == 5
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent.startsWith('Mask')"
    )
    assert visit.problems() == []


def test_the_crop_takes_away_what_lies_beyond_the_box_and_one_cell(show):
    page = show("prototypes", width=820).page
    inside = painted(page, 0)
    dark = inside.reshape(-1, 3).min(0)
    x0, y0, x1, y1 = packed(mixed()).boxes[0].tolist()
    beyond = np.ones((32, 32), dtype=bool)
    beyond[int(np.ceil(y0 - 1)) : int(np.ceil(y1 + 1)), int(np.ceil(x0 - 1)) : int(np.ceil(x1 + 1))] = False
    assert (inside[beyond] == inside[0, 0]).all() and dark is not None
    page.get_by_role("button", name="Crop by the box").click()
    assert (painted(page, 0)[beyond] != inside[0, 0]).any()
    assert (painted(page, 0)[~beyond] == inside[~beyond]).all()


def test_hand_made_prototypes_need_no_box_and_no_image(open_page):
    page_of = figures.prototypes(torch.eye(4).view(4, 2, 2), torch.tensor([[2.0, -1, 0, 3]]))._repr_html_()
    visit = open_page(html=page_of)
    visit.page.locator(".card").wait_for()
    assert visit.page.get_by_role("button", name="Crop by the box").count() == 0
    assert counted(visit.page) > 0 and visit.problems() == []


def test_the_location_follows_mouse_keys_and_buttons(show):
    visit = show("dynamic_filter", width=820)
    page, own = visit.page, packed(drawn()).dense().flatten(1).sum(1).tolist()
    status, cross = page.locator(".status"), page.get_by_role("slider")
    filters = page.get_by_role("group", name="Whose filters", exact=True).get_by_role("button")
    places = page.get_by_role("group", name="Location", exact=True).get_by_role("button")
    assert abs(counted(page) - own[0]) <= 0.03 * own[0] + 3
    assert "column 10, row 14" in status.inner_text() and "as predicted: 1.00" in status.inner_text()
    cross.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):  # half a cell, two pixels each
        page.keyboard.press(key)
    assert cross.get_attribute("aria-valuetext").startswith("column 14, row 16")
    assert places.nth(0).get_attribute("aria-pressed") == "false"
    places.nth(1).click()
    assert "column 38, row 22" in status.inner_text() and filters.nth(0).get_attribute("aria-pressed") == "true"
    filters.nth(2).focus()
    page.keyboard.press("Enter")
    assert "column 46, row 50" in status.inner_text() and "house 0.70" in status.inner_text()
    assert abs(counted(page) - own[2]) <= 0.03 * own[2] + 3
    box = page.locator(".stage svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert "column 16, row 32" in status.inner_text()
    grip = page.locator(".cross").bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(grip["x"] + grip["width"] / 2 + box["width"], grip["y"] + grip["height"] / 2)
    page.mouse.up()
    assert "column 63, row 32" in status.inner_text()  # no further than the image
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent.startsWith('From')"
    )
    assert visit.problems() == []


def test_without_relative_coordinates_the_location_does_not_count(show):
    page = show("dynamic_filter", width=820).page
    cross, coordinates = page.get_by_role("slider"), page.get_by_role("button", name="Relative coordinates")
    cross.focus()
    before = painted(page, 1)
    page.keyboard.press("ArrowRight")
    assert (painted(page, 1) != before).any()
    coordinates.click()
    assert coordinates.get_attribute("aria-pressed") == "false"
    before = painted(page, 1)
    cross.focus()
    page.keyboard.press("ArrowDown")
    assert (painted(page, 1) == before).all() and "doesn't count" in page.locator(".status").inner_text()
    want = packed(drawn())
    flat = DynamicMasks(**{f: getattr(want, f) for f in want.__dataclass_fields__} | {"x": want.x * 0, "y": want.y * 0})
    area = int(flat.dense()[0].sum())
    assert abs(counted(page) - area) <= 0.03 * area + 3


def test_what_the_filters_see_and_make_is_shown(show):
    page = show("dynamic_filter", width=820).page
    strips = page.locator(".strip")
    assert [s.locator("canvas").count() for s in strips.all()] == [5, 4, 4]
    assert strips.nth(0).inner_text() == "What the filters see: x, y and 3 features"


def test_the_mark_of_the_focused_cross_is_a_few_pixels_thick(show):
    page = show("dynamic_filter", width=820).page
    page.keyboard.press("Tab")
    handle = page.locator(".cross")
    handle.focus()
    marks = handle.evaluate(
        """e => [e, ...e.children].map(c => getComputedStyle(c)).map(s =>
        [s.outlineStyle, s.vectorEffect === "non-scaling-stroke" ? parseFloat(s.strokeWidth) : 0])"""
    )
    assert all(style == "none" for style, _ in marks)
    assert 3 <= max(thick for _, thick in marks) <= 6
