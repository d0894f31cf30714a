"""Figures on the pages: each in a light and a dark copy, and narrow ones whose panels are stacked, for phones.

A figure of a chapter is one PNG that holds both palettes and the narrow layout (`seglib.book.page_figures`). Here it
becomes up to four files, and its ``<img>`` two ``<picture>`` elements, of which a browser shows and loads one.
"""

from __future__ import annotations

import re
from pathlib import Path

from seglib.book.palettes import PageFigure, read_png, write_png
from seglib.book.panels import stack

WHOLE = 600  # a figure of one panel that is wider scrolls on a phone instead of becoming unreadable
PHONE = "(max-width: 576px)"  # as in book.css

_IMG = re.compile(
    r'<img(?P<before>[^>]*?) src="(?P<folder>(?:\.\./)*_images/)(?P<name>[0-9a-f]+\.png)"(?P<after>[^>]*?)/?>'
)
_DONE = '<span class="two-modes">'


def show_both_modes(folder: Path) -> int:
    """Rewrite the built pages in ``folder``. A page that is as it should be stays untouched.

    Returns:
        How many figures were found.
    """
    found: dict[str, str | None] = {}

    def markup(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in found:
            figure = read_png((folder / "_images" / name).read_bytes())
            found[name] = None if figure is None else _write(figure, folder / "_images", name.removesuffix(".png"))
        pattern = found[name]
        if pattern is None:
            return match[0]
        rest = f"{match['before']}{match['after']}".rstrip()
        return pattern.replace("FOLDER", match["folder"]).replace("<img", f"<img{rest}")

    for path in sorted(folder.glob("**/*.html")):
        text = path.read_text(encoding="utf-8")
        if "_images/" not in text or _DONE in text:
            continue
        changed = _IMG.sub(markup, text)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    return sum(pattern is not None for pattern in found.values())


def _write(figure: PageFigure, folder: Path, stem: str) -> str:
    """Write a figure's copies beside it; the markup, with FOLDER for the way to them."""
    narrow = None if figure.narrow is None else stack(figure.indices, figure.narrow, int(figure.indices[0, 0]))
    modes = []
    for mode, palette in (("light", figure.light), ("dark", figure.dark)):
        ending = "" if mode == "light" else "-dark"
        if mode == "dark":
            (folder / f"{stem}-dark.png").write_bytes(write_png(figure.indices, palette))
        source = ""
        if narrow is not None:
            (folder / f"{stem}-narrow{ending}.png").write_bytes(write_png(narrow, palette))
            size = f'width="{narrow.shape[1]}" height="{narrow.shape[0]}"'
            source = f'<source media="{PHONE}" srcset="FOLDER{stem}-narrow{ending}.png" {size}>'
        size = f'width="{figure.indices.shape[1]}" height="{figure.indices.shape[0]}"'
        large = narrow is None and figure.indices.shape[1] > WHOLE
        whole = f' class="whole" style="--width: {figure.indices.shape[1]}px"' if large else ""
        img = f'<img src="FOLDER{stem}{ending}.png" {size}{whole} loading="lazy">'
        modes.append(f'<picture class="only-{mode}">{source}{img}</picture>')
    return f"{_DONE}{''.join(modes)}</span>"
