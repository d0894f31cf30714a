"""Guesses: what the calls take and prove, the element by mouse, finger and keyboard, and the pages that wait for it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import yaml
from browser import ROOT, Visit, build_book, finger, middle, serve
from sample_chapter import code, markdown

from seglib.book import guess
from seglib.book.figures.element import source
from seglib.book.normalise import normalise

KEY = "segmentation-from-scratch"
MASK = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]], dtype=bool)


@pytest.fixture(autouse=True)
def fresh_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a kernel of its own: no guess was asked yet."""
    monkeypatch.setattr(guess, "_asked", {})


def width(**changed: Any) -> guess.Guess:
    arguments: dict[str, Any] = {"answer": 388, "unit": "pixels", "low": 0, "high": 600} | changed
    return guess.number("ch04.width", "An input of 572 pixels comes out how wide?", **arguments)


def odd(**changed: Any) -> guess.Guess:
    arguments: dict[str, Any] = {"answer": 1, "says": {0: "At `279` the pooling cannot halve."}} | changed
    options = arguments.pop("options", ["yes", "no: some map has an odd width"])
    return guess.choice("ch04.odd", "Does an input of `570` work?", options, **arguments)


def cells(**changed: Any) -> guess.Guess:
    return guess.drawing("ch01.cells", "Click the cells that stay.", **({"answer": MASK} | changed))


def share(**changed: Any) -> guess.Guess:
    arguments: dict[str, Any] = {"answer": 0.43, "tolerance": 0.05} | changed
    return guess.number("ch04.share", "Which share is lost?", **arguments)


ALL: dict[str, Callable[..., guess.Guess]] = {"number": width, "choice": odd, "drawing": cells, "share": share}


# The calls


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: guess.number("width", "How wide?", answer=1),
            "chNN. and a word .*, such as 'ch04.width', got 'width'",
        ),
        (lambda: guess.number("ch4.width", "How wide?", answer=1), "got 'ch4.width'"),
        (
            lambda: guess.number("ch04.width", " ", answer=1),
            "question of 'ch04.width' must be a text that is not empty",
        ),
        (lambda: guess.number("ch04.width", "Is it $x$?", answer=1), "holds a formula"),
        (lambda: width(answer="388"), "answer of 'ch04.width' must be a finite number, got '388'"),
        (lambda: width(answer=True), "answer of 'ch04.width' must be a finite number, got True"),
        (lambda: width(answer=float("nan")), "must be a finite number, got nan"),
        (lambda: width(answer=601), "needs low ≤ answer ≤ high and low < high, got 0, 601 and 600"),
        (lambda: width(high=None), "has low=0 and high=None: give both for a slider, or neither"),
        (lambda: width(tolerance=-1), "tolerance of 'ch04.width' must be 0 or more, got -1"),
        (lambda: width(unit=3), "unit of 'ch04.width' must be a text"),
        (lambda: odd(options=["yes"]), r"needs a list of 2 to 8 options, got \['yes'\]"),
        (lambda: odd(options="yes"), "needs a list of 2 to 8 options, got 'yes'"),
        (lambda: odd(options=["yes", "yes"]), "has an option twice"),
        (lambda: odd(options=["yes", 3]), "option 1 of 'ch04.odd' must be a text"),
        (lambda: odd(answer=2), "answer of 'ch04.odd' must be an option's index, 0 to 1, got 2"),
        (lambda: odd(answer=True), "answer of 'ch04.odd' must be an option's index, 0 to 1, got True"),
        (lambda: odd(says={2: "No."}), "a key of says of 'ch04.odd' must be an option's index, 0 to 1, got 2"),
        (lambda: cells(answer=MASK * 2), r"answer of 'ch01.cells' must be \(H, W\) of bool or 0 and 1"),
        (lambda: cells(answer=MASK[0]), r"must be \(H, W\) of bool or 0 and 1, got bool \(4,\)"),
        (lambda: cells(answer=~MASK & MASK), "marks no cell; ask about a case that has one, or use guess.choice"),
        (lambda: cells(answer=np.ones((3, 13))), "must be 1 to 12 cells a side, got 3 × 13"),
        (lambda: cells(given=np.zeros((4, 3))), r"given of 'ch01.cells' must be \(3, 4\) or \(3, 4, 3\), got \(4, 3\)"),
        (lambda: cells(given=np.full((3, 4), 255)), r"must be numbers in \[0, 1\]; divide 8-bit values by 255"),
        (lambda: cells(given=np.full((3, 4), np.nan)), r"must be numbers in \[0, 1\]"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], guess.Guess], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_cell_can_run_twice_but_a_name_belongs_to_one_guess() -> None:
    for make in ALL.values():
        assert make()._repr_html_() == make()._repr_html_()
    with pytest.raises(ValueError, match=r"'ch04.width' is already another guess \('An input of 572 pixels"):
        width(answer=389)
    with pytest.raises(ValueError, match="restart the kernel if you have just changed this one"):
        guess.choice("ch04.width", "Wide?", ["yes", "no"], answer=0)


