"""The book as it is built: no warning, no dead link, no stranger's address, every module and chapter in its place."""

from __future__ import annotations

import html.parser
import importlib
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from browser import ROOT, build_book
from sample_chapter import sample_chapter

from seglib.book import figures
from seglib.book.figures.element import Figure, source
from seglib.book.normalise import normalise

STORED_FIGURE = re.compile(
    r'customElements\.get\("seg-([\w-]+)-[0-9a-f]{8}"\)\) return;\n(.*)\ncustomElements\.define\(', re.DOTALL
)
"""The name and the script of a moving figure in a cell's output."""

PUBLIC = "https://github.com/EXAMPLE/REPO"
SOURCES = ("_config.yml", "_toc.yml", "intro.md", "references.bib")

UNDOCUMENTED = (
    "seglib.cli",  # `seglib --help` documents it and its parts
    "seglib.commands.",
    "seglib.book.artwork",  # the rest are tools for authors, and the answers of the exercises
    "seglib.book.figures.architecture.",  # the package itself is documented
    "seglib.book.lint",
    "seglib.book.normalise",
    "seglib.book.notebooks",
    "seglib.book.page_figures",
    "seglib.book.palettes",
    "seglib.book.panels",
    "seglib.book.exercises",
    "seglib.book.experiments",
    "seglib.book.figures.element",
)


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    found = [toc["root"]]

    def collect(entries: list[dict]) -> None:
        for entry in entries:
            found.append(entry["file"])
            collect(entry.get("sections", []))

    for part in toc["parts"]:
        collect(part["chapters"])
    return found


class Page(html.parser.HTMLParser):
    """Addresses and anchors of one HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])
        elif tag == "link" and values.get("rel") not in ("canonical", "author"):
            self.loads.append(values.get("href", ""))


# Sources


def test_every_chapter_is_in_the_contents_and_on_the_map() -> None:
    listed, landing = toc_files(), (ROOT / "intro.md").read_text()
    for path in sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb")):
        assert f"chapters/{path.stem}" in listed
        assert f"(chapters/{path.name})" in landing or f"<chapters/{path.stem}>" in landing


def test_chapters_are_numbered_in_the_order_of_the_contents() -> None:
    numbers = [int(name.split("/")[1][:2]) for name in toc_files() if re.match(r"chapters/\d\d_", name)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_public_module_has_its_place_in_the_reference() -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "chapters" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    for path in sorted((ROOT / "seglib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts)
        if not any(part.startswith("_") for part in parts) and not name.startswith(UNDOCUMENTED):
            assert name in documented, f"add {name} to a page in chapters/api"


def all_subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from all_subclasses(child)


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "chapters").glob("[0-9]*.ipynb")), ROOT / "chapters" / "explorer.ipynb"],
    ids=lambda p: p.stem,
)
def test_stored_figures_have_the_script_of_today(path: Path) -> None:
    for module in pkgutil.walk_packages(figures.__path__, f"{figures.__name__}."):
        importlib.import_module(module.name)  # so that every class of figures is known
    shared = {(), *(cls.shared for cls in all_subclasses(Figure))}
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", []) if "data" in o]
    found = [m for o in outputs if (m := STORED_FIGURE.search(o["data"].get("text/html", "")))]
    assert found
    for tag, script in (m.groups() for m in found):
        name = tag.replace("-", "_")
        assert any(script == source(*files, name) for files in shared), f"{name} is an older one; run the notebook"


def test_no_source_names_a_home_but_the_one_setting() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    url = config["repository"]["url"]
    for path in [*ROOT.glob("*.md"), *(ROOT / "chapters").rglob("*.md"), *(ROOT / "chapters").glob("*.ipynb")]:
        text = path.read_text().replace("https://github.com/OWNER/NAME", "")
        for found in re.findall(r"https?://(?:github\.com|gitlab\.com|colab\.research\.google\.com)/[^\s\"')]+", text):
            assert url and url in found, f"{path.name} points at {found}"


# Built pages


def pages(folder: Path) -> dict[Path, Page]:
    """Every page; what lies in ``_static`` are the theme's templates."""
    found = (path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts)
    return {path: Page(path) for path in found}


