"""`book.progress`: the bar while training, and the one line that stays."""

from __future__ import annotations

import math
from typing import Any

import IPython.display
import pytest

from seglib import book
from seglib.book import progress as progress_class


class Screen:
    """Stands in for the notebook: what was displayed, in order."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.outputs = 0

    def display(self, item: Any, display_id: bool) -> Screen:
        assert display_id
        self.outputs += 1
        self.shown.append(item)
        return self

    def update(self, item: Any) -> None:
        self.shown.append(item)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    import sys

    made = Screen()
    module = sys.modules[progress_class.__module__]
    monkeypatch.setattr(module, "_in_notebook", lambda: True)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(IPython.display, "display", made.display)
    return made


def run(on_step: progress_class, losses: list[float], rate: float = 12.5) -> None:
    for step, loss in enumerate(losses, 1):
        on_step(step, len(losses), loss, rate, 61.0)


def test_one_output_ends_as_one_line_without_times(screen: Screen) -> None:
    run(book.progress("FCN-8s"), [2.314, 1.5, 0.5801])
    assert screen.outputs == 1
    assert repr(screen.shown[-1]) == "FCN-8s: 3 steps, loss 2.31 → 0.58"
    assert screen.shown[-1]._repr_html_() == "<p>FCN-8s: 3 steps, loss 2.31 → 0.58</p>"


def test_the_final_line_does_not_depend_on_speed(screen: Screen) -> None:
    run(book.progress(), [2.0, 1.0], rate=3.0)
    slow = screen.shown[-1]
    run(book.progress(), [2.0, 1.0], rate=900.0)
    assert repr(screen.shown[-1]) == repr(slow) and screen.shown[-1]._repr_html_() == slow._repr_html_()


def test_while_running_it_is_a_progressbar_that_a_screen_reader_can_read(screen: Screen) -> None:
    run(book.progress("A <b> & 'c'"), [2.0, 1.0, 0.5, 0.25])
    bar = screen.shown[1]._repr_html_()
    for part in ('role="progressbar"', 'aria-valuenow="2"', 'aria-valuemax="4"', 'aria-label="A &lt;b&gt; &amp; '):
        assert part in bar
    assert "width:50.0%" in bar and "1:01 left" in bar and "12 images/s" in bar and "<b>" not in bar


def test_it_does_not_draw_faster_than_the_eye_can_read(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[progress_class.__module__], "_SECONDS_BETWEEN_UPDATES", 1000.0)
    run(book.progress(), [1.0] * 50)
    assert len(screen.shown) == 2  # the first bar and the final line


def test_one_callback_serves_several_runs(screen: Screen) -> None:
    on_step = book.progress("run")
    run(on_step, [4.0, 3.0])
    run(on_step, [2.0, 1.0])
    assert screen.outputs == 2
    assert repr(screen.shown[-1]) == "run: 2 steps, loss 2.00 → 1.00"


def test_small_losses_keep_their_digits(screen: Screen) -> None:
    run(book.progress("x"), [0.5, 0.000321])
    assert repr(screen.shown[-1]) == "x: 2 steps, loss 0.50 → 3.2e-04"


def test_an_unknown_rate_has_a_dash_for_the_time_left(screen: Screen) -> None:
    book.progress("x")(1, 10, 1.0, 0.0, math.inf)
    assert "– left" in screen.shown[-1]._repr_html_()


def test_outside_a_notebook_only_the_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run(book.progress("x"), [2.0, 1.0, 0.5])
    assert capsys.readouterr().out == "x: 3 steps, loss 2.00 → 0.50\n"