@pytest.mark.parametrize("value", [388, 388.0, np.int64(388), torch.tensor(388), torch.tensor([388.0]), np.array(388)])
def test_a_number_is_settled_by_any_type_of_number(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    width()
    guess.settle("ch04.width", value)
    assert capsys.readouterr().out == "ch04.width: 388, as computed.\n"


@pytest.mark.parametrize("value", [389, 387.999, torch.tensor(-388)])
def test_another_number_is_not_the_answer(value: Any) -> None:
    width()
    with pytest.raises(AssertionError, match="ch04.width: the answer says 388, but"):
        guess.settle("ch04.width", value)


def test_a_number_within_the_tolerance_says_what_was_computed(capsys: pytest.CaptureFixture[str]) -> None:
    share()
    guess.settle("ch04.share", torch.tensor(0.43))  # float32: 0.43000000715
    guess.settle("ch04.share", 3 / 7)
    guess.settle("ch04.share", 0.48)
    assert capsys.readouterr().out.splitlines() == [
        "ch04.share: 0.43, as computed.",
        "ch04.share: 0.43, computed 0.4286, within 0.05.",
        "ch04.share: 0.43, computed 0.48, within 0.05.",
    ]
    with pytest.raises(AssertionError):
        guess.settle("ch04.share", 0.481)


def test_without_a_tolerance_a_rounded_answer_is_refused() -> None:
    share(tolerance=0)
    with pytest.raises(AssertionError):
        guess.settle("ch04.share", 3 / 7)
    guess.number("ch04.pixels", "How many?", answer=5_000_000)
    with pytest.raises(AssertionError):
        guess.settle("ch04.pixels", 5_000_001)


def test_a_choice_is_settled_by_index_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    odd()
    guess.settle("ch04.odd", torch.tensor(1))
    guess.settle("ch04.odd", "no: some map has an odd width")
    assert set(capsys.readouterr().out.splitlines()) == {"ch04.odd: 'no: some map has an odd width', as computed."}
    for wrong in (0, "yes"):
        with pytest.raises(AssertionError, match="the answer says 'no: some map has an odd width', computed was 'yes'"):
            guess.settle("ch04.odd", wrong)


def test_a_drawing_is_settled_by_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    cells()
    guess.settle("ch01.cells", torch.from_numpy(MASK).float())
    assert capsys.readouterr().out == "ch01.cells: 3 of 12 cells, as computed.\n"
    other = MASK.copy()
    other[2, 2:] = True
    with pytest.raises(AssertionError, match=r"2 cells differ from the answer, first \(row, column\) \[2, 2\]"):
        guess.settle("ch01.cells", other)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "ch04.absent",
            1,
            r"no guess is named 'ch04.absent' here; .*\(guesses so far: ch01.cells, ch04.odd, ch04.share",
        ),
        ("ch04.width", "388", "is settled by one finite number, got '388'"),
        ("ch04.width", torch.ones(2), "is settled by one finite number"),
        ("ch04.width", True, "is settled by one finite number, got True"),
        ("ch04.odd", 2, "is settled by an option's index or text .*, got 2"),
        ("ch04.odd", True, "got True"),
        ("ch04.odd", "maybe", "got 'maybe'"),
        ("ch01.cells", MASK[:2], r"is about \(3, 4\) cells, got a value of shape \(2, 4\)"),
        ("ch01.cells", MASK * 0.5, r"value of 'ch01.cells' must be \(H, W\) of bool or 0 and 1"),
    ],
)
def test_what_cannot_settle_a_guess_is_named(name: str, value: Any, said: str) -> None:
    for make in ALL.values():
        make()
    with pytest.raises(ValueError, match=said):
        guess.settle(name, value)


# The HTML


