"""The moving figure of the panoptic merge: its arithmetic against seglib's, and itself in a browser."""

import functools
import html
import json
import re
from typing import Any

import pytest
import torch

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.data.scenes import CATEGORIES, make_scene
from seglib.metrics import PanopticQuality
from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Category, Instances, Panoptic, Segment

pytestmark = pytest.mark.slow  # every test opens a browser

THINGS = sum(c.isthing for c in CATEGORIES)
SETTINGS = MergeSettings(stuff_area_limit=64)
FOUR = tuple(Category(i, name, i < 2, (40 * i, 90, 200 - 40 * i)) for i, name in enumerate(("a", "b", "x", "y")))


def objects(masks, labels, scores):
    masks, scores = torch.as_tensor(masks).bool(), torch.tensor(scores, dtype=torch.float64)
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), masks_to_boxes(masks), scores)


@functools.cache
def scene(size=64):
    """A synthetic scene; its objects moved by a pixel, the largest found twice, and water where there is too little."""
    sample = make_scene(5, 3, size=size)
    true = sample.instances
    largest = true.masks[true.masks.flatten(1).sum(1).argmax()]
    masks = torch.cat([true.masks.roll((1, 1), (1, 2)), largest.roll((2, 3), (0, 1))[None]])
    labels = [*true.labels.tolist(), 0]
    scores = [0.99 - 0.08 * i for i in range(len(true))] + [0.61]
    stuff = sample.semantic.where(sample.semantic >= THINGS, VOID)
    stuff[:3, :7] = 10
    return sample, objects(masks, labels, scores), stuff


@functools.cache
def figure(size=64):
    sample, found, stuff = scene(size)
    return figures.panoptic_merge(found, stuff, sample.panoptic, CATEGORIES, image=sample.image, settings=SETTINGS)


def small(**changes):
    """Four rows of four cells: two objects, a class of stuff, and what is changed."""
    values: dict[str, Any] = {
        "instances": objects(torch.ones(2, 4, 4), [0, 1], [0.9, 0.8]),
        "stuff": torch.full((4, 4), 2),
        "truth": Panoptic(torch.ones(4, 4, dtype=torch.int32), [Segment(1, 2, False, 16)]),
        "categories": FOUR,
    }
    return figures.panoptic_merge(**(values | changes))


# The HTML


def test_the_figure_is_small_the_same_every_time_and_asks_nobody():
    page = figure()._repr_html_()
    figure.cache_clear()
    assert page == figure()._repr_html_() and len(page) < 60_000
    assert len(source("panoptic", "panoptic_merge").encode()) < 20_500
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_the_figure_says_something_without_javascript_and_without_html():
    page, (_, found, stuff) = figure()._repr_html_(), scene()
    merged = merge_panoptic(found, stuff, SETTINGS, num_things=THINGS)
    things = sum(s.isthing for s in merged.segments)
    fallback = re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]
    assert (
        f"Of {len(found)} predicted objects {things} are pasted, then {len(merged.segments) - things} stuff" in fallback
    )
    assert "(needs JavaScript)" in fallback and 'alt="The image"' in fallback
    assert figure()._repr_mimebundle_()["text/plain"].startswith("<moving figure: the panoptic merge of ")


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = small(categories=(Category(0, name, True, (1, 2, 3)), *FOUR[1:]))._repr_html_()
    assert page.count("<script>") == 1
    params = json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))
    assert params["categories"][0]["name"] == name


# What the page knows of the prediction


def test_maps_of_up_to_64_cells_arrive_as_they_are(js):
    sample, found, stuff = scene()
    p = figure().params
    assert (p["h"], p["w"], p["unit"]) == (64, 64, 1)
    got_stuff, got_truth, bits = js("unroll", [[p["stuff"]], [p["truth"]], [p["masks"]]])
    assert got_stuff == stuff.flatten().tolist()
    ids = torch.tensor([0, *(s.id for s in sample.panoptic.segments)])
    assert ids[torch.tensor(got_truth)].tolist() == sample.panoptic.map.flatten().tolist()
    order = found.scores.argsort(descending=True, stable=True)
    for i, mask in enumerate(found.masks[order].flatten(1)):
        assert [bool(b >> i & 1) for b in bits] == mask.tolist()
    assert [o["label"] for o in p["objects"]] == found.labels[order].tolist()


def test_larger_maps_are_read_at_every_other_pixel_and_what_is_lost_is_left_out():
    masks = torch.zeros(3, 128, 96)
    masks[0, :40], masks[1, 60, 60], masks[2, 61, 61] = 1, 1, 1  # a pixel in an even row and one in an odd row
    ids = torch.ones(128, 96, dtype=torch.int32)
    ids[100, 50], ids[101, 51] = 2, 3
    truth = Panoptic(ids, [Segment(1, 2, False, 0), Segment(2, 0, True, 1), Segment(3, 1, True, 1)])
    found = objects(masks, [0, 0, 1], [0.9, 0.8, 0.7])
    p = figures.panoptic_merge(found, torch.full((128, 96), 2), truth, FOUR).params
    assert (p["h"], p["w"], p["unit"]) == (64, 48, 4)
    assert [o["score"] for o in p["objects"]] == [0.9, 0.7] and p["note"] == " A cell stands for 2 × 2 pixels."
    assert [t["category"] for t in p["targets"]] == [2, 1]
    assert sum(p["truth"][1::2]) == 64 * 48 and p["truth"][0::2] == [1, 2, 1]
    fine = figures.panoptic_merge(found, torch.full((128, 96), 2), truth, FOUR, cells=128).params
    assert (fine["h"], fine["w"], fine["unit"], len(fine["objects"])) == (128, 96, 1, 3)


def test_scores_are_rounded_down_so_that_thresholds_in_hundredths_decide_the_same():
    scores = [0.7 - 1e-9, 0.7, 0.29, 0.499, 0.5]
    found = objects(torch.ones(5, 4, 4), [0] * 5, scores)
    assert [o["score"] for o in small(instances=found).params["objects"]] == [0.7, 0.69, 0.5, 0.49, 0.29]
    half = found.replace(scores=found.scores.float())  # float32 has no 0.7, and rounds 0.7 - 1e-9 to the same
    assert [o["score"] for o in small(instances=half).params["objects"]] == [0.7, 0.7, 0.5, 0.49, 0.29]


def test_the_limits_of_the_slider_are_powers_of_two_and_the_settings_own():
    assert small(settings=MergeSettings(stuff_area_limit=5)).params["limits"] == [0, 1, 2, 4, 5, 8, 16]


def test_an_image_without_objects_can_be_shown():
    assert small(instances=objects(torch.zeros(0, 4, 4), [], [])).params["objects"] == []


def test_of_many_objects_the_most_certain_ones_are_shown_and_the_page_says_so():
    found = objects(torch.ones(3, 4, 4), [0, 1, 1], [0.3, 0.4, 0.9])
    p = small(instances=found, most=2).params
    assert [o["score"] for o in p["objects"]] == [0.9, 0.4]
    assert p["note"] == " Of 3 predicted objects the 2 with the highest scores are here."
    assert small(instances=found).params["note"] == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: small(stuff=torch.full((4, 5), 2)), r"one size \(H, W\), got .*'stuff': \(4, 5\)"),
        (lambda: small(image=torch.rand(3, 8, 8)), r"got .*'image': \(8, 8\)"),
        (lambda: small(instances=objects(torch.ones(1, 4, 4), [0], [0.9]).replace(scores=None)), "have no scores"),
        (lambda: small(stuff=torch.zeros(4, 4, dtype=torch.int64)), "stuff map has the label 0"),
        (lambda: small(instances=objects(torch.ones(1, 4, 4), [3], [0.9])), r"labels \[3\], things are 0..1"),
        (lambda: small(most=0), "most must be 1 to 24, got 0"),
        (lambda: small(cells=129), "cells must be 8 to 128, got 129"),
        (lambda: small(most=1), "2 objects have a score of at least 0.5 and the figure shows 1"),
    ],
)
def test_a_wrong_argument_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# The arithmetic: the page's own functions, run in the browser


