"""The moving figure of conventions: its arithmetic against seglib's metrics, and itself in a browser."""

import json
import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from browser import finger, middle

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.measuring import CONVENTION_MAPS, CONVENTION_NAMES, CONVENTIONS, convention_score
from seglib.metrics import ConfusionMatrix
from seglib.types import VOID
from seglib.viz.dark import contrast

K = len(CONVENTION_NAMES)
COMBINATIONS = [dict(zip(CONVENTIONS, choices, strict=True)) for choices in product(*CONVENTIONS.values())]
TEXTS = {
    "score": {"iou": "IoU", "dice": "Dice"},
    "void": {"ignored": "not judged", "error": "judged as errors"},
    "mean": {"dataset": "add up, then divide", "images": "mean of images", "classes": "mean of classes"},
    "absent": {"skip": "left out", "zero": "counts 0", "one": "counts 1"},
    "predicted": {"zero": "counts 0", "skip": "left out"},
}
GROUPS = {
    "score": "Score",
    "void": "Void pixels",
    "mean": "Averaging",
    "absent": "A class in neither map",
    "predicted": "A class only predicted",
}


def random_maps(seed):
    """Three images of 3 × 4 pixels: void, absent classes and classes that are only predicted all occur."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, K, (3, 3, 4), generator=g)
    target = torch.where(target == seed % K, (target + 1) % K, target)  # one class lacks a true pixel
    pred = torch.where(torch.rand(3, 3, 4, generator=g) < 0.6, target, torch.randint(0, K, (3, 3, 4), generator=g))
    pred[:2] = torch.where(pred[:2] == seed % K, (pred[:2] + 1) % K, pred[:2])
    target[torch.rand(3, 3, 4, generator=g) < 0.15] = VOID
    if seed == 0:
        target[0] = VOID  # nothing of the first image is judged
    if seed == 1:
        target[:] = VOID
    return pred, target


MAPS = [CONVENTION_MAPS, *map(random_maps, range(12))]


def by_hand(pred, target, *, score, void, mean, absent, predicted):
    """The same mean with sets of pixels, loops and no metric of seglib."""

    def of(images, c):
        pixels = [(i, k) for i in images for k in range(target[0].numel())]
        p = {(i, k) for i, k in pixels if pred[i].flatten()[k] == c}
        if void == "ignored":
            p = {(i, k) for i, k in p if target[i].flatten()[k] != VOID}
        t = {(i, k) for i, k in pixels if target[i].flatten()[k] == c}
        if not p | t:
            return {"skip": None, "zero": 0.0, "one": 1.0}[absent]
        if not t and predicted == "skip":
            return None
        return len(p & t) / len(p | t) if score == "iou" else 2 * len(p & t) / (len(p) + len(t))

    def average(values):
        kept = [v for v in values if v is not None]
        return sum(kept) / len(kept) if kept else None

    images = range(len(pred))
    if mean == "dataset":
        found = average([of(images, c) for c in range(K)])
    elif mean == "images":
        found = average([average([of([i], c) for c in range(K)]) for i in images])
    else:
        found = average([average([of([i], c) for i in images]) for c in range(K)])
    return math.nan if found is None else found


# The conventions


def test_there_are_72_conventions_and_the_default_is_seglibs():
    assert len(COMBINATIONS) == 72
    for pred, target in MAPS:
        metric = ConfusionMatrix(K)
        metric.update(pred, target)
        scores = metric.compute()
        np.testing.assert_equal(convention_score(pred, target, K), scores.miou)
        np.testing.assert_equal(convention_score(pred, target, K, score="dice"), scores.mean_dice)


@pytest.mark.parametrize("rules", COMBINATIONS, ids=lambda rules: "-".join(rules.values()))
def test_every_convention_is_the_one_by_hand(rules):
    for pred, target in MAPS[:5]:
        # float64 on both sides, a handful of terms
        np.testing.assert_allclose(
            convention_score(pred, target, K, **rules), by_hand(pred, target, **rules), rtol=1e-12
        )


def test_a_small_case_is_worked_out():
    pred = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 2, 0]]])
    target = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, VOID]]])
    # class 0: image 1 has 1/2, image 2 has 2/3, together 3/5; class 1: 2/3; class 2: 0/1, only predicted
    cases = [
        ({}, (3 / 5 + 2 / 3 + 0) / 3),
        ({"predicted": "skip"}, (3 / 5 + 2 / 3) / 2),
        ({"mean": "images"}, ((1 / 2 + 2 / 3) / 2 + (2 / 3 + 0) / 2) / 2),
        ({"mean": "classes"}, ((1 / 2 + 2 / 3) / 2 + 2 / 3 + 0) / 3),
        ({"mean": "images", "absent": "one"}, ((1 / 2 + 2 / 3 + 1) / 3 + (2 / 3 + 1 + 0) / 3) / 2),
        ({"void": "error"}, (3 / 6 + 2 / 3 + 0) / 3),
        ({"score": "dice", "predicted": "skip"}, (6 / 8 + 4 / 5) / 2),
    ]
    for rules, want in cases:
        assert convention_score(pred, target, 3, **rules) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_an_unknown_choice_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be one of {CONVENTIONS[name][0]}, .*got 'all'"):
        figures.conventions(**{name: "all"})


# The page


def test_the_figure_is_small_the_same_every_time_and_asks_nobody():
    page = figures.conventions()._repr_html_()
    assert page == figures.conventions()._repr_html_() and len(page) < 30_000
    assert len(source("conventions").encode()) < 18_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_without_javascript_it_is_a_table_of_conventions():
    page = figures.conventions()._repr_html_()
    said = re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]
    assert "(needs JavaScript)" in said
    for rules in ({}, {"mean": "images"}, {"mean": "images", "absent": "one"}, {"void": "error"}):
        assert f"<td>{convention_score(*CONVENTION_MAPS, K, **rules):.3f}</td>" in said
    assert repr(figures.conventions()).startswith("<moving figure: one prediction, many conventions")


@pytest.fixture
def show(open_page):
    def open_figure(**kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        return open_page(html=f"{head}<main>{figures.conventions()._repr_html_()}</main></html>", **kwargs)

    return open_figure


@pytest.mark.slow
def test_the_pages_numbers_equal_pythons_for_every_combination(open_page):
    page = open_page().page
    cases = []
    for pred, target in MAPS:
        images = [
            {"truth": t.flatten().tolist(), "pred": p.flatten().tolist()} for p, t in zip(pred, target, strict=True)
        ]
        cases += [[images, K, VOID, rules] for rules in COMBINATIONS]
    body = "return {all: combinations(), found: JSON.parse(cases).map(c => scoreOf(...c).score)};"
    got = page.evaluate(f"cases => {{ {source('conventions')}\n{body} }}", json.dumps(cases))
    assert sorted(map(str, got["all"])) == sorted(map(str, COMBINATIONS))
    want = [convention_score(*maps, K, **rules) for maps in MAPS for rules in COMBINATIONS]
    found = np.array([math.nan if v is None else v for v in got["found"]])
    np.testing.assert_allclose(found, want, rtol=1e-12)  # float64 on both sides
    assert np.isnan(want).any() and len(set(np.round(want, 6))) > 300


def shown(page):
    return page.locator(".result").inner_text()


def said(rules, maps=CONVENTION_MAPS):
    value = convention_score(*maps, K, **rules)
    return f"{'mIoU' if rules.get('score', 'iou') == 'iou' else 'mean Dice'} {value:.3f}"


def button(page, name, choice):
    return page.get_by_role("group", name=GROUPS[name], exact=True).get_by_role(
        "button", name=TEXTS[name][choice], exact=True
    )


@pytest.mark.slow
def test_every_toggle_shows_the_score_of_its_convention_and_the_sum_that_leads_to_it(show):
    visit = show(width=800)
    page = visit.page
    chosen = {name: choices[0] for name, choices in CONVENTIONS.items()}
    assert shown(page) == said({}) and page.locator(".sum").inner_text().endswith("seglib's convention")
    for rules in COMBINATIONS:
        for name, choice in rules.items():
            if chosen[name] != choice:
                button(page, name, choice).click()
                chosen[name] = choice
        assert shown(page) == said(rules)
        terms = re.search(r"= \((.*)\) / (\d)", page.locator(".sum").inner_text())
        values = list(map(float, terms[1].split(" + ")))
        assert len(values) == int(terms[2])
        assert np.mean(values) == pytest.approx(convention_score(*CONVENTION_MAPS, K, **rules), abs=0.0051)
        pressed = page.locator("button[aria-pressed=true]").all_inner_texts()
        assert pressed == [TEXTS[name][choice] for name, choice in rules.items()]
    page.get_by_role("button", name="Reset").click()
    assert shown(page) == said({})
    every = [convention_score(*CONVENTION_MAPS, K, **rules) for rules in COMBINATIONS if rules["score"] == "iou"]
    assert (
        f"The 36 conventions for this mIoU run from {min(every):.3f} to {max(every):.3f}"
        in page.locator(".all").inner_text()
    )
    assert visit.problems() == []


@pytest.mark.slow
def test_cells_of_the_prediction_follow_mouse_and_keys(show):
    visit = show(width=800)
    page = visit.page
    pred, target = CONVENTION_MAPS[0].clone(), CONVENTION_MAPS[1]
    grid = page.get_by_role("group", name="Prediction of image 3")
    assert grid.get_by_role("button").nth(4).get_attribute("aria-label") == (
        "Image 3, row 2, column 1: predicted bird, truth sky"
    )
    grid.get_by_role("button").nth(4).click()
    pred[2, 1, 0] = 0  # after the last class comes the first
    assert shown(page) == said({}, (pred, target))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    pred[2, 2, 1] = (pred[2, 2, 1] + 2) % K
    assert shown(page) == said({}, (pred, target))
    assert grid.locator("[tabindex='0']").count() == 1
    button(page, "mean", "images").focus()
    page.keyboard.press("Enter")
    assert shown(page) == said({"mean": "images"}, (pred, target))
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent"
    )
    assert page.locator("[aria-live]").inner_text() == f"{shown(page)}."
    assert visit.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_lone_convention_on_the_strip_stands_out_from_the_page(show, dark):
    visit = show(width=800, dark=dark)
    fill, opacity, page = visit.page.locator("circle.other").first.evaluate(
        "e => [getComputedStyle(e).fill, +getComputedStyle(e).fillOpacity,"
        " getComputedStyle(e.closest('.card')).backgroundColor]"
    )
    dot = np.array([float(v) for v in re.findall(r"[\d.]+", fill)])  # color(srgb r g b)
    ground = np.array([float(v) for v in re.findall(r"[\d.]+", page)]) / 255  # rgb(r, g, b)
    assert fill.startswith("color(srgb ") and (ground.mean() < 0.5) == dark
    seen = opacity * dot + (1 - opacity) * ground
    assert contrast(tuple(seen), tuple(ground)) >= 3  # WCAG 2.2, 1.4.11
    assert visit.problems() == []


@pytest.mark.slow
def test_it_follows_a_finger(show):
    visit = show(width=390)
    page = visit.page

    def tap(target):
        target.scroll_into_view_if_needed()
        finger(page, middle(target))

    pred = CONVENTION_MAPS[0].clone()
    pred[0, 0, 0] = 1
    tap(page.get_by_role("group", name="Prediction of image 1").get_by_role("button").first)
    page.wait_for_timeout(100)
    assert shown(page) == said({}, (pred, CONVENTION_MAPS[1]))
    tap(button(page, "absent", "one"))
    tap(button(page, "mean", "classes"))
    page.wait_for_timeout(100)
    assert shown(page) == said({"absent": "one", "mean": "classes"}, (pred, CONVENTION_MAPS[1]))
    assert visit.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 800])
def test_it_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show, width):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(width=width)
    card = visit.page.locator(".card")
    for rules in ({"mean": "dataset"}, {"mean": "classes"}):
        button(visit.page, "mean", rules["mean"]).click()
        assert visit.overflow() <= 0
        for mode, colors in modes.items():
            visit.page.emulate_media(color_scheme=mode)
            assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
            assert visit.axe() == []
    assert visit.problems() == []