class _Text(HTMLParser):
    """The text of a page without its scripts, with the tags that stand around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.shown = self.folded = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self.inside:
            return
        if "details" in self.inside and "summary" not in self.inside:
            self.folded += data
        else:
            self.shown += data


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("number", "388 pixels"),
        ("choice", "no: some map has an odd width."),
        ("drawing", "□□□□□■■□□■□□"),
        ("share", "0.43"),
    ],
)
def test_without_javascript_the_answer_is_folded(name: str, folded: str) -> None:
    text = _Text(ALL[name]()._repr_html_())
    assert text.folded == folded
    assert ALL[name]().text.replace("`", "") in text.shown and "Show the answer" in text.shown
    assert name == "choice" or folded not in text.shown


def test_without_html_the_answer_is_not_told() -> None:
    assert repr(width()) == "<guess ch04.width: An input of 572 pixels comes out how wide?>"
    bundle = width()._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and "388" not in bundle["text/plain"]


def test_markup_in_a_question_is_text() -> None:
    page = guess.choice("ch01.x", "Is `a<b>` <i>so</i>?", ["<b>", "'"], answer=0)._repr_html_()
    assert "Is <code>a&lt;b&gt;</code> &lt;i&gt;so&lt;/i&gt;?" in page
    assert "<i>" not in page and "<li>&lt;b&gt;</li>" in page


@pytest.mark.parametrize("name", ALL)
def test_a_guess_is_small_and_asks_nobody(name: str) -> None:
    page = ALL[name]()._repr_html_()
    assert len(page.encode()) < 16_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_the_scripts_stay_small() -> None:
    for name in ("number", "choice", "drawing"):
        assert len(source("guess", f"guess_{name}").encode()) - len(source().encode()) < 9_000
    assert len((ROOT / "chapters" / "_static" / "book.js").read_bytes()) < 11_000


# The scripts' own functions, run in the browser


@pytest.fixture
def js(open_page: Callable[..., Visit]) -> Callable[..., Any]:
    """``js(input, function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(name: str, function: str, cases: list[Any]) -> Any:
        script = source("guess", f"guess_{name}")
        return page.evaluate(f"cases => {{ {script}\nreturn cases.map(c => {function}(...c)); }}", cases)

    return call


def test_numbers_are_read_as_people_write_them(js: Callable[..., Any]) -> None:
    good = {
        "388": 388,
        " 0.5 ": 0.5,
        "0,5": 0.5,
        "−3": -3,
        "-3": -3,
        "1/2": 0.5,
        " 3 / 4": 0.75,
        ".25": 0.25,
        "1e3": 1000,
    }
    assert js("number", "parse", [[text] for text in good]) == list(good.values())
    bad = ["", "  ", "many", "1/0", "1/2/3", "/2", "2/", "12 px", "1.2.3", "Infinity", "NaN"]
    assert js("number", "(t => String(parse(t)))", [[text] for text in bad]) == ["NaN"] * len(bad)


def test_numbers_are_written_with_their_unit(js: Callable[..., Any]) -> None:
    cases = [[388, "pixels"], [0.45 - 0.43, ""], [12_345_678, ""], [-3, "°"], [50, "%"], [4, "× 4"], [1e-10, ""]]
    want = ["388 pixels", "0.02", "12345678", "−3°", "50%", "4× 4", "1e-10"]
    one = {
        "pixels": "pixel",
        "patches": "patch",
        "boxes": "box",
        "classes": "class",
        "ms": "ms",
        "s": "s",
        "loss": "loss",
    }
    cases += [[1, unit] for unit in one]
    want += [f"1 {unit}" for unit in one.values()]
    assert js("number", "write", cases) == want


def test_a_number_is_compared_with_its_distance(js: Callable[..., Any]) -> None:
    p, q = width().params, share().params
    cases = [[p, 388], [p, 400], [p, 0], [p, None], [q, 0.43], [q, 0.48], [q, 0.481], [q, None]]
    assert js("number", "judge", cases) == [
        "You said 388 pixels, and that is right.",
        "You said 400 pixels. The answer is 388 pixels: your guess is 12 pixels too high.",
        "You said 0 pixels. The answer is 388 pixels: your guess is 388 pixels too low.",
        "The answer is 388 pixels.",
        "You said 0.43, and that is right.",
        "You said 0.48. The answer is 0.43: your guess is 0.05 too high, close enough.",
        "You said 0.481. The answer is 0.43: your guess is 0.051 too high.",
        "The answer is 0.43.",
    ]


def test_a_choice_is_compared_with_what_is_said_to_it(js: Callable[..., Any]) -> None:
    p = odd(says={0: "It cannot halve.", 1: "279."}).params
    assert js("choice", "judge", [[p, 0], [p, 1], [p, None]]) == [
        "You said “yes”. The answer is “no: some map has an odd width”. It cannot halve.",
        "You said “no: some map has an odd width”, and that is right. 279.",
        "The answer is “no: some map has an odd width”. 279.",
    ]


def test_cells_are_counted_and_their_iou_is_the_definitions(js: Callable[..., Any]) -> None:
    draw = np.random.default_rng(0)
    pairs = draw.random((100, 2, 5, 6)) < draw.random((100, 1, 1, 1))
    pairs[:, :, 0, 0] = True
    rows = [[["".join("01"[v] for v in row) for row in mask.tolist()] for mask in pair] for pair in pairs]
    for (mine, truth), got in zip(pairs, js("drawing", "overlap", rows), strict=True):
        counts = [(mine & truth).sum(), (truth & ~mine).sum(), (mine & ~truth).sum()]
        assert [got[key] for key in ("right", "missed", "extra")] == counts
        assert got["iou"] == pytest.approx((mine & truth).sum() / (mine | truth).sum())
    p = cells().params
    said = js("drawing", "judge", [[p, ["0000", "0110", "1000"]], [p, p["answer"]], [p, None]])
    assert said[0] == "Right: 2. Missed: 1. Too many: 1. IoU = 2 / 4 = 0.50."
    assert said[1].startswith("All cells are right. Right: 3.") and said[2] == "The answer is marked."


def test_a_kept_guess_that_no_longer_fits_its_question_is_none(js: Callable[..., Any]) -> None:
    assert js("number", "fits", [[{}, v] for v in (3, "3", ["01"])]) == [True, False, False]
    assert js("choice", "fits", [[odd().params, v] for v in (0, 1, 2, -1, 0.5, "0")]) == [True] * 2 + [False] * 4
    drawings = [
        ["0000", "0100", "0000"],
        ["0000", "0100"],
        ["000", "010", "000"],
        ["0000", "0200", "0000"],
        3,
        [0, 0, 0],
    ]
    assert js("drawing", "fits", [[cells().params, v] for v in drawings]) == [True] + [False] * 5


# The element in a browser


HEAD = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<title>t</title>"
)


@pytest.fixture
def show(open_page: Callable[..., Visit]) -> Callable[..., Visit]:
    """``show(name, …) -> visit`` with one guess on a bare page, where nothing can be kept."""

    def open_guess(name: str, guess_: guess.Guess | None = None, **kwargs: Any) -> Visit:
        return open_page(html=f"{HEAD}<main>{(guess_ or ALL[name]())._repr_html_()}</main></html>", **kwargs)

    return open_guess


def commit(page: Any) -> None:
    page.get_by_role("button", name="This is my guess").click()


def result(page: Any) -> str:
    return str(page.locator(".result").inner_text())


