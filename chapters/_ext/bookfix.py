"""What the pages need beyond Jupyter Book 1's settings: buttons from one URL, fewer scripts, accessible markup."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that autodoc documents this copy of seglib

import booklinks  # noqa: E402
import bookterms  # noqa: E402
from bookfigures import show_both_modes  # noqa: E402

from seglib.book.networks import add_networks  # noqa: E402

COLAB = "https://colab.research.google.com"


def set_buttons(app: Sphinx, config: Config) -> None:
    """Colab, repository, issue and edit buttons exactly when the book has a public home."""
    options = config.html_theme_options
    public = bool(options.get("repository_url"))
    if not public:
        options.pop("repository_url", None)
    options["launch_buttons"] = {"colab_url": COLAB, "notebook_interface": "jupyterlab"} if public else {}
    for button in ("repository", "issues", "edit_page"):
        options[f"use_{button}_button"] = public


def drop_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Leave out Thebe (live kernels from a public server, which the book does not use) and scripts given twice."""
    seen: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        attributes = getattr(script, "attributes", {})
        text = f"{getattr(script, 'filename', script)} {attributes.get('body') or ''}"
        if "thebe" not in text.lower() and text not in seen:
            seen.add(text)
            kept.append(script)
    context["script_files"] = kept


# (markup that axe-core rejects, what stands there instead)
REPAIRS = (
    # The button that opens a chapter's pages in the sidebar has an icon and no name.
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Show or hide the pages below"><span class="toctree-toggle"',
    ),
    # A list must hold list items, and the entries of a bibliography are divs.
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
    # The list of a package's modules belongs into the package's item, not behind it.
    ("</li>\n<ul>", "\n<ul>"),
)


# 1.4 MB for icons that the theme's style sheet draws from its font anyway.
ICON_SCRIPT = re.compile(r'<script defer src="[^"]*/fontawesome\.js[^"]*"></script>\n?')


def repair_pages(app: Sphinx, exception: Exception | None) -> None:
    """Correct accessibility mistakes in the markup of the theme and of Sphinx."""
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = fixed = path.read_text(encoding="utf-8")
        for wrong, right in REPAIRS:
            fixed = fixed.replace(wrong, right)
        fixed = ICON_SCRIPT.sub("", fixed)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")
    show_both_modes(Path(app.outdir))
    add_networks(Path(app.outdir))


class Prose:
    """Keeps napoleon from the text under a constant: it would take "Pixels: 3 to 5" for a type and its meaning."""

    def __init__(self) -> None:
        self.hidden: dict[str, list[str]] = {}

    def hide(self, app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        """Take the text away before napoleon comes."""
        if what in ("data", "attribute"):
            self.hidden[name] = list(lines)
            lines.clear()

    def show(self, app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        """Put it back afterwards."""
        if what in ("data", "attribute"):
            lines[:] = self.hidden.pop(name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", set_buttons, priority=900)
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("build-finished", repair_pages)
    prose = Prose()
    app.connect("autodoc-process-docstring", prose.hide, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", prose.show, priority=600)
    booklinks.setup(app)
    bookterms.setup(app)
    if app.config.html_baseurl:  # preview cards need absolute addresses
        app.setup_extension("sphinxext.opengraph")
        app.config.ogp_site_url = app.config.html_baseurl
        app.config.ogp_social_cards = {"enable": False}
        app.config.ogp_image = "_static/one_scene.png"
        app.config.ogp_image_alt = "One drawn scene as an image and as semantic, instance, panoptic and prompt masks."
    return {"parallel_read_safe": True, "parallel_write_safe": True}
