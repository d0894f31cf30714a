"""The moving figure of a stride that becomes a dilation: its arithmetic against torch, and itself in a browser."""

import json
import re

import pytest
import torch
from torch.nn import functional as F

from seglib.book import figures
from seglib.book.figures.element import source

SIGNAL = [2, 0, 1, 3, 1, 0, 2, 1, 0, 1, 3, 2]
FIRST, SECOND = [1, 2, 1], [1, 0, -1]


def conv(x, w, **how):
    return F.conv1d(torch.tensor(x).view(1, 1, -1).double(), torch.tensor(w).view(1, 1, 3).double(), **how)[
        0, 0
    ].tolist()


def dense(x, s, a=FIRST, b=SECOND):
    return conv(conv(x, a, padding=1), b, padding=s, dilation=s)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="8 to 16 numbers, got 3"):
        figures.stride_dilation((1, 2, 3))
    with pytest.raises(ValueError, match=r"three weights, got \(1, 2\)"):
        figures.stride_dilation(first=(1, 2))
    with pytest.raises(ValueError, match="stride must be 1 to 4, got 5"):
        figures.stride_dilation(stride=5)


def test_the_figure_is_small_the_same_every_time_and_asks_nobody():
    page = figures.stride_dilation()._repr_html_()
    assert page == figures.stride_dilation()._repr_html_()
    assert len(source("stride_dilation").encode()) < 15_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert page.count("</script>") == 1 and "(needs JavaScript)" in page


@pytest.fixture
def show(open_page):
    def open_figure(**kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        return open_page(html=f"{head}<main>{figures.stride_dilation()._repr_html_()}</main></html>", **kwargs)

    return open_figure


def test_the_twin_is_torchs_and_holds_every_strided_network(open_page):
    page = open_page().page
    g = torch.Generator().manual_seed(0)
    cases = [[SIGNAL, FIRST, SECOND, s] for s in (1, 2, 3, 4)]
    for n in (8, 11, 16):
        x, a, b = (torch.randint(-5, 6, (m,), generator=g).tolist() for m in (n, 3, 3))
        cases += [[x, a, b, s] for s in (1, 2, 3, 4)]
    body = """return JSON.parse(cases).map(([x, a, b, s]) => ({twin: twin(x, a, b, s),
      parts: [...Array(s).keys()].map(m => strided(x, a, b, s, m)),
      read: x.map((_, o) => read(x.length, s, o).input)}));"""
    found = page.evaluate(f"cases => {{ {source('stride_dilation')}\n{body} }}", json.dumps(cases))
    for (x, a, b, s), got in zip(cases, found, strict=True):
        want = dense(x, s, a, b)
        assert got["twin"] == want
        assert got["parts"][0] == conv(conv(x, a, stride=s, padding=1), b, padding=1)
        assert got["parts"] == [want[m::s] for m in range(s)]
        for o, cells in enumerate(got["read"]):
            line = torch.zeros(1, 1, len(x), requires_grad=True)
            ones = torch.ones(1, 1, 3)
            F.conv1d(F.conv1d(line, ones, padding=1), ones, padding=s, dilation=s)[0, 0, o].backward()
            assert cells == line.grad[0, 0].nonzero()[:, 0].tolist()


def outputs(page):
    texts = page.locator("svg text:not(.name)").all_text_contents()[:12]
    return [float(t.replace("−", "-")) if t else None for t in texts]


@pytest.mark.slow
def test_starts_interleave_to_the_twin_by_mouse_and_keys(show):
    visit = show(width=800)
    page = visit.page
    want = dense(SIGNAL, 2)
    assert outputs(page) == [v if i % 2 == 0 else None for i, v in enumerate(want)]
    assert "6 answers: −5, −1, 0, 3, −4, 2." in page.locator(".status").inner_text()
    page.get_by_role("button", name="strided, from cell 1").click()
    assert outputs(page) == [v if i % 2 else None for i, v in enumerate(want)]
    page.get_by_role("button", name="all: the dense twin").click()
    assert outputs(page) == want
    page.get_by_label("Stride s of layer 1").focus()
    page.keyboard.press("ArrowRight")
    assert outputs(page) == dense(SIGNAL, 3)
    assert page.get_by_role("button", name="strided, from cell 2").count() == 1
    page.locator("svg").focus()
    before = int(page.locator("svg").get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowRight")
    said = page.locator("svg").get_attribute("aria-valuetext")
    assert said.startswith(f"Output {before + 1} is {dense(SIGNAL, 3)[before + 1]:.0f}".replace("-", "−"))
    assert f"answer {(before + 1) // 3} of the strided network from cell {(before + 1) % 3}" in said
    page.get_by_role("button", name="strided, from cell 2").click()
    box = page.locator("svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * (3.1 + 5.5) / 15.2, box["y"] + 12)
    assert page.locator("svg").get_attribute("aria-valuenow") == "5"
    assert visit.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [800, 360])
def test_it_fits_the_page(show, width):
    visit = show(width=width)
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.problems() == []