def selected(page: Any) -> list[int]:
    marks = "cells => cells.map((c, i) => c.ariaSelected === 'true' ? i : -1).filter(i => i >= 0)"
    return list(page.locator("[role=gridcell]").evaluate_all(marks))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_guess_fits_a_phone_follows_the_mode_and_has_no_serious_finding(
    name: str, show: Callable[..., Visit]
) -> None:
    visit = show(name, width=390)
    page, card = visit.page, visit.page.locator(".card")
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    for state in ("open", "guessed", "shown"):
        if state == "guessed":
            if name == "choice":
                page.get_by_label("yes").check()
            elif name == "drawing":
                page.locator("[role=gridcell]").nth(5).click()
                page.locator("[role=gridcell]").nth(8).click()
            else:
                page.locator("label input").fill("0.5")
            commit(page)
        elif state == "shown":
            page.get_by_role("button", name="Guess again").click()
            page.get_by_role("button", name="Show without a guess").click()
        assert page.locator("[data-params]").get_attribute("data-state") == state
        assert visit.overflow() <= 0
        assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 390)")
        for mode, colors in modes.items():
            page.emulate_media(color_scheme=mode)
            assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
            assert visit.axe() == []
    assert visit.problems() == []


def test_a_number_is_given_by_field_slider_and_keyboard(show: Callable[..., Visit]) -> None:
    visit = show("number")
    page = visit.page
    field, line = page.get_by_label("Your guess pixels"), page.get_by_label("Your guess on a line")
    assert line.get_attribute("aria-valuetext") == "nothing yet"
    commit(page)
    assert page.locator(".note").inner_text() == "Give a number from 0 to 600 pixels."
    assert field.evaluate("e => e.getRootNode().activeElement === e")
    field.fill("601")
    page.keyboard.press("Enter")
    assert page.locator("[data-params]").get_attribute("data-state") == "open"
    field.fill("400")
    assert line.input_value() == "400"
    line.focus()
    page.keyboard.press("ArrowRight")
    assert field.input_value() == "401" and line.get_attribute("aria-valuetext") == "401 pixels"
    field.focus()
    page.keyboard.press("Enter")
    want = "You said 401 pixels. The answer is 388 pixels: your guess is 13 pixels too high."
    assert result(page) == want
    assert page.locator(".track").inner_text().split("\n") == ["you 401", "answer 388"]
    marks = {name: page.locator(f".track i.{name}").bounding_box() for name in ("you", "answer")}
    you, answer = (box["x"] + box["width"] / 2 for box in marks.values())
    assert (you - answer) / page.locator(".track").bounding_box()["width"] == pytest.approx(13 / 600, abs=1e-3)
    live = "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent"
    page.wait_for_function(f"{live} === {want!r}")
    # The focus is on the group, so the next Enter does nothing.
    page.keyboard.press("Enter")
    assert result(page) == want
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Guess again
    assert page.locator("[data-params]").get_attribute("data-state") == "open"
    assert field.input_value() == "" and field.evaluate("e => e.getRootNode().activeElement === e")
    assert visit.problems() == []


def test_a_number_without_ends_has_no_slider(show: Callable[..., Visit]) -> None:
    page = show("share").page
    assert page.get_by_label("Your guess on a line").count() == 0
    page.get_by_label("Your guess").fill("a lot")
    commit(page)
    assert page.locator(".note").inner_text() == "Give a number, such as 12, 0.5 or 1/2."
    page.get_by_label("Your guess").fill("-1/4")
    page.keyboard.press("Enter")
    assert result(page) == "You said −0.25. The answer is 0.43: your guess is 0.68 too low."


def test_an_option_is_chosen_by_mouse_and_by_arrow_keys(show: Callable[..., Visit]) -> None:
    visit = show("choice")
    page = visit.page
    commit(page)
    assert page.locator(".note").inner_text() == "Choose one of the options."
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert result(page) == "You said “no: some map has an odd width”, and that is right."
    assert page.locator("label.right").inner_text() == "no: some map has an odd width ✓ your guess, right"
    page.get_by_role("button", name="Guess again").click()
    assert page.locator("input:checked").count() == 0
    page.locator("label").get_by_text("yes").click()
    commit(page)
    assert result(page).endswith("At 279 the pooling cannot halve.")
    assert page.locator(".result code").inner_text() == "279"
    assert page.locator("label").all_inner_texts() == [
        "yes ✗ your guess",
        "no: some map has an odd width ✓ the answer",
    ]
    assert page.locator("input:enabled").count() == 0
    assert visit.problems() == []


