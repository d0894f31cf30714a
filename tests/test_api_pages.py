"""The reference: formulas as mathematics, and links between functions and the chapters that use them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import ROOT, Visit

sys.path.insert(0, str(ROOT / "chapters" / "_ext"))

import booklinks  # noqa: E402

FORMULA = re.compile(r"[Σ∈∪∩√⌊²]|[·/] ?[α-ωΑ-Ω(]|exp\(|log ?[Σ(]")


def documented() -> list[Path]:
    pages = "\n".join(path.read_text() for path in (ROOT / "chapters" / "api").glob("*.md"))
    names = re.findall(r"automodule:: (\S+)", pages)
    paths = [ROOT.joinpath(*name.split(".")) for name in names]
    return [path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py" for path in paths]


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            name = getattr(node, "name", path.stem)
            text = ast.get_docstring(node)
            if text and not name.startswith("_"):
                yield name, text


def literal_lines(text: str) -> Iterator[str]:
    """The lines of a docstring's literal blocks (those after ``::``), but not of directives."""
    inside, depth = False, 0
    for line in text.splitlines():
        if inside and line and not line.startswith(" " * depth):
            inside = False
        if inside:
            yield line
        elif line.rstrip().endswith("::") and not line.lstrip().startswith(".."):
            inside, depth = True, len(line) - len(line.lstrip()) + 1


# Formulas


def test_the_rule_for_formulas_finds_one() -> None:
    text = "Sum::\n\n    L = Σ_i m_i · g_i\n\nand so on."
    assert [line for line in literal_lines(text) if FORMULA.search(line)] == ["    L = Σ_i m_i · g_i"]


@pytest.mark.parametrize("path", documented(), ids=lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts))
def test_formulas_on_lines_of_their_own_are_mathematics(path: Path) -> None:
    for name, text in docstrings(path):
        drawn = [line for line in literal_lines(text) if "─" not in line and "│" not in line]
        assert [line for line in drawn if FORMULA.search(line)] == [], f"{name}: write it as `.. math::`"
        starts = [line for line in text.splitlines() if re.match(r"\s*[\w()]+ = .*Σ", line)]
        assert starts == [], f"{name}: write it as `.. math::`"


def test_backslashes_of_formulas_arrive() -> None:
    for path in documented():
        for name, text in docstrings(path):
            for formula in re.findall(r"\.\. math::((?:.*\n?)(?:\n?[ ]{4,}.*\n?)*)", text):
                assert not re.search(r"[\t\f\v\a\b\r]", formula), f'{path.name}, {name}: make the docstring raw, r"""'
                assert formula.count("{") == formula.count("}"), f"{path.name}, {name}"


# Links


def test_names_are_found_where_they_are_defined() -> None:
    cells = [
        "from seglib import viz\nfrom seglib.data.scenes import CATEGORIES, Scenes as Made",
        "%pip install x\nviz.legend(CATEGORIES)\nviz.CYCLE",
        "import seglib.ops.nms as suppression\nsuppression.nms(boxes, scores, 0.5)",
        "def stub(:\n    ...",
        "from seglib import book\nbook.setup()\nfrom seglib.book import check\nimport torch\ntorch.nn.Conv2d",
    ]
    assert booklinks.names_in(cells) == {
        "seglib.data.scenes.CATEGORIES",
        "seglib.data.scenes.Scenes",
        "seglib.ops.nms.nms",
        "seglib.viz.figures.legend",
        "seglib.viz.style.CYCLE",
    }


def test_what_is_not_there_gets_no_link() -> None:
    assert booklinks.names_in(["from seglib.ops.nms import absent", "from seglib.nowhere import nms"]) == frozenset()


def test_every_chapter_uses_the_package() -> None:
    found = booklinks.chapters(ROOT)
    assert [chapter.number for chapter in found] == list(range(1, len(found) + 1))
    for chapter in found:
        assert len(chapter.names) > 3 and chapter.title, chapter.page


@pytest.mark.slow
def test_links_lead_from_chapters_to_entries_and_back(built_book: Path) -> None:
    for chapter in booklinks.chapters(ROOT):
        page = built_book / f"{chapter.page}.html"
        lists = re.findall(r'<p class="from-seglib">(.*?)</p>', page.read_text(), re.DOTALL)
        assert len(lists) == 1, chapter.page
        links = re.findall(r'href="(api/\w+\.html)#([\w.]+)"', lists[0])
        assert len(links) >= 0.8 * len(chapter.names), chapter.page
        for file, name in links:
            entry = (built_book / "chapters" / file).read_text().split(f'id="{name}"', 1)[1]
            said = re.search(r"In the book:.*?</p>", entry, re.DOTALL)
            assert said and f"../{page.name}" in said[0], (chapter.page, name)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_formulas_are_drawn_and_can_be_seen_whole(width: int, book_url: str, open_page: Callable[..., Visit]) -> None:
    for name in ("losses", "metrics", "layers"):
        page: Any = open_page(f"{book_url}/chapters/api/{name}.html", width=width).page
        page.wait_for_selector(".katex-display")
        cut = page.evaluate(
            """() => [...document.querySelectorAll('.katex-display')].filter(e => {
              const text = e.querySelector('.base').getBoundingClientRect();
              return text.left < e.getBoundingClientRect().left - 1 || text.left < 0;
            }).length"""
        )
        assert cut == 0, name
        assert page.locator(".katex-error").count() == 0
