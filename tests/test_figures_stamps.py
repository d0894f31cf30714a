"""The moving figure of stamps along one axis: its arithmetic against torch's, and itself in a browser."""

import numpy as np
import pytest
import torch
from browser import finger, middle
from torch.nn import functional as F

from seglib.book import figures
from seglib.book.figures.element import source

in_a_browser = pytest.mark.slow

VALUES = [1.0, 3, 2, 0, 2.5]


def in_javascript(page, cases):
    return page.evaluate(f"cases => {{ {source('bilinear_stamps')}\nreturn cases.map(c => upsampled(...c)); }}", cases)


@pytest.fixture
def show(open_page):
    def visit(**options):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        return open_page(html=f"{head}<main>{figures.bilinear_stamps()._repr_html_()}</main></html>", **options)

    return visit


def bars(page):
    return [float(v) for v in page.eval_on_selector_all(".sum", "bars => bars.map(b => b.dataset.value)")]


def wanted(values, factor, steps=9):
    """What the stamps give in float64: a transposed convolution with the tent."""
    line = 1 - (torch.arange(2 * factor, dtype=torch.float64) + 0.5 - factor).abs() / factor
    x = torch.tensor(values, dtype=torch.float64)
    x[steps:] = 0
    return F.conv_transpose1d(x[None, None], line[None, None], stride=factor, padding=factor // 2)[0, 0].numpy()


@in_a_browser
def test_the_stamps_are_torchs_transposed_convolution_and_its_interpolation(open_page):
    page = open_page().page
    cases = [[VALUES, kernel, f] for kernel in ("tent", "box") for f in (2, 4, 6, 8)]
    for (values, kernel, f), got in zip(cases, in_javascript(page, cases), strict=True):
        x = torch.tensor(values, dtype=torch.float64)[None, None]
        if kernel == "box":
            np.testing.assert_array_equal(got, F.interpolate(x, scale_factor=f)[0, 0])
            continue
        np.testing.assert_allclose(got, wanted(values, f), rtol=1e-12)
        inside = slice(f // 2, -(f // 2))
        np.testing.assert_allclose(
            got[inside], F.interpolate(x, scale_factor=f, mode="linear")[0, 0, inside], rtol=1e-12
        )
    [none], [two] = in_javascript(page, [[VALUES, "tent", 4, 0]]), in_javascript(page, [[VALUES, "tent", 4, 2]])
    assert none == [0] * 20
    np.testing.assert_allclose(two, wanted(VALUES, 4, 2), rtol=1e-12)


@in_a_browser
def test_keys_step_through_the_stamps_and_change_everything(show):
    visit = show(width=800)
    page = visit.page
    np.testing.assert_allclose(bars(page), wanted(VALUES, 4), atol=1e-3)
    page.get_by_label("Stamped cells").focus()
    page.keyboard.press("Home")
    assert bars(page) == [0] * 20 and page.locator(".stamp").count() == 0
    page.keyboard.press("ArrowRight")
    np.testing.assert_allclose(bars(page), wanted(VALUES, 4, 1), atol=1e-3)
    page.keyboard.press("End")
    page.get_by_label("Value of cell 0").focus()
    page.keyboard.press("ArrowUp")
    np.testing.assert_allclose(bars(page), wanted([1.25, *VALUES[1:]], 4), atol=1e-3)
    page.get_by_label("Chosen pixel").focus()
    page.keyboard.press("ArrowRight")
    assert "Pixel 11: 2 · 0.625 + 0 · 0.375 = 1.25" in page.locator(".status").inner_text()
    page.get_by_label("Factor f").focus()
    page.keyboard.press("Home")
    assert len(bars(page)) == 10 and "k = 2f = 4" in page.locator(".status").inner_text()
    assert visit.problems() == []


@in_a_browser
def test_the_mouse_plays_picks_a_pixel_and_drags_a_value(show):
    visit = show(width=800)
    page = visit.page
    page.get_by_role("button", name="Box, k = 4").click()
    assert bars(page) == [v for v in VALUES for _ in range(4)]
    page.get_by_role("button", name="Tent, k = 8").click()
    page.get_by_role("button", name="Play").click()
    np.testing.assert_allclose(bars(page), wanted(VALUES, 4, 1), atol=1e-3)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="One stamp on").click()
    np.testing.assert_allclose(bars(page), wanted(VALUES, 4, 2), atol=1e-3)
    page.locator(".sum").nth(5).click(force=True)
    assert "Pixel 5: 1 · 0.125 + 3 · 0.875 = 2.75. Its weights sum to 1." in page.locator(".status").inner_text()
    page.get_by_label("Stamped cells").press("End")
    page.locator(".sum").nth(0).click(force=True)
    assert "sum to less than 1" in page.locator(".status").inner_text()
    knob = page.get_by_label("Value of cell 3").bounding_box()
    x, y = knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 300, steps=4)
    page.mouse.up()
    np.testing.assert_allclose(bars(page), wanted([1, 3, 2, 4, 2.5], 4), atol=1e-3)  # 4 is the largest value
    assert "Pixel 0:" in page.locator(".status").inner_text()  # the drag picks no pixel
    assert visit.problems() == []


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_finger_drags_a_value_on_a_phone(show, dark):
    visit = show(width=360, dark=dark)
    page = visit.page
    x, y = middle(page.get_by_label("Value of cell 3"))
    finger(page, (x, y), (x, y - 30), (x, y - 150))
    np.testing.assert_allclose(bars(page), wanted([1, 3, 2, 4, 2.5], 4), atol=1e-3)
    page.get_by_role("button", name="One stamp back").click()
    np.testing.assert_allclose(bars(page), wanted([1, 3, 2, 4, 2.5], 4, 4), atol=1e-3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.problems() == []


def test_a_value_out_of_range_is_refused():
    for options, words in (
        ({"values": [1]}, "values must be 2 to 6 numbers from 0 to 4"),
        ({"values": [1, 5]}, "values must be 2 to 6"),
        ({"factor": 3}, "factor must be 2, 4, 6 or 8, got 3"),
        ({"kernel": "cube"}, "kernel must be 'tent' or 'box', got 'cube'"),
    ):
        with pytest.raises(ValueError, match=words):
            figures.bilinear_stamps(**options)