def test_cells_are_clicked_painted_and_marked_by_keyboard(show: Callable[..., Visit]) -> None:
    visit = show("drawing", cells(given=np.linspace(0, 1, 36).reshape(3, 4, 3)))
    page = visit.page
    cell = page.locator("[role=gridcell]")
    commit(page)
    assert page.locator(".note").inner_text() == "Mark at least one cell."
    cell.nth(5).click()
    cell.nth(0).click()
    cell.nth(0).click()
    assert selected(page) == [5]
    boxes = [cell.nth(i).bounding_box() for i in range(12)]
    centres = [(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in boxes]
    page.mouse.move(*centres[8])
    page.mouse.down()
    for i in (9, 10):
        page.mouse.move(*centres[i])
    page.mouse.up()
    page.mouse.move(*centres[11])  # the button is up
    assert selected(page) == [5, 8, 9, 10]
    page.mouse.move(*centres[8])  # painting from a marked cell unmarks
    page.mouse.down()
    page.mouse.move(*centres[9])
    page.mouse.move(*centres[0])
    page.mouse.move(-5, 0)
    page.mouse.up()
    assert selected(page) == [5, 10]
    cell.nth(5).click()
    for key in (
        "ArrowLeft",
        "ArrowLeft",
        "ArrowUp",
        "ArrowUp",
        "Space",
        "ArrowDown",
        "ArrowRight",
        "Space",
        "Shift+ArrowRight",
    ):
        page.keyboard.press(key)
    assert selected(page) == [0, 5, 6, 10]
    assert page.locator("[role=gridcell][tabindex='0']").get_attribute("aria-label") == "row 2, column 3"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert result(page) == "Right: 2. Missed: 1. Too many: 2. IoU = 2 / 5 = 0.40."
    assert page.locator(".hint span").all_inner_texts() == ["too many", "right", "missed"]
    assert cell.nth(9).get_attribute("aria-label") == "row 3, column 2: missed"
    cell.nth(11).click()
    assert selected(page) == [0, 5, 6, 10]
    page.get_by_role("button", name="Guess again").click()
    assert selected(page) == []
    assert visit.problems() == []


def test_cells_are_painted_with_a_finger(show: Callable[..., Visit]) -> None:
    page = show("drawing", width=390).page
    finger(page, *(middle(page.locator("[role=gridcell]").nth(i)) for i in (4, 5, 6)))
    assert selected(page) == [4, 5, 6]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "The answer is 388 pixels."),
        ("choice", "The answer is “no: some map has an odd width”."),
        ("drawing", "The answer is marked."),
    ],
)
def test_the_answer_can_be_had_without_a_guess(name: str, said: str, show: Callable[..., Visit]) -> None:
    page = show(name).page
    page.get_by_role("button", name="Show without a guess").click()
    assert result(page) == said
    assert page.locator(".question b").inner_text() == "Shown without a guess"


def test_a_guess_works_in_a_sandboxed_frame_where_nothing_can_be_kept(open_page: Callable[..., Visit]) -> None:
    inner = f"{HEAD}{width()._repr_html_()}".replace("&", "&amp;").replace('"', "&quot;")
    visit = open_page(
        html=f'{HEAD}<iframe title="f" sandbox="allow-scripts" width=800 height=600 srcdoc="{inner}"></iframe>'
    )
    frame = visit.page.frame_locator("iframe")
    frame.get_by_label("Your guess pixels").fill("388")
    frame.get_by_role("button", name="This is my guess").click()
    assert frame.locator(".result").inner_text() == "You said 388 pixels, and that is right."
    assert visit.problems() == []


def test_a_guess_stays_until_guess_again(tmp_path: Path, open_page: Callable[..., Visit]) -> None:
    head = f'{HEAD}<link rel="icon" href="data:,">'
    (tmp_path / "page.html").write_text(f"{head}{width()._repr_html_()}{odd()._repr_html_()}", encoding="utf-8")
    with serve(tmp_path) as url:  # a browser may keep less for a file
        visit = open_page(f"{url}/page.html")
        page = visit.page
        first, second = (page.locator("[data-params]").nth(i) for i in range(2))
        first.get_by_label("Your guess pixels").fill("400")
        page.keyboard.press("Enter")
        second.get_by_role("button", name="Show without a guess").click()
        page.reload()
        assert states(page) == ["guessed", "shown"]
        assert result(first).startswith("You said 400 pixels.")
        first.get_by_role("button", name="Guess again").click()
        page.reload()
        assert states(page) == ["open", "shown"]
        page.evaluate('key => localStorage.setItem(key, \'{"version":1,"guesses":{"ch04.odd":{"value":7}}}\')', KEY)
        page.reload()
        assert states(page) == ["open", "open"]
        page.evaluate("key => localStorage.setItem(key, 'not json')", KEY)
        page.reload()
        first.get_by_label("Your guess pixels").fill("1")
        page.keyboard.press("Enter")
        assert result(first).startswith("You said 1 pixel.")
    assert visit.problems() == []


def states(page: Any) -> list[str | None]:
    """The state of each guess, once both are drawn."""
    page.wait_for_function("document.querySelectorAll('[data-params][data-state]').length === 2")
    return [e.get_attribute("data-state") for e in page.locator("[data-params]").all()]


# The pages: a small book of two chapters, built as the real one


def cell_with(guess_: guess.Guess) -> nbformat.NotebookNode:
    cell = code("guess.choice(...)", tags=("guess",))
    bundle = guess_._repr_mimebundle_()
    cell.outputs = [nbformat.v4.new_output("display_data", data=bundle)]
    return cell


def printing(text: str, *tags: str) -> nbformat.NotebookNode:
    cell = code(f"print({text!r})", tags=tags)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{text}\n")]
    return cell


def exercise(label: str, title: str) -> nbformat.NotebookNode:
    return markdown(f"::::{{exercise}} {title}\n:label: {label}\nDouble it.\n::::")


