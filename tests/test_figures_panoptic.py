"""The moving figure of panoptic quality: its rules against seglib's, its tools, and itself in a browser."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import finger, middle

from seglib.book.figures import PANOPTIC_CATEGORIES, panoptic_quality, panoptic_scene
from seglib.book.figures.element import source
from seglib.metrics.pq import PanopticQuality, match_segments
from seglib.types import Category, Panoptic, Segment

pytestmark = pytest.mark.slow  # every test opens a browser

FILES = ("panoptic", "panoptic_quality")
CATEGORIES = [
    Category(0, "a", True, (230, 159, 0)),
    Category(1, "b", True, (204, 121, 167)),
    Category(2, "c", False, (86, 180, 233)),
]
THINGS = [True, True, False]
ALL_RULES = {"union": True, "ignore": True, "crowd": True}


def scored(prediction, truth, categories=CATEGORIES):
    metric = PanopticQuality(categories)
    metric.update(prediction, truth)
    return metric.compute()


def described(ids, classes, crowds=()):
    """A map with the class of each id, id 1 first; ids without pixels are left out."""
    segments = [
        Segment(i, k, CATEGORIES[k].isthing, int((ids == i).sum()), iscrowd=i in crowds)
        for i, k in enumerate(classes, 1)
        if (ids == i).any()
    ]
    return Panoptic(ids.to(torch.int32), segments)


def random_pair(generator):
    """Two maps of 6 × 8 cells that often match: void, crowds (several of a class) and shares of exactly ½ occur."""

    def draw(*size, high):
        return torch.randint(high, size, generator=generator)

    blocks = draw(3, 4, high=7).repeat_interleave(2, 0).repeat_interleave(2, 1)  # (6, 8), 0 is void
    classes = draw(6, high=3).tolist()
    truth = described(blocks, classes, crowds=[i for i in range(1, 7) if draw(high=4) == 0])
    moved = torch.where(draw(6, 8, high=5) == 0, draw(6, 8, high=8), blocks.roll(int(draw(high=2)), 1))
    changed = [k if draw(high=4) else int(draw(high=3)) for k in [*classes, 0]]
    return described(moved, changed), truth


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    return [random_pair(generator) for _ in range(300)]


def plain(panoptic):
    """The map as the script has it."""
    segments = [{"id": s.id, "category": s.category_id, "crowd": s.iscrowd} for s in panoptic.segments]
    return {"ids": panoptic.map.flatten().tolist(), "segments": segments}


@pytest.fixture
def js(open_page):
    """``js(function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(function, cases):
        run = f"JSON.stringify(JSON.parse(cases).map(c => ({function})(...c)))"  # NaN comes back as None
        return json.loads(page.evaluate(f"cases => {{ {source(*FILES)}\nreturn {run}; }}", json.dumps(cases)))

    return call


def judged(js, pairs, things=THINGS, **rules):
    return js("quality", [[plain(t), plain(p), things, ALL_RULES | rules] for p, t in pairs])


# The rules


def numbers(found):
    """The page's scores as one row: of every class, then the means."""
    classes = [[c[key] for c in found["classes"]] for key in ("iou", "tp", "fp", "fn", "pq", "sq", "rq")]
    means = [found[name][key] for name in ("things", "stuff", "all") for key in ("classes", "pq", "sq", "rq")]
    return np.array([*sum(classes, []), *means], dtype=float)  # NaN for None


def expected(prediction, truth):
    """The same row by seglib."""
    s = scored(prediction, truth)
    classes = [v.tolist() for v in (s.iou, s.tp, s.fp, s.fn, s.class_pq, s.class_sq, s.class_rq)]
    means = [v for m in (s.things, s.stuff, s) for v in (m.classes, m.pq, m.sq, m.rq)]
    return [*sum(classes, []), *means]


def test_the_scores_of_random_maps_equal_seglibs(js, pairs):
    found = [numbers(f) for f in judged(js, pairs)]
    # float64 on both sides, sums of at most seven IoUs in another order
    np.testing.assert_allclose(found, [expected(*pair) for pair in pairs], rtol=0, atol=1e-12)


def test_the_marks_of_random_maps_equal_seglibs_and_every_mark_occurs(js, pairs):
    counts = dict.fromkeys(("TP", "FP", "ignored", "FN", "crowd"), 0)
    for (prediction, truth), found in zip(pairs, judged(js, pairs), strict=True):
        want = match_segments(prediction, truth)
        marks = {
            mark: [f["p"]["id"] for f in found["fates"] if f["mark"] == mark] for mark in ("TP", "FP", "ignored")
        } | {"FN": [t["id"] for t in found["missed"]], "crowd": [t["id"] for t in found["crowds"]]}
        matched = [(f["p"]["id"], f["best"]["t"]["id"]) for f in found["fates"] if f["mark"] == "TP"]
        assert matched == [(p, t) for p, t, _ in want.pairs]
        assert (marks["FP"], marks["FN"], marks["ignored"]) == (want.fp, want.fn, want.ignored)
        assert marks["crowd"] == [s.id for s in truth.segments if s.iscrowd]
        for mark, ids in marks.items():
            counts[mark] += len(ids)
    assert min(counts.values()) > 50, counts


def test_without_both_void_rules_void_is_a_class_like_any_other(js, pairs):
    categories, few = [*CATEGORIES, Category(3, "void", False, (0, 0, 0))], pairs[:100]
    want = []
    for prediction, truth in few:
        void = truth.map == 0
        segments = [*truth.segments, Segment(99, 3, False, int(void.sum()))] if void.any() else truth.segments
        want.append(scored(prediction, Panoptic(truth.map.where(~void, 99), segments), categories).class_pq[:3])
    found = [[c["pq"] for c in f["classes"]] for f in judged(js, few, union=False, ignore=False)]
    np.testing.assert_allclose(np.array(found, dtype=float), torch.stack(want), rtol=0, atol=1e-12)


def test_without_the_crowd_rule_a_crowd_is_a_segment_like_any_other(js, pairs):
    few = [(p, Panoptic(t.map, [replace(s, iscrowd=False) for s in t.segments])) for p, t in pairs[:100]]
    found = judged(js, pairs[:100], crowd=False)
    np.testing.assert_allclose([numbers(f) for f in found], [expected(*pair) for pair in few], rtol=0, atol=1e-12)
    assert all(f["crowds"] == [] for f in found)


def test_each_void_rule_works_alone(js):
    truth = described(torch.tensor([[1, 1, 1, 0, 0, 0]]), [0])
    prediction = described(torch.tensor([[1, 1, 1, 1, 2, 2]]), [0, 0])
    [both], [union], [ignore], [none] = (
        judged(js, [(prediction, truth)], union=u, ignore=i) for u, i in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    assert [f["mark"] for f in both["fates"]] == [f["mark"] for f in ignore["fates"]] == ["TP", "ignored"]
    assert [f["mark"] for f in union["fates"]] == [f["mark"] for f in none["fates"]] == ["TP", "FP"]
    assert [r["fates"][0]["best"]["iou"] for r in (both, union, ignore, none)] == [1, 1, 0.75, 0.75]


def test_maps_of_void_have_no_score(js):
    empty = described(torch.zeros(2, 2, dtype=torch.int32), [])
    [found] = judged(js, [(empty, empty)])
    assert found["all"] == {"classes": 0, "pq": None, "sq": None, "rq": None}


# The tools

GRID = """
1 1 2 2
1 1 2 2
3 3 0 0
3 3 0 0
"""  # two things, one stuff, void


def at(x, y):
    return 4 * y + x


def edited(js, strokes):
    """The rows and classes of GRID after each stroke, and what is said."""
    start = {
        "ids": [int(v) for v in GRID.split()],
        "segments": [{"id": 1, "category": 0}, {"id": 2, "category": 1}, {"id": 3, "category": 2}],
    }
    classes = [{"name": c.name, "thing": c.isthing} for c in CATEGORIES]
    for made in js("edit", [[start, tool, cells, k, 4, classes] for tool, cells, k in strokes]):
        ids = made["map"]["ids"]
        rows = [" ".join(map(str, ids[i : i + 4])) for i in range(0, 16, 4)]
        yield rows, {s["id"]: s["category"] for s in made["map"]["segments"]}, made["text"]


SAME = (["1 1 2 2", "1 1 2 2", "3 3 0 0", "3 3 0 0"], {1: 0, 2: 1, 3: 2}, "Nothing changed.")
CLASSES = {1: 0, 2: 1, 3: 2}


STROKES = [
    ("Paint", [at(1, 0), at(2, 0)], -1, (["1 1 1 2", "1 1 2 2", *SAME[0][2:]], CLASSES, "Painted with 1 a.")),
    ("Paint", [at(2, 2), at(2, 1)], -1, (["1 1 2 2", "1 1 0 2", *SAME[0][2:]], CLASSES, "Erased.")),
    ("Paint", [at(2, 2)], 0, ([*SAME[0][:2], "3 3 4 0", "3 3 0 0"], CLASSES | {4: 0}, "Painted with 4 a.")),
    ("Paint", [at(2, 2)], 2, ([*SAME[0][:2], "3 3 3 0", "3 3 0 0"], CLASSES, "Painted with 3 c.")),
    ("Paint", [at(0, 0)], -1, SAME),
    ("Erase", [at(0, 0), at(1, 0), at(0, 1), at(1, 1)], -1,
     (["0 0 2 2", "0 0 2 2", *SAME[0][2:]], {2: 1, 3: 2}, "Erased.")),
    ("Erase", [at(3, 3)], -1, SAME),
    ("Merge", [at(0, 0), at(2, 0)], -1, (["1 1 1 1", "1 1 1 1", *SAME[0][2:]], {1: 0, 3: 2},
                                         "2 b is now part of 1 a.")),
    ("Merge", [at(0, 0), at(1, 1)], -1, SAME),
    ("Merge", [at(0, 0), at(3, 3)], -1, SAME),
    ("Class", [at(0, 0)], 1, (SAME[0], CLASSES | {1: 1}, "1 a is now b.")),
    ("Class", [at(0, 0)], 2, (["3 3 2 2", "3 3 2 2", *SAME[0][2:]], {2: 1, 3: 2}, "1 a is now c.")),
    ("Class", [at(3, 3)], 1, SAME),
    ("Split", [at(1, 0), at(1, 1)], -1, (["4 1 2 2", "4 1 2 2", *SAME[0][2:]], CLASSES | {4: 0},
                                         "1 a is split; one side is now 4.")),
    ("Split", [at(3, 1), at(1, 1)], -1, (["1 1 4 4", "1 1 2 2", *SAME[0][2:]], CLASSES | {4: 1},
                                         "2 b is split; one side is now 4.")),
    ("Split", [at(0, 0), at(1, 0)], -1, (["1 1 2 2", "4 4 2 2", *SAME[0][2:]], CLASSES | {4: 0},
                                         "1 a is split; one side is now 4.")),
    ("Split", [at(0, 1), at(1, 1), at(0, 1)], -1, SAME),  # back where it began: no line
    ("Split", [at(0, 3), at(1, 2)], -1, SAME),  # stuff is one segment a class
]  # fmt: skip
"""Tool, cells of the stroke, chosen class, and what comes out."""


def test_strokes_change_the_map(js):
    made = edited(js, [stroke[:3] for stroke in STROKES])
    for (*stroke, want), found in zip(STROKES, made, strict=True):
        assert found == want, stroke


def test_lines_pass_from_cell_to_neighbouring_cell_in_both_directions(js):
    straight, steep, back = js("line", [[at(0, 1), at(3, 1), 4], [at(0, 0), at(1, 3), 4], [at(3, 3), at(0, 0), 4]])
    assert straight == [at(x, 1) for x in range(4)]
    assert (steep[0], steep[-1], len(steep)) == (at(0, 0), at(1, 3), 4)
    assert back == [at(i, i) for i in (3, 2, 1, 0)]


def test_an_outline_runs_inside_the_border(js):
    [one] = js("outline", [[[0, 0, 5, 0], 5, 2, 0.1]])  # the lower left cell
    assert sorted(one.strip("M").split("M")) == [
        "0.10 1.10L0.90 1.10", "0.10 1.90L0.10 1.10", "0.90 1.10L0.90 1.90", "0.90 1.90L0.10 1.90",
    ]  # fmt: skip


# The Python side


def test_the_scene_tells_what_its_names_say():
    truth, predictions = panoptic_scene()
    scores = {name: scored(p, truth, PANOPTIC_CATEGORIES) for name, p in predictions.items()}
    assert list(scores) == [
        "Perfect", "Two people merged", "One person split", "Off by one cell", "Only stuff right",
    ]  # fmt: skip
    perfect, merged, halves, moved, exchanged = scores.values()
    assert (perfect.pq, perfect.sq, perfect.rq) == (1, 1, 1)
    assert len(match_segments(predictions["Perfect"], truth).ignored) == 3
    # a merged pair and each half have an IoU of exactly ½, which is no match
    assert (merged.tp[0], merged.fp[0], merged.fn[0]) == (0, 1, 2)
    assert (halves.tp[0], halves.fp[0], halves.fn[0]) == (1, 2, 1)
    people = {name: [int((p.map == i).sum()) for i in (1, 2, 9)] for name, p in predictions.items()}
    assert people["Two people merged"] == [60, 0, 0] and people["One person split"] == [15, 30, 15]
    assert moved.rq == 1 and moved.sq == moved.pq < 0.7
    assert (exchanged.things.pq, exchanged.stuff.pq) == (0, 1)


def test_each_map_has_the_areas_that_its_segments_say():
    truth, predictions = panoptic_scene()
    for panoptic in (truth, *predictions.values()):
        assert [s.area for s in panoptic.segments] == [int((panoptic.map == s.id).sum()) for s in panoptic.segments]


def test_the_page_has_the_scene_with_ids_from_one():
    truth = Panoptic(torch.tensor([[70000] * 4, [0] * 4, [9] * 4, [9] * 4], dtype=torch.int32),
                     [Segment(70000, 1, True, 4, iscrowd=True), Segment(9, 2, False, 8)])  # fmt: skip
    params = panoptic_quality(truth, {"same": truth}, CATEGORIES).params
    assert params["truth"] == {
        "ids": [1] * 4 + [0] * 4 + [2] * 8,
        "segments": [
            {"id": 1, "category": 1, "crowd": True, "name": "A"}, {"id": 2, "category": 2, "crowd": False, "name": "B"},
        ],
    }  # fmt: skip
    assert params["predictions"][0][0] == "same" and params["predictions"][0][1]["ids"] == params["truth"]["ids"]


TRUTH, PREDICTIONS = panoptic_scene()
SMALL = described(torch.ones(3, 9), [0])
UNKNOWN = described(torch.ones(12, 16), [2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: panoptic_quality(TRUTH), "pass truth and predictions, or neither"),
        (lambda: panoptic_quality(predictions=PREDICTIONS), "pass truth and predictions, or neither"),
        (lambda: panoptic_quality(start="none"), r"start must be one of \['Perfect', .*, got 'none'"),
        (lambda: panoptic_quality(SMALL, {"a": SMALL}), "4 to 24 cells a side, got 3 × 9"),
        (lambda: panoptic_quality(TRUTH, {}), "1 to 8 predictions, .* got 0, 4 and 6"),
        (lambda: panoptic_quality(TRUTH, PREDICTIONS, [*PANOPTIC_CATEGORIES] * 2), "at most 6 classes .* got 5, 8 and"),
        (lambda: panoptic_quality(TRUTH, {"a": SMALL}), r"the prediction is \(3, 9\), that of the target \(12, 16\)"),
        (lambda: panoptic_quality(TRUTH, {"a": UNKNOWN}, PANOPTIC_CATEGORIES[:2]), "category 2, which is not in 0..1"),
    ],
)
def test_a_wrong_argument_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_page_is_small_the_same_every_time_and_asks_nobody():
    page = panoptic_quality()._repr_html_()
    assert page == panoptic_quality()._repr_html_()
    assert len(source(*FILES).encode()) < 23_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_without_javascript_both_maps_and_the_scores_of_all_predictions_are_shown():
    text = re.search(r'data-params="[^"]*">(.*?)</seg-', panoptic_quality()._repr_html_(), re.DOTALL)[1]
    assert "(needs JavaScript)" in text and 'alt="The true segments"' in text and 'alt="The predicted segments"' in text
    assert "<td>Two people merged</td><td>0.750</td><td>0.750</td><td>0.750</td>" in text
    assert "<td>One person split</td><td>1.000</td><td>0.850</td><td>0.850</td>" in text
    assert repr(panoptic_quality()).startswith("<moving figure: ")


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = panoptic_quality(TRUTH, {name: TRUTH})._repr_html_()
    assert page.count("<script>") == 1
    assert json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))["predictions"][0][0] == name


