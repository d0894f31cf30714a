"""The page with all systems: it stands in the book, names every system, and fails when one is missing."""

import copy
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from seglib import book
from seglib.book import results
from seglib.book.experiments.scoreboard import BOARDS, absent
from seglib.book.results import read_results
from seglib.models.zoo import MODELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "chapters" / "_ext"))

import bookterms  # noqa: E402

CELLS = nbformat.read(ROOT / "chapters" / "scoreboard.ipynb", as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
STORED = read_results(ROOT / "chapters" / "results" / "scoreboard.json")
PLACES = [(task, name) for task, board in BOARDS.items() for name in board.systems]


def without(task, name):
    found = copy.deepcopy(STORED)
    found["tasks"][task]["systems"] = [r for r in found["tasks"][task]["systems"] if r["system"] != name]
    return found


def test_it_is_the_last_page_before_the_reference():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    captions = [part["caption"] for part in parts]
    here = captions.index("Reference") - 1
    assert parts[here]["chapters"][-1] == {"file": "chapters/scoreboard"}
    assert "numbered" not in parts[here]  # it is no chapter, so the start page asks for no progress in it


@pytest.mark.parametrize("page", ["intro.md", "README.md", "chapters/how_to_use.md"])
def test_other_pages_lead_to_it(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "scoreboard`" in text or "(chapters/scoreboard.ipynb)" in text


def test_it_names_every_tiny_system_with_stored_weights_and_leads_to_its_chapter():
    weights = {name for name in MODELS if (ROOT / "chapters" / "weights" / f"{name}.safetensors").exists()}
    assert weights and not [name for name in sorted(weights) if f"`{name}`" not in TEXT]
    for chapter in ("03", "04", "05", "10", "11", "12", "14", "16", "17", "18", "19"):
        (path,) = (ROOT / "chapters").glob(f"{chapter}_*.ipynb")
        assert f"`{path.stem}`" in TEXT or f"<{path.stem}>" in TEXT


def test_the_stored_result_has_every_system():
    assert absent(STORED) == []


@pytest.mark.parametrize(("task", "name"), PLACES)
def test_a_missing_system_is_named(task, name):
    assert absent(without(task, name)) == [f"{task}: {name}"]


def run_to_the_first_check(found, monkeypatch):
    """Execute the page up to its first check, as if ``found`` were the stored result of the scoreboard."""
    stored = results.read_results
    monkeypatch.setattr(results, "read_results", lambda path: found if "scoreboard" in str(path) else stored(path))
    names = {"book": book}
    for cell in CELLS:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "setup" not in tags:
            exec(cell.source, names)
        if "proof" in tags:
            return


def test_the_page_fails_where_a_system_is_missing(monkeypatch):
    run_to_the_first_check(STORED, monkeypatch)
    with pytest.raises(AssertionError):
        run_to_the_first_check(without("instance", "solov2_tiny"), monkeypatch)
    with pytest.raises(AssertionError):
        run_to_the_first_check(without("panoptic", "mask2former_tiny"), monkeypatch)


def test_its_terms_lead_to_the_glossary_but_are_in_no_chapters_index():
    assert bookterms.LINKED.match("chapters/scoreboard") and bookterms.LINKED.match("chapters/03_fcn")
    assert not bookterms.CHAPTER.match("chapters/scoreboard") and not bookterms.LINKED.match("chapters/notation")


def test_tables_fit_a_phone_and_every_row_of_the_result_is_in_one():
    tables = [o.data["text/html"] for c in CELLS for o in c.get("outputs", []) if "text/html" in o.get("data", {})]
    assert len(tables) == 11
    assert all(2 <= table.count("<th ") <= 4 for table in tables)
    assert sum(table.count("<tr") - 1 for table in tables if "ms per image" in table) == len(PLACES)