@pytest.fixture(scope="module")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a book with two numbered chapters; the first has two guesses and two exercises."""
    folder = tmp_path_factory.mktemp("guesses")
    (folder / "chapters").mkdir()
    for name in ("_ext", "_static"):
        shutil.copytree(ROOT / "chapters" / name, folder / "chapters" / name)
    shutil.copy(ROOT / "references.bib", folder)
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    strip = re.search(r"```\{raw\} html\n.*?```\n", (ROOT / "intro.md").read_text(), re.DOTALL)
    assert strip, "intro.md has no place for the progress strip"
    (folder / "intro.md").write_text(f"# Book\n\nA page.\n\n{strip[0]}\n## The map\n\nText.\n")
    part = {"caption": "Part", "numbered": 1, "chapters": [{"file": "chapters/one"}, {"file": "chapters/two"}]}
    last = {"caption": "Reference", "chapters": [{"file": "chapters/notes"}]}
    (folder / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "intro", "parts": [part, last]}))
    (folder / "chapters" / "notes.md").write_text("# Notes\n\nText.\n")
    first = guess.choice("ch01.first", "Is it so?", ["yes", "no"], answer=0)
    second = guess.number("ch01.second", "How many?", answer=3)
    one = [
        markdown("# One\n\nText."),
        printing("early", "after-guess"),
        markdown("## By hand\n\nText."),
        cell_with(first),
        printing("plain"),
        printing("alpha", "after-guess"),
        printing("beta", "after-guess", "hide-input"),  # in a row with alpha: one line stands for both
        printing("proved", "proof"),
        markdown("It speaks of alpha.\n\n$$a = 1$$\n\nAnd of beta.\n\n- A list too.\n\n:::{note}\nA note stays.\n:::"),
        cell_with(second),
        printing("gamma", "after-guess"),
        markdown("## From scratch\n\nText."),
        printing("delta", "after-guess"),
        markdown("## Exercises\n\nText."),
        exercise("ex-one-a", "Twice"),
        exercise("ex-one-b", "Thrice"),
    ]
    two = [markdown("# Two\n\nText."), printing("plain"), exercise("ex-two-a", "Half")]
    for name, cells_ in (("one", one), ("two", two)):
        (folder / "chapters" / f"{name}.ipynb").write_text(normalise(nbformat.v4.new_notebook(cells=cells_)))
    return build_book(folder, folder)


@pytest.fixture
def book(small_book: Path) -> Iterator[str]:
    with serve(small_book) as url:
        yield url


def outputs(page: Any) -> list[str]:
    """The printed words that can be seen."""
    return [text.strip() for text in page.locator(".cell_output .output.stream:visible").all_inner_texts()]


def kept(page: Any) -> Any:
    return json.loads(page.evaluate("key => localStorage.getItem(key)", KEY) or "null")


BEFORE = ["early", "plain", "delta"]


@pytest.mark.slow
def test_outputs_wait_for_the_guess_before_them_in_their_section(book: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book}/chapters/one.html")
    page = visit.page
    assert outputs(page) == BEFORE
    assert page.locator(".cell_input:visible").count() == 5  # of the eight, two are folded, and so is the setup
    waits = page.locator(".guess-waits")
    assert waits.all_inner_texts() == ["Make your guess above, then this unfolds. Show without a guess"] * 2
    page.get_by_label("no").check()
    page.get_by_role("button", name="This is my guess").first.click()
    assert outputs(page) == ["early", "plain", "alpha", "beta", "proved", "delta"] and waits.count() == 1
    page.reload()
    assert outputs(page) == ["early", "plain", "alpha", "beta", "proved", "delta"]
    page.get_by_role("button", name="Guess again").click()
    assert outputs(page) == BEFORE
    button = page.locator(".guess-waits button")
    button.first.focus()
    page.keyboard.press("Enter")
    assert outputs(page) == ["early", "plain", "alpha", "beta", "proved", "delta"]
    assert page.evaluate("document.activeElement.innerText.trim()") == "alpha"  # the focus follows
    assert page.locator("[data-params]").first.get_attribute("data-state") == "shown"
    button.click()
    assert outputs(page) == ["early", "plain", "alpha", "beta", "proved", "gamma", "delta"]
    assert visit.problems() == []


@pytest.mark.slow
def test_the_text_behind_a_cell_without_output_waits_with_it(book: str, open_page: Callable[..., Visit]) -> None:
    page = open_page(f"{book}/chapters/one.html").page
    page.evaluate("""() => {
        const outputs = [...document.querySelectorAll(".tag_after-guess .cell_output")];
        const cell = outputs.find(e => e.textContent.includes("gamma")).closest(".cell");
        cell.querySelector(".cell_output").remove();
        cell.insertAdjacentHTML("afterend", '<p id="about">It is three.</p>');
    }""")
    page.locator("[data-params]").nth(0).get_by_role("button", name="Show without a guess").click()
    assert not page.locator("#about").is_visible()
    page.locator("[data-params]").nth(1).get_by_role("button", name="Show without a guess").click()
    assert page.locator("#about").is_visible()


@pytest.mark.slow
def test_outputs_behind_two_guesses_in_a_row_wait_for_both(book: str, open_page: Callable[..., Visit]) -> None:
    page = open_page(f"{book}/chapters/one.html").page
    page.evaluate("""() => {
        const [first, second] = [...document.querySelectorAll("[data-params]")].map(e => e.closest(".cell"));
        first.after(second);
    }""")
    page.get_by_label("no").check()
    page.get_by_role("button", name="This is my guess").first.click()
    assert outputs(page) == BEFORE
    page.locator("[data-params]").nth(1).get_by_role("button", name="Show without a guess").click()
    assert outputs(page) == ["early", "plain", "alpha", "beta", "proved", "gamma", "delta"]


@pytest.mark.slow
def test_the_paragraphs_behind_an_output_wait_with_it(book: str, open_page: Callable[..., Visit]) -> None:
    page = open_page(f"{book}/chapters/one.html").page
    behind = [page.get_by_text(words) for words in ("It speaks of alpha.", "And of beta.", "A list too.")] + [
        page.locator(".katex")
    ]
    assert not any(e.is_visible() for e in behind)
    assert page.get_by_text("A note stays.").is_visible()
    page.get_by_role("button", name="Show without a guess").first.click()
    assert all(e.is_visible() for e in behind)
    page.get_by_role("button", name="Guess again").click()
    assert not any(e.is_visible() for e in behind)
    page.emulate_media(media="print")
    assert all(e.is_visible() for e in behind)


@pytest.mark.slow
def test_paper_and_pages_without_javascript_show_every_output(
    book: str, open_page: Callable[..., Visit], chromium: Any
) -> None:
    every = ["early", "plain", "alpha", "beta", "proved", "gamma", "delta"]
    page = open_page(f"{book}/chapters/one.html").page
    page.emulate_media(media="print")
    assert outputs(page) == every
    assert page.locator(".guess-waits:visible, .book-tick:visible").count() == 0
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{book}/chapters/one.html")
    texts = page.locator(".cell_output .output.stream:visible").all_inner_texts()
    assert [text.strip() for text in texts] == every
    assert page.get_by_text("Show the answer").count() == 2
    page.goto(f"{book}/intro.html")
    assert page.get_by_text("Your progress").count() == 0
    context.close()


@pytest.mark.slow
def test_an_answer_does_not_flash_before_it_is_hidden(book: str, open_page: Callable[..., Visit]) -> None:
    page = open_page(f"{book}/intro.html").page
    page.add_init_script(
        "window.seen = []; new MutationObserver(() => {"
        "for (const e of document.querySelectorAll(':is(.tag_after-guess, .tag_proof) .cell_output'))"
        "  if (e.innerText.trim() && e.checkVisibility()) seen.push(e.innerText.trim());"
        "}).observe(document, {childList: true, subtree: true});"
    )
    page.goto(f"{book}/chapters/one.html")
    assert set(page.evaluate("seen")) <= {"early", "delta"}


@pytest.mark.slow
def test_a_link_to_an_output_that_waits_leads_to_its_line(book: str, open_page: Callable[..., Visit]) -> None:
    page = open_page(f"{book}/chapters/one.html", height=300).page
    page.evaluate("document.querySelectorAll('.tag_after-guess .output')[1].id = 'here'; location.hash = '#here'")
    page.wait_for_function("scrollY > 0")
    box = page.locator(".guess-waits").first.bounding_box()
    assert 0 < box["y"] < 300


@pytest.mark.slow
def test_ticks_are_kept_and_counted_on_the_landing_page(book: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book}/chapters/one.html")
    page = visit.page
    assert page.get_by_role("checkbox").count() == 3
    page.get_by_role("checkbox", name="Done: Exercise 1.2 (Thrice)").focus()
    page.keyboard.press("Space")
    page.get_by_label("yes").check()
    page.get_by_role("button", name="This is my guess").first.click()
    page.get_by_role("button", name="Show without a guess").first.click()  # no guess, so not counted
    page.goto(f"{book}/intro.html")
    lines = page.locator("#reading-progress li")
    assert lines.locator("span").all_inner_texts() == ["1 of 2 guesses, 1 of 2 exercises", "not started"]
    assert lines.locator("a").all_inner_texts() == ["1. One", "2. Two"]
    assert lines.locator("progress").first.evaluate("e => e.value") == pytest.approx(2 / 5)
    lines.locator("a").first.click()
    assert page.get_by_role("checkbox", name="Done: Exercise 1.2 (Thrice)").is_checked()
    page.get_by_label("I have read this chapter").check()
    page.get_by_role("checkbox", name="Done: Exercise 1.2 (Thrice)").uncheck()
    page.go_back()
    page.locator("#reading-progress").get_by_text("1 of 2 guesses, 0 of 2 exercises, read").wait_for()
    state = kept(page)
    assert state["version"] == 1 and state["guesses"]["ch01.first"]["value"] == 0
    assert state["guesses"]["ch01.second"]["value"] is None
    assert state["chapters"]["one"]["guesses"] == ["ch01.first", "ch01.second"] and state["chapters"]["one"]["read"]
    page.goto(f"{book}/chapters/notes.html")
    assert page.get_by_role("checkbox").count() == 0  # only numbered pages are chapters
    assert visit.problems() == []


@pytest.mark.slow
def test_progress_is_exported_reset_and_imported(book: str, open_page: Callable[..., Visit], tmp_path: Path) -> None:
    visit = open_page(f"{book}/chapters/two.html")
    page = visit.page
    page.get_by_label("I have read this chapter").check()
    page.goto(f"{book}/intro.html")
    before = kept(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "kept.json")
    assert download.value.suggested_filename == f"{KEY}.json"
    assert json.loads((tmp_path / "kept.json").read_text()) == before
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate("document.activeElement.textContent") == "No, keep them"
    page.keyboard.press("Enter")
    assert kept(page) == before
    assert page.evaluate("document.activeElement.textContent") == "Reset"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Yes, forget them").click()
    assert kept(page) == {"version": 1, "guesses": {}, "ticks": {}, "chapters": {}}
    spans = page.locator("#reading-progress li span")
    assert spans.all_inner_texts() == ["not started"] * 2
    page.locator("#reading-progress input[type=file]").set_input_files(tmp_path / "kept.json")
    page.get_by_text("Imported.").wait_for()
    assert kept(page) == before
    assert spans.all_inner_texts() == ["not started", "0 of 1 exercises, read"]
    assert visit.problems() == []


GOOD = {
    "version": 1,
    "guesses": {"ch01.first": {"value": 0, "time": "2026-01-01T00:00:00Z"}},
    "ticks": {"one": {"ex-one-a": True}},
    "chapters": {"one": {"visited": "2026", "guesses": ["ch01.first"], "exercises": ["ex-one-a"], "read": False}},
}


@pytest.mark.slow
def test_a_file_that_is_not_an_export_is_refused_and_changes_nothing(
    book: str, open_page: Callable[..., Visit], tmp_path: Path
) -> None:
    visit = open_page(f"{book}/chapters/one.html")
    page = visit.page
    page.get_by_label("I have read this chapter").check()
    page.goto(f"{book}/intro.html")
    before, file = kept(page), page.locator("#reading-progress input[type=file]")
    status = page.locator("#reading-progress [role=status]")
    bad: list[tuple[Any, str]] = [
        ("{", "the file is not JSON"),
        ("null", "it is not of version 1"),
        ("[]", "it is not of version 1"),
        (GOOD | {"version": 2}, "it is not of version 1"),
        (GOOD | {"guesses": {"ch01.first": 3}}, "some of it cannot be read"),
        (GOOD | {"guesses": []}, "some of it cannot be read"),
        (GOOD | {"guesses": {"ch01.first": {"value": {"a": 1}, "time": "x"}}}, "some of it cannot be read"),
        (GOOD | {"ticks": {"one": {"ex": "yes"}}}, "some of it cannot be read"),
        (GOOD | {"chapters": {"one": {"read": True}}}, "some of it cannot be read"),
        (GOOD | {"chapters": {"one": {"guesses": [1], "exercises": [], "read": True}}}, "some of it cannot be read"),
    ]
    for number, (content, reason) in enumerate(bad):
        path = tmp_path / f"{number}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        page.evaluate("document.querySelector('#reading-progress [role=status]').textContent = ''")
        file.set_input_files(path)
        status.filter(has_text=f"Not imported, nothing has changed: {reason}.").wait_for()
        assert kept(page) == before
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    file.set_input_files(tmp_path / "good.json")
    status.filter(has_text="Imported.").wait_for()
    assert kept(page)["chapters"]["one"] == GOOD["chapters"]["one"] | {"read": True}  # what was read stays read
    assert kept(page)["ticks"] == GOOD["ticks"]
    assert visit.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("page_name", ["chapters/one.html", "intro.html"])
def test_the_pages_are_accessible_and_fit_a_phone_in_both_modes(
    page_name: str, book: str, open_page: Callable[..., Visit]
) -> None:
    for dark in (False, True):
        visit = open_page(f"{book}/{page_name}", dark=dark, width=390, height=844)
        if page_name == "intro.html":
            visit.page.get_by_role("button", name="Reset").click()
        assert visit.problems() == []  # before axe, which asks for a file that it finds in the theme's styles
        assert visit.overflow() <= 0
        assert visit.axe() == []
        visit.page.close()


@pytest.mark.slow
def test_a_browser_that_keeps_nothing_still_shows_pages(book: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book}/intro.html")
    page = visit.page
    deny = "Storage.prototype.setItem = Storage.prototype.getItem = () => { throw new DOMException('no') }; 0"
    page.evaluate(deny)
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Yes, forget them").click()
    assert page.locator("#reading-progress li span").all_inner_texts() == ["not started"] * 2
    assert visit.problems() == []


# The real book


@pytest.mark.slow
def test_in_every_chapter_what_is_tagged_waits_for_a_guess_and_unfolds(
    built_book: Path, book_url: str, open_page: Callable[..., Visit]
) -> None:
    problems: list[str] = []
    for path in sorted((built_book / "chapters").glob("[0-9]*.html")):
        visit = open_page(f"{book_url}/chapters/{path.name}")
        page, found = visit.page, []
        guesses = page.locator("[data-params][data-state]")
        early = page.locator(".tag_after-guess.unfolded:has(.cell_output)").count()
        if not guesses.count():
            found.append("holds no guess")
        if early:
            found.append(f"{early} cells tagged after-guess follow no guess of their section")
        for button in page.get_by_role("button", name="Show without a guess").all()[::-1]:
            if button.is_visible():
                button.click()
        states = guesses.evaluate_all("all => all.map(e => e.dataset.state)")
        hidden = page.locator(":is(.tag_after-guess, .tag_proof) .cell_output:not(details *)").evaluate_all(
            "all => all.filter(e => !e.checkVisibility()).length"
        )
        hidden += page.locator(".bd-article .waits").count()
        if set(states) - {"shown"} or page.locator(".guess-waits").count() or hidden:
            found.append(f"does not unfold: {states}, {hidden} outputs hidden")
        problems += [f"{path.name}: {problem}" for problem in [*found, *visit.problems()]]
        page.close()
    assert problems == []