# In a browser


class Board:
    """The figure on an open page."""

    def __init__(self, visit):
        self.visit, self.page = visit, visit.page
        self.status = self.page.locator(".status")

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def cell(self, x, y):
        return self.page.get_by_role("gridcell").nth(16 * y + x)

    def pq(self):
        return float(self.page.locator(".all td").last.inner_text())

    def row(self, number):
        return self.page.locator(".card tbody tr").nth(number).locator("td").all_inner_texts()

    def marks(self):
        return self.page.locator("li b").all_inner_texts()

    def drag(self, start, end):
        (x0, y0, w, h), (x1, y1, *_) = ([*self.cell(*c).bounding_box().values()] for c in (start, end))
        mouse = self.page.mouse
        mouse.move(x0 + w / 2, y0 + h / 2)
        mouse.down()
        mouse.move(x1 + w / 2, y1 + h / 2)
        mouse.up()


@pytest.fixture
def show(open_page):
    """``show(start=…, …) -> Board``: the figure on a bare page."""

    def open_figure(start=None, **kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        visit = open_page(html=f"{head}<main>{panoptic_quality(start=start)._repr_html_()}</main></html>", **kwargs)
        visit.page.locator(".card").wait_for()
        return Board(visit)

    return open_figure


def test_it_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    board = show("One person split", width=360)
    card = board.page.locator(".card")
    assert board.visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 360)")
    for mode, colors in modes.items():
        board.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert board.visit.axe() == []
    assert board.visit.problems() == []