@pytest.fixture
def js(open_page):
    """``js(function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(function, cases):
        code = f"{source('panoptic', 'panoptic_merge')}\nreturn cases.map(c => ({function})(...c));"
        return page.evaluate(f"cases => {{ {code} }}", cases)

    return call


def random_case(seed):
    """Overlapping rectangles with tied scores, some empty; scattered stuff; thresholds that areas and scores hit."""
    g = torch.Generator().manual_seed(seed)

    def draw(high, *shape):
        return torch.randint(high, shape, generator=g)

    n, h, w = int(draw(7)), 3 + int(draw(6)), 3 + int(draw(6))
    rows, columns = torch.arange(h)[:, None], torch.arange(w)
    masks = torch.zeros(n, h, w, dtype=torch.bool)
    for mask in masks:
        top, left = int(draw(h)), int(draw(w))
        mask |= (rows >= top) & (rows < top + int(draw(5))) & (columns >= left) & (columns < left + int(draw(5)))
    masks = masks[masks.flatten(1).any(1)]
    found = objects(masks, draw(2, len(masks)).tolist(), (draw(6, len(masks)).double() / 5).tolist())
    stuff = torch.tensor([2, 3, VOID])[draw(3, h, w)]
    shares = (0.0, 0.25, 1 / 3, 0.5, 0.6, 1.0)
    settings = MergeSettings(shares[seed % 6], shares[int(draw(6))], (0, 1, 4, 9, 30)[int(draw(5))])
    return found, stuff, settings, int(draw(2)) + 1


def sent(found, stuff, settings, step):
    cells = [mask.flatten().nonzero()[:, 0].tolist() for mask in found.masks]
    parts = zip(cells, found.labels.tolist(), found.scores.tolist(), strict=True)
    listed = [{"cells": c, "label": k, "score": s} for c, k, s in parts]
    limits = (settings.score_threshold, settings.overlap_threshold, settings.stuff_area_limit)
    return [
        {"objects": listed, "stuff": stuff.flatten().tolist(), "unit": step**2},
        dict(zip(("score", "overlap", "area"), limits, strict=True)),
    ]


def larger(maps, step):
    return maps.repeat_interleave(step, -2).repeat_interleave(step, -1)


def test_the_merge_equals_seglibs_on_random_scenes_with_ties_and_shares_that_equal_the_threshold(js):
    cases = [random_case(seed) for seed in range(400)]
    outcomes = set()
    for (found, stuff, settings, step), got in zip(cases, js("merge", [sent(*c) for c in cases]), strict=True):
        full = found.replace(masks=larger(found.masks, step))
        want = merge_panoptic(full, larger(stuff, step), settings, num_things=2)
        assert torch.equal(larger(torch.tensor(got["ids"]).view(stuff.shape), step), want.map.long())
        for s, segment in zip(got["segments"], want.segments, strict=True):
            assert segment == Segment(s["id"], s["category"], s["thing"], s["area"], s["score"])
        outcomes |= {(s["object"] < 0, bool(s["id"]), bool(s.get("stop")), len(s["free"]) > 0) for s in got["steps"]}
    assert len(outcomes) == 7  # things and stuff: pasted, dropped, without a free pixel; and the stop


def test_every_object_has_a_step_up_to_the_first_below_the_score_threshold_then_every_class(js):
    masks = torch.zeros(4, 1, 8)
    masks[0, 0, :4], masks[1, 0, 2:6], masks[2, 0, 3:6], masks[3, 0, 6:] = 1, 1, 1, 1
    found = objects(masks, [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.4])
    stuff = torch.tensor([[3, 3, 3, 3, 3, 3, 2, VOID]])
    [got] = js("merge", [sent(found, stuff, MergeSettings(0.75, 0.5, 1), 1)])
    rows = [(s["object"], s["category"], s["id"], s.get("stop", False), s["free"]) for s in got["steps"]]
    assert rows == [
        (0, 0, 1, False, [0, 1, 2, 3]),
        (1, 0, 2, False, [4, 5]),  # half of it is covered, which is not more than half
        (2, 1, 0, True, []),  # the last object is not asked
        (-1, 2, 3, False, [6]),
        (-1, 3, 0, False, []),
    ]
    assert got["ids"] == [1, 1, 1, 1, 2, 2, 3, 0]


def test_what_a_step_did_and_why_is_said(js):
    def step(covered, free, index, **more):
        cells = list(range(covered + free))
        return {"object": 0, "cells": cells, "free": cells[covered:], "id": index, **more}

    limits = {"score": 0.5, "overlap": 0.5, "area": 64}
    cases = [
        [step(0, 10, 1), limits, 1],
        [step(3, 22, 1), limits, 4],
        [step(31, 19, 0), limits, 1],
        [step(501, 499, 0), limits, 1],
        [step(5, 0, 0), {**limits, "overlap": 1}, 1],
        [step(2, 2, 1), limits, 1],
        [step(0, 4, 0, stop=True), limits, 1],
        [step(9, 16, 2, object=-1), limits, 4],
        [step(0, 37, 0, object=-1), limits, 1],
        [step(4, 0, 0, object=-1), limits, 1],
    ]
    assert js("why", cases) == [
        ["nothing covered, all 10 pixels are pasted.", "pasted, 10 px"],
        ["12% already covered, not more than 50%: the other 88 pixels are pasted.", "pasted, 88 px"],
        ["62% already covered, more than 50%: dropped.", "62% covered: dropped"],
        ["50.1% already covered, more than 50%: dropped.", "50.1% covered: dropped"],
        ["covered completely, nothing is left to paste.", "covered completely"],
        ["50% already covered, not more than 50%: the other 2 pixels are pasted.", "pasted, 2 px"],
        ["the score is below 0.50: stop.", "stop"],
        ["64 pixels free, at least 64: pasted.", "pasted, 64 px"],
        ["37 pixels free, fewer than 64: void.", "37 px: void"],
        ["covered completely, nothing is left to paste.", "covered completely"],
    ]


# In the browser


@pytest.fixture
def show(open_page):
    """``show(…) -> visit`` with the figure of the scene on a bare page."""

    def open_figure(**kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        return open_page(html=f"{head}<main>{figure()._repr_html_()}</main></html>", **kwargs)

    return open_figure


def painted(page, pane):
    """A canvas as text."""
    return page.locator("canvas").nth(pane).evaluate("c => c.toDataURL()")


def facts(page):
    """PQ, PQ of things and of stuff, and the pixels that are void."""
    text = page.locator(".big").inner_text()
    return re.search(r"PQ ([\d.]+|–)", text)[1], *re.search(r"things (.*)\nstuff (.*)\nvoid: (\d+) px", text).groups()


def expected(settings):
    """The numbers of :func:`facts` by seglib's merge and metric."""
    sample, found, stuff = scene()
    merged, metric = merge_panoptic(found, stuff, settings, num_things=THINGS), PanopticQuality(CATEGORIES)
    metric.update(merged, sample.panoptic)
    scores = metric.compute()
    shown = (f"{v:.3f}" for v in (scores.pq, scores.things.pq, scores.stuff.pq))
    return *shown, str(int((merged.map == 0).sum()))


