"""Results as a table: HTML on the page, aligned text where there is none (and for nbval)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = "border-collapse:collapse;margin:0.6em 0;font-variant-numeric:tabular-nums"
_CELL = "padding:0.25em 0.8em;border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)"
_KEY = "font-weight:650;background:color-mix(in srgb,#d97706 16%,transparent)"
_ONE = r"[-+−±]?\d[\d.,]*"
_NUMBER = re.compile(rf"{_ONE}( ?(±|to|–) ?{_ONE})?( \({_ONE} to {_ONE}\))?( ?(%|ms|s|px|MB|points?|×))?")


def _minus(text: str) -> str:
    """A number with minus signs in place of hyphens."""
    return text.replace("-", "−") if _NUMBER.fullmatch(text) else text


class Table:
    """A table of strings; made by `table`.

    Args:
        columns: names of the columns.
        rows: rows of texts, each as long as ``columns``.
        key: indices of the rows that the text speaks of.
        caption: a sentence above the table, or ``None``.
        note: a sentence below the table, or ``None``.
    """

    def __init__(
        self, columns: list[str], rows: list[list[str]], key: frozenset[int], caption: str | None, note: str | None
    ) -> None:
        self.columns, self.rows, self.key, self.caption, self.note = columns, rows, key, caption, note
        filled = [[row[c] for row in rows if row[c]] for c in range(len(columns))]
        self.numeric = [bool(texts) and all(map(_NUMBER.fullmatch, texts)) for texts in filled]

    def _repr_html_(self) -> str:
        def cell(tag: str, text: str, column: int, style: str = "") -> str:
            align = "right" if self.numeric[column] else "left"
            scope = ' scope="col"' if tag == "th" else ""
            return f'<{tag}{scope} style="{_CELL};text-align:{align}{style}">{html.escape(text)}</{tag}>'

        head = "".join(cell("th", name, c) for c, name in enumerate(self.columns))
        body = "".join(
            "<tr{}>{}</tr>".format(
                f' style="{_KEY}"' if r in self.key else "", "".join(cell("td", t, c) for c, t in enumerate(row))
            )
            for r, row in enumerate(self.rows)
        )
        said = f'<caption style="caption-side:top;text-align:left">{html.escape(self.caption or "")}</caption>'
        return (
            f'<table class="book-table" style="{_STYLE}">{said if self.caption else ""}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + (f"<p>{html.escape(self.note)}</p>" if self.note else "")
        )

    def __repr__(self) -> str:
        everything = [self.columns, *self.rows]
        widths = [max(len(row[c]) for row in everything) for c in range(len(self.columns))]

        def line(row: Sequence[str], mark: str) -> str:
            texts = [t.rjust(w) if n else t.ljust(w) for t, w, n in zip(row, widths, self.numeric, strict=True)]
            return f"{mark} {'  '.join(texts)}".rstrip()

        lines = [
            line(self.columns, " "),
            *(line(row, "→" if r in self.key else " ") for r, row in enumerate(self.rows)),
        ]
        return "\n".join([*([self.caption] if self.caption else []), *lines, *([self.note] if self.note else [])])


def table(
    rows: Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]],
    columns: Sequence[str] | None = None,
    *,
    key: int | Sequence[int] | None = None,
    caption: str | None = None,
    note: str | None = None,
) -> Table:
    """A table to make the last line of a cell; numbers stand right-aligned, the key row is marked.

    Args:
        rows: one mapping a row, with the columns' names as keys (a missing one leaves its cell empty), or one sequence
            a row. Values are shown as ``str`` gives them, with a minus sign for the hyphen of a number: format numbers
            with f-strings.
        columns: names of the columns; needed for rows that are sequences, otherwise the order of the keys.
        key: index, or indices, of the rows that the text speaks of; negative ones count from the end.
        caption: one sentence above the table.
        note: one sentence below the table.

    Raises:
        ValueError: when there are no rows, a row has another length or an unknown column, columns are missing, or
            ``key`` is no row.
    """
    if not len(rows):
        raise ValueError("a table needs at least one row, got none")
    if columns is None:
        if not all(isinstance(row, Mapping) for row in rows):
            raise ValueError("rows that are sequences have no names; pass columns=[…]")
        columns = list(dict.fromkeys(name for row in rows for name in row))
    names, texts = list(map(str, columns)), []
    for r, row in enumerate(rows):
        if isinstance(row, Mapping):
            if unknown := set(map(str, row)) - set(names):
                raise ValueError(f"row {r} has the columns {sorted(unknown)}, which are not among {names}")
            texts.append([str(row.get(name, "")) for name in columns])
        else:
            if len(row) != len(names):
                raise ValueError(f"row {r} has {len(row)} values for {len(names)} columns: {list(row)!r}")
            texts.append(list(map(str, row)))
    marked = [] if key is None else [key] if isinstance(key, int) else list(key)
    if wrong := [k for k in marked if not -len(texts) <= k < len(texts)]:
        raise ValueError(f"key {wrong[0]} is no row of {len(texts)}")
    texts = [[_minus(text) for text in row] for row in texts]
    return Table(names, texts, frozenset(k % len(texts) for k in marked), caption, note)