def test_the_keyboard_paints_erases_and_drops(show):
    board = show()
    keys = board.page.keyboard
    assert board.pq() == 1 and board.page.locator("[role=gridcell][tabindex='0']").count() == 1
    board.page.locator("[role=gridcell][tabindex='0']").focus()  # row 7, column 9: the second person
    assert board.cell(8, 6).get_attribute("aria-label") == "row 7, column 9: 2 person, TP"
    keys.press("Space")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert board.cell(10, 6).get_attribute("aria-label") == "row 7, column 11: 2 person, TP"
    assert board.pq() < 1
    keys.press("Escape")
    assert board.pq() == 1 and board.cell(10, 6).get_attribute("aria-label").endswith("3 car, TP")
    keys.press("Space")  # on the car, where the stroke ended
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("Space")
    assert board.status.inner_text() == f"Painted with 3 car. PQ 1.000 → {board.pq():.3f}."
    keys.press("ArrowDown")  # the stroke is over: nothing more is painted
    assert board.cell(10, 9).get_attribute("aria-label") == "row 10, column 11: 5 person, ignored"
    board.press("Erase")
    board.cell(10, 9).focus()
    keys.press("Space")
    keys.press("Space")
    assert board.cell(10, 9).get_attribute("aria-label") == "row 10, column 11: void"
    board.page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent.startsWith('Erased')"
    )
    assert board.visit.problems() == []


