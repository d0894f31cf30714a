"""The landing page promises what the chapters hold."""

import re
from pathlib import Path

import nbformat
import reading_times
from sample_chapter import code, markdown

ROOT = Path(__file__).resolve().parents[1]
INTRO = (ROOT / "intro.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^\| (\d+)\. \[.*\| (\d+) min \| (\d+) min \|$", INTRO, re.MULTILINE)


def text_of(chapter):
    cells = nbformat.read(next((ROOT / "chapters").glob(f"{chapter:02}_*.ipynb")), as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_the_four_answers_are_those_of_chapter_1():
    title, *answers = re.findall(r"^\*\*([^*]+)\.\*\*", INTRO, re.MULTILINE)
    rows = re.findall(r"^\| \*\*(\w+)\*\* \|", text_of(1), re.MULTILINE)
    assert title in text_of(1).splitlines()[0]
    assert [a.lower() for a in answers] == rows and len(rows) == 4


def test_reading_times_are_those_of_the_chapters():
    assert [int(chapter) for chapter, *_ in LISTED] == list(range(1, len(reading_times.notebooks()) + 1))
    for chapter, minutes, _ in LISTED:
        assert re.search(rf"\b{minutes}\s+minutes\s+to\s+read", text_of(int(chapter)).split("\n## ")[0])


def test_times_are_those_of_what_is_in_the_chapters():
    for path, (_, read, write) in zip(reading_times.notebooks(), LISTED, strict=True):
        reading, exercises = reading_times.minutes(path)
        assert abs(int(read) - reading) <= 20, f"{path.stem}: {read} min on the map, {reading:.0f} estimated"
        assert abs(int(write) - exercises) <= 10, f"{path.stem}: {write} min on the map, its exercises say {exercises}"


def test_reading_time_counts_what_is_open_and_exercises_their_own_minutes(tmp_path):
    def minutes(*cells):
        nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), tmp_path / "a.ipynb")
        return reading_times.minutes(tmp_path / "a.ipynb")

    assert minutes(markdown("word " * 400)) == (2, 0)
    assert minutes(code("a = 1\n\n" * 12)) == (1, 0)
    assert minutes(code("a = 1\n" * 12, tags=("proof", "hide-input"))) == (0, 0)
    assert minutes(code("guess.number()", tags=("guess", "remove-input"))) == (0.5, 0)
    exercise = f"::::{{exercise}} Double\n★, 7 minutes. {'word ' * 400}\n::::"
    stub = code("def f(x):\n    raise NotImplementedError")
    assert minutes(markdown(exercise), stub, markdown(exercise)) == (0, 14)


def test_what_the_landing_page_says_about_convolution_is_so():
    assert "know what a convolution" in INTRO.replace("\n", " ")
    assert "convolution" in text_of(3).split("\n## ")[0].lower()  # among what the chapter assumes
