"""How the panels of a figure stack on a phone, where a row of them would be too small to read.

A figure is cut between its panels, along lines that no panel, title, label or legend crosses, and the pieces are laid
out again in a width that a phone shows at full size. What a panel shares with its neighbours comes along: the tick
labels of an axis that several panels share are repeated, and the titles of columns stay above their columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, IMAGES_WIDTH = 440, 500
"""Pixels that a phone shows in one line at about full size: pieces share a line up to the first width, and up to the
second when they are images without ticks, which may be smaller."""

MARGIN, GAP, PAD = 8, 12, 3  # around the figure, between lines of pieces, around a piece
SEAM = 6  # labels are cut off about so many pixels from the frame: outside the tick marks, inside the labels
WORD_GAP, ENTRY_GAP = 3, 13  # blank columns between two words, and between two entries of a legend

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels from the upper left


@dataclass
class Box:
    """One thing that stands in a figure, with everything that belongs to it.

    Attributes:
        rect: the place that it takes, with labels, title and legend.
        inner: for axes, the frame alone.
        titled: whether the axes have a title.
        left: whether something stands at the left of the frame: labels of ticks, or a name.
        left_ticks: whether there are labels of ticks among it.
        named: whether there is a name among it.
        below: whether labels of ticks or a name stand below the frame.
        shares: numbers of the axes that share the vertical axis, and of those that share the horizontal one.
        number: the number of the axes in the figure.
        parents: for a colour bar, the numbers of the axes that it explains.
        entries: whether it is a legend.
    """

    rect: Rect
    inner: Rect | None = None
    titled: bool = False
    left: bool = False
    left_ticks: bool = False
    named: bool = False
    below: bool = False
    shares: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    number: int = -1
    parents: tuple[int, ...] = ()
    entries: bool = False


@dataclass(frozen=True)
class Narrow:
    """A narrow layout: its size and what goes where.

    Attributes:
        size: width and height.
        copies: for every piece its place in the figure, its size and its place here: x, y, width, height, x, y.
    """

    size: tuple[int, int]
    copies: list[tuple[int, int, int, int, int, int]]

    def as_json(self) -> str:
        """A text for the PNG's chunk."""
        return json.dumps({"size": self.size, "copies": self.copies}, separators=(",", ":"))


def stack(pixels: np.ndarray, narrow: dict[str, Any], paper: int) -> np.ndarray:
    """The narrow figure.

    Args:
        pixels: the figure's colour indices, ``(H, W)``.
        narrow: what `Narrow.as_json` gives, read again.
        paper: the index of the ground.
    """
    width, height = narrow["size"]
    result = np.full((height, width), paper, dtype=pixels.dtype)
    for x, y, w, h, to_x, to_y in narrow["copies"]:
        result[to_y : to_y + h, to_x : to_x + w] = pixels[y : y + h, x : x + w]
    return result


# Measuring a matplotlib figure


def measure(figure: Figure, renderer: Any, height: int) -> list[Box]:
    """The boxes of a figure that has just been drawn; none when it has parts that can't be told apart (subfigures)."""
    if figure.subfigs:
        return []

    def rect(box: Any) -> Rect:
        return (float(box.x0), height - float(box.y1), float(box.x1), height - float(box.y0))

    axes = [ax for ax in figure.axes if ax.get_visible()]
    numbers = {ax: i for i, ax in enumerate(axes)}
    boxes = []
    for ax in axes:
        around = ax.get_tightbbox(renderer)
        if around is None or around.width < 1 or around.height < 1:
            continue
        shares = tuple(
            frozenset(numbers[other] for other in group.get_siblings(ax) if other in numbers)
            for group in (ax.get_shared_y_axes(), ax.get_shared_x_axes())
        )
        on = ax.axison
        boxes.append(
            Box(
                rect(around),
                rect(ax.bbox),
                titled=any(ax.get_title(loc) for loc in ("left", "center", "right")),
                left=on and (_labelled(ax.yaxis) or bool(ax.get_ylabel())),
                left_ticks=on and _labelled(ax.yaxis),
                named=on and bool(ax.get_ylabel()),
                below=on and (_labelled(ax.xaxis) or bool(ax.get_xlabel())),
                shares=shares,  # type: ignore[arg-type]
                number=numbers[ax],
                parents=_explains(ax, numbers),
            )
        )
    for artist in [*figure.legends, *figure.texts, *figure.lines, *figure.patches, *figure.artists, *figure.images]:
        around = artist.get_tightbbox(renderer) if artist.get_visible() else None
        if around is not None and around.width > 0 and around.height > 0:
            boxes.append(Box(rect(around), entries=artist in figure.legends))
    return boxes