def test_the_mouse_splits_merges_and_changes_a_class(show):
    board = show()
    board.press("Merge")
    board.drag((2, 6), (6, 6))
    assert board.status.inner_text() == "2 person is now part of 1 person. PQ 1.000 → 0.750."
    assert board.marks().count("FN") == 2 and board.marks().count("FP") == 1
    assert "1 person: IoU 30 / 60 = 0.50 with A person, not above ½" in board.page.locator("ul").inner_text()
    assert board.row(0) == ["0.000 / (0 + ½·1 + ½·2)", "0.000", "0.000", "0.000"]
    board.press("Split")
    board.drag((5, 1), (5, 11))  # column 5 stays with the second person: what lies left of it is new
    assert board.status.inner_text() == "1 person is split; one side is now 9. PQ 0.750 → 1.000."
    board.press("Class")
    board.page.get_by_label("New class").select_option("car")
    board.cell(11, 5).click()
    assert board.status.inner_text() == "Nothing changed. PQ 1.000 → 1.000."
    board.cell(6, 6).click()
    assert board.status.inner_text() == f"1 person is now car. PQ 1.000 → {board.pq():.3f}."
    assert "1 car: meets no true segment of its class" in board.page.locator("ul").inner_text()
    for want in (1.0, 0.75, 1.0, 1.0):
        board.press("Undo")
        assert board.pq() == want
    assert board.status.inner_text() == "There is nothing to undo. PQ 1.000 → 1.000."
    assert board.visit.problems() == []


