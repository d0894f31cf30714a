"""Every page of the book in a real Chromium: wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Visit

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}

# After a resize the theme's own code gives what scrolls a place in the tab order a moment later, at most 3 s here.
_SETTLED = """async () => {
    const missing = () => [...document.querySelectorAll("pre")].some(e => e.scrollWidth > e.clientWidth && e.tabIndex);
    for (let i = 0; i < 60 && missing(); i++) await new Promise(done => setTimeout(done, 50));
}"""


def book_pages(built_book: Path) -> list[str]:
    """Every page but the redirect at the root; of the highlighted sources only the first."""
    names = [str(path.relative_to(built_book)) for path in sorted(built_book.rglob("*.html"))]
    left_out = [name for name in names if name.startswith("_modules/")][1:] + ["index.html"]
    return [name for name in names if name not in left_out and not name.startswith("_static/")]


def test_every_page_is_clean(built_book: Path, book_url: str, open_page: Callable[..., Visit]) -> None:
    """No console error, no other host, no missing file; nothing serious for axe; no sideways scroll on a phone."""
    problems: list[str] = []
    for name in book_pages(built_book):
        visit = open_page(f"{book_url}/{name}")
        found = visit.problems()
        found += [f"axe, light: {line}" for line in visit.axe()]
        visit.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        visit.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        visit.page.set_viewport_size(PHONE)
        visit.page.evaluate(_SETTLED)
        found += [f"axe, dark phone: {line}" for line in visit.axe()]
        if visit.overflow() > 0:
            found.append(f"wider than a phone by {visit.overflow()} px")
        problems += [f"{name}: {problem}" for problem in found]
        visit.page.close()
    assert problems == []


def test_equations_are_drawn_without_a_network(book_url: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book_url}/chapters/notation.html")
    assert visit.page.locator(".katex .katex-html").count() > 20
    assert visit.page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px KaTeX_Main'))")
    assert "\\(" not in visit.page.locator("article").inner_text()


def test_the_mode_button_changes_the_colours(book_url: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book_url}/intro.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit.page.evaluate(background)
    button = visit.page.locator(".theme-switch-button:visible").first
    for _ in range(3):  # auto, light, dark in turn
        button.click()
        if visit.page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert visit.page.evaluate(background) != light
    assert visit.problems() == []


def test_search_finds_a_page_without_a_network(book_url: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book_url}/search.html?q=notation")
    visit.page.locator("ul.search li a").first.wait_for()
    assert visit.problems() == []


def test_wide_code_can_be_scrolled_by_keyboard_on_a_phone(book_url: str, open_page: Callable[..., Visit]) -> None:
    visit = open_page(f"{book_url}/chapters/how_to_use.html", **PHONE)
    wide = visit.page.locator("article pre[tabindex='0']").first
    wide.focus()
    visit.page.keyboard.press("ArrowRight")
    visit.page.wait_for_function("document.activeElement.scrollLeft > 0")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("console.error('a mistake')", "a mistake"),
        ("setTimeout(() => { throw new Error('uncaught one') })", "uncaught one"),
        ("fetch('/absent.png')", "404"),
        ("fetch('http://stranger.invalid/x').catch(() => 0)", "asked http://stranger.invalid/x"),
    ],
)
def test_what_goes_wrong_on_a_page_is_noticed(
    script: str, problem: str, book_url: str, open_page: Callable[..., Visit]
) -> None:
    visit = open_page(f"{book_url}/chapters/notation.html")
    assert visit.problems() == []
    visit.page.evaluate(f"() => {{ {script} }}")
    while not any(problem in found for found in visit.problems()):  # pytest's timeout ends it
        visit.page.wait_for_timeout(10)


def test_axe_notices_a_serious_mistake(open_page: Callable[..., Visit]) -> None:
    markup = (
        "<html lang=en><title>t</title><main><h1>T</h1><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='></main>"
    )
    visit = open_page(html=markup)
    assert any("image-alt" in line for line in visit.axe())


SHADOW = "e => { e.attachShadow({mode: 'open'}).innerHTML = '<p style=\"color: #999; background: #fff\">pale</p>' }"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("<p>dark</p><p style='color: #999'>pale</p>", True),
        ("<p>dark</p><p style='color: #111'>also dark</p>", False),
        ("<p>black</p><div style='background: #333'><p>black on grey</p></div>", True),
        ("<p>black</p><div style='opacity: 0.4'><p>half seen</p></div>", True),
        ("<p>one</p><p>two</p><p>three</p>", False),
        ("<p>dark</p><section></section>", True),
    ],
)
def test_axe_notices_each_look_that_is_too_pale(words: str, found: bool, open_page: Callable[..., Visit]) -> None:
    markup = (
        f"<html lang=en><title>t</title><body style='background: #fff'><main><h1>T</h1>{words}</main></body></html>"
    )
    visit = open_page(html=markup)
    if "section" in words:
        visit.page.eval_on_selector("section", SHADOW)
    assert any("color-contrast" in line for line in visit.axe()) is found


def test_axe_looks_again_after_colours_change(open_page: Callable[..., Visit]) -> None:
    style = "<style>@media (prefers-color-scheme: dark) { p { color: #ddd } }</style>"
    visit = open_page(html=f"<html lang=en><title>t</title>{style}<main><h1>T</h1><p>one</p></main></html>")
    assert visit.axe() == []
    visit.page.emulate_media(color_scheme="dark")
    assert any("color-contrast" in line for line in visit.axe())