def _labelled(axis: Any) -> bool:
    return any(tick.label1.get_visible() and tick.label1.get_text() for tick in axis.get_major_ticks())


def _explains(ax: Axes, numbers: dict[Axes, int]) -> tuple[int, ...]:
    """The axes that a colour bar explains; none for other axes."""
    bar = getattr(ax, "_colorbar", None)
    if bar is None:
        return ()
    parents = getattr(ax, "_colorbar_info", {}).get("parents") or [getattr(bar.mappable, "axes", None)]
    return tuple(numbers[parent] for parent in parents if parent in numbers)


# Cutting


@dataclass
class _Piece:
    boxes: list[Box]
    rect: Rect
    left: Rect | None = None  # the labels to repeat at its left
    over: int = 0  # by how much they lie over the piece, whose own margin is empty there
    below: Rect | None = None  # and below it
    owner: _Piece | None = None  # the piece that has the labels below

    @property
    def axes(self) -> list[Box]:
        return [box for box in self.boxes if box.inner is not None and not box.parents]


@dataclass
class _Section:
    """Pieces that fill lines together, and after which a new line begins."""

    pieces: list[_Piece]
    words: bool = False  # text or a legend, not panels
    space: int = 0  # between two pieces of a line
    lines: list[list[_Piece]] = field(default_factory=list)


def narrow_layout(boxes: Sequence[Box], light: np.ndarray) -> Narrow | None:
    """How to stack a figure's panels in about `WIDTH` pixels.

    Args:
        boxes: what stands where.
        light: the figure, ``(H, W, 3)`` uint8, on paper of one colour.

    Returns:
        The layout, or ``None`` when the figure is narrow, has one panel, or can't be cut cleanly.
    """
    height, width = light.shape[:2]
    if width <= WIDTH * 1.1 or not boxes:
        return None
    blank = (light == light[0, 0]).all(2)  # (H, W)
    sections = list(_sections(_united(boxes)))
    if sum(len(section.pieces) for section in sections) < 2:
        return None
    for section in sections:
        _level(section)
        for piece in section.pieces:
            x0, y0, x1, y1 = piece.rect
            piece.rect = (max(int(x0) - PAD, 0), max(int(y0) - PAD, 0), min(int(x1) + 1 + PAD, width),
                          min(int(y1) + 1 + PAD, height))  # fmt: skip
            if not _clean(blank, piece.rect):
                return None
    for section in sections:
        _repeat_left(section, blank)
    _repeat_below(sections, blank)
    sections = [part for section in sections for part in _words(section, blank)]
    copies, size = _place(sections)
    return Narrow(size, copies) if size[0] <= 0.85 * width else None