def test_a_new_segment_is_drawn(show):
    board = show()
    board.page.get_by_label("Paint with").select_option("a new car")
    board.drag((0, 11), (3, 11))
    assert board.cell(2, 11).get_attribute("aria-label") == "row 12, column 3: 9 car, FP"
    assert board.row(1) == ["1.000 / (1 + ½·1 + ½·0)", "1.000", "0.667", "0.667"]
    board.press("Reset")
    assert board.pq() == 1 and board.marks().count("FP") == 0


def test_a_finger_paints(show):
    board = show(width=390)
    board.cell(9, 5).scroll_into_view_if_needed()
    finger(board.page, *(middle(board.cell(column, 5)) for column in (9, 8, 7)))
    assert board.cell(7, 5).get_attribute("aria-label") == "row 6, column 8: 3 car, TP"
    assert board.status.inner_text().startswith("Painted with 3 car. PQ 1.000 → 0.9")


def test_the_switches_turn_rules_off_and_on(show):
    truth, predictions = panoptic_scene()
    board = show()
    board.press("Crowd rule")
    assert board.marks().count("FP") == 2 and board.marks().count("FN") == 1  # each is half of the crowd: no match
    without = Panoptic(truth.map, [replace(s, iscrowd=False) for s in truth.segments])
    assert board.pq() == pytest.approx(scored(predictions["Perfect"], without, PANOPTIC_CATEGORIES).pq, abs=5e-4)
    board.press("Crowd rule")
    assert board.pq() == 1
    board.press("Ignore FP in void")
    assert board.status.inner_text() == f"Ignore FP in void: off. PQ 1.000 → {board.pq():.3f}."
    assert board.marks().count("FP") == 1 and board.marks().count("ignored") == 2
    board.press("Ignore FP in void")
    board.press("Union leaves out void")
    assert board.marks().count("FP") == 0 and board.pq() < 1  # all matches hold, with a lower IoU
    assert "IoU 15 / 19 = 0.79" in board.page.locator("ul").inner_text()
    board.press("Union leaves out void")
    assert "IoU 15 / 15 = 1.00, 4 void cells left out" in board.page.locator("ul").inner_text()


