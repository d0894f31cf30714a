"""Fixtures that build the book once, serve it on a local port and open its pages in a real Chromium.

    def test_the_slider_moves(open_page, book_url):
        visit = open_page(f"{book_url}/chapters/03_fcn.html", width=390, dark=True)
        visit.page.locator("seg-…").first.focus()
        visit.page.keyboard.press("ArrowRight")
        assert not visit.problems()

``open_page`` also takes ``html="…"`` instead of an address. Nothing of it ever asks another host.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ("127.0.0.1", "localhost")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


def build_book(source: Path, target: Path) -> Path:
    """Build strictly, from ``source`` into ``target``; the folder of the pages. Fails with the build's warnings."""
    start = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    command = [sys.executable, "-c", start, "build", str(source), "--path-output", str(target)]
    result = subprocess.run([*command, "-W", "-n", "--keep-going"], capture_output=True, text=True, check=False)
    log = re.sub(r"\x1b\[[\d;]*m", "", result.stdout + result.stderr)
    warnings = [line for line in log.splitlines() if re.search("WARNING|ERROR|Traceback", line)]
    assert result.returncode == 0 and not warnings, "\n".join(warnings) or log[-3000:]
    return target / "_build" / "html"


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; built once a session, also when several workers run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target, done = shared / "book", shared / "book-is-built"
    with FileLock(shared / "book.lock"):
        if not done.exists():
            build_book(ROOT, target)
            done.touch()
    return target / "_build" / "html"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free local port; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def book_url(built_book: Path) -> Iterator[str]:
    """The address of the served book."""
    with serve(built_book) as url:
        yield url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One running Chromium: ``$CHROMIUM``, one on the PATH, or playwright's own.

    Without any, tests are skipped on a person's computer and fail where ``CI=true``.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _miss("the Python package playwright is not installed: pip install -r requirements.txt")
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), own if os.path.exists(own) else None]
        path = next(filter(None, candidates), None)
        if path is None:
            _miss("no Chromium found: install one, set CHROMIUM to its path, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def _miss(reason: str) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@dataclass
class Visit:
    """An open page and everything that went wrong on it so far."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Console errors, requests to other hosts and answers of 400 and above."""
        return [*self.errors, *(f"asked {url}" for url in self.foreign), *self.failed]

    def axe(self) -> list[str]:
        """What axe-core calls serious or critical, one line a finding.

        Contrast is measured on one element of each look: of thousands of words in code and formulas that have the same
        colour, ground, size and weight, all but the first would take most of the time and say nothing new. Of the
        coloured words of a page's code only the first of each kind stays a word of its own.
        """
        if not self.page.evaluate("typeof axe !== 'undefined'"):
            self.page.evaluate(_axe_source())
            self.page.evaluate("axe.configure({rules: [{id: 'color-contrast', selector: '[data-look]'}]})")
            self.page.evaluate(_UNWRAP)
        self.page.evaluate(_MARK_LOOKS)
        violations = self.page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
        return [
            f"{found['id']} ({found['impact']}): {node['target']} {node['html'][:160]}"
            for found in violations
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def middle(target: Any) -> tuple[float, float]:
    """The middle of an element on the screen, in pixels from the window's upper left corner."""
    box = target.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def finger(page: Any, *points: tuple[float, float]) -> None:
    """Put a finger on the first point, move it over the others and lift it; with one point it is a tap."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for i, (x, y) in enumerate(points):
        event = {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", event)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


_UNWRAP = """() => {
  const seen = new Set();
  for (const span of document.querySelectorAll(".highlight pre span")) {
    if (seen.has(span.className)) span.replaceWith(...span.childNodes);
    seen.add(span.className);
  }
}"""


# A look is what contrast depends on: colour, size and weight of the letters, and everything behind them. What lies
# behind is that of the ancestors, and whatever else may be there for elements that are positioned.
_MARK_LOOKS = """() => {
  const behind = new Map(), looks = new Set();
  const ground = (element) => {
    if (!element) return "";
    if (!behind.has(element)) {
      const style = getComputedStyle(element);
      const own = [style.backgroundColor, style.backgroundImage, style.opacity, style.filter];
      if (style.position !== "static") own.push(element.tagName, element.className);
      const above = ground(element.parentElement ?? element.getRootNode().host);
      const bare = own.join() === "rgba(0, 0, 0, 0),none,1,none";
      behind.set(element, bare ? above : `${above}/${own}`);
    }
    return behind.get(element);
  };
  const mark = (root) => {
    for (const element of root.querySelectorAll("*")) {
      element.removeAttribute("data-look");
      if (element.shadowRoot) mark(element.shadowRoot);
      const text = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      const field = element.matches("input, select, textarea");
      const seen = element.checkVisibility({visibilityProperty: true, opacityProperty: true});
      if (!seen || !(text || field)) continue;
      const s = getComputedStyle(element);
      const look = [field, s.color, s.fontSize, s.fontWeight, s.textShadow, ground(element)].join();
      if (!looks.has(look)) element.setAttribute("data-look", "");
      looks.add(look);
    }
  };
  mark(document.body);
}"""


@functools.cache
def _axe_source() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """``open_page(url, html=None, dark=False, width=1300, height=900) -> Visit``; it closes by itself.

    Pages of one test with the same settings share a context, and so a cache.
    """
    contexts: dict[tuple[bool, int, int], Any] = {}

    def open_one(
        url: str = "about:blank",
        *,
        html: str | None = None,
        dark: bool = False,
        width: int = 1300,
        height: int = 900,
    ) -> Visit:
        settings = (dark, width, height)
        if settings not in contexts:
            scheme = "dark" if dark else "light"
            viewport = {"width": width, "height": height}
            # Reduced motion: the theme fades colours in, and axe would measure contrast half-way.
            contexts[settings] = chromium.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        visit = Visit(contexts[settings].new_page())
        watch(visit)
        visit.page.goto(url, wait_until="load")
        if html is not None:
            visit.page.set_content(html)
        return visit

    yield open_one
    for context in contexts.values():
        context.close()


def watch(visit: Visit) -> None:
    """Write down from now on what goes wrong on the page."""
    page = visit.page
    page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visit.errors.append(f"uncaught: {error.message}"))
    page.on("request", lambda request: visit.foreign.append(request.url) if _is_foreign(request.url) else None)
    page.on(
        "response",
        lambda answer: visit.failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None,
    )


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOCAL
