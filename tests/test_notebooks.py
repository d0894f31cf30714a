"""The notebook tool: normal form, lint, execution. And the chapters themselves: each is in normal form and passes."""

from __future__ import annotations

import base64
import builtins
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from PIL import Image
from sample_chapter import code, markdown, sample_chapter

from seglib.book import notebooks
from seglib.book.lint import STATIONS, lint
from seglib.book.live import WIDGET_MIME
from seglib.book.normalise import CHECKED_TAG, is_setup, normalise, setup_source

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def noise(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)


def image_output(pixels: np.ndarray | None = None) -> NotebookNode:
    data = {"image/png": png(noise() if pixels is None else pixels), "text/plain": "<Figure size 640x480 with 1 Axes>"}
    return nbformat.v4.new_output("display_data", data)


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


def executed_sample() -> NotebookNode:
    """The sample chapter as it is after a run, made without a kernel."""
    notebook = nbformat.reads(normalise(sample_chapter()), 4)
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        cell.outputs = [image_output()] if "plt." in cell.source else [printed("14\n")]
    return nbformat.reads(normalise(notebook), 4)


def only(cell: NotebookNode) -> NotebookNode:
    """The normal form of ``cell`` alone."""
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return nbformat.reads(normalise(notebook), 4).cells[-1]


# The chapters


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_in_normal_form_and_keeps_the_rules(path: Path) -> None:
    assert notebooks.check(path, notebooks.repository_url(ROOT)) == []


# Normal form


def test_normalising_twice_changes_nothing() -> None:
    once = normalise(executed_sample())
    assert normalise(nbformat.reads(once, 4)) == once


def test_ids_counts_and_metadata_do_not_depend_on_who_ran_it() -> None:
    def run_by(count: int, time: str) -> str:
        cell = code("1 + 1", tags=("a",))
        cell.metadata.update({"execution": {"started": time}, "collapsed": True, "ExecuteTime": time})
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=count)]
        notebook = nbformat.v4.new_notebook(cells=[markdown("# T"), cell])
        notebook.metadata = {"kernelspec": {"name": f"venv{count}", "display_name": "x"}, "widgets": {"state": {}}}
        return normalise(notebook)

    assert run_by(3, "10:00") == run_by(17, "11:30")
    cells = nbformat.reads(run_by(3, "10:00"), 4).cells
    assert [cell.id for cell in cells] == ["c000", "c001", "c002"]
    assert cells[2].execution_count == cells[2].outputs[0].execution_count == 2
    assert cells[2].metadata == {"tags": ["a"]}


def test_a_cell_that_did_not_run_stays_without_a_count() -> None:
    assert only(code("1 + 1")).execution_count is None


def test_printed_pieces_are_merged_and_overwritten_lines_dropped() -> None:
    cell = code("…")
    cell.outputs = [printed("10 %\r50 %\r100 %\n"), printed("done\n"), printed("careful\n", "stderr"), printed("end\n")]
    assert [(out.name, out.text) for out in only(cell).outputs] == [
        ("stdout", "100 %\ndone\n"),
        ("stderr", "careful\n"),
        ("stdout", "end\n"),
    ]


@pytest.mark.parametrize("channels", [3, 4], ids=["opaque", "with alpha"])
def test_images_keep_at_most_256_colours_and_their_alpha(channels: int) -> None:
    pixels = noise(channels)
    cell = code("…")
    cell.outputs = [image_output(pixels)]
    small = Image.open(io.BytesIO(base64.b64decode(only(cell).outputs[0].data["image/png"])))
    assert small.mode == "P" and len(small.getcolors(256) or []) <= 256
    back = np.asarray(small.convert("RGBA"), dtype=float)
    # Random colours are the worst case: 256 of them lie about 20 of 255 levels from a random one.
    assert abs(back[..., :3] - pixels[..., :3]).mean() < 30
    assert (channels == 4) == (back[..., 3].min() < 200)


def test_a_live_widget_is_stored_as_its_image() -> None:
    cell = code("…")
    cell.outputs = [image_output()]
    cell.outputs[0].data[WIDGET_MIME] = {"model_id": "a1b2"}
    assert set(only(cell).outputs[0].data) == {"image/png", "text/plain"}


def test_a_folded_solution_is_called_one_on_the_page() -> None:
    notebook = executed_sample()
    shown = [cell.metadata["mystnb"]["code_prompt_show"] for cell in notebook.cells if "required=True)" in cell.source]
    assert shown == ["Show a solution"] * 3
    assert "mystnb" not in find(notebook, 'check("first", double)').metadata


# The setup cell


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("drawing", "the drawing code"),
        ("proof", "the check"),
        ("trial", "the trial run"),
        ("data", "the preparation"),
    ],
)
def test_a_cell_that_is_not_the_idea_is_folded_under_its_own_words(role: str, words: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[code("x = 1", tags=(role, CHECKED_TAG, "hide-cell")), code("y = 2")])
    first = normalise(notebook)
    cell, other = (c for c in notebook.cells if not is_setup(c))
    assert cell.metadata["tags"] == [role, CHECKED_TAG, "hide-input"]
    assert cell.metadata["mystnb"] == {"code_prompt_show": f"Show {words}", "code_prompt_hide": f"Hide {words}"}
    assert "tags" not in other.metadata and "mystnb" not in other.metadata
    assert normalise(nbformat.reads(first, as_version=4)) == first


def test_the_code_of_a_guess_is_left_out_of_the_page_and_hidden_in_jupyterlab_and_colab() -> None:
    notebook = nbformat.v4.new_notebook(cells=[code("guess.number('a', 'How many?', answer=3)", tags=("guess",))])
    first = normalise(notebook)
    cell = next(c for c in notebook.cells if not is_setup(c))
    assert cell.metadata["tags"] == ["guess", "remove-input"]
    assert cell.metadata["jupyter"] == {"source_hidden": True} and cell.metadata["cellView"] == "form"
    assert normalise(nbformat.reads(first, as_version=4)) == first


def test_nbvals_comment_becomes_its_tag() -> None:
    notebook = nbformat.v4.new_notebook(cells=[code("# NBVAL_CHECK_OUTPUT\nprint(1)")])
    normalise(notebook)
    cell = next(c for c in notebook.cells if not is_setup(c))
    assert cell.source == "print(1)" and cell.metadata["tags"] == [CHECKED_TAG]


@pytest.mark.parametrize("url", ["", "https://github.com/EXAMPLE/REPO", "file:///somewhere/clone"])
def test_the_setup_cell_is_short_and_stands_before_all_code(url: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[markdown("# T"), markdown("text"), code("1"), code("2")])
    cells = nbformat.reads(normalise(notebook, url), 4).cells
    setups = [i for i, cell in enumerate(cells) if "setup" in cell.metadata.get("tags", [])]
    assert setups == [1] and cells[1].source == setup_source(url)
    assert cells[1].source.count("\n") < 15
    assert ("pip install" in cells[1].source and url in cells[1].source) or not url


def test_another_repository_changes_the_cell_but_not_its_place() -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[markdown("# T"), markdown("# U"), code("old", tags=("setup",)), code("1")]
    )
    cells = nbformat.reads(normalise(notebook, "https://example.org/a"), 4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "markdown", "code", "code"]
    assert "git+https://example.org/a" in cells[2].source


@pytest.mark.parametrize("url", ["github.com/a/b", "ssh://a/b", 'https://a/" b', "https://a/{b}"])
def test_a_url_that_pip_could_not_use_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="repository URL must start with https:// or file://"):
        setup_source(url)


