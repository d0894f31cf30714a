"""The landing page promises what the chapters hold."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
INTRO = (ROOT / "intro.md").read_text(encoding="utf-8")


def text_of(chapter):
    cells = nbformat.read(next((ROOT / "chapters").glob(f"{chapter:02}_*.ipynb")), as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_the_four_answers_are_those_of_chapter_1():
    title, *answers = re.findall(r"^\*\*([^*]+)\.\*\*", INTRO, re.MULTILINE)
    rows = re.findall(r"^\| \*\*(\w+)\*\* \|", text_of(1), re.MULTILINE)
    assert title in text_of(1).splitlines()[0]
    assert [a.lower() for a in answers] == rows and len(rows) == 4


def test_reading_times_are_those_of_the_chapters():
    listed = re.findall(r"^\| (\d+)\. \[.*\| (\d+) min \|$", INTRO, re.MULTILINE)
    assert len(listed) == len(list((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb")))
    for chapter, minutes in listed:
        assert re.search(rf"\b{minutes}\s+minutes\s+to\s+read", text_of(int(chapter)).split("\n## ")[0])


def test_what_the_landing_page_says_about_convolution_is_so():
    assert "know what a convolution" in INTRO.replace("\n", " ")
    assert "convolution" in text_of(3).split("\n## ")[0].lower()  # among what the chapter assumes
