"""``categories.json``: the class table of your own images, and how their files are to be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from seglib.data.voc import voc_color
from seglib.types import VOID, Category, check_categories

Color = tuple[int, int, int]

_EXAMPLE = '["background", "crack"]'
_KEYS = {"categories", "void", "labels", "threshold", "channels"}


class ClassTable(NamedTuple):
    """What ``categories.json`` says.

    Args:
        categories: the class table.
        remap: file id → category id (255 = void), as in :class:`seglib.data.folders.SegmentationFiles`; ``None`` where
            file ids are category ids.
        colors: colour in the label files → category id (255 = void); ``None`` where the files hold ids.
        threshold: grey value from which a pixel of a label file counts as 255, and as 0 below; ``None`` for ids.
        channels: the number of channels of the images.
    """

    categories: tuple[Category, ...]
    remap: dict[int, int] | None = None
    colors: dict[Color, int] | None = None
    threshold: int | None = None
    channels: int = 3


def read_class_table(path: Path) -> ClassTable:
    """The content of ``categories.json``.

    The file is a list in the order of the ids in the label files: the first row is 0, the next 1. A row is a name, or
    an object that may add ``isthing`` (``false`` when not given) and ``color`` (one of Pascal VOC's when not given)::

        ["background", {"name": "cell", "isthing": true, "color": [230, 159, 0]}]

    Where the label files have other ids, every category says which are its own, one or several. Ids that don't count
    are listed as void; 255 is void too unless a category has it::

        {"categories": [{"name": "cell", "ids": [255]}, {"name": "dish", "ids": [0, 3]}], "void": [7]}

    Further keys beside ``categories``:

    - ``"labels": "color"``: label files hold the ``color`` of each class instead of ids, and ``void`` lists colours.
    - ``"threshold": 128``: grey values from 128 on are read as 255, lower ones as 0: antialiased masks.
    - ``"channels": 4``: images have so many channels instead of RGB's three.

    Raises:
        ValueError: when the file is missing or isn't such a table, or when an id or a colour stands in two places.
    """
    if not path.exists():
        masks = '[{"name": "background", "ids": [0]}, {"name": "crack", "ids": [255]}]'
        raise ValueError(
            f"{path} is missing; write the classes in the order of their ids, like {_EXAMPLE}, or for masks of 0 and"
            f" 255 {masks}"
        )
    try:
        content = json.loads(path.read_bytes())  # of bytes json finds the encoding, and skips a byte order mark
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is no JSON file ({error}); write a list of categories") from error
    settings: dict[str, Any] = {"categories": content}
    if isinstance(content, dict) and "categories" in content and content.keys() <= _KEYS:
        settings = content
    rows = settings["categories"]
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f'{path} must be a list of categories like {_EXAMPLE}, or {{"categories": [...]}} with some of '
            f"{', '.join(sorted(_KEYS - {'categories'}))}, got {content!r:.60}"
        )
    try:
        return _table([{"name": row} if isinstance(row, str) else row for row in rows], settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _table(rows: list[Any], settings: dict[str, Any]) -> ClassTable:
    table = check_categories([_category(i, row) for i, row in enumerate(rows)])
    void, threshold, channels = settings.get("void"), settings.get("threshold"), settings.get("channels", 3)
    if (labels := settings.get("labels", "ids")) not in ("ids", "color"):
        raise ValueError(f'"labels" is {labels!r:.60}; it is "color" where the label files hold colours, else "ids"')
    if threshold is not None and not (type(threshold) is int and 1 <= threshold <= 255):
        raise ValueError(f'"threshold" is {threshold!r:.60}; it is a grey value in 1..255, e.g. 128')
    if not (type(channels) is int and channels >= 1):
        raise ValueError(f'"channels" is {channels!r:.60}; it is the number of channels of an image, e.g. 4')
    if labels == "color":
        if threshold is not None or any("ids" in row for row in rows):
            raise ValueError('"labels": "color" takes no "ids" and no "threshold"; the colours say the class')
        return ClassTable(table, colors=_colors(table, rows, void), channels=channels)
    remap = _remap(table, rows, void)
    if threshold is not None and (remap is None or not remap.keys() <= {0, 255}):
        raise ValueError('"threshold" makes masks of 0 and 255; give one category "ids": [255] and the other [0]')
    return ClassTable(table, remap, threshold=threshold, channels=channels)


def _category(index: int, row: Any) -> Category:
    if isinstance(row, dict) and isinstance(name := row.get("name"), str):
        isthing, color = row.get("isthing", False), row.get("color", list(voc_color(index + 1)))
        if isinstance(isthing, bool) and _is_color(color):
            return Category(index, name, isthing, tuple(color))
    raise ValueError(
        f"category {index} is {row!r:.120}; expected a name, and if you like isthing as true or false and a color of"
        " three numbers in 0..255"
    )


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _colors(table: tuple[Category, ...], rows: list[dict[str, Any]], void: Any) -> dict[Color, int]:
    """Each colour of the label files → category id, or 255 for void."""
    if without := [c.name for c, row in zip(table, rows, strict=True) if "color" not in row]:
        raise ValueError(f'category {without[0]!r} has no color; "labels": "color" needs that of every category')
    listed = [] if void is None else [void] if _is_color(void) else void
    if not (isinstance(listed, list) and all(map(_is_color, listed))):
        raise ValueError(f'"void" is {void!r:.60}; with "labels": "color" it is a list of colours, e.g. [[0, 0, 0]]')
    colors: dict[Color, int] = {}
    owners = [(c.name, c.color, c.id) for c in table] + [("void", tuple(color), VOID) for color in listed]
    for name, color, target in owners:
        if color in colors:
            raise ValueError(f"the color {[*color]} of {name!r} stands twice; every class and void has its own")
        colors[color] = target
    return colors


def _remap(table: tuple[Category, ...], rows: list[dict[str, Any]], void: Any) -> dict[int, int] | None:
    with_ids = [c.name for c, row in zip(table, rows, strict=True) if "ids" in row]
    if not with_ids and void is None:
        return None
    if with_ids and len(with_ids) < len(table):
        without = next(c.name for c in table if c.name not in with_ids)
        raise ValueError(f"category {with_ids[0]!r} has ids and {without!r} has none; give ids to all or to none")
    owners = [(c.name, c.id, _ids(c.name, row.get("ids", c.id))) for c, row in zip(table, rows, strict=True)]
    if void is not None:
        owners.append(("void", VOID, _ids("void", void)))
    remap: dict[int, int] = {}
    for name, target, ids in owners:
        for stored in ids:
            if stored in remap:
                raise ValueError(f"file id {stored} of {name!r} stands twice; every id belongs to one category or void")
            remap[stored] = target
    return remap


def _ids(name: str, value: Any) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(i) is int and 0 <= i < 2**16 for i in ids) or (not ids and name != "void"):
        raise ValueError(
            f"the ids of {name!r} are {value!r:.60}; expected a whole number in 0..65535, or a list of them"
        )
    return ids