def test_without_a_repository_the_setup_cell_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_seglib(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "seglib":
            raise ModuleNotFoundError("No module named 'seglib'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_seglib)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[book\]'.*restart this notebook's kernel"):
        exec(setup_source(""), {})


# Lint


def test_the_sample_chapter_keeps_all_rules() -> None:
    assert lint(executed_sample()) == []


def find(notebook: NotebookNode, text: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if text in cell.source)


def edit(text: str, old: str, new: str) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        cell = find(notebook, text)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def swap_stations(notebook: NotebookNode) -> None:
    one, two = find(notebook, "## It is the real thing"), find(notebook, "## The whole system")
    one.source, two.source = two.source, one.source


def drop_alt(notebook: NotebookNode) -> None:
    del find(notebook, "plt.show()").metadata["mystnb"]


def unfold(notebook: NotebookNode) -> None:
    find(notebook, "plt.show()").metadata["tags"] = []


def two_images(notebook: NotebookNode) -> None:
    find(notebook, "plt.show()").outputs.append(image_output())


def outputs(*new: NotebookNode) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        find(notebook, "x * x").outputs = list(new)

    return change


def not_run(notebook: NotebookNode) -> None:
    find(notebook, "x * x").execution_count = None


def open_solution(notebook: NotebookNode) -> None:
    del find(notebook, '"first", double, required').metadata["tags"]


def drop(text: str) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        notebook.cells.remove(find(notebook, text))

    return change


def move_before(text: str, place: str) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        cell = find(notebook, text)
        notebook.cells.remove(cell)
        notebook.cells.insert(notebook.cells.index(find(notebook, place)), cell)

    return change


def add(cell: NotebookNode) -> Callable[[NotebookNode], None]:
    if cell.cell_type == "code":
        cell.execution_count = 1
    return lambda notebook: notebook.cells.append(cell)


widget = nbformat.v4.new_output("display_data", {WIDGET_MIME: {"model_id": "a"}, "text/plain": "HBox()"})
address = nbformat.v4.new_output("execute_result", {"text/plain": "<Line2D at 0x7f12ab34cd56>"}, execution_count=1)
failure = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edit("# A sample", "# A sample", "A sample"), "start with a text cell whose first line is the title"),
        (edit("# A sample", "assumes", "needs"), "does not say what the chapter assumes"),
        (edit("# A sample", "GPU", "fast machine"), "does not say the time on a GPU"),
        (drop("book.setup"), "the first code cell is not the setup cell"),
        (edit("## By hand", "## By hand", "## With a pencil"), "station '2. By hand' has no level-2 heading"),
        (edit("## By hand", "## By hand", "### By hand"), "station '2. By hand' has no level-2 heading"),
        (swap_stations, "station '5. The whole system' stands too early"),
        (drop_alt, "shows an image without alt text"),
        (two_images, "shows 2 images, but alt text is for one"),
        (edit("x * x", "print('done')", "\n".join(["pass"] * 30)), "31 lines; at most 25"),
        (edit("x * x", "'done'", "'/home/me/x'"), "names a path of one machine"),
        (edit("x * x", "'done'", "'C:\\\\data'"), "names a path of one machine"),
        (edit("x * x", "'done'", "'https://example.org'"), "asks the network ('https://')"),
        (edit("x * x", "print('done')", "from torch.hub import load_state_dict_from_url"), "asks the network"),
        (edit("x * x", "print('done')", "print('done');"), "ends with ';'"),
        (not_run, "1 code cell(s) not executed"),
        (outputs(failure), "stores an error: ValueError: no"),
        (outputs(printed("UserWarning: careful\n", "stderr")), "writes to stderr: 'UserWarning: careful'"),
        (outputs(printed("saved /tmp/a.png\n")), "prints a path of one machine"),
        (outputs(address), "prints a memory address"),
        (outputs(widget), "shows a widget without an image of it"),
        (open_solution, "the solution of 'first' is open"),
        (drop('"second", double, required'), "exercise 'second' has no solution cell"),
        (drop('check("second", double)'), "3 exercises but 2 different"),
        (drop("{exercise} The third"), "2 exercises; a chapter has 3 to 6"),
        (
            move_before("{exercise} The third", "## Exercises"),
            "1 exercises before station 8; a chapter has 3 to 6 pieces",
        ),
        (unfold, "shows drawing code ('plt.')"),
        (edit("x * x", "print('done')", "assert True"), "shows an assertion"),
        (edit("x * x", "'done'", "'done'  # " + "a" * 80), "1 line(s) over 88 characters"),
        (outputs(printed("word " * 20 + "\n")), "prints lines over 88 characters"),
        (add(markdown("**Before you run it:** how many?")), "asks for a prediction ('before you run it'), but no"),
        (
            add(code("guess.number('a', 'How many?', answer=3)", tags=("hide-input",))),
            "a guess without the tag 'guess'",
        ),
        (add(code("guess.number('a', 'How many?', answer=3)", tags=("guess",))), "the guess 'a' is never settled"),
        (add(code("guess.settle('b', 3)", tags=("proof", "hide-input"))), "guess.settle('b', …) has no guess"),
        (add(markdown("With skips the network works best.")), "judges ('works best') without a paired interval"),
        (add(markdown("They report 59.4 {cite}`long2015fcn`.")), "quotes a paper's number ('59.4') without its table"),
        (add(markdown("```python\nx = 1  # " + "a" * 90 + "\n```")), "holds code of 99 characters a line (at most 88)"),
        (add(markdown("word " * 200)), "a paragraph of 999 characters"),
        (add(markdown("![](a.png)")), "holds an image with the alt text ''"),
        (add(markdown("```{figure} a.png\n:name: a\n```")), "holds an image directive without `:alt:`"),
    ],
)
def test_lint_names_each_broken_rule(change: Callable[[NotebookNode], None], sentence: str) -> None:
    notebook = executed_sample()
    change(notebook)
    assert any(sentence in problem for problem in lint(notebook)), lint(notebook)