def _united(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes that belong or stand together: a colour bar with its one panel, and what overlaps."""
    groups = [[box] for box in boxes]
    for group in list(groups):
        if len(group[0].parents) == 1:
            home = next((g for g in groups if g is not group and any(b.number == group[0].parents[0] for b in g)), None)
            if home is not None:
                home += group
                groups.remove(group)
    changed = True
    while changed:
        changed = False
        for i, one in enumerate(groups):
            for other in groups[i + 1 :]:
                if _overlap(_hull(one), _hull(other)):
                    one += other
                    groups.remove(other)
                    changed = True
                    break
            if changed:
                break
    return groups


def _overlap(a: Rect, b: Rect) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1


def _hull(boxes: Sequence[Box]) -> Rect:
    x0, y0, x1, y1 = zip(*(box.rect for box in boxes), strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _cut(groups: list[list[Box]], axis: int) -> list[list[list[Box]]]:
    """The groups in bands that no group crosses: columns for ``axis`` 0, rows for 1."""
    bands: list[list[list[Box]]] = []
    end = -np.inf
    for group in sorted(groups, key=lambda g: _hull(g)[axis]):
        rect = _hull(group)
        if rect[axis] >= end - 0.5:
            bands.append([])
        bands[-1].append(group)
        end = max(end, rect[axis + 2])
    return bands


def _piece(groups: list[list[Box]]) -> _Piece:
    boxes = [box for group in groups for box in group]
    return _Piece(boxes, _hull(boxes))


def _sections(groups: list[list[Box]]) -> Iterator[_Section]:
    rows = _cut(groups, 1)
    if len(rows) == 1:
        columns = _cut(groups, 0)
        if len(columns) == 1:
            yield _Section([_piece(groups)])
        elif all(len(column) == 1 for column in columns):
            yield _Section([_piece(column) for column in columns])
        else:  # a grid beside something as high as it, such as a colour bar
            for column in columns:
                yield from _sections(column)
        return
    while rows:
        taken, columns = 1, _cut(rows[0], 0)
        while taken < len(rows) and len(columns) > 1:  # rows with the same columns
            more = _cut([group for row in rows[: taken + 1] for group in row], 0)
            if not len(more) == len(columns) == len(_cut(rows[taken], 0)):
                break
            taken, columns = taken + 1, more
        block, rows = rows[:taken], rows[taken:]
        titled = [any(box.titled for group in row for box in group) for row in block]
        if taken > 1 and titled[0] and not any(titled[1:]):  # the titles are those of the columns
            yield _Section([_piece(column) for column in columns])
        else:
            for row in block:
                text = all(box.inner is None for group in row for box in group)
                yield _Section([_piece(column) for column in _cut(row, 0)], words=text)


def _level(section: _Section) -> None:
    """Pieces of one row are equally high, so that their frames stay on one line."""
    y0 = min(piece.rect[1] for piece in section.pieces)
    y1 = max(piece.rect[3] for piece in section.pieces)
    for piece in section.pieces:
        piece.rect = (piece.rect[0], y0, piece.rect[2], y1)


def _clean(blank: np.ndarray, rect: Rect) -> bool:
    """Whether nothing stands on the rectangle's edges."""
    x0, y0, x1, y1 = (int(v) for v in rect)
    sides = (blank[y0:y1, x0], blank[y0:y1, x1 - 1], blank[y0, x0:x1], blank[y1 - 1, x0:x1])
    return all(bool(side.all()) for side in sides)


def _repeat_left(section: _Section, blank: np.ndarray) -> None:
    """Note for each piece but the first which labels of the first one are its own too."""
    first = section.pieces[0]
    for piece in section.pieces[1:]:
        pairs = [(a, b) for a in piece.axes if (b := _beside(a, first.axes, 1)) is not None]
        shared = 0 < len(pairs) == len(piece.axes) and all(
            b.left and not a.left_ticks and not a.named and (not b.left_ticks or a.number in b.shares[0])
            for a, b in pairs
        )
        if shared:
            top, bottom = (f(v for _, b in pairs for v in b.inner[1::2]) for f in (min, max))  # type: ignore[index]
            frame = int(min(b.inner[0] for _, b in pairs if b.inner))
            seam = _seam(blank[int(top) : int(bottom), :], frame, -1)
            own = int(min(a.inner[0] for a, _ in pairs if a.inner))
            if seam > first.rect[0]:
                piece.left = (first.rect[0], piece.rect[1], seam, min(int(bottom) + SEAM, int(piece.rect[3])))
                piece.over = max(own - int(piece.rect[0]) - (frame - seam), 0)


def _seam(blank: np.ndarray, frame: int, step: int) -> int:
    """The column next to ``frame`` in which nothing stands: between a frame or its tick marks and the labels."""
    for column in range(frame + step, frame + step * 2 * SEAM, step):
        if 0 <= column < blank.shape[1] and blank[:, column].all():
            return column
    return frame + step * SEAM


def _beside(a: Box, others: Sequence[Box], axis: int) -> Box | None:
    """The axes among ``others`` that begin and end where ``a`` does, along ``axis``."""
    for b in others:
        if a.inner and b.inner and all(abs(a.inner[axis + i] - b.inner[axis + i]) < 2 for i in (0, 2)):
            return b
    return None


def _repeat_below(sections: Sequence[_Section], blank: np.ndarray) -> None:
    """The same for labels that only the last of several rows has."""
    pieces = [piece for section in sections for piece in section.pieces]
    for piece in pieces:
        if len(piece.axes) != 1 or piece.axes[0].below:
            continue
        (a,) = piece.axes
        for owner in pieces:
            b = _beside(a, owner.axes, 0)
            if b is not None and b.inner and a.inner and b.below and a.number in b.shares[1]:
                columns = slice(int(b.inner[0]), int(b.inner[2]))
                seam = _seam(blank[:, columns].T, int(b.inner[3]), 1)
                piece.below = (piece.rect[0], seam, piece.rect[2], owner.rect[3])
                end = int(a.inner[3]) + seam - int(b.inner[3])
                piece.rect = (*piece.rect[:3], min(end, int(piece.rect[3])))
                piece.owner = owner
                break


def _words(section: _Section, blank: np.ndarray) -> Iterator[_Section]:
    """A line of text or a legend that is too wide, in pieces that may stand in several lines."""
    (piece, *rest) = section.pieces
    x0, y0, x1, y1 = (int(v) for v in piece.rect)
    if not section.words or rest or x1 - x0 <= WIDTH:
        yield section
        return
    least = ENTRY_GAP if any(box.entries for box in piece.boxes) else WORD_GAP
    inked = np.flatnonzero(~blank[y0:y1, x0:x1].all(0)) + x0
    ends = np.flatnonzero(np.diff(inked) > least)
    starts = np.concatenate([inked[:1], inked[ends + 1]])
    stops = np.concatenate([inked[ends], inked[-1:]]) + 1
    parts = [_Piece([], (int(a) - 1, y0, int(b) + 1, y1)) for a, b in zip(starts, stops, strict=True)]
    yield _Section(parts, words=True, space=least + 1)


# Laying out


def _width(piece: _Piece) -> int:
    return int(piece.rect[2] - piece.rect[0])


def _with_left(piece: _Piece) -> int:
    return _width(piece) + (int(piece.left[2] - piece.left[0]) - piece.over if piece.left else 0)


def _break(section: _Section) -> list[list[_Piece]]:
    """The section's pieces in lines of at most `WIDTH` pixels, about equally many in each."""
    axes = [box for piece in section.pieces for box in piece.axes]
    images = axes and all(box.inner is not None and not box.left_ticks and not box.below for box in axes)
    limit = IMAGES_WIDTH if images else WIDTH

    def lines(most: int) -> list[list[_Piece]]:
        result: list[list[_Piece]] = []
        used = 0
        for piece in section.pieces:
            if result and len(result[-1]) < most and used + section.space + _width(piece) <= limit:
                result[-1].append(piece)
                used += section.space + _width(piece)
            else:
                result.append([piece])
                used = _with_left(piece)
        return result

    loose = lines(len(section.pieces))
    if section.words:
        return loose
    return lines(-(-len(section.pieces) // len(loose)))


def _place(sections: Sequence[_Section]) -> tuple[list[tuple[int, int, int, int, int, int]], tuple[int, int]]:
    copies: list[tuple[int, int, int, int, int, int]] = []
    right, y = 0, MARGIN
    for section in sections:
        section.lines = _break(section)
    for section in sections:
        for line in section.lines:
            x, bottom = MARGIN, y
            for place, piece in enumerate(line):
                parts = [piece.rect]
                if piece.left is not None and place == 0:
                    parts.append(piece.left)  # after the piece: it lies over its empty margin
                    x += int(piece.left[2] - piece.left[0]) - piece.over
                for part in parts:
                    x0, y0, x1, y1 = (int(v) for v in part)
                    start = x if part is piece.rect else MARGIN
                    copies.append((x0, y0, x1 - x0, y1 - y0, start, y))
                    low = y + y1 - y0
                    if piece.below is not None and part is piece.rect and not _stands_above(piece, sections):
                        _, y0, _, y1 = (int(v) for v in piece.below)
                        copies.append((x0, y0, x1 - x0, y1 - y0, x, low))
                        low += y1 - y0
                    bottom = max(bottom, low)
                x += _width(piece)
                x += section.space
            right, y = max(right, x), bottom + (2 if section.words else GAP)
        y += GAP if section.words else 0
    return copies, (right + MARGIN, y - GAP + MARGIN)


def _stands_above(piece: _Piece, sections: Sequence[_Section]) -> bool:
    """Whether the piece whose labels it shares still stands below it."""
    lines = [line for section in sections for line in section.lines]
    at = next(i for i, line in enumerate(lines) if piece in line)
    following = lines[at + 1] if at + 1 < len(lines) else []
    place = next(i for i, other in enumerate(lines[at]) if other is piece)
    return len(following) > place and following[place] is piece.owner
