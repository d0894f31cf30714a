"""The notation page is true: every letter that a chapter uses stands there with that chapter."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
PAGE = (ROOT / "chapters/notation.md").read_text(encoding="utf-8")


def letters(symbols):
    """The letters of a table's first cell: ``$H$, $W$`` → H, W."""
    return set(re.findall(r"\$(?:\\hat\{)?([A-Za-z])\}?\$", symbols))


def listed():
    """Letter → chapters in which the page says what it means; the first table holds in all of them."""
    everywhere, several = PAGE.split("## One letter, several meanings")
    found = {letter: set(range(1, 100)) for row in rows(everywhere) for letter in letters(row[0])}
    for symbols, _, chapters in rows(several):
        for letter in letters(symbols):
            found.setdefault(letter, set()).update(map(int, re.findall(r"\d+", chapters)))
    return found


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| $")]


def used(notebook):
    """Letter → a line that uses it, alone as ``$d$`` or ``$d_1$``, or in a comment's shape such as ``# (B, K)``."""
    found = {}
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown":
                hits = re.findall(r"\$([A-Za-z])(?:_[A-Za-z0-9]|_\{[^}]*\})?\$", line)
            else:
                shapes = re.findall(r"\(([A-Z0-9 ,+·*/.×]+)\)", line.partition("#")[2])
                hits = re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", " ".join(shapes))
            for letter in hits:
                found.setdefault(letter, line.strip())
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_letter_of_a_chapter_is_on_the_notation_page(path):
    chapter, page = int(path.stem[:2]), listed()
    missing = {
        letter: line
        for letter, line in used(nbformat.read(path, as_version=4)).items()
        if chapter not in page.get(letter, set())
    }
    assert not missing, f"add them, with chapter {chapter}, to chapters/notation.md: {missing}"


def test_a_letter_has_one_row_for_a_meaning_and_one_place():
    everywhere, several = PAGE.split("## One letter, several meanings")
    meanings = [tuple(row[:2]) for row in rows(everywhere + several)]
    assert len(set(meanings)) == len(meanings)


def test_the_check_finds_letters():
    cell = nbformat.v4.new_markdown_cell("Let $d_1$ be near $x$, of $s(n - 1)$.")
    code = nbformat.v4.new_code_cell("a = f(Q)  # (B, K, H·W) and (N,)")
    notebook = nbformat.v4.new_notebook(cells=[cell, code])
    assert set(used(notebook)) == set("dxBKHWN")
