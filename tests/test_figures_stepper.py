"""The moving figure of a detector's stages: its NMS and recall against seglib's, and itself in a browser."""

import functools

import pytest
import torch
from browser import finger

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.images import unpack_maps
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.models.mask_rcnn import mask_rcnn_tiny
from seglib.ops.boxes import box_iou
from seglib.ops.nms import batched_nms
from seglib.ops.paste import paste_masks
from seglib.types import Sample

HEAD = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"


@functools.cache
def stored():
    from seglib.book.pretrained import stored_model

    return stored_model("mask_rcnn_tiny")


@functools.cache
def scene():
    return Scenes(22, split="val")[21]


@functools.cache
def figure():
    return figures.detector_stepper(stored(), scene(), CATEGORIES)


def numbers(key, dtype=torch.float64):
    return torch.tensor(figure().params[key], dtype=dtype)


def answers(key, dtype=torch.float64):
    return torch.tensor([a[key] for a in figure().params["answers"]], dtype=dtype)


def expected(nms, score, second):
    """Proposals and detections as seglib makes them from the numbers in the page."""
    p = figure().params
    groups = numbers("levels", torch.int64)
    proposals = batched_nms(numbers("moved"), numbers("scores"), groups, nms, impl="reference")[: p["most"]]
    of, label = answers("of", torch.int64), answers("label", torch.int64)
    above = (torch.isin(of, proposals) & (answers("score") > score)).nonzero()[:, 0]
    kept = batched_nms(answers("box")[above], answers("score")[above], label[above], second, impl="reference")
    return proposals, above[kept][: p["most"]]


def recall(boxes, labels=None):
    iou = box_iou(numbers("truth"), boxes) >= 0.5
    if labels is not None:
        iou = iou & (numbers("labels", torch.int64)[:, None] == labels)
    return int(iou.any(1).sum())


def test_the_page_is_small_asks_nobody_and_is_the_same_every_time():
    page = figure()._repr_html_()
    assert len(page.encode()) < 300_000
    assert page == figures.detector_stepper(stored(), scene(), CATEGORIES)._repr_html_()
    assert page.count("</script>") == 1 and "fetch(" not in page
    assert "19 objects (needs JavaScript)" in page


def test_the_stored_numbers_are_the_models_own():
    with torch.no_grad():
        out = stored().eval()(scene().image[None])
    proposals, found = expected(0.7, 0.05, 0.5)
    near = box_iou(out.proposals[0].double(), numbers("moved")[proposals])
    assert len(proposals) == 100 and (near.amax(1) > 0.98).double().mean() >= 0.98
    count = int((out.scores > 0).sum())
    near = box_iou(out.boxes[0, :count].double(), answers("box")[found])
    assert abs(len(found) - count) <= 1 and (near.amax(1) > 0.98).double().mean() > 0.9


def test_a_scene_without_objects_and_a_large_one_are_refused():
    with pytest.raises(ValueError, match="'bare' has no objects to reach"):
        figures.detector_stepper(mask_rcnn_tiny(7), Sample(torch.rand(3, 64, 64), "bare"), CATEGORIES)
    large = Sample(torch.rand(3, 256, 256), "large", instances=scene().instances)
    with pytest.raises(ValueError, match="at most 192 pixels"):
        figures.detector_stepper(mask_rcnn_tiny(7), large, CATEGORIES)


@pytest.fixture
def js(open_page):
    """``js(expression, cases)``: JavaScript over the figure's functions; p are its numbers."""
    page = open_page().page

    def run(expression, cases):
        code = f"{source('maps', 'detector_stepper')}\nreturn cases.map(c => {expression});"
        return page.evaluate(f"([p, cases]) => {{ {code} }}", [figure().params, cases])

    return run


@pytest.mark.slow
def test_nms_and_recall_equal_seglibs(js):
    cases = [[0.7, 0.5, 0.5], [0.7, 0.05, 0.5], [0.3, 0.05, 0.3], [0.9, 0.2, 0.7], [1.0, 0.05, 1.0], [0.05, 0.9, 0.05]]
    found = js("(s => [s.proposals, s.detections])(stages(p, ...c))", cases)
    for case, (proposals, detections) in zip(cases, found, strict=True):
        first, last = expected(*case)
        assert proposals == first.tolist() and detections == last.tolist()
        boxes, labels = answers("box")[last], answers("label", torch.int64)[last]
        lists = [[numbers("moved")[first].tolist(), None], [boxes.tolist(), labels.tolist()]]
        said = js("reached(p.truth, c[0], c[1], p.labels)", lists)
        assert said == [recall(numbers("moved")[first]), recall(boxes, labels)]


@pytest.mark.slow
def test_a_box_of_another_class_reaches_no_object(js):
    truth, boxes = [[0, 0, 4, 4], [6, 0, 8, 4]], [[0, 0, 4, 2], [6, 0, 8, 1]]  # IoU 0.5 and 0.25
    cases = [[truth, boxes, None, [1, 1]], [truth, boxes, [1, 1], [1, 1]], [truth, boxes, [0, 1], [1, 1]]]
    assert js("reached(...c)", cases) == [1, 1, 0]


@pytest.mark.slow
def test_masks_are_pasted_as_seglib_pastes(js):
    _, last = expected(0.7, 0.5, 0.5)
    masks = unpack_maps(figure().params["masks"], figure().params["scales"])[last]
    boxes = answers("box")[last]
    wanted = paste_masks(masks.clamp(0, 1), boxes, (128, 128))  # (D, H, W)
    cases = [[m.flatten().tolist(), 28, b.tolist()] for m, b in zip(masks, boxes, strict=True)]
    pixels = "Array.from({length: 128 * 128}, (_, i) => read(...c, i % 128, Math.floor(i / 128)) >= 0.5)"
    got = torch.tensor(js(pixels, cases)).view(-1, 128, 128)
    assert (got != wanted).sum() <= 2  # a pixel at one half may fall on either side


@pytest.fixture
def show(open_page):
    def open_figure(**kwargs):
        visit = open_page(html=f"{HEAD}<main>{figure()._repr_html_()}</main></html>", **kwargs)
        visit.page.locator(".recall").wait_for()
        return visit

    return open_figure


def step(visit, name):
    visit.page.get_by_role("button", name=name).click()


@pytest.mark.slow
def test_the_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(width=360)
    card = visit.page.locator(".card")
    for name in ("1 Anchors", "7 In the image"):
        step(visit, name)
        assert visit.overflow() <= 0
        for mode, colors in modes.items():
            visit.page.emulate_media(color_scheme=mode)
            assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
            assert visit.axe() == []
    assert visit.problems() == []


@pytest.mark.slow
def test_the_stages_and_sliders_say_what_is_reached(show):
    visit = show(width=800)
    proposals, found = expected(0.7, 0.5, 0.5)
    labels = answers("label", torch.int64)
    assert visit.page.locator(".recall").inner_text() == (
        f"{recall(numbers('moved')[proposals])} of 19 objects reached"
    )
    step(visit, "5 Refined boxes")
    assert visit.page.locator(".status").inner_text().startswith(f"Refined boxes: {len(found)} detections.")
    slider = visit.page.get_by_label("score above")
    slider.focus()
    visit.page.keyboard.press("Home")  # 0.05
    _, found = expected(0.7, 0.05, 0.5)
    assert (
        visit.page.locator(".recall").inner_text()
        == f"{recall(answers('box')[found], labels[found])} of 19 objects reached"
    )
    slider = visit.page.get_by_label("NMS of proposals")
    slider.focus()
    visit.page.keyboard.press("Home")
    _, found = expected(0.05, 0.05, 0.5)
    assert (
        visit.page.locator(".recall").inner_text()
        == f"{recall(answers('box')[found], labels[found])} of 19 objects reached"
    )


@pytest.mark.slow
def test_a_box_is_followed_by_mouse_touch_and_keyboard(show):
    visit = show(width=800)
    step(visit, "5 Refined boxes")
    stage = visit.page.get_by_role("slider", name="Boxes by falling score")
    _, found = expected(0.7, 0.5, 0.5)
    story = visit.page.locator(".story")
    assert "Pasted into the image" in story.inner_text()  # the best detection, at the start

    def at(i):
        x0, y0, x1, y1 = answers("box")[i].tolist()
        box = stage.bounding_box()
        return box["x"] + (x0 + x1) / 256 * box["width"], box["y"] + (y0 + y1) / 256 * box["height"]

    def name(i):
        return figure().params["names"][int(answers("label")[i])]

    house = next(int(i) for i in found if name(i) == "house")
    visit.page.mouse.click(*at(house))
    assert "Most likely class: house" in story.inner_text()
    stage.focus()
    visit.page.keyboard.press("ArrowRight")
    after = int(stage.get_attribute("aria-valuenow"))
    assert after == found.tolist().index(house) + 2
    visit.page.keyboard.press("ArrowLeft")
    assert int(stage.get_attribute("aria-valuenow")) == after - 1
    car = next(int(i) for i in found if name(i) != "house")
    finger(visit.page, at(car))
    assert f"Most likely class: {name(car)}" in story.inner_text()
    assert visit.problems() == []