@pytest.mark.parametrize(
    "cell",
    [
        markdown("```python\n## not a heading\nprint('a long block')\n```\n\n" + "- " + "a list item " * 100),
        markdown("| a | b |\n| --- | --- |\n" + "| cell | cell |\n" * 80),
        markdown("$$\n" + "x + " * 300 + "x\n$$"),
        markdown("With skips the network works best: +2.1 ± 0.4 points."),
        markdown("They report 59.4 in Table 2 {cite}`long2015fcn`."),
        code("assert True", tags=("proof", "hide-input")),
        markdown("See [the page](https://example.org) and ![A curve that rises](a.png)."),
        code("a = 1 / 2  # and a path/like/this\nb = '</p>'\nprint(a, b)"),
        code("values = {'root': '/', 'relative': 'content/tmp/x'}"),
    ],
)
def test_lint_lets_ordinary_cells_pass(cell: NotebookNode) -> None:
    notebook = executed_sample()
    add(cell)(notebook)
    assert lint(notebook) == []


def page_of_results() -> NotebookNode:
    """The sample without its stations and exercises."""
    notebook = executed_sample()
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not cell.source.startswith("## ") and "exercise" not in cell.source and "check(" not in cell.source
    ]
    return notebook


def test_a_page_of_results_has_neither_stations_nor_exercises() -> None:
    assert lint(page_of_results(), chapter=False) == []
    problems = lint(page_of_results())
    assert len([p for p in problems if "has no level-2 heading" in p]) == len(STATIONS)
    assert any(p.startswith("0 exercises; a chapter has") for p in problems)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edit("# A sample", "assumes", "needs"), "does not say what the chapter assumes"),
        (drop_alt, "shows an image without alt text"),
        (edit("x * x", "print('done')", "assert True"), "shows an assertion"),
        (not_run, "1 code cell(s) not executed"),
        (add(markdown("With skips the network works best.")), "judges ('works best') without a paired interval"),
        (add(markdown("They report 59.4 {cite}`long2015fcn`.")), "quotes a paper's number ('59.4') without its table"),
    ],
)
def test_all_other_rules_hold_for_a_page_of_results(change: Callable[[NotebookNode], None], sentence: str) -> None:
    notebook = page_of_results()
    change(notebook)
    assert any(sentence in problem for problem in lint(notebook, chapter=False))


