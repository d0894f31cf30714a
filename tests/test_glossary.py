"""The glossary: its entries are in order and used, chapters lead to it at the first use, and it leads back."""

import json
import re
import sys
from pathlib import Path

import pytest
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "chapters" / "_ext"))

import bookterms  # noqa: E402

TEXT = (ROOT / "chapters" / "glossary.md").read_text(encoding="utf-8")


def page(*paragraphs):
    document = new_document("chapters/03_fcn")
    for paragraph in paragraphs:
        document += nodes.paragraph("", "", *(nodes.Text(p) if isinstance(p, str) else p for p in paragraph))
    return document


def used(document, names):
    return [(match[0], name) for _, match, name in bookterms.first_uses(document, names)]


def test_entries_stand_in_alphabetical_order_and_each_name_once():
    entries = bookterms.entries(TEXT)
    assert len(entries) > 70
    assert [e[0].lower() for e in entries] == sorted(e[0].lower() for e in entries)
    names = [name.lower() for entry in entries for name in entry]
    assert sorted(names) == sorted(set(names))


def test_every_entry_has_a_definition_that_is_a_sentence():
    block = re.search(r"```\{glossary\}\n(.*?)```", TEXT, re.DOTALL)[1]
    for entry in block.strip().split("\n\n"):
        definition = [line for line in entry.splitlines() if line.startswith("  ")]
        assert definition and definition[-1].rstrip().endswith("."), entry


def test_every_entry_is_used_in_a_chapter():
    words = []
    for path in sorted((ROOT / "chapters").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        words += ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    text = re.sub(r"`[^`]*`|\$[^$]*\$", " ", "\n".join(words))
    assert [e for e in bookterms.entries(TEXT) if not bookterms.pattern(e).search(text)] == []


def test_only_the_first_use_of_a_term_is_found_whichever_name_it_has():
    names = [["average precision", "AP"], ["precision"]]
    document = page(["Precision, and AP."], ["Average\nprecision is AP; precision again."])
    assert used(document, names) == [("Precision", "precision"), ("AP", "AP")]
    assert used(page(["Average\nprecision."]), names) == [("Average\nprecision", "average precision")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two anchors.", ["anchors"]),
        ("Object queries ask.", ["Object queries"]),
        ("An anchor-free detector, anchorage.", []),
        ("the ap of it, maps, FCN-8s, fcn.x", []),
        ("RoIs, not rois", ["RoIs"]),
        ("half precision, in a crowd", []),
        ("its precision in a crowded scene", ["precision"]),
        ("over the\ncrowd, then a crowd", ["crowd"]),
    ],
)
def test_words_are_whole_and_mean_the_term(text, found):
    names = [["anchor"], ["object query"], ["AP"], ["FCN"], ["RoI"], ["precision"], ["crowd"]]
    assert [match for match, _ in used(page([text]), names)] == found


def test_code_formulas_links_tables_and_titles_are_left_alone():
    document = page(
        [nodes.literal("", "anchor"), " ", nodes.math("", "anchor"), " ", nodes.reference("", "anchor", refuri="x")]
    )
    document += nodes.title("", "anchor")
    document += nodes.table("", nodes.tgroup("", nodes.tbody("", nodes.row("", nodes.entry("", *page(["anchor"]))))))
    assert used(document, [["anchor"]]) == []
    document += nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "", nodes.strong("", "Anchors"))))
    assert used(document, [["anchor"]]) == [("Anchors", "anchor")]


def test_a_page_without_a_glossary_has_no_entries():
    assert bookterms.entries("# Title\n\ntext") == []


@pytest.mark.slow
def test_a_term_leads_to_the_glossary_and_the_glossary_back(book_url, open_page):
    visit = open_page(f"{book_url}/chapters/07_boxes.html")
    term = visit.page.locator("a:has(> .std-term)", has_text=re.compile("^anchors?$")).first
    here = term.locator("span").get_attribute("id")
    term.focus()
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/chapters/glossary.html#term-anchor")
    numbers = visit.page.locator("dt#term-anchor + dd .term-chapters a")
    assert "7" in numbers.all_inner_texts()
    visit.page.locator("dt#term-anchor + dd .term-chapters a", has_text=re.compile("^7$")).click()
    visit.page.wait_for_url(f"**/chapters/07_boxes.html#{here}")
    assert visit.problems() == []


@pytest.mark.slow
def test_every_first_use_leads_to_its_own_entry(built_book):
    for path in sorted((built_book / "chapters").glob("[0-9]*.html")):
        page = path.read_text(encoding="utf-8")
        links = re.findall(
            r'href="glossary\.html#(term-[^"]+)"><span class="xref std std-term" id="(term-[^"]+)"', page
        )
        assert len(links) >= 5, path.name
        assert len({name for _, name in links}) == len(links), f"{path.name} links a term twice"
        assert all(page.count(f'id="{name}"') == 1 for _, name in links), path.name


@pytest.mark.slow
def test_paper_is_light_and_has_what_waits_for_a_guess(book_url, open_page):
    visit = open_page(f"{book_url}/chapters/09_average_precision.html", dark=True)
    theme = "document.documentElement.dataset.theme"
    waiting = visit.page.locator(".tag_after-guess:not(.unfolded) .cell_output").first
    assert not waiting.is_visible() and visit.page.evaluate(theme) == "dark"
    visit.page.emulate_media(media="print")
    visit.page.wait_for_function(f"{theme} === 'light'")
    assert waiting.is_visible()
    assert not visit.page.locator("details:not([open]) > summary, .guess-waits button").locator("visible=true").count()
    visit.page.emulate_media(media="screen")
    visit.page.wait_for_function(f"{theme} === 'dark'")
    assert not waiting.is_visible()


@pytest.mark.slow
def test_a_link_into_text_that_waits_leads_to_the_line_that_stands_for_it(book_url, open_page):
    visit = open_page(f"{book_url}/chapters/09_average_precision.html")
    target = visit.page.evaluate(
        "() => { const p = document.querySelector('p.waits'); p.id ||= 'waiting-text'; return p.id }"
    )
    visit.page.evaluate(f"location.hash = '{target}'")
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.guess-waits')].some(e => {"
        " const {top, bottom} = e.getBoundingClientRect(); return top > 0 && bottom < innerHeight })"
    )


@pytest.mark.slow
def test_the_book_works_from_a_folder_without_a_server(built_book, open_page):
    visit = open_page(f"file://{built_book}/chapters/07_boxes.html")
    visit.page.locator("figure, seg-nms, [data-params]").first.wait_for()
    visit.page.locator("a:has(> .std-term)").first.click()
    visit.page.wait_for_url("**/glossary.html#*")
    assert visit.problems() == []
