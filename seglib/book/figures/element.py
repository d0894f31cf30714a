"""Figures that move without a kernel: a custom element whose JavaScript travels in the cell's HTML output.

The same output works in the static book, from ``file://``, in JupyterLab and in Colab: nothing is loaded, nothing is
shared between cells, and the element's name carries a hash of its source, so two versions can stand on one page.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent

_PAGE = """<{tag} data-params="{params}">{fallback}</{tag}>
<script>(() => {{
if (customElements.get("{tag}")) return;
{source}
customElements.define("{tag}", class extends HTMLElement {{
connectedCallback() {{
if (!this.shadowRoot) render(this.attachShadow({{mode: "open"}}), JSON.parse(this.dataset.params));
}}
}});
}})();</script>"""


def source(*names: str, shared: Sequence[str] = ("common",)) -> str:
    """The script of a figure: shared helpers and its own files, without comment lines, indentation and ``export``."""
    text = "".join((_HERE / f"{name}.js").read_text("utf-8") for name in (*shared, *names))
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("//")]
    return re.sub(r"^export ", "", "\n".join(kept), flags=re.MULTILINE)


class Figure:
    """A moving figure: show it by making it the last line of a cell.

    Args:
        name: the figure's file beside this one, without ``.js``; it defines ``render(root, params)``.
        params: numbers for the script, as plain lists, dicts, strings and numbers.
        fallback: HTML that stands in where no script runs.
        text: one line for places without HTML.
    """

    shared: tuple[str, ...] = ()
    """Files beside this one that come before the figure's own, without ``.js``."""

    def __init__(self, name: str, params: Mapping[str, Any], *, fallback: str, text: str) -> None:
        self.name, self.params, self.fallback, self.text = name, dict(params), fallback, text

    def _repr_html_(self) -> str:
        script = source(*self.shared, self.name)
        digest = hashlib.sha256(script.encode()).hexdigest()[:8]
        params = json.dumps(self.params, separators=(",", ":"), ensure_ascii=False)
        return _PAGE.format(
            tag=f"seg-{self.name.replace('_', '-')}-{digest}",
            params=html.escape(params),
            fallback=self.fallback,
            source=script,
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<moving figure: {self.text}>"