def test_a_notebook_without_a_number_is_checked_as_a_page_of_results(tmp_path: Path) -> None:
    for name, right in (("board.ipynb", True), ("01_board.ipynb", False)):
        (tmp_path / name).write_text(normalise(page_of_results()))
        assert (notebooks.check(tmp_path / name, "") == []) == right


def test_headings_may_carry_a_subject() -> None:
    notebook = executed_sample()
    for name, _ in STATIONS:
        title = name.split(". ")[1]
        cell = next(c for c in notebook.cells if c.cell_type == "markdown" and c.source.startswith(f"## {title}"))
        cell.source = cell.source.replace(f"## {title}", f"## 3.1 {title}: six pixels")
    assert lint(notebook) == []


def test_an_exercise_may_have_its_solution_between_gates() -> None:
    notebook = executed_sample()
    cell = find(notebook, '"first", double, required')
    del cell.metadata["tags"]
    place = notebook.cells.index(cell)
    notebook.cells.insert(place, markdown("```{solution-start} sample-first\n:class: dropdown\n```"))
    notebook.cells.insert(place + 2, markdown("```{solution-end}\n```"))
    assert lint(notebook) == []


# The tool


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    (tmp_path / "_config.yml").write_text('repository:\n  url: ""\n')
    (tmp_path / "chapters").mkdir()
    return tmp_path


def test_check_reports_a_notebook_that_is_not_in_normal_form(
    small_book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_book / "chapters")
    path = small_book / "chapters" / "01_a.ipynb"
    path.write_text(normalise(executed_sample()))
    assert notebooks.main(["check"]) == 0
    path.write_text(path.read_text().replace('"c002"', '"mine"'))
    assert notebooks.main(["check"]) == 1
    assert "01_a.ipynb: not in normal form" in capsys.readouterr().out
    assert notebooks.main(["normalise"]) == 0
    assert notebooks.main(["check"]) == 0
    assert notebooks.main(["check", "--repository", "https://example.org/x"]) == 1


def test_the_tool_explains_bad_input(
    tmp_path: Path, small_book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_book)
    broken = small_book / "chapters" / "broken.ipynb"
    broken.write_text("{not json")
    assert notebooks.main(["check"]) == 2
    assert "broken.ipynb is not a valid notebook" in capsys.readouterr().err
    assert notebooks.main(["normalise", "absent.ipynb"]) == 2
    assert "absent.ipynb" in capsys.readouterr().err


def test_an_empty_book_is_fine(small_book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_book)
    assert notebooks.main(["check"]) == 0


@pytest.mark.slow
def test_running_again_gives_the_same_bytes(
    small_book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_book)
    path = small_book / "chapters" / "01_a.ipynb"
    path.write_text(nbformat.writes(sample_chapter()))
    assert notebooks.main(["run"]) == 0 and ": changed" in capsys.readouterr().out
    first = path.read_bytes()
    assert b"image/png" in first and b"14" in first
    assert notebooks.main(["run"]) == 0 and ": unchanged" in capsys.readouterr().out
    assert path.read_bytes() == first
    assert notebooks.main(["check"]) == 0


@pytest.mark.slow
def test_a_cell_that_raises_stops_the_run_and_leaves_the_file(small_book: Path) -> None:
    path = small_book / "chapters" / "01_a.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[code("1 / 0"), code("print('never')")])))
    before = path.read_bytes()
    command = [sys.executable, "-m", "seglib.book.notebooks", "run"]
    result = subprocess.run(command, cwd=small_book, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "ZeroDivisionError" in result.stderr
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["01_a.ipynb"]