def test_the_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(width=360)
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 360)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


def test_segments_are_pasted_step_by_step(show):
    visit = show(width=800)
    page = visit.page
    status, rows, position = page.locator(".status"), page.locator("li"), page.get_by_role("slider", name="Step")
    last = int(position.get_attribute("max"))
    assert rows.count() == last and rows.nth(0).get_attribute("aria-current") == "step"
    first = rows.nth(0).locator("b").inner_text()
    assert status.inner_text().startswith(f"{first}: nothing covered, all ")
    assert (
        rows.nth(0).locator("span").inner_text().startswith("pasted, ")
        and rows.nth(1).locator("span").inner_text() == ""
    )
    before = painted(page, 1)
    page.get_by_role("button", name="One step on").click()
    assert position.get_attribute("aria-valuetext") == f"2 of {last}"
    assert painted(page, 1) != before
    page.get_by_role("button", name="One step back").click()
    assert painted(page, 1) == before
    position.focus()
    page.keyboard.press("Home")
    assert status.inner_text() == "Nothing is pasted yet: every pixel is void."
    assert facts(page)[3] == str(64 * 64) and page.get_by_role("button", name="One step back").is_disabled()
    dropped = page.locator("li", has_text="house 0.61").nth(0)
    dropped.click()
    assert re.search(r"house 0.61: \d\d% already covered, more than 50%: dropped\.", status.inner_text())
    position.focus()
    page.keyboard.press("End")
    assert "Left void: " in status.inner_text() and facts(page) == expected(SETTINGS)
    live = page.locator("[aria-live]").element_handle()
    page.wait_for_function("([e, text]) => e.textContent.startsWith(text)", arg=[live, f"Step {last} of {last}. "])
    assert visit.problems() == []