def test_swapping_scores_the_truth_as_the_prediction(show):
    truth, predictions = panoptic_scene()
    board = show("Off by one cell")
    swapped = scored(
        Panoptic(truth.map, [replace(s, iscrowd=False) for s in truth.segments]),
        predictions["Off by one cell"],
        PANOPTIC_CATEGORIES,
    ).pq
    straight = board.pq()
    assert board.page.get_by_text(f"With prediction and truth swapped: PQ {swapped:.3f}.").count() == 1
    board.press("Swap prediction and truth")
    assert board.pq() == pytest.approx(swapped, abs=5e-4) and swapped < straight
    assert board.page.get_by_text(f"Not swapped: PQ {straight:.3f}.").count() == 1
    assert board.page.get_by_text("Truth, taken as prediction").count() == 1
    assert "D person" in board.page.get_by_role("img").get_attribute("aria-label")
    board.press("Swap prediction and truth")
    assert board.pq() == pytest.approx(straight, abs=5e-4)


def test_presets_load_and_show_what_they_promise(show):
    board = show()
    for name, prediction in PREDICTIONS.items():
        board.press(name)
        assert board.pq() == pytest.approx(scored(prediction, TRUTH, PANOPTIC_CATEGORIES).pq, abs=5e-4)
        assert board.page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
    board.drag((0, 0), (0, 1))
    assert board.status.inner_text() == "Nothing changed. PQ 0.500 → 0.500."
    board.drag((1, 6), (0, 6))
    assert board.page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "false"
