"""The glossary's terms: a chapter links the first use of each, and the glossary says which chapters use it.

Nothing is marked by hand in a chapter: the terms are read from the glossary's page and looked for in the paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PAGE = "chapters/glossary"
CHAPTER = re.compile(r"chapters/(\d\d)_")
LINKED = re.compile(r"chapters/(\d\d_|(calibration|explorer|scoreboard)$)")  # the index names those with a number
EVERYDAY = re.compile(
    r"(half|mixed|double) precision|(over the|in a) crowd\b", re.IGNORECASE
)  # not the field's meaning
_ENTRIES = re.compile(r"```\{glossary\}\n(.*?)```", re.DOTALL)
_LEFT_ALONE = (nodes.literal, nodes.reference, nodes.math, nodes.raw, nodes.entry, nodes.caption, addnodes.pending_xref)


def entries(text: str) -> list[list[str]]:
    """The names of each entry of a glossary's page: its lines that are not indented."""
    found = _ENTRIES.search(text)
    parts = found[1].split("\n\n") if found else []
    return [names for part in parts if (names := [line for line in part.splitlines() if line[:1].strip()])]


def pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Finds the names as whole words, in the singular and the plural; abbreviations in their own case only."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(_form, longest_first))})(?![\w-]|\.\w)")


def _form(name: str) -> str:
    words = re.escape(name).replace(r"\ ", r"\s+")  # a line may end between them
    plural = f"{words[:-1]}(?:y|ies)" if name.endswith("y") else f"{words}(?:s|es)?"
    return plural if re.search("[A-Z]{2}|[a-z][A-Z]", name) else f"(?i:{plural})"


def first_uses(document: nodes.document, names: list[list[str]]) -> Iterator[tuple[nodes.Text, re.Match[str], str]]:
    """The first use of each entry in the paragraphs of a page, in reading order: text, place in it, name."""
    every = pattern(name for group in names for name in group)
    waiting = {name: tuple(group) for group in names for name in group}
    by_form = {name: re.compile(_form(name)) for name in waiting}
    used: set[tuple[str, ...]] = set()
    for text in list(document.findall(nodes.Text)):
        above = _ancestors(text)
        if isinstance(text.parent, nodes.paragraph | nodes.emphasis | nodes.strong) and not any(
            isinstance(node, _LEFT_ALONE) for node in above
        ):
            everyday = [place.span() for place in EVERYDAY.finditer(text.astext())]
            for match in every.finditer(text.astext()):
                if any(begin <= match.start() < end for begin, end in everyday):
                    continue
                name = next(n for n in sorted(waiting, key=len, reverse=True) if by_form[n].fullmatch(match[0]))
                if waiting[name] not in used:
                    used.add(waiting[name])
                    yield text, match, name


def _ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node := node.parent:
        yield node


def link_terms(app: Sphinx, document: nodes.document) -> None:
    """Link the terms of a chapter that was just read."""
    docname = app.env.docname
    if not LINKED.match(docname):
        return
    page = Path(app.srcdir) / f"{PAGE}.md"
    if not page.exists():
        return
    app.env.note_dependency(str(page))
    by_text: dict[nodes.Text, list[tuple[re.Match[str], str]]] = {}
    for text, match, name in first_uses(document, entries(page.read_text(encoding="utf-8"))):
        by_text.setdefault(text, []).append((match, name))
    uses = _uses(app.env)[docname] = {}
    for text, found in by_text.items():
        whole, parts, at = text.astext(), [], 0
        for match, name in found:
            uses[name] = f"term-{nodes.make_id(name)}"
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="term", reftarget=name, refexplicit=True, refwarn=True, refdoc=docname
            )
            link += nodes.inline("", match[0], classes=["xref", "std", "std-term"], ids=[uses[name]])
            parts += [nodes.Text(whole[at : match.start()]), link]
            at = match.end()
        text.parent.replace(text, [*parts, nodes.Text(whole[at:])])


def show_chapters(app: Sphinx, document: nodes.document, docname: str) -> None:
    """On the glossary's page, say behind each definition in which chapters the term is used."""
    if docname != PAGE:
        return
    for item in document.findall(nodes.definition_list_item):
        names = {term.astext() for term in item.findall(nodes.term)}
        places = [
            (int(chapter[1]), page, anchor)
            for page, uses in sorted(_uses(app.env).items())
            if (chapter := CHAPTER.match(page))
            for name, anchor in uses.items()
            if name in names
        ]
        if places:
            line = nodes.inline("", f" Chapter{'s' * (len(places) > 1)} ", classes=["term-chapters"])
            for i, (number, page, anchor) in enumerate(places):
                line += nodes.Text(", " if i else "")
                uri = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
                line += nodes.reference("", str(number), refuri=uri, internal=True)
            next(item.findall(nodes.definition)).children[-1].append(line)


def _uses(env: BuildEnvironment) -> dict[str, dict[str, str]]:
    """For each chapter: name of a term → the anchor of its first use."""
    if not hasattr(env, "book_terms"):
        env.book_terms = {}  # type: ignore[attr-defined]  # kept between builds, as the environment is
    return env.book_terms  # type: ignore[attr-defined,no-any-return]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page that is read again starts anew."""
    _uses(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    """Take over what another process has read."""
    _uses(env).update({name: uses for name, uses in _uses(other).items() if name in docnames})


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", link_terms)
    app.connect("doctree-resolved", show_chapters)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