@pytest.mark.slow
def test_it_builds_without_a_warning_and_every_page_is_there(built_book: Path) -> None:
    for name in toc_files():
        assert (built_book / f"{name}.html").is_file()


@pytest.mark.slow
def test_internal_links_lead_somewhere(built_book: Path) -> None:
    parsed = pages(built_book)
    dead = []
    for path, page in parsed.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dead.append(f"{path.relative_to(built_book)}: {link}")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                dead.append(f"{path.relative_to(built_book)}: {link} (no such anchor)")
    assert dead == []


@pytest.mark.slow
def test_pages_load_nothing_from_another_host(built_book: Path) -> None:
    loads = {load for page in pages(built_book).values() for load in page.loads}
    assert {load for load in loads if urlsplit(load).netloc} == set()


@pytest.mark.slow
def test_every_picture_on_a_page_has_alt_text(built_book: Path) -> None:
    for path in sorted(built_book.rglob("*.html")):
        for tag in re.findall(r"<img[^>]*>", path.read_text(encoding="utf-8")):
            # The logo stands beside the title, so its alt text is empty on purpose; plus and minus are Sphinx's own.
            ornament = re.search(r"logo\.svg|_static/(plus|minus)\.png", tag)
            assert ornament or re.search(r'alt="[^"]{5,}"', tag), f"{path.name}: {tag[:200]}"


def small_book(folder: Path, url: str) -> Path:
    """A copy of the book with one made chapter, no reference pages, and ``url`` as its home; the built pages."""
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    ignore = shutil.ignore_patterns("*.ipynb", "results", "weights")
    shutil.copytree(ROOT / "chapters", folder / "chapters", ignore=ignore)
    config = yaml.safe_load((folder / "_config.yml").read_text())
    config["repository"]["url"] = url
    config["html"]["baseurl"] = "https://example.org/book/" if url else ""
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    (folder / "intro.md").write_text("# Book\n\nA page.\n")
    contents = {"format": "jb-book", "root": "intro", "chapters": [{"file": "chapters/sample"}]}
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents))
    (folder / "chapters" / "sample.ipynb").write_text(normalise(sample_chapter(), url))
    return build_book(folder, folder)


BUTTONS = ("colab", "launch-button", "source-repository-button", "issues/new", "/edit/", "Suggest edit", "Open issue")


@pytest.mark.slow
def test_without_a_public_home_no_button_points_anywhere(built_book: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    if config["repository"]["url"]:
        pytest.skip("this copy of the book has a public home")
    for path in sorted(built_book.rglob("*.html")):
        header = re.search(r'<div class="header-article__inner">.*?</header>|$', path.read_text(), re.DOTALL)
        assert header and not [word for word in BUTTONS if word in header[0]], path.name
        for link in Page(path).links:
            assert urlsplit(link).netloc not in ("github.com", "gitlab.com", "colab.research.google.com"), (path, link)


@pytest.mark.slow
def test_with_a_public_home_each_notebook_has_its_buttons(tmp_path: Path) -> None:
    built = small_book(tmp_path, PUBLIC)
    links = Page(built / "chapters" / "sample.html").links
    assert "https://colab.research.google.com/github/EXAMPLE/REPO/blob/main/chapters/sample.ipynb" in links
    assert PUBLIC in links
    assert f"{PUBLIC}/edit/main/chapters/sample.ipynb" in links
    assert any(link.startswith(f"{PUBLIC}/issues/new") for link in links)
    assert not [link for link in Page(built / "intro.html").links if "colab" in link]  # a text page has nothing to run
    source = (built / "chapters" / "sample.html").read_text()
    assert f"git+{PUBLIC}" in re.sub(r"<[^>]+>", "", source)
    assert 'property="og:image" content="https://example.org/book/_static/one_scene.png"' in source
    strangers = {urlsplit(link).netloc for page in pages(built).values() for link in page.links}
    assert strangers <= {"", "github.com", "colab.research.google.com"}


@pytest.mark.slow
def test_a_warning_fails_the_build(tmp_path: Path) -> None:
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "_config.yml").write_text("title: x\n")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (folder / "intro.md").write_text("# Title\n\n{doc}`nowhere`\n")
    with pytest.raises(AssertionError, match="nowhere"):
        build_book(folder, folder)