def test_a_threshold_shows_the_final_map_at_once(show):
    page = show(width=800).page
    changes = [
        ("Overlap threshold", "Home", MergeSettings(0.5, 0, 64)),
        ("Score threshold", "Home", MergeSettings(0, 0, 64)),
        ("Overlap threshold", "End", MergeSettings(0, 1, 64)),
        ("Stuff area limit", "End", MergeSettings(0, 1, 4096)),
        ("Stuff area limit", "Home", MergeSettings(0, 1, 0)),
        ("Score threshold", "End", MergeSettings(1, 1, 0)),
    ]
    seen = set()
    for label, key, settings in changes:
        page.get_by_label(label).focus()
        page.keyboard.press(key)
        assert facts(page) == expected(settings), settings
        seen.add(facts(page))
        assert page.get_by_role("button", name="One step on").is_disabled()
    assert len(seen) >= 5  # the thresholds matter here
    assert f"Final PQ at the first settings: {expected(SETTINGS)[0]}" in page.locator(".big").inner_text()
    page.get_by_role("button", name="Reset").click()
    assert facts(page) == expected(SETTINGS) and "first settings" not in page.locator(".big").inner_text()
    assert page.get_by_label("Score threshold").get_attribute("aria-valuetext") == "0.50"
    assert page.get_by_label("Stuff area limit").get_attribute("aria-valuetext") == "64 px"


def test_the_objects_end_at_the_first_below_the_score_threshold(show):
    page = show(width=800).page
    count = len(scene()[1])
    page.get_by_label("Score threshold").focus()
    page.keyboard.press("End")
    assert page.locator("li").nth(0).inner_text().startswith(f"{page.locator('li b').nth(0).inner_text()}")
    assert page.locator("li b").nth(0).inner_text().endswith(f" and {count - 1} more")
    assert page.locator("li span").nth(0).inner_text() == "stop"


def test_play_goes_on_by_itself_and_with_reduced_motion_straight_to_the_end(show):
    page = show(width=800).page
    position = page.get_by_role("slider", name="Step")
    page.get_by_role("button", name="To the end").click()
    assert position.input_value() == position.get_attribute("max")
    page.emulate_media(reduced_motion="no-preference")
    page.clock.install()
    position.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play").click()
    assert position.input_value() == "1"
    page.clock.run_for(3500)
    assert position.input_value() == "3"
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3500)
    assert position.input_value() == "3"
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(60_000)
    assert position.input_value() == position.get_attribute("max")
    assert page.get_by_role("button", name="Play").count() == 1
    page.get_by_role("button", name="Play").click()  # at the end it begins again
    assert position.input_value() == "0"
