"""Links between chapters and the reference, found by reading the chapters' code.

A chapter that imports ``seglib.layers.aspp.ASPP`` gets a link to its entry in a list at its end, and the entry gets a
link to the chapter. Nothing is written by hand.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

CHAPTERS = "chapters/[0-9][0-9]_*.ipynb"
OUTSIDE = ("seglib.book",)  # every chapter uses it, and it says nothing about the subject


@dataclass(frozen=True)
class Chapter:
    """A chapter: name of its page, number, title, and what of ``seglib`` its code names."""

    page: str
    number: int
    title: str
    names: frozenset[str]


@cache
def chapters(source: Path) -> tuple[Chapter, ...]:
    """The chapters below ``source``, in order."""
    found = []
    for path in sorted(source.glob(CHAPTERS)):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        title = re.sub(r"[`*]", "", text[0].splitlines()[0].lstrip("# "))
        page = path.relative_to(source).with_suffix("").as_posix()
        found.append(Chapter(page, int(path.name[:2]), title, names_in(code)))
    return tuple(found)


def names_in(cells: list[str]) -> frozenset[str]:
    """Full names of what the cells take from ``seglib``, each where it is defined: ``seglib.viz.figures.legend``."""
    modules: dict[str, str] = {}  # name in the notebook -> module of seglib
    found: set[str] = set()
    for tree in filter(None, map(_parsed, cells)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "seglib":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    if _module(full):
                        modules[alias.asname or alias.name] = full
                    else:
                        found.add(full)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "seglib":
                        modules[alias.asname or "seglib"] = alias.name if alias.asname else "seglib"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found |= set(_through_modules(node, modules))
    defined = {_defined(name) for name in found}
    return frozenset(name for name in defined if name and not name.startswith(OUTSIDE))


def _parsed(cell: str) -> ast.Module | None:
    try:
        return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell))
    except SyntaxError:  # a stub for the reader may be incomplete
        return None


def _through_modules(node: ast.Attribute, modules: dict[str, str]) -> Iterator[str]:
    """``viz.legend`` as ``seglib.viz.legend`` when ``viz`` is a module of the package."""
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.insert(0, inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name) and inner.id in modules:
        name = modules[inner.id]
        for part in parts:
            name = f"{name}.{part}"
            if not _module(name):
                yield name
                return


@cache
def _module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@cache
def _defined(name: str) -> str | None:
    """Where the object of that name is defined; a constant is where it was imported from. None for what isn't there."""
    module, _, attribute = name.rpartition(".")
    try:
        thing = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    for other in (module, *_below(module)):  # a constant that a package passes on
        if re.search(rf"(?m)^{attribute}\b", inspect.getsource(importlib.import_module(other))):
            return f"{other}.{attribute}"
    return name


def _below(package: str) -> Iterator[str]:
    path = getattr(importlib.import_module(package), "__path__", [])
    return (f"{package}.{found.name}" for found in pkgutil.iter_modules(path) if not found.name.startswith("_"))


def say_where_used(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Append to an entry of the reference the chapters that use it."""
    if what not in ("function", "class", "data", "exception"):
        return
    using = [chapter for chapter in chapters(Path(app.srcdir)) if name in chapter.names]
    using = [chapter for chapter in using if chapter.page in app.env.found_docs]
    if not using:
        return
    for chapter in using:
        app.env.note_dependency(str(Path(app.srcdir, chapter.page).with_suffix(".ipynb")))
    if len(using) <= 2:
        links = [f":doc:`chapter {c.number}, {c.title} </{c.page}>`" for c in using]
        text = " and ".join(links)
    else:
        links = [f":doc:`{c.number} </{c.page}>`" for c in using]
        text = f"chapters {', '.join(links[:-1])} and {links[-1]}"
    lines += ["", ".. container:: in-the-book", "", f"   In the book: {text}.", ""]


def list_names(app: Sphinx, doctree: nodes.document) -> None:
    """Append to a chapter the list of what it takes from ``seglib``, with links to the reference."""
    page = app.env.docname
    chapter = next((c for c in chapters(Path(app.srcdir)) if c.page == page), None)
    section = doctree.next_node(nodes.section)
    if chapter is None or section is None or not chapter.names:
        return
    paragraph = nodes.paragraph("", "", nodes.strong("", "From seglib in this chapter: "), classes=["from-seglib"])
    for place, name in enumerate(sorted(chapter.names, key=lambda full: full.rpartition(".")[2].lower())):
        if place:
            paragraph += nodes.Text(", ")
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refdoc=page, refwarn=True
        )
        link += nodes.literal("", name.rpartition(".")[2])
        paragraph += link
    section += paragraph


def setup(app: Sphinx) -> None:
    """Called by bookfix."""
    app.connect("autodoc-process-docstring", say_where_used, priority=700)  # after napoleon and Prose
    app.connect("doctree-read", list_names)
